"""What rules write with: values of the backward graph with arithmetic, and facts about the forward graph."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Union

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from onnx_evidence.errors import GradientError
from onnx_evidence.graphs import Net, Shape, TensorInfo
from onnx_evidence.types import AnyArray

FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE})
# Steepness of a ramp that stands for a step; a power of two, so that scaling by it is exact.
_STEEP = float(2**100)
_LEAST = 2.0**-100

Number = Union["Value", float]


class Tape:
    """A backward graph, as it is written behind its forward graph ``net``, whose model is left as it is.

    ``values`` are the forward graph's constants known when the graph is built: initializers, folded shapes; ``given``
    is its input, and what only holds the input's values in another order or type; ``moving`` is what depends on it.
    Names of what is written begin with ``prefix``.
    """

    def __init__(
        self,
        net: Net,
        tensors: Mapping[str, TensorInfo],
        values: Mapping[str, AnyArray],
        given: frozenset[str] = frozenset(),
        moving: Collection[str] = (),
        prefix: str = "vjp",
    ) -> None:
        self.prefix = prefix
        self.net, self.tensors, self.values, self.given, self.moving = net, tensors, values, given, moving
        self._count = 0
        self._by_content: dict[bytes, Value] = {}

    def value(self, name: str) -> "Value":
        """A tensor of the forward graph."""
        info = self.tensors.get(name)
        return Value(self, name, info.elem_type if info is not None else TensorProto.FLOAT)

    def shape(self, name: str) -> tuple[int | None, ...]:
        """Shape of a tensor of the forward graph; None is the batch.

        `GradientError` if it is not known before the model runs.
        """
        shape: Shape | None = self.tensors[name].shape if name in self.tensors else None
        if shape is None or not all(shape[1:]) or shape[:1] == (0,):
            raise GradientError(f"the shape of tensor {name!r} is not known before the model runs")
        return shape

    def emit(
        self, op_type: str, *inputs: "Value | None", outputs: int = 1, elem_type: int | None = None, **attributes: Any
    ) -> "list[Value]":
        """Write a node of a standard operator, and give its outputs; inputs and attributes that are None are left out.

        Outputs are of ``elem_type``, by default that of the first input.
        """
        word = f"{self.prefix}/{op_type}_{self._count}"
        names = [self.net.fresh(word + (f"/{k}" if k else "")) for k in range(outputs)]
        self._count += 1
        self.net.write(op_type, [value.name if value else "" for value in inputs], *names, **attributes)
        kind = elem_type or (inputs[0].elem_type if inputs and inputs[0] else TensorProto.FLOAT)
        return [Value(self, name, kind) for name in names]

    def constant(self, array: AnyArray) -> "Value":
        """A constant, in the dtype of the array; equal ones are stored once."""
        tensor = numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape))
        content = tensor.SerializeToString(deterministic=True)
        if content not in self._by_content:
            tensor.name = self.net.fresh(f"{self.prefix}/constant_{len(self._by_content)}")
            self._by_content[content] = Value(self, self.net.store(tensor), tensor.data_type)
        return self._by_content[content]

    def rename(self, value: "Value", name: str) -> None:
        """Give the last value that was written the name of an output of the graph.

        It is the only output of its node, and nothing reads it.
        """
        self.net.producer[value.name].output[0] = name
        self.net.forget()

    def integers(self, *numbers: int) -> "Value":
        """A vector of int64, for shapes, axes and pads."""
        return self.constant(np.array(numbers, np.int64))


@dataclass(frozen=True)
class Value:
    """A tensor of the backward graph; arithmetic on it writes nodes to its tape."""

    tape: Tape
    name: str
    elem_type: int

    def op(self, op_type: str, *others: "Value | None", elem_type: int | None = None, **attributes: Any) -> "Value":
        """The output of a node that reads this value first; see `Tape.emit`."""
        return self.tape.emit(op_type, self, *others, elem_type=elem_type, **attributes)[0]

    def number(self, other: Number) -> "Value":
        """``other`` as a value: numbers become constants of this value's type."""
        if isinstance(other, Value):
            return other
        return self.tape.constant(np.array(other, helper.tensor_dtype_to_np_dtype(self.elem_type)))

    def typed(self, array: AnyArray) -> "Value":
        """A constant array in this value's type."""
        return self.tape.constant(array.astype(helper.tensor_dtype_to_np_dtype(self.elem_type)))

    def __mul__(self, other: Number) -> "Value":
        return self.op("Mul", self.number(other))

    def __add__(self, other: Number) -> "Value":
        return self.op("Add", self.number(other))

    def __radd__(self, other: float) -> "Value":
        return self.op("Add", self.number(other))

    def __sub__(self, other: Number) -> "Value":
        return self.op("Sub", self.number(other))

    def __rsub__(self, other: float) -> "Value":
        return self.number(other).op("Sub", self)

    def __truediv__(self, other: Number) -> "Value":
        return self.op("Div", self.number(other))

    def __rtruediv__(self, other: float) -> "Value":
        return self.number(other).op("Div", self)

    def __pow__(self, other: Number) -> "Value":
        return self.op("Pow", self.number(other))

    def __neg__(self) -> "Value":
        return self.op("Neg")

    def step(self, above: float = 0.0, sign: int = 1) -> "Value":
        """1 where ``sign * (value - above) > 0``, 0 elsewhere.

        A ramp of steepness 2^100, which multiplies exactly: two passes over memory less than a comparison and a
        cast, and it stays in the blocked layout that convolutions run fastest in.
        """
        # Attributes are float32: other bounds would be moved, and large ones overflow.
        exact = abs(above) < 2**27 and (self.elem_type == TensorProto.FLOAT or float(np.float32(above)) == above)
        if exact and self.elem_type in (TensorProto.FLOAT, TensorProto.DOUBLE):
            # Some runtimes (OpenVINO's) take an offset of 0 for one that is not given, which is one half.
            return self.op("HardSigmoid", alpha=sign * _STEEP, beta=-sign * float(above) * _STEEP or -_LEAST)
        compared = self.op("Greater" if sign > 0 else "Less", self.number(above), elem_type=TensorProto.BOOL)
        return compared.cast(self.elem_type)

    def cast(self, elem_type: int) -> "Value":
        """The value in another type."""
        return self if elem_type == self.elem_type else self.op("Cast", elem_type=elem_type, to=elem_type)

    def reshape(self, *sides: int) -> "Value":
        """The value with another shape; one side may be -1."""
        return self.op("Reshape", self.tape.integers(*sides))

    def reshape_like(self, other: "Value") -> "Value":
        """The value in the shape of another, which is asked for at run time."""
        return self.op("Reshape", other.op("Shape", elem_type=TensorProto.INT64))

    def expand_like(self, other: "Value") -> "Value":
        """Copies of the value in the shape of another, which is asked for at run time."""
        return self.op("Expand", other.op("Shape", elem_type=TensorProto.INT64))

    def transpose(self, *perm: int) -> "Value":
        """The value with its axes in another order."""
        return self if list(perm) == list(range(len(perm))) else self.op("Transpose", perm=list(perm))

    def reduce(self, kind: str, axes: Sequence[int], *, keepdims: bool = True) -> "Value":
        """``Reduce<kind>`` over axes."""
        if not axes:
            return self
        return self.op(f"Reduce{kind}", self.tape.integers(*axes), keepdims=int(keepdims))

    def slice(self, starts: Sequence[int], ends: Sequence[int], axes: Sequence[int]) -> "Value":
        """A block of this value."""
        return self.op("Slice", *(self.tape.integers(*numbers) for numbers in (starts, ends, axes)))

    def pad(self, before: Sequence[int], after: Sequence[int]) -> "Value":
        """The value with zeros around it; negative numbers crop."""
        if not any(before) and not any(after):
            return self
        return self.op("Pad", self.tape.integers(*before, *after))
