"""Compare the raw maps of gradient methods with the packages that people use for them, on the same weights.

One Markdown table: for torchvision networks with random weights (`parts/torch_networks.py`), the lesser correlation
of two pictures, and the largest difference as a share of the largest value, between this project's maps of an exported
file and those of the PyTorch packages grad-cam (at the last convolutional features, before its ReLU and its scaling)
and captum (at the input, summed over colours). The score is the logit of the class that the network prefers.

Integrated gradients start at zeros. captum spaces as many steps evenly as the project places where they are needed; a
second row has captum's places. grad-cam adds 1e-6 to a denominator of Grad-CAM++ that the paper does not have; where
gradients are small it changes the weights, so a second row has it, too. PyTorch is needed for this tool only; in a
throwaway environment: pip install torch torchvision onnxscript grad-cam captum.
"""

import importlib
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import click
import numpy as np
from onnx import TensorProto, helper
from parts.torch_networks import NETWORKS, Network, build, export, pictures, session

from onnx_evidence import DeployedModel
from onnx_evidence.cuts.graph import Cut
from onnx_evidence.evidence.attribution import grad_cam, grad_cam_plus_plus, layer_cam, layer_times_gradient
from onnx_evidence.evidence.odds import LN2
from onnx_evidence.evidence.path import integrate
from onnx_evidence.evidence.score import Score
from onnx_evidence.graphs import with_weights
from onnx_evidence.types import AnyArray, FloatArray, Gradient

_PICTURES = 2
_STEPS = 65
# The module whose output the CAM methods look at.
LAYERS = {"resnet18": "layer4", "mobilenet_v2": "features", "vgg11_bn": "features"}

Maps = dict[str, FloatArray]


def own_maps(deployed: DeployedModel, at_input: Gradient, cut: Cut, x: AnyArray, target: int) -> Maps:
    """Maps of one picture by this project."""
    score = Score.of(deployed.classes, target, kind="logit")
    features = deployed.head(cut)(x[None])
    _, at_cut = deployed.gradient(cut)(features, score.direction, score.rest)
    _, slopes = at_input(x[None], score.direction, score.rest)
    path = integrate(x, np.zeros_like(x), at_input, score, completeness=0.0, most_steps=_STEPS)
    h, g = features[0], at_cut[0]
    return {
        "Grad-CAM": grad_cam(h, g),
        "HiResCAM": layer_times_gradient(h, g),
        "Grad-CAM++": grad_cam_plus_plus(h, g),
        "Grad-CAM++ with 1e-6": _padded_plus_plus(h, g),
        "Layer-CAM": layer_cam(h, g),
        "gradient x input": layer_times_gradient(x, slopes[0]),
        "integrated gradients": path.cells * LN2,
        "integrated gradients, captum's steps": _even_steps(at_input, x, score),
    }


def _even_steps(at_input: Gradient, x: AnyArray, score: Score) -> FloatArray:
    """Integrated gradients with the weights of captum's trapezoidal rule, which add up to 1 - 1/steps."""
    total = np.zeros(x.shape)
    for place in np.linspace(0, 1, _STEPS):
        _, slope = at_input((place * x[None]).astype(np.float32), score.direction, score.rest)
        total += slope[0] / _STEPS * (0.5 if place in (0, 1) else 1)
    cells: FloatArray = (total * x).sum(axis=0)
    return cells


def _padded_plus_plus(features: AnyArray, gradient: AnyArray) -> FloatArray:
    """Grad-CAM++ with the package's constant in the denominator."""
    h, g = features.astype(np.float64), gradient.astype(np.float64)
    shares = g**2 / (2 * g**2 + g**3 * h.sum(axis=(1, 2), keepdims=True) + 1e-6)
    cells: FloatArray = np.einsum("kij,k->ij", h, (shares * np.maximum(g, 0)).sum(axis=(1, 2)))
    return cells


