"""Qualities and what they stand for: the same maps, byte for byte, as the settings spelled out."""

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from onnx_evidence import CutError, DeployedModel, Explainer, SettingError
from onnx_evidence.cli import main
from onnx_evidence.cuts.choose import resolve_layers
from onnx_evidence.cuts.graph import Cut
from onnx_evidence.evidence.odds import LN2
from onnx_evidence.evidence.path import integrate
from onnx_evidence.evidence.score import Score
from onnx_evidence.methods.settings import OPTIONS, QUALITIES, Settings
from onnx_evidence.methods.table import METHODS
from tests import oracles
from tests.test_path import as_gradient

SPELLED = {
    "fast": ("--method", "integrated", "--layer", "deep", "--background", "mean", "--steps", 5, "--completeness", 0.99),
    "default": ("--method", "integrated", "--layer", "auto", "--steps", 5, "--completeness", 0.05),
    "best": ("--method", "ordered"),
}
DEEPEST = ("block.add", "deep.add")


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("quality") / "p.png"
    field = oracles.ar_fields(np.random.default_rng(5), 3, 60, 0.9).transpose(1, 2, 0)[:, :44]
    cv2.imwrite(str(path), np.clip(128 + 60 * field, 0, 255).astype(np.uint8))
    return path


def call(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result


@pytest.fixture
def explain(tiny_model, picture, tmp_path):
    """Explains the picture with some options; gives the bytes of map and figure, and the manifest line."""

    def run(name: str, *options: object) -> tuple[bytes, bytes, dict]:
        out = tmp_path / name
        call("explain", tiny_model, picture, "-o", out, "--target", "bee", "--device", "cpu", "-q", *options)
        (entry,) = (json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines())
        return (out / entry["map"]).read_bytes(), (out / entry["figure"]).read_bytes(), entry

    return run


def test_each_quality_gives_the_files_of_its_settings_spelled_out(explain):
    maps = {}
    for quality, options in SPELLED.items():
        *asked, entry = explain(quality, "--quality", quality)
        *spelled, plain = explain(f"{quality}-spelled", *options)
        assert asked == spelled
        settings = entry["settings"]
        assert settings["quality"] == quality
        same = {name: value for name, value in plain["settings"].items() if name != "quality"}
        assert same == {name: value for name, value in settings.items() if name != "quality"}
        assert entry["budget"] == plain["budget"]
        maps[quality] = asked[0]
    assert maps["default"] == explain("nothing")[0]
    assert len(set(maps.values())) == 3  # the control: they are three


def test_the_manifest_tells_what_a_quality_stood_for(explain):
    fast, default, best = (explain(quality, "--quality", quality)[2] for quality in QUALITIES)
    names = ("method", "layers", "steps", "completeness")
    assert [fast["settings"][name] for name in names] == ["integrated", ["deep"], 5, 0.99]
    assert [default["settings"][name] for name in names] == ["integrated", ["auto"], 5, 0.05]
    assert best["settings"]["method"] == "ordered"
    assert [cut["name"] for cut in fast["cuts"]] == list(DEEPEST)
    assert [cut["name"] for cut in best["cuts"]] == ["input"]
    assert [cut["budget"]["steps"] for cut in fast["cuts"]] == [5, 5]
    assert default["budget"]["steps"] >= 9
    assert (fast["method_reason"], best["method_reason"]) == ("settled by --quality fast", "settled by --quality best")
    assert best["budget"]["gap_bits"] == pytest.approx(0, abs=1e-9)


def test_settings_are_filled_in_once_and_stay(tiny_model):
    for quality, chosen in QUALITIES.items():
        settled = Settings(quality=quality, seed=3).settled()
        assert settled == Settings(quality=quality, seed=3, **chosen)
        assert settled.settled() == settled
    assert Settings().settled() == Settings()
    settings = Explainer(tiny_model, device="cpu", quality="fast").settings
    assert (settings.method, settings.layers, settings.steps) == ("integrated", ("deep",), 5)
    # What a quality settles may be said beside it; what it leaves open is open.
    fast = Explainer(tiny_model, device="cpu", quality="fast", method="integrated", layer="deep", score="logit")
    assert (fast.settings.score, len(fast.engines)) == ("logit", 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quality": "good"}, "quality 'good' is unknown: take one of fast, default, best"),
        ({"quality": "fast", "method": "window"}, "quality 'fast' settles the method: drop --quality or --method"),
        ({"quality": "fast", "layer": "stem"}, "quality 'fast' settles the layer: drop --quality or --layer"),
        ({"quality": "fast", "steps": 17}, "quality 'fast' settles the steps: drop --quality or --steps"),
        ({"quality": "fast", "completeness": 0.01}, "settles the completeness: drop --quality or --completeness"),
        # A default that is given is given.
        ({"quality": "fast", "steps": 9}, "quality 'fast' settles the steps: drop --quality or --steps"),
        ({"quality": "fast", "completeness": 0.05}, "settles the completeness: drop --quality or --completeness"),
        ({"quality": "best", "method": "integrated"}, "quality 'best' settles the method"),
        ({"quality": "best", "layer": "stem"}, "method 'ordered' works on pixels, so it takes no layer"),
        ({"quality": "best", "score": "logit"}, "method 'ordered' has no use for --score"),
        ({"quality": "fast", "samples": 4}, "samples 4 of what"),
        ({"quality": "fast", "tolerance": 0.1}, "no use for --tolerance"),
        ({"steps": 1}, "steps 1 is too small: at least 2"),
        ({"steps": 1026}, "steps 1026 is too large: at most 1025"),
        ({"method": "window", "steps": 7}, "method 'window' has no use for --steps: .* integrated"),
        ({"method": "grad-cam", "steps": 7}, "no use for --steps"),
        ({"layer": ["deep", "stem"]}, "layer 'deep' chooses alone: name layers, or leave the choice to it"),
        ({"layer": ["auto", "deep"]}, "layer 'auto' chooses alone"),
        ({"method": "grad-cam", "layer": "deep"}, "takes one layer, and 'deep' stands for two: name one of them"),
        ({"method": "occlusion", "layer": "deep"}, "works on pixels, so it takes no layer"),
        ({"method": "window", "background": "blur+mean"}, r"cannot use --background blur\+mean: take mean, zero or"),
        ({"method": "taylor-evidence", "background": "blur+mean"}, r"takes one background, not 'blur\+mean'"),
        ({"method": "rise", "background": "blur+mean"}, r"takes one background, not 'blur\+mean'"),
    ],
)
def test_contradictions_are_refused(options, message, tiny_model):
    with pytest.raises(SettingError, match=message):
        Explainer(tiny_model, device="cpu", **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quality": None}, "quality None is not text: take one of fast, default, best"),
        ({"method": None}, "method None is not text"),
        ({"score": 3}, "score 3 is not text: take one of log-odds, logit"),
        ({"steps": 5.5}, "steps 5.5 is not a whole number"),
        ({"steps": True}, "steps True is not a whole number"),
        ({"steps": None}, "steps None is not a whole number"),
        ({"steps": math.nan}, "steps nan is not a whole number"),
        ({"samples": "8", "method": "window"}, "samples '8' is not a whole number or None"),
        ({"batch_size": 2.0}, "batch size 2.0 is not a whole number"),
        ({"completeness": "x"}, "completeness 'x' is not a number"),
        ({"completeness": math.nan}, "completeness nan must lie between 0 and 1"),
        ({"tolerance": True, "method": "window"}, "tolerance True is not a number or None"),
        ({"laplace": (), "method": "window"}, r"laplace \(\) is not two whole numbers or None"),
        ({"laplace": (5,), "method": "window"}, r"laplace \(5,\) is not two whole numbers"),
        ({"laplace": (5, 2.5), "method": "window"}, r"laplace \(5, 2.5\) is not two whole numbers"),
        ({"background": 5}, "background 5 is not text or None"),
        ({"layer": []}, r"layers \(\) is not a name or a list of names"),
        ({"layer": None}, r"layers \(None,\) is not a name or a list of names"),
        ({"layer": ["stem", 5]}, "is not a name or a list of names"),
    ],
)
def test_values_of_another_kind_are_refused(options, message, tiny_model):
    with pytest.raises(SettingError, match=message):
        Explainer(tiny_model, device="cpu", **options)


