"""Every format and layout is read as it was made, as Pillow reads it where that is right; what is none is named."""

import io
import itertools
import struct
import warnings
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from parts import picture_cases as pc
from PIL import Image, ImageOps, PngImagePlugin

from onnx_evidence.errors import DataError
from onnx_evidence.pictures import formats, netpbm, opencv, pillow, tiff
from onnx_evidence.pictures.photograph import SUFFIXES, list_images, read_mask, read_photograph
from onnx_evidence.preprocessing.apply import how_taken, to_input
from onnx_evidence.preprocessing.contract import Preprocess

CASES = {case.name: case for case in pc.every_case()}
EVERY = pytest.mark.parametrize("name", CASES)


def by_pillow(data: bytes) -> np.ndarray:
    """As trainers' libraries read a picture."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))


def saved(folder: Path, data: bytes, name: str = "p.png") -> Path:
    (folder / name).write_bytes(data)
    return folder / name


def case_file(folder: Path, name: str) -> Path:
    return saved(folder, CASES[name].data, f"p{CASES[name].suffix}")


# Right values


@EVERY
def test_a_picture_is_read_as_it_was_made_and_as_pillow_reads_it(tmp_path, capfd, name):
    case = CASES[name]
    photograph = read_photograph(case_file(tmp_path, name))
    assert photograph.pixels.dtype == np.uint8
    if case.pillow:
        assert np.array_equal(photograph.pixels, by_pillow(case.data))
    if case.truth is not None:
        assert np.array_equal(photograph.pixels, case.truth)
    if case.near is not None:
        assert photograph.pixels.shape == case.near.shape
        assert np.abs(photograph.pixels.astype(int) - case.near).mean() < 6
    if case.raw is not None:
        assert photograph.raw.dtype == np.uint16
        assert np.array_equal(photograph.raw, case.raw)
    else:
        assert photograph.samples is None
    assert capfd.readouterr() == ("", "")


def test_every_case_has_something_to_be_held_against_and_every_format_has_cases():
    assert len(CASES) > 200
    assert all(case.pillow or case.truth is not None for case in CASES.values())
    assert {case.suffix for case in CASES.values()} >= {suffixes[0] for suffixes in formats.FORMATS.values()}
    for case in CASES.values():
        assert case.suffix in formats.FORMATS[formats.format_of(case.data)]


def test_control_one_reader_alone_would_be_caught():
    """OpenCV, as pictures were read before: multiplied by alpha, dark, lying on the side (TIFF of 16 bits until 4)."""
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_ANYDEPTH
    for name in ("TIFF, RGBA, unassociated", "PGM, P5, maxval 100"):
        case = CASES[name]
        found = cv2.imdecode(np.frombuffer(case.data, np.uint8), flags)
        truth = case.truth if found.dtype == np.uint8 else case.raw
        assert found.shape != truth.shape or (np.abs(found.astype(int) - truth) > 100).any(), name
    case = CASES["AVIF, irot, imir as orientation 6"]
    assert cv2.imdecode(np.frombuffer(case.data, np.uint8), flags).shape != case.near.shape
    # Pillow clips 16 bits of grey to 8, and reads planes of 16 bits as something else.
    for name in ("PNG, grey, 16 bits", "TIFF, RGB, 16 bits, planes"):
        assert (np.abs(by_pillow(CASES[name].data).astype(int) - CASES[name].truth) > 100).any(), name


@pytest.mark.parametrize("kind", ["RGBA, unassociated", "RGBA, associated"])
def test_alpha_of_a_tiff_is_dropped_and_what_was_multiplied_is_divided(tmp_path, kind):
    pixels = read_photograph(case_file(tmp_path, f"TIFF, {kind}")).pixels.astype(int)
    seen = pc.alpha() > 0
    assert np.abs(pixels - pc.picture())[seen].max() <= (0 if "un" in kind else 7)
    # Where alpha is 0 the product has lost the colour for good.
    assert (pixels[pc.SQUARE] == ((230, 20, 20) if "un" in kind else (0, 0, 0))).all()


def test_sixteen_bits_that_were_multiplied_are_divided_as_well(tmp_path):
    both = np.dstack([pc.deep(pc.picture()), pc.deep(pc.alpha())])
    data = pc.tiff(pc._multiplied(both, 65535), 2, extra=(1,))
    found = read_photograph(saved(tmp_path, data, "p.tif")).raw.astype(int)
    seen = both[:, :, 3] > 10_000
    assert np.abs(found - both[:, :, :3])[seen].max() <= 8


@pytest.mark.parametrize("suffix", [".tif", ".png"])
def test_sixteen_bits_are_the_same_at_every_reading(tmp_path, suffix):
    name = {".tif": "TIFF, RGB, 16 bits, one strip", ".png": "PNG, RGB, 16 bits"}[suffix]
    path = case_file(tmp_path, name)
    readings = {read_photograph(path).raw.tobytes() for _ in range(3)}
    assert len(readings) == 1


@pytest.mark.parametrize("number", [0, 9, 255])
def test_an_orientation_of_a_tiff_that_is_none_leaves_it_as_it_lies(tmp_path, number):
    data = pc.tiff(pc.picture(), 2, orientation=number)
    found = read_photograph(saved(tmp_path, data, "p.tif")).pixels
    assert np.array_equal(found, pc.picture())
    assert np.array_equal(found, by_pillow(data))


@pytest.mark.parametrize("bits", [8, 16])
def test_an_orientation_that_only_xmp_says_is_honoured_in_a_tiff(tmp_path, bits):
    pixels = pc.picture() if bits == 8 else pc.deep(pc.picture())
    for said, turn in (({}, 6), ({"orientation": 3}, 3)):  # the tag goes before
        data = pc.tiff(pixels, 2, xmp=b'<x tiff:Orientation="6"/>', **said)
        found = read_photograph(saved(tmp_path, data, "p.tif")).pixels
        assert np.array_equal(found, pc.upright(pc.picture(), turn))


@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_three_channels_that_a_tiff_calls_no_colours_are_none(tmp_path, rng, photometric, dtype):
    cube = rng.integers(0, 256, (9, 8, 3)).astype(dtype)
    path = saved(tmp_path, pc.tiff(cube, photometric, extra=(0, 0)), "p.tif")
    with pytest.raises(DataError, match=r"shape \(9, 8, 3\), .* no colours: .*color = 'BANDS'"):
        read_photograph(path)
    bands = read_photograph(path, bands=True).raw
    assert np.array_equal(bands, cube if photometric else np.iinfo(dtype).max - cube)


@pytest.mark.parametrize("animated", [False, True])
@pytest.mark.parametrize("bits", [8, 16])
def test_a_png_is_its_picture_whether_or_not_its_animation_begins_with_it(tmp_path, bits, animated):
    """Where no control of a frame goes before the picture, the animation is of other frames."""
    shown = pc.picture() if bits == 8 else pc.deep(pc.picture())
    control = struct.pack(">IIIIHHBB", shown.shape[1], shown.shape[0], 0, 0, 1, 10, 0, 0)
    frame = zlib.compress(b"".join(b"\0" + row.tobytes() for row in shown[::-1].astype(f">u{bits // 8}")))
    before = [(b"acTL", struct.pack(">II", 2 + animated, 0))]
    before += [(b"fcTL", struct.pack(">I", 0) + control)] if animated else []
    data = pc.png(shown, bits, 2, before)
    part = b""
    for number in (animated, animated + 2):
        for kind, body in ((b"fcTL", control), (b"fdAT", frame)):
            numbered = kind + struct.pack(">I", number + (kind == b"fdAT")) + body
            part += struct.pack(">I", len(numbered) - 4) + numbered + struct.pack(">I", zlib.crc32(numbered))
    path = saved(tmp_path, data[:-12] + part + data[-12:])
    assert np.array_equal(read_photograph(path).pixels, pc.picture())


def test_words_of_a_pam_file_are_where_its_lines_begin(tmp_path):
    head = b"P7\n# ENDHDR comes later\nWIDTH 56\nHEIGHT 40\nDEPTH 3\nMAXVAL 255\n# no ENDHDR yet\nENDHDR\n"
    assert np.array_equal(read_photograph(saved(tmp_path, head + pc.picture().tobytes(), "p.pam")).pixels, pc.picture())


@pytest.mark.parametrize(("called", "depth"), [(b"CMYK", 4), (b"YUV", 3), (b"GRAYSCALE", 3), (b"RGB\nTUPLTYPE X", 3)])
def test_samples_of_a_pam_file_that_are_no_colours_are_refused_by_name(tmp_path, called, depth):
    head = b"P7\nWIDTH 2\nHEIGHT 2\nDEPTH %d\nMAXVAL 255\nTUPLTYPE %s\nENDHDR\n" % (depth, called)
    path = saved(tmp_path, head + bytes(range(4 * depth)), "p.pam")
    with pytest.raises(DataError, match=f"has {depth} samples a pixel, called {called.split()[0].decode()}"):
        read_photograph(path)
    assert read_photograph(path, bands=True).raw.shape == (2, 2, depth)


# Bands


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
@pytest.mark.parametrize(("channels", "photometric"), [(1, 1), (2, 1), (3, 2), (4, 2), (13, 1)])
def test_bands_of_a_tiff_come_back_in_every_layout(tmp_path, rng, dtype, channels, photometric):
    extra = (0,) * (channels - (3 if photometric == 2 else 1))
    cube = (rng.normal(size=(33, 41, channels)) * 50 + 100).astype(dtype)
    predictors = (1, 3) if dtype == "float32" else (1, 2)
    for order, planes, predictor in itertools.product("<>", (False, True), predictors):
        how = {"planes": planes, "deflate": predictor > 1, "predictor": predictor, "extra": extra, "big": planes}
        for layout in ({"rows": 7}, {"tile": (16, 32)}):
            data = pc.tiff(cube, photometric, order=order, **how, **layout)
            found = read_photograph(saved(tmp_path, data, "p.tif"), bands=True).raw
            assert found.dtype == cube.dtype
            assert np.array_equal(found, cube), (order, planes, predictor, layout)


def test_channels_of_pictures_are_bands_as_they_lie_in_the_file(tmp_path):
    pixels, level, opacity = pc.picture(), pc.grey(), pc.alpha()
    for name, expected in {
        "PNG, RGBA": np.dstack([pixels, opacity]),
        "PNG, grey and alpha": np.dstack([level, opacity]),
        "PNG, grey, 8 bits": level[:, :, None],
        "PNG, EXIF orientation 6": pixels,
        "PNG, grey and alpha, 16 bits": np.dstack([pc.deep(level), pc.deep(opacity)]),
        "PNG, RGBA, 16 bits": np.dstack([pc.deep(pixels), pc.deep(opacity)]),
        "TIFF, RGBA, unassociated": np.dstack([pixels, opacity]),
        "TIFF, orientation 6": pixels,
        "TIFF, grey, white is zero": level[:, :, None],
        "PAM, RGB_ALPHA, maxval 1023": np.dstack([pc.deep(pixels, 1023), pc.deep(opacity, 1023)]),
        "WebP, lossless, alpha": np.dstack([pixels, opacity]),
        "JPEG 2000, RGBA": np.dstack([pixels, opacity]),
    }.items():
        found = read_photograph(case_file(tmp_path, name), bands=True).raw
        assert found.dtype == expected.dtype, name
        assert np.array_equal(found, expected), name


def test_smaller_copies_behind_a_page_are_no_bands(tmp_path, rng):
    """As geographers' files have them: an overview that is marked as one."""
    cube = rng.integers(0, 256, (12, 16, 4), dtype=np.uint8)
    path = saved(tmp_path, pages(cube, cube[::2, ::2], mark=1), "p.tif")
    assert np.array_equal(read_photograph(path, bands=True).raw, cube)
    with pytest.raises(DataError, match="its 2 pages differ in size"):
        read_photograph(saved(tmp_path, pages(cube, cube[::2, ::2], mark=0), "p.tif"), bands=True)


