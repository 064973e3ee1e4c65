"""A first look at the image input, before it is taken in: what a preset or a file beside the model must fit."""

from pathlib import Path

import onnx
from onnx import TensorProto

from onnx_evidence.intake.read import metadata_of, read_file
from onnx_evidence.preprocessing.contract import Preprocess
from onnx_evidence.preprocessing.found import Found, find_preprocess
from onnx_evidence.preprocessing.presets import Wanted

_AXES = 4


def peek(proto: onnx.ModelProto) -> Wanted:
    """Sides of the image input as far as the file settles them.

    Parameters
    ----------
    proto : onnx.ModelProto
        The model as read.

    Returns
    -------
    Wanted
        All open where there is no single input of four axes; that is refused later, with the reason.
    """
    constants = {tensor.name for tensor in proto.graph.initializer}
    inputs = [value for value in proto.graph.input if value.name not in constants]
    if len(inputs) != 1 or not inputs[0].type.HasField("tensor_type"):
        return Wanted()
    tensor = inputs[0].type.tensor_type
    sides = [dim.dim_value or None for dim in tensor.shape.dim]
    if len(sides) != _AXES:
        return Wanted()
    return Wanted.of(sides[1:], integer=tensor.elem_type == TensorProto.UINT8)


def look(path: Path, given: str | Path | Preprocess | None = None) -> tuple[Found, Wanted]:
    """What preprocessing a model would be given, without opening it.

    Parameters
    ----------
    path : Path
        The .onnx file.
    given : str or Path or Preprocess, optional
        As in `deployed.DeployedModel`.

    Returns
    -------
    found : Found
    wanted : Wanted
        What the input takes.

    Raises
    ------
    ModelError, DataError
        If the file cannot be read, or what is given or recorded cannot be used.
    """
    proto = read_file(path).proto
    wanted = peek(proto)
    return find_preprocess(given, metadata_of(proto), path, wanted), wanted
