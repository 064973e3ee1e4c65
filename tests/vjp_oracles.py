"""Central differences against backward graphs: small models, two ways to run them, and the comparison.

The reference evaluator of the onnx package runs everything in float64, where its operators are right; ONNX Runtime
runs the others. Linear operators survive float32 there: with a step of 1 their differences are exact but for
rounding. So do maxima of whole numbers, none of which a step of 1/4 carries past another.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from onnx_evidence.vjp import build_vjp

Runner = Callable[[dict[str, np.ndarray]], list[np.ndarray]]
node = helper.make_node


class Draw:
    """Choices of one example."""

    def __init__(self, data: st.DataObject) -> None:
        self.data = data
        self.rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))

    def pick(self, *options: Any) -> Any:
        return self.data.draw(st.sampled_from(options))

    def int(self, low: int, high: int) -> int:
        return self.data.draw(st.integers(low, high))

    def ints(self, count: int, low: int, high: int) -> list[int]:
        return [self.int(low, high) for _ in range(count)]

    def normal(self, *shape: int) -> np.ndarray:
        return self.rng.normal(size=shape)

    def positive(self, *shape: int) -> np.ndarray:
        return self.rng.uniform(0.3, 2, size=shape)

    def distinct(self, *shape: int) -> np.ndarray:
        """Whole numbers, each once, of both signs."""
        count = int(np.prod(shape))
        return self.rng.permutation(np.arange(count) - count // 2).reshape(shape).astype(np.float64)


def graph(
    nodes: Sequence[onnx.NodeProto],
    weights: dict[str, np.ndarray],
    shape: Sequence[int],
    *,
    batch: int | str = "N",
    opset: int = 18,
    dtype: type = np.float64,
    outputs: Sequence[int | str] | None = None,
    listed: bool = False,
) -> onnx.ModelProto:
    """A model from 'x' (batch, *shape) to 'y', all floats of one type; IR 3 has its weights ``listed`` as inputs."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    tensors = [
        numpy_helper.from_array(np.asarray(array.astype(dtype) if array.dtype == np.float64 else array), name)
        for name, array in weights.items()
    ]
    inputs = [helper.make_tensor_value_info("x", kind, [batch, *shape])]
    if listed:
        inputs += [helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims) for tensor in tensors]
    made = helper.make_graph(nodes, "oracle", inputs, [helper.make_tensor_value_info("y", kind, outputs)], tensors)
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(made, opset_imports=opsets, ir_version=3 if listed else 10)


def single(
    op_type: str,
    shape: Sequence[int],
    *inputs: Any,
    before: Sequence[onnx.NodeProto] = (),
    after: Sequence[onnx.NodeProto] = (),
    constants_as_nodes: bool = False,
    domain: str | None = None,
    weights: dict[str, np.ndarray] | None = None,
    batch: int | str = "N",
    opset: int = 18,
    dtype: type = np.float64,
    **attributes: Any,
) -> onnx.ModelProto:
    """A model of one operator; inputs are names of tensors, arrays, or None for what is left out.

    ``before`` makes other tensors of 'x'; ``after`` reads 'z', where there is any, and makes 'y'.
    """
    names, weights, made = [], dict(weights or {}), []
    for place, each in enumerate(inputs or ("x",)):
        if isinstance(each, np.ndarray):
            names.append(f"c{place}")
            typed = each.astype(dtype) if each.dtype == np.float64 else each
            if constants_as_nodes:
                made.append(node("Constant", [], names[-1:], value=numpy_helper.from_array(np.asarray(typed))))
            else:
                weights[names[-1]] = typed
        else:
            names.append(each or "")
    given = {key: value for key, value in attributes.items() if value is not None}
    main = node(op_type, names, ["z" if after else "y"], domain=domain, **given)
    return graph([*made, *before, main, *after], weights, shape, batch=batch, opset=opset, dtype=dtype)


@dataclass
class Problem:
    """A model, where its gradient is asked for, and how."""

    model: onnx.ModelProto
    x: np.ndarray
    runtime: bool = False
    step: float = 1e-5
    tolerance: float = 1e-6
    independent: bool = True
    valid: bool = True


def linear(make: Callable[[type], onnx.ModelProto], x: np.ndarray) -> list[Problem]:
    """A linear model in float32 on ONNX Runtime."""
    return [Problem(make(np.float32), x.astype(np.float32), runtime=True, step=1.0, tolerance=1e-5)]


