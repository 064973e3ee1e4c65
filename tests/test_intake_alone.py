"""Batches in which pictures see each other, and answers that change from run to run: against ONNX Runtime alone."""

import itertools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_evidence import DeployedModel, Explainer, ModelError
from onnx_evidence.cli.inspection import inspect_model
from onnx_evidence.graphs.nodes import node_inputs
from onnx_evidence.graphs.shapes import infer
from onnx_evidence.intake.model import load_model
from onnx_evidence.intake.picturewise import by_picture
from onnx_evidence.intake.tried import other_batches, pattern
from tests import oracles, tiny

node = helper.make_node
RNG = np.random.default_rng(3)
CHANNELS, SIDE = 3, 8


def whole(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


WEIGHTS = {
    "kernel": (RNG.normal(size=(4, CHANNELS, 3, 3)) / 3).astype(np.float32),
    "w": RNG.normal(size=(4, 5)).astype(np.float32),
    "zero": whole(0),
    "one": whole(1),
    "two": whole(2),
    "many": whole(9999),
    "half": np.float32(0.5),
    "row": whole(1, -1),
    "column": whole(-1, 1),
    "yes": np.array(True),
    "no": np.array(False),
    "nothing": np.float32(0),
    **dict.fromkeys(("scale", "variance"), np.ones(4, np.float32)),
    **dict.fromkeys(("bias", "mean"), np.zeros(4, np.float32)),
}


def network(
    *inside: onnx.NodeProto, batch: int | str = "N", opset: int = 17, more: dict[str, np.ndarray] | None = None
) -> onnx.ModelProto:
    """A convolution, rectified, in 'x', then ``inside``, which makes 'y' of it; then means, 'flat', and five scores.

    Nodes that make 'v' of 'flat' come behind the means.
    """
    late = any("v" in each.output for each in inside)
    read = {name for each in inside for name in node_inputs(each)}
    end = [node("GlobalAveragePool", ["x" if late else "y"], ["pool"]), node("Flatten", ["pool"], ["flat"])]
    nodes = [
        node("Conv", ["input", "kernel"], ["conv"], pads=[1, 1, 1, 1]),
        node("Relu", ["conv"], ["x"]),
        *(end + list(inside) if late else list(inside) + end),
        node("MatMul", ["v" if late else "flat", "w"], ["logits"]),
    ]
    weights = {name: value for name, value in WEIGHTS.items() if name in read | {"kernel", "w"}} | (more or {})
    return tiny.make_model(
        nodes, weights, input_shape=(batch, CHANNELS, SIDE, SIDE), output_shape=(batch, 5), opset=opset
    )


def write(model: onnx.ModelProto, folder: Path) -> Path:
    return tiny.save(model, folder / "model.onnx")


def runner(model: onnx.ModelProto) -> Callable[[np.ndarray], np.ndarray]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {"input": x})[0]


def pictures(number: int = 3) -> np.ndarray:
    x = np.random.default_rng(1).normal(size=(number, CHANNELS, SIDE, SIDE)).astype(np.float32)
    return x * np.array([1, 3, 0.3, 2, 5])[:number, None, None, None].astype(np.float32)


