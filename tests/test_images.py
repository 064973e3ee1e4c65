"""Photographs: every kind of file decodes, and pixels keep their place on the way in and back."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onnx_evidence.errors import DataError
from onnx_evidence.pictures.opencv import blur
from onnx_evidence.pictures.photograph import as_photograph, list_images, read_photograph
from onnx_evidence.pictures.placement import Placement, to_original
from onnx_evidence.preprocessing.apply import to_input
from onnx_evidence.preprocessing.contract import Preprocess
from onnx_evidence.preprocessing.geometry import place

PLAIN = {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}
# Photograph's height and width, and how it becomes the input: wide, tall, enlarged, shrunk, stretched, odd offsets.
CASES = {
    "wide, shrunk": ((90, 160), {"size": [32, 32], "resize_to": 36}),
    "tall, shrunk": ((161, 77), {"size": [32, 32], "resize_to": 36}),
    "wide, enlarged": ((17, 29), {"size": [32, 32], "resize_to": 41}),
    "tall, enlarged": ((29, 17), {"size": [32, 48], "resize_to": 51}),
    "no margin": ((40, 50), {"size": [40, 40]}),
    "unchanged": ((36, 50), {"size": [24, 28], "resize_to": 36}),
    "stretched": ((61, 35), {"size": [24, 48], "resize": "stretch"}),
}
EVERY_CASE = pytest.mark.parametrize(("shape", "how"), CASES.values(), ids=[name.replace(" ", "-") for name in CASES])


def settings(**values) -> Preprocess:
    return Preprocess.model_validate({**PLAIN, **values})


def noise(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def bilinear(plane: np.ndarray, placement: Placement, half: float = 0.5) -> np.ndarray:
    """One channel, resized and cropped pixel by pixel: ``half`` is where in a pixel its value sits."""
    (height, width), (rows, cols), (top, left) = placement.original, placement.size, placement.corner
    result = np.empty((rows, cols))
    for row in range(rows):
        for col in range(cols):
            y = (row + top + half) * height / placement.resized[0] - half
            x = (col + left + half) * width / placement.resized[1] - half
            y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
            i, j = min(int(y), height - 2), min(int(x), width - 2)
            dy, dx = y - i, x - j
            upper = (1 - dx) * plane[i, j] + dx * plane[i, j + 1]
            lower = (1 - dx) * plane[i + 1, j] + dx * plane[i + 1, j + 1]
            result[row, col] = (1 - dy) * upper + dy * lower
    return result


def twin_of_to_original(values: np.ndarray, placement: Placement) -> np.ndarray:
    """Every photograph pixel as the sum over input pixels of hat functions around their centres."""
    result = np.zeros(placement.original)
    (height, width), (top, left) = placement.size, placement.corner
    for row in range(placement.original[0]):
        for col in range(placement.original[1]):
            # Where the photograph pixel's centre lies in the input, in pixels from its upper left corner.
            y = (row + 0.5) * placement.resized[0] / placement.original[0] - top
            x = (col + 0.5) * placement.resized[1] / placement.original[1] - left
            if 0 <= y <= height and 0 <= x <= width:
                y, x = min(max(y, 0.5), height - 0.5), min(max(x, 0.5), width - 0.5)
                hat_y = np.maximum(0, 1 - np.abs(y - 0.5 - np.arange(height)))
                hat_x = np.maximum(0, 1 - np.abs(x - 0.5 - np.arange(width)))
                result[row, col] = hat_y @ values @ hat_x
    return result


# Decoding


def quarters(height: int = 48, width: int = 80) -> np.ndarray:
    """Four quarters of different colours: every rotation and mirror image is another picture."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2] = (220, 30, 30)
    pixels[: height // 2, width // 2 :] = (30, 200, 40)
    pixels[height // 2 :, : width // 2] = (40, 50, 210)
    pixels[height // 2 :, width // 2 :] = (230, 220, 60)
    return pixels


UPRIGHT = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.transpose(1, 0, 2),
    6: lambda p: np.rot90(p, -1),
    7: lambda p: p[::-1, ::-1].transpose(1, 0, 2),
    8: lambda p: np.rot90(p, 1),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_exif_orientation_is_honoured(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"photo{suffix}"
    Image.fromarray(quarters()).save(path, exif=exif, **({"quality": 100} if suffix == ".jpg" else {}))
    expected = UPRIGHT[orientation](quarters())
    pixels = read_photograph(path).pixels
    assert pixels.shape == expected.shape
    # JPEG rounds and blurs its colours a little.
    assert np.abs(pixels.astype(int) - expected).mean() < (3 if suffix == ".jpg" else 1e-9)


def test_an_orientation_that_is_ignored_would_be_noticed():
    upright = [turn(quarters()) for turn in UPRIGHT.values()]
    for i, first in enumerate(upright):
        for second in upright[i + 1 :]:
            assert first.shape != second.shape or np.abs(first.astype(int) - second).mean() > 30


def test_colour_channels_are_red_green_blue(tmp_path):
    Image.fromarray(quarters()).save(tmp_path / "p.png")
    assert np.array_equal(read_photograph(tmp_path / "p.png").pixels, quarters())


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tiff", ".ppm", ".jp2"])
def test_lossless_formats_come_back_exactly(tmp_path, rng, suffix):
    pixels = noise(rng, 19, 31)
    extra = {"irreversible": False} if suffix == ".jp2" else {}
    Image.fromarray(pixels).save(tmp_path / f"p{suffix}", **extra)
    photograph = read_photograph(tmp_path / f"p{suffix}")
    assert photograph.pixels.dtype == np.uint8
    assert np.array_equal(photograph.pixels, pixels)


@pytest.mark.parametrize("mode", ["L", "LA"])
def test_grey_pictures_get_three_equal_channels(tmp_path, rng, mode):
    pixels = noise(rng, 19, 31)[:, :, 0]
    Image.fromarray(pixels).convert(mode).save(tmp_path / "p.png")
    assert np.array_equal(read_photograph(tmp_path / "p.png").pixels, np.stack([pixels] * 3, axis=-1))


def test_alpha_is_dropped_and_colours_stay(tmp_path, rng):
    pixels = noise(rng, 19, 31)
    transparent = np.concatenate([pixels, noise(rng, 19, 31)[:, :, :1]], axis=2)
    Image.fromarray(transparent, "RGBA").save(tmp_path / "p.png")
    assert np.array_equal(read_photograph(tmp_path / "p.png").pixels, pixels)


@pytest.mark.parametrize("transparency", [None, 1])
def test_palette_pictures_get_the_colours_of_their_palette(tmp_path, transparency):
    palette = [(10, 20, 30), (200, 100, 50), (0, 255, 7), (90, 91, 92)]
    indices = np.arange(19 * 31, dtype=np.uint8).reshape(19, 31) % 4
    picture = Image.fromarray(indices, "P")
    picture.putpalette([value for colour in palette for value in colour])
    picture.save(tmp_path / "p.png", **({} if transparency is None else {"transparency": transparency}))
    assert np.array_equal(read_photograph(tmp_path / "p.png").pixels, np.array(palette, np.uint8)[indices])


def test_sixteen_bit_grey_keeps_its_upper_eight_bits(tmp_path, rng):
    pixels = rng.integers(0, 2**16, (19, 31), dtype=np.uint16)
    Image.fromarray(pixels).save(tmp_path / "p.png")
    decoded = read_photograph(tmp_path / "p.png").pixels
    assert decoded.dtype == np.uint8
    assert np.abs(decoded - (pixels / 257)[..., None]).max() < 1


def test_sixteen_bit_colour_keeps_its_upper_eight_bits(tmp_path, rng):
    pixels = rng.integers(0, 2**16, (19, 31, 3), dtype=np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    (tmp_path / "p.png").write_bytes(png(31, 19, rows, bits=16))
    decoded = read_photograph(tmp_path / "p.png").pixels
    assert decoded.dtype == np.uint8
    assert np.abs(decoded - pixels / 257).max() < 1


def png(width: int, height: int, rows: bytes, bits: int = 8) -> bytes:
    """A colour PNG made by hand: header and rows need not agree."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, bits, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_the_hand_made_png_is_a_good_one(tmp_path):
    rows = b"".join(b"\0" + row.tobytes() for row in quarters())
    (tmp_path / "p.png").write_bytes(png(80, 48, rows))
    assert np.array_equal(read_photograph(tmp_path / "p.png").pixels, quarters())


def test_an_absurdly_large_picture_is_refused_before_it_is_decoded(tmp_path):
    (tmp_path / "huge.png").write_bytes(png(60000, 60000, bytes(100)))
    with pytest.raises(DataError, match=r"huge\.png: the picture is absurdly large: at most 250 million pixels"):
        read_photograph(tmp_path / "huge.png")


@pytest.mark.parametrize("share", [0.02, 0.5, 0.9, 0.995])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp", ".tiff"])
def test_a_truncated_picture_is_refused_wherever_it_ends(tmp_path, rng, capfd, suffix, share):
    Image.fromarray(noise(rng, 60, 90)).save(tmp_path / f"whole{suffix}")
    data = (tmp_path / f"whole{suffix}").read_bytes()
    assert read_photograph(tmp_path / f"whole{suffix}").pixels.shape == (60, 90, 3)
    (tmp_path / f"part{suffix}").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(DataError, match=rf"part\{suffix}: cannot decode the picture: .*truncated"):
        read_photograph(tmp_path / f"part{suffix}")
    # The decoder's own chatter stays off the terminal.
    assert capfd.readouterr() == ("", "")


def test_text_named_jpg_is_refused(tmp_path):
    (tmp_path / "text.jpg").write_text("this is not a picture\n" * 50)
    with pytest.raises(DataError, match=r"text\.jpg: cannot decode the picture: .*no picture"):
        read_photograph(tmp_path / "text.jpg")


def test_an_empty_picture_is_refused(tmp_path):
    (tmp_path / "empty.png").touch()
    with pytest.raises(DataError, match=r"empty\.png: the file is empty"):
        read_photograph(tmp_path / "empty.png")


def test_a_missing_picture_is_refused_with_the_reason(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.png: cannot read the picture: No such file"):
        read_photograph(tmp_path / "nowhere.png")


def test_a_folder_is_no_picture(tmp_path):
    with pytest.raises(DataError, match=r"cannot read the picture: Is a directory"):
        read_photograph(tmp_path)


def test_the_hash_is_that_of_the_files_bytes(tmp_path):
    Image.fromarray(quarters()).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes())
    Image.fromarray(quarters()[::-1]).save(tmp_path / "c.png")
    a, b, c = (read_photograph(tmp_path / f"{name}.png").sha256 for name in "abc")
    assert a == b != c
    assert len(a) == 64


def test_pixels_from_memory_are_taken_as_they_are(rng):
    pixels = noise(rng, 5, 7)
    assert np.array_equal(as_photograph(pixels).pixels, pixels)


def test_grey_pixels_from_memory_get_three_channels(rng):
    pixels = noise(rng, 5, 7)[:, :, 0]
    assert np.array_equal(as_photograph(pixels).pixels, np.stack([pixels] * 3, axis=-1))


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((5, 7, 3), np.float32),
        np.zeros((5, 7, 3), np.int16),
        np.zeros((3, 5, 7), np.uint8),
        np.zeros((5, 7, 4), np.uint8),
        np.zeros((1, 5, 7, 3), np.uint8),
        np.zeros(5, np.uint8),
        np.zeros((0, 7, 3), np.uint8),
        np.zeros((5, 0), np.uint8),
    ],
    ids=lambda pixels: f"{pixels.dtype}-{'x'.join(map(str, pixels.shape))}",
)
def test_other_arrays_are_refused_with_their_dtype_and_shape(pixels):
    with pytest.raises(DataError, match=r"the image is \w+ of shape \(.*\): give uint8 RGB"):
        as_photograph(pixels)


# Where the input lies in the photograph


@pytest.mark.parametrize(
    ("original", "how", "resized", "corner"),
    [
        ((100, 200), {"size": [32, 32], "resize_to": 36}, (36, 72), (2, 20)),
        ((200, 100), {"size": [32, 32], "resize_to": 36}, (72, 36), (20, 2)),
        ((100, 300), {"size": [32, 48], "resize_to": 50}, (50, 150), (9, 51)),
        ((90, 120), {"size": [30, 30], "resize_to": 30}, (30, 40), (0, 5)),
        ((30, 30), {"size": [30, 30]}, (30, 30), (0, 0)),
        ((500, 333), {"size": [224, 224], "resize_to": 256}, (384, 256), (80, 16)),
        ((61, 35), {"size": [24, 48], "resize": "stretch"}, (24, 48), (0, 0)),
    ],
)
def test_the_crop_is_in_the_centre(original, how, resized, corner):
    placement = place(original, settings(**how))
    assert placement == Placement(original, tuple(how["size"]), resized, corner)


@pytest.mark.parametrize("original", [(100, 200), (200, 100), (37, 53), (1000, 35), (36, 36)])
@pytest.mark.parametrize("size", [[32, 32], [31, 36], [36, 20]])
def test_the_crop_never_leaves_the_picture(original, size):
    placement = place(original, settings(size=size, resize_to=36))
    assert min(placement.resized) == 36
    for corner, side, resized in zip(placement.corner, placement.size, placement.resized, strict=True):
        assert 0 <= corner <= resized - side
        assert abs(corner - (resized - side) / 2) <= 0.5


def test_what_the_model_saw_is_given_in_the_photographs_pixels():
    placement = place((100, 200), settings(size=[32, 32], resize_to=40))
    assert placement.seen() == pytest.approx((10, 60, 90, 140))


# In: photograph to input


@EVERY_CASE
def test_the_input_is_bilinear_with_half_pixel_centres(rng, shape, how):
    pixels = noise(rng, *shape)
    inputs, placement = to_input(as_photograph(pixels), settings(**how))
    assert inputs.shape == (3, *how["size"])
    assert inputs.dtype == np.float32
    assert inputs.flags.c_contiguous
    expected = np.stack([bilinear(pixels[:, :, channel].astype(float), placement) for channel in range(3)])
    # Both round: OpenCV to whole grey levels, with weights of 11 bits.
    assert np.abs(inputs - expected).max() <= 1.0


@pytest.mark.parametrize("name", ["wide, shrunk", "tall, shrunk", "wide, enlarged", "stretched"])
def test_pixels_that_sit_at_corners_would_be_noticed(rng, name):
    shape, how = CASES[name]
    pixels = noise(rng, *shape)
    inputs, placement = to_input(as_photograph(pixels), settings(**how))
    assert np.abs(inputs[0] - bilinear(pixels[:, :, 0].astype(float), placement, half=0.0)).max() > 20


@pytest.mark.parametrize(("color", "order"), [("RGB", [0, 1, 2]), ("BGR", [2, 1, 0])])
def test_channels_come_in_the_order_asked_for_and_are_scaled_one_by_one(rng, color, order):
    pixels = noise(rng, 24, 28)
    mean, std, scale = [0.1, 0.2, 0.3], [0.5, 0.25, 2.0], 1 / 255
    how = Preprocess(size=(24, 28), resize="stretch", color=color, scale=scale, mean=mean, std=std)
    inputs, _ = to_input(as_photograph(pixels), how)
    for channel, source in enumerate(order):
        expected = (pixels[:, :, source] * scale - mean[channel]) / std[channel]
        assert inputs[channel] == pytest.approx(expected, abs=1e-5)


def test_grey_is_the_usual_weighted_sum(rng):
    pixels = noise(rng, 24, 28)
    how = Preprocess(size=(24, 28), resize="stretch", color="GRAY", mean=(10.0,), std=(2.0,))
    inputs, _ = to_input(as_photograph(pixels), how)
    assert inputs.shape == (1, 24, 28)
    expected = pixels @ np.array([0.299, 0.587, 0.114])
    assert np.abs(inputs[0] * 2 + 10 - expected).max() < 0.51


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "area", "nearest", "lanczos"])
def test_every_interpolation_keeps_a_plain_picture_plain(interpolation):
    pixels = np.full((50, 90, 3), (10, 120, 240), np.uint8)
    inputs, _ = to_input(as_photograph(pixels), settings(size=[32, 32], resize_to=36, interpolation=interpolation))
    for channel, value in enumerate((10, 120, 240)):
        assert np.abs(inputs[channel] - value).max() <= 1


def test_interpolations_differ(rng):
    photograph = as_photograph(noise(rng, 50, 90))
    names = ["bilinear", "bicubic", "area", "nearest", "lanczos"]
    made = [to_input(photograph, settings(size=[32, 32], resize_to=36, interpolation=name))[0] for name in names]
    for i, first in enumerate(made):
        for second in made[i + 1 :]:
            assert np.abs(first - second).max() > 5


def test_the_photograph_itself_is_left_alone(rng):
    pixels = noise(rng, 50, 90)
    before = pixels.copy()
    to_input(as_photograph(pixels), settings(size=[32, 32], resize_to=36, color="BGR"))
    assert np.array_equal(pixels, before)


# Back: map to photograph


@EVERY_CASE
def test_a_constant_map_is_constant_inside_the_crop_and_exactly_zero_outside(shape, how):
    placement = place(shape, settings(**how))
    carried = to_original(np.full(placement.size, 3.25, np.float32), placement)
    assert carried.shape == shape
    assert carried.dtype == np.float32
    top, left, bottom, right = placement.seen()
    rows, cols = np.arange(shape[0]) + 0.5, np.arange(shape[1]) + 0.5
    inside = ((rows >= top) & (rows <= bottom))[:, None] & ((cols >= left) & (cols <= right))
    assert inside.any()
    assert carried[inside] == pytest.approx(3.25, rel=1e-6)
    assert (carried[~inside] == 0).all()


def test_a_crop_leaves_something_outside_to_be_zero():
    placement = place((90, 160), settings(size=[32, 32], resize_to=36))
    carried = to_original(np.ones((32, 32), np.float32), placement)
    # 80 of 90 rows and 80 of 160 columns were seen.
    assert (carried != 0).sum() == 80 * 80
    assert (carried[5:85, 40:120] == 1).all()


@EVERY_CASE
@pytest.mark.parametrize("share", [(0.1, 0.1), (0.3, 0.7), (0.5, 0.5), (0.9, 0.4), (0.9, 0.9)])
def test_an_impulse_lands_where_its_pixel_came_from(shape, how, share):
    placement = place(shape, settings(**how))
    top, left, bottom, right = placement.seen()
    # The input pixel that covers the centre of a photograph pixel some way into what was seen.
    pixel = (round(top + share[0] * (bottom - top) - 0.5), round(left + share[1] * (right - left) - 0.5))
    where = tuple(
        min(max(int((spot + 0.5) * new / old - corner), 0), side - 1)
        for spot, new, old, corner, side in zip(
            pixel, placement.resized, placement.original, placement.corner, placement.size, strict=True
        )
    )
    values = np.zeros(placement.size, np.float32)
    values[where] = 1
    carried, expected = to_original(values, placement), twin_of_to_original(values, placement)
    assert carried.max() > 0.2
    row, col = np.unravel_index(carried.argmax(), shape)
    assert max(abs(row - pixel[0]), abs(col - pixel[1])) <= max(np.ceil(np.divide(shape, placement.resized)))
    assert np.abs(carried - expected).max() < 1e-4


@EVERY_CASE
def test_a_map_is_carried_like_its_slow_twin(rng, shape, how):
    placement = place(shape, settings(**how))
    values = rng.normal(size=placement.size).astype(np.float32)
    assert to_original(values, placement) == pytest.approx(twin_of_to_original(values, placement), abs=1e-4)


@pytest.mark.parametrize("name", ["wide, shrunk", "tall, shrunk", "wide, enlarged", "tall, enlarged", "stretched"])
@pytest.mark.parametrize("axis", [0, 1])
def test_the_way_back_undoes_the_way_in(name, axis):
    # A picture that names its own rows (columns): what comes back must name them too.
    shape, how = CASES[name]
    number = np.broadcast_to(np.arange(shape[axis])[:, None] if axis == 0 else np.arange(shape[axis]), shape)
    pixels = np.repeat(number[:, :, None], 3, axis=2).astype(np.uint8)
    inputs, placement = to_input(as_photograph(pixels), settings(**how))
    carried = to_original(inputs[0], placement)
    top, left, bottom, right = placement.seen()
    step = [old / new for old, new in zip(placement.original, placement.resized, strict=True)]
    rows, cols = np.arange(shape[0]) + 0.5, np.arange(shape[1]) + 0.5
    # Half an input pixel from the border nothing is interpolated any more.
    inner = ((rows > top + step[0] / 2) & (rows < bottom - step[0] / 2))[:, None]
    inner = inner & ((cols > left + step[1] / 2) & (cols < right - step[1] / 2))
    assert inner.sum() > 50
    assert np.abs(carried - number)[inner].max() <= 1.0


@pytest.mark.parametrize("shape", [(1, 40000), (40000, 1), (2, 30000)])
def test_a_very_long_and_narrow_picture_is_handled(shape):
    pixels = np.full((*shape, 3), 77, np.uint8)
    inputs, placement = to_input(as_photograph(pixels), settings(size=[8, 8], resize_to=9))
    assert inputs.shape == (3, 8, 8)
    assert (inputs == 77).all()
    assert to_original(np.ones((8, 8), np.float32), placement).shape == shape


@pytest.mark.parametrize("shape", [(1, 300_000), (300_000, 1), (1, 10**9)])
def test_a_picture_too_long_and_narrow_to_resize_is_refused_with_both_sizes(shape):
    with pytest.raises(DataError, match=rf"a picture of {shape[1]} x {shape[0]} pixels becomes .* too long and narrow"):
        place(shape, settings(size=[32, 32], resize_to=36))


def test_blur_keeps_the_sum_of_an_impulse_and_blurs_channels_apart():
    values = np.zeros((2, 31, 41), np.float32)
    values[0, 15, 20] = 1
    blurred = blur(values, 2.0)
    assert blurred.shape == values.shape
    assert blurred[0].sum() == pytest.approx(1, abs=1e-4)
    assert blurred[0].max() == pytest.approx(1 / (2 * np.pi * 4), rel=0.02)
    assert (blurred[1] == 0).all()


# Lists


def test_folders_are_listed_sorted_with_everything_below_them_that_is_a_picture(tmp_path):
    for name in ("b.png", "a.JPG", "sub/deep/c.jpeg", "sub/d.webp", "notes.txt", "model.onnx", "README"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    found = [str(path.relative_to(tmp_path)) for path in list_images([tmp_path])]
    assert found == ["a.JPG", "b.png", "sub/d.webp", "sub/deep/c.jpeg"]


def test_files_are_listed_as_they_are_in_the_order_given(tmp_path):
    (tmp_path / "folder").mkdir()
    for name in ("folder/2.png", "folder/1.png"):
        (tmp_path / name).touch()
    paths = [tmp_path / "z.unusual", tmp_path / "folder", tmp_path / "a.png"]
    assert list_images(paths) == [paths[0], tmp_path / "folder/1.png", tmp_path / "folder/2.png", paths[2]]


def test_a_folder_without_pictures_is_refused_by_name(tmp_path):
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "notes.txt").touch()
    with pytest.raises(DataError, match=r"papers: no pictures in this folder \(.*\.png"):
        list_images([Path(tmp_path / "papers")])
