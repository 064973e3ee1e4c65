"""Resampling as Pillow does it, exactly: the trainers' libraries resize with it, and it differs visibly from OpenCV.

An output pixel is a weighted mean of the input pixels under a filter that is as wide as the filter's support times the
factor by which the picture shrinks (so it is antialiased), cut off and renormalised at the borders. Pictures of 8 bits
are resampled along rows, then along columns, and rounded to 8 bits after each; weights are whole multiples of 2^-22.
Equal to Pillow 11 in every bit, by test; floats but for their last. Pillow 13 (2026) takes the columns first where the
height shrinks much more than the width: other pixels in stretched portraits (by 1 level with 'bilinear', up to 12 with
'bicubic', whose first pass may be clipped), none in pictures that keep their aspect. Deployed models were trained
before.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from onnx_evidence.types import AnyArray, Features, FloatArray, IntArray, Pixels

# Weights are whole multiples of 1 / ONE.
ONE = 1 << 22
# Rows that are made at once, so that their sums stay in the processor's cache.
_BLOCK = 64
# Rows that are turned at once.
_TURNED = 512
# Pillow has them in single precision.
_HAMMING = float(np.float32(0.54)), float(np.float32(0.46))


def _box(x: FloatArray) -> FloatArray:
    return ((x > -0.5) & (x <= 0.5)).astype(np.float64)


def _bilinear(x: FloatArray) -> FloatArray:
    hat: FloatArray = np.maximum(1 - np.abs(x), 0)
    return hat


def _hamming(x: FloatArray) -> FloatArray:
    angle = np.pi * np.where(x == 0, 1, x)
    inside = np.sin(angle) / angle * (_HAMMING[0] + _HAMMING[1] * np.cos(angle))
    return np.where(np.abs(x) >= 1, 0, np.where(x == 0, 1, inside))


def _bicubic(x: FloatArray) -> FloatArray:
    """Keys' cubic with a = -0.5 (Keys 1981, "Cubic convolution interpolation")."""
    a, x = -0.5, np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def _lanczos(x: FloatArray) -> FloatArray:
    safe = np.pi * np.where(x == 0, 1, x)
    inside = np.sin(safe) / safe * np.sin(safe / 3) / (safe / 3)
    return np.where((x < -3) | (x >= 3), 0, np.where(x == 0, 1, inside))


# The filter, and half its width in pixels of the larger picture.
_FILTERS: dict[str, tuple[Callable[[FloatArray], FloatArray], float]] = {
    "box": (_box, 0.5),
    "bilinear": (_bilinear, 1.0),
    "hamming": (_hamming, 1.0),
    "bicubic": (_bicubic, 2.0),
    "lanczos": (_lanczos, 3.0),
}
NAMES = frozenset({*_FILTERS, "nearest"})


@dataclass(frozen=True)
class Taps:
    """What each pixel of one axis is made of."""

    first: IntArray  # (n,): the first input pixel of each
    weights: FloatArray  # (n, k): of that pixel and those behind it; 0 where there are fewer


def make_taps(before: int, after: int, name: str) -> Taps:
    """What ``after`` pixels are made of, of ``before``, by the name of a filter; the weights of each add up to 1."""
    function, width = _FILTERS[name]
    scale = before / after
    stretch = max(scale, 1.0)
    support = width * stretch
    centre = (np.arange(after) + 0.5) * scale
    first = np.maximum((centre - support + 0.5).astype(np.int64), 0)
    last = np.minimum((centre + support + 0.5).astype(np.int64), before)
    place = first[:, None] + np.arange(int((last - first).max()))
    weights = function((place - centre[:, None] + 0.5) * (1 / stretch))
    weights[place >= last[:, None]] = 0
    return Taps(first, weights / weights.sum(axis=1, keepdims=True))


def resize(samples: AnyArray, size: tuple[int, int], name: str) -> AnyArray:
    """Resize (H, W, C) to height and width, by one of `NAMES`; 'nearest' keeps every type.

    uint8 becomes what Pillow makes of it in modes 'L' and 'RGB', rounded after each of the two passes; uint16 and
    float32 become float32, as in its mode 'F'.
    """
    if name == "nearest":
        rows, cols = (_nearest(before, after) for before, after in zip(samples.shape[:2], size, strict=True))
        return samples[np.ix_(rows, cols)]
    if samples.dtype != np.uint8:
        samples = samples.astype(np.float32)
    if samples.shape[1] != size[1]:
        samples = _along_columns(samples, make_taps(samples.shape[1], size[1], name))
    if samples.shape[0] != size[0]:
        samples = _along_rows(samples, make_taps(samples.shape[0], size[0], name))
    return samples


def _nearest(before: int, after: int) -> IntArray:
    """The input pixel under the centre of each output pixel; places are added up step by step, as Pillow does."""
    step = before / after
    places = np.add.accumulate(np.concatenate([[step * 0.5], np.full(after - 1, step)]))
    return np.minimum(places.astype(np.int64), before - 1)


def _along_columns(samples: AnyArray, taps: Taps) -> AnyArray:
    """Mix pixels of each row, (H, W, C) to (H, n, C): some rows at a time are turned, so that no whole picture is."""
    height, _, channels = samples.shape
    mixed = np.empty((height, len(taps.first), channels), samples.dtype)
    for start in range(0, height, _TURNED):
        part = slice(start, start + _TURNED)
        turned = np.ascontiguousarray(samples[part].swapaxes(0, 1))
        mixed[part] = _along_rows(turned, taps).swapaxes(0, 1)
    return mixed


def _along_rows(samples: AnyArray, taps: Taps) -> AnyArray:
    """Mix pixels of each column, (H, W, C) to (n, W, C), tap by tap: each row is made of a few others."""
    height, width, channels = samples.shape
    flat = samples.reshape(height, width * channels)
    weights = _fixed(taps.weights) if samples.dtype == np.uint8 else taps.weights
    mixed = np.empty((len(weights), width * channels), samples.dtype)
    for start in range(0, len(weights), _BLOCK):
        part = slice(start, start + _BLOCK)
        sums = np.zeros(mixed[part].shape)
        for number, weight in enumerate(weights[part].T):
            # Beyond the last row there is weight 0.
            sums += weight[:, None] * flat[np.minimum(taps.first[part] + number, height - 1)]
        mixed[part] = _rounded(sums, samples.dtype)
    return mixed.reshape(-1, width, channels)


def _fixed(weights: FloatArray) -> FloatArray:
    """Weights in units of 1 / ONE, halves away from 0."""
    units: FloatArray = np.trunc(weights * ONE + np.copysign(0.5, weights))
    return units


def _rounded(sums: FloatArray, dtype: np.dtype[np.generic]) -> Pixels | Features:
    """Sums to samples; whole numbers below 2^53 are exact in float64, in whatever order they were added."""
    if dtype != np.uint8:
        return sums.astype(np.float32)
    sums += ONE >> 1
    sums /= ONE
    return np.clip(np.floor(sums, out=sums), 0, 255, out=sums).astype(np.uint8)


def grey(pixels: Pixels) -> Pixels:
    """Luma of ITU-R 601 in units of 2^-16, as Pillow's ``convert('L')``: RGB, (H, W, 3), to (H, W, 1)."""
    red, green, blue = (pixels[:, :, channel].astype(np.uint32) for channel in range(3))
    luma = (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16
    return luma.astype(np.uint8)[:, :, None]
