"""Hostile folders of results for `attack.py`: planted links, pipes and devices, and lines that point elsewhere.

A folder of two maps is made once; each attack changes a copy. `folders.py` draws changes at random.
"""

import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from onnx_evidence.batch import fingerprint
from onnx_evidence.batch.journal import sealed
from parts.attack.cases import case
from parts.attack.files import BACKGROUNDS
from parts.attack.models import SPECIAL, special
from parts.attack.run import Attack, Place, overwrite, remove

READERS = ("explain", "verify", "summary", "merge", "merge into")


@cache
def _seed() -> tuple[tempfile.TemporaryDirectory[str], Path]:
    """A place in which two pictures were explained, with figures; removed with this process."""
    folder = tempfile.TemporaryDirectory(prefix="attack-seed-")
    place = Place(Path(folder.name) / "place")
    place.model()
    place.pictures(2)
    options = ("-o", "../out", "-q", "--quality", "fast", "--device", "cpu")
    command = [sys.executable, "-m", "onnx_evidence", "explain", "model.onnx", "pictures", *options]
    path = os.pathsep.join([str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH", "")])
    subprocess.run(
        command, cwd=place.inside, check=True, stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": path}
    )
    return folder, place.path


def explained(place: Place) -> list[dict[str, Any]]:
    """Put a folder of two maps into a place, with its model and pictures; the lines of its manifest."""
    for name in ("in", "out"):
        if name == "out" or not (place.inside / "model.onnx").exists():
            shutil.copytree(_seed()[1] / name, place.path / name, dirs_exist_ok=True)
    return [json.loads(line) for line in (place.out / "manifest.jsonl").read_text("utf-8").splitlines()]


def reseal(out: Path, entries: Sequence[dict[str, Any]], name: str = "manifest.jsonl", *, prints: bool = True) -> None:
    """Write lines with seals, and fingerprints where these can be taken, as a forger would."""
    data, previous = b"", None
    for entry in entries:
        bare = {key: value for key, value in entry.items() if key not in ("previous", "seal")}
        if prints:
            try:
                bare["configuration"] = fingerprint.digest(fingerprint.of_entry(bare))
                picture = bare["hashes"]["image"]
                bare["work"] = fingerprint.of_work(bare["configuration"], picture, bare["target"], bare["versus"])
            except (KeyError, TypeError, ValueError, AttributeError):
                pass
        line, previous = sealed(bare, previous)
        data += line
    overwrite(out / name, data)


def commands(reader: str) -> tuple[object, ...]:
    """What a reader of a folder of results is called with; other results are in `../out/merged`."""
    return {
        "explain": ("explain", "model.onnx", "pictures", "-o", "../out", "-q", "--quality", "fast", "--device", "cpu"),
        "verify": ("verify", "../out", "--device", "cpu"),
        "summary": ("summary", "../out", "-o", "../out/table.csv"),
        "merge": ("merge", "../out", "-o", "../out/merged", "-q"),
        "merge into": ("merge", "whole", "-o", "../out", "-q"),
    }[reader]


def _read(place: Place, *codes: int) -> Attack:
    """Every reader in turn, those that only read first."""
    shutil.copytree(_seed()[1] / "out", place.inside / "whole")
    order = ("verify", "summary", "merge", "merge into", "explain")
    return Attack(tuple(commands(reader) for reader in order), codes or (0, 1, 3))


# What is planted

_NAMES = (
    ".lock",
    "manifest.jsonl",
    "failures.jsonl",
    ".writable",
    "table.csv",
    "0000",
    "0001",
    "MAP",
    "FIGURE",
)
KINDS = (
    "a link to a file outside",
    "a link to a folder outside",
    "a link to nothing outside",
    "another name of a file outside",
)


def path_of(place: Place, name: str, entries: Sequence[dict[str, Any]]) -> Path:
    """Where something lies in a folder of results, by its name."""
    named: dict[str, str] = {"MAP": entries[0]["map"], "FIGURE": entries[0]["figure"]}
    return place.out / named.get(name, name)


def plant(place: Place, path: Path, kind: str) -> None:
    """Put something in the place of what is there."""
    remove(path)
    targets = {KINDS[0]: place.secret, KINDS[1]: place.outside / "folder", KINDS[2]: place.outside / "new"}
    if kind in targets:
        path.symlink_to(targets[kind])
    elif kind == KINDS[3]:
        os.link(place.secret, path)
    elif kind == "a device":
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))  # zeros without end
    else:
        special(place, path, kind)


@case("output folders", "{}", [f"{kind} as {name}" for name in _NAMES for kind in KINDS], quick=True)
def _link(place: Place, given: str) -> Attack:
    kind, _, name = given.rpartition(" as ")
    plant(place, path_of(place, name, explained(place)), kind)
    return _read(place)


_SPECIAL = [*SPECIAL, *(["a device"] if hasattr(os, "geteuid") and os.geteuid() == 0 else [])]


