"""Sampling of windows until the evidence of each is known well enough.

Pairs of draws come in rounds. After each, windows whose interval is narrow enough stop, and passes go to the others.
What a window draws depends on its place alone, so with n pairs it has the evidence that n pairs always give it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnx_evidence.evidence.difference import Draws, WindowEvidence, bits_and_error, degrees_of_freedom
from onnx_evidence.evidence.intervals import half_width, look_schedule
from onnx_evidence.evidence.odds import LogProbability
from onnx_evidence.evidence.windows import Windows
from onnx_evidence.types import FloatArray, IntArray, Mask

# Draws of a window when nobody says how many at most: 32 pairs.
MOST_SAMPLES = 64


@dataclass(frozen=True)
class Sampled:
    """What sequential sampling found, and what it took.

    Attributes
    ----------
    evidence : list of WindowEvidence
        One per question.
    samples : ndarray of int64, shape (R, C)
        Draws of every window.
    unmet : ndarray of bool, shape (R, C)
        Windows whose interval is still too wide, for one question at least, after as many draws as were allowed.
    looks : int
        How often sampling looked, at most: what intervals have to allow for (see `evidence.half_width`).
    """

    evidence: list[WindowEvidence]
    samples: IntArray
    unmet: Mask
    looks: int


@dataclass(frozen=True)
class Asked:
    """A question to `sample_windows`.

    Attributes
    ----------
    target : int
        Position in the classes that are kept, not a class number.
    versus : int or None
        Another such position: evidence for the one rather than the other.
    """

    target: int
    versus: int | None = None


def sample_windows(
    draws: Draws,
    windows: Windows,
    questions: Sequence[Asked],
    tolerance: float,
    *,
    most: int = MOST_SAMPLES,
    correction: tuple[int, int] | None = None,
) -> Sampled:
    """Draw replacements of every window until its evidence is known within a tolerance.

    Looks come at 4, 8, 16, ... pairs and at the limit. A window stops at the first at which the 95 % interval of its
    evidence is at most ``tolerance`` to either side, for all questions; each look takes its share of the 5 %.

    Parameters
    ----------
    draws : Draws
        Runs the model on replaced windows, for the classes that questions are about.
    windows : Windows
        Where to remove.
    questions : sequence of Asked
        At least one.
    tolerance : float
        Half-width of a 95 % interval in bits, above 0.
    most : int
        Most draws of a window; even, at least 8.
    correction : (int, int), optional
        N and K of the Laplace correction.

    Returns
    -------
    Sampled
        Bits; positive speaks for the target.
    """
    full = draws.whole()
    looks = look_schedule(most // 2)
    sites = list(windows.sites())
    bits, error = (np.empty((len(questions), len(sites))) for _ in range(2))
    samples = np.zeros(len(sites), np.int64)
    active = np.arange(len(sites))
    drawn: LogProbability | None = None
    for pairs in looks:
        drawn = _more(draws, [sites[each] for each in active], drawn, 2 * pairs)
        samples[active] = 2 * pairs
        for number, asked in enumerate(questions):
            found = bits_and_error(full, drawn, asked.target, asked.versus, correction, draws.class_kind)
            bits[number, active], error[number, active] = found
        freedom = np.full(len(active), float(degrees_of_freedom(2 * pairs)))
        wide = np.any([half_width(each[active], freedom, looks=len(looks)) > tolerance for each in error], axis=0)
        active, drawn = active[wide], LogProbability(*(each[wide] for each in drawn))
        if not len(active):
            break
    return _sampled(windows, bits, error, samples, active, len(looks))


def _more(draws: Draws, sites: Sequence[tuple[int, int]], before: LogProbability | None, count: int) -> LogProbability:
    """The first ``count`` draws of some windows, (W, count, T), of which some are there already."""
    if before is None:
        return draws.run(sites, 0, count)
    new = draws.run(sites, before.log_p.shape[1], count)
    return LogProbability(*(np.concatenate(both, axis=1) for both in zip(before, new, strict=True)))


def _sampled(
    windows: Windows, bits: FloatArray, error: FloatArray, samples: IntArray, unmet: IntArray, looks: int
) -> Sampled:
    shape = windows.shape
    samples = samples.reshape(shape)
    freedom = (samples // 2 - 1).astype(np.float64)
    evidence = [
        WindowEvidence(windows, one.reshape(shape), its_error.reshape(shape), freedom)
        for one, its_error in zip(bits, error, strict=True)
    ]
    wide = np.zeros(samples.size, np.bool_)
    wide[unmet] = True
    return Sampled(evidence, samples, wide.reshape(shape), looks)
