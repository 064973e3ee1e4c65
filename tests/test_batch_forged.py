"""Whatever a line of results, its map or its figure is changed to, `verify` says it, however it is sealed again."""

import copy
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest

from onnx_evidence.batch import recompute
from onnx_evidence.batch.compare import NOT_COMPARED, Allowed, apart, differences, sum_tolerance
from onnx_evidence.batch.lock import FolderLock
from onnx_evidence.batch.reopen import opening
from onnx_evidence.batch.work import may_be_folder
from tests.batch import call, copy_of, manifest, without_drawing, write_pictures

# What a run with other options would write as well: there is no randomness in this map, and enough steps; and 'deep'
# takes what 'auto' takes, both of two stages.
SAME_MAP = {"settings.seed", "settings.completeness", "settings.most_steps", "settings.layers.0"}


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_model):
    """Results of one picture with a figure that is one, their model and picture beside them."""
    place = tmp_path_factory.mktemp("made")
    shutil.copy(tiny_model, place / "model.onnx")
    write_pictures(place / "in", 1)
    call("explain", place / "model.onnx", place / "in", "-o", place / "out", "-q", "--completeness", 0.5)
    return place


@pytest.fixture
def out(made, tmp_path):
    return copy_of(made / "out", tmp_path / "out")


@pytest.fixture
def forging():
    from parts import forgeries

    return forgeries


@pytest.fixture
def quick(monkeypatch):
    """Figures that are not drawn, and explainers that are opened once."""
    opened: dict[str, Any] = {}
    real = recompute.reopen

    def reopen(entry, origin):
        key = opening(entry)
        if key not in opened:
            opened[key] = real(entry, origin)
            monkeypatch.setattr(opened[key].deployed, "close", lambda: None)
        return opened[key]

    monkeypatch.setattr(recompute, "reopen", reopen)
    without_drawing(monkeypatch)


def verify(out: Path, *arguments: object, code: int = 0) -> dict[str, Any]:
    return json.loads(call("verify", out, "--json", *arguments, code=code).stdout)


def keys(report: dict[str, Any]) -> list[str]:
    return [each["key"] for picture in report["pictures"] for each in picture["differences"]]


def rehash(out: Path, line: dict[str, Any], kind: str = "map") -> dict[str, Any]:
    """The line with the hash of what its file holds now."""
    line = copy.deepcopy(line)
    line["hashes"][kind] = hashlib.sha256((out / line[kind]).read_bytes()).hexdigest()
    return line


def test_every_key_of_a_line_that_is_forged_and_sealed_again_is_found(made, tmp_path, forging, quick):
    call("explain", made / "model.onnx", made / "in", "-o", tmp_path / "out", "-q", "--completeness", 0.5)
    (line,) = manifest(tmp_path / "out")
    passed = set()
    for key, forged in forging.forgeries(line):
        if key == "schema" or (key.startswith("settings.preprocess.") and key[20:] not in ("color", "mean.1")):
            continue  # the schema takes one number; every other part of the preprocessing is like these two
        forging.write_lines(tmp_path / "out", [forged])
        ended = call_any("verify", tmp_path / "out", "--json")
        report = json.loads(ended.stdout)
        if ended.exit_code == 0:
            assert report["verdict"] == "identical", key
            passed.add(key)
        else:
            assert ended.exit_code == (3 if key == "hashes.labels" else 1), key
            assert report["problems"] or keys(report) or report["pictures"][0]["note"] or report["absent"], key
    assert {key for key in passed if not key.startswith(tuple(NOT_COMPARED))} == SAME_MAP
    # Control: what is not compared does pass, each and every one.
    assert {"seconds", "machine.cpu", "versions.numpy", "device", "model", "places.model"} <= passed
    forging.write_lines(tmp_path / "out", [line])
    assert verify(tmp_path / "out")["verdict"] == "identical"


def call_any(*arguments: object):
    from click.testing import CliRunner

    from onnx_evidence.cli import main

    return CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)


# Maps


