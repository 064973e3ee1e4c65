"""Where the model's input lies in a decoded picture of any size, in a graph; and the way back for evidence.

As `preprocessing.geometry` and `pictures.placement` have it, with the same arithmetic in float64.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from onnx_evidence.preprocessing import Preprocess
from onnx_evidence.vjp import Tape, Value


@dataclass(frozen=True)
class Axis:
    """Rows or columns: how many the picture has, and resized, and where in that the input begins; int64 scalars."""

    before: Value
    after: Value
    corner: Value
    size: int

    @property
    def factor(self) -> Value:
        """Pixels of the resized picture per pixel of the picture."""
        return real(self.after) / real(self.before)

    @property
    def step(self) -> Value:
        """The reciprocal, as OpenCV has it; 1 / x is fused with products, and rounded otherwise."""
        return self.factor.op("Reciprocal")

    def places(self) -> Value:
        """The pixels of the resized picture that those of the input are, (size,); of padding the nearest."""
        return self._all().op("Max", self.corner.number(0)).op("Min", self.after - 1)

    def shows(self) -> Value:
        """Which pixels of the input show the picture, (size,); the others are padding."""
        places = self._all()
        return _both(places.op("Greater", places.number(-1), elem_type=TensorProto.BOOL), _less(places, self.after))

    def _all(self) -> Value:
        return self.corner + self.corner.tape.constant(np.arange(self.size))

    def shares(self) -> Value:
        """How much of every pixel of the input each of the picture covers, (before, size) in float64.

        As `pictures.spread_to_original` carries maps that add up.
        """
        tape = self.before.tape
        numbers = up_to(self.before)
        first, last = (real(each) * self.factor - real(self.corner) for each in (numbers, numbers + 1))
        inner = tape.constant(np.arange(self.size, dtype=np.float64)[None])
        starts = first.op("Unsqueeze", tape.integers(1)).op("Max", inner)
        ends = last.op("Unsqueeze", tape.integers(1)).op("Min", inner + 1.0)
        return (ends - starts).op("Max", inner.number(0.0))


def placed(picture: Value, preprocess: Preprocess) -> tuple[Axis, Axis]:
    """Rows and columns of a batch (N, height, width, 3)."""
    sides = picture.op("Shape", elem_type=TensorProto.INT64)
    before = [sides.op("Gather", _scalar(picture.tape, axis)) for axis in (1, 2)]
    after = _resized(before, preprocess)
    rows, cols = (
        Axis(side, resized, _corner(resized, crop, preprocess), crop)
        for side, resized, crop in zip(before, after, preprocess.size, strict=True)
    )
    return rows, cols


def to_picture(evidence: Value, rows: Axis, cols: Axis) -> Value:
    """Evidence (..., H, W) in bits per pixel of the picture; sums over regions are kept."""
    down, across = (each.shares().cast(TensorProto.FLOAT) for each in (rows, cols))
    return down.op("MatMul", evidence).op("MatMul", across.transpose(1, 0))


def real(value: Value) -> Value:
    """In float64."""
    return value.cast(TensorProto.DOUBLE)


def whole(value: Value) -> Value:
    """In int64, what is behind the point cut off."""
    return value.cast(TensorProto.INT64)


def up_to(end: Value) -> Value:
    """Whole numbers from 0 to before an int64 scalar."""
    return _scalar(end.tape, 0).op("Range", end, _scalar(end.tape, 1))


def _scalar(tape: Tape, number: int) -> Value:
    return tape.constant(np.array(number, np.int64))


def _less(one: Value, other: Value) -> Value:
    return one.op("Less", other, elem_type=TensorProto.BOOL)


def _both(one: Value, other: Value) -> Value:
    return one.op("And", other)


def _resized(before: Sequence[Value], preprocess: Preprocess) -> Sequence[Value]:
    """See `preprocessing.geometry`."""
    if preprocess.resize in ("crop", "none"):
        return before
    rows, cols = before
    height, width = (_scalar(rows.tape, side) for side in preprocess.target)
    if preprocess.resize == "stretch":
        return height, width
    if preprocess.resize == "long":
        ratio = (real(rows) / real(height)).op("Max", real(cols) / real(width))
        return [whole((real(side) / ratio).op("Round")).op("Max", side.number(1)) for side in before]
    shorter, longer = rows.op("Min", cols), rows.op("Max", cols)
    if preprocess.rounding == "nearest":
        scale = real(height) / real(shorter)
        return [whole((real(side) * scale).op("Round")).op("Max", side.number(1)) for side in before]
    other = height * longer / shorter
    tall = _less(cols, rows)
    return tall.op("Where", other, height, elem_type=TensorProto.INT64), tall.op(
        "Where", height, other, elem_type=TensorProto.INT64
    )


def _corner(side: Value, crop: int, preprocess: Preprocess) -> Value:
    if preprocess.anchor == "top-left":
        return side * 0
    half = real(side - crop) / 2.0
    if preprocess.rounding == "huggingface":
        return whole(half.op("Floor"))
    if preprocess.rounding == "torchvision":
        # Of padding the smaller half comes first.
        negative = _less(half, half.number(0.0))
        return whole(negative.op("Where", half.op("Ceil"), half.op("Round"), elem_type=TensorProto.DOUBLE))
    return whole(half.op("Round"))
