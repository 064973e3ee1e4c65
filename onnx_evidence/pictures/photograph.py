"""Pictures: files and arrays in memory become samples, and what figures show of them."""

import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onnx_evidence.errors import DataError
from onnx_evidence.files import below, several, visible
from onnx_evidence.pictures.decoding import decode, refuse_large, too_large
from onnx_evidence.pictures.figures import is_figure
from onnx_evidence.pictures.formats import SUFFIXES as PICTURES
from onnx_evidence.pictures.limits import MAX_PIXELS
from onnx_evidence.pictures.npy import read_array
from onnx_evidence.types import AnyArray, Mask, Pixels

log = logging.getLogger(__name__)

ARRAYS = ".npy"
SUFFIXES = PICTURES | {ARRAYS}
# What systems leave in folders; nobody misses it.
_LEFTOVERS = frozenset({"thumbs.db", "desktop.ini"})
# Names of files that are passed over, of which a line says at most so many.
_NAMED = 3
# White of samples of 16 bits where a file says no other.
WHITEST = 65535
# Rows that are reduced to 8 bits at once.
_ROWS = 256
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
    white : int
        White of samples of 16 bits: what the file says, as netpbm and JPEG 2000 do, or 65535.
    """

    pixels: Pixels
    sha256: str
    name: str
    samples: AnyArray | None = None
    white: int = WHITEST

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
        bands = self.samples is not None and raw.dtype != np.uint16
        return _photograph(even, self.name, even.tobytes(), bands=bands, white=self.white)


def list_images(paths: Sequence[Path], leave_out: Sequence[Path] = (), *, tell: bool = False) -> list[Path]:
    """The pictures that ``paths`` name: files as they are, folders by the pictures in them, sorted.

    Figures of earlier results, which lie beside their map or numbers, are passed over in folders.

    Parameters
    ----------
    paths : sequence of Path
        Files and folders.
    leave_out : sequence of Path
        Folders inside a folder whose pictures are not meant: the output's own figures, masks.
    tell : bool
        Log a warning about other files and figures that are passed over in a folder; hidden files need none.

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
        if os.path.isdir(path):  # False where there is no access, which reading will say
            found += _inside(path, {Path(os.path.realpath(each)) for each in leave_out}, tell)
        else:
            found.append(path)
    return found


def _inside(folder: Path, without: set[Path], tell: bool) -> list[Path]:
    every = sorted(below(folder, without=without))
    files = [path for path in every if os.path.isfile(path)]
    closed = [path.relative_to(folder) for path in every if _is_closed(path)]
    closed = [path for path in closed if not _is_hidden(path)]
    named = [path for path in files if path.suffix.lower() in SUFFIXES]
    pictures, drawn = without_figures(named)
    figures = [path.relative_to(folder) for path in drawn]
    others = [path.relative_to(folder) for path in files if path.suffix.lower() not in SUFFIXES]
    others = [path for path in others if not _is_hidden(path)]
    if not pictures:
        passed = (others and _others(others), figures and figures_of(figures), closed and _closed(closed))
        there = "".join(f": {some}" for some in passed if some)
        raise DataError(f"{folder}: no pictures in this folder ({', '.join(sorted(SUFFIXES))}){there}")
    if tell and others:
        log.warning("%s: passed over %s", visible(printable(folder)), _others(others))
    if tell and figures:
        log.warning("%s: passed over %s", visible(printable(folder)), figures_of(figures))
    if tell and closed:
        log.warning("%s: passed over %s", visible(printable(folder)), _closed(closed))
    return pictures


def _is_closed(path: Path) -> bool:
    """Whether it is neither a file nor a folder that is searched: links to folders could lead in circles."""
    if os.path.isdir(path) and not path.is_symlink():
        return not os.access(path, os.R_OK | os.X_OK)
    return not os.path.isfile(path)


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts) or path.name.lower() in _LEFTOVERS


def _others(files: Sequence[Path]) -> str:
    """How many files are no pictures by their names, and the first of them."""
    count = "1 file that is no picture" if len(files) == 1 else f"{len(files)} files that are no pictures"
    return f"{count} by name: {_first(files)}"


