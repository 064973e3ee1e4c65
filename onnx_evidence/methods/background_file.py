"""Background files: the fitted Gaussians of one model, for one or several cuts, in one .npz."""

import hashlib
import json
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Annotated, BinaryIO

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from onnx_evidence.errors import DataError, one_line
from onnx_evidence.evidence import Background
from onnx_evidence.files import MOST_BYTES, open_regular, unpack_arrays, write_arrays
from onnx_evidence.methods.settings import BLUR, BOTH, MEAN, ZERO
from onnx_evidence.preprocessing import make_preprocess
from onnx_evidence.types import AnyArray, FloatArray

FORMAT = 1
# What files raise that are no backgrounds, or damaged ones.
_DAMAGED = (KeyError, IndexError, TypeError, ValueError, RecursionError)
# Sides of the largest patch: what its covariance is worth is lost in noise long before.
_LARGEST_PATCH = 64
# Bytes of the largest header.
_HEADER = 1 << 22


class CutHeader(BaseModel):
    """What a background file says of one cut.

    Attributes
    ----------
    name : str
        The cut's tensor.
    shape : (int, int, int)
        Channels, rows, columns.
    patch : int
        Side of the fitted patch in cells.
    window : int
        Side of the window for which the fit was judged.
    r2 : float
        Held-out share of variance that the context predicts.
    clipped : float
        Share of drawn values that had to be clipped to the range seen.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    shape: tuple[int, int, int]
    patch: Annotated[int, Field(ge=1, le=_LARGEST_PATCH)]
    window: int
    r2: float
    clipped: float


class Header(BaseModel):
    """What a background file says of itself.

    Attributes
    ----------
    format : int
        Version of the file's layout.
    model_sha256 : str
        Of the model that the features came from.
    preprocess : str
        The preprocessing in use, as JSON.
    pictures : int
        How many it was fitted from.
    cuts : tuple of CutHeader
        What it says of each cut.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int
    model_sha256: str
    preprocess: str
    pictures: int
    cuts: tuple[CutHeader, ...]


@dataclass(frozen=True)
class BackgroundFile:
    """A background file in memory: its header and one `Background` per cut, in the same order.

    Attributes
    ----------
    header : Header
        What the file says of itself.
    backgrounds : tuple of Background
        One per cut.
    sha256 : str or None
        Of the file's bytes, where it was read from a file.
    """

    header: Header
    backgrounds: tuple[Background, ...]
    sha256: str | None = None

    def for_cut(self, name: str, path: str) -> tuple[CutHeader, Background]:
        """What the file at ``path`` says of the cut of that name, and its background; DataError where it has none."""
        for cut, background in zip(self.header.cuts, self.backgrounds, strict=True):
            if cut.name == name:
                return cut, background
        fitted = ", ".join(repr(cut.name) for cut in self.header.cuts)
        raise DataError(
            f"{path}: this background was fitted for cut {fitted}, not for {name!r}; fit one with "
            f"'onnx-evidence background MODEL FOLDER -o FILE.npz --layer {name}'"
        )


def save_background(path: Path, file: BackgroundFile) -> None:
    """Write a background file, whole or not at all.

    Parameters
    ----------
    path : Path
        The .npz file; one that is there is replaced.
    file : BackgroundFile
        What to write; arrays are rounded to float32.

    Raises
    ------
    StoreError
        If the file cannot be written.
    """
    arrays: dict[str, AnyArray] = {"header": np.array(file.header.model_dump_json())}
    for index, background in enumerate(file.backgrounds):
        rows, cols = np.triu_indices(background.covariance.shape[1])
        arrays[f"mean{index}"] = background.mean.astype(np.float32)
        # The covariance is symmetric: half of it is enough.
        arrays[f"covariance{index}"] = background.covariance[:, rows, cols].astype(np.float32)
        arrays[f"range{index}"] = np.stack([background.low, background.high]).astype(np.float32)
    write_arrays(path, arrays)


