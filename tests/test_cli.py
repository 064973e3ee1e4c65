"""The commands: what they write, what they print, and that repeating them changes nothing."""

import hashlib
import json
import logging
import math
import shlex
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

from onnx_evidence import DeployedModel, Explainer, fit_background
from onnx_evidence.cli import main
from onnx_evidence.cli.tables import unaccounted, unmet
from onnx_evidence.errors import EvidenceError
from onnx_evidence.evidence.path import FIRST_STEPS
from onnx_evidence.methods.background_file import save_background
from onnx_evidence.methods.path import PathMethod
from onnx_evidence.methods.settings import Settings
from onnx_evidence.methods.slopes import SlopeMethod
from onnx_evidence.methods.table import METHODS
from onnx_evidence.pictures.placement import to_original
from onnx_evidence.preprocessing.contract import Preprocess
from onnx_evidence.preprocessing.geometry import place
from tests import tiny

SIZES = {"wide.png": (44, 70), "tall.png": (81, 40)}
# With all keys that the model leaves at their defaults.
RECORDED = Preprocess.model_validate(tiny.PREPROCESS).model_dump(mode="json")
CUTS = ["input", "stem", "stem.relu", "block.add", "down", "down.relu", "deep.add"]
# The default, and the one for models whose operators have no backward rule: what is promised holds for both.
both_methods = pytest.mark.parametrize("method", ["integrated", "window"])


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
    """A background for the two cuts of the tiny model that windows are removed at."""
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
    assert report["input"] == {
        "name": "input",
        "layout": "NCHW",
        "dtype": "float32",
        "shape": [None, 3, 32, 32],
        "batch": None,
    }
    settled = {"classes": "exclusive", "binary": False, "note": None, "others": []}
    assert report["output"] == {"name": "logits", "kind": "logits", "logits": "logits"} | settled
    assert (report["opset"], report["classes"], report["labels"], report["device"]) == (17, 5, 5, "cpu")
    assert report["preprocess"] == RECORDED
    assert report["preprocess_source"] == "the file's metadata (onnx_evidence.preprocess)"
    assert report["sha256"] == hashlib.sha256(tiny_model.read_bytes()).hexdigest()


def test_inspect_finds_the_logits_before_a_softmax(tmp_path):
    path = tiny.save(tiny.classifier(ending="softmax"), tmp_path / "soft.onnx")
    report = json.loads(call("inspect", path, "--json").stdout)
    found = {name: report["output"][name] for name in ("name", "kind", "logits", "classes")}
    assert found == {"name": "probabilities", "kind": "probabilities", "logits": "logits", "classes": "exclusive"}
    assert [cut["name"] for cut in report["cuts"]] == CUTS


def test_inspect_prints_a_table_of_cuts_and_marks_what_auto_takes(tiny_model):
    lines = call("inspect", tiny_model).stdout.splitlines()
    rows = [line for line in lines if line[2:].split(" ")[0] in CUTS]
    assert [row[2:].split()[0] for row in rows] == CUTS
    assert [row[2:].split()[0] for row in rows if row.startswith("*")] == ["block.add", "deep.add"]
    cuts = json.loads(call("inspect", tiny_model, "--json").stdout)["cuts"]
    reasons, left = ({cut["name"]: cut[key] for cut in cuts} for key in ("auto", "left"))
    assert all((reasons[name] is None) != (left[name] is None) for name in CUTS)
    assert [name for name in CUTS if reasons[name]] == ["block.add", "deep.add"]
    assert len(reasons["deep.add"]) > 20
    assert all(row.endswith(f"  {reasons[name] or left[name]}") for row, name in zip(rows, CUTS, strict=True))
    assert "* taken by --layer auto" in lines
    assert any(line.startswith("backward") and "every operator has a rule" in line for line in lines)
    assert any(line.startswith("preprocess") and "short side to 36" in line for line in lines)


def test_inspect_says_which_operators_have_no_backward_rule(tmp_path):
    path = tiny.accumulating(tmp_path / "accumulating.onnx")
    assert json.loads(call("inspect", path, "--json").stdout)["without_rule"] == ["Scan (at 'summed')"]
    (line,) = (line for line in call("inspect", path).stdout.splitlines() if line.startswith("backward"))
    assert line.endswith("no rule for Scan (at 'summed')")


def test_inspect_works_without_preprocessing_and_labels_and_says_what_to_pass(tmp_path):
    path = tiny.save(tiny.classifier(recorded=False), tmp_path / "bare.onnx")
    shown = call("inspect", path).stdout
    assert "missing: pass --preprocess FILE.toml" in shown
    assert "missing: pass --labels FILE" in shown
    report = json.loads(call("inspect", path, "--json").stdout)
    assert (report["preprocess"], report["labels"]) == (None, None)


