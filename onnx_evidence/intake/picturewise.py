"""Graphs of operators that plainly work picture by picture, told by their kind and the shapes around them."""

from collections.abc import Mapping
from math import prod

import onnx
from onnx import numpy_helper

from onnx_evidence.graphs import SLIDING, UNARY, Net, Shape, TensorInfo, attributes_of, node_inputs

# Of the first input alone, row by row; whatever else they read must be constant.
_OF_ONE = (
    UNARY
    | SLIDING
    | frozenset(
        "GlobalAveragePool GlobalMaxPool GlobalLpPool ConvTranspose InstanceNormalization GroupNormalization Pad "
        "Resize Upsample DepthToSpace SpaceToDepth Cast Abs Neg Exp Log Sqrt Reciprocal Erf QuantizeLinear "
        "DequantizeLinear".split()
    )
)
# Value by value: rows meet rows.
_OF_SEVERAL = frozenset("Add Sub Mul Div Pow Sum Max Min Mean".split())
# They keep the order of all values, so that rows of as many stay together.
_RESHAPING = frozenset("Reshape Flatten Squeeze Unsqueeze".split())


# Along one axis or several: an attribute, or the input of that place.
_ALONG = {
    **dict.fromkeys(("Softmax", "LogSoftmax", "LayerNormalization", "RMSNormalization", "Split", "Gather"), None),
    **dict.fromkeys(("ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum", "ReduceL2", "ReduceSumSquare"), 1),
    "Slice": 3,
}


def by_picture(proto: onnx.ModelProto, tensors: Mapping[str, TensorInfo]) -> bool:
    """Whether every operator that the picture reaches is known to work picture by picture, in a graph of a free batch.

    False where that is not plain: nothing is known then. The graph has one input.
    """
    data = {value.name for value in proto.graph.input}
    net = Net(proto)
    for node in net.nodes:
        read = [name for name in node_inputs(node) if name in data]
        # How many pictures there are is the same beside others: it is looked at by batches of several sizes.
        if read and node.op_type not in ("Shape", "Size"):
            data.update(node.output)
            if not _is_by_picture(node, read, tensors, net.constants):
                return False
    return True


def _is_by_picture(
    node: onnx.NodeProto,
    read: list[str],
    tensors: Mapping[str, TensorInfo],
    constants: Mapping[str, onnx.TensorProto],
) -> bool:
    outputs = [name for name in node.output if name]
    shapes = [tensors[name].shape if name in tensors else () for name in (*read, *outputs)]
    if any(not shape or shape[0] is not None for shape in shapes):
        return False
    first, result = shapes[0], shapes[-1]
    alike, of_first = len({len(shape) for shape in shapes}) == 1, read == [node.input[0]]
    given = attributes_of(node)
    if node.op_type in _OF_SEVERAL:
        return alike
    if node.op_type == "Concat":
        return alike and given["axis"] % len(result) != 0
    if node.op_type == "MatMul" and not of_first:
        return alike and len(result) > 2
    if not of_first:
        return False
    if node.op_type in _RESHAPING:
        return _size(first) == _size(result) != 0
    if node.op_type == "Transpose":
        return list(given.get("perm", ()))[:1] == [0]
    if node.op_type in ("Gemm", "MatMul"):
        # The batch is not summed over, nor moved: it is the first axis before and behind.
        return not given.get("transA", 0) and alike
    if node.op_type in _ALONG:
        axes = _axes(node, constants)
        return bool(axes) and all(axis % len(first) != 0 for axis in axes)
    return node.op_type in _OF_ONE


def _size(shape: Shape) -> int:
    """Numbers of one picture; 0 where that is not known."""
    return prod(side or 0 for side in shape[1:])


def _axes(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> list[int]:
    """What a node works along; empty where that is not said."""
    given, place = attributes_of(node), _ALONG[node.op_type]
    if place is None or "axes" in given:
        return [given["axis"]] if "axis" in given else list(given.get("axes", ()))
    tensor = constants.get(node.input[place]) if len(node.input) > place else None
    return [] if tensor is None else [int(axis) for axis in numpy_helper.to_array(tensor).reshape(-1)]
