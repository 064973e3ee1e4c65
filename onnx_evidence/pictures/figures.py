"""Figures that lie in folders of results: what was drawn of photographs is none itself."""

import struct
from collections.abc import Callable
from pathlib import Path

from onnx_evidence.files import heads_of, open_regular

FIGURE = ".png"
# What every map holds.
_MAP = frozenset({"input_pixels", "pixels", "stderr"})
# Figures of commands that write one, each with a file that is beside it and how that begins.
_BESIDE = {
    "curves.png": ("numbers.csv", b"picture,class,method,metric,value"),
    "links.png": ("links.json", b"{"),
}
# Where the header of a PNG has width and height.
_SIZE = slice(16, 24)


def is_figure(path: Path) -> bool:
    """Whether a picture was drawn by this program, as what lies beside it says."""
    if path.suffix.lower() != FIGURE:
        return False
    if path.name in _BESIDE:
        name, start = _BESIDE[path.name]
        return _tried(lambda: _begins(path.with_name(name), start))
    return _tried(lambda: _is_map_of_another(path.with_suffix(".npz"), path))


def _tried(look: Callable[[], bool]) -> bool:
    try:
        return look()
    except (OSError, ValueError, struct.error):  # it is not there, or no result of ours
        return False


def _begins(path: Path, start: bytes) -> bool:
    with open_regular(path) as stream:
        return stream.read(len(start)) == start


def _is_map_of_another(path: Path, picture: Path) -> bool:
    """Whether it is a map, and not of that very picture: users save maps beside photographs by the same name."""
    with open_regular(path) as stream:
        heads = heads_of(stream)
    if not heads.keys() >= _MAP:
        return False
    with open_regular(picture) as stream:
        size = struct.unpack(">II", stream.read(_SIZE.stop)[_SIZE])
    # Turned, too: the map is upright.
    return sorted(size) != sorted(heads["pixels"].shape)
