"""The timm part of the zoo: one model of each family, with seeded weights under which the scores depend on the picture.

`torch_models` builds these; timm and PyTorch are imported when one is built. Networks are the smallest of their family.
Where that one takes many seconds a picture it is made narrower or shorter by the arguments that timm takes ('narrow'
in the name): blocks, joins and the order of axes, which decide how a file is read, are those of the family.
"""

import importlib
from typing import Any

from parts import torch_networks

# Spread of the logits over pictures: that of trained classifiers of 1,000 classes is 1 to 3.
_SPREAD = 1.5
_PICTURES = 8
# Classes that stand for texture, and by how much a patch of it raises their logits.
_TEXTURED = 16
_TEXTURE = 6.0

_TOWER = {"depth": 6, "embed_dim": 192, "num_heads": 3}
_WIDTHS = {"embed_dims": (32, 64, 128, 256)}
_NEST = {"embed_dims": (48, 96, 192), "num_heads": (3, 6, 12), "depths": (2, 2, 4)}
_VOLO = {"layers": (2, 2, 4, 2), "embed_dims": (96, 192, 192, 192), "num_heads": (3, 6, 6, 6), "mlp_ratio": 3.0}

# A model, and what it is made narrower by. Exported by both of PyTorch's exporters.
BOTH: dict[str, dict[str, Any]] = {
    "xcit_nano_12_p16_224": {},
    "mobilevitv2_050": {},
    "hiera_tiny_224": {"embed_dim": 48},
    "tf_efficientnet_lite0": {},
    "tf_mobilenetv3_small_100": {},
    "tnt_s_patch16_224": {"embed_dim": 192, "num_heads_outer": 3, "depth": 6},
    "tf_efficientnetv2_b0": {},
    "cait_xxs24_224": {"depth": 8},
    "levit_128s": {},
    "swin_tiny_patch4_window7_224": {"embed_dim": 48, "depths": (2, 2, 3, 2)},
    "tf_efficientnet_lite1": {},
    "tf_efficientnet_lite2": {},
    "maxvit_pico_rw_256": {},
    "nest_tiny_jx": {"class": "nest.Nest", "img_size": 224, "pad_type": "same", **_NEST},
    "twins_svt_small": {**_WIDTHS, "depths": (1, 1, 3, 1)},
    "twins_pcpvt_small": {"embed_dims": (32, 64, 160, 256), "depths": (1, 1, 3, 1)},
    "beit_base_patch16_224": _TOWER,
    "vit_small_patch14_reg4_dinov2": {**_TOWER, "img_size": 224},
    "vit_base_patch16_siglip_224": _TOWER,
    "pvt_v2_b0": {},
    "davit_tiny": {"embed_dims": (32, 64, 128, 256), "num_heads": (1, 2, 4, 8), "depths": (1, 1, 3, 1)},
    "gcvit_xxtiny": {},
    "eva02_tiny_patch14_224": {},
    "coatnet_pico_rw_224": {},
    "swinv2_tiny_window8_256": {"embed_dim": 48, "depths": (2, 2, 3, 2)},
    "maxvit_tiny_tf_224": {"embed_dim": (32, 64, 128, 256), "depths": (1, 1, 2, 1)},
    "efficientvit_b0": {},
    "efficientvit_m0": {},
    "mobilenetv4_hybrid_medium": {},
}

