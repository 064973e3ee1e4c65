"""Decoded pictures resized in a graph, as Pillow or OpenCV do it with 8 bits, and made the model's input.

Of every axis alone the pixels that the input sees are made. Pillow's are sums over as many pixels as the picture
shrinks, written as products with matrices that are made of the picture's size; OpenCV's but for 'area' are of a few.
All is whole numbers in float64, and so the same to the bit where the library's own arithmetic is: not 'bicubic' and
'area' of OpenCV, which may be off by one level.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from onnx_evidence.errors import SettingError
from onnx_evidence.export.arithmetic import summed
from onnx_evidence.export.placing import Axis, real, up_to, whole
from onnx_evidence.preprocessing import WHITE, Preprocess
from onnx_evidence.vjp import Value

# Weights are whole multiples of one over this: Pillow's, OpenCV's.
_PILLOW, _OPENCV = float(1 << 22), float(1 << 11)
# Luma of ITU-R 601 in units of one over the last.
_LUMA = {"pil": ((19595, 38470, 7471), 1 << 16), "opencv": ((9798, 19235, 3735), 1 << 15)}
_ROWS, _COLS = 1, 2
_HAMMING = float(np.float32(0.54)), float(np.float32(0.46))


def check_decoded(preprocess: Preprocess) -> None:
    """Refuse what is done to no decoded picture of 8 bits: `SettingError`."""
    if preprocess.color in ("BANDS", "INPUT"):
        raise SettingError(
            f"preprocess inside: color = {preprocess.color!r} takes no decoded pictures: leave 'inside' out"
        )
    if preprocess.white != WHITE:
        raise SettingError(
            f"preprocess inside: white = {preprocess.white} is of samples of 16 bits, and pictures inside have 8: "
            "leave 'inside' out"
        )


def decoded_input(picture: Value, rows: Axis, cols: Axis, preprocess: Preprocess) -> Value:
    """The input (N, channels, H, W) in float32 of pictures (N, height, width, 3) in uint8, as `to_input` makes it."""
    samples = _grey(picture, preprocess.library) if preprocess.color == "GRAY" else picture
    if preprocess.resize in ("short", "long", "stretch"):
        samples = _RESIZING[preprocess.library, preprocess.interpolation](samples, rows, cols)
    else:
        samples = samples.op("Gather", rows.places(), axis=_ROWS).op("Gather", cols.places(), axis=_COLS)
    samples = samples.cast(TensorProto.FLOAT)
    if preprocess.color == "BGR":
        samples = samples.op("Gather", picture.tape.integers(2, 1, 0), axis=3)
    if not _fills(preprocess):
        samples = _padded(samples, rows, cols, preprocess)
    mean, std = (np.array(values, np.float32) for values in (preprocess.mean, preprocess.std))
    scaled = (samples * samples.typed(np.array(preprocess.scale)) - samples.typed(mean)) / samples.typed(std)
    return scaled.transpose(0, 3, 1, 2)


def _fills(preprocess: Preprocess) -> bool:
    """Whether no picture leaves anything of the input to be padded."""
    large = all(side >= size for side, size in zip(preprocess.target, preprocess.size, strict=True))
    return preprocess.resize == "none" or (preprocess.resize in ("short", "stretch") and large)


def _padded(samples: Value, rows: Axis, cols: Axis, preprocess: Preprocess) -> Value:
    tape = samples.tape
    down, across = rows.shows().op("Unsqueeze", tape.integers(1)), cols.shows().op("Unsqueeze", tape.integers(0))
    inside = down.op("And", across).op("Unsqueeze", tape.integers(2))
    around = samples.typed(np.array(preprocess.pad or (0.0,)))
    return inside.op("Where", samples, around, elem_type=samples.elem_type)


def _grey(picture: Value, library: str) -> Value:
    """(N, height, width, 1) in float64."""
    luma, unit = _LUMA[library]
    sums = real(picture).op("MatMul", picture.tape.constant(np.array(luma, np.float64)[:, None]))
    return _half_up(sums, float(unit))


def _half_up(sums: Value, unit: float) -> Value:
    """Sums in units of one over that, to the nearest whole number, halves up, as a level."""
    return _level((sums / unit + 0.5).op("Floor"))


def _level(numbers: Value) -> Value:
    return numbers.op("Max", numbers.number(0.0)).op("Min", numbers.number(float(WHITE)))


# --- a pixel for each ------------------------------------------------------------------------------------------------


def _nearest(place: Callable[[Axis], Value]) -> "Resize":
    """The pixel under each."""

    def resize(picture: Value, rows: Axis, cols: Axis) -> Value:
        found = picture
        for axis, where in ((_COLS, cols), (_ROWS, rows)):
            found = found.op("Gather", whole(place(where)).op("Min", where.before - 1), axis=axis)
        return found

    return resize


def _pillow_places(axis: Axis) -> Value:
    """Added up step by step, as Pillow does."""
    step = real(axis.before) / real(axis.after)
    tape = step.tape
    count = axis.after.op("Unsqueeze", tape.integers(0))
    numbers = up_to(axis.after)
    is_first = numbers.op("Equal", numbers.number(0), elem_type=TensorProto.BOOL)
    steps = is_first.op("Where", step * 0.5, step.op("Expand", count), elem_type=TensorProto.DOUBLE)
    return steps.op("CumSum", tape.constant(np.array(0))).op("Gather", axis.places())


def _opencv_places(axis: Axis) -> Value:
    return (real(axis.places()) * axis.step).op("Floor")


# --- matrices --------------------------------------------------------------------------------------------------------


def _mixed(picture: Value, matrix: Value, axis: int) -> Value:
    """Rows or columns of pictures (N, channels, height, width) mixed by a matrix (size, before)."""
    return matrix.op("MatMul", picture) if axis == _ROWS else picture.op("MatMul", matrix.transpose(1, 0))


def _pillow(function: Callable[[Value], Value], width: float) -> "Resize":
    """A filter that reaches ``width`` pixels of the larger picture, rounded to 8 bits after each pass."""

    def matrix(axis: Axis) -> Value:
        tape, scale = axis.before.tape, real(axis.before) / real(axis.after)
        stretch = scale.op("Max", scale.number(1.0))
        centre = ((real(axis.places()) + 0.5) * scale).op("Unsqueeze", tape.integers(1))
        first, last = (whole(centre + support + 0.5) for support in (-(stretch * width), stretch * width))
        numbers = up_to(axis.before)
        near = numbers.op("Greater", first.op("Max", first.number(0)) - 1, elem_type=TensorProto.BOOL).op(
            "And", numbers.op("Less", last, elem_type=TensorProto.BOOL)
        )
        weights = function((real(numbers) - centre + 0.5) * (1.0 / stretch))
        weights = near.op("Where", weights, weights.number(0.0), elem_type=TensorProto.DOUBLE)
        weights = weights / weights.reduce("Sum", [1]) * _PILLOW
        return weights.op("Sign") * (weights.op("Abs") + 0.5).op("Floor")

    def resize(picture: Value, rows: Axis, cols: Axis) -> Value:
        # Channels in front, while they are bytes: then all is one product.
        across = _half_up(_mixed(real(picture.transpose(0, 3, 1, 2)), matrix(cols), _COLS), _PILLOW)
        return _half_up(_mixed(across, matrix(rows), _ROWS), _PILLOW).transpose(0, 2, 3, 1)

    return resize


def _hat(x: Value) -> Value:
    return (1.0 - x.op("Abs")).op("Max", x.number(0.0))


def _box(x: Value) -> Value:
    right = x.op("Greater", x.number(0.5), elem_type=TensorProto.BOOL).cast(x.elem_type)
    left = x.op("Greater", x.number(-0.5), elem_type=TensorProto.BOOL).cast(x.elem_type)
    return left - right


def _hamming(x: Value) -> Value:
    angle = x * np.pi
    # Runtimes have a sine of float64, and not all of them a cosine.
    inside = _sinc(x) * ((angle + np.pi / 2).op("Sin") * _HAMMING[1] + _HAMMING[0])
    return _within(x, 1.0, inside)


def _cubic(x: Value) -> Value:
    """Keys' with a = -0.5."""
    a, x = -0.5, x.op("Abs")
    near = (x * (a + 2) - (a + 3)) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * a
    return _within(x, 1.0, near) + (_within(x, 2.0, far) - _within(x, 1.0, far))


