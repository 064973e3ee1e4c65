"""Graphs that ONNX Runtime saved in the layout of one kind of processor: channels in blocks, brought back into rows.

From the level ``ORT_ENABLE_LAYOUT`` on convolutions and pools are of the domain ``com.microsoft.nchwc``. Their tensors
have the usual sides, channels filled up to whole blocks with zeros, but lie in memory block by block; so do weights,
which the file holds in that order (onnxruntime/core/mlas/lib/reorder.cpp: OIHWBiBo, and OIHWBo where each filter reads
channels one by one). How long a block is only the machine knows, which is asked.
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from onnx_evidence.errors import ModelError
from onnx_evidence.graphs import Shape
from onnx_evidence.intake.fused import Fused, Spelling, UnknownFormError
from onnx_evidence.intake.vendor import activate, spell
from onnx_evidence.sessions import Device, Session
from onnx_evidence.types import AnyArray

BLOCKED = "com.microsoft.nchwc"
_CONVOLUTION = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
# Operators whose output has the channels of what they read.
_POOLS = frozenset("MaxPool AveragePool GlobalMaxPool GlobalAveragePool Upsample".split())
_ALIKE = frozenset("Add Sum Mul Sub Max Min Relu Sigmoid Tanh LeakyRelu HardSigmoid Clip Elu HardSwish".split())
# A reader that takes channels as they come, those filled up included.
_ALL = 2**31
_TO_LAST, _TO_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
# Since when Resize, Pad and Slice are told by inputs what to do.
_GIVEN = 11


def unblock(proto: onnx.ModelProto, image: str, batch: int | None, path: Path) -> tuple[int, int]:
    """Write operators on blocked channels as standard ones, and fused ones beside them, in place; how many of either.

    Constants are initializers already; ``batch`` is the size that the graph insists on. `ModelError` if this machine
    has no such layout, or there is an operator in it that is not known.
    """
    blocked = sum(node.domain == BLOCKED for node in proto.graph.node)
    if not blocked:
        return 0, 0
    try:
        unblocking = _Unblocking(proto, image, batch, _block())
        unblocking.run()
    except (ModelError, UnknownFormError, ValueError) as error:
        raise ModelError(
            f"{path}: saved with a hardware-specific layout ({BLOCKED}) that cannot be read here; save the optimised "
            "model at ORT_ENABLE_EXTENDED, or give the original"
        ) from error
    return blocked, unblocking.spelt


def _block() -> int:
    """Channels of a block on this machine: the runtime is shown 16 and puts them in a row."""
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 16, 1, 2])
    node = helper.make_node("ReorderOutput", ["x"], ["y"], domain=BLOCKED, channels=16)
    graph = helper.make_graph([node], "block", [value], [onnx.ValueInfoProto(name="y")])
    opsets = [helper.make_opsetid("", 11), helper.make_opsetid(BLOCKED, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    numbers = np.arange(32, dtype=np.float32).reshape(1, 16, 1, 2)
    found = Session(model, Device("cpu", "this layout is the CPU's"), threads=1).run(numbers)
    return int(found[0, 0, 0, 1])


def in_rows(filters: AnyArray, block: int, *, single: bool) -> AnyArray:
    """Filters (outputs, inputs, rows, columns) that were reordered by blocks of ``block`` channels, in the usual order.

    Outputs are whole blocks, and so are inputs (OIHWBiBo: in blocks before those of the outputs) unless ``single``,
    where they were left in a row (OIHWBo).
    """
    outputs, inputs, rows, cols = filters.shape
    if single:
        parts = filters.reshape(outputs // block, inputs, rows, cols, block).transpose(0, 4, 1, 2, 3)
    else:
        parts = filters.reshape(outputs // block, inputs // block, rows, cols, block, block)
        parts = parts.transpose(0, 5, 1, 4, 2, 3)
    return np.ascontiguousarray(parts.reshape(filters.shape))


class _Unblocking(Spelling):
    """Writes the graph anew; channels that only fill blocks up are left out wherever nothing reads them."""

    def __init__(self, proto: onnx.ModelProto, image: str, batch: int | None, block: int) -> None:
        super().__init__(proto, image, batch)
        self.block = block
        self.filters: dict[str, AnyArray] = {}
        # Of every tensor in blocks: one of those that have as many channels; and how many there are.
        self.kin: dict[str, str] = {}
        self.have: dict[str, int] = {}
        self.names: dict[str, str] = {}
        self.spelt = 0

    def run(self) -> None:
        """Change the graph."""
        self._relate()
        demands = self._demands()
        for original in self.take():
            node = onnx.NodeProto()
            node.CopyFrom(original)
            if node.domain != BLOCKED and self.have.keys().isdisjoint(node.input):
                self.spelt += spell(self, node)
            elif node.domain != BLOCKED:
                self._standard(node)
            else:
                write = getattr(self, f"_{node.op_type.lower()}", None)
                if write is None:
                    raise UnknownFormError
                write(node, demands.get(self._root(node.output[0]), 0))
        # Tensors in blocks are called what they are called as plain ones.
        self.rename(self.names)
        self.finish()

    def _infer(self) -> dict[str, Shape]:
        self.rename(self.names)
        return super()._infer()

    def _relate(self) -> None:
        """Find out which tensors have the same channels."""
        for node in self.nodes:
            is_conv = node.domain == BLOCKED and node.op_type == "Conv"
            if is_conv:
                self.filters[node.output[0]] = self._filter(node)
            alike = node.op_type in (_POOLS if node.domain == BLOCKED else _ALIKE)
            if alike or (is_conv and self._is_single(node)):
                self._join(node.output[0], node.input[0])
            for name in node.input[3:4] if is_conv else node.input[1:] if alike else ():
                if name and name not in self.constants:
                    self._join(node.output[0], name)

    def _root(self, name: str) -> str:
        while name in self.kin:
            name = self.kin[name]
        return name

    def _join(self, one: str, other: str) -> None:
        first, second = self._root(one), self._root(other)
        if first != second:
            self.kin[first] = second

    def _demands(self) -> dict[str, int]:
        """How many channels are read of tensors of one kin."""
        found: dict[str, int] = {}
        for node in self.nodes:
            for place, name in enumerate(node.input):
                root = self._root(name)
                found[root] = max(found.get(root, 0), self._read(node, place))
        return found

    def _read(self, node: onnx.NodeProto, place: int) -> int:
        if node.domain != BLOCKED:
            return 0 if node.op_type in _ALIKE else _ALL
        if node.op_type == "ReorderOutput":
            return int(Fused(self, node).attribute("channels", _ALL))
        if node.op_type != "Conv" or place != 0 or self._is_single(node):
            return 0
        used = np.flatnonzero(self.filters[node.output[0]].any(axis=(0, 2, 3)))
        grouped = Fused(self, node).attribute("group", 1) > 1
        return _ALL if grouped or not len(used) else int(used[-1]) + 1

    def _is_single(self, node: onnx.NodeProto) -> bool:
        """Whether a convolution works channel by channel."""
        sides = self.constants[node.input[1]].dims
        return bool(sides[1] == 1 and Fused(self, node).attribute("group", 1) == sides[0] > 1)

    def _filter(self, node: onnx.NodeProto) -> AnyArray:
        filters = Fused(self, node).array(1)
        direct = Fused(self, node).attribute("group", 1) == 1 and filters.shape[1] < self.block
        return in_rows(filters, self.block, single=direct or self._is_single(node))

    def _conv(self, node: onnx.NodeProto, demand: int) -> None:
        step, filters = Fused(self, node), self.filters[node.output[0]]
        given = step.attributes(_CONVOLUTION)
        count = min(len(filters), demand or len(filters))
        if self._is_single(node):
            count = given["group"] = self.have.get(node.input[0], count)
        elif given.get("group", 1) == 1:
            filters = filters[:, : self.have.get(node.input[0], filters.shape[1])]
        weights = [step.constant(filters[:count])]
        if step.has(2):
            weights.append(step.constant(step.array(2)[:count]))
        start = len(self.nodes)
        y = step.op("Conv", node.input[0], *weights, **given)
        y = step.op("Add", y, step.input(3)) if step.has(3) else y
        y = activate(step, y, step.attribute("activation", ""), step.attribute("activation_params", []))
        self._name(start, {node.output[0]: y})
        self.have[node.output[0]] = count

    def _given(self) -> None:
        """Refuse where operators are not told by inputs what to do."""
        if self.opset < _GIVEN:
            raise UnknownFormError

    def _same(self, node: onnx.NodeProto, _demand: int) -> None:
        """A pool."""
        plain = onnx.NodeProto()
        plain.CopyFrom(node)
        plain.domain = ""
        # Older average pools know no dilations.
        for place in reversed(range(len(plain.attribute))):
            if plain.attribute[place].name == "dilations" and set(plain.attribute[place].ints) <= {1}:
                del plain.attribute[place]
        self.add(plain)
        self.have[node.output[0]] = self.have[node.input[0]]

    _maxpool = _averagepool = _globalmaxpool = _globalaveragepool = _same

    def _standard(self, node: onnx.NodeProto) -> None:
        """Operators that take blocked channels as they are: value by value, and Concat."""
        given = [self.have[name] for name in node.input if name in self.have]
        joined = node.op_type == "Concat" and len(given) == len(node.input)
        if not joined and (node.op_type not in _ALIKE or len(set(given)) > 1):
            raise UnknownFormError
        self.have[node.output[0]] = sum(given) if joined else given[0]
        self.add(node)

    def _upsample(self, node: onnx.NodeProto, _demand: int) -> None:
        step = Fused(self, node)
        scales = step.constant(np.array(step.attribute("scales"), np.float32))
        mode, place = step.attribute("mode", "nearest"), step.attribute("coordinate_transformation_mode", "asymmetric")
        self._given()
        rounding = "floor" if mode == "nearest" else None
        given = {"mode": mode, "coordinate_transformation_mode": place, "nearest_mode": rounding}
        self.write("Resize", [node.input[0], "", scales], node.output[0], **given)
        self.have[node.output[0]] = self.have[node.input[0]]

    def _reorderinput(self, node: onnx.NodeProto, demand: int) -> None:
        step, name = Fused(self, node), node.input[0]
        last = step.attribute("channels_last", 0)
        count = self.shape(name)[-1 if last else 1] or 0
        name = step.transpose(name, *_TO_FIRST) if last else name
        if demand > count:
            whole = -(-count // self.block) * self.block
            self._given()
            pads = [0] * 5 + [whole - count] + [0] * 2
            name = step.op("Pad", name, step.integers(*pads)) if whole > count else name
            count = whole
        self.write("Identity", [name], node.output[0])
        self.have[node.output[0]] = count

    def _reorderoutput(self, node: onnx.NodeProto, _demand: int) -> None:
        step, name = Fused(self, node), node.input[0]
        count = step.attribute("channels", self.have[name])
        if count < self.have[name]:
            self._given()
            name = step.op("Slice", name, *(step.integers(each) for each in (0, count, 1)))
        if step.attribute("channels_last", 0):
            self.write("Transpose", [name], node.output[0], perm=list(_TO_LAST))
        elif name == node.input[0] and name not in self.names:
            self.names[name] = node.output[0]
        else:
            self.write("Identity", [name], node.output[0])
