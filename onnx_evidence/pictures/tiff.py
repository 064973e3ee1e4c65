"""TIFF files of whole bytes per sample: 8 to 64 bits, any number of channels, strips or tiles, chunks or planes.

Pillow holds no more than 8 bits of a colour and four channels, and OpenCV is silently wrong about planes, about two
channels and about white that is zero. After Adobe, "TIFF Revision 6.0" (1992) and its Technical Note 3 (predictor of
floats).
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnx_evidence.pictures.pillow import expand, orientation_in_xmp, turned
from onnx_evidence.types import AnyArray

_TYPES = {1: "B", 3: "H", 4: "I", 7: "B", 16: "Q"}
_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL, _STRIPS = 254, 256, 257, 258, 259, 262, 266, 273
_ORIENTATION, _SAMPLES, _ROWS, _STRIP_BYTES, _PLANAR, _PREDICTOR = 274, 277, 278, 279, 284, 317
_TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_BYTES, _BELOW, _EXTRA, _FORMAT = 322, 323, 324, 325, 330, 338, 339
_XMP, _CAMERA = 700, 50706
_WANTED = frozenset(
    (
        *(_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL, _STRIPS, _ORIENTATION, _SAMPLES, _ROWS),
        *(_STRIP_BYTES, _PLANAR, _PREDICTOR, _TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_BYTES, _BELOW, _EXTRA, _FORMAT),
        *(_XMP, _CAMERA),
    )
)
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB = range(3)
_KINDS = {1: "u", 2: "i", 3: "f", 4: "u"}
# LZW, deflate by two names, PackBits, LZMA, Zstandard: all about bytes, whatever they mean.
_NONE, _DEFLATE, _BYTES = 1, (8, 32946), (5, 32773, 34925, 50000)
_REVERSED = np.packbits(np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little"), axis=1)[:, 0]
_MOST_PAGES, _MOST_ENTRIES, MOST_BYTES = 512, 4096, 1 << 32
_ASSOCIATED = 1


@dataclass(frozen=True)
class Page:
    """A page's directory: its tags, and in which order bytes lie."""

    tags: dict[int, tuple[int, ...]]
    order: str

    def one(self, tag: int, default: int = 0) -> int:
        """The first value of a tag."""
        return self.tags.get(tag, (default,))[0]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width as they are stored."""
        return self.one(_HEIGHT), self.one(_WIDTH)

    @property
    def channels(self) -> int:
        """Samples of a pixel."""
        return self.one(_SAMPLES, 1)

    @property
    def depth(self) -> int:
        """Bits of the deepest sample."""
        return max(self.tags.get(_BITS, (1,)))

    @property
    def beside(self) -> bool:
        """Whether it is a smaller copy of another page, or says where that one is opaque."""
        return bool(self.one(_SUBFILE) & 5)

    @property
    def preview(self) -> bool:
        """Whether it is a smaller copy, and the picture lies below it: a camera's raw file."""
        return bool(self.one(_SUBFILE) & 1 and _BELOW in self.tags) or _CAMERA in self.tags

    @property
    def orientation(self) -> int:
        """How it lies, 1..8: the tag's, else XMP's, as Pillow has it; 1 where that is no such number."""
        found = self.tags.get(_ORIENTATION) or (orientation_in_xmp(bytes(self.tags.get(_XMP, ()))),)
        return found[0] if found[0] in range(1, 9) else 1

    @property
    def colours(self) -> int:
        """Samples of a pixel that are colours: 3, or 1 of grey and of what is beside it."""
        return 3 if self.one(_PHOTOMETRIC) == _RGB else 1

    @property
    def kind(self) -> "np.dtype[Any]":
        """Of a sample, with the file's order of bytes."""
        return np.dtype(f"{self.order}{_KINDS[self.one(_FORMAT, 1)]}{self.depth // 8}")

    @property
    def plain(self) -> bool:
        """Whether samples are whole bytes, compressed as bytes, and grey, RGB or more channels."""
        bits, formats = set(self.tags.get(_BITS, (1,))), set(self.tags.get(_FORMAT, (1,)))
        parts = (_TILES, _TILE_BYTES, _TILE_WIDTH, _TILE_HEIGHT) if _TILES in self.tags else (_STRIPS, _STRIP_BYTES)
        return (
            len(bits) == len(formats) == 1
            and next(iter(formats)) in _KINDS
            and next(iter(bits)) in ((16, 32, 64) if 3 in formats else (8, 16, 32, 64))
            and self.one(_COMPRESSION, 1) in (_NONE, *_DEFLATE, *_BYTES)
            and self.one(_PHOTOMETRIC, -1) in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB)
            and self.channels >= (3 if self.one(_PHOTOMETRIC) == _RGB else 1)
            and self.one(_PREDICTOR, 1) in (1, 2, 3)
            and all(part in self.tags for part in parts)
        )


