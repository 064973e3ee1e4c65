"""Operators that ONNX has dropped, written as standard ones: the scores that the file itself gives."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from onnx_evidence import DeployedModel, Explainer
from onnx_evidence.intake.standard import rewrite_special
from tests import tiny

node = helper.make_node
RNG = np.random.default_rng(1)
# Of BatchNormalization: scale, bias, mean, variance of every place.
PLACES = {name: RNG.uniform(0.5, 2, (12, 8, 8)).astype(np.float32) for name in ("s", "b", "m", "v")}

# (node behind 'deep.add', which is (N, 12, 8, 8), opset, constants)
CASES: dict[str, tuple[onnx.NodeProto, int, dict[str, np.ndarray]]] = {
    "Affine": (node("Affine", ["deep.add"], ["y"], alpha=2.0, beta=-0.5), 7, {}),
    "ImageScaler": (node("ImageScaler", ["deep.add"], ["y"], scale=0.5, bias=RNG.normal(size=12).tolist()), 9, {}),
    "Scale": (node("Scale", ["deep.add"], ["y"], scale=1.5), 9, {}),
    "Scale, default": (node("Scale", ["deep.add"], ["y"]), 7, {}),
    "ScaledTanh": (node("ScaledTanh", ["deep.add"], ["y"], alpha=1.5, beta=0.3), 7, {}),
    "ParametricSoftplus": (node("ParametricSoftplus", ["deep.add"], ["y"], alpha=0.7, beta=1.3), 9, {}),
    "ThresholdedRelu": (node("ThresholdedRelu", ["deep.add"], ["y"], alpha=0.4), 9, {}),
    "Crop": (node("Crop", ["deep.add"], ["y"], border=[1, 2, 3, 1]), 9, {}),
    "Crop, some sides": (node("Crop", ["deep.add"], ["y"], border=[0, 2, 0, 1]), 7, {}),
    "BatchNormalization": (
        node("BatchNormalization", ["deep.add", "s", "b", "m", "v"], ["y"], spatial=0, epsilon=0.01),
        7,
        PLACES,
    ),
}


def written(name: str, folder: Path) -> Path:
    last, opset, constants = CASES[name]
    model = tiny.appended(last)
    model.opset_import[0].version = opset
    model.graph.initializer.extend(numpy_helper.from_array(value, key) for key, value in constants.items())
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("name", ["ImageScaler", "Crop"])
def test_nothing_is_printed_but_what_the_command_prints(tmp_path: Path, name: str):
    """The checker warns on standard output of operators that ONNX calls experimental, when the process ends."""
    path = written(name, tmp_path)
    command = [sys.executable, "-m", "onnx_evidence", "inspect", str(path), "--json"]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(ended.stdout)["classes"] == 5
    assert ended.stderr == ""
    # Control: it does.
    alone = subprocess.run(
        [sys.executable, "-c", "import onnx, sys; onnx.checker.check_model(sys.argv[1])", str(path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"experimental ops: {name}" in alone.stdout + alone.stderr


@pytest.mark.parametrize("name", CASES)
def test_what_onnx_has_dropped_is_explained(tmp_path: Path, name: str):
    path = written(name, tmp_path)
    explainer = Explainer(path, device="cpu", quality="fast")
    found = explainer.deployed.model
    assert any("1 special or outdated operators written as standard ones" in each for each in found.changes)
    assert found.proof is not None
    assert found.proof.holds
    assert not explainer.deployed.missing_rules("input")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    x = RNG.normal(size=(3, 3, 32, 32)).astype(np.float32)
    expected = session.run(None, {"input": x})[0]
    np.testing.assert_allclose(explainer.deployed.logits(x), expected, rtol=1e-4, atol=1e-4)
    plain = DeployedModel(tiny.save(tiny.classifier(), tmp_path / "plain.onnx"), device="cpu").logits(x)
    assert name == "Scale, default" or np.abs(plain - expected).max() > 0.1, "the operator does nothing"
    picture = np.random.default_rng(0).integers(0, 256, (40, 50, 3)).astype(np.uint8)
    assert np.abs(explainer.explain(picture).values).sum() > 0.01


@pytest.mark.parametrize(
    ("last", "opset"),
    [
        (node("BatchNormalization", ["deep.add", "s", "b", "m", "v"], ["y"]), 7),
        (node("ThresholdedRelu", ["deep.add"], ["y"]), 10),
        (node("Crop", ["deep.add"], ["y"], border=[1, 1, 1, 1], scale=[2, 2]), 9),
        (node("Normalizer", ["deep.add"], ["y"], norm="MAX", domain="ai.onnx.ml"), 9),
        (node("Affine", ["deep.add"], ["y"], domain="com.microsoft"), 9),
    ],
)
def test_control_what_is_standard_or_not_known_stays(last: onnx.NodeProto, opset: int):
    model = tiny.appended(last)
    model.opset_import[0].version = opset
    before = model.SerializeToString()
    assert rewrite_special(model) == 0
    assert [each.op_type for each in model.graph.node] == [
        each.op_type for each in onnx.load_model_from_string(before).graph.node
    ]