@case("output folders", "{}", [f"{kind} as {name}" for name in _NAMES for kind in _SPECIAL])
def _special(place: Place, given: str) -> Attack:
    kind, _, name = given.rpartition(" as ")
    plant(place, path_of(place, name, explained(place)), kind)
    return _read(place)


@case("output folders", "a map that was moved outside, with a link to it in its place", ["the map", "its folder"])
def _moved(place: Place, what: str) -> Attack:
    first = place.out / explained(place)[0]["map"]
    path = first if what == "the map" else first.parent
    path.replace(place.outside / path.name)
    path.symlink_to(place.outside / path.name)
    return _read(place)


@case("output folders", "a folder that is {}", [*SPECIAL, "a link to a file outside"])
def _no_folder(place: Place, kind: str) -> Attack:
    explained(place)
    shutil.rmtree(place.out)
    plant(place, place.out, kind)
    return _read(place)


# Lines that point elsewhere, sealed anew

PATHS = (
    "../x", "../outside/secret", "a/../../outside/secret", "0000/../../outside/secret", "/etc/passwd", "/dev/zero",
    "/proc/self/mem", ".", "..", "", "0000", ".lock", "manifest.jsonl", "failures.jsonl", "0000/.hidden", "a/b/c",
    "0000//x.npz", "0000/x\0.npz", "0000/\x1b[2J.npz", "0000/\n.npz", "0000/..", "\\..\\x", "C:\\x", "~/x",
    "0000/" + "x" * 300, "x" * 5000 + "/x.npz", "\u2025/x.npz", "..\u2044x/y.npz", "0000/link.npz", "0000/pipe.npz",
)  # fmt: skip


@case("output folders", "a line whose map is '{}'", PATHS, quick=True)
def _map(place: Place, path: str) -> Attack:
    return _pointing(place, path, "map")


@case("output folders", "a line whose figure is '{}'", PATHS)
def _figure(place: Place, path: str) -> Attack:
    return _pointing(place, path, "figure")


def _pointing(place: Place, path: str, name: str) -> Attack:
    entries = explained(place)
    (place.out / "0000" / "link.npz").symlink_to(place.secret)
    place.pipe(place.out / "0000" / "pipe.npz")
    entries[0][name] = path
    reseal(place.out, entries)
    return _read(place)


_NAMED = (
    "pipe",
    "/dev/zero",
    "/dev/stdin",
    "\0",
    "\x1b[2J",
    "",
    "x" * 5000,
    "nobody@host:/x",
    "//host/x",
)


@case("output folders", "a line whose picture, model and background are '{}'", _NAMED, quick=True)
def _named(place: Place, name: str) -> Attack:
    entries = explained(place)
    place.pipe(place.inside / "pipe")
    for entry in entries:
        entry["image"] = entry["model"] = entry["settings"]["background"] = name
        entry["places"] = {"image": name, "model": name, "background": name}
        entry["hashes"]["background"] = "0" * 64
    reseal(place.out, entries)
    return _read(place)


@case(
    "output folders",
    "a line whose map says what '{}' is, with the right hash",
    [".lock", "failures.jsonl", "0000/x.npz"],
)
def _taken(place: Place, path: str) -> Attack:
    entries = explained(place)
    data = (place.out / entries[0]["map"]).read_bytes()
    (place.out / path).write_bytes(data)
    entries[0]["map"] = path
    reseal(place.out, entries)
    return _read(place)


def _nested(depth: int) -> str:
    return "[" * depth + "]" * depth


LINES: dict[str, bytes] = {
    "nothing": b"",
    "an empty line": b"\n",
    "an empty object": b"{}\n",
    "a list": b"[1]\n",
    "100,000 brackets": _nested(100_000).encode() + b"\n",
    "100,000 brackets in an object": b'{"a": ' + _nested(100_000).encode() + b"}\n",
    "20 MB without an end": b"x" * (20 << 20),
    "20 MB": b"x" * (20 << 20) + b"\n",
    "zeros": bytes(10_000),
    "a number of 10,000 digits": b'{"schema": ' + b"9" * 10_000 + b"}\n",
    "no UTF-8": b'{"schema": "\xff"}\n',
    "a surrogate": b'{"schema": "\\ud800"}\n',
    "200,000 lines of nothing": b"\n" * 200_000,
    "200,000 objects": b"{}\n" * 200_000,
}


@case("output folders", "a manifest of {}", LINES, quick=True)
def _manifest(place: Place, data: bytes) -> Attack:
    explained(place)
    (place.out / "manifest.jsonl").write_bytes(data)
    return _read(place)


@case("output folders", "a list of failures of {}", LINES)
def _failures(place: Place, data: bytes) -> Attack:
    explained(place)
    (place.out / "failures.jsonl").write_bytes(data)
    return _read(place)


VALUES: dict[str, Any] = {
    "nothing": None,
    "true": True,
    "-1": -1,
    "2^70": 2**70,
    "1e308": 1e308,
    "text": "x",
    "an escape sequence": "\x1b[2J",
    "an empty list": [],
    "an empty object": {},
    "a list of lists": [[[[]]]],
    "500 brackets": json.loads(_nested(500)),
}


