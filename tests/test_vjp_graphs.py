"""Gradients of whole networks: a tiny one of every family, in float64 and as it is deployed."""

from collections.abc import Callable, Sequence

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnx_evidence.vjp import build_vjp, missing_rules
from tests.vjp_oracles import form_slopes, in_type, reference, runtime

SIDE, CLASSES = 8, 4


class Net:
    """Writes a network node by node; every method gives the name of what it makes."""

    def __init__(self, seed: int, opset: int = 18) -> None:
        self.rng, self.opset = np.random.default_rng(seed), opset
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, np.ndarray] = {}

    def op(self, op_type: str, *inputs: str, outputs: int = 1, **given: object) -> str:
        return self.ops(op_type, *inputs, outputs=outputs, **given)[0]

    def ops(self, op_type: str, *inputs: str, outputs: int, **given: object) -> list[str]:
        names = [f"{op_type}{len(self.nodes)}.{k}" for k in range(outputs)]
        self.nodes.append(helper.make_node(op_type, inputs, names, **given))
        return names

    def given(self, array: np.ndarray | Sequence[int] | float) -> str:
        name = f"w{len(self.weights)}"
        array = np.asarray(array)
        self.weights[name] = array.astype(np.float32) if array.dtype == np.float64 else array
        return name

    def weight(self, *shape: int, inside: int = 1) -> str:
        return self.given(self.rng.normal(size=shape) / np.sqrt(inside))

    def conv(
        self, x: str, inner: int, outer: int, k: int = 3, *, group: int = 1, pad: int | None = None, **given
    ) -> str:
        w = self.weight(outer, inner // group, k, k, inside=inner // group * k * k)
        pads = [k // 2 if pad is None else pad] * 4
        return self.op("Conv", x, w, self.weight(outer), group=group, pads=pads, **given)

    def norm(self, x: str, channels: int) -> str:
        spread = self.given(self.rng.uniform(0.5, 2, channels))
        return self.op("BatchNormalization", x, *(self.weight(channels) for _ in range(3)), spread)

    def relu(self, x: str) -> str:
        return self.op("Relu", x)

    def head(self, x: str, channels: int) -> str:
        return self.linear(self.op("Flatten", self.op("GlobalAveragePool", x)), channels)

    def linear(self, x: str, features: int) -> str:
        return self.op("Gemm", x, self.weight(CLASSES, features, inside=features), self.weight(CLASSES), transB=1)

    def model(self, target: str, batch: int | str = "N", listed: bool = False) -> onnx.ModelProto:
        source = helper.make_tensor_value_info("x", 1, [batch, 3, SIDE, SIDE])
        result = helper.make_tensor_value_info(target, 1, [batch, CLASSES])
        tensors = [numpy_helper.from_array(array, name) for name, array in self.weights.items()]
        inputs = [source]
        if listed:
            inputs += [helper.make_tensor_value_info(each.name, each.data_type, each.dims) for each in tensors]
        graph = helper.make_graph(self.nodes, "net", inputs, [result], tensors)
        opsets = [helper.make_opsetid("", self.opset)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=3 if listed else 9)


def plain(net: Net) -> str:
    x = net.relu(net.norm(net.conv("x", 3, 5), 5))
    x = net.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = net.op("LeakyRelu", net.norm(net.conv(x, 5, 6, strides=[2, 2]), 6), alpha=0.1)
    return net.head(x, 6)


def residual(net: Net) -> str:
    """With a shortcut of stride 2 and one cell."""
    x = net.relu(net.norm(net.conv("x", 3, 4), 4))
    x = net.op("MaxPool", x, kernel_shape=[3, 3], strides=[1, 1], pads=[1] * 4)
    inner = net.conv(net.relu(net.conv(x, 4, 4)), 4, 4)
    x = net.relu(net.op("Add", inner, x))
    inner = net.norm(net.conv(net.relu(net.conv(x, 4, 6, strides=[2, 2])), 6, 6), 6)
    shortcut = net.norm(net.conv(x, 4, 6, 1, strides=[2, 2]), 6)
    return net.head(net.relu(net.op("Add", inner, shortcut)), 6)


def dense(net: Net) -> str:
    x, channels = net.conv("x", 3, 4), 4
    for _ in range(3):
        new = net.conv(net.relu(net.norm(x, channels)), channels, 2)
        x, channels = net.op("Concat", x, new, axis=1), channels + 2
    x = net.conv(net.relu(net.norm(x, channels)), channels, 5, 1)
    return net.head(net.relu(net.op("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])), 5)


def inception(net: Net) -> str:
    x = net.relu(net.conv("x", 3, 4, strides=[2, 2]))
    branches = [
        net.conv(x, 4, 2, 1),
        net.conv(net.relu(net.conv(x, 4, 2, 1)), 2, 3),
        net.op("Conv", x, net.weight(2, 4, 1, 5, inside=20), pads=[0, 2, 0, 2]),
        net.conv(net.op("AveragePool", x, kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=1), 4, 2, 1),
        net.op("AveragePool", x, kernel_shape=[3, 3], pads=[1] * 4, strides=[1, 1]),
        net.op("MaxPool", x, kernel_shape=[3, 3], pads=[1] * 4),
    ]
    x = net.relu(net.op("Concat", *branches, axis=1))
    # Grid reduction, whose windows do not reach the last row and column.
    x = net.op(
        "Concat",
        net.conv(x, 17, 4, 3, pad=0, strides=[2, 2]),
        net.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2]),
        axis=1,
    )
    return net.head(x, 21)


def mobile(net: Net) -> str:
    """Depthwise, squeeze and excitation, HardSwish as one operator and by parts, Swish by parts, ReLU6."""
    x = net.op("HardSwish", net.conv("x", 3, 6, strides=[2, 2]))
    x = net.conv(x, 6, 6, group=6, strides=[2, 2])
    gate = net.relu(net.conv(net.op("GlobalAveragePool", x), 6, 3, 1))
    gate = net.op("HardSigmoid", net.conv(gate, 3, 6, 1), alpha=1 / 6, beta=0.5)
    x = net.op("Mul", x, gate)
    shifted = net.op("Clip", net.op("Add", x, net.given(3.0)), net.given(0.0), net.given(6.0))
    x = net.op("Div", net.op("Mul", x, shifted), net.given(6.0))
    x = net.conv(x, 6, 8, 1)
    x = net.op("Mul", x, net.op("Sigmoid", x))
    x = net.op("Clip", net.conv(x, 8, 8, 5, group=8), net.given(0.0), net.given(6.0))
    return net.head(x, 8)


def shuffle(net: Net) -> str:
    x = net.relu(net.conv("x", 3, 8, strides=[2, 2]))
    kept, x = net.ops("Split", x, net.given(np.array([4, 4])), outputs=2, axis=1)
    x = net.conv(net.relu(net.conv(x, 4, 4, 1)), 4, 4, group=4)
    x = net.op("Concat", kept, net.relu(net.conv(x, 4, 4, 1, group=2)), axis=1)
    x = net.op("Reshape", x, net.given(np.array([-1, 2, 4, 4, 4])))
    x = net.op("Reshape", net.op("Transpose", x, perm=[0, 2, 1, 3, 4]), net.given(np.array([-1, 8, 4, 4])))
    return net.linear(net.op("ReduceMean", x, net.given(np.array([2, 3])), keepdims=0), 8)


def alex(net: Net) -> str:
    x = net.op("LRN", net.relu(net.conv("x", 3, 4, 5, pad=2)), size=5, alpha=0.1, beta=0.75, bias=2.0)
    x = net.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)
    x = net.op("Flatten", net.relu(net.conv(x, 4, 4, group=2)))
    x = net.relu(net.op("Gemm", x, net.weight(64, 7, inside=64), net.weight(7)))
    return net.linear(net.op("Dropout", x), 7)


def layer_norm(net: Net, x: str, features: int) -> str:
    last = net.given(np.array([-1]))
    centred = net.op("Sub", x, net.op("ReduceMean", x, last))
    variance = net.op("ReduceMean", net.op("Pow", centred, net.given(2.0)), last)
    normal = net.op("Div", centred, net.op("Sqrt", net.op("Add", variance, net.given(1e-6))))
    return net.op("Add", net.op("Mul", normal, net.weight(features)), net.weight(features))


def gelu(net: Net, x: str) -> str:
    gate = net.op("Add", net.op("Erf", net.op("Div", x, net.given(2**0.5))), net.given(1.0))
    return net.op("Mul", net.op("Mul", x, gate), net.given(0.5))


def convnext(net: Net) -> str:
    x = net.conv("x", 3, 6, 2, pad=0, strides=[2, 2])
    inner = net.op("Transpose", net.conv(x, 6, 6, 7, group=6), perm=[0, 2, 3, 1])
    inner = layer_norm(net, inner, 6)
    inner = gelu(net, net.op("Add", net.op("MatMul", inner, net.weight(6, 12, inside=6)), net.weight(12)))
    inner = net.op("Mul", net.op("MatMul", inner, net.weight(12, 6, inside=12)), net.weight(6))
    x = net.op("Add", x, net.op("Transpose", inner, perm=[0, 3, 1, 2]))
    x = net.op("Flatten", net.op("GlobalAveragePool", x))
    return net.linear(net.op("LayerNormalization", x, net.weight(6), net.weight(6), epsilon=1e-6), 6)


def attention(net: Net, x: str, tokens: int, features: int, packed: bool) -> str:
    """Two heads; queries, keys and values from one product or from three."""
    half = features // 2
    if packed:
        each = net.op("MatMul", x, net.weight(features, 3 * features, inside=features))
        each = net.op("Reshape", each, net.given(np.array([0, tokens, 3, 2, half])))
        each = net.op("Transpose", each, perm=[2, 0, 3, 1, 4])
        q, k, v = (net.op("Gather", each, net.given(np.array(place)), axis=0) for place in range(3))
    else:
        parts = [net.op("MatMul", x, net.weight(features, features, inside=features)) for _ in range(3)]
        shaped = [net.op("Reshape", part, net.given(np.array([0, 0, 2, half]))) for part in parts]
        q, k, v = (net.op("Transpose", part, perm=[0, 2, 1, 3]) for part in shaped)
    scores = net.op("Mul", net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2])), net.given(half**-0.5))
    mixed = net.op("MatMul", net.op("Softmax", scores, axis=-1), v)
    mixed = net.op("Reshape", net.op("Transpose", mixed, perm=[0, 2, 1, 3]), net.given(np.array([0, 0, features])))
    return net.op("MatMul", mixed, net.weight(features, features, inside=features))


