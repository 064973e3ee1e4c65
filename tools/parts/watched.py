"""Cases that hypothesis draws, run in a process that is watched: for `fuzz.py` and `attack.py`.

Blocks of 1,000 cases are made again by their number. A crash, an error that is not ours, more than 10 seconds, 2 GB, or
a file written or read outside is a finding. Findings are counted, and the first of each kind is shrunk and kept.
"""

import faulthandler
import multiprocessing
import os
import random
import re
import signal
import stat
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import click
from hypothesis import HealthCheck, Phase, find, settings
from hypothesis.errors import NoSuchExample
from hypothesis.strategies import SearchStrategy

from parts.attack.run import used_seconds
from parts.measuring import most_held

# Seconds of the processor and of the clock, bytes, and cases.
_SECONDS, _PATIENCE, _BYTES, BLOCK = 10, 60, 2 << 30, 1000


class Case(Protocol):
    """What is drawn: where it comes from, and what was done to it, in words."""

    @property
    def seed(self) -> str:
        """What it was made from."""
        ...

    @property
    def steps(self) -> Sequence[str]:
        """What was done to it."""
        ...

    def kept(self) -> Mapping[str, bytes]:
        """Files to keep of a finding, by name."""
        ...


class Answer(NamedTuple):
    """What became of a case; ``finding`` is empty where that is all right."""

    kind: str
    finding: str


class Bench(Protocol):
    """Runs cases below a folder, in the watched process; writes below ``out`` alone."""

    out: Path

    def put(self, case: Any) -> None:
        """Write what a case is about."""
        ...

    def run(self, case: Any) -> Answer:
        """What becomes of it; may raise whatever the package raises."""
        ...


Prepare = Callable[[Path], Bench]


# In the watched process


def _serve(prepare: Prepare, place: Path, pipe: Connection, dump: Path) -> None:
    """Run the cases that are sent."""
    opened: list[str] = []

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[0], str) and arguments[2] & (os.O_WRONLY | os.O_RDWR):
            opened.append(arguments[0])

    os.chdir(place)
    bench = prepare(place)
    stacks = dump.open("w")
    faulthandler.enable(stacks)
    faulthandler.register(signal.SIGUSR1, stacks)
    inside = (str(bench.out), os.devnull)
    sys.addaudithook(hear)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    pipe.send(Answer("ready", ""))
    while True:
        case = pipe.recv()
        bench.put(case)
        unread = _unread(place, bench.out)
        there = _there(place, bench.out, unread)
        opened.clear()
        answer = _answer(bench, case)
        # A bare name is one in a folder that is held open, or here, where `_there` sees it.
        named = [os.path.abspath(path) for path in opened if os.path.basename(path) != path]
        named = [path for path in named if not path.startswith(inside)]
        now = _there(place, bench.out, unread)
        strangers = named + sorted(path for path in there.keys() | now.keys() if there.get(path) != now.get(path))
        if strangers:
            answer = answer._replace(finding=f"written or read outside the output folder: {strangers[0]}")
        if most_held() > _BYTES:
            answer = answer._replace(finding="more than 2 GB of memory")
        pipe.send(answer)


def _unread(place: Path, out: Path) -> frozenset[Path]:
    """Set back when files named outside were read; those with another name in the output folder may be, under that."""
    found = {path: path.lstat() for path in _files(place, out) if "outside" in path.parent.name + path.name}
    alone = [path for path, said in found.items() if stat.S_ISREG(said.st_mode) and said.st_nlink == 1]
    for path in alone:
        os.utime(path, ns=(0, found[path].st_mtime_ns))
    return frozenset(alone)


def _there(place: Path, out: Path, unread: frozenset[Path]) -> dict[str, tuple[int, int, bool]]:
    """All files but those of the output folder: size, when they were written, whether those not to be read were."""
    found = {}
    for path in _files(place, out):
        said = path.lstat()
        # A folder changes with the output folder that is in it.
        state = (0, 0) if stat.S_ISDIR(said.st_mode) else (said.st_size, said.st_mtime_ns)
        found[str(path)] = (*state, path in unread and said.st_atime_ns > 0)
    return found


def _files(place: Path, out: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(place.parent):
        folders[:] = [name for name in folders if Path(folder, name) != out]
        yield from (Path(folder, name) for name in (*folders, *names))


def _answer(bench: Bench, case: Any) -> Answer:
    from onnx_evidence import EvidenceError

    try:
        return bench.run(case)
    except EvidenceError as error:
        # Paths, names and numbers differ from case to case.
        words = re.sub(r"'[^']*'|\"[^\"]*\"|\S*/\S*|-?\d[\d.]*", "_", str(error))
        finding = "the message has several lines" if "\n" in str(error) else ""
        return Answer(f"{type(error).__name__}: {words[:90]}", finding)
    except BaseException as error:  # noqa: BLE001 - that is what is looked for
        frames = traceback.extract_tb(error.__traceback__)
        ours = next((frame for frame in reversed(frames) if "onnx_evidence" in frame.filename), frames[-1])
        words = f"{type(error).__name__} in {Path(ours.filename).stem}.{ours.name}"
        return Answer(words, "".join(traceback.format_exception(error)[-6:]))


# In the process that watches


class Watched:
    """A process that runs cases, replaced when it dies or hangs."""

    def __init__(self, prepare: Prepare) -> None:
        self._prepare = prepare
        self._start()

    def _start(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        place, self._dump = Path(self._folder.name) / "in", Path(self._folder.name) / "stacks"
        place.mkdir(parents=True)
        self._dump.touch()
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(self._prepare, place, theirs, self._dump))
        self._process.start()
        theirs.close()
        self._pipe.recv()

    def stop(self) -> None:
        """End the process, and remove its folder."""
        self._process.kill()
        self._process.join()
        self._folder.cleanup()

    def run(self, case: Case) -> Answer:
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
        return used_seconds(self._process.pid or 0)

    def _hang(self) -> Answer:
        os.kill(self._process.pid or 0, signal.SIGUSR1)
        time.sleep(1)
        return self._ended("hang", f"more than {_SECONDS} seconds")

    def _ended(self, what: str, finding: str) -> Answer:
        """Where it was, from the stack that the process left: the innermost function of the package."""
        stack = self._dump.read_text()
        ours = re.search(r'onnx_evidence/(\S+)\.py", line \d+ in (\S+)', stack)
        return Answer(f"{what} in {ours[1]}.{ours[2]}" if ours else what, f"{finding}\n{stack}")


class Fuzz:
    """Counts what becomes of the cases of a kind."""

    def __init__(self, kind: str, prepare: Prepare, cases: SearchStrategy[Any], keep: Path) -> None:
        self.kind, self.cases, self.keep = kind, cases, keep
        self.watched = Watched(prepare)
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
        for name, data in case.kept().items():
            (self.keep / f"{self.kind}-{number}-{len(self.bad)}-{name}").write_bytes(data)
        click.echo(f"  {case.seed}: {'; '.join(case.steps)}\n{last.finding}")

    def _find(self, number: int, size: int, condition: Callable[[Case], bool], *phases: Phase) -> Case | None:
        settled = settings(
            max_examples=size, phases=phases, database=None, deadline=None, suppress_health_check=list(HealthCheck)
        )
        try:
            found: Case = find(self.cases, condition, settings=settled, random=random.Random(f"{self.kind} {number}"))
            return found
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


def _name(answer: Answer) -> str:
    """A kind of finding."""
    return answer.kind if "\n" in answer.finding else answer.finding.split(":")[0]
