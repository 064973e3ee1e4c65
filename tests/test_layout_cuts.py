"""Cuts of transformers, of channels-last, quantised and half-precision models, against the whole file.

Where cells lie is checked with pixels: what one patch of the picture changes most must be its own cell.
"""

from functools import cache
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper

from onnx_evidence.cli.inspection import inspect_model
from onnx_evidence.cli.tables import inspection_table
from onnx_evidence.cuts.certificate import certify
from onnx_evidence.cuts.choose import choose_cuts, judge_cuts
from onnx_evidence.deployed import DeployedModel
from onnx_evidence.errors import CutError
from onnx_evidence.evidence.samplers import MeanSampler, ZeroSampler
from onnx_evidence.evidence.score import Score
from onnx_evidence.explainer import Explainer
from onnx_evidence.methods.background_file import save_background
from onnx_evidence.methods.engine import View
from onnx_evidence.methods.fit import fit_background
from onnx_evidence.methods.kept import KeepingSampler, keeping
from tests import tiny
from tests.tiny_transformers import MODELS, WIDTH, Net

node = helper.make_node
# Model, a cut, rows and columns, pixels of a cell.
PLACES = [
    ("vit", "patches", 6, 8),
    ("vit", "tokens", 6, 8),
    ("vit", "block0", 6, 8),
    ("vit", "block2", 6, 8),
    ("vit, decomposed", "block1", 6, 8),
    ("vit, patches alone", "block3", 6, 8),
    ("swin", "a0", 20, 2),
    ("swin", "a1", 20, 2),
    ("swin", "merged", 10, 4),
    ("swin", "b1", 10, 4),
    ("windowed", "local", 10, 4),
    ("windowed", "sparse", 10, 4),
    ("convnext", "a1", 10, 4),
    ("convnext", "b1", 5, 8),
    ("half", "sum", 10, 4),
    ("quantised", "sum.again", 10, 4),
    ("class attention", "before", 6, 8),
    ("class attention", "given", 6, 8),
    ("unrolled", "a", 20, 2),
    ("unrolled", "b", 10, 4),
    ("unrolled", "b.gated", 10, 4),
    ("unrolled", "c.gated", 5, 8),
    ("unfolded", "mixed0", 10, 4),
    ("unfolded", "mixed1", 10, 4),
    ("unfolded", "out", 10, 4),
    ("unfolded, gathered", "mixed0", 10, 4),
    ("unfolded, gathered", "mixed1", 10, 4),
    ("pixels", "inner", 10, 4),
    ("pixels", "outer", 5, 8),
]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("layouts")

    @cache
    def open_model(name: str) -> DeployedModel:
        path = folder / f"{name}.onnx"
        onnx.save(MODELS[name](), path)
        return DeployedModel(path, device="cpu")

    return open_model