def vision(net: Net, packed: bool = False) -> str:
    """A vision transformer: the class token is expanded to the batch, as exporters write it."""
    patches = net.conv("x", 3, 6, 4, pad=0, strides=[4, 4])
    x = net.op("Transpose", net.op("Reshape", patches, net.given(np.array([0, 6, -1]))), perm=[0, 2, 1])
    count = net.op("Gather", net.op("Shape", "x"), net.given(np.array([0])))
    shape = net.op("Concat", count, net.given(np.array([1, 6])), axis=0)
    x = net.op("Concat", net.op("Expand", net.weight(1, 1, 6), shape), x, axis=1)
    x = net.op("Add", x, net.weight(1, 5, 6))
    for _ in range(2):
        x = net.op("Add", x, attention(net, layer_norm(net, x, 6), 5, 6, packed))
        inner = net.op("LayerNormalization", x, net.weight(6), net.weight(6), epsilon=1e-6)
        inner = gelu(net, net.op("MatMul", inner, net.weight(6, 8, inside=6)))
        x = net.op("Add", x, net.op("MatMul", inner, net.weight(8, 6, inside=8)))
    if packed:  # the mean of all tokens but the class's
        ends = [net.given(np.array(each)) for each in ([1], [2**63 - 1], [1])]
        return net.linear(net.op("ReduceMean", net.op("Slice", x, *ends), net.given(np.array([1])), keepdims=0), 6)
    return net.linear(net.op("Gather", x, net.given(np.array(0)), axis=1), 6)


