"""Functions, branches, loops, constants: the canonical graph gives what ONNX Runtime gives for the file."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_evidence.deployed import DeployedModel
from onnx_evidence.errors import ModelError
from onnx_evidence.intake.model import Model, load_model
from tests import tiny

node = helper.make_node
X = np.random.default_rng(2).normal(size=(3, 3, 32, 32)).astype(np.float32)


def write(model: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def taken(model: onnx.ModelProto, folder: Path) -> Model:
    """The model taken in, after its logits were compared with the file's."""
    path = write(model, folder)
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    expected = session.run(None, {"input": X})[0]
    assert np.ptp(expected) > 0.01
    opened = DeployedModel(path, device="cpu")
    np.testing.assert_allclose(opened.canonical(X), expected.reshape(len(X), -1), atol=1e-5)
    return opened.model


def operators(model: Model) -> list[str]:
    return [each.op_type for each in model.proto.graph.node]


def replaced(old: str, *new: onnx.NodeProto) -> onnx.ModelProto:
    """The tiny classifier with other nodes in the place of the one that makes ``old``."""
    model = tiny.classifier()
    nodes = list(model.graph.node)
    place = next(number for number, each in enumerate(nodes) if old in each.output)
    del model.graph.node[:]
    model.graph.node.extend([*nodes[:place], *new, *nodes[place + 1 :]])
    return model


def test_constant_nodes_become_initializers(tmp_path: Path):
    model = tiny.classifier()
    kept = [each for each in model.graph.initializer if each.name != "b6"]
    bias = next(each for each in model.graph.initializer if each.name == "b6")
    floats = [float(each) for each in numpy_helper.to_array(bias)]
    last = model.graph.node[-1]
    last.input[2] = "sum"
    nodes = [
        node("Constant", [], ["list"], value_floats=floats),
        node("Constant", [], ["number"], value_float=0.25),
        node("Constant", [], ["tensor"], value=numpy_helper.from_array(np.array([1.5], np.float32))),
        node("Add", ["list", "number"], ["sum.a"]),
        node("Add", ["sum.a", "tensor"], ["sum"]),
    ]
    rest = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *rest])
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    loaded = taken(model, tmp_path)
    assert "Constant" not in operators(loaded)
    found = {each.name: numpy_helper.to_array(each) for each in loaded.proto.graph.initializer}
    assert found["number"] == np.float32(0.25)
    np.testing.assert_array_equal(found["list"], np.float32(floats))
    assert loaded.proof is None  # nothing was computed otherwise


def test_local_functions_are_put_in_place(tmp_path: Path):
    model = replaced("stem.relu", node("Hinge", ["stem"], ["stem.relu"], domain="mine"))
    function = helper.make_function(
        "mine", "Hinge", ["a"], ["b"], [node("Relu", ["a"], ["b"])], [helper.make_opsetid("", 17)]
    )
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("mine", 1))
    loaded = taken(model, tmp_path)
    assert operators(loaded) == operators(load_model(tiny.save(tiny.classifier(), tmp_path / "plain.onnx")))
    assert not loaded.proto.functions
    assert loaded.changes == ("1 local functions put in place",)
    assert loaded.proof is not None
    assert loaded.proof.deviation < 1e-6


def test_an_operator_of_a_library_that_is_not_here_is_refused_by_name(tmp_path: Path):
    model = replaced("stem.relu", node("Secret", ["stem"], ["stem.relu"], domain="com.example"))
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    with pytest.raises(ModelError, match=r"operator 'Secret' is of the custom domain 'com.example', whose library is"):
        load_model(write(model, tmp_path))


def test_nodes_out_of_order_are_sorted(tmp_path: Path):
    """As converters to half precision leave them; ONNX Runtime runs such files."""
    model = tiny.classifier()
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(nodes[::-1])
    assert operators(taken(model, tmp_path)) == [each.op_type for each in nodes]


def body(name: str, nodes: list[onnx.NodeProto], output: str) -> onnx.GraphProto:
    return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)])


