"""Pictures of maps, with matplotlib's ``Figure`` (never pyplot). Nothing is scaled but here."""

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from onnx_evidence.types import AnyArray, Features, Pixels

if TYPE_CHECKING:
    from onnx_evidence.explanation import Explanation

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
    strength = np.clip(np.abs(values) / limit, 0, 1)[..., None] ** 0.8 * 0.75
    colour = colorize(np.sign(values) * 0.62 * limit, limit)[..., :3]
    mixed: AnyArray = (1 - strength) * grey + strength * colour
    return mixed.round().astype(np.uint8)


def draw(explanation: "Explanation", limit: float | None = None) -> Figure:
    """Photograph, evidence and overlay side by side, with a colour bar in bits.

    Parameters
    ----------
    explanation : Explanation
        What to draw.
    limit : float, optional
        Bits at the ends of the colour bar; the largest magnitude of the map by default.

    Returns
    -------
    matplotlib.figure.Figure
    """
    step = -(-max(explanation.placement.original) // _LONGEST)
    pixels, values = explanation.photograph.pixels[::step, ::step], explanation.pixels[::step, ::step]
    limit = limit or float(np.abs(explanation.values).max()) or 1.0
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
    bar.set_label(_plain(f"blue speaks against   |   bits for {explanation.title}   |   red speaks for"))
    return figure


def _headline(explanation: "Explanation") -> str:
    cuts = ", ".join(cut["name"] for cut in explanation.record["cuts"])
    return (
        f"{explanation.photograph.name.rsplit('/', 1)[-1]}  -  {explanation.title}  -  p({explanation.target.label}) = "
        f"{explanation.probability:.3g}  -  cut {cuts}"
    )


def _plain(text: str) -> str:
    """Text that matplotlib will not take for a formula."""
    return text.replace("$", r"\$")
