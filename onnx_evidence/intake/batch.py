"""A fixed batch made free: constants that hold the batch size are found by running the sizes with another one.

The graph is gone through once, with the file's batch size K and with P = K p for a prime p. Where a tensor's sides
differ between the two lies its batch axis. A Reshape to constant sides keeps the order of the elements, so the batch
falls where as many elements of a picture lie before it, row by row, as before: the axis of the result that this is
in gets a -1. Whether the result is right is not argued but tried (`proof`).
"""

from collections.abc import Sequence
from math import prod

import numpy as np
import onnx
from onnx import helper

from onnx_evidence.graphs import Net
from onnx_evidence.intake.sizes import Sizes
from onnx_evidence.types import AnyArray

# A prime that no network has for a side.
_PRIME = 7919


class FreedBatch:
    """A graph whose batch was made free, and the way back.

    ``net`` is the graph written anew, whose model `apply` changes in place; ``changed`` counts the nodes that hold the
    batch size no more.
    """

    def __init__(self, net: Net, changed: int) -> None:
        self._net, self.changed = net, changed
        self._before, self._constants = onnx.GraphProto(), len(net.graph.initializer)

    def apply(self) -> None:
        """Put the new nodes into the graph, and open the batch of its inputs and outputs."""
        graph, before = self._net.graph, self._before
        before.node.extend(graph.node)
        before.input.extend(graph.input)
        before.output.extend(graph.output)
        self._net.finish()
        del graph.value_info[:]
        graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"
        for value in graph.output:
            value.type.tensor_type.ClearField("shape")

    def undo(self) -> None:
        """Put everything back as it was before `apply`."""
        graph, before = self._net.graph, self._before
        del graph.initializer[self._constants :]
        for mine, old in ((graph.node, before.node), (graph.input, before.input), (graph.output, before.output)):
            del mine[:]
            mine.extend(old)


def free_batch(proto: onnx.ModelProto, image: str, batch: int, target: str) -> FreedBatch | None:
    """Find what has to change for the batch to be free, instead of the ``batch`` that the file insists on.

    Channels, height and width of the input are settled; the model is not changed. None where sizes contradict each
    other, or the scores ``target`` end up without a batch.
    """
    return _Freeing(proto, image, batch).run(target)