def pages(*cubes: np.ndarray, mark: int) -> bytes:
    """A TIFF of several pages by hand, those behind the first marked in NewSubfileType."""
    body, directories = b"", []
    for cube in cubes:
        directories.append((8 + len(body), cube))
        body += cube.tobytes()
    place, result = 8 + len(body), b""
    for number, (start, cube) in enumerate(directories):
        height, width, channels = cube.shape
        size = 2 + 12 * 9 + 4
        after = place + len(result) + size
        bits, formats_of = struct.pack("<4H", *[8] * 4), b""
        tags = [(254, 4, 1, mark if number else 0), (256, 4, 1, width), (257, 4, 1, height), (258, 3, channels, after)]
        tags += [(262, 3, 1, 1), (273, 4, 1, start), (277, 3, 1, channels), (278, 4, 1, height), (279, 4, 1, cube.size)]
        following = after + len(bits) if number + 1 < len(directories) else 0
        result += struct.pack("<H", 9) + b"".join(struct.pack("<HHII", *tag) for tag in tags)
        result += struct.pack("<I", following) + bits + formats_of
    return b"II*\0" + struct.pack("<I", place) + body + result


@pytest.mark.parametrize("suffix", [".tif", ".pfm"])
def test_floats_are_for_bands_and_said_to_be(tmp_path, rng, suffix):
    values = rng.normal(size=(19, 31)).astype(np.float32)
    data = pc.tiff(values) if suffix == ".tif" else b"Pf\n31 19\n-1.0\n" + values[::-1].astype("<f4").tobytes()
    path = saved(tmp_path, data, f"p{suffix}")
    assert np.array_equal(read_photograph(path, bands=True).raw[:, :, 0], values)
    with pytest.raises(DataError, match=r"the image is float32 of shape \(19, 31, 1\): .*color = 'BANDS'"):
        read_photograph(path)
    values[3, 4] = np.nan
    data = pc.tiff(values) if suffix == ".tif" else b"Pf 31 19 1.0\n" + values[::-1].astype(">f4").tobytes()
    with pytest.raises(DataError, match="values that are not finite"):
        read_photograph(saved(tmp_path, data, f"p{suffix}"), bands=True)


