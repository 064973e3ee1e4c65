"""OpenCV's part: decoding, resizing, grey, blurring and inpainting.

The only module that knows OpenCV, and so the only one where sizes are (width, height).
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from onnx_evidence.errors import DataError, one_line
from onnx_evidence.picture_size import claims_more, size_of
from onnx_evidence.preprocessing.geometry import MAX_PIXELS
from onnx_evidence.types import AnyArray, Features, Mask, Pixels

# OpenCV reads its own limit once, when it is loaded, and checks it before it allocates.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(MAX_PIXELS))

import cv2

OPENCV_VERSION = str(cv2.__version__)
# Channels that are resized at once with every interpolation.
_AT_ONCE = 4

_INTERPOLATION = {
    "bilinear": cv2.INTER_LINEAR,
    "bicubic": cv2.INTER_CUBIC,
    "area": cv2.INTER_AREA,
    "nearest": cv2.INTER_NEAREST,
    "lanczos": cv2.INTER_LANCZOS4,
}


def decode(path: Path, most: int = MAX_PIXELS) -> tuple[bytes, AnyArray]:
    """Decode a picture as RGB, upright, in its own depth; alpha is dropped.

    Parameters
    ----------
    path : Path
        The file.
    most : int
        Pixels of the largest picture that is taken.

    Returns
    -------
    data : bytes
        Of the file.
    pixels : ndarray, shape (H, W, 3)
        uint8, uint16 or what else the file has.

    Raises
    ------
    DataError
        If the file is missing, empty, truncated, no picture, or larger than ``most``, which is known before it is
        decoded, or `MAX_PIXELS`.
    """
    data = _bytes(path, most)
    with _decoding(path):
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_ANYDEPTH)
    return data, _checked(path, pixels, most)


def decode_bands(path: Path, most: int = MAX_PIXELS) -> tuple[bytes, AnyArray]:
    """Decode all channels of a picture, in the file's order; several pages are channels.

    Parameters
    ----------
    path : Path
        The file.
    most : int
        As in `decode`.

    Returns
    -------
    data : bytes
        Of the file.
    samples : ndarray, shape (H, W, C)
        In the file's depth; EXIF orientation is not applied.

    Raises
    ------
    DataError
        As `decode`; or if pages differ.
    """
    data = _bytes(path, most)
    with _decoding(path):
        whole, pages = cv2.imdecodemulti(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if not whole or not pages:
        return data, _checked(path, None, most)
    first = _checked(path, pages[0], most)
    if len(pages) > 1:
        if any(page.ndim != 2 or page.shape != first.shape or page.dtype != first.dtype for page in pages):
            raise DataError(f"{path}: its {len(pages)} pages differ in size, or have colours: save bands as .npy")
        return data, np.stack(pages, axis=2)
    if first.ndim == 2:
        return data, first[:, :, None]
    # OpenCV turns red and blue round.
    return data, np.ascontiguousarray(first[:, :, [2, 1, 0, *range(3, first.shape[2])]])


def _bytes(path: Path, most: int) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot read the picture: {error.strerror or error}") from error
    if not data:
        raise DataError(f"{path}: the file is empty, not a picture")
    refuse_large(path, size_of(data), most)
    if claims_more(data):
        raise DataError(f"{path}: cannot decode the picture: the file is truncated, damaged or no picture")
    return data


@contextmanager
def _decoding(path: Path) -> Iterator[None]:
    """Turn OpenCV's errors into ours, and keep its chatter off stderr."""
    try:
        with _silence():
            yield
    except cv2.error as error:
        if "CV_IO_MAX_IMAGE" in str(error):
            raise too_large(path) from error
        raise DataError(f"{path}: cannot decode the picture: {one_line(error)}") from error


def _checked(path: Path, pixels: AnyArray | None, most: int) -> AnyArray:
    if pixels is None:
        raise DataError(f"{path}: cannot decode the picture: the file is truncated, damaged or no picture")
    if pixels.shape[0] * pixels.shape[1] > MAX_PIXELS:  # OpenCV was loaded with another limit, before this module
        raise too_large(path)
    refuse_large(path, pixels.shape, most)  # formats whose headers are not read here
    return pixels


def refuse_large(path: Path, size: tuple[int, ...] | None, most: int) -> None:
    """Refuse a picture of more pixels than are wanted.

    Parameters
    ----------
    path : Path
        Names it.
    size : tuple of int or None
        Height and width first; None where they are not known yet.
    most : int
        Pixels of the largest picture that is taken.

    Raises
    ------
    DataError
        If it has more.
    """
    if size is not None and size[0] * size[1] > most:
        if most == MAX_PIXELS:
            raise too_large(path)
        raise DataError(
            f"{path}: the picture has {size[1]} x {size[0]} pixels: at most {most} are read; give --max-pixels"
        )


def too_large(path: str | Path) -> DataError:
    """What to raise for a picture of more than `MAX_PIXELS`.

    Parameters
    ----------
    path : str or Path
        Names it.

    Returns
    -------
    DataError
    """
    limit = f"at most {MAX_PIXELS / 1e6:.0f} million pixels are read"
    return DataError(f"{path}: the picture is absurdly large: {limit}")


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


def resize(samples: AnyArray, size: tuple[int, int], name: str) -> AnyArray:
    """Resize a picture as OpenCV does, without antialiasing but in 'area'.

    Parameters
    ----------
    samples : ndarray of uint8, uint16, int16 or float32, shape (H, W, C)
        A picture.
    size : (int, int)
        Height and width wanted.
    name : {'bilinear', 'bicubic', 'area', 'nearest', 'lanczos'}
        The interpolation.

    Returns
    -------
    ndarray of the same dtype, shape (height, width, C)
    """
    samples = np.ascontiguousarray(samples)
    flag, channels = _INTERPOLATION[name], samples.shape[2]
    if channels <= _AT_ONCE:
        return cv2.resize(samples, size[::-1], interpolation=flag).reshape(*size, channels)
    each = [cv2.resize(samples[:, :, band].copy(), size[::-1], interpolation=flag) for band in range(channels)]
    return np.stack(each, axis=2)


def grey(levels: AnyArray) -> AnyArray:
    """Luma of ITU-R 601 as OpenCV computes it.

    Parameters
    ----------
    levels : ndarray of uint8 or uint16, shape (H, W, 3)
        RGB.

    Returns
    -------
    ndarray of the same dtype, shape (H, W, 1)
    """
    return cv2.cvtColor(levels, cv2.COLOR_RGB2GRAY)[:, :, None]


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
