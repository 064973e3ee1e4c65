"""Numbers out of other people's JSON."""

import math

from onnx_evidence.errors import DataError

_REMEDY = "pass --preprocess FILE.toml"


def number(value: object, what: str) -> float:
    """A finite number.

    Parameters
    ----------
    value : object
        From JSON.
    what : str
        File and key, for messages.

    Returns
    -------
    float

    Raises
    ------
    DataError
        If it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise DataError(f"{what} {value!r} is no number: {_REMEDY}")
    return float(value)


def numbers(value: object, count: int, what: str) -> list[float]:
    """A number per channel; a single one stands for all.

    Parameters
    ----------
    value : object
        From JSON: a number or a list of them.
    count : int
        Channels.
    what : str
        File and key, for messages.

    Returns
    -------
    list of float

    Raises
    ------
    DataError
        If there are more or fewer, or one is none.
    """
    each = list(value) if isinstance(value, list | tuple) else [value]
    found = [number(one, what) for one in each]
    if len(found) not in (1, count):
        raise DataError(f"{what} has {len(found)} values for {count} channels: {_REMEDY}")
    return found if len(found) == count else found * count