def test_thirteen_bands_are_no_grey_picture(tmp_path, rng):
    cube = rng.integers(0, 256, (9, 8, 13), dtype=np.uint8)
    with pytest.raises(DataError, match=r"shape \(9, 8, 13\), .*color = 'BANDS'"):
        read_photograph(saved(tmp_path, pc.tiff(cube, extra=(0,) * 12), "p.tif"))


# White


@pytest.mark.parametrize(("white", "expected"), [(4095, 1.0), (65535, 65535 / 4095), (1023, 1023 / 4095)])
def test_a_white_that_the_file_says_becomes_the_contracts(tmp_path, white, expected):
    name = "PGM, P5, maxval 4095"
    photograph = read_photograph(case_file(tmp_path, name))
    assert photograph.white == 4095
    size = {"size": [pc.HEIGHT, pc.WIDTH], "resize": "none", "mean": [0] * 3, "std": [1] * 3, "white": white}
    how = Preprocess.model_validate(size)
    assert np.array_equal(to_input(photograph, how)[0].transpose(1, 2, 0), np.rint(CASES[name].raw * expected))
    said = "as they are" if white == 4095 else f"value * {white} / 4095, to the nearest"
    assert how_taken(photograph, how) == f"uint16, 3 channels, {said}"
    eight = how.model_copy(update={"white": 255})
    assert np.array_equal(to_input(photograph, eight)[0].transpose(1, 2, 0), CASES[name].truth)
    assert how_taken(photograph, eight) == "uint16, 3 channels, reduced to 8 bits: value * 255 / 4095, to the nearest"
    assert photograph.blank().white == 4095


