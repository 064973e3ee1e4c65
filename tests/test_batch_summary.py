"""The table over a cohort: every number against the maps it comes from, and names that obey nothing."""

import csv
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from onnx_evidence.batch.summary import Cohort, central, summarise
from tests.batch import call, manifest, without_drawing, write_pictures


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    without_drawing(monkeypatch)


@pytest.fixture
def pictures(tmp_path):
    return write_pictures(tmp_path / "in", 3)


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_rows_are_what_maps_and_receipts_say(tiny_model, pictures, tmp_path):
    out = tmp_path / "out"
    call("explain", tiny_model, pictures, "-o", out, "-q", "--target", "dog", "--target", "bee")
    call("summary", out, "-o", tmp_path / "s.csv", "-q")
    rows = table(tmp_path / "s.csv")
    assert len(rows) == 6
    for row, entry in zip(rows, manifest(out), strict=True):
        assert (row["image"], row["map"], int(row["target"])) == (entry["image"], entry["map"], entry["target"])
        assert (row["label"], row["versus"], row["unresolved"]) == (entry["label"], "", "")
        for name in ("probability", "log_odds_bits", "seconds"):
            assert float(row[name]) == entry[name]
        for name in ("for_bits", "against_bits", "gap_share"):
            assert float(row[name]) == entry["budget"][name]
        with np.load(out / entry["map"]) as maps:
            sizes = np.abs(maps["input_pixels"].astype(np.float64))
        assert float(row["inside"]) == pytest.approx(sizes[8:24, 8:24].sum() / sizes.sum())
    # A table beside the results is no result.
    call("summary", out, "-o", out / "summary.csv", "-q")
    assert json.loads(call("verify", out, "--json", "--sample", 0).stdout)["verdict"] == "unchanged"


def test_the_central_area_is_a_quarter_and_in_the_middle():
    for shape in ((32, 32), (40, 24), (7, 9), (1, 1)):
        mask = central(shape)
        assert mask.any()
        assert np.array_equal(mask, mask[::-1, ::-1])
    assert central((40, 24)).mean() == 0.25


def test_masks_say_where_and_must_fit(tiny_model, pictures, tmp_path):
    out, masks = tmp_path / "out", tmp_path / "masks"
    call("explain", tiny_model, pictures, "-o", out, "-q")
    masks.mkdir()
    mask = np.zeros((40, 50), np.uint8)
    mask[:, :25] = 255
    cv2.imwrite(str(masks / "00.png"), mask)
    cv2.imwrite(str(masks / "01.png"), np.full((40, 50), 255, np.uint8))
    call("summary", out, "-o", tmp_path / "s.csv", "-q", "--masks", masks)
    rows, entries = table(tmp_path / "s.csv"), manifest(out)
    with np.load(out / entries[0]["map"]) as maps:
        sizes = np.abs(maps["pixels"].astype(np.float64))
    assert float(rows[0]["inside"]) == pytest.approx(sizes[:, :25].sum() / sizes.sum())
    assert [float(rows[1]["inside"]), rows[2]["inside"]] == [pytest.approx(1), ""]
    cv2.imwrite(str(masks / "02.png"), np.zeros((40, 51), np.uint8))
    assert "they must agree" in call("summary", out, "--masks", masks, code=1).stderr


def test_what_was_sampled_says_how_much_cannot_be_told_from_zero(tiny_model, pictures, tmp_path):
    out, background = tmp_path / "out", write_pictures(tmp_path / "background", 8, seed=3)
    call("explain", tiny_model, pictures, "-o", out, "-q", "--background", background, "--samples", 4)
    for row, entry in zip(summarise(out), manifest(out), strict=True):
        with np.load(out / entry["map"]) as maps:
            unresolved = (np.abs(maps["input_pixels"]) < maps["margin"]).mean()
        assert row.unresolved == pytest.approx(unresolved)
        assert 0 < row.unresolved < 1


def test_the_table_has_means_by_class_and_over_all(tiny_model, pictures, tmp_path):
    out = tmp_path / "out"
    call("explain", tiny_model, pictures, "-o", out, "-q", "--target", "dog")
    call("explain", tiny_model, pictures / "00.png", "-o", out, "-q", "--target", "bee", "--versus", "ant")
    cohort = Cohort()
    rows = list(cohort.noting(summarise(out)))
    groups = [*cohort.classes(), *cohort.totals()]
    names = ["dog", "bee rather than ant", "all", "all rather than another"]
    assert [(each.name, each.maps) for each in groups] == list(zip(names, [3, 1, 3, 1], strict=True))
    assert groups[2].means == groups[0].means
    assert groups[3].means == groups[1].means
    assert groups[0].means["probability"] == pytest.approx(np.mean([row.probability for row in rows[:3]]))
    shown = call("summary", out).stdout.splitlines()
    assert [line[:24].strip() for line in shown] == ["class", *names]
    assert f"{groups[2].means['probability']:.4f}" in shown[3]


def test_names_are_neither_formulas_nor_commands(tiny_model, pictures, tmp_path):
    names = ["=1+2.png", "+a.png", "@x.png", "-y.png", "a\x1b[31m\nb.png", "x,\"y'.png"]
    folder = tmp_path / "evil"
    folder.mkdir()
    for name in names:
        shutil.copy(pictures / "00.png", folder / name)
    (tmp_path / "labels.txt").write_text('=HYPERLINK("x")\n+b\n-c\n@d\n\x1b[2Je\n')
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        arguments = ("--labels", tmp_path / "labels.txt", "--target", 0, "--target", 4)
        shown = call("explain", *arguments, "-o", tmp_path / "out", tiny_model, "--", *names)
    assert "\x1b" not in shown.stdout + shown.stderr
    assert r"a\x1b[31m\nb.png" in shown.stdout
    again = call("summary", tmp_path / "out", "-o", tmp_path / "s.csv")
    assert "\x1b" not in again.stdout
    text = (tmp_path / "s.csv").read_text(encoding="utf-8")
    assert "\x1b" not in text
    assert len(text.splitlines()) == 13
    for row in table(tmp_path / "s.csv"):
        for cell in (row["image"], row["label"], row["map"]):
            assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))


def test_a_damaged_map_or_line_is_one_line(tiny_model, pictures, tmp_path):
    call("explain", tiny_model, pictures, "-o", tmp_path / "out", "-q")
    path = tmp_path / "out" / manifest(tmp_path / "out")[1]["map"]
    path.write_bytes(path.read_bytes()[:100])
    result = call("summary", tmp_path / "out", code=1)
    assert result.stderr.startswith(f"Error: {path}: cannot read the map")
    assert result.stderr.count("\n") == 1
    path = tmp_path / "out" / "manifest.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"seed": 0', b'"seed": 1', 1))
    assert "line 1: the line was changed" in call("summary", tmp_path / "out", code=1).stderr
    assert "holds no results" in call("summary", tmp_path / "in", code=1).stderr


def test_a_table_is_csv_and_says_that_it_was_written(tiny_model, pictures, tmp_path):
    out = tmp_path / "out"
    call("explain", tiny_model, pictures, "-o", out, "-q")
    refused = call("summary", out, "-o", tmp_path / "cohort.json", code=2)
    assert "name it cohort.csv" in refused.stderr
    assert not (tmp_path / "cohort.json").exists()
    shown = call("summary", out, "-o", tmp_path / "cohort.csv").stdout
    assert shown.splitlines()[-1] == f"{tmp_path / 'cohort.csv'}: 3 rows written"
