"""The numerical oracles O1 to O10 and O14 to O17 of the method, each with a negative control."""

from pathlib import Path

import numpy as np
import pytest

from onnx_evidence import DeployedModel
from onnx_evidence.evidence.background import Background, window_in_patch
from onnx_evidence.evidence.difference import Removal, remove_windows, window_evidence
from onnx_evidence.evidence.field import AxisField, CellField
from onnx_evidence.evidence.odds import LN2, LogProbability, laplace, log_probabilities
from onnx_evidence.evidence.rng import generator
from onnx_evidence.evidence.samplers import ConditionalSampler, MeanSampler, ZeroSampler
from onnx_evidence.evidence.windows import Windows
from onnx_evidence.sessions.runtime import Classifier, Device, Session
from tests import oracles

CHANNELS, SIDE, CLASSES = 6, 5, 7
NULL = CLASSES - 1


class IdentitySampler(ZeroSampler):
    """Puts back what was there."""

    def draw(self, features, site, size, count, key):
        (row, col), (rows, cols) = site, size
        return np.repeat(features[None, :, row : row + rows, col : col + cols], count, axis=0)


@pytest.fixture
def linear(rng: np.random.Generator):
    """A GAP+linear tail whose last class has logit 0, with features and weights in float64."""
    weights, bias = rng.normal(size=(CLASSES, CHANNELS)) * 3, rng.normal(size=CLASSES)
    weights[NULL], bias[NULL] = 0, 0
    features = rng.normal(size=(CHANNELS, SIDE, SIDE))
    return weights, bias, features, oracles.gap_linear(weights, bias)


@pytest.fixture
def relu(rng: np.random.Generator):
    """A ReLU tail, whose last class has logit 0, and features."""
    return oracles.ReluTail(rng, CHANNELS, 12, CLASSES), rng.normal(size=(CHANNELS, SIDE, SIDE))


def background(rng: np.random.Generator, patch: int, shape: tuple[int, int, int]) -> Background:
    """A background with a random covariance per channel, and a range that clips nothing."""
    size = patch * patch
    roots = rng.normal(size=(shape[0], size, size)) / np.sqrt(size)
    covariance = roots @ roots.transpose(0, 2, 1) + 0.1 * np.eye(size)
    wide = np.full(shape[0], 1e6)
    return Background(patch, rng.normal(size=shape), covariance, -wide, wide)


def remove(features, predict, sampler, size, classes=range(CLASSES), **settings) -> Removal:
    windows = Windows.place(features.shape[1:], size)
    return remove_windows(features, predict, sampler, windows, list(classes), **settings)


def logit_difference(removal: Removal, c: int) -> np.ndarray:
    """Activation difference of logit c: contrast in nats with a class whose logit is 0 always."""
    return window_evidence(removal, c, NULL).bits * LN2


def test_o1_zero_removal_of_a_linear_tail_is_cam_hirescam_and_gradcam(linear):
    weights, bias, h, predict = linear
    removal = remove(h, predict, ZeroSampler(), 1)
    for c in range(NULL):
        difference = logit_difference(removal, c)
        cam = np.einsum("k,kij->ij", weights[c], h) / SIDE**2
        gradient = np.repeat(weights[c] / SIDE**2, SIDE**2).reshape(h.shape)
        hirescam = (gradient * h).sum(axis=0)
        gradcam = np.einsum("k,kij->ij", gradient.mean(axis=(1, 2)), h)
        for expected in (cam, hirescam, gradcam):
            np.testing.assert_allclose(difference, expected, rtol=0, atol=1e-12)
        assert difference.sum() == pytest.approx(predict(h[None])[0, c] - bias[c], abs=1e-12)


def test_o1_negative_control_a_relu_tail_is_not_its_cam(relu):
    tail, h = relu
    difference = logit_difference(remove(h, tail, ZeroSampler(), 1), 0)
    gradient = tail.gradient(h, np.eye(CLASSES)[0])
    assert np.abs(difference - (gradient * h).sum(axis=0)).max() > 1e-3


