"""Preprocessing against the libraries that models were trained with, by arrays that these made.

``tools/make_preprocess_references.py`` writes them with Pillow, torchvision, timm and transformers.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from make_preprocess_references import PICTURES, SIZES, picture

from onnx_evidence.pictures.photograph import as_photograph
from onnx_evidence.preprocessing import pil
from onnx_evidence.preprocessing.apply import to_input
from onnx_evidence.preprocessing.contract import Preprocess
from onnx_evidence.preprocessing.huggingface import from_huggingface
from onnx_evidence.preprocessing.presets import Wanted, preset
from onnx_evidence.preprocessing.timm import from_timm

PATH = Path(__file__).parent / "data" / "preprocess.npz"


@cache
def references() -> dict[str, Any]:
    with np.load(PATH, allow_pickle=False) as file:
        return dict(file)


@cache
def configs() -> dict[str, Any]:
    return json.loads(references()["configs"].tobytes())


def of(start: str) -> list[str]:
    return [name for name in configs() if name.startswith(start)]


def made(settings: Preprocess, number: int) -> np.ndarray:
    return to_input(as_photograph(picture(*PICTURES[number])), settings)[0]


def off(settings: Preprocess, name: str) -> float:
    """The largest difference to a reference over its pictures; infinite where shapes differ."""
    worst = 0.0
    for number in range(len(PICTURES)):
        expected, found = references()[f"{name} {number}"], made(settings, number)
        worst = max(worst, np.abs(found - expected).max() if found.shape == expected.shape else np.inf)
    return float(worst)


# Resampling


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", sorted(pil.NAMES))
def test_every_filter_is_pillows_in_every_bit(name, size):
    expected = references()[f"resize {name} {size[0]} {size[1]}"]
    found = pil.resize(picture(23, 31)[:, :, :1], size, name)
    assert found.dtype == np.uint8
    assert np.array_equal(found[:, :, 0], expected)


def test_channels_are_resized_one_like_the_other():
    assert np.array_equal(pil.resize(picture(23, 31), (9, 14), "bilinear"), references()["resize colour"])


def test_samples_that_are_no_bytes_are_not_rounded():
    found = pil.resize(picture(23, 31)[:, :, :1].astype(np.float32) * 257, (9, 14), "bicubic")
    assert found[:, :, 0] == pytest.approx(references()["resize float"], rel=1e-6)
    assert np.abs(found - found.round()).max() > 0.3


def test_grey_is_pillows():
    assert np.array_equal(pil.grey(picture(23, 31))[:, :, 0], references()["grey"])


def slow_resize(plane: np.ndarray, size: int, reach: float, kernel: Any) -> np.ndarray:
    """Columns of a plane resized pixel by pixel from the definition, in floating point, rounded once."""
    before = plane.shape[1]
    scale = before / size
    stretch = max(scale, 1.0)
    result = np.empty((plane.shape[0], size))
    for place in range(size):
        centre = (place + 0.5) * scale
        weights = {
            column: kernel((column + 0.5 - centre) / stretch)
            for column in range(before)
            if abs(column + 0.5 - centre) < reach * stretch
        }
        result[:, place] = sum(plane[:, column] * weight for column, weight in weights.items()) / sum(weights.values())
    return np.clip(np.floor(result + 0.5), 0, 255)


@pytest.mark.parametrize("size", [5, 23, 31, 77])
def test_one_pass_is_a_weighted_mean_under_a_filter_as_wide_as_the_shrinking(size):
    plane = picture(11, 31)[:, :, 1]
    expected = slow_resize(plane.astype(float), size, 1.0, lambda x: 1 - abs(x))
    found = pil.resize(plane[:, :, None], (11, size), "bilinear")[:, :, 0]
    # Exactly on a half, weights of 22 bits may fall to the other side.
    assert np.abs(found - expected).max() <= 1
    assert (found != expected).mean() < 0.02


@pytest.mark.parametrize("name", sorted(pil.NAMES))
def test_blocks_of_wide_pictures_join_without_a_seam(name):
    # More columns than are made at once.
    plane = picture(3, 1500)[:, :, :1]
    whole = pil.resize(plane, (3, 700), name)
    taps = None if name == "nearest" else pil.make_taps(1500, 700, name)
    if taps is None:
        assert np.array_equal(whole, plane[:, ((np.arange(700) + 0.5) * 1500 / 700).astype(int)])
        return
    for place in (0, 118, 119, 120, 240, 699):
        weights = np.trunc(taps.weights[place] * pil.ONE + np.copysign(0.5, taps.weights[place]))
        columns = np.minimum(taps.first[place] + np.arange(len(weights)), 1499)
        mixed = (plane[:, columns, 0] * weights).sum(axis=1)
        assert np.array_equal(whole[:, place, 0], np.clip(np.floor(mixed / pil.ONE + 0.5), 0, 255))


@pytest.mark.parametrize("name", sorted(pil.NAMES))
def test_pictures_that_are_turned_part_by_part_are_the_same(name, monkeypatch):
    tall = picture(100, 60)
    whole = pil.resize(tall, (37, 41), name)
    monkeypatch.setattr(pil, "_TURNED", 7)
    monkeypatch.setattr(pil, "_BLOCK", 5)
    np.testing.assert_array_equal(pil.resize(tall, (37, 41), name), whole)


@pytest.mark.parametrize("name", sorted(pil.NAMES))
def test_a_plain_picture_stays_plain(name):
    plain = np.full((40, 60, 3), (10, 120, 240), np.uint8)
    assert (pil.resize(plain, (17, 91), name) == (10, 120, 240)).all()


def test_control_opencv_is_another_library():
    settings = preset("torchvision", Wanted(3, 12, 12), "m.onnx")
    right, wrong = (made(settings.model_copy(update={"library": name}), 0) for name in ("pil", "opencv"))
    # A tenth of the range from black to white, on a picture of edges and noise.
    assert np.abs(right - wrong).max() * 0.229 > 0.1


# torchvision


def test_the_preset_of_torchvision_is_torchvisions_evaluation():
    settings = preset("torchvision", Wanted(3, 12, 12), "m.onnx")
    assert settings.target == (14, 14)
    assert off(settings, "torchvision crop") < 1e-5


def test_a_crop_beyond_the_picture_is_padded_as_torchvision_does():
    settings = preset("torchvision", Wanted(3, 12, 12), "m.onnx").model_copy(update={"resize_to": 9, "pad": (0.0,)})
    assert off(settings, "torchvision pad") < 1e-5


@pytest.mark.parametrize("change", [{"rounding": "nearest"}, {"rounding": "huggingface"}, {"pad": (255.0,)}])
def test_control_another_rounding_or_padding_is_noticed(change):
    settings = preset("torchvision", Wanted(3, 12, 12), "m.onnx").model_copy(update={"resize_to": 9, "pad": (0.0,)})
    assert off(settings.model_copy(update=change), "torchvision pad") > 0.5


# timm and Hugging Face


@pytest.mark.parametrize("name", of("timm"))
def test_a_config_of_timm_is_carried_out_as_timm_does(name):
    assert off(from_timm(configs()[name], Wanted(), "config.json"), name) < 1e-5


@pytest.mark.parametrize("name", of("huggingface"))
def test_a_config_of_hugging_face_is_carried_out_as_its_processor_does(name):
    settings = from_huggingface(configs()[name], "preprocessor_config.json")
    scale = np.abs(references()[f"{name} 0"]).max()
    assert off(settings, name) < 1e-5 * max(scale, 1)


def test_control_each_config_needs_its_own_reading():
    """One taken for another would be noticed: all references of one shape differ, but of two that mean the same."""
    same = {
        ("timm center", "huggingface levit"),
        ("huggingface vit", "huggingface no rescale"),
        ("huggingface deit", "huggingface beit"),
    }
    names = [name for name in configs() if references()[f"{name} 0"].shape == (3, 12, 12)]
    assert len(names) > 12
    for number, first in enumerate(names):
        for second in names[number + 1 :]:
            apart = np.abs(references()[f"{first} 0"] - references()[f"{second} 0"]).max() > 0.01
            assert apart == ((first, second) not in same), (first, second)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("huggingface convnext", {"crop_pct": 0.8}),
        ("huggingface deit", {"resample": 2}),
        ("huggingface efficientnet", {"include_top": False}),
        ("huggingface efficientnet", {"rescale_offset": False}),
        ("huggingface mobilevit", {"do_flip_channel_order": False}),
        ("huggingface levit", {"size": {"shortest_edge": 13}}),
        ("huggingface poolformer", {"crop_pct": 0.95}),
        ("huggingface vit", {"do_normalize": False}),
    ],
)
def test_control_every_key_counts(name, change):
    assert off(from_huggingface({**configs()[name], **change}, "p.json"), name) > 0.01


def test_control_crop_modes_and_shares_of_timm_count():
    config = configs()["timm squash"]
    for change in ({"crop_mode": "border"}, {"crop_pct": 0.8}, {"interpolation": "bilinear"}):
        other = {**config, "pretrained_cfg": {**config["pretrained_cfg"], **change}}
        assert off(from_timm(other, Wanted(), "config.json"), "timm squash") > 0.05