ROLLED = [
    node("Slice", ["x", "zero", "one", "zero"], ["first"]),
    node("Slice", ["x", "one", "many", "zero"], ["rest"]),
    node("Concat", ["rest", "first"], ["rolled"], axis=0),
]
COUNT = [
    node("Shape", ["x"], ["shape"]),
    node("Gather", ["shape", "zero"], ["n"]),
    node("Cast", ["n"], ["count"], to=TensorProto.FLOAT),
]
CASES = {
    "extremes of all": [
        node("ReduceMin", ["conv"], ["low"]),
        node("ReduceMax", ["conv"], ["high"]),
        node("Sub", ["conv", "low"], ["above"]),
        node("Sub", ["high", "low"], ["range"]),
        node("Div", ["above", "range"], ["y"]),
    ],
    "smallest of all": [node("ReduceMin", ["conv"], ["low"]), node("Sub", ["conv", "low"], ["y"])],
    "largest of all": [node("ReduceMax", ["x"], ["high"]), node("Div", ["x", "high"], ["y"])],
    "mean over pictures": [node("ReduceMean", ["x"], ["m"], axes=[0]), node("Sub", ["x", "m"], ["y"])],
    "sum over pictures": [node("ReduceSum", ["x", "zero"], ["m"]), node("Mul", ["x", "m"], ["y"])],
    "softmax over pictures": [node("Softmax", ["x"], ["s"], axis=0), node("Mul", ["x", "s"], ["y"])],
    "best over pictures": [node("TopK", ["x", "one"], ["top", "_"], axis=0), node("Sub", ["x", "top"], ["y"])],
    "sums so far": [node("CumSum", ["x", "zero"], ["y"])],
    "the picture before": [*ROLLED, node("Where", ["larger", "rolled", "x"], ["y"])],
    "the first picture": [node("Gather", ["x", "zero"], ["first"], axis=0), node("Sub", ["x", "first"], ["y"])],
    "normalised together": [
        node("Transpose", ["x"], ["turned"], perm=[1, 0, 2, 3]),
        node("Reshape", ["turned", "together"], ["joined"]),
        node("InstanceNormalization", ["joined", "scale", "bias"], ["normal"]),
        node("Reshape", ["normal", "apart"], ["split"]),
        node("Transpose", ["split"], ["y"], perm=[1, 0, 2, 3]),
    ],
    "one row of all": [
        node("Reshape", ["flat", "row"], ["line"]),
        node("ReduceMax", ["line"], ["m"], axes=[1]),
        node("Mul", ["flat", "m"], ["v"]),
    ],
    "share of what is set": [
        node("NonZero", ["flat"], ["places"]),
        node("Shape", ["places"], ["shape"]),
        node("Cast", ["shape"], ["counts"], to=TensorProto.FLOAT),
        node("Slice", ["counts", "one", "two"], ["count"]),
        node("Div", ["flat", "count"], ["v"]),
    ],
    "likeness to each": [
        node("Transpose", ["flat"], ["turned"], perm=[1, 0]),
        node("MatMul", ["flat", "turned"], ["likeness"]),
        node("MatMul", ["likeness", "flat"], ["v"]),
    ],
    "share of how many": [*COUNT, node("Div", ["x", "count"], ["y"])],
    "place in the batch": [
        *COUNT,
        node("Squeeze", ["count"], ["end"]),
        node("Range", ["nothing", "end", "step"], ["places"]),
        node("Reshape", ["places", "column"], ["place"]),
        node("Add", ["flat", "place"], ["v"]),
    ],
    "one answer for all": [node("ReduceMean", ["flat"], ["v"], axes=[0])],
    "a small share": [
        node("ReduceMean", ["x"], ["m"], axes=[0]),
        node("Mul", ["m", "little"], ["part"]),
        node("Add", ["x", "part"], ["y"]),
    ],
}
CASES["the picture before"].insert(3, node("Greater", ["rolled", "x"], ["larger"]))
MORE = {"together": whole(1, 4, -1, SIDE), "apart": whole(4, -1, SIDE, SIDE), "step": np.float32(1)}


def mixing(name: str, batch: int | str = "N") -> onnx.ModelProto:
    read = {each for inside in CASES[name] for each in inside.input}
    more = {**MORE, "little": np.float32(1e-4)}
    return network(*CASES[name], batch=batch, more={key: value for key, value in more.items() if key in read})


@pytest.mark.parametrize("name", CASES)
def test_pictures_that_see_each_other_run_one_at_a_time(name: str, tmp_path: Path):
    model = mixing(name)
    run, x = runner(model), pictures()
    alone = np.concatenate([run(each[None]) for each in x])
    # That is what must not happen.
    assert np.abs(run(x) - alone).max() > 2e-5
    opened = DeployedModel(write(model, tmp_path), device="cpu")
    assert opened.model.batch == 1
    np.testing.assert_allclose(opened.logits(x), alone, rtol=1e-6, atol=1e-6)
    (change,) = opened.model.changes
    assert change.startswith("one picture at a time: ")
    assert inspect_model(opened)["changes"] == [change]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("extremes of all", "pictures of a batch see each other from ReduceMin 'low' on"),
        ("softmax over pictures", "pictures of a batch see each other from Softmax 's' on"),
        ("the first picture", "pictures of a batch see each other from Gather 'first' on"),
        ("share of how many", "what the graph gives for a picture depends on how many there are, or on its place"),
        ("place in the batch", "what the graph gives for a picture depends on how many there are, or on its place"),
        ("one answer for all", "the graph does not take several"),
    ],
)
def test_why_pictures_run_one_at_a_time_is_said(name: str, words: str, tmp_path: Path):
    (change,) = load_model(write(mixing(name), tmp_path)).changes
    assert change.startswith(f"one picture at a time: {words}")


