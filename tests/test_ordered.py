"""The engine of orders: its gradient against differences, its maps against slow twins that hide pixels themselves."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from onnx import helper, numpy_helper

from onnx_evidence import CutError, DeployedModel, Explainer, SettingError
from onnx_evidence.cuts.certificate import certify
from onnx_evidence.cuts.graph import Cut
from onnx_evidence.errors import GradientError
from onnx_evidence.evidence.odds import LN2
from onnx_evidence.evidence.order import FRONTS, LEVELS, ROUNDS, _falling
from onnx_evidence.evidence.score import Score
from onnx_evidence.methods import order as ordered
from onnx_evidence.methods.engine import Question, View
from onnx_evidence.methods.order import OrderEngine, cells_of
from onnx_evidence.methods.settings import Settings
from onnx_evidence.pictures.opencv import blur
from tests import oracles, tiny
from tests.test_ordering import agreement, check_falling, one_by_one
from tests.test_path import cotangents

SIZE, CLASSES = (30, 22), 4
TARGET, RIVAL = 1, 3


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    field = oracles.ar_fields(np.random.default_rng(5), 3, 60, 0.9).transpose(1, 2, 0)[:, :44]
    return np.clip(128 + 60 * field, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def deployed(tiny_model: Path) -> DeployedModel:
    return DeployedModel(tiny_model, device="cpu")


@pytest.fixture
def small_cells(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Sixty-four cells in a picture of 32 x 32: two in every level set."""
    monkeypatch.setattr(ordered, "_PITCH", 4)
    return


# The engine on a toy model in float64


class Toy:
    """``z = B tanh(A x)``, all in float64; as an engine with two backgrounds."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.a, self.b = rng.normal(size=(7, 3, *SIZE)) / 20, rng.normal(size=(CLASSES, 7)) * 2
        self.inputs, self.backgrounds = rng.normal(size=(3, *SIZE)), rng.normal(size=(2, 3, *SIZE))

    def predict(self, batch: np.ndarray) -> np.ndarray:
        return np.tanh(np.einsum("nchw,kchw->nk", batch, self.a)) @ self.b.T

    def gradient(self, batch, direction, rest) -> tuple[np.ndarray, np.ndarray]:
        inner = np.tanh(np.einsum("nchw,kchw->nk", batch, self.a))
        back = cotangents(inner @ self.b.T, direction, rest) @ self.b * (1 - inner**2)
        return inner @ self.b.T, np.einsum("nk,kchw->nchw", back, self.a)

    def engine(self, **settings) -> OrderEngine:
        return OrderEngine(
            Cut("input", "Input", (3, *SIZE), 1.0, field=None, joins=False, skipped_by=None),
            certify,
            cells_of(SIZE),
            Settings(method="ordered", **settings),
            self.gradient,
            self.predict,
            lambda view: self.backgrounds,
            lambda view, question: np.zeros(SIZE),
        )


@pytest.fixture
def toy(rng: np.random.Generator) -> Toy:
    return Toy(rng)


def shown_softly(toy: Toy, background: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Pictures blended by masks that OpenCV brought to their size."""
    weights = np.stack([cv2.resize(mask, SIZE[::-1], interpolation=cv2.INTER_LINEAR) for mask in masks])
    return background + weights[:, None] * (toy.inputs - background)


def test_masks_are_interpolated_between_the_centres_of_cells(toy, rng):
    masks = rng.random((3, 4, 3))
    mix = ordered._Mix(toy.inputs, toy.backgrounds[0], cells_of(SIZE))
    np.testing.assert_allclose(mix.soft(masks), shown_softly(toy, toy.backgrounds[0], masks), atol=1e-5)
    np.testing.assert_allclose(mix.soft(np.ones((1, 4, 3))), toy.inputs[None], atol=1e-6)


