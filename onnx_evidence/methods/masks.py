"""The engine that shows parts: `masking` at one cut of a deployed model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from onnx_evidence.cuts import Cut
from onnx_evidence.deployed import DeployedModel
from onnx_evidence.errors import SettingError
from onnx_evidence.evidence import CellField, ClassKind, MakeMasks, Parts, Score, generator
from onnx_evidence.evidence import masks as masking
from onnx_evidence.methods.baselines import Baselines
from onnx_evidence.methods.engine import CutMap, Progress, Question, View
from onnx_evidence.methods.settings import Settings
from onnx_evidence.types import Features, FloatArray, Predict

# One row of maps per question (T, A, B), and their squared standard error.
Maps = tuple[FloatArray, FloatArray]
# From a view, the score of everything (T,) and what was seen behind the masks to maps.
Formula = Callable[[View, FloatArray, Parts], Maps]


@dataclass(frozen=True)
class _Recipe:
    """What a method shows, what it counts, and what it makes of that."""

    masks: Callable[[View, int], MakeMasks]
    count: Callable[[Cut], int]  # 0 where masks are drawn
    score: Callable[[Question, FloatArray, str, ClassKind], FloatArray]
    formula: Formula
    words: str
    of_input: bool = False


def _probability(question: Question, logits: FloatArray, kind: str, class_kind: ClassKind) -> FloatArray:
    """The class's probability, less its rival's where there is one."""
    classes = [each for each in (question.target, question.versus) if each is not None]
    p = np.exp(class_kind.log_probabilities(logits, classes).log_p)
    return np.asarray(p[:, 0] - p[:, 1] if len(classes) > 1 else p[:, 0])


def _logit(question: Question, logits: FloatArray, kind: str, class_kind: ClassKind) -> FloatArray:
    """The class's logit, less its rival's where there is one."""
    return logits @ Score.of(logits.shape[1], question.target, question.versus, "logit").direction


def _bits(question: Question, logits: FloatArray, kind: str, class_kind: ClassKind) -> FloatArray:
    """The score asked for."""
    return Score.of(logits.shape[1], question.target, question.versus, kind, class_kind).bits(logits)


def _random(view: View, seed: int) -> MakeMasks:
    return masking.random_masks(view.features.shape[1:], generator(seed))


def _rows(parts: Parts) -> FloatArray:
    """All scores, one row per mask."""
    return np.concatenate([scores for _, scores in parts])


def _exact(cells: FloatArray) -> Maps:
    return cells, np.full(cells.shape, np.nan)


def _cells(view: View, full: FloatArray, parts: Parts) -> Maps:
    return _exact(_rows(parts).T.reshape(-1, *view.features.shape[1:]))


def _channels(view: View, full: FloatArray, parts: Parts) -> tuple[Features, FloatArray, FloatArray]:
    """Features of the channels that were masked, the score of everything, and the scores without each of them."""
    rows = _rows(parts)
    return view.features[: len(rows)], full, rows


_RECIPES = {
    "rise": _Recipe(
        _random, lambda cut: 0, _probability, lambda view, full, parts: masking.weighted_mean(parts), "random masks"
    ),
    "rise-evidence": _Recipe(
        _random, lambda cut: 0, _bits, lambda view, full, parts: masking.slope(parts), "random masks"
    ),
    "recipro-cam": _Recipe(
        lambda view, seed: masking.cell_masks(view.features.shape[1:]),
        lambda cut: cut.grid[0] * cut.grid[1],
        _probability,
        _cells,
        "masks, each of one cell",
    ),
    "ablation-cam": _Recipe(
        lambda view, seed: masking.channel_masks(len(view.features)),
        lambda cut: cut.cell_shape[0],
        _logit,
        lambda view, full, parts: _exact(masking.ablation_cam(*_channels(view, full, parts))),
        "masks, each without one channel",
    ),
    "score-cam": _Recipe(
        lambda view, seed: masking.activation_masks(view.features, view.inputs.shape[1:]),
        lambda cut: cut.cell_shape[0],
        _logit,
        lambda view, full, parts: _exact(masking.score_cam(*_channels(view, full, parts)[::2])),
        "masks of the input, each in the shape of one channel",
        of_input=True,
    ),
}
# A slope and its error take this many masks.
_FEWEST = 3


@dataclass(frozen=True)
class MaskEngine:
    """A map from what the model says of features of which only a part is shown.

    Attributes
    ----------
    cut : Cut
        Where features are masked, or, for Score-CAM, where the masks of the input come from.
    predict : Predict
        What is masked to logits: the tail, or the whole model for Score-CAM.
    certify : callable
        Proves the split, given the tail's logits and the deployed file's.
    field : CellField
        Where its cells look.
    baselines : Baselines
        What the masks hide features behind.
    settings : Settings
        Method, score, samples, batch size and seed.
    """

    cut: Cut
    predict: Predict
    certify: Callable[[Cut, FloatArray, FloatArray], float]
    field: CellField
    baselines: Baselines
    settings: Settings

    shared: ClassVar[bool] = True

    @classmethod
    def prepare(
        cls, deployed: DeployedModel, cut: Cut, field: CellField, baselines: Baselines, settings: Settings
    ) -> "MaskEngine":
        """Open what is run behind the masks.

        Parameters
        ----------
        deployed : DeployedModel
            The model.
        cut : Cut
            Where features are masked.
        field : CellField
            Where its cells look.
        baselines : Baselines
            What the masks hide features behind.
        settings : Settings
            The rest.

        Returns
        -------
        MaskEngine

        Raises
        ------
        SettingError
            If a slope is to be taken through fewer than 3 masks.
        """
        if settings.method == "rise-evidence" and settings.samples is not None and settings.samples < _FEWEST:
            raise SettingError(f"samples {settings.samples}: a slope over random masks takes {_FEWEST} of them or more")
        masked = cut
        if _RECIPES[settings.method].of_input:
            masked = deployed.graph.find(deployed.model.input_name)
        return cls(cut, deployed.tail(masked), deployed.certify, field, baselines, settings)

    @property
    def _recipe(self) -> _Recipe:
        return _RECIPES[self.settings.method]

    @property
    def _drawn(self) -> bool:
        """Whether masks are drawn, as many as one likes."""
        return self._recipe.count(self.cut) == 0

    @property
    def copies(self) -> int:
        """Masks per picture; all classes are answered from the same."""
        return self._recipe.count(self.cut) or self.settings.samples or self.settings.preset.samples

    def explain(self, view: View, questions: Sequence[Question], progress: Progress) -> list[CutMap]:
        """Answer all questions from the same passes; see `methods.engine.Engine`."""
        recipe, kind = self._recipe, self.settings.score

        def scores(logits: FloatArray) -> FloatArray:
            return np.stack([recipe.score(question, logits, kind, view.class_kind) for question in questions], axis=1)

        whole, hidden = self._ends(view)
        logits = self.predict(whole[None])
        certificate = self.certify(self.cut, logits[0], view.logits)
        parts = masking.masked_scores(
            whole,
            hidden,
            self.predict,
            recipe.masks(view, self.settings.seed),
            self.copies,
            scores,
            batch_size=self.settings.batch_size,
            progress=progress,
        )
        maps, variances = recipe.formula(view, scores(logits)[0], parts)
        return [
            self._to_pixels(cells, variance, certificate, view.rounding(question, logits[0]))
            for question, cells, variance in zip(questions, maps, variances, strict=True)
        ]

    def _ends(self, view: View) -> tuple[Features, Features]:
        """What masks of ones and of zeros show."""
        if self._recipe.of_input:
            return view.inputs, np.zeros_like(view.inputs)
        return view.features, self.baselines(view)[0]

    def _to_pixels(self, cells: FloatArray, variance: FloatArray, certificate: float, rounding: float) -> CutMap:
        # Cells are seen through the same masks: their errors add up, which bounds that of a pixel between them.
        values, error = self.field.to_input(cells), self.field.to_input(np.sqrt(variance))
        freedom = np.full(values.shape, max(self.copies - 2.0, 1.0)) if self._drawn else None
        return CutMap(cells, values, error**2, None, certificate, rounding, alike=True, freedom=freedom)

    def describe(self) -> dict[str, Any]:
        """Masks; draws, where they are drawn."""
        return {"samples" if self._drawn else "masks": self.copies}

    def summary(self) -> str:
        """How many masks, and what they show."""
        return f"{self.copies} {self._recipe.words}"
