"""Methods that remove windows: `evidence.difference` and `evidence.sequential` at one cut of a deployed model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from onnx_evidence.deployed import DeployedModel
from onnx_evidence.errors import SettingError
from onnx_evidence.evidence import (
    EXCLUSIVE,
    FIRST_LOOK,
    MOST_SAMPLES,
    Asked,
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
from onnx_evidence.methods.engine import CutMap, Engine, Progress, Question, View
from onnx_evidence.methods.method import BITS, Method
from onnx_evidence.methods.settings import BLUR, BOTH, Settings
from onnx_evidence.methods.site import Site
from onnx_evidence.types import FloatArray, Predict

# Draws that come in pairs: of one pair there is no error.
_PAIR = 2


@dataclass(frozen=True)
class RemovalEngine(Engine):
    """Windows of features, removed one at a time.

    Attributes
    ----------
    tail : Predict
        Features to logits.
    windows : Windows
        What is removed.
    sampler : Sampler
        What it is replaced by.
    samples : int
        Draws per window; the most of them where they stop at a tolerance.
    """

    tail: Predict
    windows: Windows
    sampler: Sampler
    samples: int

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
                    cells, values, variance, None, certificate, rounding, freedom=freedom, looks=looks, sampling=notes
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


@dataclass(frozen=True, kw_only=True)
class RemovalMethod(Method):
    """Windows are removed one at a time.

    Attributes
    ----------
    window : int or None
        Side of the window in cells; None for a fifth of the grid.
    stride : int or None
        Cells from window to window; None for a third of the window.
    """

    window: int | None = None
    stride: int | None = None
    unit: str = BITS
    uses: frozenset[str] = frozenset("window stride samples background laplace tolerance".split())
    windows: bool = True

    def refuse(self, settings: Settings) -> None:
        """Backgrounds that no window is drawn from, and a tolerance without draws."""
        stand_in, path = self.stand_in(settings), self.background_path(settings)
        if stand_in in (BLUR, BOTH):
            raise SettingError(f"method {self.name!r} cannot use --background {stand_in}: take mean, zero or FILE.npz")
        if path is not None and path.is_dir():
            raise SettingError(
                f"method {self.name!r} draws windows from a fitted background: fit one from {path} with "
                "'onnx-evidence background', and pass the file"
            )
        if settings.tolerance is None:
            return
        if path is None:
            raise SettingError(
                f"tolerance {settings.tolerance:g} of what? Nothing is drawn from --background {stand_in}: drop "
                "--tolerance, or give --background FILE.npz"
            )
        least = 2 * FIRST_LOOK
        if settings.samples is not None and (settings.samples < least or settings.samples % 2):
            raise SettingError(
                f"samples {settings.samples} are the most that --tolerance may draw: an even number, at least {least}"
            )

    def replacement(self, settings: Settings) -> str:
        """Constants, or what draws come from."""
        path = self.background_path(settings)
        return super().replacement(settings) if path is None else f"the conditional Gaussian of {path}"

    def has_error(self, settings: Settings) -> bool:
        """Whether windows are drawn, and more than a pair of each."""
        return self.background_path(settings) is not None and (settings.samples or self.samples) > _PAIR

    def prepare(self, site: Site) -> RemovalEngine:
        """Settle windows and samples, and open the tail."""
        deployed, cut, settings = site.deployed, site.cut, site.settings
        if settings.laplace is not None:
            _check_laplace(*settings.laplace, deployed)
        field, sampler = site.field(), site.sampler()
        size = settings.window or self.window or sampler.window or default_size(cut.grid)
        stride = settings.stride or self.stride or max(1, size // 3)
        many = self.samples if settings.tolerance is None else MOST_SAMPLES
        samples = settings.samples or (1 if sampler.deterministic else many)
        check_samples(samples, sampler.deterministic)
        windows = Windows.place(cut.grid, size, stride)
        sampler.check(windows.size)
        return RemovalEngine(cut, deployed.certify, field, settings, deployed.tail(cut), windows, sampler, samples)


def _check_laplace(observations: int, classes: int, deployed: DeployedModel) -> None:
    """Refuse a K that is not the number of classes: the corrected probabilities would not add up to 1."""
    exclusive = deployed.class_kind is EXCLUSIVE
    found = deployed.classes if exclusive else 2
    if classes != found:
        words = f"of classes, {found} here" if exclusive else "of outcomes, 2 for a label that holds or not"
        raise SettingError(
            f"laplace {observations},{classes}: K is the number {words}: give --laplace {observations},{found}"
        )


WINDOW = RemovalMethod("window", "windows of hidden features removed; only the tail runs again", "cuts")
OCCLUSION = RemovalMethod("occlusion", "windows of pixels, replaced by a constant (Zeiler & Fergus 2014)", "input")
PDA = RemovalMethod(
    "pda",
    "windows of pixels, drawn from their surroundings (Zintgraf 2017: 10 x 10, 10 samples, stride 1)",
    "input",
    samples=10,
    needs_file=True,
    window=10,
    stride=1,
)
METHODS = (WINDOW, OCCLUSION, PDA)
