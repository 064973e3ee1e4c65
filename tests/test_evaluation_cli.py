"""``onnx-evidence evaluate``: what it writes and prints, and what it refuses."""

import csv
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from onnx_evidence.cli import main
from onnx_evidence.evaluation.bootstrap import interval
from onnx_evidence.evaluation.measures import MEASURES
from onnx_evidence.evaluation.substrates import SUBSTRATES
from onnx_evidence.evaluation.summary import METRICS
from tests import planted, tiny

FILES = ["curves.png", "numbers.csv", "summary.json"]
# Two good methods and the controls, on the substrates that take no time.
QUICK = ("--methods", "occlusion,window", "--substrates", "mean,blur", "--no-stability", "--device", "cpu")


@pytest.fixture(autouse=True)
def _keep_logging() -> Iterator[None]:
    """The command sets up logging for its own process; inside this one, undo that."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


@pytest.fixture(scope="module")
def gallery(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("gallery")
    rng = np.random.default_rng(3)
    for number in range(4):
        coarse = rng.integers(0, 256, (5, 5, 3)).astype(np.uint8)
        cv2.imwrite(str(folder / f"{number}.jpg"), cv2.resize(coarse, (60, 44 + number)))
    return folder


def call(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, ["evaluate", *(str(argument) for argument in arguments)], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result


def numbers(out: Path) -> dict[tuple[str, str, str], str]:
    with (out / "numbers.csv").open(encoding="utf-8", newline="") as stream:
        return {
            (Path(row["picture"]).name, row["method"], row["metric"]): row["value"] for row in csv.DictReader(stream)
        }


def files(out: Path) -> list[str]:
    return sorted(path.name for path in out.iterdir()) if out.exists() else []


def test_everything_at_its_defaults(tiny_model, gallery, tmp_path):
    out = tmp_path / "out"
    result = call(tiny_model, gallery, "-o", out, "--limit", 2, "--device", "cpu")
    assert files(out) == FILES
    assert result.stderr == ""
    methods = ["integrated", "window", "occlusion", "random map", "centre prior"]
    substrates = list(SUBSTRATES)
    assert {"blur", "mean", "inpaint", "pictures"} <= {*substrates}
    found = numbers(out)
    areas = {f"{area}.{scale}.{substrate}" for area in ("deletion", "insertion", "srg")
             for scale in ("probability", "bits") for substrate in substrates}  # fmt: skip
    others = {"stable.noise", "stable.shift", "stable.seed", "seconds", "passes"}
    others |= {name for name, row in MEASURES.items() if not row.of_object}
    assert {"variation", "focus"} < others
    assert found.keys() == {(picture, method, metric) for picture in ("0.jpg", "2.jpg") for method in methods
                            for metric in areas | others}  # fmt: skip
    of_objects = {name for name, row in MEASURES.items() if row.of_object}
    assert {metric for metric in METRICS if not any(key[2].startswith(metric) for key in found)} == of_objects
    for (picture, method, metric), value in found.items():
        if metric.startswith("srg"):
            rest = metric.removeprefix("srg")
            one, two = (float(found[picture, method, area + rest]) for area in ("insertion", "deletion"))
            assert float(value) == pytest.approx(one - two)
    assert float(found["0.jpg", "integrated", "stable.seed"]) == pytest.approx(1)
    for method in methods:
        assert method in result.stdout
    assert "fewer than 20: they are too narrow" in result.stdout
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_summary_is_that_of_the_numbers(tiny_model, gallery, tmp_path):
    call(tiny_model, gallery, "-o", tmp_path / "out", *QUICK, "--reference", "random map", "--seed", 3)
    found = numbers(tmp_path / "out")
    summary = json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))
    assert (summary["reference"], summary["pictures"], summary["failed"]) == ("random map", 4, 0)
    assert summary["accuracy"] is None
    assert list(summary["methods"]) == ["occlusion", "window", "random map", "centre prior"]
    assert list(summary["differences"]) == ["occlusion", "window", "centre prior"]
    assert list(summary["substrates"]) == ["mean", "blur"]

    def column(method, metric):
        return np.array([float(found[f"{number}.jpg", method, metric]) for number in range(4)])

    for metric in ("srg.bits.blur", "deletion.probability.mean", "variation"):
        values = column("window", metric)
        every = summary["methods"]["window"][metric]
        assert every == pytest.approx(interval(values, seed=3)._asdict())
        assert every["low"] < every["value"] < every["high"]
        difference = summary["differences"]["window"][metric]
        assert difference == pytest.approx(interval(values - column("random map", metric), seed=3)._asdict())
    assert summary["methods"]["window"]["seconds"]["value"] == pytest.approx(np.median(column("window", "seconds")))


def test_the_same_again_gives_the_same_numbers_and_replaces_them(tiny_model, gallery, tmp_path):
    inside = gallery / "out"  # figures in the folder of pictures are no pictures
    try:
        tables = []
        for _ in range(2):
            result = call(tiny_model, gallery, "-o", inside, *QUICK, "-q", "--limit", 3)
            tables.append({key: value for key, value in numbers(inside).items() if key[2] not in ("seconds", "passes")})
            assert result.stdout == ""
        assert tables[0] == tables[1]
        assert {key[0] for key in tables[0]} == {"0.jpg", "1.jpg", "2.jpg"}
        assert files(inside) == FILES
    finally:
        for path in inside.iterdir():
            path.unlink()
        inside.rmdir()


def test_a_picture_that_fails_is_named_and_left_out(tiny_model, gallery, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for path in gallery.glob("*.jpg"):
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "1.jpg").write_bytes(b"no picture")
    result = call(tiny_model, folder, "-o", tmp_path / "out", *QUICK, code=3)
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    assert "1.jpg: cannot decode the picture" in result.stderr
    assert {key[0] for key in numbers(tmp_path / "out")} == {"0.jpg", "2.jpg", "3.jpg"}
    assert json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))["failed"] == 1
    for path in folder.iterdir():
        path.write_bytes(b"no picture")
    result = call(tiny_model, folder, "-o", tmp_path / "none", *QUICK, code=1)
    assert "none of 4 pictures could be measured: nothing was written" in result.stderr
    assert files(tmp_path / "none") == []


def test_truth_masks_and_boxes_on_the_planted_model(tmp_path):
    model = tiny.save(planted.model(), tmp_path / "planted.onnx")
    photos, masks = tmp_path / "photos", tmp_path / "photos" / "masks"
    masks.mkdir(parents=True)
    for path in planted.save_pictures(photos):
        cv2.imwrite(str(masks / path.name), planted.mask().astype(np.uint8) * 255)
    truth, boxes = tmp_path / "truth.csv", tmp_path / "boxes.csv"
    truth.write_text("0.png,in\n1.png,1\n2.png,out\n3.png,in\n", encoding="utf-8")
    boxes.write_text("".join(f"{number}.png,12,8,20,16\n" for number in range(4)), encoding="utf-8")
    given = ("--methods", "gradient-x-input,occlusion", "--no-stability", "--device", "cpu")
    result = call(model, photos, "-o", tmp_path / "one", *given, "--truth", truth, "--masks", masks)
    assert "the model is right about 75.0% of them" in result.stdout
    first = numbers(tmp_path / "one")
    assert {key[0] for key in first} == {f"{number}.png" for number in range(4)}
    for number, hit in enumerate((1, 1, 0, 1)):
        # All evidence is for 'in', and inside: against 'out', nothing is positive.
        assert float(first[f"{number}.png", "gradient-x-input", "pointing"] or 0) == hit or not hit
        energy = first[f"{number}.png", "gradient-x-input", "energy"]
        assert float(energy) == pytest.approx(1) if hit else energy == ""
        assert float(first[f"{number}.png", "gradient-x-input", "srg.bits.mean"]) > 0 or not hit
    result = call(model, photos, "-o", tmp_path / "none", *given, "--truth", truth, code=1)
    assert "nothing about masks/0.png and 3 more" in result.stderr  # not named, masks are pictures like others
    masks = masks.rename(tmp_path / "masks")
    call(model, photos, "-o", tmp_path / "two", *given, "--truth", truth, "--boxes", boxes, "--tolerance", 0)
    assert (
        numbers(tmp_path / "two")["0.png", "gradient-x-input", "energy"] == first["0.png", "gradient-x-input", "energy"]
    )
    cv2.imwrite(str(masks / "2.png"), np.zeros((32, 32), np.uint8))
    result = call(model, photos, "-o", tmp_path / "three", *given, "--masks", masks, code=3)
    assert "2.png: the mask is empty" in result.stderr
    assert "2.png" not in {key[0] for key in numbers(tmp_path / "three")}


@pytest.mark.parametrize(
    ("given", "code", "rule"),
    [
        (("--methods", "windows"), 2, "method 'windows' is unknown: take some of integrated"),
        (("--methods", ","), 2, "no methods"),
        (("--methods", "pda"), 2, "pass --background FILE.npz"),
        (("--background", "b.npz"), 2, "none of the methods integrated, window, occlusion needs a fitted background"),
        (("--methods", "pda", "--background", "b.npz"), 1, "b.npz"),
        (("--substrates", "fog"), 2, f"substrate 'fog' is unknown: take some of {', '.join(SUBSTRATES)}"),
        (("--reference", "rice"), 2, "reference 'rice' is not compared: take one of integrated, window, occlusion"),
        (("--limit", "0"), 2, "Invalid value for '--limit'"),
        (("--tolerance", "-1"), 2, "Invalid value for '--tolerance'"),
        (("--tolerance", "inf"), 2, "Invalid value for '--tolerance': 'inf' is not a finite number"),
        (("--tolerance", "nan"), 2, "'nan' is not a finite number"),
        (("--truth", "none.csv"), 1, "none.csv: cannot read the table"),
        (("--masks", "none"), 1, "nothing about 0.jpg and 3 more: add a mask"),
        (("--masks", "m", "--boxes", "b"), 2, "--masks and --boxes both say where objects are"),
        (("-q", "-v"), 2, "-q and -v contradict each other"),
    ],
)
def test_what_cannot_be_used_is_refused_before_anything_is_written(given, code, rule, tiny_model, gallery, tmp_path):
    result = call(tiny_model, gallery, "-o", tmp_path / "out", "--device", "cpu", *given, code=code)
    assert rule in result.stderr
    assert files(tmp_path / "out") == []
    assert "Traceback" not in result.output


def test_folders_that_cannot_be_used(tiny_model, gallery, tmp_path):
    (tmp_path / "empty").mkdir()
    result = call(tiny_model, tmp_path / "empty", "-o", tmp_path / "out", code=1)
    assert "no pictures in this folder" in result.stderr
    (tmp_path / "file").write_text("", encoding="utf-8")
    result = call(tiny_model, gallery, "-o", tmp_path / "file", *QUICK, code=1)
    assert f"Error: {tmp_path / 'file'}: cannot write: {tmp_path / 'file'} is a file, no folder" in result.stderr
    one = tmp_path / "one"
    one.mkdir()
    (one / "a.jpg").write_bytes((gallery / "0.jpg").read_bytes())
    result = call(tiny_model, one, "-o", tmp_path / "out", code=2)
    assert "substrate 'pictures' draws 2 other pictures, and there are 1 in all" in result.stderr
    # Without that substrate one picture will do; it has no interval.
    result = call(tiny_model, one, "-o", tmp_path / "out", *QUICK)
    assert "1 picture; 95 % intervals" in result.stdout
    summary = json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))
    assert summary["methods"]["window"]["srg.bits.mean"]["low"] is None


def test_default_methods_that_need_a_cut_are_left_out_of_a_model_without(gallery, tmp_path):
    model = tiny.branching(tmp_path / "branching.onnx")
    given = ("--substrates", "mean", "--no-stability", "--limit", "1")
    result = call(model, gallery, "-o", tmp_path / "out", *given)
    warnings = result.stderr.splitlines()
    for method, warning in zip(("integrated", "window"), warnings, strict=True):
        assert warning.startswith(f"Warning: method {method!r} is left out, it cannot be computed: no cut inside")
    assert {key[1] for key in numbers(tmp_path / "out")} == {"occlusion", "random map", "centre prior"}


def test_a_default_method_that_the_model_does_not_allow_is_left_out(gallery, tmp_path):
    model = tiny.accumulating(tmp_path / "sum.onnx")
    given = ("--substrates", "mean", "--no-stability", "--limit", "1")
    result = call(model, gallery, "-o", tmp_path / "out", *given)
    assert result.stderr.startswith("Warning: method 'integrated' is left out, it cannot be computed: ")
    assert {key[1] for key in numbers(tmp_path / "out")} == {"window", "occlusion", "random map", "centre prior"}
    result = call(model, gallery, "-o", tmp_path / "none", *given, "--methods", "integrated", code=1)
    assert "Scan" in result.stderr
    assert files(tmp_path / "none") == []
