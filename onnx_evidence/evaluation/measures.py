"""What is measured of a map by itself, or against the place of the object: noise, focus, localisation.

A new one is a function and a row of `MEASURES`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from onnx_evidence.errors import DataError
from onnx_evidence.types import FloatArray, Mask

# The sum that a share is of may be nothing: there is no share then.
UNDEFINED = float("nan")


def total_variation(values: FloatArray) -> float:
    """Noise: the total variation of a map, (H, W), as a share of its size; lower is smoother, NaN for one of zeros.

    ``TV(E) / sum |E|``, with TV the sum of absolute differences of neighbours along rows and columns (the anisotropic
    form of Rudin, Osher & Fatemi 1992, eq. 2.2).
    """
    variation = sum(float(np.abs(np.diff(values, axis=axis)).sum()) for axis in (0, 1))
    size = float(np.abs(values).sum())
    return variation / size if size else UNDEFINED


def focus(values: FloatArray) -> float:
    """The smallest share of the area of a map, (H, W), that holds half of the positive evidence.

    1 / (H W) to 1/2, lower is more focused; NaN where nothing is positive.
    """
    positive = np.sort(values[values > 0])[::-1]
    if not positive.size:
        return UNDEFINED
    held = np.cumsum(positive)
    return float((np.searchsorted(held, held[-1] / 2) + 1) / values.size)


def energy_inside(values: FloatArray, mask: Mask) -> float:
    """The share of the positive evidence that lies on the object (Wang et al. 2020, Score-CAM, section 4.3).

    0..1, higher is better; a constant map gets the object's share of the area, one with nothing positive NaN.
    """
    _refuse_empty(mask)
    positive = np.maximum(values, 0.0)
    total = float(positive.sum())
    return float(positive[mask].sum()) / total if total else UNDEFINED


def pointing(values: FloatArray, mask: Mask, tolerance: float) -> float:
    """The pointing game: whether the largest value lies on the object, or near it (Zhang et al. 2018, section 4.1).

    1 for a hit, at most ``tolerance`` pixels beside the object, 0 for a miss; of several largest values, the share that
    hit.
    """
    _refuse_empty(mask)
    return float(dilate(mask, tolerance)[values == values.max()].mean())


def dilate(mask: Mask, radius: float) -> Mask:
    """The pixels (H, W) whose centres are at most ``radius`` pixels from one of the mask's."""
    height, width = mask.shape
    found = mask.copy()
    # A disc is a stack of rows: each is a run of pixels, found by a running count of the mask's.
    before = np.concatenate([np.zeros((height, 1), np.int64), mask.cumsum(axis=1)], axis=1)
    for down in range(min(int(radius), height - 1) + 1):
        half = int(np.sqrt(radius**2 - down**2))
        right = np.minimum(np.arange(width) + half + 1, width)
        left = np.maximum(np.arange(width) - half, 0)
        near = before[:, right] > before[:, left]
        found[down:] |= near[: height - down]
        found[: height - down] |= near[down:]
    return found


def _refuse_empty(mask: Mask) -> None:
    if not mask.any():
        raise DataError("the mask is empty: nothing can be hit or held; give a mask with the object in it")


@dataclass(frozen=True)
class Measure:
    """A row of the table of measures.

    Attributes
    ----------
    head : str
        Over its column in the table that is printed.
    summary : str
        What it is, in words, for summary.json.
    number : callable
        Of a map; where it is of the object too, of a map, the object's mask, and a tolerance in pixels.
    of_object : bool
        Whether it needs a mask.
    """

    head: str
    summary: str
    number: Callable[..., float]
    of_object: bool = False


MEASURES = {
    "pointing": Measure(
        "pointing",
        "share of pictures whose largest value lies on the object, within the tolerance",
        pointing,
        of_object=True,
    ),
    "energy": Measure(
        "energy",
        "share of the positive evidence that lies on the object",
        lambda values, mask, tolerance: energy_inside(values, mask),
        of_object=True,
    ),
    "variation": Measure("noise", "noise: total variation by sum of magnitudes; lower is smoother", total_variation),
    "focus": Measure("focus", "smallest share of the area that holds half of the positive evidence", focus),
}


def measure(values: FloatArray, mask: Mask | None, tolerance: float) -> dict[str, float]:
    """Everything that is measured of one map (H, W) of any unit, by names of `MEASURES`; of the map by itself first.

    What needs the object's mask (H, W) is left out without one; ``tolerance`` is that of `pointing`, in pixels.
    """
    found = {name: row.number(values) for name, row in MEASURES.items() if not row.of_object}
    if mask is not None:
        found |= {name: row.number(values, mask, tolerance) for name, row in MEASURES.items() if row.of_object}
    return found
