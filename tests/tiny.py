"""Tiny classifiers in ONNX for the tests, written with ``onnx.helper``."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

PREPROCESS = {
    "size": [32, 32],
    "resize": "short",
    "resize_to": 36,
    "interpolation": "bilinear",
    "color": "RGB",
    "scale": 1 / 255,
    "mean": [0.5, 0.5, 0.5],
    "std": [0.25, 0.25, 0.25],
}
LABELS = ["ant", "bee", "crane", "dog", "crane"]


def make_model(
    nodes: list[onnx.NodeProto],
    weights: dict[str, np.ndarray],
    *,
    input_shape: tuple[int | str, ...] = ("N", 3, 32, 32),
    output: str = "logits",
    output_shape: tuple[int | str, ...] | None = ("N", 5),
    metadata: dict[str, Any] | None = None,
    opset: int = 17,
) -> onnx.ModelProto:
    """Put nodes and weights into a checked model with input 'input'."""
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, input_shape)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, output_shape)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    if metadata:
        helper.set_model_props(model, {f"onnx_evidence.{key}": json.dumps(value) for key, value in metadata.items()})
    return model


def classifier(*, seed: int = 0, ending: str = "logits", recorded: bool = True) -> onnx.ModelProto:
    """A residual classifier of 32 x 32 RGB pictures with five classes (two are named 'crane').

    Tensors: input -> stem (8 x 16 x 16) -> stem.relu -> block.a -> block.relu -> block.b -> block.add
    (8 x 16 x 16) -> down (12 x 8 x 8) -> down.relu -> deep.b -> deep.add (12 x 8 x 8) -> pool -> flat ->
    logits, then Softmax where ``ending`` is 'softmax', Sigmoid where it is 'sigmoid'.
    """
    rng = np.random.default_rng(seed)

    def kernel(out: int, inside: int, size: int) -> np.ndarray:
        return (rng.normal(size=(out, inside, size, size)) / np.sqrt(inside * size * size)).astype(np.float32)

    weights = {
        "w1": kernel(8, 3, 3) * 2,
        "w2": kernel(8, 8, 3),
        "w3": kernel(8, 8, 3),
        "w4": kernel(12, 8, 3) * 2,
        "w5": kernel(12, 12, 3),
        "w6": (rng.normal(size=(5, 12)) * 2).astype(np.float32),
        "b6": rng.normal(size=5).astype(np.float32),
    }

    def conv(x: str, w: str, y: str, stride: int = 1) -> onnx.NodeProto:
        return helper.make_node("Conv", [x, w], [y], pads=[1] * 4, strides=[stride] * 2, kernel_shape=[3, 3])

    nodes = [
        conv("input", "w1", "stem", stride=2),
        helper.make_node("Relu", ["stem"], ["stem.relu"]),
        conv("stem.relu", "w2", "block.a"),
        helper.make_node("Relu", ["block.a"], ["block.relu"]),
        conv("block.relu", "w3", "block.b"),
        helper.make_node("Add", ["block.b", "stem.relu"], ["block.add"]),
        conv("block.add", "w4", "down", stride=2),
        helper.make_node("Relu", ["down"], ["down.relu"]),
        conv("down.relu", "w5", "deep.b"),
        helper.make_node("Add", ["deep.b", "down.relu"], ["deep.add"]),
        helper.make_node("GlobalAveragePool", ["deep.add"], ["pool"]),
        helper.make_node("Flatten", ["pool"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w6", "b6"], ["logits"], transB=1),
    ]
    output = "logits"
    if ending in ("softmax", "sigmoid"):
        output = "probabilities"
        nodes.append(helper.make_node(ending.capitalize(), ["logits"], [output]))
    metadata = {"preprocess": PREPROCESS, "labels": LABELS} if recorded else None
    return make_model(nodes, weights, output=output, metadata=metadata)


def appended(last: onnx.NodeProto) -> onnx.ModelProto:
    """The classifier with a node behind its cuts, from 'deep.add' to what is pooled."""
    model = classifier()
    nodes = list(model.graph.node)
    place = next(number for number, node in enumerate(nodes) if node.op_type == "GlobalAveragePool")
    nodes[place].input[0] = last.output[0]
    nodes.insert(place, last)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def accumulating(path: Path) -> Path:
    """Write the classifier with running sums along rows behind its cuts: Scan, whose end is 'summed', has no rule."""
    floats = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("sum", "cells", "more", "running")
    ]
    adding = [helper.make_node("Add", ["sum", "cells"], ["more"]), helper.make_node("Identity", ["more"], ["running"])]
    body = helper.make_graph(adding, "adding", floats[:2], floats[2:])
    along = {"num_scan_inputs": 1, "scan_input_axes": [3], "scan_output_axes": [3]}
    model = appended(helper.make_node("Identity", ["sums"], ["read"]))
    nodes = list(model.graph.node)
    place = next(number for number, node in enumerate(nodes) if node.output[0] == "read")
    nodes[place:place] = [
        helper.make_node("ReduceMax", ["deep.add"], ["largest"], axes=[3], keepdims=0),
        helper.make_node("Mul", ["largest", "nothing"], ["none"]),
        helper.make_node("Scan", ["none", "deep.add"], ["summed", "sums"], body=body, **along),
    ]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0), "nothing"))
    return save(model, path)


def branching(path: Path, *, ruled: bool = True) -> Path:
    """Write a classifier of two branches that bypass each other, as CrossViT's: nothing inside separates in from out.

    One sees patches of 8 x 8 pixels, one of 4 x 4. Without ``ruled`` they end in a form that has no backward rule.
    """
    rng = np.random.default_rng(7)
    nodes, weights = [], {"w": rng.normal(size=(12, 5)).astype(np.float32)}
    for side in (8, 4):
        weights[f"patch{side}"] = rng.normal(0, 1 / side, (6, 3, side, side)).astype(np.float32)
        nodes += [
            helper.make_node("Conv", ["input", f"patch{side}"], [f"cells{side}"], strides=[side, side]),
            helper.make_node("Relu", [f"cells{side}"], [f"seen{side}"]),
            helper.make_node(
                "MaxPool", [f"seen{side}"], [f"most{side}"], kernel_shape=[2, 2], storage_order=int(not ruled)
            ),
            helper.make_node("GlobalAveragePool", [f"most{side}"], [f"pool{side}"]),
            helper.make_node("Flatten", [f"pool{side}"], [f"flat{side}"]),
        ]
    nodes += [
        helper.make_node("Concat", ["flat8", "flat4"], ["both"], axis=1),
        helper.make_node("MatMul", ["both", "w"], ["logits"]),
    ]
    model = make_model(nodes, weights, metadata={"preprocess": PREPROCESS, "labels": LABELS})
    return save(model, path)


def save(model: onnx.ModelProto, path: Path) -> Path:
    """Check and write a model."""
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path
