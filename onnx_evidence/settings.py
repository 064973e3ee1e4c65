"""What can be set, and the rows that ``--method`` names.

Three engines serve all methods: removal of windows, integration along a path, and one gradient. A method is an
engine at a kind of cut with its customary numbers.
"""

from dataclasses import dataclass
from pathlib import Path

from onnx_evidence.choose import AUTO
from onnx_evidence.errors import SettingError
from onnx_evidence.score import SCORES

# Backgrounds that need no file.
CONSTANTS = ("mean", "zero")
BLUR = "blur"
STATISTICS = ("position", "channel", "conditional")
PROJECTIONS = ("field", "backward")


@dataclass(frozen=True)
class Method:
    """A row of the table of methods.

    Attributes
    ----------
    summary : str
        One line of help.
    engine : {'path', 'removal', 'slope'}
        What computes it: `integration`, `removal` or `slopes`.
    at : {'input', 'cuts', 'last'}
        Where it cuts: at the model's input, at the cuts of ``--layer``, or at one, by default the last with a grid.
    unit : str
        Of the map, per pixel of the model's input.
    window : int or None
        Side of the window in cells; None for a fifth of the grid.
    stride : int or None
        Cells from window to window; None for a third of the window.
    samples : int
        Draws: per window, or of pictures, or of noise.
    needs_file : bool
        Whether a fitted background is part of its definition.
    background : str
        What stands in for removed features by default.
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

    @property
    def at_input(self) -> bool:
        """Whether it cuts at the model's input."""
        return self.at == "input"

    @property
    def adds_up(self) -> bool:
        """Whether a map is made of bits that can be summed over any region."""
        return self.unit == "bits per pixel"


_SLOPE = "bits per unit of the input"

METHODS = {
    "integrated": Method("evidence integrated along a path in hidden features; adds up", "path", "cuts"),
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
    "smoothgrad": Method("its mean over noisy pictures (Smilkov 2017)", "slope", "input", _SLOPE, samples=25),
    "guided-backprop": Method("with rectified cotangents (Springenberg 2014)", "slope", "input", _SLOPE),
    "gradient-x-input": Method("gradient times pixels", "slope", "input"),
    "taylor-evidence": Method(
        "first-order evidence: gradient times what features differ from the background by", "slope", "cuts"
    ),
    "hirescam": Method("gradient times features (Draelos 2020)", "slope", "last"),
    "grad-cam": Method("pooled gradient times features, signed (Selvaraju 2017)", "slope", "last"),
    "grad-cam++": Method("its weighted form (Chattopadhay 2018)", "slope", "last", "arbitrary unit"),
    "layercam": Method("positive gradient times features (Jiang 2021)", "slope", "last"),
}
# Options that some methods have no use for, and who has one.
_OPTIONS = ("window", "stride", "samples", "background", "statistic", "score", "completeness", "project", "laplace")
_USES = {
    "path": frozenset("background statistic score completeness project samples".split()),
    "removal": frozenset("window stride samples background laplace".split()),
    "slope": frozenset({"score"}),
}
_ALSO = {"taylor-evidence": frozenset({"background", "statistic"}), "smoothgrad": frozenset({"samples"})}
DEFAULT_METHOD = "integrated"
FALLBACK_METHOD = "window"


