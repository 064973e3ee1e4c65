"""Rules of relevance: they conserve what they say, agree with rules written by hand, and with other software."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from parts.scenes.scene import draw_scene, render

from onnx_evidence import DeployedModel, Explainer
from onnx_evidence.evidence import LN2
from onnx_evidence.graphs import Net, infer_with_values
from onnx_evidence.vjp import build_vjp, relevance_tells
from onnx_evidence.vjp.telling import is_smooth, normalises
from tests.vjp_oracles import graph, node, reference, runtime, single

ROOT = Path(__file__).parent.parent
BOTH = ("attnlrp", "conservative")
TOKENS, WIDTH = 4, 6


def relevance(model: onnx.ModelProto, x: np.ndarray, rules: str, cotangent: np.ndarray) -> np.ndarray:
    """Input times cotangent."""
    backward = build_vjp(model, rules=rules)
    onnx.checker.check_model(backward, full_check=True)
    gradient, _ = reference(backward)({"x": x, "cotangent": cotangent})
    return x * gradient


def kept_of(model: onnx.ModelProto, x: np.ndarray, rules: str) -> tuple[float, float]:
    """Sum of all relevance, and what it should be: the linear form of the outputs."""
    (y,) = reference(model)({"x": x})
    cotangent = np.random.default_rng(3).normal(size=(len(x), y[0].size))
    return float(relevance(model, x, rules, cotangent).sum()), float((cotangent * y.reshape(len(x), -1)).sum())


def conserves(model: onnx.ModelProto, x: np.ndarray, rules: str) -> bool:
    kept, wanted = kept_of(model, x, rules)
    return math.isclose(kept, wanted, rel_tol=1e-6, abs_tol=1e-9)


# Networks without biases, from tokens (N, TOKENS, WIDTH) to tokens, as nodes from 'x' to 'y'.


def weights(rng: np.random.Generator) -> dict[str, np.ndarray]:
    made = {name: rng.normal(size=(WIDTH, WIDTH)) for name in ("w1", "w2", "w3", "w4")}
    constants = {"one": 1.0, "half": 0.5, "two": 2.0, "root": math.sqrt(2), "small": 1e-5, "last": [-1]}
    made |= {name: np.asarray(value) for name, value in constants.items()}
    return {**made, "scale": rng.uniform(0.5, 2, WIDTH)}


def written_norm(x: str, y: str) -> list[onnx.NodeProto]:
    """Layer normalisation as exporters write it out."""
    return [
        node("ReduceMean", [x, "last"], [f"{y}.m"]),
        node("Sub", [x, f"{y}.m"], [f"{y}.c"]),
        node("Pow", [f"{y}.c", "two"], [f"{y}.s"]),
        node("ReduceMean", [f"{y}.s", "last"], [f"{y}.v"]),
        node("Add", [f"{y}.v", "small"], [f"{y}.e"]),
        node("Sqrt", [f"{y}.e"], [f"{y}.r"]),
        node("Div", [f"{y}.c", f"{y}.r"], [f"{y}.n"]),
        node("Mul", [f"{y}.n", "scale"], [y]),
    ]


def written_gelu(x: str, y: str) -> list[onnx.NodeProto]:
    return [
        node("Div", [x, "root"], [f"{y}.d"]),
        node("Erf", [f"{y}.d"], [f"{y}.e"]),
        node("Add", [f"{y}.e", "one"], [f"{y}.a"]),
        node("Mul", [x, f"{y}.a"], [f"{y}.p"]),
        node("Mul", [f"{y}.p", "half"], [y]),
    ]


def attention(queries: str = "w1") -> list[onnx.NodeProto]:
    return [
        node("MatMul", ["x", queries], ["q"]),
        node("MatMul", ["x", "w2"], ["k"]),
        node("MatMul", ["x", "w3"], ["v"]),
        node("Transpose", ["k"], ["kt"], perm=[0, 2, 1]),
        node("MatMul", ["q", "kt"], ["scores"]),
        node("Softmax", ["scores"], ["shares"], axis=-1),
        node("MatMul", ["shares", "v"], ["mixed"]),
        node("Add", ["x", "mixed"], ["y"]),
    ]


def block() -> list[onnx.NodeProto]:
    """Two normalisations and a perceptron beside a shortcut, in both spellings."""
    return [
        *written_norm("x", "n1"),
        node("MatMul", ["n1", "w1"], ["h1"]),
        *written_gelu("h1", "g1"),
        node("MatMul", ["g1", "w2"], ["h2"]),
        node("Add", ["x", "h2"], ["sum"]),
        node("LayerNormalization", ["sum", "scale"], ["n2"]),
        node("MatMul", ["n2", "w3"], ["h3"]),
        node("Gelu", ["h3"], ["g3"], approximate="tanh"),
        node("MatMul", ["g3", "w4"], ["y"]),
    ]


def gated() -> list[onnx.NodeProto]:
    """Two branches multiplied, a gate from a third, and a norm by its reciprocal."""
    return [
        node("MatMul", ["x", "w1"], ["a"]),
        node("MatMul", ["x", "w2"], ["b"]),
        node("Mul", ["a", "b"], ["product"]),
        node("MatMul", ["x", "w3"], ["c"]),
        node("Sigmoid", ["c"], ["gate"]),
        node("Mul", ["product", "gate"], ["open"]),
        node("ReduceL2", ["open", "last"], ["length"]),
        node("Reciprocal", ["length"], ["inverse"]),
        node("Mul", ["open", "inverse"], ["y"]),
    ]


def products() -> list[onnx.NodeProto]:
    return [
        node("MatMul", ["x", "w1"], ["a"]),
        node("Transpose", ["a"], ["at"], perm=[0, 2, 1]),
        node("MatMul", ["x", "at"], ["p"]),
        node("Einsum", ["p", "x", "a"], ["y"], equation="bij,bjk,bjk->bik"),
    ]


NETWORKS: dict[str, Callable[[], list[onnx.NodeProto]]] = {"block": block, "gated": gated, "products": products}


@pytest.mark.parametrize("rules", BOTH)
@pytest.mark.parametrize("name", NETWORKS)
def test_relevance_is_conserved_without_biases_and_gradient_times_input_is_not(name, rules, rng):
    model = graph(NETWORKS[name](), weights(rng), (TOKENS, WIDTH), opset=20)
    x = rng.normal(size=(2, TOKENS, WIDTH))
    assert conserves(model, x, rules)
    assert not conserves(model, x, "gradient")


def test_attention_is_conserved_where_its_weights_are_held_alone(rng):
    model = graph(attention(), weights(rng), (TOKENS, WIDTH))
    x = rng.normal(size=(2, TOKENS, WIDTH))
    assert conserves(model, x, "conservative")
    assert not conserves(model, x, "attnlrp")  # softmax keeps its derivative
    assert not conserves(model, x, "gradient")


def test_what_biases_take_is_all_that_is_missing(rng):
    nodes = [
        node("MatMul", ["x", "w1"], ["h"]),
        node("Add", ["h", "bias"], ["hb"]),
        *written_gelu("hb", "g"),
        node("MatMul", ["g", "w2"], ["y"]),
    ]
    given = {**weights(rng), "bias": rng.normal(size=WIDTH)}
    model, x = graph(nodes, given, (TOKENS, WIDTH)), rng.normal(size=(1, TOKENS, WIDTH))
    cotangent = rng.normal(size=(1, TOKENS * WIDTH))
    kept = relevance(model, x, "attnlrp", cotangent).sum()
    inner = x @ given["w1"] + given["bias"]
    gates = (1 + np.vectorize(math.erf)(inner / math.sqrt(2))) / 2
    back = cotangent.reshape(1, TOKENS, WIDTH) @ given["w2"].T * gates
    whole = float((cotangent.reshape(inner.shape) * ((inner * gates) @ given["w2"])).sum())
    assert kept == pytest.approx(whole - float((back * given["bias"]).sum()))


def by_hand(x: np.ndarray, w: dict[str, np.ndarray], cotangent: np.ndarray, held: bool) -> np.ndarray:
    """Cotangent of one picture's tokens behind `attention`, rule by rule."""
    q, k, v = x @ w["w1"], x @ w["w2"], x @ w["w3"]
    scores = q @ k.T
    shares = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    if held:
        return cotangent + shares.T @ cotangent @ w["w3"].T
    of_shares = cotangent @ v.T / 2
    of_scores = shares * (of_shares - (of_shares * shares).sum(axis=1, keepdims=True))
    of_keys = of_scores.T @ q / 2
    return cotangent + (shares.T @ cotangent / 2) @ w["w3"].T + (of_scores @ k / 2) @ w["w1"].T + of_keys @ w["w2"].T


