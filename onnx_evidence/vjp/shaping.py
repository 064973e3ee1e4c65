"""Rules of operators that move values about, or mix them along single axes."""

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from onnx_evidence.errors import GradientError
from onnx_evidence.types import AnyArray, FloatArray
from onnx_evidence.vjp.elementwise import Rule
from onnx_evidence.vjp.step import Step
from onnx_evidence.vjp.tape import Value


def reshape(step: Step) -> list[Value | None]:
    """Reshape, Flatten, Squeeze, Unsqueeze: back into the shape that was."""
    return [step.g.reshape_like(step.x)]


def transpose(step: Step) -> list[Value | None]:
    """Transpose: the inverse order."""
    rank = len(step.shape())
    perm = step.attribute("perm", list(range(rank))[::-1])
    return [step.g.transpose(*(int(axis) for axis in np.argsort(perm)))]


def concat(step: Step) -> list[Value | None]:
    """Concat: every input takes its part back."""
    axis = step.attribute("axis") % len(step.result_shape)
    sides = [step.side(axis, index) for index in range(len(step.node.input))]
    starts = np.concatenate([[0], np.cumsum(sides)])
    return [
        step.g.slice([int(starts[index])], [int(starts[index + 1])], [axis]) if wanted else None
        for index, wanted in enumerate(step.wanted)
    ]


def split(step: Step) -> list[Value | None]:
    """Split: parts that nothing depends on are zeros."""
    axis = step.attribute("axis", 0) % len(step.shape())
    parts = [
        step.tape.value(name) * 0.0 if cotangent is None else cotangent
        for name, cotangent in zip(step.node.output, step.cotangents, strict=True)
    ]
    return [parts[0].op("Concat", *parts[1:], axis=axis)]


def _take_back(value: Value, axis: int, rank: int, indices: AnyArray, side: int) -> Value:
    """Cotangents of ``side`` cells along an axis, from those of the cells ``indices`` that were taken of them."""
    if len(indices) and (np.diff(indices) == 1).all():
        return _padded(value, axis, rank, int(indices[0]), side - 1 - int(indices[-1]))
    if axis < rank - 1 and 0 < len(indices) == len(np.unique(indices)):
        # Taken once at the most: moved, as nothing adds up; what was not taken reads a cell of zeros behind the last.
        # Along the last axis cells are single numbers, which the product below moves in half the time.
        places = np.full(side, len(indices), np.int64)
        places[indices] = np.arange(len(indices))
        ended = _padded(value, axis, rank, 0, 1) if len(indices) < side else value
        return ended.op("Gather", ended.tape.integers(*places.tolist()), axis=axis)
    matrix = np.zeros((len(indices), side))
    matrix[np.arange(len(indices)), indices] = 1
    return mix(value, axis, rank, matrix)


def _padded(value: Value, axis: int, rank: int, before: int, after: int) -> Value:
    """Zeros before and after the cells of an axis."""
    front, back = [0] * rank, [0] * rank
    front[axis], back[axis] = before, after
    return value.pad(front, back)


def mix(value: Value, axis: int, rank: int, matrix: FloatArray) -> Value:
    """Multiply by a matrix along one axis: ``result[..., j, ...] = sum_i value[..., i, ...] matrix[i, j]``."""
    perm = list(range(rank))
    perm[axis], perm[-1] = perm[-1], perm[axis]
    return value.transpose(*perm).op("MatMul", value.typed(matrix)).transpose(*perm)


def slice_(step: Step) -> list[Value | None]:
    """Slice with any steps."""
    starts, ends = step.static_list(1) or [], step.static_list(2) or []
    rank = len(step.shape())
    axes = [axis % rank for axis in step.static_list(3) or range(len(starts))]
    steps = step.static_list(4) or [1] * len(starts)
    back = step.g
    for axis, start, end, stride in zip(axes, starts, ends, steps, strict=True):
        if step.shape()[axis] is None and step.result_shape[axis] is None and start == 0 and stride == 1:
            continue  # the whole batch
        side = step.side(axis)
        back = _take_back(back, axis, rank, np.arange(side)[slice(start, end, stride)], side)
    return [back]


def gather(step: Step) -> list[Value | None]:
    """Gather: cells that were taken twice add up."""
    rank = len(step.shape())
    axis = step.attribute("axis", 0) % rank
    if step.node.input[1] not in step.tape.values:
        return [_scatter(step, axis, rank), None]
    indices = step.static(1)
    assert indices is not None  # a required input
    side = step.side(axis)
    flat = np.asarray(indices, np.int64).reshape(-1) % side
    lined = step.g
    if indices.ndim == 0:
        lined = step.g.op("Unsqueeze", step.tape.integers(axis))
    elif indices.ndim > 1:
        # Asked for at run time: any other axis may hold the batch.
        front, behind = (
            step.x.op("Shape", elem_type=TensorProto.INT64, **bounds) for bounds in ({"end": axis}, {"start": axis + 1})
        )
        lined = step.g.op("Reshape", front.op("Concat", step.tape.integers(len(flat)), behind, axis=0))
    return [_take_back(lined, axis, rank, flat, side), None]


