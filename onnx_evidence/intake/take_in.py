"""A file taken in: its graph made canonical, step by step, and proved to be the file's still.

Canonical: no local functions, constants as initializers, no control flow that constants decide, quantised operators
as float ones between QuantizeLinear and DequantizeLinear, one image input, float32, channels first, with a free batch.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import onnx
from onnx import shape_inference

from onnx_evidence.errors import ModelError, one_line
from onnx_evidence.intake.batch import FreedBatch, free_batch
from onnx_evidence.intake.branches import settle_branches
from onnx_evidence.intake.canonical import canonical_input
from onnx_evidence.intake.dialect import fold_shapes, plain
from onnx_evidence.intake.endings import find_ending
from onnx_evidence.intake.entry import Entry, find_entry
from onnx_evidence.intake.extent import refuse_absurd
from onnx_evidence.intake.outputs import choose_output
from onnx_evidence.intake.proof import Arithmetic, Proof, arithmetic_of, prove
from onnx_evidence.intake.qoperator import rewrite_integers
from onnx_evidence.intake.read import File
from onnx_evidence.preprocessing.contract import Preprocess
from onnx_evidence.shapes import TensorInfo, infer

Result = TypeVar("Result")
# What they give for one picture depends on the others in its batch.
_MIXING = frozenset({"DynamicQuantizeLinear"})


@dataclass
class TakenIn:
    """A canonical graph, and what is known of it.

    Attributes
    ----------
    proto : onnx.ModelProto
        The graph.
    entry : Entry
        The image input as the file has it.
    batch : int or None
        The batch size that the graph insists on; None where it is free.
    tensors : dict of str to TensorInfo
        Types and shapes.
    output : str
        The output that holds class scores.
    scores : str
        The tensor that proofs compare: what softmax or sigmoid read, where the file has it, else the output.
    changes : list of str
        What was done to the graph, in words; empty where it is the file's own.
    arithmetic : Arithmetic
        What the graph computes with.
    own : frozenset of str
        The tensors of the file's own graph.
    rows : int or None
        How many pictures the file itself takes at once; None where it takes any number.
    proof : Proof or None
        How far it is from the file; None where it is the file's own.
    """

    proto: onnx.ModelProto = field(repr=False)
    entry: Entry
    batch: int | None
    tensors: dict[str, TensorInfo] = field(repr=False)
    output: str
    scores: str
    changes: list[str]
    arithmetic: Arithmetic
    own: frozenset[str] = field(repr=False)
    rows: int | None
    proof: Proof | None = None


def take_in(
    file: File, preprocess: Preprocess | None, *, layout: str | None = None, output: str | None = None
) -> TakenIn:
    """Make a file's graph canonical.

    Parameters
    ----------
    file : File
        As it was read; its graph may be changed in place.
    preprocess : Preprocess or None
        Gives what the input leaves open.
    layout : {'NCHW', 'NHWC'}, optional
        Where the channels of the input are; by default what its sizes say.
    output : str, optional
        The output that holds class scores; see `outputs.choose_output`.

    Returns
    -------
    TakenIn

    Raises
    ------
    ModelError, DataError
        If this is no classifier of single pictures, or the canonical graph cannot be proved to be the file's.
    """
    path = file.path
    own = frozenset(name for node in file.proto.graph.node for name in node.output)
    inlined = len(file.proto.functions)
    proto = plain(file.proto, path)
    entry = find_entry(proto, preprocess, path, layout)
    settled = _checked(lambda: settle_branches(proto, entry.name, entry.batch), path)
    changes = canonical_input(proto, entry)
    rewritten = rewrite_integers(proto)
    counted = (
        (inlined, "local functions put in place"),
        (settled, "branches and loops that constants decide put in place"),
        (rewritten, "integer operators written as float ones between codes"),
    )
    changes += [f"{number} {words}" for number, words in counted if number]
    if mixing := next((node.op_type for node in proto.graph.node if node.op_type in _MIXING), None):
        changes.append(f"one picture at a time: {mixing} takes its scale from the whole batch")
    tensors = _infer(proto, entry.name, entry.batch, path)
    refuse_absurd(tensors, (tensor.name for tensor in proto.graph.initializer), entry.shape, path)
    chosen = choose_output(proto, tensors, path, output)
    scores = _scores(path, own, proto, tensors, chosen)
    arithmetic = arithmetic_of(proto, tensors)
    taken = TakenIn(proto, entry, entry.batch, tensors, chosen, scores, changes, arithmetic, own, entry.batch)
    if mixing:
        _run_singly(taken, path)
    if (mixing or not _with_free_batch(taken, file)) and changes:
        taken.proof = _proved(taken, file)
    taken.tensors |= _checked(lambda: fold_shapes(proto, entry.name, taken.batch), path)
    return taken


def _scores(
    path: Path, own: frozenset[str], proto: onnx.ModelProto, tensors: dict[str, TensorInfo], output: str
) -> str:
    """What class scores are compared by: logits tell pictures apart where probabilities are all 0 or 1."""
    try:
        ending = find_ending(proto, tensors, output)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    return ending.logits if ending is not None and ending.logits in own else output


def _with_free_batch(taken: TakenIn, file: File) -> bool:
    """Make the batch free where it is not, and keep that only with a proof."""
    sides = taken.tensors[taken.scores].shape if taken.scores in taken.tensors else (None,)
    if taken.batch is None and sides[:1] == (None,):
        return False
    freed = free_batch(taken.proto, taken.entry.name, taken.entry.batch or 1, taken.scores)
    if freed is None or (taken.batch is None and not freed.changed):
        return False
    freed.apply()
    if (proof := _try(taken, file)) is None:
        _undo(taken, freed, file)
        return False
    taken.batch, taken.rows, taken.proof = None, taken.entry.batch or 1, proof
    taken.changes.append(f"batch made free ({freed.changed} constants)" if freed.changed else "batch made free")
    return True


def _try(taken: TakenIn, file: File) -> Proof | None:
    """The proof of a freed batch, with the sizes that it has now; None where it is none."""
    try:
        tensors = infer(taken.proto, taken.entry.name, None)
    except (shape_inference.InferenceError, ValueError):
        return None
    rows = taken.entry.batch or 1
    proof = prove(file, taken.proto, taken.entry, taken.scores, taken.arithmetic, rows=rows, freed=True)
    if proof.holds:
        taken.tensors = tensors
    return proof if proof.holds else None


def _undo(taken: TakenIn, freed: FreedBatch, file: File) -> None:
    """Run picture by picture instead, as many as the file takes."""
    freed.undo()
    _run_singly(taken, file.path)


def _run_singly(taken: TakenIn, path: Path) -> None:
    if taken.batch is None:
        taken.batch = taken.rows = 1
        taken.proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
        taken.tensors = _infer(taken.proto, taken.entry.name, 1, path)


def _proved(taken: TakenIn, file: File) -> Proof:
    proof = prove(file, taken.proto, taken.entry, taken.scores, taken.arithmetic, rows=taken.batch or 2)
    if proof.deviation > proof.tolerance:
        raise ModelError(
            f"{file.path}: the graph as rewritten ({'; '.join(taken.changes)}) differs from the file by "
            f"{proof.deviation:.1e} of the largest score, more than {proof.tolerance:g}; export the model otherwise"
        )
    return proof


def _infer(proto: onnx.ModelProto, image: str, batch: int | None, path: Path) -> dict[str, TensorInfo]:
    return _checked(lambda: infer(proto, image, batch), path)


def _checked(step: Callable[[], Result], path: Path) -> Result:
    try:
        return step()
    except (shape_inference.InferenceError, ValueError) as error:
        raise ModelError(f"{path}: the shapes of the graph do not fit together: {one_line(error)}") from error
