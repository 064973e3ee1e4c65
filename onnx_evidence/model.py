"""The deployed file: load, check, and find out what it takes, what it gives and what it calls its classes."""

from dataclasses import dataclass, field
from pathlib import Path

import onnx
from onnx import shape_inference

from onnx_evidence.errors import ModelError, one_line
from onnx_evidence.intake.entry import image_input, input_shape
from onnx_evidence.intake.labels import recorded_labels
from onnx_evidence.intake.outputs import find_logits, only_output
from onnx_evidence.intake.read import read_proto
from onnx_evidence.preprocess import METADATA_KEY, Preprocess, parse_preprocess
from onnx_evidence.shapes import TensorInfo, infer


@dataclass(frozen=True)
class Model:
    """A classifier read from an .onnx file.

    Attributes
    ----------
    path : Path
        The file.
    sha256 : str
        Of the file's bytes.
    proto : onnx.ModelProto
        The graph; nothing is changed but that the input's channels, height and width are settled.
    tensors : dict of str to TensorInfo
        Types and shapes of all tensors, as far as they are known before the model runs.
    opset : int
        Version of the default operator set.
    input_name : str
        The image input; NCHW.
    input_shape : (int, int, int)
        Channels, height, width.
    batch : int or None
        The batch size that the file insists on; None where it is free.
    output_name : str
        The graph's output.
    output_kind : {'logits', 'probabilities', 'log-probabilities'}
        What the output holds.
    logits_name : str
        The tensor that holds the logits: the input of the final Softmax, or the output itself.
    preprocess : Preprocess or None
        As recorded in the file.
    labels : tuple of str or None
        Class names as recorded in the file.
    """

    path: Path
    sha256: str
    proto: onnx.ModelProto = field(repr=False)
    tensors: dict[str, TensorInfo] = field(repr=False)
    opset: int
    input_name: str
    input_shape: tuple[int, int, int]
    batch: int | None
    output_name: str
    output_kind: str
    logits_name: str
    preprocess: Preprocess | None
    labels: tuple[str, ...] | None


def load_model(path: Path, preprocess: Preprocess | None = None) -> Model:
    """Read and check a model.

    Parameters
    ----------
    path : Path
        The .onnx file.
    preprocess : Preprocess, optional
        Takes the place of what the file records; gives height and width where the file leaves them open.

    Returns
    -------
    Model

    Raises
    ------
    ModelError
        If the file is no ONNX model, or no classifier of one float NCHW image with logits to be found.
    DataError
        If the preprocessing does not fit the model's input.
    """
    proto, digest = read_proto(path)
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    if preprocess is None and METADATA_KEY in metadata:
        preprocess = parse_preprocess(metadata[METADATA_KEY], str(path))
    image = image_input(proto, path)
    batch, shape = input_shape(image, preprocess, path)
    tensors = _infer(proto, image.name, batch, path)
    output = only_output(proto, path)
    kind, logits = find_logits(proto.graph, output, path)
    return Model(
        path=path,
        sha256=digest,
        proto=proto,
        tensors=tensors,
        opset=next((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), 0),
        input_name=image.name,
        input_shape=shape,
        batch=batch,
        output_name=output,
        output_kind=kind,
        logits_name=logits,
        preprocess=preprocess,
        labels=recorded_labels(metadata, path),
    )


def _infer(proto: onnx.ModelProto, image: str, batch: int | None, path: Path) -> dict[str, TensorInfo]:
    try:
        return infer(proto, image, batch)
    except (shape_inference.InferenceError, ValueError) as error:
        raise ModelError(f"{path}: the shapes of the graph do not fit together: {one_line(error)}") from error
