"""Where the cells of a cut look: measured on noise in the range of pictures, by arithmetic where that cannot be.

Where a cell looks is measured, not derived: bands of the input are blurred, and the energy of the change that each row
(column) of cells feels has a centre and a spread. Nominal centres of networks with uneven padding are off by half a
stride; measured ones are not. Energies are compared with each other and with the rounding of the features alone, so
the scale of the features does not matter. What cannot be measured is said, and is never taken for a field.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from onnx_evidence.cuts.graph import Cut
from onnx_evidence.evidence import EVEN, MEASURED, NOMINAL, AxisField, CellField
from onnx_evidence.graphs import reach as geometry
from onnx_evidence.pictures import blur
from onnx_evidence.preprocessing import MARGIN, InputRange
from onnx_evidence.types import Features, FloatArray, Head, IntArray, Mask

# Synthetic pictures that the field is measured on: two agree with photographs (docs/first-light.md).
_PICTURES = 2
# Copies of a picture that are run at once: with more, opening a model would hold more than explaining by it.
_AT_ONCE = 4
# Contrast of the pictures: rows of cells that nothing moves are tried again on stronger colours.
_CONTRASTS = (1.0, 3.0, 16.0)
# Bands of the input per axis: about one a cell, and enough of them where cells are few.
_BANDS = (14, 28)
_BLUR_SIGMA = 11.0
# Changes below this share of the features are float32's rounding: eight times its spacing.
_ROUNDING = 8 * float(np.finfo(np.float32).eps)
# Rows of cells that must answer: fewer do not say where the others are.
_FEWEST = 0.5
# Cells that lie closer together than this share of an even spacing have fallen together.
_CLOSEST = 1 / 3
_AXES = ("rows", "columns")


@dataclass(frozen=True)
class _Answers:
    """What the cells of one axis make of blurred bands.

    Attributes
    ----------
    energy : ndarray of float64, shape (cells, bands)
        Of the change, above rounding.
    edges : ndarray of int64, shape (bands + 1,)
        Of the bands, in pixels.
    """

    energy: FloatArray
    edges: IntArray

    @property
    def moved(self) -> Mask:
        """Cells that answer to any band at all."""
        found: Mask = self.energy.max(axis=1) > 0
        return found

    def filled(self, other: "_Answers") -> "_Answers":
        """The same with the rows that do not answer taken from another look."""
        return _Answers(np.where(self.moved[:, None], self.energy, other.energy), self.edges)


def measure_field(
    head: Head, source: InputRange, size: tuple[int, int], grid: tuple[int, int], nominal: geometry.Field | None = None
) -> CellField:
    """Measure where cells look, on seeded pictures with the spectrum of photographs.

    Depends on the model and the range of its input alone, so it is the same in every run.

    Parameters
    ----------
    head : Head
        Input to features.
    source : InputRange
        What the values of the input go from and to: nothing else is fed to the head.
    size : (int, int)
        Height and width of the input in pixels.
    grid : (int, int)
        Rows and columns of cells.
    nominal : geometry.Field, optional
        What arithmetic says of the fields, for cells that cannot be measured.

    Returns
    -------
    CellField
        In pixels of the input; with the reason where it is not measured.
    """
    for margin in (0.0, MARGIN):
        answers = [_look(head, source, size, grid[axis], axis, margin) for axis in (0, 1)]
        if all(np.isfinite(each.energy).all() for each in answers):
            break
    else:
        return unmeasured(size, grid, nominal, "features are not finite numbers on pictures of noise")
    found = [_placed(each, size[axis]) for axis, each in enumerate(answers)]
    for axis, (field, silent) in enumerate(found):
        if problem := _problem(field, silent, grid[axis]):
            return unmeasured(size, grid, nominal, f"{_AXES[axis]} of cells {problem}")
    unmoved = [f"{count} of {grid[axis]} {_AXES[axis]} of cells" for axis, (_, count) in enumerate(found) if count]
    reason = f"{' and '.join(unmoved)} answer to nothing, and are placed by their neighbours" if unmoved else ""
    return CellField(found[0][0], found[1][0], MEASURED, reason)


def measured_together(cuts: Sequence[Cut], size: tuple[int, int], most_bytes: int) -> frozenset[str]:
    """Cuts that are measured on the same pictures as another one: one run to the last of them serves all.

    Parameters
    ----------
    cuts : sequence of Cut
        Some; the input is measured by nobody.
    size : (int, int)
        Height and width of the input in pixels.
    most_bytes : int
        Of features: what takes more is better run cut by cut.

    Returns
    -------
    frozenset of str
        Their names.
    """
    inside = [cut for cut in cuts if cut.op_type != "Input"]
    bands = {cut.name: [_bands(cells, side) for cells, side in zip(cut.grid, size, strict=True)] for cut in inside}
    row = sum(4 * prod(cut.shape) for cut in inside)
    alike = [name for name in bands if list(bands.values()).count(bands[name]) > 1]
    return frozenset(name for name in alike if row * _PICTURES * sum(each + 1 for each in bands[name]) <= most_bytes)


def _bands(cells: int, pixels: int) -> int:
    return min(max(cells, _BANDS[0]), _BANDS[1], pixels)


def unmeasured(
    size: tuple[int, int],
    grid: tuple[int, int],
    nominal: geometry.Field | None,
    reason: str,
    *,
    how: str | None = None,
) -> CellField:
    """Where cells look by arithmetic; where that says nothing, evenly spaced cells that may see everything.

    Parameters
    ----------
    size : (int, int)
        Height and width of the input in pixels.
    grid : (int, int)
        Rows and columns of cells.
    nominal : geometry.Field or None
        What arithmetic says.
    reason : str
        Why they are not measured.
    how : str, optional
        What is said of it; by default which of the two it is.

    Returns
    -------
    CellField
        Spreads are those of a field that is even over its size: no measured one is wider.
    """
    everything = nominal is None or nominal.everything
    if nominal is not None:
        axes = [
            _nominal(axis, pixels, cells, everything=everything)
            for axis, pixels, cells in zip((nominal.rows, nominal.cols), size, grid, strict=True)
        ]
        if not any(map(_fallen, axes)):
            return CellField(axes[0], axes[1], how or NOMINAL, reason)
    rows, cols = (_even(pixels, cells) for pixels, cells in zip(size, grid, strict=True))
    return CellField(rows, cols, how or EVEN, f"{reason}, and arithmetic does not say where they look")


def _nominal(axis: geometry.Axis, pixels: int, cells: int, *, everything: bool) -> AxisField:
    """Centres of the parts of fields that lie inside the picture."""
    first = axis.low + axis.stride * np.arange(cells, dtype=np.float64)
    start, stop = np.clip(first, 0, pixels), np.clip(first + axis.size, 0, pixels)
    spread = np.full(cells, pixels / 12**0.5) if everything else (stop - start) / 12**0.5
    return AxisField(pixels, np.clip(first + axis.size / 2, 0, pixels), spread)


def _even(pixels: int, cells: int) -> AxisField:
    return AxisField(pixels, (np.arange(cells) + 0.5) * pixels / cells, np.full(cells, pixels / 12**0.5))


def _look(head: Head, source: InputRange, size: tuple[int, int], cells: int, axis: int, margin: float) -> _Answers:
    """What the cells of an axis answer to, on pictures of growing contrast until all do."""
    bands = _bands(cells, size[axis])
    edges = np.unique(np.linspace(0, size[axis], bands + 1).round().astype(np.int64))
    answers = _Answers(np.zeros((cells, len(edges) - 1)), edges)
    for strength, contrast in enumerate(_CONTRASTS):
        numbers = range(strength * _PICTURES, (strength + 1) * _PICTURES)
        pictures = [source.noise(size, number, contrast=contrast, margin=margin) for number in numbers]
        energy = np.mean([_responses(head, picture, axis, edges) for picture in pictures], axis=0)
        answers = answers.filled(_Answers(energy, edges))
        if answers.moved.all() or not np.isfinite(energy).all():
            break
    return answers


def _responses(head: Head, picture: Features, axis: int, edges: IntArray) -> FloatArray:
    """Change of each row (column) of cells when each band of the input is blurred, above rounding, (cells, bands)."""
    lowest, highest = (find(picture, axis=(1, 2), keepdims=True) for find in (np.min, np.max))
    blurred = np.clip(blur(picture, _BLUR_SIGMA), lowest, highest)
    batch = np.repeat(picture[None], len(edges), axis=0)
    for copy, start, stop in zip(batch[1:], edges[:-1], edges[1:], strict=True):
        band = np.s_[:, start:stop] if axis == 0 else np.s_[:, :, start:stop]
        copy[band] = blurred[band]
    some = (head(batch[first : first + _AT_ONCE]) for first in range(0, len(batch), _AT_ONCE))
    features = np.concatenate(list(some)).astype(np.float64)
    if not np.isfinite(features).all():
        return np.full((features.shape[2 + axis], len(edges) - 1), np.nan)
    change = ((features[1:] - features[0]) ** 2).sum(axis=1).mean(axis=2 - axis).T
    rounding = _ROUNDING**2 * (features[0] ** 2).sum(axis=0).mean(axis=1 - axis)
    energy: FloatArray = np.maximum(change - rounding[:, None], 0)
    return energy


def _placed(answers: _Answers, pixels: int) -> tuple[AxisField, int]:
    """Centre and spread of what each cell answers to, and how many cells answer to nothing."""
    moved = answers.moved
    if not moved.any():
        return _even(pixels, len(moved)), len(moved)
    share = answers.energy[moved] / answers.energy[moved].max(axis=1, keepdims=True)
    share /= share.sum(axis=1, keepdims=True)
    middles = (answers.edges[:-1] + answers.edges[1:]) / 2
    centre = share @ middles
    width = np.diff(answers.edges).mean()
    # A band is not a line: its own variance is no part of the field's.
    variance = (share * (middles - centre[:, None]) ** 2).sum(axis=1) - width**2 / 12
    spread = np.sqrt(np.maximum(variance, 0))
    where, cells = np.flatnonzero(moved), np.arange(len(moved))
    nearest = where[np.abs(cells[:, None] - where).argmin(axis=1)]
    # Between two that answer on the line from one to the other, beyond them at the grid's pitch.
    beyond = (cells - np.clip(cells, where[0], where[-1])) * (pixels / len(moved))
    places = np.clip(np.interp(cells, where, centre) + beyond, 0, pixels)
    return AxisField(pixels, places, np.interp(nearest, where, spread)), int((~moved).sum())


def _problem(field: AxisField, silent: int, cells: int) -> str:
    """Why what was measured says nothing of where cells lie; empty where it does."""
    if silent > (1 - _FEWEST) * cells:
        return f"answer to nothing, {silent} of {cells}, on pictures of noise"
    if _fallen(field):
        return "seem to lie in one place, because all see the whole picture alike"
    return ""


def _fallen(field: AxisField) -> bool:
    """Whether centres lie much closer together than cells that share the picture would."""
    place = np.arange(len(field.centre)) - (len(field.centre) - 1) / 2
    pitch = abs(place @ field.centre) / (place @ place)
    return bool(pitch < _CLOSEST * field.pixels / len(field.centre))
