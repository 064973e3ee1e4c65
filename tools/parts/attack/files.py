"""Hostile backgrounds, labels, preprocessing files, lists and patterns for `attack.py`."""

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from parts.attack.cases import case, explain
from parts.attack.models import SPECIAL, special
from parts.attack.pictures import evil, png
from parts.attack.run import Attack, Place

# Backgrounds

_CUT = {"name": "relu1", "shape": [12, 8, 8], "patch": 5, "window": 3, "r2": 0.5, "clipped": 0.0}
_HEADER = {"format": 1, "model_sha256": "0" * 64, "preprocess": "{}", "pictures": 9, "cuts": [_CUT]}


def _npz(**arrays: Any) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


def _headed(header: str, **arrays: Any) -> bytes:
    return _npz(header=np.array(header), **arrays)


def _sized(patch: int) -> bytes:
    cut = {**_CUT, "patch": patch}
    arrays = {
        "mean0": np.zeros(3, np.float32),
        "covariance0": np.zeros(3, np.float32),
        "range0": np.zeros(3, np.float32),
    }
    return _headed(json.dumps({**_HEADER, "cuts": [cut]}), **arrays)


def _member(head: str, body: bytes, name: str = "mean0.npy", packing: int = zipfile.ZIP_DEFLATED) -> bytes:
    text = head.encode() + b"\n"
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", packing) as archive:
        archive.writestr(name, b"\x93NUMPY\x02\0" + struct.pack("<I", len(text)) + text + body)
        header = io.BytesIO()
        np.save(header, np.array(json.dumps(_HEADER)))
        archive.writestr("header.npy", header.getvalue())
    return stream.getvalue()


def head(shape: str, descr: str = "<f4") -> str:
    """The head of an array's file."""
    return f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}"


def _claiming(claim: int) -> bytes:
    """A zip whose directory says that its one member is of another size than it is."""
    data = bytearray(_member(head("(8,)"), bytes(32)))
    start = data.index(b"PK\x01\x02") + 24
    data[start : start + 4] = struct.pack("<I", claim)
    return bytes(data)


def zip_bomb(size: int = 3 << 30, name: str = "mean0.npy") -> bytes:
    """A member of some gigabytes of zeros, packed a thousand to one, with a true head."""
    packer = zlib.compressobj(9, wbits=-15)
    text = head(f"({size // 4},)").encode() + b"\n"
    start = b"\x93NUMPY\x02\0" + struct.pack("<I", len(text)) + text
    block, total = bytes(1 << 20), zlib.crc32(start)
    packed = [packer.compress(start)]
    for _ in range(size >> 20):
        packed.append(packer.compress(block))
        total = zlib.crc32(block, total)
    body = b"".join([*packed, packer.flush()])
    whole = struct.pack("<III", total, len(body), len(start) + (size >> 20 << 20))
    local = (
        struct.pack("<4sHHHHH", b"PK\3\4", 20, 0, 8, 0, 0) + whole + struct.pack("<HH", len(name), 0) + name.encode()
    )
    central = struct.pack("<4sHHHHHH", b"PK\1\2", 20, 20, 0, 8, 0, 0) + whole
    central += struct.pack("<HHHHHII", len(name), 0, 0, 0, 0, 0, 0) + name.encode()
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 1, 1, len(central), len(local) + len(body), 0)
    return local + body + central + end


def _overlapping(members: int) -> bytes:
    """A zip of which all members are the same bytes, so that a little is unpacked many times."""
    one = zip_bomb(64 << 20)
    start = one.index(b"PK\1\2")
    central, end = one[start:-22], one[-22:]
    many = b"".join(central.replace(b"mean0.npy", f"m{number:04}.npy".encode()) for number in range(members))
    return (
        one[:start] + many + struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, members, members, len(many), start, 0) + end[:0]
    )


def _many(members: int) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for number in range(members):
            archive.writestr(f"m{number}.npy", b"")
    return stream.getvalue()


