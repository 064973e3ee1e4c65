"""Masks: what a model says of features of which only a part is shown, and the maps made of that.

The features h are blended with a background b by masks m between 0 and 1: ``b + m (h - b)``. Every mask costs one pass
and no gradient. Random masks give RISE (Petsiuk et al. 2018), masks of one cell Recipro-CAM (Byun & Lee 2022), masks
without one channel Ablation-CAM (Desai & Ramaswamy 2020), masks in the shape of a channel Score-CAM (Wang et al. 2020).

In shapes, N is the number of masks, T the number of scores, (C, A, B) the features.
"""

from collections.abc import Callable, Iterator

import numpy as np

from onnx_evidence.evidence.resample import interpolation
from onnx_evidence.types import Features, FloatArray, IntArray, Predict

# Masks number start..stop - 1, shape (stop - start, 1 or C, A or 1, B or 1); asked for in order, each once.
MakeMasks = Callable[[int, int], Features]
# Logits (N, K) to scores (N, T).
Scores = Callable[[FloatArray], FloatArray]
# Masks of a batch, and the scores behind each of them.
Parts = Iterator[tuple[Features, FloatArray]]

# Cells along a side of a random mask, and the share of them that is shown (Petsiuk et al. 2018, section 4).
_CELLS = 7
SHOWN = 0.5
# A cell of a mask covers at least so many cells of the grid along a side, so that it can be shifted.
_SPAN = 2


def masked_scores(
    features: Features,
    background: Features,
    predict: Predict,
    masks: MakeMasks,
    count: int,
    scores: Scores,
    *,
    batch_size: int = 32,
    progress: Callable[[int], object] = lambda copies: None,
) -> Parts:
    """Run the model on the features behind one mask after the other.

    Parameters
    ----------
    features : ndarray of float32, shape (C, A, B)
        What a mask of ones shows.
    background : ndarray of float32, shape (C, A, B)
        What a mask of zeros shows.
    predict : Predict
        Features to logits.
    masks : callable
        Makes masks number start..stop - 1.
    count : int
        N.
    scores : callable
        Logits to scores.
    batch_size : int
        Masks per model run; changes nothing.
    progress : callable
        Called with the number of masks done since the last call.

    Yields
    ------
    masks : ndarray of float32, shape (n, 1 or C, A or 1, B or 1)
        Of one batch.
    scores : ndarray of float64, shape (n, T)
        Behind each of them.
    """
    removed = features - background
    for start in range(0, count, batch_size):
        part = masks(start, min(start + batch_size, count))
        shown = part * removed
        shown += background
        found = scores(predict(shown))
        progress(len(part))
        yield part, found