def whole(model: DeployedModel, x: np.ndarray) -> np.ndarray:
    """Logits of the file as it is."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(model.model.path), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"input": x})[0]


def pictures(model: DeployedModel, count: int = 2) -> np.ndarray:
    rng = np.random.default_rng(6)
    return rng.normal(size=(count, *model.model.input_shape)).astype(np.float32)


@pytest.mark.parametrize("name", MODELS)
def test_halves_are_the_file_at_every_cut(name: str, opened):
    model = opened(name)
    x = pictures(model)
    logits = whole(model, x)
    assert np.ptp(logits, axis=0).max() > 0.05, "pictures that give the same logits would prove nothing"
    assert len(model.graph.cuts) > 3
    for cut in model.graph.cuts:
        features = model.head(cut)(x)
        assert features.shape == (2, *cut.shape)
        assert features.dtype == np.float32
        split = model.tail(cut)(features)
        for row in range(2):
            certify(cut, split[row], logits[row].astype(np.float64))
        if name == "quantised":
            np.testing.assert_array_equal(split, logits, err_msg=cut.name)
        noise = np.random.default_rng(5).normal(size=features.shape).astype(np.float32)
        changed = model.tail(cut)(features + features.std() * noise)
        assert np.abs(changed - split).max() > 1e-3, "a tail that ignores its features proves nothing"


@pytest.mark.parametrize(("name", "layer", "cells", "pixels"), PLACES)
def test_what_a_patch_changes_most_is_its_own_cell(name: str, layer: str, cells: int, pixels: int, opened):
    model = opened(name)
    cut = model.graph.find(layer)
    assert cut.grid == (cells, cells)
    x = pictures(model, 1)
    rng = np.random.default_rng(1)
    for row, col in ((0, 0), (0, cells - 1), (cells - 1, 1), *rng.integers(cells, size=(5, 2))):
        other = x.copy()
        other[..., row * pixels : (row + 1) * pixels, col * pixels : (col + 1) * pixels] += 2
        before, after = model.head(cut)(np.concatenate([x, other]))[:, : cut.cell_shape[0]]
        change = ((after - before) ** 2).sum(axis=0)
        assert np.unravel_index(change.argmax(), change.shape) == (row, col)


@pytest.mark.parametrize("name", MODELS)
def test_gradients_at_the_cuts_of_auto_are_slopes_and_their_logits_the_models(name: str, opened):
    model = opened(name)
    x = pictures(model, 1)
    logits = model.logits(x)
    for cut in choose_cuts(model.graph.cuts, is_read=model.is_read):
        features, score = model.head(cut)(x), Score.of(5, 1, None, "log-odds")
        found, gradient = model.gradient(cut)(features, score.direction, score.rest)
        certify(cut, found[0], logits[0])
        if name == "quantised":
            np.testing.assert_array_equal(found, logits)
            continue  # steps have no slopes
        direction = np.random.default_rng(2).normal(size=features.shape).astype(np.float32)
        if cut.kept:
            assert not gradient[:, -cut.kept :].any()
            direction[:, -cut.kept :] = 0
        step = np.float32(0.05 if name == "half" else 0.001)
        ends = [score.bits(model.tail(cut)(features + sign * step * direction))[0] for sign in (1, -1)]
        slope = (ends[0] - ends[1]) * np.log(2) / (2 * step)
        usual = np.linalg.norm(gradient)
        assert usual > 1e-3
        assert abs(slope - float((gradient * direction).sum())) < (0.2 if name == "half" else 0.02) * usual


# Tokens that are no cells


def raw_tail(model: DeployedModel, tensor: str):
    """The file behind a tensor, on the tensor's own values."""
    part = onnx.utils.Extractor(onnx.shape_inference.infer_shapes(onnx.load(model.model.path)))
    made = part.extract_model([tensor], ["logits"])
    session = ort.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    return lambda values: session.run(None, {tensor: values})[0]


