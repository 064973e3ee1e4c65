"""Time `explain` on a folder of pictures: per picture, outside model runs, and against pixel space.

Prints ratios taken in one run: seconds mean little on a shared machine. The pixel-space twin removes the
same number of windows with the same number of samples from the picture instead of the features, each
window being the pixels that the hidden one stands for, so its passes are passes of the whole model.
"""

import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click
import numpy as np

from onnx_evidence import DeployedModel, Explainer
from onnx_evidence.difference import remove_windows
from onnx_evidence.images import list_images
from onnx_evidence.prepared import PreparedCut
from onnx_evidence.runtime import Classifier, Session
from onnx_evidence.samplers import MeanSampler
from onnx_evidence.types import AnyArray, Features
from onnx_evidence.windows import Windows


class _Repeated(MeanSampler):
    """The picture's mean, drawn as often as asked: the cost of sampling without its arithmetic."""

    deterministic = False


class _Stopwatch:
    """Adds up the time that sessions spend in model runs."""

    def __init__(self) -> None:
        self.seconds = 0.0
        run = Session.run

        def timed(session: Session, batch: AnyArray) -> AnyArray:
            start = time.perf_counter()
            try:
                return run(session, batch)
            finally:
                self.seconds += time.perf_counter() - start

        Session.run = timed  # type: ignore[method-assign, assignment]


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _all_in_pixels(explainer: Explainer, inputs: Features) -> None:
    for prepared in explainer.cuts:
        _in_pixels(explainer, prepared, inputs)


def _in_pixels(explainer: Explainer, prepared: PreparedCut, inputs: Features) -> None:
    """Remove the same windows with as many samples as ``prepared`` does, but from the picture."""
    size = explainer.deployed.model.input_shape[1:]
    pitch = [pixels // cells for pixels, cells in zip(size, prepared.windows.grid, strict=True)]
    (height, width), (rows, cols) = prepared.windows.size, (prepared.windows.rows, prepared.windows.cols)
    windows = Windows(
        size,
        (height * pitch[0], width * pitch[1]),
        tuple(row * pitch[0] for row in rows),
        tuple(col * pitch[1] for col in cols),
    )
    predict = Classifier(explainer.deployed.session)
    remove_windows(inputs, predict, _Repeated(), windows, [0], samples=prepared.samples)


@click.command()
@click.argument("model", type=click.Path(exists=True, path_type=Path))
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@click.option("--background", default="mean", show_default=True)
@click.option("--limit", default=20, show_default=True, help="How many pictures, spread over the folder.")
@click.option("--device", default="auto", show_default=True)
def main(model: Path, folder: Path, background: str, limit: int, device: str) -> None:
    """Time MODEL's explanations of the pictures in FOLDER."""
    paths = list_images([folder])
    paths = paths[:: max(1, len(paths) // limit)][:limit]
    stopwatch = _Stopwatch()  # before any session is made, so that none escapes it
    explainer = Explainer(DeployedModel(model, device=device), background=background)
    explainer.explain(paths[0])  # warm-up
    whole, outside, ratios = [], [], []
    for path in paths:
        stopwatch.seconds = 0.0
        whole.append(_timed(partial(explainer.explain, path)))
        outside.append(1 - stopwatch.seconds / whole[-1])
        _, inputs, _ = explainer.deployed.prepare(path)
        pixels = _timed(partial(_all_in_pixels, explainer, inputs))
        ratios.append(pixels / whole[-1])
    plain = np.median([_timed(lambda: explainer.deployed.session.run(inputs[None])) for _ in range(20)])
    copies = sum(prepared.copies for prepared in explainer.cuts)
    tails = sum(prepared.copies * prepared.cut.tail_share for prepared in explainer.cuts)
    click.echo(
        f"{len(paths)} pictures, device {explainer.deployed.device.name}, {explainer.background}\n"
        f"cuts {', '.join(prepared.cut.name for prepared in explainer.cuts)}: {copies} edited copies per picture\n"
        f"seconds per picture: median {statistics.median(whole):.3f} (from {min(whole):.3f} to {max(whole):.3f})\n"
        f"in plain forward passes: {statistics.median(whole) / plain:.0f}\n"
        f"share of the time outside head and tail passes: {statistics.median(outside):.1%}\n"
        f"same windows and samples in pixel space take {statistics.median(ratios):.2f} times as long "
        f"(multiply-adds alone: {copies / tails:.2f})"
    )


if __name__ == "__main__":
    main()
