"""Kill `explain` at random moments, go on each time, and hold the end against a run that nobody disturbed.

Prints kills survived, pictures lost and pictures done twice, for one process and for two workers.
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
from small_model import write_model, write_pictures

# What differs between two runs that did the same.
_OF_TIME = ("seconds", "previous", "seal")
# Seconds that a run may take to write its next line.
_PATIENCE = 120


class _Run:
    """The command, in a session of its own."""

    def __init__(self, model: Path, pictures: Path, out: Path, workers: int) -> None:
        arguments = ["explain", model, pictures, "-o", out, "-q", "--device", "cpu", "--workers", workers]
        command = [sys.executable, "-m", "onnx_evidence", *map(str, arguments)]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)

    def finish(self) -> None:
        """Let it end by itself."""
        _, stderr = self.process.communicate()
        if self.process.returncode or stderr:
            raise click.ClickException(f"exit code {self.process.returncode}: {stderr}")

    def kill(self) -> bool:
        """Kill the parent alone, as the system does where memory is short; False where it ended before."""
        self.process.kill()
        self.process.communicate()
        return self.process.returncode == -signal.SIGKILL


def _lines(out: Path) -> int:
    path = out / "manifest.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _listed(out: Path) -> dict[str, int]:
    """When the files of listed maps were written."""
    found = {}
    path = out / "manifest.jsonl"
    for line in path.read_bytes().split(b"\n")[:-1] if path.exists() else ():
        name = json.loads(line)["map"]
        found[name] = (out / name).stat().st_mtime_ns
    return found


def _results(out: Path) -> tuple[dict[str, bytes], dict[str, Any], int]:
    """Files, manifest lines by map, and lines that there are too many."""
    files = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*.[np][pn][zg]")}
    values = [json.loads(line) for line in (out / "manifest.jsonl").read_bytes().splitlines()]
    lines = {value["map"]: {key: each for key, each in value.items() if key not in _OF_TIME} for value in values}
    return files, lines, len(values) - len(lines)


def _disturb(place: Path, workers: int, kills: int, pictures: int, rng: random.Random) -> None:
    """Kill and go on, then compare; exit code 1 if anything differs."""
    model, folder, calm, out = (place / name for name in ("model.onnx", "pictures", f"calm{workers}", f"out{workers}"))
    start = time.monotonic()
    _Run(model, folder, calm, workers).finish()
    undisturbed = time.monotonic() - start
    survived = early = twice = torn = 0
    before: dict[str, int] = {}
    while survived < kills:
        left = pictures - _lines(out)
        # So many new lines that the pictures last for all kills; every fifth kill comes before the first new one.
        steps = rng.randint(0, max(0, round(2 * left / (kills - survived)))) if survived % 5 else 0
        run, goal, begin = _Run(model, folder, out, workers), _lines(out) + min(steps, left - 1), time.monotonic()
        while steps and _lines(out) < goal and run.process.poll() is None and time.monotonic() - begin < _PATIENCE:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.6 if steps else 4))
        new = _lines(out)
        if not run.kill():
            continue  # it was done
        survived += 1
        early += new < goal or not steps
        torn += any(out.rglob("*.partial"))
        now = _listed(out)
        twice += sum(now.get(name) != when for name, when in before.items())
        before = now
    _Run(model, folder, out, workers).finish()
    (files, lines, repeated), (wanted, expected, _) = _results(out), _results(calm)
    twice += repeated + sum(_listed(out)[name] != when for name, when in before.items())
    lost = len(expected.keys() - lines.keys())
    same = files == wanted and lines == expected
    verified = subprocess.run(
        [sys.executable, "-m", "onnx_evidence", "verify", str(out), "--sample", "5", "-q"], check=False
    )
    click.echo(
        f"--workers {workers}: {survived} kills survived ({early} before a new line, {torn} with a file half-written); "
        f"{pictures} pictures, {lost} lost, {twice} done twice; maps, figures and lines "
        f"{'are' if same else 'ARE NOT'} those of an undisturbed run; verify: exit code {verified.returncode}; "
        f"{undisturbed:.0f} s undisturbed, {time.monotonic() - start - undisturbed:.0f} s disturbed"
    )
    if lost or twice or not same or verified.returncode:
        raise click.exceptions.Exit(1)


@click.command()
@click.option("--kills", default=100, show_default=True)
@click.option("--pictures", default=200, show_default=True)
@click.option("--workers", multiple=True, type=int, default=[1, 2], show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(kills: int, pictures: int, workers: tuple[int, ...], seed: int) -> None:
    """Kill explain at random moments and compare the end with an undisturbed run."""
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        write_model(place / "model.onnx")
        write_pictures(place / "pictures", pictures)
        for count in workers:
            _disturb(place, count, kills, pictures, random.Random(seed))


if __name__ == "__main__":
    main()
