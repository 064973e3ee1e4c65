"""Compare the backward graphs of `onnx_evidence.vjp` with PyTorch's autograd and with central differences.

Two Markdown tables: of torchvision networks with seeded random weights, exported by both exporters of PyTorch, and of
the nine networks that the onnx package carries, with the noise weights of the tests.

* float32: the gradients, by ONNX Runtime in float32 on the CPU, of a random linear form of the logits and of the
  log-odds of a class, against autograd in float64: the larger relative error max|a - b| / max|b| of the two, for the
  best and for the worst of three pictures; beside it what PyTorch in float32 reaches. Rounding opens or shuts a few
  rectifiers among millions in many pictures; each shifts a patch of the gradient, in PyTorch as well. A picture where
  none flips shows what rounding leaves. The light networks are compared with their own backward graph in float64.
* float64: the same of the backward graph run in float64, for the linear form and the first picture. Constants of the
  graph are float32, and so are the weights into which the newer exporter folds BatchNormalization: rectifiers can flip
  there, too.
* slopes: of the linear form along three random directions, central differences against the backward graph, both in
  float64; the median difference, as a share of the gradient's norm, which is the usual slope. The best of three steps:
  units cross their kinks in a long one, and rounding shows in a short one. onnx's reference evaluator runs the graphs,
  with PyTorch's kernels for convolution and pooling: ONNX Runtime has none in float64 on the CPU.
* backward over forward: time of the backward pass over that of the forward pass, medians of interleaved runs.

A row is ok where the slopes are below 1e-4 and, beside autograd, so is float64 or the best picture in float32; the
status is 1 if one is not. BatchNorm statistics are measured on noise, then disturbed, and the last layer is scaled to
logits of unit spread. PyTorch is needed for the tools check_gradients and check_peers only; in a throwaway environment:
pip install torch torchvision onnxscript pytest hypothesis.
"""

import importlib
import statistics
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import onnxruntime as ort
from onnx import AttributeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from onnx_evidence import EvidenceError
from onnx_evidence.cuts.graph import Graph
from onnx_evidence.intake.model import load_model
from onnx_evidence.types import AnyArray
from onnx_evidence.vjp import build_vjp

_LIMIT = 1e-4
_PICTURES = 3
_REPEATS = 3
_DIRECTIONS = 3
_STEPS = (1e-8, 1e-7, 1e-9)
_ENOUGH = 1e-6
_CLASS = 3


@dataclass(frozen=True)
class Network:
    """A torchvision network and how to export it.

    Attributes
    ----------
    name : str
        The function of `torchvision.models` that builds it.
    dynamo : bool
        Which exporter: through torch.export, or the older one through TorchScript.
    opset : int or None
        Version of the operators; None for the exporter's own choice.
    side : int
        Rows and columns of the input.
    batch : int
        Pictures of a timed run.
    options : dict
        Further arguments of the function.
    """

    name: str
    dynamo: bool
    opset: int | None = None
    side: int = 224
    batch: int = 8
    options: dict[str, Any] = field(default_factory=dict)


NETWORKS = (
    Network("vgg11_bn", dynamo=False, opset=11, batch=4),
    Network("resnet18", dynamo=True),
    Network("resnet50", dynamo=False, opset=13, batch=4),
    Network("densenet121", dynamo=False, opset=17, batch=4),
    Network("mobilenet_v2", dynamo=False, opset=10),
    Network("mobilenet_v3_small", dynamo=False, opset=14),
    Network("efficientnet_b0", dynamo=True),
    Network("shufflenet_v2_x1_0", dynamo=False, opset=12),
    Network("squeezenet1_1", dynamo=True),
    Network(
        "inception_v3", dynamo=False, opset=9, side=299, batch=4, options={"aux_logits": False, "init_weights": False}
    ),
    Network("googlenet", dynamo=True, options={"aux_logits": False, "init_weights": False}),
    Network("regnet_y_400mf", dynamo=False, opset=17),
    Network("convnext_tiny", dynamo=True, batch=4),
    Network("vit_b_16", dynamo=True, batch=4),
    Network("swin_t", dynamo=False, opset=17, batch=4),
    Network("maxvit_t", dynamo=True, batch=4),
)


