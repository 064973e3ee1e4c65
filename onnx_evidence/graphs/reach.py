"""Receptive fields by integer arithmetic on kernels, strides, dilations and pads.

The field of cell ``i`` of a tensor, along one axis, is the pixels ``low + stride * i .. high + stride * i`` of
the input. Operators transform the triple (stride, low, high); where branches meet, fields unite.
These are the *nominal* fields of `inspect`; what a cell really looks at is measured (`projection`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Axis:
    """Receptive field along one axis, in pixels of the model's input.

    Attributes
    ----------
    stride : int
        Pixels from the field of one cell to that of the next.
    low, high : int
        First and last pixel of the field of cell 0; outside the input where padding is seen.
    """

    stride: int = 1
    low: int = 0
    high: int = 0

    def slide(self, kernel: int, stride: int, dilation: int, pad_begin: int) -> "Axis":
        """The field after a sliding window (convolution or pooling), whose settings are counted in cells."""
        low = self.low - pad_begin * self.stride
        high = self.high + ((kernel - 1) * dilation - pad_begin) * self.stride
        return Axis(self.stride * stride, low, high)

    @property
    def size(self) -> int:
        """Pixels in the field of one cell."""
        return self.high - self.low + 1


@dataclass(frozen=True)
class Field:
    """Receptive field of the cells of a tensor.

    Attributes
    ----------
    rows, cols : Axis
        One per axis.
    everything : bool
        Whether a global operator (pooling, attention) lets every cell see the whole input.
    """

    rows: Axis = Axis()
    cols: Axis = Axis()
    everything: bool = False

    @property
    def stride(self) -> tuple[int, int]:
        """Pixels from one cell to the next, (rows, columns)."""
        return self.rows.stride, self.cols.stride

    def size(self, input_size: tuple[int, int]) -> tuple[int, int]:
        """Pixels in the field, (rows, columns), never more than the input has.

        Parameters
        ----------
        input_size : (int, int)
            Height and width of the model's input in pixels.

        Returns
        -------
        (int, int)
        """
        if self.everything:
            return input_size
        return min(self.rows.size, input_size[0]), min(self.cols.size, input_size[1])


def slide(
    field: Field,
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads_begin: Sequence[int],
) -> Field:
    """The field after a two-dimensional sliding window.

    Parameters
    ----------
    field : Field
        Of the cells that the window reads.
    kernel : sequence of int
        One per axis (rows, columns), in cells, as in `Axis.slide`; so are the others.
    strides : sequence of int
        Cells from window to window.
    dilations : sequence of int
        Cells from one that is read to the next.
    pads_begin : sequence of int
        Cells of padding above and on the left.

    Returns
    -------
    Field
    """
    rows, cols = (
        axis.slide(*settings)
        for axis, settings in zip(
            (field.rows, field.cols), zip(kernel, strides, dilations, pads_begin, strict=True), strict=True
        )
    )
    return Field(rows, cols, field.everything)


# Of a value that is the same in every cell: a gate spread over the grid.
EVERYWHERE = Field(Axis(0, 0, 0), Axis(0, 0, 0), everything=True)


def merge(fields: Sequence[Field | None]) -> Field | None:
    """The field of a cell that several branches feed; None where one is unknown or strides disagree.

    Parameters
    ----------
    fields : sequence of (Field or None)
        One per branch; None where it is unknown.

    Returns
    -------
    Field or None
        From the lowest to the highest pixel that any branch sees.
    """
    if EVERYWHERE in fields and (cells := [field for field in fields if field != EVERYWHERE]):
        field = merge(cells)
        return replace(field, everything=True) if field is not None else None
    known = [field for field in fields if field is not None]
    if not known or len(known) < len(fields) or len({field.stride for field in known}) > 1:
        return None
    rows, cols = (
        Axis(axes[0].stride, min(axis.low for axis in axes), max(axis.high for axis in axes))
        for axes in ([field.rows for field in known], [field.cols for field in known])
    )
    return Field(rows, cols, any(field.everything for field in known))
