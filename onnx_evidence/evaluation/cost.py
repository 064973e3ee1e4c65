"""What maps cost here, and where the time goes: in milliseconds, and in plain passes of the model taken beside it."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, TypeVar

import numpy as np

from onnx_evidence.deployed import DeployedModel
from onnx_evidence.evidence import generator, natural_noise
from onnx_evidence.explainer import Explainer
from onnx_evidence.files import available_threads
from onnx_evidence.pictures import Photograph
from onnx_evidence.preprocessing import MARGIN
from onnx_evidence.results import write_figure
from onnx_evidence.sessions import Session, convolution_rate, watched
from onnx_evidence.types import Features, Pixels

T = TypeVar("T")

# What there is to do, in order, and in words.
STAGES = {
    "read": "picture to input",
    "file": "the file's answer",
    "head": "passes to the cuts",
    "steps": "passes behind them",
    "arithmetic": "arithmetic",
    "drawing": "figure",
    "packing": "map as .npz",
}
# Of these, what ONNX Runtime does.
_INSIDE = ("file", "head", "steps")
_BATCHES = (1, 4, 16)
_PLAIN = 3


@dataclass(frozen=True)
class _Run:
    """One map, timed: seconds by stage, of one plain pass beside it, and how many steps it took."""

    stages: dict[str, float]
    plain: float
    steps: int

    @property
    def seconds(self) -> float:
        return sum(self.stages.values())

    @property
    def undrawn(self) -> "_Run":
        """The same without a figure."""
        return replace(self, stages={**self.stages, "drawing": 0.0})


def measure_cost(
    path: Path,
    image: Path | None,
    opening: Mapping[str, Any],
    qualities: Sequence[str],
    *,
    repeats: int,
    pictures: int,
    done: Callable[[int], object] = lambda count: None,
) -> dict[str, Any]:
    """Open a model, explain a picture several times, and tell what it takes; qualities and plain passes interleaved.

    Parameters
    ----------
    path : Path
        The .onnx file.
    image : Path or None
        A picture; None for smooth noise of the input's size.
    opening : mapping
        Keyword arguments of `DeployedModel`.
    qualities : sequence of str
        Of `QUALITIES`.
    repeats : int
        Maps of each quality.
    pictures : int
        That the forecast is for.
    done : callable
        Called after every map.

    Returns
    -------
    dict
        Plain values: times in milliseconds, medians; ``plain_passes`` are medians of ratios.

    Raises
    ------
    EvidenceError
        As of `Explainer`.
    """
    with ExitStack() as held:
        opened, deployed = _timed(lambda: held.enter_context(DeployedModel(path, **opening)))
        picture: Path | Photograph = image or deployed.read(_noise(deployed))
        inputs = deployed.prepare(picture)[1][None]
        explainers, ready = {}, {}
        for quality in qualities:
            ready[quality], explainer = _timed(partial(Explainer, deployed, quality=quality))
            explainers[quality] = held.enter_context(explainer)
        runs: dict[str, list[_Run]] = {quality: [] for quality in qualities}
        for number in range(repeats + 1):
            for quality, explainer in explainers.items():
                run = _run(explainer, picture, inputs)
                runs[quality] += [run] * (number > 0)  # the first warms up
                done(1)
        plain = median(run.plain for each in runs.values() for run in each)
        threads = _threads(deployed, inputs)
        return {
            "model": str(path),
            "device": deployed.device.name,
            "elsewhere": deployed.elsewhere,
            "threads": available_threads(),
            "opening_ms": opened * 1000,
            "plain_ms": plain * 1000,
            "multiply_adds": deployed.graph.total_cost,
            "rate": deployed.graph.total_cost / plain,
            "rate_of_convolution": convolution_rate(deployed.device),
            "stages": STAGES,
            "qualities": {
                quality: {"ready_ms": ready[quality] * 1000, **_told(explainers[quality], each)}
                for quality, each in runs.items()
            },
            "batches_ms": _batches(deployed, inputs),
            "threads_ms": threads,
            "pictures": pictures,
            "forecast": {quality: _forecast(each, pictures, threads) for quality, each in runs.items()},
            "forecast_without_figures": {
                quality: _forecast([run.undrawn for run in each], pictures, threads) for quality, each in runs.items()
            },
        }


def _noise(deployed: DeployedModel) -> Pixels | Features:
    """A smooth picture of the input's size, or the input itself where nothing is done to pictures."""
    size = deployed.model.input_shape[1:]
    if deployed.preprocess.color == "INPUT":
        return deployed.model.entry.ranges[0].noise(size, 0, margin=MARGIN)
    shares = np.clip(0.5 + natural_noise((3, *size), generator(0)), 0, 1)
    return np.asarray(255 * shares.transpose(1, 2, 0), np.uint8)


