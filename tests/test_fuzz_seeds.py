"""What the fuzzer damages is whole: seeds that were refused before would make it see nothing."""

from pathlib import Path

import numpy as np
from parts.fuzz import seeds

from onnx_evidence import Explainer
from onnx_evidence.pictures.photograph import read_photograph


def test_every_model_is_explained_and_the_one_that_the_picture_decides_in_pixels(tmp_path: Path):
    picture = np.random.default_rng(0).integers(0, 256, (40, 50, 3)).astype(np.uint8)
    in_pixels = []
    for name, files in seeds.model_seeds().items():
        for file, data in files.items():
            (tmp_path / file).write_bytes(data)
        explainer = Explainer(tmp_path / "mutated.onnx", device="cpu", quality="fast")
        assert np.abs(explainer.explain(picture).values).sum() > 0.01
        in_pixels += [name] * (explainer.settings.method == "occlusion")
    assert in_pixels == ["undecided"]


def test_every_picture_is_read(tmp_path: Path):
    pictures = seeds.picture_seeds([])
    for name, data in pictures.items():
        (tmp_path / name).write_bytes(data)
        assert read_photograph(tmp_path / name).pixels.std() > 1
        if "several-pages" not in name:
            assert read_photograph(tmp_path / name, bands=True).raw.size
    assert read_photograph(tmp_path / "pages.tiff", bands=True).raw.shape == (40, 56, 3)
