"""What tests of folders of pictures share: small pictures, runs inside this process, results to compare."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from onnx_evidence.batch import work
from onnx_evidence.batch.plan import look, make_plan
from onnx_evidence.batch.work import Job
from onnx_evidence.cli import main

# What differs between runs that did the same.
OF_TIME = ("seconds", "previous", "seal")


def write_pictures(folder: Path, count: int, seed: int = 0) -> Path:
    """A folder of smooth pictures 00.png, 01.png, ..."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for number in range(count):
        coarse = rng.integers(0, 256, (5, 5, 3)).astype(np.uint8)
        cv2.imwrite(str(folder / f"{number:02}.png"), cv2.resize(coarse, (50, 40), interpolation=cv2.INTER_CUBIC))
    return folder


def call(*arguments: object, code: int = 0) -> Result:
    """Run a command in this process."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result


def jobs_of(pictures: Path) -> list[Job]:
    """What a run would do with a folder of pictures."""
    items = [look(item) for item in make_plan([pictures], ["top1"], None)]
    return [Job(number, item, item.path.stem, frozenset()) for number, item in enumerate(items)]


def manifest(out: Path) -> list[dict[str, Any]]:
    """The lines of a manifest."""
    return [json.loads(line) for line in (out / "manifest.jsonl").read_text(encoding="utf-8").split("\n") if line]


def results(out: Path) -> dict[str, Any]:
    """Files by name, manifest lines by map without what is of time; failures likewise."""
    files = {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in out.rglob("*")
        if path.is_file() and path.suffix != ".jsonl"
    }
    lines = {}
    for name in ("manifest.jsonl", "failures.jsonl"):
        for line in (out / name).read_text(encoding="utf-8").split("\n") if (out / name).exists() else ():
            if line:
                value = {key: each for key, each in json.loads(line).items() if key not in OF_TIME}
                key = f"{name}: {value.get('map', value['image'])}"
                assert key not in lines, f"twice: {key}"
                lines[key] = value
    return {**files, **lines}


def copy_of(out: Path, place: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(out, place))


def interrupt_self() -> None:
    """What Ctrl-C does."""
    os.kill(os.getpid(), signal.SIGINT)


def stub_figure(figure: Any, stream: Any) -> None:
    """In the place of `write_figure`, which takes longer than everything else; the scale still counts."""
    stream.write(repr(figure).encode())


def same_but_for_threads(out: Path) -> dict:
    found = results(out)
    for value in found.values():
        if isinstance(value, dict):
            value.pop("machine", None)
    return found


def start(tiny_model: Path, pictures: Path, out: Path, *arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "onnx_evidence", "explain", str(tiny_model), str(pictures), "-o", str(out), "-q"]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    return subprocess.Popen([*command, "--device", "cpu", *arguments], **options)


def until(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def lines(out: Path) -> int:
    path = out / "manifest.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def without_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures that take no time: what is drawn is not what is tested."""
    monkeypatch.setattr(work, "write_figure", stub_figure)
    place = "onnx_evidence.results.explanation.Explanation.figure"
    monkeypatch.setattr(place, lambda explanation, limit=None, **how: limit)


def explained(place: Path, model: Path, count: int) -> Path:
    """A folder with a model, some pictures (in) and their maps (out)."""
    shutil.copy(model, place / "model.onnx")
    write_pictures(place / "in", count)
    call("explain", place / "model.onnx", place / "in", "-o", place / "out", "-q", "--no-figures")
    return place
