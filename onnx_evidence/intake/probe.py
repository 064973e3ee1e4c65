"""One run of a file on pictures that are none, to see what a tensor holds."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from onnx_evidence.runtime import Session, settle_device
from onnx_evidence.shapes import TensorInfo
from onnx_evidence.types import AnyArray

# Pictures that differ in size of their values, whatever the model's scale is.
_SCALES = (0.5, 100.0)


def probe(
    proto: onnx.ModelProto, tensors: Mapping[str, TensorInfo], image: str, batch: int | None, name: str, folder: Path
) -> AnyArray:
    """Values of a tensor for a few inputs of noise.

    Parameters
    ----------
    proto : onnx.ModelProto
        The model, with channels, height and width of its input settled.
    tensors : mapping of str to TensorInfo
        Types and shapes.
    image : str
        The image input.
    batch : int or None
        The batch size that the file insists on.
    name : str
        The tensor.
    folder : Path
        Where weights lie that the graph only refers to.

    Returns
    -------
    ndarray, shape (2, ...)

    Raises
    ------
    ModelError
        If ONNX Runtime cannot run the model.
    """
    whole, info = proto.graph, tensors.get(name)
    # Without a type where it is not known: ONNX Runtime infers it.
    value = (
        onnx.ValueInfoProto(name=name) if info is None else helper.make_tensor_value_info(name, info.elem_type, None)
    )
    graph = helper.make_graph(whole.node, whole.name, whole.input, [value], whole.initializer)
    model = helper.make_model(graph, opset_imports=proto.opset_import, ir_version=proto.ir_version)
    model.functions.extend(proto.functions)
    rng = np.random.default_rng(0)
    shape = tensors[image].shape[1:]
    pictures = np.stack([scale * rng.random([side or 1 for side in shape]) for scale in _SCALES]).astype(np.float32)
    return Session(model, settle_device("cpu"), batch=batch, folder=folder).run(pictures)
