"""Arrays of samples in .npy files, read without trust: nothing is unpickled, and nothing is allocated unseen."""

import io
import math
from pathlib import Path

import numpy as np

from onnx_evidence.errors import DataError, one_line
from onnx_evidence.files import open_regular
from onnx_evidence.types import AnyArray

# What samples may be; anything else is refused rather than converted.
KINDS = ("uint8", "uint16", "int16", "float32")
MAX_BYTES = 1 << 32


def read_array(path: Path) -> tuple[bytes, AnyArray]:
    """Read a .npy file: its bytes, and an array of `KINDS`, in C order and native bytes, not empty and all finite.

    Raises `DataError` where the file is missing, no such array, truncated, or larger than `MAX_BYTES`.
    """
    try:
        with open_regular(path, MAX_BYTES) as stream:
            data = stream.read()
    except OSError as error:
        raise DataError(f"{path}: cannot read the array: {error.strerror or error}") from error
    try:
        shape, fortran, dtype, start = _header(data)
    except (ValueError, EOFError) as error:
        raise DataError(f"{path}: not a .npy file, or a damaged one: {one_line(error)}") from error
    kind = dtype.newbyteorder("=").name
    if kind not in KINDS:
        raise DataError(f"{path}: the array holds {kind}: save it as one of {', '.join(KINDS)}")
    if math.prod(shape) == 0 or len(data) - start != math.prod(shape) * dtype.itemsize:
        raise DataError(
            f"{path}: the array is empty, truncated or damaged: {len(data) - start} bytes for shape {shape} of {kind}"
        )
    flat = np.frombuffer(data, dtype, offset=start).reshape(shape, order="F" if fortran else "C")
    array = np.ascontiguousarray(flat, dtype=dtype.newbyteorder("="))
    if not np.isfinite(array).all():
        raise DataError(f"{path}: the array holds values that are not finite: replace them")
    return data, array


def _header(data: bytes) -> tuple[tuple[int, ...], bool, "np.dtype[np.generic]", int]:
    """Shape, whether in Fortran's order, type, and where the samples begin."""
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"version {version[0]}.{version[1]} of the format")
    shape, fortran, dtype = read(stream)
    if dtype.hasobject or dtype.names is not None:
        raise ValueError("it holds objects, not numbers")
    return shape, fortran, dtype, stream.tell()