@pytest.mark.parametrize("several", [list, tuple, np.array, dict.fromkeys, iter])
def test_layers_may_be_anything_that_has_names(several, tiny_model):
    explainer = Explainer(tiny_model, device="cpu", layer=several(["block.add", "deep.add"]))
    assert [engine.cut.name for engine in explainer.engines] == ["block.add", "deep.add"]


def test_values_become_python_s_own(tmp_path):
    settings = Settings(
        layers=["deep"],
        window=np.int32(3),
        seed=np.int64(4),
        completeness=np.float32(0.5),
        tolerance=1,
        laplace=[10, np.int8(2)],
        background=tmp_path / "x.npz",
    ).settled()
    assert (settings.layers, settings.laplace) == (("deep",), (10, 2))
    kinds = [type(getattr(settings, name)) for name in ("window", "seed", "completeness", "tolerance", "background")]
    assert kinds == [int, int, float, float, str]
    assert type(settings.laplace[1]) is int


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--quality", "good"), "'good' is not one of 'fast', 'default', 'best'"),
        (("--quality", "fast", "--method", "window"), "quality 'fast' settles the method"),
        (("--quality", "fast", "--steps", "9"), "quality 'fast' settles the steps"),
        (("--steps", 1), "1 is not in the range 2<=x<=1025"),
        (("--method", "ordered", "--layer", "deep"), "takes no layer"),
    ],
)
def test_the_command_line_refuses_them_as_wrong_usage_and_writes_nothing(
    options, message, tiny_model, picture, tmp_path
):
    result = call("explain", tiny_model, picture, "-o", tmp_path / "out", *options, code=2)
    assert message in result.output
    assert not (tmp_path / "out").exists()


