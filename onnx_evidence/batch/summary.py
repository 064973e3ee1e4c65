"""A cohort as a table: a row per map, with what can be compared from picture to picture."""

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from onnx_evidence.batch.journal import read_lines
from onnx_evidence.batch.manifest import manifest_of
from onnx_evidence.batch.receipt import unlike_receipt
from onnx_evidence.errors import DataError, StoreError, one_line
from onnx_evidence.files import MOST, Head, csv_text, heads_of, open_inside, unpack_arrays, write_atomic
from onnx_evidence.pictures import read_mask
from onnx_evidence.types import FloatArray, Mask

# What every map holds, a number per pixel.
_MAPS = ("input_pixels", "pixels", "stderr")


class Row(NamedTuple):
    """A map in numbers; None where there is none."""

    image: str
    map: str  # its path, relative to the folder
    target: int
    label: str
    versus: str  # the name of the class that it is held against; '' without one
    probability: float
    log_odds_bits: float
    for_bits: float | None
    against_bits: float | None
    gap_share: float | None
    # Share of the evidence, by its magnitude, inside the central quarter of what the model saw, or inside the mask.
    inside: float | None
    unresolved: float | None  # share of the map that cannot be told from zero; None where nothing was sampled
    seconds: float  # for all maps of the picture together


def summarise(
    folder: Path, masks: Path | None = None, progress: Callable[[int], object] = lambda maps: None
) -> Iterator[Row]:
    """A row for every map in an output folder, one by one.

    Parameters
    ----------
    folder : Path
        Of `explain`.
    masks : Path, optional
        Holds ``NAME.png`` for pictures ``NAME.*``: not zero on the object, as large as the photograph.
    progress : callable
        Called with the number of maps done since the last call.

    Returns
    -------
    iterator of Row
        In the manifest's order.

    Raises
    ------
    StoreError
        If the folder holds no results, or a line or a map cannot be read.
    DataError
        If there is no folder of masks, or a mask does not fit its picture.
    """
    path = manifest_of(folder)
    if masks is not None and not masks.is_dir():
        raise DataError(f"{masks}: there is no such folder: name the one that holds the masks")
    for line in read_lines(path):
        if line.problem and not line.torn:
            raise StoreError(f"{path}: line {line.number}: {line.problem}; 'onnx-evidence verify' says more")
        if not line.torn:
            if wrong := unlike_receipt(line.value):
                raise StoreError(f"{path}: line {line.number}: is no receipt of this version: {wrong}")
            yield _row(folder, line.value, masks)
            progress(1)


def _row(folder: Path, entry: dict[str, Any], masks: Path | None) -> Row:
    budget = entry["budget"] or {}
    arrays = load_map(folder, entry["map"])
    return Row(
        entry["image"],
        entry["map"],
        entry["target"],
        entry["label"],
        entry["versus_label"] or "",
        entry["probability"],
        entry["log_odds_bits"],
        budget.get("for_bits"),
        budget.get("against_bits"),
        budget.get("gap_share"),
        _inside(arrays, entry["image"], masks),
        _unresolved(arrays),
        entry["seconds"],
    )


def load_map(folder: Path, name: str) -> dict[str, FloatArray]:
    """The arrays of a map's .npz file, named relative to the folder of results; StoreError where it cannot be read."""
    try:
        with open_inside(folder, name, most=MOST) as stream:
            if odd := _why_no_map(heads_of(stream)):
                raise StoreError(f"{folder / name}: cannot read the map: {odd}")
            return unpack_arrays(stream)
    except OSError as error:
        raise StoreError(f"{folder / name}: cannot read the map: {error.strerror or one_line(error)}") from error
    except ValueError as error:
        raise StoreError(f"{folder / name}: cannot read the map: {error}") from error


def _why_no_map(heads: Mapping[str, Head]) -> str:
    """What keeps arrays from being those of a map, seen before they take memory; '' where nothing does."""
    if odd := [key for key, head in heads.items() if head.dtype != np.float32]:
        return f"{odd[0]!r} holds no float32"
    odd = [key for key in _MAPS if key not in heads or len(heads[key].shape) != 2]
    # What there is per pixel of the input has one shape.
    alike = [key for key in ("stderr", "margin") if key in heads]
    odd = odd or [key for key in alike if heads[key].shape != heads["input_pixels"].shape]
    return f"{odd[0]!r} is missing, or no picture's" if odd else ""


