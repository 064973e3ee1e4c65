"""Options that commands share, and what commands do alike: errors into exit codes, progress, verbosity."""

import logging
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import click
from tqdm import tqdm

from onnx_evidence.choose import AUTO
from onnx_evidence.errors import EvidenceError, SettingError
from onnx_evidence.questions import TOP
from onnx_evidence.score import SCORES
from onnx_evidence.settings import METHODS, PROJECTIONS, STATISTICS, Settings

P = ParamSpec("P")
R = TypeVar("R")

PATH = click.Path(path_type=Path)


def translate_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Turn our errors into one line on stderr and an exit code."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except SettingError as error:
            raise click.UsageError(str(error)) from error
        except EvidenceError as error:
            raise click.ClickException(str(error)) from error

    return run


def model_options(command: Callable[P, R]) -> Callable[P, R]:
    """Options of every command that opens a model."""
    for option in (
        click.option("--preprocess", type=PATH, help="TOML file of the preprocessing; default: as the model records."),
        click.option("--labels", type=PATH, help="Text file of class names, one per line; default: as recorded."),
        click.option(
            "--device",
            type=click.Choice(["auto", "cpu", "cuda"]),
            default="auto",
            show_default=True,
            help="Where to run; 'cuda' fails where there is no working GPU.",
        ),
    ):
        command = option(command)
    return command


target_option = click.option(
    "--target",
    "targets",
    multiple=True,
    default=[TOP],
    show_default=True,
    metavar="top1|ID|NAME",
    help="Class to explain (repeatable).",
)
versus_option = click.option("--versus", metavar="ID|NAME", help="Evidence for the target rather than this class.")
layer_option = click.option(
    "--layer",
    "layers",
    multiple=True,
    default=[AUTO],
    show_default=True,
    metavar="auto|NAME",
    help="Cut, as 'inspect' lists them (repeatable: maps are averaged in bits).",
)


def verbosity_options(command: Callable[P, R]) -> Callable[P, R]:
    """Options of commands that work for a while."""
    for option in (
        click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors."),
        click.option("-v", "--verbose", is_flag=True, help="Say more on stderr."),
    ):
        command = option(command)
    return command


def set_verbosity(quiet: bool, verbose: bool) -> None:
    """Settle how much is logged on stderr."""
    if quiet and verbose:
        raise click.UsageError("-q and -v contradict each other")
    level = logging.ERROR if quiet else logging.INFO if verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr, force=True)


def progress_bar(total: int | None, unit: str, quiet: bool) -> "tqdm[Any]":
    """A progress bar on stderr."""
    # disable=None hides the bar where stderr is no terminal.
    return tqdm(total=total, unit=unit, disable=True if quiet else None, leave=False)


class _Laplace(click.ParamType[tuple[int, int]]):
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
                help="auto: integrated where every operator has a backward rule, window elsewhere. "
                + "; ".join(f"{name}: {method.summary}" for name, method in METHODS.items())
                + ".",
            ),
            layer_option,
            click.option("--window", type=click.IntRange(min=1), metavar="K", help="Side of the window, in cells."),
            click.option("--stride", type=click.IntRange(min=1), help="Cells between windows; default: a third of K."),
            click.option(
                "--samples",
                type=click.IntRange(min=1),
                metavar="N",
                help="Draws: per window (1 or an even number), of pictures from a folder, or of noise.",
            ),
            click.option(
                "--background",
                metavar="mean|zero|blur|FILE.npz|FOLDER",
                help="What stands in for removed features: the picture's own channel means (the default), 0, those of "
                "the blurred picture, a fitted background, or pictures drawn from a folder.",
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
                help="What gradients are taken of.",
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
