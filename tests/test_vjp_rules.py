"""Every backward rule against central differences, on random shapes and attributes."""

from collections.abc import Callable
from functools import partial

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, version_converter
from parts.cuda_kernels import left

from onnx_evidence.errors import GradientError
from onnx_evidence.evidence.odds import log_probabilities
from onnx_evidence.vjp import GRADIENT, RELEVANCE, build_vjp, missing_rules
from onnx_evidence.vjp.elementwise import Rule
from onnx_evidence.vjp.step import Step
from onnx_evidence.vjp.table import RULES
from onnx_evidence.vjp.tape import Value
from tests.vjp_oracles import Draw, Problem, check, form_slopes, graph, linear, node, reference, runtime, single

Case = Callable[[Draw], list[Problem]]


def indices(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def both(make: Callable[[type], onnx.ModelProto], x: np.ndarray) -> list[Problem]:
    """A linear model by both executors."""
    return [Problem(make(np.float64), x), *linear(make, x)]


# Convolutions. ONNX Runtime has no float64 kernels of these, and the reference evaluator is slow or wrong on some
# attributes (auto_pad with strides, dilated ConvTranspose), so they run in float32, where linear maps stay exact.


def conv(d: Draw, depthwise: bool = False) -> list[Problem]:
    rank = d.pick(1, 2, 2, 3) if not depthwise else d.pick(1, 2)
    group, inner = (d.int(2, 4), 1) if depthwise else (d.pick(1, 1, 2, 3), d.int(1, 2))
    outer = group * (d.pick(1, 1, 2) if depthwise else d.int(1, 3))
    kernel, strides, dilations = d.ints(rank, 1, 3), d.ints(rank, 1, 3), d.ints(rank, 1, 2)
    given = {"strides": strides, "dilations": dilations, "group": group}
    automatic = d.pick("NOTSET", "NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID")
    if automatic == "NOTSET":
        given["pads"] = d.ints(2 * rank, 0, 4)  # also more than the kernel
    else:
        # ONNX Runtime refuses dilations with automatic pads, and so do its shapes.
        given.update(auto_pad=automatic, dilations=[1] * rank)
    reach = [(k - 1) * a + 1 for k, a in zip(kernel, given["dilations"], strict=True)]
    sides = [each + d.int(0, 3) for each in reach]
    w, b = d.normal(outer, inner, *kernel), d.normal(outer)

    def make(dtype: type) -> onnx.ModelProto:
        return single("Conv", (group * inner, *sides), "x", w, b, kernel_shape=kernel, dtype=dtype, **given)

    return linear(make, d.normal(2, group * inner, *sides))


def conv_float64(d: Draw) -> list[Problem]:
    k, s, p = d.int(1, 3), d.int(1, 2), d.int(0, 1)
    group = d.pick(1, 2)
    model = single("Conv", (4, 5, 6), "x", d.normal(4, 4 // group, k, k), strides=[s, s], pads=[p] * 4, group=group)
    return [Problem(model, d.normal(2, 4, 5, 6))]


def conv_transpose(form: str, d: Draw) -> list[Problem]:
    rank = d.pick(1, 2)
    group, inner, outer = d.pick(1, 2), d.int(1, 2), d.int(1, 2)
    kernel, strides, dilations = d.ints(rank, 1, 4), d.ints(rank, 1, 3), d.ints(rank, 1, 2)
    sides = d.ints(rank, 2, 4)
    given = {"strides": strides, "dilations": dilations, "group": group}
    full = [
        s * (n - 1) + (k - 1) * a + 1 for s, n, k, a in zip(strides, sides, kernel, dilations, strict=True)
    ]  # fmt: skip
    adjust = [d.int(0, max(s, a) - 1) for s, a in zip(strides, dilations, strict=True)]
    if form == "pads":
        given["pads"] = [d.int(0, max(0, min(2, (each - 1) // 2))) for each in full * 2]
        given["output_padding"] = adjust
    elif form == "shape":
        given["output_shape"] = [max(side, each - d.int(0, 2)) for side, each in zip(sides, full, strict=True)]
        given["auto_pad"] = d.pick(None, "SAME_UPPER", "SAME_LOWER")
        given["output_padding"] = [each % stride for each, stride in zip(adjust, strides, strict=True)]
    else:
        given["auto_pad"] = form
    w, b = d.normal(group * inner, outer, *kernel), d.normal(group * outer)

    def make(dtype: type) -> onnx.ModelProto:
        return single("ConvTranspose", (group * inner, *sides), "x", w, b, kernel_shape=kernel, dtype=dtype, **given)

    x = d.normal(2, group * inner, *sides)
    # ONNX Runtime takes less output_padding than the operator allows.
    taken = form != "pads" or all(each < stride for each, stride in zip(adjust, strides, strict=True))
    exact = [Problem(make(np.float64), x)] if form == "pads" else []
    return [*exact, *(linear(make, x) if taken else [])]


# Matrix products.


def gemm_a(d: Draw) -> list[Problem]:
    trans_b, bias = d.int(0, 1), d.pick(None, (3,), (1, 3), (1,), ())
    b = d.normal(3, 4) if trans_b else d.normal(4, 3)
    c = None if bias is None else d.normal(*bias) if bias else np.array(0.5)
    given = {"alpha": d.pick(1.0, 0.5), "beta": d.pick(1.0, 2.0), "transB": trans_b}
    return [Problem(single("Gemm", (4,), "x", b, c, **given), d.normal(3, 4))]


def gemm_turned(d: Draw) -> list[Problem]:
    """The data transposed first, as A and as B."""
    turn = [node("Transpose", ["x"], ["t"], perm=[1, 0])]
    back = [node("Transpose", ["z"], ["y"], perm=[1, 0])]
    other, trans = d.normal(3, 4), d.int(0, 1)
    given = {"alpha": 1.5, "beta": 0.5}
    b = other if trans else other.T.copy()
    as_a = single("Gemm", (4,), "t", b, before=turn, transA=1, transB=trans, **given)
    a = other.T.copy() if trans else other
    as_b = single("Gemm", (4,), a, "x", after=back, transA=trans, transB=1, **given)
    plain_b = single("Gemm", (4,), a, "t", before=turn, after=back, transA=trans, **given)
    return [Problem(model, d.normal(2, 4)) for model in (as_a, as_b, plain_b)]


def gemm_both(d: Draw) -> list[Problem]:
    """The data as A, as B and as C at once: rows are not independent."""
    square = single("Gemm", (3,), "x", "x", "x", transA=d.int(0, 1), transB=d.int(0, 1), beta=0.5, batch=3)
    wide = single("Gemm", (4,), "x", "x", transB=1, batch=3)
    return [
        Problem(square, d.normal(3, 3), independent=False),
        Problem(wide, d.normal(3, 4), independent=False),
    ]


def matmul(d: Draw) -> list[Problem]:
    turn = [node("Transpose", ["x"], ["t"], perm=[0, 1, 3, 2])]
    shape = (2, 3, 4)
    w = d.normal(*d.pick((4, 2), (2, 4, 2), (1, 4, 2), (1, 2, 4, 2)))
    left = d.normal(*d.pick((5, 3), (2, 5, 3), (1, 1, 5, 3)))
    spread = single("MatMul", (1, 3, 4), d.normal(*d.pick((2, 5, 3), (1, 4, 5, 3))), "x")
    return [
        Problem(single("MatMul", shape, "x", w), d.normal(2, *shape)),
        Problem(single("MatMul", shape, left, "x"), d.normal(2, *shape)),
        Problem(single("MatMul", shape, "x", "t", before=turn), d.normal(2, *shape)),
        Problem(single("MatMul", shape, "t", "x", before=turn), d.normal(2, *shape)),
        Problem(spread, d.normal(2, 1, 3, 4)),
    ]


def matmul_stacks(d: Draw) -> list[Problem]:
    """Both operands depend on the data, and one of them is broadcast."""
    mean = [node("ReduceMean", ["x", "axes"], ["m"], keepdims=1), node("Transpose", ["m"], ["t"], perm=[0, 1, 3, 2])]
    nodes = [*mean, node("MatMul", ["x", "t"], ["p"]), node("MatMul", ["p", "m"], ["y"])]
    return [Problem(graph(nodes, {"axes": indices(1)}, (2, 3, 4)), d.normal(2, 2, 3, 4))]


def einsum(d: Draw) -> list[Problem]:
    equation, inputs = d.pick(
        ("nhqd,nhkd->nhqk", ("x", "x")),
        ("nhqk,hkd->nhqd", ("x", d.normal(2, 4, 3))),
        ("nhqk,kd->nqhd", ("x", d.normal(4, 3))),
        ("de,nhqe->nhqd", (d.normal(5, 4), "x")),
        ("nhqd->nqhd", ("x",)),
        ("nhqd->nh", ("x",)),
        ("nhqd,d->nd", ("x", d.normal(4))),
        ("nhqd,nhqd,d->nhq", ("x", "x", d.normal(4))),
        ("n h q d, n h k d -> n q k", ("x", "x")),
    )
    return [Problem(single("Einsum", (2, 3, 4), *inputs, equation=equation), d.normal(2, 2, 3, 4))]


# Pools.


def window(d: Draw, rank: int) -> tuple[list[int], dict[str, object]]:
    kernel, strides = d.ints(rank, 1, 4), d.ints(rank, 1, 3)
    dilations = d.ints(rank, 1, 2) if d.pick(True, False) else [1] * rank
    given: dict[str, object] = {"kernel_shape": kernel, "strides": strides}
    automatic = d.pick("NOTSET", "NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID")
    if automatic == "NOTSET":
        given["pads"] = [d.int(0, each - 1) for each in kernel * 2]
        given["ceil_mode"] = d.int(0, 1)
    else:
        # Kernels of less than the stride would be padded by negative numbers, which ONNX Runtime refuses.
        given.update(auto_pad=automatic, strides=[min(s, k) for s, k in zip(strides, kernel, strict=True)])
        dilations = [1] * rank
    if max(dilations) > 1:
        given["dilations"] = dilations
    sides = [(k - 1) * a + 1 + d.int(0, 4) for k, a in zip(kernel, dilations, strict=True)]
    if given.get("ceil_mode"):
        front, behind = np.reshape(given["pads"], (2, rank))
        reach = (np.array(kernel) - 1) * dilations + 1
        last = -(-(np.array(sides) + front + behind - reach) // strides) * strides
        given["ceil_mode"] = int((last < sides + front).all())  # others are refused
    return sides, given


def average_pool(d: Draw) -> list[Problem]:
    sides, given = window(d, d.pick(1, 2, 2, 3))
    given["count_include_pad"] = d.int(0, 1)

    def make(dtype: type) -> onnx.ModelProto:
        return single("AveragePool", (2, *sides), dtype=dtype, opset=19 if "dilations" in given else 18, **given)

    # The reference evaluator differs on ceil_mode and automatic pads.
    return linear(make, d.normal(2, 2, *sides))


def average_pool_dilated(d: Draw) -> list[Problem]:
    """Padded so much that a pool goes back."""
    k = d.int(2, 3)
    given = {"kernel_shape": [k, k], "dilations": [2, 2], "pads": [k - 1] * 4, "count_include_pad": d.int(0, 1)}
    given["strides"] = d.ints(2, 1, 2)

    def make(dtype: type) -> onnx.ModelProto:
        return single("AveragePool", (2, 5, 6), dtype=dtype, opset=19, **given)

    return linear(make, d.normal(2, 2, 5, 6))


def max_pool(d: Draw) -> list[Problem]:
    sides, given = window(d, d.pick(1, 2, 2, 3))
    # The reference evaluator has no indices of padded pools; ONNX Runtime has float64 kernels.
    return [Problem(single("MaxPool", (2, *sides), **given), d.distinct(2, 2, *sides), runtime=True, step=0.25)]


def global_pool(op_type: str, d: Draw) -> list[Problem]:
    sides = d.ints(d.pick(1, 2, 3), 1, 3)
    return [Problem(single(op_type, (3, *sides)), d.distinct(2, 3, *sides), step=0.25)]


def lp_pool(d: Draw) -> list[Problem]:
    sides, given = window(d, d.pick(1, 2))
    given["p"] = d.pick(1, 2, 3, None)
    model = single("LpPool", (2, *sides), dtype=np.float32, **given)
    x = (d.distinct(2, 2, *sides) / 4 + 1 / 8).astype(np.float32)
    return [Problem(model, x, runtime=True, step=2**-6, tolerance=3e-3)]


def global_lp_pool(d: Draw) -> list[Problem]:
    model = single("GlobalLpPool", (2, 3, 4), p=d.pick(1, 2, 3, None), dtype=np.float32)
    x = (d.distinct(2, 2, 3, 4) / 4 + 1 / 8).astype(np.float32)
    return [Problem(model, x, runtime=True, step=2**-6, tolerance=3e-3)]


# Value by value.


def unary(op_type: str, d: Draw, *, positive: bool = False, **choices: tuple[object, ...]) -> list[Problem]:
    given = {name: d.pick(*options) for name, options in choices.items()}
    opset = given.pop("opset", 18)
    x = d.positive(2, 3, 4) if positive else d.normal(2, 3, 4) * d.pick(1, 3)
    return [Problem(single(op_type, (3, 4), opset=opset, **given), x)]


def celu(d: Draw) -> list[Problem]:
    """Standardised in float32 alone."""
    model = single("Celu", (3, 4), alpha=d.pick(None, 0.5), dtype=np.float32)
    return [Problem(model, d.normal(2, 3, 4).astype(np.float32), step=1e-2, tolerance=5e-3)]


def prelu(d: Draw) -> list[Problem]:
    slope = d.normal(*d.pick((1,), (3, 1, 1), (1, 4), (3, 2, 4)))
    return [Problem(single("PRelu", (3, 2, 4), "x", slope), d.normal(2, 3, 2, 4))]


def clip(d: Draw) -> list[Problem]:
    low, high = (np.array(each) for each in d.pick((-0.5, 0.7), (0.0, 6.0), (-1e10, 0.3), (0.1, 1e12), (1.0, 0.5)))
    x = d.normal(2, 4, 5) * 3
    problems = []
    for as_nodes in (False, True):
        for bounds in ((low, high), (low,), (None, high), ()):
            problems.append(Problem(single("Clip", (4, 5), "x", *bounds, constants_as_nodes=as_nodes), x))
    # The converter makes bounds of float32. None lies within a step of these numbers.
    coarse = (d.distinct(2, 4, 5) / 4 + 1 / 8).astype(np.float32)
    for opset in (6, 7, 10):
        old = single("Clip", (4, 5), min=float(low), max=float(high), opset=opset, dtype=np.float32)
        old = old if opset > 6 else version_converter.convert_version(old, 7)
        problems.append(Problem(old, coarse, step=2**-6))
    problems.append(Problem(single("Clip", (4, 5), opset=9, min=0.3, dtype=np.float32), coarse, step=2**-6))
    computed = [node("Shape", ["x"], ["s"]), node("Gather", ["s", "one"], ["g"]), node("Cast", ["g"], ["h"], to=11)]
    nodes = [*computed, node("Neg", ["h"], ["l"]), node("Clip", ["x", "l", "h"], ["y"])]
    problems.append(Problem(graph(nodes, {"one": np.array(1)}, (3, 5)), d.normal(2, 3, 5) * 3))
    return problems


def binary(op_type: str, d: Draw) -> list[Problem]:
    """Data on either side or both, with broadcasting both ways."""
    draw = d.positive if op_type in ("Div", "Pow") else d.normal
    x = draw(2, 3, 1, 4)
    other = draw(*d.pick((4,), (1,), (2, 1), (3, 2, 4), (1, 3, 1, 4), (1, 1, 5, 1))) * 1.25
    mean = [node("ReduceMean", ["x", "a"], ["m"], keepdims=1)]
    reduced = graph([*mean, node(op_type, ["x", "m"], ["y"])], {"a": indices(*d.pick((1,), (1, 3)))}, (3, 1, 4))
    turned = graph([*mean, node(op_type, ["m", "x"], ["y"])], {"a": indices(3)}, (3, 1, 4))
    # The batch is the second axis of the result.
    wide = single(
        op_type, (3,), "x", draw(2, 1, 3) * 1.25, after=[node("Transpose", ["z"], ["y"], perm=[1, 0, 2])]
    )  # fmt: skip
    scalar = np.array(1.5)
    problems = [
        Problem(single(op_type, (3, 1, 4), "x", other), x),
        Problem(single(op_type, (3, 1, 4), other, "x"), x),
        Problem(single(op_type, (3, 1, 4), "x", scalar), x),
        Problem(single(op_type, (3, 1, 4), scalar, "x"), x),
        Problem(reduced, x),
        Problem(turned, x),
        Problem(wide, draw(2, 3)),
    ]
    if op_type not in ("Min", "Max"):  # ties
        problems.append(Problem(single(op_type, (3, 1, 4), "x", "x"), x))
    return problems


def power(d: Draw) -> list[Problem]:
    problems = binary("Pow", d)
    for exponent in (np.array(2.0), np.array(3, np.int64), np.array([2, 1, 3, 4], np.int32)):
        problems.append(Problem(single("Pow", (3, 4), "x", exponent), d.normal(2, 3, 4)))
    square = single("Pow", (3, 4), "x", np.array(2.0))
    return [*problems, Problem(square, np.zeros((2, 3, 4)))]


def variadic(op_type: str, d: Draw) -> list[Problem]:
    inputs = ["x", d.normal(3, 1), d.normal(4), "x"] if op_type in ("Sum", "Mean") else ["x", d.normal(3, 1), "n"]
    minus = [node("Neg", ["x"], ["n"])]
    return [
        Problem(single(op_type, (3, 4), *inputs, before=minus), d.normal(2, 3, 4)),
        Problem(single(op_type, (3, 4), "x"), d.normal(2, 3, 4)),
    ]


def where(d: Draw) -> list[Problem]:
    mask = d.rng.random((3, 4)) < 0.5
    other = d.normal(*d.pick((4,), (3, 1), (1, 3, 4)))
    compare = [node("Greater", ["x", "zero"], ["mask"]), node("Where", ["mask", "x", "slope"], ["y"])]
    weights = {"zero": np.array(0.0), "slope": np.array(0.0)}
    mean = [node("ReduceMean", ["x", "a"], ["m"]), node("Where", ["c", "m", "x"], ["y"])]
    return [
        Problem(single("Where", (3, 4), mask, "x", other), d.normal(2, 3, 4)),
        Problem(single("Where", (3, 4), mask, other, "x"), d.normal(2, 3, 4)),
        Problem(graph(compare, weights, (3, 4)), d.normal(2, 3, 4)),
        Problem(graph(mean, {"a": indices(-1), "c": mask}, (3, 4)), d.normal(2, 3, 4)),
    ]


def casts(d: Draw) -> list[Problem]:
    there = node("Cast", ["x"], ["d"], to=TensorProto.DOUBLE)
    middle = node("Mul", ["d", "d"], ["e"])
    back = node("Cast", ["e"], ["y"], to=TensorProto.FLOAT)
    problem = Problem(graph([there, middle, back], {}, (4,), dtype=np.float32), d.normal(2, 4).astype(np.float32))
    problem.step, problem.tolerance = 1e-2, 1e-4
    return [problem]


def cast_like(d: Draw) -> list[Problem]:
    nodes = [node("CastLike", ["x", "half"], ["d"]), node("CastLike", ["d", "x"], ["y"])]
    x = np.round(d.normal(2, 4) * 4) / 4
    # Exact in half precision, as is the step.
    return [Problem(graph(nodes, {"half": np.zeros(1, np.float32)}, (4,)), x, step=0.25)]


def dropout(d: Draw) -> list[Problem]:
    inputs = d.pick(("x",), ("x", np.array(0.3, np.float32)), ("x", None, np.array(False)))
    return [Problem(single("Dropout", (4,), *inputs), d.normal(2, 4))]


def flat(op_type: str, d: Draw) -> list[Problem]:
    """Beside a path that is smooth."""
    nodes = [node(op_type, ["x"], ["f"]), node("Add", ["x", "f"], ["y"])]
    return [Problem(graph(nodes, {}, (4,)), d.normal(2, 4))]


def modulo(d: Draw) -> list[Problem]:
    minus = [node("Mul", ["x", "x"], ["q"]), node("Add", ["q", "one"], ["b"])]
    weights = {"one": np.array(0.4)}
    return [
        Problem(single("Mod", (3, 4), "x", d.positive(*d.pick((4,), (3, 1))), fmod=1), d.normal(2, 3, 4) * 3),
        Problem(
            single("Mod", (3, 4), d.normal(3, 4) * 5, "b", before=minus, weights=weights, fmod=1), d.normal(2, 3, 4)
        ),
    ]


def within(op_type: str, low: float, high: float, d: Draw) -> list[Problem]:
    return [Problem(single(op_type, (3, 4)), d.rng.uniform(low, high, (2, 3, 4)))]


# Normalisation.


def batch_normalization(d: Draw) -> list[Problem]:
    sides = d.ints(d.int(0, 3), 1, 3)
    parameters = [d.normal(3), d.normal(3), d.normal(3), d.positive(3)]
    given = {"epsilon": d.pick(1e-5, 0.1)}
    models = [single("BatchNormalization", (3, *sides), "x", *parameters, opset=each, **given) for each in (15, 18)]
    return [Problem(model, d.normal(2, 3, *sides)) for model in models]


def instance_normalization(d: Draw) -> list[Problem]:
    sides = d.ints(d.int(1, 3), 4, 5)
    given = {"epsilon": d.pick(1e-5, 0.1)}
    model = single("InstanceNormalization", (3, *sides), "x", d.normal(3), d.normal(3), **given)
    return [Problem(model, d.normal(2, 3, *sides))]


def layer_normalization(d: Draw) -> list[Problem]:
    axis = d.pick(-1, -2, 1, 2, 3, None)
    shape = (2, 3, 4)
    axes = shape[(axis if axis is not None else -1) - (1 if (axis or -1) > 0 else 0) :]
    inputs = ["x", d.normal(*axes), *([d.normal(*axes)] if d.pick(True, False) else [])]
    model = single("LayerNormalization", shape, *inputs, axis=axis, epsilon=d.pick(1e-5, 0.1))
    return [Problem(model, d.normal(2, *shape))]


def rms_normalization(d: Draw) -> list[Problem]:
    axis = d.pick(-1, 2, 1)
    shape = (2, 3, 4)
    axes = shape[axis if axis < 0 else axis - 1 :]
    model = single("RMSNormalization", shape, "x", d.normal(*axes), axis=axis, epsilon=d.pick(1e-5, 0.1), opset=23)
    return [Problem(model, d.normal(2, *shape))]


def attention(d: Draw) -> list[Problem]:
    """Queries, keys and values made of 'x' (heads, tokens, channels); keys may be fewer."""
    heads, tokens, side = d.int(1, 2), d.int(2, 3), d.int(1, 3)
    weights = {name: d.normal(side, side) for name in "qkv"} | {"fewer": d.normal(tokens + 1, tokens)}
    before = [node("MatMul", ["x", "q"], ["query"])]
    before += [node("MatMul", ["fewer", "x"], ["more"])]
    before += [node("MatMul", ["more", name], [made]) for name, made in (("k", "key"), ("v", "value"))]
    mask = d.pick(None, d.normal(tokens, tokens + 1), np.arange(tokens + 1) != d.int(0, tokens))
    if mask is not None and mask.dtype == bool:
        mask = np.broadcast_to(mask, (tokens, tokens + 1)).copy()
    inputs = ["query", "key", "value", *([mask] if mask is not None else [])]
    made = single(
        "Attention", (heads, tokens, side), *inputs, before=before, weights=weights, opset=23, scale=d.pick(None, 0.7)
    )
    return [Problem(made, d.normal(2, heads, tokens, side))]


def layer_normalization_by_parts(d: Draw) -> list[Problem]:
    nodes = [
        node("ReduceMean", ["x", "last"], ["m"]),
        node("Sub", ["x", "m"], ["c"]),
        node("Pow", ["c", "two"], ["s"]),
        node("ReduceMean", ["s", "last"], ["v"]),
        node("Add", ["v", "eps"], ["e"]),
        node("Sqrt", ["e"], ["r"]),
        node("Div", ["c", "r"], ["n"]),
        node("Mul", ["n", "w"], ["k"]),
        node("Add", ["k", "b"], ["y"]),
    ]
    weights = {
        "last": indices(-1), "two": np.array(2.0), "eps": np.array(1e-5), "w": d.normal(4), "b": d.normal(4)
    }  # fmt: skip
    return [Problem(graph(nodes, weights, (3, 4)), d.normal(2, 3, 4))]


def group_normalization(d: Draw) -> list[Problem]:
    sides, groups = d.ints(d.int(1, 2), 1, 3), d.pick(1, 2, 4)
    problems = []
    for opset in (18, 21):
        count = groups if opset == 18 else 4
        given = {"num_groups": groups, "epsilon": d.pick(1e-5, 0.1)}
        if opset > 18:
            given["stash_type"] = TensorProto.DOUBLE  # else the reference evaluator goes through float32
        affine = d.normal(count), d.normal(count)
        model = single("GroupNormalization", (4, *sides, 5), "x", *affine, opset=opset, **given)
        # The checker refuses the operator in opset 18, which runtimes take.
        problems.append(Problem(model, d.normal(2, 4, *sides, 5), valid=opset > 18))
    return problems


def lrn(d: Draw) -> list[Problem]:
    channels, size = d.int(1, 6), d.int(1, 5)
    given = {"alpha": d.pick(0.5, 1e-4), "beta": d.pick(0.75, 0.5), "bias": d.pick(1.0, 2.0), "size": size}
    sides = d.pick((2, 3), (2, 2), (3, 1))
    return [Problem(single("LRN", (channels, *sides), **given), d.normal(2, channels, *sides))]


def mean_variance_normalization(d: Draw) -> list[Problem]:
    """Also over the batch, as by default."""
    axes = d.pick([2, 3], [1, 2, 3], [1], [-1, -2], [0, 2, 3], None)
    model = single("MeanVarianceNormalization", (3, 2, 4), axes=axes, batch=2, dtype=np.float32)
    x = d.normal(2, 3, 2, 4).astype(np.float32)
    # ONNX's strict check cannot infer a function whose attribute is left out, whatever the graph.
    return [Problem(model, x, runtime=True, step=1e-2, tolerance=5e-3, independent=False, valid=axes is not None)]


def lp_normalization(d: Draw) -> list[Problem]:
    """The reference evaluator takes no absolute values."""
    given = {"axis": d.pick(1, -1, None), "p": d.pick(1, 2, None)}
    return [Problem(single("LpNormalization", (3, 4), **given), d.normal(2, 3, 4), runtime=True)]


# Reductions.


def reduction(op_type: str, d: Draw) -> list[Problem]:
    given = {"keepdims": d.int(0, 1)}
    axes = d.pick([1], [-1], [2, 3], [-1, -2], [1, 3], [3, 1])
    x = d.distinct(2, 2, 3, 2) / 4 + 0.1
    models = [single(op_type, (2, 3, 2), "x", indices(*axes), **given)]
    models.append(single(op_type, (2, 3, 2), "x", indices(*axes), constants_as_nodes=True, **given))
    old = (13, 7) if op_type != "ReduceSum" else (11, 7)  # axes as an attribute
    models += [single(op_type, (2, 3, 2), axes=[each % 4 for each in axes], opset=o, **given) for o in old]
    if op_type in ("ReduceSum", "ReduceMean", "ReduceMax"):
        models.append(single(op_type, (2, 3, 2), "x", noop_with_empty_axes=1))
    return [Problem(model, x) for model in models] + ([everything(op_type, d)] if op_type != "ReduceMean" else [])


def reduce_positive(op_type: str, d: Draw) -> list[Problem]:
    axes, keep = d.pick([1], [2, 3], [-1, 1]), d.int(0, 1)
    models = [single(op_type, (2, 3, 2), "x", indices(*axes), keepdims=keep)]
    models.append(single(op_type, (2, 3, 2), axes=[each % 4 for each in axes], keepdims=keep, opset=13))
    return [Problem(model, d.positive(2, 2, 3, 2)) for model in models]


def reduce_prod(d: Draw) -> list[Problem]:
    """Zeros among the factors, one or several."""
    x = d.normal(2, 3, 4) * (d.rng.random((2, 3, 4)) < 0.7)
    return [Problem(single("ReduceProd", (3, 4), "x", indices(d.pick(1, 2)), keepdims=d.int(0, 1)), x)]


def everything(op_type: str, d: Draw) -> Problem:
    """Over all axes, the batch of one picture included."""
    nodes = [node(op_type, ["x"], ["s"], keepdims=0), node("Reshape", ["s", "shape"], ["y"])]
    model = graph(nodes, {"shape": indices(1, 1)}, (2, 3), batch=1)
    return Problem(model, d.distinct(1, 2, 3) / 4 + 0.1, independent=False)


def softmax(op_type: str, d: Draw) -> list[Problem]:
    axis = d.pick(1, 2, -1, -2, None)
    models = [
        single(op_type, (3, 4), axis=axis),
        # Before opset 13 all axes behind the given one are taken together.
        single(op_type, (3, 4), axis=axis, opset=11),
        single(op_type, (3, 4), axis=1, opset=7),
    ]
    # The reference evaluator knows the newer meaning only.
    return [Problem(model, d.normal(2, 3, 4), runtime=k > 0) for k, model in enumerate(models)]


# Moving values about.


def reshapes(op_type: str, d: Draw) -> list[Problem]:
    forms = {
        "Reshape": [("x", indices(*d.pick((0, -1), (-1, 3, 4), (0, 0, 4, 1), (-1, 2, 6))))],
        "Flatten": [("x",)],
        "Squeeze": [("x", indices(*d.pick((2,), (-2,))))],
        "Unsqueeze": [("x", indices(*d.pick((1,), (-1, 2), (5, 3))))],
    }[op_type]
    models = [single(op_type, (3, 1, 4), *inputs) for inputs in forms]
    if op_type == "Flatten":
        models = [single(op_type, (3, 1, 4), axis=axis) for axis in (1, -3, None)]
        behind = [node("Reshape", ["z", "shape"], ["y"])]
        for axis in (0, 2, -1):
            models.append(single(op_type, (3, 1, 4), axis=axis, after=behind, weights={"shape": indices(-1, 12)}))
    elif op_type in ("Squeeze", "Unsqueeze"):
        models.append(single(op_type, (3, 1, 4), axes=[2], opset=11))
    elif op_type == "Reshape":
        computed = [
            node("Shape", ["x"], ["s"]),
            node("Gather", ["s", "zero"], ["n"]),
            node("Unsqueeze", ["n", "first"], ["u"]),
            node("Concat", ["u", "minus"], ["shape"], axis=0),
            node("Reshape", ["x", "shape"], ["y"]),
        ]
        weights = {"zero": np.array(0), "first": indices(0), "minus": indices(-1)}
        models.append(graph(computed, weights, (3, 1, 4)))
    return [Problem(model, d.normal(2, 3, 1, 4)) for model in models]


def transpose(d: Draw) -> list[Problem]:
    perm = d.pick([0, 2, 3, 1], [0, 3, 1, 2], [0, 1, 3, 2])
    # Without an order all axes are reversed: the batch comes last.
    again = graph([node("Transpose", ["x"], ["t"]), node("Transpose", ["t"], ["y"], perm=[3, 0, 1, 2])], {}, (2, 3, 4))
    return [
        Problem(single("Transpose", (2, 3, 4), perm=perm), d.normal(2, 2, 3, 4)),
        Problem(again, d.normal(2, 2, 3, 4)),
    ]


def concat(d: Draw) -> list[Problem]:
    axis = d.pick(1, 2, -1, -3)
    half = [node("Mul", ["x", "x"], ["q"])]
    constant = d.normal(2, 2, 3, 4)
    models = [
        single("Concat", (2, 3, 4), "x", "q", "x", before=half, axis=axis),
        single("Concat", (2, 3, 4), constant, "x", axis=axis, batch=2),
    ]
    return [Problem(model, d.normal(2, 2, 3, 4), independent=k == 0) for k, model in enumerate(models)]


def split(d: Draw) -> list[Problem]:
    parts = d.pick(["a", "b"], ["a", "c"], ["b"], ["b", "c"], ["a", "b", "c"])
    use = [
        node("Sigmoid", [part], [f"{part}.s"]) for part in parts
    ] + [node("Concat", [f"{part}.s" for part in parts], ["y"], axis=1)]  # fmt: skip
    sizes = graph(
        [node("Split", ["x", "sizes"], ["a", "b", "c"], axis=d.pick(1, -2)), *use], {"sizes": indices(1, 3, 2)}, (6, 2)
    )
    equal = graph([node("Split", ["x"], ["a", "b", "c"], axis=1, num_outputs=3), *use], {}, (6, 2))
    uneven = graph([node("Split", ["x"], ["a", "b", "c"], axis=1, num_outputs=3), *use], {}, (5, 2))
    old = graph([node("Split", ["x"], ["a", "b", "c"], axis=1), *use], {}, (6, 2), opset=11)
    return [Problem(model, d.normal(2, model.graph.input[0].type.tensor_type.shape.dim[1].dim_value, 2))
            for model in (sizes, equal, uneven, old)]  # fmt: skip


def slices(d: Draw) -> list[Problem]:
    huge = d.pick(2**31 - 1, 2**63 - 1)
    arguments = [
        (indices(1), indices(-1), indices(2)),
        (indices(-2, 0), indices(huge, 2), indices(1, -1)),
        (indices(0, 1), indices(huge, huge), indices(0, 2)),
        (indices(-1), indices(-huge), indices(2), indices(-1)),
        (indices(4, -1), indices(0, -4), indices(2, 3), indices(-2, -2)),
        (indices(0, 1), indices(huge, huge), indices(3, 2), indices(2, 3)),
        (indices(0, 0, 1), indices(huge, huge, 3)),
    ]
    models = [single("Slice", (3, 5, 4), "x", *given) for given in arguments]
    models.append(single("Slice", (3, 5, 4), starts=[1, -3], ends=[huge, -1], axes=[1, 2], opset=9))
    return [Problem(model, d.normal(2, 3, 5, 4)) for model in models]


def gather(d: Draw) -> list[Problem]:
    axis = d.pick(1, 2, -1)
    taken = d.pick(
        np.array(0), np.array(-1), np.array(2, np.int32), indices(1), indices(0, 2, 2, -1), indices(1, 2),
        indices(2, 0), indices(-1, 0, 1), np.array([[0, 1], [2, -2], [0, 0]]), np.array([[2], [-3]]),
    )  # fmt: skip
    problems = [Problem(single("Gather", (3, 4, 3), "x", taken, axis=axis), d.normal(2, 3, 4, 3))]
    # Parts of an attention's packed queries, keys and values: the batch is the second axis.
    nodes = [
        node("Reshape", ["x", "packed"], ["p"]),
        node("Transpose", ["p"], ["t"], perm=[2, 0, 1, 3]),
        *(node("Gather", ["t", f"i{k}"], [f"g{k}"], axis=0) for k in range(3)),
        node("Sigmoid", ["g0"], ["s"]),
        node("Mul", ["s", "g1"], ["m"]),
        node("Add", ["m", "g2"], ["y"]),
    ]
    weights = {"packed": indices(0, 5, 3, 4), **{f"i{k}": np.array(k) for k in range(3)}}
    problems.append(Problem(graph(nodes, weights, (5, 12)), d.normal(2, 5, 12)))
    # Indices that are known only when the model runs: the batch size, modulo what there is, once and again.
    nodes = [
        node("Shape", ["x"], ["sides"]),
        node("Gather", ["sides", "first"], ["batch"]),
        node("Add", ["batch", "offsets"], ["far"]),
        node("Mod", ["far", "count"], ["index"]),
        node("Gather", ["x", "index"], ["y"], axis=axis),
    ]
    weights = {"first": indices(0), "offsets": d.pick(indices(0), indices(0, 1, 4, 0)), "count": indices(3)}
    problems.append(Problem(graph(nodes, weights, (3, 4, 3)), d.normal(2, 3, 4, 3)))
    return problems


def pad(d: Draw) -> list[Problem]:
    mode = d.pick("constant", "edge", "reflect")
    low = -1 if mode == "constant" else 0
    rows, cols = d.ints(2, low, 2), d.ints(2, low, 2)
    pads = indices(0, 0, rows[0], cols[0], 0, 0, rows[1], cols[1])
    value = [np.array(0.5)] if mode == "constant" else []
    fill = np.array(0.5) if mode == "constant" else None
    models = [
        single("Pad", (2, 3, 4), "x", pads, *value, mode=mode),
        single("Pad", (2, 3, 4), "x", indices(cols[0], rows[0], cols[1], rows[1]), fill, indices(-1, 2), mode=mode),
    ]
    x = d.normal(2, 2, 3, 4)

    def old(dtype: type) -> onnx.ModelProto:
        return single("Pad", (2, 3, 4), pads=pads.tolist(), mode=mode, opset=9, dtype=dtype)

    return [*(Problem(model, x) for model in models), *linear(old, x)]


def expand(d: Draw) -> list[Problem]:
    shape = d.pick((1, 3, 5, 4), (5, 1), (1, 1, 1, 4), (1, 3, 1, 4))
    return [Problem(single("Expand", (3, 1, 4), "x", indices(*shape)), d.normal(2, 3, 1, 4))]


def tile(d: Draw) -> list[Problem]:
    repeats = d.pick((1, 2, 1, 3), (1, 1, 4, 2), (1, 1, 1, 1), (1, 3, 2, 2))
    # The batch is the second axis of what is repeated.
    nodes = [
        node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        node("Tile", ["t", "r"], ["e"]),
        node("Transpose", ["e"], ["y"], perm=[1, 0, 2]),
    ]
    return [
        Problem(single("Tile", (3, 1, 4), "x", indices(*repeats)), d.normal(2, 3, 1, 4)),
        Problem(graph(nodes, {"r": indices(3, 1, 2)}, (2, 4)), d.normal(2, 2, 4)),
    ]


def resize(d: Draw) -> list[Problem]:
    mode = d.pick("nearest", "linear", "linear", "cubic")
    coordinates = d.pick("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric")
    rounding = d.pick("round_prefer_floor", "round_prefer_ceil", "floor", "ceil") if mode == "nearest" else None
    given = {"mode": mode, "coordinate_transformation_mode": coordinates, "nearest_mode": rounding}
    if mode == "cubic":
        given |= {"cubic_coeff_a": d.pick(None, -0.5), "exclude_outside": d.pick(None, 1)}
    if mode != "nearest" and coordinates != "align_corners":
        given["antialias"] = d.pick(None, 1)
    scale = d.pick((1, 1, 2, 2), (1, 1, 0.5, 1.5), (1, 1, 3, 1), (1, 1, 0.6, 0.75))
    size = (2, 2, *d.ints(2, 1, 9))
    x = d.normal(2, 2, 4, 5)

    def scaled(dtype: type) -> onnx.ModelProto:
        return single("Resize", (2, 4, 5), "x", None, np.array(scale, np.float32), dtype=dtype, **given)

    def sized(dtype: type) -> onnx.ModelProto:
        return single("Resize", (2, 4, 5), "x", None, None, indices(*size), dtype=dtype, batch=2, **given)

    def axes(dtype: type) -> onnx.ModelProto:
        return single("Resize", (2, 4, 5), "x", None, None, indices(*size[2:]), dtype=dtype, axes=[2, 3], **given)

    def old(dtype: type) -> onnx.ModelProto:
        return single(
            "Upsample",
            (2, 4, 5),
            "x",
            np.array((1, 1, 2, 3), np.float32),
            mode="linear" if mode == "cubic" else mode,
            opset=9,
            dtype=dtype,
        )

    problems = [*linear(scaled, x), *linear(sized, x), *linear(axes, x), *linear(old, x)]
    problems[1].independent = False
    return problems


def depth_to_space(d: Draw) -> list[Problem]:
    mode = d.pick("DCR", "CRD", None)
    block = d.int(2, 3)
    model = single("DepthToSpace", (2 * block**2, 2, 3), blocksize=block, mode=mode)
    return [Problem(model, d.normal(2, 2 * block**2, 2, 3))]


def space_to_depth(d: Draw) -> list[Problem]:
    block = d.int(2, 3)
    model = single("SpaceToDepth", (2, 2 * block, block), blocksize=block)
    return [Problem(model, d.normal(2, 2, 2 * block, block))]


# Taking from places, and putting there. The reference evaluator wants places for all values.


def fixed_batch(problems: list[Problem]) -> list[Problem]:
    for problem in problems:
        problem.independent = False
    return problems


def gather_elements(d: Draw) -> list[Problem]:
    axis = d.pick(1, 2, -1)
    places = d.rng.integers(-3, 3, (2, *((2, 3) if axis == 1 else (3, 5)))).astype(np.int64)

    def make(dtype: type) -> onnx.ModelProto:
        return single("GatherElements", (3, 3), "x", places, axis=axis, batch=2, dtype=dtype)

    return fixed_batch(linear(make, d.normal(2, 3, 3)))


def gather_nd(d: Draw) -> list[Problem]:
    some = d.rng.integers(0, 2, (2, 3, 2)).astype(np.int64)
    rows = d.rng.integers(0, 3, (2, 4, 1)).astype(np.int64)
    pairs = d.rng.integers(-3, 3, (2, 2, 2, 2)).astype(np.int64)
    models = [
        single("GatherND", (3, 4), "x", some, batch=2),
        single("GatherND", (3, 4), "x", rows, batch=2, batch_dims=1),
        single("GatherND", (3, 4), "x", pairs, batch=2, batch_dims=1),
    ]
    return [Problem(model, d.normal(2, 3, 4), independent=False) for model in models]


def scatter_elements(d: Draw) -> list[Problem]:
    axis, how = d.pick(1, -1), d.pick("none", "add", None)
    places = np.argsort(d.rng.random((2, 3, 3)), axis=axis)[:, :2, :2].astype(np.int64)
    values, data = d.normal(2, 2, 2), d.normal(2, 3, 3)
    cut = [node("Slice", ["x", "zero", "two"], ["part"])]
    weights = {"zero": indices(0, 0, 0), "two": indices(2, 2, 2)}
    given = {"axis": axis, "reduction": how, "batch": 2, "before": cut, "weights": weights}
    problems = []
    for first, last in (("x", values), ("x", "part"), (data, "part")):
        make = partial(single, "ScatterElements", (3, 3), first, places, last, **given)
        problems += linear(lambda dtype, make=make: make(dtype=dtype), d.normal(2, 3, 3))
    if how != "add":
        old = partial(single, "Scatter", (3, 3), "x", places, values, axis=axis % 3, batch=2, opset=10)
        problems += linear(lambda dtype: old(dtype=dtype), d.normal(2, 3, 3))
    return fixed_batch(problems)


def scatter_nd(d: Draw) -> list[Problem]:
    how = d.pick("none", "add", None)
    places = np.stack([np.arange(2), d.rng.integers(0, 3, 2)], 1).astype(np.int64)
    cut = [node("ReduceMean", ["x", "axis"], ["part"], keepdims=0)]
    given = {"reduction": how, "batch": 2, "before": cut, "weights": {"axis": indices(1)}}
    models = [
        single("ScatterND", (3, 4), "x", places, d.normal(2, 4), **given),
        single("ScatterND", (3, 4), "x", places, "part", **given),
        single("ScatterND", (3, 4), d.normal(2, 3, 4), places, "part", **given),
    ]
    return [Problem(model, d.normal(2, 3, 4), independent=False) for model in models]


def top_k(d: Draw) -> list[Problem]:
    given = {"axis": d.pick(1, 2, -1, None), "largest": d.pick(0, 1, None), "sorted": 1}
    k = indices(d.pick(1, 2, 3))
    after = [node("Identity", ["z"], ["y"])]
    model = single("TopK", (4, 3), "x", k, after=after, **given)
    model.graph.node[0].output.append("places")
    return [Problem(model, d.distinct(2, 4, 3), step=0.25)]


def cumulative_sum(d: Draw) -> list[Problem]:
    given = {"exclusive": d.pick(0, 1, None), "reverse": d.pick(0, 1, None)}
    axis = np.array(d.pick(1, 2, -1))
    return linear(lambda dtype: single("CumSum", (3, 4), "x", axis, dtype=dtype, **given), d.normal(2, 3, 4))


def triangle(d: Draw) -> list[Problem]:
    offset = d.pick(None, np.array(1), np.array(-1))
    return [Problem(single("Trilu", (3, 4), "x", offset, upper=d.pick(0, 1, None)), d.normal(2, 3, 4))]


def centre(d: Draw) -> list[Problem]:
    sides = d.ints(2, 1, 9)

    def some(dtype: type) -> onnx.ModelProto:
        return single("CenterCropPad", (2, 5, 4), "x", indices(*sides), axes=[3, 2], dtype=dtype)

    def whole(dtype: type) -> onnx.ModelProto:
        return single("CenterCropPad", (2, 5, 4), "x", indices(2, 2, *sides), batch=2, dtype=dtype)

    x = d.normal(2, 2, 5, 4)
    problems = [*linear(some, x), *linear(whole, x)]
    problems[1].independent = False
    return problems


def blocks_to_picture(d: Draw) -> list[Problem]:
    block, strides, dilations = d.ints(2, 1, 3), d.ints(2, 1, 2), d.ints(2, 1, 2)
    pads = [d.int(0, 1) for _ in range(4)]
    sides = [(k - 1) * a + 1 + d.int(0, 3) for k, a in zip(block, dilations, strict=True)]
    counts = [(sides[k] + pads[k] + pads[k + 2] - dilations[k] * (block[k] - 1) - 1) // strides[k] + 1 for k in (0, 1)]
    shape = (2 * block[0] * block[1], counts[0] * counts[1])
    given = {"pads": pads, "strides": strides, "dilations": dilations}

    def make(dtype: type) -> onnx.ModelProto:
        return single("Col2Im", shape, "x", indices(*sides), indices(*block), dtype=dtype, **given)

    return linear(make, d.normal(2, *shape))


def rotary_embedding(d: Draw) -> list[Problem]:
    heads, tokens, width = d.int(1, 2), 3, d.pick(4, 8)
    turned = d.pick(0, width // 2) if width > 4 else 0
    half = (turned or width) // 2
    angles = d.normal(5, half)
    given = {"interleaved": d.int(0, 1), "rotary_embedding_dim": turned or None, "opset": 23}
    tables = [np.cos(angles), np.sin(angles)]
    places = d.rng.integers(0, 5, (2, tokens)).astype(np.int64)
    flat = (tokens, heads * width)

    def stacked(dtype: type) -> onnx.ModelProto:
        return single("RotaryEmbedding", (heads, tokens, width), "x", *tables, places, batch=2, dtype=dtype, **given)

    def lined(dtype: type) -> onnx.ModelProto:
        own = [np.broadcast_to(each[:tokens], (2, tokens, half)).copy() for each in tables]
        return single("RotaryEmbedding", flat, "x", *own, batch=2, num_heads=heads, dtype=dtype, **given)

    return fixed_batch([*linear(stacked, d.normal(2, heads, tokens, width)), *linear(lined, d.normal(2, *flat))])


# Between cells.


def grid_sample(d: Draw) -> list[Problem]:
    mode, opset = d.pick(("bilinear", 16), ("nearest", 16), ("linear", 20), (None, 20))
    given = {
        "mode": mode,
        "padding_mode": d.pick("zeros", "border", "reflection", None),
        "align_corners": d.pick(0, 1, None),
        "opset": opset,
    }
    sides = d.ints(2, 2, 5)
    grid = d.rng.uniform(-1.6, 1.6, (2, 3, 4, 2))

    def make(dtype: type) -> onnx.ModelProto:
        return single("GridSample", (2, *sides), "x", grid, batch=2, dtype=dtype, **given)

    return fixed_batch(linear(make, d.normal(2, 2, *sides)))


def grid_sample_moved(d: Draw) -> list[Problem]:
    """Where it is read depends on the picture as well."""
    given = {"padding_mode": d.pick("zeros", "border", "reflection"), "align_corners": d.pick(0, 1)}
    before = [
        node("Flatten", ["x"], ["flat"]),
        node("MatMul", ["flat", "m"], ["mixed"]),
        node("Reshape", ["mixed", "shape"], ["moved"]),
        node("Add", ["moved", "grid"], ["places"]),
    ]
    x, near = d.normal(2, 2, 3, 4).astype(np.float32), True
    while near:
        m, grid = d.normal(24, 12) * 0.1, d.rng.uniform(-1.3, 1.3, (2, 3, 2))
        places = (x.reshape(2, 24) @ m).reshape(2, 2, 3, 2) + grid
        sides = np.array([4, 3])
        cells = (places + 1) / 2 * (sides - 1) if given["align_corners"] else ((places + 1) * sides - 1) / 2
        # Between cells, and where the picture ends.
        near = (np.abs(2 * cells - np.rint(2 * cells)) < 0.03).any()
    weights = {"m": m, "shape": indices(-1, 2, 3, 2), "grid": grid}
    given |= {"before": before, "weights": weights, "mode": "bilinear", "dtype": np.float32}
    model = single("GridSample", (2, 3, 4), "x", "places", **given)
    return [Problem(model, x, runtime=True, step=2**-7, tolerance=3e-3)]


def deformable_convolution(d: Draw) -> list[Problem]:
    """Weights of the picture alone; places and masks that follow from it as well."""
    kernel, strides, dilations, pads = d.ints(2, 1, 3), d.ints(2, 1, 2), d.ints(2, 1, 2), d.ints(4, 0, 1)
    group, own = d.pick((1, 1), (2, 1), (1, 2), (2, 2))
    sides = [(k - 1) * a + 1 + d.int(1, 2) for k, a in zip(kernel, dilations, strict=True)]
    counts = [(sides[k] + pads[k] + pads[k + 2] - dilations[k] * (kernel[k] - 1) - 1) // strides[k] + 1 for k in (0, 1)]
    given = {"strides": strides, "dilations": dilations, "pads": pads, "group": group, "offset_group": own}
    given |= {"opset": 19, "kernel_shape": kernel, "dtype": np.float32}
    w, b = d.normal(4, 4 // group, *kernel), d.normal(4)
    taps = own * kernel[0] * kernel[1]
    offset, mask = d.normal(2, 2 * taps, *counts), d.positive(2, taps, *counts)
    x = d.normal(2, 4, *sides).astype(np.float32)
    fixed = single("DeformConv", (4, *sides), "x", w, offset, b, mask, batch=2, **given)
    bare = single("DeformConv", (4, *sides), "x", w, offset, batch=2, **given)
    size = 4 * sides[0] * sides[1]
    before, weights = [node("Flatten", ["x"], ["flat"])], {}
    for name, shape in (("places", offset.shape[1:]), ("shares", mask.shape[1:])):
        # Places stay clear of the middles of cells, between which they are linear.
        weights[f"{name}.m"] = d.normal(size, int(np.prod(shape))) * 0.08 * size**-0.5
        weights[f"{name}.shape"] = indices(-1, *shape)
        weights[f"{name}.start"] = d.rng.integers(-2, 2, shape) + d.rng.uniform(0.4, 0.6, shape)
        before += [
            node("MatMul", ["flat", f"{name}.m"], [f"{name}.mixed"]),
            node("Reshape", [f"{name}.mixed", f"{name}.shape"], [f"{name}.moved"]),
            node("Add", [f"{name}.moved", f"{name}.start"], [name]),
        ]
    following = {"before": before, "weights": weights, **given}
    moved = single("DeformConv", (4, *sides), "x", w, "places", b, "shares", **following)
    exact = {"runtime": True, "step": 1.0, "tolerance": 1e-5, "independent": False}
    return [
        Problem(fixed, x, **exact),
        Problem(bare, x, **exact),
        Problem(moved, x, runtime=True, step=2**-7, tolerance=5e-3),
    ]


UNARY = {
    "Relu": {},
    "LeakyRelu": {"alpha": (None, 0.2)},
    "ThresholdedRelu": {"alpha": (None, 0.3)},
    "Elu": {"alpha": (None, 0.5)},
    "Selu": {"alpha": (None, 1.5), "gamma": (None, 1.2)},
    "Sigmoid": {},
    "HardSigmoid": {"alpha": (None, 0.3), "beta": (None, 0.4)},
    "HardSwish": {},
    "Swish": {"alpha": (None, 1.7), "opset": (24,)},
    "Mish": {},
    "Gelu": {"approximate": (None, "tanh", "none"), "opset": (20,)},
    "Tanh": {},
    "Erf": {},
    "Softplus": {},
    "Softsign": {},
    "Exp": {},
    "Neg": {},
    "Abs": {},
    "Sin": {},
    "Cos": {},
    "Sinh": {},
    "Cosh": {},
    "Asinh": {},
    "Atan": {},
    "Shrink": {"lambd": (None, 0.3), "bias": (None, 0.3)},
    "Identity": {},
}
CASES: dict[str, list[Case]] = {
    "Conv": [conv, partial(conv, depthwise=True), conv_float64],
    "ConvTranspose": [partial(conv_transpose, form) for form in ("pads", "shape", "SAME_UPPER", "SAME_LOWER", "VALID")],
    "Gemm": [gemm_a, gemm_turned, gemm_both],
    "MatMul": [matmul, matmul_stacks],
    "Einsum": [einsum],
    "AveragePool": [average_pool, average_pool_dilated],
    "MaxPool": [max_pool],
    **{name: [partial(unary, name, **choices)] for name, choices in UNARY.items()},
    **{name: [partial(unary, name, positive=True)] for name in ("Log", "Sqrt", "Reciprocal")},
    **{name: [partial(global_pool, name)] for name in ("GlobalAveragePool", "GlobalMaxPool")},
    **{name: [partial(binary, name)] for name in ("Add", "Sub", "Mul", "Div")},
    **{name: [partial(variadic, name)] for name in ("Sum", "Mean")},
    **{name: [partial(binary, name), partial(variadic, name)] for name in ("Min", "Max")},
    **{name: [partial(flat, name)] for name in ("Floor", "Ceil", "Round", "Sign")},
    **{name: [partial(reduction, name)] for name in RULES if name.startswith("Reduce")},
    **{name: [partial(reduce_positive, name)] for name in ("ReduceLogSum", "ReduceLogSumExp")},
    "ReduceProd": [partial(reduce_positive, "ReduceProd"), reduce_prod],
    **{name: [partial(within, name, -0.9, 0.9)] for name in ("Asin", "Acos", "Atanh", "Tan")},
    "Acosh": [partial(within, "Acosh", 1.1, 3.0)],
    "Mod": [modulo],
    "Hardmax": [partial(flat, "Hardmax")],
    "MeanVarianceNormalization": [mean_variance_normalization],
    "LpNormalization": [lp_normalization],
    "LpPool": [lp_pool],
    "GlobalLpPool": [global_lp_pool],
    "GatherElements": [gather_elements],
    "GatherND": [gather_nd],
    "ScatterElements": [scatter_elements],
    "ScatterND": [scatter_nd],
    "TopK": [top_k],
    "CumSum": [cumulative_sum],
    "Trilu": [triangle],
    "CenterCropPad": [centre],
    "Col2Im": [blocks_to_picture],
    "RotaryEmbedding": [rotary_embedding],
    "GridSample": [grid_sample, grid_sample_moved],
    "DeformConv": [deformable_convolution],
    **{name: [partial(softmax, name)] for name in ("Softmax", "LogSoftmax")},
    **{name: [partial(reshapes, name)] for name in ("Reshape", "Flatten", "Squeeze", "Unsqueeze")},
    "Pow": [power],
    "Celu": [celu],
    "PRelu": [prelu],
    "Clip": [clip],
    "Where": [where],
    "Cast": [casts],
    "CastLike": [cast_like],
    "Dropout": [dropout],
    "BatchNormalization": [batch_normalization],
    "InstanceNormalization": [instance_normalization],
    "LayerNormalization": [layer_normalization, layer_normalization_by_parts],
    "RMSNormalization": [rms_normalization],
    "Attention": [attention],
    "GroupNormalization": [group_normalization],
    "LRN": [lrn],
    "Transpose": [transpose],
    "Concat": [concat],
    "Split": [split],
    "Slice": [slices],
    "Gather": [gather],
    "Pad": [pad],
    "Expand": [expand],
    "Tile": [tile],
    "Resize": [resize],
    "DepthToSpace": [depth_to_space],
    "SpaceToDepth": [space_to_depth],
}
# Straight through has no central differences: these have tests of their own.
CLOSED_FORM = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"}
# Draws of a rule: rare attributes come together seldom.
DRAWS = {"Conv": 30, "ConvTranspose": 30, "AveragePool": 30, "MaxPool": 30, "Resize": 40, "Pad": 30}


def test_every_rule_has_a_case():
    assert set(CASES) | CLOSED_FORM == set(RULES)


EVERY_CASE = pytest.mark.parametrize(
    ("op_type", "case"),
    [pytest.param(name, case, id=f"{name}-{k}") for name, cases in CASES.items() for k, case in enumerate(cases)],
)
# What a gradient needs that the CUDA provider does not have, no more than the operator itself.
LEAVE_A_GPU = {"Sinh": {"Cosh"}, "Cosh": {"Sinh"}}


@EVERY_CASE
def test_no_rule_takes_a_model_off_the_gpu(op_type: str, case: Case):
    """What a backward graph adds is in the list of kernels that ONNX Runtime publishes of its CUDA provider."""

    @settings(max_examples=4, derandomize=True, deadline=None, database=None)
    @given(data=st.data())
    def all_examples(data: st.DataObject) -> None:
        for problem in case(Draw(data)):
            for rules in (GRADIENT, *RELEVANCE):
                added = set(left(build_vjp(problem.model, rules=rules))) - set(left(problem.model))
                assert {each.split()[0] for each in added} <= LEAVE_A_GPU.get(op_type, set()), rules

    all_examples()


@EVERY_CASE
def test_rule_agrees_with_central_differences(op_type: str, case: Case):
    @settings(max_examples=DRAWS.get(op_type, 20), derandomize=True, deadline=None, database=None)
    @given(data=st.data())
    def all_examples(data: st.DataObject) -> None:
        for problem in case(Draw(data)):
            check(problem)

    all_examples()


@pytest.mark.parametrize(
    "model",
    [
        single("ReduceMax", (4,), "x", indices(1), opset=18),
        single("ReduceMin", (4,), "x", indices(1), opset=18),
        single("GlobalMaxPool", (1, 4)),
        single("Max", (4,), "x", "m", before=[node("Identity", ["x"], ["m"])]),
        single("Min", (4,), "x", "x", "x"),
        single("MaxPool", (1, 4), kernel_shape=[4]),
    ],
    ids=lambda model: model.graph.node[-1].op_type,
)
def test_equal_values_share_the_cotangent(model: onnx.ModelProto):
    """Or one of them has it all: it is counted once."""
    sides = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim[1:]]
    x = np.full((2, *sides), 0.5)
    run = reference(build_vjp(model))
    elementwise = model.graph.node[-1].op_type in ("Max", "Min")
    cotangent = np.array([[3.0], [-1.0]]) * np.ones((1, 4 if elementwise else 1))
    gradient, _ = run({"x": x, "cotangent": cotangent})
    total = gradient.reshape(2, -1) if elementwise else gradient.reshape(2, -1).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(total, cotangent)


@pytest.mark.parametrize(
    ("model", "taken"),
    [
        (single("Gather", (4, 3), "x", indices(2, 0, 3, 1), axis=1), (slice(None), [2, 0, 3, 1])),
        (single("Gather", (4, 3), "x", indices(-1, 1), axis=1), (slice(None), [3, 1])),
        (single("Slice", (5, 3), "x", indices(0), indices(5), indices(1), indices(2)), (slice(None), slice(0, 5, 2))),
        (
            single("Slice", (5, 3), "x", indices(-1), indices(-9), indices(1), indices(-1)),
            (slice(None), [4, 3, 2, 1, 0]),
        ),
    ],
    ids=["permuted", "selected", "strided", "turned round"],
)
def test_cells_that_were_taken_once_are_moved(rng: np.random.Generator, model: onnx.ModelProto, taken: tuple):
    """Exactly: what is infinite stays in its place, where a product with zeros would spread it."""
    x = rng.normal(size=(2, *(dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim[1:])))
    expected = np.zeros_like(x)
    cotangent = rng.normal(size=expected[taken].shape)
    cotangent[0, 1, 2] = np.inf
    expected[taken] = cotangent
    backward = build_vjp(model)
    gradient, _ = reference(backward)({"x": x, "cotangent": cotangent.reshape(2, -1)})
    np.testing.assert_array_equal(gradient, expected)
    assert not {"MatMul", "ScatterElements", "ScatterND"}.intersection(each.op_type for each in backward.graph.node)


def test_cells_that_were_taken_twice_add_up(rng: np.random.Generator):
    model = single("Gather", (4, 3), "x", indices(2, 0, 2), axis=1)
    backward = build_vjp(model)
    cotangent = rng.normal(size=(2, 3, 3))
    gradient, _ = reference(backward)({"x": np.zeros((2, 4, 3)), "cotangent": cotangent.reshape(2, -1)})
    none = np.zeros((2, 3))
    expected = np.stack([cotangent[:, 1], none, cotangent[:, 0] + cotangent[:, 2], none], axis=1)
    np.testing.assert_allclose(gradient, expected, rtol=1e-15)
    assert "MatMul" in {each.op_type for each in backward.graph.node}


def test_a_norm_of_nothing_has_gradient_0():
    model = single("ReduceL2", (4,), "x", indices(1))
    gradient, _ = reference(build_vjp(model))({"x": np.zeros((2, 4)), "cotangent": np.full((2, 1), 1e6)})
    np.testing.assert_array_equal(gradient, 0)


# Quantisers, straight through: what the float model would have, but for codes that saturate.


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("code", [np.uint8, np.int8, np.int16])
@pytest.mark.parametrize("middle", [None, "Transpose", "MaxPool", "Relu"])
@pytest.mark.parametrize("computed", [False, True])
def test_quantisers_pass_where_codes_do_not_saturate(
    rng: np.random.Generator, per_channel: bool, code: type, middle: str | None, computed: bool
):
    limits = np.iinfo(code)
    span = limits.max - limits.min
    scale = rng.uniform(1, 2, 3) / span if per_channel else np.array(1.5 / span)
    zero = rng.integers(limits.min + span // 3, limits.max - span // 3, 3 if per_channel else None).astype(code)
    zero, axis = np.asarray(zero, code), 1 if per_channel else None
    nodes = [node("Neg", ["x"], ["m"]), node("Neg", ["m"], ["k"])] if computed else []
    nodes.append(node("QuantizeLinear", ["k" if computed else "x", "s", "z"], ["q"], axis=axis))
    if middle == "Transpose":
        nodes.append(node("Transpose", ["q"], ["p"], perm=[0, 1, 3, 2]))
    elif middle:
        nodes.append(node(middle, ["q"], ["p"], **({"kernel_shape": [1, 1]} if middle == "MaxPool" else {})))
    nodes += [
        node("DequantizeLinear", ["p" if middle else "q", "s", "z"], ["d"], axis=axis),
        node("Mul", ["d", "w"], ["y"]),
    ]
    w = rng.normal(size=(3, 4, 4))
    given = {name: each.astype(np.float32) for name, each in (("s", scale), ("w", w))}
    model = graph(nodes, {**given, "z": zero}, (3, 4, 4), dtype=np.float32, opset=21)
    x = rng.uniform(-1.5, 1.5, size=(2, 3, 4, 4)).astype(np.float32)
    cotangent = rng.normal(size=(2, 48)).astype(np.float32)
    if middle == "Relu":
        with pytest.raises(GradientError, match="Relu at 'p': it computes with codes, 'q'"):
            build_vjp(model)
        return
    run = runtime if middle == "MaxPool" else reference
    if middle == "MaxPool" and code == np.int16:
        return  # no such operator
    gradient, _ = run(build_vjp(model))({"x": x, "cotangent": cotangent})
    shape = (-1, 1, 1) if per_channel else ()
    place = x / scale.reshape(shape) + zero.astype(float).reshape(shape)
    inside = (place > limits.min - 0.5) & (place < limits.max + 0.5)
    if computed:  # only the code is read, and the last ones count as saturated
        code_of_x = np.clip(np.rint(place), limits.min, limits.max)
        inside = (code_of_x > limits.min) & (code_of_x < limits.max)
    assert 0.1 < inside.mean() < 0.95
    back = cotangent.reshape(x.shape) * w
    expected = np.where(inside, back.transpose(0, 1, 3, 2) if middle == "Transpose" else back, 0)
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-6)


def test_codes_of_other_types_are_refused():
    nodes = [node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["y"])]
    zero = helper.make_tensor("z", TensorProto.FLOAT8E4M3FN, [], [0.0])
    model = graph(nodes, {"s": np.array(0.1)}, (4,), dtype=np.float32, opset=19)
    model.graph.initializer.append(zero)
    with pytest.raises(GradientError, match="FLOAT8E4M3FN"):
        build_vjp(model)


# Controls: the comparison finds what is wrong, and what cannot be right is refused.


def unflipped(step: Step) -> list[Value | None]:
    weights = step.input(1).transpose(1, 0, 2, 3)
    return [step.g.op("Conv", weights, pads=[1, 1, 1, 1])]


def moved_alone(step: Step) -> list[Value | None]:
    """GridSample without what its places pass on."""
    return [RIGHT(step)[0], None]


RIGHT = RULES["GridSample"]
PLANTED: dict[str, tuple[Rule, Problem]] = {
    "CumSum": (
        lambda step: [step.g.op("CumSum", step.input(1)), None],
        linear(lambda dtype: single("CumSum", (3, 4), "x", np.array(1), dtype=dtype), np.ones((2, 3, 4)))[0],
    ),
    "ReduceProd": (
        lambda step: [(step.y * step.g).expand_like(step.x)],
        Problem(single("ReduceProd", (4,), "x", indices(1)), np.array([[0.0, 1.0, 2.0, -1.5], [1.0, 2.0, 3.0, 0.5]])),
    ),
    "GridSample": (
        moved_alone,
        Problem(
            single(
                "GridSample",
                (2, 3, 3),
                "x",
                "x.moved",
                mode="bilinear",
                dtype=np.float32,
                padding_mode="border",
                before=[
                    node("Transpose", ["x"], ["x.turned"], perm=[0, 2, 3, 1]),
                    node("Mul", ["x.turned", "small"], ["x.moved"]),
                ],
                weights={"small": np.array(0.2)},
            ),
            np.random.default_rng(0).normal(size=(2, 2, 3, 3)).astype(np.float32),
            runtime=True,
            step=2**-8,
            tolerance=3e-3,
        ),
    ),
    "Relu": (lambda step: [step.g], Problem(single("Relu", (3, 4)), np.random.default_rng(0).normal(size=(2, 3, 4)))),
    "Conv": (
        unflipped,
        Problem(
            single("Conv", (2, 4, 4), "x", np.random.default_rng(0).normal(size=(3, 2, 3, 3)), pads=[1] * 4),
            np.random.default_rng(1).normal(size=(2, 2, 4, 4)),
        ),
    ),
}


@pytest.mark.parametrize("op_type", PLANTED)
def test_a_planted_mistake_is_found(monkeypatch: pytest.MonkeyPatch, op_type: str):
    wrong, problem = PLANTED[op_type]
    check(problem)
    monkeypatch.setitem(RULES, op_type, wrong)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        check(problem)


def test_operators_without_a_rule_are_named_before_anything_runs():
    square = graph(
        [
            node("Compress", ["x", "taken"], ["sums"], axis=1),
            node("Custom", ["sums"], ["own"], domain="org.example"),
            node("Relu", ["own"], ["r"]),
            node("Compress", ["r", "taken"], ["again"], axis=1),
            node("Det", ["again"], ["y"]),
        ],
        {"taken": np.ones(3, bool)},
        (3, 3),
    )
    square.opset_import.append(helper.make_opsetid("org.example", 1))
    expected = ["Compress (at 'sums')", "org.example.Custom (at 'own')", "Det (at 'y')"]
    assert missing_rules(square) == expected
    with pytest.raises(GradientError) as error:
        build_vjp(square)
    assert str(error.value) == "no backward rule for " + ", ".join(expected)


def test_operators_beside_the_path_need_no_rule(rng: np.random.Generator):
    """Det only decides which values are taken, and TopK only where they are."""
    nodes = [
        node("Det", ["x"], ["det"]),
        node("Greater", ["det", "zero"], ["mask"]),
        node("Unsqueeze", ["mask", "behind"], ["wide"]),
        node("TopK", ["x", "one"], ["top", "where"], axis=2),
        node("Cast", ["where"], ["place"], to=TensorProto.DOUBLE),
        node("Where", ["wide", "x", "place"], ["y"]),
    ]
    weights = {"zero": np.array(0.0), "behind": np.array([1, 2]), "one": np.array([1])}
    model = graph(nodes, weights, (3, 3))
    assert missing_rules(model) == []
    check(Problem(model, rng.normal(size=(4, 3, 3))))


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([node("Conv", ["w", "x"], ["y"])], "weights of Conv"),
        ([node("PRelu", ["x", "x"], ["y"])], "slope of PRelu"),
        ([node("GridSample", ["x", "x.grid"], ["y"], mode="bicubic")], "mode 'bicubic'"),
        ([node("ReduceMax", ["x", "axes"], ["m"], keepdims=0), node("Clip", ["x", "m"], ["y"])], "'m' depends"),
        ([node("LayerNormalization", ["x", "x"], ["y"])], "parameter of LayerNormalization"),
        ([node("LayerNormalization", ["x", "v"], ["n", "m"]), node("Add", ["n", "m"], ["y"])], "another output"),
        ([node("ReduceMean", ["x", "first"], ["m"]), node("Add", ["x", "m"], ["y"])], "along the batch axis"),
        ([node("GatherND", ["x", "pairs"], ["y"], batch_dims=2)], "several axes of batches"),
        ([node("ScatterND", ["x", "pair", "v"], ["y"], reduction="mul")], "reduction 'mul'"),
        ([node("CumSum", ["x", "nought"], ["y"])], "along the batch axis"),
        ([node("TopK", ["x", "axes"], ["y", "places"], axis=0)], "TopK along the batch has no rule"),
        ([node("ArgMax", ["x"], ["a"], axis=1), node("Cast", ["a"], ["y"], to=11)], "every path passes a step"),
        ([node("Compress", ["x", "taken"], ["y"], axis=1)], r"no backward rule for Compress \(at 'y'\)"),
        ([node("Einsum", ["x"], ["y"], equation="niijk->nj")], "diagonal"),
        ([node("Einsum", ["x"], ["y"], equation="n...->n...")], "give every letter"),
        ([node("MaxPool", ["x"], ["y"], kernel_shape=[1, 1], strides=[3, 3], ceil_mode=1)], "in the padding alone"),
    ],
)
def test_forms_that_rules_do_not_know_are_refused(nodes: list[onnx.NodeProto], message: str):
    weights = {"w": np.ones((1, 2, 3, 3)), "v": np.ones(3), "axes": np.array([1]), "first": np.array([0])}
    weights |= {"taken": np.ones(2, bool), "nought": np.array(0), "pairs": indices(0, 1)[None, None]}
    weights |= {"pair": indices(0, 0, 0)[None], "x.grid": np.zeros((1, 2, 2, 2))}
    with pytest.raises(GradientError, match=message):
        build_vjp(graph(nodes, weights, (2, 3, 3), outputs=["N"] if "Einsum" in nodes[0].op_type else None))


# The log-odds of a class against the rest.


def classifier(dtype: type, scale: float = 1.0) -> tuple[onnx.ModelProto, np.ndarray]:
    w = np.random.default_rng(3).normal(size=(6, 5)) * scale
    return single("Gemm", (6,), "x", w, np.arange(5) / 5, dtype=dtype), w


def one_and_rest(count: int, classes: int, target: int, dtype: type) -> dict[str, np.ndarray]:
    one = np.zeros((count, classes), dtype)
    one[:, target] = 1
    return {"cotangent": one, "rest": 1 - one}


def test_the_gradient_of_log_odds_is_that_of_the_evidence(rng: np.random.Generator):
    model, _ = classifier(np.float64)
    backward = build_vjp(model, rest=True)
    onnx.checker.check_model(backward, full_check=True)
    run, forward, x = reference(backward), reference(model), rng.normal(size=(3, 6))
    for target in range(5):
        gradient, value = run({"x": x, **one_and_rest(3, 5, target, np.float64)})

        def odds(values: np.ndarray, target: int = target) -> np.ndarray:
            return log_probabilities(forward({"x": values})[0], [target]).log_odds

        slopes, _ = form_slopes(odds, x, np.ones((3, 1)), 1e-5, independent=True)
        np.testing.assert_allclose(gradient, slopes, atol=1e-8)
        np.testing.assert_allclose(value, forward({"x": x})[0])


def test_the_rest_may_be_empty_or_a_few_classes(rng: np.random.Generator):
    model, w = classifier(np.float64)
    x = rng.normal(size=(2, 6))
    cotangent, none = rng.normal(size=(2, 5)), np.zeros((2, 5))
    run = reference(build_vjp(model, rest=True))
    np.testing.assert_allclose(run({"x": x, "cotangent": cotangent, "rest": none})[0], cotangent @ w.T)
    few = np.array([[0, 1, 0, 1, 0], [1, 0, 0, 0, 0.0]])
    powers = np.exp(x @ w + np.arange(5) / 5) * few
    softmax = powers / powers.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(run({"x": x, "cotangent": cotangent, "rest": few})[0], (cotangent - softmax) @ w.T)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_log_odds_have_a_gradient_where_the_probability_rounds_to_1(rng: np.random.Generator, dtype: type):
    model, w = classifier(dtype, scale=8)
    target = int(np.linalg.norm(w, axis=0).argmax())
    x = (rng.normal(size=(4, 6)) * 0.3 + w[:, target] / 4).astype(dtype)
    logits = x.astype(np.float64) @ w + np.arange(5) / 5
    powers = np.exp(logits - logits.max())
    assert (powers[:, target] / powers.sum(axis=1)).astype(dtype).max() == 1, "the probability is to round to 1"
    with np.errstate(over="ignore"):  # half precision masks with its lowest number
        gradient, _ = reference(build_vjp(model, rest=True))({"x": x, **one_and_rest(4, 5, target, dtype)})
    others = np.delete(logits, target, axis=1)
    softmax = np.exp(others - others.max(axis=1, keepdims=True))
    softmax /= softmax.sum(axis=1, keepdims=True)
    expected = w[:, target] - softmax @ np.delete(w, target, axis=1).T
    assert np.isfinite(gradient).all()
    # The softmax itself is as exact as the logits are.
    bound = 3e-5 if dtype == np.float32 else 0.2
    np.testing.assert_allclose(gradient, expected, atol=bound * np.abs(expected).max())


# Guided backpropagation.


def test_guided_backpropagation_is_as_written_by_hand(rng: np.random.Generator):
    shape = (2, 4, 4)
    u, v = rng.normal(size=(3, 2)), rng.normal(size=(4, 3))
    nodes = [
        node("Conv", ["x", "u"], ["a"]), node("Relu", ["a"], ["b"]),
        node("Conv", ["b", "v"], ["c"]), node("Clip", ["c", "zero", "six"], ["y"]),
    ]  # fmt: skip
    weights = {"u": u[..., None, None], "v": v[..., None, None], "zero": np.array(0.0), "six": np.array(6.0)}
    model = graph(nodes, weights, shape)
    x, cotangent = rng.normal(size=(2, *shape)), rng.normal(size=(2, 4 * 16))
    a = np.einsum("oi,nihw->nohw", u, x)
    c = np.einsum("oi,nihw->nohw", v, np.maximum(a, 0))
    at_c = np.maximum(cotangent.reshape(c.shape), 0) * ((c > 0) & (c < 6))
    at_a = np.maximum(np.einsum("oi,nohw->nihw", v, at_c), 0) * (a > 0)
    expected = np.einsum("oi,nohw->nihw", u, at_a)
    feeds = {"x": x, "cotangent": cotangent}
    np.testing.assert_allclose(reference(build_vjp(model, rules="guided"))(feeds)[0], expected)
    assert np.abs(reference(build_vjp(model))(feeds)[0] - expected).max() > 0.1


def test_guided_backpropagation_needs_a_rectifier():
    with pytest.raises(GradientError, match="there are none here"):
        build_vjp(single("Sigmoid", (3,)), rules="guided")


def test_control_nodes_that_would_leave_a_gpu_are_counted():
    kinds = {"of": TensorProto.FLOAT, "whole": TensorProto.INT64}
    inputs = [helper.make_tensor_value_info(name, kind, [2, 3]) for name, kind in kinds.items()]
    nodes = [
        node("Relu", ["of"], ["a"]),
        node("Mish", ["a"], ["b"]),
        node("Mish", ["b"], ["c"]),
        node("Neg", ["whole"], ["d"]),
        node("Abs", ["d"], ["e"]),
        node("ReduceMean", ["e"], ["f"], keepdims=0),
        node("Gelu", ["c"], ["g"], domain="com.microsoft"),
    ]
    made = helper.make_graph(nodes, "g", inputs, [helper.make_tensor_value_info("g", TensorProto.FLOAT, None)])
    model = helper.make_model(
        made, opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    )
    assert left(model) == {"Mish of float": 2, "ReduceMean of int64": 1, "Gelu of float": 1}
