"""Photographs: decode, resize and crop to the model's input.

The only module that knows OpenCV, and so the only one where sizes are (width, height).
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onnx_evidence.errors import DataError, one_line
from onnx_evidence.picture_size import claims_more, size_of
from onnx_evidence.placement import Placement
from onnx_evidence.preprocess import Preprocess
from onnx_evidence.types import AnyArray, Features, Mask, Pixels

# The largest picture that is decoded, in pixels: above what cameras make, below what fills a server.
MAX_PIXELS = 250_000_000
# OpenCV reads its own limit once, when it is loaded, and checks it before it allocates.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(MAX_PIXELS))

import cv2  # noqa: E402

OPENCV_VERSION = str(cv2.__version__)

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".jp2"})

_INTERPOLATION = {
    "bilinear": cv2.INTER_LINEAR,
    "bicubic": cv2.INTER_CUBIC,
    "area": cv2.INTER_AREA,
    "nearest": cv2.INTER_NEAREST,
    "lanczos": cv2.INTER_LANCZOS4,
}


@dataclass(frozen=True)
class Photograph:
    """A decoded picture.

    Attributes
    ----------
    pixels : ndarray of uint8, shape (H, W, 3)
        RGB, upright (EXIF orientation applied), alpha dropped.
    sha256 : str
        Of the file's bytes, or of the pixels where there was no file.
    name : str
        Where it came from, as the user named it.
    """

    pixels: Pixels
    sha256: str
    name: str


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


def read_photograph(path: Path, most: int = MAX_PIXELS) -> Photograph:
    """Decode a picture of any common format: colour, grey, alpha, palette, 8 or 16 bits.

    Parameters
    ----------
    path : Path
        The file.
    most : int
        Pixels of the largest picture that is taken.

    Returns
    -------
    Photograph

    Raises
    ------
    DataError
        If the file is missing, empty, truncated, no picture, or larger than ``most``, which is known before it is
        decoded, or `MAX_PIXELS`.
    """
    data, pixels = _decode(path, cv2.IMREAD_COLOR_RGB, most)
    return Photograph(pixels.astype(np.uint8), hashlib.sha256(data).hexdigest(), printable(path))


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
    # With their own depth: of 16 bits, the lower ones would be dropped.
    marked: Mask = (_decode(path, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_ANYDEPTH)[1] != 0).any(axis=2)
    return marked


def _decode(path: Path, flags: int, most: int = MAX_PIXELS) -> tuple[bytes, AnyArray]:
    """The bytes of a file, and the pixels (H, W, 3) that they hold."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot read the picture: {error.strerror or error}") from error
    if not data:
        raise DataError(f"{path}: the file is empty, not a picture")
    _refuse_large(path, size_of(data), most)
    if claims_more(data):
        raise DataError(f"{path}: cannot decode the picture: the file is truncated, damaged or no picture")
    try:
        with _silence():
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        if "CV_IO_MAX_IMAGE" in str(error):
            raise _too_large(path) from error
        raise DataError(f"{path}: cannot decode the picture: {one_line(error)}") from error
    if pixels is None:
        raise DataError(f"{path}: cannot decode the picture: the file is truncated, damaged or no picture")
    if pixels.shape[0] * pixels.shape[1] > MAX_PIXELS:  # OpenCV was loaded with another limit, before this module
        raise _too_large(path)
    _refuse_large(path, pixels.shape, most)  # formats whose headers are not read here
    return data, pixels


def _refuse_large(path: Path, size: tuple[int, ...] | None, most: int) -> None:
    if size is not None and size[0] * size[1] > most:
        if most == MAX_PIXELS:
            raise _too_large(path)
        raise DataError(
            f"{path}: the picture has {size[1]} x {size[0]} pixels: at most {most} are read; give --max-pixels"
        )


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


def _too_large(path: Path) -> DataError:
    limit = f"at most {MAX_PIXELS / 1e6:.0f} million pixels are read"
    return DataError(f"{path}: the picture is absurdly large: {limit}")


