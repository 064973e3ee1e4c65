"""Large weights, held once beside all graphs that are made of a model: protobuf would copy them with each.

In a graph such a weight refers to data outside, at a place that is no file's name; sessions are given its numbers.
"""

from collections.abc import Iterable, Sequence
from math import prod
from typing import TypeVar
from uuid import uuid4
from weakref import WeakValueDictionary

import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import uses_external_data

from onnx_evidence.errors import ModelError
from onnx_evidence.graphs.nodes import node_inputs
from onnx_evidence.types import AnyArray

M = TypeVar("M", onnx.ModelProto, onnx.GraphProto)
# Bytes of a weight, and of all such of a model, from which on they are held apart.
_LARGE, _MANY = 1 << 20, 1 << 26
_KINDS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16})
_PLACE = "onnx_evidence/held"
_HELD = WeakValueDictionary[str, AnyArray]()


def hold_apart(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, Sequence[AnyArray]]:
    """A model without the numbers of its large weights, where these are many; else the model itself.

    Parameters
    ----------
    proto : onnx.ModelProto
        Left as it is.

    Returns
    -------
    model : onnx.ModelProto
        It is of use as long as somebody has the weights.
    weights : sequence of ndarray
    """
    large = {tensor.name: _bytes(tensor) for tensor in proto.graph.initializer if _bytes(tensor) >= _LARGE}
    if sum(large.values()) < _MANY:
        return proto, ()
    held: list[AnyArray] = []
    tensors = []
    for tensor in proto.graph.initializer:
        if tensor.name in large:
            held.append(numpy_helper.to_array(tensor))
            tensor = _reference(tensor, held[-1])
        tensors.append(tensor)
    return _with_initializers(proto, tensors), tuple(held)


def _with_initializers(proto: onnx.ModelProto, tensors: Iterable[onnx.TensorProto]) -> onnx.ModelProto:
    """A copy of a model with other initializers; its own are not copied."""
    found = _copied(proto, but="graph")
    found.graph.CopyFrom(_copied(proto.graph, but="initializer"))
    found.graph.initializer.extend(tensors)
    return found


def _copied(message: M, but: str) -> M:
    """A message without one of its fields."""
    found = type(message)()
    for field, value in message.ListFields():
        if field.name == but:
            continue
        if hasattr(value, "extend"):
            getattr(found, field.name).extend(value)
        elif hasattr(value, "CopyFrom"):
            getattr(found, field.name).CopyFrom(value)
        else:
            setattr(found, field.name, value)
    return found


def _bytes(tensor: onnx.TensorProto) -> int:
    """Bytes of a weight that could be held apart; its own are not looked at, as that copies them."""
    if tensor.data_type not in _KINDS or not tensor.HasField("raw_data"):
        return 0
    size: int = prod(tensor.dims) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return size


def _reference(tensor: onnx.TensorProto, values: AnyArray) -> onnx.TensorProto:
    place = f"{_PLACE}/{uuid4().hex}"  # of no other weight, in whatever process
    _HELD[place] = values
    found = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    found.data_location = TensorProto.EXTERNAL
    found.external_data.add(key="location", value=place)
    return found


def is_held(tensor: onnx.TensorProto) -> bool:
    """Whether a weight is held apart."""
    return uses_external_data(tensor) and tensor.external_data[0].value.startswith(_PLACE)


def array_of(tensor: onnx.TensorProto) -> AnyArray:
    """The numbers of a weight, wherever they are held.

    Parameters
    ----------
    tensor : onnx.TensorProto
        Not one whose numbers stayed in another file.

    Returns
    -------
    ndarray

    Raises
    ------
    ModelError
        If they are held by nobody any more.
    """
    if not is_held(tensor):
        return numpy_helper.to_array(tensor)
    values = _HELD.get(tensor.external_data[0].value)
    if values is None:
        raise ModelError(f"weight {tensor.name!r} is gone with the model that it is of: keep that one open")
    return values


def held_of(model: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, AnyArray]]:
    """A model with no weight held apart but those that are read, and these by name; see `array_of`."""
    held = {tensor.name: tensor for tensor in model.graph.initializer if is_held(tensor)}
    if not held:
        return model, {}
    read = {name for node in model.graph.node for name in node_inputs(node)}
    read.update(value.name for value in model.graph.output)
    if not held.keys() <= read:
        kept = [each for each in model.graph.initializer if each.name not in held or each.name in read]
        model = _with_initializers(model, kept)
    return model, {name: array_of(tensor) for name, tensor in held.items() if name in read}


def with_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model itself, with the numbers of all weights that are held apart put into it, to be written."""
    for tensor in model.graph.initializer:
        if is_held(tensor):
            tensor.CopyFrom(numpy_helper.from_array(array_of(tensor), tensor.name))
    return model
