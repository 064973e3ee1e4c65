"""Whether a map depends on what the network learnt, on the class asked for, and on there being anything to see.

The randomisation test of Adebayo et al. 2018 (arXiv 1810.03292, section 4) on a deployed file: weights are re-drawn
from the output downwards, behind the cut alone and before it alone; the same class of the same picture is explained
again, with the same settings. A map that stays what it was does not show what the network computes. So for another
class, and for a picture with nothing in it.

The limits stand on measurements (docs/faithfulness.md). Maps that share no more than half of the variance of their
ranks (0.7 squared) are told apart. Rank correlations of smooth maps scatter by chance, with a standard deviation of up
to 0.5, so a verdict is on the mean over draws and pictures.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from onnx_evidence.deployed import DeployedModel
from onnx_evidence.errors import DataError, EvidenceError, SettingError
from onnx_evidence.evaluation.links import rank_correlation
from onnx_evidence.evaluation.randomise import Stage, Weight, redraw
from onnx_evidence.evaluation.sanity_method import Explained, Mapper
from onnx_evidence.explainer import Explainer
from onnx_evidence.pictures import Photograph, list_images
from onnx_evidence.types import FloatArray

# Largest rank correlation with the map that was given first: half of the variance of ranks.
SAME = 0.7
# The same of |map|, which finds patterns whose sign alone changes. Evidence is large where features are, whatever the
# weights behind them, so more of it may stay.
SAME_SIZE = 0.9
# The class next to the explained one is often of its kind, and so is its evidence.
SAME_FOR_RIVAL = 0.9
# Largest share of the bits that may be left where the picture is of one colour.
LEFT_IN_BLANK = 0.5
DRAWS = 3
CORRELATION, SHARE = "rank correlation", "share of the bits"


@dataclass(frozen=True)
class Check:
    """One check and its verdict.

    Attributes
    ----------
    name : str
        'last layer', 'last quarter', 'last half', 'last three quarters', 'all layers', 'tail only', 'head only',
        'runner-up class', 'least likely class' or 'blank picture'.
    what : str
        What was changed, in words.
    limit : float
        The largest `value` that passes.
    size_limit : float or None
        The largest `size` that passes, where magnitudes are judged too.
    kind : {'rank correlation', 'share of the bits'}
        What `value` is.
    value : float
        Mean over pictures and draws; NaN where the check could not be made.
    size : float or None
        Mean rank correlation of the maps' magnitudes.
    chance : float or None
        Mean rank correlation with the changed map of another picture; None for one picture.
    worst : str
        The picture of the largest value.
    worst_value : float
        Its mean over draws.
    problem : str or None
        Why the check could not be made.
    """

    name: str
    what: str
    limit: float
    size_limit: float | None = None
    kind: str = CORRELATION
    value: float = float("nan")
    size: float | None = None
    chance: float | None = None
    worst: str = ""
    worst_value: float = float("nan")
    problem: str | None = None

    @property
    def passed(self) -> bool:
        """Whether it was made, and no number is above its limit."""
        size_passes = self.size is None or self.size_limit is None or self.size <= self.size_limit
        return self.problem is None and self.value <= self.limit and size_passes


@dataclass(frozen=True)
class Subject:
    """A picture with its map.

    Attributes
    ----------
    picture : Photograph
        What is explained.
    target, rival, last : int
        The class that the model gives, the one next to it, and the least likely one.
    values : ndarray of float64, shape (H, W)
        The map for `target`.
    """

    picture: Photograph
    target: int
    rival: int
    last: int
    values: FloatArray


def maps_to_make(stages: Sequence[Stage], pictures: int, draws: int) -> int:
    """How many maps `check_sanity` makes at most: per picture four of the model itself, and one per stage and draw."""
    return pictures * (4 + draws * len({stage.weights for stage in stages}))


def check_sanity(
    deployed: DeployedModel,
    mapper: Mapper,
    pictures: Sequence[Photograph],
    stages: Sequence[Stage],
    *,
    in_bits: bool = True,  # then a blank picture has little evidence; of slopes its map must look different
    draws: int = DRAWS,  # of new weights, per stage
    seed: int = 0,  # of the first draw
    progress: Callable[[int], object] = lambda maps: None,  # maps made since the last call
) -> list[Check]:
    """Check maps of the class that the model gives: two other classes, a blank picture, the cascade, tail and head.

    Errors of the package that ``mapper`` raises for a changed model make that check one that could not be made; for the
    model as it is they are raised, as are SettingError without a draw or a picture, and DataError where a picture is of
    one colour or its map is constant.
    """
    if draws < 1 or not pictures:
        raise SettingError(f"{draws} draws of {len(pictures)} pictures: at least one of each is needed")
    made = _Checker(deployed, mapper, [], progress)
    made.subjects = [made.subject(picture) for picture in pictures]
    # First what asks the model as it is: a mapper may keep what it prepared for one model.
    checks = [made.other_class("runner-up class", lambda subject: subject.rival, SAME_FOR_RIVAL)]
    if deployed.classes > 2:
        checks.append(made.other_class("least likely class", lambda subject: subject.last, SAME))
    checks.append(made.blank(in_bits))
    return [*checks, *made.randomised(stages, draws, seed)]


# New maps of all pictures in one draw.
_Draw = list[FloatArray]


@dataclass
class _Checker:
    """The maps of one model and method, compared."""

    deployed: DeployedModel
    mapper: Mapper
    subjects: list[Subject]
    progress: Callable[[int], object]

    def subject(self, picture: Photograph) -> Subject:
        if not np.ptp(picture.pixels, axis=(0, 1)).any():
            raise DataError(f"{picture.name}: the picture is of one colour, there is nothing to explain: leave it out")
        order = self.deployed.answer(self.deployed.prepare(picture)[1]).ranked
        values = self._map(self.deployed, picture, order[0])
        if np.ptp(values) == 0:
            raise DataError(f"{picture.name}: the map has one value everywhere, nothing can be compared: leave it out")
        return Subject(picture, order[0], order[1], order[-1], values)

    def _map(self, deployed: DeployedModel, picture: Photograph, target: int) -> FloatArray:
        values = np.asarray(self.mapper(deployed, picture, target), np.float64)
        self.progress(1)
        if not np.isfinite(values).all():
            raise DataError(f"{picture.name}: the map has values that are not finite")
        return values

    def other_class(self, name: str, choose: Callable[[Subject], int], limit: float) -> Check:
        maps = [self._map(self.deployed, each.picture, choose(each)) for each in self.subjects]
        return self._compare(Check(name, "another class explained", limit), [maps])

    def blank(self, in_bits: bool) -> Check:
        maps = [self._map(self.deployed, each.picture.blank(), each.target) for each in self.subjects]
        if not in_bits:
            # A map of one value shows nothing, as it should: any picture's is as far from it.
            rows = [rank_correlation(each.values, new) for each, new in zip(self.subjects, maps, strict=True)]
            check = Check("blank picture", "mean colour everywhere", SAME)
            return self._judge(check, np.nan_to_num(np.array([rows])))
        left = [np.abs(new).sum() / np.abs(each.values).sum() for each, new in zip(self.subjects, maps, strict=True)]
        check = Check("blank picture", "mean colour everywhere", LEFT_IN_BLANK, kind=SHARE)
        return self._judge(check, np.array([left]))

    def randomised(self, stages: Sequence[Stage], draws: int, seed: int) -> Iterator[Check]:
        known: dict[tuple[Weight, ...], Check] = {}
        total = len({weight for stage in stages for weight in stage.weights})
        for stage in stages:
            if stage.weights not in known:
                what = f"{len(stage.weights)} of {total} layers re-drawn"
                check = Check(stage.name, what, SAME, size_limit=SAME_SIZE)
                try:
                    maps = [self._redrawn(stage, draw) for draw in range(seed, seed + draws)]
                except EvidenceError as error:
                    known[stage.weights] = replace(check, problem=str(error))
                else:
                    known[stage.weights] = self._compare(check, maps)
            yield replace(known[stage.weights], name=stage.name)

    def _redrawn(self, stage: Stage, seed: int) -> _Draw:
        changed = redraw(self.deployed, stage.weights, seed)
        return [self._map(changed, each.picture, each.target) for each in self.subjects]

    def _compare(self, check: Check, draws: Sequence[_Draw]) -> Check:
        """Rank correlations of new maps with the pictures' own."""
        values = [each.values for each in self.subjects]
        signed = _correlations(values, draws)
        if np.isnan(signed).any():
            name = self.subjects[int(np.isnan(signed).any(axis=0).argmax())].picture.name
            return replace(check, problem=f"{name}: the changed map has one value everywhere, nothing can be compared")
        if check.size_limit is not None:
            sizes = _correlations([np.abs(each) for each in values], [[np.abs(new) for new in draw] for draw in draws])
            # Magnitudes may all be equal where signs are not: then there is no more to compare.
            check = replace(check, size=float(np.nan_to_num(sizes).mean()))
        if len(values) > 1:
            check = replace(check, chance=float(np.nanmean(_correlations([*values[1:], values[0]], draws))))
        return self._judge(check, signed)

    def _judge(self, check: Check, numbers: FloatArray) -> Check:
        """The mean over draws and pictures (draws, pictures), and the picture that is worst."""
        by_picture = numbers.mean(axis=0)
        worst = int(by_picture.argmax())
        return replace(
            check,
            value=float(by_picture.mean()),
            worst=self.subjects[worst].picture.name,
            worst_value=float(by_picture[worst]),
        )


