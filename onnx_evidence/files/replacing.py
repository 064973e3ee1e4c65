"""What a file of results may be written over: one of its own kind, and nothing that went in."""

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from onnx_evidence.errors import StoreError, one_line
from onnx_evidence.files.inside import open_regular


def check_replaced(out: Path, inputs: Iterable[Path], kind: str, is_kind: Callable[[BinaryIO], bool]) -> None:
    """Refuse to write over what is not a former output, before time is spent.

    Parameters
    ----------
    out : Path
        The file that will be written.
    inputs : iterable of Path
        Files that are read for it, by any name.
    kind : str
        What is written, in words, such as 'a table of summary'.
    is_kind : callable
        Whether an open file is that.

    Raises
    ------
    StoreError
        If ``out`` is there and is an input, a link, a folder or of another kind.
    """
    if not os.path.lexists(out):
        return
    for path in inputs:
        with suppress(OSError):  # the command says what cannot be read
            if os.path.samefile(out, path):
                raise StoreError(f"{out}: is {path} itself, which would be lost: name another file to write")
    if os.path.islink(out):
        raise StoreError(f"{out}: is a link, and what it leads to is not looked at: name the file itself")
    if os.path.isdir(out):
        raise StoreError(f"{out}: this is a folder; name the file to write")
    if not _holds(out, is_kind):
        raise StoreError(f"{out}: is there already and is not {kind}: name another file to write, or remove it")


def _holds(path: Path, is_kind: Callable[[BinaryIO], bool]) -> bool:
    try:
        with open_regular(path) as stream:
            return os.fstat(stream.fileno()).st_size == 0 or is_kind(stream)  # where nothing is, nothing is lost
    except OSError as error:
        raise StoreError(f"{path}: cannot be replaced: {error.strerror or one_line(error)}") from error
