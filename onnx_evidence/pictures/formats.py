"""What a file is: the formats that are read, told by their first bytes, and names for files that are none of them."""

import re
import struct
import zlib
from typing import NamedTuple

JPEG, PNG, TIFF, WEBP, GIF, BMP, AVIF = "JPEG", "PNG", "TIFF", "WebP", "GIF", "BMP", "AVIF"
JPEG_2000, NETPBM, SUN = "JPEG 2000", "netpbm", "Sun raster"
# How names of files end that hold them; what a folder is searched for.
FORMATS: dict[str, tuple[str, ...]] = {
    JPEG: (".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo"),
    PNG: (".png", ".apng"),
    TIFF: (".tif", ".tiff"),
    WEBP: (".webp",),
    GIF: (".gif",),
    BMP: (".bmp", ".dib"),
    AVIF: (".avif", ".avifs"),
    JPEG_2000: (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    NETPBM: (".ppm", ".pgm", ".pbm", ".pnm", ".pam", ".pfm"),
    SUN: (".ras", ".sr"),
}
SUFFIXES = frozenset(suffix for suffixes in FORMATS.values() for suffix in suffixes)

_PNG_START = b"\x89PNG\r\n\x1a\n"
_ANIMATION = frozenset({b"acTL", b"fcTL", b"fdAT"})
_STARTS = {
    b"\xff\xd8\xff": JPEG,
    _PNG_START: PNG,
    b"II*\0": TIFF,
    b"MM\0*": TIFF,
    b"II+\0": TIFF,
    b"MM\0+": TIFF,
    b"GIF87a": GIF,
    b"GIF89a": GIF,
    b"BM": BMP,
    b"\0\0\0\x0cjP  \r\n\x87\n": JPEG_2000,
    b"\xff\x4f\xff\x51": JPEG_2000,
    b"\x59\xa6\x6a\x95": SUN,
}
_ICON = re.compile(rb"\0\0[\1\2]\0[^\0]\0")  # with the number of pictures: Targa begins alike
_NETPBM_START = re.compile(rb"P([1-7]|[Ff])[\s#]")
# Brands of files that are boxes (ISO 14496-12), and what they are.
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"})
_VIDEO_BRANDS = frozenset({b"isom", b"iso2", b"mp41", b"mp42", b"avc1", b"qt  ", b"M4V ", b"3gp4", b"3gp5"})

_CONVERT = "convert it to PNG or JPEG"
_DEPTH = "convert it to PNG or JPEG, or save its samples as a .npy file of float32 for color = 'BANDS'"
_NAMED = "give the picture itself"


class Stranger(NamedTuple):
    """A file that is not read: what it is, in words, and what to do."""

    words: str
    remedy: str
    picture: bool = True

    @property
    def sentence(self) -> str:
        """All of it, as messages have it."""
        return f"the file is {self.words}, {'which is not read' if self.picture else 'no picture'}: {self.remedy}"


_VIDEO = Stranger("a video", "save a frame as PNG or JPEG")
RAW = Stranger("a camera's raw file", _CONVERT)
_STRANGERS = {
    (0, b"%PDF"): Stranger("a PDF document", "save its picture as PNG or JPEG"),
    (0, b"%!PS"): Stranger("a PostScript document", "save its picture as PNG or JPEG"),
    (0, b"8BPS"): Stranger("a Photoshop document (PSD)", _CONVERT),
    (0, b"\x76\x2f\x31\x01"): Stranger("an OpenEXR picture", _DEPTH),
    (0, b"#?RADIANCE"): Stranger("a Radiance HDR picture", _DEPTH),
    (0, b"#?RGBE"): Stranger("a Radiance HDR picture", _DEPTH),
    (0, b"DDS "): Stranger("a DirectDraw texture (DDS)", _CONVERT),
    (0, b"icns"): Stranger("an icon (ICNS)", _CONVERT),
    (0, b"qoif"): Stranger("a QOI picture", _CONVERT),
    (0, b"\xff\x0a"): Stranger("a JPEG XL picture", _CONVERT),
    (0, b"\0\0\0\x0cJXL "): Stranger("a JPEG XL picture", _CONVERT),
    (0, b"II\xbc\x01"): Stranger("a JPEG XR picture", _CONVERT),
    (0, b"BPG\xfb"): Stranger("a BPG picture", _CONVERT),
    (0, b"\x01\xda"): Stranger("an SGI picture", _CONVERT),
    (0, b"\x0a\x05\x01"): Stranger("a PCX picture", _CONVERT),
    (0, b"FUJIFILMCCD-RAW"): RAW,
    (0, b"IIRO"): RAW,
    (0, b"IIRS"): RAW,
    (0, b"IIU\0"): RAW,
    (8, b"CR\x02\0"): RAW,
    (128, b"DICM"): Stranger("a DICOM file", "save its samples as a .npy file, or as PNG"),
    (344, b"n+1\0"): Stranger("a NIfTI volume", "save its samples as a .npy file, or a slice as PNG"),
    (0, b"SIMPLE  ="): Stranger("a FITS file", "save its samples as a .npy file, or as PNG"),
    (0, b"\x93NUMPY"): Stranger("an array of NumPy", "name it .npy"),
    (0, b"\x89HDF"): Stranger("an HDF5 file", "save its samples as a .npy file, or as PNG"),
    (0, b"\x1f\x8b"): Stranger("compressed by gzip", "decompress it", picture=False),
    (0, b"PK\3\4"): Stranger("a ZIP archive", "unpack it", picture=False),
    (0, b"\x1a\x45\xdf\xa3"): _VIDEO,
}
_BY_NAME = {
    ".tga": Stranger("by its name a Targa picture", _CONVERT),
    ".heic": Stranger("by its name a HEIC picture", _CONVERT),
    ".heif": Stranger("by its name a HEIC picture", _CONVERT),
}
_HEIC = Stranger("a HEIC picture", _CONVERT)
_TEXTS = {
    b"<svg": Stranger("an SVG drawing", "draw it as PNG"),
    b"<!doctype html": Stranger("a web page (HTML)", _NAMED, picture=False),
    b"<html": Stranger("a web page (HTML)", _NAMED, picture=False),
    b"version https://git-lfs": Stranger(
        "a pointer of Git LFS", "fetch the file itself with git lfs pull", picture=False
    ),
}
_TEXT = Stranger("text", _NAMED, picture=False)
_HEAD = 1024
_SEGMENT_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})
SCAN = b"\xff\xda"
_END = 0xD9
_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")


