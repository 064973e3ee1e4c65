"""What Hugging Face's ``preprocessor_config.json`` says, for the image processors of classifiers.

Read as transformers 5 does with its Pillow processors (``models/*/image_processing_pil_*.py``); what the file leaves
out has that processor's own defaults. Files of version 4 (``feature_extractor_type``, a ``size`` that is one number)
mean the same there. A processor that is not listed is refused, not taken for another one.
"""

from dataclasses import dataclass
from typing import Any

from onnx_evidence.errors import DataError
from onnx_evidence.preprocessing.contract import WHITE, Preprocess, make_preprocess
from onnx_evidence.preprocessing.presets import IMAGENET_MEAN, IMAGENET_STD
from onnx_evidence.preprocessing.values import number, numbers

FILE = "preprocessor_config.json"
_REMEDY = "pass --preprocess FILE.toml"
# Pillow's numbers for its filters.
_RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
_HALF = (0.5, 0.5, 0.5)
_CLIP_MEAN, _CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class _Processor:
    """Defaults of one image processor."""

    size: int
    crop: int | None = None
    resample: int = 3
    square: bool = False  # a size that is one number stands for both sides, not for the shorter one
    mean: tuple[float, ...] = _HALF
    std: tuple[float, ...] = _HALF
    crop_pct: float | None = None


_VIT = _Processor(224, resample=2, square=True)
_BIT = _Processor(224, 224, mean=_CLIP_MEAN, std=_CLIP_STD)
_MOBILENET = _Processor(256, 224, resample=2)
_PROCESSORS = {
    "ViT": _VIT,
    "DeiT": _Processor(256, 224, square=True),
    "Beit": _Processor(224, square=True),
    "ConvNext": _Processor(384, crop_pct=224 / 256),
    "EfficientNet": _Processor(346, square=True),
    "Bit": _BIT,
    "CLIP": _BIT,
    "MobileNetV1": _MOBILENET,
    "MobileNetV2": _MOBILENET,
    "MobileViT": _Processor(224, 256),
    "Levit": _Processor(224, 224, mean=IMAGENET_MEAN, std=IMAGENET_STD),
    "PoolFormer": _Processor(224, 224, mean=IMAGENET_MEAN, std=IMAGENET_STD, crop_pct=0.9),
}
# ConvNeXt is stretched, not cropped, from here on.
_WARPED = 384


def is_processor(values: dict[str, Any]) -> bool:
    """Whether a JSON file describes an image processor."""
    return "image_processor_type" in values or "feature_extractor_type" in values


def from_huggingface(values: dict[str, Any], source: str) -> Preprocess:
    """What an image processor does; `DataError` where it is none of classifiers, or a value cannot be used."""
    kind = _kind(values, source)
    known = _PROCESSORS[kind]
    if values.get("do_pad"):
        raise DataError(f"{source}: do_pad is not supported: {_REMEDY}")
    resample = values.get("resample", known.resample)
    if isinstance(resample, bool) or resample not in _RESAMPLE:
        raise DataError(f"{source}: resample {resample!r} is none of Pillow's filters 0 to 5: {_REMEDY}")
    flipped = kind == "MobileViT" and values.get("do_flip_channel_order", True)
    scale, mean, std = _normalisation(values, kind, known, source)
    return make_preprocess(
        {
            **_geometry(values, kind, known, source),
            "interpolation": _RESAMPLE[resample],
            "library": "pil",
            "rounding": "huggingface",
            "color": "BGR" if flipped else "RGB",
            "scale": scale,
            "mean": mean,
            "std": std,
        },
        source,
    )


def _kind(values: dict[str, Any], source: str) -> str:
    name = str(values.get("image_processor_type") or values.get("feature_extractor_type"))
    kind = name
    for ending in ("Fast", "Pil", "ImageProcessor", "FeatureExtractor"):
        kind = kind.removesuffix(ending)
    if kind not in _PROCESSORS:
        raise DataError(f"{source}: image processor {name!r} is not known ({', '.join(_PROCESSORS)} are): {_REMEDY}")
    return kind


