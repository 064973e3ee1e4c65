"""Files that only the ONNX checker objects to are taken as ONNX Runtime takes them; what it refuses stays refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_evidence import DeployedModel, Explainer
from onnx_evidence.errors import ModelError
from onnx_evidence.intake import trial
from tests import tiny

node = helper.make_node
PICTURE = np.random.default_rng(0).integers(0, 256, (40, 50, 3)).astype(np.uint8)


def written(model: onnx.ModelProto, folder: Path, name: str = "model") -> Path:
    path = folder / f"{name}.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def run(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Pictures, and the file's own class scores."""
    x = np.random.default_rng(3).normal(size=(3, 3, 32, 32)).astype(np.float32)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return x, session.run(["logits"], {"input": x})[0]


def objected(model: onnx.ModelProto) -> str:
    """What the checker says."""
    with pytest.raises(onnx.checker.ValidationError) as caught:
        onnx.checker.check_model(model)
    return str(caught.value).splitlines()[0]


def old_version(model: onnx.ModelProto) -> None:
    model.ir_version = 3


def no_graph_name(model: onnx.ModelProto) -> None:
    model.graph.name = ""


def no_weight_name(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(2, np.float32), ""))


def same_weight_twice(model: onnx.ModelProto) -> None:
    """The last one counts."""
    model.graph.initializer.insert(0, numpy_helper.from_array(np.zeros(5, np.float32), "b6"))


def other_name_of_the_domain(model: onnx.ModelProto) -> None:
    model.graph.node[0].domain = "ai.onnx"


def same_key_twice(model: onnx.ModelProto) -> None:
    for value in "ab":
        model.metadata_props.add(key="by", value=value)


def no_type_of_output(model: onnx.ModelProto) -> None:
    model.graph.output[0].type.Clear()


def no_shape_of_output(model: onnx.ModelProto) -> None:
    model.graph.output[0].type.tensor_type.ClearField("shape")


def no_shape_of_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.ClearField("shape")


def domain_without_version(model: onnx.ModelProto) -> None:
    """A Normalizer behind the scores, whose domain is not listed."""
    model.graph.node[-1].output[0] = "raw"
    model.graph.node.append(node("Normalizer", ["raw"], ["logits"], domain="ai.onnx.ml", norm="L1"))


def opset_in_an_old_version(model: onnx.ModelProto) -> None:
    model.ir_version = 2


OBJECTIONS: list[Callable[[onnx.ModelProto], None]] = [
    old_version,
    no_graph_name,
    no_weight_name,
    same_weight_twice,
    other_name_of_the_domain,
    same_key_twice,
    no_type_of_output,
    no_shape_of_output,
    no_shape_of_input,
    domain_without_version,
    opset_in_an_old_version,
]


@pytest.mark.parametrize("change", OBJECTIONS)
def test_what_only_the_checker_minds_is_explained(tmp_path: Path, change: Callable[[onnx.ModelProto], None]):
    model = tiny.classifier()
    change(model)
    said = objected(model)
    path = written(model, tmp_path)
    x, expected = run(path)
    explainer = Explainer(path, device="cpu", quality="fast")
    found = explainer.deployed.model
    assert any(said in each and "ONNX Runtime does not" in each for each in found.changes)
    assert found.proof is not None
    assert found.proof.holds
    np.testing.assert_allclose(explainer.deployed.logits(x), expected, rtol=1e-4, atol=1e-5)
    assert np.abs(explainer.explain(PICTURE).values).sum() > 0.01


# --- shapes that are told, and wrong ------------------------------------------------------------------------------


def told(name: str, kind: int, *sides: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, sides)


