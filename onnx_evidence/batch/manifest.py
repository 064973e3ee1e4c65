"""The list of maps in an output folder: what is there, what is finished, and for which configuration."""

from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from onnx_evidence.batch import fingerprint
from onnx_evidence.batch.journal import Journal
from onnx_evidence.batch.plan import Item
from onnx_evidence.batch.receipt import unlike_receipt
from onnx_evidence.errors import StoreError
from onnx_evidence.files.inside import MOST, open_inside, sha256_of
from onnx_evidence.questions import TOP

MANIFEST = "manifest.jsonl"


class Listed(NamedTuple):
    """What is kept in memory of a manifest line.

    Attributes
    ----------
    image : str
        The picture, as the user named it.
    picture : str
        SHA-256 of its file.
    target : int
        The class explained.
    versus : int or None
        The class that it was held against.
    top : bool
        Whether the target is the class that the model gives.
    files : dict of str to str
        SHA-256 of map and, where there is one, figure, by their paths relative to the folder.
    """

    image: str
    picture: str
    target: int
    versus: int | None
    top: bool
    files: dict[str, str]


def listed(entry: dict[str, Any]) -> Listed:
    """The short form of a manifest line.

    Parameters
    ----------
    entry : dict
        A manifest line, parsed.

    Returns
    -------
    Listed
    """
    hashes = entry["hashes"]
    return Listed(
        entry["image"],
        hashes["image"],
        entry["target"],
        entry["versus"],
        entry["top"][0]["class"] == entry["target"],
        {entry[kind]: hashes[kind] for kind in ("map", "figure") if entry[kind] is not None},
    )


class Manifest:
    """The manifest of a folder that this process holds.

    Parameters
    ----------
    folder : Path
        The output folder.
    configuration : dict or None
        Of the maps that will be added; None to take what is there.

    Attributes
    ----------
    lines : dict of str to Listed
        By map.
    former : int
        Lines of before Pillow read pictures: some were read otherwise then.

    Raises
    ------
    StoreError
        If the manifest cannot be read, or holds maps of another configuration.
    """

    def __init__(self, folder: Path, configuration: dict[str, Any] | None = None) -> None:
        self.folder = folder
        self.configuration = configuration
        self.lines: dict[str, Listed] = {}
        self.former = 0
        self._pictures: dict[str, dict[str, list[Listed]]] = {}
        self._owners: dict[str, str] = {}
        self._digest = None if configuration is None else fingerprint.digest(configuration)
        self._journal = Journal(folder / MANIFEST, self._see)

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
        self._note(listed(entry))

    def _refuse(self, there: dict[str, Any]) -> None:
        assert self.configuration is not None
        found = fingerprint.differences(there, self.configuration) or ["its fingerprint is another"]
        raise StoreError(
            f"{self.folder}: holds maps of another configuration: {'; '.join(found)}; take another -o, or --subfolder"
        )

    def _note(self, short: Listed) -> None:
        path = next(iter(short.files))
        self.lines[path] = short
        self._pictures.setdefault(short.picture, {}).setdefault(short.image, []).append(short)
        self._owners.setdefault(path.split("/")[0].casefold(), short.picture)

    def entries(self) -> Iterator[dict[str, Any]]:
        """Every line, parsed, from the disk."""
        return self._journal.values()

    @property
    def head(self) -> str | None:
        """The seal of the last line, which stands for all of them."""
        return self._journal.head

    def add(self, entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Add lines for new maps, all of them or none.

        Parameters
        ----------
        entries : sequence of dict
            Plain values, all numbers finite.

        Returns
        -------
        list of dict
            As they are written.

        Raises
        ------
        StoreError
            If they cannot be written.
        """
        written = self._journal.add(entries)
        for entry in written:
            self._note(listed(entry))
        return written

    def drop(self, maps: Collection[str]) -> None:
        """Remove lines, and seal the others anew.

        Parameters
        ----------
        maps : collection of str
            Their maps.

        Raises
        ------
        StoreError
            If the manifest cannot be written.
        """
        self._journal.rewrite(entry for entry in self._journal.values() if entry["map"] not in maps)
        kept = [short for path, short in self.lines.items() if path not in maps]
        self.lines, self._pictures, self._owners = {}, {}, {}
        for short in kept:
            self._note(short)

    def owner(self, name: str) -> str | None:
        """SHA-256 of the picture that a folder of results is about; None where there is no such folder."""
        return self._owners.get(name.casefold())

    def damaged(self, items: Sequence[Item]) -> set[str]:
        """Maps of some pictures that are listed, but whose files are gone or are not as they were written.

        Parameters
        ----------
        items : sequence of Item
            The pictures; their bytes are known.

        Returns
        -------
        set of str
        """
        found = set()
        for picture in {item.sha256 for item in items if item.sha256 is not None}:
            for lines in self._pictures.get(picture, {}).values():
                found |= {next(iter(line.files)) for line in lines if not self._is_there(line)}
        return found

    def _is_there(self, line: Listed) -> bool:
        return all(file_sha256(self.folder, path) == digest for path, digest in line.files.items())

    def unfinished(self, items: Sequence[Item], find_class: Callable[[str], int]) -> list[Item]:
        """What is left to do.

        A picture is known by its bytes. Names matter only where several files have the same bytes: each gets its own
        maps; but a name that is asked for no more is the old name of one that is.

        Parameters
        ----------
        items : sequence of Item
            The plan; bytes are known.
        find_class : callable
            From a class number or name to the number.

        Returns
        -------
        list of Item
        """
        names = {item.name for item in items}
        spent: set[tuple[str, tuple[str, ...], str | None]] = set()
        left = []
        for item in items:
            there = self._pictures.get(item.sha256 or "", {})
            former = [name for name in there if name not in names and (name, item.targets, item.versus) not in spent]
            done = next((n for n in [item.name, *former] if _answers(there.get(n, []), item, find_class)), None)
            if done is None:
                left.append(item)
            elif done != item.name:
                spent.add((done, item.targets, item.versus))
        return left


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
    """The manifest of a folder of results.

    Parameters
    ----------
    folder : Path
        Of `explain`.

    Returns
    -------
    Path

    Raises
    ------
    StoreError
        If there is none.
    """
    path = folder / MANIFEST
    if not folder.exists():
        raise StoreError(f"{folder}: there is no such folder: name the folder that 'explain -o' wrote")
    if not folder.is_dir():
        raise StoreError(f"{folder}: this is a file: name the folder that 'explain -o' wrote")
    if not path.exists():
        raise StoreError(f"{folder}: holds no results: there is no {MANIFEST}")
    return path


def file_sha256(folder: Path, name: str) -> str | None:
    """The SHA-256 of a file of results; None where there is none.

    Parameters
    ----------
    folder : Path
        Of the results.
    name : str
        Of the file, relative to it.

    Returns
    -------
    str or None
        In hexadecimal.

    Raises
    ------
    StoreError
        If it is there and cannot be read: a link, a pipe, a device, or not ours to read.
    """
    try:
        with open_inside(folder, name, most=MOST) as stream:
            return sha256_of(stream)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"{folder / name}: cannot read: {error.strerror or error}") from error
