"""Methods that a model does not allow: those left to choose give way, with the reason; named ones never do."""

import json
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from click.testing import CliRunner, Result

from onnx_evidence import CutError, DeployedModel, Explainer
from onnx_evidence.cli import main
from onnx_evidence.errors import GradientError
from tests import oracles, tiny

NO_GRID = "no cut inside the model has a grid of 5 x 5 cells or more (rows and columns are lost at 'cells8': "


@pytest.fixture
def picture() -> np.ndarray:
    field = oracles.ar_fields(np.random.default_rng(5), 3, 32, 0.9).transpose(1, 2, 0)
    return np.clip(128 + 60 * field, 0, 255).astype(np.uint8)


@pytest.fixture
def branching(tmp_path: Path) -> Path:
    return tiny.branching(tmp_path / "branching.onnx")


def call(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result


@pytest.mark.parametrize(
    ("quality", "wanted"), [("default", "integrated"), ("fast", "integrated"), ("best", "ordered")]
)
def test_without_a_cut_pixels_are_explained_with_the_reason(branching: Path, picture, quality: str, wanted: str):
    deployed = DeployedModel(branching, device="cpu")
    explainer = Explainer(deployed, quality=quality)
    assert explainer.settings.method == "occlusion"
    assert explainer.reason.startswith(f"{wanted!r} cannot be computed: {NO_GRID}")
    assert explainer.record["method_reason"] == explainer.reason
    assert [engine.cut.name for engine in explainer.engines] == ["input"]
    asked = Explainer(deployed, method="occlusion")
    assert explainer.settings == asked.settings
    found, same = (each.explain(picture, target="bee") for each in (explainer, asked))
    np.testing.assert_array_equal(found.values, same.values)


def test_the_map_of_pixels_is_what_the_file_says_of_them(branching: Path, picture):
    explainer = Explainer(branching, device="cpu")
    session = ort.InferenceSession(str(branching), providers=["CPUExecutionProvider"])

    def bits(x: np.ndarray) -> float:
        z = session.run(None, {"input": x[None]})[0][0].astype(np.float64)
        return (z[1] - np.log(np.exp(np.delete(z, 1)).sum())) / np.log(2)

    explanation = explainer.explain(picture, target="bee")
    rows, cols = explanation.record["cuts"][0]["window"]
    _, x, _ = explainer.deployed.prepare(picture)
    # One window alone covers the pixel of a corner.
    corners = {(0, 0): np.s_[:, :rows, :cols], (-1, 0): np.s_[:, -rows:, :cols], (0, -1): np.s_[:, :rows, -cols:]}
    wanted = {}
    for place, window in corners.items():
        hidden = x.copy()
        hidden[window] = x.mean(axis=(1, 2), keepdims=True)
        wanted[place] = bits(x) - bits(hidden)
    for place, value in wanted.items():
        assert explanation.grids[0][place] == pytest.approx(value, abs=1e-4)
    # Control: they are not each other's.
    assert np.ptp(list(wanted.values())) > 1e-2


@pytest.mark.parametrize("given", [{"method": "integrated"}, {"method": "window"}, {"layer": "deep"}])
def test_without_a_cut_what_was_named_is_refused(branching: Path, given: dict):
    with pytest.raises(
        CutError, match=r"^no cut inside the model .* bypasses .*: name one with --layer, or work on pi"
    ):
        Explainer(branching, device="cpu", **given)


@pytest.mark.parametrize("quality", ["default", "fast", "best"])
def test_without_a_cut_nor_a_rule_pixels_are_explained(tmp_path: Path, quality: str):
    explainer = Explainer(tiny.branching(tmp_path / "b.onnx", ruled=False), device="cpu", quality=quality)
    assert explainer.settings.method == "occlusion"
    assert "no cut inside the model" in explainer.reason


@pytest.mark.parametrize(("quality", "wanted"), [("fast", "integrated"), ("best", "ordered")])
def test_a_quality_whose_method_has_no_rule_falls_back_as_the_default_does(
    tmp_path: Path, picture, quality: str, wanted: str
):
    deployed = DeployedModel(tiny.accumulating(tmp_path / "accumulating.onnx"), device="cpu")
    explainer, default = Explainer(deployed, quality=quality), Explainer(deployed)
    assert explainer.reason == f"{wanted!r} cannot be computed: no backward rule for Scan (at 'summed')"
    assert explainer.settings == default.settings
    np.testing.assert_array_equal(explainer.explain(picture).values, default.explain(picture).values)
    with pytest.raises(GradientError, match="no backward rule for Scan"):
        Explainer(deployed, method=wanted)


def test_the_table_the_receipt_and_inspect_say_it_and_verify_makes_it_again(branching: Path, picture, tmp_path: Path):
    np.save(tmp_path / "p.npy", picture)
    out = tmp_path / "out"
    shown = call("explain", branching, tmp_path / "p.npy", "-o", out, "--quality", "fast", "--device", "cpu").stdout
    (entry,) = map(json.loads, (out / "manifest.jsonl").read_text(encoding="utf-8").splitlines())
    assert entry["method_reason"].startswith(f"'integrated' cannot be computed: {NO_GRID}")
    assert shown.splitlines()[1] == f"method: occlusion ({entry['method_reason']})"
    assert "verdict: identical" in call("verify", out, "--device", "cpu").stdout
    lines = call("inspect", branching, "--device", "cpu").stdout.splitlines()
    assert "--method auto: occlusion, on pixels" in lines
    report = json.loads(call("inspect", branching, "--device", "cpu", "--json").stdout)
    assert (report["auto"], report["instead"]) == ([], "occlusion")
    assert report["auto_refusal"].startswith(NO_GRID)


def test_a_model_with_a_grid_is_told_of_no_other_method(tiny_model: Path):
    report = json.loads(call("inspect", tiny_model, "--device", "cpu", "--json").stdout)
    assert (report["auto_refusal"], report["instead"]) == (None, None)
