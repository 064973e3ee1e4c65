"""The result of explaining one image and one class: maps in bits, and everything needed to read them."""

import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np

from onnx_evidence.images import Photograph
from onnx_evidence.placement import Placement, to_original
from onnx_evidence.store import write_arrays
from onnx_evidence.types import Features

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
    """

    bits: float
    stderr: float
    row: int
    col: int


def write_figure(figure: "Figure", stream: BinaryIO) -> None:
    """Write a figure as PNG; the same figure gives the same bytes.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        What to write.
    stream : binary file
        Open for writing.
    """
    with warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes; that is no news on stderr.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(stream, format="png", metadata={"Software": None})


@dataclass(frozen=True)
class Explanation:
    """Evidence for a class, or for one class rather than another, in one photograph.

    Attributes
    ----------
    values : ndarray of float32, shape (height, width) of the model's input
        Bits; positive speaks for the class (for `target` rather than `versus`), negative against it: how
        far the log-odds fall when what the model saw around a pixel is removed.
    stderr : ndarray of float32, like `values`
        Standard error of `values` in bits; NaN where nothing was sampled.
    grids : tuple of ndarray of float32
        The maps on the grids of the cuts, (rows, columns) each, in bits; `values` is their mean.
    target : Named
        The class explained.
    versus : Named or None
        The class that it is held against.
    probability : float
        Of `target`.
    log_odds_bits : float
        log2 odds of `target` with nothing removed, exact from the logits.
    photograph : Photograph
        What was explained.
    placement : Placement
        Where the model's input lies in the photograph.
    record : dict
        Settings, cuts with their certificates, hashes, device and versions: goes into the manifest.
    """

    values: Features
    stderr: Features
    grids: tuple[Features, ...]
    target: Named
    versus: Named | None
    probability: float
    log_odds_bits: float
    photograph: Photograph
    placement: Placement
    record: dict[str, Any]

    unit = "bits"

    @cached_property
    def pixels(self) -> Features:
        """`values` in the pixels of the original photograph; 0 where the model did not look."""
        return to_original(self.values, self.placement)

    @property
    def title(self) -> str:
        """The question answered: 'tench', or 'tench rather than goldfish'."""
        return f"{self.target.label} rather than {self.versus.label}" if self.versus else self.target.label

    def strongest(self, sign: int) -> Extreme:
        """The strongest evidence for (``sign=1``) or against (``sign=-1``), placed in the photograph.

        Parameters
        ----------
        sign : {1, -1}
            Which side.

        Returns
        -------
        Extreme
            Bits with their own sign; pixels of the original photograph.
        """
        row, col = (int(index) for index in np.unravel_index(np.argmax(sign * self.values), self.values.shape))
        return Extreme(float(self.values[row, col]), float(self.stderr[row, col]), *self.placement.locate(row, col))

    def save(self, path: str | Path) -> None:
        """Write the maps as a lossless .npz of raw float32 bits, whole or not at all.

        Keys: ``input_pixels``, ``pixels``, ``stderr``, ``cut0``, ``cut1``, ...

        Parameters
        ----------
        path : str or Path
            The .npz file; its folder is made where it is missing.

        Raises
        ------
        StoreError
            If the file cannot be written.
        """
        cuts = {f"cut{index}": grid for index, grid in enumerate(self.grids)}
        write_arrays(Path(path), {"input_pixels": self.values, "pixels": self.pixels, "stderr": self.stderr, **cuts})

    def figure(self, limit: float | None = None) -> "Figure":
        """Draw photograph, evidence and overlay: red speaks for, blue against, white is exactly 0.

        Parameters
        ----------
        limit : float, optional
            Bits at the ends of the colour bar; by default the largest magnitude in this map.

        Returns
        -------
        matplotlib.figure.Figure
        """
        from onnx_evidence.render import draw  # matplotlib is slow to import; only pictures need it

        return draw(self, limit)