def _scatter(step: Step, axis: int, rank: int) -> Value:
    """Cotangents added up where indices that are computed when the model runs took them from."""
    taken = len(step.result_shape) - rank + 1
    others = [each for each in range(rank) if each != axis]
    places = list(range(axis, axis + taken))
    front = step.g.transpose(*places, *(each for each in range(rank - 1 + taken) if each not in places))
    zeros = (step.x * 0.0).transpose(axis, *others)
    spread = zeros.op("ScatterND", step.input(1).op("Unsqueeze", step.tape.integers(-1)), front, reduction="add")
    return spread.transpose(*(int(each) for each in np.argsort([axis, *others])))


def pad(step: Step) -> list[Value | None]:
    """Pad: constant pads are cropped; edges and reflections add up where they were copied from."""
    rank = len(step.shape())
    pads = step.static_list(1) or []
    axes = [axis % rank for axis in (step.static_list(3) or range(rank))]
    before, after = pads[: len(axes)], pads[len(axes) :]
    mode = step.attribute("mode", "constant")
    back = step.g
    if mode == "constant":
        fronts, backs = [0] * rank, [0] * rank
        for axis, front, behind in zip(axes, before, after, strict=True):
            fronts[axis], backs[axis] = -front, -behind
        return [back.pad(fronts, backs)]
    for axis, front, behind in zip(axes, before, after, strict=True):
        if front or behind:
            side = step.side(axis)
            copied = np.pad(np.arange(side), (max(front, 0), max(behind, 0)), mode=mode)
            copied = copied[max(-front, 0) : len(copied) - max(-behind, 0)]
            back = _take_back(back, axis, rank, copied, side)
    return [back]


def expand(step: Step) -> list[Value | None]:
    """Expand: copies add up."""
    return [step.like(0, step.g), None]


def tile(step: Step) -> list[Value | None]:
    """Tile: copies add up."""
    back = step.g
    for axis, repeats in enumerate(step.static_list(1) or []):
        side = step.shape()[axis]
        if repeats > 1 and side == 1:
            back = back.reduce("Sum", [axis])
        elif repeats > 1:
            side = step.side(axis)
            first, *others = (back.slice([k * side], [(k + 1) * side], [axis]) for k in range(repeats))
            back = first.op("Sum", *others)
    return [back, None]


def resize(step: Step) -> list[Value | None]:
    """Resize in any separable mode: per axis the matrix that the operator itself makes of an identity."""
    if step.has(1) and step.attribute("coordinate_transformation_mode") == "tf_crop_and_resize":
        raise GradientError("Resize of a cropped region has no rule")
    shape, result = step.shape(), step.result_shape
    rank = len(shape)
    scales = step.static(2) if step.has(2) else None
    given = step.attribute("axes") or list(range(rank))
    back = step.g
    for place, axis in enumerate(given):
        if shape[axis] is None or (result[axis] == shape[axis] and (scales is None or scales[place] == 1)):
            continue
        scale = None if scales is None or not len(scales) else float(scales[place])
        back = mix(back, axis, rank, _interpolation(step, step.side(axis), result[axis] or 1, scale))
    return [back]


def _interpolation(step: Step, side: int, result: int, scale: float | None) -> FloatArray:
    """Weight of every cell of ``side`` in every cell of the ``result``, shape (result, side)."""
    kept = [each for each in step.node.attribute if each.name not in ("axes", "keep_aspect_ratio_policy")]
    inputs = ["x", "", "scales"] if scale is not None else ["x", "", "", "sizes"]
    node = helper.make_node("Resize", inputs, ["y"])
    node.attribute.extend(kept)
    initializer = (
        numpy_helper.from_array(np.array([scale, 1], np.float32), "scales")
        if scale is not None
        else numpy_helper.from_array(np.array([result, side], np.int64), "sizes")
    )
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [side, side])
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "axis", [value], [output], [initializer])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    # Not the reference evaluator: it differs where the scale does not give whole sides, and is slow.
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (matrix,) = session.run(None, {"x": np.eye(side, dtype=np.float32)})
    return np.asarray(matrix, np.float64)


def depth_to_space(step: Step) -> list[Value | None]:
    """DepthToSpace in both orders."""
    block = step.attribute("blocksize")
    if step.attribute("mode", "DCR") == "DCR":
        return [step.g.op("SpaceToDepth", blocksize=block)]
    _, channels, rows, cols = step.shape()
    parted = step.g.reshape(-1, (channels or 1) // block**2, rows or 1, block, cols or 1, block)
    return [parted.transpose(0, 1, 3, 5, 2, 4).reshape_like(step.x)]


def space_to_depth(step: Step) -> list[Value | None]:
    """SpaceToDepth."""
    return [step.g.op("DepthToSpace", blocksize=step.attribute("blocksize"), mode="DCR")]


RULES: dict[str, Rule] = {
    "Reshape": reshape,
    "Flatten": reshape,
    "Squeeze": reshape,
    "Unsqueeze": reshape,
    "Transpose": transpose,
    "Concat": concat,
    "Split": split,
    "Slice": slice_,
    "Gather": gather,
    "Pad": pad,
    "Expand": expand,
    "Tile": tile,
    "Resize": resize,
    "DepthToSpace": depth_to_space,
    "SpaceToDepth": space_to_depth,
}