def test_o1_on_the_real_tail(lite0: Path, rng: np.random.Generator):
    deployed = DeployedModel(lite0, device="cpu")
    cut = deployed.graph.find("head.relu6")
    h = deployed.head(cut)(rng.normal(size=(1, 3, 224, 224)).astype(np.float32))[0]
    removal = remove(h, deployed.tail(cut), ZeroSampler(), 1, classes=(3, 8))
    constants = {name: value for name, value in _constants(deployed) if name == "logits.weight"}
    cam = np.einsum("dk,kij->dij", constants["logits.weight"][[3, 8]].astype(np.float64), h) / 49
    difference = window_evidence(removal, 0, 1).bits * LN2
    np.testing.assert_allclose(difference, cam[0] - cam[1], rtol=0, atol=1e-5)


def _constants(deployed: DeployedModel):
    from onnx import numpy_helper

    for tensor in deployed.model.proto.graph.initializer:
        yield tensor.name, numpy_helper.to_array(tensor)


@pytest.mark.parametrize("samples", [2, 4, 10])
def test_o2_antithetic_pairs_are_exact_for_a_linear_tail(linear, rng, samples: int):
    weights, _, h, predict = linear
    sampler = ConditionalSampler(background(rng, 3, h.shape))
    removal = remove(h, predict, sampler, 1, samples=samples)
    mean = np.stack([sampler.conditional(h, site, (1, 1))[0][:, 0] for site in removal.windows.sites()])
    logit = removal.samples.log_p - removal.samples.log_p[..., [NULL]]
    full = removal.full.log_p - removal.full.log_p[NULL]
    difference = (full - logit).mean(axis=1)
    expected = (h.reshape(CHANNELS, -1).T - mean) @ weights.T / SIDE**2
    np.testing.assert_allclose(difference, expected, rtol=0, atol=1e-10)


def test_o2_negative_control_single_draws_are_not_exact(linear, rng):
    _, _, h, predict = linear
    sampler = ConditionalSampler(background(rng, 3, h.shape))
    removal = remove(h, predict, sampler, 1, samples=2)
    first = removal.samples.log_p[:, 0] - removal.samples.log_p[:, 0, [NULL]]
    both = (removal.samples.log_p - removal.samples.log_p[..., [NULL]]).mean(axis=1)
    assert np.abs(first - both).max() > 1e-3


def test_o3_two_classes_give_the_difference_of_their_cams(rng):
    weights, h = rng.normal(size=(2, CHANNELS)) * 3, rng.normal(size=(CHANNELS, SIDE, SIDE))
    removal = remove(h, oracles.gap_linear(weights, np.zeros(2)), ZeroSampler(), 1, classes=(0, 1))
    expected = np.einsum("k,kij->ij", weights[0] - weights[1], h) / SIDE**2
    np.testing.assert_allclose(window_evidence(removal, 0).bits * LN2, expected, rtol=0, atol=1e-10)
    np.testing.assert_allclose(window_evidence(removal, 1).bits, -window_evidence(removal, 0).bits, atol=1e-12)


def test_o3_negative_control_a_third_class_competes(linear):
    weights, _, h, predict = linear
    removal = remove(h, predict, ZeroSampler(), 1)
    expected = np.einsum("k,kij->ij", weights[0] - weights[1], h) / SIDE**2
    assert np.abs(window_evidence(removal, 0).bits * LN2 - expected).max() > 1e-2


def test_o4_log_odds_agree_with_400_digits():
    for gap in (-700.0, -40.0, -1.0, 0.0, 0.3, 22.0, 40.0, 700.0):
        logits = np.array([[gap, 0.0, -1.0, 0.5]])
        assert log_probabilities(logits, [0]).log_odds[0, 0] == pytest.approx(
            oracles.exact_log_odds(logits[0], 0), rel=1e-12
        )


def test_o4_log_odds_are_finite_and_monotone_and_know_p():
    odds = [log_probabilities(np.array([[gap, 0.0]]), [0]).log_odds[0, 0] for gap in np.linspace(-700, 700, 141)]
    assert np.isfinite(odds).all()
    assert (np.diff(odds) > 0).all()
    logits = np.log(np.array([[0.3, 0.5, 0.2]]))
    assert log_probabilities(logits, [0]).log_odds[0, 0] == pytest.approx(np.log(0.3 / 0.7), abs=1e-14)