def peer_maps(net: Any, layer: Any, x: AnyArray, target: int) -> tuple[Maps, AnyArray]:
    """Maps of one picture by the packages, and the features at the layer."""
    torch = importlib.import_module("torch")
    peers, captum = importlib.import_module("pytorch_grad_cam"), importlib.import_module("captum.attr")
    batch = torch.from_numpy(x[None])
    maps: Maps = {}
    names = {"Grad-CAM": "GradCAM", "HiResCAM": "HiResCAM", "Grad-CAM++": "GradCAMPlusPlus", "Layer-CAM": "LayerCAM"}
    for method, name in names.items():
        with getattr(peers, name)(net, [layer]) as cam:
            cam.activations_and_grads(batch)[0, target].backward()
            features = cam.activations_and_grads.activations[0].numpy().copy()
            gradient = cam.activations_and_grads.gradients[0].numpy()
            maps[method] = cam.get_cam_image(batch, layer, [], features, gradient, False)[0]
    maps["Grad-CAM++ with 1e-6"] = maps["Grad-CAM++"]
    source = batch.clone().requires_grad_()
    product = captum.InputXGradient(net).attribute(source, target=target)
    path = captum.IntegratedGradients(net).attribute(
        batch, target=target, n_steps=_STEPS, method="riemann_trapezoid", internal_batch_size=8
    )
    maps["gradient x input"] = product[0].sum(dim=0).detach().numpy()
    maps["integrated gradients"] = path[0].sum(dim=0).detach().numpy()
    maps["integrated gradients, captum's steps"] = maps["integrated gradients"]
    return maps, features[0]


def same_features(deployed: DeployedModel, x: AnyArray, features: AnyArray) -> Cut:
    """The cut whose features are those of the layer."""
    cuts = [cut for cut in deployed.graph.cuts if cut.shape == features.shape]
    probe = with_weights(deployed.graph.whole())
    probe.graph.output.extend(helper.make_tensor_value_info(cut.name, TensorProto.FLOAT, None) for cut in cuts)
    found = session(probe).run(None, {deployed.model.input_name: x[None]})[1:]
    misses = [float(np.abs(each[0] - features).max() / np.abs(features).max()) for each in found]
    if not misses or min(misses) > 1e-3:
        raise click.ClickException("no cut has the features of the layer")
    return cuts[int(np.argmin(misses))]


def check_network(network: Network, folder: Path) -> None:
    """Print the rows of a network."""
    torch = importlib.import_module("torch")
    net = build(network)
    layer = getattr(net, LAYERS[network.name])
    for module in net.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    deployed = DeployedModel(export(network, net, folder), device="cpu")
    at_input = deployed.gradient(deployed.graph.find(deployed.model.input_name))
    correlations, differences = defaultdict(list), defaultdict(list)
    for x in pictures(_PICTURES, network.side, seed=7):
        with torch.no_grad():
            target = int(net(torch.from_numpy(x[None]))[0].argmax())
        peers, features = peer_maps(net, layer, x, target)
        own = own_maps(deployed, at_input, same_features(deployed, x, features), x, target)
        for method, truth in peers.items():
            correlations[method].append(np.corrcoef(own[method].ravel(), truth.ravel())[0, 1])
            differences[method].append(np.abs(own[method] - truth).max() / np.abs(truth).max())
    for method, values in correlations.items():
        click.echo(f"| {network.name} | {method} | {min(values):.6f} | {max(differences[method]):.1e} |")


@click.command()
@click.option("--only", multiple=True, type=click.Choice(list(LAYERS)), help="Only this network; may be repeated.")
def main(only: tuple[str, ...]) -> None:
    """Compare maps with those of grad-cam and captum."""
    click.echo("| network | method | lesser correlation | largest difference |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for network in NETWORKS:
            if network.name in (only or LAYERS):
                check_network(network, Path(folder))


if __name__ == "__main__":
    main()
