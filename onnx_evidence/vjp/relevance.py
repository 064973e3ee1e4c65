"""Rules that hand relevance back in place of derivatives: what an input brought about of an output, not the slope.

With them a tensor times its cotangent is layer-wise relevance propagation, in gradient times input: what the inputs of
a node are given adds up to what its output had, but for what biases take (Bach et al. 2015; Ali et al., ICML 2022).

* Activations hand back ``g f(x) / x`` (Achtibat et al. 2024, eq. 9); one written as ``x`` times a gate, its gate.
* Of a product of two tensors that both depend on the picture each factor gets half (eq. 7 and section 3.3.2), but a
  gate, which says how much of the other passes, gets nothing (Arras et al. 2017).
* Normalisations hold the spread that they divide by (section 3.3.3; Ali et al.), as every quotient holds its divisor.
* Softmax and all others keep their derivative, the first order of a Taylor series (proposition 3.1).

`ATTNLRP` is these, as in Achtibat et al. (ICML 2024). `CONSERVATIVE` takes the weights of attention for gates, too, so
that no relevance goes by way of queries and keys (CP-LRP, Ali et al.): then softmax adds and takes nothing.
"""

from collections.abc import Callable, Collection
from functools import partial

import numpy as np
import onnx
from onnx import TensorProto

from onnx_evidence.errors import GradientError
from onnx_evidence.graphs import Net
from onnx_evidence.types import AnyArray
from onnx_evidence.vjp import attention, elementwise, linear, normalization
from onnx_evidence.vjp.elementwise import Rule
from onnx_evidence.vjp.step import Step
from onnx_evidence.vjp.tape import Value

# Functions whose values say how much of something else passes, or what it is divided by; and those whose values may as
# well be what passes, where both factors are of these.
GATES = frozenset("Sigmoid HardSigmoid Tanh Erf Softsign Clip Reciprocal".split())
_SIGNALS = frozenset("Tanh Erf Softsign Clip".split())
# The weights of attention.
_WEIGHTS = frozenset({"Softmax"})
# What their values may go through on the way; of the latter the first input alone has values.
THROUGH = frozenset("Add Sub Mul Div Cast Identity Dropout Flatten Transpose".split())
SHAPED = frozenset("Reshape Squeeze Unsqueeze Expand QuantizeLinear DequantizeLinear".split())


def origin(net: Net, moving: Collection[str], name: str) -> str:
    """What a tensor is, but for being scaled and shifted by what is not ``moving``."""
    while (node := net.producer.get(name)) is not None and kind_of(net, moving, node) in THROUGH | SHAPED:
        inputs = node.input[:1] if node.op_type in SHAPED else node.input
        read = [each for each in inputs if each in moving]
        if len(read) != 1:
            break
        name = read[0]
    return name


def comes_from(net: Net, moving: Collection[str], name: str, kinds: frozenset[str]) -> bool:
    """Whether a tensor is made by a node of some kinds, none of those that scale, and only scaled and shifted since."""
    node = net.producer.get(origin(net, moving, name))
    return node is not None and kind_of(net, moving, node) in kinds


def kind_of(net: Net, moving: Collection[str], node: onnx.NodeProto) -> str:
    """The operator; those that take the reciprocal of what depends on the picture are all called by one name."""
    if node.op_type == "Div" and node.input[0] not in moving:
        return "Reciprocal"
    if node.op_type == "Pow" and node.input[1] not in moving:
        exponent = net.array(node.input[1])
        return "Reciprocal" if exponent is not None and exponent.size == 1 and exponent.item() < 0 else "Pow"
    return node.op_type


def shared(rule: Rule, gates: frozenset[str], factors: int | None = None) -> Rule:
    """A product's rule: of its factors those that depend on the picture share evenly, but for gates."""

    def changed(step: Step) -> list[Value | None]:
        tape, names = step.tape, step.node.input
        among = [index for index, wanted in enumerate(step.wanted[:factors]) if wanted]

        def others(kinds: frozenset[str]) -> list[int]:
            return [index for index in among if not comes_from(tape.net, tape.moving, names[index], kinds)]

        signals = others(gates) or others(gates - _SIGNALS) or among
        return [
            value if index not in among else _scaled(value, 1 / len(signals) if index in signals else 0.0)
            for index, value in enumerate(rule(step))
        ]

    return changed


