"""From bytes to a checked graph."""

import ctypes
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import onnx
from google.protobuf.message import DecodeError
from onnx import checker, external_data_helper, numpy_helper

from onnx_evidence.counting import MAX_WORK, refuse_endless
from onnx_evidence.errors import ModelError, one_line
from onnx_evidence.files import NOTHING_KEPT, Cache
from onnx_evidence.graphs import Net, hold_apart, tensors_of, type_name
from onnx_evidence.intake.exported import export_record, without_evidence
from onnx_evidence.intake.external import (
    INLINE_LIMIT,
    Weights,
    as_text,
    check_unchanged,
    digest,
    settle_external,
    without_outside,
)
from onnx_evidence.intake.trial import name_strays, put_right, runtime_refusal
from onnx_evidence.types import AnyArray

# Attributes that count cells.
_STEPS = frozenset({"strides", "dilations", "kernel_shape"})
# Where protobuf ends.
_LARGEST = 2**31 - 1


class File(NamedTuple):
    """An .onnx file, read and checked.

    Attributes
    ----------
    path : Path
        The file.
    data : bytes
        Its content.
    proto : onnx.ModelProto
        The same, with the weights that lie beside it as far as they fit.
    sha256 : str
        Of the file and the weights beside it.
    objection : str or None
        What the ONNX checker holds against it, where ONNX Runtime opens it all the same.
    beside : sequence of Weights
        The files of weights beside it.
    max_work : int
        Multiply-adds that it may take for a picture.
    outputs : frozenset of str
        Its outputs, as it is deployed.
    held : sequence of ndarray
        Large weights, which ``proto`` refers to.
    cache : Cache
        What was found out of it by trying, before.
    explains : dict or None
        What 'export' recorded in it, if it explains itself; `data` and ``proto`` are the deployed model in it.
    """

    path: Path
    data: bytes
    proto: onnx.ModelProto
    sha256: str
    objection: str | None = None
    beside: Sequence[Weights] = ()
    max_work: int = MAX_WORK
    outputs: frozenset[str] = frozenset()
    held: Sequence[AnyArray] = ()
    cache: Cache = NOTHING_KEPT
    explains: dict[str, Any] | None = None


def read_file(path: Path, limit: int = INLINE_LIMIT, max_work: int = MAX_WORK) -> File:
    """Read and check an .onnx file, with the weights that lie beside it.

    Parameters
    ----------
    path : Path
        The file.
    limit : int
        Bytes of weights beside the file that are read; where there are more they stay where they are.
    max_work : int
        Multiply-adds that it may take for a picture, see `work.refuse_endless`.

    Returns
    -------
    File

    Raises
    ------
    ModelError
        If it cannot be read, or is no valid ONNX model, or refers to files outside its folder, or would compute more
        than ``max_work``. A file that the ONNX checker objects to is taken if ONNX Runtime opens it; that is tried in a
        process of its own.
    """
    data = _read(path)
    objection = None
    try:
        proto = onnx.load_model_from_string(data)
        beside = settle_external(proto, path, limit)
        strays = name_strays(proto)
        net = Net(proto)
        if turned := net.sort():
            net.finish()
        changed = turned or bool(beside) or strays
        refuse_endless(proto, path, max_work)
        # From the bytes where these are what was read: to copy large graphs takes seconds.
        with _silent():
            checker.check_model(without_outside(proto) if changed else data)
    except (DecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: not an ONNX model, or a truncated one: {one_line(error)}") from error
    except checker.ValidationError as error:
        objection = one_line(error)
        if (refusal := runtime_refusal(path)) is not None:
            # The checker stops at the first thing that it dislikes, which may not be what matters.
            objection = objection.rstrip(".")
            more = f"; ONNX Runtime: {refusal}" if refusal and objection not in refusal else ""
            raise ModelError(f"{path}: not a valid ONNX model, or a truncated one: {objection}{more}") from error
        put_right(proto)
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: not a valid ONNX model, or a truncated one: {one_line(error)}") from error
    _check_values(proto, path)
    _check_attributes(proto.graph, path)
    try:
        sha256 = digest(data, beside)
    except OSError as error:
        raise ModelError(f"{path}: cannot read the weights beside it: {error.strerror or error}") from error
    # What was read is what was hashed.
    check_unchanged(path, beside)
    if (record := export_record(metadata_of(proto), path)) is not None:
        without_evidence(proto, record)
        data = proto.SerializeToString()
    outputs = frozenset(value.name for value in proto.graph.output)
    proto, held = hold_apart(proto)
    found = File(path, data, proto, sha256, objection, tuple(beside), max_work, outputs, held)
    return found._replace(explains=record)


@contextmanager
def _silent() -> Iterator[None]:
    """The checker warns of operators on the process's own standard output, where JSON may be read by programs."""
    flush = ctypes.CDLL(None).fflush if os.name == "posix" else lambda stream: None
    flush(None)
    try:
        kept = os.dup(1)
    except OSError:  # closed
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        flush(None)
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def _check_values(proto: onnx.ModelProto, path: Path) -> None:
    """Refuse values that are none; the checker lets types that do not exist pass, and bytes that do not fit some."""
    for tensor in tensors_of(proto):
        if external_data_helper.uses_external_data(tensor):
            continue
        try:
            numpy_helper.to_array(tensor)
        except Exception as error:
            kind = f"{type_name(tensor.data_type)} of shape {tuple(tensor.dims)}"
            raise ModelError(
                f"{path}: not a valid ONNX model, or a truncated one: weight {tensor.name!r} is no {kind} "
                f"({one_line(error)}); get the complete file, or export the model again"
            ) from error


def _check_attributes(graph: onnx.GraphProto, path: Path) -> None:
    """Refuse attributes that neither the checker nor ONNX Runtime minds: steps of zero, and those of no function."""
    for node in graph.node:
        for attribute in node.attribute:
            wrong = ""
            if attribute.ref_attr_name:
                wrong = "stands for one of a function, and there is none around it"
            elif attribute.name in _STEPS and min(attribute.ints, default=1) < 1:
                wrong = f"is {list(attribute.ints)}, where all must be at least 1"
            if wrong:
                raise ModelError(
                    f"{path}: not a valid ONNX model: {attribute.name!r} of {node.op_type} at "
                    f"{next(iter(node.output), '')!r} {wrong}; export the model again"
                )
            for inner in (attribute.g, *attribute.graphs):
                _check_attributes(inner, path)


def _read(path: Path) -> bytes:
    if "\0" in str(path):
        raise ModelError(f"{path}: cannot read the model: no name of a file holds the character NUL")
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise ModelError(f"{path}: cannot read the model: it is no regular file")
        if found.st_size > _LARGEST:
            raise ModelError(
                f"{path}: the file has {found.st_size} bytes, an ONNX model at most {_LARGEST}; export large models "
                "with their weights beside the file (external data)"
            )
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: cannot read the model: {error.strerror or error}") from error
    if not data:
        raise ModelError(f"{path}: the file is empty, not an ONNX model")
    return data


def metadata_of(proto: onnx.ModelProto) -> dict[str, str]:
    """The file's metadata as text; bytes that are no UTF-8 are replaced."""
    return {as_text(entry.key): as_text(entry.value) for entry in proto.metadata_props}
