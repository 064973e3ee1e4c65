"""Noise, focus and localisation against slow twins and cases that can be worked out by hand; changed pictures."""

import numpy as np
import pytest

from onnx_evidence.errors import DataError
from onnx_evidence.evaluation.measures import dilate, energy_inside, focus, pointing, total_variation
from onnx_evidence.evaluation.seen import as_seen, grey_levels, jitter, shift
from onnx_evidence.pictures.photograph import as_photograph
from onnx_evidence.preprocessing.apply import to_input
from onnx_evidence.preprocessing.contract import Preprocess


def test_total_variation_by_hand_and_by_a_slow_twin(rng):
    assert total_variation(np.array([[1.0, -1.0], [0.0, 2.0]])) == (2 + 2 + 1 + 3) / 4
    values = rng.normal(size=(9, 13))
    slow = 0.0
    for row in range(9):
        for col in range(13):
            slow += abs(values[row, col] - values[row + 1, col]) if row < 8 else 0
            slow += abs(values[row, col] - values[row, col + 1]) if col < 12 else 0
    assert total_variation(values) == pytest.approx(slow / sum(abs(value) for value in values.ravel()))
    assert total_variation(7 * values) == pytest.approx(total_variation(values))
    assert total_variation(np.full((4, 5), 2.0)) == 0
    assert np.isnan(total_variation(np.zeros((4, 5))))


def test_focus_by_hand_and_by_a_slow_twin(rng):
    # 6 of 12 positive bits are held by 5 and 4: two of six pixels.
    assert focus(np.array([[5.0, 4.0, 3.0], [-9.0, 0.0, -1.0]])) == 2 / 6
    assert focus(np.array([[1.0, 0.0], [0.0, -5.0]])) == 1 / 4
    assert focus(np.ones((10, 10))) == pytest.approx(0.5)
    values = rng.normal(size=(11, 7))
    positive = sorted((value for value in values.ravel() if value > 0), reverse=True)
    needed = next(count for count in range(1, 78) if sum(positive[:count]) >= sum(positive) / 2)
    assert focus(values) == needed / 77
    assert np.isnan(focus(-np.ones((3, 3))))


def test_dilation_is_by_distance_between_centres(rng):
    mask = rng.random((17, 23)) < 0.01
    mask[3, 20] = True
    places = np.argwhere(mask)
    for radius in (0, 1, 2.5, 6, 40):
        slow = [[min(np.hypot(*(place - (r, c))) for place in places) <= radius for c in range(23)] for r in range(17)]
        assert (dilate(mask, radius) == slow).all(), radius
    assert not dilate(np.zeros((5, 5), bool), 3).any()


def test_pointing_hits_on_the_object_or_near_it():
    values, mask = np.zeros((40, 40)), np.zeros((40, 40), bool)
    mask[10:20, 10:20] = True
    values[12, 29] = 1.0
    assert pointing(values, mask, 10) == 1
    assert pointing(values, mask, 9.9) == 0
    assert pointing(values, mask, 0) == 0
    values[12, 12] = 2.0
    assert pointing(values, mask, 0) == 1
    # Of two largest values one hits; a map without preference hits as often as chance.
    values[35, 35] = 2.0
    assert pointing(values, mask, 0) == 0.5
    assert pointing(np.ones((40, 40)), mask, 0) == pytest.approx(100 / 1600)


def test_energy_is_the_share_of_positive_evidence_inside(rng):
    values, mask = np.array([[3.0, -8.0], [1.0, 0.0]]), np.array([[True, True], [False, False]])
    assert energy_inside(values, mask) == 0.75
    assert energy_inside(values, ~mask) == 0.25
    assert energy_inside(np.ones((6, 6)), np.eye(6, dtype=bool)) == pytest.approx(1 / 6)
    assert np.isnan(energy_inside(-np.ones((2, 2)), mask))


@pytest.mark.parametrize("measure", [energy_inside, lambda values, mask: pointing(values, mask, 15)])
def test_an_empty_mask_is_refused_and_no_hit(measure):
    with pytest.raises(DataError, match="the mask is empty"):
        measure(np.ones((4, 4)), np.zeros((4, 4), bool))


SETTINGS = {
    "short": {"size": (32, 28), "resize_to": 37},
    "stretch": {"size": (32, 28), "resize": "stretch", "interpolation": "area"},
    "bgr": {"size": (32, 28), "resize_to": 40, "color": "BGR", "scale": 1.0},
    "grey": {"size": (32, 28), "resize_to": 36, "color": "GRAY"},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_photograph_of_what_the_model_sees_gives_the_same_input(name, rng):
    channels = 1 if name == "grey" else 3
    given = {"scale": 1 / 255, "mean": (0.485, 0.456, 0.406)[:channels], "std": (0.229, 0.224, 0.225)[:channels]}
    preprocess = Preprocess(**(given | SETTINGS[name]))
    inputs, _ = to_input(as_photograph(rng.integers(0, 256, (61, 83, 3)).astype(np.uint8)), preprocess)
    levels = grey_levels(inputs, preprocess)
    assert levels.shape == (32, 28, 3)
    again, _ = to_input(as_seen(levels, preprocess), preprocess)
    assert (again == inputs).all()
    # Control: one grey level is seen.
    levels[5, 6] ^= 1
    assert (to_input(as_seen(levels, preprocess), preprocess)[0] != inputs).any()


def test_jitter_is_one_level_up_or_down_and_a_shift_moves_columns(rng):
    pixels = rng.integers(1, 255, (20, 30, 3)).astype(np.uint8)
    change = jitter(pixels, rng).astype(int) - pixels
    assert set(np.unique(change)) == {-1, 1}
    assert abs(change.mean()) < 0.1
    edges = np.array([[[0, 255]]], np.uint8).repeat(50, 1)
    assert set(np.unique(jitter(edges, rng))) == {0, 1, 254, 255}
    moved = shift(pixels)
    assert (moved[:, 1:] == pixels[:, :-1]).all()
    assert (moved[:, 0] == pixels[:, 0]).all()
