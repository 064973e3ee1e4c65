"""Hostile pictures for `attack.py`: bombs, claims, what is no file, and names that mean something elsewhere."""

import io
import json
import os
import struct
import zlib
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

from parts.attack.cases import case, explain
from parts.attack.models import SPECIAL, special
from parts.attack.run import Attack, Place

Image.MAX_IMAGE_PIXELS = None
# One picture that cannot be used is a line in the list of failures, 3; that none can be read, 1.
_REFUSED = (1, 3)


def _explained(place: Place, name: str, data: bytes, *codes: int) -> Attack:
    place.model()
    place.write(name, data)
    return Attack((explain("model.onnx", name),), codes or _REFUSED)


def _saved(image: Image.Image, kind: str, **how: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **how)
    return stream.getvalue()


# So that a machine with less memory stays whole.
_NARROW = 'ulimit -v 6000000; exec "$@"'

# JPEG


def _segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Parts of a JPEG file with their markers; of a scan, its codes too."""
    place = 2
    while place < len(data):
        kind = data[place + 1]
        if kind == 0xD9:
            return
        end = place + 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        while kind == 0xDA and not (data[end] == 0xFF and data[end + 1] not in (0, *range(0xD0, 0xD8))):
            end += 1
        yield kind, data[place:end]
        place = end


def scan_bomb(side: int, times: int) -> bytes:
    """A progressive JPEG of one grey whose last scan, which says nothing, comes again and again."""
    parts = list(_segments(_saved(Image.new("L", (side, side), 128), "JPEG", progressive=True)))
    last = [part for kind, part in parts if kind == 0xDA][-1]
    return b"\xff\xd8" + b"".join(part for _, part in parts) + last * times + b"\xff\xd9"


@case("pictures", "a JPEG of {} empty scans", {"400, 8000 x 8000,": (8000, 400), "50,000, 64 x 64,": (64, 50_000)})
def _scans(place: Place, size: tuple[int, int]) -> Attack:
    return _explained(place, "x.jpg", scan_bomb(*size), 0, *_REFUSED)


@case("pictures", "a JPEG that claims 65,535 x 65,535 pixels", quick=True)
def _large_jpeg(place: Place) -> Attack:
    data = _saved(Image.new("RGB", (64, 64)), "JPEG")
    place_of = data.index(b"\xff\xc0") + 5
    return _explained(place, "x.jpg", data[:place_of] + b"\xff" * 4 + data[place_of + 4 :])


@case("pictures", "a JPEG that claims 15,000 x 15,000 pixels and holds 64 x 64")
def _hollow_jpeg(place: Place) -> Attack:
    data = _saved(Image.new("RGB", (64, 64)), "JPEG")
    place_of = data.index(b"\xff\xc0") + 5
    sides = struct.pack(">HH", 15_000, 15_000)
    attack = _explained(place, "x.jpg", data[:place_of] + sides + data[place_of + 4 :], 0, *_REFUSED)
    return Attack(attack.commands, attack.codes, shell=_NARROW, memory=6 << 30, seconds=100)


@case("pictures", "a JPEG with {} of comments", {"60 MB": 1000})
def _comments(place: Place, times: int) -> Attack:
    data = _saved(Image.new("RGB", (64, 64)), "JPEG")
    return _explained(place, "x.jpg", data[:2] + (b"\xff\xfe\xff\xff" + bytes(65533)) * times + data[2:], 0, *_REFUSED)


@case("pictures", "a JPEG whose EXIF points to itself", quick=True)
def _exif(place: Place) -> Attack:
    # One entry, a pointer to an EXIF directory at the same place, and the next directory there too.
    entry = struct.pack("<HHII", 0x8769, 4, 1, 8)
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 1) + entry + struct.pack("<I", 8)
    data = _saved(Image.new("RGB", (64, 64)), "JPEG")
    return _explained(place, "x.jpg", data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:], 0)


# PNG


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, rows: bytes | None = None, more: bytes = b"", depth: int = 8, kind: int = 0) -> bytes:
    """A PNG of zeros, or of compressed ``rows``, with other parts before its pixels."""
    if rows is None:
        packer = zlib.compressobj(9)
        line = bytes(1 + width * (1, 0, 3, 1, 2, 0, 4)[kind] * depth // 8)
        many = line * max(1, (1 << 20) // len(line))
        count, rest = divmod(height * len(line), len(many))
        rows = b"".join([*(packer.compress(many) for _ in range(count)), packer.compress(bytes(rest)), packer.flush()])
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + more + _chunk(b"IDAT", rows) + _chunk(b"IEND", b"")


def _bomb(size: int = 1 << 30) -> bytes:
    packer = zlib.compressobj(9)
    return b"".join([*(packer.compress(bytes(1 << 20)) for _ in range(size >> 20)), packer.flush()])


_PNGS: dict[str, Callable[[], bytes]] = {
    "that claims 60,000 x 60,000 pixels": lambda: png(60_000, 60_000, zlib.compress(b"")),
    "that claims 2^31 - 1 x 1 pixels": lambda: png(2**31 - 1, 1, zlib.compress(b"")),
    "that claims 1 x 2^31 - 1 pixels": lambda: png(1, 2**31 - 1, zlib.compress(b"")),
    "of 32 x 32 pixels and a gigabyte of zeros behind them": lambda: png(32, 32, _bomb()),
    "with a gigabyte of text in it": lambda: png(32, 32, more=_chunk(b"zTXt", b"a\0\0" + _bomb())),
    "with a gigabyte of colour profile in it": lambda: png(32, 32, more=_chunk(b"iCCP", b"a\0\0" + _bomb())),
    "with 300,000 parts": lambda: png(32, 32, more=_chunk(b"tEXt", b"a\0b") * 300_000),
    "with an animation of 2^31 frames": lambda: png(32, 32, more=_chunk(b"acTL", struct.pack(">II", 2**31, 0))),
    "of no pixels": lambda: png(0, 0),
    "whose part claims 2^31 bytes": lambda: png(32, 32)[:33] + struct.pack(">I", 2**31 - 1) + b"IDATx",
}


@case("pictures", "a PNG {}", _PNGS, quick=True)
def _png(place: Place, make: Callable[[], bytes]) -> Attack:
    return _explained(place, "x.png", make(), 0, *_REFUSED)


@case(
    "pictures",
    "a PNG of {}",
    {"200 million pixels": (20_000, 10_000, 8, 0), "120 million, RGBA of 16 bits": (12_000, 10_000, 16, 6)},
)
def _below_the_limit(place: Place, size: tuple[int, int, int, int]) -> Attack:
    """As large as is read by default: the bytes a pixel that are checked beforehand, or a word about memory."""
    width, height, depth, kind = size
    attack = _explained(place, "x.png", png(width, height, depth=depth, kind=kind), 0, *_REFUSED)
    return Attack(attack.commands, attack.codes, shell=_NARROW, memory=6 << 30, seconds=100)


# TIFF


def tiff(entries: dict[int, tuple[int, int, int]], after: int = 0, data: bytes = b"", big: bool = False) -> bytes:
    """A TIFF of one directory, entries as (type, count, value); ``data`` comes behind it."""
    count, entry, pointer = ("<Q", "<HHQQ", "<Q") if big else ("<H", "<HHII", "<I")
    head = b"II+\0\x08\0\0\0" + struct.pack("<Q", 16) if big else b"II*\0\x08\0\0\0"
    body = b"".join(struct.pack(entry, tag, *entries[tag]) for tag in sorted(entries))
    return head + struct.pack(count, len(entries)) + body + struct.pack(pointer, after) + data


def _grey(width: int, height: int, **more: tuple[int, int, int]) -> dict[int, tuple[int, int, int]]:
    tags = {"strips": 273, "lengths": 279, "rows": 278, "packing": 259, "samples": 277, "bits": 258, "planar": 284}
    given = {256: (4, 1, width), 257: (4, 1, height), 262: (3, 1, 1), 258: (3, 1, 8), 259: (3, 1, 1), 277: (3, 1, 1)}
    given |= {273: (4, 1, 200), 278: (4, 1, height), 279: (4, 1, min(width * height, 2**32 - 1))}
    return given | {tags[name]: value for name, value in more.items()}


_DEFLATE = zlib.compress(bytes(32 * 32))
_TIFFS: dict[str, Callable[[], bytes]] = {
    "that claims 2^32 - 1 x 2^32 - 1 pixels": lambda: tiff(_grey(2**32 - 1, 2**32 - 1)),
    "of 15,000 x 15,000 pixels that holds none": lambda: tiff(_grey(15_000, 15_000)),
    "whose strip holds a gigabyte of zeros": lambda: tiff(
        _grey(32, 32, packing=(3, 1, 8), strips=(4, 1, 200), lengths=(4, 1, 1 << 21)), data=bytes(78) + _bomb()
    ),
    "of 2^32 - 1 strips": lambda: tiff(_grey(32, 32, strips=(4, 2**32 - 1, 8), lengths=(4, 2**32 - 1, 8))),
    "of 2^32 - 1 samples": lambda: tiff(_grey(32, 32, samples=(4, 1, 2**32 - 1))),
    "of samples of 65,535 bits": lambda: tiff(_grey(32, 32, bits=(3, 1, 65_535))),
    "whose directory is followed by itself": lambda: tiff(_grey(32, 32), after=8, data=bytes(4096)),
    "whose directory lies beyond the end": lambda: b"II*\0\xff\xff\xff\x7f",
    "of no rows in a strip": lambda: tiff(_grey(32, 32, rows=(4, 1, 0)), data=bytes(4096)),
    "whose strips lie in its head": lambda: tiff(_grey(32, 32, strips=(4, 1, 0)), data=bytes(4096)),
    "of 65,535 entries": lambda: tiff({tag: (4, 1, 1) for tag in range(65_535)}),
    "in 64 bits, whose strips claim 2^62 bytes": lambda: tiff(_grey(32, 32, lengths=(16, 1, 2**62)), big=True),
    "whose tiles are of 2^31 x 2^31 pixels": lambda: tiff(
        {**_grey(32, 32), 322: (4, 1, 2**31), 323: (4, 1, 2**31), 324: (4, 1, 8), 325: (4, 1, 8)}
    ),
    "deflated, of 15,000 x 15,000 pixels": lambda: tiff(
        _grey(15_000, 15_000, packing=(3, 1, 8), lengths=(4, 1, 250_000)), data=bytes(78) + _bomb(15_000**2 + (1 << 20))
    ),
    "whose orientation is 2^32 - 1 values": lambda: tiff({**_grey(32, 32), 274: (3, 2**32 - 1, 8)}, data=bytes(4096)),
}


@case("pictures", "a TIFF {}", _TIFFS, quick=True)
def _tiff(place: Place, make: Callable[[], bytes]) -> Attack:
    return _explained(place, "x.tiff", make(), 0, *_REFUSED)


# Others


def _gif(width: int, height: int, frames: int = 1) -> bytes:
    head = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6)
    frame = b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x44\x01\x00"
    return head + frame * frames + b";"


def _webp(width: int, height: int) -> bytes:
    return _saved(Image.new("RGB", (width, height)), "WEBP", lossless=True)


def _webp_claims() -> bytes:
    body = (
        b"VP8X"
        + struct.pack("<I", 10)
        + bytes(4)
        + b"\xff" * 6
        + b"VP8L"
        + struct.pack("<I", 8)
        + b"\x2f"
        + b"\xff" * 7
    )
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def _bmp(width: int, height: int, packing: int = 0) -> bytes:
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8 if packing else 24, packing, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + 1024, 0, 0, 54 + 1024) + info + bytes(1024) + b"\0\1" * 8


_OTHERS: dict[str, Callable[[], tuple[str, bytes]]] = {
    "a GIF of 65,535 x 65,535 pixels": lambda: ("x.gif", _gif(65_535, 65_535)),
    "a GIF of 15,000 x 15,000 pixels": lambda: ("x.gif", _gif(15_000, 15_000)),
    "a GIF of 300,000 frames": lambda: ("x.gif", _gif(32, 32, 300_000)),
    "a WebP of 16,383 x 16,383 pixels": lambda: ("x.webp", _webp(16_383, 16_383)),
    "a WebP that claims 2^24 x 2^24 pixels": lambda: ("x.webp", _webp_claims()),
    "a BMP of 2^31 - 1 x 2^31 - 1 pixels": lambda: ("x.bmp", _bmp(2**31 - 1, 2**31 - 1)),
    "a BMP of -2^31 rows": lambda: ("x.bmp", _bmp(32, -(2**31))),
    "a BMP in run lengths of 15,000 x 15,000 pixels": lambda: ("x.bmp", _bmp(15_000, 15_000, 1)),
    "a netpbm of 10^9 x 10^9 pixels": lambda: ("x.ppm", b"P6\n1000000000 1000000000\n255\n"),
    "a netpbm with numbers of a million digits": lambda: ("x.ppm", b"P6\n" + b"9" * 10**6 + b" 32\n255\n"),
    "a netpbm of 15,000 x 15,000 pixels that holds none": lambda: ("x.pgm", b"P5\n15000 15000\n65535\n"),
    "a netpbm of 20 MB of comments": lambda: ("x.ppm", b"P6\n" + b"#\n" * 10**7 + b"4 4\n255\n" + bytes(48)),
    "a netpbm of white below zero": lambda: ("x.pgm", b"P2\n2 2\n-1\n1 1 1 1\n"),
    "a netpbm in words of 20 MB": lambda: ("x.pgm", b"P2\n4 4\n65535\n" + b"1 " * 10**7),
    "a PAM that never ends its head": lambda: ("x.pam", b"P7\n" + b"WIDTH 4\n" * 10**6),
    "a PFM of 2^31 x 2^31 pixels": lambda: ("x.pfm", b"PF\n2147483648 2147483648\n-1.0\n"),
    "a JPEG 2000 that claims 2^31 x 2^31 pixels": lambda: (
        "x.jp2",
        b"\xff\x4f\xff\x51\x00\x2f\x00\x00"
        + struct.pack(">8I", 2**31, 2**31, 0, 0, 2**31, 2**31, 0, 0)
        + b"\0\3"
        + b"\7\1\1" * 3,
    ),
    "an AVIF of nothing but boxes within each other": lambda: (
        "x.avif",
        b"\0\0\0\x18ftypavif\0\0\0\0avifmif1" + b"\0\0\0\0meta" * 10**5,
    ),
    "an icon of 65,535 pictures": lambda: ("x.ico", b"\0\0\1\0\xff\xff" + b"\0" * 100),
    "text named as a picture": lambda: ("x.png", b"no picture\n" * 100),
    "a picture of nothing": lambda: ("x.png", b""),
    "a PostScript program": lambda: ("x.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n{} loop\n"),
    "an SVG that names files": lambda: ("x.png", b'<svg><image href="/etc/passwd"/></svg>'),
    "a video's list that names files": lambda: ("x.png", b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n"),
}


@case("pictures", "{}", _OTHERS, quick=True)
def _other(place: Place, make: Callable[[], tuple[str, bytes]]) -> Attack:
    return _explained(place, *make(), 0, *_REFUSED)


def _npy(head: str, body: bytes = b"") -> bytes:
    text = head.encode() + b"\n"
    return b"\x93NUMPY\x02\0" + struct.pack("<I", len(text)) + text + body


def _pickled() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array([_Evil()], object), allow_pickle=True)
    return stream.getvalue()


class _Evil:
    """Writes a file where it is unpickled."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.system, ("echo x > ../outside/pickled",)


