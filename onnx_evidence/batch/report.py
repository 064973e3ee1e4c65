"""What commands print of a batch for people."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from onnx_evidence.batch.compare import Difference
from onnx_evidence.batch.shards import Merged
from onnx_evidence.batch.summary import Group
from onnx_evidence.files import fit, shown


def run_summary(pictures: int, done: int, before: int, failed: int) -> str:
    """What became of all pictures asked for: explained now, finished before, or failed."""
    parts = [f"{done} explained"]
    parts += [f"{before} finished before"] * (before > 0)
    parts += [f"{failed} failed: failures.jsonl says why"] * (failed > 0)
    return f"{pictures} picture{'s' * (pictures != 1)}: {', '.join(parts)}"


def summary_table(classes: Sequence[Group], totals: Sequence[Group]) -> str:
    """Means over a `Cohort` for people: a line for each of the 20 most frequent classes, and those over all maps."""
    heads = [f"{head:>{width}}" for _, head, width, _ in _MEANS]
    lines = [f"{'class':24} {'maps':>6} {' '.join(heads)}"]
    for each in [*classes[:20], *totals]:
        cells = [
            f"{each.means[name]:{width}{shape}}" if name in each.means else f"{'-':>{width}}"
            for name, _, width, shape in _MEANS
        ]
        lines.append(f"{fit(each.name)} {each.maps:6} {' '.join(cells)}")
    if len(classes) > 20:
        lines.insert(21, f"... and {len(classes) - 20} classes more")
    return shown(*lines)


# Fields of a summary, how people read them, and their widths and shapes.
_MEANS = (
    ("probability", "p", 8, ".4f"),
    ("log_odds_bits", "log-odds", 9, ".2f"),
    ("for_bits", "for", 8, ".1f"),
    ("against_bits", "against", 8, ".1f"),
    ("inside", "inside", 8, ".1%"),
    ("unresolved", "unresolved", 10, ".1%"),
    ("seconds", "seconds", 8, ".2f"),
)


def without_figures(maps: int) -> str:
    """That maps which are there have no figures, and how to get them."""
    if maps == 1:
        have, stay = "1 map there has no figure", "stays"
    else:
        have, stay = f"{maps} maps there have no figures", "stay"
    return f"{have}, as made with --no-figures, and {stay} so: take another -o to have figures drawn"


def merge_summary(merged: Merged, out: Path) -> str:
    """What a merge into a folder did, in a line."""
    there = f", {merged.before} were there" if merged.before else ""
    failed = f", {merged.failures} failures listed" if merged.failures else ""
    return shown(f"{out}: {merged.maps} maps added{there}{failed}")


def verification_table(report: dict[str, Any]) -> str:
    """The report of ``verify``, from `recompute.verification`, for people: what is wrong, then the verdict."""
    lines = [f"{each['place']}: {each['what']}" for each in report["problems"]]
    lines += _more(report, "problems", "things are not as they were written")
    lines += [f"{image}: the picture is not there: pass --images DIR" for image in report["absent"]]
    lines += _more(report, "absent", "pictures are not there")
    counts = Counter(each["verdict"] for each in report["pictures"])
    lines += [_verdict(each, report["tolerance_bits"]) for each in report["pictures"] if each["verdict"] not in _PASSED]
    lines += [f"{each['place']}: {each['what']}" for each in report["unchecked"]]
    lines += _more(report, "unchecked", "things were not looked at")
    if count := report["failures"]:
        lines.append(f"{count} picture{'s' * (count != 1)} could not be explained: failures.jsonl says why")
    if not report["problems"] and report["head"] is None:
        lines.append("there is no map: nothing was verified")
    lines.append(f"{report['files']} files have the SHA-256 that the manifest says")
    if counts:
        largest = report["largest_deviation_bits"]
        most = "" if largest is None else f"; the largest deviation is {largest:.3g} bits"
        lines.append(f"computed again: {', '.join(f'{n} {name}' for name, n in counts.items())}{most}")
    lines.append(f"the model has SHA-256 {report['model'] or 'missing'}")
    lines.append(f"the manifest ends with seal {report['head'] or 'missing'}")
    return shown(*lines, f"verdict: {report['verdict']}")


def _more(report: dict[str, Any], name: str, what: str) -> list[str]:
    """What is to be said of those that are not named."""
    more = report[f"{name}_count"] - len(report[name])
    return [f"and {more} {what} besides these"] * (more > 0)


# Keys of a line that are named of a map; JSON has all.
_MOST_KEYS = 4
_PASSED = ("identical", "within tolerance")


def _verdict(found: dict[str, Any], tolerance: float) -> str:
    """What became of a map that did not pass."""
    by = f" by up to {found['deviation']:.3g} bits" if (found["deviation"] or 0) > tolerance else ""
    words = [_difference(each) for each in found["differences"]]
    more = [f"and {len(words) - _MOST_KEYS} keys more"] * (len(words) > _MOST_KEYS)
    said = "; ".join([*words[:_MOST_KEYS], *more])
    note = f" ({found['note']})" if found["note"] else ""
    return f"{found['map']}: {found['verdict']}{by}{': ' * bool(said)}{said}{note}"


def _difference(found: dict[str, Any]) -> str:
    if found["now"] is None and found["key"] == "the figure":
        return f"{found['key']} {found['there']}"
    return str(Difference(**found))
