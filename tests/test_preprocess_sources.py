"""Where preprocessing is found, which source goes before which, and what presets do."""

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper

from onnx_evidence import DeployedModel
from onnx_evidence.cli import main
from onnx_evidence.errors import DataError
from onnx_evidence.preprocessing.contract import Preprocess
from onnx_evidence.preprocessing.found import METADATA_KEY, find_preprocess, read_preprocess
from onnx_evidence.preprocessing.huggingface import from_huggingface
from onnx_evidence.preprocessing.presets import PRESETS, Wanted, preset
from onnx_evidence.preprocessing.timm import from_timm
from onnx_evidence.preprocessing.words import as_toml, in_words
from tests import tiny

VIT = {
    "do_normalize": True,
    "do_resize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "resample": 2,
    "size": 32,
    "feature_extractor_type": "ViTFeatureExtractor",
}
TIMM = {
    "architecture": "any",
    "pretrained_cfg": {
        "input_size": [3, 32, 32],
        "crop_pct": 0.9,
        "interpolation": "bicubic",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
    },
}
TOML = "size = [32, 32]\nmean = [127, 127, 127]\nstd = [128, 128, 128]\n"
WANTED = Wanted(3, 32, 32)


def write(path: Path, values: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(values if isinstance(values, str) else json.dumps(values), encoding="utf-8")
    return path


def find(folder: Path, metadata: dict[str, str] | None = None, given: Any = None, wanted: Wanted = WANTED):
    return find_preprocess(given, metadata or {}, folder / "m.onnx", wanted)


# Files beside the model


def test_nothing_is_found_where_nothing_lies(tmp_path):
    found = find(tmp_path)
    assert (found.preprocess, found.source, found.labels, found.classes) == (None, None, None, None)


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("m.toml", TOML, ("short", "bilinear", "opencv", (127.0,) * 3)),
        ("preprocessor_config.json", VIT, ("stretch", "bilinear", "pil", (0.5,) * 3)),
        ("config.json", TIMM, ("short", "bicubic", "pil", (0.5,) * 3)),
    ],
)
def test_what_lies_beside_the_model_is_read_and_named(tmp_path, name, values, expected):
    write(tmp_path / name, values)
    found = find(tmp_path)
    settings = found.preprocess
    assert (settings.resize, settings.interpolation, settings.library, settings.mean) == expected
    assert found.source.endswith(name)


@pytest.mark.parametrize(("folder", "seen"), [("onnx", True), ("models", False)])
def test_optimums_folder_has_its_files_one_above(tmp_path, folder, seen):
    write(tmp_path / "preprocessor_config.json", VIT)
    (tmp_path / folder).mkdir()
    assert (find(tmp_path / folder).preprocess is not None) == seen


def test_another_programs_config_is_passed_over(tmp_path):
    write(tmp_path / "config.json", {"port": 8080})
    assert find(tmp_path).preprocess is None
    write(tmp_path / "config.json", "no json")
    assert find(tmp_path).preprocess is None


def test_metadata_comes_first_and_sources_that_agree_are_one(tmp_path):
    settings = preset("unit", WANTED, "m.onnx")
    write(tmp_path / "m.toml", as_toml(settings, "made by hand"))
    found = find(tmp_path, {METADATA_KEY: settings.model_dump_json()})
    assert found.preprocess == settings
    assert found.source == "the file's metadata (onnx_evidence.preprocess)"


def test_sources_that_contradict_each_other_are_refused_by_both_names_and_the_first_key(tmp_path):
    write(tmp_path / "m.toml", TOML)
    write(tmp_path / "preprocessor_config.json", VIT)
    with pytest.raises(
        DataError, match=r"m\.toml and \S+/preprocessor_config\.json contradict.*resize short and stretch"
    ):
        find(tmp_path)
    with pytest.raises(DataError, match=r"metadata \(onnx_evidence.preprocess\) and \S+/m\.toml contradict each other"):
        find(tmp_path, {METADATA_KEY: preset("unit", WANTED, "m").model_dump_json()})


@pytest.mark.parametrize("given", ["unit", preset("unit", WANTED, "m.onnx")])
def test_what_is_given_goes_before_all_that_is_recorded(tmp_path, given):
    write(tmp_path / "m.toml", TOML)
    write(tmp_path / "preprocessor_config.json", VIT)
    assert find(tmp_path, given=given).preprocess == preset("unit", WANTED, "m.onnx")


