"""Backward graphs by onnx-ad beside this project's: size, exactness and time, a row per network.

* taken: what of the file onnx-ad takes: it needs shapes that files often leave out, and some only with a batch of fixed
  size; onnx's shape inference writes them. Ours are of the file as it is, the batch left free.
* nodes: of the file, of onnx-ad's graph of it, and of ours; both give the logits too.
* float32: gradients of a random linear form of the logits by the input, by ONNX Runtime on the CPU, ours by
  `DeployedModel.gradient`; relative error max|a - b| / max|b| against our graph in float64, best and worst of four
  pictures. Rectifiers that rounding opens or shuts shift some pictures by up to a per cent, in every program.
  Where rounding to codes is part of a network, onnx-ad's gradient is 0, an error of 1; ours passes through.
* float64: onnx-ad's graph against ours, both in float64, where this is rare.
* slopes: onnx-ad's graph in float64 against central differences of the file, see `check_gradients.py`.
* time: processor time of runs of the graph over those of the file, pictures in a batch, ONNX Runtime with the same
  options for all; median of interleaved measurements, and from where to where they went.

A dash says that a graph does not run in float64: its weights or codes are of another type. Without float64, which takes
most of the time, onnx-ad's gradients in float32 are held against ours in float32.
"""

import importlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import onnxruntime as ort

from onnx_evidence import DeployedModel
from onnx_evidence.types import AnyArray
from onnx_evidence.vjp import build_vjp
from parts.float64 import float64_gradient, in_float64, slope_error
from parts.torch_networks import NETWORKS, build, export, pictures, session

_PICTURES = 4
_REPEATS = 9
# Seconds that a measurement takes at the least.
_LEAST = 0.05
_NONE = "-"
_ROOT = Path(__file__).resolve().parents[3]
_HEAD = (
    "network",
    "operators",
    "taken by onnx-ad",
    "nodes: file",
    "onnx-ad",
    "ours",
    "float32: onnx-ad, best - worst",
    "ours",
    "float64: onnx-ad against ours",
    "slopes of onnx-ad's",
    "time: onnx-ad",
    "ours",
)


def compare(models: Sequence[Path], exports: Sequence[str], *, with_tests: bool, quick: bool) -> None:
    """Print the table; if ``quick`` nothing is run in float64."""
    click.echo("| " + " | ".join(_HEAD) + " |\n" + "|---" * len(_HEAD) + "|")
    with tempfile.TemporaryDirectory() as scratch:
        for path in _networks(models, exports, Path(scratch), with_tests=with_tests):
            try:
                click.echo("| " + " | ".join(_row(path, quick=quick)) + " |")
            except Exception as error:  # noqa: BLE001 - one network that fails must not hide the others
                click.echo(f"| {path.stem} | failed: {_said(error)} |")


def _networks(models: Sequence[Path], exports: Sequence[str], folder: Path, *, with_tests: bool) -> Iterator[Path]:
    """Files, one at a time: of the tests, those given, exports."""
    if with_tests:
        yield from _of_tests(folder)
        yield from sorted((_ROOT / "models" / "scenes").glob("*.onnx"))
    yield from models
    for network in NETWORKS:
        if network.name in exports:
            yield export(network, build(network), folder)


def _of_tests(folder: Path) -> Iterator[Path]:
    if str(_ROOT) not in sys.path:
        sys.path.insert(0, str(_ROOT))
    tiny, others = importlib.import_module("tests.tiny"), importlib.import_module("tests.tiny_transformers")
    for name, make in {"residual": tiny.classifier, **others.MODELS}.items():
        path = folder / f"tiny {name}.onnx"
        onnx.save(make(), path)
        yield path


def _with_shapes(file: onnx.ModelProto) -> onnx.ModelProto:
    return onnx.shape_inference.infer_shapes(file, data_prop=True)


