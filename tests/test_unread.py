"""Cuts whose cells change no score, models blind to the picture, and stages that are lost: never without a word."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from onnx_evidence import DeployedModel, Explainer, ModelError
from onnx_evidence.cli import main
from onnx_evidence.cli.inspection import inspect_model
from onnx_evidence.cuts.certificate import are_read
from onnx_evidence.cuts.choose import UNREAD, choose_cuts, judge_cuts, last_cut, resolve_layers, why_shallow
from onnx_evidence.cuts.graph import Lost
from onnx_evidence.intake.model import load_model
from tests import tiny
from tests.test_choose import INPUT, adds, cut
from tests.tiny_transformers import WIDTH, Net, class_attention

DEAD = {"seen", "last"}
# Of a gate that an even grey picture opens, and noise does not.
THRESHOLD = 5.75


@pytest.fixture(scope="module")
def attending(tmp_path_factory: pytest.TempPathFactory) -> DeployedModel:
    path = tmp_path_factory.mktemp("attending") / "m.onnx"
    onnx.save(class_attention(), path)
    return DeployedModel(path, device="cpu")


@pytest.fixture
def picture() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 255, size=(48, 48, 3)).astype(np.uint8)


def joins(model: DeployedModel) -> list[str]:
    return [each.name for each in model.graph.cuts if each.name in {"before", "given", *DEAD}]


# Which cuts are dead


def test_cells_are_read_where_another_picture_s_cells_give_other_scores(attending):
    """Against plain ONNX Runtime: the file behind each tensor, with the cells of another picture and the same token."""
    whole = onnx.shape_inference.infer_shapes(onnx.load(attending.model.path))
    rng = np.random.default_rng(5)
    assert joins(attending) == ["before", "given", "seen", "last"]
    for name in joins(attending):
        part = onnx.utils.Extractor(whole).extract_model([name, "input"], ["logits"])  # the input for its batch alone
        session = ort.InferenceSession(part.SerializeToString(), providers=["CPUExecutionProvider"])
        tokens = rng.normal(size=(1, 36 if name == "before" else 37, WIDTH)).astype(np.float32)
        other = tokens.copy()
        other[:, -36:] += rng.normal(size=(1, 36, WIDTH)).astype(np.float32)
        image = np.zeros((1, 3, 48, 48), np.float32)
        before, after = (session.run(None, {name: each, "input": image})[0] for each in (tokens, other))
        assert attending.is_read(attending.graph.find(name)) != np.array_equal(before, after), name
        assert (name in DEAD) == np.array_equal(before, after), name


def test_auto_takes_the_next_in_line_and_says_why(attending):
    cuts = attending.graph.cuts
    control = {each.name for each in choose_cuts(cuts)}
    assert control & DEAD, "the graph's rules alone do not tell"
    verdicts = {each.name: verdict for each, verdict in judge_cuts(cuts, is_read=attending.is_read).items()}
    taken = {name for name, verdict in verdicts.items() if verdict.taken}
    assert taken
    assert not taken & DEAD
    reasons = {verdicts[name].reason for name in DEAD}
    assert UNREAD in reasons or any("whose cells change no score" in reason for reason in reasons)
    report = inspect_model(attending)
    assert set(report["auto"]) == taken
    left = {each["name"]: each["left"] for each in report["cuts"]}
    assert {left[name] for name in DEAD} == reasons
    assert last_cut(cuts, is_read=attending.is_read) not in DEAD
    assert last_cut(cuts) not in {"before", "given"}


def test_what_comes_behind_a_dead_cut_is_not_tried_and_the_one_before_it_is_taken():
    cuts = (INPUT, *adds(28, "a", "b"), *adds(14, "c", "d", "e"), *adds(7, "f"))
    asked: list[str] = []

    def is_read(each) -> bool:
        asked.append(each.name)
        return each.name < "d"

    assert resolve_layers(["auto"], cuts, integrate=True, is_read=is_read) == ["b", "c"]
    assert asked.count("f") == 0
    assert judge_cuts(cuts, is_read=is_read)[cuts[-1]].reason.startswith("its cells come of 'd'")


def test_where_nothing_moves_a_score_the_trial_is_not_believed():
    cuts = (INPUT, *adds(28, "a", "b"), *adds(14, "c"))
    assert resolve_layers(["auto"], cuts, integrate=True, is_read=lambda each: False) == ["b", "c"]
    assert last_cut(cuts, is_read=lambda each: False) == "c"


@pytest.mark.parametrize(
    ("reads", "expected"),
    [
        (lambda x: x[:, 2:].sum(axis=(2, 3)), False),
        (lambda x: x[:, 2:].sum(axis=(2, 3)) + 0 * x[:, :1].sum(axis=(2, 3)), False),
        (lambda x: x.sum(axis=(2, 3)), True),
        (lambda x: np.maximum(x[:, :2, 1, 1], 0), True),
        (lambda x: np.maximum(-x[:, :2, 0, 0] - 9, 0), True),  # one cell, and saturated for the features themselves
    ],
)
def test_one_cell_that_is_read_is_enough_and_what_is_kept_does_not_count(reads: Callable, expected: bool):
    features = np.random.default_rng(0).normal(size=(4, 3, 3)).astype(np.float32)
    assert are_read(reads, features, 2) is expected


def test_nothing_is_known_of_scores_that_are_no_numbers():
    def refuse(batch):
        raise ModelError("not finite")

    assert are_read(refuse, np.zeros((4, 3, 3), np.float32), 0)


# Cuts that are read for some pictures alone


def gated(path: Path) -> Path:
    """The scores behind 'deep.add' count where its first channel is large everywhere, which noise never is."""
    model = tiny.classifier()
    nodes, first = list(model.graph.node), np.zeros(12, np.float32)
    first[0] = 6
    for node in nodes:
        if node.output[0] == "deep.b":
            node.input.append("lift")
    nodes += [
        helper.make_node("Gather", ["deep.add", "zero"], ["channel"], axis=1),
        helper.make_node("ReduceMin", ["channel", "places"], ["least"], keepdims=0),
        helper.make_node("Greater", ["least", "much"], ["open"]),
        helper.make_node("Where", ["open", "logits", "constant"], ["scores"]),
    ]
    weights = {
        "lift": first,
        "zero": np.array([0]),
        "places": np.array([2, 3]),
        "much": np.float32(THRESHOLD),
        "constant": np.zeros((1, 5), np.float32),
    }
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items())
    model.opset_import[0].version = 18
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.output[0].name = "scores"
    return tiny.save(model, path)


def test_a_gate_that_this_picture_opens_is_no_dead_cut(tmp_path):
    deployed = DeployedModel(gated(tmp_path / "gated.onnx"), device="cpu")
    cut = deployed.graph.find("deep.add")
    assert not deployed.is_read(cut), "noise leaves it shut"
    grey = np.full((44, 60, 3), 128, np.uint8)
    black = np.zeros_like(grey)
    found = []
    for picture in (grey, black):
        features = deployed.heads([cut]).at(cut)(deployed.prepare(picture)[1][None])[0]
        found.append(deployed.is_read(cut, features=features))
        both = Explainer(deployed, layer=["block.add", "deep.add"], background="zero").explain(picture, target=1)
        deep = both.grids[1]
        assert (both.silent or (False, False))[1] is not found[-1]
        assert bool(np.abs(deep).max() > 0.01) is found[-1]
    assert found == [True, False]


def test_a_gate_that_some_noise_opens_is_seen(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.test_unread.THRESHOLD", 4.5)
    deployed = DeployedModel(gated(tmp_path / "gated.onnx"), device="cpu")
    assert deployed.is_read(deployed.graph.find("deep.add"))


# Dead cuts that are named


@pytest.mark.parametrize("method", ["integrated", "window", "taylor-evidence"])
def test_a_named_dead_cut_has_no_part_in_the_map(method: str, attending, picture):
    alone = Explainer(attending, layer="before", method=method).explain(picture, target=1)
    both = Explainer(attending, layer=["before", "last"], method=method).explain(picture, target=1)
    assert alone.silent == ()
    assert both.silent == (False, True)
    np.testing.assert_array_equal(both.values, alone.values)
    np.testing.assert_array_equal(both.stderr, alone.stderr)
    assert np.abs(alone.values).max() > 0
    assert both.budget == alone.budget
    assert len(both.grids) == 2, "its own map is kept"
    control = Explainer(attending, layer=["before", "given"], method=method).explain(picture, target=1)
    assert control.silent == ()
    assert not np.array_equal(control.values, alone.values)


def test_the_table_and_the_receipt_say_that_a_cut_is_silent(attending, picture, tmp_path):
    import cv2

    cv2.imwrite(str(tmp_path / "p.png"), picture)
    for layers, silent, words in (
        (
            ["before", "last"],
            [False, True],
            "nothing that was done to the cells of 'last' changed a score: it is left out",
        ),
        (["last"], [True], "nothing that was done to the cells changed a score: the map says nothing"),
        (["before"], [False], None),
    ):
        out = tmp_path / "-".join(layers)
        named = [option for layer in layers for option in ("--layer", layer)]
        arguments = ["explain", attending.model.path, tmp_path / "p.png", "-o", out, "--device", "cpu", *named]
        result = CliRunner().invoke(main, [str(each) for each in arguments], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        assert (words or "changed a score") in result.stderr or words is None
        assert words is not None or "changed a score" not in result.stderr
        (entry,) = (json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines())
        assert [each["silent"] for each in entry["cuts"]] == silent
        assert entry["shallow"] is None, "whoever names a layer has chosen it"


# Models that are blind


def changed(change: Callable[[onnx.GraphProto], None]) -> onnx.ModelProto:
    model = tiny.classifier()
    change(model.graph)
    return model


def weights(graph: onnx.GraphProto, name: str, values: np.ndarray) -> None:
    tensor = next((each for each in graph.initializer if each.name == name), None) or graph.initializer.add()
    tensor.CopyFrom(numpy_helper.from_array(values, name))


def behind(graph: onnx.GraphProto, tensor: str, *nodes: onnx.NodeProto) -> None:
    """Put nodes behind a tensor: the last one's output is read in its place."""
    place = next(number for number, node in enumerate(graph.node) if tensor in node.output) + 1
    for node in graph.node[place:]:
        node.input[:] = [nodes[-1].output[0] if name == tensor else name for name in node.input]
    kept = list(graph.node)
    del graph.node[:]
    graph.node.extend([*kept[:place], *nodes, *kept[place:]])