def test_the_table_says_what_is_computed(tiny_model, picture, tmp_path):
    shown = call("explain", tiny_model, picture, "-o", tmp_path, "--quality", "best", "--device", "cpu").stdout
    assert "method: ordered (settled by --quality best)" in shown
    assert "cuts: input (32 x 32, 4 x 4 cells ordered by 320 gradients, 16 level sets)" in shown
    assert "replaced by the blurred picture's, and the picture's own channel means\n" in shown
    head, row = shown.splitlines()[-2:]
    assert head.endswith("for / against / missed")
    assert row.endswith(" / 0.0%")


def test_help_names_the_qualities():
    shown = " ".join(call("explain", "--help").stdout.split())
    for words in (
        "--quality [fast|default|best]",
        "--steps INTEGER",
        "auto|deep|NAME",
        "blur+mean",
        "[default: default]",
    ):
        assert words in shown


# The word deep


def cut(name: str, side: int) -> Cut:
    return Cut(name, "Add", (8, side, side), 0.5, field=None, joins=True, skipped_by=None)


CUTS = (Cut("input", "Input", (3, 224, 224), 1.0, None, False, None), *(cut(f"c{side}", side) for side in (28, 14, 7)))


@pytest.mark.parametrize("integrate_there", [True, False])
def test_deep_stands_for_the_two_deepest_stages(integrate_there):
    assert resolve_layers(["deep"], CUTS, integrate=integrate_there) == ["c14", "c7"]
    assert resolve_layers(["deep", "deep"], CUTS[:3], integrate=integrate_there) == ["c28", "c14"]
    assert resolve_layers(["deep"], CUTS[:2], integrate=integrate_there) == ["c28"]
    with pytest.raises(CutError, match="no cut inside the model"):
        resolve_layers(["deep"], CUTS[:1], integrate=integrate_there)
    # The control: integration takes more by itself.
    assert resolve_layers(["auto"], CUTS, integrate=True) == ["c28", "c14", "c7"]


@pytest.mark.parametrize("method", ["integrated", "window"])
def test_deep_is_a_layer_of_every_method_that_averages(method, tiny_model):
    deployed = DeployedModel(tiny_model, device="cpu")
    asked, named = (Explainer(deployed, method=method, layer=layer) for layer in ("deep", list(DEEPEST)))
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3)).astype(np.uint8)
    maps = [each.explain(noise, target=1).values for each in (asked, named)]
    np.testing.assert_array_equal(*maps)


# Steps


@pytest.mark.parametrize("steps", [2, 5, 17])
def test_a_path_starts_with_the_steps_asked_for(steps, rng):
    """The trapezoidal rule on equal panels, by hand."""
    tail = oracles.ReluTail(rng, 6, 12, 7)
    gradient, score = as_gradient(tail, tail.gradient), Score.of(7, 0)
    features, start = rng.normal(size=(2, 6, 5, 5))
    done = []
    result = integrate(
        features,
        start,
        gradient,
        score,
        first_steps=steps,
        completeness=0.99999,
        most_steps=steps,
        progress=done.append,
    )
    places = np.linspace(0, 1, steps)
    slopes = [gradient((start + t * (features - start))[None], score.direction, score.rest)[1][0] for t in places]
    weights = np.full(steps, 1.0)
    weights[[0, -1]] = 0.5
    mean = np.einsum("n,ncij->cij", weights / (steps - 1), slopes)
    np.testing.assert_allclose(result.cells, ((features - start) * mean).sum(axis=0) / LN2, atol=1e-9)
    assert (result.budget.steps, done) == (steps, [steps])


def test_more_steps_miss_less_and_are_counted(tiny_model):
    deployed = DeployedModel(tiny_model, device="cpu")
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3)).astype(np.uint8)
    gaps = []
    for steps in (2, 5, 65):
        explainer = Explainer(deployed, method="integrated-gradients", steps=steps, completeness=0.999)
        assert explainer.rows(1) == steps
        budget = explainer.explain(noise, target=1).budget
        assert budget.steps == steps
        gaps.append(budget.gap)
    assert gaps[2] < 0.1 * gaps[0]


# The table of methods


def test_every_method_of_the_table_uses_settings_that_exist():
    some = {name for name, option in OPTIONS.items() if not option.for_all}
    assert set(OPTIONS) == set(vars(Settings()))
    for name, row in METHODS.items():
        assert name == row.name
        assert row.uses <= some, name
    assert METHODS["ordered"].uses == {"background", "steps", "most_steps", "completeness"}
    assert all(chosen.get("method", "integrated") in METHODS for chosen in QUALITIES.values())
    assert {name for name, row in METHODS.items() if "steps" in row.uses} == {
        "integrated",
        "integrated-gradients",
        "ordered",
    }
