"""The preprocessing contract: what happens between a photograph and the model's input.

Declarative, validated, without Python code in it, so that it can travel with the model: in the
``metadata_props`` of the .onnx file, or as a TOML file beside it.
"""

import tomllib
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from onnx_evidence.errors import DataError, one_line

METADATA_KEY = "onnx_evidence.preprocess"

Side = Annotated[int, Field(ge=1, le=16384)]


class Preprocess(BaseModel):
    """Resize, centre crop, channel order, ``(pixel * scale - mean) / std``.

    Attributes
    ----------
    size : (int, int)
        Height and width of the model's input.
    resize : {'short', 'stretch'}
        'short': scale so that the shorter side becomes ``resize_to``, then crop the centre; 'stretch': scale both
        sides to ``size``, whatever the aspect.
    resize_to : int, optional
        The shorter side after resizing; at least as large as ``size`` demands.
    interpolation : {'bilinear', 'bicubic', 'area', 'nearest', 'lanczos'}
        As OpenCV computes them (no antialiasing but in 'area').
    color : {'RGB', 'BGR', 'GRAY'}
        Channel order of the input.
    scale : float
        Factor on pixel values 0..255, before the mean is taken off; 1/255 for means given on 0..1.
    mean, std : tuple of float
        One per channel.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: tuple[Side, Side]
    resize: Literal["short", "stretch"] = "short"
    resize_to: Side | None = None
    interpolation: Literal["bilinear", "bicubic", "area", "nearest", "lanczos"] = "bilinear"
    color: Literal["RGB", "BGR", "GRAY"] = "RGB"
    scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    mean: tuple[Annotated[float, Field(allow_inf_nan=False)], ...]
    std: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name in ("mean", "std"):
            if len(getattr(self, name)) != self.channels:
                raise ValueError(f"{name} has {len(getattr(self, name))} values, {self.color} needs {self.channels}")
        if self.resize == "stretch" and self.resize_to is not None:
            raise ValueError("resize_to belongs to resize = 'short'")
        if self.resize == "short" and self.short_side < max(self.size):
            raise ValueError(f"resize_to {self.short_side} is smaller than the crop {self.size[0]} x {self.size[1]}")
        return self

    @property
    def channels(self) -> int:
        """Channels of the model's input."""
        return 1 if self.color == "GRAY" else 3

    @property
    def short_side(self) -> int:
        """The shorter side after resizing, before the crop."""
        return max(self.size) if self.resize_to is None else self.resize_to


def _message(error: ValidationError) -> str:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"{place}: {first['msg']}" if place else first["msg"]


def parse_preprocess(text: str, source: str) -> Preprocess:
    """Read the JSON that a model carries under `METADATA_KEY`.

    Parameters
    ----------
    text : str
        The JSON.
    source : str
        Where it came from.

    Returns
    -------
    Preprocess

    Raises
    ------
    DataError
        If it is no valid preprocessing; ``source`` names where it came from.
    """
    try:
        return Preprocess.model_validate_json(text)
    except ValidationError as error:
        raise DataError(f"{source}: the preprocessing is not valid: {_message(error)}") from error


def read_preprocess(path: Path) -> Preprocess:
    """Read a TOML file.

    Parameters
    ----------
    path : Path
        The file, in UTF-8.

    Returns
    -------
    Preprocess

    Raises
    ------
    DataError
        If the file cannot be read or is no valid preprocessing.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        return Preprocess.model_validate(values)
    except ValidationError as error:
        raise DataError(f"{path}: the preprocessing is not valid: {_message(error)}") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DataError(f"{path}: cannot read the preprocessing: {one_line(error)}") from error
