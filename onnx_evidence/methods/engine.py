"""What all methods share: the question, the picture as they see it, and their answer at one cut."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

from onnx_evidence.cuts import Cut
from onnx_evidence.errors import ModelError
from onnx_evidence.evidence import EXCLUSIVE, OPEN, Budget, CellField, ClassKind, Score
from onnx_evidence.methods.settings import Settings
from onnx_evidence.types import Features, FloatArray

Progress = Callable[[int], object]


@dataclass(frozen=True)
class Question:
    """Why this class, or why this one rather than another.

    Attributes
    ----------
    target : int
        The class.
    versus : int or None
        The class that it is held against.
    """

    target: int
    versus: int | None = None


@dataclass(frozen=True)
class View:
    """One picture at one cut.

    Attributes
    ----------
    inputs : ndarray of float32, shape (channels, H, W)
        The preprocessed picture.
    features : ndarray of float32, shape (C, A, B)
        What the head makes of it.
    logits : ndarray of float64, shape (K,)
        Of the deployed file.
    key : int
        Of the picture, for randomness.
    class_kind : ClassKind
        What the logits mean.
    """

    inputs: Features
    features: Features
    logits: FloatArray
    key: int
    class_kind: ClassKind = EXCLUSIVE

    def score(self, question: Question, kind: str = "log-odds") -> Score:
        """What the answer to a question is counted in; ``kind`` as in `Score.of`."""
        return Score.of(len(self.logits), question.target, question.versus, kind, self.class_kind)

    def rounding(self, question: Question, split_logits: FloatArray) -> float:
        """What rounding otherwise than the deployed file costs a map.

        Parameters
        ----------
        question : Question
            What is asked.
        split_logits : ndarray of float64, shape (K,)
            Of the split model that the map is made with, for this picture.

        Returns
        -------
        float
            Log-odds of the question by the split, less those by the file, in bits.
        """
        split, whole = self.score(question).bits(np.stack([split_logits, self.logits]))
        return float(split - whole)


@dataclass(frozen=True)
class CutMap:
    """The answer of one cut to one question.

    Attributes
    ----------
    cells : ndarray of float64, shape (A, B)
        On the grid of the cut.
    values : ndarray of float64, shape (H, W)
        In pixels of the model's input.
    variance : ndarray of float64, shape (H, W)
        Squared standard error of `values`; NaN where nothing was sampled.
    budget : Budget or None
        What the cells add up to, for maps that do.
    certificate : float
        Largest change of a logit by the split, as a share of the largest logit.
    rounding : float
        What `View.rounding` says of the split, bits.
    alike : bool
        Whether other cuts were sampled with the same draws, so that errors add up instead of averaging out.
    freedom : ndarray of float64, shape (H, W), or None
        Degrees of freedom of `variance`; None where nothing was sampled, or so much that they do not matter.
    looks : int
        How often sampling looked whether to stop, at most; see `evidence.half_width`.
    sampling : dict
        What the manifest says of the draws for this picture; plain values.
    estimates : ndarray of float64, shape (M, H, W), or None
        What `values` is the mean of, one for each background; None where it is no mean of such.
    beside : ndarray of float64, shape (H, W), or None
        What says where evidence is, but not in bits, where the maps are held against it.
    """

    cells: FloatArray
    values: FloatArray
    variance: FloatArray
    budget: Budget | None
    certificate: float
    rounding: float
    alike: bool = False
    freedom: FloatArray | None = None
    looks: int = 1
    sampling: dict[str, Any] = field(default_factory=dict)
    estimates: FloatArray | None = None
    beside: FloatArray | None = None


@dataclass(frozen=True)
class Engine(ABC):
    """A method at one cut, ready for every picture.

    Attributes
    ----------
    cut : Cut
        Where it cuts.
    certify : callable
        Proves the split, given the tail's logits and the deployed file's.
    field : CellField
        Where the cells look.
    settings : Settings
        Score, steps, samples, batch size, seed and so on.
    shared : bool
        Whether all questions about a picture are answered from the same rows.
    """

    cut: Cut
    certify: Callable[[Cut, FloatArray, FloatArray], float]
    field: CellField
    settings: Settings

    shared: ClassVar[bool] = False

    @property
    @abstractmethod
    def copies(self) -> int:
        """Rows that are run per picture (and question, unless they are shared), as far as that is known before."""

    @abstractmethod
    def explain(self, view: View, questions: Sequence[Question], progress: Progress) -> list[CutMap]:
        """Answer all questions about one picture.

        Parameters
        ----------
        view : View
            The picture.
        questions : sequence of Question
            What is asked.
        progress : callable
            Called with the number of rows done since the last call.

        Returns
        -------
        list of CutMap
            One per question.

        Raises
        ------
        CutError
            If the split is not the deployed file on this picture.
        """

    def describe(self) -> dict[str, Any]:
        """What the manifest says of it, besides the cut's name and grid; plain values."""
        return {}

    @abstractmethod
    def summary(self) -> str:
        """What the table's head says of it, in a few words."""


def placed(engines: Sequence[Engine], field_of: Callable[[Cut], CellField]) -> list[Engine]:
    """The engines for one picture, which settles where cells look where the preprocessing does not.

    Parameters
    ----------
    engines : sequence of Engine
        Ready for every picture.
    field_of : callable
        Where the cells of a cut look, now that there is a picture.

    Returns
    -------
    list of Engine
        Those whose field is known are the same.
    """
    return [each if each.field.how != OPEN else replace(each, field=field_of(each.cut)) for each in engines]


def check_finite(cut: Cut, maps: Sequence[CutMap]) -> None:
    """Refuse maps with a number that is none.

    Parameters
    ----------
    cut : Cut
        Where they were made.
    maps : sequence of CutMap
        Of one picture.

    Raises
    ------
    ModelError
        Naming the cut.
    """
    if not all(np.isfinite(each.cells).all() and np.isfinite(each.values).all() for each in maps):
        raise ModelError(
            f"layer {cut.name!r}: the evidence there is not a finite number: take another --layer or --background"
        )
