"""Lines of a manifest with one thing changed, sealed again: what somebody would write who knows how they are made."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from onnx_evidence.batch import fingerprint
from onnx_evidence.batch.journal import Journal


class Forgery(NamedTuple):
    """A line with one thing changed.

    Attributes
    ----------
    key : str
        What was changed, such as 'cuts.0.certificate'.
    line : dict
        With fingerprints that fit; seals are made when it is written.
    """

    key: str
    line: dict[str, Any]


# Another value that the schema takes as well, where one made by the rule below would not do; not that of the default.
_PLAUSIBLE: dict[str, Any] = {
    "schema": 3,
    "classes": "independent",
    "device": "cuda",
    "settings.method": "window",
    "settings.background": "zero",
    "settings.statistic": "channel",
    "settings.score": "logit",
    "settings.project": "backward",
    "settings.quality": "fast",
    "settings.layers.0": "deep",
    "settings.window": 3,
    "settings.stride": 1,
    "settings.samples": 4,
    "settings.laplace": [100, 5],
    "settings.tolerance": 0.5,
    "settings.preprocess.resize": "stretch",
    "settings.preprocess.interpolation": "bicubic",
    "settings.preprocess.color": "BGR",
    "cuts.0.field": "nominal",
}
# Hashes that fingerprints are made of, or of what nobody has.
_DIGEST = "0123456789abcdef" * 4
# Keys that only the journal writes.
SEALS = ("previous", "seal")


def leaves(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Every plain value in an object, with the way there.

    Parameters
    ----------
    value : object
        Parsed JSON.
    path : tuple of str and int
        The way to it.

    Yields
    ------
    path : tuple of str and int
    value : object
    """
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, each in inside:
        yield from leaves(each, (*path, name))
    if not isinstance(value, dict | list) or not value:
        yield path, value


def other(key: str, value: Any) -> Any:
    """Another value for a key, as plausible as the one that is there.

    Parameters
    ----------
    key : str
        Such as 'cuts.0.certificate'.
    value : object
        That is there.

    Returns
    -------
    object
    """
    if key in _PLAUSIBLE:
        return _PLAUSIBLE[key]
    if value is None:
        return 0.25 if key.endswith(("_bits", "stderr")) else [-1.0, 1.0] if key.endswith("interval") else "nothing"
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value * 0.9 if 0 < value <= 1 else value + 0.1
    if isinstance(value, list):
        return ["added"]
    if len(value) == 64:
        return _DIGEST
    return f"{value} "


def resealed(line: dict[str, Any]) -> dict[str, Any]:
    """A line with fingerprints that fit what it says.

    Parameters
    ----------
    line : dict
        A manifest line.

    Returns
    -------
    dict
        The same one.
    """
    line["configuration"] = fingerprint.digest(fingerprint.of_entry(line))
    line["work"] = fingerprint.of_work(line["configuration"], line["hashes"]["image"], line["target"], line["versus"])
    return line


def forgeries(line: dict[str, Any]) -> Iterator[Forgery]:
    """A line with every key changed in turn, and with those left out that earlier versions did not write.

    Parameters
    ----------
    line : dict
        A manifest line.

    Yields
    ------
    Forgery
    """
    for path, value in leaves(line):
        key = ".".join(map(str, path))
        if key in SEALS:
            continue
        forged = copy.deepcopy(line)
        inner: Any = forged
        for name in path[:-1]:
            inner = inner[name]
        inner[path[-1]] = other(key, value)
        # Fingerprints that do not fit are the change itself.
        yield Forgery(key, forged if key in ("configuration", "work") else resealed(forged))
    for key in ("changes", "proof", "shallow"):
        yield Forgery(f"{key}, left out", {name: each for name, each in line.items() if name != key})
    for key in ("rounding_bits", "field"):
        cuts = [{name: each for name, each in cut.items() if name != key} for cut in line["cuts"]]
        yield Forgery(f"cuts.#.{key}, left out", {**line, "cuts": cuts})
    yield Forgery("a key of a cut, added", {**line, "cuts": [{**cut, "verified": True} for cut in line["cuts"]]})


def write_lines(folder: Path, lines: list[dict[str, Any]]) -> None:
    """Write a manifest whose chain is whole.

    Parameters
    ----------
    folder : Path
        Of the results.
    lines : list of dict
        All of them.
    """
    path = folder / "manifest.jsonl"
    path.unlink(missing_ok=True)
    Journal(path, lambda line: None).rewrite(lines)


def read_lines(folder: Path) -> list[dict[str, Any]]:
    """The lines of a manifest, parsed.

    Parameters
    ----------
    folder : Path
        Of the results.

    Returns
    -------
    list of dict
    """
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_bytes().splitlines()]