def test_a_mixing_that_the_scores_do_not_show_is_found_inside(tmp_path: Path):
    """Divided by the largest value of all, then by the sum of the row: features at the layer between are another's."""
    nodes = [
        node("ReduceMax", ["x"], ["high"]),
        node("Div", ["x", "high"], ["y"]),
    ]
    model = network(*nodes)
    kept = [each for each in model.graph.node if each.output[0] != "logits"]
    sums = [
        node("ReduceSum", ["flat", "one"], ["sum"]),
        node("Div", ["flat", "sum"], ["v"]),
        node("MatMul", ["v", "w"], ["logits"]),
    ]
    model = tiny.make_model(
        [*kept, *sums],
        {each: WEIGHTS[each] for each in ("kernel", "w", "one")},
        input_shape=("N", CHANNELS, SIDE, SIDE),
    )
    run, x = runner(model), pictures()
    np.testing.assert_allclose(run(x), np.concatenate([run(each[None]) for each in x]), rtol=1e-5)
    opened = DeployedModel(write(model, tmp_path), device="cpu")
    (change,) = opened.model.changes
    assert change == "one picture at a time: pictures of a batch see each other from ReduceMax 'high' on"
    head = opened.head(opened.graph.find("y"))
    np.testing.assert_array_equal(head(x)[0], head(x[:1])[0])


def steady(name: str) -> onnx.ModelProto:
    norm = ["scale", "bias"]
    cases: dict[str, list[onnx.NodeProto]] = {
        "over channels": [node("ReduceMean", ["x"], ["m"], axes=[1]), node("Sub", ["x", "m"], ["y"])],
        "over the picture": [node("ReduceMax", ["x"], ["m"], axes=[1, 2, 3]), node("Div", ["x", "m"], ["y"])],
        "softmax over channels": [node("Softmax", ["x"], ["s"], axis=1), node("Mul", ["x", "s"], ["y"])],
        "layer": [node("LayerNormalization", ["flat", *norm], ["v"], axis=-1)],
        "instance": [node("InstanceNormalization", ["x", *norm], ["y"])],
        "batch norm": [node("BatchNormalization", ["x", *norm, "mean", "variance"], ["y"])],
        "best channels": [
            node("TopK", ["x", "two"], ["top", "_"], axis=1),
            node("Concat", ["top", "top"], ["y"], axis=1),
        ],
        "sums along": [node("CumSum", ["flat", "one"], ["v"])],
        "first channel": [node("Gather", ["x", "zero"], ["c"], axis=1), node("Sub", ["x", "c"], ["y"])],
        "dropout": [node("Dropout", ["x"], ["y"])],
        "dropout, not in training": [node("Dropout", ["x", "half", "no"], ["y"])],
        "dropout of nothing": [node("Dropout", ["x", "nothing", "yes"], ["y"])],
        "a shape of noise": [
            node("RandomNormalLike", ["x"], ["noise"]),
            node("Shape", ["noise"], ["shape"]),
            node("Expand", ["half", "shape"], ["halves"]),
            node("Add", ["x", "halves"], ["y"]),
        ],
        "noise aside": [node("RandomNormalLike", ["x"], ["noise"]), node("Neg", ["x"], ["y"])],
        "size of the picture": [
            node("Shape", ["x"], ["shape"]),
            node("Gather", ["shape", "two"], ["n"]),
            node("Cast", ["n"], ["count"], to=TensorProto.FLOAT),
            node("Div", ["x", "count"], ["y"]),
        ],
    }  # fmt: skip
    return network(*cases[name])


STEADY = (
    "over channels, over the picture, softmax over channels, layer, instance, batch norm, best channels, sums along, "
    "first channel, a shape of noise, noise aside, size of the picture"
).split(", ")
DROPOUT = ["dropout", "dropout, not in training", "dropout of nothing"]