def mask_cells(grid: tuple[int, int]) -> int:
    """Cells along a side of a random mask: 7, and fewer where the grid has less than 2 cells for each.

    Parameters
    ----------
    grid : (int, int)
        Rows and columns of the features.

    Returns
    -------
    int
    """
    return max(1, min(_CELLS, min(grid) // _SPAN))


def random_masks(grid: tuple[int, int], rng: np.random.Generator) -> MakeMasks:
    """RISE's masks (Petsiuk et al. 2018, section 3.2): cells shown at random, bilinearly upsampled, randomly shifted.

    A mask of s x s cells is drawn, each shown with probability 1/2, upsampled to (s + 1) cells' size and cropped to the
    grid at a random offset within one cell. The expectation of every value is 1/2.

    Parameters
    ----------
    grid : (int, int)
        Rows and columns A, B of the features.
    rng : numpy.random.Generator
        Asked for the cells, the first row and the first column of each mask in turn.

    Returns
    -------
    callable
        Makes masks (n, 1, A, B); its state is the generator's, so masks are the same in batches of any size.
    """
    side = mask_cells(grid)
    pitch = tuple(-(-length // side) for length in grid)
    rows, cols = (interpolation(side, (side + 1) * step) for step in pitch)

    def make(start: int, stop: int) -> Features:
        cells = np.empty((stop - start, side, side), np.float32)
        corners = np.empty((2, stop - start, 1), np.int64)
        for number in range(stop - start):
            cells[number] = rng.random((side, side)) < SHOWN
            corners[:, number, 0] = rng.integers(pitch[0]), rng.integers(pitch[1])
        upper, left = (
            weights[corner + np.arange(length)]
            for weights, corner, length in zip((rows, cols), corners, grid, strict=True)
        )
        masks: Features = upper @ cells @ left.transpose(0, 2, 1)
        return masks[:, None]

    return make


def cell_masks(grid: tuple[int, int]) -> MakeMasks:
    """Recipro-CAM's masks (Byun & Lee 2022, section 3): one cell each, with a 3 x 3 Gaussian around it.

    1/4 at the cell, 1/8 beside, above and below it, 1/16 at the corners, 0 elsewhere; row by row.

    Parameters
    ----------
    grid : (int, int)
        Rows and columns A, B of the features.

    Returns
    -------
    callable
        Makes masks (n, 1, A, B), of A * B.
    """

    def along(length: int, centres: IntArray) -> FloatArray:
        weights: FloatArray = np.maximum(2 - np.abs(np.arange(length) - centres[:, None]), 0) / 4.0
        return weights

    def make(start: int, stop: int) -> Features:
        row, col = np.divmod(np.arange(start, stop), grid[1])
        masks = along(grid[0], row)[:, :, None] * along(grid[1], col)[:, None, :]
        return masks[:, None].astype(np.float32)

    return make


def channel_masks(channels: int) -> MakeMasks:
    """Ablation-CAM's masks: everything but one channel.

    Parameters
    ----------
    channels : int
        C.

    Returns
    -------
    callable
        Makes masks (n, C, 1, 1), of C.
    """

    def make(start: int, stop: int) -> Features:
        missing = np.arange(channels) == np.arange(start, stop)[:, None]
        masks: Features = (~missing).astype(np.float32)[:, :, None, None]
        return masks

    return make


def activation_masks(features: Features, size: tuple[int, int]) -> MakeMasks:
    """Score-CAM's masks (Wang et al. 2020, section 3): a channel, upsampled to the input and brought to 0..1.

    A channel that is the same everywhere shows nothing.

    Parameters
    ----------
    features : ndarray of float32, shape (C, A, B)
        At the cut.
    size : (int, int)
        Height and width H, W of the input in pixels.

    Returns
    -------
    callable
        Makes masks (n, 1, H, W), of C.
    """
    rows, cols = (interpolation(cells, pixels) for cells, pixels in zip(features.shape[1:], size, strict=True))

    def make(start: int, stop: int) -> Features:
        channels = rows @ features[start:stop] @ cols.T
        channels -= channels.min(axis=(1, 2), keepdims=True)
        top = channels.max(axis=(1, 2), keepdims=True)
        masks: Features = (channels / np.where(top > 0, top, 1)).astype(np.float32)
        return masks[:, None]

    return make


def weighted_mean(parts: Parts) -> tuple[FloatArray, FloatArray]:
    """RISE's map (Petsiuk et al. 2018, eq. 6): the mean of the masks, weighted with the score, over their expectation.

    ``S_u = 1 / (N E[m]) sum_i p_i m_iu``: what the score is, on average, when u is shown.

    Parameters
    ----------
    parts : iterator
        Random masks (n, 1, A, B) and scores (n, T), from `masked_scores`.

    Returns
    -------
    values : ndarray of float64, shape (T, A, B)
        In the unit of the score.
    variance : ndarray of float64, shape (T, A, B)
        Squared standard error, from the spread of ``p_i m_iu / E[m]`` over masks; NaN for a single mask. Values of one
        map err together: most of it is the error of the mean score, which all of them share.
    """
    count, total, squares = 0, np.zeros(()), np.zeros(())
    for masks, scores in parts:
        shown = masks[:, 0].astype(np.float64) / SHOWN
        count += len(scores)
        total = total + np.tensordot(scores.T, shown, axes=1)
        squares = squares + np.tensordot(scores.T**2, shown**2, axes=1)
    mean = total / count
    if count < 2:
        return mean, np.full(mean.shape, np.nan)
    return mean, np.maximum(squares / count - mean**2, 0) / (count - 1)


def slope(parts: Parts) -> tuple[FloatArray, FloatArray]:
    """How much the score rises when a cell is shown: its covariance with the mask, over the mask's variance.

    The slope of the regression of the score on one value of the mask. For a score that is linear in the features shown
    it is the evidence of all that the masks show together with the cell; what others add is noise, which the standard
    error has in it.

    Parameters
    ----------
    parts : iterator
        Random masks (n, 1, A, B) and scores (n, T), from `masked_scores`; at least 3 masks.

    Returns
    -------
    values : ndarray of float64, shape (T, A, B)
        In the unit of the score; positive where showing raises it, 0 where all masks are alike.
    variance : ndarray of float64, shape (T, A, B)
        Squared standard error of the slope: the residual's variance over ``(N - 2) N Var(m)``.
    """
    sums = _Sums()
    for masks, scores in parts:
        sums.add(masks[:, 0].astype(np.float64) - SHOWN, scores)
    return sums.slope()


class _Sums:
    """First and second moments of masks x (A, B) and scores y (T,)."""

    def __init__(self) -> None:
        self.count = 0
        self.x, self.xx, self.y, self.yy, self.xy = (np.zeros(()) for _ in range(5))

    def add(self, masks: FloatArray, scores: FloatArray) -> None:
        self.count += len(scores)
        self.x, self.xx = self.x + masks.sum(axis=0), self.xx + (masks**2).sum(axis=0)
        self.y, self.yy = self.y + scores.sum(axis=0), self.yy + (scores**2).sum(axis=0)
        self.xy = self.xy + np.tensordot(scores.T, masks, axes=1)

    def slope(self) -> tuple[FloatArray, FloatArray]:
        x, y = self.x / self.count, (self.y / self.count)[:, None, None]
        spread = self.xx - self.count * x**2
        # A value that no mask varies has no slope; rounding must not give it one.
        varies = spread > 1e-9 * self.count
        spread = np.where(varies, spread, 1.0)
        slope = np.where(varies, (self.xy - self.count * x * y) / spread, 0.0)
        unexplained = self.yy[:, None, None] - self.count * y**2 - slope**2 * spread
        return slope, np.maximum(unexplained, 0) / ((self.count - 2) * spread)


def ablation_cam(features: Features, full: FloatArray, without: FloatArray) -> FloatArray:
    """Ablation-CAM (Desai & Ramaswamy 2020, section 3) before its ReLU.

    ``sum_k w_k h_k`` with ``w_k = (y - y_k) / |y|``, where y_k is the score without channel k. The paper divides by y,
    for scores above 0; the magnitude keeps the sign of the evidence where the score is below.

    Parameters
    ----------
    features : ndarray of float32, shape (C, A, B)
        h, with all channels.
    full : ndarray of float64, shape (T,)
        y.
    without : ndarray of float64, shape (C, T)
        y_k.

    Returns
    -------
    ndarray of float64, shape (T, A, B)
        In the unit of the features; positive speaks for the class.
    """
    weights = (full - without) / np.where(full == 0, 1.0, np.abs(full))
    cells: FloatArray = np.tensordot(weights.T, features.astype(np.float64), axes=1)
    return cells


def score_cam(features: Features, shown: FloatArray) -> FloatArray:
    """Score-CAM (Wang et al. 2020, algorithm 1) before its ReLU.

    ``sum_k w_k h_k`` with w the softmax over channels of the score of the input behind the mask of channel k, less
    that of a blank input. The latter is the same for all channels and cancels in the softmax.

    Parameters
    ----------
    features : ndarray of float32, shape (C, A, B)
        h.
    shown : ndarray of float64, shape (C, T)
        Scores behind the masks; nats.

    Returns
    -------
    ndarray of float64, shape (T, A, B)
        In the unit of the features. Weights are above 0: the sign is that of the features, not of evidence.
    """
    powers = np.exp(shown - shown.max(axis=0))
    cells: FloatArray = np.tensordot((powers / powers.sum(axis=0)).T, features.astype(np.float64), axes=1)
    return cells
