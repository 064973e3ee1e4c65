"""From cells to pixels of the model's input, through the receptive field.

Cells are placed at the centres of their fields, which are measured where they can be (`receptive`), and interpolated
between them. The spread is how far a map can be resolved; smearing by it too was measured and lost
(docs/first-light.md).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from onnx_evidence.evidence.difference import WindowEvidence
from onnx_evidence.evidence.intervals import total_freedom
from onnx_evidence.evidence.windows import Windows
from onnx_evidence.types import AnyArray, FloatArray

# How the places of cells are known.
MEASURED, NOMINAL, EVEN, EXACT = "measured", "nominal", "even", "exact"
# Not before there is a picture.
OPEN = "open"
# Products that take longer to wait for than to make, one by one.
_FEW = 1 << 22
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
    how : {'measured', 'nominal', 'even', 'exact', 'open'}
        How it is known: measured; by arithmetic on kernels and strides; not at all, so that cells are spaced evenly
        over the picture; by definition; or not before there is a picture.
    reason : str
        Why it is not measured, or what had to be filled in; empty where there is nothing to say.
    """

    rows: AxisField
    cols: AxisField
    how: str = EXACT
    reason: str = ""

    def to_plain(self) -> dict[str, Any]:
        """All of it in plain values, exactly; see `from_plain`."""
        axes = [[axis.centre.tolist(), axis.spread.tolist()] for axis in (self.rows, self.cols)]
        return {"how": self.how, "reason": self.reason, "axes": axes}

    @classmethod
    def from_plain(cls, plain: Any, size: tuple[int, int], grid: tuple[int, int]) -> "CellField | None":
        """The field that plain values stand for.

        Parameters
        ----------
        plain : any
            As `to_plain` gives it, or anything else.
        size : (int, int)
            Height and width of the input in pixels.
        grid : (int, int)
            Rows and columns of cells.

        Returns
        -------
        CellField or None
            None where it is none of such cells.
        """
        try:
            arrays, how, reason = [np.array(axis) for axis in plain["axes"]], plain["how"], plain["reason"]
        except (KeyError, TypeError, ValueError):
            return None
        told = how in (MEASURED, NOMINAL, EVEN) and isinstance(reason, str) and len(arrays) == 2
        if not told or not all(map(_is_axis, arrays, size, grid)):
            return None
        rows, cols = (AxisField(pixels, *array.astype(np.float64)) for pixels, array in zip(size, arrays, strict=True))
        return cls(rows, cols, how, reason)

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
        return _carried(self.rows.weights(), values, self.cols.weights())

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
        if isinstance(self.rows, _Identity):
            return bits.astype(np.float64)
        return _carried(self.rows.shares(), bits, self.cols.shares())

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
        return _carried(rows, evidence.bits, cols), _carried(rows**2, evidence.error**2, cols**2)

    def freedom(self, evidence: WindowEvidence) -> FloatArray | None:
        """Degrees of freedom of the variance that `project` gives every pixel; see `evidence.intervals.total_freedom`.

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
        total = _carried(rows**2, variance, cols**2)
        squares = _carried(rows**4, variance**2 / evidence.freedom, cols**4)
        return total_freedom(total, squares, np.full(total.shape, evidence.freedom.min()))

    def _weights(self, windows: Windows) -> tuple[FloatArray, FloatArray]:
        """Weight of every row (column) of windows in every row (column) of pixels."""
        return self.rows.weights() @ windows.row_weights, self.cols.weights() @ windows.col_weights


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


def _carried(rows: FloatArray, values: FloatArray, cols: FloatArray) -> FloatArray:
    """``rows @ values @ cols.T``, by a plain loop where it is small.

    A product by BLAS wakes its threads, and where processors are busy it waits for them: 15 ms instead of half of one.
    """
    if len(rows) * len(cols) * values.shape[1] > _FEW:
        return rows @ values @ cols.T
    carried: FloatArray = np.einsum("ik,lk->il", np.einsum("ij,jk->ik", rows, values), cols)
    return carried


def _is_axis(array: AnyArray, pixels: int, cells: int) -> bool:
    """Whether an array holds centres near an input of so many pixels, and spreads, of so many cells."""
    if array.shape != (2, cells) or array.dtype.kind not in "fi" or not np.isfinite(array).all():
        return False
    centre, spread = array
    return bool((centre > -pixels).all() and (centre < 2 * pixels).all() and (spread >= 0).all())
