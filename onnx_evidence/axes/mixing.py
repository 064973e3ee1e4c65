"""Layouts where values are summed: over neighbours, channels, tokens, or everything."""

from dataclasses import replace
from math import prod

from onnx_evidence.axes.meeting import shared_axes
from onnx_evidence.axes.reading import Reading
from onnx_evidence.graphs import (
    BATCH,
    COLUMNS,
    CONVOLUTIONS,
    ROWS,
    SPREAD,
    Axis,
    Field,
    Layout,
    Part,
    Shape,
    attributes_of,
    channels,
    is_placed,
    kernel_of,
    merged,
    slid,
)
from onnx_evidence.graphs import slide as field_after


def normal(reading: Reading) -> Layout | None:
    """Statistics over channels are of the cell alone; over cells they let it see all others."""
    layout = reading.first
    if layout is None:
        return None
    over = layout.axes[1:]
    if reading.node.op_type in ("LayerNormalization", "RMSNormalization"):
        over = layout.axes[reading.axis(-1) :]
    elif reading.node.op_type in ("Softmax", "LogSoftmax", "Hardmax", "LpNormalization"):
        over = layout.axes[reading.axis(-1) : reading.axis(-1) + 1]
    elif reading.node.op_type == "MeanVarianceNormalization":
        over = tuple(layout.axes[axis] for axis in reading.numbers("axes", 1) or (0, 2, 3))
    return layout.sees_everything() if any(is_placed(axis) for axis in over) else layout


def slide(reading: Reading) -> Layout | None:
    """A convolution or a pool: along rows and columns, or with a kernel of 1 along whatever there is."""
    layout = reading.first
    if layout is None or len(layout.axes) < 3 or len(reading.result) != len(layout.axes):
        return None
    pointwise = set(kernel_of(reading.node, reading.shapes)) == {1} and reading.shape()[2:] == reading.result[2:]
    if not pointwise or is_placed(layout.axes[1]):
        layout = _in_cells(layout)
    batch, mixed, *placed = layout.axes
    if is_placed(mixed):
        return None
    if reading.node.op_type in CONVOLUTIONS:
        mixed = channels(reading.result[1] or 1)
    if pointwise:
        return layout.with_axes((batch, mixed, *placed))
    if is_placed(batch):
        return _inside_windows(layout.with_axes((batch, mixed, *placed)), reading.result)
    if not _is_picture(layout):
        return None
    field = layout.field and slid(reading.node, layout.field, reading.shape(), reading.shapes)
    return _picture(layout, batch, mixed, reading.result, field)


def rearrange(reading: Reading) -> Layout | None:
    """DepthToSpace, SpaceToDepth, DeformConv: rows stay rows and columns columns, of other numbers."""
    layout = reading.first
    if layout is None or not _is_picture(layout := _in_cells(layout)):
        return None
    return _picture(layout, layout.axes[0], channels(reading.result[1] or 1), reading.result, None)


def accumulate(reading: Reading) -> Layout | None:
    """CumSum over what has no place."""
    layout, axis = reading.first, reading.values(reading.node.input[1])
    if layout is None or axis is None:
        return None
    summed = layout.axes[int(axis.reshape(-1)[0])]
    return None if is_placed(summed) or any(part.kind == BATCH for part in summed) else layout


