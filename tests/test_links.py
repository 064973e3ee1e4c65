"""The walk from removal to the gradient, and the commands `links` and `gradient`."""

import json
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_evidence import DeployedModel, Explainer
from onnx_evidence.cli import main
from onnx_evidence.evaluation.links import rank_correlation, walk
from onnx_evidence.evidence.difference import remove_windows, window_evidence
from onnx_evidence.evidence.odds import LN2
from onnx_evidence.evidence.path import integrate
from onnx_evidence.evidence.samplers import MeanSampler
from onnx_evidence.evidence.score import Score
from onnx_evidence.evidence.windows import Windows
from tests import oracles, tiny
from tests.test_gradient_methods import Twin

NAMES = [
    "removal of windows",
    "path integral",
    "first-order evidence",
    "HiResCAM",
    "Grad-CAM, signed",
    "Grad-CAM",
    "gradient x input",
    "gradient",
]
LAYER = "block.add"


@pytest.fixture(scope="module")
def deployed(tiny_model: Path) -> DeployedModel:
    return DeployedModel(tiny_model, device="cpu")


@pytest.fixture(scope="module")
def photograph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    field = oracles.ar_fields(np.random.default_rng(5), 3, 60, 0.9).transpose(1, 2, 0)[:, :44]
    path = tmp_path_factory.mktemp("links") / "p.png"
    cv2.imwrite(str(path), np.clip(128 + 60 * field, 0, 255).astype(np.uint8))
    return path


def spearman(first: np.ndarray, second: np.ndarray) -> float:
    """Ranks by counting: how many are smaller, and half of the equal ones."""
    ranks = []
    for each in (first.ravel(), second.ravel()):
        smaller, equal = each[:, None] > each, each[:, None] == each
        ranks.append(smaller.sum(axis=1) + (equal.sum(axis=1) + 1) / 2)
    return float(np.corrcoef(*ranks)[0, 1])


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    pairs=st.lists(st.tuples(st.integers(-4, 4), st.floats(-1e3, 1e3)), min_size=3, max_size=40).filter(
        lambda each: min(len(set(column)) for column in zip(*each, strict=True)) > 1
    )
)
def test_rank_correlation_is_spearmans_also_with_ties(pairs):
    first, second = np.array(pairs, dtype=np.float64).T
    seen = rank_correlation(first, second)
    assert seen == pytest.approx(spearman(first, second), abs=1e-12)
    assert rank_correlation(second, first) == pytest.approx(seen, abs=1e-12)
    assert rank_correlation(first, -second) == pytest.approx(-seen, abs=1e-12)
    assert rank_correlation(first**3, second) == pytest.approx(seen, abs=1e-12)  # ranks alone count


def test_rank_correlation_of_a_constant_is_no_number():
    assert np.isnan(rank_correlation(np.zeros(5), np.arange(5.0)))
    assert rank_correlation(np.arange(6.0).reshape(2, 3), np.exp(np.arange(6.0)).reshape(2, 3)) == pytest.approx(1)


@pytest.mark.parametrize("versus", [None, 3])
def test_the_walk_is_the_methods_themselves(versus, deployed, photograph):
    """Every step is the map of a method of its own, on the grid of the cut."""
    inputs = deployed.prepare(photograph)[1]
    links = walk(deployed, deployed.graph.find(LAYER), inputs, 1, versus)
    assert [step.name for step in links.steps] == NAMES
    assert all(step.change for step in links.steps)
    assert 0 <= links.proof < 0.05
    maps = [step.values for step in links.steps]
    assert {each.shape for each in maps} == {(16, 16)}
    correlations = [step.correlation for step in links.steps]
    assert np.isnan(correlations[0])
    assert correlations[1:] == pytest.approx([spearman(*pair) for pair in pairwise(maps)], abs=1e-12)
    assert max(correlations[1:]) < 1  # every step changes something

    def explain(method: str, **options) -> np.ndarray:
        return Explainer(deployed, method=method, **options).explain(photograph, target=1, versus=versus).grids[0]

    inside = {"layer": LAYER}
    pooled = explain("grad-cam", **inside)
    by_pixel = [explain(each).reshape(16, 2, 16, 2).sum(axis=(1, 3)) for each in ("gradient-x-input", "gradient")]
    expected = [
        explain("window", stride=1, **inside),
        explain("integrated", background="mean", **inside),
        explain("taylor-evidence", **inside),
        explain("hirescam", **inside),
        pooled,
        np.maximum(pooled, 0),
        *by_pixel,
    ]
    for seen, own in zip(maps, expected, strict=True):
        np.testing.assert_allclose(seen, own, atol=1e-3 * np.abs(own).max())
    for seen, other in zip(maps, expected[1:], strict=False):
        assert np.abs(seen - other).max() > 0.02 * np.abs(seen).max()


