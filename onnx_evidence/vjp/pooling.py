"""Rules of pools."""

from math import prod

import numpy as np
from onnx import TensorProto

from onnx_evidence.errors import GradientError
from onnx_evidence.types import AnyArray
from onnx_evidence.vjp.elementwise import Rule
from onnx_evidence.vjp.indexing import scattered
from onnx_evidence.vjp.sliding import Sliding, spread
from onnx_evidence.vjp.step import Step
from onnx_evidence.vjp.tape import Value


def global_average_pool(step: Step) -> list[Value | None]:
    """GlobalAveragePool: every cell has the same share."""
    cells = prod(step.side(axis) for axis in range(2, len(step.shape())))
    return [(step.g * (1 / cells)).expand_like(step.x)]


def global_max_pool(step: Step) -> list[Value | None]:
    """GlobalMaxPool: the largest cells share the cotangent."""
    return [share_of_largest(step.x, step.y, step.g, list(range(2, len(step.shape()))))]


def share_of_largest(x: Value, y: Value, g: Value, axes: list[int]) -> Value:
    """Cotangents ``g`` of the extremes ``y`` of ``x`` over axes, shared by all cells that attain them.

    They are of the shape of ``x``; ``y`` and ``g`` keep the axes that were reduced, with sides of 1.
    """
    mask = x.op("Equal", y, elem_type=TensorProto.BOOL).cast(x.elem_type)
    return mask * (g / mask.reduce("Sum", axes))


def average_pool(step: Step) -> list[Value | None]:
    """AveragePool with both conventions of counting the padding."""
    geometry = Sliding.of(step, step.attribute("kernel_shape"))
    size, padding_counts = prod(geometry.kernel), bool(step.attribute("count_include_pad", 0))
    shares = size / _counts(geometry, padding_counts)
    if padding_counts and _reach_out(geometry):
        cotangent = step.g * _shares_of_runtime(step, geometry)
    else:
        cotangent = step.g if (shares == 1).all() else step.g * step.g.typed(shares[None, None])
    kernel, dilations = list(geometry.kernel), list(geometry.dilations)

    def average(stuffed: Value, pads: list[int]) -> Value:
        if any(each >= side for each, side in zip(pads, kernel * 2, strict=True)):
            # More than pools may pad, as dilation needs; and ONNX Runtime would move a Pad into the pool.
            even = stuffed.typed(np.full((step.side(1), 1, *kernel), 1 / size))
            return stuffed.op("Conv", even, group=step.side(1), pads=pads, dilations=dilations)
        spaced = dilations if max(dilations) > 1 else None  # since opset 19
        return stuffed.op("AveragePool", kernel_shape=kernel, pads=pads, dilations=spaced, count_include_pad=1)

    return [spread(cotangent, step.side(1), geometry, average)]


def _counts(geometry: Sliding, include_pad: bool) -> AnyArray:
    """Cells that each window is averaged over, shape (results...)."""
    per_axis = []
    for axis, side in enumerate(geometry.kernel):
        first = -geometry.before[axis] if include_pad else 0
        last = geometry.sizes[axis] + (geometry.after[axis] if include_pad else 0)
        start = np.arange(geometry.results[axis]) * geometry.strides[axis] - geometry.before[axis]
        cells = start[:, None] + np.arange(side) * geometry.dilations[axis]
        per_axis.append(((cells >= first) & (cells < last)).sum(axis=1))
    counts = per_axis[0]
    for each in per_axis[1:]:
        counts = counts[..., None] * each
    return np.asarray(counts)


def _reach_out(geometry: Sliding) -> bool:
    """Whether a window goes on behind the padding, as it may where their number is rounded up."""
    widths = [(side - 1) * step + 1 for side, step in zip(geometry.kernel, geometry.dilations, strict=True)]
    padded = np.add(geometry.sizes, geometry.before) + geometry.after
    ends = (np.array(geometry.results) - 1) * geometry.strides + widths
    return bool((ends > padded).any())


def _shares_of_runtime(step: Step, geometry: Sliding) -> Value:
    """Kernel's size over what each window is divided by.

    Before 1.29 ONNX Runtime counts what is behind the padding, too. A pool of ones is the share of a window that is no
    padding, so it tells by what the runtime at hand divides.
    """
    names = ("kernel_shape", "strides", "pads", "dilations", "auto_pad", "ceil_mode", "count_include_pad")
    ones = step.g.typed(np.ones((1, 1, *geometry.sizes)))
    pooled = ones.op("AveragePool", **{name: step.attribute(name) for name in names})
    inside = np.maximum(_counts(geometry, include_pad=False), 1)
    return pooled * step.g.typed(prod(geometry.kernel) / inside[None, None])


def max_pool(step: Step) -> list[Value | None]:
    """MaxPool: cotangents are added up where the largest cells were, which a second run of the pool tells."""
    if step.attribute("storage_order", 0):
        raise GradientError("MaxPool in column-major order has no rule")
    Sliding.of(step, step.attribute("kernel_shape"))  # refuses what runtimes disagree on
    names = ("kernel_shape", "strides", "pads", "dilations", "auto_pad", "ceil_mode")
    given = {name: step.attribute(name) for name in names}
    # Codes as floats: before 1.29 ONNX Runtime takes place 0 where every code of a window is its type's lowest.
    x = step.x.cast(step.g.elem_type)
    _, places = step.tape.emit("MaxPool", x, outputs=2, **given)
    zeros = (x * 0.0).reshape(-1)
    return [scattered(zeros, places.reshape(-1), step.g.reshape(-1), 0).reshape_like(step.x)]


def _of_power(step: Step, order: float) -> tuple[Value, Value]:
    """``sign(x) |x|^(p - 1)``, and ``g y^(1 - p)``, 0 where the length ``y`` is 0."""
    if order == 1:
        return step.x.op("Sign"), step.g
    zero = step.y.op("Equal", step.y.number(0.0), elem_type=TensorProto.BOOL).cast(step.y.elem_type)
    length = step.y + zero
    if order == 2:
        return step.x, step.g / length
    return step.x.op("Sign") * step.x.op("Abs") ** (order - 1.0), step.g * length ** (1.0 - order)


def global_lp_pool(step: Step) -> list[Value | None]:
    """GlobalLpPool: the length of all cells."""
    inner, outer = _of_power(step, step.attribute("p", 2))
    return [inner * outer]


def lp_pool(step: Step) -> list[Value | None]:
    """LpPool: the length of the cells of a window."""
    geometry = Sliding.of(step, step.attribute("kernel_shape"))
    channels, kernel, dilations = step.side(1), list(geometry.kernel), list(geometry.dilations)
    inner, outer = _of_power(step, step.attribute("p", 2))

    def total(stuffed: Value, pads: list[int]) -> Value:
        ones = stuffed.typed(np.ones((channels, 1, *kernel)))
        return stuffed.op("Conv", ones, group=channels, pads=pads, dilations=dilations)

    return [inner * spread(outer, channels, geometry, total)]


RULES: dict[str, Rule] = {
    "GlobalAveragePool": global_average_pool,
    "GlobalMaxPool": global_max_pool,
    "AveragePool": average_pool,
    "MaxPool": max_pool,
    "LpPool": lp_pool,
    "GlobalLpPool": global_lp_pool,
}
