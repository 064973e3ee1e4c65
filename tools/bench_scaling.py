"""How the cost of a map grows: `cost` with five sizes, `memory` what opening and explaining take at the most.

`cost` grows the input's side, the number of cuts, of steps, of classes asked and of pictures, each alone. Sides are
those of one network: MODEL, which must end in global pooling, with other numbers of rows and columns written into its
file and into its preprocessing, at the same cuts. Cuts are six neighbours of one grid of the default's, those whose
tails are most alike, so that one more is one more of the same. Steps are held at the first ones of a path (of which
there are two, from both backgrounds), but in the row of the default, which adds as many as the picture asks for. Which
classes are asked changes no cost: they are the first ones.

Every map is timed between plain passes of the smallest setting, and its cost is told in these. A repeat measures
everything once, on pictures of its own; each repeat gives an exponent, the slope of log cost against log size by least
squares. Told are the median and the range of all repeats. An exponent below 1 says that something is done once for
all; that of the side is 2 where cost grows with the pixels, and the model's own plain pass stands beside it.

`memory` opens each model in a process of its own, twice: with an empty cache folder, and with that which the first has
filled. It tells what was held at the most until packages were imported, the model was ready, and one picture was
explained, and, for comparison, what ONNX Runtime alone holds to run the file once, in a process with the same imports.
Linux alone says that.
"""

import multiprocessing
import os
import statistics
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from pathlib import Path

import click
import numpy as np
import onnx
import onnxruntime as ort
from parts.measuring import exponent, most_held, short, table, timed

from onnx_evidence import DeployedModel, Explainer
from onnx_evidence.cuts import Cut
from onnx_evidence.pictures.photograph import list_images
from onnx_evidence.preprocessing import Preprocess

_SIDES = (160, 224, 320, 448, 640)
_CUTS = (1, 2, 3, 4, 6)
_STEPS = (3, 5, 9, 17, 33)
_CLASSES = (1, 2, 5, 10)
_PICTURES = (1, 2, 4, 8, 16)
# Plain passes before every map, and behind it.
_PLAIN = 3


@dataclass(frozen=True)
class Growth:
    """Something that grows, and what is timed for each of its sizes.

    Attributes
    ----------
    name : str
        What grows.
    what : str
        What is timed.
    work : mapping of int to callable
        By size, what is done with pictures.
    plain : callable
        A plain pass of the smallest setting.
    times : int
        How often it is done for one number, their median.
    """

    name: str
    what: str
    work: Mapping[int, Callable[[Sequence[Path]], object]]
    plain: Callable[[], object]
    times: int = 1

    def costs(self, paths: Sequence[Path]) -> list[float]:
        """Costs of all sizes in plain passes, each beside its own: as many before it as behind it."""
        found = []
        for work in self.work.values():
            before = [timed(self.plain) for _ in range(_PLAIN)]
            taken = statistics.median(timed(partial(work, paths)) for _ in range(self.times))
            unit = statistics.median(before + [timed(self.plain) for _ in range(_PLAIN)])
            found.append(taken / unit)
        return found


# Networks of other sides


def _resized(model: Path, side: int, folder: Path) -> Path:
    """The same network for pictures of another side."""
    proto = onnx.load(model)
    weights = {each.name for each in proto.graph.initializer}
    (given,) = (each for each in proto.graph.input if each.name not in weights)
    _, channels, *sides = given.type.tensor_type.shape.dim
    if len(sides) != 2 or channels.dim_value > 4:
        raise click.ClickException(f"{model}: the input is no N x channels x rows x columns")
    for each in sides:
        each.dim_value = side
    del proto.graph.value_info[:]
    try:
        onnx.checker.check_model(proto, full_check=True)
    except onnx.shape_inference.InferenceError as error:
        raise click.ClickException(f"{model}: takes no {side} x {side}: it must end in global pooling") from error
    path = folder / f"{model.stem}-{side}.onnx"
    onnx.save(proto, path)
    return path


def _preprocess(known: Preprocess, side: int) -> Preprocess:
    """The same for another side: as much of the picture is seen."""
    before = known.size[0]
    to = known.resize_to
    grown = [round(each * side / before) for each in (to if isinstance(to, tuple) else (to or before,))]
    values = {"size": (side, side), "resize_to": tuple(grown) if isinstance(to, tuple) else grown[0]}
    return Preprocess(**{**known.model_dump(), **values})


def _neighbours(cuts: Sequence[Cut], grids: Collection[tuple[int, int]], count: int) -> list[str]:
    """So many cuts in a row, of one of these grids, whose tails are most alike."""
    inside = [each for each in cuts if each.op_type != "Input" and each.tail_share > 0]
    stages = [[each for each in inside if each.grid == grid] for grid in grids]
    rows = [stage[first : first + count] for stage in stages for first in range(len(stage) - count + 1)]
    if not rows:
        raise click.ClickException(f"the model has no {count} cuts of a grid that the default takes")
    return [each.name for each in min(rows, key=lambda row: row[0].tail_share / row[-1].tail_share)]


