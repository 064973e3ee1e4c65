"""What went into a map, as plain values for the manifest."""

import platform
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import numpy as np

from onnx_evidence.deployed import DeployedModel
from onnx_evidence.images import Photograph
from onnx_evidence.prepared import PreparedCut
from onnx_evidence.runtime import RUNTIME_VERSION
from onnx_evidence.settings import Settings


def make_record(
    deployed: DeployedModel,
    settings: Settings,
    background: tuple[str, str | None],
    cuts: Sequence[PreparedCut],
    photograph: Photograph,
    certificates: Sequence[float],
) -> dict[str, Any]:
    """Describe how a map was made: settings, cuts with their certificates, hashes, device, versions.

    Parameters
    ----------
    deployed : DeployedModel
        The model.
    settings : Settings
        What was set.
    background : (str, str or None)
        What removed features were replaced by, in words; SHA-256 of its file, where it has one.
    cuts : sequence of PreparedCut
        Where they were removed.
    photograph : Photograph
        The picture.
    certificates : sequence of float
        One per cut: largest change of a logit by the split, as a share of the largest logit.

    Returns
    -------
    dict
        Plain values, ready for JSON.
    """
    words, digest = background
    return {
        "settings": {**asdict(settings), "preprocess": deployed.preprocess.model_dump(mode="json")},
        "background": words,
        "device": deployed.device.name,
        "device_reason": deployed.device.reason,
        "cuts": [_cut(prepared, certificate) for prepared, certificate in zip(cuts, certificates, strict=True)],
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


def _cut(prepared: PreparedCut, certificate: float) -> dict[str, Any]:
    return {
        "name": prepared.cut.name,
        "grid": list(prepared.cut.grid),
        "window": list(prepared.windows.size),
        "windows": len(prepared.windows),
        "samples": prepared.samples,
        "certificate": certificate,
        "resolution_pixels": round(prepared.field.resolution, 1),
    }