@pytest.mark.parametrize("name", STEADY + DROPOUT)
def test_control_what_works_picture_by_picture_runs_together(name: str, tmp_path: Path):
    model = steady(name)
    opened = DeployedModel(write(model, tmp_path), device="cpu")
    assert (opened.model.batch, opened.model.changes) == (None, ())
    x = pictures()
    np.testing.assert_allclose(opened.logits(x), runner(model)(x), rtol=1e-6, atol=1e-6)


def test_control_a_plain_network_is_picture_by_picture(tiny_model: Path):
    """So that no tensor inside needs to be looked at; what is not plain is no proof of anything."""
    plain = load_model(tiny_model)
    assert by_picture(plain.proto, plain.tensors)


@pytest.mark.parametrize("name", [name for name in CASES if name not in ("share of how many", "place in the batch")])
def test_what_mixes_pictures_is_never_plain(name: str):
    model = mixing(name)
    assert not by_picture(model, infer(model, "input", None))


@pytest.mark.parametrize("rows", [2, 3, 4, 8, 9])
def test_of_two_neighbours_each_is_kept_while_the_other_changes(rows: int):
    base, others = pattern(rows), list(other_batches(rows))
    pairs = [(row, row + 1) for row in range(rows - 1)] + [(0, rows - 1)]
    for one, other in [*pairs, *((b, a) for a, b in pairs)]:
        assert any(one in kept and batch[other] != base[other] for batch, kept in others)
    assert all(batch[row] == base[row] for batch, kept in others for row in kept)


# --- every session of a model that runs one picture at a time ---------------------------------------------------


@pytest.fixture(scope="module")
def extremes(tmp_path_factory: pytest.TempPathFactory) -> tuple[DeployedModel, onnx.ModelProto]:
    model = mixing("extremes of all")
    return DeployedModel(write(model, tmp_path_factory.mktemp("extremes")), preprocess="unit", device="cpu"), model


@pytest.mark.parametrize("layer", ["input", "conv", "y"])
def test_heads_tails_and_gradients_see_one_picture(layer: str, extremes: tuple[DeployedModel, onnx.ModelProto]):
    opened, _ = extremes
    cut, x = opened.graph.find(layer), pictures()
    features, seen = opened.head(cut)(x), opened.looker([cut])(x[0])
    np.testing.assert_array_equal(features[0], seen[0])
    np.testing.assert_array_equal(features, np.concatenate([opened.head(cut)(each[None]) for each in x]))
    tail, gradient = opened.tail(cut), opened.gradient(cut)
    np.testing.assert_array_equal(tail(features), np.concatenate([tail(each[None]) for each in features]))
    direction = np.array([1.0, -1, 0, 0, 0])
    rest = np.zeros(5)
    together = gradient(features, direction, rest)
    alone = [gradient(each[None], direction, rest) for each in features]
    for place in (0, 1):
        np.testing.assert_array_equal(together[place], np.concatenate([each[place] for each in alone]))


@pytest.mark.parametrize("method", ["occlusion", "rise", "integrated"])
def test_the_batch_size_changes_no_map(method: str, extremes: tuple[DeployedModel, onnx.ModelProto]):
    """Nor does it matter that the extremes are of all pictures, or of each: for one picture that is the same."""
    opened, model = extremes
    each = onnx.ModelProto.FromString(model.SerializeToString())
    for inner in each.graph.node:
        if inner.op_type in ("ReduceMin", "ReduceMax"):
            inner.attribute.append(helper.make_attribute("axes", [1, 2, 3]))
    free = DeployedModel(write(each, opened.model.path.parent.parent), preprocess="unit", device="cpu")
    assert free.model.batch is None
    picture = oracles.ar_picture(5, SIDE, SIDE)
    options = {"method": method} | {"rise": {"samples": 40}, "integrated": {"layer": "y"}}.get(method, {})
    small, large, other = (
        Explainer(model, batch_size=size, **options).explain(picture, target=1)
        for model, size in ((opened, 1), (opened, 32), (free, 32))
    )
    np.testing.assert_array_equal(small.pixels, large.pixels)
    np.testing.assert_allclose(other.pixels, small.pixels, atol=1e-5 * np.abs(small.pixels).max())
    (change,) = large.record["changes"]
    assert "see each other from ReduceMin 'low' on" in change
    assert other.record["changes"] == []