def _with_first_steps(explainer: Explainer) -> Explainer:
    """With paths that end with their first steps, whatever they leave unaccounted: no setting goes so far."""
    explainer.engines = [
        replace(engine, settings=replace(engine.settings, completeness=inf)) for engine in explainer.engines
    ]
    return explainer


def _plain_pass(deployed: DeployedModel, path: Path) -> Callable[[], object]:
    inputs = deployed.prepare(path)[1][None]
    return lambda: deployed.session.run(inputs)


def _one_by_one(explainer: Explainer, count: int, paths: Sequence[Path]) -> None:
    for path in paths[:count]:
        explainer.explain(path)


def _of_classes(explainer: Explainer, count: int, paths: Sequence[Path]) -> None:
    explainer.explain_all(paths[0], range(count))


def _growths(deployed: DeployedModel, path: Path, folder: Path) -> Iterator[Growth]:
    """All that grows."""
    plain = _plain_pass(deployed, path)
    usual = _with_first_steps(Explainer(deployed))
    taken = [engine.cut for engine in usual.engines]
    neighbours = _neighbours(deployed.graph.cuts, {cut.grid for cut in taken}, max(_CUTS))
    yield from _of_sides(deployed, [cut.name for cut in taken], path, folder)
    by_cuts = {count: _with_first_steps(Explainer(deployed, layer=neighbours[:count])) for count in _CUTS}
    yield Growth("cuts", "a map", {size: partial(_one_by_one, each, 1) for size, each in by_cuts.items()}, plain)
    by_steps = {count: _with_first_steps(Explainer(deployed, steps=count)) for count in _STEPS}
    yield Growth("steps", "a map", {size: partial(_one_by_one, each, 1) for size, each in by_steps.items()}, plain)
    yield Growth("classes", "maps", {count: partial(_of_classes, usual, count) for count in _CLASSES}, plain)
    yield Growth("pictures", "maps", {count: partial(_one_by_one, usual, count) for count in _PICTURES}, plain)


def _of_sides(deployed: DeployedModel, layer: Sequence[str], path: Path, folder: Path) -> Iterator[Growth]:
    """Growth of the side: of the map with its first steps, of the default's, and of a plain pass."""
    models = {
        side: DeployedModel(
            _resized(deployed.model.path, side, folder), preprocess=_preprocess(deployed.preprocess, side)
        )
        for side in _SIDES
    }
    plain = {side: _plain_pass(each, path) for side, each in models.items()}
    unit = plain[min(_SIDES)]
    default = {side: Explainer(each, layer=layer) for side, each in models.items()}
    held = {side: _with_first_steps(Explainer(each, layer=layer)) for side, each in models.items()}
    for what, explainers in (("a map", held), ("the default", default)):
        work = {side: partial(_one_by_one, each, 1) for side, each in explainers.items()}
        yield Growth("side", what, work, unit)
    yield Growth(
        "side", "a plain pass", {side: partial(_without, run) for side, run in plain.items()}, unit, times=_PLAIN
    )


def _without(work: Callable[[], object], paths: Sequence[Path]) -> None:
    """Something that the pictures make no difference to."""
    work()


# What was found


@dataclass(frozen=True)
class Found:
    """Costs of a growth, by repeat and size."""

    growth: Growth
    costs: list[list[float]]

    @property
    def exponents(self) -> list[float]:
        """One per repeat."""
        return [exponent(list(self.growth.work), each) for each in self.costs]

    def row(self) -> list[str]:
        """Of the table."""
        costs = [statistics.median(each) for each in zip(*self.costs, strict=True)]
        sizes = ", ".join(map(str, self.growth.work))
        least, most = min(self.exponents), max(self.exponents)
        slope = f"{statistics.median(self.exponents):.2f} ({least:.2f} to {most:.2f})"
        return [self.growth.name, self.growth.what, sizes, ", ".join(map(short, costs)), slope]


