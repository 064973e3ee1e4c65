"""Measure integrated evidence against other methods with insertion and deletion; prints tables of docs/integrated.md.

The protocol is that of first_light.py: pictures are named SYNSET_label.JPEG and split by position (every first of
three fits backgrounds, every second tunes, every third reports); only pictures that the model gets right are used,
for their class. RISE (Petsiuk et al. 2018) runs with the paper's masks: 7 x 7 cells, half of them kept, shifted.
Times are of the same run, in turn; the last columns are paired differences to RISE with the most masks.
"""

import time
from collections.abc import Sequence
from pathlib import Path

import click
import cv2
import numpy as np
from first_light import SUBSTRATES, Mapper, Picture, insertion_minus_deletion, mapper_of, random_map

from onnx_evidence import DeployedModel, Explainer
from onnx_evidence.cuts.choose import choose_cuts
from onnx_evidence.evidence.odds import log_probabilities
from onnx_evidence.pictures.photograph import list_images
from onnx_evidence.types import AnyArray, FloatArray

_GRID = 7
_BATCH = 32


class Rise:
    """RISE: the mean of random masks, weighted with the probability of the class behind them."""

    def __init__(self, deployed: DeployedModel, masks: int, seed: int = 0) -> None:
        self.deployed = deployed
        rng = np.random.default_rng(seed)
        height, width = deployed.model.input_shape[1:]
        cell = -(-height // _GRID), -(-width // _GRID)
        self.masks = np.empty((masks, height, width), np.float16)
        for mask in self.masks:
            grid = (rng.random((_GRID, _GRID)) < 0.5).astype(np.float32)
            big = cv2.resize(grid, ((_GRID + 1) * cell[1], (_GRID + 1) * cell[0]), interpolation=cv2.INTER_LINEAR)
            top, left = rng.integers(cell[0]), rng.integers(cell[1])
            mask[:] = big[top : top + height, left : left + width]

    def maps(self, picture: Picture, counts: Sequence[int]) -> tuple[list[FloatArray], list[float]]:
        """Maps after so many masks each, ascending, and the seconds that each took from the start."""
        _, x, target = picture
        total = np.zeros(x.shape[1:])
        found: list[FloatArray] = []
        seconds: list[float] = []
        begin = time.perf_counter()
        for start in range(0, counts[-1], _BATCH):
            masks = self.masks[start : start + _BATCH].astype(np.float32)
            logits = self.deployed.logits(masks[:, None] * x)
            p = np.exp(log_probabilities(logits, [target]).log_p[:, 0])
            total += np.tensordot(p, masks, axes=1)
            if start + _BATCH >= counts[len(found)]:
                found.append(total / counts[len(found)])
                seconds.append(time.perf_counter() - begin)
        return found, seconds


def _smoothed(mapper: Mapper, sigma: float = 6.0) -> Mapper:
    return lambda picture: np.asarray(cv2.GaussianBlur(mapper(picture), (0, 0), sigma))


def rows(deployed: DeployedModel, family: bool) -> dict[str, Mapper]:
    """What is compared: each row's name and how it maps a picture."""
    auto = [cut.name for cut in choose_cuts(deployed.graph.cuts)]
    middle = auto[len(auto) // 2]
    table: dict[str, Mapper] = {
        "random map": random_map,
        "window": mapper_of(Explainer(deployed, method="window")),
        f"one cut, `{middle}`, 9 steps": mapper_of(
            Explainer(deployed, layer=middle, completeness=0.99, background="mean")
        ),
        "integrated, `auto`": mapper_of(Explainer(deployed, background="mean")),
    }
    if not family:
        return table
    table["integrated, blurred picture"] = mapper_of(Explainer(deployed, background="blur"))
    table["integrated, zero"] = mapper_of(Explainer(deployed, background="zero"))
    table["integrated, carried backward"] = mapper_of(Explainer(deployed, background="blur", project="backward"))
    table["the same, smoothed"] = _smoothed(table["integrated, carried backward"])
    for name in ("taylor-evidence", "hirescam", "grad-cam", "grad-cam++", "layercam"):
        table[name] = mapper_of(Explainer(deployed, method=name))
    table["integrated-gradients, smoothed"] = _smoothed(
        mapper_of(Explainer(deployed, method="integrated-gradients", background="blur"))
    )
    for name in ("gradient", "smoothgrad", "guided-backprop", "gradient-x-input"):
        table[f"{name}, smoothed"] = _smoothed(mapper_of(Explainer(deployed, method=name)))
    return table


def _pictures(deployed: DeployedModel, folder: Path, synsets: Path, part: str, limit: int) -> list[Picture]:
    order = synsets.read_text(encoding="utf-8").split()
    start = {"fit": 0, "tune": 1, "report": 2}[part]
    chosen: list[Picture] = []
    for path in list_images([folder])[start::3]:
        x, target = deployed.prepare(path)[1], order.index(path.name.split("_")[0])
        if len(chosen) < limit and deployed.logits(x[None])[0].argmax() == target:
            chosen.append((path, x, target))
    return chosen


def _score(deployed: DeployedModel, picture: Picture, values: FloatArray) -> list[float]:
    return [insertion_minus_deletion(deployed, picture, values, substrate) for substrate in SUBSTRATES]


def _plain_pass(deployed: DeployedModel, picture: Picture) -> float:
    begin = time.perf_counter()
    for _ in range(5):
        deployed.logits(picture[1][None])
    return (time.perf_counter() - begin) / 5


def _difference(scores: AnyArray, reference: AnyArray, column: int) -> str:
    paired = (scores - reference)[:, column]
    error = 1.96 * paired.std(ddof=1) / np.sqrt(len(paired))
    return f"{paired.mean():+.3f} ± {error:.3f}"


@click.command()
@click.argument("model", type=click.Path(exists=True, path_type=Path))
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@click.option("--synsets", type=click.Path(exists=True, path_type=Path), required=True, help="Synsets, class order.")
@click.option("--part", type=click.Choice(["tune", "report"]), default="report", show_default=True)
@click.option("--limit", default=50, show_default=True)
@click.option("--masks", default="1000,4000", show_default=True, help="Masks of RISE; the last is compared with.")
@click.option("--family/--no-family", default=True, help="With the whole gradient family, or the main rows alone.")
def main(model: Path, folder: Path, synsets: Path, part: str, limit: int, masks: str, family: bool) -> None:
    """Compare maps of MODEL on the pictures in FOLDER."""
    deployed = DeployedModel(model)
    counts = [int(count) for count in masks.split(",")]
    pictures = _pictures(deployed, folder, synsets, part, limit)
    rise, table = Rise(deployed, counts[-1]), rows(deployed, family)
    names = [*table, *(f"RISE, {count} masks" for count in counts)]
    scores: dict[str, list[list[float]]] = {name: [] for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    plain: list[float] = []
    for number, picture in enumerate(pictures):
        plain.append(_plain_pass(deployed, picture))
        for name, mapper in table.items():
            begin = time.perf_counter()
            values = mapper(picture)
            seconds[name].append(time.perf_counter() - begin)
            scores[name].append(_score(deployed, picture, values))
        for name, values, taken in zip(names[len(table) :], *rise.maps(picture, counts), strict=True):
            seconds[name].append(taken)
            scores[name].append(_score(deployed, picture, values))
        click.echo(f"{number + 1} of {len(pictures)}", err=True)
    click.echo(f"{part}: {len(pictures)} pictures; a plain forward pass {np.median(plain) * 1000:.1f} ms\n")
    against = f"against RISE, {counts[-1]}"
    click.echo(f"| map | {' | '.join(SUBSTRATES)} | {against}, blur | {against}, mean colour | s | plain passes |")
    click.echo("|---|" + "---|" * (len(SUBSTRATES) + 4))
    reference = np.array(scores[names[-1]])
    for name in names:
        found = np.array(scores[name])
        cells = " | ".join(f"{value:.3f}" for value in found.mean(axis=0))
        differences = " | ".join(_difference(found, reference, column) for column in range(len(SUBSTRATES)))
        passes = np.median(np.array(seconds[name]) / np.array(plain))
        click.echo(f"| {name} | {cells} | {differences} | {np.median(seconds[name]):.2f} | {passes:.0f} |")


if __name__ == "__main__":
    main()
