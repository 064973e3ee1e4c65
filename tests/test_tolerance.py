"""``--tolerance`` from end to end: passes saved, windows that were not met, refusals, and what is printed."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from onnx_evidence import DeployedModel, Explainer, fit_background
from onnx_evidence.cli import main
from onnx_evidence.cli.tables import unmet
from onnx_evidence.errors import SettingError
from onnx_evidence.methods.background_file import save_background


def smooth(seed: int) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return np.kron(coarse, np.ones((8, 8, 1), np.uint8))


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A background of the input and a cut, from a dozen pictures."""
    deployed = DeployedModel(tiny_model, device="cpu")
    pictures = [smooth(seed) for seed in range(12)]
    path = tmp_path_factory.mktemp("background") / "background.npz"
    save_background(path, fit_background(deployed, ["input", "deep.add"], pictures, window=3))
    return path


def explain(model: Path, fitted: Path, **settings):
    given = {"method": "window", "layer": "deep.add", **settings}
    explainer = Explainer(model, background=str(fitted), device="cpu", **given)
    return explainer, explainer.explain(smooth(99))


def test_windows_stop_early_and_the_record_counts_the_passes(tiny_model, fitted):
    explainer, found = explain(tiny_model, fitted, tolerance=0.3)
    (cut,) = found.record["cuts"]
    windows = cut["windows"]
    assert cut["samples"] == 64
    assert cut["passes"] + cut["passes_saved"] == 64 * windows
    assert 8 * windows < cut["passes"] < 64 * windows
    assert explainer.rows() == 8 * windows
    assert found.looks == 4
    assert found.freedom.min() >= 3
    assert found.freedom.max() > 3
    assert found.record["settings"]["tolerance"] == 0.3
    assert "up to 64 samples until ±0.3 bits" in explainer.engines[0].summary()
    # What is stricter takes more; what nobody can reach takes all, and says so.
    _, stricter = explain(tiny_model, fitted, tolerance=0.15)
    assert stricter.record["cuts"][0]["passes"] > cut["passes"]
    _, never = explain(tiny_model, fitted, tolerance=1e-6)
    assert never.record["cuts"][0]["windows_unmet"] == windows
    assert never.record["cuts"][0]["passes_saved"] == 0


def test_out_of_reach_is_what_the_most_draws_give_for_all(tiny_model, fitted):
    _, sequential = explain(tiny_model, fitted, tolerance=1e-6, samples=16)
    _, fixed = explain(tiny_model, fitted, samples=16)
    np.testing.assert_allclose(sequential.values, fixed.values, atol=1e-5)
    np.testing.assert_allclose(sequential.stderr, fixed.stderr, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(sequential.freedom, fixed.freedom, rtol=1e-3)
    # Two looks share the 5 %, so what is printed is wider.
    assert (sequential.looks, fixed.looks) == (2, 1)
    assert (sequential.margin() > fixed.margin()).all()


def test_pixels_are_sampled_until_a_tolerance_too(tiny_model, fitted):
    _, found = explain(tiny_model, fitted, method="pda", layer="auto", window=3, stride=3, tolerance=0.2, samples=16)
    (cut,) = found.record["cuts"]
    assert cut["passes_saved"] > 0
    assert cut["passes"] + cut["passes_saved"] == 16 * cut["windows"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tolerance": 0.0}, "tolerance 0 is no width"),
        ({"tolerance": float("inf")}, "tolerance inf is no width"),
        ({"tolerance": float("nan")}, "tolerance nan is no width"),
        ({"tolerance": 0.1, "samples": 6}, "samples 6 are the most that --tolerance may draw"),
        ({"tolerance": 0.1, "samples": 9}, "an even number, at least 8"),
        ({"tolerance": 0.1, "background": None}, "Nothing is drawn from --background mean"),
        ({"tolerance": 0.1, "background": "zero"}, "give --background FILE.npz"),
        ({"tolerance": 0.1, "method": "integrated"}, "has no use for --tolerance: drop it, or take one of .*window"),
        ({"tolerance": 0.1, "method": "auto", "background": None}, "has no use for --tolerance"),
    ],
)
def test_tolerances_without_sense_are_refused(tiny_model, fitted, settings, message):
    with pytest.raises(SettingError, match=message):
        Explainer(tiny_model, **{"method": "window", "background": str(fitted), "device": "cpu", **settings})


def test_constants_of_occlusion_have_no_tolerance(tiny_model):
    with pytest.raises(SettingError, match="Nothing is drawn from --background mean"):
        Explainer(tiny_model, method="occlusion", tolerance=0.1, device="cpu")


def call(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(each) for each in arguments])
    assert result.exit_code == code, result.output
    return result


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import cv2

    path = tmp_path_factory.mktemp("picture") / "a.png"
    cv2.imwrite(str(path), smooth(99))
    return path


def test_the_command_prints_intervals_and_warns_of_windows_that_were_not_met(tiny_model, fitted, picture, tmp_path):
    start = ("explain", tiny_model, picture, "--method", "window", "--layer", "deep.add", "--background", fitted)
    result = call(*start, "-o", tmp_path, "--tolerance", 0.02, "--samples", 16)
    (entry,) = (json.loads(line) for line in (tmp_path / "manifest.jsonl").read_text().splitlines())
    (cut,) = entry["cuts"]
    count = cut["windows_unmet"]
    assert 0 < count <= cut["windows"]
    warning = f"{count} of {cut['windows']} windows at 'deep.add' are not known to ±0.02 bits after 16 samples"
    assert warning in result.stderr
    assert "± is a 95% interval" in result.stdout
    for key in ("strongest_for", "strongest_against"):
        low, high = entry[key]["interval"]
        assert low < entry[key]["bits"] < high
        assert (high - low) / 2 > 1.9 * entry[key]["stderr"]
        printed = f"{entry[key]['bits']:+.2f} ± {(high - low) / 2:.2f} at ({entry[key]['row']}, {entry[key]['col']})"
        assert printed in result.stdout
    with np.load(tmp_path / entry["map"]) as arrays:
        assert (arrays["margin"] > 1.9 * arrays["stderr"]).all()
    # The control: met, there is no warning.
    call_met = call(*start, "-o", tmp_path / "met", "--tolerance", 50)
    assert call_met.stderr == ""
    assert "passes_saved" in (tmp_path / "met" / "manifest.jsonl").read_text()


def test_without_sampling_there_is_no_interval_anywhere(tiny_model, picture, tmp_path):
    result = call("explain", tiny_model, picture, "--method", "window", "-o", tmp_path)
    (entry,) = (json.loads(line) for line in (tmp_path / "manifest.jsonl").read_text().splitlines())
    assert "±" not in result.stdout
    assert entry["strongest_for"]["interval"] is None
    assert "passes" not in entry["cuts"][0]
    assert unmet(entry) == []
    with np.load(tmp_path / entry["map"]) as arrays:
        assert "margin" not in arrays


@pytest.mark.parametrize(
    ("value", "said"), [("0", "not in the range"), ("-1", "not in the range"), ("x", "not a valid")]
)
def test_a_tolerance_that_is_no_width_is_wrong_usage(tiny_model, picture, tmp_path, value, said):
    result = call("explain", tiny_model, picture, "-o", tmp_path / "out", "--tolerance", value, code=2)
    assert said in result.stderr
    assert not (tmp_path / "out").exists()
