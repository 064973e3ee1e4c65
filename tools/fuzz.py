"""Feed damaged models and pictures to the package: whatever they are, one line says what is wrong, soon, or they work.

Hypothesis draws every mutation, in blocks of 1,000 cases that their number makes again. A case runs in a process that
is watched: a crash, an error that is not ours, more than 10 seconds, 2 GB, or a file written outside the output folder
is a finding. Findings are counted, and the first of each kind is shrunk and kept.
"""

import contextlib
import faulthandler
import multiprocessing
import os
import random
import re
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import click
from fuzz_mutations import Case, mutated_models, mutated_pictures
from fuzz_seeds import model_seeds, picture_seeds
from hypothesis import HealthCheck, Phase, find, settings
from hypothesis.errors import NoSuchExample
from hypothesis.strategies import SearchStrategy
from small_model import write_model, write_pictures

# Seconds of the processor and of the clock, bytes, and cases.
_SECONDS, _PATIENCE, _BYTES, _BLOCK = 10, 60, 2 << 30, 1000


class _Answer(NamedTuple):
    """What became of a case; ``finding`` is empty where that is all right."""

    kind: str
    finding: str


# In the watched process


def _explain(place: Path) -> Callable[[Path], None]:
    """Explains a picture with a model, as the command does."""
    from onnx_evidence import Explainer
    from onnx_evidence.images import read_photograph

    (path,) = write_pictures(place / "pictures", 1).iterdir()
    picture = read_photograph(path)
    (place / "weights.bin").write_bytes(bytes(64))
    (place.parent / "outside.bin").write_bytes(bytes(1 << 16))
    (place / "link").symlink_to("/etc/passwd")

    def run(model: Path) -> None:
        explainer = Explainer(model, device="cpu", quality="fast")
        explainer.explain(picture).save(place / "out" / "map.npz")

    return run


def _look(place: Path) -> Callable[[Path], None]:
    """Makes a picture the input of a model, and reads it as bands."""
    from onnx_evidence import DeployedModel, EvidenceError
    from onnx_evidence.images import read_photograph

    deployed = DeployedModel(write_model(place / "model.onnx"), device="cpu")

    def run(picture: Path) -> None:
        with contextlib.suppress(EvidenceError):
            read_photograph(picture, bands=True)
        _, inputs, _ = deployed.prepare(picture)
        deployed.logits(inputs[None])

    return run


_RUNS = {"models": _explain, "pictures": _look}


def _serve(kind: str, place: Path, pipe: Connection, dump: Path) -> None:
    """Run the cases that are sent."""
    opened: list[str] = []

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[0], str) and arguments[2] & (os.O_WRONLY | os.O_RDWR):
            opened.append(arguments[0])

    os.chdir(place)
    run = _RUNS[kind](place)
    stacks = dump.open("w")
    faulthandler.enable(stacks)
    faulthandler.register(signal.SIGUSR1, stacks)
    inside = (str(place / "out"), os.devnull)
    sys.addaudithook(hear)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    pipe.send(_Answer("ready", ""))
    while True:
        case: Case = pipe.recv()
        for name, data in case.files.items():
            (place / name).write_bytes(data)
        there = _there(place)
        opened.clear()
        answer = _answer(run, place / case.name)
        # A bare name is one in a folder that is held open, or here, where `_there` sees it.
        named = [path for path in opened if os.path.basename(path) != path and not path.startswith(inside)]
        strangers = named + sorted(_there(place) ^ there)
        if strangers:
            answer = answer._replace(finding=f"written outside the output folder: {strangers[0]}")
        if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 > _BYTES:
            answer = answer._replace(finding="more than 2 GB of memory")
        pipe.send(answer)


def _there(place: Path) -> set[str]:
    """All files but those of the output folder."""
    return {str(path) for path in place.parent.rglob("*") if place / "out" not in (path, *path.parents)}


def _answer(run: Callable[[Path], None], path: Path) -> _Answer:
    from onnx_evidence import EvidenceError

    try:
        run(path)
    except EvidenceError as error:
        # Paths, names and numbers differ from case to case.
        words = re.sub(r"'[^']*'|\"[^\"]*\"|\S*/\S*|-?\d[\d.]*", "_", str(error))
        finding = "the message has several lines" if "\n" in str(error) else ""
        return _Answer(f"{type(error).__name__}: {words[:90]}", finding)
    except BaseException as error:  # noqa: BLE001 - that is what is looked for
        frames = traceback.extract_tb(error.__traceback__)
        ours = next((frame for frame in reversed(frames) if "onnx_evidence" in frame.filename), frames[-1])
        words = f"{type(error).__name__} in {Path(ours.filename).stem}.{ours.name}"
        return _Answer(words, "".join(traceback.format_exception(error)[-6:]))
    return _Answer("works", "")


# In the process that watches


