"""What is tried on a graph before it is believed: pictures, batches of them, and how far two answers are apart."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from onnx_evidence.evidence import generator, natural_noise
from onnx_evidence.graphs import TensorInfo
from onnx_evidence.intake.entry import Entry
from onnx_evidence.intake.proof import Arithmetic
from onnx_evidence.intake.read import File
from onnx_evidence.preprocessing import MARGIN
from onnx_evidence.sessions import Device, Session
from onnx_evidence.types import AnyArray, Features, FloatArray

_CPU = Device("cpu", "what the operators do is the same everywhere")
# Two answers that nothing but other pictures beside could move are equal to this share of what answers span.
STRICT = 1e-6
# Places in what `tried_pictures` gives.
NOISE, _DARK, BRIGHT, CONTRAST = (0, 2), (1, 3), 4, 5


@dataclass(frozen=True)
class Subject:
    """What is tried.

    Attributes
    ----------
    file : File
        Where it comes from.
    proto : onnx.ModelProto
        The canonical graph.
    tensors : dict of str to TensorInfo
        Types and shapes.
    entry : Entry
        The image input.
    target : str
        The tensor of class scores.
    batch : int or None
        The batch size that the graph insists on; None where it is free.
    arithmetic : Arithmetic
        What it computes with.
    """

    file: File
    proto: onnx.ModelProto
    tensors: dict[str, TensorInfo]
    entry: Entry
    target: str
    batch: int | None
    arithmetic: Arithmetic


def tried_pictures(entry: Entry) -> Iterator[Features]:
    """Stacks (6, channels, H, W) of pictures that differ as much as pictures can.

    Noise, a dark picture, both again with other noise, a bright one, and one of nothing but the two ends of the range.
    Where the range is not known, one stack after the other for what it may be; then all without their ends.
    """
    noise = [np.clip(0.5 + natural_noise(entry.shape, generator(0, number)), 0, 1) for number in range(6)]
    # Uneven, lest what one end of a range gains the other loses.
    ends = ((0.13, 0.83), (0.03, 0.14), (0.17, 0.79), (0.02, 0.11), (0.78, 0.97))
    shares = [low + (high - low) * each.astype(np.float64) for (low, high), each in zip(ends, noise[:5], strict=True)]
    shares.append(np.round(noise[5]).astype(np.float64))
    for margin in (0.0, MARGIN):
        for each in entry.ranges:
            yield np.stack([each.picture(share * (1 - 2 * margin) + margin) for share in shares])


def pattern(rows: int) -> list[int]:
    """Noise and dark pictures by turns, as places in what `tried_pictures` gives."""
    return [(NOISE, _DARK)[row % 2][row // 2 % 2] for row in range(rows)]


def other_batches(rows: int) -> Iterator[tuple[list[int], list[int]]]:
    """Batches in which some rows of `pattern` are kept and all others are another picture; with each, the rows kept.

    Of any two neighbours, and of any two rows in different halves, each is kept once while the other is changed. The
    extremes of the batch move with it: the largest, the smallest and the mean value of all.
    """
    for bit in {0, (rows - 1).bit_length() - 1} if rows > 1 else ():
        for value, other in ((0, BRIGHT), (1, CONTRAST)):
            kept = [row for row in range(rows) if row >> bit & 1 == value]
            yield [each if row in kept else other for row, each in enumerate(pattern(rows))], kept


def apart(one: AnyArray, other: AnyArray) -> float:
    """The largest difference of two arrays of one shape; what is a number in one alone is infinitely far."""
    one, other = (np.asarray(each, np.float64) for each in (one, other))
    finite = np.isfinite(one) & np.isfinite(other)
    if not np.array_equal(one[~finite], other[~finite], equal_nan=True):
        return float("inf")
    return float(np.abs(one[finite] - other[finite]).max(initial=0.0))


def spread(runs: Sequence[AnyArray]) -> float:
    """From the smallest number to the largest, of all that are finite."""
    found = _finite(runs)
    return float(np.ptp(found)) if found.size else 0.0


def largest(runs: Sequence[AnyArray]) -> float:
    """The largest absolute value, of all that are finite."""
    return float(np.abs(_finite(runs)).max(initial=0.0))


def _finite(runs: Sequence[AnyArray]) -> FloatArray:
    numbers = np.concatenate([np.asarray(each, np.float64).reshape(-1) for each in runs])
    return np.asarray(numbers[np.isfinite(numbers)])


def session_of(subject: Subject) -> Session:
    """The graph as it stands, ready to run on the CPU; `ModelError` if ONNX Runtime cannot run it there."""
    return Session(subject.proto, _CPU, folder=subject.file.path.parent)