def test_o4_negative_control_probabilities_in_float32_lose_the_odds():
    p = np.float32(1 / (1 + np.exp(-40.0)))
    assert p == 1.0


def test_o4_a_constant_on_all_logits_changes_nothing(relu):
    tail, h = relu
    plain = window_evidence(remove(h, tail, MeanSampler(), 2), 1).bits
    shifted = window_evidence(remove(h, lambda x: tail(x) + 123.0, MeanSampler(), 2), 1).bits
    np.testing.assert_allclose(shifted, plain, atol=1e-10)


def test_o5_log_odds_gradient_is_grad_p_over_p_one_minus_p(relu, rng):
    tail, h = relu
    direction = rng.normal(size=h.shape)

    def both(t: float) -> LogProbability:
        return log_probabilities(tail((h + t * direction)[None]), [2])

    step = 1e-5
    slope_odds = (both(step).log_odds - both(-step).log_odds)[0, 0] / (2 * step)
    p = float(np.exp(both(0).log_p[0, 0]))
    slope_p = (np.exp(both(step).log_p) - np.exp(both(-step).log_p))[0, 0] / (2 * step)
    assert slope_odds == pytest.approx(slope_p / (p * (1 - p)), rel=1e-5)
    analytic = (tail.gradient(h, oracles.log_odds_cotangent(tail(h[None])[0], 2)) * direction).sum()
    assert slope_odds == pytest.approx(analytic, rel=1e-5)
    assert slope_odds != pytest.approx(slope_p, rel=0.1)  # the control: the factor p(1 - p) matters


def test_o6_small_steps_of_a_relu_tail_are_linear_until_a_switch(relu):
    tail, h = relu
    site = np.s_[:, 1:3, 2:4]
    towards = np.zeros_like(h)
    towards[site] = h[site] - h.mean(axis=(1, 2))[:, None, None]

    def slope(epsilon: float) -> float:
        return float((tail(h[None]) - tail((h - epsilon * towards)[None]))[0, 0] / epsilon)

    before = np.einsum("hc,cij->hij", tail.a, h) + tail.b[:, None, None]
    change = np.einsum("hc,cij->hij", tail.a, towards)
    with np.errstate(divide="ignore", invalid="ignore"):
        first = np.nanmin(np.where(before / change > 0, before / change, np.nan))
    assert slope(first * 0.9) == pytest.approx(slope(first * 0.1), rel=1e-4)
    assert abs(slope(1.0) / slope(first * 0.1) - 1) > 1e-3  # the control: full removal crosses switches


def test_o6_full_removal_is_the_path_integral_over_its_window(relu):
    tail, h = relu
    removal = remove(h, tail, MeanSampler(), 2)
    evidence = window_evidence(removal, 3).bits
    mean = h.mean(axis=(1, 2))[:, None, None]
    for number, (row, col) in enumerate(removal.windows.sites()):
        path = np.zeros_like(h)
        path[:, row : row + 2, col : col + 2] = (h - mean)[:, row : row + 2, col : col + 2]
        points = h[None] - (1 - (np.arange(2000) + 0.5) / 2000)[:, None, None, None] * path
        logits = tail(points)
        slopes = [
            (tail.gradient(point, oracles.log_odds_cotangent(z, 3)) * path).sum()
            for point, z in zip(points, logits, strict=True)
        ]
        assert evidence.ravel()[number] * LN2 == pytest.approx(np.mean(slopes), rel=1e-3, abs=1e-6)
        if number == 5:
            break


def test_o7_sampler_has_the_conditional_mean_and_covariance(rng):
    fitted = background(rng, 4, (2, 9, 11))
    h = rng.normal(size=(2, 9, 11))
    sampler = ConditionalSampler(fitted)
    site, size, count = (3, 5), (2, 2), 100_000
    drawn = sampler.draw(h, site, size, count, (0,)).reshape(count, 2, 4)
    around = h[:, 2:6, 4:8] - fitted.mean[:, 2:6, 4:8]
    inside = window_in_patch(4, size, (1, 1))
    for channel in range(2):
        covariance = _with_ridge(fitted.covariance[channel], inside)
        shift, expected = oracles.conditional_by_precision(covariance, inside, around[channel].ravel()[~inside])
        mean = fitted.mean[channel, 3:5, 5:7].ravel() + shift
        # Antithetic pairs make the mean exact; a sampler off by the ring's shift would miss it by far.
        np.testing.assert_allclose(drawn[:, channel].mean(axis=0), mean, atol=1e-6)
        assert np.abs(shift).max() > 0.05
        sample = np.cov(drawn[::2, channel].T)
        assert np.linalg.norm(sample - expected) / np.linalg.norm(expected) < 0.02


