"""Relevance of pixels, which evidence at cuts may be held against."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from onnx_evidence.errors import CutError, ModelError
from onnx_evidence.evidence import LN2, Score, attribution
from onnx_evidence.methods.engine import View
from onnx_evidence.pictures import blur
from onnx_evidence.types import FloatArray, Gradient

# What single pixels are given is noise: standard deviation of a Gaussian, as a share of the input's shorter side.
SMOOTHED = 1 / 48


@dataclass(frozen=True)
class PixelRelevance:
    """Gradient times input with rules in place of derivatives, smoothed.

    Attributes
    ----------
    gradient : Gradient
        Of the whole model, by rules of relevance.
    certify : callable
        Proves its logits, given the deployed file's.
    """

    gradient: Gradient
    certify: Callable[[FloatArray, FloatArray], float]

    def __call__(self, view: View, score: Score) -> FloatArray:
        """Bits per pixel of the input, (H, W), but for what biases take.

        ModelError if they are not finite, CutError if the graph is not the file's.
        """
        try:
            logits, handed = self.gradient(view.inputs[None], score.direction, score.rest)
            self.certify(logits[0], view.logits)
        except (CutError, ModelError) as error:
            raise type(error)(
                f"{error}; this is of relevance: or take --combine agreement, which needs none"
            ) from error
        pixels = attribution.layer_times_gradient(view.inputs, handed[0]) / LN2
        # By the largest value: the blur is in float32.
        largest = float(np.abs(pixels).max()) or 1.0
        smooth = blur((pixels / largest)[None].astype(np.float32), SMOOTHED * min(pixels.shape))[0]
        return np.asarray(largest * smooth.astype(np.float64))
