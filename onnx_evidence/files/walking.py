"""What lies below a folder."""

import os
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path


def leads_into(path: Path, places: Collection[Path]) -> bool:
    """Whether a path, or what it links to, is one of some real paths, or below one."""
    real = Path(os.path.realpath(path))  # `Path.resolve` raises where links lead in circles
    return any(each in places for each in (real, *real.parents))


def below(folder: Path, *, hidden: bool = True, without: Collection[Path] = ()) -> Iterator[Path]:
    """Everything below a folder, at any depth and in no order; folders that cannot be read hold nothing.

    `Path.rglob` and `os.walk` call themselves for every level, and paths have room for more levels than Python has.

    Parameters
    ----------
    folder : Path
        Itself may be a link; links to folders below it are given but not gone through, since they may lead in circles.
    hidden : bool
        False leaves out names that begin with a dot, and what is below them.
    without : collection of Path
        Left out with what is below them, and links that lead there: real paths.

    Yields
    ------
    Path
        Begins with ``folder``.
    """
    waiting = [] if leads_into(folder, without) else [(folder, Path(os.path.realpath(folder)))]
    while waiting:
        folder, real = waiting.pop()
        names: list[str] = []
        with suppress(OSError), os.scandir(folder) as found:
            names = [each.name for each in found if hidden or not each.name.startswith(".")]
        for name in names:
            path, itself = folder / name, real / name
            linked = os.path.islink(path)
            if itself in without or (linked and leads_into(path, without)):
                continue
            yield path
            if not linked and os.path.isdir(path):
                waiting.append((path, itself))
