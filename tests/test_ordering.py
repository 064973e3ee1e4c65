"""Orders of cells and the bits of their level sets, on toy scores: differences, planted orders, slow twins."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_evidence.evidence import order as ordering
from onnx_evidence.evidence.order import FRONTS, LEVELS, ROUNDS, level_sets, ranks, refine

SEEDS = pytest.mark.parametrize("seed", range(4))


def shape_of(side: int, reach: float, rng: np.random.Generator) -> np.ndarray:
    """Random weights; neighbours within reach are alike."""
    apart = np.subtract.outer(np.arange(side), np.arange(side))
    kernel = np.exp(-0.5 * (apart / reach) ** 2)
    return kernel @ rng.normal(size=(side, side)) @ kernel


class Planted:
    """``P = sigmoid(sum of the weights that are shown, less half of all)``: the best order is that of the weights."""

    def __init__(self, seed: int, reach: float = 2.0, side: int = 12) -> None:
        weights = shape_of(side, reach, np.random.default_rng(seed))
        self.weights = weights * 6 / np.abs(weights).sum()

    def probability(self, masks: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(self.weights.sum() / 2 - np.tensordot(masks, self.weights, 2)))

    def ascend(self, masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        p = self.probability(masks)
        return p, (p * (1 - p))[:, None, None] * self.weights

    def descend(self, masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        p, slope = self.ascend(masks)
        return p, -slope

    def gain(self, order: np.ndarray) -> float:
        """J, cell by cell: every share of the cells is restored, and removed."""
        best_first = np.argsort(-order, axis=None)
        found = []
        for count in range(1, order.size):
            shown = np.zeros(order.size)
            shown[best_first[:count]] = 1
            pair = np.stack([shown, 1 - shown]).reshape(2, *order.shape)
            found.append(-np.diff(self.probability(pair))[0])
        return float(np.mean(found))


def agreement(one: np.ndarray, other: np.ndarray) -> float:
    """Rank correlation."""
    return float(np.corrcoef(ranks(one).ravel(), ranks(other).ravel())[0, 1])


# The ascent


def test_ranks_are_evenly_spaced_and_the_first_of_equals_is_lower(rng):
    values = rng.integers(0, 6, size=(3, 5)).astype(float)
    flat = values.ravel()
    below = [sum(flat < each) + sum(flat[:place] == each) for place, each in enumerate(flat)]
    np.testing.assert_allclose(ranks(values).ravel(), (np.array(below) + 0.5) / 15)
    np.testing.assert_array_equal(ranks(np.exp(values)), ranks(values))
    assert not np.array_equal(ranks(-values), ranks(values))


@SEEDS
def test_the_slope_is_that_of_j_by_differences(seed):
    """A probability that mixes cells, so that every mask has a gradient of its own."""
    rng = np.random.default_rng(seed)
    inner, outer = rng.normal(size=(6, 4, 5)), rng.normal(size=6) * 2
    order, shares = rng.random((4, 5)), rng.random(3)

    def ascend(masks):
        hidden = np.tanh(np.tensordot(masks, inner, ((1, 2), (1, 2))))
        p = 1 / (1 + np.exp(-hidden @ outer))
        return p, np.einsum("n,nh,hij->nij", p * (1 - p), (1 - hidden**2) * outer, inner)

    def gain(order):
        total = 0.0
        for share in shares:
            shown = 1 / (1 + np.exp(-4 / 0.2 * (order - (1 - share))))
            total += ascend(shown[None])[0][0] - ascend(1 - shown[None])[0][0]
        return total / len(shares)

    seen = 4 / 0.2 / len(shares) * ordering._slope(order, shares, ascend)
    expected = np.zeros(order.shape)
    for place in np.ndindex(order.shape):
        step = np.zeros(order.shape)
        step[place] = 1e-5
        expected[place] = (gain(order + step) - gain(order - step)) / 2e-5
    size = np.abs(expected).max()
    np.testing.assert_allclose(seen, expected, atol=1e-7 * size)

    def restored_alone(masks):
        p, slope = ascend(masks)
        return p, slope * (np.arange(len(p)) < len(p) / 2)[:, None, None]

    half = 4 / 0.2 / len(shares) * ordering._slope(order, shares, restored_alone)
    assert np.abs(half - expected).max() > 0.05 * size  # the control: removal has its part in it


def test_smoothing_is_a_mean_over_neighbours_with_gaussian_weights(rng):
    cells = rng.normal(size=(4, 6))
    seen = ordering._smooth(cells)
    for row, col in ((0, 0), (2, 3), (3, 5)):
        weights = {(i, j): np.exp(-((row - i) ** 2 + (col - j) ** 2) / 2) for i, j in np.ndindex(4, 6)}
        expected = sum(w * cells[place] for place, w in weights.items()) / sum(weights.values())
        assert seen[row, col] == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(ordering._smooth(np.full((4, 6), 3.0)), 3, rtol=1e-12)


@SEEDS
def test_from_a_random_start_the_planted_order_is_found(seed):
    planted, rng = Planted(seed), np.random.default_rng(100 + seed)
    start = rng.normal(size=planted.weights.shape)
    assert abs(agreement(start, planted.weights)) < 0.3
    found = refine(start, [planted.ascend], rng)
    assert agreement(found, planted.weights) > 0.9
    np.testing.assert_array_equal(found, ranks(found))
    before, after, best = (planted.gain(each) for each in (start, found, planted.weights))
    assert after > before + 0.3
    assert 0.95 * best < after < best
    # The control: gradients of the wrong sign find the reverse.
    reverse = refine(start, [planted.descend], rng)
    assert agreement(reverse, planted.weights) < -0.9
    assert planted.gain(reverse) < -0.95 * best


@SEEDS
@pytest.mark.parametrize("reach", [2.0, 0.2], ids=["smooth", "rough"])
def test_a_perfect_start_is_not_made_worse(reach, seed, monkeypatch):
    planted, rng = Planted(seed, reach), np.random.default_rng(100 + seed)
    kept = 0.98
    if reach < 1:
        # Smoothing of the gradient takes what differs from cell to cell for noise: here it is none.
        monkeypatch.setattr(ordering, "_SMOOTHING", 1e-3)
        kept = 0.999
    best = planted.gain(planted.weights)
    assert planted.gain(refine(planted.weights, [planted.ascend], rng)) > kept * best
    spoilt = refine(planted.weights, [planted.descend], rng)
    assert planted.gain(spoilt) < 0  # the control: the ascent could have


class EvenShares(np.random.Generator):
    """Draws the middles of the parts: shares that are their own mirror image."""

    def __init__(self) -> None:
        super().__init__(np.random.PCG64(0))

    def random(self, size):
        return np.full(size, 0.5)


def test_the_opposite_question_has_the_opposite_order():
    planted, start = Planted(0), np.random.default_rng(1).normal(size=(12, 12))

    def opposite(masks):
        p, slope = planted.ascend(masks)
        return 1 - p, -slope

    found = refine(start, [planted.ascend], EvenShares(), rounds=15)
    np.testing.assert_allclose(refine(-start, [opposite], EvenShares(), rounds=15), 1 - found, atol=1e-12)
    other = refine(-start, [planted.ascend], EvenShares(), rounds=15)
    assert agreement(other, 1 - found) < 0  # the control: the same question has not


def test_every_round_shows_a_share_from_each_part_and_hides_the_same(rng):
    planted, seen = Planted(0, side=20), []

    def watched(number):
        def ascend(masks):
            seen.append((number, masks))
            return planted.ascend(masks)

        return ascend

    refine(planted.weights, [watched(0), watched(1), watched(2)], rng)
    assert [number for number, _ in seen] == [turn % 3 for turn in range(ROUNDS)]
    assert sum(len(masks) for _, masks in seen) == 2 * ROUNDS * FRONTS
    for _, masks in seen:
        shown, hidden = masks[:FRONTS], masks[FRONTS:]
        np.testing.assert_allclose(shown + hidden, 1)
        assert 0 < masks.min() < 0.01
        # A soft front as wide as a fifth of the order shows as many cells as a hard one, but near the ends.
        shares = shown.mean(axis=(1, 2))
        assert (np.abs(shares * FRONTS - np.arange(FRONTS) - 0.5) < 0.6).all()
    drawn = np.array([masks[:FRONTS].mean(axis=(1, 2)) for _, masks in seen])
    assert drawn.std(axis=0).min() > 0.02


def test_orders_are_those_of_their_random_numbers():
    planted, start = Planted(3), np.random.default_rng(0).normal(size=(12, 12))
    first, again, other = (refine(start, [planted.ascend], np.random.default_rng(seed)) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert agreement(first, other) > 0.9


def test_several_backgrounds_agree_on_one_order():
    left, right = Planted(1), Planted(2)
    both = left.weights + right.weights
    found = refine(np.zeros((12, 12)), [left.ascend, right.ascend], np.random.default_rng(0))
    assert agreement(found, both) > 0.9
    assert agreement(found, both) > max(agreement(found, each.weights) for each in (left, right)) + 0.1


def test_without_a_slope_the_order_stays(rng):
    start = rng.normal(size=(4, 5))

    def flat(masks):
        return np.full(len(masks), 0.3), np.zeros(masks.shape)

    np.testing.assert_array_equal(refine(start, [flat], rng), ranks(start))


# The level sets


def one_by_one(order: np.ndarray, score, levels: int) -> tuple[list[float], list[int]]:
    """Bits and sizes of level sets, the most relevant first: each restored, and removed, in a loop of its own."""
    cells = [tuple(place) for place in np.argwhere(np.ones(order.shape))]
    cells.sort(key=lambda place: -order[place])
    ends = [round(number * len(cells) / levels) for number in range(levels + 1)]
    restored, removed = np.zeros(order.shape), np.ones(order.shape)
    bits = []
    for start, stop in pairwise(ends):
        before = score(restored), score(removed)
        for place in cells[start:stop]:
            restored[place], removed[place] = 1, 0
        bits.append((score(restored) - before[0] + before[1] - score(removed)) / 2)
    return bits, [stop - start for start, stop in pairwise(ends)]


def nearest_falling(bits, counts) -> np.ndarray:
    """Antitonic regression by its min-max formula (Barlow et al. 1972): means per cell, level set by level set."""

    def mean(first, last):
        return sum(bits[first : last + 1]) / sum(counts[first : last + 1])

    sets = range(len(bits))
    return np.array([min(max(mean(s, t) for t in sets[k:]) for s in sets[: k + 1]) for k in sets])


def pools_of(means: np.ndarray) -> list[np.ndarray]:
    """Numbers of the level sets with equal means."""
    return np.split(np.arange(len(means)), np.flatnonzero(np.abs(np.diff(means)) > 1e-9) + 1)


def check_falling(cells: np.ndarray, bits: list[float], counts: list[int], atol: float = 1e-9) -> int:
    """Cells, the most relevant first, against the twin; gives the number of pools."""
    means, starts = nearest_falling(bits, counts), np.concatenate([[0], np.cumsum(counts)])
    pools = pools_of(means)
    for pool in pools:
        inside = cells[starts[pool[0]] : starts[pool[-1] + 1]]
        assert inside.sum() == pytest.approx(sum(bits[k] for k in pool), abs=atol)
        assert inside.mean() == pytest.approx(means[pool[0]], abs=atol)
    assert len(pools) == 1 or (np.diff(cells) < 0).all()
    return len(pools)


def mixing(rng: np.random.Generator, shape: tuple[int, int]):
    """A score in which cells work together and stand in for one another, for one mask and for many."""
    inner, outer = rng.normal(size=(8, *shape)), rng.normal(size=8) * 3

    def one(mask):
        return float(np.tanh(np.tensordot(inner, mask, 2)) @ outer)

    return one, lambda masks: np.array([one(mask) for mask in masks])


@pytest.mark.parametrize(("shape", "levels"), [((6, 7), 10), ((6, 7), 32), ((5, 5), 25), ((4, 6), 1), ((3, 4), 32)])
def test_level_sets_are_worth_what_restoring_and_removing_them_one_by_one_gives(shape, levels):
    pooled = 0
    for seed in range(6):
        rng = np.random.default_rng(seed)
        one, many = mixing(rng, shape)
        order = ranks(rng.normal(size=shape))
        found = level_sets(order, [many], levels)
        bits, counts = one_by_one(order, one, min(levels, order.size))
        along = found.cells.ravel()[np.argsort(-order, axis=None)]
        pooled += check_falling(along, bits, counts) < len(bits)
        full, nothing = one(np.ones(shape)), one(np.zeros(shape))
        assert (found.with_features, found.without) == pytest.approx((full, nothing), abs=1e-12)
        assert found.cells.sum() == pytest.approx(full - nothing, abs=1e-9)
    assert (pooled > 0) == (levels > 1)  # a random order denies what is found


@pytest.mark.parametrize("levels", [7, 36, LEVELS])
def test_on_a_linear_score_level_sets_have_their_exact_bits(levels, rng):
    weights = rng.normal(size=(6, 6))

    def linear(masks):
        return 5 + np.tensordot(masks, weights, 2)

    best = level_sets(ranks(weights), [linear], levels)
    falling = -np.sort(-weights, axis=None)
    parts = np.split(-np.sort(-best.cells, axis=None), np.linspace(0, 36, levels + 1).round().astype(int)[1:-1])
    expected = np.split(falling, np.linspace(0, 36, levels + 1).round().astype(int)[1:-1])
    # Nothing is pooled: every level set keeps the sum of its own weights.
    np.testing.assert_allclose([each.sum() for each in parts], [each.sum() for each in expected], atol=1e-12)
    assert agreement(best.cells, weights) == pytest.approx(1)
    if levels == 36:
        np.testing.assert_allclose(best.cells, weights, atol=1e-12)
    # The control: the reverse order is denied altogether, and pooled into one.
    worst = level_sets(ranks(-weights), [linear], levels)
    np.testing.assert_allclose(worst.cells, weights.mean(), atol=1e-12)
    assert (best.with_features - 5, best.without) == pytest.approx((weights.sum(), 5))


def test_cells_that_only_work_together_and_cells_that_stand_in_for_one_another_share():
    order = ranks(np.array([[3.0, 2.0], [1.0, 0.0]]))

    def together(masks):
        return 2 * masks[:, 0, 0] * masks[:, 0, 1]

    def either(masks):
        return 2 * np.maximum(masks[:, 0, 0], masks[:, 0, 1])

    for score in (together, either):
        # One bit a cell in the first pool, none in the second; both lean by half of that, a third of the way inside.
        expected = [[1 + 1 / 6, 1 - 1 / 6], [1 / 6, -1 / 6]]
        np.testing.assert_allclose(level_sets(order, [score]).cells, expected, atol=1e-12)
    # The control: one after the other alone gives all of it to one of the two.
    shown = np.array([[[0, 0], [0, 0]], [[1, 0], [0, 0]], [[1, 1], [0, 0]]])
    assert (np.diff(together(shown)).tolist(), np.diff(either(shown)).tolist()) == ([0, 2], [2, 0])


def test_over_several_backgrounds_the_mean_evidence_is_taken(rng):
    weights, (_, mixed) = rng.normal(size=(5, 6)), mixing(rng, (5, 6))
    order = ranks(weights)

    def linear(masks):
        return 3 * np.tensordot(masks, weights, 2)

    seen = level_sets(order, [linear, mixed], 9)
    mean = level_sets(order, [lambda masks: (linear(masks) + mixed(masks)) / 2], 9)
    np.testing.assert_allclose(seen.cells, mean.cells, atol=1e-12)
    assert (seen.with_features, seen.without) == pytest.approx((mean.with_features, mean.without))
    for alone in (linear, mixed):
        assert np.abs(seen.cells - level_sets(order, [alone], 9).cells).max() > 0.1


def test_the_opposite_question_has_the_opposite_bits(rng):
    _, score = mixing(rng, (6, 8))
    order = ranks(rng.normal(size=(6, 8)))
    seen = level_sets(order, [score], 16)
    opposite = level_sets(1 - order, [lambda masks: -score(masks)], 16)
    np.testing.assert_allclose(opposite.cells, -seen.cells, atol=1e-12)
    assert np.abs(level_sets(order, [lambda masks: -score(masks)], 16).cells + seen.cells).max() > 0.1


def test_a_grid_of_one_cell_has_all_the_bits():
    found = level_sets(np.array([[0.5]]), [lambda masks: 3 * masks[:, 0, 0] + 1])
    assert (found.cells.tolist(), found.with_features, found.without) == ([[3.0]], 4.0, 1.0)


def test_cells_lean_towards_the_nearer_neighbour_by_half_the_gap():
    """By hand: means 4, 1 and 0.2 a cell, gaps 3 and 0.8."""
    seen = ordering._falling(np.array([8.0, 3.0, 0.2]), np.array([2, 3, 1]))
    np.testing.assert_allclose(seen, [4.5, 3.5, 1.2, 1, 0.8, 0.2], atol=1e-12)
    np.testing.assert_allclose(ordering._falling(np.array([1.0, 3.0, 2.0]), np.array([1, 2, 1])), 1.5, atol=1e-12)


@settings(derandomize=True, deadline=None, max_examples=80)
@given(
    pairs=st.lists(st.tuples(st.integers(-6, 6), st.integers(1, 5)), min_size=1, max_size=12),
    scale=st.sampled_from([1.0, 0.37]),
)
def test_pooling_is_isotonic_regression(pairs, scale):
    """Whole numbers, so that equal means are among them."""
    bits, counts = [scale * value for value, _ in pairs], [count for _, count in pairs]
    cells = ordering._falling(np.array(bits), np.array(counts))
    assert len(cells) == sum(counts)
    assert cells.sum() == pytest.approx(sum(bits), abs=1e-9)
    check_falling(cells, bits, counts)
