"""Whatever is done to a folder of results is found, and nothing is found where nothing was done."""

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
from jsonschema import Draft202012Validator
from onnx import numpy_helper

from onnx_evidence.batch import fingerprint
from onnx_evidence.batch.fingerprint import SCHEMA
from onnx_evidence.batch.journal import sealed
from onnx_evidence.batch.receipt import schema, unlike
from onnx_evidence.batch.sound import draw
from tests.batch import call, copy_of, manifest, without_drawing, write_pictures

METHODS = {
    "integrated": (),
    "window": ("--method", "window", "--target", "bee", "--versus", "dog"),
    "rise": ("--method", "rise-evidence", "--samples", "30", "--layer", "deep.add"),
    "grad-cam": ("--method", "grad-cam"),
    "fast": ("--quality", "fast"),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_model):
    """A folder of results, made with an odd batch size; its model and pictures beside it."""
    place = tmp_path_factory.mktemp("made")
    shutil.copy(tiny_model, place / "model.onnx")
    write_pictures(place / "in", 4)
    with pytest.MonkeyPatch.context() as patch:
        quick(patch)
        call("explain", place / "model.onnx", place / "in", "-o", place / "out", "-q", "--batch-size", 5)
    return place


def quick(patch: pytest.MonkeyPatch) -> None:
    """Figures that are drawn at once; the scale still counts."""
    without_drawing(patch)


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    quick(monkeypatch)


@pytest.fixture
def out(made, tmp_path):
    return copy_of(made / "out", tmp_path / "out")


def verify(out: Path, *arguments: object, code: int = 0) -> dict[str, Any]:
    return json.loads(call("verify", out, "--json", *arguments, code=code).stdout)


def places(report: dict[str, Any]) -> list[str]:
    return [each["place"] for each in report["problems"]]


def reseal(out: Path, entries: list[dict[str, Any]]) -> None:
    """Write a manifest whose chain is whole again: what somebody would do who knows how it is made."""
    data, head = b"", None
    for entry in entries:
        bare = {key: value for key, value in entry.items() if key not in ("previous", "seal")}
        line, head = sealed(bare, head)
        data += line
    (out / "manifest.jsonl").write_bytes(data)


def test_a_figure_that_is_denied_while_its_hash_stays_is_a_problem(out):
    entries = manifest(out)
    (out / entries[0]["figure"]).unlink()
    entries[0]["figure"] = None
    reseal(out, entries)
    report = verify(out, "--sample", 0, code=1)
    assert places(report) == ["manifest.jsonl line 1"]
    assert "a figure and its hash" in report["problems"][0]["what"]


def test_an_untouched_folder_passes_bit_for_bit(out):
    report = verify(out)
    assert (report["verdict"], report["problems"], report["absent"]) == ("identical", [], [])
    assert report["files"] == 12
    assert report["head"] == manifest(out)[-1]["seal"]
    assert [each["verdict"] for each in report["pictures"]] == ["identical"] * 4
    assert report["largest_deviation_bits"] == 0
    shown = call("verify", out).stdout.splitlines()
    assert shown[-1] == "verdict: identical"
    assert "computed again: 4 identical; the largest deviation is 0 bits" in shown


def test_another_batch_size_and_thread_count_are_within_the_tolerance(out, monkeypatch):
    monkeypatch.setenv("ONNX_EVIDENCE_THREADS", "1")
    for size in (1, 32):
        report = verify(out, "--batch-size", size)
        assert report["verdict"] in ("identical", "within tolerance")
        assert report["largest_deviation_bits"] < 1e-4


@pytest.mark.parametrize("name", METHODS)
def test_every_kind_of_map_can_be_computed_again(name, made, tmp_path):
    call("explain", made / "model.onnx", made / "in" / "00.png", "-o", tmp_path, "-q", *METHODS[name])
    assert verify(tmp_path)["verdict"] == "identical"


