"""The contract carried out: samples, resized, cropped or padded, scaled."""

import logging
import os
from pathlib import Path

import numpy as np

from onnx_evidence.errors import DataError
from onnx_evidence.pictures import MAX_PIXELS, WHITEST, Photograph, Placement, as_photograph, opencv, read_photograph
from onnx_evidence.preprocessing import pil
from onnx_evidence.preprocessing.contract import WHITE, Preprocess
from onnx_evidence.preprocessing.geometry import place
from onnx_evidence.preprocessing.synthetic import standardised
from onnx_evidence.types import AnyArray, Features, Pixels

log = logging.getLogger(__name__)

# White of cameras and scanners that put 12 bits into 16.
_TWELVE_BITS = 4095


def read_picture(
    image: str | Path | AnyArray | Photograph, preprocess: Preprocess, most: int = MAX_PIXELS
) -> Photograph:
    """Read an image the way that a preprocessing takes it.

    Parameters
    ----------
    image : str or Path or ndarray or Photograph
        A file, samples in memory, or what is read already.
    preprocess : Preprocess
        Its ``color`` says what channels are.
    most : int
        Pixels of the largest picture that is taken from a file.

    Returns
    -------
    Photograph

    Raises
    ------
    DataError
        As `read_photograph` and `as_photograph`.
    """
    if isinstance(image, Photograph):
        return image
    bands = preprocess.color == "BANDS"
    shape = (preprocess.channels, *preprocess.size) if preprocess.color == "INPUT" else None
    if isinstance(image, np.ndarray):
        return as_photograph(image, bands=bands, shape=shape)
    if not isinstance(image, str | os.PathLike):
        raise DataError(
            f"an image of type {type(image).__name__}: give the path of a file, or uint8 RGB of shape (height, width, "
            "3), such as numpy.asarray(image.convert('RGB')) of a picture of Pillow's"
        )
    return read_photograph(Path(image), most, bands=bands, shape=shape)


def to_input(photograph: Photograph, preprocess: Preprocess) -> tuple[Features, Placement]:
    """Make the model's input.

    Parameters
    ----------
    photograph : Photograph
        From `read_picture`, with the same preprocessing.
    preprocess : Preprocess

    Returns
    -------
    input : ndarray of float32, shape (channels, height, width)
        Channels in the order of ``preprocess.color``.
    placement : Placement
        Where the input lies in the photograph.

    Raises
    ------
    DataError
        If the picture has other channels than the preprocessing takes, resizing would make it absurdly large, or it
        has another size and nothing is resized.
    """
    samples = channels_of(photograph, preprocess)
    height, width = samples.shape[:2]
    placement = place((height, width), preprocess)
    how = pil.resize if preprocess.library == "pil" else opencv.resize
    window = cut_out(how(samples, placement.resized, preprocess.interpolation), placement, preprocess.pad or (0.0,))
    return standardised(window, preprocess), placement


def channels_of(photograph: Photograph, preprocess: Preprocess) -> AnyArray:
    """The samples that are resized, (H, W, channels): in the input's order of channels, 0..``white``.

    uint8, uint16 or float32; raises `DataError` where the picture has other channels or samples.
    """
    if preprocess.color in ("BANDS", "INPUT"):
        return _bands(photograph, preprocess)
    levels = _levels(photograph, preprocess.white)
    if preprocess.color == "BGR":
        return np.ascontiguousarray(levels[:, :, ::-1])
    if preprocess.color == "GRAY":
        return pil.grey(levels) if preprocess.library == "pil" and levels.dtype == np.uint8 else opencv.grey(levels)
    return levels


def _bands(photograph: Photograph, preprocess: Preprocess) -> AnyArray:
    samples = photograph.raw
    if samples.shape[2] != preprocess.channels:
        raise DataError(
            f"{photograph.name}: {samples.shape[2]} channels where the preprocessing takes {preprocess.channels}: give "
            "a picture with as many, or mean and std with as many values"
        )
    if preprocess.color == "INPUT" and samples.dtype != np.float32:
        raise DataError(
            f"{photograph.name}: {samples.dtype} samples: an input that is preprocessed already is a .npy file of "
            "float32"
        )
    return samples


def _levels(photograph: Photograph, white: int) -> AnyArray:
    """Samples (H, W, 3), 0..``white``."""
    samples = photograph.raw
    if samples.dtype not in (np.uint8, np.uint16) or samples.shape[2] != 3:
        raise DataError(
            f"{photograph.name}: {samples.dtype} samples of {samples.shape[2]} channels: for those the preprocessing "
            "needs color = 'BANDS'"
        )
    if samples.dtype == np.uint16:
        if white == WHITE and photograph.white == WHITEST and samples.max() <= _TWELVE_BITS:
            log.warning(
                "%s: its samples of 16 bits go to %d only, so that it comes out dark: if its white is %d, give "
                "white = %d, and scale, mean and std for that",
                *(photograph.name, samples.max(), _TWELVE_BITS, _TWELVE_BITS),
            )
        if white == WHITE:
            return photograph.pixels
        if photograph.white in (white, WHITEST):
            return samples
        return np.rint(samples * (white / photograph.white)).astype(np.uint16)
    if white == WHITE:
        return samples
    return np.rint(samples * (white / WHITE)).astype(np.uint16)


def how_taken(photograph: Photograph, preprocess: Preprocess) -> str:
    """What was done with the picture's samples before they were resized, for the manifest.

    Parameters
    ----------
    photograph : Photograph
        From `read_picture`.
    preprocess : Preprocess
        Its ``color`` and ``white``.

    Returns
    -------
    str
        Such as 'uint16, 3 channels, reduced to 8 bits: value * 255 / 65535, to the nearest'.
    """
    raw = photograph.raw
    kind = f"{raw.dtype}, {raw.shape[2]} channels"
    white = photograph.white if raw.dtype == np.uint16 else WHITE
    same = preprocess.white == white or (white == WHITEST and preprocess.white != WHITE)
    if preprocess.color in ("BANDS", "INPUT") or same:
        return f"{kind}, as they are"
    reduced = "reduced to 8 bits: " if raw.dtype == np.uint16 and preprocess.white == WHITE else ""
    return f"{kind}, {reduced}value * {preprocess.white} / {white}, to the nearest"


def cut_out(samples: AnyArray, placement: Placement, pad: tuple[float, ...]) -> Features:
    """The part of a resized picture (H, W, C) that the model sees, with ``pad``, of all or each channel, around it."""
    window = np.empty((*placement.size, samples.shape[2]), np.float32)
    window[:] = np.array(pad, np.float32)
    rows, cols = placement.inside()
    top, left = placement.corner
    window[rows, cols] = samples[rows.start + top : rows.stop + top, cols.start + left : cols.stop + left]
    return window


def as_seen(pixels: Pixels, preprocess: Preprocess) -> AnyArray:
    """A picture of which the model sees exactly ``pixels``: nothing is resized, and the rest is cropped.

    RGB of ``preprocess.target``'s size, with a black frame where it crops; what it pads is cut off, and padded again.
    """
    canvas = np.zeros((*(preprocess.size if preprocess.resize in ("crop", "none") else preprocess.target), 3), np.uint8)
    placement = place(canvas.shape[:2], preprocess)
    rows, cols = placement.inside()
    top, left = placement.corner
    canvas[rows.start + top : rows.stop + top, cols.start + left : cols.stop + left] = pixels[rows, cols]
    return canvas
