"""Mosaics: what is measured of a map by hand, which pictures are put together, and maps that must win or lose."""

import json
import math
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from onnx_evidence import DataError, DeployedModel, SettingError
from onnx_evidence.cli import main
from onnx_evidence.evaluation.mosaics import METRICS, ask_mosaics, find_mosaics, in_quarters
from tests import tiny

SIDE = 32
# A class by colour, and one for none of them.
COLOURS = np.array([[1, -1, -1], [-1, 1, -1], [-1, -1, 1], [1, 1, -1], [-1, 1, 1]], np.float64)
PREPROCESS = {"size": [SIDE, SIDE], "mean": [127.5] * 3, "std": [127.5] * 3}


def colour_model(gain: float = 60.0) -> onnx.ModelProto:
    """Logits are the mean over cells of relu(colour - 2.5 of 3), times a gain."""
    kernel = np.repeat(np.repeat(COLOURS[:, :, None, None], 4, 2), 4, 3) / 16
    weights = {
        "kernel": kernel.astype(np.float32),
        "bias": np.full(5, -2.5, np.float32),
        "gain": np.eye(5, dtype=np.float32) * np.float32(gain),
    }
    nodes = [
        helper.make_node("Conv", ["input", "kernel", "bias"], ["seen"], strides=[4, 4], kernel_shape=[4, 4]),
        helper.make_node("Relu", ["seen"], ["cells"]),
        helper.make_node("GlobalAveragePool", ["cells"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("MatMul", ["flat", "gain"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 5])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture(scope="module")
def colours(tmp_path_factory) -> Path:
    """The model, its preprocessing and class names beside it."""
    path = tiny.save(colour_model(), tmp_path_factory.mktemp("colours") / "colours.onnx")
    lines = [f"{key} = {json.dumps(value)}" for key, value in PREPROCESS.items()]
    (path.parent / "preprocess.toml").write_text("\n".join(lines))
    return path


@pytest.fixture
def deployed(colours: Path) -> DeployedModel:
    return DeployedModel(colours, preprocess=colours.parent / "preprocess.toml", device="cpu")


def paint(folder: Path, name: str, colour: int | None) -> Path:
    """A picture of one colour, or of grey."""
    level = np.full(3, 128) if colour is None else ((COLOURS[colour] + 1) / 2 * 255)
    path = folder / f"{name}.png"
    cv2.imwrite(str(path), np.broadcast_to(level[::-1].astype(np.uint8), (SIDE, SIDE, 3)))
    return path


QUARTERS = [np.kron(np.eye(4)[number].reshape(2, 2), np.ones((2, 2))).astype(bool) for number in range(4)]


def test_a_map_worked_by_hand():
    values = np.array([[3.0, 0, 1, 0], [0, -2, 0, 0], [0, 0, 0, 0], [2, 2, 0, 0]])
    assert in_quarters(values, QUARTERS, 0) == pytest.approx({"share": 3 / 8, "pointing": 1, "largest": 0})
    assert in_quarters(values, QUARTERS, 2) == pytest.approx({"share": 4 / 8, "pointing": 0, "largest": 1})
    # Ties are shared, and what is against counts against a quarter.
    tied = np.kron([[1.0, 1.0], [0.0, -1.0]], np.ones((2, 2)))
    assert in_quarters(tied, QUARTERS, 1) == pytest.approx({"share": 0.5, "pointing": 0.5, "largest": 0.5})
    assert in_quarters(tied, QUARTERS, 3) == pytest.approx({"share": 0, "pointing": 0, "largest": 0})


def test_where_nothing_can_be_said():
    found = in_quarters(np.zeros((4, 4)), QUARTERS, 0)
    assert set(found) == set(METRICS)
    assert all(map(math.isnan, found.values()))
    against = in_quarters(-1.0 - np.arange(16.0).reshape(4, 4), QUARTERS, 0)
    assert math.isnan(against["share"])
    assert (against["pointing"], against["largest"]) == (1, 1)


def test_a_map_of_the_quarter_wins_chance_is_a_quarter_and_a_turned_map_loses(deployed, tmp_path):
    pictures = [paint(tmp_path, f"{number}", number % 5) for number in range(8)]
    mosaics = find_mosaics(deployed, pictures, 9)
    assert len(mosaics) == 2
    where = {id(mosaic.case.inputs): mosaic for mosaic in mosaics}

    def right(case):
        mosaic = where[id(case.inputs)]
        return list(mosaic.quarters())[mosaic.targets.index(case.target)].astype(float)

    rng = np.random.default_rng(0)
    mappers = {
        "right": right,
        "turned": lambda case: right(case)[::-1, ::-1],
        "chance": lambda case: rng.standard_normal((SIDE, SIDE)),
        "even": lambda case: np.zeros((SIDE, SIDE)),
    }
    ticks = []
    for each in ask_mosaics(mosaics, mappers, lambda: ticks.append(1)):
        assert each.numbers["right"] == {"share": 1, "pointing": 1, "largest": 1}
        assert each.numbers["turned"] == {"share": 0, "pointing": 0, "largest": 0}
        assert each.numbers["chance"]["share"] == pytest.approx(0.25, abs=0.02)
        assert all(map(math.isnan, each.numbers["even"].values()))
    assert len(ticks) == 2 * 4 * 4


def test_pictures_stand_where_they_are_said_to(deployed, tmp_path):
    # Grey is known to nobody, and each class stands once in a mosaic.
    order = (0, 0, None, 1, 2, 1, 3, 4)
    pictures = [paint(tmp_path, f"{number}", colour) for number, colour in enumerate(order)]
    (mosaic,) = find_mosaics(deployed, [tmp_path / "none.png", *pictures], 3)
    assert mosaic.targets == (0, 1, 2, 3)
    assert [path.name for path in mosaic.paths] == ["0.png", "3.png", "4.png", "6.png"]
    assert mosaic.case.target == 0
    for quarter, target in zip(mosaic.quarters(), mosaic.targets, strict=True):
        assert quarter.sum() == SIDE**2 / 4
        assert np.array_equal(mosaic.case.inputs[:, quarter].T, np.broadcast_to(COLOURS[target], (SIDE**2 // 4, 3)))
    assert list(mosaic.quarters())[1][0, -1]  # the second is above on the right


def test_as_many_as_are_asked_for(deployed, tmp_path):
    pictures = [paint(tmp_path, f"{number}", number % 5) for number in range(13)]
    assert [len(find_mosaics(deployed, pictures, count)) for count in (1, 2, 9)] == [1, 2, 3]
    used = [path for mosaic in find_mosaics(deployed, pictures, 9) for path in mosaic.paths]
    assert len(used) == len(set(used))


def test_too_few_classes_are_refused(deployed, tmp_path):
    pictures = [paint(tmp_path, f"{number}", number % 3) for number in range(6)]
    with pytest.raises(DataError, match=r"no mosaic can be made: 6 pictures of .* leave --mosaics out"):
        find_mosaics(deployed, pictures, 1)


def test_pictures_of_more_than_eight_bits_are_refused(colours, tmp_path):
    deep = DeployedModel(colours, preprocess="none", device="cpu")
    with pytest.raises((SettingError, DataError)):
        find_mosaics(deep, [paint(tmp_path, "0", 0)], 1)


def test_the_command_writes_and_prints_them(colours, tmp_path):
    folder, out = tmp_path / "pictures", tmp_path / "out"
    folder.mkdir()
    for number in range(5):
        paint(folder, f"{number}", number)
    arguments = [colours, folder, "-o", out, "--preprocess", colours.parent / "preprocess.toml", "--device", "cpu"]
    arguments += ["--methods", "window,occlusion", "--no-stability", "--substrates", "mean", "--mosaics", 2]
    result = CliRunner().invoke(main, ["evaluate", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "1 mosaic of four pictures (chance is 0.25)" in result.stdout
    summary = json.loads((out / "summary.json").read_text())["mosaics"]
    assert summary["mosaics"] == 1
    assert set(summary["methods"]) == {"window", "occlusion", "random map", "centre prior"}
    assert summary["methods"]["window"]["share"]["value"] > 0.75  # three times chance
    assert summary["methods"]["centre prior"]["share"]["value"] == pytest.approx(0.25)
    gain = summary["differences"]["centre prior"]["share"]["value"]
    assert gain == pytest.approx(0.25 - summary["methods"]["window"]["share"]["value"])
    lines = (out / "numbers.csv").read_text().splitlines()
    assert "0.png + 1.png + 2.png + 3.png,0 + 1 + 2 + 3,window,mosaic.pointing,1.0" in lines
