"""tools/bench_export.py: what it says of a small model is what plain ONNX Runtime says; what is planted is told."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import bench_export
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from click.testing import CliRunner
from onnx import numpy_helper
from parts.small_model import write_pictures

from onnx_evidence import DeployedModel, Explainer
from tests import tiny


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures"), 3)


def told(command: str, model: Path, pictures: Path, *words: str) -> tuple[str, dict[str, Any]]:
    """The printed row, and what is written of it."""
    out = pictures.parent / "found.json"
    given = [command, str(model), "--pictures", str(pictures), "--json", str(out), *words]
    result = CliRunner().invoke(bench_export.main, given, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    (row,) = result.output.splitlines()[2:]
    (found,) = json.loads(out.read_text(encoding="utf-8"))
    return row, found


def test_an_exported_model_says_the_same(tiny_model: Path, pictures: Path):
    row, found = told("same", tiny_model, pictures, "--count", "3", "--quality", "default", "--cells", "--floor")
    assert "| the same, the same |" in row
    assert row.startswith("| tiny, 9 steps |")
    assert [each["size"] for each in found["batches"]] == [1, 7]
    cells = [each["apart"][size] for each in found["cells"] for size in ("1", "7")]
    for apart in (*(each[name] for each in found["batches"] for name in ("patch", "pixel")), found["floor"], *cells):
        assert len(apart) == 3
        assert max(apart) < 1e-5
    with DeployedModel(tiny_model, device="cpu") as deployed:
        explainer = Explainer(deployed, steps=9, most_steps=9)
        first = explainer.explain(sorted(pictures.iterdir())[0])
        assert found["settings"]["cuts"] == [each["cut"] for each in found["cells"]]
        assert found["largest_pixel"][0] == np.abs(first.values).max()
        assert found["largest_patch"][0] == np.abs(first.shown).max()


def test_what_is_planted_is_told(tiny_model: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch):
    """A weight a hundredth larger, once what is exported was proved."""
    right = bench_export.export_model

    def wrong(*given: Any, **options: Any) -> Any:
        found = right(*given, **options)
        model = onnx.load_model_from_string(found.data)
        tensor = next(each for each in model.graph.initializer if each.name == "w4")
        tensor.CopyFrom(numpy_helper.from_array(1.01 * numpy_helper.to_array(tensor), tensor.name))
        return replace(found, data=model.SerializeToString())

    monkeypatch.setattr(bench_export, "export_model", wrong)
    row, found = told("same", tiny_model, pictures, "--count", "2", "--quality", "fast")
    assert "the same" not in row
    for each in found["batches"]:
        assert not each["same"]
        assert each["outputs"] > 1e-5
        assert min(each["patch"]) > 1e-5
        assert min(each["pixel"]) > 1e-6


def test_batches_are_filled_and_cut(tiny_model: Path, rng: np.random.Generator):
    session = ort.InferenceSession(tiny_model, providers=["CPUExecutionProvider"])
    inputs = rng.normal(size=(5, 3, 32, 32)).astype(np.float32)
    (found,) = bench_export._in_batches(session, inputs, 4)
    (first,) = session.run(None, {"input": inputs[:4]})
    (second,) = session.run(None, {"input": inputs[[4, 0, 1, 2]]})
    assert np.array_equal(found, np.concatenate([first, second[:1]]))


def test_a_model_of_a_fixed_batch_is_run_in_that_and_what_is_refused_is_told(pictures: Path, tmp_path: Path):
    model = tiny.classifier()
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = 3
    onnx.save(model, tmp_path / "three.onnx")
    row, found = told("same", tmp_path / "three.onnx", pictures, "--count", "1", "--quality", "fast")
    assert [each["size"] for each in found["batches"]] == [3]
    assert "| the same |" in row
    row, found = told("same", tmp_path / "three.onnx", pictures, "--quality", "fast", "--preprocess", "imagenet")
    assert set(found) == {"file", "quality", "refused"}
    assert "three, fast: refused: " in row


@pytest.mark.skipif(sys.platform != "linux", reason="memory is what Linux says of it")
def test_costs_are_told(tiny_model: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bench_export, "_LOADS", 1)
    row, found = told("cost", tiny_model, pictures, "--count", "1", "--quality", "fast")
    assert row.count("|") == len(bench_export._COST) + 1
    assert not [cell for cell in row.strip("|").split("|") if not cell.strip()]
    assert set(found["turns"]) == {"plain", "evidence", "decoded", "as_many", "explain"}
    assert {len(each) for each in found["turns"].values()} == {bench_export._TURNS}
    assert set(found["held"]) == set(found["load"]) == {"plain", "evidence"}
    assert min(min(each) for each in found["held"].values()) > 1e6