def as_photograph(pixels: Pixels) -> Photograph:
    """Take pixels from memory.

    Parameters
    ----------
    pixels : ndarray of uint8, shape (H, W, 3) or (H, W)
        RGB or grey.

    Returns
    -------
    Photograph
        Named 'array'.

    Raises
    ------
    DataError
        If shape or dtype is another.
    """
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[:, :, None], 3, axis=2)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise DataError(
            f"the image is {pixels.dtype} of shape {pixels.shape}: give uint8 RGB of shape (height, width, 3)"
        )
    return Photograph(pixels, hashlib.sha256(pixels.tobytes()).hexdigest(), "array")


@contextmanager
def _silence() -> Iterator[None]:
    """Keep the decoders' own chatter off stderr: C libraries write there past Python; we raise instead."""
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)


def place(original: tuple[int, int], preprocess: Preprocess) -> Placement:
    """Where the model's input will lie in a photograph of height and width ``original``.

    Parameters
    ----------
    original : (int, int)
        Height and width of the photograph in pixels.
    preprocess : Preprocess
        How it is resized and cropped.

    Returns
    -------
    Placement

    Raises
    ------
    DataError
        If resizing would make the picture absurdly large (a very long and narrow one).
    """
    if preprocess.resize == "stretch":
        return Placement(original, preprocess.size, preprocess.size, (0, 0))
    scale = preprocess.short_side / min(original)
    resized = (max(round(original[0] * scale), 1), max(round(original[1] * scale), 1))
    if resized[0] * resized[1] > MAX_PIXELS:
        raise DataError(
            f"a picture of {original[1]} x {original[0]} pixels becomes {resized[1]} x {resized[0]} when resized: "
            "too long and narrow to explain"
        )
    corner = (round((resized[0] - preprocess.size[0]) / 2), round((resized[1] - preprocess.size[1]) / 2))
    return Placement(original, preprocess.size, resized, corner)


def to_input(photograph: Photograph, preprocess: Preprocess) -> tuple[Features, Placement]:
    """Make the model's input.

    Parameters
    ----------
    photograph : Photograph
        The picture.
    preprocess : Preprocess
        What to do with it.

    Returns
    -------
    input : ndarray of float32, shape (channels, height, width)
    placement : Placement

    Raises
    ------
    DataError
        If resizing would make the picture absurdly large.
    """
    height, width = photograph.pixels.shape[:2]
    placement = place((height, width), preprocess)
    pixels = photograph.pixels
    if preprocess.color == "BGR":
        pixels = pixels[:, :, ::-1]
    elif preprocess.color == "GRAY":
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(np.uint8)
    resized = cv2.resize(
        np.ascontiguousarray(pixels), placement.resized[::-1], interpolation=_INTERPOLATION[preprocess.interpolation]
    )
    (top, left), (rows, cols) = placement.corner, placement.size
    crop = np.atleast_3d(resized[top : top + rows, left : left + cols]).astype(np.float32)
    mean, std = (np.array(values, np.float32) for values in (preprocess.mean, preprocess.std))
    scaled = (crop * np.float32(preprocess.scale) - mean) / std
    return np.ascontiguousarray(scaled.transpose(2, 0, 1), dtype=np.float32), placement


def blur(values: Features, sigma: float) -> Features:
    """Gaussian blur over rows and columns of an array (C, H, W).

    Parameters
    ----------
    values : ndarray of float32, shape (C, H, W)
        A picture.
    sigma : float
        Standard deviation in pixels.

    Returns
    -------
    ndarray of float32, shape (C, H, W)
    """
    return np.stack([cv2.GaussianBlur(channel, (0, 0), sigma) for channel in values]).astype(np.float32)


def inpaint(pixels: Pixels, removed: Mask, radius: float = 3.0) -> Pixels:
    """Fill removed pixels from those around them (Telea 2004, "An image inpainting technique based on fast marching").

    Parameters
    ----------
    pixels : ndarray of uint8, shape (H, W, 3)
        A picture.
    removed : ndarray of bool, shape (H, W)
        What is missing; not everything.
    radius : float
        How far away pixels are looked at, in pixels.

    Returns
    -------
    ndarray of uint8, shape (H, W, 3)
    """
    painted = cv2.inpaint(pixels, removed.astype(np.uint8), radius, cv2.INPAINT_TELEA)
    return painted.astype(np.uint8)
