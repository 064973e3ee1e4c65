"""Small files on which the program was once wrong, stopped or misled, with the right values.

``rb.onnx`` is a planted model: of ``ref.png``, even grey with a red square (rows 8 to 24, columns 90 to 110 of 96 x
128), class 1 has 2.729 bits, and the evidence lies at the square. Most others are the same function, or the same
picture, written otherwise.
"""

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime as ort
import pytest

from onnx_evidence.pictures.photograph import read_photograph
from tests.batch import call, manifest

CASES = Path(__file__).parent / "data" / "cases"
SQUARE = (slice(8, 24), slice(90, 110))
REFERENCE = ("ref.png",)


class Seen(NamedTuple):
    """A map in a few numbers; places in pixels of the photograph."""

    name: str
    bits: float
    probability: float
    peak: tuple[int, int]
    centre: tuple[float, float]
    values: np.ndarray


def explained(out: Path, model: str, pictures: tuple[str, ...], *options: object) -> list[Seen]:
    paths = [CASES / name for name in pictures]
    call("explain", CASES / model, *paths, "-o", out, "-q", "--no-figures", "--target", 1, *options)
    return [seen(out, entry) for entry in manifest(out)]


def seen(out: Path, entry: dict[str, Any]) -> Seen:
    with np.load(out / entry["map"]) as maps:
        values = maps["pixels"].astype(np.float64)
    amount = np.abs(values)
    peak = np.unravel_index(amount.argmax(), amount.shape)
    centre = [float((np.indices(amount.shape)[axis] * amount).sum() / amount.sum()) for axis in (0, 1)]
    place = int(peak[0]), int(peak[1])
    name = Path(entry["image"]).name
    return Seen(name, entry["log_odds_bits"], entry["probability"], place, (centre[0], centre[1]), values)


def is_at_the_square(found: Seen) -> bool:
    rows, cols = SQUARE
    row, col = found.peak
    return rows.start <= row < rows.stop and cols.start <= col < cols.stop


SAME_FUNCTION = {
    "rb.onnx": "unit",
    "div255.onnx": "none",
    "caffe.onnx": "caffe",
    "in_uint8.onnx": "none",
    "azure.onnx": "unit",
    "ortopt_ext.onnx": "unit",
    "out_tumor_detection.onnx": "unit",
    "out_boxer_vs_other.onnx": "unit",
}


@pytest.mark.parametrize(("model", "preprocess"), SAME_FUNCTION.items())
def test_the_same_function_has_the_same_map_however_it_is_written(model, preprocess, tmp_path):
    (found,) = explained(tmp_path, model, REFERENCE, "--preprocess", preprocess)
    assert found.bits == pytest.approx(2.729, abs=1e-3)
    assert found.probability == pytest.approx(0.8689, abs=1e-4)
    assert found.peak == (18, 102)
    assert found.centre == pytest.approx((27.7, 83.7), abs=0.2)


@pytest.mark.parametrize(("model", "preprocess"), [("od.onnx", "none"), ("gamma.onnx", "unit"), ("sqrt.onnx", "unit")])
def test_a_domain_without_negative_numbers_has_its_map_at_the_square(model, preprocess, tmp_path):
    (found,) = explained(tmp_path, model, REFERENCE, "--preprocess", preprocess)
    assert np.isfinite(found.values).all()
    assert is_at_the_square(found)
    assert found.centre == pytest.approx((28, 84), abs=1)


def test_control_the_square_is_told_from_other_places(tmp_path):
    """Another class has its evidence elsewhere, or against."""
    call("explain", CASES / "rb.onnx", CASES / "ref.png", "-o", tmp_path, "-q", "--target", 0, "--preprocess", "unit")
    (entry,) = manifest(tmp_path)
    found = seen(tmp_path, entry)
    assert (
        found.values[SQUARE].sum() < 0 < explained(tmp_path / "1", "rb.onnx", REFERENCE, "--preprocess", "unit")[0].bits
    )


@pytest.mark.parametrize(
    "pictures", [("rot6.jpg", "rot6.avif"), ("rgba.png", "rgba.tif"), ("rgb16.png", "rgb16cv.tif")], ids=" ".join
)
def test_the_same_picture_has_the_same_map_in_every_format(pictures, tmp_path):
    lossy = "avif" in pictures[1]
    one, other = explained(tmp_path, "rb.onnx", pictures, "--preprocess", "unit")
    for found in (one, other):
        assert found.values.shape == (96, 128)
        assert found.peak == (18, 102)
        assert found.bits == pytest.approx(2.729, abs=0.2 if lossy else 1e-3)
    if not lossy:
        np.testing.assert_array_equal(one.values, other.values)


def test_sixteen_bits_are_read_the_same_every_time():
    first, *others = (read_photograph(CASES / "rgb16cv.tif").raw.tobytes() for _ in range(3))
    assert set(others) == {first}
    assert read_photograph(CASES / "rgb16cv.tif").pixels[15, 100].tolist() == [230, 20, 20]


