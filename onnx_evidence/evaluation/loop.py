"""Everything that is measured, of every method, on every picture."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from onnx_evidence.deployed import DeployedModel
from onnx_evidence.errors import DataError, EvidenceError, SettingError, TargetError
from onnx_evidence.evaluation.case import Case, Mapper
from onnx_evidence.evaluation.flipping import Fill, Flips
from onnx_evidence.evaluation.given import Marker
from onnx_evidence.evaluation.links import rank_correlation
from onnx_evidence.evaluation.measures import measure
from onnx_evidence.evaluation.seen import as_seen, grey_levels, jitter, shift
from onnx_evidence.evaluation.substrates import SUBSTRATES, Scene, flip_map
from onnx_evidence.evidence import generator, key_of
from onnx_evidence.methods import OPTIONS, Settings
from onnx_evidence.types import Features, FloatArray

# Of the pointing game, in pixels, for an input of 224 (Zhang et al. 2018).
TOLERANCE = 15.0
_SIZE = 224
_TIMED = 5


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes
    ----------
    substrates : tuple of str
        Keys of `SUBSTRATES`.
    stability : bool
        Whether maps are made again: of changed pictures, and with another seed; takes four times as long.
    tolerance : float
        Of the pointing game, in pixels of an input of 224; larger and smaller inputs have theirs in proportion.
    seed : int
        Key of all randomness.
    batch_size : int
        Rows per run of the model; changes no number.
    mosaics : int
        How many are made of the pictures, at most; see `mosaics`.
    """

    substrates: tuple[str, ...] = tuple(SUBSTRATES)
    stability: bool = True
    tolerance: float = TOLERANCE
    seed: int = Settings.seed
    batch_size: int = Settings.batch_size
    mosaics: int = 0

    @property
    def draws(self) -> int:
        """Other pictures that are drawn for each."""
        return max((SUBSTRATES[name].draws for name in self.substrates), default=0)

    def check(self, pictures: int) -> None:
        """Refuse what cannot be measured.

        Parameters
        ----------
        pictures : int
            That can be drawn from.

        Raises
        ------
        SettingError
            With the value, the rule and the remedy.
        """
        if not self.substrates:
            raise SettingError(f"no substrates: take some of {', '.join(SUBSTRATES)}")
        for name in self.substrates:
            if name not in SUBSTRATES:
                raise SettingError(f"substrate {name!r} is unknown: take some of {', '.join(SUBSTRATES)}")
        OPTIONS["seed"].check("seed", self.seed)
        if not math.isfinite(self.tolerance):
            raise SettingError(f"tolerance {self.tolerance} is no distance: give pixels")
        if self.tolerance < 0:
            raise SettingError(f"tolerance {self.tolerance:g} is too small: at least 0")
        OPTIONS["batch_size"].check("batch_size", self.batch_size)
        if pictures <= self.draws:
            needy = ", ".join(name for name in self.substrates if SUBSTRATES[name].draws)
            raise SettingError(
                f"substrate {needy!r} draws {self.draws} other pictures, and there are {pictures} in all: add some, or "
                "leave it out of --substrates"
            )


@dataclass(frozen=True)
class Scored:
    """What was measured on one picture."""

    path: Path
    target: int  # the class that was explained
    top: int  # the class that the model gives
    # Per method, per metric (see `summary.METRICS`); NaN where a metric is not defined.
    numbers: dict[str, dict[str, float]] = field(default_factory=dict)
    flips: dict[str, dict[str, Flips]] = field(default_factory=dict)  # per method, per substrate


def _raise(path: Path, error: EvidenceError) -> None:
    raise error


def evaluate(
    deployed: DeployedModel,
    pictures: Sequence[Path],
    mappers: Mapping[str, Mapper],  # for stability they are also given changed pixels, and another seed
    plan: Plan | None = None,  # by default everything
    *,
    truth: Mapping[Path, int] | None = None,  # the class to explain; by default the one that the model gives
    objects: Marker | None = None,  # for localisation
    others: Sequence[Path] | None = None,  # what the substrate 'pictures' draws from; by default ``pictures``
    failed: Callable[[Path, EvidenceError], object] = _raise,  # told of pictures that are left out, and why
    progress: Callable[[], object] = lambda: None,  # called after every map that was measured
) -> Iterator[Scored]:
    """Measure maps of some methods on some pictures, in their order, one after the other."""
    plan = plan or Plan()
    pool = pictures if others is None else others
    plan.check(len(pool))
    bench = _Bench(deployed, plan, pool, mappers, objects)
    for path in pictures:
        try:
            yield bench.score(path, None if truth is None else truth[path], progress)
        except (DataError, TargetError) as error:
            failed(path, error)


