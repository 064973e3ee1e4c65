"""The gradient family as arithmetic: closed forms, direct loops from the papers, and gradients by differences."""

import numpy as np
import pytest

from onnx_evidence import DeployedModel
from onnx_evidence.evidence import attribution
from onnx_evidence.evidence.difference import remove_windows, window_evidence
from onnx_evidence.evidence.odds import LN2
from onnx_evidence.evidence.samplers import ZeroSampler
from onnx_evidence.evidence.score import Score
from onnx_evidence.evidence.windows import Windows
from tests import oracles

CHANNELS, SIDE, CLASSES = 6, 5, 7
SHAPE = (CHANNELS, SIDE, SIDE)


@pytest.fixture
def relu(rng: np.random.Generator) -> tuple[oracles.ReluTail, np.ndarray]:
    return oracles.ReluTail(rng, CHANNELS, 12, CLASSES), rng.normal(size=SHAPE)


def differences(function, at: np.ndarray, step: float = 1e-6) -> np.ndarray:
    """Central differences of a batched scalar function by every entry."""
    steps = step * np.eye(at.size).reshape(-1, *at.shape)
    return ((function(at + steps) - function(at - steps)) / (2 * step)).reshape(at.shape)


def test_o1_a_linear_tail_has_one_map_by_four_names(rng):
    """METHOD 4.4: HiResCAM == Grad-CAM == CAM / (AB) == removal of single cells to zero."""
    weights, h = rng.normal(size=(CLASSES, CHANNELS)) * 3, rng.normal(size=SHAPE)
    weights[-1] = 0
    predict = oracles.gap_linear(weights, np.zeros(CLASSES))
    windows = Windows.place((SIDE, SIDE), 1)
    removal = remove_windows(h, predict, ZeroSampler(), windows, range(CLASSES))
    for c in range(3):
        gradient = differences(lambda batch, c=c: predict(batch)[:, c], h)
        cam = np.array([[weights[c] @ h[:, i, j] / SIDE**2 for j in range(SIDE)] for i in range(SIDE)])
        maps = [attribution.layer_times_gradient(h, gradient), attribution.grad_cam(h, gradient)]
        maps.append(window_evidence(removal, c, CLASSES - 1).bits * LN2)
        for each in maps:
            np.testing.assert_allclose(each, cam, atol=1e-8)
        assert maps[0].sum() == pytest.approx(predict(h[None])[0, c], abs=1e-8)


def test_o1_negative_control_a_tail_with_rectifiers_has_several(relu):
    tail, h = relu
    gradient = tail.gradient(h, np.eye(CLASSES)[0])
    maps = [attribution.layer_times_gradient(h, gradient), attribution.grad_cam(h, gradient)]
    assert np.abs(maps[0] - maps[1]).max() > 1e-2


@pytest.mark.parametrize("arguments", [(0,), (0, 3), (0, None, "logit")])
def test_o5_the_toy_gradients_are_central_differences(relu, arguments):
    tail, h = relu
    score = Score.of(CLASSES, *arguments)
    seen = differences(lambda batch: score.bits(tail(batch)) * LN2, h)
    z = tail(h[None])[0]
    cotangent = oracles.log_odds_cotangent(z, 0) if len(arguments) == 1 else score.direction
    np.testing.assert_allclose(tail.gradient(h, cotangent), seen, atol=1e-7)
    if len(arguments) == 1:
        p = np.exp(z - z.max()) / np.exp(z - z.max()).sum()

        def probability(batch):
            powers = np.exp(tail(batch) - z.max())
            return powers[:, 0] / powers.sum(axis=1)

        np.testing.assert_allclose(differences(probability, h) / (p[0] * (1 - p[0])), seen, rtol=1e-5, atol=1e-7)
        assert np.abs(seen - tail.gradient(h, np.eye(CLASSES)[0])).max() > 1e-3  # the control: not the logit's


def test_o6_first_order_evidence_is_exact_below_the_first_switch(relu):
    tail, h = relu
    change = h - h.mean(axis=(1, 2), keepdims=True)
    gradient = tail.gradient(h, np.eye(CLASSES)[0])
    first_order = attribution.layer_times_gradient(change, gradient).sum()
    inner = np.stack([np.einsum("hc,cij->hij", tail.a, each) for each in (h + 0, change)])
    inner[0] += tail.b[:, None, None]
    switch = np.min(np.where(inner[0] / inner[1] > 0, inner[0] / inner[1], np.inf))
    for share in (0.1, 0.5, 0.99):
        length = share * switch
        drop = (tail(h[None]) - tail((h - length * change)[None]))[0, 0] / length
        assert drop == pytest.approx(first_order, rel=1e-6)
    assert abs((tail(h[None]) - tail((h - change)[None]))[0, 0] - first_order) > 1e-2  # beyond it, it is not


