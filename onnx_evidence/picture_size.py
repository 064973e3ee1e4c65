"""How large a picture is, and what its parts claim to be: known before anything is decoded or allocated."""

import re
import struct
from collections.abc import Callable

# Height and width in pixels.
Size = tuple[int, int]
# Markers of JPEG that hold no size though they lie among those that do: tables, and arithmetic conditioning.
_NO_FRAME = (0xC4, 0xC8, 0xCC)
_PNG = b"\x89PNG\r\n\x1a\n"
_PNM = re.compile(rb"P[1-7](?:\s|#[^\n]*\n)+(\d+)(?:\s|#[^\n]*\n)+(\d+)")
_TIFF_TYPES = {3: "H", 4: "I"}


def size_of(data: bytes) -> Size | None:
    """The height and width that a picture's header claims.

    Parameters
    ----------
    data : bytes
        The file.

    Returns
    -------
    (int, int) or None
        None where the format is not known here, or the header is not whole.
    """
    for start, read in _READERS.items():
        if data.startswith(start):
            try:
                return read(data)
            except (struct.error, IndexError):
                return None
    return None


def claims_more(data: bytes) -> bool:
    """Whether a part of a PNG file claims to be longer than the file: decoders make room for it before they see.

    Parameters
    ----------
    data : bytes
        A file of any format.

    Returns
    -------
    bool
        False for other formats.
    """
    if not data.startswith(_PNG):
        return False
    place = len(_PNG)
    while place + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        place += 12 + length
        if kind == b"IEND":
            break
    return place > len(data)


def _png(data: bytes) -> Size:
    width, height = struct.unpack_from(">II", data, 16)
    return height, width


def _jpeg(data: bytes) -> Size | None:
    place = 2
    while True:
        while data[place] != 0xFF:  # decoders look for the next marker, whatever lies before it
            place += 1
        while data[place] == 0xFF:
            place += 1
        marker = data[place]
        if 0xC0 <= marker <= 0xCF and marker not in _NO_FRAME:
            height, width = struct.unpack_from(">HH", data, place + 4)
            return height, width
        if marker in (0xD9, 0xDA):  # the end, or pixels without a frame
            return None
        alone = marker == 0x01 or 0xD0 <= marker <= 0xD8
        place += 1 if alone else 1 + struct.unpack_from(">H", data, place + 1)[0]


def _bmp(data: bytes) -> Size:
    old = struct.unpack_from("<I", data, 14)[0] == 12
    width, height = struct.unpack_from("<HH" if old else "<ii", data, 18)
    return abs(height), abs(width)


def _webp(data: bytes) -> Size | None:
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[27:30], "little"), 1 + int.from_bytes(data[24:27], "little")
    if kind == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        return 1 + (bits >> 14 & 0x3FFF), 1 + (bits & 0x3FFF)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return height & 0x3FFF, width & 0x3FFF
    return None


def _tiff(data: bytes) -> Size | None:
    order = "<" if data.startswith(b"II") else ">"
    start = struct.unpack_from(f"{order}I", data, 4)[0]
    found: dict[int, int] = {}
    for number in range(struct.unpack_from(f"{order}H", data, start)[0]):
        place = start + 2 + 12 * number
        tag, kind = struct.unpack_from(f"{order}HH", data, place)
        if tag in (256, 257) and kind in _TIFF_TYPES:
            found[tag] = struct.unpack_from(f"{order}{_TIFF_TYPES[kind]}", data, place + 8)[0]
    return (found[257], found[256]) if len(found) == 2 else None


def _pnm(data: bytes) -> Size | None:
    found = _PNM.match(data)
    return (int(found[2]), int(found[1])) if found else None


def _jp2(data: bytes) -> Size | None:
    place = data.find(b"\xff\x4f\xff\x51")  # the codestream, in its box or alone: what is decoded, whatever boxes say
    if place < 0:
        return None
    right, bottom, left, top = struct.unpack_from(">IIII", data, place + 8)
    return bottom - top, right - left


_READERS: dict[bytes, Callable[[bytes], Size | None]] = {
    _PNG: _png,
    b"\xff\xd8": _jpeg,
    b"BM": _bmp,
    b"RIFF": _webp,
    b"II*\0": _tiff,
    b"MM\0*": _tiff,
    **{b"P%d" % kind: _pnm for kind in range(1, 8)},
    b"\0\0\0\x0cjP  ": _jp2,
    b"\xff\x4f\xff\x51": _jp2,
}
