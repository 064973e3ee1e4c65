"""Parts of a graph as models of their own: from one tensor to others.

What asks only for the shape of a tensor outside the part is rebuilt from the batch size of the part's own input. What
goes in and comes out is (N, channels, rows, columns) in float32: nodes at both ends see to that (`arranging`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnx_evidence.cuts.arranging import arrange, restore
from onnx_evidence.cuts.cells import Inside
from onnx_evidence.graphs import Shape, ancestors, asked_sides, node_inputs
from onnx_evidence.intake import Model


@dataclass(frozen=True)
class End:
    """Where a part begins or ends.

    Attributes
    ----------
    name : str
        The tensor.
    shape : (int, int, int) or None
        Channels, rows and columns, as seen from outside; None where nothing is said.
    inside : Inside or None
        How these lie in the tensor; None where it is taken as it is.
    """

    name: str
    shape: tuple[int, int, int] | None = None
    inside: Inside | None = None

    @property
    def is_plain(self) -> bool:
        """Whether the tensor is taken as it is."""
        return self.inside is None or self.inside.is_plain


class Whole(Protocol):
    """The graph that parts are taken of; `cuts.Graph` is one.

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


def part(whole: Whole, source: End, targets: Sequence[End]) -> onnx.ModelProto:
    """The model from one tensor to others.

    Parameters
    ----------
    whole : Whole
        The graph.
    source : End
        The tensor that becomes the input.
    targets : sequence of End
        The tensors that become outputs.

    Returns
    -------
    onnx.ModelProto
        In the opset of the whole.
    """
    wanted = {
        id(node)
        for target in targets
        for node in ancestors(target.name, whole.producer, {source.name}, whole.is_free_shape)
    }
    kept = [node for node in whole.nodes if id(node) in wanted]
    inside = {source.name, *(name for node in kept for name in node.output)}
    entry, nodes = _enter(whole, source)
    for node in kept:
        outside = whole.is_free_shape(node) and node.input[0] not in inside
        nodes += _rebuild_shape(node, entry, whole.shapes) if outside else [node]
    names = []
    for target in targets:
        added = [] if target.is_plain or target.inside is None else arrange(target.name, target.inside)
        nodes += added
        names.append(added[-1].output[0] if added else target.name)
    return _assemble(whole, nodes, (entry, source.shape), list(zip(names, targets, strict=True)))


def _enter(whole: Whole, source: End) -> tuple[str, list[onnx.NodeProto]]:
    """The name of a part's input, and the nodes that make the source of it.

    Behind a quantiser these repeat its rounding: codes survive that, and the runtime finds the pairs of quantisers that
    it computes with integers between.
    """
    quantiser = rounding(source.name, whole.producer)
    if source.is_plain and quantiser is None:
        return source.name, []
    entry, made = f"{source.name}/cells", source.name
    if quantiser is not None:
        made = f"{source.name}/float"
    nodes = []
    if source.inside is not None and not source.is_plain:
        nodes = restore(entry, made, source.inside)
    else:
        entry = made
    if quantiser is not None:
        codes = f"{source.name}/codes"
        for node, names in zip(quantiser, ((made, codes), (codes, source.name)), strict=True):
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.name = f"{names[1]}/again"
            copy.input[0], copy.output[0] = names
            nodes.append(copy)
    return entry, nodes


def rounding(tensor: str, producer: Mapping[str, onnx.NodeProto]) -> tuple[onnx.NodeProto, onnx.NodeProto] | None:
    """The quantiser and its inverse that a tensor comes out of.

    Parameters
    ----------
    tensor : str
        The tensor.
    producer : mapping of str to onnx.NodeProto
        The node that makes each.

    Returns
    -------
    (onnx.NodeProto, onnx.NodeProto) or None
        QuantizeLinear and DequantizeLinear; None where it comes out of something else.
    """
    after = producer.get(tensor)
    before = producer.get(after.input[0]) if after is not None and after.op_type == "DequantizeLinear" else None
    if after is None or before is None or before.op_type != "QuantizeLinear":
        return None
    return before, after


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


def _assemble(
    whole: Whole,
    nodes: list[onnx.NodeProto],
    source: tuple[str, tuple[int, int, int] | None],
    outputs: Sequence[tuple[str, End]],
) -> onnx.ModelProto:
    used = {name for node in nodes for name in node_inputs(node)}
    model = whole.model
    batch: int | str = model.batch or "N"
    kinds = [
        model.tensors[end.name].elem_type if end.is_plain and end.name in model.tensors else TensorProto.FLOAT
        for _, end in outputs
    ]
    graph = helper.make_graph(
        nodes,
        model.proto.graph.name or "model",
        [helper.make_tensor_value_info(source[0], TensorProto.FLOAT, [batch, *(source[1] or ())])],
        [helper.make_tensor_value_info(name, kind, None) for (name, _), kind in zip(outputs, kinds, strict=True)],
        [tensor for name, tensor in whole.constants.items() if name in used],
    )
    made = helper.make_model(graph, opset_imports=model.proto.opset_import, ir_version=max(model.proto.ir_version, 4))
    made.functions.extend(model.proto.functions)
    return made
