"""Output folders of shards, joined into one."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from onnx_evidence.batch import fingerprint, places
from onnx_evidence.batch.failures import FAILURES
from onnx_evidence.batch.folder import ResultFolder
from onnx_evidence.batch.journal import read_lines
from onnx_evidence.batch.manifest import MANIFEST, listed, manifest_of
from onnx_evidence.batch.receipt import unlike_receipt
from onnx_evidence.errors import StoreError
from onnx_evidence.files.inside import MOST, open_inside
from onnx_evidence.store import write_files

# Lines that are added at once.
_LINES = 32


class Merged(NamedTuple):
    """What a merge did.

    Attributes
    ----------
    maps, before, failures : int
        Maps that were added, that were there already, and pictures in the list of failures now.
    """

    maps: int
    before: int
    failures: int


class _Found(NamedTuple):
    """A manifest line of a source; sorts as the merged manifest is sorted."""

    image: str
    map: str
    source: Path
    start: int
    configuration: str


def merge(sources: Sequence[Path], out: Path, progress: Callable[[int], object] = lambda maps: None) -> Merged:
    """Copy maps, figures and lines of some folders into one; files are checked on the way.

    Once more it adds what is new, and changes nothing otherwise.

    Parameters
    ----------
    sources : sequence of Path
        Output folders of `explain`, of one configuration.
    out : Path
        The folder that gets everything.
    progress : callable
        Called with the number of maps done since the last call.

    Returns
    -------
    Merged

    Raises
    ------
    StoreError
        If a source is not finished, damaged or of another configuration, two say different things about one map, or
        the results cannot be written.
    """
    if os.path.realpath(out) in {os.path.realpath(source) for source in sources}:
        raise StoreError(f"{out}: cannot be merged into itself: take another -o")
    found = sorted(line for source in sources for line in _lines(source))
    with ResultFolder(out, _common(found)) as folder:
        target = _Target(folder)
        added = 0
        for each in found:
            added += target.take(each)
            progress(1)
        target.flush()
        for source in sources:
            for line in read_lines(source / FAILURES) if (source / FAILURES).exists() else ():
                if not line.torn:
                    folder.failures.take(line.value)
        return Merged(added, len(found) - added, len(folder.failures.entries()))


class _Target:
    """The folder that gets everything, and what is there already."""

    def __init__(self, folder: ResultFolder) -> None:
        self.folder = folder
        self._maps = dict(folder.manifest.lines)
        self._owners = {path.split("/")[0]: line.picture for path, line in self._maps.items()}
        self._waiting: list[dict[str, Any]] = []

    def take(self, found: _Found) -> bool:
        """Copy the files of a line, and add it; False where it is there already."""
        entry = _read(found)
        line = listed(entry)
        there = self._maps.setdefault(found.map, line)
        owner = self._owners.setdefault(found.map.split("/")[0], line.picture)
        if owner != line.picture or there.files != line.files:
            raise StoreError(f"{found.source}: {found.map} is another one than elsewhere: merge shards of one run")
        if there is not line:
            return False
        for path, digest in line.files.items():
            self._copy(found.source, path, digest)
        bare = {key: value for key, value in entry.items() if key not in ("previous", "seal")}
        if bare.get("places"):
            bare["places"] = places.moved(bare["places"], found.source, self.folder.path)
        self._waiting.append(bare)
        if len(self._waiting) == _LINES:
            self.flush()
        return True

    def _copy(self, source: Path, name: str, digest: str) -> None:
        try:
            with open_inside(source, name, most=MOST) as stream:
                data = stream.read()
        except OSError as error:
            raise StoreError(f"{source / name}: cannot read: {error.strerror or error}") from error
        if hashlib.sha256(data).hexdigest() != digest:
            raise StoreError(f"{source / name}: was changed since it was written: run the shard's command again")
        write_files(self.folder.path, {name: data})

    def flush(self) -> None:
        """Add the lines whose files are there."""
        if self._waiting:
            self.folder.manifest.add(self._waiting)
            self._waiting = []


def _lines(source: Path) -> list[_Found]:
    """Where the lines of a source begin, and what they are about."""
    if not (source / FAILURES).exists():
        manifest_of(source)
    found, start = [], 0
    for line in read_lines(source / MANIFEST) if (source / MANIFEST).exists() else ():
        if line.problem:
            remedy = "let its run finish first" if line.torn else "'onnx-evidence verify' says more"
            raise StoreError(f"{source / MANIFEST}: line {line.number}: {line.problem}; {remedy}")
        value = line.value
        if wrong := unlike_receipt(value):
            raise StoreError(f"{source / MANIFEST}: line {line.number}: is no receipt of this version: {wrong}")
        found.append(_Found(value["image"], value["map"], source, start, value["configuration"]))
        start = line.end
    return found


def _common(found: Sequence[_Found]) -> dict[str, Any] | None:
    """The configuration of all lines; None where there are none."""
    if not found:
        return None
    first = fingerprint.of_entry(_read(found[0]))
    other = next((each for each in found if each.configuration != found[0].configuration), None)
    if other is not None:
        apart = fingerprint.differences(first, fingerprint.of_entry(_read(other)))
        both = f"{found[0].source} and {other.source}"
        raise StoreError(f"{both} hold maps of different configurations: {'; '.join(apart)}; merge shards of one run")
    return first


def _read(found: _Found) -> dict[str, Any]:
    with open_inside(found.source, MANIFEST) as stream:
        stream.seek(found.start)
        entry: dict[str, Any] = json.loads(stream.readline())
    return entry
