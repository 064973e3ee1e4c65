"""The checks on planted methods, whose verdicts are known; the numbers by hand; the default method on Lite0."""

import json
import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from onnx_evidence import DataError, DeployedModel, Explainer, ModelError, SettingError
from onnx_evidence.cli import main
from onnx_evidence.evaluation.randomise import Stage, choose_stages
from onnx_evidence.evaluation.sanity import SAME, Check, as_report, check_sanity, maps_to_make
from onnx_evidence.evaluation.sanity_method import Explained, Mapper
from onnx_evidence.evidence.rng import key_of
from onnx_evidence.pictures.photograph import Photograph, as_photograph, read_photograph
from tests import tiny
from tests.test_links import spearman

RANDOMISED = [
    "last layer",
    "last quarter",
    "last half",
    "last three quarters",
    "all layers",
    "tail only",
    "head only",
]
NAMES = ["runner-up class", "least likely class", "blank picture", *RANDOMISED]


@pytest.fixture(autouse=True)
def _keep_logging() -> Iterator[None]:
    """The command sets up logging for its own process; inside this one, undo that."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


@pytest.fixture(scope="module")
def deployed(tiny_model: Path) -> DeployedModel:
    return DeployedModel(tiny_model, device="cpu")


@pytest.fixture(scope="module")
def stages(deployed: DeployedModel) -> list[Stage]:
    return choose_stages(deployed, ["block.add", "deep.add"])


def pixels(seed: int) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3)).astype(np.uint8)
    return cv2.resize(coarse, (60, 44), interpolation=cv2.INTER_CUBIC)


@pytest.fixture(scope="module")
def pictures() -> list[Photograph]:
    return [as_photograph(pixels(seed)) for seed in (3, 4, 5)]


def edges(deployed: DeployedModel, picture: Photograph, target: int) -> np.ndarray:
    """Draws edges, whatever the model: |Laplacian| of the grey picture."""
    return np.abs(cv2.Laplacian(picture.pixels.mean(axis=2), cv2.CV_64F))


def centre(deployed: DeployedModel, picture: Photograph, target: int) -> np.ndarray:
    """Nothing but a prior."""
    rows, cols = np.mgrid[-16:16, -16:16] + 0.5
    return np.exp(-(rows**2 + cols**2) / 200)


def honest(deployed: DeployedModel, picture: Photograph, target: int) -> np.ndarray:
    """Noise with the model's answer for its key, and as strong as the picture's contrast."""
    logits = deployed.logits(deployed.prepare(picture)[1][None])
    rng = np.random.default_rng(key_of(logits.tobytes() + bytes([target])))
    return rng.standard_normal((32, 32)) * picture.pixels.std(axis=(0, 1)).mean()


class Flipping:
    """Edges again, of a sign that every model draws anew: + for the opened one, then + and - in turn."""

    def __init__(self, opened: DeployedModel) -> None:
        self.opened, self.seen = opened, opened
        self.sign = 1

    def __call__(self, deployed: DeployedModel, picture: Photograph, target: int) -> np.ndarray:
        if deployed is not self.seen:
            self.seen, self.sign = deployed, -self.sign
        return edges(deployed, picture, target) * (1 if deployed is self.opened else self.sign)


def verdicts(checks: list[Check]) -> dict[str, bool]:
    return {check.name: check.passed for check in checks}


def test_a_method_that_follows_the_model_passes(deployed, pictures, stages):
    checks = check_sanity(deployed, honest, pictures, stages, draws=2)
    assert verdicts(checks) == dict.fromkeys(NAMES, True)
    assert all(abs(check.value) < 0.2 for check in checks)
    assert next(check for check in checks if check.name == "blank picture").value == 0


@pytest.mark.parametrize("in_bits", [True, False])
def test_a_planted_edge_detector_fails_all_that_it_should(deployed, pictures, stages, in_bits):
    checks = check_sanity(deployed, edges, pictures, stages, draws=1, in_bits=in_bits)
    # Where there is nothing it draws nothing: that is all it has in common with an explanation.
    assert verdicts(checks) == dict.fromkeys(NAMES, False) | {"blank picture": True}
    assert all(check.value == pytest.approx(1) for check in checks if check.name != "blank picture")
    # Another picture's edges are elsewhere.
    assert all(abs(check.chance) < 0.5 for check in checks if check.name in RANDOMISED)


@pytest.mark.parametrize("in_bits", [True, False])
def test_a_prior_fails_everything(deployed, pictures, stages, in_bits):
    checks = check_sanity(deployed, centre, pictures, stages, draws=1, in_bits=in_bits)
    assert verdicts(checks) == dict.fromkeys(NAMES, False)


def test_a_pattern_that_changes_its_sign_alone_fails_by_magnitude(deployed, pictures, stages):
    checks = check_sanity(deployed, Flipping(deployed), pictures, stages, draws=2)
    randomised = [check for check in checks if check.name in RANDOMISED]
    assert [round(check.value, 6) for check in randomised] == [0] * 7
    assert [round(check.size, 6) for check in randomised] == [1] * 7
    assert not any(check.passed for check in randomised)


def test_values_are_means_over_draws_and_pictures_and_the_worst_is_named(deployed, pictures, stages):
    made: dict[tuple[int, int], list[np.ndarray]] = {}
    calls = iter(range(10_000))

    def recorded(model: DeployedModel, picture: Photograph, target: int) -> np.ndarray:
        values = np.random.default_rng(next(calls)).standard_normal((6, 7)) + np.arange(7)
        made.setdefault((id(model), id(picture)), []).append(values)
        keep.append(model)
        return values

    keep: list[DeployedModel] = []  # so that no id is used twice
    check = check_sanity(deployed, recorded, pictures, stages[:1], draws=2)[-1]
    twins = list(dict.fromkeys(id(model) for model in keep if model is not deployed))
    answers = [model.logits(deployed.prepare(pictures[0])[1][None]) for model in (keep[-1], keep[-4])]
    assert not np.allclose(*answers)  # every draw is another one
    own = [made[id(deployed), id(picture)][0] for picture in pictures]
    new = [[made[twin, id(picture)][0] for picture in pictures] for twin in twins]
    signed = np.array([[spearman(a, b) for a, b in zip(own, draw, strict=True)] for draw in new])
    sizes = [spearman(np.abs(a), np.abs(b)) for draw in new for a, b in zip(own, draw, strict=True)]
    chance = [spearman(own[(n + 1) % 3], draw[n]) for draw in new for n in range(3)]
    assert (check.name, check.what, signed.shape) == ("last layer", "1 of 1 layers re-drawn", (2, 3))
    assert check.value == pytest.approx(signed.mean(), abs=1e-12)
    assert check.size == pytest.approx(np.mean(sizes), abs=1e-12)
    assert check.chance == pytest.approx(np.mean(chance), abs=1e-12)
    assert check.worst_value == pytest.approx(signed.mean(axis=0).max(), abs=1e-12)
    assert check.worst == pictures[int(signed.mean(axis=0).argmax())].name


def test_stages_that_redraw_the_same_are_made_once_and_the_bar_can_tell(deployed, pictures, stages):
    made = []
    check_sanity(deployed, honest, pictures, stages, draws=2, progress=made.append)
    different = len({stage.weights for stage in stages})
    assert different == 6 < len(stages)
    assert sum(made) == maps_to_make(stages, 3, 2) == 3 * (4 + 2 * 6)


def spoilt(spoil: str) -> Mapper:
    """Honest for the opened model; something else for re-drawn ones."""

    def mapper(model: DeployedModel, picture: Photograph, target: int) -> np.ndarray:
        values = honest(model, picture, target)
        if model is mapper.opened:
            return values
        if spoil == "error":
            raise ModelError("the model gave a class score that is not a finite number")
        return values * np.nan if spoil == "nan" else values * 0

    return mapper


@pytest.mark.parametrize(
    ("spoil", "words"), [("error", "not a finite number"), ("nan", "not finite"), ("constant", "one value everywhere")]
)
def test_a_check_that_cannot_be_made_does_not_pass_and_says_why(deployed, pictures, stages, spoil, words):
    mapper = spoilt(spoil)
    mapper.opened = deployed
    checks = check_sanity(deployed, mapper, pictures, stages, draws=1)
    assert verdicts(checks) == dict.fromkeys(NAMES, False) | dict.fromkeys(NAMES[:3], True)
    assert all(words in check.problem for check in checks if check.name in RANDOMISED)
    report = as_report(checks)
    assert not report["passed"]
    assert report["checks"][-1]["value"] is None
    json.dumps(report, allow_nan=False)


def test_errors_that_are_not_ours_are_not_swallowed(deployed, pictures, stages):
    def broken(model: DeployedModel, picture: Photograph, target: int) -> np.ndarray:
        if model is not deployed:
            raise ZeroDivisionError
        return honest(model, picture, target)

    with pytest.raises(ZeroDivisionError):
        check_sanity(deployed, broken, pictures, stages)


def test_what_cannot_be_compared_is_refused(deployed, pictures, stages):
    with pytest.raises(DataError, match="of one colour"):
        check_sanity(deployed, honest, [as_photograph(np.full((40, 40, 3), 90, np.uint8))], stages)
    with pytest.raises(DataError, match="one value everywhere"):
        check_sanity(deployed, lambda *_: np.ones((4, 4)), pictures, stages)
    with pytest.raises(SettingError, match="0 draws"):
        check_sanity(deployed, honest, pictures, stages, draws=0)
    with pytest.raises(SettingError, match="0 pictures"):
        check_sanity(deployed, honest, [], stages)


def test_two_classes_have_one_other(tmp_path, pictures):
    weights = np.random.default_rng(0).normal(size=(3072, 2)).astype(np.float32)
    nodes = [
        tiny.helper.make_node("Flatten", ["input"], ["flat"]),
        tiny.helper.make_node("MatMul", ["flat", "w"], ["logits"]),
    ]
    model = tiny.make_model(nodes, {"w": weights}, output_shape=("N", 2), metadata={"preprocess": tiny.PREPROCESS})
    binary = DeployedModel(tiny.save(model, tmp_path / "binary.onnx"), device="cpu")
    method = Explained(binary, partial(Explainer, method="gradient-x-input"))
    checks = check_sanity(binary, method, pictures, method.stages, draws=1)
    # One layer: neither a head nor a tail can be told apart. Evidence for the other class is the same, reversed.
    assert [check.name for check in checks] == ["runner-up class", "blank picture", *RANDOMISED[:5]]
    assert checks[0].value == pytest.approx(-1, abs=1e-3)


def test_a_background_fitted_to_this_networks_features_is_refused(deployed, tmp_path):
    from onnx_evidence import fit_background
    from onnx_evidence.methods.background_file import save_background

    many = [tmp_path / f"{seed}.png" for seed in range(12)]
    for seed, path in enumerate(many):
        cv2.imwrite(str(path), pixels(seed))
    fitted = tmp_path / "fitted.npz"
    save_background(fitted, fit_background(deployed, ["block.add", "deep.add"], many))
    with pytest.raises(SettingError, match="re-drawn one has others"):
        Explained(deployed, partial(Explainer, background=str(fitted)))
    # Pictures are drawn through each model's own head.
    assert Explained(deployed, partial(Explainer, background=str(tmp_path), samples=2)).in_bits


@pytest.fixture(scope="module")
def shipped(lite0: Path) -> DeployedModel:
    return DeployedModel(lite0, device="cpu")


def test_the_default_passes_on_lite0(shipped, hopper):
    method = Explained(shipped, Explainer)
    assert method.explainer.settings.method == "integrated"
    # The stage that leaves the most of a map, over methods and pictures.
    checks = check_sanity(shipped, method, [read_photograph(hopper)], method.stages[:1], draws=1)
    assert [check.passed for check in checks] == [True] * 4


def test_guided_backpropagation_fails_on_lite0_where_the_literature_says_so(shipped, hopper):
    """Sensitive to the lowest layers alone: Adebayo et al. 2018, section 5; Nie et al. 2018 prove why."""
    method = Explained(shipped, partial(Explainer, method="guided-backprop"))
    picked = [stage for stage in method.stages if stage.name in ("last layer", "last quarter", "all layers")]
    checks = check_sanity(shipped, method, [read_photograph(hopper)], picked, in_bits=method.in_bits, draws=1)
    by_name = {check.name: check for check in checks}
    for name in ("last layer", "last quarter", "runner-up class", "least likely class"):
        assert by_name[name].value > 0.9 > SAME, name
    assert by_name["all layers"].value < 0.7


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["sanity", *(str(each) for each in arguments)], catch_exceptions=False)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("sanity")
    paths = [folder / "a.png", folder / "b.png"]
    for seed, path in enumerate(paths, start=3):
        cv2.imwrite(str(path), pixels(seed)[..., ::-1])
    return paths


def test_the_command_says_pass_or_fail_and_exits_accordingly(tiny_model, files):
    good = run(tiny_model, *files, "--draws", 1)
    assert good.exit_code == 0, good.output
    assert good.stdout.splitlines()[-1] == "all 10 checks passed"
    assert sum(line.startswith("pass") for line in good.stdout.splitlines()) == 10
    bad = run(tiny_model, files[0].parent, "--draws", 1, "--method", "guided-backprop", "--json")
    report = json.loads(bad.stdout)
    assert bad.exit_code == (0 if report["passed"] else 1)
    assert (report["method"], report["draws"], [each["name"] for each in report["checks"]]) == (
        "guided-backprop",
        1,
        NAMES,
    )
    assert {"value", "limit", "size", "size_limit", "chance", "worst", "worst_value", "problem"} <= report["checks"][
        0
    ].keys()


def test_a_failed_check_is_exit_code_1(tiny_model, files):
    # The largest slope of one logit and of the one next to it are nearly the same here.
    bad = run(tiny_model, *files, "--draws", 1, "--method", "gradient")
    assert bad.exit_code == 1
    (line,) = (line for line in bad.stdout.splitlines() if line.startswith("FAIL"))
    assert "runner-up class" in line
    assert bad.stdout.splitlines()[-1] == "1 of 10 checks failed"
    quiet = run(tiny_model, *files, "--draws", 1, "--method", "gradient", "-q")
    assert (quiet.exit_code, quiet.output) == (1, "")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--draws", "0"], 2, "draws"),
        (["--method", "gradient", "--window", "3"], 2, "no use for --window"),
        (["--layer", "nowhere"], 1, "is not a tensor"),
    ],
)
def test_bad_input_ends_in_one_line(tiny_model, files, arguments, code, words):
    result = run(tiny_model, *files, *arguments)
    assert result.exit_code == code
    assert words in result.stderr
    assert result.stderr.splitlines()[-1].startswith("Error: ")


def test_a_picture_that_cannot_be_read_is_named(tiny_model, tmp_path):
    (tmp_path / "no.png").write_bytes(b"no picture")
    result = run(tiny_model, tmp_path / "no.png")
    assert (result.exit_code, len(result.stderr.splitlines())) == (1, 1)
    assert "no.png" in result.stderr
