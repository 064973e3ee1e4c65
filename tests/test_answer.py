"""What is said of the model is what plain ONNX Runtime gives for the file, whatever it computes with; the split is held
against that, and what rounding costs is recorded."""

import logging
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.transformers.float16 import convert_float_to_float16

from onnx_evidence import DeployedModel, Explainer
from onnx_evidence.cli.golden import top_classes
from onnx_evidence.cli.tables import explain_row
from onnx_evidence.cuts.certificate import certify
from onnx_evidence.cuts.parts import rounding
from onnx_evidence.errors import CutError, ModelError
from onnx_evidence.graphs import Net
from onnx_evidence.intake.codes import unsigned
from onnx_evidence.intake.deployed_file import DeployedFile
from onnx_evidence.intake.proof import CODES, FULL, HALF, arithmetic_of
from onnx_evidence.preprocessing.contract import Preprocess
from onnx_evidence.sessions import Session, settle_device
from tests import tiny

node = helper.make_node
CPU = settle_device("cpu")


def pictures(number: int) -> list[np.ndarray]:
    """Coarse patterns of 36 x 40 pixels."""
    rng = np.random.default_rng(7)
    small = rng.integers(0, 256, (number, 9, 10, 3)).astype(np.uint8)
    return [np.kron(each, np.ones((4, 4, 1), np.uint8)) for each in small]


