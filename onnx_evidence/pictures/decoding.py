"""Which reader a picture file takes, decided once, and what holds for all of them: limits, and errors in one line."""

import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from onnx_evidence.errors import DataError, one_line
from onnx_evidence.files import machine, open_regular
from onnx_evidence.pictures import formats, netpbm, opencv, pillow, tiff
from onnx_evidence.pictures.limits import MAX_PIXELS
from onnx_evidence.types import AnyArray

_WHITE = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535}
# What goes over the picture more often than this is made to keep readers busy: encoders write up to some dozen scans.
_MOST_SCANS = 100
_READ = ", ".join(formats.FORMATS)
# Bytes that a pixel takes at the most, of 8 bits or 16, until its map is packed; and so few pixels always fit.
_BYTES_PER_PIXEL, _FEW = 28, 4_000_000
_PNG_DEPTH, _PNG_KIND, _GREY_ALPHA = 24, 25, 4


class Decoded(NamedTuple):
    """Samples of a picture."""

    samples: AnyArray  # (H, W, C), as the file holds them
    white: int  # the largest number that the file can hold: 255, 65535, or less than that where the file says so


class Source(NamedTuple):
    """A file: where it is, what it holds, and the most pixels that are taken."""

    path: Path
    data: bytes
    most: int


def decode(path: Path, most: int = MAX_PIXELS, *, bands: bool = False) -> tuple[bytes, Decoded]:
    """A file's bytes, and its picture in its own depth: upright, RGB or grey; with ``bands`` as it lies there.

    Raises `DataError` where the file is missing, empty, truncated, damaged, no picture that is read, or larger than
    ``most`` or `MAX_PIXELS`, which is known before it is decoded.
    """
    try:
        with open_regular(path) as stream:
            data = stream.read()
    except OSError as error:
        raise DataError(f"{path}: cannot read the picture: {error.strerror or error}") from error
    if not data:
        raise DataError(f"{path}: the file is empty, not a picture")
    name = formats.format_of(data)
    if name is None:
        raise DataError(f"{path}: cannot decode the picture: {_what_it_is(path, data)}")
    try:
        with opencv.silence():  # libtiff and libjpeg say on stderr what is raised as well
            samples, white = _READERS.get(name, _by_pillow)(Source(path, data, most), name, bands)
    except (ValueError, OverflowError, struct.error, zlib.error, MemoryError) as error:
        reason = "the file ends early" if isinstance(error, struct.error | OverflowError) else one_line(error)
        raise DataError(
            f"{path}: cannot decode the picture: the {name} file is truncated, damaged or of a kind that is not read: "
            f"{reason}"
        ) from error
    if samples.dtype.kind == "f" and not np.isfinite(samples).all():
        raise DataError(f"{path}: the picture holds values that are not finite: replace them")
    return data, Decoded(samples, white or _WHITE.get(samples.dtype, 0))


def _what_it_is(path: Path, data: bytes) -> str:
    found = formats.stranger(data, path.suffix)
    if found is None:
        return f"the file is truncated, damaged or no picture: it begins like none of {_READ}"
    return found.sentence


def _by_pillow(source: Source, name: str, bands: bool) -> tuple[AnyArray, int]:
    many = name == formats.JPEG and source.data.count(formats.SCAN) > _MOST_SCANS  # at a glance, thumbnails among them
    if many and (scans := formats.scans_of(source.data)) > _MOST_SCANS:
        raise ValueError(f"{scans} scans, where at most {_MOST_SCANS} are read")
    with pillow.opened(source.data, name) as image:
        refuse_large(source.path, pillow.size_of(image), source.most)
        samples = pillow.decode(image, bands=bands)
    return samples, 0


def _tiff(source: Source, name: str, bands: bool) -> tuple[AnyArray, int]:
    pages = tiff.pages_of(source.data) if bands else tiff.pages_of(source.data, 1)
    first = pages[0]
    if first.preview:
        raise DataError(f"{source.path}: cannot decode the picture: {formats.RAW.sentence}")
    if not first.plain:
        samples, _ = _by_pillow(source, name, bands)
        return samples, (1 << first.depth) - 1 if samples.dtype == np.uint16 else 0
    refuse_large(source.path, first.size, source.most)
    if not bands and first.channels > first.colours + 1 and first.colours == 1:
        raise DataError(
            f"{source.path}: the picture has shape {(*first.size, first.channels)}, and the file calls its channels no "
            "colours: they need a preprocessing with color = 'BANDS'"
        )
    if not bands:
        return tiff.as_colours(tiff.read(source.data, first), first), 0
    bands_of = [first, *(page for page in pages[1:] if not page.beside)]
    if len(bands_of) == 1:
        return tiff.read(source.data, first), 0
    like = (1, True, first.size, first.kind)
    if any((page.channels, page.plain, page.size, page.kind) != like for page in bands_of):
        raise DataError(f"{source.path}: its {len(pages)} pages differ in size, or have colours: save bands as .npy")
    return np.concatenate([tiff.read(source.data, page) for page in bands_of], axis=2), 0


