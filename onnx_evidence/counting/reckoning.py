"""Values of a few numbers, computed from such: what sizes are made of, without inference, session or evaluator."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper

from onnx_evidence.counting.held import FEW, MOST, Call, Held
from onnx_evidence.graphs import asked_sides, evaluate
from onnx_evidence.types import AnyArray

_UNARY: dict[str, Callable[[AnyArray], Any]] = {
    "Identity": np.array,
    "Neg": np.negative,
    "Abs": np.abs,
    "Floor": np.floor,
    "Ceil": np.ceil,
    "Round": np.rint,
    "Sqrt": np.sqrt,
    "Not": np.logical_not,
    "Exp": np.exp,
    "Log": np.log,
    "Reciprocal": np.reciprocal,
}
_BINARY: dict[str, Callable[[AnyArray, AnyArray], Any]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Equal": np.equal,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
    "And": np.logical_and,
    "Or": np.logical_or,
    "Max": np.maximum,
    "Min": np.minimum,
}
_REDUCED: dict[str, Callable[..., Any]] = {
    "ReduceProd": np.prod,
    "ReduceSum": np.sum,
    "ReduceMax": np.max,
    "ReduceMin": np.min,
}
# Of weights and codes: what sizes are never made of, and slow to compute one by one.
_PASSED_OVER = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})


def reckoned(call: Call, made: Sequence[Held], opsets: Sequence[onnx.OperatorSetIdProto]) -> list[AnyArray] | None:
    """The values of a node's outputs, where they are few and all that it reads is known; otherwise None."""
    operator, first = call.node.op_type, call.held(0)
    if operator in ("Shape", "Size"):
        return None if first is None else _sides(call, first)
    values = [None if held is None else held.value for held in call.inputs]
    given = [value for value in values if value is not None]
    if len(given) < sum(held is not None for held in call.inputs) or not _few(made):
        return None
    try:
        with np.errstate(all="ignore"):
            found = _compute(call, given)
    except (ValueError, IndexError, TypeError, OverflowError, ZeroDivisionError, KeyError):
        found = None
    if found is None and sum(value.size for value in given) <= FEW and operator not in _PASSED_OVER:
        found = _evaluated(call, given, opsets)
    return found if found is not None and all(value.size <= MOST for value in found) else None


def _few(made: Sequence[Held]) -> bool:
    return all(held.size is not None and held.size <= MOST for held in made)


def _sides(call: Call, held: Held) -> list[AnyArray] | None:
    if held.shape is None or not held.exact or any(side >= 2**63 for side in held.shape):
        return None
    sides = np.array(held.shape, np.int64)
    return [sides[asked_sides(call.node)] if call.node.op_type == "Shape" else sides.prod()]


def _compute(call: Call, given: Sequence[AnyArray]) -> list[AnyArray] | None:
    operator = call.node.op_type
    if operator in _UNARY and len(given) == 1:
        return [np.asarray(_UNARY[operator](given[0]))]
    if operator in _BINARY and len(given) == 2:
        return [np.asarray(_BINARY[operator](*given))]
    if operator in _REDUCED and (len(given) == 1 or given[1].size):
        axes = given[1].ravel().tolist() if len(given) > 1 else call.attr("axes")
        keep = bool(call.attr("keepdims", 1))
        reduced = _REDUCED[operator](given[0], axis=tuple(axes) if axes else None, keepdims=keep)
        return [np.asarray(reduced).astype(given[0].dtype)]
    rule = _OTHERS.get(operator)
    return None if rule is None else [np.asarray(rule(call, given))]


