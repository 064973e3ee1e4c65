"""What rules about operators share: axes, broadcasting, bounds."""

from collections.abc import Callable, Sequence

from onnx_evidence.counting.held import UNKNOWN, Call, Held, of_size

# From a node and what it reads to what it makes; kinds and values are no matter of rules.
Rule = Callable[[Call], list[Held]]


def broadcast(shapes: Sequence[tuple[int, ...] | None]) -> tuple[int, ...] | None:
    """The shape that numpy's broadcasting gives; None where it gives none, or one is not known."""
    known = [shape for shape in shapes if shape is not None]
    if len(known) < len(shapes):
        return None
    sides = []
    for place in range(1, max(map(len, known), default=0) + 1):
        along = {shape[-place] for shape in known if len(shape) >= place} - {1}
        if len(along) > 1:
            return None
        sides.append(along.pop() if along else 1)
    return tuple(sides[::-1])


def axis_of(axis: int, rank: int) -> int:
    """An axis as a number that is not negative."""
    return axis + rank if axis < 0 else axis


def larger(one: Sequence[int], other: Sequence[int]) -> list[int]:
    """The larger of every two sides, from the last on."""
    rank = max(len(one), len(other))
    first, second = ([1] * (rank - len(each)) + list(each) for each in (one, other))
    return [max(pair) for pair in zip(first, second, strict=True)]


def all_exact(call: Call) -> bool:
    """Whether all that is read is known to be as large as it may be."""
    return all(held.exact for held in call.inputs if held is not None)


def bounded(call: Call) -> list[Held]:
    """No more than the first input has, in whatever shape."""
    held = call.held(0)
    return [of_size(None if held is None else held.size)]


def first(call: Call) -> list[Held]:
    """As much as the first input has, in the same shape."""
    held = call.held(0)
    return [UNKNOWN if held is None else Held(held.shape, held.size, held.exact)]


def table(*rows: tuple[Rule, str]) -> dict[str, Rule]:
    """The rule of each operator, from rows of a rule and names of operators."""
    return {name: rule for rule, names in rows for name in names.split()}
