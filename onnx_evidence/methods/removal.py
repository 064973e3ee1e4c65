"""The engine that removes windows: `difference` at one cut of a deployed model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from onnx_evidence.cuts import Cut
from onnx_evidence.deployed import DeployedModel
from onnx_evidence.evidence import (
    FIRST_LOOK,
    MOST_SAMPLES,
    Asked,
    CellField,
    Draws,
    Sampled,
    Sampler,
    WindowEvidence,
    Windows,
    check_samples,
    default_size,
    key_of,
    remove_windows,
    sample_windows,
    window_evidence,
)
from onnx_evidence.methods.engine import CutMap, Progress, Question, View
from onnx_evidence.methods.settings import Settings
from onnx_evidence.types import FloatArray, Predict


@dataclass(frozen=True)
class RemovalEngine:
    """Windows of features, removed one at a time.

    Attributes
    ----------
    cut : Cut
        Where.
    tail : Predict
        Features to logits.
    certify : callable
        Proves the split, given the tail's logits and the deployed file's.
    field : CellField
        Where its cells look.
    windows : Windows
        What is removed.
    sampler : Sampler
        What it is replaced by.
    samples : int
        Draws per window; the most of them where they stop at a tolerance.
    settings : Settings
        Tolerance, batch size, seed and correction.
    """

    cut: Cut
    tail: Predict
    certify: Callable[[Cut, FloatArray, FloatArray], float]
    field: CellField
    windows: Windows
    sampler: Sampler
    samples: int
    settings: Settings

    @classmethod
    def prepare(
        cls, deployed: DeployedModel, cut: Cut, field: CellField, sampler: Sampler, settings: Settings
    ) -> "RemovalEngine":
        """Settle windows and samples, and open the tail.

        Parameters
        ----------
        deployed : DeployedModel
            The model.
        cut : Cut
            Where windows are removed.
        field : CellField
            Where its cells look.
        sampler : Sampler
            What they are replaced by.
        settings : Settings
            The rest.

        Returns
        -------
        RemovalEngine

        Raises
        ------
        SettingError
            If windows or samples of that size cannot be had.
        """
        preset = settings.preset
        size = settings.window or preset.window or sampler.window or default_size(cut.grid)
        stride = settings.stride or preset.stride or max(1, size // 3)
        many = preset.samples if settings.tolerance is None else MOST_SAMPLES
        samples = settings.samples or (1 if sampler.deterministic else many)
        check_samples(samples, sampler.deterministic)
        windows = Windows.place(cut.grid, size, stride)
        sampler.check(windows.size)
        return cls(cut, deployed.tail(cut), deployed.certify, field, windows, sampler, samples, settings)

    shared: ClassVar[bool] = True

    @property
    def copies(self) -> int:
        """Edited copies per picture, those before the first look at least; all classes are answered from the same."""
        return len(self.windows) * (self.samples if self.settings.tolerance is None else 2 * FIRST_LOOK)

    def explain(self, view: View, questions: Sequence[Question], progress: Progress) -> list[CutMap]:
        """Answer all questions from the same passes; see `methods.engine.Engine`."""
        whole = self.tail(view.features[None])[0]
        certificate = self.certify(self.cut, whole, view.logits)
        classes = sorted({c for each in questions for c in (each.target, each.versus) if c is not None})
        asked = [
            Asked(classes.index(each.target), None if each.versus is None else classes.index(each.versus))
            for each in questions
        ]
        if self.settings.tolerance is None:
            answers, looks, notes = self._remove(view, whole, classes, asked, progress), 1, {}
        else:
            sampled = self._sample(view, whole, classes, asked, self.settings.tolerance, progress)
            answers, looks, notes = sampled.evidence, sampled.looks, self._notes(sampled)
        maps = []
        for question, each in zip(questions, answers, strict=True):
            values, variance = self.field.project(each)
            freedom = self.field.freedom(each)
            cells = self.windows.average(each.bits)
            rounding = view.rounding(question, whole)
            maps.append(
                CutMap(
                    cells,
                    values,
                    variance,
                    None,
                    certificate,
                    rounding,
                    freedom=freedom,
                    looks=looks,
                    sampling=notes,
                )
            )
        return maps

    def _remove(
        self, view: View, whole: FloatArray, classes: Sequence[int], asked: Sequence[Asked], progress: Progress
    ) -> list[WindowEvidence]:
        """The same draws for every window."""
        removal = remove_windows(
            view.features,
            self.tail,
            self.sampler,
            self.windows,
            classes,
            samples=self.samples,
            key=self._key(view),
            batch_size=self.settings.batch_size,
            progress=progress,
            class_kind=view.class_kind,
            logits=whole,
        )
        return [window_evidence(removal, each.target, each.versus, self.settings.laplace) for each in asked]

    def _sample(
        self,
        view: View,
        whole: FloatArray,
        classes: Sequence[int],
        asked: Sequence[Asked],
        tolerance: float,
        progress: Progress,
    ) -> Sampled:
        """Draws for every window until its evidence is known well enough."""
        draws = Draws(
            view.features,
            self.tail,
            self.sampler,
            self.windows.size,
            classes,
            self._key(view),
            self.settings.batch_size,
            progress,
            view.class_kind,
            whole,
        )
        return sample_windows(
            draws, self.windows, asked, tolerance, most=self.samples, correction=self.settings.laplace
        )

    def _key(self, view: View) -> tuple[int, int, int]:
        return self.settings.seed, view.key, key_of(self.cut.name.encode())

    def _notes(self, sampled: Sampled) -> dict[str, int]:
        """Passes taken, how many more the most draws for all would have taken, and windows not known well enough."""
        passes = int(sampled.samples.sum())
        saved = len(self.windows) * self.samples - passes
        return {"passes": passes, "passes_saved": saved, "windows_unmet": int(sampled.unmet.sum())}

    def describe(self) -> dict[str, Any]:
        """Windows and samples."""
        return {"window": list(self.windows.size), "windows": len(self.windows), "samples": self.samples}

    def summary(self) -> str:
        """Windows and samples in words."""
        rows, cols = self.windows.size
        windows = f"{len(self.windows)} windows of {rows} x {cols}"
        if self.settings.tolerance is not None:
            return f"{windows}, up to {self.samples} samples until ±{self.settings.tolerance:g} bits"
        return f"{windows}, {self.samples} sample{'s' * (self.samples > 1)}"
