"""Is a folder of results what its receipts say? First every hash, then the maps themselves, computed again."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from onnx_evidence.batch import fingerprint
from onnx_evidence.batch.failures import FAILURES
from onnx_evidence.batch.journal import read_lines
from onnx_evidence.batch.manifest import MANIFEST, file_sha256, manifest_of
from onnx_evidence.batch.receipt import Failure, unlike, unlike_receipt
from onnx_evidence.errors import StoreError
from onnx_evidence.files.inside import open_regular, sha256_of

_RESULTS = (".npz", ".png")


class Problem(NamedTuple):
    """Something that is not as it was written.

    Attributes
    ----------
    place : str
        A line or a file.
    what : str
        What is wrong, in words.
    """

    place: str
    what: str


@dataclass
class Checked:
    """What the hashes say.

    Attributes
    ----------
    entries : list of dict
        Lines that can be computed again.
    problems : list of Problem
        What is not as it was written.
    absent : list of str
        Pictures that are not where they were.
    files : int
        Files whose hashes were taken.
    head : str or None
        The seal of the last line: whoever noted it when the run ended knows that no line is missing at the end.
    """

    entries: list[dict[str, Any]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    files: int = 0
    head: str | None = None


def check_hashes(
    folder: Path, pictures: Callable[[dict[str, Any]], Path], progress: Callable[[int], object] = lambda lines: None
) -> Checked:
    """Check every line and the hash of every file that it names.

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

    Raises
    ------
    StoreError
        If there is no manifest.
    """
    path = manifest_of(folder)
    checked, maps = Checked(), set[str]()
    configurations = set[str]()
    for line in read_lines(path):
        place = f"{MANIFEST} line {line.number}"
        problems = [line.problem] if line.problem else []
        checked.head = line.seal
        known = bool(line.value) and not (wrong := unlike_receipt(line.value))
        if line.value and not known:
            problems.append(wrong)
        checked.problems += [Problem(place, what) for what in problems]
        if known:
            if line.value["map"] in maps:
                checked.problems.append(Problem(place, f"{line.value['map']} is listed twice"))
            configurations.add(line.value["configuration"])
            _check_files(folder, line.value, pictures(line.value), checked)
        maps |= {str(line.value.get(name)) for name in ("map", "figure")}
        progress(1)
    if len(configurations) > 1:
        checked.problems.append(Problem(MANIFEST, "lines are of more than one configuration"))
    checked.problems += _strangers(folder, maps)
    if (folder / FAILURES).exists():
        said = [(line, line.problem or unlike(line.value, Failure)) for line in read_lines(folder / FAILURES)]
        checked.problems += [Problem(f"{FAILURES} line {line.number}", wrong) for line, wrong in said if wrong]
    return checked


def _check_files(folder: Path, entry: dict[str, Any], picture: Path, checked: Checked) -> None:
    sound = True
    for name in ("map", "figure"):
        if entry[name] is None:
            continue
        if wrong := _wrong_file(folder, entry[name], entry["hashes"][name]):
            sound = False
            checked.problems.append(Problem(entry[name], wrong))
        else:
            checked.files += 1
    digest = _picture_sha256(picture)
    if digest is None:
        checked.absent.append(entry["image"])
    elif digest != entry["hashes"]["image"]:
        checked.problems.append(Problem(entry["image"], "is another picture now: its SHA-256 is another"))
    else:
        checked.files += 1
        if sound:
            checked.entries.append(entry)


def _wrong_file(folder: Path, name: str, expected: str) -> str:
    """What is wrong with a file of results; '' where nothing is."""
    try:
        digest = file_sha256(folder, name)
    except StoreError as error:
        return str(error)
    if digest == expected:
        return ""
    return "is missing" if digest is None else "was changed: its SHA-256 is another"


def _picture_sha256(path: Path) -> str | None:
    try:
        with open_regular(path) as stream:
            return sha256_of(stream)
    except (OSError, ValueError):  # names of old folders may hold what no name can
        return None


def _strangers(folder: Path, known: set[str]) -> Iterable[Problem]:
    """Files that look like results and that no line knows: a line was removed, or a run was killed; and links."""
    for inner in sorted(folder.iterdir()):
        if inner.is_symlink():
            yield Problem(inner.name, "is a link: results are never kept behind links")
        elif inner.is_dir() and not inner.name.startswith("."):
            for path in sorted(inner.iterdir()):
                name = path.relative_to(folder).as_posix()
                if path.is_symlink():
                    yield Problem(name, "is a link: results are never kept behind links")
                elif path.suffix in _RESULTS and name not in known:
                    yield Problem(name, "no line of the manifest knows it: a line is missing, or a run was killed")


def take_sample(entries: Sequence[dict[str, Any]], count: int | None, head: str | None) -> list[dict[str, Any]]:
    """Some lines, drawn by the manifest's last seal: whoever writes a line cannot choose whether it is drawn.

    Parameters
    ----------
    entries : sequence of dict
        Manifest lines.
    count : int or None
        How many; None for all.
    head : str or None
        The last seal.

    Returns
    -------
    list of dict
        In the manifest's order.
    """
    if count is None or count >= len(entries):
        return list(entries)
    order = sorted(range(len(entries)), key=lambda place: fingerprint.digest([head, entries[place]["work"]]))
    return [entries[place] for place in sorted(order[:count])]
