"""How faithful the maps of all packages are, by this project's pixel flipping, and the table that is printed."""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onnx_evidence import DeployedModel
from onnx_evidence.evaluation.bootstrap import interval
from onnx_evidence.evaluation.case import Case, Mapper
from onnx_evidence.evaluation.loop import Plan, Scored, evaluate
from onnx_evidence.evaluation.mappers import CONTROLS
from onnx_evidence.types import FloatArray
from parts.measuring import spread
from parts.peers.measuring import TIMES, ratios, read_pictures

SUBSTRATES = ("blur", "mean")
# The map that others are held against, where it is there.
REFERENCE = "default"
HEAD = (
    "package and version",
    "method",
    "setting",
    "passes, + gradients",
    "seconds per picture",
    "in plain passes: median (from - to)",
    "of processor time",
    "pictures",
    *(f"insertion - deletion, {name}" for name in SUBSTRATES),
    f"both, less `{REFERENCE}`'s",
)


def read_times(out: Path) -> dict[str, dict[str, Any]]:
    """What was measured of every peer, by its name."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(out.glob(f"*/{TIMES}"))]
    return {each["peer"]: each for each in found}


def score(deployed: DeployedModel, out: Path, times: dict[str, dict[str, Any]]) -> list[Scored]:
    """Pixel flipping of all maps that are there, and of the controls."""
    plan = Plan(substrates=SUBSTRATES, stability=False)
    results: list[Scored] = []
    for picture in read_pictures(out):
        name, path = picture.name, picture.photograph
        # A peer that was stopped has maps of the first pictures alone.
        mappers = {
            peer: _given(out / peer / f"{name}.npy") for peer, found in times.items() if name in found["pictures"]
        }
        results += evaluate(deployed, [path], {**mappers, **CONTROLS}, plan, truth={path: picture.target})
    return results


def _given(path: Path) -> Mapper:
    """A map that was made before."""

    def mapper(case: Case) -> FloatArray:
        values: FloatArray = np.load(path)
        return values

    return mapper


def table(results: Sequence[Scored], times: dict[str, dict[str, Any]]) -> list[str]:
    """The lines of the table, in the order of the peers, then controls; each of the pictures that it has a map of."""
    lines = ["| " + " | ".join(HEAD) + " |", "|---" * len(HEAD) + "|"]
    for method in [*times, *CONTROLS]:
        own = [each for each in results if method in each.numbers]
        gain = _gains(own, method)
        cells = _costs(times[method]) if method in times else ["none", method, "", "0", "", "", ""]
        cells += [str(len(own)), *(_with_interval(each) for each in gain.T)]
        paired = [each for each in own if REFERENCE in each.numbers] if method != REFERENCE else []
        less = (_gains(paired, method) - _gains(paired, REFERENCE)).mean(axis=1) if paired else None
        cells.append("" if less is None else _with_interval(less, sign="+"))
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _gains(results: Sequence[Scored], method: str) -> FloatArray:
    """Insertion less deletion, a row per picture, a column per substrate."""
    return np.array([[each.numbers[method][f"srg.probability.{name}"] for name in SUBSTRATES] for each in results])


def _costs(found: dict[str, Any]) -> list[str]:
    pictures = list(found["pictures"].values())
    seconds = statistics.median(each["seconds"] for each in pictures)
    threads = f"; {found['threads']} thread" if found["threads"] else ""
    return [
        ", ".join(f"{name} {version}" for name, version in found["versions"].items()),
        found["method"],
        f"{found['setting']}{threads}",
        _counts(pictures),
        f"{seconds:.2f}",
        *(spread(ratios(found, clock)) for clock in ("seconds", "processor")),
    ]


def _counts(pictures: Sequence[dict[str, Any]]) -> str:
    """Medians of what was counted."""
    forward, backward = (statistics.median(each[kind] for each in pictures) for kind in ("forward", "backward"))
    if not forward:
        return "not counted"
    return f"{forward:,.0f}" + (f" + {backward:,.0f}" if backward else "")


def _with_interval(values: FloatArray, sign: str = "") -> str:
    found = interval(values)
    return f"{found.value:{sign}.3f} [{found.low:{sign}.3f}, {found.high:{sign}.3f}]"
