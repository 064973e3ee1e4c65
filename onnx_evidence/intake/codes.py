"""Signed codes written as unsigned ones, where the runtime does the same with the whole file."""

from collections import defaultdict

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from onnx_evidence.graphs import node_inputs
from onnx_evidence.intake.rewrite import add_constant, taken_names

_SHIFT = 128


def unsigned(part: onnx.ModelProto) -> onnx.ModelProto:
    """Let pairs of quantisers have codes 0..255 in place of -128..127.

    It changes no value: scale and rounding stay, codes and zero point move by 128. ONNX Runtime does it to the file on
    processors that have integer kernels for unsigned codes alone, so that it can compute between pairs with integers,
    but only where nothing else reads the codes. A backward graph reads them; written so beforehand, it still computes
    the same integers as the file, and its logits are the file's.

    Parameters
    ----------
    part : onnx.ModelProto
        A head or tail; changed in place.

    Returns
    -------
    onnx.ModelProto
        The same.
    """
    graph = part.graph
    readers = defaultdict(list)
    for node in graph.node:
        for name in node_inputs(node):
            readers[name].append(node)
    constants = {tensor.name: tensor for tensor in graph.initializer}
    asked = {value.name for value in graph.output}
    taken, moved = taken_names(graph), dict[str, str]()
    for node in graph.node:
        read = readers[node.output[0]] if node.op_type == "QuantizeLinear" else []
        zero = constants.get(node.input[2]) if len(node.input) > 2 else None
        if len(read) != 1 or zero is None or zero.data_type != TensorProto.INT8 or asked & {*node.output}:
            continue
        back = read[0]
        alone = back.op_type == "DequantizeLinear" and len(readers[back.output[0]]) == 1
        if alone and back.input[2:] == node.input[2:]:
            if zero.name not in moved:
                values = np.asarray(numpy_helper.to_array(zero)).astype(np.int16) + _SHIFT
                moved[zero.name] = add_constant(graph, f"{zero.name}/unsigned", values.astype(np.uint8), taken)
            node.input[2] = back.input[2] = moved[zero.name]
    return part