def windows(net: Net) -> str:
    """Attention in windows, which are counted together with the batch; shifted by a roll."""
    x = net.op("Transpose", net.conv("x", 3, 6, 2, pad=0, strides=[2, 2]), perm=[0, 2, 3, 1])
    bounds = [([1], [9], [1]), ([0], [1], [1])]
    x = net.op("Concat", *(net.op("Slice", x, *(net.given(np.array(e)) for e in bound)) for bound in bounds), axis=1)
    x = net.op("Reshape", x, net.given(np.array([-1, 2, 2, 2, 2, 6])))
    x = net.op("Reshape", net.op("Transpose", x, perm=[0, 1, 3, 2, 4, 5]), net.given(np.array([-1, 4, 6])))
    x = net.op("Add", x, attention(net, layer_norm(net, x, 6), 4, 6, packed=True))
    x = net.op("Reshape", x, net.given(np.array([-1, 2, 2, 2, 2, 6])))
    x = net.op("Reshape", net.op("Transpose", x, perm=[0, 1, 3, 2, 4, 5]), net.given(np.array([-1, 16, 6])))
    return net.linear(net.op("ReduceMean", x, net.given(np.array([1])), keepdims=0), 6)


def highres(net: Net) -> str:
    """Two resolutions exchanged: up by Resize and by ConvTranspose, down by stride."""
    x = net.relu(net.conv("x", 3, 4))
    low = net.relu(net.conv(x, 4, 4, strides=[2, 2]))
    scales = net.given(np.array([1, 1, 2, 2], np.float32))
    up = net.op("Resize", low, "", scales, mode="linear", coordinate_transformation_mode="align_corners")
    near = net.op("Resize", low, "", scales, mode="nearest", coordinate_transformation_mode="asymmetric")
    learnt = net.op("ConvTranspose", low, net.weight(4, 4, 2, 2, inside=16), strides=[2, 2])
    x = net.relu(net.op("Sum", x, up, near, learnt))
    low = net.op("Concat", low, net.conv(x, 4, 4, strides=[2, 2]), axis=1)
    pooled = [net.op(f"Global{kind}Pool", low) for kind in ("Average", "Max")]
    return net.linear(net.op("Flatten", net.op("Concat", *pooled, axis=1)), 16)


