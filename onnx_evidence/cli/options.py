"""Options that commands share, and what commands do alike: errors into exit codes, progress, verbosity."""

import errno
import logging
import math
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypedDict, TypeVar

import click
from tqdm import tqdm

from onnx_evidence.batch import Interrupt
from onnx_evidence.cli.golden import WITHIN
from onnx_evidence.cli.group import unwritten, with_remedy
from onnx_evidence.counting import MAX_WORK
from onnx_evidence.deployed import DeployedModel
from onnx_evidence.errors import EvidenceError, SettingError
from onnx_evidence.evidence import CLASS_KINDS
from onnx_evidence.files import visible
from onnx_evidence.methods import TOP
from onnx_evidence.pictures import MAX_PIXELS
from onnx_evidence.preprocessing import PREPROCESSED, PRESETS
from onnx_evidence.sessions import DEVICES

# Exit codes besides 0, done, 1, something given cannot be used, and 2, wrong usage.
SOME_FAILED = 3
INTERRUPTED = 130

P = ParamSpec("P")
R = TypeVar("R")

PATH = click.Path(path_type=Path)


class FiniteRange(click.FloatRange):
    """Numbers of a range; what is none, and what is larger than all, is in no range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """As click does, then refuse what is not finite."""
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number


def translate_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Turn our errors into one line on stderr and an exit code."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            with Interrupt(at_once=True):
                return command(*args, **kwargs)
        except SettingError as error:
            raise click.UsageError(visible(str(error))) from error
        except EvidenceError as error:
            raise click.ClickException(visible(with_remedy(str(error)))) from error
        except OSError as error:
            if error.errno == errno.EPIPE:  # nobody reads on, which click ends quietly
                raise
            raise click.ClickException(visible(unwritten(error))) from error
        except KeyboardInterrupt as error:
            click.echo(str(error) or "Interrupted", err=True)
            raise click.exceptions.Exit(INTERRUPTED) from error

    return run


def together(*options: Callable[..., Any]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Several options as one decorator, listed in this order."""

    def decorate(command: Callable[P, R]) -> Callable[P, R]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


device_options = together(
    click.option(
        "--device",
        type=click.Choice(list(DEVICES)),
        default="auto",
        show_default=True,
        help="Where to run; 'cuda' fails where there is no working GPU.",
    ),
    click.option(
        "--provider",
        "providers",
        multiple=True,
        metavar="NAME[:KEY=VALUE,...]",
        help="In place of a device: an execution provider of the installed ONNX Runtime, by its own name and with its "
        "own options (repeatable, the preferred first).",
    ),
)


max_work_option = click.option(
    "--max-work",
    type=click.IntRange(min=1),
    default=MAX_WORK,
    show_default=True,
    metavar="N",
    help="Multiply-adds that the model may take for a picture; one that takes more is refused before it is run. A node "
    "that is run counts 10^7, a number made of constants 40,000.",
)


class Opening(TypedDict, total=False):
    """What is given to open a model: the parameters of `DeployedModel` besides its file."""

    preprocess: str | None
    labels: Path | None
    device: str
    providers: tuple[str, ...]
    output: str | None
    classes: str | None
    max_work: int
    cache: bool


def opened(model: Path, opening: Opening) -> DeployedModel:
    """The model, until the command ends."""
    return click.get_current_context().with_resource(DeployedModel(model, **opening))


def read_files(model: Path, opening: Opening) -> list[Path]:
    """The files that are given to open a model."""
    given = (model, opening["labels"], opening["preprocess"])
    return [Path(each) for each in given if each is not None]


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

    added = together(
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
        device_options,
        click.option(
            "--output", metavar="NAME", help="Output of class scores; default: the only one that looks like it."
        ),
        click.option(
            "--classes",
            type=click.Choice(list(CLASS_KINDS)),
            help="Whether one class holds, or each label holds or not; default: as the end of the model says, "
            "exclusive where it gives logits.",
        ),
        max_work_option,
        click.option(
            "--cache/--no-cache",
            default=True,
            show_default=True,
            help="Whether what is measured of the model is kept for the next time, in the user's cache folder.",
        ),
    )
    return added(run)


# Options of the golden check.
golden_options = together(
    click.option(
        "--image", "images", type=PATH, multiple=True, help="A picture: what does the model say of it (repeatable)?"
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
        type=FiniteRange(0, 1),
        default=WITHIN,
        show_default=True,
        help="How near to the expected a probability must be.",
    ),
)


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


# Options of commands that work for a while.
verbosity_options = together(
    click.option("-v", "--verbose", is_flag=True, help="Say more on stderr."),
    click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors."),
)


def set_verbosity(quiet: bool, verbose: bool) -> None:
    """Settle how much is logged on stderr."""
    if quiet and verbose:
        raise click.UsageError("-q and -v contradict each other")
    level = logging.ERROR if quiet else logging.INFO if verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr, force=True)


def progress_bar(total: int | None, unit: str, quiet: bool) -> "tqdm[Any]":
    """A progress bar on stderr."""
    return tqdm(total=total, unit=unit, disable=_hidden(quiet), leave=False)


def _hidden(quiet: bool) -> bool | None:
    """Whether there is no bar; None hides it where stderr is no terminal, but cannot do without a stderr."""
    return True if quiet or sys.stderr is None else None


def pictures_bar(total: int, before: int, quiet: bool) -> "tqdm[Any]":
    """A progress bar on stderr that counts pictures, also parts of them: rate, time left, and a postfix."""
    shape = "{percentage:3.0f}% {bar} {n:.1f}/{total} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"
    return tqdm(
        total=total,
        initial=before,
        unit="picture",
        disable=_hidden(quiet),
        leave=False,
        bar_format=shape,
        mininterval=0.5,
    )


# Options that say how a folder of pictures is worked off; none of them changes a map.
batch_options = together(
    click.option(
        "--resume/--no-resume",
        default=True,
        show_default=True,
        help="Go on in a folder that holds maps of the same model and settings; --no-resume refuses it.",
    ),
    click.option(
        "--subfolder", is_flag=True, help="Write into a folder inside OUT that is named by method and settings."
    ),
    click.option(
        "--workers",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        metavar="N",
        help="Explain with N processes: one per GPU, or each with its share of the processors.",
    ),
    click.option(
        "--cluster",
        metavar="ADDRESS",
        help="Explain by the workers of a Dask cluster (tcp://scheduler:8786), which see the same files.",
    ),
    click.option(
        "--figures/--no-figures",
        default=True,
        show_default=True,
        help="Draw every map; without figures quick methods are two to three times as quick.",
    ),
    click.option(
        "--max-pixels",
        type=click.IntRange(min=1, max=MAX_PIXELS),
        default=MAX_PIXELS,
        show_default=True,
        metavar="N",
        help="Images with more pixels are failures; known from their headers, before they are decoded.",
    ),
    click.option(
        "--shard", metavar="I/N", help="Explain the I-th of N shares of the images; 'merge' joins the folders."
    ),
)
