"""What can be set besides model and picture, and what contradicts what."""

from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import Any

from onnx_evidence.cuts import AUTO, DEEP
from onnx_evidence.errors import SettingError
from onnx_evidence.evidence import FIRST_LOOK, FIRST_STEPS, SCORES
from onnx_evidence.methods.table import METHODS, OPTIONS, Method

# Backgrounds that need no file.
CONSTANTS = ("mean", "zero")
BLUR = "blur"
BOTH = "blur+mean"
STATISTICS = ("position", "channel", "conditional")
PROJECTIONS = ("field", "backward")


DEFAULT_METHOD = "integrated"
# Where the method is left to choose: without a backward graph, and without a cut that has a grid. Of what works on
# pixels alone and takes no more than a few hundred passes, occlusion predicts best (docs/faithfulness.md).
FALLBACK_METHODS = ("window", "occlusion")
# Points on the curve of faithfulness over time, and the settings behind each (docs/faithfulness.md).
DEFAULT_QUALITY = "default"
QUALITIES: dict[str, dict[str, Any]] = {
    "fast": {"method": DEFAULT_METHOD, "layers": (DEEP,), "background": "mean", "steps": 5, "completeness": 0.99},
    DEFAULT_QUALITY: {},
    "best": {"method": "ordered"},
}


