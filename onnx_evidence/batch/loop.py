"""The run: jobs go out, outcomes come in, and what is shown of it in between."""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Protocol

from onnx_evidence.batch.folder import ResultFolder
from onnx_evidence.batch.work import Hand, Job, Outcome, Tick, explain_job


class Runner(Protocol):
    """Whatever explains pictures: this process, others, or a cluster."""

    def __call__(self, jobs: Sequence[Job], tick: Tick, check: Callable[[], None]) -> Iterator[Outcome]:
        """Outcomes of jobs, as they are ready.

        ``check`` is called now and then, and raises KeyboardInterrupt where the run is to stop.
        """
        ...


def here(hand: Hand) -> Runner:
    """One picture after the other, in this process.

    Parameters
    ----------
    hand : Hand

    Returns
    -------
    Runner
    """

    def run(jobs: Sequence[Job], tick: Tick, check: Callable[[], None]) -> Iterator[Outcome]:
        def step(number: int, copies: int) -> None:
            check()
            tick(number, copies)

        for job in jobs:
            check()
            yield explain_job(hand, job, step)

    return run


@dataclass
class Tally:
    """How a run went.

    Attributes
    ----------
    done, failed : int
        Pictures that were explained, and that could not be.
    """

    done: int = 0
    failed: int = 0


@dataclass
class Progress:
    """How far a run is, in pictures: those that are finished, and the begun ones by their passes.

    Attributes
    ----------
    rows : int
        Edited copies per question, as far as that is known before.
    """

    rows: int
    finished: int = 0
    _begun: dict[int, int] = field(default_factory=dict)

    def tick(self, number: int, copies: int) -> None:
        """Count copies of a job."""
        self._begun[number] = self._begun.get(number, 0) + copies

    def finish(self, number: int) -> None:
        """Count a job."""
        self._begun.pop(number, None)
        self.finished += 1

    @property
    def pictures(self) -> float:
        """Finished ones, and shares of those that are begun."""
        return self.finished + sum(min(copies / max(self.rows, 1), 1.0) for copies in self._begun.values())


def run_jobs(
    jobs: Sequence[Job],
    folder: ResultFolder,
    runner: Runner,
    *,
    tick: Tick,
    check: Callable[[], None],
    explained: Callable[[Outcome, list[dict[str, Any]]], None],
    failed: Callable[[Outcome], None],
) -> Tally:
    """Work off jobs, and list what became of each as soon as it is known.

    Parameters
    ----------
    jobs : sequence of Job
        From `ResultFolder.plan`.
    folder : ResultFolder
        Held by this process.
    runner : Runner
        From `here`, `pool.spawned` or `cluster.on_cluster`.
    tick : callable
        Hears of copies.
    check : callable
        Raises KeyboardInterrupt where the run is to stop.
    explained, failed : callable
        Hear of every picture's outcome; the former with its manifest lines as they were written.

    Returns
    -------
    Tally

    Raises
    ------
    StoreError
        If results cannot be written.
    KeyboardInterrupt
        If ``check`` said so; all that was listed before is safe.
    """
    tally = Tally()
    # Whatever ends the run ends its processes too, at once.
    with closing(_outcomes(jobs, runner, tick, check)) as outcomes:
        for outcome in outcomes:
            written = folder.take(outcome)
            if outcome.reason:
                tally.failed += 1
                failed(outcome)
            else:
                tally.done += 1
                explained(outcome, written)
    return tally


def _outcomes(
    jobs: Sequence[Job], runner: Runner, tick: Tick, check: Callable[[], None]
) -> Generator[Outcome, None, None]:
    """First those that are known: pictures that cannot be read; then the others'."""
    for job in jobs:
        if job.item.problem:
            yield Outcome(job, [], "DataError", job.item.problem)
    yield from runner([job for job in jobs if not job.item.problem], tick, check)
