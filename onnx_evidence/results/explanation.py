"""The result of explaining one image and one class: maps in bits, and everything needed to read them."""

import math
import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np

from onnx_evidence.evidence import CONFIDENCE, Budget, half_width, heard, mean_budget
from onnx_evidence.files import pack_arrays, write_bytes
from onnx_evidence.pictures import Photograph, Placement, spread_to_original, to_original
from onnx_evidence.types import Features, FloatArray, Mask

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Named(NamedTuple):
    """A class: its number and its name.

    Attributes
    ----------
    number : int
        0..K-1.
    label : str
        'class 7' where the model has no names.
    """

    number: int
    label: str


class Extreme(NamedTuple):
    """The strongest evidence on one side, and where it is in the photograph (pixel row, column).

    Attributes
    ----------
    bits : float
        The evidence; of the other sign where there is none on this side.
    stderr : float
        Its standard error in bits; NaN where nothing was sampled.
    row, col : int
        Pixel of the original photograph, from 0 at the top left.
    margin : float
        Half-width of its 95 % interval; NaN where nothing was sampled. That of this place: it does not allow for the
        place having been picked because it is extreme.
    """

    bits: float
    stderr: float
    row: int
    col: int
    margin: float = math.nan

    @property
    def interval(self) -> tuple[float, float] | None:
        """Both ends of the 95 % interval; None where nothing was sampled."""
        return None if math.isnan(self.margin) else (self.bits - self.margin, self.bits + self.margin)


def _patch_sums(values: Features, patch: tuple[int, int]) -> FloatArray:
    """Sums over all patches inside the map, shape (H - rows + 1, W - cols + 1)."""
    total: FloatArray = values.astype(np.float64)
    for axis, size in enumerate(patch):
        padded = np.concatenate([np.zeros_like(total.take([0], axis)), total.cumsum(axis)], axis)
        count = padded.shape[axis]
        total = padded.take(range(size, count), axis) - padded.take(range(count - size), axis)
    return total


def write_figure(figure: "Figure", stream: BinaryIO, packing: int = 1) -> None:
    """Write a figure as PNG; the same figure gives the same bytes.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
    stream : binary file
        Open for writing.
    packing : int
        How hard deflate tries, 0 to 9: 1 takes a quarter of the time of 6, for an eighth more bytes.
    """
    with warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes; that is no news on stderr.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        packed = {"compress_level": packing}
        figure.savefig(stream, format="png", dpi="figure", metadata={"Software": None}, pil_kwargs=packed)