def test_a_dark_picture_of_a_known_white_is_not_warned_of(tmp_path, caplog):
    size = {"size": [pc.HEIGHT, pc.WIDTH], "resize": "none", "mean": [0] * 3, "std": [1] * 3}
    how = Preprocess.model_validate(size)
    to_input(read_photograph(case_file(tmp_path, "PGM, P5, maxval 1023")), how)
    assert caplog.text == ""
    to_input(read_photograph(saved(tmp_path, pc.png(pc.deep(pc.grey(), 1023), 16, 0))), how)
    assert "give white = 4095" in caplog.text


@pytest.mark.parametrize("name", ["PNG, grey, 1 bits", "PNG, palette", "TIFF, grey, 16 bits", "PNG, grey and alpha"])
def test_a_mask_is_what_is_not_zero_in_any_format(tmp_path, name):
    assert np.array_equal(read_mask(case_file(tmp_path, name)), CASES[name].truth.any(axis=2))


# What is damaged

FIRST_IS_WHOLE = ("several", "animated")


@EVERY
def test_a_truncated_file_is_refused_in_one_line_wherever_it_ends(tmp_path, capfd, name):
    case = CASES[name]
    if any(word in name for word in FIRST_IS_WHOLE):
        pytest.skip("what is cut off is not the first picture")
    for share in (0.03, 0.4, 0.95):
        path = saved(tmp_path, case.data[: int(len(case.data) * share)], f"part{case.suffix}")
        with pytest.raises(DataError, match=rf"part\{case.suffix}: cannot decode the picture: ") as caught:
            read_photograph(path)
        assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("PNG, RGB")])
