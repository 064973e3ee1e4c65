"""Control flow that constants decide: an If is replaced by its branch, a short Loop by its turns."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnx_evidence.intake.dialect import constant_tensor, known_values
from onnx_evidence.intake.rewrite import new_name, rename_inputs, replace_nodes, taken_names
from onnx_evidence.types import AnyArray

# A Loop of more turns stays one.
_TURNS = 16
# Nor are Loops, with those inside of them, written out as more nodes than that altogether.
_NODES = 2000


def settle_branches(proto: onnx.ModelProto, image: str, batch: int | None) -> int:
    """Put the branch in the place of every If whose condition is known, and the turns in that of short Loops.

    Parameters
    ----------
    proto : onnx.ModelProto
        The model, changed in place; channels, height and width of its input are settled.
    image : str
        Its input.
    batch : int or None
        The batch size that the file insists on.

    Returns
    -------
    int
        How many went. What depends on the picture stays: ONNX Runtime runs it.
    """
    settled, room = 0, [_NODES]
    while any(node.op_type in ("If", "Loop") for node in proto.graph.node):
        before = settled
        values = known_values(proto, image, batch)
        taken = taken_names(proto.graph)
        nodes: list[onnx.NodeProto] = []
        for node in proto.graph.node:
            inside = _Body(proto.graph, taken, room).replacement(node, values)
            settled += inside is not None
            nodes += [node] if inside is None else inside
        if settled == before:
            break
        replace_nodes(proto.graph, nodes)
    return settled


class _Body:
    """Puts subgraphs into the graph around them, under names of their own."""

    def __init__(self, graph: onnx.GraphProto, taken: set[str], room: list[int]) -> None:
        self.graph, self.taken, self.room = graph, taken, room

    def replacement(self, node: onnx.NodeProto, values: Mapping[str, AnyArray]) -> list[onnx.NodeProto] | None:
        if node.op_type == "If" and node.input[0] in values:
            chosen = "then_branch" if bool(np.all(values[node.input[0]])) else "else_branch"
            body = next(attribute.g for attribute in node.attribute if attribute.name == chosen)
            return self._put(body, {}, node.output, str(node.output[0]))
        if node.op_type == "Loop":
            return self._unroll(node, values)
        return None

    def _put(
        self, body: onnx.GraphProto, given: Mapping[str, str], outputs: Sequence[str], prefix: str
    ) -> list[onnx.NodeProto]:
        """The nodes of a body, whose inputs are ``given`` tensors and whose results get the names ``outputs``."""
        names = dict(given)
        for tensor in body.initializer:
            names[tensor.name] = new_name(f"{prefix}/{tensor.name}", self.taken)
            copy = self.graph.initializer.add()
            copy.CopyFrom(tensor)
            copy.name = names[tensor.name]
        nodes = []
        for inner in body.node:
            for name in inner.output:
                names[name] = new_name(f"{prefix}/{name}", self.taken) if name else ""
            if constant := constant_tensor(inner):
                constant.name = names[inner.output[0]]
                self.graph.initializer.append(constant)
                continue
            copied = onnx.NodeProto()
            copied.CopyFrom(inner)
            rename_inputs(copied, names)
            copied.output[:] = [names[name] for name in inner.output]
            nodes.append(copied)
        results = [names.get(value.name, value.name) for value in body.output]
        pairs = zip(results, outputs, strict=True)
        return nodes + [helper.make_node("Identity", [result], [name]) for result, name in pairs if name]

    def _unroll(self, node: onnx.NodeProto, values: Mapping[str, AnyArray]) -> list[onnx.NodeProto] | None:
        """The turns of a Loop of a known, small number of them that hands on states and collects nothing."""
        body = next(attribute.g for attribute in node.attribute if attribute.name == "body")
        turns = int(values[node.input[0]].item()) if node.input[0] in values else _TURNS + 1
        goes_on = not node.input[1] or bool(np.all(values.get(node.input[1], False)))
        states = list(node.input[2:])
        nodes_in_all = turns * _nodes_in(body)
        if turns > _TURNS or nodes_in_all > self.room[0] or not goes_on:
            return None
        if not _never_ends(body) or len(body.output) != 1 + len(states):
            return None
        self.room[0] -= nodes_in_all
        nodes: list[onnx.NodeProto] = []
        prefix = next(name for name in node.output if name)
        true = self._constant(f"{prefix}/true", np.array(True))
        for turn in range(turns):
            number = self._constant(f"{prefix}/{turn}/number", np.array(turn, np.int64))
            given = dict(zip((value.name for value in body.input), [number, true, *states], strict=True))
            states = [new_name(f"{prefix}/{turn}/state", self.taken) for _ in states]
            nodes += self._put(body, given, ["", *states], f"{prefix}/{turn}")
        pairs = zip(states, node.output, strict=True)
        return nodes + [helper.make_node("Identity", [state], [name]) for state, name in pairs if name]

    def _constant(self, name: str, value: AnyArray) -> str:
        settled = new_name(name, self.taken)
        self.graph.initializer.append(numpy_helper.from_array(value, settled))
        return settled


def _nodes_in(graph: onnx.GraphProto) -> int:
    """Nodes of a graph, those in its bodies included."""
    inside = (_nodes_in(each.g) for node in graph.node for each in node.attribute if each.HasField("g"))
    return len(graph.node) + sum(inside)


def _never_ends(body: onnx.GraphProto) -> bool:
    """Whether the condition that a body of a Loop gives is its own input, or true."""
    name = body.output[0].name
    makers = {node.output[0]: node for node in body.node}
    while name in makers and makers[name].op_type == "Identity":
        name = makers[name].input[0]
    constants = {tensor.name: tensor for tensor in body.initializer}
    constants |= {node.output[0]: value for node in body.node if (value := constant_tensor(node)) is not None}
    if name in constants:
        return bool(np.all(numpy_helper.to_array(constants[name])))
    return bool(name == body.input[1].name)
