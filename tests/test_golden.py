"""The golden check: right answers pass, wrong preprocessing fails loudly, and presets that would do are named."""

import json
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import pytest
from click.testing import CliRunner, Result
from onnx import TensorProto, helper, numpy_helper

from onnx_evidence import DeployedModel
from onnx_evidence.cli import main
from onnx_evidence.cli.golden import Expectation, check, expectations, top_classes
from onnx_evidence.errors import DataError, SettingError, TargetError
from tests import tiny

LABELS = ["red", "green", "blue, azure"]
SIDE = 16


def colours(*, ending: str = "Softmax", preprocess: dict | None = None, labels: list[str] | None = LABELS):
    """A classifier that names the strongest channel: logits are 3 times the channel means of an RGB input 0..1."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["input"], ["pool"]),
        helper.make_node("Flatten", ["pool"], ["flat"]),
        helper.make_node("Mul", ["flat", "three"], ["z"]),
        helper.make_node(ending, ["z"], ["p"]),
    ]
    given = {
        "size": [SIDE, SIDE],
        "resize": "stretch",
        "color": "RGB",
        "scale": 1 / 255,
        "mean": [0] * 3,
        "std": [1] * 3,
    }
    metadata = {"labels": labels} if labels else {}
    if preprocess is not None:
        metadata["preprocess"] = given | preprocess
    return tiny.make_model(
        nodes,
        {"three": np.array(3, np.float32)},
        input_shape=("N", 3, SIDE, SIDE),
        output="p",
        output_shape=("N", 3),
        metadata=metadata,
    )


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with pictures of one colour, and models that see them rightly and with channels swapped."""
    for name, colour in {"red": (230, 40, 20), "blue": (10, 60, 240)}.items():
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.full((20, 30, 3), colour, np.uint8)[..., ::-1])
    tiny.save(colours(preprocess={}), tmp_path / "right.onnx")
    tiny.save(colours(preprocess={"color": "BGR"}), tmp_path / "swapped.onnx")
    tiny.save(colours(), tmp_path / "bare.onnx")
    tiny.save(colours(preprocess={}, ending="Sigmoid"), tmp_path / "labels.onnx")
    return tmp_path


def inspect(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["inspect", *map(str, arguments), "--device", "cpu"])


def softmax_of(colour: tuple[int, int, int]) -> np.ndarray:
    powers = np.exp(3 * np.array(colour) / 255)
    return powers / powers.sum()


def opened(path: Path) -> DeployedModel:
    return DeployedModel(path, device="cpu")


def test_the_five_first_classes_are_told(place: Path):
    p = softmax_of((230, 40, 20))
    found = top_classes(opened(place / "right.onnx"), place / "red.png")
    assert [each.number for each in found] == [0, 1, 2]
    np.testing.assert_allclose([each.probability for each in found], p, atol=1e-6)
    np.testing.assert_allclose([each.log_odds_bits for each in found], np.log2(p / (1 - p)), atol=1e-4)
    result = inspect(place / "right.onnx", "--image", place / "red.png")
    assert result.exit_code == 0
    assert f"red.png: red {p[0]:.4f}, green {p[1]:.4f}, blue, azure {p[2]:.4f}" in result.stdout
    many = tiny.save(tiny.classifier(), place / "many.onnx")
    assert len(top_classes(opened(many), place / "red.png")) == 5


@pytest.mark.parametrize("expected", ["red", "RED", "0", "red:{0:.2f}", "red:0.85", "1:{1:.3f}", "azure:{2:.2f}"])
def test_a_right_answer_passes(place: Path, expected: str):
    p = softmax_of((230, 40, 20))
    result = inspect(place / "right.onnx", "--image", place / "red.png", "--expect", expected.format(*p))
    assert (result.exit_code, result.stderr) == (0, "")
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("right")]
    assert f"the model gives red {p[0]:.4f}, green" in line