@pytest.mark.parametrize("values", [VIT, TIMM, {"size": [32, 32], "mean": [1, 2, 3], "std": [4, 5, 6]}])
def test_json_files_are_told_apart_by_what_they_hold(tmp_path, values):
    path = write(tmp_path / "any.json", values)
    found = find(tmp_path, given=path)
    expected = {
        "feature_extractor_type": lambda: from_huggingface(VIT, ""),
        "pretrained_cfg": lambda: from_timm(TIMM, WANTED, ""),
        "size": lambda: Preprocess.model_validate(values),
    }
    assert found.preprocess == next(make() for key, make in expected.items() if key in values)
    assert found.source == str(path)


def test_a_folder_that_is_given_is_looked_into_for_everything(tmp_path):
    write(tmp_path / "away" / "preprocessor_config.json", VIT)
    write(tmp_path / "away" / "config.json", {"id2label": {"0": "cat", "1": "dog"}})
    found = find(tmp_path, given=tmp_path / "away")
    assert found.preprocess == from_huggingface(VIT, "")
    assert found.labels == ("cat", "dog")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: this folder has neither preprocessor_config\.json nor timm's"):
        find(tmp_path, given=tmp_path / "empty")


@pytest.mark.parametrize("given", ["torchvison", "/nowhere/at-all"])
def test_what_is_neither_preset_nor_file_is_refused_with_the_presets(tmp_path, given):
    with pytest.raises(DataError, match=r"is neither a preset \(torchvision, timm, tf, caffe, unit, none\) nor a file"):
        find(tmp_path, given=given)


@pytest.mark.parametrize("text", ["", "[1, 2]", "{", '"text"', "\x00", "[" * 100_000])
def test_json_that_is_none_is_refused_in_one_line(tmp_path, text):
    path = write(tmp_path / "any.json", text)
    with pytest.raises(DataError, match=r"any\.json: cannot read the preprocessing") as caught:
        read_preprocess(path)
    assert "\n" not in str(caught.value)


# Class names and their kind


@pytest.mark.parametrize(
    ("config", "labels"),
    [
        ({"id2label": {"1": "dog", "0": "cat"}}, ("cat", "dog")),
        ({"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}, None),
        ({**TIMM, "label_names": ["a", "b"]}, ("a", "b")),
        (
            {**TIMM, "label_names": ["n1", "n2"], "label_descriptions": {"n1": "tench", "n2": "shark"}},
            ("tench", "shark"),
        ),
        ({}, None),
    ],
)
def test_class_names_are_read_from_config_json(tmp_path, config, labels):
    write(tmp_path / "config.json", config)
    assert find(tmp_path).labels == labels


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"id2label": {"1": "a", "2": "b"}}, r"config\.json: id2label does not number its 2 classes 0, 1"),
        ({**TIMM, "label_names": [1, 2]}, r"config\.json: the class names are no list of texts"),
    ],
)
def test_class_names_that_cannot_be_are_refused(tmp_path, config, message):
    write(tmp_path / "config.json", config)
    with pytest.raises(DataError, match=message):
        find(tmp_path)


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("{0: 'tench', 1: \"king's horse\"}", ("tench", "king's horse")),
        ('["tench", "shark"]', ("tench", "shark")),
        ('{"0": "tench"}', ("tench",)),
        ("__import__('os').getcwd()", None),
        ("{1: 'a'}", None),
        ("(" * 5000, None),
    ],
)
def test_names_in_the_metadata_are_read_as_literals_and_never_run(tmp_path, text, labels):
    assert find(tmp_path, {"names": text}).labels == labels


@pytest.mark.parametrize(
    ("kind", "classes"),
    [
        ("multi_label_classification", "independent"),
        ("single_label_classification", "exclusive"),
        ("regression", None),
        (None, None),
    ],
)
def test_the_kind_of_classes_is_handed_over(tmp_path, kind, classes):
    write(tmp_path / "config.json", {"problem_type": kind})
    assert find(tmp_path).classes == classes


