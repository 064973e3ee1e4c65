"""A scoreboard with known truth: networks of seven families on rendered scenes, and how well maps tell what they do.

``train OUT`` renders scenes and trains and exports the networks, in an environment with PyTorch of its own (`python -m
venv torchenv && torchenv/bin/pip install torch onnx onnxscript opencv-python-headless`); ``rivals OUT`` has other
people's packages explain the same scenes there (`captum grad-cam lxt zennit transformers==4.52.4` beside those);
``judge OUT`` makes maps of every method on scenes that no network has seen and judges them, and those of the rivals
(see ``parts/scenes/judges.py``); ``table OUT`` prints what was found, and ``figure OUT`` draws it over the passes that
it took. Each goes on where it stopped: networks, maps and numbers are kept in OUT.

Scenes are split by seed: 1,000 to count right answers, others to tune on, others again to report.
"""

import json
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
from matplotlib.figure import Figure
from parts.scenes.judges import Truth, find_truth, judge
from parts.scenes.scene import HELD_OUT

from onnx_evidence import DeployedModel, EvidenceError, Explainer
from onnx_evidence.evaluation.bootstrap import interval
from onnx_evidence.evaluation.case import Mapper
from onnx_evidence.evaluation.mappers import CONTROLS
from onnx_evidence.preprocessing import Preprocess
from onnx_evidence.types import FloatArray

