"""The core: evidence integrated along a path, from features removed to features as they are.

With h the features, m the same with everything removed (the baseline) and a(.) the score in bits, the evidence of
cell u is

    E_u = sum_k (h_ku - m_ku) * integral over t in 0..1 of da/dh_ku (m + t (h - m)),

integrated gradients (Sundararajan et al. 2017, eq. 1) at a cut inside the model, summed over channels. By the
fundamental theorem the cells add up to ``a(h) - a(m)``; what a quadrature misses of that is known, and reported.

The quadrature is the trapezoidal rule on panels that are halved where they miss most. Every step of the path also
gives the score there, so the integral over every panel is known exactly, as a number, before its cells are: the
error of each panel is measured, not estimated. Rectifiers make the integrand full of kinks, where rules of high
order lose to halving panels (docs/integrated.md).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, TypeVar

import numpy as np

from onnx_evidence.evidence.odds import LN2
from onnx_evidence.evidence.score import Score
from onnx_evidence.types import Features, FloatArray, Gradient

# Steps of the first batch by default, both ends included; later ones are of half as many.
FIRST_STEPS = 5
# Of a path, by default.
MOST_STEPS = 129
# Panels are not halved below this: float32 logits carry no more.
_NARROWEST = 2.0**-12


Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Budget:
    """Where the bits of a score went.

    Attributes
    ----------
    with_features, without : float
        The score in bits with the features as they are, and with all of them removed.
    supporting, opposing : float
        Sums of the positive and of the negative cells, in bits.
    steps : int
        Gradients along the path; one that paths have in common counts for each.
    carried : float
        Bits that reached the pixels of the map; all that are accounted for, unless they were carried backward.
    """

    with_features: float
    without: float
    supporting: float
    opposing: float
    steps: int
    carried: float

    @property
    def accounted(self) -> float:
        """Sum of all cells, bits."""
        return self.supporting + self.opposing

    @property
    def gap(self) -> float:
        """Bits that the cells miss of the difference of the scores, either way."""
        return abs(self.accounted - (self.with_features - self.without))

    @property
    def gap_share(self) -> float:
        """The gap as a share of the difference of the scores, or of one bit where the difference is less."""
        return _share(self.gap, self.with_features - self.without)


@dataclass(frozen=True)
class PathEvidence:
    """Evidence of every cell, integrated along one path.

    Attributes
    ----------
    cells : ndarray of float64, shape (A, B)
        Bits; positive speaks for the score.
    budget : Budget
        What they add up to, and to what they should.
    logits : ndarray of float64, shape (K,)
        At the end of the path: the tail's of the features themselves.
    slope : ndarray of float32, shape (C, A, B)
        Mean gradient along the path, nats per unit of the features: what carries evidence further back.
    end : ndarray of float32, shape (C, A, B), or None
        Gradient at the end of the path; None in a mean.
    """

    cells: FloatArray
    budget: Budget
    logits: FloatArray
    slope: Features
    end: Features | None = None


def integrate(
    features: Features,
    baseline: Features,
    gradient: Gradient,
    score: Score,
    *,
    first_steps: int = FIRST_STEPS,
    completeness: float = 0.05,
    most_steps: int = MOST_STEPS,
    batch_size: int = 32,
    progress: Callable[[int], object] = lambda steps: None,
    before: PathEvidence | None = None,
) -> PathEvidence:
    """Integrate the evidence of every cell along the straight path from ``baseline`` to ``features``.

    Parameters
    ----------
    features : ndarray of float32, shape (C, A, B)
        The picture's features at the cut (its pixels, at the input).
    baseline : ndarray of float32, shape (C, A, B)
        The features with everything removed, where the path starts.
    gradient : Gradient
        Of the tail.
    score : Score
        What evidence is counted for.
    first_steps : int
        Steps to begin with, evenly spaced, both ends included; then half as many are added at a time.
    completeness : float
        Steps are added until the gap is at most this share of the difference of the scores.
    most_steps : int
        But no more than these (and never fewer than the first batch); the gap that is left is in the budget.
    batch_size : int
        Most steps per model run; changes no map.
    progress : callable
        Called with the number of steps done since the last call.
    before : PathEvidence, optional
        Of another path to the same features, for the same score: their common end is not run again.

    Returns
    -------
    PathEvidence
    """
    path = _Path(features, baseline, gradient, score, batch_size, before)
    places: FloatArray = np.linspace(0, 1, first_steps)
    while len(places):
        path.visit(places)
        progress(len(places))
        if path.gap_share <= completeness:
            break
        places = path.worst(max(0, min(first_steps // 2, most_steps - len(path.places))))
    return path.evidence()


def integrate_all(
    features: Features,
    baselines: Features,
    gradient: Gradient,
    score: Score,
    *,
    completeness: float = 0.05,
    most_steps: int = MOST_STEPS,
    progress: Callable[[int], object] = lambda steps: None,
    **how: Any,
) -> list[PathEvidence]:
    """Integrate from several baselines, so that of the mean no larger share is missed than of each.

    Where the scores differ by more from one baseline than from another, or the other way round, a path that misses
    little of its own may miss much of the mean: it is taken again with more steps.

    Parameters
    ----------
    features : ndarray of float32, shape (C, A, B)
        As in `integrate`.
    baselines : ndarray of float32, shape (M, C, A, B)
        Where the paths start.
    gradient : Gradient
        As in `integrate`, like the rest.
    score : Score
        What evidence is counted for.
    completeness : float
        Largest gap, of each and of their mean, as a share of the difference of the scores.
    most_steps : int
        But no more steps than these along each.
    progress : callable
        Called with the number of steps done since the last call.
    **how
        The other settings of `integrate`.

    Returns
    -------
    list of PathEvidence
        One for each baseline.
    """

    def path(number: int, completeness: float, before: PathEvidence | None) -> PathEvidence:
        return integrate(
            features,
            baselines[number],
            gradient,
            score,
            completeness=completeness,
            most_steps=most_steps,
            progress=progress,
            before=before,
            **how,
        )

    parts: list[PathEvidence] = []
    for number in range(len(baselines)):
        parts.append(path(number, completeness, parts[-1] if parts else None))
    # Those that ended where they should and may go on; whoever has missed its own share has no steps left.
    left = {number for number, part in enumerate(parts) if part.budget.gap_share <= completeness and len(parts) > 1}
    while left and mean_budget([part.budget for part in parts]).gap_share > completeness:
        worst = max(left, key=lambda number: parts[number].budget.gap)
        before = parts[worst]
        again = path(worst, before.budget.gap_share / 2, before)
        if again.budget.gap < before.budget.gap:
            parts[worst] = again
        # One that misses nothing, as where the baseline is the picture itself, has nothing to gain.
        if before.budget.gap == 0 or again.budget.gap_share > before.budget.gap_share / 2:
            left.remove(worst)
    return parts


class _Path:
    """Places in 0..1 that were visited, ascending, and what was found there.

    The score, and the sum of the integrand over all cells, are kept in the order of the places; the gradients, which
    are large, as they come.
    """

    def __init__(
        self,
        features: Features,
        baseline: Features,
        gradient: Gradient,
        score: Score,
        batch_size: int,
        before: PathEvidence | None = None,
    ) -> None:
        self.start, self.end, self.change = baseline, features, features - baseline
        self.gradient, self.score, self.batch_size = gradient, score, batch_size
        self.places, self.scores, self.sums = np.empty(0), np.empty(0), np.empty(0)
        self.logits = np.empty(0) if before is None else before.logits
        self.slope_at_end = None if before is None else before.end
        self._order = np.empty(0, np.int64)
        self._gradients: list[Features] = []

    def visit(self, places: FloatArray) -> None:
        """Take the gradients at some places (the end of the path last, if it is one), in as few batches as may be."""
        for first in range(0, len(places), self.batch_size):
            self._visit(places[first : first + self.batch_size])

    def _visit(self, places: FloatArray) -> None:
        logits, gradients = self._at(places)
        if places[-1] == 1:
            self.logits, self.slope_at_end = logits[-1], gradients[-1].copy()
        sums = np.einsum("ncij,cij->n", gradients, self.change, dtype=np.float64) / LN2
        self._gradients += list(gradients)
        order = np.argsort(np.concatenate([self.places, places]))
        self.places = np.concatenate([self.places, places])[order]
        self.scores = np.concatenate([self.scores, self.score.bits(logits)])[order]
        self.sums = np.concatenate([self.sums, sums])[order]
        self._order = np.concatenate([self._order, len(self._order) + np.arange(len(places))])[order]

    def _at(self, places: FloatArray) -> tuple[FloatArray, Features]:
        """Logits and gradients at some places; not run again at the end, where it is known."""
        new = places if self.slope_at_end is None else places[places < 1]
        found = []
        if len(new):
            batch = self.start + new[:, None, None, None].astype(self.change.dtype) * self.change
            # Not a digit less: some networks blow one up (a LayerNormalization of even grey), and this is the
            # certificate.
            batch[new == 1] = self.end
            found.append(self.gradient(batch, self.score.direction, self.score.rest))
        if self.slope_at_end is not None and len(new) < len(places):
            found.append((self.logits[None], self.slope_at_end[None]))
        if len(found) == 1:
            return found[0]
        logits, gradients = zip(*found, strict=True)
        return np.concatenate(logits), np.concatenate(gradients)

    @property
    def _missed(self) -> FloatArray:
        """Bits that the cells of every panel have too many."""
        missed: FloatArray = (self.sums[1:] + self.sums[:-1]) / 2 * np.diff(self.places) - np.diff(self.scores)
        return missed

    @property
    def gap_share(self) -> float:
        """As `Budget.gap_share`, before there are cells."""
        return _share(abs(float(self._missed.sum())), float(self.scores[-1] - self.scores[0]))

    def worst(self, count: int) -> FloatArray:
        """Midpoints of the panels whose cells miss most of their panel's bits."""
        missed = np.abs(self._missed)
        missed[np.diff(self.places) < _NARROWEST] = 0
        chosen = [panel for panel in np.argsort(-missed)[:count] if missed[panel] > 0]
        middles: FloatArray = (self.places[:-1] + self.places[1:])[chosen] / 2
        return middles

    def evidence(self) -> PathEvidence:
        """The trapezoidal rule on the panels as they are."""
        widths = np.diff(self.places)
        weights = np.concatenate([[0.0], widths]) / 2 + np.concatenate([widths, [0.0]]) / 2
        slope = np.zeros(self.change.shape)
        for weight, number in zip(weights, self._order, strict=True):
            slope += weight * self._gradients[number]
        cells = np.einsum("cij,cij->ij", slope, self.change, dtype=np.float64) / LN2
        budget = budget_of(cells, float(self.scores[-1]), float(self.scores[0]), len(self.places))
        return PathEvidence(cells, budget, self.logits, slope.astype(self.change.dtype), self.slope_at_end)


