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

import numpy as np

from onnx_evidence.types import FloatArray

# Standard deviations between the maps that a pixel has to stand out by to keep half of its bits.
_STANDS_OUT = 2.0


def agreement(maps: FloatArray) -> FloatArray:
    """What the mean of maps of the same evidence is multiplied with at every pixel.

    Parameters
    ----------
    maps : ndarray of float64, shape (M, H, W)
        In the same unit; positive speaks for the class.

    Returns
    -------
    ndarray of float64, shape (H, W)
        At least 0; 1 everywhere where there is one map, or all are the same. The mean, multiplied with it, has the
        same sum of positive, and the same sum of negative values as before.
    """
    mean = maps.mean(axis=0)
    if len(maps) == 1 or not mean.any():
        return np.ones(mean.shape)
    unit = maps / np.abs(maps).max()  # squares of bits must neither vanish nor overflow
    square, size = unit.mean(axis=0) ** 2, np.abs(unit).mean(axis=0)
    noise = unit.var(axis=0, ddof=1).mean()
    weight = np.zeros(mean.shape)
    known = square > 0
    weight[known] = np.sqrt(square[known]) / size[known] * square[known] / (square[known] + _STANDS_OUT**2 * noise)
    for part in (mean > 0, mean < 0):
        weighed = float((mean * weight)[part].sum())
        weight[part] = weight[part] * (float(mean[part].sum()) / weighed) if weighed else 1.0
    return weight
