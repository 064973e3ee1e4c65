"""The canonical graph against the file itself: both are run on the same pictures."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import onnx
from onnx import TensorProto

from onnx_evidence.errors import ModelError
from onnx_evidence.graphs import Net, TensorInfo, node_inputs, with_outputs
from onnx_evidence.intake.deployed_file import DeployedFile
from onnx_evidence.intake.endings import data_tensors
from onnx_evidence.intake.entry import Entry
from onnx_evidence.intake.read import File
from onnx_evidence.preprocessing import trials
from onnx_evidence.sessions import Device, Session
from onnx_evidence.types import AnyArray, Features, FloatArray


class Arithmetic(NamedTuple):
    """What a file computes with, and how far two ways of computing the same may be apart.

    Attributes
    ----------
    name : {'float32', 'half precision', 'codes of 8 bits'}
        The coarsest numbers between its operators.
    tolerance : float
        The largest difference of a class score that rounding explains, as a share of the largest.
    """

    name: str
    tolerance: float


FULL = Arithmetic("float32", 1e-4)
HALF = Arithmetic("half precision", 2e-2)
CODES = Arithmetic("codes of 8 bits", 5e-2)
_CPU = Device("cpu", "the proof is the same everywhere")
# Two pictures whose scores differ by less than this many times the tolerance prove nothing.
_POWER = 2.0
_HALVES = frozenset({TensorProto.FLOAT16, TensorProto.BFLOAT16})
# Operators that round to codes, or compute with them, begin or end so.
_ROUNDING = ("QuantizeLinear", "DynamicQuantize", "QLinear", "QGemm", "QAttention")
_INTEGER = ("Integer", "IntegerToFloat")


def arithmetic_of(net: Net, tensors: Mapping[str, TensorInfo]) -> Arithmetic:
    """What a canonical graph computes with.

    Weights that are only stored in fewer bits do not count: what is computed from the picture does.
    """
    data = data_tensors(net)
    nodes = [node for node in net.nodes if not data.isdisjoint(node_inputs(node))]
    if any(node.op_type.startswith(_ROUNDING) or node.op_type.endswith(_INTEGER) for node in nodes):
        return CODES
    made = {name for node in nodes for name in node.output}
    return HALF if any(tensors[name].elem_type in _HALVES for name in made & tensors.keys()) else FULL


@dataclass(frozen=True)
class Proof:
    """How far the canonical graph is from the file.

    Attributes
    ----------
    deviation : float
        The largest difference of a class score, as a share of the largest.
    tolerance : float
        How much was allowed.
    told_apart : float
        By how much the scores of the pictures themselves differ, as the same share: what a graph that mixes them up
        could be off by.
    words : str
        What was compared.
    """

    deviation: float
    tolerance: float
    told_apart: float
    words: str

    @property
    def holds(self) -> bool:
        """Whether the deviation is allowed, and the pictures different enough for that to mean something."""
        return self.deviation <= self.tolerance and self.told_apart >= _POWER * self.tolerance


def refuse_unopened(file: File) -> None:
    """Refuse a file that ONNX Runtime does not open, before it is changed into one that it would open."""
    try:
        Session(onnx.load_model_from_string(file.data), _CPU, folder=file.path.parent)
    except ModelError as error:
        raise ModelError(f"{file.path}: {error}") from error


def prove(
    file: File,
    proto: onnx.ModelProto,
    entry: Entry,
    target: str,
    arithmetic: Arithmetic,
    *,
    rows: int,
    freed: bool = False,
) -> Proof:
    """Run the file and its canonical form on pictures of noise.

    Compared is ``target``, a tensor that both have: the class scores. The file takes ``rows`` pictures at once; where
    the batch was ``freed``, one picture more is run at once, and compared with two runs of the file. `ModelError` if
    ONNX Runtime cannot run one of the two.
    """
    tolerance = arithmetic.tolerance
    why = "" if arithmetic == FULL else f" ({arithmetic.name}: {tolerance:g} allowed)"
    as_deployed = DeployedFile(file.path, file.data, entry, target, _CPU, rows=rows, outputs=file.outputs)
    told = _told_apart(lambda given: _flat(as_deployed.run(given)), entry, rows + freed, tolerance)
    if told is None:
        return Proof(float("inf"), tolerance, 0.0, "the file gives no finite scores for pictures of noise")
    pictures, expected, apart = told
    largest = _largest(expected)
    try:
        found = _flat(_session(proto, target, file).run(pictures))
    except ModelError as error:
        return Proof(float("inf"), tolerance, apart, str(error))
    same = expected.shape == found.shape
    # What is not a number is no agreement.
    deviation = float(np.nan_to_num(np.abs(found - expected), nan=np.inf).max()) / largest if same else float("inf")
    equal = f"batch of {rows + 1} equals two {'single runs' if rows == 1 else f'runs of {rows}'}"
    words = equal if freed else "the same scores as the file's"
    return Proof(deviation, tolerance, apart, f"{words} to {deviation:.1e} of the largest{why}")


def _told_apart(
    scores: Callable[[Features], FloatArray], entry: Entry, number: int, tolerance: float
) -> tuple[Features, FloatArray, float] | None:
    """Pictures of noise that the file gives finite scores for, these, and how far apart: the first, far enough."""
    best = None
    for pictures in trials(entry.ranges, entry.shape[1:], number):
        found = scores(pictures)
        if not np.isfinite(found).all():
            continue
        apart = float(np.abs(np.diff(found, axis=0)).max()) / _largest(found) if len(found) > 1 else 0.0
        if best is None or apart > best[2]:
            best = pictures, found, apart
        if number == 1 or apart >= _POWER * tolerance:
            break
    return best


def _largest(scores: FloatArray) -> float:
    return max(float(np.abs(scores).max()), 1e-30)


def _session(proto: onnx.ModelProto, target: str, file: File) -> Session:
    """The model with one output, without copying its weights."""
    with with_outputs(proto, [target]):
        return Session(proto, _CPU, folder=file.path.parent)


def _flat(scores: AnyArray) -> FloatArray:
    return scores.reshape(len(scores), -1).astype(np.float64)
