"""Array types and the two callables that stand between the mathematics and a model.

The methods see a model only as a `Predict`; a later backward graph will be a second such callable
beside it. Any function of the right shape will do, so the mathematics is tested without ONNX.
"""

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
Features = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
Pixels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
AnyArray = npt.NDArray[Any]


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
