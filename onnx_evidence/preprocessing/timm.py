"""What a timm model's ``config.json`` says of its preprocessing (``pretrained_cfg``) and its class names.

Read as timm 1.0 does (``data.resolve_data_config``, ``data.transforms_factory.transforms_imagenet_eval``); defaults
are those of that code.
"""

import math
from typing import Any

from onnx_evidence.errors import DataError
from onnx_evidence.preprocessing.contract import WHITE, Preprocess, make_preprocess
from onnx_evidence.preprocessing.presets import IMAGENET_MEAN, IMAGENET_STD, Wanted
from onnx_evidence.preprocessing.values import number, numbers

_KEY = "pretrained_cfg"
_RESIZE = {"center": "short", "squash": "stretch", "border": "long"}


def is_timm(config: dict[str, Any]) -> bool:
    """Whether a ``config.json`` is timm's."""
    return isinstance(config.get(_KEY), dict)


def from_timm(config: dict[str, Any], wanted: Wanted, source: str) -> Preprocess:
    """The preprocessing that timm evaluates the model with; `DataError` where a value cannot be used."""
    values = config[_KEY]
    shape, share = _shape(values, wanted, source)
    crop = values.get("crop_mode") or "center"
    if crop not in _RESIZE:
        raise DataError(
            f"{source}: crop_mode {crop!r} is not known ({', '.join(_RESIZE)}): pass --preprocess FILE.toml"
        )
    to = [math.floor(side / share) for side in shape[1:]]
    if crop == "center" and to[0] != to[1]:
        raise DataError(
            f"{source}: an input of {shape[1]} x {shape[2]} is cropped from the centre in a way that is not supported: "
            "pass --preprocess FILE.toml"
        )
    mean = numbers(values.get("mean") or IMAGENET_MEAN, shape[0], f"{source}: mean")
    return make_preprocess(
        {
            "size": shape[1:],
            "resize": _RESIZE[crop],
            "resize_to": to[0] if crop == "center" else to,
            "interpolation": values.get("interpolation") or "bicubic",
            "library": "pil",
            "rounding": "torchvision",
            # Letterboxes get the mean colour; torchvision's crop pads with black.
            "pad": [round(WHITE * each) for each in mean] if crop == "border" else [0] if share > 1 else None,
            "color": "GRAY" if shape[0] == 1 else "RGB",
            "scale": 1 / WHITE,
            "mean": mean,
            "std": numbers(values.get("std") or IMAGENET_STD, shape[0], f"{source}: std"),
        },
        source,
    )


def _shape(values: dict[str, Any], wanted: Wanted, source: str) -> tuple[list[int], float]:
    """Channels, height and width, and the share of the resized side that the crop keeps."""
    shape = values.get("input_size") or [3, 224, 224]
    share = values.get("crop_pct") or 0.875
    test = values.get("test_input_size")
    # Where the size for tests alone fits the input that is wanted, it is taken, with its own share.
    if test and wanted.height and [wanted.height, wanted.width] == list(test)[1:] != list(shape)[1:]:
        shape, share = test, values.get("test_crop_pct") or share
    if not isinstance(shape, list) or len(shape) != 3 or not all(isinstance(side, int) and side > 0 for side in shape):
        raise DataError(
            f"{source}: input_size {shape!r} is not channels, height and width: pass --preprocess FILE.toml"
        )
    share = number(share, f"{source}: crop_pct")
    if not 0.05 <= share <= 2:
        raise DataError(f"{source}: crop_pct {share:g} is no share of a side: pass --preprocess FILE.toml")
    return shape, share


def labels_of(config: dict[str, Any]) -> object:
    """Class names, with descriptions in their place where there are some; a list, or None."""
    values = config[_KEY]
    names = config.get("label_names") or values.get("label_names")
    words = config.get("label_descriptions") or values.get("label_descriptions")
    if isinstance(words, dict) and isinstance(names, list):
        return [words.get(name, name) for name in names]
    return words if isinstance(words, list) else names
