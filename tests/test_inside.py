"""Files that explain themselves: what they give is what `explain` says of them."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from onnx_evidence import DeployedModel, Explainer
from onnx_evidence.errors import ChangedError, CutError, SettingError, TargetError
from onnx_evidence.export.build import INPUT, RUNNER_UP, WINNER, Asked
from onnx_evidence.export.file import export_model
from onnx_evidence.intake import RECORD
from tests.test_export import run

PICTURE = np.random.default_rng(3).integers(0, 256, (40, 57, 3), dtype=np.uint8)


def exported(tiny_model: Path, folder: Path, asked: Asked) -> Path:
    path = folder / "explained.onnx"
    with Explainer(tiny_model, device="cpu", steps=3, most_steps=3) as explainer:
        path.write_bytes(export_model(explainer, asked, pictures=1).data)
    return path


@pytest.mark.parametrize("decoded", [False, True])
def test_a_file_that_explains_itself_is_asked(tiny_model: Path, tmp_path: Path, decoded: bool):
    """By default, and it is said; the map is what ONNX Runtime gives of the file, and what `explain` would make."""
    path = exported(tiny_model, tmp_path, Asked(decoded=decoded))
    with Explainer(path, device="cpu") as explainer, Explainer(tiny_model, steps=3, most_steps=3) as twin:
        assert explainer.settings.method == "inside"
        assert explainer.reason == "the file was exported with its explanation"
        found, other = explainer.explain(PICTURE), twin.explain(PICTURE)
        inputs = explainer.deployed.prepare(PICTURE)[1][None]
        values = run(path.read_bytes(), PICTURE[None] if decoded else inputs)[1]
        assert np.array_equal(found.values, values[0, 0])
        assert np.abs(found.values - other.values).max() < 1e-5
        assert found.budget.with_features == pytest.approx(other.budget.with_features, abs=1e-4)
        assert found.budget.gap == pytest.approx(other.budget.gap, abs=1e-4)
        assert found.target == other.target
        assert found.record["cuts"][0]["exported"]["settings"]["steps"] == 3


def test_what_the_method_is_asked_for_is_the_model_inside(tiny_model: Path, tmp_path: Path):
    """Any setting of a method means the package's own, and so does its name."""
    path = exported(tiny_model, tmp_path, Asked())
    for settings in ({"steps": 6}, {"method": "integrated"}, {"quality": "fast"}, {"layer": "deep.add"}):
        with Explainer(path, device="cpu", **settings) as explainer:
            assert explainer.settings.method == "integrated"
    with Explainer(path, device="cpu", seed=4) as explainer:
        assert explainer.settings.method == "inside"


def test_questions_that_the_file_does_not_answer_are_refused(tiny_model: Path, tmp_path: Path):
    path = exported(tiny_model, tmp_path, Asked((WINNER, 3)))
    with Explainer(path, device="cpu") as explainer:
        top = explainer.explain(PICTURE).target.number
        maps = explainer.explain_all(PICTURE, [top, 3])
        assert [each.target.number for each in maps] == [top, 3]
        other = next(number for number in range(5) if number not in (top, 3))
        for asked in ({"target": other}, {"target": 3, "versus": other}):
            with pytest.raises(TargetError, match="take --method integrated"):
                explainer.explain(PICTURE, **asked)


def test_a_class_that_is_given_and_one_that_it_is_held_against(tiny_model: Path, tmp_path: Path):
    path = exported(tiny_model, tmp_path, Asked((INPUT,), RUNNER_UP))
    with Explainer(path, device="cpu") as explainer, Explainer(tiny_model, steps=3, most_steps=3) as twin:
        logits = explainer.deployed.logits(explainer.deployed.prepare(PICTURE)[1][None])[0]
        order = [int(number) for number in np.argsort(-logits)]
        for target, rival in ((order[0], order[1]), (order[2], order[0])):
            found = explainer.explain(PICTURE, target=target, versus=rival)
            other = twin.explain(PICTURE, target=target, versus=rival)
            assert np.abs(found.values - other.values).max() < 1e-5
        with pytest.raises(TargetError, match="rather than runner-up"):
            explainer.explain(PICTURE, target=order[2], versus=order[1])


def test_other_files_do_not_explain_themselves(tiny_model: Path, tmp_path: Path):
    with pytest.raises(SettingError, match="does not explain itself"):
        Explainer(tiny_model, method="inside")
    path = exported(tiny_model, tmp_path, Asked())
    with pytest.raises(SettingError, match="explains classes that are exclusive"):
        Explainer(path, method="inside", classes="independent")


def test_a_file_that_was_changed_is_not_asked(tiny_model: Path, tmp_path: Path):
    path = exported(tiny_model, tmp_path, Asked())
    with DeployedModel(path, device="cpu") as deployed:
        path.write_bytes(path.read_bytes() + b"\0")
        with pytest.raises(ChangedError):
            Explainer(deployed)


def test_a_file_that_explains_other_bits_than_it_says_is_refused(tiny_model: Path, tmp_path: Path):
    """Somebody's tool spoilt the budget."""
    path = exported(tiny_model, tmp_path, Asked())
    model = onnx.load(path)
    assert any(each.key == RECORD for each in model.metadata_props)
    last = next(node for node in model.graph.node if "budget" in node.output)
    last.output[0] = "half"
    model.graph.node.append(onnx.helper.make_node("Add", ["half", "half"], ["budget"]))
    onnx.save(model, path)
    with Explainer(path, device="cpu") as explainer, pytest.raises(CutError, match="the file explains"):
        explainer.explain(PICTURE)
