"""Operators that ONNX Runtime's optimisers fuse, spelt out in standard ones: the same numbers, the same maps."""

from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from onnx_evidence import Explainer
from onnx_evidence.deployed import DeployedModel
from onnx_evidence.errors import CutError, ModelError
from onnx_evidence.intake.blocked import BLOCKED, in_rows
from onnx_evidence.intake.dialect import plain
from onnx_evidence.intake.trial import VENDOR, name_strays
from onnx_evidence.intake.vendor import spell_out
from onnx_evidence.vjp import missing_rules
from tests import tiny, tiny_transformers
from tests.fused_operators import CASES, Case, normal, packed
from tests.tiny_transformers import WIDTH, Net

LEVELS = {
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
FEW = {"K": 40, "N": 3, "bits": 4, "block_size": 16}
THEIRS = {VENDOR, BLOCKED}


def run(model: onnx.ModelProto, x: np.ndarray) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(
        None, {"x": x}
    )


def spelt(case: Case) -> onnx.ModelProto:
    model = case.model()
    name_strays(model)
    onnx.checker.check_model(model)
    model = plain(model, Path("model.onnx"))
    assert (
        spell_out(model, "x", None) == sum(node.domain == VENDOR for node in case.model().graph.node)
        or case.domain == ""
    )
    return model


@pytest.mark.parametrize("name", CASES)
def test_an_operator_is_what_it_is_spelt_out_to(name: str):
    case = CASES[name]
    x = np.random.default_rng(5).normal(size=(3, *case.shape)).astype(np.float16 if case.half else np.float32)
    model = spelt(case)
    onnx.checker.check_model(model, full_check=True)
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
    loose = 4e-3 if case.half else 2e-6
    for expected, found in zip(run(case.model(), x), run(model, x), strict=True):
        assert np.abs(expected).max() > 0.1
        np.testing.assert_allclose(found, expected, rtol=loose, atol=loose * max(1, np.abs(expected).max()))


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.half and case.shape[0] > 3])
def test_what_is_spelt_out_has_rules(name: str):
    model = spelt(CASES[name])
    del model.graph.output[1:]

    assert missing_rules(model) == []


@pytest.mark.parametrize(
    "case",
    [
        Case("FusedConv", (4, 6, 7), ["x", normal(5, 4, 3, 3)], {"activation": "Swirl"}),
        Case(
            "FusedConv", (4, 6, 7), ["x", normal(5, 4, 3, 3)], {"activation": "LeakyRelu", "activation_params": [1, 2]}
        ),
        Case("FusedConv", (4, 6, 7), ["x", normal(5, 4, 3, 3)], {"activation": "Relu", "twist": 1}),
        Case("FusedConv", (4, 6, 7), ["x"], {"activation": "Relu"}),
        Case("Attention", (5, 6), ["x", normal(6, 18), normal(18)], {"num_heads": 2, "unidirectional": 1}),
        Case("Attention", (5, 6), ["x", normal(6, 18), normal(18), "x"], {"num_heads": 2}),
        Case("SkipLayerNormalization", (3, 6), ["x", "x", normal(6)], outputs=("y", "mean")),
        Case("Swirl", (3, 6)),
        Case("MatMulNBits", (2, 40), ["x", *packed(3, 40, 16)], {**FEW, "accuracy_level": 4}),
        Case("DequantizeLinear", (3, 4), ["x", np.float32(0.1), np.uint16(9)]),
    ],
    ids=lambda case: f"{case.op_type} {case.attributes or case.outputs}",
)
def test_a_form_that_is_not_known_stays_as_it_is(case: Case):
    model = case.model()
    before = model.SerializeToString()
    assert spell_out(model, "x", None) == 0
    assert model.SerializeToString() == before


