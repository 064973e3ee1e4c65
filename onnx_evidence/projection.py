"""From cells to pixels of the model's input, through the measured receptive field.

Where a cell looks is measured, not derived: bands of the input are blurred, and the energy of the change
that each row (column) of cells feels has a centre and a spread. Nominal centres of networks with uneven
padding are off by half a stride; measured ones are not. Cells are placed at their measured centres and
interpolated between them. The spread is how far a map can be resolved; smearing by it too was measured
and lost (docs/first-light.md).
"""

from dataclasses import dataclass

import numpy as np

from onnx_evidence.difference import WindowEvidence
from onnx_evidence.intervals import total_freedom
from onnx_evidence.opencv import blur
from onnx_evidence.rng import generator, natural_noise
from onnx_evidence.types import Features, FloatArray, Head, IntArray
from onnx_evidence.windows import Windows

# Synthetic pictures that the field is measured on: two agree with photographs (docs/first-light.md).
_PICTURES = 2
# Bands of the input per axis: about one a cell, and enough of them where cells are few.
_BANDS = (14, 28)
_BLUR_SIGMA = 11.0
# Standard deviation of the interpolation between cells, in pitches of the grid.
_KERNEL = 0.5


@dataclass(frozen=True)
class AxisField:
    """Where the cells of one axis look, in pixels of the model's input.

    Attributes
    ----------
    pixels : int
        Length of the input along this axis.
    centre, spread : ndarray of float64, shape (cells,)
        Centre and standard deviation of each row's (column's) effective receptive field; pixel 0 covers 0..1.
    """

    pixels: int
    centre: FloatArray
    spread: FloatArray

    def weights(self) -> FloatArray:
        """Weight of every cell in every pixel, shape (pixels, cells); each row sums to 1.

        A Gaussian of half the cells' pitch around each centre, normalised over the cells: an interpolation,
        so a constant map stays that constant. Far from every cell the nearest one decides.

        Returns
        -------
        ndarray of float64, shape (pixels, cells)
        """
        place = np.arange(self.pixels)[:, None] + 0.5
        pitch = self.pixels / len(self.centre)
        exponent = -0.5 * ((place - self.centre) / (_KERNEL * pitch)) ** 2
        exponent -= exponent.max(axis=1, keepdims=True)
        weights = np.exp(exponent)
        normalised: FloatArray = weights / weights.sum(axis=1, keepdims=True)
        return normalised

    def shares(self) -> FloatArray:
        """Share of every cell that every pixel gets, shape (pixels, cells); each column sums to 1.

        The weights of the interpolation, normalised over the pixels: what a cell has is spread over the pixels it
        stands for, and nothing is lost.

        Returns
        -------
        ndarray of float64, shape (pixels, cells)
        """
        weights = self.weights()
        shared: FloatArray = weights / weights.sum(axis=0, keepdims=True)
        return shared


@dataclass(frozen=True)
class CellField:
    """Where the cells of a cut look: one `AxisField` for rows and one for columns.

    Attributes
    ----------
    rows, cols : AxisField
        One per axis.
    """

    rows: AxisField
    cols: AxisField

    @property
    def resolution(self) -> float:
        """Mean spread of a cell's field in pixels: finer detail of a map is cosmetic."""
        return float((self.rows.spread.mean() + self.cols.spread.mean()) / 2)

    def to_input(self, values: FloatArray) -> FloatArray:
        """Carry one value per cell (A, B) to one per pixel of the input (H, W), in the same unit.

        Parameters
        ----------
        values : ndarray of float64, shape (A, B)
            One value per cell.

        Returns
        -------
        ndarray of float64, shape (H, W)
        """
        return self.rows.weights() @ values @ self.cols.weights().T

    def spread(self, bits: FloatArray) -> FloatArray:
        """Spread the bits of every cell (A, B) over the pixels it stands for (H, W); sums are kept.

        Parameters
        ----------
        bits : ndarray of float64, shape (A, B)
            Evidence per cell.

        Returns
        -------
        ndarray of float64, shape (H, W)
            Bits per pixel.
        """
        return self.rows.shares() @ bits @ self.cols.shares().T

    def project(self, evidence: WindowEvidence) -> tuple[FloatArray, FloatArray]:
        """Carry windows to pixels: averaged over overlaps, then interpolated.

        Both steps are one linear map of the windows, so the variance of a pixel is exact as well: windows
        are drawn independently.

        Parameters
        ----------
        evidence : WindowEvidence
            Of windows on the grid of these cells.

        Returns
        -------
        bits : ndarray of float64, shape (H, W)
            Positive speaks for the class.
        variance : ndarray of float64, shape (H, W)
            Squared standard error, bits squared; NaN where a window that counts was not sampled.
        """
        rows, cols = self._weights(evidence.windows)
        return rows @ evidence.bits @ cols.T, rows**2 @ evidence.error**2 @ (cols**2).T

    def freedom(self, evidence: WindowEvidence) -> FloatArray | None:
        """Degrees of freedom of the variance that `project` gives every pixel; see `intervals.total_freedom`.

        Parameters
        ----------
        evidence : WindowEvidence
            Of windows on the grid of these cells.

        Returns
        -------
        ndarray of float64, shape (H, W), or None
            NaN where a window that counts was not sampled; None where the windows have none.
        """
        if evidence.freedom is None:
            return None
        rows, cols = self._weights(evidence.windows)
        variance = evidence.error**2
        total = rows**2 @ variance @ (cols**2).T
        squares = rows**4 @ (variance**2 / evidence.freedom) @ (cols**4).T
        return total_freedom(total, squares, np.full(total.shape, evidence.freedom.min()))

    def _weights(self, windows: Windows) -> tuple[FloatArray, FloatArray]:
        """Weight of every row (column) of windows in every row (column) of pixels."""
        return self.rows.weights() @ windows.row_weights, self.cols.weights() @ windows.col_weights


