"""ONNX Runtime: graphs that are open and run, on a device that is there.

Imported by: deployed, intake, methods.
"""

from onnx_evidence.sessions.kernels import OLDEST, without_source
from onnx_evidence.sessions.runtime import (
    RUNTIME_VERSION,
    Classifier,
    Device,
    Differentiator,
    EndlessError,
    Session,
    finite_logits,
    settle_device,
)

__all__ = [
    "OLDEST",
    "RUNTIME_VERSION",
    "Classifier",
    "Device",
    "Differentiator",
    "EndlessError",
    "Session",
    "finite_logits",
    "settle_device",
    "without_source",
]
