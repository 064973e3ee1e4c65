"""Whole models and pictures of many structures, for `fuzz.py` to damage."""

import json
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
from matplotlib import cbook
from onnx import TensorProto, helper, numpy_helper

from parts.picture_cases import every_case, grey
from parts.small_model import CLASSES, SIDE, write_model

_PHOTOGRAPHS = ("grace_hopper.jpg", "logo2.png")
_WIDTH = 8


def picture_seeds(also: Sequence[Path]) -> dict[str, bytes]:
    """Pictures by name, in all formats and layouts that are read.

    Parameters
    ----------
    also : sequence of Path
        More of them.

    Returns
    -------
    dict of str to bytes
    """
    seeds = {re.sub(r"\W+", "-", case.name) + case.suffix: case.data for case in every_case()}
    seeds["pages.tiff"] = cv2.imencodemulti(".tiff", [grey()] * 3)[1].tobytes()
    photographs = [Path(cbook.get_sample_data(name, asfileobj=False)) for name in _PHOTOGRAPHS]
    return seeds | {path.name: path.read_bytes() for path in (*photographs, *also)}


def model_seeds() -> dict[str, Mapping[str, bytes]]:
    """The files of models by the model's name; that of the graph is 'mutated.onnx'.

    Returns
    -------
    dict of str to mapping of str to bytes
    """
    with tempfile.TemporaryDirectory() as folder:
        small = {f"small{seed}": write_model(Path(folder) / "x.onnx", seed).read_bytes() for seed in range(3)}
    seeds: dict[str, Mapping[str, bytes]] = {name: {"mutated.onnx": data} for name, data in small.items()}
    for make in _MAKERS:
        seeds[make.__name__.strip("_")] = {"mutated.onnx": make().SerializeToString()}
    return seeds | {"external": _external(onnx.load_model_from_string(small["small0"]))}


def _external(model: onnx.ModelProto) -> dict[str, bytes]:
    """The weights beside the graph."""
    beside = b""
    for tensor in model.graph.initializer:
        place = {"location": "mutated.bin", "offset": str(len(beside)), "length": str(len(tensor.raw_data))}
        beside += tensor.raw_data
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in place.items():
            tensor.external_data.add(key=key, value=value)
    return {"mutated.onnx": model.SerializeToString(), "mutated.bin": beside}


