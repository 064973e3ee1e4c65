"""Models of the zoo made from the trained Lite0: quantised, in half precision, and written as other tools write.

All keep its preprocessing and class names where the file format lets them. Run by ``check_real_models.py build`` in
this project's own environment, with the paths of the model and of photographs as LITE0 and PICTURES.
"""

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, version_converter
from onnxruntime import InferenceSession
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers.float16 import convert_float_to_float16

from parts.zoo.spec import Spec, run_as_program

# Pictures that ranges are measured on: every third of the folder, at most so many.
_CALIBRATION = 32
_MEAN, _STD = 127.0, 128.0

Model = onnx.ModelProto


def _base() -> Model:
    return onnx.load(os.environ["LITE0"])


class _Pictures(CalibrationDataReader):  # type: ignore[misc]
    """Prepared photographs, one by one."""

    def __init__(self) -> None:
        from onnx_evidence import DeployedModel
        from onnx_evidence.pictures.photograph import list_images

        deployed = DeployedModel(os.environ["LITE0"])
        paths = list_images([Path(os.environ["PICTURES"])])[0::3][:_CALIBRATION]
        self._each: Iterator[Any] = ({"input": deployed.prepare(path)[1][None]} for path in paths)

    def get_next(self) -> Any:
        return next(self._each, None)


def _quantised(
    path: Path, *, layout: QuantFormat, per_channel: bool, activations: QuantType, weights: QuantType
) -> None:
    prepared = path.with_suffix(".prepared")
    quant_pre_process(os.environ["LITE0"], prepared, skip_symbolic_shape=True)
    quantize_static(
        prepared,
        path,
        _Pictures(),
        quant_format=layout,
        per_channel=per_channel,
        activation_type=activations,
        weight_type=weights,
    )
    prepared.unlink()
    _keep_records(path)


def _dynamically(path: Path) -> None:
    quantize_dynamic(os.environ["LITE0"], path, weight_type=QuantType.QUInt8)
    _keep_records(path)


def _keep_records(path: Path) -> None:
    """The quantiser forgets what the file records."""
    model, base = onnx.load(path), _base()
    helper.set_model_props(model, {entry.key: entry.value for entry in base.metadata_props})
    onnx.save(model, path)


def _changed(change: Callable[[Model], Model | None], path: Path) -> None:
    # Not checked: ONNX Runtime's float16 converter puts a Cast after its reader, as files in the field have it.
    model = _base()
    onnx.save(change(model) or model, path)


def _end(model: Model, nodes: list[Any], outputs: list[tuple[str, int, list[Any]]]) -> None:
    """Append nodes and put other outputs in place of the logits."""
    model.graph.node.extend(nodes)
    del model.graph.output[:]
    model.graph.output.extend(helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in outputs)


def _constant(model: Model, name: str, value: Any) -> str:
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return name


def _softmax(model: Model) -> None:
    _end(model, [helper.make_node("Softmax", ["logits"], ["p"], axis=1)], [("p", TensorProto.FLOAT, ["N", 1000])])


def _decomposed_softmax(model: Model) -> None:
    axes = _constant(model, "one", np.array([1], np.int64))
    nodes = [
        helper.make_node("ReduceMax", ["logits"], ["most"], axes=[1], keepdims=1),
        helper.make_node("Sub", ["logits", "most"], ["less"]),
        helper.make_node("Exp", ["less"], ["powers"]),
        helper.make_node("ReduceSum", ["powers", axes], ["total"], keepdims=1),
        helper.make_node("Div", ["powers", "total"], ["p"]),
    ]
    _end(model, nodes, [("p", TensorProto.FLOAT, ["N", 1000])])