# Refusals of other people's files


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"feature_extractor_type": "DetrFeatureExtractor"}, r"'DetrFeatureExtractor' is not known \(ViT, DeiT"),
        ({"do_pad": True}, r"do_pad is not supported"),
        ({"resample": 7}, r"resample 7 is none of Pillow's filters"),
        ({"size": {"longest_edge": 30}}, r"size .* is neither height and width nor the shortest edge"),
        ({"size": "big"}, r"size 'big' is no number of pixels"),
        ({"size": {"shortest_edge": 32}}, r"the shorter side is resized and nothing cropped"),
        ({"do_resize": False}, r"nothing is resized nor cropped"),
        ({"image_mean": [0.5, 0.5]}, r"image_mean has 2 values for 3 channels"),
        ({"image_std": [0.5, "x", 0.5]}, r"image_std 'x' is no number"),
        ({"image_std": [0.5, 0.0, 0.5]}, r"std\.1: .*greater than 0"),
        ({"rescale_factor": None}, r"rescale_factor None is no number"),
        ({"feature_extractor_type": "ConvNextImageProcessor", "crop_pct": 0}, r"crop_pct 0 is no share"),
        ({"feature_extractor_type": "ConvNextImageProcessor", "size": [30, 40]}, r"has two sides, ConvNeXt's"),
    ],
)
def test_a_processor_that_cannot_be_followed_is_refused_with_the_remedy(tmp_path, change, message):
    write(tmp_path / "preprocessor_config.json", {**VIT, **change})
    with pytest.raises(DataError, match=rf"preprocessor_config\.json: .*{message}") as caught:
        find(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"crop_mode": "random"}, r"crop_mode 'random' is not known \(center, squash, border\)"),
        ({"input_size": [3, 32]}, r"input_size \[3, 32\] is not channels, height and width"),
        ({"input_size": [3, 32, 48]}, r"cropped from the centre in a way that is not supported"),
        ({"crop_pct": "all"}, r"crop_pct 'all' is no number"),
        ({"interpolation": "random"}, r"interpolation"),
        ({"mean": [1]}, None),
    ],
)
def test_a_config_of_timm_that_cannot_be_followed_is_refused(tmp_path, change, message):
    write(tmp_path / "config.json", {**TIMM, "pretrained_cfg": {**TIMM["pretrained_cfg"], **change}})
    if message is None:
        assert find(tmp_path).preprocess.mean == (1.0,) * 3
        return
    with pytest.raises(DataError, match=rf"config\.json: .*{message}"):
        find(tmp_path)


def test_the_size_for_tests_is_timms_where_the_model_has_it():
    config = {"pretrained_cfg": {**TIMM["pretrained_cfg"], "test_input_size": [3, 48, 48], "test_crop_pct": 1.0}}
    assert from_timm(config, Wanted(3, 32, 32), "c").target == (35, 35)
    larger = from_timm(config, Wanted(3, 48, 48), "c")
    assert (larger.size, larger.target) == ((48, 48), (48, 48))


# Presets


@pytest.mark.parametrize(
    ("name", "black", "white"),
    [
        (
            "torchvision",
            [-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225],
            [0.515 / 0.229, 0.544 / 0.224, 0.594 / 0.225],
        ),
        ("timm", [-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225], [0.515 / 0.229, 0.544 / 0.224, 0.594 / 0.225]),
        ("tf", [-1, -1, -1], [1, 1, 1]),
        ("caffe", [-103.939, -116.779, -123.68], [151.061, 138.221, 131.32]),
        ("unit", [0, 0, 0], [1, 1, 1]),
        ("none", [0, 0, 0], [255, 255, 255]),
    ],
)
def test_presets_map_black_and_white_as_documented(name, black, white):
    settings = preset(name, WANTED, "m.onnx")
    for level, expected in ((0, black), (255, white)):
        found = [(level * settings.scale - mean) / std for mean, std in zip(settings.mean, settings.std, strict=True)]
        assert found == pytest.approx(expected, abs=1e-5)
    assert (settings.color == "BGR") == (name == "caffe")


@pytest.mark.parametrize(
    ("name", "side", "to"),
    [("torchvision", 224, 256), ("torchvision", 299, 342), ("timm", 224, 256), ("timm", 299, 341)],
)
def test_what_is_resized_to_grows_with_the_input(name, side, to):
    settings = preset(name, Wanted(3, side, side), "m.onnx")
    assert (settings.resize, settings.target, settings.library) == ("short", (to, to), "pil")


def test_open_sizes_have_the_usual_side_or_are_refused():
    assert preset("torchvision", Wanted(3), "m.onnx").size == (224, 224)
    for name in ("unit", "none", "preprocessed"):
        with pytest.raises(DataError, match=rf"m\.onnx: .*height and width open and preset '{name}' has none"):
            preset(name, Wanted(3), "m.onnx")


@pytest.mark.parametrize(("channels", "color"), [(1, "GRAY"), (3, "RGB"), (7, "BANDS")])
def test_presets_without_colours_take_any_channels(channels, color):
    assert preset("unit", Wanted(channels, 8, 8), "m.onnx").color == color
    for name in ("torchvision", "timm", "caffe"):
        if channels != 3:
            with pytest.raises(DataError, match=rf"'{name}' is for 3 channels and the model's input has {channels}"):
                preset(name, Wanted(channels, 8, 8), "m.onnx")


def test_an_input_of_whole_numbers_needs_no_word(tmp_path):
    found = find(tmp_path, wanted=Wanted(3, 32, 32, integer=True))
    assert found.preprocess == preset("none", WANTED, "m.onnx")
    assert "preset 'none'" in found.source
    assert find(tmp_path, wanted=Wanted(3, None, None, integer=True)).preprocess is None


