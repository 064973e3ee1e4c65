"""A classifier whose log-odds are a linear function of one patch of the picture, and pictures for it."""

from pathlib import Path

import cv2
import numpy as np
from onnx import ModelProto, NodeProto, helper

from tests import tiny

# Rows and columns of the patch in the model's input of 32 x 32.
PATCH = np.s_[8:16, 12:20]


def model() -> ModelProto:
    """Logits (0, w . patch): class 'in' where the patch is bright, 'out' where it is dark."""
    weights = np.zeros((3, 32, 32), np.float32)
    weights[:, *PATCH] = 2 / 64
    matrix = np.stack([np.zeros(3 * 32 * 32, np.float32), weights.ravel()], axis=1)
    nodes = [helper.make_node("Flatten", ["input"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["logits"])]
    metadata = {"preprocess": tiny.PREPROCESS | {"resize_to": 32}, "labels": ["out", "in"]}
    return tiny.make_model(nodes, {"w": matrix}, output_shape=("N", 2), metadata=metadata)


def patch_map() -> np.ndarray:
    """The perfect map, without ties."""
    values = np.random.default_rng(0).random((32, 32)) * 1e-3
    values[PATCH] += 1
    return values


def mask() -> np.ndarray:
    """Where the object is."""
    found = np.zeros((32, 32), bool)
    found[PATCH] = True
    return found


def save_pictures(folder: Path, count: int = 4, brighter: int = 90) -> list[Path]:
    """Pictures of 32 x 32, noise with a bright patch: the model sees them pixel by pixel."""
    rng = np.random.default_rng(brighter)
    paths = []
    for number in range(count):
        pixels = rng.integers(100, 140, (32, 32, 3)).astype(np.uint8)
        pixels[PATCH] += brighter
        paths.append(folder / f"{number}.png")
        cv2.imwrite(str(paths[-1]), pixels)
    return paths


# Rows and columns of the red square in the pictures of 96 x 128.
SQUARE = np.s_[8:24, 90:110]


def red_square() -> np.ndarray:
    """A grey picture of 96 x 128 with a dull red square."""
    pixels = np.full((96, 128, 3), 128, np.uint8)
    pixels[SQUARE] = (200, 30, 30)
    return pixels


def finder(before: list[NodeProto], weights: dict[str, np.ndarray], scale: float = 1.0) -> ModelProto:
    """Three classes, of which 1 is for red and 2 for blue; the input may be undone first, by nodes to 'unit' (0..1).

    Features behind 'found' are ``scale`` times as large, and the scores the same.
    """
    weights = dict(weights)
    mean = np.full((3, 3), 1 / 9, np.float32)
    colours = np.array([[1, -0.5, -0.5], [-0.5, -0.5, 1]], np.float32)
    weights["k1"] = colours[:, :, None, None] * mean
    weights["b1"] = np.full(2, -0.3, np.float32)
    weights["k2"] = (np.eye(2, dtype=np.float32)[:, :, None, None] * mean * scale).astype(np.float32)
    weights["w"] = np.array([[0, 0], [300, 0], [0, 300]], np.float32) / np.float32(scale)
    weights["b"] = np.array([1, 0, 0.3], np.float32)
    first = before[-1].output[0] if before else "input"
    nodes = [
        *before,
        helper.make_node("Conv", [first, "k1", "b1"], ["colours"], pads=[1] * 4),
        helper.make_node("Relu", ["colours"], ["red"]),
        helper.make_node("Conv", ["red", "k2"], ["found"], pads=[1] * 4, strides=[2, 2]),
        helper.make_node("Relu", ["found"], ["found.relu"]),
        helper.make_node("GlobalAveragePool", ["found.relu"], ["pool"]),
        helper.make_node("Flatten", ["pool"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w", "b"], ["logits"], transB=1),
    ]
    return tiny.make_model(nodes, weights, input_shape=("N", 3, 64, 64), output_shape=("N", 3))
