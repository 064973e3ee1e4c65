"""Models of the zoo that PyTorch exports, with seeded random weights: both exporters, all kinds of ends and fronts.

Run by ``check_real_models.py build`` in a throwaway environment: pip install torch torchvision onnxscript timm, and
this project. Networks of torchvision are made by `torch_networks.build`; BatchNorm statistics are measured there.
"""

import importlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from parts import torch_networks
from parts.zoo import timm_models
from parts.zoo.spec import Spec, run_as_program

_CLASSES = 1000


def _spec(name: str, network: str, exporter: str, opset: int, **options: Any) -> Spec:
    words = {"script": "torch.onnx (TorchScript)", "dynamo": "torch.onnx (dynamo)"}[exporter]
    known = {key: options.pop(key) for key in ("preset", "refused", "output", "layer") if key in options}
    options = {"network": network, "exporter": exporter, "opset": opset, **options}
    return Spec("torch", name, words, **{"preset": "torchvision", **known}, options=options)


def _timm(exporter: str, opset: int, models: dict[str, dict[str, Any]]) -> Iterator[Spec]:
    """Families of timm with a free batch; the side of the input is the model's own."""
    for name, changes in models.items():
        file = f"{timm_models.called(name, changes)}-{exporter}{opset}"
        yield _spec(file, f"family:{name}", exporter, opset, preset="timm", changes=changes)


# What most people do: no dynamic axes, a batch of one.
_FIXED = {"free": ()}
# side: of the input; free: axes that are left open; end: what the graph ends with; front: what it begins with.
SPECS = (
    _spec("vgg16-bn-script11", "vgg16_bn", "script", 11, **_FIXED),
    _spec("resnet18-script11-softmax", "resnet18", "script", 11, end="softmax"),
    _spec("resnet50-script13", "resnet50", "script", 13, **_FIXED),
    _spec("densenet121-script17", "densenet121", "script", 17),
    _spec("mobilenet-v2-script11", "mobilenet_v2", "script", 11, **_FIXED),
    _spec("mobilenet-v3-small-script13-sigmoid", "mobilenet_v3_small", "script", 13, end="sigmoid", classes=20),
    _spec("efficientnet-b0-script17", "efficientnet_b0", "script", 17, **_FIXED),
    _spec("shufflenet-v2-script13", "shufflenet_v2_x1_0", "script", 13, **_FIXED),
    _spec("squeezenet11-script11-map", "squeezenet1_1", "script", 11, end="map"),
    _spec("inception-v3-script11", "inception_v3", "script", 11, side=299, aux=True),
    _spec("googlenet-script13", "googlenet", "script", 13, aux=True, **_FIXED),
    _spec("regnet-y-400mf-script17-open-size", "regnet_y_400mf", "script", 17, free=("batch", "size")),
    _spec("mnasnet-script13", "mnasnet1_0", "script", 13),
    _spec("convnext-tiny-script17", "convnext_tiny", "script", 17, **_FIXED),
    _spec("vit-b-16-script17", "vit_b_16", "script", 17, **_FIXED),
    _spec("swin-t-script17", "swin_t", "script", 17, **_FIXED),
    _spec("swin-v2-t-script17", "swin_v2_t", "script", 17),
    _spec("maxvit-t-script17", "maxvit_t", "script", 17, **_FIXED),
    _spec("resnet18-dynamo18", "resnet18", "dynamo", 18),
    _spec("resnet50-dynamo18-log-softmax", "resnet50", "dynamo", 18, end="log-softmax", **_FIXED),
    _spec("mobilenet-v2-dynamo20", "mobilenet_v2", "dynamo", 20),
    _spec("mobilenet-v3-small-dynamo18", "mobilenet_v3_small", "dynamo", 18, **_FIXED),
    _spec("efficientnet-b0-dynamo18", "efficientnet_b0", "dynamo", 18),
    _spec("densenet121-dynamo18", "densenet121", "dynamo", 18, **_FIXED),
    _spec("regnet-y-400mf-dynamo18-open-size", "regnet_y_400mf", "dynamo", 18, free=("batch", "size")),
    _spec("squeezenet11-dynamo18-map", "squeezenet1_1", "dynamo", 18, end="map", **_FIXED),
    _spec("shufflenet-v2-dynamo18", "shufflenet_v2_x1_0", "dynamo", 18),
    _spec("convnext-tiny-dynamo18", "convnext_tiny", "dynamo", 18),
    _spec("vit-b-16-dynamo18-external", "vit_b_16", "dynamo", 18, external=True),
    _spec("swin-t-dynamo18", "swin_t", "dynamo", 18, **_FIXED),
    _spec("maxvit-t-dynamo18", "maxvit_t", "dynamo", 18, **_FIXED),
    _spec("resnet18-script17-uint8-nhwc", "resnet18", "script", 17, front="uint8", preset="none", side=256),
    _spec("mobilenet-v2-dynamo18-normalised-inside", "mobilenet_v2", "dynamo", 18, front="float", preset="none"),
    _spec("resnet18-script13-binary", "resnet18", "script", 13, end="sigmoid", classes=1, **_FIXED),
    _spec(
        "resnet18-script17-one-channel", "resnet18", "script", 17, channels=1, classes=14, end="sigmoid", preset="unit"
    ),
    _spec("resnet18-script17-float16", "resnet18", "script", 17, half=True),
    _spec("resnet18-script17-two-outputs", "resnet18", "script", 17, end="two", output="logits"),
    _spec("deit-tiny-script17", "timm:deit_tiny_patch16_224", "script", 17, preset="timm", **_FIXED),
    _spec("deit-tiny-dynamo18", "timm:deit_tiny_patch16_224", "dynamo", 18, preset="timm"),
    _spec("vit-reg4-dynamo18", "timm:vit_little_patch16_reg4_gap_256", "dynamo", 18, preset="timm", side=256),
    _spec("convnextv2-atto-script17", "timm:convnextv2_atto", "script", 17, preset="timm", **_FIXED),
    _spec("mobilevit-xxs-script17", "timm:mobilevit_xxs", "script", 17, preset="timm", side=256),
    _spec("resnet18-script13-regression", "resnet18", "script", 13, classes=1, refused=True),
    _spec("lraspp-script17", "segmentation:lraspp_mobilenet_v3_large", "script", 17, refused=True),
    _spec("autoencoder-script17", "own:autoencoder", "script", 17, preset="unit", refused=True),
    _spec("two-pictures-script17", "own:two_pictures", "script", 17, refused=True),
    _spec("text-lstm-script17", "own:text", "script", 17, refused=True),
    *_timm("script", 17, timm_models.BOTH),
    *_timm("dynamo", 18, timm_models.BOTH | timm_models.DYNAMO),
    *_timm("script", 17, timm_models.SCRIPT),
)


