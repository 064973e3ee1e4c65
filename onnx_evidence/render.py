"""Pictures of maps, with matplotlib's ``Figure`` (never pyplot). Nothing is scaled but here."""

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from onnx_evidence.placement import to_original
from onnx_evidence.types import AnyArray, Features, Pixels

if TYPE_CHECKING:
    from onnx_evidence.explanation import Explanation
    from onnx_evidence.links import Links

# Blue, white, red with an odd number of entries: the middle one is pure white, so 0 is exactly white.
COLORS = LinearSegmentedColormap.from_list(
    "evidence", ["#08306b", "#2166ac", "#92c5de", "#ffffff", "#f4a582", "#b2182b", "#67000d"], N=257
)
# Pictures are shown at most this many pixels long; maps keep their full size in the .npz.
_LONGEST = 1000


def colorize(values: AnyArray, limit: float) -> AnyArray:
    """Colours of a map.

    Parameters
    ----------
    values : ndarray of float32, shape (H, W)
        Bits.
    limit : float
        Bits at full red; full blue is at -limit.

    Returns
    -------
    ndarray of uint8, shape (H, W, 4)
        RGBA; 0 is exactly white.
    """
    colours: AnyArray = COLORS(Normalize(-limit, limit)(values), bytes=True)
    return colours


def overlay(pixels: Pixels, values: Features, limit: float) -> AnyArray:
    """The grey photograph under the map; the stronger the evidence, the more colour.

    Parameters
    ----------
    pixels : ndarray of uint8, shape (H, W, 3)
        The photograph, RGB.
    values : ndarray of float32, shape (H, W)
        Bits.
    limit : float
        Bits at which colour is strongest, on either side; above 0.

    Returns
    -------
    ndarray of uint8, shape (H, W, 3)
        RGB; the grey photograph where the map is 0.
    """
    # Lightened, so that colour shows on dark cloth too.
    grey = 60 + 0.75 * (pixels @ np.array([0.299, 0.587, 0.114]))[..., None]
    # Half of the limit has full colour: what matters shows, and how much it does is the other picture's to say.
    strength = np.clip(2 * np.abs(values) / limit, 0, 1)[..., None] ** 0.8 * 0.75
    colour = colorize(np.sign(values) * 0.66 * limit, limit)[..., :3]
    mixed: AnyArray = (1 - strength) * grey + strength * colour
    return mixed.round().astype(np.uint8)


def draw(explanation: "Explanation", limit: float | None = None) -> Figure:
    """Photograph, evidence and overlay side by side, with a colour bar in bits.

    Parameters
    ----------
    explanation : Explanation
        What to draw.
    limit : float, optional
        In the unit shown, at the ends of the colour bar; the largest magnitude of the map by default.

    Returns
    -------
    matplotlib.figure.Figure
    """
    step = -(-max(explanation.placement.original) // _LONGEST)
    pixels = explanation.photograph.pixels[::step, ::step]
    values = to_original(explanation.shown, explanation.placement)[::step, ::step]
    limit = limit or float(np.abs(explanation.shown).max()) or 1.0
    height, width = values.shape
    figure = Figure(figsize=(13.5, 1.9 + 4.2 * min(max(height / width, 0.2), 2.2)), dpi=100, layout="compressed")
    axes = figure.subplots(1, 3)
    shown = (pixels, colorize(values, limit), overlay(pixels, values, limit))
    extent = (0, explanation.placement.original[1], explanation.placement.original[0], 0)
    # The headline belongs to the middle picture: a title above all three would overlap with tall ones.
    titles = ("photograph", f"{_plain(_headline(explanation))}\nevidence", "overlay")
    for axis, picture, title in zip(axes, shown, titles, strict=True):
        axis.imshow(picture, extent=extent)
        axis.set_title(title, fontsize=10)
        axis.set_xticks([])
        axis.set_yticks([])
        top, left, bottom, right = explanation.placement.seen()
        # What lies outside this frame was cropped away before the model looked.
        axis.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, color="0.5", lw=0.8, ls=":"))
    scale = axes[1].imshow(values, cmap=COLORS, norm=Normalize(-limit, limit), extent=extent, visible=False)
    bar = figure.colorbar(scale, ax=axes, location="bottom", shrink=0.5, aspect=40)
    unit = f"{explanation.shown_unit} for {explanation.title}"
    bar.set_label(_plain(f"blue speaks against   |   {unit}   |   red speaks for{_account(explanation)}"))
    return figure


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


def _plain(text: str) -> str:
    """Text that matplotlib will not take for a formula."""
    return text.replace("$", r"\$")


def draw_links(links: "Links", inputs: Pixels, title: str) -> Figure:
    """The walk of `links.walk`: one map per step over the picture, with what was simplified between them.

    Parameters
    ----------
    links : Links
        What to draw.
    inputs : ndarray of uint8, shape (H, W, 3)
        The part of the photograph that the model saw, at its size.
    title : str
        Headline.

    Returns
    -------
    matplotlib.figure.Figure
        Every map is scaled to its own largest magnitude: steps have different units.
    """
    columns = 4
    rows = -(-len(links.steps) // columns)
    figure = Figure(figsize=(3.4 * columns, 0.7 + 4.1 * rows), dpi=100, layout="compressed")
    figure.suptitle(_plain(title), fontsize=11)
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
