"""Preprocessing beside the libraries that models are trained with, on a folder of photographs, in grey levels.

Pillow, torchvision, timm and transformers are asked in an environment of their own, whose Python is given:
``python tools/check_preprocess.py FOLDER --python OTHER/bin/python --limit 100``. The pictures go there decoded, so
that resizing alone is compared; decoding is compared by itself.
"""

import importlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np

FILTERS = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}
# Also of OpenCV, to show what the difference would be.
BOTH = ("nearest", "lanczos", "bilinear", "bicubic")
# Pictures on which whole pipelines are compared.
PIPED = 8
USUAL = {"input_size": [3, 224, 224], "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
TIMM = {
    "timm center 0.875 bicubic": {"crop_pct": 0.875, "interpolation": "bicubic"},
    "timm squash 0.95 bicubic": {"crop_pct": 0.95, "interpolation": "bicubic", "crop_mode": "squash"},
    "timm border 1.0 bilinear": {"crop_pct": 1.0, "interpolation": "bilinear", "crop_mode": "border"},
}
PROCESSORS = {
    "vit": "ViT",
    "deit": "DeiT",
    "beit": "Beit",
    "convnext": "ConvNext",
    "efficientnet": "EfficientNet",
    "bit": "Bit",
    "clip": "CLIP",
    "mobilenet_v1": "MobileNetV1",
    "mobilenet_v2": "MobileNetV2",
    "mobilevit": "MobileViT",
    "levit": "Levit",
    "poolformer": "PoolFormer",
}


def sizes(height: int, width: int) -> dict[str, tuple[int, int]]:
    """Heights and widths that each picture is resized to: as for a crop, stretched, and enlarged."""
    scale = 256 / min(height, width)
    return {
        "shorter side 256": (max(int(height * scale), 256), max(int(width * scale), 256)),
        "stretched to 224": (224, 224),
        "enlarged to 640": (640, 640),
    }


def theirs(folder: Path) -> None:
    """In the other environment: make what each library makes of the pictures in ``folder``."""
    image = importlib.import_module("PIL.Image")
    print(f"Pillow {importlib.import_module('PIL').__version__}", end="")
    pipelines, configs = _pipelines()
    (folder / "configs.json").write_text(json.dumps(configs))
    for number, path in enumerate(sorted(folder.glob("*.npy"))):
        picture = image.fromarray(np.load(path))
        made: dict[str, Any] = {
            f"{name} {what}": np.asarray(picture.resize((size[1], size[0]), index))
            for name, index in FILTERS.items()
            for what, size in sizes(picture.height, picture.width).items()
        }
        source = path.with_suffix(".txt").read_text()
        made["decoded"] = np.asarray(image.open(source).convert("RGB"))
        if number < PIPED:
            made |= {name: np.asarray(run(picture), np.float32) for name, run in pipelines.items()}
        np.savez(path.with_suffix(".npz"), **made)


def _pipelines() -> tuple[dict[str, Any], dict[str, Any]]:
    """Callables from a picture to an input, and the configurations that say the same."""
    transforms, data = importlib.import_module("torchvision.transforms"), importlib.import_module("timm.data")
    for library in ("torchvision", "timm", "transformers"):
        print(f", {library} {importlib.import_module(library).__version__}", end="")
    normalize = transforms.Normalize(USUAL["mean"], USUAL["std"])
    steps = [transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor(), normalize]
    pipelines: dict[str, Any] = {"torchvision 256/224 bilinear": transforms.Compose(steps)}
    configs: dict[str, Any] = {"torchvision 256/224 bilinear": "torchvision"}
    for name, more in TIMM.items():
        configs[name] = {"pretrained_cfg": {**USUAL, **more}}
        resolved = data.resolve_data_config(pretrained_cfg=configs[name]["pretrained_cfg"])
        pipelines[name] = data.create_transform(**resolved, is_training=False)
    for folder, kind in PROCESSORS.items():
        module = importlib.import_module(f"transformers.models.{folder}.image_processing_pil_{folder}")
        processor = getattr(module, f"{kind}ImageProcessorPil")()
        name = f"transformers {kind}"
        configs[name] = json.loads(processor.to_json_string())
        pipelines[name] = lambda picture, its=processor: its(picture, return_tensors="np")["pixel_values"][0]
    return pipelines, configs


class Differences:
    """The largest and the mean difference of arrays, and the share that differs, over pictures."""

    def __init__(self) -> None:
        self.largest, self.total, self.other, self.count = 0.0, 0.0, 0, 0

    def add(self, ours: Any, other: Any, scale: float = 1.0) -> None:
        """One more pair of arrays of one shape."""
        apart = np.abs(np.asarray(ours, np.float64) - other) * scale
        self.largest = max(self.largest, float(apart.max()))
        self.total, self.count = self.total + float(apart.sum()), self.count + apart.size
        self.other += int((apart > 1e-3).sum())

    def __str__(self) -> str:
        return f"{self.largest:.4g} | {self.total / self.count:.2g} | {self.other / self.count:.2%}"


def compare(folder: Path) -> Iterator[tuple[str, Differences]]:
    """Everything that was made there, against ours."""
    from onnx_evidence.pictures import opencv
    from onnx_evidence.pictures.photograph import as_photograph
    from onnx_evidence.preprocessing import pil
    from onnx_evidence.preprocessing.apply import to_input

    found: dict[str, Differences] = {}
    contracts = dict(_contracts(json.loads((folder / "configs.json").read_text())))
    for path in sorted(folder.glob("*.npy")):
        pixels = np.load(path)
        with np.load(path.with_suffix(".npz")) as reference:
            found.setdefault("decoded", Differences()).add(pixels, reference["decoded"])
            for name in FILTERS:
                for what, size in sizes(*pixels.shape[:2]).items():
                    other = reference[f"{name} {what}"]
                    ours = pil.resize(pixels, size, name)
                    found.setdefault(f"{name}, {what}", Differences()).add(ours, other)
                    if name in BOTH and what == "shorter side 256":
                        ours = opencv.resize(pixels, size, name)
                        found.setdefault(f"(OpenCV's {name}, {what})", Differences()).add(ours, other)
            for name, settings in contracts.items():
                if name in reference:
                    ours, _ = to_input(as_photograph(pixels), settings)
                    # In grey levels: what a level of the input is.
                    level = min(settings.std) / settings.scale
                    found.setdefault(name, Differences()).add(ours, reference[name], level)
    yield from found.items()


def _contracts(configs: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    from onnx_evidence.preprocessing.huggingface import from_huggingface
    from onnx_evidence.preprocessing.presets import Wanted, preset
    from onnx_evidence.preprocessing.timm import from_timm, is_timm

    for name, config in configs.items():
        if isinstance(config, str):
            yield name, preset(config, Wanted(3, 224, 224), "model")
        elif is_timm(config):
            yield name, from_timm(config, Wanted(), name)
        else:
            yield name, from_huggingface(config, name)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
@click.option("--python", "other", required=True, help="A Python that has Pillow, torchvision, timm and transformers.")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="Pictures.")
def main(folder: Path, other: str, limit: int) -> None:
    """Print a table of differences in grey levels (0..255)."""
    from onnx_evidence.pictures.photograph import list_images, read_photograph

    paths = list_images([folder])[:limit]
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        for number, path in enumerate(paths):
            np.save(place / f"{number:04}.npy", read_photograph(path).pixels)
            (place / f"{number:04}.txt").write_text(str(path.resolve()))
        versions = subprocess.run(
            [other, __file__, "--theirs", str(place)], check=True, stdout=subprocess.PIPE, text=True
        ).stdout
        print(f"{len(paths)} pictures ({PIPED} for whole pipelines); {versions}\n")
        print("| what | largest | mean | differ |\n|---|---|---|---|")
        for name, differences in compare(place):
            print(f"| {name} | {differences} |")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--theirs"]:
        theirs(Path(sys.argv[2]))
    else:
        main()
