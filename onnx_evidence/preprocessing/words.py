"""The contract as people read it: one line, or a TOML file with comments that can be edited and given back."""

import json
from collections.abc import Sequence
from pathlib import Path

from onnx_evidence.preprocessing.contract import WHITE, Preprocess
from onnx_evidence.preprocessing.found import Found, not_recorded
from onnx_evidence.preprocessing.presets import Wanted, preset

_NOTES = {
    "size": "height and width of the model's input",
    "resize": "short: the shorter side to resize_to, then the centre is cropped; long: fitted into resize_to, then "
    "padded;\n# stretch: both sides to resize_to, whatever the aspect; crop: nothing is resized; none: the picture has "
    "the size already",
    "resize_to": "default: size; one side, or height and width for long and stretch",
    "interpolation": "bilinear, bicubic, lanczos, nearest; opencv: area too; pil: box and hamming too",
    "library": "whose: pil as torchvision, timm and Hugging Face's processors resize (antialiased);\n"
    "# opencv as OpenCV, and as TensorFlow's tf.image.resize with bilinear",
    "rounding": "of the longer side and the crop's corner: nearest; as torchvision and timm do; as huggingface does",
    "pad": "what lies outside of the picture, 0..white: one value, or one per channel; default: 0",
    "anchor": "where crop and padding keep the picture: centre, top-left",
    "color": "RGB, BGR, GRAY; BANDS: channels as the file has them; INPUT: the .npy file is the input itself",
    "white": "255: 16-bit files are reduced to 8 bits; above: their samples as they are",
    "scale": "factor on samples 0..white before the mean is taken off; 0.00392156862745098 is 1/255",
    "mean": "one per channel of the input",
    "std": "what is divided by then, one per channel",
}


def as_toml(preprocess: Preprocess, source: str) -> str:
    """A TOML file of all keys, each with what it may be; read back, it is the same preprocessing."""
    lines = [f"# {source}", ""]
    for key, value in preprocess.model_dump(mode="json").items():
        lines.append(f"# {_NOTES[key]}")
        # TOML knows no null.
        lines.append(f"# {key} =" if value is None else f"{key} = {json.dumps(value)}")
    return "\n".join(lines)


def recipe(found: Found, wanted: Wanted, path: Path, *, template: bool) -> str:
    """The preprocessing of a model as a TOML file.

    Parameters
    ----------
    found : Found
        From `find_preprocess`.
    wanted : Wanted
        What the model's input takes, for the template.
    path : Path
        The model's file, for messages.
    template : bool
        Where nothing was found, a preset of the input's size to start from.

    Returns
    -------
    str
        As `as_toml`.

    Raises
    ------
    DataError
        If nothing was found, and no template is wanted or its size is not known.
    """
    if found.preprocess is not None:
        return as_toml(found.preprocess, f"from: {found.source}")
    if not template:
        raise not_recorded(path)
    name = "torchvision" if (wanted.channels or 3) == 3 else "unit"
    return as_toml(preset(name, wanted, str(path)), f"template (preset {name!r}): nothing is recorded, so edit it")


def in_words(preprocess: Preprocess) -> str:
    """A preprocessing in one line, for a report.

    Parameters
    ----------
    preprocess : Preprocess

    Returns
    -------
    str
        Resizing and crop, order of channels, white where it is not 255, and the arithmetic.
    """
    if preprocess.color == "INPUT":
        return "none: .npy files of the input itself"
    white = "" if preprocess.white == WHITE else f", samples 0..{preprocess.white}"
    return (
        f"{_geometry(preprocess)}, {preprocess.color}{white}, "
        f"(pixel * {preprocess.scale:g} - {list(preprocess.mean)}) / {list(preprocess.std)}"
    )


def _geometry(preprocess: Preprocess) -> str:
    size, target = _times(preprocess.size), _times(preprocess.target)
    kept = "centre crop" if preprocess.anchor == "centre" else "crop at the top left"
    how = f"{preprocess.interpolation} of {preprocess.library}"
    if preprocess.resize == "none":
        return f"pictures of {size}"
    if preprocess.resize == "crop":
        return f"{kept} to {size}"
    if preprocess.resize == "short":
        return f"short side to {preprocess.target[0]}, {kept} to {size}, {how}"
    if preprocess.resize == "long":
        fitted = size if preprocess.target == preprocess.size else f"{target}, then {size}"
        return f"fitted into {fitted} and padded, {how}"
    cut = "" if preprocess.target == preprocess.size else f", {kept} to {size}"
    return f"stretched to {target}{cut}, {how}"


def _times(sides: Sequence[int]) -> str:
    return " x ".join(str(side) for side in sides)
