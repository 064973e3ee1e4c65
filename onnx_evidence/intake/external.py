"""Weights that lie beside the model: where they may lie, how long they are, and when they stay there."""

import hashlib
import os
import stat
from collections.abc import Iterable, Sequence
from math import prod
from pathlib import Path
from typing import NamedTuple

import onnx
from onnx import TensorProto, external_data_helper, helper

from onnx_evidence.errors import ChangedError, ModelError
from onnx_evidence.graphs import hollow, tensors_of

# Up to here weights are read into the graph. Protobuf, which copies graphs, ends at 2 GB.
INLINE_LIMIT = 1_500_000_000
# Tensors of fewer bytes are read in any case: shapes and scales are asked for their values.
_SMALL = 65_536
# What ONNX packs closer than numpy: bits of an element.
_PACKED: dict[int, int] = {TensorProto.UINT4: 4, TensorProto.INT4: 4, TensorProto.FLOAT4E2M1: 4}
_CHUNK = 1 << 24
# Bytes of a file that is looked at closer, and what systems that pack files make of some bytes at the most.
_LARGE, _DENSEST = 1 << 32, 64


class Weights(NamedTuple):
    """A file of weights beside a model, as it was found.

    Attributes
    ----------
    file : Path
        Behind all links.
    state : tuple of int
        Device, inode, size, and the times of its last changes, of content and of anything, in nanoseconds.
    """

    file: Path
    state: tuple[int, ...]


def check_unchanged(path: Path, beside: Iterable[Weights]) -> None:
    """Refuse to go on with weights whose file was written to, replaced or removed since they were read: `ChangedError`.

    Some stay in their files, which sessions map: what is written there changes the model while it runs.
    """
    for file, state in beside:
        try:
            now = _state(file.stat())
        except OSError:
            now = ()
        if now != state:
            raise ChangedError(
                f"{path}: its weights in '{file.name}' were changed while the model was in use; put the complete file "
                "back, and run again"
            )


def _state(found: os.stat_result) -> tuple[int, ...]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def settle_external(proto: onnx.ModelProto, path: Path, limit: int = INLINE_LIMIT) -> list[Weights]:
    """Check all references to weights outside the file, and read these weights as long as they are no more than fit.

    Tensors that are read get their bytes, others keep the reference: where all weights beside the file have more than
    ``limit`` bytes, only those of tensors up to 64 kB are read, and ONNX Runtime finds the others by itself
    (`sessions.Session`, ``folder``). The files are given each once, in the order of their names, as they were before
    they were read. `ModelError` if a reference leads out of the model's folder or to no regular file, or promises more
    than there is; or if the disk holds hardly any of the bytes of a large file.
    """
    found = [(tensor, *_settle(tensor, path)) for tensor in tensors_of(proto) if _is_outside(tensor)]
    for file in {beside.file for _, beside, _, _ in found}:
        _refuse_hollow(path, file)
    stays = sum(size for *_, size in found) > limit
    for tensor, beside, offset, size in found:
        if not stays or size <= _SMALL:
            _read_into(tensor, beside.file, offset, size)
    return sorted({beside for _, beside, _, _ in found})


def _refuse_hollow(path: Path, file: Path) -> None:
    """Refuse weights that are large only by their file's claim: they would be read for hours."""
    found = file.stat()
    held = getattr(found, "st_blocks", found.st_size) * 512
    if found.st_size > _LARGE and held < found.st_size // _DENSEST:
        raise ModelError(
            f"{path}: its weights in '{file.name}' claim {found.st_size} bytes, of which the disk holds {held}: get "
            "the complete file"
        )


def digest(data: bytes, beside: Sequence[Weights]) -> str:
    """The SHA-256, in hexadecimal, of the bytes of the .onnx file followed by those of the weights beside it."""
    total = hashlib.sha256(data)
    for file, _ in beside:
        with file.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                total.update(chunk)
    return total.hexdigest()


def as_text(value: str | bytes) -> str:
    """A string of a file as text: protobuf hands on as bytes what is no UTF-8, which is replaced."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _is_outside(tensor: onnx.TensorProto) -> bool:
    return bool(tensor.data_location == TensorProto.EXTERNAL)


def _settle(tensor: onnx.TensorProto, path: Path) -> tuple[Weights, int, int]:
    """The file, the offset and the number of bytes of a tensor, all of them proved by what is there."""
    given = {as_text(entry.key): as_text(entry.value) for entry in tensor.external_data}
    beside = _inside(given.get("location", ""), path, tensor.name)
    there = beside.file.stat().st_size
    wanted = prod(tensor.dims) * _bits(tensor, path) // 8 + (prod(tensor.dims) * _bits(tensor, path) % 8 > 0)
    try:
        offset, size = int(given.get("offset", "0") or 0), int(given.get("length", str(wanted)) or wanted)
    except ValueError:
        offset = size = -1
    if min((*tensor.dims, 0)) < 0 or offset < 0 or size != wanted or offset + size > there:
        raise ModelError(
            f"{path}: not a valid ONNX model, or a truncated one: weight {tensor.name!r} needs {wanted} bytes, and "
            f"'{beside.file.name}' does not have them where the model says; get the complete file"
        )
    return beside, offset, size


def _bits(tensor: onnx.TensorProto, path: Path) -> int:
    if tensor.data_type in _PACKED:
        return _PACKED[tensor.data_type]
    try:
        return 8 * int(helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
    except KeyError as error:
        raise ModelError(f"{path}: not a valid ONNX model: weight {tensor.name!r} has no known type") from error


def _inside(location: str, path: Path, name: str) -> Weights:
    """The file that a reference means: inside the model's folder, wherever links lead."""
    folder = Path(os.path.realpath(path.parent))
    parts = Path(location).parts
    file = Path(os.path.realpath(folder / location)) if location and "\0" not in location else folder
    if not parts or Path(location).is_absolute() or ".." in parts or "\\" in location or folder not in file.parents:
        raise ModelError(
            f"{path}: weight {name!r} lies in {location!r}, outside the model's folder, where nothing is read; put "
            "the weights beside the model"
        )
    try:
        found = file.stat()
    except OSError as error:
        raise ModelError(
            f"{path}: not a valid ONNX model, or a truncated one: cannot read the weights in '{location}': "
            f"{error.strerror or error}"
        ) from error
    if not stat.S_ISREG(found.st_mode):
        raise ModelError(f"{path}: weight {name!r} lies in {location!r}, which is no regular file; nothing is read")
    return Weights(file, _state(found))


def _read_into(tensor: onnx.TensorProto, file: Path, offset: int, size: int) -> None:
    with file.open("rb") as stream:
        stream.seek(offset)
        tensor.raw_data = stream.read(size)
    del tensor.external_data[:]
    tensor.data_location = TensorProto.DEFAULT


def without_outside(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose weights that stayed outside are inputs, to be checked without them; itself where there are none."""
    if not any(map(external_data_helper.uses_external_data, proto.graph.initializer)):
        return proto
    return hollow(proto, external_data_helper.uses_external_data)
