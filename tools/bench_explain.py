"""Time `explain` on a folder of pictures: the default and `--method window`, in plain forward passes.

Prints ratios taken in one run, each picture's measurements side by side: seconds mean little on a shared machine. What
removal in pixels takes beside them, `bench_removal.py` tells.
"""

import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path

import click
from parts.measuring import timed

from onnx_evidence import DeployedModel, Explainer
from onnx_evidence.pictures.photograph import list_images
from onnx_evidence.sessions import watched

# Plain forward passes per picture and method.
_PLAIN = 5


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
        self.plain += [timed(lambda: deployed.session.run(inputs)) for _ in range(_PLAIN)]

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
    for path in paths:
        default.measure(path)
        windows.measure(path)
    click.echo(f"{len(paths)} pictures, device {deployed.device.name}\n{default.report()}\n{windows.report()}")


if __name__ == "__main__":
    main()