# By one exporter.
SCRIPT: dict[str, dict[str, Any]] = {
    "beitv2_base_patch16_224": _TOWER,
    "vit_small_patch14_dinov2": {**_TOWER, "img_size": 224},
    "vit_small_patch16_dinov3": _TOWER | {"img_size": 224},
    "vit_base_patch16_clip_224": _TOWER,
    "tiny_vit_5m_224": {},
    "focalnet_tiny_srf": {"class": "focalnet.FocalNet", "side": 224, "embed_dim": 48, "depths": (2, 2, 3, 2)},
    "pit_ti_224": {},
    "gmlp_ti16_224": {},
    "mixer_s16_224": {"class": "mlp_mixer.MlpMixer", "img_size": 224, "embed_dim": 192, "num_blocks": 6},
    "resmlp_12_224": {},
    "nf_regnet_b0": {},
    "test_nfnet": {},
    "hrnet_w18_small": {},
    "ghostnet_100": {},
    "ghostnetv2_100": {},
    "mixnet_s": {},
    "tf_mixnet_s": {},
    "repvgg_a0": {},
    "fastvit_t8": {},
    "mobilenetv4_conv_small": {},
    "convmixer_768_32": {"class": "convmixer.ConvMixer", "side": 224, "dim": 128, "depth": 8, "kernel_size": 7},
    "rexnet_100": {},
    "repvit_m0_9": {},
    "starnet_s050": {},
    "inception_next_atto": {},
    "edgenext_xx_small": {},
    "poolformer_s12": {},
    "poolformerv2_s12": {},
    "crossvit_tiny_240": {},
    "convit_tiny": {},
    "visformer_tiny": {},
    "selecsls42b": {},
    "ese_vovnet19b_slim_dw": {},
    "dla46_c": {},
    "res2net50_48w_2s": {"layers": (1, 1, 2, 1)},
    "resnest14d": {},
    "skresnet18": {},
    "tresnet_m": {"width_factor": 0.5},
    "cs3darknet_focus_s": {},
    "cspnext_tiny": {},
    "densenetblur121d": {"block_config": (3, 6, 12, 8)},
    "mobileone_s0": {},
    "tinynet_e": {},
    "lcnet_050": {},
    "hardcorenas_a": {},
    "regnetx_002": {},
    "regnetz_005": {},
    "efficientformer_l1": {},
    "efficientformerv2_s0": {},
    "vitamin_small_224": {},
    "shvit_s1": {},
    "mambaout_femto": {},
    "levit_conv_128s": {},
    "botnet26t_256": {},
    "lambda_resnet26t": {},
    "coat_tiny": {},
    "coat_lite_tiny": {},
    "mvitv2_tiny": {},
    "samvit_base_patch16_224": {**_TOWER, "img_size": 224},
    "sam2_hiera_tiny": {"embed_dim": 48},
    "sequencer2d_s": {"embed_dims": (48, 96, 96, 96), "layers": (1, 1, 2, 1)},
    "swiftformer_xs": {},
    "vit_relpos_small_patch16_224": {"depth": 6, "embed_dim": 192, "num_heads": 3},
    "vit_tiny_r_s16_p8_224": {},
    "dpn48b": {},
    "deit_tiny_distilled_patch16_224": {"depth": 6},
    "deit3_small_patch16_224": _TOWER,
    "resnetv2_50x1_bit": {},
    "fbnetv3_b": {},
    "gernet_s": {},
    "hgnetv2_b0": {},
    "fasternet_t0": {},
    "efficientvim_m1": {},
    "iformer_t": {},
    "lowformer_b0": {},
    "rdnet_tiny": {},
    "repghostnet_050": {},
    "flexivit_small": {"depth": 6, "embed_dim": 192, "num_heads": 3},
    "swinv2_cr_tiny_224": {"embed_dim": 48, "depths": (2, 2, 3, 2)},
    "gmixer_12_224": {},
    "ghostnetv3_100": {},
    "legacy_xception": {"side": 160},
    "inception_v4": {"side": 160},
    "nasnetalarge": {"side": 160},
    "pnasnet5large": {"side": 160},
}

# By the newer exporter alone: one is there by the other already, and one has an operator that is newer than opset 17.
DYNAMO: dict[str, dict[str, Any]] = {
    "mobilevit_xxs": {},
    "volo_d1_224": {"class": "volo.VOLO", "img_size": 224, **_VOLO},
}
# Their attention is one that an exporter has no operator for: timm writes it out.
UNFUSED = frozenset(
    {
        "beit_base_patch16_224",
        "hiera_tiny_224",
        "nest_tiny_jx",
        "twins_svt_small",
        "maxvit_pico_rw_256",
        "maxvit_tiny_tf_224",
        "eva02_tiny_patch14_224",
        "vit_small_patch16_dinov3",
    }
)


def called(name: str, changes: dict[str, Any]) -> str:
    """What a model of the zoo is called, without its exporter."""
    narrow = "-narrow" if set(changes) - {"img_size", "side"} else ""
    return name.replace("_", "-") + narrow


def make_network(name: str, changes: dict[str, Any], classes: int) -> tuple[Any, int]:
    """The network, and the side of its input.

    Parameters
    ----------
    name : str
        As timm knows it.
    changes : dict
        Arguments of timm's function, or of ``class``, a module and class of timm, where the function takes none;
        ``side`` is for networks that take any.
    classes : int
        How many.

    Returns
    -------
    (torch.nn.Module, int)
        Ready to be evaluated; rows and columns of its input.
    """
    torch, timm = importlib.import_module("torch"), importlib.import_module("timm")
    timm.layers.set_fused_attn(name not in UNFUSED)
    changes = dict(changes)
    side = changes.pop("side", None) or changes.get("img_size")
    if "class" in changes:
        module, _, kind = changes.pop("class").partition(".")
        make = getattr(importlib.import_module(f"timm.models.{module}"), kind)
        net = make(num_classes=classes, **changes).eval()
    else:
        net = timm.create_model(name, pretrained=False, num_classes=classes, **changes).eval()
    side = side or net.pretrained_cfg["input_size"][-1]
    with torch.no_grad():
        _awaken(torch, net)
        _measure(torch, net, side)
    return net, side


