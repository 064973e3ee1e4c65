"""Rules of operators that read a picture between its cells: GridSample and DeformConv.

Each reads four cells around a place, by the share that each has in it; cotangents go back to these cells by the same
shares, and to the place by how the shares change with it.
"""

from dataclasses import dataclass
from math import prod

import numpy as np
from onnx import TensorProto

from onnx_evidence.errors import GradientError
from onnx_evidence.vjp.elementwise import Rule
from onnx_evidence.vjp.indexing import scattered
from onnx_evidence.vjp.step import Step
from onnx_evidence.vjp.tape import Value


@dataclass(frozen=True)
class Corner:
    """One of the cells around places.

    Attributes
    ----------
    index : Value
        Of the cell in a row of all (N, 1, places), int64; of some cell of the picture where it lies outside.
    inside : Value
        (N, 1, places): 1 where it lies in the picture, 0 elsewhere.
    shares : (Value, Value)
        Along rows and columns, (N, 1, places).
    signs : (float, float)
        Of the change of these shares with the place.
    """

    index: Value
    inside: Value
    shares: tuple[Value, Value]
    signs: tuple[float, float]


def _corners(rows: Value, cols: Value, height: int, width: int) -> list[Corner]:
    """The four cells around places, given in cells (N, 1, places)."""
    low, high = [], []
    for place in (rows, cols):
        floor = place.op("Floor")
        low.append((floor, 1 - (place - floor), -1.0))
        high.append((floor + 1, place - floor, 1.0))
    found = []
    for row in (low[0], high[0]):
        for col in (low[1], high[1]):
            index, inside = _cell(row[0], col[0], height, width)
            found.append(Corner(index, inside, (row[1], col[1]), (row[2], col[2])))
    return found


def _cell(row: Value, col: Value, height: int, width: int) -> tuple[Value, Value]:
    """The number of a cell, and whether it is one."""
    near = [_clipped(each, side) for each, side in ((row, height), (col, width))]
    same = [each.op("Equal", kept, elem_type=TensorProto.BOOL) for each, kept in zip((row, col), near, strict=True)]
    inside = same[0].op("And", same[1], elem_type=TensorProto.BOOL).cast(row.elem_type)
    whole = [each.cast(TensorProto.INT64) for each in near]
    return whole[0] * row.tape.constant(np.array(width, np.int64)) + whole[1], inside


def _clipped(place: Value, side: int) -> Value:
    return place.op("Clip", place.number(0.0), place.number(side - 1.0))


def _back_to_cells(zeros: Value, corners: list[Corner], g: Value) -> Value:
    """Cotangents (N, channels, places) of what was read, added up in rows of cells like ``zeros``."""
    total = zeros
    for corner in corners:
        share = g * (corner.shares[0] * corner.shares[1] * corner.inside)
        total = total + scattered(zeros, corner.index.expand_like(share), share, 2)
    return total


def _back_to_places(cells: Value, corners: list[Corner], g: Value) -> list[Value]:
    """Cotangents (N, 1, places) of rows and columns of the places."""
    slopes = []
    for corner in corners:
        read = cells.op("GatherElements", corner.index.expand_like(g), axis=2)
        slopes.append((g * read).reduce("Sum", [1]) * corner.inside)
    return [
        _sum(
            [
                slope * corner.shares[1 - axis] * corner.signs[axis]
                for slope, corner in zip(slopes, corners, strict=True)
            ]
        )
        for axis in (0, 1)
    ]


def _sum(values: list[Value]) -> Value:
    return values[0].op("Sum", *values[1:])


def _read(cells: Value, corners: list[Corner], like: Value) -> Value:
    """What is read of rows of cells, (N, channels, places)."""
    parts = []
    for corner in corners:
        read = cells.op("GatherElements", corner.index.expand_like(like), axis=2)
        parts.append(read * (corner.shares[0] * corner.shares[1] * corner.inside))
    return _sum(parts)


def grid_sample(step: Step) -> list[Value | None]:
    """GridSample of pictures, bilinear or nearest."""
    if len(step.shape()) != 4:
        raise GradientError("GridSample of volumes has no rule")
    mode = step.attribute("mode", "bilinear")
    if mode not in ("bilinear", "linear", "nearest"):
        raise GradientError(f"GridSample in mode {mode!r} has no rule")
    channels, height, width = (step.side(axis) for axis in (1, 2, 3))
    grid = step.input(1).cast(step.x.elem_type)
    # In the grid columns come first.
    placed = [_in_cells(step, grid, axis, side) for axis, side in ((1, height), (0, width))]
    (rows, row_slope), (cols, col_slope) = placed
    if mode == "nearest":
        index, inside = _cell(rows.op("Round"), cols.op("Round"), height, width)
        one = inside * 0.0 + 1.0
        corners = [Corner(index, inside, (one, one), (0.0, 0.0))]
    else:
        corners = _corners(rows, cols, height, width)
    cells = step.x.reshape(-1, channels, height * width)
    g = step.g.reshape(-1, channels, prod(side or 1 for side in step.result_shape[2:]))
    back = _back_to_cells(cells * 0.0, corners, g).reshape_like(step.x) if step.wanted[0] else None
    if not step.wanted[1] or mode == "nearest":
        return [back, None]
    down, across = _back_to_places(cells, corners, g)
    pair = (across * col_slope).op("Concat", down * row_slope, axis=1)
    return [back, pair.transpose(0, 2, 1).reshape_like(step.input(1)).cast(step.input(1).elem_type)]


