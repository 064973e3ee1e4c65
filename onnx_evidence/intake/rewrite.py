"""Small changes to a graph that several steps of the intake make: names, nodes, constants."""

from collections.abc import Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnx_evidence.graphs import node_inputs
from onnx_evidence.types import AnyArray

# ONNX Runtime's own domain.
VENDOR = "com.microsoft"
# Opset since which operators are standard that ONNX Runtime has in the standard domain at any.
_STANDARD_SINCE = {"LayerNormalization": 17, "SimplifiedLayerNormalization": 10**6}


def replace_nodes(graph: onnx.GraphProto, nodes: Iterable[onnx.NodeProto]) -> None:
    """Put other nodes into a graph.

    Parameters
    ----------
    graph : onnx.GraphProto
        Changed in place.
    nodes : iterable of onnx.NodeProto
        In topological order; they may be the graph's own.
    """
    kept = list(nodes)
    copies = [onnx.NodeProto() for _ in kept]
    for copy, node in zip(copies, kept, strict=True):
        copy.CopyFrom(node)
    del graph.node[:]
    graph.node.extend(copies)


def rename_inputs(node: onnx.NodeProto, names: Mapping[str, str]) -> None:
    """Let a node, and the subgraphs in it, read other tensors.

    Parameters
    ----------
    node : onnx.NodeProto
        Changed in place.
    names : mapping of str to str
        The new name of each tensor that gets one.
    """
    for place, name in enumerate(node.input):
        node.input[place] = names.get(name, name)
    for attribute in node.attribute:
        for graph in [attribute.g, *attribute.graphs] if attribute.HasField("g") else attribute.graphs:
            own = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
            own |= {name for inner in graph.node for name in inner.output}
            captured = {old: new for old, new in names.items() if old not in own}
            for inner in graph.node:
                rename_inputs(inner, captured)
            for value in graph.output:
                value.name = captured.get(value.name, value.name)


def taken_names(graph: onnx.GraphProto) -> set[str]:
    """Every name that a tensor of the graph has, subgraphs left aside.

    Parameters
    ----------
    graph : onnx.GraphProto
        The graph.

    Returns
    -------
    set of str
    """
    found = {value.name for value in (*graph.input, *graph.output)} | {tensor.name for tensor in graph.initializer}
    return found.union(*(node.output for node in graph.node))


def new_name(name: str, taken: set[str]) -> str:
    """A name that no tensor has yet; it is taken from now on.

    Parameters
    ----------
    name : str
        What it should be.
    taken : set of str
        Of `taken_names`; the new name is added.

    Returns
    -------
    str
    """
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def add_constant(graph: onnx.GraphProto, name: str, value: AnyArray, taken: set[str]) -> str:
    """Add an initializer.

    Parameters
    ----------
    graph : onnx.GraphProto
        Changed in place.
    name : str
        What it should be called.
    value : ndarray
        The constant.
    taken : set of str
        As in `new_name`.

    Returns
    -------
    str
        What it is called.
    """
    settled = new_name(name, taken)
    graph.initializer.append(numpy_helper.from_array(np.asarray(value), settled))
    return settled


def sort_nodes(graph: onnx.GraphProto) -> bool:
    """Put nodes behind those that they read from; some converters append nodes, and ONNX Runtime does not mind.

    Parameters
    ----------
    graph : onnx.GraphProto
        Changed in place where its order is wrong; a graph with a cycle is left as it is.

    Returns
    -------
    bool
        Whether the order was changed.
    """
    producer = {name: place for place, node in enumerate(graph.node) for name in node.output if name}
    needs = {
        place: {producer[name] for name in node_inputs(node) if name in producer}
        for place, node in enumerate(graph.node)
    }
    if all(max(before, default=-1) < place for place, before in needs.items()):
        return False
    try:
        order = list(TopologicalSorter(needs).static_order())
    except CycleError:
        return False
    replace_nodes(graph, [graph.node[place] for place in order])
    return True


def name_strays(proto: onnx.ModelProto) -> bool:
    """Put operators that ONNX Runtime adds to the standard domain into its own: the checker knows none of them there.

    Parameters
    ----------
    proto : onnx.ModelProto
        Changed in place.

    Returns
    -------
    bool
        Whether there were any.
    """
    opset = next((each.version for each in proto.opset_import if each.domain in ("", "ai.onnx")), 0)
    strays = [
        node
        for node in proto.graph.node
        if node.domain in ("", "ai.onnx") and opset < _STANDARD_SINCE.get(node.op_type, 0)
    ]
    for node in strays:
        node.domain = VENDOR
    if strays and all(each.domain != VENDOR for each in proto.opset_import):
        proto.opset_import.append(helper.make_opsetid(VENDOR, 1))
    return bool(strays)


class Rewriter:
    """Writes the nodes of a graph anew, some of them as others.

    Parameters
    ----------
    proto : onnx.ModelProto
        The model, with constants as initializers; `finish` changes it in place.
    """

    def __init__(self, proto: onnx.ModelProto) -> None:
        self.graph = proto.graph
        self.opset = next((each.version for each in proto.opset_import if each.domain in ("", "ai.onnx")), 0)
        self.taken = taken_names(self.graph)
        self.constants = {tensor.name: tensor for tensor in self.graph.initializer}
        self.nodes: list[onnx.NodeProto] = []

    def write(self, op_type: str, inputs: Iterable[str], output: str, name: str = "", **attributes: Any) -> str:
        """Write a standard operator with one output, whose name is returned; attributes that are None are left out."""
        given = {key: value for key, value in attributes.items() if value is not None}
        self.nodes.append(helper.make_node(op_type, list(inputs), [output], name=name or output, **given))
        return output

    def constant(self, name: str, value: AnyArray) -> str:
        """Add an initializer; its name is returned."""
        settled = add_constant(self.graph, name, value, self.taken)
        self.constants[settled] = self.graph.initializer[-1]
        return settled

    def finish(self) -> None:
        """Put what was written in place of the graph's nodes."""
        replace_nodes(self.graph, self.nodes)
