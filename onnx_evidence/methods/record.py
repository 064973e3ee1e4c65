"""What went into a map, as plain values for the manifest."""

import hashlib
import platform
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import numpy as np

from onnx_evidence.deployed import DeployedModel
from onnx_evidence.files import describe_machine
from onnx_evidence.methods.engine import CutMap, Engine
from onnx_evidence.methods.settings import Settings
from onnx_evidence.pictures import OPENCV_VERSION, PILLOW_VERSION, Photograph, printable
from onnx_evidence.preprocessing import Preprocess, how_taken
from onnx_evidence.sessions import RUNTIME_VERSION
from onnx_evidence.types import Features

# Classes that a record names, the most probable first.
TOP_CLASSES = 5


def fixed_record(
    deployed: DeployedModel,
    settings: Settings,
    reason: str,
    background: tuple[str, str | None],
    shallow: str | None = None,
) -> dict[str, Any]:
    """What is the same for every picture: settings, device, machine, versions, hashes.

    Parameters
    ----------
    deployed : DeployedModel
        The model.
    settings : Settings
        What was set.
    reason : str
        Why this method.
    background : (str, str or None)
        What removed features were replaced by, in words; SHA-256 of its file or of the files in its folder.
    shallow : str or None
        What the cuts miss of the model's depth.

    Returns
    -------
    dict
        Plain values, ready for JSON.
    """
    words, digest = background
    proof = deployed.model.proof
    labels = None if deployed.labels is None else hashlib.sha256("\n".join(deployed.labels).encode()).hexdigest()
    return {
        "model": printable(deployed.model.path),
        "settings": {**asdict(settings), "preprocess": deployed.preprocess.model_dump(mode="json")},
        "changes": list(deployed.model.changes),
        "proof": None if proof is None else proof.words,
        "labels": None if deployed.labels_file is None else printable(deployed.labels_file),
        "preprocess_source": deployed.model.preprocess_source,
        "output": deployed.model.output_name,
        "classes": deployed.class_kind.name,
        "method_reason": reason,
        "background": words,
        "shallow": shallow,
        "device": deployed.device.name,
        "device_reason": deployed.device.reason,
        "elsewhere": deployed.elsewhere,
        "machine": describe_machine(gpu=deployed.device.nvidia),
        "versions": {
            "onnx-evidence": version("onnx-evidence"),
            "onnxruntime": RUNTIME_VERSION,
            "provider": deployed.device.provider,
            "onnx": version("onnx"),
            "opencv": OPENCV_VERSION,
            "pillow": PILLOW_VERSION,
            "matplotlib": version("matplotlib"),
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "hashes": {"model": deployed.model.sha256, "labels": labels, "background": digest},
    }


def make_record(
    fixed: dict[str, Any],
    engines: Sequence[Engine],
    photograph: Photograph,
    preprocess: Preprocess,
    inputs: Features,
    maps: Sequence[CutMap],
) -> dict[str, Any]:
    """Describe how a map was made.

    Parameters
    ----------
    fixed : dict
        From `fixed_record`.
    engines : sequence of Engine
        The method at every cut.
    photograph : Photograph
        The picture.
    preprocess : Preprocess
        What was done to it.
    inputs : ndarray of float32, shape (channels, H, W)
        What was made of it.
    maps : sequence of CutMap
        A map of every cut, for its certificate, what rounding costs it, and its draws.

    Returns
    -------
    dict
        Plain values, ready for JSON.
    """
    digests = {"image": photograph.sha256, "input": hashlib.sha256(inputs.tobytes()).hexdigest()}
    cuts = [_cut(engine, each) for engine, each in zip(engines, maps, strict=True)]
    return {
        **fixed,
        "samples": how_taken(photograph, preprocess),
        "cuts": cuts,
        "hashes": {**fixed["hashes"], **digests},
    }


def _cut(engine: Engine, its_map: CutMap) -> dict[str, Any]:
    return {
        "name": engine.cut.name,
        "grid": list(engine.cut.grid),
        **engine.describe(),
        **its_map.sampling,
        "certificate": its_map.certificate,
        "rounding_bits": its_map.rounding,
        "resolution_pixels": round(engine.field.resolution, 1),
        "field": engine.field.how,
        "field_reason": engine.field.reason or None,
    }
