"""Measured receptive fields, and the variance that goes with the change to pixels."""

import numpy as np
import pytest

from onnx_evidence.cuts.receptive import measure_field
from onnx_evidence.evidence.difference import WindowEvidence
from onnx_evidence.evidence.field import AxisField, CellField, input_field
from onnx_evidence.evidence.rng import natural_noise
from onnx_evidence.evidence.windows import Windows
from onnx_evidence.preprocessing.synthetic import InputRange

UNIT = InputRange(np.zeros(3), np.ones(3))


def pooling_head(block: tuple[int, int], shift: tuple[int, int]):
    """Mean over ``block`` pixels, read ``shift`` pixels further down and right: a field known exactly."""

    def head(x: np.ndarray) -> np.ndarray:
        moved = np.roll(x, (-shift[0], -shift[1]), axis=(2, 3))
        n, c, height, width = x.shape
        pooled = moved.reshape(n, c, height // block[0], block[0], width // block[1], block[1])
        return pooled.mean(axis=(3, 5)).astype(np.float32)

    return head


def test_centres_and_spreads_of_a_known_head_are_found():
    field = measure_field(pooling_head((16, 32), (5, -9)), UNIT, (112, 192), (7, 6))
    assert (field.rows.pixels, field.cols.pixels) == (112, 192)
    inner = slice(1, -1)  # np.roll wraps at the border, so the outer cells look at both ends
    np.testing.assert_allclose(field.rows.centre[inner], (np.arange(7) * 16 + 8 + 5)[inner], atol=2.5)
    np.testing.assert_allclose(field.cols.centre[inner], (np.arange(6) * 32 + 16 - 9)[inner], atol=5)
    assert 3 < field.rows.spread[inner].mean() < 8  # 16 / sqrt(12) = 4.6
    assert 6 < field.cols.spread[inner].mean() < 14  # 32 / sqrt(12) = 9.2


def test_measuring_is_repeatable_and_knows_offsets():
    first = measure_field(pooling_head((16, 16), (0, 0)), UNIT, (112, 112), (7, 7))
    again = measure_field(pooling_head((16, 16), (0, 0)), UNIT, (112, 112), (7, 7))
    np.testing.assert_array_equal(first.rows.centre, again.rows.centre)
    moved = measure_field(pooling_head((16, 16), (6, 0)), UNIT, (112, 112), (7, 7))
    assert 4 < (moved.rows.centre - first.rows.centre)[1:-1].mean() < 8
    assert abs((moved.cols.centre - first.cols.centre)[1:-1].mean()) < 1.5


def test_a_head_that_sees_nothing_still_gives_a_field():
    field = measure_field(
        lambda x: np.zeros((len(x), 2, 4, 4), np.float32), InputRange(np.zeros(1), np.ones(1)), (32, 32), (4, 4)
    )
    assert np.isfinite(field.rows.centre).all()
    np.testing.assert_allclose(field.to_input(np.ones((4, 4))), 1)


def test_at_the_input_every_cell_is_its_pixel(rng):
    values = rng.normal(size=(9, 13))
    np.testing.assert_array_equal(input_field((9, 13)).to_input(values), values)
    np.testing.assert_array_equal(input_field((9, 13)).spread(values), values)
    assert input_field((9, 13)).resolution == 0


def test_few_and_many_products_are_the_same(rng, monkeypatch):
    axes = [AxisField(side, np.sort(rng.uniform(0, side, cells)), np.ones(cells)) for side, cells in ((40, 7), (31, 5))]
    field, values = CellField(*axes), rng.normal(size=(7, 5))
    few = field.spread(values), field.to_input(values)
    monkeypatch.setattr("onnx_evidence.evidence.field._FEW", 0)
    np.testing.assert_allclose((field.spread(values), field.to_input(values)), few, atol=1e-13)
    assert few[0].sum() == pytest.approx(values.sum())


def test_variance_of_a_pixel_is_that_of_many_draws(rng):
    windows = Windows.place((5, 6), 3, 2)
    error = rng.uniform(0.1, 1, size=windows.shape)
    field = CellField(
        AxisField(40, (np.arange(5) + 0.5) * 8, np.ones(5)), AxisField(36, (np.arange(6) + 0.5) * 6, np.ones(6))
    )
    _, variance = field.project(WindowEvidence(windows, np.zeros(windows.shape), error))
    draws = [
        field.project(WindowEvidence(windows, rng.normal(size=windows.shape) * error, error))[0] for _ in range(4000)
    ]
    np.testing.assert_allclose(np.var(draws, axis=0) / variance, 1, atol=0.15)
    independent = field.rows.weights() @ windows.average(error**2) @ field.cols.weights().T
    assert np.abs(independent / variance - 1).max() > 0.5  # the control: overlaps do average errors away


def test_projection_is_average_then_interpolation(rng):
    windows = Windows.place((5, 6), 2)
    bits = rng.normal(size=windows.shape)
    field = CellField(
        AxisField(20, np.arange(5) * 4 + 2.0, np.ones(5)), AxisField(12, np.arange(6) * 2 + 1.0, np.ones(6))
    )
    projected, _ = field.project(WindowEvidence(windows, bits, np.full(windows.shape, np.nan)))
    np.testing.assert_allclose(projected, field.to_input(windows.average(bits)), atol=1e-12)


def test_nothing_sampled_gives_nan_everywhere():
    windows = Windows.place((5, 5), 3)
    nothing = np.full(windows.shape, np.nan)
    field = CellField(*(AxisField(20, np.arange(5) * 4 + 2.0, np.ones(5)) for _ in range(2)))
    _, variance = field.project(WindowEvidence(windows, np.zeros(windows.shape), nothing))
    assert np.isnan(variance).all()


def test_noise_has_the_spectrum_of_photographs(rng):
    power = np.abs(np.fft.rfft2(natural_noise((1, 128, 128), rng)[0])) ** 2
    low, high = power[3:6, 3:6].mean(), power[24:48, 24:48].mean()
    assert 20 < low / high < 300  # 1 / f in amplitude: about (36 / 4.5)^2 = 64


@pytest.mark.parametrize("shape", [(2, 24, 6), (1, 5, 16), (3, 8, 8)])
def test_noise_falls_as_one_over_frequency_down_to_one_wave_a_picture(shape):
    """By the transform of both halves, and on long pictures as well: their longer side says what one wave is."""
    white = np.random.default_rng(3).standard_normal(shape)
    rows, cols = np.meshgrid(np.fft.fftfreq(shape[1]), np.fft.fftfreq(shape[2]), indexing="ij")
    amplitude = 1 / np.maximum(np.sqrt(rows**2 + cols**2), 1 / max(shape[1], shape[2]))
    expected = np.fft.ifft2(np.fft.fft2(white) * amplitude).real
    expected = (expected - expected.mean()) * 0.5 / expected.std()
    np.testing.assert_allclose(natural_noise(shape, np.random.default_rng(3)), expected, atol=1e-6)
