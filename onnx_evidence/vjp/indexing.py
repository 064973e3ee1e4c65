"""Rules of operators that take values from places, or put them there, and of what is summed up to a place."""

from math import prod

import numpy as np
from onnx import TensorProto

from onnx_evidence.errors import GradientError
from onnx_evidence.vjp.elementwise import Rule
from onnx_evidence.vjp.step import Step
from onnx_evidence.vjp.tape import Value


def scattered(zeros: Value, places: Value, values: Value, axis: int) -> Value:
    """Values added up at places along an axis: like ``zeros`` in shape, like ``values`` in type.

    ``places``, counted along the axis, are of the shape of ``values``.
    """
    # ONNX Runtime adds up no halves on the CPU; and sums of many are better in float32.
    kind = TensorProto.DOUBLE if values.elem_type == TensorProto.DOUBLE else TensorProto.FLOAT
    summed = zeros.cast(kind).op("ScatterElements", places, values.cast(kind), axis=axis, reduction="add")
    return summed.cast(values.elem_type)


def gather_elements(step: Step) -> list[Value | None]:
    """GatherElements."""
    axis = step.attribute("axis", 0) % len(step.shape())
    return [scattered(step.x * 0.0, step.input(1), step.g, axis), None]


def gather_nd(step: Step) -> list[Value | None]:
    """GatherND."""
    batch, places = step.attribute("batch_dims", 0), step.input(1)
    if batch > 1:
        raise GradientError("GatherND with several axes of batches has no rule")
    if batch:
        places = _with_rows(places, len(step.shape(1)))
    zeros = step.x * 0.0
    return [zeros.op("ScatterND", places, step.g, reduction="add"), None]


def _with_rows(places: Value, rank: int) -> Value:
    """Places within the rows of a batch, with the number of the row before them."""
    shape = places.op("Shape", elem_type=TensorProto.INT64)
    zero, one = (places.tape.constant(np.array(each, np.int64)) for each in (0, 1))
    rows = zero.op("Range", shape.op("Gather", zero, axis=0), one).reshape(-1, *[1] * (rank - 1))
    front = shape.slice([0], [-1], [0]).op("Concat", places.tape.integers(1), axis=0)
    return rows.op("Expand", front).op("Concat", places, axis=rank - 1)


def _put(step: Step) -> str:
    """How values are put, 'none' for in place of others."""
    how = str(step.attribute("reduction", "none"))
    if how not in ("none", "add"):
        raise GradientError(f"{step.node.op_type} with reduction {how!r} has no rule")
    return how


def scatter_elements(step: Step) -> list[Value | None]:
    """ScatterElements: what is replaced gets nothing."""
    axis, places = step.attribute("axis", 0), step.input(1)
    taken = step.g.op("GatherElements", places, axis=axis)
    kept = step.g if _put(step) == "add" else step.g.op("ScatterElements", places, taken * 0.0, axis=axis)
    return [kept if step.wanted[0] else None, None, taken if step.wanted[2] else None]


def scatter_nd(step: Step) -> list[Value | None]:
    """ScatterND: what is replaced gets nothing."""
    taken = step.g.op("GatherND", step.input(1))
    kept = step.g if _put(step) == "add" else step.g.op("ScatterND", step.input(1), taken * 0.0)
    return [kept if step.wanted[0] else None, None, taken if step.wanted[2] else None]


def top_k(step: Step) -> list[Value | None]:
    """TopK: cotangents go back to where the values were."""
    axis = step.attribute("axis", -1) % len(step.shape())
    if step.shape()[axis] is None:
        raise GradientError("TopK along the batch has no rule")
    given = {name: step.attribute(name) for name in ("largest", "sorted")}
    _, places = step.tape.emit("TopK", step.x, step.input(1), outputs=2, axis=axis, **given)
    indices = Value(step.tape, places.name, TensorProto.INT64)
    return [scattered(step.x * 0.0, indices, step.g, axis), None]


def cumulative_sum(step: Step) -> list[Value | None]:
    """CumSum: summed up from the other end."""
    axis = (step.static_list(1) or [0])[0] % len(step.shape())
    step.side(axis)  # never the batch
    reverse = 1 - step.attribute("reverse", 0)
    return [step.g.op("CumSum", step.input(1), reverse=reverse, exclusive=step.attribute("exclusive", 0)), None]


def triangle(step: Step) -> list[Value | None]:
    """Trilu: the same triangle."""
    offset = step.input(1) if step.has(1) else None
    return [step.g.op("Trilu", offset, upper=step.attribute("upper", 1)), None]


def centre(step: Step) -> list[Value | None]:
    """CenterCropPad: back to the size that was; what was cropped is 0."""
    axes = step.attribute("axes")
    shape = step.x.op("Shape", elem_type=TensorProto.INT64)
    sides = shape if axes is None else shape.op("Gather", step.tape.integers(*axes), axis=0)
    return [step.g.op("CenterCropPad", sides, axes=axes), None]


def blocks_to_picture(step: Step) -> list[Value | None]:
    """Col2Im: cut into blocks again, by a convolution that has one filter per place in a block."""
    block = step.static_list(2) or []
    rank, cells = len(block), prod(block)
    channels = step.side(1) // cells
    given = {name: step.attribute(name) for name in ("dilations", "pads", "strides")}
    filters = np.tile(np.eye(cells).reshape(cells, 1, *block), (channels, 1, *[1] * rank))
    return [step.g.op("Conv", step.g.typed(filters), group=channels, **given).reshape_like(step.x), None, None]


def rotary_embedding(step: Step) -> list[Value | None]:
    """RotaryEmbedding: turned back, by angles of the other sign."""
    if any(step.wanted[1:]):
        raise GradientError("the angles of RotaryEmbedding depend on the picture")
    names = ("interleaved", "num_heads", "rotary_embedding_dim")
    places = step.input(3) if step.has(3) else None
    given = {name: step.attribute(name) for name in names}
    return [step.g.op("RotaryEmbedding", step.input(1), -step.input(2), places, **given)]


RULES: dict[str, Rule] = {
    "GatherElements": gather_elements,
    "GatherND": gather_nd,
    "ScatterElements": scatter_elements,
    "ScatterND": scatter_nd,
    "TopK": top_k,
    "CumSum": cumulative_sum,
    "Trilu": triangle,
    "CenterCropPad": centre,
    "Col2Im": blocks_to_picture,
    "RotaryEmbedding": rotary_embedding,
}
