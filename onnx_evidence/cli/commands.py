"""The commands of a model: parse, one call, print."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnx_evidence.cli import tables
from onnx_evidence.cli.golden import expectations, golden_report
from onnx_evidence.cli.group import OnceCommand, say_error
from onnx_evidence.cli.inspection import inspect_model
from onnx_evidence.cli.options import (
    PATH,
    SOME_FAILED,
    Opening,
    golden_options,
    max_work_option,
    model_options,
    opened,
    progress_bar,
    read_files,
    set_verbosity,
    translate_errors,
    verbosity_options,
    versus_option,
)
from onnx_evidence.cli.options_methods import evaluation_options, method_options, setting_option
from onnx_evidence.cuts import AUTO, resolve_layers
from onnx_evidence.errors import DataError, EvidenceError, naming
from onnx_evidence.evaluation import (
    DRAWS,
    Plan,
    comparison,
    measure_cost,
    plan_sanity,
    plan_study,
    walk_photograph,
)
from onnx_evidence.files import check_folder, check_replaced, check_writable, finite_json, write_atomic
from onnx_evidence.graphs import with_weights
from onnx_evidence.intake import look
from onnx_evidence.methods import QUALITIES, TOP, fit_background, is_background, save_background
from onnx_evidence.pictures import list_images
from onnx_evidence.preprocessing import PRESETS, recipe
from onnx_evidence.vjp import build_vjp, is_backward

if TYPE_CHECKING:
    from tqdm import tqdm


@click.command(cls=OnceCommand)
@click.argument("model", type=PATH)
@golden_options
@model_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
@translate_errors
def inspect(
    model: Path, images: tuple[Path, ...], expected: tuple[str, ...], within: float, as_json: bool, opening: Opening
) -> None:
    """Show what MODEL takes and gives, and where it can be cut.

    With --expect, check its answers for known pictures: exit code 1 where one is wrong, as with wrong preprocessing.
    """
    known = expectations(expected, images)
    deployed = opened(model, opening)
    report = inspect_model(deployed)
    if images or known:
        report |= golden_report(deployed, images, known, within)
    click.echo(finite_json(report, indent=2) if as_json else tables.inspection_table(report))
    if failed := tables.golden_failure(report.get("golden", [])):
        raise click.ClickException(failed)


@click.command(cls=OnceCommand)
@click.argument("model", type=PATH)
@click.argument("image", type=PATH, required=False)
@click.option(
    "--quality",
    "qualities",
    type=click.Choice(list(QUALITIES)),
    multiple=True,
    default=[name for name in QUALITIES if name != "best"],
    show_default=True,
    help="What is timed (repeatable); 'best' takes twenty to sixty times as long as the default.",
)
@click.option("--repeats", type=click.IntRange(min=1), default=7, show_default=True, help="Maps of each quality.")
@click.option("--pictures", type=click.IntRange(min=1), default=1000, show_default=True, help="For the forecast.")
@model_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
@verbosity_options
@translate_errors
def bench(
    model: Path,
    image: Path | None,
    qualities: tuple[str, ...],
    repeats: int,
    pictures: int,
    opening: Opening,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Tell what maps of MODEL cost on this machine, and where the time goes.

    Times are medians, also in plain passes of the model that are taken beside them, as seconds differ from run to run.
    Of IMAGE, or of noise.
    """
    set_verbosity(quiet, verbose)
    chosen = list(dict.fromkeys(qualities))
    with progress_bar((repeats + 1) * len(chosen), "map", quiet or as_json) as bar:
        found = measure_cost(model, image, opening, chosen, repeats=repeats, pictures=pictures, done=bar.update)
    if as_json or not quiet:
        click.echo(finite_json(found, indent=2) if as_json else tables.cost_table(found))


@click.command(cls=OnceCommand)
@click.argument("model", type=PATH)
@click.argument("folder", type=PATH)
@click.option("-o", "--out", type=PATH, required=True, help="The .npz file to write.")
@setting_option("layers")
@setting_option("window", help="Window that will be drawn, in cells.")
@click.option("--patch", type=click.IntRange(min=1), metavar="L", help="Window and surroundings, in cells.")
@model_options
@verbosity_options
@translate_errors
def background(
    model: Path,
    folder: Path,
    out: Path,
    layers: tuple[str, ...],
    window: int | None,
    patch: int | None,
    opening: Opening,
    quiet: bool,
    verbose: bool,
) -> None:
    """Fit what features of MODEL look like from the pictures in FOLDER (100 to 500 are enough)."""
    set_verbosity(quiet, verbose)
    check_replaced(out, read_files(model, opening), "a fitted background", is_background)
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder of pictures: name one that holds 100 to 500")
    deployed = opened(model, opening)
    # For every method: what integration takes by itself, and what removal of windows does.
    cuts = [
        resolve_layers(layers, deployed.graph.cuts, integrate=each, is_read=deployed.is_read) for each in (True, False)
    ]
    names = list(dict.fromkeys(name for each in cuts for name in each))
    paths = list_images([folder], tell=True)
    check_writable(out.parent)
    with progress_bar(len(paths), "picture", quiet) as bar:
        file = fit_background(deployed, names, _ticking(paths, bar), window=window, patch=patch)
    save_background(out, file)
    if not quiet:
        click.echo(tables.background_table(file.header, out))


