"""Pictures of maps, with matplotlib's ``Figure`` (never pyplot). Nothing is scaled but here."""

import threading
import warnings
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colorbar import Colorbar
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from matplotlib.transforms import Bbox

from onnx_evidence.pictures import to_original
from onnx_evidence.types import AnyArray, Features, Mask, Pixels

if TYPE_CHECKING:
    from onnx_evidence.results.explanation import Explanation

# Blue, white, red with an odd number of entries: the middle one is pure white, so 0 is exactly white.
COLORS = LinearSegmentedColormap.from_list(
    "evidence", ["#08306b", "#2166ac", "#92c5de", "#ffffff", "#f4a582", "#b2182b", "#67000d"], N=257
)
# Of the standard error: white is 0.
ERROR_COLORS = LinearSegmentedColormap.from_list("error", ["#ffffff", "#9e9ac8", "#3f007d"])
HATCH = "////"
# Below the pictures; the size of titles above them, in points.
_BAR: dict[str, Any] = {"location": "bottom", "shrink": 0.5, "aspect": 40}
_TITLE = 10
# Heights of a width beyond which figures are laid out one by one.
_TALL = 20
# Letters that neither rise above an l nor fall below the line.
_LOW = frozenset("abcdefhiklmnorstuvwxzABCDEFGHIKLMNOPRSTUVWXYZ0123456789 .+-=")
# Pictures are shown at most this many pixels long; maps keep their full size in the .npz.
_LONGEST = 1000


def colorize(values: AnyArray, limit: float) -> AnyArray:
    """Colours, uint8 RGBA (H, W, 4), of bits (H, W): 0 is exactly white, ``limit`` full red and -limit full blue."""
    colours: AnyArray = COLORS(Normalize(-limit, limit)(values), bytes=True)
    return colours


def overlay(pixels: Pixels, values: Features, limit: float) -> AnyArray:
    """The grey photograph under the map, uint8 RGB (H, W, 3); the stronger the evidence, the more colour.

    ``pixels`` are the same of the photograph, ``values`` are bits (H, W); where they are 0 the grey photograph stays,
    and at ``limit`` bits (above 0), on either side, colour is strongest.
    """
    # Lightened, so that colour shows on dark cloth too.
    grey = 60 + 0.75 * (pixels @ np.array([0.299, 0.587, 0.114]))[..., None]
    # Half of the limit has full colour: what matters shows, and how much it does is the other picture's to say.
    strength = np.clip(2 * np.abs(values) / limit, 0, 1)[..., None] ** 0.8 * 0.75
    colour = colorize(np.sign(values) * 0.66 * limit, limit)[..., :3]
    mixed: AnyArray = (1 - strength) * grey + strength * colour
    return mixed.round().astype(np.uint8)


@dataclass(frozen=True)
class _Sheet:
    """A figure, and what in it changes from one map to the next."""

    figure: Figure
    axes: tuple[Axes, ...]
    images: tuple[AxesImage, ...]
    # Around what the model saw: what lies outside was cropped away before it looked.
    frames: tuple[Rectangle, ...]
    # Of the map's bits, unseen: what the bar is for.
    scale: AxesImage
    bar: Colorbar

    @classmethod
    def made(cls, count: int, layout: Literal["none", "compressed"]) -> "_Sheet":
        """An empty one of so many pictures, of which the first three share a bar."""
        figure = Figure(dpi=100)
        figure.set_layout_engine(layout)
        axes = figure.subplots(1, count)
        for axis in axes:
            axis.set_xticks([])
            axis.set_yticks([])
        images = tuple(axis.imshow(np.zeros((1, 1, 4), np.uint8)) for axis in axes)
        frames = tuple(
            axis.add_patch(Rectangle((0, 0), 1, 1, fill=False, color="0.5", lw=0.8, ls=":")) for axis in axes
        )
        scale = axes[1].imshow(np.zeros((1, 1)), cmap=COLORS, visible=False)
        return cls(figure, tuple(axes), images, frames, scale, figure.colorbar(scale, ax=axes[:3], **_BAR))

    def place(self, original: tuple[int, int], seen: tuple[float, float, float, float]) -> None:
        """Make it one for photographs of that height and width, of which the model saw what is inside of a frame."""
        height, width = original
        top, left, bottom, right = seen
        size = (4.5 * len(self.axes), 1.9 + 4.2 * min(max(height / width, 0.2), 2.2))
        self.figure.set_size_inches(*size)
        for image in (*self.images, self.scale):
            image.set_extent((0, width, height, 0))
        for axis, frame in zip(self.axes, self.frames, strict=True):
            axis.set_xlim(0, width)
            axis.set_ylim(height, 0)
            frame.set_bounds(left, top, right - left, bottom - top)


