"""Operators that map values, put them elsewhere or take some of them: they make little more than they read."""

from functools import reduce
from math import prod

from onnx_evidence.counting.bounds import all_exact, axis_of, bounded, broadcast, first, larger, table
from onnx_evidence.counting.held import UNKNOWN, Call, Held, Open, of_shape, of_size


def _broadcast(call: Call) -> list[Held]:
    read = [held for held in call.inputs if held is not None]
    exact = all(held.exact for held in read)
    shape = broadcast([held.shape for held in read])
    if shape is not None:
        return [of_shape(shape, exact=exact)]
    # Sides that are only bounds need not fit; no more than all of them together.
    shapes = [held.shape for held in read if held.shape is not None]
    if len(shapes) < len(read) or exact:
        return [UNKNOWN]
    return [of_shape(reduce(larger, shapes), exact=False)]


def _taken(call: Call) -> list[Held]:
    """Some of the first input, and which values decide."""
    held, axis = call.held(0), call.attr("axis")
    if held is None or held.size is None:
        return [UNKNOWN]
    return [of_shape([held.size] if axis is None or held.shape is None else held.shape, exact=False)]


def _quantize(call: Call) -> list[Held]:
    return [*first(call), of_shape([]), of_shape([])]


def _normalize(call: Call) -> list[Held]:
    """With mean and variance beside it, of each channel or place: no more than the input has."""
    held = call.held(0) or UNKNOWN
    return [*first(call), of_size(held.size)]


def _concat(call: Call) -> list[Held]:
    # QLinearConcat has a scale and a zero point first, and both beside each tensor.
    every = call.inputs[2::3] if call.node.op_type == "QLinearConcat" else call.inputs
    shapes = [None if held is None else held.shape for held in every]
    known = [shape for shape in shapes if shape]
    if len(known) < len(shapes) or len({len(shape) for shape in known}) != 1:
        sizes = [held.size for held in every if held is not None and held.size is not None]
        return [of_size(sum(sizes) if len(sizes) == len(every) else None)]
    axis = axis_of(call.attr("axis", 1), len(known[0]))
    sides = [max(along) for along in zip(*known, strict=True)]
    sides[axis] = sum(shape[axis] for shape in known)
    return [of_shape(sides, exact=all_exact(call))]