# --- a batch that the file fixes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["extremes of all", "mean over pictures", "the first picture", "a small share"])
def test_a_fixed_batch_of_1_stays_where_pictures_would_see_each_other(name: str, tmp_path: Path):
    """The last is too little for the proof of a free batch."""
    model = mixing(name, batch=1)
    opened = DeployedModel(write(model, tmp_path), device="cpu")
    assert (opened.model.batch, opened.model.entry.batch, opened.model.changes, opened.model.proof) == (1, 1, (), None)
    x = pictures()
    np.testing.assert_allclose(opened.logits(x), np.concatenate([runner(model)(each[None]) for each in x]), rtol=1e-6)


@pytest.mark.parametrize("batch", [2, 3, 4])
@pytest.mark.parametrize("name", ["extremes of all", "mean over pictures", "the picture before", "a small share"])
def test_a_fixed_batch_whose_pictures_see_each_other_is_refused(name: str, batch: int, tmp_path: Path):
    """What the batch would be filled with has a say in the answer."""
    message = rf"input 'input' insists on {batch} pictures at a time, and pictures of a batch see each other from \w+ '"
    with pytest.raises(ModelError, match=message):
        load_model(write(mixing(name, batch=batch), tmp_path))


def test_a_fixed_batch_in_which_places_differ_is_refused(tmp_path: Path):
    offsets = np.arange(4, dtype=np.float32)[:, None] * np.ones((1, 4), np.float32)
    model = network(node("Add", ["flat", "offsets"], ["v"]), batch=4, more={"offsets": offsets})
    with pytest.raises(ModelError, match="insists on 4 pictures at a time, and what the graph gives for a picture"):
        load_model(write(model, tmp_path))


def test_control_a_fixed_batch_of_pictures_apart_is_filled(tmp_path: Path):
    """Taken apart and put together by nodes that name every picture: it cannot be made free."""
    parts = [f"part{number}" for number in range(4)]
    taking = [node("Gather", ["x", f"at{number}"], [part], axis=0) for number, part in enumerate(parts)]
    more = {f"at{number}": whole(number) for number in range(4)}
    model = network(*taking, node("Concat", parts, ["y"], axis=0), batch=4, more=more)
    opened = DeployedModel(write(model, tmp_path), device="cpu")
    assert (opened.model.batch, opened.model.changes) == (4, ())
    x = pictures(5)
    expected = runner(model)(np.concatenate([x, x[:3]]).reshape(2, 4, CHANNELS, SIDE, SIDE)[0])
    np.testing.assert_allclose(opened.logits(x)[:4], expected, rtol=1e-6)


# --- answers that change from run to run --------------------------------------------------------------------------


def inside_if(*body: onnx.NodeProto) -> list[onnx.NodeProto]:
    """An If that the picture decides; its branches make 'y' of 'x'."""
    value = [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)]
    drawn = helper.make_graph(list(body), "drawn", [], value)
    plain = helper.make_graph([node("Identity", ["x"], ["out"])], "plain", [], value)
    return [
        node("ReduceMax", ["x"], ["high"], keepdims=0),
        node("Greater", ["high", "nothing"], ["condition"]),
        node("If", ["condition"], ["y"], then_branch=drawn, else_branch=plain),
    ]


