"""What maps cost: every second is somewhere, and where it was spent."""

import json
import time
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from onnx_evidence.cli import main, tables
from onnx_evidence.evaluation import cost, measure_cost
from onnx_evidence.sessions import Device, Session, convolution_rate, runtime, watched
from tests.batch import write_pictures
from tests.test_runtime import NEGATION, one_node

CPU = Device("cpu", "asked for")
SLEEP = 0.05


def test_runs_are_watched_by_their_part_inside_alone():
    one, two = (Session(one_node(NEGATION), CPU, part=part) for part in ("one", "two"))
    rows = np.ones((1, 3), np.float32)
    one.run(rows)
    with watched() as outer:
        one.run(rows)
        with watched() as inner:
            two.run(rows)
    one.run(rows)
    assert set(outer) == {"one", "two"}
    assert set(inner) == {"two"}
    assert 0 < inner["two"] <= outer["two"] < 5


@pytest.mark.parametrize("part", ["file", "head", "gradient"])
def test_a_part_that_is_slow_is_the_one_that_is_told(part, tiny_model, monkeypatch):
    """The oracle: runs of one part sleep, so its stage must have that much time and no other."""
    stage = "steps" if part == "gradient" else part
    run = Session._run

    def slow(session: Session, *given):
        if session._part == part:
            with runtime.counted(part):
                time.sleep(SLEEP)
        return run(session, *given)

    opening = {"device": "cpu"}
    monkeypatch.setattr(Session, "_run", slow)
    found = measure_cost(tiny_model, None, opening, ["fast"], repeats=2, pictures=10)
    stages = found["qualities"]["fast"]["stages_ms"]
    made = {name: stages[name] for name in ("read", "file", "head", "steps", "arithmetic")}
    assert max(made, key=made.get) == stage
    assert stages[stage] >= SLEEP * 1000


def test_stages_are_all_of_the_time_and_none_is_negative(tiny_model, tmp_path):
    done = []
    picture = next(write_pictures(tmp_path / "pictures", 1).iterdir())
    found = measure_cost(tiny_model, picture, {}, ["fast", "default"], repeats=1, pictures=10, done=done.append)
    assert len(done) == 4
    for row in found["qualities"].values():
        assert set(row["stages_ms"]) == set(cost.STAGES)
        assert all(each >= 0 for each in row["stages_ms"].values())
        assert sum(row["stages_ms"].values()) == pytest.approx(row["ms"])
        assert row["plain_passes_from_to"][0] <= row["plain_passes"] <= row["plain_passes_from_to"][1]
    for quality, row in found["qualities"].items():
        assert found["forecast"][quality]["1"] == pytest.approx(row["ms"] / 1000 * 10)
        undrawn = row["ms"] - row["stages_ms"]["drawing"]
        assert found["forecast_without_figures"][quality]["1"] == pytest.approx(undrawn / 1000 * 10)
    assert found["qualities"]["default"]["steps"] > found["qualities"]["fast"]["steps"] > 0
    assert found["multiply_adds"] / found["plain_ms"] * 1000 == pytest.approx(found["rate"])


def test_the_limit_counts_the_multiply_adds_of_its_convolution(monkeypatch):
    """256 channels from 256, 9 weights each, at 3,136 places, in a session that takes a tenth of a second."""
    ran = []

    def run(session: Session, batch):
        ran.append(batch.shape)
        time.sleep(0.1)

    monkeypatch.setattr(Session, "run", run)
    assert 256 * 256 * 9 * 3136 / 0.1 / 3 < convolution_rate(CPU) <= 256 * 256 * 9 * 3136 / 0.1
    assert set(ran) == {(1, 256, 56, 56)}


def test_bench_prints_a_table_or_json(tiny_model):
    run = CliRunner().invoke
    done = run(main, ["bench", str(tiny_model), "--repeats", "1", "--quality", "fast", "--pictures", "7"])
    assert done.exit_code == 0, done.output
    for words in (
        "a plain pass: ",
        "of what one large convolution gets here",
        "passes behind them",
        "7 pictures at fast, by --workers: 1: ",
        "; with --no-figures 1: ",
    ):
        assert words in done.output
    assert "default" not in done.output
    found = json.loads(run(main, ["bench", str(tiny_model), "--repeats", "1", "--quality", "fast", "--json"]).output)
    assert list(found["qualities"]) == ["fast"]
    missing = run(main, ["bench", str(tiny_model), "gone.jpg"])
    assert (missing.exit_code, "gone.jpg" in missing.output) == (1, True)


def test_a_model_of_fixed_batch_has_no_batches_to_choose():
    fixed = SimpleNamespace(model=SimpleNamespace(batch=4))
    assert cost._batches(fixed, np.ones((1, 3), np.float32)) == {}


@pytest.mark.parametrize(
    ("alone", "seconds"),
    [
        (20.0, 10.0),  # two threads are no quicker than one: two processes halve everything
        (40.0, 16.0),  # twice as quick: they halve what is no run of the model
        (50.0, 16.0),
        (5.0, 10.0),  # slower than one, which is chance
    ],
)
def test_workers_save_what_threads_of_one_process_lose(alone, seconds):
    """Of two seconds 1.2 are runs of the model."""
    parts = (0.1, 0.2, 0.3, 0.7, 0.2, 0.4, 0.1)
    runs = [cost._Run(dict(zip(cost.STAGES, parts, strict=True)), 1.0, 5)] * 3
    found = cost._forecast(runs, 10, {"1": alone, "2": 20.0})
    assert found == {"1": pytest.approx(20.0), "2": pytest.approx(seconds)}
    assert cost._forecast(runs, 10, {}) == {"1": pytest.approx(20.0)}


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.0123, "0.0123 s"), (119.0, "119 s"), (121.0, "2.02 min"), (167000.0, "46.4 h")]
)
def test_how_long_runs_take_is_told_in_units_that_fit(seconds, words):
    assert tables._lasting({"1": seconds}) == f"1: {words}"


def test_bench_makes_the_input_itself_where_nothing_is_done_to_pictures(tiny_model):
    found = measure_cost(tiny_model, None, {"preprocess": "preprocessed"}, ["fast"], repeats=1, pictures=1)
    assert found["qualities"]["fast"]["ms"] > 0
