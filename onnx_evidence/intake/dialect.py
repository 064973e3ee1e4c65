"""One dialect: no local functions, no weights among the inputs, no Constant nodes, no shapes left to compute."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, inliner, numpy_helper

from onnx_evidence.errors import ModelError, one_line
from onnx_evidence.graphs import Net, TensorInfo, bodies, infer, infer_with_values, is_standard
from onnx_evidence.intake.trial import VENDOR
from onnx_evidence.types import AnyArray

# Domains whose operators ONNX Runtime has.
_KNOWN = frozenset({"", "ai.onnx", "ai.onnx.ml", "ai.onnx.preview", "com.microsoft", "com.microsoft.nchwc"})
# Inputs without which ONNX Runtime ends the process, though its documentation lets the last be left out.
_WHOLE = {"QLinearSigmoid": 5, "QLinearLeakyRelu": 5}
# What its constants alone decide once shapes are known.
_INTEGERS = frozenset({TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL})
_KINDS: dict[str, type[np.generic]] = {
    "value_float": np.float32,
    "value_floats": np.float32,
    "value_int": np.int64,
    "value_ints": np.int64,
}


def plain(proto: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """The same graph without local functions, weights listed as inputs, and Constant nodes.

    It is changed in place where it has no functions. `ModelError` if an operator is of a domain that ONNX Runtime does
    not know, or lacks inputs without which it would crash.
    """
    if proto.functions:
        try:
            proto = inliner.inline_local_functions(proto)
        except Exception as error:
            raise ModelError(f"{path}: the functions of the model cannot be put in place: {one_line(error)}") from error
    _refuse(proto.graph.node, path)
    Net(proto).unlist()
    _lift_constants(Net(proto))
    return proto


def _refuse(nodes: Iterable[onnx.NodeProto], path: Path) -> None:
    for node in nodes:
        if node.domain not in _KNOWN:
            raise ModelError(
                f"{path}: operator {node.op_type!r} is of the custom domain {node.domain!r}, whose library is not "
                "part of ONNX Runtime; export the model with standard operators"
            )
        if len(node.input) < _WHOLE.get(node.op_type, 0) or (node.op_type == "QLinearConcat" and "" in node.input):
            raise ModelError(
                f"{path}: operator {node.op_type!r} leaves a zero point or a scale out, which crashes ONNX Runtime; "
                "export the model with them"
            )
        if node.domain == VENDOR and node.op_type == "Attention" and not "".join(node.input[2:3]):
            raise ModelError(
                f"{path}: operator 'Attention' of {VENDOR} leaves its bias out, which crashes ONNX Runtime; "
                "give it one of zeros, or export the model without fusing"
            )
        for graph in bodies(node):
            _refuse(graph.node, path)


def _lift_constants(net: Net) -> None:
    for node in net.take():
        tensor = constant_tensor(node)
        if tensor is None:
            net.add(node)
        else:
            net.store(tensor)
    if len(net.nodes) < len(net.graph.node):
        net.finish()


def constant_tensor(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """What a Constant node holds, under the name of its output; None for strings, sparse tensors and other nodes."""
    if node.op_type != "Constant" or not is_standard(node) or len(node.attribute) != 1:
        return None
    attribute = node.attribute[0]
    value = helper.get_attribute_value(attribute)
    if isinstance(value, onnx.TensorProto):
        tensor = onnx.TensorProto()
        tensor.CopyFrom(value)
        tensor.name = node.output[0]
        return tensor
    if attribute.name not in _KINDS:
        return None
    return numpy_helper.from_array(np.array(value, _KINDS[attribute.name]), node.output[0])


def forget_told(proto: onnx.ModelProto, image: str, batch: int | None) -> bool:
    """Drop what the file says of the shapes of tensors that inference settles by itself.

    What it says may be wrong, or be said twice: ONNX Runtime does not mind, but inference would go astray. True where
    it contradicts inference in the type of a tensor, which ONNX Runtime does mind. The model is changed in place;
    channels, height and width of its input are settled.
    """
    graph = proto.graph
    values = [*graph.value_info, *graph.output]
    told = {value.name: onnx.TypeProto.FromString(value.type.SerializeToString()) for value in values}
    tensors = [value for value in graph.output if value.type.HasField("tensor_type")]
    del graph.value_info[:]
    for value in tensors:
        value.type.Clear()
    known = infer(proto, image, batch)
    outputs = {value.name for value in graph.output}
    for value in tensors:
        if value.name in known and not _fits(told[value.name], known[value.name]):
            told[value.name].tensor_type.ClearField("shape")
        value.type.CopyFrom(told[value.name])
    graph.value_info.extend(
        onnx.ValueInfoProto(name=name, type=kind)
        for name, kind in told.items()
        if name not in outputs and not _is_settled(known.get(name)) and _fits(kind, known.get(name))
    )
    elem_types = {name: kind.tensor_type.elem_type for name, kind in told.items()}
    return any(name in known and kind not in (0, known[name].elem_type) for name, kind in elem_types.items())


def _is_settled(info: TensorInfo | None) -> bool:
    return info is not None and None not in info.shape[1:] and info.shape[:1] != (0,)


def _fits(kind: onnx.TypeProto, info: TensorInfo | None) -> bool:
    """Whether what is told of a tensor goes with what is known of it; the batch aside."""
    if info is None or not kind.tensor_type.HasField("shape"):
        return True
    sides = [dim.dim_value or None for dim in kind.tensor_type.shape.dim]
    pairs = zip(sides[1:], info.shape[1:], strict=False)
    return len(sides) == len(info.shape) and all(None in pair or pair[0] == pair[1] for pair in pairs)


def known_values(proto: onnx.ModelProto, image: str, batch: int | None) -> dict[str, AnyArray]:
    """Values that do not depend on the picture, nor on the batch size where it is free.

    They are those of `graphs.infer_with_values`. Channels, height and width of the input are settled.
    """
    return infer_with_values(proto, image, batch)[1]


def fold_shapes(proto: onnx.ModelProto, image: str, batch: int | None) -> dict[str, TensorInfo]:
    """Replace arithmetic on shapes by its result, as far as the batch size has no say in it; the tensors now constant.

    The model is changed in place; channels, height and width of its input are settled.
    """
    if all(node.op_type not in ("Shape", "Size") for node in proto.graph.node):
        return {}
    values, net = known_values(proto, image, batch), Net(proto)
    folded = []
    for node in net.take():
        found = {name: values[name] for name in node.output if name in values}
        whole = all(helper.np_dtype_to_tensor_dtype(value.dtype) in _INTEGERS for value in found.values())
        if whole and found and list(found) == list(node.output) and found.keys().isdisjoint(net.outputs):
            folded += [numpy_helper.from_array(np.asarray(value), name) for name, value in found.items()]
        else:
            net.add(node)
    if folded:
        net.nodes = net.needed(*net.outputs)
        for tensor in folded:
            net.store(tensor)
        net.finish()
    return {tensor.name: TensorInfo(tensor.data_type, tuple(tensor.dims)) for tensor in folded}