NORM = ["x", "scale", "bias", "mean", "variance"]
UNSTEADY = {
    "RandomNormalLike at 'noise'": (
        [node("RandomNormalLike", ["x"], ["noise"], seed=1.0), node("Add", ["x", "noise"], ["y"])],
        17,
    ),
    "RandomUniformLike at 'noise'": (
        [node("RandomUniformLike", ["x"], ["noise"]), node("Mul", ["x", "noise"], ["y"])],
        17,
    ),
    "RandomNormal at 'noise'": (
        [node("RandomNormal", [], ["noise"], shape=[SIDE, SIDE]), node("Add", ["x", "noise"], ["y"])],
        17,
    ),
    "RandomUniform at 'noise'": (
        [node("RandomUniform", [], ["noise"], shape=[1, 4]), node("Add", ["flat", "noise"], ["v"])],
        17,
    ),
    "Multinomial at 'drawn'": (
        [
            node("Multinomial", ["flat"], ["drawn"], sample_size=4),
            node("Cast", ["drawn"], ["number"], to=TensorProto.FLOAT),
            node("Add", ["flat", "number"], ["v"]),
        ],
        17,
    ),
    "Bernoulli at 'drawn'": (
        [
            node("Sigmoid", ["x"], ["p"]),
            node("Bernoulli", ["p"], ["drawn"]),
            node("Mul", ["x", "drawn"], ["y"]),
        ],
        17,
    ),
    "Dropout at 'y'": ([node("Dropout", ["x", "half", "yes"], ["y"])], 17),
    "Dropout at 'y' ": ([node("Dropout", ["x", "", "yes"], ["y"])], 13),
    "Dropout at 'out'": (inside_if(node("Dropout", ["x", "half", "yes"], ["out"])), 17),
    "RandomNormalLike at 'noise' ": (
        inside_if(node("RandomNormalLike", ["x"], ["noise"]), node("Add", ["x", "noise"], ["out"])),
        17,
    ),
    "BatchNormalization at 'y'": (
        [node("BatchNormalization", NORM, ["y", "means", "variances"], training_mode=1)],
        15,
    ),
    "BatchNormalization at 'y' ": ([node("BatchNormalization", NORM, ["y", "m", "v1", "m1", "v2"])], 9),
    "Dropout at 'y'  ": ([node("Dropout", ["x"], ["y", "mask"], is_test=0)], 6),
}  # fmt: skip


@pytest.mark.parametrize("named", UNSTEADY)
def test_what_draws_or_learns_in_every_run_is_refused(named: str, tmp_path: Path):
    nodes, opset = UNSTEADY[named]
    with pytest.raises(ModelError) as caught:
        load_model(write(network(*nodes, opset=opset), tmp_path))
    assert "the answer changes between identical runs: " + named.strip() in str(caught.value)
    assert str(caught.value).endswith("export the model in evaluation mode (model.eval())")


def test_a_random_operator_of_a_local_function_is_refused(tmp_path: Path):
    opset = [helper.make_opsetid("", 17)]
    body = [node("RandomNormalLike", ["a"], ["n"]), node("Add", ["a", "n"], ["b"])]
    model = network(node("Noisy", ["x"], ["y"], domain="local"))
    model.functions.append(helper.make_function("local", "Noisy", ["a"], ["b"], body, opset))
    model.opset_import.append(helper.make_opsetid("local", 1))
    with pytest.raises(ModelError, match="the answer changes between identical runs: RandomNormalLike at"):
        load_model(write(model, tmp_path))


def test_what_no_rule_knows_is_found_by_running_twice(tmp_path: Path):
    """A Dropout whose mode the picture decides."""
    nodes = [
        node("ReduceMax", ["x"], ["high"], keepdims=0),
        node("GreaterOrEqual", ["high", "nothing"], ["mode"]),
        node("Dropout", ["x", "half", "mode"], ["y"]),
    ]
    with pytest.raises(ModelError, match=r"the answer changes between identical runs, by \d.*model\.eval\(\)"):
        load_model(write(network(*nodes), tmp_path))


@pytest.mark.parametrize("batch", [1, 3, "N"])
def test_an_answer_that_changes_is_refused_whatever_the_batch(batch: int | str, tmp_path: Path):
    nodes, opset = UNSTEADY["Dropout at 'y'"]
    with pytest.raises(ModelError, match="the answer changes between identical runs: Dropout at 'y' is in training"):
        load_model(write(network(*nodes, opset=opset, batch=batch), tmp_path))