# explain: the files


@both_methods
def test_explain_writes_the_promised_arrays_for_pictures_that_are_not_square(method, tiny_model, gallery, tmp_path):
    call("explain", tiny_model, gallery, "-o", tmp_path / "out", "--method", method)
    entries = {Path(entry["image"]).name: entry for entry in manifest(tmp_path / "out")}
    assert entries.keys() == SIZES.keys()
    for name, size in SIZES.items():
        maps = arrays(tmp_path / "out" / entries[name]["map"])
        shapes = {key: value.shape for key, value in maps.items()}
        cuts = {"cut0": (16, 16), "cut1": (8, 8)}
        assert shapes == {"input_pixels": (32, 32), "pixels": size, "stderr": (32, 32), **cuts}
        assert {value.dtype for value in maps.values()} == {np.dtype(np.float32)}
        assert np.isnan(maps.pop("stderr")).all()
        assert all(np.isfinite(value).all() and np.abs(value).max() > 1e-3 for value in maps.values())
        placement = place(size, DeployedModel(tiny_model, device="cpu").preprocess)
        if method == "integrated":  # bits per pixel are shared out among the pixels of the photograph
            assert maps["pixels"].sum(dtype=float) == pytest.approx(maps["input_pixels"].sum(dtype=float), abs=1e-4)
            smooth = to_original(maps["input_pixels"], placement) * np.prod(placement.scale)
            assert np.corrcoef(maps["pixels"].ravel(), smooth.ravel())[0, 1] > 0.95
        else:
            assert np.array_equal(maps["pixels"], to_original(maps["input_pixels"], placement))
        assert (maps["pixels"] == 0).any()


@both_methods
def test_a_manifest_line_has_the_promised_keys_and_its_files_exist(method, tiny_model, gallery, tmp_path):
    out = tmp_path / "out"
    arguments = ("--target", "dog", "--seed", 7, "--device", "cpu", "--method", method)
    call("explain", tiny_model, gallery / "wide.png", "-o", out, *arguments)
    (entry,) = manifest(out)
    assert {"image", "target", "label", "probability", "log_odds_bits", "map", "figure"} <= entry.keys()
    assert entry["schema"] == 3
    assert (entry["image"], entry["target"], entry["label"]) == (str(gallery / "wide.png"), 3, "dog")
    p = entry["probability"]
    assert 0 < p < 1
    assert entry["log_odds_bits"] == pytest.approx(math.log2(p / (1 - p)), abs=1e-6)
    for key in ("map", "figure"):
        assert not Path(entry[key]).is_absolute()
        assert (out / entry[key]).is_file()
    assert (entry["settings"]["seed"], entry["settings"]["preprocess"]) == (7, RECORDED)
    assert entry["samples"] == "uint8, 3 channels, as they are"
    assert entry["device"] == "cpu"
    assert entry["hashes"]["model"] == hashlib.sha256(tiny_model.read_bytes()).hexdigest()
    assert entry["hashes"]["image"] == hashlib.sha256((gallery / "wide.png").read_bytes()).hexdigest()
    assert entry["hashes"]["map"] == hashlib.sha256((out / entry["map"]).read_bytes()).hexdigest()
    assert all(0 <= cut["certificate"] < 1e-5 for cut in entry["cuts"])
    assert entry["settings"]["method"] == method
    assert [cut["name"] for cut in entry["cuts"]] == ["block.add", "deep.add"]
    if method == "window":
        assert (entry["unit"], entry["budget"], entry["patch"]) == ("bits", None, [1, 1])
        assert all("budget" not in cut for cut in entry["cuts"])
    else:
        assert (entry["unit"], entry["patch"]) == ("bits per pixel", [2, 2])
        keys = {"with_bits", "without_bits", "for_bits", "against_bits", "gap_bits", "gap_share", "steps"}
        assert keys <= entry["budget"].keys()
        assert keys <= entry["cuts"][0]["budget"].keys()
    assert files(out) == sorted([entry["map"], entry["figure"], "manifest.jsonl"])


def test_the_figure_is_a_picture(tiny_model, gallery, tmp_path):
    call("explain", tiny_model, gallery / "wide.png", "-o", tmp_path)
    (entry,) = manifest(tmp_path)
    height, width, channels = cv2.imread(str(tmp_path / entry["figure"])).shape
    assert 300 < height < width < 3000
    assert channels == 3


def test_the_strongest_evidence_is_where_the_map_says(tiny_model, gallery, tmp_path):
    call("explain", tiny_model, gallery, "-o", tmp_path, "--method", "window")
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


