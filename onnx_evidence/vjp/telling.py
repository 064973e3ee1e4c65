"""Of which models relevance tells what gradients do not: those that normalise tokens, and those that are smooth.

Behind rectifiers relevance is gradient times input, and noise; behind activations of the form ``x`` times a smooth gate
of ``x`` it is not (measured: docs/faithfulness.md). Activations are told by what they are made of, in one node or in
several. Tensors that depend on the picture are called ``moving``, their ``shapes`` have None for the batch.
"""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import onnx

from onnx_evidence.graphs import Net
from onnx_evidence.vjp.relevance import GATES, SHAPED, THROUGH, comes_from, kind_of, origin

Shapes = Mapping[str, Sequence[int | None] | None]

# What tokens are normalised by: as one node, and the root of what is divided by, where it is written out.
_TOKEN_NORMS = frozenset({"LayerNormalization", "RMSNormalization"})
_SPREADS = frozenset({"Sqrt"})
# Activations that are ``x`` times a gate of ``x`` and smooth: as one node, or gates of those that are written out, and
# what else may lie between ``x`` and its gate (a softplus chooses by comparison, where it is written out).
_SMOOTH = frozenset("Gelu Swish Mish".split())
_SMOOTH_GATES = frozenset("Sigmoid Tanh Erf".split())
_BETWEEN = THROUGH | SHAPED | _SMOOTH_GATES | frozenset("Pow Softplus Exp Log Neg Where Greater Less".split())
# What is straight on both sides of a kink, and what rectifiers are written with.
_KINKED = frozenset(
    "Relu Clip LeakyRelu PRelu ThresholdedRelu HardSwish HardSigmoid "
    "Max Min Abs Sign Greater Less GreaterOrEqual LessOrEqual QuantizeLinear".split()
)
# Whose codes begin at their least value for another reason than a rectifier.
_POSITIVE = GATES | frozenset("Softmax Softplus Exp Pow".split())
# Bounds that keep numbers from overflowing, or from dividing by nothing, and are hardly ever met.
_FAR, _NEAR = 1e4, 1e-3


def relevance_tells(net: Net, moving: Collection[str], shapes: Shapes) -> bool:
    """Whether relevance tells of a model what gradients do not.

    Parameters
    ----------
    net : Net
        The graph.
    moving : collection of str
        Tensors that depend on the picture.
    shapes : mapping
        Of tensors, None for the batch.

    Returns
    -------
    bool
        Where tokens are normalised, or all activations are smooth.
    """
    return normalises(net, moving, shapes) or is_smooth(net, moving, shapes)


def normalises(net: Net, moving: Collection[str], shapes: Shapes) -> bool:
    """Whether somewhere in a graph tokens are normalised: divided by a spread of theirs, as LayerNormalization does."""

    def of_tokens(name: str) -> bool:
        # One number for each, and not one for a picture, or a channel.
        return name in moving and [*(shapes.get(name) or ())][1:].count(1) == 1

    for node in net.nodes:
        if node.op_type in _TOKEN_NORMS:
            return True
        if node.op_type in ("Div", "Reciprocal"):
            divisor = node.input[-1]
            if of_tokens(divisor) and comes_from(net, moving, divisor, _SPREADS):
                return True
        if node.op_type == "Pow" and of_tokens(node.input[0]) and kind_of(net, moving, node) == "Reciprocal":
            return True
    return False


def is_smooth(net: Net, moving: Collection[str], shapes: Shapes) -> bool:
    """Whether features go through activations of the form ``x`` times a smooth gate of ``x``, and never through kinks.

    What leads to gates alone may have kinks where it has one position, as in squeeze-and-excitation.
    """
    alive = [node for node in net.nodes if any(name in moving for name in node.output)]
    gating = {node.output[0]: _gating(net, moving, node) for node in alive}
    # Comparisons that a gate is written with.
    inside = set().union(*gating.values())
    smooth = [node for node in alive if node.op_type in _SMOOTH or gating[node.output[0]]]
    # What is rectified by its codes is so in front of a gate, too.
    asked = [node for node in alive if node.op_type == "QuantizeLinear" or node.output[0] not in inside]
    kinks = (node for node in asked if _is_kinked(net, moving, node))
    return any(_has_places(shapes.get(node.output[0])) for node in smooth) and not any(
        _has_places(shapes.get(node.output[0])) or not _leads_to_gates(net, moving, node.output[0]) for node in kinks
    )


def _has_places(shape: Sequence[int | None] | None) -> bool:
    """Whether a tensor may have more than one position, or token: more than one side that is not 1."""
    return shape is None or len(shape) - 1 - list(shape[1:]).count(1) > 1


def _is_kinked(net: Net, moving: Collection[str], node: onnx.NodeProto) -> bool:
    """Whether a node is, or is a part of, an activation with a kink."""
    if node.op_type == "QuantizeLinear":
        # Rectifiers in front are left to the codes, which then begin at 0.
        zero = net.array(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros(1, np.uint8)
        least = zero is not None and zero.dtype.kind in "iu" and bool((zero == np.iinfo(zero.dtype).min).all())
        made = origin(net, moving, node.input[0]) in net.producer
        return least and made and not comes_from(net, moving, node.input[0], _POSITIVE)
    if node.op_type == "Clip":
        low, high = (net.array(name) if name else None for name in [*node.input[1:], "", ""][:2])
        beyond = (low is None or low.item() < -_FAR or 0 < low.item() < _NEAR) and (high is None or high.item() > _FAR)
        return not beyond and origin(net, moving, node.input[0]) in net.producer
    return node.op_type in _KINKED


def _leads_to_gates(net: Net, moving: Collection[str], name: str) -> bool:
    """Whether a tensor has a say by way of gates alone."""
    seen, waiting, ends = {name}, [name], set(net.outputs)
    while waiting:
        name = waiting.pop()
        if name in ends:
            return False
        for reader in net.readers.get(name, []):
            if reader.op_type != "Mul" or not comes_from(net, moving, name, GATES):
                waiting += [each for each in reader.output if each not in seen]
                seen.update(reader.output)
    return True


def _gating(net: Net, moving: Collection[str], node: onnx.NodeProto) -> set[str]:
    """What lies between ``x`` and its gate, where a product is of these two; else nothing."""
    if node.op_type == "Mul" and all(name in moving for name in node.input):
        for gate, other in (node.input, reversed(node.input)):
            if comes_from(net, moving, gate, _SMOOTH_GATES):
                found = _between(net, moving, gate, origin(net, moving, other))
                if found is not None:
                    return found
    return set()


def _between(net: Net, moving: Collection[str], gate: str, goal: str) -> set[str] | None:
    """What a gate is computed through, value by value, from something else; None where it is not from that."""
    seen: set[str] = set()
    waiting, met = [gate], False
    while waiting:
        name = waiting.pop()
        node = net.producer.get(name)
        met |= name == goal
        if name == goal or name in seen or name not in moving:
            continue
        seen.add(name)
        if node is not None and node.op_type in _BETWEEN:
            waiting += node.input
    return seen if met else None
