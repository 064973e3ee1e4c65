"""Operators that give something else in every run: random ones, and those that were exported in training mode."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx
from onnx import numpy_helper

from onnx_evidence.graphs import Net, bodies, node_inputs
from onnx_evidence.intake.dialect import constant_tensor
from onnx_evidence.types import AnyArray

_DRAWING = frozenset(
    "RandomNormal RandomNormalLike RandomUniform RandomUniformLike Multinomial Bernoulli BiasDropout BitmaskDropout "
    "BitmaskBiasDropout".split()
)
_DOMAINS = frozenset({"", "ai.onnx", "com.microsoft"})
# These have a mode for training: as an attribute that is one or none, as outputs that only training has, as an input.
_MODE_SINCE = {"Dropout": 12, "BatchNormalization": 14}
_TEST_UP_TO = 6
_DRAWS = "draws new numbers in every run"
_LEARNS = (
    "is in training mode: what it gives for a picture depends on the others of its batch, and in ONNX Runtime on "
    "earlier runs"
)


def why_unsteady(net: Net, name: str) -> str | None:
    """The operator that lets a tensor change from run to run, in words; None where none is known to.

    What does not lead to the tensor may be as random as it likes, and so may what lends it no more than its shape. The
    model has no local functions.
    """
    for node, constants in _reaching(net, [name], {}):
        if node.domain in _DOMAINS and (why := _why(node, net.opset, constants)):
            return f"{node.op_type} at {next(filter(None, node.output), '')!r} {why}"
    return None


def _reaching(
    net: Net, names: Sequence[str], around: Mapping[str, onnx.TensorProto | None]
) -> Iterator[tuple[onnx.NodeProto, Mapping[str, onnx.TensorProto | None]]]:
    """Nodes whose values lead to some tensors, those inside of control flow included, with what is constant there.

    That is None where nodes make it of constants alone.
    """
    constants: dict[str, onnx.TensorProto | None] = {**around, **net.constants}
    for node in net.nodes:
        if (value := constant_tensor(node)) is not None:
            constants[node.output[0]] = value
        elif all(name in constants for name in node_inputs(node)) and node.op_type not in _DRAWING:
            constants |= dict.fromkeys(node.output)
    for node in net.ancestors(*names, is_leaf=lambda each: each.op_type in ("Shape", "Size")):
        yield node, constants
        for body in bodies(node):
            inside = Net(net.proto, body)
            yield from _reaching(inside, inside.outputs, constants)


def _why(node: onnx.NodeProto, opset: int, constants: Mapping[str, onnx.TensorProto | None]) -> str | None:
    given = {attribute.name: attribute for attribute in node.attribute}
    if node.op_type in _DRAWING:
        return None if "scale" in given and given["scale"].f == 0 else _DRAWS
    if node.op_type not in _MODE_SINCE:
        return None
    if opset >= _MODE_SINCE["BatchNormalization"] and node.op_type == "BatchNormalization":
        training = "training_mode" in given and given["training_mode"].i != 0
    elif opset <= _TEST_UP_TO:
        training = "is_test" not in given or given["is_test"].i == 0
    elif node.op_type == "BatchNormalization":
        # Statistics are outputs in training only; named '' they crash ONNX Runtime.
        training = len(node.output) > 1
    else:
        training = opset >= _MODE_SINCE["Dropout"] and _drops(node, constants)
    learns = node.op_type == "BatchNormalization"
    # Weights are standardised that way too, which is the same in every run.
    training = training and not (learns and node.input[0] in constants)
    return (_LEARNS if learns else f"is in training mode: it {_DRAWS}") if training else None


def _drops(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto | None]) -> bool:
    """Whether constants say that a Dropout is in training; what is computed is left to the trial."""
    ratio, mode = (_number(node, place, constants) for place in (1, 2))
    return mode is not None and bool(mode) and (ratio is None or bool(ratio != 0))


def _number(node: onnx.NodeProto, place: int, constants: Mapping[str, onnx.TensorProto | None]) -> AnyArray | None:
    tensor = constants.get(node.input[place]) if len(node.input) > place else None
    return None if tensor is None else np.asarray(numpy_helper.to_array(tensor)).reshape(-1)[0]