def evil() -> np.ndarray:
    """An array that writes a file where it is unpickled."""
    return np.array([_Evil()], object)


_NPYS: dict[str, Callable[[], bytes]] = {
    "a pickle": _pickled,
    "claims of 2^60 numbers": lambda: _npy(f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({2**60},), }}"),
    "claims of less than nothing": lambda: _npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 3, 32, 32), }"),
    "100,000 brackets": lambda: _npy("(" * 100_000),
    "5,000 closed brackets": lambda: _npy("{'descr': " + "[" * 5000 + "]" * 5000 + "}"),
    "a call in its head": lambda: _npy("__import__('os').system('echo x > ../outside/called')"),
    "no numbers": lambda: _npy(
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 3, 32, 32), }", b"\0\0\xc0\x7f" * 3072
    ),
    "a head of 2^32 - 1 bytes": lambda: b"\x93NUMPY\x02\0\xff\xff\xff\xff{",
}


@case("pictures", "a preprocessed .npy of {}", _NPYS, quick=True)
def _array(place: Place, make: Callable[[], bytes]) -> Attack:
    place.model()
    place.write("x.npy", make())
    return Attack((explain("model.onnx", "x.npy", "--preprocessed"), explain("model.onnx", "x.npy")), _REFUSED)


# What is no file


