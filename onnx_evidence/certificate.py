"""What is tried of a cut: that the split model is the model, on the picture explained; that its cells are read."""

from collections.abc import Iterator

import numpy as np

from onnx_evidence.cells import HALF
from onnx_evidence.errors import CutError, ModelError
from onnx_evidence.graph import Cut
from onnx_evidence.types import Features, FloatArray, Predict

# A split is refused where it changes a logit by more than this share of the largest one.
CERTIFICATE_TOLERANCE = 1e-4
# At a cut in half precision: its rounding, which runtimes leave out between operators that they compute in float32.
HALF_TOLERANCE = 1e-3
# Sizes of the noise that is tried in the place of features, in their own standard deviations.
_NOISE = (1.0, 30.0)


def certify(cut: Cut, split_logits: FloatArray, logits: FloatArray) -> float:
    """Prove on one picture that the split model is the model.

    Parameters
    ----------
    cut : Cut
        Where it is split.
    split_logits : ndarray of float64, shape (K,)
        ``tail(head(x))``.
    logits : ndarray of float64, shape (K,)
        Of the whole model for the same picture.

    Returns
    -------
    float
        Largest difference of a logit, as a share of the largest logit: the cut's certificate.

    Raises
    ------
    CutError
        If it exceeds the tolerance.
    """
    difference = np.abs(split_logits - logits).max()
    certificate = float(difference / max(np.abs(logits).max(), 1e-30))
    tolerance = HALF_TOLERANCE if cut.precision in HALF else CERTIFICATE_TOLERANCE
    if not certificate <= tolerance:
        raise CutError(
            f"layer {cut.name!r}: the model split there differs from the whole by {certificate:.2g} of the "
            f"largest logit (at most {tolerance:g}): take another layer"
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
