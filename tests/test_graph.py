"""Cuts against a slow oracle: take each tensor away in turn and search for a path that is left."""

import re
import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import onnx.utils
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from onnx_evidence.cuts.choose import choose_cuts
from onnx_evidence.cuts.graph import Graph
from onnx_evidence.errors import CutError
from onnx_evidence.graphs.nodes import bytes_at_once, multiply_adds, node_inputs
from onnx_evidence.intake.model import load_model
from tests import tiny

node = helper.make_node
TINY_CUTS = ["input", "stem", "stem.relu", "block.add", "down", "down.relu", "deep.add"]


def open_graph(model: onnx.ModelProto) -> Graph:
    with tempfile.TemporaryDirectory() as folder:
        return Graph(load_model(tiny.save(model, Path(folder) / "model.onnx")))


def run(model: onnx.ModelProto, feed: np.ndarray) -> np.ndarray:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    constants = {tensor.name for tensor in model.graph.initializer}
    (name,) = [value.name for value in model.graph.input if value.name not in constants]
    (result,) = session.run(None, {name: feed})
    return result


def pictures(model: onnx.ModelProto, batch: int) -> np.ndarray:
    constants = {tensor.name for tensor in model.graph.initializer}
    (image,) = [value for value in model.graph.input if value.name not in constants]
    shape = [dim.dim_value for dim in image.type.tensor_type.shape.dim][1:]
    return np.random.default_rng(7).normal(size=(batch, *shape)).astype(np.float32)


def assert_halves_are_the_whole(model: onnx.ModelProto, expected: list[str], batches: tuple[int, ...] = (1, 3)) -> None:
    """Every expected cut is offered, in this order, and its halves give the logits of the model as it is."""
    graph = open_graph(model)
    assert [cut.name for cut in graph.cuts] == expected
    for batch in batches:
        x = pictures(model, batch)
        whole = run(model, x)
        assert whole.shape[0] == batch
        if batch > 1:
            assert np.ptp(whole, axis=0).max() > 1e-3, "pictures that give the same logits would prove nothing"
        np.testing.assert_array_equal(run(graph.whole(), x), whole)
        for cut in graph.cuts:
            head, tail = graph.split(cut)
            features = x if head is None else run(head, x)
            assert features.shape == (batch, *cut.shape), cut.name
            error = np.abs(run(tail, features) - whole).max()
            assert error <= 1e-5 * np.abs(whole).max(), cut.name


# --- the oracle -----------------------------------------------------------------------------------------------


def data_edges(graph: onnx.GraphProto) -> dict[str, set[str]]:
    """From each tensor to the tensors made from its values; ``Shape`` reads no values."""
    edges: dict[str, set[str]] = {}
    for item in graph.node:
        for name in item.input if item.op_type != "Shape" else ():
            edges.setdefault(name, set()).update(item.output)
    return edges


def reaches(edges: dict[str, set[str]], source: str, sink: str, without: str) -> bool:
    found, waiting = {without}, [source]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += edges.get(name, ())
    return sink in found and sink != without and source != without


def separating(graph: onnx.GraphProto, source: str = "input", sink: str = "logits") -> set[str]:
    edges = data_edges(graph)
    names, waiting = set(), [source]
    while waiting:
        name = waiting.pop()
        if name not in names:
            names.add(name)
            waiting += edges.get(name, ())
    return {name for name in names if not reaches(edges, source, sink, name)}


def test_oracle_knows_the_separating_tensors_of_the_residual_classifier():
    assert separating(tiny.classifier().graph) == {*TINY_CUTS, "pool", "flat", "logits"}


# --- random graphs --------------------------------------------------------------------------------------------

GRID = (3, 4, 4)
# How far back a node reads: mostly the newest tensor, so that cuts survive.
BACK = st.sampled_from([0, 0, 0, 0, 0, 0, 1, 1, 2, 4])
KINDS = st.sampled_from(["conv", "relu", "add", "concat", "split", "shape", "gate"])


@st.composite
def classifiers(draw: st.DrawFn) -> onnx.ModelProto:
    """Chains with skips, joins, gates, uses by ``Shape`` and dead branches, in any topological order."""
    tensors, nodes = ["input"], []
    weights = {"split": np.array([1, 2])}
    rng = np.random.default_rng(draw(st.integers(0, 9)))

    def pick() -> str:
        return tensors[-1 - min(draw(BACK), len(tensors) - 1)]

    for i in range(draw(st.integers(2, 9))):
        y, kind = f"t{i}", draw(KINDS)
        if kind in ("conv", "concat"):
            inside = 3 if kind == "conv" else 6
            weights[f"{y}.w"] = rng.normal(size=(3, inside, 1, 1)).astype(np.float32)
        if kind == "conv":
            nodes.append(node("Conv", [pick(), f"{y}.w"], [y]))
        elif kind == "relu":
            nodes.append(node("Relu", [pick()], [y]))
        elif kind == "add":
            nodes.append(node("Add", [pick(), pick()], [y]))
        elif kind == "concat":
            nodes += [
                node("Concat", [pick(), pick()], [f"{y}.c"], axis=1),
                node("Conv", [f"{y}.c", f"{y}.w"], [y]),
            ]
        elif kind == "split":
            nodes += [
                node("Split", [pick(), "split"], [f"{y}.a", f"{y}.b"], axis=1),
                node("Concat", [f"{y}.b", f"{y}.a"], [y], axis=1),
            ]
        elif kind == "shape":
            nodes += [node("Shape", [pick()], [f"{y}.s"]), node("Reshape", [pick(), f"{y}.s"], [y])]
        else:
            nodes += [node("GlobalAveragePool", [pick()], [f"{y}.g"]), node("Mul", [pick(), f"{y}.g"], [y])]
        tensors.append(y)
    nodes += [
        node("GlobalAveragePool", [tensors[-1]], ["pool"]),
        node("Flatten", ["pool"], ["flat"]),
        node("Add", ["flat", "offset"], ["logits"]),
    ]
    weights["offset"] = np.array([1, -2, 3], np.float32)
    return tiny.make_model(
        shuffled(nodes, {"input", *weights}, draw(st.randoms(use_true_random=False))),
        weights,
        input_shape=("N", *GRID),
        output_shape=("N", 3),
    )