def shifted(out: Path, line: dict[str, Any], bits: float) -> dict[str, Any]:
    """A map with some bits less in every cell and every patch of pixels, and what the line says of them."""
    path = out / line["map"]
    with np.load(path) as loaded:
        arrays = dict(loaded)
    area = np.prod(line["patch"])
    scale = arrays["input_pixels"].size / arrays["pixels"].size
    for name in arrays:
        if name != "stderr":
            each = bits if name.startswith("cut") else bits / area * (scale if name == "pixels" else 1)
            arrays[name] = (arrays[name] - np.float32(each)).astype(np.float32)
    np.savez_compressed(path, **arrays)
    return rehash(out, line)


@pytest.mark.parametrize("bits", [0.0098, 0.005, -0.0098])
def test_a_little_off_every_cell_is_found_by_the_sums(out, forging, bits):
    line = {**shifted(out, manifest(out)[0], bits), "figure": None}
    (out / manifest(out)[0]["figure"]).unlink()
    line["hashes"]["figure"] = None
    forging.write_lines(out, [line])
    report = verify(out, code=1)
    assert report["verdict"] == "different"
    assert report["largest_deviation_bits"] < 0.01
    assert {"the sum of cut0", "the sum of input_pixels", "the sum of pixels"} <= set(keys(report))


def test_errors_of_no_common_sign_pass_the_sums_and_a_common_one_does_not():
    rng = np.random.default_rng(0)
    for cells in ((2, 2), (7, 7), (14, 14), (56, 56)):
        map_ = rng.standard_normal(cells).astype(np.float32)
        there = {"cut0": map_, "input_pixels": map_, "stderr": np.full(cells, np.nan, np.float32)}
        # As large as rounding ever was, over all methods: 5e-5 of a bit, where the tolerance is 0.01.
        noise = {name: (each + 5e-5 * rng.choice([-1, 1], cells)).astype(np.float32) for name, each in there.items()}
        assert apart(there, noise, {}, 0.01).sums == []
        shifted = {name: (each + np.float32(0.0098)) for name, each in there.items()}
        found = apart(there, shifted, {}, 0.01)
        assert 0.0097 < found.bits < 0.0099
        assert "the sum of cut0" in {each.key for each in found.sums}
    assert sum_tolerance(0.01, 1) == 0.01
    assert sum_tolerance(0.01, 196) == sum_tolerance(0.01, 10_000) == pytest.approx(0.01 / 14)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_map_with_a_number_that_is_none_is_different_and_no_error(out, forging, quick, value):
    line = manifest(out)[0]
    with np.load(out / line["map"]) as loaded:
        arrays = dict(loaded)
    arrays["cut0"][0, 0] = value
    np.savez_compressed(out / line["map"], **arrays)
    forging.write_lines(out, [rehash(out, line)])
    report = verify(out, code=1)
    assert (report["verdict"], keys(report)[0]) == ("different", "the sum of cut0")
    call("verify", out, code=1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"note": np.array("a text")}, "'note' holds no float32"),
        ({"cut0": np.zeros((2, 2))}, "'cut0' holds no float32"),
        ({"pixels": None}, "'pixels' is missing"),
        ({"pixels": np.zeros((3, 3), np.float32)}, "the shape of pixels is [(3, 3)] there and [("),
        ({"extra": np.zeros((3, 3), np.float32)}, "the shape of extra is [(3, 3)] there and [None] now"),
    ],
)
def test_a_map_of_a_form_that_no_run_writes_is_different_not_incomplete(out, forging, quick, change, words):
    line = manifest(out)[0]
    with np.load(out / line["map"]) as loaded:
        arrays = {**loaded, **change}
    np.savez_compressed(out / line["map"], **{name: each for name, each in arrays.items() if each is not None})
    forging.write_lines(out, [rehash(out, line)])
    result = call("verify", out, code=1)
    assert "verdict: different" in result.stdout
    assert words in result.stdout


def test_a_file_with_the_same_map_and_other_bytes_is_not_as_written(out, forging):
    line = manifest(out)[0]
    with np.load(out / line["map"]) as loaded:
        arrays = dict(loaded)
    np.savez(out / line["map"], **arrays)  # not compressed
    forging.write_lines(out, [rehash(out, line)])
    assert keys(verify(out, code=1)) == ["hashes.map"]


