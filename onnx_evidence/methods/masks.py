"""Methods that show parts behind masks: `evidence.masks` at one cut of a deployed model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from onnx_evidence.cuts import Cut
from onnx_evidence.errors import SettingError
from onnx_evidence.evidence import ClassKind, MakeMasks, Parts, Score, generator
from onnx_evidence.evidence import masks as masking
from onnx_evidence.methods.baselines import Baselines
from onnx_evidence.methods.engine import CutMap, Engine, Progress, Question, View
from onnx_evidence.methods.method import ARBITRARY, BITS, PROBABILITY, Method
from onnx_evidence.methods.settings import ZERO, Settings
from onnx_evidence.methods.site import Site
from onnx_evidence.types import Features, FloatArray, Predict

# One row of maps per question (T, A, B), and their squared standard error.
Maps = tuple[FloatArray, FloatArray]
# The score of what logits (N, K) say.
Scoring = Callable[[Question, FloatArray, str, ClassKind], FloatArray]
# From a view, the score of everything (T,) and what was seen behind the masks to maps.
Formula = Callable[[View, FloatArray, Parts], Maps]


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


@dataclass(frozen=True)
class MaskEngine(Engine):
    """A map from what the model says of features of which only a part is shown.

    Attributes
    ----------
    method : MaskMethod
        Which.
    predict : Predict
        What is masked to logits: the tail, or the whole model for Score-CAM.
    baselines : Baselines
        What the masks hide features behind.
    samples : int
        How many, where they are drawn.
    """

    method: "MaskMethod"
    predict: Predict
    baselines: Baselines
    samples: int

    shared: ClassVar[bool] = True

    @property
    def copies(self) -> int:
        """Masks per picture; all classes are answered from the same."""
        return self.samples if self.method.count is None else self.method.count(self.cut)

    def explain(self, view: View, questions: Sequence[Question], progress: Progress) -> list[CutMap]:
        """Answer all questions from the same passes; see `methods.engine.Engine`."""
        method, kind = self.method, self.settings.score

        def scores(logits: FloatArray) -> FloatArray:
            return np.stack([method.score(question, logits, kind, view.class_kind) for question in questions], axis=1)

        whole, hidden = self._ends(view)
        logits = self.predict(whole[None])
        certificate = self.certify(self.cut, logits[0], view.logits)
        parts = masking.masked_scores(
            whole,
            hidden,
            self.predict,
            method.masks(view, self.settings.seed),
            self.copies,
            scores,
            batch_size=self.settings.batch_size,
            progress=progress,
        )
        maps, variances = method.formula(view, scores(logits)[0], parts)
        return [
            self._to_pixels(cells, variance, certificate, view.rounding(question, logits[0]))
            for question, cells, variance in zip(questions, maps, variances, strict=True)
        ]

    def _ends(self, view: View) -> tuple[Features, Features]:
        """What masks of ones and of zeros show."""
        if self.method.of_input:
            return view.inputs, np.zeros_like(view.inputs)
        return view.features, self.baselines(view)[0]

    def _to_pixels(self, cells: FloatArray, variance: FloatArray, certificate: float, rounding: float) -> CutMap:
        # Cells are seen through the same masks: their errors add up, which bounds that of a pixel between them.
        values, error = self.field.to_input(cells), self.field.to_input(np.sqrt(variance))
        freedom = np.full(values.shape, max(self.copies - 2.0, 1.0)) if self.method.drawn else None
        return CutMap(cells, values, error**2, None, certificate, rounding, alike=True, freedom=freedom)

    def describe(self) -> dict[str, Any]:
        """Masks; draws, where they are drawn."""
        return {"samples" if self.method.drawn else "masks": self.copies}

    def summary(self) -> str:
        """How many masks, and what they show."""
        return f"{self.copies} {self.method.words}"


@dataclass(frozen=True, kw_only=True)
class MaskMethod(Method):
    """What is shown, what is counted, and what is made of that.

    Attributes
    ----------
    masks : callable
        From a view and a seed to masks.
    count : callable or None
        How many there are at a cut; None where they are drawn, as many as one likes.
    score : callable
        What is counted.
    formula : callable
        What is made of that.
    words : str
        What is shown, after a number.
    of_input : bool
        Whether the masks are laid over the input, whatever the cut.
    fewest : int
        Masks that the formula takes.
    """

    masks: Callable[[View, int], MakeMasks]
    count: Callable[[Cut], int] | None = None
    score: Scoring
    formula: Formula
    words: str
    of_input: bool = False
    fewest: int = 1
    background: str = ZERO

    @property
    def drawn(self) -> bool:
        """Whether masks are drawn."""
        return self.count is None

    def refuse(self, settings: Settings) -> None:
        """More than one background, and fewer masks than the formula takes."""
        self.refuse_two_backgrounds(settings)
        path = self.background_path(settings)
        if path is not None and path.is_dir():
            raise SettingError(
                f"method {self.name!r} hides features behind one background, not the pictures of {path}: take mean, "
                "zero, blur or FILE.npz"
            )
        if settings.samples is not None and settings.samples < self.fewest:
            raise SettingError(
                f"samples {settings.samples}: a slope over random masks takes {self.fewest} of them or more"
            )

    def has_error(self, settings: Settings) -> bool:
        """Whether masks are drawn, and several."""
        return self.drawn and (settings.samples or self.samples) > 1

    def prepare(self, site: Site) -> MaskEngine:
        """Open what is run behind the masks: the tail, or the whole model where these are laid over the input."""
        deployed, cut = site.deployed, site.cut
        field, hidden = site.field(), site.baselines()
        masked = deployed.graph.find(deployed.model.input_name) if self.of_input else cut
        return MaskEngine(
            cut, deployed.certify, field, site.settings, self, deployed.tail(masked), hidden, site.samples
        )


_USES = frozenset({"background", "statistic"})
_MANY = 4000
METHODS = (
    MaskMethod(
        "rise",
        "mean of random masks, weighted with the probability behind them (Petsiuk 2018)",
        "either",
        PROBABILITY,
        samples=_MANY,
        uses=_USES | {"samples"},
        masks=_random,
        score=_probability,
        formula=lambda view, full, parts: masking.weighted_mean(parts),
        words="random masks",
    ),
    MaskMethod(
        "rise-evidence",
        "bits that the log-odds rise when a place is shown, from the same masks",
        "either",
        BITS,
        samples=_MANY,
        uses=_USES | {"samples", "score"},
        masks=_random,
        score=_bits,
        formula=lambda view, full, parts: masking.slope(parts),
        words="random masks",
        fewest=3,  # for a slope and its error
    ),
    MaskMethod(
        "recipro-cam",
        "probability with one cell left at a time (Byun 2022)",
        "last",
        PROBABILITY,
        uses=_USES,
        masks=lambda view, seed: masking.cell_masks(view.features.shape[1:]),
        count=lambda cut: cut.grid[0] * cut.grid[1],
        score=_probability,
        formula=_cells,
        words="masks, each of one cell",
    ),
    MaskMethod(
        "ablation-cam",
        "features weighted by what the logit loses without their channel, signed (Desai 2020)",
        "last",
        ARBITRARY,
        masks=lambda view, seed: masking.channel_masks(len(view.features)),
        count=lambda cut: cut.cell_shape[0],
        score=_logit,
        formula=lambda view, full, parts: _exact(masking.ablation_cam(*_channels(view, full, parts))),
        words="masks, each without one channel",
    ),
    MaskMethod(
        "score-cam",
        "features weighted by the logit of the picture behind them (Wang 2020)",
        "last",
        ARBITRARY,
        masks=lambda view, seed: masking.activation_masks(view.features, view.inputs.shape[1:]),
        count=lambda cut: cut.cell_shape[0],
        score=_logit,
        formula=lambda view, full, parts: _exact(masking.score_cam(*_channels(view, full, parts)[::2])),
        words="masks of the input, each in the shape of one channel",
        of_input=True,
    ),
)
