"""What a window is replaced by: constants, or draws from the conditional Gaussian.

A sampler sees the features of one picture and the place of a window, and returns the window's
replacements. It keeps no state between calls; its randomness is keyed by place.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

import numpy as np

from onnx_evidence.errors import SettingError
from onnx_evidence.evidence.background import Background, condition, window_in_patch
from onnx_evidence.evidence.rng import generator
from onnx_evidence.types import Features, FloatArray

Key = Sequence[int]


class Sampler(Protocol):
    """Draws replacements of one window."""

    @property
    def deterministic(self) -> bool:
        """Whether every draw is the same, so that one is enough."""
        ...

    @property
    def window(self) -> int | None:
        """Side in cells of the window that it was made for; None if any will do."""
        ...

    def check(self, size: tuple[int, int]) -> None:
        """Refuse windows of this size with a `SettingError` if they cannot be drawn.

        Parameters
        ----------
        size : (int, int)
            Rows and columns of a window.

        Raises
        ------
        SettingError
            If no window of this size can be drawn.
        """
        ...

    def draw(self, features: Features, site: tuple[int, int], size: tuple[int, int], count: int, key: Key) -> Features:
        """Draw replacements.

        Parameters
        ----------
        features : ndarray of float32, shape (C, A, B)
            The picture's features at the cut.
        site : (int, int)
            First row and column of the window.
        size : (int, int)
            Its rows and columns.
        count : int
            How many; 1, or an even number: draws 2j and 2j + 1 are an antithetic pair.
        key : sequence of int
            Seed, image's key, cut's key: what is drawn depends on it and on the site alone.

        Returns
        -------
        ndarray of float32, shape (count, C, rows, columns)
        """
        ...


class _Constant(ABC):
    """Replaces every feature by one value per channel."""

    deterministic = True
    window: int | None = None

    def check(self, size: tuple[int, int]) -> None:  # noqa: B027 - nothing to refuse
        """Any window can be replaced by constants."""

    @abstractmethod
    def values(self, features: Features) -> Features:
        """The value of each channel, shape (C,), for the features (C, A, B) of one picture."""

    def draw(self, features: Features, site: tuple[int, int], size: tuple[int, int], count: int, key: Key) -> Features:
        """Copies of the constants, (count, C, rows, columns); see `Sampler.draw`. Site and key make no difference."""
        return np.broadcast_to(self.values(features)[None, :, None, None], (count, len(features), *size))


class ZeroSampler(_Constant):
    """Replaces every feature by 0."""

    def values(self, features: Features) -> Features:
        """Zeros, shape (C,)."""
        return np.zeros(len(features), features.dtype)


class MeanSampler(_Constant):
    """Replaces every feature by the mean of its channel over the same picture."""

    def values(self, features: Features) -> Features:
        """The picture's own channel means, shape (C,)."""
        means: Features = features.mean(axis=(1, 2), dtype=np.float64).astype(features.dtype)
        return means


class ConditionalSampler:
    """Draws the window from a Gaussian conditioned on the ring of cells around it.

    Conditional mean ``m = mu1 + G (x2 - mu2)``, covariance ``S11 - G S21`` (Zintgraf 2017, section 3.1,
    transferred from the pixels of one colour to the cells of one channel). One draw is the conditional mean
    itself; an even number are antithetic pairs ``m +- L e``, which remove the odd part of the error
    exactly. Samples are clipped to the range seen in the fit. At the border the patch is shifted inwards.

    Parameters
    ----------
    background : Background
        Fitted at the cut whose features are given to `draw`.
    window : int, optional
        Side of the window for which the fit was judged.
    """

    deterministic = False

    def __init__(self, background: Background, window: int | None = None) -> None:
        self.background = background
        self.window = window
        # One gain and factor per place of the window in its patch: a few, shared by all windows.
        self._conditional = lru_cache(maxsize=None)(self._solve)

    def check(self, size: tuple[int, int]) -> None:
        """Refuse windows larger than the patch that the background was fitted for.

        Parameters
        ----------
        size : (int, int)
            Rows and columns of a window.

        Raises
        ------
        SettingError
            With the size that would do.
        """
        if max(size) > self.background.patch:
            raise SettingError(
                f"window {max(size)} is larger than the background's patch of {self.background.patch} cells: "
                f"fit the background again with --patch {max(size) + 2} or more"
            )

    def _solve(self, size: tuple[int, int], offset: tuple[int, int]) -> tuple[FloatArray, FloatArray]:
        gain, residual = condition(self.background.covariance, window_in_patch(self.background.patch, size, offset))
        values, vectors = np.linalg.eigh((residual + residual.transpose(0, 2, 1)) / 2)
        factor: FloatArray = vectors * np.sqrt(np.maximum(values, 0))[:, None, :]
        return gain, factor

    def conditional(
        self, features: Features, site: tuple[int, int], size: tuple[int, int]
    ) -> tuple[FloatArray, FloatArray]:
        """Mean and factor of the window's conditional Gaussian.

        Parameters
        ----------
        features : ndarray of float32, shape (C, A, B)
            The picture's features at the cut.
        site : (int, int)
            First row and column of the window.
        size : (int, int)
            Its rows and columns.

        Returns
        -------
        mean : ndarray of float64, shape (C, d)
            d cells of the window, row by row.
        factor : ndarray of float64, shape (C, d, d)
            L with L L' the conditional covariance.
        """
        patch = self.background.patch
        corner = [
            min(max(start - (patch - side) // 2, 0), cells - patch)
            for start, side, cells in zip(site, size, features.shape[1:], strict=True)
        ]
        offset = (site[0] - corner[0], site[1] - corner[1])
        around = np.s_[:, corner[0] : corner[0] + patch, corner[1] : corner[1] + patch]
        inside = window_in_patch(patch, size, offset)
        expected = self.background.mean[around].reshape(len(features), -1)
        deviation = features[around].reshape(len(features), -1) - expected
        gain, factor = self._conditional(size, offset)
        shift = (gain @ deviation[:, ~inside, None])[..., 0]
        return expected[:, inside] + shift, factor

    def draw(self, features: Features, site: tuple[int, int], size: tuple[int, int], count: int, key: Key) -> Features:
        """Draws from the conditional Gaussian, clipped to the range seen in the fit; see `Sampler.draw`."""
        drawn = self.draw_unclipped(features, site, size, count, key)
        low, high = (bound[None, :, None, None] for bound in (self.background.low, self.background.high))
        return np.clip(drawn, low, high).astype(features.dtype)

    def draw_unclipped(
        self, features: Features, site: tuple[int, int], size: tuple[int, int], count: int, key: Key
    ) -> FloatArray:
        """`draw` before clipping, in float64: for judging how much is clipped."""
        mean, factor = self.conditional(features, site, size)
        if count == 1:
            return mean.reshape(1, -1, *size)
        noise = generator(*key, *site).standard_normal((count // 2, *mean.shape))
        step = np.einsum("cij,pcj->pci", factor, noise)
        pairs = np.stack([mean + step, mean - step], axis=1)
        return pairs.reshape(count, -1, *size)
