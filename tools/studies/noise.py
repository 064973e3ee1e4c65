"""Measure how noisy removal maps are: pixels against hidden features, at equal passes and at equal work.

Windows of pixels and of features are both drawn from fitted conditional Gaussians, for the class that the model gives.
The first row draws as published, independently; the others in antithetic pairs, as this package does everywhere, so
that from the second row on only the place of the removal differs. Pictures are every third of the folder; fit the two
backgrounds on others.
"""

import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import click
import numpy as np

from onnx_evidence import DeployedModel, Explainer
from onnx_evidence.evaluation.links import rank_correlation
from onnx_evidence.evaluation.measures import total_variation
from onnx_evidence.evidence.samplers import Key, Sampler
from onnx_evidence.methods.removal import RemovalEngine
from onnx_evidence.pictures.photograph import list_images
from onnx_evidence.types import Features, FloatArray

_SEEDS = (0, 1)
_HEAD = (
    "map", "passes", "plain passes", "s", "SE, bits", "error of two seeds, bits", "spread, bits", "SE / spread", "TV",
    "Spearman of two seeds", "SE against the first", "SE / spread against the first",
)  # fmt: skip


@dataclass(frozen=True)
class Independent:
    """Draws of a sampler without their antithetic partners."""

    paired: Sampler

    @property
    def deterministic(self) -> bool:
        """As the sampler says."""
        return self.paired.deterministic

    @property
    def window(self) -> int | None:
        """As the sampler says."""
        return self.paired.window

    def check(self, size: tuple[int, int]) -> None:
        """As the sampler does."""
        self.paired.check(size)

    def draw(self, features: Features, site: tuple[int, int], size: tuple[int, int], count: int, key: Key) -> Features:
        """The first of every pair of twice as many; see `Sampler.draw`."""
        return self.paired.draw(features, site, size, 2 * count, key)[::2]


@dataclass
class Row:
    """One way to make a map, and what was measured of it, one number per picture."""

    name: str
    explainers: list[Explainer]
    measured: dict[str, list[float]] = field(default_factory=dict)

    @property
    def engines(self) -> list[RemovalEngine]:
        """Its engines at every cut."""
        return [each for each in self.explainers[0].engines if isinstance(each, RemovalEngine)]

    @property
    def passes(self) -> int:
        """Runs of a tail per map."""
        return sum(each.copies for each in self.engines)

    @property
    def work(self) -> float:
        """The same in plain passes, by multiply-adds: a run of a tail is a share of a whole one."""
        return sum(each.copies * each.cut.tail_share for each in self.engines)

    def measure(self, path: Path) -> None:
        """Make the map of a picture with both seeds."""
        begin = time.perf_counter()
        found = [each.explain(path) for each in self.explainers]
        maps = [each.values.astype(np.float64) for each in found]
        numbers = {
            "seconds": (time.perf_counter() - begin) / len(found),
            "error": float(np.mean([each.stderr.mean(dtype=np.float64) for each in found])),
            # What two maps differ by has twice the variance of each.
            "seen": float(np.sqrt(((maps[0] - maps[1]) ** 2).mean() / 2)),
            "spread": float(np.mean([each.std() for each in maps])),
            "variation": float(np.mean([total_variation(each) for each in maps])),
            "agreement": rank_correlation(maps[0], maps[1]),
        }
        for name, number in numbers.items():
            self.measured.setdefault(name, []).append(number)

    def column(self, name: str) -> FloatArray:
        """One measure of all pictures."""
        return np.array(self.measured[name])

    def line(self, first: "Row") -> str:
        """Its line of the table: means over pictures; of how many times lower, geometric ones."""
        error = self.column("error")
        cells = (
            self.name,
            f"{self.passes:,}",
            f"{self.work:,.0f}",
            f"{self.column('seconds').mean():.1f}",
            f"{error.mean():.4f}",
            f"{self.column('seen').mean():.4f}",
            f"{self.column('spread').mean():.3f}",
            f"{(error / self.column('spread')).mean():.3f}",
            f"{self.column('variation').mean():.4f}",
            f"{self.column('agreement').mean():.3f}",
            *(
                f"{np.exp(np.log(first.column('error') / error * scale).mean()):.1f} times lower"
                for scale in (1, self.column("spread") / first.column("spread"))
            ),
        )
        return f"| {' | '.join(cells)} |"