@pytest.mark.parametrize("rules", BOTH)
@pytest.mark.parametrize("fused", [False, True])
def test_attention_is_as_written_by_hand(rules, fused, rng):
    w = weights(rng)
    nodes, opset = attention(), 18
    if fused:
        heads = [node("Unsqueeze", [name, "first"], [f"{name}4"]) for name in ("q", "k", "v")]
        joined = node("Attention", ["q4", "k4", "v4"], ["mixed4"], scale=1.0)
        back = node("Squeeze", ["mixed4", "first"], ["mixed"])
        nodes, opset = [*nodes[:3], *heads, joined, back, nodes[-1]], 23
        w["first"] = np.array([1])
    model = graph(nodes, w, (TOKENS, WIDTH), opset=opset, dtype=np.float32)
    x = rng.normal(size=(1, TOKENS, WIDTH)).astype(np.float32)
    cotangent = rng.normal(size=(1, TOKENS * WIDTH)).astype(np.float32)
    gradient, _ = runtime(build_vjp(model, rules=rules))({"x": x, "cotangent": cotangent})
    expected = by_hand(x[0].astype(float), w, cotangent.reshape(TOKENS, WIDTH), rules == "conservative")
    np.testing.assert_allclose(gradient[0], expected, rtol=1e-4, atol=1e-4)


