"""Attack the package as hostile models, pictures, folders and surroundings would, and say what got through."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import click
from parts.attack import files, models, outputs, pictures, streams  # noqa: F401 - enter their cases
from parts.attack.cases import CASES, Case
from parts.attack.folders import READERS, REAL, changed_folders, reads
from parts.attack.run import Runner, Verdict
from parts.watched import BLOCK, Fuzz

_KINDS = list(dict.fromkeys(each.kind for each in CASES))


def _cell(text: str) -> str:
    """Words for a cell of a table, whatever they are."""
    return text.encode("ascii", "backslashreplace").decode().replace("|", "\\|").replace("`", "'")


def _row(case: Case, verdict: Verdict) -> str:
    said = f"THROUGH: {verdict.through}" if verdict.through else verdict.said or "done"
    words = _cell(said if len(said) < 140 else f"{said[:137]}...")
    return f"| {_cell(case.name[:100])} | {words} | {verdict.seconds:.1f} | {verdict.memory >> 20} |"


@click.group()
def main() -> None:
    """Attack the package and say what got through; exit code 1 if anything did."""


@main.command()
@click.argument("kinds", nargs=-1, type=click.Choice(_KINDS))
@click.option("--quick", is_flag=True, help="Only those that the tests try.")
@click.option("--only", default="", help="Only those whose names hold this.")
def cases(kinds: tuple[str, ...], quick: bool, only: str) -> None:
    """Try every case of the table, by kind; print them as Markdown."""
    sys.setrecursionlimit(5000)  # shutil removes folders within each other level by level, and 1,500 levels are tried
    runner, begin, rows = Runner(), time.monotonic(), list[str]()
    through = 0
    for kind in kinds or _KINDS:
        chosen = [each for each in CASES if each.kind == kind and only in each.name and (each.quick or not quick)]
        click.echo(f"\n### {kind.capitalize()}\n\n| tried | answer | s | MB |\n|---|---|---|---|")
        verdicts = []
        for each in chosen:
            verdicts.append(runner.judge(each.make))
            click.echo(_row(each, verdicts[-1]))
            sys.stdout.flush()
        rows.append(_sum(kind, verdicts))
        through += sum(bool(verdict.through) for verdict in verdicts)
    click.echo("\n| kind | tried | refused in a line | done | through | slowest, s | most memory, MB |")
    click.echo("\n".join(["|---|---|---|---|---|---|---|", *rows]))
    click.echo(f"\n{time.monotonic() - begin:.0f} s")
    if through:
        raise click.exceptions.Exit(1)


def _sum(kind: str, verdicts: Sequence[Verdict]) -> str:
    through = sum(bool(each.through) for each in verdicts)
    refused = sum(bool(each.said) and not each.through for each in verdicts)
    slowest = max((each.seconds for each in verdicts), default=0.0)
    most = max((each.memory for each in verdicts), default=0) >> 20
    done = len(verdicts) - refused - through
    return f"| {kind} | {len(verdicts)} | {refused} | {done} | {through} | {slowest:.1f} | {most} |"


@main.command()
@click.argument("readers", nargs=-1, type=click.Choice([*READERS, *REAL]))
@click.option("--cases", default=2000, show_default=True, help="Folders for every reader.")
@click.option("--start", default=0, show_default=True, help="First block: a finding's makes it again.")
@click.option("--shown", default=5, show_default=True, help="Kinds of findings of which one is shrunk and printed.")
@click.option("--keep", default=Path("build/attack"), show_default=True, type=click.Path(path_type=Path))
def folders(readers: tuple[str, ...], cases: int, start: int, shown: int, keep: Path) -> None:
    """Have every command that reads a folder of results read changed ones; print a line each as Markdown."""
    findings = 0
    for reader in readers or READERS:
        begin = time.monotonic()
        fuzz = Fuzz(reader, reads(reader), changed_folders(), keep)
        try:
            for number, done in enumerate(range(0, cases, BLOCK), start):
                fuzz.block(number, min(BLOCK, cases - done), shown)
        finally:
            fuzz.watched.stop()
        bad = fuzz.bad.total()
        codes = ", ".join(f"{fuzz.kinds[f'exit code {code}']} with {code}" for code in (0, 1, 3))
        click.echo(f"| {reader} | {fuzz.total} | {codes} | {bad} | {time.monotonic() - begin:.0f} |")
        for name, count in fuzz.bad.most_common():
            click.echo(f"  {count} x {name}")
        findings += bad
    if findings:
        raise click.exceptions.Exit(1)


if __name__ == "__main__":
    main()
