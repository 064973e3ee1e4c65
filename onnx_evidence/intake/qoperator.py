"""Integer operators rewritten as float operators between QuantizeLinear and DequantizeLinear.

ONNX Runtime fuses what is written so back to its integer kernels, and the backward graph has rules for it. What the
formats say: https://onnx.ai/onnx/operators/onnx__QLinearConv.html, onnx__QLinearMatMul.html, and
onnxruntime/docs/ContribOperators.md for the operators of com.microsoft.
"""

from collections.abc import Callable, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnx_evidence.graphs import Net, attributes_of
from onnx_evidence.intake.trial import VENDOR

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
_LEAST = {
    "QGemm": 6,
    "QLinearConcat": 5,
    "QLinearWhere": 9,
    "DynamicQuantizeMatMul": 3,
    "MatMulIntegerToFloat": 4,
    "QAttention": 5,
    **dict.fromkeys(_UNARY, 4),
    **dict.fromkeys(_BINARY, 7),
}
# Channels put first, and last.
_TO_FIRST, _TO_LAST = [0, 3, 1, 2], [0, 2, 3, 1]
# Since when scales may be one per channel.
_PER_CHANNEL = 13


def rewrite_integers(proto: onnx.ModelProto) -> int:
    """Rewrite in place the integer operators that have a float twin, others stay as they are; how many were rewritten.

    Constants are initializers already; scales per channel need opset 13.
    """
    if all(node.op_type not in _REWRITES for node in proto.graph.node):
        return 0
    return _Integers(proto).run()


class _Integers(Net):
    def __init__(self, proto: onnx.ModelProto) -> None:
        super().__init__(proto)
        self.codes: dict[str, Codes] = {}
        self.counted = _only_cast(self)
        self.decoded: dict[tuple[str, ...], str] = {}
        # Whether the operator at hand has its channels last.
        self.turned = False

    def run(self) -> int:
        rewritten = 0
        for node in self.take():
            if node.op_type == "QuantizeLinear" and len(node.input) == 3:
                self.codes[node.output[0]] = (node.input[1], node.input[2])
            if self._can(node):
                self._rewrite(node)
                rewritten += 1
            elif node.op_type in _MOVES and node.input[0] in self.codes and len(node.output) == 1:
                self._move(node, node.op_type)
            else:
                self.add(node)
        self.finish()
        return rewritten

    def _can(self, node: onnx.NodeProto) -> bool:
        if node.op_type not in _REWRITES or len(node.input) < _LEAST.get(node.op_type, 0):
            return False
        if node.op_type in ("MatMulInteger", "ConvInteger") and node.output[0] not in self.counted:
            return False
        if node.op_type == "NhwcMaxPool" and node.input[0] not in self.codes:
            return False
        several = any(self._count(name) > 1 for name in node.input if self._is_scale(name))
        return not several or self.opset >= _PER_CHANNEL

    def _rewrite(self, node: onnx.NodeProto) -> None:
        """The operator's own rewriting; where its channels are last they are put first in between."""
        last = node.op_type == "NhwcMaxPool" or any(each.name == "channels_last" and each.i for each in node.attribute)
        self.turned = last
        _REWRITES[node.op_type](self, node)
        self.turned = False

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
        given = attributes_of(node)
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

    def where(self, node: onnx.NodeProto) -> None:
        inputs = [node.input[0], *(self._decode(node, *_triple(node, start)) for start in (1, 4))]
        self._between(node, "Where", inputs, _pair(node, 7))

    def counts(self, node: onnx.NodeProto) -> None:
        """MatMulInteger and ConvInteger: counts as floats, which they become at once anyway."""
        a, b, *zeros = [*node.input, "", ""][:4]
        axis = -1 if node.op_type == "MatMulInteger" else 0
        factors = [self._whole(node, a, zeros[0], -2), self._whole(node, b, zeros[1], axis)]
        self._between(node, node.op_type.removesuffix("Integer"), factors, None)

    def _whole(self, node: onnx.NodeProto, name: str, zero: str, axis: int) -> str:
        """Codes less their zero point as floats; weights a constant: a DequantizeLinear may be fused inexactly."""
        shape = tuple(self.constants[zero].dims) if zero in self.constants else ()
        if name not in self.constants or (zero and zero not in self.constants):
            return self._decode(node, name, self.constant("scale/one", np.ones(shape, np.float32)), zero, axis=axis)
        codes = numpy_helper.to_array(self.constants[name]).astype(np.float32)
        point = numpy_helper.to_array(self.constants[zero]).astype(np.float32) if zero else np.float32(0)
        if np.size(point) > 1:
            point = np.expand_dims(point, tuple(place for place in range(codes.ndim) if place != axis % codes.ndim))
        return self.constant(f"{name}/float", codes - point)

    def to_float(self, node: onnx.NodeProto) -> None:
        """MatMulIntegerToFloat."""
        a, b, *scales, a_zero, b_zero, bias = [*node.input, "", "", ""][:7]
        self._product(node, [self._whole(node, a, a_zero, -2), self._whole(node, b, b_zero, -1)], scales, bias)

    def dynamic(self, node: onnx.NodeProto) -> None:
        """DynamicQuantizeMatMul: its first factor is made codes by a scale of its own."""
        a, b, scale, zero, bias = [*node.input, "", ""][:5]
        words = ("codes", "scale", "zero")
        codes, step, point = names = [self.fresh(f"{node.output[0]}/{word}") for word in words]
        self.write("DynamicQuantizeLinear", [a], *names)
        factors = [self._whole(node, codes, point, -2), self._whole(node, b, zero, -1)]
        self._product(node, factors, [step, scale], bias)

    def _product(self, node: onnx.NodeProto, factors: Sequence[str], scales: Sequence[str], bias: str) -> None:
        """A product of counts, times both scales, and a bias."""
        output = node.output[0]
        names = [self.fresh(f"{output}/{word}") for word in ("step", "product", "scaled")]
        self.write("Mul", scales, names[0])
        self.write("MatMul", factors, names[1])
        scaled = self.write("Mul", [names[1], names[0]], names[2] if bias else output)
        if bias:
            self.write("Add", [scaled, bias], output, name=node.name)

    def attention(self, node: onnx.NodeProto) -> None:
        """QAttention: Attention of floats, which is spelt out later."""
        x, w, bias, x_scale, w_scale, mask, x_zero, w_zero, past = [*node.input, "", "", "", ""][:9]
        weights = self.fresh(f"{w}/weights")
        self.write("Mul", [self._whole(node, w, w_zero, -1), w_scale], weights)
        inputs = [self._decode(node, x, x_scale, x_zero), weights, bias, mask, past]
        plain = helper.make_node("Attention", inputs, node.output, name=node.name, domain=VENDOR)
        while not plain.input[-1]:
            del plain.input[-1]
        plain.attribute.extend(node.attribute)
        self.add(plain)

    def pool(self, node: onnx.NodeProto) -> None:
        """NhwcMaxPool."""
        self._move(node, "MaxPool")

    def _move(self, node: onnx.NodeProto, op_type: str) -> None:
        codes = self.codes[node.input[0]]
        inputs = [self._decode(node, node.input[0], *codes), *node.input[1:]]
        self._between(node, op_type, inputs, codes)

    def _decode(self, node: onnx.NodeProto, name: str, scale: str, zero: str, axis: int = 0) -> str:
        """The floats that codes stand for, the same for all readers: so they are one cut."""
        if name not in self.constants:
            self.codes.setdefault(name, (scale, zero))
        place = axis % self._rank(name) if self._count(scale) > 1 else None
        key = (name, scale, zero, str(place))
        if key not in self.decoded:
            output = self.fresh(f"{node.output[0]}/{name}")
            inputs = [name, scale, zero] if zero else [name, scale]
            self.decoded[key] = self.write("DequantizeLinear", inputs, output, axis=place)
        return self.decoded[key]

    def _rank(self, name: str) -> int:
        return max(len(self.constants[name].dims), 1) if name in self.constants else 1

    def _bias(self, node: onnx.NodeProto, name: str, x_scale: str, w_scale: str, factor: float = 1.0) -> str:
        """A bias of int32 counts in steps of the product of both scales."""
        if self._is_scale(x_scale) and self._is_scale(w_scale) and self._count(x_scale) == 1:
            x, w = (numpy_helper.to_array(self.constants[each]) for each in (x_scale, w_scale))
            scale = self.constant(f"{name}/scale", (factor * x.reshape(()) * w).astype(np.float32))
        else:
            scale = self.fresh(f"{name}/scale")
            self.write("Mul", [x_scale, w_scale], scale)
        return self._decode(node, name, scale, "", axis=0)

    def _between(self, node: onnx.NodeProto, op_type: str, inputs: Sequence[str], codes: Codes | None) -> None:
        """The float operator, and its result as codes again where it was."""
        output = node.output[0]
        floats = output if codes is None else self.fresh(f"{output}/float")
        result, given = floats, list(inputs)
        if self.turned:
            result, data = (self.fresh(f"{output}/{word}") for word in ("first", "turned"))
            given[0] = self.write("Transpose", given[:1], data, perm=_TO_FIRST)
        made = helper.make_node(op_type, given, [result], name=node.name)
        made.attribute.extend(each for each in node.attribute if each.name not in _OWN)
        self.add(made)
        if self.turned:
            self.write("Transpose", [result], floats, perm=_TO_LAST)
        if codes is not None:
            self.codes[output] = codes
            self.write("QuantizeLinear", [floats, *(each for each in codes if each)], output, name=f"{output}/codes")