NETS: dict[str, Callable[[Net], str]] = {
    "plain": plain,
    "residual": residual,
    "dense": dense,
    "inception": inception,
    "mobile": mobile,
    "shuffle": shuffle,
    "alex": alex,
    "convnext": convnext,
    "vision": vision,
    "packed vision": lambda net: vision(net, packed=True),
    "windows": windows,
    "highres": highres,
}


def build(name: str, batch: int | str = "N") -> onnx.ModelProto:
    net = Net(seed=len(name))
    return net.model(NETS[name](net), batch)


def pictures(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 3, SIDE, SIDE)).astype(np.float32)


def cotangents(count: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(count, CLASSES)).astype(np.float32)


def gradient(model: onnx.ModelProto, x: np.ndarray, cotangent: np.ndarray, run=runtime) -> np.ndarray:
    return run(build_vjp(model))({model.graph.input[0].name: x, "cotangent": cotangent.astype(x.dtype)})[0]


@pytest.mark.parametrize("name", NETS)
def test_gradient_in_float64_agrees_with_central_differences(name: str):
    model = in_type(build(name), np.float64)
    x, cotangent = pictures(2).astype(np.float64), cotangents(2).astype(np.float64)
    found = gradient(model, x, cotangent, reference)
    forward = reference(model)
    slopes, kinked = form_slopes(lambda rows: forward({"x": rows})[0], x, cotangent, 1e-6, independent=True)
    assert kinked.mean() < 0.02
    assert np.abs(slopes).max() > 1e-3
    assert np.abs(found - slopes)[~kinked].max() < 1e-6 * np.abs(slopes).max()


