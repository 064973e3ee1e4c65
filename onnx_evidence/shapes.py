"""Shapes and types of every tensor of a graph, with the batch axis told apart from the others."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

from onnx_evidence.types import AnyArray

# Stands for a free batch size during inference: a prime that no network has for a side, so that axes
# which are the batch, or a multiple of it, can be told from all others.
_BATCH = 7919
# And its neighbour: what differs between the two is computed from the batch size, modulo whatever.
_OTHER_BATCH = _BATCH + 1
# Constants of more elements are weights, not shapes.
_SMALL = 64
# What exporters compute shapes with.
_ARITHMETIC = frozenset(
    "Constant Add Sub Mul Div Mod Min Max Neg Floor Ceil Cast Gather Concat Slice Squeeze Unsqueeze Reshape Identity "
    "Transpose ConstantOfShape Expand Equal Where ReduceProd Size Not And Or Greater Less Range".split()
)

_COMPARING = frozenset({"Equal", "Greater", "Less", "Min", "Max", "Not", "And", "Or", "Where"})

# None is the batch where it is the first side, and a side that is not known elsewhere.
Shape = tuple[int | None, ...]


class TensorInfo(NamedTuple):
    """What is known of a tensor before the model runs.

    Attributes
    ----------
    elem_type : int
        ONNX element type.
    shape : tuple of (int or None)
        The first side is None where it is the batch. A multiple of the batch counts for one picture.
    """

    elem_type: int
    shape: Shape


def type_name(elem_type: int) -> str:
    """The name of an ONNX element type, in small letters; of a number that stands for none, the number.

    Parameters
    ----------
    elem_type : int
        As in `TensorInfo`.

    Returns
    -------
    str
    """
    known = elem_type in TensorProto.DataType.values()
    return str(TensorProto.DataType.Name(elem_type)).lower() if known else f"type {elem_type}"


def infer(proto: onnx.ModelProto, input_name: str, batch: int | None) -> dict[str, TensorInfo]:
    """Infer types and shapes.

    Parameters
    ----------
    proto : onnx.ModelProto
        The model, with channels, height and width of its input settled.
    input_name : str
        The image input.
    batch : int or None
        The batch size that the file insists on.

    Returns
    -------
    dict
        For tensors whose type and rank are known, initializers included.

    Raises
    ------
    onnx.shape_inference.InferenceError
        If shapes of the graph contradict each other.
    """
    size = _BATCH if batch is None else batch
    numbered = _number(proto, input_name, size)
    return _read(proto, _infer_numbered(numbered, _values(numbered)), size, batch is None)


def infer_with_values(
    proto: onnx.ModelProto, input_name: str, batch: int | None
) -> tuple[dict[str, TensorInfo], dict[str, AnyArray]]:
    """Infer types and shapes as `infer` does, and the values of small constants, computed ones included.

    Parameters
    ----------
    proto : onnx.ModelProto
        The model, with channels, height and width of its input settled.
    input_name : str
        The image input, or the features at a cut.
    batch : int or None
        The batch size that the file insists on.

    Returns
    -------
    tensors : dict of str to TensorInfo
        As `infer` gives them.
    values : dict of str to ndarray
        Constants of at most 64 elements, and whatever else stands in the graph as a constant; nothing that depends
        on the batch size.
    """
    size = _BATCH if batch is None else batch
    inferred, values = _fold_all(proto, input_name, size)
    tensors = _read(proto, inferred, size, batch is None)
    if batch is None:
        _, others = _fold_all(proto, input_name, _OTHER_BATCH)
        equal = {name for name, value in values.items() if np.array_equal(value, others.get(name, ()))}
        # What two large batch sizes compare alike with a third number, a batch of 7 may not.
        doubtful: set[str] = set()
        for node in proto.graph.node:
            compares = node.op_type in _COMPARING and not equal.issuperset(name for name in node.input if name)
            if compares or not doubtful.isdisjoint(node.input):
                # Doubt ends where data begins: its sides are known from elsewhere.
                doubtful.update(name for name in node.output if name in values)
        values = {name: value for name, value in values.items() if name in equal - doubtful}
    constants = (node for node in proto.graph.node if node.op_type == "Constant")
    values.update((node.output[0], _constant(node)) for node in constants if node.output[0] not in values)
    large = (tensor for tensor in proto.graph.initializer if tensor.name not in values)
    values.update(
        (tensor.name, numpy_helper.to_array(tensor)) for tensor in large if tensor.data_type == TensorProto.INT64
    )
    return tensors, values


def _fold_all(proto: onnx.ModelProto, input_name: str, size: int) -> tuple[onnx.ModelProto, dict[str, AnyArray]]:
    """Inferred shapes for a batch of that size, and all small constants."""
    numbered = _number(proto, input_name, size)
    values = _values(numbered)
    inferred = _infer_numbered(numbered, values)
    while _fold(numbered, inferred, values):
        pass
    return inferred, values


def _values(numbered: onnx.ModelProto) -> dict[str, AnyArray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in numbered.graph.initializer}


def _constant(node: onnx.NodeProto) -> AnyArray:
    value = helper.get_attribute_value(node.attribute[0])
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.array(value)


def _read(proto: onnx.ModelProto, inferred: onnx.ModelProto, size: int, free: bool) -> dict[str, TensorInfo]:
    graph = inferred.graph
    known = {tensor.name: TensorInfo(tensor.data_type, tuple(tensor.dims)) for tensor in proto.graph.initializer}
    for value in (*graph.value_info, *graph.input, *graph.output):
        tensor = value.type.tensor_type
        if tensor.HasField("shape") and value.name not in known:
            sides = [dim.dim_value or None for dim in tensor.shape.dim]
            known[value.name] = TensorInfo(tensor.elem_type, _per_picture(sides, size, free))
    for made in graph.initializer:  # those that were computed
        if made.name not in known:
            known[made.name] = TensorInfo(made.data_type, _per_picture(list(made.dims), size, free))
    return known


def asked_sides(node: onnx.NodeProto) -> slice:
    """Which sides a ``Shape`` node asks for: all of them, or since opset 15 a part.

    Parameters
    ----------
    node : onnx.NodeProto
        A node of that operator.

    Returns
    -------
    slice
        Of the list of sides.
    """
    bounds = {attribute.name: attribute.i for attribute in node.attribute}
    return slice(bounds.get("start"), bounds.get("end"))


def _number(proto: onnx.ModelProto, input_name: str, size: int) -> onnx.ModelProto:
    """Make the model with a number for its batch, and without its large constants: their shapes are enough."""
    whole = proto.graph
    listed = {value.name for value in whole.input}
    large = [tensor for tensor in whole.initializer if math.prod(tensor.dims) > _SMALL]
    weights = [
        helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        for tensor in large
        if tensor.name not in listed
    ]
    graph = helper.make_graph(
        whole.node,
        whole.name,
        [*whole.input, *weights],
        whole.output,
        [tensor for tensor in whole.initializer if math.prod(tensor.dims) <= _SMALL],
        value_info=whole.value_info,
        sparse_initializer=whole.sparse_initializer,
    )
    image = next(value for value in graph.input if value.name == input_name)
    image.type.tensor_type.shape.dim[0].dim_value = size
    return helper.make_model(
        graph, opset_imports=proto.opset_import, ir_version=proto.ir_version, functions=proto.functions
    )


def _infer_numbered(numbered: onnx.ModelProto, values: dict[str, AnyArray]) -> onnx.ModelProto:
    """Infer; where shapes are computed by nodes that inference does not follow, compute these, and again."""
    while True:
        inferred = shape_inference.infer_shapes(numbered, data_prop=True)
        settled = all(_is_settled(value) for value in inferred.graph.value_info)
        if settled or not _fold(numbered, inferred, values):
            return inferred


def _is_settled(value: onnx.ValueInfoProto) -> bool:
    tensor = value.type.tensor_type
    return tensor.HasField("shape") and all(dim.HasField("dim_value") for dim in tensor.shape.dim)


def _fold(numbered: onnx.ModelProto, inferred: onnx.ModelProto, values: dict[str, AnyArray]) -> bool:
    """Replace nodes of arithmetic on known shapes by their values, add these; say whether there was any."""
    graph = numbered.graph
    settled = [value for value in (*inferred.graph.value_info, *graph.input) if _is_settled(value)]
    sides = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in settled}
    sides |= {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    folded = []
    for position, node in enumerate(graph.node):
        if node.op_type == "Shape" and node.input[0] in sides:
            result: AnyArray | None = np.array(sides[node.input[0]][asked_sides(node)], np.int64)
        elif is_arithmetic(node) and all(name in values for name in node.input if name):
            result = evaluate(node, values, numbered.opset_import)
        else:
            continue
        if result is not None and result.size <= _SMALL:
            values[node.output[0]], sides[node.output[0]] = result, list(result.shape)
            folded.append(position)
    done = {graph.node[position].output[0] for position in folded}
    # What the file says of their shapes may be vaguer, and inference would believe it.
    for place in reversed([place for place, value in enumerate(graph.value_info) if value.name in done]):
        del graph.value_info[place]
    for position in reversed(folded):
        name = graph.node[position].output[0]
        graph.initializer.append(numpy_helper.from_array(values[name], name))
        del graph.node[position]
    return bool(folded)


def _makes_much(node: onnx.NodeProto, values: dict[str, AnyArray]) -> bool:
    """Whether the result would be no shape but a tensor that a few numbers ask for."""
    return node.op_type in ("ConstantOfShape", "Expand") and math.prod(values[node.input[-1]].tolist()) > _SMALL


def is_arithmetic(node: onnx.NodeProto) -> bool:
    """Whether a node is of the operators that exporters compute shapes with.

    Parameters
    ----------
    node : onnx.NodeProto
        The node.

    Returns
    -------
    bool
    """
    return node.op_type in _ARITHMETIC and node.domain in ("", "ai.onnx")


def evaluate(
    node: onnx.NodeProto, values: dict[str, AnyArray], opsets: Sequence[onnx.OperatorSetIdProto]
) -> AnyArray | None:
    """Compute one node.

    Parameters
    ----------
    node : onnx.NodeProto
        The node; one output.
    values : dict of str to ndarray
        At least of its inputs.
    opsets : sequence of onnx.OperatorSetIdProto
        Of the model.

    Returns
    -------
    ndarray or None
        None where that makes no shape, so that what depends on it stays open.
    """
    if _makes_much(node, values):
        return None
    inputs = [numpy_helper.from_array(values[name], name) for name in dict.fromkeys(node.input) if name]
    output = helper.make_tensor_value_info(node.output[0], TensorProto.UNDEFINED, None)
    alone = helper.make_graph([node], "alone", [], [output], inputs)
    try:
        (result,) = ReferenceEvaluator(helper.make_model(alone, opset_imports=opsets)).run(None, {})
    except Exception:  # noqa: BLE001 - a node that cannot be computed fails in the runtime, with its reason
        return None
    return np.asarray(result)


def _per_picture(sides: list[int | None], size: int, free: bool) -> Shape:
    first = [None] if sides and sides[0] == size else sides[:1]
    rest = sides[len(first) :]
    if free:
        first = [side // size if side and side % size == 0 else side for side in first]
        rest = [side // size if side and side % size == 0 else side for side in rest]
    # An open first side is not proved to be the batch: 0 keeps it from being taken for it.
    return tuple([0] if sides and sides[0] is None else first) + tuple(rest)
