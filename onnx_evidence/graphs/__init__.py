"""ONNX graphs as they are written: nodes, shapes, what their axes mean, and how far their cells look.

Imported by: axes, counting, cuts, deployed, intake, sessions, vjp.
"""

from onnx_evidence.graphs import reach
from onnx_evidence.graphs.fields import (
    ACTIVATIONS,
    CONVOLUTIONS,
    SLIDING,
    UNARY,
    attributes_of,
    kernel_of,
    slid,
    steps_over_cells,
)
from onnx_evidence.graphs.layout import (
    BATCH,
    CHANNELS,
    COLUMNS,
    ROWS,
    SPREAD,
    TOKENS,
    Axis,
    Layout,
    Part,
    agreed,
    channels,
    fits,
    image_layout,
    is_placed,
    merged,
    regrouped,
)
from onnx_evidence.graphs.nodes import ancestors, bytes_at_once, kind_of, multiply_adds, node_inputs, tensors_of
from onnx_evidence.graphs.reach import Field, merge, slide
from onnx_evidence.graphs.shapes import Shape, TensorInfo, asked_sides, evaluate, infer, infer_with_values, type_name

__all__ = [
    "ACTIVATIONS",
    "BATCH",
    "CHANNELS",
    "COLUMNS",
    "CONVOLUTIONS",
    "ROWS",
    "SLIDING",
    "SPREAD",
    "TOKENS",
    "UNARY",
    "Axis",
    "Field",
    "Layout",
    "Part",
    "Shape",
    "TensorInfo",
    "agreed",
    "ancestors",
    "asked_sides",
    "attributes_of",
    "bytes_at_once",
    "channels",
    "evaluate",
    "fits",
    "image_layout",
    "infer",
    "infer_with_values",
    "is_placed",
    "kernel_of",
    "kind_of",
    "merge",
    "merged",
    "multiply_adds",
    "node_inputs",
    "reach",
    "regrouped",
    "slid",
    "slide",
    "steps_over_cells",
    "tensors_of",
    "type_name",
]
