"""Where inside a graph pictures of one batch see each other: every tensor looked at, as one number a row."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto

from onnx_evidence.errors import ModelError
from onnx_evidence.graphs import Net, TensorInfo, node_inputs, with_outputs
from onnx_evidence.intake.tried import STRICT, Subject, apart, largest, other_batches, pattern, session_of
from onnx_evidence.types import Features

_KINDS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.UINT8, TensorProto.INT8})
# Since then a reduction takes its axes as an input.
_AXES_GIVEN = 18
# To open a session takes ONNX Runtime time that grows with the square of what is looked at: a minute for 4000.
_MOST = 1000


def moved_inside(subject: Subject, pictures: Features) -> str | None:
    """The first tensor on the way to the scores with a row for each picture, whose rows other pictures move.

    Given the six pictures of `tried_pictures`, it names the operator where they meet, with its output; None where none
    is found, tensors cannot be summed up, or there are more than a thousand of them.
    """
    rows = subject.batch or 2
    net = Net(subject.proto)
    leading = net.needed(subject.target, is_leaf=lambda node: node.op_type in ("Shape", "Size"))
    needed = (name for node in leading if node.op_type not in ("Shape", "Size") for name in node.output)
    names = [name for name in needed if _has_rows(subject.tensors.get(name))]
    if len(names) > _MOST:
        return None
    try:
        with with_outputs(subject.proto, []) as proto:
            lengths = _add_lengths(Net(proto), names)
            proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in lengths)
            session = session_of(subject)
        base = session.run_all(pictures[pattern(rows)])
        others = [(session.run_all(pictures[batch]), kept) for batch, kept in other_batches(rows)]
    except ModelError:
        return None
    for place, name in enumerate(names):
        strict = STRICT * largest([base[place], *(found[place] for found, _ in others)])
        if any(apart(base[place][kept], found[place][kept]) > strict for found, kept in others):
            return _source(name, net.producer, {*names, subject.entry.name})
    return None


def _source(name: str, made: Mapping[str, onnx.NodeProto], rows: set[str]) -> str:
    """Where pictures meet: what was read there may have no rows itself, as the largest value of all."""
    while True:
        node = made[name]
        before = [each for each in node_inputs(node) if each in made and each not in rows]
        if not before:
            return f"{node.op_type} {name!r}"
        name = before[0]


def _has_rows(info: TensorInfo | None) -> bool:
    return info is not None and info.shape[:1] == (None,) and info.elem_type in _KINDS


def _add_lengths(net: Net, names: Sequence[str]) -> list[str]:
    """Nodes that make the Euclidean length of every row."""
    axes = net.constant("length/axes", np.array([1], np.int64))
    lengths = []
    # ONNX Runtime works its way back from the node that comes last: were that the last tensor's, all the others would
    # be held until it is made. So it is the first one's, and every tensor is let go of as soon as it has been read.
    for name in reversed(names):
        cast, flat, length = (net.fresh(f"{name}/length/{word}") for word in ("float", "flat", "row"))
        net.write("Cast", [name], cast, to=TensorProto.FLOAT)
        net.write("Flatten", [cast], flat, axis=1)
        if net.opset >= _AXES_GIVEN:
            net.write("ReduceL2", [flat, axes], length, keepdims=0)
        else:
            net.write("ReduceL2", [flat], length, keepdims=0, axes=[1])
        lengths.append(length)
    net.finish()
    return lengths[::-1]
