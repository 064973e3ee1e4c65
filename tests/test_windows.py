"""Places of windows and the average over overlaps."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_evidence.errors import SettingError
from onnx_evidence.evidence.windows import Windows, default_size


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 6), st.data())
def test_every_cell_is_covered_and_averages_like_a_loop(rows, cols, size, data):
    stride = data.draw(st.integers(1, size))
    windows = Windows.place((rows, cols), size, stride)
    values = np.random.default_rng(0).normal(size=windows.shape)
    total, count = np.zeros((rows, cols)), np.zeros((rows, cols))
    for value, (row, col) in zip(values.ravel(), windows.sites(), strict=True):
        assert 0 <= row <= rows - windows.size[0]
        assert 0 <= col <= cols - windows.size[1]
        total[row : row + windows.size[0], col : col + windows.size[1]] += value
        count[row : row + windows.size[0], col : col + windows.size[1]] += 1
    assert count.min() >= 1
    assert len(windows) == values.size
    np.testing.assert_allclose(windows.average(values), total / count, atol=1e-12)


def test_last_window_is_flush_with_the_border():
    assert Windows.place((10, 7), 3, 3).rows == (0, 3, 6, 7)
    assert Windows.place((10, 7), 3, 3).cols == (0, 3, 4)


def test_window_larger_than_the_grid_is_cut_to_it():
    assert Windows.place((4, 9), 6).size == (4, 6)


@pytest.mark.parametrize(("size", "stride", "message"), [(0, 1, "window 0 is too small"), (3, 4, "stride 4 leaves")])
def test_places_that_make_no_sense_are_refused(size, stride, message):
    with pytest.raises(SettingError, match=message):
        Windows.place((9, 9), size, stride)


@pytest.mark.parametrize(
    ("grid", "size"), [((14, 14), 3), ((7, 7), 3), ((28, 28), 6), ((224, 224), 45), ((2, 9), 2), ((20, 14), 3)]
)
def test_default_is_a_fifth_of_the_shorter_side_but_three_at_least(grid, size):
    assert default_size(grid) == size