def zero_head(graph: onnx.GraphProto) -> None:
    weights(graph, "w6", np.zeros((5, 12), np.float32))


def zero_kernel(graph: onnx.GraphProto) -> None:
    weights(graph, "w1", np.zeros((8, 3, 3, 3), np.float32))


def zero_factor(graph: onnx.GraphProto) -> None:
    weights(graph, "nought", np.zeros((1,), np.float32))
    behind(graph, "pool", helper.make_node("Mul", ["pool", "nought"], ["nothing"]))


def zero_scale(graph: onnx.GraphProto) -> None:
    for name in ("scale", "shift", "mean"):
        weights(graph, name, np.zeros(12, np.float32))
    weights(graph, "variance", np.ones(12, np.float32))
    made = helper.make_node("BatchNormalization", ["deep.add", "scale", "shift", "mean", "variance"], ["normal"])
    behind(graph, "deep.add", made)


def zero_codes(graph: onnx.GraphProto) -> None:
    weights(graph, "codes", np.full((12, 12), 7, np.uint8))
    weights(graph, "step", np.array(0.1, np.float32))
    weights(graph, "zero", np.array(7, np.uint8))
    behind(
        graph,
        "flat",
        helper.make_node("DequantizeLinear", ["codes", "step", "zero"], ["matrix"]),
        helper.make_node("MatMul", ["flat", "matrix"], ["mixed"]),
    )


