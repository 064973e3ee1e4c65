"""Rules of reductions over axes, and of softmax."""

from math import prod

from onnx import TensorProto

from onnx_evidence.vjp.elementwise import Rule
from onnx_evidence.vjp.pooling import share_of_largest
from onnx_evidence.vjp.step import Step
from onnx_evidence.vjp.tape import Value


def _axes(step: Step) -> list[int]:
    rank = len(step.shape())
    given = step.static_list(1)
    if given is None or not given:
        return [] if step.attribute("noop_with_empty_axes", 0) else list(range(rank))
    return sorted(axis % rank for axis in given)


def _kept(step: Step, value: Value, axes: list[int]) -> Value:
    """A result of the reduction with sides of 1 where axes were dropped."""
    if step.attribute("keepdims", 1) or not axes:
        return value
    return value.op("Unsqueeze", step.tape.integers(*axes))


def reduce_sum(step: Step) -> list[Value | None]:
    """ReduceSum."""
    return [_kept(step, step.g, _axes(step)).expand_like(step.x)]


def reduce_mean(step: Step) -> list[Value | None]:
    """ReduceMean."""
    axes = _axes(step)
    cells = prod(step.side(axis) for axis in axes)
    return [_kept(step, step.g * (1 / cells), axes).expand_like(step.x)]


def reduce_extreme(step: Step) -> list[Value | None]:
    """ReduceMax and ReduceMin."""
    axes = _axes(step)
    return [share_of_largest(step.x, _kept(step, step.y, axes), _kept(step, step.g, axes), axes)]


def reduce_l2(step: Step) -> list[Value | None]:
    """ReduceL2; 0 at the origin."""
    axes = _axes(step)
    zero = step.y.op("Equal", step.y.number(0.0), elem_type=TensorProto.BOOL).cast(step.y.elem_type)
    return [step.x * _kept(step, step.g / (step.y + zero), axes)]


def reduce_sum_square(step: Step) -> list[Value | None]:
    """ReduceSumSquare."""
    return [step.x * (_kept(step, step.g, _axes(step)) * 2.0)]


def reduce_l1(step: Step) -> list[Value | None]:
    """ReduceL1."""
    return [step.x.op("Sign") * _kept(step, step.g, _axes(step))]


def reduce_log_sum(step: Step) -> list[Value | None]:
    """ReduceLogSum: ``g`` over the sum, whose logarithm is ``y``."""
    return [_kept(step, step.g * (-step.y).op("Exp"), _axes(step)).expand_like(step.x)]


def reduce_log_sum_exp(step: Step) -> list[Value | None]:
    """ReduceLogSumExp: shares that a softmax gives."""
    axes = _axes(step)
    return [(step.x - _kept(step, step.y, axes)).op("Exp") * _kept(step, step.g, axes)]


def reduce_prod(step: Step) -> list[Value | None]:
    """ReduceProd: the product of all others, exact where some are 0."""
    axes = _axes(step)
    zero = step.x.op("Equal", step.x.number(0.0), elem_type=TensorProto.BOOL).cast(step.x.elem_type)
    filled = step.x + zero
    others = zero.reduce("Sum", axes) - zero
    without = others.op("Equal", others.number(0.0), elem_type=TensorProto.BOOL).cast(step.x.elem_type)
    return [_kept(step, step.g, axes) * without * filled.reduce("Prod", axes) / filled]


def softmax(step: Step) -> list[Value | None]:
    """Softmax: ``y (g - sum g y)``."""
    axis = [step.attribute("axis", -1) % len(step.shape())]
    weighted = step.g * step.y
    return [weighted - step.y * weighted.reduce("Sum", axis)]


def log_softmax(step: Step) -> list[Value | None]:
    """LogSoftmax: ``g - exp(y) sum g``."""
    axis = [step.attribute("axis", -1) % len(step.shape())]
    return [step.g - step.y.op("Exp") * step.g.reduce("Sum", axis)]


RULES: dict[str, Rule] = {
    "ReduceSum": reduce_sum,
    "ReduceMean": reduce_mean,
    "ReduceMax": reduce_extreme,
    "ReduceMin": reduce_extreme,
    "ReduceL2": reduce_l2,
    "ReduceSumSquare": reduce_sum_square,
    "ReduceL1": reduce_l1,
    "ReduceLogSum": reduce_log_sum,
    "ReduceLogSumExp": reduce_log_sum_exp,
    "ReduceProd": reduce_prod,
    "Softmax": softmax,
    "LogSoftmax": log_softmax,
}
