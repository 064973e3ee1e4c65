"""The certificate of a cut: proof, on the picture explained, that the split model is the model."""

import numpy as np

from onnx_evidence.cells import HALF
from onnx_evidence.errors import CutError
from onnx_evidence.graph import Cut
from onnx_evidence.types import FloatArray

# A split is refused where it changes a logit by more than this share of the largest one.
CERTIFICATE_TOLERANCE = 1e-4
# At a cut in half precision: its rounding, which runtimes leave out between operators that they compute in float32.
HALF_TOLERANCE = 1e-3


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
