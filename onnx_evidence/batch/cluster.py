"""Pictures explained by the workers of a Dask cluster that is there already.

Workers open the model once, read pictures from the same paths as this process does, and send the files back; this one
alone writes them. So a worker that is thought dead and is not can do no harm, and what a dead one had is done again.
"""

import logging
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from importlib.metadata import version
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from onnx_evidence.batch.loop import Runner
from onnx_evidence.batch.pool import PATIENCE, worker_died
from onnx_evidence.batch.work import Hand, Job, Outcome, Recipe, Tick, explain_job
from onnx_evidence.errors import DeviceError, EvidenceError, SettingError, one_line

if TYPE_CHECKING:
    from distributed import Client, Future

log = logging.getLogger(__name__)

# Jobs per worker that are under way: one is worked on, one is there when that is done. The others wait here, so that a
# scheduler never holds a long list, and a worker that dies takes little with it.
_AHEAD = 2
# Seconds until a scheduler must have answered, a result must have come, and between looks at who is there.
_ANSWER, _TRANSFER, _LOOK = 15, 30, 1.0


def on_cluster(recipe: Recipe, address: str) -> Runner:
    """The workers of a Dask cluster.

    Parameters
    ----------
    recipe : Recipe
        From which each worker process makes its own explainer, once. Its files, and the pictures, are there under the
        same paths; a worker that finds others there refuses, by the recipe's ``configuration``.
    address : str
        Of the scheduler, such as 'tcp://scheduler:8786'.

    Returns
    -------
    Runner
        Raises DeviceError where the cluster cannot be reached, is lost, or has workers that cannot do it, and what
        explainers are refused with.

    Raises
    ------
    SettingError
        If Dask is not installed, or the address is none.
    """
    if not re.fullmatch(r"\w+://.+:\d+", address):
        raise SettingError(f"cluster {address!r} is no address of a Dask scheduler, such as tcp://scheduler:8786")
    try:
        import distributed  # noqa: F401 - an extra, and slow to import
    except ImportError as error:
        raise SettingError(
            "--cluster needs Dask, which is not installed: pip install 'onnx-evidence[cluster]'"
        ) from error
    told = (recipe, version("onnx-evidence"))

    def run(jobs: Sequence[Job], tick: Tick, check: Callable[[], None]) -> Iterator[Outcome]:
        client = _connect(address)
        try:
            yield from _Cluster(client, address, told).run(jobs, check)
        finally:
            with suppress(Exception):  # where the scheduler is gone there is nothing to take back
                client.close(timeout=1)

    return run


def _connect(address: str) -> "Client":
    from distributed import Client

    # What it has to say of lost connections is said here, in one line.
    for name in ("distributed", "distributed.client"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        return Client(address, timeout=_ANSWER, set_as_default=False)
    except OSError as error:
        raise DeviceError(
            f"no Dask scheduler answers at {address!r} ({one_line(error)}): start one with 'dask scheduler', and give "
            "its address, such as tcp://host:8786"
        ) from error


class _Cluster:
    """Jobs that wait here, and those that are under way."""

    def __init__(self, client: "Client", address: str, told: tuple[Recipe, str]) -> None:
        self._client, self._address, self._told = client, address, told
        self._under_way: dict[Future, Job] = {}
        self._done: SimpleQueue[Future] = SimpleQueue()
        self._looked, self._room = 0.0, 0

    def run(self, jobs: Sequence[Job], check: Callable[[], None]) -> Iterator[Outcome]:
        waiting = deque(jobs)
        while waiting or self._under_way:
            check()
            self._look()
            while waiting and len(self._under_way) < self._room:
                self._submit(waiting.popleft())
            with suppress(Empty):
                yield from self._take(self._done.get(timeout=PATIENCE))

    def _look(self) -> None:
        """Ask who is there."""
        if time.monotonic() - self._looked < _LOOK:
            return
        workers = self._asked(lambda: len(self._client.nthreads()))
        if workers == 0 and (self._room or not self._looked):
            log.warning("the cluster at %s has no workers: waiting for some", self._address)
        self._looked, self._room = time.monotonic(), _AHEAD * workers

    def _submit(self, job: Job) -> None:
        # Pure tasks of the same arguments would be done once; these are told apart by what they are.
        future = self._asked(lambda: self._client.submit(_explain, *self._told, job, pure=False))
        self._under_way[future] = job
        future.add_done_callback(self._done.put)

    def _asked(self, question: Callable[[], Any]) -> Any:
        try:
            return question()
        except Exception as error:
            raise self._lost(error) from error

    def _lost(self, error: BaseException) -> DeviceError:
        return DeviceError(
            f"the Dask cluster at {self._address!r} is lost ({one_line(error) or type(error).__name__}): the same "
            "command goes on from there"
        )

    def _take(self, future: "Future") -> Iterator[Outcome]:
        from distributed import KilledWorker

        job = self._under_way[future]
        if future.cancelled() or self._client.status != "running":
            raise self._lost(RuntimeError("the scheduler went away"))
        try:
            outcome = future.result(timeout=_TRANSFER)
        except TimeoutError:
            # The worker that had it died before it was fetched, and another is at it again; or it is on its way.
            self._done.put(future)
            return
        except EvidenceError:
            raise
        except KilledWorker as error:
            outcome = worker_died(job, f"workers died while explaining it ({one_line(error)})")
        except Exception as error:
            kind = type(error).__name__
            raise DeviceError(
                f"the workers at {self._address!r} cannot explain ({kind}: {one_line(error)}): install onnx-evidence "
                f"{self._told[-1]} and what it needs on all of them"
            ) from error
        del self._under_way[future]
        yield outcome


# In a worker


class _Opened:
    """What a worker process has opened: one explainer at a time, for one picture at a time."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.recipe: Recipe | None = None
        self.hand: Hand

    def open(self, recipe: Recipe) -> Hand:
        """The explainer of a recipe, made where it is not open."""
        if recipe != self.recipe:
            if self.recipe is not None:
                self.hand.close()
            self.recipe = None
            self.hand, self.recipe = Hand(recipe.open(), recipe), recipe
        return self.hand


_opened = _Opened()


def _explain(recipe: Recipe, release: str, job: Job) -> Outcome:
    """What a worker does."""
    own = version("onnx-evidence")
    if own != release:
        raise DeviceError(f"a worker has onnx-evidence {own}, and this is {release}: install the same everywhere")
    with _opened.lock:  # workers have threads, and a session already takes all processors
        return explain_job(_opened.open(recipe), job, lambda number, copies: None)
