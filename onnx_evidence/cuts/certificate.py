"""What is tried of a cut: that the split model is the deployed file on a picture; that its cells are read."""

from collections.abc import Iterator

import numpy as np

from onnx_evidence.cuts.graph import Cut
from onnx_evidence.errors import CutError, ModelError
from onnx_evidence.intake import FULL, Arithmetic
from onnx_evidence.types import Features, FloatArray, Predict

# How far all logits together may be off, as a multiple of what the one that is most off may be: rounding moves each a
# little and on its own, another picture or other weights move all.
_TOGETHER = 1.5
# Sizes of the noise that is tried in the place of features, in their own standard deviations.
_NOISE = (1.0, 30.0)


def certify(
    cut: Cut, split_logits: FloatArray, logits: FloatArray, arithmetic: Arithmetic = FULL, scale: float = 0.0
) -> float:
    """Prove on one picture that the split model is the deployed file.

    What may be between them follows from what the file computes with: 1e-4 of the largest logit in float32, 0.02 in
    half precision, 0.05 between codes of 8 bits. Runtimes fuse a part otherwise than the whole, and round there
    where the whole does not; what that costs is recorded in bits (`methods.View.rounding`). Where numbers are rounded,
    the root mean square of the differences may be at most 1.5 times that share of the logits' own.

    Parameters
    ----------
    cut : Cut
        Where it is split.
    split_logits : ndarray of float64, shape (K,)
        ``tail(head(x))``.
    logits : ndarray of float64, shape (K,)
        Of the deployed file for the same picture.
    arithmetic : Arithmetic
        What the file computes with.
    scale : float
        The size of a logit of this model: rounded numbers are off by a share of it also where a picture's own logits
        are all small. Not used in float32.

    Returns
    -------
    float
        Largest difference of a logit, as a share of the largest logit: the cut's certificate.

    Raises
    ------
    CutError
        If it exceeds the tolerance.
    """
    difference = np.abs(split_logits - logits)
    largest = max(float(np.abs(logits).max()), 1e-30)
    certificate = float(difference.max() / largest)
    if arithmetic == FULL:
        # Also where the difference is no number.
        right = certificate <= arithmetic.tolerance
    else:
        together = _size(difference) / max(_size(logits) * max(scale / largest, 1.0), 1e-30)
        alone = float(difference.max()) / max(largest, scale)
        right = alone <= arithmetic.tolerance and together <= _TOGETHER * arithmetic.tolerance
    if not right:
        raise CutError(
            f"layer {cut.name!r}: the model split there differs from the whole by {certificate:.2g} of the "
            f"largest logit (at most {arithmetic.tolerance:g}, {arithmetic.name}): take another layer"
        )
    return certificate


def are_read(tail: Predict, features: Features, kept: int) -> bool:
    """Whether the scores change with what the cells of a cut hold.

    Cells are replaced by others, very different ones: where not a single bit of a score changes, whatever they are
    replaced by, nothing behind the cut reads them.

    Parameters
    ----------
    tail : Predict
        The model behind the cut.
    features : ndarray of float32, shape (C, A, B)
        Of some picture.
    kept : int
        How many of the last channels hold tokens that are no cells (`Cut.kept`): they stay as they are.

    Returns
    -------
    bool
        True also where the scores are no numbers: nothing is known then.
    """
    try:
        # One at a time: the same values may round otherwise in another row of a batch.
        logits = tail(features[None])
        return any(not np.array_equal(tail(other[None]), logits) for other in _others(features, kept))
    except ModelError:
        return True


def _others(features: Features, kept: int) -> Iterator[Features]:
    """Features with other cells."""
    cells, rest = features[: len(features) - kept], features[len(features) - kept :]
    rng = np.random.default_rng(0)
    mean, spread = cells.mean(dtype=np.float64), cells.std(dtype=np.float64) + 1
    noise = (mean + size * spread * rng.standard_normal(cells.shape) for size in _NOISE)
    for other in (*noise, -cells, np.zeros_like(cells)):
        with np.errstate(over="ignore"):
            changed = other.astype(np.float32)
        yield np.concatenate([changed, rest])


def _size(values: FloatArray) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(values**2)))
