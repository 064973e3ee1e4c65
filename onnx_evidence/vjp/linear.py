"""Rules of convolutions and matrix products.

The transpose of a convolution of stride 1 is written as a convolution with flipped, channel-swapped weights:
``ConvTranspose`` is up to ten times slower on ONNX Runtime's CPU provider for depthwise layers. Weights are
flipped by nodes, which runtimes fold when they load the graph, so a saved file holds them once.
"""

from collections.abc import Sequence
from math import prod

from onnx_evidence.errors import GradientError
from onnx_evidence.vjp.elementwise import Rule
from onnx_evidence.vjp.sliding import Sliding, spread
from onnx_evidence.vjp.step import Step
from onnx_evidence.vjp.tape import Value


def conv(step: Step) -> list[Value | None]:
    """Conv: groups, strides, dilations, uneven and automatic pads, any number of spatial axes."""
    if any(step.wanted[1:]):
        raise GradientError("the weights of Conv depend on the picture")
    geometry = Sliding.of(step, step.shape(1)[2:])
    group = step.attribute("group", 1)
    outer, inner = step.side(0, 1), step.side(1, 1)
    dense = prod(geometry.strides) > 1 and prod(geometry.kernel) > 1 and group < outer
    if dense and (given := geometry.as_transposed()) is not None:
        # Between stuffed zeros a dense convolution would mostly multiply by 0.
        weights = step.input(1)
        return [step.g.op("ConvTranspose", weights, group=group, **given)]
    weights = _swapped(step.input(1), group, outer, inner, geometry.kernel)
    if prod(geometry.kernel) == 1 and prod(geometry.strides) > 1:
        # One tap: convolve the few cells first, then spread them.
        mixed = step.g.op("Conv", weights, group=group)
        return [spread(mixed, group * inner, geometry, convolve=None)]

    def convolve(stuffed: Value, pads: list[int]) -> Value:
        dilations = list(geometry.dilations)
        return stuffed.op("Conv", weights, group=group, pads=pads, dilations=dilations)

    return [spread(step.g, outer, geometry, convolve)]


def _swapped(weights: Value, group: int, outer: int, inner: int, kernel: Sequence[int]) -> Value:
    """Weights (group * m, c, ...) as (group * c, m, ...), flipped along the kernel's axes."""
    rank = len(kernel)
    per_group = outer // group
    if per_group == 1 and inner == 1:
        swapped = weights
    elif group == 1:
        swapped = weights.transpose(1, 0, *range(2, 2 + rank))
    else:
        split = weights.reshape(group, per_group, inner, *kernel)
        swapped = split.transpose(0, 2, 1, *range(3, 3 + rank)).reshape(group * inner, per_group, *kernel)
    axes = [axis for axis, side in enumerate(kernel) if side > 1]
    if not axes:
        return swapped
    tape = weights.tape
    ends = [-(2**31)] * len(axes)
    minus = [-1] * len(axes)
    flip = (tape.integers(*minus), tape.integers(*ends), tape.integers(*(axis + 2 for axis in axes)))
    return swapped.op("Slice", *flip, tape.integers(*minus))