ACTIVATIONS = {
    "Gelu": {"opset": 20},
    "Swish": {"opset": 24, "alpha": 1.5},
    "HardSwish": {},
    "Mish": {"opset": 18},
    "Elu": {"alpha": 0.7},
    "Selu": {},
    "Celu": {"alpha": 1.3},
    "Tanh": {},
    "Softsign": {},
    "Erf": {},
}


@pytest.mark.parametrize("rules", BOTH)
@pytest.mark.parametrize("op_type", ACTIVATIONS)
def test_activations_hand_back_what_they_were_given(op_type, rules, rng):
    model = single(op_type, (5,), dtype=np.float32, **ACTIVATIONS[op_type])
    x = np.array([[-3.0, -0.4, 0.0, 0.7, 5.0]], np.float32)
    run = runtime if op_type != "Swish" else reference
    (y,) = run(model)({"x": x})
    cotangent = rng.normal(size=(1, 5)).astype(np.float32)
    gradient, _ = run(build_vjp(model, rules=rules))({"x": x, "cotangent": cotangent})
    np.testing.assert_allclose(x * gradient, y * cotangent, rtol=1e-5, atol=1e-6)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize(("low", "high", "around"), [(0.0, 6.0, True), (-1.0, 1.0, True), (1.0, 2.0, False)])
def test_clips_hand_back_all_only_where_zero_stays_zero(low, high, around, rng):
    model = single("Clip", (4,), "x", np.array(low), np.array(high))
    x = np.array([[-2.0, 0.5, 1.5, 8.0]])
    cotangent = rng.normal(size=(1, 4))
    found = relevance(model, x, "attnlrp", cotangent)
    slopes = relevance(model, x, "gradient", cotangent)
    np.testing.assert_allclose(found, cotangent * np.clip(x, low, high) if around else slopes)
    assert around != np.allclose(found, slopes)


NORMS = {
    "LayerNormalization": [np.array([0.5, 1.0, 2.0, 1.5])],
    "InstanceNormalization": [np.array([0.5, 2.0, 1.0]), np.zeros(3)],
    "LpNormalization": [],
    "LRN": [],
}


