"""From settings and a model to the method at every cut, ready for pictures."""

import hashlib
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from onnx_evidence.cuts import AUTO, DEEP, Cut, IsRead, last_cut, resolve_layers, why_no_grid, why_shallow
from onnx_evidence.deployed import DeployedModel, Heads
from onnx_evidence.errors import CutError, DataError, GradientError, SettingError, one_line
from onnx_evidence.files import open_regular, sha256_of
from onnx_evidence.methods.background_file import BackgroundFile, load_background
from onnx_evidence.methods.choice import check_settings, method_of
from onnx_evidence.methods.combine import combined
from onnx_evidence.methods.engine import Engine, Question, View, placed
from onnx_evidence.methods.inside import INSIDE
from onnx_evidence.methods.method import BITS_PER_PIXEL, Method
from onnx_evidence.methods.settings import AGREEMENT, DEFAULT_METHOD, OPTIONS, PLAIN_MEAN, WITH_RELEVANCE, Settings
from onnx_evidence.methods.site import EvidenceMap, Site
from onnx_evidence.methods.table import FALLBACK_METHODS
from onnx_evidence.pictures import list_images
from onnx_evidence.types import FloatArray


@dataclass(frozen=True)
class Prepared:
    """A method at every cut.

    Attributes
    ----------
    settings : Settings
        With the method settled.
    method : Method
        Its row of the table.
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
    method: Method
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
    rule windows of features are removed, for want of a cut windows of pixels. A file that explains itself is asked, if
    nothing else is set. What the user named is never replaced.

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
    if _is_plain(settings) and (deployed.model.explains or {}).get("unit") == BITS_PER_PIXEL:
        return _prepare(deployed, replace(settings, method=INSIDE.name), "the file was exported with its explanation")
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
        check_settings(chosen)
    return _prepare(deployed, chosen, reason)


def _is_plain(settings: Settings) -> bool:
    """Whether nothing is asked of the method."""
    plain = {name for name, option in OPTIONS.items() if not option.for_all} | {"quality", "layers"}
    return all(getattr(settings, name) == getattr(Settings, name) for name in plain)


def _prepare(deployed: DeployedModel, settings: Settings, reason: str) -> Prepared:
    method = method_of(settings)
    path = method.background_path(settings)
    file = None
    if path is not None and not path.is_dir():
        file = load_background(path, deployed.model.sha256, deployed.preprocess.model_dump_json())
    with deployed.shared():
        settings = _with_combination(deployed, method, settings)
        heads = deployed.heads(_cuts(deployed, method, settings))
        with heads.remembering():
            engines = _engines(deployed, settings, file, heads)
            inside = [cut for cut in heads.cuts if cut.op_type != "Input"]
            unread = frozenset(cut.name for cut in inside if not _is_read(deployed, settings, heads, cut))
    chosen = settings.layers in ((AUTO,), (DEEP,))
    return Prepared(
        settings,
        method,
        reason,
        engines,
        heads,
        method.replacement(settings),
        file.sha256 if file else _folder_sha256(path),
        why_shallow(heads.cuts, deployed.graph.cuts, deployed.graph.lost) if chosen else None,
        unread,
    )


def _with_combination(deployed: DeployedModel, method: Method, settings: Settings) -> Settings:
    """With how maps are combined settled, where there is a choice: relevance where it can be told, and is worth it."""
    if settings.combine != AUTO or "combine" not in method.uses:
        return settings
    if deployed.relevance_tells and _has_relevance(deployed, settings):
        return replace(settings, combine=WITH_RELEVANCE)
    if settings.rules != Settings.rules:
        raise SettingError(
            f"rules {settings.rules!r} are those of relevance, which maps of this model are not held against by "
            "default: take --combine relevance, or drop --rules"
        )
    return replace(settings, combine=AGREEMENT)


def _has_relevance(deployed: DeployedModel, settings: Settings) -> bool:
    try:
        deployed.gradient(deployed.graph.find(deployed.model.input_name), rules=settings.rules)
    except GradientError:
        return False
    return True


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


def _engines(deployed: DeployedModel, settings: Settings, file: BackgroundFile | None, heads: Heads) -> list[Engine]:
    """The method at every cut."""
    method = method_of(settings)
    stand_in, samples = method.stand_in(settings), settings.samples or method.samples

    def default_map() -> EvidenceMap:
        return _default_map(deployed, replace(settings, method=DEFAULT_METHOD, background=stand_in))

    return [
        method.prepare(Site(deployed, cut, heads, settings, stand_in, samples, file, default_map)) for cut in heads.cuts
    ]


def _cuts(deployed: DeployedModel, method: Method, settings: Settings) -> list[Cut]:
    """The cuts that are named or chosen."""
    layers, cuts = settings.layers, deployed.graph.cuts
    if layers == (AUTO,) and method.at_input:
        return [deployed.graph.find(deployed.model.input_name)]

    def choose(**asked: IsRead) -> list[Cut]:
        if layers == (AUTO,) and method.at == "last":
            names = [last_cut(cuts, **asked)]
        else:
            names = resolve_layers(layers, cuts, integrate=not method.windows, **asked)
        return [deployed.graph.find(name) for name in names]

    # What is likely to be chosen is opened together, before any of it is tried.
    heads = deployed.heads(choose())
    with heads.remembering():
        return choose(is_read=lambda cut: _is_read(deployed, settings, heads, cut))


def _is_read(deployed: DeployedModel, settings: Settings, heads: Heads, cut: Cut) -> bool:
    """Whether a cut is read, tried on sessions that the method's engine needs itself."""
    method, tail = method_of(settings), None
    with suppress(GradientError):  # then another method is taken, or the engine says so
        tail = method.tail(deployed, cut, settings)
    return deployed.is_read(cut, heads if cut in heads.cuts else None, tail)


def _default_map(deployed: DeployedModel, settings: Settings) -> EvidenceMap:
    """The mean map of a method, for one that goes on from there; held against relevance where the default's is."""
    settings = _with_combination(deployed, method_of(settings), settings)
    how = settings.combine if settings.combine == WITH_RELEVANCE else PLAIN_MEAN
    heads = deployed.heads(_cuts(deployed, method_of(settings), settings))
    with heads.remembering():
        engines = _engines(deployed, settings, None, heads)

    def found(view: View, question: Question) -> FloatArray:
        views = [replace(view, features=features) for features in heads.look(view.inputs)]
        here = placed(engines, lambda cut: deployed.field(cut, view.inputs, heads))
        asked = zip(here, views, strict=True)
        maps = [engine.explain(each, [question], lambda steps: None)[0] for engine, each in asked]
        mean, weight, _ = combined(maps, maps, how)
        return np.asarray(mean * weight)

    return found
