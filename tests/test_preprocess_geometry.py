"""Crops, letterboxes and padding: where a pixel comes from, and that evidence goes back there."""

import numpy as np
import pytest

from onnx_evidence.errors import DataError, SettingError
from onnx_evidence.evaluation.seen import as_seen, grey_levels
from onnx_evidence.pictures.photograph import as_photograph
from onnx_evidence.pictures.placement import Placement, padding_bits, spread_to_original, to_original
from onnx_evidence.preprocessing.apply import to_input
from onnx_evidence.preprocessing.contract import Preprocess
from onnx_evidence.preprocessing.geometry import place

PLAIN = {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0], "library": "pil"}


def settings(**values) -> Preprocess:
    return Preprocess.model_validate({**PLAIN, **values})


# Height and width of the picture, and how it becomes the input.
CASES = {
    "letterbox, wide": ((40, 80), {"size": [32, 32], "resize": "long"}),
    "letterbox, tall": ((90, 35), {"size": [32, 32], "resize": "long"}),
    "letterbox, not square": ((50, 60), {"size": [24, 48], "resize": "long"}),
    "letterbox, at the top left": ((40, 80), {"size": [32, 32], "resize": "long", "anchor": "top-left"}),
    "letterbox, larger than the crop": ((40, 80), {"size": [28, 28], "resize": "long", "resize_to": [32, 32]}),
    "letterbox, enlarged": ((9, 14), {"size": [32, 32], "resize": "long"}),
    "padded crop": ((60, 80), {"size": [32, 32], "resize_to": 24, "pad": [7], "rounding": "torchvision"}),
    "padded crop, down": ((61, 83), {"size": [33, 32], "resize_to": 24, "pad": [7], "rounding": "huggingface"}),
    "crop alone": ((50, 64), {"size": [32, 32], "resize": "crop"}),
    "crop of a smaller one": ((20, 64), {"size": [32, 32], "resize": "crop", "pad": [9, 8, 7]}),
    "stretched, then cropped": ((60, 45), {"size": [32, 32], "resize": "stretch", "resize_to": [36, 40]}),
    "nothing": ((32, 24), {"size": [32, 24], "resize": "none"}),
    "short, top left": ((60, 90), {"size": [32, 32], "resize_to": 36, "anchor": "top-left"}),
}
EVERY_CASE = pytest.mark.parametrize(("shape", "how"), CASES.values(), ids=[name.replace(" ", "-") for name in CASES])


def interpolated(shape: tuple[int, int], placement: Placement, axis: int) -> np.ndarray:
    """For each input pixel the photograph's row (column) that its centre shows; NaN on padding."""
    place = (np.arange(placement.size[axis]) + 0.5 + placement.corner[axis]) * shape[axis] / placement.resized[axis]
    return np.where((place > 0) & (place < shape[axis]), place - 0.5, np.nan)


@EVERY_CASE
@pytest.mark.parametrize("axis", [0, 1])
def test_the_input_shows_the_rows_and_columns_that_the_placement_says(shape, how, axis):
    # A picture that names its own rows (columns), 100 levels above what it is padded with.
    number = np.broadcast_to(np.arange(shape[axis])[:, None] if axis == 0 else np.arange(shape[axis]), shape)
    pixels = np.repeat(number[:, :, None] + 100, 3, axis=2).astype(np.uint8)
    inputs, placement = to_input(as_photograph(pixels), settings(**how))
    expected = interpolated(shape, placement, axis)
    expected = np.broadcast_to(expected[:, None] if axis == 0 else expected, placement.size)
    shown = np.zeros(placement.size, bool)
    shown[placement.inside()] = True
    assert np.isfinite(expected[shown]).all()
    assert shown.any()
    # Antialiasing leans inwards at the photograph's own borders.
    lean = max(old / new for old, new in zip(shape, placement.resized, strict=True)) / 2 + 1
    assert np.abs(inputs[0] - 100 - expected)[shown].max() <= lean
    for channel in range(3):
        pad = how.get("pad", [0])
        assert (inputs[channel][~shown] == pad[channel % len(pad)]).all()