def _scaled(value: Value | None, share: float) -> Value | None:
    return None if value is None or not share else value if share == 1 else value * share


def divide(step: Step) -> list[Value | None]:
    """Div: the divisor is held, where not it alone depends on the picture."""
    return [step.like(0, step.g / step.input(1)), None] if step.wanted[0] else elementwise.divide(step)


def _over(step: Step, at_zero: Value) -> Value:
    """``g f(x) / x``, and something else where ``x`` is 0."""
    zero = step.x.op("Equal", step.x.number(0.0), elem_type=TensorProto.BOOL)
    divisor = zero.op("Where", step.x.number(1.0), step.x, elem_type=step.x.elem_type)
    return zero.op("Where", at_zero, step.g * (step.y / divisor), elem_type=step.x.elem_type)


def secant(rule: Rule) -> Rule:
    """The rule of an activation with ``f(0) = 0``: ``f(x) / x``, and the derivative at 0."""

    def changed(step: Step) -> list[Value | None]:
        slope = rule(step)[0]
        assert slope is not None  # activations have one input
        return [_over(step, slope)]

    return changed


def clip(step: Step) -> list[Value | None]:
    """Clip: `secant` where its bounds are on both sides of 0."""
    try:
        low, high = (None if bound is None else float(bound.item()) for bound in (step.static(1), step.static(2)))
    except GradientError:
        return elementwise.clip(step)
    around = (low is None or low <= 0) and (high is None or high >= 0)
    return secant(elementwise.clip)(step) if around else elementwise.clip(step)


def rooted(rule: Rule) -> Rule:
    """The rule of a power with ``f(0) = 0``: ``f(x) / x``, and 0 at 0, where derivatives of roots are infinite."""

    def changed(step: Step) -> list[Value | None]:
        exponent = np.atleast_1d(0.5) if step.node.op_type == "Sqrt" else _known(step, 1)
        if exponent is None or not (exponent > 0).all():
            return rule(step)
        return [step.like(0, _over(step, step.x.number(0.0)))]

    return changed


def _known(step: Step, index: int) -> AnyArray | None:
    """The value of an input, if it is a constant."""
    return step.tape.values.get(step.node.input[index])


def attend(step: Step, gates: frozenset[str]) -> list[Value | None]:
    """Attention: of each of its products the factors that depend on the picture share evenly."""
    queries, keys, values = step.wanted[:3]
    of_weights = 1.0 if not values else 0.5 if not gates >= _WEIGHTS else 0.0
    of_scores = of_weights / max(1, queries + keys)
    shares = of_scores, of_scores, 1.0 - of_weights if queries or keys else 1.0
    return [_scaled(value, share) for value, share in zip(attention.attention(step), shares, strict=True)]


_Gated = Callable[[Step], Value]
# What activations multiply ``x`` by.
_SELF_GATED: dict[str, _Gated] = {
    "Gelu": elementwise.gelu_gate,
    "Swish": lambda step: (step.x * step.attribute("alpha", 1.0)).op("Sigmoid"),
    "HardSwish": lambda step: step.x.op("HardSigmoid", alpha=1 / 6, beta=0.5),
    "Mish": lambda step: step.x.op("Softplus").op("Tanh"),
}


def _rules(gates: frozenset[str]) -> dict[str, Rule]:
    return {
        **{name: elementwise.unary(gate) for name, gate in _SELF_GATED.items()},
        **{name: secant(elementwise.RULES[name]) for name in ("Elu", "Selu", "Celu", "Tanh", "Softsign", "Erf")},
        **{name: rooted(elementwise.RULES[name]) for name in ("Sqrt", "Pow")},
        "Clip": clip,
        "Mul": shared(elementwise.multiply, gates),
        "Div": divide,
        "MatMul": shared(linear.matmul, gates),
        "Gemm": shared(linear.gemm, gates, factors=2),
        "Einsum": shared(linear.einsum, gates),
        "Attention": partial(attend, gates=gates),
        **normalization.HELD,
    }


ATTNLRP = _rules(GATES)
CONSERVATIVE = _rules(GATES | _WEIGHTS)