@pytest.mark.parametrize("versus", [None, 3])
def test_the_proof_compares_paths_of_windows_with_their_exact_removal(versus, deployed, photograph):
    inputs = deployed.prepare(photograph)[1]
    cut = deployed.graph.find(LAYER)
    features, tail = deployed.head(cut)(inputs[None])[0], deployed.tail(cut)
    windows = Windows.place(cut.grid, 3)
    removal = remove_windows(features, tail, MeanSampler(), windows, [1, 3])
    exact = window_evidence(removal, 0, None if versus is None else 1).bits
    gaps = []
    for row, col in ((0, 0), (3, 7), (7, 0), (10, 7)):  # each 49th of 14 x 14
        removed = features.copy()
        removed[:, row : row + 3, col : col + 3] = features.mean(axis=(1, 2))[:, None, None]
        path = integrate(features, removed, deployed.gradient(cut), Score.of(5, 1, versus), completeness=1e-3)
        gaps.append(abs(path.cells.sum() - exact[row, col]))
    proof = walk(deployed, cut, inputs, 1, versus).proof
    assert proof == pytest.approx(max(gaps), abs=2e-5)
    assert proof > 5e-5  # the control: kinks leave something, and it is measured


def test_behind_the_last_cut_the_walk_stands_still(deployed, photograph):
    """GAP and a linear layer: HiResCAM is Grad-CAM, and a contrast's path is its first order (METHOD 4.4)."""
    inputs = deployed.prepare(photograph)[1]
    steps = walk(deployed, deployed.graph.find("deep.add"), inputs, 1, 3).steps
    assert steps[2].correlation == pytest.approx(1, abs=1e-3)
    assert steps[4].correlation == pytest.approx(1, abs=1e-3)
    np.testing.assert_allclose(steps[3].values, steps[4].values, atol=1e-5)
    earlier = walk(deployed, deployed.graph.find(LAYER), inputs, 1, 3).steps  # the control: rectifiers lie between
    assert max(earlier[2].correlation, earlier[4].correlation) < 0.99


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(each) for each in arguments])


def test_links_writes_a_picture_and_a_report(tiny_model, deployed, photograph, tmp_path):
    out = tmp_path / "out"
    result = run("links", tiny_model, photograph, "-o", out, "--layer", LAYER, "--target", 1, "--versus", "dog")
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in out.iterdir()) == ["links.json", "links.png"]
    assert cv2.imread(str(out / "links.png")).shape[1] > 500
    report = json.loads((out / "links.json").read_text())
    assert (report["cut"], report["question"]) == (LAYER, "bee rather than dog")
    inputs = deployed.prepare(photograph)[1]
    links = walk(deployed, deployed.graph.find(LAYER), inputs, 1, 3)
    assert [step["name"] for step in report["steps"]] == NAMES
    assert report["proof_bits"] == pytest.approx(links.proof, abs=1e-3)
    assert report["steps"][0]["correlation"] is None
    for seen, step in zip(report["steps"][1:], links.steps[1:], strict=True):
        assert seen["correlation"] == pytest.approx(step.correlation, abs=2e-3)
    lines = result.output.splitlines()
    assert lines[0] == "bee rather than dog, cut block.add"
    assert [line[2:26].strip() for line in lines[2:10]] == NAMES


