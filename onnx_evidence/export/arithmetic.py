"""Evidence in a graph: what `evidence.path`, `evidence.score`, `evidence.agreement` say of numbers, said of tensors.

All tensors are float32. Maps are (maps, N, H, W): of so many cuts and backgrounds, for N pictures.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from onnx_evidence.evidence import CONTRADICTED, LN2, STANDS_OUT
from onnx_evidence.vjp import Value

# No exponent of a logit that does not count; nothing is divided by less.
_NEVER = -1e30
_LEAST = 1e-30


@dataclass(frozen=True)
class GraphScore:
    """As `evidence.Score`, for every picture its own: (N, K) each; no ``rest`` for scores that are linear."""

    direction: Value
    rest: Value | None
    classes: int

    def bits(self, logits: Value) -> Value:
        """The score in bits (..., N), of logits (..., N, K)."""
        linear = (logits * self.direction).reduce("Sum", [-1], keepdims=False)
        if self.rest is None:
            return linear / LN2
        counts = self.rest.op("Greater", self.rest.number(0.0), elem_type=TensorProto.BOOL)
        others = counts.op("Where", logits, logits.number(_NEVER), elem_type=logits.elem_type)
        # Written out: OpenVINO 2026.4 has ReduceLogSumExp sum over other axes, too, where sides are free.
        largest = others.reduce("Max", [-1])
        total = (others - largest).op("Exp").reduce("Sum", [-1]).op("Log") + largest
        return (linear - total.op("Squeeze", total.tape.integers(-1))) / LN2


@dataclass(frozen=True)
class GraphBudget:
    """As `evidence.Budget`, for every picture: (N,) each, bits; and whether the cut has any, 1 or 0."""

    with_features: Value
    without: Value
    supporting: Value
    opposing: Value
    speaks: Value

    @classmethod
    def of(cls, cells: Value, with_features: Value, without: Value) -> "GraphBudget":
        """Of cells (N, A, B)."""
        supporting, opposing = (_part(cells, sign).reduce("Sum", [1, 2], keepdims=False) for sign in (1, -1))
        speaks = _is_more(cells.op("Abs").reduce("Max", [1, 2], keepdims=False), 0.0)
        return cls(with_features, without, supporting, opposing, speaks)


def mean_budget(budgets: Sequence[GraphBudget]) -> Value:
    """With, without, for, against and gap (N, 5), bits: the mean over cuts that are not silent, all if all are."""
    counts = counted([each.speaks for each in budgets])
    total = summed(counts)
    names = ("with_features", "without", "supporting", "opposing")
    means = [
        summed([getattr(each, name) * count for each, count in zip(budgets, counts, strict=True)]) / total
        for name in names
    ]
    gap = (means[2] + means[3] - (means[0] - means[1])).op("Abs")
    return stacked([*means, gap], 1)


def counted(speak: Sequence[Value]) -> list[Value]:
    """For each of some cuts how much it counts, 1 or 0, (N,): not where it is silent, but where all are."""
    none = 1.0 - _is_more(summed(speak), 0.0)
    return [each + none for each in speak]


def mean(maps: Value, weights: Value) -> Value:
    """Of maps, by weights (maps, N, 1, 1): (N, H, W)."""
    total = (maps * weights).reduce("Sum", [0], keepdims=False)
    return total / weights.reduce("Sum", [0], keepdims=False)


def agreed(maps: Value, weights: Value) -> Value:
    """The mean of maps where they agree, (N, H, W); see `evidence.agreement.agreement`."""
    largest = maps.op("Abs").reduce("Max", [0, 2, 3])
    scale = largest + (1.0 - _is_more(largest, 0.0))
    scaled = maps / scale
    middle, size = mean(scaled, weights), mean(scaled.op("Abs"), weights)
    count = weights.reduce("Sum", [0], keepdims=False)
    apart = scaled - middle
    # Of one map there is no variance, and it agrees with itself.
    spread = _over_pixels(apart * apart * weights, "Mean", [2, 3]).reduce("Sum", [0], keepdims=False)
    noise = spread / (count - 1.0).op("Max", count.number(0.5))
    square = middle * middle
    weight = middle.op("Abs") / size.op("Max", size.number(_LEAST))
    weight = weight * square / (square + noise * STANDS_OUT**2).op("Max", square.number(_LEAST))
    alone = 1.0 - _is_more(count, 1.5)
    weight = weight * (1.0 - alone) + alone
    return rescaled(middle * weight, middle) * scale.op("Squeeze", scale.tape.integers(0))


def rescaled(values: Value, like: Value) -> Value:
    """Values (N, H, W) whose positive and negative parts are scaled to the sums that others' have.

    Where nothing of a part is left it is that of the others.
    """
    return summed([_part(_scaled(values, like, sign), sign) for sign in (1, -1)])


def _scaled(values: Value, like: Value, sign: int) -> Value:
    share, kept, _ = _share(values, like, sign)
    return _part(values, sign) * share + _part(like, sign) * (1.0 - kept)


def held_against(maps: Value, weights: Value, beside: Value, count: int) -> Value:
    """The mean of maps where they and another (N, H, W) agree; see `evidence.agreement.held_against`."""
    alone, unaided = mean(maps, weights), agreed(maps, weights)
    size = _over_pixels(beside.op("Abs"), "Sum", [1, 2])
    scale = _over_pixels(alone.op("Abs"), "Sum", [1, 2]) / size.op("Max", size.number(_LEAST))
    tape = beside.tape
    axes = tape.integers(0)
    both = maps.op("Concat", (beside * scale).op("Unsqueeze", axes), axis=0)
    own = weights.slice([0], [1], [0])
    more = weights.op("Concat", own.op("Max", own.number(1.0)) * float(count), axis=0)
    found = agreed(both, more)
    shares = [_share(found, alone, sign) for sign in (1, -1)]
    # Where of the bits for, or against, hardly any are left, the other says the contrary.
    trusted = shares[0][2] * shares[1][2] * _is_more(size, 0.0)
    kept = summed([_part(found, sign) * share for sign, (share, *_) in zip((1, -1), shares, strict=True)])
    return kept * trusted + unaided * (1.0 - trusted)


def _share(values: Value, like: Value, sign: int) -> tuple[Value, Value, Value]:
    """What a part of values is multiplied with to have the sum of that of others.

    And whether there is anything of it, and not too little; 1 or 0.
    """
    wanted, there = (_over_pixels(_part(each, sign), "Sum", [1, 2]) for each in (like, values))
    kept = _is_more(there.op("Abs"), 0.0)
    share = wanted / (there + (1.0 - kept)) * kept
    enough = 1.0 - _is_more(wanted.op("Abs") * CONTRADICTED - there.op("Abs"), 0.0)
    return share, kept, enough


def _over_pixels(values: Value, how: str, axes: Sequence[int]) -> Value:
    """Sums or means over all pixels of a map, in float64 and rounded once: in float32 there are many roundings."""
    return values.cast(TensorProto.DOUBLE).reduce(how, axes).cast(TensorProto.FLOAT)


def _part(values: Value, sign: int) -> Value:
    """What is positive of values, or negative; 0 elsewhere."""
    return values.op("Max" if sign > 0 else "Min", values.number(0.0))


def _is_more(value: Value, bound: float) -> Value:
    """1 where a value is above a bound, 0 elsewhere."""
    return value.op("Greater", value.number(bound), elem_type=TensorProto.BOOL).cast(value.elem_type)


def summed(values: Sequence[Value]) -> Value:
    """The sum of values, the first ones first."""
    total = values[0]
    for each in values[1:]:
        total = total + each
    return total


def stacked(values: Sequence[Value], axis: int) -> Value:
    """Values along a new axis."""
    axes = values[0].tape.integers(axis)
    first, *others = [each.op("Unsqueeze", axes) for each in values]
    return first.op("Concat", *others, axis=axis)


def trapezoid(steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Places from 0 to 1, evenly spaced, and their weights; as `evidence.path` takes them first."""
    places = np.linspace(0, 1, steps)
    widths = np.diff(places)
    return places, np.concatenate([[0.0], widths]) / 2 + np.concatenate([widths, [0.0]]) / 2
