"""Where paths start: constants, the blurred picture, other pictures, and what a fitted background expects."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from onnx_evidence import DeployedModel, Explainer, fit_background
from onnx_evidence.errors import DataError
from onnx_evidence.evidence.background import Background, window_in_patch
from onnx_evidence.evidence.samplers import ConditionalSampler
from onnx_evidence.methods import baselines
from onnx_evidence.methods.background_file import save_background
from onnx_evidence.methods.engine import View
from tests import oracles

SHAPE = (3, 4, 5)


@pytest.fixture
def view(rng: np.random.Generator) -> View:
    inputs = (rng.normal(size=(3, 32, 40)) + 3).astype(np.float32)
    return View(inputs, rng.normal(size=SHAPE).astype(np.float32), np.zeros(5), 7)


@pytest.fixture
def background(rng: np.random.Generator) -> Background:
    """A patch of the whole grid's height, and a range that clips nothing."""
    roots = rng.normal(size=(3, 16, 16)) / 4
    covariance = roots @ roots.transpose(0, 2, 1) + 0.5 * np.eye(16)
    wide = np.full(3, 1e6)
    return Background(4, rng.normal(size=SHAPE), covariance, -wide, wide)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures")
    for number in range(12):
        field = oracles.ar_fields(np.random.default_rng(number), 3, 40, 0.9).transpose(1, 2, 0)
        cv2.imwrite(str(path / f"{number}.png"), np.clip(128 + 60 * field, 0, 255).astype(np.uint8))
    return path


def test_own_means_and_zeros(view):
    (means,), (nothing,) = baselines.own_means(view), baselines.zeros(view)
    for each in (means, nothing):
        assert (each.shape, each.dtype) == (SHAPE, np.float32)
    for k in range(3):
        np.testing.assert_allclose(means[k], sum(view.features[k].ravel().tolist()) / 20, rtol=1e-6)
    assert not nothing.any()
    assert np.abs(means).min() > 1e-3


def gaussian(values: np.ndarray, sigma: float) -> np.ndarray:
    """Blur by plain sums, reflected at the border without repeating its pixel."""
    reach = int(np.ceil(4 * sigma))
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    for axis in (1, 2):
        pads = [(reach, reach) if each == axis else (0, 0) for each in range(3)]
        padded = np.pad(values.astype(np.float64), pads, mode="reflect")
        count = values.shape[axis]
        shifted = [w * padded.take(range(i, i + count), axis) for i, w in enumerate(weights)]
        values = sum(shifted) / weights.sum()
    return values


def test_blurred_is_the_head_of_the_blurred_picture(view):
    sigma = 11 / 224 * 32  # of the shorter side
    seen = baselines.blurred(lambda x: 2 * x[:, :, ::2, ::2])(view)
    expected = 2 * gaussian(view.inputs, sigma)[:, ::2, ::2]
    assert seen.shape == (1, 3, 16, 20)
    np.testing.assert_allclose(seen[0], expected, atol=2e-3)
    assert np.abs(seen[0] - 2 * gaussian(view.inputs, 1.3 * sigma)[:, ::2, ::2]).max() > 0.05
    assert np.abs(seen[0] - 2 * view.inputs[:, ::2, ::2]).max() > 1


def test_pictures_are_drawn_once_by_seed(view):
    paths = [Path(str(number)) for number in range(20)]
    read: list[Path] = []

    def prepare(path: Path) -> np.ndarray:
        read.append(path)
        return np.full((1, 2, 2), int(str(path)), np.float32)

    def drawn(count: int, seed: int) -> list[float]:
        starts = baselines.pictures(lambda x: x + 0.5, prepare, paths, count, seed)
        before = len(read)
        first, again = starts(view), starts(view)
        np.testing.assert_array_equal(first, again)
        assert len(read) == before  # nothing is read per picture explained
        assert first.shape == (count, 1, 2, 2)
        return (first[:, 0, 0, 0] - 0.5).tolist()

    chosen = drawn(6, 1)
    assert chosen == drawn(6, 1)
    assert len(set(chosen)) == 6
    assert {*chosen} <= {*range(20)}
    others = [drawn(6, seed) for seed in range(2, 6)]
    assert any(each != chosen for each in others)
    assert sorted(drawn(20, 3)) == list(range(20))
    with pytest.raises(DataError, match=r"20 pictures .* 21 are to be drawn: give more, or --samples 20"):
        drawn(21, 1)


def test_draws_from_a_folder_that_is_not_there_are_refused_for_that(tiny_model: Path, tmp_path: Path):
    with pytest.raises(DataError, match=r"nowhere: .*No such file"):
        Explainer(tiny_model, device="cpu", background=str(tmp_path / "nowhere"), samples=4)


def test_of_one_draw_no_error_is_told(tiny_model: Path, folder: Path):
    for samples, said in ((1, False), (2, True)):
        explainer = Explainer(tiny_model, device="cpu", background=str(folder), samples=samples)
        assert (
            explainer.method.has_error(explainer.settings) == explainer.explain(next(folder.iterdir())).sampled == said
        )