def _share(gap: float, difference: float) -> float:
    """A gap as a share of the difference of the scores, or of one bit where the difference is less."""
    return gap / max(abs(difference), 1.0)


def budget_of(cells: FloatArray, with_features: float, without: float, steps: int) -> Budget:
    """The budget of a map of cells.

    Parameters
    ----------
    cells : ndarray of float64
        Bits.
    with_features, without : float
        The scores that the cells should differ by, bits.
    steps : int
        Gradients taken.

    Returns
    -------
    Budget
    """
    positive, negative = float(cells[cells > 0].sum()), float(cells[cells < 0].sum())
    return Budget(with_features, without, positive, negative, steps, carried=positive + negative)


def heard(answers: Sequence[Answer], silent: Sequence[bool]) -> list[Answer]:
    """The answers of cuts that are not silent; of all where all are.

    Parameters
    ----------
    answers : sequence
        One per cut.
    silent : sequence of bool
        One per cut; empty where none is.

    Returns
    -------
    list
    """
    return [answer for answer, left in zip_longest(answers, silent) if not left] or list(answers)


def mean_budget(budgets: Sequence[Budget]) -> Budget:
    """The mean of some budgets, with the steps of all.

    Parameters
    ----------
    budgets : sequence of Budget
        At least one.

    Returns
    -------
    Budget
    """
    names = ("with_features", "without", "supporting", "opposing", "carried")
    means = {name: float(np.mean([getattr(each, name) for each in budgets])) for name in names}
    return Budget(**means, steps=sum(each.steps for each in budgets))


def average(parts: list[PathEvidence]) -> PathEvidence:
    """Expected evidence: the mean over several baselines.

    Parameters
    ----------
    parts : list of PathEvidence
        One per baseline drawn; the same picture and score.

    Returns
    -------
    PathEvidence
        Its budget is the mean of theirs, with all their steps.
    """
    cells, slope = (np.mean([getattr(part, name) for part in parts], axis=0) for name in ("cells", "slope"))
    without = float(np.mean([part.budget.without for part in parts]))
    steps = sum(part.budget.steps for part in parts)
    budget = budget_of(cells, parts[0].budget.with_features, without, steps)
    return PathEvidence(cells, budget, parts[0].logits, slope)
