"""Is a folder of results what its receipts say? First every hash, then the maps themselves, computed again."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from onnx_evidence.batch import places
from onnx_evidence.batch.failures import FAILURES
from onnx_evidence.batch.index import Names
from onnx_evidence.batch.journal import Line, read_lines
from onnx_evidence.batch.manifest import MANIFEST, file_sha256, manifest_of
from onnx_evidence.batch.receipt import Failure, unlike, unlike_receipt
from onnx_evidence.batch.sound import Some, Sound
from onnx_evidence.batch.strays import of_others, strays
from onnx_evidence.batch.work import may_be_folder, slug
from onnx_evidence.errors import StoreError, one_line, short_of_handles
from onnx_evidence.files import open_regular, sha256_of
from onnx_evidence.results import Named

# Configurations, models and the like that are kept apart: in a folder of one run there is one.
_OTHERS = 10


class Problem(NamedTuple):
    """Something that is not as it was written: a line or a file, and what is wrong with it, in words."""

    place: str
    what: str


@dataclass
class Checked:
    """What the hashes say."""

    entries: Sound  # lines that can be computed again
    problems: Some[Problem] = field(default_factory=Some)  # what is not as it was written
    unexpected: list[Problem] = field(default_factory=list)  # what is another than it was said to be: see `expect`
    absent: Some[str] = field(default_factory=Some)  # pictures that are not where they were
    # What may lie there and was not looked at: results of other configurations, tables of `summary`.
    unchecked: Some[Problem] = field(default_factory=Some)
    lines: int = 0  # of the manifest
    failures: int = 0  # lines of the list of pictures that could not be explained
    files: int = 0  # whose hashes were taken
    # SHA-256 of the models that lines tell of: one, where they are of one run; of very many the first.
    models: list[str] = field(default_factory=list)
    # The seal of the last line: whoever noted it when the run ended knows that no line is missing at the end.
    head: str | None = None

    @property
    def model(self) -> str | None:
        """SHA-256 of the model; None where no line says it."""
        return self.models[0] if self.models else None

    def close(self) -> None:
        """Give back what lines are kept in."""
        self.entries.close()

    def expect(self, model: str | None, seal: str | None) -> None:
        """Hold the model's SHA-256 and the last seal, in hexadecimal, against what they should be; None may be any."""
        for other in [each for each in self.models or ["none"] if model not in (None, each)]:
            what = f"the receipts are of the model with SHA-256 {other}, not of the one expected, {model}"
            self.unexpected.append(Problem("model", what))
        if seal not in (None, self.head):
            what = f"the last line has the seal {self.head or 'missing'}, not the one expected, {seal}: lines were "
            self.unexpected.append(Problem("seal", f"{what}added, removed or written anew"))


def check_hashes(
    folder: Path, pictures: Callable[[dict[str, Any]], Path], progress: Callable[[int], object] = lambda lines: None
) -> Checked:
    """Check every line, the hash of every file that it names, and that nothing else lies there.

    Parameters
    ----------
    folder : Path
        Of `explain`.
    pictures : callable
        From a manifest line to the picture's file.
    progress : callable
        Called with the number of lines done since the last call.

    Returns
    -------
    Checked
        To be closed.

    Raises
    ------
    StoreError
        If the folder holds no results.
    """
    checked = Checked(Sound(folder / MANIFEST))
    try:
        with ExitStack() as held:
            _Check(folder, pictures, progress, checked, held).run()
    except BaseException:
        checked.close()
        raise
    return checked


