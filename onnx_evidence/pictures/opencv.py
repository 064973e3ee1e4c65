"""OpenCV's part: decoding 16 bits, resizing, grey, blurring and inpainting.

The only module that knows OpenCV, and so the only one where sizes are (width, height).
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock

import numpy as np

from onnx_evidence.errors import one_line
from onnx_evidence.pictures.limits import MAX_PIXELS
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


def decode(data: bytes) -> AnyArray:
    """Decode a picture of 16 bits as it lies in the file, (H, W, C), alpha too: red first; grey with alpha has four."""
    try:
        # `IMREAD_UNCHANGED` alone: with its flags for colour and depth, version 5.0 leaves some pictures unwritten.
        found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:  # truncated, damaged, or larger than `MAX_PIXELS`
        raise ValueError(one_line(error)) from error
    if found is None:
        raise ValueError("it cannot be decoded")
    samples: AnyArray = found
    if samples.ndim == 2:
        return samples[:, :, None]
    red = samples[:, :, 2].copy()  # OpenCV has blue first; they change places without a second picture
    samples[:, :, 2] = samples[:, :, 0]
    samples[:, :, 0] = red
    return samples


# One thread at a time: what one finds in the place of stderr is what it puts back.
_ALONE = RLock()


@contextmanager
def silence() -> Iterator[None]:
    """Keep the decoders' own chatter off stderr: C libraries write there past Python; we raise instead.

    What other threads write there meanwhile is lost with it. A descriptor is the process's, libtiff and libjpeg write
    to that one, and neither OpenCV nor Pillow lets their handlers be set: it can only be short.
    """
    with _ALONE:
        saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(null, 2)
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            os.close(null)


def resize(samples: AnyArray, size: tuple[int, int], name: str) -> AnyArray:
    """Resize (H, W, C) of uint8, uint16, int16 or float32 to height and width, without antialiasing but in 'area'."""
    samples = np.ascontiguousarray(samples)
    flag, channels = _INTERPOLATION[name], samples.shape[2]
    if channels <= _AT_ONCE:
        return cv2.resize(samples, size[::-1], interpolation=flag).reshape(*size, channels)
    each = [cv2.resize(samples[:, :, band].copy(), size[::-1], interpolation=flag) for band in range(channels)]
    return np.stack(each, axis=2)


def grey(levels: AnyArray) -> AnyArray:
    """Luma of ITU-R 601 as OpenCV computes it, of RGB (H, W, 3), uint8 or uint16, to (H, W, 1) of the same type."""
    return cv2.cvtColor(levels, cv2.COLOR_RGB2GRAY)[:, :, None]


def blur(values: Features, sigma: float) -> Features:
    """Gaussian blur over rows and columns of an array (C, H, W).

    Parameters
    ----------
    values : ndarray of float32, shape (C, H, W)
        In any unit; channels are blurred each by itself.
    sigma : float
        Standard deviation in pixels.

    Returns
    -------
    ndarray of float32, shape (C, H, W)
        Computed in float64: rounded once, it is the same on every machine, and in an exported model.
    """
    taps = 2 * blur_reach(sigma) + 1
    soft = [cv2.GaussianBlur(channel.astype(np.float64), (taps, taps), sigma) for channel in values]
    return np.stack(soft).astype(np.float32)


def blur_reach(sigma: float) -> int:
    """How far away pixels are that `blur` counts: four standard deviations, as OpenCV has it of float32.

    Parameters
    ----------
    sigma : float
        Standard deviation in pixels.

    Returns
    -------
    int
    """
    return (round(8 * sigma + 1) | 1) // 2


def inpaint(pixels: Pixels, removed: Mask, radius: float = 3.0) -> Pixels:
    """Fill removed pixels from those around them (Telea 2004, "An image inpainting technique based on fast marching").

    Parameters
    ----------
    pixels : ndarray of uint8, shape (H, W, 3)
        RGB.
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
