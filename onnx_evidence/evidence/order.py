"""Ordered evidence: the order in which cells matter, found by gradient ascent, and the bits of its level sets.

A map predicts what a model does when evidence is removed exactly as well as the order of its cells does. So the order
itself is sought: with masks r_q that show the most relevant share q of the cells, and their complements, it should make

    J = mean over q of P(r_q) - P(1 - r_q)

large, the symmetric relevance gain of Bluecher et al. 2024 on a probability P. Masks with a soft front have gradients
by every cell; the front lets through what the cells near it contribute in that context, and the ascent moves them up or
down the order (the objective of Qi et al. 2020 and of Fong et al. 2019, with an order in place of a mask).

An order has no unit. Bits come from removal itself: a level set, the cells between two shares q, is worth what the
score rises when it is restored after all that is more relevant, and what it falls when it is removed after them; the
mean of both. They add up to the score with everything less the score with nothing, without a gap.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from onnx_evidence.types import FloatArray, IntArray

# Probabilities behind masks (n, A, B), shape (n,), and their gradients by the masks, (n, A, B).
Ascend = Callable[[FloatArray], tuple[FloatArray, FloatArray]]
# Scores in bits behind masks (n, A, B), shape (n,).
Reveal = Callable[[FloatArray], FloatArray]

# Measured in docs/faithfulness.md: rounds of the ascent, and shares q in each of them.
ROUNDS, FRONTS = 40, 4
# Level sets whose bits are measured.
LEVELS = 32
# Width of a front and the first step, as shares of the order; smoothing of the gradient, in cells.
_WIDTH = 0.2
_STEP = 0.1
_SMOOTHING = 1.0
# Decay of the running means of the gradient, and of its square.
_MOMENTUM, _SCALE = 0.8, 0.95


def ranks(values: FloatArray) -> FloatArray:
    """Place of every cell in the order of a map.

    Parameters
    ----------
    values : ndarray of float64, shape (A, B)
        Any map.

    Returns
    -------
    ndarray of float64, shape (A, B)
        Between 0 and 1, evenly spaced; near 1 for the largest value. Of equal values the first is the lower.
    """
    placed = np.empty(values.size)
    placed[np.argsort(values, axis=None, kind="stable")] = (np.arange(values.size) + 0.5) / values.size
    return placed.reshape(values.shape)


def refine(
    start: FloatArray, ascend: Sequence[Ascend], rng: np.random.Generator, rounds: int = ROUNDS, fronts: int = FRONTS
) -> FloatArray:
    """Improve an order by gradient ascent on what it gains when cells are restored and removed.

    Parameters
    ----------
    start : ndarray of float64, shape (A, B)
        A map whose order is a good start.
    ascend : sequence of callable
        What runs the model behind masks: one for each background, taken in turn.
    rng : numpy.random.Generator
        Draws the shares q, one from each of ``fronts`` equal parts of 0..1 in every round.
    rounds, fronts : int
        Steps, and shares in each: ``2 * rounds * fronts`` gradients in all.

    Returns
    -------
    ndarray of float64, shape (A, B)
        `ranks` of the order found.
    """
    position = ranks(start)
    mean, square = np.zeros(start.shape), 0.0
    for number in range(rounds):
        shares = (np.arange(fronts) + rng.random(fronts)) / fronts
        slope = _smooth(_slope(ranks(position), shares, ascend[number % len(ascend)]))
        mean = _MOMENTUM * mean + (1 - _MOMENTUM) * slope
        square = _SCALE * square + (1 - _SCALE) * float((slope**2).mean())
        # Running means start at zero; what they lack at first is made up for (Kingma & Ba 2015, section 3).
        size = np.sqrt(square / (1 - _SCALE ** (number + 1))) * (1 - _MOMENTUM ** (number + 1))
        # Steps shrink to zero along half a cosine, so that the noise of the last ones averages out.
        step = _STEP * (1 + np.cos(np.pi * (number + 1) / rounds)) / 2
        position = position + (step * mean / size if size > 0 else 0.0)
    return ranks(position)


def _slope(order: FloatArray, shares: FloatArray, ascend: Ascend) -> FloatArray:
    """Gradient of J by the places of the cells in the order, up to a factor."""
    steepness = 4 / _WIDTH
    shown = 1 / (1 + np.exp(-steepness * (order - (1 - shares[:, None, None]))))
    _, gradients = ascend(np.concatenate([shown, 1 - shown]))
    # Restored and removed masks move in opposite directions, and their terms of J have opposite signs: both add.
    both = gradients[: len(shares)] + gradients[len(shares) :]
    slope: FloatArray = (shown * (1 - shown) * both).sum(axis=0)
    return slope


def _smooth(cells: FloatArray) -> FloatArray:
    """Mean over neighbours with Gaussian weights: gradients by single cells are mostly noise."""
    for axis, side in enumerate(cells.shape):
        apart = np.arange(side)[:, None] - np.arange(side)
        weights = np.exp(-0.5 * (apart / _SMOOTHING) ** 2)
        cells = np.moveaxis(np.tensordot(weights / weights.sum(axis=1, keepdims=True), cells, (1, axis)), 0, axis)
    return cells


@dataclass(frozen=True)
class LevelSets:
    """What the level sets of an order are worth.

    Attributes
    ----------
    cells : ndarray of float64, shape (A, B)
        Bits of every cell; falling along the order, or all equal where everything is one pool.
    with_features, without : float
        The score in bits with nothing and with everything removed: the cells add up to the difference.
    restored, removed : ndarray of float64, shape (backgrounds, levels + 1)
        The score in bits with so many of the most relevant level sets restored alone, and removed alone.
    """

    cells: FloatArray
    with_features: float
    without: float
    restored: FloatArray
    removed: FloatArray


def level_sets(order: FloatArray, reveal: Sequence[Reveal], levels: int = LEVELS) -> LevelSets:
    """Measure the bits of an order's level sets by restoring and removing them, one after the other.

    Where a level set comes out as worth more than one above it, which the order denies, both are pooled (isotonic
    regression, Barlow et al. 1972); inside a pool bits fall with the order, as steeply as its neighbours leave room
    for. Neither changes the sum of a pool.

    Parameters
    ----------
    order : ndarray of float64, shape (A, B)
        As `ranks` gives it.
    reveal : sequence of callable
        What runs the model behind masks: one for each background. Their mean is taken.
    levels : int
        Level sets; no more than there are cells.

    Returns
    -------
    LevelSets
    """
    places = np.argsort(-order, axis=None, kind="stable")
    ends = np.linspace(0, order.size, min(levels, order.size) + 1).round().astype(np.int64)
    taken = np.empty(order.size, np.int64)
    taken[places] = np.arange(order.size)
    shown = (taken.reshape(order.shape) < ends[:, None, None]).astype(np.float64)
    # Everything and nothing are the ends of both series.
    scores = np.stack([each(np.concatenate([shown, 1 - shown[1:-1]])) for each in reveal])
    restored = scores[:, : len(ends)]
    removed = np.concatenate([restored[:, -1:], scores[:, len(ends) :], restored[:, :1]], axis=1)
    mean, without = restored.mean(axis=0), removed.mean(axis=0)
    cells = np.empty(order.size)
    cells[places] = _falling((np.diff(mean) - np.diff(without)) / 2, np.diff(ends))
    return LevelSets(cells.reshape(order.shape), float(mean[-1]), float(mean[0]), restored, removed)


def _falling(bits: FloatArray, counts: IntArray) -> FloatArray:
    """Bits of single cells, falling, from those of level sets of so many cells each."""
    sums, sizes = _pool(bits, counts)
    means = sums / sizes
    gaps = -np.diff(means)
    if not len(gaps):
        return np.full(int(sizes[0]), means[0])
    # A pool leans by half the smaller gap to its neighbours, so that it meets neither.
    lean = np.minimum(np.append(gaps, np.inf), np.insert(gaps, 0, np.inf)) / 2
    inside = [np.linspace(1, -1, size + 2)[1:-1] for size in sizes]
    return np.concatenate([mean + tilt * each for mean, tilt, each in zip(means, lean, inside, strict=True)])


def _pool(bits: FloatArray, counts: IntArray) -> tuple[FloatArray, IntArray]:
    """Sums and sizes of the fewest pools of neighbours whose means fall strictly."""
    sums: list[float] = []
    sizes: list[int] = []
    for total, size in zip(bits.tolist(), counts.tolist(), strict=True):
        while sums and sums[-1] * size <= total * sizes[-1]:
            total, size = total + sums.pop(), size + sizes.pop()
        sums.append(total)
        sizes.append(size)
    return np.array(sums), np.array(sizes)
