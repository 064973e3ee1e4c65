"""The scores that evidence is counted in, and the gradient that one implies."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_evidence import DeployedModel
from onnx_evidence.evidence.odds import LN2
from onnx_evidence.evidence.score import Score
from tests import oracles

CLASSES = 5
moderate = st.lists(st.floats(-30, 30), min_size=CLASSES, max_size=CLASSES).map(np.array)
extreme = st.lists(st.floats(-700, 700), min_size=CLASSES, max_size=CLASSES).map(np.array)


def cotangent(score: Score, logits: np.ndarray) -> np.ndarray:
    """The gradient by the logits that `types.Gradient` promises: direction less the softmax over the rest."""
    powers = np.exp(logits - logits.max()) * score.rest
    return score.direction - (powers / powers.sum() if score.rest.any() else 0)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(logits=st.one_of(moderate, extreme), c=st.integers(0, CLASSES - 1))
def test_log_odds_are_those_of_the_softmax_to_400_digits(logits, c):
    bits = Score.of(CLASSES, c).bits(logits[None])
    assert bits.shape == (1,)
    assert bits[0] == pytest.approx(oracles.exact_log_odds(logits, c) / LN2, rel=1e-12, abs=1e-9)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(logits=moderate, c=st.integers(0, CLASSES - 1), d=st.integers(0, CLASSES - 1))
def test_a_contrast_is_a_difference_of_logits_and_a_logit_is_itself(logits, c, d):
    logit = Score.of(CLASSES, c, kind="logit").bits(logits[None])[0]
    assert logit == pytest.approx(logits[c] / LN2, rel=1e-14)
    if c != d:
        forth, back = (Score.of(CLASSES, *pair).bits(logits[None])[0] for pair in ((c, d), (d, c)))
        assert forth == pytest.approx((logits[c] - logits[d]) / LN2, rel=1e-12, abs=1e-12)
        assert forth == -back
        assert forth == Score.of(CLASSES, c, d, kind="logit").bits(logits[None])[0]


def test_the_three_scores_differ():
    logits = np.array([[2.0, 1.0, 0.0, -1.0, -2.0]])
    values = [Score.of(5, 0, *more).bits(logits)[0] for more in ((), (1,), (None, "logit"))]
    assert np.abs(np.diff(values)).min() > 0.5
    # Two classes: log-odds are the contrast with the other one.
    assert Score.of(2, 0).bits(logits[:, :2]) == pytest.approx(Score.of(2, 0, 1).bits(logits[:, :2]))


@pytest.mark.parametrize("gap", [40.0, 700.0, 1e4])
def test_saturated_logits_have_finite_bits(gap: float):
    logits = np.array([[gap, 0, 0], [-gap, 0, 0], [gap, gap, -gap]])
    bits = Score.of(3, 0).bits(logits)
    np.testing.assert_allclose(bits, np.array([gap - np.log(2), -gap - np.log(2), 0]) / LN2, atol=1e-9)
    with np.errstate(all="ignore"):  # the control: through the probability, in float64, it would not be
        p = np.exp(logits[0] - logits[0].max()) / np.exp(logits[0] - logits[0].max()).sum()
        assert np.isinf(np.log(p[0] / (1 - p[0])))


@settings(derandomize=True, deadline=None, max_examples=40)
@given(logits=moderate, shift=st.floats(-100, 100))
def test_a_constant_on_all_logits_changes_odds_by_nothing_and_a_logit_by_itself(logits, shift):
    both = np.stack([logits, logits + shift])
    for score in (Score.of(CLASSES, 1), Score.of(CLASSES, 1, 3)):
        assert np.ptp(score.bits(both)) == pytest.approx(0, abs=1e-10)
    assert np.diff(Score.of(CLASSES, 1, kind="logit").bits(both))[0] * LN2 == pytest.approx(shift, abs=1e-9)


@settings(derandomize=True, deadline=None, max_examples=40)
@given(
    logits=st.lists(st.floats(-8, 8), min_size=CLASSES, max_size=CLASSES).map(np.array),
    arguments=st.sampled_from([(2,), (2, 4), (2, None, "logit")]),
)
def test_the_gradient_by_the_logits_is_direction_less_the_softmax_of_the_rest(logits, arguments):
    score, step = Score.of(CLASSES, *arguments), 1e-5
    steps = step * np.eye(CLASSES)
    seen = (score.bits(logits + steps) - score.bits(logits - steps)) * LN2 / (2 * step)
    np.testing.assert_allclose(seen, cotangent(score, logits), atol=1e-8)
    if len(arguments) == 1:
        np.testing.assert_allclose(cotangent(score, logits), oracles.log_odds_cotangent(logits, 2), atol=1e-12)
        assert np.abs(seen - score.direction).max() > 0.1  # the control: the rest does count


@pytest.mark.parametrize("arguments", [(1,), (1, 3), (1, None, "logit")])
def test_the_backward_graph_knows_the_same_score(arguments, tiny_model, rng):
    """O5, through the engine: the graph's gradient is grad p / (p (1 - p)), grad z_c - grad z_d, or grad z_c."""
    deployed = DeployedModel(tiny_model, device="cpu")
    cut = deployed.graph.find("deep.add")  # its tail is linear: logit gradients are exact
    features = rng.normal(size=(3, *cut.shape)).astype(np.float32)
    gradient = deployed.gradient(cut)
    jacobian = np.stack([gradient(features, row, np.zeros(5))[1] for row in np.eye(5)], axis=1).astype(np.float64)
    score = Score.of(5, *arguments)
    logits, seen = gradient(features, score.direction, score.rest)
    expected = np.stack([np.tensordot(cotangent(score, z), j, axes=1) for z, j in zip(logits, jacobian, strict=True)])
    np.testing.assert_allclose(seen, expected, atol=1e-6)
    if len(arguments) == 1:
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        slope = np.stack([np.tensordot(q[1] * (np.eye(5)[1] - q), j, axes=1) for q, j in zip(p, jacobian, strict=True)])
        odds = slope / (p[:, 1] * (1 - p[:, 1]))[:, None, None, None]
        np.testing.assert_allclose(seen, odds, atol=1e-5 * np.abs(odds).max())
    assert np.abs(seen - jacobian[:, 3]).max() > 1e-3  # the control: another class
