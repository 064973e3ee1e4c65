"""Signed codes written as unsigned ones, where the runtime does the same with the whole file."""

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from onnx_evidence.graphs import Net

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
    net = Net(part)
    moved = dict[str, str]()
    for node in net.nodes:
        read = net.readers.get(node.output[0], []) if node.op_type == "QuantizeLinear" else []
        zero = net.constants.get(node.input[2]) if len(node.input) > 2 else None
        if len(read) != 1 or zero is None or zero.data_type != TensorProto.INT8 or node.output[0] in net.outputs:
            continue
        back = read[0]
        alone = back.op_type == "DequantizeLinear" and len(net.readers.get(back.output[0], [])) == 1
        if alone and back.input[2:] == node.input[2:]:
            if zero.name not in moved:
                values = np.asarray(numpy_helper.to_array(zero)).astype(np.int16) + _SHIFT
                moved[zero.name] = net.constant(f"{zero.name}/unsigned", values.astype(np.uint8))
            node.input[2] = back.input[2] = moved[zero.name]
    net.finish()
    return part
