"""Randomness keyed by place: the same numbers whatever the batch size, order or thread count; pictures of noise."""

import hashlib

import numpy as np

from onnx_evidence.types import Features


def key_of(data: bytes) -> int:
    """A 64-bit key of ``data`` (the first eight bytes of its SHA-256), for use in `generator`.

    Parameters
    ----------
    data : bytes
        Whatever the key is to stand for.

    Returns
    -------
    int
        0..2**64 - 1.
    """
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "big")


def generator(seed: int, *place: int) -> np.random.Generator:
    """The generator that belongs to one place.

    Parameters
    ----------
    seed : int
        The user's seed, at least 0.
    *place : int
        Non-negative integers: the image's key, the cut's key, the row and the column of a window.

    Returns
    -------
    numpy.random.Generator
        A fresh generator; equal arguments give equal streams, others independent ones.
    """
    return np.random.default_rng([seed, *place])


def natural_noise(shape: tuple[int, int, int], rng: np.random.Generator) -> Features:
    """A picture of noise with amplitude falling as 1 / frequency, mean 0, standard deviation 0.5 (C, H, W).

    Parameters
    ----------
    shape : (int, int, int)
        Channels, height, width.
    rng : numpy.random.Generator
        Where the noise comes from.

    Returns
    -------
    ndarray of float32, shape (C, H, W)
    """
    rows, cols = np.fft.fftfreq(shape[1])[:, None], np.fft.rfftfreq(shape[2])[None, :]
    frequency = np.maximum(np.hypot(rows, cols), 1 / max(shape[1:]))
    spectrum = np.fft.rfft2(rng.standard_normal(shape)) / frequency
    picture = np.fft.irfft2(spectrum, s=shape[1:])
    picture -= picture.mean()
    scaled: Features = (picture * (0.5 / picture.std())).astype(np.float32)
    return scaled
