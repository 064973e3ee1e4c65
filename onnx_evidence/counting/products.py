"""Operators that sum over windows, products and axes: how much they make, with how many multiply-adds."""

from collections.abc import Sequence
from math import prod

from onnx_evidence.counting.bounds import all_exact, axis_of, bounded, broadcast, table
from onnx_evidence.counting.held import UNKNOWN, Call, Held, Open, of_shape, of_size


def _windows(call: Call, sides: Sequence[int], kernel: Sequence[int]) -> list[int]:
    """Places of a window of a convolution or pooling along each side."""
    rank = len(sides)
    strides = call.attr("strides") or [1] * rank
    steps = call.attr("dilations") or [1] * rank
    pads = call.attr("pads") or [0] * (2 * rank)
    auto = call.attr("auto_pad", b"NOTSET")
    up = bool(call.attr("ceil_mode", 0))
    found = []
    for place, side in enumerate(sides):
        stride = max(strides[place], 1)
        if auto in (b"SAME_UPPER", b"SAME_LOWER"):
            found.append(-(-side // stride))
            continue
        around = 0 if auto == b"VALID" else pads[place] + pads[place + rank]
        room = side + around - ((kernel[place] - 1) * steps[place] + 1)
        found.append(max((-(-room // stride) if up else room // stride) + 1, 0))
    return found


def _conv(call: Call) -> list[Held]:
    place = 3 if call.node.op_type.startswith("QLinear") else 1
    data, weight = call.shape(0), call.shape(place)
    if data is None or weight is None or len(data) != len(weight):
        return [UNKNOWN]
    kernel = call.attr("kernel_shape") or list(weight[2:])
    made = of_shape([data[0], weight[0], *_windows(call, data[2:], kernel)], exact=all_exact(call))
    call.adds = (made.size or 0) * prod(weight[1:])
    return [made]


def _conv_transpose(call: Call) -> list[Held]:
    data, weight = call.shape(0), call.shape(1)
    if data is None or weight is None or len(data) != len(weight):
        return [UNKNOWN]
    rank = len(data) - 2
    kernel = call.attr("kernel_shape") or list(weight[2:])
    strides, steps = call.attr("strides") or [1] * rank, call.attr("dilations") or [1] * rank
    pads, more = call.attr("pads") or [0] * (2 * rank), call.attr("output_padding") or [0] * rank
    told = call.attr("output_shape")
    if told:
        sides = told[-rank:]
    elif call.attr("auto_pad", b"NOTSET") in (b"SAME_UPPER", b"SAME_LOWER"):
        sides = [side * stride for side, stride in zip(data[2:], strides, strict=False)]
    else:
        sides = [
            (side - 1) * strides[place]
            + more[place]
            + (kernel[place] - 1) * steps[place]
            + 1
            - pads[place]
            - pads[place + rank]
            for place, side in enumerate(data[2:])
        ]
    call.adds = prod(data) * prod(weight[1:])
    return [of_shape([data[0], weight[1] * call.attr("group", 1), *sides], exact=all_exact(call))]


def _pool(call: Call) -> list[Held]:
    data, kernel = call.shape(0), call.attr("kernel_shape")
    if data is None or not kernel:
        return [UNKNOWN]
    made = of_shape([*data[:2], *_windows(call, data[2:], kernel)], exact=all_exact(call))
    call.adds = (made.size or 0) * prod(kernel)
    return [made]


def _global_pool(call: Call) -> list[Held]:
    data = call.shape(0)
    if data is None:
        return [UNKNOWN]
    call.adds = prod(data)
    return [of_shape([*data[:2], *[1] * (len(data) - 2)], exact=all_exact(call))]


def _max_unpool(call: Call) -> list[Held]:
    data, kernel = call.shape(0), call.attr("kernel_shape")
    if (told := call.numbers(2)) is not None:
        return [of_shape(told)]
    if data is None or not kernel:
        return [UNKNOWN]
    strides, pads = call.attr("strides") or [1] * len(kernel), call.attr("pads") or [0] * (2 * len(kernel))
    sides = [
        (side - 1) * strides[place] + kernel[place] - pads[place] - pads[place + len(kernel)]
        for place, side in enumerate(data[2:])
    ]
    return [of_shape([*data[:2], *sides], exact=False)]


def _matmul(call: Call) -> list[Held]:
    first, second = call.shape(0), call.shape(3 if call.node.op_type.startswith("QLinear") else 1)
    if not first or not second:
        return [UNKNOWN]
    one, other = ((1, *first) if len(first) == 1 else first), ((*second, 1) if len(second) == 1 else second)
    front = broadcast([one[:-2], other[:-2]])
    if front is None:
        return [UNKNOWN]
    last = [*([one[-2]] if len(first) > 1 else []), *([other[-1]] if len(second) > 1 else [])]
    made = of_shape([*front, *last], exact=all_exact(call))
    call.adds = (made.size or 0) * one[-1]
    return [made]


def _gemm(call: Call) -> list[Held]:
    first, second = call.shape(0), call.shape(3 if call.node.op_type.startswith("Q") else 1)
    if first is None or second is None or len(first) != 2 or len(second) != 2:
        return [UNKNOWN]
    rows, inner = first[::-1] if call.attr("transA", 0) else first
    columns = second[0] if call.attr("transB", 0) else second[1]
    call.adds = rows * inner * columns
    return [of_shape([rows, columns], exact=all_exact(call))]


def _einsum(call: Call) -> list[Held]:
    equation = call.attr("equation", b"").decode("utf-8", "replace").replace(" ", "")
    terms, _, result = equation.partition("->")
    shapes = [call.shape(place) for place in range(len(call.inputs))]
    if None in shapes:
        return [UNKNOWN]
    if "->" not in equation:  # what is there once, in the order of the alphabet
        letters = terms.replace(",", "").replace(".", "")
        result = "..." * ("." in terms) + "".join(sorted(each for each in set(letters) if letters.count(each) == 1))
    terms, result = _spelt_out(terms, result, [shape or () for shape in shapes])
    sides: dict[str, int] = {}
    for term, shape in zip(terms.split(","), shapes, strict=False):
        for letter, side in zip(term, shape or (), strict=False):
            sides[letter] = max(sides.get(letter, 1), side)
    call.adds = prod(sides.values())
    return [of_shape([sides.get(letter, 1) for letter in result], exact=all_exact(call))]


def _spelt_out(terms: str, result: str, shapes: Sequence[Sequence[int]]) -> tuple[str, str]:
    """An equation with digits, from the last side on, in place of its three dots."""
    given = terms.split(",")
    covered = [max(len(shape) - len(term.replace(".", "")), 0) for term, shape in zip(given, shapes, strict=False)]
    digits = "9876543210"[-max(covered, default=0) :] if any(covered) else ""
    spelt = [
        term.replace("...", digits[len(digits) - count :] if count else "")
        for term, count in zip(given, covered, strict=False)
    ]
    return ",".join(spelt), result.replace("...", digits)


def _recurrent(call: Call) -> list[Held]:
    data, weight, again = call.shape(0), call.shape(1), call.shape(2)
    if data is None or weight is None or again is None or len(data) != 3:
        return [UNKNOWN]
    call.adds = data[0] * data[1] * (prod(weight) + prod(again))
    last = of_shape([weight[0], data[1], again[-1]])
    return [of_shape([data[0], weight[0], data[1], again[-1]]), last, last]


def _attention(call: Call) -> list[Held]:
    """Of ONNX Runtime's domain and the standard: each token is compared with each."""
    data, weight = call.shape(0), call.shape(1)
    if data is None or len(data) < 3:
        return [UNKNOWN]
    call.adds = 2 * prod(data) * data[-2] + prod(data) * (weight[-1] if weight else 0)
    heads = call.attr("num_heads") or call.attr("q_num_heads") or 1
    compared = prod(data[:-1]) * data[-2] * (heads if len(data) == 3 else 1)
    return [of_shape(data, exact=False), of_size(compared)]


def _reduce(call: Call) -> list[Held]:
    data = call.shape(0)
    if data is None:
        return bounded(call)
    call.adds = prod(data)
    keep = call.attr("keepdims", 1)
    try:
        axes = call.numbers(1, "axes")
    except Open:
        return bounded(call)
    if not axes:
        axes = [] if call.attr("noop_with_empty_axes", 0) else list(range(len(data)))
    return [_without(data, [int(axis) for axis in axes], bool(keep), all_exact(call))]


def _winner(call: Call) -> list[Held]:
    data = call.shape(0)
    if data is None:
        return bounded(call)
    call.adds = prod(data)
    return [_without(data, [call.attr("axis", 0)], bool(call.attr("keepdims", 1)), all_exact(call))]


def _without(shape: Sequence[int], axes: Sequence[int], keep: bool, exact: bool) -> Held:
    gone = {axis_of(axis, len(shape)) for axis in axes}
    sides = [1 if place in gone else side for place, side in enumerate(shape) if keep or place not in gone]
    return of_shape(sides, exact=exact)


RULES = table(
    (_conv, "Conv ConvInteger QLinearConv FusedConv NhwcFusedConv DeformConv"),
    (_conv_transpose, "ConvTranspose"),
    (_pool, "AveragePool MaxPool LpPool QLinearAveragePool"),
    (_global_pool, "GlobalAveragePool GlobalMaxPool GlobalLpPool"),
    (_max_unpool, "MaxUnpool"),
    (_matmul, "MatMul MatMulInteger QLinearMatMul FusedMatMul MatMulIntegerToFloat DynamicQuantizeMatMul"),
    (_gemm, "Gemm QGemm FusedGemm"),
    (_einsum, "Einsum"),
    (_recurrent, "LSTM GRU RNN"),
    (_attention, "Attention QAttention MultiHeadAttention"),
    (
        _reduce,
        "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd "
        "ReduceSum ReduceSumSquare",
    ),
    (_winner, "ArgMax ArgMin"),
)