@case("pictures", "{} as a picture", SPECIAL, quick=True)
def _special_picture(place: Place, kind: str) -> Attack:
    place.model()
    special(place, place.inside / "x.png", kind)
    return Attack((explain("model.onnx", "x.png"),), _REFUSED)


@case("pictures", "a folder that holds {} with the name of a picture", SPECIAL, quick=True)
def _special_in_folder(place: Place, kind: str) -> Attack:
    place.model()
    pictures = place.pictures()
    special(place, pictures / "x.png", kind)
    commands = [explain("model.onnx", name) for name in ("pictures", "pictures/*.png", "pictures/**/*")]
    more = (
        ("background", "model.onnx", "pictures", "-o", "../out/b.npz"),
        ("sanity", "model.onnx", "pictures", "--draws", "1"),
    )
    return Attack((*commands, *more), (0, 1, 3))


@case("pictures", "folders within each other, {} deep", [300, 1500])
def _deep(place: Place, depth: int) -> Attack:
    place.model()
    here = os.getcwd()
    os.chdir(place.inside)
    os.mkdir("deep")
    os.chdir("deep")
    try:
        for _ in range(depth):
            os.mkdir("d")
            os.chdir("d")
    finally:
        os.chdir(here)
    place.write("deep/x.png", png(32, 32))
    return Attack((explain("model.onnx", "deep"), explain("model.onnx", "deep/**/*.png")), (0, 1, 3))


