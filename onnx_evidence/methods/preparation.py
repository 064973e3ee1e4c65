"""From settings and a model to the method at every cut, ready for pictures."""

import hashlib
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from onnx_evidence.cuts import AUTO, DEEP, Cut, IsRead, last_cut, resolve_layers, why_no_grid, why_shallow
from onnx_evidence.deployed import DeployedModel, Heads
from onnx_evidence.errors import CutError, DataError, GradientError, one_line
from onnx_evidence.evidence import CellField, ConditionalSampler, MeanSampler, Sampler, ZeroSampler
from onnx_evidence.files import open_regular, sha256_of
from onnx_evidence.methods import baselines
from onnx_evidence.methods.background_file import BackgroundFile, load_background
from onnx_evidence.methods.baselines import Baselines
from onnx_evidence.methods.engine import Engine, Question, View, placed
from onnx_evidence.methods.kept import KeepingSampler, keeping
from onnx_evidence.methods.masks import MaskEngine
from onnx_evidence.methods.order import OrderEngine, Start, cells_of
from onnx_evidence.methods.path import PathEngine
from onnx_evidence.methods.removal import RemovalEngine
from onnx_evidence.methods.settings import BLUR, BOTH, DEFAULT_METHOD, FALLBACK_METHODS, Settings
from onnx_evidence.methods.slopes import SlopeEngine
from onnx_evidence.pictures import list_images
from onnx_evidence.types import FloatArray, Head


@dataclass(frozen=True)
class Prepared:
    """A method at every cut.

    Attributes
    ----------
    settings : Settings
        With the method settled.
    reason : str
        Why this method.
    engines : list of Engine
        One per cut.
    heads : Heads
        Of these cuts.
    background : str
        What stands in for removed features, in words.
    background_sha256 : str or None
        Of the background file, or of the pictures in its folder, where there is one.
    shallow : str or None
        What the cuts miss of the model's depth, where the choice was left to us; see `cuts.why_shallow`.
    unread : frozenset of str
        Cuts of which no cell is read.
    """

    settings: Settings
    reason: str
    engines: list[Engine]
    heads: Heads
    background: str
    background_sha256: str | None
    shallow: str | None
    unread: frozenset[str]


def prepare(deployed: DeployedModel, settings: Settings) -> Prepared:
    """Settle the method, choose the cuts and make an engine ready at each.

    Where the method was left to choose, one that the model does not allow gives way to the next: for want of a backward
    rule windows of features are removed, for want of a cut windows of pixels. What the user named is never replaced.

    Parameters
    ----------
    deployed : DeployedModel
        The model.
    settings : Settings
        Checked.

    Returns
    -------
    Prepared

    Raises
    ------
    EvidenceError
        One of its leaves, if the settings do not fit the model, or the background cannot be used.
    """
    if "method" not in settings.chosen_by_us:
        return _prepare(deployed, settings, "asked for")
    chosen, reason = settings, f"settled by --quality {settings.quality}"
    if settings.method == AUTO:
        chosen = replace(settings, method=DEFAULT_METHOD)
        reason = "every operator behind the cuts has a backward rule"
    wanted = chosen.method
    for instead in FALLBACK_METHODS:
        try:
            return _prepare(deployed, chosen, reason)
        except GradientError as error:
            why = str(error)
        except CutError:
            if "layers" not in settings.chosen_by_us:
                raise
            why = why_no_grid(deployed.graph.cuts)
        reason = f"{wanted!r} cannot be computed: {why}"
        chosen = replace(settings.without_quality(), method=instead)
        chosen.check()
    return _prepare(deployed, chosen, reason)


def _prepare(deployed: DeployedModel, settings: Settings, reason: str) -> Prepared:
    path = settings.background_path
    file = None
    if path is not None and not path.is_dir():
        file = load_background(path, deployed.model.sha256, deployed.preprocess.model_dump_json())
    with deployed.shared():
        heads = deployed.heads(_cuts(deployed, settings))
        with heads.remembering():
            maker, inside = (
                _Maker(deployed, settings, file, heads),
                [cut for cut in heads.cuts if cut.op_type != "Input"],
            )
            engines = [maker.engine(cut) for cut in heads.cuts]
            unread = frozenset(cut.name for cut in inside if not _is_read(deployed, settings, heads, cut))
    chosen = settings.layers in ((AUTO,), (DEEP,))
    return Prepared(
        settings,
        reason,
        engines,
        heads,
        _words(settings),
        file.sha256 if file else _folder_sha256(path),
        why_shallow(heads.cuts, deployed.graph.cuts, deployed.graph.lost) if chosen else None,
        unread,
    )


def _folder_sha256(folder: Path | None) -> str | None:
    """Of the SHA-256 of every picture in a folder, in the order that they are drawn from; None without a folder."""
    if folder is None:
        return None
    try:
        digests = []
        for path in list_images([folder]):
            with open_regular(path) as stream:
                digests.append(sha256_of(stream))
    except OSError as error:
        raise DataError(
            f"{folder}: cannot read the background's pictures: {error.strerror or one_line(error)}"
        ) from error
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def _cuts(deployed: DeployedModel, settings: Settings) -> list[Cut]:
    """The cuts that are named or chosen."""
    preset, cuts = settings.preset, deployed.graph.cuts
    if preset.at_input and settings.layers == (AUTO,):
        return [deployed.graph.find(deployed.model.input_name)]

    def choose(**asked: IsRead) -> list[Cut]:
        if preset.at == "last" and settings.layers == (AUTO,):
            names = [last_cut(cuts, **asked)]
        else:
            names = resolve_layers(settings.layers, cuts, integrate=preset.engine != "removal", **asked)
        return [deployed.graph.find(name) for name in names]

    # What is likely to be chosen is opened together, before any of it is tried.
    heads = deployed.heads(choose())
    with heads.remembering():
        return choose(is_read=lambda cut: _is_read(deployed, settings, heads, cut))


