"""Figures drawn again from the maps that they are of, and held against those that were written."""

from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from onnx_evidence.batch import work
from onnx_evidence.batch.summary import load_map
from onnx_evidence.errors import StoreError
from onnx_evidence.files import open_inside
from onnx_evidence.pictures import formats, pillow
from onnx_evidence.results import Explanation
from onnx_evidence.types import AnyArray

# Grey levels that a pixel may be off by: what rounding does to a colour elsewhere.
_LEVELS = 4
# As hard as figures were packed by former versions.
_FORMER = 6
# Bytes of the largest figure that is read: far above any that is drawn.
_LARGEST = 1 << 26


class Redrawn(NamedTuple):
    """What became of a figure when it was drawn again.

    Attributes
    ----------
    same : bool
        Byte by byte.
    wrong : str
        What is not as drawn here, in words; '' where nothing is.
    unknown : bool
        Whether ``wrong`` may be due to another version of the library that drew it.
    """

    same: bool
    wrong: str = ""
    unknown: bool = False


def redraw(folder: Path, entry: dict[str, Any], explanation: Explanation) -> Redrawn:
    """Draw a map's figure again, and hold it against the one that its manifest line names.

    All figures of a picture that one run drew share one scale: the largest magnitude of all its maps. So the scale is
    that of this map, or of another one of the same picture that is larger.
    """
    try:
        with open_inside(folder, entry["figure"]) as stream:
            there = stream.read(_LARGEST)
    except OSError as error:
        return Redrawn(same=False, wrong=f"cannot read: {error.strerror or error}")
    words = ""
    for limit in _limits(folder, entry, explanation):
        now = work.drawn(explanation, limit)
        if now == there:
            return Redrawn(same=True)
        if not (other := _unlike(there, now)):
            return Redrawn(same=work.drawn(explanation, limit, packing=_FORMER) == there)
        words = words or other
    said = entry["versions"].get("matplotlib")
    if said == (here := version("matplotlib")):
        return Redrawn(same=False, wrong=f"shows something else than its map: {words}")
    by = f"is drawn by another matplotlib ({said or 'not said'} there, {here} here)"
    return Redrawn(same=False, wrong=f"{by} and cannot be held against its map: {words}", unknown=True)


def _limits(folder: Path, entry: dict[str, Any], explanation: Explanation) -> list[float]:
    """Scales that a run may have drawn the figure at: first that of all maps of the picture, then each."""
    own = float(np.abs(explanation.shown).max())
    others = {limit for limit in _of_others(folder, entry, explanation) if limit > own}
    return sorted({own, *others}, reverse=True)


def _of_others(folder: Path, entry: dict[str, Any], explanation: Explanation) -> Iterator[float]:
    inner, _, name = entry["map"].partition("/")
    against = "" if entry["versus"] is None else name.partition("-versus-")[2]
    for path in sorted((folder / inner).glob("*.npz")):
        if path.name == name or path.name.partition("-versus-")[2] != against:
            continue
        try:
            values = load_map(folder, f"{inner}/{path.name}").get("input_pixels")
        except StoreError:
            continue
        if values is not None and values.shape == explanation.values.shape:
            yield float(np.abs(replace(explanation, values=values.astype(np.float32, copy=False)).shown).max())


def _unlike(there: bytes, now: bytes) -> str:
    """What keeps a figure from being another one, pixel by pixel; '' where nothing does."""
    try:
        drawn = _decoded(now, None)
        found = _decoded(there, drawn.shape)
    except ValueError as error:
        return f"it is no such picture ({error})"
    differences = np.abs(found.astype(np.int16) - drawn).max(axis=2)
    if differences.max() <= _LEVELS:
        return ""
    row, col = np.unravel_index(differences.argmax(), differences.shape)
    share, most = float((differences > _LEVELS).mean()), differences.max()
    return f"{share:.1%} of its pixels differ, by up to {most} of 255 grey levels at row {row}, column {col}"


def _decoded(data: bytes, shape: tuple[int, ...] | None) -> AnyArray:
    """The pixels of a PNG file; of that shape, which its header says before anything is decoded."""
    if formats.format_of(data) != formats.PNG:
        raise ValueError("no PNG file")
    with pillow.opened(data, formats.PNG) as image:
        height, width = pillow.size_of(image)
        if shape is not None and (height, width) != shape[:2]:
            raise ValueError(f"{width} x {height} pixels, not {shape[1]} x {shape[0]}")
        pixels = pillow.decode(image, bands=True)
    if shape is not None and pixels.shape != shape:
        raise ValueError(f"{pixels.shape[2]} channels, not {shape[2]}")
    return pixels
