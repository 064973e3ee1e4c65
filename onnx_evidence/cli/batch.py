"""The commands about folders of pictures: explain, and what is done with its results."""

import re
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnx_evidence.batch import (
    TOLERANCE,
    Cohort,
    Hand,
    Interrupt,
    Item,
    Job,
    Origin,
    Outcome,
    Progress,
    Recipe,
    ResultFolder,
    Runner,
    Sample,
    Tally,
    check_hashes,
    check_questions,
    draw,
    finder,
    fingerprint,
    here,
    is_table,
    look,
    make_plan,
    on_cluster,
    parse_shard,
    recompute_all,
    report,
    run_jobs,
    spawned,
    summarise,
    take_shard,
    together,
    verification,
    write_table,
)
from onnx_evidence.batch import merge as join
from onnx_evidence.cli import tables
from onnx_evidence.cli.group import OnceCommand, say_error
from onnx_evidence.cli.options import (
    PATH,
    SOME_FAILED,
    FiniteRange,
    Opening,
    batch_options,
    device_options,
    max_work_option,
    model_options,
    pictures_bar,
    progress_bar,
    set_verbosity,
    target_option,
    translate_errors,
    verbosity_options,
    versus_option,
)
from onnx_evidence.cli.options_methods import given, method_options, setting_option, typed
from onnx_evidence.cli.tables import checked_table
from onnx_evidence.errors import DataError, StoreError
from onnx_evidence.explainer import Explainer
from onnx_evidence.export import check_exported
from onnx_evidence.files import check_replaced, finite_json, json_line, shown
from onnx_evidence.sessions import settle_device

if TYPE_CHECKING:
    from tqdm import tqdm


@click.command(cls=OnceCommand)
@click.argument("model", type=PATH)
@click.argument("images", type=PATH, nargs=-1, required=True)
@click.option("-o", "--out", type=PATH, required=True, help="Folder for maps, figures and manifest.jsonl.")
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
    cluster: str | None,
    max_pixels: int,
    figures: bool,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    opening: Opening,
    **settings: Any,
) -> None:
    """Explain what MODEL saw in each of IMAGES: files, folders, 'patterns*', or lists of files (.txt, .csv).

    Writes one lossless .npz and one figure per image and class, and one line each in OUT/manifest.jsonl. The same
    command again goes on where it stopped. An image that cannot be explained is a line in OUT/failures.jsonl, and exit
    code 3; where none is a file that can be opened, nothing is written, and it is 1.
    """
    set_verbosity(quiet, verbose)
    part = None if shard is None else parse_shard(shard)
    if cluster is not None and workers > 1:
        raise click.UsageError("--cluster has workers of its own: leave --workers out")
    recipe = Recipe(model, {"layer": layers, **opening, **given(settings)})
    with Interrupt() as interrupt, recipe.open() as explainer:
        items = make_plan(images, targets if typed("targets") else None, versus, leave_out=out)
        check_questions(items, explainer.check_targets)
        items = together(items, explainer.deployed.find_class)
        items = items if part is None else take_shard(items, *part)
        items = _looked(items, interrupt)
        configuration = fingerprint.of_explainer(explainer)
        recipe = replace(recipe, configuration=fingerprint.digest(configuration))
        place = out / f"{explainer.settings.method}-{fingerprint.digest(configuration)[:12]}" if subfolder else out
        with ResultFolder(place, configuration) as folder, ExitStack() as held:
            _refuse_old(folder, resume)
            run = _Run(folder, explainer, _Say(quiet, as_json, explainer))
            if cluster is not None or workers > 1:
                explainer.deployed.close()  # workers open their own
            if cluster is not None:
                runner = on_cluster(recipe, cluster)
            elif workers > 1:
                runner = spawned(recipe, workers, gpus=explainer.deployed.device.nvidia)
            else:
                runner = here(held.enter_context(closing(Hand(explainer, recipe))))
            tally = run.go(items, runner, interrupt, max_pixels=max_pixels, figures=figures)
    if tally.failed:
        raise click.exceptions.Exit(SOME_FAILED)


@click.command(cls=OnceCommand)
@click.argument("sources", type=PATH, nargs=-1, required=True)
@click.option("-o", "--out", type=PATH, required=True, help="Folder that gets everything.")
@verbosity_options
@translate_errors
def merge(sources: tuple[Path, ...], out: Path, quiet: bool, verbose: bool) -> None:
    """Join the output folders SOURCES of shards into one, as a single run would have written it."""
    set_verbosity(quiet, verbose)
    with progress_bar(None, "map", quiet) as bar:
        merged = join(sources, out, bar.update)
    if not quiet:
        click.echo(report.merge_summary(merged, out))


