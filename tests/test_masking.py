"""Masks and the maps made of them, against loops written from the papers, and closed forms of linear tails."""

from itertools import product

import cv2
import numpy as np
import pytest

from onnx_evidence.evidence.masks import (
    SHOWN,
    ablation_cam,
    activation_masks,
    cell_masks,
    channel_masks,
    mask_cells,
    masked_scores,
    random_masks,
    score_cam,
    slope,
    weighted_mean,
)
from onnx_evidence.evidence.odds import LN2
from onnx_evidence.evidence.resample import interpolation
from tests import oracles

CHANNELS, ROWS, COLS, CLASSES = 6, 5, 4, 7


@pytest.fixture
def linear(rng: np.random.Generator):
    """A GAP and linear tail, its weights and bias, and float32 features."""
    weights, bias = rng.normal(size=(CLASSES, CHANNELS)) * 3, rng.normal(size=CLASSES)
    features = rng.normal(size=(CHANNELS, ROWS, COLS)).astype(np.float32)
    return weights, bias, features, oracles.gap_linear(weights, bias)


def zero(features: np.ndarray) -> np.ndarray:
    return np.zeros_like(features)


def independent(rng: np.random.Generator, shape: tuple[int, ...]):
    """Masks of cells that are shown independently of one another."""
    return lambda start, stop: (rng.random((stop - start, 1, *shape)) < 0.5).astype(np.float32)


