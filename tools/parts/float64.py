"""Graphs run in float64, for `check_gradients.py`, `bench_peers.py`: onnx's reference evaluator, PyTorch's kernels."""

import importlib
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from onnx_evidence.types import AnyArray

# Central differences: along so many directions, the best of these steps, and none further where one is this good.
_DIRECTIONS = 3
_STEPS = (1e-8, 1e-7, 1e-9)
_ENOUGH = 1e-6


def in_float64(model: onnx.ModelProto) -> ReferenceEvaluator:
    """Runs a model with all weights, constants and casts in double precision."""
    double = onnx.ModelProto()
    double.CopyFrom(model)
    del double.graph.value_info[:]
    for tensor in double.graph.initializer:
        _widen(tensor)
    for node in double.graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                _widen(attribute.t)
            elif node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.DOUBLE
    kernels: list[type[OpRun]] = [
        AveragePool,
        BatchNormalization,
        Conv,
        ConvTranspose,
        Erf,
        Gelu,
        LRN,
        MaxPool,
        Pad,
        ScatterElements,
    ]
    return ReferenceEvaluator(double, new_ops=kernels)


def slope_error(model: onnx.ModelProto, gradient: AnyArray, x: AnyArray, cotangent: AnyArray) -> float:
    """Median difference of slopes from central differences along random directions, as a share of a usual slope."""
    exact, name, rng = in_float64(model), model.graph.input[0].name, np.random.default_rng(3)

    def form(point: AnyArray) -> float:
        return float((_first(exact, {name: point}).reshape(cotangent.shape) * cotangent).sum())

    errors = []
    for _ in range(_DIRECTIONS):
        direction = rng.normal(size=x.shape)
        slope, error = float((gradient * direction).sum()), np.inf
        for step in _STEPS:
            if error > _ENOUGH:
                truth = (form(x + step * direction) - form(x - step * direction)) / (2 * step)
                error = min(error, abs(slope - truth) / float(np.linalg.norm(gradient)))
        errors.append(error)
    return float(np.median(errors))


def float64_gradient(backward: onnx.ModelProto, x: AnyArray, cotangent: AnyArray) -> AnyArray:
    """The gradient by a backward graph in float64."""
    fed = {backward.graph.input[0].name: x.astype(np.float64), "cotangent": cotangent.astype(np.float64)}
    return _first(in_float64(backward), fed)


def _first(evaluator: ReferenceEvaluator, fed: dict[str, AnyArray]) -> AnyArray:
    return np.asarray(next(iter(evaluator.run(None, fed))))


def _widen(tensor: TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))


