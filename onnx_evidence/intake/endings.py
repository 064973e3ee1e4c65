"""What stands between the logits and an output: found by running it, not by its looks.

Softmax is written in many ways: as one node before or behind a Flatten, along an axis or, up to opset 12, over all axes
from one on; as Exp, ReduceSum and Div, with the largest logit taken off or not. So the end of the graph is taken apart
at every tensor that the output follows from alone, run by ONNX Runtime on numbers drawn for that tensor, and compared
with what a softmax or a sigmoid makes of the same numbers.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnx_evidence.errors import ModelError
from onnx_evidence.evidence import EXCLUSIVE, INDEPENDENT, ClassKind
from onnx_evidence.graphs import Net, Shape, TensorInfo, asked_sides, is_standard, node_inputs
from onnx_evidence.sessions import Session, settle_device
from onnx_evidence.types import AnyArray, FloatArray

# Operators that hand values on as they are, but for their axes and precision.
MOVES = frozenset("Cast Identity Flatten Reshape Squeeze Unsqueeze Dropout Transpose".split())
# Operators that endings are made of besides; those that make probabilities are among them.
_MAKERS = frozenset("Softmax LogSoftmax Sigmoid Exp Tanh".split())
_ARITHMETIC = frozenset(
    "Add Sub Mul Div Neg Abs Reciprocal Log Max Min Clip ReduceSum ReduceMax ReduceLogSumExp Concat Slice Gather "
    "Expand Shape Split".split()
)
# Pairs of these round to codes and back: what is recognised is what they round.
_CODES = frozenset({"QuantizeLinear", "DequantizeLinear"})
# Longer endings are no endings.
_LONGEST = 40
# Rows and scales of the numbers drawn.
_ROWS = 3
_SPREAD = 3.0
# Stands for an axis whose length is not known.
_ANY = 5
# Differences of probabilities that rounding explains, as a share of the largest: some eight times the half of a last
# digit, of which float16 has 11, and bfloat16 8.
_HALVES: dict[int, float] = {TensorProto.FLOAT16: 4e-3, TensorProto.BFLOAT16: 3.2e-2}
_TOLERANCE: dict[int, float] = {TensorProto.FLOAT: 1e-4, TensorProto.DOUBLE: 1e-4} | _HALVES


@dataclass(frozen=True)
class Ending:
    """The end of a graph, from the logits to an output.

    Attributes
    ----------
    logits : str
        The tensor that it begins with.
    holds : {'probabilities', 'log-probabilities'}
        What it makes of them.
    class_kind : ClassKind
        Softmax, or a sigmoid for every label.
    single : tuple of float or None
        Where one number makes two classes: what it is multiplied by for the logit of each; (0, 1) or (1, 0).
    """

    logits: str
    holds: str
    class_kind: ClassKind
    single: tuple[float, float] | None = None


def _softmax(logits: FloatArray) -> FloatArray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def _sigmoid(logits: FloatArray) -> FloatArray:
    return np.asarray(1 / (1 + np.exp(-logits)))


def _of(function: Callable[[FloatArray], FloatArray], *columns: float) -> Callable[[FloatArray], FloatArray]:
    """The softmax of one number times ``columns``."""
    return lambda logits: function(logits * np.array(columns))


# Logits and results of a row (None: as many as there are, two or more), what is made, of what, and how.
_Form = tuple[int | None, int | None, str, ClassKind, tuple[float, float] | None, Callable[[FloatArray], FloatArray]]
_FORMS: tuple[_Form, ...] = (
    (None, None, "probabilities", EXCLUSIVE, None, _softmax),
    (None, None, "log-probabilities", EXCLUSIVE, None, lambda logits: np.log(_softmax(logits))),
    (None, None, "probabilities", INDEPENDENT, None, _sigmoid),
    (1, 1, "probabilities", EXCLUSIVE, (0.0, 1.0), _sigmoid),
    (1, 2, "probabilities", EXCLUSIVE, (0.0, 1.0), _of(_softmax, 0.0, 1.0)),
    (1, 2, "probabilities", EXCLUSIVE, (1.0, 0.0), _of(_softmax, 1.0, 0.0)),
)


def find_ending(net: Net, tensors: Mapping[str, TensorInfo], output: str) -> Ending | None:
    """The logits behind an output, where the graph's end makes probabilities of them in a way that is known.

    None where the output holds logits, or something that no softmax and no sigmoid makes; `ModelError` if the last
    operator is a softmax over something else than the classes, or probabilities are in other units.
    """
    best = None
    for start, nodes in _starts(net, tensors, output):
        readers = [node for node in nodes if start in node.input]
        # Behind what was found already, only the logits of which the largest was taken off are better: read twice.
        if all(node.op_type in MOVES | _CODES for node in readers) or (best is not None and len(readers) < 2):
            continue
        made = _run(net, tensors, start, output, nodes)
        if form := _recognise(made):
            best = Ending(start, *form[2:5])
        elif best is None and _is_softmax_alone(nodes):
            raise ModelError(_wrong_axis(tensors, start, output, nodes))
        elif best is None and (factor := max((_factor(form, made) for form in _FORMS), default=0.0) if made else 0.0):
            rest = [node.output[0] for node in reversed(nodes)]
            known = (each for each in rest if _recognise(_run(net, tensors, start, each, nodes)))
            raise ModelError(_in_other_units(output, factor, next(known, None)))
    return best


class Endings:
    """The endings of a graph, each found once: to find one takes sessions."""

    def __init__(self) -> None:
        self._found: dict[str, Ending | ModelError | None] = {}

    def of(self, net: Net, tensors: Mapping[str, TensorInfo], output: str) -> Ending | None:
        """As `find_ending`, in the graph as it is then."""
        if output not in self._found:
            try:
                self._found[output] = find_ending(net, tensors, output)
            except ModelError as error:
                self._found[output] = error
        found = self._found[output]
        if isinstance(found, ModelError):
            raise found.with_traceback(None)
        return found

    def look_again(self) -> None:
        """Look again for endings that were not found: the graph was changed, which may have brought them to light."""
        self._found = {name: found for name, found in self._found.items() if isinstance(found, Ending)}


def _in_other_units(output: str, factor: float, inner: str | None) -> str:
    """A refusal of probabilities times a number, such as percentages: as logits they would round to p = 0 or 1."""
    remedy = "export the probabilities themselves" if inner is None else f"they are in {inner!r}: pass --output {inner}"
    return f"output {output!r} holds probabilities times {factor:.4g}; {remedy}"


def _is_softmax_alone(nodes: list[onnx.NodeProto]) -> bool:
    kinds = [node.op_type for node in nodes if node.op_type not in MOVES | _CODES]
    return kinds in (["Softmax"], ["LogSoftmax"])


def _wrong_axis(tensors: Mapping[str, TensorInfo], start: str, output: str, nodes: list[onnx.NodeProto]) -> str:
    softmax = next(node for node in nodes if node.op_type not in MOVES | _CODES)
    axis = next((each.i for each in softmax.attribute if each.name == "axis"), "its default")
    shape = tensors[start].shape if start in tensors else ()
    return (
        f"output {output!r} is a {softmax.op_type} along axis {axis} of {shape_words(shape)}, not over the classes of "
        "one picture: export the model with its logits, or with the axis of the classes"
    )


def shape_words(shape: Shape) -> str:
    """A shape for people: 'N x 1000'; '?' for a side that is not known."""
    first = ["N" if side is None else str(side or "?") for side in shape[:1]]
    return " x ".join([*first, *("?" if side is None else str(side) for side in shape[1:])]) or "a single number"


def _starts(net: Net, tensors: Mapping[str, TensorInfo], output: str) -> Iterator[tuple[str, list[onnx.NodeProto]]]:
    """Tensors that the output follows from alone, from the output backwards, with the nodes in between in order."""
    data = data_tensors(net)
    live, nodes = {output}, list[onnx.NodeProto]()
    made = False
    for node in reversed(net.nodes):
        if live.isdisjoint(node.output):
            continue
        known = node.op_type in MOVES | _MAKERS | _ARITHMETIC | _CODES and is_standard(node)
        if not known or len(nodes) > _LONGEST:
            return
        made |= node.op_type in _MAKERS
        nodes.insert(0, node)
        live.difference_update(node.output)
        if node.op_type != "Shape" or _sides(node, tensors, 1) is None:
            live.update(name for name in node_inputs(node) if name in data)
        if made and len(live) == 1:
            yield next(iter(live)), list(nodes)


def data_tensors(net: Net) -> set[str]:
    """Tensors that depend on the input of a graph whose nodes are in order."""
    return net.reached(*(value.name for value in net.inputs))


def _sides(node: onnx.NodeProto, tensors: Mapping[str, TensorInfo], rows: int) -> AnyArray | None:
    """What a Shape node outside the ending says of that many pictures; None where it is not known."""
    info = tensors.get(node.input[0])
    if info is None or not info.shape or any(not side for side in info.shape[1:]) or info.shape[0] == 0:
        return None
    return np.array([info.shape[0] or rows, *info.shape[1:]], np.int64)[asked_sides(node)]


class _Made(NamedTuple):
    """Numbers drawn for the logits (N, K), what the ending makes of them (N, L), and how far rounding may be off."""

    logits: FloatArray
    result: FloatArray
    tolerance: float


def _recognise(made: _Made | None) -> _Form | None:
    """Whose work the results of an ending are."""
    return None if made is None else next((form for form in _FORMS if _is_work_of(form, made)), None)


def _is_work_of(form: _Form, made: _Made) -> bool:
    inside, outside, holds, _, _, function = form
    if not _fits(made.logits.shape[1], inside, made.result.shape[1], outside):
        return False
    expected, found = function(made.logits), made.result
    if holds == "log-probabilities":
        expected, found = np.exp(expected), np.exp(np.minimum(found, 1.0))
    # Of many classes even the largest probability may be small.
    return bool(np.abs(found - expected).max() <= made.tolerance * expected.max())


def _factor(form: _Form, made: _Made) -> float:
    """What a form's probabilities were multiplied by; 0 where they were not."""
    inside, outside, holds, _, _, function = form
    if holds != "probabilities" or not _fits(made.logits.shape[1], inside, made.result.shape[1], outside):
        return 0.0
    expected = function(made.logits)
    factor = float((made.result * expected).sum() / (expected**2).sum())
    same = np.abs(made.result - factor * expected).max() <= made.tolerance * factor * expected.max()
    return factor if same else 0.0