def own_difference(graph: onnx.GraphProto) -> None:
    behind(graph, "flat", helper.make_node("Sub", ["flat", "flat"], ["nothing"]))


def one_choice(graph: onnx.GraphProto) -> None:
    weights(graph, "sum", np.ones((12, 1), np.float32))
    weights(graph, "spread", np.ones((1, 12), np.float32))
    nodes = [
        helper.make_node("MatMul", ["flat", "sum"], ["one"]),
        helper.make_node("Softmax", ["one"], ["certain"], axis=-1),
        helper.make_node("MatMul", ["certain", "spread"], ["again"]),
    ]
    behind(graph, "flat", *nodes)


def its_shape(graph: onnx.GraphProto) -> None:
    weights(graph, "spread", np.ones((1, 12), np.float32))
    nodes = [
        helper.make_node("Shape", ["flat"], ["sides"]),
        helper.make_node("ConstantOfShape", ["sides"], ["blank"]),
        helper.make_node("Add", ["blank", "spread"], ["again"]),
    ]
    behind(graph, "flat", *nodes)


BLIND = [zero_head, zero_kernel, zero_factor, zero_scale, zero_codes, own_difference, one_choice, its_shape]


@pytest.mark.parametrize("change", BLIND)
def test_a_model_whose_scores_do_not_depend_on_the_picture_is_refused(change: Callable, tmp_path: Path, rng):
    path = tiny.save(changed(change), tmp_path / "blind.onnx")
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # as written, nothing fused
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    rows = [session.run(None, {"input": rng.normal(size=(1, 3, 32, 32)).astype(np.float32)})[0] for _ in range(3)]
    assert np.ptp(rows, axis=0).max() == 0, "the control: by plain ONNX Runtime they do not"
    with pytest.raises(ModelError, match="the scores do not depend on the picture: nothing of it comes through "):
        load_model(path)


