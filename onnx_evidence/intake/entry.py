"""The image input: which one it is, its axes, its size."""

from pathlib import Path

import onnx
from onnx import TensorProto

from onnx_evidence.errors import DataError, ModelError
from onnx_evidence.preprocess import Preprocess


def image_input(proto: onnx.ModelProto, path: Path) -> onnx.ValueInfoProto:
    """The one image input.

    Parameters
    ----------
    proto : onnx.ModelProto
        The model.
    path : Path
        Its file, for messages.

    Returns
    -------
    onnx.ValueInfoProto

    Raises
    ------
    ModelError
        If there is none, or more than one, or it holds no float32 pictures.
    """
    # Before IR version 4 initializers had to be listed as inputs too.
    constants = {tensor.name for tensor in proto.graph.initializer}
    inputs = [value for value in proto.graph.input if value.name not in constants]
    if len(inputs) != 1:
        names = ", ".join(repr(value.name) for value in inputs) or "none"
        raise ModelError(f"{path}: the model has {len(inputs)} inputs ({names}); one image input is needed")
    image: onnx.ValueInfoProto = inputs[0]
    tensor = image.type.tensor_type
    rank = len(tensor.shape.dim)
    if rank != 4:
        raise ModelError(
            f"{path}: input {image.name!r} has {rank} axes, an image input has 4: batch, channels, height, width"
        )
    if tensor.elem_type != TensorProto.FLOAT:
        kind = TensorProto.DataType.Name(tensor.elem_type).lower()
        raise ModelError(f"{path}: input {image.name!r} is {kind}; only float32 image inputs are supported")
    return image


def input_shape(
    image: onnx.ValueInfoProto, preprocess: Preprocess | None, path: Path
) -> tuple[int | None, tuple[int, int, int]]:
    """Read batch, channels, height, width; write height and width into ``image`` where they were open.

    Parameters
    ----------
    image : onnx.ValueInfoProto
        The image input.
    preprocess : Preprocess or None
        Gives what the file leaves open.
    path : Path
        The model's file, for messages.

    Returns
    -------
    batch : int or None
        None where it is free.
    shape : (int, int, int)
        Channels, height, width.

    Raises
    ------
    ModelError, DataError
        If this is no picture, or the preprocessing makes another one.
    """
    dims = image.type.tensor_type.shape.dim
    batch, channels, height, width = (dim.dim_value or None for dim in dims)
    if channels not in (None, 1, 3) and width in (1, 3):
        raise ModelError(f"{path}: input {image.name!r} has its channels last (NHWC); only NCHW is supported")
    if preprocess is not None:
        wanted = (channels or preprocess.channels, height or preprocess.size[0], width or preprocess.size[1])
        if wanted != (preprocess.channels, *preprocess.size):
            raise DataError(
                f"{path}: preprocessing makes {preprocess.channels} x {preprocess.size[0]} x {preprocess.size[1]}, "
                f"but input {image.name!r} takes {channels or '?'} x {height or '?'} x {width or '?'}"
            )
        channels, height, width = wanted
    if channels not in (1, 3):
        raise ModelError(f"{path}: input {image.name!r} has {channels or 'open'} channels; an image has 1 or 3")
    if height is None or width is None:
        raise ModelError(
            f"{path}: input {image.name!r} leaves height and width open; pass --preprocess FILE.toml with a 'size'"
        )
    for dim, side in zip(dims[1:], (channels, height, width), strict=True):
        dim.dim_value = side
    return batch, (channels, height, width)