def shuffled(nodes: list[onnx.NodeProto], known: set[str], random) -> list[onnx.NodeProto]:
    """The nodes in a random order in which each comes after those that it reads."""
    rest, order = list(nodes), []
    while rest:
        ready = [item for item in rest if set(item.input) <= known]
        item = random.choice(ready)
        rest.remove(item)
        order.append(item)
        known |= set(item.output)
    return order


def is_grid(name: str) -> bool:
    return name == "input" or re.fullmatch(r"t\d+(\.[abc])?", name) is not None


def test_random_classifiers_have_cuts_and_bypassed_tensors_to_tell_apart():
    seen = {"cuts": 0, "bypassed": 0, "dead": 0, "shape": 0}

    @settings(max_examples=30, deadline=None, derandomize=True, database=None)
    @given(classifiers())
    def count(model: onnx.ModelProto) -> None:
        grids = {name for item in model.graph.node for name in item.output if is_grid(name)}
        cuts = separating(model.graph) & grids
        edges = data_edges(model.graph)
        dead = {name for name in grids if not reaches(edges, name, "logits", "")}
        seen["cuts"] += len(cuts)
        seen["dead"] += len(dead)
        seen["bypassed"] += len(grids - cuts - dead)
        seen["shape"] += any(item.op_type == "Shape" for item in model.graph.node)

    count()
    assert min(seen.values()) >= 5, seen


@settings(max_examples=60, deadline=None)
@given(classifiers())
def test_cuts_are_exactly_the_tensors_without_which_no_data_path_is_left(model: onnx.ModelProto):
    graph = open_graph(model)
    names = [cut.name for cut in graph.cuts]
    assert set(names) == {name for name in separating(model.graph) if is_grid(name)}
    assert len(set(names)) == len(names)
    edges = data_edges(model.graph)
    for earlier, later in pairwise(names):
        assert reaches(edges, earlier, later, ""), "cuts come in the order of the data"


@settings(max_examples=40, deadline=None)
@given(classifiers())
def test_every_other_tensor_is_refused_and_the_tensor_named_does_bypass_it(model: onnx.ModelProto):
    graph, edges = open_graph(model), data_edges(model.graph)
    cuts = {cut.name for cut in graph.cuts}
    for name in {name for item in model.graph.node for name in item.output} - cuts:
        with pytest.raises(CutError, match=f"^layer '{re.escape(name)}' .*; the nearest cuts are '") as caught:
            graph.find(name)
        if named := re.search(r"tensor '([^']+)' bypasses it", str(caught.value)):
            bypass = named[1]
            assert reaches(edges, "input", bypass, name)
            assert reaches(edges, bypass, "logits", name)
        else:
            dead = not reaches(edges, name, "logits", "")
            carries_data = reaches(edges, "input", name, "")
            assert dead or not carries_data or not is_grid(name), "a grid on the way is refused for its bypass"


@settings(max_examples=30, deadline=None)
@given(classifiers())
def test_halves_of_random_graphs_give_the_whole(model: onnx.ModelProto):
    graph = open_graph(model)
    for batch in (1, 3):
        x = pictures(model, batch)
        whole = run(model, x)
        for cut in graph.cuts:
            head, tail = graph.split(cut)
            logits = run(tail, x if head is None else run(head, x))
            assert np.abs(logits - whole).max() <= 1e-5 * max(np.abs(whole).max(), 1), cut.name


# --- the residual classifier, by hand -------------------------------------------------------------------------


def test_cuts_of_the_residual_classifier_and_their_halves():
    assert_halves_are_the_whole(tiny.classifier(), TINY_CUTS)


def test_a_cut_says_operator_shape_stride_and_field(tiny_model: Path):
    cuts = {cut.name: cut for cut in Graph(load_model(tiny_model)).cuts}
    assert [cuts[name].op_type for name in TINY_CUTS] == ["Input", "Conv", "Relu", "Add", "Conv", "Relu", "Add"]
    assert cuts["input"].shape == (3, 32, 32)
    assert cuts["deep.add"].shape == (12, 8, 8)
    assert cuts["deep.add"].grid == (8, 8)
    assert cuts["deep.add"].field.stride == (4, 4)
    # 3 x 3 at strides 1, 2, 2, 2, 4, 4 of the input: 1 + 2 * (1 + 2 + 2 + 2 + 4).
    assert cuts["deep.add"].field.size((32, 32)) == (23, 23)


