"""What commands write over: files of their own kind, never what went in nor anything else that lies there."""

import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnx_evidence import DeployedModel, fit_background
from onnx_evidence.batch.summary import Row
from onnx_evidence.methods.background_file import save_background
from onnx_evidence.pictures import list_images
from tests import tiny
from tests.batch import call, manifest, write_pictures


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pictures, a model with its weights beside it, and one file of each kind that commands write."""
    folder = tmp_path_factory.mktemp("made")
    write_pictures(folder / "pictures", 12)
    path = folder / "model.onnx"
    onnx.save(tiny.classifier(), path, save_as_external_data=True, location="model.data", size_threshold=16)
    with DeployedModel(path, device="cpu") as deployed:
        save_background(folder / "fitted.npz", fit_background(deployed, ["input"], [*(folder / "pictures").iterdir()]))
    call("gradient", path, "-o", folder / "backward.onnx")
    call("explain", path, folder / "pictures" / "00.png", "-o", folder / "results", "-q")
    call("summary", folder / "results", "-o", folder / "table.csv")
    (folder / "cases.csv").write_text("image,target\npictures/00.png,ant\n")
    (folder / "labels.txt").write_text("a\nb\nc\nd\ne\n")
    (folder / "notes.toml").write_text("to be kept")
    np.savez(folder / "arrays.npz", header=np.array("{}"))
    os.symlink("model.onnx", folder / "link.onnx")
    (folder / "inner").mkdir()
    os.link(path, folder / "inner" / "hard.onnx")
    return folder


def commands(folder: Path) -> dict[str, tuple[object, ...]]:
    return {
        "gradient": ("gradient", folder / "model.onnx"),
        "background": ("background", folder / "model.onnx", folder / "pictures"),
        "summary": ("summary", folder / "results"),
    }


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("command", ["gradient", "background"])
@pytest.mark.parametrize("out", ["model.onnx", "./inner/../model.onnx", "link.onnx", "inner/hard.onnx"])
def test_the_model_is_not_written_over_by_any_name(made, command, out):
    before = contents(made)
    refused = call(*commands(made)[command], "-o", f"{made}/{out}", code=1).stderr
    assert "model.onnx itself, which would be lost: name another file" in refused
    assert contents(made) == before


def test_what_else_went_in_is_not_written_over(made):
    refused = call("gradient", made / "model.onnx", "--labels", made / "labels.txt", "-o", made / "labels.txt", code=1)
    assert "labels.txt itself" in refused.stderr


@pytest.mark.parametrize(
    ("command", "out", "kind"),
    [
        ("gradient", "model.data", "a backward graph"),
        ("gradient", "pictures/00.png", "a backward graph"),
        ("gradient", "fitted.npz", "a backward graph"),
        ("background", "model.data", "a fitted background"),
        ("background", "pictures/00.png", "a fitted background"),
        ("background", "arrays.npz", "a fitted background"),
        ("background", "notes.toml", "a fitted background"),
        ("summary", "cases.csv", "a table of 'summary'"),
    ],
)
def test_what_is_of_another_kind_is_not_written_over(made, command, out, kind):
    before = contents(made)
    refused = call(*commands(made)[command], "-o", made / out, code=1).stderr
    assert f"{out}: is there already and is not {kind}" in refused
    assert "name another file to write, or remove it" in refused
    assert contents(made) == before


@pytest.mark.parametrize("command", ["gradient", "background"])
def test_folders_and_pipes_are_not_written_over(made, tmp_path, command):
    os.mkfifo(tmp_path / "pipe")
    assert "this is a folder; name the file" in call(*commands(made)[command], "-o", tmp_path, code=1).stderr
    assert "is no regular file" in call(*commands(made)[command], "-o", tmp_path / "pipe", code=1).stderr


@pytest.mark.parametrize(
    ("command", "own"), [("gradient", "backward.onnx"), ("background", "fitted.npz"), ("summary", "table.csv")]
)
def test_control_former_outputs_are_replaced_and_new_names_need_no_suffix(made, tmp_path, command, own):
    again = shutil.copy(made / own, tmp_path / ("own.csv" if command == "summary" else "own"))
    before = Path(again).stat().st_ino
    call(*commands(made)[command], "-o", again)
    assert Path(again).stat().st_ino != before
    new = tmp_path / ("new.csv" if command == "summary" else "new")
    call(*commands(made)[command], "-o", new)
    assert new.read_bytes() == Path(again).read_bytes()


@pytest.mark.parametrize("inner", ["", "/inner"])
def test_a_file_in_the_place_of_a_folder_is_called_a_file_before_anything_is_run(made, tmp_path, monkeypatch, inner):
    monkeypatch.setattr("onnx_evidence.deployed.load_model", lambda *given, **more: pytest.fail("the model is opened"))
    path = tmp_path / "file"
    path.write_text("to be kept")
    for command, given in (("evaluate", made / "pictures"), ("links", made / "pictures" / "00.png")):
        refused = call(command, made / "model.onnx", given, "-o", f"{path}{inner}", code=1).stderr
        assert refused == f"Error: {path}{inner}: cannot write: {path} is a file, no folder: take another -o\n"


@pytest.mark.parametrize("command", ["gradient", "background", "summary"])
@pytest.mark.parametrize("behind", ["a table", "nothing", "a pipe"])
def test_what_a_link_leads_to_is_not_looked_at(made, tmp_path, monkeypatch, command, behind):
    def look(path: Path) -> None:
        raise AssertionError(path)

    monkeypatch.setattr("onnx_evidence.files.replacing.open_regular", look)
    secret = tmp_path / "secret"
    if behind == "a table":
        secret.write_text(",".join(Row._fields) + "\n")
    elif behind == "a pipe":
        os.mkfifo(secret)
    (tmp_path / "link").symlink_to(secret)
    out = tmp_path / ("link.csv" if command == "summary" else "link")
    (tmp_path / "link").rename(out)
    assert (
        "is a link, and what it leads to is not looked at" in call(*commands(made)[command], "-o", out, code=1).stderr
    )
    assert out.is_symlink()


@pytest.mark.parametrize("command", ["gradient", "background", "summary"])
def test_a_file_of_nothing_may_be_written_over(made, tmp_path, command):
    out = tmp_path / "empty.csv"
    out.touch()
    call(*commands(made)[command], "-o", out)
    assert out.stat().st_size > 0


def test_a_table_is_known_by_its_whole_head(made, tmp_path):
    longer = tmp_path / "longer.csv"
    longer.write_text(",".join([*Row._fields, "remarks"]) + "\n")
    assert "is not a table" in call(*commands(made)["summary"], "-o", longer, code=1).stderr


@pytest.fixture
def mixed(made: Path, tmp_path: Path) -> Path:
    """A folder of a photograph, and the results of an earlier run and of other commands."""
    folder = tmp_path / "mixed"
    shutil.copytree(made / "results", folder / "earlier")
    shutil.copy(made / "pictures" / "01.png", folder / "a.png")
    for name, text in (("numbers.csv", "picture,class,method,metric,value\n"), ("links.json", "{}")):
        (folder / name).write_text(text)
    (figure,) = (folder / "earlier").rglob("*.png")
    for name in ("curves.png", "links.png"):
        shutil.copy(figure, folder / name)
    return folder


def test_figures_of_earlier_results_are_passed_over_in_folders_and_named(made, mixed, tmp_path):
    (figure,) = (mixed / "earlier").rglob("*.png")
    drawn = ("curves.png", f"earlier/00/{figure.name}", "links.png")
    for number, given in enumerate((mixed, mixed / "**" / "*.png")):
        out = tmp_path / f"out{number}"
        said = call("explain", made / "model.onnx", given, "-o", out).stderr
        assert [Path(line["image"]).name for line in manifest(out)] == ["a.png"]
        assert "passed over 3 figures of earlier results, which are explained by their own names only: " in said
        assert all(name in said for name in drawn)
    for given in (mixed / "earlier", figure.parent):
        refused = call("explain", made / "model.onnx", given, "-o", tmp_path / "no", code=1).stderr
        assert "no pictures in this folder" in refused
        assert "1 figure of earlier results" in refused
    call("explain", made / "model.onnx", figure, "-o", tmp_path / "own", "-q")
    assert len(manifest(tmp_path / "own")) == 1


def test_control_pictures_that_lie_beside_no_result_of_theirs_are_pictures(made, mixed):
    (figure,) = (mixed / "earlier").rglob("*.png")
    # The map is gone; what lies beside is no map; or it is the map of that very picture, as saved from Python.
    figure.with_suffix(".npz").rename(mixed / "a.npz")
    shutil.copy(made / "pictures" / "02.png", mixed / "b.png")
    shutil.copy(made / "fitted.npz", mixed / "b.npz")
    # A list called like a run's, of whatever data, above photographs makes no figures of them.
    (mixed / "manifest.jsonl").write_text("{}\n")
    (mixed / "numbers.csv").write_text("image,class\n")
    (mixed / "links.json").unlink()
    assert [path.name for path in list_images([mixed])] == ["a.png", "b.png", "curves.png", figure.name, "links.png"]
