"""Runs of `explain` for `crash_test.py`: started, killed, and held against a run that nobody disturbed."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import click

from parts.small_model import write_model, write_pictures

# What differs between two runs that did the same.
_OF_TIME = ("seconds", "previous", "seal")
_COMMAND = (sys.executable, "-m", "onnx_evidence")
# Seconds that a run may take to write its next line.
_PATIENCE = 120


class Run:
    """The command, in a session of its own."""

    def __init__(self, *arguments: object) -> None:
        command = [*_COMMAND, "explain", *map(str, arguments), "-q", "--device", "cpu"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)

    def end(self) -> tuple[int, str]:
        """Let it end by itself: its exit code, and what it said on stderr."""
        try:
            _, stderr = self.process.communicate()
        except BaseException:
            self.kill()  # nothing outlives this tool
            raise
        return self.process.returncode, stderr

    def finish(self) -> None:
        """Let it end by itself, well."""
        code, stderr = self.end()
        if code or stderr:
            raise click.ClickException(f"exit code {code}: {stderr}")

    def kill(self) -> bool:
        """Kill the parent alone, as the system does where memory is short; False where it ended before."""
        self.process.kill()
        self.process.communicate()
        return self.process.returncode == -signal.SIGKILL

    def wait_for(self, out: Path, goal: int) -> None:
        """Wait for so many lines, or until it has ended or takes too long."""
        begin = time.monotonic()
        while lines(out) < goal and self.process.poll() is None and time.monotonic() - begin < _PATIENCE:
            time.sleep(0.01)


@dataclass(frozen=True)
class Bench:
    """A small model and its pictures.

    Attributes
    ----------
    place : Path
        A temporary folder, for results too.
    pictures : int
        How many.
    """

    place: Path
    pictures: int

    def start(self, out: Path, *options: object) -> Run:
        """Explain all pictures."""
        return Run(self.place / "model.onnx", self.place / "pictures", "-o", out, *options)


@contextmanager
def bench(pictures: int) -> Iterator[Bench]:
    """Write a model and pictures into a folder that goes with the ``with``, as processes do that SIGTERM ends."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH", "")])
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        write_model(place / "model.onnx")
        write_pictures(place / "pictures", pictures)
        yield Bench(place, pictures)


def lines(out: Path) -> int:
    """Finished lines of the manifest."""
    path = out / "manifest.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def listed(out: Path) -> dict[str, int]:
    """When the files of listed maps were written; 0 where they are missing."""
    found = {}
    path = out / "manifest.jsonl"
    for line in path.read_bytes().split(b"\n")[:-1] if path.exists() else ():
        name = json.loads(line)["map"]
        found[name] = (out / name).stat().st_mtime_ns if (out / name).exists() else 0
    return found


def results(out: Path) -> tuple[dict[str, bytes], dict[str, Any], int]:
    """Files, manifest lines by map, and lines that there are too many."""
    files = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*.[np][pn][zg]")}
    values = [json.loads(line) for line in (out / "manifest.jsonl").read_bytes().splitlines()]
    for value in values:  # seen from folders at other depths they are called otherwise
        value["places"] = {name: each and os.path.normpath(out / each) for name, each in value["places"].items()}
    by_map = {value["map"]: {key: each for key, each in value.items() if key not in _OF_TIME} for value in values}
    return files, by_map, len(values) - len(by_map)


class Ending(NamedTuple):
    """What a disturbed run came to in the end.

    Attributes
    ----------
    lost, twice : int
        Pictures lost, and done twice.
    same : bool
        Whether files and lines are those of an undisturbed run.
    verified : int
        Exit code of `verify`.
    """

    lost: int
    twice: int
    same: bool
    verified: int

    @property
    def fine(self) -> bool:
        """Whether nothing is wrong."""
        return not self.lost and not self.twice and self.same and not self.verified

    def __str__(self) -> str:
        return (
            f"{self.lost} lost, {self.twice} done twice; maps, figures and lines {'are' if self.same else 'ARE NOT'} "
            f"those of an undisturbed run; verify: exit code {self.verified}"
        )


def rewritten(before: dict[str, int], out: Path) -> int:
    """How many maps that were listed before were written again."""
    now = listed(out)
    return sum(now.get(name) != when for name, when in before.items())


def compare(out: Path, calm: Path, twice: int) -> Ending:
    """Hold a folder against that of an undisturbed run; so many pictures are known to be done twice."""
    (files, found, repeated), (wanted, expected, _) = results(out), results(calm)
    verified = subprocess.run([*_COMMAND, "verify", str(out), "--sample", "5", "-q"], check=False)
    lost = len(expected.keys() - found.keys())
    return Ending(lost, twice + repeated, files == wanted and found == expected, verified.returncode)


def together(endings: Sequence[Ending]) -> Ending:
    """Several endings as one."""
    lost, twice, same, verified = zip(*endings, strict=True)
    return Ending(sum(lost), sum(twice), all(same), max(verified, key=abs))
