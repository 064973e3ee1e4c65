"""Old files in the dialect that rules read and write."""

from math import prod

import onnx
from onnx import TensorProto, helper, inliner, numpy_helper, shape_inference, version_converter

from onnx_evidence.errors import GradientError, one_line
from onnx_evidence.graphs import Net, hollow, opset_of

# The dialect that rules read and write; newer files keep theirs, where these operators mean the same.
_OPSET = 18
# Since when the bounds of Clip and the filling of Pad are inputs, with a type, from these on; and since when Resize may
# be told its coordinates: before, it counted from the corner and rounded down.
_TOLD = 11
_FIRST_BOUND = {"Clip": 1, "Pad": 2}
# Weights of more elements are kept out of the converter's copies.
_SMALL = 64


def modern(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model, of opset 7 or newer, in the dialect of the rules; functions are put in place.

    That is opset 18, or its own where that is newer. `GradientError` where an operator has no newer form.
    """
    if model.functions:
        model = inliner.inline_local_functions(model)
    if len(Net(model).inputs) < len(model.graph.input):
        given, model = model, onnx.ModelProto()
        model.CopyFrom(given)
        Net(model).unlist()
    opset = opset_of(model.opset_import, 1)
    if opset >= _OPSET:
        return model
    bare = hollow(model, _is_large)
    bare.ir_version = max(bare.ir_version, 4)
    try:
        converted = version_converter.convert_version(bare, _OPSET)
    except Exception as error:
        raise GradientError(f"opset {opset} cannot be brought to {_OPSET}: {one_line(error)}") from error
    if opset < _TOLD:
        _retype_bounds(converted)
        _tell_coordinates(converted)
    converted.graph.initializer.extend(filter(_is_large, model.graph.initializer))
    Net(converted).unlist()
    converted.ir_version = max(converted.ir_version, 8)
    return converted


def _is_large(tensor: onnx.TensorProto) -> bool:
    return bool(prod(tensor.dims) > _SMALL)


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
