"""The whole route: a file and a picture become maps in bits, with their error and their record."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from onnx import helper, numpy_helper

from onnx_evidence import CutError, DataError, DeployedModel, Explainer, SettingError
from onnx_evidence.cuts.certificate import certify
from onnx_evidence.errors import GradientError
from onnx_evidence.evidence.difference import remove_windows, window_evidence
from onnx_evidence.evidence.odds import LN2
from onnx_evidence.evidence.samplers import MeanSampler
from onnx_evidence.evidence.windows import Windows
from tests import oracles, tiny

BACKGROUND = Path(__file__).parent.parent / "models" / "efficientnet-lite0.background.npz"


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    field = oracles.ar_fields(np.random.default_rng(5), 3, 60, 0.9).transpose(1, 2, 0)[:, :44]
    return np.clip(128 + 60 * field, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("method", ["integrated", "window"])
def test_map_is_the_mean_over_cuts_and_its_grids_are_evidence(method: str, tiny_model: Path, picture):
    deployed = DeployedModel(tiny_model, device="cpu")
    options = {"combine": "mean"} if method == "integrated" else {}
    both = Explainer(deployed, method=method, layer=["block.add", "deep.add"], **options).explain(picture)
    single = [
        Explainer(deployed, method=method, layer=name, **options).explain(picture) for name in ("block.add", "deep.add")
    ]
    assert np.abs(single[0].values - single[1].values).max() > 1e-3
    np.testing.assert_allclose(both.values, (single[0].values + single[1].values) / 2, atol=1e-6)
    assert [grid.shape for grid in both.grids] == [(16, 16), (8, 8)]
    np.testing.assert_array_equal(both.grids[0], single[0].grids[0])
    _, x, _ = deployed.prepare(picture)
    cut = deployed.graph.find("deep.add")
    features, tail, target = deployed.head(cut)(x[None])[0], deployed.tail(cut), both.target.number
    if method == "window":
        windows = Windows.place((8, 8), 3)
        removal = remove_windows(features, tail, MeanSampler(), windows, [target])
        np.testing.assert_allclose(both.grids[1], windows.average(window_evidence(removal, 0).bits), atol=1e-5)
        assert both.budget is None
        return
    # The tail behind deep.add is linear: evidence of the logit is exact, cell by cell.
    plain = Explainer(deployed, method=method, layer="deep.add", score="logit", background="mean")
    plain = plain.explain(picture, target=target)
    weights = next(numpy_helper.to_array(each) for each in deployed.model.proto.graph.initializer if each.name == "w6")
    removed = features - features.mean(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(plain.grids[0], np.einsum("k,kij->ij", weights[target], removed) / 64 / LN2, atol=1e-5)


def test_two_backgrounds_are_averaged_in_bits(tiny_model: Path, picture):
    both, blur, mean = (
        Explainer(tiny_model, device="cpu", background=name, combine="mean").explain(picture, target="dog")
        for name in (None, "blur", "mean")
    )
    np.testing.assert_allclose(both.values, (blur.values + mean.values) / 2, atol=1e-7)
    assert np.abs(blur.values - mean.values).max() > 1e-4
    assert both.budget.without == pytest.approx((blur.budget.without + mean.budget.without) / 2, abs=1e-9)
    assert both.budget.steps == blur.budget.steps + mean.budget.steps
    assert not both.sampled


def test_maps_have_the_promised_shapes_types_and_numbers(tiny_model: Path, picture):
    explanation = Explainer(tiny_model, method="window", device="cpu").explain(picture, target="dog")
    assert explanation.values.shape == (32, 32)
    assert explanation.pixels.shape == picture.shape[:2]
    assert explanation.values.dtype == explanation.pixels.dtype == explanation.stderr.dtype == np.float32
    assert np.isnan(explanation.stderr).all()  # nothing was sampled
    assert explanation.target == (3, "dog")
    assert explanation.unit == "bits"
    deployed = DeployedModel(tiny_model, device="cpu")
    logits = deployed.logits(deployed.prepare(picture)[1][None])[0]
    assert explanation.log_odds_bits == pytest.approx(oracles.exact_log_odds(logits, 3) / LN2, rel=1e-9)
    p = np.exp(logits) / np.exp(logits).sum()
    assert explanation.probability == pytest.approx(p[3], rel=1e-9)
    assert all(cut["certificate"] < 1e-5 for cut in explanation.record["cuts"])
    integrated = Explainer(tiny_model, device="cpu").explain(picture, target="dog")
    assert (integrated.unit, integrated.values.shape) == ("bits per pixel", (32, 32))
    assert integrated.pixels.shape == picture.shape[:2]
    assert integrated.values.dtype == integrated.pixels.dtype == integrated.stderr.dtype == np.float32
    assert np.isnan(integrated.stderr).all()  # one baseline
    assert integrated.log_odds_bits == pytest.approx(explanation.log_odds_bits, rel=1e-9)
    assert integrated.probability == pytest.approx(p[3], rel=1e-9)
    assert all(cut["certificate"] < 1e-5 for cut in integrated.record["cuts"])


@pytest.mark.parametrize("method", ["integrated", "window"])
def test_targets_share_passes_and_versus_is_antisymmetric(method: str, tiny_model: Path, picture):
    explainer = Explainer(tiny_model, method=method, device="cpu")
    passes = []
    ant, bee = explainer.explain_all(picture, ["ant", 1], progress=passes.append)
    if method == "window":
        assert sum(passes) == explainer.rows()
    else:
        # Every class has a path of its own.
        assert sum(passes) == ant.budget.steps + bee.budget.steps >= 2 * explainer.rows()
    np.testing.assert_array_equal(ant.values, explainer.explain(picture, target=0).values)
    forth = explainer.explain(picture, target="ant", versus="bee")
    back = explainer.explain(picture, target="bee", versus="ant")
    np.testing.assert_allclose(forth.values, -back.values, atol=1e-6)
    assert np.abs(forth.values - ant.values).max() > 1e-3
    assert (forth.versus, bee.versus) == ((1, "bee"), None)
    assert forth.title == "ant rather than bee"


def test_standard_error_is_the_spread_over_seeds(tiny_model: Path, picture, tmp_path):
    """Of the map in pixels, after overlaps, cuts and projection: predicted and seen must agree."""
    from onnx_evidence import fit_background
    from onnx_evidence.methods.background_file import save_background

    deployed = DeployedModel(tiny_model, device="cpu")
    pictures = []
    for number in range(12):
        field = oracles.ar_fields(np.random.default_rng(number), 3, 40, 0.9).transpose(1, 2, 0)
        path = tmp_path / f"{number}.png"
        import cv2

        cv2.imwrite(str(path), np.clip(128 + 60 * field, 0, 255).astype(np.uint8))
        pictures.append(path)
    save_background(tmp_path / "b.npz", fit_background(deployed, ["block.add", "deep.add"], pictures))
    settings = {"layer": ["block.add", "deep.add"], "background": tmp_path / "b.npz", "window": 4, "stride": 2}
    settings["method"] = "window"
    runs = [Explainer(deployed, samples=48, seed=seed, **settings).explain(picture) for seed in range(60)]
    seen = np.std([run.values for run in runs], axis=0, ddof=1)
    predicted = np.sqrt(np.mean([run.stderr**2 for run in runs], axis=0))
    assert np.median(predicted / seen) == pytest.approx(1, abs=0.12)
    assert not np.isnan(runs[0].stderr).any()
    assert np.abs(runs[0].values - runs[1].values).max() > 0


def test_the_hash_of_the_background_is_that_of_the_bytes_in_use(lite0: Path, hopper: Path, tmp_path: Path):
    """Also after the file is gone: a long run must not fall over, nor record what it did not use."""
    copy = tmp_path / "background.npz"
    copy.write_bytes(BACKGROUND.read_bytes())
    explainer = Explainer(lite0, method="window", device="cpu", background=copy, samples=1)
    copy.unlink()
    record = explainer.explain(hopper).record
    assert record["hashes"]["background"] == hashlib.sha256(BACKGROUND.read_bytes()).hexdigest()


def test_the_strongest_places_are_in_the_photograph(tiny_model: Path, picture):
    explanation = Explainer(tiny_model, method="window", device="cpu").explain(picture)
    for sign in (1, -1):
        extreme = explanation.strongest(sign)
        assert extreme.bits == (explanation.values.max() if sign > 0 else explanation.values.min())
        nearby = explanation.pixels[
            max(extreme.row - 1, 0) : extreme.row + 2, max(extreme.col - 1, 0) : extreme.col + 2
        ]
        assert np.abs(nearby - extreme.bits).min() < 0.05 * np.abs(explanation.values).max()


def test_the_strongest_patch_of_a_map_that_adds_up_is_in_the_photograph(tiny_model: Path, picture):
    explanation = Explainer(tiny_model, device="cpu").explain(picture)
    assert (explanation.patch, explanation.shown_unit) == ((2, 2), "bits per 2 x 2 pixels")
    np.testing.assert_allclose(explanation.shown, explanation.values * 4, rtol=1e-6, atol=1e-15)
    sums = {
        (row, col): float(explanation.values[row : row + 2, col : col + 2].sum(dtype=np.float64))
        for row in range(31)
        for col in range(31)
    }
    for sign in (1, -1):
        extreme = explanation.strongest(sign)
        place = max(sums, key=lambda corner: sign * sums[corner])
        assert extreme.bits == pytest.approx(sums[place], abs=1e-6)
        assert (extreme.row, extreme.col) == explanation.placement.locate(place[0] + 1, place[1] + 1)
        assert np.isnan(extreme.stderr)


@pytest.mark.parametrize("score", ["log-odds", "logit"])
@pytest.mark.parametrize("versus", [None, "ant"])
def test_bits_add_up_to_what_removing_everything_costs(score: str, versus: str | None, tiny_model: Path, picture):
    deployed = DeployedModel(tiny_model, device="cpu")
    explainer = Explainer(deployed, score=score, layer=["block.add", "deep.add"], completeness=1e-3, background="mean")
    explanation = explainer.explain(picture, target="dog", versus=versus)
    _, x, _ = deployed.prepare(picture)

    def bits(logits: np.ndarray) -> float:
        if versus is not None:
            return float(logits[3] - logits[0]) / LN2
        return (oracles.exact_log_odds(logits, 3) if score == "log-odds" else float(logits[3])) / LN2

    assert len(explanation.budgets) == 2
    for budget, engine, grid in zip(explanation.budgets, explainer.engines, explanation.grids, strict=True):
        features = deployed.head(engine.cut)(x[None])
        removed = np.broadcast_to(features.mean(axis=(2, 3), keepdims=True), features.shape)
        full, without = (bits(deployed.tail(engine.cut)(each)[0]) for each in (features, removed))
        assert budget.with_features == pytest.approx(full, abs=1e-4)
        assert budget.without == pytest.approx(without, abs=1e-4)
        assert (budget.supporting, budget.opposing) == (
            pytest.approx(grid[grid > 0].sum(), abs=1e-4),
            pytest.approx(grid[grid < 0].sum(), abs=1e-4),
        )
        assert grid.sum() == pytest.approx(full - without, abs=1e-3 * max(abs(full - without), 1))
    budget = explanation.budget
    assert budget.supporting > 0.1
    assert budget.opposing < -0.1
    assert budget.steps == sum(each.steps for each in explanation.budgets)
    assert explanation.values.sum() == pytest.approx(budget.accounted, abs=1e-4)
    assert explanation.pixels.sum() == pytest.approx(budget.accounted, abs=0.02 * (budget.supporting - budget.opposing))


def test_a_stricter_certificate_takes_more_steps_and_misses_less(tiny_model: Path, picture):
    loose, strict = (
        Explainer(tiny_model, layer="stem", device="cpu", completeness=share).explain(picture, target="dog").budget
        for share in (0.5, 1e-4)
    )
    assert strict.steps > loose.steps
    assert strict.gap < loose.gap
    assert strict.gap_share <= 1e-4
    assert loose.gap_share <= 0.5


def test_a_planted_model_puts_the_evidence_on_its_patch(tmp_path: Path):
    """The logit is the brightness of one corner: the map must show that corner and nothing else."""
    mask = np.zeros((1, 1, 32, 32), np.float32)
    mask[:, :, 20:28, 4:12] = 1
    weights = {
        "mask": mask,
        "w": np.array([[4.0, 4, 4], [0, 0, 0], [-1, 0, 1]], np.float32),
        "kernel": np.eye(3, dtype=np.float32)[:, :, None, None],
    }
    nodes = [
        helper.make_node("Conv", ["input", "kernel"], ["copy"], kernel_shape=[1, 1]),
        helper.make_node("Mul", ["copy", "mask"], ["masked"]),
        helper.make_node("GlobalAveragePool", ["masked"], ["pool"]),
        helper.make_node("Flatten", ["pool"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w"], ["logits"], transB=1),
    ]
    preprocess = {**tiny.PREPROCESS, "resize": "stretch", "resize_to": None}
    model = tiny.make_model(nodes, weights, output_shape=("N", 3), metadata={"preprocess": preprocess})
    path = tiny.save(model, tmp_path / "planted.onnx")
    # On dark ground the patch lies at rows 40..56, columns 10..30 of a 64 x 80 photograph.
    pixels = np.full((64, 80, 3), 60, np.uint8)
    pixels[40:56, 10:30] = 250
    explainer = Explainer(path, method="window", layer="copy", window=4, stride=1, device="cpu")
    explanation = explainer.explain(pixels, target=0)
    inside = np.zeros((64, 80), bool)
    inside[32:, :40] = True  # one window's reach around the patch
    assert explanation.pixels[44:52, 14:26].min() > 0.1
    assert np.abs(explanation.pixels[~inside]).max() < 0.02 * explanation.pixels.max()
    integrated = Explainer(path, layer="copy", device="cpu").explain(pixels, target=0)
    # Cells are single pixels here, interpolated: the evidence lies on the patch and two input pixels around it.
    inside[:] = False
    inside[36:60, 5:35] = True
    assert integrated.pixels[44:52, 14:26].min() > 0.5 * integrated.pixels.max() > 0
    assert np.abs(integrated.pixels[~inside]).max() < 0.02 * integrated.pixels.max()
    assert integrated.pixels[inside].sum() == pytest.approx(integrated.budget.accounted, rel=0.02)


def test_occlusion_is_the_cut_at_the_input_with_a_constant(tiny_model: Path, picture):
    deployed = DeployedModel(tiny_model, device="cpu")
    explanation = Explainer(deployed, method="occlusion", background="zero", window=8, stride=8).explain(
        picture, target=1
    )
    _, x, _ = deployed.prepare(picture)
    full = deployed.logits(x[None])[0]
    slow = np.zeros((32, 32))
    for row in range(0, 32, 8):
        for col in range(0, 32, 8):
            covered = x.copy()
            covered[:, row : row + 8, col : col + 8] = 0
            without = oracles.exact_log_odds(deployed.logits(covered[None])[0], 1)
            slow[row : row + 8, col : col + 8] = (oracles.exact_log_odds(full, 1) - without) / LN2
    np.testing.assert_allclose(explanation.values, slow, atol=1e-4)
    assert [cut["name"] for cut in explanation.record["cuts"]] == ["input"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "magic"}, "method 'magic' is unknown"),
        ({"method": "occlusion", "layer": "stem"}, "takes no layer"),
        ({"method": "pda"}, "draws pixels from a fitted background"),
        ({"layer": ["auto", "stem"]}, "chooses alone"),
        ({"batch_size": 0}, "batch size 0"),
        ({"seed": -1}, "seed -1"),
        ({"window": 0}, "window 0 is too small"),
        ({"stride": 0}, "stride 0 is too small"),
        ({"samples": 0}, "samples 0 is too small"),
        ({"laplace": (0, 5)}, "at least 1"),
        ({"method": "window", "samples": 8}, "of a constant"),
        ({"method": "window", "window": 3, "stride": 4}, "leaves cells out"),
        ({"window": 3}, "no use for --window: .* window, occlusion, pda$"),
        ({"stride": 3}, "no use for --stride"),
        ({"laplace": (3, 5)}, "no use for --laplace"),
        ({"method": "window", "statistic": "channel"}, "no use for --statistic: .* integrated, "),
        ({"method": "window", "score": "logit"}, "no use for --score"),
        ({"method": "window", "background": "blur"}, "cannot use --background blur"),
        ({"method": "window", "project": "backward"}, "no use for --project"),
        ({"method": "window", "completeness": 0.01}, "no use for --completeness"),
        ({"method": "gradient", "background": "zero"}, "no use for --background"),
        ({"method": "grad-cam", "samples": 8}, "no use for --samples: .* smoothgrad"),
        ({"samples": 8}, "samples 8 of what"),
        ({"statistic": "channel"}, "'channel' is one of a fitted background"),
        ({"method": "integrated-gradients", "project": "backward"}, "works on pixels already"),
        ({"method": "grad-cam", "layer": ["block.add", "deep.add"]}, "takes one layer, not 2"),
        ({"method": "integrated-gradients", "layer": "stem"}, "takes no layer"),
        ({"completeness": 0.0}, "completeness 0 must lie between 0 and 1"),
        ({"completeness": 1.0}, "completeness 1 must lie"),
        ({"statistic": "magic"}, "statistic 'magic' is unknown: take one of position, channel, conditional"),
        ({"score": "magic"}, "score 'magic' is unknown: take one of log-odds, logit"),
        ({"project": "magic"}, "project 'magic' is unknown: take one of field, backward"),
    ],
)
def test_contradictory_settings_are_refused(tiny_model: Path, settings, message):
    with pytest.raises(SettingError, match=message):
        Explainer(tiny_model, device="cpu", **settings)


def test_an_open_model_keeps_its_own_preprocessing_labels_and_device(tiny_model: Path):
    deployed = DeployedModel(tiny_model, device="cpu")
    with pytest.raises(SettingError, match="give them to DeployedModel"):
        Explainer(deployed, device="cpu")
    with pytest.raises(SettingError, match="give them to DeployedModel"):
        Explainer(deployed, labels="names.txt")


def test_a_model_without_preprocessing_is_refused_at_once(tmp_path: Path):
    path = tiny.save(tiny.classifier(recorded=False), tmp_path / "bare.onnx")
    with pytest.raises(DataError, match="does not record its preprocessing"):
        Explainer(path, device="cpu")


def test_a_class_cannot_be_held_against_itself(tiny_model: Path, picture):
    with pytest.raises(SettingError, match="'dog' cannot be held against itself"):
        Explainer(tiny_model, device="cpu").explain(picture, target="dog", versus=3)


def test_a_split_that_is_not_exact_is_refused(tiny_model: Path, picture):
    deployed = DeployedModel(tiny_model, device="cpu")
    cut = deployed.graph.find("deep.add")
    _, x, _ = deployed.prepare(picture)
    logits, features, tail = deployed.logits(x[None])[0], deployed.head(cut)(x[None]), deployed.tail(cut)
    assert certify(cut, tail(features)[0], logits) < 1e-5
    with pytest.raises(CutError, match="differs from the whole"):
        certify(cut, tail(features * np.float32(1.01))[0], logits)


@pytest.mark.parametrize("method", ["integrated", "window", "grad-cam"])
def test_every_engine_refuses_a_split_that_is_not_exact(method: str, tiny_model: Path, picture, monkeypatch):
    """Features that are not those of the picture: what the tail makes of them is not what the model says."""
    explainer = Explainer(tiny_model, method=method, layer="deep.add", device="cpu")
    look = explainer._heads.look

    def wrong(inputs: np.ndarray) -> list[np.ndarray]:
        return [each * np.float32(1.01) for each in look(inputs)]

    explainer.explain(picture)  # the control
    monkeypatch.setattr(explainer._heads, "look", wrong)
    with pytest.raises(CutError, match=r"^array: layer 'deep.add': the model split there differs from the whole"):
        explainer.explain(picture)


def test_a_model_with_an_operator_without_a_rule_falls_back_to_windows_and_says_why(tmp_path: Path, picture):
    deployed = DeployedModel(tiny.accumulating(tmp_path / "accumulating.onnx"), device="cpu")
    explainer = Explainer(deployed)
    assert explainer.settings.method == "window"
    assert explainer.reason == "'integrated' cannot be computed: no backward rule for Scan (at 'summed')"
    asked = Explainer(deployed, method="window")
    assert asked.reason == "asked for"
    assert [engine.cut.name for engine in explainer.engines] == [engine.cut.name for engine in asked.engines]
    np.testing.assert_array_equal(explainer.explain(picture).values, asked.explain(picture).values)
    for method in ("integrated", "integrated-gradients", "gradient", "grad-cam"):
        with pytest.raises(GradientError, match=r"^no backward rule for Scan \(at 'summed'\)"):
            Explainer(deployed, method=method)


@pytest.mark.parametrize("last", ["a form without a rule", "a step"])
def test_a_model_whose_backward_graph_cannot_be_built_falls_back_too(last: str, tmp_path: Path):
    """There are rules for all its operators, but none for this form; or nothing varies smoothly."""
    pool = {"kernel_shape": [2, 2], "strides": [2, 2], "storage_order": 1}
    node = helper.make_node("Sign", ["deep.add"], ["last"])
    if last == "a form without a rule":
        node = helper.make_node("MaxPool", ["deep.add"], ["last"], **pool)
    explainer = Explainer(tiny.save(tiny.appended(node), tmp_path / "odd.onnx"), device="cpu")
    assert explainer.settings.method == "window"
    assert explainer.reason.startswith("'integrated' cannot be computed: ")


def test_without_missing_rules_evidence_is_integrated(tiny_model: Path):
    explainer = Explainer(tiny_model, device="cpu")
    assert (explainer.settings.method, explainer.reason) == (
        "integrated",
        "every operator behind the cuts has a backward rule",
    )
    assert [engine.cut.name for engine in explainer.engines] == ["block.add", "deep.add"]


def test_the_story_of_the_demo(lite0: Path, hopper: Path):
    """A deployed model is wrong: gown over uniform. Cap, badge and ribbons speak for the uniform, the tie against."""
    assert BACKGROUND.exists()
    deployed = DeployedModel(lite0, device="cpu")
    for background in ("mean", BACKGROUND):
        explainer = Explainer(deployed, method="window", background=background)
        plain = explainer.explain(hopper)
        assert plain.target.label == "academic gown"
        assert plain.log_odds_bits < 0
        pixels = explainer.explain(hopper, target="military uniform", versus="academic gown").pixels
        badge, ribbons, cap, tie = (
            pixels[rows, cols].mean()
            for rows, cols in (
                (np.s_[480:520], np.s_[80:165]),
                (np.s_[490:523], np.s_[320:450]),
                (np.s_[80:120], np.s_[220:310]),
                (np.s_[420:520], np.s_[235:285]),
            )
        )
        assert min(badge, cap) > 0.25, background
        assert ribbons > 0, background
        assert tie < -0.25, background


def test_the_story_of_the_demo_in_bits_that_add_up(lite0: Path, hopper: Path):
    """Without windows: ribbons, badge and cap speak for the uniform, and the tie speaks against it."""
    explainer = Explainer(lite0, device="cpu")
    assert explainer.settings.method == "integrated"
    plain = explainer.explain(hopper)
    assert plain.target.label == "academic gown"
    evidence = explainer.explain(hopper, target="military uniform", versus="academic gown")
    assert evidence.budget.gap_share < 0.05
    assert evidence.budget.with_features == pytest.approx(np.log2(0.18 / 0.25), abs=0.1)
    pixels = evidence.pixels
    badge, ribbons, cap, tie = (
        pixels[rows, cols].sum()
        for rows, cols in (
            (np.s_[480:520], np.s_[80:165]),
            (np.s_[490:523], np.s_[320:450]),
            (np.s_[80:120], np.s_[220:310]),
            (np.s_[420:520], np.s_[235:285]),
        )
    )
    assert min(badge, ribbons, cap) > 0.15
    assert tie < -0.3
    best, worst = evidence.strongest(1), evidence.strongest(-1)
    near_ribbons = 475 <= best.row <= 540 and 310 <= best.col <= 460
    near_badge = 465 <= best.row <= 535 and 70 <= best.col <= 175
    assert near_ribbons or near_badge, best
    assert 400 <= worst.row <= 530, worst
    assert 225 <= worst.col <= 295, worst
    assert best.bits > 0.1
    assert worst.bits < -0.1


def test_the_demo_background_belongs_to_the_built_model(lite0: Path):
    explainer = Explainer(lite0, method="window", device="cpu", background=BACKGROUND)
    assert [engine.cut.name for engine in explainer.engines] == ["block10.add", "block14.add"]
    explainer = Explainer(lite0, device="cpu", background=BACKGROUND)
    assert explainer.settings.method == "integrated"
    assert [engine.cut.name for engine in explainer.engines] == ["block4.add", "block10.add", "block14.add"]