@pytest.mark.parametrize("method", ["occlusion", "rise", "integrated"])
def test_extremes_of_a_batch_change_no_map(method, tmp_path):
    options = ("--preprocess", "unit", "--method", method, *(("--samples", 60) if method == "rise" else ()))
    maps = [
        explained(tmp_path / f"{model}{size}", model, REFERENCE, *options, "--batch-size", size)[0].values
        for model, size in (("minmax_all.onnx", 1), ("minmax_all.onnx", 32), ("minmax_each.onnx", 32))
    ]
    np.testing.assert_allclose(maps[1], maps[0], atol=1e-6 * np.abs(maps[0]).max())
    np.testing.assert_allclose(maps[2], maps[0], atol=1e-6 * np.abs(maps[0]).max())
    if method == "occlusion":
        assert maps[0].max() == pytest.approx(2.152, abs=1e-3)


def test_training_mode_is_refused_with_its_node(tmp_path):
    arguments = (CASES / "bn_train.onnx", CASES / "ref.png", "-o", tmp_path / "out", "--preprocess", "unit")
    refused = call("explain", *arguments, code=1).stderr
    assert "BatchNormalization at 'rbn' is in training mode" in refused
    assert "model.eval()" in refused
    assert not (tmp_path / "out").exists()


def test_a_folder_holds_all_formats_and_what_is_passed_over_is_named(tmp_path):
    shutil.copytree(CASES / "folder", tmp_path / "in")
    (tmp_path / "in" / "notes.md").write_text("no picture")
    arguments = (CASES / "rb.onnx", tmp_path / "in", "-o", tmp_path / "out", "--preprocess", "unit", "--target", 1)
    result = call("explain", *arguments, "--no-figures")
    names = [Path(entry["image"]).name for entry in manifest(tmp_path / "out")]
    assert names == ["a.jpg", "b.jfif", "c.gif", "d.avif", "j.jpe"]
    assert "notes.md" in result.stderr


def test_a_group_normalisation_of_opset_18_is_what_the_runtime_gives(tmp_path):
    (found,) = explained(tmp_path, "op_groupnorm18.onnx", REFERENCE, "--preprocess", "unit")
    session = ort.InferenceSession(str(CASES / "op_groupnorm18.onnx"), providers=["CPUExecutionProvider"])
    (scores,) = session.run(None, {"x": _unit(CASES / "ref.png")})
    nats = scores[0].astype(np.float64)
    rest = np.delete(nats, 1)
    log_odds = nats[1] - (rest.max() + np.log(np.exp(rest - rest.max()).sum()))
    assert found.bits == pytest.approx(log_odds / np.log(2), abs=1e-4)


def _unit(path: Path) -> np.ndarray:
    """The picture as ``--preprocess unit`` makes it for a model of 64 x 64, by the package's own way."""
    from onnx_evidence import DeployedModel

    return DeployedModel(CASES / "op_groupnorm18.onnx", preprocess="unit", device="cpu").prepare(path)[1][None]


def test_one_of_several_heads_is_explained_and_all_are_listed(tmp_path):
    arguments = ("explain", CASES / "multitask.onnx", CASES / "ref.png", "--preprocess", "unit", "--no-figures", "-q")
    call(*arguments, "-o", tmp_path / "out", "--output", "distance")
    assert len(manifest(tmp_path / "out")) == 1
    refused = call(*arguments, "-o", tmp_path / "no", code=1).stderr
    assert "'detection' (float N x 3), 'distance' (float N x 4)" in refused
    assert "--output NAME" in refused


def test_names_come_from_the_map_behind_the_scores(tmp_path):
    explained(tmp_path, "azure.onnx", REFERENCE, "--preprocess", "unit")
    (entry,) = manifest(tmp_path)
    assert entry["label"] == "red"
    assert entry["output"] == "prob"


BLAMED = {
    "rank3.onnx": "input 'x' has 3 axes",
    "train_in.onnx": "export the model for inference",
    "listed6.onnx": "the file is of opset 6, below 7",
}


@pytest.mark.parametrize(("model", "words"), BLAMED.items())
def test_a_refusal_blames_the_right_thing_in_every_command(model, words, tmp_path):
    explain = ("explain", CASES / model, CASES / "ref.png", "-o", tmp_path, "--preprocess", "unit")
    said = {call(*command, code=1).stderr for command in (explain, ("inspect", CASES / model))}
    assert len(said) == 1
    assert words in said.pop()


def test_a_picture_of_another_kind_is_named(tmp_path):
    arguments = ("explain", CASES / "rb.onnx", CASES / "a.heic", "-o", tmp_path, "--preprocess", "unit")
    assert "HEIC picture, which is not read: convert it to PNG or JPEG" in call(*arguments, code=3).stderr
