"""Lines of a manifest with one thing changed, sealed again: what somebody would write who knows how they are made."""

import copy
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from onnx_evidence.batch import fingerprint
from onnx_evidence.batch.journal import Journal
from onnx_evidence.files.arrays import pack_arrays


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


# Another value that the schema takes as well, where one made by the rule below would not do.
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
# And where that is the one that is there.
_OTHERWISE: dict[str, Any] = {
    "classes": "exclusive",
    "device": "cpu",
    "settings.method": "integrated",
    "settings.background": "mean",
    "settings.quality": "default",
    "settings.layers.0": "auto",
    "cuts.0.field": "measured",
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
        found = _PLAUSIBLE[key]
        return _OTHERWISE.get(key) if found == value else found
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


# What is done to a folder of results; each returns the place that has to be named.


def rehash(folder: Path, line: dict[str, Any], kind: str) -> None:
    """Have a line say what its file holds now.

    Parameters
    ----------
    folder : Path
        Of the results.
    line : dict
        Changed.
    kind : {'map', 'figure'}
        Which file.
    """
    line["hashes"][kind] = hashlib.sha256((folder / line[kind]).read_bytes()).hexdigest()


def shift(folder: Path, bits: float, cells: int | None = None) -> str:
    """Take bits off cells of the first map, off every patch of its pixels too where it is off all cells.

    Parameters
    ----------
    folder : Path
        Of the results.
    bits : float
        How many.
    cells : int, optional
        Of the first cut; by default all, of all cuts.

    Returns
    -------
    str
        The map.
    """
    lines = read_lines(folder)
    path = folder / lines[0]["map"]
    with np.load(path, allow_pickle=False) as loaded:
        arrays = dict(loaded)
    if cells is not None:
        arrays["cut0"].flat[:cells] -= np.float32(bits)
    else:
        area = float(np.prod(lines[0]["patch"]))
        in_photograph = area * arrays["pixels"].size / arrays["input_pixels"].size
        areas = {"input_pixels": area, "pixels": in_photograph}
        for name in arrays:
            if name in areas or name.startswith("cut"):
                arrays[name] = arrays[name] - np.float32(bits / areas.get(name, 1.0))
    path.write_bytes(pack_arrays(arrays))
    rehash(folder, lines[0], "map")
    write_lines(folder, lines)
    return str(lines[0]["map"])


def paint(folder: Path) -> str:
    """Paint the evidence of the first figure in fainter colours.

    Parameters
    ----------
    folder : Path
        Of the results.

    Returns
    -------
    str
        The map.
    """
    lines = read_lines(folder)
    path = folder / lines[0]["figure"]
    pixels = np.asarray(cv2.imread(str(path), cv2.IMREAD_UNCHANGED))
    middle = pixels[:, pixels.shape[1] // 3 : 2 * pixels.shape[1] // 3]
    middle[..., :3] = 255 - (255 - middle[..., :3]) // 3
    cv2.imwrite(str(path), pixels)
    rehash(folder, lines[0], "figure")
    write_lines(folder, lines)
    return str(lines[0]["map"])


def swap_lines(folder: Path) -> str:
    """Put the second line before the first one."""
    one, two, *rest = read_lines(folder)
    write_lines(folder, [two, one, *rest])
    return "seal"


def cut_end(folder: Path) -> str:
    """Remove the last line, with its picture's folder."""
    *kept, last = read_lines(folder)
    shutil.rmtree((folder / last["map"]).parent)
    write_lines(folder, kept)
    return "seal"


def empty_manifest(folder: Path) -> str:
    """Leave nothing in the manifest."""
    (folder / "manifest.jsonl").write_bytes(b"")
    return "manifest.jsonl"


def _planted(name: str) -> Callable[[Path], str]:
    def plant(folder: Path) -> str:
        path = folder / name.replace("PICTURE", read_lines(folder)[0]["map"].partition("/")[0])
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"planted")
        return path.relative_to(folder).as_posix()

    return plant


def _linked(folder: Path) -> str:
    (folder / "link").symlink_to(folder / "manifest.jsonl")
    return "link"


PLANTED: dict[str, Callable[[Path], str]] = {
    "a file in the folder": _planted("notes.txt"),
    "a hidden file in the folder": _planted(".hidden"),
    "a file in a picture's folder": _planted("PICTURE/notes.txt"),
    "a hidden map in a picture's folder": _planted("PICTURE/.map.npz"),
    "a folder with a map that no line knows": _planted("ghost/1-none.npz"),
    "a link in the folder": _linked,
}