# Lines


def line_elsewhere(line: dict[str, Any]) -> dict[str, Any]:
    return {**copy.deepcopy(line), "versions": {**line["versions"], "numpy": "1.0"}}


def test_elsewhere_numbers_may_be_off_by_what_rounding_does_and_no_more(out):
    line = manifest(out)[0]
    allowed = Allowed(0.01)
    cases = [
        ("log_odds_bits", 0.009, 0.011),
        ("probability", 1e-6, 0.01),
        ("padding_bits", 0.009, 0.011),
        ("budget.for_bits", 0.009, 0.011),
        ("budget.pixels_bits", 0.13, 0.15),
        ("budget.gap_bits", 1e-12, 1e-4),
        ("strongest_for.bits", 0.009, 0.011),
        ("cuts.0.certificate", 9e-6, 1e-3),
        ("cuts.0.rounding_bits", 0.009, 0.011),
        ("cuts.0.resolution_pixels", 0.1, 0.2),
    ]
    for key, little, much in cases:
        for change, found in ((little, []), (much, [key])):
            forged = copy.deepcopy(line)
            *way, last = key.split(".")
            inner = forged
            for name in way:
                inner = inner[int(name) if name.isdecimal() else name]
            inner[last] += change if inner[last] < 0.5 else -change
            named = [each.key for each in differences(forged, line, allowed) if not each.key.startswith("budget.gap")]
            named = [each.key for each in differences(forged, line, allowed)] if "gap" in key else named
            assert (key in named) == bool(found), (key, change, named)
            assert [each.key for each in differences(forged, line, Allowed(0.01, nothing=True))] == [key]


def test_classes_as_probable_as_each_other_may_change_places_elsewhere(out):
    line = manifest(out)[0]
    one, two = line["top"][1:3]
    two["probability"] = one["probability"] - 1e-9
    forged = copy.deepcopy(line)
    forged["top"][1:3] = [{**two, "probability": one["probability"]}, {**one, "probability": two["probability"]}]
    assert differences(forged, line, Allowed(0.01)) == []
    assert differences(forged, line, Allowed(0.01, nothing=True)) != []
    # Control: not where they are told apart, and not out of order.
    forged["top"][1:3] = [two, one]
    assert differences(forged, line, Allowed(0.01)) != []


def test_lines_of_earlier_versions_may_lack_what_these_did_not_write(out, forging):
    line = manifest(out)[0]
    for key in ("changes", "proof", "shallow", "places"):
        del line[key]
    for key in ("rounding_bits", "field", "field_reason", "silent"):
        del line["cuts"][0][key]
    forging.write_lines(out, [line])
    assert "changes" in keys(verify(out, code=1))
    del line["versions"]["matplotlib"]
    forging.write_lines(out, [line])
    assert verify(out, "--model", out.parent / "none", code=1)["verdict"] == "refused"
    assert verify(out)["verdict"] == "identical"


def test_a_line_that_does_not_say_how_maps_were_combined_is_of_their_mean(made, tmp_path, forging):
    for combine, code in (("mean", 0), ("agreement", 1)):
        out = tmp_path / combine
        call("explain", made / "model.onnx", made / "in", "-o", out, "-q", "--no-figures", "--combine", combine)
        (line,) = manifest(out)
        del line["settings"]["combine"]
        forging.write_lines(out, [line])
        assert (verify(out, code=code)["verdict"] == "identical") == (combine == "mean")
    out = tmp_path / "window"
    call("explain", made / "model.onnx", made / "in", "-o", out, "-q", "--no-figures", "--method", "window")
    (line,) = manifest(out)
    del line["settings"]["combine"]
    forging.write_lines(out, [line])
    assert verify(out)["verdict"] == "identical"


