"""Shapes and types of every tensor of a graph, with the batch axis told apart from the others."""

import math
from collections.abc import Callable, Mapping, Sequence
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
# What is computed of shapes may be longer: the indices of an image cut into patches.
_MOST = 4096
# No arithmetic: chance, control flow, and sums over windows, which write much in between for a few numbers.
_NO_ARITHMETIC = frozenset(
    "If Loop Scan SequenceMap Optional RandomNormal RandomNormalLike RandomUniform RandomUniformLike Multinomial "
    "Bernoulli Dropout Conv ConvInteger ConvTranspose DeformConv QLinearConv AveragePool MaxPool LpPool MaxUnpool "
    "MaxRoiPool RoiAlign GridSample AffineGrid Col2Im LRN LSTM GRU RNN DFT STFT MelWeightMatrix".split()
)
# How long their results are depends on values, but they are no longer than what is read.
_TAKING = frozenset({"NonZero", "Unique", "Compress"})
# Where their results for two batch sizes are the same, they are for all: sums, products, and values put elsewhere.
_EXACT = frozenset(
    "Constant Shape Size Add Sub Mul Div Neg Sum ReduceProd ReduceSum Cast Gather GatherElements GatherND Concat Slice "
    "Split Squeeze Unsqueeze Reshape Flatten Identity Transpose ConstantOfShape ScatterND ScatterElements".split()
)
# Operators that keep the shape of what they read, though inference does not know it.
_KEEPING = frozenset({"GroupNormalization", "MeanVarianceNormalization"})

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
        Constants of at most 64 elements, what is computed from these, and whatever else stands in the graph as a
        constant; nothing that depends on the batch size.
    """
    size = _BATCH if batch is None else batch
    inferred, values = _fold_all(proto, input_name, size)
    tensors = _read(proto, inferred, size, batch is None)
    if batch is None:
        _, others = _fold_all(proto, input_name, _OTHER_BATCH)
        equal = {name for name, value in values.items() if np.array_equal(value, others.get(name, ()))}
        # What two large batch sizes compare alike with a third number, or round alike, a batch of 7 may not.
        doubtful: set[str] = set()
        for node in proto.graph.node:
            compares = node.op_type not in _EXACT and not equal.issuperset(name for name in node.input if name)
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


def hollow(proto: onnx.ModelProto, is_outside: Callable[[onnx.TensorProto], bool]) -> onnx.ModelProto:
    """A copy of a model without the values of some constants, which are inputs of their type and shape.

    Parameters
    ----------
    proto : onnx.ModelProto
        The model.
    is_outside : callable
        Whether an initializer is such a constant.

    Returns
    -------
    onnx.ModelProto
    """
    graph = proto.graph
    listed = {value.name for value in graph.input}
    outside = [tensor for tensor in graph.initializer if is_outside(tensor) and tensor.name not in listed]
    values = [helper.make_tensor_value_info(each.name, each.data_type, each.dims) for each in outside]
    bare = helper.make_graph(
        graph.node,
        graph.name,
        [*graph.input, *values],
        graph.output,
        [tensor for tensor in graph.initializer if not is_outside(tensor)],
        value_info=graph.value_info,
        sparse_initializer=graph.sparse_initializer,
    )
    return helper.make_model(
        bare, opset_imports=proto.opset_import, ir_version=proto.ir_version, functions=proto.functions
    )


def _number(proto: onnx.ModelProto, input_name: str, size: int) -> onnx.ModelProto:
    """Make the model with a number for its batch, and without its large constants: their shapes are enough."""
    numbered = hollow(proto, lambda tensor: math.prod(tensor.dims) > _SMALL)
    for node in numbered.graph.node:
        if node.op_type in _KEEPING and node.domain in ("", "ai.onnx"):
            # As one that inference knows, and that keeps the shape, too.
            node.CopyFrom(helper.make_node("Relu", node.input[:1], node.output))
    image = next(value for value in numbered.graph.input if value.name == input_name)
    image.type.tensor_type.shape.dim[0].dim_value = size
    return numbered


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
            asked = np.array(sides[node.input[0]][asked_sides(node)], np.int64)
            results: dict[str, AnyArray] | None = {node.output[0]: asked}
        else:
            results = evaluate(node, values, numbered.opset_import)
        if results is not None:
            values |= results
            sides |= {name: list(result.shape) for name, result in results.items()}
            folded.append(position)
    made = {name for position in folded for name in graph.node[position].output if name}
    graph.initializer.extend(numpy_helper.from_array(values[name], name) for name in sorted(made))
    for position in reversed(folded):
        del graph.node[position]
    # What the file says of their shapes may leave sides open, and inference would believe it.
    for position in reversed(range(len(graph.value_info))):
        if graph.value_info[position].name in made:
            del graph.value_info[position]
    return bool(folded)


def evaluate(
    node: onnx.NodeProto, values: Mapping[str, AnyArray], opsets: Sequence[onnx.OperatorSetIdProto]
) -> dict[str, AnyArray] | None:
    """Compute one node of which all inputs are known, whatever its operator, if what it makes is small.

    Parameters
    ----------
    node : onnx.NodeProto
        The node.
    values : mapping of str to ndarray
        What is known: numbers of small constants.
    opsets : sequence of onnx.OperatorSetIdProto
        Of the model.

    Returns
    -------
    dict of str to ndarray
        All outputs, of at most 4096 elements each. None where an input is not known, or where that makes no shape, so
        that what depends on it stays open.
    """
    known = all(name in values for name in node.input if name)
    if not known or node.op_type in _NO_ARITHMETIC or node.domain not in ("", "ai.onnx"):
        return None
    inputs = [numpy_helper.from_array(values[name], name) for name in dict.fromkeys(node.input) if name]
    names = [name for name in node.output if name]
    outputs = [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in names]
    alone = helper.make_model(helper.make_graph([node], "alone", [], outputs, inputs), opset_imports=opsets)
    try:
        if not _makes_little(alone):
            return None
        with np.errstate(divide="raise", invalid="raise", over="ignore"):
            results = ReferenceEvaluator(alone).run(None, {})
    except Exception:  # noqa: BLE001 - a node that cannot be computed fails in the runtime, with its reason
        return None
    found = {name: np.asarray(result) for name, result in zip(names, results, strict=True)}
    return found if all(each.dtype.kind in "biuf" and each.size <= _MOST for each in found.values()) else None


def _makes_little(alone: onnx.ModelProto) -> bool:
    """Whether a model of one node makes no more than a shape has: a few numbers may ask for a thousand million."""
    node = alone.graph.node[0]
    if node.op_type in ("Constant", *_TAKING):
        return True
    inferred = shape_inference.infer_shapes(alone, data_prop=True).graph.output
    sides = [[dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in inferred]
    return all(map(_is_settled, inferred)) and all(math.prod(each) <= _MOST for each in sides)


def _per_picture(sides: list[int | None], size: int, free: bool) -> Shape:
    first = [None] if sides and sides[0] == size else sides[:1]
    rest = sides[len(first) :]
    if free:
        first = [side // size if side and side % size == 0 else side for side in first]
        rest = [side // size if side and side % size == 0 else side for side in rest]
    # An open first side is not proved to be the batch: 0 keeps it from being taken for it.
    return tuple([0] if sides and sides[0] is None else first) + tuple(rest)
