"""Methods of one gradient: `evidence.attribution` at one cut of a deployed model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnx_evidence.cuts import Cut
from onnx_evidence.deployed import DeployedModel
from onnx_evidence.evidence import LN2, Score, attribution, generator, key_of
from onnx_evidence.methods.baselines import Baselines
from onnx_evidence.methods.engine import CutMap, Engine, Progress, Question, View
from onnx_evidence.methods.method import ARBITRARY, Method
from onnx_evidence.methods.settings import Settings
from onnx_evidence.methods.site import Site
from onnx_evidence.types import Features, FloatArray, Gradient, Predict
from onnx_evidence.vjp import GRADIENT, GUIDED

# The map from features and gradient.
Formula = Callable[[Features, Features], FloatArray]

# Noise of SmoothGrad as a share of the picture's range of values (Smilkov et al. 2017, section 3.2: 10 to 20 %).
_NOISE = 0.15


@dataclass(frozen=True)
class SlopeEngine(Engine):
    """A map from the gradient at the features themselves.

    Attributes
    ----------
    method : SlopeMethod
        Which.
    gradient : Gradient
        Of the tail.
    baselines : Baselines
        What the first order takes off the features.
    samples : int
        Noisy pictures, for a method of these.
    """

    method: "SlopeMethod"
    gradient: Gradient
    baselines: Baselines
    samples: int

    @property
    def copies(self) -> int:
        """Gradients per question."""
        return self.samples + 1 if self.method.noisy else 1

    def explain(self, view: View, questions: Sequence[Question], progress: Progress) -> list[CutMap]:
        """One gradient per question; see `methods.engine.Engine`."""
        maps = []
        for question in questions:
            score = view.score(question, self.settings.score)
            logits, gradients = self.gradient(view.features[None], score.direction, score.rest)
            certificate = self.certify(self.cut, logits[0], view.logits)
            slope = self._smooth(view, score) if self.method.noisy else gradients[0]
            features = view.features
            if self.method.removes:
                features = features - self.baselines(view).mean(axis=0)
            cells = self.method.formula(features, slope) / LN2
            values = self.field.spread(cells) if self.method.adds_up else self.field.to_input(cells)
            rounding = view.rounding(question, logits[0])
            maps.append(CutMap(cells, values, np.full(values.shape, np.nan), None, certificate, rounding))
            progress(self.copies)
        return maps

    def _smooth(self, view: View, score: Score) -> Features:
        """SmoothGrad (Smilkov et al. 2017): the mean gradient over noisy copies of the picture."""
        sigma = _NOISE * float(np.ptp(view.features))
        total = np.zeros(view.features.shape)
        for number in range(self.samples):
            noise = generator(self.settings.seed, view.key, key_of(b"noise"), number).standard_normal(total.shape)
            noisy = (view.features + sigma * noise).astype(view.features.dtype)
            total += self.gradient(noisy[None], score.direction, score.rest)[1][0]
        return (total / self.samples).astype(view.features.dtype)

    def describe(self) -> dict[str, Any]:
        """Draws of noise."""
        return {"samples": self.samples} if self.method.noisy else {}

    def summary(self) -> str:
        """How many gradients."""
        return f"{self.copies} gradient{'s' * (self.copies > 1)}"


_USES = frozenset({"score"})


@dataclass(frozen=True, kw_only=True)
class SlopeMethod(Method):
    """A formula of features and the gradient there.

    Attributes
    ----------
    formula : callable
        From features and gradient, (C, A, B) each, to the map, (A, B).
    noisy : bool
        Whether the gradient is the mean over noisy pictures.
    rules : str
        Of the backward graph, where they are no setting; see `vjp.build_vjp`.
    """

    formula: Formula
    noisy: bool = False
    rules: str = GRADIENT
    uses: frozenset[str] = _USES

    def rules_of(self, settings: Settings) -> str:
        """Rules of the backward graph."""
        return settings.rules if "rules" in self.uses else self.rules

    @property
    def removes(self) -> bool:
        """Whether it says what features differ from a background by."""
        return "background" in self.uses

    def refuse(self, settings: Settings) -> None:
        """Two backgrounds."""
        self.refuse_two_backgrounds(settings)

    def replacement(self, settings: Settings) -> str:
        """What features are held against, if anything."""
        return super().replacement(settings) if self.removes else "nothing, as none are removed"

    def tail(self, deployed: DeployedModel, cut: Cut, settings: Settings) -> Predict:
        """That of the gradient."""
        return deployed.tail_of_gradient(cut, rules=self.rules_of(settings))

    def prepare(self, site: Site) -> SlopeEngine:
        """Open the gradient of the tail."""
        deployed, cut = site.deployed, site.cut
        gradient = deployed.gradient(cut, rules=self.rules_of(site.settings))
        start, field = site.baselines(), site.field()
        return SlopeEngine(cut, deployed.certify, field, site.settings, self, gradient, start, site.samples)


def _size(features: Features, gradient: Features) -> FloatArray:
    return attribution.largest_slope(gradient)


_SLOPE = "bits per unit of the input"
_PRODUCT = attribution.layer_times_gradient
METHODS = (
    SlopeMethod("gradient", "size of the gradient by pixels (Simonyan 2013)", "input", _SLOPE, formula=_size),
    SlopeMethod(
        "smoothgrad",
        "its mean over noisy pictures (Smilkov 2017)",
        "input",
        _SLOPE,
        samples=25,
        formula=_size,
        noisy=True,
        uses=_USES | {"samples"},
    ),
    SlopeMethod(
        "guided-backprop",
        "with rectified cotangents (Springenberg 2014)",
        "input",
        _SLOPE,
        formula=_size,
        rules=GUIDED,
    ),
    SlopeMethod("gradient-x-input", "gradient times pixels", "input", formula=_PRODUCT),
    SlopeMethod(
        "taylor-evidence",
        "first-order evidence: gradient times what features differ from the background by",
        "cuts",
        formula=_PRODUCT,
        uses=_USES | {"background", "statistic"},
    ),
    SlopeMethod(
        "relevance",
        "relevance handed back by rules in place of derivatives (LRP; AttnLRP is --rules attnlrp)",
        "either",
        formula=_PRODUCT,
        uses=_USES | {"rules"},
    ),
    SlopeMethod("hirescam", "gradient times features (Draelos 2020)", "last", formula=_PRODUCT),
    SlopeMethod(
        "grad-cam", "pooled gradient times features, signed (Selvaraju 2017)", "last", formula=attribution.grad_cam
    ),
    SlopeMethod(
        "grad-cam++", "its weighted form (Chattopadhay 2018)", "last", ARBITRARY, formula=attribution.grad_cam_plus_plus
    ),
    SlopeMethod("layercam", "positive gradient times features (Jiang 2021)", "last", formula=attribution.layer_cam),
)