def central(shape: tuple[int, ...]) -> Mask:
    """The central quarter of an area of some (height, width): half of each side, as a mask of the whole."""
    mask = np.zeros(shape, np.bool_)
    height, width = shape
    mask[height // 4 : height - height // 4, width // 4 : width - width // 4] = True
    return mask


def _inside(arrays: dict[str, FloatArray], image: str, masks: Path | None) -> float | None:
    if masks is None:
        return _share(arrays["input_pixels"], central(arrays["input_pixels"].shape))
    path = masks / f"{Path(image).stem}.png"
    if not path.exists():
        return None
    mask = read_mask(path)
    if mask.shape != arrays["pixels"].shape:
        sizes = [f"{width} x {height}" for height, width in (mask.shape, arrays["pixels"].shape)]
        raise DataError(f"{path}: the mask has {sizes[0]} pixels and the picture {sizes[1]}: they must agree")
    return _share(arrays["pixels"], mask)


def _share(values: FloatArray, mask: Mask) -> float | None:
    sizes = np.abs(values.astype(np.float64))
    total = float(sizes.sum())
    return float(sizes[mask].sum()) / total if total else None


def _unresolved(arrays: dict[str, FloatArray]) -> float | None:
    if "margin" not in arrays:
        return None
    # NaN, an error that nobody estimated, compares as not above.
    return float((arrays["margin"] > np.abs(arrays["input_pixels"])).mean())


def is_table(stream: BinaryIO) -> bool:
    """Whether a file is a table that `write_table` made.

    Parameters
    ----------
    stream : file object
        Binary.

    Returns
    -------
    bool
    """
    head = ",".join(Row._fields).encode()
    return stream.read(len(head) + 2).splitlines()[:1] == [head]


def write_table(path: Path, rows: Iterable[Row]) -> None:
    """Write rows as CSV that spreadsheets take for nothing but text and numbers.

    Parameters
    ----------
    path : Path
        Its folder is made where it is missing.
    rows : iterable of Row
        From `summarise`; written as they come, and there when all are.

    Raises
    ------
    StoreError
        If it cannot be written; and what the rows raise.
    """

    def write(stream: BinaryIO) -> None:
        text = io.TextIOWrapper(stream, encoding="utf-8", errors="replace", newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(Row._fields)
        for row in rows:
            writer.writerow([csv_text(value) if isinstance(value, str) else value for value in row])
        text.detach()  # which flushes it, and leaves the file open

    write_atomic(path, write)


class Group(NamedTuple):
    """Means over the maps of one class, or of all."""

    name: str  # the class, 'A rather than B' where it was held against one
    maps: int
    means: dict[str, float]  # by the fields of `Row`; those that no map has are left out


_MEANT = ("probability", "log_odds_bits", "for_bits", "against_bits", "gap_share", "inside", "unresolved", "seconds")


class Cohort:
    """Means over rows that come one by one: what is kept is as many sums as there are classes."""

    def __init__(self) -> None:
        self.maps = 0
        self._classes: dict[tuple[int, str], _Sums] = {}
        self._kinds: dict[bool, _Sums] = {}

    def noting(self, rows: Iterable[Row]) -> Iterator[Row]:
        """The same rows, which are counted as they pass."""
        for row in rows:
            self.maps += 1
            name = f"{row.label} rather than {row.versus}" if row.versus else row.label
            self._classes.setdefault((row.target, row.versus), _Sums(name)).add(row)
            kind = "all rather than another" if row.versus else "all"
            self._kinds.setdefault(bool(row.versus), _Sums(kind)).add(row)
            yield row

    def classes(self) -> list[Group]:
        """Means by class, the most frequent first.

        Returns
        -------
        list of Group
        """
        return [each.group() for each in sorted(self._classes.values(), key=lambda each: each.maps, reverse=True)]

    def totals(self) -> list[Group]:
        """Means over all maps; those of one class rather than another answer another question, and have their own.

        Returns
        -------
        list of Group
            'all', 'all rather than another', or both.
        """
        return [self._kinds[kind].group() for kind in sorted(self._kinds)]


class _Sums:
    """Sums by field, and how many values each has."""

    def __init__(self, name: str) -> None:
        self.name, self.maps = name, 0
        self._counts = dict.fromkeys(_MEANT, 0)
        self._sums = dict.fromkeys(_MEANT, 0.0)
        self._lost = dict.fromkeys(_MEANT, 0.0)  # what rounding took from each, as Neumaier keeps it

    def add(self, row: Row) -> None:
        self.maps += 1
        for field in _MEANT:
            value = getattr(row, field)
            if value is None:
                continue
            before, after = self._sums[field], self._sums[field] + value
            larger, smaller = (before, value) if abs(before) >= abs(value) else (value, before)
            self._lost[field] += (larger - after) + smaller
            self._sums[field] = after
            self._counts[field] += 1

    def group(self) -> Group:
        means = {
            field: (self._sums[field] + self._lost[field]) / count for field, count in self._counts.items() if count
        }
        return Group(self.name, self.maps, means)
