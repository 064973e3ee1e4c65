"""One picture: read, explained, its files made. What a process does that is no run's parent; only that one writes."""

import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from onnx_evidence.batch import fingerprint
from onnx_evidence.batch.fingerprint import SCHEMA
from onnx_evidence.batch.plan import Item
from onnx_evidence.errors import (
    ChangedError,
    DataError,
    DeviceError,
    EvidenceError,
    StoreError,
    naming,
    one_line,
    short_of_handles,
)
from onnx_evidence.evidence import Budget
from onnx_evidence.explainer import Explainer
from onnx_evidence.files import json_line
from onnx_evidence.pictures import MAX_PIXELS, padding_bits, printable
from onnx_evidence.results import Explanation, Extreme, Named, write_figure

T = TypeVar("T")

log = logging.getLogger(__name__)

# How ONNX Runtime and the libraries below it say that an allocation failed.
_NO_MEMORY = ("failed to allocate", "bad_alloc", "out of memory", "memory allocation", "alloc_failed")
# Of a stem, where something is added to it: file systems take 255 bytes.
_STEM = 60
# Called with the item's number and the edited copies done since the last call.
Tick = Callable[[int, int], object]


@dataclass(frozen=True)
class Recipe:
    """What an `Explainer` is made from, to be sent to other processes.

    Attributes
    ----------
    model : Path
        The .onnx file.
    options : dict
        Keyword arguments of `Explainer`.
    configuration : str
        Fingerprint of what is to be found there; '' before it is known.
    """

    model: Path
    options: dict[str, Any]
    configuration: str = ""

    def open(self, **changed: Any) -> Explainer:
        """Make it.

        Parameters
        ----------
        **changed
            Other options than these.

        Returns
        -------
        Explainer

        Raises
        ------
        EvidenceError
            As `Explainer`.
        DeviceError
            If something else lies there now: the whole run is of one model.
        """
        explainer = Explainer(self.model, **{**self.options, **changed})
        found = fingerprint.digest(fingerprint.of_explainer(explainer))
        if self.configuration not in ("", found):
            explainer.close()
            raise DeviceError(
                f"{self.model}: another model, preprocessing, background or labels lie there than when the run began: "
                "have all processes see the same files, and change none while it lasts"
            )
        return explainer


class Hand:
    """An explainer that takes smaller batches where memory is short, which changes no map.

    Parameters
    ----------
    explainer : Explainer
        Ready for pictures.
    recipe : Recipe, optional
        To make it again; without one, memory that is short is an error like others.
    """

    def __init__(self, explainer: Explainer, recipe: Recipe | None = None) -> None:
        self.explainer, self._recipe = explainer, recipe
        # Rows of the batches of the one that is still to be made again.
        self._smaller: int | None = None

    def close(self) -> None:
        """Close the explainer that it has now."""
        self.explainer.close()

    def run(self, work: Callable[[Explainer], T]) -> T:
        """Do something with the explainer; again with half the batch, and for good, where an allocation fails.

        Parameters
        ----------
        work : callable
            May be called several times.

        Returns
        -------
        object
            What it returned.
        """
        while True:
            try:
                if self._recipe is not None and self._smaller is not None:
                    self.explainer, self._smaller = self._recipe.open(batch_size=self._smaller), None
                return work(self.explainer)
            except (EvidenceError, MemoryError) as error:
                half = (self._smaller or self.explainer.settings.batch_size) // 2
                if self._recipe is None or half < 1 or not _short_of_memory(error):
                    raise
                log.warning("memory is short: going on with batches of %d", half)
                # Before another is opened, which may fail for want of memory as well, and is tried again then.
                self.close()
                self._smaller = half


def _short_of_memory(error: BaseException) -> bool:
    """Whether it, or what it came from, is an allocation that failed."""
    cause = error.__cause__
    said = str(error).casefold()
    return (
        isinstance(error, MemoryError)
        or any(words in said for words in _NO_MEMORY)
        or (cause is not None and _short_of_memory(cause))
    )


