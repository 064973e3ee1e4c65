"""Check the lower bounds of pyproject.toml, and the newest versions of all that it asks for.

Makes two environments from nothing, with `venv` and pip: in one everything that pyproject.toml names has the version of
its lower bound, in the other the newest that there is; what those packages need themselves is the newest in both. Runs
commands with warnings as errors and the core of the tests in the one, commands and all tests in the other, holds the
results of each against the other's with `verify`, and writes docs/versions.md. Exit code 1 where anything failed.
"""

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from parts.small_model import write_model, write_pictures

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "versions.md"
# The model that tests need; `make model` builds it.
MODEL = ROOT / "models" / "efficientnet-lite0.onnx"
ENDS = ("oldest", "newest")
EXTRAS = ("dev",)  # which has the others but `cuda`, 1.5 GB of the same libraries
# The core: what is written and read, every command, pictures, operators and their gradients, processes and clusters.
CORE = (
    "architecture,batch_cluster,batch_hostile,batch_run,batch_verify,cli,cli_bad_input,evaluation_cli,images,"
    "intake_standard,model,picture_formats,preprocess,render,runtime,store,vjp_rules"
).split(",")
# Operators that ONNX Runtime has from 1.23 and 1.25 on: models with them are refused before.
LACKED = ("RotaryEmbedding", "DeformConv")
PICTURES = 12
COMMANDS = (
    "--version",
    "inspect model.onnx",
    "preprocess model.onnx",
    "gradient model.onnx -o backward.onnx",
    "explain model.onnx pictures -o OUT",
    "verify OUT",
    "summary OUT -o summary.csv",
    "background model.onnx pictures -o background.npz --layer input",
    "explain model.onnx pictures/0000.png -o drawn --method pda --background background.npz --samples 2",
    "verify drawn",
    "sanity model.onnx pictures/0000.png",
    "evaluate model.onnx pictures -o evaluated --limit 2 --no-stability",
)
HEAD = """# Versions

`python tools/check_versions.py` makes this page: two environments from nothing, one with the oldest version that
`pyproject.toml` allows of everything that it names, one with the newest that pip finds (no pre-releases). What those
packages need themselves is the newest that they take, at both ends. `constraints.txt` pins one set in between, in which
`make test` runs. Commands are run on a small model, with `python -W error`; tests take every warning for an error.
"""


def lower_bounds(text: str) -> dict[str, str]:
    """The lower bounds that a pyproject.toml sets here, extras included.

    Parameters
    ----------
    text : str
        Of the file.

    Returns
    -------
    dict of str to str
        Versions by normalised names, of those whose marker fits this machine.

    Raises
    ------
    ValueError
        If a requirement says anything but one lower bound, or two say different ones.
    """
    project = tomllib.loads(text)["project"]
    listed = [
        *project["dependencies"],
        *(each for extra in project["optional-dependencies"].values() for each in extra),
    ]
    found: dict[str, str] = {}
    for requirement in map(Requirement, listed):
        name = canonicalize_name(requirement.name)
        if name == project["name"] or (requirement.marker and not requirement.marker.evaluate()):
            continue
        bounds = list(requirement.specifier)
        if [bound.operator for bound in bounds] != [">="]:
            raise ValueError(f"{requirement}: say one lower bound (>=) and nothing else")
        if found.setdefault(name, bounds[0].version) != bounds[0].version:
            raise ValueError(f"{requirement}: elsewhere the bound is {found[name]}; say the same")
    return dict(sorted(found.items()))


