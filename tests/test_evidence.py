"""Uncertainty and contrasts; the definitions themselves are in test_oracles.py."""

import numpy as np
import pytest

from onnx_evidence.errors import SettingError
from onnx_evidence.evidence.difference import check_samples, remove_windows, window_evidence
from onnx_evidence.evidence.odds import LN2, LogProbability, log_mean_exp, log_probabilities, mean_over_samples
from onnx_evidence.evidence.rng import generator
from onnx_evidence.evidence.samplers import MeanSampler
from onnx_evidence.evidence.windows import Windows
from tests import oracles


class NoiseSampler(MeanSampler):
    """Independent antithetic noise: the simplest thing with an error to estimate."""

    deterministic = False

    def draw(self, features, site, size, count, key):
        step = generator(*key, *site).normal(size=(count // 2, features.shape[0], *size))
        return np.stack([step, -step], axis=1).reshape(count, -1, *size)


@pytest.fixture
def setting(rng):
    """A curved tail, so that antithetic pairs leave an error, and features."""
    return oracles.ReluTail(rng, 4, 10, 3), rng.normal(size=(4, 3, 3))


def test_means_over_samples_are_means_of_probabilities(rng):
    logits = rng.normal(size=(6, 4)) * 3
    pair = log_probabilities(logits, [1])
    p = np.exp(logits[:, 1]) / np.exp(logits).sum(axis=1)
    mean = mean_over_samples(pair, axis=0)
    assert np.exp(mean.log_p[0]) == pytest.approx(p.mean(), rel=1e-12)
    assert np.exp(mean.log_q[0]) == pytest.approx((1 - p).mean(), rel=1e-12)
    assert mean.log_p[0] != pytest.approx(pair.log_p.mean(), rel=1e-3)


def test_mean_in_log_space_survives_extremes():
    assert log_mean_exp(np.array([-1000.0, -1000.0]), 0) == pytest.approx(-1000)
    assert log_mean_exp(np.array([800.0, 0.0]), 0) == pytest.approx(800 - LN2)


@pytest.mark.parametrize("versus", [None, 2])
def test_standard_errors_cover_the_truth(setting, versus):
    """Over 500 seeds the 95 % interval of Student's t holds the truth 92 to 98 % of the time (8 pairs)."""
    tail, h = setting
    windows = Windows.place((3, 3), 1)
    pairs, t_quantile = 8, 2.365

    def evidence(seed: int, samples: int):
        removal = remove_windows(
            h, tail, NoiseSampler(), windows, [0, 1, 2], samples=samples, key=(seed,), batch_size=4096
        )
        return window_evidence(removal, 0, versus)

    truth = np.mean([evidence(10_000 + k, 4000).bits for k in range(10)], axis=0)
    runs = [evidence(seed, 2 * pairs) for seed in range(500)]
    inside = [np.abs(run.bits - truth) <= t_quantile * run.error for run in runs]
    coverage = np.mean(inside, axis=0)
    assert 0.92 < coverage.mean() < 0.98
    spread = np.std([run.bits for run in runs], axis=0)
    ratio = np.sqrt(np.mean([run.error**2 for run in runs], axis=0)) / spread
    np.testing.assert_allclose(ratio, 1, atol=0.15)
    # The control: the members of a pair are not independent; taking them as such claims another error.
    samples = remove_windows(h, tail, NoiseSampler(), windows, [0, 1, 2], samples=2000, key=(1,)).samples
    p = np.exp(samples.log_p[..., 0])
    independent = p.std(axis=1) / np.sqrt(2)
    paired = p.reshape(len(p), -1, 2).mean(axis=2).std(axis=1)
    assert (np.abs(paired / independent - 1) > 0.1).all()


def test_the_error_keeps_its_digits_where_p_is_nearly_one():
    """The same odds from both ends: class 0 at 1 - 1e-17 has the error of its complement."""
    logits = np.zeros((4, 2))
    logits[:, 0] = 39.0 + np.array([0.3, -0.2, 0.5, -0.1])
    samples = log_probabilities(logits, [0, 1])
    shaped = LogProbability(samples.log_p[None], samples.log_q[None])
    mean = mean_over_samples(shaped, axis=1)
    from onnx_evidence.evidence.odds import evidence_error

    sure, unsure = evidence_error(shaped, mean)[0]
    assert sure > 0.01
    assert sure == pytest.approx(unsure, rel=1e-9)


def test_one_pair_has_no_error(setting):
    tail, h = setting
    removal = remove_windows(h, tail, NoiseSampler(), Windows.place((3, 3), 1), [0], samples=2)
    assert np.isnan(window_evidence(removal, 0).error).all()


def test_contrast_is_antisymmetric_and_adds_up(setting):
    tail, h = setting
    removal = remove_windows(h, tail, NoiseSampler(), Windows.place((3, 3), 2), [0, 1, 2], samples=6)
    forth, back = window_evidence(removal, 0, 1), window_evidence(removal, 1, 0)
    np.testing.assert_allclose(forth.bits, -back.bits, atol=1e-12)
    np.testing.assert_allclose(forth.error, back.error, atol=1e-12)
    around = window_evidence(removal, 0, 2).bits + window_evidence(removal, 2, 1).bits
    np.testing.assert_allclose(forth.bits, around, atol=1e-12)


@pytest.mark.parametrize(
    ("samples", "deterministic", "message"),
    [(3, False, "3 samples: take 1"), (0, False, "0 samples"), (8, True, "8 samples of a constant are all equal")],
)
def test_impossible_numbers_of_samples_are_refused(samples, deterministic, message):
    with pytest.raises(SettingError, match=message):
        check_samples(samples, deterministic)
