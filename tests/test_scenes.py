"""Scenes whose truth is known: what is left out changes nothing else, and judges tell the truth from its opposite."""

import json
from itertools import combinations

import numpy as np
import onnx
import pytest
import scoreboard
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper
from parts.scenes import judges
from parts.scenes.scene import CLASSES, CODEWORDS, GRID, SIDE, SLOTS, VARIANTS, draw_scene, mask, render

from onnx_evidence import DeployedModel
from onnx_evidence.preprocessing import Preprocess
from tests import tiny

PAIRS = list(combinations(range(CLASSES), 2))


def test_classes_of_a_three_differ_in_a_part_or_two_and_others_in_three_or_more():
    assert CODEWORDS.shape == (CLASSES, SLOTS)
    assert len(set(map(tuple, CODEWORDS))) == CLASSES
    apart = {(one, other): np.count_nonzero(CODEWORDS[one] != CODEWORDS[other]) for one, other in PAIRS}
    for (one, other), slots in apart.items():
        if one // 3 != other // 3:
            assert slots >= 3
        else:
            assert slots == (1 if one % 3 == 0 else 2)
    for slot in CODEWORDS.T:
        assert set(slot) == set(range(VARIANTS))


def test_a_scene_is_its_seed():
    assert draw_scene(7) == draw_scene(7)
    assert draw_scene(7) != draw_scene(8)
    assert np.array_equal(render(draw_scene(7)), render(draw_scene(7)))
    assert draw_scene(7, label=3).label == 3
    labels = np.bincount([draw_scene(seed).label for seed in range(400)], minlength=CLASSES)
    assert labels.min() > 3


@pytest.mark.parametrize("seed", range(6))
def test_what_is_left_out_changes_its_own_pixels_alone(seed: int):
    scene = draw_scene(seed)
    whole = render(scene)
    masks = {name: mask(scene, name) for name in scene.things}
    assert all(each.any() for each in masks.values())
    for name, figure in zip(scene.things, (*scene.parts, *scene.distractors), strict=True):
        rows, columns = np.nonzero(masks[name])
        # Corners of a star reach farthest; a pixel is as wide as one.
        assert np.hypot(rows + 0.5 - figure.at[0], columns + 0.5 - figure.at[1]).max() < 1.5 * figure.radius + 1.5
    # Distractors touch nothing: without all of them, just their pixels differ.
    beside = [name for name in scene.things if name.startswith("distractor")]
    differs = (render(scene, beside) != whole).any(axis=2)
    assert np.array_equal(differs, np.any([masks[name] for name in beside], axis=0))
    assert np.array_equal(render(scene, ()), whole)


def test_two_classes_look_different_with_all_else_alike():
    one, other = draw_scene(5, label=0), draw_scene(5, label=1)
    assert one.distractors == other.distractors
    assert one.ground == other.ground
    assert (render(one) != render(other)).any(axis=2).mean() > 0.01


