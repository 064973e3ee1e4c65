"""Pictures that are no 8-bit photographs: one channel, 16 bits, many bands, and inputs that are made already."""

import json
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from onnx_evidence import DeployedModel, Explainer
from onnx_evidence.cli import main
from onnx_evidence.errors import DataError
from onnx_evidence.pictures.npy import read_array
from onnx_evidence.pictures.photograph import Photograph, as_photograph, read_photograph
from onnx_evidence.pictures.placement import Placement
from onnx_evidence.preprocessing import pil
from onnx_evidence.preprocessing.apply import how_taken, read_picture, to_input
from onnx_evidence.preprocessing.contract import Preprocess
from tests import tiny

GREY = {"size": [19, 31], "resize": "none", "color": "GRAY", "mean": [0], "std": [1]}


def settings(**values) -> Preprocess:
    return Preprocess.model_validate({"size": [19, 31], "resize": "none", "mean": [0] * 3, "std": [1] * 3, **values})


def bands(count: int, **values) -> Preprocess:
    return settings(**{"color": "BANDS", "mean": [0] * count, "std": [1] * count, **values})


def png16(path: Path, pixels: np.ndarray) -> Path:
    """A PNG of 16 bits made by hand: grey or colour."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 16, 2 if pixels.ndim == 3 else 0, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    return path


def saved(path: Path, array: np.ndarray) -> Path:
    np.save(path, array, allow_pickle=False)
    return path


# 16 bits


@pytest.mark.parametrize("shape", [(19, 31), (19, 31, 3)])
def test_sixteen_bits_are_reduced_to_the_nearest_of_eight_for_a_contract_of_eight(tmp_path, rng, shape):
    pixels = rng.integers(0, 2**16, shape, dtype=np.uint16)
    photograph = read_photograph(png16(tmp_path / "p.png", pixels))
    inputs, _ = to_input(photograph, settings())
    expected = np.floor(pixels / 257 + 0.5)
    assert np.array_equal(inputs, np.broadcast_to(expected.reshape(19, 31, -1).transpose(2, 0, 1), (3, 19, 31)))
    assert (
        how_taken(photograph, settings())
        == "uint16, 3 channels, reduced to 8 bits: value * 255 / 65535, to the nearest"
    )
    # What was read before this rule, the upper eight bits alone, is another picture.
    assert (expected != pixels >> 8).mean() > 0.1


@pytest.mark.parametrize(("top", "warned"), [(4000, True), (60_000, False)])
def test_a_picture_of_twelve_bits_in_sixteen_comes_out_dark_and_is_warned_of(caplog, top, warned):
    to_input(as_photograph(np.full((19, 31), top, np.uint16)), settings())
    assert ("give white = 4095" in caplog.text) == warned


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_stay_where_the_contract_has_a_white_of_its_own(tmp_path, rng, suffix):
    pixels = rng.integers(0, 4096, (19, 31), dtype=np.uint16)
    path = tmp_path / f"p{suffix}"
    if suffix == ".png":
        png16(path, pixels)
    else:
        cv2.imwrite(str(path), pixels)
    photograph = read_photograph(path)
    how = settings(**GREY, white=4095, scale=1 / 4095)
    assert to_input(photograph, how)[0][0] * 4095 == pytest.approx(pixels, abs=1e-2)
    assert how_taken(photograph, how) == "uint16, 3 channels, as they are"
    assert photograph.pixels.dtype == np.uint8


def test_eight_bits_are_stretched_to_the_contracts_white(rng):
    pixels = rng.integers(0, 256, (19, 31, 3), dtype=np.uint8)
    photograph = as_photograph(pixels)
    how = settings(white=4095)
    assert np.array_equal(to_input(photograph, how)[0], np.rint(pixels.transpose(2, 0, 1) * (4095 / 255)))
    assert how_taken(photograph, how) == "uint8, 3 channels, value * 4095 / 255, to the nearest"


@pytest.mark.parametrize("library", ["opencv", "pil"])
def test_sixteen_bits_are_resized_as_they_are(rng, library):
    """A slope over 16 bits, halved: means of two neighbours, which 8 bits could not tell apart."""
    slope = np.broadcast_to(np.arange(64, dtype=np.uint16) * 4 + 30_000, (16, 64))
    how = settings(**{**GREY, "size": [8, 32], "resize": "stretch", "white": 65535, "library": library})
    inputs, _ = to_input(as_photograph(slope.copy()), how)
    found = inputs[0, 4, 2:-2]
    assert np.abs(np.diff(found) - 8).max() <= 1
    assert found[0] == pytest.approx(30_000 + 4 * 4.5, abs=1)


# One channel


def test_a_grey_picture_is_the_same_for_both_libraries_and_colours_are_weighted(rng):
    pixels = rng.integers(0, 256, (19, 31), dtype=np.uint8)
    for library in ("opencv", "pil"):
        assert np.array_equal(to_input(as_photograph(pixels), settings(**GREY, library=library))[0][0], pixels)
    colours = rng.integers(0, 256, (19, 31, 3), dtype=np.uint8)
    found = to_input(as_photograph(colours), settings(**GREY, library="pil"))[0]
    assert np.array_equal(found[0], pil.grey(colours)[:, :, 0])


# Bands


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
@pytest.mark.parametrize("count", [1, 2, 4, 13])
def test_bands_of_an_array_are_taken_as_they_are(tmp_path, rng, dtype, count):
    cube = (rng.normal(size=(19, 31, count)) * 50 + 100).astype(dtype)
    photograph = read_photograph(saved(tmp_path / "p.npy", cube), bands=True)
    inputs, placement = to_input(photograph, bands(count))
    assert np.array_equal(inputs, cube.transpose(2, 0, 1).astype(np.float32))
    assert placement == Placement((19, 31), (19, 31), (19, 31), (0, 0))
    assert photograph.pixels.shape == (19, 31, 3)
    assert photograph.pixels.dtype == np.uint8
    assert np.ptp(photograph.pixels) > 100


@pytest.mark.parametrize("library", ["opencv", "pil"])
@pytest.mark.parametrize("count", [4, 13])
def test_bands_are_resized_one_by_one(rng, library, count):
    cube = rng.integers(0, 256, (24, 40, count), dtype=np.uint8)
    how = bands(count, size=[10, 12], resize="stretch", library=library)
    whole = to_input(as_photograph(cube, bands=True), how)[0]
    for band in range(count):
        single = bands(1, size=[10, 12], resize="stretch", library=library)
        alone = to_input(as_photograph(cube[:, :, band : band + 1], bands=True), single)[0]
        assert np.array_equal(whole[band], alone[0])


def test_four_channels_of_a_picture_keep_the_files_order(tmp_path, rng):
    pixels = rng.integers(0, 256, (19, 31, 4), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "p.png"), pixels[:, :, [2, 1, 0, 3]])  # OpenCV writes blue first
    found = to_input(read_photograph(tmp_path / "p.png", bands=True), bands(4))[0]
    assert np.array_equal(found, pixels.transpose(2, 0, 1))


def test_pages_of_a_tif_are_bands(tmp_path, rng):
    pages = rng.integers(0, 2**16, (6, 19, 31), dtype=np.uint16)
    cv2.imwritemulti(str(tmp_path / "p.tif"), list(pages))
    found = to_input(read_photograph(tmp_path / "p.tif", bands=True), bands(6))[0]
    assert np.array_equal(found, pages)


def test_pages_of_different_sizes_are_refused(tmp_path):
    cv2.imwritemulti(str(tmp_path / "p.tif"), [np.zeros((19, 31), np.uint8), np.zeros((20, 31), np.uint8)])
    with pytest.raises(DataError, match=r"p\.tif: its 2 pages differ in size, or have colours: save bands as \.npy"):
        read_photograph(tmp_path / "p.tif", bands=True)


def test_another_number_of_bands_is_refused_with_both(rng):
    photograph = as_photograph(rng.integers(0, 256, (19, 31, 5), dtype=np.uint8), bands=True)
    with pytest.raises(DataError, match=r"array: 5 channels where the preprocessing takes 4"):
        to_input(photograph, bands(4))
    with pytest.raises(DataError, match=r"array: uint8 samples of 5 channels: .*color = 'BANDS'"):
        to_input(photograph, settings())


@pytest.mark.parametrize("kind", ["uint8", "uint16", "bands"])
def test_a_blank_picture_is_the_mean_of_the_same_kind(rng, kind):
    samples = rng.integers(0, 200, (19, 31, 5 if kind == "bands" else 3)).astype("float32" if kind == "bands" else kind)
    photograph = as_photograph(samples, bands=kind == "bands")
    blank = photograph.blank()
    assert blank.raw.dtype == samples.dtype
    assert np.abs(blank.raw - samples.mean(axis=(0, 1))).max() < 0.51
    assert not np.ptp(blank.raw, axis=(0, 1)).any()


# Arrays, read without trust


def test_fortran_order_and_foreign_bytes_make_no_difference(tmp_path, rng):
    cube = rng.normal(size=(5, 7, 4)).astype(np.float32)
    for name, array in {"f": np.asfortranarray(cube), "b": cube.astype(">f4")}.items():
        data, found = read_array(saved(tmp_path / f"{name}.npy", array))
        assert np.array_equal(found, cube)
        assert found.dtype == np.float32
        assert found.flags.c_contiguous
        assert data == (tmp_path / f"{name}.npy").read_bytes()


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((5, 7)), r"holds float64: save it as one of uint8, uint16, int16, float32"),
        (np.zeros((5, 7), bool), r"holds bool"),
        (np.zeros((5, 0), np.uint8), r"is empty, truncated or damaged"),
        (np.full((5, 7), np.nan, np.float32), r"values that are not finite"),
        (np.zeros(3, [("a", "u1"), ("b", "f4")]), r"it holds objects, not numbers"),
    ],
)
def test_arrays_of_other_kinds_are_refused(tmp_path, array, message):
    with pytest.raises(DataError, match=rf"p\.npy: .*{message}"):
        read_array(saved(tmp_path / "p.npy", array))


def test_objects_are_never_unpickled(tmp_path):
    np.save(tmp_path / "p.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=r"p\.npy: not a \.npy file, or a damaged one: it holds objects"):
        read_array(tmp_path / "p.npy")


@pytest.mark.parametrize("share", [0, 0.01, 0.1, 0.5, 0.99, 1.1])
def test_damaged_arrays_are_refused_in_one_line(tmp_path, rng, share):
    data = saved(tmp_path / "whole.npy", rng.normal(size=(9, 8)).astype(np.float32)).read_bytes()
    (tmp_path / "p.npy").write_bytes((data * 2)[: int(len(data) * share)])
    with pytest.raises(DataError, match=r"p\.npy: ") as caught:
        read_array(tmp_path / "p.npy")
    assert "\n" not in str(caught.value)


def test_a_header_that_promises_the_moon_allocates_nothing(tmp_path):
    header = repr({"descr": "<f4", "fortran_order": False, "shape": (1 << 40, 1 << 20)}).ljust(117) + "\n"
    (tmp_path / "p.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode())
    with pytest.raises(DataError, match=r"p\.npy: the array is empty, truncated or damaged: 0 bytes"):
        read_array(tmp_path / "p.npy")


def test_a_missing_array_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.npy: cannot read the array: No such file"):
        read_photograph(tmp_path / "nowhere.npy")


# Inputs that are made already


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, np.ndarray]:
    """A model that records nothing, and an input of it."""
    folder = tmp_path_factory.mktemp("made")
    inputs = np.random.default_rng(5).normal(size=(3, 32, 32)).astype(np.float32)
    return tiny.save(tiny.classifier(recorded=False), folder / "bare.onnx"), inputs


@pytest.mark.parametrize("turn", [lambda x: x, lambda x: x[None], lambda x: x.transpose(1, 2, 0)])
def test_an_input_is_explained_as_it_is_in_either_layout(tmp_path, made, turn):
    path, inputs = made
    explainer = Explainer(path, preprocess="preprocessed", device="cpu")
    evidence = explainer.explain(saved(tmp_path / "x.npy", np.ascontiguousarray(turn(inputs))), target=1)
    photograph, taken, placement = explainer.deployed.prepare(tmp_path / "x.npy")
    assert np.array_equal(taken, inputs)
    assert placement == Placement((32, 32), (32, 32), (32, 32), (0, 0))
    np.testing.assert_allclose(evidence.pixels, evidence.values, rtol=0, atol=1e-15)
    assert np.abs(evidence.values).max() > 1e-4
    assert photograph.pixels.shape == (32, 32, 3)
    assert np.ptp(photograph.pixels) == 255


def test_an_input_from_memory_is_taken_as_well(made):
    path, inputs = made
    deployed = DeployedModel(path, preprocess="preprocessed", device="cpu")
    assert np.array_equal(deployed.prepare(inputs)[1], inputs)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (
            np.zeros((3, 32, 31), np.float32),
            r"has shape \(3, 32, 31\) and the model takes \(3, 32, 32\) or \(32, 32, 3\)",
        ),
        (np.zeros((2, 3, 32, 32), np.float32), r"has shape \(2, 3, 32, 32\)"),
        (
            np.zeros((3, 32, 32), np.uint8),
            r"uint8 samples: an input that is preprocessed already is a \.npy file of float32",
        ),
    ],
)
def test_what_is_no_input_of_the_model_is_refused(tmp_path, made, array, message):
    deployed = DeployedModel(made[0], preprocess="preprocessed", device="cpu")
    with pytest.raises(DataError, match=rf"x\.npy: .*{message}"):
        deployed.prepare(saved(tmp_path / "x.npy", array))


def test_a_photograph_is_no_input(tmp_path, made):
    cv2.imwrite(str(tmp_path / "p.png"), np.zeros((32, 32, 3), np.uint8))
    deployed = DeployedModel(made[0], preprocess="preprocessed", device="cpu")
    with pytest.raises(DataError, match=r"p\.png: an input that is preprocessed already is a \.npy file of float32"):
        deployed.prepare(tmp_path / "p.png")


def test_the_command_explains_an_input_and_records_how_it_was_taken(tmp_path, made):
    path, inputs = made
    saved(tmp_path / "x.npy", inputs)
    arguments = ["explain", str(path), str(tmp_path), "-o", str(tmp_path / "out"), "--preprocessed", "--device", "cpu"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    entry = json.loads((tmp_path / "out" / "manifest.jsonl").read_text())
    assert entry["preprocess_source"] == "the input itself is given"
    assert entry["samples"] == "float32, 3 channels, as they are"
    assert entry["settings"]["preprocess"]["color"] == "INPUT"
    with np.load(tmp_path / "out" / entry["map"]) as maps:
        np.testing.assert_allclose(maps["pixels"], maps["input_pixels"], rtol=0, atol=1e-15)
        assert np.abs(maps["pixels"]).max() > 1e-4
    assert (tmp_path / "out" / entry["figure"]).stat().st_size > 1000


def test_what_lies_on_a_letterboxs_padding_is_in_the_manifest_and_nowhere_in_the_photograph(tmp_path, rng, made):
    cv2.imwrite(str(tmp_path / "p.png"), rng.integers(0, 256, (20, 60, 3), dtype=np.uint8))
    (tmp_path / "box.toml").write_text(
        'size = [32, 32]\nresize = "long"\npad = [114]\nscale = 0.04\nmean = [2, 3, 4]\nstd = [1, 1, 1]\n'
    )
    where = ["-o", str(tmp_path / "out"), "--preprocess", str(tmp_path / "box.toml"), "--device", "cpu"]
    result = CliRunner().invoke(main, ["explain", str(made[0]), str(tmp_path / "p.png"), *where, "--target", "1"])
    assert result.exit_code == 0, result.output
    entry = json.loads((tmp_path / "out" / "manifest.jsonl").read_text())
    with np.load(tmp_path / "out" / entry["map"]) as maps:
        seen, carried = maps["input_pixels"], maps["pixels"]
    # 60 x 20 pixels become 32 x 11, with 11 rows of padding above (10.5 to the even number is 10) and 11 below.
    assert carried.shape == (20, 60)
    padding = np.delete(seen, np.arange(10, 21), axis=0).sum()
    assert abs(padding) > 1e-2
    assert entry["padding_bits"] == pytest.approx(padding, abs=1e-4)
    assert carried.sum() + entry["padding_bits"] == pytest.approx(seen.sum(), abs=1e-3)


def test_a_picture_that_is_read_already_is_left_alone():
    photograph = Photograph(np.zeros((2, 2, 3), np.uint8), "", "here")
    assert read_picture(photograph, settings()) is photograph