@pytest.mark.parametrize("op_type", NORMS)
def test_normalisations_are_linear_while_their_spread_is_held(op_type, rng):
    given = {"size": 3, "alpha": 0.5} if op_type == "LRN" else {}
    model = single(op_type, (3, 2, 4), "x", *NORMS[op_type], **given)
    assert conserves(model, rng.normal(size=(2, 3, 2, 4)), "attnlrp")
    assert not conserves(model, rng.normal(size=(2, 3, 2, 4)), "gradient")


def test_mean_and_variance_are_held(rng):
    """In float32 on ONNX Runtime: the reference evaluator knows no other floats than its constants'."""
    model = single("MeanVarianceNormalization", (3, 2, 4), axes=[1, 2, 3], dtype=np.float32)
    x = rng.normal(size=(1, 3, 2, 4)).astype(np.float32)
    cotangent = rng.normal(size=(1, 24)).astype(np.float32)
    kept = {}
    for rules in ("attnlrp", "gradient"):
        gradient, y = runtime(build_vjp(model, rules=rules))({"x": x, "cotangent": cotangent})
        kept[rules] = float((x * gradient).sum()), float((y * cotangent).sum())
    assert kept["attnlrp"][0] == pytest.approx(kept["attnlrp"][1], rel=1e-4)
    assert kept["gradient"][0] == pytest.approx(0, abs=1e-4)


def test_a_gate_is_told_from_a_branch(rng):
    """``x`` times the sigmoid of a scaled and shifted ``x W``: all to ``x``; times ``x W`` itself: half each."""
    w = weights(rng)
    begin = [node("MatMul", ["x", "w1"], ["a"]), node("Mul", ["a", "two"], ["a2"]), node("Add", ["a2", "one"], ["a3"])]
    gate = [*begin, node("Sigmoid", ["a3"], ["s"]), node("Mul", ["s", "half"], ["t"]), node("Mul", ["t", "x"], ["y"])]
    branch = [*begin, node("Mul", ["a3", "x"], ["y"])]
    x, cotangent = rng.normal(size=(1, TOKENS, WIDTH)), rng.normal(size=(1, TOKENS * WIDTH))
    g = cotangent.reshape(x.shape)
    a3 = 2 * (x @ w["w1"]) + 1
    found = relevance(graph(gate, w, (TOKENS, WIDTH)), x, "attnlrp", cotangent)
    np.testing.assert_allclose(found, x * g / (1 + np.exp(-a3)) / 2)
    found = relevance(graph(branch, w, (TOKENS, WIDTH)), x, "attnlrp", cotangent)
    np.testing.assert_allclose(found, x * (g * a3 + (2 * g * x) @ w["w1"].T) / 2)


def test_a_divisor_alone_keeps_its_derivative(rng):
    model = single("Div", (3,), np.ones(3), "x")
    x, cotangent = rng.uniform(1, 2, (1, 3)), rng.normal(size=(1, 3))
    np.testing.assert_allclose(relevance(model, x, "attnlrp", cotangent), -cotangent / x)


def normalised(model: onnx.ModelProto) -> bool:
    net = Net(model)
    tensors, _ = infer_with_values(model, "x", None)
    return normalises(net, net.reached("x"), {name: info.shape for name, info in tensors.items()})


def test_normalisation_of_tokens_is_known_in_both_spellings(rng):
    told = {name: graph(make(), weights(rng), (TOKENS, WIDTH), opset=20) for name, make in NETWORKS.items()}
    told |= {"written": graph(written_norm("x", "y"), weights(rng), (TOKENS, WIDTH))}
    told |= {"node": single("LayerNormalization", (4,), "x", np.ones(4))}
    told |= {"attention": graph(attention(), weights(rng), (TOKENS, WIDTH))}
    told |= {"batches": single("BatchNormalization", (2, 3), "x", *(np.ones(2) for _ in range(4)))}
    told |= {
        "constant root": single("Div", (3,), "x", "r", before=[node("Sqrt", ["c"], ["r"])], weights={"c": np.ones(3)})
    }
    found = {name: normalised(model) for name, model in told.items()}
    assert {name for name, each in found.items() if each} == {"block", "written", "node"}


