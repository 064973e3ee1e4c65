"""The disturbance `signals` of `crash_test.py`: Ctrl-C and SIGTERM, once and twice, at random moments.

The first must end a run at the next picture, the second within a second, in the middle of native code too: a model that
computes for long, a picture that is decoded for long. The same command then goes on, and the end is that of an
undisturbed run.
"""

import random
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import click
import numpy as np
import onnx
from onnx import helper, numpy_helper

from parts.attack.pictures import scan_bomb
from parts.crash.runs import Bench, Ending, Run, bench, compare, lines, listed, rewritten, together
from parts.small_model import write_model, write_pictures

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Seconds until a run is at work, between two signals, that the second may take, and that the first may take.
_START, _APART, _SOON, _CLEANLY = 120, 0.3, 1.0, 120
_INTERRUPTED = 130
# Of the time that an undisturbed run takes, up to which the first signal comes: most runs are at work then.
_SHARE = 0.7


def _small(place: Path) -> Bench:
    """Many pictures, each done in no time."""
    place.mkdir()
    write_model(place / "model.onnx")
    write_pictures(place / "pictures", 60)
    return Bench(place, 60)


def _computing(place: Path) -> Bench:
    """Few pictures, and a model that computes for about a second at once."""
    place.mkdir()
    model = onnx.load(write_model(place / "model.onnx"))
    rng = np.random.default_rng(0)
    width, depth = 384, 4
    shapes = [(width, 12), *[(width, width)] * depth, (12, width)]
    for number, shape in enumerate(shapes):
        kernel = (rng.normal(size=(*shape, 3, 3)) / np.sqrt(9 * shape[1])).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(kernel, f"long{number}"))
    before = model.graph.node[5].output[0]
    nodes = [
        helper.make_node("Conv", [before if not n else f"l{n}", f"long{n}"], [f"l{n + 1}"], pads=[1] * 4)
        for n in range(len(shapes))
    ]
    upper, lower = list(model.graph.node[:6]), list(model.graph.node[6:])
    lower[0].input[0] = f"l{len(shapes)}"
    del model.graph.node[:]
    model.graph.node.extend([*upper, *nodes, *lower])
    onnx.save(model, place / "model.onnx")
    write_pictures(place / "pictures", 6)
    return Bench(place, 6)


def _decoding(place: Path) -> Bench:
    """Few pictures that are decoded for long: as many scans as are read."""
    place.mkdir()
    write_model(place / "model.onnx")
    (place / "pictures").mkdir()
    for number in range(4):
        (place / "pictures" / f"{number}.jpg").write_bytes(scan_bomb(2600 + number * 8, 90))
    return Bench(place, 4)


_KINDS: dict[str, Callable[[Path], Bench]] = {"small": _small, "computing": _computing, "decoding": _decoding}


@dataclass
class _Found:
    """What became of runs that were sent signals."""

    ends: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    more: int = 0
    wrong: list[str] = field(default_factory=list)
    endings: list[Ending] = field(default_factory=list)


def _at_work(run: Run) -> bool:
    """Wait until a run takes signals itself; False where it ended before."""
    status, bit = Path(f"/proc/{run.process.pid}/status"), 1 << (signal.SIGTERM - 1)
    begin = time.monotonic()
    while run.process.poll() is None and time.monotonic() - begin < _START:
        caught = re.search(r"SigCgt:\s+([0-9a-f]+)", status.read_text()) if status.exists() else None
        if caught and int(caught[1], 16) & bit:
            return True
        time.sleep(0.005)
    return False


