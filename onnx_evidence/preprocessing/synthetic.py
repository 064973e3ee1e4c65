"""Pictures of noise with the values that a model's input really has, for what runs a model without a photograph.

A model is only defined where pictures lie: logarithms and roots of what no picture gives are not numbers, and a
network for grey levels 0..255 sees nothing in noise of 0..1. So noise is made as samples of a picture, and goes
through the model's own preprocessing. What samples go from and to is known for colour and grey; samples that are taken
as the file has them (bands, inputs that are preprocessed already) say it themselves, in the picture at hand.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnx_evidence.evidence import generator, natural_noise
from onnx_evidence.preprocessing.contract import Preprocess
from onnx_evidence.types import AnyArray, Features, FloatArray

# Inputs of which nothing is known: normalised, 0..1, grey levels.
_GUESSES = ((-1.0, 1.0), (0.0, 1.0), (0.0, 255.0))
# Steps, in a power of 2 below its width, that a picture's range is rounded to.
_STEPS = 8
# Share of a range that is left out at either end, where its ends give no numbers.
MARGIN = 1 / 32
# Standard deviations to either side of its mean that a band is taken to reach.
_REACH = 2.0


def standardised(samples: AnyArray, preprocess: Preprocess) -> Features:
    """The input of samples, (H, W, channels) in its order: ``(sample * scale - mean) / std``, channels first."""
    mean, std = (np.array(values, np.float32) for values in (preprocess.mean, preprocess.std))
    scaled = (samples * np.float32(preprocess.scale) - mean) / std
    return np.ascontiguousarray(scaled.transpose(2, 0, 1), dtype=np.float32)


@dataclass(frozen=True)
class InputRange:
    """What the values of a model's input go from and to.

    Attributes
    ----------
    low, high : ndarray of float64, shape (channels,)
        Smallest and largest value: of samples where a preprocessing follows, else of the input itself.
    whole : bool
        Whether only whole numbers occur.
    preprocess : Preprocess or None
        What makes the input of samples.
    """

    low: FloatArray
    high: FloatArray
    whole: bool = False
    preprocess: Preprocess | None = None

    @classmethod
    def of(cls, inputs: Features) -> "InputRange":
        """What one picture spans, channel by channel, rounded inwards so that most pictures of a kind span the same.

        Parameters
        ----------
        inputs : ndarray of float32, shape (channels, H, W)
            A preprocessed picture.

        Returns
        -------
        InputRange
            Between the picture's smallest and largest values.
        """
        low, high = (find(inputs, axis=(1, 2)).astype(np.float64) for find in (np.min, np.max))
        width = np.maximum(high - low, np.finfo(np.float32).tiny)
        step = 2.0 ** np.floor(np.log2(width)) / _STEPS
        # Neighbours among float32's numbers have nothing between them. The 0 makes +0 of -0.
        first, last = (
            (end * step).astype(np.float32).astype(np.float64) + 0
            for end in (np.ceil(low / step), np.floor(high / step))
        )
        return cls(np.clip(first, low, high), np.clip(last, low, high))

    def to_plain(self) -> dict[str, Any]:
        """All of it in plain values."""
        made = None if self.preprocess is None else self.preprocess.model_dump(mode="json")
        return {"low": self.low.tolist(), "high": self.high.tolist(), "whole": self.whole, "preprocess": made}

    def noise(self, size: tuple[int, int], number: int, *, contrast: float = 1.0, margin: float = 0.0) -> Features:
        """Noise with the spectrum of photographs inside the range; the same for the same arguments.

        Parameters
        ----------
        size : (int, int)
            Height and width of the input.
        number : int
            Which of many such pictures.
        contrast : float
            Of 1, standard deviations of a quarter of the range; much larger, colours of nothing and all.
        margin : float
            Share of the range that is left out at either end.

        Returns
        -------
        ndarray of float32, shape (channels, H, W)
        """
        share = 0.5 + 0.5 * contrast * natural_noise((len(self.low), *size), generator(0, number)).astype(np.float64)
        return self.picture(np.clip(share, 0, 1) * (1 - 2 * margin) + margin)

    def picture(self, share: FloatArray) -> Features:
        """The input that a picture makes whose samples lie at some shares of the range.

        Parameters
        ----------
        share : ndarray of float64, shape (channels, H, W)
            0 to 1, of colours in the order RGB.

        Returns
        -------
        ndarray of float32, shape (channels, H, W)
        """
        if self.preprocess is not None and self.preprocess.color == "BGR":
            share = share[::-1]  # a picture is the same picture, whatever the order of its channels
        low, high = self.low[:, None, None], self.high[:, None, None]
        values = np.clip(low + (high - low) * share, low, high)
        samples: Features = (np.rint(values) if self.whole else values).astype(np.float32)
        return samples if self.preprocess is None else standardised(samples.transpose(1, 2, 0), self.preprocess)


def trials(ranges: Sequence[InputRange], size: tuple[int, int], count: int) -> Iterator[Features]:
    """Batches of noise to try one after the other, until the model gives numbers that can be used.

    Parameters
    ----------
    ranges : sequence of InputRange
        The likeliest first.
    size : (int, int)
        Height and width of the input.
    count : int
        Pictures in a batch.

    Yields
    ------
    ndarray of float32, shape (count, channels, H, W)
        Every range to its ends; then without them, for models that have no logarithm of 0.
    """
    for margin in (0.0, MARGIN):
        for each in ranges:
            yield np.stack([each.noise(size, number, margin=margin) for number in range(count)])


def known_range(preprocess: Preprocess | None) -> InputRange | None:
    """The range of the input, where the preprocessing settles it; None where every picture has its own."""
    if preprocess is None or preprocess.color in ("BANDS", "INPUT"):
        return None
    zero, white = np.zeros(preprocess.channels), np.full(preprocess.channels, float(preprocess.white))
    return InputRange(zero, white, whole=True, preprocess=preprocess)


def range_of(preprocess: Preprocess | None, inputs: Features | None) -> InputRange | None:
    """The range of the input: the preprocessing's where it settles that, else the picture's own.

    Parameters
    ----------
    preprocess : Preprocess or None
        What is done to pictures.
    inputs : ndarray of float32, shape (channels, H, W), or None
        A preprocessed picture.

    Returns
    -------
    InputRange or None
        None where there is no picture to tell.
    """
    known = known_range(preprocess)
    return known if known is not None or inputs is None else InputRange.of(inputs)


def likely_ranges(
    channels: int, preprocess: Preprocess | None, levels: tuple[int, int] | None = None
) -> tuple[InputRange, ...]:
    """Ranges that the input may have, the likeliest first; only one where it is known.

    Parameters
    ----------
    channels : int
        Of the input.
    preprocess : Preprocess or None
        What is done to pictures; None where it is not known.
    levels : (int, int), optional
        Smallest and largest value of an input of whole numbers.

    Returns
    -------
    tuple of InputRange
        At least one.
    """
    if levels is not None:
        return (_even(channels, *levels, whole=True),)
    if (known := known_range(preprocess)) is not None:
        return (known,)
    guesses = tuple(_even(channels, *guess) for guess in _GUESSES)
    return guesses if preprocess is None or preprocess.color == "INPUT" else (_of_bands(preprocess), *guesses)


def _even(channels: int, low: float, high: float, *, whole: bool = False) -> InputRange:
    return InputRange(np.full(channels, float(low)), np.full(channels, float(high)), whole)


def _of_bands(preprocess: Preprocess) -> InputRange:
    """What the statistics of bands say; no band with a mean above 0 is taken to fall below 0."""
    mean, std = (np.array(values, np.float64) / preprocess.scale for values in (preprocess.mean, preprocess.std))
    low = np.where(mean > 0, np.maximum(mean - _REACH * std, 0), mean - _REACH * std)
    return InputRange(low, mean + _REACH * std, preprocess=preprocess)