def test_a_png_with_a_bit_turned_is_refused(tmp_path, name):
    """Its checksum tells; decoders pass it over."""
    data = bytearray(CASES[name].data)
    data[data.index(b"IDAT") + 40] ^= 4
    with pytest.raises(DataError, match="wrong checksum of a part 'IDAT'"):
        read_photograph(saved(tmp_path, bytes(data)))


def test_a_part_of_a_png_that_claims_more_than_there_is_is_refused_before_room_is_made(tmp_path):
    data = CASES["PNG, RGB, 16 bits"].data
    assert formats.damage_of(data + b"anything behind the end") == formats.damage_of(data) == ""
    chunk = data.index(b"IDAT") - 4
    with pytest.raises(DataError, match=r"the PNG file is truncated.*ends early"):
        read_photograph(saved(tmp_path, data[:chunk] + b"\x7f\xff\xff\x00iCCP" + data[chunk:]))


@pytest.mark.parametrize(
    "error", [SyntaxError("s"), struct.error("t"), RecursionError("r"), MemoryError(), KeyError(3)]
)
def test_whatever_pillow_raises_becomes_one_line(tmp_path, monkeypatch, error):
    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load_prepare", fails)
    with pytest.raises(DataError, match=r"p\.png: cannot decode the picture: the PNG file is truncated, damaged or"):
        read_photograph(case_file(tmp_path, "PNG, RGB"))


def test_damaged_exif_leaves_a_picture_as_it_lies(tmp_path):
    exif = b"Exif\0\0II*\0\xff\xff\xff\x7f" + b"\xff" * 8
    data = CASES["JPEG, 4:4:4"].data
    path = saved(tmp_path, data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:], "p.jpg")
    assert np.array_equal(read_photograph(path).pixels, by_pillow(data))


@pytest.mark.parametrize("wild", [b"1" * 10, b"65536", b"0"])
def test_netpbm_headers_out_of_range_are_refused(tmp_path, wild):
    for head in (b"P5 2 2 " + wild, b"P7\nWIDTH 2\nHEIGHT 2\nDEPTH 1\nMAXVAL " + wild + b"\nENDHDR"):
        with pytest.raises(DataError, match="the netpbm file is truncated, damaged"):
            read_photograph(saved(tmp_path, head + b"\n" + bytes(8), "p.pnm"))
    with pytest.raises(DataError, match="0 x 5 pixels are none"):
        read_photograph(saved(tmp_path, b"P5 0 5 1000\n", "p.pgm"))


@pytest.mark.parametrize("text", [b"1 2 3", b"1 2 3 x", b"1 2 3 -4", b"1 2 3 9999"])
def test_figures_that_are_missing_or_none_are_refused(tmp_path, text):
    with pytest.raises(DataError, match="the netpbm file is truncated, damaged"):
        read_photograph(saved(tmp_path, b"P2 2 2 1000 " + text, "p.pgm"))
    good = b"P2 2 2 1000 1 2 # 7\n3 4"
    assert (netpbm.read(good, netpbm.header_of(good)).ravel() == [1, 2, 3, 4]).all()


def test_pages_of_a_tiff_that_lead_back_end(tmp_path):
    data = bytearray(pc.tiff(pc.grey()))
    start = struct.unpack_from("<I", data, 4)[0]
    count = struct.unpack_from("<H", data, start)[0]
    struct.pack_into("<I", data, start + 2 + 12 * count, start)
    assert len(tiff.pages_of(bytes(data))) == 1


def test_directories_that_claim_the_same_part_again_and_again_are_refused(tmp_path):
    """Pages without end, each of which says that half of the file is its table of strips."""
    head, start = b"II*\0" + struct.pack("<I", 8), 8
    body = b""
    for number in range(400):
        following = start + 18 * (number + 1)
        body += struct.pack("<HHHIII", 1, 273, 4, 2000, 8, following if number < 399 else 0)
    data = head + body + bytes(1000)
    with pytest.raises(DataError, match="its tags claim more than the file has"):
        read_photograph(saved(tmp_path, data, "p.tif"), bands=True)
    with pytest.raises(DataError, match="a directory of 65535 entries"):
        read_photograph(saved(tmp_path, head + b"\xff" * 2 + bytes(1 << 20), "p.tif"))


