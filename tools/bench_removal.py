"""What prediction difference analysis in pixels (Zintgraf 2017) takes, as a multiple of what our maps take, and why.

Per picture, side by side: plain passes of the model; the maps of quality `fast` and `default`; `--method window`, which
removes windows inside the network; its twin, which removes as many windows with as many samples from the picture, each
being the pixels that the hidden one stands for, so that its passes are of the whole model; and `--method pda` at two
settings, with the package's own sampler and batches. One is that of the published code: windows of 10 x 10 pixels at
every place, 10 samples of each. The other is as cheap as one may make it: every fourth place, 4 samples.

Neither is run in whole. Of each, as many copies are run as `--passes` says, of windows spread over the picture, and
their time is scaled to all windows: every copy costs the same. What it takes to carry windows to pixels is left out,
which is to the good of `pda`. With so many passes that all windows are run, nothing is scaled.

The second table splits the gain into three factors whose product it is, for every picture: fewer copies (PDA against
the twin, both in pixels), only the tail (the twin against windows inside, beside it what multiply-adds promise), and
gradients instead of removals (windows inside against the default). The last is no gain of time by design and may be
below 1: windows are removed at the two deepest stages alone, gradients are taken at more, from two backgrounds.
"""

import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import click
import numpy as np
from parts.measuring import short, spread, table, timed

from onnx_evidence import DeployedModel, Explainer
from onnx_evidence.evidence.difference import Draws, remove_windows
from onnx_evidence.evidence.samplers import MeanSampler
from onnx_evidence.evidence.windows import Windows
from onnx_evidence.methods import fit_background, save_background
from onnx_evidence.methods.removal import RemovalEngine
from onnx_evidence.pictures.photograph import list_images
from onnx_evidence.results import Explanation
from onnx_evidence.sessions import Classifier
from onnx_evidence.types import Features

# Plain passes beside every picture's maps.
_PLAIN = 5
# Pictures that the background of pixels is fitted from: what is drawn from changes nothing of what drawing costs.
_FITTED = 12
# Settings of PDA: pixels from window to window, and samples of each.
_PDA = {"PDA 2017": (1, 10), "PDA, stride 4": (4, 4)}
# How often as long each of them should take, at least.
_GOALS = {"PDA 2017": 1000, "PDA, stride 4": 100}


class _Repeated(MeanSampler):
    """The picture's mean, drawn as often as asked: the cost of sampling without its arithmetic."""

    deterministic = False