def test_halves_hold_only_what_they_need(tiny_model: Path):
    graph = Graph(load_model(tiny_model))
    head, tail = graph.split(graph.find("down"))
    assert [tensor.name for tensor in head.graph.initializer] == ["w1", "w2", "w3", "w4"]
    assert [tensor.name for tensor in tail.graph.initializer] == ["w5", "w6", "b6"]
    assert [value.name for value in tail.graph.input] == ["down"]
    assert graph.split(graph.find("input"))[0] is None


def test_a_bypassed_tensor_is_refused_and_the_bypass_named(tiny_model: Path):
    with pytest.raises(CutError, match=r"^layer 'block.b' is not a cut: tensor 'stem.relu' bypasses it; the nearest"):
        Graph(load_model(tiny_model)).find("block.b")


def test_an_unknown_name_lists_cuts_of_near_spelling(tiny_model: Path):
    with pytest.raises(CutError, match=r"'blok.ad' is not a tensor of the model; the nearest cuts are 'block.add', "):
        Graph(load_model(tiny_model)).find("blok.ad")


def test_a_tensor_without_grid_is_refused_and_the_cut_before_it_listed(tiny_model: Path):
    message = r"^layer 'pool' has no grid of cells .*12 x 1 x 1.*; the nearest cuts are 'deep.add', "
    with pytest.raises(CutError, match=message):
        Graph(load_model(tiny_model)).find("pool")


def test_weights_are_no_layers(tiny_model: Path):
    with pytest.raises(CutError, match="'w1' is not a tensor of the model"):
        Graph(load_model(tiny_model)).find("w1")


def test_find_gives_the_cut_of_that_name(tiny_model: Path):
    graph = Graph(load_model(tiny_model))
    assert [graph.find(name) for name in TINY_CUTS] == list(graph.cuts)


# --- negative controls: why a proof is needed -----------------------------------------------------------------


def test_control_extracting_at_a_bypassed_tensor_gives_an_invalid_tail():
    inferred = onnx.shape_inference.infer_shapes(tiny.classifier())
    with pytest.raises(onnx.checker.ValidationError, match="topologically sorted"):
        onnx.checker.check_model(onnx.utils.Extractor(inferred).extract_model(["block.b"], ["logits"]))


def test_control_no_tail_exists_at_a_bypassed_tensor():
    nodes = [
        node("Relu", ["input"], ["positive"]),
        node("Add", ["positive", "input"], ["sum"]),
        node("GlobalAveragePool", ["sum"], ["pool"]),
        node("Flatten", ["pool"], ["logits"]),
    ]
    model = tiny.make_model(nodes, {}, input_shape=("N", 3, 4, 4), output_shape=("N", 3))
    x = pictures(model, 1)
    y = np.where(x < 0, 2 * x, x)
    np.testing.assert_array_equal(np.maximum(x, 0), np.maximum(y, 0))
    assert np.abs(run(model, x) - run(model, y)).max() > 0.1, "same features at 'positive', other logits"
    graph = open_graph(model)
    assert [cut.name for cut in graph.cuts] == ["input", "sum"]
    with pytest.raises(CutError, match="'positive' is not a cut: tensor 'input' bypasses it"):
        graph.find("positive")


# --- uses by Shape --------------------------------------------------------------------------------------------


def stack(rng: np.random.Generator, opset: int = 17) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """Conv 'c' -> Relu 'r' -> MaxPool 'p' (4 x 4 x 4) of pictures 3 x 8 x 8, and a classifying matrix."""
    nodes = [
        node("Conv", ["input", "w"], ["c"], pads=[1] * 4),
        node("Relu", ["c"], ["r"]),
        node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
    ]
    weights = {
        "w": rng.normal(size=(4, 3, 3, 3)).astype(np.float32),
        "m": rng.normal(size=(5, 64)).astype(np.float32),
        "b": rng.normal(size=5).astype(np.float32),
        "zero": np.array(0),
        "rest": np.array([-1]),
    }
    if opset >= 13:
        weights["axes"] = np.array([0])
    return nodes, weights


def flattened_by_shape(source: str, rng: np.random.Generator, opset: int) -> onnx.ModelProto:
    """``x.view(x.size(0), -1)`` as exporters write it, the size being that of ``source``."""
    nodes, weights = stack(rng, opset)
    unsqueeze = node("Unsqueeze", ["n"], ["n1"], axes=[0]) if opset < 13 else node("Unsqueeze", ["n", "axes"], ["n1"])
    nodes += [
        node("Shape", [source], ["s"]),
        node("Gather", ["s", "zero"], ["n"], axis=0),
        unsqueeze,
        node("Concat", ["n1", "rest"], ["target"], axis=0),
        node("Reshape", ["p", "target"], ["flat"]),
        node("Gemm", ["flat", "m", "b"], ["logits"], transB=1),
    ]
    return tiny.make_model(nodes, weights, input_shape=("N", 3, 8, 8), opset=opset)


@pytest.mark.parametrize("opset", [9, 12, 13, 17])
@pytest.mark.parametrize("source", ["input", "c", "r", "p"])
def test_a_shape_that_only_sizes_the_flattening_does_not_hide_cuts(source: str, opset: int, rng: np.random.Generator):
    assert_halves_are_the_whole(flattened_by_shape(source, rng, opset), ["input", "c", "r", "p"])