def _csv(ctx: click.Context, option: click.Parameter, path: Path | None) -> Path | None:
    """A table that is CSV is called so."""
    if path is not None and path.suffix.lower() != ".csv":
        raise click.BadParameter(f"{path}: the table is CSV: name it {path.stem}.csv", ctx, option)
    return path


@click.command(cls=OnceCommand)
@click.argument("folder", type=PATH)
@click.option("-o", "--out", type=PATH, metavar="FILE.csv", callback=_csv, help="Write a row per map there.")
@click.option(
    "--masks",
    type=PATH,
    metavar="DIR",
    help="PNG files named like the pictures, not 0 on the object: 'inside' is the share of evidence there; default: in "
    "the central quarter.",
)
@verbosity_options
@translate_errors
def summary(folder: Path, out: Path | None, masks: Path | None, quiet: bool, verbose: bool) -> None:
    """Show what the maps in FOLDER say as a whole: means by class."""
    set_verbosity(quiet, verbose)
    if out is not None:
        check_replaced(out, (), "a table of 'summary'", is_table)
    cohort = Cohort()
    with progress_bar(None, "map", quiet) as bar:
        rows = cohort.noting(summarise(folder, masks, bar.update))
        if out is not None:
            write_table(out, rows)
        for _ in rows:  # those that are not written
            pass
    if not quiet:
        click.echo(report.summary_table(cohort.classes(), cohort.totals()))
        if out is not None:
            click.echo(shown(f"{out}: {cohort.maps} rows written"))


def _sha256(ctx: click.Context, option: click.Parameter, text: str | None) -> str | None:
    """A SHA-256 as it is printed: part of one proves nothing."""
    if text is not None and re.fullmatch("[0-9a-fA-F]{64}", text) is None:
        raise click.BadParameter(f"{text!r} is no SHA-256: give all 64 hexadecimal digits", ctx, option)
    return None if text is None else text.lower()