def _is_read(deployed: DeployedModel, settings: Settings, heads: Heads, cut: Cut) -> bool:
    """Whether a cut is read, tried on sessions that the method's engine needs itself."""
    tail = None
    if settings.preset.engine not in ("removal", "mask"):
        with suppress(GradientError):  # then another method is taken, or the engine says so
            tail = deployed.tail_of_gradient(cut, only_rectified=settings.method == "guided-backprop")
    return deployed.is_read(cut, heads if cut in heads.cuts else None, tail)


def _words(settings: Settings) -> str:
    path = settings.background_path
    if settings.preset.engine == "slope" and "background" not in settings.preset.uses:
        return "nothing, as none are removed"
    if path is None:
        words = {"mean": "the picture's own channel means", "zero": "zero", BLUR: "the blurred picture's"}
        words[BOTH] = f"{words[BLUR]}, and {words['mean']}"
        return words[settings.stand_in]
    if path.is_dir():
        return f"those of {settings.samples or settings.preset.samples} pictures of {path}"
    if settings.preset.engine == "removal":
        return f"the conditional Gaussian of {path}"
    return f"the {settings.statistic} means of {path}"


class _Maker:
    """Makes the engine of each cut."""

    def __init__(self, deployed: DeployedModel, settings: Settings, file: BackgroundFile | None, heads: Heads) -> None:
        self.deployed, self.settings, self.file, self.heads = deployed, settings, file, heads

    def engine(self, cut: Cut) -> Engine:
        deployed, settings = self.deployed, self.settings
        if settings.preset.engine == "removal":
            return RemovalEngine.prepare(deployed, cut, self._field(cut), self._sampler(cut), settings)
        if settings.preset.engine == "mask":
            return MaskEngine.prepare(deployed, cut, self._field(cut), self._baselines(cut), settings)
        if settings.preset.engine == "order":
            return self._order(cut)
        # First what may be refused, then what takes time.
        gradient = deployed.gradient(cut, only_rectified=settings.method == "guided-backprop")
        start, field = self._baselines(cut), self._field(cut)
        if settings.preset.engine == "slope":
            return SlopeEngine(cut, gradient, deployed.certify, field, start, settings)
        head = deployed.head_gradient(cut) if settings.project == "backward" else None
        return PathEngine(cut, gradient, deployed.certify, field, start, settings, head)

    def _order(self, cut: Cut) -> Engine:
        deployed, settings = self.deployed, self.settings
        gradient, cells = deployed.gradient(cut), cells_of(deployed.model.input_shape[1:])
        tail, removed = deployed.tail(cut), self._baselines(cut)
        return OrderEngine(cut, gradient, tail, deployed.certify, cells, removed, self._integrated(), settings)

    def _integrated(self) -> Start:
        """The map of the default method, for an engine that goes on from there."""
        settings = replace(self.settings, method=DEFAULT_METHOD, background=self.settings.stand_in)
        heads = self.deployed.heads(_cuts(self.deployed, settings))
        maker = _Maker(self.deployed, settings, None, heads)
        with heads.remembering():
            engines = [maker.engine(cut) for cut in heads.cuts]

        def start(view: View, question: Question) -> FloatArray:
            views = [replace(view, features=features) for features in heads.look(view.inputs)]
            here = placed(engines, lambda cut: self.deployed.field(cut, view.inputs, heads))
            asked = zip(here, views, strict=True)
            maps = [engine.explain(each, [question], lambda steps: None)[0].values for engine, each in asked]
            return np.asarray(np.mean(maps, axis=0))

        return start

    def _field(self, cut: Cut) -> CellField:
        return self.deployed.field(cut, heads=self.heads)

    def _sampler(self, cut: Cut) -> Sampler:
        sampler = self._cell_sampler(cut.name)
        return KeepingSampler(sampler, cut.kept) if cut.kept else sampler

    def _cell_sampler(self, cut: str) -> Sampler:
        if self.file is None:
            return ZeroSampler() if self.settings.stand_in == "zero" else MeanSampler()
        header, background = self.file.for_cut(cut, self.settings.stand_in)
        return ConditionalSampler(background, header.window)

    def _baselines(self, cut: Cut) -> Baselines:
        return keeping(self._cell_baselines(cut), cut.kept)

    def _cell_head(self, cut: Cut) -> Head:
        """The features of cells, without what is kept beside them."""
        head, channels = self.heads.at(cut), cut.cell_shape[0]
        return lambda inputs: head(inputs)[:, :channels]

    def _cell_baselines(self, cut: Cut) -> Baselines:
        settings, path = self.settings, self.settings.background_path
        if settings.stand_in == BLUR:
            return baselines.blurred(self._cell_head(cut))
        if settings.stand_in == BOTH:
            return baselines.both(baselines.blurred(self._cell_head(cut)), baselines.own_means)
        if path is None:
            return baselines.zeros if settings.stand_in == "zero" else baselines.own_means
        if self.file is not None:
            header, background = self.file.for_cut(cut.name, settings.stand_in)
            return baselines.fitted(background, settings.statistic, header.window)
        return baselines.pictures(
            self._cell_head(cut),
            lambda picture: self.deployed.prepare(picture)[1],
            list_images([path]),
            settings.samples or settings.preset.samples,
            settings.seed,
        )