BACKGROUNDS: dict[str, Callable[[], bytes]] = {
    "a header of 100,000 brackets": lambda: _headed("[" * 100_000),
    "a header of objects within each other": lambda: _headed('{"a":' * 100_000),
    "a header of a number of 10,000 digits": lambda: _headed('{"format": ' + "9" * 10_000 + "}"),
    "a patch of 1e9": lambda: _sized(10**9),
    "a patch of -1": lambda: _sized(-1),
    "a million cuts": lambda: _headed(json.dumps({**_HEADER, "cuts": [_CUT] * 10**5})),
    "a shape of 2^62": lambda: _headed(json.dumps({**_HEADER, "cuts": [{**_CUT, "shape": [2**62] * 3}]})),
    "arrays that are not there": lambda: _headed(json.dumps(_HEADER)),
    "an array that claims 1e18 numbers": lambda: _member(head("(1000000000, 1000000000)"), bytes(8)),
    "an array that claims less than nothing": lambda: _member(head("(-1,)"), bytes(8)),
    "an array with a head of 100,000 brackets": lambda: _member("(" * 100_000, bytes(8)),
    "an array with a call in its head": lambda: _member("__import__('os').system('echo x > ../outside/x')", b""),
    "an array of nothing by 2^62": lambda: _member(head(f"(0, {2**62})"), b""),
    "an array named '../../outside/x'": lambda: _member(head("(8,)"), bytes(32), "../../outside/x.npy"),
    "an array of objects": lambda: _npz(header=evil(), mean0=evil()),
    "an array of complex numbers": lambda: _headed(json.dumps(_HEADER), mean0=np.zeros((12, 8, 8), complex)),
    "an array of text": lambda: _headed(json.dumps(_HEADER), mean0=np.array(["x"] * 9)),
    "a zip bomb of three gigabytes": zip_bomb,
    "a zip bomb of a thousand members in one place": lambda: _overlapping(1000),
    "a hundred thousand members": lambda: _many(100_000),
    "a member that claims four gigabytes": lambda: _claiming(2**32 - 1),
    "a member that claims nothing": lambda: _claiming(0),
    "a member that is packed by LZMA": lambda: _member(head("(250000000,)"), bytes(10**9), packing=zipfile.ZIP_LZMA),
    "no zip": lambda: b"PK\3\4 no zip at all",
    "a pickle": lambda: b"\x80\x04cos\nsystem\n(S'echo x > ../outside/x'\ntR.",
}  # fmt: skip


def _against_background(place: Place) -> Attack:
    place.model()
    place.pictures()
    run = explain("model.onnx", "pictures", "--background", "b.npz", "--layer", "relu1")
    return Attack((run, (*run, "--method", "window")))


@case("backgrounds", "a background with {}", BACKGROUNDS, quick=True)
def _background(place: Place, make: Callable[[], bytes]) -> Attack:
    place.write("b.npz", make())
    return _against_background(place)


@case("backgrounds", "{} as the background", SPECIAL, quick=True)
def _special_background(place: Place, kind: str) -> Attack:
    special(place, place.inside / "b.npz", kind)
    return Attack(_against_background(place).commands[:1])


@case("backgrounds", "a folder of pictures as the background, with {} in it", SPECIAL)
def _folder_background(place: Place, kind: str) -> Attack:
    place.model()
    pictures = place.pictures(3)
    special(place, pictures / "x.png", kind)
    run = explain("model.onnx", "pictures/0000.png", "--background", "pictures", "--samples", "2")
    return Attack((run,), (0, 1, 3))


# Labels and preprocessing

_TEXTS: dict[str, bytes] = {
    "no UTF-8": b"\xff\xfe\0a",
    "UTF-16": "a\nb\nc\nd\ne".encode("utf-16"),
    "NULs": b"a\0b\nc\nd\ne\nf",
    "escape sequences": b"\x1b[2J\n\x1b]0;x\x07\nc\nd\ne",
    "a million lines": b"x\n" * 10**6,
    "one line of 100 MB": b"x" * 10**8,
    "formulas": b"=1+1\n+1\n@x\n-1\n=x",
    "nothing": b"",
    "surrogates": b"\xed\xa0\x80\nb\nc\nd\ne",
}


@case("labels", "a file of labels that holds {}", _TEXTS, quick=True)
def _labels(place: Place, data: bytes) -> Attack:
    place.model()
    place.pictures()
    place.write("labels.txt", data)
    return Attack((explain("model.onnx", "pictures", "--labels", "labels.txt"),), (0, 1))


@case("labels", "{} as the labels", SPECIAL, quick=True)
def _special_labels(place: Place, kind: str) -> Attack:
    place.model()
    place.pictures()
    special(place, place.inside / "labels.txt", kind)
    return Attack((explain("model.onnx", "pictures", "--labels", "labels.txt"),))