def chain(*steps: tuple[str, str, str]) -> list[onnx.NodeProto]:
    """Nodes of ('operator', 'its inputs', 'its output')."""
    return [node(op_type, inputs.split(), [output]) for op_type, inputs, output in steps]


SILU = chain(("Sigmoid", "x", "s"), ("Mul", "x s", "y"))
ERF = chain(("Div", "x two", "a"), ("Erf", "a", "b"), ("Add", "b one", "c"))
# Squeeze and excitation, whose own activation has a kink.
SQUEEZED = chain(
    ("ReduceMean", "x places", "p"),
    ("Relu", "p", "q"),
    ("HardSigmoid", "q", "r"),
    ("Mul", "x r", "z"),
    ("Sigmoid", "z", "s"),
)
SMOOTH = {
    "SiLU": SILU,
    "SiLU of what is scaled": chain(("Mul", "x half", "a"), ("Sigmoid", "a", "s"), ("Mul", "s a", "y")),
    "Swish": chain(("Mul", "x two", "a"), ("Sigmoid", "a", "s"), ("Mul", "x s", "y")),
    "GELU": [*ERF, *chain(("Mul", "x c", "d"), ("Mul", "d half", "y"))],
    "GELU, x halved": [*ERF, *chain(("Mul", "x half", "d"), ("Mul", "d c", "y"))],
    "GELU by tanh": chain(
        ("Pow", "x two", "a"), ("Mul", "a x", "b"), ("Add", "b x", "c"), ("Tanh", "c", "d"), ("Add", "d one", "e"),
        ("Mul", "e x", "y"),
    ),
    "GELU as a node": chain(("Gelu", "x", "y")),
    "Mish": chain(("Softplus", "x", "a"), ("Tanh", "a", "b"), ("Mul", "x b", "y")),
    "Mish as a node": chain(("Mish", "x", "y")),
    "SiLU behind squeezing": [*SQUEEZED, *chain(("Mul", "z s", "y"))],
    "Mish, its softplus chosen by comparison": chain(
        ("Softplus", "x", "a"), ("Greater", "x two", "b"), ("Where", "b x a", "c"), ("Tanh", "c", "d"),
        ("Mul", "x d", "y"),
    ),
    "bounds of the input, and far ones": chain(
        ("Clip", "x none one", "a"), ("Sigmoid", "a", "s"), ("Mul", "a s", "b"), ("Clip", "b low high", "y")
    ),
    "SiLU between codes": chain(
        ("QuantizeLinear", "x small code1", "a"), ("DequantizeLinear", "a small code1", "b"), ("Sigmoid", "b", "c"),
        ("QuantizeLinear", "c small code0", "d"), ("DequantizeLinear", "d small code0", "s"), ("Mul", "b s", "y"),
    ),
    "Mish between codes": chain(
        ("Softplus", "x", "a"), ("QuantizeLinear", "a small code0", "a8"), ("DequantizeLinear", "a8 small code0", "a9"),
        ("Tanh", "a9", "b"), ("QuantizeLinear", "b small code0", "b8"), ("DequantizeLinear", "b8 small code0", "b9"),
        ("Mul", "x b9", "y"),
    ),
    "GELU between codes": chain(
        ("Div", "x two", "a"), ("Erf", "a", "b"), ("QuantizeLinear", "b small code1", "b8"),
        ("DequantizeLinear", "b8 small code1", "b9"), ("Add", "b9 one", "c"), ("QuantizeLinear", "c small code0", "c8"),
        ("DequantizeLinear", "c8 small code0", "c9"), ("Mul", "x half", "d"), ("Mul", "d c9", "y"),
    ),
}  # fmt: skip
# A gate for channels with a smooth activation, behind what is named.
GATED = chain(
    ("ReduceMean", "z places", "p"),
    ("Sigmoid", "p", "q"),
    ("Mul", "p q", "r"),
    ("Sigmoid", "r", "s"),
    ("Mul", "z s", "y"),
)
SILU_OF_Y = chain(("Sigmoid", "y", "s2"), ("Mul", "y s2", "y2"))
NOT_SMOOTH = {
    "Relu": chain(("Relu", "x", "y")),
    "SiLU, then Relu": [*SILU[:1], *chain(("Mul", "x s", "z"), ("Relu", "z", "y"))],
    "gate of something else": chain(("MatMul", "x w1", "a"), ("Sigmoid", "a", "s"), ("Mul", "x s", "y")),
    "squeezing alone": chain(("ReduceMean", "x places", "p"), ("Sigmoid", "p", "r"), ("Mul", "x r", "y")),
    "HardSwish": chain(("HardSwish", "x", "y")),
    "HardSwish, written": chain(("Add", "x two", "a"), ("Clip", "a none one", "b"), ("Mul", "x b", "y")),
    "square": chain(("Mul", "x x", "y")),
    "Sigmoid": chain(("Sigmoid", "x", "y")),
    "by a constant": chain(("Sigmoid", "half", "s"), ("Mul", "x s", "y")),
    "smooth for channels alone": chain(("Identity", "x", "z")) + GATED,
    "rectified by a maximum": chain(("Max", "x none", "z")) + GATED + SILU_OF_Y,
    "rectified by a size": chain(("Abs", "x", "a"), ("Add", "x a", "z")) + GATED + SILU_OF_Y,
    "rectified by a mask": chain(("Greater", "x none", "a"), ("Where", "a x none", "z")) + GATED + SILU_OF_Y,
    "leaky in front of SiLU": chain(
        ("Mul", "x half", "a"), ("Greater", "x none", "b"), ("Where", "b x a", "z"), ("Sigmoid", "z", "s"),
        ("Mul", "z s", "y"),
    ),
    "rectified by codes": chain(
        ("Conv", "x kernel", "a"), ("QuantizeLinear", "a small code0", "b"), ("DequantizeLinear", "b small code0", "z"),
        ("Sigmoid", "z", "s"), ("Mul", "z s", "y"),
    ),
    "rectified by codes of what is scaled": chain(
        ("Conv", "x kernel", "a"), ("Mul", "a half", "e"), ("QuantizeLinear", "e small code0", "b"),
        ("DequantizeLinear", "b small code0", "z"), ("Sigmoid", "z", "s"), ("Mul", "z s", "y"),
    ),
    "rectified by codes without a zero point": chain(
        ("Conv", "x kernel", "a"), ("QuantizeLinear", "a small", "b"), ("DequantizeLinear", "b small", "z"),
        ("Sigmoid", "z", "s"), ("Mul", "z s", "y"),
    ),
    "SiLU, then Relu of all": chain(
        ("Sigmoid", "x", "s"), ("Mul", "x s", "z"), ("Flatten", "z", "a"), ("Relu", "a", "y")
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SMOOTH | NOT_SMOOTH)
def test_activations_that_are_smooth_are_known_in_every_spelling(name, rng):
    more = weights(rng) | {"none": np.array(0.0), "places": np.array([2, 3]), "low": np.array(-65504.0)}
    more |= {"high": np.array(65504.0), "code0": np.array(0, np.uint8), "code1": np.array(7, np.uint8)}
    more |= {"kernel": rng.normal(size=(3, 3, 1, 1))}
    model = graph((SMOOTH | NOT_SMOOTH)[name], more, (3, TOKENS, WIDTH), opset=22)
    net = Net(model)
    tensors, _ = infer_with_values(model, "x", None)
    shapes = {each: info.shape for each, info in tensors.items()}
    assert is_smooth(net, net.reached("x"), shapes) == (name in SMOOTH)
    assert relevance_tells(net, net.reached("x"), shapes) == (name in SMOOTH)


def handed(nodes: list[onnx.NodeProto], rng: np.random.Generator, rules: str = "attnlrp", **more: np.ndarray):
    """Relevance of all tokens, the weights, the tokens, and the cotangent, of nodes from 'x' to 'y'."""
    w = {**weights(rng), **more}
    x, cotangent = rng.normal(size=(1, TOKENS, WIDTH)), rng.normal(size=(1, TOKENS * WIDTH))
    found = relevance(graph(nodes, w, (TOKENS, WIDTH), opset=20), x, rules, cotangent)
    return found, w, x, cotangent.reshape(x.shape)


SPREAD = [
    node("Mul", ["x", "x"], ["sq"]),
    node("ReduceMean", ["sq", "last"], ["mean"]),
    node("Add", ["mean", "small"], ["v"]),
    node("Sqrt", ["v"], ["spread"]),
]
INVERSES = {
    "quotient": [node("Div", ["x", "spread"], ["y"])],
    "one by": [node("Div", ["one", "spread"], ["inverse"]), node("Mul", ["x", "inverse"], ["y"])],
    "reciprocal": [node("Reciprocal", ["spread"], ["inverse"]), node("Mul", ["x", "inverse"], ["y"])],
    "power": [node("Pow", ["v", "minus"], ["inverse"]), node("Mul", ["inverse", "x"], ["y"])],
}


@pytest.mark.parametrize("name", INVERSES)
def test_a_spread_is_held_however_it_is_divided_by(name, rng):
    found, _, x, g = handed([*SPREAD, *INVERSES[name]], rng, minus=np.asarray(-0.5))
    np.testing.assert_allclose(found, x * g / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-5))
    assert normalised(graph([*SPREAD, *INVERSES[name]], {**weights(rng), "minus": np.asarray(-0.5)}, (TOKENS, WIDTH)))