def test_one_flipped_bit_in_any_file_is_found(out):
    entry = manifest(out)[1]
    for name in ("map", "figure"):
        path = out / entry[name]
        data = bytearray(path.read_bytes())
        for place in (0, len(data) // 2, len(data) - 1):
            changed = bytearray(data)
            changed[place] ^= 1
            path.write_bytes(changed)
            report = verify(out, "--sample", 0, code=1)
            assert report["verdict"] == "damaged"
            assert places(report) == [entry[name]]
        path.write_bytes(data)
    assert verify(out, "--sample", 0)["verdict"] == "unchanged"


def test_one_flipped_bit_anywhere_in_the_manifest_is_found(out):
    path = out / "manifest.jsonl"
    data = path.read_bytes()
    for place in range(5, len(data), len(data) // 30):
        changed = bytearray(data)
        changed[place] ^= 4
        path.write_bytes(changed)
        assert verify(out, "--sample", 0, code=1)["verdict"] == "damaged", place


def test_a_line_that_was_edited_is_said_to_be_just_that_and_which_of_its_numbers_is_not_so(out):
    path = out / "manifest.jsonl"
    told = manifest(out)[0]["probability"]
    path.write_text(path.read_text().replace(f'"probability": {told}', '"probability": 0.95003', 1))
    for sample in ((), ("--sample", 0)):
        report = verify(out, *sample, code=1)
        assert report["verdict"] == "damaged"
        assert [each["place"] for each in report["problems"]] == ["manifest.jsonl line 1"]
        assert "the line was changed" in report["problems"][0]["what"]
    first, *others = verify(out, code=1)["pictures"]
    assert {"key": "probability", "there": 0.95003, "now": told} in first["differences"]
    assert [each["verdict"] for each in others] == ["identical"] * 3


def test_a_picture_that_was_swapped_is_found(made, out, tmp_path):
    entries = manifest(out)
    moved = Path(shutil.copytree(made / "in", tmp_path / "in"))
    reseal(out, [{**entry, "image": str(moved / Path(entry["image"]).name)} for entry in entries])
    assert verify(out)["verdict"] == "identical"
    one, other = (Path(entry["image"]).name for entry in entries[:2])
    (moved / one).rename(moved / "x")
    (moved / other).rename(moved / one)
    (moved / "x").rename(moved / other)
    report = verify(out, code=1)
    assert [Path(place).name for place in places(report)] == [one, other]
    assert all("another picture" in each["what"] for each in report["problems"])
    # By their content they are found wherever they are.
    assert verify(out, "--images", moved)["verdict"] == "identical"
    shutil.rmtree(moved)
    report = verify(out, code=3)
    assert (report["verdict"], len(report["absent"])) == ("incomplete", 4)
    assert verify(out, "--images", made / "in")["verdict"] == "identical"


def test_a_model_with_one_weight_changed_is_found(made, out, tmp_path):
    model = onnx.load(made / "model.onnx")
    weight = next(each for each in model.graph.initializer if each.name == "w5")
    values = numpy_helper.to_array(weight).copy()
    values[3, 2, 1, 1] += 1e-3
    weight.CopyFrom(numpy_helper.from_array(values, "w5"))
    onnx.save(model, tmp_path / "changed.onnx")
    report = verify(out, "--model", tmp_path / "changed.onnx", code=1)
    assert (report["verdict"], places(report)) == ("refused", ["model"])  # the folder is not damaged
    assert "is another model" in report["problems"][0]["what"]
    report = verify(out, "--model", tmp_path / "none.onnx", "--sample", 0, code=1)
    assert (report["verdict"], places(report)) == ("refused", ["model"])
    assert "pass --model FILE" in report["problems"][0]["what"]
    # Even where receipts are forged to fit that model, its maps are others.
    digest = hashlib.sha256((tmp_path / "changed.onnx").read_bytes()).hexdigest()
    entries = [{**entry, "hashes": {**entry["hashes"], "model": digest}} for entry in manifest(out)]
    for entry in entries:
        entry["configuration"] = fingerprint.digest(fingerprint.of_entry(entry))
        picture = entry["hashes"]["image"]
        entry["work"] = fingerprint.of_work(entry["configuration"], picture, entry["target"], entry["versus"])
    reseal(out, entries)
    report = verify(out, "--model", tmp_path / "changed.onnx", "--tolerance", 1e-6, code=1)
    assert report["verdict"] == "different"
    assert 1e-5 < report["largest_deviation_bits"] < 0.1


@pytest.mark.parametrize("place", [0, 1, 3])
def test_a_line_that_was_removed_is_found_even_with_a_new_chain_or_at_the_end(out, place):
    entries = manifest(out)
    lines = (out / "manifest.jsonl").read_bytes().splitlines(keepends=True)
    (out / "manifest.jsonl").write_bytes(b"".join(line for number, line in enumerate(lines) if number != place))
    gone = {entries[place]["map"], entries[place]["figure"]}
    report = verify(out, "--sample", 0, code=1)
    assert gone <= set(places(report))
    assert any("manifest.jsonl line" in each for each in places(report)) == (place < 3)
    reseal(out, [entry for number, entry in enumerate(entries) if number != place])
    assert set(places(verify(out, "--sample", 0, code=1))) == gone


def test_a_line_that_is_there_twice_is_found_even_with_a_new_chain(out):
    lines = (out / "manifest.jsonl").read_bytes().splitlines(keepends=True)
    entries = manifest(out)
    (out / "manifest.jsonl").write_bytes(b"".join([lines[0], lines[0], *lines[1:]]))
    report = verify(out, "--sample", 0, code=1)
    assert places(report) == ["manifest.jsonl line 2"] * 2
    reseal(out, [entries[0], *entries])
    (problem,) = verify(out, "--sample", 0, code=1)["problems"]
    assert problem == {"place": "manifest.jsonl line 2", "what": f"{entries[0]['map']} is listed twice"}


def test_forged_settings_do_not_fit_the_fingerprints(out):
    entries = manifest(out)
    entries[2]["settings"]["seed"] = 9
    reseal(out, entries)
    (problem,) = verify(out, "--sample", 0, code=1)["problems"]
    assert problem["what"] == "its fingerprints are not those of its settings"


def test_a_forged_map_with_a_forged_receipt_is_different(out):
    entries = manifest(out)
    path = out / entries[1]["map"]
    with np.load(path) as loaded:
        arrays = dict(loaded)
    arrays["cut0"][2, 3] += 0.5
    np.savez_compressed(path, **arrays)
    entries[1]["hashes"]["map"] = hashlib.sha256(path.read_bytes()).hexdigest()
    reseal(out, entries)
    report = verify(out, code=1)
    assert report["verdict"] == "different"
    assert [each["verdict"] for each in report["pictures"]] == ["identical", "different", "identical", "identical"]
    assert report["largest_deviation_bits"] == pytest.approx(0.5, abs=1e-6)
    shown = call("verify", out, code=1).stdout
    assert f"{entries[1]['map']}: different by up to 0.5 bits" in shown
    # More than that is allowed: the same folder passes.
    assert verify(out, "--tolerance", 0.6)["verdict"] == "within tolerance"


def test_arrays_of_another_shape_are_different_not_an_error(out):
    entries = manifest(out)
    path = out / entries[0]["map"]
    with np.load(path) as loaded:
        arrays = {name: values[:1] for name, values in loaded.items()}
    np.savez_compressed(path, **arrays)
    entries[0]["hashes"]["map"] = hashlib.sha256(path.read_bytes()).hexdigest()
    reseal(out, entries)
    assert verify(out, code=1)["pictures"][0]["verdict"] == "different"


def test_failures_are_sealed_too_and_torn_lines_are_said(made, out):
    call("explain", made / "model.onnx", made / "in", made / "none.png", "-o", out, "-q", code=3)
    assert verify(out, "--sample", 0)["verdict"] == "unchanged"
    path = out / "failures.jsonl"
    path.write_bytes(path.read_bytes().replace(b"No such", b"no such"))
    assert places(verify(out, "--sample", 0, code=1)) == ["failures.jsonl line 1"]
    path.unlink()
    path = out / "manifest.jsonl"
    path.write_bytes(path.read_bytes()[:-3])
    report = verify(out, "--sample", 0, code=1)
    assert report["problems"][0] == {"place": "manifest.jsonl line 4", "what": "the line is not finished"}


def test_a_sample_cannot_be_chosen_by_who_writes_lines():
    works = [str(number) for number in range(100)]
    one, again, other = (draw(iter(works), 10, head) for head in ("a", "a", "b"))
    assert one == again != other
    assert one == sorted(set(one))
    assert len(one) == 10
    # As all lines sorted by a digest with the last seal begin.
    assert set(one) == set(sorted(range(100), key=lambda place: fingerprint.digest(["a", works[place]]))[:10])
    assert draw(works, None, "a") is None
    assert draw(works, 200, "a") == list(range(100))
    assert draw(works, 0, "a") == []


def test_what_is_no_folder_of_results_is_refused(tmp_path):
    assert "holds no results" in call("verify", tmp_path, code=1).stderr


# Receipts


def test_the_published_schema_is_the_codes_and_every_line_fits_it(out):
    published = json.loads((Path(__file__).parent.parent / "docs" / "manifest.schema.json").read_text())
    assert published == schema()
    assert published["properties"]["schema"]["const"] == SCHEMA
    assert published["$schema"] == Draft202012Validator.META_SCHEMA["$id"]
    Draft202012Validator.check_schema(published)
    for entry in manifest(out):
        assert unlike(entry) == ""
        assert list(Draft202012Validator(published).iter_errors(entry)) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"probability": 1.5}, "probability"),
        ({"map": "../x.npz"}, "map"),
        ({"map": "/etc/x.npz"}, "map"),
        ({"map": ".hidden/x.npz"}, "map"),
        ({"seconds": "1"}, "seconds"),
        ({"schema": 2}, "schema"),
        ({"extra": 1}, "extra"),
        ({"hashes": {}}, "hashes.model"),
        ({"cuts": []}, "cuts"),
        ({"top": [{"class": 1, "label": "x"}]}, "top"),
    ],
)
def test_control_what_is_no_receipt_is_refused_by_code_and_schema(out, change, words):
    entry = {**manifest(out)[0], **change}
    assert unlike(entry).startswith(words)
    assert not Draft202012Validator(schema()).is_valid(entry)


