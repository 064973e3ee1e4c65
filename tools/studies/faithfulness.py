"""Measure how faithful maps are, over pictures, methods and ways to remove; prints the tables of docs/faithfulness.md.

Pictures are split by position (every first of three fits backgrounds, every second tunes, every third reports). The
class that the model gives is explained, right or wrong. Maps are kept in OUT/maps and numbers in OUT/numbers.jsonl, so
a run that was stopped goes on where it was, and other rows can be added to it.
"""

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
from matplotlib.figure import Figure

from onnx_evidence import DeployedModel, Explainer
from onnx_evidence.evaluation.bootstrap import interval
from onnx_evidence.evaluation.case import Case, Mapper
from onnx_evidence.evaluation.loop import Plan, evaluate
from onnx_evidence.evaluation.mappers import CONTROLS
from onnx_evidence.pictures.photograph import list_images
from onnx_evidence.types import FloatArray

_SMOOTHING = 6.0

# Numbers by row and picture.
Found = dict[tuple[str, str], dict[str, Any]]


def _explained(deployed: DeployedModel, **settings: Any) -> Mapper:
    made: list[Explainer] = []

    def mapper(case: Case) -> FloatArray:
        if not made:
            made.append(Explainer(deployed, **settings))
        return made[0].explain(case.photograph, target=case.target).values.astype(np.float64)

    return mapper


def _smoothed(mapper: Mapper) -> Mapper:
    return lambda case: np.asarray(cv2.GaussianBlur(mapper(case), (0, 0), _SMOOTHING))


def _main(deployed: DeployedModel) -> dict[str, Mapper]:
    rows: dict[str, Mapper] = dict(CONTROLS)
    for quality in ("fast", "default"):
        rows[f"`{quality}`"] = _explained(deployed, quality=quality)
    return rows


def _best(deployed: DeployedModel) -> dict[str, Mapper]:
    return {"`best`": _explained(deployed, quality="best")}


def _removal(deployed: DeployedModel) -> dict[str, Mapper]:
    return {name: _explained(deployed, method=name) for name in ("window", "occlusion")}


def _one(deployed: DeployedModel) -> dict[str, Mapper]:
    return {"integrated, own means": _explained(deployed, background="mean")}


def _family(deployed: DeployedModel) -> dict[str, Mapper]:
    rows = {name: _explained(deployed, method=name) for name in ("taylor-evidence", "hirescam", "grad-cam", "layercam")}
    for name in ("grad-cam++", "recipro-cam", "ablation-cam"):
        rows[name] = _explained(deployed, method=name)
    for name in ("gradient", "smoothgrad", "guided-backprop", "gradient-x-input", "integrated-gradients"):
        rows[f"{name}, smoothed"] = _smoothed(_explained(deployed, method=name))
    return rows


def _slow(deployed: DeployedModel) -> dict[str, Mapper]:
    deep = _explained(deployed, method="rise-evidence", layer="deep", samples=1000)
    return {"score-cam": _explained(deployed, method="score-cam"), "rise-evidence, `deep`, 1,000": deep}


def _pda(deployed: DeployedModel, background: str) -> dict[str, Mapper]:
    return {"pda, stride 8": _explained(deployed, method="pda", stride=8, background=background)}


_ROWS: dict[str, Callable[[DeployedModel], dict[str, Mapper]]] = {
    "main": _main,
    "best": _best,
    "one": _one,
    "removal": _removal,
    "family": _family,
    "slow": _slow,
}


def _kept(mapper: Mapper, folder: Path, seconds: dict[str, float], name: str) -> Mapper:
    """A mapper whose maps are read where they were made before; tells how long making took."""

    def mapped(case: Case) -> FloatArray:
        path = folder / f"{case.path.stem}.npz"
        if not path.exists():
            begin = time.perf_counter()
            values = mapper(case)
            folder.mkdir(parents=True, exist_ok=True)
            np.savez(path, values=values.astype(np.float32), seconds=time.perf_counter() - begin)
        with np.load(path) as stored:
            seconds[name] = float(stored["seconds"])
            found: FloatArray = stored["values"].astype(np.float64)
        return found

    return mapped


