"""Receptive fields by integer arithmetic on kernels, strides, dilations and pads.

The field of cell ``i`` of a tensor, along one axis, is the pixels ``low + stride * i .. high + stride * i`` of
the input. Operators transform the triple (stride, low, high); where branches meet, fields unite.
These are the *nominal* fields of `inspect`; what a cell really looks at is measured (`projection`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Axis:
    """Receptive field along one axis, in pixels of the model's input."""

    stride: int = 1
    low: int = 0
    high: int = 0

    def slide(self, kernel: int, stride: int, dilation: int, pad_begin: int) -> "Axis":
        """The field after a sliding window (convolution or pooling)."""
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
        """Pixels in the field, (rows, columns), never more than the input has."""
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
    """The field after a two-dimensional sliding window."""
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
    """The field of a cell that several branches feed; None where one is unknown or strides disagree."""
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
