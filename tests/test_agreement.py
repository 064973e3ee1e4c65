"""Maps of the same evidence become one: against a slow twin, its sums, and what it must not do."""

from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import helper
from parts.scenes.scene import HELD_OUT, draw_scene, render

from onnx_evidence import DeployedModel, Explainer, SettingError
from onnx_evidence.cli import main
from onnx_evidence.evidence import agreement, held_against
from onnx_evidence.methods import combine
from onnx_evidence.types import FloatArray
from tests import oracles
from tests.tiny_transformers import vit

PREPROCESS = {"size": (48, 48), "scale": 1 / 255, "mean": (0.5,) * 3, "std": (0.25,) * 3}
SCENES = Path(__file__).parent.parent / "models" / "scenes"
ANY = hnp.arrays(
    np.float64,
    st.tuples(st.integers(1, 6), st.just(4), st.just(3)),
    elements=st.floats(-1e3, 1e3).map(lambda bits: round(bits, 6)),
)


def by_hand(maps: FloatArray) -> FloatArray:
    """Pixel by pixel, as the module's head says it."""
    count, height, width = maps.shape
    places = list(np.ndindex(height, width))
    mean = {place: sum(each[place] for each in maps) / count for place in places}
    spread = [sum((each[place] - mean[place]) ** 2 for each in maps) / (count - 1) for place in places]
    noise = sum(spread) / len(spread)
    weight = {}
    for place in places:
        size = sum(abs(each[place]) for each in maps) / count
        weight[place] = abs(mean[place]) / size * mean[place] ** 2 / (mean[place] ** 2 + 4 * noise)
    found = np.empty((height, width))
    for sign in (1, -1):
        part = [place for place in places if sign * mean[place] > 0]
        scale = sum(mean[place] for place in part) / sum(mean[place] * weight[place] for place in part)
        for place in part:
            found[place] = weight[place] * scale
    return found


def test_the_weights_are_those_by_hand(rng):
    for count in (2, 3, 6):
        maps = rng.normal(size=(count, 5, 7)) + rng.normal(size=(5, 7))
        np.testing.assert_allclose(agreement([*maps]), by_hand(maps), rtol=1e-10)


@given(maps=ANY)
def test_what_speaks_for_and_against_keeps_its_sum_and_its_sign(maps: FloatArray):
    mean = maps.mean(axis=0)
    found = mean * agreement([*maps])
    assert (agreement([*maps]) >= 0).all()
    for sign in (1, -1):
        kept, before = (np.where(sign * each > 0, each, 0).sum() for each in (found, mean))
        np.testing.assert_allclose(kept, before, rtol=1e-6, atol=1e-9)
    assert not found[mean == 0].any()


def held_by_hand(maps: FloatArray, beside: FloatArray, count: int) -> FloatArray:
    """The map, by `by_hand`: the other as some maps more, and sums as they are without it."""
    alone = maps.mean(axis=0)
    scaled = beside * np.abs(alone).sum() / np.abs(beside).sum()
    every = np.concatenate([maps, np.repeat(scaled[None], count, axis=0)])
    found = every.mean(axis=0) * by_hand(every)
    for sign in (1, -1):
        part = sign * found > 0
        found[part] *= alone[sign * alone > 0].sum() / found[part].sum()
    return found


def test_a_map_in_no_bits_moves_bits_and_makes_none(rng):
    for count in (1, 2):
        maps = rng.normal(size=(4, 5, 7)) + rng.normal(size=(5, 7))
        beside = rng.normal(size=(5, 7)) * 1e6
        mean, weight, share = held_against([*maps], beside, count)
        np.testing.assert_allclose(mean * weight, held_by_hand(maps, beside, count), rtol=1e-10)
        assert share == 4 / (4 + count)
        assert not np.allclose(mean * weight, maps.mean(axis=0) * agreement([*maps]), rtol=0.1)  # the control


@given(maps=ANY, unit=st.sampled_from([1e-300, 1.0, 1e300]), seed=st.integers(0, 99))
def test_sums_are_kept_beside_any_other_map_in_any_unit(maps: FloatArray, unit: float, seed: int):
    beside = np.random.default_rng(seed).normal(size=maps.shape[1:])
    mean, weight, _ = held_against([*maps], beside * unit, 2)
    alone = maps.mean(axis=0)
    for sign in (1, -1):
        kept, before = (np.where(sign * each > 0, each, 0).sum() for each in (mean * weight, alone))
        np.testing.assert_allclose(kept, before, rtol=1e-6, atol=1e-9)
    again = held_against([*maps], beside, 2)
    np.testing.assert_allclose(mean * weight, again[0] * again[1], rtol=1e-6, atol=1e-6)


def test_a_map_that_says_nothing_or_nothing_of_a_sign_is_left_aside(rng):
    maps = np.abs(rng.normal(size=(3, 5, 7)))
    for beside in (np.zeros((5, 7)), -1e3 * maps.sum(axis=0)):
        mean, weight, share = held_against([*maps], beside, 9)
        np.testing.assert_array_equal(mean * weight, maps.mean(axis=0) * agreement([*maps]))
        assert share == 1


