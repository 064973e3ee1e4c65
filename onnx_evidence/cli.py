"""The command line: parse, one call, print. The only place where errors become exit codes.

Exit codes: 0 done, 1 something given cannot be used (one line on stderr says what), 2 wrong usage.
"""

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import click
from tqdm import tqdm

from onnx_evidence import output
from onnx_evidence.background_file import save_background
from onnx_evidence.choose import AUTO, resolve_layers
from onnx_evidence.deployed import DeployedModel
from onnx_evidence.errors import DataError, EvidenceError, SettingError, StoreError, TargetError
from onnx_evidence.fit import fit_background
from onnx_evidence.images import list_images
from onnx_evidence.inspection import inspect_model
from onnx_evidence.pipeline import TOP, Explainer
from onnx_evidence.settings import METHODS
from onnx_evidence.store import Manifest, check_writable, json_line

P = ParamSpec("P")
R = TypeVar("R")

_PATH = click.Path(path_type=Path)


def _translate_errors(command: Callable[P, R]) -> Callable[P, R]:
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


def _model_options(command: Callable[P, R]) -> Callable[P, R]:
    """Options of every command that opens a model."""
    for option in (
        click.option("--preprocess", type=_PATH, help="TOML file of the preprocessing; default: as the model records."),
        click.option("--labels", type=_PATH, help="Text file of class names, one per line; default: as recorded."),
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


_layer_option = click.option(
    "--layer",
    "layers",
    multiple=True,
    default=[AUTO],
    show_default=True,
    metavar="auto|NAME",
    help="Cut, as 'inspect' lists them (repeatable: maps are averaged in bits).",
)


def _verbosity_options(command: Callable[P, R]) -> Callable[P, R]:
    for option in (
        click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors."),
        click.option("-v", "--verbose", is_flag=True, help="Say more on stderr."),
    ):
        command = option(command)
    return command


def _set_verbosity(quiet: bool, verbose: bool) -> None:
    if quiet and verbose:
        raise click.UsageError("-q and -v contradict each other")
    level = logging.ERROR if quiet else logging.INFO if verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr, force=True)


def _bar(total: int | None, unit: str, quiet: bool) -> "tqdm[Any]":
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


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="onnx-evidence")
def main() -> None:
    """Explain what a deployed .onnx image classifier saw: signed evidence in bits, in the photograph's pixels."""


@main.command()
@click.argument("model", type=_PATH)
@_model_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
@_translate_errors
def inspect(model: Path, preprocess: Path | None, labels: Path | None, device: str, as_json: bool) -> None:
    """Show what MODEL takes and gives, and where it can be cut."""
    report = inspect_model(DeployedModel(model, preprocess=preprocess, labels=labels, device=device))
    click.echo(output.as_json(report) if as_json else output.inspection_table(report))


@main.command()
@click.argument("model", type=_PATH)
@click.argument("images", type=_PATH, nargs=-1, required=True)
@click.option("-o", "--output", "out", type=_PATH, required=True, help="Folder for maps, figures and manifest.jsonl.")
@click.option(
    "--target",
    "targets",
    multiple=True,
    default=[TOP],
    show_default=True,
    metavar="top1|ID|NAME",
    help="Class to explain (repeatable).",
)
@click.option("--versus", metavar="ID|NAME", help="Evidence for the target rather than this class.")
@click.option(
    "--method",
    type=click.Choice(list(METHODS)),
    default="window",
    show_default=True,
    help="; ".join(f"{name}: {method.summary}" for name, method in METHODS.items()) + ".",
)
@_layer_option
@click.option("--window", type=click.IntRange(min=1), metavar="K", help="Side of the window in cells of the cut.")
@click.option("--stride", type=click.IntRange(min=1), help="Cells from window to window; default: a third of K.")
@click.option("--samples", type=click.IntRange(min=1), metavar="N", help="Draws per window; 1 or an even number.")
@click.option(
    "--background",
    default="mean",
    show_default=True,
    metavar="FILE.npz|zero|mean",
    help="What is put in the window: draws from a fitted background, 0, or the picture's own channel means.",
)
@click.option("--laplace", type=_Laplace(), help="Zintgraf's correction, for comparison: training images, classes.")
@click.option("--batch-size", type=click.IntRange(min=1), default=32, show_default=True, help="Changes no map.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Key of all randomness.")
@_model_options
@click.option("--json", "as_json", is_flag=True, help="Print the manifest lines instead of the table.")
@_verbosity_options
@_translate_errors
def explain(
    model: Path,
    images: tuple[Path, ...],
    out: Path,
    targets: tuple[str, ...],
    versus: str | None,
    layers: tuple[str, ...],
    as_json: bool,
    quiet: bool,
    verbose: bool,
    **settings: Any,
) -> None:
    """Explain what MODEL saw in each of IMAGES (files or folders).

    Writes one lossless .npz and one figure per image and class, and one line each in OUT/manifest.jsonl.
    """
    _set_verbosity(quiet, verbose)
    explainer = Explainer(model, layer=layers, **settings)
    explainer.check_targets(targets, versus)
    paths = list_images(list(images), leave_out=out)
    check_writable(out)
    writer = output.Writer(out, Manifest(out), paths)
    if not quiet and not as_json:
        click.echo(output.explain_header(explainer))
    failed = 0
    with _bar(explainer.copies * len(paths), "pass", quiet or as_json) as bar:
        for path in paths:
            start = time.perf_counter()
            try:
                explanations = explainer.explain_all(path, targets, versus, bar.update)
            except (DataError, TargetError) as error:
                # One bad picture does not stop the others; the exit code tells.
                failed += 1
                click.echo(f"Error: {error}", err=True)
                continue
            entries = writer.write(path, explanations, time.perf_counter() - start)
            if as_json:
                click.echo("\n".join(json_line(entry) for entry in entries))
            elif not quiet:
                click.echo("\n".join(output.explain_row(entry) for entry in entries))
    if failed:
        raise click.exceptions.Exit(1)


@main.command()
@click.argument("model", type=_PATH)
@click.argument("folder", type=_PATH)
@click.option("-o", "--output", "out", type=_PATH, required=True, help="The .npz file to write.")
@_layer_option
@click.option("--window", type=click.IntRange(min=1), metavar="K", help="Window that will be drawn, in cells.")
@click.option("--patch", type=click.IntRange(min=1), metavar="L", help="Window and surroundings, in cells.")
@_model_options
@_verbosity_options
@_translate_errors
def background(
    model: Path,
    folder: Path,
    out: Path,
    layers: tuple[str, ...],
    window: int | None,
    patch: int | None,
    preprocess: Path | None,
    labels: Path | None,
    device: str,
    quiet: bool,
    verbose: bool,
) -> None:
    """Fit what features of MODEL look like from the pictures in FOLDER (100 to 500 are enough)."""
    _set_verbosity(quiet, verbose)
    deployed = DeployedModel(model, preprocess=preprocess, labels=labels, device=device)
    names = resolve_layers(layers, deployed.graph.cuts)
    paths = list_images([folder])
    if out.is_dir():
        raise StoreError(f"{out}: this is a folder; name the .npz file to write")
    check_writable(out.parent)
    with _bar(len(paths), "picture", quiet) as bar:
        file = fit_background(deployed, names, _ticking(paths, bar), window=window, patch=patch)
    save_background(out, file)
    if not quiet:
        click.echo(output.background_table(file.header, out))


def _ticking(paths: Iterable[Path], bar: "tqdm[Any]") -> Iterator[Path]:
    for path in paths:
        yield path
        bar.update()
