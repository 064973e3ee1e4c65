"""Student's t against published tables and its own density; degrees of freedom against closed forms."""

from math import gamma, inf, pi, sqrt

import numpy as np
import pytest

from onnx_evidence.evidence.difference import WindowEvidence
from onnx_evidence.evidence.field import AxisField, CellField
from onnx_evidence.evidence.intervals import combined_freedom, half_width, look_schedule, t_quantile, total_freedom
from onnx_evidence.evidence.windows import Windows
from onnx_evidence.results.explanation import Extreme
from tests.test_render import explanation, sampled

# Percentage points of t, as printed in any book of tables (Fisher & Yates 1963, table III).
TABLE = {
    0.90: {1: 3.078, 2: 1.886, 3: 1.638, 7: 1.415, 15: 1.341, 30: 1.310, 60: 1.296, 120: 1.289, inf: 1.282},
    0.975: {1: 12.706, 2: 4.303, 3: 3.182, 7: 2.365, 15: 2.131, 30: 2.042, 60: 2.000, 120: 1.980, inf: 1.960},
    0.995: {1: 63.657, 2: 9.925, 3: 5.841, 7: 3.499, 15: 2.947, 30: 2.750, 60: 2.660, 120: 2.617, inf: 2.576},
}


def density(t: np.ndarray, freedom: int) -> np.ndarray:
    scale = gamma((freedom + 1) / 2) / (sqrt(freedom * pi) * gamma(freedom / 2))
    return scale * (1 + t**2 / freedom) ** (-(freedom + 1) / 2)


@pytest.mark.parametrize("probability", TABLE)
def test_quantiles_are_those_of_the_tables(probability):
    for freedom, printed in TABLE[probability].items():
        assert t_quantile(probability, freedom) == pytest.approx(printed, abs=0.0006)
        assert t_quantile(1 - probability, freedom) == pytest.approx(-printed, abs=0.0006)


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 8, 31, 100])
@pytest.mark.parametrize("probability", [0.6, 0.95, 0.99375, 0.9992])
def test_the_density_integrates_to_the_probability(probability, freedom):
    t = np.linspace(0, t_quantile(probability, freedom), 200_001)
    assert 0.5 + np.trapezoid(density(t, freedom), t) == pytest.approx(probability, abs=1e-7)


def test_quantiles_of_fractional_freedom_are_never_too_small():
    assert t_quantile(0.975, 7.9) == t_quantile(0.975, 7) > t_quantile(0.975, 8)
    assert t_quantile(0.975, 1e9) == pytest.approx(t_quantile(0.975, inf), abs=0.003)
    assert t_quantile(0.5, 3) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("probability", "freedom"), [(0, 3), (1, 3), (0.9, 0.5), (0.9, np.nan)])
def test_impossible_quantiles_are_refused(probability, freedom):
    with pytest.raises(ValueError, match="no quantile"):
        t_quantile(probability, freedom)


def test_half_widths_follow_the_table_and_leave_what_was_not_sampled():
    stderr = np.array([[1.0, 2.0], [0.0, np.nan]])
    freedom = np.array([[3, 7.5], [15, np.nan]])
    np.testing.assert_allclose(half_width(stderr, freedom), [[3.182, 4.730], [0, np.nan]], atol=0.001)
    # At each of 4 looks a quarter of the 5 %: the quantile at 0.99375.
    assert half_width(stderr, freedom, looks=4)[0, 0] == pytest.approx(5.392, abs=0.001)
    assert half_width(stderr, freedom, 0.99)[0, 0] == pytest.approx(5.841, abs=0.001)
    assert np.isnan(half_width(np.full((2, 2), np.nan), freedom)).all()
    with pytest.raises(ValueError, match=r"confidence 95 must lie between 0 and 1"):
        half_width(stderr, freedom, 95)


def test_sums_of_equals_have_the_freedom_of_all_and_one_that_dominates_its_own():
    variances, freedom = np.full((5, 1), 0.3), np.full((5, 1), 7.0)

    def of_sum(v):
        return total_freedom(v.sum(axis=0), (v**2 / freedom).sum(axis=0), freedom.min(axis=0))[0]

    assert of_sum(variances) == pytest.approx(35)
    variances[0] = 1e6
    assert of_sum(variances) == pytest.approx(7, rel=1e-5)
    assert of_sum(np.zeros((5, 1))) == of_sum(np.full((5, 1), 1e-170)) == 7
    assert np.isnan(of_sum(np.full((5, 1), np.nan)))


