"""One map from several of the same evidence: of cuts that look at it at different depths, and of backgrounds.

Each map M_i has every bit of the decision, at places that it knows more or less well: shallow cuts are sharp and find
faint evidence everywhere, deep ones are coarse. What they agree on is evidence; what they do not is mostly noise. So
the mean m over the maps is weighed at every pixel with

    w = |m| / mean_i |M_i|  *  m^2 / (m^2 + 4 s^2),

where s^2 is the variance between the maps, mean over all pixels. The first factor is 1 where all signs are the same and
0 where they cancel; the second is the shrinkage of a Wiener filter, one half where the mean stands out by two standard
deviations. The positive and the negative part are then scaled back to the sums that they had in the mean: no bit is
lost, for or against, they move to where the maps agree. (Measured in docs/faithfulness.md.)
"""

from collections.abc import Iterable, Sequence

import numpy as np

from onnx_evidence.types import FloatArray

# Standard deviations between the maps that a pixel has to stand out by to keep half of its bits.
_STANDS_OUT = 2.0


def agreement(maps: Sequence[FloatArray]) -> FloatArray:
    """What the mean of maps of the same evidence is multiplied with at every pixel.

    Parameters
    ----------
    maps : sequence of ndarray of float64, shape (H, W)
        At least one, in the same unit; positive speaks for the class.

    Returns
    -------
    ndarray of float64, shape (H, W)
        At least 0; 1 everywhere where there is one map, or all are the same. The mean, multiplied with it, has the
        same sum of positive, and the same sum of negative values as before.
    """
    largest = max(np.abs(each).max() for each in maps)
    if len(maps) == 1 or largest == 0:
        return np.ones(maps[0].shape)
    # By the largest value, so that squares of bits neither vanish nor overflow; one by one, as there may be many.
    mean, size = _mean(each / largest for each in maps), _mean(np.abs(each / largest) for each in maps)
    noise = sum(float(((each / largest - mean) ** 2).mean()) for each in maps) / (len(maps) - 1)
    square = mean**2
    weight, known = np.zeros(mean.shape), square > 0
    weight[known] = np.sqrt(square[known]) / size[known] * square[known] / (square[known] + _STANDS_OUT**2 * noise)
    for part in (mean > 0, mean < 0):
        weighed = float((mean * weight)[part].sum())
        weight[part] = weight[part] * (float(mean[part].sum()) / weighed) if weighed else 1.0
    return weight


def _mean(maps: Iterable[FloatArray]) -> FloatArray:
    total, count = np.zeros(()), 0
    for each in maps:
        total, count = total + each, count + 1
    return total / count
