"""Whether tests notice that a formula was changed: mutants of the rooms that compute evidence.

mutmut makes them, thousands, and finds which tests reach which function. Here a random sample is run, each mutant in a
process of its own, with the tests that reach its function, the quickest first, up to the first that fails. (mutmut's
own runner forks a process that has opened sessions, and what ONNX Runtime's threads held then is never let go.)

Needs an environment with this project, its tests' packages, and mutmut 3.
"""

import json
import math
import os
import random
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import click

ROOT = Path(__file__).parent.parent
MODEL = Path("models", "efficientnet-lite0.onnx")
ROOMS = ("evidence", "cuts", "vjp")
# Tests of these rooms; those of files, folders and commands reach them too, but are long.
TESTS = (
    "answer,attribution,background,baselines,class_kind,choose,coverage,evidence,geometry,golden,gradient_methods,"
    "graph,intervals,layout,layout_cuts,links,mask_methods,masking,methods,model,net,opening,oracles,ordered,ordering,"
    "path,pipeline,pixel_windows,projection,quality,randomise,receptive,sanity,score,shapes,tolerance,vjp_graphs,vjp_rules,"
    "windows"
).split(",")
# What imports the package from where it does not lie here.
LEFT_OUT = "tests/test_methods.py::test_a_strangers_method_is_one_file_and_one_line_of_the_table"
# Seconds beyond ten times what its tests take: a mutant may never end.
PATIENCE = 60
# Seconds that whole files take at most.
_WHOLE = 300.0


class Mutant(NamedTuple):
    """One of mutmut's, with the tests that reach it, the quickest first, and the seconds that they take."""

    name: str
    tests: tuple[str, ...]
    seconds: float

    @property
    def room(self) -> str:
        """Where it lies."""
        return self.name.split(".")[1]


