"""Why ONNX Runtime does not take a graph: which operator, on which type."""

import re

import onnx

from onnx_evidence.errors import one_line
from onnx_evidence.nodes import kind_of
from onnx_evidence.shapes import type_name


def why_not(model: onnx.ModelProto, error: Exception, device: str) -> str:
    """What a session's refusal means.

    Parameters
    ----------
    model : onnx.ModelProto
        The graph that was refused.
    error : Exception
        What ONNX Runtime raised.
    device : {'cpu', 'cuda'}
        Where it was to run.

    Returns
    -------
    str
        One line: where a provider lacks a kernel the operator, the type and the remedy; else the first line of the
        runtime's own message.
    """
    said = one_line(error)
    found = re.search(r"Could not find an implementation for (\w+)\(\d+\) node with name '(.*?)'", said)
    if found is None:
        return said
    op_type, name = found.groups()
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    kinds |= {value.name: value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.value_info)}
    nodes = [node for node in model.graph.node if node.op_type == op_type and node.name == name]
    read = [kinds[tensor] for node in nodes for tensor in node.input if kinds.get(tensor)]
    kind = f" for {type_name(read[0])}" if read else ""
    place = f"(node {name!r})" if name or not nodes else f"(at {nodes[0].output[0]!r})"
    theirs = next((node for node in nodes if node.domain not in ("", "ai.onnx")), None)
    if theirs is not None and onnx.TensorProto.FLOAT in read:
        return (
            f"its {device} provider has no kernel of {kind_of(theirs)}{kind} {place}, into which an optimiser fused "
            "others for another device; give the model as it was before"
        )
    return f"its {device} provider has no kernel of {op_type}{kind} {place}; convert the model to float32"
