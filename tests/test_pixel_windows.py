"""Removal of pixels: occlusion and prediction difference analysis, with any window and any stride, against loops."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import pytest

from onnx_evidence import DeployedModel, Explainer
from onnx_evidence.evidence.background import RIDGE
from onnx_evidence.evidence.odds import LN2
from onnx_evidence.methods.background_file import load_background, save_background
from onnx_evidence.methods.fit import fit_background
from tests import oracles

TARGET = 1


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return oracles.ar_picture(5, 60, 60)


@pytest.fixture(scope="module")
def deployed(tiny_model: Path) -> DeployedModel:
    return DeployedModel(tiny_model, device="cpu")


@pytest.fixture(scope="module")
def inputs(deployed: DeployedModel, picture: np.ndarray) -> np.ndarray:
    return deployed.prepare(picture)[1]


@pytest.fixture(scope="module")
def fitted(deployed: DeployedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A background of pixels with a patch of 8."""
    folder = tmp_path_factory.mktemp("pixels")
    for number in range(12):
        cv2.imwrite(str(folder / f"{number}.png"), oracles.ar_picture(number, 40, 40))
    file = fit_background(deployed, ["input"], sorted(folder.glob("*.png")), window=4, patch=8)
    save_background(folder / "b.npz", file)
    return folder / "b.npz"


def explain(deployed: DeployedModel, picture: np.ndarray, method: str, **settings) -> np.ndarray:
    return Explainer(deployed, method=method, **settings).explain(picture, target=TARGET).values


def bits(logits: np.ndarray) -> float:
    return oracles.exact_log_odds(logits, TARGET) / LN2


@pytest.mark.parametrize(("window", "stride"), [(5, 4), (7, 7), (12, 5), (32, 1), (50, 30)])
def test_occlusion_covers_with_a_constant_at_any_stride(window, stride, deployed, picture, inputs):
    side = min(window, 32)
    starts = [*range(0, 32 - side, stride), 32 - side]
    grey, full = inputs.mean(axis=(1, 2), keepdims=True), bits(deployed.logits(inputs[None])[0])
    total, count = np.zeros((32, 32)), np.zeros((32, 32))
    for row, col in product(starts, starts):
        covered = inputs.copy()
        covered[:, row : row + side, col : col + side] = grey
        total[row : row + side, col : col + side] += full - bits(deployed.logits(covered[None])[0])
        count[row : row + side, col : col + side] += 1
    seen = explain(deployed, picture, "occlusion", window=window, stride=stride)
    np.testing.assert_allclose(seen, total / count, atol=1e-4)
    assert np.abs(seen).max() > 1e-2
    assert np.abs(seen - explain(deployed, picture, "occlusion", window=6, stride=3)).max() > 1e-2  # the control


def test_occlusion_of_single_pixels(deployed, picture, inputs):
    seen = explain(deployed, picture, "occlusion", window=1, stride=1)
    full = bits(deployed.logits(inputs[None])[0])
    for row, col in [(0, 0), (3, 17), (31, 30)]:
        covered = inputs.copy()
        covered[:, row, col] = inputs.mean(axis=(1, 2))
        assert seen[row, col] == pytest.approx(full - bits(deployed.logits(covered[None])[0]), abs=1e-4)


@pytest.mark.parametrize(("window", "stride"), [(4, 3), (6, 4), (5, 5), (8, 7)])
def test_pda_expects_each_colour_given_its_own_surroundings_at_any_stride(
    window, stride, deployed, picture, inputs, fitted
):
    """With draws in place of what is expected, stride 1 and windows of 10: oracle O16, on a toy."""
    file = load_background(fitted, deployed.model.sha256, deployed.preprocess.model_dump_json())
    background = file.for_cut("input", "")[1]
    assert background.covariance.shape == (3, 64, 64)  # a covariance per colour, none between colours
    settings = {"window": window, "stride": stride, "background": fitted, "samples": 1}
    seen = explain(deployed, picture, "pda", **settings)
    slow = expected_pixels(deployed, inputs, background, window, stride, range(3))
    scale = np.abs(slow).max()
    assert scale > 0.1
    np.testing.assert_allclose(seen, slow, atol=1e-4 * scale)
    if window < 8:  # a window as large as the patch has no surroundings
        mistaken = expected_pixels(deployed, inputs, background, window, stride, (0, 0, 0))
        assert np.abs(mistaken - slow).max() > 1e-2 * scale


def test_pda_draws_as_many_as_it_says_and_knows_its_error(deployed, picture, fitted):
    runs = [
        Explainer(deployed, method="pda", window=6, stride=6, background=fitted, samples=8, seed=seed).explain(
            picture, target=TARGET
        )
        for seed in range(30)
    ]
    seen = np.std([run.values for run in runs], axis=0, ddof=1)
    said = np.sqrt(np.mean([run.stderr**2 for run in runs], axis=0))
    assert np.median(said / seen) == pytest.approx(1, abs=0.25)
    assert runs[0].record["cuts"][0]["samples"] == 8
    default = Explainer(deployed, method="pda", background=fitted, window=8, stride=8)
    assert default.rows() == 16 * 10


def expected_pixels(deployed, inputs, background, k: int, stride: int, colours: Sequence[int]) -> np.ndarray:
    """Zintgraf 2017, algorithm 1, with the conditional mean of each window in place of draws, and a stride.

    ``colours`` names whose statistics each colour is drawn with: a mistake of the published code was one for all.
    """
    side = background.patch
    starts = [*range(0, 32 - k, stride), 32 - k]
    full, total, count = bits(deployed.logits(inputs[None])[0]), np.zeros((32, 32)), np.zeros((32, 32))
    for row, col in product(starts, starts):
        top, left = (min(max(place - (side - k) // 2, 0), 32 - side) for place in (row, col))
        inside = np.zeros((side, side), bool)
        inside[row - top : row - top + k, col - left : col - left + k] = True
        edited = inputs.copy()
        for colour, source in enumerate(colours):
            mean = background.mean[colour, top : top + side, left : left + side]
            deviation = (inputs[colour, top : top + side, left : left + side] - mean)[~inside]
            covariance = background.covariance[source].copy()
            outside = np.flatnonzero(~inside)
            covariance[outside, outside] += RIDGE * covariance[outside, outside].mean() if outside.size else 0
            shift, _ = oracles.conditional_by_precision(covariance, inside.ravel(), deviation)
            drawn = np.clip(mean[inside] + shift, background.low[colour], background.high[colour])
            edited[colour, row : row + k, col : col + k] = drawn.reshape(k, k)
        total[row : row + k, col : col + k] += full - bits(deployed.logits(edited[None])[0])
        count[row : row + k, col : col + k] += 1
    return total / count