def _correlations(values: Sequence[FloatArray], draws: Sequence[_Draw]) -> FloatArray:
    """Rank correlations (draws, pictures)."""
    return np.array([[rank_correlation(*pair) for pair in zip(values, draw, strict=True)] for draw in draws])


def as_report(checks: Sequence[Check]) -> dict[str, Any]:
    """The checks as plain values, ready for JSON: null where unknown, numbers to four digits behind the point."""
    rows = [{**asdict(check), "passed": check.passed} for check in checks]
    for row in rows:
        for key, value in row.items():
            if isinstance(value, float):
                row[key] = round(value, 4) if np.isfinite(value) else None
    return {"passed": all(check.passed for check in checks), "checks": rows}


@dataclass(frozen=True)
class SanityTest:
    """A whole run of ``onnx-evidence sanity``: what is checked, on what.

    Attributes
    ----------
    deployed : DeployedModel
        The model.
    method : Explained
        The method.
    pictures : list of Photograph
        What is explained.
    draws : int
        New weights per stage.
    seed : int
        Of the first draw.
    """

    deployed: DeployedModel
    method: Explained
    pictures: list[Photograph]
    draws: int
    seed: int

    @property
    def maps(self) -> int:
        """Maps that are made at most."""
        return maps_to_make(self.method.stages, len(self.pictures), self.draws)

    def run(self, progress: Callable[[int], object] = lambda maps: None) -> dict[str, Any]:
        """Make all checks, and a report that is ready for JSON; ``progress`` and errors as in `check_sanity`."""
        checks = check_sanity(
            self.deployed,
            self.method,
            self.pictures,
            self.method.stages,
            in_bits=self.method.in_bits,
            draws=self.draws,
            seed=self.seed,
            progress=progress,
        )
        return {"method": self.method.explainer.settings.method, "draws": self.draws, **as_report(checks)}


def plan_sanity(
    deployed: DeployedModel, images: Sequence[Path], draws: int, *, seed: int, **settings: Any
) -> SanityTest:
    """Settle what can be refused before any map is made.

    Parameters
    ----------
    deployed : DeployedModel
        The model.
    images : sequence of Path
        Pictures, folders and patterns.
    draws, seed : int
        As of `check_sanity`; maps are drawn with the seed, too.
    settings
        Of the method, as `Explainer` takes them.

    Returns
    -------
    SanityTest

    Raises
    ------
    EvidenceError
        One of its leaves, if anything given cannot be used.
    """
    method = Explained(deployed, partial(Explainer, seed=seed, **settings))
    pictures = [deployed.read(path) for path in list_images(images, tell=True)]
    return SanityTest(deployed, method, pictures, draws, seed)
