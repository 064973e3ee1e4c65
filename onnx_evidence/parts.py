"""Parts of a graph as models of their own: from one tensor to others.

What asks only for the shape of a tensor outside the part is rebuilt from the batch size of the part's own input.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnx_evidence.model import Model
from onnx_evidence.nodes import ancestors, node_inputs
from onnx_evidence.shapes import Shape, asked_sides

Source = tuple[str, tuple[int, int, int]]


class Whole(Protocol):
    """The graph that parts are taken of; `graph.Graph` is one.

    Attributes
    ----------
    model : Model
        The file.
    nodes : list of onnx.NodeProto
        In topological order.
    producer : mapping of str to onnx.NodeProto
        The node that makes each tensor.
    constants : mapping of str to onnx.TensorProto
        Initializers.
    shapes : mapping of str to Shape
        Of all tensors.
    """

    model: Model
    nodes: list[onnx.NodeProto]
    producer: dict[str, onnx.NodeProto]
    constants: dict[str, onnx.TensorProto]
    shapes: dict[str, Shape]

    def is_free_shape(self, node: onnx.NodeProto) -> bool:
        """Whether a node only asks for the shape of data, which follows from the batch size anywhere."""
        ...


def part(whole: Whole, source: Source, targets: Sequence[str]) -> onnx.ModelProto:
    """The model from one tensor to others.

    Parameters
    ----------
    whole : Whole
        The graph.
    source : (str, (int, int, int))
        The tensor that becomes the input, and its channels, rows and columns.
    targets : sequence of str
        The tensors that become outputs.

    Returns
    -------
    onnx.ModelProto
        In the opset of the whole.
    """
    wanted = {
        id(node) for target in targets for node in ancestors(target, whole.producer, {source[0]}, whole.is_free_shape)
    }
    kept = [node for node in whole.nodes if id(node) in wanted]
    inside = {source[0], *(name for node in kept for name in node.output)}
    nodes: list[onnx.NodeProto] = []
    for node in kept:
        outside = whole.is_free_shape(node) and node.input[0] not in inside
        nodes += _rebuild_shape(node, source[0], whole.shapes) if outside else [node]
    return _assemble(whole, nodes, source, targets)


def _rebuild_shape(node: onnx.NodeProto, source: str, shapes: Mapping[str, Shape]) -> list[onnx.NodeProto]:
    """Nodes that make the shape of a tensor from the batch size of ``source``."""
    output, shape = node.output[0], shapes[node.input[0]]

    def constant(name: str, values: Sequence[int | None]) -> onnx.NodeProto:
        tensor = numpy_helper.from_array(np.array(values, np.int64), f"{output}/{name}")
        return helper.make_node("Constant", [], [tensor.name], value=tensor)

    asked = asked_sides(node)
    nodes = [
        helper.make_node("Shape", [source], [f"{output}/source"]),
        constant("zero", [0]),
        constant("rest", shape[1:]),
        helper.make_node("Gather", [f"{output}/source", f"{output}/zero"], [f"{output}/batch"]),
        helper.make_node("Concat", [f"{output}/batch", f"{output}/rest"], [f"{output}/whole"], axis=0),
    ]
    if asked == slice(None):
        nodes[-1].output[0] = output
        return nodes
    # Since opset 15 only a part of the shape may be asked for.
    start, stop, _ = asked.indices(len(shape))
    slicing = helper.make_node("Slice", [f"{output}/whole", f"{output}/start", f"{output}/stop"], [output])
    return [*nodes, constant("start", [start]), constant("stop", [stop]), slicing]


def _assemble(whole: Whole, nodes: list[onnx.NodeProto], source: Source, outputs: Sequence[str]) -> onnx.ModelProto:
    used = {name for node in nodes for name in node_inputs(node)}
    model = whole.model
    batch: int | str = model.batch or "N"
    kinds = [model.tensors[name].elem_type if name in model.tensors else TensorProto.FLOAT for name in outputs]
    graph = helper.make_graph(
        nodes,
        model.proto.graph.name or "model",
        [helper.make_tensor_value_info(source[0], TensorProto.FLOAT, [batch, *source[1]])],
        [helper.make_tensor_value_info(name, kind, None) for name, kind in zip(outputs, kinds, strict=True)],
        [tensor for name, tensor in whole.constants.items() if name in used],
    )
    made = helper.make_model(graph, opset_imports=model.proto.opset_import, ir_version=max(model.proto.ir_version, 4))
    made.functions.extend(model.proto.functions)
    return made
