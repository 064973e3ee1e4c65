"""From numbers per picture to means with intervals, per method and against a reference method."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onnx_evidence.errors import SettingError
from onnx_evidence.evaluation.bootstrap import DRAWS, LEVEL, Interval, interval
from onnx_evidence.evaluation.loop import Plan, Scored
from onnx_evidence.evaluation.measures import MEASURES
from onnx_evidence.evaluation.mosaics import METRICS as MOSAIC_METRICS
from onnx_evidence.evaluation.mosaics import Answered
from onnx_evidence.evaluation.substrates import SUBSTRATES
from onnx_evidence.types import AnyArray, FloatArray

SCHEMA = 1
# What the names of metrics begin with, and what they mean.
METRICS = {
    "deletion": "area under the curve while the most relevant blocks are removed first; lower is better",
    "insertion": "the same while the most relevant blocks are restored first; higher is better",
    "srg": "symmetric relevance gain, least relevant first less most relevant first; higher is better, chance is 0",
    **{name: row.summary for name, row in MEASURES.items()},
    "stable.noise": "rank correlation with the map of the picture with every value changed by one grey level",
    "stable.shift": "rank correlation with the map of the picture moved by one pixel, moved back",
    "stable.seed": "rank correlation with the map of another seed",
    "seconds": "time per map; the median",
    "passes": "the same in plain forward passes of one picture; the median",
}
# Times have outliers: the first run of everything is slow.
_MEDIANS = ("seconds", "passes")


def column(results: Sequence[Scored], method: str, metric: str) -> FloatArray:
    """The numbers of one method and metric, one per picture; NaN where it is not defined."""
    return np.array([each.numbers[method][metric] for each in results])


def summarise(results: Sequence[Scored], plan: Plan, reference: str, *, judged: bool = False) -> dict[str, Any]:
    """Everything that is said of a run of one picture or more, as plain values; null where a number is not defined."""
    methods = list(results[0].numbers)
    check_reference(reference, methods)
    metrics = list(results[0].numbers[reference])
    found = {method: {metric: column(results, method, metric) for metric in metrics} for method in methods}
    found_methods, differences = _compared(found, reference, plan.seed)
    # Where targets are the true classes.
    accuracy = float(np.mean([each.top == each.target for each in results])) if judged else None
    return {
        "schema": SCHEMA,
        "pictures": len(results),
        "accuracy": accuracy,
        "plan": {"stability": plan.stability, "tolerance": plan.tolerance, "seed": plan.seed},
        "substrates": {name: _describe(name) for name in plan.substrates},
        "metrics": METRICS,
        "interval": {"level": LEVEL, "draws": DRAWS, "kind": "percentile bootstrap over pictures", "seed": plan.seed},
        "reference": reference,
        "methods": found_methods,
        "differences": differences,
    }


def summarise_mosaics(answered: Sequence[Answered], plan: Plan, reference: str) -> dict[str, Any] | None:
    """What is said of mosaics, intervals over these; None where there are none."""
    if not answered:
        return None
    numbers = {
        method: {metric: np.array([each.numbers[method][metric] for each in answered]) for metric in MOSAIC_METRICS}
        for method in answered[0].numbers
    }
    methods, differences = _compared(numbers, reference, plan.seed)
    return {
        "mosaics": len(answered),
        "metrics": MOSAIC_METRICS,
        "methods": methods,
        "differences": differences,
    }


def _compared(
    found: Mapping[str, Mapping[str, FloatArray]], reference: str, seed: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Means with intervals by method, and those of paired differences, method less reference."""
    differences = {
        method: {metric: each - found[reference][metric] for metric, each in numbers.items()}
        for method, numbers in found.items()
        if method != reference
    }
    means, gains = (
        {method: _intervals(numbers, seed) for method, numbers in each.items()} for each in (found, differences)
    )
    return means, gains


def check_reference(reference: str, methods: Sequence[str]) -> None:
    """Refuse a reference that is not among the methods."""
    if reference not in methods:
        raise SettingError(f"reference {reference!r} is not compared: take one of {', '.join(methods)}")


def _describe(name: str) -> dict[str, Any]:
    row = SUBSTRATES[name]
    return {"summary": row.summary, "blocks": [row.grid, row.grid], "steps": row.steps, "draws": row.draws}


def _intervals(numbers: Mapping[str, FloatArray], seed: int) -> dict[str, Any]:
    return {metric: _plain(interval(each, statistic=_statistic(metric), seed=seed)) for metric, each in numbers.items()}


def _statistic(metric: str) -> Any:
    return np.median if metric in _MEDIANS else np.mean


def _plain(found: Interval) -> dict[str, Any]:
    """With null for what is not a number."""
    return {name: None if np.isnan(value) else value for name, value in found._asdict().items()}


def mean_curves(results: Sequence[Scored], method: str, substrate: str, order: str, scale: str) -> AnyArray:
    """The mean curve over pictures and its interval, point by point, (3, P): value, low and high."""
    curves = np.array([getattr(getattr(each.flips[method][substrate], order), scale) for each in results])
    return np.array([interval(points)[:3] for points in curves.T]).T
