"""Oracle O13: intervals cover the truth as often as they say, and few samples are off by what METHOD 1.7 predicts."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from onnx_evidence.evidence.background import Background
from onnx_evidence.evidence.difference import Draws, Removal, WindowEvidence, remove_windows, window_evidence
from onnx_evidence.evidence.field import AxisField, CellField
from onnx_evidence.evidence.intervals import half_width
from onnx_evidence.evidence.odds import LN2, LogProbability, mean_over_samples, weight_of_evidence
from onnx_evidence.evidence.samplers import ConditionalSampler
from onnx_evidence.evidence.sequential import Asked, Sampled, sample_windows
from onnx_evidence.evidence.windows import Windows
from tests import oracles
from tests.test_evidence import NoiseSampler

WINDOWS = Windows.place((4, 4), 2, 2)
REPLICATES = 500
LOOKS = (4, 8, 16, 32)


class Jitter(NoiseSampler):
    """Antithetic noise that is small enough for errors of a tenth of a bit or so, as real ones are."""

    scale = 0.2

    def draw(self, features, site, size, count, key):
        return self.scale * super().draw(features, site, size, count, key)


class Setting:
    """A curved toy tail whose first class has about a given log-odds in nats, and features.

    Windows have 64 numbers, so that the errors of pairs are not far from normal, as with real features.
    """

    def __init__(self, log_odds: float = 0.0) -> None:
        rng = np.random.default_rng(3)
        self.tail = oracles.ReluTail(rng, 16, 24, 3)
        self.features = rng.normal(size=(16, 4, 4))
        self.shift = np.zeros(3)
        self.shift[0] = log_odds - oracles.exact_log_odds(self.tail(self.features[None])[0], 0)

    def predict(self, h: np.ndarray) -> np.ndarray:
        return self.tail(h) + self.shift

    def remove(self, seed: int, pairs: int) -> Removal:
        return remove_windows(
            self.features, self.predict, Jitter(), WINDOWS, [0, 1],
            samples=2 * pairs, key=(seed,), batch_size=1024,
        )  # fmt: skip

    def draws(self, seed: int) -> Draws:
        return Draws(self.features, self.predict, Jitter(), WINDOWS.size, [0, 1], (seed,), 1024, lambda copies: None)


@cache
def many(log_odds: float) -> tuple[Removal, Removal]:
    """One run for the truth, and one that is cut into replicates: no pair knows of any other."""
    setting = Setting(log_odds)
    return setting.remove(1, 12_000), setting.remove(2, 32 * REPLICATES)


def replicates(removal: Removal, pairs: int) -> Removal:
    """Every window REPLICATES times, as windows of their own (window by window)."""
    classes = removal.samples.log_p.shape[-1]
    parts = (
        each.reshape(len(removal.windows), REPLICATES, -1, classes)[:, :, : 2 * pairs].reshape(-1, 2 * pairs, classes)
        for each in removal.samples
    )
    rows = len(removal.windows) * REPLICATES
    return Removal(Windows.place((rows, 1), 1), removal.full, LogProbability(*parts))


def coverage(evidence: WindowEvidence, truth: np.ndarray, looks: int = 1) -> float:
    """Share of replicates whose interval holds the truth."""
    error = np.abs(evidence.bits.reshape(truth.size, -1) - truth.reshape(-1, 1)).ravel()
    return float(np.mean(error <= half_width(evidence.error, evidence.freedom, looks=looks).ravel()))


@pytest.mark.parametrize("pairs", [8, 16])
@pytest.mark.parametrize(("log_odds", "versus"), [(-9.0, None), (0.0, None), (9.0, None), (0.0, 1)])
def test_o13_intervals_cover_92_to_98_times_of_100(log_odds, versus, pairs):
    long, short = many(log_odds)
    truth = window_evidence(long, 0, versus).bits
    found = window_evidence(replicates(short, pairs), 0, versus)
    assert (found.freedom == pairs - 1).all()
    assert 0.02 < np.median(found.error) < 0.5
    assert 0.92 <= coverage(found, truth) <= 0.98
    # Controls: errors that forget a root of two, or that are too large.
    for wrong in (1 / np.sqrt(2), 1.5):
        assert not 0.92 <= coverage(replace(found, error=wrong * found.error), truth) <= 0.98


def test_four_pairs_need_students_t():
    long, short = many(0.0)
    truth, found = window_evidence(long, 0).bits, window_evidence(replicates(short, 4), 0)
    assert 0.92 <= coverage(found, truth) <= 0.98
    assert coverage(replace(found, freedom=np.full(found.error.shape, np.inf)), truth) < 0.9


def test_o13_holds_for_pixels_that_see_several_windows():
    long, short = many(0.0)
    field = CellField(*(AxisField(12, np.arange(4) * 3.0 + 1.5, np.ones(4)) for _ in range(2)))
    truth, _ = field.project(window_evidence(long, 0))
    runs = window_evidence(replicates(short, 4), 0)
    inside, least, freedom = [], [], []
    for number in range(REPLICATES):
        parts = (
            each.reshape(-1, REPLICATES)[:, number].reshape(2, 2) for each in (runs.bits, runs.error, runs.freedom)
        )
        run = WindowEvidence(WINDOWS, *parts)
        values, variance = field.project(run)
        freedom.append(field.freedom(run))
        inside.append(np.abs(values - truth) <= half_width(np.sqrt(variance), freedom[-1]))
        least.append(np.abs(values - truth) <= half_width(np.sqrt(variance), np.full(values.shape, 3.0)))
    assert 0.92 <= np.mean(inside) <= 0.98
    assert np.min(freedom) >= 3
    # The control: where pixels see several windows, three degrees of freedom are too few, and intervals too wide.
    assert np.max(freedom) > 6
    assert np.mean(least) > np.mean(inside) + 0.005


# Until the interval is narrow enough


class Recorded(Draws):
    """Draws that were made before: every replicate is a window."""

    def run(self, sites, first, last):
        rows = [row for row, _ in sites]
        return LogProbability(*(each[rows, first:last] for each in self.sampler.samples))


def until(removal: Removal, setting: Setting, tolerance: float) -> Sampled:
    draws = Recorded(setting.features, setting.predict, removal, (1, 1), [0, 1], (0,), 1, lambda copies: None)
    return sample_windows(draws, removal.windows, [Asked(0)], tolerance)


@pytest.mark.parametrize("share", [0.6, 0.8, 1.2])
def test_o13_holds_where_sampling_stops_at_a_tolerance(share):
    long, short = many(0.0)
    truth, table = window_evidence(long, 0).bits, replicates(short, 32)
    # Half-widths that are reached by some windows at each of the looks.
    tolerance = share * float(np.median(half_width(*errors_at(table, 8))))
    run = until(table, Setting(0.0), tolerance)
    found = run.evidence[0]
    assert set(np.unique(run.samples)) == {2 * pairs for pairs in LOOKS}
    assert np.array_equal(run.unmet, half_width(found.error, found.freedom, looks=4) > tolerance)
    assert not run.unmet[run.samples < 64].any()
    assert 0.92 <= coverage(found, truth, looks=4) <= 0.98
    # Controls: who looks again and again at the whole 5 % stops too early and is wrong too often; and a wrong error.
    assert peeking(table, truth, tolerance) < 0.92
    assert coverage(replace(found, error=found.error / np.sqrt(2)), truth, looks=4) < 0.92


def errors_at(table: Removal, pairs: int) -> tuple[np.ndarray, np.ndarray]:
    found = window_evidence(at(table, pairs), 0)
    return found.error, found.freedom


def at(table: Removal, pairs: int) -> Removal:
    return replace(table, samples=LogProbability(*(each[:, : 2 * pairs] for each in table.samples)))


def peeking(table: Removal, truth: np.ndarray, tolerance: float) -> float:
    """Coverage of plain 95 % intervals at the first look at which they are narrow enough."""
    last = window_evidence(at(table, LOOKS[-1]), 0)
    bits, error, freedom = last.bits.copy(), last.error.copy(), last.freedom.copy()
    for pairs in reversed(LOOKS):
        found = window_evidence(at(table, pairs), 0)
        stop = half_width(found.error, found.freedom) <= tolerance
        bits[stop], error[stop], freedom[stop] = found.bits[stop], found.error[stop], found.freedom[stop]
    return coverage(WindowEvidence(table.windows, bits, error, freedom), truth)


def test_a_window_has_the_evidence_that_its_number_of_draws_always_gives_it():
    setting = Setting()
    widths = (0.25, 0.45, 0.8, 1.2)
    runs = [sample_windows(setting.draws(5), WINDOWS, [Asked(0), Asked(0, 1)], width) for width in widths]
    seen = set()
    for run in runs:
        for question, versus in enumerate((None, 1)):
            for count in np.unique(run.samples):
                fixed = window_evidence(setting.remove(5, count // 2), 0, versus)
                stopped = run.samples == count
                seen.add(int(count))
                np.testing.assert_allclose(run.evidence[question].bits[stopped], fixed.bits[stopped], atol=1e-12)
                np.testing.assert_allclose(run.evidence[question].error[stopped], fixed.error[stopped], atol=1e-12)
                # The control: another number of draws gives something else.
                other = window_evidence(setting.remove(5, count), 0, versus)
                assert (run.evidence[question].bits[stopped] != other.bits[stopped]).all()
    assert len(seen) >= 3


def test_all_questions_are_met_before_a_window_stops():
    setting = Setting()
    both = sample_windows(setting.draws(5), WINDOWS, [Asked(0), Asked(0, 1)], 0.5)
    alone = [sample_windows(setting.draws(5), WINDOWS, [asked], 0.5) for asked in (Asked(0), Asked(0, 1))]
    assert np.array_equal(both.samples, np.maximum(alone[0].samples, alone[1].samples))
    assert not np.array_equal(alone[0].samples, alone[1].samples)


def test_draws_of_a_window_do_not_depend_on_how_many_follow(rng):
    background = Background(
        mean=np.zeros((2, 6, 6)), covariance=np.stack([oracles.ar_covariance(4, 0.5)] * 2), patch=4,
        low=np.full(2, -9.0), high=np.full(2, 9.0),
    )  # fmt: skip
    features = rng.normal(size=(2, 6, 6)).astype(np.float32)
    sampler = ConditionalSampler(background)
    long = sampler.draw(features, (1, 2), (2, 2), 64, (7, 8))
    for count in (8, 16, 32):
        assert np.array_equal(sampler.draw(features, (1, 2), (2, 2), count, (7, 8)), long[:count])
    assert not np.array_equal(sampler.draw(features, (1, 2), (2, 2), 8, (7, 9)), long[:8])


# The bias of few samples


def removal_of(log_odds: np.ndarray) -> Removal:
    """Windows whose draws have these log-odds (W, S), in nats; nothing removed has a half."""
    samples = LogProbability(-np.logaddexp(0, -log_odds)[..., None], -np.logaddexp(0, log_odds)[..., None])
    half = np.full(1, -LN2)
    return Removal(Windows.place((len(log_odds), 1), 1), LogProbability(half, half), samples)


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("centre", [-2.0, 2.0, 4.0])
def test_o13_bias_of_finite_samples_is_that_of_method_1_7(centre, paired):
    """Predicted: -0.5 (2p - 1) Var(p) / (p (1 - p))^2 / (S ln 2) bits, pairs counting as one sample each."""
    rng = np.random.default_rng(17)
    count, spread, bend = 16, 0.6, 0.3

    def draw(windows: int, samples: int) -> np.ndarray:
        noise = rng.standard_normal((windows, samples))
        if not paired:
            return centre + spread * noise
        curved = bend * (noise**2 - 1)
        return np.stack([centre + spread * noise + curved, centre - spread * noise + curved], axis=2)

    many = 1 / (1 + np.exp(-draw(1, 2_000_000)))[0]
    many = many.mean(axis=1) if paired else many
    p = many.mean()
    predicted = -0.5 * (2 * p - 1) * many.var() / (p * (1 - p)) ** 2 / (count * LN2)
    drawn = draw(60_000, count)
    bits = window_evidence(removal_of(drawn.reshape(len(drawn), -1)), 0).bits
    bias = bits.mean() + np.log2(p / (1 - p))
    assert abs(predicted) > 4 * bits.std() / np.sqrt(len(drawn)), "the bias is seen through the noise"
    assert bias == pytest.approx(predicted, rel=0.2)
    # Controls: the other sign, and the bias of half as many samples.
    assert bias != pytest.approx(-predicted, rel=0.2)
    fewer = window_evidence(removal_of(drawn[:, : count // 2].reshape(len(drawn), -1)), 0).bits
    assert fewer.mean() + np.log2(p / (1 - p)) != pytest.approx(predicted, rel=0.2)


def jackknife(removal: Removal) -> np.ndarray:
    """Standard error of every window's evidence from leaving out one pair at a time (METHOD 5.4)."""
    pairs = removal.samples.log_p.shape[1] // 2
    left_out = []
    full = LogProbability(*(each[0] for each in removal.full))
    for pair in range(pairs):
        rest = LogProbability(*(np.delete(each[..., 0], [2 * pair, 2 * pair + 1], axis=1) for each in removal.samples))
        left_out.append(weight_of_evidence(full, mean_over_samples(rest, axis=1)))
    return np.sqrt((pairs - 1) * np.var(left_out, axis=0))


@pytest.mark.parametrize("log_odds", [-9.0, 0.0, 9.0])
def test_the_delta_method_agrees_with_the_jackknife(log_odds):
    found = Setting(log_odds).remove(9, 32)
    error = window_evidence(found, 0).error.ravel()
    np.testing.assert_allclose(jackknife(found), error, rtol=0.05)
    # The control: leaving out single draws, as if the members of a pair were independent, does not.
    single = LogProbability(*(np.repeat(each, 2, axis=1) for each in found.samples))
    assert np.abs(jackknife(replace(found, samples=single)) / error - 1).max() > 0.15