def _measure(
    deployed: DeployedModel,
    pictures: list[Path],
    others: list[Path],
    rows: dict[str, Mapper],
    plan: Plan,
    out: Path,
    *,
    kept_only: bool,
) -> None:
    """Append one line per picture and row to OUT/numbers.jsonl; what is there already is not measured again."""
    log = out / "numbers.jsonl"
    done = {(line["picture"], line["row"]) for line in _lines(log)}
    seconds: dict[str, float] = {}
    for path in pictures:
        left = {name: mapper for name, mapper in rows.items() if (path.name, name) not in done}
        if kept_only:
            left = {name: mapper for name, mapper in left.items() if (_folder(out, name) / f"{path.stem}.npz").exists()}
        if not left:
            continue
        kept = {name: _kept(mapper, _folder(out, name), seconds, name) for name, mapper in left.items()}
        (scored,) = evaluate(deployed, [path], kept, plan, others=others)
        with log.open("a", encoding="utf-8") as stream:
            for name, numbers in scored.numbers.items():
                plain = numbers["seconds"] / numbers["passes"]
                numbers |= {"seconds": seconds[name], "passes": seconds[name] / plain}
                stream.write(json.dumps({"picture": path.name, "row": name, **numbers}) + "\n")
        click.echo(f"{path.name}", err=True)


