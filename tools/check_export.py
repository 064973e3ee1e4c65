"""Run the self-test of exported models in any runtime, without this package: what is in docs/export.md, done by hand.

    python tools/check_export.py model-explained.onnx... --runtime onnxruntime
    python tools/check_export.py model-explained.onnx... --runtime openvino

It needs numpy, onnx and click, and the runtime; see docs/export.md for what has been tried.
"""

import importlib
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx

_KEY = "onnx_evidence.export"
_REPEATS = 9
# Arrays by the names of inputs, and of outputs.
Run = Callable[[dict[str, Any]], dict[str, Any]]


@click.command()
@click.argument("models", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--runtime", type=click.Choice(["onnxruntime", "openvino"]), default="onnxruntime", show_default=True)
def main(models: tuple[Path, ...], runtime: str) -> None:
    """Print how far the evidence of MODELS is from what it was where they were made."""
    opened = {"onnxruntime": onnxruntime, "openvino": openvino}[runtime]
    version = importlib.import_module(runtime).__version__
    click.echo(f"{runtime} {version}\n\n| file | evidence of a patch, largest difference, bits | of | load | run |")
    click.echo("|---|---|---|---|---|")
    for path in models:
        click.echo(f"| {path.name} | {_row(path, opened)} |")


def _row(path: Path, opened: Callable[[Path], Run]) -> str:
    model = onnx.load(path)
    record = json.loads(next(each.value for each in model.metadata_props if each.key == _KEY))
    given = next(each for each in model.graph.input if each.name != record["input"])
    inputs = {given.name: picture(record["self_test"], given)}
    if record["input"] is not None:
        inputs[record["input"]] = np.array([record["self_test"]["target"]])
    start = time.perf_counter()
    run = opened(path)
    load = time.perf_counter() - start
    found = run(inputs)[record["outputs"]["evidence"]][0]
    spent = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        run(inputs)
        spent.append(time.perf_counter() - start)
    expected = np.array(record["self_test"]["evidence"])
    apart = np.abs(pooled(found, expected.shape[-1]) - expected).max()
    return f"{apart:.1e} | {np.abs(expected).max():.2g} | {load:.2f} s | {statistics.median(spent) * 1000:.0f} ms"


def picture(test: dict[str, Any], given: onnx.ValueInfoProto) -> Any:
    """The test's picture, in the layout and type of an input."""
    rows, cols = (np.arange(side) * test["blocks"] // side for side in test["size"])
    low, high = (np.array(test[name])[:, None, None] for name in ("low", "high"))
    values = low + (high - low) * np.array(test["levels"])[:, rows][:, :, cols] / 255
    kind = onnx.helper.tensor_dtype_to_np_dtype(given.type.tensor_type.elem_type)
    whole = np.rint(values.astype(np.float32)) if kind.kind in "iu" else values
    batch = whole[None] if test["layout"] == "NCHW" else whole[None].transpose(0, 2, 3, 1)
    return np.ascontiguousarray(batch.astype(kind))


def pooled(evidence: Any, blocks: int) -> Any:
    """Evidence (targets, H, W) summed over patches."""
    down, across = (
        (np.arange(side) * blocks // side == np.arange(blocks)[:, None]).astype(np.float64)
        for side in evidence.shape[1:]
    )
    return down @ evidence.astype(np.float64) @ across.T


def onnxruntime(path: Path) -> Run:
    """A model in ONNX Runtime, on its CPU provider."""
    session = importlib.import_module("onnxruntime").InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(names, inputs), strict=True))


def openvino(path: Path) -> Run:
    """A model in OpenVINO's own runtime, on the CPU, in float32.

    Version 2026.4 finds no registers for the long chains of arithmetic that it makes kernels of.
    """
    core = importlib.import_module("openvino").Core()
    how = {"INFERENCE_PRECISION_HINT": "f32", "SNIPPETS_MODE": "DISABLE"}
    compiled = core.compile_model(str(path), "CPU", how)
    names = [each.any_name for each in compiled.outputs]
    return lambda inputs: dict(zip(names, compiled(inputs).values(), strict=True))


if __name__ == "__main__":
    main()