class _Freeing:
    def __init__(self, proto: onnx.ModelProto, image: str, batch: int) -> None:
        self.net, self.batch = Net(proto), batch
        self.fixed = Sizes(proto, image, batch)
        self.free = Sizes(proto, image, batch * _PRIME)
        self.data = self.net.reached(image)
        # How many elements lie before the batch inside of its axis: 1 where it is the outer part.
        self.inside: dict[str, int] = {}
        self.changed = 0

    def run(self, target: str) -> FreedBatch | None:
        for node in self.net.take():
            self.fixed.look(node)
            if not self._take(node):
                return None
        sides = self.free.shape(target)
        if sides is not None and self._axis(target) != 0:
            return None
        return FreedBatch(self.net, self.changed)

    def _take(self, node: onnx.NodeProto) -> bool:
        """Take a node over, changed where it holds the batch size; whether its sizes then fit together."""
        changed = {
            "Reshape": self._reshape,
            "Expand": self._expand,
            "Concat": self._concat,
            "Resize": self._resize,
        }.get(node.op_type, _unchanged)(node)
        self.changed += changed is not None
        for each in [node] if changed is None else changed:
            if self.free.look(each) is not None:
                return False
            self.net.add(each)
        if self.inside and node.op_type != "Reshape":
            self._hand_on(node)
        return True

    def _axis(self, name: str) -> int | None:
        """Where the batch of a tensor is; None where it has none, or that is not known."""
        one, many = self.fixed.shape(name), self.free.shape(name)
        if one is None or many is None or len(one) != len(many):
            return None
        differs = [axis for axis, (a, b) in enumerate(zip(one, many, strict=True)) if a != b]
        return differs[0] if len(differs) == 1 and many[differs[0]] == _PRIME * one[differs[0]] else None

    def _reshape(self, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
        name, output = node.input[0], node.output[0]
        if name not in self.data or (node.input[1] in self.data and node.input[1] not in self.free.values):
            return None
        target, sides = self.free.values.get(node.input[1]), self.fixed.shape(output)
        before = self._before(name)
        if before is None or sides is None:
            # Nothing is known of what comes in: a leading K that nothing else makes up for is the batch.
            known = self.free.shape(name) is not None or target is None
            if known or target is None or target.size < 2 or target[0] != self.batch or -1 in target:
                return None
            return self._to(node, [-1, *target[1:].tolist()])
        places = [(place, before // prod(sides[:place])) for place in range(len(sides))]
        places = [(p, inside) for p, inside in places if inside * prod(sides[:p]) == before and sides[p] % inside == 0]
        if not places:
            return None
        place, inside = min(places, key=lambda found: self._rank(found, sides))
        wanted = list(sides)
        wanted[place] = _PRIME * sides[place]
        self.free.look(node)
        self.inside[output] = inside
        if self.free.shape(output) == tuple(wanted):
            return None
        wanted[place] = -1
        return self._to(node, wanted)

    def _rank(self, found: tuple[int, int], sides: Sequence[int]) -> tuple[int, int]:
        """Where the batch falls best: on an axis of its own; before other elements; behind them; in the last axis."""
        place, inside = found
        if inside > 1:
            return 2, place
        if sides[place] == self.batch:
            return 0, place
        return (3 if place == len(sides) - 1 else 1), place

    def _before(self, name: str) -> int | None:
        """Elements of a picture that lie before the batch, row by row."""
        axis, sides = self._axis(name), self.fixed.shape(name)
        return None if axis is None or sides is None else prod(sides[:axis]) * self.inside.get(name, 1)

    def _hand_on(self, node: onnx.NodeProto) -> None:
        """An axis of the same size keeps the batch at the same place inside."""
        for output in node.output:
            place = self._axis(output)
            for name in node.input:
                axis, inside = self._axis(name), self.inside.get(name, 1)
                mine, theirs = self.fixed.shape(output), self.fixed.shape(name)
                if inside > 1 and None not in (axis, place) and (mine or ())[place or 0] == (theirs or ())[axis or 0]:
                    self.inside.setdefault(output, inside)

    def _to(self, node: onnx.NodeProto, sides: Sequence[int]) -> list[onnx.NodeProto]:
        return [_with_input(node, 1, self._constant(f"{node.output[0]}/sides", np.array(sides, np.int64)))]

    def _expand(self, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
        """Sides of 1 leave the batch as it is."""
        axis, target, sides = (
            self._axis(node.input[0]),
            self.free.values.get(node.input[1]),
            self.free.shape(node.input[0]),
        )
        if axis is None or target is None or sides is None:
            return None
        place = axis + len(target) - len(sides)
        if place < 0 or target[place] in (1, sides[axis]):
            return None
        return self._to(node, [1 if here == place else side for here, side in enumerate(target.tolist())])

    def _concat(self, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
        """What is the same for all pictures, a class token for instance, is copied for each."""
        axes = {name: axis for name in node.input if (axis := self._axis(name)) is not None}
        along = next((each.i for each in node.attribute if each.name == "axis"), 1)
        alike = [name for name in dict.fromkeys(node.input) if name not in axes]
        if not alike or len(set(axes.values())) != 1:
            return None
        source, axis = next(iter(axes.items()))
        sides = [self.fixed.shape(name) for name in alike]
        if any(each is None or along % len(each) == axis or each[axis] != self.batch for each in sides):
            return None
        nodes = [self._count(node, source, axis)]
        copied = {
            name: self._copy(node, name, len(each or ()), axis, nodes) for name, each in zip(alike, sides, strict=True)
        }
        changed = onnx.NodeProto()
        changed.CopyFrom(node)
        changed.input[:] = [copied.get(name, name) for name in node.input]
        return [*_flat(nodes), changed]

    def _count(self, node: onnx.NodeProto, source: str, axis: int) -> list[onnx.NodeProto]:
        """The batch size of a tensor, as a vector of one number, the output of the last node."""
        shape, count = (self.net.fresh(f"{node.output[0]}/{word}") for word in ("shape", "batch"))
        index = self._constant(f"{node.output[0]}/axis", np.array([axis], np.int64))
        return [helper.make_node("Shape", [source], [shape]), helper.make_node("Gather", [shape, index], [count])]

    def _copy(self, node: onnx.NodeProto, name: str, rank: int, axis: int, nodes: list[list[onnx.NodeProto]]) -> str:
        """Append nodes that repeat the first row of a tensor as often as there are pictures."""
        count = nodes[0][-1].output[0]
        target, copies = (self.net.fresh(f"{node.output[0]}/{name}/{word}") for word in ("sides", "copies"))
        ones = [
            self._constant(f"{target}/{part}", np.ones(side, np.int64))
            for part, side in enumerate((axis, rank - axis - 1))
        ]
        made = [
            helper.make_node("Concat", [ones[0], count, ones[1]], [target], axis=0),
            helper.make_node("Expand", [name, target], [copies]),
        ]
        if self.batch > 1:
            row = self.net.fresh(f"{node.output[0]}/{name}/row")
            index = self._constant(f"{row}/first", np.array([0], np.int64))
            made.insert(0, helper.make_node("Gather", [name, index], [row], axis=axis))
            made[-1].input[0] = row
        nodes.append(made)
        return copies

    def _resize(self, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
        """Sizes that name the batch take it from the data."""
        sizes = self.free.values.get(node.input[3]) if len(node.input) > 3 else None
        if sizes is None or self._axis(node.input[0]) != 0 or any(each.name == "axes" for each in node.attribute):
            return None
        counting = self._count(node, node.input[0], 0)
        rest = self._constant(f"{node.output[0]}/rest", sizes[1:])
        target = self.net.fresh(f"{node.output[0]}/sides")
        joined = helper.make_node("Concat", [counting[-1].output[0], rest], [target], axis=0)
        return [*counting, joined, _with_input(node, 3, target)]

    def _constant(self, name: str, value: AnyArray) -> str:
        settled = self.net.constant(name, value)
        for sizes in (self.fixed, self.free):
            sizes.add(self.net.constants[settled])
        return settled


def _unchanged(node: onnx.NodeProto) -> None:
    """Most operators hold no batch size."""


def _with_input(node: onnx.NodeProto, place: int, name: str) -> onnx.NodeProto:
    changed = onnx.NodeProto()
    changed.CopyFrom(node)
    changed.input[place] = name
    return changed


def _flat(nodes: Sequence[Sequence[onnx.NodeProto]]) -> list[onnx.NodeProto]:
    return [each for group in nodes for each in group]