def _with_ridge(covariance: np.ndarray, inside: np.ndarray) -> np.ndarray:
    from onnx_evidence.evidence.background import RIDGE

    context = np.flatnonzero(~inside)
    ridged = covariance.copy()
    ridged[context, context] += RIDGE * covariance[context, context].mean()
    return ridged


def test_o7_independent_features_are_drawn_from_their_marginal(rng):
    shape = (1, 8, 8)
    wide = np.full(1, 1e6)
    independent = Background(4, rng.normal(size=shape), np.eye(16)[None] * 2.0, -wide, wide)
    h = rng.normal(size=shape)
    mean, factor = ConditionalSampler(independent).conditional(h, (3, 3), (2, 2))
    np.testing.assert_allclose(mean[0], independent.mean[0, 3:5, 3:5].ravel(), atol=1e-12)
    np.testing.assert_allclose(factor[0] @ factor[0].T, 2 * np.eye(4), atol=1e-12)


def test_o7_without_context_the_draw_is_marginal(rng):
    fitted = background(rng, 3, (2, 7, 7))
    mean, factor = ConditionalSampler(fitted).conditional(rng.normal(size=(2, 7, 7)), (2, 2), (3, 3))
    np.testing.assert_allclose(mean, fitted.mean[:, 2:5, 2:5].reshape(2, -1), atol=1e-12)
    np.testing.assert_allclose(factor @ factor.transpose(0, 2, 1), fitted.covariance, atol=1e-10)


def test_o7_what_the_ring_predicts_perfectly_carries_no_evidence(rng):
    shape = (1, 6, 6)
    wide = np.full(1, 1e6)
    constant = Background(4, np.zeros(shape), np.ones((1, 16, 16)), -wide, wide)
    h = np.full(shape, 0.7)
    predict = oracles.gap_linear(np.array([[3.0], [-2.0]]), np.zeros(2))
    conditional = remove(h, predict, ConditionalSampler(constant), 2, classes=(0, 1), samples=4)
    assert np.abs(window_evidence(conditional, 0).bits).max() < 1e-3
    zero = remove(h, predict, ZeroSampler(), 2, classes=(0, 1))
    assert np.abs(window_evidence(zero, 0).bits).max() > 0.1  # the control: removal does matter here


def test_o8_putting_back_what_was_there_is_no_evidence(lite0: Path, rng):
    deployed = DeployedModel(lite0, device="cpu")
    x = rng.normal(size=(3, 224, 224)).astype(np.float32)
    cut = deployed.graph.find("block13.add")
    h, tail = deployed.head(cut)(x[None])[0], deployed.tail(cut)
    removal = remove(h, tail, IdentitySampler(), 3, classes=(0, 1))
    assert np.abs(window_evidence(removal, 0).bits).max() < 1e-5
    np.testing.assert_allclose(tail(h[None]), deployed.logits(x[None]), rtol=0, atol=1e-4)
    moved = remove(h, tail, MeanSampler(), 3, classes=(0, 1))
    assert np.abs(window_evidence(moved, 0).bits).max() > 1e-3


def test_o9_a_place_that_the_tail_ignores_has_no_evidence(rng):
    seen = np.ones((SIDE, SIDE))
    seen[:, 3:] = 0
    weights = rng.normal(size=(3, CHANNELS)) * 5
    h = rng.normal(size=(CHANNELS, SIDE, SIDE))

    def predict(x: np.ndarray) -> np.ndarray:
        return (x * seen).mean(axis=(2, 3)) @ weights.T

    bits = window_evidence(remove(h, predict, ZeroSampler(), 1, classes=range(3)), 0).bits
    assert (bits[:, 3:] == 0).all()
    assert (np.abs(bits[:, :3]) > 1e-6).all()


