"""What is open is opened once, nothing is run twice on the same features, and what is closed stays closed."""

import gc
import json
import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner

from onnx_evidence import DeployedModel, Explainer
from onnx_evidence.batch import recompute, work
from onnx_evidence.batch.cluster import _Opened
from onnx_evidence.cli import main
from onnx_evidence.cuts import measured_together
from onnx_evidence.errors import DeviceError, ModelError
from onnx_evidence.intake import endings
from onnx_evidence.pictures.opencv import silence
from onnx_evidence.sessions import runtime
from tests import oracles, tiny

CUTS = ("stem", "block.add", "deep.add")


class Counted(onnxruntime.InferenceSession):
    """A session that is written down, with what is run of it."""

    opened: ClassVar[list[weakref.ref]] = []
    parts: ClassVar[list[tuple[tuple[str, ...], tuple[str, ...]]]] = []
    graphs: ClassVar[list[bytes]] = []
    rows: ClassVar[dict[str, int]] = {}

    def __init__(self, model: bytes, *given, **named) -> None:
        super().__init__(model, *given, **named)
        # What is not declared has the name of its first input.
        self.part = tuple(each.name for each in self.get_inputs()), tuple(each.name for each in self.get_outputs())
        self.opened.append(weakref.ref(self))
        self.parts.append(self.part)
        self.graphs.append(bytes(model))

    def run(self, outputs, given, *options):
        name = self.part[0][0]
        self.rows[name] = self.rows.get(name, 0) + len(next(iter(given.values())))
        return super().run(outputs, given, *options)

    @classmethod
    def reset(cls) -> None:
        cls.opened.clear(), cls.parts.clear(), cls.graphs.clear(), cls.rows.clear()

    @classmethod
    def alive(cls) -> int:
        """Sessions that ONNX Runtime still holds."""
        return sum(each() is not None for each in cls.opened)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Counted]]:
    """Counts sessions; what is freed is freed by its last holder, not by the collector of cycles."""
    gc.collect()
    Counted.reset()
    monkeypatch.setattr(runtime.ort, "InferenceSession", Counted)
    gc.disable()
    yield Counted
    gc.enable()


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    field = oracles.ar_fields(np.random.default_rng(5), 3, 40, 0.9).transpose(1, 2, 0)
    return np.clip(field * 40 + 128, 0, 255).astype(np.uint8)