def choosing(*condition: onnx.NodeProto) -> onnx.ModelProto:
    """A rectifier where ``condition`` makes 'chosen' true, else a sigmoid of half: with constants of their own."""
    half = numpy_helper.from_array(np.float32(0.5), "half")
    then = body("then", [node("Relu", ["stem"], ["r"])], "r")
    other = body("other", [node("Mul", ["stem", "half"], ["h"]), node("Sigmoid", ["h"], ["s"])], "s")
    other.initializer.append(half)
    model = replaced(
        "stem.relu", *condition, node("If", ["chosen"], ["stem.relu"], then_branch=then, else_branch=other)
    )
    constants = {"three": np.array(3), "four": np.array(4), "channel": np.array(1), "seven": np.array([7])}
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    return model


ASKED = [node("Shape", ["input"], ["sides"]), node("Gather", ["sides", "channel"], ["channels"])]


@pytest.mark.parametrize(("number", "left"), [("three", "Relu"), ("four", "Sigmoid")])
def test_a_branch_that_the_shape_decides_is_put_in_place(number: str, left: str, tmp_path: Path):
    loaded = taken(choosing(*ASKED, node("Equal", ["channels", number], ["chosen"])), tmp_path)
    assert "If" not in operators(loaded)
    assert operators(loaded).count("Sigmoid") == (left == "Sigmoid")
    assert "Shape" not in operators(loaded)
    assert loaded.changes == ("1 branches and loops that constants decide put in place",)


@pytest.mark.parametrize(
    "condition",
    [
        [node("ReduceMax", ["input"], ["largest"], keepdims=0), node("Cast", ["largest"], ["chosen"], to=9)],
        [node("Shape", ["input"], ["sides"], end=1), node("Equal", ["sides", "seven"], ["chosen"])],
    ],
    ids=["picture", "batch"],
)
def test_control_a_branch_that_picture_or_batch_decide_stays(condition: list[onnx.NodeProto], tmp_path: Path):
    loaded = taken(choosing(*condition), tmp_path)
    assert "If" in operators(loaded)
    assert loaded.changes == ()


def looping(turns: int) -> onnx.ModelProto:
    """So many times: halve, add the number of the turn."""
    inside = helper.make_graph(
        [
            node("Cast", ["turn"], ["number"], to=TensorProto.FLOAT),
            node("Mul", ["state", "half"], ["less"]),
            node("Add", ["less", "number"], ["next"]),
            node("Identity", ["on"], ["still"]),
        ],
        "turns",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, None),
        ],
        [numpy_helper.from_array(np.float32(0.5), "half")],
    )
    model = replaced("stem.relu", node("Loop", ["turns", "true", "stem"], ["stem.relu"], body=inside))
    constants = {"turns": np.array(turns), "true": np.array(True)}
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    return model


@pytest.mark.parametrize("turns", [0, 1, 3])
def test_a_short_loop_is_unrolled(turns: int, tmp_path: Path):
    loaded = taken(looping(turns), tmp_path)
    assert "Loop" not in operators(loaded)
    assert operators(loaded).count("Mul") == turns


def test_control_a_long_loop_stays(tmp_path: Path):
    assert "Loop" in operators(taken(looping(17), tmp_path))


def test_arithmetic_on_shapes_is_computed_but_for_the_batch(tmp_path: Path):
    nodes = [
        node("Shape", ["pool"], ["sides"]),
        node("Gather", ["sides", "one"], ["channels"]),
        node("Gather", ["sides", "zero"], ["batch"]),
        node("Concat", ["batch", "channels"], ["target"], axis=0),
        node("Reshape", ["pool", "target"], ["flat"]),
    ]
    model = replaced("flat", *nodes)
    constants = {"one": np.array([1]), "zero": np.array([0])}
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    loaded = taken(model, tmp_path)
    found = {
        each.name: numpy_helper.to_array(each).tolist()
        for each in loaded.proto.graph.initializer
        if "w" not in each.name
    }
    assert found["channels"] == [12]
    assert "batch" not in found
    assert operators(loaded).count("Gather") == 1
    assert loaded.tensors["channels"].shape == (1,)
