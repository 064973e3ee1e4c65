"""What exported models are worth beside the files that they are of: the tables of docs/export.md.

    python tools/bench_export.py same MODEL.onnx... --pictures FOLDER [--count 5] [--quality fast|default] [--json FILE]
    python tools/bench_export.py cost MODEL.onnx... --pictures FOLDER [--count 10]

`same` exports each, has onnx's checker look at it, and runs both on photographs, one at a time and seven together. The
file's own outputs are held against those of the file alone in the same batches, bit for bit, and evidence against
`explain` with as many steps, photograph by photograph: the largest difference of a patch, which is a fourteenth of the
sides and at least as large as a cell of the usual cuts, and of a pixel. With `--cells` one file more is exported for
each of the cuts, which gives bits per cell, and held against the maps of `explain` on that cut's grid. Kernels round
otherwise in other batches: the file's own outputs for seven pictures are held against those one by one, and with
`--floor` so is `explain` against itself with other batches, a difference that no file has anything to do with. A model
of a fixed batch is run in that.

`cost` takes turns between plain predictions, one with its evidence, and `explain` from the decoded photograph on, and
tells all in plain predictions of the same turn: medians, and quartiles. Times to load are medians, with ONNX Runtime's
optimisations and without. Memory is what a fresh process held at the most that did nothing but open a file and run it
once, beyond one that did not; Linux alone says that. An idle machine is needed.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import onnxruntime as ort
from parts.measuring import short, timed

from onnx_evidence import DeployedModel, Explainer
from onnx_evidence.errors import EvidenceError
from onnx_evidence.export import STEPS, Asked
from onnx_evidence.export.file import export_model
from onnx_evidence.intake import as_file_takes_it
from onnx_evidence.pictures import list_images
from onnx_evidence.results import Explanation

_TOGETHER = 7
# Plain predictions in a turn, turns for a photograph, and how often a file is loaded.
_REPEATS, _TURNS, _LOADS = 9, 3, 5
# Pictures that `explain` runs together, for the floor: another number than it takes by itself.
_OTHERWISE = 3
# What a process does that only opens a file, and runs it once on an array.
_HOLD = """
import sys, numpy, onnxruntime
from parts.measuring import most_held
if sys.argv[1:]:
    session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
    session.run(None, {session.get_inputs()[0].name: numpy.load(sys.argv[2])})
print(most_held())
"""
_SAME = {
    "file": "file",
    "size": "size",
    "own": "own outputs, of 1 and of 7",
    "patch": "evidence of a patch, bits, of 1 and of 7",
    "pixel": "of a pixel",
    "cell": "of a cell",
    "largest": "largest of a patch, of a pixel",
    "share": "of a patch, share of the map's largest",
    "floor": "`explain` in other batches, a patch",
    "batches": "the file's own outputs, 7 against 1",
}
_COST = {
    "file": "file",
    "seconds": "exported in",
    "plain": "prediction",
    "evidence": "with evidence",
    "decoded": "of decoded pictures",
    "as_many": "`explain`, as many steps",
    "explain": "`explain`",
    "load_plain": "load as it is and optimised: file",
    "load_evidence": "exported",
    "held_plain": "memory, of 1 and of 7: file",
    "held_evidence": "exported",
}


def _session(source: Path | bytes, *, optimised: bool = True) -> ort.InferenceSession:
    """As whoever deploys it would open it."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if not optimised:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def _run(session: ort.InferenceSession, inputs: Any) -> list[Any]:
    return list(session.run(None, {session.get_inputs()[0].name: inputs}))


def _in_batches(session: ort.InferenceSession, inputs: Any, size: int) -> list[Any]:
    """All outputs, of batches of a size; the last one is filled up with the first pictures."""
    filled = inputs[np.arange(len(inputs) + -len(inputs) % size) % len(inputs)]
    parts = [_run(session, filled[first : first + size]) for first in range(0, len(filled), size)]
    return [np.concatenate(each)[: len(inputs)] for each in zip(*parts, strict=True)]


def _bits(array: Any) -> tuple[str, bytes]:
    return str(array.dtype), array.tobytes()


def _off(one: Any, other: Any) -> float:
    """Largest difference, as a share of the largest number."""
    apart = np.abs(one.astype(np.float64) - other.astype(np.float64)).max()
    return float(apart / max(np.abs(one.astype(np.float64)).max(), np.finfo(np.float32).tiny))


@dataclass(frozen=True)
class Compared:
    """An exported model beside the file and the explainer in batches of one size; lists have a number per picture."""

    size: int
    same: bool  # own outputs, bit for bit
    outputs: float  # largest difference of own outputs, as a share of the largest
    patch: list[float]  # bits
    pixel: list[float]  # bits


