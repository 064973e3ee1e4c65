"""The commands: what they write, what they print, and that repeating them changes nothing."""

import hashlib
import json
import logging
import math
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from onnx_evidence import DeployedModel, fit_background
from onnx_evidence.background_file import save_background
from onnx_evidence.cli import main
from onnx_evidence.images import place
from onnx_evidence.placement import to_original
from tests import tiny

SIZES = {"wide.png": (44, 70), "tall.png": (81, 40)}
CUTS = ["input", "stem", "stem.relu", "block.add", "down", "down.relu", "deep.add"]


@pytest.fixture(autouse=True)
def _keep_logging() -> Iterator[None]:
    """The command sets up logging for its own process; inside this one, undo that."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


def smooth(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A picture whose parts predict one another, as a background needs them."""
    coarse = rng.integers(0, 256, (5, 5, 3)).astype(np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


@pytest.fixture(scope="session")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two pictures, wide.png and tall.png."""
    folder = tmp_path_factory.mktemp("gallery")
    rng = np.random.default_rng(3)
    for name, size in SIZES.items():
        cv2.imwrite(str(folder / name), smooth(rng, *size))
    return folder


@pytest.fixture(scope="session")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pictures to fit a background from."""
    folder = tmp_path_factory.mktemp("many")
    rng = np.random.default_rng(4)
    for index in range(12):
        cv2.imwrite(str(folder / f"{index}.png"), smooth(rng, 40, 52))
    return folder


@pytest.fixture(scope="session")
def fitted(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, many: Path) -> Path:
    """A background for the tiny model's two default cuts."""
    path = tmp_path_factory.mktemp("background") / "fitted.npz"
    deployed = DeployedModel(tiny_model, device="cpu")
    save_background(path, fit_background(deployed, ["block.add", "deep.add"], sorted(many.iterdir())))
    return path


def call(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result


def manifest(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]


def arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as loaded:
        return dict(loaded)


def only_map(out: Path) -> dict[str, np.ndarray]:
    (entry,) = manifest(out)
    return arrays(out / entry["map"])


def only_bytes(out: Path) -> bytes:
    (path,) = out.rglob("*.npz")
    return path.read_bytes()


def files(out: Path) -> list[str]:
    return sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())


# inspect


def test_inspect_json_has_the_promised_keys(tiny_model):
    report = json.loads(call("inspect", tiny_model, "--json").stdout)
    assert [cut["name"] for cut in report["cuts"]] == CUTS
    for cut in report["cuts"]:
        assert {"name", "op_type", "shape", "tail_share", "stride", "receptive_field"} <= cut.keys()
    by_name = {cut["name"]: cut for cut in report["cuts"]}
    assert [cut["tail_share"] for cut in report["cuts"]] == sorted(
        (c["tail_share"] for c in report["cuts"]), reverse=True
    )
    entry = by_name["input"]
    assert (entry["op_type"], entry["shape"], entry["tail_share"]) == ("Input", [3, 32, 32], 1.0)
    assert (entry["stride"], entry["receptive_field"]) == ([1, 1], [1, 1])
    assert (by_name["stem"]["op_type"], by_name["stem"]["shape"]) == ("Conv", [8, 16, 16])
    assert (by_name["stem"]["stride"], by_name["stem"]["receptive_field"]) == ([2, 2], [3, 3])
    # 3, then two 3 x 3 layers at stride 2, then one that steps by 2: 3 + 2*4 + 2*2.
    assert (by_name["down"]["stride"], by_name["down"]["receptive_field"]) == ([4, 4], [15, 15])
    assert report["auto"] == ["block.add", "deep.add"]
    assert [bool(cut["auto"]) for cut in report["cuts"]] == [name in report["auto"] for name in CUTS]


def test_inspect_json_describes_input_output_and_preprocessing(tiny_model):
    report = json.loads(call("inspect", tiny_model, "--json", "--device", "cpu").stdout)
    assert report["input"] == {"name": "input", "layout": "NCHW", "dtype": "float32", "shape": [None, 3, 32, 32]}
    assert report["output"] == {"name": "logits", "kind": "logits", "logits": "logits"}
    assert (report["opset"], report["classes"], report["labels"], report["device"]) == (17, 5, 5, "cpu")
    assert report["preprocess"] == tiny.PREPROCESS
    assert report["sha256"] == hashlib.sha256(tiny_model.read_bytes()).hexdigest()


def test_inspect_finds_the_logits_before_a_softmax(tmp_path):
    path = tiny.save(tiny.classifier(ending="softmax"), tmp_path / "soft.onnx")
    report = json.loads(call("inspect", path, "--json").stdout)
    assert report["output"] == {"name": "probabilities", "kind": "probabilities", "logits": "logits"}
    assert [cut["name"] for cut in report["cuts"]] == CUTS


def test_inspect_prints_a_table_of_cuts_and_marks_what_auto_takes(tiny_model):
    lines = call("inspect", tiny_model).stdout.splitlines()
    rows = [line for line in lines if line[2:].split(" ")[0] in CUTS]
    assert [row[2:].split()[0] for row in rows] == CUTS
    assert [row[2:].split()[0] for row in rows if row.startswith("*")] == ["block.add", "deep.add"]
    reasons = {cut["name"]: cut["auto"] for cut in json.loads(call("inspect", tiny_model, "--json").stdout)["cuts"]}
    for name in ("block.add", "deep.add"):
        assert len(reasons[name]) > 20
        assert f"  {name}: {reasons[name]}" in lines
    assert any(line.startswith("preprocess") and "short side to 36" in line for line in lines)


def test_inspect_works_without_preprocessing_and_labels_and_says_what_to_pass(tmp_path):
    path = tiny.save(tiny.classifier(recorded=False), tmp_path / "bare.onnx")
    shown = call("inspect", path).stdout
    assert "missing: pass --preprocess FILE.toml" in shown
    assert "missing: pass --labels FILE" in shown
    report = json.loads(call("inspect", path, "--json").stdout)
    assert (report["preprocess"], report["labels"]) == (None, None)


# explain: the files


def test_explain_writes_the_promised_arrays_for_pictures_that_are_not_square(tiny_model, gallery, tmp_path):
    call("explain", tiny_model, gallery, "-o", tmp_path / "out")
    entries = {Path(entry["image"]).name: entry for entry in manifest(tmp_path / "out")}
    assert entries.keys() == SIZES.keys()
    for name, size in SIZES.items():
        maps = arrays(tmp_path / "out" / entries[name]["map"])
        shapes = {key: value.shape for key, value in maps.items()}
        assert shapes == {
            "input_pixels": (32, 32),
            "pixels": size,
            "stderr": (32, 32),
            "cut0": (16, 16),
            "cut1": (8, 8),
        }
        assert {value.dtype for value in maps.values()} == {np.dtype(np.float32)}
        assert np.isnan(maps.pop("stderr")).all()
        assert all(np.isfinite(value).all() and np.abs(value).max() > 0.01 for value in maps.values())
        placement = place(size, DeployedModel(tiny_model, device="cpu").preprocess)
        assert np.array_equal(maps["pixels"], to_original(maps["input_pixels"], placement))
        assert (maps["pixels"] == 0).any()


def test_a_manifest_line_has_the_promised_keys_and_its_files_exist(tiny_model, gallery, tmp_path):
    out = tmp_path / "out"
    call("explain", tiny_model, gallery / "wide.png", "-o", out, "--target", "dog", "--seed", 7, "--device", "cpu")
    (entry,) = manifest(out)
    assert {"image", "target", "label", "probability", "log_odds_bits", "map", "figure"} <= entry.keys()
    assert (entry["image"], entry["target"], entry["label"]) == (str(gallery / "wide.png"), 3, "dog")
    p = entry["probability"]
    assert 0 < p < 1
    assert entry["log_odds_bits"] == pytest.approx(math.log2(p / (1 - p)), abs=1e-6)
    for key in ("map", "figure"):
        assert not Path(entry[key]).is_absolute()
        assert (out / entry[key]).is_file()
    assert (entry["settings"]["seed"], entry["settings"]["preprocess"]) == (7, tiny.PREPROCESS)
    assert entry["device"] == "cpu"
    assert entry["hashes"]["model"] == hashlib.sha256(tiny_model.read_bytes()).hexdigest()
    assert entry["hashes"]["image"] == hashlib.sha256((gallery / "wide.png").read_bytes()).hexdigest()
    assert entry["hashes"]["map"] == hashlib.sha256((out / entry["map"]).read_bytes()).hexdigest()
    assert [cut["name"] for cut in entry["cuts"]] == ["block.add", "deep.add"]
    assert all(0 <= cut["certificate"] < 1e-5 for cut in entry["cuts"])
    assert files(out) == sorted([entry["map"], entry["figure"], "manifest.jsonl"])


def test_the_figure_is_a_picture(tiny_model, gallery, tmp_path):
    call("explain", tiny_model, gallery / "wide.png", "-o", tmp_path)
    (entry,) = manifest(tmp_path)
    height, width, channels = cv2.imread(str(tmp_path / entry["figure"])).shape
    assert 300 < height < width < 3000
    assert channels == 3


def test_the_strongest_evidence_is_where_the_map_says(tiny_model, gallery, tmp_path):
    call("explain", tiny_model, gallery, "-o", tmp_path)
    for entry in manifest(tmp_path):
        maps = arrays(tmp_path / entry["map"])
        for key, value in (
            ("strongest_for", maps["input_pixels"].max()),
            ("strongest_against", maps["input_pixels"].min()),
        ):
            extreme = entry[key]
            assert extreme["bits"] == pytest.approx(value)
            # Photograph and input have nearly the same resolution, so the place holds nearly the extreme.
            assert maps["pixels"][extreme["row"], extreme["col"]] == pytest.approx(value, rel=0.25)


def test_the_top_class_is_explained_by_default(tiny_model, gallery, tmp_path):
    call("explain", tiny_model, gallery / "tall.png", "-o", tmp_path / "top")
    call("explain", tiny_model, gallery / "tall.png", "-o", tmp_path / "all", *(f"--target={k}" for k in range(5)))
    rivals = manifest(tmp_path / "all")
    assert [entry["target"] for entry in rivals] == list(range(5))
    assert sum(entry["probability"] for entry in rivals) == pytest.approx(1)
    (top,) = manifest(tmp_path / "top")
    assert top["target"] == max(rivals, key=lambda entry: entry["probability"])["target"]


def test_a_repeated_target_is_one_map_and_one_line_each(tiny_model, gallery, tmp_path):
    call(
        "explain", tiny_model, gallery / "tall.png", "-o", tmp_path, "--target", "BEE", "--target", 3, "--target", "dog"
    )
    entries = manifest(tmp_path)
    assert [(entry["target"], entry["label"]) for entry in entries] == [(1, "bee"), (3, "dog")]
    assert len({entry["map"] for entry in entries}) == 2
    bee, dog = (arrays(tmp_path / entry["map"])["input_pixels"] for entry in entries)
    assert np.abs(bee - dog).max() > 0.01


def test_two_classes_of_one_name_do_not_overwrite_each_other(tiny_model, gallery, tmp_path):
    call("explain", tiny_model, gallery / "tall.png", "-o", tmp_path, "--target", 2, "--target", 4)
    entries = manifest(tmp_path)
    assert [(entry["target"], entry["label"]) for entry in entries] == [(2, "crane"), (4, "crane")]
    first, second = (arrays(tmp_path / entry["map"])["input_pixels"] for entry in entries)
    assert np.abs(first - second).max() > 0.01


def test_versus_is_the_evidence_for_one_class_rather_than_the_other(tiny_model, gallery, tmp_path):
    picture = gallery / "wide.png"
    for target, versus in (("ant", "bee"), ("bee", "ant")):
        call("explain", tiny_model, picture, "-o", tmp_path, "--target", target, "--versus", versus)
    call("explain", tiny_model, picture, "-o", tmp_path, "--target", "ant")
    ant, bee, alone = manifest(tmp_path)
    assert (ant["label"], ant["versus"], ant["versus_label"]) == ("ant", 1, "bee")
    assert (bee["label"], bee["versus"], bee["versus_label"]) == ("bee", 0, "ant")
    assert (alone["label"], alone["versus"]) == ("ant", None)
    one, other, single = (arrays(tmp_path / entry["map"])["input_pixels"] for entry in (ant, bee, alone))
    assert np.abs(one).max() > 0.01
    assert one == pytest.approx(-other, abs=1e-5)
    assert np.abs(one - single).max() > 0.01


def test_zero_and_the_mean_are_different_replacements_and_the_output_says_which(tiny_model, gallery, tmp_path):
    shown = {
        name: call("explain", tiny_model, gallery / "wide.png", "-o", tmp_path / name, "--background", name).stdout
        for name in ("zero", "mean")
    }
    assert "replaced by zero" in shown["zero"]
    assert "replaced by the picture's own channel means" in shown["mean"]
    zero, mean = (only_map(tmp_path / name)["input_pixels"] for name in ("zero", "mean"))
    assert np.abs(zero - mean).max() > 0.01


def test_layers_are_used_as_named_and_averaged_in_bits(tiny_model, gallery, tmp_path):
    runs = {"a": ["stem"], "b": ["down"], "both": ["stem", "down"]}
    for name, layers in runs.items():
        named = [argument for layer in layers for argument in ("--layer", layer)]
        call("explain", tiny_model, gallery / "wide.png", "-o", tmp_path / name, *named, "--target", "bee")
        assert [cut["name"] for cut in manifest(tmp_path / name)[0]["cuts"]] == layers
    a, b, both = (only_map(tmp_path / name) for name in runs)
    assert a.keys() == {"input_pixels", "pixels", "stderr", "cut0"}
    assert np.array_equal(both["cut0"], a["cut0"])
    assert np.array_equal(both["cut1"], b["cut0"])
    assert both["input_pixels"] == pytest.approx((a["input_pixels"] + b["input_pixels"]) / 2, abs=1e-5)


# explain: many pictures


def test_a_folder_is_all_pictures_in_it_sorted(tiny_model, gallery, tmp_path):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for name in ("b.png", "a.PNG", "deep/c.png"):
        shutil.copy(gallery / "wide.png", tmp_path / "in" / name)
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    call("explain", tiny_model, tmp_path / "in", "-o", tmp_path / "out")
    names = [str(Path(entry["image"]).relative_to(tmp_path / "in")) for entry in manifest(tmp_path / "out")]
    assert names == ["a.PNG", "b.png", "deep/c.png"]


def test_one_bad_picture_does_not_stop_the_others_but_the_exit_code_tells(tiny_model, gallery, tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a.png", "c.png"):
        shutil.copy(gallery / "wide.png", tmp_path / "in" / name)
    (tmp_path / "in" / "b.png").write_text("no picture")
    result = call("explain", tiny_model, tmp_path / "in", tmp_path / "no.jpg", "-o", tmp_path / "out", code=1)
    lines = result.stderr.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(f"Error: {tmp_path / 'in' / 'b.png'}: cannot decode")
    assert lines[1].startswith(f"Error: {tmp_path / 'no.jpg'}: cannot read")
    assert [Path(entry["image"]).name for entry in manifest(tmp_path / "out")] == ["a.png", "c.png"]
    assert len(files(tmp_path / "out")) == 5


def test_a_picture_of_the_versus_class_itself_does_not_stop_the_others(tiny_model, tmp_path):
    (tmp_path / "in").mkdir()
    for name, colour in {"1-green.png": (0, 255, 0), "2-red.png": (0, 0, 255)}.items():
        cv2.imwrite(str(tmp_path / "in" / name), np.full((40, 50, 3), colour, np.uint8))
    call("explain", tiny_model, tmp_path / "in", "-o", tmp_path / "top")
    assert [entry["label"] for entry in manifest(tmp_path / "top")] == ["dog", "crane"]
    arguments = ("explain", tiny_model, tmp_path / "in", "-o", tmp_path / "out", "--versus", "dog")
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)
    assert [Path(entry["image"]).name for entry in manifest(tmp_path / "out")] == ["2-red.png"]
    assert [line for line in result.stderr.splitlines() if "1-green.png" in line]


def test_running_again_replaces_lines_and_gives_the_same_bytes(tiny_model, gallery, tmp_path):
    out = tmp_path / "out"
    call("explain", tiny_model, gallery, "-o", out, "--target", "ant", "--target", "dog")
    before = {name: (out / name).read_bytes() for name in files(out)}
    maps = [entry["map"] for entry in manifest(out)]
    assert len(maps) == 4
    call("explain", tiny_model, gallery / "wide.png", "-o", out, "--target", "dog", "--target", "ant", "--seed", 5)
    entries = manifest(out)
    assert [entry["map"] for entry in entries] == maps
    assert [(Path(entry["image"]).stem, entry["settings"]["seed"]) for entry in entries] == [
        ("tall", 0),
        ("tall", 0),
        ("wide", 5),
        ("wide", 5),
    ]
    after = {name: (out / name).read_bytes() for name in files(out)}
    assert before.pop("manifest.jsonl") != after.pop("manifest.jsonl")
    assert before == after


def test_running_again_with_another_target_adds_lines(tiny_model, gallery, tmp_path):
    for target in ("ant", "bee"):
        call("explain", tiny_model, gallery / "wide.png", "-o", tmp_path, "--target", target)
    assert [entry["label"] for entry in manifest(tmp_path)] == ["ant", "bee"]
    assert len(files(tmp_path)) == 5


def two_of_one_stem(gallery: Path, folder: Path) -> list[Path]:
    paths = [folder / "first" / "photo.png", folder / "second" / "photo.png"]
    for path, source in zip(paths, SIZES, strict=True):
        path.parent.mkdir()
        shutil.copy(gallery / source, path)
    return paths


def check_both_are_there(out: Path, paths: list[Path]) -> None:
    entries = manifest(out)
    assert [entry["image"] for entry in entries] == [str(path) for path in paths]
    for entry, size in zip(entries, SIZES.values(), strict=True):
        assert arrays(out / entry["map"])["pixels"].shape == size
        assert entry["hashes"]["map"] == hashlib.sha256((out / entry["map"]).read_bytes()).hexdigest()


def test_pictures_of_one_stem_do_not_overwrite_each_other(tiny_model, gallery, tmp_path):
    paths = two_of_one_stem(gallery, tmp_path)
    call("explain", tiny_model, *paths, "-o", tmp_path / "out", "--target", "ant")
    check_both_are_there(tmp_path / "out", paths)


def test_pictures_of_one_stem_do_not_overwrite_each_other_in_two_runs(tiny_model, gallery, tmp_path):
    paths = two_of_one_stem(gallery, tmp_path)
    for path in paths:
        call("explain", tiny_model, path, "-o", tmp_path / "out", "--target", "ant")
    check_both_are_there(tmp_path / "out", paths)


def test_pictures_that_differ_in_their_suffix_do_not_overwrite_each_other(tiny_model, gallery, tmp_path):
    (tmp_path / "in").mkdir()
    shutil.copy(gallery / "wide.png", tmp_path / "in" / "photo.png")
    cv2.imwrite(str(tmp_path / "in" / "photo.bmp"), cv2.imread(str(gallery / "tall.png")))
    call("explain", tiny_model, tmp_path / "in", "-o", tmp_path / "out", "--target", "ant")
    assert len({entry["map"] for entry in manifest(tmp_path / "out")}) == 2


def test_figures_of_an_output_folder_inside_the_image_folder_are_no_photographs(tiny_model, gallery, tmp_path):
    shutil.copy(gallery / "wide.png", tmp_path)
    for _ in range(2):
        call("explain", tiny_model, tmp_path, "-o", tmp_path / "out")
        assert [Path(entry["image"]).name for entry in manifest(tmp_path / "out")] == ["wide.png"]


@pytest.mark.parametrize("name", ["manifest.jsonl.png", "$a_b$.png", "%41 {x}.png", "line\u2028end.png", "a.b.c.png"])
def test_a_picture_may_have_any_name(tiny_model, gallery, tmp_path, name):
    shutil.copy(gallery / "wide.png", tmp_path / name)
    for target in ("ant", "bee"):
        call("explain", tiny_model, tmp_path / name, "-o", tmp_path / "out", "--target", target)
    lines = (tmp_path / "out" / "manifest.jsonl").read_text(encoding="utf-8").split("\n")
    entries = [json.loads(line) for line in lines if line]
    assert [entry["image"] for entry in entries] == [str(tmp_path / name)] * 2
    assert all((tmp_path / "out" / entry[key]).is_file() for entry in entries for key in ("map", "figure"))


def test_a_picture_whose_name_is_no_unicode_is_explained_or_refused_in_one_line(tiny_model, gallery, tmp_path):
    picture = tmp_path / "photo-\udcff.png"
    try:
        shutil.copy(gallery / "wide.png", picture)
    except (OSError, UnicodeEncodeError):
        pytest.skip("the file system takes only Unicode names")
    result = CliRunner().invoke(main, ["explain", str(tiny_model), str(picture), "-o", str(tmp_path / "out"), "-q"])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    if result.exit_code == 0:
        assert len(files(tmp_path / "out")) == 3
    else:
        assert result.exit_code == 1
        assert [line[:7] for line in result.stderr.splitlines()] == ["Error: "]
        assert files(tmp_path / "out") == []


# explain: what is printed


def test_the_table_has_class_probability_log_odds_and_the_strongest_places(tiny_model, gallery, tmp_path):
    shown = call("explain", tiny_model, gallery, "-o", tmp_path, "--target", "dog", "--device", "cpu").stdout
    lines = shown.splitlines()
    assert lines[0] == "device: cpu (asked for)"
    assert "block.add" in lines[1]
    assert "deep.add" in lines[1]
    rows = lines[4:]
    for row, entry in zip(rows, manifest(tmp_path), strict=True):
        assert row.split()[:2] == [Path(entry["image"]).name, "dog"]
        assert f"{entry['probability']:.4f}" in row
        assert f"{entry['log_odds_bits']:+.2f}" in row
        for key in ("strongest_for", "strongest_against"):
            extreme = entry[key]
            assert f"{extreme['bits']:+.2f} at ({extreme['row']}, {extreme['col']})" in row


def test_json_prints_the_manifest_lines_and_nothing_else(tiny_model, gallery, tmp_path):
    result = call("explain", tiny_model, gallery, "-o", tmp_path, "--json", "--target", "ant", "--target", "bee")
    assert [json.loads(line) for line in result.stdout.splitlines()] == manifest(tmp_path)
    assert len(manifest(tmp_path)) == 4
    assert result.stderr == ""


def test_quiet_prints_nothing(tiny_model, gallery, tmp_path):
    result = call("explain", tiny_model, gallery, "-o", tmp_path, "-q")
    assert result.output == ""
    assert len(manifest(tmp_path)) == 2


def test_quiet_prints_nothing_for_names_that_the_figures_font_lacks(tiny_model, gallery, tmp_path, recwarn):
    shutil.copy(gallery / "wide.png", tmp_path / "\u5199\u771f.png")
    assert call("explain", tiny_model, tmp_path / "\u5199\u771f.png", "-o", tmp_path / "out", "-q").output == ""
    assert len(manifest(tmp_path / "out")) == 1
    assert [str(warning.message) for warning in recwarn] == []


def test_quiet_still_prints_errors(tiny_model, tmp_path):
    result = call("explain", tiny_model, tmp_path / "no.png", "-o", tmp_path / "out", "-q", code=1)
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")


def test_verbose_says_on_stderr_where_the_model_runs(tiny_model, gallery, tmp_path):
    arguments = ("explain", tiny_model, gallery / "wide.png", "--device", "cpu")
    assert "device: cpu" in call(*arguments, "-o", tmp_path / "a", "-v").stderr
    assert call(*arguments, "-o", tmp_path / "b").stderr == ""


# Backgrounds, methods, settings


def test_a_background_is_fitted_and_used(tiny_model, gallery, many, tmp_path):
    path = tmp_path / "new" / "background.npz"
    shown = call("background", tiny_model, many, "-o", path).stdout
    assert f"{path}: fitted from 12 pictures" in shown
    for name in ("block.add", "deep.add"):
        (line,) = (line for line in shown.splitlines() if line.startswith(f"  {name}: "))
        assert "held-out R2 0." in line
        assert "% of drawn values clipped" in line
    assert files(tmp_path) == ["new/background.npz"]
    out = tmp_path / "out"
    table = call("explain", tiny_model, gallery / "wide.png", "-o", out, "--background", path).stdout
    assert f"replaced by the conditional Gaussian of {path}" in table
    assert "±" in table
    (entry,) = manifest(out)
    assert entry["hashes"]["background"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert [cut["samples"] for cut in entry["cuts"]] == [8, 8]
    stderr = only_map(out)["stderr"]
    assert np.isfinite(stderr).all()
    assert (stderr >= 0).all()
    assert stderr.max() > 0


def test_a_background_is_fitted_quietly_and_to_the_same_bytes(tiny_model, many, tmp_path):
    for name in ("a.npz", "b.npz"):
        assert call("background", tiny_model, many, "-o", tmp_path / name, "--layer", "down", "-q").output == ""
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_sixteen_times_the_samples_give_a_quarter_of_the_error(tiny_model, gallery, fitted, tmp_path):
    # A rare class: its probability is a mean over samples with a heavy tail, so it takes some for the rule to hold.
    for samples in (64, 1024):
        arguments = ("--background", fitted, "--samples", samples, "--target", "bee", "--layer", "deep.add")
        call("explain", tiny_model, gallery / "wide.png", "-o", tmp_path / str(samples), *arguments)
    few, many = (only_map(tmp_path / str(samples))["stderr"] for samples in (64, 1024))
    assert 0.15 < np.median(many) / np.median(few) < 0.4


def test_one_sample_is_the_conditional_mean_and_has_no_error(tiny_model, gallery, fitted, tmp_path):
    call("explain", tiny_model, gallery / "wide.png", "-o", tmp_path, "--background", fitted, "--samples", 1)
    assert np.isnan(only_map(tmp_path)["stderr"]).all()
    assert manifest(tmp_path)[0]["strongest_for"]["stderr"] is None


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(tiny_model, gallery, fitted, tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        arguments = ("--background", fitted, "--seed", seed, "--target", "bee")
        call("explain", tiny_model, gallery / "wide.png", "-o", tmp_path / name, *arguments)
    a, b, c = (only_bytes(tmp_path / name) for name in "abc")
    assert a == b
    assert a != c


def test_the_batch_size_changes_no_map(tiny_model, gallery, fitted, tmp_path):
    for size in (1, 7, 32, 500):
        arguments = ("--background", fitted, "--batch-size", size, "--target", "bee", "--layer", "deep.add")
        call("explain", tiny_model, gallery / "wide.png", "-o", tmp_path / str(size), *arguments)
    expected = only_map(tmp_path / "32")
    assert np.abs(expected["input_pixels"]).max() > 0.01
    for size in (1, 7, 500):
        for key, values in only_map(tmp_path / str(size)).items():
            assert np.abs(values - expected[key]).max() < 1e-4


def test_a_picture_is_explained_the_same_alone_and_among_others(tiny_model, gallery, fitted, tmp_path):
    arguments = ("--background", fitted, "--target", "bee", "--layer", "deep.add")
    call("explain", tiny_model, gallery, "-o", tmp_path / "folder", *arguments)
    call("explain", tiny_model, gallery / "wide.png", "-o", tmp_path / "alone", *arguments)
    (path,) = (tmp_path / "folder").glob("wide*/*.npz")
    assert path.read_bytes() == only_bytes(tmp_path / "alone")


def test_occlusion_removes_pixels(tiny_model, gallery, tmp_path):
    arguments = ("--method", "occlusion", "--window", 8, "--stride", 4, "--target", "bee")
    call("explain", tiny_model, gallery / "wide.png", "-o", tmp_path, *arguments)
    (entry,) = manifest(tmp_path)
    (cut,) = entry["cuts"]
    assert (cut["name"], cut["grid"], cut["window"], cut["windows"]) == ("input", [32, 32], [8, 8], 49)
    maps = only_map(tmp_path)
    assert maps.keys() == {"input_pixels", "pixels", "stderr", "cut0"}
    assert np.array_equal(maps["cut0"], maps["input_pixels"])
    assert np.abs(maps["input_pixels"]).max() > 0.01


def test_pda_draws_pixels_from_a_background_fitted_at_the_input(tiny_model, gallery, many, tmp_path):
    path = tmp_path / "pixels.npz"
    call("background", tiny_model, many, "-o", path, "--layer", "input", "--window", 6, "--patch", 8, "-q")
    arguments = ("--method", "pda", "--background", path, "--window", 6, "--stride", 6, "--target", "bee")
    call("explain", tiny_model, gallery / "wide.png", "-o", tmp_path / "out", *arguments)
    (entry,) = manifest(tmp_path / "out")
    (cut,) = entry["cuts"]
    assert (cut["name"], cut["window"], cut["windows"], cut["samples"]) == ("input", [6, 6], 36, 10)
    maps = only_map(tmp_path / "out")
    assert np.isfinite(maps["stderr"]).all()
    assert np.abs(maps["input_pixels"]).max() > 1e-4


def test_laplace_shrinks_the_evidence_and_vanishes_for_many_training_images(tiny_model, gallery, tmp_path):
    runs = {"exact": (), "many": ("--laplace", "1000000000000,5"), "few": ("--laplace", "3,5")}
    for name, extra in runs.items():
        call("explain", tiny_model, gallery / "wide.png", "-o", tmp_path / name, "--target", "bee", *extra)
    exact, many, few = (only_map(tmp_path / name)["input_pixels"] for name in runs)
    assert np.abs(exact).max() > 0.01
    assert many == pytest.approx(exact, abs=1e-3)
    assert np.abs(few).max() < 0.8 * np.abs(exact).max()
    assert manifest(tmp_path / "few")[0]["settings"]["laplace"] == [3, 5]


def test_preprocessing_and_labels_can_be_given_as_files(gallery, tmp_path):
    model = tiny.save(tiny.classifier(recorded=False), tmp_path / "bare.onnx")
    lines = [f"{key} = {json.dumps(value)}" for key, value in tiny.PREPROCESS.items()]
    (tmp_path / "settings.toml").write_text("\n".join(lines))
    (tmp_path / "labels.txt").write_text("one\ntwo\nthree\nfour\nfive\n")
    files = ("--preprocess", tmp_path / "settings.toml", "--labels", tmp_path / "labels.txt")
    call("explain", model, gallery / "wide.png", "-o", tmp_path / "out", *files, "--target", "four")
    (entry,) = manifest(tmp_path / "out")
    assert (entry["target"], entry["label"]) == (3, "four")
    assert entry["settings"]["preprocess"] == tiny.PREPROCESS


def test_classes_without_names_are_called_by_their_number(gallery, tmp_path):
    model = tiny.save(tiny.classifier(recorded=False), tmp_path / "bare.onnx")
    (tmp_path / "s.toml").write_text("size = [32, 32]\nmean = [127, 127, 127]\nstd = [64, 64, 64]\n")
    call(
        "explain",
        model,
        gallery / "wide.png",
        "-o",
        tmp_path / "out",
        "--preprocess",
        tmp_path / "s.toml",
        "--target",
        3,
    )
    (entry,) = manifest(tmp_path / "out")
    assert (entry["target"], entry["label"]) == (3, "class 3")


# The command itself


def commands() -> Iterator[tuple[str, click.Command]]:
    yield "onnx-evidence", main
    yield from main.commands.items()


def test_there_are_three_commands():
    assert sorted(main.commands) == ["background", "explain", "inspect"]


@pytest.mark.parametrize(("name", "command"), list(commands()))
def test_every_command_and_option_has_help(name, command):
    assert command.help
    context = click.Context(command, info_name=name)
    options = [option for option in command.get_params(context) if isinstance(option, click.Option)]
    assert options
    silent = [option.opts[0] for option in options if not (option.help or "").strip()]
    assert silent == []


def test_help_is_printed_for_every_command():
    for name in main.commands:
        shown = call(name, "--help").stdout
        assert shown.startswith("Usage: ")
        assert "Options:" in shown


def test_the_module_runs_like_the_command(tiny_model):
    result = subprocess.run(
        [sys.executable, "-m", "onnx_evidence", "inspect", str(tiny_model), "--json", "--device", "cpu"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert [cut["name"] for cut in json.loads(result.stdout)["cuts"]] == CUTS


def test_the_version_is_that_of_the_package():
    from onnx_evidence import __version__

    assert __version__ in call("--version").stdout