def build(network: Network) -> Any:
    """The network with seeded weights that leave no layer trivial, ready to be evaluated."""
    torch, models = importlib.import_module("torch"), importlib.import_module("torchvision.models")
    torch.manual_seed(0)
    net = getattr(models, network.name)(weights=None, **network.options)
    with torch.no_grad():
        _enliven(torch, net)
        x = torch.from_numpy(pictures(8, network.side))
        norms = [module for module in net.modules() if isinstance(module, torch.nn.BatchNorm2d)]
        net.eval()
        for norm in norms:
            norm.train()
            norm.momentum = 1.0
        net(x)
        net.eval()
        for norm in norms:
            norm.running_mean += 0.1 * norm.running_var.sqrt() * torch.randn_like(norm.running_mean)
            norm.running_var *= torch.empty_like(norm.running_var).uniform_(0.7, 1.4)
        last = [module for module in net.modules() if isinstance(module, torch.nn.Linear | torch.nn.Conv2d)][-1]
        last.weight.normal_(std=last.weight[0].numel() ** -0.5)
        last.weight /= net(x).std()
    return net


def _enliven(torch: Any, net: Any) -> None:
    """Replace what starts at zero or one, or next to it: it would hide mistakes."""
    for name, value in net.named_parameters():
        if "layer_scale" in name:
            value.uniform_(0.2, 0.5)
        elif "relative_position_bias_table" in name or "class_token" in name:
            value.normal_(std=0.5)
        elif value.dim() == 1 and name.endswith("weight"):
            value.uniform_(0.5, 1.5)
        elif value.dim() == 1:
            value.normal_(std=0.1)


