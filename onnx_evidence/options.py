"""Options that commands share, and what commands do alike: errors into exit codes, progress, verbosity."""

import logging
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypedDict, TypeVar

import click
from tqdm import tqdm

from onnx_evidence.choose import AUTO
from onnx_evidence.class_kind import CLASS_KINDS
from onnx_evidence.errors import EvidenceError, SettingError
from onnx_evidence.evaluation.loop import TOLERANCE
from onnx_evidence.evaluation.mappers import DEFAULT_METHODS
from onnx_evidence.evaluation.substrates import SUBSTRATES
from onnx_evidence.golden import WITHIN
from onnx_evidence.methods import METHODS
from onnx_evidence.preprocessing.presets import PREPROCESSED, PRESETS
from onnx_evidence.questions import TOP
from onnx_evidence.score import SCORES
from onnx_evidence.sequential import MOST_SAMPLES
from onnx_evidence.settings import DEFAULT_QUALITY, PROJECTIONS, QUALITIES, STATISTICS, Settings

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


class Opening(TypedDict, total=False):
    """What is given to open a model: the parameters of `DeployedModel` besides its file."""

    preprocess: str | None
    labels: Path | None
    device: str
    output: str | None
    classes: str | None


def model_options(command: Callable[..., R]) -> Callable[..., R]:
    """Options of every command that opens a model; the command is given them together, as ``opening``."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> R:
        if kwargs.pop("preprocessed"):
            if kwargs["preprocess"] is not None:
                raise click.UsageError("--preprocessed says that nothing is left to preprocess: leave --preprocess out")
            kwargs["preprocess"] = PREPROCESSED
        given: Any = {name: kwargs.pop(name) for name in Opening.__annotations__}
        return command(*args, **kwargs, opening=given)

    for option in (
        click.option(
            "--preprocess",
            metavar="|".join([*PRESETS, "FILE", "FOLDER"]),
            help="What is done to pictures: a preset, a TOML or JSON file, or a folder with Hugging Face's or timm's; "
            "default: as recorded in the model or beside it.",
        ),
        click.option(
            "--preprocessed", is_flag=True, help="Pictures are .npy files (float32) of the model's input itself."
        ),
        click.option("--labels", type=PATH, help="Text file of class names, one per line; default: as recorded."),
        click.option(
            "--device",
            type=click.Choice(["auto", "cpu", "cuda"]),
            default="auto",
            show_default=True,
            help="Where to run; 'cuda' fails where there is no working GPU.",
        ),
        click.option(
            "--output", metavar="NAME", help="Output of class scores; default: the only one that looks like it."
        ),
        click.option(
            "--classes",
            type=click.Choice(list(CLASS_KINDS)),
            help="Whether one class holds, or each label holds or not; default: as the end of the model says, "
            "exclusive where it gives logits.",
        ),
    ):
        run = option(run)
    return run


def golden_options(command: Callable[P, R]) -> Callable[P, R]:
    """Options of the golden check."""
    for option in reversed(
        (
            click.option(
                "--image",
                "images",
                type=PATH,
                multiple=True,
                help="A picture: what does the model say of it (repeatable)?",
            ),
            click.option(
                "--expect",
                "expected",
                multiple=True,
                metavar="CLASS[:P]|FILE",
                help="What it should say of --image: a class, or its probability too; or a .csv or .json file of "
                "'picture', 'label' and 'probability' (repeatable).",
            ),
            click.option(
                "--within",
                type=click.FloatRange(0, 1),
                default=WITHIN,
                show_default=True,
                help="How near to the expected a probability must be.",
            ),
        )
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
    metavar="auto|deep|NAME",
    help="Cut, as 'inspect' lists them (repeatable: maps are averaged in bits); 'deep': those of 'auto' in the two "
    "deepest stages.",
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
            click.option(
                "--quality",
                type=click.Choice(list(QUALITIES)),
                default=DEFAULT_QUALITY,
                show_default=True,
                help="fast: two deep cuts, few steps; default: a cut in every stage; best: 'ordered', which takes "
                "some forty times as long as the default.",
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


class _Names(click.ParamType[tuple[str, ...]]):
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
