"""What removed pixels become: the substrates of pixel flipping.

A map that was made with the blurred picture in mind does well where pixels are blurred: no conclusion may rest on one
substrate. A new one is a row of `SUBSTRATES`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from onnx_evidence.errors import SettingError
from onnx_evidence.evaluation.case import Case
from onnx_evidence.evaluation.flipping import Fill, Flips, flip, rank_blocks
from onnx_evidence.evaluation.seen import as_seen, grey_levels
from onnx_evidence.evidence import EXCLUSIVE, ClassKind, generator, key_of
from onnx_evidence.pictures import blur, inpaint
from onnx_evidence.preprocessing import Preprocess, to_input
from onnx_evidence.types import Features, FloatArray, Mask, Predict

# Of the blur, in pixels, for an input of 224.
_SIGMA = 11.0
_SIZE = 224
# Other pictures that are pasted in, each by itself.
_DRAWS = 2


@dataclass(frozen=True)
class Scene:
    """What a substrate is made from, once per picture."""

    inputs: Features  # (C, H, W)
    preprocess: Preprocess  # how they were made
    others: Sequence[Features] = ()  # inputs of other pictures, as many as the substrate draws


@dataclass(frozen=True)
class Substrate:
    """A row of the table of substrates."""

    summary: str  # what removed pixels become, in words
    make: Callable[[Scene], Fill]
    grid: int = 32  # blocks on each side
    steps: int = 32  # points of each curve, without the first
    draws: int = 0  # other pictures that it needs

    def fill(self, scene: Scene) -> Fill:
        """What fills removed pixels of a picture; made once per picture."""
        if len(scene.others) < self.draws:
            raise SettingError(f"{len(scene.others)} other pictures given where {self.draws} are drawn: give as many")
        return self.make(scene)


def _paste(inputs: Features, *stand_ins: Features) -> Fill:
    """Pixels of other pictures at the same places."""
    stack = np.stack(stand_ins)
    return lambda removed: np.where(removed, stack, inputs)


def _mean(inputs: Features) -> Features:
    return np.broadcast_to(inputs.mean(axis=(1, 2), keepdims=True), inputs.shape)


def _blurred(scene: Scene) -> Fill:
    return _paste(scene.inputs, blur(scene.inputs, _SIGMA * min(scene.inputs.shape[1:]) / _SIZE))


def _pasted(scene: Scene) -> Fill:
    return _paste(scene.inputs, *scene.others[:_DRAWS])


def _painted(scene: Scene) -> Fill:
    """Inpainting of what is missing from what is left; the mean colour where nothing is."""
    pixels, mean = grey_levels(scene.inputs, scene.preprocess), _mean(scene.inputs)

    def fill(removed: Mask) -> Features:
        if removed.all():
            return mean[None]
        painted, _ = to_input(as_seen(inpaint(pixels, removed), scene.preprocess), scene.preprocess)
        return np.where(removed, painted, scene.inputs)[None]

    return fill


SUBSTRATES = {
    "blur": Substrate("the blurred picture's (sigma 11 pixels of 224)", _blurred),
    "mean": Substrate("the picture's mean colour", lambda scene: _paste(scene.inputs, _mean(scene.inputs))),
    # It takes longer than the model: coarser blocks, and fewer of them at a time.
    "inpaint": Substrate("inpainted from what is left (Telea 2004)", _painted, grid=14, steps=14),
    "pictures": Substrate("those of other pictures at the same places, mean of two", _pasted, draws=_DRAWS),
}


def flip_map(
    predict: Predict,
    fill: Fill,
    case: Case,
    values: FloatArray,
    substrate: str,
    batch_size: int = 32,
    class_kind: ClassKind = EXCLUSIVE,
) -> Flips:
    """Pixel flipping of one map on one substrate, with the substrate's grid and steps."""
    row = SUBSTRATES[substrate]
    # Picture and seed alone break ties between blocks.
    ties = generator(case.seed, key_of(case.inputs.tobytes()), key_of(b"ties"))
    ranking = rank_blocks(values, row.grid, ties)
    return flip(predict, fill, ranking, case.target, steps=row.steps, batch_size=batch_size, class_kind=class_kind)
