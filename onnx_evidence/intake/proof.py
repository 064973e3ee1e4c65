"""The canonical graph against the file itself: both are run on the same pictures."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from onnx_evidence.errors import ModelError
from onnx_evidence.intake.entry import Entry
from onnx_evidence.intake.read import File
from onnx_evidence.preprocessing.synthetic import trials
from onnx_evidence.runtime import Device, Session
from onnx_evidence.types import AnyArray, Features, FloatArray

# How far both may be apart, as a share of the largest score: float32, half precision, codes of eight bits.
FULL, HALF, CODES = 1e-4, 2e-2, 5e-2
_CPU = Device("cpu", "the proof is the same everywhere")
# Two pictures whose scores differ by less than this many times the tolerance prove nothing.
_POWER = 2.0
_HALVES = frozenset({TensorProto.FLOAT16, TensorProto.BFLOAT16})


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
    """Refuse a file that ONNX Runtime does not open, before it is changed into one that it would open.

    Parameters
    ----------
    file : File
        As it was read.

    Raises
    ------
    ModelError
        With the reason.
    """
    try:
        Session(onnx.load_model_from_string(file.data), _CPU, folder=file.path.parent)
    except ModelError as error:
        raise ModelError(f"{file.path}: {error}") from error


def prove(file: File, proto: onnx.ModelProto, entry: Entry, target: str, *, rows: int, freed: bool = False) -> Proof:
    """Run the file and its canonical form on pictures of noise.

    Parameters
    ----------
    file : File
        As it was read.
    proto : onnx.ModelProto
        Its canonical form.
    entry : Entry
        The file's image input.
    target : str
        A tensor that both have: the class scores.
    rows : int
        How many pictures the file takes at once.
    freed : bool
        Whether the batch was made free: then one picture more is run at once, and compared with two runs of the file.

    Returns
    -------
    Proof

    Raises
    ------
    ModelError
        If ONNX Runtime cannot run one of the two.
    """
    original = onnx.load_model_from_string(file.data)
    tolerance, why = tolerance_of(original)
    told = _told_apart(
        lambda given: _flat(_of_file(file, original, target, given, rows)), entry, rows + freed, tolerance
    )
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


def _of_file(file: File, original: onnx.ModelProto, target: str, given: AnyArray, rows: int) -> AnyArray:
    """Scores of all pictures, so many at a time; the last ones together where they are no whole number of runs."""
    try:
        session = _session(original, target, file)
        last = [session.run(given[-rows:])[rows - len(given) :]] if len(given) > rows else []
        return np.concatenate([session.run(given[:rows]), *last])
    except ModelError as error:
        raise ModelError(f"{file.path}: {error}") from error


def as_file_takes_it(pictures: Features, entry: Entry) -> AnyArray:
    """Canonical pictures in the layout and type of the file's input.

    Parameters
    ----------
    pictures : ndarray of float32, shape (N, channels, H, W)
        Whole numbers, where the file takes such.
    entry : Entry
        The file's image input.

    Returns
    -------
    ndarray, shape (N, channels, H, W) or (N, H, W, channels)
    """
    ordered = pictures.transpose(0, 2, 3, 1) if entry.layout == "NHWC" else pictures
    dtype = helper.tensor_dtype_to_np_dtype(entry.elem_type)
    return np.ascontiguousarray(ordered.astype(dtype))


def _told_apart(
    scores: Callable[[AnyArray], FloatArray], entry: Entry, number: int, tolerance: float
) -> tuple[Features, FloatArray, float] | None:
    """Pictures of noise that the file gives finite scores for, these, and how far apart: the first, far enough."""
    best = None
    for pictures in trials(entry.ranges, entry.shape[1:], number):
        found = scores(as_file_takes_it(pictures, entry))
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
    outputs = proto.graph.output
    kept = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in outputs]
    del outputs[:]
    # Without a type: ONNX Runtime infers it.
    outputs.append(onnx.ValueInfoProto(name=target))
    try:
        return Session(proto, _CPU, folder=file.path.parent)
    finally:
        del outputs[:]
        outputs.extend(kept)


def _flat(scores: AnyArray) -> FloatArray:
    return scores.reshape(len(scores), -1).astype(np.float64)


def tolerance_of(proto: onnx.ModelProto) -> tuple[float, str]:
    """How far rounding may take scores, as a share of the largest.

    Parameters
    ----------
    proto : onnx.ModelProto
        The graph.

    Returns
    -------
    tolerance : float
        `FULL`, `HALF` or `CODES`.
    words : str
        Why it is more than `FULL`; empty where it is not.
    """
    nodes = proto.graph.node
    if any("Quantize" in node.op_type or node.op_type.startswith(("QLinear", "QGemm")) for node in nodes):
        return CODES, f" (codes of 8 bits: {CODES:g} allowed)"
    if any(tensor.data_type in _HALVES for tensor in proto.graph.initializer):
        return HALF, f" (half precision: {HALF:g} allowed)"
    return FULL, ""