class Pad(OpRun):
    """With negative numbers, which crop: numpy's function, which the reference evaluator calls, knows none."""

    op_domain = ""

    def _run(
        self, x: np.ndarray, pads: np.ndarray, value: Any = None, axes: Any = None, mode: str = "constant"
    ) -> tuple[np.ndarray]:
        places = range(x.ndim) if axes is None else axes
        padded = x
        for axis, front, behind in zip(places, *pads.reshape(2, -1).tolist(), strict=True):
            pairs = [(0, 0)] * x.ndim
            pairs[axis] = (max(front, 0), max(behind, 0))
            given = {"constant_values": 0 if value is None else value} if mode == "constant" else {}
            padded = np.pad(padded, pairs, mode=mode, **given)
            cut = slice(max(-front, 0), padded.shape[axis] - max(-behind, 0))
            padded = padded[(slice(None),) * (axis % x.ndim) + (cut,)]
        return (padded,)


class Erf(OpRun):
    """In double precision: the evaluator's own computes float32."""

    op_domain = ""

    def _run(self, x: np.ndarray) -> tuple[np.ndarray]:
        return (np.vectorize(math.erf, otypes=["d"])(x).astype(x.dtype),)


class Gelu(OpRun):
    """As `Erf`."""

    op_domain = ""

    def _run(self, x: np.ndarray, approximate: str = "none") -> tuple[np.ndarray]:
        if approximate == "tanh":
            return (x * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),)
        return (x * 0.5 * (1 + np.vectorize(math.erf, otypes=["d"])(x / math.sqrt(2))),)


class LRN(OpRun):
    """Over all channels: the evaluator's own stops at as many as there are rows."""

    op_domain = ""

    def _run(self, x: np.ndarray, alpha: float, beta: float, bias: float, size: int) -> tuple[np.ndarray]:
        below = (size - 1) // 2
        channels = range(x.shape[1])
        squares = [(x[:, max(0, c - below) : c - below + size] ** 2).sum(axis=1) for c in channels]
        return (x / (bias + alpha / size * np.stack(squares, axis=1)) ** beta,)


class GlobalMaxPool(OpRun):
    """With sides of 1, also on a line."""

    op_domain = ""

    def _run(self, x: np.ndarray) -> tuple[np.ndarray]:
        return (x.max(axis=tuple(range(2, x.ndim)), keepdims=True),)


