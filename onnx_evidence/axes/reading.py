"""What a rule of layouts sees of a node."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from onnx_evidence.graphs import Layout, Shape, attributes_of, node_inputs
from onnx_evidence.types import AnyArray


@dataclass(frozen=True)
class Reading:
    """One node and what is known of what it reads."""

    node: onnx.NodeProto
    layouts: Mapping[str, Layout | None]  # of all tensors that carry data
    shapes: dict[str, Shape]  # of all tensors
    values: Callable[[str], AnyArray | None]  # the numbers of a constant; None where a tensor is none
    output: str  # the one that is asked about

    @property
    def result(self) -> Shape:
        """Shape of the output."""
        return self.shapes.get(self.output, ())

    @property
    def data(self) -> list[str]:
        """Inputs that carry data."""
        return [name for name in node_inputs(self.node) if name in self.layouts]

    @property
    def first(self) -> Layout | None:
        """Layout of the first input; None where it is a constant."""
        return self.layouts.get(self.node.input[0])

    def shape(self, index: int = 0) -> Shape:
        """Shape of an input."""
        return self.shapes.get(self.node.input[index], ())

    def numbers(self, name: str, index: int) -> list[int] | None:
        """Whole numbers from an attribute, or since some opset from an input; None where they are not known."""
        given = attributes_of(self.node).get(name)
        if given is not None:
            return [int(each) for each in np.atleast_1d(given)]
        if index >= len(self.node.input) or not self.node.input[index]:
            return None
        value = self.values(self.node.input[index])
        return None if value is None else [int(each) for each in np.atleast_1d(value)]

    def axis(self, default: int) -> int:
        """The attribute ``axis``, counted from the front of what is read first."""
        return int(attributes_of(self.node).get("axis", default)) % max(len(self.shape()), 1)

    def flag(self, name: str, default: int) -> int:
        """An attribute that is a whole number."""
        return int(attributes_of(self.node).get(name, default))
