"""Append-only files of JSON lines: a line is there as a whole or not at all, sealed, and chained to the one before.

The last two keys of a line are ``previous``, the seal of the line before (null for the first), and ``seal``, the
SHA-256 of the line's bytes before ``, "seal"``. So no line can be changed, removed, added twice or moved without the
next one, or the line itself, saying so; only lines cut off at the end leave no trace here.
"""

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from pydantic_core import from_json

from onnx_evidence.errors import StoreError
from onnx_evidence.files import json_line, make_folder, open_inside, sync_folder, write_atomic

_SEAL = re.compile(rb', "seal": "([0-9a-f]{64})"\}')
_SEAL_LENGTH = 77
# Bytes of the longest line that is read: far above any receipt.
_LONGEST = 1 << 24


class Line(NamedTuple):
    """A line of a journal, as it was found."""

    number: int  # from 1
    value: dict[str, Any]  # the JSON object; empty where it cannot be read
    seal: str  # as the line says
    problem: str  # what is wrong with the line or its place, in words; empty where nothing is
    torn: bool  # whether it is the last one and lacks its end
    end: int  # where it ends in the file, in bytes

    @property
    def broken(self) -> bool:
        """Whether something is wrong with the line itself, wherever it stands."""
        return self.problem not in ("", _OUT_OF_PLACE)


def sealed(value: dict[str, Any], previous: str | None) -> tuple[bytes, str]:
    """A line with its end, and its seal; of plain values, all numbers finite, and the seal of the line before."""
    # Lone surrogates, which no file name should have and some do, cannot be written.
    text = json_line({**value, "previous": previous}).encode("utf-8", "replace")[:-1]
    seal = hashlib.sha256(text).hexdigest()
    return text + f', "seal": "{seal}"}}\n'.encode(), seal


def read_lines(path: Path) -> Iterator[Line]:
    """All lines of a journal, with what is wrong with them."""
    previous: str | None = None
    end = 0
    with _reading(path) as stream:
        for number, raw in enumerate(iter(lambda: stream.readline(_LONGEST), b""), start=1):
            if len(raw) == _LONGEST:
                raise StoreError(f"{path}: line {number}: is longer than any that is written here")
            end += len(raw)
            line = _line(number, raw, previous, end)
            if line.torn and stream.read(1):
                # Only a last line may lack its end: behind another one nothing is cut off.
                line = line._replace(torn=False)
                stream.seek(end)
            previous = line.seal
            yield line


def read_at(path: Path, start: int) -> Line:
    """The line that begins at a byte of a journal, read before: whether it follows the one before is not asked now."""
    with _reading(path) as stream:
        stream.seek(start)
        raw = stream.readline(_LONGEST)
    line = _line(0, raw, None, start + len(raw))
    return line if line.broken else line._replace(problem="")


@contextmanager
def _reading(path: Path) -> Iterator[BinaryIO]:
    """A journal, open; StoreError where it cannot be read."""
    try:
        with open_inside(path.parent, path.name) as stream:
            yield stream
    except OSError as error:
        raise StoreError(f"{path}: cannot read: {error.strerror or error}") from error


_OUT_OF_PLACE = "the line does not follow the one before: lines were removed, added or moved"


def _line(number: int, raw: bytes, previous: str | None, end: int) -> Line:
    if not raw.endswith(b"\n") or b"\0" in raw:  # where power fails, zeros may stand for what was not written
        return Line(number, {}, "", "the line is not finished", torn=True, end=end)
    body = raw[:-1]
    found = _SEAL.fullmatch(body[-_SEAL_LENGTH:])
    try:
        # Refused besides what is no JSON: numbers that are not finite, lone surrogates, and what is 200 levels deep.
        value = from_json(body, allow_inf_nan=False, cache_strings="keys")
    except ValueError:
        value = None
    if not isinstance(value, dict):
        return Line(number, {}, "", "the line is no JSON object", torn=False, end=end)
    if found is None:
        return Line(number, value, "", "the line has no seal", torn=False, end=end)
    seal = found[1].decode()
    problem = ""
    if hashlib.sha256(body[:-_SEAL_LENGTH]).hexdigest() != seal:
        problem = "the line was changed: its seal is another's"
    elif value.get("previous") != previous:
        problem = _OUT_OF_PLACE
    return Line(number, value, seal, problem, torn=False, end=end)


class Journal:
    """A file of sealed lines, open for adding more, by one process at a time; a torn last line is cut off.

    The file is made with the first line; ``see`` is called with every line that is there. Where one is not as it was
    written, or the file cannot be read or written, it stays as it was and StoreError says why.
    """

    def __init__(self, path: Path, see: Callable[[dict[str, Any]], None]) -> None:
        self.path = path
        self.head: str | None = None  # the seal of the last line
        self._size = 0
        if not path.exists():
            return
        for line in read_lines(path):
            if line.torn:
                self._cut()
                break
            if line.problem:
                raise StoreError(
                    f"{path}: line {line.number}: {line.problem}; nothing is added to it: take another -o, or bring "
                    "back the file as it was"
                )
            see(line.value)
            self.head, self._size = line.seal, line.end

    def _cut(self) -> None:
        try:
            with open_inside(self.path.parent, self.path.name, "r+b") as stream:
                stream.truncate(self._size)
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise StoreError(f"{self.path}: cannot write: {error.strerror}") from error

    def add(self, values: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """Add plain values, all numbers finite, all or none; what is written, with ``previous`` and ``seal``."""
        data, head, written = b"", self.head, []
        for value in values:
            line, seal = sealed(value, head)
            written.append({**value, "previous": head, "seal": seal})
            data, head = data + line, seal
        try:
            self._append(data)
        except OSError as error:
            raise StoreError(f"{self.path}: cannot write: {error.strerror or error}") from error
        self.head, self._size = head, self._size + len(data)
        return written

    def _append(self, data: bytes) -> None:
        new = not self.path.exists()
        if new:
            make_folder(self.path.parent)
        with open_inside(self.path.parent, self.path.name, "ab") as stream:
            try:
                rest = memoryview(data)
                while rest:
                    rest = rest[stream.write(rest) :]
                os.fsync(stream.fileno())
            except OSError:
                stream.truncate(self._size)
                raise
        if new:
            sync_folder(self.path.parent)

    def values(self) -> Iterator[dict[str, Any]]:
        """Every line, read again."""
        return (line.value for line in read_lines(self.path)) if self.path.exists() else iter(())

    def rewrite(self, values: Iterable[dict[str, Any]]) -> None:
        """Put other lines, maybe made from `values`, in the place of all; the file is removed where there are none."""
        head: str | None = None
        size = 0

        def write(stream: Any) -> None:
            nonlocal head, size
            for value in values:
                bare = {key: each for key, each in value.items() if key not in ("previous", "seal")}
                line, head = sealed(bare, head)
                stream.write(line)
                size += len(line)

        write_atomic(self.path, write)
        if head is None:
            self.path.unlink(missing_ok=True)
        self.head, self._size = head, size