def _compared(size: int, own: Sequence[Any], given: Sequence[Any], found: Sequence[Explanation]) -> Compared:
    outputs, evidence = given[: len(own)], given[len(own)][:, 0]
    return Compared(
        size,
        all(_bits(one) == _bits(other) for one, other in zip(own, outputs, strict=True)),
        max(map(_off, own, outputs)),
        [_patch_apart(each, values) for each, values in zip(found, evidence, strict=True)],
        [_most(each.values - values) for each, values in zip(found, evidence, strict=True)],
    )


def _patch_apart(found: Explanation, evidence: Any) -> float:
    """Largest difference of what is shown of two maps: sums over patches."""
    return _most(replace(found, values=found.values - evidence).shown)


def _most(values: Any) -> float:
    return float(np.abs(values).max())


def _explainer(deployed: DeployedModel, quality: str, steps: int, **more: Any) -> Explainer:
    """With steps that are settled, as an exported model has."""
    if quality == "fast":
        return Explainer(deployed, quality="fast", most_steps=5, **more)
    return Explainer(deployed, steps=steps, most_steps=steps, **more)


def _chosen(folder: Path, count: int) -> list[Path]:
    """So many photographs, evenly spread."""
    found = list_images([folder])
    if not found:
        raise click.ClickException(f"{folder}: no pictures")
    return [found[number * len(found) // count] for number in range(min(count, len(found)))]


def _inputs(deployed: DeployedModel, pictures: Sequence[Path]) -> Any:
    """What the file is given."""
    prepared = np.stack([deployed.prepare(each)[1] for each in pictures])
    return as_file_takes_it(prepared, deployed.model.entry)


def _sizes(deployed: DeployedModel) -> list[int]:
    return [deployed.model.rows] if deployed.model.rows else [1, _TOGETHER]


# Whether they say the same


def _same(deployed: DeployedModel, quality: str, steps: int, pictures: Sequence[Path], extras: Sequence[str]) -> Any:
    """Everything that is found out of one model, as it goes into the .json."""
    explainer = _explainer(deployed, quality, steps)
    start = time.perf_counter()
    exported = export_model(explainer, Asked())
    spent = time.perf_counter() - start
    proto = onnx.load_model_from_string(exported.data)
    checked = _checked(proto)
    found = [explainer.explain(each) for each in pictures]
    inputs, sizes = _inputs(deployed, pictures), _sizes(deployed)
    file, other = _session(deployed.model.path), _session(exported.data)
    owns = [_in_batches(file, inputs, size) for size in sizes]
    compared = [
        _compared(size, own, _in_batches(other, inputs, size), found) for size, own in zip(sizes, owns, strict=True)
    ]
    return {
        "steps": explainer.settings.steps,
        "growth": exported.growth,
        "seconds": spent,
        "nodes": len(proto.graph.node),
        "checker": checked,
        "settings": {key: exported.info[key] for key in ("cuts", "background", "apart", "proof")},
        "batches": [asdict(each) for each in compared],
        "largest_patch": [_most(each.shown) for each in found],
        "largest_pixel": [_most(each.values) for each in found],
        "between_batches": max(map(_off, owns[0], owns[-1])),
        "floor": _floor(deployed, quality, steps, found) if "floor" in extras else None,
        "cells": _cells(explainer, pictures, inputs) if "cells" in extras else None,
    }


def _checked(proto: onnx.ModelProto) -> str | None:
    """What onnx's checker has against a model; None if nothing."""
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        return str(error).partition("\n")[0]
    return None


def _floor(deployed: DeployedModel, quality: str, steps: int, found: Sequence[Explanation]) -> list[float]:
    """Largest difference of a patch, for each picture, of `explain` from itself in other batches."""
    again = _explainer(deployed, quality, steps, batch_size=_OTHERWISE)
    return [_patch_apart(each, again.explain(each.photograph).values) for each in found]


def _cells(explainer: Explainer, pictures: Sequence[Path], inputs: Any) -> list[dict[str, Any]]:
    """Evidence on the grid of every cut, from a file of its own, beside the maps of `explain` there."""
    found, deployed, settings = [], explainer.deployed, explainer.settings
    for engine in explainer.engines:
        kept = {name: getattr(settings, name) for name in ("method", "background", "steps", "most_steps")}
        alone = Explainer(deployed, layer=engine.cut.name, **kept)
        session = _session(export_model(alone, Asked(cells=True)).data)
        expected = np.stack([alone.explain(each).grids[0] for each in pictures])
        apart = {
            size: np.abs(_in_batches(session, inputs, size)[-2][:, 0] - expected).max((1, 2)).tolist()
            for size in _sizes(deployed)
        }
        grid = list(expected.shape[1:])
        found.append({"cut": engine.cut.name, "grid": grid, "largest": _most(expected), "apart": apart})
    return found


def _same_row(name: str, found: dict[str, Any]) -> dict[str, str]:
    batches, cells = found["batches"], found["cells"]
    shares = [
        max(apart / max(largest, 1e-30) for apart, largest in zip(each["patch"], found["largest_patch"], strict=True))
        for each in batches
    ]
    own = ["the same" if each["same"] else f"{each['outputs']:.0e}" for each in batches]
    return {
        "file": name if found["checker"] is None else f"{name}: no valid ONNX: {found['checker']}",
        "size": f"{found['growth']:+.1%}",
        "own": ", ".join(own),
        "patch": _each(max(each["patch"]) for each in batches),
        "pixel": _each(max(each["pixel"]) for each in batches),
        "cell": ""
        if cells is None
        else _each(max(max(each["apart"][size["size"]]) for each in cells) for size in batches),
        "largest": f"{max(found['largest_patch']):.2g}, {max(found['largest_pixel']):.2g}",
        "share": _each(shares),
        "floor": "" if found["floor"] is None else _each([max(found["floor"])]),
        "batches": _each([found["between_batches"]]) if len(batches) > 1 else "",
    }


def _each(values: Iterable[float]) -> str:
    return ", ".join(f"{value:.0e}" if value else "0" for value in values)


# What it costs


def _cost(deployed: DeployedModel, quality: str, steps: int, pictures: Sequence[Path]) -> dict[str, Any]:
    """Seconds and bytes, as they go into the .json."""
    explainer = _explainer(deployed, quality, steps)
    start = time.perf_counter()
    exported = export_model(explainer, Asked())
    spent = time.perf_counter() - start
    sources: dict[str, Path | bytes] = {"plain": deployed.model.path, "evidence": exported.data}
    first = _inputs(deployed, pictures[:1])
    return {
        "steps": explainer.settings.steps,
        "growth": exported.growth,
        "seconds": spent,
        "turns": _turns(explainer, Explainer(deployed, quality=quality), exported.data, pictures),
        "load": {name: _load(each) for name, each in sources.items()},
        "held": {name: [_held(each, first, size) for size in _sizes(deployed)] for name, each in sources.items()},
    }


def _turns(
    explainer: Explainer, adaptive: Explainer, exported: bytes, pictures: Sequence[Path]
) -> dict[str, list[float]]:
    """Seconds of a plain prediction in every turn, and of all else in these."""
    deployed = explainer.deployed
    file, other, whole = _session(deployed.model.path), _session(exported), _decoded(explainer)
    spent: dict[str, list[float]] = {}
    for number, path in enumerate([pictures[0], *pictures]):
        inputs, photograph = _inputs(deployed, [path]), deployed.read(path)
        inputs = np.repeat(inputs, deployed.model.rows or 1, axis=0)
        works: dict[str, Callable[[], object]] = {
            "evidence": partial(_run, other, inputs),
            "as_many": partial(explainer.explain, photograph),
            "explain": partial(adaptive.explain, photograph),
        }
        if whole is not None:
            works["decoded"] = partial(_run, whole, np.repeat(photograph.raw[None], len(inputs), axis=0))
        for _ in range(_TURNS if number else 1):
            found = _turn(partial(_run, file, inputs), works)
            for name, value in found.items() if number else ():  # the first warms up
                spent.setdefault(name, []).append(value)
    return spent


def _turn(plain: Callable[[], object], works: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Seconds of a plain prediction; everything else in plain predictions before it and behind it."""
    before = [timed(plain) for _ in range(_REPEATS)]
    found, units = {}, list(before)
    for name, work in works.items():
        taken = timed(work)
        behind = [timed(plain) for _ in range(_REPEATS)]
        found[name] = taken / statistics.median(before + behind)
        before, units = behind, units + behind
    return {"plain": statistics.median(units), **found}


def _decoded(explainer: Explainer) -> ort.InferenceSession | None:
    """The model that takes decoded pictures; None where that cannot be exported."""
    try:
        return _session(export_model(explainer, Asked(decoded=True), pictures=1).data)
    except EvidenceError:
        return None


def _load(source: Path | bytes) -> dict[str, float]:
    """Seconds to open a file, in turn as it is and with the runtime's optimisations."""
    found: dict[str, list[float]] = {"as_it_is": [], "optimised": []}
    for _ in range(_LOADS):
        for name, each in found.items():
            each.append(timed(partial(_session, source, optimised=name == "optimised")))
    return {name: statistics.median(each) for name, each in found.items()}


def _held(source: Path | bytes, first: Any, size: int) -> int:
    """Bytes that a process holds at the most that opens a model and runs it once, beyond one that does not."""
    with tempfile.TemporaryDirectory() as folder:
        path, inputs = source, Path(folder) / "inputs.npy"
        if isinstance(path, bytes):
            (Path(folder) / "model.onnx").write_bytes(path)
            path = Path(folder) / "model.onnx"
        np.save(inputs, np.repeat(first, size, axis=0))
        return _alone(str(path.resolve()), str(inputs)) - _alone()


def _alone(*words: str) -> int:
    command = [sys.executable, "-c", _HOLD, *words]
    return int(subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, check=True).stdout)


def _cost_row(name: str, found: dict[str, Any]) -> dict[str, str]:
    turns, held = found["turns"], found["held"]
    ratios = {each: _quartiles(turns[each]) for each in ("evidence", "decoded", "as_many", "explain") if each in turns}
    return {
        "file": name,
        "seconds": f"{found['seconds']:.0f} s",
        "plain": f"{short(1000 * statistics.median(turns['plain']))} ms",
        **{each: ratios.get(each, "") for each in ("evidence", "decoded", "as_many", "explain")},
        **{f"load_{each}": _seconds(found["load"][each]) for each in held},
        **{f"held_{each}": ", ".join(f"{size / 2**20:,.0f}" for size in held[each]) + " MB" for each in held},
    }


def _quartiles(ratios: Sequence[float]) -> str:
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    return f"{short(middle)} ({short(low)} to {short(high)})"


def _seconds(load: dict[str, float]) -> str:
    return f"{load['as_it_is']:.2f}, {load['optimised']:.2f} s"


# Commands


@click.group()
def main() -> None:
    """Hold exported models against the files that they are of."""


_SHARED = [
    click.argument("models", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path)),
    click.option("--pictures", required=True, type=click.Path(exists=True, path_type=Path), help="A folder."),
    click.option(
        "--quality",
        "qualities",
        multiple=True,
        type=click.Choice(["fast", "default"]),
        default=["fast", "default"],
        show_default=True,
    ),
    click.option("--steps", type=click.IntRange(min=2), default=STEPS, show_default=True, help="Of the default."),
    click.option("--preprocess", help="As of 'explain'."),
    click.option("--json", "out", type=click.Path(path_type=Path), help="Where all numbers go, too."),
]


def _options(command: Any) -> Any:
    for option in reversed(_SHARED):
        command = option(command)
    return command


@main.command()
@_options
@click.option("--count", type=click.IntRange(min=1), default=5, show_default=True, help="Photographs.")
@click.option("--cells", "extras", flag_value="cells", multiple=True, help="Bits per cell, too.")
@click.option("--floor", "extras", flag_value="floor", multiple=True, help="`explain` against itself, too.")
def same(pictures: Path, count: int, extras: tuple[str, ...], **given: Any) -> None:
    """Print how far outputs and evidence of exported MODELS are from those of the files, and of `explain`."""
    _tell(_SAME, partial(_same, pictures=_chosen(pictures, count), extras=extras), _same_row, **given)


@main.command()
@_options
@click.option("--count", type=click.IntRange(min=1), default=10, show_default=True, help="Photographs.")
def cost(pictures: Path, count: int, **given: Any) -> None:
    """Print what a prediction with its evidence takes, in plain predictions taken in turn with it."""
    _tell(_COST, partial(_cost, pictures=_chosen(pictures, count)), _cost_row, **given)


def _tell(
    head: dict[str, str],
    measure: Callable[..., dict[str, Any]],
    row: Callable[[str, dict[str, Any]], dict[str, str]],
    models: Sequence[Path],
    qualities: Sequence[str],
    steps: int,
    preprocess: str | None,
    out: Path | None,
) -> None:
    """Measure all models, and print a row for each as soon as it is there; what is refused is told, too."""
    click.echo(f"| {' | '.join(head.values())} |\n{'|---' * len(head)}|")
    told: list[dict[str, Any]] = []
    for path, quality in product(models, qualities):
        name = path.stem + (", fast" if quality == "fast" else f", {steps} steps")
        try:
            with DeployedModel(path, preprocess=preprocess, device="cpu") as deployed:
                found = measure(deployed, quality, steps)
            cells = row(name, found)
        except EvidenceError as error:
            found, cells = {"refused": str(error)}, {"file": f"{name}: refused: {error}"}
        told.append({"file": path.name, "quality": quality, **found})
        click.echo(f"| {' | '.join(cells.get(key, '') for key in head)} |")
        if out is not None:
            out.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