def test_the_strongest_patch_is_where_the_map_says(tiny_model, gallery, tmp_path):
    call("explain", tiny_model, gallery, "-o", tmp_path)
    for entry in manifest(tmp_path):
        maps = arrays(tmp_path / entry["map"])
        sums = np.lib.stride_tricks.sliding_window_view(maps["input_pixels"], entry["patch"]).sum(axis=(2, 3))
        for key, value in (("strongest_for", sums.max()), ("strongest_against", sums.min())):
            extreme = entry[key]
            assert (extreme["bits"], extreme["stderr"]) == (pytest.approx(value, abs=1e-6), None)
            # The place in the photograph is where that patch of the input lies.
            placement = place(maps["pixels"].shape, DeployedModel(tiny_model, device="cpu").preprocess)
            first = np.unravel_index(np.flatnonzero(sums == value)[0], sums.shape)
            for axis, name in enumerate(("row", "col")):
                start = (first[axis] + placement.corner[axis]) / placement.scale[axis]
                assert start <= extreme[name] + 1 <= start + entry["patch"][axis] / placement.scale[axis] + 1


def test_bits_add_up_in_the_manifest_the_maps_and_the_table(tiny_model, gallery, tmp_path):
    arguments = ("--layer", "block.add", "--layer", "deep.add", "--target", "dog", "--completeness", 0.001)
    arguments += ("--background", "mean")  # of one path: a mean of two may miss a larger share of less
    shown = call("explain", tiny_model, gallery, "-o", tmp_path, *arguments).stdout.splitlines()
    for row, entry in zip(shown[-2:], manifest(tmp_path), strict=True):
        maps, budget = arrays(tmp_path / entry["map"]), entry["budget"]
        for cut, budget_of_cut in zip(("cut0", "cut1"), (each["budget"] for each in entry["cuts"]), strict=True):
            cells = maps[cut]
            assert budget_of_cut["with_bits"] == pytest.approx(entry["log_odds_bits"], abs=1e-3)
            difference = budget_of_cut["with_bits"] - budget_of_cut["without_bits"]
            assert cells.sum() == pytest.approx(difference, abs=0.0011 * max(abs(difference), 1))
            assert budget_of_cut["for_bits"] == pytest.approx(cells[cells > 0].sum(), abs=1e-4)
            assert budget_of_cut["against_bits"] == pytest.approx(cells[cells < 0].sum(), abs=1e-4)
            assert budget_of_cut["gap_share"] <= 0.001
        for key in ("with_bits", "without_bits", "for_bits", "against_bits"):
            assert budget[key] == pytest.approx(np.mean([each["budget"][key] for each in entry["cuts"]]))
        assert budget["steps"] == sum(each["budget"]["steps"] for each in entry["cuts"])
        sums = budget["for_bits"] + budget["against_bits"]
        assert maps["input_pixels"].sum() == pytest.approx(sums, abs=1e-3)
        most = budget["for_bits"] - budget["against_bits"]
        assert maps["pixels"].sum() == pytest.approx(sums, abs=0.03 * most)
        assert f"{budget['for_bits']:+.1f} / {budget['against_bits']:+.1f} / {budget['gap_share']:.1%}" in row


def test_a_stricter_completeness_takes_more_steps(tiny_model, gallery, tmp_path):
    budgets, said = [], []
    for share in (0.5, 0.005, 1e-9):
        arguments = ("--layer", "stem", "--target", "dog", "--completeness", share, "--background", "mean")
        said.append(call("explain", tiny_model, gallery / "wide.png", "-o", tmp_path / str(share), *arguments).stderr)
        budgets.append(manifest(tmp_path / str(share))[0]["budget"])
    loose, strict, most = budgets
    assert loose["steps"] < strict["steps"] < most["steps"] <= 129
    assert strict["gap_share"] <= 0.005 < loose["gap_share"] <= 0.5
    # Steps end somewhere; what is missed then is said.
    assert 1e-9 < most["gap_share"] < 0.005
    assert "'stem' misses" in said[-1]
    assert f"after {most['steps']} steps" in said[-1]
    assert not any("Warning" in each for each in said[:-1])


def test_the_score_of_a_logit_leaves_the_other_classes_alone(tiny_model, gallery, tmp_path):
    for score in ("log-odds", "logit"):
        arguments = ("--layer", "deep.add", "--target", "dog", "--score", score, "--background", "mean")
        call("explain", tiny_model, gallery / "wide.png", "-o", tmp_path / score, *arguments)
    odds, logit = (manifest(tmp_path / score)[0] for score in ("log-odds", "logit"))
    assert odds["budget"]["with_bits"] == pytest.approx(odds["log_odds_bits"], abs=1e-3)
    assert logit["log_odds_bits"] == odds["log_odds_bits"]
    # The tail behind deep.add is linear, so the first steps are exact for the logit.
    assert (logit["budget"]["steps"], logit["budget"]["gap_bits"]) == (FIRST_STEPS, pytest.approx(0, abs=1e-4))
    maps = (only_map(tmp_path / score)["input_pixels"] for score in ("log-odds", "logit"))
    assert np.abs(np.subtract(*maps)).max() > 1e-3


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


