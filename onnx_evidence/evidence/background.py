"""What features usually look like around a place: the Gaussian that `samplers` draws from.

Fitted at one cut from the user's own pictures, streaming: per channel, the mean of every cell and one
covariance of an ``l x l`` patch of cells, pooled over places. Channels are taken as independent
(Zintgraf 2017, section 3.1 does this per colour at the input; here at any cut).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from onnx_evidence.errors import DataError
from onnx_evidence.types import FloatArray, Mask

# Weight of the channel's mean against the mean of one cell, in pictures: n / (n + 20).
SHRINKAGE = 20
# Share of the mean context variance added to its diagonal; 1e-3 to 1e-1 measured indifferent.
RIDGE = 1e-3
# A picture's patches are gathered for this many channels at a time, to bound memory.
_BLOCK_ELEMENTS = 8_000_000


@dataclass(frozen=True)
class Background:
    """A fitted conditional Gaussian of the features at one cut.

    Attributes
    ----------
    patch : int
        l, the side in cells of the patch whose covariance is known.
    mean : ndarray of float64, shape (C, A, B)
        Mean of every cell, shrunk to its channel's mean.
    covariance : ndarray of float64, shape (C, l*l, l*l)
        Covariance of a patch, cells row by row, pooled over places.
    low, high : ndarray of float64, shape (C,)
        Smallest and largest value seen per channel; samples are clipped to them.
    """

    patch: int
    mean: FloatArray
    covariance: FloatArray
    low: FloatArray
    high: FloatArray


def default_patch(window: int, grid: tuple[int, int]) -> int:
    """Side of the patch for a window of ``window`` cells: one cell of context on each side, two from 6 up.

    At the input this gives Zintgraf's setting, 14 pixels for a window of 10.

    Parameters
    ----------
    window : int
        Side of the window in cells.
    grid : (int, int)
        Rows and columns of cells.

    Returns
    -------
    int
        Cells, never more than the grid has.
    """
    return min(window + (4 if window >= 6 else 2), *grid)


class BackgroundFitter:
    """Collects moments picture by picture; memory does not grow with the number of pictures.

    Every fifth picture is held out while the fit is judged, and joins the final fit.

    Parameters
    ----------
    shape : (int, int, int)
        Channels, rows and columns of the features at the cut.
    patch : int
        Side of the patch in cells.

    Raises
    ------
    DataError
        If the patch does not fit the grid.
    """

    def __init__(self, shape: tuple[int, int, int], patch: int) -> None:
        if not 1 <= patch <= min(shape[1:]):
            raise DataError(f"patch {patch} does not fit the cut's grid of {shape[1]} x {shape[2]} cells")
        self.patch = patch
        self._fit = _Moments(shape, patch)
        self._held_out = _Moments(shape, patch)
        self._count = 0
        self._low = np.full(shape[0], np.inf)
        self._high = np.full(shape[0], -np.inf)
        self._shift: FloatArray | None = None

    def add(self, features: FloatArray) -> None:
        """Take in the features of one picture, shape (C, A, B).

        Parameters
        ----------
        features : ndarray of float64, shape (C, A, B)
            The features at the cut.
        """
        if self._shift is None:
            # Moments are taken about the first picture's channel means: raw ones would cancel badly.
            self._shift = features.mean(axis=(1, 2), dtype=np.float64)
        np.minimum(self._low, features.min(axis=(1, 2)), out=self._low)
        np.maximum(self._high, features.max(axis=(1, 2)), out=self._high)
        moments = self._held_out if self._count % 5 == 4 else self._fit
        moments.add(features - self._shift[:, None, None])
        self._count += 1

    def finish(self) -> Background:
        """The background of all pictures.

        Returns
        -------
        Background

        Raises
        ------
        DataError
            If fewer than 10 pictures were added.
        """
        if self._count < 10 or self._shift is None:
            are = "picture is" if self._count == 1 else "pictures are"
            raise DataError(f"{self._count} {are} too few for a background: 10 is the least, 100 to 500 are good")
        return self._background(self._fit + self._held_out)

    def held_out_r2(self, window: int) -> float:
        """Share of the held-out pictures' variance that the context predicts, for a central window.

        Parameters
        ----------
        window : int
            Side of the window in cells.

        Returns
        -------
        float
            1 is perfect; 0 is no better than the mean; from the fit without the held-out pictures.
        """
        background = self._background(self._fit)
        assert self._shift is not None  # _background was reached, so pictures were added
        truth = self._held_out.covariance(background.mean - self._shift[:, None, None])
        inside = window_in_patch(self.patch, (window, window), ((self.patch - window) // 2,) * 2)
        gain, _ = condition(background.covariance, inside)
        s11, s12, s22 = _blocks(truth, inside)
        error = s11 - 2 * gain @ s12.transpose(0, 2, 1) + gain @ s22 @ gain.transpose(0, 2, 1)
        unexplained, total = (float(np.trace(each, axis1=1, axis2=2).sum()) for each in (error, s11))
        return 1 - unexplained / total if total > 0 else 0.0

    def _background(self, moments: "_Moments") -> Background:
        assert self._shift is not None  # `finish` and `held_out_r2` come after `add`
        centre = moments.shrunk_mean()
        return Background(
            self.patch, centre + self._shift[:, None, None], moments.covariance(centre), self._low, self._high
        )


class _Moments:
    """Sums over pictures of x at every cell and of x x' over every patch."""

    def __init__(self, shape: tuple[int, int, int], patch: int) -> None:
        self.shape, self.patch = shape, patch
        self.count = 0
        self.total = np.zeros(shape)
        self.outer = np.zeros((shape[0], patch * patch, patch * patch))

    def add(self, features: FloatArray) -> None:
        self.count += 1
        self.total += features
        for channels, patches in _patches(features, self.patch):
            self.outer[channels] += patches.transpose(0, 2, 1) @ patches

    def __add__(self, other: "_Moments") -> "_Moments":
        both = _Moments(self.shape, self.patch)
        both.count = self.count + other.count
        both.total = self.total + other.total
        both.outer = self.outer + other.outer
        return both

    def shrunk_mean(self) -> FloatArray:
        mean = self.total / self.count
        weight = self.count / (self.count + SHRINKAGE)
        shrunk: FloatArray = weight * mean + (1 - weight) * mean.mean(axis=(1, 2), keepdims=True)
        return shrunk

    def covariance(self, centre: FloatArray) -> FloatArray:
        """Second moment of the patches about the cells' ``centre``, shape (C, l*l, l*l)."""
        places = (self.shape[1] - self.patch + 1) * (self.shape[2] - self.patch + 1)
        result = self.outer / (self.count * places)
        mean = self.total / self.count
        for (channels, own), (_, about) in zip(_patches(mean, self.patch), _patches(centre, self.patch), strict=True):
            cross = own.transpose(0, 2, 1) @ about / places
            result[channels] += about.transpose(0, 2, 1) @ about / places - cross - cross.transpose(0, 2, 1)
        return result


