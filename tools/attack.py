"""Attack the package as hostile models, pictures, folders and surroundings would, and say what got through."""

import sys
import time
from collections import Counter

import attack_files  # noqa: F401 - enters its cases
import attack_models  # noqa: F401
import attack_outputs  # noqa: F401
import attack_pictures  # noqa: F401
import attack_streams  # noqa: F401
import click
from attack_cases import CASES, Case
from attack_run import Runner, Verdict

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
    runner, begin = Runner(), time.monotonic()
    total, through = Counter[str](), Counter[str]()
    for kind in kinds or _KINDS:
        click.echo(f"\n### {kind.capitalize()}\n\n| tried | answer | s | MB |\n|---|---|---|---|")
        for each in (each for each in CASES if each.kind == kind and only in each.name and (each.quick or not quick)):
            verdict = runner.judge(each.make)
            total[kind] += 1
            through[kind] += bool(verdict.through)
            click.echo(_row(each, verdict))
            sys.stdout.flush()
    click.echo(f"\n{total.total()} cases, {through.total()} through; {time.monotonic() - begin:.0f} s")
    if through:
        raise click.exceptions.Exit(1)


if __name__ == "__main__":
    main()