def _lanczos(x: Value) -> Value:
    return _within(x, 3.0, _sinc(x) * _sinc(x / 3.0))


def _sinc(x: Value) -> Value:
    at_zero = x.op("Equal", x.number(0.0), elem_type=TensorProto.BOOL)
    angle = at_zero.op("Where", x.number(1.0), x * np.pi, elem_type=x.elem_type)
    return at_zero.op("Where", x.number(1.0), angle.op("Sin") / angle, elem_type=x.elem_type)


def _within(x: Value, width: float, values: Value) -> Value:
    near = x.op("Abs").op("Less", x.number(width), elem_type=TensorProto.BOOL)
    return near.op("Where", values, values.number(0.0), elem_type=values.elem_type)


def _area(picture: Value, rows: Axis, cols: Axis) -> Value:
    """OpenCV's: means over what a pixel covers; where a side grows, pixels that meet are mixed."""
    one = rows.factor.number(1.0)
    grows = rows.factor.op("Max", cols.factor).op("Greater", one, elem_type=TensorProto.BOOL)

    def matrix(axis: Axis) -> Value:
        tape, scale = axis.before.tape, axis.step
        numbers = real(up_to(axis.before))
        places = real(axis.places()).op("Unsqueeze", tape.integers(1))
        ends = ((places + 1.0) * scale).op("Min", numbers + 1.0)
        covered = (ends - (places * scale).op("Max", numbers)).op("Max", numbers.number(0.0))
        first = (places * scale).op("Floor")
        share = (places + 1.0) - (first + 1.0) * axis.factor
        share = _within(share - 0.5, 0.5, share)
        last = real(axis.before) - 1.0
        pair = [(first, 1.0 - share), ((first + 1.0).op("Min", last), share)]
        met = [numbers.op("Equal", where, elem_type=TensorProto.BOOL).cast(TensorProto.DOUBLE) * w for where, w in pair]
        return grows.op("Where", met[0] + met[1], covered / covered.reduce("Sum", [1]), elem_type=TensorProto.DOUBLE)

    across = _mixed(real(picture.transpose(0, 3, 1, 2)), matrix(cols), _COLS)
    return _level(_mixed(across, matrix(rows), _ROWS).op("Round")).transpose(0, 2, 3, 1)


