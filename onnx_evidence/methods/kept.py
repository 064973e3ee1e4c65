"""Tokens that are no cells (a class token, registers): nothing removes them, and nothing is attributed to them.

At a cut they are the last channels of the features, the same in every cell. Whatever stands in for removed features
leaves these channels as they are in the picture, and gradients by them are 0: that is all that methods need.
"""

from dataclasses import replace

import numpy as np

from onnx_evidence.evidence import Key, Sampler
from onnx_evidence.methods.baselines import Baselines
from onnx_evidence.methods.engine import View
from onnx_evidence.types import Features


def keeping(start: Baselines, kept: int) -> Baselines:
    """The same, but for the last ``kept`` channels, tokens which are no cells: they stay as in the picture."""
    if not kept:
        return start

    def found(view: View) -> Features:
        cells, tokens = view.features[:-kept], view.features[-kept:]
        removed = start(replace(view, features=cells))
        return np.concatenate([removed, np.broadcast_to(tokens, (len(removed), *tokens.shape))], axis=1)

    return found


class KeepingSampler:
    """Another sampler, but for the last ``kept`` channels, tokens which are no cells: they stay as in the picture."""

    def __init__(self, sampler: Sampler, kept: int) -> None:
        self.sampler, self.kept = sampler, kept
        self.deterministic, self.window = sampler.deterministic, sampler.window

    def check(self, size: tuple[int, int]) -> None:
        """As the other sampler."""
        self.sampler.check(size)

    def draw(self, features: Features, site: tuple[int, int], size: tuple[int, int], count: int, key: Key) -> Features:
        """Draws of the other sampler, and what is kept; see `Sampler.draw`."""
        drawn = self.sampler.draw(features[: -self.kept], site, size, count, key)
        window = features[-self.kept :, site[0] : site[0] + size[0], site[1] : site[1] + size[1]]
        return np.concatenate([drawn, np.broadcast_to(window, (count, *window.shape))], axis=1)
