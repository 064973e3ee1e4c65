"""Layouts where values are moved: reshaped, transposed, taken out, put beside each other."""

from dataclasses import replace
from math import prod

import numpy as np

from onnx_evidence.axes.meeting import shared_axes, together
from onnx_evidence.axes.mixing import resized
from onnx_evidence.axes.reading import Reading
from onnx_evidence.graphs import (
    BATCH,
    COLUMNS,
    ROWS,
    TOKENS,
    Axis,
    Layout,
    Part,
    attributes_of,
    channels,
    is_placed,
    merged,
    regrouped,
    slide,
)
from onnx_evidence.types import AnyArray


def same(reading: Reading) -> Layout | None:
    """Operators that leave every value in its place."""
    return reading.first


def reshape(reading: Reading) -> Layout | None:
    """Reshape and Flatten: other groups of the same parts."""
    layout = reading.first
    found = None if layout is None else regrouped(layout, reading.result)
    if found is None or found.flattened or (grid := found.grid) is None:
        return found
    rows, cols = (part.side for part in grid)
    lined = any([part.side for part in axis] == [rows, cols] and is_placed(axis) for axis in found.axes)
    words = f"{reading.node.op_type} at {reading.output!r} flattened a {rows} x {cols} grid"
    return replace(found, flattened=words) if lined else found


def squeeze(reading: Reading) -> Layout | None:
    """Squeeze and Unsqueeze: the axes of length 1 that they name."""
    layout, given = reading.first, reading.numbers("axes", 1)
    if layout is None or given is None:
        return None if layout is None else regrouped(layout, reading.result)
    if reading.node.op_type == "Unsqueeze":
        places = {axis % len(reading.result) for axis in given}
        axes = iter(layout.axes)
        return layout.with_axes(() if place in places else next(axes) for place in range(len(reading.result)))
    places = {axis % len(layout.axes) for axis in given}
    return layout.with_axes(axis for place, axis in enumerate(layout.axes) if place not in places)


def transpose(reading: Reading) -> Layout | None:
    """Transpose: the axes in another order."""
    layout = reading.first
    if layout is None:
        return None
    order = attributes_of(reading.node).get("perm", range(len(layout.axes))[::-1])
    return layout.with_axes(layout.axes[axis] for axis in order)


def concat(reading: Reading) -> Layout | None:
    """Concat: along channels, or of tokens that are cells and others that are none."""
    place = reading.flag("axis", 0) % max(len(reading.result), 1)
    layouts = [None if layout is None else layout.settled() for layout in map(reading.layouts.get, reading.data)]
    known = [layout for layout in layouts if layout is not None]
    if len(known) < len(layouts):
        return None
    common = shared_axes([each.with_axes(_replaced(each.axes, place, ())) for each in known])
    if common is None:
        return None
    along = [each.axes[place] for each in known]
    if any(part.kind == BATCH for axis in along for part in axis):
        return None
    if not any(is_placed(axis) for axis in along):
        return together(known, _replaced(common, place, channels(reading.result[place] or 1)))
    return _beside(reading, known, common, place)


def _beside(reading: Reading, known: list[Layout], common: tuple[Axis, ...], place: int) -> Layout | None:
    """Tokens put before and behind those that are cells."""
    layouts = iter(known)
    axes = [next(layouts).axes[place] if name in reading.data else () for name in reading.node.input]
    sides = [reading.shape(index)[place] or 1 for index in range(len(axes))]
    middle = [index for index, axis in enumerate(axes) if is_placed(axis)]
    owner = next(layout for layout in known if is_placed(layout.axes[place]))
    if len(middle) != 1:
        return None
    axis = axes[middle[0]]
    whole = merged([Part(ROWS, owner.extent[0]), Part(COLUMNS, owner.extent[1])])
    if axis != whole and axis[0].kind != TOKENS:
        return None
    old = axis[0] if axis[0].kind == TOKENS else Part(TOKENS, prod(owner.extent))
    front, behind = sum(sides[: middle[0]]), sum(sides[middle[0] + 1 :])
    new = old._replace(side=sum(sides), before=old.before + front, after=old.after + behind)
    where = " and ".join(f"{n} {side}" for n, side in ((front, "before"), (behind, "behind")) if n)
    words = f"Concat at {reading.output!r} put {where} them"
    extended = f"{owner.extended}, {words}" if owner.extended else words
    return replace(owner, axes=_replaced(common, place, (new,)), extended=extended)


def slice_(reading: Reading) -> Layout | None:
    """Slice: parts of axes, one after the other."""
    layout = reading.first
    starts, ends = reading.numbers("starts", 1), reading.numbers("ends", 2)
    if layout is None or starts is None or ends is None:
        return None
    given, steps = reading.numbers("axes", 3), reading.numbers("steps", 4)
    if (len(reading.node.input) > 3 and given is None) or (len(reading.node.input) > 4 and steps is None):
        return None
    layout = layout.settled()
    for place, start, end, step in zip(
        given or range(len(starts)), starts, ends, steps or [1] * len(starts), strict=True
    ):
        axis = place % len(layout.axes)
        found = range(prod(part.side for part in layout.axes[axis]))[slice(start, end, step)]
        if any(part.kind == BATCH for part in layout.axes[axis]):
            if (start, step) != (0, 1):
                return None
            continue
        taken = _taken(layout, axis, found)
        if taken is None:
            return None
        layout = taken
    return layout