# --- OpenCV's, of a few pixels each ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Taps:
    """What the pixels of an axis are made of: for each of a few the pixels of the picture, and their weights."""

    places: Sequence[Value]
    weights: Sequence[Value]

    def mixed(self, picture: Value, axis: int) -> Value:
        """Sums in float64."""
        return summed([x * weight for x, weight in zip(self.seen(picture, axis), self.along(axis), strict=True)])

    def seen(self, picture: Value, axis: int) -> list[Value]:
        """The pixels of the picture."""
        return [real(picture.op("Gather", place, axis=axis)) for place in self.places]

    def along(self, axis: int) -> list[Value]:
        """Weights, to multiply with (N, rows, columns, channels)."""
        axes = (1,) if axis == _COLS else (1, 2)
        return [each.op("Unsqueeze", each.tape.integers(*axes)) for each in self.weights]


def _taps(axis: Axis, weigh: Callable[[Value], Sequence[Value]], first: int) -> _Taps:
    """By what lies between the pixel before each place and that, in float32; beyond the ends the last pixel."""
    exact = (real(axis.places()) + 0.5) * axis.step - 0.5
    single = exact.cast(TensorProto.FLOAT)
    floor = single.op("Floor")
    weights, start = weigh(single - floor), whole(floor)
    last = axis.before - 1
    places = [(start + (first + number)).op("Max", start.number(0)).op("Min", last) for number in range(len(weights))]
    return _Taps(places, weights)