@click.command(cls=OnceCommand)
@click.argument("model", type=PATH)
@click.argument("folder", type=PATH)
@click.option("-o", "--out", type=PATH, required=True, help="Folder for numbers, summary and curves.")
@evaluation_options
@model_options
@verbosity_options
@translate_errors
def evaluate(
    model: Path,
    folder: Path,
    out: Path,
    substrates: tuple[str, ...],
    stability: bool,
    tolerance: float,
    seed: int,
    mosaics: int,
    opening: Opening,
    quiet: bool,
    verbose: bool,
    **given: Any,
) -> None:
    """Measure how faithful maps of MODEL are, on the pictures in FOLDER, beside a random map and a centre prior.

    Writes OUT/numbers.csv (per picture), summary.json (means, 95 % intervals, paired differences) and curves.png.
    """
    set_verbosity(quiet, verbose)
    check_folder(out)
    plan = Plan(substrates, stability, tolerance, seed, mosaics=mosaics)
    deployed = opened(model, opening)
    study = plan_study(deployed, folder, out, plan, left_out=_tell_left_out, **given)
    with progress_bar(study.maps, "map", quiet) as bar:
        results = study.run(lambda path, error: say_error(naming(str(path), error)), bar.update)
        answered = study.ask(bar.update)
    summary = study.write(out, results, answered)
    if not quiet:
        click.echo(comparison(summary))
    if len(results) < len(study.pictures):
        raise click.exceptions.Exit(SOME_FAILED)


def _tell_left_out(method: str, error: EvidenceError) -> None:
    click.echo(f"Warning: method {method!r} is left out, it cannot be computed: {error}", err=True)


@click.command(cls=OnceCommand)
@click.argument("model", type=PATH)
@click.argument("images", type=PATH, nargs=-1, required=True)
@click.option(
    "--draws", type=click.IntRange(min=1), default=DRAWS, show_default=True, help="New weights for every check."
)
@method_options
@model_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
@verbosity_options
@translate_errors
def sanity(
    model: Path,
    images: tuple[Path, ...],
    draws: int,
    opening: Opening,
    layers: tuple[str, ...],
    as_json: bool,
    quiet: bool,
    verbose: bool,
    **settings: Any,
) -> None:
    """Check that maps of IMAGES follow what MODEL learnt: with its weights re-drawn they must become others.

    They must differ for other classes too, and show little in a blank picture. Exit code 0 if all checks pass, 1 if one
    fails or cannot be made.
    """
    set_verbosity(quiet, verbose)
    deployed = opened(model, opening)
    test = plan_sanity(deployed, images, draws, layer=layers, **settings)
    with progress_bar(test.maps, "map", quiet or as_json) as bar:
        report = test.run(bar.update)
    if as_json or not quiet:
        click.echo(finite_json(report, indent=2) if as_json else tables.sanity_table(report))
    if not report["passed"]:
        raise click.exceptions.Exit(1)


@click.command(cls=OnceCommand)
@click.argument("model", type=PATH)
@click.argument("image", type=PATH)
@click.option("-o", "--out", type=PATH, required=True, help="Folder for links.png and links.json.")
@click.option("--target", default=TOP, show_default=True, metavar="top1|ID|NAME", help="Class to explain.")
@versus_option
@click.option(
    "--layer",
    default=AUTO,
    show_default=True,
    metavar="auto|deep|NAME",
    help="Cut; of several the middle one.",
)
@model_options
@translate_errors
def links(
    model: Path,
    image: Path,
    out: Path,
    target: str,
    versus: str | None,
    layer: str,
    opening: Opening,
) -> None:
    """Walk from removal of windows to the plain gradient on one IMAGE, one simplification at a time."""
    check_folder(out)
    deployed = opened(model, opening)
    walked = walk_photograph(deployed, image, target, versus, layer)
    walked.write(out)
    click.echo(tables.links_table(walked.report()))


@click.command(cls=OnceCommand)
@click.argument("model", type=PATH)
@click.option("-o", "--out", type=PATH, required=True, help="The .onnx file to write.")
@click.option("--layer", metavar="NAME", help="Cut; default: the model's input.")
@model_options
@translate_errors
def gradient(model: Path, out: Path, layer: str | None, opening: Opening) -> None:
    """Save the backward graph of MODEL as an .onnx file of standard operators.

    It takes what the model (behind the cut) takes, a 'cotangent' and a 0/1 mask 'rest' of classes (N, K), and gives the
    'gradient' of cotangent . logits - log-sum-exp of the rest, and the logits as 'value'.
    """
    check_replaced(out, read_files(model, opening), "a backward graph of 'gradient'", is_backward)
    deployed = opened(model, opening)
    cut = deployed.graph.find(layer or deployed.model.input_name)
    backward = build_vjp(deployed.graph.tail(cut), rest=True)
    write_atomic(out, lambda stream: stream.write(with_weights(backward).SerializeToString()))
    click.echo(f"{out}: {len(backward.graph.node)} nodes, from {cut.name!r} to the logits and back")


@click.command(cls=OnceCommand, epilog="  ".join(f"{name}: {row.summary}." for name, row in PRESETS.items()))
@click.argument("model", type=PATH)
@click.option("--preprocess", metavar="NAME|FILE|FOLDER", help="As of the other commands.")
@click.option("--template", is_flag=True, help="Print a file to edit even where nothing is recorded.")
@max_work_option
@translate_errors
def preprocess(model: Path, preprocess: str | None, template: bool, max_work: int) -> None:
    """Print what is done to pictures before MODEL sees them, and where that comes from: TOML for --preprocess FILE."""
    found, wanted = look(model, preprocess, max_work)
    click.echo(recipe(found, wanted, model, template=template))


def _ticking(paths: Iterable[Path], bar: "tqdm[Any]") -> Iterator[Path]:
    for path in paths:
        yield path
        bar.update()
