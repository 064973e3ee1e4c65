"""Rules of operators that work value by value, with broadcasting.

Kinks take one of their one-sided derivatives: 0 where a rectifier or a clip is shut, also exactly at its edge;
where several inputs of a minimum or maximum are equal they share the cotangent.
"""

import math
from collections.abc import Callable

import numpy as np
from onnx import TensorProto, helper

from onnx_evidence.errors import GradientError
from onnx_evidence.vjp.step import Step
from onnx_evidence.vjp.tape import FLOATS, Number, Value

Rule = Callable[[Step], list[Value | None]]
_CODES = frozenset({TensorProto.UINT8, TensorProto.INT8, TensorProto.UINT16, TensorProto.INT16})


def unary(derivative: Callable[[Step], Number]) -> Rule:
    """The rule of ``y = f(x)``: the cotangent times ``f'``, a number or a value made of ``x`` and ``y``."""
    return lambda step: [step.g * derivative(step)]


def _leaky(open_at: Value, slope: Number, steep: Number = 1.0) -> Value:
    """``steep`` where ``open_at`` is positive, ``slope`` elsewhere."""
    opened = open_at.step()
    return opened * steep + (1 - opened) * slope


def _between(value: Value, low: float | None, high: float | None) -> Value | None:
    """1 strictly between two bounds, 0 elsewhere; None where there are no bounds."""
    steps = [
        value.step(bound, sign)
        for bound, sign in ((low, 1), (high, -1))
        if bound is not None and abs(bound) < float(np.finfo(np.float32).max)
    ]
    return None if not steps else steps[0] if len(steps) == 1 else steps[0] * steps[1]


def clip(step: Step) -> list[Value | None]:
    """Clip: the cotangent passes strictly between the bounds."""
    try:
        low, high = (None if bound is None else float(bound.item()) for bound in (step.static(1), step.static(2)))
    except GradientError:
        inside = step.y.op("Equal", step.x, elem_type=TensorProto.BOOL).cast(step.x.elem_type)
        return [step.g * inside]
    opened = _between(step.y, low, high)
    return [step.g if opened is None else step.g * opened]


def prelu(step: Step) -> list[Value | None]:
    """PRelu; the slope is a constant of the model."""
    if step.wanted[1]:
        raise GradientError("the slope of PRelu depends on the picture")
    return [step.g * _leaky(step.x, step.input(1))]


def hard_swish(step: Step) -> Value:
    """Derivative of ``x clip(x/6 + 1/2, 0, 1)``."""
    gate = step.x.op("HardSigmoid", alpha=1 / 6, beta=0.5)
    return gate + step.x * (gate.step() * gate.step(1.0, -1)) * (1 / 6)


def swish(step: Step) -> Value:
    """Derivative of ``x sigmoid(a x)``."""
    slope: float = step.attribute("alpha", 1.0)
    gate = (step.x * slope).op("Sigmoid")
    return gate * (1 + step.x * slope * (1 - gate))


def mish(step: Step) -> Value:
    """Derivative of ``x tanh(softplus(x))``."""
    gate = step.x.op("Softplus").op("Tanh")
    return gate + step.x * (1 - gate * gate) * step.x.op("Sigmoid")


def gelu_gate(step: Step) -> Value:
    """What both forms of Gelu multiply ``x`` by."""
    x = step.x
    if step.attribute("approximate", "none") == "tanh":
        inner = (x + x * x * x * 0.044715) * math.sqrt(2 / math.pi)
        return (1 + inner.op("Tanh")) * 0.5
    return ((x * math.sqrt(0.5)).op("Erf") + 1) * 0.5


def gelu(step: Step) -> Value:
    """Derivative of both forms of Gelu."""
    x, gate = step.x, gelu_gate(step)
    if step.attribute("approximate", "none") == "tanh":
        slope = (1 + x * x * (3 * 0.044715)) * math.sqrt(2 / math.pi)
        return gate + x * gate * (1 - gate) * slope * 2.0
    return gate + x * (x * x * -0.5).op("Exp") * (1 / math.sqrt(2 * math.pi))


def multiply(step: Step) -> list[Value | None]:
    """Mul."""
    return [step.like(0, step.g * step.input(1)), step.like(1, step.g * step.input(0))]


def divide(step: Step) -> list[Value | None]:
    """Div."""
    over = step.g / step.input(1)
    return [step.like(0, over), step.like(1, -(over * step.y))]