@dataclass(frozen=True)
class Explanation:
    """Evidence for a class, or for one class rather than another, in one photograph.

    Attributes
    ----------
    values : ndarray of float32, shape (height, width) of the model's input
        In `unit`; positive speaks for the class (for `target` rather than `versus`), negative against it. Bits per
        pixel add up over any region; bits say how far the log-odds fall when what the model saw around a pixel
        is removed.
    stderr : ndarray of float32, like `values`
        Standard error of `values`; NaN where nothing was sampled.
    grids : tuple of ndarray of float32
        The maps on the grids of the cuts, (rows, columns) each, in bits per cell; `values` is the mean of what
        they come to in pixels, those of `silent` cuts left out.
    budgets : tuple of Budget
        What the cells of every cut add up to, for maps that add up along a path; empty otherwise.
    target : Named
        The class explained.
    versus : Named or None
        The class that it is held against.
    probability : float
        Of `target`, as the deployed file says it.
    log_odds_bits : float
        log2 odds of `target` with nothing removed, exact from the file's logits.
    photograph : Photograph
        What was explained.
    placement : Placement
        Where the model's input lies in the photograph.
    unit : str
        Of `values`.
    record : dict
        Settings, cuts with their certificates, hashes, device and versions: goes into the manifest.
    freedom : ndarray of float64, like `values`, or None
        Degrees of freedom of `stderr`; None where nothing was sampled, or so much that they do not matter.
    looks : int
        How often sampling looked whether to stop, at most: 1 where the number of draws was fixed.
    silent : tuple of bool
        For every cut, whether its cells change no score: all of its map is 0, or nothing reads them. Such a cut has no
        part in `values`, unless all are silent; empty where none is.
    """

    values: Features
    stderr: Features
    grids: tuple[Features, ...]
    budgets: tuple[Budget, ...]
    target: Named
    versus: Named | None
    probability: float
    log_odds_bits: float
    photograph: Photograph
    placement: Placement
    unit: str
    record: dict[str, Any]
    freedom: FloatArray | None = None
    looks: int = 1
    silent: tuple[bool, ...] = ()

    @property
    def adds_up(self) -> bool:
        """Whether `values` can be summed over any region."""
        return self.unit == "bits per pixel"

    @cached_property
    def pixels(self) -> Features:
        """`values` in the pixels of the original photograph; 0 where the model did not look.

        Where they add up, sums over regions are kept.
        """
        return (spread_to_original if self.adds_up else to_original)(self.values, self.placement)

    @property
    def patch(self) -> tuple[int, int]:
        """Rows and columns of the model's input that a number shown to people stands for.

        A fourteenth of the sides where bits add up, one pixel otherwise.
        """
        if not self.adds_up:
            return 1, 1
        height, width = self.values.shape
        return max(1, round(height / 14)), max(1, round(width / 14))

    @property
    def shown(self) -> Features:
        """`values` in the unit that people are shown, `shown_unit`; averaged over a quarter of the patch's sides."""
        return self._as_shown(self.values)

    def _as_shown(self, values: Features) -> Features:
        rows, cols = self.patch
        size = max(1, rows // 4), max(1, cols // 4)
        edges = [(side // 2, side - 1 - side // 2) for side in size]
        # Beyond the border there is nothing to average: the mean of what there is.
        totals, counts = (_patch_sums(np.pad(each, edges), size) for each in (values, np.ones_like(values)))
        return (totals / counts * (rows * cols)).astype(np.float32)

    @property
    def shown_stderr(self) -> Features:
        """Standard error of `shown`, in its unit; an upper bound where bits add up, as neighbours err together."""
        return self._as_shown(self.stderr)

    @property
    def shown_margin(self) -> Features:
        """Half-width of the 95 % interval of `shown`, in its unit; bounded likewise."""
        return self._as_shown(self.margin())

    @property
    def sampled(self) -> bool:
        """Whether anything was sampled, so that there is a standard error."""
        return not bool(np.isnan(self.stderr).all())

    def margin(self, confidence: float = CONFIDENCE) -> Features:
        """Half-width of the interval around every value, by Student's t; see `evidence.half_width`.

        It allows for sampling alone, and for each pixel by itself: of a hundred pixels without evidence, five have
        95 % intervals that leave out 0.

        Parameters
        ----------
        confidence : float
            Between 0 and 1.

        Returns
        -------
        ndarray of float32, like `values`
            In `unit`; NaN where nothing was sampled.

        Raises
        ------
        ValueError
            If the confidence is not between 0 and 1.
        """
        errors = self.stderr.astype(np.float64)
        freedom = np.full(errors.shape, np.inf) if self.freedom is None else self.freedom
        return half_width(errors, freedom, confidence, self.looks).astype(np.float32)

    def resolved(self, confidence: float = CONFIDENCE) -> Mask:
        """Where a value can be told from 0: its interval leaves 0 out, or nothing was sampled, or it is 0 for sure.

        Parameters
        ----------
        confidence : float
            Between 0 and 1.

        Returns
        -------
        ndarray of bool, like `values`

        Raises
        ------
        ValueError
            If the confidence is not between 0 and 1.
        """
        # NaN, an error that nobody estimated, compares as not above.
        within: Mask = self.margin(confidence) > np.abs(self.values)
        return ~within

    @property
    def shown_unit(self) -> str:
        """'bits', or 'bits per 16 x 16 pixels' where bits add up."""
        rows, cols = self.patch
        return f"bits per {rows} x {cols} pixels" if self.adds_up else self.unit

    @property
    def budget(self) -> Budget | None:
        """The mean budget of the cuts that are not silent; None for maps that do not add up along a path."""
        return mean_budget(heard(self.budgets, self.silent)) if self.budgets else None

    @property
    def title(self) -> str:
        """The question answered: 'tench', or 'tench rather than goldfish'."""
        return f"{self.target.label} rather than {self.versus.label}" if self.versus else self.target.label

    @cached_property
    def _patches(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Values, errors and margins of all patches."""
        values = _patch_sums(self.values, self.patch)
        # Pixels of a patch err together: their errors are added up, which bounds that of the sum.
        maps = (self.stderr, self.margin()) if self.sampled else ()
        errors, margins = [_patch_sums(each, self.patch) for each in maps] or [np.full_like(values, np.nan)] * 2
        return values, errors, margins

    def strongest(self, sign: int) -> Extreme:
        """The strongest evidence for (``sign=1``) or against (``sign=-1``), placed in the photograph.

        Parameters
        ----------
        sign : {1, -1}

        Returns
        -------
        Extreme
            Bits with their own sign, within `patch` where bits add up; pixels of the original photograph.
        """
        values, errors, margins = self._patches
        row, col = (int(index) for index in np.unravel_index(np.argmax(sign * values), values.shape))
        # What is summed over a patch is placed at its centre.
        place = (row + self.patch[0] // 2, col + self.patch[1] // 2)
        at = (row, col)
        return Extreme(float(values[at]), float(errors[at]), *self.placement.locate(*place), margin=float(margins[at]))

    def packed(self) -> bytes:
        """The maps as a lossless .npz of raw float32 bits; equal maps give equal bytes.

        Keys: ``input_pixels``, ``pixels``, ``stderr``, ``cut0``, ``cut1``, ..., and where something was sampled
        ``margin``, half the width of every 95 % interval.

        Returns
        -------
        bytes
        """
        cuts = {f"cut{index}": grid for index, grid in enumerate(self.grids)}
        maps = {"input_pixels": self.values, "pixels": self.pixels, "stderr": self.stderr}
        margins = {"margin": self.margin()} if self.sampled else {}
        return pack_arrays({**maps, **margins, **cuts})

    def save(self, path: str | Path) -> None:
        """Write the maps, as `packed`, whole or not at all.

        Parameters
        ----------
        path : str or Path
            Of the .npz file; its folder is made where it is missing.

        Raises
        ------
        StoreError
            If the file cannot be written.
        """
        write_bytes(Path(path), self.packed())

    def figure(self, limit: float | None = None, *, again: bool = False) -> "Figure":
        """Draw photograph, evidence and overlay: red speaks for, blue against, white is exactly 0.

        Where something was sampled, what cannot be told from 0 is hatched, and the standard error has a picture too.

        Parameters
        ----------
        limit : float, optional
            Bits at the ends of the colour bar; by default the largest magnitude in this map.
        again : bool
            Whether the figure of an earlier call may be drawn on again, which is quicker: for one that is written at
            once, as it shows another map after the next call, and keeps what else is drawn on it.

        Returns
        -------
        matplotlib.figure.Figure
        """
        from onnx_evidence.results.figure import draw  # matplotlib is slow to import; only pictures need it

        return draw(self, limit, again=again)
