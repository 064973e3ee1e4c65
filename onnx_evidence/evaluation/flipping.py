"""Pixel flipping: what the model says of a class while blocks of pixels are removed in the order of a map.

Most relevant first (MIF) and least relevant first (LIF), after Samek et al. 2017 ("Evaluating the visualization of what
a deep neural network has learned"). Restoring the most relevant blocks first, as RISE's insertion does (Petsiuk et al.
2018, section 4.2), shows the model the same pictures as LIF in reverse order: each is run once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np

from onnx_evidence.evidence import EXCLUSIVE, LN2, ClassKind
from onnx_evidence.types import Features, FloatArray, IntArray, Mask, Predict

# Pictures (D, C, H, W) in which some pixels (H, W) are removed: one, or several draws.
Fill = Callable[[Mask], Features]
SCALES = ("probability", "bits")


class Curve(NamedTuple):
    """What the model says of the class while pixels are removed."""

    probability: FloatArray  # (P,): 0..1
    bits: FloatArray  # (P,): log2 odds


@dataclass(frozen=True)
class Flips:
    """Both curves of one map; they start at the picture and end where everything is removed."""

    removed: FloatArray  # (P,): share of the blocks removed, from 0 to 1
    most: Curve  # while the most relevant blocks are removed first (MIF)
    least: Curve  # while the least relevant ones are (LIF)

    def areas(self) -> dict[str, float]:
        """Areas under the curves, as means over their points: deletion, insertion and gain on each of `SCALES`."""
        found: dict[str, float] = {}
        for scale in SCALES:
            # The area under MIF (lower is better), and that while the most relevant blocks are restored, which is LIF
            # read backwards (higher is better; Petsiuk et al. 2018).
            deletion, insertion = (float(getattr(each, scale).mean()) for each in (self.most, self.least))
            found |= {
                f"deletion.{scale}": deletion,
                f"insertion.{scale}": insertion,
                # The symmetric relevance gain, area(LIF) - area(MIF): both curves have the same points. Higher is
                # better, 0 expected of a random order (Bluecher et al. 2024, "Decoupling pixel flipping and occlusion
                # strategy for consistent XAI benchmarks", TMLR).
                f"srg.{scale}": insertion - deletion,
            }
        return found


class Ranking(NamedTuple):
    """The blocks of a map in order."""

    ranks: IntArray  # (H, W): place of each pixel's block, from 0 for the most relevant
    blocks: int  # how many there are


def rank_blocks(values: FloatArray, grid: int, rng: np.random.Generator) -> Ranking:
    """Rank the blocks of a regular grid, so many on each side, by the sum in each of a map, (H, W), of relevance."""
    height, width = (min(grid, side) for side in values.shape)
    row, col = (np.arange(side) * blocks // side for side, blocks in zip(values.shape, (height, width), strict=True))
    block = row[:, None] * width + col[None, :]
    total = np.bincount(block.ravel(), values.ravel(), minlength=height * width)
    ranks = np.empty(total.size, dtype=np.int64)
    # Chance breaks ties: a map with no preference must not be judged by the order of rows.
    ranks[np.lexsort((rng.random(total.size), -total))] = np.arange(total.size)
    return Ranking(ranks[block], total.size)


def flip(
    predict: Predict,
    fill: Fill,  # of several draws, probability and log-odds are averaged
    ranking: Ranking,
    target: int,
    *,
    steps: int = 32,  # points of each curve, without the first; no more than there are blocks
    batch_size: int = 32,  # rows per run of the model; changes no number
    class_kind: ClassKind = EXCLUSIVE,
) -> Flips:
    """Remove blocks in both orders and ask the model each time, of ``2 * steps`` pictures, times draws."""
    ranks, blocks = ranking
    counts = np.linspace(0, blocks, min(steps, blocks) + 1).round().astype(np.int64)
    masks = [ranks < count for count in counts] + [ranks >= blocks - count for count in counts[1:-1]]
    curve = _ask(predict, fill, masks, target, batch_size, class_kind)
    points = len(counts)
    most, least = (np.r_[0:points], np.r_[0, points : len(masks), points - 1])
    return Flips(counts / blocks, *(Curve(*(each[order] for each in curve)) for order in (most, least)))


def _ask(
    predict: Predict, fill: Fill, masks: Sequence[Mask], target: int, batch_size: int, class_kind: ClassKind
) -> Curve:
    """Probability and log-odds of the class with each of ``masks`` removed."""
    rows = (row for mask in masks for row in fill(mask))
    log_p: list[FloatArray] = []
    log_odds: list[FloatArray] = []
    while batch := list(islice(rows, batch_size)):
        found = class_kind.log_probabilities(predict(np.stack(batch)), [target])
        log_p.append(found.log_p[:, 0])
        log_odds.append(found.log_odds[:, 0])
    p, bits = np.exp(np.concatenate(log_p)), np.concatenate(log_odds) / LN2
    return Curve(*(each.reshape(len(masks), -1).mean(axis=1) for each in (p, bits)))
