"""Where pictures, titles and bars of a figure are: reckoned from the photograph's shape and how many lines texts have.

Matplotlib's own layout draws every text to measure it, and takes longer than all the rest of a figure.
"""

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle

# Letters are of one size, and as far from what they name, in points, whatever matplotlib is set to; so are ticks.
_LETTERS = 10
_TITLE: dict[str, Any] = {"fontsize": _LETTERS, "loc": "center", "y": 1.0, "pad": 6, "usetex": False}
_LABEL: dict[str, Any] = {"fontsize": _LETTERS, "loc": "center", "labelpad": 4, "usetex": False}
_TICKS: dict[str, Any] = {"labelsize": _LETTERS, "length": 3.5, "pad": 3.5}
# Of a line across three pictures.
_MOST_LETTERS = 130
DPI = 100
# All lengths below are inches.
# From picture to picture, for wide ones and at least; between them, and around all.
_PITCH, _LEAST, _GAP, _EDGE = 4.5, 2.0, 0.15, 0.08
# Pictures are no higher than this; the shallowest have so much room.
_HIGHEST, _LOWEST = 9.2, 0.85
# One line of text with what parts it from the next; between titles and pictures; between pictures and the bar.
_LINE, _ABOVE, _BELOW = 0.19, 0.1, 0.13
# The bar, and what its ticks and their numbers take.
_BAR, _NUMBERS = (6.6, 0.165), 0.3
# The bar of the standard error: how far to the right, how wide, how high at least, and what its numbers and label take.
_SIDE, _SIDE_BAR, _SIDE_LEAST, _SIDE_LABEL = 0.12, 0.14, 0.7, 0.95


@dataclass
class Sheet:
    """A figure, and what in it changes from one map to the next: pictures side by side, of which three share a bar.

    A fourth has the standard error, with a bar of its own to the right.
    """

    figure: Figure
    axes: tuple[Axes, ...]
    images: tuple[AxesImage, ...]
    # Around what the model saw: what lies outside was cropped away before it looked.
    frames: tuple[Rectangle, ...]
    # Of the map's bits, unseen: what the bar is for.
    scale: AxesImage
    bars: tuple[Colorbar, ...]
    # What this map alone has.
    own: list[Artist] = field(default_factory=list)

    @classmethod
    def made(cls, colors: Colormap, *errors: Colormap) -> "Sheet":
        """An empty one, with a picture of the standard error where there are colours for it."""
        count = 3 + len(errors)
        figure = Figure(dpi=DPI)
        figure.set_layout_engine("none")
        # Somewhere: `place` says where.
        axes = tuple(figure.add_axes((0.0, 0.0, 1.0, 1.0), label=str(number)) for number in range(count))
        for axis in axes:
            axis.set_xticks([])
            axis.set_yticks([])
        images = tuple(axis.imshow(np.zeros((1, 1, 4), np.uint8), origin="upper") for axis in axes)
        dotted: dict[str, Any] = {"fill": False, "color": "0.5", "lw": 0.8, "ls": ":"}
        frames = tuple(Rectangle((0, 0), 1, 1, **dotted) for _ in axes)
        for axis, frame in zip(axes, frames, strict=True):
            axis.add_patch(frame)
        scale = axes[1].imshow(np.zeros((1, 1)), cmap=colors, visible=False, origin="upper")
        shown = [(scale, "horizontal")]
        for cmap in errors:
            images[-1].set_cmap(cmap)
            images[-1].set_data(np.zeros((1, 1)))
            shown.append((images[-1], "vertical"))
        bars = tuple(
            figure.colorbar(image, cax=figure.add_axes((0.0, 0.0, 1.0, 1.0), label=way), orientation=way, format="%.3g")
            for image, way in shown
        )
        for bar in bars:
            bar.ax.tick_params(**_TICKS)
        return cls(figure, axes, images, frames, scale, bars)

    def clear(self) -> None:
        """Take away what the map before alone had."""
        for artist in self.own:
            artist.remove()
        self.own.clear()

    def write(self, titles: Iterable[str], labels: Iterable[str]) -> None:
        """Titles above pictures, labels of bars; those of what there is none of are left out."""
        for axis, title in zip(self.axes, titles, strict=False):
            axis.set_title(_wrapped(title), **_TITLE)
        for bar, label in zip(self.bars, labels, strict=False):
            bar.set_label(_wrapped(label), **_LABEL)

    def place(self, original: tuple[int, int], seen: tuple[float, float, float, float]) -> None:
        """Make it one for photographs of that height and width, of which the model saw what is inside of a frame."""
        height, width = original
        top, left, bottom, right = seen
        for image in (*self.images, self.scale):
            image.set_extent((0, width, height, 0))
        for axis, frame in zip(self.axes, self.frames, strict=True):
            axis.set_xlim(0, width)
            axis.set_ylim(height, 0)
            frame.set_bounds(left, top, right - left, bottom - top)
        self._arrange(height / width)

    def _arrange(self, aspect: float) -> None:
        """Give everything its place, by what is written now."""
        count = len(self.axes)
        wide = min(_PITCH - _GAP, _HIGHEST / aspect)
        high, pitch = wide * aspect, max(wide, _LEAST) + _GAP
        room = max(high, _LOWEST)
        above = _ABOVE + _LINE * max(axis.get_title().count("\n") + 1 for axis in self.axes)
        below = _BELOW + _BAR[1] + _NUMBERS + _LINE * (self.bars[0].ax.get_xlabel().count("\n") + 1)
        size = _PITCH * count + _SIDE_LABEL * (count - 3), _EDGE + above + room + below + _EDGE
        first = (_PITCH * count - pitch * count) / 2
        middles = [first + (number + 0.5) * pitch for number in range(count)]
        floor = _EDGE + below + (room - high) / 2
        boxes = [(middle - wide / 2, floor, wide, high) for middle in middles]
        boxes.append((middles[1] - _BAR[0] / 2, _EDGE + below - _BELOW - _BAR[1], *_BAR))
        side = max(0.8 * high, min(_SIDE_LEAST, room))
        boxes.append((middles[-1] + wide / 2 + _SIDE, floor + (high - side) / 2, _SIDE_BAR, side))
        self.figure.set_size_inches(*size)
        for axis, (left, bottom, *extent) in zip((*self.axes, *(bar.ax for bar in self.bars)), boxes, strict=False):
            axis.set_position((left / size[0], bottom / size[1], extent[0] / size[0], extent[1] / size[1]))


def _wrapped(text: str) -> str:
    """A text whose long lines go on below."""
    return "\n".join(part for line in text.split("\n") for part in textwrap.wrap(line, _MOST_LETTERS) or [""])
