"""How many numbers an operator makes of what it reads, and with how many multiply-adds: bounds, without running it.

What is not in the tables makes as much as its first input has: activations, normalisations, what ONNX Runtime fuses.
"""

from onnx_evidence.counting import making, moving, products
from onnx_evidence.counting.bounds import bounded, first, table
from onnx_evidence.counting.held import Call, Held

_RULES = (
    products.RULES
    | moving.RULES
    | making.RULES
    | table(
        (bounded, "SequenceAt ConcatFromSequence OptionalGetElement"),
        (first, "ScatterND ScatterElements Scatter EyeLike RandomNormalLike RandomUniformLike Bernoulli"),
    )
)


def grown(call: Call) -> list[Held]:
    """What a node makes, kinds and values left aside: one for each output, or one for all of them.

    Multiply-adds are put to ``call.adds``; `Open` is raised where it hangs on a value that is not known.
    """
    return _RULES.get(call.node.op_type, first)(call)