def is_background(stream: BinaryIO) -> bool:
    """Whether a file is a background of this version.

    Parameters
    ----------
    stream : file object
        Seekable, binary.

    Returns
    -------
    bool
    """
    try:
        return _header(stream).format == FORMAT
    except _DAMAGED:  # what `Header` finds wrong is a ValueError
        return False


def _header(stream: BinaryIO) -> Header:
    return Header.model_validate(json.loads(str(unpack_arrays(stream, _HEADER, ["header"])["header"])))


# What a mistyped name may have stood for.
_BACKGROUNDS = (
    f"; a background is {MEAN}, {ZERO}, {BLUR}, {BOTH}, a FILE.npz that 'onnx-evidence background' fitted, or a folder "
    "of pictures"
)


def load_background(path: Path, model_sha256: str, preprocess: str) -> BackgroundFile:
    """Read a background file; DataError where it cannot be, or was fitted for another model or preprocessing (JSON)."""
    try:
        with open_regular(path) as stream:
            data = stream.read()
        header = _header(BytesIO(data))
        arrays = unpack_arrays(BytesIO(data), min(_size(header), MOST_BYTES), _names(header))
        backgrounds = tuple(_background(arrays, index, cut) for index, cut in enumerate(header.cuts))
    except ValidationError as error:
        raise DataError(f"{path}: not a background file of this version: {error.errors()[0]['msg']}") from error
    except OSError as error:
        remedy = _BACKGROUNDS if isinstance(error, FileNotFoundError) else ""
        raise DataError(f"{path}: cannot read the background: {error.strerror or one_line(error)}{remedy}") from error
    except _DAMAGED as error:
        raise DataError(f"{path}: not a background file, or a damaged one") from error
    if header.format != FORMAT:
        raise DataError(f"{path}: background of format {header.format}; this version reads format {FORMAT}")
    if header.model_sha256 != model_sha256:
        raise DataError(
            f"{path}: this background was fitted for another model (sha256 {header.model_sha256[:12]}..., "
            f"this model has {model_sha256[:12]}...); fit one for this model"
        )
    # As contracts, not as text: settings that a later version added stand at what they meant before.
    if make_preprocess(header.preprocess, str(path)) != make_preprocess(preprocess, "the preprocessing in use"):
        raise DataError(f"{path}: this background was fitted with another preprocessing; fit one with this one")
    return BackgroundFile(header, backgrounds, hashlib.sha256(data).hexdigest())


def _names(header: Header) -> list[str]:
    return [f"{kind}{index}" for index in range(len(header.cuts)) for kind in ("mean", "covariance", "range")]


def _size(header: Header) -> int:
    """Bytes that the arrays of a header have at most, with their own heads."""
    return sum(
        4 * cut.shape[0] * (cut.shape[1] * cut.shape[2] + cut.patch**2 * (cut.patch**2 + 1) // 2 + 2) + _HEADER
        for cut in header.cuts
    )


def _background(arrays: dict[str, AnyArray], index: int, cut: CutHeader) -> Background:
    mean = arrays[f"mean{index}"].astype(np.float64)
    low, high = arrays[f"range{index}"].astype(np.float64)
    covariance = _unpack(arrays[f"covariance{index}"].astype(np.float64), cut.patch**2)
    if mean.shape != cut.shape or len(covariance) != cut.shape[0] or low.shape != cut.shape[:1]:
        raise ValueError(f"the arrays of cut {cut.name!r} do not have the shape {cut.shape}")
    return Background(cut.patch, mean, covariance, low, high)


def _unpack(packed: FloatArray, size: int) -> FloatArray:
    if packed.ndim != 2 or packed.shape[1] != size * (size + 1) // 2:
        raise ValueError(f"{packed.shape} covariances are none of {size} cells")
    rows, cols = np.triu_indices(size)
    covariance = np.empty((len(packed), size, size))
    covariance[:, rows, cols] = packed
    covariance[:, cols, rows] = packed
    return covariance