@dataclass
class _End:
    """One environment.

    Attributes
    ----------
    name : {"oldest", "newest"}
        Which end.
    folder : Path
        Where it lies, and what its commands write.
    results : list of tuple
        What was run, and how it ended.
    fine : bool
        Whether all of it ended well.
    """

    name: str
    folder: Path
    results: list[tuple[str, str]] = field(default_factory=list)
    fine: bool = True

    @property
    def work(self) -> Path:
        """Where commands are run."""
        return self.folder / "tried"

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

    def run(self, *words: object, at: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run its interpreter, with nothing of this one's settings."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "ONNX_EVIDENCE"))}
        command = [str(word) for word in (self.python, *words)]
        return subprocess.run(command, cwd=at or self.work, env=kept, capture_output=True, text=True, check=False)

    def install(self, pins: Mapping[str, str]) -> None:
        """Make it, from wheels alone; the project itself as it lies here."""
        if not self.python.exists():
            subprocess.run([sys.executable, "-m", "venv", self.folder / "venv"], check=True)
        constraints = self.folder / "constraints.txt"
        constraints.write_text("".join(f"{name}=={version}\n" for name, version in pins.items()))
        pip = (
            "-m pip install --quiet --disable-pip-version-check --only-binary :all: --upgrade --upgrade-strategy eager"
        )
        ended = self.run(*pip.split(), "-c", constraints, "-e", f"{ROOT}[{','.join(EXTRAS)}]")
        if ended.returncode:
            raise click.ClickException(f"{self.name}: pip cannot install it:\n{ended.stderr}")

    def versions(self) -> dict[str, str]:
        """What was installed, by normalised names."""
        listed = self.run("-m", "pip", "list", "--format", "freeze", "--disable-pip-version-check").stdout
        pairs = (line.partition("==")[::2] for line in listed.splitlines())
        return {canonicalize_name(name): version for name, version in pairs}

    def note(self, what: str, problem: str, result: str) -> None:
        """Keep a result; problems go to stderr whole, and in one line to the page."""
        self.fine &= not problem
        self.results.append((what, f"**failed**: {problem.strip().splitlines()[-1]}" if problem else result))
        click.echo(f"{self.name}: {what}: {problem or result}", err=True)

    def command(self, line: str, codes: Sequence[int] = (0,)) -> None:
        """Run a command, warnings as errors."""
        ended = self.run("-W", "error", "-m", "onnx_evidence", *line.split())
        said = re.findall(r"^(?:computed again|verdict): .*", ended.stdout, re.M)
        problem = (ended.stderr or ended.stdout or "no word") if ended.returncode not in codes else ""
        self.note(f"`{line}`", problem, "; ".join(said) or "done")

    def test(self, files: Sequence[Path]) -> None:
        """Run tests, all where no file is named."""
        left = ("-k", " and ".join(f"not {name}" for name in LACKED)) if files else ()
        ended = self.run("-m", "pytest", "-q", *left, *files, at=ROOT)
        # "812 passed in 201.33s (0:03:21)"; libraries may have the last word.
        counted = (re.findall(r"^(.*\d passed.*) in [\d.]+s", ended.stdout, re.M) or [f"exit code {ended.returncode}"])[
            -1
        ]
        shown = f"tests of {', '.join(CORE)} but for {', '.join(LACKED)}" if files else "all tests"
        self.note(shown, f"{ended.stdout}{ended.stderr}\n{counted}" if ended.returncode else "", counted)


def _core() -> list[Path]:
    """The files of `CORE`."""
    paths = [ROOT / "tests" / f"test_{name}.py" for name in CORE]
    if absent := [path.name for path in paths if not path.exists()]:
        raise click.ClickException(f"tests/ has no {', '.join(absent)}: say in CORE what took its place")
    return paths


def _section(end: _End, names: Sequence[str]) -> str:
    """What the page says of an end."""
    installed = end.versions()
    lines = [
        f"## {end.name.capitalize()}\n\nPython {platform.python_version()}, {platform.system()}, {platform.machine()}."
    ]
    lines += ["\n| package | version |\n|---|---|", *(f"| {name} | {installed[name]} |" for name in names)]
    lines += ["\n| what was run | result |\n|---|---|", *(f"| {what} | {result} |" for what, result in end.results)]
    return "\n".join(lines) + "\n"


def _write(end: str, section: str) -> None:
    """Write the page; the other end keeps what it has."""
    before = PAGE.read_text() if PAGE.exists() else ""
    found = {name: re.search(rf"^## {name.capitalize()}\n.*?(?=\n## |\Z)", before, re.M | re.S) for name in ENDS}
    sections = {name: match[0] for name, match in found.items() if match} | {end: section}
    PAGE.write_text("\n".join([HEAD, *(sections[name] for name in ENDS if name in sections)]))


def _try(end: _End, pins: Mapping[str, str], core: Sequence[Path] | None) -> None:
    """Make an end, and run commands, then tests: the core of them, all where it is empty, none where it is None."""
    shutil.rmtree(end.work, ignore_errors=True)
    end.work.mkdir(parents=True)
    end.install(pins if end.name == "oldest" else {})
    write_model(end.work / "model.onnx")
    write_pictures(end.work / "pictures", PICTURES)
    for line in COMMANDS:
        end.command(line)
    for other in ENDS:
        if other != end.name and (end.folder.parent / other / "tried" / "OUT").is_dir():
            # Figures that another matplotlib drew cannot be compared, which `verify` says, with exit code 3.
            end.command(f"verify ../../{other}/tried/OUT", codes=(0, 3))
    if core is not None:
        end.test(core)


@click.command()
@click.option(
    "--end", "chosen", type=click.Choice(ENDS), help="One end alone; the page keeps what it has of the other."
)
@click.option("--tests/--no-tests", default=True, show_default=True, help="Or commands alone; the page stays as it is.")
@click.option("--at", type=click.Path(path_type=Path), help="Keep the environments in this folder, and use them again.")
def main(chosen: str | None, tests: bool, at: Path | None) -> None:
    """Try the oldest and the newest versions of everything, and write docs/versions.md."""
    if tests and not MODEL.exists():
        raise click.ClickException(f"{MODEL.relative_to(ROOT)} is not there, and tests need it: run 'make model'")
    pins, core = lower_bounds((ROOT / "pyproject.toml").read_text()), _core()
    with tempfile.TemporaryDirectory() as scratch:
        folder = at.absolute() if at else Path(scratch)
        ends = [_End(name, folder / name) for name in ENDS if chosen in (None, name)]
        for end in ends:
            _try(end, pins, (core if end.name == "oldest" else []) if tests else None)
            section = _section(end, list(pins))
            click.echo(section)
            if tests:  # at once: all tests, at the other end, hold pyproject.toml against the page
                _write(end.name, section)
    if not all(end.fine for end in ends):
        raise click.exceptions.Exit(1)


if __name__ == "__main__":
    main()
