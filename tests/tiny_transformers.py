"""Tiny classifiers whose cells lie otherwise than channels, rows, columns: as tokens, in windows, channels last.

All take 3 x 40 x 40 pictures (the transformer 48 x 48) and give five classes.
"""

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests import tiny

WIDTH = 8
HEADS = 2


class Net:
    """Writes nodes with names of their own and seeded weights."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, np.ndarray] = {}

    def op(self, op_type: str, *inputs: str, name: str | None = None, outputs: int = 1, **attributes: Any) -> Any:
        made = [name or f"{op_type.lower()}.{len(self.nodes)}"]
        made += [f"{made[0]}.{number}" for number in range(1, outputs)]
        self.nodes.append(helper.make_node(op_type, list(inputs), made, **attributes))
        return made[0] if outputs == 1 else made

    def constant(self, values: Any) -> str:
        name = f"c{len(self.weights)}"
        self.weights[name] = np.asarray(values)
        return name

    def weight(self, *shape: int, scale: float = 1.0) -> str:
        spread = scale / np.sqrt(max(np.prod(shape[1:]) if len(shape) > 2 else shape[0], 1))
        return self.constant((self.rng.normal(size=shape) * spread).astype(np.float32))

    def reshape(self, x: str, *sides: int) -> str:
        return self.op("Reshape", x, self.constant(np.array(sides)))

    def transpose(self, x: str, *perm: int, name: str | None = None) -> str:
        return self.op("Transpose", x, name=name, perm=list(perm))

    def slice(self, x: str, axis: int, start: int, end: int, step: int = 1) -> str:
        numbers = [self.constant(np.array([each])) for each in (start, end, axis, step)]
        return self.op("Slice", x, *numbers)

    def dense(self, x: str, inside: int, outside: int, scale: float = 1.0) -> str:
        bias = self.constant(self.rng.normal(size=outside).astype(np.float32) * np.float32(0.1))
        return self.op("Add", self.op("MatMul", x, self.weight(inside, outside, scale=scale)), bias)

    def norm(self, x: str, width: int, *, decomposed: bool = False) -> str:
        scale = self.constant(self.rng.uniform(0.5, 1.5, size=width).astype(np.float32))
        shift = self.constant(self.rng.normal(size=width).astype(np.float32) * np.float32(0.1))
        if not decomposed:
            return self.op("LayerNormalization", x, scale, shift, axis=-1)
        centred = self.op("Sub", x, self.op("ReduceMean", x, axes=[-1]))
        square = self.op("Pow", centred, self.constant(np.float32(2)))
        variance = self.op("Add", self.op("ReduceMean", square, axes=[-1]), self.constant(np.float32(1e-5)))
        normal = self.op("Div", centred, self.op("Sqrt", variance))
        return self.op("Add", self.op("Mul", normal, scale), shift)

    def gelu(self, x: str) -> str:
        half = self.op("Erf", self.op("Div", x, self.constant(np.float32(np.sqrt(2)))))
        return self.op(
            "Mul", self.op("Mul", x, self.op("Add", half, self.constant(np.float32(1)))), self.constant(np.float32(0.5))
        )

    def attention(self, x: str, tokens: int) -> str:
        """Self-attention over (batch, tokens, width)."""
        side = WIDTH // HEADS
        joint = self.reshape(self.dense(x, WIDTH, 3 * WIDTH), -1, tokens, 3, HEADS, side)
        turned = self.transpose(joint, 2, 0, 3, 1, 4)
        query, key, value = (self.op("Gather", turned, self.constant(np.array(n)), axis=0) for n in range(3))
        scores = self.op("MatMul", query, self.transpose(key, 0, 1, 3, 2))
        looked = self.op("MatMul", self.op("Softmax", scores, axis=-1), value)
        return self.dense(self.reshape(self.transpose(looked, 0, 2, 1, 3), -1, tokens, WIDTH), WIDTH, WIDTH, scale=0.3)

    def mixer(self, x: str, width: int = WIDTH) -> str:
        return self.dense(self.gelu(self.dense(x, width, 2 * width)), 2 * width, width, scale=0.3)

    def model(self, pooled: str, width: int, side: int) -> onnx.ModelProto:
        self.op("Gemm", pooled, self.weight(width, 5, scale=2.0), name="logits")
        return tiny.make_model(
            self.nodes,
            self.weights,
            input_shape=("N", 3, side, side),
            metadata={"preprocess": {**tiny.PREPROCESS, "size": [side, side], "resize_to": side}},
        )


def vit(*, depth: int = 4, class_token: bool = True, decomposed: bool = False) -> onnx.ModelProto:
    """A vision transformer of 6 x 6 patches: a class token before them, a register behind, 'block0' .. 'blockN'.

    Without a class token there are just patches, and their mean is classified.
    """
    net = Net(1)
    patches = net.op("Conv", "input", net.weight(WIDTH, 3, 8, 8), name="patches", strides=[8, 8])
    x = net.transpose(net.reshape(patches, 0, WIDTH, 36), 0, 2, 1)
    tokens = 36
    if class_token:
        size = net.op("Concat", net.op("Shape", "input", start=0, end=1), net.constant(np.array([1, 1])), axis=0)
        both = [net.op("Expand", net.weight(1, 1, WIDTH), size) for _ in range(2)]
        x, tokens = net.op("Concat", both[0], x, both[1], name="tokens", axis=1), 38
    x = net.op("Add", x, net.weight(1, tokens, WIDTH), name="placed")
    for number in range(depth):
        normal = net.norm(x, WIDTH, decomposed=decomposed)
        x = net.op("Add", net.attention(normal, tokens), x, name=f"middle{number}")
        x = net.op("Add", net.mixer(net.norm(x, WIDTH, decomposed=decomposed)), x, name=f"block{number}")
    x = net.norm(x, WIDTH, decomposed=decomposed)
    if class_token:
        return net.model(net.op("Gather", x, net.constant(np.array(0)), name="read", axis=1), WIDTH, 48)
    return net.model(net.op("ReduceMean", x, axes=[1], keepdims=0), WIDTH, 48)


def _windows(net: Net, x: str, side: int, size: int) -> str:
    """(N, side, side, width) to (N * windows, size * size, width)."""
    count = side // size
    cut = net.transpose(net.reshape(x, -1, count, size, count, size, WIDTH), 0, 1, 3, 2, 4, 5)
    return net.reshape(cut, -1, size * size, WIDTH)


def _joined(net: Net, x: str, side: int, size: int) -> str:
    count = side // size
    apart = net.transpose(net.reshape(x, -1, count, count, size, size, WIDTH), 0, 1, 3, 2, 4, 5)
    return net.reshape(apart, -1, side, side, WIDTH)


def _rolled(net: Net, x: str, side: int, by: int) -> str:
    for axis in (1, 2):
        x = net.op("Concat", net.slice(x, axis, by, side), net.slice(x, axis, 0, by), axis=axis)
    return x


def swin() -> onnx.ModelProto:
    """Channels last, windows of 5 x 5, every second block shifted: 'a0', 'a1' (20 x 20), 'b0', 'b1' (10 x 10)."""
    net = Net(2)
    conv = net.op("Conv", "input", net.weight(WIDTH, 3, 2, 2), name="patches", strides=[2, 2])
    x = net.norm(net.transpose(conv, 0, 2, 3, 1), WIDTH)
    for stage, side in (("a", 20), ("b", 10)):
        for number, shift in enumerate((0, 2)):
            y = _rolled(net, net.norm(x, WIDTH), side, shift) if shift else net.norm(x, WIDTH)
            y = _joined(net, net.attention(_windows(net, y, side, 5), 25), side, 5)
            y = _rolled(net, y, side, side - shift) if shift else y
            x = net.op("Add", x, y, name=f"{stage}{number}.middle")
            x = net.op("Add", x, net.mixer(net.norm(x, WIDTH)), name=f"{stage}{number}")
        if stage == "a":
            quarters = [net.slice(net.slice(x, 1, row, 20, 2), 2, col, 20, 2) for col in (0, 1) for row in (0, 1)]
            x = net.op("MatMul", net.op("Concat", *quarters, name="merged", axis=-1), net.weight(4 * WIDTH, WIDTH))
    return net.model(net.op("ReduceMean", net.norm(x, WIDTH), axes=[1, 2], keepdims=0), WIDTH, 40)


def windowed() -> onnx.ModelProto:
    """Sums inside windows: 'local' in 2 x 2 windows of 5 x 5 cells, 'sparse' in windows of every fifth cell."""
    net = Net(3)
    conv = net.op("Conv", "input", net.weight(WIDTH, 3, 4, 4), name="patches", strides=[4, 4])
    x = net.transpose(net.reshape(conv, 0, WIDTH, 2, 5, 2, 5), 0, 2, 4, 3, 5, 1)
    x = net.reshape(x, -1, 4, 25, WIDTH)
    x = net.op("Add", net.mixer(x), x, name="local")
    x = net.transpose(x, 0, 2, 1, 3)
    x = net.op("Add", net.mixer(x), x, name="sparse")
    return net.model(net.op("ReduceMean", x, axes=[1, 2], keepdims=0), WIDTH, 40)


def convnext() -> onnx.ModelProto:
    """Depthwise convolutions and channels last between them: 'a0', 'a1' of 10 x 10, 'b0', 'b1' of 5 x 5."""
    net = Net(4)
    x = net.op("Conv", "input", net.weight(WIDTH, 3, 4, 4), name="patches", strides=[4, 4])
    for stage in "ab":
        if stage == "b":
            last = net.norm(net.transpose(x, 0, 2, 3, 1), WIDTH)
            x = net.op("Conv", net.transpose(last, 0, 3, 1, 2), net.weight(WIDTH, WIDTH, 2, 2), strides=[2, 2])
        for number in range(2):
            y = net.op("Conv", x, net.weight(WIDTH, 1, 3, 3), group=WIDTH, pads=[1] * 4)
            y = net.mixer(net.norm(net.transpose(y, 0, 2, 3, 1), WIDTH))
            x = net.op("Add", net.transpose(y, 0, 3, 1, 2), x, name=f"{stage}{number}")
    return net.model(net.op("Flatten", net.op("GlobalAveragePool", x)), WIDTH, 40)


def _residual(net: Net) -> str:
    x = net.op(
        "Relu", net.op("Conv", "input", net.weight(WIDTH, 3, 4, 4), name="stem", strides=[4, 4]), name="stem.relu"
    )
    y = net.op("Relu", net.op("Conv", x, net.weight(WIDTH, WIDTH, 3, 3), pads=[1] * 4))
    y = net.op("Conv", y, net.weight(WIDTH, WIDTH, 3, 3), pads=[1] * 4)
    return net.op("Add", x, y, name="sum")


def half() -> onnx.ModelProto:
    """A residual network in float16 between casts; 'sum' of 10 x 10."""
    net = Net(5)
    x = _residual(net)
    pooled = net.op("Flatten", net.op("GlobalAveragePool", x))
    net.op("Cast", net.op("Gemm", pooled, net.weight(WIDTH, 5, scale=2.0)), name="logits", to=TensorProto.FLOAT)
    net.nodes.insert(0, helper.make_node("Cast", ["input"], ["input.half"], to=TensorProto.FLOAT16))
    for node in net.nodes[1:]:
        node.input[:] = ["input.half" if name == "input" else name for name in node.input]
    weights = {name: value.astype(np.float16) for name, value in net.weights.items()}
    metadata = {"preprocess": {**tiny.PREPROCESS, "size": [40, 40], "resize_to": 40}}
    return tiny.make_model(net.nodes, weights, input_shape=("N", 3, 40, 40), metadata=metadata)


def quantised() -> onnx.ModelProto:
    """The same in 8 bits: the codes of 'X' are 'X.codes', their values 'X.again'; 'sum' of 10 x 10."""
    net = Net(5)

    def rounded(x: str, scale: float, zero: int = 128) -> str:
        pair = net.constant(np.float32(scale)), net.constant(np.uint8(zero))
        return str(
            net.op("DequantizeLinear", net.op("QuantizeLinear", x, *pair, name=f"{x}.codes"), *pair, name=f"{x}.again")
        )

    def weight(*shape: int) -> str:
        codes = net.constant(net.rng.integers(-100, 100, size=shape).astype(np.int8))
        scale = 1 / (60 * np.sqrt(np.prod(shape[1:])))
        return str(net.op("DequantizeLinear", codes, net.constant(np.float32(scale)), net.constant(np.int8(0))))

    x = rounded("input", 0.03)
    x = rounded(net.op("Conv", x, weight(WIDTH, 3, 4, 4), name="stem", strides=[4, 4]), 0.02, 0)
    y = rounded(net.op("Conv", x, weight(WIDTH, WIDTH, 3, 3), name="first", pads=[1] * 4), 0.02, 0)
    y = rounded(net.op("Conv", y, weight(WIDTH, WIDTH, 3, 3), name="second", pads=[1] * 4), 0.03)
    x = rounded(net.op("Add", x, y, name="sum"), 0.04)
    x = rounded(net.op("GlobalAveragePool", x, name="pool"), 0.02)
    matrix = net.constant(net.rng.integers(-100, 100, size=(WIDTH, 5)).astype(np.int8))
    dense = net.op("DequantizeLinear", matrix, net.constant(np.float32(0.02)), net.constant(np.int8(0)))
    net.op("MatMul", net.op("Flatten", x), dense, name="logits")
    metadata = {"preprocess": {**tiny.PREPROCESS, "size": [40, 40], "resize_to": 40}}
    return tiny.make_model(net.nodes, net.weights, input_shape=("N", 3, 40, 40), metadata=metadata)


def class_attention() -> onnx.ModelProto:
    """Patches mixed one by one, then a class token that looks at them: behind 'seen' nothing reads cells.

    'before' and 'given' are of 6 x 6 patches and a token, whose cells are read; 'seen' and 'last' add to the token what
    it saw, and to the patches what only patches hold, as blocks of class attention are exported.
    """
    net = Net(6)
    patches = net.op("Conv", "input", net.weight(WIDTH, 3, 8, 8), name="patches", strides=[8, 8])
    x = net.transpose(net.reshape(patches, 0, WIDTH, 36), 0, 2, 1)
    x = net.op("Add", net.mixer(x), x, name="before")
    size = net.op("Concat", net.op("Shape", "input", start=0, end=1), net.constant(np.array([1, 1])), axis=0)
    x = net.op("Concat", net.op("Expand", net.weight(1, 1, WIDTH), size), x, name="tokens", axis=1)
    x = net.op("Add", x, net.weight(1, 37, WIDTH), name="given")
    normal = net.norm(x, WIDTH)
    looked = net.slice(net.attention(normal, 37), 1, 0, 1)
    x = net.op("Add", net.op("Concat", looked, net.slice(normal, 1, 1, 37), axis=1), x, name="seen")
    normal = net.norm(x, WIDTH)
    told = net.mixer(net.slice(normal, 1, 0, 1))
    x = net.op("Add", net.op("Concat", told, net.slice(normal, 1, 1, 37), axis=1), normal, name="last")
    return net.model(net.op("Gather", net.norm(x, WIDTH), net.constant(np.array(0)), name="read", axis=1), WIDTH, 48)


def unrolled() -> onnx.ModelProto:
    """Tokens in the order of their pooling, the finest first: 'a' of 20 x 20, 'b' of 10 x 10, 'c' of 5 x 5 cells."""
    net = Net(7)
    conv = net.op("Conv", "input", net.weight(WIDTH, 3, 2, 2), name="patches", strides=[2, 2])
    x = net.transpose(net.reshape(conv, 0, WIDTH, 5, 2, 2, 5, 2, 2), 0, 4, 7, 3, 6, 2, 5, 1)
    x = net.reshape(x, -1, 400, WIDTH)
    for stage, tokens in (("a", 400), ("b", 100), ("c", 25)):
        if stage != "a":
            wide = net.reshape(net.dense(net.norm(x, WIDTH), WIDTH, WIDTH), -1, 4, tokens, WIDTH)
            x = net.op("ReduceMax", wide, axes=[1], keepdims=0)
        if stage == "c":
            x = net.op("Add", x, net.attention(net.norm(x, WIDTH), tokens))
        x = net.op("Add", x, net.mixer(net.norm(x, WIDTH)), name=stage)
        # What takes some channels counts in cells from there on.
        x = net.op("Add", x, net.op("Tanh", net.slice(x, 2, 0, 1)), name=f"{stage}.gated")
    return net.model(net.op("ReduceMean", x, axes=[1], keepdims=0), WIDTH, 40)


def unfolded(*, gathered: bool = False) -> onnx.ModelProto:
    """Patches of 2 x 2 cells beside each other for a while: 'in' and 'out' of 10 x 10 cells, and 'deep' of 5 x 5.

    The way into patches is a reshape and a transpose, or two Gathers with indices of two axes.
    """
    net = Net(8)
    x = net.op("Conv", "input", net.weight(WIDTH, 3, 4, 4), name="in", strides=[4, 4])
    if gathered:
        places = net.constant(np.arange(2)[:, None] + 2 * np.arange(5)[None])
        x = net.op("Gather", net.op("Gather", x, places, axis=2), places, axis=4)
        x = net.reshape(net.transpose(x, 0, 1, 2, 4, 3, 5), 0, WIDTH, 4, 25)
    else:
        x = net.transpose(net.reshape(x, 0, WIDTH, 5, 2, 5, 2), 0, 1, 3, 5, 2, 4)
        x = net.reshape(x, 0, WIDTH, 4, 25)
    for number in range(2):
        joint = net.op("Conv", x, net.weight(1 + 2 * WIDTH, WIDTH, 1, 1))
        query, key, value = net.op("Split", joint, net.constant(np.array([1, WIDTH, WIDTH])), outputs=3, axis=1)
        weighed = net.op("Mul", key, net.op("Softmax", query, axis=-1))
        context = net.op("ReduceSum", weighed, net.constant(np.array([-1])), keepdims=1)
        looked = net.op("Mul", net.op("Relu", value), context)
        x = net.op("Add", x, net.op("Conv", looked, net.weight(WIDTH, WIDTH, 1, 1, scale=0.3)), name=f"mixed{number}")
    x = net.transpose(net.reshape(x, 0, WIDTH, 2, 2, 5, 5), 0, 1, 4, 2, 5, 3)
    x = net.op("Conv", net.reshape(x, 0, WIDTH, 10, 10), net.weight(WIDTH, WIDTH, 1, 1), name="out")
    x = net.op("Conv", x, net.weight(WIDTH, WIDTH, 3, 3), strides=[2, 2], pads=[1, 1, 1, 1])
    x = net.op("Add", x, net.op("Conv", net.op("Relu", x), net.weight(WIDTH, WIDTH, 1, 1)), name="deep")
    return net.model(net.op("Flatten", net.op("GlobalAveragePool", x)), WIDTH, 40)


def pixels() -> onnx.ModelProto:
    """Patches of 8 x 8 pixels that are pictures of a batch: 'inner' of 10 x 10 cells, 'outer' of 5 x 5."""
    net = Net(10)
    x = net.transpose(net.reshape("input", 0, 3, 5, 8, 5, 8), 0, 2, 4, 1, 3, 5)
    x = net.op("Conv", net.reshape(x, -1, 3, 8, 8), net.weight(WIDTH, 3, 5, 5), strides=[4, 4], pads=[2] * 4)
    x = net.transpose(net.reshape(x, -1, WIDTH, 4), 0, 2, 1)
    x = net.op("Add", x, net.mixer(net.norm(x, WIDTH)), name="inner")
    x = net.dense(net.reshape(x, -1, 25, 4 * WIDTH), 4 * WIDTH, WIDTH)
    x = net.op("Add", x, net.mixer(net.norm(x, WIDTH)), name="outer")
    return net.model(net.op("ReduceMean", x, axes=[1], keepdims=0), WIDTH, 40)


def same_padded(side: int = 40) -> onnx.ModelProto:
    """Two strided convolutions and a block, padded to SAME by arithmetic on shapes as exporters write it.

    'stem' of half the side, rounded up, 'deep' and 'sum' of a quarter; ``max((ceil(n / 2) - 1) * 2 + 3 - n, 0)`` pads.
    """
    net = Net(9)

    def pads(x: str, axis: int) -> tuple[str, str]:
        size = net.op("Gather", net.op("Shape", x), net.constant(np.array(axis)), axis=0)
        half = net.op("Div", net.op("Cast", size, to=TensorProto.FLOAT), net.constant(np.float32(2)))
        steps = net.op("Sub", net.op("Cast", net.op("Ceil", half), to=TensorProto.INT64), net.constant(np.array(1)))
        span = net.op("Add", net.op("Mul", steps, net.constant(np.array(2))), net.constant(np.array(3)))
        need = net.op("Clip", net.op("Sub", span, size), net.constant(np.array(0)))
        before = net.op("Div", need, net.constant(np.array(2)))
        both = before, net.op("Sub", need, before)
        first, last = (net.op("Unsqueeze", each, net.constant(np.array([0]))) for each in both)
        return first, last

    def strided(x: str, inside: int, name: str) -> str:
        (top, bottom), (left, right) = pads(x, 2), pads(x, 3)
        none = net.constant(np.array([0, 0]))
        padded = net.op("Pad", x, net.op("Concat", none, top, left, none, bottom, right, axis=0))
        return str(net.op("Conv", padded, net.weight(WIDTH, inside, 3, 3), strides=[2, 2], name=name))

    x = strided(strided("input", 3, "stem"), WIDTH, "deep")
    x = net.op("Add", x, net.op("Conv", net.op("Relu", x), net.weight(WIDTH, WIDTH, 3, 3), pads=[1] * 4), name="sum")
    return net.model(net.op("Flatten", net.op("GlobalAveragePool", x)), WIDTH, side)


MODELS = {
    "vit": vit,
    "vit, decomposed": lambda: vit(decomposed=True),
    "vit, patches alone": lambda: vit(class_token=False),
    "swin": swin,
    "windowed": windowed,
    "convnext": convnext,
    "half": half,
    "quantised": quantised,
    "class attention": class_attention,
    "unrolled": unrolled,
    "unfolded": unfolded,
    "unfolded, gathered": lambda: unfolded(gathered=True),
    "pixels": pixels,
    "same padded": same_padded,
}
