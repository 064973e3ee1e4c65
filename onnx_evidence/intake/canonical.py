"""The image input becomes float32, channels first: what the file wants instead is made inside the graph."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from onnx_evidence.graphs import node_inputs
from onnx_evidence.intake.entry import FLOATS, Entry
from onnx_evidence.intake.rewrite import add_constant, new_name, rename_inputs, replace_nodes, taken_names

# Operators that only move pixels: they do with floats what they did with whole numbers.
_MOVES = frozenset("Transpose Reshape Identity Flatten Squeeze Unsqueeze Slice Gather Split Concat".split())
_TO_LAST, _TO_FIRST = [0, 2, 3, 1], [0, 3, 1, 2]


def canonical_input(proto: onnx.ModelProto, entry: Entry) -> list[str]:
    """Let the graph take float32 pictures with channels first, under the input's own name.

    Whole-numbered pixels stay floats until the graph turns them into floats itself: a Cast or a DequantizeLinear is
    replaced by the same arithmetic in floats, so that gradients reach the input. Where something else computes with
    the whole numbers, they are rounded there.

    Parameters
    ----------
    proto : onnx.ModelProto
        The model, changed in place.
    entry : Entry
        Its image input.

    Returns
    -------
    list of str
        What was done, in words; empty where the input was float32 with channels first.
    """
    done: list[str] = []
    graph = proto.graph
    if entry.levels is not None:
        done.append(_Pixels(proto, entry).free())
    elif entry.elem_type != TensorProto.FLOAT:
        _prepend(graph, entry.name, "Cast", to=entry.elem_type)
        done.append(f"{entry.dtype} input made float32")
    if entry.layout == "NHWC":
        _channels_first(graph, entry.name)
        done.append("channels put first")
    channels, height, width = entry.shape
    value = helper.make_tensor_value_info(entry.name, TensorProto.FLOAT, [entry.batch or "N", channels, height, width])
    del graph.input[:]
    graph.input.append(value)
    if done:
        del graph.value_info[:]
    return done


def _prepend(graph: onnx.GraphProto, name: str, op_type: str, **attributes: Any) -> str:
    """Put a node behind the input; what read the input reads its output, whose name is returned."""
    inner = new_name(f"{name}/{op_type.lower()}", taken_names(graph))
    for node in graph.node:
        rename_inputs(node, {name: inner})
    replace_nodes(graph, [helper.make_node(op_type, [name], [inner], name=inner, **attributes), *graph.node])
    return inner


def _channels_first(graph: onnx.GraphProto, name: str) -> None:
    """Transpose behind the input; where the graph transposes back, both go."""
    inner = _prepend(graph, name, "Transpose", perm=_TO_LAST)
    undone = {node.output[0]: name for node in graph.node if node.input and _undoes(node, inner)}
    asked = {value.name for value in graph.output}
    if undone and asked.isdisjoint(undone):
        for node in graph.node:
            rename_inputs(node, undone)
        replace_nodes(graph, [node for node in graph.node if node.output[0] not in undone])
    if not any(inner in node.input for node in graph.node):
        replace_nodes(graph, [node for node in graph.node if node.output[0] != inner])


def _undoes(node: onnx.NodeProto, inner: str) -> bool:
    return node.op_type == "Transpose" and node.input[0] == inner and list(node.attribute[0].ints) == _TO_FIRST


class _Pixels:
    """Follows whole-numbered pixels as floats to where the graph makes floats of them."""

    def __init__(self, proto: onnx.ModelProto, entry: Entry) -> None:
        self.graph, self.entry = proto.graph, entry
        self.taken = taken_names(self.graph)
        self.constants = {tensor.name: tensor for tensor in self.graph.initializer}
        self.raw = {entry.name}
        self.rounded: dict[str, str] = {}
        self.nodes: list[onnx.NodeProto] = []

    def free(self) -> str:
        """Change the graph; say what was done."""
        for node in list(self.graph.node):
            self._take(node)
        replace_nodes(self.graph, self.nodes)
        if self.rounded:
            return f"{self.entry.dtype} input rounded inside: no gradient reaches it"
        return f"{self.entry.dtype} input made float32"

    def _take(self, node: onnx.NodeProto) -> None:
        read = [name for name in node_inputs(node) if name in self.raw]
        if not read or node.op_type == "Shape":
            self.nodes.append(node)
        elif node.op_type == "Cast" and node.attribute[0].i in FLOATS:
            self._cast(node)
        elif node.op_type == "DequantizeLinear" and self._is_per_tensor(node):
            self._dequantize(node)
        elif node.op_type in _MOVES and (node.op_type != "Concat" or self.raw.issuperset(node.input)):
            self.raw.update(node.output)
            self.nodes.append(node)
        else:
            self._round(node, read)

    def _cast(self, node: onnx.NodeProto) -> None:
        plain = node.attribute[0].i == TensorProto.FLOAT
        copy = helper.make_node("Identity", node.input, node.output) if plain else node
        self.nodes.append(copy)

    def _is_per_tensor(self, node: onnx.NodeProto) -> bool:
        scale = self.constants.get(node.input[1])
        return scale is not None and int(np.prod(scale.dims)) == 1 and scale.data_type == TensorProto.FLOAT

    def _dequantize(self, node: onnx.NodeProto) -> None:
        """(x - zero point) * scale."""
        data, scale, *zero = node.input
        output = node.output[0]
        if zero and zero[0]:
            point = new_name(f"{output}/zero", self.taken)
            self._add("Cast", [zero[0]], point, to=TensorProto.FLOAT)
            data = self._add("Sub", [data, point], new_name(f"{output}/shifted", self.taken))
        self._add("Mul", [data, scale], output)

    def _round(self, node: onnx.NodeProto, read: Sequence[str]) -> None:
        """Whole numbers again, for an operator that computes with them."""
        for name in read:
            if name not in self.rounded:
                self.rounded[name] = self._whole(name)
        rename_inputs(node, self.rounded)
        self.nodes.append(node)

    def _whole(self, name: str) -> str:
        assert self.entry.levels is not None  # whole numbers have levels
        bounds = [
            add_constant(self.graph, f"{name}/{word}", np.array(level, np.float32), self.taken)
            for word, level in zip(("lowest", "highest"), self.entry.levels, strict=True)
        ]
        # Round came with opset 11.
        half = add_constant(self.graph, f"{name}/half", np.array(0.5, np.float32), self.taken)
        near = self._add("Add", [name, half], new_name(f"{name}/moved", self.taken))
        near = self._add("Floor", [near], new_name(f"{name}/rounded", self.taken))
        near = self._add("Max", [near, bounds[0]], new_name(f"{name}/raised", self.taken))
        near = self._add("Min", [near, bounds[1]], new_name(f"{name}/lowered", self.taken))
        return self._add("Cast", [near], new_name(f"{name}/whole", self.taken), to=self.entry.elem_type)

    def _add(self, op_type: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op_type, inputs, [output], name=output, **attributes))
        return output