def power(step: Step) -> list[Value | None]:
    """Pow; ``x^(b-1)`` is asked for itself, so that 0 squared has derivative 0."""
    base, exponent = step.input(0), step.input(1)
    # The exponent may have another type than the base.
    typed = exponent.cast(base.elem_type)
    of_base = step.g * typed * base.op("Pow", typed - 1.0)
    if not step.wanted[1]:
        return [step.like(0, of_base)]
    of_exponent = (step.g * step.y * base.op("Log")).cast(exponent.elem_type)
    return [step.like(0, of_base), step.like(1, of_exponent)]


def extreme(step: Step) -> list[Value | None]:
    """Min and Max of any number of inputs."""
    chosen = [
        step.input(index).op("Equal", step.y, elem_type=TensorProto.BOOL).cast(step.y.elem_type)
        for index in range(len(step.node.input))
    ]
    total = chosen[0].op("Sum", *chosen[1:])
    share = step.g / total
    return [step.like(index, share * mask) for index, mask in enumerate(chosen)]


def where(step: Step) -> list[Value | None]:
    """Where; the condition passes no cotangent."""
    zero = step.g.number(0.0)
    condition = step.input(0)
    first = condition.op("Where", step.g, zero, elem_type=step.g.elem_type)
    second = condition.op("Where", zero, step.g, elem_type=step.g.elem_type)
    return [None, step.like(1, first), step.like(2, second)]


def add(step: Step) -> list[Value | None]:
    """Add and Sum."""
    return [step.like(index, step.g) for index in range(len(step.node.input))]


def subtract(step: Step) -> list[Value | None]:
    """Sub."""
    return [step.like(0, step.g), step.like(1, -step.g) if step.wanted[1] else None]


def mean(step: Step) -> list[Value | None]:
    """Mean of any number of inputs."""
    share = step.g * (1 / len(step.node.input))
    return [step.like(index, share) for index in range(len(step.node.input))]


def cast(step: Step) -> list[Value | None]:
    """Cast between floats: the cotangent is cast back; that of a quantiser's codes is kept as it is."""
    back = step.g.cast(step.x.elem_type) if step.x.elem_type in FLOATS else step.g
    return [back, None]


def modulo(step: Step) -> list[Value | None]:
    """Mod of floats: ``a - b q``, q a whole number."""
    if not step.wanted[1]:
        return [step.like(0, step.g)]
    whole = ((step.x - step.y) / step.input(1)).op("Round")
    return [step.like(0, step.g), step.like(1, -(step.g * whole))]


def shrink(step: Step) -> Value:
    """Derivative of Shrink: 0 between its thresholds."""
    threshold: float = step.attribute("lambd", 0.5)
    return step.x.step(threshold) + step.x.step(-threshold, -1)


def same(step: Step) -> list[Value | None]:
    """Operators that change nothing: Identity, and Dropout as it is deployed."""
    return [step.g]


def flat(step: Step) -> list[Value | None]:
    """Operators that are constant almost everywhere."""
    return [None] * len(step.node.input)


def _along_axis(step: Step, index: int) -> Value:
    """The scale or zero point of a quantiser, in the shape that broadcasts against what is quantised."""
    parameter = step.input(index)
    if step.shape(index) in ((), (1,)):
        return parameter
    if step.attribute("block_size", 0):
        raise GradientError(f"{step.node.op_type} in blocks has no rule")
    axis = step.attribute("axis", 1) % len(step.shape())
    return parameter.reshape(*(-1 if place == axis else 1 for place in range(len(step.shape()))))


def dequantize(step: Step) -> list[Value | None]:
    """DequantizeLinear, straight through: cotangents of codes are kept as floats."""
    return [step.g * _along_axis(step, 1)]


def quantize(step: Step) -> list[Value | None]:
    """QuantizeLinear, straight through where the code does not saturate.

    What an operator computes is not read here, only its code, and the last codes count as saturated: a second reader
    would keep the runtime from computing the operator with integers, and the logits would not be the model's.
    """
    scale = _along_axis(step, 1)
    code = step.tape.tensors[step.node.output[0]].elem_type
    if code not in _CODES:
        raise GradientError(f"codes of type {TensorProto.DataType.Name(code)} have no rule")
    limits = np.iinfo(helper.tensor_dtype_to_np_dtype(code))
    if step.node.input[0] in step.tape.given:
        place = step.x / scale
        if step.has(2):
            place = place + _along_axis(step, 2).cast(step.x.elem_type)
        opened = _between(place, float(limits.min) - 0.5, float(limits.max) + 0.5)
    else:
        opened = _between(step.y.cast(step.x.elem_type), float(limits.min) + 0.5, float(limits.max) - 0.5)
    assert opened is not None  # both bounds are finite
    return [step.g * opened / scale]


