"""Output folders of shards, joined into one."""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from onnx_evidence.batch import fingerprint, places
from onnx_evidence.batch.failures import FAILURES
from onnx_evidence.batch.folder import ResultFolder
from onnx_evidence.batch.index import Listed, Scratch, key, listed
from onnx_evidence.batch.journal import read_at, read_lines
from onnx_evidence.batch.manifest import MANIFEST, manifest_of
from onnx_evidence.batch.receipt import Failure, unlike, unlike_receipt
from onnx_evidence.errors import StoreError
from onnx_evidence.files import MOST, open_inside, remove_files, write_files

# Lines that are added at once.
_LINES = 32


class Merged(NamedTuple):
    """What a merge did."""

    maps: int  # that were added
    before: int  # maps that were there already
    failures: int  # pictures in the list of failures now


class _Found(NamedTuple):
    """Where a manifest line of a source lies, and its seal."""

    source: Path
    start: int
    seal: str


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
    with closing(_Order(out, sources)) as order, ResultFolder(out, order.common()) as folder:
        for _ in _failures(sources):  # what is wrong with them is said before anything is written
            pass
        target = _Target(folder)
        added = before = 0
        try:
            for each in order:
                new = target.take(each)
                added, before = added + new, before + (not new)
                progress(1)
        except BaseException:
            target.undo()
            raise
        target.flush()
        for failure in _failures(sources):
            folder.failures.take(failure)
        return Merged(added, before, folder.failures.count())


def _failures(sources: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """The failures of all sources; StoreError where a list of them cannot be read."""
    for source in sources:
        path = source / FAILURES
        for line in read_lines(path) if os.path.lexists(path) else ():
            if not line.torn:
                if wrong := unlike(line.value, Failure):
                    raise StoreError(
                        f"{path}: line {line.number}: is no failure of this version ({wrong}): run the shard's command "
                        "again"
                    )
                yield line.value


class _Order:
    """The lines of all sources, as the merged manifest has them: by picture, then by map; messages name ``out``."""

    def __init__(self, out: Path, sources: Sequence[Path]) -> None:
        self._sources = sorted(set(sources))
        self._scratch = Scratch(str(out), _TABLE)
        try:
            for source in sources:
                place = self._sources.index(source)
                self._scratch.many("INSERT INTO line VALUES (?, ?, ?, ?, ?, ?)", _lines(source, place))
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> Iterator[_Found]:
        return self._found()

    def _found(self, among: str = "") -> Iterator[_Found]:
        for source, start, seal in self._scratch.each(f"SELECT source, start, seal FROM line {among} {_BY}"):
            yield _Found(self._sources[source], start, seal)

    def common(self) -> dict[str, Any] | None:
        """The configuration of all lines; None where there are none."""
        first = next(self._found(), None)
        if first is None:
            return None
        entry = _read(first)
        # As the line says; its form was checked.
        other = next(self._found(f"WHERE configuration != '{entry['configuration']}'"), None)
        if other is not None:
            apart = fingerprint.differences(fingerprint.of_entry(entry), fingerprint.of_entry(_read(other)))
            both = f"{first.source} and {other.source}"
            raise StoreError(
                f"{both} hold maps of different configurations: {'; '.join(apart)}; merge shards of one run"
            )
        return fingerprint.of_entry(entry)

    def close(self) -> None:
        """Give room and file back."""
        self._scratch.close()


_TABLE = "CREATE TABLE line (image BLOB, map BLOB, source INTEGER, start INTEGER, configuration TEXT, seal TEXT)"
_BY = "ORDER BY image, map, source, start"


class _Target:
    """The folder that gets everything, and what is there already."""

    def __init__(self, folder: ResultFolder) -> None:
        self.folder = folder
        # Lines that wait to be added, and what is known of them.
        self._waiting: list[dict[str, Any]] = []
        self._copied: list[str] = []
        self._new: dict[str, Listed] = {}
        self._owners: dict[str, str] = {}

    def take(self, found: _Found) -> bool:
        """Copy the files of a line, and add it; False where it is there already."""
        entry = _read(found)
        line = listed(entry)
        name, index = line.map.split("/")[0], self.folder.manifest.index
        there = self._new.get(line.map) or index.of_map(line.map)
        owner = self._owners.get(name) or index.owner(name, exact=True)
        if owner not in (None, line.picture) or (there is not None and there.files != line.files):
            raise StoreError(f"{found.source}: {line.map} is another one than elsewhere: merge shards of one run")
        if there is not None:
            return False
        for path, digest in line.files.items():
            self._copied.append(path)
            self._copy(found.source, path, digest)
        bare = {key: value for key, value in entry.items() if key not in ("previous", "seal")}
        if bare.get("places"):
            bare["places"] = places.moved(bare["places"], found.source, self.folder.path)
        self._waiting.append(bare)
        self._new[line.map], self._owners[name] = line, line.picture
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
        if not self._waiting:
            return
        waiting = self._waiting
        # From here on lines may be there, whatever comes between: their maps are not taken back. Maps without lines
        # do no harm, the next merge adds them.
        self._waiting, self._copied, self._new, self._owners = [], [], {}, {}
        self.folder.manifest.add(waiting)

    def undo(self) -> None:
        """Take back the files of lines that wait: a folder holds no map without its line."""
        remove_files(self.folder.path, self._copied)
        self._copied = []


def _lines(source: Path, place: int) -> Iterator[tuple[Any, ...]]:
    """Where the lines of a source begin, and what they are about."""
    if not (source / FAILURES).exists():
        manifest_of(source)
    start = 0
    for line in read_lines(source / MANIFEST) if (source / MANIFEST).exists() else ():
        if line.problem:
            remedy = "let its run finish first" if line.torn else "'onnx-evidence verify' says more"
            raise StoreError(f"{source / MANIFEST}: line {line.number}: {line.problem}; {remedy}")
        value = line.value
        if wrong := unlike_receipt(value):
            raise StoreError(f"{source / MANIFEST}: line {line.number}: is no receipt of this version: {wrong}")
        yield key(value["image"]), key(value["map"]), place, start, value["configuration"], line.seal
        start = line.end


def _read(found: _Found) -> dict[str, Any]:
    """A line, as it was when it was checked."""
    line = read_at(found.source / MANIFEST, found.start)
    if line.seal != found.seal or line.problem:
        raise StoreError(f"{found.source / MANIFEST}: was changed meanwhile: let the shard's run finish first")
    return line.value
