"""Pictures explained by several processes of this machine, one per GPU or each with a share of the processors.

Every process gets one picture at a time and sends back its files; this one alone writes them. A process that dies is
replaced, and its picture is done again.
"""

import multiprocessing
import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from multiprocessing.connection import Connection, wait
from typing import Any

from onnx_evidence.batch.loop import Runner
from onnx_evidence.batch.work import Hand, Job, Outcome, Recipe, Tick, explain_job
from onnx_evidence.errors import DeviceError, EvidenceError
from onnx_evidence.files import count_gpus, thread_share

# How often a picture is done again when its process died, and a process is started again that dies before its first.
AGAIN = 2
# Seconds between looks at whether to stop.
PATIENCE = 0.2


def spawned(recipe: Recipe, count: int, *, gpus: bool) -> Runner:
    """Processes of this machine.

    Parameters
    ----------
    recipe : Recipe
        From which each makes its own explainer.
    count : int
        Processes at most: for fewer pictures there are fewer.
    gpus : bool
        Whether the model runs on GPUs; each process then sees one, in turn.

    Returns
    -------
    Runner
        Raises DeviceError where processes die before their first picture, and what explainers and files are refused
        with.
    """

    def run(jobs: Sequence[Job], tick: Tick, check: Callable[[], None]) -> Iterator[Outcome]:
        pool = _Pool(recipe, [_environment(index, count, gpus=gpus) for index in range(min(count, len(jobs)))])
        try:
            yield from pool.run(jobs, tick, check)
        finally:
            pool.stop()

    return run


def _environment(index: int, count: int, *, gpus: bool) -> dict[str, str]:
    environment = thread_share(count)
    if gpus:
        given = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        seen = given.split(",") if given else [str(number) for number in range(count_gpus())]
        environment["CUDA_VISIBLE_DEVICES"] = seen[index % len(seen)]
    return environment


def worker_died(job: Job, reason: str) -> Outcome:
    """The failure of a picture whose workers die, with what is known of that, in words."""
    return Outcome(job, [], "WorkerDied", f"{job.item.name}: {reason}")


class _Process:
    """One process, the pipe to it, and the job that it has."""

    def __init__(self, recipe: Recipe, environment: dict[str, str]) -> None:
        self.environment = environment
        self.job: Job | None = None
        self.ready = False
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(recipe, theirs), daemon=True)
        with _set(environment):
            self.process.start()
        theirs.close()

    def give(self, job: Job) -> None:
        self.job = job
        with suppress(OSError):  # it just died, which its sentinel says too
            self.pipe.send(job)

    def take(self) -> Any:
        """Its next message; None where there is none, and nothing more to come where it is dead."""
        try:
            return self.pipe.recv() if self.pipe.poll() else None
        except (EOFError, OSError):
            return None

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


class _Pool:
    """Processes, and what is waiting for them."""

    def __init__(self, recipe: Recipe, environments: Sequence[dict[str, str]]) -> None:
        self._recipe = recipe
        self._processes = [_Process(recipe, environment) for environment in environments]
        self._waiting: deque[Job] = deque()
        self._deaths: Counter[int] = Counter()  # by the number of the job
        self._stillborn = 0

    def run(self, jobs: Sequence[Job], tick: Tick, check: Callable[[], None]) -> Iterator[Outcome]:
        self._waiting.extend(jobs)
        while self._waiting or any(process.job for process in self._processes):
            check()
            for process in self._processes:
                self._busy(process)
            pipes, deaths = zip(*((each.pipe, each.process.sentinel) for each in self._processes), strict=True)
            wait([*pipes, *deaths], PATIENCE)
            for place, process in enumerate(self._processes):
                yield from self._listen(process, tick)
                if not process.process.is_alive():
                    # What it said last may have come between the two looks.
                    yield from self._listen(process, tick)
                    yield from self._replace(place)

    def _busy(self, process: _Process) -> None:
        """Give a process that has nothing to do the next job."""
        if self._waiting and process.ready and process.job is None:
            process.give(self._waiting.popleft())

    def _listen(self, process: _Process, tick: Tick) -> Iterator[Outcome]:
        """What a process says up to its next outcome: there may be more by then, and others are to be heard, too."""
        while (message := process.take()) is not None:
            if message == "ready":
                process.ready, self._stillborn = True, 0
            elif isinstance(message, EvidenceError):
                raise message
            elif isinstance(message, Outcome):
                process.job = None
                self._busy(process)  # it works on while this outcome is written
                yield message
                return
            else:
                tick(*message)

    def _replace(self, place: int) -> Iterator[Outcome]:
        """Start another process in the place of a dead one."""
        dead = self._processes[place]
        code = dead.process.exitcode
        if not dead.ready:
            self._stillborn += 1
            if self._stillborn > AGAIN:
                raise DeviceError(f"processes die before their first picture (exit code {code}): take fewer --workers")
        if dead.job is not None:
            job = dead.job
            self._deaths[job.number] += 1
            if self._deaths[job.number] <= AGAIN:
                self._waiting.appendleft(job)
            else:
                reason = f"the process died {AGAIN + 1} times while explaining it (exit code {code})"
                yield worker_died(job, reason)
        dead.stop()
        self._processes[place] = _Process(self._recipe, dead.environment)

    def stop(self) -> None:
        for process in self._processes:
            process.stop()


@contextmanager
def _set(environment: dict[str, str]) -> Iterator[None]:
    """Variables that processes started meanwhile inherit."""
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _serve(recipe: Recipe, pipe: Connection) -> None:
    """What a process does: explain what it is sent, until nobody is there to send."""
    # Ctrl-C goes to all processes of a terminal; the parent decides what becomes of this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    try:
        with closing(Hand(recipe.open(), recipe)) as hand:
            pipe.send("ready")
            while True:
                job = pipe.recv()
                pipe.send(explain_job(hand, job, lambda number, copies: pipe.send((number, copies))))
    except EvidenceError as error:
        pipe.send(error)
    except (EOFError, OSError):
        pass  # nobody listens any more


def _die_with_parent() -> None:
    """End this process at once when the parent is gone: another run may be at work on the folder by then."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