def raw(model: DeployedModel, tensor: str, x: np.ndarray) -> np.ndarray:
    file = onnx.load(model.model.path)
    file.graph.output.append(helper.make_tensor_value_info(tensor, onnx.TensorProto.FLOAT, None))
    session = ort.InferenceSession(file.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run([tensor], {"input": x})[0]


def test_features_are_the_tokens_and_editing_cells_edits_their_tokens_alone(opened):
    model = opened("vit")
    cut, x = model.graph.find("block1"), pictures(model)
    tokens, features = raw(model, "block1", x), model.head(cut)(x)
    assert (cut.kept, cut.shape, cut.cell_shape) == (2 * WIDTH, (3 * WIDTH, 6, 6), (WIDTH, 6, 6))
    for row, col in np.ndindex(6, 6):
        np.testing.assert_array_equal(features[:, :WIDTH, row, col], tokens[:, 1 + 6 * row + col])
        np.testing.assert_array_equal(features[:, WIDTH : 2 * WIDTH, row, col], tokens[:, 0])
        np.testing.assert_array_equal(features[:, 2 * WIDTH :, row, col], tokens[:, 37])
    features[:, :WIDTH, 2, 3] = 0
    tokens[:, 1 + 6 * 2 + 3] = 0
    # A chain of matrix products of other shapes may round otherwise.
    np.testing.assert_allclose(model.tail(cut)(features), raw_tail(model, "block1")(tokens), atol=1e-5)


@pytest.mark.parametrize(
    "method",
    [
        "integrated",
        "window",
        "taylor-evidence",
        "relevance",
        "hirescam",
        "rise",
        "recipro-cam",
        "ablation-cam",
        "score-cam",
    ],
)
def test_every_family_of_methods_leaves_the_class_token_as_it_is(method: str, opened, monkeypatch: pytest.MonkeyPatch):
    model = opened("vit")
    seen: list[tuple[np.ndarray, int]] = []
    tail, gradient = model.tail, model.gradient

    def watched(cut, call):
        def run(batch, *rest):
            seen.append((batch, cut.kept))
            return call(batch, *rest)

        return run

    monkeypatch.setattr(model, "tail", lambda cut: watched(cut, tail(cut)))
    monkeypatch.setattr(model, "gradient", lambda cut, **given: watched(cut, gradient(cut, **given)))
    options = {"samples": 20} if method == "rise" else {}
    picture = np.random.default_rng(0).integers(0, 255, size=(48, 48, 3)).astype(np.uint8)
    explainer = Explainer(model, layer="block1", method=method, **options)
    seen.clear()  # whether cells are read was tried on another picture, with tokens of its own
    found = explainer.explain(picture)
    assert np.isfinite(found.values).all()
    assert np.ptp(found.values) > 0
    tokens = [batch[:, -kept:] for batch, kept in seen if kept]
    assert tokens or method == "score-cam"
    for each in tokens:
        np.testing.assert_array_equal(each, np.broadcast_to(tokens[0][:1, :, :1, :1], each.shape))


def test_integrated_bits_are_those_of_removing_patches_from_the_file(opened):
    model = opened("vit")
    picture = np.random.default_rng(0).integers(0, 255, size=(48, 48, 3)).astype(np.uint8)
    found = Explainer(model, layer="block1", background="mean", completeness=0.01).explain(picture, target=2)
    tokens = raw(model, "block1", model.prepare(picture)[1][None])
    removed = tokens.copy()
    removed[:, 1:37] = tokens[:, 1:37].mean(axis=1, keepdims=True)
    score = Score.of(5, 2, None, "log-odds")
    with_all, without = (
        score.bits(raw_tail(model, "block1")(each).astype(np.float64))[0] for each in (tokens, removed)
    )
    (budget,) = found.budgets
    assert abs(budget.with_features - with_all) < 1e-4
    assert abs(budget.without - without) < 1e-4
    assert abs(found.values.sum() - (with_all - without)) < 0.02 * max(1, abs(with_all - without))


def test_keeping_leaves_the_last_channels_and_hands_on_the_others(rng: np.random.Generator):
    features = rng.normal(size=(5, 4, 6)).astype(np.float32)
    view = View(features, features, np.zeros(2), 0)
    seen = []
    start = keeping(lambda given: seen.append(given) or np.zeros((3, 3, 4, 6), np.float32), 2)(view)
    assert seen[0].features.shape == (3, 4, 6)
    assert not start[:, :3].any()
    np.testing.assert_array_equal(start[:, 3:], np.broadcast_to(features[3:], (3, 2, 4, 6)))
    drawn = KeepingSampler(ZeroSampler(), 2).draw(features, (1, 2), (2, 3), 4, (0,))
    assert not drawn[:, :3].any()
    np.testing.assert_array_equal(drawn[2, 3:], features[3:, 1:3, 2:5])
    plain = lambda given: np.zeros((1, 5, 4, 6), np.float32)  # noqa: E731
    assert keeping(plain, 0) is plain
    assert MeanSampler().draw(features, (0, 0), (1, 1), 1, (0,)).shape == (1, 5, 1, 1)


def test_the_words_say_which_tokens_are_cells_and_how_that_is_known(opened):
    axes = {cut.name: cut.axes for cut in opened("vit").graph.cuts}
    assert axes["patches"] == "as the input's"
    assert axes["block1"].startswith("tokens 1..36 of 38 -> 6 x 6 (Reshape at 'reshape.1' flattened a 6 x 6 grid;")
    assert axes["block1"].endswith("Concat at 'tokens' put 1 before and 1 behind them)")
    assert {cut.name: cut.axes for cut in opened("half").graph.cuts}["sum"] == "as the input's, float16"
    assert "added cell by cell at 'a1.middle'" in opened("swin").graph.find("a1").axes
    assert opened("swin").graph.find("a0").axes == "batch x rows x columns x channels"


def test_fields_are_of_patches_then_of_everything_and_of_windows_not_known(opened):
    fields = {cut.name: cut.field for cut in opened("vit").graph.cuts}
    assert fields["tokens"].size((48, 48)) == (8, 8)
    assert fields["block0"].everything
    assert fields["block0"].stride == (8, 8)
    swin = {cut.name: cut.field for cut in opened("swin").graph.cuts}
    assert swin["patches"].size((40, 40)) == (2, 2)
    assert swin["a0"] is None
    local = {cut.name: cut.field for cut in opened("windowed").graph.cuts}
    assert (local["local"].size((40, 40)), local["sparse"].stride) == ((4, 4), (4, 4))


def test_inspect_says_how_axes_map_and_what_sees_everything(opened):
    report = inspect_model(opened("vit"))
    cuts = {cut["name"]: cut for cut in report["cuts"]}
    assert cuts["block1"]["kept"] == 2 * WIDTH
    assert cuts["block1"]["axes"] == opened("vit").graph.find("block1").axes
    assert (cuts["block1"]["sees_everything"], cuts["tokens"]["sees_everything"]) == (True, False)
    assert (cuts["block3"]["unread_by"], cuts["block1"]["unread_by"]) == ("read", None)
    lines = inspection_table(report).splitlines()
    place = next(number for number, line in enumerate(lines) if line.startswith("* middle0 "))
    assert " everything " in lines[place]
    assert lines[place + 1].strip().startswith("axes: tokens 1..36 of 38 -> 6 x 6")
    assert not any("as the input's" in line for line in lines)


def test_a_background_is_fitted_to_cells_and_windows_are_drawn_from_it(opened, tmp_path: Path):
    model = opened("vit")
    rng = np.random.default_rng(8)
    for number in range(12):
        coarse = rng.integers(0, 200, size=3) + rng.integers(0, 50, size=(4, 4, 3))  # neighbours foretell each other
        picture = np.repeat(np.repeat(coarse, 12, axis=0), 12, axis=1).astype(np.uint8)
        cv2.imwrite(str(tmp_path / f"{number}.png"), picture)
    file = fit_background(model, ["block1"], sorted(tmp_path.glob("*.png")), window=2, patch=4)
    assert file.header.cuts[0].shape == (WIDTH, 6, 6)
    save_background(tmp_path / "background.npz", file)
    given = {"layer": "block1", "background": str(tmp_path / "background.npz")}
    for method in ("window", "integrated"):
        found = Explainer(model, method=method, **given).explain(tmp_path / "3.png")
        assert np.isfinite(found.values).all()


# Which cuts auto takes


@pytest.mark.parametrize(
    ("name", "taken"),
    [
        ("vit", ["placed", "middle0"]),
        ("vit, decomposed", ["placed", "middle0"]),
        ("vit, patches alone", ["placed", "middle0"]),
        ("convnext", ["a1", "b1"]),
        ("swin", ["a1", "b1"]),
        ("quantised", ["sum.again"]),
        ("half", ["sum"]),
        ("unrolled", ["a.gated", "b.gated", "c.gated"]),
        ("unfolded", ["mixed1", "deep"]),
        ("unfolded, gathered", ["mixed1", "deep"]),
        ("same padded", ["stem", "sum"]),
        ("pixels", ["inner", "outer"]),
    ],
)
def test_auto_goes_along_the_depth_of_one_grid_and_down_the_stages_of_several(name: str, taken: list[str], opened):
    assert [cut.name for cut in choose_cuts(opened(name).graph.cuts)] == taken


def test_cells_that_nothing_reads_any_more_are_never_taken(opened):
    model = opened("vit")
    unread = {cut.name for cut in model.graph.cuts if cut.unread_by is not None}
    assert {"middle3", "block3"} <= unread
    assert "block2" not in unread
    x = pictures(model, 1)
    for cut in model.graph.cuts:
        features = model.head(cut)(x)
        other = features.copy()
        other[:, : cut.cell_shape[0]] += np.random.default_rng(3).normal(size=(1, *cut.cell_shape)).astype(np.float32)
        same = np.array_equal(model.tail(cut)(features), model.tail(cut)(other))
        assert same == (cut.name in unread), cut.name
    verdicts = {cut.name: verdict for cut, verdict in judge_cuts(model.graph.cuts).items()}
    assert verdicts["block3"] == (False, "'read' reads none of its cells")
    assert not {cut.name for cut in opened("vit, patches alone").graph.cuts if cut.unread_by}


def test_the_same_values_in_another_order_are_no_other_cut(opened):
    graph = opened("vit").graph
    with pytest.raises(
        CutError, match=r"'reshape\.1' holds 'patches' in another order or type: take that; the nearest"
    ):
        graph.find("reshape.1")
    assert len({cut.name for cut in graph.cuts} & {"reshape.1", "transpose.2"}) == 0


def test_a_tensor_that_is_rounded_behind_is_refused_and_the_rounded_one_named(opened):
    graph = opened("quantised").graph
    with pytest.raises(CutError, match=r"layer 'sum' is rounded to codes before it is read: take 'sum\.again'"):
        graph.find("sum")
    cut = graph.find("sum.again")
    assert (cut.op_type, cut.joins) == ("Add", True)


# Controls: what must not be taken for a grid


def followed(tmp_path: Path, write) -> DeployedModel:
    """A model of 8 channels of 4 x 9 cells, then what ``write`` makes of 'cells', then a Relu 'last'."""
    net = Net(7)
    net.op("Conv", "input", net.weight(WIDTH, 3, 1, 1), name="cells")
    net.op("Relu", write(net), name="last")
    flat = net.reshape("last", -1, WIDTH * 36)
    net.op("Gemm", flat, net.weight(WIDTH * 36, 5), name="logits")
    model = tiny.make_model(net.nodes, net.weights, input_shape=("N", 3, 4, 9))
    path = tmp_path / "followed.onnx"
    onnx.save(model, path)
    return DeployedModel(path, device="cpu")


def tokens(net: Net) -> str:
    return net.transpose(net.reshape("cells", 0, WIDTH, 36), 0, 2, 1)


def unknown(net: Net) -> str:
    """The cells in an order that is not followed, in their own shape."""
    return net.reshape(net.op("CumSum", "cells", net.constant(np.array(2))), -1, WIDTH, 4, 9)


KNOWN = {
    "tokens": lambda net: tokens(net),
    "flattened and viewed again": lambda net: net.reshape(net.reshape("cells", -1, 36 * WIDTH), -1, WIDTH, 4, 9),
    "tokens, then rows and columns": lambda net: net.reshape(tokens(net), -1, 4, 9, WIDTH),
    "channels mixed": lambda net: net.dense(tokens(net), WIDTH, WIDTH),
    "tokens mixed, added": lambda net: net.op("Add", tokens(net), _mixed_tokens(net)),
    "an unknown branch added": lambda net: net.op("Add", unknown(net), "cells"),
    "attention": lambda net: net.op(
        "MatMul", net.op("MatMul", tokens(net), net.reshape("cells", 0, WIDTH, 36)), tokens(net)
    ),
    "all tokens taken": lambda net: net.slice(tokens(net), 1, 0, 36),
    "batch in the middle": lambda net: net.transpose(tokens(net), 1, 0, 2),
    "channels summed up": lambda net: net.op("CumSum", "cells", net.constant(np.array(1))),
    "rows cut off in every channel": lambda net: net.op("Trilu", "cells"),
    "channels divided by their length": lambda net: net.op("LpNormalization", "cells", axis=1),
    "channels standardised": lambda net: net.op("MeanVarianceNormalization", "cells", axes=[1]),
    "inverse tangents": lambda net: net.op("Shrink", net.op("Atan", "cells")),
}


def _mixed_tokens(net: Net) -> str:
    turned = net.op("MatMul", net.reshape("cells", 0, WIDTH, 36), net.weight(36, 36))
    return net.transpose(turned, 0, 2, 1)


SCRAMBLED = {
    "reshaped without a transpose": lambda net: net.reshape("cells", 0, 36, WIDTH),
    "other rows and columns": lambda net: net.reshape(tokens(net), -1, 6, 6, WIDTH),
    "rows for columns": lambda net: net.reshape(tokens(net), -1, 9, 4, WIDTH),
    "tokens mixed": _mixed_tokens,
    "tokens in another order": lambda net: net.op(
        "Gather", tokens(net), net.constant(np.arange(36)[::-1].copy()), axis=1
    ),
    "rows put below": lambda net: net.op("Concat", net.slice("cells", 2, 2, 4), net.slice("cells", 2, 0, 2), axis=2),
    "an unknown branch multiplied": lambda net: net.op("Mul", unknown(net), "cells"),
    "unknown alone": unknown,
    "channels and columns exchanged": lambda net: net.reshape(net.transpose("cells", 0, 3, 2, 1), -1, WIDTH, 4, 9),
}


@pytest.mark.parametrize("name", KNOWN)
def test_cells_are_followed_where_they_can_be(name: str, tmp_path: Path):
    model = followed(tmp_path, KNOWN[name])
    cut = model.graph.find("last")
    assert cut.shape == (WIDTH, 4, 9)
    x = pictures(model, 3)
    # One at a time: where tokens come before pictures, the end of this graph mixes them.
    single = np.concatenate([whole(model, each[None]) for each in x])
    np.testing.assert_allclose(model.tail(cut)(model.head(cut)(x)), single, atol=1e-5)


@pytest.mark.parametrize("name", SCRAMBLED)
def test_control_cells_that_are_scrambled_are_not_taken_for_a_grid(name: str, tmp_path: Path):
    graph = followed(tmp_path, SCRAMBLED[name]).graph
    with pytest.raises(CutError, match="no grid of cells that can be followed back"):
        graph.find("last")
