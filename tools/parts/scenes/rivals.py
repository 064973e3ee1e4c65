"""Maps of scenes by other people's methods, run as they ship them, in PyTorch: ``python -m parts.scenes.rivals``.

captum, pytorch-grad-cam, and the rules of AttnLRP (`lxt`; Achtibat et al. 2024) in gradient times input; attention
rollout (Abnar and Zuidema 2020) and Chefer, Gur and Wolf's gradient-weighted one (CVPR 2021) are a few lines each, and
are written here. All explain the logit of the class that the network gives. One .npz for each scene is kept in OUT:
maps by name, and what each took in plain forward passes of the same process.
"""

import time
import warnings
from collections.abc import Callable
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from copy import deepcopy
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
import pytorch_grad_cam
import torch
from captum import attr
from lxt.efficient import monkey_patch_zennit
from lxt.efficient.patches import layer_norm_forward
from lxt.efficient.rules import divide_gradient, identity_rule_implicit
from pytorch_grad_cam.ablation_layer import AblationLayerVit
from torch import Tensor, nn
from torch.nn import functional
from zennit.attribution import Gradient
from zennit.composites import EpsilonGammaBox, LayerMapComposite
from zennit.rules import Gamma

from parts.scenes.networks import FAMILIES, Attention, Residual
from parts.scenes.scene import CLASSES, GRID, SIDE, AnyArray, draw_scene, render
from parts.scenes.training import normalised

# A map (H, W), or of several colours (3, H, W), of one picture (1, 3, H, W) and a class.
Rival = Callable[[nn.Module, Tensor, int], AnyArray]
# Noisy from pixel to pixel: kept as they are, and smoothed by so many of them.
_IN_PIXELS = frozenset(
    (
        *(f"captum {name}" for name in ("saliency", "input x gradient", "integrated gradients, 50", "DeepLIFT")),
        *(f"captum {name}" for name in ("SmoothGrad x input, 25", "guided backpropagation")),
        *("AttnLRP", "AttnLRP, gamma", "zennit LRP, epsilon-gamma-box"),
    )
)
_SMOOTHING = 3.0
_TOKENS = ("vit", "swin", "mixer")


def _captum(make: Callable[[nn.Module], Any], **how: Any) -> Rival:
    def rival(net: nn.Module, x: Tensor, target: int) -> AnyArray:
        return make(net).attribute(x, target=target, **how)[0].detach().numpy()

    return rival


def _noisy(net: nn.Module) -> Any:
    return attr.NoiseTunnel(attr.InputXGradient(net))