@dataclass(frozen=True)
class _Sample:
    """A removal of pixels, of which some windows are run, spread over the picture."""

    engine: RemovalEngine
    passes: int

    @classmethod
    def of(cls, explainer: Explainer, passes: int) -> "_Sample":
        """Of a method that works on pixels."""
        (engine,) = _removals(explainer)
        return cls(engine, passes)

    @cached_property
    def sites(self) -> list[tuple[int, int]]:
        """The windows that are run."""
        every = list(self.engine.windows.sites())
        count = min(len(every), -(-self.passes // self.engine.samples))
        return [every[index] for index in np.linspace(0, len(every) - 1, count).round().astype(int)]

    def seconds(self, inputs: Features) -> float:
        """What all windows take, as far as those that are run tell."""
        engine = self.engine
        how = (0,), engine.settings.batch_size, lambda copies: None
        draws = Draws(inputs, engine.tail, engine.sampler, engine.windows.size, [0], *how)
        taken = timed(lambda: draws.run(self.sites, 0, engine.samples))
        return taken * len(engine.windows) / len(self.sites)


@dataclass
class _Bench:
    """All that is measured of a model."""

    deployed: DeployedModel
    maps: dict[str, Explainer]
    samples: dict[str, _Sample]

    @classmethod
    def of(cls, deployed: DeployedModel, background: str, fitted: Path, passes: int) -> "_Bench":
        """With everything opened."""
        maps = {quality: Explainer(deployed, quality=quality) for quality in ("fast", "default")}
        maps["window"] = Explainer(deployed, method="window", background=background)
        pda = partial(Explainer, deployed, method="pda", background=str(fitted))
        samples = {
            name: _Sample.of(pda(stride=stride, samples=samples), passes) for name, (stride, samples) in _PDA.items()
        }
        return cls(deployed, maps, samples)

    @property
    def removals(self) -> list[RemovalEngine]:
        """Windows inside the network."""
        return _removals(self.maps["window"])

    def measure(self, path: Path) -> tuple[dict[str, float], int]:
        """Seconds of everything for one picture, and the gradients of the default."""
        inputs = self.deployed.prepare(path)[1]
        plain = [timed(lambda: self.deployed.session.run(inputs[None])) for _ in range(_PLAIN)]
        found = {"plain": statistics.median(plain)}
        made: dict[str, Explanation] = {}
        for name, explainer in self.maps.items():
            start = time.perf_counter()
            made[name] = explainer.explain(path)
            found[name] = time.perf_counter() - start
        found["twin"] = timed(partial(self._twin, inputs))
        found |= {name: sample.seconds(inputs) for name, sample in self.samples.items()}
        return found, sum(each.steps for each in made["default"].budgets)

    def _twin(self, inputs: Features) -> None:
        """Remove the same windows with as many samples as inside, but from the picture."""
        predict = Classifier(self.deployed.session)
        for engine in self.removals:
            windows = _windows_of_pixels(engine.windows, self.deployed.model.input_shape[1:])
            remove_windows(inputs, predict, _Repeated(), windows, [0], samples=engine.samples)


def _removals(explainer: Explainer) -> list[RemovalEngine]:
    return [engine for engine in explainer.engines if isinstance(engine, RemovalEngine)]


def _windows_of_pixels(inside: Windows, size: tuple[int, int]) -> Windows:
    """Windows of the pixels that hidden ones stand for."""
    down, right = (pixels // cells for pixels, cells in zip(size, inside.grid, strict=True))
    height, width = inside.size
    rows, cols = tuple(row * down for row in inside.rows), tuple(col * right for col in inside.cols)
    return Windows(size, (height * down, width * right), rows, cols)


def _gains(name: str, seconds: Sequence[dict[str, float]], steps: Sequence[int]) -> str:
    """How often as long PDA takes as our maps."""
    cells = {f"{each}, plain passes": _ratio(seconds, each, "plain") for each in ("fast", "default")}
    cells["gradients of default"] = f"{statistics.median(steps):.0f} ({min(steps)} to {max(steps)})"
    for pda, goal in _GOALS.items():
        for each in ("default", "fast"):
            cells[f"{pda} / {each} (goal {goal:,})"] = _ratio(seconds, pda, each)
    return table(["model", *cells], [name, *cells.values()])


def _factors(name: str, bench: _Bench, seconds: Sequence[dict[str, float]]) -> str:
    """Where the gain over the published setting comes from."""
    pda, copies = "PDA 2017", sum(engine.copies for engine in bench.removals)
    tails = sum(engine.copies * engine.cut.tail_share for engine in bench.removals)
    every = bench.samples[pda].engine.copies
    factors = [
        ("fewer copies", pda, "twin", f"; {every:,} / {copies:,} = {short(every / copies)}"),
        (
            "only the tail",
            "twin",
            "window",
            f"; tails keep {tails / copies:.0%} of the multiply-adds: {short(copies / tails)}",
        ),
        ("gradients instead of removals", "window", "default", ""),
        (f"together: {pda} / default", pda, "default", ""),
    ]
    cells = [f"{_ratio(seconds, slow, quick)}{counted}" for _, slow, quick, counted in factors]
    return table(["model", *(title for title, *_ in factors)], [name, *cells])


def _ratio(seconds: Sequence[dict[str, float]], slow: str, quick: str) -> str:
    return spread([taken[slow] / taken[quick] for taken in seconds])


@click.command()
@click.argument("model", type=click.Path(exists=True, path_type=Path))
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@click.option("--preprocess", help="As of 'explain'.")
@click.option("--background", default="mean", show_default=True, help="Of --method window.")
@click.option("--passes", default=2000, show_default=True, help="Copies of a picture run for each setting of PDA.")
@click.option("--limit", default=20, show_default=True, help="How many pictures, spread over the folder.")
@click.option("--device", default="auto", show_default=True)
def main(
    model: Path, folder: Path, preprocess: str | None, background: str, passes: int, limit: int, device: str
) -> None:
    """Time removal in pixels beside MODEL's maps of the pictures in FOLDER."""
    every = list_images([folder])
    paths = every[:: max(1, len(every) // limit)][:limit]
    deployed = DeployedModel(model, preprocess=preprocess, device=device)
    with tempfile.TemporaryDirectory() as place:
        fitted = Path(place) / "pixels.npz"
        some = every[:: max(1, len(every) // _FITTED)][:_FITTED]
        save_background(fitted, fit_background(deployed, deployed.model.input_name, some))
        bench = _Bench.of(deployed, background, fitted, passes)
    bench.measure(paths[0])  # warm-up
    found = [bench.measure(path) for path in paths]
    seconds, steps = [taken for taken, _ in found], [each for _, each in found]
    run = {name: (len(each.sites) * each.engine.samples, each.engine.copies) for name, each in bench.samples.items()}
    told = ", ".join(f"{name} from {part:,} of {whole:,} copies" for name, (part, whole) in run.items())
    click.echo(f"{len(paths)} pictures, device {deployed.device.name}; medians (least to most); {told} of each\n")
    click.echo(f"{_gains(model.stem, seconds, steps)}\n\n{_factors(model.stem, bench, seconds)}")


if __name__ == "__main__":
    main()