class _Bench:
    """Measures one picture at a time."""

    def __init__(
        self,
        deployed: DeployedModel,
        plan: Plan,
        pool: Sequence[Path],
        mappers: Mapping[str, Mapper],
        objects: Marker | None,
    ) -> None:
        self.deployed, self.plan, self.pool, self.mappers, self.objects = deployed, plan, pool, mappers, objects

    def score(self, path: Path, target: int | None, progress: Callable[[], object]) -> Scored:
        photograph, inputs, placement = self.deployed.prepare(path)
        top = self.deployed.answer(inputs).ranked[0]
        case = Case(path, photograph, inputs, top if target is None else target, self.plan.seed)
        mask = None if self.objects is None else self.objects(path, placement)
        scene = Scene(inputs, self.deployed.preprocess, self._others(case))
        fills = {name: SUBSTRATES[name].fill(scene) for name in self.plan.substrates}
        changed = self._changed(case) if self.plan.stability else []
        plain, tolerance = self._plain_pass(inputs), self.plan.tolerance * min(inputs.shape[1:]) / _SIZE
        scored = Scored(path, case.target, top)
        for name, mapper in self.mappers.items():
            begin = time.perf_counter()
            values = checked(name, mapper(case), case)
            seconds = time.perf_counter() - begin
            flips = {each: self._flip(case, values, each, fill) for each, fill in fills.items()}
            areas = {
                f"{metric}.{each}": area for each, curves in flips.items() for metric, area in curves.areas().items()
            }
            again = [checked(name, mapper(each), case) for each in changed]
            times = {"seconds": seconds, "passes": seconds / plain}
            scored.numbers[name] = areas | measure(values, mask, tolerance) | _stability(values, again) | times
            scored.flips[name] = flips
            progress()
        return scored

    def _others(self, case: Case) -> list[Features]:
        """As many other pictures as are drawn, in an order that is the picture's own; some may be unreadable."""
        order = generator(self.plan.seed, key_of(case.inputs.tobytes()), key_of(b"others")).permutation(len(self.pool))
        waiting = [self.pool[number] for number in order if self.pool[number] != case.path]
        found: list[Features] = []
        while waiting and len(found) < self.plan.draws:
            with suppress(DataError):
                found.append(self.deployed.prepare(waiting.pop())[1])
        if len(found) < self.plan.draws:
            raise DataError(
                f"{case.path}: {self.plan.draws} other pictures are drawn, and {len(found)} can be read: add some, or "
                "leave 'pictures' out of --substrates"
            )
        return found

    def _flip(self, case: Case, values: FloatArray, name: str, fill: Fill) -> Flips:
        deployed = self.deployed
        return flip_map(deployed.logits, fill, case, values, name, self.plan.batch_size, deployed.class_kind)

    def _changed(self, case: Case) -> list[Case]:
        """The picture with noise of one grey level, moved by one pixel, and as it is with another seed."""
        preprocess = self.deployed.preprocess
        levels = grey_levels(case.inputs, preprocess)
        noise = generator(self.plan.seed, key_of(case.inputs.tobytes()), key_of(b"noise"))
        found = []
        for pixels in (jitter(levels, noise), shift(levels)):
            photograph, inputs, _ = self.deployed.prepare(as_seen(pixels, preprocess))
            found.append(replace(case, photograph=photograph, inputs=inputs))
        return [*found, replace(case, seed=case.seed + 1)]

    def _plain_pass(self, inputs: Features) -> float:
        """Seconds of a forward pass of one picture."""
        taken = []
        for _ in range(_TIMED):
            begin = time.perf_counter()
            self.deployed.logits(inputs[None])
            taken.append(time.perf_counter() - begin)
        return float(np.median(taken))


def _stability(values: FloatArray, again: Sequence[FloatArray]) -> dict[str, float]:
    """Rank correlations (Spearman) of a map with those of `_Bench._changed`; the moved one is moved back."""
    if not again:
        return {}
    noisy, moved, other_seed = again
    return {
        "stable.noise": rank_correlation(values, noisy),
        "stable.shift": rank_correlation(values[:, :-1], moved[:, 1:]),
        "stable.seed": rank_correlation(values, other_seed),
    }


def checked(name: str, values: FloatArray, case: Case) -> FloatArray:
    """A map, in float64."""
    shape = case.inputs.shape[1:]
    if values.shape != shape or not np.isfinite(values).all():
        raise SettingError(
            f"method {name!r} gave a map of shape {values.shape} for {case.path}: finite numbers, one for each of the "
            f"{shape[0]} x {shape[1]} pixels of the model's input, can be measured"
        )
    return values.astype(np.float64)
