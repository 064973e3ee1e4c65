"""What a user knows of the pictures, from files: true classes, and where the objects are."""

import csv
import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from onnx_evidence.errors import DataError, TargetError, one_line
from onnx_evidence.files import read_text
from onnx_evidence.pictures import Placement, list_images, printable, read_mask
from onnx_evidence.types import Mask

# Left, top, right and bottom in pixels of the photograph; right and bottom lie outside.
Box = tuple[int, int, int, int]
# Marks the object of a picture in the pixels of the model's input, shape (H, W).
Marker = Callable[[Path, Placement], Mask]


def choose_pictures(
    folder: Path, limit: int | None = None, leave_out: Sequence[Path] = ()
) -> tuple[list[Path], list[Path]]:
    """The pictures of a folder and those inside it, but for some left out, that are measured, and all of them."""
    if not folder.exists():
        raise DataError(f"{folder}: there is no such folder of pictures")
    found = list_images([folder], leave_out, tell=True)
    if limit is None or limit >= len(found):
        return found, found
    # Spread evenly over the sorted list: neighbours in it are often alike.
    return [found[number * len(found) // limit] for number in range(limit)], found


def _inside(path: Path, folder: Path) -> Path:
    return path.relative_to(folder) if folder in path.parents else Path(path.name)


class _Names:
    """How tables name pictures: by their path inside the folder, or by the file's name where it is the only one."""

    def __init__(self, pictures: Sequence[Path], folder: Path) -> None:
        self._paths = {printable(_inside(path, folder).as_posix()): path for path in pictures}
        alike = Counter(path.name for path in pictures)
        for path in pictures:
            if alike[path.name] == 1:
                self._paths.setdefault(printable(path.name), path)

    def find(self, name: str) -> Path | None:
        return self._paths.get(name.strip().removeprefix("./"))


def _read_table(table: Path, fields: int, what: str) -> list[tuple[int, list[str]]]:
    """The lines of a CSV file, with their numbers; blank ones are passed over."""
    try:
        with io.StringIO(read_text(table), newline="") as stream:
            reader = csv.reader(stream, strict=True)
            lines = [(reader.line_num, line) for line in reader if any(field.strip() for field in line)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table}: cannot read the table: {one_line(error)}") from error
    for number, line in lines:
        if len(line) != fields:
            raise DataError(
                f"{table}: line {number} has {len(line)} fields, not {fields}: {what}; quote those with a comma"
            )
    return lines


def _refuse_missing(
    pictures: Sequence[Path], folder: Path, known: Mapping[Path, object], source: Path, remedy: str
) -> None:
    missing = [printable(_inside(path, folder).as_posix()) for path in pictures if path not in known]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise DataError(f"{source}: nothing about {missing[0]}{more}: {remedy}")


def read_truth(
    table: Path, pictures: Sequence[Path], folder: Path, find_class: Callable[[str], int]
) -> dict[Path, int]:
    """The true classes, from a CSV file with a picture's file name and a class number or name per line.

    Lines about other pictures, and so a header, are passed over.
    """
    names = _Names(pictures, folder)
    truth: dict[Path, int] = {}
    for number, (name, label) in _read_table(table, 2, "file name, class"):
        if (path := names.find(name)) is None:
            continue
        try:
            target = find_class(label)
        except TargetError as error:
            raise DataError(f"{table}: line {number}: {error}") from error
        if truth.setdefault(path, target) != target:
            raise DataError(f"{table}: line {number}: {name} has another class above: keep one of the lines")
    _refuse_missing(pictures, folder, truth, table, "add its class, or leave the picture out")
    return truth


def find_masks(masks: Path, pictures: Sequence[Path], folder: Path) -> Marker:
    """Objects from a folder of PNG files that are named like the pictures.

    It holds ``NAME.png`` for every picture ``NAME.*``, in the same sub-folder or in none; not zero on the object.
    """
    found: dict[Path, Path] = {}
    for path in pictures:
        for candidate in (masks / _inside(path, folder).with_suffix(".png"), masks / f"{path.stem}.png"):
            if candidate.is_file():
                found.setdefault(path, candidate)
    _refuse_missing(pictures, folder, found, masks, "add a mask NAME.png for every picture NAME.*")

    def mark(path: Path, placement: Placement) -> Mask:
        mask = read_mask(found[path])
        if mask.shape != placement.original:
            sizes = [f"{width} x {height}" for height, width in (mask.shape, placement.original)]
            raise DataError(
                f"{found[path]}: the mask has {sizes[0]} pixels and the picture {sizes[1]}: they must agree"
            )
        return _seen(mask, placement, found[path])

    return mark


def read_boxes(table: Path, pictures: Sequence[Path], folder: Path) -> Marker:
    """Objects from a CSV file: a picture's file name, left, top, right and bottom, in pixels of the photograph.

    Several lines of one picture are several objects; lines about other pictures, and so a header, are passed over.
    """
    names = _Names(pictures, folder)
    boxes: dict[Path, list[Box]] = {}
    for number, (name, *sides) in _read_table(table, 5, "file name, left, top, right, bottom"):
        if (path := names.find(name)) is not None:
            boxes.setdefault(path, []).append(_box(sides, f"{table}: line {number}"))
    _refuse_missing(pictures, folder, boxes, table, "add its box, or leave the picture out")

    def mark(path: Path, placement: Placement) -> Mask:
        mask = np.zeros(placement.original, np.bool_)
        for left, top, right, bottom in boxes[path]:
            mask[max(top, 0) : bottom, max(left, 0) : right] = True
        return _seen(mask, placement, table)

    return mark


def _box(sides: Sequence[str], place: str) -> Box:
    try:
        left, top, right, bottom = (int(side) for side in sides)
    except ValueError as error:
        raise DataError(f"{place}: {', '.join(sides)} are not four whole numbers of pixels") from error
    if left >= right or top >= bottom or right <= 0 or bottom <= 0:
        raise DataError(
            f"{place}: a box from ({left}, {top}) to ({right}, {bottom}) has no area: left < right, top < bottom"
        )
    return left, top, right, bottom


def _seen(mask: Mask, placement: Placement, source: Path) -> Mask:
    """The mask in pixels of the model's input: what lies under the centre of each."""
    rows, cols = placement.size
    down = [placement.locate(row, 0)[0] for row in range(rows)]
    right = [placement.locate(0, col)[1] for col in range(cols)]
    seen: Mask = np.zeros(placement.size, np.bool_)
    # Padding shows nothing, whatever lies at the edge beside it.
    inside = placement.inside()
    seen[inside] = mask[np.ix_(down, right)][inside]
    if not seen.any():
        why = "the object lies outside of what the model sees" if mask.any() else "the mask is empty"
        raise DataError(f"{source}: {why}, so that nothing can be hit: correct it, or leave the picture out")
    return seen