def quantize_by_range(step: Step) -> list[Value | None]:
    """DynamicQuantizeLinear, straight through: its scale is that of what it rounds, and no code saturates."""
    return [step.g / step.tape.value(step.node.output[1])]


def _clipped_line(step: Step) -> Value:
    opened = _between(step.y, 0.0, 1.0)
    assert opened is not None  # both bounds are finite
    slope: float = step.attribute("alpha", 0.2)
    return opened * slope


RULES: dict[str, Rule] = {
    "Relu": unary(lambda step: step.y.step()),
    "LeakyRelu": unary(lambda step: _leaky(step.x, step.attribute("alpha", 0.01))),
    "PRelu": prelu,
    "ThresholdedRelu": unary(lambda step: step.x.step(step.attribute("alpha", 1.0))),
    "Elu": unary(lambda step: _leaky(step.x, step.y + step.attribute("alpha", 1.0))),
    "Selu": unary(
        lambda step: _leaky(
            step.x,
            step.y + step.attribute("alpha", 1.6732632423543772) * step.attribute("gamma", 1.0507009873554805),
            step.attribute("gamma", 1.0507009873554805),
        )
    ),
    "Celu": unary(lambda step: _leaky(step.x, step.y / step.attribute("alpha", 1.0) + 1)),
    "Clip": clip,
    "Sigmoid": unary(lambda step: step.y * (1 - step.y)),
    "HardSigmoid": unary(_clipped_line),
    "HardSwish": unary(hard_swish),
    "Swish": unary(swish),
    "Mish": unary(mish),
    "Gelu": unary(gelu),
    "Tanh": unary(lambda step: 1 - step.y * step.y),
    "Erf": unary(lambda step: (-(step.x * step.x)).op("Exp") * (2 / math.sqrt(math.pi))),
    "Softplus": unary(lambda step: step.x.op("Sigmoid")),
    "Softsign": unary(lambda step: 1 / (step.x.op("Abs") + 1) ** 2.0),
    "Exp": unary(lambda step: step.y),
    "Log": unary(lambda step: 1 / step.x),
    "Sqrt": unary(lambda step: 0.5 / step.y),
    "Reciprocal": unary(lambda step: -(step.y * step.y)),
    "Neg": unary(lambda step: -1.0),
    "Abs": unary(lambda step: step.x.op("Sign")),
    "Sin": unary(lambda step: step.x.op("Cos")),
    "Cos": unary(lambda step: -step.x.op("Sin")),
    "Tan": unary(lambda step: step.y * step.y + 1),
    "Asin": unary(lambda step: 1 / (1 - step.x * step.x).op("Sqrt")),
    "Acos": unary(lambda step: -1 / (1 - step.x * step.x).op("Sqrt")),
    "Atan": unary(lambda step: 1 / (step.x * step.x + 1)),
    "Sinh": unary(lambda step: step.x.op("Cosh")),
    "Cosh": unary(lambda step: step.x.op("Sinh")),
    "Asinh": unary(lambda step: 1 / (step.x * step.x + 1).op("Sqrt")),
    "Acosh": unary(lambda step: 1 / (step.x * step.x - 1).op("Sqrt")),
    "Atanh": unary(lambda step: 1 / (1 - step.x * step.x)),
    "Shrink": unary(shrink),
    "Add": add,
    "Sum": add,
    "Sub": subtract,
    "Mul": multiply,
    "Div": divide,
    "Pow": power,
    "Mod": modulo,
    "Min": extreme,
    "Max": extreme,
    "Mean": mean,
    "Where": where,
    "Cast": cast,
    "CastLike": cast,
    "Identity": same,
    "Dropout": same,
    "Floor": flat,
    "Ceil": flat,
    "Round": flat,
    "Sign": flat,
    "Hardmax": flat,
    "QuantizeLinear": quantize,
    "DynamicQuantizeLinear": quantize_by_range,
    "DequantizeLinear": dequantize,
}
