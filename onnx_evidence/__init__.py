"""Signed evidence, in bits and in the pixels of the photograph, from a deployed .onnx image classifier."""

from importlib.metadata import version

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
from onnx_evidence.explanation import Explanation
from onnx_evidence.fit import fit_background
from onnx_evidence.pipeline import Explainer
from onnx_evidence.preprocessing.contract import Preprocess

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
