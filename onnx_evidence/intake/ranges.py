"""What values the operators at the end of a graph allow: intervals, from the output backwards."""

from collections.abc import Sequence
from math import inf, prod

import onnx
from onnx import numpy_helper

from onnx_evidence.graphs import Net, is_standard
from onnx_evidence.intake.endings import MOVES
from onnx_evidence.intake.winners import CLASSIFIERS, ML

Range = tuple[float, float]
ANYTHING: Range = (-inf, inf)
# What trees and the like give is probabilities as a rule: worth a look at what a run gives.
MAYBE: Range = (0.0, inf)
# What operators give whatever they get.
_ALWAYS: dict[str, Range] = {
    "Softmax": (0.0, 1.0),
    "Hardmax": (0.0, 1.0),
    "Sigmoid": (0.0, 1.0),
    "HardSigmoid": (0.0, 1.0),
    "Exp": (0.0, inf),
    "Abs": (0.0, inf),
    "Softplus": (0.0, inf),
    "Tanh": (-1.0, 1.0),
}
# What gives one of its inputs' values, or a mean of them.
_AMONG = MOVES | frozenset(
    "Slice Gather Split Expand Concat Max Min Mean ReduceMax ReduceMin ReduceMean MaxPool AveragePool "
    "GlobalAveragePool GlobalMaxPool".split()
)
# Inputs of these behind the first are no values.
_ONE_INPUT = MOVES | frozenset("Slice Gather Split Expand ReduceMax ReduceMin ReduceMean".split())
_DEEPEST = 24
# Constants of more elements are weights.
_LARGEST = 1 << 16


def value_range(net: Net, tensor: str) -> Range:
    """The least and the largest value that a tensor can have, as far as a few operators before it say.

    Infinite where nothing is known.
    """
    return _Ranges(net).of(tensor, _DEEPEST)


class _Ranges:
    def __init__(self, net: Net) -> None:
        self.net = net
        self.found: dict[str, Range] = {}

    def of(self, tensor: str, depth: int) -> Range:
        if tensor not in self.found:
            self.found[tensor] = self._of(tensor, depth)
        return self.found[tensor]

    def _of(self, tensor: str, depth: int) -> Range:
        if tensor in self.net.constants:
            return _constant_range(self.net.constants[tensor])
        node = self.net.producer.get(tensor)
        if node is not None and node.domain == ML and node.op_type in CLASSIFIERS:
            return MAYBE
        if node is None or not depth or not is_standard(node):
            return ANYTHING
        if node.op_type in _ALWAYS:
            return _ALWAYS[node.op_type]
        names = node.input[:1] if node.op_type in _ONE_INPUT else node.input
        return _apply(node, [self.of(name, depth - 1) if name else ANYTHING for name in names])


def _constant_range(tensor: onnx.TensorProto) -> Range:
    if not 0 < prod(tensor.dims) <= _LARGEST or tensor.data_location == onnx.TensorProto.EXTERNAL:
        return ANYTHING
    values = numpy_helper.to_array(tensor)
    return (float(values.min()), float(values.max())) if values.dtype.kind in "fiu" else ANYTHING


def _apply(node: onnx.NodeProto, inputs: Sequence[Range]) -> Range:
    kind = node.op_type
    if kind in _AMONG and inputs:
        return min(low for low, _ in inputs), max(high for _, high in inputs)
    if kind in ("Add", "Sum"):
        return sum(low for low, _ in inputs), sum(high for _, high in inputs)
    if kind == "Sub":
        (low, high), (least, most) = inputs
        return low - most, high - least
    if kind in ("Mul", "Div"):
        return _scaled(kind, *inputs)
    if kind == "Clip":
        return _clip(node, inputs)
    if kind == "Relu":
        return max(0.0, inputs[0][0]), max(0.0, inputs[0][1])
    if kind in ("ReduceSum", "Sqrt", "ReduceL1", "ReduceL2") and (inputs[0][0] >= 0 or kind != "ReduceSum"):
        return 0.0, inf
    return ANYTHING


def _scaled(kind: str, first: Range, second: Range) -> Range:
    """Products and quotients of what is not negative."""
    if first[0] < 0 or second[0] < 0:
        return ANYTHING
    if kind == "Mul":
        return first[0] * second[0], first[1] * second[1] if 0 not in (first[1], second[1]) else 0.0
    return 0.0, first[1] / second[0] if second[0] > 0 else inf


def _clip(node: onnx.NodeProto, inputs: Sequence[Range]) -> Range:
    """Bounds are attributes of old opsets, inputs of newer ones."""
    given = {each.name: each.f for each in node.attribute}
    bounds = [*inputs[1:], ANYTHING, ANYTHING][:2]
    low = given.get("min", bounds[0][0])
    high = given.get("max", bounds[1][1])
    return max(inputs[0][0], low), min(inputs[0][1], high)