@dataclass(frozen=True)
class Settings:
    """Everything that decides a map besides model and picture; plain values.

    Attributes
    ----------
    method : str
        A key of `METHODS`, or 'auto': integrated where the model's operators allow it, window elsewhere.
    layers : tuple of str
        Names of cuts; ``("auto",)`` leaves the choice to `choose.choose_cuts`.
    window, stride, samples : int or None
        As in `Method`, which gives the defaults.
    background : str or None
        'mean' (the picture's own channel means), 'zero', 'blur' (the blurred picture), the path of a fitted
        background, or a folder of pictures; None for the method's own.
    statistic : str
        What of a fitted background file starts a path: a key of `STATISTICS`.
    score : {'log-odds', 'logit'}
        What gradients are taken of; evidence is counted in log-odds.
    completeness : float
        Share of the budget that a path may miss.
    project : {'field', 'backward'}
        How cells are carried to pixels.
    batch_size : int
        Edited copies, or steps of a path, per model run; changes no map.
    seed : int
        Key of all randomness.
    laplace : (int, int) or None
        N and K of the Laplace correction; None for exact log-odds.
    """

    method: str = AUTO
    layers: tuple[str, ...] = (AUTO,)
    window: int | None = None
    stride: int | None = None
    samples: int | None = None
    background: str | None = None
    statistic: str = STATISTICS[0]
    score: str = SCORES[0]
    completeness: float = 0.05
    project: str = PROJECTIONS[0]
    batch_size: int = 32
    seed: int = 0
    laplace: tuple[int, int] | None = None

    @property
    def preset(self) -> Method:
        """The method's row of `METHODS`; of the default one while it is 'auto'.

        Raises
        ------
        SettingError
            If there is no such method.
        """
        name = DEFAULT_METHOD if self.method == AUTO else self.method
        if name not in METHODS:
            raise SettingError(f"method {name!r} is unknown: take one of {', '.join((AUTO, *METHODS))}")
        return METHODS[name]

    @property
    def stand_in(self) -> str:
        """The background that is used."""
        return self.preset.background if self.background is None else self.background

    @property
    def background_path(self) -> Path | None:
        """The background file or folder; None for a constant or the blurred picture."""
        return None if self.stand_in in (*CONSTANTS, BLUR) else Path(self.stand_in)

    def check(self) -> None:
        """Refuse settings that contradict each other, whatever the model.

        Raises
        ------
        SettingError
            With the value, the rule and the remedy.
        """
        preset = self.preset
        if preset.at_input and self.layers != (AUTO,):
            raise SettingError(f"method {self.method!r} works on pixels, so it takes no layer: drop --layer")
        if preset.at == "last" and len(self.layers) > 1:
            raise SettingError(f"method {self.method!r} takes one layer, not {len(self.layers)}")
        if preset.needs_file and self.background_path is None:
            raise SettingError(
                f"method {self.method!r} draws pixels from a fitted background: fit one with 'onnx-evidence background "
                "MODEL FOLDER -o FILE.npz --layer INPUT' (the model's input) and pass --background FILE.npz"
            )
        self._check_ranges()
        self._check_choices()
        self._check_uses(preset)

    def _check_ranges(self) -> None:
        for name, value, least in (
            ("window", self.window, 1),
            ("stride", self.stride, 1),
            ("samples", self.samples, 1),
            ("batch size", self.batch_size, 1),
            ("seed", self.seed, 0),
        ):
            if value is not None and value < least:
                raise SettingError(f"{name} {value} is too small: at least {least}")
        if self.laplace is not None and min(self.laplace) < 1:
            raise SettingError(f"laplace {self.laplace[0]},{self.laplace[1]}: N and K are at least 1")
        if not 0 < self.completeness < 1:
            raise SettingError(f"completeness {self.completeness:g} must lie between 0 and 1: 0.01 is one per cent")

    def _check_choices(self) -> None:
        for name, value, known in (
            ("statistic", self.statistic, STATISTICS),
            ("score", self.score, SCORES),
            ("project", self.project, PROJECTIONS),
        ):
            if value not in known:
                raise SettingError(f"{name} {value!r} is unknown: take one of {', '.join(known)}")

    def _check_uses(self, preset: Method) -> None:
        """Refuse options that the method would pass over in silence."""
        uses = _USES[preset.engine] | _ALSO.get(self.method, frozenset())
        for option in _OPTIONS:
            if getattr(self, option) != getattr(Settings, option) and option not in uses:
                others = ", ".join(
                    name
                    for name, each in METHODS.items()
                    if option in _USES[each.engine] | _ALSO.get(name, frozenset())
                )
                method = DEFAULT_METHOD if self.method == AUTO else self.method
                raise SettingError(
                    f"method {method!r} has no use for --{option}: drop it, or take one of the methods {others}"
                )
        path = self.background_path
        if self.statistic != Settings.statistic and path is None:
            raise SettingError(
                f"statistic {self.statistic!r} is one of a fitted background: give --background FILE.npz"
            )
        if preset.engine == "removal" and self.stand_in == BLUR:
            raise SettingError(f"method {self.method!r} cannot use --background blur: take mean, zero or FILE.npz")
        if preset.engine == "removal" and path is not None and path.is_dir():
            raise SettingError(
                f"method {self.method!r} draws windows from a fitted background: fit one from {path} with "
                "'onnx-evidence background', and pass the file"
            )
        if preset.engine == "path" and self.samples is not None and (path is None or not path.is_dir()):
            raise SettingError(f"samples {self.samples} of what? Paths draw pictures from --background FOLDER alone")
        if self.project != PROJECTIONS[0] and preset.at_input:
            raise SettingError(f"method {self.method!r} works on pixels already: drop --project {self.project}")