SHAPES: dict[str, Callable[[onnx.ModelProto], None]] = {
    "another number": lambda model: model.graph.value_info.append(told("stem", TensorProto.FLOAT, "N", 9, 16, 16)),
    "fewer axes": lambda model: model.graph.value_info.append(told("stem", TensorProto.FLOAT, "N", 8, 16)),
    "told twice": lambda model: model.graph.value_info.extend([told("stem", TensorProto.FLOAT, "N", 8, 16, 16)] * 2),
    "a map": lambda model: model.graph.output[0].CopyFrom(told("logits", TensorProto.FLOAT, "N", 5, 8, 8)),
    "whole numbers of classes": lambda model: model.graph.output[0].CopyFrom(told("logits", TensorProto.FLOAT, 4, 7)),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_that_are_told_wrongly_change_nothing(tmp_path: Path, name: str):
    right = Explainer(written(tiny.classifier(), tmp_path, "right"), device="cpu", quality="fast")
    model = tiny.classifier()
    SHAPES[name](model)
    path = written(model, tmp_path)
    run(path)
    explainer = Explainer(path, device="cpu", quality="fast")
    assert [cut.name for cut in explainer.deployed.graph.cuts] == [cut.name for cut in right.deployed.graph.cuts]
    np.testing.assert_array_equal(explainer.explain(PICTURE).values, right.explain(PICTURE).values)


@pytest.mark.parametrize("place", ["value_info", "output"])
def test_types_that_are_told_wrongly_are_refused_as_the_runtime_does(tmp_path: Path, place: str):
    model = tiny.classifier()
    if place == "output":
        model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    else:
        model.graph.value_info.append(told("stem", TensorProto.FLOAT16, "N", 8, 16, 16))
    path = written(model, tmp_path)
    with pytest.raises(Exception, match="Type Error"):
        run(path)
    with pytest.raises(ModelError, match=r"ONNX Runtime cannot run the model: .*tensor\(float16\)"):
        DeployedModel(path, device="cpu")


def test_shapes_are_kept_where_inference_has_none(tmp_path: Path):
    """Behind an operator that inference does not know, what the file says is all there is."""
    model = tiny.classifier()
    model.graph.node[-1].output[0] = "z"
    model.graph.node.append(node("Gelu", ["z"], ["y"], domain="com.microsoft"))
    model.graph.node.append(node("Softmax", ["y"], ["logits"]))
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    model.graph.value_info.append(told("y", TensorProto.FLOAT, "N", 5))
    found = DeployedModel(written(model, tmp_path), device="cpu").model
    assert (found.output_kind, found.logits_name) == ("probabilities", "y")
    assert found.tensors["y"].shape[1:] == (5,)


# --- GroupNormalization before opset 21 ---------------------------------------------------------------------------


def grouped(opset: int) -> onnx.ModelProto:
    """Three groups of four channels; scales are per group before opset 21, per channel since."""
    scale, bias = np.array([1, 2, 0.5], np.float32), np.array([0, 0.2, -0.5], np.float32)
    last = node("GroupNormalization", ["deep.add", "scale", "bias"], ["normal"], num_groups=3, epsilon=1e-3)
    model = tiny.appended(last)
    model.opset_import[0].version = opset
    for name, value in (("scale", scale), ("bias", bias)):
        each = np.repeat(value, 4) if opset >= 21 else value
        model.graph.initializer.append(numpy_helper.from_array(each, name))
    return model


@pytest.mark.parametrize("opset", [18, 19, 20])
def test_group_normalization_of_old_opsets_is_explained_as_its_twin_is(tmp_path: Path, opset: int):
    assert "GroupNormalization is deprecated" in objected(grouped(opset))
    path, twin = written(grouped(opset), tmp_path), written(grouped(21), tmp_path, "twin")
    x, expected = run(path)
    np.testing.assert_allclose(run(twin)[1], expected, rtol=1e-5)
    old, new = (Explainer(each, device="cpu", quality="fast") for each in (path, twin))
    np.testing.assert_allclose(old.deployed.logits(x), expected, rtol=1e-5)
    assert not old.deployed.missing_rules("input")
    cuts = [(cut.name, cut.shape) for cut in old.deployed.graph.cuts]
    assert cuts == [(cut.name, cut.shape) for cut in new.deployed.graph.cuts]
    assert ("normal", (12, 8, 8)) in cuts
    np.testing.assert_allclose(old.explain(PICTURE).values, new.explain(PICTURE).values, rtol=1e-4, atol=1e-6)


# --- what stays refused -------------------------------------------------------------------------------------------


def unknown_attribute(model: onnx.ModelProto) -> None:
    model.graph.node[0].attribute.append(helper.make_attribute("foo", 3))


def output_of_nothing(model: onnx.ModelProto) -> None:
    model.graph.output.append(told("ghost", TensorProto.FLOAT, "N", 9))


def input_of_nothing(model: onnx.ModelProto) -> None:
    model.graph.node[-1].input[0] = "nothing"


def upsample_of_a_new_opset(model: onnx.ModelProto) -> None:
    model.CopyFrom(tiny.appended(node("Upsample", ["deep.add", "scales"], ["up"])))
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales"))


def no_version(model: onnx.ModelProto) -> None:
    model.ClearField("ir_version")


@pytest.mark.parametrize(
    "change", [unknown_attribute, output_of_nothing, input_of_nothing, upsample_of_a_new_opset, no_version]
)
def test_control_what_the_runtime_refuses_too_is_refused_as_the_checker_says(
    tmp_path: Path, change: Callable[[onnx.ModelProto], None]
):
    model = tiny.classifier()
    change(model)
    said = objected(model)
    path = written(model, tmp_path)
    with pytest.raises(ModelError) as caught:
        DeployedModel(path, device="cpu")
    assert str(caught.value).startswith(f"{path}: not a valid ONNX model, or a truncated one: {said.strip(' .')}")
    assert "\n" not in str(caught.value)


def test_what_the_runtime_says_is_added_where_it_says_something_else(tmp_path: Path):
    """The checker stops at a doubled key; what keeps the file from running is another thing."""
    model = tiny.classifier()
    same_key_twice(model)
    input_of_nothing(model)
    path = written(model, tmp_path)
    words = "duplicate keys in metadata_props; ONNX Runtime: Invalid model. Node input 'nothing' is not a graph input"
    with pytest.raises(ModelError, match=words):
        DeployedModel(path, device="cpu")
    upsample_of_a_new_opset(model)
    with pytest.raises(ModelError, match=r"Upsample is deprecated in domain_version of 17$"):
        DeployedModel(written(model, tmp_path), device="cpu")


def test_a_file_that_ends_the_runtime_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Opened in a process of its own, it ends that one alone."""
    model = tiny.classifier()
    model.graph.name = ""
    path = written(model, tmp_path)
    assert trial.runtime_refusal(path) is None
    monkeypatch.setattr(trial, "_PROGRAM", "import os; os.abort()")
    assert trial.runtime_refusal(path) == ""
    with pytest.raises(ModelError, match=r"a truncated one: Field 'name' of 'graph' is required to be non-empty$"):
        DeployedModel(path, device="cpu")
    monkeypatch.setattr(trial, "_PROGRAM", "import time; time.sleep(60)")
    monkeypatch.setattr(trial, "_PATIENCE", 0.2)
    assert trial.runtime_refusal(path) == ""
    monkeypatch.setattr(trial.sys, "executable", "")
    assert trial.runtime_refusal(path) == ""


def test_a_sound_file_starts_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(trial.subprocess, "run", lambda *given, **more: pytest.fail("a process was started"))
    assert DeployedModel(written(tiny.classifier(), tmp_path), device="cpu").classes == 5
