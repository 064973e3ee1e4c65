"""The list of maps in an output folder: what is there, what is finished, and for which configuration."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from onnx_evidence.batch import fingerprint
from onnx_evidence.batch.index import Index, Listed, listed
from onnx_evidence.batch.journal import Journal
from onnx_evidence.batch.plan import Item
from onnx_evidence.batch.receipt import unlike_receipt
from onnx_evidence.errors import StoreError
from onnx_evidence.files import MOST, open_inside, sha256_of
from onnx_evidence.methods import TOP

MANIFEST = "manifest.jsonl"


class Manifest:
    """The manifest of an output folder that this process holds, for maps of one configuration.

    Where the folder holds maps of another one, or the manifest cannot be read or written, StoreError says so;
    ``configuration`` is None to take that of the maps that are there.
    """

    def __init__(self, folder: Path, configuration: dict[str, Any] | None = None) -> None:
        self.folder = folder
        self.configuration = configuration
        self.former = 0  # lines of before Pillow read pictures: some were read otherwise then
        self._digest = None if configuration is None else fingerprint.digest(configuration)
        self.index = Index(str(folder))
        try:
            self._journal = Journal(folder / MANIFEST, self._see)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give back what the index takes; nothing is asked afterwards."""
        self.index.close()

    def _see(self, entry: dict[str, Any]) -> None:
        if wrong := unlike_receipt(entry):
            raise StoreError(
                f"{self.folder / MANIFEST}: cannot read the manifest: a line is no receipt of this version ({wrong}); "
                "take another -o"
            )
        if self._digest is None:
            self.configuration, self._digest = fingerprint.of_entry(entry), entry["configuration"]
        if entry["configuration"] != self._digest:
            self._refuse(fingerprint.of_entry(entry))
        self.former += "pillow" not in entry["versions"]
        self.index.note(listed(entry))

    def _refuse(self, there: dict[str, Any]) -> None:
        assert self.configuration is not None
        found = fingerprint.differences(there, self.configuration) or ["its fingerprint is another"]
        raise StoreError(
            f"{self.folder}: holds maps of another configuration: {'; '.join(found)}; take another -o, or --subfolder"
        )

    def entries(self) -> Iterator[dict[str, Any]]:
        """Every line, parsed, from the disk."""
        return self._journal.values()

    @property
    def head(self) -> str | None:
        """The seal of the last line, which stands for all of them."""
        return self._journal.head

    def add(self, entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Add lines of plain values, all numbers finite, for new maps, all of them or none; as they are written."""
        written = self._journal.add(entries)
        for entry in written:
            self.index.note(listed(entry))
        return written

    def drop(self, maps: Iterable[str]) -> int:
        """Remove the lines of maps, such as `damaged` finds, and seal the others anew, if any; how many there were."""
        dropped = self.index.drop(maps)
        if dropped:
            self._journal.rewrite(e for e in self._journal.values() if not self.index.is_dropped(e["map"]))
            self.index.forget()
        return dropped

    def damaged(self, items: Iterable[Item]) -> Iterator[str]:
        """Maps, of pictures whose bytes are known, that are listed, but whose files are gone or not as written."""
        return (line.map for line in self._of(items) if not self._is_there(line))

    def undrawn(self, items: Iterable[Item]) -> int:
        """How many maps of pictures whose bytes are known have no figure, as the run that made them was told."""
        return sum(len(line.files) == 1 for line in self._of(items))

    def _of(self, items: Iterable[Item]) -> Iterator[Listed]:
        for picture in dict.fromkeys(item.sha256 for item in items if item.sha256 is not None):
            yield from self.index.of_picture(picture)

    def _is_there(self, line: Listed) -> bool:
        return all(file_sha256(self.folder, path) == digest for path, digest in line.files.items())

    def unfinished(self, items: Sequence[Item], find_class: Callable[[str], int]) -> list[Item]:
        """What is left to do of a plan, in its order; ``find_class`` is from a class's number or name to the number.

        A picture is known by its bytes. Names matter only where several files have the same bytes: each gets its own
        maps; but a name that is asked for no more is the old name of one that is.
        """
        names = _Names(items)
        return [item for item in items if not self._finished(item, names, find_class)]

    def _finished(self, item: Item, names: "_Names", find_class: Callable[[str], int]) -> bool:
        there: dict[str, list[Listed]] = {}
        for line in self.index.of_picture(item.sha256 or ""):
            there.setdefault(line.image, []).append(line)
        if _answers(there.pop(item.name, []), item, find_class):
            return True
        former = (name for name in there if names.is_former(name, item) and _answers(there[name], item, find_class))
        if (done := next(former, None)) is None:
            return False
        names.spend(done, item)
        return True


class _Names:
    """What the pictures of a plan are called, and which former names of theirs were taken for one already."""

    def __init__(self, items: Sequence[Item]) -> None:
        self._items = items
        self._spent: set[tuple[str, tuple[str, ...], str | None]] = set()

    @cached_property
    def _asked(self) -> set[str]:  # large where the plan is, and needed only where pictures have other names now
        return {item.name for item in self._items}

    def is_former(self, name: str, item: Item) -> bool:
        """Whether a name is asked for no more, and may be the old one of a picture."""
        return name not in self._asked and (name, item.targets, item.versus) not in self._spent

    def spend(self, name: str, item: Item) -> None:
        """Take a name for the old one of a picture."""
        self._spent.add((name, item.targets, item.versus))


def _answers(lines: Sequence[Listed], item: Item, find_class: Callable[[str], int]) -> bool:
    """Whether some maps of a picture answer everything that is asked about it."""
    versus = None if item.versus is None else find_class(item.versus)
    there = [line for line in lines if line.versus == versus]

    def answered(target: str) -> bool:
        if target == TOP:
            return any(line.top for line in there)
        number = find_class(target)
        return any(line.target == number for line in there)

    return all(answered(target) for target in item.targets)


def manifest_of(folder: Path) -> Path:
    """The manifest of a folder that `explain` wrote; StoreError where there is none."""
    path = folder / MANIFEST
    if not folder.exists():
        raise StoreError(f"{folder}: there is no such folder: name the folder that 'explain -o' wrote")
    if not folder.is_dir():
        raise StoreError(f"{folder}: this is a file: name the folder that 'explain -o' wrote")
    if not path.exists():
        raise StoreError(f"{folder}: holds no results: there is no {MANIFEST}")
    return path


def file_sha256(folder: Path, name: str) -> str | None:
    """The SHA-256, in hexadecimal, of a file named relative to its folder of results; None where there is none.

    Where it is there and cannot be read, StoreError: a link, a pipe, a device, or not ours to read.
    """
    try:
        with open_inside(folder, name, most=MOST) as stream:
            return sha256_of(stream)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"{folder / name}: cannot read: {error.strerror or error}") from error
