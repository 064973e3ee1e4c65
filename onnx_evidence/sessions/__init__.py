"""ONNX Runtime: graphs that are open and run, on a device that is there.

Imported by: cli, deployed, intake, methods.
"""

from onnx_evidence.sessions.device import DEVICES, Device, settle_device
from onnx_evidence.sessions.kernels import OLDEST, without_source
from onnx_evidence.sessions.runtime import (
    RUNTIME_VERSION,
    Classifier,
    Differentiator,
    EndlessError,
    Session,
    finite_logits,
    ran_on,
)

__all__ = [
    "DEVICES",
    "OLDEST",
    "RUNTIME_VERSION",
    "Classifier",
    "Device",
    "Differentiator",
    "EndlessError",
    "Session",
    "finite_logits",
    "ran_on",
    "settle_device",
    "without_source",
]
