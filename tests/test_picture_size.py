"""Sizes from headers, against what the decoder makes of the same files; and refusal before it is asked."""

import cv2
import numpy as np
import pytest

from onnx_evidence.errors import DataError
from onnx_evidence.images import read_photograph
from onnx_evidence.picture_size import claims_more, size_of

FORMATS = {
    "png": (".png", ()),
    "jpg": (".jpg", ()),
    "progressive": (".jpg", (cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_RST_INTERVAL, 2)),
    "bmp": (".bmp", ()),
    "webp": (".webp", (cv2.IMWRITE_WEBP_QUALITY, 80)),
    "lossless webp": (".webp", (cv2.IMWRITE_WEBP_QUALITY, 101)),
    "tiff": (".tiff", ()),
    "ppm": (".ppm", ()),
    "ascii ppm": (".ppm", (cv2.IMWRITE_PXM_BINARY, 0)),
    "jp2": (".jp2", ()),
}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("size", [(40, 61), (301, 17), (1, 1), (64, 700)])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_the_header_says_what_the_decoder_makes(name, size, channels):
    suffix, options = FORMATS[name]
    if (channels == 4 and suffix not in (".png", ".webp", ".tiff")) or (suffix == ".jp2" and min(size) < 32):
        pytest.skip("the format has no such pictures")
    suffix = ".pgm" if (suffix, channels) == (".ppm", 1) else suffix
    pixels = np.random.default_rng(0).integers(0, 256, (*size, channels)).astype(np.uint8)
    data = cv2.imencode(suffix, pixels, options)[1].tobytes()
    assert size_of(data) == size == cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED).shape[:2]


@pytest.mark.parametrize("name", FORMATS)
def test_a_header_that_is_not_whole_says_nothing_or_the_same(name):
    suffix, options = FORMATS[name]
    pixels = np.random.default_rng(0).integers(0, 256, (40, 61, 3)).astype(np.uint8)
    data = cv2.imencode(suffix, pixels, options)[1].tobytes()
    found = {size_of(data[:end]) for end in range(len(data))}
    assert found - {None, (40, 61)} <= ({(40, 6), (4, 61)} if "ppm" in name else set())
    assert size_of(b"") is size_of(b"no picture") is None


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_too_large_is_refused_before_it_is_decoded(name, tmp_path, monkeypatch):
    suffix, options = FORMATS[name]
    pixels = np.random.default_rng(0).integers(0, 256, (40, 61, 3)).astype(np.uint8)
    path = tmp_path / f"a{suffix}"
    path.write_bytes(cv2.imencode(suffix, pixels, options)[1].tobytes())
    assert read_photograph(path, 40 * 61).pixels.shape == (40, 61, 3)
    monkeypatch.setattr(cv2, "imdecode", lambda *arguments: pytest.fail("it was decoded"))
    with pytest.raises(DataError, match="61 x 40 pixels: at most 2439 are read; give --max-pixels"):
        read_photograph(path, 40 * 61 - 1)


def test_a_part_of_a_png_that_claims_more_than_there_is_is_refused_before_room_is_made(tmp_path, monkeypatch):
    data = cv2.imencode(".png", np.zeros((40, 61, 3), np.uint8))[1].tobytes()
    assert not claims_more(data)
    assert not claims_more(data + b"anything behind the end")
    assert not claims_more(b"\xff\xd8" + data)
    chunk = data.index(b"IDAT") - 4
    huge = data[:chunk] + b"\x7f\xff\xff\x00iCCP" + data[chunk:]
    assert size_of(huge) == (40, 61)
    (tmp_path / "a.png").write_bytes(huge)
    monkeypatch.setattr(cv2, "imdecode", lambda *arguments: pytest.fail("it was decoded"))
    with pytest.raises(DataError, match="cannot decode the picture: the file is truncated"):
        read_photograph(tmp_path / "a.png")