_TOOLS = Path(__file__).parents[1]
# As `parts.scenes.networks` has them, which needs PyTorch to be read.
FAMILIES = ("plain", "resnet", "depthwise", "convnext", "vit", "swin", "mixer")
# Seeds of scenes that no network was trained on; the first 1,000 of those count right answers.
_PARTS = {"tune": HELD_OUT + 10_000, "report": HELD_OUT + 20_000}
_PREPROCESS = Preprocess(size=(96, 96), scale=1 / 255, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
_SMOOTHING = 3.0
_JUDGES = ("srg", "parts", "things", "cells", "object")


def _explained(**settings: Any) -> Callable[[DeployedModel], Mapper]:
    def made(deployed: DeployedModel) -> Mapper:
        explainer = Explainer(deployed, **settings)
        return lambda case: explainer.explain(case.photograph, target=case.target).values.astype(np.float64)

    return made


def _smoothed(**settings: Any) -> Callable[[DeployedModel], Mapper]:
    def made(deployed: DeployedModel) -> Mapper:
        mapper = _explained(**settings)(deployed)
        return lambda case: np.asarray(cv2.GaussianBlur(mapper(case), (0, 0), _SMOOTHING))

    return made


def _as_it_is(mapper: Mapper) -> Callable[[DeployedModel], Mapper]:
    return lambda deployed: mapper


_ROWS: dict[str, Callable[[DeployedModel], Mapper]] = {
    **{name: _as_it_is(mapper) for name, mapper in CONTROLS.items()},
    "fast": _explained(quality="fast"),
    "default": _explained(quality="default"),
    "best": _explained(quality="best"),
    **{
        name: _explained(method=name)
        for name in ("window", "occlusion", "grad-cam", "hirescam", "layercam", "grad-cam++", "ablation-cam")
    },
    "taylor-evidence": _explained(method="taylor-evidence"),
    **{f"relevance, {rules}": _explained(method="relevance", rules=rules) for rules in ("conservative", "attnlrp")},
    "relevance, smoothed": _smoothed(method="relevance"),
    "default, no relevance": _explained(combine="agreement"),
    "fast, no relevance": _explained(quality="fast", combine="agreement"),
    **{
        f"{name}, smoothed": _smoothed(method=name)
        for name in ("gradient", "smoothgrad", "gradient-x-input", "integrated-gradients")
    },
    **{f"integrated, {steps} steps": _explained(steps=steps, completeness=0.99) for steps in (3, 17)},
    "integrated, own means, 5 steps": _explained(background="mean", steps=5, completeness=0.99),
    **{f"RISE, {count}": _explained(method="rise", samples=count) for count in (25, 100, 400, 1000, 4000, 8000)},
}
_GROUPS = {
    "main": ("random map", "centre prior", "fast", "default", "grad-cam", "window", "occlusion", "RISE, 1000"),
    "best": ("best",),
    "slow": ("RISE, 4000",),
    "slowest": ("RISE, 8000",),
    "family": ("hirescam", "layercam", "grad-cam++", "ablation-cam", "taylor-evidence"),
    "relevance": tuple(name for name in _ROWS if "relevance" in name),
    "pixels": tuple(name for name in _ROWS if name.endswith("smoothed")),
    "frontier": (*(name for name in _ROWS if name.startswith("integrated, ")), "RISE, 25", "RISE, 100", "RISE, 400"),
}
# Maps that `rivals` made.
_RIVALS = "rivals"
# Points that belong together in the figure of the frontier.
_LINES = {
    "qualities": ("fast", "default", "best"),
    "RISE": tuple(name for name in _ROWS if name.startswith("RISE")),
    "KernelSHAP (captum)": ("captum KernelSHAP of cells, 400", "captum KernelSHAP of cells, 1500"),
}
# Points below have no name.
_WORTH_A_NAME = 0.5
# From the name of one of the other points to it; those are named that no cheaper one is ahead of.
_ARROW = {"arrowstyle": "-", "lw": 0.4, "color": "0.6"}


def _open(out: Path, family: str, exporter: str) -> DeployedModel:
    return DeployedModel(out / f"{family}-{exporter}.onnx", preprocess=_PREPROCESS)


def _lines(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []


@click.group()
def main() -> None:
    """Train networks on scenes, judge maps by what the networks really do, print tables."""


@main.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--torch-python", type=click.Path(exists=True), required=True, help="Of an environment with PyTorch.")
@click.option("--families", default=",".join(FAMILIES), show_default=True)
def train(out: Path, torch_python: str, families: str) -> None:
    """Train and export what is not in OUT yet."""
    for family in families.split(","):
        if not (out / f"{family}.json").exists():
            surroundings = {**os.environ, "PYTHONPATH": str(_TOOLS)}
            command = [torch_python, "-m", "parts.scenes.training", family, str(out)]
            subprocess.run(command, env=surroundings, check=True)
    for about in (json.loads((out / f"{family}.json").read_text()) for family in families.split(",")):
        click.echo(f"{about['family']}: {about['right']:.1%} right, {about['parameters']:,} weights")


@main.command()
@click.argument("out", type=click.Path(exists=True, path_type=Path))
@click.option("--torch-python", type=click.Path(exists=True), required=True, help="Of an environment with PyTorch.")
@click.option("--families", default=",".join(FAMILIES), show_default=True)
@click.option("--part", type=click.Choice([*_PARTS]), default="report", show_default=True)
@click.option("--scenes", default=40, show_default=True)
def rivals(out: Path, torch_python: str, families: str, part: str, scenes: int) -> None:
    """Make maps by other people's packages; `judge` takes them as ``--rows rivals``."""
    for family in families.split(","):
        command = ["-m", "parts.scenes.rivals", family, str(out), str(_PARTS[part]), str(scenes)]
        subprocess.run([torch_python, *command], env={**os.environ, "PYTHONPATH": str(_TOOLS)}, check=True)


@main.command(name="judge")
@click.argument("out", type=click.Path(exists=True, path_type=Path))
@click.option("--families", default=",".join(FAMILIES), show_default=True)
@click.option("--exporter", type=click.Choice(["script", "dynamo", "half"]), default="script", show_default=True)
@click.option("--part", type=click.Choice([*_PARTS]), default="report", show_default=True)
@click.option("--scenes", default=40, show_default=True)
@click.option(
    "--rows",
    "groups",
    multiple=True,
    default=["main"],
    show_default=True,
    help=f"One of {', '.join(_GROUPS)}, {_RIVALS}, or the name of a row; may be repeated.",
)
def judge_maps(out: Path, families: str, exporter: str, part: str, scenes: int, groups: Sequence[str]) -> None:
    """Make and judge maps; one line of OUT/numbers.jsonl each."""
    done = {(line["family"], line["part"], line["scene"], line["row"]) for line in _lines(out / "numbers.jsonl")}
    for family in families.split(","):
        deployed, mappers = _open(out, family, exporter), dict[str, Mapper]()
        for number in range(scenes):
            theirs = _kept_maps(out, family, _PARTS[part] + number) if _RIVALS in groups else {}
            asked = [row for group in groups for row in (theirs if group == _RIVALS else _GROUPS.get(group, (group,)))]
            left = [row for row in asked if (family, part, number, row) not in done]
            if not left:
                continue
            truth = find_truth(deployed, _PARTS[part] + number)
            plain = _plain_pass(deployed, truth)
            with (out / "numbers.jsonl").open("a", encoding="utf-8") as stream:
                for row in left:
                    kept = theirs.get(row)
                    found = _judged(deployed, truth, row, mappers, plain) if kept is None else kept(deployed, truth)
                    about = {"family": family, "part": part, "scene": number, "row": row, "right": truth.right}
                    stream.write(json.dumps({**about, **found}) + "\n")
        click.echo(family, err=True)


def _judged(
    deployed: DeployedModel, truth: Truth, row: str, mappers: dict[str, Mapper], plain: float
) -> dict[str, Any]:
    """Numbers of one map; where a method cannot be used on the model, the reason."""
    try:
        mapper = mappers[row] = mappers.get(row) or _ROWS[row](deployed)
        begin = time.perf_counter()
        values = mapper(truth.case)
        passes = (time.perf_counter() - begin) / plain
    except EvidenceError as error:
        return {"refused": str(error)}
    return {**judge(deployed, truth, values), "passes": passes}


def _kept_maps(out: Path, family: str, seed: int) -> dict[str, Callable[[DeployedModel, Truth], dict[str, Any]]]:
    """What judges the maps of a scene that were made by `parts.scenes.rivals`, by name."""
    with np.load(out / "rivals" / family / f"{seed}.npz") as file:
        kept = dict(file)
    names = dict.fromkeys(key.split("|")[0] for key in kept if key != "target")
    return {name: partial(_judged_kept, kept, name) for name in names}


def _judged_kept(kept: dict[str, Any], name: str, deployed: DeployedModel, truth: Truth) -> dict[str, Any]:
    if int(kept["target"]) != truth.case.target:
        return {"refused": "PyTorch gives another class"}
    if name not in kept:
        return {"refused": str(kept[f"{name}|refused"])}
    return {**judge(deployed, truth, kept[name].astype(np.float64)), "passes": float(kept[f"{name}|passes"])}


def _plain_pass(deployed: DeployedModel, truth: Truth) -> float:
    taken = []
    for _ in range(7):
        begin = time.perf_counter()
        deployed.logits(truth.case.inputs[None])
        taken.append(time.perf_counter() - begin)
    return float(np.median(taken))


@main.command()
@click.argument("out", type=click.Path(exists=True, path_type=Path))
@click.option("--part", type=click.Choice([*_PARTS]), default="report", show_default=True)
@click.option("--reference", default="RISE, 4000", show_default=True, help="What the others are compared with.")
@click.option("--judges", default=",".join(_JUDGES), show_default=True, help="Or srg.SUBSTRATE.")
def table(out: Path, part: str, reference: str, judges: str) -> None:
    """Print means and paired differences, a table for each judge: methods by families."""
    lines = [line for line in _lines(out / "numbers.jsonl") if line["part"] == part]
    found = {(line["family"], line["row"], line["scene"]): line for line in lines}
    families = [family for family in FAMILIES if any(family == line["family"] for line in lines)]
    there = list(dict.fromkeys(line["row"] for line in lines))
    rows = [*(row for row in _ROWS if row in there), *(row for row in there if row not in _ROWS)]
    for name in judges.split(","):
        click.echo(f"\n{name}\n\n| map | {' | '.join(families)} |\n|---|{'---|' * len(families)}")
        for row in rows:
            cells = [_cell(found, family, row, reference, name) for family in families]
            click.echo(f"| {row} | {' | '.join(cells)} |")


def _cell(found: dict[Any, dict[str, Any]], family: str, row: str, reference: str, name: str) -> str:
    """A mean; in brackets how far it is from the reference, with 1.96 standard errors' worth of bootstrap."""
    own = {scene: line for (one, other, scene), line in found.items() if (one, other) == (family, row)}
    if not own:
        return ""
    numbers = np.array([line.get(name, np.nan) for line in own.values()], float)
    if np.isnan(numbers).all():
        return "refused"
    text = f"{np.nanmean(numbers):.3f}"
    theirs = {scene: found.get((family, reference, scene), {}).get(name, np.nan) for scene in own}
    differences: FloatArray = np.array([line.get(name, np.nan) - theirs[scene] for scene, line in own.items()], float)
    known = differences[np.isfinite(differences)]
    if row == reference or len(known) < 2:
        return text
    gain = interval(known)
    return f"{text} ({gain.value:+.3f}, {gain.low:+.3f} to {gain.high:+.3f})"


@main.command()
@click.argument("out", type=click.Path(exists=True, path_type=Path))
@click.argument("picture", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--part", type=click.Choice([*_PARTS]), default="report", show_default=True)
@click.option("--judge", "name", default="srg", show_default=True)
def figure(out: Path, picture: Path, part: str, name: str) -> None:
    """Draw what maps are worth over what they cost, in plain passes, a panel for each family, as PICTURE."""
    lines = [line for line in _lines(out / "numbers.jsonl") if line["part"] == part and name in line]
    families = [family for family in FAMILIES if any(family == line["family"] for line in lines)]
    columns = min(2, len(families))
    rows = -(-len(families) // columns)
    drawn = Figure(figsize=(7.5 * columns, 4.6 * rows), layout="constrained")
    for axes, family in zip_longest(drawn.subplots(rows, columns, squeeze=False).flat, families):
        if family is None:
            axes.set_axis_off()
        else:
            _draw(axes, family, [line for line in lines if line["family"] == family], name)
    drawn.savefig(picture, dpi=110)


def _draw(axes: Any, family: str, lines: Sequence[dict[str, Any]], name: str) -> None:
    """A panel: medians of passes, means of the judge."""
    by_row: dict[str, list[tuple[float, float]]] = {}
    for line in lines:
        if line["row"] not in CONTROLS:
            by_row.setdefault(line["row"], []).append((line["passes"], line[name]))
    points = {row: (float(np.median([one for one, _ in each])), _mean(each)) for row, each in by_row.items()}
    for label, rows in _LINES.items():
        along = [points[row] for row in rows if row in points]
        if along:
            axes.plot(*zip(*along, strict=True), "o-", label=label, lw=2 if label == "qualities" else 1)
    others = {row: point for row, point in points.items() if not any(row in rows for rows in _LINES.values())}
    if others:
        axes.scatter(*zip(*others.values(), strict=True), s=14, c="0.45", label="others")
    named = {row: others[row] for row in _ahead(points) & others.keys() if others[row][1] > _WORTH_A_NAME}
    for number, row in enumerate(sorted(named, key=named.__getitem__)):
        place = (0.3, 0.42 - 0.05 * number)  # one below the other, where few points are
        axes.annotate(row, named[row], fontsize=7, xytext=place, textcoords="axes fraction", arrowprops=_ARROW)
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)  # what is below is worth less than nothing
    axes.set(title=family, xlabel="plain forward passes", ylabel="relevance gain" if name == "srg" else name)
    axes.legend(fontsize=7, loc="lower right")
    axes.grid(alpha=0.3)


def _ahead(points: dict[str, tuple[float, float]]) -> set[str]:
    """Rows that no cheaper one is worth more than."""
    ahead, best = set(), -np.inf
    for row in sorted(points, key=points.__getitem__):
        if points[row][1] > best:
            ahead.add(row)
            best = points[row][1]
    return ahead


def _mean(pairs: Sequence[tuple[float, float]]) -> float:
    return float(np.nanmean([value for _, value in pairs]))


if __name__ == "__main__":
    main()
