"""Where picture, model and background are, seen from the folder of results: it may be checked from anywhere."""

import os
from pathlib import Path
from typing import Any

from onnx_evidence.pictures import printable


def seen_from(folder: Path, entry: dict[str, Any], picture: Path) -> dict[str, str | None]:
    """The places of what went into a map, relative to the folder of results; absolute where on another drive.

    They are those of the picture, as the user named it, and, as a manifest line names them, of the model, the
    background (null where it is no file or folder) and the file of class names (missing where none was given).
    """
    given = entry["settings"]["background"]
    background = None if entry["hashes"]["background"] is None else Path(given)
    return {
        "image": _relative(picture, folder),
        "model": _relative(Path(entry["model"]), folder),
        "background": None if background is None else _relative(background, folder),
        **({} if entry["labels"] is None else {"labels": _relative(Path(entry["labels"]), folder)}),
    }


def moved(there: dict[str, str | None], source: Path, target: Path) -> dict[str, str | None]:
    """The places of `seen_from`, seen from one folder of results, as seen from another."""
    return {name: None if place is None else _relative(_base(source) / place, target) for name, place in there.items()}


def find(folder: Path, entry: dict[str, Any], name: str, named: str) -> Path:
    """Where something is now, there or not: where it lies from the folder of results, else where the user named it.

    ``name`` is 'image', 'model', 'background' or 'labels'; ``named`` is what the user called it.
    """
    place = (entry.get("places") or {}).get(name)
    from_here = None if place is None else _as_printed(_base(folder) / place)
    return from_here if from_here is not None and from_here.exists() else _as_printed(Path(named))


def _as_printed(path: Path) -> Path:
    """The one file that is printed so: bytes that are no UTF-8 were replaced, or the system has another encoding."""
    if path.exists() or str(path).isascii():
        return path
    parent = _as_printed(path.parent)
    like = [each for each in parent.iterdir() if printable(each.name) == path.name] if parent.is_dir() else []
    return like[0] if len(like) == 1 else parent / path.name


def _relative(path: Path, folder: Path) -> str:
    absolute = os.path.abspath(path)
    try:
        return printable(Path(os.path.relpath(absolute, _base(folder))).as_posix())
    except ValueError:  # on another drive
        return printable(absolute)


def _base(folder: Path) -> Path:
    # Without links: '..' would leave them by another way than it came.
    return Path(os.path.realpath(folder))