def test_a_map_that_says_the_contrary_piles_no_bits_on_what_rounding_left(rng):
    maps = rng.normal(size=(1, 20, 20))
    for factor in (-1.0, -0.999, -1e200):
        mean, weight, share = held_against([*maps], maps[0] * factor, 1)
        np.testing.assert_array_equal(mean * weight, maps[0])
        assert share == 1


@given(maps=ANY, unit=st.sampled_from([1e-170, 1e-30, 1e30, 1e150]))
def test_the_unit_does_not_matter(maps: FloatArray, unit: float):
    with np.errstate(under="ignore"):
        np.testing.assert_allclose(agreement([*(maps * unit)]), agreement([*maps]), rtol=1e-6, atol=1e-9)


def test_one_map_or_several_that_are_the_same_stay_what_they_are(rng):
    one = rng.normal(size=(1, 5, 7))
    for count in (1, 2, 6):
        np.testing.assert_allclose(agreement([*np.repeat(one, count, axis=0)]), 1.0, rtol=1e-9)
    assert (agreement([*np.zeros((3, 5, 7))]) == 1).all()


def test_evidence_that_all_maps_have_gains_on_noise_that_each_has_for_itself(rng):
    known = np.zeros((20, 20))
    known[5:9, 12:16] = 1.0
    maps = known + rng.normal(size=(6, 20, 20)) * 0.5
    mean = maps.mean(axis=0)
    share, before = (each[known > 0].sum() / each[each > 0].sum() for each in (mean * agreement([*maps]), mean))
    assert share > before + 0.2
    # The control: noise that all have in common is told from nothing.
    same = np.repeat((known + rng.normal(size=(20, 20)) * 0.5)[None], 6, axis=0)
    np.testing.assert_allclose(agreement([*same]), 1.0, rtol=1e-9)


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    field = oracles.ar_fields(np.random.default_rng(5), 3, 40, 0.9).transpose(1, 2, 0)
    return np.clip(field * 40 + 128, 0, 255).astype(np.uint8)


def test_a_map_is_the_mean_of_its_cuts_and_backgrounds_weighed_by_their_agreement(tiny_model, picture):
    cuts = ("block.add", "deep.add")
    singles = np.stack(
        [
            Explainer(tiny_model, layer=cut, background=background, combine="mean").explain(picture, target=1).values
            for cut in cuts
            for background in ("blur", "mean")
        ]
    ).astype(np.float64)
    plain = Explainer(tiny_model, combine="mean").explain(picture, target=1)
    np.testing.assert_allclose(plain.values, singles.mean(axis=0), atol=1e-6)
    weighed = Explainer(tiny_model).explain(picture, target=1)
    np.testing.assert_allclose(weighed.values, singles.mean(axis=0) * agreement([*singles]), atol=1e-5)
    assert np.abs(weighed.values - plain.values).max() > 1e-3  # the control
    for each, other in zip(weighed.grids, plain.grids, strict=True):
        np.testing.assert_array_equal(each, other)
    assert weighed.values.sum() == pytest.approx(plain.values.sum(), abs=1e-3)


def test_errors_are_weighed_as_their_bits_are(tiny_model, picture, tmp_path):
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.rot90(picture, number))
    plain, weighed = (
        Explainer(tiny_model, background=str(tmp_path), samples=3, combine=combine).explain(picture, target=1)
        for combine in ("mean", "agreement")
    )
    told = np.abs(plain.values) > 1e-4
    ratio = weighed.values[told] / plain.values[told]
    np.testing.assert_allclose(weighed.stderr[told], plain.stderr[told] * ratio, rtol=1e-3, atol=1e-7)
    assert ratio.std() > 0.1  # the control


@pytest.mark.parametrize("method", ["window", "integrated-gradients", "grad-cam"])
def test_methods_whose_maps_are_not_combined_refuse_to_be_told_how(method, tiny_model):
    with pytest.raises(SettingError, match="has no use for --combine"):
        Explainer(tiny_model, method=method, combine="mean")


# Beside relevance, on a trained ViT.


@pytest.fixture(scope="module")
def attending() -> DeployedModel:
    return DeployedModel(SCENES / "vit-half.onnx", device="cpu")


@pytest.fixture(scope="module")
def scene() -> np.ndarray:
    return render(draw_scene(HELD_OUT + 40_000))


