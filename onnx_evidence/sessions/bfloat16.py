"""Runs whose inputs or outputs are bfloat16, which numpy does not have and ONNX Runtime's `run` cannot hand over."""

import ctypes
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime as ort
from onnx import TensorProto

from onnx_evidence.types import AnyArray

_KIND = "tensor(bfloat16)"


def needs_care(session: ort.InferenceSession) -> bool:
    """Whether an input or an output of a session is bfloat16."""
    return any(each.type == _KIND for each in (*session.get_inputs(), *session.get_outputs()))


def run_with_care(
    session: ort.InferenceSession,
    outputs: list[str] | None,
    given: Mapping[str, AnyArray],
    options: ort.RunOptions | None,
) -> list[AnyArray]:
    """As `InferenceSession.run`; outputs of bfloat16 come as float32, which holds every one of its numbers."""
    names = [each.name for each in session.get_outputs()] if outputs is None else outputs
    values = {name: _handed(batch) for name, batch in given.items()}
    return [_taken(value) for value in session.run_with_ort_values(names, values, options)]


def _handed(batch: AnyArray) -> Any:
    batch = np.ascontiguousarray(batch)
    if batch.dtype.name == "bfloat16":
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(batch.view(np.uint16), TensorProto.BFLOAT16)
    return ort.OrtValue.ortvalue_from_numpy(batch)


def _taken(value: Any) -> AnyArray:
    if not value.is_tensor() or value.data_type() != _KIND:
        return np.asarray(value.numpy())
    if (place := value.device_name()) != "cpu":
        raise RuntimeError(f"an output of bfloat16 was left on {place}")  # its address is no address here
    shape = value.shape()
    # The upper half of a float32's bits.
    codes = np.frombuffer(ctypes.string_at(value.data_ptr(), 2 * math.prod(shape)), np.uint16)
    return (codes.astype(np.uint32) << 16).view(np.float32).reshape(shape)
