"""The loop on a planted model: what is measured of whom, that failures are named, and that maps are the product's."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from onnx_evidence import DeployedModel, Explainer
from onnx_evidence.errors import DataError, GradientError, SettingError
from onnx_evidence.evaluation.case import Case
from onnx_evidence.evaluation.figure import draw_curves
from onnx_evidence.evaluation.flipping import Curve, Flips
from onnx_evidence.evaluation.loop import Plan, Scored, evaluate
from onnx_evidence.evaluation.mappers import CONTROLS, centre_prior, make_mappers, method_mapper, random_map
from onnx_evidence.evaluation.substrates import SUBSTRATES
from onnx_evidence.evidence.rng import generator
from onnx_evidence.methods.table import METHODS
from tests import planted, tiny

QUICK = Plan(stability=False)


@pytest.fixture(scope="module")
def deployed(tmp_path_factory) -> DeployedModel:
    return DeployedModel(tiny.save(planted.model(), tmp_path_factory.mktemp("planted") / "planted.onnx"), device="cpu")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return planted.save_pictures(tmp_path_factory.mktemp("pictures"))


def test_a_perfect_map_wins_on_every_substrate_and_a_reversed_one_loses(deployed, pictures, tmp_path):
    mappers = {
        "perfect": lambda case: planted.patch_map(),
        "reversed": lambda case: -planted.patch_map(),
        "random": random_map,
    }
    plain = planted.save_pictures(tmp_path, brighter=0)
    results = list(
        evaluate(deployed, pictures, mappers, QUICK, objects=lambda path, placement: planted.mask(), others=plain)
    )
    assert [each.path for each in results] == pictures
    assert {each.target for each in results} == {1}
    for each in results:
        for substrate in SUBSTRATES:
            for scale in ("probability", "bits"):
                perfect, backwards, chance = (each.numbers[name][f"srg.{scale}.{substrate}"] for name in mappers)
                assert perfect > max(0, chance)
                assert backwards == pytest.approx(-perfect)
                assert each.numbers["perfect"][f"srg.{scale}.{substrate}"] == pytest.approx(
                    each.flips["perfect"][substrate].areas()[f"srg.{scale}"]
                )
        assert each.numbers["perfect"]["pointing"] == 1
        assert each.numbers["reversed"]["pointing"] == 0
        assert each.numbers["perfect"]["energy"] > 0.98
        assert np.isnan(each.numbers["reversed"]["energy"])
        assert each.numbers["perfect"]["focus"] < each.numbers["random"]["focus"]
        assert each.numbers["random"]["seconds"] > 0


def test_stability_of_maps_whose_answer_is_known(deployed, pictures):
    given = []

    def keep(case):
        given.append(case)
        return case.inputs[0].astype(np.float64)

    mappers = {
        "pixels": keep,
        "fixed": lambda case: planted.patch_map(),
        "noise": lambda case: generator(case.seed).normal(size=(32, 32)),
        "flat": lambda case: np.ones((32, 32)),
    }
    (found,) = evaluate(deployed, pictures[:1], mappers, Plan(("mean",), seed=5))
    stable = {name: {key.partition(".")[2]: value for key, value in numbers.items() if key.startswith("stable.")}
              for name, numbers in found.numbers.items()}  # fmt: skip
    # A map made of pixels moves with them; one that is always the same does not move back.
    assert stable["pixels"]["shift"] == 1
    assert 0.9 < stable["pixels"]["noise"] < 1
    assert stable["fixed"]["noise"] == stable["fixed"]["seed"] == 1
    assert stable["fixed"]["shift"] < 0.5
    assert abs(stable["noise"]["seed"]) < 0.15
    assert stable["noise"]["noise"] == 1
    assert all(np.isnan(value) for value in stable["flat"].values())
    plain, noisy, moved, other_seed = given
    assert [each.seed for each in given] == [5, 5, 5, 6]
    assert len({each.target for each in given}) == 1
    level = np.abs(noisy.inputs - plain.inputs) * 0.25 * 255
    assert level == pytest.approx(np.ones_like(level), abs=1e-3)
    assert (moved.inputs[:, :, 1:] == plain.inputs[:, :, :-1]).all()
    # What a method is handed, photograph and input, belongs together.
    for case in given:
        assert (deployed.prepare(case.photograph)[1] == case.inputs).all()
    assert (other_seed.inputs == plain.inputs).all()


def test_without_stability_every_map_is_made_once(deployed, pictures):
    calls, done = [], []
    mappers = {"one": lambda case: calls.append(case) or planted.patch_map(), "two": random_map}
    results = list(evaluate(deployed, pictures, mappers, QUICK, progress=lambda: done.append(1)))
    assert len(calls) == len(pictures)
    assert len(done) == 2 * len(pictures)
    assert not [key for key in results[0].numbers["one"] if key.startswith("stable") or key in ("pointing", "energy")]


def test_numbers_are_those_of_the_seed_and_not_of_the_batch_or_the_company(deployed, pictures):
    def numbers(plan, mappers=CONTROLS):
        (found,) = evaluate(deployed, pictures[:1], mappers, plan, others=pictures)
        return {key: value for key, value in found.numbers["random map"].items() if key not in ("seconds", "passes")}

    first = numbers(QUICK)
    assert numbers(replace(QUICK, batch_size=3)) == pytest.approx(first)
    assert numbers(QUICK, {"random map": random_map}) == pytest.approx(first)
    other = numbers(replace(QUICK, seed=1))
    assert abs(other["srg.bits.mean"] - first["srg.bits.mean"]) > 1e-6


def test_the_true_class_is_explained_where_it_is_known(deployed, pictures):
    truth = {path: 0 for path in pictures}
    mappers = {"perfect": lambda case: planted.patch_map() * (2 * case.target - 1)}
    (found,) = evaluate(deployed, pictures[:1], mappers, QUICK, truth=truth, others=pictures)
    assert (found.target, found.top) == (0, 1)
    # Dark patches speak for 'out': the same pictures, the other class.
    (other,) = evaluate(deployed, pictures[:1], {"perfect": lambda case: planted.patch_map()}, QUICK, others=pictures)
    assert found.numbers["perfect"]["srg.bits.mean"] == pytest.approx(other.numbers["perfect"]["srg.bits.mean"])
    assert found.flips["perfect"]["mean"].most.bits[0] == pytest.approx(-other.flips["perfect"]["mean"].most.bits[0])


def test_pictures_that_fail_are_named_and_left_out(deployed, pictures, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    failed = []
    given = [pictures[0], bad, *pictures[1:]]
    results = list(evaluate(deployed, given, CONTROLS, QUICK, failed=lambda *each: failed.append(each)))
    # It is not drawn as another picture either: three good ones are enough for two draws.
    assert [each.path for each in results] == pictures
    ((path, error),) = failed
    assert path == bad
    assert "bad.png" in str(error)
    with pytest.raises(DataError, match=r"bad\.png"):
        list(evaluate(deployed, given, CONTROLS, QUICK))
    too_few = [pictures[0], bad, pictures[1]]
    with pytest.raises(DataError, match="2 other pictures are drawn, and 1 can be read"):
        list(evaluate(deployed, too_few, CONTROLS, QUICK))


@pytest.mark.parametrize(
    ("plan", "rule"),
    [
        ({"substrates": ("blur", "fog")}, f"substrate 'fog' is unknown: take some of {', '.join(SUBSTRATES)}"),
        ({"substrates": ()}, "no substrates: take some of blur"),
        ({"seed": -1}, "seed -1 is too small: at least 0"),
        ({"tolerance": -2.5}, "tolerance -2.5 is too small"),
        ({"tolerance": float("nan")}, "tolerance nan is no distance"),
        ({"tolerance": float("inf")}, "tolerance inf is no distance"),
        ({"batch_size": 0}, "batch size 0 is too small"),
        ({}, "'pictures' draws 2 other pictures, and there are 2 in all"),
    ],
)
def test_a_plan_that_cannot_be_carried_out_is_refused(plan, rule, deployed, pictures):
    with pytest.raises(SettingError, match=rule):
        list(evaluate(deployed, pictures[:2], CONTROLS, Plan(**plan)))


@pytest.mark.parametrize("values", [np.ones((31, 32)), np.full((32, 32), np.nan)])
def test_a_map_that_cannot_be_measured_is_refused(values, deployed, pictures):
    with pytest.raises(SettingError, match="method 'odd' gave a map of shape"):
        list(evaluate(deployed, pictures, {"odd": lambda case: values}, QUICK))


def test_controls(deployed, pictures):
    (found,) = evaluate(deployed, pictures[:1], CONTROLS, Plan(("mean",)))
    assert abs(found.numbers["random map"]["stable.seed"]) < 0.15
    assert found.numbers["centre prior"]["stable.noise"] == 1

    class Case:
        inputs, seed = np.zeros((3, 5, 7), np.float32), 0

    values = centre_prior(Case)
    assert np.unravel_index(values.argmax(), values.shape) == (2, 3)
    assert values[0, 0] == values.min() == 0
    assert values[2, 3] - values[2, 5] == 2


@pytest.mark.parametrize("name", ["integrated", "window", "occlusion", "smoothgrad", "hirescam"])
def test_methods_are_those_of_the_product(name, tiny_model, hopper):
    deployed = DeployedModel(tiny_model, device="cpu")
    explainer = Explainer(deployed, method=name)
    mapper = method_mapper(deployed, name)
    photograph, inputs, _ = deployed.prepare(hopper)
    case = Case(hopper, photograph, inputs, 0)
    for target in (0, 3):
        found = mapper(replace(case, target=target))
        assert (found == explainer.explain(hopper, target=target).values).all()
    again = mapper(replace(case, seed=9))
    assert (again == Explainer(deployed, method=name, seed=9).explain(hopper, target=0).values).all()
    assert (again != mapper(case)).any() == (name == "smoothgrad")


def test_methods_are_refused_or_left_out_with_a_word(tiny_model, tmp_path):
    deployed = DeployedModel(tiny_model, device="cpu")

    def make(names, background=None, on=deployed):
        left_out = []
        return list(make_mappers(on, names, background, 0, lambda name, error: left_out.append(name))), left_out

    assert make(["window", "occlusion", "window"]) == (["window", "occlusion", *CONTROLS], [])
    assert make(None) == (["integrated", "window", "occlusion", *CONTROLS], [])
    with pytest.raises(SettingError, match=re.escape(", ".join(METHODS))):
        make(["windows"])
    with pytest.raises(SettingError, match="no methods: take some of"):
        make([])
    with pytest.raises(SettingError, match="method 'pda' draws pixels from a fitted background"):
        make(["pda"])
    with pytest.raises(SettingError, match="none of the methods window needs a fitted background"):
        make(["window"], "some.npz")
    bare = DeployedModel(tiny.accumulating(tmp_path / "sum.onnx"), device="cpu")
    names, left_out = make(None, on=bare)
    assert names == ["window", "occlusion", *CONTROLS]
    assert left_out == ["integrated"]
    with pytest.raises(GradientError):
        make(["integrated"], on=bare)


@pytest.mark.parametrize("substrates", [["mean"], ["mean", "blur", "inpaint", "pictures"]])
@pytest.mark.parametrize("methods", [["window"], [*METHODS, "random map", "centre prior"]])
def test_the_legend_of_curves_is_as_wide_as_the_figure_at_most(substrates, methods):
    curve = Curve(np.array([0.9, 0.5, 0.1]), np.array([3.0, 0.0, -3.0]))
    flips = Flips(np.array([0.0, 0.5, 1.0]), curve, curve)
    scored = Scored(Path("a.png"), 0, 0, flips={method: dict.fromkeys(substrates, flips) for method in methods})
    figure = draw_curves([scored, scored])
    figure.draw_without_rendering()
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()][: len(methods)] == methods
    box = legend.get_window_extent()
    assert 0 <= box.x0 <= box.x1 <= figure.bbox.width
    assert 0 <= box.y0 <= box.y1 <= min(axis.get_window_extent().y0 for axis in figure.axes)