def _label_and_probabilities(model: Model) -> None:
    nodes = [
        helper.make_node("ArgMax", ["logits"], ["label"], axis=1, keepdims=0),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    _end(model, nodes, [("label", TensorProto.INT64, ["N"]), ("probabilities", TensorProto.FLOAT, ["N", 1000])])


def _clipped_probabilities(model: Model) -> None:
    low, high = _constant(model, "low", np.float32(1e-7)), _constant(model, "high", np.float32(1 - 1e-7))
    nodes = [
        helper.make_node("Softmax", ["logits"], ["raw"], axis=1),
        helper.make_node("Clip", ["raw", low, high], ["p"]),
    ]
    _end(model, nodes, [("p", TensorProto.FLOAT, ["N", 1000])])


def _several_outputs(model: Model) -> None:
    _end(model, [], [("logits", TensorProto.FLOAT, ["N", 1000]), ("flat", TensorProto.FLOAT, ["N", 1280])])


def _singleton_axes(model: Model) -> None:
    axes = _constant(model, "last", np.array([2, 3], np.int64))
    nodes = [helper.make_node("Unsqueeze", ["logits", axes], ["map"])]
    _end(model, nodes, [("map", TensorProto.FLOAT, ["N", 1000, 1, 1])])


def _constant_nodes(model: Model) -> None:
    nodes = [helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in model.graph.initializer]
    _prepend(model, nodes)
    del model.graph.initializer[:]


def _prepend(model: Model, nodes: list[Any]) -> None:
    rest = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *rest])


def _listed_initializers(model: Model) -> None:
    """As before IR version 4, in opset 7: Clip has its limits as attributes there."""
    for node in model.graph.node:
        if node.op_type == "Clip":
            del node.input[1:]
            node.attribute.extend([helper.make_attribute("min", 0.0), helper.make_attribute("max", 6.0)])
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in ("zero", "six")]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    for tensor in kept:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    model.ir_version = 3
    model.opset_import[0].version = 7


def _newest_opset(model: Model) -> Model:
    """The newest that the installed ONNX Runtime opens; `onnx` is often ahead of it."""
    for opset in range(onnx.defs.onnx_opset_version(), 17, -1):
        made: Model = version_converter.convert_version(model, opset)
        helper.set_model_props(made, {entry.key: entry.value for entry in model.metadata_props})
        made.ir_version = 10
        with contextlib.suppress(Exception):
            InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
            return made
    raise RuntimeError("no opset above 17 is opened")


def _functions(model: Model) -> None:
    """Every Clip with its Conv becomes a call of one of two functions, one inside the other."""
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    clip = helper.make_node("Clip", ["x", "low", "high"], ["y"])
    model.functions.append(helper.make_function("local", "Six", ["x", "low", "high"], ["y"], [clip], imports[:1]))
    call = helper.make_node("Six", ["x", "low", "high"], ["y"], domain="local")
    model.functions.append(helper.make_function("local", "Relu6", ["x", "low", "high"], ["y"], [call], imports))
    model.opset_import.append(imports[1])
    for node in model.graph.node:
        if node.op_type == "Clip":
            node.op_type, node.domain = "Relu6", "local"


def _conditions(model: Model) -> None:
    """A Clip behind a condition that is always true, as scripting leaves it."""
    clip = next(node for node in model.graph.node if node.op_type == "Clip")
    clip_output, source = clip.output[0], clip.input[0]
    value = [helper.make_tensor_value_info("branch", TensorProto.FLOAT, None)]
    then = helper.make_graph([helper.make_node("Clip", [source, "zero", "six"], ["branch"])], "then", [], value)
    other = helper.make_graph([helper.make_node("Neg", [source], ["branch"])], "else", [], value)
    _constant(model, "rank", np.array(4, np.int64))
    nodes = [
        helper.make_node("Shape", ["input"], ["shape"]),
        helper.make_node("Size", ["shape"], ["axes"]),
        helper.make_node("Equal", ["axes", "rank"], ["always"]),
        helper.make_node("If", ["always"], [clip_output], then_branch=then, else_branch=other),
    ]
    place = list(model.graph.node).index(clip)
    rest = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*rest[:place], *nodes, *rest[place + 1 :]])


def _nhwc_uint8(model: Model) -> None:
    """Channels last and grey levels in, normalised inside; nothing is recorded, since nothing is left to do."""
    mean, std = _constant(model, "mean", np.float32(_MEAN)), _constant(model, "std", np.float32(_STD))
    _rename_input(model, "normal")
    nodes = [
        helper.make_node("Cast", ["pixels"], ["levels"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["levels"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Sub", ["planes", mean], ["centred"]),
        helper.make_node("Div", ["centred", std], ["normal"]),
    ]
    _prepend(model, nodes)
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["N", 224, 224, 3]))
    _only_labels(model)


def _quantised_pixels(model: Model) -> None:
    """Grey levels in, DequantizeLinear first: what edge tools write."""
    scale, zero = _constant(model, "scale", np.float32(1 / _STD)), _constant(model, "zero_point", np.uint8(_MEAN))
    _rename_input(model, "normal")
    _prepend(model, [helper.make_node("DequantizeLinear", ["pixels", scale, zero], ["normal"])])
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["N", 3, 224, 224]))
    _only_labels(model)


