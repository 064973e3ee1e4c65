"""Nominal receptive fields of sliding operators: their kernels, strides and pads, as `geometry` wants them."""

from dataclasses import replace
from typing import Any

import onnx
from onnx import helper

from onnx_evidence.graphs.reach import Field, slide
from onnx_evidence.graphs.shapes import Shape

# Each output cell depends on the same cell of the one data input only.
ACTIVATIONS = frozenset(
    "Relu Clip LeakyRelu PRelu Elu Selu Celu Sigmoid HardSigmoid HardSwish Swish Mish Gelu Tanh Softplus Shrink "
    "Softsign ThresholdedRelu".split()
)
UNARY = ACTIVATIONS | {"BatchNormalization", "LRN", "Dropout", "Identity"}
CONVOLUTIONS = frozenset({"Conv", "ConvInteger"})
SLIDING = CONVOLUTIONS | frozenset({"MaxPool", "AveragePool", "LpPool"})


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    """Attributes of a node as plain values.

    Parameters
    ----------
    node : onnx.NodeProto
        The node.

    Returns
    -------
    dict of str to value
        Texts are bytes.
    """
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def steps_over_cells(node: onnx.NodeProto, shapes: dict[str, Shape]) -> bool:
    """Whether a sliding operator's stride leaves cells that none of its windows reads.

    Parameters
    ----------
    node : onnx.NodeProto
        The node; of any other operator the answer is no.
    shapes : dict
        Shapes of all tensors, for kernels.

    Returns
    -------
    bool
    """
    if node.op_type not in SLIDING:
        return False
    attributes = attributes_of(node)
    kernel = kernel_of(node, shapes)
    strides = attributes.get("strides", [1] * len(kernel))
    dilations = attributes.get("dilations", [1] * len(kernel))
    return any(
        len({step * dilation % stride for step in range(size)}) < stride
        for size, stride, dilation in zip(kernel, strides, dilations, strict=True)
    )


def kernel_of(node: onnx.NodeProto, shapes: dict[str, Shape]) -> list[int]:
    """Cells that a sliding operator reads along each axis.

    Parameters
    ----------
    node : onnx.NodeProto
        The node.
    shapes : dict
        Shapes of all tensors, for the weights of a convolution.

    Returns
    -------
    list of int
    """
    weight = shapes.get(node.input[1], ()) if node.op_type in CONVOLUTIONS else ()
    return list(attributes_of(node).get("kernel_shape") or [side or 1 for side in weight[2:]])


def slid(node: onnx.NodeProto, field: Field, shape: Shape, shapes: dict[str, Shape]) -> Field | None:
    """The field after a sliding operator.

    Parameters
    ----------
    node : onnx.NodeProto
        One of `SLIDING`.
    field : Field
        Of the cells that it reads.
    shape : tuple of (int or None)
        Of what it reads: batch, channels, rows, columns.
    shapes : dict
        Shapes of all tensors, for kernels.

    Returns
    -------
    Field or None
        None where it does not slide along two axes.
    """
    attributes = attributes_of(node)
    kernel = kernel_of(node, shapes)
    if len(kernel) != 2 or len(shape) != 4:
        return None
    strides = attributes.get("strides", [1, 1])
    dilations = attributes.get("dilations", [1, 1])
    automatic = attributes.get("auto_pad", b"NOTSET").decode()
    padded = automatic.startswith("SAME") or any(attributes.get("pads", [0]))
    if list(kernel) == list(shape[2:]) and not padded:
        return replace(field, everything=True)
    pads = list(attributes.get("pads", [0] * 4))[:2]
    if automatic.startswith("SAME"):
        pads = [
            _same_pad(side or 1, k, s, d, lower=automatic == "SAME_LOWER")
            for side, k, s, d in zip(shape[2:], kernel, strides, dilations, strict=True)
        ]
    return slide(field, kernel, strides, dilations, pads)


def _same_pad(side: int, kernel: int, stride: int, dilation: int, *, lower: bool) -> int:
    total = max((-(-side // stride) - 1) * stride + (kernel - 1) * dilation + 1 - side, 0)
    return total - total // 2 if lower else total // 2
