"""What a run is asked to do: pictures in a fixed order, each with its questions and the folder of its results."""

import csv
import glob
import io
import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from onnx_evidence.errors import DataError, EvidenceError, SettingError, one_line, short_of_handles
from onnx_evidence.files import below, leads_into, open_regular, read_text, several, sha256_of, visible
from onnx_evidence.methods import TOP
from onnx_evidence.pictures import figures_of, list_images, printable, without_figures

log = logging.getLogger(__name__)

LISTS = (".txt", ".csv")
_COLUMNS = ("image", "target", "versus")


@dataclass(frozen=True, slots=True)
class Item:
    """A picture and what is asked about it.

    Attributes
    ----------
    path : Path
        As the user named it.
    targets : tuple of str
        Classes to explain, as given.
    versus : str or None
        The class that they are held against.
    alone : bool
        Whether no other picture of the plan has its stem.
    sha256 : str or None
        Of the file when the run began; None before, or where it cannot be read.
    problem : str
        Why it cannot be read; empty where it can.
    """

    path: Path
    targets: tuple[str, ...]
    versus: str | None
    alone: bool = True
    sha256: str | None = None
    problem: str = ""

    @property
    def name(self) -> str:
        """How receipts call the picture."""
        return printable(self.path)


def make_plan(
    given: Sequence[Path], targets: Sequence[str] | None, versus: str | None, leave_out: Path | None = None
) -> list[Item]:
    """Everything that a run is asked to do.

    Parameters
    ----------
    given : sequence of Path
        Picture files, folders, patterns (``*``, ``?``, ``[``; ``**`` for all folders below), lists: a .txt file with a
        picture per line, or a .csv file with a head and the columns image and, as wanted, target and versus. Names in
        lists start from the list's folder.
    targets : sequence of str or None
        Classes to explain where a list does not say; None is 'top1'. A warning is logged of lists that say otherwise.
    versus : str or None
        Class to hold them against where a list does not say; likewise.
    leave_out : Path, optional
        A folder inside a folder whose pictures are not meant: the output's own figures.

    Returns
    -------
    list of Item
        In the order given, every one once.

    Raises
    ------
    DataError
        If a folder or a pattern holds no picture, or a list cannot be used.
    """
    items: list[Item] = []
    left_out = [] if leave_out is None else [Path(os.path.realpath(leave_out))]
    for path in given:
        if path.suffix.lower() == ".csv" and os.path.isfile(path):
            items += _table(path, targets, versus)
        else:
            items += [Item(each, tuple(targets or (TOP,)), versus) for each in _pictures(path, left_out)]
    items = list(dict.fromkeys(_by_first_names(items)))
    # As file systems without case see them.
    stems = Counter(path.stem.casefold() for path in {item.path for item in items})
    return [replace(item, alone=stems[item.path.stem.casefold()] == 1) for item in items]


def _by_first_names(items: Sequence[Item]) -> list[Item]:
    """A picture is called by the first of the paths that lead to its name in its folder."""
    folders: dict[Path, str] = {}
    first: dict[tuple[str, str], Path] = {}
    for folder in {item.path.parent for item in items}:
        folders[folder] = os.path.realpath(folder)
    return [
        replace(item, path=first.setdefault((folders[item.path.parent], item.path.name), item.path)) for item in items
    ]


def _pictures(path: Path, left_out: Sequence[Path]) -> list[Path]:
    if path.suffix.lower() == ".txt" and os.path.isfile(path):
        return [_listed(path, line) for line in _lines(path)]
    if not os.path.exists(path) and glob.has_magic(str(path)):
        links: set[str] = set()
        matches = [Path(each) for each in sorted(_matching(path, links))]
        found = [each for each in matches if os.path.isfile(each) and not leads_into(each, left_out)]
        found, figures = without_figures(found)
        if not found:
            rest = f": {figures_of(figures)}" if figures else ""
            raise DataError(f"{path}: no picture has a name like this{rest}")
        if figures:
            log.warning("%s: passed over %s", visible(printable(path)), figures_of(figures))
        if "**" in path.parts:
            _tell_folders(path, sorted(map(Path, links)), "link to a folder is", "links to folders are", "")
        else:
            folders = [each for each in matches if each.is_dir() and not leads_into(each, left_out)]
            _tell_folders(path, folders, "folder of this name is", "folders of this name are", ", or **")
        return found
    return list_images([path], left_out, tell=True)


