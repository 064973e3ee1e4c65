"""Class names: where they are recorded, and the class that a user means."""

import os
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from onnx_evidence.errors import DataError, TargetError, one_line
from onnx_evidence.files import parse_json, read_text

LABELS_KEY = "onnx_evidence.labels"
# Of the number of any class; Python reads no more than some thousands.
_DIGITS = 18


def recorded_labels(metadata: dict[str, str], path: Path) -> tuple[str, ...] | None:
    """Class names as the file's metadata records them, None where it does not.

    `DataError` if they are no list of names.
    """
    if LABELS_KEY not in metadata:
        return None
    try:
        labels = parse_json(metadata[LABELS_KEY])
    except ValueError as error:
        raise DataError(f"{path}: the labels recorded in the model are no JSON: {error}") from error
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise DataError(f"{path}: the labels recorded in the model are no list of names")
    return tuple(labels)


def read_labels(path: Path) -> tuple[str, ...]:
    """Read class names from a text file, one per line in class order.

    Parameters
    ----------
    path : Path
        The file, in UTF-8. Lines end at LF, CR LF or CR alone; an empty one is a class without a name, also at the end.

    Returns
    -------
    tuple of str

    Raises
    ------
    DataError
        If the file cannot be read or is empty.
    """
    try:
        text = read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot read the labels: {one_line(error)}") from error
    if not text:
        raise DataError(f"{path}: no labels: one class name per line is expected")
    # Not str.splitlines, which ends lines at form feeds and five more characters too: all names behind would shift.
    return tuple(text.removesuffix("\n").split("\n"))


def given_labels(given: object) -> tuple[str, ...]:
    """Class names as users give them.

    Parameters
    ----------
    given : str or Path or sequence of str
        A text file, see `read_labels`; or the names themselves, in class order.

    Returns
    -------
    tuple of str

    Raises
    ------
    DataError
        If it is neither, or the file cannot be used.
    """
    if isinstance(given, str | os.PathLike):
        return read_labels(Path(given))
    if isinstance(given, Sequence) and given and all(isinstance(name, str) for name in given):
        return tuple(given)
    raise DataError(f"labels of type {type(given).__name__}: give a text file with a name per line, or a list of names")


def name_both(labels: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Names of the two classes that were made of one number.

    Parameters
    ----------
    labels : tuple of str or None
        One name, of what the number speaks for, or both names, that of its absence first.

    Returns
    -------
    tuple of str or None
        'not NAME' and NAME for one name; anything else as it is.
    """
    return (f"not {labels[0]}", labels[0]) if labels is not None and len(labels) == 1 else labels


def check_labels(labels: tuple[str, ...], classes: int, source: Path | None, *, binary: bool) -> None:
    """Refuse class names that are not as many as the classes.

    Parameters
    ----------
    labels : tuple of str
        Class names in class order.
    classes : int
        K, the number of classes.
    source : Path or None
        The file that they are from, where one was given.
    binary : bool
        Whether the classes were made of one number; one name and an empty line would pass for the names of both.

    Raises
    ------
    DataError
        With the remedy where the last is empty: nothing is dropped, as an empty line may be a class without a name.
    """
    rule = [] if len(labels) == classes else ["they must be as many"]
    if labels and not labels[-1].strip() and (rule or binary):
        rule.append("the last one is empty: remove the blank lines at the end")
    if rule:
        where = "" if source is None else f"{source}: "
        raise DataError(f"{where}{len(labels)} labels for a model of {classes} classes: {'; '.join(rule)}")


def find_class(name: str | int, labels: tuple[str, ...] | None, classes: int) -> int:
    """The class that a user means.

    Parameters
    ----------
    name : str or int
        A class number, or a class name (case does not matter); one of several that are set apart by commas will do. A
        text that is the number of one class and the name of another is ambiguous, an int is a number.
    labels : tuple of str or None
        Class names in class order.
    classes : int
        K, the number of classes.

    Returns
    -------
    int
        0..K-1.

    Raises
    ------
    TargetError
        If there is no such class, or two classes share the name (their numbers are listed).
    """
    text = str(name).strip()
    named = [index for index, label in enumerate(labels or ()) if label.strip() == text]
    if text.isdecimal() and len(text) > _DIGITS:
        raise TargetError(f"class {text[:_DIGITS]}... does not exist: the model has classes 0 to {classes - 1}")
    if text.isdecimal() and isinstance(name, str) and named not in ([], [int(text)]):
        return _named_by_number(text, named, labels or (), classes)
    if text.isdecimal():
        if int(text) < classes:
            return int(text)
        raise TargetError(f"class {text} does not exist: the model has classes 0 to {classes - 1}")
    if labels is None:
        raise TargetError(f"class {text!r}: the model carries no class names; give a number, or --labels FILE")
    wanted = text.casefold()
    matches = [index for index, label in enumerate(labels) if label.casefold() == wanted]
    # Some lists give several names to a class: 'tench, Tinca tinca'.
    matches = matches or [index for index, label in enumerate(labels) if wanted in _names(label)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        numbers = " and ".join(str(index) for index in matches)
        raise TargetError(f"class {text!r} is ambiguous: classes {numbers} have that name; give the number")
    raise TargetError(f"class {text!r} is unknown{_suggestion(text, labels)}")


def _named_by_number(text: str, named: list[int], labels: tuple[str, ...], classes: int) -> int:
    """A class whose name is a number, but not its own."""
    if len(named) == 1 and int(text) >= classes:
        return named[0]
    other = f"class {text} is named {labels[int(text)]!r}" if int(text) < classes else "none has that number"
    raise TargetError(
        f"class {text!r} is ambiguous: {other}, and class {' and '.join(map(str, named))} is named {text!r}; pass "
        "--labels FILE with names that are no numbers"
    )


def _names(label: str) -> list[str]:
    return [name.strip() for name in label.casefold().split(",")]


def _suggestion(text: str, labels: tuple[str, ...]) -> str:
    near = get_close_matches(text.casefold(), {label.casefold() for label in labels}, n=3)
    return f"; did you mean {' or '.join(repr(label) for label in sorted(near))}?" if near else ""
