"""Arrays in .npz files: written the same under every numpy; read after claims were held against what is there."""

import io
import tokenize
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import IO, BinaryIO, NamedTuple

import numpy as np

from onnx_evidence.errors import one_line
from onnx_evidence.files.machine import free_memory
from onnx_evidence.types import AnyArray

# Bytes of all arrays of a file together: the largest picture's map, its errors and its cuts, several times over.
MOST_BYTES = 1 << 33
# Deflate packs a thousand zeros into one byte, not more: beyond it sizes are made up.
_DENSEST = 1100
# Bytes that always fit.
_LITTLE = 1 << 26
# Bytes that a head may have: shape, type and order in a line of text.
_HEAD = 1 << 16
# What a damaged archive raises.
_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    tokenize.TokenError,
    EOFError,
    KeyError,
    NotImplementedError,
    RuntimeError,  # a password, and RecursionError
    SyntaxError,
    TypeError,
    UnicodeError,
)


def pack_arrays(arrays: Mapping[str, AnyArray]) -> bytes:
    """Arrays as a compressed .npz without pickles; equal arrays give equal bytes.

    The bytes are those of `numpy.savez_compressed`, which is not called: before numpy 2.2 it takes ``allow_pickle`` for
    one more array.

    Parameters
    ----------
    arrays : mapping of str to ndarray
        By the names that they get in the file.

    Returns
    -------
    bytes

    Raises
    ------
    ValueError
        If an array holds objects.
    """
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, values in arrays.items():
            # Opened by its name a member has the format's first date, not today's; larger than 4 GiB it needs zip64.
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(values), allow_pickle=False)
    return stream.getvalue()


class Head(NamedTuple):
    """What an array's file says of it before its numbers."""

    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    turned: bool  # columns first


def heads_of(stream: BinaryIO) -> dict[str, Head]:
    """What all arrays of an .npz file are, before any is read.

    Parameters
    ----------
    stream : file object
        Seekable, binary; it is left at its start.

    Returns
    -------
    dict of str to Head

    Raises
    ------
    ValueError
        As in `unpack_arrays`.
    """
    with _archive(stream) as archive:
        heads = {}
        for member in archive.infolist():
            with archive.open(member) as inside:
                heads[member.filename.removesuffix(".npy")] = _head(inside, member)
    stream.seek(0)
    return heads


def unpack_arrays(stream: BinaryIO, most: int = MOST_BYTES, only: Collection[str] | None = None) -> dict[str, AnyArray]:
    """All arrays of an .npz file, or some; no pickles.

    Parameters
    ----------
    stream : file object
        Seekable, binary.
    most : int
        Bytes that all arrays together may have, and no more than there is memory for.
    only : collection of str, optional
        Names of those that are wanted, and together may have so many bytes.

    Returns
    -------
    dict of str to ndarray

    Raises
    ------
    ValueError
        With what is wrong, if it is no .npz file, or damaged, or a member claims other sizes than it has.
    """
    with _archive(stream) as archive:
        named = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
        members = {name: member for name, member in named.items() if only is None or name in only}
        claimed = sum(member.file_size for member in members.values())
        if claimed > most:
            raise ValueError(f"its arrays claim more than {most} bytes")
        free = free_memory() if claimed > _LITTLE else None
        if free is not None and claimed > free:
            raise ValueError("its arrays do not fit into memory")
        return {name: _member(archive, member) for name, member in members.items()}


@contextmanager
def _archive(stream: BinaryIO) -> Iterator[zipfile.ZipFile]:
    """An archive, while ValueError says what is wrong with it."""
    try:
        with zipfile.ZipFile(stream) as archive:
            yield archive
    except MemoryError as error:
        raise ValueError("its arrays do not fit into memory") from error
    except _DAMAGED as error:
        raise ValueError(f"it is no .npz file, or a damaged one ({one_line(error)})") from error


def _head(stream: IO[bytes], member: zipfile.ZipInfo) -> Head:
    """The head of an open member, held against the bytes that it claims and has."""
    if member.file_size > _DENSEST * member.compress_size + _HEAD:
        raise ValueError(f"{member.filename!r} claims {member.file_size} bytes and has {member.compress_size}")
    version = np.lib.format.read_magic(stream)
    read_head = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read_head is None:
        raise ValueError(f"{member.filename!r} is of format {version}, which nobody writes here")
    shape, turned, dtype = read_head(stream, max_header_size=_HEAD)
    if dtype.hasobject:
        raise ValueError(f"{member.filename!r} holds objects, which are never read")
    # Sides may be as large as they like as long as one is 0; as whole numbers of Python they overflow nowhere.
    count, room = 1, member.file_size - stream.tell()
    for side in shape:
        count *= int(side)
    if min(shape, default=0) < 0 or count * dtype.itemsize != room:
        raise ValueError(f"{member.filename!r} claims {count} numbers and holds {room} bytes")
    return Head(shape, dtype, turned)


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> AnyArray:
    with archive.open(member) as stream:
        head = _head(stream, member)
        room = member.file_size - stream.tell()
        body = stream.read(room + 1)
    if len(body) != room:
        raise ValueError(f"{member.filename!r} claims {room} bytes and has {len(body)}")
    return np.frombuffer(body, head.dtype).reshape(head.shape, order="F" if head.turned else "C")
