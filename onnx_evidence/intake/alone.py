"""Whether a picture gets the same answer alone, among others, and twice: found by trying, whatever the operators are.

What is compared strictly was computed alike: the same picture at the same place in a batch of the same size, once
beside these pictures and once beside those. No rounding differs then, and what moves was moved by the others. Batches
of several sizes, and places in them, are compared with a picture alone, to what rounding explains. A mixing that
cancels at the scores still changes features at cuts, so where an operator is not plainly one that works picture by
picture every tensor is looked at.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from onnx_evidence.errors import ModelError
from onnx_evidence.graphs import with_outputs
from onnx_evidence.intake.inside import moved_inside
from onnx_evidence.intake.picturewise import by_picture
from onnx_evidence.intake.proof import FULL
from onnx_evidence.intake.tried import (
    BRIGHT,
    CONTRAST,
    NOISE,
    STRICT,
    Subject,
    apart,
    largest,
    other_batches,
    pattern,
    session_of,
    spread,
    tried_pictures,
)
from onnx_evidence.sessions import EndlessError, Session
from onnx_evidence.types import Features, FloatArray

# What rounding may differ by in batches of other sizes: of what the scores span (measured on 13 networks: 2e-7), and of
# the largest score.
_ROUNDED, _DIGITS = 1e-5, 1e-6
_MEET = "pictures of a batch see each other"
_ONE = "the graph does not take several"
_PLACE = "what the graph gives for a picture depends on how many there are, or on its place among them"


class Alone(NamedTuple):
    """Why pictures cannot run together, in words."""

    words: str
    # Whether that was seen; else it could not be tried.
    tried: bool


def why_alone(subject: Subject) -> Alone | None:
    """Try whether a picture gets the same answer twice, and in any batch.

    None where it does, and where the batch is 1 anyway; `ModelError` if the answer changes between identical runs.
    """
    trial = _start(subject)
    if isinstance(trial, str):
        return Alone(f"whether {_MEET} could not be tried, {trial}", tried=False)
    words = trial.verdict()
    return None if words is None else Alone(words, tried=True)


def _start(subject: Subject) -> "_Trial | str":
    """A trial with pictures that have scores, or why there is none."""
    try:
        with with_outputs(subject.proto, [subject.target]):
            session = session_of(subject)
        for pictures in tried_pictures(subject.entry):
            trial = _Trial(subject, session, pictures)
            if np.isfinite(trial.first).any():
                return trial
    except EndlessError as error:
        raise ModelError(f"{subject.file.path}: {error}") from error
    except ModelError:
        return "the graph does not run on noise on the CPU"
    return "no score of noise is a number"


class _Trial:
    """Runs of one session, and what they say."""

    def __init__(self, subject: Subject, session: Session, pictures: Features) -> None:
        self.subject, self.session, self.pictures = subject, session, pictures
        self.runs: list[FloatArray] = []
        self.alone = pattern(subject.batch or 1)
        self.first = self._run(self.alone)

    def verdict(self) -> str | None:
        """As `why_alone`."""
        subject = self.subject
        try:
            why = self._why()
        except ModelError:
            # Of a fixed batch that is no matter of how many there are: it will be told when pictures fail.
            why = _ONE if subject.batch is None else None
        self._refuse_unsteady()
        plain = subject.batch == 1 or by_picture(subject.proto, subject.tensors)
        if why == _MEET or (why is None and not plain):
            moved = moved_inside(subject, self.pictures)
            why = f"{_MEET} from {moved} on" if moved else why
        return why

    def _why(self) -> str | None:
        if self.subject.batch == 1:
            self._run([CONTRAST])
            return None
        rows = self.subject.batch or 2
        base = self._run(pattern(rows))
        others = [(self._run(batch), kept) for batch, kept in other_batches(rows)]
        strict = STRICT * spread(self.runs)
        if any(apart(base[kept], found[kept]) > strict for found, kept in others):
            return _MEET
        # The first picture at the end of a batch of another size, or of the same where the file fixes it.
        last = self._run([BRIGHT, CONTRAST, NOISE[0]] if self.subject.batch is None else pattern(rows)[::-1])
        arithmetic = self.subject.arithmetic
        allowed = (_ROUNDED if arithmetic == FULL else arithmetic.tolerance) * spread(self.runs) + _DIGITS * largest(
            self.runs
        )
        same = all(apart(one, self.first[0]) <= allowed for one in (last[-1], base[0]))
        return None if same else _PLACE

    def _refuse_unsteady(self) -> None:
        """Other pictures ran since: what a graph remembers shows as well as what it draws."""
        moved = max(apart(self.first, self._run(self.alone)) for _ in range(2))
        whole = spread(self.runs)
        if moved > STRICT * whole:
            raise ModelError(
                f"{self.subject.file.path}: the answer changes between identical runs, by {moved / (whole or 1):.1e} "
                "of what its scores span: an operator draws random numbers, or was exported in training mode; export "
                "the model in evaluation mode (model.eval())"
            )

    def _run(self, batch: Sequence[int]) -> FloatArray:
        found = self.session.run(self.pictures[list(batch)]).reshape(len(batch), -1).astype(np.float64)
        self.runs.append(found)
        return found
