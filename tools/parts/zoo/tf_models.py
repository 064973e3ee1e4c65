"""Models of the zoo that TensorFlow exports by tf2onnx, with seeded random weights: channels last, softmax inside.

Run by ``check_real_models.py build`` in a throwaway environment: pip install tensorflow-cpu tf2onnx skl2onnx.
"""

import importlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from parts.zoo.spec import Spec, run_as_program

# What these Keras networks want before them: 'tf' is -1..1, 'caffe' BGR less the mean, 'none' grey levels as they are.
_PRESETS = {"MobileNetV2": "tf", "ResNet50": "caffe", "DenseNet121": "torchvision", "Xception": "tf"}
# Pictures on which networks are measured, and the standard deviation of a class's logits between them.
_PICTURES, _SPREAD = 8, 2.0


def _spec(name: str, network: str, opset: int, **options: Any) -> Spec:
    known = {key: options.pop(key) for key in ("refused", "preset") if key in options}
    preset = known.pop("preset", _PRESETS.get(network, "none"))
    return Spec("tf", name, "tf2onnx", preset, **known, options={"network": network, "opset": opset, **options})


SPECS = (
    _spec("mobilenet-v2-nhwc-softmax", "MobileNetV2", 13, end="softmax"),
    _spec("resnet50-nhwc-logits", "ResNet50", 15, batch=1),
    _spec("efficientnet-b0-nhwc-softmax", "EfficientNetB0", 17, end="softmax"),
    _spec("densenet121-nhwc-softmax-opset9", "DenseNet121", 9, end="softmax"),
    _spec("xception-nchw-by-inputs-as-nchw", "Xception", 15, end="softmax", nchw=True, side=299),
    _spec("mobilenet-v2-nhwc-binary", "MobileNetV2", 15, end="sigmoid", classes=1),
    _spec("mobilenet-v3-small-nhwc-uint8", "MobileNetV3Small", 17, end="softmax", front="uint8"),
    # tf2onnx 1.17 leaves calls of TensorFlow in this graph (Keras compiles its grouped convolutions): nothing runs it.
    _spec("convnext-tiny-nhwc-half-converted", "ConvNeXtTiny", 17, batch=1, refused=True),
    Spec("tf", "sklearn-digits", "skl2onnx", refused=True, options={"network": "sklearn"}),
)


def make(spec: Spec, path: Path) -> None:
    """Build and export one network."""
    if spec.options["network"] == "sklearn":
        _sklearn(path)
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    tf = importlib.import_module("tensorflow")
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    options = spec.options
    net = _network(tf, spec.preset, options)
    # By way of a SavedModel: what a function captures would become inputs of the graph.
    with tempfile.TemporaryDirectory() as folder:
        net.export(folder, verbose=False)
        command = [sys.executable, "-m", "tf2onnx.convert", "--saved-model", folder, "--output", str(path)]
        command += ["--opset", str(options["opset"])]
        command += ["--inputs-as-nchw", "input"] if options.get("nchw") else []
        subprocess.run(command, check=True, capture_output=True)


def _network(tf: Any, preset: str | None, options: dict[str, Any]) -> Any:
    """The network, its BatchNorm statistics measured on noise, its logits as far apart as pictures are."""
    tf.keras.utils.set_random_seed(0)
    side, classes = options.get("side", 224), options.get("classes", 1000)
    trunk = getattr(tf.keras.applications, options["network"])(
        weights=None, include_top=False, pooling="avg", input_shape=(side, side, 3)
    )
    pictures = _pictures(tf, preset, side)
    for layer in trunk.layers:
        if isinstance(layer, tf.keras.layers.BatchNormalization):
            layer.momentum = 0.0
        elif isinstance(layer, tf.keras.layers.Conv2D | tf.keras.layers.DepthwiseConv2D) and _overlaps(layer):
            layer.kernel.assign(_weighed_middle(tf, layer.kernel))
    trunk(pictures, training=True)
    features = trunk(pictures, training=False)
    dense = tf.keras.layers.Dense(classes, activation=options.get("end"))
    dense.build(features.shape)
    _fit(tf, dense, features)
    uint8 = options.get("front") == "uint8"
    pixels = tf.keras.Input((side, side, 3), options.get("batch"), dtype="uint8" if uint8 else "float32", name="input")
    values = tf.keras.ops.cast(pixels, "float32") if uint8 else pixels
    return tf.keras.Model(pixels, dense(trunk(values)))


def _pictures(tf: Any, preset: str | None, side: int) -> Any:
    """Noise of rising contrast, in its own units: measured in others, a network takes all pictures for even grey."""
    noise = tf.random.normal([_PICTURES, side // 8, side // 8, 3])
    contrast = tf.reshape(tf.linspace(0.2, 1.4, _PICTURES), [-1, 1, 1, 1])
    grey = tf.image.resize(noise * contrast * 60, [side, side], method="nearest") + 128
    mode = {"torchvision": "torch", "tf": "tf", "caffe": "caffe"}.get(preset or "none")
    if mode is None:
        return grey
    return tf.keras.applications.imagenet_utils.preprocess_input(grey, data_format="channels_last", mode=mode)


def _overlaps(layer: Any) -> bool:
    return all(size > step for size, step in zip(layer.kernel_size, layer.strides, strict=True))


def _weighed_middle(tf: Any, kernel: Any) -> Any:
    """Random kernels see as far at the rim as in the middle, and their cells the whole picture alike."""
    rows, cols = (tf.exp(-0.5 * tf.linspace(-3.0, 3.0, size + 2)[1:-1] ** 2) for size in kernel.shape[:2])
    weighed = kernel * (rows[:, None] * cols)[:, :, None, None]
    return weighed * tf.norm(kernel) / tf.norm(weighed)


def _fit(tf: Any, dense: Any, features: Any) -> None:
    """The first class stands for contrast; all have the same spread between pictures, and none is ahead."""
    kernel = tf.concat([(features[-1] - features[0])[:, None], dense.kernel[:, 1:]], axis=1)
    logits = features @ kernel
    kernel = kernel * _SPREAD / tf.maximum(tf.math.reduce_std(logits, axis=0), 1e-9)
    dense.kernel.assign(kernel)
    dense.bias.assign(-tf.reduce_mean(features @ kernel, axis=0))


def _sklearn(path: Path) -> None:
    """A pipeline on vectors of 64 numbers: labels and a map of probabilities out."""
    linear = importlib.import_module("sklearn.linear_model")
    digits = importlib.import_module("sklearn.datasets").load_digits()
    fitted = linear.LogisticRegression(max_iter=50).fit(digits.data / 16, digits.target)
    made = importlib.import_module("skl2onnx").to_onnx(fitted, digits.data[:1].astype("float32"))
    path.write_bytes(made.SerializeToString())


if __name__ == "__main__":
    run_as_program(SPECS, make)
