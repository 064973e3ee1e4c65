"""Integer operators written as float ones between codes: the same codes, operator by operator."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from onnx_evidence.deployed import DeployedModel
from onnx_evidence.errors import ModelError
from onnx_evidence.intake.model import load_model
from onnx_evidence.sessions.runtime import Differentiator, Session
from onnx_evidence.vjp import build_vjp, missing_rules
from tests import tiny
from tests.tiny_transformers import Net

node = helper.make_node
RNG = np.random.default_rng(4)
# Of pixels, of the tensors inside, of class scores.
SCALES = {
    "xs": np.float32(0.02), "xz": np.uint8(128), "as": np.float32(0.03), "az": np.uint8(100), "bs": np.float32(0.05),
    "bz": np.uint8(90), "ps": np.float32(1 / 256), "pz": np.uint8(0),
}  # fmt: skip


def codes(*shape: int) -> np.ndarray:
    return RNG.integers(-127, 128, shape).astype(np.int8)


def microsoft(op_type: str, inputs: list[str], output: str, **more: object) -> onnx.NodeProto:
    return node(op_type, inputs, [output], domain="com.microsoft", **more)


CONSTANTS = SCALES | {
    "w": codes(6, 3, 3, 3),
    "w.scale": np.float32(0.004),
    "w.scales": RNG.uniform(0.002, 0.008, 6).astype(np.float32),
    "w.zero": np.int8(0),
    "w.zeros": np.zeros(6, np.int8),
    "bias": RNG.integers(-3000, 3000, 6).astype(np.int32),
    "m": codes(6, 5),
    "m.scale": np.float32(0.01),
    "m.scales": RNG.uniform(0.005, 0.02, 5).astype(np.float32),
    "m.zeros": np.zeros(5, np.int8),
    "row": np.array([0, -1]),
    "m.f": RNG.normal(size=(6, 5)).astype(np.float32),
    "bias.f": RNG.normal(size=5).astype(np.float32),
    "mask": RNG.random((6, 10, 10)) < 0.5,
    "bias.m": RNG.integers(-9000, 9000, 5).astype(np.int32),
}
QUANTISE = [node("QuantizeLinear", ["input", "xs", "xz"], ["x"])]
CONV = [node("QLinearConv", ["x", "xs", "xz", "w", "w.scale", "w.zero", "as", "az"], ["a"])]
END = [
    microsoft("QLinearGlobalAveragePool", ["a", "as", "az", "as", "az"], "pool"),
    node("Reshape", ["pool", "row"], ["flat"]),
    node("QLinearMatMul", ["flat", "as", "az", "m", "m.scale", "w.zero", "bs", "bz"], ["y"]),
    node("DequantizeLinear", ["y", "bs", "bz"], ["logits"]),
]
OF_TWO = ["a", "as", "az", "x.c", "bs", "bz", "bs", "bz"]
SECOND = [node("QLinearConv", ["x", "xs", "xz", "w", "w.scale", "w.zero", "bs", "bz"], ["x.c"])]


def then(*nodes: onnx.NodeProto) -> list[onnx.NodeProto]:
    """``nodes`` give 'b' of scale bs from the codes 'a'; class scores are its means times a matrix."""
    rest = [
        microsoft("QLinearGlobalAveragePool", ["b", "bs", "bz", "bs", "bz"], "pool"),
        node("Reshape", ["pool", "row"], ["flat"]),
        node("QLinearMatMul", ["flat", "bs", "bz", "m", "m.scale", "w.zero", "bs", "bz"], ["y"]),
        node("DequantizeLinear", ["y", "bs", "bz"], ["logits"]),
    ]
    return [*QUANTISE, *CONV, *nodes, *rest]


CASES = {
    "convolution": [*QUANTISE, *CONV, *END],
    "convolution, scale per channel, bias": [
        *QUANTISE,
        node("QLinearConv", ["x", "xs", "xz", "w", "w.scales", "w.zeros", "as", "az", "bias"], ["a"], pads=[1] * 4),
        *END,
    ],
    "convolution, strides and groups": [
        *QUANTISE,
        node("QLinearConv", ["x", "xs", "xz", "w", "w.scales", "w.zeros", "as", "az"], ["c"], strides=[2, 2]),
        node("MaxPool", ["c"], ["a"], kernel_shape=[2, 2]),
        *END,
    ],
    "matrix, scale per column": [
        *QUANTISE,
        *CONV,
        *END[:2],
        node("QLinearMatMul", ["flat", "as", "az", "m", "m.scales", "m.zeros", "bs", "bz"], ["y"]),
        END[3],
    ],
    "gemm with bias, codes": [
        *QUANTISE,
        *CONV,
        *END[:2],
        microsoft("QGemm", ["flat", "as", "az", "m", "m.scale", "w.zero", "bias.m", "bs", "bz"], "y", alpha=1.0),
        END[3],
    ],
    "gemm, scale per column, floats": [
        *QUANTISE,
        *CONV,
        *END[:2],
        microsoft("QGemm", ["flat", "as", "az", "m", "m.scales", "m.zeros", "bias.m"], "logits", alpha=0.5),
    ],
    "sum": then(*SECOND, microsoft("QLinearAdd", OF_TWO, "b")),
    "sum, last zero point left out": then(*SECOND, microsoft("QLinearAdd", OF_TWO[:7], "b")),
    "product": then(*SECOND, microsoft("QLinearMul", OF_TWO, "b")),
    "concatenation": then(
        *SECOND,
        microsoft("QLinearConcat", ["bs", "bz", "a", "as", "az", "x.c", "bs", "bz"], "b", axis=2),
    ),
    "sigmoid": then(
        microsoft("QLinearSigmoid", ["a", "as", "az", "ps", "pz"], "s"),
        microsoft("QLinearMul", ["a", "as", "az", "s", "ps", "pz", "bs", "bz"], "b"),
    ),
    "leaky": then(microsoft("QLinearLeakyRelu", ["a", "as", "az", "bs", "bz"], "b", alpha=0.2)),
    "average": then(
        microsoft("QLinearAveragePool", ["a", "as", "az", "bs", "bz"], "b", kernel_shape=[3, 3], strides=[2, 2])
    ),
}


FLAT = [*QUANTISE, *CONV, *END[:2]]
CASES |= {
    "matrix of counts": [
        *FLAT,
        node("MatMulInteger", ["flat", "m", "az", "m.zeros"], ["counts"]),
        node("Cast", ["counts"], ["floats"], to=TensorProto.FLOAT),
        node("Mul", ["floats", "m.scale"], ["logits"]),
    ],
    "convolution of counts": [
        *QUANTISE,
        node("ConvInteger", ["x", "w", "xz", "w.zero"], ["counts"], pads=[1] * 4, strides=[2, 1]),
        node("Cast", ["counts"], ["floats"], to=TensorProto.FLOAT),
        node("Mul", ["floats", "w.scale"], ["scaled"]),
        node("GlobalAveragePool", ["scaled"], ["pool"]),
        node("Flatten", ["pool"], ["flat"]),
        node("MatMul", ["flat", "m.f"], ["logits"]),
    ],
    "matrix to floats": [
        *FLAT,
        microsoft("MatMulIntegerToFloat", ["flat", "m", "as", "m.scales", "az", "m.zeros"], "logits"),
    ],
    "matrix to floats, bias": [
        *FLAT,
        microsoft("MatMulIntegerToFloat", ["flat", "m", "as", "m.scale", "az", "", "bias.f"], "logits"),
    ],
    "choice": then(*SECOND, microsoft("QLinearWhere", ["mask", *OF_TWO[:6], "bs", "bz"], "b")),
}
LAST = {"channels_last": 1}
CASES["channels last"] = [
    *QUANTISE,
    node("Transpose", ["x"], ["x.last"], perm=[0, 2, 3, 1]),
    microsoft("QLinearConv", ["x.last", "xs", "xz", "w", "w.scales", "w.zeros", "as", "az"], "c", **LAST),
    microsoft("NhwcMaxPool", ["c"], "m.last", kernel_shape=[2, 2], strides=[2, 1]),
    microsoft(
        "QLinearAveragePool", ["m.last", "as", "az", "as", "az"], "p", kernel_shape=[3, 2], pads=[1, 0, 1, 1], **LAST
    ),
    microsoft("QLinearLeakyRelu", ["p", "as", "az", "bs", "bz"], "l", alpha=0.2),
    microsoft("QLinearGlobalAveragePool", ["l", "bs", "bz", "bs", "bz"], "pool", **LAST),
    *then()[-3:],
]


def quantised(nodes: list[onnx.NodeProto], *, opset: int = 17) -> onnx.ModelProto:
    read = {name for each in nodes for name in each.input}
    model = tiny.make_model(
        nodes,
        {name: value for name, value in CONSTANTS.items() if name in read},
        input_shape=("N", 3, 12, 12),
        opset=opset,
    )
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return model


def write(model: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


X = np.random.default_rng(6).normal(size=(4, 3, 12, 12)).astype(np.float32)


def run_file(path: Path) -> np.ndarray:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"input": X})[0]


@pytest.mark.parametrize("case", CASES)
def test_codes_stay_what_they_were(case: str, tmp_path: Path):
    path = write(quantised(CASES[case]), tmp_path)
    expected = run_file(path)
    assert np.ptp(expected, axis=0).max() > 3 * SCALES["bs"], "pictures that give the same codes would prove nothing"
    opened = DeployedModel(path, device="cpu")
    model = opened.model
    found = opened.canonical(X)
    # A sum that lies between two codes may be rounded to either.
    assert np.abs(found - expected).max() <= 1.01 * SCALES["bs"]
    assert (np.abs(found - expected) > 1e-4).mean() <= 0.1
    left = {each.op_type for each in model.proto.graph.node if each.domain or each.op_type.startswith("QLinear")}
    assert left == set()
    assert model.changes[0].endswith("integer operators written as float ones between codes")
    assert model.proof is not None
    assert model.proof.deviation <= model.proof.tolerance == 0.05
    assert missing_rules(model.proto) == []
    gradient = Differentiator(Session(build_vjp(model.proto), opened.device))
    assert np.abs(gradient(X, np.arange(1.0, 6.0), np.zeros(5))[1]).max() > 0


def dynamic(op_type: str) -> onnx.ModelProto:
    """Tokens of 8 x 8 pixels, and an operator that takes its codes' scale from what it is given."""
    net = Net(6)
    x = net.op("Conv", "input", net.weight(6, 3, 4, 4), strides=[4, 4])
    x = net.transpose(net.reshape(x, 0, 6, 9), 0, 2, 1)
    # Of seven bits: processors without VNNI add products of eight in pairs of sixteen bits, which may be too few.
    weights = net.constant((codes(6, 18).astype(np.int16) // 2).astype(np.int8))
    scales, bias = net.constant(RNG.uniform(0.005, 0.02, 18).astype(np.float32)), net.weight(18)
    if op_type == "DynamicQuantizeMatMul":
        x = net.op(op_type, x, weights, scales, "", bias, domain="com.microsoft")
    elif op_type == "MatMulInteger":
        made, scale, zero = net.op("DynamicQuantizeLinear", x, outputs=3)
        counts = net.op("MatMulInteger", made, weights, zero)
        x = net.op("Mul", net.op("Cast", counts, to=TensorProto.FLOAT), net.op("Mul", scale, scales))
    else:
        x = net.op("QuantizeLinear", x, net.constant(SCALES["xs"]), net.constant(SCALES["xz"]))
        given = [net.constant(SCALES["xs"]), net.constant(np.float32(0.01)), "", net.constant(SCALES["xz"])]
        x = net.op(
            op_type,
            x,
            weights,
            bias,
            *given,
            net.constant(np.int8(0)),
            num_heads=2,
            domain="com.microsoft",
        )
    pooled = net.op("ReduceMean", x, axes=[1], keepdims=0)
    model = net.model(pooled, 18 if op_type != "QAttention" else 6, 12)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return model


@pytest.mark.parametrize("op_type", ["DynamicQuantizeMatMul", "MatMulInteger", "QAttention"])
def test_scales_that_are_taken_as_pictures_come_are_written_out(op_type: str, tmp_path: Path):
    path = write(dynamic(op_type), tmp_path)
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    expected = np.concatenate([session.run(None, {"input": x[None]})[0] for x in X])
    opened = DeployedModel(path, device="cpu")
    np.testing.assert_allclose(opened.logits(X), expected, atol=2e-6 * np.abs(expected).max())
    assert opened.model.batch == (None if op_type == "QAttention" else 1)
    assert missing_rules(opened.model.proto) == []
    gradient = Differentiator(Session(build_vjp(opened.model.proto), opened.device))
    slopes = [gradient(x[None], np.arange(1.0, 6.0), np.zeros(5))[1] for x in X]
    assert np.abs(slopes).max() > 0
    if op_type == "QAttention":
        return
    # Straight through: in steps much larger than those of the codes they are those of the file itself.
    step = np.sign(slopes[0]) * np.float32(0.5)
    moved = [session.run(None, {"input": X[:1] + sign * step})[0] @ np.arange(1.0, 6.0) for sign in (1, -1)]
    assert (moved[0] - moved[1])[0] == pytest.approx(2 * (slopes[0] * step).sum(), rel=0.1)


def test_control_a_wrong_scale_is_seen(tmp_path: Path):
    path = write(quantised(CASES["convolution, scale per channel, bias"]), tmp_path)
    expected = run_file(path)
    model = quantised(CASES["convolution, scale per channel, bias"])
    scales = next(each for each in model.graph.initializer if each.name == "w.scales")
    scales.CopyFrom(onnx.numpy_helper.from_array(CONSTANTS["w.scales"][::-1].copy(), "w.scales"))
    other = DeployedModel(write(model, tmp_path), device="cpu").canonical(X)
    assert np.abs(other - expected).max() > 1.01 * SCALES["bs"]


def test_what_has_no_float_twin_stays(tmp_path: Path):
    """Scales per channel where DequantizeLinear has only one."""
    path = write(quantised(CASES["convolution, scale per channel, bias"], opset=11), tmp_path)
    model = load_model(path)
    assert "QLinearConv" in {each.op_type for each in model.proto.graph.node}
    assert model.proof is not None
    opened = DeployedModel(path, device="cpu")
    assert np.abs(opened.canonical(X) - run_file(path)).max() <= 1.01 * SCALES["bs"]


@pytest.mark.parametrize(
    "damaged",
    [
        ["x", "xs", "xz", "w.scale", "w.scales", "w.zero", "as", "az"],
        ["x", "w.scales", "xz", "w", "w.scale", "w.zero", "as", "az", "bias"],
        ["x", "xs", "xz", "w", "bias", "w.zero", "as", "az", "bias"],
    ],
    ids=["a single number as kernel", "a scale per pixel", "a bias as scale"],
)
def test_a_damaged_convolution_is_refused(damaged: list[str], tmp_path: Path):
    path = write(quantised([*QUANTISE, node("QLinearConv", damaged, ["a"]), *END]), tmp_path)
    with pytest.raises(ModelError, match=r"^[^\n]+$"):
        load_model(path)


@pytest.mark.parametrize(
    ("op_type", "inputs"),
    [
        ("QLinearSigmoid", ["a", "as", "az", "bs"]),
        ("QLinearLeakyRelu", ["a", "as", "az", "bs"]),
        ("QLinearConcat", ["bs", "bz", "a", "as", ""]),
        ("QLinearConcat", ["bs", "bz", "a", "", "az"]),
    ],
)
def test_what_crashes_onnx_runtime_is_refused_before(op_type: str, inputs: list[str], tmp_path: Path):
    path = write(quantised(then(microsoft(op_type, inputs, "b"))), tmp_path)
    with pytest.raises(ModelError, match=f"operator '{op_type}' leaves a zero point or a scale out"):
        load_model(path)


@pytest.mark.parametrize("op_type", ["QLinearSigmoid", "QLinearAdd", "QLinearConcat", "QGemm"])
def test_an_operator_without_its_inputs_is_refused(op_type: str, tmp_path: Path):
    path = write(quantised(then(microsoft(op_type, ["a", "as"], "b"))), tmp_path)
    with pytest.raises(ModelError, match=r"^[^\n]+$"):
        load_model(path)


def test_float_models_are_not_touched(tiny_model: Path):
    model = load_model(tiny_model)
    assert all(each.data_type == TensorProto.FLOAT for each in model.proto.graph.initializer)
    assert model.changes == ()