def window_in_patch(patch: int, size: tuple[int, int], offset: tuple[int, int]) -> Mask:
    """Mask over the l*l cells of a patch: True where the window lies.

    Parameters
    ----------
    patch : int
        l, the side of the patch in cells.
    size : (int, int)
        Rows and columns of the window.
    offset : (int, int)
        First row and column of the window, counted from the patch's.

    Returns
    -------
    ndarray of bool, shape (l*l,)
        Cells row by row.
    """
    mask = np.zeros((patch, patch), dtype=np.bool_)
    mask[offset[0] : offset[0] + size[0], offset[1] : offset[1] + size[1]] = True
    return mask.reshape(-1)


def condition(covariance: FloatArray, inside: Mask) -> tuple[FloatArray, FloatArray]:
    """Condition the window's cells on the rest of the patch, per channel.

    ``gain = S12 (S22 + ridge)^-1`` and ``residual = S11 - gain S21``: the mean and covariance of a
    conditional Gaussian, with a small ridge.

    Parameters
    ----------
    covariance : ndarray of float64, shape (C, l*l, l*l)
    inside : ndarray of bool, shape (l*l,)
        True for the d1 cells of the window, False for the d2 of the context.

    Returns
    -------
    gain : ndarray of float64, shape (C, d1, d2)
    residual : ndarray of float64, shape (C, d1, d1)
    """
    s11, s12, s22 = _blocks(covariance, inside)
    size = s22.shape[1]
    if size == 0:
        return s12, s11
    scale = np.trace(s22, axis1=1, axis2=2) / size
    # A channel that never varies has no covariance to invert: any positive ridge gives gain 0.
    ridge = np.where(scale > 0, RIDGE * scale, 1.0)
    s21 = s12.transpose(0, 2, 1)
    gain = np.linalg.solve(s22 + ridge[:, None, None] * np.eye(size), s21).transpose(0, 2, 1).astype(np.float64)
    return gain, s11 - gain @ s21


def _blocks(covariance: FloatArray, inside: Mask) -> tuple[FloatArray, FloatArray, FloatArray]:
    window, context = np.flatnonzero(inside), np.flatnonzero(~inside)
    return (
        covariance[:, window[:, None], window],
        covariance[:, window[:, None], context],
        covariance[:, context[:, None], context],
    )


def _patches(features: FloatArray, patch: int) -> Iterator[tuple[slice, FloatArray]]:
    """Blocks of channels with all their patches, shape (channels, places, l*l)."""
    view = sliding_window_view(features, (patch, patch), axis=(1, 2))
    channels, height, width = view.shape[:3]
    block = max(1, _BLOCK_ELEMENTS // (height * width * patch * patch))
    for start in range(0, channels, block):
        chosen = slice(start, start + block)
        yield chosen, view[chosen].reshape(-1, height * width, patch * patch)