def test_where_tokens_are_normalised_maps_are_held_against_relevance(attending, scene):
    assert Explainer(attending).settings.combine == "relevance"
    # Paths that are taken together have no other steps than each by itself.
    how = {"completeness": 0.99}
    opened = Explainer(attending, **how)
    cuts = [engine.cut.name for engine in opened.engines]
    singles = np.stack(
        [
            Explainer(attending, layer=cut, background=background, combine="mean", **how)
            .explain(scene, target=1)
            .values
            for cut in cuts
            for background in ("blur", "mean")
        ]
    ).astype(np.float64)
    pixels = Explainer(attending, method="relevance").explain(scene, target=1).values.astype(np.float64)
    smooth = cv2.GaussianBlur(pixels, (0, 0), 96 / 48)
    mean, weight, _ = held_against([*singles], smooth, 2)
    seen = opened.explain(scene, target=1)
    np.testing.assert_allclose(seen.values, mean * weight, atol=1e-4 * np.abs(seen.values).max())
    assert opened.rows() == Explainer(attending, combine="agreement").rows() + 1
    # The controls: without it, and by other rules.
    for other in ({"combine": "agreement"}, {"rules": "attnlrp"}):
        values = Explainer(attending, **how, **other).explain(scene, target=1).values
        assert np.abs(values - seen.values).max() > 0.05 * np.abs(seen.values).max()
        assert values.sum() == pytest.approx(seen.values.sum(), rel=1e-3)


@pytest.mark.parametrize("quality", ["fast", "default"])
def test_so_they_are_where_all_activations_are_smooth(quality):
    with DeployedModel(SCENES / "depthwise-half.onnx", device="cpu") as deployed:
        assert Explainer(deployed, quality=quality).settings.combine == "relevance"


def test_where_neither_is_so_they_are_not_unless_that_is_asked_for(scene):
    with DeployedModel(SCENES / "resnet-half.onnx", device="cpu") as deployed:
        assert Explainer(deployed).settings.combine == "agreement"
        plain, asked = (
            Explainer(deployed, combine=each).explain(scene, target=1).values for each in ("agreement", "relevance")
        )
        assert np.abs(plain - asked).max() > 0.01 * np.abs(plain).max()


def test_errors_are_those_of_the_share_of_the_maps(attending, scene, tmp_path, monkeypatch):
    """Relevance has none: what it makes of a pixel takes nothing from, and adds nothing to, the error of the rest."""
    told = []
    monkeypatch.setattr(combine, "held_against", lambda *given: told.append(held_against(*given)) or told[-1])
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.rot90(scene, number + 1))
    how = {"background": str(tmp_path), "samples": 3}
    plain, held = (Explainer(attending, combine=each, **how).explain(scene) for each in ("mean", "relevance"))
    ((_, weight, share),) = told
    assert share == 6 / (6 + 3)  # two cuts of three pictures, and one more
    np.testing.assert_allclose(held.stderr, plain.stderr * weight * share, rtol=1e-5, atol=1e-9)
    assert weight.std() > 0.1  # the control


def stepped(tmp_path: Path) -> Path:
    """A ViT whose pixels are rounded first: no gradient reaches them, while all cuts inside have one."""
    model = vit()
    for each in model.graph.node:
        each.input[:] = ["whole" if name == "input" else name for name in each.input]
    model.graph.node.insert(0, helper.make_node("Round", ["input"], ["whole"]))
    path = tmp_path / "stepped.onnx"
    onnx.save(model, path)
    return path


def test_paths_stay_what_they_are_where_relevance_does_not_reach_the_pixels(tmp_path):
    path = stepped(tmp_path)
    with Explainer(path, preprocess=PREPROCESS) as opened:
        assert (opened.settings.method, opened.settings.combine) == ("integrated", "agreement")
    with pytest.raises(SettingError, match=r"combine 'relevance' needs a gradient.*take --combine agreement"):
        Explainer(path, preprocess=PREPROCESS, combine="relevance")


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"rules": "attnlrp", "combine": "mean"}, "which --combine mean leaves aside"),
        ({"rules": "attnlrp"}, "held against by default: take --combine relevance"),
        ({"rules": "attnlrp", "method": "hirescam"}, "has no use for --rules"),
        ({"rules": "gradient"}, "take one of conservative, attnlrp"),
    ],
)
def test_rules_that_nothing_goes_by_are_refused(options, complaint, tiny_model):
    with pytest.raises(SettingError, match=complaint):
        Explainer(tiny_model, **options)


def test_people_are_told_that_relevance_has_a_say(scene, tmp_path):
    picture = tmp_path / "scene.png"
    cv2.imwrite(str(picture), scene[..., ::-1])

    def explained(*more: str) -> Result:
        out = str(tmp_path / "out")
        arguments = ["explain", str(SCENES / "vit-half.onnx"), str(picture), "-o", out, "--no-figures", *more]
        return CliRunner().invoke(main, [*arguments, "--device", "cpu"])

    done = explained()
    assert done.exit_code == 0, done.output
    assert "held against relevance, which says where bits lie (conservative rules; --combine agreement" in done.output
    for more, said in (
        (["--combine", "mean"], "combine is relevance there and mean now"),
        (["--rules", "attnlrp"], ""),
    ):
        refused = explained(*more)
        assert refused.exit_code == 1
        assert (said or "rules is conservative there and attnlrp now") in refused.output
