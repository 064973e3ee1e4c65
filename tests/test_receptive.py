"""Where cells look: measured in the range of pictures whatever the scale, and said where it cannot be."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from onnx import helper

from onnx_evidence import Explainer
from onnx_evidence.batch.receipt import unlike
from onnx_evidence.cli import main
from onnx_evidence.cuts.receptive import _Answers, _placed, measure_field, unmeasured
from onnx_evidence.deployed import DeployedModel
from onnx_evidence.evidence.field import EVEN, EXACT, MEASURED, NOMINAL
from onnx_evidence.graphs.reach import Axis, Field
from onnx_evidence.preprocessing.contract import Preprocess
from onnx_evidence.preprocessing.presets import CAFFE_MEAN, IMAGENET_MEAN, IMAGENET_STD
from onnx_evidence.preprocessing.synthetic import InputRange, likely_ranges
from tests import planted, tiny

UNIT = InputRange(np.zeros(3), np.ones(3))
UNEVEN = InputRange(np.array([0.0, -5, 3]), np.array([1.0, 5, 3.5]))
SIZE = (64, 96)
BLOCK = 8
GRID = (8, 12)
PATCHES = Field(Axis(8, 0, 7), Axis(8, 0, 7))


def pooled(x: np.ndarray) -> np.ndarray:
    """Means over blocks of 8 x 8 pixels: fields known exactly."""
    n, c, height, width = x.shape
    return x.reshape(n, c, height // BLOCK, BLOCK, width // BLOCK, BLOCK).mean(axis=(3, 5), dtype=np.float64)


def op(op_type: str, name: str, *inputs: str, **attributes: object):
    return helper.make_node(op_type, list(inputs), [name], **attributes)


def column(*values: float) -> np.ndarray:
    return np.array(values, np.float32)[:, None, None]


def numbers(**values: float) -> dict[str, np.ndarray]:
    return {name: np.array(value, np.float32) for name, value in values.items()}


SIXTEEN = Preprocess(size=(64, 64), resize="stretch", white=65535, mean=(0.0,) * 3, std=(1.0,) * 3)
TORCHVISION = Preprocess(size=(64, 64), resize="stretch", scale=1 / 255, mean=IMAGENET_MEAN, std=IMAGENET_STD)
# The same function of the photograph, by models that take other inputs.
TWINS = {
    "0..255": ("none", [op("Div", "unit", "input", "all")], numbers(all=255)),
    "0..65535": (SIXTEEN, [op("Div", "unit", "input", "all")], numbers(all=65535)),
    "normalised": (
        TORCHVISION,
        [op("Mul", "raw", "input", "std"), op("Add", "unit", "raw", "mean")],
        {"std": column(*IMAGENET_STD), "mean": column(*IMAGENET_MEAN)},
    ),
    "caffe": (
        "caffe",
        [
            op("Add", "levels", "input", "mean"),
            op("Div", "blue", "levels", "all"),
            op("Gather", "unit", "blue", "order", axis=1),
        ],
        {"mean": column(*CAFFE_MEAN), **numbers(all=255), "order": np.array([2, 1, 0])},
    ),
    "logarithm": (
        "none",
        [
            op("Add", "more", "input", "one"),
            op("Log", "log", "more"),
            op("Exp", "again", "log"),
            op("Sub", "levels", "again", "one"),
            op("Div", "unit", "levels", "all"),
        ],
        numbers(one=1, all=255),
    ),
    "root": ("unit", [op("Sqrt", "root", "input"), op("Mul", "unit", "root", "root")], {}),
    "power": (
        "unit",
        [op("Pow", "gamma", "input", "less"), op("Pow", "unit", "gamma", "more")],
        numbers(less=1 / 2.2, more=2.2),
    ),
    "share": (
        "unit",
        [
            op("ReduceMax", "most", "input", axes=[1], keepdims=1),
            op("Div", "hue", "input", "most"),
            op("Mul", "unit", "hue", "most"),
        ],
        {},
    ),
}


def explained(folder: Path, model, preprocess, picture, layer="auto"):
    path = tiny.save(model, folder / "model.onnx")
    explainer = Explainer(path, preprocess=preprocess, device="cpu", layer=layer)
    return explainer, explainer.explain(picture, target=1)


def place(explanation) -> np.ndarray:
    """Row and column of the peak, and of the centre of mass."""
    values = np.array(explanation.pixels, np.float64)
    size = np.abs(values)
    mass = [(size.sum(axis=1 - axis) @ np.arange(side)) / size.sum() for axis, side in enumerate(size.shape)]
    return np.array([*np.unravel_index(values.argmax(), values.shape), *mass])


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> tuple[Explainer, np.ndarray]:
    explainer, explanation = explained(
        tmp_path_factory.mktemp("plain"), planted.finder([], {}), "unit", planted.red_square()
    )
    return explainer, place(explanation)


def check_place(found: np.ndarray, expected: np.ndarray) -> None:
    rows, cols = planted.SQUARE
    cell = 96 / 32, 128 / 32
    assert rows.start - cell[0] <= found[0] < rows.stop + cell[0]
    assert cols.start - cell[1] <= found[1] < cols.stop + cell[1]
    assert np.abs(found[2:] - expected[2:]).max() < 0.5


def test_the_plain_model_finds_the_square(plain):
    explainer, found = plain
    check_place(found, found)
    assert explainer.engines[0].field.how == MEASURED
    assert explainer.engines[0].field.resolution < 1.5


@pytest.mark.parametrize("kind", TWINS)
def test_the_map_is_the_same_whatever_the_input_is_made_of(kind: str, plain, tmp_path: Path):
    preprocess, before, weights = TWINS[kind]
    picture = planted.red_square()
    if kind == "0..65535":
        picture = picture.astype(np.uint16) * 257
    explainer, explanation = explained(tmp_path, planted.finder(before, weights), preprocess, picture, "found")
    check_place(place(explanation), plain[1])
    field, expected = explainer.engines[0].field, plain[0].deployed.field(plain[0].deployed.graph.find("found"))
    assert (field.how, field.reason) == (MEASURED, "")
    for axis in ("rows", "cols"):
        np.testing.assert_allclose(getattr(field, axis).centre, getattr(expected, axis).centre, atol=0.5)


@pytest.mark.parametrize("kind", ["0..255", "logarithm", "root", "plain"])
def test_of_inputs_that_are_preprocessed_already_the_picture_tells_the_range(kind: str, plain, tmp_path: Path):
    _, before, weights = TWINS.get(kind, ("", [], {}))
    levels = cv2.resize(planted.red_square(), (64, 64), interpolation=cv2.INTER_AREA).transpose(2, 0, 1)
    inputs = levels.astype(np.float32) if kind in ("0..255", "logarithm") else (levels / 255).astype(np.float32)
    explainer, explanation = explained(tmp_path, planted.finder(before, weights), "preprocessed", inputs, "found")
    assert explainer.engines[0].field.how == "open"
    assert explanation.record["cuts"][0]["field"] == MEASURED
    found = place(explanation) * np.tile([96 / 64, 128 / 64], 2)
    check_place(found, plain[1] - 0.5)
    again = explainer.explain(inputs, target=1)
    np.testing.assert_array_equal(again.values, explanation.values)


@pytest.mark.parametrize("scale", [1e-7, 1e7])
def test_the_scale_of_features_does_not_matter(scale: float, plain, tmp_path: Path):
    explainer, explanation = explained(
        tmp_path, planted.finder([], {}, scale), "unit", planted.red_square(), "found.relu"
    )
    check_place(place(explanation), plain[1])
    expected = plain[0].deployed.field(plain[0].deployed.graph.find("found.relu"))
    field = explainer.engines[0].field
    for axis in ("rows", "cols"):
        np.testing.assert_allclose(getattr(field, axis).centre, getattr(expected, axis).centre, rtol=1e-4)
        np.testing.assert_allclose(getattr(field, axis).spread, getattr(expected, axis).spread, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "source", [*likely_ranges(3, None), InputRange(np.array([0.0, -5, 3]), np.array([1.0, 5, 3.5]))]
)
def test_nothing_outside_of_the_range_is_fed(source: InputRange):
    low, high = (each[:, None, None].astype(np.float32) for each in (source.low, source.high))

    def head(x: np.ndarray) -> np.ndarray:
        assert ((x >= low) & (x <= high)).all()
        return pooled(x)

    field = measure_field(head, source, SIZE, GRID)
    np.testing.assert_allclose(field.rows.centre, np.arange(8) * 8 + 4, atol=1.5)
    np.testing.assert_allclose(field.cols.centre, np.arange(12) * 8 + 4, atol=1.5)


def test_cells_that_answer_to_nothing_lie_beside_their_neighbours():
    def head(x: np.ndarray) -> np.ndarray:
        features = pooled(x)
        features[:, :, :1] = 1
        features[:, :, 4] = 1
        return features

    field = measure_field(head, UNIT, SIZE, GRID, PATCHES)
    whole = measure_field(pooled, UNIT, SIZE, GRID, PATCHES)
    assert field.how == whole.how == MEASURED
    assert field.reason == "2 of 8 rows of cells answer to nothing, and are placed by their neighbours"
    np.testing.assert_allclose(field.rows.centre, np.arange(8) * 8 + 4, atol=1.5)
    np.testing.assert_allclose(field.rows.centre[[1, 2, 3, 5, 6, 7]], whole.rows.centre[[1, 2, 3, 5, 6, 7]])
    assert field.rows.spread[0] == field.rows.spread[1]
    assert whole.reason == ""


def nothing(x: np.ndarray) -> np.ndarray:
    return np.full((len(x), 3, *GRID), 7.0)


def rounding(x: np.ndarray) -> np.ndarray:
    """Features that change by less than float32 resolves."""
    return 1e4 + 1e-5 * pooled(x)


def undefined(x: np.ndarray) -> np.ndarray:
    return np.full((len(x), 3, *GRID), np.nan)


def alike(x: np.ndarray) -> np.ndarray:
    """Every cell sees the whole picture, and hardly more of its own place."""
    return pooled(x) * 0.02 + pooled(x).mean(axis=(2, 3), keepdims=True)


UNMEASURABLE = {
    nothing: "rows of cells answer to nothing, 8 of 8, on pictures of noise",
    rounding: "rows of cells answer to nothing, 8 of 8, on pictures of noise",
    undefined: "features are not finite numbers on pictures of noise",
    alike: "rows of cells seem to lie in one place, because all see the whole picture alike",
}


@pytest.mark.parametrize("head", UNMEASURABLE)
def test_what_cannot_be_measured_is_nominal_or_even_and_says_so(head):
    nominal = measure_field(head, UNIT, SIZE, GRID, Field(Axis(8, -4, 3), Axis(8, -4, 3)))
    assert (nominal.how, nominal.reason) == (NOMINAL, UNMEASURABLE[head])
    np.testing.assert_array_equal(nominal.rows.centre, np.arange(8) * 8)
    # The first field lies half outside of the picture.
    np.testing.assert_allclose(nominal.rows.spread, np.array([4] + [8] * 7) / 12**0.5)
    for known in (None, Field(Axis(0, 0, 0), Axis(0, 0, 0), everything=True)):
        even = measure_field(head, UNIT, SIZE, GRID, known)
        assert even.how == EVEN
        assert even.reason == f"{UNMEASURABLE[head]}, and arithmetic does not say where they look"
        np.testing.assert_array_equal(even.rows.centre, np.arange(8) * 8 + 4)
        np.testing.assert_array_equal(even.cols.centre, np.arange(12) * 8 + 4)
        # Any cell may see everything.
        assert even.resolution == pytest.approx((64 + 96) / 2 / 12**0.5)


def test_control_what_can_just_be_measured_is():
    field = measure_field(lambda x: 1e4 + 0.5 * pooled(x), UNIT, SIZE, GRID, PATCHES)
    assert field.how == MEASURED
    np.testing.assert_allclose(field.rows.centre, np.arange(8) * 8 + 4, atol=1.5)
    attending = measure_field(
        lambda x: pooled(x) + pooled(x).mean(axis=(2, 3), keepdims=True), UNIT, SIZE, GRID, PATCHES
    )
    assert attending.how == MEASURED
    assert (np.diff(attending.rows.centre) > 2).all()


def test_nominal_fields_of_attention_are_known_to_no_better_than_the_picture():
    everything = unmeasured(SIZE, GRID, Field(Axis(8, 0, 7), Axis(8, 0, 7), everything=True), "why")
    assert everything.how == NOMINAL
    np.testing.assert_array_equal(everything.rows.centre, np.arange(8) * 8 + 4)
    assert everything.resolution == pytest.approx((64 + 96) / 2 / 12**0.5)


@pytest.fixture
def undefined_on_noise(tmp_path: Path) -> Path:
    """The finder behind log(x - 0.1): finite for the picture, whose darkest value is 30 / 255, and not for noise."""
    before = [op("Sub", "less", "input", "tenth"), op("Log", "log", "less"), op("Exp", "unit", "log")]
    return tiny.save(planted.finder(before, numbers(tenth=0.1)), tmp_path / "log.onnx")


def test_a_map_says_where_its_places_are_not_measured(undefined_on_noise: Path, tmp_path: Path):
    cv2.imwrite(str(tmp_path / "a.png"), planted.red_square()[:, :, ::-1])
    cv2.imwrite(str(tmp_path / "b.png"), planted.red_square()[:, :, ::-1] // 2 + 64)
    arguments = ["explain", undefined_on_noise, tmp_path / "a.png", tmp_path / "b.png", "-o", tmp_path / "out"]
    options = ["--preprocess", "unit", "--target", "1", "--layer", "found", "--no-figures", "--device", "cpu"]
    result = CliRunner().invoke(main, [str(each) for each in arguments] + options, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    said = (
        "Warning: layer 'found': where its cells look is not measured, but taken from kernels and strides: features "
        "are not finite numbers on pictures of noise; places are known to 1.4 pixels of the input"
    )
    assert result.stderr.splitlines() == [said]
    entries = [json.loads(line) for line in (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()]
    assert len(entries) == 2
    for entry in entries:
        assert unlike(entry) == ""
        cut = entry["cuts"][0]
        assert (cut["field"], cut["resolution_pixels"]) == (NOMINAL, 1.4)
        assert cut["field_reason"] == "features are not finite numbers on pictures of noise"
    with np.load(tmp_path / "out" / entries[0]["map"]) as arrays:
        row, col = np.unravel_index(arrays["pixels"].argmax(), (96, 128))
    assert 6 <= row < 26
    assert 86 <= col < 114


def test_at_the_input_places_are_exact(tiny_model: Path):
    deployed = DeployedModel(tiny_model, device="cpu")
    field = deployed.field(deployed.graph.find("input"))
    assert (field.how, field.resolution) == (EXACT, 0)


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        (
            "onnx_evidence.batch.work.padding_bits",
            "padding_bits (nan) is not a finite number, so there is no result: take another --layer, --method or "
            "--background",
        ),
        (
            "onnx_evidence.evidence.field.CellField.spread",
            "layer 'deep.add': the evidence there is not a finite number: take another --layer or --background",
        ),
    ],
    ids=["record", "map"],
)
def test_what_is_not_finite_is_named_and_the_run_goes_on(where: str, reason: str, tiny_model, tmp_path, monkeypatch):
    bad = float("nan") if "batch" in where else np.full((32, 32), np.nan)
    monkeypatch.setattr(where, lambda *_: bad)
    cv2.imwrite(str(tmp_path / "a.png"), planted.red_square())
    arguments = ["explain", tiny_model, tmp_path / "a.png", "-o", tmp_path / "out", "--layer", "deep.add"]
    result = CliRunner().invoke(main, [str(each) for each in arguments], catch_exceptions=False)
    assert result.exit_code == 3
    failure = json.loads((tmp_path / "out" / "failures.jsonl").read_text())
    assert (failure["kind"], failure["reason"]) == ("ModelError", f"{tmp_path / 'a.png'}: {reason}")
    assert not list((tmp_path / "out").rglob("*.npz"))


def test_cells_that_answer_to_nothing_lie_at_the_grids_pitch_beside_those_that_do_and_never_outside():
    energy = np.zeros((6, 6))
    energy[[2, 3, 4], [0, 3, 5]] = 1
    axis, silent = _placed(_Answers(energy, np.arange(0, 61, 10)), 60)
    np.testing.assert_allclose(axis.centre, [0, 0, 5, 35, 55, 60])
    assert silent == 3