def _fixed(weight: Value) -> Value:
    return real((weight * _OPENCV).op("Round"))


def _linear(picture: Value, rows: Axis, cols: Axis) -> Value:
    """Sums of both passes in units of 2^-22, some digits of which OpenCV drops underway."""

    def pair(share: Value) -> Sequence[Value]:
        return _fixed(1.0 - share), _fixed(share)

    across = _taps(cols, pair, 0).mixed(picture, _COLS)
    down = _taps(rows, pair, 0)
    kept = [(each / 16.0).op("Floor") for each in down.seen(across, _ROWS)]
    parts = [(each * w / 65536.0).op("Floor") for each, w in zip(kept, down.along(_ROWS), strict=True)]
    return _half_up(parts[0] + parts[1], 4.0)


def _opencv_cubic(picture: Value, rows: Axis, cols: Axis) -> Value:
    """Keys' with a = -0.75, in float32."""
    a = -0.75

    def weigh(share: Value) -> Sequence[Value]:
        before, behind = share + 1.0, 1.0 - share
        first = ((before * a - 5 * a) * before + 8 * a) * before - 4 * a
        second, third = ((x * (a + 2) - (a + 3)) * x * x + 1.0 for x in (share, behind))
        weights = (first, second, third, 1.0 - first - second - third)
        return [real(each) for each in weights]

    across = _taps(cols, weigh, -1).mixed(picture, _COLS)
    return _level(_taps(rows, weigh, -1).mixed(across, _ROWS).op("Round"))


def _opencv_lanczos(picture: Value, rows: Axis, cols: Axis) -> Value:
    """Eight pixels, weights in units of 2^-11."""
    root = float(np.sqrt(0.5))
    turns = ((1, 0), (-root, -root), (0, 1), (root, -root), (-1, 0), (root, root), (0, -1), (-root, root))

    def weigh(share: Value) -> Sequence[Value]:
        angle = -((real(share) + 3.0) * (np.pi / 4))
        sine, cosine = angle.op("Sin"), (angle + np.pi / 2).op("Sin")
        found = []
        for number, (by_sine, by_cosine) in enumerate(turns):
            distance = share + 3.0 - float(number)
            near = distance.op("Abs").op("Less", distance.number(1e-6), elem_type=TensorProto.BOOL)
            turned = -(real(distance) * (np.pi / 4))
            turned = near.op("Where", turned.number(1.0), turned, elem_type=TensorProto.DOUBLE)
            value = ((sine * by_sine + cosine * by_cosine) / (turned * turned)).cast(TensorProto.FLOAT)
            found.append(near.op("Where", share.number(1e30), value, elem_type=TensorProto.FLOAT))
        total = summed(found)
        return [_fixed(each * (1.0 / total)) for each in found]

    across = _taps(cols, weigh, -3).mixed(picture, _COLS)
    return _half_up(_taps(rows, weigh, -3).mixed(across, _ROWS), _OPENCV**2)


# Of pictures (N, height, width, channels) and both axes, levels (N, H, W, channels).
Resize = Callable[[Value, Axis, Axis], Value]
_RESIZING: dict[tuple[str, str], Resize] = {
    ("pil", "nearest"): _nearest(_pillow_places),
    ("pil", "box"): _pillow(_box, 0.5),
    ("pil", "bilinear"): _pillow(_hat, 1.0),
    ("pil", "hamming"): _pillow(_hamming, 1.0),
    ("pil", "bicubic"): _pillow(_cubic, 2.0),
    ("pil", "lanczos"): _pillow(_lanczos, 3.0),
    ("opencv", "nearest"): _nearest(_opencv_places),
    ("opencv", "bilinear"): _linear,
    ("opencv", "bicubic"): _opencv_cubic,
    ("opencv", "lanczos"): _opencv_lanczos,
    ("opencv", "area"): _area,
}