def pictures(count: int, side: int, seed: int = 2016) -> AnyArray:
    """Coarse and fine noise of about unit variance."""
    rng = np.random.default_rng(seed)
    coarse = np.kron(rng.normal(size=(count, 3, 7, 7)), np.ones((1, 1, side // 7 + 1, side // 7 + 1)))
    return (coarse[..., :side, :side] + 0.3 * rng.normal(size=(count, 3, side, side))).astype(np.float32)


def export(network: Network, net: Any, folder: Path) -> Path:
    """Write the network as an .onnx file with a free batch size."""
    torch = importlib.import_module("torch")
    path = folder / f"{network.name}.onnx"
    x = (torch.from_numpy(pictures(2, network.side)),)
    names: dict[str, Any] = {
        "input_names": ["x"],
        "output_names": ["logits"],
        "opset_version": network.opset,
        "external_data": False,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if network.dynamo:
            shapes = ({0: torch.export.Dim("batch")},)
            torch.onnx.export(net, x, path, dynamo=True, dynamic_shapes=shapes, verbose=False, **names)
        else:
            axes = {"x": {0: "batch"}, "logits": {0: "batch"}}
            # Else it would fold BatchNormalization away.
            kept = torch.onnx.TrainingMode.PRESERVE
            torch.onnx.export(net, x, path, dynamo=False, dynamic_axes=axes, training=kept, **names)
    return path


def forward_model(path: Path) -> onnx.ModelProto:
    """The model from the image to the logits, or the file as it is where this project does not take it."""
    try:
        return Graph(load_model(path)).whole()
    except EvidenceError as error:
        click.echo(f"{path.stem}: taken as it is: {error}", err=True)
        return onnx.load(path)


def session(model: onnx.ModelProto) -> ort.InferenceSession:
    """An ONNX Runtime session on the CPU."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def linear_forms(count: int, classes: int) -> AnyArray:
    """A random cotangent for each picture."""
    return np.random.default_rng(1).normal(size=(count, classes)).astype(np.float32)


def log_odds(count: int, classes: int, target: int) -> tuple[AnyArray, AnyArray]:
    """The cotangent of the log-odds of a class, and the other classes."""
    one = np.zeros((count, classes), np.float32)
    one[:, target] = 1
    return one, 1 - one


def onnx_gradients(runners: Sequence[ort.InferenceSession], x: AnyArray, classes: int) -> list[AnyArray]:
    """Gradients of the linear form and of the log-odds, by the two backward graphs."""
    name = runners[0].get_inputs()[0].name
    cotangent, rest = log_odds(len(x), classes, _CLASS)
    fed: list[dict[str, AnyArray]] = [
        {name: x, "cotangent": linear_forms(len(x), classes)},
        {name: x, "cotangent": cotangent, "rest": rest},
    ]
    return [np.asarray(runner.run(["gradient"], arrays)[0]) for runner, arrays in zip(runners, fed, strict=True)]


def torch_gradients(net: Any, x: AnyArray, classes: int, *, double: bool) -> list[AnyArray]:
    """The same by autograd."""
    torch = importlib.import_module("torch")
    kind = torch.float64 if double else torch.float32
    net.to(kind)
    source = torch.from_numpy(x).to(kind).requires_grad_()
    logits = net(source)
    form = (logits * torch.from_numpy(linear_forms(len(x), classes)).to(kind)).sum()
    others = [k for k in range(classes) if k != _CLASS]
    odds = (logits[:, _CLASS] - logits[:, others].logsumexp(dim=1)).sum()
    return [torch.autograd.grad(value, source, retain_graph=True)[0].numpy() for value in (form, odds)]


def picture_errors(found: Sequence[AnyArray], truth: Sequence[AnyArray]) -> AnyArray:
    """Largest difference in each picture, as a share of its largest value; the larger of both forms."""
    shares = [
        [np.abs(one - other).max() / np.abs(other).max() for one, other in zip(*pair, strict=True)]
        for pair in zip(found, truth, strict=True)
    ]
    return np.asarray(np.max(shares, axis=0))


def time_ratio(forward: ort.InferenceSession, both: ort.InferenceSession, x: AnyArray, classes: int) -> float:
    """Time of the backward pass over that of the forward pass."""
    name = forward.get_inputs()[0].name
    fed = [(forward, {name: x}), (both, {name: x, "cotangent": linear_forms(len(x), classes)})]
    times: tuple[list[float], list[float]] = ([], [])
    for repeat in range(_REPEATS + 1):
        for (runner, arrays), taken in zip(fed, times, strict=True):
            start = time.perf_counter()
            runner.run(None, arrays)
            if repeat:
                taken.append(time.perf_counter() - start)
    alone, whole = map(statistics.median, times)
    return (whole - alone) / alone


def check_network(network: Network, folder: Path) -> bool:
    """Print the row of a network."""
    torch, net = importlib.import_module("torch"), build(network)
    path = export(network, net, folder)
    file, model = onnx.load(path), forward_model(path)
    path.unlink()
    x = pictures(_PICTURES, network.side, seed=7)
    with torch.no_grad():
        classes = int(net(torch.from_numpy(x[:1])).shape[1])
    backward = build_vjp(model)
    runners = [session(backward), session(build_vjp(model, rest=True))]
    truth = torch_gradients(net, x, classes, double=True)
    found = picture_errors(onnx_gradients(runners, x, classes), truth)
    single = picture_errors(torch_gradients(net, x, classes, double=False), truth)
    ratio = time_ratio(session(model), runners[0], pictures(network.batch, network.side), classes)
    gradient = float64_gradient(backward, x[:1], linear_forms(1, classes))
    exact = float(picture_errors([gradient], [truth[0][:1]])[0])
    slope = slope_error(model, gradient, x[:1], linear_forms(1, classes))
    ok = min(found.min(), exact) < _LIMIT and slope < _LIMIT
    opset = next(entry.version for entry in file.opset_import if entry.domain in ("", "ai.onnx"))
    click.echo(
        f"| {network.name} | {'dynamo' if network.dynamo else 'TorchScript'} | {opset} | {_sizes(model, backward)} "
        f"| {found.min():.1e} | {found.max():.1e} | {single.min():.1e} | {single.max():.1e} "
        f"| {exact:.1e} | {slope:.1e} | {ratio:.2f} | {'yes' if ok else 'NO'} |"
    )
    return ok


def _sizes(model: onnx.ModelProto, backward: onnx.ModelProto) -> str:
    kinds = {node.op_type for node in model.graph.node}
    return f"{len(kinds)} | {len(model.graph.node)} | {len(backward.graph.node)}"


def slope_error(model: onnx.ModelProto, gradient: AnyArray, x: AnyArray, cotangent: AnyArray) -> float:
    """Median difference of slopes from central differences along random directions, as a share of a usual slope."""
    exact, name, rng = in_float64(model), model.graph.input[0].name, np.random.default_rng(3)

    def form(point: AnyArray) -> float:
        return float((_first(exact, {name: point}).reshape(cotangent.shape) * cotangent).sum())

    errors = []
    for _ in range(_DIRECTIONS):
        direction = rng.normal(size=x.shape)
        slope, error = float((gradient * direction).sum()), np.inf
        for step in _STEPS:
            if error > _ENOUGH:
                truth = (form(x + step * direction) - form(x - step * direction)) / (2 * step)
                error = min(error, abs(slope - truth) / float(np.linalg.norm(gradient)))
        errors.append(error)
    return float(np.median(errors))


def float64_gradient(backward: onnx.ModelProto, x: AnyArray, cotangent: AnyArray) -> AnyArray:
    """The gradient by a backward graph in float64."""
    fed = {backward.graph.input[0].name: x.astype(np.float64), "cotangent": cotangent.astype(np.float64)}
    return _first(in_float64(backward), fed)


def _first(evaluator: ReferenceEvaluator, fed: dict[str, AnyArray]) -> AnyArray:
    return np.asarray(next(iter(evaluator.run(None, fed))))


def in_float64(model: onnx.ModelProto) -> ReferenceEvaluator:
    """Runs a model with all weights, constants and casts in double precision."""
    double = onnx.ModelProto()
    double.CopyFrom(model)
    del double.graph.value_info[:]
    for tensor in double.graph.initializer:
        _widen(tensor)
    for node in double.graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                _widen(attribute.t)
            elif node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.DOUBLE
    kernels: list[type[OpRun]] = [
        AveragePool,
        BatchNormalization,
        Conv,
        ConvTranspose,
        Erf,
        Gelu,
        LRN,
        MaxPool,
        Pad,
        ScatterElements,
    ]
    return ReferenceEvaluator(double, new_ops=kernels)


def _widen(tensor: TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))


class _Kernel(OpRun):
    """An operator by PyTorch's kernel."""

    op_domain = ""

    @property
    def torch(self) -> Any:
        return importlib.import_module("torch")

    @property
    def margins(self) -> tuple[int, int, int, int]:
        top, left, bottom, right = self.given("pads", None) or (0, 0, 0, 0)
        return top, left, bottom, right

    def given(self, name: str, default: Any) -> Any:
        """An attribute of the node."""
        attributes = {each.name: helper.get_attribute_value(each) for each in self.onnx_node.attribute}
        return attributes.get(name, default)

    def pair(self, name: str, default: int = 1) -> list[int]:
        """Attributes of two axes."""
        if self.given("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
            raise NotImplementedError(f"{self.onnx_node.op_type} with auto_pad in float64")
        return list(self.given(name, [default] * 2))

    def padded(self, x: AnyArray, value: float = 0.0) -> Any:
        """The picture with its pads around it."""
        top, left, bottom, right = self.margins
        return self.torch.nn.functional.pad(self.torch.from_numpy(x), (left, right, top, bottom), value=value)


class BatchNormalization(_Kernel):
    """Normalisation by constants: older versions of the operator give a momentum, which is no training."""

    def _run(self, x: AnyArray, *parameters: AnyArray, **_: Any) -> tuple[AnyArray]:
        scale, bias, mean, variance = map(self.torch.from_numpy, parameters)
        norm, epsilon = self.torch.nn.functional.batch_norm, self.given("epsilon", 1e-5)
        return (norm(self.torch.from_numpy(x), mean, variance, scale, bias, eps=epsilon).numpy(),)


class Conv(_Kernel):
    """Convolution."""

    def _run(self, x: AnyArray, w: AnyArray, b: AnyArray | None = None, **_: Any) -> tuple[AnyArray]:
        bias = None if b is None else self.torch.from_numpy(b)
        strides, dilations = self.pair("strides"), self.pair("dilations")
        weight = self.torch.from_numpy(np.ascontiguousarray(w))
        made = self.torch.nn.functional.conv2d(
            self.padded(x), weight, bias, strides, 0, dilations, self.given("group", 1)
        )
        return (made.numpy(),)


class ConvTranspose(_Kernel):
    """Transposed convolution; what lies in the pads is cut off."""

    def _run(self, x: AnyArray, w: AnyArray, b: AnyArray | None = None, **_: Any) -> tuple[AnyArray]:
        torch = self.torch
        given = [
            self.pair("strides"),
            0,
            self.pair("output_padding", 0),
            self.given("group", 1),
            self.pair("dilations"),
        ]
        bias = None if b is None else torch.from_numpy(b)
        made = torch.nn.functional.conv_transpose2d(torch.from_numpy(x), torch.from_numpy(w), bias, *given).numpy()
        top, left, bottom, right = self.margins
        return (made[:, :, top : made.shape[2] - bottom, left : made.shape[3] - right],)


class LRN(_Kernel):
    """Normalisation over neighbouring channels; onnx 1.23's own sums squares only in as many channels as pictures."""

    def _run(self, x: AnyArray, **_: Any) -> tuple[AnyArray]:
        size = self.given("size", None)
        squares = np.pad(x**2, ((0, 0), ((size - 1) // 2, size // 2), (0, 0), (0, 0)))
        total = sum(squares[:, shift : shift + x.shape[1]] for shift in range(size))
        alpha, beta = self.given("alpha", 1e-4), self.given("beta", 0.75)
        return (x * (self.given("bias", 1.0) + alpha / size * total) ** -beta,)


class MaxPool(_Kernel):
    """Maximum pooling, with places in the whole tensor."""

    def _run(self, x: AnyArray, **_: Any) -> tuple[AnyArray, ...]:
        pool = self.torch.nn.functional.max_pool2d
        options = {
            "kernel_size": self.given("kernel_shape", None),
            "stride": self.pair("strides"),
            "dilation": self.pair("dilations"),
            "ceil_mode": bool(self.given("ceil_mode", 0)),
        }
        made, places = (each.numpy() for each in pool(self.padded(x, -np.inf), **options, return_indices=True))
        if len(self.onnx_node.output) == 1:
            return (made,)
        top, left, _bottom, right = self.margins
        rows, cols = np.divmod(places, x.shape[3] + left + right)
        plane = np.arange(x.shape[0] * x.shape[1]).reshape(*x.shape[:2], 1, 1)
        return made, (plane * x.shape[2] + rows - top) * x.shape[3] + cols - left


class AveragePool(_Kernel):
    """Average pooling: of the padded picture, over that of ones."""

    def _run(self, x: AnyArray, **_: Any) -> tuple[AnyArray]:
        if self.given("ceil_mode", 0) or self.pair("dilations") != [1, 1]:
            raise NotImplementedError("AveragePool with ceil_mode or dilations in float64")

        def pool(values: AnyArray) -> AnyArray:
            padded = self.padded(values)
            return np.asarray(
                self.torch.nn.functional.avg_pool2d(
                    padded, self.given("kernel_shape", None), self.pair("strides")
                ).numpy()
            )

        return (pool(x) if self.given("count_include_pad", 0) else pool(x) / pool(np.ones_like(x)),)


class Erf(_Kernel):
    """The error function."""

    def _run(self, x: AnyArray) -> tuple[AnyArray]:
        return (self.torch.special.erf(self.torch.from_numpy(np.array(x))).numpy(),)


class Gelu(_Kernel):
    """Gelu in both forms."""

    def _run(self, x: AnyArray, approximate: str | None = None) -> tuple[AnyArray]:
        kind = approximate or "none"
        return (self.torch.nn.functional.gelu(self.torch.from_numpy(x), approximate=kind).numpy(),)


class Pad(_Kernel):
    """Padding with zeros and cropping, which onnx's own does not do."""

    def _run(
        self, x: AnyArray, pads: AnyArray | None = None, value: AnyArray | None = None, *_: AnyArray, **__: Any
    ) -> tuple[AnyArray]:
        if self.given("mode", b"constant") != b"constant" or (value is not None and value.any()):
            raise NotImplementedError("Pad in float64 with anything but zeros")
        pads = self.given("pads", None) if pads is None else pads
        before, after = np.reshape(pads, (2, -1)).tolist()
        flat = [each for pair in zip(before[::-1], after[::-1], strict=True) for each in pair]
        return (self.torch.nn.functional.pad(self.torch.from_numpy(x), flat).numpy(),)


class ScatterElements(_Kernel):
    """Additions to a vector, as MaxPool's rule asks for them."""

    def _run(
        self, data: AnyArray, places: AnyArray, values: AnyArray, axis: int | None = None, reduction: str | None = None
    ) -> tuple[AnyArray]:
        if data.ndim != 1 or reduction != "add":
            raise NotImplementedError("ScatterElements other than additions to a vector in float64")
        return (data + np.bincount(places, values, minlength=len(data)),)


def light_models() -> Iterator[str]:
    """Names of the networks that the onnx package carries."""
    return iter(_tests().CUTS)


def _tests() -> Any:
    root = str(Path(__file__).resolve().parents[1])
    if root not in sys.path:
        sys.path.insert(0, root)
    return importlib.import_module("tests.test_light_models")


def check_light(name: str, folder: Path) -> bool:
    """Print the row of a network that the onnx package carries."""
    tests = _tests()
    path = folder / f"{name}.onnx"
    proto = onnx.load(tests.FOLDER / path.name)
    onnx.save(tests.with_noise(proto, seed=0), path)
    model = Graph(load_model(path)).whole()
    path.unlink()
    backward, source = build_vjp(model), model.graph.input[0].name
    runner, classes = session(backward), backward.graph.input[1].type.tensor_type.shape.dim[1].dim_value
    cotangent = linear_forms(1, classes)
    batches = pictures(_PICTURES, 224, seed=7)[:, None]
    truth = [float64_gradient(backward, picture, cotangent) for picture in batches]
    slope = slope_error(model, truth[0], batches[0], cotangent)
    errors = []
    for picture, gradient in zip(batches, truth, strict=True):
        found = runner.run(["gradient"], {source: picture, "cotangent": cotangent})[0]
        errors.append(float(picture_errors([found], [gradient])[0]))
    ok = slope < _LIMIT
    click.echo(
        f"| {name} | {_sizes(model, backward)} | {min(errors):.1e} | {max(errors):.1e} | {slope:.1e} "
        f"| {'yes' if ok else 'NO'} |"
    )
    return ok


def _tried(check: Callable[[], bool], name: str) -> bool:
    try:
        return check()
    except Exception as error:  # noqa: BLE001 - one network that fails must not hide the others
        click.echo(f"| {name} | failed: {' '.join(str(error).split())[:300]} |")
        traceback.print_exc()
        return False


@click.command()
@click.option("--only", multiple=True, metavar="NAME", help="Only the network of that name; may be repeated.")
@click.option("--skip-light", is_flag=True, help="Leave out the networks of the onnx package.")
def main(only: tuple[str, ...], skip_light: bool) -> None:
    """Compare gradients with PyTorch's and with central differences."""
    ok = True
    networks = [network for network in NETWORKS if not only or network.name in only]
    light = [] if skip_light else [name for name in light_models() if not only or name in only]
    with tempfile.TemporaryDirectory() as folder:
        if networks:
            click.echo(
                "| network | exporter | opset | operators | nodes forward | nodes with backward "
                "| float32, best | worst | PyTorch's, best | worst | float64 | slopes | backward over forward | ok |\n"
                + "|---" * 14
                + "|"
            )
        for network in networks:
            ok &= _tried(lambda: check_network(network, Path(folder)), network.name)  # noqa: B023 - called at once
        if light:
            click.echo(
                "\n| network | operators | nodes forward | nodes with backward | float32, best | worst "
                "| slopes | ok |\n" + "|---" * 8 + "|"
            )
        for name in light:
            ok &= _tried(lambda: check_light(name, Path(folder)), name)  # noqa: B023 - called at once
    sys.exit(0 if ok else 1)


if __name__ == "__main__":
    main()
