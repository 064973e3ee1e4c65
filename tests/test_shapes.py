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