@both_methods
def test_versus_is_the_evidence_for_one_class_rather_than_the_other(method, tiny_model, gallery, tmp_path):
    start = ("explain", tiny_model, gallery / "wide.png", "-o", tmp_path, "--method", method)
    for target, versus in (("ant", "bee"), ("bee", "ant")):
        call(*start, "--target", target, "--versus", versus)
    call(*start, "--target", "ant")
    ant, bee, alone = manifest(tmp_path)
    assert (ant["label"], ant["versus"], ant["versus_label"]) == ("ant", 1, "bee")
    assert (bee["label"], bee["versus"], bee["versus_label"]) == ("bee", 0, "ant")
    assert (alone["label"], alone["versus"]) == ("ant", None)
    one, other, single = (arrays(tmp_path / entry["map"])["input_pixels"] for entry in (ant, bee, alone))
    assert np.abs(one).max() > 0.01
    assert one == pytest.approx(-other, abs=1e-5)
    assert np.abs(one - single).max() > 0.01


@both_methods
def test_zero_and_the_mean_are_different_replacements_and_the_output_says_which(method, tiny_model, gallery, tmp_path):
    start = ("explain", tiny_model, gallery / "wide.png", "--method", method)
    shown = {name: call(*start, "-o", tmp_path / name, "--background", name).stdout for name in ("zero", "mean")}
    assert "replaced by zero" in shown["zero"]
    assert "replaced by the picture's own channel means" in shown["mean"]
    zero, mean = (only_map(tmp_path / name)["input_pixels"] for name in ("zero", "mean"))
    assert np.abs(zero - mean).max() > 0.01
    (entry,) = manifest(tmp_path / "zero")
    assert (entry["background"], entry["hashes"]["background"]) == ("zero", None)


@both_methods
def test_layers_are_used_as_named_and_averaged_in_bits(method, tiny_model, gallery, tmp_path):
    runs = {"a": ["stem"], "b": ["down"], "both": ["stem", "down"]}
    for name, layers in runs.items():
        named = [argument for layer in layers for argument in ("--layer", layer)]
        arguments = (*named, "--target", "bee", "--method", method)
        arguments += ("--combine", "mean") if method == "integrated" else ()
        call("explain", tiny_model, gallery / "wide.png", "-o", tmp_path / name, *arguments)
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
    result = call("explain", tiny_model, tmp_path / "in", tmp_path / "no.jpg", "-o", tmp_path / "out", code=3)
    lines = result.stderr.splitlines()
    assert len(lines) == 2
    # What cannot even be read is known first.
    assert lines[0].startswith(f"Error: {tmp_path / 'no.jpg'}: cannot read")
    assert lines[1].startswith(f"Error: {tmp_path / 'in' / 'b.png'}: cannot decode")
    assert [Path(entry["image"]).name for entry in manifest(tmp_path / "out")] == ["a.png", "c.png"]
    assert len(files(tmp_path / "out")) == 6
    assert result.stdout.splitlines()[-1] == "4 pictures: 2 explained, 2 failed: failures.jsonl says why"


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


@both_methods
def test_the_table_has_class_probability_log_odds_and_the_strongest_places(method, tiny_model, gallery, tmp_path):
    arguments = ("--target", "dog", "--device", "cpu", "--method", method)
    shown = call("explain", tiny_model, gallery, "-o", tmp_path, *arguments).stdout
    lines = shown.splitlines()
    assert lines[0] == "device: cpu (asked for)"
    assert lines[1] == f"method: {method} (asked for)"
    assert "block.add" in lines[2]
    assert "deep.add" in lines[2]
    assert ("windows of 3 x 3" in lines[2]) == (method == "window")
    own = "the picture's own channel means"
    removed = own if method == "window" else f"the blurred picture's, and {own}"
    assert lines[3].startswith(f"removed features are replaced by {removed}")
    assert ("for / against / missed" in lines[4]) == (method == "integrated")
    rows = lines[5:]
    for row, entry in zip(rows, manifest(tmp_path), strict=True):
        assert row.split()[:2] == [Path(entry["image"]).name, "dog"]
        assert f"{entry['probability']:.4f}" in row
        assert f"{entry['log_odds_bits']:+.2f}" in row
        for key in ("strongest_for", "strongest_against"):
            extreme = entry[key]
            assert f"{extreme['bits']:+.2f} at ({extreme['row']}, {extreme['col']})" in row


