"""A Dask cluster: what its workers send is what one process writes, and those that die are no loss."""

import json
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from onnx_evidence.batch import cluster as module
from onnx_evidence.batch import fingerprint
from onnx_evidence.batch.cluster import on_cluster
from onnx_evidence.batch.work import Recipe
from onnx_evidence.errors import DeviceError, ModelError
from tests.batch import call, jobs_of, lines, manifest, same_but_for_threads, start, until, write_pictures

pytestmark = pytest.mark.long


@contextmanager
def process(*arguments):
    """One of Dask's, killed at the end."""
    command = [sys.executable, "-m", "distributed.cli." + arguments[0], *arguments[1:], "--no-dashboard"]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield running
    finally:
        running.kill()
        running.wait()


@contextmanager
def scheduler(folder):
    file = folder / "scheduler.json"
    with process("dask_scheduler", "--port", "0", "--host", "127.0.0.1", "--scheduler-file", str(file)):
        until(lambda: file.exists() and file.read_text().endswith("}"))
        yield json.loads(file.read_text())["address"]


def worker(address):
    return process("dask_worker", address, "--nthreads", "1", "--no-nanny")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("pictures") / "in", 6, seed=5)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A scheduler and one worker."""
    with scheduler(tmp_path_factory.mktemp("cluster")) as address, worker(address):
        yield address


def work_off(address, recipe, pictures):
    run = on_cluster(recipe, address)
    return list(run(jobs_of(pictures), lambda number, copies: None, lambda: None))


def test_a_cluster_writes_what_one_process_writes(tiny_model, pictures, shared, tmp_path):
    arguments = (tiny_model, pictures, tmp_path / "none.png", "-q", "--device", "cpu")
    call("explain", *arguments, "-o", tmp_path / "one", code=3)
    result = call("explain", *arguments, "-o", tmp_path / "many", "--cluster", shared, code=3)
    assert result.stderr.count("\n") == 1
    assert same_but_for_threads(tmp_path / "many") == same_but_for_threads(tmp_path / "one")
    assert json.loads(call("verify", tmp_path / "many", "--json").stdout)["verdict"] == "identical"


def test_a_worker_that_dies_is_no_loss_and_another_may_come(tiny_model, pictures, tmp_path):
    call("explain", tiny_model, pictures, "-o", tmp_path / "one", "-q", "--device", "cpu")
    with scheduler(tmp_path) as address, worker(address) as first:
        run = start(tiny_model, pictures, tmp_path / "many", "--cluster", address)
        until(lambda: lines(tmp_path / "many") > 0)
        first.kill()
        time.sleep(0.5)
        assert run.poll() is None  # what is left waits for somebody to do it
        with worker(address):
            _, stderr = run.communicate(timeout=120)
    assert (run.returncode, stderr) == (0, "")
    assert same_but_for_threads(tmp_path / "many") == same_but_for_threads(tmp_path / "one")
    assert len({entry["map"] for entry in manifest(tmp_path / "many")}) == lines(tmp_path / "many") == 6


def test_when_the_scheduler_goes_the_run_ends_and_the_same_command_goes_on(tiny_model, pictures, tmp_path, shared):
    with scheduler(tmp_path) as address, worker(address):
        run = start(tiny_model, pictures, tmp_path / "out", "--cluster", address)
        until(lambda: lines(tmp_path / "out") > 0)
    _, stderr = run.communicate(timeout=120)
    assert run.returncode == 1
    assert "is lost" in stderr
    assert stderr.count("\n") == 1
    call("explain", tiny_model, pictures, "-o", tmp_path / "out", "-q", "--device", "cpu", "--cluster", shared)
    assert len({entry["map"] for entry in manifest(tmp_path / "out")}) == lines(tmp_path / "out") == 6


def test_a_picture_that_kills_its_workers_is_a_failure(tiny_model, pictures, tmp_path, monkeypatch):
    monkeypatch.setenv("DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES", "0")
    with scheduler(tmp_path) as address, worker(address) as first:
        run = start(tiny_model, pictures, tmp_path / "out", "--cluster", address)
        until(lambda: lines(tmp_path / "out") > 0)
        first.kill()
        with worker(address):
            _, stderr = run.communicate(timeout=120)
    assert run.returncode == 3
    failures = [json.loads(line) for line in (tmp_path / "out" / "failures.jsonl").read_text().splitlines()]
    assert {failure["kind"] for failure in failures} == {"WorkerDied"}
    assert lines(tmp_path / "out") + len(failures) == 6
    assert stderr.count("workers died while explaining it") == len(failures)


def test_workers_with_other_files_are_refused(tiny_model, pictures, shared):
    recipe = Recipe(tiny_model, {"device": "cpu"})
    configuration = fingerprint.digest(fingerprint.of_explainer(recipe.open()))
    assert len(work_off(shared, Recipe(tiny_model, {"device": "cpu"}, configuration), pictures)) == 6
    with pytest.raises(DeviceError, match="have all processes see the same files"):
        work_off(shared, Recipe(tiny_model, {"device": "cpu", "seed": 1}, configuration), pictures)


def test_what_a_worker_refuses_ends_the_run_in_its_words(pictures, shared, tmp_path):
    with pytest.raises(ModelError, match=r"gone\.onnx: cannot read the model"):
        work_off(shared, Recipe(tmp_path / "gone.onnx", {"device": "cpu"}), pictures)


def test_workers_of_another_release_are_refused(tiny_model, pictures, shared, monkeypatch):
    monkeypatch.setattr(module, "version", lambda name: "0.0")
    with pytest.raises(DeviceError, match=r"a worker has onnx-evidence 0\.1\.0, and this is 0\.0"):
        work_off(shared, Recipe(tiny_model, {"device": "cpu"}), pictures)


def test_what_is_no_cluster_is_refused(tiny_model, pictures, tmp_path, monkeypatch):
    arguments = ("explain", tiny_model, pictures, "-o", tmp_path / "out", "--device", "cpu", "--cluster")
    assert "no address of a Dask scheduler" in call(*arguments, "here", code=2).stderr
    assert "leave --workers out" in call(*arguments, "tcp://a:1", "--workers", 2, code=2).stderr
    monkeypatch.setattr(module, "_ANSWER", 0.5)
    assert "no Dask scheduler answers" in call(*arguments, "tcp://127.0.0.1:9", code=1).stderr
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert "pip install 'onnx-evidence[cluster]'" in call(*arguments, "tcp://a:1", code=2).stderr
    assert not (tmp_path / "out" / "manifest.jsonl").exists()
