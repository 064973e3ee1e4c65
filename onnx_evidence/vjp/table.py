"""The table: one rule per operator."""

from onnx_evidence.vjp import (
    attention,
    elementwise,
    indexing,
    linear,
    normalization,
    pooling,
    reduction,
    relevance,
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


def guided(rule: Rule) -> Rule:
    """A rectifier's rule, changed as guided backpropagation does: negative cotangents stop there."""

    def changed(step: Step) -> list[Value | None]:
        return [None if each is None else each.op("Relu") for each in rule(step)]

    return changed


GRADIENT, GUIDED = "gradient", "guided"
RELEVANCE = CONSERVATIVE, ATTNLRP = "conservative", "attnlrp"
# What takes the place of other rules, by the name of all that are in use then.
CHANGED: dict[str, dict[str, Rule]] = {
    GRADIENT: {},
    GUIDED: {name: guided(RULES[name]) for name in ("Relu", "Clip")},
    ATTNLRP: relevance.ATTNLRP,
    CONSERVATIVE: relevance.CONSERVATIVE,
}