def _inside_windows(layout: Layout, shape: Shape) -> Layout | None:
    """Windows that are pictures of a batch, each with fewer rows and columns; what they see is not followed."""
    axes, extent = list(layout.axes), list(layout.extent)
    for place, kind in ((2, ROWS), (3, COLUMNS)):
        before, after = prod(part.side for part in axes[place]), shape[place] or 1
        # A whole number of old rows to a new one, and windows one after the other.
        if len(shape) != 4 or axes[place] != (Part(kind, before),) or before % after:
            return None
        outer = [part for number, axis in enumerate(axes) for part in axis if part.kind == kind and number != place]
        if any(part.step % before for part in outer):
            return None
        axes = [
            tuple(
                part._replace(step=part.step // before * after) if part in outer and number != place else part
                for part in axis
            )
            for number, axis in enumerate(axes)
        ]
        axes[place] = merged([Part(kind, after)])
        extent[kind == COLUMNS] = extent[kind == COLUMNS] // before * after
    return replace(layout, axes=tuple(axes), extent=(extent[0], extent[1]), field=None)


def resample(reading: Reading) -> Layout | None:
    """Rows stay rows and columns columns, but where they are is not followed."""
    layout = reading.first
    if layout is None or len(reading.result) != len(layout.axes):
        return None
    same = reading.shape() == reading.result
    return resized(layout.settled(), reading.result, layout.field if same else None)


def pad(reading: Reading) -> Layout | None:
    """More rows or columns, or fewer where pads are negative; cells are as far apart as they were."""
    layout, pads = reading.first, reading.numbers("pads", 1)
    if layout is None or pads is None or len(reading.result) != len(layout.axes):
        return resample(reading)
    settled = layout.settled()
    given = reading.numbers("axes", 3) or range(len(layout.axes))
    begins = {axis % len(layout.axes): begin for axis, begin in zip(given, pads, strict=False)}
    shift = [0, 0]
    for place, axis in enumerate(settled.axes):
        if axis and axis[0].kind in (ROWS, COLUMNS):
            shift[axis[0].kind == COLUMNS] += begins.get(place, 0)
    field = settled.field and field_after(settled.field, (1, 1), (1, 1), (1, 1), shift)
    return resized(settled, reading.result, field)


def _in_cells(layout: Layout) -> Layout:
    """Settled so that rows and columns of the picture, the last two axes, are cells."""
    pairs = zip((ROWS, COLUMNS), layout.axes[-2:], strict=True)
    steps = [axis[-1].step if axis and axis[-1].kind == kind else 1 for kind, axis in pairs]
    return layout.settled((steps[0], steps[1]))


def _is_picture(layout: Layout) -> bool:
    """Whether the last two of four axes are all rows and all columns."""
    whole = [merged([Part(kind, side)]) for kind, side in zip((ROWS, COLUMNS), layout.extent, strict=True)]
    return len(layout.axes) == 4 and list(layout.axes[2:]) == whole


def _picture(layout: Layout, batch: Axis, mixed: Axis, shape: Shape, field: Field | None) -> Layout:
    rows, cols = shape[2] or 1, shape[3] or 1
    axes = (batch, mixed, merged([Part(ROWS, rows)]), merged([Part(COLUMNS, cols)]))
    return replace(layout, axes=axes, extent=(rows, cols), field=field)


def resized(layout: Layout, shape: Shape, field: Field | None) -> Layout | None:
    """A settled layout with other sides along channels, all rows or all columns; None where another would change."""
    axes, extent = [], list(layout.extent)
    for axis, side in zip(layout.axes, shape, strict=True):
        length = side or 1
        if prod(part.side for part in axis) == length:
            axes.append(axis)
        elif not axis:
            axes.append(channels(length, SPREAD))
        elif not is_placed(axis) and all(part.kind != BATCH for part in axis):
            axes.append(channels(length))
        elif axis in [(Part(ROWS, extent[0]),), (Part(COLUMNS, extent[1]),)]:
            extent[axis[0].kind == COLUMNS] = length
            axes.append(merged([Part(axis[0].kind, length)]))
        else:
            return None
    return replace(layout, axes=tuple(axes), extent=(extent[0], extent[1]), field=field)


def pool_all(reading: Reading) -> Layout | None:
    """Global pools: one cell."""
    layout = reading.first
    if layout is None:
        return None
    return layout.with_axes((*layout.axes[:2], *[()] * len(layout.axes[2:]))).sees_everything()


def reduce(reading: Reading) -> Layout | None:
    """Reductions over axes: over channels cell by cell, over cells to fewer of them."""
    layout = reading.first
    given = reading.numbers("axes", 1)
    if layout is None or (given is None and len(reading.node.input) > 1):
        return None
    axes = {axis % len(layout.axes) for axis in (given if given is not None else range(len(layout.axes)))}
    if any(part.kind == BATCH for axis in axes for part in layout.axes[axis]):
        return None
    if any(is_placed(layout.axes[axis]) for axis in axes):
        layout = layout.sees_everything()
    if reading.flag("keepdims", 1):
        return layout.with_axes(() if place in axes else axis for place, axis in enumerate(layout.axes))
    return layout.with_axes(axis for place, axis in enumerate(layout.axes) if place not in axes)


def product(reading: Reading) -> Layout | None:
    """A matrix product: of data and weights it mixes channels; of data and data it is attention."""
    names = list(reading.node.input[:2])
    layouts = [reading.layouts[name] for name in names if name in reading.layouts]
    rank = len(reading.result)
    found = [each for each in layouts if each is not None and len(each.axes) == rank >= 2]
    if len(found) < len(layouts) or not found:
        return None
    rows, cols = channels(reading.result[-2] or 1), channels(reading.result[-1] or 1)
    first, last = found[0], found[-1]
    if len(found) == 1:
        left = names[0] in reading.layouts
        summed = first.axes[-1 if left else -2]
        ends = (first.axes[-2], cols) if left else (rows, first.axes[-1])
        return _mixed(first, summed, (*first.axes[:-2], *ends))
    stacks = shared_axes([each.with_axes(each.axes[:-2]) for each in found])
    if stacks is None:
        return None
    # Whose tokens the result has: the queries', unless they have none.
    asking = is_placed(first.axes[-2]) or not is_placed(last.axes[-1])
    owner, ends = (first, (first.axes[-2], cols)) if asking else (last, (rows, last.axes[-1]))
    return _attending(owner, stacks).with_axes((*stacks, *ends))


def _attending(layout: Layout, stacks: tuple[Axis, ...]) -> Layout:
    """Within windows a cell sees its own window, which is not followed; else everything."""
    within = any(is_placed(axis) for axis in stacks)
    return layout.with_field(None) if within else layout.sees_everything()


def _mixed(layout: Layout, summed: Axis, axes: tuple[Axis, ...]) -> Layout | None:
    """Sums over one axis: over what lies inside a cell, or over cells."""
    if any(part.kind == BATCH for part in summed):
        return None
    mixed = layout.with_axes(axes)
    cells = {part.kind: part.step for part in mixed.grid or ()}
    over = any(is_placed((part,)) and part.step >= cells.get(part.kind, part.step) for part in summed)
    return mixed.sees_everything() if over else mixed


def gemm(reading: Reading) -> Layout | None:
    """Gemm of data and weights."""
    layout = reading.first
    constant = all(name not in reading.layouts for name in reading.node.input[1:])
    if layout is None or len(layout.axes) != 2 or reading.flag("transA", 0) or not constant:
        return None
    return _mixed(layout, layout.axes[1], (layout.axes[0], channels(reading.result[1] or 1)))


def einsum(reading: Reading) -> Layout | None:
    """Einsum of data and weights: letters that are left keep what they mean."""
    layout = reading.first
    equation = attributes_of(reading.node)["equation"].decode().replace(" ", "")
    terms, _, result = equation.partition("->")
    letters = terms.split(",")[0]
    if layout is None or "." in equation or not result or len(reading.data) != 1 or len(set(letters)) < len(letters):
        return None
    meaning = dict(zip(letters, layout.axes, strict=True))
    summed = tuple(part for letter in letters if letter not in result for part in meaning[letter])
    sides = zip(result, reading.result, strict=True)
    return _mixed(layout, summed, tuple(meaning.get(letter, channels(side or 1)) for letter, side in sides))


def attend(reading: Reading) -> Layout | None:
    """The operator Attention: queries look at all keys."""
    layout = reading.first
    if layout is None:
        return None
    found = _attending(layout, layout.axes[:-2])
    return found.with_axes((*layout.axes[:-1], channels(reading.result[-1] or 1)))