def test_fitted_means_per_cell_and_per_channel(view, background):
    (position,) = baselines.fitted(background, "position", 3)(view)
    (channel,) = baselines.fitted(background, "channel", 3)(view)
    np.testing.assert_allclose(position, background.mean, rtol=1e-6)
    for k in range(3):
        np.testing.assert_allclose(channel[k], background.mean[k].sum() / 20, rtol=1e-5)
    assert position.dtype == channel.dtype == np.float32
    assert np.abs(position - channel).max() > 0.1


def test_conditional_is_the_mean_of_the_covering_windows(view, background):
    """Window of 3 in a patch of 4: cell (0, 0) is covered once, cell (1, 2) by six."""
    (seen,) = baselines.fitted(background, "conditional", 3)(view)
    features = view.features.astype(np.float64)

    def expected(row: int, col: int) -> np.ndarray:
        left = min(col, 1)  # the patch is as high as the grid, and one cell narrower
        inside = window_in_patch(4, (3, 3), (row, col - left))
        around = np.s_[:, left : left + 4]
        means = []
        for k in range(3):
            expectation = background.mean[k][around].ravel()
            deviation = features[k][around].ravel() - expectation
            shift, _ = oracles.conditional_by_precision(background.covariance[k], inside, deviation[~inside])
            means.append((expectation[inside] + shift).reshape(3, 3))
        return np.array(means)

    np.testing.assert_allclose(seen[:, 0, 0], expected(0, 0)[:, 0, 0], atol=0.02)  # the ridge moves it a little
    np.testing.assert_allclose(seen[:, 3, 4], expected(1, 2)[:, 2, 2], atol=0.02)
    six = [expected(row, col)[:, 1 - row, 2 - col] for row in (0, 1) for col in (0, 1, 2)]
    np.testing.assert_allclose(seen[:, 1, 2], np.mean(six, axis=0), atol=0.02)
    single = ConditionalSampler(background).conditional(view.features, (0, 0), (3, 3))[0].reshape(3, 3, 3)
    np.testing.assert_allclose(seen[:, 0, 0], single[:, 0, 0], rtol=1e-5)
    assert np.abs(seen - background.mean).max() > 0.1  # the control: surroundings count
    assert np.abs(seen[:, 1, 2] - six[0]).max() > 0.02


def test_conditional_without_surroundings_is_the_mean_of_every_cell(rng):
    shape = (2, 3, 3)
    covariance = np.stack([oracles.ar_covariance(3, 0.5)] * 2)
    fitted = Background(3, rng.normal(size=shape), covariance, np.full(2, -9.0), np.full(2, 9.0))
    features = rng.normal(size=shape).astype(np.float32)
    view = View(features, features, np.zeros(2), 0)
    np.testing.assert_allclose(baselines.fitted(fitted, "conditional", 3)(view)[0], fitted.mean, rtol=1e-6)
    narrow = baselines.fitted(fitted, "conditional", 1)(view)[0]
    assert np.abs(narrow - fitted.mean).max() > 0.1


def test_every_background_starts_a_path_of_its_own(tiny_model, folder, tmp_path):
    """Through the explainer: as many budgets as starts, each from the score of its own start."""
    deployed = DeployedModel(tiny_model, device="cpu")
    file = tmp_path / "b.npz"
    save_background(file, fit_background(deployed, ["block.add"], sorted(folder.iterdir())))
    picture = np.random.default_rng(3).integers(0, 256, (50, 44, 3)).astype(np.uint8)
    cut = deployed.graph.find("block.add")

    def explain(**settings):
        explainer = Explainer(deployed, layer="block.add", method="integrated", **settings)
        return explainer, explainer.explain(picture, target=1)

    without = {}
    for name, settings in {
        "both": {},
        "mean": {"background": "mean"},
        "zero": {"background": "zero"},
        "blur": {"background": "blur"},
        "position": {"background": str(file)},
        "channel": {"background": str(file), "statistic": "channel"},
        "conditional": {"background": str(file), "statistic": "conditional"},
        "pictures": {"background": str(folder), "samples": 5},
    }.items():
        explainer, evidence = explain(**settings)
        inputs = deployed.prepare(picture)[1]
        logits, (features,) = deployed.answer(inputs).logits, deployed.looker([cut])(inputs)
        starts = explainer.engines[0].baselines(View(inputs, features, logits, 0))
        assert len(starts) == {"pictures": 5, "both": 2}.get(name, 1)
        odds = [oracles.exact_log_odds(z, 1) / np.log(2) for z in deployed.tail(cut)(starts.astype(np.float32))]
        without[name] = evidence.budget.without
        assert without[name] == pytest.approx(np.mean(odds), abs=1e-4)
        assert np.isnan(evidence.stderr).all() == (name != "pictures")
    assert len({round(each, 4) for each in without.values()}) == len(without)
    with pytest.raises(DataError, match="12 pictures"):
        explain(background=str(folder), samples=13)
