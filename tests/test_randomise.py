"""Re-drawn weights: which tensors, that every unit keeps its entries, and that what runs is what was drawn."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_evidence import DeployedModel, ModelError
from onnx_evidence.evaluation.randomise import Weight, behind, choose_stages, find_weights, redraw
from onnx_evidence.types import AnyArray
from tests import tiny


@pytest.fixture(scope="module")
def deployed(tiny_model: Path) -> DeployedModel:
    return DeployedModel(tiny_model, device="cpu")


def opened(folder: Path, nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray]) -> DeployedModel:
    model = tiny.make_model(nodes, weights, metadata={"preprocess": tiny.PREPROCESS})
    return DeployedModel(tiny.save(model, folder / "model.onnx"), device="cpu")


def tensors(deployed: DeployedModel) -> dict[str, AnyArray]:
    """Initialisers, as the graph would run them."""
    return {name: numpy_helper.to_array(each) for name, each in deployed.graph.net.constants.items()}


def file_logits(path: Path, weights: dict[str, AnyArray], inputs: np.ndarray) -> np.ndarray:
    """The file's own logits, with weights put in by hand."""
    model = onnx.load(path)
    kept = [numpy_helper.from_array(weights[each.name], each.name) for each in model.graph.initializer]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(
        None, {"input": inputs}
    )[0]


def test_the_weights_of_the_tiny_classifier(deployed):
    layers = ["stem", "block.a", "block.b", "down", "deep.b", "logits"]
    names = [(each.name, each.layer, each.axis) for each in find_weights(deployed.graph)]
    assert names == [(f"w{number}", layer, 0) for number, layer in enumerate(layers, start=1)]
    by_cut = {
        cut: [each.name for each in behind(deployed.graph, find_weights(deployed.graph), cut)]
        for cut in ("input", "block.add", "deep.add")
    }
    assert by_cut == {"input": [f"w{n}" for n in range(1, 7)], "block.add": ["w4", "w5", "w6"], "deep.add": ["w6"]}


def test_every_filter_keeps_its_entries_in_another_order(deployed):
    weights = find_weights(deployed.graph)
    before, after = tensors(deployed), tensors(redraw(deployed, weights, 3))
    assert before.keys() == after.keys()
    for weight in weights:
        old, new = (each[weight.name].reshape(len(before[weight.name]), -1) for each in (before, after))
        assert new.dtype == old.dtype
        np.testing.assert_array_equal(np.sort(new, axis=1), np.sort(old, axis=1))
        assert (new != old).mean() > 0.7
    np.testing.assert_array_equal(after["b6"], before["b6"])


def test_what_runs_is_what_was_drawn_in_the_whole_and_at_every_cut(deployed, tiny_model, rng):
    inputs = rng.normal(size=(3, 3, 32, 32)).astype(np.float32)
    plain = deployed.logits(inputs)
    weights = find_weights(deployed.graph)
    for part in (weights[-1:], weights[:3], weights):
        twin = redraw(deployed, part, 1)
        expected = file_logits(tiny_model, tensors(twin), inputs)
        assert np.abs(expected - plain).max() > 0.1
        np.testing.assert_allclose(twin.logits(inputs), expected, rtol=1e-4, atol=1e-5)
        for name in ("block.add", "deep.add"):
            cut = twin.graph.find(name)
            np.testing.assert_allclose(twin.tail(cut)(twin.head(cut)(inputs)), expected, rtol=1e-4, atol=1e-5)
        logits, features = twin.answer(inputs[0]).logits, twin.looker([twin.graph.find("deep.add")])(inputs[0])
        np.testing.assert_allclose(logits, expected[0], rtol=1e-4, atol=1e-5)
        same_head = np.allclose(features[0], deployed.head(deployed.graph.find("deep.add"))(inputs[:1])[0])
        assert same_head == (part == weights[-1:])
    # The model that was opened is left as it was.
    np.testing.assert_array_equal(deployed.logits(inputs), plain)
    np.testing.assert_array_equal(DeployedModel(tiny_model, device="cpu").logits(inputs), plain)


