"""One operator of ONNX Runtime's own domain as its rule sees it, and what the rule writes standard operators with."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper

from onnx_evidence.graphs import Net, Shape, attributes_of, infer, node_inputs
from onnx_evidence.types import AnyArray

# Of each output the tensor that is the same; None for one that has no twin.
Rule = Callable[["Fused"], Sequence[str | None]]
# Since when axes are an input of Squeeze, Unsqueeze and ReduceSum, and the parts of Split; and of the other reductions.
_AXES_GIVEN, _MEAN_GIVEN = 13, 18
_MUCH = 64


class UnknownFormError(Exception):
    """A form of an operator that its rule does not know: it stays as it is."""


class Spelling(Net):
    """Writes fused operators anew, and knows types and shapes of what it has written.

    The model, with constants as initializers, is changed in place; ``batch`` is the size that the graph insists on.
    """

    def __init__(self, proto: onnx.ModelProto, image: str, batch: int | None) -> None:
        super().__init__(proto)
        self.image, self.batch = image, batch
        self._shapes: dict[str, Shape] = {}
        # What `kind` has found: a chain of thousands is gone back along once.
        self._kinds = {value.name: int(value.type.tensor_type.elem_type) for value in proto.graph.input}

    def spell(self, node: onnx.NodeProto, rule: Rule) -> bool:
        """Write a node by its rule; False, with nothing written, where the rule does not know the form."""
        nodes, constants = len(self.nodes), len(self.constants)
        try:
            found = [*rule(Fused(self, node)), *[None] * len(node.output)]
            if any(name and twin is None for name, twin in zip(node.output, found, strict=False)):
                raise UnknownFormError
        except UnknownFormError:
            del self.nodes[nodes:]
            for name in list(self.constants)[constants:]:
                del self.constants[name]
            self.forget()
            return False
        self._name(nodes, {name: twin for name, twin in zip(node.output, found, strict=False) if name and twin})
        return True

    def _name(self, start: int, twins: dict[str, str]) -> None:
        """Give what was written the names of the outputs that it is the same as."""
        made = {name for node in self.nodes[start:] for name in node.output}
        names = {twin: name for name, twin in reversed(twins.items()) if twin in made}
        self.rename(names, start)
        for name, twin in twins.items():
            if names.get(twin) != name:
                self.write("Identity", [names.get(twin, twin)], name)

    def kind(self, name: str) -> int:
        """ONNX element type of a tensor of floats: what it was made from has the same, up to a Cast."""
        passed = []
        while (found := self.code(name) or self._kinds.get(name)) is None:
            node = self.producer.get(name)
            passed.append(name)
            if node is None or not node.input:
                found = TensorProto.FLOAT
                break
            if node.op_type == "Cast":
                found = int(node.attribute[0].i)
                break
            name = node.input[1 if node.op_type in ("DequantizeLinear", "Where") else 0]
        self._kinds.update(dict.fromkeys(passed, found))
        return found

    def code(self, name: str) -> int | None:
        """ONNX element type of a zero point; None where it is no constant."""
        return int(self.constants[name].data_type) if name in self.constants else None

    def rank(self, name: str) -> int:
        """Number of axes of a tensor; `UnknownFormError` if it is not known."""
        node = self.producer.get(name)
        if node is not None and node.op_type == "Transpose" and node.attribute:
            return len(node.attribute[0].ints)
        if node is not None and node.op_type == "Reshape" and node.input[1] in self.constants:
            return int(self.constants[node.input[1]].dims[0])
        return len(self.shape(name))

    def shape(self, name: str) -> Shape:
        """Shape of a tensor; `UnknownFormError` if it is not known."""
        if name in self.constants:
            return tuple(self.constants[name].dims)
        if name not in self._shapes:
            self._shapes = self._infer()
        if name not in self._shapes:
            raise UnknownFormError
        return self._shapes[name]

    def _infer(self) -> dict[str, Shape]:
        """Shapes of all that is written so far, without copying weights."""
        read = {name for node in self.nodes for name in node_inputs(node)}
        tensors = [tensor for name, tensor in self.constants.items() if name in read]
        large = [tensor for tensor in tensors if np.prod(tensor.dims) > _MUCH]
        weights = [helper.make_tensor_value_info(each.name, each.data_type, each.dims) for each in large]
        small = [tensor for tensor in tensors if np.prod(tensor.dims) <= _MUCH]
        graph = helper.make_graph(self.nodes, "written", [*self.graph.input, *weights], [], small)
        found = infer(helper.make_model(graph, opset_imports=self.proto.opset_import), self.image, self.batch)
        return {name: info.shape for name, info in found.items()}


class Fused:
    """One fused operator, and the spelling that its parts are written to."""

    def __init__(self, spelling: Spelling, node: onnx.NodeProto) -> None:
        self.spelling, self.node, self.opset = spelling, node, spelling.opset
        self._attributes = attributes_of(node)

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute of the node; bytes as text."""
        value = self._attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else value

    def attributes(self, names: Sequence[str]) -> dict[str, Any]:
        """Those of some attributes that are given."""
        return {name: value for name, value in self._attributes.items() if name in names}

    def has(self, index: int) -> bool:
        """Whether the node reads an input of that position."""
        return index < len(self.node.input) and bool(self.node.input[index])

    def input(self, index: int) -> str:
        """An input; '' where it is left out."""
        return str(self.node.input[index]) if self.has(index) else ""

    def array(self, index: int) -> AnyArray:
        """The value of an input that is a constant; `UnknownFormError` if it is none."""
        value = self.spelling.array(self.input(index))
        if value is None:
            raise UnknownFormError
        return value

    def op(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        """Write a standard operator; what it makes gets a name of its own."""
        return self.several(op_type, 1, *inputs, **attributes)[0]

    def several(self, op_type: str, outputs: int, *inputs: str, **attributes: Any) -> list[str]:
        """The same with several outputs."""
        word = f"{self.node.output[0]}/{op_type.lower()}"
        names = [self.spelling.fresh(word) for _ in range(outputs)]
        self.spelling.write(op_type, inputs, *names, **attributes)
        return names

    def number(self, value: float, like: str | None = None) -> str:
        """A constant of the type of a tensor, by default of the first input."""
        kind = self.spelling.kind(like or self.node.input[0])
        return self.constant(np.array(value, helper.tensor_dtype_to_np_dtype(kind)))

    def constant(self, value: AnyArray) -> str:
        """A constant."""
        return self.spelling.constant(f"{self.node.output[0]}/constant", value)

    def integers(self, *numbers: int) -> str:
        """A vector of int64."""
        return self.constant(np.array(numbers, np.int64))

    def index(self, place: int) -> str:
        """One number of int64."""
        return self.constant(np.array(place, np.int64))

    def scaled(self, x: str, factor: float) -> str:
        """A tensor times a number."""
        return x if factor == 1 else self.op("Mul", x, self.number(factor, x))

    def transpose(self, x: str, *perm: int) -> str:
        """A tensor with its axes in another order."""
        return self.op("Transpose", x, perm=list(perm))

    def reshape(self, x: str, *sides: int) -> str:
        """A tensor in another shape."""
        return self.op("Reshape", x, self.integers(*sides))

    def unsqueeze(self, x: str, *axes: int) -> str:
        """A tensor with more axes of length 1."""
        if self.opset < _AXES_GIVEN:
            return self.op("Unsqueeze", x, axes=list(axes))
        return self.op("Unsqueeze", x, self.integers(*axes))

    def mean(self, x: str, axes: Sequence[int]) -> str:
        """The mean over axes, which are kept."""
        if self.opset < _MEAN_GIVEN:
            return self.op("ReduceMean", x, axes=list(axes), keepdims=1)
        return self.op("ReduceMean", x, self.integers(*axes), keepdims=1)

    def split(self, x: str, sides: Sequence[int], axis: int) -> list[str]:
        """Parts of a tensor along an axis."""
        if self.opset < _AXES_GIVEN:
            return self.several("Split", len(sides), x, axis=axis, split=list(sides))
        return self.several("Split", len(sides), x, self.integers(*sides), axis=axis)


class Form(NamedTuple):
    """What a rule knows of an operator: how many inputs it has at least, and attributes."""

    rule: Rule
    least: int
    attributes: Sequence[str] = ()

    def fits(self, node: onnx.NodeProto) -> bool:
        """Whether a node has no others, and all of those inputs."""
        known = {attribute.name for attribute in node.attribute} <= set(self.attributes)
        return known and len(node.input) >= self.least and all(node.input[: self.least])
