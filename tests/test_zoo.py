"""The logic of the tools that check real models: what a row amounts to, and how a file is held against the package."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from onnx_evidence import DeployedModel
from onnx_evidence.evidence.field import CellField
from tests import tiny

GOOD = {"share": 0.6, "chance": 0.2, "elsewhere": 0.3, "distance": 0.1, "other": 0.2}
EXPLAINED = {
    "end": "explained",
    "reduced": False,
    "certificate": 1e-6,
    "file": 1e-6,
    "batch": 0.0,
    "map": "fine",
    "used": ["a", "b"],
    "left": 0.3,
    "shallow": False,
    "places": [{"bits": 3.0, "map": GOOD, "cuts": [GOOD, GOOD]}, {"bits": 0.0}],
}


def placed(whole: dict, *cuts: dict | None) -> dict:
    """A change of the row: the location test of one patch."""
    return {"places": [{"bits": 3.0, "map": GOOD | whole, "cuts": list(cuts) or [GOOD, GOOD]}]}


@pytest.fixture
def tool():
    """Imports a module of tools/."""
    return importlib.import_module


# Verdicts


@pytest.mark.parametrize(
    ("change", "refused", "kind"),
    [
        ({}, False, "explained"),
        ({"certificate": 2e-4}, False, "WRONG"),
        ({"certificate": 2e-4, "reduced": True}, False, "explained"),
        ({"certificate": 6e-2, "reduced": True}, False, "WRONG"),
        ({"file": 2e-3}, False, "WRONG"),
        ({"file": 2e-3, "reduced": True}, False, "explained"),
        ({"file": 0.2, "reduced": True}, False, "WRONG"),
        ({"batch": float("nan")}, False, "WRONG"),
        ({"map": "all zero"}, False, "WRONG"),
        (placed({"share": 0.29}), False, "WRONG PLACE"),
        (placed({"share": 0.31}), False, "explained"),
        (placed({"distance": 0.3}), False, "WRONG PLACE"),
        (placed({"distance": float("nan")}), False, "WRONG PLACE"),
        (placed({}, GOOD, None), False, "WRONG PLACE"),
        (placed({}, GOOD | {"share": 0.3, "elsewhere": 0.41, "distance": 0.21}, GOOD), False, "WRONG PLACE"),
        # Neighbourhoods of large cells overlap: the centre tells which of them it is.
        (placed({}, GOOD | {"share": 0.3, "elsewhere": 0.41}, GOOD), False, "explained"),
        # A cut whose evidence is everywhere alike is not said to be elsewhere.
        (placed({}, GOOD | {"share": 0.3, "elsewhere": 0.31}, GOOD), False, "explained"),
        ({"left": 0.7}, False, "SHALLOW"),
        ({"left": 0.7, "shallow": True}, False, "explained"),
        ({"instead": "'integrated' cannot be computed: no cut"}, False, "explained"),
        ({}, True, "EXPLAINED THOUGH IT IS NO CLASSIFIER"),
        ({"end": "refused", "reason": "two inputs"}, True, "refused"),
        ({"end": "refused", "reason": "two inputs"}, False, "REFUSED THOUGH IT IS A CLASSIFIER"),
        ({"end": "refused", "reason": "two\ninputs"}, True, "REFUSED IN SEVERAL LINES"),
        ({"end": "traceback", "reason": "Traceback\n  x\nKeyError: 7"}, True, "FAILURE"),
        ({"end": "timeout", "reason": "more than 5 s"}, False, "FAILURE"),
        ({"end": "died", "reason": "exit status -9"}, True, "FAILURE"),
    ],
)
def test_what_a_row_amounts_to(tool, change: dict, refused: bool, kind: str):
    verdict = tool("parts.zoo.verdict").judge({**EXPLAINED, **change}, refusal_expected=refused)
    assert (verdict.kind, verdict.defect) == (kind, kind.isupper())
    assert verdict.words.startswith(kind)
    assert "\n" not in verdict.words


AWAY = {"share": 0.2}
HELD = [{"bits": 2.0, "map": GOOD, "cuts": [GOOD, GOOD]}]


@pytest.mark.parametrize(
    ("change", "own", "held", "kind"),
    [
        ((AWAY,), {"at": 1.0, "elsewhere": 2.0}, HELD, "explained"),
        (({}, GOOD, GOOD | {"elsewhere": 0.9, "distance": 0.3}), {"at": 1.0, "elsewhere": 2.0}, HELD, "explained"),
        ((AWAY,), {"at": 2.0, "elsewhere": 1.0}, HELD, "WRONG PLACE"),
        ((AWAY,), {"at": float("nan"), "elsewhere": 1.0}, HELD, "WRONG PLACE"),
        ((AWAY,), {"at": 1.0, "elsewhere": 2.0}, [], "WRONG PLACE"),
        ((AWAY,), {"at": 1.0, "elsewhere": 2.0}, [{"bits": 0.0}], "WRONG PLACE"),
        ((AWAY,), {"at": 1.0, "elsewhere": 2.0}, [HELD[0], HELD[0] | {"map": GOOD | AWAY}], "WRONG PLACE"),
        ((AWAY,), {"at": 1.0, "elsewhere": 2.0}, [HELD[0] | {"cuts": [GOOD, None]}], "WRONG PLACE"),
    ],
)
def test_evidence_that_the_model_itself_has_elsewhere(tool, change, own: dict, held: list, kind: str):
    given = placed(*change)
    given["places"][0]["own"] = [{"at": 3.0, "elsewhere": 0.0, "beside": 0.0}, own | {"beside": 0.0}]
    verdict = tool("parts.zoo.verdict").judge({**EXPLAINED, **given, "held": held}, refusal_expected=False)
    assert verdict.kind == kind
    assert ("at b; with their statistics held" in verdict.words.replace(")", "")) == (kind == "explained")


def test_the_last_line_of_a_traceback_is_told(tool):
    row = {"end": "traceback", "reason": "Traceback\n  x\nKeyError: 7\n"}
    assert tool("parts.zoo.verdict").judge(row, refusal_expected=False).words == "FAILURE: traceback: KeyError: 7"


# Rows that are kept


@pytest.fixture
def check(tool, tmp_path, monkeypatch):
    """Runs ``check`` on a zoo of two models whose rows are given, and names those really explained."""
    table, made = tool("check_real_models"), []
    shown = {"kind": "logits", "classes": 5, "cuts": 3, "method": "integrated"}
    given = {"one": shown, "two": {"end": "refused", "reason": "two inputs"}}
    for name in given:
        path = tmp_path / "zoo" / "torch" / f"{name}.onnx"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    def run_row(spec, *_):
        made.append(spec.name)
        return {**EXPLAINED, **given[spec.name]}

    monkeypatch.setattr(table, "run_row", run_row)

    def run(*options: object) -> tuple[int, str, list[str]]:
        made.clear()
        asked = ["check", str(tmp_path / "zoo"), "-o", str(tmp_path / "table.md"), *map(str, options)]
        result = CliRunner().invoke(table.main, asked, catch_exceptions=False)
        return result.exit_code, (tmp_path / "table.md").read_text(encoding="utf-8"), list(made)

    return run


def test_rows_are_kept_as_they_are_known_and_not_made_again(check, tmp_path):
    rows = tmp_path / "rows"
    code, table, made = check("--rows", rows, "--only", "one")
    assert (code, made) == (0, ["one"])
    assert [path.name for path in rows.iterdir()] == ["torch+one.json"]
    code, table, made = check("--rows", rows)
    assert (code, made) == (1, ["two"])
    assert sorted(path.name for path in rows.iterdir()) == ["torch+one.json", "torch+two.json"]
    assert [line.split(" | ")[0] for line in table.splitlines() if line.startswith("| torch")] == [
        "| torch/one",
        "| torch/two",
    ]
    assert check("--rows", rows) == (1, table, [])
    assert check() == (1, table, ["one", "two"])
    # A row is what counts, and its verdict is made anew; one that is deleted is made again.
    row = json.loads((rows / "torch+one.json").read_text(encoding="utf-8"))
    (rows / "torch+two.json").write_text(json.dumps({**row, "map": "all zero"}), encoding="utf-8")
    code, changed, made = check("--rows", rows)
    assert (code, made) == (1, [])
    assert "WRONG: the map is all zero" in changed
    (rows / "torch+two.json").unlink()
    assert check("--rows", rows) == (1, table, ["two"])


def test_a_row_that_fails_to_be_made_leaves_none(tool, tmp_path):
    table = tool("check_real_models")
    spec = table.Spec("torch", "one", "")

    def fails() -> dict:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        table.kept_row(tmp_path, spec, fails)
    assert list(tmp_path.iterdir()) == []


# A file against the package


def test_inputs_are_fed_in_the_layout_and_type_of_the_file(tool):
    row = tool("parts.zoo.row")
    x = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5) + 0.4
    np.testing.assert_array_equal(row.as_fed(x, "tensor(float)", ["N", 3, 4, 5]), x)
    last = row.as_fed(x, "tensor(float)", ["N", 4, 5, 3])
    assert last[1, 2, 3, 1] == x[1, 1, 2, 3]
    whole = row.as_fed(x - 20, "tensor(uint8)", [None, 4, 5, 3])
    assert (whole.dtype, whole[0, 0, 0, 0], whole[0, 0, 1, 2]) == (np.uint8, 0, 21)
    assert row.as_fed(x, "tensor(float16)", ["N", 3, "h", "w"]).dtype == np.float16


def test_logits_as_the_file_gives_them(tool):
    row = tool("parts.zoo.row")
    z = np.array([[1.0, -2.0, 0.5], [3.0, 3.0, -1.0]])
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    q = 1 / (1 + np.exp(-z))
    np.testing.assert_array_equal(row.as_given(z, z, "logits"), z)
    np.testing.assert_allclose(row.as_given(z, p, "probabilities"), p)
    np.testing.assert_allclose(row.as_given(z, np.log(p), "log-probabilities"), np.log(p))
    np.testing.assert_allclose(row.as_given(z, q, "sigmoid"), q)
    two = np.stack([np.zeros(2), z[:, 0]], axis=1)
    np.testing.assert_allclose(row.as_given(two, q[:, :1], "sigmoid"), q[:, :1])
    np.testing.assert_allclose(row.as_given(two, z[:, :1], "logits"), z[:, :1])
    # Control: softmax and sigmoid must not be taken for one another.
    assert np.abs(row.as_given(z, p, "probabilities") - q).max() > 0.01


def test_what_a_file_says_of_itself(tool, tmp_path):
    row = tool("parts.zoo.row")
    weight = numpy_helper.from_array(np.zeros((2, 3), np.float16), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        # A weight that is listed as an input is none.
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT16, ["N", 2]),
            helper.make_tensor_value_info("w", TensorProto.FLOAT16, [2, 3]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT16, ["N", 3])],
        [weight],
    )
    model = helper.make_model(graph, producer_name="p", opset_imports=[helper.make_opsetid("", 17)])
    onnx.save(model, tmp_path / "m.onnx")
    facts = row.file_facts(tmp_path / "m.onnx")
    assert facts == {"producer": "p", "opset": 17, "input": "float16 N x 2", "reduced": True}
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    assert row.file_facts(tmp_path / "broken.onnx") == {}


@pytest.mark.parametrize("broken", [False, True])
def test_a_row_of_a_deployed_model(tool, tmp_path, monkeypatch, tiny_model, hopper, broken):
    path = tmp_path / "m.onnx"
    path.write_bytes(b"no model" if broken else tiny_model.read_bytes())
    job = {"model": str(path), "picture": str(hopper), "layer": "auto", "quality": "fast"}
    (tmp_path / "job.json").write_text(json.dumps(job))
    monkeypatch.setattr(sys, "argv", ["row.py", str(tmp_path / "job.json"), str(tmp_path / "row.json")])
    tool("parts.zoo.row").main()
    row = json.loads((tmp_path / "row.json").read_text())
    if broken:
        assert (row["end"], row["error"]) == ("refused", "ModelError")
        assert row["reason"].startswith(f"{tmp_path.name}/m.onnx: ")
    else:
        assert (row["end"], row["map"], row["kind"]) == ("explained", "fine", "logits")
        assert max(row["file"], row["certificate"], row["batch"]) < 1e-5


def test_a_model_that_is_explained_on_pixels_is_not_shallow_without_a_word(tool, tmp_path, hopper):
    path = tiny.branching(tmp_path / "branching.onnx")
    row = tool("parts.zoo.row").make_row(
        {"model": str(path), "picture": str(hopper), "layer": "auto", "quality": "fast"}
    )
    assert (row["used"], row["left"], row["method"], row["shallow"]) == (["input"], 1.0, "occlusion", True)
    assert [set(place) for place in row["places"]] == [{"bits", "map", "cuts", "own"}] * 2
    judged = {"end": "explained", "reduced": False, **row, "places": []}
    words = tool("parts.zoo.verdict").judge(judged, refusal_expected=False).words
    assert words.startswith("explained; 'integrated' cannot be computed: no cut inside the model")
    # Control: without the reason it would be.
    silent = {**judged, "instead": "", "shallow": False}
    assert tool("parts.zoo.verdict").judge(silent, refusal_expected=False).kind == "SHALLOW"


def test_control_another_file_is_told_from_the_model_taken_in(tool, tmp_path, tiny_model, rng):
    row = tool("parts.zoo.row")
    model = onnx.load(tiny_model)
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim[1:]]
    x = rng.normal(size=(2, *shape)).astype(np.float32)
    output = model.graph.output[0].name
    given = row.run_file(tiny_model, x, output)
    last = model.graph.initializer[-1]
    last.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(last) * np.float32(1.5) + np.float32(0.1), last.name))
    onnx.save(model, tmp_path / "other.onnx")
    assert row._share(given, row.run_file(tiny_model, x, output)) == 0
    assert row._share(given, row.run_file(tmp_path / "other.onnx", x, output)) > 1e-3


# Where the evidence lies


PLACED = np.zeros((60, 80), bool)
PLACED[9:21, 45:60] = True


def near(mask: np.ndarray) -> np.ndarray:
    """Evidence of both signs about a patch, on some everywhere."""
    rng = np.random.default_rng(3)
    return (rng.normal(size=mask.shape) * (0.002 + mask)).astype(np.float32)


def test_evidence_at_the_patch_is_well_placed(tool):
    location = tool("parts.zoo.location")
    place = location.judge_place(near(PLACED), PLACED, (12, 16))._asdict()
    assert place["chance"] == pytest.approx((12 + 10) * (15 + 10) / 4800)
    assert place["share"] > 0.9
    assert place["distance"] < 0.02 < place["other"]
    assert not location.misplaced(place)
    assert not location.moved(place)


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
@pytest.mark.parametrize("mirrored", [False, True])
def test_evidence_at_an_image_of_the_patch_is_misplaced(tool, turns: int, mirrored: bool):
    location = tool("parts.zoo.location")
    square = np.zeros((60, 60), bool)
    square[6:18, 31:43] = True
    values = np.rot90(near(square), turns)
    place = location.judge_place(values[:, ::-1] if mirrored else values, square, (12, 12))._asdict()
    there = turns == 0 and not mirrored
    assert location.misplaced(place) == location.moved(place) == (not there)
    # The image of the same name has it.
    assert there or place["elsewhere"] > 0.9


def test_evidence_that_is_everywhere_or_nowhere_is_misplaced(tool):
    location = tool("parts.zoo.location")
    even = location.judge_place(np.ones(PLACED.shape, np.float32), PLACED, (12, 16))._asdict()
    assert location.lift(even) == pytest.approx(1)
    assert location.misplaced(even)
    assert not location.moved(even)
    for values in (np.zeros(PLACED.shape, np.float32), np.full(PLACED.shape, np.nan, np.float32)):
        assert location.misplaced(location.judge_place(values, PLACED, (12, 16))._asdict())
    assert location.moved(None)


def test_the_patch_is_far_from_its_own_images(tool):
    location = tool("parts.zoo.location")
    masks = []
    for swapped in (False, True):
        picture, plain = location.patch_pictures((100, 100), swapped=swapped)
        assert (plain == 128).all()
        masks.append(location.changed(picture.transpose(2, 0, 1), plain.transpose(2, 0, 1)))
        assert picture[masks[-1]].std() > 50
    assert masks[0].sum() == pytest.approx(19 * 19, abs=3)
    np.testing.assert_array_equal(masks[0].any(axis=0), masks[1].any(axis=1))
    images = [np.rot90(each, turns) for each in (masks[0], masks[0][:, ::-1]) for turns in range(4)]
    assert max((masks[0] & image).sum() for image in images[1:]) < 0.2 * masks[0].sum()


def test_log_odds_in_bits_of_what_a_file_gives(tool):
    log_odds = tool("parts.zoo.location").log_odds
    z = np.array([[1.0, -2.0, 0.5], [30.0, 3.0, -1.0]])
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    rest = np.stack([z[:, [1, 2]], z[:, [0, 2]], z[:, [0, 1]]], axis=1)
    wanted = (z - np.log(np.exp(rest).sum(axis=2))) / np.log(2)
    np.testing.assert_allclose(log_odds(z, "logits", independent=False), wanted, rtol=1e-4)
    np.testing.assert_allclose(log_odds(np.log(p), "log-probabilities", independent=False), wanted, rtol=1e-4)
    np.testing.assert_allclose(log_odds(p[:1], "probabilities", independent=False), wanted[:1])
    np.testing.assert_allclose(log_odds(z, "logits", independent=True), z / np.log(2))
    two = log_odds(1 / (1 + np.exp(-z[:1, :1])), "probabilities", independent=True)
    np.testing.assert_allclose(two, [[-1 / np.log(2), 1 / np.log(2)]])


def textured(path: Path) -> Path:
    """A classifier whose second class is the mean of what two convolutions find of edges."""
    edges = np.zeros((4, 3, 3, 3), np.float32)
    edges[0, :, 1] = edges[2, 1, :] = [[-1, 0, 1]] * 3
    edges[1], edges[3] = -edges[0], -edges[2]
    again = np.random.default_rng(0).uniform(0.1, 0.3, (4, 4, 3, 3)).astype(np.float32)
    head = np.array([[0, 0, 0, 0], [2, 2, 2, 2]], np.float32).T
    nodes = [
        helper.make_node("Conv", ["input", "edges"], ["found"], pads=[1] * 4, strides=[2, 2]),
        helper.make_node("Relu", ["found"], ["first"]),
        helper.make_node("Conv", ["first", "again"], ["more"], pads=[1] * 4),
        helper.make_node("Relu", ["more"], ["second"]),
        helper.make_node("GlobalAveragePool", ["second"], ["pool"]),
        helper.make_node("Flatten", ["pool"], ["flat"]),
        helper.make_node("MatMul", ["flat", "head"], ["logits"]),
    ]
    model = tiny.make_model(
        nodes,
        {"edges": edges, "again": again, "head": head},
        output_shape=("N", 2),
        metadata={"preprocess": tiny.PREPROCESS, "labels": ["plain", "textured"]},
    )
    return tiny.save(model, path)


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda bits: bits, "explained"),
        (lambda bits: bits.T, "WRONG PLACE"),
        (lambda bits: bits[::-1], "WRONG PLACE"),
        (lambda bits: bits[:, ::-1], "WRONG PLACE"),
        (lambda bits: bits[::-1, ::-1].T, "WRONG PLACE"),
        (lambda bits: np.roll(bits, 8, axis=0), "WRONG PLACE"),
        (lambda bits: np.random.default_rng(0).permutation(bits.ravel()).reshape(bits.shape), "WRONG PLACE"),
    ],
    ids=["as it is", "swapped", "upside down", "mirrored", "turned and mirrored", "shifted", "permuted"],
)
def test_control_cells_in_the_wrong_place_are_found(tool, tmp_path, monkeypatch, hopper, change, kind: str):
    path = textured(tmp_path / "textured.onnx")
    right = CellField.spread
    monkeypatch.setattr(CellField, "spread", lambda self, bits: right(self, change(bits)))
    row = tool("parts.zoo.row").make_row(
        {"model": str(path), "picture": str(hopper), "layer": "auto", "quality": "fast"}
    )
    assert [place["bits"] > 1 for place in row["places"]] == [True, True]
    row = {"end": "explained", "reduced": False, **row, "shallow": True}
    assert tool("parts.zoo.verdict").judge(row, refusal_expected=False).kind == kind


def measuring(path: Path) -> Path:
    """The same behind a norm over the whole picture, and for a corner that stands out where nothing else does."""
    model = onnx.load(textured(path))
    corner = np.zeros((1, 4, 16, 16), np.float32)
    corner[..., 12:15, 12:15] = 1
    weights = {
        "corner": corner,
        "read": 1 + 10 * corner,
        "ones": np.ones(4),
        "zeros": np.zeros(4),
        "minus": -np.ones(()),
    }
    model.graph.initializer.extend(numpy_helper.from_array(w.astype(np.float32), name) for name, w in weights.items())
    nodes = {node.output[0]: node for node in model.graph.node}
    nodes["first"].input[0], nodes["pool"].input[0] = "normed", "weighed"
    nodes["flat"].output[0], nodes["logits"].input[0] = "summed", "flat"
    del model.graph.node[:]
    model.graph.node.extend(
        [
            nodes["found"],
            helper.make_node("Add", ["found", "corner"], ["marked"]),
            helper.make_node("InstanceNormalization", ["marked", "ones", "zeros"], ["normed"]),
            *(nodes[name] for name in ("first", "more", "second")),
            helper.make_node("Mul", ["second", "read"], ["weighed"]),
            nodes["pool"],
            nodes["flat"],
            helper.make_node("Mul", ["summed", "minus"], ["flat"]),
            nodes["logits"],
        ]
    )
    return tiny.save(model, path)


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_norm_over_the_picture_may_have_the_evidence_elsewhere(tool, tmp_path, monkeypatch, hopper, mirrored):
    path = measuring(tmp_path / "measuring.onnx")
    if mirrored:
        right = CellField.spread
        monkeypatch.setattr(CellField, "spread", lambda self, bits: right(self, bits[:, ::-1]))
    row = tool("parts.zoo.row").make_row(
        {"model": str(path), "picture": str(hopper), "layer": "auto", "quality": "fast"}
    )
    row = {"end": "explained", "reduced": False, **row, "shallow": True}
    judge = tool("parts.zoo.verdict").judge
    assert judge(row, refusal_expected=False).kind == ("WRONG PLACE" if mirrored else "explained")
    assert judge({**row, "held": []}, refusal_expected=False).kind == "WRONG PLACE"
    # As ONNX Runtime has it, the corner's cells make the difference, and at the patch where statistics are held.
    for place, held in zip(row["places"], row["held"], strict=True):
        assert place["own"][0]["elsewhere"] > place["bits"] > 10 * abs(held["own"][0]["elsewhere"])
        assert held["own"][0]["at"] > 0.8 * held["bits"] > 1


def test_bits_of_cells_that_are_exchanged(tool, tmp_path):
    location, deployed = tool("parts.zoo.location"), DeployedModel(textured(tmp_path / "textured.onnx"))
    inputs = location.patched_inputs(deployed, swapped=False)
    cut = deployed.graph.find("second")
    found = location.own_bits(deployed, cut, inputs, 1)
    # The rest is linear: every cell has twice what the patch changes in it, over all cells.
    bits = 2 * np.subtract(*deployed.head(cut)(inputs).astype(np.float64)).sum(axis=0) / 256 / np.log(2)
    near = np.zeros((16, 16), bool)
    near[:5, 8:13] = True  # of 2 pixels each; the patch is in rows 1 to 8 and columns 17 to 23
    wanted = {"at": bits[near].sum(), "elsewhere": bits[~near].sum(), "beside": 0}
    assert found == pytest.approx(wanted, abs=1e-4)
    assert wanted["at"] > 5 * abs(wanted["elsewhere"])


def test_statistics_are_held_at_those_of_one_picture(tool, tmp_path, rng):
    path, held = measuring(tmp_path / "measuring.onnx"), tmp_path / "held.onnx"
    held_statistics, run = tool("parts.zoo.held"), tool("parts.zoo.row").run_file
    one, other = rng.normal(size=(2, 1, 3, 32, 32)).astype(np.float32)
    mixed = np.concatenate([one, one, other])
    mixed[1, :, :8, :8] += 3
    model = onnx.load(path)
    measured = held_statistics._measured(model, tmp_path / "probe.onnx", run, one)
    onnx.save(held_statistics.hold_statistics(model, measured), held)
    assert held_statistics.norms(onnx.load(held)) == []
    assert len(held_statistics.norms(model)) == 1
    was, now = (run(each, mixed, "logits") for each in (path, held))
    np.testing.assert_allclose(now[0], was[0], rtol=1e-5)
    assert np.abs(now[1:] - was[1:]).max(axis=1).min() > 0.01
    # What one corner holds changes nothing far from it any more.
    for file, there in ((path, True), (held, False)):
        shown = onnx.load(file)
        shown.graph.output.append(helper.make_empty_tensor_value_info("second"))
        onnx.save(shown, tmp_path / "shown.onnx")
        second = run(tmp_path / "shown.onnx", mixed[:2], "second").reshape(2, 4, 16, 16)
        assert bool((second[0] != second[1])[:, 8:, 8:].any()) == there


def test_a_key_that_a_record_holds_anywhere(tool):
    says = tool("parts.zoo.row").says
    assert says({"cuts": [{"name": "a"}, {"shallow_because": "no grid"}]}, "shallow")
    assert says({"shallow": True}, "shallow")
    assert not says({"cuts": [{"shallow": None}], "why": "shallow"}, "shallow")


# Building


def test_what_is_missing_is_built_whole_or_not_at_all(tool, tmp_path, capsys):
    zoo = tool("parts.zoo.spec")
    made: list[str] = []

    def make(spec, path: Path) -> None:
        made.append(spec.name)
        (path.parent / f"{path.name}.data").write_text("weights")
        if spec.name == "bad":
            raise ValueError("cannot export")
        path.write_text(spec.name)

    specs = [zoo.Spec("torch", name, "") for name in ("good", "bad", "there", "other")]
    specs[2].path(tmp_path).parent.mkdir()
    specs[2].path(tmp_path).write_text("old")
    assert zoo.build_missing(specs, make, tmp_path, only=["good", "bad", "there"]) == 1
    assert made == ["good", "bad"]
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == [
        "good.onnx",
        "good.onnx.data",
        "there.onnx",
    ]
    assert specs[2].path(tmp_path).read_text() == "old"
    assert "torch/bad: NOT BUILT: ValueError: cannot export" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["torch"]


def test_every_model_of_the_catalogue_has_its_own_name(tool):
    modules = [tool(f"parts.zoo.{name}") for name in ("torch_models", "tf_models", "packages")]
    names = [(spec.source, spec.name) for module in modules for spec in module.SPECS]
    assert len(set(names)) == len(names) > 60


# The study of precisions


def test_correlation_of_maps(tool):
    correlation = tool("precision").correlation
    one, other = np.random.default_rng(0).normal(size=(2, 6, 7))
    assert correlation(one, 3 * one + 5) == pytest.approx(1)
    assert correlation(one, -one) == pytest.approx(-1)
    assert correlation(one, other) == pytest.approx(np.corrcoef(one.ravel(), other.ravel())[0, 1])
    assert correlation(one, np.ones_like(one)) == 0