def test_the_table_says_that_the_method_was_chosen_and_why(tiny_model, gallery, tmp_path):
    shown = call("explain", tiny_model, gallery / "wide.png", "-o", tmp_path).stdout.splitlines()
    assert shown[1] == "method: integrated (every operator behind the cuts has a backward rule)"
    (entry,) = manifest(tmp_path)
    assert entry["settings"]["method"] == "integrated"
    assert entry["method_reason"] == "every operator behind the cuts has a backward rule"


def test_a_model_with_an_operator_without_a_rule_is_explained_with_windows(gallery, tmp_path):
    model = tiny.accumulating(tmp_path / "accumulating.onnx")
    start = ("explain", model, gallery / "wide.png", "--target", "dog")
    shown = call(*start, "-o", tmp_path / "auto").stdout.splitlines()
    reason = "'integrated' cannot be computed: no backward rule for Scan (at 'summed')"
    assert shown[1] == f"method: window ({reason})"
    (entry,) = manifest(tmp_path / "auto")
    assert (entry["settings"]["method"], entry["method_reason"], entry["unit"]) == ("window", reason, "bits")
    assert [cut["name"] for cut in entry["cuts"]] == ["block.add", "deep.add"]
    call(*start, "-o", tmp_path / "window", "--method", "window")
    assert only_bytes(tmp_path / "auto") == only_bytes(tmp_path / "window")


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
    arguments = ("--method", "window", "--background", path)
    table = call("explain", tiny_model, gallery / "wide.png", "-o", out, *arguments).stdout
    assert f"replaced by the conditional Gaussian of {path}" in table
    assert "±" in table
    (entry,) = manifest(out)
    assert entry["hashes"]["background"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert [cut["samples"] for cut in entry["cuts"]] == [8, 8]
    stderr = only_map(out)["stderr"]
    assert np.isfinite(stderr).all()
    assert (stderr >= 0).all()
    assert stderr.max() > 0


def test_a_path_starts_from_the_means_of_a_fitted_background(tiny_model, gallery, fitted, tmp_path):
    maps = {}
    for statistic in ("position", "channel", "conditional"):
        arguments = ("--background", fitted, "--statistic", statistic, "--target", "dog", "--completeness", 0.001)
        start = ("explain", tiny_model, gallery / "wide.png", "-o", tmp_path / statistic)
        assert f"replaced by the {statistic} means of {fitted}" in call(*start, *arguments).stdout
        (entry,) = manifest(tmp_path / statistic)
        assert entry["hashes"]["background"] == hashlib.sha256(fitted.read_bytes()).hexdigest()
        assert entry["settings"]["statistic"] == statistic
        assert entry["budget"]["gap_share"] <= 0.001
        maps[statistic] = only_map(tmp_path / statistic)["input_pixels"]
    for one, other in (("position", "channel"), ("position", "conditional"), ("channel", "conditional")):
        assert np.abs(maps[one] - maps[other]).max() > 1e-3


def test_paths_from_pictures_of_a_folder_have_a_standard_error_and_a_seed(tiny_model, gallery, many, tmp_path):
    for name, seed, samples in (("a", 0, 4), ("b", 0, 4), ("c", 1, 4), ("all", 0, 12)):
        arguments = ("--background", many, "--samples", samples, "--seed", seed, "--target", "dog")
        shown = call("explain", tiny_model, gallery / "wide.png", "-o", tmp_path / name, *arguments).stdout
        assert f"replaced by those of {samples} pictures of {many}" in shown
        assert "±" in shown
    a, b, c = (only_bytes(tmp_path / name) for name in "abc")
    assert a == b
    assert a != c
    few, every = (only_map(tmp_path / name) for name in ("a", "all"))
    assert np.isfinite(few["stderr"]).all()
    assert few["stderr"].min() >= 0
    assert 0 < np.median(every["stderr"]) < np.median(few["stderr"])
    budget = manifest(tmp_path / "all")[0]["budget"]
    assert budget["steps"] >= FIRST_STEPS * 12
    difference = budget["with_bits"] - budget["without_bits"]
    assert every["cut0"].sum() == pytest.approx(difference, abs=0.05 * max(1, abs(difference)))


def test_the_blurred_picture_can_stand_in(tiny_model, gallery, tmp_path):
    arguments = ("--background", "blur", "--target", "dog")
    shown = call("explain", tiny_model, gallery / "wide.png", "-o", tmp_path, *arguments).stdout
    assert "replaced by the blurred picture's" in shown
    (entry,) = manifest(tmp_path)
    assert entry["budget"]["gap_share"] <= 0.05
    assert np.abs(only_map(tmp_path)["input_pixels"]).max() > 1e-3


@pytest.mark.parametrize("method", [name for name, row in METHODS.items() if isinstance(row, PathMethod | SlopeMethod)])
def test_every_method_of_gradients_gives_a_map_in_its_unit(method, tiny_model, gallery, tmp_path):
    arguments = ("--method", method, "--target", "dog")
    for name in ("a", "b"):
        call("explain", tiny_model, gallery / "wide.png", "-o", tmp_path / name, *arguments)
    assert only_bytes(tmp_path / "a") == only_bytes(tmp_path / "b")
    (entry,) = manifest(tmp_path / "a")
    row = METHODS[method]
    taken = {"input": ["input"], "either": ["input"], "last": ["deep.add"], "cuts": ["block.add", "deep.add"]}
    assert [cut["name"] for cut in entry["cuts"]] == taken[row.at]
    assert (entry["settings"]["method"], entry["unit"]) == (method, row.unit)
    assert (entry["budget"] is not None) == isinstance(row, PathMethod)
    assert all(0 <= cut["certificate"] < 1e-5 for cut in entry["cuts"])
    maps = only_map(tmp_path / "a")
    assert np.isnan(maps["stderr"]).all()
    assert np.isfinite(maps["input_pixels"]).all()
    assert np.abs(maps["input_pixels"]).max() > 1e-5
    if row.adds_up:
        sums = [maps[name].sum() for name in maps if name.startswith("cut")]
        assert maps["input_pixels"].sum() == pytest.approx(np.mean(sums), abs=1e-3)


def test_a_background_is_fitted_quietly_and_to_the_same_bytes(tiny_model, many, tmp_path):
    for name in ("a.npz", "b.npz"):
        assert call("background", tiny_model, many, "-o", tmp_path / name, "--layer", "down", "-q").output == ""
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_sixteen_times_the_samples_give_a_quarter_of_the_error(tiny_model, gallery, fitted, tmp_path):
    # A rare class: its probability is a mean over samples with a heavy tail, so it takes some for the rule to hold.
    for samples in (64, 1024):
        arguments = ("--method", "window", "--background", fitted, "--samples", samples, "--target", "bee")
        start = ("explain", tiny_model, gallery / "wide.png", "-o", tmp_path / str(samples), "--layer", "deep.add")
        call(*start, *arguments)
    few, many = (only_map(tmp_path / str(samples))["stderr"] for samples in (64, 1024))
    assert 0.15 < np.median(many) / np.median(few) < 0.4


def test_one_sample_is_the_conditional_mean_and_has_no_error(tiny_model, gallery, fitted, tmp_path):
    arguments = ("--method", "window", "--background", fitted, "--samples", 1)
    call("explain", tiny_model, gallery / "wide.png", "-o", tmp_path, *arguments)
    assert np.isnan(only_map(tmp_path)["stderr"]).all()
    assert manifest(tmp_path)[0]["strongest_for"]["stderr"] is None


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(tiny_model, gallery, fitted, tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        arguments = ("--method", "window", "--background", fitted, "--seed", seed, "--target", "bee")
        call("explain", tiny_model, gallery / "wide.png", "-o", tmp_path / name, *arguments)
    a, b, c = (only_bytes(tmp_path / name) for name in "abc")
    assert a == b
    assert a != c


def test_the_batch_size_changes_no_map(tiny_model, gallery, fitted, tmp_path):
    for size in (1, 7, 32, 500):
        arguments = ("--method", "window", "--background", fitted, "--batch-size", size, "--target", "bee")
        start = ("explain", tiny_model, gallery / "wide.png", "-o", tmp_path / str(size), "--layer", "deep.add")
        call(*start, *arguments)
    expected = only_map(tmp_path / "32")
    assert np.abs(expected["input_pixels"]).max() > 0.01
    for size in (1, 7, 500):
        for key, values in only_map(tmp_path / str(size)).items():
            assert np.abs(values - expected[key]).max() < 1e-4


@both_methods
def test_a_picture_is_explained_the_same_alone_and_among_others(method, tiny_model, gallery, fitted, tmp_path):
    arguments = ("--method", method, "--background", fitted, "--target", "bee", "--layer", "deep.add")
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
        arguments = ("--method", "window", "--target", "bee", *extra)
        call("explain", tiny_model, gallery / "wide.png", "-o", tmp_path / name, *arguments)
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
    assert entry["settings"]["preprocess"] == RECORDED
    assert entry["preprocess_source"] == str(tmp_path / "settings.toml")


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
    context = click.Context(main)
    for name in main.list_commands(context):
        command = main.get_command(context, name)
        assert command is not None
        yield name, command


def test_there_are_thirteen_commands():
    expected = [
        "background",
        "bench",
        "evaluate",
        "explain",
        "export",
        "gradient",
        "inspect",
        "links",
        "merge",
        "preprocess",
        "sanity",
        "summary",
        "verify",
    ]
    assert [name for name, _ in commands()] == ["onnx-evidence", *expected]
    assert main.get_command(click.Context(main), "explode") is None
    assert "No such command 'explode'" in call("explode", code=2).stderr


@pytest.mark.parametrize(("name", "command"), list(commands()))
def test_every_command_and_option_has_help(name, command):
    assert command.help
    context = click.Context(command, info_name=name)
    options = [option for option in command.get_params(context) if isinstance(option, click.Option)]
    assert options
    silent = [option.opts[0] for option in options if not (option.help or "").strip()]
    assert silent == []


def test_help_is_printed_for_every_command():
    for name in main.list_commands(click.Context(main)):
        shown = call(name, "--help").stdout
        assert shown.startswith("Usage: ")
        assert "Options:" in shown


def test_commands_are_listed_as_their_own_help_begins():
    """The list is printed without importing any of them."""
    listed = call("--help").stdout.partition("Commands:\n")[2].splitlines()
    assert len(listed) == 13
    for line, (name, command) in zip(listed, list(commands())[1:], strict=True):
        says = line.strip().partition(" ")
        assert says[0] == name
        assert command.get_short_help_str(1000).startswith(says[2].strip())
        assert len(line) <= 80


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], []])
def test_help_imports_nothing_heavy(arguments):
    code = (
        "import sys\nfrom onnx_evidence.cli import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit:\n    print(*sys.modules, file=sys.stderr)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Explain what" in shown.stdout + shown.stderr or "version" in shown.stdout
    ours = {name for name in shown.stderr.split() if name.startswith("onnx_evidence")}
    assert ours == {"onnx_evidence", "onnx_evidence.errors", "onnx_evidence.cli", "onnx_evidence.cli.group"}
    heavy = {"numpy", "onnx", "onnxruntime", "cv2", "PIL", "matplotlib", "pydantic", "tqdm", "google"}
    assert heavy.isdisjoint(shown.stderr.split())


def test_what_the_package_offers_is_there_when_it_is_asked_for():
    code = (
        "import sys, onnx_evidence\nassert 'numpy' not in sys.modules\n"
        "assert set(onnx_evidence.__all__) <= set(dir(onnx_evidence))\n"
        "from onnx_evidence import *\nprint(Explainer.__name__, DeployedModel.__name__, __version__)\n"
        "assert onnx_evidence.batch.manifest and onnx_evidence.deployed\n"
        "try:\n    onnx_evidence.Explorer\nexcept AttributeError as error:\n    print(error)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert shown[0].startswith("Explainer DeployedModel ")
    assert shown[1] == "module 'onnx_evidence' has no attribute 'Explorer'"


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


# What a first day showed


def test_an_option_given_twice_is_refused_where_it_takes_one_value(tiny_model, gallery, tmp_path):
    arguments = ("explain", tiny_model, gallery / "wide.png", "-o", tmp_path / "out", "--target", "dog")
    refused = call(*arguments, "--versus", "ant", "--versus", "bee", code=2)
    assert "--versus is given 2 times: it takes one value" in refused.stderr
    assert not (tmp_path / "out").exists()
    # Those that take several, and switches, may be repeated.
    call(*arguments, "--target", "bee", "-q", "-q")
    assert len(manifest(tmp_path / "out")) == 2


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("explain MODEL '' -o OUT", "IMAGES"),
        ("explain MODEL PICTURE '' -o OUT", "IMAGES"),
        ("explain '' PICTURE -o OUT", "MODEL"),
        ("explain MODEL PICTURE -o ''", "--out"),
        ("explain MODEL PICTURE -o OUT --background ''", "--background"),
        ("explain MODEL PICTURE -o OUT --labels ''", "--labels"),
        ("explain MODEL PICTURE -o OUT --preprocess=", "--preprocess"),
        ("explain MODEL PICTURE -o OUT --target ant --target ''", "--target"),
        ("explain MODEL PICTURE -o OUT --layer ''", "--layer"),
        ("background MODEL '' -o OUT", "FOLDER"),
        ("evaluate MODEL '' -o OUT", "FOLDER"),
        ("inspect MODEL --image ''", "--image"),
        ("links MODEL PICTURE -o ''", "--out"),
        ("merge '' -o OUT", "SOURCES"),
        ("summary ''", "FOLDER"),
        ("verify . --images ''", "--images"),
    ],
)
def test_what_is_empty_is_no_path_and_no_name(tiny_model, gallery, tmp_path, monkeypatch, typed, name):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    shutil.copy(gallery / "wide.png", ".")
    words = {"MODEL": tiny_model, "PICTURE": "wide.png", "OUT": tmp_path / "out"}
    refused = call(*(words.get(each, each) for each in shlex.split(typed)), code=2).stderr
    assert "'' is empty: give a value" in refused
    assert name in refused
    assert files(tmp_path) == ["here/wide.png"]


