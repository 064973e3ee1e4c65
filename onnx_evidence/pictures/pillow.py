"""Pillow's part: pictures of 8 bits, as the trainers' libraries read them. The only module that knows Pillow.

A format's reader is called by itself: `Image.open` tries every format that Pillow has, and warns of large pictures.
"""

import io
import logging
import re
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import PIL
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    SunImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from onnx_evidence.errors import one_line
from onnx_evidence.pictures import formats
from onnx_evidence.types import AnyArray

PILLOW_VERSION = str(PIL.__version__)
_READERS: dict[str, Callable[[io.BytesIO, str], ImageFile.ImageFile]] = {
    formats.JPEG: JpegImagePlugin.JpegImageFile,
    formats.PNG: PngImagePlugin.PngImageFile,
    formats.TIFF: TiffImagePlugin.TiffImageFile,
    formats.WEBP: WebPImagePlugin.WebPImageFile,
    formats.GIF: GifImagePlugin.GifImageFile,
    formats.BMP: BmpImagePlugin.BmpImageFile,
    formats.AVIF: AvifImagePlugin.AvifImageFile,
    formats.JPEG_2000: Jpeg2KImagePlugin.Jpeg2KImageFile,
    formats.NETPBM: PpmImagePlugin.PpmImageFile,
    formats.SUN: SunImagePlugin.SunImageFile,
}
_ORIENTATION = 0x0112
_IN_XMP = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')
_DEEP = ("I", "F")
# Pixels that are turned into an array at once: Pillow would copy the whole picture twice.
_BLOCK = 1 << 22


# What readers raise, of the file's making.
_RAISED = (
    *(ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, MemoryError, OSError, RuntimeError),
    *(SyntaxError, TypeError, ValueError, struct.error, zlib.error, Image.DecompressionBombError),
)


@contextmanager
def opened(data: bytes, name: str) -> Iterator[ImageFile.ImageFile]:
    """A picture, its format a key of `formats.FORMATS`, of which the header is read: nothing is decoded yet.

    Whatever Pillow raises meanwhile becomes `ValueError`; its warnings and its log stay inside.
    """
    log = logging.getLogger(TiffImagePlugin.__name__)  # the one reader that logs what it then raises
    before, log.disabled = log.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with _READERS[name](io.BytesIO(data), "") as image:
                yield image
    except struct.error as error:
        raise ValueError("the file ends early") from error
    except _RAISED as error:
        raise ValueError(one_line(error)) from error
    finally:
        log.disabled = before


def size_of(image: ImageFile.ImageFile) -> tuple[int, int]:
    """Height and width as the header says them."""
    return image.size[1], image.size[0]


def orientation_of(image: ImageFile.ImageFile) -> int:
    """EXIF's orientation, 1..8, as `ImageOps.exif_transpose` finds it: in EXIF, in XMP, or in AVIF's own boxes."""
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except _RAISED:  # damaged EXIF is none, as nearly all readers have it
        return 1
    return found if found in range(1, 9) else 1


def orientation_in_xmp(text: bytes) -> int:
    """The orientation that XMP says, found as Pillow finds it; 1 where it says none."""
    found = _IN_XMP.search(text)
    return int(found[1]) if found else 1


def decode(image: ImageFile.ImageFile, *, bands: bool) -> AnyArray:
    """Decode the first frame or page, (H, W, C): upright, RGB, alpha dropped, or with ``bands`` as it lies in the file.

    Samples are uint8, or int32, float32 or uint16 where Pillow takes the file so; colour profiles are passed over.
    """
    image.load()
    turn = 1 if bands else orientation_of(image)
    mode = _mode(image, bands)
    channels = Image.getmodebands(mode)
    width, height = image.size
    rows = max(1, _BLOCK // width)
    first = _block(image, mode, 0, min(rows, height))
    upright = np.empty((*((width, height) if turn > 4 else (height, width)), channels), first.dtype)
    lying = turned(upright, {6: 8, 8: 6}.get(turn, turn))
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        lying[top:bottom] = (first if top == 0 else _block(image, mode, top, bottom)).reshape(-1, width, channels)
    return upright


def _mode(image: ImageFile.ImageFile, bands: bool) -> str:
    if image.mode.startswith(_DEEP):
        return image.mode
    if not bands:
        return "RGB"
    if image.mode in ("P", "PA"):
        return "RGBA" if image.mode == "PA" or "transparency" in image.info else "RGB"
    return "L" if image.mode == "1" else image.mode


def _block(image: Image.Image, mode: str, top: int, bottom: int) -> AnyArray:
    part = image if bottom - top == image.size[1] else image.crop((0, top, image.size[0], bottom))
    found: AnyArray = np.asarray(part if part.mode == mode else part.convert(mode))
    return found.astype(found.dtype.newbyteorder("="), copy=False)


def turned(samples: AnyArray, orientation: int) -> AnyArray:
    """A picture (H, W, C) as it lies in the file, made upright by EXIF's orientation, 1..8: a view."""
    if orientation > 4:  # rows are columns
        samples = samples.swapaxes(0, 1)
    flip_rows, flip_cols = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    return samples[:: -1 if flip_rows else 1, :: -1 if flip_cols else 1]


def expand(data: bytes, compression: int, size: int) -> bytes:
    """Undo a compression, as TIFF numbers it, of a strip's or tile's bytes, whatever they mean, to ``size`` of them.

    Raises `ValueError` where there are fewer, or the data are damaged.
    """
    # The bytes are given to libtiff as a picture of theirs: one row of grey pixels of 8 bits.
    entries = [
        (256, size),
        (257, 1),
        (258, 8),
        (259, compression),
        (262, 1),
        (273, 8),
        (277, 1),
        (278, 1),
        (279, len(data)),
    ]
    place = 8 + len(data) + len(data) % 2
    head = b"II*\0" + struct.pack("<I", place) + data + b"\0" * (len(data) % 2)
    table = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    with opened(head + struct.pack("<H", len(entries)) + table + bytes(4), formats.TIFF) as image:
        return image.tobytes()
