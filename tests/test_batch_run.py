"""A run loses nothing: it goes on where it was stopped, by whatever, and never mixes what does not belong together."""

import csv
import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

from onnx_evidence.batch import folder
from onnx_evidence.batch.lock import FolderLock
from onnx_evidence.deployed import DeployedModel
from onnx_evidence.errors import DataError, ModelError
from onnx_evidence.explainer import Explainer
from onnx_evidence.files import store
from tests import tiny
from tests.batch import call, interrupt_self, manifest, results, without_drawing, write_pictures


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    without_drawing(monkeypatch)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("pictures") / "in", 6, seed=5)


@pytest.fixture
def explained(monkeypatch):
    """Pictures that were really explained, by the name of their file."""
    names: list[str] = []
    original = Explainer.explain_all

    def explain_all(self, image, *arguments):
        names.append(Path(image.name).name)
        return original(self, image, *arguments)

    monkeypatch.setattr(Explainer, "explain_all", explain_all)
    return names


@pytest.fixture
def explain(tiny_model):
    def run(*arguments, code=0):
        return call("explain", tiny_model, *arguments, "--device", "cpu", code=code)

    return run


@pytest.fixture
def undisturbed(explain, pictures, tmp_path):
    explain(pictures, "-o", tmp_path / "undisturbed", "-q")
    return results(tmp_path / "undisturbed")


def test_the_same_command_again_does_nothing_and_says_so(explain, explained, pictures, tmp_path):
    explain(pictures, "-o", tmp_path, "-q")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert len(explained) == 6
    result = explain(pictures, "-o", tmp_path)
    assert result.stdout.splitlines()[-1] == "6 pictures: 0 explained, 6 finished before"
    assert len(explained) == 6
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}


def test_finished_work_is_known_by_content_not_by_name_or_date(explain, explained, pictures, tmp_path):
    moved = Path(shutil.copytree(pictures, tmp_path / "in"))
    explain(moved, "-o", tmp_path / "out", "-q")
    (moved / "00.png").rename(moved / "another name.png")
    os.utime(moved / "01.png")
    shutil.copy(moved / "02.png", moved / "copy.png")
    (moved / "03.png").write_bytes((pictures / "04.png").read_bytes())
    (moved / "05.png").write_bytes((pictures / "05.png").read_bytes() + b"\0")
    explained.clear()
    explain(moved, "-o", tmp_path / "out", "-q")
    # Two new names for known bytes beside the old ones, and one picture that is another now.
    assert sorted(explained) == ["03.png", "05.png", "copy.png"]
    assert len(manifest(tmp_path / "out")) == 9
    assert len({entry["map"] for entry in manifest(tmp_path / "out")}) == 9


def test_copies_of_a_picture_get_a_map_each_and_are_not_done_again(explain, explained, pictures, tmp_path):
    for name in ("a/x.png", "b/x.png", "c/y.png"):
        (tmp_path / "in" / name).parent.mkdir(parents=True)
        shutil.copy(pictures / "00.png", tmp_path / "in" / name)
    for _ in range(2):
        explain(tmp_path / "in", "-o", tmp_path / "out", "-q")
        assert len(explained) == 3
    assert [Path(entry["image"]).parent.name for entry in manifest(tmp_path / "out")] == ["a", "b", "c"]


@pytest.mark.parametrize("many", ["pictures", "classes"])
def test_a_run_that_is_interrupted_anywhere_ends_like_one_that_is_not(explain, pictures, tmp_path, monkeypatch, many):
    classes = [f"--target={number}" for number in range(3)] if many == "classes" else []
    explain(pictures, "-o", tmp_path / "undisturbed", "-q", *classes)
    original, left = Explainer.explain_all, [0]

    def explain_all(self, image, targets, versus, progress):
        left[0] -= 1
        if left[0] == 0:
            interrupt_self()
        return original(self, image, targets, versus, progress)

    monkeypatch.setattr(Explainer, "explain_all", explain_all)
    out, lines = tmp_path / "out", []
    for _ in range(2):
        left[0] = 3
        result = explain(pictures, "-o", out, "-q", *classes, code=130)
        assert result.stderr == "Interrupted: the same command goes on from there\n"
        assert not list(out.rglob("*.partial"))
        lines.append(len(manifest(out)))
    assert lines == [2 * max(len(classes), 1), 4 * max(len(classes), 1)]
    left[0] = 0
    explain(pictures, "-o", out, "-q", *classes)
    assert results(out) == results(tmp_path / "undisturbed")