@case("output folders", "a line that says {} everywhere in turn, sealed", VALUES, quick=True)
def _said(place: Place, value: Any) -> Attack:
    """All keys of a line, each in a folder of its own that `verify` and `summary` read."""
    entries = explained(place)
    tried: list[tuple[object, ...]] = []
    for number, key in enumerate(sorted(entries[0])):
        out = place.path / "out" / f"said{number}"
        shutil.copytree(_seed()[1] / "out", out)
        reseal(out, [{**entries[0], key: value}, *entries[1:]])
        reader = ("verify", out, "--sample", 1) if number % 2 else ("summary", out)
        tried.append(reader)
    return Attack(tuple(tried), (0, 1, 3))


@case("output folders", "maps whose content is {}, with the right hash", BACKGROUNDS)
def _content(place: Place, make: Callable[[], bytes]) -> Attack:
    entries = explained(place)
    data = make()
    (place.out / entries[0]["map"]).write_bytes(data)
    entries[0]["hashes"]["map"] = hashlib.sha256(data).hexdigest()
    reseal(place.out, entries)
    return _read(place)


@case(
    "output folders",
    "maps that hold {}, with the right hash",
    ["other arrays", "no arrays", "half of them", "text", "1e308"],
)
def _other(place: Place, what: str) -> Attack:
    entries = explained(place)
    path = place.out / entries[0]["map"]
    arrays = dict(np.load(path))
    some = dict(list(arrays.items())[: len(arrays) // 2])
    changed: dict[str, dict[str, Any]] = {
        "other arrays": {"x": np.zeros(3, np.float32)},
        "no arrays": {},
        "half of them": some,
        "text": {**arrays, "pixels": np.array("x")},
        "1e308": {name: np.full_like(value, 3e38) for name, value in arrays.items()},
    }
    np.savez_compressed(path, **changed[what])
    entries[0]["hashes"]["map"] = hashlib.sha256(path.read_bytes()).hexdigest()
    reseal(place.out, entries)
    return _read(place)


# Other outputs


@case("output folders", "{} where another command writes", [*KINDS, *SPECIAL])
def _others(place: Place, kind: str) -> Attack:
    place.model()
    place.pictures(2)
    for name in (
        "b.npz",
        "g.onnx",
        "table.csv",
        "links.png",
        "links.json",
        "numbers.csv",
        "summary.json",
        "curves.png",
    ):
        plant(place, place.out / name, kind)
    tried = (
        ("gradient", "model.onnx", "-o", "../out/g.onnx"),
        ("links", "model.onnx", "pictures/0000.png", "-o", "../out"),
        ("evaluate", "model.onnx", "pictures", "-o", "../out", "--methods", "grad-cam", "--substrates", "mean", "-q"),
        ("background", "model.onnx", "pictures", "-o", "../out/b.npz"),
    )
    return Attack(tried, (0, 1))


@case(
    "output folders",
    "results are to go to '{}'",
    ["/dev/full", "/dev/null", "/proc/x", "/sys/x", "pipe/x", "", "\udcff", "x" * 5000],
)
def _nowhere(place: Place, out: str) -> Attack:
    place.model()
    place.pictures()
    place.pipe(place.inside / "pipe")
    run = (
        "explain",
        "model.onnx",
        "pictures",
        "-o",
        f"../out/{out}" if out[:1] in ("x", "\udcff") else out,
        "-q",
        "--no-figures",
    )
    codes = (0, 1) if out else (0, 2)  # nothing is wrong usage
    return Attack((run, ("gradient", "model.onnx", "-o", f"{run[4]}/g.onnx" if out else "../out/g.onnx")), codes)


@case("output folders", "a disk that is {}", ["full", "read-only"])
def _disk(place: Place, kind: str) -> Attack:
    """On a tmpfs in a namespace of its own, so that nothing is left mounted."""
    explained(place)
    place.pictures(3)
    copy = shutil.copytree(place.out, place.inside / "copy")
    # What is there fits, in pages of 4 kB, and a lock; a further map does not.
    pages = sum(1 + path.stat().st_size // 4096 for path in copy.rglob("*"))
    size = "" if kind == "read-only" else f"size={4 * pages + 16}k,"
    only = "ro" if kind == "read-only" else "rw"
    mount = f"mount -t tmpfs -o {size}rw tmpfs ../out && cp -r copy/. ../out"
    shell = f'{mount} && mount -o remount,{size}{only} ../out && "$@"'
    readers = ("explain", "merge into", "summary")
    (place.inside / "whole").mkdir()
    shutil.copytree(_seed()[1] / "out", place.inside / "whole", dirs_exist_ok=True)
    return Attack(tuple(commands(r) for r in readers), (0, 1), shell=f"exec unshare --mount sh -c '{shell}' sh \"$@\"")
