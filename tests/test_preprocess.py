"""The preprocessing contract: what is accepted, and what the refusals say."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from onnx_evidence import DeployedModel
from onnx_evidence.errors import DataError
from onnx_evidence.preprocessing.contract import Preprocess, make_preprocess
from onnx_evidence.preprocessing.found import read_preprocess
from tests import tiny

FULL = """
size = [224, 192]             # height, width
resize = "short"
resize_to = 256
interpolation = "bicubic"
color = "BGR"
scale = 0.00392156862745098
mean = [0.485, 0.456, 0.406]
std = [0.229, 0.224, 0.225]
"""
MINIMAL = "size = [32, 32]\nmean = [127, 127, 127]\nstd = [128, 128, 128]\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "settings.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_every_setting_of_a_toml_file_is_read(tmp_path):
    settings = read_preprocess(write(tmp_path, FULL))
    assert settings.model_dump() == {
        "size": (224, 192),
        "resize": "short",
        "resize_to": 256,
        "interpolation": "bicubic",
        "library": "opencv",
        "rounding": "nearest",
        "pad": None,
        "anchor": "centre",
        "color": "BGR",
        "white": 255,
        "scale": 1 / 255,
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
    }
    assert (settings.target, settings.channels) == ((256, 256), 3)


def test_what_is_left_out_has_the_documented_defaults(tmp_path):
    settings = read_preprocess(write(tmp_path, MINIMAL))
    assert (settings.resize, settings.resize_to, settings.interpolation) == ("short", None, "bilinear")
    assert (settings.color, settings.scale, settings.mean) == ("RGB", 1.0, (127.0, 127.0, 127.0))
    assert (settings.library, settings.rounding, settings.pad, settings.white) == ("opencv", "nearest", None, 255)
    assert settings.target == (32, 32)


def test_without_resize_to_the_shorter_side_becomes_the_longer_side_of_the_crop(tmp_path):
    assert read_preprocess(write(tmp_path, MINIMAL.replace("[32, 32]", "[20, 48]"))).target == (48, 48)


def test_grey_inputs_have_one_channel(tmp_path):
    text = 'size = [28, 28]\ncolor = "GRAY"\nmean = [0.5]\nstd = [0.5]\n'
    assert read_preprocess(write(tmp_path, text)).channels == 1


def test_stretch_needs_no_side(tmp_path):
    settings = read_preprocess(write(tmp_path, MINIMAL + 'resize = "stretch"\n'))
    assert (settings.resize, settings.size) == ("stretch", (32, 32))


REFUSED = {
    "unknown key": (MINIMAL + "sise = 3\n", r"sise: Extra inputs are not permitted"),
    "size missing": ("mean = [1, 1, 1]\nstd = [1, 1, 1]\n", r"size: Field required"),
    "mean missing": ("size = [32, 32]\nstd = [1, 1, 1]\n", r"mean: Field required"),
    "std missing": ("size = [32, 32]\nmean = [1, 1, 1]\n", r"std: Field required"),
    "size zero": (MINIMAL.replace("[32, 32]", "[0, 32]"), r"size\.0: .*greater than or equal to 1"),
    "size negative": (MINIMAL.replace("[32, 32]", "[32, -1]"), r"size\.1: .*greater than or equal to 1"),
    "size absurd": (MINIMAL.replace("[32, 32]", "[32, 100000]"), r"size\.1: .*less than or equal to 16384"),
    "size of three": (MINIMAL.replace("[32, 32]", "[3, 32, 32]"), r"size: .*2 items"),
    "size of one": (MINIMAL.replace("[32, 32]", "[32]"), r"size\.1: Field required"),
    "size no number": (MINIMAL.replace("[32, 32]", '["big", 32]'), r"size\.0: .*integer"),
    "size fractional": (MINIMAL.replace("[32, 32]", "[32.5, 32]"), r"size\.0: .*integer"),
    "crop larger than resized": (MINIMAL + "resize_to = 31\n", r"resize_to 31 is smaller than the crop 32 x 32"),
    "crop with side": (MINIMAL + 'resize = "crop"\nresize_to = 36\n', r"resize_to belongs to resize = 'short', 'long'"),
    "short with two sides": (
        MINIMAL + "resize_to = [36, 40]\n",
        r"resize_to has two sides, resize = 'short' needs one",
    ),
    "stretch cut": (MINIMAL + 'resize = "stretch"\nresize_to = [40, 31]\n', r"resize_to 31 is smaller than the crop"),
    "side of three": (MINIMAL + 'resize = "long"\nresize_to = [1, 2, 3]\n', r"resize_to"),
    "area of pil": (
        MINIMAL + 'interpolation = "area"\nlibrary = "pil"\n',
        r"interpolation 'area' needs library = 'opencv'",
    ),
    "box of opencv": (MINIMAL + 'interpolation = "box"\n', r"interpolation 'box' needs library = 'pil'"),
    "unknown library": (MINIMAL + 'library = "torch"\n', r"library: .*'opencv' or 'pil'"),
    "two pads": (MINIMAL + "pad = [1, 2]\n", r"pad has 2 values, RGB needs 1 or 3"),
    "no pads": (MINIMAL + "pad = []\n", r"pad: .*at least 1"),
    "pad negative": (MINIMAL + "pad = [-1]\n", r"pad\.0: .*greater than or equal to 0"),
    "white dark": (MINIMAL + "white = 200\n", r"white: .*greater than or equal to 255"),
    "white of bands": (MINIMAL + 'white = 4095\ncolor = "BANDS"\n', r"white belongs to pictures"),
    "input scaled": (MINIMAL + 'resize = "none"\ncolor = "INPUT"\n', r"color = 'INPUT' changes nothing"),
    "bands uneven": (
        MINIMAL.replace("[128, 128, 128]", "[1, 1]") + 'color = "BANDS"\n',
        r"std has 2 values, BANDS needs 3",
    ),
    "unknown resize": (MINIMAL + 'resize = "wide"\n', r"resize: .*'short', 'long', 'stretch', 'crop' or 'none'"),
    "unknown interpolation": (MINIMAL + 'interpolation = "cubic"\n', r"interpolation: .*'bicubic'"),
    "unknown colour": (MINIMAL + 'color = "CMYK"\n', r"color: .*'RGB', 'BGR', 'GRAY', 'BANDS' or 'INPUT'"),
    "too few means": (MINIMAL.replace("[127, 127, 127]", "[127]"), r"mean has 1 values, RGB needs 3"),
    "too many deviations": (MINIMAL.replace("[128, 128, 128]", "[1, 1, 1, 1]"), r"std has 4 values, RGB needs 3"),
    "grey with three means": (MINIMAL + 'color = "GRAY"\n', r"mean has 3 values, GRAY needs 1"),
    "deviation zero": (MINIMAL.replace("[128, 128, 128]", "[1, 0, 1]"), r"std\.1: .*greater than 0"),
    "deviation infinite": (MINIMAL.replace("[128, 128, 128]", "[1, inf, 1]"), r"std\.1: .*finite"),
    "mean no number": (MINIMAL.replace("[127, 127, 127]", "[1, nan, 1]"), r"mean\.1: .*finite"),
    "scale zero": (MINIMAL + "scale = 0\n", r"scale: .*greater than 0"),
    "scale infinite": (MINIMAL + "scale = inf\n", r"scale: .*finite"),
}


@pytest.mark.parametrize(("text", "message"), REFUSED.values(), ids=[name.replace(" ", "-") for name in REFUSED])
def test_a_wrong_value_is_refused_by_name_in_one_line(tmp_path, text, message):
    with pytest.raises(DataError, match=rf"settings\.toml: the preprocessing is not valid: {message}") as caught:
        read_preprocess(write(tmp_path, text))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["size = [32, 32", "size: 32", "size = 1\nsize = 2\n", '{"size": [32, 32]}'])
def test_a_file_that_is_no_toml_is_refused_in_one_line(tmp_path, text):
    with pytest.raises(DataError, match=r"settings\.toml: cannot read the preprocessing: \S+ ") as caught:
        read_preprocess(write(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "settings.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"settings\.toml: cannot read the preprocessing: .*utf-8"):
        read_preprocess(tmp_path / "settings.toml")


def test_a_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.toml: cannot read the preprocessing: .*No such file"):
        read_preprocess(tmp_path / "nowhere.toml")


def test_a_folder_is_refused_by_name(tmp_path):
    with pytest.raises(DataError, match=r"cannot read the preprocessing"):
        read_preprocess(tmp_path)


def test_settings_survive_the_journey_through_the_models_metadata():
    settings = Preprocess.model_validate(tiny.PREPROCESS)
    assert settings.resize_to == 36
    assert make_preprocess(settings.model_dump_json(), "m.onnx") == settings


@pytest.mark.parametrize("text", ["", "no json", "[]", '{"size": [32, 32]}'])
def test_wrong_metadata_is_refused_with_the_name_of_the_model(text):
    with pytest.raises(DataError, match=r"m\.onnx: the preprocessing is not valid: \S") as caught:
        make_preprocess(text, "m.onnx")
    assert "\n" not in str(caught.value)


def test_settings_cannot_be_changed_afterwards():
    settings = Preprocess.model_validate(tiny.PREPROCESS)
    with pytest.raises(ValidationError, match="frozen"):
        settings.scale = 2.0
    assert settings.scale == 1 / 255


def test_a_file_takes_the_place_of_what_the_model_records(tmp_path, tiny_model):
    assert DeployedModel(tiny_model, device="cpu").preprocess.mean == (0.5, 0.5, 0.5)
    deployed = DeployedModel(tiny_model, preprocess=write(tmp_path, MINIMAL), device="cpu")
    assert deployed.preprocess.mean == (127, 127, 127)


def test_a_file_that_does_not_fit_the_models_input_is_refused_with_both_sizes(tmp_path, tiny_model):
    path = write(tmp_path, MINIMAL.replace("[32, 32]", "[48, 40]"))
    with pytest.raises(DataError, match=r"preprocessing makes 3 x 48 x 40, but input 'input' takes 3 x 32 x 32"):
        DeployedModel(tiny_model, preprocess=path, device="cpu")


def test_a_grey_contract_for_a_colour_model_is_refused(tmp_path, tiny_model):
    path = write(tmp_path, 'size = [32, 32]\ncolor = "GRAY"\nmean = [0.5]\nstd = [0.5]\n')
    with pytest.raises(DataError, match=r"preprocessing makes 1 x 32 x 32, but input 'input' takes 3 x 32 x 32"):
        DeployedModel(tiny_model, preprocess=path, device="cpu")


def test_a_model_that_records_nothing_says_what_to_pass(tmp_path):
    path = tiny.save(tiny.classifier(recorded=False), tmp_path / "bare.onnx")
    deployed = DeployedModel(path, device="cpu")
    with pytest.raises(DataError, match=r"bare\.onnx: the model does not record its preprocessing.*--preprocess FILE"):
        _ = deployed.preprocess


def test_a_model_that_records_a_broken_contract_is_refused(tmp_path):
    model = tiny.classifier()
    for value in model.metadata_props:
        if value.key == "onnx_evidence.preprocess":
            value.value = json.dumps({**tiny.PREPROCESS, "std": [0.25, 0.0, 0.25]})
    path = tiny.save(model, tmp_path / "broken.onnx")
    with pytest.raises(DataError, match=r"broken\.onnx: the preprocessing is not valid: std\.1"):
        DeployedModel(path, device="cpu")