def test_a_line_has_everything_that_went_in(made, out, tiny_model):
    entry = manifest(out)[0]
    picture = made / "in" / "00.png"
    digest = {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in (
            ("model", made / "model.onnx"),
            ("image", picture),
            ("map", out / entry["map"]),
            ("figure", out / entry["figure"]),
        )
    }
    assert digest.items() <= entry["hashes"].items()
    # The preprocessed tensor, by hand: the short side to 36, the middle 32 x 32, (pixel / 255 - 0.5) / 0.25.
    pixels = cv2.cvtColor(cv2.imread(str(picture)), cv2.COLOR_BGR2RGB)
    resized = cv2.resize(pixels, (45, 36), interpolation=cv2.INTER_LINEAR)[2:34, 6:38].astype(np.float32)
    tensor = (resized * np.float32(1 / 255) - np.float32(0.5)) / np.float32(0.25)
    wanted = hashlib.sha256(np.ascontiguousarray(tensor.transpose(2, 0, 1)).tobytes()).hexdigest()
    assert entry["hashes"]["input"] == wanted
    assert entry["top"][0]["class"] == entry["target"]
    chances = [each["probability"] for each in entry["top"]]
    assert chances == sorted(chances, reverse=True)
    assert sum(chances) == pytest.approx(1)
    assert entry["top"][0]["probability"] == entry["probability"]
    assert entry["versions"]["provider"] == "CPUExecutionProvider"
    assert entry["versions"]["opencv"] == cv2.__version__
    assert entry["machine"]["cpu"]
    assert entry["machine"]["gpu"] is None


