"""How the classes of a model relate: one of them holds, or each holds or not by itself.

Everything that turns logits into probabilities, odds or scores asks this one object; nothing else tells the two apart.
Notation: z logits, p_c the probability of class c; natural logarithms.
"""

from typing import Protocol

import numpy as np

from onnx_evidence.evidence.odds import (
    LogProbability,
    contrast_error,
    contrast_evidence,
    log_probabilities,
    odds_contrast_error,
    weight_of_evidence,
)
from onnx_evidence.types import FloatArray, Mask


class ClassKind(Protocol):
    """What logits mean."""

    @property
    def name(self) -> str:
        """'exclusive' or 'independent'."""
        ...

    def log_probabilities(self, logits: FloatArray, classes: list[int]) -> LogProbability:
        """Log-probabilities of some classes and of their complements.

        Parameters
        ----------
        logits : ndarray of float64, shape (N, K)
        classes : list of int
            The classes wanted, T of them.

        Returns
        -------
        LogProbability
            Both arrays (N, T), float64, nats.
        """
        ...

    def rivals(self, classes: int, target: int) -> Mask:
        """The classes that speak against a class: the log-odds are its logit less their log-sum-exp.

        Parameters
        ----------
        classes : int
            K.
        target : int
            The class.

        Returns
        -------
        ndarray of bool, shape (K,)
        """
        ...

    def contrast(
        self, full: LogProbability, removed: LogProbability, full_rival: LogProbability, removed_rival: LogProbability
    ) -> FloatArray:
        """Evidence for one class rather than another, in bits; as `evidence.odds.contrast_evidence`."""
        ...

    def contrast_error(
        self, samples: LogProbability, mean: LogProbability, rival: LogProbability, mean_rival: LogProbability
    ) -> FloatArray:
        """Standard error of `contrast`, in bits; as `evidence.odds.contrast_error`."""
        ...


class _Exclusive:
    """One class holds: ``p = softmax(z)``; all others together speak against a class."""

    name = "exclusive"

    def log_probabilities(self, logits: FloatArray, classes: list[int]) -> LogProbability:
        return log_probabilities(logits, classes)

    def rivals(self, classes: int, target: int) -> Mask:
        return np.asarray(np.arange(classes) != target)

    def contrast(
        self, full: LogProbability, removed: LogProbability, full_rival: LogProbability, removed_rival: LogProbability
    ) -> FloatArray:
        return contrast_evidence(full, removed, full_rival, removed_rival)

    def contrast_error(
        self, samples: LogProbability, mean: LogProbability, rival: LogProbability, mean_rival: LogProbability
    ) -> FloatArray:
        return contrast_error(samples, mean, rival, mean_rival)


class _Independent:
    """Each label holds or not: ``p_c = 1 / (1 + exp(-z_c))``, so that its log-odds are z_c; no other label counts."""

    name = "independent"

    def log_probabilities(self, logits: FloatArray, classes: list[int]) -> LogProbability:
        chosen = logits[:, classes]
        # log p = -log(1 + exp(-z)) and log(1 - p) = -log(1 + exp(z)): both exact where the other rounds to 0.
        return LogProbability(-np.logaddexp(0.0, -chosen), -np.logaddexp(0.0, chosen))

    def rivals(self, classes: int, target: int) -> Mask:
        return np.zeros(classes, np.bool_)

    def contrast(
        self, full: LogProbability, removed: LogProbability, full_rival: LogProbability, removed_rival: LogProbability
    ) -> FloatArray:
        # Two labels share no total: what is held against each other is their odds, z_c - z_d with nothing drawn.
        return weight_of_evidence(full, removed) - weight_of_evidence(full_rival, removed_rival)

    def contrast_error(
        self, samples: LogProbability, mean: LogProbability, rival: LogProbability, mean_rival: LogProbability
    ) -> FloatArray:
        return odds_contrast_error(samples, mean, rival, mean_rival)


EXCLUSIVE: ClassKind = _Exclusive()
INDEPENDENT: ClassKind = _Independent()
CLASS_KINDS = {kind.name: kind for kind in (EXCLUSIVE, INDEPENDENT)}