def pages_of(data: bytes, most: int = _MOST_PAGES) -> list[Page]:
    """The directories of at most ``most`` pages, at least one, of a TIFF or BigTIFF file; none is decoded.

    Raises `ValueError`, `OverflowError` or `struct.error` where a directory is not whole, or all of them claim more
    than the file has.
    """
    order, big = "<" if data.startswith(b"II") else ">", data[2:4] in (b"+\0", b"\0+")
    place = struct.unpack_from(f"{order}Q" if big else f"{order}I", data, 8 if big else 4)[0]
    pages: list[Page] = []
    seen: set[int] = set()
    room = len(data)  # for directories that share what they say, to be unpacked again and again
    while place and place not in seen and len(pages) < most:
        seen.add(place)
        tags, place = _directory(data, place, order, big)
        room -= sum(map(len, tags.values()))
        if room < 0:
            raise ValueError("its tags claim more than the file has")
        pages.append(Page(tags, order))
    if not pages:
        raise ValueError("it has no page")
    return pages


def _directory(data: bytes, place: int, order: str, big: bool) -> tuple[dict[int, tuple[int, ...]], int]:
    count, word, size = ("Q", "Q", 8) if big else ("H", "I", 4)
    (entries,) = struct.unpack_from(f"{order}{count}", data, place)
    place += struct.calcsize(f"<{count}")
    if entries > _MOST_ENTRIES:
        raise ValueError(f"a directory of {entries} entries")
    tags = {}
    for number in range(entries):
        here = place + number * (4 + 2 * size)
        tag, kind, values = struct.unpack_from(f"{order}HH{word}", data, here)
        if tag not in _WANTED or kind not in _TYPES or not values:
            continue
        if values > len(data):
            raise ValueError("a tag claims more than the file has")
        inside = values * struct.calcsize(f"<{_TYPES[kind]}") <= size
        start = here + 4 + size if inside else struct.unpack_from(f"{order}{word}", data, here + 4 + size)[0]
        tags[tag] = struct.unpack_from(f"{order}{values}{_TYPES[kind]}", data, start)
    return tags, struct.unpack_from(f"{order}{word}", data, place + entries * (4 + 2 * size))[0]


def read(data: bytes, page: Page) -> AnyArray:
    """Every sample of a plain page, (H, W, C), as it lies there, in native bytes; white is made the largest number.

    Raises `ValueError` where the page is truncated, damaged, or claims more than `MOST_BYTES`.
    """
    (height, width), channels, kind = page.size, page.channels, page.kind
    if not 0 < height * width * channels * kind.itemsize <= MOST_BYTES:
        raise ValueError(f"{width} x {height} pixels of {channels} samples are none, or more than are read")
    samples = np.empty((height, width, channels), kind.newbyteorder("="))
    for (top, left), plane, part in _parts(data, page):
        there = samples[top : top + part.shape[0], left : left + part.shape[1], plane]
        there[:] = part[: there.shape[0], : there.shape[1]]
    if page.one(_PHOTOMETRIC) == _WHITE_IS_ZERO and kind.kind == "u":
        np.invert(samples, out=samples)
    return samples


