"""A classifier whose log-odds are a linear function of one patch of the picture, and pictures for it."""

from pathlib import Path

import cv2
import numpy as np
from onnx import ModelProto, helper

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
