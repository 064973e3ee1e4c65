"""What an exported model carries to be checked anywhere: a small picture, and its evidence where the model was made.

The picture is of `BLOCKS` x `BLOCKS` patches of one colour. At row r and column c of H and W, channel k has
``low[k] + (high[k] - low[k]) * levels[k][r * BLOCKS // H][c * BLOCKS // W] / 255``, rounded where the input holds whole
numbers. Evidence is summed over the same patches: float64 sums of what the model gave, in bits.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from onnx_evidence.evidence import generator, natural_noise
from onnx_evidence.graphs import Net
from onnx_evidence.intake import Entry, as_file_takes_it
from onnx_evidence.sessions import Session
from onnx_evidence.types import AnyArray, FloatArray

BLOCKS = 8
# Bits that a patch may be off by where other software computes, whose rounding opens or shuts a few rectifiers.
TOLERANCE = 0.01
# The model's own, that are recorded at the most.
_SCORES = 1000


def levels_of(channels: int) -> AnyArray:
    """A smooth picture of few pixels, whole numbers from 0 to 255, (channels, BLOCKS, BLOCKS)."""
    waves = natural_noise((channels, BLOCKS, BLOCKS), generator(0)).astype(np.float64)
    return np.asarray(np.rint(255 * np.clip(0.5 + 0.5 * waves, 0, 1)), np.int64)


def decoded(size: tuple[int, int], *, as_it_is: bool) -> Entry:
    """Decoded pictures as an input: larger than the model's and of another shape, unless they are taken as they are."""
    height, width = size
    sides = size if as_it_is else (height + height // 4, width + width // 2)
    return Entry("", "NHWC", TensorProto.UINT8, None, (3, *sides))


def ends(entry: Entry) -> tuple[FloatArray, FloatArray]:
    """What the values of every channel of the input go from and to, (channels,)."""
    black, white = (entry.ranges[0].picture(np.full((entry.shape[0], 1, 1), share)).reshape(-1) for share in (0.0, 1.0))
    return black.astype(np.float64), white.astype(np.float64)


def picture(test: Mapping[str, Any], elem_type: int) -> AnyArray:
    """The input (1, ...) of an exported model; ``test`` has size, layout, low, high, and levels."""
    low, high = (np.array(test[name])[:, None, None] for name in ("low", "high"))
    rows, cols = (np.arange(side) * BLOCKS // side for side in test["size"])
    shares = np.array(test["levels"], np.float64)[:, rows][:, :, cols] / 255
    values = (low + (high - low) * shares)[None].astype(np.float32)
    return as_file_takes_it(values, Entry("", test["layout"], elem_type, None, (len(low), *test["size"])))


def answers(
    model: onnx.ModelProto, session: Session, test: Mapping[str, Any], outputs: Mapping[str, str]
) -> dict[str, Any]:
    """What an exported model gives of the picture, by the kind of output; evidence summed over patches."""
    given = picture(test, Net(model).inputs[0].type.tensor_type.elem_type)
    target = [np.full(1, test["target"])] if test["target"] is not None else []
    names = [value.name for value in model.graph.output]
    found = dict(zip(names, session.run_all(given, *target), strict=True))
    answered = {kind: found[name][0] for kind, name in outputs.items()}
    return {kind: _SHORTER.get(kind, pooled)(values) for kind, values in answered.items()}


def spread(scores: AnyArray) -> FloatArray:
    """As many scores as are recorded, evenly spread."""
    flat: FloatArray = scores.astype(np.float64).reshape(-1)
    places = np.linspace(0, len(flat) - 1, min(len(flat), _SCORES)).astype(int)
    found: FloatArray = flat[places]
    return found


# What is recorded of an output that is no map, by its kind.
_SHORTER = {"budget": lambda values: values, "scores": spread}


def pooled(evidence: AnyArray) -> FloatArray:
    """Evidence (..., H, W) summed over patches: (..., BLOCKS, BLOCKS); of fewer rows or columns as they are."""
    found: FloatArray = evidence.astype(np.float64)
    for axis in (-2, -1):
        if (side := found.shape[axis]) < BLOCKS:
            continue
        first = [-(-number * side // BLOCKS) for number in range(BLOCKS)]
        found = np.add.reduceat(found, first, axis=axis)
    return found
