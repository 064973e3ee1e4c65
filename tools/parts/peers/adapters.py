"""One function per peer, which makes a mapper of a model's file; a new peer is a function and a row of `PEERS`.

Packages are imported when their mapper is made: hardly any environment has two of them.
"""

import importlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from onnx_evidence.types import AnyArray
from parts.peers.measuring import Mapper, Peer, Picture, PlainPass, Tally

# What logits of another runtime may differ by, as a share of the largest.
_SAME = 1e-4


def _import(name: str) -> Any:
    return importlib.import_module(name)


def _own(model: Path, tally: Tally, sample: Picture, **settings: Any) -> Mapper:
    """Our own, from the photograph: reading it and making the input of it are in the time."""
    package = _import("onnx_evidence")
    explainer = package.Explainer(package.DeployedModel(model, device="cpu"), **settings)
    return lambda picture: np.asarray(explainer.explain(picture.photograph, target=picture.target).values)


def _probabilities(model: Path, tally: Tally) -> Callable[[AnyArray], AnyArray]:
    """The file by ONNX Runtime as it is by default, then softmax; counts pictures."""
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(batch: AnyArray) -> AnyArray:
        tally.went(len(batch))
        return _softmax(np.asarray(session.run(None, {name: np.asarray(batch, np.float32)})[0]))

    return run


def _softmax(logits: AnyArray) -> AnyArray:
    odds = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=1, keepdims=True))


def _dianna(model: Path, tally: Tally, sample: Picture) -> Mapper:
    """RISE of DIANNA: masks are drawn by numpy's old generator."""
    dianna, run = _import("dianna"), _probabilities(model, tally)

    def mapper(picture: Picture) -> AnyArray:
        axes = {0: "channels", 1: "height", 2: "width"}
        found = dianna.explain_image(run, picture.x, method="RISE", labels=[picture.target], axis_labels=axes)
        return np.asarray(found[0])

    return mapper


def _openvino(model: Path, tally: Tally, mode: str, method: str, **options: Any) -> Mapper:
    """Any method of OpenVINO XAI, on the file as OpenVINO reads it."""
    xai, common = _import("openvino_xai.explainer.explainer"), _import("openvino_xai.common.parameters")
    explainer = xai.Explainer(
        _import("openvino").Core().read_model(str(model)),
        task=common.Task.CLASSIFICATION,
        # What it is given is the input itself, as a batch of one.
        preprocess_fn=lambda x: x[None],
        postprocess_fn=partial(_counted_probabilities, tally),
        explain_mode=getattr(xai.ExplainMode, mode),
        explain_method=getattr(common.Method, method),
    )

    def mapper(picture: Picture) -> AnyArray:
        size = picture.x.shape[1:]
        blank = np.zeros((*size, 3), np.uint8)
        kept = {"original_input_image": blank, "output_size": size, "colormap": False}
        found = explainer(picture.x, targets=[picture.target], **kept, **options)
        return np.asarray(found.saliency_map[picture.target])

    return mapper


def _counted_probabilities(tally: Tally, outputs: Any) -> AnyArray:
    """Softmax of what OpenVINO gives of one picture."""
    tally.went(1)
    return _softmax(np.asarray(outputs[0]))


def _recipro_cam(model: Path, tally: Tally, sample: Picture) -> Mapper:
    """Its graph holds the method: it is run once."""
    mapper = _openvino(model, tally, "WHITEBOX", "RECIPROCAM")

    def counted(picture: Picture) -> AnyArray:
        tally.went(1)
        return mapper(picture)

    return counted


def _openvino_rise(model: Path, tally: Tally, sample: Picture) -> Mapper:
    preset = _import("openvino_xai.methods.black_box.base").Preset.SPEED
    return _openvino(model, tally, "BLACKBOX", "RISE", preset=preset)


def _torch_copy(model: Path, tally: Tally, sample: Picture) -> Any:
    """The file as a network of PyTorch, by onnx2torch, if its logits are the file's; counts pictures and gradients."""
    torch, net = _import("torch"), _import("onnx2torch").convert(str(model)).eval()
    truth = PlainPass(model).logits(sample.x[None])
    with torch.no_grad():
        miss = float(np.abs(net(torch.from_numpy(sample.x[None])).numpy() - truth).max() / np.abs(truth).max())
    if miss > _SAME:
        raise ValueError(f"the torch copy's logits differ from ONNX Runtime's by {miss:.1e} of the largest")
    tally.notes["torch copy"] = f"logits differ from ONNX Runtime's by {miss:.1e} of the largest"

    def count(module: Any, given: Any, logits: Any) -> None:
        tally.went(len(logits))
        if logits.requires_grad:
            logits.register_hook(lambda gradient: tally.came(len(gradient)))

    net.register_forward_hook(count)
    return net


