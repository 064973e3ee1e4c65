"""The sweep: from a forward model to the model of its vector-Jacobian product."""

from collections.abc import Iterable, Mapping, Sequence
from math import prod

import numpy as np
import onnx
from onnx import TensorProto, helper

from onnx_evidence.errors import GradientError
from onnx_evidence.graphs import Net, TensorInfo, infer_with_values, kind_of, node_inputs
from onnx_evidence.types import AnyArray
from onnx_evidence.vjp.elementwise import Rule
from onnx_evidence.vjp.modern import modern
from onnx_evidence.vjp.step import Step
from onnx_evidence.vjp.table import CHANGED, GRADIENT, GUIDED, RULES
from onnx_evidence.vjp.tape import FLOATS, Tape, Value
from onnx_evidence.vjp.written import NAMED

# What passes no derivative on: shapes, choices, comparisons.
_OPAQUE = frozenset(
    "Shape Size ArgMax ArgMin Equal Greater GreaterOrEqual Less LessOrEqual And Or Not Xor NonZero IsNaN IsInf "
    "ConstantOfShape RandomNormalLike RandomUniformLike".split()
)

_QUANTISERS = frozenset({"QuantizeLinear", "DynamicQuantizeLinear"})

# What may be done with the codes of a quantiser: rules that do no arithmetic with what was read.
_MOVES = frozenset(
    "DequantizeLinear Cast Identity Reshape Flatten Squeeze Unsqueeze Transpose Concat Slice Gather Pad Expand "
    "DepthToSpace SpaceToDepth MaxPool".split()
)


def build_vjp(model: onnx.ModelProto, *, rest: bool = False, rules: str = GRADIENT) -> onnx.ModelProto:
    """The backward model of a forward model: its vector-Jacobian product.

    Inputs of the result: the forward model's own input x (N, ...), and ``cotangent`` v (N, K), one number per
    output of the forward model y = f(x). Outputs: ``gradient``, the product ``v' df/dx``, of x's shape, and
    ``value``, y itself. The batch stays free, and rows are independent.

    With ``rest`` there is a third input, ``rest`` r (N, K) of zeros and ones, and the score differentiated is
    ``v' y - log sum_{j: r_j = 1} exp y_j``: with v = 1 at class c and r = 1 at all others it is the log-odds of
    c, exact where the probability rounds to 1; with v = 1 at c, -1 at d and no r the log-odds of c against d; with v
    alone any linear form of the logits. The softmax over the rest is taken stably inside the graph.

    Parameters
    ----------
    model : onnx.ModelProto
        One float input and one float output with the batch in front; opset 7 or newer.
    rest : bool
        Whether the result has the input ``rest``.
    rules : {'gradient', 'guided', 'attnlrp', 'conservative'}
        What cotangents mean: derivatives; guided backpropagation's (Springenberg et al. 2014), of which negative ones
        stop at rectifiers; or relevance (`vjp.relevance`), which is ``gradient`` times x.

    Returns
    -------
    onnx.ModelProto
        Standard operators of opset 18, or of the model's own where that is newer.

    Raises
    ------
    GradientError
        If an operator between input and output has no rule, with its name and place; or none is a rectifier,
        where they are to be guided.
    """
    forward = modern(model)
    source, target = forward.graph.input[0], forward.graph.output[0]
    size = source.type.tensor_type.shape.dim[0].dim_value or None
    sweep = _Sweep(Net(forward), rules)
    sweep.check()
    tape, net = sweep.tape, sweep.tape.net
    names = [net.fresh(name) for name in ("cotangent", "rest", "gradient", "value")]
    kind = tape.value(target.name).elem_type
    seed = Value(tape, names[0], kind)
    if rest:
        seed = seed - _softmax(tape.value(target.name), Value(tape, names[1], kind))
    gradient = sweep.back(source.name, target.name, seed.reshape_like(tape.value(target.name)))
    for value, name in ((gradient.op("Identity"), names[2]), (tape.value(target.name).op("Flatten", axis=1), names[3])):
        tape.rename(value, name)
    classes = prod(side or 1 for side in tape.shape(target.name)[1:])
    batch = size or "N"
    inputs = [source, *(helper.make_tensor_value_info(name, kind, [batch, classes]) for name in names[: 1 + rest])]
    shape = [dim.dim_value or None for dim in source.type.tensor_type.shape.dim]
    outputs = [
        helper.make_tensor_value_info(names[2], source.type.tensor_type.elem_type, [batch, *shape[1:]]),
        helper.make_tensor_value_info(names[3], kind, [batch, classes]),
    ]
    return net.model_of(net.needed(*names[2:]), inputs, outputs, f"{forward.graph.name}{NAMED}", ir_version=8)


def missing_rules(model: onnx.ModelProto) -> list[str]:
    """Operators between input and output that have no rule, each with the place where it is first met.

    Parameters
    ----------
    model : onnx.ModelProto
        As in `build_vjp`.

    Returns
    -------
    list of str
        Empty where `build_vjp` has every rule.
    """
    return _Sweep(Net(modern(model))).missing


