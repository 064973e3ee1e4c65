"""The engine that removes windows: `difference` at one cut of a deployed model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from onnx_evidence.deployed import DeployedModel
from onnx_evidence.difference import check_samples, remove_windows, window_evidence
from onnx_evidence.engine import CutMap, Progress, Question, View
from onnx_evidence.graph import Cut
from onnx_evidence.projection import CellField
from onnx_evidence.rng import key_of
from onnx_evidence.samplers import Sampler
from onnx_evidence.settings import Settings
from onnx_evidence.types import FloatArray, Predict
from onnx_evidence.windows import Windows, default_size


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
        Proves the split, given the tail's logits and the whole model's.
    field : CellField
        Where its cells look.
    windows : Windows
        What is removed.
    sampler : Sampler
        What it is replaced by.
    samples : int
        Draws per window.
    settings : Settings
        Batch size, seed and correction.
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
        samples = settings.samples or (1 if sampler.deterministic else preset.samples)
        check_samples(samples, sampler.deterministic)
        windows = Windows.place(cut.grid, size, stride)
        sampler.check(windows.size)
        return cls(cut, deployed.tail(cut), deployed.certify, field, windows, sampler, samples, settings)

    shared: ClassVar[bool] = True

    @property
    def copies(self) -> int:
        """Edited copies per picture; all classes are answered from the same."""
        return len(self.windows) * self.samples

    def explain(self, view: View, questions: Sequence[Question], progress: Progress) -> list[CutMap]:
        """Answer all questions from the same passes; see `engine.Engine`."""
        certificate = self.certify(self.cut, self.tail(view.features[None])[0], view.logits)
        classes = sorted({c for each in questions for c in (each.target, each.versus) if c is not None})
        removal = remove_windows(
            view.features,
            self.tail,
            self.sampler,
            self.windows,
            classes,
            samples=self.samples,
            key=(self.settings.seed, view.key, key_of(self.cut.name.encode())),
            batch_size=self.settings.batch_size,
            progress=progress,
        )
        maps = []
        for question in questions:
            versus = None if question.versus is None else classes.index(question.versus)
            evidence = window_evidence(removal, classes.index(question.target), versus, self.settings.laplace)
            values, variance = self.field.project(evidence)
            maps.append(CutMap(self.windows.average(evidence.bits), values, variance, None, certificate))
        return maps

    def describe(self) -> dict[str, Any]:
        """Windows and samples."""
        return {"window": list(self.windows.size), "windows": len(self.windows), "samples": self.samples}

    def summary(self) -> str:
        """Windows and samples in words."""
        rows, cols = self.windows.size
        plural = "s" if self.samples > 1 else ""
        return f"{len(self.windows)} windows of {rows} x {cols}, {self.samples} sample{plural}"