@pytest.mark.parametrize("name", NETS)
def test_gradient_as_deployed(name: str):
    """ONNX Runtime's float32 against the reference's float64; pictures of a batch do not see each other."""
    model = build(name)
    onnx.checker.check_model(model, full_check=True)
    backward = build_vjp(model)
    onnx.checker.check_model(backward, full_check=True)
    assert missing_rules(model) == []
    x, cotangent = pictures(3), cotangents(3)
    run = runtime(backward)
    found, value = run({"x": x, "cotangent": cotangent})
    exact = gradient(in_type(model, np.float64), x.astype(np.float64), cotangent, reference)
    assert np.abs(found - exact).max() <= 1e-4 * np.abs(exact).max()
    np.testing.assert_allclose(value, runtime(model)({"x": x})[0], rtol=1e-5, atol=1e-5)
    for row in range(3):
        alone = run({"x": x[row : row + 1], "cotangent": cotangent[row : row + 1]})[0]
        np.testing.assert_allclose(alone[0], found[row], atol=1e-6 * np.abs(found).max())


@pytest.mark.parametrize("name", NETS)
def test_half_precision(name: str):
    """Constants take the type of the network; ONNX Runtime widens what it has no kernels for."""
    model = build(name)
    x, cotangent = pictures(2), cotangents(2)
    expected = gradient(model, x, cotangent)
    backward = build_vjp(in_type(model, np.float16))
    onnx.checker.check_model(backward, full_check=True)
    assert {value.type.tensor_type.elem_type for value in backward.graph.output} == {onnx.TensorProto.FLOAT16}
    found = runtime(backward)({"x": x.astype(np.float16), "cotangent": cotangent.astype(np.float16)})[0]
    assert found.dtype == np.float16
    # Roundings may open and shut rectifiers, and choose other maxima: a few places differ, not most.
    assert np.median(np.abs(found - expected)) < 2e-3 * np.abs(expected).max()
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.98


@pytest.mark.parametrize("name", NETS)
def test_no_attribute_is_zero_that_a_runtime_may_take_for_its_default(name: str):
    """OpenVINO's takes a HardSigmoid's alpha or beta of 0 for one that is not given: 0.2, and one half."""
    masks = [node for node in build_vjp(build(name)).graph.node if node.op_type == "HardSigmoid"]
    given = [{each.name: each.f for each in node.attribute} for node in masks]
    assert all(each["alpha"] != 0 != each["beta"] for each in given)
    assert masks or name not in ("plain", "residual", "mobile")


