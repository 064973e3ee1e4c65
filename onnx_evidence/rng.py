"""Randomness keyed by place: the same numbers whatever the batch size, order or thread count."""

import hashlib

import numpy as np


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
