"""The image input: which one it is, its axes, its type, its size."""

import re
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import TensorProto

from onnx_evidence.errors import DataError, ModelError
from onnx_evidence.graphs import Net, type_name
from onnx_evidence.preprocessing import InputRange, Preprocess, check_levels, likely_ranges

LAYOUTS = ("NCHW", "NHWC")
# Types of pictures, and the values of pixels where these are whole numbers.
FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE})
INTEGERS: dict[int, tuple[int, int]] = {
    TensorProto.UINT8: (0, 255),
    TensorProto.INT8: (-128, 127),
    TensorProto.UINT16: (0, 65535),
}
_TOKENS = frozenset({TensorProto.INT32, TensorProto.INT64, TensorProto.STRING})
# Numbers of channels that tell where they are.
_USUAL = (1, 3)
_RANK = 4
_AXES = {
    1: "one number or row per run",
    2: "rows of features: a table, or text",
    3: "a sequence, or a picture without batch; export it with four axes",
    5: "a video or a volume; only single pictures are explained",
}
# What decides between training and inference while a model is trained.
_SWITCH = re.compile(r"train|keep_?prob|dropout|learning_?phase|phase|is_test|inference", re.IGNORECASE)
_SWITCH_WORDS = "seems to switch between training and inference: export the model for inference, without it"
# Pictures of a fixed batch; every question about one picture would fill it.
_LARGEST_BATCH = 4096


@dataclass(frozen=True)
class Entry:
    """The image input as the file has it.

    Attributes
    ----------
    name : str
        The input.
    layout : {'NCHW', 'NHWC'}
        Whether its channels come first or last.
    elem_type : int
        ONNX element type.
    batch : int or None
        The batch size that the file insists on; None where it is free.
    shape : (int, int, int)
        Channels, height, width.
    preprocess : Preprocess or None
        What is done to pictures before they get there, where that is known.
    """

    name: str
    layout: str
    elem_type: int
    batch: int | None
    shape: tuple[int, int, int]
    preprocess: Preprocess | None = None

    @property
    def dtype(self) -> str:
        """The element type, as numpy calls it."""
        names: dict[int, str] = {TensorProto.FLOAT: "float32", TensorProto.DOUBLE: "float64"}
        return names.get(self.elem_type) or type_name(self.elem_type)

    @property
    def sides(self) -> tuple[int, int, int]:
        """Sides of one picture in the order of the file's layout."""
        channels, height, width = self.shape
        return self.shape if self.layout == "NCHW" else (height, width, channels)

    @property
    def levels(self) -> tuple[int, int] | None:
        """The smallest and largest value of a pixel, where pixels are whole numbers."""
        return INTEGERS.get(self.elem_type)

    @property
    def ranges(self) -> tuple[InputRange, ...]:
        """What its values may go from and to, the likeliest first; see `synthetic.likely_ranges`."""
        return likely_ranges(self.shape[0], self.preprocess, self.levels)


def find_entry(proto: onnx.ModelProto, preprocess: Preprocess | None, path: Path, layout: str | None = None) -> Entry:
    """Find the image input; write channels, height and width into it where they were open.

    The preprocessing gives what is open. Weights are not among the model's inputs. Without a ``layout``, 'NCHW' or
    'NHWC', the sizes of the axes say where the channels are. `ModelError` or `DataError` if there is no image input, or
    more than one, or the preprocessing makes another picture.
    """
    image = image_input(proto, path)
    dims = image.type.tensor_type.shape.dim
    # Some exporters write an open side as -1.
    batch, *sides = (dim.dim_value if dim.dim_value > 0 else None for dim in dims)
    if batch is not None and batch > _LARGEST_BATCH:
        raise ModelError(
            f"{path}: input {image.name!r} insists on {batch} pictures at a time, more than {_LARGEST_BATCH}: the file "
            "is damaged, or no classifier of single pictures; export it with a free batch"
        )
    layout = layout or _layout(image.name, sides, preprocess, path)
    found: tuple[int | None, ...] = tuple(sides) if layout == "NCHW" else (sides[2], sides[0], sides[1])
    shape = _settled(image.name, found, preprocess, path)
    entry = Entry(image.name, layout, image.type.tensor_type.elem_type, batch, shape, preprocess)
    check_levels(preprocess, entry.levels, f"{path}: input {image.name!r}")
    for dim, side in zip(dims[1:], entry.sides, strict=True):
        dim.dim_value = side
    return entry


