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
    """A picture of which the header is read: nothing is decoded yet.

    Whatever Pillow raises meanwhile becomes `ValueError`; its warnings and its log stay inside.

    Parameters
    ----------
    data : bytes
        The file.
    name : str
        A key of `formats.FORMATS`.

    Returns
    -------
    context manager of ImageFile

    Raises
    ------
    ValueError
        If the file is damaged, or of a kind that Pillow does not read.
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
    """Height and width as the header says them.

    Parameters
    ----------
    image : ImageFile
        From `opened`.

    Returns
    -------
    (int, int)
    """
    return image.size[1], image.size[0]


def orientation_of(image: ImageFile.ImageFile) -> int:
    """EXIF's orientation as `ImageOps.exif_transpose` finds it: in EXIF, in XMP, or in AVIF's own boxes.

    Parameters
    ----------
    image : ImageFile
        From `opened`.

    Returns
    -------
    int
        1..8; 1 where there is none, or where EXIF is damaged, as nearly all readers have it.
    """
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except _RAISED:
        return 1
    return found if found in range(1, 9) else 1


def orientation_in_xmp(text: bytes) -> int:
    """The orientation that XMP says, found as Pillow finds it.

    Parameters
    ----------
    text : bytes
        XMP, or nothing.

    Returns
    -------
    int
        1 where it says none.
    """
    found = _IN_XMP.search(text)
    return int(found[1]) if found else 1


def decode(image: ImageFile.ImageFile, *, bands: bool) -> AnyArray:
    """Decode a picture, upright: the first frame or page.

    Parameters
    ----------
    image : ImageFile
        From `opened`.
    bands : bool
        Channels as the file has them, as it lies there; otherwise RGB, alpha dropped, colour profiles passed over.

    Returns
    -------
    ndarray of uint8, shape (H, W, C)
        Or of int32, float32 or uint16 where Pillow takes the file so.
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
    """A picture as it lies in the file, made upright.

    Parameters
    ----------
    samples : ndarray, shape (H, W, C)
        As the file has them.
    orientation : int
        1..8, as EXIF has it.

    Returns
    -------
    ndarray
        A view.
    """
    if orientation > 4:  # rows are columns
        samples = samples.swapaxes(0, 1)
    flip_rows, flip_cols = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    return samples[:: -1 if flip_rows else 1, :: -1 if flip_cols else 1]


def expand(data: bytes, compression: int, size: int) -> bytes:
    """Undo a compression of TIFF that is about bytes, whatever they mean.

    The bytes are given to libtiff as a picture of theirs: one row of grey pixels of 8 bits.

    Parameters
    ----------
    data : bytes
        A strip or tile.
    compression : int
        As TIFF numbers it.
    size : int
        Bytes that come out.

    Returns
    -------
    bytes

    Raises
    ------
    ValueError
        If there are fewer, or the data are damaged.
    """
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
