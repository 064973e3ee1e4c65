"""The walk of `links` as a figure."""

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from onnx_evidence.results.figure import COLORS, plain
from onnx_evidence.types import Pixels

if TYPE_CHECKING:
    from onnx_evidence.evaluation.links import Links


def draw_links(links: "Links", inputs: Pixels, title: str) -> Figure:
    """The walk of `evaluation.walk`: one map per step over what the model saw, with what was simplified between them.

    Every map is scaled to its own largest magnitude: steps have different units.
    """
    columns = 4
    rows = -(-len(links.steps) // columns)
    figure = Figure(figsize=(3.4 * columns, 0.7 + 4.1 * rows), dpi=100, layout="compressed")
    figure.suptitle(plain(title), fontsize=11)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for number, (axis, link) in enumerate(zip(axes, links.steps, strict=False), start=1):
        height, width = inputs.shape[:2]
        limit = float(np.abs(link.values).max()) or 1.0
        axis.imshow(inputs @ np.array([0.299, 0.587, 0.114]), cmap="gray", extent=(0, width, height, 0))
        axis.imshow(
            link.values, cmap=COLORS, norm=Normalize(-limit, limit), extent=(0, width, height, 0),
            interpolation="bicubic", alpha=0.75,
        )  # fmt: skip
        known = "" if np.isnan(link.correlation) else f"\nrank correlation with {number - 1}: {link.correlation:+.2f}"
        axis.set_title(f"{number}. {link.name}\n{link.change}{known}", fontsize=9)
        axis.set_xticks([])
        axis.set_yticks([])
    for axis in axes[len(links.steps) :]:
        axis.set_axis_off()
    return figure