def test_a_directory_beyond_every_file_is_refused(tmp_path):
    data = bytearray(pc.tiff(pc.grey(), big=True))
    for place in (len(data) + 1, 2**63, 2**64 - 1):
        struct.pack_into("<Q", data, 8, place)
        with pytest.raises(DataError, match="the file ends early"):
            read_photograph(saved(tmp_path, bytes(data), "p.tif"))


def test_a_strip_that_unpacks_to_more_than_its_rows_stops_there(tmp_path):
    """A megabyte for a strip of 32 bytes, by hand: what is behind is never unpacked."""
    samples = np.arange(16, dtype=np.uint16).reshape(4, 4)
    bomb = pc.tiff(samples, packed=[samples.tobytes() + bytes(1 << 20)], deflate=True)
    assert np.array_equal(read_photograph(saved(tmp_path, bomb, "p.tif"), bands=True).raw[:, :, 0], samples)
    short = pc.tiff(samples, packed=[samples.tobytes()[:-1]], deflate=True)
    with pytest.raises(DataError, match="a strip or tile ends early"):
        read_photograph(saved(tmp_path, short, "p.tif"))
    assert pillow.expand(b"\x81\7" * 4, 32773, 512) == b"\7" * 512
    with pytest.raises(ValueError, match=r"decoder error|end"):
        pillow.expand(b"\x81\7" * 3, 32773, 512)


# What is too large, or too slow

LARGE = ["JPEG, 4:2:0", "PNG, RGB", "PNG, RGB, 16 bits", "TIFF, RGB, strips", "TIFF, RGB, 16 bits, one strip", "GIF"]
LARGE += ["WebP, lossless", "BMP, 24 bits", "AVIF", "JPEG 2000, RGB", "JPEG 2000, RGB, 16 bits", "PPM, P6, maxval 255"]
LARGE += ["PPM, P6, maxval 1023", "PAM, RGB, maxval 255", "TIFF, JPEG", "Sun raster"]


@pytest.mark.parametrize("name", LARGE)
def test_what_is_too_large_is_refused_before_it_is_decoded(name, tmp_path, monkeypatch):
    path = case_file(tmp_path, name)
    count = pc.HEIGHT * pc.WIDTH
    assert read_photograph(path, count).pixels.shape == (pc.HEIGHT, pc.WIDTH, 3)
    for module, function in ((opencv, "decode"), (pillow, "decode"), (tiff, "read"), (netpbm, "read")):
        monkeypatch.setattr(module, function, lambda *_, **__: pytest.fail("it was decoded"))
    with pytest.raises(DataError, match=rf"56 x 40 pixels: at most {count - 1} are read; give --max-pixels"):
        read_photograph(path, count - 1)


def test_pictures_that_pillow_would_warn_of_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(Image.DecompressionBombError):
        Image.open(case_file(tmp_path, "PNG, RGB"))
    assert np.array_equal(read_photograph(tmp_path / "p.png").pixels, pc.picture())


def test_scans_of_a_jpeg_are_counted_without_decoding(tmp_path):
    data = CASES["JPEG, progressive"].data
    scans = formats.scans_of(data)
    assert 5 < scans < 20
    assert formats.scans_of(CASES["JPEG, 4:2:0"].data) == 1
    assert formats.scans_of(data + data) == scans  # behind the end lies what phones put there
    last = data.rindex(b"\xff\xda")
    many = saved(tmp_path, data[:last] + data[last:-2] * 120 + data[-2:], "p.jpg")
    with pytest.raises(DataError, match=rf"p\.jpg: .*: {scans + 119} scans, where at most 100 are read"):
        read_photograph(many)


# What is none

