"""What lies in a folder of results besides results: nothing else does, unless somebody put it there."""

import os
import re
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from onnx_evidence.batch import lock
from onnx_evidence.batch.failures import FAILURES
from onnx_evidence.batch.index import Names
from onnx_evidence.batch.journal import read_lines
from onnx_evidence.batch.manifest import MANIFEST
from onnx_evidence.batch.summary import is_table
from onnx_evidence.errors import StoreError
from onnx_evidence.files import PARTIAL
from onnx_evidence.pictures import printable

_RESULTS = (".npz", ".png")
_LINK = "is a link: results are never kept behind links"
_IRREGULAR = "is no regular file"
_NO_LINE = "no line of the manifest knows it: a line is missing, or a run was killed"
_STRAY = "is no result: nothing else belongs here"
_UNFINISHED = "is not finished: a run was killed, or writes now; the run's command again tidies up"
# Bytes that tell what a file is.
_START = 64
# What a lock holds: who has it, or had it when it was killed.
_HOLDER = re.compile(rb"(process [0-9]{1,10})?")
# Results of one configuration, as --subfolder calls their folder.
_SUBFOLDER = re.compile(r".+-([0-9a-f]{12})")


class Stray(NamedTuple):
    """Something that no run leaves there: its name relative to the folder, and what it is, in words."""

    name: str
    what: str


def strays(folder: Path, known: Names, inputs: Names) -> Iterator[Stray]:
    """Whatever is in a folder of results that no line tells of: files, folders, links, pipes; hidden ones too.

    ``known`` are maps and figures, relative to it; ``inputs`` pictures, models and backgrounds, without links: where
    results are written beside them, they are no strays. The order is the system's.
    """
    for path in _listed(folder):
        name = printable(path.name)
        if path.is_symlink():
            yield Stray(name, _LINK)
        elif not path.is_dir():
            known_here = (name,) if name in (MANIFEST, FAILURES, lock.NAME) or _is_table(path) else ()
            yield from _file(path, name, inputs, known_here)
        elif known.has_folder(name):
            yield from _of_picture(path, name, known, inputs)
        elif not _is_subfolder(path):
            yield from _of_nobody(path, name, inputs)


def _of_picture(folder: Path, name: str, known: Container[str], inputs: Names) -> Iterator[Stray]:
    for path in _listed(folder):
        inner = f"{name}/{printable(path.name)}"
        if path.is_symlink():
            yield Stray(inner, _LINK)
        elif path.is_dir():
            yield from _of_nobody(path, inner, inputs)
        else:
            yield from _file(path, inner, inputs, known)


def _of_nobody(folder: Path, name: str, inputs: Names) -> Iterator[Stray]:
    """A folder that no line knows: each thing in it and below, or itself where it is empty."""
    waiting = [(folder, name)]
    while waiting:
        here, name = waiting.pop()
        empty = True
        for path in _listed(here):
            empty = False
            inner = f"{name}/{printable(path.name)}"
            if path.is_symlink():
                yield Stray(inner, _LINK)
            elif path.is_dir():
                waiting.append((path, inner))
            else:
                yield from _file(path, inner, inputs, ())
        if empty:
            yield Stray(name, "no line of the manifest knows this folder")


def _listed(folder: Path) -> Iterator[Path]:
    """What is in a folder, of which there may be very much."""
    with os.scandir(folder) as inside:
        for each in inside:
            yield Path(each.path)


def _file(path: Path, name: str, inputs: Names, known: Container[str]) -> Iterator[Stray]:
    if not path.is_file():
        yield Stray(name, _IRREGULAR)
    elif name == lock.NAME and name in known:
        if not _HOLDER.fullmatch(_start(path)):
            yield Stray(name, "is no lock of a run: it holds something else")
    elif name not in known and not _is_input(path, inputs):
        unfinished = name.rpartition("/")[2].startswith(".") and name.endswith(PARTIAL)
        yield Stray(name, _UNFINISHED if unfinished else _NO_LINE if path.suffix in _RESULTS else _STRAY)


def _is_input(path: Path, inputs: Names) -> bool:
    found = Path(os.path.realpath(path))
    return any(str(each) in inputs for each in (found, *found.parents))


def _start(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(_START)


def of_others(folder: Path) -> Iterator[Stray]:
    """What commands put into a folder of results and `verify` does not look at, in the system's order."""
    for path in _listed(folder):
        name = printable(path.name)
        if _is_subfolder(path):
            yield Stray(name, "holds results of another configuration: verify it by itself")
        elif _is_table(path):
            yield Stray(name, "is a table of 'summary', which is not checked: make it anew")


def _is_subfolder(folder: Path) -> bool:
    """Whether a folder holds results itself, as ``--subfolder`` calls it: by its configuration."""
    called = _SUBFOLDER.fullmatch(folder.name)
    if called is None or folder.is_symlink() or not folder.is_dir():
        return False
    line = _first(folder / MANIFEST)
    if line is not None:
        return str(line.get("configuration"))[:12] == called[1]
    return _first(folder / FAILURES) is not None


def _is_table(path: Path) -> bool:
    if path.suffix.lower() != ".csv" or path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as stream:
        return is_table(stream)


def _first(path: Path) -> dict[str, Any] | None:
    if path.is_symlink() or not path.is_file():
        return None
    try:
        return next((line.value for line in read_lines(path)), None)
    except StoreError:
        return None
