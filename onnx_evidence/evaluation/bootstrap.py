"""Intervals over pictures by the bootstrap: pictures are drawn anew with replacement, whole."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from onnx_evidence.evidence import generator
from onnx_evidence.types import AnyArray, FloatArray

DRAWS = 2000
LEVEL = 0.95
# Numbers that are drawn at once.
_CHUNK = 1 << 20


class Interval(NamedTuple):
    """A statistic over pictures, and how far it can be trusted."""

    value: float  # the statistic of the pictures; NaN where there are none
    low: float  # ends of its interval; NaN where fewer than two pictures have a number
    high: float
    pictures: int  # that have a number


def interval(
    values: FloatArray,  # (N,): one of each picture; NaN where a picture has none
    *,
    statistic: Callable[..., AnyArray] = np.mean,  # takes an array and ``axis``
    draws: int = DRAWS,
    level: float = LEVEL,  # coverage that is meant, in (0, 1); for few pictures (below 20) the true one is smaller
    seed: int = 0,  # equal for all columns of a table, so that their numbers of pictures decide alone
) -> Interval:
    """The percentile interval of a statistic over pictures (Efron & Tibshirani 1993, eq. 13.4), in the values' unit.

    For a paired difference, give the differences of the pictures: the same pictures are then drawn for both sides, so
    that what is hard about a picture for every method cancels.
    """
    known = values[~np.isnan(values)]
    if not known.size:
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    value = float(statistic(known, axis=0))
    if known.size < 2:
        return Interval(value, float("nan"), float("nan"), 1)
    rng = generator(seed)
    chunk = max(1, _CHUNK // known.size)
    found = [
        statistic(known[rng.integers(known.size, size=(min(chunk, draws - start), known.size))], axis=1)
        for start in range(0, draws, chunk)
    ]
    tail = (1 - level) / 2
    low, high = np.quantile(np.concatenate(found), [tail, 1 - tail])
    return Interval(value, float(low), float(high), int(known.size))