@pytest.fixture(scope="module")
def deployed(tmp_path_factory) -> DeployedModel:
    """Some function of a scene's colours, cell by cell, of the networks' input and output."""
    rng = np.random.default_rng(0)
    weights = {
        "kernel": (rng.standard_normal((8, 3, 6, 6)) / 10).astype(np.float32),
        "mix": (3 * rng.standard_normal((8, CLASSES))).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["input", "kernel"], ["seen"], strides=[6, 6], kernel_shape=[6, 6]),
        helper.make_node("Relu", ["seen"], ["cells"]),
        helper.make_node("GlobalAveragePool", ["cells"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("MatMul", ["flat", "mix"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", CLASSES])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = tiny.save(model, tmp_path_factory.mktemp("scenes") / "m.onnx")
    normal = Preprocess(size=(SIDE, SIDE), scale=1 / 255, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    return DeployedModel(path, preprocess=normal, device="cpu")


def log_odds(deployed: DeployedModel, pixels: np.ndarray, target: int) -> float:
    """Bits, by hand: from the pixels and the file's logits."""
    inputs = ((pixels.astype(np.float64) / 255 - 0.5) / 0.25).transpose(2, 0, 1).astype(np.float32)
    logits = deployed.logits(inputs[None])[0].astype(np.float64)
    rest = np.delete(logits, target)
    return float((logits[target] - rest.max() - np.log(np.exp(rest - rest.max()).sum())) / np.log(2))


def test_the_truth_is_what_the_file_says_of_scenes_drawn_again(deployed):
    truth = judges.find_truth(deployed, 3)
    scene = draw_scene(3)
    pixels = render(scene)
    whole = log_odds(deployed, pixels, truth.case.target)
    for name, bits in truth.lost.items():
        assert bits == pytest.approx(whole - log_odds(deployed, render(scene, {name}), truth.case.target), abs=1e-4)
    grey = pixels.copy()
    grey[12:24, 36:48] = 128
    assert truth.cells[1, 3] == pytest.approx(whole - log_odds(deployed, grey, truth.case.target), abs=1e-4)
    assert truth.cells.shape == (GRID, GRID)
    assert truth.right == (truth.case.target == scene.label)


def test_judges_tell_the_truth_from_its_opposite_and_from_chance(deployed):
    rng = np.random.default_rng(0)
    found: dict[str, list[dict[str, float]]] = {"truth": [], "opposite": [], "chance": []}
    for seed in range(4):
        truth = judges.find_truth(deployed, seed)
        cells = np.kron(truth.cells, np.ones((SIDE // GRID, SIDE // GRID)))
        things = sum(bits * truth.masks[name] / truth.masks[name].sum() for name, bits in truth.lost.items())
        assert judges.judge(deployed, truth, things)["things"] > 0.8  # less than 1 where parts overlap
        for name, values in (("truth", cells), ("opposite", -cells), ("chance", rng.standard_normal((SIDE, SIDE)))):
            found[name].append(judges.judge(deployed, truth, values))
    mean = {name: {key: np.mean([each[key] for each in rows]) for key in rows[0]} for name, rows in found.items()}
    assert mean["truth"]["cells"] == pytest.approx(1)
    assert mean["opposite"]["cells"] == pytest.approx(-1)
    assert abs(mean["chance"]["cells"]) < 0.3
    assert mean["truth"]["srg.grey"] > abs(mean["chance"]["srg.grey"])
    # Blocks of one cell are alike: chance says which comes first.
    assert mean["opposite"]["srg.grey"] == pytest.approx(-mean["truth"]["srg.grey"], rel=0.05)
    even = judges.judge(deployed, judges.find_truth(deployed, 0), np.zeros((SIDE, SIDE)))
    assert np.isnan(even["cells"])
    assert np.isnan(even["object"])
    assert np.isnan(even["parts"])


def test_the_scoreboard_judges_maps_of_others_as_its_own_and_goes_on(deployed, tmp_path):
    (tmp_path / "plain-script.onnx").write_bytes(deployed.model.path.read_bytes())
    theirs = tmp_path / "rivals" / "plain"
    theirs.mkdir(parents=True)
    first, truths = scoreboard._PARTS["tune"], []
    for number in range(2):
        truth = judges.find_truth(deployed, first + number)
        truths.append(np.kron(truth.cells, np.ones((SIDE // GRID, SIDE // GRID))))
        maps = {"theirs": truths[-1], "theirs|passes": 7.0, "broken|refused": "no rule for it"}
        # The second network of theirs is not ours.
        np.savez(theirs / f"{first + number}.npz", target=truth.case.target + number, **maps)

    def call(*arguments: object) -> str:
        result = CliRunner().invoke(scoreboard.main, [str(each) for each in arguments], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    judged = ("judge", tmp_path, "--families", "plain", "--part", "tune", "--rows", "rivals", "--rows", "random map")
    call(*judged, "--scenes", 1)
    call(*judged, "--scenes", 2)
    lines = [json.loads(line) for line in (tmp_path / "numbers.jsonl").read_text().splitlines()]
    assert [(line["scene"], line["row"]) for line in lines] == [
        (scene, row) for scene in (0, 1) for row in ("theirs", "broken", "random map")
    ]
    assert lines[0]["cells"] == pytest.approx(1)
    assert lines[0]["passes"] == 7
    assert lines[1]["refused"] == "no rule for it"
    assert lines[3]["refused"] == "PyTorch gives another class"
    shown = call("table", tmp_path, "--part", "tune", "--judges", "cells", "--reference", "random map")
    assert "| theirs | 1.000 |" in shown
    assert "| broken | refused |" in shown
    call("figure", tmp_path, tmp_path / "frontier.png", "--part", "tune")
    assert (tmp_path / "frontier.png").stat().st_size > 10_000
