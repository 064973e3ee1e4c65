"""What is written and printed of a run: a table for programs, and tables for people."""

import csv
import io
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from onnx_evidence.evaluation.loop import Scored
from onnx_evidence.evaluation.measures import MEASURES
from onnx_evidence.evaluation.mosaics import Answered
from onnx_evidence.files import finite_json, several, write_atomic
from onnx_evidence.pictures import printable
from onnx_evidence.results import write_figure

# Of so many pictures on, percentile intervals cover about what they claim.
_MANY = 20
COLUMNS = ("picture", "class", "method", "metric", "value")


def numbers_csv(results: Sequence[Scored], answered: Sequence[Answered] = ()) -> str:
    """All numbers, exactly: a line per picture, method and metric; the value is empty where a metric is not defined.

    A mosaic is a picture of four names and four classes, and its metrics begin with ``mosaic.``.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    asked = [(printable(each.path), str(each.target), "", each.numbers) for each in results]
    for each in answered:
        classes = " + ".join(map(str, each.mosaic.targets))
        asked.append((printable(each.mosaic.case.path), classes, "mosaic.", each.numbers))
    for picture, classes, start, found in asked:
        for method, numbers in found.items():
            for metric, value in numbers.items():
                writer.writerow([picture, classes, method, f"{start}{metric}", "" if np.isnan(value) else value])
    return stream.getvalue()


def comparison(summary: dict[str, Any]) -> str:
    """The tables that are printed.

    Parameters
    ----------
    summary : dict
        From `summary.summarise`.

    Returns
    -------
    str
        Several lines: relevance gain, deletion and insertion with intervals, then what is said of maps by themselves,
        then differences to the reference.
    """
    substrates = list(summary["substrates"])
    few = "" if summary["pictures"] >= _MANY else f"; fewer than {_MANY}: they are too narrow"
    lines = [f"{several(summary['pictures'], 'picture')}; 95 % intervals by bootstrap over pictures{few}"]
    if summary["accuracy"] is not None:
        lines.append(f"the model is right about {summary['accuracy']:.1%} of them")
    for title, metric in (
        ("symmetric relevance gain, probability (higher is better, chance is 0)", "srg.probability"),
        ("symmetric relevance gain, bits", "srg.bits"),
        ("deletion, probability (lower is better)", "deletion.probability"),
        ("insertion, probability (higher is better)", "insertion.probability"),
    ):
        lines += _table(title, summary["methods"], {name: f"{metric}.{name}" for name in substrates})
    lines += _table("maps by themselves", summary["methods"], _of_maps(summary), interval=False)
    for scale in ("probability", "bits"):
        title = f"symmetric relevance gain, {scale}, less that of {summary['reference']}"
        wanted = {name: f"srg.{scale}.{name}" for name in substrates}
        lines += _table(title, summary["differences"], wanted, sign="+")
    return "\n".join(lines + _of_mosaics(summary))


def _of_mosaics(summary: dict[str, Any]) -> list[str]:
    mosaics = summary["mosaics"]
    if mosaics is None:
        return []
    title = f"{several(mosaics['mosaics'], 'mosaic')} of four pictures (chance is 0.25)"
    columns = {name: name for name in mosaics["metrics"]}
    less = f"mosaics, less {summary['reference']}"
    return _table(title, mosaics["methods"], columns) + _table(less, mosaics["differences"], columns, sign="+")


def _of_maps(summary: dict[str, Any]) -> dict[str, str]:
    measured = summary["methods"][summary["reference"]]
    heads = {
        **{row.head: name for name, row in MEASURES.items()},
        "+-1 grey": "stable.noise",
        "1 px": "stable.shift",
        "seeds": "stable.seed",
        "seconds": "seconds",
        "passes": "passes",
    }
    return {head: metric for head, metric in heads.items() if metric in measured}


def _table(
    title: str, methods: dict[str, Any], columns: dict[str, str], *, interval: bool = True, sign: str = ""
) -> list[str]:
    width = 26 if interval else 10
    lines = ["", title, f"  {'method':22}" + "".join(f"{head:>{width}}" for head in columns)]
    for method, numbers in methods.items():
        cells = (_cell(numbers[metric], interval, sign) for metric in columns.values())
        lines.append(f"  {method:22}" + "".join(f"{cell:>{width}}" for cell in cells))
    return lines


def _cell(found: dict[str, Any], interval: bool, sign: str) -> str:
    if found["value"] is None:
        return "-"
    text = _number(found["value"], sign)
    if not interval or found["low"] is None:
        return text
    return f"{text} [{_number(found['low'], sign)}, {_number(found['high'], sign)}]"


def _number(value: float, sign: str) -> str:
    """Three digits behind the point, fewer where there are many before it."""
    digits = 3 if abs(value) < 10 else 1 if abs(value) < 1000 else 0
    return f"{value:{sign}.{digits}f}"


def write_report(
    out: Path, results: Sequence[Scored], summary: dict[str, Any], answered: Sequence[Answered] = ()
) -> None:
    """Write numbers.csv, summary.json and curves.png, each whole or not at all."""
    from onnx_evidence.evaluation.figure import draw_curves  # matplotlib is slow to import; only pictures need it

    texts = {"numbers.csv": numbers_csv(results, answered), "summary.json": finite_json(summary, indent=2) + "\n"}
    for name, text in texts.items():
        write_atomic(out / name, partial(_write, text))
    if summary["substrates"]:
        write_atomic(out / "curves.png", partial(write_figure, draw_curves(results)))


def _write(text: str, stream: BinaryIO) -> None:
    stream.write(text.encode())
