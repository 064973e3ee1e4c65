"""The rule of Attention (opset 23): scaled dot products, softmax, and the mean of the values."""

import math

from onnx import TensorProto

from onnx_evidence.errors import GradientError
from onnx_evidence.vjp.elementwise import Rule
from onnx_evidence.vjp.step import Step
from onnx_evidence.vjp.tape import FLOATS, Value


def attention(step: Step) -> list[Value | None]:
    """Attention of every head by itself, as classifiers have it: with P the weights, ``y = P V``.

    ``V`` gets ``P' g``; the scores get ``S = P (g V' - sum of that times P)``, queries and keys get ``S K`` and
    ``S' Q``, scaled.
    """
    _check(step)
    query, key, value = (step.input(index) for index in range(3))
    scale = float(step.attribute("scale", 1 / math.sqrt(step.side(3))))
    weights = _weights(step, query, key, scale)
    through = step.g.op("MatMul", value.transpose(0, 1, 3, 2)) * weights
    scores = (through - weights * through.reduce("Sum", [3])) * scale
    return [
        scores.op("MatMul", key) if step.wanted[0] else None,
        scores.transpose(0, 1, 3, 2).op("MatMul", query) if step.wanted[1] else None,
        weights.transpose(0, 1, 3, 2).op("MatMul", step.g) if step.wanted[2] else None,
    ]


def _check(step: Step) -> None:
    """Refuse forms that text models have: caches, causal masks, capped scores, heads that share keys."""
    for name in ("is_causal", "softcap", "qk_matmul_output_mode"):
        if step.attribute(name, 0):
            raise GradientError(f"Attention with {name} has no rule")
    shapes = [step.shape(index) for index in range(3)]
    if any(len(shape) != 4 for shape in shapes) or len({shape[1] for shape in shapes}) > 1:
        raise GradientError("Attention has a rule for (batch, heads, tokens, channels) with as many heads of each")
    if any(step.has(index) for index in (4, 5, 6)):
        raise GradientError("Attention with past keys has no rule")


def _weights(step: Step, query: Value, key: Value, scale: float) -> Value:
    scores = query.op("MatMul", key.transpose(0, 1, 3, 2)) * scale
    if step.has(3):
        mask = step.input(3)
        if mask.elem_type not in FLOATS:
            zero, lowest = scores.number(0.0), scores.number(-1e30 if scores.elem_type != TensorProto.FLOAT16 else -6e4)
            mask = mask.op("Where", zero, lowest, elem_type=scores.elem_type)
        scores = scores + mask
    return scores.op("Softmax", axis=-1)


RULES: dict[str, Rule] = {"Attention": attention}
