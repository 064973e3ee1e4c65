"""True classes, masks and boxes from files: what is found, and what is refused with its line."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from onnx_evidence.errors import DataError, TargetError
from onnx_evidence.evaluation.given import choose_pictures, find_masks, read_boxes, read_truth
from onnx_evidence.preprocessing.contract import Preprocess
from onnx_evidence.preprocessing.geometry import place

PREPROCESS = Preprocess(size=(32, 32), resize_to=40, mean=(0.0,) * 3, std=(1.0,) * 3)


def find_class(name: str) -> int:
    if name.strip() not in ("0", "1", "ant", "bee, queen"):
        raise TargetError(f"class {name!r} is unknown")
    return {"ant": 0, "bee, queen": 1}.get(name.strip(), 0) if not name.strip().isdecimal() else int(name)


@pytest.fixture
def folder(tmp_path) -> Path:
    root = tmp_path / "photos"
    for name in ("a.jpg", "b.png", "deep/a.jpg", "deep/c.jpg"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / name), np.full((60, 80, 3), 90, np.uint8))
    return root


def table(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "table.csv"
    path.write_bytes(text.encode())
    return path


def test_pictures_are_spread_over_the_folder(folder):
    chosen, found = choose_pictures(folder)
    assert chosen == found == [folder / name for name in ("a.jpg", "b.png", "deep/a.jpg", "deep/c.jpg")]
    chosen, found = choose_pictures(folder, 2)
    assert chosen == [folder / "a.jpg", folder / "deep/a.jpg"]
    assert len(found) == 4
    assert choose_pictures(folder, 9)[0] == found
    assert choose_pictures(folder, leave_out=[folder / "deep"])[0] == found[:2]
    with pytest.raises(DataError, match="no pictures"):
        choose_pictures(folder, leave_out=[folder])
    with pytest.raises(DataError, match="there is no such folder"):
        choose_pictures(folder / "none")


def test_truth_by_name_path_and_class(folder, tmp_path):
    pictures = choose_pictures(folder)[0]
    text = (
        '\ufefffile,class\r\na.jpg,ant\r\n\r\n./deep/a.jpg,1\r\nb.png,"bee, queen"\r\nc.jpg, 0\r\nother.jpg,whale\r\n'
    )
    truth = read_truth(table(tmp_path, text), pictures, folder, find_class)
    assert truth == dict(zip(pictures, (0, 1, 1, 0), strict=True))
    # The file's name alone is enough where one picture has it; 'a.jpg' is the one at the top.
    again = read_truth(table(tmp_path, "a.jpg,0\nb.png,1\nb.png,1\n"), pictures[:2], folder, find_class)
    assert list(again.values()) == [0, 1]


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("a.jpg,ant\nb.png,ant\ndeep/a.jpg,1\n", r"table.csv: nothing about deep/c.jpg: add its class"),
        ("b.png,ant\n", "nothing about a.jpg and 2 more"),
        ("a.jpg,bee, queen\n", "line 1 has 3 fields, not 2: file name, class; quote those with a comma"),
        ("a.jpg\n", "line 1 has 1 fields"),
        ("x,1\na.jpg,wasp\n", "line 2: class 'wasp' is unknown"),
        ("a.jpg,0\na.jpg,1\n", "line 2: a.jpg has another class above"),
        ('a.jpg,"ant\n', "cannot read the table"),
    ],
)
def test_truth_that_cannot_be_used_is_refused_with_its_line(text, rule, folder, tmp_path):
    with pytest.raises(DataError, match=rule):
        read_truth(table(tmp_path, text), choose_pictures(folder)[0], folder, find_class)


def test_a_missing_or_binary_table_is_refused(folder, tmp_path):
    path = table(tmp_path, "")
    path.write_bytes(b"\xff\xfe\x00a")
    for each in (path, tmp_path / "none.csv", tmp_path):
        with pytest.raises(DataError, match="cannot read the table"):
            read_truth(each, choose_pictures(folder)[0], folder, find_class)


def save_mask(path: Path, mask: np.ndarray, **change) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), mask.astype(change.get("dtype", np.uint8)) * change.get("value", 255))


@pytest.mark.parametrize("change", [{}, {"value": 1}, {"value": 1, "dtype": np.uint16}])
def test_masks_are_carried_through_resize_and_crop(change, folder, tmp_path):
    pictures = choose_pictures(folder)[0]
    mask = np.zeros((60, 80), bool)
    mask[20:41, 30:60] = True
    for name in ("a.png", "b.png", "deep/a.png", "c.png"):
        save_mask(tmp_path / "masks" / name, mask, **change)
    mark = find_masks(tmp_path / "masks", pictures, folder)
    placement = place((60, 80), PREPROCESS)
    seen = mark(pictures[3], placement)
    # Shorter side 60 -> 40, so 2/3; the crop begins at row 4 and round((53 - 32) / 2) = 10.
    slow = np.zeros((32, 32), bool)
    for row in range(32):
        for col in range(32):
            slow[row, col] = mask[int((row + 0.5 + 4) * 60 / 40), int((col + 0.5 + 10) * 80 / 53)]
    assert (seen == slow).all()
    assert 0 < seen.sum() < 1024


def test_the_mask_of_the_same_sub_folder_comes_first(folder, tmp_path):
    pictures = choose_pictures(folder)[0]
    for number, name in enumerate(("a.png", "b.png", "deep/a.png", "c.png")):
        mask = np.zeros((60, 80), bool)
        mask[30:34, 30 + 3 * number : 33 + 3 * number] = True
        save_mask(tmp_path / "masks" / name, mask)
    mark = find_masks(tmp_path / "masks", pictures, folder)
    columns = [np.flatnonzero(mark(path, place((60, 80), PREPROCESS)).any(axis=0))[0] for path in pictures]
    assert columns == sorted(set(columns))


def test_masks_that_cannot_be_used_are_refused(folder, tmp_path):
    pictures = choose_pictures(folder)[0][:1]
    placement = place((60, 80), PREPROCESS)
    with pytest.raises(DataError, match=r"nothing about a\.jpg: add a mask NAME\.png for every picture"):
        find_masks(tmp_path / "masks", pictures, folder)
    path = tmp_path / "masks" / "a.png"
    save_mask(path, np.zeros((60, 80)))
    mark = find_masks(tmp_path / "masks", pictures, folder)
    with pytest.raises(DataError, match="the mask is empty, so that nothing can be hit"):
        mark(pictures[0], placement)
    corner = np.zeros((60, 80))
    corner[:3, :3] = 1
    save_mask(path, corner)
    with pytest.raises(DataError, match="the object lies outside of what the model sees"):
        mark(pictures[0], placement)
    save_mask(path, np.ones((80, 60)))
    with pytest.raises(DataError, match="has 60 x 80 pixels and the picture 80 x 60"):
        mark(pictures[0], placement)
    path.write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"a\.png: cannot decode"):
        mark(pictures[0], placement)


def test_boxes_are_united_and_carried_like_masks(folder, tmp_path):
    pictures = choose_pictures(folder)[0][:2]
    text = "file,left,top,right,bottom\na.jpg,30,20,40,41\na.jpg,50,20,60,41\nb.png,-5,-5,300,300\n"
    mark = read_boxes(table(tmp_path, text), pictures, folder)
    mask = np.zeros((60, 80), bool)
    mask[20:41, 30:40] = mask[20:41, 50:60] = True
    save_mask(tmp_path / "masks" / "a.png", mask)
    placement = place((60, 80), PREPROCESS)
    assert (
        mark(pictures[0], placement) == find_masks(tmp_path / "masks", pictures[:1], folder)(pictures[0], placement)
    ).all()
    assert mark(pictures[1], placement).all()


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("a.jpg,1,2,3\n", "line 1 has 4 fields, not 5"),
        ("a.jpg,1,2,3,x\n", "line 1: 1, 2, 3, x are not four whole numbers"),
        ("a.jpg,10,2,10,20\n", r"line 1: a box from \(10, 2\) to \(10, 20\) has no area"),
        ("a.jpg,-10,2,0,20\n", "has no area"),
        ("z.jpg,1,1,2,2\n", "nothing about a.jpg: add its box"),
    ],
)
def test_boxes_that_cannot_be_used_are_refused(text, rule, folder, tmp_path):
    with pytest.raises(DataError, match=rule):
        read_boxes(table(tmp_path, text), choose_pictures(folder)[0][:1], folder)
    mark = read_boxes(table(tmp_path, "a.jpg,0,0,2,2\n"), choose_pictures(folder)[0][:1], folder)
    with pytest.raises(DataError, match="outside of what the model sees"):
        mark(folder / "a.jpg", place((60, 80), PREPROCESS))
