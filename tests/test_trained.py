"""Trained networks (models/scenes; 0.95 of held-out scenes right): evidence is where the object is, and in its parts.

Networks with random weights, which most tests run on, have nothing to find.
"""

from pathlib import Path

import cv2
import numpy as np
import pytest
from parts.scenes import judges
from parts.scenes.scene import HELD_OUT, draw_scene, render

from onnx_evidence import DeployedModel, Explainer
from onnx_evidence.evaluation.randomise import choose_stages
from onnx_evidence.evaluation.sanity import check_sanity
from onnx_evidence.pictures.photograph import Photograph

FOLDER = Path(__file__).parent.parent / "models" / "scenes"
NETWORKS = sorted(path.name for path in FOLDER.glob("*.onnx"))
# The others are for `make test-long`.
ALWAYS = ("resnet-half.onnx", "depthwise-half.onnx", "swin-half.onnx", "vit-half.onnx")
# Seen by no network, and by no study.
FIRST = HELD_OUT + 30_000


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=[] if name in ALWAYS else pytest.mark.long) for name in NETWORKS]
)
def deployed(request: pytest.FixtureRequest) -> DeployedModel:
    return DeployedModel(FOLDER / request.param, device="cpu")


@pytest.fixture(scope="module")
def truths(deployed: DeployedModel) -> list[judges.Truth]:
    return [judges.find_truth(deployed, FIRST + number) for number in range(6)]


def test_there_are_trained_networks():
    assert set(ALWAYS) < set(NETWORKS)
    assert len(NETWORKS) == 7


def test_the_network_has_learned_what_scenes_are(deployed):
    scenes = [draw_scene(FIRST + number) for number in range(100)]
    answers = [deployed.logits(deployed.prepare(render(scene))[1][None])[0].argmax() for scene in scenes]
    assert np.mean([answer == scene.label for answer, scene in zip(answers, scenes, strict=True)]) >= 0.85


def test_evidence_lies_on_the_object_and_tells_what_parts_are_worth(deployed, truths):
    found: dict[str, list[dict[str, float]]] = {"default": [], "turned": [], "another class": []}
    with Explainer(deployed) as explainer:
        for truth in truths:
            target = truth.case.target
            other = int(np.argsort(deployed.logits(truth.case.inputs[None])[0])[-8])
            values = explainer.explain(truth.case.photograph, target=target).values.astype(np.float64)
            against = explainer.explain(truth.case.photograph, target=other).values.astype(np.float64)
            for name, map_ in (("default", values), ("turned", values[::-1, ::-1]), ("another class", against)):
                found[name].append(judges.judge(deployed, truth, map_))
    mean = {name: {key: np.nanmean([each[key] for each in rows]) for key in rows[0]} for name, rows in found.items()}
    assert mean["default"]["object"] > 0.75
    assert mean["default"]["srg"] > 0.55
    assert mean["default"]["things"] > 0.4
    # The controls: the same map elsewhere, and the same picture asked about another class.
    assert mean["turned"]["object"] < mean["default"]["object"] - 0.2
    for name in ("turned", "another class"):
        assert mean[name]["srg"] < mean["default"]["srg"] - 0.3


def test_bits_add_up_along_the_curve_of_a_trained_network(deployed, truths):
    budgets = []
    with Explainer(deployed, background="mean") as explainer:
        for truth in truths:
            budget = explainer.explain(truth.case.photograph).budget
            assert budget is not None
            assert budget.gap_share <= 0.05
            budgets.append(budget)
    # Decisions, unlike those of random weights: most of the evidence is for them.
    assert np.mean([each.with_features - each.without for each in budgets]) > 5
    assert sum(each.supporting for each in budgets) > 2 * sum(-each.opposing for each in budgets)


def edges(deployed: DeployedModel, picture: Photograph, target: int) -> np.ndarray:
    """Draws edges, whatever the model."""
    return np.abs(cv2.Laplacian(picture.pixels.mean(axis=2), cv2.CV_64F))


def test_a_planted_edge_detector_fails_on_every_family(deployed, truths):
    stages = choose_stages(deployed, [deployed.graph.cuts[1].name])
    pictures = [truth.case.photograph for truth in truths[:2]]
    checks = check_sanity(deployed, edges, pictures, stages, draws=1)
    assert len(checks) >= 9
    assert [check.name for check in checks if check.passed] == ["blank picture"]