def _only_cast(net: Net) -> set[str]:
    """Tensors that are made floats, and read by nothing else."""
    cast = {
        name
        for name, readers in net.readers.items()
        if all(node.op_type == "Cast" and node.attribute[0].i == TensorProto.FLOAT for node in readers)
    }
    return cast.difference(net.outputs)


def _pair(node: onnx.NodeProto, start: int) -> Codes:
    """A scale and its zero point, which may be left out."""
    scale, zero = [*node.input[start : start + 2], ""][:2]
    return scale, zero


def _triple(node: onnx.NodeProto, start: int) -> tuple[str, str, str]:
    """A tensor of codes, its scale and its zero point."""
    name, scale, zero = [*node.input[start : start + 3], "", ""][:3]
    return name, scale, zero


_REWRITES: dict[str, Callable[[_Integers, onnx.NodeProto], None]] = {
    "QLinearConv": _Integers.conv,
    "QLinearMatMul": _Integers.matmul,
    "QGemm": _Integers.gemm,
    "QLinearConcat": _Integers.concat,
    "QLinearWhere": _Integers.where,
    "MatMulInteger": _Integers.counts,
    "ConvInteger": _Integers.counts,
    "MatMulIntegerToFloat": _Integers.to_float,
    "DynamicQuantizeMatMul": _Integers.dynamic,
    "QAttention": _Integers.attention,
    "NhwcMaxPool": _Integers.pool,
    **dict.fromkeys(_UNARY, _Integers.unary),
    **dict.fromkeys(_BINARY, _Integers.binary),
}
