"""From standard errors to intervals: Student's t, its degrees of freedom, and when sampling looks.

An error that is estimated from few pairs is itself uncertain; Student's t allows for that. Sums of independent
estimates have more degrees of freedom than each, by Welch and Satterthwaite's rule.
"""

from collections.abc import Sequence
from functools import lru_cache
from math import cos, isinf, pi, sin, sqrt, tan
from statistics import NormalDist

import numpy as np

from onnx_evidence.types import FloatArray

CONFIDENCE = 0.95
# Pairs at the first look: fewer than four say too little about their own spread.
FIRST_LOOK = 4
# More degrees of freedom than these are as good as these: the quantiles differ by less than 0.002.
_MOST_FREEDOM = 1000
_BISECTIONS = 60


@lru_cache(maxsize=4096)
def t_quantile(probability: float, freedom: float) -> float:
    """Quantile of Student's t.

    The distribution for a whole number of degrees of freedom is a finite sum (Abramowitz & Stegun 1964, 26.7.3 and
    26.7.4); it is inverted by halving intervals.

    Parameters
    ----------
    probability : float
        Between 0 and 1, both excluded: 0.975 for both sides of a 95 % interval.
    freedom : float
        Degrees of freedom, at least 1; rounded down, so that intervals are never too narrow for it. Infinity is
        the normal distribution.

    Returns
    -------
    float
        In standard errors; below 0 for probabilities below a half.

    Raises
    ------
    ValueError
        If the probability is not between 0 and 1, or there is less than one degree of freedom.
    """
    if not 0 < probability < 1 or not freedom >= 1:
        raise ValueError(f"no quantile at probability {probability} with {freedom} degrees of freedom")
    if isinf(freedom):
        return NormalDist().inv_cdf(probability)
    if probability < 0.5:
        return -t_quantile(1 - probability, freedom)
    whole = min(int(freedom), _MOST_FREEDOM)
    low, high = 0.0, pi / 2
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, whole) < 2 * probability - 1 else (low, middle)
    return sqrt(whole) * tan(low)


def _within(angle: float, freedom: int) -> float:
    """Probability that ``|t| < sqrt(freedom) tan(angle)``."""
    first = 1 + freedom % 2
    term, total = (cos(angle) if freedom % 2 else 1.0), 0.0
    for power in range(first, freedom, 2):
        total += term
        term *= power / (power + 1) * cos(angle) ** 2
    return (angle + sin(angle) * total) * 2 / pi if freedom % 2 else sin(angle) * total


def half_width(stderr: FloatArray, freedom: FloatArray, confidence: float = CONFIDENCE, looks: int = 1) -> FloatArray:
    """Half-width of the interval around each estimate: the quantile of Student's t times its standard error.

    Where sampling may stop at one of several looks, each look has its share of the error (Bonferroni):
    the intervals cover with at least the confidence asked for, wherever it stops.

    Parameters
    ----------
    stderr : ndarray of float64
        Standard errors, in any unit; NaN where nothing was sampled.
    freedom : ndarray of float64, of the same shape
        Degrees of freedom, at least 1; infinity for an error that is known; anything where ``stderr`` is NaN.
    confidence : float
        Between 0 and 1.
    looks : int
        How often sampling looked whether to stop.

    Returns
    -------
    ndarray of float64
        In the unit of ``stderr``; NaN where it is.

    Raises
    ------
    ValueError
        If the confidence is not between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence {confidence} must lie between 0 and 1: 0.95 is usual")
    probability = 1 - (1 - confidence) / (2 * looks)
    sampled = ~np.isnan(stderr)
    known, place = np.unique(np.floor(freedom[sampled]), return_inverse=True)
    width = np.full(stderr.shape, np.nan)
    quantiles = np.array([t_quantile(probability, float(each)) for each in known])
    width[sampled] = quantiles[place.reshape(-1)] * stderr[sampled] if known.size else 0.0
    return width


def total_freedom(total: FloatArray, squares: FloatArray, least: FloatArray) -> FloatArray:
    """Degrees of freedom of a sum of independent estimates.

    ``(sum v)^2 / sum (v^2 / f)`` for variances v with f degrees of freedom each (Satterthwaite 1946, eq. 17; Welch
    1947): from the least f, where one variance is all there is, up to the sum of all.

    Parameters
    ----------
    total : ndarray of float64
        The variance of the sum: sum v; NaN where nothing was sampled.
    squares : ndarray of float64, of the same shape
        Sum of ``v^2 / f``.
    least : ndarray of float64, of the same shape
        The least f, for sums whose variance is 0.

    Returns
    -------
    ndarray of float64
        NaN where ``total`` is.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        freedom = total**2 / squares
    # Tiny variances underflow when squared; rounding may fall just below the least.
    settled = np.where(np.isfinite(freedom) & (freedom > least), freedom, least)
    return np.where(np.isnan(total), np.nan, settled)


def combined_freedom(
    parts: Sequence[tuple[FloatArray, FloatArray | None]], *, alike: bool = False
) -> FloatArray | None:
    """Degrees of freedom of the mean of several maps.

    Parameters
    ----------
    parts : sequence of (ndarray of float64, ndarray of float64 or None)
        Variance of every map and its degrees of freedom, of one shape; at least one. None stands for infinity.
    alike : bool
        Whether the maps err alike: then the mean has no more freedom than the map that has least.

    Returns
    -------
    ndarray of float64 or None
        NaN where a map was not sampled; None where no map has any.
    """
    known = [freedom for _, freedom in parts if freedom is not None]
    if not known:
        return None
    least: FloatArray = np.min(known, axis=0)
    if alike:
        return least
    total = np.sum([variance for variance, _ in parts], axis=0)
    squares = np.sum([variance**2 / freedom for variance, freedom in parts if freedom is not None], axis=0)
    return total_freedom(total, squares, least)


def look_schedule(pairs: int) -> tuple[int, ...]:
    """Numbers of pairs at which sequential sampling looks: 4, 8, 16, ... and the limit.

    Parameters
    ----------
    pairs : int
        The limit, at least 4.

    Returns
    -------
    tuple of int
        Ascending; the last is ``pairs``.

    Raises
    ------
    ValueError
        If the limit is below 4.
    """
    if pairs < FIRST_LOOK:
        raise ValueError(f"{pairs} pairs are too few to look at: at least {FIRST_LOOK}")
    looks = [FIRST_LOOK]
    while 2 * looks[-1] < pairs:
        looks.append(2 * looks[-1])
    return (*looks, pairs) if looks[-1] < pairs else tuple(looks)
