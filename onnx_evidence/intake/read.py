"""From bytes to a checked graph."""

import hashlib
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import checker

from onnx_evidence.errors import ModelError, one_line


def read_proto(path: Path) -> tuple[onnx.ModelProto, str]:
    """Read and check an .onnx file, with the weights that lie beside it.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    proto : onnx.ModelProto
    sha256 : str
        Of the file's bytes.

    Raises
    ------
    ModelError
        If it cannot be read, or is no valid ONNX model.
    """
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