def gradient(name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return (name, "cotangent", "rest"), ("gradient", "value")


WHOLE = (("input",), ("logits",))


# --- opened once ---------------------------------------------------------------------------------------------------


def test_the_default_opens_each_part_once(counted, tiny_model, picture):
    explainer = Explainer(tiny_model, device="cpu")
    # The trial of the file when it was read; the file; the head of both cuts; a backward graph for each; a head for
    # each while fields are measured.
    both, *each = ((("input",), names) for names in (("block.add", "deep.add"), ("block.add",), ("deep.add",)))
    assert counted.parts == [WHOLE, WHOLE, both, gradient("block.add"), gradient("deep.add"), *each]
    explainer.explain(picture, target=0)
    explainer.explain(picture[::-1], target=1)
    assert len(counted.parts) == 7
    assert counted.alive() == 4  # all but the trial


def test_several_cuts_share_what_leads_to_them(counted, tiny_model, picture):
    explainer = Explainer(tiny_model, device="cpu", layer=CUTS)
    # The head of the last cut alone is for its field, which is measured on other pictures than those of the others.
    assert counted.parts == [WHOLE, WHOLE, (("input",), CUTS), *map(gradient, CUTS), (("input",), ("deep.add",))]
    assert counted.alive() == 5
    explainer.explain(picture, target=0)
    assert len(counted.parts) == 7


@pytest.mark.parametrize(
    ("method", "behind"), [("window", [(("deep.add",), ("logits",))]), ("recipro-cam", [(("deep.add",), ("logits",))])]
)
def test_methods_without_gradients_open_no_backward_graph(counted, tiny_model, picture, method, behind):
    Explainer(tiny_model, device="cpu", method=method, layer="deep.add").explain(picture, target=0)
    assert counted.parts == [WHOLE, WHOLE, (("input",), ("deep.add",)), *behind]


def test_explainers_of_one_model_share_what_is_open(counted, tiny_model):
    deployed = DeployedModel(tiny_model, device="cpu")
    first = Explainer(deployed, layer="deep.add")
    there = len(counted.parts)
    second = Explainer(deployed, layer="deep.add", method="hirescam")
    assert len(counted.parts) == there
    del first, second
    assert counted.alive() == 1  # the file
    _ = Explainer(deployed, layer="deep.add")
    assert len(counted.parts) == there + 2


@pytest.mark.parametrize("ending", ["logits", "softmax", "sigmoid"])
@pytest.mark.parametrize("batch", ["N", 1])
def test_the_ending_is_looked_for_once(counted, monkeypatch, tmp_path, ending, batch):
    looked = []
    find = endings.find_ending
    monkeypatch.setattr(endings, "find_ending", lambda *given: looked.append(given[2]) or find(*given))
    model = tiny.classifier(ending=ending)
    dimension = model.graph.input[0].type.tensor_type.shape.dim[0]
    dimension.Clear()
    dimension.dim_param, dimension.dim_value = (batch, 0) if batch == "N" else ("", batch)
    found = DeployedModel(tiny.save(model, tmp_path / "m.onnx"), device="cpu").model
    assert found.output_kind == ("logits" if ending == "logits" else "probabilities")
    # Where the batch was made free an ending that was not there is looked for again.
    assert len(looked) == (2 if (ending, batch) == ("logits", 1) else 1)
    alone = [outputs for _, outputs in counted.parts if outputs == (model.graph.output[0].name,)]
    assert len([graph for graph in counted.graphs if onnx.load_from_string(graph).graph.name == "ending"]) == (
        0 if ending == "logits" else 1
    ), alone


# --- run once ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("questions", "rows"), [([0], 9), ([0, 3], 18)])
def test_paths_from_two_starts_run_their_common_end_once(counted, tiny_model, picture, questions, rows):
    explainer = Explainer(tiny_model, device="cpu", layer="deep.add", completeness=0.999)
    assert explainer.method.stand_in(explainer.settings) == "blur+mean"
    counted.rows.clear()
    found = explainer.explain_all(picture, questions)
    assert counted.rows["deep.add"] == rows
    assert [each.budgets[0].steps for each in found] == [10] * len(questions)  # as they are counted in receipts
    # The picture through the file and the head, the blurred one through the head.
    assert counted.rows["input"] == 3


def test_windows_are_removed_from_features_that_are_run_once(counted, tiny_model, picture):
    explainer = Explainer(tiny_model, device="cpu", layer="deep.add", method="window")
    counted.rows.clear()
    explainer.explain_all(picture, [0, 1])
    assert counted.rows["deep.add"] == explainer.rows(2) + 1


def test_what_cuts_have_in_common_is_computed_once(counted, tiny_model, picture):
    rows = []
    for cuts in (["block.add"], ["stem", "block.add"], ["stem.relu", "stem", "block.add"]):
        counted.rows.clear()
        explainer = Explainer(tiny_model, device="cpu", layer=cuts, cache=False)
        rows.append(counted.rows["input"])
        counted.rows.clear()
        explainer.explain(picture, target=0)
        assert counted.rows["input"] == 3  # the picture through the file and the head, the blurred one
    assert rows[0] == rows[1] == rows[2]
    # Features that would take too much are not remembered: each cut is measured by itself.
    cuts = explainer.deployed.graph.cuts[1:4]
    most = 2 * (17 + 17) * 4 * 3 * 8 * 16 * 16
    assert measured_together(cuts, (32, 32), most) == {cut.name for cut in cuts}
    assert measured_together(cuts, (32, 32), most - 1) == frozenset()
    assert measured_together(explainer.deployed.graph.cuts[3:5], (32, 32), most) == frozenset()


def test_heads_that_are_shared_give_the_features_of_the_file(tiny_model, picture):
    deployed = DeployedModel(tiny_model, device="cpu")
    cuts = [deployed.graph.find(name) for name in ("deep.add", "input", "stem", "block.add")]
    inputs = deployed.prepare(picture)[1]
    model = onnx.load(tiny_model)
    model.graph.output.extend(onnx.ValueInfoProto(name=cut.name) for cut in cuts if cut.name != "input")
    plain = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    heads = deployed.heads(cuts)
    with heads.remembering():
        for cut, features in zip(cuts, heads.look(inputs), strict=True):
            expected = inputs if cut.name == "input" else plain.run([cut.name], {"input": inputs[None]})[0][0]
            np.testing.assert_array_equal(features, expected)
            np.testing.assert_array_equal(heads.at(cut)(inputs[None])[0], expected)
            np.testing.assert_array_equal(deployed.head(cut)(inputs[None])[0], expected)
        with pytest.raises(KeyError):  # no other cut's features in its place
            heads.at(deployed.graph.find("down"))
        # What is remembered is not taken for another picture, even in the same array.
        before = heads.at(cuts[0])(inputs[None]).copy()
        inputs *= -1
        after = heads.at(cuts[0])(inputs[None])
    np.testing.assert_array_equal(after, heads.at(cuts[0])(inputs[None]))
    assert np.abs(after - before).max() > 0.1


# --- closed --------------------------------------------------------------------------------------------------------


def test_a_closed_explainer_holds_no_session_and_says_so(counted, tiny_model, picture):
    with Explainer(tiny_model, device="cpu") as explainer:
        engine, head = explainer.engines[0], explainer.deployed.head(explainer.engines[0].cut)
        explainer.explain(picture, target=0)
    assert counted.alive() == 0
    explainer.close()
    for use in (
        lambda: explainer.explain(picture, target=0),
        lambda: explainer.deployed.answer(np.zeros((3, 32, 32), np.float32)),
        lambda: explainer.deployed.canonical(np.zeros((1, 3, 32, 32), np.float32)),
        lambda: head(np.zeros((1, 3, 32, 32), np.float32)),
        lambda: Explainer(explainer.deployed),
        lambda: engine.gradient(np.zeros((1, *engine.cut.shape), np.float32), np.zeros(5), np.zeros(5)),
    ):
        with pytest.raises(ModelError, match="was closed"):
            use()
    assert counted.alive() == 0
    assert explainer.deployed.label(1) == "bee"
    assert explainer.record["output"] == "logits"
    assert explainer.deployed.find_class("dog") == 3


def test_a_model_that_was_given_open_stays_open(counted, tiny_model, picture):
    with DeployedModel(tiny_model, device="cpu") as deployed:
        other = Explainer(deployed, layer="stem")
        with Explainer(deployed, layer="deep.add") as explainer:
            explainer.explain(picture, target=0)
        assert counted.alive() == 3  # the file, and what the other has
        with pytest.raises(ModelError, match="the explainer was closed"):
            explainer.explain(picture, target=0)
        other.explain(picture, target=0)
    assert counted.alive() == 0
    with pytest.raises(ModelError, match="the model was closed"):
        other.explain(picture, target=0)


def test_one_that_is_dropped_goes_without_being_closed(counted, tiny_model, picture):
    explainer = Explainer(tiny_model, device="cpu", background="blur")
    explainer.explain(picture, target=0)
    explainer.deployed.canonical(np.zeros((1, 3, 32, 32), np.float32))
    assert counted.alive() == 5
    del explainer
    assert counted.alive() == 0


def test_one_that_cannot_be_made_leaves_nothing_open(counted, tiny_model):
    with pytest.raises(ModelError, match="planted") as caught:
        _failing(tiny_model)
    assert caught.value
    assert counted.alive() == 0


def _failing(path: Path) -> None:
    """An explainer whose last preparation fails, with its sessions in the frames of the error."""
    import onnx_evidence.explainer as module

    def fail(*given):
        raise ModelError("planted")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "fixed_record", fail)
        Explainer(path, device="cpu")


