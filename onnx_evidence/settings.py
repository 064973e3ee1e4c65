"""What can be set, and the presets that ``--method`` names.

Occlusion, pixel-space prediction difference analysis and hidden-layer evidence are one algorithm at
different cuts with different replacements: three rows of one table.
"""

from dataclasses import dataclass
from pathlib import Path

from onnx_evidence.choose import AUTO
from onnx_evidence.errors import SettingError

CONSTANTS = ("mean", "zero")


@dataclass(frozen=True)
class Method:
    """A preset of the removal engine.

    Attributes
    ----------
    summary : str
        One line of help.
    at_input : bool
        Whether it cuts at the model's input; otherwise inside.
    window : int or None
        Side of the window in cells; None for a fifth of the grid.
    stride : int or None
        Cells from window to window; None for a third of the window.
    samples : int
        Draws per window where a background is sampled.
    needs_file : bool
        Whether a fitted background is part of its definition.
    """

    summary: str
    at_input: bool
    window: int | None = None
    stride: int | None = None
    samples: int = 8
    needs_file: bool = False


METHODS = {
    "window": Method("windows of hidden features at cuts inside; only the tail runs again", at_input=False),
    "occlusion": Method("windows of pixels, replaced by a constant (Zeiler & Fergus 2014)", at_input=True),
    "pda": Method(
        "windows of pixels, drawn from their surroundings (Zintgraf 2017: 10 x 10, 10 samples, stride 1)",
        at_input=True,
        window=10,
        stride=1,
        samples=10,
        needs_file=True,
    ),
}


@dataclass(frozen=True)
class Settings:
    """Everything that decides a map besides model and picture; plain values.

    Attributes
    ----------
    method : str
        A key of `METHODS`.
    layers : tuple of str
        Names of cuts; ``("auto",)`` leaves the choice to `choose.choose_cuts`.
    window, stride, samples : int or None
        As in `Method`, which gives the defaults.
    background : str
        'mean' (the picture's own channel means), 'zero', or the path of a fitted background.
    batch_size : int
        Edited copies per model run; changes no map.
    seed : int
        Key of all randomness.
    laplace : (int, int) or None
        N and K of the Laplace correction; None for exact log-odds.
    """

    method: str = "window"
    layers: tuple[str, ...] = (AUTO,)
    window: int | None = None
    stride: int | None = None
    samples: int | None = None
    background: str = "mean"
    batch_size: int = 32
    seed: int = 0
    laplace: tuple[int, int] | None = None

    @property
    def preset(self) -> Method:
        """The method's row of `METHODS`.

        Raises
        ------
        SettingError
            If there is no such method.
        """
        if self.method not in METHODS:
            raise SettingError(f"method {self.method!r} is unknown: take one of {', '.join(METHODS)}")
        return METHODS[self.method]

    @property
    def background_path(self) -> Path | None:
        """The background file; None for a constant."""
        return None if self.background in CONSTANTS else Path(self.background)

    def check(self) -> None:
        """Refuse settings that contradict each other, whatever the model.

        Raises
        ------
        SettingError
            With the value, the rule and the remedy.
        """
        preset = self.preset
        if preset.at_input and self.layers != (AUTO,):
            raise SettingError(f"method {self.method!r} removes pixels, so it takes no layer: drop --layer")
        if preset.needs_file and self.background_path is None:
            raise SettingError(
                f"method {self.method!r} draws pixels from a fitted background: fit one with 'onnx-evidence background "
                "MODEL FOLDER -o FILE.npz --layer INPUT' (the model's input) and pass --background FILE.npz"
            )
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
