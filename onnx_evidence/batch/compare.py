"""A manifest line held against the one that a run would write now, key by key.

Every key has a rule; where no rule names it, it must be the same. `NOT_COMPARED` lists those that may differ, with the
reason. Places are those of the map that is written, and gaps those of the line's own numbers, on every machine;
other numbers may be off by what rounding does elsewhere. Where all of it was computed as here, by the same versions on
the same machine, and the map is the same bit for bit, so is every number.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from onnx_evidence.evidence import Budget
from onnx_evidence.methods import OPTIONS
from onnx_evidence.types import FloatArray

# Keys that may differ, and why. What is not true there, no computation shows.
NOT_COMPARED = {
    "image": "a name, held against that of its folder and, where it can be drawn, the figure's headline",
    "model": "where the file was; what it holds is known by its hash",
    "labels": "where the file of class names was; they are known by their hash",
    "places": "where files were; what they hold is known by their hashes",
    "settings.background": "a file's or a folder's name where there is a hash of what it holds",
    "settings.batch_size": "changes no more than the last digits; where it differs, maps are within the tolerance",
    "preprocess_source": "a file's name; what it said is in the settings. What the model records itself is compared",
    "device": "where the map was computed, which may be another machine",
    "device_reason": "of the machine that the map was computed on",
    "elsewhere": "of the machine that the map was computed on",
    "machine": "the machine that the map was computed on",
    "versions": "of what the map was computed with",
    "seconds": "how long it took there",
    "hashes.map": "held against the file",
    "hashes.figure": "held against the file",
    "previous": "held against the line before",
    "seal": "held against the line; --expect-seal says what the last one is",
}
# Steps of paths and draws that were taken until something was known well enough: rounding may ask for more or fewer.
_COUNTED = frozenset({"steps", "passes", "passes_saved", "windows_unmet"})
# Keys that earlier versions did not write.
_LATER = frozenset({"changes", "proof", "shallow", "rounding_bits", "field", "field_reason", "silent"})
# A line without one of these is opened with what there was before it, so the map tells.
_BEFORE = frozenset(f"settings.{name}" for name, option in OPTIONS.items() if option.before)
# Former defaults, in lines of methods that have no use for them.
_FORMER = {f"settings.{name}": option.unused for name, option in OPTIONS.items() if option.unused is not None}
# Where a preprocessing is from, where that can be tried again: not a file that was given, or lay there.
_TRIED_SOURCE = re.compile(r"the file's metadata .*|preset '.*|the input itself is given")
# In the place of the value of a key that is not there.
_ABSENT = "left out"
# Numbers in words, such as how far a proof was off.
_NUMBER = re.compile(r"\d+(\.\d+)?(e[+-]?\d+)?")
# What sums of float32 numbers come to in another order.
_ROUNDING = 1e-6
# A certificate is rounding itself: on another machine it may be another, of about that size.
_CERTIFICATE = 1e-5
# Patches that a map of pixels has, which are more or less independent.
_PATCHES = 196
_LN2 = math.log(2)


class Difference(NamedTuple):
    """A key that differs, such as 'cuts.0.certificate': plain values, of the line and of what a run would write now."""

    key: str
    there: Any
    now: Any

    def __str__(self) -> str:
        """In words."""
        return f"{self.key} is {_shown(self.there)} there and {_shown(self.now)} now"


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = "null" if value is None else str(value)
    return f"{text[:60]}..." if len(text) > 64 else text


@dataclass(frozen=True)
class Allowed:
    """What may be between a line and the one that a run would write now."""

    bits: float  # of a cell, a patch, or the log-odds
    same_input: bool = False  # the preprocessed picture must be the same: by the same versions on the same processor
    same_counts: bool = False  # so must be what was counted on the way: all computed as here, or the map is the same
    nothing: bool = False  # no number may be another: all was computed as here, and the map is the same
    earlier: bool = False  # the line is of a version that did not write `_LATER` yet


# Rules

Rule = Callable[[float, float, float], bool]


def _bits(there: float, now: float, bits: float) -> bool:
    return abs(there - now) <= bits


def _sum(there: float, now: float, bits: float) -> bool:
    return abs(there - now) <= sum_tolerance(bits, _PATCHES) * _PATCHES


def _chance(there: float, now: float, bits: float) -> bool:
    """What the tolerance of the log-odds is as a probability; float32 carries no more than 1e-6."""
    return abs(there - now) <= max(_LN2 * bits * max(now * (1 - now), there * (1 - there)), 1e-6)


def _derived(there: float, now: float, _: float) -> bool:
    return abs(there - now) <= _ROUNDING * max(abs(now), 1e-3)


def _certificate(there: float, now: float, _: float) -> bool:
    return abs(there - now) <= _CERTIFICATE + max(there, now) / 2


def _tenth(there: float, now: float, _: float) -> bool:
    return abs(there - now) <= 0.1 + _ROUNDING  # it is rounded to a tenth


_BUDGET = {
    "with_bits": _bits,
    "without_bits": _bits,
    "for_bits": _bits,
    "against_bits": _bits,
    "gap_bits": _derived,
    "gap_share": _derived,
    "pixels_bits": _sum,
}
_EXTREME = {"bits": _bits, "stderr": _bits, "interval.#": _bits}
# Numbers that rounding moves; by key, '#' for a place in a list.
_RULES: dict[str, Rule] = {
    "probability": _chance,
    "top.#.probability": _chance,
    "log_odds_bits": _bits,
    "padding_bits": _bits,
    "cuts.#.certificate": _certificate,
    "cuts.#.rounding_bits": _bits,
    "cuts.#.resolution_pixels": _tenth,
    **{f"budget.{key}": rule for key, rule in _BUDGET.items()},
    **{f"cuts.#.budget.{key}": rule for key, rule in _BUDGET.items()},
    **{f"strongest_{side}.{key}": rule for side in ("for", "against") for key, rule in _EXTREME.items()},
}


def sum_tolerance(bits: float, cells: int) -> float:
    """What may be between two means over a map: what rounding does to its cells, up as often as down.

    That is ``bits / sqrt(cells)``, the standard error of the mean of errors that large with no common sign; more than
    196 cells do not count, as neighbours in a picture are not independent.
    """
    return bits / math.sqrt(max(1, min(cells, _PATCHES)))


def differences(there: dict[str, Any], now: dict[str, Any], allowed: Allowed) -> list[Difference]:
    """What a manifest line says otherwise than the one that a run would write, in the line's order.

    ``now`` is from `work.line_of`, for the map that is there: see `recompute`. Keys of `NOT_COMPARED` are left out.
    """
    now = {**now, "top": _in_order(there["top"], now["top"], allowed)}
    now = now if allowed.nothing else _with_gaps_of(there, now)
    one, other = dict(_leaves(there)), dict(_leaves(now))
    found = []
    for key in dict.fromkeys([*one, *other]):
        if _not_compared(key, there, now, allowed):
            continue
        if key in one and key in other:
            same = _same(key, one[key], other[key], allowed)
        else:
            later = allowed.earlier and not _LATER.isdisjoint(key.split("."))
            same = key not in one and (later or key in _BEFORE)
        if not same:
            found.append(Difference(key, one.get(key, _ABSENT), other.get(key, _ABSENT)))
    return found


def _not_compared(key: str, there: dict[str, Any], now: dict[str, Any], allowed: Allowed) -> bool:
    names = key.split(".")
    if key == "settings.background":
        return there["hashes"]["background"] is not None
    if key == "hashes.input":
        return not allowed.same_input
    if key == "hashes.map":
        return not allowed.nothing
    if names[0] != "settings" and names[-1] in _COUNTED:
        return not allowed.same_counts
    if key == "preprocess_source":
        return not any(_TRIED_SOURCE.match(str(line[key])) for line in (there, now))
    return names[0] in NOT_COMPARED or key in NOT_COMPARED


def _same(key: str, there: Any, now: Any, allowed: Allowed) -> bool:
    if there == now and type(there) is type(now):
        return True
    if key in _FORMER and there == _FORMER[key]:
        return True
    if allowed.nothing:
        return isinstance(there, int | float) and there == now and not isinstance(there, bool)
    if key == "proof" and isinstance(there, str) and isinstance(now, str):
        return _NUMBER.sub("#", there) == _NUMBER.sub("#", now)
    rule = _RULES.get(re.sub(r"\.\d+(?=\.|$)", ".#", key))
    numbers = all(isinstance(each, int | float) and not isinstance(each, bool) for each in (there, now))
    return numbers and (there == now or (rule is not None and rule(there, now, allowed.bits)))


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every plain value, by its path; lists and objects without anything in them are values too."""
    inside: Mapping[Any, Any] = (
        value if isinstance(value, dict) else dict(enumerate(value)) if isinstance(value, list) else {}
    )
    if not inside:
        yield key, value
    for name, each in inside.items():
        yield from _leaves(each, f"{key}.{name}" if key else str(name))


