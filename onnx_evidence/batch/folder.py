"""An output folder while a run holds it: locked, tidied up after a run that was killed, its lists open."""

import os
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from onnx_evidence.batch import places
from onnx_evidence.batch.failures import Failures
from onnx_evidence.batch.lock import FolderLock
from onnx_evidence.batch.manifest import Manifest
from onnx_evidence.batch.plan import Item
from onnx_evidence.batch.work import Job, Outcome, folder_name
from onnx_evidence.errors import StoreError
from onnx_evidence.explainer import Explainer
from onnx_evidence.files import PARTIAL, below, check_writable, write_files
from onnx_evidence.pictures import MAX_PIXELS


class ResultFolder:
    """The only writer of an output folder, in a ``with``.

    Parameters
    ----------
    path : Path
        Made where it is missing.
    configuration : dict or None
        Of the maps that will be added, from `fingerprint.of_explainer`; None to take what is there.

    Attributes
    ----------
    manifest : Manifest
        Its maps; there in the ``with`` alone, as `failures` is.
    failures : Failures
        Pictures that could not be explained.
    """

    manifest: Manifest
    failures: Failures

    def __init__(self, path: Path, configuration: dict[str, Any] | None = None) -> None:
        self.path, self._configuration = path, configuration
        self._lock = FolderLock(path)
        self._held = ExitStack()

    def __enter__(self) -> "ResultFolder":
        """Take the folder and read its lists; StoreError if another run has it, or it cannot be written or read."""
        with ExitStack() as held:
            held.enter_context(self._lock)
            self.manifest = Manifest(self.path, self._configuration)
            held.callback(self.manifest.close)
            self.failures = Failures(self.path)
            held.callback(self.failures.close)
            check_writable(self.path)
            if self._lock.left:
                self.sweep()
            self._held = held.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Tidy up and give the folder back."""
        try:
            if kind is None:
                self.failures.tidy()
            else:  # where the disk is full there may be no way to tidy up: the next run does
                with suppress(StoreError, OSError):
                    self.sweep()
                    self.failures.tidy()
        finally:
            self._held.__exit__(kind, error, trace)

    def sweep(self) -> None:
        """Remove what killed processes left unfinished."""
        unfinished = [path for path in below(self.path) if path.name.startswith(".") and path.name.endswith(PARTIAL)]
        for path in filter(os.path.isfile, unfinished):
            path.unlink(missing_ok=True)
            if path.parent != self.path and not any(path.parent.iterdir()):
                path.parent.rmdir()

    def plan(
        self, items: Sequence[Item], explainer: Explainer, *, max_pixels: int = MAX_PIXELS, figures: bool = True
    ) -> tuple[list[Job], int]:
        """What is left to do of a plan.

        Failures of pictures that are finished are forgotten; maps that are listed but gone or damaged are done again.

        Parameters
        ----------
        items : sequence of Item
            The plan; bytes are known.
        explainer : Explainer
            To find classes.
        max_pixels : int
            Of the largest picture that is taken.
        figures : bool
            Whether figures are drawn; finished maps stay as they are.

        Returns
        -------
        jobs : list of Job
            In the plan's order.
        damaged : int
            Maps whose lines were dropped.

        Raises
        ------
        StoreError
            If the manifest cannot be written.
        """
        manifest = self.manifest
        damaged = manifest.drop(manifest.damaged(items))
        left = manifest.unfinished(items, explainer.deployed.find_class)
        waiting = iter(left)
        open_one = next(waiting, None)
        for item in items:
            if item is open_one:
                open_one = next(waiting, None)
            else:
                self.failures.drop(item)
        jobs = []
        for number, item in enumerate(left):
            folder = folder_name(item, manifest.index.owner)
            jobs.append(Job(number, item, folder, manifest.index.maps_in(folder), max_pixels, figures))
        return jobs, damaged

    def take(self, outcome: Outcome) -> list[dict[str, Any]]:
        """Write the files that came of a job, then list them.

        Parameters
        ----------
        outcome : Outcome
            Of a job of `plan`.

        Returns
        -------
        list of dict
            Manifest lines as they are written; none of a failure.

        Raises
        ------
        StoreError
            If a file or a list cannot be written; nothing is listed then.
        """
        if outcome.reason:
            self.failures.add(outcome.job.item, outcome.kind, outcome.reason)
            return []
        write_files(self.path, outcome.files)
        picture = outcome.job.item.path
        entries = [{**entry, "places": places.seen_from(self.path, entry, picture)} for entry in outcome.entries]
        written = self.manifest.add(entries) if entries else []
        self.failures.drop(outcome.job.item)
        return written
