"""Where a path starts: the features of one picture with everything removed.

One baseline or several per picture; over several the evidence is averaged (expected evidence), with a standard
error.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from onnx_evidence.errors import DataError
from onnx_evidence.evidence import Background, ConditionalSampler, Windows, generator
from onnx_evidence.files import several
from onnx_evidence.methods.engine import View
from onnx_evidence.pictures import blur
from onnx_evidence.types import Features, Head

# Features with everything removed, shape (M, C, A, B), for M baselines of one picture.
Baselines = Callable[[View], Features]

# Of the blurred picture, as a share of the input's shorter side: 11 pixels of 224.
BLURRED = 11 / 224


def own_means(view: View) -> Features:
    """The picture's own channel means in every cell.

    Parameters
    ----------
    view : View
        The picture.

    Returns
    -------
    ndarray of float32, shape (1, C, A, B)
    """
    means = view.features.mean(axis=(1, 2), dtype=np.float64, keepdims=True)
    return np.broadcast_to(means, view.features.shape)[None].astype(view.features.dtype)


def zeros(view: View) -> Features:
    """Zero everywhere, (1, C, A, B)."""
    return np.zeros_like(view.features)[None]


def blurred_picture(view: View) -> Features:
    """The model's input, blurred until only colours are left: (channels, H, W)."""
    return blur(view.inputs, BLURRED * min(view.inputs.shape[1:]))


def blurred(head: Head) -> Baselines:
    """The features of the blurred picture."""
    return lambda view: head(blurred_picture(view)[None])


def both(first: Baselines, second: Baselines) -> Baselines:
    """One after the other; the mean over all of them is what is wanted."""
    return lambda view: np.concatenate([first(view), second(view)])


def fitted(background: Background, statistic: str, window: int) -> Baselines:
    """What a fitted background expects.

    The mean of every cell ('position'); of every channel ('channel'); or of every window of so many cells a side, given
    the cells around it in this picture ('conditional'), where overlapping windows are averaged.
    """
    mean = background.mean
    if statistic == "channel":
        mean = np.broadcast_to(mean.mean(axis=(1, 2), keepdims=True), mean.shape)
    if statistic != "conditional":
        return lambda view: mean[None].astype(view.features.dtype)
    sampler = ConditionalSampler(background)

    def conditional(view: View) -> Features:
        features = view.features
        windows = Windows.place(features.shape[1:], min(window, background.patch))
        total, count = np.zeros(features.shape), np.zeros(features.shape[1:])
        for row, col in windows.sites():
            inside = np.s_[..., row : row + windows.size[0], col : col + windows.size[1]]
            total[inside] += sampler.draw(features, (row, col), windows.size, 1, (0,))[0]
            count[inside] += 1
        return (total / count)[None].astype(features.dtype)

    return conditional


def pictures(
    head: Head, prepare: Callable[[Path], Features], paths: Sequence[Path], count: int, seed: int
) -> Baselines:
    """The features of ``count`` other pictures, drawn once; DataError where there are fewer, or one cannot be read."""
    if len(paths) < count:
        raise DataError(
            f"{several(len(paths), 'picture')} in the background folder: {count} are to be drawn: give more, or "
            f"--samples {len(paths)}"
        )
    drawn = generator(seed).choice(len(paths), size=count, replace=False)
    features = head(np.stack([prepare(paths[index]) for index in sorted(drawn)]))
    return lambda view: features