def _timed(work: Callable[[], T]) -> tuple[float, T]:
    start = perf_counter()
    found = work()
    return perf_counter() - start, found


def _run(explainer: Explainer, picture: Path | Photograph, inputs: Features) -> _Run:
    deployed = explainer.deployed
    with watched() as spent:
        reading, _ = _timed(lambda: deployed.prepare(picture))
        whole, found = _timed(lambda: explainer.explain(picture))
    drawing, _ = _timed(lambda: write_figure(found.figure(again=True), BytesIO()))
    packing, _ = _timed(found.packed)
    plain = median(_timed(lambda: deployed.session.run(inputs))[0] for _ in range(_PLAIN))
    inside = sum(spent.values())
    file, head = spent.get("file", 0.0), spent.get("head", 0.0)
    arithmetic = whole - inside - reading
    parts = reading, file, head, inside - file - head, arithmetic, drawing, packing
    return _Run(dict(zip(STAGES, parts, strict=True)), plain, sum(each.steps for each in found.budgets))


def _told(explainer: Explainer, runs: Sequence[_Run]) -> dict[str, Any]:
    """Medians of one quality."""
    stages = {name: median(run.stages[name] for run in runs) for name in STAGES}
    made = [(run.seconds - run.stages["drawing"] - run.stages["packing"]) / run.plain for run in runs]
    return {
        "method": explainer.settings.method,
        "cuts": [engine.cut.name for engine in explainer.engines],
        "steps": median(run.steps for run in runs),
        "ms": median(run.seconds for run in runs) * 1000,
        "stages_ms": {name: seconds * 1000 for name, seconds in stages.items()},
        # Of the map alone: drawn and packed is what was made.
        "plain_passes": median(made),
        "plain_passes_from_to": [min(made), max(made)],
    }


def _batches(deployed: DeployedModel, inputs: Features) -> dict[str, float]:
    """Milliseconds of a plain pass for each picture of a batch, where the model takes several at once."""
    if deployed.model.batch is not None:
        return {}
    return {str(count): _plain(deployed.session, np.repeat(inputs, count, axis=0)) / count * 1000 for count in _BATCHES}


def _threads(deployed: DeployedModel, inputs: Features) -> dict[str, float]:
    """Milliseconds of a plain pass with one thread and with all; empty where not the processor computes."""
    every = available_threads()
    if not deployed.device.plain or every == 1:
        return {}
    model, folder = deployed.graph.whole(), deployed.model.path.parent
    alone = Session(model, deployed.device, batch=deployed.model.batch, threads=1, folder=folder)
    return {"1": _plain(alone, inputs) * 1000, str(every): _plain(deployed.session, inputs) * 1000}


def _plain(session: Session, batch: Features) -> float:
    session.run(batch)
    return median(_timed(lambda: session.run(batch))[0] for _ in range(_PLAIN))


def _forecast(runs: Sequence[_Run], pictures: int, threads: dict[str, float]) -> dict[str, float]:
    """Seconds for so many pictures: by one process, and at best by one for every processor (``--workers``)."""
    whole = median(run.seconds for run in runs)
    found = {"1": whole * pictures}
    if threads and pictures >= int(max(threads, key=int)):
        inside = median(sum(run.stages[name] for name in _INSIDE) for run in runs)
        count = max(threads, key=int)
        # What threads of one process lose by waiting for each other, processes do not; all else has one thread.
        lost = min(1.0, max(1 / int(count), threads["1"] / threads[count] / int(count)))
        found[count] = (inside * lost + (whole - inside) / int(count)) * pictures
    return found
