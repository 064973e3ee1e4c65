"""Facts about ONNX nodes: what they read, what they cost, what they depend on."""

from collections.abc import Iterable, Iterator, Mapping
from math import prod

import onnx

from onnx_evidence.graphs.shapes import Shape

# Bytes of a number.
_FLOAT = 4
# The two names of the domain of standard operators.
_STANDARD = ("", "ai.onnx")


def node_inputs(node: onnx.NodeProto) -> list[str]:
    """Every tensor that a node reads, those that its subgraphs (If, Loop) capture included.

    Parameters
    ----------
    node : onnx.NodeProto
        The node.

    Returns
    -------
    list of str
    """
    names = [name for name in node.input if name]
    for graph in bodies(node):
        own = {name for inner in graph.node for name in inner.output}
        own |= {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
        captured = {name for inner in graph.node for name in node_inputs(inner)}
        captured |= {value.name for value in graph.output}
        names += sorted(captured - own)
    return names


def bodies(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The graphs inside a node, in the order of its attributes.

    Parameters
    ----------
    node : onnx.NodeProto
        Any node.

    Returns
    -------
    list of onnx.GraphProto
    """
    found: list[onnx.GraphProto] = []
    for attribute in node.attribute:
        found += [attribute.g, *attribute.graphs] if attribute.HasField("g") else attribute.graphs
    return found


def is_standard(node: onnx.NodeProto) -> bool:
    """Whether a node's operator is of the standard domain."""
    return node.domain in _STANDARD


def opset_of(imports: Iterable[onnx.OperatorSetIdProto], default: int = 0) -> int:
    """The version of the standard operators that a model or a function imports; ``default`` where it imports none."""
    return next((each.version for each in imports if each.domain in _STANDARD), default)


def kind_of(node: onnx.NodeProto) -> str:
    """An operator's name, with its domain where that is not the standard one.

    Parameters
    ----------
    node : onnx.NodeProto
        The node.

    Returns
    -------
    str
    """
    return str(node.op_type) if is_standard(node) else f"{node.domain}.{node.op_type}"


def multiply_adds(node: onnx.NodeProto, shapes: dict[str, Shape]) -> int:
    """Multiply-adds of one node for one picture; 0 for operators that only move or map values.

    Parameters
    ----------
    node : onnx.NodeProto
        The node.
    shapes : dict
        Shapes of all tensors.

    Returns
    -------
    int
    """
    if node.op_type not in ("Conv", "ConvInteger", "DeformConv", "ConvTranspose", "Gemm", "MatMul", "MatMulInteger"):
        return 0
    data, weight, result = (shapes.get(name, ()) for name in (node.input[0], node.input[1], node.output[0]))
    if node.op_type in ("Conv", "ConvInteger", "DeformConv"):
        return _size(result) * _size(weight[1:])
    if node.op_type == "ConvTranspose":
        return _size(data) * _size(weight[1:])
    return _size(result) * _inner_side(node, data, weight)


def _size(shape: Shape) -> int:
    return prod(side or 1 for side in shape)


def _inner_side(node: onnx.NodeProto, data: Shape, weight: Shape) -> int:
    """Length of the sums of a matrix product: from the weight, whose shape is always known, or the data."""
    transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    if len(weight) >= 2 and (side := weight[-1] if transposed else weight[-2]):
        return side
    return (data[-1] if data else None) or 1


def bytes_at_once(graph: onnx.GraphProto, shapes: Mapping[str, Shape]) -> int:
    """Memory that one picture takes while a graph runs: of all tensors that are held at one time, where they are most.

    Parameters
    ----------
    graph : onnx.GraphProto
        In topological order.
    shapes : mapping of str to Shape
        Of tensors, for one picture. One that is missing is taken to be as large as the largest that its node reads.

    Returns
    -------
    int
        In float32, without weights.
    """
    constants = {tensor.name for tensor in graph.initializer}
    last = {name: place for place, node in enumerate(graph.node) for name in node_inputs(node) if name not in constants}
    last |= {value.name: len(graph.node) for value in graph.output}
    held = {value.name: _FLOAT * _size(shapes.get(value.name, ())) for value in graph.input if value.name in last}
    most = sum(held.values())
    total = most
    for place, node in enumerate(graph.node):
        read = [name for name in dict.fromkeys(node_inputs(node)) if name in held]
        largest = max((held[name] for name in read), default=0)
        for name in filter(None, node.output):
            held[name] = _FLOAT * _size(shapes[name]) if name in shapes else largest
            total += held[name]
        most = max(most, total)
        for name in (*read, *filter(None, node.output)):
            if last.get(name, -1) <= place:
                total -= held.pop(name, 0)
    return most


def tensors_of(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """All tensors of values in a model: of its graph, the graphs inside nodes, and functions.

    Parameters
    ----------
    proto : onnx.ModelProto
        The model.

    Returns
    -------
    iterator of onnx.TensorProto
        The model's own, not copies.
    """
    yield from _of_graph(proto.graph)
    for function in proto.functions:
        for node in function.node:
            yield from _of_node(node)


def _of_graph(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        yield from _of_node(node)


def _of_node(node: onnx.NodeProto) -> Iterator[onnx.TensorProto]:
    for attribute in node.attribute:
        yield from [attribute.t, *attribute.tensors] if attribute.HasField("t") else attribute.tensors
    for graph in bodies(node):
        yield from _of_graph(graph)
