"""What can be set besides model and picture: every setting once, with its type, default, help, range and choices.

The options of the command line, the ranges that are held to, what finished work is known by, and what a receipt is
opened with again all come from here.
"""

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from numbers import Integral, Real
from types import NoneType
from typing import Annotated, Any, NamedTuple, TypedDict, get_args, get_type_hints

from onnx_evidence.cuts import AUTO, DEEP
from onnx_evidence.errors import SettingError
from onnx_evidence.evidence import FIRST_STEPS, MOST_SAMPLES, MOST_STEPS, SCORES
from onnx_evidence.vjp import RELEVANCE

# Backgrounds that need no file.
MEAN, ZERO, BLUR = "mean", "zero", "blur"
BOTH = f"{BLUR}+{MEAN}"
STATISTICS = ("position", "channel", "conditional")
PROJECTIONS = ("field", "backward")
AGREEMENT, PLAIN_MEAN, WITH_RELEVANCE = "agreement", "mean", "relevance"

DEFAULT_METHOD = "integrated"
# Points on the curve of faithfulness over time, and the settings behind each (docs/faithfulness.md).
DEFAULT_QUALITY = "default"
QUALITIES: dict[str, dict[str, Any]] = {
    "fast": {"method": DEFAULT_METHOD, "layers": (DEEP,), "background": MEAN, "steps": 5, "completeness": 0.99},
    DEFAULT_QUALITY: {},
    "best": {"method": "ordered"},
}


class _Kind(NamedTuple):
    """What values a setting may have: in words, whether one is of them, and how it becomes Python's own."""

    words: str
    holds: Callable[[Any], bool]
    plain: Callable[[Any], Any]


def _is_number(value: Any, kind: type = Real) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _are_names(value: Any) -> bool:
    several = isinstance(value, Sequence) and not isinstance(value, str) and len(value) > 0
    return several and all(isinstance(each, str) and each for each in value)


def _are_two(value: Any) -> bool:
    return isinstance(value, Sequence) and len(value) == 2 and all(_is_number(each, Integral) for each in value)


_KINDS: dict[Any, _Kind] = {
    int: _Kind("a whole number", partial(_is_number, kind=Integral), int),
    float: _Kind("a number", _is_number, float),
    str: _Kind("text", lambda value: isinstance(value, str | os.PathLike), os.fspath),
    tuple[str, ...]: _Kind("a name or a list of names", _are_names, tuple),
    tuple[int, int]: _Kind("two whole numbers", _are_two, lambda value: tuple(map(int, value))),
    NoneType: _Kind("None", lambda value: value is None, lambda _: None),
}


@dataclass(frozen=True)
class Option:
    """What there is to know of a setting besides its type and default.

    Attributes
    ----------
    help : str
        For the command line.
    metavar : str or None
        What stands for a value there.
    flag : str
        Its name there, where that is another one.
    after : str
        The setting that it is listed after there, where that is not the one above it.
    choices : tuple of str
        All values, where they are few.
    least, most : int or None
        The smallest whole number, and the largest.
    above, below : int or None
        What other numbers lie between.
    wrong : str
        What is said of a number out of range, where that is not how small it is.
    for_all : bool
        Whether every method has a use for it.
    decides : bool
        Whether finished work is known by its value: by that of what decides a map, unless something else tells it.
    before : int or str or None
        What held before there was the setting: what receipts without it mean.
    unused : int or str or None
        Its former default, which is in receipts of methods that have no use for it.
    kinds : tuple of type
        What its value may be, as its annotation has it.
    """

    help: str
    metavar: str | None = None
    flag: str = ""
    after: str = ""
    choices: tuple[str, ...] = ()
    least: int | None = None
    most: int | None = None
    above: int | None = None
    below: int | None = None
    wrong: str = ""
    for_all: bool = False
    decides: bool = True
    before: int | str | None = None
    unused: int | str | None = None
    kinds: tuple[Any, ...] = ()

    def plain(self, name: str, value: Any) -> Any:
        """The value as Python's own; SettingError where it is of no kind that the setting may have."""
        if isinstance(value, str) and not value:
            raise SettingError(f"{name.replace('_', ' ')} '' is empty: give a value, or leave it out")
        kinds = [_KINDS[kind] for kind in self.kinds]
        for kind in kinds:
            if kind.holds(value):
                return kind.plain(value)
        choices = f": take one of {', '.join(self.choices)}" if self.choices else ""
        raise SettingError(
            f"{name.replace('_', ' ')} {value!r} is not {' or '.join(kind.words for kind in kinds)}{choices}"
        )

    def check(self, name: str, value: Any) -> None:
        """Refuse a value of the setting of that name which is no choice, or out of range."""
        if value is None:
            return
        if self.choices and value not in self.choices:
            raise SettingError(f"{name} {value!r} is unknown: take one of {', '.join(self.choices)}")
        if self.least is not None:
            numbers = value if isinstance(value, tuple) else (value,)
            if min(numbers) < self.least:
                said = ",".join(map(str, numbers))
                wrong = self.wrong or f" is too small: at least {self.least}"
                raise SettingError(f"{name.replace('_', ' ')} {said}{wrong}")
        if self.most is not None and value > self.most:
            raise SettingError(f"{name.replace('_', ' ')} {value} is too large: at most {self.most}")
        if self.above is not None and not self.above < value < (inf if self.below is None else self.below):
            raise SettingError(f"{name} {value:g}{self.wrong}")


