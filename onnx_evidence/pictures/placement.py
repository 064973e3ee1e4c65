"""Where the model's input lies in a photograph, and the way back for maps: through crop and resize."""

from dataclasses import dataclass

import numpy as np

from onnx_evidence.types import Features, FloatArray


@dataclass(frozen=True)
class Placement:
    """Where the model's input lies in the photograph.

    Pixel (row, col) of the input, its centre at ``(row + 0.5, col + 0.5)``, sits in the photograph at
    ``(row + 0.5 + top) / scale_rows`` and likewise for columns.

    Attributes
    ----------
    original : (int, int)
        Height and width of the photograph.
    size : (int, int)
        Height and width of the model's input.
    resized : (int, int)
        Height and width of the photograph after resizing, before the crop.
    corner : (int, int)
        Top and left of the crop in the resized photograph; negative where the input begins with padding.
    """

    original: tuple[int, int]
    size: tuple[int, int]
    resized: tuple[int, int]
    corner: tuple[int, int]

    @property
    def scale(self) -> tuple[float, float]:
        """Pixels of the resized photograph per pixel of the photograph, (rows, columns)."""
        return self.resized[0] / self.original[0], self.resized[1] / self.original[1]

    def inside(self) -> tuple[slice, slice]:
        """Rows and columns of the model's input that show the photograph; the others are padding."""
        rows, cols = (
            slice(max(-corner, 0), max(min(resized - corner, size), 0))
            for corner, resized, size in zip(self.corner, self.resized, self.size, strict=True)
        )
        return rows, cols

    def seen(self) -> tuple[float, float, float, float]:
        """Top, left, bottom and right, in the photograph's pixels, of what the model saw, padding included."""
        top, left = (corner / factor for corner, factor in zip(self.corner, self.scale, strict=True))
        height, width = (side / factor for side, factor in zip(self.size, self.scale, strict=True))
        return top, left, top + height, left + width

    def locate(self, row: int, col: int) -> tuple[int, int]:
        """The photograph's pixel in which the centre of a pixel of the model's input lies.

        Parameters
        ----------
        row, col : int
            Pixel of the model's input.

        Returns
        -------
        (int, int)
            Row and column in the photograph.
        """
        down, right = (
            min(max(int((pixel + 0.5 + corner) / factor), 0), side - 1)
            for pixel, corner, factor, side in zip((row, col), self.corner, self.scale, self.original, strict=True)
        )
        return down, right


def to_original(values: Features, placement: Placement) -> Features:
    """Carry a map from the model's input to the photograph's own pixels.

    Parameters
    ----------
    values : ndarray of float32, shape (height, width)
        One value per pixel of the model's input.
    placement : Placement
        From `to_input`.

    Returns
    -------
    ndarray of float32, shape of the photograph
        Bilinear between input pixels; exactly 0 where the crop kept the model from looking.
    """
    rows, cols = (
        (np.arange(side, dtype=np.float64) + 0.5) * factor - corner - 0.5
        for side, factor, corner in zip(placement.original, placement.scale, placement.corner, strict=True)
    )
    carried = _interpolate(_interpolate(values, rows).T, cols).T
    height, width = placement.size
    carried[(rows < -0.5) | (rows > height - 0.5), :] = 0
    carried[:, (cols < -0.5) | (cols > width - 0.5)] = 0
    return np.ascontiguousarray(carried)


def spread_to_original(bits: Features, placement: Placement) -> Features:
    """Carry a map that adds up from the model's input to the photograph's own pixels; sums over regions are kept.

    A pixel of the photograph gets the bits of the part of the input that it covers. Bits on padding belong to no pixel
    of the photograph and are not carried (see `padding_bits`).

    Parameters
    ----------
    bits : ndarray of float32, shape (height, width)
        Bits per pixel of the model's input.
    placement : Placement
        From `to_input`.

    Returns
    -------
    ndarray of float32, shape of the photograph
        Bits per pixel of the photograph.
    """
    carried = bits.astype(np.float64)
    for side, factor, corner in zip(placement.original, placement.scale, placement.corner, strict=True):
        # What lies before each edge of the photograph's pixels; what lies between two edges is theirs.
        edges = np.clip(np.arange(side + 1) * factor - corner, 0, len(carried))
        before = np.concatenate([np.zeros((1, carried.shape[1])), carried.cumsum(axis=0)])
        whole = np.minimum(edges.astype(np.int64), len(carried) - 1)
        at_edges = before[whole] + (edges - whole)[:, None] * carried[whole]
        carried = np.diff(at_edges, axis=0).T
    return np.ascontiguousarray(carried, dtype=np.float32)


def padding_bits(bits: Features, placement: Placement) -> float:
    """What a map that adds up has on padding, where there is nothing of the photograph.

    Parameters
    ----------
    bits : ndarray of float32, shape (height, width)
        Bits per pixel of the model's input.
    placement : Placement
        From `to_input`.

    Returns
    -------
    float
        Bits; positive for the class. 0 where nothing is padded.
    """
    return float(bits.sum(dtype=np.float64) - bits[placement.inside()].sum(dtype=np.float64))


def _interpolate(values: Features, places: FloatArray) -> Features:
    """Rows of ``values`` at fractional ``places``, linear between rows, constant beyond the first and last."""
    places = np.clip(places, 0, len(values) - 1)
    before = np.floor(places).astype(np.int64)
    after = np.minimum(before + 1, len(values) - 1)
    share = (places - before).astype(np.float32)[:, None]
    return values[before] + (values[after] - values[before]) * share
