"""A deployed model, opened: the file, its graph, the device, its preprocessing and class names."""

import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from onnx_evidence.errors import CutError, DataError, ModelError
from onnx_evidence.graph import Cut, Graph
from onnx_evidence.images import Photograph, as_photograph, read_photograph, to_input
from onnx_evidence.model import find_class, load_model, read_labels
from onnx_evidence.placement import Placement
from onnx_evidence.preprocess import Preprocess, read_preprocess
from onnx_evidence.runtime import Classifier, Session, settle_device
from onnx_evidence.types import Features, FloatArray, Head, Pixels, Predict

# A split is refused where it changes a logit by more than this share of the largest one.
CERTIFICATE_TOLERANCE = 1e-4

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SplitModel:
    """A model split at a cut: ``tail(head(x))`` gives the logits of the whole.

    Attributes
    ----------
    cut : Cut
        Where it is split.
    head : Head
        Input to features.
    tail : Predict
        Features to logits.
    """

    cut: Cut
    head: Head
    tail: Predict


class DeployedModel:
    """An .onnx classifier ready to run.

    Parameters
    ----------
    path : str or Path
        The .onnx file.
    preprocess : str or Path or Preprocess, optional
        A TOML file, or the settings themselves; by default what the model records.
    labels : str or Path, optional
        A text file of class names, one per line; by default what the model records.
    device : {'auto', 'cpu', 'cuda'}
        Where to run.

    Attributes
    ----------
    model : Model
        What the file says of itself.
    graph : Graph
        Its cuts.
    device : Device
        Where it runs, and why.
    labels : tuple of str or None
        Class names in class order.

    Raises
    ------
    ModelError, DataError, DeviceError
        If the file, the preprocessing, the labels or the device cannot be used.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        preprocess: str | Path | Preprocess | None = None,
        labels: str | Path | None = None,
        device: str = "auto",
    ) -> None:
        if isinstance(preprocess, str | Path):
            preprocess = read_preprocess(Path(preprocess))
        self.model = load_model(Path(path), preprocess)
        self.graph = Graph(self.model)
        self.labels = read_labels(Path(labels)) if labels is not None else self.model.labels
        self.device = settle_device(device)
        log.info("device: %s (%s)", self.device.name, self.device.reason)

    @cached_property
    def session(self) -> Session:
        """The whole model, input to logits."""
        return Session(self.graph.whole(), self.device, batch=self.model.batch)

    @cached_property
    def classes(self) -> int:
        """K, the number of classes, found by running the model once on zeros.

        Returns
        -------
        int

        Raises
        ------
        ModelError
            If the output is no vector of at least two logits.
        DataError
            If there are more or fewer labels than classes.
        """
        result = self.session.run(np.zeros((1, *self.model.input_shape), np.float32))
        if result.size < 2 or max(result.shape[1:]) != result.size:
            shape = " x ".join(str(side) for side in result.shape)
            raise ModelError(
                f"{self.model.path}: output {self.model.output_name!r} has shape {shape}; a classifier gives one "
                "vector of at least two class scores"
            )
        if self.labels is not None and len(self.labels) != result.size:
            raise DataError(f"{len(self.labels)} labels for a model of {result.size} classes: they must be as many")
        return int(result.size)

    def logits(self, inputs: Features) -> FloatArray:
        """Logits of inputs (N, channels, H, W), float64 (N, K).

        Parameters
        ----------
        inputs : ndarray of float32, shape (N, channels, H, W)
            Preprocessed pictures, as `prepare` makes them.

        Returns
        -------
        ndarray of float64, shape (N, K)

        Raises
        ------
        ModelError
            If they are probabilities after all, or the model cannot be run on these inputs.
        """
        logits = Classifier(self.session)(inputs)
        sums = logits.sum(axis=1)
        if self.model.output_kind == "logits" and logits.min() >= 0 and np.abs(sums - 1).max() < 1e-4:
            raise ModelError(
                f"{self.model.path}: output {self.model.output_name!r} holds probabilities, and no Softmax was "
                "found to cut before: export the model with logits, or with a Softmax node at its end"
            )
        return logits

    @property
    def preprocess(self) -> Preprocess:
        """The preprocessing in use.

        Raises
        ------
        DataError
            If the model records none and none was given.
        """
        if self.model.preprocess is None:
            raise DataError(
                f"{self.model.path}: the model does not record its preprocessing and it cannot be guessed; pass "
                "--preprocess FILE.toml (README, 'Preprocessing', has a template)"
            )
        return self.model.preprocess

    def prepare(self, image: str | Path | Pixels | Photograph) -> tuple[Photograph, Features, Placement]:
        """Read an image and make the model's input (channels, H, W) from it.

        Parameters
        ----------
        image : str or Path or ndarray of uint8, shape (H, W, 3) or (H, W), or Photograph
            A picture file, RGB or grey pixels, or a picture that is decoded already.

        Returns
        -------
        photograph : Photograph
        inputs : ndarray of float32, shape (channels, H, W)
        placement : Placement
            Where the input lies in the photograph.

        Raises
        ------
        DataError
            If the image cannot be used, or the preprocessing is not known.
        """
        if isinstance(image, np.ndarray):
            photograph = as_photograph(image)
        elif isinstance(image, Photograph):
            photograph = image
        else:
            photograph = read_photograph(Path(image))
        inputs, placement = to_input(photograph, self.preprocess)
        return photograph, inputs, placement

    def find_class(self, name: str | int) -> int:
        """The number of a class, from its number or name.

        Parameters
        ----------
        name : str or int
            A class number, or a class name (case does not matter).

        Returns
        -------
        int
            0..K-1.

        Raises
        ------
        TargetError
            If there is no such class, or two classes share the name.
        """
        return find_class(name, self.labels, self.classes)

    def label(self, number: int) -> str:
        """The name of a class; 'class 7' where the model has no names.

        Parameters
        ----------
        number : int
            A class, 0..K-1.

        Returns
        -------
        str
        """
        return self.labels[number] if self.labels is not None else f"class {number}"

    def split(self, cut: Cut) -> SplitModel:
        """Split at a cut and make both halves ready to run.

        Parameters
        ----------
        cut : Cut
            One of the graph's.

        Returns
        -------
        SplitModel

        Raises
        ------
        ModelError, DeviceError
            If ONNX Runtime cannot run one of the halves, or not on the device.
        """
        head, tail = self.graph.split(cut)
        if head is None:
            # At the input the tail is the whole model, which is open already.
            return SplitModel(cut, head=lambda inputs: inputs, tail=Classifier(self.session))
        sessions = (Session(half, self.device, batch=self.model.batch) for half in (head, tail))
        return SplitModel(cut, head=next(sessions).run, tail=Classifier(next(sessions)))

    def certify(self, split: SplitModel, features: Features, logits: FloatArray) -> float:
        """Prove on one picture that the split model is the model.

        Parameters
        ----------
        split : SplitModel
            From `split`.
        features : ndarray of float32, shape (C, A, B)
            ``head(x)``.
        logits : ndarray of float64, shape (K,)
            Of the whole model for the same picture.

        Returns
        -------
        float
            Largest difference of a logit, as a share of the largest logit: the cut's certificate.

        Raises
        ------
        CutError
            If it exceeds the tolerance.
        """
        difference = np.abs(split.tail(features[None])[0] - logits).max()
        certificate = float(difference / max(np.abs(logits).max(), 1e-30))
        if not certificate <= CERTIFICATE_TOLERANCE:
            raise CutError(
                f"layer {split.cut.name!r}: the model split there differs from the whole by {certificate:.2g} of the "
                f"largest logit (at most {CERTIFICATE_TOLERANCE:g}): take another layer"
            )
        return certificate