def loops(h: np.ndarray, g: np.ndarray, weight) -> np.ndarray:
    channels, rows, cols = h.shape
    return np.array(
        [[sum(weight(k, i, j) * h[k, i, j] for k in range(channels)) for j in range(cols)] for i in range(rows)]
    )


def plus_plus(h: np.ndarray, g: np.ndarray):
    """Chattopadhay et al. 2018, eq. 19 for alpha and eq. 5 for the weights, one sum at a time."""
    weights = []
    for k in range(len(h)):
        weight = 0.0
        for i in range(h.shape[1]):
            for j in range(h.shape[2]):
                bottom = 2 * g[k, i, j] ** 2 + sum(h[k].ravel()) * g[k, i, j] ** 3
                alpha = g[k, i, j] ** 2 / bottom if bottom else 0.0
                weight += alpha * max(g[k, i, j], 0.0)
        weights.append(weight)
    return lambda k, i, j: weights[k]


def pooled(h: np.ndarray, g: np.ndarray):
    return lambda k, i, j: g[k].sum() / g[k].size


FORMULAS = {
    attribution.layer_times_gradient: lambda h, g: lambda k, i, j: g[k, i, j],
    attribution.grad_cam: pooled,
    attribution.grad_cam_plus_plus: plus_plus,
    attribution.layer_cam: lambda h, g: lambda k, i, j: max(g[k, i, j], 0.0),
}


@pytest.mark.parametrize("formula", FORMULAS, ids=lambda each: each.__name__)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_formulas_are_those_of_the_papers(formula, dtype, rng):
    h, g = rng.normal(size=(2, 4, 3, 5)).astype(dtype)
    g[0] = 0  # a channel that the score does not read
    g[1, 0] = 0
    seen = formula(h, g)
    assert (seen.dtype, seen.shape) == (np.float64, (3, 5))
    h, g = h.astype(np.float64), g.astype(np.float64)
    np.testing.assert_allclose(seen, loops(h, g, FORMULAS[formula](h, g)), rtol=1e-5, atol=1e-7)
    for other, weight in FORMULAS.items():
        if other is not formula:
            assert np.abs(seen - loops(h, g, weight(h, g))).max() > 1e-2


def test_the_size_of_the_gradient_is_the_largest_over_channels(rng):
    gradient = rng.normal(size=SHAPE)
    seen = attribution.largest_slope(gradient)
    for i in range(SIDE):
        for j in range(SIDE):
            assert seen[i, j] == max(abs(each) for each in gradient[:, i, j])
    np.testing.assert_array_equal(attribution.largest_slope(-gradient), seen)
    assert np.abs(attribution.layer_times_gradient(-np.ones(SHAPE), gradient) - seen).max() > 1e-2


@pytest.mark.parametrize("layer", ["stem.relu", "block.add", "down", "deep.add"])
def test_o5_gradients_through_the_engine_are_central_differences(layer, tiny_model, rng):
    """Of log-odds, through the float32 tail."""
    deployed = DeployedModel(tiny_model, device="cpu")
    cut = deployed.graph.find(layer)
    features = deployed.head(cut)(rng.normal(size=(1, 3, 32, 32)).astype(np.float32))[0]
    score, step = Score.of(5, 2), 0.01
    gradient = deployed.gradient(cut)(features[None], score.direction, score.rest)[1][0].astype(np.float64)
    # Along random halves of it: single entries move a float32 logit by too little, and kinks count for little.
    directions = gradient * rng.integers(0, 2, size=(16, *cut.shape)) / np.abs(gradient).max()
    both = np.concatenate([features + step * directions, features - step * directions]).astype(np.float32)
    odds = np.array([oracles.exact_log_odds(each, 2) for each in deployed.tail(cut)(both)])
    seen = (odds[:16] - odds[16:]) / (2 * step)
    np.testing.assert_allclose(seen, np.einsum("ncij,cij->n", directions, gradient), rtol=5e-3)
    logit = deployed.gradient(cut)(features[None], score.direction, np.zeros(5))[1][0].astype(np.float64)
    assert np.abs(seen / np.einsum("ncij,cij->n", directions, logit) - 1).min() > 0.1  # the control: not the logit's
