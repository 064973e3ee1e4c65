"""Numbers out of other people's JSON."""

import math

from onnx_evidence.errors import DataError

_REMEDY = "pass --preprocess FILE.toml"


def number(value: object, what: str) -> float:
    """A finite number out of JSON; `DataError` where it is none, with file and key, ``what``, in its message."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise DataError(f"{what} {value!r} is no number: {_REMEDY}")
    return float(value)


def numbers(value: object, count: int, what: str) -> list[float]:
    """A number per channel out of JSON, a single one standing for all; `DataError` where there are more or fewer."""
    each = list(value) if isinstance(value, list | tuple) else [value]
    found = [number(one, what) for one in each]
    if len(found) not in (1, count):
        raise DataError(f"{what} has {len(found)} values for {count} channels: {_REMEDY}")
    return found if len(found) == count else found * count
