"""Pictures of maps, with matplotlib's ``Figure`` (never pyplot). Nothing is scaled but here."""

import threading
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure

from onnx_evidence.pictures import to_original
from onnx_evidence.results.sheet import Sheet
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


class _Kept(threading.local):
    """Sheets that a thread draws on again, without a standard error and with: to make one takes half of a figure."""

    def __init__(self) -> None:
        self.sheets: dict[bool, Sheet] = {}


def draw(explanation: "Explanation", limit: float | None = None, *, again: bool = False) -> Figure:
    """Photograph, evidence and overlay side by side, with a colour bar in the unit shown, which ends at ``limit``.

    Without it, it ends at the largest magnitude of the map. Where something was sampled, a fourth picture has the
    standard error, and evidence whose 95 % interval holds 0 is hatched. With ``again`` the figure may be one that was
    given before, and shows this map now.
    """
    sampled = explanation.sampled
    sheet = _kept.sheets.get(sampled) if again else None
    if sheet is None:
        sheet = Sheet.made(COLORS, *[ERROR_COLORS][:sampled])
    if again:
        _kept.sheets[sampled] = sheet
    sheet.clear()
    # The headline belongs to the middle picture: a title above all three would overlap with tall ones.
    titles = ["photograph", f"{plain(_headline(explanation))}\nevidence", "overlay", "standard error"]
    sheet.write(titles, [plain(_label(explanation)), explanation.shown_unit])
    sheet.place(explanation.placement.original, explanation.placement.seen())
    _fill(sheet, explanation, limit or float(np.abs(explanation.shown).max()) or 1.0)
    return sheet.figure


def _fill(sheet: Sheet, explanation: "Explanation", limit: float) -> None:
    """Show a map on a sheet."""
    pixels = explanation.photograph.pixels[:: _step(explanation), :: _step(explanation)]
    values = _in_photograph(explanation, explanation.shown)
    pictures = pixels, colorize(values, limit), overlay(pixels, values, limit)
    for image, picture in zip(sheet.images, pictures, strict=False):
        image.set_data(picture)
    sheet.scale.set_data(values)
    sheet.scale.set_clim(-limit, limit)
    if explanation.sampled:
        # White is exactly 0.
        errors = _in_photograph(explanation, np.nan_to_num(explanation.shown_stderr))
        image = sheet.images[3]
        image.set_data(errors)
        image.set_clim(0, float(errors.max()) or 1.0)
        untold = np.abs(values) < _in_photograph(explanation, np.nan_to_num(explanation.shown_margin))
        sheet.own += [_hatch(axis, untold) for axis in sheet.axes[1:3]]


def _step(explanation: "Explanation") -> int:
    """Pixels of the photograph per pixel that is drawn."""
    return -(-max(explanation.placement.original) // _LONGEST)


def _in_photograph(explanation: "Explanation", values: Features) -> Features:
    """A map of the model's input in the pixels that are drawn."""
    step = _step(explanation)
    return to_original(values, explanation.placement)[::step, ::step]


def _hatch(axis: Axes, mask: Mask) -> Artist:
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
    return hatched


def _label(explanation: "Explanation") -> str:
    """What colours mean, and below it the budget, and how far the strongest evidence is known."""
    unit = f"{explanation.shown_unit} for {explanation.title}"
    words = f"blue speaks against   |   {unit}   |   red speaks for"
    return f"{words}{_account(explanation)}{_intervals(explanation)}"


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