def measure_field(head: Head, input_shape: tuple[int, int, int], grid: tuple[int, int]) -> CellField:
    """Measure where cells look, on seeded pictures with the spectrum of photographs.

    Depends on the model alone, so the same for every picture and every run.

    Parameters
    ----------
    head : Head
        Input to features.
    input_shape : (int, int, int)
        Channels, height, width.
    grid : (int, int)
        Rows and columns of cells.

    Returns
    -------
    CellField
        In pixels of the input.
    """
    pictures = [natural_noise(input_shape, generator(0, index)) for index in range(_PICTURES)]
    rows, cols = (_measure_axis(head, pictures, axis, grid[axis]) for axis in (0, 1))
    return CellField(rows, cols)


def input_field(size: tuple[int, int]) -> CellField:
    """The field at the input itself: every cell is its own pixel.

    Parameters
    ----------
    size : (int, int)
        Height and width of the input in pixels.

    Returns
    -------
    CellField
    """
    rows, cols = (_Identity(side, np.arange(side, dtype=np.float64) + 0.5, np.zeros(side)) for side in size)
    return CellField(rows, cols)


class _Identity(AxisField):
    def weights(self) -> FloatArray:
        """Every pixel is its own cell."""
        return np.eye(self.pixels)


def _measure_axis(head: Head, pictures: list[Features], axis: int, cells: int) -> AxisField:
    pixels = pictures[0].shape[1 + axis]
    bands = min(max(cells, _BANDS[0]), _BANDS[1])
    edges = np.unique(np.linspace(0, pixels, min(bands, pixels) + 1).round().astype(np.int64))
    profile = np.mean([_responses(head, picture, axis, edges) for picture in pictures], axis=0)
    centres = (edges[:-1] + edges[1:]) / 2
    # A row of cells that no band moves looks nowhere: spread over everything.
    share = profile + 1e-12 * (1 + profile.max())
    share /= share.sum(axis=1, keepdims=True)
    centre = share @ centres
    width = np.diff(edges).mean()
    # A band is not a line: its own variance is no part of the field's.
    variance = (share * (centres - centre[:, None]) ** 2).sum(axis=1) - width**2 / 12
    return AxisField(pixels, centre, np.sqrt(np.maximum(variance, 0)))


def _responses(head: Head, picture: Features, axis: int, edges: IntArray) -> FloatArray:
    """Change of each row (column) of cells when each band of the input is blurred, shape (cells, bands)."""
    blurred = blur(picture, _BLUR_SIGMA)
    batch = np.repeat(picture[None], len(edges), axis=0)
    for copy, start, stop in zip(batch[1:], edges[:-1], edges[1:], strict=True):
        band = np.s_[:, start:stop] if axis == 0 else np.s_[:, :, start:stop]
        copy[band] = blurred[band]
    features = head(batch).astype(np.float64)
    change = ((features[1:] - features[0]) ** 2).sum(axis=1)
    energy: FloatArray = change.mean(axis=2 - axis).T
    return energy