def test_a_folder_that_moved_with_its_pictures_is_checked_from_anywhere(made, tmp_path, monkeypatch):
    """Names are relative to where the run was started; the receipts also say where things lie from the folder."""
    case = Path(shutil.copytree(made, tmp_path / "case"))
    shutil.rmtree(case / "out")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(case)
        call(
            "explain", "model.onnx", "in", "-o", "deep/out", "-q", "--no-figures", "--background", "in", "--samples", 2
        )
    entry = manifest(case / "deep" / "out")[0]
    assert entry["image"] == "in/00.png"
    assert entry["places"] == {"image": "../../in/00.png", "model": "../../model.onnx", "background": "../../in"}
    case = case.rename(tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    report = verify(case / "deep" / "out")
    assert (report["verdict"], report["absent"]) == ("identical", [])
    # Merged into a folder elsewhere, they are still found; not where the pictures are gone.
    call("merge", case / "deep" / "out", "-o", tmp_path / "all", "-q")
    assert manifest(tmp_path / "all")[0]["places"]["image"] == "../elsewhere/in/00.png"
    assert verify(tmp_path / "all", "--sample", 0)["absent"] == []
    shutil.rmtree(case / "in")
    assert len(verify(tmp_path / "all", "--sample", 0, code=3)["absent"]) == 4


def test_pictures_whose_names_are_no_utf8_are_found_where_they_lie(made, tmp_path):
    for number, name in enumerate((b"\xff\xfe.png", b"\xfd.png")):
        shutil.copy(made / "in" / f"0{number}.png", os.fsencode(tmp_path) + b"/" + name)
    call("explain", made / "model.onnx", tmp_path, "-o", tmp_path / "out", "-q", "--no-figures")
    assert verify(tmp_path / "out")["absent"] == []
    shutil.copy(made / "in" / "03.png", os.fsencode(tmp_path) + b"/\xfc.png")  # printed like another: not guessed
    assert len(verify(tmp_path / "out", "--sample", 0, code=3)["absent"]) == 1


def test_a_run_that_goes_on_with_maps_of_an_older_reader_says_so(made, out):
    again = ("explain", made / "model.onnx", made / "in", "-o", out, "-q")
    assert "Warning" not in call(*again).output
    entries = manifest(out)
    for entry in entries[1:]:
        del entry["versions"]["pillow"]
    reseal(out, entries)
    assert "Warning: 3 maps there are of a version that read some pictures otherwise" in call(*again).output


@pytest.mark.parametrize("tolerance", ["nan", "inf"])
def test_a_tolerance_that_everything_is_within_is_none(out, tolerance):
    assert "is not a finite number" in call("verify", out, "--tolerance", tolerance, code=2).stderr


def test_a_mistyped_place_of_pictures_is_said(out):
    assert "nowhere: there is no such folder" in call("summary", out, "--masks", "nowhere", code=1).output
    assert "nowhere: there is no such file or folder" in call("verify", out, "--images", "nowhere", code=1).output


def test_lines_of_before_places_were_recorded_are_sound(out):
    entries = manifest(out)
    for entry in entries:
        del entry["places"]
    reseal(out, entries)
    assert verify(out)["verdict"] == "identical"


@pytest.mark.parametrize("command", ["verify", "summary", "merge"])
def test_a_folder_that_is_none_is_said_to_be_none(command, tmp_path):
    (tmp_path / "file").write_text("a file")
    (tmp_path / "empty").mkdir()
    arguments = ("-o", tmp_path / "all") if command == "merge" else ()
    for name, words in (("no", "there is no such folder"), ("file", "is a file"), ("empty", "holds no results")):
        assert words in call(command, tmp_path / name, *arguments, code=1).stderr
