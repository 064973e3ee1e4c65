"""Cuts, and how their cells lie in the tensor: which axes are channels, rows and columns, and which tokens are none.

From outside a cut is always (N, channels, rows, columns) in float32. `Inside` says what has to be transposed, reshaped
and cast for that; `parts` writes it into heads and tails.
"""

from dataclasses import dataclass, replace
from math import prod
from typing import NamedTuple

from onnx import TensorProto

from onnx_evidence.graphs import BATCH, CHANNELS, COLUMNS, ROWS, TOKENS, Field, Layout, Part, TensorInfo, merged

# Of a tensor that has channels, rows and columns in that order.
PLAIN_AXES = "as the input's"
# Values of these types are float32 without loss.
_FLOATS: dict[int, str] = {
    TensorProto.FLOAT: "float32",
    TensorProto.FLOAT16: "float16",
    TensorProto.BFLOAT16: "bfloat16",
}
HALF = frozenset({"float16", "bfloat16"})


@dataclass(frozen=True)
class Inside:
    """The axes of a cut's tensor.

    Attributes
    ----------
    sides : tuple of int
        Of the tensor; -1 for the axis that has the batch.
    parts : tuple of int
        Sides of the parts that its axes are made of, in the order of memory; -1 for the batch.
    order : tuple of int
        The parts in the order batch, channels, rows, columns (or tokens).
    channels : int
        Of one cell.
    grid : (int, int)
        Rows and columns.
    before, after : int
        Tokens before and behind the cells that are none.
    elem_type : int
        ONNX element type of the tensor.
    words : str
        All this for people, and how it is known.
    """

    sides: tuple[int, ...]
    parts: tuple[int, ...]
    order: tuple[int, ...]
    channels: int
    grid: tuple[int, int]
    before: int
    after: int
    elem_type: int
    words: str

    @property
    def kept(self) -> int:
        """Channels that hold tokens which are no cells: as many as a cell has for each of them."""
        return (self.before + self.after) * self.channels

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, rows, columns as seen from outside."""
        return self.channels + self.kept, *self.grid

    @property
    def is_plain(self) -> bool:
        """Whether the tensor is just what is seen from outside."""
        ordered = list(self.order) == sorted(self.order) and self.sides == (-1, *self.shape)
        return ordered and not self.kept and self.elem_type == TensorProto.FLOAT


@dataclass(frozen=True)
class Cut:
    """A place where the model can be split.

    Attributes
    ----------
    name : str
        The tensor.
    op_type : str
        The operator that makes it; 'Input' for the model's input.
    shape : (int, int, int)
        Channels, rows, columns, as features have them; the last `kept` channels hold tokens that are no cells.
    tail_share : float
        Share of the model's multiply-adds that the tail keeps, 0..1.
    field : Field or None
        Nominal receptive field; None where the operators before it defy the arithmetic.
    joins : bool
        Whether branches of the data meet here (a residual sum, a concatenation): the end of a block.
    skipped_by : str or None
        The output of an operator behind the cut whose stride steps over cells unread (a 1 x 1 convolution of
        stride 2 reads a quarter of them); None if every cell is read.
    inside : Inside or None
        How cells lie in the tensor, and how that is known; None for a tensor that is (channels, rows, columns) anyway.
    unread_by : str or None
        The output of an operator behind the cut that reads tokens which are no cells and none that are: what the cells
        hold cannot matter there; None if cells are read.
    lost_at : str or None
        Of the input alone: the first operator through which rows and columns cannot be followed, and its output.
    """

    name: str
    op_type: str
    shape: tuple[int, int, int]
    tail_share: float
    field: Field | None
    joins: bool = False
    skipped_by: str | None = None
    inside: Inside | None = None
    unread_by: str | None = None
    lost_at: str | None = None

    @property
    def kept(self) -> int:
        """Channels, the last ones, that hold tokens which are no cells: they are never removed."""
        return self.inside.kept if self.inside is not None else 0

    @property
    def cell_shape(self) -> tuple[int, int, int]:
        """Channels of a cell, rows, columns: `shape` without what is kept."""
        return self.shape[0] - self.kept, *self.grid

    @property
    def precision(self) -> str:
        """Of the tensor's values inside the model; features are float32."""
        return _FLOATS[self.inside.elem_type] if self.inside is not None else "float32"

    @property
    def axes(self) -> str:
        """What the tensor's axes mean, and how that is known."""
        return self.inside.words if self.inside is not None else ""

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of cells."""
        return self.shape[1:]


class Lost(NamedTuple):
    """What became of rows and columns behind the last cut.

    Attributes
    ----------
    tensor : str
        The first tensor that would be a cut.
    words : str
        Why it is none.
    """

    tensor: str
    words: str


def cells_inside(layout: Layout, info: TensorInfo) -> Inside | None:
    """How cells lie in a tensor; None where it has no grid of them, or its values are no floats that float32 holds."""
    layout = layout.settled()
    parts = merged(layout.parts)
    kinds = [part.kind for part in parts]
    tokens = [part for part in parts if part.kind == TOKENS]
    if (
        kinds.count(BATCH) != 1
        or info.elem_type not in _FLOATS
        or set(kinds) - {BATCH, CHANNELS, ROWS, COLUMNS, TOKENS}
    ):
        return None
    if [part.side for part in layout.grid or ()] != list(layout.extent) and (
        len(tokens) != 1 or {ROWS, COLUMNS} & set(kinds)
    ):
        return None
    order = sorted(range(len(parts)), key=lambda place: _rank(parts[place]))
    sides = tuple(
        -1 if any(part.kind == BATCH for part in axis) else prod(part.side for part in axis) for axis in layout.axes
    )
    extra = tokens[0] if tokens else Part(TOKENS, 0)
    found = Inside(
        sides=sides,
        parts=tuple(-1 if part.kind == BATCH else part.side for part in parts),
        order=tuple(order),
        channels=prod(part.side for part in parts if part.kind == CHANNELS),
        grid=layout.extent,
        before=extra.before,
        after=extra.after,
        elem_type=info.elem_type,
        words="",
    )
    return replace(found, words=_words(layout, found))


def _rank(part: Part) -> tuple[int, int]:
    """Batch, channels as they come, rows and columns from coarse to fine."""
    number = (BATCH, CHANNELS, ROWS, COLUMNS, TOKENS).index(part.kind)
    return number, -part.step if part.kind in (ROWS, COLUMNS) else 0


def _words(layout: Layout, inside: Inside) -> str:
    rows, cols = inside.grid
    tokens = inside.before + rows * cols + inside.after
    names = {BATCH: "batch", CHANNELS: "channels", ROWS: "rows", COLUMNS: "columns", TOKENS: "tokens"}
    axes = " x ".join(
        "tokens" if [part.side for part in axis] == [rows, cols] else "/".join(names[part.kind] for part in axis) or "1"
        for axis in layout.axes
    )
    axes = {"batch x channels x rows x columns": PLAIN_AXES}.get(axes, axes)
    known = [layout.added] if layout.added else []
    if "tokens" in axes:
        known = [each for each in (layout.flattened, layout.extended, layout.added) if each]
        axes = f"tokens {inside.before}..{tokens - inside.after - 1} of {tokens} -> {rows} x {cols}"
    half = f", {kind}" if (kind := _FLOATS[inside.elem_type]) in HALF else ""
    return f"{axes}{half}" + (f" ({'; '.join(known)})" if known else "")
