"""Rows that a model gave, refused where they are no scores of classes."""

import numpy as np

from onnx_evidence.errors import ModelError
from onnx_evidence.evidence import EXCLUSIVE
from onnx_evidence.intake.model import Model
from onnx_evidence.intake.outputs import SUM_TOLERANCE
from onnx_evidence.types import FloatArray


def check_rows(model: Model, logits: FloatArray) -> None:
    """Refuse rows (N, K) that are no scores of classes: probabilities after all, or made from what are none."""
    place = f"{model.path}: output {model.output_name!r}"
    exclusive = model.class_kind is EXCLUSIVE
    taken_as_logits = model.output_kind == "logits" and exclusive and logits.min() >= 0
    if taken_as_logits and np.abs(logits.sum(axis=1) - 1).max() < 1e-4:
        raise ModelError(
            f"{place} holds probabilities, and no Softmax was found to cut before: export the model with logits, or "
            "with a Softmax node at its end"
        )
    if model.output_note is not None and exclusive and not model.binary:
        sums = np.exp(logits).sum(axis=1)
        worst = sums[np.abs(sums - 1).argmax()]
        if abs(worst - 1) > SUM_TOLERANCE:
            raise ModelError(
                f"{place} holds no probabilities for this picture: they add up to {worst:.3g}, not to 1; check the "
                "preprocessing, or export the model with its logits"
            )
