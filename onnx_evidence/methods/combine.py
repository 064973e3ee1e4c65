"""One map from those of several cuts and backgrounds."""

from collections.abc import Sequence

import numpy as np

from onnx_evidence.evidence import agreement, held_against
from onnx_evidence.methods.engine import CutMap
from onnx_evidence.methods.settings import PLAIN_MEAN
from onnx_evidence.types import FloatArray


def combined(
    maps: Sequence[CutMap], spoken: Sequence[CutMap], how: str
) -> tuple[FloatArray, FloatArray | float, float]:
    """The mean of the maps, what it is multiplied with, and how much of it they are themselves.

    Parameters
    ----------
    maps : sequence of CutMap
        Of one question, of all cuts.
    spoken : sequence of CutMap
        Those that are not silent.
    how : str
        As ``--combine``.

    Returns
    -------
    mean : ndarray of float64, shape (H, W)
    weight : ndarray of float64, shape (H, W), or float
    share : float
        1 where there is no relevance beside them.
    """
    mean = np.mean([each.values for each in spoken], axis=0)
    if how == PLAIN_MEAN:
        return mean, 1.0, 1.0
    estimates = [one for each in spoken if each.estimates is not None for one in each.estimates]
    beside = next((each.beside for each in maps if each.beside is not None), None)
    if beside is None:
        return mean, agreement(estimates), 1.0
    return held_against(estimates, beside, len(estimates) // len(spoken))  # one more cut, as it were
