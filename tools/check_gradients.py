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
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import onnxruntime as ort
from parts.float64 import float64_gradient, slope_error
from parts.torch_networks import NETWORKS, Network, build, export, pictures, session

from onnx_evidence import EvidenceError
from onnx_evidence.cuts.graph import Graph
from onnx_evidence.intake.model import load_model
from onnx_evidence.types import AnyArray
from onnx_evidence.vjp import build_vjp

_LIMIT = 1e-4
_PICTURES = 3
_REPEATS = 3
_CLASS = 3


def forward_model(path: Path) -> onnx.ModelProto:
    """The model from the image to the logits, or the file as it is where this project does not take it."""
    try:
        return Graph(load_model(path)).whole()
    except EvidenceError as error:
        click.echo(f"{path.stem}: taken as it is: {error}", err=True)
        return onnx.load(path)


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
