"""What exported models are worth beside the files that they are of: the tables of docs/export.md.

    python tools/bench_export.py same MODEL.onnx... --pictures FOLDER [--count 5] [--quality fast|default]
    python tools/bench_export.py cost MODEL.onnx... --pictures FOLDER [--count 10]

`same` exports each, runs both on photographs, one at a time and seven together, and holds evidence against `explain`
with as many steps. `cost` takes turns between a prediction, one with its evidence, and `explain`, and measures memory
in processes of their own: an idle machine is needed.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import onnxruntime as ort
from parts.measuring import most_held, timed

from onnx_evidence import DeployedModel, Explainer
from onnx_evidence.export import STEPS, Asked
from onnx_evidence.export.file import Exported, export_model
from onnx_evidence.intake import as_file_takes_it
from onnx_evidence.pictures import list_images
from onnx_evidence.results import Explanation

_TOGETHER = 7
_REPEATS = 9
_HEAD = (
    "| file | size | own outputs, of 1 and 7 | evidence of a patch, bits, of 1 and 7 | largest | pixel, share of the "
    "largest, of 1 and 7 | logits of the file, 7 against 1 | exported in |\n|---|---|---|---|---|---|---|---|"
)


def _explainer(deployed: DeployedModel, quality: str) -> Explainer:
    if quality == "fast":
        return Explainer(deployed, quality="fast", most_steps=5)
    return Explainer(deployed, steps=STEPS, most_steps=STEPS)


def _session(data: bytes, *, plain: bool = False) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if plain:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def _run(session: ort.InferenceSession, inputs: Any) -> list[Any]:
    return list(session.run(None, {session.get_inputs()[0].name: inputs}))


def _in_batches(session: ort.InferenceSession, inputs: Any, size: int) -> list[Any]:
    """All outputs, of batches of a size; what is missing of the last one is filled up."""
    padded = np.concatenate([inputs, np.repeat(inputs[-1:], -len(inputs) % size, axis=0)])
    parts = [_run(session, padded[first : first + size]) for first in range(0, len(padded), size)]
    return [np.concatenate(each)[: len(inputs)] for each in zip(*parts, strict=True)]


@dataclass(frozen=True)
class Compared:
    """An exported model beside the file and the explainer, in batches of one size."""

    outputs: float  # largest difference, as a share of the largest
    patch: float  # bits
    pixel: float  # as a share of the largest

    def __str__(self) -> str:
        return "the same" if self.outputs == 0 else f"{self.outputs:.0e}"


def _compared(own: Sequence[Any], given: Sequence[Any], found: Sequence[Explanation]) -> Compared:
    outputs = max(
        float(np.abs(one.astype(float) - other.astype(float)).max() / max(np.abs(one).max(), 1e-30))
        for one, other in zip(own, given[: len(own)], strict=True)
    )
    evidence = given[len(own)][:, 0]
    others = [replace(each, values=values) for each, values in zip(found, evidence, strict=True)]
    patch = max(float(np.abs(one.shown - other.shown).max()) for one, other in zip(found, others, strict=True))
    pixel = max(
        float(np.abs(one.values - other.values).max() / np.abs(one.values).max())
        for one, other in zip(found, others, strict=True)
    )
    return Compared(outputs, patch, pixel)


@click.group()
def main() -> None:
    """Hold exported models against the files that they are of."""


_shared = [
    click.argument("models", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path)),
    click.option("--pictures", required=True, type=click.Path(exists=True, path_type=Path), help="A folder."),
    click.option("--quality", "qualities", multiple=True, type=click.Choice(["fast", "default"])),
    click.option("--preprocess", help="As of 'explain'."),
]


def _options(command: Any) -> Any:
    for option in reversed(_shared):
        command = option(command)
    return command


@main.command()
@_options
@click.option("--count", default=5, show_default=True, help="Photographs.")
def same(
    models: tuple[Path, ...], pictures: Path, qualities: tuple[str, ...], preprocess: str | None, count: int
) -> None:
    """Print how far outputs and evidence of exported MODELS are from those of the files, and of `explain`."""
    click.echo(_HEAD)
    for path in models:
        for quality in qualities or ("fast", "default"):
            with DeployedModel(path, preprocess=preprocess, device="cpu") as deployed:
                click.echo(_same(deployed, quality, _chosen(pictures, count)))


def _chosen(folder: Path, count: int) -> list[Path]:
    """So many photographs, evenly spread."""
    found = list_images([folder])
    return [found[number * len(found) // count] for number in range(count)]


def _same(deployed: DeployedModel, quality: str, pictures: Sequence[Path]) -> str:
    explainer = _explainer(deployed, quality)
    start = time.perf_counter()
    exported = export_model(explainer, Asked())
    spent = time.perf_counter() - start
    onnx.checker.check_model(onnx.load_model_from_string(exported.data), full_check=True)
    found = [explainer.explain(each) for each in pictures]
    inputs = np.concatenate(
        [as_file_takes_it(deployed.prepare(each)[1][None], deployed.model.entry) for each in pictures]
    )
    file, other = _session(deployed.model.path.read_bytes()), _session(exported.data)
    sizes = [deployed.model.rows] if deployed.model.rows else [1, _TOGETHER]
    owns = [_in_batches(file, inputs, size) for size in sizes]
    compared = [_compared(own, _in_batches(other, inputs, size), found) for size, own in zip(sizes, owns, strict=True)]
    largest = max(float(np.abs(each.shown).max()) for each in found)
    logits = float(np.abs(owns[-1][0] - owns[0][0]).max() / np.abs(owns[0][0]).max())
    cells = (
        f"{deployed.model.path.stem}, {quality}",
        f"{exported.growth:+.1%}",
        ", ".join(map(str, compared)),
        ", ".join(f"{each.patch:.0e}" for each in compared),
        f"{largest:.2g}",
        ", ".join(f"{each.pixel:.0e}" for each in compared),
        f"{logits:.0e}",
        f"{spent:.0f} s",
    )
    return f"| {' | '.join(cells)} |"


@main.command()
@_options
@click.option("--count", default=10, show_default=True, help="Photographs.")
def cost(
    models: tuple[Path, ...], pictures: Path, qualities: tuple[str, ...], preprocess: str | None, count: int
) -> None:
    """Print what a prediction with its evidence takes, in plain predictions taken in turn with it."""
    click.echo(
        "| file | prediction | with evidence | of decoded pictures | `explain` | load, as it is and optimised: file | "
        "exported | memory: file | exported, of 1 | of 7 |\n|---|---|---|---|---|---|---|---|---|---|"
    )
    for path in models:
        for quality in qualities or ("fast", "default"):
            with DeployedModel(path, preprocess=preprocess, device="cpu") as deployed:
                click.echo(_cost(deployed, quality, _chosen(pictures, count)))


def _cost(deployed: DeployedModel, quality: str, pictures: Sequence[Path]) -> str:
    explainer = _explainer(deployed, quality)
    adaptive = Explainer(deployed, quality=quality)
    exported, decoded = (export_model(explainer, Asked(decoded=each), pictures=1) for each in (False, True))
    data = deployed.model.path.read_bytes()
    file, other, whole = _session(data), _session(exported.data), _session(decoded.data)
    plain: list[float] = []
    spent: dict[str, list[float]] = {"evidence": [], "decoded": [], "explain": []}
    for path in pictures:
        photograph, prepared, _ = deployed.prepare(path)
        inputs = as_file_takes_it(prepared[None], deployed.model.entry)
        for _ in range(3):
            plain += [timed(partial(_run, file, inputs)) for _ in range(_REPEATS)]
            spent["evidence"].append(timed(partial(_run, other, inputs)))
            spent["decoded"].append(timed(partial(_run, whole, photograph.raw[None])))
            spent["explain"].append(timed(partial(adaptive.explain, photograph)))
    unit = statistics.median(plain)
    shape = inputs.shape[1:]
    cells = (
        f"{deployed.model.path.stem}, {quality}",
        f"{1000 * unit:.1f} ms",
        *(_passes([each / unit for each in values]) for values in spent.values()),
        *(_load(each) for each in (data, exported.data)),
        *(f"{_memory(each, [size, *shape], inputs.dtype)} MB" for each, size in _to_hold(data, exported)),
    )
    return f"| {' | '.join(cells)} |"


def _to_hold(data: bytes, exported: Exported) -> list[tuple[bytes, int]]:
    return [(data, 1), (exported.data, 1), (exported.data, _TOGETHER)]


def _passes(ratios: list[float]) -> str:
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{middle:.1f} ({low:.1f} to {high:.1f})"


def _load(data: bytes) -> str:
    each = [statistics.median(timed(partial(_session, data, plain=plain)) for _ in range(3)) for plain in (True, False)]
    return ", ".join(f"{seconds:.2f}" for seconds in each) + " s"


def _memory(data: bytes, shape: Sequence[int], dtype: Any) -> int:
    """Megabytes that a process holds at the most that opens a model and runs it once, beyond one that does not."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(data)
        held = [
            int(subprocess.run([sys.executable, __file__, "hold", *words], capture_output=True, check=True).stdout)
            for words in (["-"], [str(path), "x".join(map(str, shape)), str(dtype)])
        ]
    return round((held[1] - held[0]) / 2**20)


@main.command(hidden=True)
@click.argument("words", nargs=-1)
def hold(words: tuple[str, ...]) -> None:
    """Open a model, run it on zeros, and print how many bytes were held at the most."""
    if len(words) > 1:
        session = ort.InferenceSession(words[0], providers=["CPUExecutionProvider"])
        _run(session, np.zeros([int(side) for side in words[1].split("x")], words[2]))
    click.echo(most_held())


if __name__ == "__main__":
    main()
