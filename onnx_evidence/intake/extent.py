"""Layers that are absurdly larger than the picture, known before anything runs: a damaged pad, stride or scale."""

from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path

from onnx_evidence.errors import ModelError
from onnx_evidence.graphs import TensorInfo
from onnx_evidence.intake.endings import shape_words

# Numbers that a layer holds of one picture: so many in any case (64 channels of 256 x 256, where a small picture is
# enlarged inside), and so many for each number of the input. Attention between the patches of 8 x 8 pixels of a large
# picture, in many heads, has 192.
_NUMBERS = 1 << 22
_NUMBERS_EACH = 256
# Rows or columns of a layer: so many in any case, and so many for each pixel. Tokens are no more than pixels; features
# in a row may be more, but they are not a million.
_SIDE = 1 << 14
_SIDE_EACH = 2
_SLIM = 1 << 20
_AXES = 4


def refuse_absurd(
    tensors: Mapping[str, TensorInfo], constants: Iterable[str], picture: tuple[int, int, int], path: Path
) -> None:
    """Refuse a model with a layer that no network has: to run it would take hours, or all memory.

    That is one with more than 2^22 numbers of a picture and more than 256 for each of the input's, or with more than
    2^20 in more than 2^14 rows or columns, and more than 2 of these for each pixel. Layers of unknown shape and
    ``constants``, the weights, are let pass; ``picture`` is the input's channels, height and width.
    """
    numbers = max(_NUMBERS, _NUMBERS_EACH * prod(picture))
    side = max(_SIDE, _SIDE_EACH * prod(picture[1:]))
    weights = set(constants)
    for name, info in tensors.items():
        sides = [each or 1 for each in info.shape[1:]]
        held = prod(sides)
        longest = max(sides[-2:]) if len(info.shape) == _AXES and held > _SLIM else 0
        if name not in weights and (held > numbers or longest > side):
            raise ModelError(
                f"{path}: layer {name!r} has shape {shape_words(info.shape)}, absurdly more than a picture of "
                f"{' x '.join(map(str, picture))}: a pad, a stride or a scale is damaged; export the "
                "model again"
            )
