"""What was measured of a model is kept for the next time, and never taken for something else."""

import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnx_evidence import DeployedModel, Explainer, SettingError, deployed
from onnx_evidence.evidence import AxisField, CellField
from onnx_evidence.files import Cache
from onnx_evidence.intake import take_in
from onnx_evidence.intake.alone import Alone
from tests import tiny
from tests.batch import call, manifest, write_pictures

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the user's cache folder is named otherwise")


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows with every field that is measured, and every cut and every model that is tried."""
    done: list[str] = []

    def counting(home: ModuleType, name: str) -> Callable[..., object]:
        original = getattr(home, name)

        def counted(*arguments: object, **keywords: object) -> object:
            done.append(name)
            return original(*arguments, **keywords)

        return counted

    for home, name in ((deployed, "measure_field"), (deployed, "are_read"), (take_in, "why_alone")):
        monkeypatch.setattr(home, name, counting(home, name))
    return done


@pytest.fixture
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, 40, 3)).astype(np.uint8)


def explained(model: Path, picture: np.ndarray, **given: object) -> np.ndarray:
    with Explainer(model, device="cpu", **given) as explainer:
        return explainer.explain(picture, target=1).values


def test_the_second_opening_measures_nothing_and_gives_the_same_map(tiny_model, picture, measured, caches):
    first = explained(tiny_model, picture)
    assert {"measure_field", "are_read", "why_alone"} <= set(measured)
    assert {each.suffix for each in caches.iterdir()} == {".json"}
    measured.clear()
    np.testing.assert_array_equal(explained(tiny_model, picture), first)
    assert measured == []


def test_nothing_is_read_or_written_where_that_is_asked_for(tiny_model, picture, measured, caches):
    explained(tiny_model, picture, cache=False)
    assert not caches.exists()
    count = len(measured)
    explained(tiny_model, picture)
    measured.clear()
    explained(tiny_model, picture, cache=False)
    assert len(measured) == count > 0
    with pytest.raises(SettingError, match="cache 'no': give True or False"):
        DeployedModel(tiny_model, cache="no")
    with pytest.raises(SettingError, match="max_work and cache"), DeployedModel(tiny_model) as opened:
        Explainer(opened, cache=False)


def _another_weight(path: Path) -> None:
    model = onnx.load(path)
    weight = model.graph.initializer[0]
    values = numpy_helper.to_array(weight) * np.float32(1.5)
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    onnx.save(model, path)


def test_what_a_measurement_depends_on_is_in_its_name(tmp_path, picture, measured, monkeypatch):
    model = tiny.save(tiny.classifier(), tmp_path / "model.onnx")
    explained(model, picture)

    def measures(**given: object) -> bool:
        measured.clear()
        explained(model, picture, **given)
        return "measure_field" in measured

    assert not measures()
    model = model.rename(tmp_path / "another name.onnx")
    assert not measures()
    assert measures(preprocess={"size": (32, 32), "scale": 1 / 255, "mean": (0.1,) * 3, "std": (0.7,) * 3})
    assert not measures()
    for name, value in (("_MEASURED", 2), ("RUNTIME_VERSION", "1.0"), ("version", lambda _: "9.9")):
        with monkeypatch.context() as patch:
            patch.setattr(deployed, name, value)
            assert measures(), name
    with monkeypatch.context() as patch:
        patch.setattr(deployed, "describe_machine", lambda *, gpu: {"cpu": "another", "threads": 1})
        assert measures()
    assert not measures()
    _another_weight(model)
    assert measures()


# Where no centre of a cell lies.
_WRONG = (1e300, -1e4, True, "3", None, [1.0])


def _spoiled(data: bytes) -> list[bytes]:
    line = json.loads(data)
    answer = line["answer"]
    other = {**line, "to": {**line["to"], "question": {"read": "another cut"}}}
    wrong = [None, 3, "true", [], {}, {**line, "more": 1}, other]
    if isinstance(answer, dict):
        axes = answer["axes"]
        for field in (
            {**answer, "axes": answer["axes"][:1]},
            {**answer, "axes": [[each[:-1] for each in axis] for axis in answer["axes"]]},
            {**answer, "axes": [[[None] * len(each) for each in axis] for axis in answer["axes"]]},
            {**answer, "axes": "none"},
            {**answer, "how": "guessed"},
            {**answer, "reason": 5},
            *({**answer, "axes": [[[value] * len(each) for each in axis] for axis in axes]} for value in _WRONG),
            {**answer, "axes": [[centre, [-1.0] * len(spread)] for centre, spread in answer["axes"]]},
            {"axes": answer["axes"]},
        ):
            wrong.append({**line, "answer": field})
    elif isinstance(answer, list):
        texts = ("yes", 1, True, None, {}, ["words"], ["words", 1], [1, True], ["words", True, "more"])
        wrong += [{**line, "answer": each} for each in texts]
    else:
        wrong += [{**line, "answer": "yes"}, {**line, "answer": 1}]
    texts = [json.dumps(each).encode() for each in wrong]
    return [b"", data[: len(data) // 2], data[:-1], b"\xff\x00" * 40, b"[" * 100_000, *texts]


def test_what_is_not_whole_or_of_something_else_is_measured_again(tiny_model, picture, measured, caches):
    expected = explained(tiny_model, picture)
    whole = {path: path.read_bytes() for path in caches.iterdir()}
    for path, data in whole.items():
        for spoiled in _spoiled(data):
            path.write_bytes(spoiled)
            measured.clear()
            np.testing.assert_array_equal(explained(tiny_model, picture), expected)
            assert len(measured) >= 1, spoiled[:200]
            assert path.read_bytes() == data


@pytest.mark.parametrize("kind", ["a file", "no home", "a link to nowhere", "a folder in the place of an answer"])
def test_a_cache_that_cannot_be_had_is_done_without(kind, tiny_model, picture, measured, caches, monkeypatch, tmp_path):
    expected = explained(tiny_model, picture)
    names = [path.name for path in caches.iterdir()]
    for path in list(caches.iterdir()):
        path.unlink()
        if kind == "a folder in the place of an answer":
            path.mkdir()
    if kind == "a file":
        caches.rmdir()
        caches.write_text("something else")
    elif kind == "a link to nowhere":
        caches.rmdir()
        caches.symlink_to(tmp_path / "gone" / "away")
    elif kind == "no home":
        monkeypatch.setattr("onnx_evidence.files.cache.user_cache_path", lambda *_, **__: Path("~/.cache"))
        monkeypatch.chdir(tmp_path)
    for _ in range(2):
        measured.clear()
        np.testing.assert_array_equal(explained(tiny_model, picture), expected)
        assert "measure_field" in measured
    assert names
    assert not (tmp_path / "~").exists()
    assert kind != "a file" or caches.read_text() == "something else"


def test_what_single_pictures_span_is_not_kept(tmp_path, measured, caches, rng):
    """Of a model whose input is given nothing is known but the picture."""
    model = tiny.save(tiny.classifier(), tmp_path / "model.onnx")
    np.save(tmp_path / "input.npy", rng.random((3, 32, 32)).astype(np.float32))
    for _ in range(2):
        measured.clear()
        with Explainer(model, device="cpu", preprocess="preprocessed") as explainer:
            explainer.explain(tmp_path / "input.npy", target=1)
        assert "measure_field" in measured
    kept = [json.loads(path.read_bytes())["to"]["question"] for path in caches.iterdir()]
    assert all("read" in each or "alone" in each for each in kept)


def test_why_pictures_run_one_by_one_is_kept_word_for_word(tmp_path, measured, monkeypatch):
    """With the graph that it was tried on: another layout, output or range is asked about anew."""
    model = tiny.save(tiny.classifier(), tmp_path / "model.onnx")
    why = Alone("they meet", tried=True)
    monkeypatch.setattr(take_in, "why_alone", lambda subject: measured.append("tried") or why)
    found = [(each.model.batch, each.model.changes) for each in (DeployedModel(model), DeployedModel(model))]
    assert found[0] == found[1] == (1, (*found[0][1][:-1], "one picture at a time: they meet"))
    assert measured == ["tried"]
    DeployedModel(model, preprocess={"size": (32, 32), "scale": 1 / 255, "mean": (0.1,) * 3, "std": (0.7,) * 3})
    assert measured == ["tried"] * 2
    DeployedModel(model, cache=False)
    assert measured == ["tried"] * 3


def test_verify_measures_again_what_may_have_been_kept_wrongly(tiny_model, caches, tmp_path):
    pictures = write_pictures(tmp_path / "in", 1)
    command = ("explain", tiny_model, pictures, "--device", "cpu", "-q", "--no-figures")
    call(*command, "-o", tmp_path / "right")
    for path in caches.iterdir():
        line = json.loads(path.read_bytes())
        if isinstance(line["answer"], dict):
            line["answer"]["axes"] = [[each[::-1] for each in axis] for axis in line["answer"]["axes"]]
            path.write_text(json.dumps(line))
    call(*command, "-o", tmp_path / "wrong")
    maps = [
        np.load(tmp_path / name / manifest(tmp_path / name)[0]["map"])["input_pixels"] for name in ("right", "wrong")
    ]
    assert np.abs(maps[0] - maps[1]).max() > 0.1 * np.abs(maps[0]).max()  # the forgery works
    call("verify", tmp_path / "right")
    call("verify", tmp_path / "wrong", code=1)
    call(*command, "--no-cache", "-o", tmp_path / "again")
    call("verify", tmp_path / "again")


def test_weights_that_are_drawn_anew_are_never_those_of_the_file(tiny_model, measured):
    opened = DeployedModel(tiny_model, device="cpu")
    cut = opened.graph.find("deep.add")
    assert opened.is_read(cut)
    twin = opened.of_graph(opened.graph)
    measured.clear()
    assert twin.is_read(cut)
    assert measured == ["are_read"]


def test_writers_at_once_leave_one_whole_answer(caches):
    questions = [{"n": number % 3} for number in range(60)]

    def work(number: int) -> object:
        cache = Cache({"thing": 1})
        cache.put(questions[number], [number % 3] * 5000)
        return cache.get(questions[number])

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(work, range(60)))
    assert all(each in (None, [number % 3] * 5000) for number, each in enumerate(found))
    assert [Cache({"thing": 1}).get({"n": number}) for number in range(3)] == [[n] * 5000 for n in range(3)]
    assert Cache({"thing": 2}).get({"n": 0}) is None
    assert Cache(None).get({"n": 0}) is None
    assert len(list(caches.iterdir())) == 3


def test_fields_are_kept_exactly(rng):
    axes = [AxisField(pixels, rng.normal(size=cells), rng.random(cells)) for pixels, cells in ((31, 5), (17, 3))]
    field = CellField(*axes, "measured", "of some rows nothing is known")
    plain = json.loads(json.dumps(field.to_plain()))
    again = CellField.from_plain(plain, (31, 17), (5, 3))
    assert again is not None
    assert (again.how, again.reason) == (field.how, field.reason)
    for one, other in zip((again.rows, again.cols), axes, strict=True):
        np.testing.assert_array_equal(one.centre, other.centre)
        np.testing.assert_array_equal(one.spread, other.spread)
        assert one.pixels == other.pixels
    assert CellField.from_plain(plain, (31, 17), (3, 5)) is None
    assert CellField.from_plain(None, (31, 17), (5, 3)) is None