def test_the_backward_graph_runs_the_drawn_weights_too(deployed, rng):
    twin = redraw(deployed, find_weights(deployed.graph), 2)
    cut = twin.graph.find("deep.add")
    features = rng.normal(size=(1, 12, 8, 8)).astype(np.float32)
    direction = np.eye(5)[2]
    gradient = twin.gradient(cut)(features, direction, np.eye(5)[0])[1][0]
    # Behind the cut are a mean over 8 x 8 cells and the last layer; the score is one logit less another.
    expected = (tensors(twin)["w6"][2] - tensors(twin)["w6"][0]) / 64
    np.testing.assert_allclose(gradient, np.broadcast_to(expected[:, None, None], gradient.shape), rtol=1e-4, atol=1e-6)


def test_a_tensor_is_drawn_alike_whatever_else_is_and_otherwise_with_another_seed(deployed):
    weights = find_weights(deployed.graph)
    alone, all_of_them, other = (
        tensors(redraw(deployed, part, seed))["w6"] for part, seed in ((weights[-1:], 5), (weights, 5), (weights, 6))
    )
    np.testing.assert_array_equal(alone, all_of_them)
    assert (alone != other).mean() > 0.7


FLAT = helper.make_node("Flatten", ["input"], ["flat"])
POOL = helper.make_node("GlobalAveragePool", ["made"], ["pool"])
ENDING = [POOL, helper.make_node("Flatten", ["pool"], ["flat"]), helper.make_node("MatMul", ["flat", "m"], ["logits"])]
MATRIX = np.random.default_rng(1).normal(size=(8, 5)).astype(np.float32)
KERNEL = np.random.default_rng(2).normal(size=(3, 8, 2, 2)).astype(np.float32)


def wide(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def held(value: np.ndarray) -> onnx.NodeProto:
    return helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(value, "w"))