def without_figures(found: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Pictures that a search found, and figures of earlier results among them.

    Parameters
    ----------
    found : sequence of Path
        Files, as `list_images` finds them.

    Returns
    -------
    pictures, figures : list of Path
    """
    drawn = {path for path in found if is_figure(path)}
    return [path for path in found if path not in drawn], [path for path in found if path in drawn]


def figures_of(figures: Sequence[Path]) -> str:
    """How many figures of earlier results there are, and the first of them, in words.

    Parameters
    ----------
    figures : sequence of Path
        One at least.

    Returns
    -------
    str
    """
    count = several(len(figures), "figure")
    return f"{count} of earlier results, which are explained by their own names only: {_first(figures)}"


def _closed(paths: Sequence[Path]) -> str:
    count = "1 name that is" if len(paths) == 1 else f"{len(paths)} names that are"
    return f"{count} no file here (links to folders or to nothing, pipes, folders without access): {_first(paths)}"


def _first(paths: Sequence[Path]) -> str:
    more = f" (and {len(paths) - _NAMED} more)" if len(paths) > _NAMED else ""
    return f"{', '.join(visible(printable(path)) for path in paths[:_NAMED])}{more}"


def read_photograph(
    path: Path, most: int = MAX_PIXELS, *, bands: bool = False, shape: tuple[int, int, int] | None = None
) -> Photograph:
    """Read a picture of any common format, or an array of samples.

    Parameters
    ----------
    path : Path
        Colour, grey, alpha, palette, 8 or 16 bits, as `decoding.decode` reads them; or .npy of shape (H, W) or
        (H, W, C).
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
        return _photograph(samples, printable(path), data, bands=bands or shape is not None)
    data, (samples, white) = decode(path, most, bands=bands)
    return _photograph(samples, printable(path), data, bands=bands, white=white)


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
        If shape or dtype is another, or a value is not finite.
    """
    if samples.dtype.kind == "f" and not np.isfinite(samples).all():
        raise DataError("array: the array holds values that are not finite: replace them")
    if shape is not None:
        samples = _channels_last(samples, shape, Path("array"))
    samples = np.ascontiguousarray(samples, samples.dtype.newbyteorder("="))
    return _photograph(samples, "array", samples.tobytes(), bands=bands or shape is not None)


def _photograph(samples: AnyArray, name: str, data: bytes, *, bands: bool, white: int = WHITEST) -> Photograph:
    kinds = ("uint8", "uint16", "int16", "float32") if bands else ("uint8", "uint16")
    wanted = range(1, _MOST_CHANNELS + 1) if bands else (1, 3)
    full = samples[:, :, None] if samples.ndim == 2 else samples
    if full.ndim != 3 or 0 in full.shape or full.dtype.name not in kinds or full.shape[2] not in wanted:
        rule = (
            f"a picture of bands has shape (height, width, channels), at most {_MOST_CHANNELS} channels of "
            f"{', '.join(kinds)}"
            if bands
            else "give uint8 RGB of shape (height, width, 3); other channels or samples need a preprocessing with "
            "color = 'BANDS'"
        )
        if not bands and full.dtype == np.float32 and name.lower().endswith(("array", ARRAYS)):
            rule += ", the model's input itself needs --preprocessed (in Python preprocess='preprocessed')"
        raise DataError(f"{name}: the image is {samples.dtype} of shape {samples.shape}: {rule}")
    if full.shape[0] * full.shape[1] > MAX_PIXELS:
        raise too_large(name)
    digest = hashlib.sha256(data).hexdigest()
    if bands:
        return Photograph(_shown(full), digest, name, full)
    if full.dtype == np.uint8:
        return Photograph(_colours(full), digest, name)
    return Photograph(_colours(_reduced(full, white)), digest, name, _colours(full), white)


def _colours(samples: AnyArray) -> AnyArray:
    return np.repeat(samples, 3, axis=2) if samples.shape[2] == 1 else samples


def _reduced(samples: AnyArray, white: int) -> Pixels:
    """Samples of 16 bits as 8, to the nearest; some rows at a time, for products need room."""
    result = np.empty(samples.shape, np.uint8)
    for top in range(0, len(samples), _ROWS):
        some = samples[top : top + _ROWS].astype(np.uint32)
        result[top : top + _ROWS] = np.minimum((some * 255 + white // 2) // white, 255)
    return result


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
        A picture file, of any format that is read.

    Returns
    -------
    ndarray of bool, shape (H, W)
        Upright, as the photograph is.

    Raises
    ------
    DataError
        As `read_photograph`.
    """
    marked: Mask = (decode(path)[1].samples != 0).any(axis=2)
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
