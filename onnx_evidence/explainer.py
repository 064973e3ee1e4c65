"""The composition root: a model and settings become an `Explainer`, an image becomes explanations.

No arithmetic on evidence lives here and nothing is drawn: the stages are called in order, and what
they used is recorded.

Imported by: batch, cli, evaluation, export.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any, Self, TypedDict, Unpack

import numpy as np

from onnx_evidence.counting import MAX_WORK
from onnx_evidence.cuts import AUTO
from onnx_evidence.deployed import DeployedModel, Heads
from onnx_evidence.errors import CutError, ModelError, SettingError
from onnx_evidence.evidence import Budget, combined_freedom, heard, key_of
from onnx_evidence.intake import Answer
from onnx_evidence.methods import (
    PLAIN_MEAN,
    TOP,
    TOP_CLASSES,
    CutMap,
    Keywords,
    Settings,
    View,
    ask,
    check_finite,
    check_settings,
    check_targets,
    combined,
    fixed_record,
    listed,
    make_record,
    placed,
    prepare,
)
from onnx_evidence.pictures import Photograph, Placement
from onnx_evidence.preprocessing import Preprocess
from onnx_evidence.results import Explanation, Named
from onnx_evidence.types import Features, FloatArray, Pixels, ProviderLike

# What an explainer is given where its model is open already.
_OF_THE_MODEL = (None, None, "auto", (), None, None, MAX_WORK, True)


class Combined(TypedDict):
    """The part of an `Explanation` that is made from the maps of the cuts."""

    values: Features
    stderr: Features
    freedom: FloatArray | None
    looks: int
    grids: tuple[Features, ...]
    budgets: tuple[Budget, ...]
    silent: tuple[bool, ...]


class Explainer:
    """Explains the decisions of a deployed model.

    ``with Explainer(path) as explainer:`` closes it at the end, and the model with it. A model that was open already is
    left open: whoever opened it closes it. It is for one thread at a time, as its model is; a second one that comes in
    while it explains is refused. Threads that work at once open a model each.

    Parameters
    ----------
    model : str or Path or DeployedModel
        The .onnx file, or one that is open already.
    layer : str or sequence of str
        Names of cuts; 'auto' chooses. Maps of several are combined in bits, see ``combine``.
    preprocess : str or Path or Preprocess or dict, optional
        As in `DeployedModel`; like the next six, refused where ``model`` is open already.
    labels : str or Path or sequence of str, optional
        As in `DeployedModel`.
    device : {'auto', 'cpu', 'cuda'}
        As in `DeployedModel`.
    providers : sequence of str or (str, dict)
        As in `DeployedModel`.
    output : str, optional
        As in `DeployedModel`.
    classes : {'exclusive', 'independent'}, optional
        As in `DeployedModel`.
    max_work : int
        As in `DeployedModel`.
    cache : bool
        As in `DeployedModel`.
    **settings
        The other fields of `methods.Settings`: method, window, stride, samples, background, statistic, score,
        steps, completeness, project, batch_size, seed, laplace, tolerance, quality, combine, rules, most_steps.

    Attributes
    ----------
    settings : Settings
        What was set; the method is never 'auto' here.
    method : Method
        The method's row of the table.
    reason : str
        Why this method, where it was left to choose.
    engines : list of Engine
        The method at every cut.
    background : str
        What stands in for removed features, in words.
    record : dict
        What the records of all maps will share; see `methods.fixed_record`.

    Raises
    ------
    EvidenceError
        One of its leaves, if anything given cannot be used.

    Examples
    --------
    >>> with Explainer("models/efficientnet-lite0.onnx") as explainer:  # doctest: +SKIP
    ...     evidence = explainer.explain("photo.jpg", target="top1", versus="military uniform")
    >>> evidence.values.shape, evidence.unit  # doctest: +SKIP
    ((224, 224), 'bits per pixel')
    """

    def __init__(
        self,
        model: str | Path | DeployedModel,
        *,
        layer: str | Sequence[str] = AUTO,
        preprocess: str | Path | Preprocess | Mapping[str, Any] | None = None,
        labels: str | Path | Sequence[str] | None = None,
        device: str = "auto",
        providers: Sequence[ProviderLike] = (),
        output: str | None = None,
        classes: str | None = None,
        max_work: int = MAX_WORK,
        cache: bool = True,
        **settings: Unpack[Keywords],
    ) -> None:
        layers = tuple(layer) if isinstance(layer, Iterable) and not isinstance(layer, str) else (layer,)
        self.settings = Settings(layers=layers, **settings).settled(given=settings)
        check_settings(self.settings)
        self._owns = not isinstance(model, DeployedModel)
        if not isinstance(model, DeployedModel):
            model = DeployedModel(
                model,
                preprocess=preprocess,
                labels=labels,
                device=device,
                providers=providers,
                output=output,
                classes=classes,
                max_work=max_work,
                cache=cache,
            )
        elif (preprocess, labels, device, providers or (), output, classes, max_work, cache) != _OF_THE_MODEL:
            raise SettingError(
                "a model that is open has its preprocess, labels, device, providers, output, classes, max_work and "
                "cache: give them to DeployedModel"
            )
        self.deployed = model
        self._heads: Heads | None = None
        self._at_work = Lock()
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise

    def _prepare(self) -> None:
        """Open what is run for every picture."""
        model = self.deployed
        # Refuse a model without preprocessing, or with other labels than classes, before hours are spent.
        _ = model.preprocess, model.classes
        prepared = prepare(model, self.settings)
        self.settings, self.reason, self.engines = prepared.settings, prepared.reason, prepared.engines
        self.method = prepared.method
        self.background = prepared.background
        self._unread = prepared.unread
        words = self.background, prepared.background_sha256
        self.record = fixed_record(model, self.settings, self.reason, words, prepared.shallow)
        self._heads = prepared.heads

    def close(self) -> None:
        """Close what is open; once is enough. To explain from now on raises ModelError; what is recorded stays.

        A model that was given open stays open, with all that others use of it.
        """
        self.engines, self._heads = [], None
        if self._owns:
            self.deployed.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def rows(self, questions: int = 1) -> int:
        """Rows that are run per picture, over all cuts, as far as that is known before.

        Parameters
        ----------
        questions : int
            Classes that are explained.

        Returns
        -------
        int
        """
        return sum(engine.copies * (1 if engine.shared else questions) for engine in self.engines)

    def explain(
        self, image: str | Path | Pixels | Photograph, *, target: str | int = TOP, versus: str | int | None = None
    ) -> Explanation:
        """Explain one class of one image.

        Parameters
        ----------
        image : str or Path or ndarray of uint8, shape (H, W, 3) or (H, W), or Photograph
            A picture file, RGB or grey pixels, or a picture that is decoded already.
        target : str or int
            'top1' (the class that the model gives), a class number or a class name.
        versus : str or int, optional
            A class to hold it against: the map is then the evidence for ``target`` rather than ``versus``.

        Returns
        -------
        Explanation
            The map in bits, with its error and how it was made.

        Raises
        ------
        DataError, TargetError, ModelError, CutError
            If the image or a class cannot be used, or the split is not the deployed file on this image; ModelError also
            if the explainer is at work already.
        SettingError
            If a class would be held against itself, or none is named.
        """
        return self.explain_all(image, [target], versus)[0]

    def explain_all(
        self,
        image: str | Path | Pixels | Photograph,
        targets: Iterable[str | int] = (TOP,),
        versus: str | int | None = None,
        progress: Callable[[int], object] = lambda copies: None,
    ) -> list[Explanation]:
        """Explain several classes of one image from the same passes; see `explain`.

        Parameters
        ----------
        image : str or Path or ndarray of uint8, shape (H, W, 3) or (H, W), or Photograph
            As in `explain`.
        targets : iterable of (str or int)
            The classes, each as in `explain`; one at least.
        versus : str or int, optional
            The class to hold all of them against.
        progress : callable
            Called with the number of edited copies done since the last call.

        Returns
        -------
        list of Explanation
            One per class, in the order given; classes named twice are explained once.

        Raises
        ------
        DataError, TargetError, SettingError, ModelError, CutError
            As in `explain`.
        """
        asked = listed(targets)
        with self._alone():
            self.check_targets(asked, versus)
            photograph, inputs, placement = self.deployed.prepare(image)
            try:
                return self._explain(photograph, inputs, placement, asked, versus, progress)
            except CutError as error:
                raise CutError(f"{photograph.name}: {error}") from error

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Inside, nobody else explains: the first to end would take away what the other goes on with."""
        if not self._at_work.acquire(blocking=False):
            raise ModelError(
                f"{self.deployed.model.path}: the explainer is at work on another picture: it is for one thread at a "
                "time; make an Explainer for each"
            )
        try:
            yield
        finally:
            self._at_work.release()

    def _explain(
        self,
        photograph: Photograph,
        inputs: Features,
        placement: Placement,
        targets: Sequence[str | int],
        versus: str | int | None,
        progress: Callable[[int], object],
    ) -> list[Explanation]:
        heads = self._heads
        if heads is None:
            raise ModelError(f"{self.deployed.model.path}: the explainer was closed: make it again to explain")
        answer, features = self.deployed.answer(inputs), heads.look(inputs)
        questions = ask(self.deployed, photograph.name, answer.ranked[0], targets, versus)
        key = key_of(inputs.tobytes())
        with heads.remembering():
            engines = placed(self.engines, lambda cut: self.deployed.field(cut, inputs, heads))
        views = [View(inputs, seen, answer.logits, key, self.deployed.class_kind) for seen in features]
        with heads.remembering():
            answers = [engine.explain(view, questions, progress) for engine, view in zip(engines, views, strict=True)]
        for engine, maps in zip(engines, answers, strict=True):
            check_finite(engine.cut, maps)
        unread = self._unread_of(features)
        self.deployed.model.check_unchanged()
        top = self._top(answer)
        asked = [question.target for question in questions]
        said = zip(asked, answer.probabilities(asked), answer.log_odds_bits(asked), strict=True)
        found = []
        for number, (target, probability, log_odds) in enumerate(said):
            maps, rival = [each[number] for each in answers], questions[number].versus
            record = make_record(self.record, engines, photograph, self.deployed.preprocess, inputs, maps)
            found.append(
                Explanation(
                    **self._combine(maps, unread),
                    target=self._named(target),
                    versus=None if rival is None else self._named(rival),
                    probability=float(probability),
                    log_odds_bits=float(log_odds),
                    photograph=photograph,
                    placement=placement,
                    unit=self.method.unit,
                    record={**record, "top": top},
                )
            )
        return found

    def _top(self, answer: Answer) -> list[dict[str, Any]]:
        """The most probable classes, with their probabilities."""
        order = answer.ranked[:TOP_CLASSES]
        return [
            {"class": number, "label": self.deployed.label(number), "probability": float(chance)}
            for number, chance in zip(order, answer.probabilities(order), strict=True)
        ]

    def check_targets(self, targets: Sequence[str | int], versus: str | int | None = None) -> None:
        """Refuse classes that no picture can be explained for; see `methods.check_targets`."""
        check_targets(self.deployed, targets, versus)

    def _named(self, number: int) -> Named:
        return Named(number, self.deployed.label(number))

    def _unread_of(self, features: Sequence[Features]) -> list[bool]:
        """Of every cut, whether this picture's scores do not depend on its cells; asked where noise's do not."""
        return [
            engine.cut.name in self._unread and not self.deployed.is_read(engine.cut, features=seen)
            for engine, seen in zip(self.engines, features, strict=True)
        ]

    def _combine(self, maps: Sequence[CutMap], unread: Sequence[bool]) -> Combined:
        """The mean over cuts of their maps in input pixels, or what they agree on, its standard error and freedom."""
        silent = tuple(dead or not each.cells.any() for dead, each in zip(unread, maps, strict=True))
        spoken = heard(maps, silent)
        how = self.settings.combine if "combine" in self.method.uses else PLAIN_MEAN
        mean, weight, share = combined(maps, spoken, how)
        values = (mean * weight).astype(np.float32)
        variances = np.stack([each.variance for each in spoken])
        # The same draws at every cut err alike: their errors add up, which bounds that of the mean.
        total = np.sqrt(variances).sum(axis=0) if spoken[0].alike else np.sqrt(variances.sum(axis=0))
        error = (total / len(spoken) * weight * share).astype(np.float32)
        return Combined(
            values=values,
            stderr=error,
            freedom=combined_freedom([(each.variance, each.freedom) for each in spoken], alike=spoken[0].alike),
            looks=max(each.looks for each in spoken),
            grids=tuple(each.cells.astype(np.float32) for each in maps),
            budgets=tuple(each.budget for each in maps if each.budget is not None),
            silent=silent if any(silent) else (),
        )