def make(spec: Spec, path: Path) -> None:
    """Build and export one network."""
    torch = importlib.import_module("torch")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    options = spec.options
    kind, _, name = options["network"].rpartition(":")
    if kind == "own":
        net, inputs = _own(torch, name)
    elif kind == "family":
        net, side = timm_models.make_network(name, options["changes"], _CLASSES)
        inputs = (_input(torch, {"side": side}),)
    else:
        net = _network(torch, kind, name, options)
        inputs = (_input(torch, options),)
    _export(torch, net.eval(), inputs, options, path)


def _network(torch: Any, kind: str, name: str, options: dict[str, Any]) -> Any:
    classes = options.get("classes", _CLASSES)
    if kind == "timm":
        # A trunk's weights as timm starts them; what starts at nought is made to matter.
        net = importlib.import_module("timm").create_model(name, pretrained=False, num_classes=classes)
        with torch.no_grad():
            torch_networks.enliven(torch, net)
            net.get_classifier().weight.normal_(std=0.1)
    elif kind == "segmentation":
        models = importlib.import_module("torchvision.models.segmentation")
        return _FirstOut(torch, getattr(models, name)(weights=None, weights_backbone=None, num_classes=21))
    else:
        extra = {"aux_logits": False, "init_weights": False} if options.get("aux") else {}
        side = options.get("side", 224) if not options.get("front") else 224
        network = torch_networks.Network(name, dynamo=False, side=side, options={"num_classes": classes, **extra})
        net = torch_networks.build(network)
    if options.get("channels") == 1:
        with torch.no_grad():
            net.conv1.weight = torch.nn.Parameter(net.conv1.weight.sum(dim=1, keepdim=True))
            net.conv1.in_channels = 1
    net = _with_end(torch, net, options.get("end", "logits"))
    net = _with_front(torch, net, options.get("front"))
    return net.half() if options.get("half") else net