def test_a_twin_is_closed_by_itself(counted, tiny_model):
    zeros = np.zeros((1, 3, 32, 32), np.float32)
    deployed = DeployedModel(tiny_model, device="cpu")
    twin = deployed.of_graph(deployed.graph)
    expected = deployed.canonical(zeros)
    with twin:
        np.testing.assert_array_equal(twin.canonical(zeros), expected)
    with pytest.raises(ModelError, match="was closed"):
        twin.canonical(zeros)
    np.testing.assert_array_equal(deployed.canonical(zeros), expected)
    other = deployed.of_graph(deployed.graph)
    deployed.close()
    np.testing.assert_array_equal(other.canonical(zeros), expected)


def test_memory_that_is_short_is_given_back_before_more_is_taken(counted, tiny_model):
    recipe = work.Recipe(tiny_model, {"device": "cpu", "layer": "deep.add"})
    opened, short = recipe.open, [MemoryError(), DeviceError("planted")]

    def reopen(**changed) -> Explainer:
        assert counted.alive() == 0
        if short:
            raise short.pop(0)
        return opened(**changed)

    object.__setattr__(recipe, "open", reopen)
    tried = []

    def once(explainer: Explainer) -> int:
        tried.append(explainer)
        if len(tried) == 1:
            raise MemoryError
        return explainer.settings.batch_size

    with closing(work.Hand(opened(), recipe)) as hand:
        with pytest.raises(DeviceError, match="planted"):
            hand.run(once)
        assert hand.run(once) == 8  # what could not be opened for another reason is tried again, as it was
        assert len(tried) == 2
    assert counted.alive() == 0


