"""The preprocessing contract: what happens between a picture and the model's input.

Declarative, validated, without Python code in it, so that it can travel with the model: in the
``metadata_props`` of the .onnx file, or as a TOML file beside it.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from onnx_evidence.errors import DataError

Side = Annotated[int, Field(ge=1, le=16384)]
Finite = Annotated[float, Field(allow_inf_nan=False)]

# Channel orders of which the number of channels is known.
_CHANNELS = {"RGB": 3, "BGR": 3, "GRAY": 1}
# What only one of the two libraries has.
_ONLY = {"area": "opencv", "box": "pil", "hamming": "pil"}
# Of 8-bit pictures, and of full 16-bit ones.
WHITE = 255
WHITEST = 65535


class Preprocess(BaseModel):
    """Resize, crop or pad, channel order, ``(sample * scale - mean) / std``.

    Attributes
    ----------
    size : (int, int)
        Height and width of the model's input.
    resize : {'short', 'long', 'stretch', 'crop', 'none'}
        'short': the shorter side becomes ``resize_to``, then the centre is cropped; 'long': the picture is made to
        fit into ``resize_to``, then padded (letterbox); 'stretch': both sides become ``resize_to``, whatever the
        aspect; 'crop': nothing is resized, the centre is cropped or padded; 'none': pictures of another size are
        refused.
    resize_to : int or (int, int), optional
        What is resized to, before the crop; ``size`` by default. Two sides (height, width) for 'long' and 'stretch'.
    interpolation : {'bilinear', 'bicubic', 'lanczos', 'nearest', 'area', 'box', 'hamming'}
        As ``library`` computes it.
    library : {'opencv', 'pil'}
        'opencv': no antialiasing but in 'area', half-pixel centres; its 'bilinear' is that of TensorFlow's
        ``tf.image.resize``. 'pil': antialiased, in two passes of 8 bits, as Pillow does it; torchvision, timm and
        Hugging Face's processors resize with Pillow.
    rounding : {'nearest', 'torchvision', 'huggingface'}
        Of the longer side, and of the crop's corner: both to the nearest; down, and to the nearest; both down.
    pad : tuple of float, optional
        What lies outside of the picture, as samples 0..``white``: one value, or one per channel in the input's
        order; 0 by default.
    anchor : {'centre', 'top-left'}
        Where crop and padding keep the picture.
    color : {'RGB', 'BGR', 'GRAY', 'BANDS', 'INPUT'}
        Channel order of the input. 'BANDS': as many channels as ``mean`` has values, samples as the file has them.
        'INPUT': the .npy file is the input itself.
    white : int
        Sample value of white. 255: files of 16 bits are reduced to 8, to the nearest; above: samples of 16-bit files
        are taken as they are, those of 8-bit files times ``white`` / 255.
    scale : float
        Factor on samples 0..``white``, before the mean is taken off; 1/255 for means given on 0..1.
    mean, std : tuple of float
        One per channel.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: tuple[Side, Side]
    resize: Literal["short", "long", "stretch", "crop", "none"] = "short"
    resize_to: Side | tuple[Side, Side] | None = None
    interpolation: Literal["bilinear", "bicubic", "area", "nearest", "lanczos", "box", "hamming"] = "bilinear"
    library: Literal["opencv", "pil"] = "opencv"
    rounding: Literal["nearest", "torchvision", "huggingface"] = "nearest"
    pad: Annotated[tuple[Annotated[float, Field(ge=0, le=WHITEST)], ...], Field(min_length=1)] | None = None
    anchor: Literal["centre", "top-left"] = "centre"
    color: Literal["RGB", "BGR", "GRAY", "BANDS", "INPUT"] = "RGB"
    white: Annotated[int, Field(ge=WHITE, le=WHITEST)] = WHITE
    scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    mean: Annotated[tuple[Finite, ...], Field(min_length=1)]
    std: Annotated[tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        wanted = _CHANNELS.get(self.color, len(self.mean))
        for name in ("mean", "std"):
            if len(getattr(self, name)) != wanted:
                raise ValueError(f"{name} has {len(getattr(self, name))} values, {self.color} needs {wanted}")
        if self.pad is not None and len(self.pad) not in (1, wanted):
            raise ValueError(f"pad has {len(self.pad)} values, {self.color} needs 1 or {wanted}")
        if self.library != _ONLY.get(self.interpolation, self.library):
            raise ValueError(f"interpolation {self.interpolation!r} needs library = {_ONLY[self.interpolation]!r}")
        self._check_resize()
        self._check_samples()
        return self

    def _check_resize(self) -> None:
        if self.resize in ("crop", "none") and self.resize_to is not None:
            raise ValueError("resize_to belongs to resize = 'short', 'long' or 'stretch'")
        if self.resize == "short" and isinstance(self.resize_to, tuple):
            raise ValueError("resize_to has two sides, resize = 'short' needs one")
        cut = [side < wanted for side, wanted in zip(self.target, self.size, strict=True)]
        if self.resize in ("short", "stretch") and any(cut) and self.pad is None:
            small, (height, width) = min(self.target), self.size
            raise ValueError(
                f"resize_to {small} is smaller than the crop {height} x {width}: enlarge it, or give what to pad with"
            )

    def _check_samples(self) -> None:
        if self.color in ("BANDS", "INPUT") and self.white != WHITE:
            raise ValueError(f"white belongs to pictures, color = {self.color!r} takes samples as they are")
        plain = self.resize == "none" and self.scale == 1 and not any(self.mean) and set(self.std) == {1.0}
        if self.color == "INPUT" and not plain:
            raise ValueError("color = 'INPUT' changes nothing: resize = 'none', scale 1, mean 0, std 1")

    @property
    def channels(self) -> int:
        """Channels of the model's input."""
        return len(self.mean)

    @property
    def target(self) -> tuple[int, int]:
        """Height and width that a picture of the crop's own aspect is resized to, before the crop."""
        if isinstance(self.resize_to, tuple):
            return self.resize_to
        if self.resize_to is not None:
            return self.resize_to, self.resize_to
        return (max(self.size), max(self.size)) if self.resize == "short" else self.size


def make_preprocess(values: object, source: str) -> Preprocess:
    """Check values that were read from somewhere.

    Parameters
    ----------
    values : object
        A dictionary of `Preprocess`'s attributes; JSON as text or bytes.
    source : str
        Where they came from, for messages.

    Returns
    -------
    Preprocess

    Raises
    ------
    DataError
        If they are no valid preprocessing.
    """
    try:
        if isinstance(values, str | bytes):
            return Preprocess.model_validate_json(values)
        return Preprocess.model_validate(values)
    except ValidationError as error:
        raise DataError(f"{source}: the preprocessing is not valid: {_message(error)}") from error


def given_preprocess(given: object) -> str | Path | Preprocess | None:
    """A preprocessing as users give it: `Preprocess`'s attributes may be a dictionary.

    Parameters
    ----------
    given : str or Path or Preprocess or dict, optional
        See `found.find_preprocess`.

    Returns
    -------
    str or Path or Preprocess or None
        Texts and paths as they are: what they name is looked for elsewhere.

    Raises
    ------
    DataError
        If it is none of these, or the attributes are no valid preprocessing.
    """
    if given is None or isinstance(given, str | Preprocess):
        return given
    if isinstance(given, os.PathLike):
        return Path(given)
    if isinstance(given, Mapping):
        return make_preprocess(dict(given), "preprocess")
    raise DataError(
        f"preprocess of type {type(given).__name__}: give a preset's name, a file, a folder, a Preprocess or a "
        "dictionary of its attributes"
    )


def _message(error: ValidationError) -> str:
    first = error.errors()[0]
    # A value that may be one of several types is complained of once per type: the last is the most general.
    place = ".".join(str(part) for part in first["loc"] if part not in ("constrained-int", "tuple"))
    text = first["msg"].removeprefix("Value error, ")
    return f"{place}: {text}" if place else text
