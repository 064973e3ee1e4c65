"""The whole route: a file and a picture become maps in bits, with their error and their record."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from onnx_evidence import CutError, DataError, DeployedModel, Explainer, SettingError
from onnx_evidence.difference import remove_windows, window_evidence
from onnx_evidence.evidence import LN2
from onnx_evidence.samplers import MeanSampler
from onnx_evidence.windows import Windows
from tests import oracles

BACKGROUND = Path(__file__).parent.parent / "models" / "efficientnet-lite0.background.npz"


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    field = oracles.ar_fields(np.random.default_rng(5), 3, 60, 0.9).transpose(1, 2, 0)[:, :44]
    return np.clip(128 + 60 * field, 0, 255).astype(np.uint8)


def test_map_is_the_mean_over_cuts_and_its_grids_are_evidence(tiny_model: Path, picture):
    deployed = DeployedModel(tiny_model, device="cpu")
    both = Explainer(deployed, layer=["block.add", "deep.add"]).explain(picture)
    single = [Explainer(deployed, layer=name).explain(picture) for name in ("block.add", "deep.add")]
    np.testing.assert_allclose(both.values, (single[0].values + single[1].values) / 2, atol=1e-6)
    assert [grid.shape for grid in both.grids] == [(16, 16), (8, 8)]
    np.testing.assert_array_equal(both.grids[0], single[0].grids[0])
    _, x, _ = deployed.prepare(picture)
    split = deployed.split(deployed.graph.find("deep.add"))
    windows = Windows.place((8, 8), 3)
    removal = remove_windows(split.head(x[None])[0], split.tail, MeanSampler(), windows, [both.target.number])
    np.testing.assert_allclose(both.grids[1], windows.average(window_evidence(removal, 0).bits), atol=1e-5)


def test_maps_have_the_promised_shapes_types_and_numbers(tiny_model: Path, picture):
    explanation = Explainer(tiny_model, device="cpu").explain(picture, target="dog")
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


def test_targets_share_passes_and_versus_is_antisymmetric(tiny_model: Path, picture):
    explainer = Explainer(tiny_model, device="cpu")
    passes = []
    ant, bee = explainer.explain_all(picture, ["ant", 1], progress=passes.append)
    assert sum(passes) == explainer.copies
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
    from onnx_evidence.background_file import save_background

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
    explainer = Explainer(lite0, device="cpu", background=copy, samples=1)
    copy.unlink()
    record = explainer.explain(hopper).record
    assert record["hashes"]["background"] == hashlib.sha256(BACKGROUND.read_bytes()).hexdigest()


def test_the_strongest_places_are_in_the_photograph(tiny_model: Path, picture):
    explanation = Explainer(tiny_model, device="cpu").explain(picture)
    for sign in (1, -1):
        extreme = explanation.strongest(sign)
        assert extreme.bits == (explanation.values.max() if sign > 0 else explanation.values.min())
        nearby = explanation.pixels[
            max(extreme.row - 1, 0) : extreme.row + 2, max(extreme.col - 1, 0) : extreme.col + 2
        ]
        assert np.abs(nearby - extreme.bits).min() < 0.05 * np.abs(explanation.values).max()


def test_a_planted_model_puts_the_evidence_on_its_patch(tmp_path: Path):
    """The logit is the brightness of one corner: the map must show that corner and nothing else."""
    from onnx import helper

    from tests import tiny

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
    explanation = Explainer(path, layer="copy", window=4, stride=1, device="cpu").explain(pixels, target=0)
    inside = np.zeros((64, 80), bool)
    inside[32:, :40] = True  # one window's reach around the patch
    assert explanation.pixels[44:52, 14:26].min() > 0.1
    assert np.abs(explanation.pixels[~inside]).max() < 0.02 * explanation.pixels.max()


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
        ({"samples": 8}, "of a constant"),
        ({"window": 3, "stride": 4}, "leaves cells out"),
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
    from tests import tiny

    path = tiny.save(tiny.classifier(recorded=False), tmp_path / "bare.onnx")
    with pytest.raises(DataError, match="does not record its preprocessing"):
        Explainer(path, device="cpu")


def test_a_class_cannot_be_held_against_itself(tiny_model: Path, picture):
    with pytest.raises(SettingError, match="'dog' cannot be held against itself"):
        Explainer(tiny_model, device="cpu").explain(picture, target="dog", versus=3)


def test_a_split_that_is_not_exact_is_refused(tiny_model: Path, picture):
    deployed = DeployedModel(tiny_model, device="cpu")
    split = deployed.split(deployed.graph.find("deep.add"))
    _, x, _ = deployed.prepare(picture)
    logits, features = deployed.logits(x[None])[0], split.head(x[None])[0]
    assert deployed.certify(split, features, logits) < 1e-5
    with pytest.raises(CutError, match="differs from the whole"):
        deployed.certify(split, features * 1.01, logits)


def test_the_story_of_the_demo(lite0: Path, hopper: Path):
    """A deployed model is wrong: gown over uniform. Cap, badge and ribbons speak for the uniform, the tie against."""
    assert BACKGROUND.exists()
    deployed = DeployedModel(lite0, device="cpu")
    for background in ("mean", BACKGROUND):
        explainer = Explainer(deployed, background=background)
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


def test_the_demo_background_belongs_to_the_built_model(lite0: Path):
    explainer = Explainer(lite0, device="cpu", background=BACKGROUND)
    assert [place.cut.name for place in explainer.cuts] == ["block10.add", "block14.add"]
