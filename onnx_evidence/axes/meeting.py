"""Layouts where values meet value by value, with broadcasting."""

from dataclasses import replace

from onnx_evidence.axes.reading import Reading
from onnx_evidence.graphs import SPREAD, Axis, Layout, Shape, agreed, channels, fits, is_placed, merge

_SUMS = frozenset({"Add", "Sum"})


def meet(reading: Reading) -> Layout | None:
    """Any operator that works value by value: values of one and the same cell meet."""
    known: list[Layout] = []
    lost: list[Shape | None] = []
    for name in reading.data:
        layout = reading.layouts[name]
        if layout is None:
            lost.append(reading.shapes.get(name))
        else:
            known.append(_lengthened(layout, len(reading.result)))
    known = alike(known)
    whole = [layout for layout in known if layout.is_placed and fits(layout, reading.result)]
    summed = reading.node.op_type in _SUMS
    axes = shared_axes(known)
    if axes is None and summed:
        axes, lost = shared_axes(whole), [*lost, reading.result]
    if axes is None:
        return None
    layout = together(known, axes)
    # A gate, one value for all cells, may come from anywhere. So may what is added to a whole grid in its own shape:
    # the sum is still where the grid was, which is how blocks that reorder cells inside end.
    for shape in lost:
        if summed and whole and shape == reading.result:
            layout = replace(layout, added=f"a branch is added cell by cell at {reading.output!r}", field=None)
        elif _is_gate(shape, layout):
            layout = layout.sees_everything()
        else:
            return None
    return widen(reading, layout)


def spread(reading: Reading) -> Layout | None:
    """Expand and Tile: copies along axes of length 1."""
    layout = reading.first
    return None if layout is None else widen(reading, _lengthened(layout, len(reading.result)))


def together(layouts: list[Layout], axes: tuple[Axis, ...]) -> Layout:
    """The layout of what tensors make together; one that has no place in the grid lets every cell see everything."""
    cells = [layout for layout in layouts if layout.is_placed] or layouts
    layout = replace(
        cells[0],
        axes=axes,
        field=merge([each.field for each in cells]),
        flattened=next((each.flattened for each in cells if each.flattened), ""),
        extended=next((each.extended for each in cells if each.extended), ""),
        added=next((each.added for each in cells if each.added), ""),
    )
    return layout.sees_everything() if len(cells) < len(layouts) else layout


def alike(layouts: list[Layout]) -> list[Layout]:
    """The same layouts, all counted in cells where some count in cells and others in what lies inside them."""
    extents = {layout.extent for layout in layouts if layout.is_placed}
    return layouts if len(extents) < 2 else [layout.settled() for layout in layouts]


def shared_axes(layouts: list[Layout]) -> tuple[Axis, ...] | None:
    """Axes that all layouts have, of as many each; None where two contradict each other, or there are none."""
    if not layouts or len({layout.extent for layout in layouts if layout.is_placed}) > 1:
        return None
    axes = list(layouts[0].axes)
    for layout in layouts[1:]:
        for place, axis in enumerate(layout.axes):
            common = agreed(axes[place], axis)
            if common is None:
                return None
            axes[place] = common
    return tuple(axes)


def widen(reading: Reading, layout: Layout) -> Layout:
    """The layout, of as many axes as the output, where constants made long axes of single values."""
    pairs = zip(layout.axes, reading.result, strict=False)
    return layout.with_axes(axis or channels(side or 1, SPREAD) for axis, side in pairs)


def _lengthened(layout: Layout, rank: int) -> Layout:
    return layout.with_axes(((),) * (rank - len(layout.axes)) + layout.axes)


def _is_gate(shape: Shape | None, layout: Layout) -> bool:
    """Whether a tensor has one value for all cells."""
    if shape is None or len(shape) > len(layout.axes):
        return False
    padded = (1,) * (len(layout.axes) - len(shape)) + tuple(shape)
    return all(side == 1 for side, axis in zip(padded, layout.axes, strict=True) if is_placed(axis))
