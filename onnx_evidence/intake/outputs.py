"""The class scores: which output holds them, in what form, and where the logits are, which are made where need be.

What leaves here is one tensor of float32 logits, one per class and picture, and what they mean: classes of which one
holds (softmax), or labels of which each holds or not (sigmoid).
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto

from onnx_evidence.errors import ModelError, SettingError
from onnx_evidence.evidence import CLASS_KINDS, EXCLUSIVE, INDEPENDENT, ClassKind
from onnx_evidence.graphs import Net, TensorInfo, type_name
from onnx_evidence.intake.append import Builder
from onnx_evidence.intake.endings import MOVES, Ending, Endings, shape_words
from onnx_evidence.intake.ranges import value_range
from onnx_evidence.intake.refusals import is_time_first, why_never, why_no_scores
from onnx_evidence.intake.winners import find_behind
from onnx_evidence.types import AnyArray

FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16})
# How far probabilities may be from a sum of 1.
SUM_TOLERANCE = 0.02
# Of a mean of probabilities.
_ROUNDING = 1e-3

# Runs a model on two pictures that are no pictures: (N, ...) of the tensor named.
Probe = Callable[[str], AnyArray]


@dataclass(frozen=True)
class Output:
    """Where a file's class scores are.

    Attributes
    ----------
    name : str
        The output.
    holds : {'logits', 'probabilities', 'log-probabilities'}
        What is in it.
    logits : str
        The tensor of logits, float32, (N, K) with axes of length 1 anywhere behind the first.
    class_kind : ClassKind
        What the logits mean.
    binary : bool
        Whether two classes were made of one number: 'not that' and 'that'.
    note : str or None
        How the logits were made, where the file has none.
    others : tuple of str
        The file's other outputs, which are not looked at; none that stands for the same scores.
    source : str
        The tensor that the logits are made of, before anything was appended: the output itself, or what its softmax or
        sigmoid reads.
    columns : (float, float) or None
        Where two classes were made of one number: what it is multiplied by for the logit of each.
    """

    name: str
    holds: str
    logits: str
    class_kind: ClassKind
    binary: bool = False
    note: str | None = None
    others: tuple[str, ...] = ()
    source: str = ""
    columns: tuple[float, float] | None = None


def settle_output(
    net: Net,
    tensors: dict[str, TensorInfo],
    path: Path,
    endings: Endings,
    *,
    output: str | None = None,
    classes: str | None = None,
    recorded: str | None = None,
    probe: Probe,
) -> Output:
    """Find the class scores, and their logits; append nodes that make these where there are none.

    Appended nodes are added to the model of ``net`` and to ``tensors``. ``output`` is by default the only one that
    looks like class scores; ``classes``, 'exclusive' (the default) or 'independent', is what logits mean where the
    graph does not say, and goes before ``recorded``, the same as files beside the model record it; ``probe`` runs the
    model for a tensor, and is asked only of outputs whose operators allow nothing below 0. `ModelError` if there are no
    class scores, or several outputs might be them; `SettingError` if ``classes`` is unknown, or contradicts the graph.
    """
    for kind in (classes, recorded):
        if kind is not None and kind not in CLASS_KINDS:
            raise SettingError(f"classes {kind!r} is unknown: take one of {', '.join(CLASS_KINDS)}")
    name = choose_output(net, tensors, path, endings, output)
    base = _base(net, tensors, endings, name)
    builder = Builder(net, tensors)
    try:
        ending = endings.of(net, tensors, name)
        if ending is not None:
            found = _from_ending(builder, name, ending)
            told = "a softmax" if ending.class_kind is EXCLUSIVE else "sigmoids"
        else:
            found, told = _without_ending(builder, name, CLASS_KINDS[classes or recorded or EXCLUSIVE.name], probe)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    if told and not found.binary and classes not in (None, found.class_kind.name):
        raise SettingError(
            f"classes {classes!r}: output {name!r} of {path} makes probabilities by {told}, so its classes are "
            f"{found.class_kind.name}; leave it out"
        )
    behind = find_behind(net)
    same = {name, *(each for each, found in behind.items() if _base(net, tensors, endings, found.scores) == base)}
    others = tuple(each for each in net.outputs if each not in same)
    logits = builder.as_float32(found.logits)
    net.finish()
    return replace(found, logits=logits, others=others)


def choose_output(
    net: Net, tensors: dict[str, TensorInfo], path: Path, endings: Endings, wanted: str | None = None
) -> str:
    """The output that holds class scores, or the tensor that it stands for.

    Of several, the only one that looks like class scores: floats, one axis of two or more for every picture. Logits and
    what a softmax or sigmoid makes of them are the same scores: the first of such outputs is taken. A ZipMap, and the
    name of the winner, stand for the scores that they are made of. What is ``wanted``, an output or another tensor of
    the graph, is taken if it is one row of numbers per picture. `ModelError`, where there is none, tells the outputs
    and their shapes, and what kind of model this seems to be.
    """
    behind = find_behind(net)
    if wanted is not None:
        return _wanted(net, tensors, path, behind[wanted].scores if wanted in behind else wanted)
    outputs = [behind[value.name].scores if value.name in behind else str(value.name) for value in net.graph.output]
    told = {value.name for value in net.graph.output} | {each.scores for each in behind.values() if not each.is_winner}
    winners = {each.scores for each in behind.values() if each.is_winner}
    scores = [name for name in dict.fromkeys(outputs) if _classes(net, tensors, name) != 0]
    # What a winner was chosen by counts only where nothing else does: it may be probabilities before the last step.
    scores = [name for name in scores if name not in winners - told] or scores
    likely = [name for name in scores if _classes(net, tensors, name) != 1] or scores
    fit = [name for name in likely if not why_no_scores(net, tensors, [name])]
    ends = list({_base(net, tensors, endings, name): name for name in reversed(fit)}.values())[::-1]
    if not ends:
        said = why_no_scores(net, tensors, likely) or why_no_scores(net, tensors, outputs)
        said = said or "no output holds one row of class scores per picture"
        raise ModelError(f"{path}: {said} (outputs: {_listed(net, tensors)})")
    if len(ends) > 1:
        raise ModelError(
            f"{path}: {len(ends)} outputs look like class scores; choose one of them with --output NAME: "
            f"{_listed(net, tensors, ends)}"
        )
    return ends[0]


def _wanted(net: Net, tensors: dict[str, TensorInfo], path: Path, name: str) -> str:
    """An output that somebody names is taken, whatever it looks like, if it is one row of numbers per picture."""
    if name not in tensors and name not in net.producer:
        raise ModelError(f"{path}: there is no output {name!r}; the model has {_listed(net, tensors)}")
    is_row = _classes(net, tensors, name) != 0
    said = why_never(net, tensors, name) if is_row else why_no_scores(net, tensors, [name])
    if said or not is_row:
        said = said or f"output {name!r} is not one row of class scores per picture"
        raise ModelError(f"{path}: {said} (outputs: {_listed(net, tensors)})")
    return name


def _listed(net: Net, tensors: dict[str, TensorInfo], names: list[str] | None = None) -> str:
    values = {value.name: value for value in net.graph.output}
    return ", ".join(f"{name!r} ({_kind_words(name, values.get(name), tensors)})" for name in names or values)


def _kind_words(name: str, value: onnx.ValueInfoProto | None, tensors: dict[str, TensorInfo]) -> str:
    form = (value.type.WhichOneof("value") if value is not None else None) or "tensor_type"
    if form != "tensor_type":
        return form.removesuffix("_type")
    info = tensors.get(name)
    elem_type = (value.type.tensor_type.elem_type if value is not None else 0) or (info.elem_type if info else 0)
    kind = type_name(elem_type) if elem_type else "tensor"
    return f"{kind} {shape_words(info.shape)}" if info is not None else kind


def _classes(net: Net, tensors: dict[str, TensorInfo], name: str) -> int | None:
    """Numbers per picture in a tensor that may hold class scores; None where that is not known, 0 where it cannot."""
    value = next((value for value in net.graph.output if value.name == name), None)
    if value is not None and value.type.WhichOneof("value") not in (None, "tensor_type"):
        return 0
    info = tensors.get(name)
    if info is None:
        declared = 0 if value is None else value.type.tensor_type.elem_type
        return None if declared == 0 or declared in FLOATS else 0
    sides = [side for side in info.shape[1:] if side != 1]
    if info.elem_type not in FLOATS or not info.shape or len(sides) > 1 or is_time_first(info.shape):
        return 0
    return sides[0] if sides else 1


def _base(net: Net, tensors: dict[str, TensorInfo], endings: Endings, name: str) -> str:
    """The tensor of logits behind an output, looking through what only moves values."""
    with suppress(ModelError):  # an ending that is refused is none
        ending = endings.of(net, tensors, name)
        name = ending.logits if ending else name
    while name in net.producer and net.producer[name].op_type in MOVES:
        name = str(net.producer[name].input[0])
    return name


def _from_ending(builder: "Builder", name: str, ending: Ending) -> Output:
    if ending.single is None:
        return Output(name, ending.holds, ending.logits, ending.class_kind, source=ending.logits)
    logits = builder.two_classes(ending.logits, ending.single)
    return Output(name, ending.holds, logits, EXCLUSIVE, binary=True, source=ending.logits, columns=ending.single)


def _without_ending(builder: "Builder", name: str, kind: ClassKind, probe: Probe) -> tuple[Output, str]:
    """Logits as they are, or made from probabilities that no logits were found of; and what told the class kind."""
    single = _classes(builder.net, builder.tensors, name) == 1
    least, most = value_range(builder.net, name)
    if least >= 0:
        rows = probe(name).astype(np.float64)
        rows = rows.reshape(len(rows), -1)
        sums = rows.sum(axis=1)
        if rows.shape[1] > 1 and np.abs(sums - 1).max() < SUM_TOLERANCE and np.ptp(rows) > 0 and rows.min() >= 0:
            note = "made: logarithms of the probabilities, as no softmax of logits was found"
            logits = builder.logarithm(name)
            return Output(name, "probabilities", logits, EXCLUSIVE, note=note, source=name), "a sum of 1"
        if rows.shape[1] > 1 and np.ptp(sums) < _ROUNDING * min(sums.max(), np.ptp(rows, axis=0).max()):
            raise ModelError(
                f"output {name!r} holds shares that add up to {sums.max():.4g}, not to 1: export the model with its "
                "logits, or pass --output with the name of probabilities"
            )
        if most <= 1 + _ROUNDING and np.ptp(rows) > 0:
            note = "made: log p - log(1 - p), as no sigmoid of logits was found"
            logits = builder.log_odds(name)
            made = Output(name, "probabilities", logits, INDEPENDENT, note=note, source=name)
            return (_as_two(builder, made) if single else made), "themselves"
    plain = Output(name, "logits", name, kind, source=name)
    return (_as_two(builder, plain) if single and kind is INDEPENDENT else plain), ""


def _as_two(builder: "Builder", one: Output) -> Output:
    """The one number of an output is the logit of 'that' against 'not that'."""
    columns = (0.0, 1.0)
    logits = builder.two_classes(one.logits, columns)
    return replace(one, logits=logits, class_kind=EXCLUSIVE, binary=True, columns=columns)