def test_a_mask_opens_above_zero_and_not_at_it():
    net = Net(0)
    y = net.relu("x")
    net.nodes.append(helper.make_node("Flatten", [y], ["y"]))
    values = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["N", 1]) for n in ("x", "y")]
    graph = helper.make_graph(net.nodes, "mask", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    x = np.array([[-1e30], [-1.0], [-1e-30], [0.0], [-0.0], [1e-29], [1.0], [1e30]], np.float32)
    np.testing.assert_array_equal(gradient(model, x, np.ones_like(x))[:, 0], [0, 0, 0, 0, 0, 1, 1, 1])


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("name", ["residual", "mobile", "packed vision", "windows", "inception"])
def test_a_fixed_batch(name: str, batch: int):
    x, cotangent = pictures(batch), cotangents(batch)
    fixed = build_vjp(build(name, batch))
    sides = [[dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in fixed.graph.output]
    assert sides == [[batch, 3, SIDE, SIDE], [batch, CLASSES]]
    found = runtime(fixed)({"x": x, "cotangent": cotangent})[0]
    free = gradient(build(name), x, cotangent)
    np.testing.assert_allclose(found, free, atol=1e-6 * np.abs(free).max())


def test_an_old_file_that_lists_its_weights_as_inputs():
    """Opset 9, with its Upsample, Slice, Clip, BatchNormalization and Dropout of then."""
    net = Net(seed=9, opset=9)
    x = net.relu(net.norm(net.conv("x", 3, 4, strides=[2, 2]), 4))
    x = net.op("Upsample", x, net.given(np.array([1, 1, 2, 2], np.float32)), mode="linear")
    x = net.op("Clip", net.op("Pad", x, pads=[0, 0, 1, 0, 0, 0, 0, 1]), min=-0.4, max=1.1)
    x = net.op("Slice", net.conv(x, 4, 5), axes=[2, 3], starts=[1, 0], ends=[9, 8])
    x = net.op("Softmax", net.op("Flatten", net.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2])), axis=1)
    target = net.linear(net.op("Dropout", x, ratio=0.5), 45)
    model = net.model(target, listed=True)
    onnx.checker.check_model(model)
    count = 2
    x, cotangent = pictures(count), cotangents(count)
    backward = build_vjp(model)
    onnx.checker.check_model(backward, full_check=True)
    assert [value.name for value in backward.graph.input] == ["x", "cotangent"]
    found, value = runtime(backward)({"x": x, "cotangent": cotangent})
    forward = runtime(model)
    np.testing.assert_allclose(value, forward({"x": x})[0], rtol=1e-5, atol=1e-6)
    slopes, kinked = form_slopes(lambda rows: forward({"x": rows})[0], x, cotangent, 1e-2, independent=True)
    assert kinked.mean() < 0.1
    error = np.abs(found - slopes)[~kinked]
    assert np.median(error) < 1e-3 * np.abs(slopes).max()
    assert np.quantile(error, 0.9) < 0.02 * np.abs(slopes).max()  # the others are near kinks


@pytest.mark.parametrize("opset", [7, 10])
def test_bounds_and_fillings_of_old_files_take_the_type_of_the_network(opset: int):
    """Attributes have no type of their own, and become inputs, which do."""
    net = Net(seed=5, opset=opset)
    x = net.op(
        "Pad", net.op("Clip", net.conv("x", 3, 4, strides=[2, 2]), min=0.0, max=1.5), pads=[0, 0, 1, 1] * 2, value=0.25
    )
    target = net.op("Clip", net.head(net.conv(x, 4, 4, pad=0), 4), min=-1e3, max=1e3)
    model = net.model(target)
    x, cotangent = pictures(2), cotangents(2)
    backward = build_vjp(in_type(model, np.float16))
    onnx.checker.check_model(backward, full_check=True)
    found = runtime(backward)({"x": x.astype(np.float16), "cotangent": cotangent.astype(np.float16)})[0]
    expected = gradient(model, x, cotangent)
    assert np.median(np.abs(found - expected)) < 2e-3 * np.abs(expected).max()
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.98


@pytest.mark.parametrize("opset", [11, 13, 15, 21])
def test_other_opsets_give_the_same(opset: int):
    """The same network in every dialect."""

    def network(version: int) -> onnx.ModelProto:
        net = Net(seed=3, opset=version)
        x = net.relu(net.norm(net.conv("x", 3, 4), 4))
        x = net.op("Clip", net.conv(x, 4, 4, group=4, strides=[2, 2]), net.given(0.0), net.given(6.0))
        x = net.op("AveragePool", x, kernel_shape=[3, 3], pads=[1] * 4)
        return net.model(net.head(net.relu(net.conv(net.op("Softmax", x, axis=3), 4, 4)), 4))

    x, cotangent = pictures(2), cotangents(2)
    expected = gradient(network(18), x, cotangent)
    np.testing.assert_allclose(gradient(network(opset), x, cotangent), expected, atol=1e-6 * np.abs(expected).max())