class _Net:
    """Writes nodes with names and seeded weights."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def op(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        """Append a node; the name of its output."""
        output = f"{op_type.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [output], **attributes))
        return output

    def constant(self, value: Any, dtype: type[np.generic] = np.float32) -> str:
        """Add an initializer; its name."""
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def weight(self, *shape: int, dtype: type[np.generic] = np.float32) -> str:
        """Add a random initializer; its name."""
        spread = 1.5 / np.sqrt(np.prod(shape[1:]) if len(shape) > 2 else shape[0])
        return self.constant(self._rng.normal(size=shape) * spread, dtype)

    def body(self, x: str, dtype: type[np.generic] = np.float32) -> str:
        """Two convolutions, with a skip connection around the second: 16 x 16 cells."""
        first = self.op("Conv", x, self.weight(_WIDTH, 3, 3, 3, dtype=dtype), strides=[2, 2], pads=[1] * 4)
        x = self.op("Relu", first)
        return self.op("Add", x, self.op("Conv", x, self.weight(_WIDTH, _WIDTH, 3, 3, dtype=dtype), pads=[1] * 4))

    def scores(self, x: str) -> str:
        """The mean over the cells, times a matrix."""
        flat = self.op("Flatten", self.op("GlobalAveragePool", x))
        return self.op("MatMul", flat, self.weight(_WIDTH, CLASSES))

    def model(self, scores: str, opset: int = 17, **given: Any) -> onnx.ModelProto:
        """Put it together, with its preprocessing recorded."""
        shape, kind = given.get("shape", ("N", 3, SIDE, SIDE)), given.get("kind", TensorProto.FLOAT)
        ends = [("input", kind, shape), (scores, TensorProto.FLOAT, (shape[0], CLASSES))]
        image, answer = (helper.make_tensor_value_info(*end) for end in ends)
        images = [image, *given.get("inputs", ())]
        graph = helper.make_graph(self.nodes, "seed", images, [answer], self.constants)
        versions = {"": opset, "local": 1, "com.microsoft": 1}
        opsets = [helper.make_opsetid(domain, version) for domain, version in versions.items()]
        model = helper.make_model(
            graph, opset_imports=opsets, ir_version=given.get("ir_version", 8), functions=given.get("functions", ())
        )
        preprocess = {"size": [SIDE, SIDE], "resize_to": 36, "mean": [100.0] * 3, "std": [60.0] * 3}
        preprocess |= {"mean": [0.0] * 3, "std": [1.0] * 3} if kind == TensorProto.UINT8 else {}
        helper.set_model_props(model, {"onnx_evidence.preprocess": json.dumps(preprocess)})
        onnx.checker.check_model(model, full_check=True)
        return model


def _half_precision() -> onnx.ModelProto:
    net = _Net()
    x = net.body(net.op("Cast", "input", to=TensorProto.FLOAT16), np.float16)
    return net.model(net.scores(net.op("Cast", x, to=TensorProto.FLOAT)))


def _quantised() -> onnx.ModelProto:
    """Codes around a convolution, and operators of codes."""
    net = _Net()
    scale, zero = net.constant(0.05), net.constant(100, np.uint8)
    codes = net.op("QuantizeLinear", net.body("input"), scale, zero)
    weights = net.constant(np.arange(_WIDTH * _WIDTH).reshape(_WIDTH, _WIDTH, 1, 1) % 15 - 7, np.int8)
    of_weights = [net.constant(0.02), net.constant(0, np.int8)]
    again = net.op("QLinearConv", codes, scale, zero, weights, *of_weights, scale, zero)
    both = net.op("QLinearAdd", again, scale, zero, codes, scale, zero, scale, zero, domain="com.microsoft")
    values = net.op("DequantizeLinear", both, scale, zero)
    last = net.op("Conv", values, net.op("DequantizeLinear", weights, *of_weights))
    return net.model(net.scores(last))


def _channels_last() -> onnx.ModelProto:
    net = _Net()
    x = net.op("Transpose", net.op("Cast", "input", to=TensorProto.FLOAT), perm=[0, 3, 1, 2])
    x = net.op("Mul", net.op("Sub", x, net.constant(100)), net.constant(1 / 60))
    return net.model(net.scores(net.body(x)), shape=("N", SIDE, SIDE, 3), kind=TensorProto.UINT8)


def _branches() -> onnx.ModelProto:
    """An If that a size decides, and a Loop of two turns."""
    net = _Net()
    x = net.body("input")
    large = net.op("Greater", net.op("Size", net.constant([1, 2, 3])), net.constant(2, np.int64))
    x = net.op("If", large, then_branch=_graph("Relu", x, [], "relu"), else_branch=_graph("Neg", x, [], "neg"))
    ends = [("turn", TensorProto.INT64, ()), ("on", TensorProto.BOOL, ()), ("state", TensorProto.FLOAT, None)]
    turn = _graph("Sigmoid", "state", [helper.make_tensor_value_info(*end) for end in ends], "next")
    turn.node.insert(0, helper.make_node("Identity", ["on"], ["still"]))
    turn.output.insert(0, helper.make_tensor_value_info("still", TensorProto.BOOL, ()))
    return net.model(net.scores(net.op("Loop", net.constant(2, np.int64), "", x, body=turn)))


def _undecided() -> onnx.ModelProto:
    """An If that the picture decides: taken in, but there is no cut behind it."""
    net = _Net()
    bright = net.op("Greater", net.op("ReduceMean", "input", keepdims=0), net.constant(1e6))
    dark = _graph("Neg", "input", [], "dark")
    x = net.op("If", bright, then_branch=dark, else_branch=_graph("Identity", "input", [], "same"))
    return net.model(net.scores(net.body(x)))


def _graph(op_type: str, x: str, inputs: list[onnx.ValueInfoProto], name: str) -> onnx.GraphProto:
    """The body of a branch or a loop: one operator."""
    value = helper.make_tensor_value_info(name, TensorProto.FLOAT, ("N", 3, SIDE, SIDE) if x == "input" else None)
    return helper.make_graph([helper.make_node(op_type, [x], [name])], name, inputs, [value])


def _functions() -> onnx.ModelProto:
    net = _Net()
    inner = [helper.make_node("Sigmoid", ["a"], ["b"]), helper.make_node("Mul", ["a", "b"], ["c"])]
    swish = helper.make_function("local", "Swish", ["a"], ["c"], inner, [helper.make_opsetid("", 17)])
    x = net.op("Swish", net.body("input"), domain="local")
    return net.model(net.op("Softmax", net.scores(net.op("Swish", x, domain="local")), axis=-1), functions=[swish])


def _opset7() -> onnx.ModelProto:
    """Weights that are listed among the inputs, one picture at a time, constants as nodes."""
    net = _Net()
    norm = [net.constant(np.ones(_WIDTH)) for _ in range(4)]
    x = net.op("BatchNormalization", net.body("input"), *norm)
    pooled = net.op("AveragePool", net.op("Dropout", x), kernel_shape=[16, 16])
    twice = net.op("Mul", pooled, net.op("Constant", value=numpy_helper.from_array(np.array([2], np.float32), "two")))
    flat = net.op("Reshape", twice, net.constant([1, _WIDTH], np.int64))
    gemm = net.op("Gemm", flat, net.weight(_WIDTH, CLASSES), net.constant(np.ones(CLASSES)))
    listed = [helper.make_tensor_value_info(each.name, each.data_type, each.dims) for each in net.constants]
    return net.model(net.op("Softmax", gemm), 7, shape=(1, 3, SIDE, SIDE), ir_version=3, inputs=listed)


def _tokens() -> onnx.ModelProto:
    """Attention over 6 x 6 patches, with shapes that the graph computes."""
    net = _Net()
    patches = net.op("Conv", "input", net.weight(_WIDTH, 3, 5, 5), strides=[5, 5])
    batch = net.op("Gather", net.op("Shape", patches), net.constant([0], np.int64))
    sides = net.op("Concat", batch, net.constant([_WIDTH, 36], np.int64), axis=0)
    x = net.op("Transpose", net.op("Reshape", patches, sides), perm=[0, 2, 1])
    normal = net.op("LayerNormalization", x, net.constant(np.ones(_WIDTH)), net.constant(np.zeros(_WIDTH)))
    query, key, value = (net.op("MatMul", normal, net.weight(_WIDTH, _WIDTH)) for _ in range(3))
    looks = net.op("Softmax", net.op("MatMul", query, net.op("Transpose", key, perm=[0, 2, 1])), axis=-1)
    x = net.op("Add", x, net.op("MatMul", looks, value))
    mean = net.op("ReduceMean", x, axes=[1], keepdims=0)
    return net.model(net.op("Sigmoid", net.op("MatMul", mean, net.weight(_WIDTH, CLASSES))))


_MAKERS: tuple[Callable[[], onnx.ModelProto], ...] = (
    _half_precision,
    _quantised,
    _channels_last,
    _branches,
    _undecided,
    _functions,
    _opset7,
    _tokens,
)
