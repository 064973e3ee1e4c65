"""A method: its row of the table, what it has a use for, what it refuses, and how it is made ready at a cut."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from onnx_evidence.cuts import AUTO, Cut
from onnx_evidence.deployed import DeployedModel
from onnx_evidence.errors import SettingError
from onnx_evidence.files import several
from onnx_evidence.methods.engine import Engine
from onnx_evidence.methods.settings import BLUR, BOTH, MEAN, ZERO, Settings
from onnx_evidence.methods.site import Site
from onnx_evidence.types import Predict

BITS, BITS_PER_PIXEL, PROBABILITY, ARBITRARY = "bits", "bits per pixel", "probability", "arbitrary unit"
# At the model's input, at the cuts of ``--layer``, at one, by default the last with a grid, or at the input unless
# ``--layer`` names cuts.
Place = Literal["input", "cuts", "last", "either"]

_WORDS = {MEAN: "the picture's own channel means", ZERO: "zero", BLUR: "the blurred picture's"}
_WORDS[BOTH] = f"{_WORDS[BLUR]}, and {_WORDS[MEAN]}"


@dataclass(frozen=True)
class Method(ABC):
    """A row of the table of methods.

    Families are subclasses, each in a file of its own with its rows: they say how methods are made ready, what they
    refuse, and what there is to say of them. Everybody else knows methods by these attributes alone.

    Attributes
    ----------
    name : str
        As ``--method`` takes it.
    summary : str
        One line of help.
    at : {'input', 'cuts', 'last', 'either'}
        Where it cuts.
    unit : str
        Of the map, per pixel of the model's input.
    samples : int
        Draws, unless they are set: per window, or of pictures, or of noise, or of masks.
    background : str
        What stands in for removed features, unless that is set.
    uses : frozenset of str
        Settings that it has a use for, besides those that all methods have.
    needs_file : bool
        Whether a fitted background is part of its definition.
    windows : bool
        Whether it removes windows: 'auto' takes other cuts for these than for evidence that is integrated.
    accounts : bool
        Whether its maps come with the budget of all bits.
    """

    name: str
    summary: str
    at: Place
    unit: str = BITS_PER_PIXEL
    samples: int = 8
    background: str = MEAN
    uses: frozenset[str] = frozenset()
    needs_file: bool = False
    windows: bool = False
    accounts: bool = False

    @abstractmethod
    def prepare(self, site: Site) -> Engine:
        """Make it ready at a cut: first what may be refused, then what takes time.

        Parameters
        ----------
        site : Site
            The cut, the model, the settings, and what stands in for removed features.

        Returns
        -------
        Engine

        Raises
        ------
        EvidenceError
            One of its leaves, if it cannot be had at this cut.
        """

    def tail(self, deployed: DeployedModel, cut: Cut, settings: Settings) -> Predict | None:
        """The tail, on a session that its engine needs itself; None where that is the tail's own."""
        return None

    def refuse(self, settings: Settings) -> None:  # noqa: B027 - there may be nothing to refuse
        """Refuse settings that it has a use for, each by itself, and that contradict each other.

        Parameters
        ----------
        settings : Settings
            Everything in range.

        Raises
        ------
        SettingError
            With the value, the rule and the remedy.
        """

    def replacement(self, settings: Settings) -> str:
        """What removed features are replaced by, in words."""
        path = self.background_path(settings)
        if path is None:
            return _WORDS[self.stand_in(settings)]
        if path.is_dir():
            return f"those of {several(settings.samples or self.samples, 'picture')} of {path}"
        return f"the {settings.statistic} means of {path}"

    def has_error(self, settings: Settings) -> bool:
        """Whether the map is a mean of draws, and its error known."""
        path = self.background_path(settings)
        return path is not None and path.is_dir() and (settings.samples or self.samples) > 1

    @property
    def at_input(self) -> bool:
        """Whether it cuts at the model's input, unless told otherwise."""
        return self.at in ("input", "either")

    @property
    def adds_up(self) -> bool:
        """Whether a map is made of bits that can be summed over any region."""
        return self.unit == BITS_PER_PIXEL

    @property
    def in_bits(self) -> bool:
        """Whether a map counts evidence."""
        return self.unit in (BITS, BITS_PER_PIXEL)

    def stand_in(self, settings: Settings) -> str:
        """The background that is used."""
        if settings.background is not None:
            return settings.background
        # Inside the model 0 is not grey: what is made for pixels takes there what is customary for features.
        moved = self.at == "either" and settings.layers != (AUTO,)
        return MEAN if moved else self.background

    def background_path(self, settings: Settings) -> Path | None:
        """The background file or folder; None for a constant or the blurred picture."""
        stand_in = self.stand_in(settings)
        return None if stand_in in _WORDS else Path(stand_in)

    def refuse_two_backgrounds(self, settings: Settings) -> None:
        """For methods that take one background."""
        if self.stand_in(settings) == BOTH:
            raise SettingError(f"method {self.name!r} takes one background, not {BOTH!r}: take mean, zero or blur")
