"""A long folder: pictures per second, memory over time, and what the batch machinery costs.

The pictures of a folder are repeated under new names, each a little changed, until there are enough. What a bare loop
does too (read and explain, pack the map, draw the figure) is timed inside the run; the rest is the machinery's: hashes,
files that are safe, receipts, the manifest. So both are of the same moment, which a shared machine needs.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np

from onnx_evidence import DeployedModel, Explainer
from onnx_evidence.batch import fingerprint, work
from onnx_evidence.batch.folder import ResultFolder
from onnx_evidence.batch.loop import here
from onnx_evidence.batch.plan import look, make_plan
from onnx_evidence.pictures.photograph import list_images
from onnx_evidence.results.explanation import Explanation

_SPARED = 100  # pictures until memory is expected to be flat


def _repeat(sources: list[Path], folder: Path, count: int) -> None:
    """Write pictures of mixed sizes: cut by some pixels, a little brighter or darker, encoded anew."""
    folder.mkdir()
    for number in range(count):
        source = sources[number % len(sources)]
        pixels = cv2.imread(str(source))
        assert pixels is not None
        rng = np.random.default_rng(number)
        top, left = rng.integers(0, 8, 2)
        changed = np.clip(pixels[top:, left:].astype(np.int16) + rng.integers(-8, 9), 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / f"{number:05}.jpg"), changed)


class _Stopwatch:
    """Adds up the seconds of what a bare loop does too."""

    def __init__(self) -> None:
        self.seconds = 0.0
        Explainer.explain_all = self._timed(Explainer.explain_all)  # type: ignore[method-assign]
        Explanation.packed = self._timed(Explanation.packed)  # type: ignore[method-assign]
        Explanation.figure = self._timed(Explanation.figure)  # type: ignore[method-assign]
        DeployedModel.read = self._timed(DeployedModel.read)  # type: ignore[method-assign]
        work.write_figure = self._timed(work.write_figure)  # type: ignore[attr-defined]

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **options: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                self.seconds += time.perf_counter() - start

        return timed


def _resident() -> float:
    """Resident memory in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _work(explainer: Explainer, pictures: Path, out: Path) -> Iterator[tuple[float, float, float]]:
    """Per picture: seconds, those of a bare loop among them, and resident memory."""
    stopwatch = _Stopwatch()
    with ResultFolder(out, fingerprint.of_explainer(explainer)) as folder:
        start = time.perf_counter()
        items = [look(item) for item in make_plan([pictures], ["top1"], None)]
        jobs, _ = folder.plan(items, explainer)
        planned = (time.perf_counter() - start) / len(jobs)
        start = time.perf_counter()
        for outcome in here(work.Hand(explainer))(jobs, lambda number, copies: None, lambda: None):
            folder.take(outcome)
            yield time.perf_counter() - start + planned, stopwatch.seconds, _resident()
            stopwatch.seconds, start = 0.0, time.perf_counter()


def _plot(memory: list[float], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3), layout="constrained")
    axes = figure.add_subplot(xlabel="pictures", ylabel="resident memory, MB", ylim=(0, 1.2 * max(memory)))
    axes.plot(memory)
    figure.savefig(path, dpi=110, metadata={"Software": None})


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("pictures", type=click.Path(path_type=Path))
@click.option("--count", default=2000, show_default=True)
@click.option("--quality", default="default", show_default=True)
@click.option("--plot", type=click.Path(path_type=Path), help="Write memory over pictures there, as PNG.")
def main(model: Path, pictures: Path, count: int, quality: str, plot: Path | None) -> None:
    """Explain COUNT pictures made of those in a folder; print speed, memory, and the share of the machinery."""
    explainer = Explainer(model, quality=quality)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        _repeat(list_images([pictures]), place / "in", count)
        rows = list(_work(explainer, place / "in", place / "out"))
    seconds, memory = [row[0] for row in rows], [row[2] for row in rows]
    shares = [whole / bare - 1 for whole, bare, _ in rows]
    low, middle, high = (float(np.quantile(shares, share)) for share in (0.25, 0.5, 0.75))
    first, last = memory[min(_SPARED, count) - 1], statistics.median(memory[-20:])
    click.echo(
        f"{count} pictures, {explainer.deployed.device.name}, quality {quality}: {count / sum(seconds):.2f} pictures "
        f"per second; resident memory {first:.0f} MB after {min(_SPARED, count)}, {last:.0f} MB at the end "
        f"({last / first - 1:+.1%}); the machinery adds {middle:+.1%} to the bare loop (quartiles {low:+.1%}, "
        f"{high:+.1%})"
    )
    if plot is not None:
        _plot(memory, plot)


if __name__ == "__main__":
    main()
