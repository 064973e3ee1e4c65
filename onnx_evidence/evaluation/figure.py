"""The curves of pixel flipping as a figure."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from onnx_evidence.evaluation.flipping import SCALES
from onnx_evidence.evaluation.loop import Scored
from onnx_evidence.evaluation.summary import mean_curves

# Share of the figure's width that its legend may take.
_LEGEND = 0.97
_ORDERS = {"most": "-", "least": "--"}
_LABELS = {"probability": "probability of the class", "bits": "log-odds of the class, bits"}


def draw_curves(results: Sequence[Scored]) -> Figure:
    """Mean curves over pictures with their 95 % bands: a column per substrate, a row per scale, a colour per method.

    Solid lines remove the most relevant blocks first, dashed ones the least relevant: between the two lines of a method
    lies its symmetric relevance gain.
    """
    flips = results[0].flips
    methods, substrates = list(flips), list(next(iter(flips.values())))
    figure = Figure(figsize=(1 + 4.2 * len(substrates), 8.5), dpi=100, layout="constrained")
    axes = figure.subplots(len(SCALES), len(substrates), squeeze=False, sharex=True, sharey="row")
    for row, scale in zip(axes, SCALES, strict=True):
        row[0].set_ylabel(_LABELS[scale])
        for axis, substrate in zip(row, substrates, strict=True):
            for number, method in enumerate(methods):
                _draw(axis, results, method, substrate, scale, f"C{number % 10}")
    for axis, substrate in zip(axes[0], substrates, strict=True):
        axis.set_title(f"removed pixels: {substrate}", fontsize=10)
    for axis in axes[-1]:
        axis.set_xlabel("share of the blocks removed")
    _add_legend(figure, _legend(methods))
    return figure


def _add_legend(figure: Figure, lines: Sequence[Line2D]) -> None:
    """Below the curves, in as many columns as the figure is wide for: what names and fonts take is measured."""
    for columns in range(min(6, len(lines)), 0, -1):
        legend = figure.legend(handles=lines, loc="outside lower center", ncols=columns, fontsize=9)
        if columns == 1 or legend.get_window_extent().width < _LEGEND * figure.bbox.width:
            return
        legend.remove()


def _draw(axis: Axes, results: Sequence[Scored], method: str, substrate: str, scale: str, colour: str) -> None:
    removed = results[0].flips[method][substrate].removed
    for order, style in _ORDERS.items():
        value, low, high = mean_curves(results, method, substrate, order, scale)
        axis.plot(removed, value, style, color=colour, lw=1.3)
        axis.fill_between(removed, low, high, color=colour, alpha=0.12, lw=0)


def _legend(methods: Sequence[str]) -> list[Line2D]:
    lines = [Line2D([], [], color=f"C{number % 10}", label=method) for number, method in enumerate(methods)]
    names = {"most": "most relevant first", "least": "least relevant first"}
    return [*lines, *(Line2D([], [], color="0.3", ls=style, label=names[order]) for order, style in _ORDERS.items())]
