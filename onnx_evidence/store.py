"""Files of results: written whole or not at all, and the manifest that lists them."""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from onnx_evidence.errors import StoreError, one_line
from onnx_evidence.types import AnyArray

MANIFEST = "manifest.jsonl"


def write_atomic(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file under a temporary name, then rename it.

    Parameters
    ----------
    path : Path
        The file; its folder is made where it is missing.
    write : callable
        Writes the content to an open binary file.

    Raises
    ------
    StoreError
        If the folder or the file cannot be written; nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        raise StoreError(f"{path}: cannot write: {error.strerror or one_line(error)}") from error
    finally:
        if temporary.parent.is_dir():
            temporary.unlink(missing_ok=True)


def write_arrays(path: Path, arrays: Mapping[str, AnyArray]) -> None:
    """Write arrays as a compressed .npz without pickles; equal arrays give equal bytes.

    Parameters
    ----------
    path : Path
        The file; its folder is made where it is missing.
    arrays : mapping of str to ndarray
        By the names that they get in the file.

    Raises
    ------
    StoreError
        If the file cannot be written.
    """

    def write(stream: BinaryIO) -> None:
        np.savez_compressed(stream, allow_pickle=False, **arrays)

    write_atomic(path, write)


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
    probe = folder / ".writable"
    write_atomic(probe, lambda stream: stream.write(b""))
    probe.unlink(missing_ok=True)


def json_line(value: Any) -> str:
    """JSON on one line, as in the manifest.

    Parameters
    ----------
    value : object
        Plain values, all numbers finite.

    Returns
    -------
    str
    """
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


class Manifest:
    """The list of maps in an output folder: one JSON object per line, one line per map.

    A map that is computed again replaces its line.

    Parameters
    ----------
    folder : Path
        The output folder.

    Raises
    ------
    StoreError
        If there is a manifest that cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / MANIFEST
        self._lines: dict[str, str] = {}
        self._whole = False  # whether there is a file that ends with a whole line
        if self.path.exists():
            try:
                # Not splitlines: names may hold other line separators, which JSON leaves as they are.
                *lines, rest = self.path.read_text(encoding="utf-8").split("\n")
                self._lines = {json.loads(line)["map"]: line for line in [*lines, rest] if line.strip()}
                self._whole = not rest
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise StoreError(f"{self.path}: cannot read the manifest: {one_line(error)}") from error

    def entries(self) -> Iterator[dict[str, Any]]:
        """Every line, parsed."""
        return (json.loads(line) for line in self._lines.values())

    def add(self, entries: list[dict[str, Any]]) -> None:
        """Add lines for new maps, or replace those of maps that are listed already.

        Parameters
        ----------
        entries : list of dict
            Plain values, all numbers finite; ``map``, the map's path, tells them apart.

        Raises
        ------
        StoreError
            If the manifest cannot be written.
        """
        new = {entry["map"]: json_line(entry) for entry in entries}
        again = new.keys() & self._lines.keys()
        self._lines.update(new)
        if again or not self._whole:
            text = "".join(f"{line}\n" for line in self._lines.values())
            write_atomic(self.path, lambda stream: stream.write(text.encode()))
            self._whole = True
            return
        try:
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write("".join(f"{line}\n" for line in new.values()))
        except OSError as error:
            raise StoreError(f"{self.path}: cannot write: {error.strerror}") from error