def test_a_gate_is_known_behind_shapes_that_are_asked_for(rng):
    """``sigmoid(...).expand_as(x)``, as torch writes it."""
    nodes = [
        node("ReduceMean", ["x", "first"], ["pooled"]),
        node("Sigmoid", ["pooled"], ["gate"]),
        node("Shape", ["x"], ["shape"]),
        node("Expand", ["gate", "shape"], ["wide"]),
        node("Mul", ["x", "wide"], ["y"]),
    ]
    found, _, x, g = handed(nodes, rng, first=np.array([1]))
    np.testing.assert_allclose(found, x * g / (1 + np.exp(-x.mean(axis=1, keepdims=True))))


def test_a_gate_is_known_behind_its_codes(rng):
    """Of a quantised model, whose gates are rounded to steps of 1/256."""
    nodes = [
        node("MatMul", ["x", "w1"], ["a"]),
        node("Sigmoid", ["a"], ["s"]),
        node("QuantizeLinear", ["s", "step", "zero"], ["code"]),
        node("DequantizeLinear", ["code", "step", "zero"], ["gate"]),
        node("Mul", ["x", "gate"], ["y"]),
    ]
    given = {**weights(rng), "step": np.asarray(1 / 256), "zero": np.zeros((), np.uint8)}
    model = graph(nodes, given, (TOKENS, WIDTH), dtype=np.float32)
    x = rng.normal(size=(1, TOKENS, WIDTH)).astype(np.float32)
    cotangent = rng.normal(size=(1, TOKENS * WIDTH)).astype(np.float32)
    gradient, _ = runtime(build_vjp(model, rules="attnlrp"))({"x": x, "cotangent": cotangent})
    gate = 1 / (1 + np.exp(-(x @ given["w1"])))
    np.testing.assert_allclose(gradient, cotangent.reshape(x.shape) * gate, atol=4 / 256)


