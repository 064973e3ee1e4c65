"""What is found again among very many lines: in a private database that lies on the disk as soon as it is large.

Dictionaries of a million lines take more than a gigabyte. SQLite keeps a bounded part in memory and the rest in a
temporary file without a name, which the system removes with the process, however that ends. It is in the standard
library, sorts what does not fit into memory, and takes lines that are added later; arrays of hashes and places, as
merged sorted files, would do one of these each.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from onnx_evidence.errors import StoreError

# Rows that are handed over at once.
_ROWS = 256
# KiB of it that stay in memory.
_CACHE = 16 << 10


class Scratch:
    """Tables of this process alone, which SQL statements make, gone with it.

    Its methods raise StoreError where there is no room for them; messages name ``about``.
    """

    def __init__(self, about: str, *tables: str) -> None:
        self._about = about
        with self._told():
            self._base = sqlite3.connect("", isolation_level=None)
        try:
            # Nothing is ever rolled back, nor there for anybody else.
            for statement in ("PRAGMA journal_mode=OFF", f"PRAGMA cache_size=-{_CACHE}", "BEGIN", *tables):
                self.do(statement)
        except BaseException:
            self.close()
            raise

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StoreError(
                f"{self._about}: cannot keep in a temporary file what its lines say ({error}): have TMPDIR name a "
                "folder with space, and allow more open files (ulimit -n)"
            ) from error

    def do(self, statement: str, values: Iterable[Any] = ()) -> list[tuple[Any, ...]]:
        """Run a statement in SQL, with values for its question marks; its rows, few of them."""
        with self._told():
            return self._base.execute(statement, tuple(values)).fetchall()

    def many(self, statement: str, rows: Iterable[tuple[Any, ...]]) -> None:
        """Run a statement for every row."""
        with self._told():
            self._base.executemany(statement, rows)

    def each(self, statement: str) -> Iterator[tuple[Any, ...]]:
        """The rows of a statement, one by one."""
        with self._told():
            cursor = self._base.execute(statement)
        while True:
            with self._told():
                row = cursor.fetchone()
            if row is None:
                return
            yield row

    def close(self) -> None:
        """Give room and file back."""
        self._base.close()


class Names:
    """A set of texts; messages name ``about``."""

    def __init__(self, about: str) -> None:
        self._scratch = Scratch(about, "CREATE TABLE name (text BLOB PRIMARY KEY) WITHOUT ROWID")

    def add(self, *texts: str) -> None:
        """Take some; those that are there already are there once."""
        for text in texts:
            self._scratch.do("INSERT OR IGNORE INTO name VALUES (?)", (key(text),))

    def __contains__(self, text: object) -> bool:
        return bool(self._scratch.do("SELECT 1 FROM name WHERE text = ?", (key(str(text)),)))

    def has_folder(self, name: str) -> bool:
        """Whether one is a path in a folder of this name, or the name itself."""
        start, behind = key(f"{name}/"), key(f"{name}0")  # '0' comes after '/'
        return name in self or bool(
            self._scratch.do("SELECT 1 FROM name WHERE text >= ? AND text < ? LIMIT 1", (start, behind))
        )

    def close(self) -> None:
        """Give room and file back."""
        self._scratch.close()


class Listed(NamedTuple):
    """What is kept of a manifest line."""

    image: str  # the picture, as the user named it
    picture: str  # SHA-256 of its file
    target: int
    versus: int | None
    top: bool  # whether the target is the class that the model gives
    files: dict[str, str]  # SHA-256 of map and, where there is one, figure, by their paths relative to the folder

    @property
    def map(self) -> str:
        """The path of its map."""
        return next(iter(self.files))


def listed(entry: dict[str, Any]) -> Listed:
    """The short form of a manifest line, parsed."""
    hashes = entry["hashes"]
    return Listed(
        entry["image"],
        hashes["image"],
        entry["target"],
        entry["versus"],
        entry["top"][0]["class"] == entry["target"],
        {entry[kind]: hashes[kind] for kind in ("map", "figure") if entry[kind] is not None},
    )


_TABLES = (
    "CREATE TABLE line (number INTEGER PRIMARY KEY, map BLOB, folder BLOB, picture BLOB, said TEXT)",
    "CREATE TABLE dropped (map BLOB PRIMARY KEY) WITHOUT ROWID",
)
_KEYS = ("map", "folder", "picture")


class Index:
    """The lines of a manifest, by map, folder and picture; messages name ``about``."""

    def __init__(self, about: str) -> None:
        self._scratch = Scratch(about, *_TABLES)
        self._new: list[tuple[Any, ...]] = []
        self._sorted = False

    def note(self, line: Listed) -> None:
        """Take a line, the last so far."""
        path = line.map
        self._new.append((key(path), _folder(path), key(line.picture), json.dumps(line)))
        if len(self._new) == _ROWS:
            self._store()

    def _store(self) -> None:
        if self._new:
            self._scratch.many("INSERT INTO line (map, folder, picture, said) VALUES (?, ?, ?, ?)", self._new)
            self._new = []

    def _find(self, statement: str, *values: bytes) -> list[tuple[Any, ...]]:
        self._store()
        if not self._sorted:  # one sort of all lines takes far less than as many insertions at random places
            for name in _KEYS:
                self._scratch.do(f"CREATE INDEX by_{name} ON line ({name})")
            self._sorted = True
        return self._scratch.do(statement, values)

    def count(self) -> int:
        """How many maps there are."""
        found: int = self._find("SELECT COUNT(DISTINCT map) FROM line")[0][0]
        return found

    def of_map(self, path: str) -> Listed | None:
        """The last line of a map."""
        found = self._find("SELECT said FROM line WHERE map = ? ORDER BY number DESC LIMIT 1", key(path))
        return Listed(*json.loads(found[0][0])) if found else None

    def of_picture(self, sha256: str) -> list[Listed]:
        """All lines of a picture, in their order."""
        found = self._find("SELECT said FROM line WHERE picture = ? ORDER BY number", key(sha256))
        return [Listed(*json.loads(said)) for (said,) in found]

    def maps_in(self, name: str) -> frozenset[str]:
        """The maps of a folder of exactly this name."""
        found = self._find(f"SELECT map FROM line WHERE {_EXACT}", *_exact(name))
        return frozenset(path.decode("utf-8", "surrogatepass") for (path,) in found)

    def owner(self, name: str, *, exact: bool = False) -> str | None:
        """SHA-256 of the picture of a folder's first line, or None; if ``exact``, another case is another folder."""
        where, values = (_EXACT, _exact(name)) if exact else ("folder = ?", (_folder(name),))
        found = self._find(f"SELECT picture FROM line WHERE {where} ORDER BY number LIMIT 1", *values)
        return found[0][0].decode() if found else None

    def drop(self, maps: Iterable[str]) -> int:
        """Say of maps, whose paths may come from this index, that `forget` is to forget them; how many there are."""
        for path in maps:
            self._scratch.do("INSERT OR IGNORE INTO dropped VALUES (?)", (key(path),))
        found: int = self._scratch.do("SELECT COUNT(*) FROM dropped")[0][0]
        return found

    def is_dropped(self, path: str) -> bool:
        """Whether a map is to be forgotten."""
        return bool(self._scratch.do("SELECT 1 FROM dropped WHERE map = ?", (key(path),)))

    def forget(self) -> None:
        """Forget the lines of maps that were dropped."""
        self._store()
        self._scratch.do("DELETE FROM line WHERE map IN (SELECT map FROM dropped)")
        self._scratch.do("DELETE FROM dropped")

    def close(self) -> None:
        """Give room and file back."""
        self._scratch.close()


_EXACT = "folder = ? AND substr(map, 1, length(?)) = ?"


def _exact(name: str) -> tuple[bytes, bytes, bytes]:
    start = key(f"{name}/")
    return _folder(name), start, start


def key(text: str) -> bytes:
    """A text as it is compared: by its code points, none of which is refused."""
    return text.encode("utf-8", "surrogatepass")


def _folder(path: str) -> bytes:
    """The folder of a path, as file systems without case see it."""
    return key(path.split("/")[0].casefold())