class _Signals:
    """Sends signals to runs of one kind."""

    def __init__(self, here: Bench, workers: int, rng: random.Random) -> None:
        self._here, self._rng, self._options = here, rng, ("--workers", workers, "--no-figures", "--method", "grad-cam")
        self._workers, self._number, self.found = workers, 0, {1: _Found(), 2: _Found()}
        begin = time.monotonic()
        self._calm = here.place / f"calm{workers}"
        here.start(self._calm, *self._options).finish()
        self._seconds = time.monotonic() - begin
        self._anew()

    def _anew(self) -> None:
        self._number += 1
        self._out, self._twice = self._here.place / f"out{self._workers}-{self._number}", 0

    def disturb(self, times: int) -> None:
        """Send one signal, or two, to a run at a random moment."""
        before = listed(self._out) if self._out.exists() else {}
        run = self._here.start(self._out, *self._options)
        try:
            if not _at_work(run):
                self.found[times].wrong.append("a run ends before it is at work")
            left = 1 - lines(self._out) / self._here.pictures
            time.sleep(self._rng.uniform(0, self._seconds * left * _SHARE))
            self._send(run, times)
        finally:
            run.kill()
        self._twice += rewritten(before, self._out) if before else 0
        if lines(self._out) == self._here.pictures:
            self.settle()

    def _send(self, run: Run, times: int) -> None:
        found, number = self.found[times], self._rng.choice(_SIGNALS)
        there = lines(self._out)
        for count in range(times):
            time.sleep(self._rng.uniform(0, _APART) if count else 0)
            run.process.send_signal(number)
        sent = time.monotonic()
        try:
            run.process.wait(timeout=_CLEANLY)
            seconds = time.monotonic() - sent  # its workers see that it is gone, and end after it
            _, said = run.process.communicate(timeout=_CLEANLY)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is a finding
            found.wrong.append(f"{number.name} x {times}: {type(error).__name__}")
            return
        code, more = run.process.returncode, lines(self._out) - there
        found.ends[f"exit code {code}"] += 1
        if code == 0:
            return
        found.slowest, found.more = max(found.slowest, seconds), max(found.more, more)
        done = lines(self._out) == self._here.pictures
        quiet = "Traceback" not in said and len(said.splitlines()) <= 1
        for wrong, why in (
            # A run that is done, or was told to stop and is through with it, no longer takes signals: they end it.
            (code not in (_INTERRUPTED, *((-number,) if times == 2 or done else ())), f"exit code {code}"),
            (not quiet, f"says {said[-200:]!r}"),
            (times == 2 and seconds > _SOON, f"takes {seconds:.1f} s"),
            (times == 1 and more > self._workers, f"explains {more} pictures more"),
            (any(self._out.rglob("*.partial")) and times == 1, "leaves a file half-written"),
        ):
            if wrong:
                found.wrong.append(f"{number.name} x {times}: {why}")

    def settle(self) -> None:
        """Let the run go on to its end, and hold that against an undisturbed one."""
        self._here.start(self._out, *self._options).finish()
        self.found[1].endings.append(compare(self._out, self._calm, self._twice))
        self._anew()


@contextmanager
def _benches(kinds: tuple[str, ...]) -> Iterator[dict[str, Bench]]:
    with bench(0) as here:
        yield {kind: _KINDS[kind](here.place / kind) for kind in kinds}


def _report(kind: str, workers: int, found: dict[int, _Found]) -> bool:
    """Print what became of a kind, as rows of a table; whether all is right."""
    ending = together(found[1].endings)
    for times, each in found.items():
        ends = ", ".join(f"{count} x {name}" for name, count in sorted(each.ends.items()))
        click.echo(
            f"| {kind}, --workers {workers} | {('once', 'twice')[times - 1]} | {each.ends.total()} | {ends} | "
            f"{each.slowest:.2f} | {each.more} | {len(each.wrong)} |"
        )
        for wrong in each.wrong:
            click.echo(f"  WRONG: {wrong}")
    click.echo(f"  {len(found[1].endings)} times gone on to the end: {ending}")
    return ending.fine and not any(each.wrong for each in found.values())


@click.command()
@click.option("--times", default=200, show_default=True, help="Moments, shared among all.")
@click.option("--kinds", multiple=True, type=click.Choice(list(_KINDS)), default=list(_KINDS), show_default=True)
@click.option("--workers", multiple=True, type=int, default=[1, 2], show_default=True)
@click.option("--seed", default=0, show_default=True)
def signals(times: int, kinds: tuple[str, ...], workers: tuple[int, ...], seed: int) -> None:
    """Send it SIGINT or SIGTERM, once and twice, at random moments."""
    rng, fine = random.Random(seed), True
    share = -(-times // (len(kinds) * len(workers)))
    with _benches(kinds) as benches:
        for kind, here in benches.items():
            for count in workers:
                tried = _Signals(here, count, rng)
                for number in range(share):
                    tried.disturb(1 + number % 2)
                tried.settle()
                fine &= _report(kind, count, tried.found)
    if not fine:
        raise click.exceptions.Exit(1)
