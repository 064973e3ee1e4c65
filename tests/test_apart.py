"""Large weights are held once, and everything is as if each graph had its own."""

import ctypes
import gc
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from click.testing import CliRunner
from onnx import helper, numpy_helper

from onnx_evidence import DeployedModel, Explainer
from onnx_evidence.cli import main
from onnx_evidence.errors import ModelError
from onnx_evidence.evaluation.randomise import find_weights, redraw
from onnx_evidence.graphs import apart, array_of, held_of, hold_apart, is_held, with_weights
from onnx_evidence.sessions import Device, Session
from tests import tiny

CPU = Device("cpu", "asked for")


@pytest.fixture
def low(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of a kilobyte are large, and one is many."""
    monkeypatch.setattr(apart, "_LARGE", 1024)
    monkeypatch.setattr(apart, "_MANY", 1)


def product(*names: str, side: int = 32) -> onnx.ModelProto:
    """A picture (N, side) times a weight each, in turn; the last weights are read by nobody."""
    nodes = [
        helper.make_node("MatMul", [before, name], [f"{name}/out"])
        for before, name in zip(["x", *(f"{name}/out" for name in names)], names, strict=False)
    ]
    rng = np.random.default_rng(0)
    weights = [numpy_helper.from_array(rng.normal(size=(side, side)).astype(np.float32), name) for name in names]
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", side])],
        [helper.make_tensor_value_info(f"{names[-1]}/out", onnx.TensorProto.FLOAT, ["N", side])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_small_models_keep_their_weights(low, monkeypatch):
    model = product("a", "b")
    monkeypatch.setattr(apart, "_LARGE", 4 * 32 * 32 + 1)
    assert hold_apart(model) == (model, ())
    monkeypatch.setattr(apart, "_LARGE", 4 * 32 * 32)
    monkeypatch.setattr(apart, "_MANY", 2 * 4 * 32 * 32 + 1)
    assert hold_apart(model) == (model, ())
    monkeypatch.setattr(apart, "_MANY", 2 * 4 * 32 * 32)
    light, held = hold_apart(model)
    assert len(held) == 2
    assert light.ByteSize() < model.ByteSize() / 10


def test_numbers_are_the_same_and_a_session_reads_them_where_they_are(low):
    model = product("a", "b")
    x = np.random.default_rng(1).normal(size=(3, 32)).astype(np.float32)
    expected = Session(model, CPU).run(x)
    light, held = hold_apart(model)
    assert all(is_held(tensor) for tensor in light.graph.initializer)
    for tensor, own in zip(light.graph.initializer, model.graph.initializer, strict=True):
        np.testing.assert_array_equal(array_of(tensor), numpy_helper.to_array(own))
    session = Session(light, CPU)
    np.testing.assert_allclose(session.run(x), expected, rtol=1e-5)
    # Not a copy: what is written there moves the answer.
    ctypes.memset(held[0].ctypes.data, 0, held[0].nbytes)
    assert not session.run(x).any()


def test_weights_that_nobody_reads_keep_no_session_from_opening(low):
    light, _ = hold_apart(product("a", "b"))
    del light.graph.node[1:]
    light.graph.output[0].name = "a/out"
    alone, read = held_of(light)
    assert list(read) == ["a"]
    assert [tensor.name for tensor in alone.graph.initializer] == ["a"]
    assert len(light.graph.initializer) == 2  # it is left as it is
    assert Session(light, CPU).run(np.ones((1, 32), np.float32)).shape == (1, 32)


def test_weights_are_gone_with_the_last_who_has_them(low):
    light, held = hold_apart(product("a"))
    del held
    gc.collect()
    with pytest.raises(ModelError, match="weight 'a' is gone with the model that it is of"):
        array_of(light.graph.initializer[0])


def test_a_model_is_whole_again(low):
    """And nothing else of it is lost."""
    model = product("a", "b")
    model.doc_string, model.domain, model.model_version, model.producer_name = "words", "here", 3, "exporter"
    model.metadata_props.add(key="names", value="a")
    model.graph.doc_string = "more"
    model.graph.quantization_annotation.add(tensor_name="x")
    model.functions.add(name="f", domain="here")
    light, _held = hold_apart(model)
    assert with_weights(light) == model


@pytest.mark.parametrize("settings", [{}, {"method": "window"}, {"project": "backward"}, {"method": "ordered"}])
def test_maps_do_not_depend_on_where_weights_are(settings, tiny_model, monkeypatch):
    picture = np.random.default_rng(5).integers(0, 256, (40, 40, 3), np.uint8)
    usual = Explainer(tiny_model, cache=False, device="cpu", **settings).explain(picture)
    monkeypatch.setattr(apart, "_LARGE", 1024)
    monkeypatch.setattr(apart, "_MANY", 1)
    with Explainer(tiny_model, cache=False, device="cpu", **settings) as explainer:
        assert explainer.deployed.model.held
        found = explainer.explain(picture)
    np.testing.assert_allclose(found.values, usual.values, rtol=1e-4, atol=1e-6)
    assert found.probability == usual.probability


def test_weights_are_redrawn_as_ever(tiny_model, low, monkeypatch):
    x = np.random.default_rng(2).normal(size=(1, 3, 32, 32)).astype(np.float32)

    def drawn() -> np.ndarray:
        with DeployedModel(tiny_model, cache=False, device="cpu") as deployed:
            return redraw(deployed, find_weights(deployed.graph), seed=3).canonical(x)

    held = drawn()
    monkeypatch.setattr(apart, "_LARGE", 1 << 40)
    np.testing.assert_allclose(held, drawn(), rtol=1e-5)


def test_a_backward_graph_is_written_with_its_weights(tiny_model, low, tmp_path):
    out = tmp_path / "backward.onnx"
    done = CliRunner().invoke(main, ["gradient", str(tiny_model), "-o", str(out)])
    assert done.exit_code == 0, done.output
    assert {each.name for each in ort.InferenceSession(out, providers=["CPUExecutionProvider"]).get_outputs()} >= {
        "gradient",
        "value",
    }


def test_weights_of_half_precision_and_in_loops_are_found(low, tmp_path):
    """Control: what is of another type, or not large, stays in the graph."""
    rng = np.random.default_rng(0)
    kinds = [np.float16, np.float32, np.float64, np.int8]
    tensors = [numpy_helper.from_array(rng.normal(size=(64, 64)).astype(kind), kind.__name__) for kind in kinds]
    tensors.append(numpy_helper.from_array(np.ones(3, np.float32), "small"))
    light, held = hold_apart(helper.make_model(helper.make_graph([], "g", [], [], tensors)))
    assert {tensor.name for tensor in light.graph.initializer if is_held(tensor)} == {"float16", "float32"}
    assert [each.dtype for each in held] == [np.float16, np.float32]


def test_tiny_models_of_the_tests_are_not_held(tiny_model):
    assert tiny.classifier().ByteSize() < apart._MANY
    assert DeployedModel(tiny_model, cache=False).model.held == ()


def test_no_other_process_takes_its_own_weights_for_these(low):
    """Places of weights are of one process's one weight: a graph that is sent elsewhere is refused there."""
    lights = [hold_apart(product("a"))[0] for _ in range(2)]
    places = {light.graph.initializer[0].external_data[0].value for light in lights}
    assert len(places) == 2
    light, _held = hold_apart(product("a"))
    script = (
        "import sys, onnx, onnx_evidence.graphs.apart as apart\n"
        "from tests.test_apart import product\n"
        "apart._LARGE, apart._MANY = 1024, 1\n"
        "kept = [apart.hold_apart(product('a')) for _ in range(50)]\n"
        "apart.held_of(onnx.ModelProto.FromString(sys.stdin.buffer.read()))"
    )
    told = subprocess.run([sys.executable, "-c", script], input=light.SerializeToString(), capture_output=True)
    assert told.returncode != 0
    assert b"weight 'a' is gone with the model that it is of" in told.stderr