def format_of(data: bytes) -> str | None:
    """The format of a picture, a key of `FORMATS`, told by its first bytes; None where it is none of them."""
    if data.startswith(b"RIFF"):
        return WEBP if data[8:12] == b"WEBP" else None
    if data[8:12] == b"CR\x02\0":  # these files begin as TIFF does, with a preview
        return None
    if data[4:8] == b"ftyp":
        brands = _brands(data)
        heif = brands[:1] and brands[0] not in _AVIF_BRANDS and brands[0] not in (b"mif1", b"msf1", b"miaf")
        return AVIF if _AVIF_BRANDS & set(brands) and not heif else None
    if _NETPBM_START.match(data):
        return NETPBM
    return next((name for start, name in _STARTS.items() if data.startswith(start)), None)


def _brands(data: bytes) -> list[bytes]:
    """The brands of a file of boxes, the major one first."""
    end = min(int.from_bytes(data[:4], "big"), len(data), _HEAD)
    return [data[8:12], *(data[place : place + 4] for place in range(16, end - 3, 4))]


def stranger(data: bytes, suffix: str) -> Stranger | None:
    """What a file, by bytes and suffix, is that is no picture of a format that is read; None where nothing is known."""
    if data[4:8] == b"ftyp":
        brands = set(_brands(data))
        kinds = ((_HEIC, _HEIF_BRANDS), (RAW, frozenset({b"crx "})), (_VIDEO, _VIDEO_BRANDS))
        return next((kind for kind, of_it in kinds if brands & of_it), None)
    for (place, start), found in _STRANGERS.items():
        if data.startswith(start, place):
            return found
    if _ICON.match(data):
        return Stranger("an icon (ICO)", _CONVERT)
    if data.endswith(b"TRUEVISION-XFILE.\0"):
        return Stranger("a Targa picture", _CONVERT)
    return _BY_NAME.get(suffix.lower()) or _text(data[:_HEAD])


def _text(head: bytes) -> Stranger | None:
    if re.search(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]", head):
        return None
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        if len(head) < _HEAD or error.start < _HEAD - 3:  # else a character is cut at the end
            return None
    return next((found for mark, found in _TEXTS.items() if mark in head.lower()), _TEXT)


def damage_of(data: bytes) -> str:
    """What is wrong with the parts of a PNG file, before any room is made for what they claim; empty where nothing is.

    Decoders pass over checksums, and make room for a part before they see that the file is shorter.
    """
    place = len(_PNG_START)
    while place + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        if place + 12 + length > len(data):
            break
        checked = zlib.crc32(memoryview(data)[place + 4 : place + 8 + length])
        if kind[0] < ord("a") and checked != int.from_bytes(data[place + 8 + length : place + 12 + length], "big"):
            return f"wrong checksum of a part {kind.decode('latin-1')!r}"
        place += 12 + length
        if kind == b"IEND":
            return ""
    return "the file ends early"


def still_of(data: bytes) -> bytes:
    """An undamaged PNG file without its animation: some readers show a frame of that in place of the picture."""
    place, kept = len(_PNG_START), [_PNG_START]
    while place + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        if kind not in _ANIMATION:
            kept.append(data[place : place + 12 + length])
        place += 12 + length
    return b"".join(kept)


def scans_of(data: bytes) -> int:
    """How often a JPEG file goes over its first picture: every time costs as much as decoding it once."""
    place, scans = 2, 0
    while found := _MARKER.search(data, place):
        kind, place = found[1][0], found.end()
        if kind == _END:
            break
        if kind in _SEGMENT_ALONE:
            continue
        scans += kind == SCAN[1]
        place += int.from_bytes(data[place : place + 2], "big")
    return scans


def jpeg_2000_depth(data: bytes) -> int:
    """Bits of the deepest component of a JPEG 2000 file, or of a codestream alone; 8 where the header is not whole."""
    place = data.find(b"\xff\x4f\xff\x51")  # the codestream: what is decoded, whatever boxes say
    try:
        count = struct.unpack_from(">H", data, place + 40)[0] if place >= 0 else 0
        return max((1 + (data[place + 42 + 3 * number] & 0x7F) for number in range(count)), default=8)
    except (struct.error, IndexError):
        return 8
