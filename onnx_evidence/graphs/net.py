"""A graph that is read and edited: who makes and who reads each tensor, free names, nodes as they are written."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnx_evidence.graphs.apart import array_of
from onnx_evidence.graphs.nodes import bodies, node_inputs, opset_of
from onnx_evidence.types import AnyArray


def _never(node: onnx.NodeProto) -> bool:
    """By default no node is a leaf, and none stops anything."""
    return False


class Net:
    """A model's graph at work.

    What is written stands here alone until `finish` puts it into the model; nodes that stand there are changed at once.
    Maps are made once, when they are first asked for; `add`, `write`, `store` and `rename` keep them right, each in
    time that does not grow with the graph (`rename` with the nodes it goes through). `take`, `redirect`, `sort` and
    `finish` drop who makes and who reads what, to be found anew; whoever changes nodes in another way calls `forget`.

    Parameters
    ----------
    proto : onnx.ModelProto
        The model.
    graph : onnx.GraphProto, optional
        A graph inside one of its nodes, to be read; by default the model's own.

    Attributes
    ----------
    nodes : list of onnx.NodeProto
        In order; the model's own as long as nothing is written.
    opset : int
        Version of the standard operators; 0 where the model names none.
    """

    def __init__(self, proto: onnx.ModelProto, graph: onnx.GraphProto | None = None) -> None:
        self.proto, self.graph = proto, proto.graph if graph is None else graph
        self.opset = opset_of(proto.opset_import)
        self.nodes: list[onnx.NodeProto] = list(self.graph.node)
        self._is_anew = False

    # --- reading ------------------------------------------------------------------------------------------------------

    @cached_property
    def constants(self) -> dict[str, onnx.TensorProto]:
        """Initializers by name, those that were written included."""
        return {tensor.name: tensor for tensor in self.graph.initializer}

    @cached_property
    def producer(self) -> dict[str, onnx.NodeProto]:
        """The node that makes each tensor."""
        return {name: node for node in self.nodes for name in node.output if name}

    @cached_property
    def readers(self) -> dict[str, list[onnx.NodeProto]]:
        """The nodes that read each tensor, those that only do so inside of them included, each once and in order."""
        found: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            _note_reader(found, node)
        return found

    @cached_property
    def taken(self) -> set[str]:
        """Every name that a tensor has; those inside of nodes are left aside."""
        found = {value.name for value in (*self.graph.input, *self.graph.output)}.union(self.constants)
        return found.union(*(node.output for node in self.nodes))

    @property
    def inputs(self) -> list[onnx.ValueInfoProto]:
        """What the graph takes, without weights, which old files list."""
        return [value for value in self.graph.input if value.name not in self.constants]

    @property
    def outputs(self) -> list[str]:
        """What the graph gives."""
        return [value.name for value in self.graph.output]

    def array(self, name: str) -> AnyArray | None:
        """The value of a constant; None where a tensor is none."""
        tensor = self.constants.get(name)
        return None if tensor is None else array_of(tensor)

    def ancestors(
        self, *names: str, stop: Iterable[str] = (), is_leaf: Callable[[onnx.NodeProto], bool] = _never
    ) -> Iterator[onnx.NodeProto]:
        """Nodes that tensors depend on, not looking behind the tensors in ``stop`` nor behind leaf nodes.

        Parameters
        ----------
        *names : str
            Where to start.
        stop : iterable of str
            Tensors that are not looked behind.
        is_leaf : callable
            Whether a node is not looked behind; by default none is a leaf.

        Yields
        ------
        onnx.NodeProto
            Each once, not in order.
        """
        seen, waiting = set(stop), [*reversed(names)]
        while waiting:
            name = waiting.pop()
            if name in seen or name not in self.producer:
                continue
            node = self.producer[name]
            seen.update(node.output)
            yield node
            if not is_leaf(node):
                waiting += node_inputs(node)

    def needed(
        self, *names: str, stop: Iterable[str] = (), is_leaf: Callable[[onnx.NodeProto], bool] = _never
    ) -> list[onnx.NodeProto]:
        """The same nodes as `ancestors`, in the order of the graph."""
        found = {id(node) for node in self.ancestors(*names, stop=stop, is_leaf=is_leaf)}
        return [node for node in self.nodes if id(node) in found]

    def reached(self, *names: str, stops: Callable[[onnx.NodeProto], bool] = _never) -> set[str]:
        """Tensors that depend on some, these included, in a graph whose nodes are in order.

        Parameters
        ----------
        *names : str
            Where to start.
        stops : callable
            Whether nothing comes through a node; by default something does through all.

        Returns
        -------
        set of str
        """
        found = set(names)
        for node in self.nodes:
            if not found.isdisjoint(node_inputs(node)) and not stops(node):
                found.update(node.output)
        return found

    def copy(self) -> "Net":
        """The same graph, to be written to apart; nodes and values of constants are shared."""
        twin = copy(self)
        twin.nodes, twin.constants, twin.taken = [*self.nodes], {**self.constants}, {*self.taken}
        twin.forget()
        return twin

    # --- writing ------------------------------------------------------------------------------------------------------

    def fresh(self, name: str, *, counted: bool = False) -> str:
        """A name that no tensor has; it is taken from now on.

        Parameters
        ----------
        name : str
            What it should be.
        counted : bool
            Whether a number at its end tells it from others, in place of strokes.

        Returns
        -------
        str
        """
        stem, number = name, 1
        while name in self.taken:
            number += 1
            name = f"{stem}{number}" if counted else f"{name}_"
        self.taken.add(name)
        return name

    def constant(self, name: str, value: AnyArray) -> str:
        """Add a constant; what it is called is returned, which is ``name`` where that is free."""
        return self.store(numpy_helper.from_array(np.asarray(value), self.fresh(name)))

    def store(self, tensor: onnx.TensorProto) -> str:
        """Add a constant under its own name, which is returned."""
        self.constants[tensor.name] = tensor
        return str(tensor.name)

    def add(self, *nodes: onnx.NodeProto) -> None:
        """Add nodes at the end."""
        self.nodes += nodes
        for node in nodes:
            if "taken" in vars(self):
                self.taken.update(node.output)
            if "producer" in vars(self):
                self.producer.update({name: node for name in node.output if name})
            if "readers" in vars(self):
                _note_reader(self.readers, node)

    def write(self, op_type: str, inputs: Sequence[str], *outputs: str, name: str = "", **attributes: Any) -> str:
        """Add a node of a standard operator.

        Parameters
        ----------
        op_type : str
            The operator.
        inputs : sequence of str
            What it reads; '' for what is left out, and not written at the end.
        *outputs : str
            What it makes.
        name : str, optional
            The node's own; by default that of its first output.
        **attributes
            Its attributes; those that are None are left out.

        Returns
        -------
        str
            The first output.
        """
        while inputs and not inputs[-1]:
            inputs = inputs[:-1]
        self.add(helper.make_node(op_type, inputs, outputs, name or outputs[0], **attributes))
        return outputs[0]

    def redirect(self, names: Mapping[str, str]) -> None:
        """Let all nodes, and the graphs in them, read other tensors, which none of these graphs hides."""
        for node in self.nodes:
            rename_inputs(node, names)
        self.forget()

    def rename(self, names: Mapping[str, str], start: int = 0) -> None:
        """Call tensors by other names, which the nodes from a place on make, and they alone read."""
        for node in self.nodes[start:]:
            for field in (node.input, node.output):
                field[:] = [names.get(name, name) for name in field]
        vars(self).pop("readers", None)
        if "producer" in vars(self):
            made = [name for name in names if name in self.producer]
            self.producer.update({names[name]: self.producer.pop(name) for name in made})

    def take(self) -> list[onnx.NodeProto]:
        """All nodes, taken out to be written anew."""
        _ = self.taken  # what it holds stays taken
        nodes, self.nodes, self._is_anew = self.nodes, [], True
        self.forget()
        return nodes

    def forget(self) -> None:
        """Drop the maps of who makes and who reads what."""
        vars(self).pop("producer", None)
        vars(self).pop("readers", None)

    def sort(self) -> bool:
        """Put nodes behind those that they read from; some converters append nodes, and ONNX Runtime does not mind.

        Returns
        -------
        bool
            Whether the order was changed; a graph with a cycle is left as it is.
        """
        place = {id(node): place for place, node in enumerate(self.nodes)}
        needs = {
            here: {place[id(self.producer[name])] for name in node_inputs(node) if name in self.producer}
            for here, node in enumerate(self.nodes)
        }
        if all(max(before, default=-1) < here for here, before in needs.items()):
            return False
        try:
            order = list(TopologicalSorter(needs).static_order())
        except CycleError:
            return False
        nodes = self.take()
        self.add(*(nodes[here] for here in order))
        return True

    # --- back to models -----------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Put what was written into the model."""
        standing = len(self.graph.node)
        if self._is_anew:
            standing, self._is_anew = 0, False
            del self.graph.node[:]
        self.graph.node.extend(self.nodes[standing:])
        self.nodes = list(self.graph.node)
        self.forget()
        own = {tensor.name for tensor in self.graph.initializer}
        for name in [name for name in self.constants if name not in own]:
            # One at a time, so that no two copies of all are held.
            self.graph.initializer.append(self.constants[name])
            self.constants[name] = self.graph.initializer[-1]

    def unlist(self) -> None:
        """List weights among the inputs no more, in the model itself."""
        inputs = self.inputs
        if len(inputs) < len(self.graph.input):
            del self.graph.input[:]
            self.graph.input.extend(inputs)
            # Before version 4 weights had to be listed.
            self.proto.ir_version = max(self.proto.ir_version, 4)

    def model_of(
        self,
        nodes: Sequence[onnx.NodeProto],
        inputs: Sequence[onnx.ValueInfoProto],
        outputs: Sequence[onnx.ValueInfoProto],
        name: str,
        ir_version: int = 4,
    ) -> onnx.ModelProto:
        """A model of some nodes, with the constants that they read.

        Parameters
        ----------
        nodes : sequence of onnx.NodeProto
            In order.
        inputs, outputs : sequence of onnx.ValueInfoProto
            What it takes and gives.
        name : str
            Of its graph.
        ir_version : int
            It has this at least.

        Returns
        -------
        onnx.ModelProto
            In the opset of this one.
        """
        read = {each for node in nodes for each in node_inputs(node)}
        constants = [tensor for each, tensor in self.constants.items() if each in read]
        return helper.make_model(
            helper.make_graph(nodes, name, inputs, outputs, constants),
            opset_imports=self.proto.opset_import,
            ir_version=max(self.proto.ir_version, ir_version),
            functions=self.proto.functions,
        )


