"""Every format and layout of `picture_cases` beside Pillow and beside what was put in, as docs/pictures.md has it.

``python tools/check_pictures.py > table.md``; the exit code is 1 where a file is read wrong.
"""

import io
import sys
import tempfile
import warnings
from pathlib import Path

import click
import cv2
import numpy as np
from numpy.typing import NDArray
from parts.picture_cases import Array, Case, every_case
from PIL import Image, ImageOps

from onnx_evidence import EvidenceError
from onnx_evidence.pictures.photograph import read_photograph


def pillow(data: bytes) -> NDArray[np.uint8] | None:
    """A picture as trainers' libraries read it; None where Pillow does not."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    except (OSError, SyntaxError, ValueError):
        return None


def opencv(data: bytes) -> Array | None:
    """As OpenCV reads it, by default: 8 bits, EXIF's orientation applied."""
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)


def apart(one: Array | None, other: Array | None) -> str:
    """The largest difference in grey levels, in words where there is none."""
    if one is None or other is None:
        return "not read" if one is None else ""
    if one.shape != other.shape:
        return "another shape"
    return str(np.abs(one.astype(np.int64) - other).max())


def row(case: Case, path: Path) -> tuple[list[str], bool]:
    """Name; ours from Pillow, from the truth, at the file's depth; OpenCV from the truth; whether it is right."""
    path.write_bytes(case.data)
    try:
        photograph = read_photograph(path)
    except EvidenceError as error:
        return [case.name, f"refused: {error}", "", "", ""], False
    reference = pillow(case.data)
    truth = reference if case.truth is None else case.truth
    ours = [apart(reference, photograph.pixels), apart(case.truth, photograph.pixels), apart(case.raw, photograph.raw)]
    shown = [ours[0], ours[1] if case.truth is not None else "lossy", ours[2] if case.raw is not None else ""]
    right = (not case.pillow or ours[0] == "0") and (case.truth is None or ours[1] == "0")
    right &= case.raw is None or ours[2] == "0"
    return [case.name, *shown, apart(opencv(case.data), truth)], right


@click.command()
def main() -> None:
    """Hold every format and layout beside Pillow and beside what was put in; print the table of docs/pictures.md."""
    print("| file | from Pillow | from what was put in | the same, at its depth | OpenCV's from that |")
    print("|---|---|---|---|---|")
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        for case in every_case():
            cells, right = row(case, Path(folder) / f"picture{case.suffix}")
            wrong += not right
            print("|", " | ".join([cells[0] + ("" if right else " **wrong**"), *cells[1:]]), "|")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
