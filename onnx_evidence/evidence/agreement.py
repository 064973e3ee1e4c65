"""One map from several of the same evidence: of cuts that look at it at different depths, and of backgrounds.

Each map M_i has every bit of the decision, at places that it knows more or less well: shallow cuts are sharp and find
faint evidence everywhere, deep ones are coarse. What they agree on is evidence; what they do not is mostly noise. So
the mean m over the maps is weighed at every pixel with

    w = |m| / mean_i |M_i|  *  m^2 / (m^2 + 4 s^2),

where s^2 is the variance between the maps, mean over all pixels. The first factor is 1 where all signs are the same and
0 where they cancel; the second is the shrinkage of a Wiener filter, one half where the mean stands out by two standard
deviations. The positive and the negative part are then scaled back to the sums that they had in the mean: no bit is
lost, for or against, they move to where the maps agree. (Measured in docs/faithfulness.md.)

A map that says where evidence is, but not in bits (relevance), may stand beside them, for as many maps as a cut has.
It is scaled to the size of the mean and takes part in all of this; how many bits there are the others alone say.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from onnx_evidence.types import FloatArray

# Standard deviations between the maps that a pixel has to stand out by to keep half of its bits.
STANDS_OUT = 2.0
# Share of the bits below which another map is taken to contradict.
CONTRADICTED = 0.1


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
    weight[known] = np.sqrt(square[known]) / size[known] * square[known] / (square[known] + STANDS_OUT**2 * noise)
    for part in (mean > 0, mean < 0):
        weighed = float((mean * weight)[part].sum())
        weight[part] = weight[part] * (float(mean[part].sum()) / weighed) if weighed else 1.0
    return weight


def held_against(maps: Sequence[FloatArray], beside: FloatArray, count: int) -> tuple[FloatArray, FloatArray, float]:
    """The mean of maps of the same evidence and of another that is not in bits, and what it is multiplied with.

    Parameters
    ----------
    maps : sequence of ndarray of float64, shape (H, W)
        As in `agreement`.
    beside : ndarray of float64, shape (H, W)
        In any unit; positive speaks for the class.
    count : int
        Of how many maps it has the weight.

    Returns
    -------
    mean : ndarray of float64, shape (H, W)
        Over all.
    weight : ndarray of float64, shape (H, W)
        At least 0. The mean, multiplied with it, has the sums of positive and of negative values of the mean of the
        maps alone.
    share : float
        How much the maps make of the mean; 1 where the other says nothing, or the contrary: of the bits for, or
        against, less than a tenth would be left in the mean to be scaled up.
    """
    alone, largest = _mean(maps), float(np.abs(beside).max())
    if not largest:
        return alone, agreement(maps), 1.0
    shape = beside / largest
    every = [*maps, *[shape * (float(np.abs(alone).sum()) / float(np.abs(shape).sum()))] * count]
    mean, weight = _mean(every), agreement(every)
    for part, bits in ((mean > 0, alone[alone > 0]), (mean < 0, alone[alone < 0])):
        kept, wanted = float((mean * weight)[part].sum()), float(bits.sum())
        if abs(kept) < CONTRADICTED * abs(wanted):
            return alone, agreement(maps), 1.0
        weight[part] = weight[part] * (wanted / kept if kept else 1.0)
    return mean, weight, len(maps) / len(every)


def _mean(maps: Iterable[FloatArray]) -> FloatArray:
    total, count = np.zeros(()), 0
    for each in maps:
        total, count = total + each, count + 1
    return total / count
