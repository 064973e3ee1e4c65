"""ONNX Runtime: graphs that are open and run, on a device that is there.

Imported by: cli, deployed, evaluation, export, intake, methods.
"""

from onnx_evidence.sessions.device import DEVICES, Device, settle_device
from onnx_evidence.sessions.kernels import OLDEST, without_source
from onnx_evidence.sessions.limit import convolution_rate
from onnx_evidence.sessions.runtime import (
    RUNTIME_VERSION,
    Classifier,
    Differentiator,
    EndlessError,
    Session,
    finite_logits,
    ran_on,
)
from onnx_evidence.sessions.watch import watched

__all__ = [
    "DEVICES",
    "OLDEST",
    "RUNTIME_VERSION",
    "Classifier",
    "Device",
    "Differentiator",
    "EndlessError",
    "Session",
    "convolution_rate",
    "finite_logits",
    "ran_on",
    "settle_device",
    "watched",
    "without_source",
]
