"""Methods that remove without gradients, through `Explainer` and the command, against loops over a deployed model."""

import json
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import numpy_helper

from onnx_evidence import CutError, DeployedModel, Explainer, SettingError
from onnx_evidence.cli import main
from onnx_evidence.evidence.odds import LN2
from onnx_evidence.methods.background_file import save_background
from onnx_evidence.methods.fit import fit_background
from onnx_evidence.methods.table import METHODS
from tests import oracles

TARGET, RIVAL = 3, 4
MASKED = ["rise", "rise-evidence", "recipro-cam", "ablation-cam", "score-cam"]
RANDOM = MASKED[:2]


def options(method: str, samples: int = 40) -> dict[str, int]:
    return {"samples": samples} if method in RANDOM else {}


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return oracles.ar_picture(5, 60, 44)


@pytest.fixture(scope="module")
def deployed(tiny_model: Path) -> DeployedModel:
    return DeployedModel(tiny_model, device="cpu")


@pytest.fixture(scope="module")
def inputs(deployed: DeployedModel, picture: np.ndarray) -> np.ndarray:
    return deployed.prepare(picture)[1]


@pytest.fixture(scope="module")
def fitted(deployed: DeployedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fitted")
    for number in range(12):
        cv2.imwrite(str(folder / f"{number}.png"), oracles.ar_picture(number, 40, 40))
    save_background(folder / "b.npz", fit_background(deployed, ["input", "deep.add"], sorted(folder.glob("*.png"))))
    return folder / "b.npz"


def explain(deployed: DeployedModel, picture: np.ndarray, method: str, versus: int | None = None, **settings):
    return Explainer(deployed, method=method, **settings).explain(picture, target=TARGET, versus=versus)


def probability(logits: np.ndarray, c: int = TARGET) -> float:
    powers = np.exp(logits - logits.max())
    return float(powers[c] / powers.sum())


def bits(logits: np.ndarray) -> float:
    return oracles.exact_log_odds(logits, TARGET) / LN2


# RISE


@pytest.fixture
def study():
    """The class that the study measures RISE with."""
    import integrated

    return integrated.Rise


def test_rise_is_the_one_of_the_study(study, deployed, picture, inputs):
    theirs = study(deployed, 70)
    own = explain(deployed, picture, "rise", samples=70)
    # Theirs are kept as float16, and not divided by what a mask expects.
    (found,), _ = theirs.maps((Path("x"), inputs, TARGET), [70])
    np.testing.assert_allclose(own.values, found / 0.5, rtol=2e-3)
    masks = []
    rng = np.random.default_rng(0)
    for _ in range(70):
        small = (rng.random((7, 7)) < 0.5).astype(np.float32)
        big = cv2.resize(small, (40, 40), interpolation=cv2.INTER_LINEAR)
        top, left = rng.integers(5), rng.integers(5)
        masks.append(big[top : top + 32, left : left + 32])
    theirs.masks = np.array(masks)
    (found,), _ = theirs.maps((Path("x"), inputs, TARGET), [70])
    np.testing.assert_allclose(own.values, found / 0.5, rtol=3e-6)
    other = explain(deployed, picture, "rise", samples=70, seed=1)
    assert np.abs(own.values - other.values).max() > 1e-3


@pytest.mark.parametrize(("layer", "background"), [("block.add", None), ("block.add", "zero"), ("deep.add", "blur")])
@pytest.mark.parametrize("method", RANDOM)
def test_random_masks_of_features_blend_them_with_their_background(
    method, layer, background, deployed, picture, inputs
):
    seen = explain(deployed, picture, method, layer=layer, background=background, samples=24)
    cut = deployed.graph.find(layer)
    head, tail = deployed.head(cut), deployed.tail(cut)
    features = head(inputs[None])[0]
    hidden = {
        None: features.mean(axis=(1, 2), keepdims=True) * np.ones_like(features),
        "zero": np.zeros_like(features),
        "blur": head(np.stack([cv2.GaussianBlur(each, (0, 0), 32 * 11 / 224) for each in inputs])[None])[0],
    }[background]
    grid = features.shape[1:]
    side, rng = {16: 7, 8: 4}[grid[0]], np.random.default_rng(0)
    cell, masks, scores = -(-grid[0] // side), [], []
    for _ in range(24):
        small = (rng.random((side, side)) < 0.5).astype(np.float32)
        big = cv2.resize(small, ((side + 1) * cell,) * 2, interpolation=cv2.INTER_LINEAR)
        top, left = rng.integers(cell), rng.integers(cell)
        masks.append(big[top : top + grid[0], left : left + grid[1]].astype(np.float64))
        logits = tail((hidden + masks[-1].astype(np.float32) * (features - hidden))[None])[0]
        scores.append(probability(logits) if method == "rise" else bits(logits))
    slow = np.zeros(grid)
    for i, j in product(*map(range, grid)):
        values = [mask[i, j] for mask in masks]
        if method == "rise":
            slow[i, j] = np.mean([2 * p * m for p, m in zip(scores, values, strict=True)])
        else:
            slow[i, j] = np.polyfit(values, scores, 1)[0]
    np.testing.assert_allclose(seen.grids[0], slow, atol=2e-4 * np.abs(slow).max())
    assert np.ptp(slow) > 0.05 * np.abs(slow).max()
    field = Explainer(deployed, method=method, layer=layer, samples=3).engines[0].field
    np.testing.assert_allclose(seen.values, field.to_input(slow), atol=2e-4 * np.abs(slow).max())


@pytest.mark.parametrize("settings", [{}, {"layer": ["block.add", "deep.add"]}])
def test_standard_errors_of_rise_are_the_spread_over_seeds(settings, deployed, picture):
    runs = [explain(deployed, picture, "rise", samples=50, seed=seed, **settings) for seed in range(40)]
    seen = np.std([run.values for run in runs], axis=0, ddof=1)
    said = np.sqrt(np.mean([run.stderr**2 for run in runs], axis=0))
    if settings:  # cells, and cuts, err together: what is said is a bound
        assert 0.9 < np.median(said / seen) < 1.6
    else:
        assert np.median(said / seen) == pytest.approx(1, abs=0.15)


def test_rise_at_several_cuts_is_their_mean(deployed, picture):
    both, *single = (
        explain(deployed, picture, "rise", layer=layer, samples=20)
        for layer in (["block.add", "deep.add"], "block.add", "deep.add")
    )
    np.testing.assert_allclose(both.values, (single[0].values + single[1].values) / 2, atol=1e-6)
    np.testing.assert_allclose(both.stderr, (single[0].stderr + single[1].stderr) / 2, rtol=1e-4)
    assert np.abs(single[0].values - single[1].values).max() > 1e-3


# Recipro-CAM, Ablation-CAM, Score-CAM


def tail_of(deployed: DeployedModel, inputs: np.ndarray, layer: str):
    cut = deployed.graph.find(layer)
    return deployed.head(cut)(inputs[None])[0], deployed.tail(cut)


@pytest.mark.parametrize("background", [None, "mean"])
@pytest.mark.parametrize("layer", [None, "block.add"])
def test_recipro_cam_leaves_one_cell_at_a_time(layer, background, deployed, picture, inputs):
    seen = explain(deployed, picture, "recipro-cam", layer=layer or "auto", background=background)
    features, tail = tail_of(deployed, inputs, layer or "deep.add")
    hidden = features.mean(axis=(1, 2)) if background else np.zeros(len(features))
    rows, cols = features.shape[1:]
    slow = np.zeros((rows, cols))
    for i, j in product(range(rows), range(cols)):
        left = np.repeat(hidden[:, None], rows * cols, axis=1).reshape(features.shape)
        for a, b in product((-1, 0, 1), (-1, 0, 1)):
            if 0 <= i + a < rows and 0 <= j + b < cols:
                share = (2 - abs(a)) * (2 - abs(b)) / 16
                left[:, i + a, j + b] = share * features[:, i + a, j + b] + (1 - share) * hidden
        slow[i, j] = probability(tail(left[None].astype(np.float32))[0])
    np.testing.assert_allclose(seen.grids[0], slow, rtol=1e-4)
    assert np.ptp(slow) > 1e-3 * slow.max()
    # The control: cells are not numbered column by column.
    assert np.abs(seen.grids[0] - slow.T).max() > 0.1 * np.ptp(slow)


@pytest.mark.parametrize(("target", "versus"), [(TARGET, None), (TARGET, RIVAL), (0, None)])
@pytest.mark.parametrize("layer", [None, "block.add"])
def test_ablation_cam_removes_one_channel_at_a_time(layer, target, versus, deployed, picture, inputs):
    explainer = Explainer(deployed, method="ablation-cam", layer=layer or "auto")
    seen = explainer.explain(picture, target=target, versus=versus)
    features, tail = tail_of(deployed, inputs, layer or "deep.add")

    def score(part: np.ndarray) -> float:
        logits = tail(part[None])[0]
        return float(logits[target] - (0 if versus is None else logits[versus]))

    full, slow = score(features), np.zeros(features.shape[1:])
    for k, channel in enumerate(features):
        without = features.copy()
        without[k] = 0
        slow += (full - score(without)) / abs(full) * channel
    np.testing.assert_allclose(seen.grids[0], slow, atol=1e-4 * np.abs(slow).max())
    # The first class has a logit below 0, and so has what is held against the rival: what speaks for it is positive.
    assert (full < 0) == (target == 0 or versus is not None)
    assert slow.min() < 0 < slow.max()


def test_ablation_cam_behind_everything_but_pooling_is_known(deployed, picture, inputs, tiny_model):
    """The tail of the last cut is the mean of every channel and a matrix: removal is ``w_k mean h_k``."""
    features, tail = tail_of(deployed, inputs, "deep.add")
    (weights,) = (numpy_helper.to_array(w) for w in onnx.load(tiny_model).graph.initializer if w.name == "w6")
    logit = tail(features[None])[0, TARGET]
    shares = weights[TARGET] * features.mean(axis=(1, 2)) / abs(logit)
    seen = explain(deployed, picture, "ablation-cam").grids[0]
    np.testing.assert_allclose(seen, np.einsum("k,kij->ij", shares, features), atol=1e-5)
    cam = np.einsum("k,kij->ij", weights[TARGET], features)
    assert np.abs(np.corrcoef(seen.ravel(), cam.ravel())[0, 1]) < 0.999


@pytest.mark.parametrize("layer", [None, "block.add"])
def test_score_cam_shows_the_picture_through_each_channel(layer, deployed, picture, inputs):
    seen = explain(deployed, picture, "score-cam", layer=layer or "auto")
    features, _ = tail_of(deployed, inputs, layer or "deep.add")
    blank = deployed.logits(np.zeros_like(inputs)[None])[0, TARGET]
    increases = []
    for channel in features:
        big = cv2.resize(channel, (32, 32), interpolation=cv2.INTER_LINEAR)
        mask = (big - big.min()) / np.ptp(big) if np.ptp(big) else np.zeros_like(big)
        increases.append(deployed.logits((mask * inputs)[None])[0, TARGET] - blank)
    weights = np.exp(increases) / np.exp(increases).sum()
    slow = np.einsum("k,kij->ij", weights, features)
    np.testing.assert_allclose(seen.grids[0], slow, atol=1e-4 * np.abs(slow).max())
    unweighted = features.mean(axis=0)
    assert np.abs(slow - unweighted).max() > 0.05 * np.abs(slow).max()


# All of them


@pytest.mark.parametrize("method", MASKED)
def test_classes_are_answered_from_the_same_passes_and_batches_change_nothing(method, deployed, picture):
    explainer, ticks = Explainer(deployed, method=method, **options(method)), []
    maps = explainer.explain_all(picture, [0, TARGET], progress=ticks.append)
    assert sum(ticks) == explainer.rows(2) == explainer.rows(1) > 0
    np.testing.assert_allclose(maps[1].values, explain(deployed, picture, method, **options(method)).values, atol=1e-6)
    assert np.abs(maps[0].values - maps[1].values).max() > 1e-4
    for size in (1, 7, 500):
        again = explain(deployed, picture, method, batch_size=size, **options(method))
        scale = np.abs(maps[1].values).max()
        np.testing.assert_allclose(again.values, maps[1].values, atol=1e-4 * scale)
        np.testing.assert_allclose(again.stderr, maps[1].stderr, rtol=1e-3)
    assert np.isnan(maps[0].stderr).all() == (method not in RANDOM)


@pytest.mark.parametrize("method", ["rise", "rise-evidence", "recipro-cam", "ablation-cam"])
def test_held_against_a_rival_maps_are_antisymmetric(method, deployed, picture):
    forth = explain(deployed, picture, method, versus=1, **options(method))
    back = Explainer(deployed, method=method, **options(method)).explain(picture, target=1, versus=TARGET)
    scale = np.abs(forth.values).max()
    np.testing.assert_allclose(forth.values, -back.values, atol=1e-5 * scale)
    assert np.abs(forth.values - explain(deployed, picture, method, **options(method)).values).max() > 0.01 * scale


@pytest.mark.parametrize("method", ["rise", "recipro-cam", "ablation-cam"])
def test_a_split_that_is_not_exact_is_refused(method, deployed, picture, monkeypatch):
    explainer = Explainer(deployed, method=method, layer="deep.add", **options(method, 4))
    look = explainer._heads.look

    def wrong(inputs: np.ndarray) -> list[np.ndarray]:
        return [each * np.float32(1.01) for each in look(inputs)]

    explainer.explain(picture)  # the control
    monkeypatch.setattr(explainer._heads, "look", wrong)
    with pytest.raises(CutError, match=r"layer 'deep.add': the model split there differs from the whole"):
        explainer.explain(picture)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "rise", "window": 3}, "no use for --window"),
        ({"method": "rise", "score": "logit"}, "no use for --score: .* rise-evidence$"),
        ({"method": "rise", "completeness": 0.1}, "no use for --completeness"),
        ({"method": "rise-evidence", "samples": 2}, "samples 2: a slope over random masks takes 3"),
        ({"method": "rise-evidence", "project": "backward"}, "no use for --project"),
        ({"method": "rise", "layer": ["auto", "deep.add"]}, "'auto' chooses alone"),
        ({"method": "rise", "statistic": "channel"}, "'channel' is one of a fitted background"),
        ({"method": "recipro-cam", "samples": 8}, "no use for --samples: .* rise, rise-evidence$"),
        ({"method": "recipro-cam", "layer": ["down", "deep.add"]}, "takes one layer, not 2"),
        ({"method": "ablation-cam", "background": "mean"}, "no use for --background: .* recipro-cam$"),
        ({"method": "score-cam", "background": "mean"}, "no use for --background"),
        ({"method": "score-cam", "laplace": (3, 5)}, "no use for --laplace"),
    ],
)
def test_what_a_method_has_no_use_for_is_refused(deployed, settings, message):
    with pytest.raises(SettingError, match=message):
        Explainer(deployed, **settings)