def _captum(model: Path, tally: Tally, sample: Picture, method: str, **options: Any) -> Mapper:
    """A method of captum at the input, summed over colours."""
    torch, net = _import("torch"), _torch_copy(model, tally, sample)
    attribution = getattr(_import("captum.attr"), method)(net)

    def mapper(picture: Picture) -> AnyArray:
        x = torch.from_numpy(picture.x[None])
        found = attribution.attribute(x, target=picture.target, **options)
        return np.asarray(found[0].sum(dim=0).detach().numpy())

    return mapper


def _grad_cam(model: Path, tally: Tally, sample: Picture, method: str) -> Mapper:
    """A method of grad-cam at what is pooled."""
    torch, net, peers = _import("torch"), _torch_copy(model, tally, sample), _import("pytorch_grad_cam")
    targets = _import("pytorch_grad_cam.utils.model_targets")
    cam = getattr(peers, method)(model=net, target_layers=[_pooled(net)])

    def mapper(picture: Picture) -> AnyArray:
        wanted = [targets.ClassifierOutputTarget(picture.target)]
        return np.asarray(cam(input_tensor=torch.from_numpy(picture.x[None]), targets=wanted)[0])

    return mapper


def _pooled(net: Any) -> Any:
    """The module whose output is pooled over all cells, in a network that onnx2torch made."""
    for node in reversed(list(net.graph.nodes)):
        if node.op == "call_module" and "GlobalAveragePool" in type(net.get_submodule(node.target)).__name__:
            return net.get_submodule(node.args[0].target)
    raise ValueError("the network pools nothing over all cells")


def _rex(model: Path, tally: Tally, sample: Picture) -> Mapper:
    """ReX's responsibility map; the minimal explanation that it can draw from it is left out."""
    torch, rex = _import("torch"), _import("rex_xai.explanation.rex")
    args = _import("rex_xai.input.config").CausalArgs()
    args.model, args.gpu, args.progress_bar = str(model), False, False
    predict, shape = _import("rex_xai.input.onnx").get_prediction_function(args)
    data_of = _import("rex_xai.input.input_data").Data

    def counted(pictures: Any, *given: Any, **named: Any) -> Any:
        tally.went(len(pictures))
        return predict(pictures, *given, **named)

    def mapper(picture: Picture) -> AnyArray:
        data = data_of(picture.x, shape, "cpu", mode="RGB")
        data.data = torch.from_numpy(picture.x[None])
        data.set_mask_value(args.mask_value)
        data.target = rex.predict_target(data, args, counted)
        maps, _ = rex.calculate_responsibility(data, args, counted)
        return np.asarray(maps.get(picture.target))

    return mapper


_TORCH = ("onnx2torch", "torch")
_OPENVINO = ("openvino-xai", "openvino")
PEERS = {
    "fast": Peer(("onnx-evidence",), "`fast`", "", partial(_own, quality="fast")),
    "default": Peer(("onnx-evidence",), "`default`", "", partial(_own, quality="default")),
    "dianna-rise": Peer(
        ("dianna",),
        "RISE",
        "1,000 masks, its default, keeps as many as it finds best; probabilities",
        _dianna,
        warm=False,
    ),
    "openvino-recipro-cam": Peer(
        _OPENVINO, "Recipro-CAM", "white box: one run of a graph with the method in it", _recipro_cam
    ),
    "openvino-rise": Peer(_OPENVINO, "RISE", "black box, preset speed; probabilities", _openvino_rise, warm=False),
    "captum-ig": Peer(
        ("captum", *_TORCH),
        "integrated gradients",
        "50 steps, from zeros, its defaults",
        partial(_captum, method="IntegratedGradients"),
    ),
    "captum-occlusion": Peer(
        ("captum", *_TORCH),
        "occlusion",
        "windows 15 x 15, stride 8, zeros, as in its tutorial",
        partial(_captum, method="Occlusion", sliding_window_shapes=(3, 15, 15), strides=(3, 8, 8), baselines=0),
        warm=False,
    ),
    "grad-cam": Peer(("grad-cam", *_TORCH), "Grad-CAM", "what is pooled", partial(_grad_cam, method="GradCAM")),
    "grad-cam++": Peer(
        ("grad-cam", *_TORCH), "Grad-CAM++", "what is pooled", partial(_grad_cam, method="GradCAMPlusPlus")
    ),
    "rex": Peer(("rex-xai",), "responsibility", "20 iterations, its default", _rex, warm=False),
}
