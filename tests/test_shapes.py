"""Types and shapes before the model runs, with the batch told apart."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from onnx_evidence.cuts.graph import Graph
from onnx_evidence.graphs.shapes import evaluate, infer, infer_with_values
from onnx_evidence.intake.model import load_model
from onnx_evidence.sessions.runtime import Device, Session
from tests import tiny
from tests.tiny_transformers import same_padded


def node(op_type: str, inputs: list[str], outputs: list[str], **attributes: object) -> onnx.NodeProto:
    return helper.make_node(op_type, inputs, outputs, **attributes)


def chunked(rng: np.random.Generator) -> onnx.ModelProto:
    """``a, b = x.chunk(2, 1)`` as exporters write it: half the channels, computed from the shape."""
    weights = {
        "w": rng.normal(size=(8, 3, 3, 3)).astype(np.float32),
        "v": rng.normal(size=(8, 8, 3, 3)).astype(np.float32),
        "m": rng.normal(size=(5, 8)).astype(np.float32),
        "zero": np.array([0]),
        "one": np.array([1]),
        "two": np.array([2]),
    }
    nodes = [
        node("Conv", ["input", "w"], ["c"], pads=[1] * 4),
        node("Shape", ["c"], ["s"]),
        node("Gather", ["s", "one"], ["channels"]),
        node("Add", ["channels", "one"], ["more"]),
        node("Div", ["more", "two"], ["half"]),
        node("Slice", ["c", "zero", "half", "one"], ["a"]),
        node("Slice", ["c", "half", "channels", "one"], ["b"]),
        node("Concat", ["b", "a"], ["swapped"], axis=1),
        node("Conv", ["swapped", "v"], ["d"], pads=[1] * 4),
        node("GlobalAveragePool", ["d"], ["pool"]),
        node("Flatten", ["pool"], ["flat"]),
        node("Gemm", ["flat", "m"], ["logits"], transB=1),
    ]
    return tiny.make_model(nodes, weights, input_shape=("N", 3, 8, 8))


def test_arithmetic_on_shapes_is_followed_and_hides_no_cut(tmp_path: Path, rng: np.random.Generator):
    model = chunked(rng)
    # The control: inference alone does not follow the division.
    alone = onnx.shape_inference.infer_shapes(model, data_prop=True).graph.value_info
    open_sides = {value.name for value in alone if not value.type.tensor_type.shape.dim[1:2]}
    known = {value.name: value.type.tensor_type.shape.dim for value in alone}
    assert "a" in open_sides or not known["a"][1].dim_value
    loaded = load_model(tiny.save(model, tmp_path / "chunked.onnx"))
    assert loaded.tensors["a"].shape == (None, 4, 8, 8)
    graph = Graph(loaded)
    assert [cut.name for cut in graph.cuts] == ["input", "c", "swapped", "d"]
    cpu = Device("cpu", "test")
    for batch in (1, 3):
        x = rng.normal(size=(batch, 3, 8, 8)).astype(np.float32)
        whole = Session(model, cpu).run(x)
        for cut in graph.cuts[1:]:
            head, tail = graph.split(cut)
            assert head is not None
            np.testing.assert_allclose(Session(tail, cpu).run(Session(head, cpu).run(x)), whole, atol=1e-5)


def test_the_batch_its_multiples_and_open_sides_are_told_apart():
    weights = {"fold": np.array([-1, 1, 8, 8]), "view": np.array([-1, 192]), "swap": np.array([3, -1, 64])}
    nodes = [
        node("Relu", ["input"], ["r"]),
        node("Reshape", ["r", "fold"], ["folded"]),
        node("Reshape", ["r", "view"], ["flat"]),
        node("Reshape", ["r", "swap"], ["swapped"]),
        node("NonZero", ["r"], ["where"]),
        node("Transpose", ["where"], ["logits"]),
    ]
    model = tiny.make_model(nodes, weights, input_shape=("N", 3, 8, 8), output_shape=None)
    shapes = {name: info.shape for name, info in infer(model, "input", None).items()}
    assert shapes["r"] == (None, 3, 8, 8)
    assert shapes["flat"] == (None, 192)
    assert shapes["folded"] == (3, 1, 8, 8)  # three rows a picture: no batch
    assert shapes["swapped"] == (3, 1, 64)  # the batch is the second side
    assert shapes["where"] == (4, None)
    assert shapes["fold"] == (4,)


@pytest.mark.parametrize("opset", [9, 17])
def test_large_constants_are_not_computed_for_their_shape(opset: int, tmp_path: Path):
    """A hundred gigabytes that three numbers ask for."""
    side = np.array([100_000, 100_000, 10])
    nodes = [
        node("ConstantOfShape", ["side"], ["vast"]),
        node("NonZero", ["input"], ["open"]),
        node("GlobalAveragePool", ["input"], ["pool"]),
        node("Flatten", ["pool"], ["logits"]),
    ]
    model = tiny.make_model(nodes, {"side": side}, opset=opset, output_shape=("N", 3))
    shapes = {name: info.shape for name, info in infer(model, "input", None).items()}
    assert shapes["vast"] == (100_000, 100_000, 10)
    assert shapes["open"][-1] is None


def test_arithmetic_that_fails_leaves_the_shape_open(tmp_path: Path):
    """Channel 9 of a shape of four sides: the runtime will say so; reading the model must not fall over."""
    nodes = [
        node("Relu", ["input"], ["r"]),
        node("Shape", ["r"], ["s"]),
        node("Gather", ["s", "nine"], ["side"]),
        node("Slice", ["r", "zero", "side", "one"], ["part"]),
        node("GlobalAveragePool", ["part"], ["pool"]),
        node("Flatten", ["pool"], ["logits"]),
    ]
    constants = {"nine": np.array([9]), "zero": np.array([0]), "one": np.array([1])}
    model = tiny.make_model(nodes, constants, output_shape=None)
    shapes = {name: info.shape for name, info in infer(model, "input", None).items()}
    assert shapes["r"] == (None, 3, 32, 32)
    assert None in shapes["part"][1:]


def test_values_are_known_only_where_the_batch_size_does_not_decide_them():
    """What is computed through a Transpose is known; the batch size modulo 3 is not, though a prime gives a number."""
    nodes = [
        helper.make_node("Shape", ["input"], ["sides"]),
        helper.make_node("Gather", ["sides", "zero"], ["batch"]),
        helper.make_node("Gather", ["sides", "three"], ["cols"]),
        helper.make_node("Mod", ["batch", "three"], ["odd"]),
        helper.make_node("Reshape", ["cols", "matrix"], ["one"]),
        helper.make_node("Transpose", ["one"], ["turned"]),
        helper.make_node("Identity", ["input"], ["logits"]),
    ]
    weights = {"zero": np.array(0), "three": np.array(3), "matrix": np.array([1, 1])}
    model = tiny.make_model(nodes, weights, output_shape=None)
    tensors, values = infer_with_values(model, "input", None)
    assert tensors["logits"].shape == (None, 3, 32, 32)
    assert values["turned"].tolist() == [[32]]
    assert not {"batch", "odd", "sides"} & set(values)
    # The control: with a batch size that the file insists on, they are known.
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    assert infer_with_values(model, "input", 4)[1]["odd"] == 1


# What is computed, of which operators


def i(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def f(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


# An operator with constants, its attributes, and how many outputs it has.
KNOWN = [
    ("Div", [i(-7, 7, -7), i(2, -2, -2)], {}, 1),
    ("Mod", [i(-7, 7, -7), i(2, -3, -2)], {}, 1),
    ("Cast", [f(2.7, -2.7, 3.5)], {"to": onnx.TensorProto.INT64}, 1),
    ("Round", [f(0.5, 1.5, 2.5, -0.5)], {}, 1),
    ("Clip", [i(-3, 5, 9), np.int64(0), np.int64(7)], {}, 1),
    ("Clip", [f(-3, 5), np.float32(0)], {}, 1),
    ("Max", [i(1, 2), i(2, 1), i(0, 9)], {}, 1),
    ("Range", [np.int64(0), np.int64(7), np.int64(2)], {}, 1),
    ("ReduceMax", [i(1, 5, 2)], {"keepdims": 0}, 1),
    ("ReduceSum", [i(2, 3, 4)], {}, 1),
    ("CumSum", [i(2, 3, 4), np.int64(0)], {}, 1),
    ("Sign", [i(-2, 0, 3)], {}, 1),
    ("Abs", [i(-2, 3)], {}, 1),
    ("Sqrt", [f(2, 196)], {}, 1),
    ("Pow", [i(14, 2), i(2, 3)], {}, 1),
    ("Reciprocal", [f(4, 0.5)], {}, 1),
    ("Tile", [i(1, 2), i(3)], {}, 1),
    ("ScatterND", [i(1, 2, 3), np.array([[1]]), i(9)], {}, 1),
    ("Split", [i(1, 2, 3, 4), i(1, 3)], {}, 2),
    ("TopK", [f(1, 3, 2), i(2)], {}, 2),
    ("GreaterOrEqual", [i(1, 2), i(2, 2)], {}, 1),
    ("Xor", [np.array([True, False]), np.array([True, True])], {}, 1),
    ("OneHot", [i(0, 1), np.int64(3), i(0, 1)], {}, 1),
    ("ArgMax", [i(1, 3, 2)], {}, 1),
    ("Trilu", [np.arange(9).reshape(3, 3)], {}, 1),
    ("NonZero", [i(0, 1, 1)], {}, 1),
    ("Compress", [i(3, 1, 3), np.array([True, False, True])], {}, 1),
    ("Pad", [i(1, 2), i(1, 1)], {}, 1),
    ("GatherND", [i(4, 5, 6), np.array([[2], [0]])], {}, 1),
    ("Sum", [f(1, 2), f(3, 4)], {}, 1),
    ("MatMul", [i(1, 2, 3), i(1, 2, 3)], {}, 1),
    ("Slice", [i(1, 2, 3, 4), i(3), i(-10), i(0), i(-1)], {}, 1),
]


def alone(
    op_type: str, constants: list[np.ndarray], attributes: dict, outputs: int
) -> tuple[onnx.NodeProto, dict[str, np.ndarray]]:
    values = {f"x{number}": np.asarray(value) for number, value in enumerate(constants)}
    return node(op_type, list(values), [f"y{number}" for number in range(outputs)], **attributes), values


@pytest.mark.parametrize(("op_type", "constants", "attributes", "outputs"), KNOWN, ids=[each[0] for each in KNOWN])
def test_whatever_computes_a_shape_gives_what_the_runtime_gives(op_type, constants, attributes, outputs):
    made, values = alone(op_type, constants, attributes, outputs)
    opsets = [helper.make_opsetid("", 17)]
    tensors = [numpy_helper.from_array(value, name) for name, value in values.items()]
    results = [helper.make_tensor_value_info(name, onnx.TensorProto.UNDEFINED, None) for name in made.output]
    model = helper.make_model(helper.make_graph([made], "g", [], results, tensors), opset_imports=opsets, ir_version=8)
    typed = onnx.shape_inference.infer_shapes(model).SerializeToString()
    expected = ort.InferenceSession(typed, providers=["CPUExecutionProvider"]).run(None, {})
    found = evaluate(made, values, opsets)
    assert found is not None
    assert list(found) == list(made.output)
    for value, right in zip(found.values(), expected, strict=True):
        assert value.dtype == right.dtype
        np.testing.assert_array_equal(value, right)


VAST = [
    ("Range", [np.int64(0), np.int64(10**9), np.int64(1)], {}),
    ("ConstantOfShape", [i(10**5, 10**5)], {}),
    ("Expand", [i(1), i(10**9)], {}),
    ("Tile", [i(1, 2), i(10**9)], {}),
    ("Pad", [i(1, 2), i(0, 10**9)], {}),
    ("OneHot", [i(0, 1), np.int64(10**9), i(0, 1)], {}),
    ("Resize", [np.ones((1, 1, 2, 2), np.float32), f(), f(), i(1, 1, 10**5, 10**5)], {"mode": "nearest"}),
    ("Conv", [np.ones((1, 1, 2, 2), np.float32), np.ones((1, 1, 1, 1), np.float32)], {"pads": [0, 0, 10**5, 10**5]}),
    ("MaxPool", [np.ones((1, 1, 2, 2), np.float32)], {"kernel_shape": [1, 1], "dilations": [10**5, 10**5]}),
    ("RandomUniform", [], {"shape": [3]}),
    ("Div", [i(7), i(0)], {}),
    ("Sqrt", [f(-1)], {}),
]


@pytest.mark.parametrize(("op_type", "constants", "attributes"), VAST, ids=[each[0] for each in VAST])
def test_what_is_vast_or_random_or_no_number_is_not_computed(op_type, constants, attributes):
    made, values = alone(op_type, constants, attributes, 1)
    assert evaluate(made, values, [helper.make_opsetid("", 17)]) is None


def test_what_is_cut_short_by_a_bound_is_known_only_where_the_batch_has_no_part_in_it():
    """Clip and Floor give one number for two large batch sizes, and another for a batch of 7."""
    nodes = [
        node("Shape", ["input"], ["sides"]),
        node("Gather", ["sides", "zero"], ["batch"]),
        node("Gather", ["sides", "three"], ["cols"]),
        node("Clip", ["batch", "", "ten"], ["at.most"]),
        node("Clip", ["cols", "", "ten"], ["known"]),
        node("Cast", ["batch"], ["number"], to=onnx.TensorProto.FLOAT),
        node("Div", ["number", "much"], ["little"]),
        node("Floor", ["little"], ["none"]),
        node("Identity", ["input"], ["logits"]),
    ]
    weights = {"zero": np.array(0), "three": np.array(3), "ten": np.array(10), "much": np.float32(1e6)}
    model = tiny.make_model(nodes, weights, output_shape=None)
    values = infer_with_values(model, "input", None)[1]
    assert values["known"] == 10
    assert not {"at.most", "none", "batch"} & set(values)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    fixed = infer_with_values(model, "input", 4)[1]
    assert (fixed["at.most"], fixed["none"]) == (4, 0)


def test_computed_indices_are_known_though_the_file_leaves_their_shape_open():
    nodes = [
        node("Range", ["zero", "four", "two"], ["starts"]),
        node("Unsqueeze", ["starts", "first"], ["row"]),
        node("Add", ["row", "column"], ["places"]),
        node("Gather", ["input", "places"], ["patches"], axis=2),
        node("ReduceMean", ["patches"], ["logits"], axes=[2, 3, 4], keepdims=0),
    ]
    numbers = {"zero": np.array(0), "four": np.array(4), "two": np.array(2), "first": np.array([0])}
    weights = {**numbers, "column": np.array([[0], [1]])}
    model = tiny.make_model(nodes, weights, output_shape=("N", 3), input_shape=("N", 3, 4, 4))
    for name, sides in (("starts", [None]), ("row", [1, None]), ("places", [2, None])):
        model.graph.value_info.append(helper.make_tensor_value_info(name, onnx.TensorProto.INT64, sides))
    assert infer(model, "input", None)["patches"].shape == (None, 3, 2, 2, 4)


@pytest.mark.parametrize(("side", "known"), [(14, True), (4000, False)])
def test_indices_of_an_image_cut_into_patches_are_known_and_those_of_a_sheet_are_not(side: int, known: bool):
    made, values = alone("Add", [np.arange(16)[:, None], 16 * np.arange(side)[None]], {}, 1)
    assert (evaluate(made, values, [helper.make_opsetid("", 17)]) is not None) == known


@pytest.mark.parametrize("side", [40, 41, 43])
def test_pads_of_same_are_what_they_are_by_the_runtime(side: int, tmp_path: Path):
    model = same_padded(side)
    loaded = load_model(tiny.save(model, tmp_path / "same.onnx"))
    graph = Graph(loaded)
    shapes = {cut.name: cut.grid for cut in graph.cuts}
    model.graph.output.extend(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in shapes)
    del model.graph.output[1]  # the input
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    results = session.run(list(shapes)[1:], {"input": np.zeros((1, 3, side, side), np.float32)})
    assert {name: result.shape[2:] for name, result in zip(list(shapes)[1:], results, strict=True)} == {
        name: grid for name, grid in shapes.items() if name != "input"
    }
    assert shapes["sum"] == (-(-side // 4), -(-side // 4))
    field = graph.find("sum").field
    assert field is not None
    assert field.stride == (4, 4)


@pytest.mark.parametrize(
    ("op_type", "opset"), [("GroupNormalization", 18), ("GroupNormalization", 21), ("MeanVarianceNormalization", 13)]
)
def test_normalisations_that_inference_does_not_know_keep_the_shape(op_type: str, opset: int):
    inputs = ["input", "s", "s"] if op_type == "GroupNormalization" else ["input"]
    given = {"num_groups": 2} if op_type == "GroupNormalization" else {}
    last = [helper.make_node(op_type, inputs, ["y"], **given), helper.make_node("Relu", ["y"], ["logits"])]
    model = tiny.make_model(
        last, {"s": np.ones(2, np.float32)}, input_shape=("N", 2, 8, 6), output_shape=None, opset=opset
    )
    assert infer(model, "input", None)["logits"].shape == (None, 2, 8, 6)


def test_what_is_computed_has_its_shape_whatever_the_file_says_of_it():
    """Tools that infer shapes for a free batch write sides that they do not know; with a batch of 1 all are known."""
    nodes = [
        node("Shape", ["input"], ["s"], start=0, end=1),
        node("Concat", ["s", "ones"], ["sides"], axis=0),
        node("Expand", ["token", "sides"], ["tokens"]),
        node("GlobalAveragePool", ["input"], ["pool"]),
        node("Flatten", ["pool"], ["flat"]),
        node("Unsqueeze", ["flat", "one"], ["line"]),
        node("Concat", ["line", "tokens"], ["both"], axis=1),
        node("Gather", ["both", "first"], ["row"], axis=1),
        node("Reshape", ["row", "open"], ["seen"]),
        node("Gemm", ["seen", "m"], ["logits"]),
    ]
    weights = {
        "ones": np.array([1, 1]), "token": np.ones((1, 1, 3), np.float32), "one": np.array([1]), "first": np.array(0),
        "m": np.ones((3, 5), np.float32), "open": np.array([-1, 3]),
    }  # fmt: skip
    model = tiny.make_model(nodes, weights)
    vague = helper.make_tensor_value_info("tokens", onnx.TensorProto.FLOAT, ["unk__1", "unk__2", 3])
    model.graph.value_info.append(vague)
    # A tensor that is there no more stays open, so that inference computes what it can.
    model.graph.value_info.append(helper.make_tensor_value_info("gone", onnx.TensorProto.FLOAT, ["unk__3", 3]))
    tensors = infer_with_values(model, "input", 1)[0]
    assert tensors["tokens"].shape == (None, 1, 3)
    assert tensors["both"].shape == (None, 2, 3)