@dataclass(frozen=True)
class Settings:
    """Everything that decides a map besides model and picture; plain values.

    Attributes
    ----------
    method : str
        A key of `METHODS`, or 'auto': integrated where the model's operators allow it, else the first of
        `FALLBACK_METHODS` that the model does.
    layers : tuple of str
        Names of cuts; ``("auto",)`` leaves the choice to `cuts.choose_cuts`.
    window, stride, samples : int or None
        As in `Method`, which gives the defaults.
    background : str or None
        'mean' (the picture's own channel means), 'zero', 'blur' (the blurred picture), 'blur+mean' (the mean evidence
        of both), the path of a fitted background, or a folder of pictures; None for the method's own.
    statistic : str
        What of a fitted background file starts a path: a key of `STATISTICS`.
    score : {'log-odds', 'logit'}
        What gradients are taken of; evidence is counted in log-odds.
    steps : int
        Gradients that a path starts with, both ends included; more are added for completeness.
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
    tolerance : float or None
        Bits: windows are sampled until their 95 % interval is at most this to either side, or `samples` are drawn;
        None for the same number of draws everywhere.
    quality : str
        A key of `QUALITIES`, which settles other fields: see `settled`.
    """

    method: str = AUTO
    layers: tuple[str, ...] = (AUTO,)
    window: int | None = None
    stride: int | None = None
    samples: int | None = None
    background: str | None = None
    statistic: str = STATISTICS[0]
    score: str = SCORES[0]
    steps: int = FIRST_STEPS
    completeness: float = 0.05
    project: str = PROJECTIONS[0]
    batch_size: int = 32
    seed: int = 0
    laplace: tuple[int, int] | None = None
    tolerance: float | None = None
    quality: str = DEFAULT_QUALITY

    def settled(self) -> "Settings":
        """With what the quality stands for filled in.

        Returns
        -------
        Settings

        Raises
        ------
        SettingError
            If there is no such quality, or it contradicts another field.
        """
        if self.quality not in QUALITIES:
            raise SettingError(f"quality {self.quality!r} is unknown: take one of {', '.join(QUALITIES)}")
        chosen = QUALITIES[self.quality]
        for field, value in chosen.items():
            if getattr(self, field) not in (getattr(Settings, field), value):
                option = "layer" if field == "layers" else field
                raise SettingError(f"quality {self.quality!r} settles the {option}: drop --quality or --{option}")
        return replace(self, **chosen)

    @property
    def chosen_by_us(self) -> frozenset[str]:
        """Of method and layers, those that the user left to choose: to 'auto', or to the quality."""
        settled = {field for field in ("method", "layers") if field in QUALITIES[self.quality]}
        plain = {field for field, value in (("method", AUTO), ("layers", (AUTO,))) if getattr(self, field) == value}
        return frozenset(settled | plain)

    def without_quality(self) -> "Settings":
        """As the user would have them without what the quality stands for."""
        plain = {field: getattr(Settings, field) for field in QUALITIES[self.quality]}
        return replace(self, **{**plain, "quality": DEFAULT_QUALITY})

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
        if self.background is not None:
            return self.background
        # Inside the model 0 is not grey: what is made for pixels takes there what is customary for features.
        moved = self.preset.at == "either" and self.layers != (AUTO,)
        return Method.background if moved else self.preset.background

    @property
    def background_path(self) -> Path | None:
        """The background file or folder; None for a constant or the blurred picture."""
        return None if self.stand_in in (*CONSTANTS, BLUR, BOTH) else Path(self.stand_in)

    def check(self) -> None:
        """Refuse settings that contradict each other, whatever the model.

        Raises
        ------
        SettingError
            With the value, the rule and the remedy.
        """
        preset = self.preset
        if preset.at == "input" and self.layers != (AUTO,):
            raise SettingError(f"method {self.method!r} works on pixels, so it takes no layer: drop --layer")
        if preset.at == "last" and len(self.layers) > 1:
            raise SettingError(f"method {self.method!r} takes one layer, not {len(self.layers)}")
        if preset.at == "last" and self.layers == (DEEP,):
            raise SettingError(f"method {self.method!r} takes one layer, and {DEEP!r} stands for two: name one of them")
        if preset.needs_file and self.background_path is None:
            raise SettingError(
                f"method {self.method!r} draws pixels from a fitted background: fit one with 'onnx-evidence background "
                "MODEL FOLDER -o FILE.npz --layer INPUT' (the model's input) and pass --background FILE.npz"
            )
        self._check_ranges()
        self._check_choices()
        self._check_uses(preset)
        self._check_background(preset)
        self._check_tolerance()

    def _check_ranges(self) -> None:
        for name, value, least in (
            ("window", self.window, 1),
            ("stride", self.stride, 1),
            ("samples", self.samples, 1),
            ("steps", self.steps, 2),
            ("batch size", self.batch_size, 1),
            ("seed", self.seed, 0),
        ):
            if value is not None and value < least:
                raise SettingError(f"{name} {value} is too small: at least {least}")
        if self.laplace is not None and min(self.laplace) < 1:
            raise SettingError(f"laplace {self.laplace[0]},{self.laplace[1]}: N and K are at least 1")
        if not 0 < self.completeness < 1:
            raise SettingError(f"completeness {self.completeness:g} must lie between 0 and 1: 0.01 is one per cent")

    def _check_tolerance(self) -> None:
        if self.tolerance is None:
            return
        if not 0 < self.tolerance < inf:
            raise SettingError(f"tolerance {self.tolerance:g} is no width: give bits above 0, such as 0.1")
        if self.background_path is None:
            raise SettingError(
                f"tolerance {self.tolerance:g} of what? Nothing is drawn from --background {self.stand_in}: drop "
                "--tolerance, or give --background FILE.npz"
            )
        least = 2 * FIRST_LOOK
        if self.samples is not None and (self.samples < least or self.samples % 2):
            raise SettingError(
                f"samples {self.samples} are the most that --tolerance may draw: an even number, at least {least}"
            )

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
        for option in OPTIONS:
            if getattr(self, option) != getattr(Settings, option) and option not in preset.uses:
                others = ", ".join(name for name, each in METHODS.items() if option in each.uses)
                method = DEFAULT_METHOD if self.method == AUTO else self.method
                raise SettingError(
                    f"method {method!r} has no use for --{option}: drop it, or take one of the methods {others}"
                )
        if self.project != PROJECTIONS[0] and preset.at_input:
            raise SettingError(f"method {self.method!r} works on pixels already: drop --project {self.project}")

    def _check_background(self, preset: Method) -> None:
        """Refuse backgrounds that the method cannot take."""
        path = self.background_path
        if self.statistic != Settings.statistic and path is None:
            raise SettingError(
                f"statistic {self.statistic!r} is one of a fitted background: give --background FILE.npz"
            )
        if preset.engine == "removal" and self.stand_in in (BLUR, BOTH):
            raise SettingError(
                f"method {self.method!r} cannot use --background {self.stand_in}: take mean, zero or FILE.npz"
            )
        if preset.engine in ("mask", "slope") and self.stand_in == BOTH:
            raise SettingError(f"method {self.method!r} takes one background, not {BOTH!r}: take mean, zero or blur")
        if preset.engine == "order" and path is not None:
            raise SettingError(
                f"method {self.method!r} removes pixels, not features: {path} is no background for it; take mean, "
                "zero, blur or blur+mean"
            )
        if preset.engine == "removal" and path is not None and path.is_dir():
            raise SettingError(
                f"method {self.method!r} draws windows from a fitted background: fit one from {path} with "
                "'onnx-evidence background', and pass the file"
            )
        if preset.engine == "mask" and path is not None and path.is_dir():
            raise SettingError(
                f"method {self.method!r} hides features behind one background, not the pictures of {path}: take mean, "
                "zero, blur or FILE.npz"
            )
        if preset.engine == "path" and self.samples is not None and (path is None or not path.is_dir()):
            raise SettingError(f"samples {self.samples} of what? Paths draw pictures from --background FOLDER alone")