@pytest.mark.parametrize(
    ("sides", "expected"),
    [
        ([3, 32, 48], Wanted(3, 32, 48)),
        ([32, 48, 3], Wanted(3, 32, 48)),
        ([None, None, 1], Wanted(1, None, None)),
        ([3, 224, 3], Wanted(3, 224, 3)),
        ([13, 32, 32], Wanted(13, 32, 32)),
    ],
)
def test_channels_are_last_where_only_the_last_side_is_one_or_three(sides, expected):
    assert Wanted.of(sides) == expected


# As a user meets them


@pytest.fixture
def bare(tmp_path) -> Path:
    return tiny.save(tiny.classifier(recorded=False), tmp_path / "bare.onnx")


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    return result.exit_code, result.output


def test_a_float_model_that_records_nothing_is_told_of_presets(bare):
    with pytest.raises(
        DataError, match=r"cannot be guessed; pass --preprocess FILE.toml .*torchvision, timm, tf, caffe"
    ):
        _ = DeployedModel(bare, device="cpu").preprocess


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_opens_the_model_by_name(bare, name):
    deployed = DeployedModel(bare, preprocess=name, device="cpu")
    assert deployed.preprocess == preset(name, WANTED, "m.onnx")
    assert deployed.model.preprocess_source == f"preset {name!r}"


def test_labels_beside_the_model_name_its_classes(bare):
    write(bare.parent / "config.json", {"id2label": {str(index): name for index, name in enumerate("vwxyz")}})
    assert DeployedModel(bare, device="cpu").labels == tuple("vwxyz")


def test_the_command_prints_a_file_that_can_be_given_back(tiny_model, tmp_path):
    code, text = run("preprocess", tiny_model)
    assert code == 0
    assert text.startswith("# from: the file's metadata (onnx_evidence.preprocess)\n")
    assert read_preprocess(write(tmp_path / "again.toml", text)) == DeployedModel(tiny_model, device="cpu").preprocess


def test_the_command_prints_a_template_only_when_asked(bare, tmp_path):
    code, text = run("preprocess", bare)
    assert code == 1
    assert "cannot be guessed" in text
    code, text = run("preprocess", bare, "--template")
    assert code == 0
    assert read_preprocess(write(tmp_path / "t.toml", text)) == preset("torchvision", WANTED, "m.onnx")
    code, text = run("preprocess", bare, "--preprocess", "caffe")
    assert (code, text.splitlines()[0]) == (0, "# from: preset 'caffe'")


def test_the_commands_help_says_what_each_preset_does():
    text = " ".join(run("preprocess", "--help")[1].split())
    for name, row in PRESETS.items():
        assert f"{name}: {row.summary}" in text


def test_inspect_says_what_is_used_and_where_it_comes_from(bare):
    write(bare.parent / "preprocessor_config.json", VIT)
    code, text = run("inspect", bare)
    assert code == 0
    assert "stretched to 32 x 32, bilinear of pil, RGB" in text
    assert f"from: {bare.parent.resolve() / 'preprocessor_config.json'}" in text


def test_presets_and_preprocessed_contradict_each_other(bare):
    code, text = run("inspect", bare, "--preprocess", "unit", "--preprocessed")
    assert code == 2
    assert "leave --preprocess out" in text


@pytest.mark.parametrize(
    "settings",
    [
        preset("torchvision", WANTED, "m"),
        preset("preprocessed", WANTED, "m"),
        Preprocess(size=(4, 5), resize="long", resize_to=(6, 7), pad=(1.5, 2, 3), mean=(1e-7, 0, 0), std=(1, 1, 1)),
        Preprocess(size=(4, 5), resize="crop", anchor="top-left", white=4095, color="GRAY", mean=(0,), std=(1,)),
    ],
)
def test_toml_comes_back_the_same_and_words_are_one_line(settings, tmp_path):
    assert read_preprocess(write(tmp_path / "t.toml", as_toml(settings, "here"))) == settings
    assert "\n" not in in_words(settings)


def test_a_model_with_its_preprocessing_inside_needs_no_option(tmp_path):
    """Bytes, channels last, from cast to logits in the graph."""
    model = tiny.classifier(recorded=False)
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("bytes", TensorProto.UINT8, ("N", 32, 32, 3)))
    before = [
        helper.make_node("Cast", ["bytes"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["floats"], ["input"], perm=[0, 3, 1, 2]),
    ]
    nodes = [*before, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, tmp_path / "inside.onnx")
    deployed = DeployedModel(tmp_path / "inside.onnx", device="cpu")
    assert deployed.preprocess == preset("none", WANTED, "m.onnx")