def test_of_two_gates_the_one_that_may_be_a_signal_gets_all(rng):
    nodes = [
        node("MatMul", ["x", "w1"], ["a"]),
        node("MatMul", ["x", "w2"], ["b"]),
        node("Tanh", ["a"], ["t"]),
        node("Sigmoid", ["b"], ["s"]),
        node("Mul", ["t", "s"], ["y"]),
    ]
    found, w, x, g = handed(nodes, rng)
    a = x @ w["w1"]
    back = g / (1 + np.exp(-(x @ w["w2"]))) * np.tanh(a) / a
    np.testing.assert_allclose(found, x * (back @ w["w1"].T))


def test_a_bias_of_a_product_is_no_factor(rng):
    model = single("Gemm", (3,), "x", np.eye(3) * 2, "x")
    x, cotangent = rng.normal(size=(1, 3)), rng.normal(size=(1, 3))
    np.testing.assert_allclose(relevance(model, x, "attnlrp", cotangent), 3 * x * cotangent)


@pytest.mark.parametrize(("op_type", "inputs"), [("Sqrt", ["x"]), ("Pow", ["x", np.array(0.45)])])
def test_roots_hand_back_what_they_were_given_and_nothing_at_zero(op_type, inputs, rng):
    model = single(op_type, (4,), *inputs)
    x, cotangent = np.array([[0.0, 0.5, 2.0, 3.0]]), rng.normal(size=(1, 4))
    (y,) = reference(model)({"x": x})
    np.testing.assert_allclose(relevance(model, x, "attnlrp", cotangent), y * cotangent)


