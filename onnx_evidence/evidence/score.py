"""The scores that evidence is counted in: linear forms of the logits, less a log-sum-exp of some of them.

One form serves them all: ``s(z) = direction . z - log sum_{j in rest} exp z_j``. Log-odds of a class: direction 1
there, rest all others; of one of several independent labels: no rest. One class rather than another: 1 and -1, no rest.
A logit: 1, no rest.
"""

from dataclasses import dataclass

import numpy as np

from onnx_evidence.evidence.class_kind import EXCLUSIVE, ClassKind
from onnx_evidence.evidence.odds import LN2, log_sum_exp
from onnx_evidence.types import FloatArray

SCORES = ("log-odds", "logit")


@dataclass(frozen=True)
class Score:
    """A scalar function of the logits of K classes.

    Attributes
    ----------
    direction : ndarray of float64, shape (K,)
        Weights of the linear form.
    rest : ndarray of bool, shape (K,)
        Classes whose log-sum-exp is taken off; none for a linear score.
    """

    direction: FloatArray
    rest: FloatArray

    @classmethod
    def of(
        cls,
        classes: int,
        target: int,
        versus: int | None = None,
        kind: str = "log-odds",
        class_kind: ClassKind = EXCLUSIVE,
    ) -> "Score":
        """The score of a class, or of one rather than another.

        Parameters
        ----------
        classes : int
            K.
        target : int
            The class.
        versus : int, optional
            The class that it is held against: ``z_c - z_d``, whatever ``kind`` says.
        kind : {'log-odds', 'logit'}
            Against the class's rivals together (``z_c - log-sum-exp of the others``), or alone.
        class_kind : ClassKind
            What rivals a class has: all others, or, of independent labels, none.

        Returns
        -------
        Score
        """
        direction, rest = np.zeros(classes), np.zeros(classes)
        direction[target] = 1.0
        if versus is not None:
            direction[versus] = -1.0
        elif kind == "log-odds":
            rest[class_kind.rivals(classes, target)] = 1.0
        return cls(direction, rest)

    def bits(self, logits: FloatArray) -> FloatArray:
        """The score in bits.

        Parameters
        ----------
        logits : ndarray of float64, shape (N, K)

        Returns
        -------
        ndarray of float64, shape (N,)
        """
        linear = logits @ self.direction
        if not self.rest.any():
            return np.asarray(linear / LN2)
        return np.asarray((linear - log_sum_exp(logits[:, self.rest > 0], axis=1)) / LN2)