class _Check:
    """What is kept while the lines go by."""

    def __init__(
        self,
        folder: Path,
        pictures: Callable[[dict[str, Any]], Path],
        progress: Callable[[int], object],
        checked: Checked,
        held: ExitStack,
    ) -> None:
        self.folder, self.pictures, self.progress = folder, pictures, progress
        self.checked = checked
        self._known, self._answered, self._inputs = (held.enter_context(closing(Names(str(folder)))) for _ in range(3))
        self._configurations, self._origins = set[str](), set[tuple[str, str]]()
        self._inside = Path(os.path.realpath(folder))  # `resolve` raises where links lead in circles

    def run(self) -> None:
        """All of it."""
        checked = self.checked
        self._check_manifest()
        if len(self._configurations) > 1:
            checked.problems.add(Problem(MANIFEST, "lines are of more than one configuration"))
        self._check_failures()
        found = strays(self.folder, self._known, self._inputs)
        checked.problems.add_sorted((Problem(each.name, each.what) for each in found), by=tuple)
        others = of_others(self.folder)
        checked.unchecked.add_sorted((Problem(each.name, each.what) for each in others), by=tuple)

    def _check_manifest(self) -> None:
        folder, problems = self.folder, self.checked.problems
        if not (folder / MANIFEST).exists() and folder.is_dir():
            if any(folder.glob("*/*.npz")):
                problems.add(Problem(MANIFEST, "is missing, and there are maps"))
                return
            if (folder / FAILURES).exists():  # no picture could be explained
                return
        start = 0
        for line in read_lines(manifest_of(folder)):
            self._check_line(line, start)
            start = line.end
            self.progress(1)
        if not self.checked.lines:
            problems.add(Problem(MANIFEST, "holds no map: no run leaves it empty"))

    def _check_line(self, line: Line, start: int) -> None:
        checked, entry, place = self.checked, line.value, f"{MANIFEST} line {line.number}"
        checked.lines += 1
        checked.head = line.seal
        wrong = unlike_receipt(entry) if entry else ""
        checked.problems.add(*(Problem(place, what) for what in (line.problem, wrong) if what))
        if entry and not wrong:
            checked.problems.add(*(Problem(place, what) for what in self._misplaced(entry)))
            if len(self._configurations) < _OTHERS:
                self._configurations.add(entry["configuration"])
            if len(checked.models) < _OTHERS and entry["hashes"]["model"] not in checked.models:
                checked.models.append(entry["hashes"]["model"])
            picture = self.pictures(entry)
            self._note_inputs(entry, picture)
            if _check_files(self.folder, entry, picture, checked):
                checked.entries.note(line, start)
        self._known.add(*(str(entry[name]) for name in ("map", "figure") if entry.get(name) is not None))

    def _misplaced(self, entry: dict[str, Any]) -> Iterator[str]:
        """What is wrong with the names of a line's files, in words."""
        asked = f"{entry['work']} {entry['image']}"
        if twice := [entry[name] for name in ("map", "figure") if entry[name] in self._known]:
            yield f"{twice[0]} is listed twice"
        elif asked in self._answered:
            yield f"{entry['image']} was explained for this class in a line before: no run does that twice"
        else:
            self._answered.add(asked)
        inner = entry["map"].partition("/")[0]
        if not may_be_folder(inner, entry["image"], entry["hashes"]["image"]):
            yield f"{inner} is no folder that a run gives the picture {entry['image']}"
        versus = None if entry["versus"] is None else Named(entry["versus"], entry["versus_label"] or "")
        called = slug(Named(entry["target"], entry["label"]), versus)
        for name, suffix in (("map", ".npz"), ("figure", ".png")):
            if entry[name] not in (None, f"{inner}/{called}{suffix}"):
                yield f"{entry[name]} is not what a run calls a {name} of this class: {inner}/{called}{suffix}"

    def _note_inputs(self, entry: dict[str, Any], picture: Path) -> None:
        """Note what went in and lies in the folder: it is no stray there."""
        origin = entry["model"], str(entry["settings"]["background"])
        found = [picture]
        if origin not in self._origins:
            if len(self._origins) < _OTHERS:
                self._origins.add(origin)
            found.append(places.find(self.folder, entry, "model", entry["model"]))
            if entry["hashes"]["background"] is not None:
                found.append(places.find(self.folder, entry, "background", origin[1]))
        self._note_inside(found)

    def _note_inside(self, paths: Iterable[Path]) -> None:
        for path in paths:
            try:
                there = Path(os.path.realpath(path))
            except (OSError, ValueError, RuntimeError):  # names of old folders may hold what no name can
                continue
            if self._inside in there.parents:
                self._inputs.add(str(there))

    def _check_failures(self) -> None:
        if not (self.folder / FAILURES).exists():
            return
        for line in read_lines(self.folder / FAILURES):
            self.checked.failures += 1
            if wrong := line.problem or unlike(line.value, Failure):
                self.checked.problems.add(Problem(f"{FAILURES} line {line.number}", wrong))
            else:
                self._note_inside([Path(line.value["image"])])


def _check_files(folder: Path, entry: dict[str, Any], picture: Path, checked: Checked) -> bool:
    """Whether all files of a line are there and as they were."""
    sound = True
    for name in ("map", "figure"):
        if entry[name] is None:
            continue
        if wrong := _wrong_file(folder, entry[name], entry["hashes"][name]):
            sound = False
            checked.problems.add(Problem(entry[name], wrong))
        else:
            checked.files += 1
    digest = _picture_sha256(picture)
    if digest is None:
        checked.absent.add(entry["image"])
    elif digest != entry["hashes"]["image"]:
        checked.problems.add(Problem(entry["image"], "is another picture now: its SHA-256 is another"))
    else:
        checked.files += 1
        return sound
    return False


def _wrong_file(folder: Path, name: str, expected: str) -> str:
    """What is wrong with a file of results; '' where nothing is."""
    try:
        digest = file_sha256(folder, name)
    except StoreError as error:
        if short_of_handles(error):
            raise
        return str(error)
    if digest == expected:
        return ""
    return "is missing" if digest is None else "was changed: its SHA-256 is another"


def _picture_sha256(path: Path) -> str | None:
    try:
        with open_regular(path) as stream:
            return sha256_of(stream)
    except (OSError, ValueError) as error:  # names of old folders may hold what no name can
        if short_of_handles(error):
            raise StoreError(f"{path}: cannot read: {one_line(error)}") from error
        return None