class _Kept(threading.local):
    """A sheet of three pictures that a thread draws on again: to make one takes half of the time of a figure."""

    @cached_property
    def sheet(self) -> _Sheet:
        return _Sheet.made(3, "none")


def draw(explanation: "Explanation", limit: float | None = None, *, again: bool = False) -> Figure:
    """Photograph, evidence and overlay side by side, with a colour bar in the unit shown, which ends at ``limit``.

    Without it, it ends at the largest magnitude of the map. Where something was sampled, a fourth picture has the
    standard error, and evidence whose 95 % interval holds 0 is hatched. With ``again`` the figure may be one that was
    given before, and shows this map now.
    """
    height, width = explanation.placement.original
    # Below very tall pictures the bar is so short that its numbers stand out at its sides.
    placed = not explanation.sampled and height <= _TALL * width
    # What is laid out, or drawn beside a standard error, is not taken back so easily.
    if again and placed:
        sheet = _kept.sheet
    else:
        sheet = _Sheet.made(3 + explanation.sampled, "none" if placed else "compressed")
    sheet.place((height, width), explanation.placement.seen())
    titles, label = _fill(sheet, explanation, limit or float(np.abs(explanation.shown).max()) or 1.0)
    if placed:
        size = tuple(sheet.figure.get_size_inches())
        places = _places(size, (height, width), tuple(map(_height_of, titles)), _height_of(label))
        for axis, place in zip((*sheet.axes, sheet.bar.ax), places, strict=True):
            axis.set_position(place)
    return sheet.figure


def _fill(sheet: _Sheet, explanation: "Explanation", limit: float) -> tuple[list[str], str]:
    """Show a map on a sheet; the titles above its pictures, and the label below."""
    pixels = explanation.photograph.pixels[:: _step(explanation), :: _step(explanation)]
    values = _in_photograph(explanation, explanation.shown)
    # The headline belongs to the middle picture: a title above all three would overlap with tall ones.
    titles = ["photograph", f"{plain(_headline(explanation))}\nevidence", "overlay"]
    pictures = [pixels, colorize(values, limit), overlay(pixels, values, limit)]
    for axis, image, picture, title in zip(sheet.axes, sheet.images, pictures, titles, strict=False):
        image.set_data(picture)
        axis.set_title(title, fontsize=_TITLE)
    sheet.scale.set_data(values)
    sheet.scale.set_clim(-limit, limit)
    unit = f"{explanation.shown_unit} for {explanation.title}"
    words = f"blue speaks against   |   {unit}   |   red speaks for{_account(explanation)}{_intervals(explanation)}"
    label = plain(words)
    sheet.bar.set_label(label)
    if explanation.sampled:
        for axis in sheet.axes[1:3]:
            _hatch(axis, np.abs(values) < _in_photograph(explanation, np.nan_to_num(explanation.shown_margin)))
        _draw_error(sheet, explanation)
    return titles, label


@lru_cache(maxsize=256)
def _places(
    size: tuple[float, float], original: tuple[int, int], titles: tuple[str, ...], label: str
) -> tuple[Bbox, ...]:
    """Where the three pictures and the bar below them are, which takes longer to find than all else to draw.

    Matplotlib lays a figure out by the shape of its pictures and how high its texts are: for the same of both it is
    done once. (A standard error has numbers at its side, whose width matters.)
    """
    figure = Figure(figsize=size, dpi=100, layout="compressed")
    axes = figure.subplots(1, 3)
    height, width = original
    for axis, title in zip(axes, titles, strict=True):
        image = axis.imshow(np.zeros((1, 1)), extent=(0, width, height, 0))
        axis.set_title(title, fontsize=_TITLE)
        axis.set_xticks([])
        axis.set_yticks([])
    bar = figure.colorbar(image, ax=axes, **_BAR)
    bar.set_label(label)
    with warnings.catch_warnings():
        # As where figures are written: letters that the font lacks are drawn as boxes.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.draw_without_rendering()
    return tuple(axis.get_position(original=True) for axis in (*axes, bar.ax))