def _cells() -> Tensor:
    """Numbers of the cells of the grid that the networks know to be missing at times."""
    numbers = torch.arange(GRID**2).reshape(1, 1, GRID, GRID)
    return numbers.repeat_interleave(SIDE // GRID, 2).repeat_interleave(SIDE // GRID, 3)


_IN_CELLS = {"feature_mask": _cells(), "perturbations_per_eval": 16}
_CAPTUM: dict[str, Rival] = {
    "captum saliency": _captum(attr.Saliency, abs=False),
    "captum input x gradient": _captum(attr.InputXGradient),
    "captum integrated gradients, 50": _captum(attr.IntegratedGradients, n_steps=50, internal_batch_size=16),
    "captum SmoothGrad x input, 25": _captum(_noisy, nt_type="smoothgrad", nt_samples=25, stdevs=0.15),
    "captum DeepLIFT": _captum(attr.DeepLift),
    "captum guided backpropagation": _captum(attr.GuidedBackprop),
    "captum occlusion": _captum(
        attr.Occlusion, sliding_window_shapes=(3, 12, 12), strides=(3, 6, 6), perturbations_per_eval=16
    ),
    "captum ablation of cells": _captum(attr.FeatureAblation, **_IN_CELLS),
    "captum KernelSHAP of cells, 400": _captum(attr.KernelShap, n_samples=400, **_IN_CELLS),
    "captum KernelSHAP of cells, 1500": _captum(attr.KernelShap, n_samples=1500, **_IN_CELLS),
    "captum Shapley values of cells, 10": _captum(attr.ShapleyValueSampling, n_samples=10, **_IN_CELLS),
}


# Class activation maps


def last_layer(family: str, net: Any) -> nn.Module:
    """Where pytorch-grad-cam advises to look: the last layer with cells, of tokens the norm before the last block."""
    if family == "vit":
        return net.blocks[-1][0].inside[0]
    if family == "mixer":
        return net.blocks[-1][1].inside[0]
    if family == "swin":
        return net.stages[-1].inside[0]
    kind = {"plain": nn.MaxPool2d, "convnext": Residual}.get(family)
    return net[-2] if kind is None else [layer for layer in net if isinstance(layer, kind)][-1]


def _as_cells(family: str, tensor: Tensor) -> Tensor:
    """Tokens as (N, C, A, B)."""
    if family == "swin":
        return tensor.permute(0, 3, 1, 2)
    tokens = tensor[:, 1:] if family == "vit" else tensor
    side = int(tokens.shape[1] ** 0.5)
    return tokens.transpose(1, 2).reshape(len(tokens), -1, side, side)


def _cam(kind: str, family: str) -> Rival:
    def rival(net: nn.Module, x: Tensor, target: int) -> AnyArray:
        wanted = [pytorch_grad_cam.utils.model_targets.ClassifierOutputTarget(target)]
        turn = partial(_as_cells, family) if family in _TOKENS else None
        how = {"ablation_layer": AblationLayerVit()} if kind == "AblationCAM" and family in ("vit", "mixer") else {}
        values = None
        with getattr(pytorch_grad_cam, kind)(net, [last_layer(family, net)], turn, **how) as cam:
            values = cam(x, wanted)
        if values is None:  # it prints why, and goes on
            raise RuntimeError("gives no map")
        return np.asarray(values[0])

    return rival


_CAMS = "GradCAM GradCAMPlusPlus HiResCAM XGradCAM LayerCAM EigenCAM EigenGradCAM AblationCAM ScoreCAM".split()


# Attention


@contextmanager
def _instead(changes: dict[type, dict[str, Callable[..., Any]]]) -> Any:
    """Inside, classes have other methods."""
    before = {kind: {name: getattr(kind, name) for name in methods} for kind, methods in changes.items()}
    for kind, methods in changes.items():
        for name, method in methods.items():
            setattr(kind, name, method)
    try:
        yield
    finally:
        for kind, methods in before.items():
            for name, method in methods.items():
                setattr(kind, name, method)


def _gamma_lrp(net: nn.Module, x: Tensor, target: int) -> AnyArray:
    """AttnLRP with the gamma rule in linear layers, which its authors advise for vision transformers."""
    monkey_patch_zennit()
    rules = LayerMapComposite([(nn.Conv2d, Gamma(0.25)), (nn.Linear, Gamma(0.05))])
    rules.register(net)
    try:
        return _attn_lrp(net, x, target)
    finally:
        rules.remove()


def _zennit(net: nn.Module, x: Tensor, target: int) -> AnyArray:
    low, high = torch.full_like(x, -2.0), torch.full_like(x, 2.0)
    with Gradient(net, EpsilonGammaBox(low, high)) as attributor:
        return attributor(x, torch.eye(CLASSES)[[target]])[1][0].numpy()


def _attn_lrp(net: nn.Module, x: Tensor, target: int) -> AnyArray:
    """Gradient times input behind AttnLRP's rules: of normalisation, of GELU, and of products in attention."""
    attend = Attention.attend

    def halved(self: Any, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
        return attend(self, divide_gradient(query, 4), divide_gradient(key, 4), divide_gradient(value, 2), bias)

    def kept(_: Any, x: Tensor) -> Tensor:
        return identity_rule_implicit(functional.gelu, x)

    changes: dict[type, Any] = {
        nn.LayerNorm: {"forward": layer_norm_forward},
        nn.GELU: {"forward": kept},
        Attention: {"attend": halved},
    }
    x = x.clone().requires_grad_()
    with _instead(changes):
        net(x)[0, target].backward()
    assert x.grad is not None
    return (x.grad * x.detach())[0].numpy()


def _weights(net: nn.Module, x: Tensor, target: int) -> list[tuple[Tensor, Tensor]]:
    """Of every block the weights of attention (heads, tokens, tokens), and the gradient of the logit by them."""
    seen: list[Tensor] = []

    def weigh(_: Any, weights: Tensor) -> Tensor:
        weights.retain_grad()
        seen.append(weights)
        return weights

    with _instead({Attention: {"weigh": weigh}}):
        net(x)[0, target].backward()
    return [(each.detach()[0], each.grad[0]) for each in seen if each.grad is not None]


def _rolled(layers: list[Tensor]) -> AnyArray:
    """What the class token is told of every cell, through all layers."""
    whole = torch.eye(len(layers[0]))
    for layer in layers:
        whole = (torch.eye(len(layer)) + layer) @ whole
    side = int((len(whole) - 1) ** 0.5)
    cells = whole[0, 1:].reshape(1, 1, side, side)
    return functional.interpolate(cells, (SIDE, SIDE), mode="bilinear")[0, 0].numpy()


def _rollout(net: nn.Module, x: Tensor, target: int) -> AnyArray:
    return _rolled([weights.mean(0) for weights, _ in _weights(net, x, target)])


def _chefer(net: nn.Module, x: Tensor, target: int) -> AnyArray:
    return _rolled([(weights * slope).clamp(min=0).mean(0) for weights, slope in _weights(net, x, target)])


def rivals(family: str) -> dict[str, Rival]:
    """By name; those that cannot be used on a family say so when they are."""
    found = {**_CAPTUM, **{f"pytorch-grad-cam {kind}": _cam(kind, family) for kind in _CAMS}}
    if family in (*_TOKENS, "convnext"):
        found |= {"AttnLRP": _attn_lrp, "AttnLRP, gamma": _gamma_lrp}
    if family == "plain":
        found["zennit LRP, epsilon-gamma-box"] = _zennit
    if family == "vit":
        found |= {"attention rollout": _rollout, "Chefer": _chefer}
    return found


def _map_of(values: AnyArray) -> AnyArray:
    values = values.sum(axis=0) if values.ndim == 3 else values
    return values.astype(np.float32)


def explain(family: str, net: nn.Module, seed: int) -> dict[str, Any]:
    """Maps of a scene by name, passes by ``NAME|passes``, refusals by ``NAME|refused``, and the class.

    Parameters
    ----------
    family : str
        Of the network.
    net : torch.nn.Module
        Trained.
    seed : int
        Of the scene.

    Returns
    -------
    dict
        Of arrays.
    """
    x = normalised(render(draw_scene(seed))[None])
    with torch.no_grad():
        target = int(net(x).argmax())
        plain = np.median([_seconds(lambda: net(x))[1] for _ in range(9)])
    found: dict[str, Any] = {"target": np.array(target)}
    for name, rival in rivals(family).items():
        torch.manual_seed(seed)
        own = deepcopy(net)  # some leave hooks and layers behind
        try:
            with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
                values, seconds = _seconds(partial(rival, own, x, target))
        except Exception as error:  # noqa: BLE001 - whatever they raise is their way to say that they cannot
            found[f"{name}|refused"] = np.array(f"{type(error).__name__}: {error}"[:200])
            continue
        passes, values = np.array(seconds / plain), _map_of(values)
        found |= {name: values, f"{name}|passes": passes}
        if name in _IN_PIXELS:
            smoothed = f"{name}, smoothed"
            found |= {smoothed: cv2.GaussianBlur(values, (0, 0), _SMOOTHING), f"{smoothed}|passes": passes}
    return found


def _seconds(function: Callable[[], Any]) -> tuple[Any, float]:
    begin = time.perf_counter()
    return function(), time.perf_counter() - begin


@click.command()
@click.argument("family", type=click.Choice([*FAMILIES]))
@click.argument("out", type=click.Path(exists=True, path_type=Path))
@click.argument("first", type=int)
@click.argument("count", type=int)
def main(family: str, out: Path, first: int, count: int) -> None:
    """Explain COUNT scenes from the seed FIRST on by the FAMILY's network in OUT; go on where it stopped."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    net = FAMILIES[family].make().eval()
    net.load_state_dict(torch.load(out / f"{family}.pt"))
    folder = out / "rivals" / family
    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(first, first + count):
        kept = folder / f"{seed}.npz"
        if not kept.exists():
            begun = folder / f"{seed}.part.npz"
            np.savez(begun, **explain(family, net, seed))
            begun.rename(kept)


if __name__ == "__main__":
    main()
