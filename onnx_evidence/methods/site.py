"""A cut of a deployed model as a method finds it: the model, the settings, and what stands in for removed features."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from onnx_evidence.cuts import Cut
from onnx_evidence.deployed import DeployedModel, Heads
from onnx_evidence.errors import GradientError, SettingError
from onnx_evidence.evidence import CellField, ConditionalSampler, MeanSampler, Sampler, ZeroSampler
from onnx_evidence.methods import baselines
from onnx_evidence.methods.background_file import BackgroundFile
from onnx_evidence.methods.baselines import Baselines
from onnx_evidence.methods.engine import Question, View
from onnx_evidence.methods.kept import KeepingSampler, keeping
from onnx_evidence.methods.relevance import PixelRelevance
from onnx_evidence.methods.settings import BLUR, BOTH, MEAN, WITH_RELEVANCE, ZERO, Settings
from onnx_evidence.pictures import list_images
from onnx_evidence.types import FloatArray, Head

# Evidence of one question in pixels of the input.
EvidenceMap = Callable[[View, Question], FloatArray]


@dataclass(frozen=True)
class Site:
    """Where a method is made ready, and what it is offered there.

    Attributes
    ----------
    deployed : DeployedModel
        The model: opens heads, tails and backward graphs, and measures fields.
    cut : Cut
        Where.
    heads : Heads
        Of all cuts of the method.
    settings : Settings
        Checked.
    stand_in : str
        The background in use: 'mean', 'zero', 'blur', 'blur+mean', or a path.
    samples : int
        Draws that were set, or the method's own.
    file : BackgroundFile or None
        The fitted background, where `stand_in` is one.
    default_map : callable
        Makes the default method ready, for one that goes on from its maps.
    """

    deployed: DeployedModel
    cut: Cut
    heads: Heads
    settings: Settings
    stand_in: str
    samples: int
    file: BackgroundFile | None
    default_map: Callable[[], EvidenceMap]

    def field(self) -> CellField:
        """Where the cells look."""
        return self.deployed.field(self.cut, heads=self.heads)

    def sampler(self) -> Sampler:
        """What windows are replaced by."""
        sampler, kept = self._cell_sampler(), self.cut.kept
        return KeepingSampler(sampler, kept) if kept else sampler

    def _cell_sampler(self) -> Sampler:
        if self.file is None:
            return ZeroSampler() if self.stand_in == ZERO else MeanSampler()
        header, background = self.file.for_cut(self.cut.name, self.stand_in)
        return ConditionalSampler(background, header.window)

    def beside(self) -> PixelRelevance | None:
        """What maps of all cuts are held against, if they are combined like that; the first cut has it for all."""
        if self.settings.combine != WITH_RELEVANCE or self.cut != self.heads.cuts[0]:
            return None
        whole = self.deployed.graph.find(self.deployed.model.input_name)
        try:
            gradient = self.deployed.gradient(whole, rules=self.settings.rules)
        except GradientError as error:
            raise SettingError(
                f"combine {WITH_RELEVANCE!r} needs a gradient of the whole model: {error}: take --combine agreement"
            ) from error
        return PixelRelevance(gradient, partial(self.deployed.certify, whole))

    def baselines(self) -> Baselines:
        """The features with everything removed."""
        return keeping(self._cell_baselines(), self.cut.kept)

    def _cell_head(self) -> Head:
        """The features of cells, without what is kept beside them."""
        head, channels = self.heads.at(self.cut), self.cut.cell_shape[0]
        return lambda inputs: head(inputs)[:, :channels]

    def _cell_baselines(self) -> Baselines:
        if self.stand_in in (MEAN, ZERO):
            return baselines.own_means if self.stand_in == MEAN else baselines.zeros
        if self.file is not None:
            header, background = self.file.for_cut(self.cut.name, self.stand_in)
            return baselines.fitted(background, self.settings.statistic, header.window)
        head = self._cell_head()
        if self.stand_in == BLUR:
            return baselines.blurred(head)
        if self.stand_in == BOTH:
            return baselines.both(baselines.blurred(head), baselines.own_means)
        return baselines.pictures(
            head,
            lambda picture: self.deployed.prepare(picture)[1],
            list_images([Path(self.stand_in)]),
            self.samples,
            self.settings.seed,
        )