def _split(call: Call) -> list[Held]:
    data, count = call.shape(0), len(call.node.output)
    if data is None:
        return bounded(call)
    axis = axis_of(call.attr("axis", 0), len(data))
    try:
        parts = call.numbers(1, "split")
    except Open:
        return [of_shape(data, exact=False)]
    exact = all_exact(call)
    if not parts:
        each = -(-data[axis] // max(count, 1))
        parts = [min(each, data[axis] - each * place) for place in range(count)]
    return [of_shape([*data[:axis], part, *data[axis + 1 :]], exact=exact) for part in parts]


def _gather(call: Call) -> list[Held]:
    data, indices = call.shape(0), call.shape(1)
    if data is None or indices is None:
        return [UNKNOWN]
    axis = axis_of(call.attr("axis", 0), len(data))
    return [of_shape([*data[:axis], *indices, *data[axis + 1 :]], exact=all_exact(call))]


def _gather_nd(call: Call) -> list[Held]:
    data, indices = call.shape(0), call.shape(1)
    if data is None or not indices:
        return [UNKNOWN]
    return [of_shape([*indices[:-1], *data[call.attr("batch_dims", 0) + indices[-1] :]], exact=all_exact(call))]


def _as_indices(call: Call) -> list[Held]:
    shape = call.shape(1)
    return [UNKNOWN if shape is None else of_shape(shape, exact=all_exact(call))]


def _slice(call: Call) -> list[Held]:
    data = call.shape(0)
    if data is None:
        return bounded(call)
    try:
        starts, ends = call.numbers(1, "starts"), call.numbers(2, "ends")
        axes, steps = call.numbers(3, "axes"), call.numbers(4)
    except Open:
        return [of_shape(data, exact=False)]
    sides = list(data)
    for place, (start, end) in enumerate(zip(starts or [], ends or [], strict=False)):
        axis = axis_of(int(axes[place]) if axes else place, len(data))
        step = int(steps[place]) if steps else 1
        if step:
            sides[axis] = len(range(*slice(int(start), int(end), step).indices(data[axis])))
            if step < 0 and int(end) <= -data[axis] - 1:
                sides[axis] = len(range(data[axis])[slice(int(start), None, step)])
    return [of_shape(sides, exact=all_exact(call))]


def _transpose(call: Call) -> list[Held]:
    data = call.shape(0)
    if data is None:
        return bounded(call)
    order = call.attr("perm") or list(range(len(data)))[::-1]
    return [of_shape([data[axis] for axis in order], exact=all_exact(call))]


def _reshape(call: Call) -> list[Held]:
    held = call.held(0)
    size = None if held is None else held.size
    try:
        told = call.numbers(1, "shape")
    except Open:
        return [of_size(size)]
    if told is None or size is None or held is None:
        return [of_size(size)]
    sides, data = [int(side) for side in told], held.shape
    if 0 in sides and not call.attr("allowzero", 0):
        if data is None:
            return [of_size(size)]
        sides = [data[place] if side == 0 and place < len(data) else side for place, side in enumerate(sides)]
    if -1 in sides:
        rest = prod(side for side in sides if side != -1)
        sides[sides.index(-1)] = size // rest if rest > 0 else 0
    # A shape that holds more than there is fails; one that is only a bound may hold less.
    made = of_shape(sides, exact=held.exact)
    return [made if made.size is not None and made.size <= size else of_size(size)]


def _flatten(call: Call) -> list[Held]:
    data = call.shape(0)
    if data is None:
        return bounded(call)
    axis = axis_of(call.attr("axis", 1), len(data))
    return [of_shape([prod(data[:axis]), prod(data[axis:])], exact=all_exact(call))]


def _squeeze(call: Call) -> list[Held]:
    data = call.shape(0)
    try:
        axes = call.numbers(1, "axes")
    except Open:
        return bounded(call)
    if data is None:
        return bounded(call)
    gone = {axis_of(int(axis), len(data)) for axis in axes} if axes else {p for p, side in enumerate(data) if side == 1}
    return [of_shape([side for place, side in enumerate(data) if place not in gone], exact=all_exact(call))]


def _unsqueeze(call: Call) -> list[Held]:
    data = call.shape(0)
    try:
        axes = call.numbers(1, "axes")
    except Open:
        return bounded(call)
    if data is None or axes is None:
        return bounded(call)
    rank = len(data) + len(axes)
    new, sides = {axis_of(int(axis), rank) for axis in axes}, iter(data)
    return [of_shape([1 if place in new else next(sides, 1) for place in range(rank)], exact=all_exact(call))]


def _depth_to_space(call: Call) -> list[Held]:
    data, block = call.shape(0), call.attr("blocksize", 1)
    if data is None or len(data) != 4 or block < 1:
        return bounded(call)
    batch, channels, height, width = data
    if call.node.op_type == "DepthToSpace":
        sides = [batch, channels // block**2, height * block, width * block]
    else:
        sides = [batch, channels * block**2, height // block, width // block]
    return [of_shape(sides, exact=all_exact(call))]


def _top(call: Call) -> list[Held]:
    data = call.shape(0)
    try:
        number = call.number(1, "k")
    except Open:
        number = None
    if data is None or number is None:
        return bounded(call)
    axis = axis_of(call.attr("axis", -1), len(data))
    return [of_shape([*data[:axis], min(int(number), data[axis]), *data[axis + 1 :]], exact=all_exact(call))]


def _nonzero(call: Call) -> list[Held]:
    held = call.held(0)
    if held is None or held.size is None or held.shape is None:
        return [UNKNOWN]
    return [of_shape([len(held.shape), held.size], exact=False)]


def _sequence(call: Call) -> list[Held]:
    sizes = [None if held is None else held.size for held in call.inputs]
    known = [size for size in sizes if size is not None]
    return [Held(None, sum(known) if len(known) == len(sizes) else None, length=len(sizes))]


def _insert(call: Call) -> list[Held]:
    before, new = call.held(0) or UNKNOWN, call.held(1) or UNKNOWN
    sizes = (before.size, new.size)
    size = None if None in sizes else sum(size or 0 for size in sizes)
    return [Held(None, size, length=None if before.length is None else before.length + 1)]


def _split_up(call: Call) -> list[Held]:
    held = call.held(0) or UNKNOWN
    side = max(held.shape) if held.shape else None
    return [Held(None, held.size, length=side)]


def _length(call: Call) -> list[Held]:
    return [of_shape([])]


def _as_sequence(call: Call) -> list[Held]:
    held = call.held(0) or UNKNOWN
    return [Held(None, held.size, length=held.length)]


def _empty(call: Call) -> list[Held]:
    return [Held(None, 0, length=0)]


RULES = table(
    (_concat, "Concat QLinearConcat"),
    (_split, "Split"),
    (_gather, "Gather"),
    (_gather_nd, "GatherND"),
    (_as_indices, "GatherElements"),
    (
        _broadcast,
        "Add Sub Mul Div Mod Pow And Or Xor Equal Less LessOrEqual Greater GreaterOrEqual Max Min Mean Sum Where PRelu "
        "BitShift BitwiseAnd BitwiseOr BitwiseXor QLinearAdd QLinearMul Affine BiasGelu BiasAdd",
    ),
    (_slice, "Slice"),
    (_transpose, "Transpose"),
    (_reshape, "Reshape"),
    (_flatten, "Flatten"),
    (_squeeze, "Squeeze"),
    (_unsqueeze, "Unsqueeze"),
    (_depth_to_space, "DepthToSpace SpaceToDepth"),
    (_top, "TopK"),
    (_nonzero, "NonZero"),
    (_taken, "Compress Unique"),
    (_quantize, "DynamicQuantizeLinear"),
    (_normalize, "BatchNormalization LayerNormalization SkipLayerNormalization"),
    (_sequence, "SequenceConstruct"),
    (_insert, "SequenceInsert"),
    (_split_up, "SplitToSequence"),
    (_as_sequence, "SequenceErase"),
    (_empty, "SequenceEmpty"),
    (_length, "SequenceLength"),
)
