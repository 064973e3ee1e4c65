"""What is done to pictures in a graph: from the deployed file's own input to channels, rows and columns; blurring."""

import numpy as np
from onnx import TensorProto

from onnx_evidence.export.parts import Whole
from onnx_evidence.intake import Entry
from onnx_evidence.pictures import blur_reach
from onnx_evidence.types import FloatArray
from onnx_evidence.vjp import Value


def canonical(whole: Whole, name: str, entry: Entry, *, apart: bool) -> Value:
    """The file's input as float32 (N, channels, H, W); ``apart`` as a tensor of which no optimiser knows what it is."""
    given = Value(whole.tape, name, entry.elem_type)
    ordered = given.transpose(0, 3, 1, 2) if entry.layout == "NHWC" else given
    pictures = ordered.cast(TensorProto.FLOAT)
    return set_apart(pictures) if apart else pictures


def set_apart(values: Value) -> Value:
    """The same values as a tensor of which no optimiser knows what it is."""
    return values.op("Max", values)


def handed_over(pictures: Value, entry: Entry) -> Value:
    """The other way round: pictures (N, channels, H, W) as the file takes them; see `intake.as_file_takes_it`."""
    ordered = pictures.transpose(0, 2, 3, 1) if entry.layout == "NHWC" else pictures
    if entry.levels is not None:
        low, high = (ordered.number(float(level)) for level in entry.levels)
        ordered = ordered.op("Round").op("Max", low).op("Min", high)
    return ordered.cast(entry.elem_type)


def blurred(whole: Whole, pictures: Value, size: tuple[int, int], sigma: float) -> Value:
    """Pictures (..., H, W), blurred as `pictures.blur` does: rows and columns each by a matrix, in float64."""
    exact = pictures.cast(TensorProto.DOUBLE)
    rows, cols = (_blurring(whole, side, sigma) for side in size)
    return (
        rows.op("MatMul", exact, elem_type=TensorProto.DOUBLE)
        .op("MatMul", cols.transpose(1, 0))
        .cast(TensorProto.FLOAT)
    )


def _blurring(whole: Whole, side: int, sigma: float) -> Value:
    """The matrix (side, side) that blurs a column of pixels, which is mirrored at its ends without being doubled.

    It is written as nodes that runtimes compute when they load the model: of all its numbers few are different.
    """
    tape = whole.tape
    taps = kernel(sigma)
    reach = len(taps) - 1
    table = tape.constant(np.append(taps, 0.0))
    down, across = (tape.constant(np.arange(side).reshape(shape)) for shape in ((-1, 1), (1, -1)))

    def at(distance: Value) -> Value:
        near = distance.op("Abs").op("Min", tape.integers(reach + 1))
        return table.op("Gather", near)

    inner = np.arange(side)[None]
    here = at(down - across)
    # Behind an end the pixel next to it comes first.
    before = at(down + across) * tape.constant((inner > 0).astype(np.float64))
    behind = at(down + across - tape.integers(2 * (side - 1))) * tape.constant((inner < side - 1).astype(np.float64))
    return here + before + behind


def kernel(sigma: float) -> FloatArray:
    """Weights of a pixel and of those ever further away; with both sides they add up to 1."""
    weights = np.exp(-0.5 * (np.arange(blur_reach(sigma) + 1) / sigma) ** 2)
    found: FloatArray = weights / (weights[0] + 2 * weights[1:].sum())
    return found
