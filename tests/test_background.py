"""The fitted Gaussian, its file, and the judgement of the fit."""

from pathlib import Path

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from onnx_evidence import fit_background
from onnx_evidence.deployed import DeployedModel
from onnx_evidence.errors import DataError
from onnx_evidence.evidence.background import SHRINKAGE, BackgroundFitter, condition, default_patch, window_in_patch
from onnx_evidence.methods.background_file import load_background, save_background
from tests import oracles


def fitted(pictures: np.ndarray, patch: int) -> BackgroundFitter:
    fitter = BackgroundFitter(pictures.shape[1:], patch)
    for features in pictures:
        fitter.add(features)
    return fitter


def test_streaming_moments_equal_those_of_all_pictures_at_once(rng):
    pictures = rng.normal(size=(23, 3, 6, 7)) * 2 + np.array([100.0, -3.0, 0.0])[None, :, None, None]
    pictures += rng.normal(size=(3, 6, 7))  # cells differ in their means
    background = fitted(pictures, 3).finish()
    mean = pictures.mean(axis=0)
    weight = 23 / (23 + SHRINKAGE)
    centre = weight * mean + (1 - weight) * mean.mean(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(background.mean, centre, atol=1e-10)
    patches = sliding_window_view(pictures - centre, (3, 3), axis=(2, 3)).reshape(23, 3, -1, 9)
    expected = np.einsum("nzpa,nzpb->zab", patches, patches) / (23 * patches.shape[2])
    np.testing.assert_allclose(background.covariance, expected, atol=1e-9)
    np.testing.assert_array_equal(background.low, pictures.min(axis=(0, 2, 3)))
    np.testing.assert_array_equal(background.high, pictures.max(axis=(0, 2, 3)))


def test_fit_recovers_a_known_field(rng):
    pictures = oracles.ar_fields(rng, 1500, 10, 0.8)[:, None]
    background = fitted(pictures, 4).finish()
    truth = oracles.ar_covariance(4, 0.8)
    assert np.linalg.norm(background.covariance[0] - truth) / np.linalg.norm(truth) < 0.05
    independent = np.eye(16)
    assert np.linalg.norm(background.covariance[0] - independent) / np.linalg.norm(truth) > 0.5


def test_conditional_of_a_known_field_is_the_closed_form():
    covariance = oracles.ar_covariance(5, 0.7)
    inside = window_in_patch(5, (3, 3), (1, 1))
    gain, residual = condition(covariance[None], inside)
    deviation = np.random.default_rng(1).normal(size=16)
    shift, expected = oracles.conditional_by_precision(covariance, inside, deviation)
    np.testing.assert_allclose(gain[0] @ deviation, shift, atol=0.01)  # the ridge moves it a little
    np.testing.assert_allclose(residual[0], expected, atol=0.01)


def test_held_out_r2_is_that_of_predicting_held_out_pictures(rng):
    pictures = oracles.ar_fields(rng, 60, 8, 0.9)[:, None] + 5
    fitter = fitted(pictures, 5)
    held_out = np.arange(60) % 5 == 4
    alone = fitted_without_holding_out(pictures[~held_out])
    inside = window_in_patch(5, (3, 3), (1, 1))
    gain, _ = condition(alone.covariance, inside)
    patches = sliding_window_view(pictures[held_out] - alone.mean, (5, 5), axis=(2, 3)).reshape(-1, 25)
    error = patches[:, inside] - patches[:, ~inside] @ gain[0].T
    expected = 1 - (error**2).sum() / (patches[:, inside] ** 2).sum()
    assert fitter.held_out_r2(3) == pytest.approx(expected, abs=1e-9)
    assert expected > 0.3
    noise = fitted(rng.normal(size=(60, 1, 8, 8)), 5)
    assert noise.held_out_r2(3) < 0.1  # the control: independent cells cannot be predicted


def fitted_without_holding_out(pictures: np.ndarray):
    from onnx_evidence.evidence.background import _Moments

    moments = _Moments(pictures.shape[1:], 5)
    shift = pictures[0].mean(axis=(1, 2))[:, None, None]
    for features in pictures:
        moments.add(features - shift)
    from types import SimpleNamespace

    centre = moments.shrunk_mean()
    return SimpleNamespace(covariance=moments.covariance(centre), mean=centre + shift)


def test_too_few_pictures_are_refused(rng):
    with pytest.raises(DataError, match="9 pictures are too few"):
        fitted(rng.normal(size=(9, 1, 5, 5)), 3).finish()
    with pytest.raises(DataError, match="1 picture is too few"):
        fitted(rng.normal(size=(1, 1, 5, 5)), 3).finish()


def test_patch_that_does_not_fit_is_refused():
    with pytest.raises(DataError, match="patch 6 does not fit the cut's grid of 5 x 9"):
        BackgroundFitter((2, 5, 9), 6)


@pytest.mark.parametrize(
    ("window", "grid", "patch"), [(3, (14, 14), 5), (10, (224, 224), 14), (6, (28, 28), 10), (3, (4, 7), 4)]
)
def test_default_patch_has_a_ring_of_context(window, grid, patch):
    assert default_patch(window, grid) == patch


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> list[Path]:
    import cv2

    folder = tmp_path_factory.mktemp("pictures")
    fields = oracles.ar_fields(np.random.default_rng(3), 3 * 12, 48, 0.95).reshape(12, 48, 48, 3)
    for number, field in enumerate(fields):
        cv2.imwrite(str(folder / f"{number:02}.png"), np.clip(128 + 50 * field, 0, 255).astype(np.uint8))
    return sorted(folder.iterdir())


def test_file_round_trip_keeps_what_is_needed(tiny_model: Path, pictures, tmp_path):
    deployed = DeployedModel(tiny_model, device="cpu")
    file = fit_background(deployed, ["block.add", "deep.add"], pictures)
    save_background(tmp_path / "b.npz", file)
    again = load_background(tmp_path / "b.npz", deployed.model.sha256, deployed.preprocess.model_dump_json())
    assert again.header == file.header
    assert [cut.name for cut in again.header.cuts] == ["block.add", "deep.add"]
    assert again.header.pictures == 12
    for old, new in zip(file.backgrounds, again.backgrounds, strict=True):
        np.testing.assert_allclose(new.mean, old.mean, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(new.covariance, old.covariance, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(new.covariance, new.covariance.transpose(0, 2, 1))
    with pytest.raises(DataError, match=r"fitted for cut 'block.add', 'deep.add', not for 'stem'"):
        again.for_cut("stem", "b.npz")
    with pytest.raises(DataError, match="fitted for another model"):
        load_background(tmp_path / "b.npz", "0" * 64, deployed.preprocess.model_dump_json())
    other = deployed.preprocess.model_copy(update={"scale": 0.5})
    with pytest.raises(DataError, match="another preprocessing"):
        load_background(tmp_path / "b.npz", deployed.model.sha256, other.model_dump_json())
    # Written before contracts had more keys: what is missing stands at what it meant then.
    short = deployed.preprocess.model_dump_json(exclude_defaults=True)
    assert short != deployed.preprocess.model_dump_json()
    assert load_background(tmp_path / "b.npz", deployed.model.sha256, short).header == again.header


def test_clipping_is_reported(tiny_model: Path, pictures):
    from dataclasses import replace

    from onnx_evidence.methods.fit import clipped_share

    deployed = DeployedModel(tiny_model, device="cpu")
    file = fit_background(deployed, ["block.add"], pictures)
    assert 0 <= file.header.cuts[0].clipped < 0.2
    features = deployed.head(deployed.graph.find("block.add"))(deployed.prepare(pictures[0])[1][None])
    background = file.backgrounds[0]
    middle = (background.low + background.high) / 2
    assert clipped_share(replace(background, high=middle), list(features), 3) > file.header.cuts[0].clipped + 0.1
    wide = replace(background, low=background.low - 1e6, high=background.high + 1e6)
    assert clipped_share(wide, list(features), 3) == 0


def test_window_larger_than_the_patch_is_refused(tiny_model: Path, pictures):
    deployed = DeployedModel(tiny_model, device="cpu")
    with pytest.raises(DataError, match="patch 3 is smaller than the window of 5"):
        fit_background(deployed, ["block.add"], pictures, window=5, patch=3)
