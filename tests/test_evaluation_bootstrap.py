"""Intervals against the enumeration of all resamples, and against what they claim to cover."""

from itertools import product

import numpy as np
import pytest

from onnx_evidence.evaluation.bootstrap import interval


def test_an_interval_is_that_of_all_resamples(rng):
    values = rng.normal(size=6)
    resamples = values[np.array(list(product(range(6), repeat=6)))]
    every = resamples.mean(axis=1)
    for level in (0.95, 0.5):
        low, high = np.quantile(every, [(1 - level) / 2, (1 + level) / 2])
        found = interval(values, draws=40_000, level=level)
        assert (found.low, found.high) == pytest.approx((low, high), abs=0.05 * every.std())
        assert found.value == pytest.approx(values.mean())
        assert found.pictures == 6
    assert abs(interval(values).low - np.quantile(every, 0.05)) > 0.1 * every.std()
    medians = np.median(resamples, axis=1)
    found = interval(values, statistic=np.median, draws=40_000)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(medians, [0.025, 0.975])))
    assert found.value == np.median(values)


def test_nominal_95_per_cent_cover_92_to_98(rng):
    covered = 0
    for seed in range(500):
        found = interval(rng.normal(3.0, 2.0, size=60), seed=seed)
        covered += found.low <= 3.0 <= found.high
    assert 0.92 <= covered / 500 <= 0.98
    # Control: half of the width does not.
    narrow = 0
    for seed in range(200):
        found = interval(rng.normal(3.0, 2.0, size=60), seed=seed)
        narrow += abs(found.value - 3.0) <= (found.high - found.low) / 4
    assert narrow / 200 < 0.85


def test_the_normal_width_for_many_pictures(rng):
    values = rng.normal(size=4000)
    found = interval(values, draws=3000)
    error = values.std() / np.sqrt(4000)
    assert (found.low, found.high) == pytest.approx(values.mean() + 1.96 * error * np.array([-1, 1]), abs=0.12 * error)


def test_a_paired_difference_drops_what_pictures_have_in_common(rng):
    hard, noise = rng.normal(size=50) * 10, rng.normal(size=(2, 50)) * 0.1
    first, second = hard + noise[0] + 0.5, hard + noise[1]
    paired = interval(first - second)
    assert paired.low < 0.5 < paired.high
    assert paired.high - paired.low < 0.2
    alone = interval(first)
    assert alone.high - alone.low > 2


def test_the_seed_decides_and_nothing_else(rng):
    values = rng.normal(size=30)
    assert interval(values, seed=1) == interval(values, seed=1)
    assert interval(values, seed=1) != interval(values, seed=2)
    # Drawn in parts or at once: more pictures than fit a part.
    many = np.tile(values, 2000)
    assert interval(many, draws=50).low < many.mean() < interval(many, draws=50).high


def test_what_has_no_number_is_left_out_and_one_picture_has_no_interval(rng):
    values = rng.normal(size=30)
    with_gaps = np.concatenate([[np.nan], values, [np.nan]])
    assert interval(with_gaps) == interval(values)
    assert interval(with_gaps).pictures == 30
    one = interval(np.array([4.0, np.nan]))
    assert (one.value, one.pictures) == (4.0, 1)
    assert np.isnan([one.low, one.high]).all()
    none = interval(np.array([np.nan]))
    assert none.pictures == 0
    assert np.isnan(none[:3]).all()
