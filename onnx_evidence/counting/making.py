"""Operators that make much of little: a few numbers say how much."""

import math
from collections.abc import Sequence
from math import prod

from onnx_evidence.counting.bounds import all_exact, axis_of, larger, table
from onnx_evidence.counting.held import UNKNOWN, Call, Held, of_shape, of_size

# More than anything holds.
_FAR = 2**62


def _expand(call: Call) -> list[Held]:
    told, data = [int(side) for side in call.numbers(1) or []], call.shape(0)
    return [of_shape(told if data is None else larger(told, data), exact=all_exact(call))]


def _tile(call: Call) -> list[Held]:
    held = call.held(0)
    repeats = [int(each) for each in call.numbers(1) or []]
    if held is None or held.shape is None or len(repeats) != len(held.shape):
        return [of_size(None if held is None or held.size is None else held.size * prod(repeats))]
    sides = [side * each for side, each in zip(held.shape, repeats, strict=True)]
    return [of_shape(sides, exact=all_exact(call))]


def _filled(call: Call) -> list[Held]:
    return [of_shape([int(side) for side in call.numbers(0, "shape") or []])]


def _range(call: Call) -> list[Held]:
    start, limit, delta = (call.number(place, default=0) for place in range(3))
    if not delta or not all(map(math.isfinite, (start, limit, delta))):
        raise ValueError("no number of steps")
    count = (limit - start) / delta if isinstance(delta, float) else -((start - limit) // delta)
    return [of_shape([math.ceil(count)])]


def _one_hot(call: Call) -> list[Held]:
    indices = call.held(0)
    depth = int(call.number(1, default=0))
    if indices is None or indices.shape is None:
        return [of_size(None if indices is None or indices.size is None else indices.size * depth)]
    sides = list(indices.shape)
    sides.insert(axis_of(call.attr("axis", -1), len(sides) + 1), depth)
    return [of_shape(sides, exact=all_exact(call))]


def _resize(call: Call) -> list[Held]:
    held = call.held(0)
    data = None if held is None else held.shape
    later = call.node.op_type == "Resize" and len(call.inputs) > 2
    sizes = call.numbers(3) if later else None
    scales = None if sizes else call.numbers(2 if later else 1, "scales")
    axes = call.attr("axes")
    if data is None or held is None:
        return [of_size(None if scales is None or held is None or held.size is None else _times(held.size, scales))]
    sides, exact = list(data), all_exact(call)
    if sizes and call.attr("keep_aspect_ratio_policy", b"stretch") != b"stretch":
        pairs = zip(axes or range(len(data)), sizes, strict=False)
        scales, exact = [max(int(size) / max(data[axis], 1) for axis, size in pairs)] * len(axes or data), False
    for place, axis in enumerate(axes or range(len(data))):
        if scales:
            sides[axis] = _times(data[axis], scales[place : place + 1])
        elif sizes:
            sides[axis] = int(sizes[place])
    if call.node.op_type == "Upsample" and not scales:
        named = [call.attr("height_scale", 1.0), call.attr("width_scale", 1.0)]
        sides[-2:] = [_times(side, [scale]) for side, scale in zip(sides[-2:], named, strict=True)]
    return [of_shape(sides, exact=exact)]


def _times(size: int, scales: Sequence[float]) -> int:
    """At most so many; no scale is infinite, and what is none makes nothing."""
    product = float(size)
    for scale in scales:
        product *= scale
    return int(product) if math.isfinite(product) else 0 if math.isnan(product) else _FAR


def _pad(call: Call) -> list[Held]:
    held = call.held(0)
    pads, axes = call.numbers(1, "pads") or call.attr("paddings") or [], call.numbers(3)
    if held is None or held.shape is None:
        return [UNKNOWN]
    sides, half = list(held.shape), len(pads) // 2
    for place, axis in enumerate([int(axis) for axis in axes] if axes else range(min(half, len(sides)))):
        sides[axis] += int(pads[place]) + int(pads[place + half])
    return [of_shape(sides, exact=all_exact(call))]


def _chance(call: Call) -> list[Held]:
    return [of_shape(call.attr("shape") or [])]


def _multinomial(call: Call) -> list[Held]:
    data = call.shape(0)
    return [UNKNOWN if not data else of_shape([data[0], call.attr("sample_size", 1)], exact=False)]


def _window(call: Call) -> list[Held]:
    return [of_shape([int(call.number(0, default=0))])]


def _mel(call: Call) -> list[Held]:
    return [of_shape([int(call.number(1, default=0)) // 2 + 1, int(call.number(0, default=0))])]


def _dft(call: Call) -> list[Held]:
    data = call.shape(0)
    if not data:
        return [UNKNOWN]
    length = call.number(1)
    axis = call.number(2, "axis", 1 if call.opset < 20 else -2)
    sides = [*data[:-1], 2]
    if length is not None:
        sides[axis_of(int(axis), len(sides))] = int(length)
    made = of_shape(sides, exact=False)
    call.adds = (made.size or 0) * sides[axis_of(int(axis), len(sides))]
    return [made]


def _stft(call: Call) -> list[Held]:
    data, step, window = call.shape(0), int(call.number(1, default=1)), call.shape(2)
    length = call.number(3, default=window[0] if window else None)
    if data is None or len(data) < 2 or length is None:
        return [UNKNOWN]
    made = of_shape([data[0], data[1] // max(step, 1) + 1, int(length) + 1, 2], exact=False)
    call.adds = (made.size or 0) * int(length)
    return [made]


def _affine_grid(call: Call) -> list[Held]:
    sides = [int(side) for side in call.numbers(1) or []]
    return [of_shape([*sides[:1], *sides[2:], len(sides) - 2])]


def _grid_sample(call: Call) -> list[Held]:
    data, grid = call.shape(0), call.shape(1)
    if data is None or grid is None:
        return [UNKNOWN]
    return [of_shape([*data[:2], *grid[1:-1]], exact=all_exact(call))]


def _rois(call: Call) -> list[Held]:
    data, rois = call.shape(0), call.shape(1)
    if data is None or len(data) != 4 or not rois:
        return [UNKNOWN]
    height, width = call.attr("pooled_shape") or (call.attr("output_height", 1), call.attr("output_width", 1))
    made = of_shape([rois[0], data[1], height, width], exact=all_exact(call))
    # Without a number of samples each pixel of a region is one.
    each = call.attr("sampling_ratio", 0) ** 2 or -(-data[2] // max(height, 1)) * -(-data[3] // max(width, 1))
    call.adds = (made.size or 0) * each
    return [made]


def _suppressed(call: Call) -> list[Held]:
    boxes, scores = call.shape(0), call.shape(1)
    if boxes is None or scores is None or len(scores) != 3:
        return [UNKNOWN]
    call.adds = prod(scores) * boxes[1]
    return [of_shape([prod(scores), 3], exact=False)]


def _col2im(call: Call) -> list[Held]:
    data, image, block = call.shape(0), call.numbers(1) or [], call.numbers(2) or []
    channels = data[1] // max(prod(map(int, block)), 1) if data and len(data) > 1 else 1
    return [of_shape([data[0] if data else 1, channels, *map(int, image)])]


def _crop_pad(call: Call) -> list[Held]:
    data, told = call.shape(0), call.numbers(1) or []
    if data is None:
        return [of_shape([int(side) for side in told])]
    sides = list(data)
    for axis, side in zip(call.attr("axes") or range(len(data)), told, strict=False):
        sides[axis] = int(side)
    return [of_shape(sides, exact=all_exact(call))]


def _distances(call: Call) -> list[Held]:
    first, second = call.shape(0), call.shape(1)
    return [UNKNOWN if not first or not second else of_shape([first[0], second[0]])]


def _positions(call: Call) -> list[Held]:
    """Of ONNX Runtime: a number for each head and pair of places."""
    table, rows, columns = call.shape(0), int(call.number(1, default=0)), int(call.number(2, default=0))
    return [UNKNOWN if not table else of_shape([1, table[-1], rows, columns])]


def _encoded(call: Call) -> list[Held]:
    data, categories = call.shape(0), call.attr("cats_int64s") or call.attr("cats_strings") or []
    return [UNKNOWN if data is None else of_shape([*data, len(categories)])]


def _counted(call: Call) -> list[Held]:
    data = call.shape(0)
    return [UNKNOWN if data is None else of_shape([*data[:-1], max(call.attr("ngram_indexes") or [0]) + 1])]


RULES = table(
    (_distances, "CDist"),
    (_positions, "RelativePositionBias GatedRelativePositionBias"),
    (_encoded, "OneHotEncoder"),
    (_counted, "TfIdfVectorizer"),
    (_expand, "Expand"),
    (_tile, "Tile"),
    (_filled, "ConstantOfShape ConstantFill"),
    (_range, "Range"),
    (_one_hot, "OneHot"),
    (_resize, "Resize Upsample"),
    (_pad, "Pad"),
    (_chance, "RandomNormal RandomUniform"),
    (_multinomial, "Multinomial"),
    (_window, "HannWindow HammingWindow BlackmanWindow"),
    (_mel, "MelWeightMatrix"),
    (_dft, "DFT"),
    (_stft, "STFT"),
    (_affine_grid, "AffineGrid"),
    (_grid_sample, "GridSample"),
    (_rois, "RoiAlign MaxRoiPool"),
    (_suppressed, "NonMaxSuppression"),
    (_col2im, "Col2Im"),
    (_crop_pad, "CenterCropPad"),
)