@click.command(cls=OnceCommand)
@click.argument("folder", type=PATH)
@click.option("--sample", type=click.IntRange(min=0), metavar="N", help="Compute N maps again; default: all.")
@click.option("--model", type=PATH, metavar="FILE", help="Where the model is now; default: where it was.")
@click.option(
    "--images", type=PATH, multiple=True, metavar="DIR", help="Where pictures are now, by any name; default: as listed."
)
@click.option(
    "--tolerance",
    type=FiniteRange(min=0),
    default=TOLERANCE,
    show_default=True,
    metavar="BITS",
    help="That may be between a map and the one computed again.",
)
@setting_option("batch_size", default=None, show_default=False, help="Default: as recorded.")
@click.option("--labels", type=PATH, metavar="FILE", help="Class names, where they were given to 'explain' in a file.")
@click.option("--expect-model", callback=_sha256, metavar="SHA256", help="Of the model that the receipts must be of.")
@click.option("--expect-seal", callback=_sha256, metavar="SHA256", help="Of the last line, noted when the run ended.")
@device_options
@max_work_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
@verbosity_options
@translate_errors
def verify(
    folder: Path,
    sample: int | None,
    model: Path | None,
    images: tuple[Path, ...],
    tolerance: float,
    batch_size: int | None,
    labels: Path | None,
    expect_model: str | None,
    expect_seal: str | None,
    device: str,
    providers: tuple[str, ...],
    max_work: int,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Check that the results in FOLDER are what their receipts say; or an .onnx file that 'export' wrote.

    Of a folder, first all hashes, and that nothing else lies there; then every map, its figure and its whole line in
    the manifest, computed again. Exit code 0: everything is as it was written, and the same within the tolerance; 1:
    something is not, or is not what was expected, or the model is another one; 3: not all could be checked, as pictures
    are missing, or there is no map.

    Of an exported model, its self-test; with --model FILE also that its own outputs are that model's, and its evidence
    what 'explain' gives. Exit code 0 or 1.
    """
    set_verbosity(quiet, verbose)
    settle_device(device, providers)  # what is typed wrongly says nothing against a receipt
    if folder.suffix.lower() == ".onnx" and (folder.is_file() or not folder.exists()):
        _verify_exported(folder, model, device, providers, as_json=as_json, quiet=quiet)
        return
    find = finder(folder, images)
    hidden = quiet or as_json
    with ExitStack() as held:
        with progress_bar(None, "line", hidden) as bar:
            checked = held.enter_context(closing(check_hashes(folder, find, bar.update)))
        checked.expect(expect_model, expect_seal)
        entries = Sample(checked.entries, draw(checked.entries.works(), sample, checked.head))
        with progress_bar(len(entries), "map", hidden) as bar:
            origin = Origin(folder, model, labels, device, providers, batch_size, max_work)
            verdicts, refused = recompute_all(checked, entries, origin, find, tolerance, bar.update)
        found = verification(checked, verdicts, tolerance, refused)
    if as_json or not quiet:
        click.echo(finite_json(found, indent=2) if as_json else report.verification_table(found))
    if found["exit_code"]:
        raise click.exceptions.Exit(found["exit_code"])


def _verify_exported(
    path: Path, model: Path | None, device: str, providers: tuple[str, ...], *, as_json: bool, quiet: bool
) -> None:
    for name in ("sample", "images", "tolerance", "batch_size", "labels", "expect_model", "expect_seal"):
        if typed(name):
            raise click.UsageError(f"--{name.replace('_', '-')} is for folders of results, and {path} is a file")
    found = check_exported(path, model, device=device, providers=providers)
    if as_json or not quiet:
        click.echo(finite_json(found.report(), indent=2) if as_json else checked_table(found, path))
    if not found.passed:
        raise click.exceptions.Exit(1)


def _refuse_old(folder: ResultFolder, resume: bool) -> None:
    if not resume and (maps := folder.manifest.index.count()):
        raise StoreError(f"{folder.path}: holds {maps} maps already: take another -o, or drop --no-resume")


def _looked(items: Sequence[Item], interrupt: Interrupt) -> list[Item]:
    """A plan with the bytes of its pictures known; refused where none can be read, as where a name is mistyped."""
    looked = []
    for item in items:
        interrupt.check()
        looked.append(look(item))
    if looked and all(item.problem for item in looked):
        more = f" (nor any other of {len(looked)} pictures)" if len(looked) > 1 else ""
        raise DataError(f"{looked[0].problem}{more}")
    return looked


class _Say:
    """What is printed of a run."""

    def __init__(self, quiet: bool, as_json: bool, explainer: Explainer) -> None:
        self.quiet, self.as_json, self.explainer = quiet, as_json, explainer
        self.table = not quiet and not as_json
        self._headed = False
        self._missed: list[float] = []
        self._said: set[str] = set()

    def entries(self, entries: Sequence[dict[str, Any]]) -> None:
        for line in (line for entry in entries for line in tables.unmet(entry)):
            click.echo(f"Warning: {line}", err=True)
        self._missed += [entry["budget"]["gap_share"] for entry in entries if entry["budget"]]
        for line in (line for entry in entries for line in tables.unplaced(entry)):
            if line not in self._said:  # the same for most pictures
                click.echo(f"Warning: {line}", err=True)
            self._said.add(line)
        if self.table and not self._headed:
            click.echo(tables.explain_header(self.explainer))
            self._headed = True
        for entry in entries:
            if self.as_json:
                click.echo(json_line(entry))
            elif self.table:
                click.echo(tables.explain_row(entry))

    def end(self) -> None:
        """What there is to say of all maps together."""
        if line := tables.unaccounted(self._missed, self.explainer.settings):
            click.echo(f"Warning: {line}", err=True)


class _Run:
    """One run into one folder, with its progress bar."""

    def __init__(self, folder: ResultFolder, explainer: Explainer, say: _Say) -> None:
        self.folder, self.explainer, self.say = folder, explainer, say
        self._failed, self._shown = 0, 0.0
        self._bar: tqdm[Any]

    def go(self, items: Sequence[Item], runner: Runner, interrupt: Interrupt, **how: Any) -> Tally:
        """Do what is left of a plan."""
        jobs, damaged = self.folder.plan(items, self.explainer, **how)
        if damaged:
            click.echo(f"Warning: {damaged} listed maps or their figures were gone or changed: done again", err=True)
        if former := self.folder.manifest.former:
            click.echo(
                f"Warning: {former} maps there are of a version that read some pictures otherwise (TIFF with alpha or "
                "16 bits, netpbm, AVIF): 'onnx-evidence verify' says which are different",
                err=True,
            )
        if how["figures"] and not self.say.quiet and (undrawn := self.folder.manifest.undrawn(items)):
            click.echo(f"Warning: {report.without_figures(undrawn)}", err=True)
        tally = self._work(jobs, len(items), runner, interrupt)
        self.say.end()
        before = len(items) - len(jobs)
        if self.say.table and (before or tally.failed or not items):
            click.echo(report.run_summary(len(items), tally.done, before, tally.failed))
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
