"""Preprocessing by name: what the usual training recipes do, for models that record nothing."""

from collections.abc import Callable
from dataclasses import dataclass

from onnx_evidence.errors import DataError
from onnx_evidence.preprocessing.contract import WHITE, Preprocess

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Grey levels, blue first: what Caffe's ImageNet models and Keras's 'caffe' mode take off.
CAFFE_MEAN = (103.939, 116.779, 123.68)
_USUAL = 224
PREPROCESSED = "preprocessed"


@dataclass(frozen=True)
class Wanted:
    """What the model's input takes, as far as the file settles it.

    Attributes
    ----------
    channels, height, width : int or None
        None where they are open.
    integer : bool
        Whether it takes pixels 0..255 as whole numbers (uint8).
    """

    channels: int | None = None
    height: int | None = None
    width: int | None = None
    integer: bool = False

    @classmethod
    def of(cls, sides: list[int | None], *, integer: bool = False) -> "Wanted":
        """From the three sides of the input, channels first or last.

        Parameters
        ----------
        sides : list of (int or None)
            As the file has them, without the batch.
        integer : bool
            See `Wanted`.

        Returns
        -------
        Wanted
            Channels are taken to be last where only the last side is 1 or 3.
        """
        last = sides[2] in (1, 3) and sides[0] not in (1, 3)
        channels, height, width = [sides[2], *sides[:2]] if last else sides
        return cls(channels, height, width, integer)


@dataclass(frozen=True)
class Preset:
    """A row of the table of presets."""

    summary: str  # what it does, in words
    make: Callable[[tuple[int, int], int], Preprocess]  # of size and channels
    size: int | None = None  # of inputs whose file leaves height and width open; None where these must be known


def _torchvision(size: tuple[int, int], channels: int) -> Preprocess:
    return Preprocess(
        size=size,
        resize_to=round(max(size) * 256 / _USUAL),
        library="pil",
        rounding="torchvision",
        scale=1 / WHITE,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )


def _timm(size: tuple[int, int], channels: int) -> Preprocess:
    return Preprocess(
        size=size,
        resize_to=int(max(size) / 0.875),
        interpolation="bicubic",
        library="pil",
        rounding="torchvision",
        scale=1 / WHITE,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )


def _caffe(size: tuple[int, int], channels: int) -> Preprocess:
    return Preprocess(size=size, resize="stretch", color="BGR", mean=CAFFE_MEAN, std=(1.0,) * 3)


def _stretched(scale: float, mean: float) -> Callable[[tuple[int, int], int], Preprocess]:
    def make(size: tuple[int, int], channels: int) -> Preprocess:
        return Preprocess(
            size=size,
            resize="stretch",
            color={1: "GRAY", 3: "RGB"}.get(channels, "BANDS"),
            scale=scale,
            mean=(mean,) * channels,
            std=(1.0,) * channels,
        )

    return make


PRESETS = {
    "torchvision": Preset(
        "shorter side to 256 for an input of 224, Pillow's bilinear, centre crop; ImageNet's mean and deviation",
        _torchvision,
        _USUAL,
    ),
    "timm": Preset(
        "shorter side to the input's / 0.875, Pillow's bicubic, centre crop; ImageNet's mean and deviation",
        _timm,
        _USUAL,
    ),
    "tf": Preset("stretched, bilinear; values -1..1", _stretched(2 / WHITE, 1.0), _USUAL),
    "caffe": Preset("stretched, bilinear; blue first, 103.939, 116.779, 123.68 taken off 0..255", _caffe, _USUAL),
    "unit": Preset("stretched, bilinear; values 0..1", _stretched(1 / WHITE, 0.0)),
    "none": Preset("stretched, bilinear; values 0..255 as they are", _stretched(1.0, 0.0)),
}


def preset(name: str, wanted: Wanted, path: str) -> Preprocess:
    """The preprocessing of a preset, for one model.

    Parameters
    ----------
    name : str
        A key of `PRESETS`, or 'preprocessed': the .npy file is the input itself.
    wanted : Wanted
        What the model's input takes.
    path : str
        The model's file, for messages.

    Returns
    -------
    Preprocess

    Raises
    ------
    DataError
        If the input has another number of channels than the preset is for, or its size is not known.
    """
    row = PRESETS.get(name)
    usual = row.size if row else None
    height, width, channels = wanted.height or usual, wanted.width or usual, wanted.channels or 3
    if height is None or width is None:
        raise DataError(
            f"{path}: the model's input leaves height and width open and preset {name!r} has none: pass --preprocess "
            "FILE.toml with a 'size' ('onnx-evidence preprocess MODEL --template' prints one)"
        )
    if row is None:
        zeros, ones = (0.0,) * channels, (1.0,) * channels
        return Preprocess(size=(height, width), resize="none", color="INPUT", mean=zeros, std=ones)
    if row.make in (_torchvision, _timm, _caffe) and channels != 3:
        raise DataError(
            f"{path}: preset {name!r} is for 3 channels and the model's input has {channels}: take unit, none or tf, "
            "or pass --preprocess FILE.toml"
        )
    return row.make((height, width), channels)