def _divided(call: Call, given: Sequence[AnyArray]) -> Any:
    one, other = given
    if one.dtype.kind not in "iu":
        return one / other
    if not other.all():
        raise ZeroDivisionError
    # Towards zero, as in C.
    return (np.sign(one) * np.sign(other) * (np.abs(one) // np.abs(other))).astype(one.dtype)


def _cast(call: Call, given: Sequence[AnyArray]) -> Any:
    return given[0].astype(helper.tensor_dtype_to_np_dtype(call.attr("to", 1)))


def _taken(call: Call, given: Sequence[AnyArray]) -> Any:
    return np.take(given[0], given[1].astype(np.int64), axis=call.attr("axis", 0))


def _joined(call: Call, given: Sequence[AnyArray]) -> Any:
    return np.concatenate(given, axis=call.attr("axis", 1))


def _cut(call: Call, given: Sequence[AnyArray]) -> Any:
    starts, ends = call.numbers(1, "starts") or [], call.numbers(2, "ends") or []
    axes, steps = call.numbers(3, "axes") or range(len(starts)), call.numbers(4) or [1] * len(starts)
    places: list[Any] = [slice(None)] * given[0].ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        beyond = int(step) < 0 and int(end) < -given[0].shape[int(axis)]
        places[int(axis)] = slice(int(start), None if beyond else int(end), int(step))
    return given[0][tuple(places)]


def _without(call: Call, given: Sequence[AnyArray]) -> Any:
    axes = call.numbers(1, "axes")
    return np.squeeze(given[0], tuple(int(axis) for axis in axes) if axes else None)


def _with(call: Call, given: Sequence[AnyArray]) -> Any:
    return np.expand_dims(given[0], tuple(int(axis) for axis in call.numbers(1, "axes") or []))


def _shaped(call: Call, given: Sequence[AnyArray]) -> Any:
    sides = [int(side) for side in call.numbers(1, "shape") or []]
    if not call.attr("allowzero", 0):
        sides = [given[0].shape[place] if side == 0 else side for place, side in enumerate(sides)]
    return given[0].reshape(sides)


def _filled(call: Call, given: Sequence[AnyArray]) -> Any:
    value = call.attr("value")
    fill = np.zeros(1, np.float32) if value is None else onnx.numpy_helper.to_array(value)
    return np.full([int(side) for side in given[0].ravel()], fill.ravel()[0], fill.dtype)


def _counted(call: Call, given: Sequence[AnyArray]) -> Any:
    return np.arange(*(each.item() for each in given), dtype=given[0].dtype)


def _chosen(call: Call, given: Sequence[AnyArray]) -> Any:
    return np.where(*given)


def _broadcast(call: Call, given: Sequence[AnyArray]) -> Any:
    return given[0] * np.ones([int(side) for side in given[1]], given[0].dtype)


def _clipped(call: Call, given: Sequence[AnyArray]) -> Any:
    low, high = call.held(1), call.held(2)
    return np.clip(given[0], None if low is None else low.value, None if high is None else high.value)


def _remainder(call: Call, given: Sequence[AnyArray]) -> Any:
    return np.fmod(*given) if call.attr("fmod", 0) else np.mod(*given)


def _turned(call: Call, given: Sequence[AnyArray]) -> Any:
    return np.transpose(given[0], call.attr("perm"))


_OTHERS: dict[str, Callable[[Call, Sequence[AnyArray]], Any]] = {
    "Div": _divided,
    "Cast": _cast,
    "Gather": _taken,
    "Concat": _joined,
    "Slice": _cut,
    "Squeeze": _without,
    "Unsqueeze": _with,
    "Reshape": _shaped,
    "ConstantOfShape": _filled,
    "Range": _counted,
    "Where": _chosen,
    "Expand": _broadcast,
    "Clip": _clipped,
    "Mod": _remainder,
    "Transpose": _turned,
}


def _evaluated(
    call: Call, given: Sequence[AnyArray], opsets: Sequence[onnx.OperatorSetIdProto]
) -> list[AnyArray] | None:
    """By the slow way, for what the table does not have; what it makes is known to be little."""
    names = [name for name in call.node.input if name]
    found = evaluate(call.node, dict(zip(names, given, strict=True)), opsets)
    return None if found is None else [found[name] for name in call.node.output if name]
