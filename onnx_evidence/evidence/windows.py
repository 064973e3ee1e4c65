"""Windows on a grid of cells: where they lie, and how overlapping ones are averaged into cells.

The average over overlaps is a box filter, separable in rows and columns, kept here as two small
matrices: the same linear map then carries values, standard errors and the change to pixels.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from onnx_evidence.errors import SettingError
from onnx_evidence.types import FloatArray


@dataclass(frozen=True)
class Windows:
    """All places of a window on a grid; windows never overhang the border.

    Attributes
    ----------
    grid : (int, int)
        Rows and columns of cells.
    size : (int, int)
        Rows and columns of cells in a window.
    rows, cols : tuple of int
        First row (column) of each place, ascending; every cell is covered by at least one window.
    """

    grid: tuple[int, int]
    size: tuple[int, int]
    rows: tuple[int, ...]
    cols: tuple[int, ...]

    @classmethod
    def place(cls, grid: tuple[int, int], size: int, stride: int = 1) -> "Windows":
        """Place ``size x size`` windows every ``stride`` cells, the last one flush with the border.

        A window larger than the grid in one direction is cut to the grid there.

        Parameters
        ----------
        grid : (int, int)
            Rows and columns of cells.
        size : int
            Side of a window in cells.
        stride : int
            Cells from window to window.

        Returns
        -------
        Windows

        Raises
        ------
        SettingError
            If the size is below 1, or the stride is not in 1..size (cells would be left out).
        """
        if size < 1:
            raise SettingError(f"window {size} is too small: a window has at least 1 cell")
        if not 1 <= stride <= size:
            raise SettingError(f"stride {stride} leaves cells out: it must be in 1..{size}, the window's side")
        height, width = min(size, grid[0]), min(size, grid[1])
        return cls(grid, (height, width), _starts(grid[0], height, stride), _starts(grid[1], width, stride))

    def __len__(self) -> int:
        return len(self.rows) * len(self.cols)

    @property
    def shape(self) -> tuple[int, int]:
        """Number of places per row and column: the shape of an array of one value per window."""
        return len(self.rows), len(self.cols)

    def sites(self) -> Iterator[tuple[int, int]]:
        """First row and column of each window, row by row."""
        return ((row, col) for row in self.rows for col in self.cols)

    @cached_property
    def row_weights(self) -> FloatArray:
        """Row factor of the overlap average, shape (grid rows, window rows); each row sums to 1."""
        return _overlap_weights(self.grid[0], self.size[0], self.rows)

    @cached_property
    def col_weights(self) -> FloatArray:
        """Column factor of the overlap average, shape (grid columns, window columns)."""
        return _overlap_weights(self.grid[1], self.size[1], self.cols)

    def average(self, values: FloatArray) -> FloatArray:
        """Mean over the windows that cover each cell.

        Parameters
        ----------
        values : ndarray of float64, shape (R, C)
            One value per window.

        Returns
        -------
        ndarray of float64, shape (A, B)
            One value per cell, in the same unit.
        """
        return self.row_weights @ values @ self.col_weights.T


def default_size(grid: tuple[int, int]) -> int:
    """Default side of a window: a fifth of the grid's shorter side, at least 3 cells.

    Single cells are far too small a removal: their evidence survives in the neighbours, whose receptive
    fields overlap (measured in docs/first-light.md).

    Parameters
    ----------
    grid : (int, int)
        Rows and columns of cells.

    Returns
    -------
    int
        Cells, never more than the grid has.
    """
    return min(max(3, round(min(grid) / 5)), *grid)


def _starts(cells: int, size: int, stride: int) -> tuple[int, ...]:
    last = cells - size
    return (*range(0, last, stride), last)


def _overlap_weights(cells: int, size: int, starts: tuple[int, ...]) -> FloatArray:
    offset = np.arange(cells)[:, None] - np.array(starts)[None, :]
    covers = ((offset >= 0) & (offset < size)).astype(np.float64)
    weights: FloatArray = covers / covers.sum(axis=1, keepdims=True)
    return weights
