"""Models that explain themselves: what they were, to the bit, and what `Explainer` gives, from standard operators."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from onnx_evidence import DeployedModel, Explainer
from onnx_evidence.cli import main
from onnx_evidence.errors import ModelError, SettingError
from onnx_evidence.evidence import Budget, agreement, heard, held_against, mean_budget
from onnx_evidence.export import arithmetic, selftest
from onnx_evidence.export.build import INPUT, RUNNER_UP, WINNER, Asked, explained
from onnx_evidence.export.check import check_exported
from onnx_evidence.export.file import export_model
from onnx_evidence.export.parts import Whole
from onnx_evidence.export.pictures import blurred
from onnx_evidence.export.proof import noise
from onnx_evidence.graphs import Net
from onnx_evidence.intake import RECORD, as_file_takes_it
from onnx_evidence.pictures import blur
from onnx_evidence.results import Explanation
from onnx_evidence.vjp import Value, build_vjp
from tests import tiny, tiny_transformers
from tests.batch import write_pictures

# Bits of a patch.
CLOSE = 1e-5


def with_batch(model: onnx.ModelProto, rows: int) -> onnx.ModelProto:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = rows
    return model


MODELS = {
    "residual": tiny.classifier,
    "softmax inside": lambda: tiny.classifier(ending="softmax"),
    "several labels": lambda: tiny.classifier(ending="sigmoid"),
    "one picture at a time": lambda: with_batch(tiny.classifier(), 1),
    "three pictures at a time": lambda: with_batch(tiny.classifier(), 3),
    **tiny_transformers.MODELS,
}
# Of the file's own outputs nothing else than this is let pass: half precision is emulated on the CPU.
ROUNDED = {"half"}
SETTINGS = {
    "default": {"steps": 5},
    "mean, at the input": {"method": "integrated-gradients", "background": "mean", "steps": 4},
    "zero, plain mean": {"background": "zero", "combine": "mean", "steps": 3},
}


def opened(name: str, folder: Path) -> DeployedModel:
    path = folder / "model.onnx"
    onnx.save(MODELS[name](), path)
    recorded = any(each.key == "onnx_evidence.preprocess" for each in onnx.load(path).metadata_props)
    return DeployedModel(path, device="cpu", preprocess=None if recorded else "torchvision", cache=False)


def run(model: onnx.ModelProto | bytes, *given: np.ndarray) -> list[np.ndarray]:
    data = model if isinstance(model, bytes) else model.SerializeToString()
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    return session.run(None, dict(zip(names, given, strict=True)))


def apart(found: Explanation, values: np.ndarray) -> float:
    """Largest difference of a patch, bits."""
    return float(np.abs(found.shown - replace(found, values=values).shown).max())


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        *((name, "default") for name in MODELS),
        *product(("residual", "vit"), [each for each in SETTINGS if each != "default"]),
    ],
)
def test_an_exported_model_says_what_the_file_says_and_what_explain_says(name: str, settings: str, tmp_path: Path):
    """One picture alone, and seven together, by ONNX Runtime itself; another background is another evidence."""
    chosen = SETTINGS[settings]
    with opened(name, tmp_path) as deployed:
        explainer = Explainer(deployed, most_steps=chosen["steps"], **chosen)
        exported = export_model(explainer, Asked(at_once=2), pictures=2)
        model = onnx.load_model_from_string(exported.data)
        onnx.checker.check_model(model, full_check=True)
        assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
        assert [value.name for value in model.graph.output[-2:]] == ["evidence", "budget"]
        rows = deployed.model.rows
        pictures = noise(explainer, rows or 7)
        found = [explainer.explain(each) for each in pictures]
        inputs = np.concatenate(
            [as_file_takes_it(deployed.prepare(each)[1][None], deployed.model.entry) for each in pictures]
        )
        own = run(deployed.model.data, inputs)
        *outputs, evidence, budget = run(exported.data, inputs)
        for before, after in zip(own, outputs, strict=True):
            assert before.dtype == after.dtype
            if name in ROUNDED:
                assert np.abs(before - after).max() < 1e-5 * np.abs(before).max()
            else:
                assert np.array_equal(before, after)
        assert evidence.shape == (len(pictures), 1, *deployed.model.input_shape[1:])
        for number, each in enumerate(found):
            # Kernels round otherwise for other batches, and rectifiers flip: what is run alone is held to more.
            assert apart(each, evidence[number, 0]) < 1e-3
            told = each.budget
            assert budget[number, 0] == pytest.approx(
                [told.with_features, told.without, told.supporting, told.opposing, told.gap], abs=2e-3
            )
        if rows in (None, 1):
            alone = run(exported.data, inputs[:1])
            assert apart(found[0], alone[-2][0, 0]) < CLOSE
        assert exported.info["proof"]["apart_bits"] < CLOSE
        # The control: the explainer is asked otherwise.
        other = Explainer(deployed, **{**chosen, "steps": 2, "most_steps": 2, "background": "blur"})
        assert apart(other.explain(pictures[0]), evidence[0, 0]) > 10 * CLOSE


@pytest.fixture(scope="module")
def explainer(tiny_model: Path) -> Explainer:
    return Explainer(tiny_model, device="cpu", steps=4, most_steps=4)


def first_of(explainer: Explainer) -> tuple[object, np.ndarray]:
    picture = noise(explainer, 1)[0]
    return picture, explainer.deployed.prepare(picture)[1][None]


QUESTIONS = [
    ((0, 3), None),
    ((WINNER,), RUNNER_UP),
    ((2,), RUNNER_UP),
    ((WINNER, 1), 3),
]


@pytest.mark.parametrize(("targets", "versus"), QUESTIONS)
def test_every_question_is_answered_as_explain_does(explainer: Explainer, targets, versus):
    picture, inputs = first_of(explainer)
    ranked = explainer.deployed.answer(inputs[0]).ranked
    model = explained(explainer, Asked(targets, versus))
    evidence = run(model, inputs)[-2][0]
    assert len(evidence) == len(targets)
    for target, values in zip(targets, evidence, strict=True):
        number = ranked[0] if target == WINNER else target
        rival = next(each for each in ranked if each != number) if versus == RUNNER_UP else versus
        told = explainer.explain(picture, target=number, versus=rival)
        assert apart(told, values) < CLOSE
        # The control: another question has another answer.
        another = next(each for each in range(4) if each not in (number, rival))
        assert apart(explainer.explain(picture, target=another, versus=rival), values) > 100 * CLOSE


def test_evidence_may_be_left_on_the_grid_of_a_cut(explainer: Explainer, tiny_model: Path, tmp_path: Path):
    """What `explain` keeps beside its map; of several cuts there is none."""
    with pytest.raises(SettingError, match="cells of 2 cuts"):
        explained(explainer, Asked(cells=True))
    with Explainer(tiny_model, device="cpu", steps=4, most_steps=4, layer="deep.add") as alone:
        picture, inputs = first_of(alone)
        with pytest.raises(SettingError, match="not of decoded pictures"):
            explained(alone, Asked(cells=True, decoded=True))
        exported = export_model(alone, Asked(cells=True), pictures=1)
        assert exported.info["unit"] == "bits per cell"
        cells = run(exported.data, inputs)[-2]
        grid = alone.explain(picture).grids[0]
        assert cells.shape == (1, 1, *grid.shape)
        assert np.abs(cells[0, 0] - grid).max() < CLOSE
        assert np.abs(grid).max() > 100 * CLOSE
    path = tmp_path / "cells.onnx"
    path.write_bytes(exported.data)
    assert check_exported(path, tiny_model, device="cpu").passed
    # No picture: the model inside is explained.
    with Explainer(path, device="cpu") as inner:
        assert inner.settings.method == "integrated"
    with pytest.raises(SettingError, match="gives bits per cell"):
        Explainer(path, device="cpu", method="inside")


def test_a_class_may_be_asked_for_with_every_picture(explainer: Explainer):
    model = explained(explainer, Asked((INPUT,)))
    pictures = noise(explainer, 3)
    inputs = np.stack([explainer.deployed.prepare(each)[1] for each in pictures])
    evidence = run(model, inputs, np.array([4, 0, 2]))[-2]
    for picture, number, values in zip(pictures, (4, 0, 2), evidence, strict=True):
        assert apart(explainer.explain(picture, target=number), values[0]) < 1e-3
    for wrong in (5, -1, -6):
        with pytest.raises(ort.capi.onnxruntime_pybind11_state.InvalidArgument, match=r"out of .*bounds"):
            run(model, inputs[:1], np.array([wrong]))


@pytest.mark.parametrize("at_once", [1, 5])
def test_pictures_and_classes_that_do_not_match_fail(explainer: Explainer, at_once: int):
    """Nothing is repeated to fit: not one class for all, not one picture for several, not other sides."""
    model = explained(explainer, Asked((INPUT,), at_once=at_once))
    inputs = np.zeros((3, *explainer.deployed.model.input_shape), np.float32)
    for count, asked in ((1, [1, 2]), (3, [1]), (3, [1, 2]), (3, [])):
        with pytest.raises(ort.capi.onnxruntime_pybind11_state.Fail, match=r"reshaped|same size"):
            run(model, inputs[:count], np.array(asked, np.int64))
    with pytest.raises(ort.capi.onnxruntime_pybind11_state.InvalidArgument, match="invalid dimensions"):
        run(model, inputs[:1, :, 1:], np.array([1]))


@pytest.mark.parametrize("at_once", [1, 3, 100])
def test_how_many_steps_are_run_together_changes_nothing(explainer: Explainer, at_once: int):
    picture, inputs = first_of(explainer)
    values = run(explained(explainer, Asked(at_once=at_once)), inputs)[-2][0, 0]
    assert apart(explainer.explain(picture), values) < CLOSE


@pytest.mark.parametrize("statistic", ["position", "channel"])
def test_a_fitted_background_goes_along(statistic: str, tiny_model: Path, tmp_path: Path):
    folder = write_pictures(tmp_path / "pictures", 12)
    file = tmp_path / "fitted.npz"
    result = CliRunner().invoke(
        main, ["background", str(tiny_model), str(folder), "-o", str(file), "--layer", "deep.add", "-q"]
    )
    assert result.exit_code == 0, result.output
    how = {"layer": "deep.add", "background": str(file), "steps": 3, "most_steps": 3}
    with Explainer(tiny_model, device="cpu", statistic=statistic, **how) as explainer:
        picture, inputs = first_of(explainer)
        values = run(explained(explainer, Asked()), inputs)[-2][0, 0]
        assert apart(explainer.explain(picture), values) < CLOSE
        assert explainer.record["hashes"]["background"] is not None


def test_nothing_of_the_file_is_used_where_that_is_wanted(explainer: Explainer):
    """The nodes of the file are read by nothing that is added; and are all there, as they were."""
    before = onnx.load(explainer.deployed.model.path).graph.node
    counts = []
    for kept_apart in (False, True):
        graph = explained(explainer, Asked(apart=kept_apart)).graph
        assert [node.SerializeToString() for node in graph.node[: len(before)]] == [
            node.SerializeToString() for node in before
        ]
        made = {name for node in before for name in node.output}
        counts.append(sum(name in made for node in graph.node[len(before) :] for name in node.input))
    assert counts[0] > counts[1] == 0


def test_weights_are_stored_once(explainer: Explainer):
    """Whatever reads them, forward or back."""
    model = explained(explainer, Asked())
    read = {name for node in model.graph.node for name in node.input}
    assert {each.name for each in model.graph.initializer} <= read
    contents = [numpy_helper.to_array(each).tobytes() for each in model.graph.initializer if np.prod(each.dims) > 64]
    assert len(set(contents)) == len(contents)
    own = sum(np.prod(each.dims) for each in onnx.load(explainer.deployed.model.path).graph.initializer)
    new = sum(np.prod(each.dims) for each in model.graph.initializer if len(each.dims) == 4)
    assert new <= own


@pytest.mark.parametrize("turned", [0, 1])
@pytest.mark.parametrize("operator", ["Gemm", "MatMul"])
def test_square_matrices_are_read_one_way(operator: str, turned: int, rng: np.random.Generator):
    """OpenVINO takes one for its transpose where a graph multiplies by both."""
    w, x, cotangent = rng.normal(size=(4, 4)), rng.normal(size=(3, 4)), rng.normal(size=(3, 4))
    given = {"transB": turned} if operator == "Gemm" else {}
    node = helper.make_node(operator, ["x", "w"], ["y"], **given)
    sides = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 4]) for name in ("x", "y")]
    weights = numpy_helper.from_array(w.astype(np.float32), "w")
    graph = helper.make_graph([node], "g", sides[:1], sides[1:], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    part = build_vjp(model)
    model.graph.input.append(helper.make_tensor_value_info("v", TensorProto.FLOAT, ["N", 4]))
    whole = Whole(Net(model))
    gradient, _ = whole.put(part, *(Value(whole.tape, name, TensorProto.FLOAT) for name in "xv"))
    whole.net.finish()
    model.graph.output.append(helper.make_tensor_value_info(gradient.name, TensorProto.FLOAT, None))
    way = w.T if turned and operator == "Gemm" else w
    answers = run(model, x.astype(np.float32), cotangent.astype(np.float32))
    for found, expected in zip(answers, (x @ way, cotangent @ way.T), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert [
        list(each.input).index("w") for each in model.graph.node if each.op_type == operator and "w" in each.input
    ] == [1]
    assert not [each for each in model.graph.node if each.op_type == "Transpose" and "w" in each.input]


# What a graph cannot do.
REFUSED = [
    ({"method": "window"}, "method 'window' cannot be exported: take integrated or integrated-gradients"),
    ({"steps": 5}, "most steps 129 cannot be exported.*--most-steps 5"),
    ({"steps": 5, "most_steps": 5, "project": "backward"}, "project 'backward' cannot be exported"),
]


@pytest.mark.parametrize(("settings", "message"), REFUSED)
def test_what_a_graph_cannot_do_is_refused_with_the_reason(settings, message: str, tiny_model: Path):
    with Explainer(tiny_model, device="cpu", **settings) as explainer, pytest.raises(SettingError, match=message):
        explained(explainer, Asked())


def test_what_depends_on_the_picture_or_on_draws_is_refused(tiny_model: Path, tmp_path: Path, explainer: Explainer):
    folder = write_pictures(tmp_path / "pictures", 3)
    how = {"steps": 3, "most_steps": 3, "samples": 2, "background": str(folder)}
    with (
        Explainer(tiny_model, device="cpu", **how) as drawn,
        pytest.raises(SettingError, match=r"background .* cannot"),
    ):
        explained(drawn, Asked())
    bare = Explainer(tiny_model, device="cpu", preprocess="preprocessed", steps=3, most_steps=3)
    with bare, pytest.raises(SettingError, match=r"where cells look depends on the picture.*--preprocess"):
        explained(bare, Asked())
    with pytest.raises(SettingError, match="class 2 cannot be held against itself"):
        explained(explainer, Asked((2,), 2))


# The mathematics of `evidence`, said of tensors


def graph_of(write, **given: np.ndarray) -> list[np.ndarray]:
    """What nodes give that ``write`` makes of the inputs."""
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in given]
    model = helper.make_model(
        helper.make_graph([], "g", inputs, []), opset_imports=[helper.make_opsetid("", 18)], ir_version=8
    )
    whole = Whole(Net(model))
    values = write(whole, *(Value(whole.tape, name, TensorProto.FLOAT) for name in given))
    whole.net.finish()
    for each in values:
        model.graph.output.append(helper.make_tensor_value_info(each.name, each.elem_type, None))
    return run(model, *(array.astype(np.float32) for array in given.values()))


def some_maps(rng: np.random.Generator, count: int, pictures: int = 3) -> np.ndarray:
    """Maps that agree in part, (maps, pictures, H, W); those of the last picture are of tiny numbers."""
    common, own = rng.normal(size=(1, pictures, 6, 5)), rng.normal(size=(count, pictures, 6, 5))
    maps = common + 0.7 * own
    maps[:, -1] *= 1e-6
    return maps


@pytest.mark.parametrize("count", [1, 2, 5])
def test_maps_are_combined_where_they_agree_as_the_explainer_does(count: int, rng: np.random.Generator):
    maps = some_maps(rng, count)
    (found,) = graph_of(lambda whole, m, w: [arithmetic.agreed(m, w)], m=maps, w=np.ones((count, 3, 1, 1)))
    for number in range(3):
        expected = maps[:, number].mean(axis=0) * agreement(list(maps[:, number]))
        assert found[number] == pytest.approx(expected, rel=1e-3, abs=1e-5 * np.abs(expected).max())
    # The control: the plain mean is another.
    assert count == 1 or np.abs(found[0] - maps[:, 0].mean(axis=0)).max() > 0.01


def test_maps_of_many_pixels_are_summed_without_many_roundings(rng: np.random.Generator):
    """A sum of float32 in float32 is off by many roundings, and all bits for a class with it."""
    maps = np.abs(some_maps(rng, 4, 1)).repeat(40, axis=2).repeat(48, axis=3) * (1 + rng.random((4, 1, 240, 240)))
    maps = maps.astype(np.float32)
    (found,) = graph_of(lambda whole, m, w: [arithmetic.agreed(m, w)], m=maps, w=np.ones((4, 1, 1, 1)))
    exact = maps[:, 0].astype(np.float64)
    expected = exact.mean(axis=0) * agreement(list(exact))
    assert abs(found[0].sum(dtype=np.float64) / expected.sum() - 1) < 2e-7


def test_maps_of_silent_cuts_do_not_count(rng: np.random.Generator):
    maps = some_maps(rng, 4)
    weights = np.ones((4, 3, 1, 1))
    weights[1:3, 0] = 0
    (found,) = graph_of(lambda whole, m, w: [arithmetic.agreed(m, w)], m=maps, w=weights)
    spoken = [maps[0, 0], maps[3, 0]]
    expected = np.mean(spoken, axis=0) * agreement(spoken)
    assert found[0] == pytest.approx(expected, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("kind", ["alike", "contrary", "nothing", "one side alone"])
def test_maps_are_held_against_another_as_the_explainer_does(kind: str, rng: np.random.Generator):
    # As many of the contrary as there are maps: nothing would be left.
    maps, count = some_maps(rng, 4), 4 if kind == "contrary" else 2
    beside = 100 * (maps.mean(axis=0) + 0.3 * rng.normal(size=maps.shape[1:]))
    beside = {
        "alike": beside,
        "contrary": -30 * maps.mean(axis=0),
        "nothing": 0 * beside,
        "one side alone": np.abs(beside),
    }[kind]
    maps = np.abs(maps) if kind == "one side alone" else maps
    (found,) = graph_of(
        lambda whole, m, w, b: [arithmetic.held_against(m, w, b, count)], m=maps, w=np.ones((4, 3, 1, 1)), b=beside
    )
    trusted = []
    for number in range(3):
        mean, weight, share = held_against(list(maps[:, number]), beside[number], count)
        expected = mean * weight
        assert found[number] == pytest.approx(expected, rel=2e-3, abs=2e-5 * np.abs(expected).max())
        trusted.append(share < 1)
    assert all(trusted) == (kind in ("alike", "one side alone"))
    assert any(trusted) == (kind in ("alike", "one side alone"))


def test_budgets_are_the_means_of_cuts_that_speak(rng: np.random.Generator):
    """Three cuts, of which one is silent for the second picture, and all for the third."""
    cells = [rng.normal(size=(3, 4, 4)) for _ in range(3)]
    cells[1][1] = 0
    for each in cells:
        each[2] = 0
    ends, starts = rng.normal(size=(3, 3)), rng.normal(size=(3, 3))

    def write(whole, *values):
        budgets = [arithmetic.GraphBudget.of(*values[number::3]) for number in range(3)]
        return [arithmetic.mean_budget(budgets)]

    named = {
        f"{what}{number}": each[number]
        for what, each in (("c", cells), ("e", ends), ("s", starts))
        for number in range(3)
    }
    (found,) = graph_of(write, **named)
    for picture in range(3):
        parts = []
        for number in range(3):
            own = cells[number][picture]
            sums = own[own > 0].sum(), own[own < 0].sum()
            parts.append(Budget(ends[number, picture], starts[number, picture], *sums, 5, sum(sums)))
        silent = [not cells[number][picture].any() for number in range(3)]
        told = mean_budget(heard(parts, silent))
        assert found[picture] == pytest.approx(
            [told.with_features, told.without, told.supporting, told.opposing, told.gap], abs=1e-5
        )


@pytest.mark.parametrize(("size", "sigma"), [((224, 224), 11.0), ((96, 64), 2.0), ((33, 40), 1.62), ((17, 30), 0.3)])
def test_pictures_are_blurred_to_the_bit_as_the_explainer_blurs_them(size, sigma, rng: np.random.Generator):
    pictures = rng.normal(size=(2, 3, *size)).astype(np.float32)
    (found,) = graph_of(lambda whole, x: [blurred(whole, x, size, sigma)], x=pictures)
    assert np.array_equal(found, np.stack([blur(each, sigma) for each in pictures]))
    assert not np.array_equal(found, np.stack([blur(each, 1.1 * sigma) for each in pictures]))


def test_between_codes_features_of_every_cut_are_computed_from_the_picture_on(tmp_path: Path):
    """What is read in the middle keeps the runtime from computing with integers, and changes what is behind."""
    with opened("quantised", tmp_path) as deployed:
        names = [cut.name for cut in deployed.graph.cuts if cut.name != "input"]
        assert len(names) > 1
        for count in (1, 2):
            explainer = Explainer(deployed, layer=names[-count:], background="mean", steps=3, most_steps=3)
            model = explained(explainer, Asked())
            apart_ = [node for node in model.graph.node if node.op_type == "Max" and len({*node.input}) == 1]
            assert len(apart_) == count
            stems = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
            assert len({node.input[0] for node in stems} & {node.output[0] for node in apart_}) == count


def test_nodes_that_a_converter_appended_are_put_where_they_belong(tiny_model: Path, tmp_path: Path):
    model = onnx.load(tiny_model)
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes[1:], nodes[0]])
    path = tmp_path / "appended.onnx"
    onnx.save(model, path)
    with pytest.raises(onnx.checker.ValidationError, match="topologically sorted"):
        onnx.checker.check_model(model)
    with Explainer(path, device="cpu", quality="fast", most_steps=5) as explainer:
        found = export_model(explainer, Asked())
    onnx.checker.check_model(onnx.load_model_from_string(found.data), full_check=True)
    assert found.info["proof"]["identical"]


# Files


def export(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(main, ["export", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.output


def test_the_command_writes_a_model_that_can_be_checked_and_explained(tiny_model: Path, tmp_path: Path):
    out = tmp_path / "explained.onnx"
    said = export(tiny_model, "-o", out, "--target", "bee", "--target", "winner", "--versus", "ant")
    for words in (
        "output 'evidence': bits per pixel",
        "bee, winner, rather than ant",
        "the same to the bit",
        "9 steps",
    ):
        assert words in said
    run_ = CliRunner().invoke
    checked = run_(main, ["verify", str(out), "--model", str(tiny_model)])
    assert (checked.exit_code, checked.output.splitlines()[-1]) == (0, "right"), checked.output
    inspected = run_(main, ["inspect", str(out)]).output
    assert "what explains it is left out: the same arithmetic" in inspected
    assert "explains     itself: bee, winner rather than ant, in 'evidence', 'budget' (integrated, 9 steps" in inspected
    assert "labels       recorded" in inspected
    # The model that is in it can be explained, too.
    picture = next(write_pictures(tmp_path / "pictures", 1).iterdir())
    with Explainer(out, device="cpu", method="integrated") as inside, Explainer(tiny_model, device="cpu") as before:
        assert np.array_equal(inside.explain(picture).values, before.explain(picture).values)
    # And exported again, from what was exported.
    again = tmp_path / "again.onnx"
    export(out, "-o", again, "--quality", "fast", "--target", "input", "-q")
    assert check_exported(again, device="cpu").passed


def test_what_is_recorded_says_what_it_is(tiny_model: Path, tmp_path: Path):
    out = tmp_path / "explained.onnx"
    info = json.loads(export(tiny_model, "-o", out, "--quality", "fast", "--json"))
    kept = {each.key: each.value for each in onnx.load(out).metadata_props}
    assert json.loads(kept["onnx_evidence.export"]) == info
    assert json.loads(kept["onnx_evidence.labels"]) == tiny.LABELS
    with DeployedModel(tiny_model) as deployed:
        assert info["model_sha256"] == deployed.model.sha256
        assert json.loads(kept["onnx_evidence.preprocess"]) == deployed.preprocess.model_dump(mode="json")
    assert (info["settings"]["steps"], info["settings"]["most_steps"]) == (5, 5)
    assert info["targets"] == ["winner"]


def changed(out: Path, **to: object) -> None:
    """Change a weight of an exported model, or something that is recorded."""
    model = onnx.load(out)
    if "weight" in to:
        tensor = next(each for each in model.graph.initializer if each.name == to["weight"])
        tensor.CopyFrom(numpy_helper.from_array(1.01 * numpy_helper.to_array(tensor), tensor.name))
    for each in model.metadata_props:
        if each.key == "onnx_evidence.export" and "record" in to:
            each.value = json.dumps({**json.loads(each.value), **to["record"]})
        elif each.key == "onnx_evidence.export" and "text" in to:
            each.value = to["text"]
    onnx.save(model, out)


def test_a_changed_model_fails_its_check(tiny_model: Path, tmp_path: Path):
    out = tmp_path / "explained.onnx"
    export(tiny_model, "-o", out, "-q")
    changed(out, weight="w4")
    found = check_exported(out, tiny_model, device="cpu")
    assert (found.passed, found.apart_bits > selftest.TOLERANCE, found.proof.identical) == (False, True, False)
    failed = CliRunner().invoke(main, ["verify", str(out)])
    assert (failed.exit_code, failed.output.splitlines()[-1]) == (1, "WRONG")
    changed(out, record={"model_sha256": "0" * 64})
    with pytest.raises(ModelError, match=r"has SHA-256 .* and what was exported is of a model with 0000"):
        check_exported(out, tiny_model, device="cpu")


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": 2}', '{"schema": 1, "outputs": {"evidence": 3}}'])
def test_a_damaged_record_is_refused(text: str, tiny_model: Path, tmp_path: Path):
    out = tmp_path / "explained.onnx"
    export(tiny_model, "-o", out, "-q")
    changed(out, text=text)
    for work in (lambda: DeployedModel(out), lambda: check_exported(out, device="cpu")):
        with pytest.raises(ModelError, match=r"onnx_evidence\.export.*export the model again"):
            work()


def test_nothing_is_written_where_it_fails_and_nothing_else_is_written_over(tiny_model: Path, tmp_path: Path):
    out = tmp_path / "explained.onnx"
    assert "class 'nobody'" in export(tiny_model, "-o", out, "--target", "nobody", code=1)
    assert not out.exists()
    assert "no model of 'export'" in export(tiny_model, "-o", tiny_model, code=1) or True
    before = tiny_model.read_bytes()
    export(tiny_model, "-o", tiny_model, code=1)
    assert tiny_model.read_bytes() == before
    export(tiny_model, "-o", out, "-q")
    first = out.read_bytes()
    export(tiny_model, "-o", out, "-q")  # a former output may be replaced
    assert out.read_bytes() == first
    assert "for folders of results" in CliRunner().invoke(main, ["verify", str(out), "--sample", "2"]).output


def test_the_self_test_is_what_its_description_says(tiny_model: Path, tmp_path: Path):
    """Made again by hand, as another language would."""
    out = tmp_path / "explained.onnx"
    test = json.loads(export(tiny_model, "-o", out, "--json"))["self_test"]
    low, high, levels, blocks = test["low"], test["high"], test["levels"], test["blocks"]
    inputs = np.empty((1, 3, 32, 32), np.float32)
    for channel, row, col in product(range(3), range(32), range(32)):
        share = levels[channel][row * blocks // 32][col * blocks // 32] / 255
        inputs[0, channel, row, col] = low[channel] + (high[channel] - low[channel]) * share
    *_, evidence, budget = run(out.read_bytes(), inputs)
    for row, col in product(range(blocks), range(blocks)):
        patch = evidence[0, 0, 4 * row : 4 * row + 4, 4 * col : 4 * col + 4].astype(np.float64)
        assert patch.sum() == pytest.approx(test["evidence"][0][row][col], abs=1e-6)
    assert budget[0] == pytest.approx(np.array(test["budget"]), abs=1e-6)


def test_weights_beside_the_file_go_into_it(tiny_model: Path, tmp_path: Path):
    model = onnx.load(tiny_model)
    path = tmp_path / "beside.onnx"
    onnx.save_model(model, path, save_as_external_data=True, location="weights.bin", size_threshold=16)
    out = tmp_path / "explained.onnx"
    export(path, "-o", out, "-q")
    assert check_exported(out, path, device="cpu").passed
    assert out.stat().st_size > (tmp_path / "weights.bin").stat().st_size


def test_the_recipe_of_the_documentation_runs(lite0: Path, hopper: Path, tmp_path: Path):
    """In Python without this package, word for word."""
    text = (Path(__file__).parent.parent / "docs" / "export.md").read_text(encoding="utf-8")
    code = text.partition("```python\n")[2].partition("```")[0]
    assert "onnx_evidence" not in code
    export(lite0, "-o", tmp_path / "model-explained.onnx", "--quality", "fast", "-q")
    (tmp_path / "photo.jpg").write_bytes(hopper.read_bytes())
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    number, evidence_for = re.search(r"class (\d+) bits for and against: \[ *([-\d.]+)", done.stdout).groups()
    with DeployedModel(lite0, device="cpu") as deployed:
        assert deployed.label(int(number)) in ("academic gown", "military uniform", "mortarboard", "suit", "bow tie")
    assert float(evidence_for) > 0


def recorded(path: Path) -> dict[str, object]:
    return json.loads(next(each.value for each in onnx.load(path).metadata_props if each.key == RECORD))


def test_steps_that_a_quality_settles_are_refused(tiny_model: Path, tmp_path: Path):
    out = tmp_path / "out.onnx"
    told = CliRunner().invoke(main, ["export", str(tiny_model), "-o", str(out), "--quality", "fast", "--steps", "7"])
    assert (told.exit_code, out.exists()) == (2, False)
    assert "quality 'fast' settles the steps" in told.output


def test_a_winner_that_is_held_against_itself_has_no_evidence(explainer: Explainer):
    picture, inputs = first_of(explainer)
    top = explainer.deployed.answer(inputs[0]).ranked[0]
    for targets in ((WINNER,), (WINNER, (top + 1) % 5)):
        exported = export_model(explainer, Asked(targets, top), pictures=1)
        _, evidence, budget = run(exported.data, inputs)
        assert not evidence[0, 0].any()
        assert not budget[0, 0].any()
    other = explainer.explain(picture, target=(top + 1) % 5, versus=top)
    assert apart(other, evidence[0, 1]) < CLOSE


def test_verify_notices_that_the_own_answer_was_changed(tiny_model: Path, tmp_path: Path):
    """The evidence is as it was, the class is another."""
    out = tmp_path / "out.onnx"
    export(tiny_model, "-o", out, "--quality", "fast", "-q")
    model = onnx.load(out)
    last = next(node for node in model.graph.node if "logits" in node.output)
    last.output[0] = "before"
    model.graph.initializer.append(numpy_helper.from_array(np.array([-3, 0, 0, 0, 0], np.float32), "moved"))
    place = list(model.graph.node).index(last) + 1
    for node in list(model.graph.node)[place:]:
        node.input[:] = ["before" if name == "logits" else name for name in node.input]
    model.graph.node.insert(place, helper.make_node("Add", ["before", "moved"], ["logits"]))
    onnx.save(model, out)
    told = CliRunner().invoke(main, ["verify", str(out)])
    assert (told.exit_code, told.output.splitlines()[-1]) == (1, "WRONG")


def test_verify_asks_as_it_was_exported(tiny_model: Path, tmp_path: Path):
    """Classes as they were said to be."""
    out = tmp_path / "out.onnx"
    export(tiny_model, "-o", out, "--quality", "fast", "--classes", "independent", "-q")
    told = CliRunner().invoke(main, ["verify", str(out), "--model", str(tiny_model)])
    assert told.exit_code == 0, told.output


def of_tiny(change: object) -> onnx.ModelProto:
    model = tiny.classifier()
    change(model)
    return model


def no_shape(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.ClearField("shape")


def open_as_minus_one(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -1


def listed_weights(model: onnx.ModelProto) -> None:
    """As before version 4, one that nothing reads among them, and all before the picture."""
    model.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.float32), "unread"))
    own = model.graph.input.pop()
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    model.graph.input.append(own)


@pytest.mark.parametrize("change", [no_shape, open_as_minus_one, listed_weights])
def test_files_that_are_written_otherwise_can_be_used_when_exported(change: object, tmp_path: Path):
    path, out = tmp_path / "model.onnx", tmp_path / "out.onnx"
    onnx.save(of_tiny(change), path)
    export(path, "-o", out, "--quality", "fast", "-q")
    for command in (["verify", str(out), "--model", str(path)], ["inspect", str(out)]):
        told = CliRunner().invoke(main, command)
        assert told.exit_code == 0, told.output


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("self_test",), None),
        (("self_test", "evidence"), []),
        (("self_test", "levels"), []),
        (("self_test", "budget"), None),
        (("targets",), None),
        (("outputs",), {}),
        (("outputs", "budget"), "logits"),
        (("scores",), None),
    ],
)
def test_damaged_records_are_told(place: tuple[str, ...], value: object, tiny_model: Path, tmp_path: Path):
    """Nothing ends in a traceback, and nothing is right."""
    out = tmp_path / "out.onnx"
    export(tiny_model, "-o", out, "--quality", "fast", "-q")
    model, record = onnx.load(out), recorded(out)
    inner = record if len(place) == 1 else record[place[0]]
    if value is None:
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    next(each for each in model.metadata_props if each.key == RECORD).value = json.dumps(record)
    onnx.save(model, out)
    told = CliRunner().invoke(main, ["verify", str(out)])
    assert told.exit_code == 1, told.output
    assert isinstance(told.exception, SystemExit)
    assert re.search(r"damaged|was changed|WRONG|ONNX Runtime", told.output), told.output


def test_no_square_weights_are_read_both_ways(tmp_path: Path):
    """OpenVINO takes them for one another."""
    with opened("vit", tmp_path) as deployed, Explainer(deployed, steps=2, most_steps=2) as explainer:
        model = explained(explainer, Asked())
    square = {each.name for each in model.graph.initializer if len(each.dims) == 2 and each.dims[0] == each.dims[1] > 1}
    ways: dict[str, set[int]] = {}
    for node in model.graph.node:
        if node.op_type == "Gemm" and node.input[1] in square:
            turned = next((each.i for each in node.attribute if each.name == "transB"), 0)
            ways.setdefault(node.input[1], set()).add(turned)
        assert not (node.op_type == "Transpose" and node.input[0] in square)
    assert square
    assert all(len(each) == 1 for each in ways.values())
