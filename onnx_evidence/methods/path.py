"""Methods that integrate evidence along a path of features, `evidence.path`, and may carry it to pixels.

Carried through the head's backward graph, every pixel gets what it brought about. The evidence of a map is a linear
form of the features: with v the mean gradient along the hidden path and m its baseline, ``v . (h - m)``. How much of it
each pixel brought about is integrated again, along the path from the blurred picture x0 to the picture x in input
space, with v as the cotangent:

    P = sum over colours of (x - x0) * integral over s in 0..1 of J(x0 + s (x - x0))' v,

J being the head's Jacobian. By the fundamental theorem the pixels add up to ``v . (head(x) - head(x0))``, which is
all of the cells' evidence where the hidden baseline is ``head(x0)`` itself; else there is a remainder, and it is said.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from onnx_evidence.cuts import AUTO, Cut
from onnx_evidence.deployed import DeployedModel
from onnx_evidence.errors import SettingError
from onnx_evidence.evidence import PathEvidence, Score, average, integrate, integrate_all
from onnx_evidence.methods.baselines import Baselines, blurred_picture
from onnx_evidence.methods.engine import CutMap, Engine, Progress, Question, View
from onnx_evidence.methods.method import Method
from onnx_evidence.methods.relevance import PixelRelevance
from onnx_evidence.methods.settings import BOTH, PROJECTIONS, WITH_RELEVANCE, ZERO, Settings
from onnx_evidence.methods.site import Site
from onnx_evidence.types import FloatArray, Gradient, Predict


@dataclass(frozen=True)
class PathEngine(Engine):
    """Evidence of every cell, integrated from a baseline to the picture's features.

    Attributes
    ----------
    gradient : Gradient
        Of the tail.
    baselines : Baselines
        Where paths start.
    head : Gradient or None
        Of the head, where evidence is carried to pixels through it and not through the measured fields.
    drawn : bool
        Whether several baselines are a sample of others, so that their mean has an error.
    beside : PixelRelevance or None
        What the maps of all cuts are held against, at one of them.
    """

    gradient: Gradient
    baselines: Baselines
    head: Gradient | None = None
    drawn: bool = True
    beside: PixelRelevance | None = None

    @property
    def copies(self) -> int:
        """Steps of a path that needs no more than the first ones."""
        return self.settings.steps + (self.beside is not None)

    def explain(self, view: View, questions: Sequence[Question], progress: Progress) -> list[CutMap]:
        """One path per question and baseline; see `methods.engine.Engine`."""
        starts = self.baselines(view).astype(view.features.dtype)
        maps = []
        for question in questions:
            score = view.score(question, self.settings.score)
            parts = integrate_all(view.features, starts, self.gradient, score, progress=progress, **self._how)
            mean = average(parts)
            certificate = self.certify(self.cut, mean.logits, view.logits)
            carried = np.stack([self._to_pixels(view, part) for part in parts])
            values = carried.mean(axis=0)
            budget = replace(mean.budget, carried=float(values.sum()))
            freedom = np.full(values.shape, max(len(parts) - 1.0, 1.0))
            variance = _squared_error(carried if self.drawn else carried[:1])
            rounding = view.rounding(question, mean.logits)
            told = mean.cells, values, variance, budget, certificate, rounding
            beside = None if self.beside is None else self.beside(view, score)
            progress(self.beside is not None)
            maps.append(CutMap(*told, alike=True, freedom=freedom, estimates=carried, beside=beside))
        return maps

    def _to_pixels(self, view: View, evidence: PathEvidence) -> FloatArray:
        """Bits per pixel of the input."""
        if self.head is None:
            return self.field.spread(evidence.cells)
        form = evidence.slope.astype(np.float64).reshape(-1)
        along = Score(form, np.zeros(form.shape))
        return integrate(view.inputs, blurred_picture(view), self.head, along, **self._how).cells

    @property
    def _how(self) -> dict[str, Any]:
        names = ("most_steps", "completeness", "batch_size")
        return {"first_steps": self.settings.steps, **{name: getattr(self.settings, name) for name in names}}

    def summary(self) -> str:
        """The certificate that steps are added for."""
        return f"path to {100 * self.settings.completeness:.3g}%"


def _squared_error(maps: FloatArray) -> FloatArray:
    """Squared standard error of the mean of maps (M, H, W); NaN for fewer than two."""
    count = len(maps)
    return maps.var(axis=0, ddof=1) / count if count > 1 else np.full(maps.shape[1:], np.nan)


@dataclass(frozen=True)
class PathMethod(Method):
    """Evidence is integrated along a path, at one cut or several."""

    uses: frozenset[str] = frozenset("background statistic score steps most_steps completeness project samples".split())
    accounts: bool = True

    def refuse(self, settings: Settings) -> None:
        """Draws of what is no folder; rules of what is not asked for."""
        path = self.background_path(settings)
        if settings.samples is not None and (path is None or path.is_file()):
            raise SettingError(
                f"samples {settings.samples} of what? Paths draw pictures from --background FOLDER alone"
            )
        if settings.rules != Settings.rules and settings.combine not in (AUTO, WITH_RELEVANCE):
            raise SettingError(
                f"rules {settings.rules!r} are those of relevance, which --combine {settings.combine} leaves "
                "aside: drop one of them"
            )

    def tail(self, deployed: DeployedModel, cut: Cut, settings: Settings) -> Predict:
        """That of the gradient."""
        return deployed.tail_of_gradient(cut)

    def prepare(self, site: Site) -> PathEngine:
        """Open the gradient of the tail, and that of the head where evidence is carried through it."""
        deployed, cut, settings = site.deployed, site.cut, site.settings
        gradient, starts, field = deployed.gradient(cut), site.baselines(), site.field()
        head = None if settings.project == PROJECTIONS[0] else deployed.head_gradient(cut)
        # Two backgrounds that are always the same two are no sample.
        drawn = site.stand_in != BOTH
        return PathEngine(cut, deployed.certify, field, settings, gradient, starts, head, drawn, site.beside())


INTEGRATED = PathMethod(
    "integrated",
    "evidence integrated along paths in hidden features; adds up",
    "cuts",
    background=BOTH,
    uses=PathMethod.uses | {"combine", "rules"},
)
INTEGRATED_GRADIENTS = PathMethod(
    "integrated-gradients", "the same path in pixels (Sundararajan 2017)", "input", background=ZERO
)
