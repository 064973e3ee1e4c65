"""The disturbance `cluster` of `crash_test.py`: workers of a Dask cluster are killed while a run uses them.

Needs the package `distributed`.
"""

import importlib
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from parts.crash.runs import Bench, Run, bench, compare, listed, rewritten

_WORKERS = 3
_KILLS = 2
# Seconds for a scheduler or workers to start.
_PATIENCE = 60


class _Cluster:
    """A scheduler and its workers, processes of this machine."""

    def __init__(self, place: Path) -> None:
        place.mkdir()
        self._place, self._log = place, (place / "log").open("wb")
        told = place / "scheduler.json"
        self._scheduler = self._start("scheduler", "--port", "0", "--scheduler-file", told)
        self.workers: list[subprocess.Popen[bytes]] = []
        begin = time.monotonic()
        while not told.exists() and self._scheduler.poll() is None and time.monotonic() - begin < _PATIENCE:
            time.sleep(0.05)
        if not told.exists():
            self.stop()
            raise click.ClickException(f"no scheduler starts: {(place / 'log').read_text()}")
        self.address: str = json.loads(told.read_text())["address"]

    def _start(self, kind: str, *options: object) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", f"distributed.cli.dask_{kind}", "--host", "127.0.0.1", "--no-dashboard"]
        return subprocess.Popen([*command, *map(str, options)], stdout=self._log, stderr=self._log)

    def add(self) -> None:
        """Start a worker; nobody looks after it, so it stays dead when it is killed."""
        options = ("--nworkers", 1, "--nthreads", 1, "--no-nanny", "--local-directory", self._place)
        self.workers.append(self._start("worker", self.address, *options))

    def wait(self) -> None:
        """Wait until all workers are there."""
        with importlib.import_module("distributed").Client(self.address, set_as_default=False) as client:
            client.wait_for_workers(len(self.workers), timeout=_PATIENCE)

    def kill(self, rng: random.Random) -> None:
        """Kill a worker."""
        worker = self.workers.pop(rng.randrange(len(self.workers)))
        worker.kill()
        worker.wait()

    def stop(self) -> None:
        """End all of it."""
        for process in (*self.workers, self._scheduler):
            process.kill()
            process.wait()
        self._log.close()


@contextmanager
def _cluster(place: Path) -> Iterator[_Cluster]:
    """A cluster for as long as the ``with`` lasts."""
    cluster = _Cluster(place)
    try:
        for _ in range(_WORKERS):
            cluster.add()
        cluster.wait()
        yield cluster
    finally:
        cluster.stop()


def _kill_workers(
    cluster: _Cluster, run: Run, out: Path, goals: list[int], replace: bool, rng: random.Random
) -> tuple[int, dict[str, int]]:
    """Kill a worker when so many lines are there, and a little later.

    Returns how many were killed before the run was done, and the maps that were listed at the last one.
    """
    killed, before = 0, dict[str, int]()
    for goal in goals:
        run.wait_for(out, goal)
        time.sleep(rng.uniform(0, 0.5 if goal else 4))
        if run.process.poll() is not None:
            break
        before = listed(out)
        cluster.kill(rng)
        killed += 1
        if replace:
            cluster.add()
    return killed, before


def _disturb(here: Bench, number: int, replace: bool, rng: random.Random) -> bool:
    """Run on a cluster, kill some of its workers, and compare; False if anything differs."""
    name = f"{number}{'replaced' if replace else 'lost'}"
    out, start = here.place / f"out{name}", time.monotonic()
    # Late kills might find the run done.
    goals = sorted(rng.randrange(max(1, here.pictures * 3 // 4)) for _ in range(_KILLS))
    with _cluster(here.place / f"cluster{name}") as cluster:
        run = here.start(out, "--cluster", cluster.address)
        try:
            killed, before = _kill_workers(cluster, run, out, goals, replace, rng)
        except BaseException:
            run.kill()
            raise
        code, said = run.end()
    if code or "Traceback" in said:
        raise click.ClickException(f"{killed} workers were killed: exit code {code}: {said}")
    ending = compare(out, here.place / "calm", rewritten(before, out))
    click.echo(
        f"{killed} of {_WORKERS} workers killed, at {goals} lines, {'replaced' if replace else 'not replaced'}; "
        f"{here.pictures} pictures, {ending}; {time.monotonic() - start:.0f} s"
    )
    return ending.fine and killed == _KILLS


@click.command()
@click.option("--times", default=3, show_default=True, help="Runs, with and without replacements each.")
@click.option("--pictures", default=60, show_default=True)
@click.option("--seed", default=0, show_default=True)
def cluster(times: int, pictures: int, seed: int) -> None:
    """Kill two of the three workers of its Dask cluster."""
    try:
        importlib.import_module("distributed")
    except ImportError as error:
        raise click.ClickException("the package 'distributed' is missing: pip install distributed") from error
    rng = random.Random(seed)
    with bench(pictures) as here:
        with _cluster(here.place / "calm-cluster") as undisturbed:
            here.start(here.place / "calm", "--cluster", undisturbed.address).finish()
        fine = [_disturb(here, number, replace, rng) for number in range(times) for replace in (True, False)]
    if not all(fine):
        raise click.exceptions.Exit(1)