@dataclass(frozen=True)
class Job:
    """An item of the plan, with what its results are called.

    Attributes
    ----------
    number : int
        Its place among the jobs of the run.
    item : Item
        The picture and what is asked.
    folder : str
        The picture's folder in the output folder.
    there : frozenset of str
        Maps of it that are finished.
    max_pixels : int
        Of the largest picture that is taken.
    figures : bool
        Whether figures are drawn, which may take longer than all else.
    """

    number: int
    item: Item
    folder: str
    there: frozenset[str]
    max_pixels: int = MAX_PIXELS
    figures: bool = True


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Attributes
    ----------
    job : Job
        The job.
    entries : list of dict
        Manifest lines of its new maps.
    kind : str
        Name of the error's type; empty where it was explained.
    reason : str
        Why it was not, in one line.
    files : dict of str to bytes
        What is to be written, by names in the output folder.
    """

    job: Job
    entries: list[dict[str, Any]]
    kind: str = ""
    reason: str = ""
    files: dict[str, bytes] = field(default_factory=dict, repr=False)


def folder_name(item: Item, owner: Callable[[str], str | None]) -> str:
    """The picture's folder: its stem, with a hash of its path and bytes where that would not be the picture's alone.

    No other picture gets that name, and it leads nowhere else; ``owner`` gives the SHA-256 of the picture that a folder
    of earlier results is of.
    """
    stem = item.path.stem
    name = printable(stem)
    if item.alone and not _reserved(name) and name == stem and owner(name) in (None, item.sha256):
        return name
    return f"{_shortened(name)}-{_told(os.fsencode(item.path), item.sha256)}"


def may_be_folder(folder: str, image: str, sha256: str) -> bool:
    """Whether `folder_name` may give that to a picture of that SHA-256, called as the user and receipts call it."""
    name = Path(image).stem
    if folder == name and not _reserved(name):
        return True
    # File systems of other encodings leave characters out, which the hash does not.
    prefixes = {_shortened(name), name.encode("ascii", "ignore").decode().lstrip(".")[:_STEM]}
    front, _, behind = folder.rpartition("-")
    if "\N{REPLACEMENT CHARACTER}" in image:  # the bytes that it was called by are not known
        return front in prefixes and re.fullmatch("[0-9a-f]{16}", behind) is not None
    return front in prefixes and behind == _told(image.encode("utf-8", "surrogatepass"), sha256)


def _reserved(name: str) -> bool:
    return name.casefold() in ("manifest.jsonl", "failures.jsonl") or name.startswith(".")


def _shortened(name: str) -> str:
    try:
        os.fsencode(name)
    except UnicodeEncodeError:  # file systems of another encoding than UTF-8
        name = name.encode("ascii", "ignore").decode()
    return name.lstrip(".")[:_STEM]


def _told(path: bytes, sha256: str | None) -> str:
    return hashlib.sha256(path + b"\0" + (sha256 or "").encode()).hexdigest()[:16]


def explain_job(hand: Hand, job: Job, tick: Tick) -> Outcome:
    """Explain a picture and make the files of its maps and figures, or the outcome that tells what is wrong with it.

    What is wrong for all pictures is raised: DeviceError, ChangedError (the model is another one now), and the
    EvidenceError of too many open files. What ``tick`` raises ends the job.
    """
    start = time.perf_counter()
    try:
        explanations = hand.run(lambda explainer: _explain(explainer, job, tick))
        return _outcome(hand.explainer, job, explanations, start)
    except (DeviceError, ChangedError):
        raise
    except EvidenceError as error:
        if short_of_handles(error):
            raise
        return Outcome(job, [], type(error).__name__, naming(job.item.name, error))
    except Exception as error:
        if short_of_handles(error):
            raise StoreError(f"{job.item.name}: cannot be explained: {one_line(error)}") from error
        # Whatever it is, it is this picture's: the others go on, and the line says what it was.
        log.info("%s", job.item.name, exc_info=True)
        kind = type(error).__name__
        return Outcome(job, [], kind, f"{job.item.name}: cannot be explained: {kind}: {one_line(error)}")


def _explain(explainer: Explainer, job: Job, tick: Tick) -> list[Explanation]:
    item = job.item
    photograph = explainer.deployed.read(item.path, job.max_pixels)
    if photograph.sha256 != item.sha256:
        raise DataError(f"{item.name}: the picture changed during the run: run the same command again")
    return explainer.explain_all(photograph, item.targets, item.versus, lambda copies: tick(job.number, copies))


def _outcome(explainer: Explainer, job: Job, explanations: list[Explanation], start: float) -> Outcome:
    """The files and lines of maps that are not there yet; figures of one picture share one scale."""
    configuration = fingerprint.digest(fingerprint.of_explainer(explainer))
    limit = max(float(np.abs(explanation.shown).max()) for explanation in explanations)
    entries: list[dict[str, Any]] = []
    files: dict[str, bytes] = {}
    for explanation in explanations:
        base = f"{job.folder}/{slug(explanation.target, explanation.versus)}"
        if f"{base}.npz" in job.there:
            continue
        made = {f"{base}.npz": explanation.packed()}
        if job.figures:
            made[f"{base}.png"] = drawn(explanation, limit)
        files |= made
        hashes = {name: hashlib.sha256(data).hexdigest() for name, data in made.items()}
        entries.append(line_of(job.item.name, explanation, base, hashes, configuration))
    seconds = round(time.perf_counter() - start, 3)
    return Outcome(job, [{**entry, "seconds": seconds} for entry in entries], files=files)


def line_of(
    name: str, explanation: Explanation, base: str, hashes: Mapping[str, str], configuration: str
) -> dict[str, Any]:
    """The manifest line of a map, but for seconds, places and seals: what a run writes and `verify` holds it against.

    ``name`` is the picture as the user named it, ``base`` what its files are called without endings, and ``hashes`` has
    their SHA-256 by their names: of the map and, where there is one, of the figure.
    """
    entry = {**_entry(name, explanation, base, hashes), "configuration": configuration}
    picture, target = entry["hashes"]["image"], entry["target"]
    entry["work"] = fingerprint.of_work(configuration, picture, target, entry["versus"])
    # As it will be read again: tuples become lists.
    plain: dict[str, Any] = json.loads(json_line(entry))
    return plain


def drawn(explanation: Explanation, limit: float, **how: int) -> bytes:
    """The figure of a map, as a PNG file; see `Explanation.figure`, and `write_figure` for how."""
    stream = BytesIO()
    write_figure(explanation.figure(limit, again=True), stream, **how)
    return stream.getvalue()


def _entry(name: str, explanation: Explanation, base: str, hashes: Mapping[str, str]) -> dict[str, Any]:
    record = explanation.record
    figure = f"{base}.png" if f"{base}.png" in hashes else None
    return {
        "schema": SCHEMA,
        "image": name,
        "target": explanation.target.number,
        "label": explanation.target.label,
        "versus": explanation.versus and explanation.versus.number,
        "versus_label": explanation.versus and explanation.versus.label,
        "probability": explanation.probability,
        "log_odds_bits": explanation.log_odds_bits,
        "unit": explanation.unit,
        "budget": explanation.budget and _budget(explanation.budget),
        "patch": list(explanation.patch),
        "padding_bits": padding_bits(explanation.values, explanation.placement) if explanation.adds_up else None,
        "map": f"{base}.npz",
        "figure": figure,
        "strongest_for": _extreme(explanation.strongest(1)),
        "strongest_against": _extreme(explanation.strongest(-1)),
        **record,
        "cuts": [
            {**cut, "silent": bool(silent), **({} if budget is None else {"budget": _budget(budget)})}
            for cut, silent, budget in zip_longest(record["cuts"], explanation.silent, explanation.budgets)
        ],
        "hashes": {**record["hashes"], "map": hashes[f"{base}.npz"], "figure": figure and hashes[figure]},
    }


def slug(target: Named, versus: Named | None) -> str:
    """What the files of a map are called: the number and name of its class, and of the one that it is held against."""
    name = _file_name(target)
    return f"{name}-versus-{_file_name(versus)}" if versus else name


def _file_name(named: Named) -> str:
    words = re.sub(r"[^a-z0-9]+", "-", named.label.casefold()).strip("-")[:40]
    return f"{named.number}-{words}" if words else str(named.number)


def _budget(budget: Budget) -> dict[str, Any]:
    return {
        "with_bits": budget.with_features,
        "without_bits": budget.without,
        "for_bits": budget.supporting,
        "against_bits": budget.opposing,
        "gap_bits": budget.gap,
        "gap_share": budget.gap_share,
        "pixels_bits": budget.carried,
        "steps": budget.steps,
    }


def _extreme(extreme: Extreme) -> dict[str, Any]:
    error = None if np.isnan(extreme.stderr) else extreme.stderr
    interval = None if extreme.interval is None else list(extreme.interval)
    return {"bits": extreme.bits, "stderr": error, "interval": interval, "row": extreme.row, "col": extreme.col}
