"""The core: from logits to weight of evidence in bits, in log space throughout.

Pure functions of numpy arrays. Nothing here knows of models, windows or pictures.

Notation of the comments: z logits, p_c the probability of class c, ``odds = p / (1 - p)``, S samples.
All logarithms are natural until the last step, which divides by ln 2.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from onnx_evidence.types import FloatArray

LN2 = float(np.log(2.0))


class LogProbability(NamedTuple):
    """log p and log(1 - p), each exact where the other one rounds to zero.

    Attributes
    ----------
    log_p, log_q : ndarray of float64
        Of one shape, nats, at most 0: of the class, and of all others together.
    """

    log_p: FloatArray
    log_q: FloatArray

    @property
    def log_odds(self) -> FloatArray:
        """Log p - log(1 - p), in nats."""
        odds: FloatArray = self.log_p - self.log_q
        return odds


def log_sum_exp(values: FloatArray, axis: int) -> FloatArray:
    """Logarithm of the sum of exponentials along ``axis``, without overflow.

    Parameters
    ----------
    values : ndarray of float64
        Nats.
    axis : int
        The axis summed over.

    Returns
    -------
    ndarray of float64
        Nats; the shape of ``values`` without ``axis``.
    """
    top = values.max(axis=axis, keepdims=True)
    total: FloatArray = np.log(np.exp(values - top).sum(axis=axis)) + top.squeeze(axis)
    return total


def log_mean_exp(values: FloatArray, axis: int) -> FloatArray:
    """Logarithm of the mean of exponentials along ``axis``.

    Parameters
    ----------
    values : ndarray of float64
        Nats.
    axis : int
        The axis averaged over.

    Returns
    -------
    ndarray of float64
        Nats; the shape of ``values`` without ``axis``.
    """
    return log_sum_exp(values, axis) - float(np.log(values.shape[axis]))


def log_probabilities(logits: FloatArray, classes: Sequence[int]) -> LogProbability:
    """Log-probabilities of some classes and of their complements, from logits.

    ``log(1 - p_c)`` is the log-sum-exp of the *other* logits less that of all, never ``log(1 - p)``
    by subtraction, so a probability of 1.0 in float32 keeps finite odds.

    Parameters
    ----------
    logits : ndarray of float64, shape (N, K)
        K >= 2.
    classes : sequence of int
        The classes wanted, T of them.

    Returns
    -------
    LogProbability
        Both arrays (N, T), float64, nats.
    """
    log_total = log_sum_exp(logits, axis=1)
    log_p = logits[:, list(classes)] - log_total[:, None]
    rest = [log_sum_exp(np.delete(logits, c, axis=1), axis=1) for c in classes]
    return LogProbability(log_p, np.stack(rest, axis=1) - log_total[:, None])


def mean_over_samples(probability: LogProbability, axis: int) -> LogProbability:
    """Average p (and 1 - p) over samples in log space (Zintgraf 2017, eq. 1).

    ``log mean p = LSE_s(log p_s) - log S`` and the same for 1 - p, so that neither is a difference.

    Parameters
    ----------
    probability : LogProbability
        Of every sample.
    axis : int
        The axis of the samples.

    Returns
    -------
    LogProbability
        Without that axis, nats.
    """
    return LogProbability(log_mean_exp(probability.log_p, axis), log_mean_exp(probability.log_q, axis))


def laplace(probability: LogProbability, observations: int, classes: int) -> LogProbability:
    """Laplace-corrected probabilities ``p <- (p N + 1) / (N + K)`` (Zintgraf 2017, section 3.1).

    Applied after averaging, to both terms of the weight of evidence. Caps evidence: about 6.6 bits
    for N = 100,000 and K = 1000. For comparison with published figures; the default is exact.

    Parameters
    ----------
    probability : LogProbability
        Any shape.
    observations : int
        N, the number of training images.
    classes : int
        K, the number of classes.

    Returns
    -------
    LogProbability
        Of the same shape, nats.
    """
    n, k = np.log(observations), np.log(observations + classes)
    log_p = np.logaddexp(probability.log_p + n, 0.0) - k
    log_q = np.logaddexp(probability.log_q + n, np.log(classes - 1)) - k
    return LogProbability(log_p, log_q)


def weight_of_evidence(full: LogProbability, removed: LogProbability) -> FloatArray:
    """Weight of evidence in bits: log2 odds(c|x) - log2 odds(c|x without w) (Zintgraf 2017, eq. 3).

    Parameters
    ----------
    full : LogProbability
        With everything present, broadcastable against ``removed``.
    removed : LogProbability
        With the window removed, averaged over samples.

    Returns
    -------
    ndarray of float64
        Bits. Positive: the window speaks for the class; negative: against it.
    """
    bits: FloatArray = (full.log_odds - removed.log_odds) / LN2
    return bits


def contrast_evidence(
    full: LogProbability, removed: LogProbability, full_rival: LogProbability, removed_rival: LogProbability
) -> FloatArray:
    """Evidence for class c rather than class d, in bits.

    ``[(log p_c - log p_d) with everything] - [(log E p_c - log E p_d) without the window]``, over ln 2.
    The ratio of two probabilities needs no normalisation: it is the difference of two logits.

    Parameters
    ----------
    full : LogProbability
        Of c with everything present, broadcastable against ``removed``.
    removed : LogProbability
        Of c with the window removed, averaged over samples.
    full_rival : LogProbability
        Of d with everything present.
    removed_rival : LogProbability
        Of d with the window removed, averaged over samples.

    Returns
    -------
    ndarray of float64
        Bits. Positive: the window speaks for c rather than d. Antisymmetric in (c, d).
    """
    with_window = full.log_p - full_rival.log_p
    without = removed.log_p - removed_rival.log_p
    bits: FloatArray = (with_window - without) / LN2
    return bits


def _pair_spread(relative: FloatArray) -> FloatArray:
    """Standard error of the mean of antithetic samples (2j, 2j + 1) along axis 1; NaN below two pairs."""
    count = relative.shape[1] // 2
    if count < 2:
        return np.full((relative.shape[0], *relative.shape[2:]), np.nan)
    pairs = relative.reshape(relative.shape[0], count, 2, *relative.shape[2:]).mean(axis=2)
    error: FloatArray = pairs.std(axis=1, ddof=1) / np.sqrt(count)
    return error


def evidence_error(samples: LogProbability, mean: LogProbability) -> FloatArray:
    """Standard error of the weight of evidence, in bits, from antithetic pairs (delta method).

    With y the mean of p over a pair, ``SE = sd(y) / sqrt(pairs) / (pbar (1 - pbar) ln 2)``. Where p is
    near 1 the same spread is taken from 1 - p, which still has digits there.

    Parameters
    ----------
    samples : LogProbability
        Shape (W, S, T); samples 2j and 2j + 1 are an antithetic pair.
    mean : LogProbability
        Their mean over S, shape (W, T).

    Returns
    -------
    ndarray of float64, shape (W, T)
        Bits; NaN where fewer than two pairs were drawn.
    """
    return _pair_spread(_odds_influence(samples, mean)) / LN2


def _odds_influence(samples: LogProbability, mean: LogProbability) -> FloatArray:
    """What each sample does to the log-odds of the mean, up to a constant: ``p_s / (pbar (1 - pbar))``, in nats.

    Of shape (W, S, T). Where p is near 1 it is written with 1 - p, which still has digits there.
    """
    from_p = np.exp(samples.log_p - mean.log_p[:, None]) / np.exp(mean.log_q)[:, None]
    from_q = -np.exp(samples.log_q - mean.log_q[:, None]) / np.exp(mean.log_p)[:, None]
    influence: FloatArray = np.where((mean.log_p < mean.log_q)[:, None], from_p, from_q)
    return influence


def contrast_error(
    samples: LogProbability, mean: LogProbability, rival: LogProbability, mean_rival: LogProbability
) -> FloatArray:
    """Standard error of `contrast_evidence`, in bits; shapes and pairs as in `evidence_error`.

    Parameters
    ----------
    samples : LogProbability
        Of c, for every sample.
    mean : LogProbability
        Their mean over S.
    rival : LogProbability
        Of d, for the same samples.
    mean_rival : LogProbability
        Their mean over S.

    Returns
    -------
    ndarray of float64, shape of ``mean``
        Bits; NaN where fewer than two pairs were drawn.
    """
    relative = np.exp(samples.log_p - mean.log_p[:, None])
    relative_rival = np.exp(rival.log_p - mean_rival.log_p[:, None])
    return _pair_spread(relative - relative_rival) / LN2


def odds_contrast_error(
    samples: LogProbability, mean: LogProbability, rival: LogProbability, mean_rival: LogProbability
) -> FloatArray:
    """Standard error of the difference of two weights of evidence, in bits, from the same draws (delta method).

    Parameters
    ----------
    samples, mean, rival, mean_rival : LogProbability
        As in `contrast_error`.

    Returns
    -------
    ndarray of float64, shape of ``mean``
        Bits; NaN where fewer than two pairs were drawn.
    """
    return _pair_spread(_odds_influence(samples, mean) - _odds_influence(rival, mean_rival)) / LN2
