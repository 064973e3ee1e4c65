"""Layouts of a whole graph, and which tensors' cells nothing reads."""

from collections.abc import Callable, Mapping, Sequence

import onnx

from onnx_evidence.axes.reading import Reading
from onnx_evidence.axes.table import LOCAL, follow
from onnx_evidence.graphs import Layout, Shape, node_inputs
from onnx_evidence.types import AnyArray

# Operators that may take some tokens and leave others.
_TAKING = frozenset({"Gather", "Slice", "Split"})


def find_layouts(
    nodes: Sequence[onnx.NodeProto],
    data: frozenset[str],
    shapes: dict[str, Shape],
    values: Callable[[str], AnyArray | None],
    source: tuple[str, Layout],
) -> dict[str, Layout | None]:
    """What the axes of every tensor with data mean.

    Parameters
    ----------
    nodes : sequence of onnx.NodeProto
        In topological order.
    data : frozenset of str
        Tensors that carry values of the input.
    shapes : dict of str to Shape
        Of all tensors.
    values : callable
        The numbers of a constant; None where a tensor is none.
    source : (str, Layout)
        The input's name, and what its axes mean.

    Returns
    -------
    dict of str to (Layout or None)
        None where rows and columns cannot be followed.
    """
    found: dict[str, Layout | None] = dict([source])
    for node in nodes:
        for name in node.output if data.intersection(node.output) else ():
            found[name] = follow(Reading(node, found, shapes, values, name))
    return found


def find_unread(nodes: Sequence[onnx.NodeProto], layouts: Mapping[str, Layout | None], target: str) -> dict[str, str]:
    """Tensors of whose tokens only those are read that are no cells.

    The last block of a transformer with a class token makes many: what it does to other tokens reaches no score.

    Parameters
    ----------
    nodes : sequence of onnx.NodeProto
        In topological order, without those that ask for shapes alone.
    layouts : mapping of str to (Layout or None)
        From `find_layouts`.
    target : str
        Name of the logits.

    Returns
    -------
    dict of str to str
        From each of them to the output of the operator that takes the other tokens.
    """
    found: dict[str, str | None] = {target: None}
    for node in reversed(nodes):
        demands = {found[name] for name in node.output if name in found}
        if demands:
            for place, name in enumerate(node_inputs(node)):
                asked = _asked(node, place, layouts, demands)
                # What one reads in full is read.
                found[name] = asked if found.get(name, asked) else None
    return {name: output for name, output in found.items() if output}


def _asked(
    node: onnx.NodeProto, place: int, layouts: Mapping[str, Layout | None], demands: set[str | None]
) -> str | None:
    """The output by which a node reads no cells of an input; None where it reads them."""
    before = layouts.get(node_inputs(node)[place])
    after = [layouts.get(output) for output in node.output if output in layouts]
    if before is None or not before.has_tokens:
        return None
    if node.op_type in _TAKING and all(each is not None and not each.is_placed for each in after):
        return str(node.output[0])
    own = node.op_type in LOCAL and (node.op_type != "MatMul" or place == 0)
    kept = all(each is not None and each.has_tokens for each in after)
    return next(iter(demands)) if own and kept and None not in demands else None
