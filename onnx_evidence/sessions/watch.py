"""How long ONNX Runtime computes, by what it runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

_WATCHES: list[dict[str, float]] = []


@contextmanager
def watched() -> Iterator[dict[str, float]]:
    """Inside, the seconds of all runs of sessions add up, by the parts that sessions are of.

    Yields
    ------
    dict of str to float
        Seconds by `Session`'s ``part``.
    """
    spent: dict[str, float] = {}
    _WATCHES.append(spent)
    try:
        yield spent
    finally:
        _WATCHES.remove(spent)


@contextmanager
def counted(part: str) -> Iterator[None]:
    """Add the seconds inside to what is watched."""
    start = perf_counter()
    try:
        yield
    finally:
        seconds = perf_counter() - start
        for spent in _WATCHES:
            spent[part] = spent.get(part, 0.0) + seconds