def _draw(found: Sequence[Found], out: Path) -> None:
    """A panel for everything that grows: median costs, a band over all repeats, and the exponents."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

    names = list(dict.fromkeys(each.growth.name for each in found))
    figure = Figure(figsize=(2.5 * len(names), 2.9), dpi=100, layout="constrained")
    for axis, name in zip(figure.subplots(1, len(names), squeeze=False, sharey=True)[0], names, strict=True):
        for each in (each for each in found if each.growth.name == name):
            sizes = list(each.growth.work)
            low, middle, high = np.quantile(each.costs, [0, 0.5, 1], axis=0)
            label = f"{each.growth.what}: {statistics.median(each.exponents):.2f}"
            axis.plot(sizes, middle, marker="o", ms=3, label=label)
            axis.fill_between(sizes, low, high, alpha=0.15)
        axis.set(title=name, xscale="log", yscale="log")
        axis.xaxis.set(
            major_locator=FixedLocator(sizes), minor_locator=NullLocator(), major_formatter=ScalarFormatter()
        )
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7, title="exponent", title_fontsize=7, loc="upper left")
    figure.axes[0].set(ylabel="cost, plain passes", ylim=(None, 6 * figure.axes[0].get_ylim()[1]))  # the legend's room
    figure.savefig(out, metadata={"Software": None})


# Memory


def _memory_of(model: Path, image: Path, preprocess: str | None, quality: str) -> list[int]:
    """In a process of its own: bytes held at most when all is imported, when a model is ready, and after a map."""
    found = [most_held()]
    with DeployedModel(model, preprocess=preprocess) as deployed, Explainer(deployed, quality=quality) as explainer:
        found.append(most_held())
        explainer.explain(image)
        found.append(most_held())
    return found


def _memory_of_runtime(model: Path) -> list[int]:
    """In a process of its own: bytes held at most when ONNX Runtime has run the file once, with nothing of ours."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    shape = [side if isinstance(side, int) else 1 for side in given.shape]
    session.run(None, {given.name: np.zeros(shape, np.float32)})
    return [most_held()]


def _alone(work: Callable[[], list[int]]) -> list[int]:
    """In a process that nothing else has been done in."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work).result()


@contextmanager
def _empty_cache() -> Iterator[None]:
    """Inside, processes that are started find an empty folder where measured things are kept."""
    before = os.environ.get("XDG_CACHE_HOME")
    with tempfile.TemporaryDirectory() as place:
        os.environ["XDG_CACHE_HOME"] = place
        try:
            yield
        finally:
            del os.environ["XDG_CACHE_HOME"]
            if before is not None:
                os.environ["XDG_CACHE_HOME"] = before


@click.group()
def main() -> None:
    """How the cost of a map grows with its sizes, and how much memory it takes."""


_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_with_preprocess = click.option("--preprocess", help="As of 'explain'.")


@main.command()
@click.argument("model", type=_FILE)
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@_with_preprocess
@click.option("--repeats", default=9, show_default=True, help="Each on pictures of its own.")
@click.option("--figure", type=click.Path(path_type=Path), help="PNG to draw.")
def cost(model: Path, folder: Path, preprocess: str | None, repeats: int, figure: Path | None) -> None:
    """Measure how the cost of MODEL's maps of pictures in FOLDER grows."""
    paths = list_images([folder])
    most = max(_PICTURES)
    if len(paths) < most:
        raise click.ClickException(f"{folder}: {len(paths)} pictures, {most} are needed")
    with tempfile.TemporaryDirectory() as place:
        growths = list(_growths(DeployedModel(model, preprocess=preprocess), paths[0], Path(place)))
        costs: list[list[list[float]]] = [[] for _ in growths]
        for repeat in range(repeats + 1):
            some = [paths[(repeat * most + each) % len(paths)] for each in range(most)]
            for growth, found in zip(growths, costs, strict=True):
                measured = growth.costs(some)
                found += [measured] * (repeat > 0)  # the first warms up
            click.echo(f"repeat {repeat} of {repeats}", err=True)
    all_found = [Found(growth, each) for growth, each in zip(growths, costs, strict=True)]
    click.echo(f"{model.stem}, {repeats} repeats: medians, and exponents from the least to the most\n")
    head = ["grows", "timed", "sizes", "plain passes", "exponent"]
    click.echo(table(head, *(each.row() for each in all_found)))
    if figure is not None:
        _draw(all_found, figure)


@main.command()
@click.argument("image", type=_FILE)
@click.argument("models", type=_FILE, nargs=-1, required=True)
@_with_preprocess
@click.option("--quality", default="default", show_default=True)
@click.option("--repeats", default=1, show_default=True, help="Told is the most of all.")
def memory(image: Path, models: tuple[Path, ...], preprocess: str | None, quality: str, repeats: int) -> None:
    """Tell what MODELS hold at the most, in MB, until they are ready and IMAGE is explained."""
    rows = []
    for model in models:
        times: list[list[int]] = []
        for _ in range(repeats):
            with _empty_cache():
                work = partial(_memory_of, model, image, preprocess, quality)
                times.append([*_alone(partial(_memory_of_runtime, model)), *_alone(work), *_alone(work)])
        most = [f"{max(each) / 1e6:,.0f}" for each in zip(*times, strict=True)]
        rows.append([model.stem, f"{model.stat().st_size / 1e6:,.0f}", *most[:4], *most[5:]])
    head = [
        "model",
        "file, MB",
        "ONNX Runtime alone",
        "imported",
        "ready",
        "one picture",
        "ready again",
        "one picture again",
    ]
    click.echo(table(head, *rows))


if __name__ == "__main__":
    main()
