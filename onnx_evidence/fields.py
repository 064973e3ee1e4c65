"""Nominal receptive fields of ONNX nodes: which arithmetic of `geometry` each operator calls for."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import onnx
from onnx import helper

from onnx_evidence.geometry import EVERYWHERE, Field, merge, slide
from onnx_evidence.shapes import Shape

# Each output cell depends on the same cell of the one data input only.
ACTIVATIONS = frozenset(
    "Relu Clip LeakyRelu PRelu Elu Selu Celu Sigmoid HardSigmoid HardSwish Swish Mish Gelu Tanh Softplus".split()
)
UNARY = ACTIVATIONS | {"BatchNormalization", "LRN", "Dropout", "Identity"}
# Likewise, of one or several.
_LOCAL = UNARY | frozenset(
    "Add Sub Mul Div Pow Sum Max Min Mean Erf Softsign ThresholdedRelu Neg Abs Sqrt Exp Log Reciprocal Where Sin Cos "
    "Sign Floor Ceil Round Shrink Cast Concat Split QuantizeLinear DequantizeLinear".split()
)
# Each output cell depends on every cell of the inputs.
_GLOBAL = frozenset("GlobalAveragePool GlobalMaxPool GlobalLpPool InstanceNormalization GroupNormalization".split())
_SLIDING = frozenset({"Conv", "MaxPool", "AveragePool", "LpPool"})
# They keep the last two axes in place when these keep their sizes (a channel shuffle, for instance).
_RESHAPING = frozenset({"Reshape", "Transpose"})
# They move cells in ways that the arithmetic does not follow, but rows stay rows.
_LAYOUT_KEEPING = frozenset(
    "ConvTranspose Pad Resize Upsample Slice ReduceMean ReduceMax DepthToSpace SpaceToDepth".split()
)


def node_field(
    node: onnx.NodeProto, inputs: Sequence[tuple[Field | None, Shape | None]], shapes: dict[str, Shape]
) -> Field | None:
    """The receptive field of a node's output.

    Parameters
    ----------
    node : onnx.NodeProto
        The node.
    inputs : sequence of (Field or None, shape or None)
        Of the inputs that carry data.
    shapes : dict
        Shapes of all tensors, for kernels and outputs.

    Returns
    -------
    Field or None
        None where the operator moves cells about in a way that is not followed.
    """
    if node.op_type in _LOCAL:
        return _local(inputs, shapes.get(node.output[0], ()))
    if spreads_gate(node, shapes):
        return EVERYWHERE
    field, shape = inputs[0]
    if field is None or shape is None:
        return None
    if node.op_type in _SLIDING:
        return _slide(node, field, shape, shapes)
    if node.op_type in _GLOBAL:
        return replace(field, everything=True)
    if node.op_type in _RESHAPING and _keeps_grid(node, shape, shapes):
        return field
    return None


def spreads_gate(node: onnx.NodeProto, shapes: dict[str, Shape]) -> bool:
    """Whether a node copies one value per channel to every cell of a grid.

    Parameters
    ----------
    node : onnx.NodeProto
        The node.
    shapes : dict
        Shapes of all tensors.

    Returns
    -------
    bool
    """
    shape, result = (shapes.get(name, ()) for name in (node.input[0], node.output[0]))
    return node.op_type == "Expand" and len(shape) == len(result) == 4 and shape[2:] == (1, 1)


def keeps_layout(node: onnx.NodeProto, shape: Shape, shapes: dict[str, Shape]) -> bool:
    """Whether the output's axes mean what those of the input mean: batch, channels, rows, columns.

    Parameters
    ----------
    node : onnx.NodeProto
        The node.
    shape : tuple of (int or None)
        Of its first data input, whose axes mean just that.
    shapes : dict
        Shapes of all tensors.

    Returns
    -------
    bool
        False where the operator is not known to keep them.
    """
    if node.op_type in _RESHAPING:
        return _keeps_grid(node, shape, shapes)
    return node.op_type in _LOCAL | _GLOBAL | _SLIDING | _LAYOUT_KEEPING


def _local(inputs: Sequence[tuple[Field | None, Shape | None]], result: Shape) -> Field | None:
    """Unite branches; a 1 x 1 gate (squeeze and excitation) lets every cell see everything."""
    if any(shape is None for _, shape in inputs):
        return None
    cells = [(field, shape[-2:]) for field, shape in inputs if shape is not None and shape[-2:] != (1, 1)]
    if not cells:
        return merge([field for field, _ in inputs])
    # Cells put beside cells (a concatenation of rows, a split of columns) do not stay where they were.
    if any(grid != result[-2:] for _, grid in cells):
        return None
    field = merge([field for field, _ in cells])
    return replace(field, everything=True) if field is not None and len(cells) < len(inputs) else field


def _keeps_grid(node: onnx.NodeProto, shape: Shape, shapes: dict[str, Shape]) -> bool:
    result = shapes.get(node.output[0], ())
    if len(shape) < 4 or len(result) < 4 or result[-2:] != shape[-2:]:
        return False
    if node.op_type == "Transpose":
        return list(_attributes(node).get("perm", ()))[-2:] == [len(shape) - 2, len(shape) - 1]
    return True


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
    if node.op_type not in _SLIDING:
        return False
    attributes = _attributes(node)
    kernel = _kernel(node, attributes, shapes)
    strides = attributes.get("strides", [1] * len(kernel))
    dilations = attributes.get("dilations", [1] * len(kernel))
    return any(
        len({step * dilation % stride for step in range(size)}) < stride
        for size, stride, dilation in zip(kernel, strides, dilations, strict=True)
    )


def _kernel(node: onnx.NodeProto, attributes: dict[str, Any], shapes: dict[str, Shape]) -> list[int]:
    weight = shapes.get(node.input[1], ()) if node.op_type == "Conv" else ()
    return list(attributes.get("kernel_shape") or [side or 1 for side in weight[2:]])


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def _slide(node: onnx.NodeProto, field: Field, shape: Shape, shapes: dict[str, Shape]) -> Field | None:
    attributes = _attributes(node)
    kernel = _kernel(node, attributes, shapes)
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
