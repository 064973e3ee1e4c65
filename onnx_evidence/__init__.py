"""Signed evidence, in bits and in the pixels of the photograph, from a deployed .onnx image classifier.

What is offered here is imported when it is first asked for: ``onnx-evidence --help`` needs none of it.
"""

import os
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

# ONNX Runtime reports to its maker from the moment that it is imported, unless this is set before.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

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

if TYPE_CHECKING:
    from onnx_evidence.deployed import DeployedModel
    from onnx_evidence.explainer import Explainer
    from onnx_evidence.methods import fit_background
    from onnx_evidence.preprocessing import Preprocess
    from onnx_evidence.results import Explanation

    __version__: str

# Where each is.
_HOMES = {
    "DeployedModel": "deployed",
    "Explainer": "explainer",
    "Explanation": "results",
    "Preprocess": "preprocessing",
    "fit_background": "methods",
}

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


def __getattr__(name: str) -> Any:
    if name == "__version__":
        found: Any = import_module("importlib.metadata").version("onnx-evidence")
    elif name in _HOMES:
        found = getattr(import_module(f"onnx_evidence.{_HOMES[name]}"), name)
    elif not name.startswith("_") and find_spec(f"onnx_evidence.{name}") is not None:
        found = import_module(f"onnx_evidence.{name}")
    else:
        raise AttributeError(f"module 'onnx_evidence' has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