class _Kernel(OpRun):
    """An operator by PyTorch's kernel."""

    op_domain = ""

    @property
    def torch(self) -> Any:
        return importlib.import_module("torch")

    @property
    def margins(self) -> tuple[int, int, int, int]:
        top, left, bottom, right = self.given("pads", None) or (0, 0, 0, 0)
        return top, left, bottom, right

    def given(self, name: str, default: Any) -> Any:
        """An attribute of the node."""
        attributes = {each.name: helper.get_attribute_value(each) for each in self.onnx_node.attribute}
        return attributes.get(name, default)

    def pair(self, name: str, default: int = 1) -> list[int]:
        """Attributes of two axes."""
        if self.given("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
            raise NotImplementedError(f"{self.onnx_node.op_type} with auto_pad in float64")
        return list(self.given(name, [default] * 2))

    def padded(self, x: AnyArray, value: float = 0.0) -> Any:
        """The picture with its pads around it."""
        top, left, bottom, right = self.margins
        return self.torch.nn.functional.pad(self.torch.from_numpy(x), (left, right, top, bottom), value=value)


class BatchNormalization(_Kernel):
    """Normalisation by constants: older versions of the operator give a momentum, which is no training."""

    def _run(self, x: AnyArray, *parameters: AnyArray, **_: Any) -> tuple[AnyArray]:
        scale, bias, mean, variance = map(self.torch.from_numpy, parameters)
        norm, epsilon = self.torch.nn.functional.batch_norm, self.given("epsilon", 1e-5)
        return (norm(self.torch.from_numpy(x), mean, variance, scale, bias, eps=epsilon).numpy(),)


class Conv(_Kernel):
    """Convolution."""

    def _run(self, x: AnyArray, w: AnyArray, b: AnyArray | None = None, **_: Any) -> tuple[AnyArray]:
        bias = None if b is None else self.torch.from_numpy(b)
        strides, dilations = self.pair("strides"), self.pair("dilations")
        weight = self.torch.from_numpy(np.ascontiguousarray(w))
        made = self.torch.nn.functional.conv2d(
            self.padded(x), weight, bias, strides, 0, dilations, self.given("group", 1)
        )
        return (made.numpy(),)


class ConvTranspose(_Kernel):
    """Transposed convolution; what lies in the pads is cut off."""

    def _run(self, x: AnyArray, w: AnyArray, b: AnyArray | None = None, **_: Any) -> tuple[AnyArray]:
        torch = self.torch
        given = [
            self.pair("strides"),
            0,
            self.pair("output_padding", 0),
            self.given("group", 1),
            self.pair("dilations"),
        ]
        bias = None if b is None else torch.from_numpy(b)
        made = torch.nn.functional.conv_transpose2d(torch.from_numpy(x), torch.from_numpy(w), bias, *given)
        wanted = self.given("output_shape", None)
        if wanted is not None:
            return (self._of_size(made, wanted).numpy(),)
        top, left, bottom, right = self.margins
        return (made.numpy()[:, :, top : made.shape[2] - bottom, left : made.shape[3] - right],)

    def _of_size(self, made: Any, wanted: list[int]) -> Any:
        """With so many rows and columns: pads are then what the operator reckons, whatever the node says of them."""
        over = [int(side) - size for side, size in zip(made.shape[2:], wanted, strict=True)]
        top, left = (max(each, 0) - max(each, 0) // 2 for each in over)
        bottom, right = (max(-each, 0) for each in over)
        wider = self.torch.nn.functional.pad(made, (0, right, 0, bottom))
        return wider[:, :, top : top + wanted[0], left : left + wanted[1]]


class LRN(_Kernel):
    """Normalisation over neighbouring channels; onnx 1.23's own sums squares only in as many channels as pictures."""

    def _run(self, x: AnyArray, **_: Any) -> tuple[AnyArray]:
        size = self.given("size", None)
        squares = np.pad(x**2, ((0, 0), ((size - 1) // 2, size // 2), (0, 0), (0, 0)))
        total = sum(squares[:, shift : shift + x.shape[1]] for shift in range(size))
        alpha, beta = self.given("alpha", 1e-4), self.given("beta", 0.75)
        return (x * (self.given("bias", 1.0) + alpha / size * total) ** -beta,)


class MaxPool(_Kernel):
    """Maximum pooling, with places in the whole tensor."""

    def _run(self, x: AnyArray, **_: Any) -> tuple[AnyArray, ...]:
        pool = self.torch.nn.functional.max_pool2d
        options = {
            "kernel_size": self.given("kernel_shape", None),
            "stride": self.pair("strides"),
            "dilation": self.pair("dilations"),
            "ceil_mode": bool(self.given("ceil_mode", 0)),
        }
        made, places = (each.numpy() for each in pool(self.padded(x, -np.inf), **options, return_indices=True))
        if len(self.onnx_node.output) == 1:
            return (made,)
        top, left, _bottom, right = self.margins
        rows, cols = np.divmod(places, x.shape[3] + left + right)
        plane = np.arange(x.shape[0] * x.shape[1]).reshape(*x.shape[:2], 1, 1)
        return made, (plane * x.shape[2] + rows - top) * x.shape[3] + cols - left


class AveragePool(_Kernel):
    """Average pooling: of the padded picture, over that of ones."""

    def _run(self, x: AnyArray, **_: Any) -> tuple[AnyArray]:
        if self.given("ceil_mode", 0) or self.pair("dilations") != [1, 1]:
            raise NotImplementedError("AveragePool with ceil_mode or dilations in float64")

        def pool(values: AnyArray) -> AnyArray:
            padded = self.padded(values)
            return np.asarray(
                self.torch.nn.functional.avg_pool2d(
                    padded, self.given("kernel_shape", None), self.pair("strides")
                ).numpy()
            )

        return (pool(x) if self.given("count_include_pad", 0) else pool(x) / pool(np.ones_like(x)),)


class Erf(_Kernel):
    """The error function."""

    def _run(self, x: AnyArray) -> tuple[AnyArray]:
        return (self.torch.special.erf(self.torch.from_numpy(np.array(x))).numpy(),)


class Gelu(_Kernel):
    """Gelu in both forms."""

    def _run(self, x: AnyArray, approximate: str | None = None) -> tuple[AnyArray]:
        kind = approximate or "none"
        return (self.torch.nn.functional.gelu(self.torch.from_numpy(x), approximate=kind).numpy(),)


class Pad(_Kernel):
    """Padding with zeros and cropping, which onnx's own does not do."""

    def _run(
        self, x: AnyArray, pads: AnyArray | None = None, value: AnyArray | None = None, *_: AnyArray, **__: Any
    ) -> tuple[AnyArray]:
        if self.given("mode", b"constant") != b"constant" or (value is not None and value.any()):
            raise NotImplementedError("Pad in float64 with anything but zeros")
        pads = self.given("pads", None) if pads is None else pads
        before, after = np.reshape(pads, (2, -1)).tolist()
        flat = [each for pair in zip(before[::-1], after[::-1], strict=True) for each in pair]
        return (self.torch.nn.functional.pad(self.torch.from_numpy(x), flat).numpy(),)


class ScatterElements(_Kernel):
    """Additions to a vector, as MaxPool's rule asks for them."""

    def _run(
        self, data: AnyArray, places: AnyArray, values: AnyArray, axis: int | None = None, reduction: str | None = None
    ) -> tuple[AnyArray]:
        if data.ndim != 1 or reduction != "add":
            raise NotImplementedError("ScatterElements other than additions to a vector in float64")
        return (data + np.bincount(places, values, minlength=len(data)),)
