"""The composition root: a model and settings become an `Explainer`, an image becomes explanations.

No arithmetic on evidence lives here and nothing is drawn: the stages are called in order, and what
they used is recorded.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from onnx_evidence.background_file import BackgroundFile, load_background
from onnx_evidence.choose import AUTO, resolve_layers
from onnx_evidence.deployed import DeployedModel
from onnx_evidence.difference import Removal, WindowEvidence, check_samples, remove_windows, window_evidence
from onnx_evidence.errors import SettingError, TargetError
from onnx_evidence.evidence import LN2, log_probabilities
from onnx_evidence.explanation import Explanation, Named
from onnx_evidence.images import Photograph
from onnx_evidence.prepared import PreparedCut
from onnx_evidence.preprocess import Preprocess
from onnx_evidence.projection import input_field, measure_field
from onnx_evidence.record import make_record
from onnx_evidence.rng import key_of
from onnx_evidence.samplers import ConditionalSampler, MeanSampler, Sampler, ZeroSampler
from onnx_evidence.settings import Settings
from onnx_evidence.types import Features, FloatArray, Pixels
from onnx_evidence.windows import Windows, default_size

TOP = "top1"


class Explainer:
    """Explains the decisions of a deployed model.

    Parameters
    ----------
    model : str or Path or DeployedModel
        The .onnx file, or one that is open already.
    layer : str or sequence of str
        Names of cuts; 'auto' chooses. Several are averaged in bits.
    method : {'window', 'occlusion', 'pda'}
        A preset of the removal engine.
    window : int, optional
        Side of the window in cells.
    stride : int, optional
        Cells from window to window.
    samples : int, optional
        Draws per window: 1, or an even number.
    background : str or Path
        'mean', 'zero', or a fitted background file.
    batch_size : int
        Edited copies per model run.
    seed : int
        Key of all randomness.
    laplace : (int, int), optional
        N and K of Zintgraf's Laplace correction, for comparison.
    preprocess : str or Path or Preprocess, optional
        As in `DeployedModel`; like the next two, refused where ``model`` is open already.
    labels : str or Path, optional
        As in `DeployedModel`.
    device : {'auto', 'cpu', 'cuda'}
        As in `DeployedModel`.

    Raises
    ------
    EvidenceError
        One of its leaves, if anything given cannot be used.

    Examples
    --------
    >>> explainer = Explainer("models/efficientnet-lite0.onnx")  # doctest: +SKIP
    >>> evidence = explainer.explain("photo.jpg", target="top1", versus="military uniform")  # doctest: +SKIP
    >>> evidence.values.shape, evidence.unit  # doctest: +SKIP
    ((224, 224), 'bits')
    """

    def __init__(
        self,
        model: str | Path | DeployedModel,
        *,
        layer: str | Sequence[str] = AUTO,
        method: str = "window",
        window: int | None = None,
        stride: int | None = None,
        samples: int | None = None,
        background: str | Path = "mean",
        batch_size: int = 32,
        seed: int = 0,
        laplace: tuple[int, int] | None = None,
        preprocess: str | Path | Preprocess | None = None,
        labels: str | Path | None = None,
        device: str = "auto",
    ) -> None:
        layers = (layer,) if isinstance(layer, str) else tuple(layer)
        self.settings = Settings(method, layers, window, stride, samples, str(background), batch_size, seed, laplace)
        self.settings.check()
        if not isinstance(model, DeployedModel):
            model = DeployedModel(model, preprocess=preprocess, labels=labels, device=device)
        elif (preprocess, labels, device) != (None, None, "auto"):
            raise SettingError("a model that is open has its preprocess, labels and device: give them to DeployedModel")
        self.deployed = model
        # Refuse a model without preprocessing, or with other labels than classes, before hours are spent.
        _ = model.preprocess, model.classes
        self._file = self._load_background()
        self.cuts = [self._prepare(name) for name in self._cut_names()]

    def _cut_names(self) -> list[str]:
        if self.settings.preset.at_input:
            return [self.deployed.model.input_name]
        return resolve_layers(self.settings.layers, self.deployed.graph.cuts)

    def _load_background(self) -> BackgroundFile | None:
        path = self.settings.background_path
        if path is None:
            return None
        return load_background(path, self.deployed.model.sha256, self.deployed.preprocess.model_dump_json())

    def _sampler(self, cut: str) -> Sampler:
        if self._file is None:
            return ZeroSampler() if self.settings.background == "zero" else MeanSampler()
        header, background = self._file.for_cut(cut, self.settings.background)
        return ConditionalSampler(background, header.window)

    def _prepare(self, name: str) -> PreparedCut:
        preset, settings = self.settings.preset, self.settings
        cut = self.deployed.graph.find(name)
        sampler = self._sampler(name)
        size = settings.window or preset.window or sampler.window or default_size(cut.grid)
        stride = settings.stride or preset.stride or max(1, size // 3)
        samples = settings.samples or (1 if sampler.deterministic else preset.samples)
        check_samples(samples, sampler.deterministic)
        windows = Windows.place(cut.grid, size, stride)
        sampler.check(windows.size)
        split = self.deployed.split(cut)
        at_input = name == self.deployed.model.input_name
        shape = self.deployed.model.input_shape
        field = input_field(shape[1:]) if at_input else measure_field(split.head, shape, cut.grid)
        return PreparedCut(split, field, windows, sampler, samples)

    @property
    def copies(self) -> int:
        """Edited copies that are run per picture, over all cuts."""
        return sum(prepared.copies for prepared in self.cuts)

    @property
    def background(self) -> str:
        """What removed features are replaced by, in words."""
        if self.settings.background == "mean":
            return "the picture's own channel means"
        if self.settings.background == "zero":
            return "zero"
        return f"the conditional Gaussian of {self.settings.background}"

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
            If the image or a class cannot be used, or the split is not exact on this image.
        SettingError
            If a class would be held against itself.
        """
        return self.explain_all(image, [target], versus)[0]

    def explain_all(
        self,
        image: str | Path | Pixels | Photograph,
        targets: Sequence[str | int] = (TOP,),
        versus: str | int | None = None,
        progress: Callable[[int], object] = lambda copies: None,
    ) -> list[Explanation]:
        """Explain several classes of one image from the same passes; see `explain`.

        Parameters
        ----------
        image : str or Path or ndarray of uint8, shape (H, W, 3) or (H, W), or Photograph
            As in `explain`.
        targets : sequence of (str or int)
            The classes, each as in `explain`.
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
        self.check_targets(targets, versus)
        photograph, inputs, placement = self.deployed.prepare(image)
        logits = self.deployed.logits(inputs[None])
        top = int(logits[0].argmax())
        chosen = [top if name == TOP else self.deployed.find_class(name) for name in targets]
        rival = None if versus is None else self.deployed.find_class(versus)
        if rival in chosen:
            raise TargetError(
                f"{photograph.name}: the model's own answer is {self.deployed.label(top)!r}, the very class to hold it "
                "against: take another --versus, or name the target"
            )
        classes = sorted({*chosen, *(() if rival is None else (rival,))})
        full = log_probabilities(logits, classes)
        removals, certificates = self._remove(inputs, logits[0], classes, progress)
        background = (self.background, self._file.sha256 if self._file else None)
        record = make_record(self.deployed, self.settings, background, self.cuts, photograph, certificates)
        explanations = []
        for target in dict.fromkeys(chosen):
            column = classes.index(target)
            evidence = [
                window_evidence(removal, column, None if rival is None else classes.index(rival), self.settings.laplace)
                for removal in removals
            ]
            values, errors = self._to_input(evidence)
            explanations.append(
                Explanation(
                    values=values,
                    stderr=errors,
                    grids=tuple(each.windows.average(each.bits).astype(np.float32) for each in evidence),
                    target=self._named(target),
                    versus=None if rival is None else self._named(rival),
                    probability=float(np.exp(full.log_p[0, column])),
                    log_odds_bits=float(full.log_odds[0, column] / LN2),
                    photograph=photograph,
                    placement=placement,
                    record=record,
                )
            )
        return explanations

    def check_targets(self, targets: Sequence[str | int], versus: str | int | None = None) -> None:
        """Refuse classes that no picture can be explained for.

        Parameters
        ----------
        targets : sequence of (str or int)
            Class numbers or names; 'top1' is passed over.
        versus : str or int, optional
            The class to hold them against.

        Raises
        ------
        TargetError
            If a class is unknown or its name ambiguous.
        SettingError
            If a class would be held against itself.
        """
        named = [self.deployed.find_class(name) for name in targets if name != TOP]
        if versus is not None and (rival := self.deployed.find_class(versus)) in named:
            raise SettingError(
                f"class {self.deployed.label(rival)!r} cannot be held against itself: take another --versus"
            )

    def _named(self, number: int) -> Named:
        return Named(number, self.deployed.label(number))

    def _remove(
        self, inputs: Features, logits: FloatArray, classes: Sequence[int], progress: Callable[[int], object]
    ) -> tuple[list[Removal], list[float]]:
        removals, certificates = [], []
        image_key = key_of(inputs.tobytes())
        for prepared in self.cuts:
            features = prepared.split.head(inputs[None])[0]
            certificates.append(self.deployed.certify(prepared.split, features, logits))
            removals.append(
                remove_windows(
                    features,
                    prepared.split.tail,
                    prepared.sampler,
                    prepared.windows,
                    classes,
                    samples=prepared.samples,
                    key=(self.settings.seed, image_key, key_of(prepared.cut.name.encode())),
                    batch_size=self.settings.batch_size,
                    progress=progress,
                )
            )
        return removals, certificates

    def _to_input(self, evidence: list[WindowEvidence]) -> tuple[Features, Features]:
        """The mean over cuts of their maps in input pixels, and its standard error."""
        values, variances = [], []
        for each, prepared in zip(evidence, self.cuts, strict=True):
            value, variance = prepared.field.project(each)
            values.append(value)
            variances.append(variance)
        mean = np.mean(values, axis=0).astype(np.float32)
        error = (np.sqrt(np.sum(variances, axis=0)) / len(values)).astype(np.float32)
        return mean, error
