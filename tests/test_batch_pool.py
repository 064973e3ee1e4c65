"""Several processes: what they write is what one writes, and those that die are replaced."""

import json
import multiprocessing
import os
import signal
import time

import pytest

from onnx_evidence.batch import fingerprint
from onnx_evidence.batch.pool import spawned
from onnx_evidence.batch.work import Recipe
from onnx_evidence.errors import DeviceError, ModelError
from onnx_evidence.files.machine import available_threads, thread_share
from tests import tiny
from tests.batch import call, jobs_of, lines, manifest, same_but_for_threads, start, until, write_pictures


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("pictures") / "in", 4, seed=5)


def test_processes_write_what_one_writes(tiny_model, pictures, tmp_path):
    arguments = (tiny_model, pictures, tmp_path / "none.png", "-q", "--device", "cpu")
    call("explain", *arguments, "-o", tmp_path / "one", code=3)
    result = call("explain", *arguments, "-o", tmp_path / "two", "--workers", 2, code=3)
    assert result.stderr.count("\n") == 1
    assert same_but_for_threads(tmp_path / "two") == same_but_for_threads(tmp_path / "one")
    assert {entry["machine"]["threads"] for entry in manifest(tmp_path / "two")} == {max(1, available_threads() // 2)}
    assert multiprocessing.active_children() == []


def test_a_process_that_dies_is_replaced_and_its_picture_done_again_but_not_for_ever(tiny_model, pictures, tmp_path):
    to_kill = {0: 3, 1: 1}

    def tick(number: int, copies: int) -> None:
        # What a process said before it died may be heard after it.
        if to_kill[number] and (alive := multiprocessing.active_children()):
            to_kill[number] -= 1
            alive[0].kill()
            alive[0].join()

    run = spawned(Recipe(tiny_model, {"device": "cpu"}), 1, gpus=False)
    outcomes = list(run(jobs_of(pictures)[:2], tick, lambda: None))
    first, second = sorted(outcomes, key=lambda each: each.job.number)
    assert first.kind == "WorkerDied"
    assert "the process died 3 times while explaining it (exit code -9)" in first.reason
    assert (second.reason, len(second.entries)) == ("", 1)
    assert to_kill == {0: 0, 1: 0}
    assert multiprocessing.active_children() == []


def test_processes_that_die_at_once_end_the_run(tiny_model, pictures, tmp_path):
    def check() -> None:
        for process in multiprocessing.active_children():
            process.kill()

    run = spawned(Recipe(tiny_model, {"device": "cpu"}), 1, gpus=False)
    with pytest.raises(DeviceError, match="processes die before their first picture"):
        list(run(jobs_of(pictures), lambda number, copies: None, check))
    assert multiprocessing.active_children() == []


def test_what_a_process_refuses_ends_the_run_in_its_words(pictures, tmp_path):
    run = spawned(Recipe(tmp_path / "gone.onnx", {"device": "cpu"}), 1, gpus=False)
    with pytest.raises(ModelError, match=r"gone\.onnx: cannot read the model"):
        list(run(jobs_of(pictures), lambda number, copies: None, lambda: None))


def test_a_model_that_is_replaced_while_a_run_lasts_ends_it(pictures, tmp_path):
    """Processes that are started later than others must not explain another model."""
    path = tiny.save(tiny.classifier(seed=1), tmp_path / "model.onnx")
    explainer = Recipe(path, {"device": "cpu"}).open()
    recipe = Recipe(path, {"device": "cpu"}, fingerprint.digest(fingerprint.of_explainer(explainer)))
    replaced = []

    def tick(number: int, copies: int) -> None:
        if not replaced:
            replaced.append(tiny.save(tiny.classifier(seed=2), path))
            for process in multiprocessing.active_children():
                process.kill()

    with pytest.raises(DeviceError, match=r"model\.onnx: another model.* than when the run began"):
        list(spawned(recipe, 1, gpus=False)(jobs_of(pictures), tick, lambda: None))
    # Control: without the word of what is to be found there, the other model would have gone on.
    again = spawned(Recipe(path, {"device": "cpu"}), 1, gpus=False)
    assert len(list(again(jobs_of(pictures), lambda number, copies: None, lambda: None))) == 4


def test_where_writing_is_slower_than_explaining_a_run_stops_after_one_picture_all_the_same(tiny_model, pictures):
    """There is always another outcome by then."""
    written = []

    def check() -> None:
        if written:
            raise KeyboardInterrupt

    def write_slowly() -> None:
        for outcome in spawned(Recipe(tiny_model, {"device": "cpu"}), 1, gpus=False)(
            jobs_of(pictures), lambda number, copies: None, check
        ):
            written.append(outcome)
            time.sleep(1)

    with pytest.raises(KeyboardInterrupt):
        write_slowly()
    assert len(written) == 1


def test_ctrl_c_in_a_terminal_ends_all_processes_and_the_same_command_goes_on(tiny_model, pictures, tmp_path):
    process = start(tiny_model, pictures, tmp_path, "--workers", "2")
    until(lambda: lines(tmp_path) > 0)
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=120)
    assert (process.returncode, stderr) == (130, "Interrupted: the same command goes on from there\n")
    assert not list(tmp_path.rglob("*.partial"))
    assert 0 < lines(tmp_path) < 4
    call("explain", tiny_model, pictures, "-o", tmp_path, "-q", "--device", "cpu")
    assert lines(tmp_path) == 4
    assert json.loads(call("verify", tmp_path, "--sample", 0, "--json").stdout)["verdict"] == "unchanged"


def test_when_the_parent_is_killed_its_processes_end_and_the_folder_is_free(tiny_model, pictures, tmp_path):
    process = start(tiny_model, pictures, tmp_path, "--workers", "2")
    until(lambda: lines(tmp_path) > 0)
    process.kill()
    process.communicate()

    def gone() -> bool:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return True
        return False

    until(gone, 20)
    call("explain", tiny_model, pictures, "-o", tmp_path, "-q", "--device", "cpu")
    assert lines(tmp_path) == 4


def test_the_share_of_the_threads_is_what_the_process_gets(monkeypatch, tmp_path):
    monkeypatch.setattr("onnx_evidence.files.machine._CGROUP", tmp_path)
    monkeypatch.setattr("onnx_evidence.files.machine.os.sched_getaffinity", lambda pid: set(range(10)))
    shares = thread_share(3)
    assert set(shares.values()) == {"3"}
    monkeypatch.setenv("ONNX_EVIDENCE_THREADS", shares["ONNX_EVIDENCE_THREADS"])
    assert available_threads() == 3
    assert set(thread_share(9).values()) == {"1"}
    for wrong in ("", "0", "many", "-1"):
        monkeypatch.setenv("ONNX_EVIDENCE_THREADS", wrong)
        assert available_threads() == 10
