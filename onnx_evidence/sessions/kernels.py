"""Why ONNX Runtime does not take a graph: which operator, on which type."""

import re

import onnx
from onnx import TensorProto

from onnx_evidence.errors import one_line
from onnx_evidence.graphs import is_standard, kind_of, opset_of, type_name

# A place in ONNX Runtime's source, with the signature of a function, before what it has to say.
_SOURCE = re.compile(r"/onnxruntime(?:_src)?/\S+:\d+ .*?\) (?=[A-Z])")
# Opsets below have few kernels.
OLDEST = 7
_NO_NUMBERS = frozenset({TensorProto.UNDEFINED, TensorProto.INT64, TensorProto.BOOL, TensorProto.STRING})
_CONVERT = "convert the model to float32"


def without_source(said: str) -> str:
    """A message of ONNX Runtime without the place in its source.

    Parameters
    ----------
    said : str
        One line.

    Returns
    -------
    str
    """
    return _SOURCE.sub("", said)


def why_not(model: onnx.ModelProto, error: Exception, device: str) -> str:
    """What it means, in one line, that ONNX Runtime refused a graph with an error on a device, 'cpu' or 'cuda'.

    Where a provider lacks a kernel: the operator, the type and the remedy; else the first line of the runtime's own
    message, without the place in its source. Of an opset below 7 it says so.
    """
    said = without_source(one_line(error))
    found = re.search(r"Could not find an implementation for (\w+)\(\d+\) node with name '(.*?)'", said)
    remedy = _old(model)
    if found is None:
        return said + (f"; {remedy}" if remedy else "")
    op_type, name = found.groups()
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    kinds |= {value.name: value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.value_info)}
    nodes = [node for node in model.graph.node if node.op_type == op_type and node.name == name]
    read = [kinds[tensor] for node in nodes for tensor in node.input if kinds.get(tensor)]
    kind = f" for {type_name(read[0])}" if read else ""
    place = f"(node {name!r})" if name or not nodes else f"(at {nodes[0].output[0]!r})"
    theirs = next((node for node in nodes if not is_standard(node)), None)
    if theirs is not None and TensorProto.FLOAT in read:
        return (
            f"its {device} provider has no kernel of {kind_of(theirs)}{kind} {place}, into which an optimiser fused "
            "others for another device; give the model as it was before"
        )
    # Where the operator's own type is not known, any of the model's may be the cause.
    suspects = set(read[:1]) or {each for each in kinds.values() if each not in _NO_NUMBERS}
    if remedy is None and suspects <= {TensorProto.FLOAT}:
        remedy = "export the model with operators that it has, or with another opset"
    return f"its {device} provider has no kernel of {op_type}{kind} {place}; {remedy or _CONVERT}"


def _old(model: onnx.ModelProto) -> str | None:
    """What helps where the opset is below those that ONNX Runtime has kernels for."""
    opset = opset_of(model.opset_import, OLDEST)
    if opset >= OLDEST:
        return None
    return (
        f"the file is of opset {opset}, below {OLDEST}, where ONNX Runtime has kernels of few operators: convert the "
        "opset (onnx.version_converter.convert_version, with a number for the batch), or export the model again"
    )