def _matching(pattern: Path, links: set[str], root: Path = Path()) -> set[str]:
    """What a pattern names; ``**`` goes through no link to a folder, which may lead in circles, but notes it."""
    parts = pattern.parts
    if "**" not in parts:
        return {str(root / each) for each in glob.glob(str(pattern), root_dir=root)}
    place = parts.index("**")
    behind = parts[place + 1 :] or ("*",)
    while behind[0] == "**" and len(behind) > 1:  # which would search every folder once for each of its ancestors
        behind = behind[1:]
    found = set()
    for start in glob.glob(str(Path(*parts[:place])), root_dir=root):
        # Hidden names are left out as everywhere in patterns.
        folders = [root / start, *filter(os.path.isdir, below(root / start, hidden=False))]
        links |= {str(path) for path in folders[1:] if os.path.islink(path)}
        for folder in folders:
            if str(folder) not in links:
                found |= _matching(Path(*behind), links, folder)
    return found


def _tell_folders(pattern: Path, folders: Sequence[Path], one: str, many: str, remedy: str) -> None:
    if folders:
        count = f"1 {one}" if len(folders) == 1 else f"{len(folders)} {many}"
        shown, first = (visible(printable(each)) for each in (pattern, folders[0]))
        log.warning("%s: %s passed over, such as %s: give folders themselves%s", shown, count, first, remedy)


def _lines(path: Path) -> list[str]:
    try:
        lines = read_text(path).split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot read the list: {one_line(error)}") from error
    named = [line for line in lines if line.strip()]
    if not named:
        raise DataError(f"{path}: the list is empty: give one picture per line")
    return named


def _listed(path: Path, name: str) -> Path:
    """The picture of a line; spaces around it are of its name, unless a picture is called so without them."""
    exact, bare = path.parent / name, path.parent / name.strip()
    return bare if name != name.strip() and os.path.exists(bare) and not os.path.exists(exact) else exact


