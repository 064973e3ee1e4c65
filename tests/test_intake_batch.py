"""A fixed batch made free: against single runs of the file; and left alone where that would be wrong."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper

from onnx_evidence.cli.inspection import inspect_model
from onnx_evidence.deployed import DeployedModel
from onnx_evidence.errors import ModelError
from onnx_evidence.intake import proof
from onnx_evidence.intake.model import load_model
from tests import tiny

node = helper.make_node
RNG = np.random.default_rng(8)
TOKENS, WIDTH, HEADS = 16, 8, 2


def weights(*shape: int) -> np.ndarray:
    return (RNG.normal(size=shape) / np.sqrt(shape[-2] if len(shape) > 1 else 1)).astype(np.float32)


def whole(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def transformer(batch: int) -> onnx.ModelProto:
    """A class token put before 16 patches, then attention as torch exports it: tokens first, batch merged with heads.

    Every constant that holds the batch size is written out, as an export with a fixed batch does.
    """
    n, t, c, h = batch, TOKENS + 1, WIDTH, HEADS
    constants = {
        "patch": weights(c, 3, 2, 2),
        "patch.sides": whole(n, c, TOKENS),
        "token": np.repeat(weights(1, 1, c), n, axis=0),
        "place": weights(1, t, c),
        "in": weights(c, 3 * c),
        "three": whole(c, c, c),
        "split.sides": whole(t, n * h, c // h),
        "merge.sides": whole(t, n, c),
        "rows.sides": whole(t * n, c),
        "out": weights(c, c),
        "scale": np.float32(1 / np.sqrt(c // h)),
        "first": whole(0),
        "w": weights(c, 5),
    }
    nodes = [
        node("Conv", ["input", "patch"], ["patches"], strides=[2, 2]),
        node("Reshape", ["patches", "patch.sides"], ["flat"]),
        node("Transpose", ["flat"], ["rows"], perm=[0, 2, 1]),
        node("Concat", ["token", "rows"], ["tokens"], axis=1),
        node("Add", ["tokens", "place"], ["placed"]),
        node("Transpose", ["placed"], ["tokens.first"], perm=[1, 0, 2]),
        node("MatMul", ["tokens.first", "in"], ["all"]),
        node("Split", ["all", "three"], ["q", "k", "v"], axis=2),
    ]
    for name in "qkv":
        nodes += [
            node("Reshape", [name, "split.sides"], [f"{name}.split"]),
            node("Transpose", [f"{name}.split"], [f"{name}.heads"], perm=[1, 0, 2]),
        ]
    nodes += [
        node("Transpose", ["k.heads"], ["k.turned"], perm=[0, 2, 1]),
        node("MatMul", ["q.heads", "k.turned"], ["scores"]),
        node("Mul", ["scores", "scale"], ["scaled"]),
        node("Softmax", ["scaled"], ["attention"], axis=-1),
        node("MatMul", ["attention", "v.heads"], ["mixed"]),
        node("Transpose", ["mixed"], ["mixed.first"], perm=[1, 0, 2]),
        # Tokens and batch become rows of one matrix, and tokens and batch again.
        node("Reshape", ["mixed.first", "rows.sides"], ["matrix"]),
        node("Gemm", ["matrix", "out"], ["projected"]),
        node("Reshape", ["projected", "merge.sides"], ["merged"]),
        node("Add", ["merged", "tokens.first"], ["residual"]),
        node("Transpose", ["residual"], ["batch.first"], perm=[1, 0, 2]),
        node("Gather", ["batch.first", "first"], ["taken"], axis=1),
        node("Squeeze", ["taken", "one"], ["class"]),
        node("Gemm", ["class", "w"], ["logits"]),
    ]
    constants["one"] = whole(1)
    return tiny.make_model(nodes, constants, input_shape=(n, 3, 8, 8), output_shape=(n, 5))


def squeezing(batch: int) -> onnx.ModelProto:
    """Sizes of a Resize, sides of an Expand and of a Reshape that hold the batch size; scores of a second branch."""
    constants = {
        "kernel": weights(4, 3, 3, 3),
        "sizes": whole(batch, 4, 12, 12),
        "gate.sides": whole(batch, 4, 12, 12),
        "flat": whole(batch, -1),
        "w": weights(4, 5),
        "empty": np.array([], np.float32),
    }
    nodes = [
        node("Conv", ["input", "kernel"], ["conv"]),
        node("Resize", ["conv", "empty", "empty", "sizes"], ["large"], mode="nearest"),
        node("GlobalAveragePool", ["large"], ["pool"]),
        node("Sigmoid", ["pool"], ["gate"]),
        node("Expand", ["gate", "gate.sides"], ["gates"]),
        node("Mul", ["large", "gates"], ["gated"]),
        node("GlobalAveragePool", ["gated"], ["end"]),
        node("Reshape", ["end", "flat"], ["vector"]),
        node("Gemm", ["vector", "w"], ["logits"]),
    ]
    return tiny.make_model(nodes, constants, input_shape=(batch, 3, 8, 8), output_shape=(batch, 5))


def write(model: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def run_file(path: Path, x: np.ndarray, batch: int) -> np.ndarray:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"input": x[i : i + batch]})[0] for i in range(0, len(x), batch)])


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("make", [transformer, squeezing])
def test_any_number_of_pictures_gives_what_the_file_gives(make, batch: int, tmp_path: Path):
    path = write(make(batch), tmp_path)
    opened = DeployedModel(path, device="cpu")
    model = opened.model
    x = np.random.default_rng(1).normal(size=(6, 3, 8, 8)).astype(np.float32)
    expected = run_file(path, x, batch)
    assert (model.batch, model.entry.batch) == (None, batch)
    for number in (1, 2, 5, 6):
        np.testing.assert_allclose(opened.canonical(x[:number]), expected[:number], atol=1e-5)
    assert opened.session.run(x).shape == (6, 5)  # at once, not in a loop
    assert opened.session._batch is None
    assert model.tensors["logits"].shape == (None, 5)
    assert model.proof is not None
    assert 0 <= model.proof.deviation < 1e-5
    assert model.proof.told_apart > 0.01
    runs = "two single runs" if batch == 1 else f"two runs of {batch}"
    assert model.proof.words.startswith(f"batch of {batch + 1} equals {runs} to ")
    report = inspect_model(opened)
    assert report["input"]["shape"] == [batch, 3, 8, 8]
    assert report["input"]["batch"] is None
    assert report["proof"]["words"] == model.proof.words


def test_the_batch_is_where_reshapes_put_it(tmp_path: Path):
    model = load_model(write(transformer(1), tmp_path))
    sides = {each.name: onnx.numpy_helper.to_array(each).tolist() for each in model.proto.graph.initializer}
    by_output = {each.output[0]: each for each in model.proto.graph.node}
    assert sides[by_output["q.split"].input[1]] == [TOKENS + 1, -1, WIDTH // HEADS]
    assert sides[by_output["merged"].input[1]] == [TOKENS + 1, -1, WIDTH]
    assert sides[by_output["matrix"].input[1]] == [-1, WIDTH]


def mixing(batch: int) -> onnx.ModelProto:
    """Scores from which the mean over the batch is taken off: what one picture gets depends on the others."""
    nodes = [
        node("GlobalAveragePool", ["input"], ["pool"]),
        node("Reshape", ["pool", "sides"], ["vector"]),
        node("ReduceMax", ["vector"], ["mean"], axes=[0], keepdims=1),
        node("Mul", ["vector", "mean"], ["logits"]),
    ]
    constants = {"sides": whole(batch, 3)}
    return tiny.make_model(nodes, constants, input_shape=(batch, 3, 8, 8), output_shape=(batch, 3))


def blind(batch: int) -> onnx.ModelProto:
    """Scores that no plausible picture changes: two equal runs would prove nothing."""
    nodes = [
        node("GlobalAveragePool", ["input"], ["pool"]),
        node("Reshape", ["pool", "sides"], ["vector"]),
        node("Sub", ["vector", "much"], ["low"]),
        node("Relu", ["low"], ["none"]),
        node("Add", ["none", "scores"], ["logits"]),
    ]
    constants = {"sides": whole(batch, 3), "much": np.float32(1e6), "scores": weights(3)}
    return tiny.make_model(nodes, constants, input_shape=(batch, 3, 8, 8), output_shape=(batch, 3))


@pytest.mark.parametrize("make", [mixing, blind])
def test_control_what_the_proof_does_not_carry_is_run_as_the_file_says(make, tmp_path: Path):
    path = write(make(1), tmp_path)
    opened = DeployedModel(path, device="cpu")
    x = np.random.default_rng(1).normal(size=(3, 3, 8, 8)).astype(np.float32)
    assert opened.model.batch == 1
    assert opened.model.changes == ()
    assert opened.model.proof is None
    np.testing.assert_allclose(opened.canonical(x), run_file(path, x, 1), atol=1e-6)
    kept = [each for each in opened.model.proto.graph.node if each.op_type == "Reshape"]
    assert [each.input[1] for each in kept] == ["sides"]


def test_what_contradicts_a_free_batch_is_run_as_the_file_says(tmp_path: Path):
    """The only picture squeezed out of the batch."""
    nodes = [
        node("Squeeze", ["input", "zero"], ["picture"]),
        node("ReduceMean", ["picture"], ["mean"], axes=[1, 2], keepdims=0),
        node("Unsqueeze", ["mean", "zero"], ["logits"]),
    ]
    path = write(tiny.make_model(nodes, {"zero": whole(0)}, input_shape=(1, 3, 8, 8), output_shape=(1, 3)), tmp_path)
    opened = DeployedModel(path, device="cpu")
    x = np.random.default_rng(1).normal(size=(3, 3, 8, 8)).astype(np.float32)
    assert opened.model.batch == 1
    np.testing.assert_allclose(opened.canonical(x), x.mean(axis=(2, 3)), atol=1e-6)


def test_a_batch_written_into_a_graph_that_says_it_is_free_is_found(tmp_path: Path):
    nodes = [
        node("GlobalAveragePool", ["input"], ["pool"]),
        node("Reshape", ["pool", "row"], ["logits"]),
    ]
    path = write(
        tiny.make_model(nodes, {"row": whole(1, -1)}, input_shape=("N", 3, 8, 8), output_shape=(1, "K")), tmp_path
    )
    opened = DeployedModel(path, device="cpu")
    x = np.random.default_rng(1).normal(size=(3, 3, 8, 8)).astype(np.float32)
    assert opened.model.batch is None
    assert opened.model.changes == ("batch made free (1 constants)",)
    np.testing.assert_allclose(opened.canonical(x), x.mean(axis=(2, 3)), atol=1e-6)


def test_a_canonical_file_needs_no_proof(tiny_model: Path, monkeypatch: pytest.MonkeyPatch):
    def none(*_: object, **__: object) -> None:
        raise AssertionError("a session was opened")

    monkeypatch.setattr(proof, "Session", none)
    model = load_model(tiny_model)
    assert (model.changes, model.proof, model.batch) == ((), None, None)


def test_control_a_rewritten_graph_that_differs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model = tiny.make_model(
        [node("ReduceMean", ["input"], ["logits"], axes=[1, 2], keepdims=0)], {}, input_shape=("N", 8, 9, 3)
    )
    path = write(model, tmp_path)
    assert load_model(path).proof is not None
    whole_run = proof.Session.run
    monkeypatch.setattr(proof.Session, "run", lambda self, x: whole_run(self, x) + (x.shape[1] == 3) * np.float32(1e-3))
    message = r"as rewritten \(channels put first\) differs from the file by .* of the largest score, more than 0.0001"
    with pytest.raises(ModelError, match=message):
        load_model(path)


def test_scales_taken_from_the_whole_batch_make_pictures_run_singly(tmp_path):
    scaled = helper.make_node("DynamicQuantizeLinear", ["input"], ["codes", "scale", "zero"])
    float_again = helper.make_node("DequantizeLinear", ["codes", "scale", "zero"], ["x"])
    pool = helper.make_node("GlobalAveragePool", ["x"], ["pool"])
    matrix = {"w": np.arange(15, dtype=np.float32).reshape(3, 5) - 7}
    ends = [helper.make_node("Flatten", ["pool"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["logits"])]
    path = tiny.save(tiny.make_model([scaled, float_again, pool, *ends], matrix), tmp_path / "dynamic.onnx")
    model = load_model(path)
    assert model.batch == 1
    (change,) = model.changes
    assert change == "one picture at a time: pictures of a batch see each other from DynamicQuantizeLinear 'codes' on"
    # Alone beside a picture of another range the file gives other scores: that is what must not happen.
    small = np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32)
    small[1] *= 100
    session = ort.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    together = session.run(None, {"input": small})[0][0]
    alone = session.run(None, {"input": small[:1]})[0][0]
    assert np.abs(together - alone).max() > 1e-3
    ours = DeployedModel(path, preprocess="unit").canonical(small)
    np.testing.assert_allclose(ours[0], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("axes", [None, [0, 2, 3], [2, 3]])
def test_statistics_of_the_whole_batch_make_pictures_run_singly(axes: list[int] | None, tmp_path: Path):
    given = {} if axes is None else {"axes": axes}
    scaled = helper.make_node("MeanVarianceNormalization", ["input"], ["x"], **given)
    turned = helper.make_node("Relu", ["x"], ["r"])
    pool = helper.make_node("GlobalAveragePool", ["r"], ["pool"])
    matrix = {"w": np.arange(15, dtype=np.float32).reshape(3, 5) - 7}
    ends = [helper.make_node("Flatten", ["pool"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["logits"])]
    model = tiny.make_model([scaled, turned, pool, *ends], matrix)
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    opened = DeployedModel(path, device="cpu")
    assert opened.model.batch == (None if axes == [2, 3] else 1)
    x = np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32)
    x[1] *= 100
    session = ort.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    alone = np.concatenate([session.run(None, {"input": each[None]})[0] for each in x])
    np.testing.assert_allclose(opened.logits(x), alone, atol=1e-4)
    if axes != [2, 3]:
        assert np.abs(session.run(None, {"input": x})[0] - alone).max() > 1e-3
