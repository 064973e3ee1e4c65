"""Options that decide a map, which are the settings of `methods.Settings`, and those that judge maps."""

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import click

from onnx_evidence.cli.options import PATH, FiniteRange, together
from onnx_evidence.cuts import AUTO
from onnx_evidence.evaluation import DEFAULT_METHODS, SUBSTRATES, TOLERANCE
from onnx_evidence.methods import METHODS, OPTIONS, Option, Settings

P = ParamSpec("P")
R = TypeVar("R")


class _WholeNumbers(click.ParamType):  # type: ignore[type-arg] # has its argument from click 8.4 on alone
    name = "N,K"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        try:
            observations, classes = (int(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not two whole numbers like 100000,1000", param, ctx)
        return observations, classes


def _type(option: Option) -> Any:
    """What click makes of a setting: by its type, its choices and its range."""
    if option.choices:
        return click.Choice(option.choices)
    if int in option.kinds:
        return click.IntRange(min=option.least, max=option.most)
    if float in option.kinds:
        return click.FloatRange(option.above, option.below, min_open=True, max_open=option.below is not None)
    return _WholeNumbers() if tuple[int, int] in option.kinds else str


def setting_option(name: str, **other: Any) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """The option of a setting, as `methods.OPTIONS` has it, but for what a command says otherwise."""
    option, default = OPTIONS[name], getattr(Settings, name)
    how = {
        "type": _type(option),
        "default": default,
        "show_default": default is not None,
        "multiple": isinstance(default, tuple),
        "metavar": option.metavar,
        "help": option.help,
    }
    return click.option(f"--{option.flag}", name, **{**how, **other})


def _in_order(after: str = "") -> list[str]:
    """Settings as they are listed for the command line."""
    listed = [name for name, option in OPTIONS.items() if option.after == after]
    return [each for name in listed for each in (name, *_in_order(name))]


_ROWS = "; ".join(f"{name}: {method.summary}" for name, method in METHODS.items())
_FROM_TABLE = {"method": {"type": click.Choice([AUTO, *METHODS]), "help": f"{OPTIONS['method'].help} {_ROWS}."}}
# Options that decide a map: all settings.
method_options = together(*(setting_option(name, **_FROM_TABLE.get(name, {})) for name in _in_order()))


def given(settings: dict[str, Any]) -> dict[str, Any]:
    """Those that were typed: a default that is typed says more than one that is not."""
    return {name: value for name, value in settings.items() if typed(name)}


def typed(name: str) -> bool:
    """Whether a parameter was given, be it at its default."""
    source = click.get_current_context().get_parameter_source(name)
    return source is not click.core.ParameterSource.DEFAULT


class _Names(click.ParamType):  # type: ignore[type-arg] # see above
    name = "A,B,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        return tuple(name.strip() for name in str(value).split(",") if name.strip())


# Options that decide what is measured of maps.
evaluation_options = together(
    click.option(
        "--methods",
        type=_Names(),
        help="Methods of 'explain', each at its defaults, or its qualities fast, default, best; default: "
        f"{','.join(DEFAULT_METHODS)}.",
    ),
    click.option("--reference", metavar="METHOD", help="What the others are compared with; default: the first method."),
    click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Take N pictures, spread over the folder."),
    click.option(
        "--truth",
        type=PATH,
        metavar="CSV",
        help="File name and class per line: explain that class; default: the one that the model gives.",
    ),
    click.option("--masks", type=PATH, metavar="DIR", help="PNG files named like the pictures, not 0 on the object."),
    click.option(
        "--boxes",
        type=PATH,
        metavar="CSV",
        help="File name, left, top, right and bottom of the object per line, in the photograph's pixels.",
    ),
    click.option(
        "--tolerance",
        type=FiniteRange(min=0),
        default=TOLERANCE,
        show_default=True,
        metavar="PIXELS",
        help="Of the pointing game, for an input of 224 pixels.",
    ),
    click.option(
        "--substrates",
        type=_Names(),
        default=",".join(SUBSTRATES),
        show_default=True,
        help="What removed pixels become.",
    ),
    click.option(
        "--mosaics",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        metavar="N",
        help="Also put four pictures, which the model knows at half their size, into one, N times: is the evidence for "
        "each class in its quarter?",
    ),
    click.option("--background", metavar="FILE.npz", help="A fitted background, for methods that need one."),
    click.option(
        "--stability/--no-stability",
        default=True,
        show_default=True,
        help="Make maps again, of changed pictures and with another seed; takes four times as long.",
    ),
    setting_option("seed"),
)