def test_sigterm_is_taken_like_ctrl_c_and_signals_are_given_back(explain, pictures, tmp_path, monkeypatch):
    original = Explainer.explain_all

    def explain_all(self, *arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return original(self, *arguments)

    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    monkeypatch.setattr(Explainer, "explain_all", explain_all)
    explain(pictures, "-o", tmp_path, "-q", code=130)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert not (tmp_path / ".lock").exists()


def test_a_manifest_torn_in_the_middle_of_a_picture_is_completed(explain, pictures, tmp_path):
    arguments = (pictures, "-q", "--target", "ant", "--target", "bee")
    explain(*arguments, "-o", tmp_path / "undisturbed")
    explain(*arguments, "-o", tmp_path / "out")
    path = tmp_path / "out" / "manifest.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:5]) + lines[5][:100])
    explain(*arguments, "-o", tmp_path / "out")
    assert results(tmp_path / "out") == results(tmp_path / "undisturbed")


def test_what_a_killed_run_left_is_swept_up(explain, undisturbed, pictures, tmp_path):
    out = tmp_path / "out"
    (out / "00").mkdir(parents=True)
    (out / ".lock").touch()
    for place in (out / "00" / ".a.npz.1.partial", out / "stray" / ".b.partial"):
        place.parent.mkdir(exist_ok=True)
        place.touch()
    explain(pictures, "-o", out, "-q")
    assert results(out) == undisturbed
    assert not (out / "stray").exists()


@pytest.mark.parametrize("damage", ["map gone", "figure gone", "map changed"])
def test_listed_work_whose_files_are_not_there_as_written_is_done_again(
    explain, explained, undisturbed, pictures, tmp_path, damage
):
    out = tmp_path / "undisturbed"
    path = out / manifest(out)[2]["figure" if "figure" in damage else "map"]
    if "gone" in damage:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    explained.clear()
    result = explain(pictures, "-o", out, "-q")
    assert result.stderr == "Warning: 1 listed maps or their figures were gone or changed: done again\n"
    assert explained == ["02.png"]
    assert results(out) == undisturbed


def test_another_configuration_is_refused_with_the_difference_named(explain, pictures, tmp_path):
    explain(pictures / "00.png", "-o", tmp_path, "-q")
    before = results(tmp_path)
    result = explain(pictures / "00.png", "-o", tmp_path, "-q", "--seed", 5, code=1)
    assert result.stderr == (
        f"Error: {tmp_path}: holds maps of another configuration: seed is 0 there and 5 now; take another -o, or "
        "--subfolder\n"
    )
    assert results(tmp_path) == before
    explain(pictures / "00.png", "-o", tmp_path, "-q", "--seed", 5, "--subfolder")
    explain(pictures / "01.png", "-o", tmp_path, "-q", "--seed", 5, "--subfolder")
    (inner,) = [path for path in tmp_path.iterdir() if path.name.startswith("integrated-")]
    assert [entry["settings"]["seed"] for entry in manifest(inner)] == [5, 5]


def test_what_changes_no_map_may_differ_and_other_classes_may_be_asked(explain, pictures, tmp_path):
    explain(pictures / "00.png", "-o", tmp_path, "-q", "--target", "ant")
    explain(pictures / "00.png", "-o", tmp_path, "-q", "--target", "ant", "--target", "bee", "--batch-size", 3)
    explain(pictures / "01.png", "-o", tmp_path, "-q", "--target", "ant", "--versus", "dog")
    assert [entry["settings"]["batch_size"] for entry in manifest(tmp_path)] == [32, 3, 32]


def test_another_model_or_preprocessing_is_another_configuration(explain, pictures, tmp_path, tiny_model):
    explain(pictures / "00.png", "-o", tmp_path / "out", "-q")
    other = tiny.save(tiny.classifier(seed=1), tmp_path / "other.onnx")
    result = call("explain", other, pictures, "-o", tmp_path / "out", "-q", code=1)
    assert "model is " in result.stderr
    assert "seed" not in result.stderr
    lines = [f"{key} = {json.dumps(value)}" for key, value in {**tiny.PREPROCESS, "color": "BGR"}.items()]
    (tmp_path / "p.toml").write_text("\n".join(lines))
    result = explain(pictures, "-o", tmp_path / "out", "-q", "--preprocess", tmp_path / "p.toml", code=1)
    assert "preprocess.color is RGB there and BGR now" in result.stderr
    # The same model under another name is the same model.
    shutil.copy(tiny_model, tmp_path / "renamed.onnx")
    call("explain", tmp_path / "renamed.onnx", pictures, "-o", tmp_path / "out", "-q")


def test_no_resume_refuses_a_folder_with_results(explain, pictures, tmp_path):
    explain(pictures / "00.png", "-o", tmp_path, "-q", "--no-resume")
    assert "holds 1 maps already" in explain(pictures, "-o", tmp_path, "-q", "--no-resume", code=1).stderr


def test_two_runs_into_one_folder_are_refused_in_one_line(explain, pictures, tmp_path):
    with FolderLock(tmp_path):
        result = explain(pictures, "-o", tmp_path, "-q", code=1)
    assert result.stderr.startswith(f"Error: {tmp_path}: another run writes there now (process {os.getpid()})")
    assert result.stderr.count("\n") == 1
    explain(pictures / "00.png", "-o", tmp_path, "-q")


def test_failures_are_listed_with_their_reason_until_a_run_succeeds(explain, pictures, tmp_path):
    folder = Path(shutil.copytree(pictures, tmp_path / "in"))
    (folder / "02.png").write_text("no picture")
    arguments = (folder, folder / "later.png", "-o", tmp_path / "out", "-q")
    for _ in range(2):
        explain(*arguments, code=3)
        lines = (tmp_path / "out" / "failures.jsonl").read_text().splitlines()
        entries = [json.loads(line) for line in lines]
        assert sorted(Path(entry["image"]).name for entry in entries) == ["02.png", "later.png"]
        assert {entry["kind"] for entry in entries} == {"DataError"}
        assert any("cannot decode the picture" in entry["reason"] for entry in entries)
    assert len(manifest(tmp_path / "out")) == 5
    shutil.copy(pictures / "02.png", folder / "02.png")
    explain(*arguments, code=3)
    (entry,) = map(json.loads, (tmp_path / "out" / "failures.jsonl").read_text().splitlines())
    assert entry["image"].endswith("later.png")
    shutil.copy(pictures / "02.png", folder / "later.png")
    explain(*arguments)
    assert not (tmp_path / "out" / "failures.jsonl").exists()
    assert len(manifest(tmp_path / "out")) == 7


@pytest.mark.parametrize("error", [ModelError("1.png: a score is not finite"), ValueError("a bug"), MemoryError()])
def test_whatever_a_picture_does_the_others_are_explained(explain, pictures, tmp_path, monkeypatch, error):
    original = Explainer.explain_all

    def explain_all(self, image, *arguments):
        if image.name.endswith("01.png"):
            raise error
        return original(self, image, *arguments)

    monkeypatch.setattr(Explainer, "explain_all", explain_all)
    result = explain(pictures, "-o", tmp_path, "-q", code=3)
    assert len(result.stderr.splitlines()) == 1
    (entry,) = map(json.loads, (tmp_path / "failures.jsonl").read_text().splitlines())
    assert entry["kind"] == type(error).__name__
    assert len(manifest(tmp_path)) == 5


@pytest.mark.parametrize("change", ["vanishes", "changes"])
def test_a_picture_that_vanishes_or_changes_during_the_run_is_a_failure(
    explain, pictures, tmp_path, monkeypatch, change
):
    folder = Path(shutil.copytree(pictures, tmp_path / "in"))
    original = Explainer.explain_all

    def explain_all(self, image, *arguments):
        if image.name.endswith("00.png"):
            if change == "vanishes":
                (folder / "03.png").unlink()
            else:
                shutil.copy(folder / "04.png", folder / "03.png")
        return original(self, image, *arguments)

    monkeypatch.setattr(Explainer, "explain_all", explain_all)
    result = explain(folder, "-o", tmp_path / "out", "-q", code=3)
    assert {"vanishes": "No such file", "changes": "changed during the run"}[change] in result.stderr
    assert [Path(entry["image"]).name for entry in manifest(tmp_path / "out")] == [
        f"0{number}.png" for number in (0, 1, 2, 4, 5)
    ]


@pytest.mark.parametrize("after", [0, 1, 2, 5, 9])
def test_a_full_disk_is_one_line_and_the_same_command_completes_later(
    explain, undisturbed, pictures, tmp_path, monkeypatch, after
):
    original, left = os.fsync, [after]

    def fsync(descriptor):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")
        original(descriptor)

    monkeypatch.setattr(store.os, "fsync", fsync)
    result = explain(pictures, "-o", tmp_path / "out", "-q", code=1)
    assert result.stderr.startswith("Error: ")
    assert result.stderr.endswith(": cannot write: No space left on device\n")
    assert result.stderr.count("\n") == 1
    assert not list(tmp_path.rglob("*.partial"))
    monkeypatch.undo()
    without_drawing(monkeypatch)
    explain(pictures, "-o", tmp_path / "out", "-q")
    assert results(tmp_path / "out") == undisturbed


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_explained(
    explain, explained, pictures, tmp_path
):
    (tmp_path / "file").write_text("a file")
    result = explain(pictures, "-o", tmp_path / "file" / "out", "-q", code=1)
    assert "cannot write" in result.stderr
    assert explained == []


def test_a_file_in_the_place_of_the_folder_is_called_a_file(explain, pictures, tmp_path):
    (tmp_path / "out.png").write_text("a file")
    assert "out.png is a file, no folder" in explain(pictures, "-o", tmp_path / "out.png", code=1).stderr


def test_where_no_picture_can_be_read_nothing_is_written(explain, pictures, tmp_path):
    result = explain(tmp_path / "mistyped.png", tmp_path / "too.png", "-o", tmp_path / "out", code=1)
    assert "mistyped.png: cannot read the picture: No such file" in result.stderr
    assert "nor any other of 2 pictures" in result.stderr
    assert not (tmp_path / "out").exists()
    # One that can is explained, and the other is on record.
    explain(pictures / "00.png", tmp_path / "too.png", "-o", tmp_path / "out", code=3)
    assert (tmp_path / "out" / "failures.jsonl").exists()


def test_a_run_that_finds_all_done_says_just_that(explain, pictures, tmp_path):
    assert explain(pictures, "-o", tmp_path).stdout.startswith("device: ")
    assert explain(pictures, "-o", tmp_path).stdout == "6 pictures: 0 explained, 6 finished before\n"


def test_reasons_name_their_picture(explain, pictures, tmp_path, monkeypatch):
    def explain_all(self, image, *arguments):
        raise ModelError("a score is not finite")

    monkeypatch.setattr(Explainer, "explain_all", explain_all)
    result = explain(pictures / "03.png", "-o", tmp_path, "-q", code=3)
    assert result.stderr == f"Error: {pictures / '03.png'}: a score is not finite\n"


def test_the_union_of_shards_is_what_one_run_writes(explain, undisturbed, pictures, tmp_path):
    shards = [tmp_path / f"shard{number}" for number in (1, 2, 3)]
    for number, out in enumerate(shards, start=1):
        explain(pictures, "-o", out, "-q", "--shard", f"{number}/3")
    assert [len(manifest(out)) for out in shards] == [2, 2, 2]
    assert call("merge", *reversed(shards), "-o", tmp_path / "all").stdout == f"{tmp_path / 'all'}: 6 maps added\n"
    assert results(tmp_path / "all") == undisturbed
    assert [entry["map"] for entry in manifest(tmp_path / "all")] == sorted(
        entry["map"] for entry in manifest(tmp_path / "undisturbed")
    )
    # Once more, it changes nothing, and the same run goes on there.
    before = (tmp_path / "all" / "manifest.jsonl").read_bytes()
    assert "0 maps added, 6 were there" in call("merge", *shards, "-o", tmp_path / "all").stdout
    assert "6 finished before" in explain(pictures, "-o", tmp_path / "all").stdout
    assert (tmp_path / "all" / "manifest.jsonl").read_bytes() == before


def test_a_shard_that_has_no_picture_says_so(explain, pictures, tmp_path):
    assert explain(pictures, "-o", tmp_path / "out", "--shard", "9/9").stdout == "0 pictures: 0 explained\n"


def test_failures_of_shards_are_merged_too(explain, pictures, tmp_path):
    for number in (1, 2):
        explain(
            pictures, "no.png", "-o", tmp_path / str(number), "-q", "--shard", f"{number}/2", code=3 * (number == 1)
        )
    shown = call("merge", tmp_path / "1", tmp_path / "2", "-o", tmp_path / "all").stdout
    assert shown.endswith("6 maps added, 1 failures listed\n")


def test_what_does_not_belong_together_is_not_merged(explain, pictures, tmp_path):
    explain(pictures / "00.png", "-o", tmp_path / "a", "-q")
    explain(pictures / "01.png", "-o", tmp_path / "b", "-q", "--seed", 1)
    write_pictures(tmp_path / "in", 1, seed=9)
    explain(tmp_path / "in", "-o", tmp_path / "c", "-q")
    assert (
        "seed is 0 there and 1 now"
        in call("merge", tmp_path / "a", tmp_path / "b", "-o", tmp_path / "x", code=1).stderr
    )
    result = call("merge", tmp_path / "a", tmp_path / "c", "-o", tmp_path / "y", code=1)
    assert "is another one than elsewhere" in result.stderr
    assert "cannot be merged into itself" in call("merge", tmp_path / "a", "-o", tmp_path / "a", code=1).stderr
    assert "holds no results" in call("merge", tmp_path / "in", "-o", tmp_path / "z", code=1).stderr
    path = tmp_path / "a" / manifest(tmp_path / "a")[0]["map"]
    path.write_bytes(path.read_bytes() + b"x")
    assert "was changed since it was written" in call("merge", tmp_path / "a", "-o", tmp_path / "z", code=1).stderr


def test_lists_say_what_is_asked_of_each_picture(explain, pictures, tmp_path):
    with (tmp_path / "list.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(
            [["image", "target", "versus"], [pictures / "00.png", "dog", "ant"], [pictures / "01.png", "", ""]]
        )
    explain(tmp_path / "list.csv", "-o", tmp_path / "out", "-q", "--target", "bee")
    assert [(entry["label"], entry["versus_label"]) for entry in manifest(tmp_path / "out")] == [
        ("dog", "ant"),
        ("bee", None),
    ]


@pytest.mark.parametrize("how", [(), ("--workers", "2"), ("--shard", "1/1")])
def test_lines_of_a_list_that_ask_for_one_class_by_several_names_are_one_map(explain, pictures, tmp_path, how):
    first = tmp_path / "first"
    explain(pictures / "00.png", "-o", first, "-q")
    (top,) = manifest(first)
    place = f"{pictures}/../in/00.png"
    asked = ["top1", top["target"], "bee", "BEE", 1]
    rows = [[path, target] for path, target in zip((pictures / "00.png", place) * 3, asked, strict=False)]
    for number, lines in enumerate((rows, [*rows[::-1], [pictures / "00.png", ""]])):
        with (tmp_path / f"{number}.csv").open("w", newline="") as stream:
            csv.writer(stream).writerows([["image", "target"], *lines])
        # The second time it goes on.
        explain(tmp_path / f"{number}.csv", "-o", tmp_path / "out", "-q", "--no-figures", *how)
    assert [line["map"] for line in manifest(tmp_path / "out")] == [top["map"], "00/1-bee.npz"]
    assert json.loads(call("verify", tmp_path / "out", "--json").stdout)["verdict"] in ("identical", "within tolerance")


def test_options_that_a_list_overrides_are_said_unless_quiet(explain, pictures, tmp_path):
    (tmp_path / "list.csv").write_text(f"image,target\n{pictures / '00.png'},ant\n")
    typed = (tmp_path / "list.csv", "-o", tmp_path / "out", "--target", "top1")
    assert explain(*typed).stderr == (
        f"{tmp_path / 'list.csv'}: --target does not hold for 1 picture: the list names classes of its own there\n"
    )
    assert explain(*typed, "-q").stderr == explain(*typed[:3]).stderr == ""


def test_progress_counts_pictures_and_parts_of_them():
    from onnx_evidence.batch.loop import Progress

    progress = Progress(10)
    seen = []
    for number, copies in ((0, 5), (0, 5), (0, 8), (1, 1)):
        progress.tick(number, copies)
        seen.append(progress.pictures)
    assert seen == pytest.approx([0.5, 1.0, 1.0, 1.1])
    progress.finish(0)
    assert progress.pictures == pytest.approx(1.1)
    assert np.isclose(Progress(0).pictures, 0)


def test_without_figures_maps_are_the_same_and_the_folder_is_whole(explain, pictures, tmp_path, undisturbed, explained):
    out = tmp_path / "out"
    explain(pictures, "-o", out, "-q", "--no-figures")
    files = {name: data for name, data in results(out).items() if isinstance(data, bytes)}
    assert files == {name: data for name, data in undisturbed.items() if name.endswith(".npz") and name in files}
    assert len(files) == 6
    assert {(line["figure"], line["hashes"]["figure"]) for line in manifest(out)} == {(None, None)}
    assert json.loads(call("verify", out, "--json").stdout)["verdict"] == "identical"
    explained.clear()
    assert "figure" not in explain(pictures, "-o", out, "--no-figures").stderr
    said = explain(pictures, pictures / "00.png", "-o", out).stderr  # with figures now: what is finished stays as it is
    assert said == (
        "Warning: 6 maps there have no figures, as made with --no-figures, and stay so: take another -o to have "
        "figures drawn\n"
    )
    assert explain(pictures, "-o", out, "-q").stderr == ""
    assert explained == []
    shutil.copytree(out, tmp_path / "copy")
    call("merge", out, tmp_path / "copy", "-o", tmp_path / "merged", "-q")
    assert results(tmp_path / "merged") == results(out)


def test_errors_of_the_machine_stop_the_run_and_errors_of_a_picture_do_not(explain, pictures, tmp_path, monkeypatch):
    def refuse(self, path, most):
        raise DataError(f"{path}: no")

    monkeypatch.setattr(DeployedModel, "read", refuse)
    assert len(explain(pictures, "-o", tmp_path / "a", "-q", code=3).stderr.splitlines()) == 6
    monkeypatch.undo()
    monkeypatch.setattr(folder, "write_files", lambda path, files: (_ for _ in ()).throw(store.StoreError("disk: no")))
    assert explain(pictures, "-o", tmp_path / "b", "-q", code=1).stderr == "Error: disk: no\n"


@pytest.mark.parametrize(
    "said",
    [
        RuntimeError("[ONNXRuntimeError] : 6 : Failed to allocate memory for requested buffer of size 99"),
        RuntimeError("CUDA failure 2: out of memory"),
        MemoryError(),
    ],
)
def test_where_memory_is_short_the_picture_is_done_again_with_half_the_batch(
    explain, undisturbed, pictures, tmp_path, monkeypatch, said
):
    original, sizes = Explainer.explain_all, []

    def explain_all(self, *arguments):
        sizes.append(self.settings.batch_size)
        if sizes[-1] > 10:
            raise said if isinstance(said, MemoryError) else ModelError("ONNX Runtime failed") from said
        return original(self, *arguments)

    monkeypatch.setattr(Explainer, "explain_all", explain_all)
    result = explain(pictures, "-o", tmp_path / "out")
    assert sizes == [32, 16, *[8] * 6]
    assert [entry["settings"]["batch_size"] for entry in manifest(tmp_path / "out")] == [8] * 6
    found = results(tmp_path / "out")
    assert found.keys() == undisturbed.keys()
    for name in (name for name, each in found.items() if isinstance(each, bytes) and name.endswith(".npz")):
        one, other = (np.load(path / name) for path in (tmp_path / "out", tmp_path / "undisturbed"))
        with one, other:
            assert one["cut0"] == pytest.approx(other["cut0"], abs=1e-5)
    assert result.stdout.count("\n") == 11


def test_a_picture_that_finds_no_memory_even_alone_is_a_failure(explain, pictures, tmp_path, monkeypatch):
    original, sizes = Explainer.explain_all, []

    def explain_all(self, image, *arguments):
        if image.name.endswith("00.png"):
            sizes.append(self.settings.batch_size)
            raise MemoryError
        return original(self, image, *arguments)

    monkeypatch.setattr(Explainer, "explain_all", explain_all)
    explain(pictures, "-o", tmp_path, "-q", code=3)
    assert sizes == [32, 16, 8, 4, 2, 1]
    assert len(manifest(tmp_path)) == 5


def test_pictures_that_are_too_large_are_failures(explain, pictures, tmp_path):
    result = explain(pictures / "00.png", "-o", tmp_path / "out", "-q", "--max-pixels", 1999, code=3)
    assert "has 50 x 40 pixels: at most 1999 are read" in result.stderr
    explain(pictures / "00.png", "-o", tmp_path / "out", "-q", "--max-pixels", 2000)