def test_a_former_default_of_what_the_method_has_no_use_for_is_no_difference(made, tmp_path, forging):
    call(
        "explain",
        made / "model.onnx",
        made / "in",
        "-o",
        tmp_path / "window",
        "-q",
        "--no-figures",
        "--method",
        "window",
    )
    (line,) = manifest(tmp_path / "window")
    assert line["settings"]["steps"] == 5
    for steps, code in ((9, 0), (7, 1)):  # the control: one that never was
        line["settings"]["steps"] = steps
        forging.write_lines(tmp_path / "window", [line])
        verify(tmp_path / "window", code=code)
    line["settings"]["steps"] = 9
    forging.write_lines(tmp_path / "window", [line])
    more = write_pictures(tmp_path / "more", 2, seed=4)
    call("explain", made / "model.onnx", more, "-o", tmp_path / "window", "-q", "--no-figures", "--method", "window")
    assert [each["settings"]["steps"] for each in manifest(tmp_path / "window")] == [9, 5, 5]
    assert verify(tmp_path / "window")["verdict"] == "identical"


def test_a_path_of_so_many_steps_is_taken_again_with_as_many(made, tmp_path):
    call("explain", made / "model.onnx", made / "in", "-o", tmp_path / "out", "-q", "--no-figures", "--steps", 9)
    assert verify(tmp_path / "out")["verdict"] == "identical"
    again = call("explain", made / "model.onnx", made / "in", "-o", tmp_path / "out", "-q", "--no-figures", code=1)
    assert "steps is 9 there and 5 now" in again.stderr


def test_a_method_that_was_asked_for_and_one_that_was_chosen_may_be_in_one_folder(made, out):
    write_pictures(made / "more", 2, seed=4)
    again = ("-o", out, "-q", "--completeness", 0.5, "--no-figures", "--method", "integrated")
    call("explain", made / "model.onnx", made / "more", *again)
    assert len({line["method_reason"] for line in manifest(out)}) == 2
    assert verify(out)["verdict"] == "identical"