def _run(
    net: Net, tensors: Mapping[str, TensorInfo], start: str, output: str, nodes: list[onnx.NodeProto]
) -> _Made | None:
    """Run the ending on numbers; None where it does not run on any."""
    info = tensors.get(start)
    if info is None or not info.shape or info.elem_type not in _TOLERANCE:
        return None
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(info.elem_type))
    sides = [info.shape[0] or _ROWS, *(side or _ANY for side in info.shape[1:])]
    given = (_SPREAD * np.random.default_rng(0).standard_normal(sides)).astype(dtype)
    try:
        model = _alone(net, tensors, start, output, _unrounded(nodes), info.elem_type, sides)
        session = Session(model, settle_device("cpu"))
        result = session.run(given).astype(np.float64).reshape(len(given), -1)
    except ModelError:
        return None
    logits = given.astype(np.float64).reshape(len(given), -1)
    # Half precision anywhere rounds the results, also of logits that are wider.
    made = {tensors[name].elem_type for node in nodes for name in node.output if name in tensors}
    tolerances = [_HALVES[kind] for kind in made & _HALVES.keys()]
    return _Made(logits, result, max([_TOLERANCE[info.elem_type], *tolerances]))


def _unrounded(nodes: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """The same nodes without pairs of quantisers, whose steps would hide what is rounded."""
    codes = {node.output[0]: node.input[0] for node in nodes if node.op_type == "QuantizeLinear"}
    pairs = [node for node in nodes if node.op_type == "DequantizeLinear" and node.input[0] in codes]
    handed = {id(node): helper.make_node("Identity", [codes[node.input[0]]], node.output) for node in pairs}
    gone = {node.input[0] for node in pairs}
    return [handed.get(id(node), node) for node in nodes if gone.isdisjoint(node.output)]


def _fits(classes: int, inside: int | None, results: int, outside: int | None) -> bool:
    if inside is None:
        return classes == results and classes > 1
    return (classes, results) == (inside, outside)


def _alone(
    net: Net,
    tensors: Mapping[str, TensorInfo],
    start: str,
    output: str,
    nodes: list[onnx.NodeProto],
    elem_type: int,
    sides: list[int],
) -> onnx.ModelProto:
    """The ending as a model of its own."""
    inside = {start, *(name for node in nodes for name in node.output)}
    outside = [node for node in nodes if node.op_type == "Shape" and node.input[0] not in inside]
    kept = [node for node in nodes if all(node is not each for each in outside)]
    final = tensors[output].elem_type if output in tensors else elem_type
    net = net.copy()
    for node in outside:
        net.store(numpy_helper.from_array(np.asarray(_sides(node, tensors, sides[0])), node.output[0]))
    return net.model_of(
        kept,
        [helper.make_tensor_value_info(start, elem_type, sides)],
        [helper.make_tensor_value_info(output, final, None)],
        "ending",
    )
