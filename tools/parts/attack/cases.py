"""The table that cases of `attack.py` enter themselves in, by kind; adding a case is adding a function."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple, TypeVar

from parts.attack.run import Attack, Place

Make = Callable[[Place], Attack]
F = TypeVar("F", bound=Callable[..., Attack])


class Case(NamedTuple):
    """An attack that can be tried.

    Attributes
    ----------
    kind, name : str
        Where it belongs, and what is tried, in words.
    make : callable
        Writes its files into a place.
    quick : bool
        Whether the tests try it too.
    """

    kind: str
    name: str
    make: Make
    quick: bool


CASES: list[Case] = []


def case(kind: str, name: str, each: Iterable[Any] = (), *, quick: bool = False) -> Callable[[F], F]:
    """Enter a function in the table.

    Parameters
    ----------
    kind, name : str
        As of `Case`; '{}' in the name stands for the variant.
    each : iterable, or dict
        Variants: the function is entered with each as its second argument, under its own name or its key.
    quick : bool
        Whether the tests try it; of variants, the first.

    Returns
    -------
    callable
        The decorator.
    """

    def enter(make: F) -> F:
        named = each.items() if isinstance(each, dict) else ((str(value), value) for value in each)
        variants: list[tuple[str, Make]] = [
            (name.replace("{}", ascii(key)[1:-1]), partial(_with, make, value)) for key, value in named
        ]
        entered: list[tuple[str, Make]] = variants or [(name, make)]
        for number, (words, made) in enumerate(entered):
            CASES.append(Case(kind, words, made, quick and not number))
        return make

    return enter


def _with(make: Callable[..., Attack], value: Any, place: Place) -> Attack:
    return make(place, value)


def explain(*more: object) -> tuple[object, ...]:
    """The command that explains what lies in ``in``."""
    return ("explain", *more, "-o", "../out", "-q", "--no-figures", "--device", "cpu")