def test_names_that_were_given_in_a_file_are_compared_with_it(made, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("\n".join(f"name {number}" for number in range(5)))
    model = onnx.load(made / "model.onnx")
    kept = [each for each in model.metadata_props if "labels" not in each.key]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    onnx.save(model, tmp_path / "model.onnx")
    out = tmp_path / "out"
    call("explain", tmp_path / "model.onnx", made / "in", "-o", out, "-q", "--no-figures", "--labels", names)
    assert verify(out)["verdict"] == verify(out, "--labels", names)["verdict"] == "identical"
    names = names.rename(tmp_path / "elsewhere.txt")
    assert verify(out, "--labels", names)["verdict"] == "identical"
    report = verify(out, code=3)
    assert (report["verdict"], report["pictures"][0]["verdict"]) == ("incomplete", "partly compared")
    assert "pass --labels FILE" in call("verify", out, code=3).stdout
    (tmp_path / "names.txt").write_text("two\nnames")
    assert verify(out, code=3)["verdict"] == "incomplete"
    names.write_text("\n".join(f"another {number}" for number in range(5)))
    assert "other class names" in verify(out, "--labels", names, code=1)["problems"][0]["what"]


# Figures


def test_a_figure_that_was_painted_over_is_found(out, forging):
    line = manifest(out)[0]
    pixels = cv2.imread(str(out / line["figure"]), cv2.IMREAD_UNCHANGED)
    cv2.imwrite(str(out / line["figure"]), pixels)  # the same pixels, other bytes
    forging.write_lines(out, [rehash(out, line, "figure")])
    assert "other bytes" in verify(out, code=1)["pictures"][0]["differences"][0]["there"]
    pixels[100:300, 500:800, :3] = pixels[100:300, 500:800, 2::-1]  # blue is red
    cv2.imwrite(str(out / line["figure"]), pixels)
    forging.write_lines(out, [rehash(out, line, "figure")])
    report = verify(out, code=1)
    assert keys(report) == ["the figure"]
    assert "shows something else than its map" in report["pictures"][0]["differences"][0]["there"]
    (out / line["figure"]).write_bytes(b"no picture")
    forging.write_lines(out, [rehash(out, line, "figure")])
    assert "it is no such picture" in verify(out, code=1)["pictures"][0]["differences"][0]["there"]
    # Drawn by who knows what: not passed either.
    line["versions"]["matplotlib"] = "1.0"
    forging.write_lines(out, [rehash(out, line, "figure")])
    assert verify(out, code=3)["pictures"][0]["verdict"] == "partly compared"


def test_figures_of_several_classes_share_a_scale_and_later_ones_have_their_own(made, tmp_path):
    call("explain", made / "model.onnx", made / "in", "-o", tmp_path, "-q", "--target", "ant", "--target", "bee")
    call("explain", made / "model.onnx", made / "in", "-o", tmp_path, "-q", "--target", "dog")
    shutil.copytree(made / "in", tmp_path.parent / "moved" / "in")
    for path in (tmp_path.parent / "moved" / "in").iterdir():
        path.rename(path.with_name("other name.png"))  # the headline has the name that the line says
    assert verify(tmp_path, "--images", tmp_path.parent / "moved")["verdict"] == "identical"


# Files


def plant(out: Path, name: str) -> str:
    """Put something into a folder of results; the name that is to be said."""
    inner = manifest(out)[0]["map"].split("/")[0]
    if name == "link":
        (out / "link").symlink_to(out / "none")
    elif name == "inner link":
        (out / inner / "link").symlink_to(out)
        return f"{inner}/link"
    elif name == "pipe":
        os.mkfifo(out / inner / "pipe")
        return f"{inner}/pipe"
    elif name == "lock":
        (out / ".lock").write_text("process 12\nand more")
        return ".lock"
    elif name == "empty":
        (out / "ghost").mkdir()
        return "ghost"
    elif name == "subfolder":
        shutil.copytree(out, out.parent / "copy")
        shutil.move(out.parent / "copy", out / "integrated-0123456789ab")
        return "integrated-0123456789ab/manifest.jsonl"
    else:
        (out / name.replace("INNER", inner)).parent.mkdir(parents=True, exist_ok=True)
        (out / name.replace("INNER", inner)).write_text("x")
    return name.replace("INNER", inner)


@pytest.mark.parametrize(
    "name",
    [
        *("notes.txt", ".hidden", "INNER/x.txt", "INNER/.hidden.npz", "INNER/deep/x.png", ".deep/a/b", "ghost/1-a.npz"),
        *("INNER/.0123.12.partial", "manifest.jsonl.bak", "INNER/manifest.jsonl", "table.csv"),
        *("link", "inner link", "pipe", "lock", "empty", "subfolder"),
    ],
)
def test_whatever_is_put_into_results_is_named(out, name):
    said = plant(out, name)
    report = verify(out, "--sample", 0, code=1)
    assert report["verdict"] == "damaged"
    assert said in [each["place"] for each in report["problems"]]


def test_control_what_runs_and_commands_leave_is_none_of_it(made, out, tmp_path, monkeypatch):
    call("explain", made / "model.onnx", made / "in", "-o", out, "-q", "--quality", "fast", "--subfolder")
    call("summary", out, "-o", out / "table.csv", "-q")
    call("explain", made / "model.onnx", made / "in", made / "none.png", "-o", out, "-q", "--completeness", 0.5, code=3)
    FolderLock(out).__enter__()._stream.close()  # as where its holder is killed
    assert (out / ".lock").exists()
    report = verify(out)
    assert (report["verdict"], report["problems"], report["failures"]) == ("identical", [], 1)
    assert [each["place"] for each in report["unchecked"]] == [
        next(path.name for path in out.iterdir() if path.name.startswith("integrated-")),
        "table.csv",
    ]
    # Results beside what they are made from.
    case = Path(shutil.copytree(made / "in", tmp_path / "case"))
    shutil.copy(made / "model.onnx", case)
    monkeypatch.chdir(case)
    call("explain", "model.onnx", "00.png", "-o", ".", "-q", "--no-figures")
    assert verify(Path())["problems"] == []


def test_no_map_is_no_sound_run(made, out, tmp_path):
    (out / "manifest.jsonl").write_bytes(b"")
    report = verify(out, code=1)
    assert report["verdict"] == "damaged"
    assert {"place": "manifest.jsonl", "what": "holds no map: no run leaves it empty"} in report["problems"]
    (out / "manifest.jsonl").unlink()
    report = verify(out, code=1)
    assert {"place": "manifest.jsonl", "what": "is missing, and there are maps"} in report["problems"]
    # Where every picture failed there is nothing to verify, which is not said to be sound.
    (tmp_path / "wide").mkdir()
    cv2.imwrite(str(tmp_path / "wide" / "a.png"), np.zeros((20, 20, 3), np.uint8))
    options = ("-o", tmp_path / "failed", "-q", "--max-pixels", 10)
    call("explain", made / "model.onnx", tmp_path / "wide", *options, code=3)
    report = verify(tmp_path / "failed", code=3)
    assert (report["verdict"], report["failures"], report["problems"]) == ("incomplete", 1, [])
    assert "1 picture could not be explained" in call("verify", tmp_path / "failed", code=3).stdout


def test_a_map_that_is_listed_again_in_another_folder_of_its_picture_is_found(out, forging):
    line = manifest(out)[0]
    told = hashlib.sha256(f"{line['image']}\0{line['hashes']['image']}".encode()).hexdigest()[:16]
    shutil.copytree(out / "00", out / f"00-{told}")
    twin = {**line, **{kind: line[kind].replace("00/", f"00-{told}/") for kind in ("map", "figure")}}
    forging.write_lines(out, [line, twin])
    (problem,) = verify(out, "--sample", 0, code=1)["problems"]
    assert problem["place"] == "manifest.jsonl line 2"
    assert "explained for this class in a line before" in problem["what"]
    # Control: that is how a run calls it where another picture of the plan has the same stem.
    shutil.rmtree(out / "00")
    forging.write_lines(out, [twin])
    assert verify(out, "--sample", 0)["verdict"] == "unchanged"


# What is expected


def test_the_model_and_the_last_seal_can_be_expected(made, out, forging, quick, tmp_path):
    model = hashlib.sha256((made / "model.onnx").read_bytes()).hexdigest()
    write_pictures(made / "three", 3, seed=8)
    several = tmp_path / "several"
    call("explain", made / "model.onnx", made / "three", "-o", several, "-q", "--no-figures")
    lines = manifest(several)
    seal = lines[-1]["seal"]
    report = verify(several, "--expect-model", model.upper(), "--expect-seal", seal)
    assert (report["verdict"], report["model"], report["head"]) == ("identical", model, seal)
    table = call("verify", several).stdout
    assert model in table
    assert seal in table
    report = verify(several, "--expect-model", "0" * 64, code=1)
    assert (report["verdict"], report["problems"][0]["place"], report["pictures"]) == ("unexpected", "model", [])
    assert "not of the one expected" in call("verify", several, "--expect-model", "0" * 64, code=1).stdout
    for wrong in ("0" * 63, "0" * 65, "x" * 64):
        for option in ("--expect-model", "--expect-seal"):
            assert "64 hexadecimal digits" in call("verify", several, option, wrong, code=2).stderr
    # Lines in another order, and the last one cut off with its files, leave no other trace.
    forging.write_lines(several, [lines[1], lines[0], lines[2]])
    assert verify(several)["verdict"] == "identical"
    assert verify(several, "--expect-seal", seal, code=1)["problems"][0]["place"] == "seal"
    forging.write_lines(several, lines[:2])
    shutil.rmtree(several / lines[2]["map"].split("/")[0])
    assert verify(several)["verdict"] == "identical"
    assert verify(several, "--expect-seal", seal, code=1)["verdict"] == "unexpected"


def test_folders_are_called_as_runs_call_them():
    told = hashlib.sha256(b"in/a.png\0" + b"0" * 64).hexdigest()[:16]
    assert may_be_folder("a", "in/a.png", "0" * 64)
    assert may_be_folder(f"a-{told}", "in/a.png", "0" * 64)
    assert may_be_folder("a-0123456789abcdef", "in/a.png", "0" * 64) is False
    assert may_be_folder("b", "in/a.png", "0" * 64) is False
    assert may_be_folder("a\N{REPLACEMENT CHARACTER}-0123456789abcdef", "a\N{REPLACEMENT CHARACTER}.png", "0" * 64)