def test_cells_hide_and_sum_their_own_pixels(toy, rng):
    mix, background = ordered._Mix(toy.inputs, toy.backgrounds[0], cells_of(SIZE)), toy.backgrounds[0]
    pixels, summed, covered = rng.normal(size=SIZE), np.zeros((4, 3)), np.zeros(SIZE)
    for row, col in np.ndindex(4, 3):
        one = np.zeros((1, 4, 3))
        one[0, row, col] = 1
        (hidden,) = mix.hard(1 - one)
        place = np.s_[round(row * 7.5 + 0.01) : round(row * 7.5 + 7.51), -(-22 * col // 3) : -(-22 * (col + 1) // 3)]
        inside = np.zeros(SIZE, bool)
        inside[place] = True
        np.testing.assert_allclose(hidden, np.where(inside, background, toy.inputs), atol=1e-12)
        summed[row, col] = pixels[inside].sum()
        covered += inside
    assert (covered == 1).all()
    np.testing.assert_allclose(mix.to_cells(pixels), summed, atol=1e-12)


@pytest.mark.parametrize("versus", [None, 2])
@pytest.mark.parametrize("batch_size", [32, 3])
def test_the_gradient_of_the_ascent_is_that_by_differences(batch_size, versus, toy, rng):
    engine, score, level, done = toy.engine(batch_size=batch_size), Score.of(CLASSES, TARGET, versus), 0.7, []
    background, masks = toy.backgrounds[0], rng.random((5, 4, 3))
    ascend = engine._ascend(ordered._Mix(toy.inputs, background, engine.field), score, level, done.append)
    seen, slopes = ascend(masks)

    def probability(masks: np.ndarray) -> np.ndarray:
        logits = toy.predict(shown_softly(toy, background, masks))
        if versus is None:
            odds = np.array([oracles.exact_log_odds(z, TARGET) for z in logits])
        else:
            odds = logits[:, TARGET] - logits[:, versus]
        return np.exp(odds - level) / (1 + np.exp(odds - level))

    np.testing.assert_allclose(seen, probability(masks), atol=1e-5)
    steps = 1e-3 * np.eye(12).reshape(12, 1, 4, 3)
    expected = np.stack([probability(masks + step) - probability(masks - step) for step in steps], axis=1) / 2e-3
    size = np.abs(expected).max()
    np.testing.assert_allclose(slopes.reshape(5, 12), expected, atol=1e-3 * size)
    assert done == ([5] if batch_size == 32 else [3, 2])
    # The control: towards another background they are others.
    other = ordered._Mix(toy.inputs, toy.backgrounds[1], engine.field)
    assert np.abs(engine._ascend(other, score, level, done.append)(masks)[1] - slopes).max() > 0.1 * size


def test_every_background_has_its_turn_and_its_say(toy, monkeypatch):
    given = {}

    def refine(start, ascend, rng):
        given["ascend"] = ascend
        return np.arange(12.0).reshape(4, 3)

    monkeypatch.setattr(ordered, "refine", refine)
    logits, masks = toy.predict(toy.inputs[None])[0], np.random.default_rng(1).random((2, 4, 3))
    (found,) = toy.engine().explain(View(toy.inputs, toy.inputs, logits, 0), [Question(TARGET, 2)], lambda rows: None)
    nothing = toy.predict(toy.backgrounds) @ (np.eye(4)[TARGET] - np.eye(4)[2]) / LN2
    assert found.budget.without == pytest.approx(nothing.mean())
    assert abs(nothing[0] - nothing[1]) > 0.1
    level = np.median([0, logits[TARGET] - logits[2], nothing.mean() * LN2])
    for ascend, background in zip(given["ascend"], toy.backgrounds, strict=True):
        hidden = toy.predict(shown_softly(toy, background, masks))
        expected = 1 / (1 + np.exp(level - hidden[:, TARGET] + hidden[:, 2]))
        np.testing.assert_allclose(ascend(masks)[0], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("shown", "hidden", "level"),
    [
        (3, (-2, -4), 0),
        (-2, (3, 1), 0),
        (-9, (-3, -7), -5),
        (-3, (-9, -9), -3),
        (8, (2, 4), 3),
        (-500, (-700, -900), -500),
    ],
)
def test_undecided_is_even_odds_or_the_end_that_is_nearest_to_them(shown, hidden, level, toy):
    """By the logits of what is shown and of two pictures that it is hidden behind."""
    view = View(toy.inputs, toy.inputs, np.array([shown, 0.0]), 0)
    ends = np.stack([hidden, np.zeros(2)], axis=1)
    assert ordered._level(view, Score.of(2, 0, 1), ends) == pytest.approx(level)


@pytest.mark.parametrize(
    ("size", "grid"), [((224, 224), (28, 28)), ((32, 32), (4, 4)), (SIZE, (4, 3)), ((3, 260), (1, 32))]
)
def test_cells_are_squares_of_about_eight_pixels_that_tile_the_input(size, grid):
    field = cells_of(size)
    for axis, pixels, cells in zip((field.rows, field.cols), size, grid, strict=True):
        pitch = pixels / cells
        np.testing.assert_allclose(axis.centre, pitch * np.arange(0.5, cells), rtol=1e-12)
        # A band of even weight: its standard deviation.
        inside = (np.arange(10000) + 0.5) / 10000 * pitch
        np.testing.assert_allclose(axis.spread, inside.std(), rtol=1e-6)
    bits = np.random.default_rng(0).normal(size=grid)
    assert field.spread(bits).sum() == pytest.approx(bits.sum(), abs=1e-9)


# The engine through `Explainer`


def odds_of(logits: np.ndarray, target: int, versus: int | None) -> np.ndarray:
    """In bits, of each row."""
    rivals = np.delete(logits, target, axis=1) if versus is None else logits[:, [versus]]
    return (logits[:, target] - np.logaddexp.reduce(rivals, axis=1)) / LN2


class Hiding:
    """A picture whose cells are hidden behind its own means and behind its blur."""

    def __init__(self, deployed: DeployedModel, picture: np.ndarray, versus: int | None = None) -> None:
        self.deployed, self.versus, self.known = deployed, versus, {}
        self.inputs = deployed.prepare(picture)[1]
        means = np.broadcast_to(self.inputs.mean(axis=(1, 2), keepdims=True), self.inputs.shape)
        self.backgrounds = np.stack([blur(self.inputs, 11 / 224 * 32), means])

    def bits(self, masks: np.ndarray, target: int = TARGET) -> np.ndarray:
        """The score behind each mask and background, (n, 2)."""
        pixels = masks.repeat(32 // masks.shape[1], axis=1).repeat(32 // masks.shape[2], axis=2)[:, None, None]
        hidden = pixels * self.inputs + (1 - pixels) * self.backgrounds
        logits = self.deployed.logits(hidden.reshape(-1, 3, 32, 32).astype(np.float32))
        return odds_of(logits, target, self.versus).reshape(-1, 2)

    def one(self, mask: np.ndarray) -> np.ndarray:
        """The same for one mask; what was asked before is known."""
        key = mask.tobytes()
        if key not in self.known:
            self.known[key] = self.bits(mask[None])[0]
        return self.known[key]

    def gain(self, order: np.ndarray, target: int) -> float:
        """J on the probability, over all even numbers of cells that are shown and removed."""
        best_first, counts = np.argsort(-order, axis=None), range(2, order.size, 2)
        shown = np.zeros((len(counts), order.size))
        for mask, count in zip(shown, counts, strict=True):
            mask[best_first[:count]] = 1
        shown = shown.reshape(-1, *order.shape)
        ends = [self.bits(np.full((1, *order.shape), value), target).mean() for value in (1.0, 0.0)]
        level = sorted([0.0, *ends])[1]
        restored, removed = (1 / (1 + 2 ** (level - self.bits(masks, target))) for masks in (shown, 1 - shown))
        return float((restored - removed).mean())


def explain(deployed, picture, target=TARGET, versus=None, **options):
    return Explainer(deployed, method="ordered", **options).explain(picture, target=target, versus=versus)


@pytest.mark.parametrize("versus", [None, RIVAL])
@pytest.mark.usefixtures("small_cells")
def test_a_map_has_the_bits_of_its_own_level_sets(versus, deployed, picture):
    evidence, hiding = explain(deployed, picture, versus=versus), Hiding(deployed, picture, versus)
    cells = evidence.grids[0].astype(np.float64)
    assert cells.shape == (8, 8)
    assert len(np.unique(cells)) == 64
    bits, counts = one_by_one(cells, lambda mask: np.mean(hiding.one(mask)), LEVELS)
    assert counts == [2] * LEVELS
    along = -np.sort(-cells, axis=None)
    np.testing.assert_allclose(along, _falling(np.array(bits), np.array(counts)), atol=1e-4)
    assert check_falling(along, bits, counts, atol=1e-3) > 5
    # The control: behind one background alone they have others.
    blurred, _ = one_by_one(cells, lambda mask: hiding.one(mask)[0], LEVELS)
    assert np.abs(np.subtract(blurred, bits)).max() > 0.1


@pytest.mark.usefixtures("small_cells")
def test_removal_is_predicted_better_than_by_the_map_that_it_starts_from(deployed, picture):
    hiding, gained = Hiding(deployed, picture), []
    integrated = Explainer(deployed, method="integrated", background="blur+mean", combine="mean")
    for target in range(5):
        start = integrated.explain(picture, target=target).values.reshape(8, 4, 8, 4).sum(axis=(1, 3))
        found = explain(deployed, picture, target).grids[0]
        gained.append(hiding.gain(found, target) - hiding.gain(start, target))
        assert hiding.gain(found, target) > 0.1
    assert min(gained) >= 0  # the better of both is kept
    assert np.median(gained) > 0.05


@pytest.mark.usefixtures("small_cells")
def test_the_start_is_the_integrated_map_and_noise_would_do(deployed, picture):
    explainer, hiding = Explainer(deployed, method="ordered"), Hiding(deployed, picture)
    (engine,) = explainer.engines
    logits, (features,) = deployed.answer(hiding.inputs).logits, explainer._heads.look(hiding.inputs)
    view = View(hiding.inputs, features, logits, 0)
    integrated = Explainer(deployed, background="blur+mean", combine="mean").explain(picture, target=TARGET)
    np.testing.assert_allclose(engine.start(view, Question(TARGET)), integrated.values, atol=1e-6)
    noise = np.random.default_rng(0).normal(size=(32, 32))
    explainer.engines[0] = OrderEngine(**{**vars(engine), "start": lambda view, question: noise})
    other = explainer.explain(picture, target=TARGET).grids[0]
    blank = noise.reshape(8, 4, 8, 4).sum(axis=(1, 3))
    assert hiding.gain(other, TARGET) > hiding.gain(blank, TARGET) + 0.2


def linear_model(path: Path, weights: np.ndarray) -> DeployedModel:
    """Logits that are sums of pixels: log-odds of one class against another are one, too."""
    nodes = [
        helper.make_node("Conv", ["input", "w"], ["colours"], kernel_shape=[1, 1]),
        helper.make_node("Flatten", ["colours"], ["flat"]),
        helper.make_node("Gemm", ["flat", "v"], ["logits"], transB=1),
    ]
    mixed = {"w": np.eye(3, dtype=np.float32)[:, :, None, None], "v": weights.reshape(5, -1).astype(np.float32)}
    metadata = {"preprocess": tiny.PREPROCESS, "labels": tiny.LABELS}
    return DeployedModel(tiny.save(tiny.make_model(nodes, mixed, metadata=metadata), path), device="cpu")


@pytest.mark.usefixtures("small_cells")
def test_a_linear_model_gets_its_exact_bits(tmp_path, picture, rng):
    weights = np.stack([cv2.resize(each, (32, 32)) for each in rng.normal(size=(5, 4, 4, 3)).astype(np.float32)])
    weights = weights.transpose(0, 3, 1, 2) / 300
    model = linear_model(tmp_path / "linear.onnx", weights)
    evidence, hiding = explain(model, picture, versus=RIVAL), Hiding(model, picture, RIVAL)
    removed = hiding.inputs - np.mean(hiding.backgrounds, axis=0)
    exact = ((weights[TARGET] - weights[RIVAL]) * removed).sum(axis=0).reshape(8, 4, 8, 4).sum(axis=(1, 3)) / LN2
    cells = evidence.grids[0].astype(np.float64)
    assert agreement(cells, exact) > 0.8
    bits = exact.ravel()[np.argsort(-cells, axis=None)].reshape(LEVELS, 2).sum(axis=1)
    assert check_falling(-np.sort(-cells, axis=None), bits.tolist(), [2] * LEVELS, atol=1e-4) > 5
    # The control: hidden behind something else it has other bits, to an account of its own.
    grey = explain(model, picture, versus=RIVAL, background="zero")
    assert abs(grey.budget.without - evidence.budget.without) > 0.1
    assert np.abs(grey.grids[0] - cells).max() > 0.05 * np.abs(cells).max()


@pytest.mark.parametrize("background", ["blur+mean", "zero", "blur", "mean"])
def test_the_budget_has_no_gap_and_survives_the_way_to_the_photograph(background, deployed, picture):
    photograph = cv2.resize(picture, (300, 400))
    evidence, hiding = explain(deployed, photograph, background=background), Hiding(deployed, photograph)
    budget = evidence.budget
    hidden = {"blur+mean": hiding.backgrounds, "zero": [0 * hiding.inputs]}
    hidden |= {"blur": hiding.backgrounds[:1], "mean": hiding.backgrounds[1:]}
    logits = deployed.logits(np.stack([hiding.inputs, *hidden[background]]).astype(np.float32))
    full, *without = odds_of(logits, TARGET, None)
    assert (budget.with_features, budget.without) == pytest.approx((full, np.mean(without)), abs=1e-4)
    assert budget.gap == pytest.approx(0, abs=1e-9)
    assert abs(full - np.mean(without)) > 0.5
    assert budget.steps == 2 * ROUNDS * FRONTS
    cells = evidence.grids[0]
    assert budget.supporting == pytest.approx(cells[cells > 0].sum(), abs=1e-4)
    assert budget.opposing == pytest.approx(cells[cells < 0].sum(), abs=1e-4)
    for each in (cells, evidence.values, evidence.pixels):
        assert each.sum(dtype=np.float64) == pytest.approx(full - np.mean(without), abs=1e-3)
    assert evidence.unit == "bits per pixel"
    assert np.isnan(evidence.stderr).all()
    assert not evidence.sampled
    seen = evidence.placement.seen()
    assert seen[0] > 0  # the control: cropped pixels are there, and have nothing
    assert not evidence.pixels[: int(seen[0]) - 1].any()


def test_the_seed_decides_and_the_size_of_batches_does_not(deployed, picture, small_cells):
    first, again, other = (explain(deployed, picture, seed=seed).values for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3 * np.abs(first).max()
    assert agreement(first, other) > 0.9
    for size in (1, 5, 100):
        np.testing.assert_allclose(explain(deployed, picture, batch_size=size).values, first, atol=1e-6)


def test_classes_are_explained_by_themselves_and_progress_counts_gradients(deployed, picture):
    explainer, done = Explainer(deployed, method="ordered", batch_size=3), []
    several = explainer.explain_all(picture, [0, 3], progress=done.append)
    assert sum(done) == explainer.rows(2) == 2 * 2 * ROUNDS * FRONTS
    for evidence, target in zip(several, (0, 3), strict=True):
        np.testing.assert_array_equal(evidence.values, explain(deployed, picture, target, batch_size=3).values)
    assert np.abs(several[0].values - several[1].values).max() > 1e-3
    (cut,) = several[0].record["cuts"]
    expected = {"name": "input", "cells": [4, 4], "gradients": 640 // 2, "levels": 16, "certificate": 0.0}
    assert {key: cut[key] for key in expected} == expected
    assert several[0].record["background"] == "the blurred picture's, and the picture's own channel means"
    assert explainer.engines[0].summary() == "4 x 4 cells ordered by 320 gradients, 16 level sets"


@pytest.mark.usefixtures("small_cells")
def test_one_class_rather_than_another_is_the_opposite_of_the_other_way_round(deployed, picture):
    one, other, third = (explain(deployed, picture, a, b) for a, b in ((1, 3), (3, 1), (1, 2)))
    assert one.budget.with_features == pytest.approx(-other.budget.with_features, abs=1e-9)
    assert one.budget.without == pytest.approx(-other.budget.without, abs=1e-9)
    # Shares are drawn, and their mirror images are not: the orders are opposite but for that.
    assert agreement(one.grids[0], -other.grids[0]) > 0.95
    assert np.corrcoef(one.values.ravel(), -other.values.ravel())[0, 1] > 0.95
    assert agreement(one.grids[0], third.grids[0]) < 0.9


def shifted(path: Path, bits: float, factor: float = 1.0) -> DeployedModel:
    """The tiny classifier, with the logit of the target moved and all of them stretched."""
    model = tiny.classifier()
    for each in model.graph.initializer:
        if each.name in ("w6", "b6"):
            values = numpy_helper.to_array(each) * np.float32(factor)
            if each.name == "b6":
                values[TARGET] += bits * LN2
            each.CopyFrom(numpy_helper.from_array(values.astype(np.float32), each.name))
    return DeployedModel(tiny.save(model, path), device="cpu")


@pytest.mark.usefixtures("small_cells")
def test_a_class_of_hardly_any_probability_gets_the_map_of_one_of_more(deployed, picture, tmp_path, monkeypatch):
    low = shifted(tmp_path / "low.onnx", -2000)
    evidence, plain = explain(low, picture), explain(deployed, picture)
    assert evidence.probability == 0
    assert max(plain.budget.with_features, plain.budget.without) < 0  # undecided is what comes nearest, in both
    assert evidence.budget.with_features == pytest.approx(plain.budget.with_features - 2000, abs=1e-2)
    assert agreement(evidence.grids[0], plain.grids[0]) > 0.98
    assert np.corrcoef(evidence.values.ravel(), plain.values.ravel())[0, 1] > 0.99
    # The control: where even odds count as undecided, nothing is ever decided, and the order stays where it was.
    monkeypatch.setattr(ordered, "_level", lambda *arguments: 0.0)
    start = Explainer(low, background="blur+mean", combine="mean").explain(picture, target=TARGET)
    stuck = explain(low, picture).grids[0]
    cells = start.values.reshape(8, 4, 8, 4).sum(axis=(1, 3))
    assert agreement(stuck, cells) > 0.999 > agreement(evidence.grids[0], cells)


def test_a_model_of_huge_logits_gets_a_map(picture, tmp_path):
    """Odds of many thousand bits; numbers that overflow on the way would be warned of."""
    evidence = explain(shifted(tmp_path / "huge.onnx", 0, 3000), picture)
    assert abs(evidence.budget.with_features) > 1e4
    assert np.isfinite(evidence.values).all()
    assert evidence.budget.gap == pytest.approx(0, abs=1e-6)


# What is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": "deep.add"}, "method 'ordered' works on pixels, so it takes no layer: drop --layer"),
        ({"layer": "deep"}, "takes no layer"),
        ({"background": "fitted.npz"}, r"removes pixels, not features: fitted.npz is no background .* blur\+mean"),
        ({"background": "FOLDER"}, "is no background for it; take mean, zero"),
        ({"samples": 8}, "method 'ordered' has no use for --samples: drop it"),
        ({"score": "logit"}, "no use for --score"),
        ({"statistic": "channel"}, "no use for --statistic"),
        ({"project": "backward"}, "no use for --project"),
        ({"window": 3}, "no use for --window"),
        ({"stride": 3}, "no use for --stride"),
        ({"laplace": (3, 5)}, "no use for --laplace"),
        ({"tolerance": 0.1}, "no use for --tolerance"),
    ],
)
def test_what_the_method_has_no_use_for_is_refused(options, message, deployed, tmp_path):
    options = {name: str(tmp_path) if value == "FOLDER" else value for name, value in options.items()}
    with pytest.raises(SettingError, match=message):
        Explainer(deployed, method="ordered", **options)


def test_a_model_without_a_backward_rule_is_refused_and_auto_falls_back(tmp_path):
    model = DeployedModel(tiny.accumulating(tmp_path / "accumulating.onnx"), device="cpu")
    with pytest.raises(GradientError, match=r"^no backward rule for Scan \(at 'summed'\)"):
        Explainer(model, method="ordered")
    for options in ({}, {"quality": "best"}, {"quality": "fast"}):
        explainer = Explainer(model, **options)
        assert explainer.settings.method == "window"
        assert "no backward rule for Scan (at 'summed')" in explainer.reason


def test_a_start_from_a_split_that_is_not_exact_is_refused(tiny_model, picture, monkeypatch):
    """The start is integrated at hidden cuts, and says so where the model does not split there."""
    wrong = DeployedModel(tiny_model, device="cpu")
    heads = wrong.heads

    def off(cuts):
        found = heads(cuts)
        look = found.look
        found.look = lambda inputs: [each * np.float32(1.01) for each in look(inputs)]
        return found

    monkeypatch.setattr(wrong, "heads", off)
    with pytest.raises(CutError, match=r"layer 'block.add': the model split there differs from the whole"):
        explain(wrong, picture)


def test_two_backgrounds_that_are_always_the_same_are_no_sample(deployed, picture, tmp_path):
    integrated = Explainer(deployed, background="blur+mean", combine="mean").explain(picture, target=TARGET)
    assert np.isnan(integrated.stderr).all()
    singles = [
        Explainer(deployed, background=each, combine="mean").explain(picture, target=TARGET).values
        for each in ("blur", "mean")
    ]
    np.testing.assert_allclose(integrated.values, np.mean(singles, axis=0), atol=1e-6)
    assert np.abs(singles[0] - singles[1]).max() > 1e-3
    for number in range(2):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.rot90(picture, number))
    drawn = Explainer(deployed, method="integrated", background=str(tmp_path), samples=2)
    assert np.isfinite(drawn.explain(picture, target=TARGET).stderr).all()  # the control: these are one