def _height_of(text: str) -> str:
    """A text that is as high, line by line: of letters that are no higher than an l one is enough, of others each."""
    lines = ({letter if letter not in _LOW else "l" for letter in line} for line in text.split("\n"))
    return "\n".join("".join(sorted(letters)) for letters in lines)


def _step(explanation: "Explanation") -> int:
    """Pixels of the photograph per pixel that is drawn."""
    return -(-max(explanation.placement.original) // _LONGEST)


def _in_photograph(explanation: "Explanation", values: Features) -> Features:
    """A map of the model's input in the pixels that are drawn."""
    step = _step(explanation)
    return to_original(values, explanation.placement)[::step, ::step]


def _hatch(axis: Axes, mask: Mask) -> None:
    """Hatch the part of a picture where ``mask`` is set."""
    limits = axis.get_xlim(), axis.get_ylim()
    (left, right), (bottom, top) = limits
    # A rim of copies reaches the border from the outermost pixels' centres, and makes two of one row.
    rimmed = np.pad(mask, 1, mode="edge").astype(np.float64)
    rows, cols = (np.arange(-0.5, side + 1) / side for side in mask.shape)
    hatched = axis.contourf(
        left + cols * (right - left), top + rows * (bottom - top), rimmed,
        levels=[0.5, 1.5], colors="none", hatches=[HATCH],
    )  # fmt: skip
    hatched.set_edgecolor("0.5")
    hatched.set_linewidth(0)
    axis.set_xlim(limits[0])
    axis.set_ylim(limits[1])


def _draw_error(sheet: _Sheet, explanation: "Explanation") -> None:
    """The map of the standard error, with a colour bar of its own: white is exactly 0."""
    errors = _in_photograph(explanation, np.nan_to_num(explanation.shown_stderr))
    axis, image = sheet.axes[3], sheet.images[3]
    image.set_data(errors)
    image.set_cmap(ERROR_COLORS)
    image.set_clim(0, float(errors.max()) or 1.0)
    axis.set_title("standard error", fontsize=_TITLE)
    # Upright, so that its label cannot run into the other bar's however narrow pictures are.
    bar = sheet.figure.colorbar(image, ax=axis, location="right", aspect=20, shrink=0.8)
    bar.set_label(f"standard error, {explanation.shown_unit}")


def _intervals(explanation: "Explanation") -> str:
    """What the hatching means, and the strongest evidence with its intervals, on a line of their own."""
    if not explanation.sampled:
        return ""
    unit = explanation.shown_unit
    ends = (
        f"{side} {each.bits:+.2f} ± {each.margin:.2f}"
        for side, each in (("for", explanation.strongest(1)), ("against", explanation.strongest(-1)))
    )
    return f"\nhatched: cannot be told from 0 (95 % interval)   |   strongest {', '.join(ends)} {unit} (95 %)"


def _account(explanation: "Explanation") -> str:
    """The budget on a line of its own."""
    if (budget := explanation.budget) is None:
        return ""
    return (
        f"\n{budget.with_features:+.1f} bits with all features, {budget.without:+.1f} without: evidence for "
        f"{budget.supporting:+.1f}, against {budget.opposing:+.1f}, unaccounted {budget.gap:.2f}"
    )


def _headline(explanation: "Explanation") -> str:
    cuts = ", ".join(cut["name"] for cut in explanation.record["cuts"])
    return (
        f"{explanation.photograph.name.rsplit('/', 1)[-1]}  -  {explanation.title}  -  p({explanation.target.label}) = "
        f"{explanation.probability:.3g}  -  cut {cuts}"
    )


def plain(text: str) -> str:
    """Text that matplotlib will not take for a formula."""
    return text.replace("$", r"\$")


_kept = _Kept()
