"""What the axes of a tensor mean: batch, channels, rows, columns, tokens, or parts of these.

Every axis is a list of parts, the slowest first: an axis of 196 tokens is 14 rows of 14 columns; an axis of 64
windows is 8 parts of rows and 8 of columns, 7 cells apart. Reshaping regroups parts in the order that they have,
transposing permutes axes, and nothing else is needed to follow windows, heads and patches through an exporter's
reshapes. Rows and columns are a grid where the parts at hand are all of them, without gaps.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import NamedTuple

from onnx_evidence.graphs.reach import Field, slide
from onnx_evidence.graphs.shapes import Shape

BATCH, CHANNELS, ROWS, COLUMNS = "N", "C", "R", "L"
# Cells with tokens before and behind them that are none (a class token, registers).
TOKENS = "E"
# The same value in every cell.
SPREAD = "S"
_PLACED = frozenset({ROWS, COLUMNS, TOKENS})


class Part(NamedTuple):
    """A part of an axis.

    Attributes
    ----------
    kind : str
        One of the constants above; whatever has no place counts as channels.
    side : int
        How many steps it has; of one picture, for the batch.
    step : int
        Rows (columns) from one to the next.
    before, after : int
        Tokens that are no cells, where the kind is `TOKENS`.
    """

    kind: str
    side: int
    step: int = 1
    before: int = 0
    after: int = 0


Axis = tuple[Part, ...]


@dataclass(frozen=True)
class Layout:
    """What the axes of one tensor mean, and how that is known.

    Attributes
    ----------
    axes : tuple of tuple of Part
        One per axis; sides of 1 have no parts.
    extent : (int, int)
        Rows and columns that there are in all.
    field : Field or None
        Nominal receptive field of the value in one row and column; None where it defies the arithmetic.
    flattened, extended, added : str
        In words, empty where it did not happen: where rows and columns became tokens; where other tokens were put
        beside them; where a branch was added whose axes are not known.
    """

    axes: tuple[Axis, ...]
    extent: tuple[int, int]
    field: Field | None
    flattened: str = ""
    extended: str = ""
    added: str = ""

    @property
    def parts(self) -> Axis:
        """All parts in the order of memory."""
        return tuple(part for axis in self.axes for part in axis)

    @property
    def grid(self) -> tuple[Part, Part] | None:
        """The parts that are all rows and all columns; None where there are not just these."""
        found = []
        for kind, extent in zip((ROWS, COLUMNS), self.extent, strict=True):
            parts = merged(sorted((part for part in self.parts if part.kind == kind), key=lambda part: -part.step))
            top = next((part for part in parts if part.side * part.step == extent), None)
            if top is None:
                return None
            found.append(top)
        return found[0], found[1]

    @property
    def is_placed(self) -> bool:
        """Whether anything of the grid is left."""
        return any(is_placed(axis) for axis in self.axes)

    @property
    def has_tokens(self) -> bool:
        """Whether there are tokens that are no cells beside those that are."""
        return any(part.kind == TOKENS for part in self.parts)

    def with_axes(self, axes: Iterable[Axis]) -> "Layout":
        """The same with other axes."""
        return replace(self, axes=tuple(axes))

    def with_field(self, field: Field | None) -> "Layout":
        """The same with another field."""
        return replace(self, field=field)

    def sees_everything(self) -> "Layout":
        """The same where every cell has seen all others."""
        return self.with_field(None if self.field is None else replace(self.field, everything=True))

    def settled(self, steps: tuple[int, int] | None = None) -> "Layout":
        """The same with rows and columns counted in cells: what lies inside a cell counts as channels.

        Parameters
        ----------
        steps : (int, int), optional
            Rows and columns of values in a cell; as few as can be told apart by default.

        Returns
        -------
        Layout
        """
        grid = self.grid
        rows, cols = steps or ((grid[0].step, grid[1].step) if grid else (1, 1))
        if (rows, cols) == (1, 1):
            return self

        def settle(part: Part) -> Part:
            step = {ROWS: rows, COLUMNS: cols}.get(part.kind)
            if step is None or (part.step >= step and part.step % step == 0):
                return part if step is None else part._replace(step=part.step // step)
            return Part(CHANNELS, part.side)

        axes = tuple(merged(settle(part) for part in axis) for axis in self.axes)
        field = self.field and slide(self.field, (rows, cols), (rows, cols), (1, 1), (0, 0))
        return replace(self, axes=axes, extent=(self.extent[0] // rows, self.extent[1] // cols), field=field)


def is_placed(axis: Axis) -> bool:
    """Whether an axis runs along rows or columns, or a part of them.

    Parameters
    ----------
    axis : tuple of Part
        The axis.

    Returns
    -------
    bool
    """
    return any(part.kind in _PLACED for part in axis)


def merged(parts: Iterable[Part]) -> Axis:
    """Parts with neighbours joined that are one in memory.

    Parameters
    ----------
    parts : iterable of Part
        The slowest first.

    Returns
    -------
    tuple of Part
        Sides of 1 are left out, but for the batch.
    """
    found: list[Part] = []
    for part in parts:
        if part.side == 1 and part.kind != BATCH:
            continue
        last = found[-1] if found else None
        alike = last is not None and last.kind == part.kind and part.kind not in (BATCH, TOKENS)
        if alike and last is not None and (part.kind in (CHANNELS, SPREAD) or last.step == part.side * part.step):
            found[-1] = part._replace(side=last.side * part.side)
        else:
            found.append(part)
    return tuple(found)


def sides_of(shape: Shape) -> list[int]:
    """Sides of one picture, from a shape as `infer` gives it: the batch counts as 1."""
    return [1 if side is None else side for side in shape]


def fits(layout: Layout, shape: Shape) -> bool:
    """Whether a layout has the sides of a shape, and the batch where it is free.

    Parameters
    ----------
    layout : Layout
        Claimed.
    shape : tuple of (int or None)
        Of the tensor.

    Returns
    -------
    bool
    """
    sides = [prod(part.side for part in axis) for axis in layout.axes]
    free = not shape or shape[0] is not None or (bool(layout.axes) and [p.kind for p in layout.axes[0]] == [BATCH])
    return sides == sides_of(shape) and free


def regrouped(layout: Layout, shape: Shape) -> Layout | None:
    """The layout after a reshape: the same parts in the same order, in other groups.

    Parameters
    ----------
    layout : Layout
        Before.
    shape : tuple of (int or None)
        After.

    Returns
    -------
    Layout or None
        None where an axis would cut a part in two that cannot be cut.
    """
    waiting = list(merged(layout.parts))
    axes: list[Axis] = []
    sides = sides_of(shape)
    for place, side in enumerate(sides):
        axis = _fill(waiting, side, alone=shape[place] is None)
        if axis is None:
            return None
        if len(waiting) > 1 and waiting[0].kind == BATCH and sides[place + 1 : place + 2] == [waiting[1].side]:
            axis += (waiting.pop(0),)  # the axis behind it stays as it was
        axes.append(axis)
    return None if waiting else layout.with_axes(axes)


def _fill(waiting: list[Part], need: int, *, alone: bool) -> Axis | None:
    """Take the parts of one axis off the front; the batch goes with what comes behind it."""
    taken: list[Part] = []
    if waiting and waiting[0].kind == BATCH:
        taken.append(waiting.pop(0))
        if alone:
            return tuple(taken)
    while need > 1:
        if not waiting:
            return None
        part = waiting.pop(0)
        if need % part.side == 0:
            taken.append(part)
            need //= part.side
        elif part.side % need == 0 and part.kind != TOKENS:
            inner = part.side // need
            taken.append(part._replace(side=need, step=part.step * (1 if part.kind in (CHANNELS, SPREAD) else inner)))
            waiting.insert(0, part._replace(side=inner))
            need = 1
        else:
            return None
    return merged(taken)


def agreed(one: Axis, other: Axis) -> Axis | None:
    """What an axis means where values of two tensors meet on it; None where they contradict each other.

    Parameters
    ----------
    one, other : tuple of Part
        The axis in each of them.

    Returns
    -------
    tuple of Part or None
    """
    if one == other or not other:
        return one
    if not one:
        return other
    if not is_placed(one) and not is_placed(other) and _kinds(one) == _kinds(other):
        return one
    for axis, against in ((one, other), (other, one)):
        if all(part.kind == SPREAD for part in axis) and _size(axis) == _size(against):
            return against
    # A token axis that was put together twice.
    return one if [part[:2] for part in one] == [part[:2] for part in other] == [(TOKENS, _size(one))] else None


def _size(axis: Axis) -> int:
    return prod(part.side for part in axis)


def _kinds(axis: Axis) -> tuple[bool, int]:
    return any(part.kind == BATCH for part in axis), _size(axis)


def channels(side: int, kind: str = CHANNELS) -> Axis:
    """An axis without place.

    Parameters
    ----------
    side : int
        Its length.
    kind : str
        `CHANNELS` or `SPREAD`.

    Returns
    -------
    tuple of Part
    """
    return merged([Part(kind, side)])


def image_layout(shape: Sequence[int]) -> Layout:
    """The layout of the model's input.

    Parameters
    ----------
    shape : (int, int, int)
        Channels, height, width.

    Returns
    -------
    Layout
    """
    colours, rows, cols = shape
    axes = ((Part(BATCH, 1),), channels(colours), merged([Part(ROWS, rows)]), merged([Part(COLUMNS, cols)]))
    return Layout(axes, (rows, cols), Field())