def conv_transpose(step: Step) -> list[Value | None]:
    """ConvTranspose: its transpose is the convolution that it is named after."""
    if any(step.wanted[1:]):
        raise GradientError("the weights of ConvTranspose depend on the picture")
    kernel = [step.side(axis, 1) for axis in range(2, len(step.shape(1)))]
    rank = len(kernel)
    strides = step.attribute("strides", [1] * rank)
    dilations = step.attribute("dilations", [1] * rank)
    if len(step.result_shape) != 2 + rank:  # inference gives up where output_shape is less than the input's
        raise GradientError("the shape of its result is not known before the model runs")
    # What is cut off the full result, without and with the cells that output_padding adds to it.
    bare = [
        stride * (step.side(axis + 2) - 1) + (side - 1) * dilation + 1 - (outside or 1)
        for axis, (side, stride, dilation, outside) in enumerate(
            zip(kernel, strides, dilations, step.result_shape[2:], strict=True)
        )
    ]
    added = step.attribute("output_padding", [0] * rank)
    automatic = step.attribute("auto_pad", "NOTSET")
    before = step.attribute("pads", [0] * 2 * rank)[:rank]
    if automatic != "NOTSET" or step.attribute("output_shape"):
        cut = [max(each + more, 0) for each, more in zip(bare, added, strict=True)]
        before = [each // 2 if automatic == "SAME_UPPER" else each - each // 2 for each in cut]
    after = [each - first for each, first in zip(bare, before, strict=True)]
    # Cells behind the last window read nothing.
    read = step.g.pad([0] * (2 + rank), [0, 0, *(min(each, 0) for each in after)])
    pads = [*before, *(max(each, 0) for each in after)]
    group = step.attribute("group", 1)
    return [read.op("Conv", step.input(1), group=group, strides=strides, dilations=dilations, pads=pads)]


def gemm(step: Step) -> list[Value | None]:
    """Gemm."""
    first, second = (step.attribute(name, 0) for name in ("transA", "transB"))
    scaled = step.g * step.attribute("alpha", 1.0) if step.attribute("alpha", 1.0) != 1.0 else step.g
    a, b = step.input(0), step.input(1)
    results: list[Value | None] = [None] * len(step.node.input)
    if step.wanted[0]:
        results[0] = b.op("Gemm", scaled, transA=second, transB=1) if first else scaled.op("Gemm", b, transB=1 - second)
    if step.wanted[1]:
        results[1] = scaled.op("Gemm", a, transA=1, transB=first) if second else a.op("Gemm", scaled, transA=1 - first)
    if len(results) > 2 and step.wanted[2]:
        results[2] = step.like(2, step.g * step.attribute("beta", 1.0))
    return results


def matmul(step: Step) -> list[Value | None]:
    """MatMul of matrices and stacks of them."""
    if min(len(step.shape(0)), len(step.shape(1))) < 2:
        raise GradientError("MatMul of a vector has no rule")
    results: list[Value | None] = [None, None]
    for index in (0, 1):
        if step.wanted[index]:
            other = _turned(step.input(1 - index), len(step.shape(1 - index)))
            product = step.g.op("MatMul", other) if index == 0 else other.op("MatMul", step.g)
            results[index] = step.like(index, product, matrix=2)
    return results


def _turned(matrix: Value, rank: int) -> Value:
    return matrix.transpose(*range(rank - 2), rank - 1, rank - 2)


def einsum(step: Step) -> list[Value | None]:
    """Einsum without repeated letters in one term: swap the operand with the result."""
    equation = step.attribute("equation").replace(" ", "")
    if "." in equation or "->" not in equation:
        raise GradientError(f"Einsum {equation!r} has no rule: give every letter and the result")
    left, result = equation.split("->")
    terms = left.split(",")
    if any(len(set(term)) < len(term) for term in terms):
        raise GradientError(f"Einsum {equation!r} takes a diagonal, which has no rule")
    results: list[Value | None] = []
    for index, term in enumerate(terms):
        if not step.wanted[index]:
            results.append(None)
            continue
        others = [(letters, step.input(k)) for k, letters in enumerate(terms) if k != index]
        known = {letter for letters in (result, *(letters for letters, _ in others)) for letter in letters}
        kept = "".join(letter for letter in term if letter in known)
        swapped = ",".join([result, *(letters for letters, _ in others)])
        back = step.g.op("Einsum", *(value for _, value in others), equation=f"{swapped}->{kept}")
        if kept != term:  # letters that only this operand has were summed over: the same for all of them
            axes = [place for place, letter in enumerate(term) if letter not in known]
            spaced = back.op("Unsqueeze", step.tape.integers(*axes))
            back = spaced.expand_like(step.input(index))
        results.append(back)
    return results


RULES: dict[str, Rule] = {
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "Gemm": gemm,
    "MatMul": matmul,
    "Einsum": einsum,
}
