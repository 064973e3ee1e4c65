"""Operators of ONNX Runtime's own domain that have a standard twin by now, and weights of a few bits."""

import math

import numpy as np
from onnx import TensorProto

from onnx_evidence.intake.fused import Form, Fused, Rule, UnknownFormError
from onnx_evidence.types import AnyArray

# Since when the standard ones have these types, and these names.
_SIXTEEN_BITS, _PER_AXIS, _LINEAR = 21, 13, 20
_WIDE = frozenset({TensorProto.UINT16, TensorProto.INT16})
# Bits of activations that are made codes on the way, at this level of accuracy.
_OF_CODES = 4


def _twin(since: int, *attributes: str) -> Rule:
    """The rule of an operator that is standard since some opset."""

    def rule(step: Fused) -> list[str]:
        if step.opset < since:
            raise UnknownFormError
        return [step.op(step.node.op_type, *step.node.input, **step.attributes(attributes))]

    return rule


def _grid_sample(step: Fused) -> list[str]:
    if step.opset < 16:
        raise UnknownFormError
    given = step.attributes(("align_corners", "padding_mode"))
    mode = step.attribute("mode", "bilinear")
    if step.opset >= _LINEAR:
        mode = {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode)
    return [step.op("GridSample", *step.node.input, mode=mode, **given)]


def _expand_dims(step: Fused) -> list[str]:
    return [step.unsqueeze(step.input(0), *(int(axis) for axis in step.array(1).reshape(-1)))]


def _codes(step: Fused) -> list[str]:
    """QuantizeLinear and DequantizeLinear, where the standard ones have codes of that many bits."""
    kind = step.spelling.code(step.input(2)) if step.has(2) else TensorProto.UINT8
    axis = step.attribute("axis")
    if kind is None or (kind in _WIDE and step.opset < _SIXTEEN_BITS) or (axis is not None and step.opset < _PER_AXIS):
        raise UnknownFormError
    return [step.op(step.node.op_type, *step.node.input, axis=axis)]


def _transposed(step: Fused) -> list[str]:
    """ConvTranspose whose pads are an input."""
    given = step.attributes(("auto_pad", "dilations", "group", "kernel_shape", "output_padding", "strides"))
    pads = [int(pad) for pad in step.array(2)] if step.has(2) else None
    return [step.op("ConvTranspose", step.input(0), step.input(1), step.input(3), pads=pads, **given)]


def _few_bits(step: Fused) -> list[str]:
    """MatMulNBits: a product with weights of 4 or 8 bits, one scale for each block along a row."""
    bits, block = step.attribute("bits", 4), step.attribute("block_size")
    if step.has(4) or bits not in (4, 8) or step.attribute("accuracy_level", 0) >= _OF_CODES:
        raise UnknownFormError
    rows, cols = step.attribute("N"), step.attribute("K")
    blocks = math.ceil(cols / block)
    codes = _unpacked(step.array(1).reshape(rows, -1), bits)[:, : blocks * block].reshape(rows, blocks, block)
    scales = step.array(2).astype(np.float32).reshape(rows, blocks, 1)
    zeros: AnyArray = np.full((rows, blocks, 1), 2 ** (bits - 1), np.float32)
    if step.has(3):
        given = step.array(3)
        whole = _unpacked(given.reshape(rows, -1), bits) if given.dtype == np.uint8 else given.reshape(rows, -1)
        zeros = whole[:, :blocks].reshape(rows, blocks, 1)
    weights = ((codes.astype(np.float32) - zeros.astype(np.float32)) * scales).reshape(rows, -1)[:, :cols]
    y = step.op("MatMul", step.input(0), step.constant(weights.T.astype(step.array(2).dtype)))
    return [step.op("Add", y, step.input(5)) if step.has(5) else y]


def _unpacked(packed: AnyArray, bits: int) -> AnyArray:
    """Codes of a row of bytes, the low bits first."""
    if bits == 8:
        return packed
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(len(packed), -1)


def _rotary(step: Fused) -> list[str]:
    """RotaryEmbedding at constant positions: halves, or pairs, turned by angles of their own."""
    if any(map(step.attribute, ("is_packed_batching", "rotary_embedding_dim"))) or step.attribute("scale", 1.0) != 1.0:
        raise UnknownFormError
    places = step.array(1)
    shape = step.spelling.shape(step.input(0))
    if len(shape) not in (3, 4) or places.size == 0 or (places.ndim > 1 and len(places) > 1):
        raise UnknownFormError
    tokens = shape[1 if len(shape) == 3 else 2] or 0
    row = places.reshape(-1)[0] + np.arange(tokens) if places.size == 1 else places.reshape(-1)
    cos, sin = (step.array(index)[row] for index in (2, 3))
    half = cos.shape[-1]
    x = step.reshape(step.input(0), 0, 0, -1, 2 * half) if len(shape) == 3 else step.input(0)
    # Tokens are the second of four axes in the first case, the third in the other.
    angles = [step.constant(each[None, :, None] if len(shape) == 3 else each[None, None]) for each in (cos, sin)]
    turned = _interleaved(step, x, angles, half) if step.attribute("interleaved", 0) else _halves(step, x, angles, half)
    return [step.reshape(turned, 0, 0, -1) if len(shape) == 3 else turned]


def _halves(step: Fused, x: str, angles: list[str], half: int) -> str:
    return step.op("Concat", *_turned(step, step.split(x, [half, half], 3), angles), axis=3)


def _interleaved(step: Fused, x: str, angles: list[str], half: int) -> str:
    pairs = step.split(step.reshape(x, 0, 0, 0, half, 2) if half > 1 else step.unsqueeze(x, 3), [1, 1], 4)
    flat = [step.reshape(part, 0, 0, 0, half) for part in pairs]
    apart = [step.unsqueeze(part, 4) for part in _turned(step, flat, angles)]
    return step.reshape(step.op("Concat", *apart, axis=4), 0, 0, 0, 2 * half)


def _turned(step: Fused, parts: list[str], angles: list[str]) -> list[str]:
    (a, b), (cos, sin) = parts, angles
    return [
        step.op("Sub", step.op("Mul", a, cos), step.op("Mul", b, sin)),
        step.op("Add", step.op("Mul", a, sin), step.op("Mul", b, cos)),
    ]


_PACKED = ("K", "N", "bits", "block_size", "accuracy_level", "weight_prepacked")
FORMS: dict[str, Form] = {
    "Trilu": Form(_twin(14, "upper"), 1, ("upper",)),
    "Pad": Form(_twin(11, "mode"), 2, ("mode",)),
    "GatherND": Form(_twin(11), 2),
    "GridSample": Form(_grid_sample, 2, ("align_corners", "mode", "padding_mode")),
    "ExpandDims": Form(_expand_dims, 2),
    "QuantizeLinear": Form(_codes, 2, ("axis",)),
    "DequantizeLinear": Form(_codes, 2, ("axis",)),
    "ConvTransposeWithDynamicPads": Form(
        _transposed, 2, ("auto_pad", "dilations", "group", "kernel_shape", "output_padding", "strides")
    ),
    "MatMulNBits": Form(_few_bits, 3, _PACKED),
    "RotaryEmbedding": Form(
        _rotary, 4, ("interleaved", "num_heads", "rotary_embedding_dim", "is_packed_batching", "scale")
    ),
}
