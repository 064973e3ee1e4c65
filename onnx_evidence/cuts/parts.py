"""Parts of a graph as models of their own: from one tensor to others.

What asks only for the shape of a tensor outside the part is rebuilt from the batch size of the part's own input. What
goes in and comes out is (N, channels, rows, columns) in float32: nodes at both ends see to that (`arranging`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import onnx
from onnx import TensorProto, helper

from onnx_evidence.cuts.arranging import arrange, restore
from onnx_evidence.cuts.cells import Inside
from onnx_evidence.graphs import Net, Shape, asked_sides
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
    net : Net
        Its nodes and constants.
    shapes : mapping of str to Shape
        Of all tensors.
    """

    model: Model
    net: Net
    shapes: dict[str, Shape]

    def is_free_shape(self, node: onnx.NodeProto) -> bool:
        """Whether a node only asks for the shape of data, which follows from the batch size anywhere."""
        ...


def part(whole: Whole, source: End, targets: Sequence[End]) -> onnx.ModelProto:
    """The model from one tensor, which becomes its input, to others, its outputs; in the opset of the whole."""
    names = [target.name for target in targets]
    kept = whole.net.needed(*names, stop={source.name}, is_leaf=whole.is_free_shape)
    inside = {source.name, *(name for node in kept for name in node.output)}
    net = whole.net.copy()
    net.take()
    entry = _enter(net, source, rounding(source.name, whole.net))
    for node in kept:
        if whole.is_free_shape(node) and node.input[0] not in inside:
            _rebuild_shape(net, node, entry, whole.shapes[node.input[0]])
        else:
            net.add(node)
    given = [
        target.name if target.is_plain or target.inside is None else arrange(net, target.name, target.inside)
        for target in targets
    ]
    return _assemble(whole.model, net, (entry, source.shape), list(zip(given, targets, strict=True)))


def _enter(net: Net, source: End, quantiser: tuple[onnx.NodeProto, onnx.NodeProto] | None) -> str:
    """Write the nodes that make the source of a part's input, whose name is returned.

    Behind a quantiser these repeat its rounding: codes survive that, and the runtime finds the pairs of quantisers that
    it computes with integers between.
    """
    made = entry = source.name if quantiser is None else net.fresh(f"{source.name}/float")
    if source.inside is not None and not source.is_plain:
        entry = net.fresh(f"{source.name}/cells")
        restore(net, entry, made, source.inside)
    if quantiser is not None:
        codes = net.fresh(f"{source.name}/codes")
        for node, names in zip(quantiser, ((made, codes), (codes, source.name)), strict=True):
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.name = f"{names[1]}/again"
            copy.input[0], copy.output[0] = names
            net.add(copy)
    return entry


def rounding(tensor: str, net: Net) -> tuple[onnx.NodeProto, onnx.NodeProto] | None:
    """The QuantizeLinear and DequantizeLinear that a tensor comes out of; None where it comes out of other things."""
    after = net.producer.get(tensor)
    before = net.producer.get(after.input[0]) if after is not None and after.op_type == "DequantizeLinear" else None
    if after is None or before is None or before.op_type != "QuantizeLinear":
        return None
    return before, after


def _rebuild_shape(net: Net, node: onnx.NodeProto, source: str, shape: Shape) -> None:
    """Write nodes that make the shape of a tensor from the batch size of ``source``."""
    output, asked = node.output[0], asked_sides(node)

    def constant(name: str, *values: int | None) -> str:
        return net.constant(f"{output}/{name}", np.array(values, np.int64))

    sides = net.write("Shape", [source], net.fresh(f"{output}/source"))
    batch = net.write("Gather", [sides, constant("zero", 0)], net.fresh(f"{output}/batch"))
    whole = output if asked == slice(None) else net.fresh(f"{output}/whole")
    net.write("Concat", [batch, constant("rest", *shape[1:])], whole, axis=0)
    if whole != output:
        # Since opset 15 only a part of the shape may be asked for.
        start, stop, _ = asked.indices(len(shape))
        net.write("Slice", [whole, constant("start", start), constant("stop", stop)], output)


def _assemble(
    model: Model, net: Net, source: tuple[str, tuple[int, int, int] | None], outputs: Sequence[tuple[str, End]]
) -> onnx.ModelProto:
    batch: int | str = model.batch or "N"
    kinds = [
        model.tensors[end.name].elem_type if end.is_plain and end.name in model.tensors else TensorProto.FLOAT
        for _, end in outputs
    ]
    return net.model_of(
        net.nodes,
        [helper.make_tensor_value_info(source[0], TensorProto.FLOAT, [batch, *(source[1] or ())])],
        [helper.make_tensor_value_info(name, kind, None) for (name, _), kind in zip(outputs, kinds, strict=True)],
        model.proto.graph.name or "model",
    )
