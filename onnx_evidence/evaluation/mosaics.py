"""Mosaics, or the grid pointing game: whether the evidence for one of four pictures lies in it.

It needs no labels and removes nothing. Pictures that the model gives a probability above a half when they stand small
and alone on grey are put together by four, of four classes; each class is explained in the mosaic, and its evidence
belongs into its picture's quarter. After Boehle, Fritz & Schiele 2021 ("Convolutional dynamic alignment networks",
section 4.2), with four pictures at half their size, as the input stays the model's.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from onnx_evidence.deployed import DeployedModel
from onnx_evidence.errors import DataError
from onnx_evidence.evaluation.case import Case, Mapper
from onnx_evidence.evaluation.loop import checked
from onnx_evidence.evaluation.measures import UNDEFINED, energy_inside, pointing
from onnx_evidence.evaluation.seen import as_seen, grey_levels
from onnx_evidence.files import several
from onnx_evidence.pictures import Photograph, opencv
from onnx_evidence.types import Features, FloatArray, Mask, Pixels

_QUARTERS = 4
_CONFIDENT = 0.5
_GREY = 128
METRICS = {
    "share": "share of the positive evidence that lies in the quarter of the class; chance is a quarter",
    "pointing": "whether the largest value lies in that quarter; chance is a quarter",
    "largest": "whether no other quarter holds more evidence, for less against; chance is a quarter",
}


@dataclass(frozen=True)
class Mosaic:
    """Four pictures in one."""

    paths: tuple[Path, ...]  # by quarter: the upper two from left to right, then the lower two
    targets: tuple[int, ...]  # the class of each
    case: Case  # the whole, with the first class

    def quarters(self) -> Iterator[Mask]:
        """Where each picture is, (H, W)."""
        height, width = self.case.inputs.shape[1:]
        for place in _places(height, width):
            mask = np.zeros((height, width), bool)
            mask[place] = True
            yield mask


@dataclass(frozen=True)
class Answered:
    """What was measured of one mosaic: means over its four classes, per method and metric of `METRICS`."""

    mosaic: Mosaic
    numbers: dict[str, dict[str, float]]


def _places(height: int, width: int) -> list[tuple[slice, slice]]:
    half, side = height // 2, width // 2
    return [(slice(top, top + half), slice(left, left + side)) for top in (0, half) for left in (0, side)]


def find_mosaics(
    deployed: DeployedModel,
    pictures: Iterable[Path],  # looked at in their order, each used once; unreadable ones are passed over
    count: int,  # at most
    seed: int = 0,  # of methods that draw
) -> list[Mosaic]:
    """Put together as many mosaics as are asked for, or as pictures and classes allow; DataError where none is."""
    found: list[Mosaic] = []
    waiting: list[tuple[Path, Pixels, int]] = []
    known = 0
    for path in pictures:
        with suppress(DataError):
            small = _small(deployed, path)
            target = _confident(deployed, small)
            known += target is not None
            if target is not None:
                waiting.append((path, small, target))
        if len(chosen := _of_four_classes(waiting)) == _QUARTERS:
            found.append(_assembled(deployed, chosen, seed))
            waiting = [each for each in waiting if all(each is not other for other in chosen)]
        if len(found) == count:
            return found
    if not found:
        raise DataError(
            f"no mosaic can be made: {several(known, 'picture')} of a probability above {_CONFIDENT} at half the size, "
            "where four of four classes are needed: add pictures, or leave --mosaics out"
        )
    return found


def _of_four_classes(waiting: Sequence[tuple[Path, Pixels, int]]) -> list[tuple[Path, Pixels, int]]:
    """The first picture of each of the first four classes."""
    first: dict[int, tuple[Path, Pixels, int]] = {}
    for each in waiting:
        first.setdefault(each[2], each)
    return list(first.values())[:_QUARTERS]


def _small(deployed: DeployedModel, path: Path) -> Pixels:
    """A picture as the model sees it, at half its size."""
    levels = grey_levels(deployed.prepare(path)[1], deployed.preprocess)
    height, width = levels.shape[:2]
    return opencv.resize(levels, (height // 2, width // 2), "area")


def _on_grey(
    deployed: DeployedModel, placed: Iterable[tuple[tuple[slice, slice], Pixels]]
) -> tuple[Photograph, Features]:
    """Small pictures at their places on grey, and what the model makes its logits of."""
    canvas = np.full((*deployed.model.input_shape[1:], 3), _GREY, np.uint8)
    for place, small in placed:
        canvas[place] = small
    photograph, inputs, _ = deployed.prepare(as_seen(canvas, deployed.preprocess))
    return photograph, inputs


def _confident(deployed: DeployedModel, small: Pixels) -> int | None:
    """The class of a small picture in the middle of grey, where the model is sure of it."""
    starts = [(side - own) // 2 for side, own in zip(deployed.model.input_shape[1:], small.shape, strict=False)]
    rows, columns = (slice(start, start + own) for start, own in zip(starts, small.shape, strict=False))
    answer = deployed.answer(_on_grey(deployed, [((rows, columns), small)])[1])
    first = answer.ranked[0]
    return first if answer.probabilities([first])[0] > _CONFIDENT else None


def _assembled(deployed: DeployedModel, chosen: Sequence[tuple[Path, Pixels, int]], seed: int) -> Mosaic:
    paths, smalls, targets = zip(*chosen, strict=True)
    photograph, inputs = _on_grey(deployed, zip(_places(*deployed.model.input_shape[1:]), smalls, strict=True))
    name = Path(" + ".join(path.name for path in paths))
    return Mosaic(paths, targets, Case(name, photograph, inputs, targets[0], seed))


def ask_mosaics(
    mosaics: Iterable[Mosaic],
    mappers: Mapping[str, Mapper],
    progress: Callable[[], object] = lambda: None,  # called after every map
) -> Iterator[Answered]:
    """Explain every class of every mosaic by every method."""
    for mosaic in mosaics:
        quarters = list(mosaic.quarters())
        numbers: dict[str, dict[str, float]] = {}
        for name, mapper in mappers.items():
            found = []
            for number, target in enumerate(mosaic.targets):
                case = replace(mosaic.case, target=target)
                found.append(in_quarters(checked(name, mapper(case), case), quarters, number))
                progress()
            numbers[name] = {metric: _mean([each[metric] for each in found]) for metric in METRICS}
        yield Answered(mosaic, numbers)


def _mean(values: Sequence[float]) -> float:
    """Of those that are defined."""
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else UNDEFINED


def in_quarters(values: FloatArray, quarters: Sequence[Mask], right: int) -> dict[str, float]:
    """What is measured of a map (H, W) of one class, by names of `METRICS`; NaN where there is nothing to see."""
    sums = np.array([values[quarter].sum() for quarter in quarters])
    largest = np.flatnonzero(sums == sums.max())
    flat = values.min() == values.max()
    return {
        "share": energy_inside(values, quarters[right]),
        "pointing": UNDEFINED if flat else pointing(values, quarters[right], 0.0),
        "largest": UNDEFINED if flat else float(right in largest) / len(largest),
    }
