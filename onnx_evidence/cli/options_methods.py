"""Options that choose a method, and those that judge maps."""

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import click

from onnx_evidence.cli.options import PATH, layer_option
from onnx_evidence.cuts import AUTO
from onnx_evidence.evaluation import DEFAULT_METHODS, SUBSTRATES, TOLERANCE
from onnx_evidence.evidence import MOST_SAMPLES, SCORES
from onnx_evidence.methods import DEFAULT_QUALITY, METHODS, PROJECTIONS, QUALITIES, STATISTICS, Settings

P = ParamSpec("P")
R = TypeVar("R")


class _Laplace(click.ParamType):  # type: ignore[type-arg] # has its argument from click 8.4 on alone
    name = "N,K"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        try:
            observations, classes = (int(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not two whole numbers like 100000,1000", param, ctx)
        return observations, classes


def method_options(command: Callable[P, R]) -> Callable[P, R]:
    """Options that decide a map."""
    for option in reversed(
        (
            click.option(
                "--method",
                type=click.Choice([AUTO, *METHODS]),
                default=AUTO,
                show_default=True,
                help="auto: integrated where all operators have a backward rule, else window; without a cut occlusion. "
                + "; ".join(f"{name}: {method.summary}" for name, method in METHODS.items())
                + ".",
            ),
            click.option(
                "--quality",
                type=click.Choice(list(QUALITIES)),
                default=DEFAULT_QUALITY,
                show_default=True,
                help="fast: two deep cuts, few steps; default: a cut in every stage; best: 'ordered', which takes "
                "some twenty times as long as the default.",
            ),
            layer_option,
            click.option("--window", type=click.IntRange(min=1), metavar="K", help="Side of the window, in cells."),
            click.option("--stride", type=click.IntRange(min=1), help="Cells between windows; default: a third of K."),
            click.option(
                "--samples",
                type=click.IntRange(min=1),
                metavar="N",
                help="Draws: per window (1 or an even number), of pictures from a folder, of noise or of masks.",
            ),
            click.option(
                "--background",
                metavar="mean|zero|blur|blur+mean|FILE.npz|FOLDER",
                help="What stands in for removed features: the picture's own channel means, 0, those of "
                "the blurred picture, a fitted background, or pictures drawn from a folder; default: the method's own, "
                "blur+mean for integrated.",
            ),
            click.option(
                "--statistic",
                type=click.Choice(STATISTICS),
                default=STATISTICS[0],
                show_default=True,
                help="Where in a fitted background a path starts: means per cell, per channel, or of its neighbours.",
            ),
            click.option(
                "--score",
                type=click.Choice(SCORES),
                default=SCORES[0],
                show_default=True,
                help="What gradients are taken of, and rise-evidence is counted in.",
            ),
            click.option(
                "--steps",
                type=click.IntRange(min=2),
                default=Settings.steps,
                show_default=True,
                help="Gradients that a path starts with.",
            ),
            click.option(
                "--completeness",
                type=click.FloatRange(0, 1, min_open=True, max_open=True),
                default=Settings.completeness,
                show_default=True,
                help="Share of the bits that a path may leave unaccounted; steps are added until it holds.",
            ),
            click.option(
                "--project",
                type=click.Choice(PROJECTIONS),
                default=PROJECTIONS[0],
                show_default=True,
                help="How cells are carried to pixels: through their measured fields, or the head's backward graph.",
            ),
            click.option(
                "--tolerance",
                type=click.FloatRange(min=0, min_open=True),
                metavar="BITS",
                help="Sample every window until its 95 % interval is this narrow, to either side; --samples N is then "
                f"the most that is drawn (default {MOST_SAMPLES}).",
            ),
            click.option("--laplace", type=_Laplace(), help="Zintgraf's correction: training images, classes."),
            click.option(
                "--batch-size", type=click.IntRange(min=1), default=32, show_default=True, help="Changes no map."
            ),
            click.option(
                "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Key of all randomness."
            ),
        )
    ):
        command = option(command)
    return command


class _Names(click.ParamType):  # type: ignore[type-arg] # see above
    name = "A,B,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        return tuple(name.strip() for name in str(value).split(",") if name.strip())


def evaluation_options(command: Callable[P, R]) -> Callable[P, R]:
    """Options that decide what is measured of maps."""
    for option in reversed(
        (
            click.option(
                "--methods",
                type=_Names(),
                help="Methods of 'explain', each at its defaults, or its qualities fast, default, best; default: "
                f"{','.join(DEFAULT_METHODS)}.",
            ),
            click.option(
                "--reference", metavar="METHOD", help="What the others are compared with; default: the first method."
            ),
            click.option(
                "--limit", type=click.IntRange(min=1), metavar="N", help="Take N pictures, spread over the folder."
            ),
            click.option(
                "--truth",
                type=PATH,
                metavar="CSV",
                help="File name and class per line: explain that class; default: the one that the model gives.",
            ),
            click.option(
                "--masks", type=PATH, metavar="DIR", help="PNG files named like the pictures, not 0 on the object."
            ),
            click.option(
                "--boxes",
                type=PATH,
                metavar="CSV",
                help="File name, left, top, right and bottom of the object per line, in the photograph's pixels.",
            ),
            click.option(
                "--tolerance",
                type=click.FloatRange(min=0),
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
            click.option("--background", metavar="FILE.npz", help="A fitted background, for methods that need one."),
            click.option(
                "--stability/--no-stability",
                default=True,
                show_default=True,
                help="Make maps again, of changed pictures and with another seed; takes four times as long.",
            ),
            click.option(
                "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Key of all randomness."
            ),
        )
    ):
        command = option(command)
    return command
