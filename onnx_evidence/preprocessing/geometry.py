"""Where the model's input comes to lie in a picture: sides after resizing, and the corner of the crop.

A rounding of half a pixel moves everything that the model sees, so each library's own arithmetic is followed:

- 'torchvision' (0.29, ``transforms.functional``; timm resizes and crops with it): the longer side is
  ``int(short * longer / shorter)``; the corner is ``round((side - crop) / 2)``, halves to the even number; where the
  picture is smaller, the smaller half of the padding comes first.
- 'huggingface' (transformers 5, ``image_transforms``): the longer side likewise; the corner is
  ``(side - crop) // 2``, also where it is negative.
- 'nearest': both to the nearest number, halves to the even one.

Letterboxes round both sides to the nearest, as timm's ``ResizeKeepRatio``.
"""

from onnx_evidence.errors import DataError
from onnx_evidence.pictures import MAX_PIXELS, Placement
from onnx_evidence.preprocessing.contract import Preprocess


def place(original: tuple[int, int], preprocess: Preprocess) -> Placement:
    """Where the model's input will lie in a picture of height and width ``original``.

    Raises `DataError` where resizing makes it absurdly large, or it should have the size of the input and has not.
    """
    if preprocess.resize == "none" and original != preprocess.size:
        height, width = preprocess.size
        raise DataError(
            f"the picture has {original[1]} x {original[0]} pixels and the model takes {width} x {height} as they are "
            "(resize = 'none'): give one of that size, or a preprocessing that resizes"
        )
    resized = _resized(original, preprocess)
    if resized[0] * resized[1] > MAX_PIXELS:
        raise DataError(
            f"a picture of {original[1]} x {original[0]} pixels becomes {resized[1]} x {resized[0]} when resized: "
            "too long and narrow to explain"
        )
    rows, cols = (_corner(side, crop, preprocess) for side, crop in zip(resized, preprocess.size, strict=True))
    return Placement(original, preprocess.size, resized, (rows, cols))


def _resized(original: tuple[int, int], preprocess: Preprocess) -> tuple[int, int]:
    if preprocess.resize in ("crop", "none"):
        return original
    target = preprocess.target
    if preprocess.resize == "stretch":
        return target
    if preprocess.resize == "long":
        ratio = max(side / wanted for side, wanted in zip(original, target, strict=True))
        return max(round(original[0] / ratio), 1), max(round(original[1] / ratio), 1)
    short = target[0]
    if preprocess.rounding == "nearest":
        scale = short / min(original)
        return max(round(original[0] * scale), 1), max(round(original[1] * scale), 1)
    longer = int(short * max(original) / min(original))
    return (short, longer) if original[0] <= original[1] else (longer, short)


def _corner(side: int, crop: int, preprocess: Preprocess) -> int:
    if preprocess.anchor == "top-left":
        return 0
    spare = side - crop
    if preprocess.rounding == "huggingface":
        return spare // 2
    if preprocess.rounding == "torchvision" and spare < 0:
        return -(-spare // 2)
    return round(spare / 2)