class _Sweep:
    """Finds what needs a cotangent going forward, and applies the rules going back."""

    def __init__(self, net: Net, rules: str = GRADIENT) -> None:
        source, self.target = net.graph.input[0].name, net.graph.output[0].name
        self.tape = Tape(net, *_facts(net), _moved(net.nodes, source), net.reached(source))
        self.rules, self.changed = rules, CHANGED[rules]
        self.nodes = net.needed(self.target, stop={source})
        self.wanted = self._descend(source)

    def _descend(self, source: str) -> set[str]:
        """Tensors whose values vary smoothly with those of ``source``."""
        wanted = {source}
        for node in self.nodes:
            read = wanted.intersection(node_inputs(node))
            if read and node.op_type not in _OPAQUE:
                # Codes of a quantiser stand for the floats that they are rounded from, whatever its scale.
                codes = node.op_type in _QUANTISERS or not all(self._is_float(name) for name in read)
                made = node.output[:1] if node.op_type in _QUANTISERS else node.output
                wanted.update(name for name in made if codes or self._is_float(name))
        return wanted

    def _is_float(self, name: str) -> bool:
        info = self.tape.tensors.get(name)
        return info is None or info.elem_type in FLOATS

    @property
    def missing(self) -> list[str]:
        found: dict[str, str] = {}
        live = {self.target}
        for node in reversed(self.nodes):
            if not live.isdisjoint(self.wanted.intersection(node.output)):
                live.update(node.input)
                if _rule(node) is None:
                    found.pop(kind_of(node), None)
                    found[kind_of(node)] = node.output[0]
        return [f"{kind} (at {place!r})" for kind, place in reversed(found.items())]

    def check(self) -> None:
        """Raise an error if the sweep cannot go all the way back."""
        if self.missing:
            raise GradientError(f"no backward rule for {', '.join(self.missing)}")
        if self.rules == GUIDED and not any(kind_of(node) in self.changed for node in self.nodes):
            raise GradientError("guided backpropagation changes rectifiers (Relu, Clip), and there are none here")

    def back(self, source: str, target: str, seed: Value) -> Value:
        waiting: dict[str, list[Value]] = {target: [seed]}
        for node in reversed(self.nodes):
            cotangents = [_sum(waiting.pop(name, [])) for name in node.output]
            if any(cotangents) and not self.wanted.isdisjoint(node.output):
                for name, cotangent in zip(node.input, self._apply(node, cotangents), strict=False):
                    if cotangent is not None and name in self.wanted:
                        waiting.setdefault(name, []).append(cotangent)
        gradient = _sum(waiting.get(source, []))
        if gradient is None:
            raise GradientError("the output does not depend smoothly on the input: every path passes a step")
        return gradient

    def _apply(self, node: onnx.NodeProto, cotangents: Sequence[Value | None]) -> Sequence[Value | None]:
        rule = self.changed.get(kind_of(node)) or _rule(node)
        assert rule is not None  # `missing` is empty
        try:
            wanted = [name in self.wanted for name in node.input]
            codes = [name for name in node.input if name in self.wanted and not self._is_float(name)]
            if codes and node.op_type not in _MOVES:
                raise GradientError(f"it computes with codes, {codes[0]!r}")
            results = rule(Step(self.tape, node, cotangents, wanted))
            # Rules end with the last input that may depend on the picture.
            if any(wanted[len(results) :]):
                name = next(name for name in node.input[len(results) :] if name in self.wanted)
                raise GradientError(f"its input {name!r} depends on the picture")
            return results
        except GradientError as error:
            raise GradientError(f"no gradient through {node.op_type} at {node.output[0]!r}: {error}") from error


def _moved(nodes: Iterable[onnx.NodeProto], source: str) -> frozenset[str]:
    """A tensor, and all that only hold its values in another order or type."""
    found = {source}
    for node in nodes:
        if node.op_type in _MOVES - {"DequantizeLinear", "MaxPool"} and node.input and node.input[0] in found:
            found.update(node.output)
    return frozenset(found)


def _rule(node: onnx.NodeProto) -> Rule | None:
    return RULES.get(kind_of(node))


def _sum(values: Sequence[Value]) -> Value | None:
    if len(values) < 2:
        return values[0] if values else None
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total


def _softmax(logits: Value, rest: Value) -> Value:
    """Softmax over the classes of the rest alone; zeros elsewhere, also where the rest is empty."""
    flat = logits.op("Flatten", axis=1)
    inside = rest.op("Greater", rest.number(0.0), elem_type=TensorProto.BOOL)
    lowest = flat.number(float(np.finfo(np.float16).min if flat.elem_type == TensorProto.FLOAT16 else -1e30))
    masked = inside.op("Where", flat, lowest, elem_type=flat.elem_type)
    return masked.op("Softmax", axis=1) * rest


def _facts(net: Net) -> tuple[Mapping[str, TensorInfo], Mapping[str, AnyArray]]:
    """Types, shapes and small constants; where the batch is fixed, no constant's side is taken for it."""
    source = net.graph.input[0]
    size = source.type.tensor_type.shape.dim[0].dim_value or None
    tensors, values = infer_with_values(net.proto, source.name, size)
    if size is None:
        return tensors, values
    reached = net.reached(source.name)
    constant = {name: info for name, info in tensors.items() if name not in reached and info.shape[:1] == (None,)}
    told = {name: info._replace(shape=(size, *info.shape[1:])) for name, info in constant.items()}
    return {**tensors, **told}, values
