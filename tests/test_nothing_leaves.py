"""Nothing leaves the machine: no name is looked up, and no telemetry is written, by any command in any process."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.batch import write_pictures
from tests.lookups import ISOLATED

_REFUSED = (
    subprocess.run([*ISOLATED, "true"], capture_output=True, check=False).returncode if sys.platform == "linux" else 1
)
isolated = pytest.mark.skipif(bool(_REFUSED), reason="the system allows no network namespaces of one's own")

# Every command, in one process; `explain` starts others with --workers.
_COMMANDS = """
import sys
from onnx_evidence.cli import main

def run(*arguments):
    try:
        main(arguments, standalone_mode=False)
    except SystemExit as end:
        assert end.code in (0, 1, None), (arguments, end.code)

if __name__ == "__main__":
    run("inspect", "model.onnx")
    run("preprocess", "model.onnx")
    run("explain", "model.onnx", "in", "-o", "out", "--method", "grad-cam")
    run("explain", "model.onnx", "in", "-o", "two", "--method", "grad-cam", "--workers", "2", "--no-figures")
    run("verify", "out")
    run("summary", "out", "-o", "cohort.csv")
    run("merge", "out", "-o", "all")
    run("background", "model.onnx", "many", "-o", "background.npz")
    run("links", "model.onnx", "in/00.png", "-o", "links")
    run("gradient", "model.onnx", "-o", "gradient.onnx")
    run("sanity", "model.onnx", "in/00.png", "--method", "grad-cam", "--draws", "1")
    run("evaluate", "model.onnx", "in", "-o", "eval", "--methods", "grad-cam", "--substrates", "mean")
"""
_CLUSTER = """
from distributed import LocalCluster
from onnx_evidence.cli import main

if __name__ == "__main__":
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster:
        main(["explain", "model.onnx", "in", "-o", "out", "--method", "grad-cam", "--no-figures", "--cluster",
              cluster.scheduler_address], standalone_mode=False)
"""


@pytest.fixture
def place(tiny_model, tmp_path):
    """A folder with a model and pictures, and a home in which nothing is."""
    shutil.copy(tiny_model, tmp_path / "model.onnx")
    write_pictures(tmp_path / "in", 2)
    write_pictures(tmp_path / "many", 10, seed=1)
    (tmp_path / "home").mkdir()
    return tmp_path


def run(place: Path, command: Sequence[str], *, alone: bool) -> tuple[list[str], list[str]]:
    """Names that a command looked up, and files that it left in its user's home besides what it measured of models."""
    home = place / "home"
    # What this process has set already must not help the other; nor that ONNX Runtime is silent where 'CI' is set.
    environment = {name: value for name, value in os.environ.items() if name not in ("ORT_DISABLE_TELEMETRY", "CI")}
    environment |= {"HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache"), "XDG_CONFIG_HOME": str(home / ".config")}
    environment |= {"MPLCONFIGDIR": str(place / "matplotlib"), "DASK_CONFIG": str(place / "dask")}
    environment["PYTHONPATH"] = str(Path(__file__).parent.parent)
    asked = place / "asked"
    before = [*ISOLATED, sys.executable, "-m", "tests.lookups", str(asked)] if alone else []
    done = subprocess.run([*before, *command], cwd=place, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    names = asked.read_text().splitlines() if asked.exists() else []
    measured = home / ".cache" / "onnx-evidence"
    left = [path for path in home.rglob("*") if path.is_file() and path.parent != measured]
    assert all(set(json.loads(path.read_bytes())) == {"to", "answer"} for path in measured.glob("*"))
    return names, sorted(path.name for path in left)


@isolated
@pytest.mark.parametrize("program", [_COMMANDS, _CLUSTER], ids=["commands", "cluster"])
def test_no_command_looks_up_a_name_or_leaves_telemetry(place, program):
    (place / "program.py").write_text(program)
    assert run(place, [sys.executable, "program.py"], alone=True) == ([], [])
    assert (place / "out" / "manifest.jsonl").exists()


def test_what_is_written_is_seen(place):
    """Control: without our word ONNX Runtime leaves files in the user's cache, where its version does such things."""
    if not run(place, [sys.executable, "-c", "import onnxruntime"], alone=False)[1]:
        pytest.skip("this ONNX Runtime writes no telemetry by itself")


@isolated
def test_a_look_up_is_seen(place):
    program = "import socket\ntry: socket.getaddrinfo('nowhere.example', 80)\nexcept OSError: pass"
    names, _ = run(place, [sys.executable, "-c", program], alone=True)
    assert "nowhere.example" in names
