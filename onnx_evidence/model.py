"""The deployed file: load, check, and find out what it takes, what it gives and what it calls its classes."""

import hashlib
import json
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, checker, shape_inference

from onnx_evidence.errors import DataError, ModelError, TargetError, one_line
from onnx_evidence.preprocess import METADATA_KEY, Preprocess, parse_preprocess
from onnx_evidence.shapes import TensorInfo, infer

LABELS_KEY = "onnx_evidence.labels"
# Operators between the logits and the output that change no value but in its precision.
_RESHAPES = frozenset({"Cast", "Identity", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Dropout"})


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
    proto, digest = _read(path)
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    if preprocess is None and METADATA_KEY in metadata:
        preprocess = parse_preprocess(metadata[METADATA_KEY], str(path))
    image = _image_input(proto, path)
    batch, shape = _input_shape(image, preprocess, path)
    tensors = _infer(proto, image.name, batch, path)
    output = _only_output(proto, path)
    kind, logits = _find_logits(proto.graph, output, path)
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
        labels=_recorded_labels(metadata, path),
    )


def _read(path: Path) -> tuple[onnx.ModelProto, str]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: cannot read the model: {error.strerror or error}") from error
    if not data:
        raise ModelError(f"{path}: the file is empty, not an ONNX model")
    try:
        proto = onnx.load_model_from_string(data)
        onnx.load_external_data_for_model(proto, str(path.parent))
        checker.check_model(proto)
    except (DecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: not an ONNX model, or a truncated one: {one_line(error)}") from error
    except (checker.ValidationError, OSError, ValueError) as error:
        raise ModelError(f"{path}: not a valid ONNX model, or a truncated one: {one_line(error)}") from error
    return proto, hashlib.sha256(data).hexdigest()


def _image_input(proto: onnx.ModelProto, path: Path) -> onnx.ValueInfoProto:
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


def _input_shape(
    image: onnx.ValueInfoProto, preprocess: Preprocess | None, path: Path
) -> tuple[int | None, tuple[int, int, int]]:
    """Read batch, channels, height, width; write height and width into ``image`` where they were open."""
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


def _infer(proto: onnx.ModelProto, image: str, batch: int | None, path: Path) -> dict[str, TensorInfo]:
    try:
        return infer(proto, image, batch)
    except (shape_inference.InferenceError, ValueError) as error:
        raise ModelError(f"{path}: the shapes of the graph do not fit together: {one_line(error)}") from error


def _only_output(proto: onnx.ModelProto, path: Path) -> str:
    names = [value.name for value in proto.graph.output]
    if len(names) != 1:
        raise ModelError(f"{path}: the model has {len(names)} outputs ({', '.join(names)}); one is supported")
    return str(names[0])


def _find_logits(graph: onnx.GraphProto, output: str, path: Path) -> tuple[str, str]:
    """Walk back from the output over reshapes to what made it; before a Softmax lie the logits."""
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


def _recorded_labels(metadata: dict[str, str], path: Path) -> tuple[str, ...] | None:
    if LABELS_KEY not in metadata:
        return None
    try:
        labels = json.loads(metadata[LABELS_KEY])
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: the labels recorded in the model are no JSON: {error}") from error
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise DataError(f"{path}: the labels recorded in the model are no list of names")
    return tuple(labels)


def read_labels(path: Path) -> tuple[str, ...]:
    """Read class names from a text file, one per line in class order.

    Parameters
    ----------
    path : Path
        The file, in UTF-8.

    Returns
    -------
    tuple of str

    Raises
    ------
    DataError
        If the file cannot be read or is empty.
    """
    try:
        labels = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot read the labels: {one_line(error)}") from error
    if not labels:
        raise DataError(f"{path}: no labels: one class name per line is expected")
    return tuple(labels)


def find_class(name: str | int, labels: tuple[str, ...] | None, classes: int) -> int:
    """The class that a user means.

    Parameters
    ----------
    name : str or int
        A class number, or a class name (case does not matter).
    labels : tuple of str or None
        Class names in class order.
    classes : int
        K, the number of classes.

    Returns
    -------
    int
        0..K-1.

    Raises
    ------
    TargetError
        If there is no such class, or two classes share the name (their numbers are listed).
    """
    text = str(name).strip()
    if text.isdecimal():
        if int(text) < classes:
            return int(text)
        raise TargetError(f"class {text} does not exist: the model has classes 0 to {classes - 1}")
    if labels is None:
        raise TargetError(f"class {text!r}: the model carries no class names; give a number, or --labels FILE")
    matches = [index for index, label in enumerate(labels) if label.casefold() == text.casefold()]
    if len(matches) == 1:
        return matches[0]
    if matches:
        numbers = " and ".join(str(index) for index in matches)
        raise TargetError(f"class {text!r} is ambiguous: classes {numbers} have that name; give the number")
    raise TargetError(f"class {text!r} is unknown{_suggestion(text, labels)}")


def _suggestion(text: str, labels: tuple[str, ...]) -> str:
    near = get_close_matches(text.casefold(), {label.casefold() for label in labels}, n=3)
    return f"; did you mean {' or '.join(repr(label) for label in sorted(near))}?" if near else ""