def _only_labels(model: Model) -> None:
    labels = {entry.key: entry.value for entry in model.metadata_props if entry.key.endswith("labels")}
    del model.metadata_props[:]
    helper.set_model_props(model, labels)


def _rename_input(model: Model, name: str) -> None:
    for node in model.graph.node:
        node.input[:] = [name if each == "input" else each for each in node.input]


def _fixed_batch(model: Model) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 1
    flatten = next(node for node in model.graph.node if node.op_type == "Flatten")
    _constant(model, "target", np.array([1, 1280], np.int64))
    flatten.op_type = "Reshape"
    del flatten.attribute[:]
    flatten.input.append("target")


def _bfloat16_weights(model: Model) -> None:
    """Weights stored in half the bytes, widened by Cast before they are used."""
    nodes = []
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) > 1:
            value, name = numpy_helper.to_array(tensor), tensor.name
            bits = (value.view(np.uint32) + 0x8000 >> 16).astype(np.uint16)
            tensor.CopyFrom(helper.make_tensor(f"{name}.half", TensorProto.BFLOAT16, value.shape, bits.tobytes(), True))
            nodes.append(helper.make_node("Cast", [tensor.name], [name], to=TensorProto.FLOAT))
    _prepend(model, nodes)


def _half(model: Model, *, keep_io: bool, blocked: list[str] | None = None) -> Model:
    """In float16, but for operators that stay in float32 between casts."""
    made: Model = convert_float_to_float16(model, keep_io_types=keep_io, op_block_list=blocked)
    helper.set_model_props(made, {entry.key: entry.value for entry in _base().metadata_props})
    return made


def _double(model: Model) -> None:
    """Everything in float64: no kernels for convolution in ONNX Runtime's CPU provider, a fair refusal."""
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.elem_type = TensorProto.DOUBLE


def _custom_operator(model: Model) -> None:
    node = next(node for node in model.graph.node if node.op_type == "Clip")
    node.op_type, node.domain = "SecretActivation", "com.example"
    model.opset_import.append(helper.make_opsetid("com.example", 1))


def _external(path: Path) -> None:
    onnx.save(_base(), path, save_as_external_data=True, location=f"{path.stem}.data", size_threshold=1024)


def _external_outside(path: Path) -> None:
    """Its weights are said to lie above the model's folder: to be refused, whether they are there or not."""
    model = _base()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../../etc/hostname")
    path.write_bytes(model.SerializeToString())


def _hugging_face(path: Path) -> None:
    """A folder as Optimum writes it: settings and class names lie beside the model."""
    labels = _bare(path)
    preprocessor = {
        "do_resize": True,
        "size": {"shortest_edge": 256},
        "resample": 2,
        "do_center_crop": True,
        "crop_size": {"height": 224, "width": 224},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [_MEAN / 255] * 3,
        "image_std": [_STD / 255] * 3,
        "image_processor_type": "MobileNetV2ImageProcessor",
    }
    config = {"id2label": {str(number): label for number, label in enumerate(labels)}, "model_type": "efficientnet"}
    _beside(path, "preprocessor_config.json", preprocessor)
    _beside(path, "config.json", config)


def _timm(path: Path) -> None:
    """A folder as timm publishes it."""
    labels = _bare(path)
    settings = {
        "input_size": [3, 224, 224],
        "interpolation": "bilinear",
        "crop_pct": 0.875,
        "crop_mode": "center",
        "mean": [_MEAN / 255] * 3,
        "std": [_STD / 255] * 3,
        "num_classes": 1000,
    }
    _beside(path, "config.json", {"architecture": "x", "pretrained_cfg": settings, "label_names": labels})


def _bare(path: Path) -> list[str]:
    """Write the model without its records, and give the class names."""
    model = _base()
    records = {entry.key: entry.value for entry in model.metadata_props}
    del model.metadata_props[:]
    onnx.save(model, path)
    labels: list[str] = json.loads(records["onnx_evidence.labels"])
    return labels


def _beside(path: Path, name: str, content: dict[str, Any]) -> None:
    (path.parent / name).write_text(json.dumps(content, indent=1), encoding="utf-8")


