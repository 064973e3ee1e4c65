"""Old files in the dialect that rules read and write."""

from math import prod

import onnx
from onnx import TensorProto, helper, inliner, numpy_helper, shape_inference, version_converter

from onnx_evidence.errors import GradientError, one_line
from onnx_evidence.graphs import Net, opset_of

# The dialect that rules read and write; newer files keep theirs, where these operators mean the same.
_OPSET = 18
# Since when the bounds of Clip and the filling of Pad are inputs, with a type, from these on; and since when Resize may
# be told its coordinates: before, it counted from the corner and rounded down.
_TOLD = 11
_FIRST_BOUND = {"Clip": 1, "Pad": 2}
# Weights of more elements are kept out of the converter's copies.
_SMALL = 64


def modern(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model in the dialect of the rules; functions are put in place.

    Parameters
    ----------
    model : onnx.ModelProto
        Opset 7 or newer.

    Returns
    -------
    onnx.ModelProto
        Of opset 18, or of its own where that is newer.

    Raises
    ------
    GradientError
        If an operator has no newer form.
    """
    if model.functions:
        model = inliner.inline_local_functions(model)
    model = _without_listed_weights(model)
    opset = opset_of(model.opset_import, 1)
    if opset >= _OPSET:
        return model
    bare, weights = _without_weights(model)
    try:
        converted = version_converter.convert_version(bare, _OPSET)
    except Exception as error:
        raise GradientError(f"opset {opset} cannot be brought to {_OPSET}: {one_line(error)}") from error
    if opset < _TOLD:
        _retype_bounds(converted)
        _tell_coordinates(converted)
    converted.graph.initializer.extend(weights)
    converted = _without_listed_weights(converted)
    converted.ir_version = max(converted.ir_version, 8)
    return converted


def _tell_coordinates(converted: onnx.ModelProto) -> None:
    """Say what Resize did; the converter leaves the defaults, which are others."""
    for node in converted.graph.node:
        if node.op_type == "Resize":
            given = {each.name for each in node.attribute}
            old = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
            node.attribute.extend(helper.make_attribute(*each) for each in old.items() if each[0] not in given)


def _retype_bounds(converted: onnx.ModelProto) -> None:
    """Give bounds and fillings, which the converter writes as float32, the type of what they are for."""
    inferred = shape_inference.infer_shapes(converted)
    typed = [*inferred.graph.input, *inferred.graph.value_info]
    kinds = {value.name: value.type.tensor_type.elem_type for value in typed}
    constants = Net(converted).constants
    constants |= {node.output[0]: node.attribute[0].t for node in converted.graph.node if node.op_type == "Constant"}
    for node in converted.graph.node:
        for name in node.input[_FIRST_BOUND.get(node.op_type, len(node.input)) :]:
            kind = kinds.get(node.input[0], TensorProto.FLOAT)
            if name in constants and constants[name].data_type == TensorProto.FLOAT != kind:
                bound = numpy_helper.to_array(constants[name]).astype(helper.tensor_dtype_to_np_dtype(kind))
                constants[name].CopyFrom(numpy_helper.from_array(bound, constants[name].name))


def _without_listed_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its real inputs alone: old files list weights among them."""
    graph = model.graph
    own = {tensor.name for tensor in graph.initializer}
    if own.isdisjoint(value.name for value in graph.input):
        return model
    kept = [value for value in graph.input if value.name not in own]
    bare = helper.make_graph(graph.node, graph.name, kept, graph.output, graph.initializer, value_info=graph.value_info)
    return helper.make_model(bare, opset_imports=model.opset_import, ir_version=max(model.ir_version, 4))


def _without_weights(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[onnx.TensorProto]]:
    """The model with its large weights listed as inputs, and these weights."""
    graph = model.graph
    large = [tensor for tensor in graph.initializer if prod(tensor.dims) > _SMALL]
    small = [tensor for tensor in graph.initializer if prod(tensor.dims) <= _SMALL]
    listed = {value.name for value in graph.input}
    inputs = [
        helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        for tensor in large
        if tensor.name not in listed
    ]
    bare = helper.make_graph(graph.node, graph.name, [*graph.input, *inputs], graph.output, small)
    return (
        helper.make_model(bare, opset_imports=model.opset_import, ir_version=max(model.ir_version, 4)),
        large,
    )
