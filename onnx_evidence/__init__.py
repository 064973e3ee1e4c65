"""Signed evidence, in bits and in the pixels of the photograph, from a deployed .onnx image classifier."""

import os
from importlib.metadata import version

# ONNX Runtime reports to its maker from the moment that it is imported, unless this is set before.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

from onnx_evidence.deployed import DeployedModel
from onnx_evidence.errors import (
    CutError,
    DataError,
    DeviceError,
    EvidenceError,
    ModelError,
    SettingError,
    StoreError,
    TargetError,
)
from onnx_evidence.explainer import Explainer
from onnx_evidence.methods import fit_background
from onnx_evidence.preprocessing import Preprocess
from onnx_evidence.results import Explanation

__version__ = version("onnx-evidence")

__all__ = [
    "CutError",
    "DataError",
    "DeployedModel",
    "DeviceError",
    "EvidenceError",
    "Explainer",
    "Explanation",
    "ModelError",
    "Preprocess",
    "SettingError",
    "StoreError",
    "TargetError",
    "__version__",
    "fit_background",
]