def test_maps_that_err_alike_gain_no_freedom():
    one = np.full((2, 2), 0.5), np.full((2, 2), 7.0)
    assert (combined_freedom([one, one]) == 14).all()
    assert (combined_freedom([one, one], alike=True) == 7).all()
    assert combined_freedom([(one[0], None), (one[0], None)]) is None
    # A map whose error is known adds spread, not doubt about the spread.
    assert (combined_freedom([one, (one[0], None)]) == 28).all()


def test_pixels_have_the_freedom_of_the_windows_that_they_see(rng):
    windows = Windows.place((4, 5), 2)
    error, freedom = rng.uniform(0.1, 1, windows.shape), rng.integers(3, 31, windows.shape).astype(float)
    field = CellField(AxisField(9, np.arange(4) * 2.0 + 1, np.ones(4)), AxisField(7, np.arange(5) + 1.0, np.ones(5)))
    found = field.freedom(WindowEvidence(windows, np.zeros(windows.shape), error, freedom))
    # The slow twin: the weight of every window in every pixel, one window at a time.
    total, squares = np.zeros((9, 7)), np.zeros((9, 7))
    for place in np.ndindex(windows.shape):
        unit = np.zeros(windows.shape)
        unit[place] = 1
        variance = field.to_input(windows.average(unit)) ** 2 * error[place] ** 2
        total += variance
        squares += variance**2 / freedom[place]
    np.testing.assert_allclose(found, total**2 / squares, rtol=1e-9)
    assert found.min() >= freedom.min()
    assert found.max() > freedom.min() + 5
    assert field.freedom(WindowEvidence(windows, np.zeros(windows.shape), error)) is None


def test_looks_double_up_to_the_limit():
    assert [look_schedule(pairs) for pairs in (4, 6, 8, 32, 40)] == [
        (4,), (4, 6), (4, 8), (4, 8, 16, 32), (4, 8, 16, 32, 40),
    ]  # fmt: skip
    with pytest.raises(ValueError, match="3 pairs are too few"):
        look_schedule(3)


def test_an_explanation_knows_its_intervals_and_what_cannot_be_told_from_zero():
    values, stderr = np.zeros((32, 32)), np.full((32, 32), 0.1)
    values[3, 4], values[5, 6], values[7, 8] = 0.31, 0.33, -0.4
    values[0, 0] = stderr[0, 0] = 0
    found = sampled(values, stderr, 3)
    assert found.margin()[3, 4] == pytest.approx(0.3182, abs=1e-4)
    expected = np.zeros((32, 32), bool)
    expected[5, 6] = expected[7, 8] = expected[0, 0] = True  # the last is 0 for sure
    assert np.array_equal(found.resolved(), expected)
    assert found.resolved(0.9)[3, 4]
    assert found.resolved(0.99).sum() == 1
    # The normal distribution, where nobody says how well the error is known, is too sure of itself.
    assert sampled(values, stderr, None).resolved()[3, 4]
    strongest, weakest = found.strongest(1), found.strongest(-1)
    assert strongest.interval == pytest.approx((0.33 - 0.3182, 0.33 + 0.3182), abs=1e-4)
    assert weakest.interval == pytest.approx((-0.4 - 0.3182, -0.4 + 0.3182), abs=1e-4)


def test_where_nothing_was_sampled_all_is_told_and_there_is_no_interval():
    exact = explanation(np.ones((32, 32)))
    assert not exact.sampled
    assert np.isnan(exact.margin()).all()
    assert exact.resolved().all()
    assert exact.strongest(1).interval is None
    assert Extreme(1.0, 0.1, 2, 3).interval is None


def test_margins_of_patches_add_up_because_neighbours_err_together():
    values = np.full((32, 32), 0.5)
    found = sampled(values, np.full((32, 32), 0.1), 3, unit="bits per pixel")
    assert found.patch == (2, 2)
    assert found.strongest(1).margin == pytest.approx(4 * 0.3182, abs=1e-3)
    np.testing.assert_allclose(found.shown_margin, 4 * 0.3182, atol=1e-3)
    np.testing.assert_allclose(found.shown_stderr, 0.4, atol=1e-6)