class _Watched:
    """A process that runs cases, replaced when it dies or hangs."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._start()

    def _start(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        place, self._dump = Path(self._folder.name) / "in", Path(self._folder.name) / "stacks"
        (place / "out").mkdir(parents=True)
        self._dump.touch()
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(self.kind, place, theirs, self._dump), daemon=True)
        self._process.start()
        theirs.close()
        self._pipe.recv()

    def stop(self) -> None:
        """End the process, and remove its folder."""
        self._process.kill()
        self._process.join()
        self._folder.cleanup()

    def run(self, case: Case) -> _Answer:
        """What becomes of a case."""
        try:
            self._pipe.send(case)
            answer = self._pipe.recv() if self._answers() else self._hang()
        except (EOFError, OSError):
            self._process.join()
            answer = self._ended("crash", f"exit code {self._process.exitcode}")
        if answer.kind.startswith(("hang", "crash")) or "memory" in answer.finding:
            self.stop()
            self._start()
        return answer

    def _answers(self) -> bool:
        """Whether there is an answer in time; what others on the machine take of the processor does not count."""
        begin, used = time.monotonic(), self._used()
        while not self._pipe.poll(1):
            if self._used() - used > _SECONDS or time.monotonic() - begin > _PATIENCE:
                return False
        return True

    def _used(self) -> float:
        """Seconds of the processor that the process had."""
        numbers = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(numbers[11]) + int(numbers[12])) / os.sysconf("SC_CLK_TCK")

    def _hang(self) -> _Answer:
        os.kill(self._process.pid or 0, signal.SIGUSR1)
        time.sleep(1)
        return self._ended("hang", f"more than {_SECONDS} seconds")

    def _ended(self, what: str, finding: str) -> _Answer:
        """Where it was, from the stack that the process left: the innermost function of the package."""
        stack = self._dump.read_text()
        ours = re.search(r'onnx_evidence/(\S+)\.py", line \d+ in (\S+)', stack)
        return _Answer(f"{what} in {ours[1]}.{ours[2]}" if ours else what, f"{finding}\n{stack}")


class _Fuzz:
    """Counts what becomes of the cases of a kind."""

    def __init__(self, kind: str, cases: SearchStrategy[Case], keep: Path) -> None:
        self.kind, self.cases, self.keep = kind, cases, keep
        self.watched = _Watched(kind)
        self.kinds, self.bad = Counter[str](), Counter[str]()
        self.total = 0

    def block(self, number: int, size: int, shown: int) -> None:
        """Run a block, and shrink what is new in it."""
        known = set(self.bad)
        self._find(number, size, self._count, Phase.generate)
        for kind in [kind for kind in self.bad if kind not in known][: max(shown - len(known), 0)]:
            self._shrink(number, size, kind)

    def _count(self, case: Case) -> bool:
        answer = self.watched.run(case)
        self.total += 1
        self.kinds[answer.kind] += 1
        if answer.finding:
            self.bad[_name(answer)] += 1
        return False

    def _shrink(self, number: int, size: int, kind: str) -> None:
        """Find the smallest case of the same kind; the same block leads there again."""
        last = None

        def same(case: Case) -> bool:
            nonlocal last
            answer = self.watched.run(case)
            found = bool(answer.finding) and _name(answer) == kind
            last = answer if found else last
            return found

        case = self._find(number, size, same, Phase.generate, Phase.shrink)
        click.echo(f"FINDING {self.kind}, block {number}: {kind}")
        if case is None or last is None:
            return click.echo("  not found again")
        self.keep.mkdir(parents=True, exist_ok=True)
        for name, data in case.files.items():
            (self.keep / f"{self.kind}-{number}-{len(self.bad)}-{name}").write_bytes(data)
        click.echo(f"  {case.seed}: {'; '.join(case.steps)}\n{last.finding}")

    def _find(self, number: int, size: int, condition: Callable[[Case], bool], *phases: Phase) -> Case | None:
        settled = settings(
            max_examples=size, phases=phases, database=None, deadline=None, suppress_health_check=list(HealthCheck)
        )
        try:
            return find(self.cases, condition, settings=settled, random=random.Random(f"{self.kind} {number}"))
        except NoSuchExample:
            return None

    def report(self) -> int:
        """Print kinds of answers and findings; how many findings."""
        findings = self.bad.total()
        click.echo(f"{self.kind}: {self.total} cases, {self.kinds['works']} work, {findings} findings")
        click.echo(f"{len(self.kinds)} kinds of answers")
        for name, count in self.bad.most_common():
            click.echo(f"{count:7} FOUND {name}")
        for name, count in self.kinds.most_common(40):
            click.echo(f"{count:7} {name}")
        return findings


def _name(answer: _Answer) -> str:
    """A kind of finding."""
    return answer.finding.split(":")[0] if answer.kind == "works" else answer.kind


@click.command()
@click.argument("kinds", nargs=-1, type=click.Choice(list(_RUNS)))
@click.option("--cases", default=20_000, show_default=True)
@click.option("--start", default=0, show_default=True, help="First block: a finding's makes it again.")
@click.option("--shown", default=10, show_default=True, help="Kinds of findings of which one is shrunk and printed.")
@click.option("--keep", default=Path("build/fuzz"), show_default=True, type=click.Path(path_type=Path))
@click.option("--also", multiple=True, type=click.Path(path_type=Path, exists=True), help="Files to damage besides.")
def main(kinds: tuple[str, ...], cases: int, start: int, shown: int, keep: Path, also: tuple[Path, ...]) -> None:
    """Feed damaged models and pictures to the package, and count what it says."""
    findings = 0
    for kind in kinds or tuple(_RUNS):
        given = [path for path in also if (path.suffix == ".onnx") == (kind == "models")]
        drawn = mutated_models(model_seeds(), given) if kind == "models" else mutated_pictures(picture_seeds(given))
        fuzz = _Fuzz(kind, drawn, keep)
        try:
            for number, done in enumerate(range(0, cases, _BLOCK), start):
                fuzz.block(number, min(_BLOCK, cases - done), shown)
            findings += fuzz.report()
        finally:
            fuzz.watched.stop()
    if findings:
        raise click.exceptions.Exit(1)


if __name__ == "__main__":
    main()