def plain(path: Path, inputs: np.ndarray, output: str | None = None) -> np.ndarray:
    """Plain ONNX Runtime: the file's path, its defaults, one picture."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    kind = session.get_inputs()[0].type
    given = inputs[None].astype({"tensor(float16)": np.float16, "tensor(float)": np.float32}[kind])
    return session.run([output or session.get_outputs()[0].name], {session.get_inputs()[0].name: given})[0][0]


def softmax(z: np.ndarray) -> np.ndarray:
    powers = np.exp(z.astype(np.float64) - z.max())
    return powers / powers.sum()


def deep(blocks: int = 6, width: int = 16, seed: int = 3) -> onnx.ModelProto:
    """Many residual blocks, so that something is always rounded otherwise where the runtime does not fuse."""
    rng = np.random.default_rng(seed)
    weights = {"end": (rng.normal(size=(5, width)) * 2).astype(np.float32)}

    def conv(x: str, y: str, inside: int, stride: int = 1) -> onnx.NodeProto:
        weights[f"w.{y}"] = (rng.normal(size=(width, inside, 3, 3)) / np.sqrt(inside * 9)).astype(np.float32)
        return node("Conv", [x, f"w.{y}"], [y], pads=[1] * 4, strides=[stride] * 2, kernel_shape=[3, 3])

    nodes = [conv("input", "stem", 3, 2), node("Relu", ["stem"], ["b0"])]
    for number in range(blocks):
        start, between, inside = f"b{number}", f"t{number}", f"a{number}"
        nodes += [
            conv(start, between, width),
            node("Relu", [between], [f"{between}.relu"]),
            conv(f"{between}.relu", inside, width),
            node("Relu", [inside], [f"{inside}.relu"]),
            conv(f"{inside}.relu", f"c{number}", width),
            node("Add", [f"c{number}", f"{between}.relu"], [f"b{number + 1}"]),
        ]
    nodes += [
        node("GlobalAveragePool", [f"b{blocks}"], ["pool"]),
        node("Flatten", ["pool"], ["flat"]),
        node("Gemm", ["flat", "end"], ["logits"], transB=1),
    ]
    return tiny.make_model(nodes, weights, metadata={"preprocess": tiny.PREPROCESS})


class Calibration(CalibrationDataReader):
    def __init__(self, deployed: DeployedModel) -> None:
        self.each = iter([{"input": deployed.prepare(picture)[1][None]} for picture in pictures(8)])

    def get_next(self):
        return next(self.each, None)


STATIC = {
    "QDQ per channel, signed": {"per_channel": True},
    "QDQ per tensor, signed": {},
    "QDQ per channel": {"per_channel": True, "activation_type": QuantType.QUInt8},
    "QDQ, unsigned weights": {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QUInt8},
    "QOperator": {"quant_format": QuantFormat.QOperator, "activation_type": QuantType.QUInt8},
}
HALVES = {"half": {}, "half inside": {"keep_io_types": True}, "mixed": {"op_block_list": ["Relu", "Gemm"]}}
FORMS = [*STATIC, "dynamic", *HALVES, "float32"]


@pytest.fixture(scope="module")
def form(tmp_path_factory: pytest.TempPathFactory):
    """A classifier in fewer bits, by name; each is made once."""
    folder = tmp_path_factory.mktemp("forms")
    base = tiny.save(deep(), folder / "base.onnx")

    @cache
    def make(name: str) -> Path:
        path = folder / f"{FORMS.index(name)}.onnx"
        logging.disable(logging.WARNING)
        try:
            if name in STATIC:
                quantize_static(base, path, Calibration(DeployedModel(base, device="cpu")), **STATIC[name])
            elif name == "dynamic":
                quantize_dynamic(base, path)
            elif name in HALVES:
                onnx.save(convert_float_to_float16(onnx.load(base), **HALVES[name]), path)
            else:
                return base
        finally:
            logging.disable(logging.NOTSET)
        model = onnx.load(path)
        helper.set_model_props(model, {each.key: each.value for each in onnx.load(base).metadata_props})
        onnx.save(model, path)
        return path

    return make


# --- the recorded probability ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMS)
def test_what_is_recorded_is_what_plain_onnx_runtime_gives(name: str, form):
    path = form(name)
    explainer = Explainer(path, device="cpu")
    deployed = explainer.deployed
    for picture in pictures(3):
        evidence = explainer.explain(picture)
        z = plain(path, deployed.prepare(picture)[1])
        p = softmax(z)
        assert evidence.target.number == p.argmax()
        assert evidence.probability == pytest.approx(p.max(), abs=1e-12)
        others = np.delete(z.astype(np.float64), p.argmax())
        odds = (float(z.max()) - np.log(np.exp(others).sum())) / np.log(2)
        assert evidence.log_odds_bits == pytest.approx(odds, abs=1e-9)
        top = {each["class"]: each["probability"] for each in evidence.record["top"]}
        assert top == pytest.approx(dict(enumerate(p)), abs=1e-12)
        for cut in evidence.record["cuts"]:
            assert 0 <= cut["certificate"] <= deployed.model.arithmetic.tolerance
        if evidence.budgets:
            cut = evidence.record["cuts"][0]
            assert cut["rounding_bits"] == pytest.approx(evidence.budgets[0].with_features - odds, abs=1e-6)


@pytest.mark.parametrize("name", ["QDQ per channel, signed", "QDQ per tensor, signed", "QDQ per channel", "QOperator"])
def test_between_codes_the_split_computes_the_file_s_integers(name: str, form):
    """Features are the file's own at several cuts, and the backward graph's logits are the file's.

    An output in the middle, or a backward graph that reads codes, keeps the runtime from its integer kernels.
    """
    deployed = DeployedModel(form(name), device="cpu")
    cuts = [cut for cut in deployed.graph.cuts if rounding(cut.name, deployed.graph.net)]
    look, gradients = (
        deployed.looker(cuts),
        [deployed.gradient(cut) if number in (1, 4) else None for number, cut in enumerate(cuts)],
    )
    heads = [deployed.head(cut) for cut in cuts]
    assert len(cuts) > 1
    for picture in pictures(16):
        x = deployed.prepare(picture)[1]
        logits = plain(deployed.model.path, x)
        for features, head, gradient in zip(look(x), heads, gradients, strict=True):
            np.testing.assert_array_equal(features, head(x[None])[0])
            if gradient is not None:
                np.testing.assert_array_equal(gradient(features[None], np.eye(5)[1], np.zeros(5))[0][0], logits)


@pytest.mark.parametrize("method", ["window", "grad-cam", "rise", "ordered"])
def test_every_engine_records_what_rounding_costs(method: str, form):
    options = {"samples": 8} if method == "rise" else {}
    explainer = Explainer(form("half"), method=method, device="cpu", **options)
    evidence = explainer.explain(pictures(1)[0])
    (cut, *_) = evidence.record["cuts"]
    split = explainer.deployed.canonical(explainer.deployed.prepare(pictures(1)[0])[1][None])
    # A few thousandths of a bit, not nothing: the head rounds to half precision where the whole does not.
    assert abs(cut["rounding_bits"]) < 0.05
    assert cut["certificate"] < 2e-3
    if method == "ordered":
        whole = explainer.deployed.answer(explainer.deployed.prepare(pictures(1)[0])[1]).logits
        assert cut["certificate"] == pytest.approx(np.abs(split[0] - whole).max() / np.abs(whole).max())


def test_inspect_and_golden_check_say_the_same(form, tmp_path: Path):
    path = form("QDQ per channel, signed")
    deployed = DeployedModel(path, device="cpu")
    (picture,) = pictures(1)
    cv2.imwrite(str(tmp_path / "x.png"), picture[..., ::-1])
    said = top_classes(deployed, tmp_path / "x.png")
    p = softmax(plain(path, deployed.prepare(tmp_path / "x.png")[1]))
    assert [each.probability for each in said] == pytest.approx(sorted(p, reverse=True), abs=1e-12)


# --- probabilities and log-odds ----------------------------------------------------------------------------------


def ending(*nodes: onnx.NodeProto, output: str, times: float = 1.0, classes: int = 5, kind: int = TensorProto.FLOAT):
    """The tiny classifier with other ends; its logits are multiplied by ``times``."""
    model = tiny.classifier()
    model.graph.node[-1].output[0] = "raw"
    model.graph.initializer.append(numpy_helper.from_array(np.float32(times), "times"))
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 2]), "some"))
    model.graph.initializer.append(numpy_helper.from_array(np.array([1]), "one"))
    model.graph.node.extend([node("Mul", ["raw", "times"], ["z"]), *nodes])
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info(output, kind, ["N", classes]))
    labels = [each for each in model.metadata_props if each.key.endswith("preprocess")]
    kept = {each.key: each.value for each in labels}
    del model.metadata_props[:]
    helper.set_model_props(model, kept)
    return model


TO_HALF = node("Cast", ["z"], ["h"], to=TensorProto.FLOAT16)
ENDS = {
    "softmax": ending(node("Softmax", ["z"], ["p"]), output="p"),
    "softmax, sure": ending(node("Softmax", ["z"], ["p"]), output="p", times=12.0),
    "softmax in half precision": ending(
        TO_HALF, node("Softmax", ["h"], ["p"]), output="p", times=4.0, kind=TensorProto.FLOAT16
    ),
    "softmax behind a cast": ending(
        TO_HALF, node("Softmax", ["h"], ["q"]), node("Cast", ["q"], ["p"], to=1), output="p", times=4.0
    ),
    "log-softmax": ending(node("LogSoftmax", ["z"], ["p"]), output="p", times=12.0),
    "sigmoids": ending(node("Sigmoid", ["z"], ["p"]), output="p", times=9.0),
    "sigmoids in half precision": ending(
        TO_HALF, node("Sigmoid", ["h"], ["p"]), output="p", times=3.0, kind=TensorProto.FLOAT16
    ),
    "one sigmoid": ending(
        node("Gather", ["z", "one"], ["c"], axis=1), node("Sigmoid", ["c"], ["p"]), output="p", times=9.0, classes=1
    ),
}
# Of these some picture's p is 1: it says nothing of the odds.
SATURATED = set(ENDS) - {"softmax"}


@pytest.mark.parametrize("name", ENDS)
def test_a_probability_is_the_file_s_number_and_log_odds_keep_their_digits(name: str, tmp_path: Path):
    path = tmp_path / "model.onnx"
    onnx.save(ENDS[name], path)
    # The control: its logits in a file of their own.
    beside = onnx.load(path)
    beside.graph.output.append(
        onnx.ValueInfoProto(name={"one sigmoid": "c"}.get(name, "h" if "half" in name or "cast" in name else "z"))
    )
    onnx.save(beside, tmp_path / "logits.onnx")
    deployed = DeployedModel(path, device="cpu")
    saturated = False
    for picture in pictures(3):
        x = deployed.prepare(picture)[1]
        given = plain(path, x).astype(np.float64)
        p = np.exp(given) if name == "log-softmax" else given
        z = plain(tmp_path / "logits.onnx", x, beside.graph.output[-1].name).astype(np.float64)
        if name == "one sigmoid":
            p, z = np.array([1 - p[0], p[0]]), np.array([0.0, z[0]])
        classes = list(range(len(z)))
        odds = z if "sigmoids" in name else [z[c] - np.logaddexp.reduce(np.delete(z, c)) for c in classes]
        answer = deployed.answer(x)
        np.testing.assert_array_equal(answer.probabilities(classes), p)
        np.testing.assert_allclose(answer.log_odds_bits(classes), odds / np.log(2), rtol=1e-6, atol=1e-6)
        assert answer.ranked[0] == (z.argmax() if p[p.argmax()] == p[z.argmax()] else p.argmax())
        saturated |= bool((p == 1).any())
        evidence = Explainer(deployed, method="grad-cam").explain(picture)
        assert evidence.probability == p[evidence.target.number]
        assert all(abs(cut["rounding_bits"]) < 0.05 for cut in evidence.record["cuts"])
    assert saturated == (name in SATURATED)


@pytest.mark.parametrize("last", ["Softmax", "Sigmoid"])
@pytest.mark.parametrize("layout", [QuantFormat.QDQ, QuantFormat.QOperator])
def test_probabilities_between_codes_are_probabilities(layout: QuantFormat, last: str, tmp_path: Path):
    """Quantised themselves, they are steps of 1/256; the logits behind them are finer."""
    model = ending(node(last, ["z"], ["p"]), output="p", times=3.0)
    base, path = tiny.save(model, tmp_path / "base.onnx"), tmp_path / "model.onnx"
    logging.disable(logging.WARNING)
    unsigned = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    quantize_static(base, path, Calibration(DeployedModel(base, device="cpu")), quant_format=layout, **unsigned)
    logging.disable(logging.NOTSET)
    made = onnx.load(path)
    assert any(each.op_type == "QLinear" + last for each in made.graph.node) == (layout is QuantFormat.QOperator)
    assert made.graph.node[-1].op_type == "DequantizeLinear"
    deployed = DeployedModel(path, device="cpu", preprocess=Preprocess(**tiny.PREPROCESS))
    assert deployed.model.output_kind == "probabilities"
    assert deployed.class_kind.name == ("exclusive" if last == "Softmax" else "independent")
    for picture in pictures(3):
        x = deployed.prepare(picture)[1]
        p, answer = plain(path, x).astype(np.float64), deployed.answer(x)
        np.testing.assert_array_equal(answer.probabilities([0, 1, 2, 3, 4]), p)
        expected = softmax(answer.logits) if last == "Softmax" else 1 / (1 + np.exp(-answer.logits))
        np.testing.assert_allclose(expected, p, atol=6e-3)
        assert np.ptp(answer.logits) > 3  # the control: probabilities themselves lie within 1
        assert np.isfinite(answer.log_odds_bits([0, 1, 2, 3, 4])).all()


def test_probabilities_that_are_not_those_of_the_logits_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tiny.save(ENDS["softmax"], tmp_path / "model.onnx")
    deployed = DeployedModel(path, device="cpu")
    x = deployed.prepare(pictures(1)[0])[1]
    deployed.answer(x)  # the control
    run = DeployedFile.run
    monkeypatch.setattr(DeployedFile, "run", lambda self, given: np.roll(run(self, given), int(self.tensor == "z")))
    with pytest.raises(ModelError, match=r"output 'p' gives class \d p = 0\.\d+, and its logits 'z' stand for"):
        deployed.answer(x)


def test_logits_inside_a_local_function_are_the_canonical_graph_s(tmp_path: Path):
    model = ending(node("End", ["z"], ["p"], domain="local"), output="p", times=12.0)
    twice = [node("Add", ["x", "x"], ["y"]), node("Softmax", ["y"], ["p"])]
    imports = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function("local", "End", ["x"], ["p"], twice, imports))
    model.opset_import.append(helper.make_opsetid("local", 1))
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    deployed = DeployedModel(path, device="cpu")
    x = deployed.prepare(pictures(1)[0])[1]
    answer = deployed.answer(x)
    assert deployed.model.source_name not in deployed.model.own
    np.testing.assert_array_equal(answer.probabilities([0, 1, 2, 3, 4]), plain(path, x).astype(np.float64))
    assert np.isfinite(answer.log_odds_bits([0, 1, 2, 3, 4])).all()


# --- the file as it takes pictures -------------------------------------------------------------------------------


def test_an_inner_tensor_is_asked_for_by_name(tmp_path: Path):
    path = tiny.save(ENDS["softmax"], tmp_path / "model.onnx")
    deployed = DeployedModel(path, device="cpu", output="z")
    x = deployed.prepare(pictures(1)[0])[1]
    np.testing.assert_allclose(deployed.answer(x).probabilities([0, 1, 2, 3, 4]), plain(path, x), atol=1e-6)


@pytest.mark.parametrize("rows", [1, 4])
def test_a_file_of_a_fixed_batch_is_filled_with_the_picture(rows: int, tmp_path: Path):
    model = tiny.classifier()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = rows
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = rows
    path = tiny.save(model, tmp_path / "model.onnx")
    deployed = DeployedModel(path, device="cpu")
    assert deployed.model.rows == rows
    x = deployed.prepare(pictures(1)[0])[1]
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    expected = session.run(None, {"input": np.repeat(x[None], rows, axis=0)})[0][0]
    np.testing.assert_array_equal(deployed.answer(x).logits, expected.astype(np.float64))
    # More than it takes, and no whole number of runs.
    several = np.stack([deployed.prepare(each)[1] for each in pictures(6)])
    np.testing.assert_allclose(deployed.logits(several), deployed.canonical(several), atol=1e-5)


def test_weights_beside_the_file_are_read_where_they_are(tmp_path: Path):
    path = tmp_path / "model.onnx"
    onnx.save(tiny.classifier(), path, save_as_external_data=True, location="model.data", size_threshold=16)
    deployed = DeployedModel(path, device="cpu")
    x = deployed.prepare(pictures(1)[0])[1]
    np.testing.assert_array_equal(deployed.answer(x).logits, plain(path, x).astype(np.float64))


def test_pictures_are_rounded_to_what_the_file_s_input_can_hold(form):
    deployed = DeployedModel(form("half"), device="cpu")
    _, x, _ = deployed.prepare(pictures(1)[0])
    np.testing.assert_array_equal(x, x.astype(np.float16).astype(np.float32))
    _, fine, _ = DeployedModel(form("half inside"), device="cpu").prepare(pictures(1)[0])
    assert 0 < np.abs(x - fine).max() < 2e-3  # the control


def test_an_input_of_bfloat16_gets_pictures_rounded_to_it(tmp_path: Path):
    plain_path = tiny.save(tiny.classifier(), tmp_path / "plain.onnx")
    model = tiny.classifier()
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.BFLOAT16
    nodes = list(model.graph.node)
    nodes[0].input[0] = "wide"
    del model.graph.node[:]
    model.graph.node.extend([node("Cast", ["input"], ["wide"], to=TensorProto.FLOAT), *nodes])
    deployed = DeployedModel(tiny.save(model, tmp_path / "model.onnx"), device="cpu")
    x = deployed.prepare(pictures(1)[0])[1]
    rounded = x.astype(helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16))
    np.testing.assert_array_equal(x, rounded.astype(np.float32))
    np.testing.assert_array_equal(deployed.answer(x).logits, plain(plain_path, x).astype(np.float64))
    fine = DeployedModel(plain_path, device="cpu").prepare(pictures(1)[0])[1]
    assert 1e-3 < np.abs(x - fine).max() < 1e-2  # the control


def test_grey_levels_are_whole_numbers_again(tmp_path: Path):
    model = tiny.classifier(recorded=False)
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["N", 32, 32, 3]))
    front = [
        node("Cast", ["pixels"], ["levels"], to=TensorProto.FLOAT),
        node("Transpose", ["levels"], ["planes"], perm=[0, 3, 1, 2]),
        node("Div", ["planes", "white"], ["input"]),
    ]
    model.graph.initializer.append(numpy_helper.from_array(np.float32(255), "white"))
    nodes = [*front, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    path = tiny.save(model, tmp_path / "model.onnx")
    deployed = DeployedModel(path, device="cpu", preprocess="none")
    pixels = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3)).astype(np.uint8)
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    expected = session.run(None, {"pixels": pixels})[0][0].astype(np.float64)
    given = pixels[0].transpose(2, 0, 1).astype(np.float32)
    np.testing.assert_array_equal(deployed.answer(given).logits, expected)
    np.testing.assert_array_equal(deployed.answer(given + np.float32(0.4)).logits, expected)
    assert np.abs(deployed.answer(255 - given).logits - expected).max() > 1e-3  # the control


# --- the certificate ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("wrong", ["weights", "picture"])
def test_control_a_split_that_is_wrong_is_refused_in_every_arithmetic(name: str, wrong: str, form, tmp_path: Path):
    deployed = DeployedModel(form(name), device="cpu")
    other = DeployedModel(tiny.save(deep(seed=1), tmp_path / "other.onnx"), device="cpu")
    cut = deployed.graph.cuts[-1]
    for picture in pictures(3):
        x = deployed.prepare(picture)[1]
        logits = deployed.answer(x).logits
        features = deployed.head(cut)(x[None])
        deployed.certify(cut, deployed.tail(cut)(features)[0], logits)  # the control
        if wrong == "weights":
            found = other.tail(other.graph.cuts[-1])(features)[0]
        else:
            found = deployed.tail(cut)(deployed.head(cut)(x[None] / 3))[0]
        with pytest.raises(CutError, match=r"differs from the whole by .* of the largest logit \(at most "):
            deployed.certify(cut, found, logits)


def test_the_message_names_the_picture(form, monkeypatch: pytest.MonkeyPatch):
    explainer = Explainer(form("QDQ per channel"), device="cpu")
    look = explainer._heads.look
    monkeypatch.setattr(explainer._heads, "look", lambda inputs: look(np.roll(inputs, 9, axis=2)))
    with pytest.raises(CutError, match=r"^array: layer '"):
        explainer.explain(pictures(1)[0])


def test_float32_is_not_tested_more_loosely_than_rounding_asks():
    cut = DeployedModel.__new__(DeployedModel)  # only its name is asked for
    cut.name = "cut"
    logits = np.array([10.0, 0.0, -5.0])
    off = logits + np.array([2e-3, 0.0, 0.0])
    for arithmetic in (HALF, CODES):
        assert certify(cut, off, logits, arithmetic) == pytest.approx(2e-4)
    for scale in (0.0, 1e6):
        with pytest.raises(CutError, match=r"by 0\.0002 of the largest logit \(at most 0\.0001, float32\)"):
            certify(cut, off, logits, FULL, scale)


def test_codes_are_measured_by_the_size_of_the_model_s_logits():
    """A step between two codes is as large for a picture that the model is unsure of."""
    cut = DeployedModel.__new__(DeployedModel)
    cut.name = "cut"
    logits, off = np.array([0.1, 0.0]), np.array([0.2, 0.0])
    assert certify(cut, off, logits, CODES, scale=8.0) == pytest.approx(1.0)
    with pytest.raises(CutError):
        certify(cut, off, logits, CODES, scale=0.5)
    with pytest.raises(CutError):
        certify(cut, np.full(2, np.nan), logits, CODES, scale=8.0)
    # All logits a little off is not what rounding does.
    many = np.linspace(-10, 10, 1000)
    rounded = many + np.where(np.arange(1000) % 50, 0.0, 0.45)
    assert certify(cut, rounded, many, CODES) == pytest.approx(0.045)
    with pytest.raises(CutError):
        certify(cut, many + 0.45 * np.sign(many), many, CODES)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("float32", FULL), ("half", HALF), ("mixed", HALF), ("QDQ per tensor, signed", CODES), ("QOperator", CODES),
     ("dynamic", CODES)],
)  # fmt: skip
def test_arithmetic_is_that_of_what_depends_on_the_picture(name: str, expected, form):
    assert DeployedModel(form(name), device="cpu").model.arithmetic == expected


def test_weights_that_are_only_stored_in_fewer_bits_are_float32(tmp_path: Path):
    model = tiny.classifier()
    kernel = next(each for each in model.graph.initializer if each.name == "w2")
    values = numpy_helper.to_array(kernel)
    kernel.CopyFrom(numpy_helper.from_array(np.clip(np.rint(values / 0.01), -127, 127).astype(np.int8), "w2.codes"))
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0.01), "w2.scale"))
    nodes = [node("DequantizeLinear", ["w2.codes", "w2.scale"], ["w2"]), *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    deployed = DeployedModel(tiny.save(model, tmp_path / "model.onnx"), device="cpu")
    assert deployed.model.arithmetic == FULL
    assert arithmetic_of(Net(deployed.model.proto), {}) == FULL


# --- codes ---------------------------------------------------------------------------------------------------------


def test_unsigned_codes_change_no_value(form):
    deployed = DeployedModel(form("QDQ per channel, signed"), device="cpu")
    cut = next(cut for cut in deployed.graph.cuts if rounding(cut.name, deployed.graph.net))
    signed, moved = deployed.graph.tail(cut), unsigned(deployed.graph.tail(cut))
    kinds = [
        {each.data_type for each in part.graph.initializer if "zero_point" in each.name} for part in (signed, moved)
    ]
    assert TensorProto.UINT8 not in kinds[0]
    assert TensorProto.UINT8 in kinds[1]
    features = np.concatenate([deployed.head(cut)(deployed.prepare(each)[1][None]) for each in pictures(3)])
    # Without the runtime's optimisations: the same arithmetic, operator by operator.
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    found = []
    for part in (signed, moved):
        session = ort.InferenceSession(part.SerializeToString(), options, providers=["CPUExecutionProvider"])
        found.append(session.run(None, {session.get_inputs()[0].name: features})[0])
    np.testing.assert_array_equal(*found)


def test_control_codes_that_others_read_stay_signed(form):
    deployed = DeployedModel(form("QDQ per channel, signed"), device="cpu")
    part = deployed.graph.whole()
    part.graph.output.extend(
        onnx.ValueInfoProto(name=each.output[0]) for each in part.graph.node if each.op_type == "QuantizeLinear"
    )
    before = part.SerializeToString(deterministic=True)
    assert unsigned(part).SerializeToString(deterministic=True) == before


# --- what people are shown ---------------------------------------------------------------------------------------


def test_the_table_has_a_line_where_rounding_would_be_seen():
    extreme = {"bits": 1.0, "interval": None, "row": 0, "col": 0}
    entry = {
        "image": "a.png", "label": "ant", "versus": None, "probability": 0.5, "log_odds_bits": 0.0, "budget": None,
        "strongest_for": extreme, "strongest_against": extreme,
        "cuts": [{"name": "deep", "certificate": 0.011, "rounding_bits": -0.034}, {"name": "x", "rounding_bits": 4e-3}],
    }  # fmt: skip
    row, line = explain_row(entry).split("\n")
    assert row.startswith("a.png")
    assert line == "  rounding: split at deep, the model has -0.03 bits more than the file (certificate 0.01)"
    entry["cuts"] = [{"name": "x"}]  # as older lines have it
    assert "\n" not in explain_row(entry)


def test_bytes_are_opened_as_they_are(tmp_path: Path):
    data = tiny.save(tiny.classifier(), tmp_path / "model.onnx").read_bytes()
    x = np.zeros((2, 3, 32, 32), np.float32)
    one, other = Session(data, CPU, outputs=["logits"]), Session(onnx.load_model_from_string(data), CPU)
    np.testing.assert_array_equal(one.run(x), other.run(x))
    model = onnx.load_model_from_string(data)
    model.graph.node[0].op_type = "Convolve"
    with pytest.raises(ModelError, match=r"cannot run the model: .*Convolve"):
        Session(model.SerializeToString(), CPU)
