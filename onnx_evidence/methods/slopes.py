"""The engine of one gradient: `attribution` at one cut of a deployed model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from onnx_evidence.cuts import Cut
from onnx_evidence.evidence import LN2, CellField, Score, attribution, generator, key_of
from onnx_evidence.methods.baselines import Baselines
from onnx_evidence.methods.engine import CutMap, Progress, Question, View
from onnx_evidence.methods.settings import Settings
from onnx_evidence.types import Features, FloatArray, Gradient

Formula = Callable[[Features, Features], FloatArray]

# One line per method: the map from features and gradient.
FORMULAS: dict[str, Formula] = {
    "gradient": lambda features, gradient: attribution.largest_slope(gradient),
    "smoothgrad": lambda features, gradient: attribution.largest_slope(gradient),
    "guided-backprop": lambda features, gradient: attribution.largest_slope(gradient),
    "gradient-x-input": attribution.layer_times_gradient,
    "taylor-evidence": attribution.layer_times_gradient,
    "hirescam": attribution.layer_times_gradient,
    "grad-cam": attribution.grad_cam,
    "grad-cam++": attribution.grad_cam_plus_plus,
    "layercam": attribution.layer_cam,
}
# Noise of SmoothGrad as a share of the picture's range of values (Smilkov et al. 2017, section 3.2: 10 to 20 %).
_NOISE = 0.15


@dataclass(frozen=True)
class SlopeEngine:
    """A map from the gradient at the features themselves.

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
        What 'taylor-evidence' takes off the features.
    settings : Settings
        Method, score, samples and seed.
    """

    cut: Cut
    gradient: Gradient
    certify: Callable[[Cut, FloatArray, FloatArray], float]
    field: CellField
    baselines: Baselines
    settings: Settings

    shared: ClassVar[bool] = False

    @property
    def copies(self) -> int:
        """Gradients per question."""
        return self._samples + 1 if self.settings.method == "smoothgrad" else 1

    @property
    def _samples(self) -> int:
        return self.settings.samples or self.settings.preset.samples

    def explain(self, view: View, questions: Sequence[Question], progress: Progress) -> list[CutMap]:
        """One gradient per question; see `methods.engine.Engine`."""
        maps = []
        for question in questions:
            score = view.score(question, self.settings.score)
            logits, gradients = self.gradient(view.features[None], score.direction, score.rest)
            certificate = self.certify(self.cut, logits[0], view.logits)
            slope = self._smooth(view, score) if self.settings.method == "smoothgrad" else gradients[0]
            features = view.features
            if self.settings.method == "taylor-evidence":
                features = features - self.baselines(view).mean(axis=0)
            cells = FORMULAS[self.settings.method](features, slope) / LN2
            adds_up = self.settings.preset.adds_up
            values = self.field.spread(cells) if adds_up else self.field.to_input(cells)
            rounding = view.rounding(question, logits[0])
            maps.append(CutMap(cells, values, np.full(values.shape, np.nan), None, certificate, rounding))
            progress(self.copies)
        return maps

    def _smooth(self, view: View, score: Score) -> Features:
        """SmoothGrad (Smilkov et al. 2017): the mean gradient over noisy copies of the picture."""
        sigma = _NOISE * float(np.ptp(view.features))
        total = np.zeros(view.features.shape)
        for number in range(self._samples):
            noise = generator(self.settings.seed, view.key, key_of(b"noise"), number).standard_normal(total.shape)
            noisy = (view.features + sigma * noise).astype(view.features.dtype)
            total += self.gradient(noisy[None], score.direction, score.rest)[1][0]
        return (total / self._samples).astype(view.features.dtype)

    def describe(self) -> dict[str, Any]:
        """Draws of noise."""
        return {"samples": self._samples} if self.settings.method == "smoothgrad" else {}

    def summary(self) -> str:
        """How many gradients."""
        return f"{self.copies} gradient{'s' * (self.copies > 1)}"
