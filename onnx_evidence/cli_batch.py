"""The commands about folders of pictures: explain, and what is done with its results."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnx_evidence import tables
from onnx_evidence.batch import fingerprint
from onnx_evidence.batch.folder import ResultFolder
from onnx_evidence.batch.interrupt import Interrupt
from onnx_evidence.batch.loop import Progress, Runner, Tally, here, run_jobs
from onnx_evidence.batch.plan import Item, check_questions, look, make_plan, parse_shard, take_shard
from onnx_evidence.batch.pool import spawned
from onnx_evidence.batch.work import Job, Outcome, Recipe
from onnx_evidence.errors import StoreError
from onnx_evidence.options import (
    PATH,
    SOME_FAILED,
    batch_options,
    method_options,
    model_options,
    pictures_bar,
    say_error,
    set_verbosity,
    target_option,
    translate_errors,
    verbosity_options,
    versus_option,
)
from onnx_evidence.pipeline import Explainer
from onnx_evidence.store import json_line

if TYPE_CHECKING:
    from tqdm import tqdm


@click.command()
@click.argument("model", type=PATH)
@click.argument("images", type=PATH, nargs=-1, required=True)
@click.option("-o", "--output", "out", type=PATH, required=True, help="Folder for maps, figures and manifest.jsonl.")
@target_option
@versus_option
@method_options
@batch_options
@model_options
@click.option("--json", "as_json", is_flag=True, help="Print the manifest lines instead of the table.")
@verbosity_options
@translate_errors
def explain(
    model: Path,
    images: tuple[Path, ...],
    out: Path,
    targets: tuple[str, ...],
    versus: str | None,
    layers: tuple[str, ...],
    resume: bool,
    subfolder: bool,
    shard: str | None,
    workers: int,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    **settings: Any,
) -> None:
    """Explain what MODEL saw in each of IMAGES: files, folders, 'patterns*', or lists of files (.txt, .csv).

    Writes one lossless .npz and one figure per image and class, and one line each in OUT/manifest.jsonl. The same
    command again goes on where it stopped. An image that cannot be explained is a line in OUT/failures.jsonl, and exit
    code 3.
    """
    set_verbosity(quiet, verbose)
    part = None if shard is None else parse_shard(shard)
    recipe = Recipe(model, {"layer": layers, **settings})
    with Interrupt() as interrupt:
        explainer = recipe.open()
        items = make_plan(images, targets, versus, leave_out=out)
        check_questions(items, explainer.check_targets)
        items = items if part is None else take_shard(items, *part)
        configuration = fingerprint.of_explainer(explainer)
        place = out / f"{explainer.settings.method}-{fingerprint.digest(configuration)[:12]}" if subfolder else out
        with ResultFolder(place, configuration) as folder:
            _refuse_old(folder, resume)
            run = _Run(folder, explainer, _Say(quiet, as_json))
            runner = here(explainer) if workers == 1 else spawned(recipe, workers, explainer.deployed.device.name)
            tally = run.go(items, runner, interrupt)
    if tally.failed:
        raise click.exceptions.Exit(SOME_FAILED)


def _refuse_old(folder: ResultFolder, resume: bool) -> None:
    if not resume and folder.manifest.lines:
        raise StoreError(
            f"{folder.path}: holds {len(folder.manifest.lines)} maps already: take another -o, or drop --no-resume"
        )


class _Say:
    """What is printed of a run."""

    def __init__(self, quiet: bool, as_json: bool) -> None:
        self.quiet, self.as_json = quiet, as_json
        self.table = not quiet and not as_json

    def entries(self, entries: Sequence[dict[str, Any]]) -> None:
        for line in (line for entry in entries for line in tables.unmet(entry)):
            click.echo(f"Warning: {line}", err=True)
        for entry in entries:
            if self.as_json:
                click.echo(json_line(entry))
            elif self.table:
                click.echo(tables.explain_row(entry))


class _Run:
    """One run into one folder, with its progress bar."""

    def __init__(self, folder: ResultFolder, explainer: Explainer, say: _Say) -> None:
        self.folder, self.explainer, self.say = folder, explainer, say
        self._failed, self._shown = 0, 0.0
        self._bar: tqdm[Any]

    def go(self, items: Sequence[Item], runner: Runner, interrupt: Interrupt) -> Tally:
        """Do what is left of a plan."""
        looked = []
        for item in items:
            interrupt.check()
            looked.append(look(item))
        jobs, damaged = self.folder.plan(looked, self.explainer)
        if damaged:
            click.echo(f"Warning: {damaged} listed maps or their figures were gone or changed: done again", err=True)
        if self.say.table:
            click.echo(tables.explain_header(self.explainer))
        tally = self._work(jobs, len(items), runner, interrupt)
        before = len(items) - len(jobs)
        if self.say.table and (before or tally.failed):
            click.echo(tables.run_summary(len(items), tally.done, before, tally.failed))
        return tally

    def _work(self, jobs: Sequence[Job], total: int, runner: Runner, interrupt: Interrupt) -> Tally:
        questions = max((len(job.item.targets) for job in jobs), default=1)
        self._progress = Progress(self.explainer.rows(questions))
        with pictures_bar(total, total - len(jobs), self.say.quiet or self.say.as_json) as self._bar:
            return run_jobs(
                jobs,
                self.folder,
                runner,
                tick=self._tick,
                check=interrupt.check,
                explained=self._explained,
                failed=self._fail,
            )

    def _tick(self, number: int, copies: int) -> None:
        self._progress.tick(number, copies)
        self._show()

    def _show(self) -> None:
        self._bar.update(self._progress.pictures - self._shown)
        self._shown = self._progress.pictures

    def _explained(self, outcome: Outcome, entries: list[dict[str, Any]]) -> None:
        self._progress.finish(outcome.job.number)
        self._bar.clear()
        self.say.entries(entries)
        self._show()

    def _fail(self, outcome: Outcome) -> None:
        self._progress.finish(outcome.job.number)
        self._failed += 1
        self._bar.clear()
        say_error(outcome.reason)
        self._bar.set_postfix(failed=self._failed, refresh=False)
        self._show()