@pytest.mark.parametrize(("start", "end"), [(None, 1), (0, 1), (1, None), (1, 3), (-3, None), (0, -3), (None, None)])
def test_shape_with_start_and_end_is_rebuilt_behind_the_cut(
    start: int | None, end: int | None, rng: np.random.Generator
):
    nodes, weights = stack(rng)
    first, stop, _ = slice(start, end).indices(4)
    attributes = {key: value for key, value in (("start", start), ("end", end)) if value is not None}
    # The target of the reshape: what the slice leaves out is written down, the batch as -1.
    weights |= {"before": np.array([-1, 4, 8, 8][:first], np.int64), "after": np.array([4, 8, 8][stop - 1 :], np.int64)}
    nodes = [
        *nodes[:2],
        node("Shape", ["c"], ["s"], **attributes),
        node("Concat", ["before", "s", "after"], ["target"], axis=0),
        node("Flatten", ["r"], ["row"]),
        node("Reshape", ["row", "target"], ["again"]),
        node("MaxPool", ["again"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Flatten", ["p"], ["flat"]),
        node("Gemm", ["flat", "m", "b"], ["logits"], transB=1),
    ]
    model = tiny.make_model(nodes, weights, input_shape=("N", 3, 8, 8))
    # Flattened and viewed again in the same order, cells are where they were.
    assert_halves_are_the_whole(model, ["input", "c", "r", "again", "p"])


@pytest.mark.parametrize("place", [0, 2, 3])
def test_what_is_computed_for_its_shape_alone_is_no_bypass(place: int, rng: np.random.Generator):
    nodes, weights = stack(rng)
    nodes.insert(place, node("Exp", ["input"], ["aside"]))
    nodes += [
        node("Shape", ["aside"], ["s"]),
        node("Gather", ["s", "zero"], ["n"], axis=0),
        node("Unsqueeze", ["n", "axes"], ["n1"]),
        node("Concat", ["n1", "rest"], ["target"], axis=0),
        node("Reshape", ["p", "target"], ["flat"]),
        node("Gemm", ["flat", "m", "b"], ["logits"], transB=1),
    ]
    assert_halves_are_the_whole(tiny.make_model(nodes, weights, input_shape=("N", 3, 8, 8)), ["input", "c", "r", "p"])


def test_zeros_made_from_the_shape_of_the_input_are_no_bypass(rng: np.random.Generator):
    nodes, weights = stack(rng)
    nodes = [
        node("Shape", ["input"], ["s"], start=2),
        node("Concat", ["four", "s"], ["side"], axis=0),
        node("ConstantOfShape", ["side"], ["zeros"]),
        *nodes[:2],
        node("Add", ["r", "zeros"], ["sum"]),
        node("GlobalAveragePool", ["sum"], ["pool"]),
        node("Flatten", ["pool"], ["logits"]),
    ]
    weights["four"] = np.array([4])
    model = tiny.make_model(nodes, weights, input_shape=("N", 3, 8, 8), output_shape=("N", 4))
    assert_halves_are_the_whole(model, ["input", "c", "r", "sum"])


def test_values_read_besides_the_shape_do_bypass(rng: np.random.Generator):
    nodes, weights = stack(rng)
    nodes += [
        node("ReduceMax", ["input"], ["top"], keepdims=0),
        node("Mul", ["p", "top"], ["scaled"]),
        node("Flatten", ["scaled"], ["flat"]),
        node("Gemm", ["flat", "m", "b"], ["logits"], transB=1),
    ]
    graph = open_graph(tiny.make_model(nodes, weights, input_shape=("N", 3, 8, 8)))
    assert [cut.name for cut in graph.cuts] == ["input", "scaled"]
    with pytest.raises(CutError, match=r"'p' is not a cut: tensor '(top|input)' bypasses it"):
        graph.find("p")


def folded(batch: int | str) -> onnx.ModelProto:
    """Each channel becomes a picture of its own for a while: rows of such a tensor belong to several channels."""
    nodes = [
        node("Relu", ["input"], ["r"]),
        node("Reshape", ["r", "apart"], ["fold"]),
        node("Conv", ["fold", "w"], ["fold.c"]),
        node("Reshape", ["fold.c", "together"], ["back"]),
        node("GlobalAveragePool", ["back"], ["pool"]),
        node("Flatten", ["pool"], ["logits"]),
    ]
    weights = {
        "apart": np.array([-1, 1, 8, 8]),
        "together": np.array([-1, 3, 6, 6]),
        "w": np.ones((1, 1, 3, 3), np.float32),
    }
    return tiny.make_model(nodes, weights, input_shape=(batch, 3, 8, 8), output_shape=(batch, 3))


@pytest.mark.parametrize("batch", [1, "N"])
def test_a_tensor_whose_first_axis_is_not_the_batch_alone_is_arranged(batch: int | str):
    model = folded(batch)
    assert_halves_are_the_whole(model, ["input", "r", "fold.c", "back"], (1,) if batch == 1 else (1, 3))
    assert open_graph(model).find("fold.c").shape == (3, 6, 6)
    with pytest.raises(CutError, match=r"^layer 'fold' .*; the nearest cuts are '"):
        open_graph(model).find("fold")


# --- other forms of graphs ------------------------------------------------------------------------------------


def test_dead_nodes_make_no_cut_and_no_bypass():
    model = tiny.classifier()
    model.graph.node.extend([node("Relu", ["stem"], ["dead"]), node("Add", ["dead", "block.a"], ["dead.sum"])])
    assert_halves_are_the_whole(model, TINY_CUTS)
    graph = open_graph(model)
    assert not {"dead", "dead.sum"} & {name for item in graph.whole().graph.node for name in item.output}
    with pytest.raises(CutError, match=r"^layer 'dead' .*; the nearest cuts are '"):
        graph.find("dead")


def test_unread_outputs_of_a_node_do_not_bypass_their_sibling(rng: np.random.Generator):
    nodes, weights = stack(rng)
    nodes[2] = node("MaxPool", ["r"], ["p", "indices"], kernel_shape=[2, 2], strides=[2, 2])
    nodes += [
        node("Dropout", ["p"], ["d", "mask"]),
        node("Flatten", ["d"], ["flat"]),
        node("Gemm", ["flat", "m", "b"], ["logits"], transB=1),
    ]
    assert_halves_are_the_whole(
        tiny.make_model(nodes, weights, input_shape=("N", 3, 8, 8)), ["input", "c", "r", "p", "d"]
    )


def test_both_outputs_of_a_split_bypass_each_other():
    nodes = [
        node("Split", ["input", "sizes"], ["left", "right"], axis=1),
        node("Concat", ["right", "left"], ["joined"], axis=1),
        node("GlobalAveragePool", ["joined"], ["pool"]),
        node("Flatten", ["pool"], ["logits"]),
    ]
    model = tiny.make_model(nodes, {"sizes": np.array([1, 2])}, input_shape=("N", 3, 4, 4), output_shape=("N", 3))
    assert_halves_are_the_whole(model, ["input", "joined"])
    for name, other in (("left", "right"), ("right", "left")):
        with pytest.raises(CutError, match=f"'{name}' is not a cut: tensor '{other}' bypasses it"):
            open_graph(model).find(name)


def test_initializers_listed_as_inputs_are_no_pictures():
    model = tiny.classifier()
    model.ir_version = 3
    model.graph.input.extend(
        helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
        for tensor in model.graph.initializer
    )
    assert_halves_are_the_whole(model, TINY_CUTS)


def test_weights_in_constant_nodes_follow_their_half():
    model = tiny.classifier()
    constants = [node("Constant", [], [tensor.name], value=tensor) for tensor in model.graph.initializer]
    nodes = list(model.graph.node)
    del model.graph.initializer[:], model.graph.node[:]
    # One in front, one at its place: neither order may matter.
    model.graph.node.extend([*constants[:3], *nodes[:6], *constants[3:], *nodes[6:]])
    assert_halves_are_the_whole(model, TINY_CUTS)


def test_weights_computed_from_constants_are_no_data():
    model = tiny.classifier()
    model.graph.node.insert(0, node("Neg", ["w4"], ["w4.negative"]))
    (down,) = [item for item in model.graph.node if item.output[0] == "down"]
    down.input[1] = "w4.negative"
    assert_halves_are_the_whole(model, TINY_CUTS)


def conditional(captured: str) -> onnx.ModelProto:
    """'a' -> Relu 'b' -> an If whose branches read ``captured`` -> 'c' -> 'd' = b + c, or c alone if that is b."""
    then = [node("Mul", [captured, "two"], ["then.y"])]
    other = [node("Neg", [captured], ["else.y"])]
    branches = {
        f"{name}_branch": helper.make_graph(
            body, name, [], [helper.make_tensor_value_info(f"{name}.y", TensorProto.FLOAT, ["N", 3, 4, 4])]
        )
        for name, body in (("then", then), ("else", other))
    }
    nodes = [
        node("Sin", ["input"], ["a"]),
        node("Relu", ["a"], ["b"]),
        node("Shape", ["input"], ["size"], start=0, end=1),
        node("Squeeze", ["size"], ["rows"]),
        node("Greater", ["rows", "none"], ["yes"]),  # always, yet nothing that folds to a constant
        node("If", ["yes"], ["c"], **branches),
        node("Add", ["c", "b"], ["d"]) if captured == "a" else node("Exp", ["c"], ["d"]),
        node("GlobalAveragePool", ["d"], ["pool"]),
        node("Flatten", ["pool"], ["logits"]),
    ]
    weights = {"none": np.array(0), "two": np.array(2, np.float32)}
    return tiny.make_model(nodes, weights, input_shape=("N", 3, 4, 4), output_shape=("N", 3))


def test_a_tensor_that_a_branch_of_if_captures_is_used_there():
    model = conditional("a")
    # What an If gives is not followed back to rows and columns; where it is added to cells, they are where they were.
    assert_halves_are_the_whole(model, ["input", "a", "d"])
    with pytest.raises(CutError, match="'b' is not a cut: tensor 'a' bypasses it"):
        open_graph(model).find("b")


def test_a_cut_may_lie_before_an_if_that_captures_it():
    assert_halves_are_the_whole(conditional("b"), ["input", "a", "b"])


def test_inputs_of_a_node_include_what_its_branches_capture_but_not_their_own():
    (branching,) = [item for item in conditional("a").graph.node if item.op_type == "If"]
    assert set(node_inputs(branching)) == {"yes", "a", "two"}


def test_sides_left_open_inside_a_model_of_known_input_are_found_out():
    model = onnx.shape_inference.infer_shapes(tiny.classifier())
    for value in model.graph.value_info:
        for dim in value.type.tensor_type.shape.dim[2:]:
            dim.dim_param = f"side.{dim.dim_value}"
    assert_halves_are_the_whole(model, TINY_CUTS)


def test_a_fixed_batch_stays_in_both_halves():
    model = tiny.classifier()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 2
    assert_halves_are_the_whole(model, TINY_CUTS, batches=(2,))


# --- cells that nobody reads ----------------------------------------------------------------------------------


def strided(nodes: list[onnx.NodeProto]) -> onnx.ModelProto:
    """Conv 'c' (2 x 8 x 8), then ``nodes``, which make 'last'."""
    rng = np.random.default_rng(5)
    weights = {
        "w": rng.normal(size=(2, 3, 1, 1)),
        "one": rng.normal(size=(2, 2, 1, 1)),
        "three": rng.normal(size=(2, 2, 3, 3)),
        "scale": np.array([2, -3]),
        "zeros": np.zeros(2),
        "ones": np.ones(2),
    }
    ending = [node("GlobalAveragePool", ["last"], ["pool"]), node("Flatten", ["pool"], ["logits"])]
    return tiny.make_model(
        [node("Conv", ["input", "w"], ["c"]), *nodes, *ending],
        {name: value.astype(np.float32) for name, value in weights.items()},
        input_shape=("N", 3, 8, 8),
        output_shape=("N", 2),
    )


STEP = {"strides": [2, 2]}
STRIDED = {
    "1 x 1 at stride 2": ([node("Conv", ["c", "one"], ["last"], **STEP)], "last"),
    "through cell-by-cell operators": (
        [
            node("BatchNormalization", ["c", "scale", "zeros", "zeros", "ones"], ["n"]),
            node("LeakyRelu", ["n"], ["r"]),
            node("Conv", ["r", "one"], ["last"], **STEP),
        ],
        "last",
    ),
    "pooling at stride 2": ([node("AveragePool", ["c"], ["last"], kernel_shape=[1, 2], **STEP)], "last"),
    "both branches at stride 2": (
        [
            node("Conv", ["c", "one"], ["a"], **STEP),
            node("MaxPool", ["c"], ["b"], kernel_shape=[1, 1], **STEP),
            node("Add", ["a", "b"], ["last"]),
        ],
        "a",
    ),
    "3 x 3 at stride 2": ([node("Conv", ["c", "three"], ["last"], pads=[1] * 4, **STEP)], None),
    "1 x 1 at stride 1": ([node("Conv", ["c", "one"], ["last"])], None),
    "a shortcut beside a branch that reads all": (
        [
            node("Conv", ["c", "one"], ["shortcut"], **STEP),
            node("Conv", ["c", "three"], ["main"], pads=[1] * 4, **STEP),
            node("Add", ["shortcut", "main"], ["last"]),
        ],
        None,
    ),
    "steps over what a window has gathered": (
        [
            node("Conv", ["c", "three"], ["a"], pads=[1] * 4),
            node("Conv", ["a", "one"], ["last"], **STEP),
        ],
        None,
    ),
}


@pytest.mark.parametrize("form", STRIDED)
def test_a_cut_says_whether_a_stride_steps_over_its_cells(form: str):
    nodes, skipped_by = STRIDED[form]
    graph = open_graph(strided(nodes))
    cut = graph.find("c")
    _, tail = graph.split(cut)
    # Independently: change one cell after another and see whether any logit moves.
    features = np.random.default_rng(1).normal(size=(1, *cut.shape)).astype(np.float32)
    changed = np.repeat(features, 64, axis=0)
    changed[np.arange(64), :, np.arange(64) // 8, np.arange(64) % 8] += 5
    unread = (np.abs(run(tail, changed) - run(tail, features)) < 1e-6).all(axis=1)
    assert unread.any() == (skipped_by is not None)
    assert cut.skipped_by == skipped_by


def test_a_cut_says_whether_branches_join_there(tiny_model: Path):
    joins = [cut.name for cut in Graph(load_model(tiny_model)).cuts if cut.joins]
    assert joins == ["block.add", "deep.add"]


# --- where the logits are -------------------------------------------------------------------------------------


def scores(*ending: onnx.NodeProto) -> onnx.ModelProto:
    """Four-class scores (N, 4, 1, 1) in 'pool', then ``ending``, which makes 'out'."""
    nodes = [node("Conv", ["input", "w"], ["c"]), node("GlobalAveragePool", ["c"], ["pool"]), *ending]
    weights = {
        "w": np.random.default_rng(3).normal(size=(4, 3, 3, 3)).astype(np.float32),
        "row": np.array([0, -1]),
    }
    shape = ("N", 4, 1, 1) if ending[-1].input[0] == "pool" and ending[-1].op_type != "Flatten" else ("N", 4)
    return tiny.make_model(nodes, weights, input_shape=("N", 3, 8, 8), output="out", output_shape=shape)


@pytest.mark.parametrize(
    ("ending", "kind", "logits"),
    [
        ([node("Flatten", ["pool"], ["f"]), node("Softmax", ["f"], ["out"])], "probabilities", "f"),
        ([node("Softmax", ["pool"], ["s"], axis=1), node("Flatten", ["s"], ["out"])], "probabilities", "pool"),
        ([node("Softmax", ["pool"], ["s"], axis=1), node("Reshape", ["s", "row"], ["out"])], "probabilities", "pool"),
        ([node("Softmax", ["pool"], ["out"], axis=1)], "probabilities", "pool"),
        ([node("Identity", ["pool"], ["out"])], "logits", "out"),
        ([node("Flatten", ["pool"], ["out"])], "logits", "out"),
        ([node("Flatten", ["pool"], ["f"]), node("LogSoftmax", ["f"], ["out"])], "log-probabilities", "f"),
    ],
    ids=["softmax", "softmax-flatten", "softmax-reshape", "softmax-4d", "4d", "flat", "log-softmax"],
)
def test_tail_ends_in_the_logits(ending: list[onnx.NodeProto], kind: str, logits: str):
    model = scores(*ending)
    graph = open_graph(model)
    assert (graph.model.output_kind, graph.model.logits_name) == (kind, logits)
    assert [cut.name for cut in graph.cuts] == ["input", "c"]
    x = pictures(model, 3)
    head, tail = graph.split(graph.find("c"))
    found = run(tail, run(head, x)).reshape(3, -1)
    # Independently: the model's own output is what the softmax makes of the logits.
    published = run(model, x).reshape(3, -1)
    shifted = np.exp(found - found.max(axis=1, keepdims=True))
    softmax = shifted / shifted.sum(axis=1, keepdims=True)
    expected = {"probabilities": softmax, "logits": found, "log-probabilities": np.log(softmax)}[kind]
    np.testing.assert_allclose(published, expected, atol=1e-6)
    assert found.min() < 0, "probabilities would not be negative"


# --- work -----------------------------------------------------------------------------------------------------


def test_multiply_adds_by_hand():
    shapes = {
        "x": (None, 8, 10, 6),
        "w": (12, 8, 3, 5),
        "grouped": (12, 2, 3, 3),
        "up": (8, 4, 2, 2),
        "y": (None, 12, 10, 6),
        "z": (None, 4, 20, 12),
        "row": (None, 30),
        "m": (7, 30),
        "mt": (30, 7),
        "out": (None, 7),
        "q": (None, 2, 9, 16),
        "k": (None, 2, 16, 9),
        "qk": (None, 2, 9, 9),
    }
    cells = 10 * 6
    expected = [
        (node("Conv", ["x", "w"], ["y"]), 12 * cells * 8 * 15),
        (node("Conv", ["x", "grouped"], ["y"], group=4), 12 * cells * 2 * 9),
        (node("ConvTranspose", ["x", "up"], ["z"], strides=[2, 2]), 8 * cells * 4 * 4),
        (node("Gemm", ["row", "m"], ["out"], transB=1), 7 * 30),
        (node("Gemm", ["row", "mt"], ["out"]), 7 * 30),
        (node("MatMul", ["row", "mt"], ["out"]), 7 * 30),
        (node("MatMul", ["q", "k"], ["qk"]), 2 * 9 * 9 * 16),
        (node("Relu", ["x"], ["y"]), 0),
        (node("MaxPool", ["x"], ["y"], kernel_shape=[3, 3]), 0),
    ]
    for item, count in expected:
        assert multiply_adds(item, shapes) == count, item.op_type


TINY_WORK = {
    "stem": 8 * 256 * 27,
    "block.a": 8 * 256 * 72,
    "block.b": 8 * 256 * 72,
    "down": 12 * 64 * 72,
    "deep.b": 12 * 64 * 108,
    "logits": 5 * 12,
}


def held_twin(graph: onnx.GraphProto, sizes: dict[str, int]) -> int:
    """The slow twin of `bytes_at_once`: at each node, all that was made by then and is read there or later."""
    outputs = {value.name for value in graph.output}
    nodes = list(graph.node)
    made = [{value.name for value in graph.input}, *({name for name in each.output if name} for each in nodes)]
    most = 0
    for now in range(len(nodes)):
        there = set().union(*made[: now + 2])
        needed = outputs.union(*(each.input for each in nodes[now:])) | made[now + 1]
        most = max(most, sum(4 * sizes[name] for name in there & needed if name in sizes))
    return most


def test_memory_of_one_picture_by_hand_and_by_the_slow_twin(tiny_model: Path):
    shapes = {"x": (None, 10), "a": (None, 100), "b": (None, 100), "c": (None, 7), "y": (None, 2)}
    chain = [
        helper.make_node(kind, list(read), [made])
        for kind, read, made in (("Relu", "x", "a"), ("Neg", "a", "b"), ("Add", "bw", "c"), ("Mul", "cx", "y"))
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy"]
    weight = helper.make_tensor("w", TensorProto.FLOAT, [5000], np.zeros(5000))
    graph = helper.make_graph(chain, "chain", values[:1], values[1:], [weight])
    # While b is made: x, which is read at the end, a and b.
    assert bytes_at_once(graph, shapes) == 4 * (10 + 100 + 100)
    # What is not known is as large as what it is made of.
    assert bytes_at_once(graph, {name: shapes[name] for name in "xac"}) == 4 * (10 + 100 + 100)
    assert bytes_at_once(graph, {"x": (None, 10)}) == 4 * 30
    deployed = Graph(load_model(tiny_model))
    sizes = {name: int(np.prod([side or 1 for side in shape])) for name, shape in deployed.shapes.items()}
    constants = {tensor.name for tensor in deployed.whole().graph.initializer}
    sizes = {name: size for name, size in sizes.items() if name not in constants}
    assert bytes_at_once(deployed.whole().graph, deployed.shapes) == held_twin(deployed.whole().graph, sizes) > 0


def test_tail_share_is_the_share_of_the_multiply_adds_behind_the_cut(tiny_model: Path):
    graph = Graph(load_model(tiny_model))
    total = sum(TINY_WORK.values())
    assert graph.total_cost == total
    behind = {
        "input": total,
        "stem": total - TINY_WORK["stem"],
        "stem.relu": total - TINY_WORK["stem"],
        "block.add": TINY_WORK["down"] + TINY_WORK["deep.b"] + TINY_WORK["logits"],
        "down": TINY_WORK["deep.b"] + TINY_WORK["logits"],
        "down.relu": TINY_WORK["deep.b"] + TINY_WORK["logits"],
        "deep.add": TINY_WORK["logits"],
    }
    assert {cut.name: cut.tail_share for cut in graph.cuts} == {
        name: pytest.approx(count / total) for name, count in behind.items()
    }


@pytest.mark.parametrize("product", ["Gemm", "MatMul"])
def test_a_matrix_behind_a_flattening_of_unknown_length_is_counted_in_full(product: str, rng: np.random.Generator):
    model = flattened_by_shape("input", rng, 17)
    if product == "MatMul":
        last = model.graph.node.pop()
        assert last.op_type == "Gemm"
        (matrix,) = [tensor for tensor in model.graph.initializer if tensor.name == "m"]
        matrix.dims[:] = [64, 5]
        model.graph.node.append(node("MatMul", ["flat", "m"], ["logits"]))
    graph = open_graph(model)
    assert graph.total_cost == 4 * 64 * 27 + 5 * 64
    assert graph.find("p").tail_share == pytest.approx(5 * 64 / (4 * 64 * 27 + 5 * 64))


# --- gates ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spread", [True, False])
def test_a_gate_made_by_dense_layers_does_not_hide_the_grid(spread: bool, rng: np.random.Generator):
    """Squeeze and excitation as exporters write it: pooled, flattened, dense, viewed as 1 x 1, maybe expanded."""
    nodes, weights = stack(rng)
    weights |= {"dense": rng.normal(size=(4, 4)).astype(np.float32), "view": np.array([-1, 4, 1, 1])}
    gate = [
        node("GlobalAveragePool", ["r"], ["pool"]),
        node("Flatten", ["pool"], ["squeezed"]),
        node("Gemm", ["squeezed", "dense"], ["excited"]),
        node("Sigmoid", ["excited"], ["sigmoid"]),
        node("Reshape", ["sigmoid", "view"], ["gate"]),
    ]
    if spread:
        gate += [node("Shape", ["r"], ["s"]), node("Expand", ["gate", "s"], ["wide"])]
    nodes = [
        *nodes[:2],
        *gate,
        node("Mul", ["r", "wide" if spread else "gate"], ["gated"]),
        node("MaxPool", ["gated"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Flatten", ["p"], ["flat"]),
        node("Gemm", ["flat", "m", "b"], ["logits"], transB=1),
    ]
    model = tiny.make_model(nodes, weights, input_shape=("N", 3, 8, 8))
    assert_halves_are_the_whole(model, ["input", "c", "r", "gated", "p"])
    cuts = {cut.name: cut for cut in open_graph(model).cuts}
    assert cuts["r"].field is not None
    assert not cuts["r"].field.everything
    for name, stride in (("gated", (1, 1)), ("p", (2, 2))):
        field = cuts[name].field
        assert field is not None
        assert field.everything
        assert field.stride == stride


def test_branches_that_bypass_each_other_are_named_where_there_is_no_cut(tmp_path: Path):
    """Two scales side by side, as CrossViT has them: neither is all that the scores are made of."""
    nodes = [
        node("Conv", ["input", "fine.w"], ["fine"], strides=[2, 2]),
        node("Conv", ["input", "coarse.w"], ["coarse"], strides=[4, 4]),
        *(node("GlobalAveragePool", [name], [f"{name}.pool"]) for name in ("fine", "coarse")),
        *(node("Flatten", [f"{name}.pool"], [f"{name}.flat"]) for name in ("fine", "coarse")),
        node("Concat", ["fine.flat", "coarse.flat"], ["logits"], axis=1),
    ]
    rng = np.random.default_rng(0)
    weights = {
        "fine.w": rng.normal(size=(3, 3, 2, 2)).astype(np.float32),
        "coarse.w": rng.normal(size=(2, 3, 4, 4)).astype(np.float32),
    }
    path = tiny.save(tiny.make_model(nodes, weights), tmp_path / "two.onnx")
    with pytest.raises(CutError, match=r"lost at 'fine': 'input' bypasses its 16 x 16 cells"):
        choose_cuts(Graph(load_model(path)).cuts)