MATMUL = helper.make_node("MatMul", ["flat", "t"], ["logits"])
LAYOUTS = {
    "MatMul": ([FLAT, helper.make_node("MatMul", ["flat", "w"], ["logits"])], {"w": wide((3072, 5))}, 1),
    "Gemm": ([FLAT, helper.make_node("Gemm", ["flat", "w"], ["logits"])], {"w": wide((3072, 5))}, 1),
    "Gemm, transB": ([FLAT, helper.make_node("Gemm", ["flat", "w"], ["logits"], transB=1)], {"w": wide((5, 3072))}, 0),
    "transposed by name": (
        [helper.make_node("Transpose", ["w"], ["t"], perm=[1, 0]), FLAT, MATMUL],
        {"w": wide((5, 3072))},
        0,
    ),
    "transposed, cast": (
        [
            helper.make_node("Cast", ["w"], ["c"], to=TensorProto.FLOAT),
            helper.make_node("Transpose", ["c"], ["t"]),
            FLAT,
            MATMUL,
        ],
        {"w": wide((5, 3072)).astype(np.float16)},
        0,
    ),
    "Constant": ([held(wide((3072, 5))), FLAT, helper.make_node("MatMul", ["flat", "w"], ["logits"])], {}, 1),
    "ConvTranspose": (
        [helper.make_node("ConvTranspose", ["input", "w"], ["made"], strides=[2, 2]), *ENDING],
        {"w": KERNEL, "m": MATRIX},
        1,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("nodes", "weights", "axis"), LAYOUTS.values(), ids=LAYOUTS)
def test_units_are_found_on_whatever_axis_they_lie(tmp_path, rng, nodes, weights, axis):
    deployed = opened(tmp_path, nodes, weights)
    (found,) = (each for each in find_weights(deployed.graph) if each.name == "w")
    assert found.axis == axis
    twin = redraw(deployed, [found], 0)
    old, new = (
        np.moveaxis(tensors(each)["w"], axis, 0).reshape(tensors(each)["w"].shape[axis], -1)
        for each in (deployed, twin)
    )
    np.testing.assert_array_equal(np.sort(new, axis=1), np.sort(old, axis=1))
    # Control: along another axis they would not be the same.
    across = [np.sort(each, axis=0) for each in (old, new)]
    assert not np.array_equal(*across)
    inputs = rng.normal(size=(2, 3, 32, 32)).astype(np.float32)
    assert not np.allclose(twin.logits(inputs), deployed.logits(inputs), atol=1e-3)


def test_shared_weights_are_found_once_and_equal_kernels_not_at_all(tmp_path):
    conv = {"pads": [1] * 4, "kernel_shape": [3, 3]}
    nodes = [
        helper.make_node("Conv", ["input", "k"], ["a"], **conv),
        helper.make_node("Conv", ["a", "k"], ["b"], **conv),
        helper.make_node("Conv", ["b", "blur"], ["made"], group=3, **conv),
        *ENDING,
    ]
    flat = np.repeat(np.arange(1, 4, dtype=np.float32), 9).reshape(3, 1, 3, 3) / 9
    deployed = opened(tmp_path, nodes, {"k": wide((3, 3, 3, 3)), "blur": flat, "m": MATRIX[:3]})
    assert find_weights(deployed.graph) == (Weight("k", "a", 0, 0), Weight("m", "logits", 5, 1))


def test_equal_tensors_are_drawn_apart(tmp_path):
    conv = {"pads": [1] * 4, "kernel_shape": [3, 3]}
    nodes = [
        helper.make_node("Conv", ["input", "k1"], ["a"], **conv),
        helper.make_node("Conv", ["a", "k2"], ["made"], **conv),
        *ENDING,
    ]
    kernel = wide((3, 3, 3, 3))
    deployed = opened(tmp_path, nodes, {"k1": kernel, "k2": kernel, "m": MATRIX[:3]})
    drawn = tensors(redraw(deployed, find_weights(deployed.graph), 0))
    assert (drawn["k1"] != drawn["k2"]).mean() > 0.7


def test_models_without_float_weights_are_refused_with_the_reason(tmp_path):
    quantised = [
        helper.make_node("DequantizeLinear", ["q", "scale"], ["w"]),
        FLAT,
        helper.make_node("MatMul", ["flat", "w"], ["logits"]),
    ]
    codes = np.random.default_rng(0).integers(-9, 9, (3072, 5)).astype(np.int8)
    deployed = opened(tmp_path, quantised, {"q": codes, "scale": np.array(0.1, np.float32)})
    with pytest.raises(ModelError, match=r"weights are quantised \(DequantizeLinear\).*float model"):
        find_weights(deployed.graph)
    made = [
        helper.make_node("ConstantOfShape", ["shape"], ["w"]),
        FLAT,
        helper.make_node("MatMul", ["flat", "w"], ["logits"]),
    ]
    deployed = opened(tmp_path, made, {"shape": np.array([3072, 5])})
    with pytest.raises(ModelError, match="nothing to re-draw"):
        choose_stages(deployed, ["input"])


def names(deployed: DeployedModel, cuts: list[str]) -> dict[str, list[int]]:
    return {stage.name: [int(each.name[1:]) for each in stage.weights] for stage in choose_stages(deployed, cuts)}


def test_stages_run_from_the_output_downwards_and_split_at_the_explained_cuts(deployed):
    cascade = {
        "last layer": [6],
        "last quarter": [5, 6],
        "last half": [4, 5, 6],
        "last three quarters": [3, 4, 5, 6],
        "all layers": [1, 2, 3, 4, 5, 6],
    }
    assert names(deployed, ["block.add", "deep.add"]) == cascade | {"tail only": [6], "head only": [1, 2, 3]}
    assert names(deployed, ["stem", "down"]) == cascade | {"tail only": [5, 6], "head only": [1]}
    # On pixels nothing is before the cut: the last cut with weights behind it stands in.
    assert names(deployed, ["input"]) == cascade | {"tail only": [6], "head only": [1, 2, 3, 4, 5]}


def test_a_cut_behind_the_last_weight_is_passed_over(tmp_path):
    conv = {"pads": [1] * 4, "kernel_shape": [3, 3]}
    nodes = [
        helper.make_node("Conv", ["input", "w1"], ["a"], **conv),
        helper.make_node("Conv", ["a", "w2"], ["b"], **conv),
        helper.make_node("GlobalAveragePool", ["b"], ["pool"]),
        helper.make_node("Flatten", ["pool"], ["logits"]),
    ]
    deployed = opened(tmp_path, nodes, {"w1": wide((4, 3, 3, 3)), "w2": wide((5, 4, 3, 3))})
    for cuts in (["b"], ["a", "b"], ["input"]):
        stages = names(deployed, cuts)
        assert (stages["tail only"], stages["head only"]) == ([2], [1])


def test_every_activation_of_lite0_stays_finite(lite0, hopper):
    deployed = DeployedModel(lite0, device="cpu")
    weights = find_weights(deployed.graph)
    assert len(weights) == 50
    inputs = deployed.prepare(hopper)[1][None]
    logits = redraw(deployed, weights, 0).logits(inputs)  # which refuses what is not finite
    assert 0.1 < logits.std() < 100
