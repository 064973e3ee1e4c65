"""The class scores: which output holds them, in what form, and where the logits are."""

from pathlib import Path

import onnx

from onnx_evidence.errors import ModelError

# Operators between the logits and the output that change no value but in its precision.
_RESHAPES = frozenset({"Cast", "Identity", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Dropout"})


def only_output(proto: onnx.ModelProto, path: Path) -> str:
    """The name of the only output.

    Parameters
    ----------
    proto : onnx.ModelProto
        The model.
    path : Path
        Its file, for messages.

    Returns
    -------
    str

    Raises
    ------
    ModelError
        If there are several.
    """
    names = [value.name for value in proto.graph.output]
    if len(names) != 1:
        raise ModelError(f"{path}: the model has {len(names)} outputs ({', '.join(names)}); one is supported")
    return str(names[0])


def find_logits(graph: onnx.GraphProto, output: str, path: Path) -> tuple[str, str]:
    """Walk back from the output over reshapes to what made it; before a Softmax lie the logits.

    Parameters
    ----------
    graph : onnx.GraphProto
        The graph.
    output : str
        One of its outputs.
    path : Path
        The model's file, for messages.

    Returns
    -------
    kind : {'logits', 'probabilities', 'log-probabilities'}
        What the output holds.
    logits : str
        The tensor that holds logits.

    Raises
    ------
    ModelError
        If the output is of another kind.
    """
    producer = {name: node for node in graph.node for name in node.output}
    tensor = output
    while tensor in producer and producer[tensor].op_type in _RESHAPES:
        tensor = producer[tensor].input[0]
    last = producer[tensor].op_type if tensor in producer else "Input"
    if last == "Softmax":
        return "probabilities", producer[tensor].input[0]
    if last == "LogSoftmax":
        return "log-probabilities", output
    if last in ("Sigmoid", "HardSigmoid"):
        raise ModelError(
            f"{path}: the output is a {last} (multi-label or binary); only softmax classifiers are supported"
        )
    return "logits", output