def rows(deployed: DeployedModel, pixels: Path, hidden: Path, stride: int) -> list[Row]:
    """Pixels, and windows of features: at the default number of draws, at equal passes, at equal work."""
    made = [
        Row("pixels, 10 independent draws", [_independent(_pda(deployed, pixels, stride, seed)) for seed in _SEEDS]),
        Row("pixels, 10 draws in pairs (pda)", [_pda(deployed, pixels, stride, seed) for seed in _SEEDS]),
    ]
    names: list[tuple[str, list[str]]] = [("features", [])]
    first = _windows(deployed, hidden, [], None, 0)
    names += [(f"features at {each.cut.name} alone", [each.cut.name]) for each in first.engines]
    for name, layers in names:
        default = Row(f"{name}, 8 draws", [_windows(deployed, hidden, layers, None, seed) for seed in _SEEDS])
        made.append(default)
        per_draw = default.passes / 8, default.work / 8
        for words, draws in (
            ("equal passes", made[0].passes / per_draw[0]),
            ("equal work", made[0].work / per_draw[1]),
        ):
            count = 2 * round(draws / 2)
            explainers = [_windows(deployed, hidden, layers, count, seed) for seed in _SEEDS]
            made.append(Row(f"{name}, {count} draws: {words}", explainers))
    return made


def _pda(deployed: DeployedModel, background: Path, stride: int, seed: int) -> Explainer:
    return Explainer(deployed, method="pda", background=str(background), stride=stride, seed=seed)


def _independent(explainer: Explainer) -> Explainer:
    explainer.engines = [
        replace(each, sampler=Independent(each.sampler)) if isinstance(each, RemovalEngine) else each
        for each in explainer.engines
    ]
    return explainer


def _windows(deployed: DeployedModel, background: Path, layers: list[str], samples: int | None, seed: int) -> Explainer:
    return Explainer(
        deployed, method="window", layer=layers or "auto", background=str(background), samples=samples, seed=seed
    )


@click.command()
@click.argument("model", type=click.Path(exists=True, path_type=Path))
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@click.option("--pixels", type=click.Path(exists=True, path_type=Path), required=True, help="Background of the input.")
@click.option("--hidden", type=click.Path(exists=True, path_type=Path), required=True, help="Background of the cuts.")
@click.option("--stride", default=10, show_default=True, help="Pixels between windows of pixels; published: 1.")
@click.option("--limit", default=4, show_default=True, help="Pictures.")
@click.option("--cuts/--no-cuts", default=False, help="With rows for every cut alone.")
def main(model: Path, folder: Path, pixels: Path, hidden: Path, stride: int, limit: int, cuts: bool) -> None:
    """Compare the noise of maps of MODEL on pictures of FOLDER."""
    deployed = DeployedModel(model)
    table = rows(deployed, pixels, hidden, stride)
    if not cuts:
        table = [row for row in table if "alone" not in row.name]
    pictures = list_images([folder])[2::3]
    pictures = pictures[:: max(1, len(pictures) // limit)][:limit]
    for number, path in enumerate(pictures):
        for row in table:
            row.measure(path)
        click.echo(f"{number + 1} of {len(pictures)}", err=True)
    click.echo(f"{len(pictures)} pictures, {deployed.device.name}; windows of pixels every {stride} pixels\n")
    click.echo(f"| {' | '.join(_HEAD)} |\n|{'---|' * len(_HEAD)}")
    for row in table:
        click.echo(row.line(table[0]))


if __name__ == "__main__":
    main()