def test_links_takes_the_models_answer_and_a_middle_cut_by_default(tiny_model, deployed, photograph, tmp_path):
    assert run("links", tiny_model, photograph, "-o", tmp_path).exit_code == 0
    report = json.loads((tmp_path / "links.json").read_text())
    top = int(deployed.logits(deployed.prepare(photograph)[1][None]).argmax())
    assert report["question"] == deployed.label(top)
    taken = Explainer(deployed, method="integrated").engines
    assert report["cut"] == taken[len(taken) // 2].cut.name


@pytest.mark.parametrize("word", ["auto", "deep"])
def test_layers_of_links_are_those_of_explain(word, tiny_model, deployed, photograph, tmp_path):
    result = run("links", tiny_model, photograph, "-o", tmp_path, "--layer", word)
    assert result.exit_code == 0, result.output
    taken = Explainer(deployed, method="integrated", layer=word).engines
    assert json.loads((tmp_path / "links.json").read_text())["cut"] == taken[len(taken) // 2].cut.name


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("links", ("--layer", "nowhere")),
        ("links", ("--target", "unicorn")),
        ("links", ("--versus", 17)),
        ("gradient", ("--layer", "nowhere")),
        ("gradient", ("--layer", "block.a")),  # inside a block: no cut
    ],
)
def test_what_cannot_be_used_is_refused_and_no_file_is_left(command, options, tiny_model, photograph, tmp_path):
    out = tmp_path / "out"
    given = (photograph, "-o", out) if command == "links" else ("-o", out / "g.onnx")
    result = run(command, tiny_model, *given, *options)
    assert result.exit_code == 1
    assert result.output.startswith("Error: ")
    assert len(result.output.splitlines()) == 1
    assert str(options[1]) in result.output
    assert not out.exists() or not list(out.iterdir())


@pytest.mark.parametrize("command", ["links", "gradient"])
def test_a_model_without_a_backward_rule_is_refused(command, photograph, tmp_path):
    model, out = tiny.accumulating(tmp_path / "m.onnx"), tmp_path / "out"
    given = (photograph, "-o", out) if command == "links" else ("-o", out / "g.onnx")
    result = run(command, model, *given)
    assert result.exit_code == 1
    assert "Scan (at 'summed')" in result.output
    assert not out.exists()


@pytest.mark.parametrize("layer", [None, "input", "block.add", "deep.add"])
def test_the_saved_gradient_is_a_model_and_right(layer, tiny_model, deployed, photograph, tmp_path):
    out = tmp_path / "g.onnx"
    result = run("gradient", tiny_model, "-o", out, *(("--layer", layer) if layer else ()))
    assert result.exit_code == 0, result.output
    model = onnx.load(out)
    onnx.checker.check_model(model, full_check=True)
    assert f"{len(model.graph.node)} nodes" in result.output
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
    assert [path.name for path in tmp_path.iterdir()] == ["g.onnx"]

    twin, cut = Twin(tiny_model), layer or "input"
    seen = twin.forward(deployed.prepare(photograph)[1][None])
    at = seen[cut].astype(np.float32)
    session = ort.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    rest = np.float32([[1, 0, 1, 1, 1]])
    given = dict(zip((each.name for each in session.get_inputs()), (at, np.float32(np.eye(5)[[1]]), rest), strict=True))
    assert list(given)[1:] == ["cotangent", "rest"]
    outputs = dict(zip((each.name for each in session.get_outputs()), session.run(None, given), strict=True))
    np.testing.assert_allclose(outputs["value"], seen["logits"], atol=1e-4)
    # Along random parts of itself, where kinks count for little.
    gradient = outputs["gradient"][0].astype(np.float64)
    halves = np.random.default_rng(1).integers(0, 2, size=(8, *gradient.shape)) * gradient / np.abs(gradient).max()
    slopes = twin.along(seen[cut][0], halves, cut) * LN2
    np.testing.assert_allclose(np.einsum("ncij,cij->n", halves, gradient), slopes, rtol=1e-3)
    # The control: without the rest it is the gradient of the logit.
    given["rest"] = 0 * rest
    (logit,) = session.run(["gradient"], given)
    assert np.abs(np.einsum("ncij,cij->n", halves, logit[0]) / slopes - 1).min() > 0.01


def test_links_refuses_a_class_against_itself_as_explain_does(tiny_model, deployed, photograph, tmp_path):
    top = int(deployed.logits(deployed.prepare(photograph)[1][None]).argmax())
    for options, codes, words in (
        (("--target", 3, "--versus", 3), (2, 2), "cannot be held against itself"),
        (("--versus", top), (1, 3), "the model's own answer"),
    ):
        outputs = []
        for command, code in zip(("links", "explain"), codes, strict=True):
            result = run(command, tiny_model, photograph, "-o", tmp_path / "out", *options)
            assert result.exit_code == code
            outputs += [line for line in result.output.splitlines() if words in line]
        assert len(outputs) == 2
        assert outputs[0] == outputs[1]
    assert run("links", tiny_model, photograph, "-o", tmp_path, "--versus", (top + 1) % 5).exit_code == 0  # the control