def _netpbm(source: Source, name: str, bands: bool) -> tuple[AnyArray, int]:
    header = netpbm.header_of(source.data)
    if header is None:
        return _by_pillow(source, name, bands)
    refuse_large(source.path, (header.height, header.width), source.most)
    if not bands and header.samples and header.channels != netpbm.COLOURS.get(header.samples):
        raise DataError(
            f"{source.path}: the picture has {header.channels} samples a pixel, called {header.samples}: as colours "
            f"those of {', '.join(netpbm.COLOURS)} are read: convert it to PNG"
        )
    samples = netpbm.read(source.data, header)
    if samples.dtype == np.uint8 and header.white != 255:
        samples = np.rint(np.arange(header.white + 1) / header.white * 255).astype(np.uint8)[samples]
    if not bands and header.channels in (2, 4):  # alpha
        samples = samples[:, :, : header.channels - 1]
    return samples, header.white if samples.dtype == np.uint16 else 0


def _png(source: Source, name: str, bands: bool) -> tuple[AnyArray, int]:
    if damage := formats.damage_of(source.data):
        raise ValueError(damage)
    if source.data[_PNG_DEPTH] != 16:
        return _by_pillow(source, name, bands)
    samples = _by_opencv(source._replace(data=formats.still_of(source.data)), name, bands)
    if source.data[_PNG_KIND] == _GREY_ALPHA:
        samples = samples[:, :, [0, 3]] if bands else samples[:, :, :1]
    return samples, 0


def _jpeg_2000(source: Source, name: str, bands: bool) -> tuple[AnyArray, int]:
    depth = formats.jpeg_2000_depth(source.data)
    if depth <= 8:
        return _by_pillow(source, name, bands)
    return _by_opencv(source, name, bands), (1 << depth) - 1


def _by_opencv(source: Source, name: str, bands: bool) -> AnyArray:
    """Samples of more than 8 bits; size and orientation are Pillow's to say."""
    with pillow.opened(source.data, name) as image:
        refuse_large(source.path, pillow.size_of(image), source.most)
        turn = 1 if bands else pillow.orientation_of(image)
    samples = opencv.decode(source.data)
    refuse_large(source.path, samples.shape, source.most)  # where the parts of a file disagree
    if bands:
        return samples
    return np.ascontiguousarray(pillow.turned(samples[:, :, : 3 if samples.shape[2] > 2 else 1], turn))


# The header decides which reader a file takes: netpbm of more than 8 bits, PAM and PFM go to `netpbm`; TIFF of whole
# bytes per sample, grey, RGB or of more channels, not compressed as JPEG, to `tiff`; PNG and JPEG 2000 of more than 8
# bits to OpenCV; everything else to Pillow. Of animations and files of several pages the first one is taken; with bands
# the pages of a TIFF are channels. Colour profiles, gamma and the depth of AVIF beyond 8 bits are passed over, as
# trainers' libraries do.
_READERS = {formats.TIFF: _tiff, formats.NETPBM: _netpbm, formats.PNG: _png, formats.JPEG_2000: _jpeg_2000}


def refuse_large(path: Path, size: tuple[int, ...], most: int) -> None:
    """Refuse a picture, its size height and width first, of more pixels than ``most``, or than there is memory for."""
    if size[0] * size[1] > most:
        if most == MAX_PIXELS:
            raise too_large(path)
        raise DataError(
            f"{path}: the picture has {size[1]} x {size[0]} pixels: at most {most} are read; give --max-pixels"
        )
    free = machine.free_memory() if size[0] * size[1] > _FEW else None
    if free is not None and size[0] * size[1] * _BYTES_PER_PIXEL > free:
        raise DataError(
            f"{path}: the picture has {size[1]} x {size[0]} pixels, which take {_BYTES_PER_PIXEL} bytes each until its "
            f"map is written, and {free >> 20} MB of memory are free: give a smaller picture, or fewer --workers"
        )


def too_large(path: str | Path) -> DataError:
    """What to raise for a picture of more than `MAX_PIXELS`."""
    limit = f"at most {MAX_PIXELS / 1e6:.0f} million pixels are read"
    return DataError(f"{path}: the picture is absurdly large: {limit}")
