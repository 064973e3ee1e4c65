"""The certificate of a cut: proof, on the picture explained, that the split model is the deployed file."""

import numpy as np

from onnx_evidence.errors import CutError
from onnx_evidence.graph import Cut
from onnx_evidence.intake.proof import FULL, Arithmetic
from onnx_evidence.types import FloatArray

# How far all logits together may be off, as a multiple of what the one that is most off may be: rounding moves each a
# little and on its own, another picture or other weights move all.
_TOGETHER = 1.5


def certify(
    cut: Cut, split_logits: FloatArray, logits: FloatArray, arithmetic: Arithmetic = FULL, scale: float = 0.0
) -> float:
    """Prove on one picture that the split model is the deployed file.

    What may be between them follows from what the file computes with: 1e-4 of the largest logit in float32, 0.02 in
    half precision, 0.05 between codes of 8 bits. Runtimes fuse a part otherwise than the whole, and round there
    where the whole does not; what that costs is recorded in bits (`engine.View.rounding`). Where numbers are rounded,
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


def _size(values: FloatArray) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(values**2)))
