"""Removal of windows: prediction differences at any cut.

One algorithm for the whole family. At the model's input with a constant it is occlusion (Zeiler & Fergus 2014);
at the input with the conditional Gaussian it is prediction difference analysis (Zintgraf 2017); at a cut
inside, the windows are windows of hidden features and only the tail runs again.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from onnx_evidence.errors import SettingError
from onnx_evidence.evidence.class_kind import EXCLUSIVE, ClassKind
from onnx_evidence.evidence.odds import LogProbability, evidence_error, laplace, mean_over_samples, weight_of_evidence
from onnx_evidence.evidence.samplers import Sampler
from onnx_evidence.evidence.windows import Windows
from onnx_evidence.types import Features, FloatArray, Predict


@dataclass(frozen=True)
class Removal:
    """What the model says of the classes asked for, with every window removed in turn.

    Attributes
    ----------
    windows : Windows
        The places; W of them.
    full : LogProbability
        With nothing removed, shape (T,).
    samples : LogProbability
        With window w replaced by sample s, shape (W, S, T).
    class_kind : ClassKind
        What the logits meant.
    """

    windows: Windows
    full: LogProbability
    samples: LogProbability
    class_kind: ClassKind = EXCLUSIVE


@dataclass(frozen=True)
class WindowEvidence:
    """Evidence of every window for one class, or for one class rather than another.

    Attributes
    ----------
    windows : Windows
        The places.
    bits : ndarray of float64, shape (R, C)
        Weight of evidence; positive speaks for the class.
    error : ndarray of float64, shape (R, C)
        Its standard error in bits; NaN where nothing was sampled.
    freedom : ndarray of float64, shape (R, C), or None
        Degrees of freedom of that error: the antithetic pairs less one, at least 1; None if nobody asks.
    """

    windows: Windows
    bits: FloatArray
    error: FloatArray
    freedom: FloatArray | None = None


def check_samples(samples: int, deterministic: bool) -> None:
    """Refuse numbers of samples that cannot be drawn.

    Parameters
    ----------
    samples : int
        Draws per window.
    deterministic : bool
        Whether all draws are equal, as the sampler says.

    Raises
    ------
    SettingError
        If ``samples`` is neither 1 nor even, or more than 1 of a constant replacement.
    """
    if samples < 1 or (samples > 1 and samples % 2):
        raise SettingError(f"{samples} samples: take 1 (the conditional mean) or an even number (antithetic pairs)")
    if deterministic and samples > 1:
        raise SettingError(f"{samples} samples of a constant are all equal: take 1, or a fitted background file")


def remove_windows(
    features: Features,
    predict: Predict,
    sampler: Sampler,
    windows: Windows,
    classes: Sequence[int],
    *,
    samples: int = 1,
    key: Sequence[int] = (0,),
    batch_size: int = 32,
    progress: Callable[[int], object] = lambda windows: None,
    class_kind: ClassKind = EXCLUSIVE,
    logits: FloatArray | None = None,
) -> Removal:
    """Replace each window in turn and run the model on the result.

    Batches are filled across windows and samples. What is drawn for a window depends only on ``key`` and
    its place, so neither the batch size nor the order can change a map.

    Parameters
    ----------
    features : ndarray of float32, shape (C, A, B)
        The picture's features at the cut (its pixels, at the input).
    predict : Predict
        The tail: features to logits.
    sampler : Sampler
        Draws the replacements.
    windows : Windows
        Where to remove.
    classes : sequence of int
        The T classes to keep.
    samples : int
        S, draws per window: 1, or an even number.
    key : sequence of int
        Seed, image's key, cut's key.
    batch_size : int
        Edited copies per model run.
    progress : callable
        Called with the number of edited copies done since the last call.
    class_kind : ClassKind
        What the logits mean.
    logits : ndarray of float64, shape (K,), optional
        Of the features themselves, where they are known.

    Returns
    -------
    Removal

    Raises
    ------
    SettingError
        If that number of samples cannot be drawn.
    """
    check_samples(samples, sampler.deterministic)
    draws = Draws(features, predict, sampler, windows.size, classes, key, batch_size, progress, class_kind, logits)
    return Removal(windows, draws.whole(), draws.run(list(windows.sites()), 0, samples), class_kind)


@dataclass(frozen=True)
class Draws:
    """Runs the model on copies of one picture, each with one window replaced by one draw.

    Attributes
    ----------
    features, predict, sampler, classes, key, batch_size, progress, class_kind, logits
        As in `remove_windows`.
    size : (int, int)
        Rows and columns of a window.
    """

    features: Features
    predict: Predict
    sampler: Sampler
    size: tuple[int, int]
    classes: Sequence[int]
    key: Sequence[int]
    batch_size: int
    progress: Callable[[int], object]
    class_kind: ClassKind = EXCLUSIVE
    logits: FloatArray | None = None

    def whole(self) -> LogProbability:
        """With nothing removed, shape (T,)."""
        logits = self.predict(self.features[None]) if self.logits is None else self.logits[None]
        return LogProbability(*(each[0] for each in self._ask(logits)))

    def _ask(self, logits: FloatArray) -> LogProbability:
        return self.class_kind.log_probabilities(logits, list(self.classes))

    def run(self, sites: Sequence[tuple[int, int]], first: int, last: int) -> LogProbability:
        """Run draws ``first`` to ``last`` (excluded) of every window.

        Parameters
        ----------
        sites : sequence of (int, int)
            First row and column of each window, W of them, at least one.
        first, last : int
            Which draws: of the ``last`` that its key gives a window, those from ``first`` on.

        Returns
        -------
        LogProbability
            Shape (W, last - first, T).
        """
        edits = self._edits(sites, first, last)
        count = min(self.batch_size, len(sites) * (last - first))
        buffer = np.empty((count, *self.features.shape), self.features.dtype)
        rows, cols = self.size
        parts = []
        while chunk := list(islice(edits, len(buffer))):
            batch = buffer[: len(chunk)]
            batch[:] = self.features
            for copy, (row, col, patch) in zip(batch, chunk, strict=True):
                copy[:, row : row + rows, col : col + cols] = patch
            parts.append(self._ask(self.predict(batch)))
            self.progress(len(chunk))
        shape = (-1, last - first, len(self.classes))
        return LogProbability(*(np.concatenate(part).reshape(shape) for part in zip(*parts, strict=True)))

    def _edits(self, sites: Sequence[tuple[int, int]], first: int, last: int) -> Iterator[tuple[int, int, Features]]:
        for row, col in sites:
            # A window's draws are one sequence, keyed by its place: the first ones are the same however many follow.
            for patch in self.sampler.draw(self.features, (row, col), self.size, last, self.key)[first:]:
                yield row, col, patch


def window_evidence(
    removal: Removal, target: int, versus: int | None = None, correction: tuple[int, int] | None = None
) -> WindowEvidence:
    """Evidence of every window in bits, from one `Removal`.

    Parameters
    ----------
    removal : Removal
        From `remove_windows`.
    target : int
        Position in its ``classes``, not a class number.
    versus : int, optional
        Another such position: evidence for the one rather than the other.
    correction : (int, int), optional
        N and K of the Laplace correction.

    Returns
    -------
    WindowEvidence
        Bits; positive speaks for the target.
    """
    bits, error = bits_and_error(removal.full, removal.samples, target, versus, correction, removal.class_kind)
    shape = removal.windows.shape
    freedom = np.full(shape, float(degrees_of_freedom(removal.samples.log_p.shape[1])))
    return WindowEvidence(removal.windows, bits.reshape(shape), error.reshape(shape), freedom)


def degrees_of_freedom(samples: int) -> int:
    """Degrees of freedom of a window's standard error: the antithetic pairs less one, at least 1.

    Parameters
    ----------
    samples : int
        Draws of the window.

    Returns
    -------
    int
    """
    return max(samples // 2 - 1, 1)


def bits_and_error(
    full: LogProbability,
    samples: LogProbability,
    target: int,
    versus: int | None = None,
    correction: tuple[int, int] | None = None,
    class_kind: ClassKind = EXCLUSIVE,
) -> tuple[FloatArray, FloatArray]:
    """Evidence of some windows in bits, and its standard error; see `window_evidence`.

    Parameters
    ----------
    full : LogProbability
        With nothing removed, shape (T,).
    samples : LogProbability
        With window w replaced by sample s, shape (W, S, T).
    target, versus, correction
        As in `window_evidence`.
    class_kind : ClassKind
        What the logits mean.

    Returns
    -------
    bits, error : ndarray of float64, shape (W,)
        Positive speaks for the target; errors are NaN where fewer than two pairs were drawn.
    """
    all_there, drawn = _of_class(full, samples, target, correction)
    mean = mean_over_samples(drawn, axis=1)
    if versus is None:
        return weight_of_evidence(all_there, mean), evidence_error(drawn, mean)
    full_rival, rival = _of_class(full, samples, versus, correction)
    mean_rival = mean_over_samples(rival, axis=1)
    bits = class_kind.contrast(all_there, mean, full_rival, mean_rival)
    return bits, class_kind.contrast_error(drawn, mean, rival, mean_rival)


def _of_class(
    full: LogProbability, samples: LogProbability, column: int, correction: tuple[int, int] | None
) -> tuple[LogProbability, LogProbability]:
    full, samples = (LogProbability(each.log_p[..., column], each.log_q[..., column]) for each in (full, samples))
    if correction is None:
        return full, samples
    # The correction is linear in p, so correcting every sample corrects their mean, and its error too.
    return laplace(full, *correction), laplace(samples, *correction)
