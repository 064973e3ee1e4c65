"""What leaving something out of a scene really does to a model, and how well a map has it.

Nothing here knows how a map was made. All bits are log2 odds of the class that the model gives to the whole scene.

* ``parts``: rank correlation (Spearman), over the five parts, of the evidence on a part with the bits that the model
  loses when the scene is drawn without it (FunnyBirds, Hesse et al. 2023: single deletion). ``things``: the same over
  parts and distractors.
* ``cells``: rank correlation over an 8 x 8 grid of the evidence in a cell with the bits lost when it turns grey, which
  the networks know from training (IDSDS, Hesse et al. 2024).
* ``object``: share of the absolute evidence on the object, half a coarse cell around it included.
* ``srg``: symmetric relevance gain by pixel flipping on six substrates: the four of `evaluate`, grey, and the scene's
  own ground, drawn without anything on it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from onnx_evidence import DeployedModel
from onnx_evidence.evaluation.case import Case
from onnx_evidence.evaluation.flipping import Fill, flip, rank_blocks
from onnx_evidence.evaluation.links import rank_correlation
from onnx_evidence.evaluation.measures import dilate
from onnx_evidence.evaluation.substrates import SUBSTRATES, flip_map
from onnx_evidence.evaluation.substrates import Scene as Flipped
from onnx_evidence.evidence import LN2, generator, key_of
from onnx_evidence.types import Features, FloatArray, Mask, Pixels
from parts.scenes.scene import GREY, GRID, SIDE, Scene, draw_scene, mask, render

# Around the object, in pixels: half a cell of the coarsest grid but one.
_AROUND = 4
_BLOCKS = 24
_STEPS = 24
_OWN = ("grey", "ground")
SUBSTRATE_NAMES = (*SUBSTRATES, *_OWN)


@dataclass(frozen=True)
class Truth:
    """A scene as one model sees it.

    Attributes
    ----------
    scene : Scene
        What was drawn.
    case : Case
        The picture, and the class that the model gives.
    right : bool
        Whether it is the scene's.
    masks : dict
        Where each thing is, (SIDE, SIDE).
    lost : dict
        Bits that the model loses without each.
    cells : ndarray of float64, shape (GRID, GRID)
        Bits that it loses without each cell.
    fills : dict
        By substrate.
    """

    scene: Scene
    case: Case
    right: bool
    masks: dict[str, Mask]
    lost: dict[str, float]
    cells: FloatArray
    fills: dict[str, Fill]


def find_truth(deployed: DeployedModel, seed: int) -> Truth:
    """Draw a scene, and everything that can be left out of it, and ask the model.

    Parameters
    ----------
    deployed : DeployedModel
        Trained on scenes.
    seed : int
        Of the scene.

    Returns
    -------
    Truth
    """
    scene = draw_scene(seed)
    pixels = render(scene)
    photograph, inputs, _ = deployed.prepare(pixels)
    target = deployed.answer(inputs).ranked[0]
    case = Case(Path(f"scene {seed}"), photograph, inputs, target)
    changed = [render(scene, {name}) for name in scene.things] + _greyed(pixels)
    bits = _bits(deployed, [pixels, *changed], target)
    lost = bits[0] - bits[1:]
    names = scene.things
    others = [deployed.prepare(render(draw_scene(seed + 1_000_000 + number)))[1] for number in range(2)]
    flipped = Flipped(inputs, deployed.preprocess, others)
    fills = {name: row.fill(flipped) for name, row in SUBSTRATES.items()}
    empty = render(replace(scene, distractors=()), {*scene.things, "body"})
    for name, stand_in in zip(_OWN, (np.full_like(pixels, GREY), empty), strict=True):
        fills[name] = _paste(inputs, deployed.prepare(stand_in)[1])
    return Truth(
        scene,
        case,
        target == scene.label,
        {name: mask(scene, name) for name in (*names, "body")},
        dict(zip(names, lost[: len(names)].tolist(), strict=True)),
        lost[len(names) :].reshape(GRID, GRID),
        fills,
    )


def _greyed(pixels: Pixels) -> list[Pixels]:
    side = SIDE // GRID
    found = []
    for number in range(GRID**2):
        row, column = divmod(number, GRID)
        other = pixels.copy()
        other[row * side : (row + 1) * side, column * side : (column + 1) * side] = GREY
        found.append(other)
    return found


def _bits(deployed: DeployedModel, pictures: list[Pixels], target: int) -> FloatArray:
    rows = np.stack([deployed.prepare(picture)[1] for picture in pictures])
    logits = np.concatenate([deployed.logits(rows[start : start + 32]) for start in range(0, len(rows), 32)])
    return np.asarray(deployed.class_kind.log_probabilities(logits, [target]).log_odds[:, 0] / LN2)


def _paste(inputs: Features, stand_in: Features) -> Fill:
    return lambda removed: np.where(removed, stand_in, inputs)[None]


def judge(deployed: DeployedModel, truth: Truth, values: FloatArray) -> dict[str, float]:
    """How well a map has the truth.

    Parameters
    ----------
    deployed : DeployedModel
        The model of the truth.
    truth : Truth
        Of one scene.
    values : ndarray of float64, shape (SIDE, SIDE)
        Positive for the class, in any unit.

    Returns
    -------
    dict
        Of numbers by judge; NaN where a map is constant.
    """
    parts = [name for name in truth.lost if name.startswith("part")]
    numbers = {
        "parts": _agreement(truth.lost, truth.masks, values, parts),
        "things": _agreement(truth.lost, truth.masks, values, list(truth.lost)),
        "cells": rank_correlation(truth.cells, _in_cells(values)),
        "object": _on_object(truth, values, parts),
    }
    for name, fill in truth.fills.items():
        numbers[f"srg.{name}"] = _gain(deployed, truth, values, name, fill)
    numbers["srg"] = float(np.mean([numbers[f"srg.{name}"] for name in truth.fills]))
    return numbers


def _agreement(lost: Mapping[str, float], masks: Mapping[str, Mask], values: FloatArray, names: list[str]) -> float:
    evidence = np.array([values[masks[name]].sum() for name in names])
    return rank_correlation(evidence, np.array([lost[name] for name in names]))


def _in_cells(values: FloatArray) -> FloatArray:
    side = SIDE // GRID
    return np.asarray(values.reshape(GRID, side, GRID, side).sum(axis=(1, 3)))


def _on_object(truth: Truth, values: FloatArray, parts: list[str]) -> float:
    whole = np.any([truth.masks[name] for name in (*parts, "body")], axis=0)
    size = np.abs(values)
    total = float(size.sum())
    return float(size[dilate(whole, _AROUND)].sum()) / total if total else float("nan")


def _gain(deployed: DeployedModel, truth: Truth, values: FloatArray, name: str, fill: Fill) -> float:
    case, kind = truth.case, deployed.class_kind
    if name in SUBSTRATES:
        return flip_map(deployed.logits, fill, case, values, name, 32, kind).areas()["srg.probability"]
    ties = generator(case.seed, key_of(case.inputs.tobytes()), key_of(b"ties"))
    ranking = rank_blocks(values, _BLOCKS, ties)
    flips = flip(deployed.logits, fill, ranking, case.target, steps=_STEPS, class_kind=kind)
    return flips.areas()["srg.probability"]