def rich(width: int) -> onnx.ModelProto:
    """Convolutions of all kinds: depthwise, in groups, squeezed and excited, joined side by side, scaled up."""
    net = Net(7)

    def conv(x: str, inside: int, outside: int, side: int = 3, step: int = 1, group: int = 1) -> str:
        weights = net.weight(outside, inside // group, side, side), net.constant(0.1 * normal(outside))
        given = {"strides": [step] * 2, "pads": [side // 2] * 4, "kernel_shape": [side] * 2, "group": group}
        return net.op("Conv", x, *weights, **given)

    statistics = (net.constant(np.abs(normal(width)) + 0.5) for _ in range(4))
    x = net.op("Relu", net.op("BatchNormalization", conv("input", 3, width, step=2), *statistics))
    x = net.op("MaxPool", x, kernel_shape=[3, 3], strides=[1, 1], pads=[1] * 4)
    bounds = (net.constant(np.float32(each)) for each in (0, 6))
    y = conv(net.op("Clip", conv(x, width, width, group=width), *bounds), width, width, 1)
    x = net.op("Add", x, y)
    y = net.op("LeakyRelu", conv(x, width, width, group=2), alpha=0.2)
    gate = net.op("Relu", conv(net.op("GlobalAveragePool", y), width, 8, 1))
    y = net.op("Mul", y, net.op("HardSigmoid", conv(gate, 8, width, 1), alpha=1 / 6, beta=0.5))
    x = net.op("Add", x, net.op("Sigmoid", conv(y, width, width)))
    small = net.op("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])
    scales = net.constant(np.array([1, 1, 2, 2], np.float32))
    given = {"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}
    large = net.op("Resize", small, "", scales, **given)
    x = net.op("Concat", conv(x, width, 16), conv(large, width, 32), axis=1)
    x = net.op("Tanh", conv(x, 48, 20, step=2))
    x = net.op("Relu", conv(net.op("Concat", conv(x, 20, 20), x, axis=1), 40, 20))
    return net.model(net.op("Flatten", net.op("GlobalAveragePool", x)), 20, 48)


def optimised(path: Path, level: str) -> Path:
    """The file that ONNX Runtime saves."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = LEVELS[level]
    options.optimized_model_filepath = str(path.with_name(f"{level}.onnx"))
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return path.with_name(f"{level}.onnx")


def domains(path: Path) -> set[str]:
    return {node.domain for node in onnx.load(path).graph.node}


def photograph(path: Path) -> Path:
    noise = np.random.default_rng(1).normal(size=(9, 10, 3)) * 60 + 128
    cv2.imwrite(str(path), np.clip(cv2.resize(noise, (70, 60), interpolation=cv2.INTER_CUBIC), 0, 255).astype(np.uint8))
    return path


MODELS = {
    "classifier": tiny.classifier,
    "rich, 24 channels": lambda: rich(24),
    "rich, 32 channels": lambda: rich(32),
    "vit": lambda: tiny_transformers.vit(depth=2),
    "convnext": tiny_transformers.convnext,
    "codes": tiny_transformers.quantised,
}


@pytest.mark.parametrize("name", MODELS)
def test_maps_of_an_optimised_file_are_the_original_s(name: str, tmp_path: Path):
    path = tmp_path / "model.onnx"
    onnx.save(MODELS[name](), path)
    picture = photograph(tmp_path / "picture.png")
    expected = Explainer(path, device="cpu").explain(picture)
    largest = np.abs(expected.values).max()
    for level in LEVELS:
        file = optimised(path, level)
        assert (level == "basic") == THEIRS.isdisjoint(domains(file))
        explainer = Explainer(file, device="cpu")
        assert explainer.settings.method == "integrated"
        assert THEIRS.isdisjoint(node.domain for node in explainer.deployed.model.proto.graph.node)
        found = explainer.explain(picture)
        assert np.abs(found.values - expected.values).max() <= 1e-4 * largest
    if "codes" not in name:
        assert explainer.deployed.model.proof is not None
        assert explainer.deployed.model.proof.deviation < 1e-5


def test_control_other_weights_give_another_map(tmp_path: Path):
    onnx.save(tiny.classifier(), tmp_path / "model.onnx")
    picture = photograph(tmp_path / "picture.png")
    expected = Explainer(tmp_path / "model.onnx", device="cpu").explain(picture).values
    file = optimised(tmp_path / "model.onnx", "extended")
    model = onnx.load(file)
    weight = next(each for each in model.graph.initializer if len(each.dims) == 4)
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight)[::-1].copy(), weight.name))
    onnx.save(model, file)
    found = Explainer(file, device="cpu").explain(picture).values
    assert np.abs(found - expected).max() > 0.1 * np.abs(expected).max()


@pytest.mark.parametrize("block", [8, 16])
@pytest.mark.parametrize("single", [True, False])
def test_filters_are_taken_out_of_their_blocks(block: int, single: bool):
    """Written by loops as the runtime's source has them."""
    outputs, inputs = 2 * block, 3 if single else 2 * block
    filters = normal(outputs, inputs, 2, 3)
    step = 1 if single else block
    order = [
        filters[o + a, i + b, y, x]
        for o in range(0, outputs, block)
        for i in range(0, inputs, step)
        for y in range(2)
        for x in range(3)
        for b in range(step)
        for a in range(block)
    ]
    reordered = np.array(order).reshape(filters.shape)
    assert not np.array_equal(reordered, filters)
    np.testing.assert_array_equal(in_rows(reordered, block, single=single), filters)


def test_a_blocked_layout_that_is_not_known_is_refused(tmp_path: Path):
    onnx.save(tiny.classifier(), tmp_path / "model.onnx")
    file = optimised(tmp_path / "model.onnx", "all")
    model = onnx.load(file)
    node = next(node for node in model.graph.node if node.domain == BLOCKED)
    node.op_type = "Swirl"
    onnx.save(model, file)
    with pytest.raises(ModelError, match=r"^[^\n]*hardware-specific layout[^\n]*ORT_ENABLE_EXTENDED[^\n]*$"):
        DeployedModel(file, device="cpu")


def test_an_old_file_with_a_normalisation_is_read(tmp_path: Path):
    """ONNX Runtime writes LayerNormalization into the standard domain at every opset."""
    net = Net(3)
    x = net.transpose(net.op("Conv", "input", net.weight(WIDTH, 3, 8, 8), strides=[8, 8]), 0, 2, 3, 1)
    x = net.op("Add", net.norm(x, WIDTH), x, name="sum")
    model = net.model(net.op("ReduceMean", x, axes=[1, 2], keepdims=0), WIDTH, 48)
    model.opset_import[0].version = 12
    onnx.save(model, tmp_path / "model.onnx")
    opened = DeployedModel(tmp_path / "model.onnx", device="cpu")
    assert opened.model.changes == ("1 fused operators spelt out in standard ones",)
    pictures = np.random.default_rng(0).normal(size=(2, 3, 48, 48)).astype(np.float32)
    session = ort.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(opened.logits(pictures), session.run(None, {"input": pictures})[0], atol=1e-5)
    assert "sum" in {cut.name for cut in opened.graph.cuts}


def test_attention_that_crashes_onnx_runtime_is_refused(tmp_path: Path):
    net = Net(4)
    x = net.transpose(net.op("Conv", "input", net.weight(WIDTH, 3, 8, 8), strides=[8, 8]), 0, 2, 3, 1)
    x = net.reshape(x, 0, 36, WIDTH)
    x = net.op("Attention", x, net.weight(WIDTH, 3 * WIDTH), num_heads=2, domain=VENDOR)
    model = net.model(net.op("ReduceMean", x, axes=[1], keepdims=0), WIDTH, 48)
    model.opset_import.append(helper.make_opsetid(VENDOR, 1))
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(ModelError, match=r"^[^\n]*'Attention' of com.microsoft leaves its bias out[^\n]*$"):
        DeployedModel(tmp_path / "model.onnx", device="cpu")


def test_what_axes_cannot_be_followed_through_is_named(tmp_path: Path):
    """Inverses of matrices that are taken of channels: no rule spells them out."""
    net = Net(4)
    x = net.op("Conv", net.op("Inverse", "input", domain=VENDOR, name="inverse"), net.weight(WIDTH, 3, 8, 8))
    model = net.model(net.op("Flatten", net.op("GlobalAveragePool", x)), WIDTH, 48)
    model.opset_import.append(helper.make_opsetid(VENDOR, 1))
    onnx.save(model, tmp_path / "model.onnx")
    words = r"^[^\n]*\(rows and columns are lost at com.microsoft.Inverse at 'inverse'\): name one[^\n]*$"
    with pytest.raises(CutError, match=words):
        Explainer(tmp_path / "model.onnx", device="cpu", method="integrated")
    explainer = Explainer(tmp_path / "model.onnx", device="cpu")
    assert explainer.settings.method == "occlusion"
    assert "rows and columns are lost at com.microsoft.Inverse at 'inverse'" in explainer.reason


def test_what_was_fused_for_another_device_is_refused_by_its_name(tmp_path: Path):
    net = Net(4)
    x = net.op("Conv", "input", net.weight(WIDTH, 3, 8, 8), strides=[8, 8])
    x = net.op("BiasSoftmax", x, net.weight(1, WIDTH, 6, 6), domain=VENDOR, name="shares", axis=3, is_inner_broadcast=0)
    model = net.model(net.op("Flatten", net.op("GlobalAveragePool", x)), WIDTH, 48)
    model.opset_import.append(helper.make_opsetid(VENDOR, 1))
    onnx.save(model, tmp_path / "model.onnx")
    words = r"^[^\n]*no kernel of com.microsoft.BiasSoftmax for float \(at 'shares'\), [^\n]*as it was before$"
    with pytest.raises(ModelError, match=words):
        DeployedModel(tmp_path / "model.onnx", device="cpu").logits(np.zeros((1, 3, 48, 48), np.float32))