@pytest.mark.parametrize(
    ("call_it", "words"),
    [
        (lambda path: Explainer(""), "model ''"),
        (lambda path: Explainer(path, labels=""), "labels ''"),
        (lambda path: Explainer(path, preprocess=""), "preprocess ''"),
        (lambda path: Explainer(path, background=""), "background ''"),
        (lambda path: Explainer(path, layer=""), "layers"),
        (lambda path: Explainer(path).explain(""), "image ''"),
    ],
)
def test_in_python_what_is_empty_is_no_path_either(tiny_model, monkeypatch, gallery, call_it, words):
    monkeypatch.chdir(gallery)
    with pytest.raises(EvidenceError, match=f"^{words}") as caught:
        call_it(tiny_model)
    assert "empty" in str(caught.value) or "not a name" in str(caught.value)


def test_a_rank_that_is_none_is_not_blamed_on_labels(tiny_model, gallery, tmp_path):
    refused = call("explain", tiny_model, gallery / "wide.png", "-o", tmp_path, "--target", "top5", code=1)
    assert "class 'top5': of ranks only 'top1' is known" in refused.stderr
    (tmp_path / "labels.txt").write_text("top5\nb\nc\nd\ne\n")
    call("explain", tiny_model, gallery / "wide.png", "-o", tmp_path, "--target", "top5", "-q", "--labels",
         tmp_path / "labels.txt")  # fmt: skip


