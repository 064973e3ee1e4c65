"""Rules that hand relevance back in place of derivatives: what an input brought about of an output, not the slope.

With them a tensor times its cotangent is layer-wise relevance propagation, in gradient times input: what the inputs of
a node are given adds up to what its output had, but for what biases take (Bach et al. 2015; Ali et al., ICML 2022).

* Activations hand back ``g f(x) / x`` (Achtibat et al. 2024, eq. 9); one written as ``x`` times a gate, its gate.
* Of a product of two tensors that both depend on the picture each factor gets half (eq. 14 and 15), but a gate, which
  says how much of the other passes, gets nothing (Arras et al. 2017).
* Normalisations hold the spread that they divide by (Ali et al., eq. 8), as every quotient holds its divisor.
* Softmax and all others keep their derivative, the first order of a Taylor series (Achtibat et al., eq. 12).

`ATTNLRP` is these, as in Achtibat et al. (ICML 2024). `CONSERVATIVE` takes the weights of attention for gates, too, so
that no relevance goes by way of queries and keys (Ali et al., eq. 7): then nothing is gained or lost by softmax.
"""

from collections.abc import Callable, Collection
from functools import partial

from onnx import TensorProto

from onnx_evidence.errors import GradientError
from onnx_evidence.graphs import Net
from onnx_evidence.vjp import attention, elementwise, linear, normalization
from onnx_evidence.vjp.elementwise import Rule
from onnx_evidence.vjp.step import Step
from onnx_evidence.vjp.tape import Value

# Functions whose values say how much of something else passes, or what it is divided by.
_GATES = frozenset("Sigmoid HardSigmoid Tanh Erf Softsign Clip Reciprocal".split())
# The weights of attention.
_WEIGHTS = frozenset({"Softmax"})
# What tokens are normalised by: as one node, and the root of what is divided by, where it is written out.
_TOKEN_NORMS = frozenset({"LayerNormalization", "RMSNormalization"})
_SPREADS = frozenset({"Sqrt"})
# What their values may go through on the way.
_THROUGH = frozenset("Add Sub Mul Div Cast Identity Dropout Reshape Squeeze Unsqueeze Flatten Transpose Expand".split())


def comes_from(net: Net, moving: Collection[str], name: str, kinds: frozenset[str]) -> bool:
    """Whether a tensor is made by a node of some kinds, and only scaled and shifted by what is not ``moving`` since."""
    while (node := net.producer.get(name)) is not None and node.op_type in _THROUGH:
        read = [each for each in node.input if each in moving]
        if len(read) != 1:
            return False
        name = read[0]
    return node is not None and node.op_type in kinds


def normalises(net: Net, moving: Collection[str]) -> bool:
    """Whether somewhere in a graph tokens are normalised: divided by a spread of theirs, as LayerNormalization does.

    Parameters
    ----------
    net : Net
        The graph.
    moving : collection of str
        Tensors that depend on the picture.

    Returns
    -------
    bool
    """
    divisors = [node.input[-1] for node in net.nodes if node.op_type in ("Div", "Reciprocal")]
    written = any(name in moving and comes_from(net, moving, name, _SPREADS) for name in divisors)
    return written or any(node.op_type in _TOKEN_NORMS for node in net.nodes)


def shared(rule: Rule, gates: frozenset[str] = _GATES) -> Rule:
    """A product's rule: factors that depend on the picture share evenly, but for gates."""

    def changed(step: Step) -> list[Value | None]:
        tape, names = step.tape, step.node.input
        among = [index for index, wanted in enumerate(step.wanted) if wanted]
        signals = [index for index in among if not comes_from(tape.net, tape.moving, names[index], gates)] or among
        shares = [1 / len(signals) if index in signals else 0.0 for index in range(len(names))]
        return [_scaled(value, share) for value, share in zip(rule(step), shares, strict=True)]

    return changed


def _scaled(value: Value | None, share: float) -> Value | None:
    return None if value is None or not share else value if share == 1 else value * share


def gemm(step: Step, gates: frozenset[str] = _GATES) -> list[Value | None]:
    """Gemm: its bias is added, not multiplied, and gets all of its own."""
    first, second, *bias = linear.gemm(step)
    factors = shared(lambda step: [first, second, *[None for _ in bias]], gates)(step)
    return [*factors[:2], *bias]


def divide(step: Step) -> list[Value | None]:
    """Div: the divisor is held, where not it alone depends on the picture."""
    return [step.like(0, step.g / step.input(1)), None] if step.wanted[0] else elementwise.divide(step)


def secant(rule: Rule) -> Rule:
    """The rule of an activation with ``f(0) = 0``: ``f(x) / x``, and the derivative at 0."""

    def changed(step: Step) -> list[Value | None]:
        zero = step.x.op("Equal", step.x.number(0.0), elem_type=TensorProto.BOOL)
        over = zero.op("Where", step.x.number(1.0), step.x, elem_type=step.x.elem_type)
        return [zero.op("Where", rule(step)[0], step.g * (step.y / over), elem_type=step.x.elem_type)]

    return changed


def clip(step: Step) -> list[Value | None]:
    """Clip: `secant` where its bounds are on both sides of 0."""
    try:
        low, high = (None if bound is None else float(bound.item()) for bound in (step.static(1), step.static(2)))
    except GradientError:
        return elementwise.clip(step)
    around = (low is None or low <= 0) and (high is None or high >= 0)
    return secant(elementwise.clip)(step) if around else elementwise.clip(step)


def attend(step: Step, shares: tuple[float, float, float]) -> list[Value | None]:
    """Attention: queries, keys and values get these shares."""
    return [_scaled(value, share) for value, share in zip(attention.attention(step), shares, strict=True)]


_Gated = Callable[[Step], Value]
# What activations multiply ``x`` by.
_SELF_GATED: dict[str, _Gated] = {
    "Gelu": elementwise.gelu_gate,
    "Swish": lambda step: (step.x * step.attribute("alpha", 1.0)).op("Sigmoid"),
    "HardSwish": lambda step: step.x.op("HardSigmoid", alpha=1 / 6, beta=0.5),
    "Mish": lambda step: step.x.op("Softplus").op("Tanh"),
}


def _rules(gates: frozenset[str], shares: tuple[float, float, float]) -> dict[str, Rule]:
    return {
        **{name: elementwise.unary(gate) for name, gate in _SELF_GATED.items()},
        **{name: secant(elementwise.RULES[name]) for name in ("Elu", "Selu", "Celu", "Tanh", "Softsign", "Erf")},
        "Clip": clip,
        "Mul": shared(elementwise.multiply, gates),
        "Div": divide,
        "MatMul": shared(linear.matmul, gates),
        "Gemm": partial(gemm, gates=gates),
        "Einsum": shared(linear.einsum, gates),
        "Attention": partial(attend, shares=shares),
        **normalization.HELD,
    }


ATTNLRP = _rules(_GATES, (0.25, 0.25, 0.5))
CONSERVATIVE = _rules(_GATES | _WEIGHTS, (0.0, 0.0, 1.0))
