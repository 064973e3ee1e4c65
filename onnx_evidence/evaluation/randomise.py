"""Re-drawing a network's weights: the same graph, the same numbers in every filter, in another order.

Adebayo et al. 2018 (arXiv 1810.03292, section 4) randomise the parameters of a network in its training framework. Here
the initialisers of the deployed file are re-drawn: nothing is written, and what is not re-drawn is shared with the
model that was opened. Weights inside ONNX functions and subgraphs (If, Loop) stay as they are.
"""

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from onnx_evidence.cuts import Graph
from onnx_evidence.deployed import DeployedModel
from onnx_evidence.errors import ModelError
from onnx_evidence.evidence import generator, key_of
from onnx_evidence.graphs import array_of
from onnx_evidence.types import AnyArray

_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16})
# Operators that hand a weight on with its axes as they are.
_UNCHANGED = frozenset({"Identity", "Cast", "Dropout"})
_QUANTISED = frozenset(
    "QLinearConv QLinearMatMul ConvInteger MatMulInteger QuantizeLinear DequantizeLinear QGemm".split()
)

# How much of the network is re-drawn, from the output downwards.
_CASCADE = {"last quarter": 0.25, "last half": 0.5, "last three quarters": 0.75, "all layers": 1.0}


@dataclass(frozen=True)
class Weight:
    """A weight of the network that can be re-drawn."""

    name: str  # the initialiser
    layer: str  # output of the first node that it is a weight of
    position: int  # of that node in `Graph.nodes`
    axis: int  # of its output units (filters, or columns of a matrix); entries are shuffled inside each


@dataclass(frozen=True)
class Stage:
    """A part of the network that is re-drawn together."""

    # 'last layer', 'last quarter', 'last half', 'last three quarters', 'all layers', 'tail only' or 'head only'.
    name: str
    weights: tuple[Weight, ...]


def find_weights(graph: Graph) -> tuple[Weight, ...]:
    """The weights of all convolutions and matrix products, in graph order, each at the first layer that reads it.

    Biases and the parameters of normalisations stay: each was fitted to the scale of one unit, which `redraw` keeps.
    """
    quantised = sorted({node.op_type for node in graph.nodes} & _QUANTISED)
    if quantised:
        raise ModelError(
            f"{graph.model.path}: the weights are quantised ({', '.join(quantised)}), and codes cannot be re-drawn: "
            "check the float model that it was made from"
        )
    found: dict[str, Weight] = {}
    for position, node in enumerate(graph.nodes):
        for slot, axis in _slots(node):
            if node.input[slot] in graph.data:
                continue
            held = _follow(graph, node.input[slot], axis)
            if held is not None:
                found.setdefault(held[0], Weight(held[0], node.output[0], position, held[1]))
    if not found:
        raise ModelError(
            f"{graph.model.path}: no convolution or matrix product with weights of its own was found: there is nothing "
            "to re-draw"
        )
    return tuple(found.values())


def behind(graph: Graph, weights: Sequence[Weight], cut: str) -> tuple[Weight, ...]:
    """The weights of the tail of a cut, all of them at the model's input; all others are its head's."""
    place = next((number for number, node in enumerate(graph.nodes) if cut in node.output), -1)
    return tuple(weight for weight in weights if weight.position > place)


def choose_stages(deployed: DeployedModel, cuts: Sequence[str]) -> list[Stage]:
    """What is re-drawn in turn, for cuts in graph order: ever larger parts, all layers; the tail and the head alone."""
    graph = deployed.graph
    weights = find_weights(graph)
    tails = {name: behind(graph, weights, name) for name in (*cuts, *(cut.name for cut in graph.cuts))}
    inside = [name for name, tail in tails.items() if 0 < len(tail) < len(weights)]
    explained = [name for name in cuts if name in inside]
    sizes = {"last layer": 1} | {name: max(1, round(share * len(weights))) for name, share in _CASCADE.items()}
    stages = [Stage(name, weights[-size:]) for name, size in sizes.items()]
    if inside:
        # Where no explained cut has weights on both sides (the model's input has none before it), the last cut of the
        # graph that has them takes its place.
        first, last = (explained[0], explained[-1]) if explained else (inside[-1], inside[-1])
        head = tuple(weight for weight in weights if weight not in tails[first])
        stages += [Stage("tail only", tails[last]), Stage("head only", head)]
    return stages


def _slots(node: onnx.NodeProto) -> Iterator[tuple[int, int]]:
    """Inputs of a node that may be weights, each with the axis of its output units."""
    if node.op_type == "Conv":
        yield 1, 0
    elif node.op_type == "ConvTranspose":
        yield 1, 1
    elif node.op_type == "MatMul":
        yield from ((0, -2), (1, -1))
    elif node.op_type == "Gemm":
        flags = {each.name: each.i for each in node.attribute}
        yield 0, 1 if flags.get("transA") else 0
        yield 1, 0 if flags.get("transB") else 1


def _follow(graph: Graph, name: str, axis: int) -> tuple[str, int] | None:
    """The tensor that a weight is made from, and the axis of its units there; None if it cannot be told."""
    while (values := graph.net.constants.get(name)) is None:
        node = graph.net.producer.get(name)
        if node is None:
            return None
        if node.op_type == "Transpose":
            order = next((list(each.ints) for each in node.attribute if each.name == "perm"), None)
            axis = -1 - axis if order is None else order[axis]
        elif node.op_type not in _UNCHANGED:
            return None
        name = node.input[0]
    if values.data_type not in _FLOATS or len(values.dims) < 2:
        return None
    axis %= len(values.dims)
    # A kernel whose entries are all equal, as in upsampling, stays: nothing was learnt there, and no order changes it.
    units = _by_unit(array_of(values), axis)
    return (name, axis) if bool((units != units[:, :1]).any()) else None


def redraw(deployed: DeployedModel, weights: Iterable[Weight], seed: int = 0) -> DeployedModel:
    """The model with some of its weights re-drawn, ready to run; the one given stays as it is, and shares all else.

    Entries are shuffled inside each output unit: its mean, its spread and every other moment stay exactly what they
    were, so do the scales that biases and normalisations were fitted to, and activations stay finite.
    """
    _ = deployed.graph.cuts  # found once, for all models that are made of this one
    graph = copy.copy(deployed.graph)
    graph.net = graph.net.copy()
    for weight in weights:
        values = graph.net.array(weight.name)
        assert values is not None  # it was found there
        shuffled = _shuffle(values, weight.axis, seed, weight.name)
        graph.net.store(numpy_helper.from_array(shuffled, weight.name))
    return deployed.of_graph(graph)


def _by_unit(values: AnyArray, axis: int) -> AnyArray:
    """One row of entries per output unit."""
    return np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)


def _shuffle(values: AnyArray, axis: int, seed: int, name: str) -> AnyArray:
    """A copy with the entries of every unit along ``axis`` in an order of its own."""
    # Keyed by the tensor's name: whatever else is re-drawn changes no tensor's draw.
    drawn = generator(seed, key_of(name.encode())).permuted(_by_unit(values, axis), axis=1)
    moved = np.moveaxis(values, axis, 0).shape
    return np.ascontiguousarray(np.moveaxis(drawn.reshape(moved), 0, axis))
