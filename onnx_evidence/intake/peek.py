"""A first look at the image input, before it is taken in: what a preset or a file beside the model must fit."""

from pathlib import Path

import onnx
from onnx import TensorProto

from onnx_evidence.counting import MAX_WORK
from onnx_evidence.intake.entry import image_input
from onnx_evidence.intake.read import metadata_of, read_file
from onnx_evidence.preprocessing import Found, Preprocess, Wanted, find_preprocess


def peek(proto: onnx.ModelProto, path: Path) -> Wanted:
    """Sides of the image input as far as the file, as it was read, settles them.

    `ModelError` if there is no single input of pictures: no preprocessing would be the remedy.
    """
    tensor = image_input(proto, path).type.tensor_type
    sides = [dim.dim_value or None for dim in tensor.shape.dim]
    return Wanted.of(sides[1:], integer=tensor.elem_type == TensorProto.UINT8)


def look(path: Path, given: str | Path | Preprocess | None = None, max_work: int = MAX_WORK) -> tuple[Found, Wanted]:
    """What preprocessing a model would be given, without opening it.

    Parameters
    ----------
    path : Path
        The .onnx file.
    given : str or Path or Preprocess, optional
        As in `deployed.DeployedModel`.
    max_work : int
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
    proto = read_file(path, max_work=max_work).proto
    wanted = peek(proto, path)
    return find_preprocess(given, metadata_of(proto), path, wanted), wanted