@dataclass(frozen=True)
class Settings:
    """Everything that decides a map besides model and picture; plain values, each explained by its `Option`.

    None stands for the method's own, or for nothing of the kind. New ones go to the end: receipts list them like this.
    """

    method: Annotated[
        str,
        Option(
            "auto: integrated where all operators have a backward rule, else window; without a cut occlusion.",
            for_all=True,
        ),
    ] = AUTO
    layers: Annotated[
        tuple[str, ...],
        Option(
            "Cut, as 'inspect' lists them (repeatable: maps are combined in bits); 'deep': those of 'auto' in the two "
            "deepest stages.",
            metavar="auto|deep|NAME",
            flag="layer",
            for_all=True,
            decides=False,  # the cuts do
        ),
    ] = (AUTO,)
    window: Annotated[int | None, Option("Side of the window, in cells.", metavar="K", least=1)] = None
    stride: Annotated[int | None, Option("Cells between windows; default: a third of K.", least=1)] = None
    samples: Annotated[
        int | None,
        Option(
            "Draws: per window (1 or an even number), of pictures from a folder, of noise or of masks.",
            metavar="N",
            least=1,
        ),
    ] = None
    background: Annotated[
        str | None,
        Option(
            "What stands in for removed features: the picture's own channel means, 0, those of the blurred picture, a "
            "fitted background, or pictures drawn from a folder; default: the method's own, blur+mean for integrated.",
            metavar=f"{MEAN}|{ZERO}|{BLUR}|{BOTH}|FILE.npz|FOLDER",
            decides=False,  # the content of a file does, by its hash
        ),
    ] = None
    statistic: Annotated[
        str,
        Option(
            "Where in a fitted background a path starts: means per cell, per channel, or of its neighbours.",
            choices=STATISTICS,
        ),
    ] = STATISTICS[0]
    score: Annotated[str, Option("What gradients are taken of, and rise-evidence is counted in.", choices=SCORES)] = (
        SCORES[0]
    )
    # All of a path's gradients are held until it is done: a thousand at the input of a common model are 600 MB.
    steps: Annotated[int, Option("Gradients that a path starts with.", least=2, most=1025, unused=9)] = FIRST_STEPS
    completeness: Annotated[
        float,
        Option(
            "Share of the bits that a path may leave unaccounted; steps are added until it holds.",
            above=0,
            below=1,
            wrong=" must lie between 0 and 1: 0.01 is one per cent",
        ),
    ] = 0.05
    project: Annotated[
        str,
        Option(
            "How cells are carried to pixels: through their measured fields, or the head's backward graph.",
            choices=PROJECTIONS,
        ),
    ] = PROJECTIONS[0]
    batch_size: Annotated[int, Option("Changes no map.", least=1, for_all=True, decides=False)] = 32
    seed: Annotated[int, Option("Key of all randomness.", least=0, for_all=True)] = 0
    laplace: Annotated[
        tuple[int, int] | None,
        Option(
            "Zintgraf's correction: training images, classes.",
            metavar="N,K",
            after="tolerance",
            least=1,
            wrong=": N and K are at least 1",
        ),
    ] = None
    tolerance: Annotated[
        float | None,
        Option(
            "Sample every window until its 95 % interval is this narrow, to either side; --samples N is then the most "
            f"that is drawn (default {MOST_SAMPLES}).",
            metavar="BITS",
            after="project",
            above=0,
            wrong=" is no width: give bits above 0, such as 0.1",
        ),
    ] = None
    quality: Annotated[
        str,
        Option(
            "fast: two deep cuts, few steps; default: a cut in every stage; best: 'ordered', which takes twenty to "
            "sixty times as long as the default, and is no better where that takes relevance (see --combine).",
            after="method",
            choices=tuple(QUALITIES),
            for_all=True,
            decides=False,  # what it settles does
        ),
    ] = DEFAULT_QUALITY
    combine: Annotated[
        str,
        Option(
            "How maps of several cuts and backgrounds become one: their mean; that concentrated where they agree; or "
            "where relevance (see --rules) agrees with them, too, be it one map. All keep the bits for and against. "
            "auto: relevance where the model has layer normalisation, as transformers have, or activations that are "
            "all smooth, such as SiLU; else agreement.",
            after="project",
            choices=(AUTO, AGREEMENT, PLAIN_MEAN, WITH_RELEVANCE),
            before=PLAIN_MEAN,
            unused=AGREEMENT,
        ),
    ] = AUTO
    rules: Annotated[
        str,
        Option(
            "Rules that hand relevance back: with the weights of attention held (Ali et al. 2022), or sharing it with "
            "what they weigh (Achtibat et al. 2024).",
            after="combine",
            choices=RELEVANCE,
            before=RELEVANCE[0],
        ),
    ] = RELEVANCE[0]
    most_steps: Annotated[
        int,
        Option(
            "Gradients that a path takes at the most; no more than --steps: just these, as an exported model does.",
            after="completeness",
            least=2,
            most=1025,
            before=MOST_STEPS,
        ),
    ] = MOST_STEPS

    def settled(self, given: Collection[str] = ()) -> "Settings":
        """With what the quality stands for filled in.

        Parameters
        ----------
        given : collection of str
            Fields that the user gave, be it with their defaults.

        Raises
        ------
        SettingError
            If a value is of another kind than its field's, there is no such quality, or it contradicts another field.
        """
        plain = replace(self, **{name: option.plain(name, getattr(self, name)) for name, option in OPTIONS.items()})
        OPTIONS["quality"].check("quality", plain.quality)
        chosen = QUALITIES[plain.quality]
        for name, value in chosen.items():
            said = getattr(plain, name)
            # A default that leaves it to us contradicts nothing.
            left = said == getattr(Settings, name) and (name not in given or said in (None, AUTO, (AUTO,)))
            if not left and said != value:
                flag = OPTIONS[name].flag
                raise SettingError(f"quality {plain.quality!r} settles the {flag}: drop --quality or --{flag}")
        return replace(plain, **chosen)

    @property
    def chosen_by_us(self) -> frozenset[str]:
        """Of method and layers, those that the user left to choose: to 'auto', or to the quality."""
        plain = {name for name in ("method", "layers") if getattr(self, name) == getattr(Settings, name)}
        return frozenset(plain | {"method", "layers"} & set(QUALITIES[self.quality]))

    def without_quality(self) -> "Settings":
        """As the user would have them without what the quality stands for."""
        plain = {field: getattr(Settings, field) for field in QUALITIES[self.quality]}
        return replace(self, **{**plain, "quality": DEFAULT_QUALITY})

    def check_values(self) -> None:
        """Refuse values that are no choices, or out of range, whatever the method."""
        for name, option in OPTIONS.items():
            option.check(name, getattr(self, name))


class Keywords(TypedDict, total=False):
    """The settings besides layers, as `Explainer` takes them by name."""

    method: str
    window: int | None
    stride: int | None
    samples: int | None
    background: str | None
    statistic: str
    score: str
    steps: int
    completeness: float
    project: str
    batch_size: int
    seed: int
    laplace: tuple[int, int] | None
    tolerance: float | None
    quality: str
    combine: str
    rules: str
    most_steps: int


def _options() -> dict[str, Option]:
    hints = get_type_hints(Settings, include_extras=True)
    options: dict[str, Option] = {name: hint.__metadata__[0] for name, hint in hints.items()}
    kinds = {name: (hint,) if hint in _KINDS else get_args(hint) for name, hint in get_type_hints(Settings).items()}
    return {
        name: replace(each, flag=each.flag or name.replace("_", "-"), kinds=kinds[name])
        for name, each in options.items()
    }


# By the name of the setting.
OPTIONS = _options()
