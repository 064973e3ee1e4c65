"""Scenes: an object of five parts among distractors on a cluttered ground, drawn from a description.

The class of a scene is that of its object, and an object's class is its five parts: every slot around the body holds
one of four variants, which differ in shape, in colour or in texture. Classes come in threes: a first one, and two
others that differ from it in one part each, so that for every class some parts decide and others hardly matter; classes
of different threes differ in three parts or more. The body, the distractors and the ground say nothing of the class.

As everything random is in the description, a scene drawn again without a part differs from the first in that part's
pixels alone: what the part really means to a model needs no substrate (the protocol of FunnyBirds, Hesse, Schaub-Meyer
and Roth, ICCV 2023).
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

# This file is read in environments without the product, too.
AnyArray = NDArray[Any]
Pixels = NDArray[np.uint8]

SIDE = 96
CLASSES = 24
SLOTS = 5
VARIANTS = 4
# Seeds below this are of scenes to train on.
HELD_OUT = 10_000_000
# Cells of the grid of single deletion, on either side, and the level that they turn.
GRID = 8
GREY = 128
# Drawn larger and averaged down: edges without stairs.
_FINER = 3
_LARGE = SIDE * _FINER
# Of the draws that classes come of.
_CODE_SEED = 2801
# Slots in which classes of different threes differ at least.
_LEAST_APART = 3

_RED, _GREEN, _BLUE = (214, 58, 46), (52, 160, 72), (48, 92, 206)
_YELLOW, _VIOLET, _CYAN, _WHITE = (236, 196, 44), (156, 70, 178), (50, 184, 196), (236, 236, 228)
_DARK = (34, 34, 42)


@dataclass(frozen=True)
class Look:
    """What a figure looks like.

    Attributes
    ----------
    shape : str
        One of `_SHAPES`.
    colour : tuple of int
        RGB.
    texture : {'plain', 'stripes', 'dots', 'checks'}
        In the dark colour on that one.
    """

    shape: str
    colour: tuple[int, int, int]
    texture: str = "plain"


@dataclass(frozen=True)
class Figure:
    """A look somewhere.

    Attributes
    ----------
    look : Look
        What it is.
    at : tuple of float
        Row and column of its middle, in pixels of the scene.
    radius : float
        In pixels of the scene.
    turn : float
        In radians.
    """

    look: Look
    at: tuple[float, float]
    radius: float
    turn: float


@dataclass(frozen=True)
class Scene:
    """All that is random of a picture.

    Attributes
    ----------
    label : int
        The class.
    parts : tuple of Figure
        Of the object, by slot.
    distractors : tuple of Figure
        Beside the object.
    body : Figure
        Behind the parts.
    light : float
        What all grey levels are multiplied with.
    ground : int
        Seed of the ground and of the noise.
    """

    label: int
    parts: tuple[Figure, ...]
    distractors: tuple[Figure, ...]
    body: Figure
    light: float
    ground: int

    @property
    def things(self) -> tuple[str, ...]:
        """What can be left out, by name: ``part 0`` to ``part 4``, ``distractor 0`` and so on."""
        return (
            *(f"part {number}" for number in range(len(self.parts))),
            *(f"distractor {number}" for number in range(len(self.distractors))),
        )


# By slot: variants that differ in one or two of shape, colour and texture.
_TABLE: tuple[tuple[Look, ...], ...] = (
    (Look("disc", _RED), Look("square", _RED), Look("triangle", _BLUE), Look("disc", _BLUE, "dots")),
    (Look("star", _YELLOW), Look("star", _GREEN), Look("ring", _GREEN), Look("disc", _YELLOW, "stripes")),
    (
        Look("square", _CYAN, "checks"),
        Look("square", _CYAN),
        Look("square", _VIOLET),
        Look("triangle", _VIOLET, "stripes"),
    ),
    (Look("disc", _WHITE, "stripes"), Look("disc", _WHITE), Look("triangle", _WHITE), Look("ring", _RED)),
    (Look("triangle", _GREEN, "dots"), Look("triangle", _GREEN), Look("star", _BLUE), Look("square", _YELLOW, "dots")),
)
_DISTRACTORS = ("cross", "hexagon", "bar", "drop")
_COLOURS = (_RED, _GREEN, _BLUE, _YELLOW, _VIOLET, _CYAN, _WHITE)
_TEXTURES = ("plain", "stripes", "dots", "checks")


def _codewords() -> AnyArray:
    """Variants by class and slot; classes 0 to 2 are a three, 3 to 5 the next, and so on."""
    rng = np.random.default_rng(_CODE_SEED)
    words: list[AnyArray] = []
    while len(words) < CLASSES:
        first = rng.integers(VARIANTS, size=SLOTS)
        three = [first, first.copy(), first.copy()]
        for word, slot in zip(three[1:], rng.permutation(SLOTS), strict=False):
            word[slot] = (word[slot] + rng.integers(1, VARIANTS)) % VARIANTS
        if all(np.count_nonzero(word != other) >= _LEAST_APART for other in words for word in three):
            words += three
    return np.array(words)


CODEWORDS = _codewords()


def draw_scene(seed: int, label: int | None = None) -> Scene:
    """Describe a random scene.

    Parameters
    ----------
    seed : int
        Of everything random.
    label : int, optional
        The class; drawn as well without one.

    Returns
    -------
    Scene
    """
    rng = np.random.default_rng([seed, 11])
    drawn = int(rng.integers(CLASSES))
    label = drawn if label is None else label
    reach = rng.uniform(15.0, 19.0)
    radius = reach * rng.uniform(0.46, 0.54)
    margin = reach + radius + 1
    middle = rng.uniform(margin, SIDE - margin, 2)
    turn = rng.uniform(-0.35, 0.35)
    parts = []
    for slot, variant in enumerate(CODEWORDS[label]):
        angle = turn + 2 * np.pi * slot / SLOTS + rng.normal(0, 0.06)
        at = middle + reach * np.array([-np.cos(angle), np.sin(angle)])
        parts.append(
            Figure(_TABLE[slot][variant], _pair(at), radius * rng.uniform(0.92, 1.08), turn + rng.normal(0, 0.15))
        )
    grey = int(rng.integers(90, 170))
    body = Figure(Look("disc", (grey, grey, grey)), _pair(middle), reach * 0.8, turn)
    distractors = _draw_distractors(rng, middle, margin)
    return Scene(label, tuple(parts), distractors, body, rng.uniform(0.8, 1.1), int(rng.integers(2**31)))


def _pair(point: AnyArray) -> tuple[float, float]:
    return float(point[0]), float(point[1])


def _draw_distractors(rng: np.random.Generator, middle: AnyArray, margin: float) -> tuple[Figure, ...]:
    """Three to six, clear of the object and of each other."""
    found: list[Figure] = []
    wanted = int(rng.integers(3, 7))
    for _ in range(200):
        radius = rng.uniform(5.0, 8.5)
        at = rng.uniform(radius, SIDE - radius, 2)
        apart = np.hypot(*(at - middle)) - margin - radius
        others = [np.hypot(*(at - figure.at)) - radius - figure.radius for figure in found]
        if apart < 0 or min(others, default=1.0) < 0:
            continue
        look = Look(
            _DISTRACTORS[rng.integers(len(_DISTRACTORS))],
            _COLOURS[rng.integers(len(_COLOURS))],
            _TEXTURES[rng.integers(len(_TEXTURES))],
        )
        found.append(Figure(look, _pair(at), radius, rng.uniform(0, 2 * np.pi)))
        if len(found) == wanted:
            break
    return tuple(found)


def render(scene: Scene, without: Collection[str] = ()) -> Pixels:
    """Draw a scene.

    Parameters
    ----------
    scene : Scene
        From `draw_scene`.
    without : collection of str
        What is left out, of `Scene.things`.

    Returns
    -------
    ndarray of uint8, shape (SIDE, SIDE, 3)
        RGB.
    """
    rng = np.random.default_rng([scene.ground, 12])
    canvas = _ground(rng)
    figures: list[tuple[str, Figure]] = [*zip(scene.things[len(scene.parts) :], scene.distractors, strict=True)]
    figures += [("body", scene.body), *zip(scene.things, scene.parts, strict=False)]
    for name, figure in figures:
        if name not in without:
            _draw(canvas, figure)
    small = cv2.resize(canvas, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    noise = rng.normal(0, 5.0, small.shape)
    return np.asarray(np.clip(small * scene.light + noise, 0, 255).round(), np.uint8)


def mask(scene: Scene, name: str) -> AnyArray:
    """Where a thing of the scene is.

    Parameters
    ----------
    scene : Scene
        From `draw_scene`.
    name : str
        One of `Scene.things`.

    Returns
    -------
    ndarray of bool, shape (SIDE, SIDE)
        Where the scene looks otherwise without it.
    """
    differs: AnyArray = (render(scene) != render(scene, {name})).any(axis=2)
    return differs


def _ground(rng: np.random.Generator) -> AnyArray:
    """Soft colours with lines and blots on them."""
    coarse = rng.uniform(40, 200, (5, 5, 1)) + rng.uniform(-35, 35, (5, 5, 3))
    canvas = cv2.resize(coarse.astype(np.float32), (_LARGE, _LARGE), interpolation=cv2.INTER_CUBIC)
    for _ in range(int(rng.integers(6, 14))):
        colour = tuple(float(value) for value in rng.uniform(30, 210, 3))
        start, end = rng.integers(0, _LARGE, 2).tolist(), rng.integers(0, _LARGE, 2).tolist()
        if rng.random() < 0.6:
            cv2.line(canvas, start, end, colour, int(rng.integers(2, 7)), cv2.LINE_AA)
        else:
            axes = rng.integers(4, 22, 2).tolist()
            cv2.ellipse(canvas, start, axes, float(rng.uniform(0, 180)), 0, 360, colour, -1, cv2.LINE_AA)
    return canvas


def _draw(canvas: AnyArray, figure: Figure) -> None:
    """Paint a figure over what is there."""
    at, radius = np.array(figure.at[::-1]) * _FINER, figure.radius * _FINER
    left, top = (np.floor(at - 1.5 * radius).astype(int)).clip(0)
    right, bottom = np.ceil(at + 1.5 * radius).astype(int)
    under = canvas[top:bottom, left:right]
    inside = np.zeros(under.shape[:2], np.uint8)
    at = at - (left, top)
    for outline, value in _outlines(figure.look.shape):
        turned = outline @ _rotation(figure.turn) * radius + at
        cv2.fillPoly(inside, [turned.round().astype(np.int32)], value)
    rows, columns = np.nonzero(inside)
    relative = (np.stack([columns, rows], axis=1) - at) @ _rotation(-figure.turn) / radius
    dark = _texture(figure.look.texture, relative)
    under[rows, columns] = np.where(dark[:, None], _DARK, figure.look.colour)


def _rotation(angle: float) -> AnyArray:
    return np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


def _texture(texture: str, at: AnyArray) -> AnyArray:
    """Where the dark colour is, at points relative to the middle, in radii."""
    stripes = np.floor(at * 3.0 + 0.5).astype(int) % 2 == 1
    if texture == "stripes":
        return np.asarray(stripes[:, 1])
    if texture == "checks":
        return np.asarray(stripes[:, 0] ^ stripes[:, 1])
    if texture == "dots":
        near = at * 1.6 - np.round(at * 1.6)
        return np.asarray(np.hypot(near[:, 0], near[:, 1]) < 0.28)
    return np.zeros(len(at), bool)


def _polygon(corners: int, start: float = 0.0) -> AnyArray:
    angles = start + 2 * np.pi * np.arange(corners) / corners
    return np.stack([np.sin(angles), -np.cos(angles)], axis=1)


def _outlines(shape: str) -> list[tuple[AnyArray, int]]:
    """Polygons in units of the radius, x before y, and whether each is filled or taken out."""
    disc = _polygon(40)
    if shape == "disc":
        return [(disc * 0.9, 1)]
    if shape == "ring":
        return [(disc, 1), (disc * 0.5, 0)]
    if shape == "square":
        return [(_polygon(4, np.pi / 4) * 1.15, 1)]
    if shape == "triangle":
        return [(_polygon(3) * 1.2, 1)]
    if shape == "star":
        return [(_polygon(10) * np.where(np.arange(10) % 2, 0.5, 1.25)[:, None], 1)]
    if shape == "hexagon":
        return [(_polygon(6), 1)]
    if shape == "bar":
        return [(_polygon(4, np.pi / 4) * [1.3, 0.5], 1)]
    if shape == "cross":
        return [(_polygon(4, np.pi / 4) * [1.4, 0.45], 1), (_polygon(4, np.pi / 4) * [0.45, 1.4], 1)]
    return [(np.concatenate([disc[10:31] * 0.8, [[0.0, -1.3]]]), 1)]
