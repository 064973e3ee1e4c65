"""Files of results: written whole or not at all."""

import errno
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from onnx_evidence.errors import ModelError, StoreError, one_line
from onnx_evidence.files.arrays import pack_arrays
from onnx_evidence.files.inside import Folder, opened
from onnx_evidence.types import AnyArray

# How files are named that are not finished.
PARTIAL = ".partial"


def write_atomic(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file under a temporary name, then rename it; after a power cut there is the old file or the new one.

    Parameters
    ----------
    path : Path
        Its folder is made where it is missing.
    write : callable
        Writes the content to an open binary file.

    Raises
    ------
    StoreError
        If the folder or the file cannot be written; nothing is left behind.
    """
    with _writing(path):
        make_folder(path.parent)
        with opened(path.parent, path.name) as (folder, leaf):
            _put(folder, leaf, write)
            folder.sync()


def _put(folder: Folder, leaf: str, write: Callable[[BinaryIO], object]) -> None:
    """Write a file and rename it; only its folder's names may be lost still."""
    # Hidden, and short whatever the name is: file systems take 255 bytes.
    temporary = f".{_digest(leaf)}.{os.getpid()}{PARTIAL}"
    folder.remove(temporary)
    try:
        with folder.open(temporary, "xb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        folder.replace(temporary, leaf)
    finally:
        folder.remove(temporary)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Say of what the system refuses that the file cannot be written."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"{path}: cannot write: {error.strerror or one_line(error)}") from error


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file as `write_atomic` does.

    Parameters
    ----------
    path : Path
        Its folder is made where it is missing.
    data : bytes

    Raises
    ------
    StoreError
        If it cannot be written.
    """
    write_atomic(path, partial(_write, data))


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write several files as `write_atomic` does, through no link, and have each folder written to the disk once.

    Parameters
    ----------
    folder : Path
        Where names start from; made where it is missing.
    files : mapping of str to bytes
        By their names.

    Raises
    ------
    StoreError
        If one cannot be written; others may be there then.
    """
    with _writing(folder):
        make_folder(folder)
    for name, data in files.items():
        with _writing(folder / name), opened(folder, name, make=True) as (parent, leaf):
            _put(parent, leaf, partial(_write, data))
    for name in {str(PurePosixPath(name).parent): name for name in files}.values():
        with _writing(folder / name), opened(folder, name) as (parent, _):
            parent.sync()


def remove_files(folder: Path, names: Iterable[str]) -> None:
    """Remove what `write_files` wrote, as far as it is there, and the folders inside that are empty then.

    Parameters
    ----------
    folder : Path
        Where names start from.
    names : iterable of str
        Of files.
    """
    for name in names:
        with suppress(OSError), opened(folder, name) as (parent, leaf):
            parent.remove(leaf)
        if "/" in name:
            with suppress(OSError):  # others are in it, or it is no folder
                (folder / name).parent.rmdir()


def _write(data: bytes, stream: BinaryIO) -> None:
    stream.write(data)


def _digest(name: str) -> str:
    return hashlib.sha256(os.fsencode(name)).hexdigest()[:16]


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, so that they outlast a power cut.

    Parameters
    ----------
    folder : Path
        May be there already.

    Raises
    ------
    OSError
        If it cannot be made.
    """
    if folder.is_dir():
        return
    if folder.exists():
        raise NotADirectoryError(errno.ENOTDIR, f"{folder} is a file, no folder: take another -o")
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder written to the disk; their content is another matter.

    Parameters
    ----------
    folder : Path

    Raises
    ------
    OSError
        If it cannot be opened.
    """
    if os.name == "nt":  # folders cannot be opened there
        return
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def write_arrays(path: Path, arrays: Mapping[str, AnyArray]) -> None:
    """Write arrays as `pack_arrays` packs them.

    Parameters
    ----------
    path : Path
        Its folder is made where it is missing.
    arrays : mapping of str to ndarray
        By the names that they get in the file.

    Raises
    ------
    StoreError
        If the file cannot be written.
    """
    write_bytes(path, pack_arrays(arrays))


def check_writable(folder: Path) -> None:
    """Make ``folder`` and prove that files can be written there, before hours are spent.

    Parameters
    ----------
    folder : Path
        Where results will go.

    Raises
    ------
    StoreError
        If they cannot.
    """
    check_folder(folder)
    with _writing(folder):
        make_folder(folder)
        with opened(folder, ".writable") as (inner, leaf):
            _put(inner, leaf, partial(_write, b""))
            inner.remove(leaf)


def check_folder(folder: Path) -> None:
    """Refuse the name of a file for that of a folder of results.

    Parameters
    ----------
    folder : Path
        Where results will go; it need not be there.

    Raises
    ------
    StoreError
        If it, or what it would lie in, is a file.
    """
    there = next((each for each in (folder, *folder.parents) if os.path.exists(each)), None)
    if there is not None and not os.path.isdir(there):
        raise StoreError(f"{folder}: cannot write: {there} is a file, no folder: take another -o")


def json_line(value: Any) -> str:
    """JSON on one line, as in the manifest.

    Parameters
    ----------
    value : object
        Plain values, all numbers finite.

    Returns
    -------
    str

    Raises
    ------
    ModelError
        Naming a number that is not finite.
    """
    return finite_json(value)


def finite_json(value: Any, indent: int | None = None) -> str:
    """JSON, which has no numbers that are not finite.

    Parameters
    ----------
    value : object
        Plain values.
    indent : int, optional
        Spaces that a level is set in; all on one line without.

    Returns
    -------
    str

    Raises
    ------
    ModelError
        Naming a number that is not finite: what pictures and settings give is checked where it comes in.
    """
    try:
        return json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        place = next(_not_finite(value, ""), None)
        if place is None:
            raise
        raise ModelError(
            f"{place} is not a finite number, so there is no result: take another --layer, --method or --background"
        ) from error


def _not_finite(value: Any, place: str) -> Iterator[str]:
    """Where numbers lie that are not finite, as 'cuts[0].certificate (nan)'."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield from _not_finite(each, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list | tuple):
        for number, each in enumerate(value):
            yield from _not_finite(each, f"{place}[{number}]")
    elif isinstance(value, float) and not math.isfinite(value):
        yield f"{place} ({value})"