def test_o10_batch_size_and_order_change_nothing(relu, rng):
    tail, h = relu
    sampler = ConditionalSampler(background(rng, 3, h.shape))
    maps = [
        window_evidence(remove(h, tail, sampler, 2, samples=6, key=(4, 5), batch_size=size), 1).bits
        for size in (1, 7, 64)
    ]
    np.testing.assert_allclose(maps[0], maps[1], atol=1e-10)
    np.testing.assert_allclose(maps[0], maps[2], atol=1e-10)
    windows = Windows.place(h.shape[1:], 2)
    backwards = Windows(windows.grid, windows.size, windows.rows[::-1], windows.cols[::-1])
    reversed_map = window_evidence(
        remove_windows(h, tail, sampler, backwards, list(range(CLASSES)), samples=6, key=(4, 5)), 1
    ).bits
    np.testing.assert_allclose(reversed_map[::-1, ::-1], maps[0], atol=1e-10)
    again = window_evidence(remove(h, tail, sampler, 2, samples=6, key=(4, 5), batch_size=7), 1).bits
    np.testing.assert_array_equal(again, maps[1])
    other = window_evidence(remove(h, tail, sampler, 2, samples=6, key=(5, 5)), 1).bits
    assert np.abs(other - maps[0]).max() > 1e-4  # the control: the seed does matter


def test_o10_threads_and_batches_of_the_runtime_change_nothing(lite0: Path, rng):
    deployed = DeployedModel(lite0, device="cpu")
    cut = deployed.graph.find("block13.add")
    head, tail = deployed.graph.split(cut)
    cpu = Device("cpu", "test")
    h = Session(head, cpu).run(rng.normal(size=(1, 3, 224, 224)).astype(np.float32))[0]
    sampler = ConditionalSampler(background(rng, 5, cut.shape))
    windows = Windows.place(cut.grid, 3, 2)
    maps = []
    for threads, batch in ((1, 1), (1, 64), (2, 1), (2, 64)):
        predict = Classifier(Session(tail, cpu, threads=threads))
        removal = remove_windows(h, predict, sampler, windows, [7], samples=2, batch_size=batch)
        maps.append(window_evidence(removal, 0).bits)
    for each in maps[1:]:
        np.testing.assert_allclose(each, maps[0], rtol=0, atol=1e-4)


def test_o10_a_mirrored_picture_gives_the_mirrored_map(relu):
    tail, h = relu
    bits = window_evidence(remove(h, tail, MeanSampler(), 2), 1).bits
    mirrored = window_evidence(remove(h[:, :, ::-1].copy(), tail, MeanSampler(), 2), 1).bits
    np.testing.assert_allclose(mirrored[:, ::-1], bits, atol=1e-10)
    assert np.abs(mirrored - bits).max() > 1e-3


def test_o14_laplace_correction_gives_the_published_numbers():
    def bits(p: float) -> float:
        pair = LogProbability(np.log(np.array(p)), np.log(np.array(1 - p)))
        return float(laplace(pair, 100_000, 1000).log_odds / LN2)

    assert bits(0.999) == pytest.approx(6.51, abs=0.005)
    nearly_one = LogProbability(np.array(-1e-300), np.array(-690.0))
    assert float(laplace(nearly_one, 100_000, 1000).log_odds / LN2) == pytest.approx(6.645, abs=0.0005)
    nearly_zero = LogProbability(np.array(-690.0), np.array(-1e-300))
    assert float(laplace(nearly_zero, 100_000, 1000).log_odds / LN2) == pytest.approx(-16.62, abs=0.01)
    # By hand, from the formula: p = 0.3 becomes (30000 + 1) / 101000.
    assert bits(0.3) == pytest.approx(np.log2(30_001 / 70_999), abs=1e-12)
    assert abs(bits(0.999) - np.log2(999)) > 3  # the control: without it there are 9.96 bits


def test_o14_the_engine_corrects_after_averaging(relu, rng):
    tail, h = relu
    removal = remove(h, tail, ConditionalSampler(background(rng, 3, h.shape)), 1, samples=4)
    bits = window_evidence(removal, 2, correction=(1000, CLASSES)).bits.ravel()
    p = np.exp(removal.samples.log_p[..., 2]).mean(axis=1)
    full = np.exp(removal.full.log_p[2])
    corrected = [(x * 1000 + 1) / (1000 + CLASSES) for x in (full, p)]
    expected = np.log2(corrected[0] / (1 - corrected[0])) - np.log2(corrected[1] / (1 - corrected[1]))
    np.testing.assert_allclose(bits, expected, atol=1e-10)
    assert np.abs(bits - window_evidence(removal, 2).bits.ravel()).max() > 1e-4