def _input(torch: Any, options: dict[str, Any]) -> Any:
    side, channels = options.get("side", 224), options.get("channels", 3)
    if options.get("front") == "uint8":
        return torch.randint(0, 256, (2, side, side, 3), dtype=torch.uint8)
    batch = 2 if "batch" in options.get("free", ("batch",)) else 1
    x = torch.randn(batch, channels, side, side)
    return x.half() if options.get("half") else x


def _FirstOut(torch: Any, net: Any) -> Any:  # noqa: N802 - makes an object of a class that needs torch
    class Module(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Any) -> Any:
            return self.net(x)["out"]

    return Module()


def _with_end(torch: Any, net: Any, end: str) -> Any:
    if end == "logits":
        return net
    if end == "map":
        # SqueezeNet's own forward flattens; most exports of Caffe and of MXNet do not: [N, K, 1, 1].
        return torch.nn.Sequential(net.features, net.classifier)

    class Module(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Any) -> Any:
            y = self.net(x)
            if end == "two":
                # An embedding beside the logits: which one holds class scores, only a person can say.
                return y, y[:, :128] * 0.5
            ends = {
                "softmax": lambda: y.softmax(1),
                "log-softmax": lambda: y.log_softmax(1),
                "sigmoid": lambda: y.sigmoid(),
            }
            return ends[end]()

    return Module()


def _with_front(torch: Any, net: Any, front: str | None) -> Any:
    if front is None:
        return net

    class Module(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = net
            self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
            self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))

        def forward(self, x: Any) -> Any:
            if front == "uint8":
                x = x.permute(0, 3, 1, 2).float()
                x = torch.nn.functional.interpolate(x, size=(224, 224), mode="bilinear", align_corners=False)
            return self.net((x / 255 - self.mean) / self.std)

    return Module()


def _own(torch: Any, name: str) -> tuple[Any, tuple[Any, ...]]:
    """Networks that are no image classifiers."""
    nn, x = torch.nn, torch.randn(2, 3, 64, 64)
    if name == "autoencoder":
        layers = [nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.ConvTranspose2d(16, 3, 4, 2, 1), nn.Sigmoid()]
        return nn.Sequential(*layers), (x,)
    if name == "text":

        class Text(nn.Module):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                super().__init__()
                self.words, self.lstm, self.out = nn.Embedding(1000, 32), nn.LSTM(32, 32), nn.Linear(32, 5)

            def forward(self, ids: Any) -> Any:
                return self.out(self.lstm(self.words(ids))[0][:, -1])

        return Text(), (torch.randint(0, 1000, (2, 12)),)

    class Two(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.out = nn.Conv2d(3, 8, 3), nn.Linear(8, 5)

        def forward(self, left: Any, right: Any) -> Any:
            return self.out((self.conv(left) - self.conv(right)).mean((2, 3)))

    return Two(), (x, torch.randn(2, 3, 64, 64))


def _export(torch: Any, net: Any, inputs: tuple[Any, ...], options: dict[str, Any], path: Path) -> None:
    free = options.get("free", ("batch",))
    names = ["input"] if len(inputs) == 1 else ["left", "right"]
    outputs = ["logits", "embedding"] if options.get("end") == "two" else ["logits"]
    axes: dict[int, str] = {0: "batch"} if "batch" in free else {}
    if "size" in free:
        axes |= {2: "height", 3: "width"}
    common = {"input_names": names, "output_names": outputs, "opset_version": options["opset"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if options["exporter"] == "script":
            dynamic = {name: axes for name in names} | {name: {0: "batch"} for name in outputs} if axes else None
            torch.onnx.export(net, inputs, path, dynamo=False, dynamic_axes=dynamic, **common)
        else:
            shapes = tuple({axis: torch.export.Dim.DYNAMIC for axis in axes} for _ in inputs) if axes else None
            external = bool(options.get("external"))
            torch.onnx.export(
                net, inputs, path, dynamo=True, dynamic_shapes=shapes, external_data=external, verbose=False, **common
            )


if __name__ == "__main__":
    run_as_program(SPECS, make)
