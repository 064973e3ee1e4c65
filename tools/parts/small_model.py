"""A tiny classifier and small pictures, for tools that need many of them and no meaning."""

import json
from pathlib import Path

import cv2
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIDE, CLASSES = 32, 5


def write_model(path: Path, seed: int = 0) -> Path:
    """Write a classifier of three convolutions, with its preprocessing and class names recorded.

    Parameters
    ----------
    path : Path
        The .onnx file.
    seed : int
        Of its weights.

    Returns
    -------
    Path
        The same.
    """
    rng = np.random.default_rng(seed)
    nodes, weights, before, channels = [], [], "input", 3
    for number, width in enumerate((8, 12, 12)):
        kernel = rng.normal(size=(width, channels, 3, 3)) * np.sqrt(2 / (9 * channels))
        weights.append(numpy_helper.from_array(kernel.astype(np.float32), f"w{number}"))
        inputs = [before, f"w{number}"]
        stride = 2 if number < 2 else 1
        nodes.append(helper.make_node("Conv", inputs, [f"conv{number}"], strides=[stride] * 2, pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"conv{number}"], [f"relu{number}"]))
        before, channels = f"relu{number}", width
    matrix = (rng.normal(size=(channels, CLASSES)) * 3).astype(np.float32)
    weights.append(numpy_helper.from_array(matrix, "matrix"))
    nodes += [
        helper.make_node("GlobalAveragePool", [before], ["pool"]),
        helper.make_node("Flatten", ["pool"], ["flat"]),
        helper.make_node("MatMul", ["flat", "matrix"], ["logits"]),
    ]
    ends = [("input", ("N", 3, SIDE, SIDE)), ("logits", ("N", CLASSES))]
    image, logits = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in ends)
    graph = helper.make_graph(nodes, "small", [image], [logits], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    preprocess = {"size": [SIDE, SIDE], "resize_to": 36, "scale": 1 / 255, "mean": [0.5] * 3, "std": [0.25] * 3}
    recorded = {"preprocess": preprocess, "labels": [f"class {number}" for number in range(CLASSES)]}
    helper.set_model_props(model, {f"onnx_evidence.{key}": json.dumps(value) for key, value in recorded.items()})
    onnx.save(model, path)
    return path


def write_pictures(folder: Path, count: int, seed: int = 0) -> Path:
    """Write smooth pictures of 50 x 40 pixels.

    Parameters
    ----------
    folder : Path
        Made where it is missing.
    count : int
        How many.
    seed : int
        Of their pixels.

    Returns
    -------
    Path
        The folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for number in range(count):
        coarse = rng.integers(0, 256, (5, 5, 3)).astype(np.uint8)
        picture = cv2.resize(coarse, (50, 40), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f"{number:04}.png"), picture)
    return folder
