"""Classes of which one holds, labels of which each holds or not: probabilities, scores, evidence by every engine."""

import math
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_evidence import DeployedModel, Explainer
from onnx_evidence.errors import SettingError
from onnx_evidence.evaluation.flipping import Ranking, flip
from onnx_evidence.evidence.class_kind import CLASS_KINDS, EXCLUSIVE, INDEPENDENT
from onnx_evidence.evidence.difference import remove_windows, window_evidence
from onnx_evidence.evidence.odds import LN2
from onnx_evidence.evidence.score import Score
from onnx_evidence.evidence.sequential import Asked, Draws, sample_windows
from onnx_evidence.evidence.windows import Windows
from tests import tiny

K = 5
logits_of_any_size = st.lists(st.floats(-700, 700), min_size=K, max_size=K).map(np.array)
WINDOWS = Windows.place((4, 4), 2, 1)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(logits=logits_of_any_size, c=st.integers(0, K - 1))
def test_log_odds_of_an_independent_label_are_its_logit(logits, c):
    found = INDEPENDENT.log_probabilities(logits[None], [c])
    assert found.log_odds[0, 0] == pytest.approx(logits[c], rel=1e-14, abs=1e-15)
    assert Score.of(K, c, class_kind=INDEPENDENT).bits(logits[None])[0] == pytest.approx(logits[c] / LN2, rel=1e-14)
    assert math.exp(found.log_p[0, 0]) == pytest.approx(1 / (1 + math.exp(-logits[c])), rel=1e-12)
    assert math.exp(found.log_q[0, 0]) == pytest.approx(1 / (1 + math.exp(logits[c])), rel=1e-12)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(logits=st.lists(st.floats(-30, 30), min_size=K, max_size=K).map(np.array), c=st.integers(0, K - 1))
def test_a_versus_is_a_difference_of_logits_for_both(logits, c):
    d = (c + 2) % K
    for kind in CLASS_KINDS.values():
        one, other = (kind.log_probabilities(each[None], [c, d]) for each in (logits, np.zeros(K)))
        parts = [type(one)(each.log_p[:, k], each.log_q[:, k]) for k in (0, 1) for each in (one, other)]
        bits = kind.contrast(*parts)[0]
        assert bits == pytest.approx((logits[c] - logits[d]) / LN2, rel=1e-9, abs=1e-9)
        assert Score.of(K, c, d, class_kind=kind).bits(logits[None])[0] == pytest.approx(bits, rel=1e-9, abs=1e-9)


def test_the_two_kinds_differ_and_two_exclusive_classes_of_which_one_is_zero_are_one_label():
    logits = np.array([[2.0, 1.0, 0.0, -1.0, -2.0]])
    exclusive, independent = (Score.of(K, 0, class_kind=kind).bits(logits)[0] for kind in CLASS_KINDS.values())
    assert abs(exclusive - independent) > 1
    # softmax(0, z)[1] = sigmoid(z), and so are its odds.
    binary = EXCLUSIVE.log_probabilities(np.array([[0.0, 1.7]]), [1])
    label = INDEPENDENT.log_probabilities(np.array([[1.7]]), [0])
    np.testing.assert_allclose([binary.log_p, binary.log_q], [label.log_p, label.log_q], rtol=1e-12)


# --- removal of windows ---------------------------------------------------------------------------------------