def _in_cells(step: Step, grid: Value, axis: int, side: int) -> tuple[Value, Value]:
    """Places along rows or columns in cells (N, 1, places), and by how much they change with the grid."""
    turned = grid.op("Reshape", step.tape.integers(0, -1, 2)).transpose(0, 2, 1)
    normal = turned.slice([axis], [axis + 1], [1])
    corners = step.attribute("align_corners", 0)
    factor = (side - 1) / 2 if corners else side / 2
    place = normal * factor + (side - 1) / 2
    slope = normal * 0.0 + factor
    how = step.attribute("padding_mode", "zeros")
    if how == "reflection":
        place, sign = _reflected(place, 0.0 if corners else -0.5, side - 1.0 if corners else side - 0.5)
        slope = slope * sign
    if how != "zeros":
        kept = _clipped(place, side)
        slope = slope * kept.op("Equal", place, elem_type=TensorProto.BOOL).cast(place.elem_type)
        place = kept
    return place, slope


def _reflected(place: Value, low: float, high: float) -> tuple[Value, Value]:
    """Places folded back between two bounds, and the sign of how they change."""
    if high <= low:
        return place * 0.0, place * 0.0
    far = (place - low).op("Abs")
    turns = (far / (high - low)).op("Floor")
    rest = far - turns * (high - low)
    odd = turns.op("Mod", turns.number(2.0), fmod=1)
    sign = (1 - odd * 2.0) * (place - low).op("Sign")
    return (1 - odd) * rest + odd * ((high - low) - rest) + low, sign


def deformable_convolution(step: Step) -> list[Value | None]:
    """DeformConv: a convolution that reads at places of its own, maybe with a mask; gradients for all three.

    Groups of channels that share places are put into the batch, and taps beside cells, so that all of it is read at
    once.
    """
    if step.wanted[1] or (step.has(3) and step.wanted[3]):
        raise GradientError("the weights of DeformConv depend on the picture")
    kernel = [step.side(axis, 1) for axis in (2, 3)]
    groups, taps = step.attribute("offset_group", 1), prod(kernel)
    channels, height, width = (step.side(axis) for axis in (1, 2, 3))
    results = [side or 1 for side in step.result_shape[2:]]
    columns = _columns(step, taps).reshape(-1, channels // groups, taps * prod(results))
    offsets = step.input(2).reshape(-1, taps, 2, prod(results))
    rows, cols = (
        (offsets.slice([axis], [axis + 1], [2]).reshape(-1, taps, prod(results)) + places).reshape(
            -1, 1, taps * prod(results)
        )
        for axis, places in enumerate(_places(step, kernel, results, offsets))
    )
    corners = _corners(rows, cols, height, width)
    cells = step.x.reshape(-1, channels // groups, height * width)
    read, mask = columns, None
    if step.has(4):
        mask = step.input(4).reshape(-1, 1, taps * prod(results))
        read = columns * mask
    found: list[Value | None] = [None] * len(step.node.input)
    if step.wanted[0]:
        found[0] = _back_to_cells(cells * 0.0, corners, read).reshape_like(step.x)
    if step.wanted[2]:
        moved = [each.reshape(-1, taps, 1, prod(results)) for each in _back_to_places(cells, corners, read)]
        found[2] = moved[0].op("Concat", moved[1], axis=2).reshape_like(step.input(2))
    if mask is not None and step.wanted[4]:
        found[4] = (columns * _read(cells, corners, columns)).reduce("Sum", [1]).reshape_like(step.input(4))
    return found


def _columns(step: Step, taps: int) -> Value:
    """Cotangents of what every tap read, (N, channels * taps, rows, columns)."""
    group, outer, inner = step.attribute("group", 1), step.side(0, 1), step.side(1, 1)
    weights = step.input(1).reshape(group, outer // group, inner * taps).transpose(0, 2, 1)
    return step.g.op("Conv", weights.reshape(group * inner * taps, outer // group, 1, 1), group=group)


def _places(step: Step, kernel: list[int], results: list[int], like: Value) -> list[Value]:
    """Rows and columns that every tap reads where nothing is moved, (taps, cells of the result)."""
    strides, dilations = (step.attribute(name, [1, 1]) for name in ("strides", "dilations"))
    pads = step.attribute("pads", [0] * 4)
    taps = np.indices(kernel).reshape(2, -1, 1)
    cells = np.indices(results).reshape(2, 1, -1)
    return [
        like.typed((cells[axis] * strides[axis] - pads[axis] + taps[axis] * dilations[axis]).astype(np.float64))
        for axis in (0, 1)
    ]


RULES: dict[str, Rule] = {"GridSample": grid_sample, "DeformConv": deformable_convolution}
