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
from onnx_evidence.evidence import (
    LogProbability,
    contrast_error,
    contrast_evidence,
    evidence_error,
    laplace,
    log_probabilities,
    mean_over_samples,
    weight_of_evidence,
)
from onnx_evidence.samplers import Sampler
from onnx_evidence.types import Features, FloatArray, Predict
from onnx_evidence.windows import Windows


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
    """

    windows: Windows
    full: LogProbability
    samples: LogProbability


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
    """

    windows: Windows
    bits: FloatArray
    error: FloatArray


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

    Returns
    -------
    Removal

    Raises
    ------
    SettingError
        If that number of samples cannot be drawn.
    """
    check_samples(samples, sampler.deterministic)
    full = log_probabilities(predict(features[None]), classes)
    edits = _edits(features, sampler, windows, samples, key)
    buffer = np.empty((min(batch_size, len(windows) * samples), *features.shape), features.dtype)
    rows, cols = windows.size
    parts = []
    while chunk := list(islice(edits, len(buffer))):
        batch = buffer[: len(chunk)]
        batch[:] = features
        for copy, (row, col, patch) in zip(batch, chunk, strict=True):
            copy[:, row : row + rows, col : col + cols] = patch
        parts.append(log_probabilities(predict(batch), classes))
        progress(len(chunk))
    shape = (len(windows), samples, len(classes))
    log_p, log_q = (np.concatenate(part).reshape(shape) for part in zip(*parts, strict=True))
    return Removal(windows, LogProbability(full.log_p[0], full.log_q[0]), LogProbability(log_p, log_q))


def _edits(
    features: Features, sampler: Sampler, windows: Windows, samples: int, key: Sequence[int]
) -> Iterator[tuple[int, int, Features]]:
    for row, col in windows.sites():
        drawn = sampler.draw(features, (row, col), windows.size, samples, key)
        for patch in drawn:
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
    full, samples = _of_class(removal, target, correction)
    mean = mean_over_samples(samples, axis=1)
    if versus is None:
        bits, error = weight_of_evidence(full, mean), evidence_error(samples, mean)
    else:
        full_rival, rival = _of_class(removal, versus, correction)
        mean_rival = mean_over_samples(rival, axis=1)
        bits = contrast_evidence(full, mean, full_rival, mean_rival)
        error = contrast_error(samples, mean, rival, mean_rival)
    shape = removal.windows.shape
    return WindowEvidence(removal.windows, bits.reshape(shape), error.reshape(shape))


def _of_class(
    removal: Removal, column: int, correction: tuple[int, int] | None
) -> tuple[LogProbability, LogProbability]:
    full, samples = (
        LogProbability(each.log_p[..., column], each.log_q[..., column]) for each in (removal.full, removal.samples)
    )
    if correction is None:
        return full, samples
    # The correction is linear in p, so correcting every sample corrects their mean, and its error too.
    return laplace(full, *correction), laplace(samples, *correction)
