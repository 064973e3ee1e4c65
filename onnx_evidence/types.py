"""Array types and the callables that stand between the mathematics and a model.

The methods see a model only as a `Predict`, or as a `Gradient`, its backward graph. Any function of the right
shape will do, so the mathematics is tested without ONNX.

Imported by: axes, batch, counting, cuts, deployed, evaluation, evidence, explainer, export, files, graphs, intake,
methods, pictures, preprocessing, results, sessions, vjp.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
Features = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
Pixels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
AnyArray = npt.NDArray[Any]
# An execution provider: text NAME[:key=value,...], or ONNX Runtime's own pair of name and options.
ProviderLike = str | tuple[str, Mapping[str, object]]


class Predict(Protocol):
    """Logits of a batch: ``(N, C, A, B) float32 -> (N, K) float64``, any N, rows independent."""

    def __call__(self, batch: Features, /) -> FloatArray:
        """Run one batch."""
        ...


class Head(Protocol):
    """Features of a batch: ``(N, channels, H, W) float32 -> (N, C, A, B) float32``, rows independent."""

    def __call__(self, batch: Features, /) -> Features:
        """Run one batch."""
        ...


class Gradient(Protocol):
    """Logits of a batch and the gradient of one score of them by the batch; rows independent.

    The score of row n is ``direction . z_n - log sum_{j: rest_j = 1} exp z_nj``, in nats (see `evidence.Score`).
    """

    def __call__(self, batch: Features, direction: FloatArray, rest: FloatArray, /) -> tuple[FloatArray, Features]:
        """Run one batch.

        Parameters
        ----------
        batch : ndarray of float32, shape (N, C, A, B)
        direction, rest : ndarray of float64, shape (K,)

        Returns
        -------
        logits : ndarray of float64, shape (N, K)
        gradient : ndarray of float32, shape (N, C, A, B)
        """
        ...