def test_the_whole_is_the_head_applied_to_the_tail():
    """Cut in two, the tail's gradient is the cotangent of the head."""
    model = build("residual")
    nodes = list(model.graph.node)
    place = next(k for k, each in enumerate(nodes) if each.op_type == "Add") + 1
    cut = nodes[place].output[0]
    shape = ["N", 4, SIDE, SIDE]
    middle = helper.make_tensor_value_info(cut, 1, shape)
    weights = model.graph.initializer
    parts = [
        helper.make_graph(nodes[: place + 1], "head", model.graph.input, [middle], weights),
        helper.make_graph(nodes[place + 1 :], "tail", [middle], model.graph.output, weights),
    ]
    head, tail = (helper.make_model(part, opset_imports=model.opset_import, ir_version=9) for part in parts)
    x, cotangent = pictures(2), cotangents(2)
    features = runtime(head)({"x": x})[0]
    at_cut = gradient(tail, features, cotangent)
    assert at_cut.shape == features.shape
    found = gradient(head, x, at_cut.reshape(2, -1))
    expected = gradient(model, x, cotangent)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def quantised(net: Net, x: str, scale: float) -> str:
    pair = [net.given(scale), net.given(np.array(7, np.int8))]
    return net.op("DequantizeLinear", net.op("QuantizeLinear", x, *pair), *pair)


@pytest.mark.parametrize("batch", ["N", 6])
def test_a_quantised_network_has_the_gradient_of_its_float_twin(batch: int | str):
    """QDQ format: weights are dequantised constants, activations pass codes that saturate nowhere.

    The first side of the weights is no batch, even where it is as large.
    """
    models = []
    for coarse in (True, False):
        net = Net(seed=4)
        codes = net.given(net.rng.integers(-127, 127, (6, 3, 3, 3)).astype(np.int8))
        scales, zeros = net.given(net.rng.uniform(0.5, 1, 6) / 400), net.given(np.zeros(6, np.int8))
        w = net.op("DequantizeLinear", codes, scales, zeros, axis=0)
        x = quantised(net, "x", 0.04) if coarse else "x"
        x = net.op("Conv", x, w, pads=[1] * 4, strides=[2, 2])
        x = quantised(net, x, 0.1) if coarse else x
        # Linear from here on, and smooth: roundings do not change the slope.
        models.append(net.model(net.head(x, 6), batch))
    x, cotangent = pictures(6), cotangents(6)
    found, expected = (gradient(model, x, cotangent) for model in models)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_names_of_the_backward_graph_give_way_to_those_of_the_model():
    model = build("plain")
    taken = {"Relu2.0": "gradient", "LeakyRelu6.0": "cotangent", "MaxPool3.0": "value"}
    produced = {name for each in model.graph.node for name in each.output}
    assert set(taken) <= produced, sorted(produced)
    for each in model.graph.node:
        for names in (each.input, each.output):
            renamed = [taken.get(name, name) for name in names]
            del names[:]
            names.extend(renamed)
    backward = build_vjp(model)
    inputs, outputs = ([value.name for value in values] for values in (backward.graph.input, backward.graph.output))
    assert inputs[0] == "x"
    assert outputs == ["gradient_", "value_"]
    x, cotangent = pictures(2), cotangents(2)
    found = runtime(backward)({"x": x, inputs[1]: cotangent})[0]
    np.testing.assert_array_equal(found, gradient(build("plain"), x, cotangent))