def test_wrong_preprocessing_fails_loudly_and_presets_that_would_do_are_named(place: Path):
    p = softmax_of((230, 40, 20))[0]
    result = inspect(place / "swapped.onnx", "--image", place / "red.png", "--expect", f"red:{p:.3f}")
    assert result.exit_code == 1
    assert "GOLDEN CHECK FAILED" in result.stderr
    assert "1 of 1 times" in result.stderr
    assert "\n" not in result.stderr.strip()
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("WRONG")]
    assert "expected red" in line
    assert "the model gives blue, azure" in line
    # 'unit' is the model's own contract, but for the interpolation that a picture of one colour does not show.
    assert f"with --preprocess unit it would give red {p:.4f}" in line
    # The control: what would be wrong too is not offered.
    assert "--preprocess none" not in line


def test_no_preset_is_named_that_the_model_would_refuse(place: Path):
    model = colours()
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("grey", TensorProto.UINT8, ["N", 3, SIDE, SIDE]))
    nodes = [helper.make_node("Cast", ["grey"], ["input"], to=TensorProto.FLOAT), *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    path = tiny.save(model, place / "grey.onnx")
    # Of whole numbers 0 and 1 the model would make p = 0.91 of red.
    expected = Expectation(place / "red.png", "red", 0.91)
    (wrong,) = check(opened(path), [expected])
    assert not wrong.right
    assert wrong.presets == {}
    with pytest.raises(DataError, match="levels of grey would stay apart"):
        DeployedModel(path, preprocess="unit")


def test_within_says_how_near(place: Path):
    p = softmax_of((230, 40, 20))[0]
    arguments = (place / "right.onnx", "--image", place / "red.png", "--expect", f"red:{p - 0.03:.4f}")
    assert inspect(*arguments).exit_code == 1
    assert inspect(*arguments, "--within", "0.05").exit_code == 0


def test_a_model_without_preprocessing_is_told_which_preset_would_do(place: Path):
    p = softmax_of((10, 60, 240))[2]
    result = inspect(place / "bare.onnx", "--image", place / "blue.png", "--expect", f"2:{p:.3f}")
    assert result.exit_code == 1
    assert "no preprocessing is known" in result.stdout
    assert f"with --preprocess unit it would give blue, azure {p:.4f}" in result.stdout
    held = inspect(place / "bare.onnx", "--image", place / "blue.png", "--expect", f"2:{p:.3f}", "--preprocess", "unit")
    assert held.exit_code == 0


def test_independent_labels_are_there_from_a_half_on(place: Path):
    deployed = opened(place / "labels.onnx")
    red = place / "red.png"
    logits = 3 * np.array([230, 40, 20]) / 255
    # Sigmoids of positive numbers: every label is there, also the weakest.
    answers = check(deployed, [Expectation(red, "red"), Expectation(red, "azure")])
    assert [each.right for each in answers] == [True, True]
    assert answers[1].given.probability == pytest.approx(1 / (1 + np.exp(-logits[2])), abs=1e-6)
    assert not check(opened(place / "right.onnx"), [Expectation(red, "azure")])[0].right


FILES = {
    "list.csv": "red.png,red\nblue.png,azure,{blue:.2f}\n",
    "headed.csv": "picture,label,probability\nred.png, red\n blue.png ,azure ,{blue:.2f}\n",
    "quoted.txt": 'red.png,red,\nblue.png,"blue, azure",{blue:.2f}\n',
    "list.json": '[{{"picture": "red.png", "label": "red"}}, '
    '{{"picture": "blue.png", "label": "blue, azure", "probability": {blue:.3f}}}]',
}


@pytest.mark.parametrize("name", FILES)
def test_expectations_are_read_from_files(place: Path, name: str):
    p = softmax_of((10, 60, 240))[2]
    (place / name).write_text(FILES[name].format(blue=p))
    result = inspect(place / "right.onnx", "--expect", place / name, "--json")
    assert result.exit_code == 0
    answers = json.loads(result.stdout)["golden"]
    assert [(Path(each["picture"]).name, each["right"]) for each in answers] == [("red.png", True), ("blue.png", True)]
    assert answers[0]["expected"] is None
    assert answers[1]["expected"] == pytest.approx(p, abs=0.006)
    assert answers[1]["given"]["label"] == "blue, azure"
    assert answers[1]["given"]["probability"] == pytest.approx(p, abs=1e-6)
    swapped = inspect(place / "swapped.onnx", "--expect", place / name, "--json")
    assert swapped.exit_code == 1
    wrong = json.loads(swapped.stdout)["golden"]
    assert [each["right"] for each in wrong] == [False, False]
    assert "unit" in wrong[0]["presets"]


def test_classes_belong_to_pictures_in_turn(place: Path):
    pictures = [place / "red.png", place / "blue.png"]
    assert expectations(["red", "blue:0.5"], pictures) == [
        Expectation(pictures[0], "red"),
        Expectation(pictures[1], "blue", 0.5),
    ]
    assert [each.picture for each in expectations(["red", "green:0.1"], pictures[:1])] == [pictures[0]] * 2


@pytest.mark.parametrize(
    ("given", "count", "error", "words"),
    [
        (["red"], 0, SettingError, "1 classes are expected of 0 pictures"),
        (["a", "b", "c"], 2, SettingError, "3 classes are expected of 2 pictures"),
        (["red:1.5"], 1, SettingError, "'1.5' is no probability"),
        (["red:nan"], 1, SettingError, "'nan' is no probability"),
        (["red:much"], 1, SettingError, "'much' is no probability"),
        (["missing.csv"], 0, DataError, "cannot read the expectations: .*No such file"),
        (["EMPTY.csv"], 0, DataError, "no expectations"),
        (["ONE.csv"], 0, DataError, "'red.png' is not 'picture,label"),
        (["BAD.json"], 0, DataError, "a list of objects"),
        (["NULL.json"], 0, DataError, "a list of objects"),
        (["TWO.json"], 0, DataError, "a list of objects"),
        (["HALF.json"], 0, DataError, "cannot read the expectations"),
        (["BINARY.csv"], 0, DataError, "cannot read the expectations"),
    ],
)
def test_what_is_no_expectation_is_refused(place: Path, given: list[str], count: int, error: type, words: str):
    contents = {
        "EMPTY.csv": b"\n",
        "ONE.csv": b"red.png\n",
        "BAD.json": b'{"red.png": "red"}',
        "NULL.json": b'[{"picture": "red.png", "label": null}]',
        "TWO.json": b'[{"picture": "red.png", "label": null, "probability": 0.5}]',
        "HALF.json": b"[{",
        "BINARY.csv": bytes(range(128, 256)),
    }
    for name, data in contents.items():
        (place / name).write_bytes(data)
    named = [str(place / each) if each.endswith((".csv", ".json")) else each for each in given]
    with pytest.raises(error, match=words) as caught:
        expectations(named, [place / "red.png"] * count)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("label", "error"), [("pink", TargetError), ("9", TargetError)])
def test_a_class_that_does_not_exist_is_refused(place: Path, label: str, error: type):
    with pytest.raises(error):
        check(opened(place / "right.onnx"), [Expectation(place / "red.png", label)])


def test_a_picture_that_cannot_be_read_is_refused(place: Path):
    result = inspect(place / "right.onnx", "--image", place / "none.png", "--expect", "red")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert "none.png" in result.stderr


def test_control_the_models_of_these_tests_do_what_is_said_of_them(place: Path):
    session = onnxruntime.InferenceSession(str(place / "right.onnx"), providers=["CPUExecutionProvider"])
    x = np.broadcast_to(np.array([230, 40, 20], np.float32)[:, None, None] / 255, (1, 3, SIDE, SIDE))
    np.testing.assert_allclose(session.run(None, {"input": x})[0][0], softmax_of((230, 40, 20)), atol=1e-6)
    assert numpy_helper.from_array(x).data_type == TensorProto.FLOAT