def test_a_worker_closes_what_it_had_before(counted, tiny_model, tmp_path):
    other = tiny.save(tiny.classifier(seed=1), tmp_path / "other.onnx")
    recipes = [work.Recipe(path, {"device": "cpu", "layer": "deep.add"}) for path in (tiny_model, other)]
    opened = _Opened()
    first = opened.open(recipes[0]).explainer
    second = opened.open(recipes[1]).explainer
    assert counted.alive() == 3
    assert first.deployed._parts.closed
    assert not second.deployed._parts.closed
    with pytest.raises(DeviceError):
        work.Recipe(tiny_model, {"device": "cpu", "layer": "deep.add"}, "0" * 64).open()
    assert counted.alive() == 3


def test_commands_close_what_they_open(monkeypatch, tiny_model, hopper, tmp_path):
    closed, opened = [], []
    start, close = DeployedModel.__init__, DeployedModel.close
    monkeypatch.setattr(
        DeployedModel, "__init__", lambda self, *given, **named: opened.append(self) or start(self, *given, **named)
    )
    monkeypatch.setattr(DeployedModel, "close", lambda self: closed.append(self) or close(self))
    out = str(tmp_path / "out")
    for command in (
        ["explain", str(tiny_model), str(hopper), "-o", out, "-q", "--quality", "fast"],
        ["verify", out, "-q"],
        ["verify", out, "-q", "--sample", "0"],
        ["inspect", str(tiny_model)],
        ["gradient", str(tiny_model), "-o", str(tmp_path / "gradient.onnx")],
        ["sanity", str(tiny_model), str(hopper), "-q", "--draws", "1", "--method", "gradient"],
        ["inspect", str(tiny_model), "--image", str(hopper), "--expect", "no such class:0.5"],
    ):
        opened.clear(), closed.clear()
        found = CliRunner().invoke(main, command)
        assert found.exception is None or isinstance(found.exception, SystemExit), command
        assert opened, command
        assert {id(each) for each in opened} == {id(each) for each in closed}, command


def test_maps_are_computed_again_by_one_explainer_at_a_time(counted, tiny_model, hopper, tmp_path):
    folder = tmp_path / "out"
    command = ["explain", str(tiny_model), str(hopper), "-o", str(folder), "-q", "--quality", "fast"]
    assert CliRunner().invoke(main, command).exit_code == 0
    entries = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()] * 2
    entries[1] = {**entries[1], "settings": {**entries[1]["settings"], "seed": 1}, "method_reason": "asked for"}
    origin = recompute.Origin(folder)
    verdicts = recompute.recompute(entries, origin, lambda entry: hopper)
    next(verdicts)
    alive = counted.alive()
    assert alive > 0
    next(verdicts)
    assert counted.alive() == alive
    verdicts.close()
    assert counted.alive() == 0


def test_threads_that_silence_decoders_take_turns_and_give_stderr_back():
    before, inside, there = os.fstat(2), threading.Event(), []

    def other() -> None:
        inside.set()
        with silence():
            there.append(os.fstat(2))

    thread = threading.Thread(target=other)
    with silence():
        assert os.path.samestat(os.fstat(2), os.stat(os.devnull))
        thread.start()
        inside.wait()
        thread.join(0.2)
        assert not there
    thread.join()
    assert os.path.samestat(there[0], os.stat(os.devnull))
    assert os.path.samestat(os.fstat(2), before)