def test_control_weights_normalised_in_training_mode_are_the_same_in_every_run(tmp_path: Path):
    """Weights that are standardised by a BatchNormalization over themselves, as networks without norms have them."""
    nodes = [
        node("BatchNormalization", ["raw", "scale", "bias", "mean", "variance"], ["w1", "_1", "_2"], training_mode=1),
        node("Reshape", ["w1", "sides"], ["w2"]),
        node("Conv", ["x", "w2"], ["y"]),
    ]
    raw = np.random.default_rng(0).normal(size=(1, 4, 4)).astype(np.float32)
    model = network(*nodes, opset=15, more={"raw": raw, "sides": whole(4, 4, 1, 1)})
    opened = DeployedModel(write(model, tmp_path), device="cpu")
    assert (opened.model.batch, opened.model.changes) == (None, ())
    x = pictures()
    weight = (raw - raw.mean(axis=2, keepdims=True)) / np.sqrt(raw.var(axis=2, keepdims=True) + 1e-5)
    kernel = WEIGHTS["kernel"]
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    features = np.maximum(np.einsum("ncijkl,ockl->noij", windows, kernel), 0).mean(axis=(2, 3))
    np.testing.assert_allclose(opened.logits(x), features @ weight[0].T @ WEIGHTS["w"], rtol=1e-3, atol=1e-4)


# --- what cannot be tried -----------------------------------------------------------------------------------------


def test_scores_that_noise_does_not_have_let_pictures_run_one_at_a_time(tmp_path: Path):
    """Nothing can be said then; one at a time is right in any case."""
    model = network(node("Abs", ["x"], ["size"]), node("Neg", ["size"], ["below"]), node("Log", ["below"], ["y"]))
    (change,) = load_model(write(model, tmp_path)).changes
    assert change.endswith("could not be tried, no score of noise is a number")


def test_a_range_is_looked_for_where_none_is_known(tmp_path: Path):
    """The logarithm of grey levels: noise about 0 has none."""
    nodes = [node("Log", ["input"], ["log"]), node("ReduceMean", ["log"], ["v"], axes=[2, 3], keepdims=0)]
    mixed = [node("ReduceMax", ["v"], ["m"], axes=[0]), node("Mul", ["v", "m"], ["logits"])]
    plain = [node("Identity", ["v"], ["logits"])]
    for ending, batch in ((mixed, 1), (plain, None)):
        model = tiny.make_model(
            [*nodes, *ending], {}, input_shape=("N", CHANNELS, SIDE, SIDE), output_shape=("N", CHANNELS)
        )
        assert load_model(write(model, tmp_path)).batch == batch


def test_the_graph_is_left_as_it_was(tmp_path: Path):
    """Outputs and nodes are added for the trial alone."""
    model = mixing("extremes of all")
    found = load_model(write(model, tmp_path)).proto.graph
    assert [each.output[0] for each in found.node] == [each.output[0] for each in model.graph.node]
    assert [each.name for each in found.output] == ["logits"]
    kept, own = ({each.name: each for each in graph.initializer} for graph in (found, model.graph))
    assert kept.keys() == own.keys()
    np.testing.assert_array_equal(numpy_helper.to_array(kept["kernel"]), WEIGHTS["kernel"])


_LOOKED_AT = """
import resource, sys
import numpy as np, onnx
from onnx_evidence.graphs import Net
from onnx_evidence.intake.inside import _add_lengths
from onnx_evidence.sessions.runtime import Device, Session

model = onnx.load(sys.argv[1])
names = [name for node in model.graph.node for name in node.output]
del model.graph.output[:]
lengths = _add_lengths(Net(model), names)
model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in lengths)
session = Session(model, Device("cpu", "here"), threads=1)
x = np.random.default_rng(0).normal(size=(2, 3, 512, 512)).astype(np.float32)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = session.run_all(x)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
for made in found:
    # Neighbours differ by a hundredth and more; float32 adds up a million squares to a few in ten thousand.
    x = np.sin(x)
    np.testing.assert_allclose(made, np.sqrt((x.astype(np.float64) ** 2).sum(axis=(1, 2, 3))), rtol=1e-3)
"""


def test_tensors_that_are_looked_at_are_not_held_until_all_are(tmp_path: Path):
    names = ["x", *(f"y{number}" for number in range(40))]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ("N", 3, 512, 512)) for name in ("x", names[-1])]
    nodes = [node("Sin", [read], [made]) for read, made in itertools.pairwise(names)]
    graph = helper.make_graph(nodes, "chain", values[:1], values[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    command = [sys.executable, "-c", _LOOKED_AT, str(tmp_path / "m.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # A tensor is 6 MiB for two pictures, and there are 40.
    assert int(done.stdout) < 80 * 1024
