"""Pictures: files and arrays in memory become samples, and what figures show of them."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onnx_evidence.arrays import read_array
from onnx_evidence.errors import DataError
from onnx_evidence.opencv import decode, decode_bands, refuse_large, too_large
from onnx_evidence.preprocessing.geometry import MAX_PIXELS
from onnx_evidence.types import AnyArray, Mask, Pixels

ARRAYS = ".npy"
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".jp2", ARRAYS})
# Channels of a picture; what has more is rather a volume, or turned.
_MOST_CHANNELS = 512


@dataclass(frozen=True)
class Photograph:
    """A decoded picture.

    Attributes
    ----------
    pixels : ndarray of uint8, shape (H, W, 3)
        RGB, upright (EXIF orientation applied), alpha dropped: what figures show. Samples of 16 bits are reduced to 8,
        to the nearest; of bands the first three are shown, or the mean of fewer, from the 1st to the 99th percentile.
    sha256 : str
        Of the file's bytes, or of the samples where there was no file.
    name : str
        Where it came from, as the user named it.
    samples : ndarray of uint8, uint16, int16 or float32, shape (H, W, C), optional
        What the file holds, where ``pixels`` are not that already.
    """

    pixels: Pixels
    sha256: str
    name: str
    samples: AnyArray | None = None

    @property
    def raw(self) -> AnyArray:
        """What preprocessing starts from, (H, W, C)."""
        return self.pixels if self.samples is None else self.samples

    def blank(self) -> "Photograph":
        """A picture of the same size and kind, everywhere of the mean colour."""
        raw = self.raw
        mean = raw.mean(axis=(0, 1), dtype=np.float64)
        even = np.empty_like(raw)
        even[:] = mean if raw.dtype == np.float32 else mean.round()
        return _photograph(even, self.name, even.tobytes(), bands=self.samples is not None and raw.dtype != np.uint16)


def list_images(paths: list[Path], leave_out: Path | None = None) -> list[Path]:
    """The pictures that ``paths`` name: files as they are, folders by the pictures in them, sorted.

    Parameters
    ----------
    paths : list of Path
        Files and folders.
    leave_out : Path, optional
        A folder inside a folder whose pictures are not meant: the output's own figures.

    Returns
    -------
    list of Path
        In the order given.

    Raises
    ------
    DataError
        If a folder holds no picture.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
            if leave_out is not None:
                inside = [p for p in inside if leave_out.resolve() not in p.resolve().parents]
            if not inside:
                raise DataError(f"{path}: no pictures in this folder ({', '.join(sorted(SUFFIXES))})")
            found += inside
        else:
            found.append(path)
    return found


def read_photograph(
    path: Path, most: int = MAX_PIXELS, *, bands: bool = False, shape: tuple[int, int, int] | None = None
) -> Photograph:
    """Read a picture of any common format, or an array of samples.

    Parameters
    ----------
    path : Path
        Colour, grey, alpha, palette, 8 or 16 bits; or .npy of shape (H, W) or (H, W, C).
    most : int
        Pixels of the largest picture that is taken.
    bands : bool
        Take channels as the file has them: alpha is one, grey is a single one, the pages of a .tif are as many; EXIF
        orientation is not applied. By default they become RGB.
    shape : (int, int, int), optional
        Channels, height and width of an input that the file holds as it is, channels first or last; only .npy.

    Returns
    -------
    Photograph

    Raises
    ------
    DataError
        If the file is missing, empty, truncated, no picture, larger than ``most`` (known before it is decoded) or
        `MAX_PIXELS`, or of another kind.
    """
    if shape is not None and path.suffix.lower() != ARRAYS:
        raise DataError(f"{path}: an input that is preprocessed already is a .npy file of float32, not a picture")
    if path.suffix.lower() == ARRAYS:
        data, samples = read_array(path)
        samples = samples if shape is None else _channels_last(samples, shape, path)
        refuse_large(path, samples.shape, most)
    elif bands:
        data, samples = decode_bands(path, most)
    else:
        data, samples = decode(path, most)
    return _photograph(samples, printable(path), data, bands=bands or shape is not None)