def split(reading: Reading) -> Layout | None:
    """Split: one part after the other."""
    layout, place = reading.first, reading.axis(0)
    outputs = list(reading.node.output)
    sides = [reading.shapes.get(name, ())[place : place + 1] for name in outputs]
    if layout is None or not all(sides) or any(part.kind == BATCH for part in layout.axes[place]):
        return None
    lengths = [side[0] or 1 for side in sides]
    number = outputs.index(reading.output)
    start = sum(lengths[:number])
    return _taken(layout.settled(), place, range(start, start + lengths[number]))


def gather(reading: Reading) -> Layout | None:
    """Gather with constant indices: one of an axis, or several, or all of them as patches."""
    layout, place = reading.first, reading.axis(0)
    indices = reading.values(reading.node.input[1])
    if layout is None or indices is None:
        return None
    if indices.ndim > 1:
        axes = _unfolded(layout, place, indices)
        return None if axes is None else layout.with_axes((*layout.axes[:place], *axes, *layout.axes[place + 1 :]))
    layout = layout.settled()
    if any(part.kind == BATCH for part in layout.axes[place]) or not indices.size:
        return None
    side = prod(part.side for part in layout.axes[place])
    numbers = [int(each) % side for each in indices.reshape(-1)]
    run = range(numbers[0], numbers[0] + len(numbers))
    if list(run) != numbers:
        if is_placed(layout.axes[place]):
            return None
        return layout.with_axes(_replaced(layout.axes, place, channels(len(numbers))))
    taken = _taken(layout, place, run)
    if taken is None or indices.ndim == 1:
        return taken
    return taken.with_axes(axis for number, axis in enumerate(taken.axes) if number != place)


def _unfolded(layout: Layout, place: int, indices: AnyArray) -> tuple[Axis, ...] | None:
    """What an axis becomes where each of its steps is taken once, as by a reshape and a transpose.

    So exporters write the unfolding of an image into patches that do not overlap.
    """
    axis, sides = layout.axes[place], indices.shape
    if any(part.kind == BATCH for part in axis) or indices.size != prod(part.side for part in axis):
        return None
    strides = [int(np.take(indices, 1, number).flat[0]) if side > 1 else 0 for number, side in enumerate(sides)]
    order = sorted(range(len(sides)), key=lambda number: -strides[number])
    turned = np.arange(indices.size).reshape([sides[number] for number in order]).transpose(np.argsort(order))
    if not np.array_equal(turned, indices % indices.size):
        return None
    found = regrouped(layout.with_axes((axis,)), tuple(sides[number] for number in order))
    return None if found is None else tuple(found.axes[order.index(number)] for number in range(len(sides)))


def _taken(layout: Layout, place: int, found: range) -> Layout | None:
    """The layout of some steps of one axis."""
    axis = layout.axes[place]
    if len(found) == prod(part.side for part in axis) and found.step == 1:
        return layout
    if not is_placed(axis):
        return layout.with_axes(_replaced(layout.axes, place, channels(len(found))))
    if axis[0].kind == TOKENS:
        tokens = _tokens(layout, axis[0], found)
        return None if tokens is None else layout.with_axes(_replaced(layout.axes, place, tokens))
    shape = tuple(
        len(found) if number == place else prod(p.side for p in each) for number, each in enumerate(layout.axes)
    )
    field = layout.field
    if field is not None and axis[0].kind in (ROWS, COLUMNS):
        first, stride = [0, 0], [1, 1]
        first[axis[0].kind == COLUMNS], stride[axis[0].kind == COLUMNS] = -found.start, found.step
        field = slide(field, (1, 1), stride, (1, 1), first) if found.step > 0 else None
    return resized(layout, shape, field)


def _tokens(layout: Layout, part: Part, found: range) -> Axis | None:
    """Some of the tokens: those that are no cells, or all that are, maybe with others."""
    first, stop = part.before, part.side - part.after
    if found.step != 1:
        return None
    if found.stop <= first or found.start >= stop:
        return channels(len(found))
    if found.start > first or found.stop < stop:
        return None
    if (found.start, found.stop) == (first, stop):
        return merged([Part(ROWS, layout.extent[0]), Part(COLUMNS, layout.extent[1])])
    return (part._replace(side=len(found), before=first - found.start, after=found.stop - stop),)


def _replaced(axes: tuple[Axis, ...], place: int, axis: Axis) -> tuple[Axis, ...]:
    return (*axes[:place], axis, *axes[place + 1 :])
