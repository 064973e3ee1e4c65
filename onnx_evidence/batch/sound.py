"""What `verify` keeps of very many lines: where sound ones lie, to be computed again, and some of what is wrong."""

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

from onnx_evidence.batch import fingerprint
from onnx_evidence.batch.index import Scratch
from onnx_evidence.batch.journal import Line, read_at
from onnx_evidence.errors import StoreError

T = TypeVar("T")

# Things of one kind that are named.
NAMED = 1000


class Some(Generic[T]):
    """The first of very many things, and how many there are: its length is that of all."""

    def __init__(self) -> None:
        self._first: list[T] = []
        self._count = 0

    def add(self, *things: T) -> None:
        """Take some more."""
        self._count += len(things)
        self._first += things[: NAMED - len(self._first)] if len(self._first) < NAMED else ()

    def add_sorted(self, things: Iterable[T], by: Callable[[T], Any]) -> None:
        """Take some, maybe very many, in the order of ``by`` and not as they come in; the first are kept."""

        def counted() -> Iterator[T]:
            for each in things:
                self._count += 1
                yield each

        counting = counted()
        self._first += heapq.nsmallest(max(0, NAMED - len(self._first)), counting, key=by)
        deque(counting, maxlen=0)  # of none the smallest are known at once

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[T]:
        return iter(self._first)


class Sound:
    """Lines of a manifest that can be computed again; they are read once more when they are."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._scratch = Scratch(
            str(path.parent),
            "CREATE TABLE line (number INTEGER PRIMARY KEY, start INTEGER, seal TEXT, work TEXT, broken INTEGER)",
        )

    def note(self, line: Line, start: int) -> None:
        """Take a line, and where it begins; one that was changed says by itself which of its numbers are not so."""
        values = (start, line.seal, line.value["work"], line.broken)
        self._scratch.do("INSERT INTO line (start, seal, work, broken) VALUES (?, ?, ?, ?)", values)

    def __len__(self) -> int:
        found: int = self._scratch.do("SELECT COUNT(*) FROM line")[0][0]
        return found

    def works(self) -> Iterator[str]:
        """What the lines are known by, in their order."""
        return (work for (work,) in self._scratch.each("SELECT work FROM line ORDER BY number"))

    def entries(self, places: Iterable[int] | None = None) -> Iterator[dict[str, Any]]:
        """Lines, parsed, at some places from 0 or at all; StoreError where one was changed since it was noted."""
        for place in range(len(self)) if places is None else places:
            ((*noted, start),) = self._scratch.do("SELECT seal, broken, start FROM line WHERE number = ?", (place + 1,))
            line = read_at(self._path, start)
            if [line.seal, line.broken] != noted:
                raise StoreError(f"{self._path}: was changed meanwhile: run the same command again")
            yield line.value

    def close(self) -> None:
        """Give room and file back."""
        self._scratch.close()


class Sample:
    """Lines that are computed again.

    Parameters
    ----------
    sound : Sound
        Those that can be.
    places : sequence of int or None
        From `draw`.
    """

    def __init__(self, sound: Sound, places: list[int] | None) -> None:
        self.sound, self._places = sound, places

    def __len__(self) -> int:
        return len(self.sound) if self._places is None else len(self._places)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self.sound.entries(self._places)


def draw(works: Iterable[str], count: int | None, head: str | None) -> list[int] | None:
    """Some lines, drawn by the manifest's last seal: whoever writes a line cannot choose whether it is drawn.

    Parameters
    ----------
    works : iterable of str
        The ``work`` of every line.
    count : int or None
        How many; None for all.
    head : str or None
        The last seal.

    Returns
    -------
    list of int or None
        Their places, ascending; None for all.
    """
    if count is None:
        return None
    drawn = ((fingerprint.digest([head, work]), place) for place, work in enumerate(works))
    return sorted(place for _, place in heapq.nsmallest(count, drawn))