class Noise:
    """Draws from a normal distribution: antithetic pairs, keyed by place."""

    deterministic = False

    def draw(self, features, site, size, count, key):
        rng = np.random.default_rng([*key, *site])
        half = rng.normal(size=(count // 2, len(features), *size))
        return np.stack([half, -half], axis=1).reshape(-1, len(features), *size).astype(features.dtype)


class Zero:
    """Nothing."""

    deterministic = True

    def draw(self, features, site, size, count, key):
        return np.zeros((count, len(features), *size), features.dtype)


@pytest.fixture
def toy(rng: np.random.Generator):
    """Features (2, 4, 4), and three logits that are linear in them: windows add up by hand."""
    features = rng.normal(size=(2, 4, 4)).astype(np.float32)
    weights = rng.normal(size=(3, 2, 4, 4)) * 0.3

    def predict(batch):
        return np.einsum("ncij,kcij->nk", batch.astype(np.float64), weights)

    return features, weights, predict


@pytest.mark.parametrize(("target", "versus"), [(0, None), (2, None), (0, 2), (2, 1)])
def test_removal_by_a_constant_takes_off_the_label_s_own_logit(toy, target: int, versus: int | None):
    features, weights, predict = toy
    removal = remove_windows(features, predict, Zero(), WINDOWS, [0, 1, 2], class_kind=INDEPENDENT)
    found = window_evidence(removal, target, versus).bits
    form = weights[target] - (0 if versus is None else weights[versus])
    share = (form * features).sum(axis=0)
    expected = [share[row : row + 2, col : col + 2].sum() / LN2 for row, col in WINDOWS.sites()]
    np.testing.assert_allclose(found.ravel(), expected, atol=1e-6)
    if versus is None:  # the control: of exclusive classes the others count
        other = window_evidence(remove_windows(features, predict, Zero(), WINDOWS, [0, 1, 2]), target).bits
        assert np.abs(found - other).max() > 0.1


@pytest.mark.parametrize("versus", [None, 1])
def test_sampled_removal_takes_the_odds_of_the_mean_probability(toy, versus: int | None):
    features, _, predict = toy
    removal = remove_windows(
        features, predict, Noise(), WINDOWS, [0, 1, 2], samples=6, key=(3,), class_kind=INDEPENDENT
    )
    found = window_evidence(removal, 0, versus)
    site = list(WINDOWS.sites())[4]
    copies = np.repeat(features[None], 6, axis=0)
    copies[:, :, site[0] : site[0] + 2, site[1] : site[1] + 2] = Noise().draw(features, site, (2, 2), 6, (3,))
    p, full = 1 / (1 + np.exp(-predict(copies))), predict(features[None])[0]
    odds = [full[k] - math.log(p[:, k].mean() / (1 - p[:, k].mean())) for k in range(3)]
    expected = odds[0] if versus is None else odds[0] - odds[versus]
    assert found.bits.ravel()[4] == pytest.approx(expected / LN2, abs=1e-9)
    # The delta method by differences: how the answer moves when each pair weighs a little more.
    pairs = p.reshape(3, 2, 3).mean(axis=1)

    def answer(weights):
        mean = weights @ pairs / weights.sum()
        logit = np.log(mean / (1 - mean))
        return -(logit[0] if versus is None else logit[0] - logit[versus]) / LN2

    step = 1e-5
    pull = np.array([(answer(1 + step * row) - answer(1 - step * row)) / (2 * step) for row in np.eye(3)])
    # Moving one weight of three moves the mean by a third of its distance from it.
    assert found.error.ravel()[4] == pytest.approx((3 * pull).std(ddof=1) / math.sqrt(3), rel=1e-4)


def test_sequential_sampling_knows_the_same_kind(toy):
    features, _, predict = toy
    draws = Draws(features, predict, Noise(), (2, 2), [0, 1, 2], (3,), 32, lambda rows: None, INDEPENDENT)
    asked = [Asked(0), Asked(0, 2)]
    sampled = sample_windows(draws, WINDOWS, asked, 1e-9, most=8)
    removal = remove_windows(
        features, predict, Noise(), WINDOWS, [0, 1, 2], samples=8, key=(3,), class_kind=INDEPENDENT
    )
    for found, each in zip(sampled.evidence, asked, strict=True):
        np.testing.assert_allclose(found.bits, window_evidence(removal, each.target, each.versus).bits, atol=1e-12)


def test_flipping_reads_the_label_s_own_odds(toy):
    features, _, predict = toy
    ranking = Ranking(np.arange(16).reshape(4, 4), 16)
    fill = lambda mask: np.where(mask, 0, features)[None]  # noqa: E731
    flips = flip(predict, fill, ranking, 1, steps=4, class_kind=INDEPENDENT)
    ends = [predict(each[None])[0, 1] for each in (features, np.zeros_like(features))]
    assert flips.most.bits[[0, -1]] == pytest.approx(np.array(ends) / LN2)
    assert flips.most.probability[[0, -1]] == pytest.approx(1 / (1 + np.exp(-np.array(ends))))


# --- the whole way --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def labelled(tmp_path_factory) -> Path:
    """The tiny classifier with a sigmoid at its end."""
    return tiny.save(tiny.classifier(ending="sigmoid"), tmp_path_factory.mktemp("sigmoid") / "m.onnx")


def test_laplace_counts_two_outcomes_of_a_label(labelled):
    Explainer(labelled, device="cpu", method="window", laplace=(100, 2)).close()
    with pytest.raises(SettingError, match=r"laplace 100,5: .* 2 for a label that holds or not: give --laplace 100,2"):
        Explainer(labelled, device="cpu", method="window", laplace=(100, 5))


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (40, 44, 3)).astype(np.uint8)


def own_probabilities(path: Path, inputs: np.ndarray) -> np.ndarray:
    """What the file itself gives, run by ONNX Runtime as it is."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"input": inputs})[0].astype(np.float64)


@pytest.mark.parametrize(
    "chosen",
    [
        {"method": "integrated", "completeness": 0.01},
        {"method": "window"},
        {"method": "occlusion", "window": 12},
        {"method": "rise-evidence", "samples": 40, "layer": "deep.add"},
        {"method": "rise", "samples": 40},
        {"method": "recipro-cam"},
        {"method": "hirescam"},
        {"method": "taylor-evidence"},
        {"method": "gradient-x-input"},
    ],
    ids=lambda chosen: chosen["method"],
)
def test_maps_of_a_label_do_not_depend_on_the_other_labels(tmp_path: Path, picture, chosen: dict):
    """The control is the softmax: there a class's map changes when the other logits do."""
    changed = {}
    for ending in ("sigmoid", "softmax"):
        maps = []
        for factor in (1.0, -3.0):
            model = tiny.classifier(ending=ending)
            (matrix,) = [each for each in model.graph.initializer if each.name == "w6"]
            values = onnx.numpy_helper.to_array(matrix).copy()
            values[[0, 2, 3, 4]] *= factor
            matrix.CopyFrom(onnx.numpy_helper.from_array(values, "w6"))
            explainer = Explainer(tiny.save(model, tmp_path / f"{ending}{factor}.onnx"), device="cpu", **chosen)
            maps.append(explainer.explain(picture, target=1).values)
        changed[ending] = float(np.abs(maps[0] - maps[1]).max() / np.abs(maps[0]).max())
    assert changed["sigmoid"] < 1e-4
    # What is taken of logits alone never depends on others.
    assert changed["softmax"] > 1e-2


def test_numbers_of_an_explanation_are_those_of_the_file(labelled: Path, picture):
    explainer = Explainer(labelled, device="cpu", layer="block.add", completeness=0.001)
    deployed = explainer.deployed
    p = own_probabilities(labelled, deployed.prepare(picture)[1][None])[0]
    assert abs(p.sum() - 1) > 0.05, "not exclusive"
    for target in (0, 3):
        found = explainer.explain(picture, target=target)
        assert found.probability == pytest.approx(p[target], abs=1e-6)
        assert found.log_odds_bits == pytest.approx(math.log2(p[target] / (1 - p[target])), abs=1e-4)
        budget = found.budget
        assert budget.with_features == pytest.approx(found.log_odds_bits, abs=1e-4)
        assert found.values.sum() == pytest.approx(budget.with_features - budget.without, rel=0.01)
    assert explainer.explain(picture).target.number == int(p.argmax())
    versus = explainer.explain(picture, target=0, versus=3)
    log_odds = np.log2(p / (1 - p))
    assert versus.budget.with_features == pytest.approx(log_odds[0] - log_odds[3], abs=1e-4)


def test_ordered_evidence_adds_up_to_the_label_s_own_bits(labelled: Path, picture):
    found = Explainer(labelled, device="cpu", method="ordered").explain(picture, target=3)
    assert found.budget.with_features == pytest.approx(found.log_odds_bits, abs=1e-4)
    assert found.values.sum() == pytest.approx(found.budget.with_features - found.budget.without, abs=1e-3)


def test_links_walk_for_independent_labels(labelled: Path, picture):
    from onnx_evidence.evaluation.links import walk

    deployed = DeployedModel(labelled, device="cpu")
    inputs = deployed.prepare(picture)[1]
    walked = walk(deployed, deployed.graph.find("block.add"), inputs, 2)
    assert walked.proof < 0.01
