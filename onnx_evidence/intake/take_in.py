"""A file taken in: its graph made canonical, step by step, and proved to be the file's still.

Canonical: no local functions, constants as initializers, no control flow that constants decide, fused operators spelt
out, quantised ones as float operators between QuantizeLinear and DequantizeLinear, one image input, float32, channels
first, with a free batch.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import onnx
from onnx import shape_inference

from onnx_evidence.counting import refuse_endless
from onnx_evidence.errors import ModelError, one_line
from onnx_evidence.graphs import Net, TensorInfo, infer, opset_of
from onnx_evidence.intake.alone import Alone, why_alone
from onnx_evidence.intake.batch import FreedBatch, free_batch
from onnx_evidence.intake.blocked import unblock
from onnx_evidence.intake.branches import settle_branches
from onnx_evidence.intake.canonical import canonical_input
from onnx_evidence.intake.dialect import fold_shapes, forget_told, plain
from onnx_evidence.intake.endings import Endings
from onnx_evidence.intake.entry import Entry, find_entry
from onnx_evidence.intake.extent import refuse_absurd
from onnx_evidence.intake.outputs import choose_output
from onnx_evidence.intake.proof import Arithmetic, Proof, arithmetic_of, prove, refuse_unopened
from onnx_evidence.intake.qoperator import rewrite_integers
from onnx_evidence.intake.read import File
from onnx_evidence.intake.standard import rewrite_special
from onnx_evidence.intake.tried import Subject
from onnx_evidence.intake.unsteady import why_unsteady
from onnx_evidence.intake.vendor import spell_out
from onnx_evidence.preprocessing import Preprocess
from onnx_evidence.sessions import OLDEST

Result = TypeVar("Result")


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
    endings : Endings
        What stands between outputs and logits, as far as it was asked for.
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
    endings: Endings = field(repr=False)
    scores: str
    changes: list[str]
    arithmetic: Arithmetic
    own: frozenset[str] = field(repr=False)
    rows: int | None
    proof: Proof | None = None


def take_in(
    file: File, preprocess: Preprocess | None, *, layout: str | None = None, output: str | None = None
) -> TakenIn:
    """Make a file's graph canonical; the graph that was read may be changed in place.

    ``preprocess`` gives what the input leaves open, ``layout``, 'NCHW' or 'NHWC', where its channels are (by default
    its sizes say), ``output`` what holds the class scores (`outputs.choose_output`). `ModelError` or `DataError` if
    this is no classifier of single pictures, would compute more than one does, or the canonical graph cannot be proved
    to be the file's.
    """
    path = file.path
    own = frozenset(name for node in file.proto.graph.node for name in node.output)
    inlined = len(file.proto.functions)
    proto = plain(file.proto, path)
    entry = find_entry(proto, preprocess, path, layout)
    refuse_endless(proto, path, file.max_work, picture=entry.name, batch=entry.batch)
    old = opset_of(proto.opset_import, OLDEST) < OLDEST
    if old or _checked(lambda: forget_told(proto, entry.name, entry.batch), path):
        refuse_unopened(file)
    settled = _checked(lambda: settle_branches(proto, entry.name, entry.batch), path)
    changes = canonical_input(proto, entry)
    integers, special = rewrite_integers(proto), rewrite_special(proto)
    unblocked, beside = _checked(lambda: unblock(proto, entry.name, entry.batch, path), path)
    spelt = beside + _checked(lambda: spell_out(proto, entry.name, entry.batch), path)
    counted = (
        (inlined, "local functions put in place"),
        (settled, "branches and loops that constants decide put in place"),
        (integers, "integer operators written as float ones between codes"),
        (special, "special or outdated operators written as standard ones"),
        (unblocked, "operators on blocks of channels, as one kind of processor has them, written as plain ones"),
        (spelt, "fused operators spelt out in standard ones"),
    )
    changes += [f"{number} {words}" for number, words in counted if number]
    if file.objection:
        changes.append(f"the ONNX checker objects ({file.objection}), ONNX Runtime does not")
    rewritten = bool(changes)
    tensors = _infer(proto, entry.name, entry.batch, path)
    refuse_absurd(tensors, (tensor.name for tensor in proto.graph.initializer), entry.shape, path)
    net, endings = Net(proto), Endings()
    chosen = choose_output(net, tensors, path, endings, output)
    scores = _scores(path, own, endings, net, tensors, chosen)
    arithmetic = arithmetic_of(net, tensors)
    taken = TakenIn(proto, entry, entry.batch, tensors, chosen, endings, scores, changes, arithmetic, own, entry.batch)
    if why := why_unsteady(net, scores):
        raise ModelError(
            f"{path}: the answer changes between identical runs: {why}; export the model in "
            "evaluation mode (model.eval())"
        )
    _settle_batch(taken, file)
    if rewritten and taken.proof is None:
        taken.proof = _proved(taken, file)
    folded = _checked(lambda: fold_shapes(proto, entry.name, taken.batch), path)
    if folded or taken.tensors is not tensors:
        endings.look_again()
    taken.tensors |= folded
    return taken


def _scores(
    path: Path, own: frozenset[str], endings: Endings, net: Net, tensors: dict[str, TensorInfo], output: str
) -> str:
    """What class scores are compared by: logits tell pictures apart where probabilities are all 0 or 1."""
    try:
        ending = endings.of(net, tensors, output)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    return ending.logits if ending is not None and ending.logits in own else output


def _settle_batch(taken: TakenIn, file: File) -> None:
    """Make the batch free where that can be proved, and 1 where pictures of a batch see each other."""
    freed = _with_free_batch(taken, file)
    why = _why_alone(taken, file)
    if why is not None and freed is not None:
        _undo(taken, freed, file)
        why = _why_alone(taken, file)
    if why is None:
        return
    if taken.batch is not None and why.tried:
        raise ModelError(
            f"{file.path}: input {taken.entry.name!r} insists on {taken.batch} pictures at a time, and {why.words}: "
            "there is no answer for one picture; export the model with a free batch, or with one of 1"
        )
    if taken.batch is None:
        _run_singly(taken, file.path)
        taken.changes.append(f"one picture at a time: {why.words}")


def _why_alone(taken: TakenIn, file: File) -> Alone | None:
    entry = taken.entry
    # All that the graph was made canonical by, and what it was made then.
    asked = {
        "alone": [entry.name, entry.layout, entry.elem_type, entry.shape, taken.scores, taken.batch, taken.changes],
        "ranges": [each.to_plain() for each in entry.ranges],
    }
    kept = file.cache.get(asked)
    if kept == [] or (isinstance(kept, list) and [type(each) for each in kept] == [str, bool]):
        return Alone(*kept) if kept else None
    found = why_alone(Subject(file, taken.proto, taken.tensors, entry, taken.scores, taken.batch, taken.arithmetic))
    file.cache.put(asked, list(found or ()))
    return found


def _with_free_batch(taken: TakenIn, file: File) -> FreedBatch | None:
    """Make the batch free where it is not, and keep that only with a proof."""
    sides = taken.tensors[taken.scores].shape if taken.scores in taken.tensors else (None,)
    if taken.batch is None and sides[:1] == (None,):
        return None
    freed = free_batch(taken.proto, taken.entry.name, taken.entry.batch or 1, taken.scores)
    if freed is None or (taken.batch is None and not freed.changed):
        return None
    freed.apply()
    if (proof := _try(taken, file)) is None:
        freed.undo()
        if taken.batch is None:
            _run_singly(taken, file.path)
        return None
    taken.batch, taken.rows, taken.proof = None, taken.entry.batch or 1, proof
    taken.changes.append(f"batch made free ({freed.changed} constants)" if freed.changed else "batch made free")
    return freed


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
    """Take back a batch made free."""
    freed.undo()
    taken.batch, taken.proof = taken.entry.batch, None
    taken.changes.pop()
    taken.tensors = _infer(taken.proto, taken.entry.name, taken.batch, file.path)


def _run_singly(taken: TakenIn, path: Path) -> None:
    if taken.batch is None:
        taken.batch = taken.rows = 1
        taken.proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
        taken.tensors = _infer(taken.proto, taken.entry.name, 1, path)


def _proved(taken: TakenIn, file: File) -> Proof:
    proof = prove(file, taken.proto, taken.entry, taken.scores, taken.arithmetic, rows=taken.batch or 2)
    if not proof.deviation <= proof.tolerance:
        changes = "; ".join(taken.changes)
        if not math.isfinite(proof.deviation):
            raise ModelError(
                f"{file.path}: the graph as rewritten ({changes}) cannot be proved to be the file's: {proof.words}; "
                "pass --preprocess, or export the model otherwise"
            )
        raise ModelError(
            f"{file.path}: the graph as rewritten ({changes}) differs from the file by {proof.deviation:.1e} of the "
            f"largest score, more than {proof.tolerance:g}; export the model otherwise"
        )
    return proof


def _infer(proto: onnx.ModelProto, image: str, batch: int | None, path: Path) -> dict[str, TensorInfo]:
    return _checked(lambda: infer(proto, image, batch), path)


def _checked(step: Callable[[], Result], path: Path) -> Result:
    try:
        return step()
    except (shape_inference.InferenceError, ValueError) as error:
        raise ModelError(f"{path}: the shapes of the graph do not fit together: {one_line(error)}") from error
