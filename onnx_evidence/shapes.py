"""Shapes and types of every tensor of a graph, with the batch axis told apart from the others."""

from typing import NamedTuple

import onnx
from onnx import shape_inference

# Stands for a free batch size during inference: a prime that no network has for a side, so that axes
# which are the batch, or a multiple of it, can be told from all others.
_BATCH = 7919

# None is the batch where it is the first side, and a side that is not known elsewhere.
Shape = tuple[int | None, ...]


class TensorInfo(NamedTuple):
    """What is known of a tensor before the model runs.

    Attributes
    ----------
    elem_type : int
        ONNX element type.
    shape : tuple of (int or None)
        The first side is None where it is the batch. A multiple of the batch counts for one picture.
    """

    elem_type: int
    shape: Shape


def infer(proto: onnx.ModelProto, input_name: str, batch: int | None) -> dict[str, TensorInfo]:
    """Infer types and shapes.

    Parameters
    ----------
    proto : onnx.ModelProto
        The model, with channels, height and width of its input settled.
    input_name : str
        The image input.
    batch : int or None
        The batch size that the file insists on.

    Returns
    -------
    dict
        For tensors whose type and rank are known, initializers included.

    Raises
    ------
    onnx.shape_inference.InferenceError
        If shapes of the graph contradict each other.
    """
    size = _BATCH if batch is None else batch
    numbered = onnx.ModelProto()
    numbered.CopyFrom(proto)
    image = next(value for value in numbered.graph.input if value.name == input_name)
    image.type.tensor_type.shape.dim[0].dim_value = size
    graph = shape_inference.infer_shapes(numbered, data_prop=True).graph
    known = {tensor.name: TensorInfo(tensor.data_type, tuple(tensor.dims)) for tensor in graph.initializer}
    for value in (*graph.value_info, *graph.input, *graph.output):
        tensor = value.type.tensor_type
        if tensor.HasField("shape") and value.name not in known:
            sides = [dim.dim_value or None for dim in tensor.shape.dim]
            known[value.name] = TensorInfo(tensor.elem_type, _per_picture(sides, size, batch is None))
    return known


def _per_picture(sides: list[int | None], size: int, free: bool) -> Shape:
    first = [None] if sides and sides[0] == size else sides[:1]
    rest = sides[len(first) :]
    if free:
        first = [side // size if side and side % size == 0 else side for side in first]
        rest = [side // size if side and side % size == 0 else side for side in rest]
    # An open first side is not proved to be the batch: 0 keeps it from being taken for it.
    return tuple([0] if sides and sides[0] is None else first) + tuple(rest)