def _channels_last(samples: AnyArray, shape: tuple[int, int, int], path: Path) -> AnyArray:
    """An input (C, H, W) or (H, W, C), with or without a batch of 1 and a channel of 1, as (H, W, C)."""
    channels, *size = shape
    found = samples[0] if samples.ndim == 4 and len(samples) == 1 else samples
    if found.ndim == 2 and channels == 1:
        found = found[None]
    if found.shape == shape:
        return np.ascontiguousarray(found.transpose(1, 2, 0))
    if found.shape == (*size, channels):
        return found
    raise DataError(
        f"{path}: the array has shape {samples.shape} and the model takes {shape} or {(*size, channels)}: save "
        "its input"
    )


def as_photograph(samples: AnyArray, *, bands: bool = False, shape: tuple[int, int, int] | None = None) -> Photograph:
    """Take samples from memory; see `read_photograph`.

    Parameters
    ----------
    samples : ndarray of uint8 or uint16, shape (H, W, 3) or (H, W)
        RGB or grey; with ``bands`` or ``shape`` as `read_photograph`.
    bands : bool
        As `read_photograph`.
    shape : (int, int, int), optional
        As `read_photograph`.

    Returns
    -------
    Photograph
        Named 'array'.

    Raises
    ------
    DataError
        If shape or dtype is another.
    """
    if shape is not None:
        samples = _channels_last(samples, shape, Path("array"))
    samples = np.ascontiguousarray(samples)
    return _photograph(samples, "array", samples.tobytes(), bands=bands or shape is not None)


def _photograph(samples: AnyArray, name: str, data: bytes, *, bands: bool) -> Photograph:
    kinds = ("uint8", "uint16", "int16", "float32") if bands else ("uint8", "uint16")
    wanted = range(1, _MOST_CHANNELS + 1) if bands else (1, 3)
    full = samples[:, :, None] if samples.ndim == 2 else samples
    if full.ndim != 3 or 0 in full.shape or full.dtype.name not in kinds or full.shape[2] not in wanted:
        rule = (
            f"a picture of bands has shape (height, width, channels), at most {_MOST_CHANNELS} channels of "
            f"{', '.join(kinds)}"
            if bands
            else "give uint8 RGB of shape (height, width, 3); other channels need a preprocessing with color = 'BANDS'"
        )
        raise DataError(f"{name}: the image is {samples.dtype} of shape {samples.shape}: {rule}")
    if full.shape[0] * full.shape[1] > MAX_PIXELS:
        raise too_large(name)
    digest = hashlib.sha256(data).hexdigest()
    if bands:
        return Photograph(_shown(full), digest, name, full)
    if full.shape[2] == 1:
        full = np.repeat(full, 3, axis=2)
    if full.dtype == np.uint8:
        return Photograph(full, digest, name)
    # To the nearest: 257 levels of 16 bits are one of 8.
    return Photograph(((full.astype(np.uint32) + 128) // 257).astype(np.uint8), digest, name, full)


def _shown(bands: AnyArray) -> Pixels:
    """Bands as a figure shows them."""
    three = bands[:, :, :3] if bands.shape[2] >= 3 else np.repeat(bands.mean(axis=2, keepdims=True), 3, axis=2)
    low, high = np.percentile(three, (1, 99))
    shown: Pixels = (np.clip((three - low) / ((high - low) or 1.0), 0, 1) * 255).round().astype(np.uint8)
    return shown


def read_mask(path: Path) -> Mask:
    """Decode a picture that marks an object: whatever is not zero, in any channel and depth (alpha is dropped).

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    ndarray of bool, shape (H, W)

    Raises
    ------
    DataError
        As `read_photograph`.
    """
    marked: Mask = (decode(path)[1] != 0).any(axis=2)
    return marked


def printable(path: str | Path) -> str:
    """A path as text that can be written: bytes that are no UTF-8 are replaced.

    Parameters
    ----------
    path : str or Path
        A path in any encoding.

    Returns
    -------
    str
    """
    return os.fsencode(path).decode("utf-8", "replace")
