"""The method that orders cells of the picture: `evidence.order` at the input of a deployed model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnx_evidence.cuts import Cut
from onnx_evidence.deployed import DeployedModel
from onnx_evidence.errors import SettingError
from onnx_evidence.evidence import (
    FRONTS,
    LEVELS,
    LN2,
    ROUNDS,
    Ascend,
    AxisField,
    Budget,
    CellField,
    LevelSets,
    Reveal,
    Score,
    budget_of,
    generator,
    interpolation,
    key_of,
    level_sets,
    ranks,
    refine,
)
from onnx_evidence.methods.baselines import Baselines
from onnx_evidence.methods.engine import CutMap, Engine, Progress, Question, View
from onnx_evidence.methods.method import Method
from onnx_evidence.methods.settings import BOTH, Settings
from onnx_evidence.methods.site import EvidenceMap, Site
from onnx_evidence.types import Features, FloatArray, Gradient, Predict

# Pixels along a side of a cell, about.
_PITCH = 8


def cells_of(size: tuple[int, int]) -> CellField:
    """Square cells of about 8 pixels that tile an input of so many rows and columns of pixels."""
    axes = []
    for pixels in size:
        cells = max(1, round(pixels / _PITCH))
        pitch = pixels / cells
        centres = (np.arange(cells, dtype=np.float64) + 0.5) * pitch
        axes.append(AxisField(pixels, centres, np.full(cells, pitch / 12**0.5)))
    return CellField(axes[0], axes[1])


@dataclass(frozen=True)
class OrderEngine(Engine):
    """Evidence of the level sets of an order, refined by gradient ascent.

    Attributes
    ----------
    gradient : Gradient
        Of the whole model.
    predict : Predict
        The whole canonical graph.
    baselines : Baselines
        What removed pixels become; of several, the mean evidence.
    start : callable
        The map whose order is refined.
    """

    gradient: Gradient
    predict: Predict
    baselines: Baselines
    start: EvidenceMap

    @property
    def copies(self) -> int:
        """Gradients of the ascent."""
        return 2 * ROUNDS * FRONTS

    def explain(self, view: View, questions: Sequence[Question], progress: Progress) -> list[CutMap]:
        """One ascent per question; see `methods.engine.Engine`."""
        logits = self.predict(view.inputs[None])[0]
        certificate = self.certify(self.cut, logits, view.logits)
        fields = self.baselines(view)
        hidden = self.predict(fields)
        found = []
        for question in questions:
            level = _level(view, view.score(question), hidden)
            cells, budget = self._explain(view, question, fields, level, progress)
            values, rounding = self.field.spread(cells), view.rounding(question, logits)
            found.append(CutMap(cells, values, np.full(values.shape, np.nan), budget, certificate, rounding))
        return found

    def _explain(
        self, view: View, question: Question, fields: Features, level: float, progress: Progress
    ) -> tuple[FloatArray, Budget]:
        score = view.score(question)
        mixes = [_Mix(view.inputs, each.astype(view.inputs.dtype), self.field) for each in fields]
        start = mixes[0].to_cells(self.start(view, question))
        rng = generator(self.settings.seed, view.key, key_of(b"shares"))
        order = refine(start, [self._ascend(mix, score, level, progress) for mix in mixes], rng)
        reveal = [self._reveal(mix, score) for mix in mixes]
        # An ascent by soft fronts may end below where it started: the better of both orders is kept.
        found = max((level_sets(each, reveal) for each in (order, ranks(start))), key=lambda each: _gain(each, level))
        return found.cells, budget_of(found.cells, found.with_features, found.without, self.copies)

    def _ascend(self, mix: "_Mix", score: Score, level: float, progress: Progress) -> Ascend:
        def ascend(masks: FloatArray) -> tuple[FloatArray, FloatArray]:
            found = []
            for first in range(0, len(masks), self.settings.batch_size):
                part = masks[first : first + self.settings.batch_size]
                logits, gradients = self.gradient(mix.soft(part), score.direction, score.rest)
                probability = _probability(score.bits(logits), level)
                slope = (probability * (1 - probability))[:, None, None] * mix.by_mask(gradients)
                found.append((probability, slope))
                progress(len(part))
            return np.concatenate([each[0] for each in found]), np.concatenate([each[1] for each in found])

        return ascend

    def _reveal(self, mix: "_Mix", score: Score) -> Reveal:
        size = self.settings.batch_size

        def reveal(masks: FloatArray) -> FloatArray:
            parts = [masks[first : first + size] for first in range(0, len(masks), size)]
            return np.concatenate([score.bits(self.predict(mix.hard(part))) for part in parts])

        return reveal

    @property
    def _grid(self) -> tuple[int, int]:
        return len(self.field.rows.centre), len(self.field.cols.centre)

    @property
    def _levels(self) -> int:
        return min(LEVELS, self._grid[0] * self._grid[1])

    def describe(self) -> dict[str, Any]:
        """Cells, gradients of the ascent, and level sets."""
        return {"cells": list(self._grid), "gradients": self.copies, "levels": self._levels}

    def summary(self) -> str:
        """Cells and gradients in words."""
        rows, cols = self._grid
        return f"{rows} x {cols} cells ordered by {self.copies} gradients, {self._levels} level sets"


def _level(view: View, score: Score, hidden: FloatArray) -> float:
    """The log-odds, in nats, that count as undecided: 0, unless the score never gets there."""
    ends = score.bits(np.concatenate([view.logits[None], hidden])) * LN2
    return float(np.median([0.0, ends[0], ends[1:].mean()]))


def _probability(bits: FloatArray, level: float) -> FloatArray:
    """Of scores, one half at the level; beyond a few hundred nats nothing is told apart, and exp would overflow."""
    probability: FloatArray = 1 / (1 + np.exp(np.minimum(level - bits * LN2, 500)))
    return probability


def _gain(sets: LevelSets, level: float) -> float:
    """What the ascent climbs, at the ends of the level sets."""
    return float((_probability(sets.restored, level) - _probability(sets.removed, level)).mean())


class _Mix:
    """A picture and what it is hidden behind, blended by masks of cells."""

    def __init__(self, inputs: Features, background: Features, field: CellField) -> None:
        self.background, self.change = background, inputs - background
        axes = (field.rows, field.cols)
        self._soft = [interpolation(len(axis.centre), axis.pixels) for axis in axes]
        self._cell = [np.arange(axis.pixels) * len(axis.centre) // axis.pixels for axis in axes]

    def soft(self, masks: FloatArray) -> Features:
        """Blended by masks (n, A, B), interpolated between the centres of cells."""
        shown = self._soft[0] @ masks.astype(self.change.dtype) @ self._soft[1].T
        return self._blend(shown)

    def hard(self, masks: FloatArray) -> Features:
        """Blended by masks (n, A, B), cell by cell."""
        shown = masks.astype(self.change.dtype)[:, self._cell[0][:, None], self._cell[1]]
        return self._blend(shown)

    def _blend(self, shown: Features) -> Features:
        blended: Features = shown[:, None] * self.change
        blended += self.background
        return blended

    def by_mask(self, gradients: Features) -> FloatArray:
        """Gradients by the pixels of `soft` (n, C, H, W) become those by its masks (n, A, B)."""
        shown = np.einsum("nchw,chw->nhw", gradients, self.change)
        cells: FloatArray = (self._soft[0].T @ shown @ self._soft[1]).astype(np.float64)
        return cells

    def to_cells(self, pixels: FloatArray) -> FloatArray:
        """Sums of a map (H, W) over the cells (A, B)."""
        rows, cols = (np.eye(int(cell[-1]) + 1)[cell] for cell in self._cell)
        return rows.T @ pixels @ cols


class OrderMethod(Method):
    """The order of the default method's map, refined."""

    def refuse(self, settings: Settings) -> None:
        """Backgrounds of features."""
        if (path := self.background_path(settings)) is not None:
            raise SettingError(
                f"method {self.name!r} removes pixels, not features: {path} is no background for it; take mean, "
                "zero, blur or blur+mean"
            )

    def tail(self, deployed: DeployedModel, cut: Cut, settings: Settings) -> Predict:
        """That of the gradient."""
        return deployed.tail_of_gradient(cut)

    def prepare(self, site: Site) -> OrderEngine:
        """Open the model forwards and backwards, and make the default method ready, whose order is refined."""
        deployed, cut = site.deployed, site.cut
        gradient, cells = deployed.gradient(cut), cells_of(deployed.model.input_shape[1:])
        tail, removed = deployed.tail(cut), site.baselines()
        return OrderEngine(cut, deployed.certify, cells, site.settings, gradient, tail, removed, site.default_map())


ORDERED = OrderMethod(
    "ordered",
    "evidence of cells in the order that predicts their removal best, refined from integrated; adds up",
    "input",
    background=BOTH,
    uses=frozenset({"background", "steps", "most_steps", "completeness"}),  # those of the map that it starts from
    accounts=True,
)
