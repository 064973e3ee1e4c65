"""From coarse cells to fine ones, along one axis, as a matrix: so its transpose carries gradients back."""

import numpy as np

from onnx_evidence.types import Features


def interpolation(cells: int, pixels: int) -> Features:
    """Weights of bilinear interpolation along one axis, pixel centres at halves, constant beyond the last centres.

    Parameters
    ----------
    cells, pixels : int
        Values that there are, and values that are wanted.

    Returns
    -------
    ndarray of float32, shape (pixels, cells)
        Rows sum to 1.
    """
    place = np.clip((np.arange(pixels) + 0.5) * cells / pixels - 0.5, 0, cells - 1)
    weights: Features = np.maximum(1 - np.abs(place[:, None] - np.arange(cells)), 0).astype(np.float32)
    return weights
