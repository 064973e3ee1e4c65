"""Nodes that turn a cut's tensor into (N, channels, rows, columns) in float32, and back without loss.

Tokens that are no cells become channels of their own, the same in every cell; on the way back they are read in the
first cell.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import TensorProto, numpy_helper

from onnx_evidence.cuts.cells import Inside
from onnx_evidence.graphs import Net


class _Writer:
    """Writes a chain of nodes; names begin with that of the tensor.

    Slices and reshapes are in the form that operators have had since opset 10.
    """

    def __init__(self, net: Net, prefix: str) -> None:
        self.net, self.prefix, self.written = net, prefix, 0

    def op(self, op_type: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        name = output or self.net.fresh(f"{self.prefix}/{op_type.lower()}{self.written}")
        self.written += 1
        return self.net.write(op_type, inputs, name, **attributes)

    def numbers(self, *numbers: int) -> str:
        tensor = numpy_helper.from_array(np.array(numbers, np.int64))
        return self.op("Constant", value=tensor)

    def reshape(self, name: str, sides: Sequence[int], output: str | None = None) -> str:
        return self.op("Reshape", name, self.numbers(*sides), output=output)

    def slice(self, name: str, axis: int, start: int, stop: int) -> str:
        return self.op("Slice", name, self.numbers(start), self.numbers(stop), self.numbers(axis))

    def transpose(self, name: str, order: Sequence[int]) -> str:
        return name if list(order) == sorted(order) else self.op("Transpose", name, perm=list(order))


def arrange(net: Net, tensor: str, inside: Inside) -> str:
    """Write nodes from a cut's tensor to what is seen from outside, float32 (N, *`Inside.shape`), and name that."""
    writer = _Writer(net, f"{tensor}/out")
    name = tensor
    if inside.elem_type != TensorProto.FLOAT:
        name = writer.op("Cast", name, to=TensorProto.FLOAT)
    rows, cols = inside.grid
    name = writer.transpose(writer.reshape(name, inside.parts), inside.order)
    if not inside.kept:
        return writer.reshape(name, (-1, inside.channels, rows, cols))
    first, stop = inside.before, inside.before + rows * cols
    lined = writer.reshape(name, (-1, inside.channels, stop + inside.after))
    ends = [writer.slice(lined, 2, *bounds) for bounds in _bounds(inside)]
    joined = ends[0] if len(ends) == 1 else writer.op("Concat", *ends, axis=2)
    once = writer.reshape(writer.op("Transpose", joined, perm=[0, 2, 1]), (-1, inside.kept, 1, 1))
    everywhere = writer.op("Expand", once, writer.numbers(1, 1, rows, cols))
    cells = writer.reshape(writer.slice(lined, 2, first, stop), (-1, inside.channels, rows, cols))
    return writer.op("Concat", cells, everywhere, axis=1)


def _bounds(inside: Inside) -> list[tuple[int, int]]:
    """Where tokens that are no cells begin and end."""
    stop = inside.before + inside.grid[0] * inside.grid[1]
    bounds = [(0, inside.before), (stop, stop + inside.after)]
    return [each for each in bounds if each[1] > each[0]]


def restore(net: Net, features: str, tensor: str, inside: Inside) -> None:
    """Write nodes from what is seen from outside back to a cut's tensor, which the last of them makes."""
    writer = _Writer(net, f"{tensor}/in")
    name = features
    if inside.kept:
        name = _with_tokens(writer, features, inside)
    there = [inside.parts[place] for place in inside.order]
    back = [inside.order.index(place) for place in range(len(inside.order))]
    name = writer.transpose(writer.reshape(name, there), back)
    if inside.elem_type != TensorProto.FLOAT:
        name = writer.op("Cast", name, to=inside.elem_type)
    writer.reshape(name, inside.sides, output=tensor)


def _with_tokens(writer: _Writer, features: str, inside: Inside) -> str:
    rows, cols = inside.grid
    cells = writer.reshape(writer.slice(features, 1, 0, inside.channels), (-1, inside.channels, rows * cols))
    kept = writer.slice(features, 1, inside.channels, inside.channels + inside.kept)
    for axis in (2, 3):
        kept = writer.slice(kept, axis, 0, 1)
    extra = inside.before + inside.after
    ends = writer.op("Transpose", writer.reshape(kept, (-1, extra, inside.channels)), perm=[0, 2, 1])
    pieces = [cells]
    if inside.before:
        pieces.insert(0, writer.slice(ends, 2, 0, inside.before))
    if inside.after:
        pieces.append(writer.slice(ends, 2, inside.before, extra))
    return writer.op("Concat", *pieces, axis=2)