def _prepare(folder: Path) -> None:
    """Copy the project into a folder, and have mutmut make its mutants and find their tests there."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    names = [Path(name) for name in listed.split("\0") if name and (ROOT / name).is_file()]
    for name in [*names, MODEL]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((ROOT / name).read_bytes())
    settings = {
        "source_paths": ["onnx_evidence"],
        "only_mutate": [f"onnx_evidence/{room}/*" for room in ROOMS],
        "also_copy": sorted({name.parts[0] for name in names} - {"onnx_evidence", "tests"}),
        "pytest_add_cli_args": ["-p", "no:randomly", "-q", "--deselect", LEFT_OUT],
        "pytest_add_cli_args_test_selection": [f"tests/test_{name}.py" for name in TESTS],
    }
    with (folder / "pyproject.toml").open("a") as file:
        file.writelines(["\n[tool.mutmut]\n", *(f"{key} = {json.dumps(value)}\n" for key, value in settings.items())])
    # No mutant has that name: it ends when all are made and every test has run once.
    command = [sys.executable, "-m", "mutmut", "run", "none"]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if not _stats(folder).exists():
        raise click.ClickException(f"mutmut made no statistics: {(ended.stdout + ended.stderr)[-2000:]}")


def _stats(folder: Path) -> Path:
    return folder / "mutants" / "mutmut-stats.json"


def _mutants(folder: Path) -> Iterator[Mutant]:
    """All of them."""
    stats = json.loads(_stats(folder).read_text())
    seconds: Mapping[str, float] = stats["duration_by_test"]
    for room in ROOMS:
        for path in sorted((folder / "mutants" / "onnx_evidence" / room).glob("*.meta")):
            for name in json.loads(path.read_text())["exit_code_by_key"]:
                reached = stats["tests_by_mangled_function_name"].get(name.rpartition("__mutmut_")[0], [])
                tests = sorted((test for test in reached if test in seconds), key=seconds.__getitem__)
                yield Mutant(name, tuple(tests), sum(map(seconds.__getitem__, tests)))


def _outcome(folder: Path, mutant: Mutant) -> str:
    """What became of one: 'killed', 'survived', 'never ended' or 'no tests'.

    What several tests share (fixtures) is reached by the first of them alone: of a survivor whole files are run.
    """
    if not mutant.tests:
        return "no tests"
    files = sorted({test.partition("::")[0] for test in mutant.tests})
    for chosen, seconds in ((mutant.tests, mutant.seconds), (files, _WHOLE)):
        if (outcome := _tried(folder, mutant.name, chosen, seconds)) != "survived":
            break
    return outcome


def _tried(folder: Path, name: str, tests: Sequence[str], seconds: float) -> str:
    inside = folder / "mutants"
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:randomly", "-p", "no:cacheprovider"]
    environment = {**os.environ, "MUTANT_UNDER_TEST": name, "PYTHONPATH": str(inside)}
    try:
        ended = subprocess.run(
            [*command, *tests],
            cwd=inside,
            env=environment,
            capture_output=True,
            timeout=10 * seconds + PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "never ended"
    return "survived" if ended.returncode == 0 else "killed"


def _run(folder: Path, mutants: Sequence[Mutant], workers: int) -> dict[str, str]:
    """The outcomes, kept in a file from which a run goes on."""
    kept = folder / "outcomes.jsonl"
    outcomes = dict(json.loads(line) for line in kept.read_text().splitlines()) if kept.exists() else {}
    left = [mutant for mutant in mutants if mutant.name not in outcomes]
    with ThreadPoolExecutor(workers) as pool, kept.open("a") as file:
        for mutant, outcome in zip(left, pool.map(lambda each: _outcome(folder, each), left), strict=True):
            outcomes[mutant.name] = outcome
            file.write(json.dumps([mutant.name, outcome]) + "\n")
            file.flush()
            click.echo(f"{mutant.name}: {outcome}", err=True)
    return outcomes


def _table(mutants: Sequence[Mutant], outcomes: Mapping[str, str], made: Mapping[str, int]) -> Iterator[str]:
    """Markdown: a row for each room."""
    yield "| room | mutants | tried | killed | never ended | survived | no tests | noticed |"
    yield "|---|---|---|---|---|---|---|---|"
    for room in (*ROOMS, "all"):
        found = [outcomes[mutant.name] for mutant in mutants if room in (mutant.room, "all")]
        counts = [found.count(word) for word in ("killed", "never ended", "survived", "no tests")]
        share = (counts[0] + counts[1]) / max(len(found), 1)
        spread = 1.96 * math.sqrt(share * (1 - share) / max(len(found), 1))
        numbers = " | ".join(map(str, [made.get(room, sum(made.values())), len(found), *counts]))
        yield f"| {room} | {numbers} | {share:.1%} ± {spread:.1%} |"


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--sample", default=300, show_default=True, help="Mutants that are tried, of all rooms together.")
@click.option("--seed", default=0, show_default=True)
@click.option("--workers", default=2, show_default=True)
@click.option("--only", multiple=True, help="Mutants that are tried instead of a sample, by name.")
def main(folder: Path, sample: int, seed: int, workers: int, only: Sequence[str]) -> None:
    """Try a sample of mutants in FOLDER, which is made or gone on with; print a table, and survivors as differences."""
    if not _stats(folder).exists():
        _prepare(folder)
    everything = list(_mutants(folder))
    made = {room: sum(mutant.room == room for mutant in everything) for room in ROOMS}
    # In one order for every size: a larger sample goes on with a smaller one.
    shuffled = random.Random(seed).sample(everything, len(everything))
    chosen = [mutant for mutant in shuffled if mutant.name in only] if only else shuffled[:sample]
    outcomes = _run(folder, chosen, workers)
    click.echo("\n".join(_table(chosen, outcomes, made)))
    for mutant in chosen:
        if outcomes[mutant.name] in ("survived", "no tests"):
            command = [sys.executable, "-m", "mutmut", "show", mutant.name]
            shown = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False).stdout
            click.echo(f"\n{outcomes[mutant.name]}, {len(mutant.tests)} tests\n{shown}")


if __name__ == "__main__":
    main()