def _parts(data: bytes, page: Page) -> Iterator[tuple[tuple[int, int], slice, AnyArray]]:
    """The strips or tiles with their upper left corners and channels."""
    height, width = page.size
    tiled = _TILES in page.tags
    rows = page.one(_TILE_HEIGHT) if tiled else min(page.one(_ROWS, height) or height, height)
    cols = page.one(_TILE_WIDTH) if tiled else width
    if not 0 < rows * cols * page.channels * page.kind.itemsize <= MOST_BYTES:
        raise ValueError("the size of its tiles is absurd")
    places, sizes = (page.tags[tag] for tag in ((_TILES, _TILE_BYTES) if tiled else (_STRIPS, _STRIP_BYTES)))
    planes = [slice(0, page.channels)] if page.one(_PLANAR, 1) != 2 else [slice(n, n + 1) for n in range(page.channels)]
    corners = [
        (plane, top, left) for plane in planes for top in range(0, height, rows) for left in range(0, width, cols)
    ]
    if min(len(places), len(sizes)) < len(corners):
        raise ValueError("strips or tiles are missing")
    for (plane, top, left), place, size in zip(corners, places, sizes, strict=False):
        if place + size > len(data):
            raise ValueError("the file ends early")
        shape = (rows if tiled else min(rows, height - top), cols, plane.stop - plane.start)
        yield (top, left), plane, _part(data[place : place + size], page, shape)


def _part(packed: bytes, page: Page, shape: tuple[int, int, int]) -> AnyArray:
    kind = page.kind
    wanted = shape[0] * shape[1] * shape[2] * kind.itemsize
    if page.one(_FILL, 1) == 2:
        packed = _REVERSED[np.frombuffer(packed, np.uint8)].tobytes()
    how = page.one(_COMPRESSION, 1)
    if how in _DEFLATE:
        unpacked = zlib.decompressobj().decompress(packed, wanted)
    else:
        unpacked = packed if how == _NONE else expand(packed, how, wanted)
    if len(unpacked) < wanted:
        raise ValueError("a strip or tile ends early")
    predictor = page.one(_PREDICTOR, 1) if how != _NONE else 1
    if predictor == 3:
        return _floats(np.frombuffer(unpacked, np.uint8, wanted), kind, shape)
    samples = np.frombuffer(unpacked, kind, wanted // kind.itemsize).reshape(shape)
    if predictor == 2:
        whole = (
            samples.astype(f"u{kind.itemsize}") if kind.kind != "f" else samples.view(f"{page.order}u{kind.itemsize}")
        )
        native = whole.astype(whole.dtype.newbyteorder("="))
        return np.cumsum(native, axis=1, dtype=native.dtype).view(kind.newbyteorder("="))
    return samples


def _floats(unpacked: AnyArray, kind: "np.dtype[Any]", shape: tuple[int, int, int]) -> AnyArray:
    """Undo the predictor of floats: differences of bytes, the highest bytes of a row first."""
    rows, cols, channels = shape
    lanes = np.cumsum(unpacked.reshape(rows, -1, channels), axis=1, dtype=np.uint8)
    lanes = lanes.reshape(rows, kind.itemsize, cols * channels).swapaxes(1, 2)
    return np.ascontiguousarray(lanes).view(kind.newbyteorder(">")).reshape(shape)


def as_colours(samples: AnyArray, page: Page) -> AnyArray:
    """RGB or grey, (H, W, 3) or (H, W, 1), of all channels, upright: colours multiplied by alpha are divided by it."""
    colours = page.colours
    alpha = samples[:, :, colours : colours + 1]
    shown = samples[:, :, :colours]
    if page.one(_EXTRA) == _ASSOCIATED and alpha.size and samples.dtype.kind == "u":
        shown = _divided(shown, alpha)
    return np.ascontiguousarray(turned(shown, page.orientation))


def _divided(colours: AnyArray, alpha: AnyArray) -> AnyArray:
    """As Pillow divides: down to the next number, at most white; nothing where alpha is 0."""
    result = colours.copy()
    white = np.iinfo(colours.dtype).max
    for row, opacity in enumerate(alpha):  # a row at a time: products need room
        whole = np.maximum(opacity.astype(np.uint64), 1)
        product = np.minimum(colours[row].astype(np.uint64) * np.uint64(white) // whole, np.uint64(white))
        result[row] = np.where(opacity == 0, colours[row], product)
    return result