@case("pictures", "a folder that links to itself and out of itself")
def _circle(place: Place) -> Attack:
    place.model()
    pictures = place.pictures()
    (pictures / "again").symlink_to(".")
    (pictures / "out").symlink_to(place.outside)
    (place.outside / "x.png").write_bytes(png(32, 32))
    return Attack((explain("model.onnx", "pictures"), explain("model.onnx", "pictures/**/*.png")), (0,))


# Names

NAMES = (
    "..png", "...png", "-x.png", "--help.png", " .png", "a b.png", "a\nb.png", "a\rb.png", "a\tb.png", "\x1b[2J.png",
    "\x1b]0;x\x07.png", "\x07.png", "\x7f.png", "\x9b2J.png", "\u202egnp.exe.png", "\u2066x.png", "=1+1.png", "+1.png",
    "@SUM(1).png", "=cmd|' C'!A0.png", "$(id).png", "`id`.png", ";id.png", "a'b.png", 'a"b.png', "a|b.png", "*.png",
    "?.png", "[a].png", "**.png", "~.png", "%s%n.png", "{0}.png", "\\..\\x.png", "CON.png", "manifest.jsonl.png",
    "failures.jsonl.png", ".lock.png", "a" * 251 + ".png", "\u0130.png", "e\u0301.png", "\u00e9.png", "\U0001f600.png",
    "\udcff.png", "<script>.png", "&amp;.png", "a,b.png", "\u2028.png", "0000.PNG",
)  # fmt: skip


