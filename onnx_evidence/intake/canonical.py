"""The image input becomes float32, channels first: what the file wants instead is made inside the graph."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from onnx_evidence.graphs import Net, attributes_of, node_inputs, rename_inputs
from onnx_evidence.intake.entry import FLOATS, Entry

# Operators that only move pixels: they do with floats what they did with whole numbers.
_MOVES = frozenset("Transpose Reshape Identity Flatten Squeeze Unsqueeze Slice Gather Split Concat".split())
_TO_LAST, _TO_FIRST = [0, 2, 3, 1], [0, 3, 1, 2]


def canonical_input(proto: onnx.ModelProto, entry: Entry) -> list[str]:
    """Let the graph take float32 pictures with channels first, under the input's own name.

    What was done is told in words; nothing where the input was so. Whole-numbered pixels stay floats until the graph
    turns them into floats itself: a Cast or a DequantizeLinear is replaced, in place, by the same arithmetic in floats,
    so that gradients reach the input. Where something else computes with the whole numbers, they are rounded there.
    """
    done: list[str] = []
    net = _Pixels(proto, entry)
    if entry.levels is not None:
        done.append(net.free())
    elif entry.elem_type != TensorProto.FLOAT:
        net.begin_with("Cast", to=entry.elem_type)
        done.append(f"{entry.dtype} input made float32")
    if entry.layout == "NHWC":
        net.channels_first()
        done.append("channels put first")
    channels, height, width = entry.shape
    value = helper.make_tensor_value_info(entry.name, TensorProto.FLOAT, [entry.batch or "N", channels, height, width])
    graph = proto.graph
    del graph.input[:]
    graph.input.append(value)
    if done:
        net.finish()
        del graph.value_info[:]
    return done


class _Pixels(Net):
    """Follows whole-numbered pixels as floats to where the graph makes floats of them."""

    def __init__(self, proto: onnx.ModelProto, entry: Entry) -> None:
        super().__init__(proto)
        self.entry = entry
        self.raw = {entry.name}
        self.rounded: dict[str, str] = {}

    def begin_with(self, op_type: str, **attributes: Any) -> str:
        """Put a node behind the input; what read the input reads its output, whose name is returned."""
        inner = self.fresh(f"{self.entry.name}/{op_type.lower()}")
        self.redirect({self.entry.name: inner})
        nodes = self.take()
        self.write(op_type, [self.entry.name], inner, **attributes)
        self.add(*nodes)
        return inner

    def channels_first(self) -> None:
        """Transpose behind the input; where the graph transposes back, both go."""
        inner = self.begin_with("Transpose", perm=_TO_LAST)
        undone = {node.output[0] for node in self.readers.get(inner, []) if _undoes(node)}
        if undone and undone.isdisjoint(self.outputs):
            self.redirect(dict.fromkeys(undone, self.entry.name))
            self.add(*(node for node in self.take() if node.output[0] not in undone))
        if inner not in self.readers:
            self.add(*(node for node in self.take() if node.output[0] != inner))

    def free(self) -> str:
        """Change the graph; say what was done."""
        for node in self.take():
            self._follow(node)
        if self.rounded:
            return f"{self.entry.dtype} input rounded inside: no gradient reaches it"
        return f"{self.entry.dtype} input made float32"

    def _follow(self, node: onnx.NodeProto) -> None:
        read = [name for name in node_inputs(node) if name in self.raw]
        if not read or node.op_type == "Shape":
            self.add(node)
        elif node.op_type == "Cast" and node.attribute[0].i in FLOATS:
            if node.attribute[0].i == TensorProto.FLOAT:
                self.write("Identity", node.input, *node.output)
            else:
                self.add(node)
        elif node.op_type == "DequantizeLinear" and self._is_per_tensor(node):
            self._dequantize(node)
        elif node.op_type in _MOVES and (node.op_type != "Concat" or self.raw.issuperset(node.input)):
            self.raw.update(node.output)
            self.add(node)
        else:
            self._round(node, read)

    def _is_per_tensor(self, node: onnx.NodeProto) -> bool:
        scale = self.constants.get(node.input[1])
        return scale is not None and int(np.prod(scale.dims)) == 1 and scale.data_type == TensorProto.FLOAT

    def _dequantize(self, node: onnx.NodeProto) -> None:
        """(x - zero point) * scale."""
        data, scale, *zero = node.input
        output = node.output[0]
        if zero and zero[0]:
            point = self.write("Cast", [zero[0]], self.fresh(f"{output}/zero"), to=TensorProto.FLOAT)
            data = self.write("Sub", [data, point], self.fresh(f"{output}/shifted"))
        self.write("Mul", [data, scale], output)

    def _round(self, node: onnx.NodeProto, read: Sequence[str]) -> None:
        """Whole numbers again, for an operator that computes with them."""
        for name in read:
            if name not in self.rounded:
                self.rounded[name] = self._whole(name)
        rename_inputs(node, self.rounded)
        self.add(node)

    def _whole(self, name: str) -> str:
        assert self.entry.levels is not None  # whole numbers have levels
        bounds = [
            self.constant(f"{name}/{word}", np.array(level, np.float32))
            for word, level in zip(("lowest", "highest"), self.entry.levels, strict=True)
        ]
        # Round came with opset 11.
        half = self.constant(f"{name}/half", np.array(0.5, np.float32))
        near = self.write("Add", [name, half], self.fresh(f"{name}/moved"))
        near = self.write("Floor", [near], self.fresh(f"{name}/rounded"))
        near = self.write("Max", [near, bounds[0]], self.fresh(f"{name}/raised"))
        near = self.write("Min", [near, bounds[1]], self.fresh(f"{name}/lowered"))
        return self.write("Cast", [near], self.fresh(f"{name}/whole"), to=self.entry.elem_type)


def _undoes(node: onnx.NodeProto) -> bool:
    return node.op_type == "Transpose" and attributes_of(node).get("perm") == _TO_FIRST