@EVERY_CASE
def test_sums_are_kept_on_the_way_back_and_padding_is_accounted_for(rng, shape, how):
    placement = place(shape, settings(**how))
    bits = rng.normal(size=placement.size).astype(np.float32)
    carried = spread_to_original(bits, placement)
    assert carried.shape == shape
    assert carried.sum(dtype=np.float64) + padding_bits(bits, placement) == pytest.approx(bits.sum(), abs=1e-3)
    # And by regions: the upper half of the photograph has what was seen of it.
    inside = bits[placement.inside()]
    whole = np.zeros(placement.resized)
    rows, cols = placement.inside()
    top, left = placement.corner
    whole[rows.start + top : rows.stop + top, cols.start + left : cols.stop + left] = inside
    share = placement.resized[0] * (shape[0] // 2) / shape[0]
    full = int(share)
    upper = whole[:full].sum() + (share - full) * whole[min(full, len(whole) - 1)].sum()
    assert carried[: shape[0] // 2].sum() == pytest.approx(upper, abs=1e-3)


def test_bits_on_padding_are_counted_and_carried_nowhere():
    placement = place((40, 80), settings(size=[32, 32], resize="long"))
    assert placement == Placement((40, 80), (32, 32), (16, 32), (-8, 0))
    bits = np.zeros((32, 32), np.float32)
    bits[3, 5] = 2.0
    bits[12, 5] = 1.0
    assert padding_bits(bits, placement) == 2.0
    carried = spread_to_original(bits, placement)
    assert carried.sum() == pytest.approx(1.0)
    assert np.argwhere(carried > 0.1).mean(axis=0) == pytest.approx([10.75, 13.25], abs=1)


@EVERY_CASE
@pytest.mark.parametrize("share", [(0.3, 0.4), (0.6, 0.7)])
@pytest.mark.parametrize("carry", [to_original, spread_to_original])
def test_a_marker_comes_back_where_it_was(shape, how, share, carry):
    """A bright block of the photograph, found in the input and carried back, lies where it lay."""
    placement = place(shape, settings(**how))
    top, left, bottom, right = placement.seen()
    top, left, bottom, right = max(top, 0), max(left, 0), min(bottom, shape[0]), min(right, shape[1])
    row, col = round(top + share[0] * (bottom - top)), round(left + share[1] * (right - left))
    pixels = np.zeros((*shape, 3), np.uint8)
    half = [max(round(old / new / 2), 1) for old, new in zip(shape, placement.resized, strict=True)]
    pixels[max(row - half[0], 0) : row + half[0] + 1, max(col - half[1], 0) : col + half[1] + 1] = 255
    inputs, _ = to_input(as_photograph(pixels), settings(**{**how, "pad": [0]} if "pad" in how else how))
    carried = carry(inputs[0], placement).astype(np.float64)
    centre = [np.average(np.arange(side), weights=carried.sum(axis=1 - axis)) for axis, side in enumerate(shape)]
    step = [old / new for old, new in zip(shape, placement.resized, strict=True)]
    assert abs(centre[0] - row) <= max(step[0], 1)
    assert abs(centre[1] - col) <= max(step[1], 1)


def test_control_a_corner_that_is_off_by_some_pixels_would_be_noticed():
    shape, how = CASES["letterbox, wide"]
    placement = place(shape, settings(**how))
    moved = Placement(placement.original, placement.size, placement.resized, (placement.corner[0] + 3, 0))
    bits = np.zeros(placement.size, np.float32)
    bits[16, 16] = 1
    here, there = (spread_to_original(bits, each) for each in (placement, moved))
    rows = [np.average(np.arange(shape[0]), weights=each.sum(axis=1)) for each in (here, there)]
    assert rows[1] - rows[0] == pytest.approx(3 * 40 / 16, abs=0.5)


@pytest.mark.parametrize(
    ("original", "how", "resized", "corner"),
    [
        # torchvision: int(256 * 375 / 333) = 288; (288 - 224) / 2 = 32
        ((333, 375), {"size": [224, 224], "resize_to": 256, "rounding": "torchvision"}, (256, 288), (16, 32)),
        # int(256 * 500 / 333) = 384 of 384.38; (385 - 224) / 2 would be 80.5
        ((500, 333), {"size": [224, 224], "resize_to": 256, "rounding": "torchvision"}, (384, 256), (80, 16)),
        # 100 * 1.5 / 1: halves go to the even number with torchvision, down with Hugging Face, also below 0
        ((11, 17), {"size": [8, 8], "resize_to": 11, "rounding": "torchvision"}, (11, 17), (2, 4)),
        ((11, 17), {"size": [8, 8], "resize_to": 11, "rounding": "huggingface"}, (11, 17), (1, 4)),
        ((13, 21), {"size": [8, 8], "resize_to": 13, "rounding": "torchvision"}, (13, 21), (2, 6)),
        ((11, 17), {"size": [14, 14], "resize": "crop", "rounding": "torchvision"}, (11, 17), (-1, 2)),
        ((11, 17), {"size": [14, 14], "resize": "crop", "rounding": "huggingface"}, (11, 17), (-2, 1)),
        ((11, 17), {"size": [14, 14], "resize": "crop", "anchor": "top-left"}, (11, 17), (0, 0)),
        # 10 * 2.56 = 25.6 up to the nearest, down as torchvision
        ((10, 33), {"size": [8, 8], "resize_to": 8, "rounding": "nearest"}, (8, 26), (0, 9)),
        ((1000, 10), {"size": [8, 8], "resize": "long"}, (8, 1), (0, -4)),
        ((480, 640), {"size": [640, 640], "resize": "long"}, (480, 640), (-80, 0)),
    ],
)
def test_sides_and_corners_by_hand(original, how, resized, corner):
    placement = place(original, settings(**how))
    assert (placement.resized, placement.corner) == (resized, corner)


def test_a_picture_of_another_size_is_refused_where_nothing_resizes_it():
    with pytest.raises(DataError, match=r"has 30 x 20 pixels and the model takes 32 x 32 as they are .*give one"):
        place((20, 30), settings(size=[32, 32], resize="none"))


@EVERY_CASE
def test_a_picture_as_seen_is_seen_so(rng, shape, how):
    """What evaluation shows a model again: every pixel that is no padding is the same."""
    how = settings(**how)
    pixels = rng.integers(0, 256, (*how.size, 3), dtype=np.uint8)
    inputs, placement = to_input(as_seen(pixels, how), how)
    rows, cols = placement.inside()
    assert np.array_equal(inputs[:, rows, cols].transpose(1, 2, 0), pixels[rows, cols])
    if how.pad is None:
        assert (rows, cols) == (slice(0, how.size[0]), slice(0, how.size[1]))


@pytest.mark.parametrize("change", [{"white": 4095}, {"color": "BANDS"}])
def test_grey_levels_are_of_pictures_of_eight_bits(change):
    with pytest.raises(SettingError, match=r"pictures of 8 bits .*--no-stability"):
        grey_levels(np.zeros((3, 4, 4), np.float32), settings(size=[4, 4], **change))
