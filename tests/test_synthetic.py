"""Noise in the range that a model's input really has: nothing that no picture gives, and twins see the same picture."""

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from onnx_evidence.deployed import DeployedModel
from onnx_evidence.errors import ModelError
from onnx_evidence.intake.model import load_model
from onnx_evidence.intake.proof import prove
from onnx_evidence.pictures.photograph import as_photograph
from onnx_evidence.preprocessing.apply import to_input
from onnx_evidence.preprocessing.contract import Preprocess
from onnx_evidence.preprocessing.presets import PRESETS, Wanted, preset
from onnx_evidence.preprocessing.synthetic import InputRange, known_range, likely_ranges, trials
from tests import tiny

SIZE = (24, 40)


def ends(preprocess: Preprocess) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest input that photographs can give, channel by channel: a black one's and a white one's."""
    kind, white = (np.uint8, 255) if preprocess.white == 255 else (np.uint16, preprocess.white)
    made = [to_input(as_photograph(np.full((*SIZE, 3), level, kind)), preprocess)[0][:, 0, 0] for level in (0, white)]
    return np.minimum(*made), np.maximum(*made)


def sixteen_bits(white: int) -> Preprocess:
    return Preprocess(
        size=SIZE, resize="stretch", white=white, scale=1 / white, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.1)
    )


@pytest.mark.parametrize(
    "preprocess",
    [*(preset(name, Wanted(3, *SIZE), "m") for name in PRESETS), sixteen_bits(4095), sixteen_bits(65535)],
    ids=[*PRESETS, "12 bits", "16 bits"],
)
@pytest.mark.parametrize("contrast", [1.0, 8.0])
def test_noise_spans_what_photographs_give_and_nothing_else(preprocess: Preprocess, contrast: float):
    low, high = ends(preprocess)
    found = known_range(preprocess)
    assert found is not None
    noise = np.stack([found.noise(SIZE, number, contrast=contrast) for number in range(3)])
    assert noise.dtype == np.float32
    assert (noise.min(axis=(0, 2, 3)) == low).all()
    assert (noise.max(axis=(0, 2, 3)) == high).all()
    inside = np.stack([found.noise(SIZE, number, margin=0.05) for number in range(3)])
    assert (inside.min(axis=(0, 2, 3)) > low).all()
    assert (inside.max(axis=(0, 2, 3)) < high).all()


def test_twins_with_other_preprocessing_see_the_same_picture():
    unit, none, caffe = (
        known_range(preset(name, Wanted(3, *SIZE), "m")).noise(SIZE, 1) for name in ("unit", "none", "caffe")
    )
    levels = np.rint(unit * 255)
    np.testing.assert_allclose(none, levels, atol=1e-3)
    means = np.array([103.939, 116.779, 123.68])[:, None, None]
    np.testing.assert_allclose(caffe, levels[::-1] - means, atol=1e-3)
    assert np.abs(levels[::-1] - levels).max() > 50  # the control: the order of channels does matter


def test_of_samples_as_the_file_has_them_no_range_is_known_but_their_own(rng):
    bands = Preprocess(size=SIZE, color="BANDS", scale=1e-4, mean=(0.1, 0.2, 0.0, -1.0), std=(0.1, 0.05, 0.5, 1.0))
    given = Preprocess(size=SIZE, resize="none", color="INPUT", mean=(0.0,) * 4, std=(1.0,) * 4)
    assert known_range(bands) is known_range(given) is known_range(None) is None
    inputs = (rng.normal(size=(4, *SIZE)) * np.array([1e-3, 1, 50, 0])[:, None, None] + 7).astype(np.float32)
    noise = InputRange.of(inputs).noise(SIZE, 0, contrast=8)
    low, high = inputs.min(axis=(1, 2)), inputs.max(axis=(1, 2))
    for found, end in ((noise.min(axis=(1, 2)), low), (noise.max(axis=(1, 2)), high)):
        assert ((found >= low) & (found <= high)).all()
        assert (np.abs(found - end) <= (high - low) / 8).all()
    first, *guesses = likely_ranges(4, bands)
    assert len(guesses) == len(likely_ranges(4, None)) > 1
    # Two deviations to either side of the mean, and no band with a mean above 0 below 0.
    extreme = first.noise(SIZE, 0, contrast=8)
    np.testing.assert_allclose(extreme.min(axis=(1, 2)), [-1, -2, -2, -2], atol=1e-5)
    np.testing.assert_allclose(extreme.max(axis=(1, 2)), 2, atol=1e-5)


def test_whole_numbers_stay_whole_and_ends_are_left_out_last():
    codes = likely_ranges(3, preset("tf", Wanted(3, *SIZE), "m"), (-128, 127))
    batches = list(trials(codes, SIZE, 2))
    assert [batch.shape for batch in batches] == [(2, 3, *SIZE)] * 2
    assert all((batch == np.rint(batch)).all() for batch in batches)
    assert (batches[0].min(), batches[0].max()) == (-128, 127)
    assert (batches[1].min(), batches[1].max()) == (-120, 119)


def logarithmic(path: Path, add: float, *, ending: bool = False, batch: int | str = "N") -> Path:
    """Scores of log((x + add) / 256), channels last: not finite but for what pictures give."""
    nodes = [
        helper.make_node("Add", ["input", "add"], ["more"]),
        helper.make_node("Div", ["more", "all"], ["share"]),
        helper.make_node("Log", ["share"], ["log"]),
        helper.make_node("ReduceMean", ["log"], ["logits"], axes=[1, 2], keepdims=0),
        *([helper.make_node("Softplus", ["logits"], ["scores"])] if ending else []),
    ]
    weights = {"add": np.array(add, np.float32), "all": np.array(256, np.float32)}
    output = "scores" if ending else "logits"
    model = tiny.make_model(
        nodes, weights, input_shape=(batch, 16, 20, 3), output=output, output_shape=(batch, 3), opset=17
    )
    return tiny.save(model, path)


@pytest.mark.parametrize("preprocess", [None, "none"])
@pytest.mark.parametrize("add", [0.0, 1.0])
def test_a_model_that_takes_logarithms_is_proved_on_finite_numbers(preprocess, add: float, tmp_path: Path):
    path = logarithmic(tmp_path / "log.onnx", add, batch=1)
    model = load_model(path, preprocess)
    assert model.batch is None
    assert model.proof is not None
    assert model.proof.holds
    assert np.isfinite(model.proof.told_apart)
    opened = DeployedModel(path, preprocess=preprocess, device="cpu")
    x = np.random.default_rng(0).uniform(1, 255, (2, 3, 16, 20)).astype(np.float32)
    np.testing.assert_allclose(opened.logits(x), np.log((x + add) / 256).mean(axis=(2, 3)), atol=1e-5)


def test_what_gives_no_finite_number_proves_nothing(tmp_path: Path):
    with pytest.raises(ModelError, match=r"cannot be proved to be the file's: the file gives no finite scores .* pass"):
        load_model(logarithmic(tmp_path / "log.onnx", -1e6))


def test_what_outputs_hold_is_told_by_finite_numbers_alone(tmp_path: Path):
    assert load_model(logarithmic(tmp_path / "log.onnx", 1.0, ending=True), "none").output_kind == "logits"
    shifted = tiny.make_model(
        [
            helper.make_node("Add", ["input", "add"], ["more"]),
            helper.make_node("Log", ["more"], ["log"]),
            helper.make_node("ReduceMean", ["log"], ["logits"], axes=[2, 3], keepdims=0),
            helper.make_node("Softplus", ["logits"], ["scores"]),
        ],
        {"add": np.array(-1e6, np.float32)},
        output="scores",
        output_shape=("N", 3),
    )
    with pytest.raises(ModelError, match=r"'scores' holds no finite numbers .* pass --preprocess"):
        load_model(tiny.save(shifted, tmp_path / "shifted.onnx"))


def test_control_a_canonical_graph_that_gives_no_number_is_not_the_files(tmp_path: Path, monkeypatch):
    path = logarithmic(tmp_path / "log.onnx", 1.0)
    whole_run = prove.__globals__["Session"].run

    def run(self, pictures):
        found = whole_run(self, pictures)
        return found if pictures.shape[-1] == 3 else found * np.float32(np.nan)

    monkeypatch.setattr(prove.__globals__["Session"], "run", run)
    with pytest.raises(ModelError, match="cannot be proved"):
        load_model(path, "none")


def test_types_of_whole_numbers_are_the_range_whatever_the_preprocessing(tmp_path: Path):
    nodes = [
        helper.make_node("Cast", ["input"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["x"], ["logits"], axes=[2, 3], keepdims=0),
    ]
    model = tiny.make_model(nodes, {}, output_shape=("N", 3))
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    entry = load_model(tiny.save(model, tmp_path / "uint8.onnx"), "caffe").entry
    assert [(each.low.tolist(), each.high.tolist()) for each in entry.ranges] == [([0.0] * 3, [255.0] * 3)]


def test_pictures_of_a_kind_have_the_same_range(rng):
    base = rng.uniform(0, 1, (3, *SIZE)).astype(np.float32)
    base[:, 0, :2] = [-0.001, 1.0]
    other = base.copy()
    other[:, 0, :2] = [-0.0005, 0.9995 + 1e-3]
    spans = [InputRange.of(each) for each in (base, other)]
    np.testing.assert_array_equal(spans[0].low, spans[1].low)
    np.testing.assert_array_equal(spans[0].high, spans[1].high)
    assert not np.signbit(spans[0].low).any()
    assert (InputRange.of(base * 100).high > 85).all()


@pytest.mark.parametrize("values", [(3.0, 3.0), (1e6, np.nextafter(np.float32(1e6), np.float32(2e6))), (0.0, 1e-45)])
def test_ranges_of_next_to_nothing_stay_inside(values):
    inputs = np.resize(np.array(values, np.float32), (1, *SIZE))
    noise = InputRange.of(inputs).noise(SIZE, 0)
    assert inputs.min() <= noise.min() <= noise.max() <= inputs.max()