@pytest.mark.parametrize("rules", BOTH)
@pytest.mark.parametrize("constant", ["q", "v"])
def test_attention_from_learned_tokens_is_the_same_in_one_node(constant, rules, rng):
    """Queries of a pooling head, or values, may be weights of the model."""
    made = {name: node("MatMul", ["x", weight], [name]) for name, weight in (("q", "w1"), ("k", "w2"), ("v", "w3"))}
    begin = [each for name, each in made.items() if name != constant]
    written = [
        node("Transpose", ["k"], ["kt"], perm=[0, 2, 1]),
        node("MatMul", ["q", "kt"], ["scores"]),
        node("Softmax", ["scores"], ["shares"], axis=-1),
        node("MatMul", ["shares", "v"], ["y"]),
    ]
    fused = [
        *(node("Unsqueeze", [name, "first"], [f"{name}4"]) for name in "qkv"),
        node("Attention", ["q4", "k4", "v4"], ["mixed"], scale=1.0),
        node("Squeeze", ["mixed", "first"], ["y"]),
    ]
    w = {**weights(rng), constant: rng.normal(size=(1, TOKENS, WIDTH)), "first": np.array([1])}
    x = rng.normal(size=(1, TOKENS, WIDTH)).astype(np.float32)
    cotangent = rng.normal(size=(1, TOKENS * WIDTH)).astype(np.float32)
    one, other = (
        runtime(build_vjp(graph([*begin, *end], w, (TOKENS, WIDTH), opset=23, dtype=np.float32), rules=rules))(
            {"x": x, "cotangent": cotangent}
        )[0]
        for end in (written, fused)
    )
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
    assert np.abs(one).max() > 0.1


def test_rectifiers_need_no_other_rule(rng):
    model = single("Relu", (3,))
    x, cotangent = rng.normal(size=(1, 3)), rng.normal(size=(1, 3))
    np.testing.assert_allclose(relevance(model, x, "attnlrp", cotangent), cotangent * np.maximum(x, 0))


@pytest.mark.parametrize("family", ["vit", "swin"])
def test_attnlrp_is_what_its_authors_package_gives(family):
    """Sums over cells of 8 x 8 pixels, by lxt 2.1 in PyTorch on the same weights (`tools/parts/scenes/rivals.py`)."""
    told = json.loads((ROOT / "tests" / "data" / "attnlrp.json").read_text())[family]
    expected = np.array(told["cells"])
    found = {}
    with DeployedModel(ROOT / "models" / "scenes" / f"{family}-half.onnx", device="cpu") as deployed:
        for rules in BOTH:
            explainer = Explainer(deployed, method="relevance", rules=rules, score="logit")
            values = explainer.explain(render(draw_scene(told["scene"])), target=told["class"]).values
            found[rules] = LN2 * values.astype(float).reshape(12, 8, 12, 8).sum(axis=(1, 3))
    np.testing.assert_allclose(found["attnlrp"], expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    assert not np.allclose(found["conservative"], expected, rtol=0, atol=0.1 * np.abs(expected).max())
