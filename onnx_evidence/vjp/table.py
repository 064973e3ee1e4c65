"""The table: one rule per operator."""

from onnx_evidence.vjp import (
    attention,
    elementwise,
    indexing,
    linear,
    normalization,
    pooling,
    reduction,
    sampling,
    shaping,
)
from onnx_evidence.vjp.elementwise import Rule
from onnx_evidence.vjp.step import Step
from onnx_evidence.vjp.tape import Value

RULES: dict[str, Rule] = {
    **elementwise.RULES,
    **linear.RULES,
    **pooling.RULES,
    **reduction.RULES,
    **normalization.RULES,
    **shaping.RULES,
    **indexing.RULES,
    **sampling.RULES,
    **attention.RULES,
}

# What guided backpropagation (Springenberg 2014) changes: cotangents pass a rectifier where they are positive.
RECTIFIERS = frozenset({"Relu", "Clip"})


def guided(rule: Rule) -> Rule:
    """A rectifier's rule, changed as guided backpropagation does: negative cotangents stop there."""

    def changed(step: Step) -> list[Value | None]:
        return [None if each is None else each.op("Relu") for each in rule(step)]

    return changed