def _table(path: Path, targets: Sequence[str] | None, versus: str | None) -> list[Item]:
    try:
        with io.StringIO(read_text(path), newline="") as stream:
            rows = [row for row in csv.reader(stream, strict=True) if any(cell.strip() for cell in row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot read the list: {one_line(error)}") from error
    head = [cell.strip() for cell in rows[0]] if rows else []
    if head[:1] != ["image"] or len(set(head)) < len(head) or not set(head) <= set(_COLUMNS):
        raise DataError(
            f"{path}: the first line is {', '.join(head) or 'missing'}: name the columns image, target, versus there"
        )
    if len(rows) < 2:
        raise DataError(f"{path}: the list is empty: give one picture per line below the columns' names")
    items: list[Item] = []
    unheard: dict[str, list[Item]] = {}
    for number, row in enumerate(rows[1:], start=2):
        if len(row) > len(head) or not row[0].strip():
            raise DataError(f"{path}: row {number} does not fit the columns {', '.join(head)}; quote commas")
        cells = dict(zip(head, (cell.strip() for cell in row), strict=False))
        target, against = cells.get("target"), cells.get("versus")
        asked = (target,) if target else tuple(targets or (TOP,))
        items.append(Item(_listed(path, row[0]), asked, against or versus))
        for option, own, other in (("--target", target, targets), ("--versus", against, versus)):
            if own and other:
                unheard.setdefault(option, []).append(items[-1])
    _tell_unheard(path, unheard)
    return items


def _tell_unheard(path: Path, unheard: Mapping[str, Sequence[Item]]) -> None:
    """Say that options do not hold for pictures whose rows say otherwise."""
    count = len({item.path for item in _by_first_names([item for items in unheard.values() for item in items])})
    if count:
        log.warning(
            "%s: %s %s not hold for %s: the list names classes of its own there",
            visible(printable(path)),
            " and ".join(sorted(unheard)),
            "does" if len(unheard) == 1 else "do",
            several(count, "picture"),
        )


def together(items: Sequence[Item], find_class: Callable[[str], int]) -> list[Item]:
    """All that is asked of a picture, held against one class, as one item, where a list asks in several lines.

    Parameters
    ----------
    items : sequence of Item
        The plan; classes are checked.
    find_class : callable
        From a class's number or name to the number.

    Returns
    -------
    list of Item
        In the order of their first lines; every class once, as it was called first.
    """
    find = cache(find_class)
    groups: dict[tuple[Path, int | None, tuple[str, ...]], tuple[Item, dict[int | str, str]]] = {}
    for item in items:
        rival = None if item.versus is None else find(item.versus)
        # The model's answer may turn out to be the rival, and must not take other lines with it.
        apart = item.targets if rival is not None and TOP in item.targets else ()
        _, asked = groups.setdefault((item.path, rival, apart), (item, {}))
        for target in item.targets:
            asked.setdefault(TOP if target == TOP else find(target), target)
    return [replace(item, targets=tuple(asked.values())) for item, asked in groups.values()]


def check_questions(items: Sequence[Item], check: Callable[[Sequence[str], str | None], None]) -> None:
    """Refuse classes that no picture can be explained for, before hours are spent.

    Parameters
    ----------
    items : sequence of Item
        The plan.
    check : callable
        `Explainer.check_targets`.

    Raises
    ------
    TargetError, SettingError
        For the first one.
    """
    for targets, versus in dict.fromkeys((item.targets, item.versus) for item in items):
        try:
            check(targets, versus)
        except EvidenceError as error:
            about = {item.path for item in items if (item.targets, item.versus) == (targets, versus)}
            if len(about) == len({item.path for item in items}):
                raise
            raise type(error)(f"{printable(min(about))}: {error}") from error


def parse_shard(text: str) -> tuple[int, int]:
    """A share of a plan, as '3/16' gives it.

    Parameters
    ----------
    text : str
        'I/N', with I from 1 to N.

    Returns
    -------
    number, of : int

    Raises
    ------
    SettingError
        If it is something else.
    """
    found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    number, of = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= number <= of:
        raise SettingError(f"shard {text!r} is not I/N with I from 1 to N, such as 3/16")
    return number, of


def take_shard(items: Sequence[Item], number: int, of: int) -> list[Item]:
    """Every ``of``-th item, from the ``number``-th on; all questions about a picture stay together.

    Parameters
    ----------
    items : sequence of Item
        The whole plan: what pictures' folders are called depends on all of it.
    number, of : int
        From `parse_shard`.

    Returns
    -------
    list of Item
    """
    places = {path: place for place, path in enumerate(dict.fromkeys(item.path for item in items))}
    return [item for item in items if places[item.path] % of == number - 1]


def look(item: Item) -> Item:
    """Note the picture's SHA-256, or why it cannot be read.

    Parameters
    ----------
    item : Item
        Of the plan.

    Returns
    -------
    Item
        With ``sha256``, or with a ``problem``.

    Raises
    ------
    DataError
        If it is not the picture's fault: too many files are open.
    """
    try:
        with open_regular(item.path) as stream:
            digest = sha256_of(stream)
    except (OSError, ValueError) as error:
        if short_of_handles(error):
            raise DataError(f"{item.name}: cannot read the picture: {one_line(error)}") from error
        reason = getattr(error, "strerror", None) or one_line(error)
        return replace(item, problem=f"{item.name}: cannot read the picture: {reason}")
    return replace(item, sha256=digest)
