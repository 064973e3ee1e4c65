"""Integer operators rewritten as float operators between QuantizeLinear and DequantizeLinear.

ONNX Runtime fuses what is written so back to its integer kernels, and the backward graph has rules for it. What the
formats say: https://onnx.ai/onnx/operators/onnx__QLinearConv.html, onnx__QLinearMatMul.html, and
onnxruntime/docs/ContribOperators.md for the operators of com.microsoft.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnx_evidence.intake.rewrite import add_constant, new_name, replace_nodes, taken_names

# Scale and zero point of a tensor of codes; the zero point may be ''.
Codes = tuple[str, str]

# Operators of one quantised input and one quantised output: (x, scale, zero, y scale, y zero).
_UNARY = {
    "QLinearSigmoid": "Sigmoid",
    "QLinearLeakyRelu": "LeakyRelu",
    "QLinearAveragePool": "AveragePool",
    "QLinearGlobalAveragePool": "GlobalAveragePool",
    "QLinearSoftmax": "Softmax",
}
_BINARY = {"QLinearAdd": "Add", "QLinearMul": "Mul"}
# Operators that hand codes on as they are.
_MOVES = frozenset("MaxPool Reshape Flatten Squeeze Unsqueeze Transpose Identity".split())
# Attributes that the float operators do not have.
_OWN = frozenset({"channels_last", "opset"})
# Inputs that each has at least; ONNX's checker knows no operators of com.microsoft.
_LEAST = {"QGemm": 6, "QLinearConcat": 5, **dict.fromkeys(_UNARY, 4), **dict.fromkeys(_BINARY, 7)}
# Since when scales may be one per channel.
_PER_CHANNEL = 13


def rewrite_integers(proto: onnx.ModelProto) -> int:
    """Rewrite the integer operators that have a float twin; others stay as they are.

    Parameters
    ----------
    proto : onnx.ModelProto
        The model, with constants as initializers; changed in place. Scales per channel need opset 13.

    Returns
    -------
    int
        How many operators were rewritten.
    """
    if all(node.op_type not in _REWRITES for node in proto.graph.node):
        return 0
    return _Rewriter(proto).run()


class _Rewriter:
    def __init__(self, proto: onnx.ModelProto) -> None:
        self.graph = proto.graph
        self.opset = next((each.version for each in proto.opset_import if each.domain in ("", "ai.onnx")), 0)
        self.taken = taken_names(self.graph)
        self.constants = {tensor.name: tensor for tensor in self.graph.initializer}
        self.codes: dict[str, Codes] = {}
        self.nodes: list[onnx.NodeProto] = []

    def run(self) -> int:
        rewritten = 0
        for node in list(self.graph.node):
            if node.op_type == "QuantizeLinear" and len(node.input) == 3:
                self.codes[node.output[0]] = (node.input[1], node.input[2])
            if self._can(node):
                _REWRITES[node.op_type](self, node)
                rewritten += 1
            elif node.op_type in _MOVES and node.input[0] in self.codes and len(node.output) == 1:
                self._move(node)
            else:
                self.nodes.append(node)
        replace_nodes(self.graph, self.nodes)
        return rewritten

    def _can(self, node: onnx.NodeProto) -> bool:
        if node.op_type not in _REWRITES or len(node.input) < _LEAST.get(node.op_type, 0):
            return False
        given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        several = any(self._count(name) > 1 for name in node.input if self._is_scale(name))
        return not given.get("channels_last") and (not several or self.opset >= _PER_CHANNEL)

    def _is_scale(self, name: str) -> bool:
        tensor = self.constants.get(name)
        return tensor is not None and tensor.data_type == TensorProto.FLOAT and len(tensor.dims) <= 1

    def _count(self, name: str) -> int:
        return int(np.prod(self.constants[name].dims)) if name in self.constants else 1

    def conv(self, node: onnx.NodeProto) -> None:
        x, w = _triple(node, 0), _triple(node, 3)
        inputs = [self._decode(node, *x), self._decode(node, *w, axis=0)]
        if len(node.input) > 8 and node.input[8]:
            inputs.append(self._bias(node, node.input[8], x[1], w[1]))
        self._between(node, "Conv", inputs, _pair(node, 6))

    def matmul(self, node: onnx.NodeProto) -> None:
        a, b = _triple(node, 0), _triple(node, 3)
        inputs = [self._decode(node, *a, axis=-2), self._decode(node, *b, axis=-1)]
        self._between(node, "MatMul", inputs, _pair(node, 6))

    def gemm(self, node: onnx.NodeProto) -> None:
        a, b = _triple(node, 0), _triple(node, 3)
        given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        inputs = [self._decode(node, *a), self._decode(node, *b, axis=0 if given.get("transB") else 1)]
        rest = [*node.input[6:], "", "", ""][:3]
        if rest[0]:
            # "scale = alpha / beta * a_scale * b_scale", ContribOperators.md; there is no beta.
            inputs.append(self._bias(node, rest[0], a[1], b[1], float(given.get("alpha", 1.0))))
        self._between(node, "Gemm", inputs, (rest[1], rest[2]) if rest[1] else None)

    def unary(self, node: onnx.NodeProto) -> None:
        decoded = self._decode(node, *_triple(node, 0))
        self._between(node, _UNARY[node.op_type], [decoded], _pair(node, 3))

    def binary(self, node: onnx.NodeProto) -> None:
        inputs = [self._decode(node, *_triple(node, 0)), self._decode(node, *_triple(node, 3))]
        self._between(node, _BINARY[node.op_type], inputs, _pair(node, 6))

    def concat(self, node: onnx.NodeProto) -> None:
        parts = [_triple(node, start) for start in range(2, len(node.input), 3)]
        inputs = [self._decode(node, *part) for part in parts]
        self._between(node, "Concat", inputs, _pair(node, 0))

    def _move(self, node: onnx.NodeProto) -> None:
        codes = self.codes[node.input[0]]
        inputs = [self._decode(node, node.input[0], *codes), *node.input[1:]]
        self._between(node, node.op_type, inputs, codes)

    def _decode(self, node: onnx.NodeProto, name: str, scale: str, zero: str, axis: int = 0) -> str:
        """The floats that codes stand for: one DequantizeLinear per reader, as ONNX Runtime's fusion wants them."""
        output = new_name(f"{node.output[0]}/{name}", self.taken)
        if name not in self.constants:
            self.codes.setdefault(name, (scale, zero))
        inputs = [name, scale, zero] if zero else [name, scale]
        attributes: dict[str, Any] = {"axis": axis % self._rank(name)} if self._count(scale) > 1 else {}
        self.nodes.append(helper.make_node("DequantizeLinear", inputs, [output], name=output, **attributes))
        return output

    def _rank(self, name: str) -> int:
        return max(len(self.constants[name].dims), 1) if name in self.constants else 1

    def _bias(self, node: onnx.NodeProto, name: str, x_scale: str, w_scale: str, factor: float = 1.0) -> str:
        """A bias of int32 counts in steps of the product of both scales."""
        if self._is_scale(x_scale) and self._is_scale(w_scale) and self._count(x_scale) == 1:
            x, w = (numpy_helper.to_array(self.constants[each]) for each in (x_scale, w_scale))
            scale = add_constant(
                self.graph, f"{name}/scale", (factor * x.reshape(()) * w).astype(np.float32), self.taken
            )
            self.constants[scale] = self.graph.initializer[-1]
        else:
            scale = new_name(f"{name}/scale", self.taken)
            self.nodes.append(helper.make_node("Mul", [x_scale, w_scale], [scale], name=scale))
        return self._decode(node, name, scale, "", axis=0)

    def _between(self, node: onnx.NodeProto, op_type: str, inputs: Sequence[str], codes: Codes | None) -> None:
        """The float operator, and its result as codes again where it was."""
        output = node.output[0]
        floats = output if codes is None else new_name(f"{output}/float", self.taken)
        made = helper.make_node(op_type, inputs, [floats], name=node.name)
        made.attribute.extend(each for each in node.attribute if each.name not in _OWN)
        self.nodes.append(made)
        if codes is not None:
            self.codes[output] = codes
            given = [floats, codes[0], *([codes[1]] if codes[1] else [])]
            self.nodes.append(helper.make_node("QuantizeLinear", given, [output], name=f"{output}/codes"))


def _pair(node: onnx.NodeProto, start: int) -> Codes:
    """A scale and its zero point, which may be left out."""
    scale, zero = [*node.input[start : start + 2], ""][:2]
    return scale, zero


def _triple(node: onnx.NodeProto, start: int) -> tuple[str, str, str]:
    """A tensor of codes, its scale and its zero point."""
    name, scale, zero = [*node.input[start : start + 3], "", ""][:3]
    return name, scale, zero


_REWRITES: dict[str, Callable[[_Rewriter, onnx.NodeProto], None]] = {
    "QLinearConv": _Rewriter.conv,
    "QLinearMatMul": _Rewriter.matmul,
    "QGemm": _Rewriter.gemm,
    "QLinearConcat": _Rewriter.concat,
    **dict.fromkeys(_UNARY, _Rewriter.unary),
    **dict.fromkeys(_BINARY, _Rewriter.binary),
}
