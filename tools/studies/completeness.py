"""How fast path integrals account for all bits: prints the table, and draws the figure, of docs/integrated.md.

At every cut that 'auto' takes, for every picture's own class and the picture's own channel means as baseline: the gap
between the sum of the cells and the difference of the log-odds, as a share of that difference (of one bit where it is
less), against the number of gradients, for four rules. And the steps that `integrate` itself needs for 5 % and 1 %.
"""

from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
from matplotlib.figure import Figure

from onnx_evidence import DeployedModel
from onnx_evidence.cuts.choose import choose_cuts
from onnx_evidence.evidence.odds import LN2
from onnx_evidence.evidence.path import integrate
from onnx_evidence.evidence.score import Score
from onnx_evidence.methods.baselines import own_means
from onnx_evidence.methods.engine import View
from onnx_evidence.pictures.photograph import list_images
from onnx_evidence.types import Features, FloatArray, Gradient

_STEPS = (9, 17, 33)
_BATCH = 8


def gauss(steps: int) -> tuple[FloatArray, FloatArray]:
    """Places and weights of Gauss and Legendre on 0..1."""
    places, weights = np.polynomial.legendre.leggauss(steps)
    return (places + 1) / 2, weights / 2


def midpoint(steps: int) -> tuple[FloatArray, FloatArray]:
    """Places and weights of the midpoint rule."""
    return (np.arange(steps) + 0.5) / steps, np.full(steps, 1 / steps)


def trapezoid(steps: int) -> tuple[FloatArray, FloatArray]:
    """Places and weights of the trapezoidal rule on equal panels."""
    weights = np.full(steps, 1 / (steps - 1))
    weights[[0, -1]] /= 2
    return np.linspace(0, 1, steps), weights


RULES: dict[str, Callable[[int], tuple[FloatArray, FloatArray]]] = {
    "Gauss-Legendre": gauss,
    "midpoint": midpoint,
    "trapezoid, equal panels": trapezoid,
}
HALVING = "trapezoid, worst panels halved"


def fixed_rule_gap(
    features: Features,
    start: Features,
    gradient: Gradient,
    score: Score,
    rule: tuple[FloatArray, FloatArray],
    total: float,
) -> float:
    """Gap of a rule with places that are settled before."""
    places, weights = rule
    change = features - start
    accounted = 0.0
    for first in range(0, len(places), _BATCH):
        part = np.s_[first : first + _BATCH]
        batch = start + places[part, None, None, None].astype(np.float32) * change
        slopes = gradient(batch, score.direction, score.rest)[1]
        accounted += float(weights[part] @ np.einsum("ncij,cij->n", slopes, change, dtype=np.float64)) / LN2
    return abs(accounted - total) / max(abs(total), 1.0)


def measure(
    deployed: DeployedModel, paths: list[Path], cut_name: str
) -> tuple[dict[str, list[list[float]]], dict[float, list[int]]]:
    """Gaps per rule, picture and number of steps, and the steps needed per completeness, at one cut."""
    cut = deployed.graph.find(cut_name)
    look, gradient = deployed.looker([cut]), deployed.gradient(cut)
    gaps: dict[str, list[list[float]]] = {name: [] for name in (*RULES, HALVING)}
    needed: dict[float, list[int]] = {0.05: [], 0.01: []}
    for path in paths:
        inputs = deployed.prepare(path)[1]
        logits, (features,) = deployed.answer(inputs).logits, look(inputs)
        start = own_means(View(inputs, features, logits, 0))[0]
        score = Score.of(len(logits), int(logits.argmax()))
        halved = [integrate(features, start, gradient, score, completeness=1e-9, most_steps=n) for n in _STEPS]
        total = halved[0].budget.with_features - halved[0].budget.without
        gaps[HALVING].append([each.budget.gap_share for each in halved])
        for name, rule in RULES.items():
            gaps[name].append([fixed_rule_gap(features, start, gradient, score, rule(n), total) for n in _STEPS])
        for share, steps in needed.items():
            budget = integrate(features, start, gradient, score, completeness=share).budget
            steps.append(budget.steps)
            if budget.gap_share > share:
                click.echo(f"{path.name} at {cut_name}: only {budget.gap_share:.2%} reached", err=True)
    return gaps, needed


def draw(gaps: dict[str, dict[str, list[list[float]]]], out: Path) -> None:
    """One panel per cut: median gap against steps, a band from the first to the third quartile."""
    figure = Figure(figsize=(3.2 * len(gaps), 3.4), dpi=100, layout="constrained")
    axes = figure.subplots(1, len(gaps), sharey=True, squeeze=False)[0]
    for axis, (cut, rules) in zip(axes, gaps.items(), strict=True):
        for name, values in rules.items():
            low, middle, high = np.quantile(values, [0.25, 0.5, 0.75], axis=0)
            axis.plot(_STEPS, middle, marker="o", ms=3, label=name)
            axis.fill_between(_STEPS, low, high, alpha=0.15)
        axis.set(title=cut, xlabel="gradients", yscale="log", xticks=_STEPS)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("gap, share of the bits")
    axes[0].legend(fontsize=7)
    figure.savefig(out, metadata={"Software": None})


@click.command()
@click.argument("model", type=click.Path(exists=True, path_type=Path))
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@click.option("--limit", default=100, show_default=True, help="How many pictures, spread over the folder.")
@click.option("--figure", type=click.Path(path_type=Path), help="PNG to draw.")
def main(model: Path, folder: Path, limit: int, figure: Path | None) -> None:
    """Measure the completeness of path integrals of MODEL on the pictures in FOLDER."""
    deployed = DeployedModel(model)
    paths = list_images([folder])
    paths = paths[:: max(1, len(paths) // limit)][:limit]
    found = {}
    click.echo(f"{len(paths)} pictures; median gap (nine in ten below)\n")
    click.echo(f"| cut | rule | {' | '.join(str(steps) for steps in _STEPS)} | steps for 5 % / 1 % (most) |")
    click.echo("|---|---|" + "---|" * (len(_STEPS) + 1))
    for cut in choose_cuts(deployed.graph.cuts):
        found[cut.name], needed = measure(deployed, paths, cut.name)
        for name, values in found[cut.name].items():
            middle, high = np.quantile(values, [0.5, 0.9], axis=0)
            cells = " | ".join(f"{m:.1%} ({h:.0%})" for m, h in zip(middle, high, strict=True))
            steps = " / ".join(f"{np.mean(each):.0f} ({max(each)})" for each in needed.values())
            click.echo(f"| `{cut.name}` | {name} | {cells} | {steps if name == HALVING else ''} |")
    if figure is not None:
        draw(found, figure)


if __name__ == "__main__":
    main()