_CONTRACTS: dict[str, tuple[str, str]] = {
    "TOML of 100,000 brackets": ("p.toml", "size = " + "[" * 100_000),
    "TOML of 5,000 closed brackets": ("p.toml", "size = " + "[" * 5000 + "]" * 5000),
    "TOML with a key of 100,000 parts": ("p.toml", ".".join(["a"] * 100_000) + " = 1"),
    "TOML with a number of 10,000 digits": ("p.toml", "size = " + "9" * 10_000),
    "JSON of 100,000 brackets": ("p.json", "[" * 100_000),
    "JSON of objects within each other": ("p.json", '{"a":' * 100_000),
    "a size of 10^9": ("p.toml", "size = [1000000000, 1000000000]\nmean = [0, 0, 0]\nstd = [1, 1, 1]"),
    "pictures resized to 10^9": (
        "p.toml",
        "size = [32, 32]\nresize_to = 1000000000\nmean = [0, 0, 0]\nstd = [1, 1, 1]",
    ),
    "numbers that are none": ("p.toml", "size = [32, 32]\nscale = nan\nmean = [inf, 0, 0]\nstd = [1, 1, 1]"),
    "a scale of 1e308": ("p.toml", "size = [32, 32]\nscale = 1e308\nmean = [0, 0, 0]\nstd = [1e-308, 1, 1]"),
    "escape sequences": ("p.toml", "\x1b[2J = 1"),
    "a NUL": ("p.toml", "size = '\0'"),
}


@case("labels", "a file of preprocessing: {}", _CONTRACTS, quick=True)
def _contract(place: Place, given: tuple[str, str]) -> Attack:
    place.model()
    place.pictures()
    place.write(*given)
    return Attack((explain("model.onnx", "pictures", "--preprocess", given[0]),), (1, 3))


@case(
    "labels",
    "{} as the file of preprocessing",
    [f"{name}: {kind}" for name in ("p.toml", "p.json") for kind in SPECIAL],
)
def _special_contract(place: Place, given: str) -> Attack:
    name, _, kind = given.partition(": ")
    place.model()
    place.pictures()
    special(place, place.inside / name, kind)
    return Attack((explain("model.onnx", "pictures", "--preprocess", name),))


# Lists

_LISTS: dict[str, tuple[str, bytes]] = {
    "itself": ("l.txt", b"l.txt\n"),
    "a NUL": ("l.txt", b"a\0b.png\n"),
    "escape sequences": ("l.txt", b"\x1b[2J.png\n"),
    "no UTF-8": ("l.txt", b"\xff\xfe.png\n"),
    "nothing": ("l.txt", b""),
    "a name of 10 MB": ("l.txt", b"x" * 10**7),
    "a name of 5,000 letters": ("l.txt", b"x" * 5000),
    "200,000 names": ("l.txt", b"x.png\n" * 200_000),
    "200,000 other names": ("l.txt", b"".join(b"x%d.png\n" % number for number in range(200_000))),
    "a device": ("l.txt", b"/dev/zero\n"),
    "a pipe": ("l.txt", b"pipe\n"),
    "the standard input": ("l.txt", b"/dev/stdin\n"),
    "a network's file": ("l.txt", b"//host/share/x.png\n"),
    "an address": ("l.txt", b"http://localhost/x.png\n"),
    "no columns": ("l.csv", b"a,b\n1,2\n"),
    "open quotes": ("l.csv", b'image\n"x\n' + b"y\n" * 10**5),
    "a cell of 10 MB": ("l.csv", b"image\n" + b"x" * 10**7 + b"\n"),
    "a million columns": ("l.csv", b"image" + b",x" * 10**6 + b"\n"),
    "a million rows": ("l.csv", b"image\n" + b",\n" * 10**6),
    "a row that is a NUL": ("l.csv", b"image,target\n\0,\0\n"),
    "targets of 10,000 digits": ("l.csv", b"image,target\npictures/0000.png," + b"9" * 10_000 + b"\n"),
    "targets in other digits": ("l.csv", "image,target\npictures/0000.png,\u0663\n".encode()),
    "targets with escape sequences": ("l.csv", b"image,target\npictures/0000.png,\x1b[2J\n"),
    "targets that are formulas": ("l.csv", b"image,target\npictures/0000.png,=1+1\n"),
    "superscripts as targets": ("l.csv", "image,target\npictures/0000.png,\u00b2\n".encode()),
}  # fmt: skip


@case("lists", "a list that names {}", _LISTS, quick=True)
def _list(place: Place, given: tuple[str, bytes]) -> Attack:
    place.model()
    place.pictures()
    place.pipe(place.inside / "pipe")
    place.write(*given)
    return Attack((explain("model.onnx", given[0]),), (0, 1, 3))


@case("lists", "{} as the list", [f"{name}: {kind}" for name in ("l.txt", "l.csv") for kind in SPECIAL], quick=True)
def _special_list(place: Place, given: str) -> Attack:
    name, _, kind = given.partition(": ")
    place.model()
    special(place, place.inside / name, kind)
    return Attack((explain("model.onnx", name),), (1, 3))


_PATTERNS = (
    "**/" * 50 + "*.png",
    "*/" * 200 + "x",
    "[" * 1000,
    "[!]*",
    "?" * 5000,
    "**",
    "/**/nothing-like-this.png"[1:],
    "\udcff*",
)


