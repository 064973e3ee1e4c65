"""One forward node as its rule sees it: what it read, what it made, and the cotangents of what it made."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx

from onnx_evidence.errors import GradientError
from onnx_evidence.graphs import attributes_of
from onnx_evidence.types import AnyArray
from onnx_evidence.vjp.tape import Tape, Value


class Step:
    """One forward node on the way back: what it read, what it made, and the cotangents of what it made.

    There is one of ``cotangents`` per output, None where nothing behind depends on it, and one of ``wanted`` per input:
    whether a cotangent of it is needed.
    """

    def __init__(
        self, tape: Tape, node: onnx.NodeProto, cotangents: Sequence[Value | None], wanted: Sequence[bool]
    ) -> None:
        self.tape, self.node, self.cotangents, self.wanted = tape, node, cotangents, wanted
        self._attributes = attributes_of(node)

    @property
    def g(self) -> Value:
        """Cotangent of the first output; `GradientError` if others are used, which the rule does not know."""
        cotangent = self.cotangents[0]
        if cotangent is None or any(self.cotangents[1:]):
            raise GradientError(f"another output than the first of {self.node.op_type} is used")
        return cotangent

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute of the node; bytes as text."""
        value = self._attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else value

    def has(self, index: int) -> bool:
        """Whether the node reads an input of that position."""
        return index < len(self.node.input) and bool(self.node.input[index])

    @property
    def x(self) -> Value:
        """The first input."""
        return self.input(0)

    @property
    def y(self) -> Value:
        """The first output."""
        return self.tape.value(self.node.output[0])

    def input(self, index: int) -> Value:
        """An input."""
        return self.tape.value(self.node.input[index])

    def shape(self, index: int = 0) -> tuple[int | None, ...]:
        """Shape of an input; None is the batch."""
        return self.tape.shape(self.node.input[index])

    def side(self, axis: int, index: int = 0) -> int:
        """One side of an input's shape, never the batch's."""
        side = self.shape(index)[axis]
        if side is None:
            raise GradientError(f"{self.node.op_type} works along the batch axis of {self.node.input[index]!r}")
        return side

    @property
    def result_shape(self) -> tuple[int | None, ...]:
        """Shape of the first output."""
        return self.tape.shape(self.node.output[0])

    def static(self, index: int) -> AnyArray | None:
        """The value of an input that is a constant, None where it is left out; `GradientError` if it is none."""
        if not self.has(index):
            return None
        name = self.node.input[index]
        if name not in self.tape.values:
            raise GradientError(f"input {name!r} of {self.node.op_type} is no constant")
        return self.tape.values[name]

    def static_list(self, index: int) -> list[int] | None:
        """`static` as a list of whole numbers."""
        array = self.static(index)
        return None if array is None else [int(each) for each in np.atleast_1d(array)]

    def like(self, index: int, cotangent: Value, matrix: int = 0) -> Value | None:
        """A cotangent summed over the axes along which an input was broadcast; None where none is wanted.

        The last ``matrix`` axes are not broadcast: those of a product's factors.
        """
        if not self.wanted[index]:
            return None
        shape, result = (sides[: len(sides) - matrix] for sides in (self.shape(index), self.result_shape))
        missing = len(result) - len(shape)
        axes = [axis for axis, side in enumerate(shape) if side == 1 and result[axis + missing] != 1]
        summed = cotangent.reduce("Sum", [*range(missing), *(axis + missing for axis in axes)])
        return summed.reshape_like(self.input(index)) if missing else summed