def _geometry(values: dict[str, Any], kind: str, known: _Processor, source: str) -> dict[str, Any]:
    size = _size(values.get("size", known.size), known.square, f"{source}: size")
    crop = None
    # ConvNeXt's and ViT's processors know no crop of their own.
    if values.get("do_center_crop", known.crop is not None):
        given = values.get("crop_size", known.crop)
        crop = list(_size(given if given is not None else known.size, True, f"{source}: crop_size"))
    if not values.get("do_resize", True):
        if crop is None:
            raise DataError(f"{source}: nothing is resized nor cropped, so that the size is not known: {_REMEDY}")
        return {"size": crop, "resize": "crop"}
    if kind == "ConvNext":
        return _convnext(size, values, known, source)
    short = _shorter(size, kind, values, known, source)
    if short is None:
        return {"size": crop or size, "resize": "stretch", "resize_to": list(size), "pad": [0]}
    if crop is None:
        raise DataError(f"{source}: the shorter side is resized and nothing cropped, so that sizes differ: {_REMEDY}")
    return {"size": crop, "resize": "short", "resize_to": short, "pad": [0]}


def _shorter(size: tuple[int, ...], kind: str, values: dict[str, Any], known: _Processor, source: str) -> int | None:
    """What the shorter side is resized to; None where both sides are given."""
    if kind == "Levit" and len(size) == 1:
        return int(256 / 224 * size[0])
    if kind == "PoolFormer" and (share := values.get("crop_pct", known.crop_pct)) is not None:
        if len(set(size)) != 1:
            raise DataError(f"{source}: size {size} is not square: {_REMEDY}")
        return int(size[0] / _share(share, source))
    return size[0] if len(size) == 1 else None


def _convnext(size: tuple[int, ...], values: dict[str, Any], known: _Processor, source: str) -> dict[str, Any]:
    if len(size) != 1:
        raise DataError(f"{source}: size {size} has two sides, ConvNeXt's has the shorter one: {_REMEDY}")
    square = [size[0]] * 2
    if size[0] >= _WARPED:
        return {"size": square, "resize": "stretch"}
    share = values.get("crop_pct")
    share = _share(known.crop_pct if share is None else share, source)
    return {"size": square, "resize": "short", "resize_to": int(size[0] / share), "pad": [0]}


def _share(value: object, source: str) -> float:
    share = number(value, f"{source}: crop_pct")
    if not 0.05 <= share <= 2:
        raise DataError(f"{source}: crop_pct {share:g} is no share of a side: {_REMEDY}")
    return share


def _size(value: object, square: bool, what: str) -> tuple[int, ...]:
    """Height and width, or the shorter side alone."""
    if isinstance(value, dict):
        keys = {key for key, side in value.items() if side is not None}
        if keys == {"height", "width"}:
            return _side(value["height"], what), _side(value["width"], what)
        if keys == {"shortest_edge"} and not (square and what.endswith("crop_size")):
            return (_side(value["shortest_edge"], what),)
        raise DataError(f"{what} {value!r} is neither height and width nor the shortest edge: {_REMEDY}")
    if isinstance(value, list) and len(value) == 2:
        return _side(value[0], what), _side(value[1], what)
    side = _side(value, what)
    return (side, side) if square else (side,)


def _side(value: object, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 16384:
        raise DataError(f"{what} {value!r} is no number of pixels: {_REMEDY}")
    return value


def _normalisation(
    values: dict[str, Any], kind: str, known: _Processor, source: str
) -> tuple[float, list[float], list[float]]:
    """Factor, mean and deviation; several steps in a row are put together into one."""
    factor = 1.0
    if values.get("do_rescale", True):
        factor = number(values.get("rescale_factor", 1 / WHITE), f"{source}: rescale_factor")
    mean, std = [0.0] * 3, [1.0] * 3
    given = numbers(values.get("image_std") or known.std, 3, f"{source}: image_std")
    # MobileViT's processor normalises only where it is told to.
    if values.get("do_normalize", kind != "MobileViT"):
        mean = numbers(values.get("image_mean") or known.mean, 3, f"{source}: image_mean")
        std = given
    if kind == "EfficientNet":
        if values.get("rescale_offset", False) and values.get("do_rescale", True):
            # (x * factor - 1 - mean) / std
            mean = [each + 1 for each in mean]
        if values.get("include_top", True):
            # Divided by the deviation once more.
            std = [first * again for first, again in zip(std, given, strict=True)]
    return factor, mean, std


def labels_of(config: dict[str, Any], source: str) -> list[str] | None:
    """Class names from a ``config.json``; None where there are none, or transformers' LABEL_0, LABEL_1, ... alone."""
    names = config.get("id2label")
    if not isinstance(names, dict) or not names:
        return None
    found = {str(key): str(name) for key, name in names.items()}
    if set(found) != {str(number) for number in range(len(found))}:
        raise DataError(f"{source}: id2label does not number its {len(found)} classes 0, 1, 2, ...: pass --labels FILE")
    ordered = [found[str(index)] for index in range(len(found))]
    return None if ordered == [f"LABEL_{index}" for index in range(len(found))] else ordered
