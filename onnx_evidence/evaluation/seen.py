"""The 8-bit picture that the model sees, and photographs that show it: changed by a little, for stability."""

import numpy as np

from onnx_evidence.errors import SettingError
from onnx_evidence.pictures import Photograph, as_photograph
from onnx_evidence.preprocessing import WHITE, Preprocess, apply
from onnx_evidence.types import Features, Pixels


def grey_levels(inputs: Features, preprocess: Preprocess) -> Pixels:
    """The picture that the model sees, before scale, mean and standard deviation: RGB, or a grey one three times."""
    if preprocess.white != WHITE or preprocess.color in ("BANDS", "INPUT"):
        raise SettingError(
            f"inpainting, stability and mosaics are of pictures of 8 bits and the model sees others (color "
            f"{preprocess.color}, white {preprocess.white}): leave 'inpaint' out of --substrates, and --mosaics, and "
            "pass --no-stability"
        )
    mean, std = (np.array(values, np.float64)[:, None, None] for values in (preprocess.mean, preprocess.std))
    levels = np.clip(((inputs * std + mean) / preprocess.scale).round(), 0, 255).astype(np.uint8).transpose(1, 2, 0)
    if preprocess.color == "GRAY":
        return np.repeat(levels, 3, axis=2)
    return np.ascontiguousarray(levels[:, :, ::-1] if preprocess.color == "BGR" else levels)


def as_seen(pixels: Pixels, preprocess: Preprocess) -> Photograph:
    """A photograph of which the model sees exactly ``pixels``: preprocessing resizes nothing and crops the rest."""
    return as_photograph(apply.as_seen(pixels, preprocess))


def jitter(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Change every value by one grey level, up or down, within 0..255."""
    signs = rng.integers(2, size=pixels.shape) * 2 - 1
    changed: Pixels = np.clip(pixels.astype(np.int64) + signs, 0, 255).astype(np.uint8)
    return changed


def shift(pixels: Pixels) -> Pixels:
    """Move a picture by one pixel to the right; the first column stays in place as well."""
    moved: Pixels = np.concatenate([pixels[:, :1], pixels[:, :-1]], axis=1)
    return moved
