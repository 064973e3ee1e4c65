"""Time `explain` on a folder of pictures: the default and `--method window`, in plain forward passes.

Prints ratios taken in one run, each picture's measurements side by side: seconds mean little on a shared machine. The
pixel-space twin of window removal removes the same number of windows with the same number of samples from the
picture instead of the features, each window being the pixels that the hidden one stands for, so its passes are
passes of the whole model.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import click

from onnx_evidence import DeployedModel, Explainer
from onnx_evidence.evidence.difference import remove_windows
from onnx_evidence.evidence.samplers import MeanSampler
from onnx_evidence.evidence.windows import Windows
from onnx_evidence.methods.removal import RemovalEngine
from onnx_evidence.pictures.photograph import list_images
from onnx_evidence.sessions import Classifier, watched
from onnx_evidence.types import Features

# Plain forward passes per picture and method.
_PLAIN = 5


class _Repeated(MeanSampler):
    """The picture's mean, drawn as often as asked: the cost of sampling without its arithmetic."""

    deterministic = False


@dataclass
class _Times:
    """What was measured of one method, a number per picture."""

    explainer: Explainer
    seconds: list[float] = field(default_factory=list)
    plain: list[float] = field(default_factory=list)
    outside: list[float] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)

    def measure(self, path: Path) -> None:
        """Explain one picture, and run the model on it as often as takes a steady median."""
        start = time.perf_counter()
        with watched() as spent:
            explanation = self.explainer.explain(path)
        self.seconds.append(time.perf_counter() - start)
        self.outside.append(1 - sum(spent.values()) / self.seconds[-1])
        self.steps.append(explanation.budget.steps if explanation.budget else self.explainer.rows())
        deployed = self.explainer.deployed
        inputs = deployed.prepare(path)[1][None]
        self.plain += [_timed(lambda: deployed.session.run(inputs)) for _ in range(_PLAIN)]

    def report(self) -> str:
        """The medians, in words."""
        middle = statistics.median(self.seconds)
        cuts = ", ".join(engine.cut.name for engine in self.explainer.engines)
        return (
            f"method {self.explainer.settings.method}, replaced by {self.explainer.background}; cuts {cuts}\n"
            f"  seconds per picture: median {middle:.3f} (from {min(self.seconds):.3f} to {max(self.seconds):.3f})\n"
            f"  in plain forward passes of one picture: {middle / statistics.median(self.plain):.0f}\n"
            f"  gradient steps, or edited copies, per picture: median {statistics.median(self.steps):.0f} "
            f"(from {min(self.steps)} to {max(self.steps)})\n"
            f"  share of the time outside model runs: {statistics.median(self.outside):.1%}"
        )


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _all_in_pixels(explainer: Explainer, inputs: Features) -> None:
    for engine in _removals(explainer):
        _in_pixels(explainer, engine, inputs)


def _removals(explainer: Explainer) -> list[RemovalEngine]:
    return [engine for engine in explainer.engines if isinstance(engine, RemovalEngine)]


def _in_pixels(explainer: Explainer, engine: RemovalEngine, inputs: Features) -> None:
    """Remove the same windows with as many samples as ``engine`` does, but from the picture."""
    size = explainer.deployed.model.input_shape[1:]
    pitch = [pixels // cells for pixels, cells in zip(size, engine.windows.grid, strict=True)]
    (height, width), (rows, cols) = engine.windows.size, (engine.windows.rows, engine.windows.cols)
    windows = Windows(
        size,
        (height * pitch[0], width * pitch[1]),
        tuple(row * pitch[0] for row in rows),
        tuple(col * pitch[1] for col in cols),
    )
    predict = Classifier(explainer.deployed.session)
    remove_windows(inputs, predict, _Repeated(), windows, [0], samples=engine.samples)


@click.command()
@click.argument("model", type=click.Path(exists=True, path_type=Path))
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@click.option("--background", default="mean", show_default=True, help="Of --method window.")
@click.option("--limit", default=20, show_default=True, help="How many pictures, spread over the folder.")
@click.option("--device", default="auto", show_default=True)
def main(model: Path, folder: Path, background: str, limit: int, device: str) -> None:
    """Time MODEL's explanations of the pictures in FOLDER."""
    paths = list_images([folder])
    paths = paths[:: max(1, len(paths) // limit)][:limit]
    deployed = DeployedModel(model, device=device)
    default, windows = (
        _Times(Explainer(deployed)),
        _Times(Explainer(deployed, method="window", background=background)),
    )
    for times in (default, windows):
        times.explainer.explain(paths[0])  # warm-up
    ratios = []
    for path in paths:
        default.measure(path)
        windows.measure(path)
        inputs = deployed.prepare(path)[1]
        ratios.append(_timed(partial(_all_in_pixels, windows.explainer, inputs)) / windows.seconds[-1])
    removals = _removals(windows.explainer)
    copies = sum(engine.copies for engine in removals)
    tails = sum(engine.copies * engine.cut.tail_share for engine in removals)
    click.echo(
        f"{len(paths)} pictures, device {deployed.device.name}\n{default.report()}\n{windows.report()}\n"
        f"  same windows and samples in pixel space take {statistics.median(ratios):.2f} times as long "
        f"(multiply-adds alone: {copies / tails:.2f})"
    )


if __name__ == "__main__":
    main()
