"""What went into a map, as plain values for the manifest."""

import platform
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import numpy as np

from onnx_evidence.deployed import DeployedModel
from onnx_evidence.engine import CutMap, Engine
from onnx_evidence.images import Photograph
from onnx_evidence.preprocessing.apply import how_taken
from onnx_evidence.runtime import RUNTIME_VERSION
from onnx_evidence.settings import Settings


def make_record(
    deployed: DeployedModel,
    settings: Settings,
    reason: str,
    background: tuple[str, str | None],
    engines: Sequence[Engine],
    photograph: Photograph,
    maps: Sequence[CutMap],
) -> dict[str, Any]:
    """Describe how a map was made: settings, cuts with their certificates, hashes, device, versions.

    Parameters
    ----------
    deployed : DeployedModel
        The model.
    settings : Settings
        What was set.
    reason : str
        Why this method.
    background : (str, str or None)
        What removed features were replaced by, in words; SHA-256 of its file, where it has one.
    engines : sequence of Engine
        The method at every cut.
    photograph : Photograph
        The picture.
    maps : sequence of CutMap
        A map of every cut, for its certificate and its draws.

    Returns
    -------
    dict
        Plain values, ready for JSON.
    """
    words, digest = background
    return {
        "settings": {**asdict(settings), "preprocess": deployed.preprocess.model_dump(mode="json")},
        "preprocess_source": deployed.model.preprocess_source,
        "samples": how_taken(photograph, deployed.preprocess),
        "method_reason": reason,
        "background": words,
        "output": deployed.model.output_name,
        "classes": deployed.class_kind.name,
        "device": deployed.device.name,
        "device_reason": deployed.device.reason,
        "cuts": [_cut(engine, each) for engine, each in zip(engines, maps, strict=True)],
        "hashes": {
            "model": deployed.model.sha256,
            "image": photograph.sha256,
            "background": digest,
        },
        "versions": {
            "onnx-evidence": version("onnx-evidence"),
            "onnxruntime": RUNTIME_VERSION,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }


def _cut(engine: Engine, its_map: CutMap) -> dict[str, Any]:
    return {
        "name": engine.cut.name,
        "grid": list(engine.cut.grid),
        **engine.describe(),
        **its_map.sampling,
        "certificate": its_map.certificate,
        "resolution_pixels": round(engine.field.resolution, 1),
    }
