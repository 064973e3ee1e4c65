"""Nodes put behind the end of a graph: logits where a file has none."""

from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from onnx_evidence.graphs import Net, TensorInfo
from onnx_evidence.types import AnyArray

# The smallest normal number of float32: its logarithm stands for that of 0.
LEAST = float(np.finfo(np.float32).tiny)
# Since when Clip takes its bounds as inputs.
_BOUNDS_AS_INPUTS = 11


class Builder:
    """Appends nodes to a graph; types and shapes of what is appended are added to ``tensors``."""

    def __init__(self, net: Net, tensors: dict[str, TensorInfo]) -> None:
        self.net, self.tensors = net, tensors

    def as_float32(self, name: str) -> str:
        """The tensor of floats in float32: itself where it is that already."""
        info = self.tensors.get(name)
        if info is None or info.elem_type == TensorProto.FLOAT:
            return name
        return self._add("Cast", [name], info._replace(elem_type=TensorProto.FLOAT), to=TensorProto.FLOAT)

    def two_classes(self, name: str, columns: tuple[float, float]) -> str:
        """One number per picture, (N) or (N, 1) with more axes of length 1, times each of two numbers: a tensor (N, 2).

        With ``columns`` (0, 1) a logit z of one class becomes those of two classes, ``softmax(0, z)[1] = sigmoid(z)``.
        """
        name = self.as_float32(name)
        first = self.tensors[name].shape[:1]
        # A row of -1 keeps whatever the batch is, and drops all axes of length 1.
        column = self._constant("column", np.array([-1, 1], np.int64))
        flat = self._add("Reshape", [name, column], TensorInfo(TensorProto.FLOAT, (*first, 1)))
        factors = self._constant("columns", np.array([columns], np.float32))
        return self._add("Mul", [flat, factors], TensorInfo(TensorProto.FLOAT, (*first, 2)))

    def logarithm(self, name: str) -> str:
        """Natural logarithms of probabilities: logits of the same softmax.

        Probabilities below the least normal float32, 1.2e-38, count as that.
        """
        name = self.as_float32(name)
        return self._add("Log", [self._clipped(name)], self.tensors.get(name))

    def log_odds(self, name: str) -> str:
        """Log-odds of probabilities, ``log p - log(1 - p)``; clipped as in `logarithm`."""
        name = self.as_float32(name)
        one = self._constant("one", np.array(1, np.float32))
        rest = self._add("Sub", [one, name], self.tensors.get(name))
        return self._add("Sub", [self.logarithm(name), self.logarithm(rest)], self.tensors.get(name))

    def _clipped(self, name: str) -> str:
        info = self.tensors.get(name)
        if self.net.opset < _BOUNDS_AS_INPUTS:
            return self._add("Clip", [name], info, min=LEAST, max=1.0)
        bounds = [self._constant(word, np.array(side, np.float32)) for word, side in (("least", LEAST), ("most", 1.0))]
        return self._add("Clip", [name, *bounds], info)

    def _add(self, op_type: str, inputs: list[str], info: TensorInfo | None, **attributes: Any) -> str:
        name = self.net.write(op_type, inputs, self._name(op_type.lower()), **attributes)
        if info is not None:
            self.tensors[name] = info
        return name

    def _constant(self, word: str, values: AnyArray) -> str:
        name = self.net.store(numpy_helper.from_array(values, self._name(word)))
        self.tensors[name] = TensorInfo(helper.np_dtype_to_tensor_dtype(values.dtype), values.shape)
        return name

    def _name(self, word: str) -> str:
        return self.net.fresh(f"onnx_evidence.{word}", counted=True)
