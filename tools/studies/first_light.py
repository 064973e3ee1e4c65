"""Measure removal maps with insertion and deletion on two substrates; prints the table of docs/first-light.md.

Pictures are named SYNSET_label.JPEG and split by position: every first of three fits backgrounds, every
second tunes, every third reports. Only pictures that the model gets right are used, for their class.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np

from onnx_evidence import DeployedModel, Explainer, fit_background
from onnx_evidence.cuts.choose import choose_cuts
from onnx_evidence.evaluation import substrates
from onnx_evidence.evaluation.case import Case
from onnx_evidence.methods.background_file import save_background
from onnx_evidence.pictures.photograph import list_images, read_photograph
from onnx_evidence.types import Features, FloatArray

Picture = tuple[Path, Features, int]
Mapper = Callable[[Picture], FloatArray]

# What the tables call a substrate, and what the library does.
SUBSTRATES = {"blur": "blur", "mean colour": "mean"}


def insertion_minus_deletion(deployed: DeployedModel, picture: Picture, values: FloatArray, substrate: str) -> float:
    """Mean probability while the blocks with the most evidence are restored, less that while they are removed.

    The symmetric relevance gain of `onnx_evidence.evaluation`, on a 32 x 32 grid in 32 steps.
    """
    path, x, target = picture
    name = SUBSTRATES[substrate]
    fill = substrates.SUBSTRATES[name].fill(substrates.Scene(x, deployed.preprocess))
    flips = substrates.flip_map(deployed.logits, fill, Case(path, read_photograph(path), x, target), values, name)
    return flips.areas()["srg.probability"]


def mapper_of(explainer: Explainer) -> Mapper:
    """How an explainer maps a picture, for its class."""
    return lambda picture: explainer.explain(picture[0], target=picture[2]).values.astype(np.float64)


def _centre(picture: Picture) -> FloatArray:
    rows, cols = (np.arange(side) - (side - 1) / 2 for side in picture[1].shape[1:])
    distance: FloatArray = -np.hypot(rows[:, None], cols[None, :])
    return distance


def random_map(picture: Picture) -> FloatArray:
    """Noise that belongs to the picture's class: the control."""
    return np.random.default_rng(picture[2]).normal(size=picture[1].shape[1:])


def rows(deployed: DeployedModel, background: Path) -> dict[str, Mapper]:
    """What is compared: each row's name and how it maps a picture."""
    auto = [cut.name for cut in choose_cuts(deployed.graph.cuts, integrate=False)]
    table: dict[str, Mapper] = {"random map": random_map, "centre prior": _centre}
    table["occlusion (mean)"] = mapper_of(Explainer(deployed, method="occlusion"))
    for name in auto:
        table[f"{name}, window 1, mean"] = mapper_of(Explainer(deployed, method="window", layer=name, window=1))
        table[f"{name}, mean"] = mapper_of(Explainer(deployed, method="window", layer=name))
    table["auto, zero"] = mapper_of(Explainer(deployed, method="window", background="zero"))
    table["auto, mean"] = mapper_of(Explainer(deployed, method="window"))
    for samples in (1, 2, 8):
        table[f"auto, conditional, {samples} samples"] = mapper_of(
            Explainer(deployed, method="window", background=str(background), samples=samples)
        )
    return table


@click.command()
@click.argument("model", type=click.Path(exists=True, path_type=Path))
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@click.option("--synsets", type=click.Path(exists=True, path_type=Path), required=True, help="Synsets, class order.")
@click.option("--part", type=click.Choice(["tune", "report"]), default="report", show_default=True)
@click.option("--limit", default=100, show_default=True)
def main(model: Path, folder: Path, synsets: Path, part: str, limit: int) -> None:
    """Compare maps of MODEL on the pictures in FOLDER."""
    deployed = DeployedModel(model)
    order = synsets.read_text(encoding="utf-8").split()
    paths = list_images([folder])
    labelled = [(path, deployed.prepare(path)[1], order.index(path.name.split("_")[0])) for path in paths]
    right = [deployed.logits(x[None])[0].argmax() == target for _, x, target in labelled]
    click.echo(f"top-1 accuracy on {len(paths)} pictures: {np.mean(right):.3f}")
    start = {"tune": 1, "report": 2}[part]
    part_of = list(zip(labelled, right, strict=True))[start::3]
    chosen = [picture for picture, correct in part_of if correct][:limit]
    with tempfile.TemporaryDirectory() as scratch:
        background = Path(scratch) / "background.npz"
        auto = [cut.name for cut in choose_cuts(deployed.graph.cuts, integrate=False)]
        save_background(background, fit_background(deployed, auto, paths[0::3]))
        click.echo(f"{part}: {len(chosen)} pictures\n\n| map | {' | '.join(SUBSTRATES)} | against auto, mean | ms |")
        click.echo("|---|" + "---|" * (len(SUBSTRATES) + 2))
        table = rows(deployed, background)
        scores = {}
        for name in ("auto, mean", *(name for name in table if name != "auto, mean")):
            begin = time.perf_counter()
            maps = [table[name](picture) for picture in chosen]
            milliseconds = (time.perf_counter() - begin) * 1000 / len(chosen)
            scores[name] = np.array(
                [
                    [insertion_minus_deletion(deployed, picture, values, each) for each in SUBSTRATES]
                    for picture, values in zip(chosen, maps, strict=True)
                ]
            )
            paired = (scores[name] - scores["auto, mean"]).mean(axis=1)
            error = paired.std(ddof=1) / np.sqrt(len(paired))
            cells = " | ".join(f"{value:.3f}" for value in scores[name].mean(axis=0))
            click.echo(f"| {name} | {cells} | {paired.mean():+.3f} ± {1.96 * error:.3f} | {milliseconds:.0f} |")


if __name__ == "__main__":
    main()
