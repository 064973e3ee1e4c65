"""Rules of normalisations."""

from collections.abc import Callable, Sequence
from functools import partial
from math import prod

from onnx import TensorProto

from onnx_evidence.errors import GradientError
from onnx_evidence.vjp.elementwise import Rule
from onnx_evidence.vjp.step import Step
from onnx_evidence.vjp.tape import Value


def batch_normalization(step: Step) -> list[Value | None]:
    """BatchNormalization as it is deployed: a constant factor per channel."""
    if step.attribute("training_mode", 0):
        raise GradientError("BatchNormalization in training mode has no rule")
    factor = step.input(1) / (step.input(4) + step.attribute("epsilon", 1e-5)).op("Sqrt")
    return _first(step, step.g * factor.reshape(-1, *[1] * (len(step.shape()) - 2)))


def _first(step: Step, cotangent: Value) -> list[Value | None]:
    """The cotangent of the only input that depends on the picture."""
    if any(step.wanted[1:]):
        raise GradientError(f"a parameter of {step.node.op_type} depends on the picture")
    return [cotangent]


def _back(x: Value, g: Value, axes: Sequence[int], epsilon: float, held: bool) -> Value:
    """Cotangent of ``x`` where ``(x - mean) / sqrt(variance + epsilon)`` over axes has the cotangent ``g``.

    With the root held constant, if it is ``held``.
    """
    centred = x - x.reduce("Mean", axes)
    inverse = 1 / ((centred * centred).reduce("Mean", axes) + epsilon).op("Sqrt")
    if held:
        return inverse * (g - g.reduce("Mean", axes))
    normal = centred * inverse
    return inverse * (g - g.reduce("Mean", axes) - normal * (g * normal).reduce("Mean", axes))


def instance_normalization(step: Step, held: bool = False) -> list[Value | None]:
    """InstanceNormalization: per picture and channel."""
    rank = len(step.shape())
    scaled = step.g * step.input(1).reshape(-1, *[1] * (rank - 2))
    return _first(step, _back(step.x, scaled, list(range(2, rank)), step.attribute("epsilon", 1e-5), held))


def layer_normalization(step: Step, held: bool = False) -> list[Value | None]:
    """LayerNormalization: over the last axes."""
    rank = len(step.shape())
    axes = list(range(step.attribute("axis", -1) % rank, rank))
    return _first(step, _back(step.x, step.g * step.input(1), axes, step.attribute("epsilon", 1e-5), held))


def rms_normalization(step: Step, held: bool = False) -> list[Value | None]:
    """RMSNormalization: over the last axes, about 0."""
    rank = len(step.shape())
    axes = list(range(step.attribute("axis", -1) % rank, rank))
    inverse = 1 / ((step.x * step.x).reduce("Mean", axes) + step.attribute("epsilon", 1e-5)).op("Sqrt")
    normal, scaled = step.x * inverse, step.g * step.input(1)
    if held:
        return _first(step, inverse * scaled)
    return _first(step, inverse * (scaled - normal * (scaled * normal).reduce("Mean", axes)))


def group_normalization(step: Step, held: bool = False) -> list[Value | None]:
    """GroupNormalization: scales are per group before opset 21, per channel since."""
    groups, channels = step.attribute("num_groups"), step.side(1)
    rank = len(step.shape())
    scale = step.input(1)
    if step.side(0, 1) != channels:
        per_channel = scale.reshape(-1, 1).op("Tile", step.tape.integers(1, channels // groups))
        scale = per_channel.reshape(-1)
    scaled = step.g * scale.reshape(-1, *[1] * (rank - 2))
    x, g = (value.op("Reshape", step.tape.integers(0, groups, -1)) for value in (step.x, scaled))
    return _first(step, _back(x, g, [2], step.attribute("epsilon", 1e-5), held).reshape_like(step.x))


def lrn(step: Step, held: bool = False) -> list[Value | None]:
    """LRN: ``y = x s^-b`` with ``s = bias + a/size * (squares of the neighbouring channels)``."""
    size, bias = step.attribute("size"), step.attribute("bias", 1.0)
    alpha, beta = step.attribute("alpha", 1e-4), step.attribute("beta", 0.75)
    below, above = (size - 1) // 2, size // 2
    total = _channel_mean(step, step.x * step.x, size, below, above) * alpha + bias
    direct = step.g * total**-beta
    if held:
        return [direct]
    # The neighbours of a channel are those whose neighbour it is, the other way round.
    through = _channel_mean(step, direct * step.x / total, size, above, below)
    return [direct - step.x * through * (2 * alpha * beta)]


def _channel_mean(step: Step, value: Value, size: int, below: int, above: int) -> Value:
    """Sum over neighbouring channels, divided by ``size``."""
    lined = value.reshape(-1, 1, step.side(1), prod(step.side(axis) for axis in range(2, len(step.shape()))))
    pooled = lined.op("AveragePool", kernel_shape=[size, 1], pads=[below, 0, above, 0], count_include_pad=1)
    return pooled.reshape_like(step.x)


def mean_variance_normalization(step: Step, held: bool = False) -> list[Value | None]:
    """MeanVarianceNormalization: ``c / (s + 1e-9)``, with ``c`` the distance from the mean and ``s`` the deviation."""
    axes = [axis % len(step.shape()) for axis in step.attribute("axes", [0, 2, 3])]
    centred = step.x - step.x.reduce("Mean", axes)
    deviation = (centred * centred).reduce("Mean", axes).op("Sqrt")
    flat = deviation.op("Equal", deviation.number(0.0), elem_type=TensorProto.BOOL).cast(step.x.elem_type)
    inverse = 1 / (deviation + 1e-9)
    if held:
        return [(step.g - step.g.reduce("Mean", axes)) * inverse]
    through = (step.g * centred).reduce("Mean", axes) * inverse * inverse / (deviation + flat)
    return [(step.g - step.g.reduce("Mean", axes)) * inverse - centred * through]


def lp_normalization(step: Step, held: bool = False) -> list[Value | None]:
    """LpNormalization: divided by the length along an axis."""
    axes, order = [step.attribute("axis", -1) % len(step.shape())], step.attribute("p", 2)
    length = step.x.reduce(f"L{order}", axes)
    zero = length.op("Equal", length.number(0.0), elem_type=TensorProto.BOOL).cast(step.x.elem_type)
    if held:
        return [step.g / (length + zero)]
    slope = step.y if order == 2 else step.x.op("Sign")
    return [(step.g - slope * (step.g * step.y).reduce("Sum", axes)) / (length + zero)]


# Those that divide by a spread of their own.
_BY_SPREAD: dict[str, Callable[..., list[Value | None]]] = {
    "InstanceNormalization": instance_normalization,
    "LayerNormalization": layer_normalization,
    "RMSNormalization": rms_normalization,
    "GroupNormalization": group_normalization,
    "LRN": lrn,
    "MeanVarianceNormalization": mean_variance_normalization,
    "LpNormalization": lp_normalization,
}

RULES: dict[str, Rule] = {"BatchNormalization": batch_normalization, **_BY_SPREAD}
# The same with the spread held constant.
HELD: dict[str, Rule] = {name: partial(rule, held=True) for name, rule in _BY_SPREAD.items()}