def rise_masks_one_by_one(seed: int, count: int, grid: tuple[int, int], side: int) -> np.ndarray:
    """The paper's masks, each by itself, upsampled by OpenCV."""
    rng = np.random.default_rng(seed)
    cell = -(-grid[0] // side), -(-grid[1] // side)
    masks = []
    for _ in range(count):
        small = (rng.random((side, side)) < 0.5).astype(np.float32)
        big = cv2.resize(small, ((side + 1) * cell[1], (side + 1) * cell[0]), interpolation=cv2.INTER_LINEAR)
        top, left = rng.integers(cell[0]), rng.integers(cell[1])
        masks.append(big[top : top + grid[0], left : left + grid[1]])
    return np.array(masks)


@pytest.mark.parametrize(("cells", "pixels"), [(7, 256), (7, 40), (3, 3), (1, 5), (16, 32), (2, 7)])
def test_upsampling_is_that_of_opencv(cells: int, pixels: int, rng):
    values = rng.normal(size=(cells, 1)).astype(np.float32)
    theirs = cv2.resize(values, (1, pixels), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(interpolation(cells, pixels) @ values, theirs, atol=2e-6)
    np.testing.assert_allclose(interpolation(cells, pixels).sum(axis=1), 1, atol=1e-6)
    if 1 < cells < pixels:
        ends_on_ends = np.interp(np.linspace(0, cells - 1, pixels), np.arange(cells), values[:, 0])
        assert np.abs(theirs[:, 0] - ends_on_ends).max() > 1e-3  # the control: corners are not aligned


@pytest.mark.parametrize(("grid", "side"), [((32, 32), 7), ((224, 224), 7), ((20, 33), 7), ((14, 14), 7), ((7, 7), 3)])
@pytest.mark.parametrize("batch", [1, 4, 9])
def test_random_masks_are_the_papers_in_batches_of_any_size(grid, side, batch):
    expected = rise_masks_one_by_one(5, 9, grid, side)
    make = random_masks(grid, np.random.default_rng(5))
    made = np.concatenate([make(start, min(start + batch, 9)) for start in range(0, 9, batch)])
    assert made.shape == (9, 1, *grid)
    assert made.dtype == np.float32
    np.testing.assert_allclose(made[:, 0], expected, atol=2e-6)
    assert np.abs(made[:, 0] - rise_masks_one_by_one(6, 9, grid, side)).max() > 0.5


def test_a_mask_has_fewer_cells_where_the_grid_has_and_expects_a_half_everywhere():
    assert [mask_cells(grid) for grid in [(224, 300), (14, 14), (13, 99), (7, 7), (2, 9), (1, 1)]] == [7, 7, 6, 3, 1, 1]
    masks = random_masks((10, 13), np.random.default_rng(0))(0, 4000)
    error = masks.std(axis=0) / np.sqrt(4000)
    assert np.abs((masks.mean(axis=0) - SHOWN) / error).max() < 5
    assert error.min() > 0
    assert masks.min() >= 0
    assert masks.max() <= 1 + 1e-6


def test_masks_of_one_cell_are_a_gaussian_of_three_by_three():
    made = cell_masks((4, 3))(0, 12)
    kernel = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16
    for number, (row, col) in enumerate(product(range(4), range(3))):
        padded = np.zeros((6, 5))
        padded[row : row + 3, col : col + 3] = kernel
        np.testing.assert_array_equal(made[number, 0], padded[1:-1, 1:-1])
    np.testing.assert_array_equal(cell_masks((4, 3))(5, 7), made[5:7])


def test_masks_without_a_channel_and_in_its_shape(rng):
    np.testing.assert_array_equal(channel_masks(5)(1, 4)[:, :, 0, 0], 1 - np.eye(5)[1:4])
    features = rng.normal(size=(4, 3, 5)).astype(np.float32)
    features[2] = 1.5
    made = activation_masks(features, (12, 10))(1, 4)[:, 0]
    for mask, channel in zip(made, features[1:], strict=True):
        big = cv2.resize(channel, (10, 12), interpolation=cv2.INTER_LINEAR).astype(np.float64)
        spread = np.ptp(big)
        np.testing.assert_allclose(mask, (big - big.min()) / spread if spread else 0 * big, atol=2e-6)
    assert (made[0].min(), made[0].max()) == (0, 1)


def test_masks_blend_features_with_the_background_in_batches_that_change_nothing(linear, rng):
    _, _, features, predict = linear
    background = rng.normal(size=features.shape).astype(np.float32)
    masks = rng.random((23, CHANNELS, ROWS, COLS)).astype(np.float32)
    slow = np.array([predict(((1 - m) * background + m * features)[None])[0, :2] for m in masks])
    for size in (1, 5, 23, 100):
        largest, ticks = [], []

        def watched(batch, seen=largest):
            seen.append(len(batch))
            return predict(batch)

        parts = masked_scores(
            features, background, watched, lambda a, b: masks[a:b], 23, lambda z: z[:, :2], batch_size=size,
            progress=ticks.append,
        )  # fmt: skip
        seen = list(parts)
        np.testing.assert_array_equal(np.concatenate([part for part, _ in seen]), masks)
        np.testing.assert_allclose(np.concatenate([scores for _, scores in seen]), slow, atol=1e-5)
        assert max(largest) == min(size, 23)
        assert sum(ticks) == 23


def test_rise_is_the_weighted_mean_of_masks_and_knows_its_error(rng):
    masks = rng.random((11, 1, 3, 4)).astype(np.float32)
    scores = rng.random((11, 2))
    values, variance = weighted_mean(iter([(masks[:4], scores[:4]), (masks[4:], scores[4:])]))
    for t, i, j in product(range(2), range(3), range(4)):
        each = [float(p) * float(m) / 0.5 for p, m in zip(scores[:, t], masks[:, 0, i, j], strict=True)]
        assert values[t, i, j] == pytest.approx(np.mean(each), rel=1e-12)
        assert variance[t, i, j] == pytest.approx(np.var(each, ddof=1) / 11, rel=1e-9)
    one, none = weighted_mean(iter([(masks[:1], scores[:1])]))
    np.testing.assert_allclose(one[1], 2 * scores[0, 1] * masks[0, 0])
    assert np.isnan(none).all()


def test_evidence_from_masks_is_the_slope_of_a_regression_and_knows_its_error(rng):
    masks = rng.random((15, 1, 3, 4)).astype(np.float32)
    masks[:, :, 2, 3] = 0.25
    scores = rng.normal(size=(15, 2)) * 5 - 20
    values, variance = slope(iter([(masks[:4], scores[:4]), (masks[4:], scores[4:])]))
    for t, i, j in product(range(2), range(3), range(4)):
        if (i, j) == (2, 3):  # no mask varies it
            assert values[t, i, j] == 0
            continue
        fit, cov = np.polyfit(masks[:, 0, i, j].astype(np.float64), scores[:, t], 1, cov=True)
        assert values[t, i, j] == pytest.approx(fit[0], rel=1e-6)
        assert variance[t, i, j] == pytest.approx(cov[0, 0], rel=1e-6)


def both(linear, seed: int, count: int):
    """RISE and evidence of the logit of class 2 in bits, on a linear tail."""
    _, _, features, predict = linear
    found = []
    for formula in (weighted_mean, slope):
        masks = independent(np.random.default_rng(seed), (ROWS, COLS))
        scores = masked_scores(features, zero(features), predict, masks, count, lambda z: z[:, 2:3] / LN2)
        found.append([each[0] for each in formula(scores)])
    return found


def test_on_a_linear_tail_evidence_from_independent_masks_is_each_cells_own(linear):
    weights, bias, features, _ = linear
    own = np.einsum("k,kij->ij", weights[2], features.astype(np.float64)) / (ROWS * COLS) / LN2
    (rise, rise_variance), (values, variance) = both(linear, 0, 6000)
    assert np.abs((values - own) / np.sqrt(variance)).max() < 4
    assert np.sqrt(variance).max() < 0.2 * np.abs(own).max()
    # RISE's own value: the mean score when a cell is shown, which is that of the others by half and its own in full.
    shown = bias[2] / LN2 + own.sum() / 2 + own / 2
    assert np.abs((rise - shown) / np.sqrt(rise_variance)).max() < 4
    assert np.abs((values + 0.5 * np.abs(own).max() - own) / np.sqrt(variance)).max() > 4  # the control


def test_standard_errors_are_the_spread_over_draws(linear):
    runs = [both(linear, seed, 40) for seed in range(300)]
    for number in (0, 1):
        seen = np.std([run[number][0] for run in runs], axis=0, ddof=1)
        said = np.sqrt(np.mean([run[number][1] for run in runs], axis=0))
        assert np.median(said / seen) == pytest.approx(1, abs=0.08)
        assert np.abs(said / seen - 1).max() < 0.25


def test_recipro_cam_on_a_linear_tail_is_a_blurred_class_activation_map(linear):
    weights, bias, features, predict = linear
    parts = masked_scores(
        features, zero(features), predict, cell_masks((ROWS, COLS)), ROWS * COLS, lambda z: z, batch_size=6
    )
    seen = np.concatenate([scores for _, scores in parts])[:, 3].reshape(ROWS, COLS)
    cam = np.einsum("k,kij->ij", weights[3], features.astype(np.float64)) / (ROWS * COLS)
    border = cv2.BORDER_CONSTANT
    blurred = cv2.sepFilter2D(cam, -1, np.array([0.25, 0.5, 0.25]), np.array([0.25, 0.5, 0.25]), borderType=border)
    np.testing.assert_allclose(seen, bias[3] + blurred, atol=1e-6)
    assert np.abs(seen - bias[3] - cam).max() > 1e-2


def test_ablation_cam_on_a_linear_tail_weighs_channels_by_their_share_of_the_logit(linear):
    weights, _, features, predict = linear
    full = predict(features[None])[0]
    assert full.min() < 0 < full.max()
    parts = masked_scores(features, zero(features), predict, channel_masks(CHANNELS), CHANNELS, lambda z: z)
    maps = ablation_cam(features, full, np.concatenate([scores for _, scores in parts]))
    h = features.astype(np.float64)
    for c in range(CLASSES):
        shares = weights[c] * h.mean(axis=(1, 2)) / abs(full[c])
        np.testing.assert_allclose(maps[c], np.einsum("k,kij->ij", shares, h), atol=1e-6)
        # The paper's own formula, where it is meant: for scores above 0.
        paper = sum((full[c] - predict(_without(features, k))[0, c]) / full[c] * h[k] for k in range(CHANNELS))
        np.testing.assert_allclose(maps[c] * np.sign(full[c]), paper, atol=1e-6)
    assert np.isfinite(ablation_cam(features, np.zeros(1), np.ones((CHANNELS, 1)))).all()


def _without(features: np.ndarray, channel: int) -> np.ndarray:
    copy = features.copy()
    copy[channel] = 0
    return copy[None]


def test_score_cam_is_the_papers_with_its_baseline(rng):
    features = rng.normal(size=(CHANNELS, ROWS, COLS)).astype(np.float32)
    shown, blank = rng.normal(size=(CHANNELS, 2)) * 30, rng.normal(size=2)
    maps = score_cam(features, shown)
    for t in range(2):
        increase = np.exp(shown[:, t] - blank[t])
        slow = sum(w * h for w, h in zip(increase / increase.sum(), features.astype(np.float64), strict=True))
        np.testing.assert_allclose(maps[t], slow, atol=1e-12)
    assert np.abs(maps[0] - maps[1]).max() > 1e-3
    assert np.isfinite(score_cam(features, shown * 100)).all()
