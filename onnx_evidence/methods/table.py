"""The rows that ``--method`` names.

Five engines serve all methods: removal of windows, integration along a path, one gradient, masks, and an order refined
by gradients. A method is an engine at a kind of cut with its customary numbers.
"""

from dataclasses import dataclass

# Options that some methods have no use for.
OPTIONS = tuple("window stride samples background statistic score steps completeness project laplace tolerance".split())
# Who has a use for which, by engine.
_USES = {
    "path": "background statistic score steps completeness project samples",
    "removal": "window stride samples background laplace tolerance",
    "slope": "score",
    "mask": "",
    "order": "background",
}


@dataclass(frozen=True)
class Method:
    """A row of the table of methods.

    Attributes
    ----------
    summary : str
        One line of help.
    engine : {'path', 'removal', 'slope', 'mask', 'order'}
        What computes it: `integration`, `removal`, `slopes`, `masked` or `ordered`.
    at : {'input', 'cuts', 'last', 'either'}
        Where it cuts: at the model's input, at the cuts of ``--layer``, at one, by default the last with a grid, or
        at the input unless ``--layer`` names cuts.
    unit : str
        Of the map, per pixel of the model's input.
    window : int or None
        Side of the window in cells; None for a fifth of the grid.
    stride : int or None
        Cells from window to window; None for a third of the window.
    samples : int
        Draws: per window, or of pictures, or of noise, or of masks.
    needs_file : bool
        Whether a fitted background is part of its definition.
    background : str
        What stands in for removed features by default.
    also : str
        Options that it has a use for besides those that every method of its engine has.
    """

    summary: str
    engine: str
    at: str
    unit: str = "bits per pixel"
    window: int | None = None
    stride: int | None = None
    samples: int = 8
    needs_file: bool = False
    background: str = "mean"
    also: str = ""

    @property
    def at_input(self) -> bool:
        """Whether it cuts at the model's input, unless told otherwise."""
        return self.at in ("input", "either")

    @property
    def uses(self) -> frozenset[str]:
        """Options that it has a use for, of those in `OPTIONS`."""
        return frozenset(_USES[self.engine].split()) | frozenset(self.also.split())

    @property
    def adds_up(self) -> bool:
        """Whether a map is made of bits that can be summed over any region."""
        return self.unit == "bits per pixel"


_SLOPE = "bits per unit of the input"
_ARBITRARY = "arbitrary unit"
_MASKS = 4000

METHODS = {
    "integrated": Method(
        "evidence integrated along paths in hidden features; adds up", "path", "cuts", background="blur+mean"
    ),
    "ordered": Method(
        "evidence of cells in the order that predicts their removal best, refined from integrated; adds up",
        "order",
        "input",
        background="blur+mean",
    ),
    "window": Method("windows of hidden features removed; only the tail runs again", "removal", "cuts", "bits"),
    "occlusion": Method("windows of pixels, replaced by a constant (Zeiler & Fergus 2014)", "removal", "input", "bits"),
    "pda": Method(
        "windows of pixels, drawn from their surroundings (Zintgraf 2017: 10 x 10, 10 samples, stride 1)",
        "removal",
        "input",
        "bits",
        window=10,
        stride=1,
        samples=10,
        needs_file=True,
    ),
    "integrated-gradients": Method("the same path in pixels (Sundararajan 2017)", "path", "input", background="zero"),
    "gradient": Method("size of the gradient by pixels (Simonyan 2013)", "slope", "input", _SLOPE),
    "smoothgrad": Method(
        "its mean over noisy pictures (Smilkov 2017)", "slope", "input", _SLOPE, samples=25, also="samples"
    ),
    "guided-backprop": Method("with rectified cotangents (Springenberg 2014)", "slope", "input", _SLOPE),
    "gradient-x-input": Method("gradient times pixels", "slope", "input"),
    "taylor-evidence": Method(
        "first-order evidence: gradient times what features differ from the background by",
        "slope",
        "cuts",
        also="background statistic",
    ),
    "hirescam": Method("gradient times features (Draelos 2020)", "slope", "last"),
    "grad-cam": Method("pooled gradient times features, signed (Selvaraju 2017)", "slope", "last"),
    "grad-cam++": Method("its weighted form (Chattopadhay 2018)", "slope", "last", _ARBITRARY),
    "layercam": Method("positive gradient times features (Jiang 2021)", "slope", "last"),
    "rise": Method(
        "mean of random masks, weighted with the probability behind them (Petsiuk 2018)",
        "mask",
        "either",
        "probability",
        samples=_MASKS,
        background="zero",
        also="samples background statistic",
    ),
    "rise-evidence": Method(
        "bits that the log-odds rise when a place is shown, from the same masks",
        "mask",
        "either",
        "bits",
        samples=_MASKS,
        background="zero",
        also="samples background statistic score",
    ),
    "recipro-cam": Method(
        "probability with one cell left at a time (Byun 2022)",
        "mask",
        "last",
        "probability",
        background="zero",
        also="background statistic",
    ),
    "ablation-cam": Method(
        "features weighted by what the logit loses without their channel, signed (Desai 2020)",
        "mask",
        "last",
        _ARBITRARY,
        background="zero",
    ),
    "score-cam": Method(
        "features weighted by the logit of the picture behind them (Wang 2020)",
        "mask",
        "last",
        _ARBITRARY,
        background="zero",
    ),
}
