"""Networks of torchvision with seeded weights, exported: for `check_gradients.py`, `check_peers.py` and the zoo.

PyTorch is imported when one is built.
"""

import importlib
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from onnx_evidence.types import AnyArray


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
    Network("vgg16", dynamo=False, opset=17, batch=4),
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
        enliven(torch, net)
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


def enliven(torch: Any, net: Any) -> None:
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


def session(model: onnx.ModelProto) -> ort.InferenceSession:
    """An ONNX Runtime session on the CPU."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