def _lines(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []


def _table(lines: list[dict[str, Any]], metrics: list[str], reference: str) -> list[str]:
    """Means, and paired differences to the reference with their 95 % intervals."""
    lines = [line for line in lines if set(metrics) <= set(line)]
    rows = list(dict.fromkeys(line["row"] for line in lines))
    found = {(line["row"], line["picture"]): line for line in lines}
    table = [
        f"| map | pictures | {' | '.join(metrics)} | {' | '.join(f'against {reference}' for _ in metrics)} | passes |"
    ]
    table.append("|---|" + "---|" * (2 * len(metrics) + 2))
    for row in rows:
        # The same pictures for a row and for what it is compared with.
        own = [line["picture"] for line in lines if line["row"] == row]
        pictures = [picture for picture in own if (reference, picture) in found] or own
        means = [f"{np.mean([found[row, picture][metric] for picture in pictures]):.3f}" for metric in metrics]
        gains = ["" for _ in metrics]
        if row != reference and (reference, pictures[0]) in found and len(pictures) > 1:
            gains = [_words(_gain(found, row, reference, pictures, metric)) for metric in metrics]
        passes = np.median([found[row, picture]["passes"] for picture in pictures])
        table.append(f"| {row} | {len(pictures)} | {' | '.join(means)} | {' | '.join(gains)} | {passes:.0f} |")
    return table


def _draw_worst(
    model: Path, folder: Path, lines: list[dict[str, Any]], out: Path, shown: list[str], file: Path
) -> None:
    """Where each method loses most to another: the picture, and all maps, with their gains (mean over substrates)."""
    deployed = DeployedModel(model)
    gains = {
        (line["row"], line["picture"]): float(np.mean([line[key] for key in line if key.startswith("srg.probability")]))
        for line in lines
    }
    pictures = sorted({picture for _, picture in gains if all((row, picture) in gains for row in shown)})
    worst = [max(pictures, key=partial(_lost, gains, row, shown)) for row in shown]
    figure = Figure(figsize=(2.2 * (len(shown) + 1), 2.5 * len(shown)), layout="constrained")
    axes = figure.subplots(len(shown), len(shown) + 1, squeeze=False)
    for row, picture, line_of_axes in zip(shown, worst, axes, strict=True):
        inputs = deployed.prepare(folder / picture)[1].transpose(1, 2, 0)
        line_of_axes[0].imshow((inputs - inputs.min()) / np.ptp(inputs))
        line_of_axes[0].set_title(f"worst for {row.strip('`')}", fontsize=8)
        line_of_axes[0].set_xlabel(Path(picture).stem.partition("_")[2], fontsize=8)
        for name, axis in zip(shown, line_of_axes[1:], strict=True):
            values = np.load(_folder(out, name) / f"{Path(picture).stem}.npz")["values"]
            middle = np.median(values) if name.startswith("RISE") else 0.0
            limit = np.abs(values - middle).max()
            axis.imshow(values - middle, cmap="RdBu_r", vmin=-limit, vmax=limit)
            axis.set_title(f"{name.strip('`')}: {gains[name, picture]:+.2f}", fontsize=8)
        for axis in line_of_axes:
            axis.set_xticks([])
            axis.set_yticks([])
    figure.savefig(file, dpi=100, metadata={"Software": None})


def _lost(gains: dict[tuple[str, str], float], row: str, shown: list[str], picture: str) -> float:
    """What a method loses to the best of the others on one picture."""
    return max(gains[other, picture] for other in shown) - gains[row, picture]


def _folder(out: Path, row: str) -> Path:
    return out / "maps" / "".join(letter if letter.isalnum() else "-" for letter in row)


def _gain(found: Found, row: str, reference: str, pictures: list[str], metric: str) -> FloatArray:
    return np.array([found[row, picture][metric] - found[reference, picture][metric] for picture in pictures])


def _words(differences: FloatArray) -> str:
    found = interval(differences)
    return f"{found.value:+.3f} ({found.low:+.3f} to {found.high:+.3f})"


@click.command()
@click.argument("model", type=click.Path(exists=True, path_type=Path))
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@click.option("-o", "--output", "out", type=click.Path(path_type=Path), required=True, help="Maps and numbers.")
@click.option("--part", type=click.Choice(["tune", "report"]), default="report", show_default=True)
@click.option("--limit", default=100, show_default=True, help="Pictures, spread over the part.")
@click.option("--rows", "groups", default="main", show_default=True, help=f"Of {', '.join(_ROWS)}; or none.")
@click.option("--masks", default="4000", show_default=True, help="Masks of RISE, one row each; or none.")
@click.option("--pda", "background", metavar="FILE.npz", help="Pixel background: adds prediction difference analysis.")
@click.option("--substrates", default="blur,mean,inpaint", show_default=True)
@click.option("--reference", default="RISE, 4000 masks", show_default=True)
@click.option("--figure", type=click.Path(path_type=Path), help="Draw where `fast`, `default`, `best`, RISE are worst.")
@click.option("--kept", is_flag=True, help="Make no maps: measure those that were made before.")
@click.option("--measure/--no-measure", default=True, help="Or print the tables alone.")
def main(
    model: Path,
    folder: Path,
    out: Path,
    part: str,
    limit: int,
    groups: str,
    masks: str,
    background: str | None,
    substrates: str,
    reference: str,
    figure: Path | None,
    kept: bool,
    measure: bool,
) -> None:
    """Measure maps of MODEL on the pictures in FOLDER."""
    out.mkdir(parents=True, exist_ok=True)
    plan = Plan(substrates=tuple(substrates.split(",")), stability=False)
    if measure:
        deployed = DeployedModel(model)
        rows: dict[str, Mapper] = {}
        for group in filter(None, groups.split(",")):
            rows |= _ROWS[group](deployed)
        for count in filter(None, masks.split(",")):
            rows[f"RISE, {count} masks"] = _explained(deployed, method="rise", samples=int(count))
        if background is not None:
            rows |= _pda(deployed, background)
        paths = list_images([folder])
        own = paths[{"tune": 1, "report": 2}[part] :: 3]
        chosen = [own[index] for index in np.linspace(0, len(own) - 1, min(limit, len(own))).round().astype(int)]
        _measure(deployed, chosen, paths[0::3], rows, plan, out, kept_only=kept)
    metrics = [f"srg.probability.{name}" for name in plan.substrates]
    lines = _lines(out / "numbers.jsonl")
    click.echo("\n".join(_table(lines, metrics, reference)))
    if figure is not None:
        _draw_worst(model, folder, lines, out, ["`fast`", "`default`", "`best`", reference], figure)


if __name__ == "__main__":
    main()
