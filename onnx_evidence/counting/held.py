"""What is known of a tensor while work is counted: how many numbers it has at most, and its values if they are few."""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.external_data_helper import uses_external_data

from onnx_evidence.types import AnyArray

# What values come from, the first of these that applies: the picture; shapes that could not be followed; what the file
# stores; shapes and few numbers alone, which inference reckons with.
PICTURE, LOST, STORED, TOLD = range(4)
# Constants of more numbers are weights to inference; what is reckoned of shapes may be longer.
FEW, MOST = 64, 4096


class Held(NamedTuple):
    """What is known of a tensor, or of a sequence of tensors."""

    shape: tuple[int, ...] | None = None  # how long its sides are at most
    size: int | None = None  # how many numbers it has at most
    exact: bool = False  # whether the sides are as long as that
    kind: int = PICTURE  # what its values come from: PICTURE, LOST, STORED or TOLD
    value: AnyArray | None = None  # where they are few and known
    length: int | None = None  # how many tensors a sequence has at most


UNKNOWN = Held()


class Open(Exception):  # noqa: N818 - caught by who counts, and never seen by users
    """How much an operator makes hangs on a value that is not known beforehand."""


def of_shape(shape: Sequence[int], *, exact: bool = True) -> Held:
    """A tensor of that shape, its sides exact or no more than bounds; those below 0 count as 0."""
    sides = tuple(max(int(side), 0) for side in shape)
    return Held(sides, prod(sides), exact)


def of_size(size: int | None) -> Held:
    """A tensor of at most so many numbers, in whatever shape."""
    return Held(None, size)


def stored(tensor: onnx.TensorProto) -> Held:
    """A tensor that the file stores, with the sides that it says."""
    held = of_shape(tensor.dims)
    if held.size is None or held.size > MOST or uses_external_data(tensor):
        return held._replace(kind=STORED)
    return _valued(numpy_helper.to_array(tensor))


def constant(node: onnx.NodeProto) -> Held:
    """What a Constant node holds."""
    for attribute in node.attribute:
        if attribute.name == "value":
            return stored(attribute.t)
        if attribute.name == "sparse_value":
            return of_shape(attribute.sparse_tensor.dims)._replace(kind=STORED)
        if attribute.name.startswith("value_") and "string" not in attribute.name:
            kind = np.float32 if "float" in attribute.name else np.int64
            return _valued(np.array(helper.get_attribute_value(attribute), kind))
    return Held(kind=STORED)


def _valued(value: AnyArray) -> Held:
    few = value.size <= MOST and value.dtype.kind in "biuf"
    kind = TOLD if value.size <= FEW else STORED
    return Held(value.shape, value.size, True, kind, value if few else None)


class Call:
    """One node with what it reads: what the rules of `table` are asked about."""

    def __init__(
        self,
        node: onnx.NodeProto,
        inputs: Sequence[Held | None],  # None where one is left out
        opset: int,
        given: Mapping[str, onnx.AttributeProto] | None = None,  # of the function that the node is inside
    ) -> None:
        # ``adds`` are multiply-adds, as far as a rule has counted any.
        self.node, self.inputs, self.opset, self.adds = node, inputs, opset, 0
        self._given = given or {}
        self.attributes = {each.name: each for each in node.attribute}

    def held(self, place: int) -> Held | None:
        """An input; None where it is left out."""
        return self.inputs[place] if place < len(self.inputs) else None

    def shape(self, place: int) -> tuple[int, ...] | None:
        """Sides of an input, as far as they are known."""
        held = self.held(place)
        return None if held is None else held.shape

    def attribute(self, name: str) -> onnx.AttributeProto | None:
        """An attribute, be it one of the function around the node."""
        found = self.attributes.get(name)
        if found is not None and found.ref_attr_name:
            return self._given.get(found.ref_attr_name)
        return found

    def attr(self, name: str, default: Any = None) -> Any:
        """The value of an attribute; the default where there is none."""
        found = self.attribute(name)
        if found is None:
            return default
        value = helper.get_attribute_value(found)
        return list(value) if isinstance(value, Sequence) and not isinstance(value, bytes) else value

    def numbers(self, place: int, name: str = "") -> list[Any] | None:
        """An input's values, or else an attribute's, None where both are left out; `Open` where they are not known."""
        held = self.held(place)
        if held is None:
            value = self.attr(name) if name else None
            return value if value is None or isinstance(value, list) else [value]
        if held.value is None:
            raise Open(self.node.input[place], held.kind)
        return list(held.value.ravel().tolist())

    def number(self, place: int, name: str = "", default: float | None = None) -> Any:
        """The single value of an input or attribute."""
        found = self.numbers(place, name)
        return found[0] if found else default