def test_the_command_line_refuses_it_with_exit_code_1(tmp_path: Path, picture):
    import cv2

    path = tiny.save(changed(zero_head), tmp_path / "blind.onnx")
    cv2.imwrite(str(tmp_path / "p.png"), picture)
    for arguments in (["inspect", path], ["explain", path, tmp_path / "p.png", "-o", tmp_path / "out"]):
        result = CliRunner().invoke(main, [str(each) for each in arguments], catch_exceptions=False)
        assert result.exit_code == 1
        assert "the scores do not depend on the picture: nothing of it comes through Gemm at 'logits'" in result.stderr
    assert not (tmp_path / "out").exists()


def zero_beside(graph: onnx.GraphProto) -> None:
    """A branch of zeros beside one that is none."""
    zero_factor(graph)
    behind(graph, "nothing", helper.make_node("Add", ["nothing", "pool"], ["something"]))


def zero_bias(graph: onnx.GraphProto) -> None:
    weights(graph, "b6", np.zeros(5, np.float32))


def zero_block(graph: onnx.GraphProto) -> None:
    """As residual blocks begin."""
    weights(graph, "w5", np.zeros((12, 12, 3, 3), np.float32))


def softmax_over_channels(graph: onnx.GraphProto) -> None:
    behind(graph, "pool", helper.make_node("Softmax", ["pool"], ["shares"], axis=1))


@pytest.mark.parametrize("change", [zero_beside, zero_bias, zero_block, softmax_over_channels])
def test_control_zeros_beside_what_is_read_are_no_blindness(change: Callable, tmp_path: Path):
    model = DeployedModel(tiny.save(changed(change), tmp_path / "m.onnx"), device="cpu")
    rng = np.random.default_rng(2)
    assert np.ptp(model.logits(rng.normal(size=(3, 3, 32, 32)).astype(np.float32)), axis=0).max() > 0


def test_a_softmax_whose_axis_an_old_opset_decides_is_no_blindness(tmp_path: Path):
    """Of 12 x 1 x 1 values, axis 1 by default: it is over twelve numbers."""
    model = changed(lambda graph: behind(graph, "pool", helper.make_node("Softmax", ["pool"], ["shares"])))
    model.opset_import[0].version = 11
    load_model(tiny.save(model, tmp_path / "old.onnx"))


