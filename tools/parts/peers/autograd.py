"""PyTorch's autograd beside this project's backward graphs: the same networks and gradients, time over time.

Seconds are in plain forward passes of the exported file by ONNX Runtime, of as many pictures, one after the other in
the same process: medians, and from where to where they went. A gradient is the whole way, forward and back, to the
input, of a random linear form of the logits; PyTorch has as many threads as there are processors.
"""

import importlib
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from onnx_evidence import DeployedModel
from onnx_evidence.types import AnyArray
from parts.measuring import spread, timed
from parts.torch_networks import NETWORKS, build, export, pictures

_REPEATS = 9
_HEAD = (
    "network",
    "batch",
    "PyTorch, forward",
    "PyTorch, gradient",
    "ours, gradient",
    "ours against PyTorch's, float32",
)


def compare(names: Sequence[str], batches: Sequence[int]) -> None:
    """Print the table of some networks of torchvision."""
    click.echo("| " + " | ".join(_HEAD) + " |\n" + "|---" * len(_HEAD) + "|")
    with tempfile.TemporaryDirectory() as scratch:
        for network in NETWORKS:
            if network.name in names:
                net = build(network)
                deployed = DeployedModel(export(network, net, Path(scratch)), device="cpu", cache=False)
                for batch in batches:
                    cells = _cells(net, deployed, pictures(batch, network.side, seed=7))
                    click.echo("| " + " | ".join((network.name, str(batch), *cells)) + " |")


def _cells(net: Any, deployed: DeployedModel, x: AnyArray) -> list[str]:
    torch = importlib.import_module("torch")
    form = np.random.default_rng(1).normal(size=deployed.classes).astype(np.float32)
    at_input = deployed.gradient(deployed.graph.find(deployed.model.input_name))
    batch, direction, rest = torch.from_numpy(x), torch.from_numpy(form), np.zeros(len(form))

    def forward() -> Any:
        with torch.no_grad():
            return net(batch)

    def gradient() -> AnyArray:
        leaf = batch.clone().requires_grad_()
        (net(leaf) * direction).sum().backward()
        return np.asarray(leaf.grad.numpy())

    def ours() -> AnyArray:
        return at_input(x, form.astype(np.float64), rest)[1]

    theirs, mine = gradient(), ours()
    error = min(np.abs(a - b).max() / np.abs(b).max() for a, b in zip(mine, theirs, strict=True))
    works: list[Callable[[], Any]] = [forward, gradient, ours]
    return [*_ratios(lambda: deployed.session.run(x), works), f"{error:.0e}"]


def _ratios(plain: Callable[[], Any], works: Sequence[Callable[[], Any]]) -> list[str]:
    """How often as long as the plain pass beside it each takes."""
    found: list[list[float]] = [[] for _ in works]
    for _ in range(_REPEATS):
        for ratios, work in zip(found, works, strict=True):
            alone = timed(plain)
            ratios.append(timed(work) / alone)
    return [spread(each) for each in found]