@pytest.mark.parametrize("method", ["rise", "rise-evidence", "recipro-cam"])
def test_a_folder_hides_nothing(method, deployed, tmp_path):
    with pytest.raises(SettingError, match=rf"'{method}' hides features behind one background, .*: take mean, zero"):
        Explainer(deployed, method=method, background=tmp_path)


@pytest.mark.parametrize("method", MASKED)
def test_the_command_writes_maps_in_the_methods_unit(method, tiny_model, picture, fitted, tmp_path):
    cv2.imwrite(str(tmp_path / "p.png"), picture[:, :, ::-1])
    arguments = ["explain", tiny_model, tmp_path / "p.png", "--method", method, "--target", "dog"]
    if method in RANDOM:
        arguments += ["--samples", 200]
    if method in ("rise", "recipro-cam"):
        arguments += ["--background", fitted, "--statistic", "channel"]
    entries, files = [], []
    for name in "ab":
        result = CliRunner().invoke(main, [str(each) for each in (*arguments, "-o", tmp_path / name)])
        assert result.exit_code == 0, result.output
        (line,) = (tmp_path / name / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
        entries.append(json.loads(line))
        files.append((tmp_path / name / entries[-1]["map"]).read_bytes())
    assert files[0] == files[1]
    entry, (cut,) = entries[0], entries[0]["cuts"]
    assert entry["unit"] == METHODS[method].unit
    assert (entry["settings"]["method"], entry["budget"]) == (method, None)
    assert cut["name"] == ("input" if method in RANDOM else "deep.add")
    counts = {"recipro-cam": 64, "ablation-cam": 12, "score-cam": 12}
    assert cut.get("samples") == (200 if method in RANDOM else None)
    assert cut.get("masks") == counts.get(method)
    assert cut["certificate"] < 1e-5
    assert (entry["strongest_for"]["stderr"] is None) == (method not in RANDOM)
    hidden = "the channel means of" if method in ("rise", "recipro-cam") else "zero"
    assert entry["background"].startswith(hidden)
    with np.load(tmp_path / "a" / entry["map"]) as arrays:
        assert np.isfinite(arrays["input_pixels"]).all()
        assert np.ptp(arrays["input_pixels"]) > 1e-5
        assert np.isnan(arrays["stderr"]).all() == (method not in RANDOM)
