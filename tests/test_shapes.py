"""Types and shapes before the model runs, with the batch told apart."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from onnx_evidence.graph import Graph
from onnx_evidence.model import load_model
from onnx_evidence.runtime import Device, Session
from onnx_evidence.shapes import infer, infer_with_values
from tests import tiny


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
