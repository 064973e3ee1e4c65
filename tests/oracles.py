"""Slow twins of the fast code, written from the papers' formulas, and toy tails with known answers."""

from collections.abc import Callable
from decimal import Decimal, getcontext
from functools import cache

import numpy as np

from onnx_evidence.evidence.background import RIDGE, Background
from onnx_evidence.evidence.rng import generator

getcontext().prec = 400


def exact_log_odds(logits: np.ndarray, c: int) -> float:
    """ln(p / (1 - p)) with 400 digits, straight from the definition of softmax."""
    powers = [Decimal(float(z)).exp() for z in logits]
    p = powers[c] / sum(powers)
    return float((p / (1 - p)).ln())


def gap_linear(weights: np.ndarray, bias: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Global average pooling and a linear layer: ``z = W mean_u h_u + b``."""
    return lambda h: h.astype(np.float64).mean(axis=(2, 3)) @ weights.T + bias


class ReluTail:
    """1x1 convolution, ReLU, global average pooling, linear layer; with its gradient."""

    def __init__(self, rng: np.random.Generator, channels: int, hidden: int, classes: int) -> None:
        self.a = rng.normal(size=(hidden, channels))
        self.b = rng.normal(size=hidden) * 0.3
        self.w = rng.normal(size=(classes, hidden)) * 2
        self.w[-1] = 0  # the last class has logit 0 always: a contrast with it is the other's logit

    def __call__(self, h: np.ndarray) -> np.ndarray:
        y = np.einsum("hc,ncij->nhij", self.a, h.astype(np.float64)) + self.b[None, :, None, None]
        return np.maximum(y, 0).mean(axis=(2, 3)) @ self.w.T

    def gradient(self, h: np.ndarray, cotangent: np.ndarray) -> np.ndarray:
        """Gradient of ``cotangent . z`` at one feature map (C, A, B)."""
        y = np.einsum("hc,cij->hij", self.a, h) + self.b[:, None, None]
        back = (y > 0) * (cotangent @ self.w)[:, None, None] / h[0].size
        return np.einsum("hc,hij->cij", self.a, back)


def log_odds_cotangent(logits: np.ndarray, c: int) -> np.ndarray:
    """Gradient of the log-odds of class c by the logits: 1 for c, -q_j for the others (METHOD 4.1)."""
    others = np.delete(np.exp(logits - logits.max()), c)
    return np.insert(-others / others.sum(), c, 1.0)


def conditional_by_precision(
    covariance: np.ndarray, inside: np.ndarray, deviation: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Conditional mean shift and covariance of ``inside`` given the rest, from the precision matrix.

    Another formula than the package's: with Lambda the inverse covariance, the covariance is ``Lambda11^-1`` and
    the shift ``-Lambda11^-1 Lambda12 deviation``.
    """
    window, context = np.flatnonzero(inside), np.flatnonzero(~inside)
    precision = np.linalg.inv(covariance)
    inner = np.linalg.inv(precision[np.ix_(window, window)])
    return -inner @ precision[np.ix_(window, context)] @ deviation, inner


def pixel_pda(
    image: np.ndarray,
    predict: Callable[[np.ndarray], np.ndarray],
    background: Background,
    c: int,
    *,
    k: int,
    samples: int,
    key: tuple[int, ...],
    gain_channel: Callable[[int], int] = lambda channel: channel,
) -> np.ndarray:
    """Zintgraf 2017, algorithm 1, as plain loops: every window, every sample, every pixel.

    ``gain_channel`` exists to plant the published code's mistake of one channel's gains for all. The noise is
    the package's, keyed by place, so that numbers can be compared; nothing else is.
    """
    channels, height, width = image.shape
    l = background.patch  # noqa: E741 - the paper's name
    total, count = np.zeros((height, width)), np.zeros((height, width))
    p_full = _softmax(predict(image[None])[0])[c]
    for row in range(height - k + 1):
        for col in range(width - k + 1):
            top = min(max(row - (l - k) // 2, 0), height - l)
            left = min(max(col - (l - k) // 2, 0), width - l)
            noise = generator(*key, row, col).standard_normal((samples // 2, channels, k * k))
            probabilities = []
            for sample in range(samples):
                edited = image.copy()
                for channel in range(channels):
                    edited[channel, row : row + k, col : col + k] = _draw(
                        image[channel], background, gain_channel(channel), channel, (row, col), (top, left), k,
                        noise[sample // 2, channel] * (1 if sample % 2 == 0 else -1),
                    )  # fmt: skip
                probabilities.append(_softmax(predict(edited[None])[0])[c])
            p = float(np.mean(probabilities))
            evidence = np.log2(p_full / (1 - p_full)) - np.log2(p / (1 - p))
            for i in range(row, row + k):
                for j in range(col, col + k):
                    total[i, j] += evidence
                    count[i, j] += 1
    return total / count


def _draw(
    plane: np.ndarray,
    background: Background,
    source: int,
    channel: int,
    site: tuple[int, int],
    corner: tuple[int, int],
    k: int,
    noise: np.ndarray,
) -> np.ndarray:
    l = background.patch  # noqa: E741
    inside, x, mu = [], [], []
    for i in range(corner[0], corner[0] + l):
        for j in range(corner[1], corner[1] + l):
            inside.append(site[0] <= i < site[0] + k and site[1] <= j < site[1] + k)
            x.append(plane[i, j])
            mu.append(background.mean[channel, i, j])
    mask, deviation = np.array(inside), np.array(x) - np.array(mu)
    gain, values, vectors = _solve(background.covariance[source].tobytes(), mask.tobytes())
    drawn = np.array(mu)[mask] + gain @ deviation[~mask] + vectors @ (np.sqrt(np.maximum(values, 0)) * noise)
    return np.clip(drawn, background.low[channel], background.high[channel]).reshape(k, k)


@cache
def _solve(covariance: bytes, inside: bytes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    mask = np.frombuffer(inside, bool)
    sigma = np.frombuffer(covariance).reshape(len(mask), len(mask))
    s12, s22 = sigma[np.ix_(mask, ~mask)], sigma[np.ix_(~mask, ~mask)]
    s22 = s22 + RIDGE * np.trace(s22) / len(s22) * np.eye(len(s22))
    gain = s12 @ np.linalg.inv(s22)
    residual = sigma[np.ix_(mask, mask)] - gain @ s12.T
    return gain, *np.linalg.eigh((residual + residual.T) / 2)


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


def ar_covariance(side: int, rho: float) -> np.ndarray:
    """Covariance of a ``side x side`` patch of a separable first-order autoregressive field."""
    place = np.arange(side)
    line = rho ** np.abs(place[:, None] - place[None, :])
    return np.kron(line, line)


def ar_fields(rng: np.random.Generator, count: int, side: int, rho: float) -> np.ndarray:
    """Draws of that field, (count, side, side), by its recursion along rows and columns."""
    field = rng.standard_normal((count, side, side))
    scale = np.sqrt(1 - rho**2)
    for i in range(1, side):
        field[:, i] = rho * field[:, i - 1] + scale * field[:, i]
    for j in range(1, side):
        field[:, :, j] = rho * field[:, :, j - 1] + scale * field[:, :, j]
    return field


def ar_picture(seed: int, height: int, width: int) -> np.ndarray:
    """A picture (height, width, 3) of autoregressive fields, uint8: smooth enough that models see something."""
    field = ar_fields(np.random.default_rng(seed), 3, max(height, width), 0.9).transpose(1, 2, 0)[:height, :width]
    return np.clip(128 + 60 * field, 0, 255).astype(np.uint8)