def test_a_saturated_model_is_explained_with_a_word(tmp_path: Path, picture):
    """No picture of noise moves its scores, but some picture may: it is not refused."""
    import cv2

    def saturate(graph: onnx.GraphProto) -> None:
        weights(graph, "much", np.array(1e6, np.float32))
        nodes = [helper.make_node("Sub", ["flat", "much"], ["low"]), helper.make_node("Relu", ["low"], ["none"])]
        behind(graph, "flat", *nodes)

    path = tiny.save(changed(saturate), tmp_path / "saturated.onnx")
    cv2.imwrite(str(tmp_path / "p.png"), picture)
    arguments = ["explain", path, tmp_path / "p.png", "-o", tmp_path / "out", "--device", "cpu"]
    result = CliRunner().invoke(main, [str(each) for each in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "nothing that was done to the cells changed a score: the map says nothing" in result.stderr


# Stages that are lost


def losing(op_type: str, *, bypassed: bool = False) -> onnx.ModelProto:
    """A stage of 10 x 10 cells, an operator, and a deeper stage of 5 x 5."""
    net = Net(11)
    x = net.op("Conv", "input", net.weight(WIDTH, 3, 4, 4), name="stem", strides=[4, 4])
    x = net.op("Add", x, net.op("Conv", net.op("Relu", x), net.weight(WIDTH, WIDTH, 1, 1)), name="shallow")
    more = [net.constant(np.array(3))] if op_type == "CumSum" else []
    y = net.op(op_type, x, *more, name="through")
    y = net.op("Conv", y, net.weight(4 * WIDTH, WIDTH, 3, 3), strides=[2, 2], pads=[1] * 4, name="down")
    y = net.op("Add", y, net.op("Conv", net.op("Relu", y), net.weight(32, 32, 3, 3), pads=[1] * 4), name="deep")
    pooled = net.op("Flatten", net.op("GlobalAveragePool", y))
    width = 4 * WIDTH
    if bypassed:
        pooled = net.op("Concat", pooled, net.op("Flatten", net.op("GlobalAveragePool", x)), axis=1)
        width += WIDTH
    return net.model(pooled, width, 40)


def test_a_deeper_stage_that_is_no_cut_is_told(tmp_path: Path, picture):
    found = {}
    for name, model in (
        ("followed", losing("Relu")),
        ("lost", losing("CumSum")),
        ("bypassed", losing("Relu", bypassed=True)),
    ):
        onnx.save(model, tmp_path / f"{name}.onnx")
        deployed = DeployedModel(tmp_path / f"{name}.onnx", device="cpu")
        found[name] = inspect_model(deployed)["shallow"]
        grids = {each.grid for each in choose_cuts(deployed.graph.cuts)}
        assert ((5, 5) in grids) == (name == "followed")
        assert Explainer(deployed).explain(picture).record["shallow"] == found[name]
        assert Explainer(deployed, layer="shallow").explain(picture).record["shallow"] is None
    assert found["followed"] is None
    lost, bypassed = str(found["lost"]), str(found["bypassed"])
    assert lost.startswith("rows and columns cannot be followed from 'through' (CumSum) on: ")
    assert bypassed.startswith("'shallow' bypasses the 5 x 5 grid of 'down': ")
    for words in (lost, bypassed):
        assert "% of the work is behind 'shallow', the last cut" in words


def test_inspect_and_explain_warn_of_lost_stages(tmp_path: Path, picture):
    import cv2

    onnx.save(losing("CumSum"), tmp_path / "lost.onnx")
    cv2.imwrite(str(tmp_path / "p.png"), picture)
    for arguments in (["inspect"], ["explain", tmp_path / "p.png", "-o", tmp_path / "out", "--method", "window"]):
        command = [arguments[0], tmp_path / "lost.onnx", *arguments[1:], "--device", "cpu"]
        result = CliRunner().invoke(main, [str(each) for each in command], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        assert "Warning: rows and columns cannot be followed from 'through' (CumSum) on: " in result.stdout


def test_much_work_behind_the_deepest_cut_is_told_and_a_head_is_not():
    lost = Lost("t", "rows and columns cannot be followed from 't' (Op) on")
    early, half, late = (cut("last", "Add", 14, share) for share in (0.7, 0.5, 0.05))
    assert why_shallow([early], (INPUT, early), None) == "70% of the work is behind 'last', the deepest cut taken"
    assert why_shallow([half], (INPUT, half), None) is None
    assert why_shallow([half], (INPUT, half), lost) == f"{lost.words}: 50% of the work is behind 'last', the last cut"
    assert why_shallow([late], (INPUT, late), lost) is None, "behind it is a head"
    assert why_shallow([early, late], (INPUT, early, late), None) is None
    assert why_shallow([INPUT], (INPUT, early), lost) is None, "pixels were asked for"


def test_a_score_of_half_precision_is_followed_too(tmp_path: Path):
    """A zero weight that is cast on its way."""

    def cast(graph: onnx.GraphProto) -> None:
        weights(graph, "half", np.zeros((12, 12), np.float16))
        nodes = [
            helper.make_node("Cast", ["half"], ["matrix"], to=TensorProto.FLOAT),
            helper.make_node("MatMul", ["flat", "matrix"], ["mixed"]),
        ]
        behind(graph, "flat", *nodes)

    with pytest.raises(ModelError, match="nothing of it comes through MatMul at 'mixed'"):
        load_model(tiny.save(changed(cast), tmp_path / "half.onnx"))