def test_inspect_prints_no_escapes(tiny_model):
    shown = call("inspect", tiny_model).stdout
    assert "\\n" not in shown
    assert "\n             from: " in shown


def test_fast_says_who_settled_the_method(tiny_model, gallery, tmp_path):
    arguments = ("explain", tiny_model, gallery / "wide.png", "--device", "cpu")
    assert (
        "method: integrated (settled by --quality fast)" in call(*arguments, "-o", tmp_path, "--quality", "fast").stdout
    )


def test_bits_that_are_left_unaccounted_are_said_once_for_all_maps():
    fast = Settings(quality="fast").settled()
    said = unaccounted([0.37, 0.01, 0.47], fast)
    assert (
        "2 of 3 maps leave more than 5% of their bits unaccounted, up to 47%: 99% may be missed by --quality fast"
        in said
    )
    assert unaccounted([0.01, 0.05], fast) is None
    # What is beyond is not said to be just there.
    assert "the map leaves more than 5% of its bits unaccounted, up to 5.1%:" in unaccounted([0.0501], fast)
    # By default each path that misses its account is named by itself.
    assert unaccounted([0.47], Settings()) is None
    assert "50% may be missed;" in unaccounted([0.47], Settings(completeness=0.5))


@pytest.mark.parametrize(
    ("whole", "cuts", "words"),
    [
        (0.056, (0.047, 0.02), "the map misses 5.6% of the bits, as its cuts partly cancel each other; none of them"),
        (0.056, (0.061, 0.02), "the path at 'cut 0' misses 6.1% of the bits after 9 steps; 5.0% was asked for"),
        (0.049, (0.047, 0.02), None),
    ],
)
def test_what_a_map_misses_of_its_own_is_said_too(whole, cuts, words):
    """Bits of cuts of other signs: of their mean there is less than of each."""
    budgets = [{"name": f"cut {number}", "budget": {"gap_share": each, "steps": 9}} for number, each in enumerate(cuts)]
    settings = {"completeness": 0.05, "tolerance": None}
    said = unmet({"image": "x.png", "settings": settings, "budget": {"gap_share": whole}, "cuts": budgets})
    assert len(said) == (words is not None)
    assert words is None or words in said[0]


def test_methods_of_gradients_alone_replace_nothing(tiny_model, gallery, tmp_path):
    arguments = ("explain", tiny_model, gallery / "wide.png", "-q")
    for method in ("grad-cam", "gradient", "taylor-evidence"):
        call(*arguments, "-o", tmp_path / method, "--method", method)
    words = {name: manifest(tmp_path / name)[0]["background"] for name in ("grad-cam", "gradient", "taylor-evidence")}
    assert words["grad-cam"] == words["gradient"] == "nothing, as none are removed"
    assert words["taylor-evidence"] == "the picture's own channel means"