def _with_batch(file: onnx.ModelProto) -> onnx.ModelProto:
    """The file for so many pictures, no more and no fewer."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(file)
    del fixed.graph.value_info[:]
    for each in (fixed.graph.input[0], *fixed.graph.output):
        each.type.tensor_type.shape.dim[0].dim_value = _PICTURES
    return _with_shapes(fixed)


# What onnx-ad is given, the first that it takes.
_WAYS = {"as it is": lambda file: file, "with shapes": _with_shapes, "with shapes and batch": _with_batch}


class _Theirs:
    """The graph that onnx-ad makes of a file."""

    def __init__(self, file: onnx.ModelProto) -> None:
        self.model = importlib.import_module("onnx_ad").reverse(file, layout="onnx")
        self.runner, self.source = session(self.model), file.graph.input[0].name
        held = {each.name for each in (*file.graph.initializer, *file.graph.input)}
        self.seed = next(each.name for each in self.model.graph.input if each.name not in held)
        self.gradient = self.model.graph.output[-1].name

    def fed(self, x: AnyArray, form: AnyArray) -> dict[str, AnyArray]:
        """What the graph is run on: pictures, and a linear form of the logits for each, as one direction."""
        return {self.source: x, self.seed: np.repeat(form[None, :, None], len(x), axis=0).astype(x.dtype)}

    def run(self, runner: Any, x: AnyArray, form: AnyArray) -> AnyArray:
        """Gradients (N, C, H, W) by ONNX Runtime or by the reference."""
        return np.asarray(runner.run([self.gradient], self.fed(x, form))[0])[..., 0]


def _take(file: onnx.ModelProto) -> tuple[str, _Theirs | None]:
    """How onnx-ad takes a file, and its graph; or why not."""
    said = ""
    for name, change in _WAYS.items():
        try:
            return name, _Theirs(change(file))
        except Exception as error:  # noqa: BLE001 - what it says is what is asked for
            said = _said(error)
    return f"refused: {said}", None


def _row(path: Path, *, quick: bool) -> list[str]:
    deployed, file = DeployedModel(path, device="cpu", cache=False), onnx.load(path)
    forward = deployed.graph.whole()
    ours = build_vjp(forward)
    x, form = _inputs(deployed), np.random.default_rng(1).normal(size=deployed.classes).astype(np.float32)
    at_input = deployed.gradient(deployed.graph.find(deployed.model.input_name))
    mine = at_input(x, form.astype(np.float64), np.zeros(len(form)))[1]
    truth = None if quick else _truth(ours, x, form)
    way, theirs = _take(file)
    operators, nodes = len({node.op_type for node in file.graph.node}), len(ours.graph.node)
    cells = [path.stem, str(operators), way, str(len(file.graph.node))]
    if theirs is None:
        return [*cells, _NONE, str(nodes), _NONE, _errors(mine, truth), *[_NONE] * 4]
    found = theirs.run(theirs.runner, x, form)
    return [
        *cells,
        str(len(theirs.model.graph.node)),
        str(nodes),
        _errors(found, truth) if truth is not None else f"{_errors(found, mine)}, against ours",
        _errors(mine, truth),
        *_exact(theirs, forward, truth, x, form),
        *(
            f"{statistics.median(each):.2f} ({min(each):.2f} - {max(each):.2f})"
            for each in _times(file, ours, theirs, x, form)
        ),
    ]


def _truth(ours: onnx.ModelProto, x: AnyArray, form: AnyArray) -> AnyArray | None:
    return _exactly(lambda: np.concatenate([float64_gradient(ours, each[None], form[None]) for each in x]))


def _exact(
    theirs: _Theirs, forward: onnx.ModelProto, truth: AnyArray | None, x: AnyArray, form: AnyArray
) -> tuple[str, str]:
    """What is said of onnx-ad's graph in float64: against ours, and against central differences."""
    if truth is None:
        return _NONE, _NONE
    exact = _exactly(lambda: theirs.run(in_float64(theirs.model), x.astype(np.float64), form))
    if exact is None:
        return _NONE, _NONE
    slope = _exactly(lambda: np.array(slope_error(forward, exact[:1], x[:1], form[None])))
    return f"{max(_shares(exact, truth)):.1e}", _NONE if slope is None else f"{slope:.1e}"


def _inputs(deployed: DeployedModel) -> AnyArray:
    channels, height, width = deployed.model.input_shape
    return np.ascontiguousarray(pictures(_PICTURES, max(height, width), seed=7)[:, :channels, :height, :width])


def _exactly(work: Callable[[], AnyArray]) -> AnyArray | None:
    """What a graph gives in float64, or None where it cannot be run so."""
    with suppress(Exception):
        return work()
    return None


def _shares(found: AnyArray, truth: AnyArray) -> list[float]:
    return [float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(found, truth, strict=True)]


def _errors(found: AnyArray, truth: AnyArray | None) -> str:
    if truth is None:
        return _NONE
    shares = _shares(found, truth)
    return f"{min(shares):.1e} - {max(shares):.1e}"


def _times(
    file: onnx.ModelProto, ours: onnx.ModelProto, theirs: _Theirs, x: AnyArray, form: AnyArray
) -> tuple[list[float], list[float]]:
    """Runs of both graphs over runs of the file, theirs first."""
    mine = {ours.graph.input[0].name: x, "cotangent": np.repeat(form[None], len(x), axis=0)}
    runs = [(session(file), {theirs.source: x}), (theirs.runner, theirs.fed(x, form)), (session(ours), mine)]
    counts = [max(1, round(_LEAST / _processor(*run, 2))) for run in runs]  # the first run of everything is slow
    found: tuple[list[float], list[float]] = ([], [])
    for _ in range(_REPEATS):
        alone, *both = (_processor(*run, count) for run, count in zip(runs, counts, strict=True))
        for ratios, seconds in zip(found, both, strict=True):
            ratios.append(seconds / alone)
    return found


def _processor(runner: ort.InferenceSession, fed: dict[str, AnyArray], count: int) -> float:
    """Processor time of a run, the mean of so many; the clock tells little on a busy machine."""
    begin = time.process_time()
    for _ in range(count):
        runner.run(None, fed)
    return (time.process_time() - begin) / count


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:200].replace("|", "/")