def image_input(proto: onnx.ModelProto, path: Path) -> onnx.ValueInfoProto:
    """The only input of a model besides weights, if it may hold pictures: a tensor of four axes, the model's own.

    `ModelError` if there is none, or more than one input, or it is no tensor of pictures.
    """
    inputs = Net(proto).inputs
    if len(inputs) != 1:
        names = ", ".join(repr(value.name) for value in inputs) or "none"
        switch = next((f"; {value.name!r} {_SWITCH_WORDS}" for value in inputs if _is_switch(value)), "")
        raise ModelError(f"{path}: the model has {len(inputs)} inputs ({names}); one image input is needed{switch}")
    image = inputs[0]
    if not image.type.HasField("tensor_type"):
        kind = (image.type.WhichOneof("value") or "unknown").removesuffix("_type")
        raise ModelError(f"{path}: input {image.name!r} is a {kind}, no tensor; one image input is needed")
    tensor = image.type.tensor_type
    if not tensor.HasField("shape"):
        # As many as a picture has, all of them open; ONNX Runtime takes what it is given.
        tensor.shape.dim.extend(onnx.TensorShapeProto.Dimension() for _ in range(_RANK))
    rank = len(tensor.shape.dim)
    kind = type_name(tensor.elem_type)
    if tensor.elem_type in _TOKENS:
        what = "token ids of a text, it seems" if rank in (1, 2) else "no type of pictures"
        raise ModelError(
            f"{path}: input {image.name!r} is {kind}: {what}; an image input is float, uint8, int8 or uint16"
        )
    if rank != _RANK:
        axes = f"{rank} axes ({_AXES.get(rank, 'no picture')})"
        raise ModelError(
            f"{path}: input {image.name!r} has {axes}; an image input has 4: batch, channels, height, width"
        )
    if tensor.elem_type not in FLOATS and tensor.elem_type not in INTEGERS:
        raise ModelError(f"{path}: input {image.name!r} is {kind}; an image input is float, uint8, int8 or uint16")
    return image


def _is_switch(value: onnx.ValueInfoProto) -> bool:
    """Whether an input is a single number that tells training from inference, by its type or its name."""
    tensor = value.type.tensor_type
    sides = [dim.dim_value for dim in tensor.shape.dim]
    return all(side == 1 for side in sides) and (
        tensor.elem_type == TensorProto.BOOL or _SWITCH.search(value.name) is not None
    )


def _layout(name: str, sides: list[int | None], preprocess: Preprocess | None, path: Path) -> str:
    """What the sizes say; what they leave open the preprocessing decides."""
    first, middle, last = sides
    wanted = None if preprocess is None else (preprocess.channels, *preprocess.size)
    fits = [
        layout
        for layout, found in (("NCHW", sides), ("NHWC", [last, first, middle]))
        if wanted is None or all(side in (None, want) for side, want in zip(found, wanted, strict=True))
    ]
    if len(fits) == 1:
        return fits[0]
    if (first in _USUAL) != (last in _USUAL):
        return "NCHW" if first in _USUAL else "NHWC"
    if first is None or last is None or first == middle == last:
        return "NCHW"
    if first not in _USUAL and (middle == last) != (first == middle):
        return "NCHW" if middle == last else "NHWC"
    if first not in _USUAL and middle is not None and (first < min(middle, last)) != (last < min(first, middle)):
        return "NCHW" if first < last else "NHWC"
    raise ModelError(
        f"{path}: input {name!r} is {first} x {middle or '?'} x {last}: its channels may be the first or the last "
        "axis; pass --preprocess with a 'size'"
    )


def _settled(
    name: str, found: tuple[int | None, ...], preprocess: Preprocess | None, path: Path
) -> tuple[int, int, int]:
    """Channels, height, width."""
    channels, height, width = found
    if preprocess is not None:
        wanted = (channels or preprocess.channels, height or preprocess.size[0], width or preprocess.size[1])
        if wanted != (preprocess.channels, *preprocess.size):
            raise DataError(
                f"{path}: preprocessing makes {preprocess.channels} x {preprocess.size[0]} x {preprocess.size[1]}, "
                f"but input {name!r} takes {channels or '?'} x {height or '?'} x {width or '?'}"
            )
        channels, height, width = wanted
    if channels is None:
        raise ModelError(f"{path}: input {name!r} leaves its channels open; pass --preprocess FILE.toml")
    if height is None or width is None:
        raise ModelError(
            f"{path}: input {name!r} leaves height and width open; pass --preprocess FILE.toml with a 'size'"
        )
    return channels, height, width
