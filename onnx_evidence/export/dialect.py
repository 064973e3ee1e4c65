"""What is added, in the opset of the deployed file: another number there, and runtimes compute the file otherwise.

Backward graphs are of opset 18 or newer. Of what they are made of few operators are written otherwise before, and those
are spelt so; where that cannot be, the file is brought to the newer opset.
"""

from collections.abc import Sequence

import onnx
from onnx import defs, helper

from onnx_evidence.graphs import Net, is_standard, opset_of
from onnx_evidence.types import AnyArray

# What files are not kept in: too much was written otherwise before.
OLDEST = 13


def lowered(model: onnx.ModelProto, opset: int) -> onnx.ModelProto | None:
    """A model in an older opset, `OLDEST` or newer; None where something in it has no older form."""
    if opset_of(model.opset_import, 1) <= opset:
        return model
    net = Net(model)
    nodes = [_older(node, net, opset) for node in net.nodes]
    kept = [node for node in nodes if node is not None]
    if len(kept) < len(nodes):
        return None
    found = net.model_of(kept, model.graph.input, model.graph.output, model.graph.name)
    del found.opset_import[:]
    found.opset_import.append(helper.make_opsetid("", opset))
    return found


def lower(net: Net, first: int, opset: int) -> bool:
    """Let the nodes from a place on be of an older opset; whether that can be."""
    nodes = [_older(node, net, opset) for node in net.nodes[first:]]
    kept = [node for node in nodes if node is not None]
    if len(kept) < len(nodes):
        return False
    net.nodes[first:] = kept
    net.forget()
    return True


def _older(node: onnx.NodeProto, net: Net, opset: int) -> onnx.NodeProto | None:
    """A node as it was written in an opset; None where it could not be."""
    if not is_standard(node) or any(each.HasField("g") for each in node.attribute):
        return None
    if not defs.has(node.op_type, max_inclusive_version=opset):
        return None
    schema = defs.get_schema(node.op_type, max_inclusive_version=opset)
    spelt = _spelt(node, net, schema)
    given = {each.name for each in spelt.attribute}
    return spelt if given <= set(schema.attributes) and len(spelt.input) <= schema.max_input else None


def _spelt(node: onnx.NodeProto, net: Net, schema: defs.OpSchema) -> onnx.NodeProto:
    axes = net.array(node.input[1]) if node.op_type.startswith("Reduce") and len(node.input) > 1 else None
    if axes is not None and "axes" in schema.attributes:
        return _with(node, node.input[:1], {"axes": [int(axis) for axis in _flat(axes)]}, "noop_with_empty_axes")
    if node.op_type == "Split" and len(node.input) == 1 and "num_outputs" not in schema.attributes:
        return _with(node, node.input, {}, "num_outputs")  # as many as there are, all alike
    return node


def _flat(axes: AnyArray) -> AnyArray:
    return axes.reshape(-1)


def _with(
    node: onnx.NodeProto, inputs: Sequence[str], attributes: dict[str, list[int]], without: str
) -> onnx.NodeProto:
    found = onnx.NodeProto()
    found.CopyFrom(node)
    found.input[:] = inputs
    kept = [each for each in node.attribute if each.name != without]
    del found.attribute[:]
    found.attribute.extend(kept)
    found.attribute.extend(helper.make_attribute(name, value) for name, value in attributes.items())
    return found