def _awaken(torch: Any, net: Any) -> None:
    """What starts at nought, or next to it, is made to matter; kernels weigh their middle most, as trained ones do."""
    torch_networks.enliven(torch, net)
    for name, value in net.named_parameters():
        if value.dim() == 0 and not value:
            value.fill_(0.5)
        elif value.dim() > 1 and value.numel() > 1 and value.std() < 1e-3:
            value.normal_(std=value[0].numel() ** -0.5)
        # What mixes all places by weights of its own: random ones would leave evidence everywhere alike. So would gates
        # made of the mean over all places (squeeze and excitation), which a patch opens and shuts everywhere.
        if name.endswith(("mlp_tokens.fc2.weight", "gate.proj.weight", "se.fc2.weight")):
            value *= 0.2
    for layer in net.modules():
        if isinstance(layer, torch.nn.Conv2d) and all(
            size > step for size, step in zip(layer.kernel_size, layer.stride, strict=True)
        ):
            _weigh_middle(torch, layer.weight)


def _weigh_middle(torch: Any, kernel: Any) -> None:
    """Random kernels see as far at the rim as in the middle, and their cells the whole picture alike."""
    rows, cols = (torch.exp(-0.5 * (torch.linspace(-3, 3, size + 2)[1:-1]) ** 2) for size in kernel.shape[2:])
    norm = kernel.norm()
    kernel *= rows[:, None] * cols
    kernel *= norm / kernel.norm()


def _measure(torch: Any, net: Any, side: int) -> None:
    """Statistics of BatchNorm, and the last layer's bias and scale, are measured on noise of several contrasts.

    Some classes are made to stand for texture: random ones would hardly notice any picture more than another.
    """
    contrast = torch.linspace(0.2, 1.4, _PICTURES).view(-1, 1, 1, 1)
    x = torch.from_numpy(torch_networks.pictures(_PICTURES, side)) * contrast
    norms = [module for module in net.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    net(x)
    net.eval()
    heads = net.get_classifier()
    heads = heads if isinstance(heads, tuple) else (heads,)
    layers = [layer for head in heads for layer in head.modules()]
    last = [layer for layer in layers if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d)]
    for layer in last:
        layer.weight.normal_(std=layer.weight[0].numel() ** -0.5)
        if layer.bias is not None:
            layer.bias.zero_()
    logits = net(x)
    spread = (logits - logits.mean(0)).std()
    if not spread > 1e-4 * logits.std():
        raise ValueError(f"the scores do not depend on the picture: {float(spread):.1e} of {float(logits.std()):.1e}")
    for layer in last:
        layer.weight *= _SPREAD / spread
    _fit_texture(torch, net, last, _patches(torch, side))
    mean = net(x).mean(0)
    for layer in last:
        if layer.bias is not None:
            layer.bias -= mean


def _patches(torch: Any, side: int) -> Any:
    """Even grey, and the same with a patch of noise at nine places."""
    width = side // 5
    x = torch.zeros(10, 3, side, side)
    noise = torch.from_numpy(torch_networks.pictures(9, width, seed=2017))
    for number in range(9):
        row, col = (each * (side - width) // 2 for each in divmod(number, 3))
        x[number + 1, :, row : row + width, col : col + width] = noise[number]
    return x


def _fit_texture(torch: Any, net: Any, last: list[Any], x: Any) -> None:
    """The first classes' weights lie along what patches of texture do to the features, each with noise of its own."""
    seen = {}
    hooks = [layer.register_forward_pre_hook(lambda own, given: seen.update({own: given[0]})) for layer in last]
    net(x)
    for hook in hooks:
        hook.remove()
    for layer in last:
        features = seen[layer].flatten(1)
        if features.shape[1] != layer.weight[0].numel():
            continue  # a map of scores: the mean over its cells comes later
        along = (features[1:] - features[0]).mean(0)
        along = along * (_TEXTURE / (along @ along)).clamp(max=1e6)
        rows = layer.weight[:_TEXTURED].flatten(1)
        rows = along + 0.3 * along.norm() * torch.randn_like(rows) * rows.shape[1] ** -0.5
        layer.weight[:_TEXTURED] = rows.view_as(layer.weight[:_TEXTURED])