@case("lists", "the pattern '{}'", _PATTERNS, quick=True)
def _pattern(place: Place, pattern: str) -> Attack:
    place.model()
    for depth in range(1, 9):
        (place.inside / "/".join(["deep"] * depth)).mkdir()
    return Attack((explain("model.onnx", pattern),), (1, 3))


_TARGETS = (
    "9" * 10_000,
    "\u00b2",
    "\u0663",
    "-1",
    "1e3",
    "",
    " ",
    "\x1b[2J",
    "\0"[:0] or "class",
    "x" * 10**5,
    "\udcff",
    "0x1",
)


@case("lists", "the target '{}'", _TARGETS, quick=True)
def _target(place: Place, target: str) -> Attack:
    place.model()
    place.pictures()
    return Attack((explain("model.onnx", "pictures", "--target", target),), (0, 1) if target else (2,))


_OPTIONS: dict[str, tuple[object, ...]] = {
    "--samples of 10^18": ("--method", "window", "--samples", 10**18),
    "--steps of 10^18": ("--steps", 10**18),
    "--window of 10^18": ("--method", "window", "--window", 10**18),
    "--seed of 10^400": ("--seed", 10**400),
    "--batch-size of 10^18": ("--batch-size", 10**18),
    "--max-pixels of 10^400": ("--max-pixels", 10**400),
    "--workers of 10^9": ("--workers", 10**9),
    "--tolerance that is no number": ("--method", "window", "--tolerance", "nan"),
    "--completeness that is no number": ("--completeness", "nan"),
    "--shard 1/10^18": ("--shard", f"1/{10**18}"),
    "--shard of 10,000 digits": ("--shard", f"1/{'9' * 10_000}"),
    "--shard in superscripts": ("--shard", "\u00b9/\u00b2"),
    "--laplace of 10^400": ("--method", "window", "--laplace", f"{10**400},5"),
    "--layer with escape sequences": ("--layer", "\x1b[2J"),
    "--layer that is no UTF-8": ("--layer", "\udcff"),
    "--output with escape sequences": ("--output", "\x1b[2J"),
    "--cluster of a file": ("--cluster", "file:///etc/passwd"),
    "--cluster with escape sequences": ("--cluster", "tcp://\x1b[2J:1"),
    "--preprocess with escape sequences": ("--preprocess", "\x1b[2J"),
    "--versus with escape sequences": ("--versus", "\x1b[2J"),
}


@case("lists", "{}", _OPTIONS, quick=True)
def _option(place: Place, given: tuple[object, ...]) -> Attack:
    place.model()
    place.pictures()
    return Attack((explain("model.onnx", "pictures", *given),), (0, 1, 2, 3))


def _masks() -> dict[str, tuple[str, bytes]]:
    """Files that `summary` takes beside pictures."""
    return {
        "a mask that is a bomb": ("masks/0000.png", png(60_000, 60_000, zlib.compress(b""))),
        "a mask of another size": ("masks/0000.png", png(3, 3)),
        "a mask that is text": ("masks/0000.png", b"no picture"),
        "a mask that is nothing": ("masks/0000.png", b""),
    }


@case("labels", "{}", _masks(), quick=True)
def _mask(place: Place, given: tuple[str, bytes]) -> Attack:
    place.model()
    place.pictures()
    place.write(*given)
    return Attack((explain("model.onnx", "pictures"), ("summary", "../out", "--masks", "masks")), (0, 1))


@case("labels", "{} as a mask", SPECIAL)
def _special_mask(place: Place, kind: str) -> Attack:
    place.model()
    place.pictures()
    (place.inside / "masks").mkdir()
    special(place, place.inside / "masks" / "0000.png", kind)
    return Attack((explain("model.onnx", "pictures"), ("summary", "../out", "--masks", "masks")), (0, 1))


_GOLDEN: dict[str, str] = {
    "100,000 brackets": "[" * 100_000,
    "no list": '{"a": NaN}',
    "numbers of 10,000 digits": '[{"image": "x.png", "label": "a", "probability": ' + "9" * 10_000 + "}]",
    "a device": '[{"image": "/dev/zero", "label": "class 0", "probability": 0.5}]',
    "escape sequences": "\x1b[2J",
}


@case("labels", "expected answers in a file: {}", _GOLDEN, quick=True)
def _golden(place: Place, text: str) -> Attack:
    place.model()
    place.write("g.json", text)
    place.write("g.csv", text)
    return Attack(tuple(("inspect", "model.onnx", "--expect", name) for name in ("g.json", "g.csv")), (1, 2))


@case("labels", "{} as the file of expected answers", SPECIAL)
def _special_golden(place: Place, kind: str) -> Attack:
    place.model()
    special(place, place.inside / "g.json", kind)
    return Attack((("inspect", "model.onnx", "--expect", "g.json"),), (1, 2))
