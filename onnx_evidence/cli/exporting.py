"""The command that compiles an explanation into a model: parse, one call, print."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from onnx_evidence.cli.group import OnceCommand
from onnx_evidence.cli.options import (
    PATH,
    Opening,
    model_options,
    opened,
    progress_bar,
    read_files,
    set_verbosity,
    translate_errors,
    verbosity_options,
)
from onnx_evidence.cli.options_methods import given, setting_option
from onnx_evidence.cli.tables import export_table
from onnx_evidence.deployed import DeployedModel
from onnx_evidence.explainer import Explainer
from onnx_evidence.export import INPUT, RUNNER_UP, STEPS, WINNER, Asked, export_model, is_exported
from onnx_evidence.files import check_replaced, finite_json, write_bytes
from onnx_evidence.methods import METHODS, QUALITIES

# Before what is done to pictures, where that goes into the file.
INSIDE = "inside"
_METHODS = ("integrated", "integrated-gradients")
_SETTINGS = ("layers", "background", "statistic", "score", "combine", "rules")


def _settings(command: Any) -> Any:
    rows = "; ".join(f"{name}: {METHODS[name].summary}" for name in _METHODS)
    command = setting_option("steps", default=None, show_default=False, help=f"Of every path; default: {STEPS}.")(
        command
    )
    for name in reversed(_SETTINGS):
        command = setting_option(name)(command)
    qualities = [name for name in QUALITIES if name != "best"]
    command = setting_option("quality", type=click.Choice(qualities), help="As of 'explain', with steps as told.")(
        command
    )
    return setting_option("method", type=click.Choice(_METHODS), default=_METHODS[0], help=f"{rows}.")(command)


@click.command(cls=OnceCommand)
@click.argument("model", type=PATH)
@click.option("-o", "--out", type=PATH, required=True, help="The .onnx file to write.")
@click.option(
    "--target",
    "targets",
    multiple=True,
    default=(WINNER,),
    show_default=True,
    metavar=f"{WINNER}|{INPUT}|CLASS",
    help="Class to explain (repeatable): the one that the model gives, one that is given with every picture as a "
    "second input, or one by number or name.",
)
@click.option(
    "--versus",
    metavar=f"{RUNNER_UP}|CLASS",
    help="Explain rather than this class, or than the likeliest besides.",
)
@_settings
@click.option(
    "--at-once",
    type=click.IntRange(min=1),
    default=Asked.at_once,
    show_default=True,
    metavar="N",
    help="Steps that are run together: fewer take less memory.",
)
@click.option(
    "--pixels/--cells",
    default=True,
    show_default=True,
    help="Evidence in pixels of the input, or on the grid of the one cut that --layer names, which is much smaller.",
)
@model_options
@click.option("--json", "as_json", is_flag=True, help="Print what is recorded in the file.")
@verbosity_options
@translate_errors
def export(
    model: Path,
    out: Path,
    targets: tuple[str, ...],
    versus: str | None,
    at_once: int,
    pixels: bool,
    opening: Opening,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    **settings: Any,
) -> None:
    """Write MODEL with its explanation in it: a model of standard operators that gives evidence wherever it is run.

    Its own outputs stay as they are. Further ones are 'evidence' (N, targets, height, width), bits per pixel of the
    input, and 'budget' (N, targets, 5): bits with all features, without, for, against, and unaccounted. Both are held
    against 'explain' before anything is written.

    With --preprocess inside (or inside:PRESET, inside:FILE) it takes decoded pictures of any size, uint8 (N, height,
    width, 3), and gives 'evidence_in_picture' in their pixels too.
    """
    set_verbosity(quiet, verbose)
    decoded, opening = _inside(opening)
    check_replaced(out, read_files(model, opening), "a model of 'export'", is_exported)
    deployed = opened(model, opening)
    wanted = given(settings)
    settled = QUALITIES[wanted.get("quality", "default")]
    # What was typed goes first, so that a quality that settles it can object.
    steps = wanted.get("steps") or settled.get("steps") or STEPS
    wanted.setdefault("method", settled.get("method", _METHODS[0]))
    layers = wanted.pop("layers", None)
    more = {"steps": steps, "most_steps": steps, **({"layer": layers} if layers else {})}
    asked = replace(_asked(deployed, targets, versus, at_once), decoded=decoded, cells=not pixels)
    with Explainer(deployed, **{**wanted, **more}) as explainer, progress_bar(None, "picture", quiet or as_json) as bar:
        found = export_model(explainer, asked, done=bar.update)
    write_bytes(out, found.data)
    if as_json or not quiet:
        click.echo(finite_json(found.info, indent=2) if as_json else export_table(found.info, out, found.growth))


def _inside(opening: Opening) -> tuple[bool, Opening]:
    """Whether what is done to pictures goes into the file; and what is given to open the model then."""
    word, _, rest = (opening["preprocess"] or "").partition(":")
    if word != INSIDE:
        return False, opening
    inside = opening.copy()
    inside["preprocess"] = rest or None
    return True, inside


def _asked(deployed: DeployedModel, targets: tuple[str, ...], versus: str | None, at_once: int) -> Asked:
    """Classes by their numbers."""
    chosen: list[int | str] = [each if each in (WINNER, INPUT) else deployed.find_class(each) for each in targets]
    rival = versus if versus is None or versus == RUNNER_UP else deployed.find_class(versus)
    return Asked(list(dict.fromkeys(chosen)), rival, at_once)