class MaxPool(OpRun):
    """With the places of the largest: the evaluator's own counts them in the padded picture."""

    op_domain = ""

    def _run(self, x: np.ndarray, **given: Any) -> tuple[np.ndarray, ...]:
        assert (given.get("auto_pad") or "NOTSET") == "NOTSET"
        kernel, rank = given["kernel_shape"], x.ndim - 2
        strides, dilations = given.get("strides") or [1] * rank, given.get("dilations") or [1] * rank
        front, behind = np.reshape(given.get("pads") or [0] * 2 * rank, (2, rank))
        sides = x.shape[2:]
        reach = (np.array(kernel) - 1) * dilations + 1
        room = np.array(sides) + front + behind - reach
        counts = (-(-room // strides) if given.get("ceil_mode") else room // strides) + 1
        places = np.arange(x.size).reshape(x.shape)
        best = np.full((*x.shape[:2], *counts), -np.inf)
        where = np.zeros(best.shape, np.int64)
        for tap in np.ndindex(*kernel):
            cells = [np.arange(counts[k]) * strides[k] - front[k] + tap[k] * dilations[k] for k in range(rank)]
            clipped = [np.clip(each, 0, side - 1) for each, side in zip(cells, sides, strict=True)]
            grid = np.ix_(*map(np.arange, x.shape[:2]), *clipped)
            outside = np.zeros(counts, bool)
            for axis, (each, near) in enumerate(zip(cells, clipped, strict=True)):
                outside |= (each != near).reshape(-1, *[1] * (rank - 1 - axis))
            values = np.where(outside, -np.inf, x[grid])
            better = values > best
            best[better], where[better] = values[better], places[grid][better]
        return best.astype(x.dtype), where


class ConvTranspose(OpRun):
    """With groups, output padding and dilations: the evaluator's own mixes them up."""

    op_domain = ""

    def _run(self, x: np.ndarray, w: np.ndarray, b: Any = None, **given: Any) -> tuple[np.ndarray]:
        assert (given.get("auto_pad") or "NOTSET") == "NOTSET"
        assert not given.get("output_shape")
        rank, group = x.ndim - 2, given.get("group") or 1
        strides, dilations = given.get("strides") or [1] * rank, given.get("dilations") or [1] * rank
        pads, added = given.get("pads") or [0] * 2 * rank, given.get("output_padding") or [0] * rank
        full = [
            (n - 1) * s + (k - 1) * a + 1 + more
            for n, s, k, a, more in zip(x.shape[2:], strides, w.shape[2:], dilations, added, strict=True)
        ]
        parts = x.reshape(len(x), group, -1, *x.shape[2:])
        y = np.zeros((len(x), group, w.shape[1], *full), x.dtype)
        for place in np.ndindex(*w.shape[2:]):
            taps = w[(..., *place)].reshape(group, -1, w.shape[1])
            cells = tuple(
                slice(p * a, p * a + (n - 1) * s + 1, s)
                for p, a, n, s in zip(place, dilations, x.shape[2:], strides, strict=True)
            )
            y[(..., *cells)] += np.einsum("ngi...,gio->ngo...", parts, taps)
        y = y.reshape(len(x), -1, *full)
        y = y[(..., *(slice(pads[k], full[k] - pads[rank + k]) for k in range(rank)))]
        return (y if b is None else y + b.reshape(-1, *[1] * rank),)


def reference(model: onnx.ModelProto) -> Runner:
    evaluator = ReferenceEvaluator(model, new_ops=[Pad, Erf, Gelu, LRN, MaxPool, GlobalMaxPool, ConvTranspose])
    return lambda feeds: evaluator.run(None, feeds)


def runtime(model: onnx.ModelProto) -> Runner:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda feeds: session.run(None, feeds)


def form_slopes(
    forward: Callable[[np.ndarray], np.ndarray], x: np.ndarray, cotangent: np.ndarray, step: float, independent: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Central differences of ``<cotangent, f(x)>`` by every element of x, and where a kink is too near for them."""
    count, size = len(x), x[0].size
    moves = (step * np.eye(x.size if not independent else size)).astype(x.dtype)
    if independent:  # all of them in one batch
        rows = x.reshape(count, 1, size) + np.stack([moves, -moves], 1).reshape(1, -1, size)
        values = np.concatenate([rows, x.reshape(count, 1, size)], 1).reshape(-1, *x.shape[1:])
        results = forward(values).astype(np.float64).reshape(count, 2 * size + 1, -1)
        forms = np.einsum("nmk,nk->nm", results, cotangent.astype(np.float64))
        ups, downs, here = forms[:, :-1:2], forms[:, 1:-1:2], forms[:, -1:]
    else:

        def form(values: np.ndarray) -> float:
            return float((forward(values).astype(np.float64).reshape(cotangent.shape) * cotangent).sum())

        ups, downs = (
            np.array([form(x + sign * move.reshape(x.shape)) for move in moves]).reshape(count, size)
            for sign in (1, -1)
        )
        here = np.array(form(x))
    slopes = (ups - downs) / (2 * step)
    kinked = np.abs(ups + downs - 2 * here) / step > max(1e-3, 10 * step) * (1 + np.abs(slopes).max())
    return slopes.reshape(x.shape), kinked.reshape(x.shape)


def check(problem: Problem) -> None:
    """Assert that the backward graph is a valid model and agrees with central differences."""
    run = runtime if problem.runtime else reference
    forward = run(problem.model)
    backward = build_vjp(problem.model)
    if problem.valid:
        onnx.checker.check_model(backward, full_check=True)
    x = problem.x
    (y,) = forward({"x": x})
    y = y.reshape(len(x), -1)
    cotangent = np.random.default_rng(5).normal(size=y.shape).astype(y.dtype)
    gradient, value = run(backward)({"x": x, "cotangent": cotangent})
    np.testing.assert_allclose(value, y, rtol=1e-6, atol=1e-6)
    assert gradient.dtype == x.dtype
    assert gradient.shape == x.shape
    slopes, kinked = form_slopes(
        lambda values: forward({"x": values})[0], x, cotangent, problem.step, problem.independent
    )
    assert kinked.mean() < 0.1, "too near to kinks"
    scale = 1 + np.abs(slopes).max()
    np.testing.assert_allclose(gradient[~kinked] / scale, slopes[~kinked] / scale, rtol=0, atol=problem.tolerance)


def in_type(model: onnx.ModelProto, dtype: type) -> onnx.ModelProto:
    """The same model of floats of another type."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    for value in (*changed.graph.input, *changed.graph.output):
        value.type.tensor_type.elem_type = kind
    # Scales of Resize are float32 always.
    scales = {name for each in changed.graph.node if each.op_type == "Resize" for name in each.input[1:]}
    for tensor in changed.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and tensor.name not in scales:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(dtype), tensor.name))
    return changed
