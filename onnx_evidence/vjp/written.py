"""Backward graphs in files: which ones `build_vjp` made."""

from typing import BinaryIO

import onnx
from google.protobuf.message import DecodeError

# Behind the forward graph's name.
NAMED = ", backward"
# The key of the first field: gigabytes of weights need not be read to be told from a model.
_START = b"\x08"
_GIVEN = ["gradient", "value"]


def is_backward(stream: BinaryIO) -> bool:
    """Whether a file holds a backward graph of `build_vjp`.

    Parameters
    ----------
    stream : file object
        Binary.

    Returns
    -------
    bool
    """
    start = stream.read(len(_START))
    if start != _START:
        return False
    try:
        graph = onnx.load_model_from_string(start + stream.read()).graph
    except DecodeError:
        return False
    # Names that the forward graph has already get a stroke.
    given = [value.name.partition("_")[0] for value in graph.output]
    return graph.name.endswith(NAMED) and given == _GIVEN