BOX = b"\0\0\0\x1cftyp%s\0\0\0\0mif1miaf" + bytes(400)
STRANGERS = {
    "a.heic": (BOX % b"heic", "a HEIC picture, which is not read: convert it to PNG or JPEG"),
    "a.jpg": (BOX % b"mif1", "a HEIC picture"),
    "a.mp4": (BOX.replace(b"mif1miaf", b"isommp42") % b"isom", "a video"),
    "a.cr3": (BOX.replace(b"mif1miaf", b"crx isom") % b"crx ", "a camera's raw file"),
    "a.pdf": (b"%PDF-1.7\n%\xff\xff", "a PDF document"),
    "b.jpg": (b"<?xml version='1.0'?>\n<svg xmlns='x'/>", "an SVG drawing"),
    "c.jpg": (b"<!DOCTYPE html><html><body>403</body></html>", r"a web page \(HTML\), no picture: give the picture"),
    "d.jpg": ("kein Bild, sondern Text: äöü\n".encode() * 80, "text, no picture"),
    "e.jpg": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00",
        "a pointer of Git LFS, no picture: .*lfs pull",
    ),
    "a.exr": (b"\x76\x2f\x31\x01" + bytes(40), "an OpenEXR picture"),
    "a.hdr": (b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n", "a Radiance HDR picture"),
    "a.ico": (b"\0\0\1\0\1\0" + bytes(40), "an icon"),
    "a.tga": (b"\0\0\2" + bytes(50), "by its name a Targa picture"),
    "b.tga": (b"\0\0\2" + bytes(50) + b"TRUEVISION-XFILE.\0", "a Targa picture"),
    "a.psd": (b"8BPS\0\1" + bytes(40), "a Photoshop document"),
    "a.jxl": (b"\xff\x0a" + bytes(40), "a JPEG XL picture"),
    "f.jpg": (b"PK\3\4" + bytes(40), "a ZIP archive, no picture"),
    "a.dcm": (bytes(128) + b"DICM" + bytes(40), "a DICOM file"),
    "a.png": (b"\x93NUMPY\1\0" + bytes(40), r"an array of NumPy, .*name it \.npy"),
    "a.cr2": (b"II*\0\x10\0\0\0CR\2\0" + bytes(40), "a camera's raw file"),
    "g.jpg": (bytes(range(256)), "truncated, damaged or no picture: it begins like none of JPEG, PNG, TIFF"),
}


@pytest.mark.parametrize("name", STRANGERS)
def test_a_file_that_is_no_picture_is_called_what_it_is(tmp_path, name):
    data, words = STRANGERS[name]
    with pytest.raises(DataError, match=rf"{name}: cannot decode the picture: the file is {words}") as caught:
        read_photograph(saved(tmp_path, data, name))
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=name):
        read_photograph(tmp_path / name, bands=True)


def test_a_cameras_raw_file_is_not_its_preview(tmp_path):
    data = bytearray(pages(np.zeros((4, 4, 4), np.uint8), mark=0))
    start = struct.unpack_from("<I", data, 4)[0]
    struct.pack_into("<HHII", data, start + 2, 50706, 1, 4, 1)
    with pytest.raises(DataError, match="a camera's raw file"):
        read_photograph(saved(tmp_path, bytes(data), "p.tif"))


# Folders


def test_every_format_that_is_read_is_found_in_a_folder_in_any_case(tmp_path):
    suffixes = sorted({case.suffix for case in CASES.values()} | {".jpe", ".jfif", ".gif", ".dib", ".j2k", ".npy"})
    assert set(suffixes) <= SUFFIXES
    for number, suffix in enumerate(sorted(SUFFIXES)):
        saved(tmp_path, b"x", f"{number:02}{suffix if number % 2 else suffix.upper()}")
    assert len(list_images([tmp_path])) == len(SUFFIXES)


def test_files_that_are_passed_over_are_counted_and_named(tmp_path, caplog):
    for name in (
        "a.png",
        "b.txt",
        "c.heic",
        "d",
        "e\x1b.doc",
        "f.pdf",
        ".hidden",
        ".git/g.txt",
        "Thumbs.db",
        "out/h.csv",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert list_images([tmp_path], [tmp_path / "out"], tell=True) == [tmp_path / "a.png"]
    assert caplog.text.endswith(
        f"{tmp_path}: passed over 5 files that are no pictures by name: b.txt, c.heic, d (and 2 more)\n"
    )
    caplog.clear()
    list_images([tmp_path])
    list_images([tmp_path / "a.png"], tell=True)
    for name in ("b.txt", "c.heic", "d", "f.pdf", "out/h.csv"):
        (tmp_path / name).unlink()
    assert caplog.text == ""
    list_images([tmp_path], tell=True)
    assert r"passed over 1 file that is no picture by name: e\x1b.doc" in caplog.text