def _in_order(there: list[dict[str, Any]], now: list[dict[str, Any]], allowed: Allowed) -> list[dict[str, Any]]:
    """The most probable classes in the line's order, where that is one too: two may be as probable as each other."""
    by_class = {each["class"]: each for each in now}
    chances = [each["probability"] for each in there]
    if allowed.nothing or chances != sorted(chances, reverse=True) or {e["class"] for e in there} != set(by_class):
        return now
    return [by_class[each["class"]] for each in there]


def _with_gaps_of(there: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """A line whose gaps are those of the other line's own numbers: small differences of large ones."""
    cuts = [
        {**mine, "budget": _closed(its.get("budget"), mine["budget"])} if mine.get("budget") else mine
        for its, mine in zip(there["cuts"], now["cuts"], strict=False)
    ]
    cuts += now["cuts"][len(cuts) :]
    return {**now, "budget": now["budget"] and _closed(there["budget"], now["budget"]), "cuts": cuts}


def _closed(there: dict[str, Any] | None, now: dict[str, Any]) -> dict[str, Any]:
    if there is None:
        return now
    said = Budget(there["with_bits"], there["without_bits"], there["for_bits"], there["against_bits"], 0, 0.0)
    return {**now, "gap_bits": said.gap, "gap_share": said.gap_share}


# Maps


class Apart(NamedTuple):
    """How far a map is from the one computed again."""

    bits: float  # the largest difference of a cell of a cut, or of a patch in pixels; infinite where shapes differ
    sums: list[Difference]  # those that are further apart than rounding takes them


_PARTS: dict[str, Callable[[FloatArray], FloatArray]] = {
    "": lambda values: values,
    "all that is positive in ": lambda values: np.maximum(values, 0),
    "all that is negative in ": lambda values: np.minimum(values, 0),
}


def apart(
    there: Mapping[str, FloatArray], now: Mapping[str, FloatArray], areas: Mapping[str, float], bits: float
) -> Apart:
    """Hold a map's arrays against those of the map computed again, in every number and in its sums.

    ``areas`` has, by an array's name, how many of its values a number shown to people stands for: a pixel's bits are
    few where they add up. ``bits`` may be between two such numbers.
    """
    shapes = [{name: each.shape for name, each in arrays.items()} for arrays in (there, now)]
    if shapes[0] != shapes[1]:
        names = sorted(name for name in shapes[0] | shapes[1] if shapes[0].get(name) != shapes[1].get(name))
        said = [[each.get(name) for name in names] for each in shapes]
        return Apart(math.inf, [Difference(f"the shape of {', '.join(names)}", *said)])
    cells = min(each.size for name, each in now.items() if name.startswith("cut"))
    largest, sums = 0.0, []
    for name, values in sorted(now.items(), key=lambda item: not item[0].startswith("cut")):
        one, other = (each.astype(np.float64) for each in (there[name], values))
        unknown = np.isnan(one) & np.isnan(other)
        one, other = np.where(unknown, 0.0, one), np.where(unknown, 0.0, other)
        area = areas.get(name, 1.0)
        worst = float(np.nan_to_num(np.abs(one - other), nan=np.inf, posinf=np.inf).max(initial=0.0)) * area
        largest = max(largest, worst)
        many = values.size if name.startswith("cut") else cells
        limit = sum_tolerance(bits, many) * values.size / area
        for sign, part in _PARTS.items():
            both = float(part(one).sum()), float(part(other).sum())
            if not abs(both[0] - both[1]) <= limit:
                sums.append(Difference(f"the sum of {sign}{name}", *both))
    return Apart(largest, sums)
