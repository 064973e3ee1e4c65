"""What Pillow, torchvision, timm and transformers make of two small pictures: references for the tests.

Run it in an environment of its own that has those libraries (Pillow before 13, see
``onnx_evidence.preprocessing.pil``): ``python tools/make_preprocess_references.py tests/data/preprocess.npz``.
It imports nothing of the package; the pictures are made by arithmetic, and the tests make them again.
"""

import argparse
import importlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

FILTERS = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}
SIZES = ((9, 14), (30, 37), (12, 40))
PICTURES = ((61, 83), (23, 15))
SIDE = 12


def picture(height: int, width: int) -> Any:
    """A picture with edges, slopes and noise, uint8 (height, width, 3)."""
    row, col, channel = np.ogrid[:height, :width, :3]
    slope = 3 * row + 2 * col + 40 * channel
    noise = (row * 7919 + col * 104729 + channel * 1299709) * (row + 3 * col + 11) % 251
    edge = np.where((row // 7 + col // 5) % 2, 90, 0)
    return ((slope + noise // 3 + edge) % 256).astype(np.uint8)


def resized() -> Iterator[tuple[str, Any]]:
    """Pillow's own resizing, one channel; its grey; and samples that are no bytes."""
    Image = importlib.import_module("PIL.Image")  # noqa: N806 - its name
    pixels = picture(23, 31)
    for name, number in FILTERS.items():
        for height, width in SIZES:
            made = Image.fromarray(pixels[:, :, 0]).resize((width, height), Image.Resampling(number))
            yield f"resize {name} {height} {width}", np.asarray(made)
    yield "resize colour", np.asarray(Image.fromarray(pixels).resize((14, 9), Image.Resampling.BILINEAR))
    yield "grey", np.asarray(Image.fromarray(pixels).convert("L"))
    floats = Image.fromarray(pixels[:, :, 0].astype(np.float32) * 257)
    yield "resize float", np.asarray(floats.resize((14, 9), Image.Resampling.BICUBIC))


def torchvision() -> Iterator[tuple[str, Callable[[Any], Any]]]:
    """The usual evaluation of torchvision, and one whose crop is larger than the picture."""
    transforms = importlib.import_module("torchvision.transforms")
    normalize = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    for name, short, crop in (("torchvision crop", 14, 12), ("torchvision pad", 9, 12)):
        steps = [transforms.Resize(short), transforms.CenterCrop(crop), transforms.ToTensor(), normalize]
        yield name, transforms.Compose(steps)


def timm() -> Iterator[tuple[str, dict[str, Any], Callable[[Any], Any]]]:
    """The evaluation of timm from a ``pretrained_cfg``, in all its ways to crop."""
    data = importlib.import_module("timm.data")
    usual = {"input_size": [3, SIDE, SIDE], "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    for name, more in {
        "timm center": {"crop_pct": 0.875, "interpolation": "bicubic", "crop_mode": "center"},
        "timm center 0.9": {"crop_pct": 0.9, "interpolation": "bilinear"},
        "timm squash": {"crop_pct": 0.9, "interpolation": "bicubic", "crop_mode": "squash"},
        "timm border": {"crop_pct": 1.0, "interpolation": "bicubic", "crop_mode": "border"},
        "timm border 0.9": {"crop_pct": 0.9, "interpolation": "bilinear", "crop_mode": "border"},
    }.items():
        config = {**usual, **more}
        made = data.create_transform(**data.resolve_data_config(pretrained_cfg=config), is_training=False)
        yield name, {"architecture": "any", "pretrained_cfg": config}, made


HUGGINGFACE: dict[str, tuple[str, str, dict[str, Any]]] = {
    "vit": ("vit", "ViT", {"size": {"height": SIDE, "width": SIDE}}),
    "deit": ("deit", "DeiT", {"size": {"height": 15, "width": 15}, "crop_size": {"height": SIDE, "width": SIDE}}),
    "beit": ("beit", "Beit", {"size": 15, "do_center_crop": True, "crop_size": {"height": SIDE, "width": SIDE}}),
    "convnext": ("convnext", "ConvNext", {"size": {"shortest_edge": SIDE}, "crop_pct": 0.875, "resample": 2}),
    "efficientnet": ("efficientnet", "EfficientNet", {"size": {"height": SIDE, "width": SIDE}, "rescale_offset": True,
                     "rescale_factor": 1 / 127.5}),
    "efficientnet plain": ("efficientnet", "EfficientNet", {"size": {"height": 15, "width": 13}, "include_top": False,
                           "do_center_crop": True, "crop_size": {"height": 11, "width": SIDE}, "resample": 0}),
    "bit": ("bit", "Bit", {"size": {"shortest_edge": 9}, "crop_size": {"height": SIDE, "width": SIDE}}),
    "clip": ("clip", "CLIP", {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}),
    "mobilenet_v1": ("mobilenet_v1", "MobileNetV1", {"size": {"shortest_edge": 15}, "crop_size": {"height": 11,
                     "width": 10}}),
    "mobilenet_v2": ("mobilenet_v2", "MobileNetV2", {"size": {"shortest_edge": 14}, "crop_size": {"height": SIDE,
                     "width": SIDE}}),
    "mobilevit": ("mobilevit", "MobileViT", {"size": {"shortest_edge": 9}, "crop_size": {"height": SIDE,
                  "width": 11}}),
    "levit": ("levit", "Levit", {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}),
    "poolformer": ("poolformer", "PoolFormer", {"size": {"shortest_edge": SIDE}, "crop_pct": 0.8,
                   "crop_size": {"height": SIDE, "width": SIDE}}),
    "no resize": ("bit", "Bit", {"do_resize": False, "crop_size": {"height": 25, "width": SIDE}}),
    "no normalize": ("vit", "ViT", {"size": {"height": SIDE, "width": SIDE}, "do_normalize": False, "resample": 1}),
    "no rescale": ("vit", "ViT", {"size": {"height": 12, "width": SIDE}, "do_rescale": False, "image_mean": [127.5] * 3,
                   "image_std": [127.5] * 3}),
}  # fmt: skip


def huggingface() -> Iterator[tuple[str, dict[str, Any], Callable[[Any], Any]]]:
    """The Pillow processors of transformers, and what they write into ``preprocessor_config.json``."""
    for name, (folder, kind, settings) in HUGGINGFACE.items():
        module = importlib.import_module(f"transformers.models.{folder}.image_processing_pil_{folder}")
        processor = getattr(module, f"{kind}ImageProcessorPil")(**settings)

        def run(image: Any, processor: Any = processor) -> Any:
            return processor(image, return_tensors="np")["pixel_values"][0]

        yield f"huggingface {name}", json.loads(processor.to_json_string()), run


def main() -> None:
    """Write all references."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path, help="The .npz file to write.")
    path: Path = parser.parse_args().path
    images = [importlib.import_module("PIL.Image").fromarray(picture(*shape)) for shape in PICTURES]
    found: dict[str, Any] = dict(resized())
    configs: dict[str, Any] = {}
    plain = [(name, None, run) for name, run in torchvision()]
    for name, config, run in [*plain, *timm(), *huggingface()]:
        if config is not None:
            configs[name] = config
        for number, image in enumerate(images):
            found[f"{name} {number}"] = np.asarray(run(image), np.float32)
    found["configs"] = np.frombuffer(json.dumps(configs).encode(), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **found)
    print(f"{path}: {len(found)} arrays, {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