def _truncated(path: Path) -> None:
    path.write_bytes(Path(os.environ["LITE0"]).read_bytes()[:1_000_000])


def _static(
    layout: QuantFormat,
    per_channel: bool,
    activations: QuantType = QuantType.QUInt8,
    weights: QuantType = QuantType.QInt8,
) -> Callable[..., None]:
    return lambda path: _quantised(
        path, layout=layout, per_channel=per_channel, activations=activations, weights=weights
    )


def _by(change: Callable[[Model], Model | None]) -> Callable[[Path], None]:
    return lambda path: _changed(change, path)


_QUANTISER, _CONVERTER, _HAND = "onnxruntime.quantization", "onnxruntime float16 converter", "by hand"
# Name, what wrote it, how, and what is to be said of it.
_TABLE: tuple[tuple[str, str, Callable[[Path], None], dict[str, Any]], ...] = (
    ("as-it-is", "tools/build_models.py", _by(lambda model: None), {}),
    ("qdq-per-tensor", _QUANTISER, _static(QuantFormat.QDQ, False), {}),
    ("qdq-per-channel", _QUANTISER, _static(QuantFormat.QDQ, True), {}),
    ("qdq-per-channel-int8", _QUANTISER, _static(QuantFormat.QDQ, True, QuantType.QInt8), {}),
    ("qdq-uint8-weights", _QUANTISER, _static(QuantFormat.QDQ, False, weights=QuantType.QUInt8), {}),
    ("qoperator", _QUANTISER, _static(QuantFormat.QOperator, False), {}),
    ("qoperator-per-channel", _QUANTISER, _static(QuantFormat.QOperator, True), {}),
    ("dynamic-int8", _QUANTISER, _dynamically, {}),
    ("float16", _CONVERTER, _by(lambda model: _half(model, keep_io=False)), {}),
    ("float16-inside", _CONVERTER, _by(lambda model: _half(model, keep_io=True)), {}),
    ("float16-mixed", _CONVERTER, _by(lambda model: _half(model, keep_io=True, blocked=["Clip", "Gemm"])), {}),
    ("bfloat16-weights", _HAND, _by(_bfloat16_weights), {}),
    ("softmax", _HAND, _by(_softmax), {}),
    ("decomposed-softmax", _HAND, _by(_decomposed_softmax), {}),
    ("label-and-probabilities", _HAND, _by(_label_and_probabilities), {}),
    ("clipped-probabilities", _HAND, _by(_clipped_probabilities), {}),
    ("several-outputs", _HAND, _by(_several_outputs), {"output": "logits"}),
    ("singleton-axes", _HAND, _by(_singleton_axes), {}),
    ("constant-nodes", _HAND, _by(_constant_nodes), {}),
    ("listed-initializers-opset7", _HAND, _by(_listed_initializers), {}),
    ("newest-opset", _HAND, _by(_newest_opset), {}),
    ("functions", _HAND, _by(_functions), {}),
    ("conditions", _HAND, _by(_conditions), {}),
    ("nhwc-uint8", _HAND, _by(_nhwc_uint8), {"preset": "none"}),
    ("quantised-pixels", _HAND, _by(_quantised_pixels), {"preset": "none"}),
    ("fixed-batch", _HAND, _by(_fixed_batch), {}),
    ("external-data", _HAND, _external, {}),
    ("external-data-outside", _HAND, _external_outside, {"refused": True}),
    ("custom-operator", _HAND, _by(_custom_operator), {"refused": True}),
    ("double", _HAND, _by(_double), {"refused": True}),
    ("truncated", _HAND, _truncated, {"refused": True}),
)
_MAKERS = {name: maker for name, _, maker, _ in _TABLE} | {"hugging-face": _hugging_face, "timm": _timm}
SPECS = (
    *(
        Spec("lite0", f"lite0-{name}", exporter, pretrained=not known.get("refused", False), **known)
        for name, exporter, _, known in _TABLE
    ),
    Spec("hugging-face", "model", "as Optimum writes a folder", pretrained=True),
    Spec("timm", "model", "as timm writes a folder", pretrained=True),
)


def make(spec: Spec, path: Path) -> None:
    """Build one variant."""
    _MAKERS[spec.name.removeprefix("lite0-") if spec.source == "lite0" else spec.source](path)


if __name__ == "__main__":
    run_as_program(SPECS, make)
