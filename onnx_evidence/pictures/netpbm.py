"""The netpbm formats that Pillow reduces or does not hold: samples of 16 bits, PAM, and PFM's floats."""

import re
import warnings
from typing import NamedTuple

import numpy as np

from onnx_evidence.types import AnyArray

_TOKEN = rb"(?:\s|#[^\n]*\n)+(\d{1,9})"
_PLAIN_OR_BINARY = re.compile(rb"P([2356])" + _TOKEN * 3 + rb"\s")
_BITS = re.compile(rb"P[14]" + _TOKEN * 2 + rb"\s")
# Bytes in which a header must end: readers take long for comments.
_HEAD = 1 << 16
_PFM = re.compile(rb"P([Ff])\s+(\d{1,9})\s+(\d{1,9})\s+([-+.\deE]{1,30})\s")
_PAM = re.compile(rb"P7\s((?:[^\n]{0,1024}\n){0,99}?)[ \t]*ENDHDR[^\n]*\n")
# What PAM calls samples that are colours, and how many of a pixel there are.
COLOURS = {"BLACKANDWHITE": 1, "GRAYSCALE": 1, "RGB": 3, "BLACKANDWHITE_ALPHA": 2, "GRAYSCALE_ALPHA": 2, "RGB_ALPHA": 4}
_DEEPEST = 65535


class Header(NamedTuple):
    """What a file says of its samples: ``white`` is 0 of floats, of whose ``scale`` the sign is the order of bytes.

    ``samples`` is what PAM calls them; empty where it does not say, and of the other formats.
    """

    height: int
    width: int
    channels: int
    white: int
    start: int
    plain: bool = False
    scale: float = 0.0
    samples: str = ""


def header_of(data: bytes) -> Header | None:
    """The header of a file that is read here, None for P1 to P6 of 8 bits; `ValueError` where it is damaged."""
    head = data[:_HEAD]
    if found := _PLAIN_OR_BINARY.match(head):
        kind, width, height, white = (int(each) for each in found.groups())
        if white <= 255:
            return None
        if white > _DEEPEST:
            raise ValueError(f"white is {white}: at most {_DEEPEST}")
        return Header(height, width, 3 if kind in (3, 6) else 1, white, found.end(), plain=kind < 4)
    if found := _PFM.match(head):
        return Header(int(found[3]), int(found[2]), 3 if found[1] == b"F" else 1, 0, found.end(), scale=float(found[4]))
    if data.startswith((b"P7", b"PF", b"Pf")):
        return _pam(data)
    if len(data) > _HEAD and not _BITS.match(head):
        raise ValueError(f"the header is not whole in the first {_HEAD} bytes")
    return None


def _pam(data: bytes) -> Header:
    found = _PAM.match(data)
    lines = (
        [line.split(None, 1) for line in found[1].split(b"\n") if line.strip()[:1] not in (b"", b"#")] if found else []
    )
    said = {line[0]: line[1] for line in lines if len(line) == 2 and line[0] != b"TUPLTYPE"}
    called = b" ".join(line[1].strip() for line in lines if len(line) == 2 and line[0] == b"TUPLTYPE")
    try:
        names = (b"HEIGHT", b"WIDTH", b"DEPTH", b"MAXVAL")
        height, width, channels, white = (int(said[name]) for name in names)
    except (KeyError, ValueError) as error:
        raise ValueError("the header is not whole") from error
    if not (found and 0 < white <= _DEEPEST and min(height, width, channels) > 0):
        raise ValueError("the header has numbers that are out of range")
    return Header(height, width, channels, white, found.end(), samples=called.decode("ascii", "backslashreplace"))


def read(data: bytes, header: Header) -> AnyArray:
    """The samples as the file has them, (H, W, C): uint8 or uint16 of 0..``header.white``, or float32.

    Raises `ValueError` where the file is truncated, or a sample is above white.
    """
    count = header.height * header.width * header.channels
    shape = (header.height, header.width, header.channels)
    if not count:
        raise ValueError(f"{header.width} x {header.height} pixels are none")
    if header.plain:
        samples = _figures(data[header.start :], count)
    else:
        kind = ("<f4" if header.scale < 0 else ">f4") if not header.white else "u1" if header.white < 256 else ">u2"
        if (len(data) - header.start) // np.dtype(kind).itemsize < count:
            raise ValueError("the file ends early")
        samples = np.frombuffer(data, kind, count, header.start)
    if header.white and samples.size and int(samples.max()) > header.white:
        raise ValueError(f"a sample is above the white of {header.white}")
    if not header.white:
        return np.ascontiguousarray(samples.reshape(shape)[::-1], np.float32)  # from the bottom up
    return samples.reshape(shape).astype(np.uint8 if header.white < 256 else np.uint16, copy=False)


def _figures(text: bytes, count: int) -> AnyArray:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # what is no figure is a warning
        try:
            # Without a count: where there are fewer numbers than that, NumPy leaves the rest unwritten.
            found = np.fromstring(re.sub(rb"#[^\n]*", b"", text).decode("latin-1"), np.int64, sep=" ")
        except DeprecationWarning as error:
            raise ValueError("the file holds what is no number") from error
    if found.size < count:
        raise ValueError("the file ends early")
    if found.min(initial=0) < 0:
        raise ValueError("a sample is below 0")
    return found[:count]