@contextmanager
def with_outputs(proto: onnx.ModelProto, names: Sequence[str]) -> Iterator[onnx.ModelProto]:
    """The graph itself with other outputs for a while, since to copy its weights takes memory.

    Parameters
    ----------
    proto : onnx.ModelProto
        Changed in place, and put back, nodes and initializers that were added at the ends meanwhile included.
    names : sequence of str
        Tensors.

    Yields
    ------
    onnx.ModelProto
    """
    graph = proto.graph
    nodes, constants = len(graph.node), len(graph.initializer)
    kept = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in graph.output]
    del graph.output[:]
    # Without types: ONNX Runtime infers them.
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    try:
        yield proto
    finally:
        del graph.node[nodes:]
        del graph.initializer[constants:]
        del graph.output[:]
        graph.output.extend(kept)


def _note_reader(readers: dict[str, list[onnx.NodeProto]], node: onnx.NodeProto) -> None:
    for name in dict.fromkeys(node_inputs(node)):
        readers.setdefault(name, []).append(node)


def rename_inputs(node: onnx.NodeProto, names: Mapping[str, str]) -> None:
    """Let a node, and the graphs in it, read other tensors.

    Parameters
    ----------
    node : onnx.NodeProto
        Changed in place.
    names : mapping of str to str
        The new name of each tensor that gets one.
    """
    for place, name in enumerate(node.input):
        node.input[place] = names.get(name, name)
    for graph in bodies(node):
        own = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
        own |= {name for inner in graph.node for name in inner.output}
        captured = {old: new for old, new in names.items() if old not in own}
        for inner in graph.node:
            rename_inputs(inner, captured)
        for value in graph.output:
            value.name = captured.get(value.name, value.name)
