"""Inputs of whole numbers: what they leave of what a preprocessing makes."""

import numpy as np

from onnx_evidence.errors import DataError
from onnx_evidence.preprocessing.contract import Preprocess
from onnx_evidence.preprocessing.synthetic import known_range, standardised
from onnx_evidence.types import Features

# Levels of grey that must stay apart. Normalised to 0..1 two do, to -1..1 three, and to ImageNet's deviations at most
# five; pictures of four bits, as some deployed models take, have 16.
_FEWEST = 8


def check_levels(preprocess: Preprocess | None, levels: tuple[int, int] | None, source: str) -> None:
    """Refuse a preprocessing of which an input of whole numbers would keep next to nothing.

    Parameters
    ----------
    preprocess : Preprocess or None
        What is done to pictures; of samples that are taken as a file has them nothing is known.
    levels : (int, int) or None
        Smallest and largest value of the input; None where it takes floats.
    source : str
        What to call the input in the message.

    Raises
    ------
    DataError
        If in some channel fewer than 8 levels of grey would stay apart: every photograph would be nearly the same.
    """
    known = known_range(preprocess)
    if preprocess is None or known is None or levels is None:
        return
    samples = np.arange(preprocess.white + 1, dtype=np.float32)[:, None, None].repeat(preprocess.channels, axis=2)
    made = standardised(samples, preprocess)[:, :, 0]
    kept = min(len(np.unique(channel)) for channel in np.clip(np.rint(made), *levels))
    if kept >= _FEWEST:
        return
    low, high = levels
    mean = 0 if low == 0 else (high + 1 - low) // 2
    remedy = "--preprocess none, or a file" if low == 0 else "--preprocess with a file"
    raise DataError(
        f"{source} takes whole numbers {low}..{high}, and of what the preprocessing makes, {made.min():.3g}.."
        f"{made.max():.3g}, {kept} levels of grey would stay apart (at least {_FEWEST} must): the model seems to "
        f"normalise inside; pass {remedy} with scale 1, mean {mean} and std 1"
    )


def check_whole(name: str, inputs: Features, taken: Features, levels: tuple[int, int]) -> None:
    """Refuse an array that is given as the input itself, and of which the input would take other numbers.

    Parameters
    ----------
    name : str
        Of the file, for the message.
    inputs : ndarray of float32, shape (channels, H, W)
        As given.
    taken : ndarray of float32, shape (channels, H, W)
        Rounded and clipped to what the input can have.
    levels : (int, int)
        Smallest and largest value of the input.

    Raises
    ------
    DataError
        With the first value that is another.
    """
    other = inputs[inputs != taken]
    if other.size:
        raise DataError(
            f"{name}: the model's input takes whole numbers {levels[0]}..{levels[1]}, and the array holds others, such "
            f"as {other[0]:g}: save what the model takes"
        )
