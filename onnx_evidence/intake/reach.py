"""Whether anything of the picture reaches the class scores, read from the graph: a product with zeros ends it."""

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.external_data_helper import uses_external_data

from onnx_evidence.graphs import Net, TensorInfo, array_of, is_held, node_inputs

# Products, by the inputs of which one zero is enough; what comes after them is added.
_PRODUCTS: dict[str, int] = {
    **dict.fromkeys(("Mul", "MatMul", "MatMulInteger", "Gemm", "Conv", "ConvInteger", "ConvTranspose", "And"), 2),
    # Statistics of the picture, times a scale.
    **dict.fromkeys(("BatchNormalization", "InstanceNormalization", "LayerNormalization", "GroupNormalization"), 2),
    "RMSNormalization": 2,
    "SimplifiedLayerNormalization": 2,
}
# What they make of zeros is zero.
_KEEPING = frozenset("Identity Cast Reshape Flatten Squeeze Unsqueeze Transpose Expand Tile Slice Neg Abs Relu".split())
_SHAPES = frozenset({"Shape", "Size"})
_ENOUGH = 4096


def where_picture_ends(net: Net, tensors: Mapping[str, TensorInfo], image: str, scores: str) -> onnx.NodeProto | None:
    """The last node that the picture reaches, where it does not reach the scores; None where something of it may.

    Followed along the graph: a product with zeros, a difference of a tensor and itself, a softmax over one number and a
    shape tell nothing of what they read. That no score moves on some pictures proves less: a model may be saturated.
    """
    reached, last = {image}, None
    zeros = _Zeros(net)
    for node in net.nodes:
        zeros.look(node)
        if reached.isdisjoint(node_inputs(node)):
            continue
        last = node
        if not _stops(node, reached, zeros, tensors):
            reached.update(node.output)
    return None if scores in reached or last is None else last


def _stops(node: onnx.NodeProto, reached: set[str], zeros: "_Zeros", tensors: Mapping[str, TensorInfo]) -> bool:
    """Whether nothing of what a node reads of the picture comes through."""
    if node.op_type in _SHAPES:
        return True
    if node.op_type == "Sub":
        return bool(node.input[0] == node.input[1])
    if node.op_type in ("Softmax", "LogSoftmax"):
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), None)
        shape = tensors[node.input[0]].shape if node.input[0] in tensors else ()
        # Where no axis is named, which one it is depends on the opset, unless there is only one.
        return (axis == -1 or (axis is None and len(shape) == 2)) and shape[-1:] == (1,)
    factors = _PRODUCTS.get(node.op_type, 0)
    added = node.input[factors:]
    return any(name in zeros for name in node.input[:factors]) and reached.isdisjoint(added)


class _Zeros:
    """Constants of which every number is zero; they are looked at when they are asked for."""

    def __init__(self, net: Net) -> None:
        self._constants = net.constants
        self._known: dict[str, bool] = {}

    def __contains__(self, name: str) -> bool:
        if name not in self._known and name in self._constants:
            self._known[name] = _is_zero(self._constants[name])
        return self._known.get(name, False)

    def look(self, node: onnx.NodeProto) -> None:
        """Find out whether a node makes zeros of zeros."""
        if node.op_type == "DequantizeLinear" and node.input[0] in self._constants:
            point = self._constants.get(node.input[2]) if len(node.input) > 2 else None
            made = _is_zero(self._constants[node.input[0]], point)
        elif node.op_type in _KEEPING and node.input:
            made = node.input[0] in self
        elif node.op_type in ("Mul", "MatMul") or (node.op_type == "Gemm" and len(node.input) < 3):
            made = any(name in self for name in node.input[:2])
        else:
            return
        self._known[node.output[0]] = made


def _is_zero(tensor: onnx.TensorProto, point: onnx.TensorProto | None = None) -> bool:
    """Whether all numbers are zero, or the zero point; False where they are not at hand."""
    if (uses_external_data(tensor) and not is_held(tensor)) or tensor.data_type == onnx.TensorProto.STRING:
        return False
    if point is None and tensor.HasField("raw_data") and any(tensor.raw_data[:_ENOUGH]):
        return False
    values = array_of(tensor)
    if point is None:
        return bool(values.size) and not np.any(values)
    zero = numpy_helper.to_array(point)
    return bool(values.size) and zero.size == 1 and bool(np.all(values == zero.reshape(-1)[0]))
