"""Control flow that constants decide: an If is replaced by its branch, a short Loop by its turns."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from onnx_evidence.graphs import Net, bodies, rename_inputs
from onnx_evidence.intake.dialect import constant_tensor, known_values
from onnx_evidence.types import AnyArray

# A Loop of more turns stays one.
_TURNS = 16
# Nor are Loops, with those inside of them, written out as more nodes than that altogether.
_NODES = 2000


def settle_branches(proto: onnx.ModelProto, image: str, batch: int | None) -> int:
    """Put the branch in the place of every If whose condition is known, and the turns in that of short Loops.

    How many went is returned. The model is changed in place; channels, height and width of its input are settled, and
    ``batch`` is what the file insists on. What depends on the picture stays: ONNX Runtime runs it.
    """
    settled, room = 0, [_NODES]
    while any(node.op_type in ("If", "Loop") for node in proto.graph.node):
        before = settled
        values = known_values(proto, image, batch)
        net = _Outer(proto, room)
        for node in net.take():
            if net.settle(node, values):
                settled += 1
            else:
                net.add(node)
        if settled == before:
            break
        net.finish()
    return settled


class _Outer(Net):
    """A graph that subgraphs are put into, under names of their own."""

    def __init__(self, proto: onnx.ModelProto, room: list[int]) -> None:
        super().__init__(proto)
        self.room = room

    def settle(self, node: onnx.NodeProto, values: Mapping[str, AnyArray]) -> bool:
        """Write what a node of control flow does; False, with nothing written, where that is not known."""
        if node.op_type == "If" and node.input[0] in values:
            chosen = "then_branch" if bool(np.all(values[node.input[0]])) else "else_branch"
            body = next(attribute.g for attribute in node.attribute if attribute.name == chosen)
            self._put(body, {}, node.output, str(node.output[0]))
            return True
        return node.op_type == "Loop" and self._unroll(node, values)

    def _put(self, body: onnx.GraphProto, given: Mapping[str, str], outputs: Sequence[str], prefix: str) -> None:
        """Write the nodes of a body, whose inputs are ``given`` tensors and whose results get the names ``outputs``."""
        names = dict(given)
        for tensor in body.initializer:
            copy = onnx.TensorProto()
            copy.CopyFrom(tensor)
            copy.name = names[tensor.name] = self.fresh(f"{prefix}/{tensor.name}")
            self.store(copy)
        for inner in body.node:
            for name in inner.output:
                names[name] = self.fresh(f"{prefix}/{name}") if name else ""
            if constant := constant_tensor(inner):
                constant.name = names[inner.output[0]]
                self.store(constant)
                continue
            copied = onnx.NodeProto()
            copied.CopyFrom(inner)
            rename_inputs(copied, names)
            copied.output[:] = [names[name] for name in inner.output]
            self.add(copied)
        self._hand_on([names.get(value.name, value.name) for value in body.output], outputs)

    def _hand_on(self, results: Sequence[str], outputs: Sequence[str]) -> None:
        for result, name in zip(results, outputs, strict=True):
            if name:
                self.write("Identity", [result], name)

    def _unroll(self, node: onnx.NodeProto, values: Mapping[str, AnyArray]) -> bool:
        """Write the turns of a Loop of a known, small number of them that hands on states and collects nothing."""
        body = next(attribute.g for attribute in node.attribute if attribute.name == "body")
        turns = int(values[node.input[0]].item()) if node.input[0] in values else _TURNS + 1
        goes_on = not node.input[1] or bool(np.all(values.get(node.input[1], False)))
        states = list(node.input[2:])
        nodes_in_all = turns * _nodes_in(body)
        if turns > _TURNS or nodes_in_all > self.room[0] or not goes_on:
            return False
        if not _never_ends(Net(self.proto, body)) or len(body.output) != 1 + len(states):
            return False
        self.room[0] -= nodes_in_all
        prefix = next(name for name in node.output if name)
        true = self.constant(f"{prefix}/true", np.array(True))
        for turn in range(turns):
            number = self.constant(f"{prefix}/{turn}/number", np.array(turn, np.int64))
            given = dict(zip((value.name for value in body.input), [number, true, *states], strict=True))
            states = [self.fresh(f"{prefix}/{turn}/state") for _ in states]
            self._put(body, given, ["", *states], f"{prefix}/{turn}")
        self._hand_on(states, node.output)
        return True


def _nodes_in(graph: onnx.GraphProto) -> int:
    """Nodes of a graph, those in its bodies included."""
    return len(graph.node) + sum(_nodes_in(each) for node in graph.node for each in bodies(node))


def _never_ends(net: Net) -> bool:
    """Whether the condition that a body of a Loop gives is its own input, or true."""
    name = net.outputs[0]
    while name in net.producer and net.producer[name].op_type == "Identity":
        name = net.producer[name].input[0]
    if name in net.producer and (value := constant_tensor(net.producer[name])) is not None:
        net.store(value)
    held = net.array(name)
    return bool(name == net.graph.input[1].name if held is None else np.all(held))