@case("pictures", "a picture named '{}'", NAMES, quick=True)
def _name(place: Place, name: str) -> Attack:
    place.model()
    (place.inside / "pictures").mkdir()
    data = png(32, 32, zlib.compress(b"".join(b"\0" + bytes([n] * 32) for n in range(32))))
    (place.inside / "pictures" / name).write_bytes(data)
    table = ("summary", "../out", "-o", "../out/table.csv")
    run = ("explain", "model.onnx", "pictures", "-o", "../out", "--no-figures", "--quality", "fast")
    return Attack((run, table, ("verify", "../out", "--sample", "1")), (0,), _one_map)


def _one_map(place: Place) -> str:
    """What is wrong with a folder that should hold one map and a table without formulas; '' where nothing is."""
    lines = [json.loads(line) for line in (place.out / "manifest.jsonl").read_text("utf-8").split("\n") if line]
    if len(lines) != 1 or not (place.out / lines[0]["map"]).is_file():
        return f"{len(lines)} maps are listed, not one that is there"
    if any(path.is_symlink() for path in place.out.rglob("*")):
        return "a link is made"
    row = (place.out / "table.csv").read_text("utf-8").split("\n")[1].lstrip('"')
    return f"the table holds {row[:20]!r}" if row[:1] in ("=", "+", "-", "@", "\t", "\r") else ""
