"""Every method of the gradient family through `Explainer`, against a numpy twin of the tiny model; and the budgets."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from onnx_evidence import DeployedModel, Explainer
from onnx_evidence.cli import main
from onnx_evidence.cuts.receptive import measure_field
from onnx_evidence.errors import GradientError
from onnx_evidence.evidence.field import AxisField, CellField
from onnx_evidence.evidence.odds import LN2
from onnx_evidence.evidence.rng import generator, key_of
from onnx_evidence.pictures.opencv import blur
from onnx_evidence.pictures.placement import Placement
from onnx_evidence.preprocessing.synthetic import known_range
from onnx_evidence.results.explanation import Explanation
from tests import oracles, tiny

TARGET, RIVAL = 1, 3
# The activation behind which the twin can be cut, with the step of the forward pass that starts there.
CUTS = {"input": 0, "block.add": 1, "deep.add": 2}


def convolve(x: np.ndarray, w: np.ndarray, stride: int = 1) -> np.ndarray:
    """3 x 3, padded by one: nine shifted products."""
    padded = np.pad(x, [(0, 0), (0, 0), (1, 1), (1, 1)])
    rows, cols = x.shape[2] // stride, x.shape[3] // stride
    parts = [
        np.einsum("oc,ncij->noij", w[:, :, a, b], padded[:, :, a::stride, b::stride][:, :, :rows, :cols], optimize=True)
        for a in range(3)
        for b in range(3)
    ]
    return sum(parts)


def convolve_back(y: np.ndarray, w: np.ndarray, stride: int = 1) -> np.ndarray:
    """Its transpose: every output is sent back to the nine inputs that it came from."""
    rows, cols = y.shape[2] * stride, y.shape[3] * stride
    padded = np.zeros((len(y), w.shape[1], rows + 2, cols + 2))
    for a in range(3):
        for b in range(3):
            target = padded[:, :, a : a + rows : stride, b : b + cols : stride]
            target += np.einsum("oc,noij->ncij", w[:, :, a, b], y, optimize=True)
    return padded[:, :, 1:-1, 1:-1]


class Twin:
    """`tiny.classifier` in float64: forward from a cut, and backward by hand, guided or not."""

    def __init__(self, path: Path) -> None:
        model = onnx.load(path)
        weights = {each.name: numpy_helper.to_array(each).astype(np.float64) for each in model.graph.initializer}
        self.w1, self.w2, self.w3, self.w4, self.w5, self.w6 = (weights[f"w{n}"] for n in range(1, 7))
        self.b6 = weights["b6"]

    def forward(self, x: np.ndarray, cut: str = "input") -> dict[str, np.ndarray]:
        seen, place = {cut: x.astype(np.float64)}, CUTS[cut]
        if place == 0:
            seen["stem"] = convolve(seen["input"], self.w1, 2)
            stem = np.maximum(seen["stem"], 0)
            seen["block.a"] = convolve(stem, self.w2)
            seen["block.add"] = convolve(np.maximum(seen["block.a"], 0), self.w3) + stem
        if place <= 1:
            seen["down"] = convolve(seen["block.add"], self.w4, 2)
            down = np.maximum(seen["down"], 0)
            seen["deep.add"] = convolve(down, self.w5) + down
        seen["logits"] = seen["deep.add"].mean(axis=(2, 3)) @ self.w6.T + self.b6
        return seen

    def backward(self, x: np.ndarray, cotangent: np.ndarray, *, guided: bool = False) -> dict[str, np.ndarray]:
        """Gradients of ``cotangent . logits`` at one picture by every cut."""
        seen = self.forward(x[None])

        def gate(back: np.ndarray, inside: np.ndarray) -> np.ndarray:
            return (np.maximum(back, 0) if guided else back) * (inside > 0)

        deep = np.broadcast_to((cotangent @ self.w6)[None, :, None, None] / 64, (1, 12, 8, 8))
        down = gate(deep + convolve_back(deep, self.w5), seen["down"])
        block = convolve_back(down, self.w4, 2)
        inner = gate(convolve_back(block, self.w3), seen["block.a"])
        stem = gate(block + convolve_back(inner, self.w2), seen["stem"])
        return {"deep.add": deep[0], "block.add": block[0], "input": convolve_back(stem, self.w1, 2)[0]}

    def cotangent(self, x: np.ndarray, score: str = "log-odds", versus: int | None = None) -> np.ndarray:
        if versus is not None:
            return np.eye(5)[TARGET] - np.eye(5)[versus]
        if score == "logit":
            return np.eye(5)[TARGET]
        return oracles.log_odds_cotangent(self.forward(x[None])["logits"][0], TARGET)

    def along(self, at: np.ndarray, directions: np.ndarray, cut: str, *, step: float = 1e-5) -> np.ndarray:
        """Slope of the log-odds of the target in bits along some directions, by central differences."""
        odds = []
        for sign in (1, -1):
            z = self.forward(at + sign * step * directions, cut)["logits"]
            others = np.delete(z, TARGET, axis=1)
            odds.append(z[:, TARGET] - np.log(np.exp(others - 30).sum(axis=1)) - 30)
        return (odds[0] - odds[1]) / (2 * step) / LN2


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    field = oracles.ar_fields(np.random.default_rng(5), 3, 60, 0.9).transpose(1, 2, 0)[:, :44]
    return np.clip(128 + 60 * field, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def deployed(tiny_model: Path) -> DeployedModel:
    return DeployedModel(tiny_model, device="cpu")


@pytest.fixture(scope="module")
def twin(tiny_model: Path) -> Twin:
    return Twin(tiny_model)


@pytest.fixture(scope="module")
def inputs(deployed: DeployedModel, picture: np.ndarray) -> np.ndarray:
    return deployed.prepare(picture)[1].astype(np.float64)


def explain(deployed: DeployedModel, picture: np.ndarray, method: str, versus: int | None = None, **options):
    return Explainer(deployed, method=method, **options).explain(picture, target=TARGET, versus=versus)


def close(seen: np.ndarray, expected: np.ndarray, share: float = 2e-3) -> None:
    assert seen.shape == expected.shape
    np.testing.assert_allclose(seen, expected, atol=share * np.abs(expected).max())


def far(seen: np.ndarray, other: np.ndarray) -> None:
    assert np.abs(seen - other).max() > 0.02 * np.abs(seen).max()


def cells_of(channels: np.ndarray) -> np.ndarray:
    """One direction per cell: these values there, 0 elsewhere, (A * B, C, A, B)."""
    count = channels[0].size
    flat = np.zeros((count, len(channels), count))
    flat[np.arange(count), :, np.arange(count)] = channels.reshape(len(channels), -1).T
    return flat.reshape(count, *channels.shape)


def test_the_twin_is_the_model_and_its_backward_pass_its_slope(deployed, twin, inputs):
    seen = twin.forward(inputs[None])
    np.testing.assert_allclose(seen["logits"], deployed.logits(inputs[None].astype(np.float32)), atol=1e-4)
    backward = twin.backward(inputs, twin.cotangent(inputs))
    rng = np.random.default_rng(0)
    for cut in CUTS:
        at = seen[cut][0]
        directions = rng.normal(size=(8, *at.shape))
        slopes = np.einsum("ncij,cij->n", directions, backward[cut]) / LN2
        np.testing.assert_allclose(twin.along(at, directions, cut), slopes, atol=1e-2 * np.abs(slopes).max())


def test_gradient_is_the_largest_slope_by_differences(deployed, picture, twin, inputs):
    seen = explain(deployed, picture, "gradient")
    places = cells_of(np.ones_like(inputs))[::41]
    channels = [twin.along(inputs, places * np.eye(3)[k][None, :, None, None], "input") for k in range(3)]
    close(seen.values.reshape(-1)[::41], np.abs(channels).max(axis=0))
    assert seen.values.min() >= 0
    far(seen.values.reshape(-1)[::41], np.abs(channels[0]))
    close(seen.values, np.abs(twin.backward(inputs, twin.cotangent(inputs))["input"]).max(axis=0) / LN2)


def test_gradient_times_input_is_a_slope_along_each_pixel(deployed, picture, twin, inputs):
    seen = explain(deployed, picture, "gradient-x-input")
    close(seen.values.reshape(-1)[::5], twin.along(inputs, cells_of(inputs)[::5], "input"), share=0.01)
    far(seen.values, explain(deployed, picture, "gradient").values)
    np.testing.assert_array_equal(seen.values, seen.grids[0])


def test_relevance_is_gradient_times_input_behind_rectifiers(deployed, picture):
    """Networks of convolutions, batch normalisation and Relu have no node whose rule is another."""
    for rules in ("conservative", "attnlrp"):
        seen = explain(deployed, picture, "relevance", rules=rules)
        np.testing.assert_array_equal(seen.values, explain(deployed, picture, "gradient-x-input").values)
    inside = explain(deployed, picture, "relevance", layer="block.add")
    np.testing.assert_array_equal(inside.grids[0], explain(deployed, picture, "hirescam", layer="block.add").grids[0])
    assert inside.values.sum() == pytest.approx(inside.grids[0].sum(), rel=1e-4)


@pytest.mark.parametrize("layer", ["block.add", "deep.add"])
def test_grad_cam_pools_slopes_and_hirescam_does_not(layer, deployed, picture, twin, inputs):
    features = twin.forward(inputs[None])[layer][0]
    pooled = np.broadcast_to(np.eye(len(features))[:, :, None, None], (len(features), *features.shape))
    weights = twin.along(features, pooled, layer) / features[0].size
    grad_cam = np.einsum("k,kij->ij", weights, features)
    hirescam = twin.along(features, cells_of(features), layer).reshape(features.shape[1:])
    close(explain(deployed, picture, "grad-cam", layer=layer).grids[0], grad_cam)
    close(explain(deployed, picture, "hirescam", layer=layer).grids[0], hirescam, share=0.01)
    if layer == "deep.add":
        close(grad_cam, hirescam)  # GAP and a linear layer behind it: O1
    else:
        far(grad_cam, hirescam)


@pytest.mark.parametrize("background", ["mean", "zero"])
def test_taylor_evidence_takes_the_background_off(background, deployed, picture, twin, inputs):
    features = twin.forward(inputs[None])["block.add"][0]
    slope = twin.backward(inputs, twin.cotangent(inputs))["block.add"] / LN2
    start = features.mean(axis=(1, 2), keepdims=True) if background == "mean" else 0
    seen = explain(deployed, picture, "taylor-evidence", layer="block.add", background=background).grids[0]
    close(seen, ((features - start) * slope).sum(axis=0))
    whole = (features * slope).sum(axis=0)
    (far if background == "mean" else close)(seen, whole)


@pytest.mark.parametrize("method", ["layercam", "grad-cam++"])
def test_weighted_maps_use_the_same_slope(method, deployed, picture, twin, inputs):
    h = twin.forward(inputs[None])["block.add"][0]
    g = twin.backward(inputs, twin.cotangent(inputs))["block.add"]
    if method == "layercam":
        expected = (h * np.maximum(g, 0)).sum(axis=0)
    else:
        bottom = 2 * g**2 + g**3 * h.sum(axis=(1, 2), keepdims=True)
        expected = np.einsum("k,kij->ij", (g**2 / bottom * np.maximum(g, 0)).sum(axis=(1, 2)), h)
    close(explain(deployed, picture, method, layer="block.add").grids[0], expected / LN2, share=0.01)
    far(expected, (h * g).sum(axis=0))


def test_guided_backprop_is_the_guided_backward_pass_and_no_gradient(deployed, picture, twin, inputs):
    seen = explain(deployed, picture, "guided-backprop").values
    cotangent = twin.cotangent(inputs)
    close(seen, np.abs(twin.backward(inputs, cotangent, guided=True)["input"]).max(axis=0) / LN2)
    far(seen, np.abs(twin.backward(inputs, cotangent)["input"]).max(axis=0) / LN2)


def test_guided_backprop_needs_a_rectifier(tmp_path, picture):
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(4, 3, 3, 3)).astype(np.float32), "v": rng.normal(size=(5, 4)).astype(np.float32)}
    nodes = [
        helper.make_node("Conv", ["input", "w"], ["c"], pads=[1] * 4),
        helper.make_node("Sigmoid", ["c"], ["s"]),
        helper.make_node("GlobalAveragePool", ["s"], ["pool"]),
        helper.make_node("Flatten", ["pool"], ["flat"]),
        helper.make_node("Gemm", ["flat", "v"], ["logits"], transB=1),
    ]
    metadata = {"preprocess": tiny.PREPROCESS, "labels": tiny.LABELS}
    model = DeployedModel(tiny.save(tiny.make_model(nodes, weights, metadata=metadata), tmp_path / "m.onnx"))
    with pytest.raises(GradientError, match="rectifiers"):
        Explainer(model, method="guided-backprop")
    assert np.abs(explain(model, picture, "gradient").values).max() > 0  # the control: the gradient is there


def test_smoothgrad_is_seeded_and_smooth(deployed, picture):
    def smooth(samples: int, seed: int) -> np.ndarray:
        return explain(deployed, picture, "smoothgrad", samples=samples, seed=seed).values

    few, other = smooth(4, 0), smooth(4, 1)
    np.testing.assert_array_equal(few, smooth(4, 0))
    far(few, other)
    far(few, explain(deployed, picture, "gradient").values)
    # More noise is averaged away: two seeds come closer.
    assert np.abs(smooth(64, 0) - smooth(64, 1)).mean() < 0.5 * np.abs(few - other).mean()


def test_smoothgrad_is_the_mean_gradient_over_noise_of_a_share_of_the_range(deployed, picture, twin, inputs):
    seen, share = explain(deployed, picture, "smoothgrad", samples=3, seed=2).values, 0.15
    key = key_of(inputs.astype(np.float32).tobytes())
    noise = [generator(2, key, key_of(b"noise"), number).standard_normal(inputs.shape) for number in range(3)]
    noisy = [inputs + share * (inputs.max() - inputs.min()) * each for each in noise]
    slopes = [twin.backward(each, twin.cotangent(each))["input"] for each in noisy]
    close(seen, np.abs(np.mean(slopes, axis=0)).max(axis=0) / LN2)
    far(seen, np.mean(np.abs(slopes), axis=0).max(axis=0) / LN2)


@pytest.mark.parametrize("completeness", [0.05, 0.005])
def test_integrated_gradients_are_complete(completeness, deployed, picture, twin, inputs):
    seen = explain(deployed, picture, "integrated-gradients", completeness=completeness)
    z = twin.forward(np.stack([inputs, 0 * inputs]))["logits"]
    full, removed = (oracles.exact_log_odds(each, TARGET) / LN2 for each in z)
    assert abs(full - removed) > 0.5
    assert seen.values.sum() == pytest.approx(full - removed, abs=1.02 * completeness * max(1, abs(full - removed)))
    assert (seen.budget.with_features, seen.budget.without) == pytest.approx((full, removed), abs=1e-4)
    product = explain(deployed, picture, "gradient-x-input").values
    assert abs(product.sum() - (full - removed)) > completeness * abs(full - removed)  # the control


@pytest.mark.parametrize("method", ["gradient-x-input", "hirescam", "grad-cam", "integrated", "integrated-gradients"])
def test_scores_differ_and_a_contrast_is_a_difference_of_logits(method, deployed, picture, twin, inputs):
    options = {"completeness": 0.002, "steps": 33} if method.startswith("integrated") else {}
    options |= {"combine": "mean"} if method == "integrated" else {}  # what is linear in the score
    odds, logit = (explain(deployed, picture, method, score=each, **options).values for each in ("log-odds", "logit"))
    far(odds, logit)
    explainer = Explainer(deployed, method=method, score="logit", **options)
    rival = explainer.explain(picture, target=RIVAL).values
    close(explainer.explain(picture, target=TARGET, versus=RIVAL).values, logit - rival, share=0.02)
    if method == "gradient-x-input":
        for score, seen in (("log-odds", odds), ("logit", logit)):
            slope = twin.backward(inputs, twin.cotangent(inputs, score))["input"]
            close(seen, (inputs * slope).sum(axis=0) / LN2)


# From cells to pixels: sums are kept.


@settings(derandomize=True, deadline=None, max_examples=30)
@given(
    sides=st.tuples(st.integers(2, 70), st.integers(2, 70)),
    grid=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    seed=st.integers(0, 2**32 - 1),
)
def test_spreading_keeps_sums_on_any_grid(sides, grid, seed):
    rng = np.random.default_rng(seed)
    axes = [
        AxisField(side, np.sort(rng.uniform(0, side, size=cells)), np.ones(cells))
        for side, cells in zip(sides, grid, strict=True)
    ]
    cells = rng.normal(size=grid)
    pixels = CellField(*axes).spread(cells)
    assert pixels.shape == sides
    assert pixels.sum() == pytest.approx(cells.sum(), abs=1e-9)
    for axis in axes:
        np.testing.assert_allclose(axis.shares().sum(axis=0), 1, atol=1e-12)
        assert axis.shares().min() >= 0
    # Each cell's own bits, and nothing of the others'.
    one = np.zeros(grid)
    one[0, -1] = 3
    assert CellField(*axes).spread(one).sum() == pytest.approx(3, abs=1e-9)


def test_spreading_keeps_sums_at_every_cut_and_interpolating_does_not(deployed, rng):
    for cut in deployed.graph.cuts[1:]:
        field = measure_field(
            deployed.head(cut), known_range(deployed.preprocess), deployed.model.input_shape[1:], cut.grid
        )
        cells = rng.normal(size=cut.grid) + 1
        assert field.spread(cells).sum() == pytest.approx(cells.sum(), abs=1e-9)
        assert abs(field.to_input(cells).sum() - cells.sum()) > 10
        # A cell's bits stay around its own place.
        one = np.zeros(cut.grid)
        one[2, 5] = 1
        pixels = field.spread(one)
        for axis, centre in ((1, field.rows.centre[2]), (0, field.cols.centre[5])):
            profile = pixels.sum(axis=axis)
            assert (np.arange(32) + 0.5) @ profile == pytest.approx(centre, abs=32 / cut.grid[0])


@pytest.mark.parametrize("size", [(400, 300), (36, 36), (100, 81), (18, 22)])
@pytest.mark.parametrize("layer", ["block.add", "deep.add"])
def test_sums_survive_the_way_to_the_photograph(size, layer, deployed):
    field = oracles.ar_fields(np.random.default_rng(9), 3, 60, 0.9).transpose(1, 2, 0)
    photograph = cv2.resize(np.clip(128 + 60 * field, 0, 255).astype(np.uint8), size[::-1])
    evidence = explain(deployed, photograph, "integrated", layer=layer, background="zero")
    assert evidence.pixels.shape == size
    total, size_of_all = (float(each.sum(dtype=np.float64)) for each in (evidence.values, np.abs(evidence.values)))
    assert abs(total) > 0.2 * size_of_all
    assert evidence.pixels.sum(dtype=np.float64) == pytest.approx(total, rel=1e-4)
    mean = np.mean(np.abs(evidence.pixels[evidence.pixels != 0])) / np.mean(np.abs(evidence.values))
    assert mean == pytest.approx(np.prod(evidence.placement.scale), rel=0.1)  # the control: a share, not the value


def test_evidence_carried_backward_is_that_of_the_cells(deployed, picture, twin, inputs):
    completeness = 1e-3  # more than the first steps give

    def carry(background):
        options = {"layer": "block.add", "project": "backward", "completeness": completeness}
        return explain(deployed, picture, "integrated", background=background, **options)

    blurred, mean = carry("blur"), carry("mean")
    cells = blurred.grids[0].sum(dtype=np.float64)
    assert blurred.values.sum(dtype=np.float64) == pytest.approx(cells, abs=1.02 * completeness * max(1, abs(cells)))
    for each in (blurred, mean):
        budget = each.budget
        assert budget.carried == pytest.approx(each.values.sum(dtype=np.float64), abs=1e-4)
        assert budget.accounted == pytest.approx(each.grids[0].sum(dtype=np.float64), abs=1e-4)
    # From other means than the blurred picture's a remainder never reaches the pixels, and that is said.
    assert abs(mean.budget.carried - mean.budget.accounted) > 0.1
    # What reaches them is the slope's share of the change of the features from the blurred picture.
    start = blur(inputs.astype(np.float32), 11 / 224 * 32)
    z = twin.forward(np.stack([inputs, start]))["logits"]
    drop = np.subtract(*(oracles.exact_log_odds(each, TARGET) for each in z)) / LN2
    assert blurred.values.sum() == pytest.approx(drop, abs=2.1 * completeness * max(1, abs(drop)))
    # The maps are others than those through the field, and finer.
    through_field = explain(deployed, picture, "integrated", layer="block.add", background="blur")
    far(blurred.values, through_field.values)
    roughness = [np.abs(np.diff(each.values)).mean() / np.abs(each.values).mean() for each in (blurred, through_field)]
    assert roughness[0] > roughness[1]


@pytest.mark.parametrize("options", [(), ("--project", "backward"), ("--layer", "block.add", "--layer", "deep.add")])
def test_the_manifest_states_the_budget_of_its_own_map(options, tiny_model, picture, tmp_path):
    cv2.imwrite(str(tmp_path / "p.png"), picture)
    arguments = ["explain", tiny_model, tmp_path / "p.png", "-o", tmp_path / "out", "--target", TARGET, *options]
    result = CliRunner().invoke(main, [*map(str, arguments), "--device", "cpu", "--method", "integrated"])
    assert result.exit_code == 0, result.output
    (entry,) = (json.loads(line) for line in (tmp_path / "out" / "manifest.jsonl").read_text().splitlines())
    budget = entry["budget"]
    with np.load(tmp_path / "out" / entry["map"]) as maps:
        grids = [maps[f"cut{number}"] for number in range(len(entry["cuts"]))]
        assert maps["input_pixels"].sum(dtype=np.float64) == pytest.approx(budget["pixels_bits"], abs=1e-4)
    for cut, grid in zip(entry["cuts"], grids, strict=True):
        own = cut["budget"]
        assert grid[grid > 0].sum() == pytest.approx(own["for_bits"], abs=1e-4)
        assert grid[grid < 0].sum() == pytest.approx(own["against_bits"], abs=1e-4)
        missed = own["for_bits"] + own["against_bits"] - (own["with_bits"] - own["without_bits"])
        assert abs(missed) == pytest.approx(own["gap_bits"], abs=1e-9)
        assert own["gap_share"] <= 0.05
        assert own["with_bits"] == pytest.approx(entry["log_odds_bits"], abs=1e-4)
    for name in ("with_bits", "without_bits", "for_bits", "against_bits", "pixels_bits"):
        assert budget[name] == pytest.approx(np.mean([cut["budget"][name] for cut in entry["cuts"]]))
    assert budget["steps"] == sum(cut["budget"]["steps"] for cut in entry["cuts"])
    backward = "backward" in options
    assert (abs(budget["pixels_bits"] - budget["for_bits"] - budget["against_bits"]) > 1e-3) == backward


# What people are shown of a map that adds up.


@pytest.fixture(scope="module")
def large(deployed: DeployedModel, picture: np.ndarray) -> Explanation:
    """Random bits per pixel on 112 x 140 pixels, in a photograph of twice the sides."""
    rng = np.random.default_rng(11)
    values = blur(rng.normal(size=(1, 112, 140)).astype(np.float32), 3.0)[0]
    errors = rng.uniform(0.1, 1, size=values.shape).astype(np.float32)
    placement = Placement((224, 280), (112, 140), (112, 140), (0, 0))
    evidence = explain(deployed, picture, "integrated")
    return replace(evidence, values=values, stderr=errors, freedom=np.full(values.shape, 7.0), placement=placement)


def test_units_tell_what_adds_up(large, deployed, picture):
    assert (large.adds_up, large.patch, large.shown_unit) == (True, (8, 10), "bits per 8 x 10 pixels")
    bits = replace(large, unit="bits")
    assert (bits.adds_up, bits.patch, bits.shown_unit) == (False, (1, 1), "bits")
    np.testing.assert_allclose(bits.shown, bits.values, atol=1e-6)
    assert explain(deployed, picture, "gradient").budget is None
    assert replace(large, budgets=()).budget is None
    # What adds up keeps its sum; what does not is interpolated, and keeps its values.
    assert large.pixels.sum(dtype=np.float64) == pytest.approx(large.values.sum(dtype=np.float64), rel=1e-4)
    assert bits.pixels.max() == pytest.approx(bits.values.max(), rel=0.05)


def test_what_is_shown_is_the_mean_of_a_few_pixels_in_bits_per_patch(large):
    values, shown = large.values.astype(np.float64), large.shown
    for i, j in [(0, 0), (0, 77), (50, 60), (111, 139), (111, 3)]:
        near = values[max(i - 1, 0) : i + 1, max(j - 1, 0) : j + 1]  # a quarter of the patch's sides: 2 x 2
        assert shown[i, j] == pytest.approx(near.mean() * 80, abs=1e-4)
    assert np.abs(shown - values * 80).max() > 0.1


@pytest.mark.parametrize("sign", [1, -1])
def test_the_strongest_patch_is_the_one_of_a_plain_search(sign, large):
    values, errors = large.values.astype(np.float64), large.stderr.astype(np.float64)
    best = max(
        ((i, j) for i in range(112 - 7) for j in range(140 - 9)),
        key=lambda place: sign * values[place[0] : place[0] + 8, place[1] : place[1] + 10].sum(),
    )
    inside = np.s_[best[0] : best[0] + 8, best[1] : best[1] + 10]
    seen = large.strongest(sign)
    assert seen.bits == pytest.approx(values[inside].sum(), abs=1e-6)
    # The centre of the patch, in a photograph of twice the sides.
    assert (seen.row, seen.col) == (2 * (best[0] + 4) + 1, 2 * (best[1] + 5) + 1)
    # Pixels of a patch err together: no less than if each erred alone.
    assert np.sqrt((errors[inside] ** 2).sum()) < seen.stderr <= errors[inside].sum() + 1e-6
    assert np.isnan(replace(large, stderr=np.full_like(large.stderr, np.nan)).strongest(sign).stderr)
    other = replace(large, unit="bits").strongest(sign)
    assert other.bits == pytest.approx((sign * values).max() * sign, abs=1e-6)
    assert sign * seen.bits > sign * other.bits  # the control: a patch, not a pixel


def test_the_error_of_a_patch_is_that_of_its_sum_over_pictures(deployed, picture, tmp_path):
    """Over draws of background pictures: what is said of the strongest patch covers what is seen."""
    for number in range(40):
        field = oracles.ar_fields(np.random.default_rng(number), 3, 40, 0.9).transpose(1, 2, 0)
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.clip(128 + 60 * field, 0, 255).astype(np.uint8))
    options = {"layer": "deep.add", "background": str(tmp_path), "samples": 4}
    runs = [explain(deployed, picture, "integrated", seed=seed, **options) for seed in range(30)]
    rows, cols = runs[0].patch
    place = np.unravel_index(np.argmax(np.abs(np.mean([run.values for run in runs], axis=0))), (32, 32))
    inside = np.s_[place[0] : place[0] + rows, place[1] : place[1] + cols]
    seen = np.std([run.values[inside].sum() for run in runs], ddof=1)
    said = np.mean([run.stderr[inside].sum() for run in runs])
    alone = np.mean([np.sqrt((run.stderr[inside] ** 2).sum()) for run in runs])
    assert 0.7 < said / seen < 1.5
    assert alone / seen < 0.7  # the control: as if pixels erred alone