def test_o15_projection_keeps_constants_and_places_cells(rng):
    centre_rows = (np.arange(7) + 0.5) * 32 + rng.uniform(-4, 4, size=7)
    centre_cols = (np.arange(10) + 0.5) * 16 + 2.7
    field = CellField(
        AxisField(224, centre_rows, np.full(7, 20.0)),
        AxisField(160, centre_cols, np.full(10, 12.0)),
    )
    constant = field.to_input(np.full((7, 10), 1.7))
    assert constant.shape == (224, 160)
    np.testing.assert_allclose(constant, 1.7, atol=1e-12)
    for row, col in ((3, 4), (2, 7), (5, 1)):
        one = np.zeros((7, 10))
        one[row, col] = 1
        spread = field.to_input(one)
        place = [
            (spread.sum(axis=1 - axis) * (np.arange(spread.shape[axis]) + 0.5)).sum() / spread.sum() for axis in (0, 1)
        ]
        assert abs(place[0] - centre_rows[row]) < 0.5 * 32
        assert abs(place[1] - centre_cols[col]) < 0.5 * 16
        peak = np.unravel_index(spread.argmax(), spread.shape)
        assert abs(peak[0] + 0.5 - centre_rows[row]) < 0.5 * 32
        assert abs(peak[1] + 0.5 - centre_cols[col]) < 0.5 * 16


def test_o16_the_cut_at_the_input_is_pixel_space_prediction_difference_analysis(rng):
    image = rng.normal(size=(2, 24, 24))
    fitted = background(rng, 14, image.shape)
    fitted = Background(14, fitted.mean, fitted.covariance, np.full(2, -1.5), np.full(2, 1.5))
    mixing = rng.normal(size=(3, 2, 24, 24)) / 10

    def predict(x: np.ndarray) -> np.ndarray:
        return np.tanh(np.einsum("kcij,ncij->nk", mixing, x)) * 2

    removal = remove(image, predict, ConditionalSampler(fitted), 10, classes=(0, 1, 2), samples=10, key=(3, 1))
    ours = removal.windows.average(window_evidence(removal, 1).bits)
    theirs = oracles.pixel_pda(image, predict, fitted, 1, k=10, samples=10, key=(3, 1))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)
    published_mistake = oracles.pixel_pda(
        image, predict, fitted, 1, k=10, samples=10, key=(3, 1), gain_channel=lambda channel: 0
    )
    assert np.abs(ours - published_mistake).max() > 1e-4


def test_o17_overlaps_are_counted_right():
    windows = Windows.place((6, 7), 3)
    ones = np.zeros(windows.shape)
    counts = np.zeros((6, 7))
    for number, (row, col) in enumerate(windows.sites()):
        ones.ravel()[number] = number + 1
        counts[row : row + 3, col : col + 3] += 1
    assert counts[0, 0] == counts[5, 6] == 1
    assert counts[3, 3] == 9
    covering = (windows.row_weights > 0).sum(axis=1)[:, None] * (windows.col_weights > 0).sum(axis=1)[None, :]
    np.testing.assert_array_equal(covering, counts)
    slow = np.zeros((6, 7))
    for number, (row, col) in enumerate(windows.sites()):
        slow[row : row + 3, col : col + 3] += number + 1
    np.testing.assert_allclose(windows.average(ones), slow / counts, atol=1e-12)


def test_o17_single_cells_are_their_own_average(rng):
    windows = Windows.place((4, 5), 1)
    values = rng.normal(size=(4, 5))
    np.testing.assert_array_equal(windows.average(values), values)


def test_randomness_belongs_to_a_place():
    assert generator(0, 1, 2, 3).standard_normal() == generator(0, 1, 2, 3).standard_normal()
    assert generator(0, 1, 2, 3).standard_normal() != generator(0, 1, 3, 2).standard_normal()
