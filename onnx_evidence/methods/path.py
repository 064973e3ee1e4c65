"""The engine that integrates along a path: `path` at one cut of a deployed model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from onnx_evidence.cuts import Cut
from onnx_evidence.evidence import CellField, PathEvidence, Score, average, integrate
from onnx_evidence.methods.backward import carry_back
from onnx_evidence.methods.baselines import Baselines
from onnx_evidence.methods.engine import CutMap, Progress, Question, View
from onnx_evidence.methods.settings import BOTH, Settings
from onnx_evidence.types import FloatArray, Gradient


@dataclass(frozen=True)
class PathEngine:
    """Evidence of every cell, integrated from a baseline to the picture's features.

    Attributes
    ----------
    cut : Cut
        Where.
    gradient : Gradient
        Of the tail.
    certify : callable
        Proves the split, given the tail's logits and the deployed file's.
    field : CellField
        Where its cells look.
    baselines : Baselines
        Where paths start.
    settings : Settings
        Score and completeness.
    head : Gradient or None
        Of the head, where evidence is carried to pixels through it and not through the measured fields.
    """

    cut: Cut
    gradient: Gradient
    certify: Callable[[Cut, FloatArray, FloatArray], float]
    field: CellField
    baselines: Baselines
    settings: Settings
    head: Gradient | None = None

    shared: ClassVar[bool] = False

    @property
    def copies(self) -> int:
        """Steps of a path that needs no more than the first ones."""
        return self.settings.steps

    def explain(self, view: View, questions: Sequence[Question], progress: Progress) -> list[CutMap]:
        """One path per question and baseline; see `methods.engine.Engine`."""
        starts = self.baselines(view)
        maps = []
        for question in questions:
            score = view.score(question, self.settings.score)
            parts: list[PathEvidence] = []
            for start in starts:
                parts.append(self._integrate(view, start, score, progress, parts[-1] if parts else None))
            mean = average(parts)
            certificate = self.certify(self.cut, mean.logits, view.logits)
            carried = np.stack([self._to_pixels(view, part) for part in parts])
            values = carried.mean(axis=0)
            budget = replace(mean.budget, carried=float(values.sum()))
            freedom = np.full(values.shape, max(len(parts) - 1.0, 1.0))
            # Two backgrounds that are always the same two are no sample.
            variance = _squared_error(carried[:1] if self.settings.stand_in == BOTH else carried)
            rounding = view.rounding(question, mean.logits)
            maps.append(
                CutMap(mean.cells, values, variance, budget, certificate, rounding, alike=True, freedom=freedom)
            )
        return maps

    def _to_pixels(self, view: View, evidence: PathEvidence) -> FloatArray:
        """Bits per pixel of the input."""
        if self.head is None:
            return self.field.spread(evidence.cells)
        return carry_back(view, evidence, self.head, self.settings)

    def _integrate(
        self, view: View, start: FloatArray, score: Score, progress: Progress, before: PathEvidence | None
    ) -> PathEvidence:
        features, settings = view.features, self.settings
        return integrate(
            features,
            start.astype(features.dtype),
            self.gradient,
            score,
            first_steps=settings.steps,
            completeness=settings.completeness,
            batch_size=settings.batch_size,
            progress=progress,
            before=before,
        )

    def describe(self) -> dict[str, Any]:
        """Nothing that is known before a picture is: steps are in its budget."""
        return {}

    def summary(self) -> str:
        """The certificate that steps are added for."""
        return f"path to {self.settings.completeness:.0%}"


def _squared_error(maps: FloatArray) -> FloatArray:
    """Squared standard error of the mean of maps (M, H, W); NaN for fewer than two."""
    count = len(maps)
    return maps.var(axis=0, ddof=1) / count if count > 1 else np.full(maps.shape[1:], np.nan)
