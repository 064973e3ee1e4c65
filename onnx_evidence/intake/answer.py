"""What the deployed file says of a picture: its class scores as it gives them, and their logits.

Everything that is printed or recorded of the model's decision is read here, from the file itself, and not from parts of
its canonical graph, which round otherwise where numbers have few bits.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from onnx_evidence.errors import ModelError
from onnx_evidence.evidence import LN2, ClassKind
from onnx_evidence.intake.append import LEAST
from onnx_evidence.intake.deployed_file import DeployedFile
from onnx_evidence.intake.model import Model
from onnx_evidence.intake.refusals import regression
from onnx_evidence.intake.rows import check_rows
from onnx_evidence.preprocessing import trials
from onnx_evidence.sessions import Device, finite_logits
from onnx_evidence.types import AnyArray, Features, FloatArray

# Classes whose probability and logit are held against each other.
_COMPARED = 5


@dataclass(frozen=True)
class Answer:
    """What a model says of one picture.

    Attributes
    ----------
    logits : ndarray of float64, shape (K,)
        Log-odds are counted from these: they have digits where a probability rounds to 0 or 1.
    class_kind : ClassKind
        What they mean.
    given : ndarray of float64, shape (K,), or None
        Probabilities as the file gives them; None where it gives logits.
    """

    logits: FloatArray
    class_kind: ClassKind
    given: FloatArray | None = None

    def probabilities(self, classes: list[int]) -> FloatArray:
        """Probabilities of some classes: the file's own numbers, or the softmax (sigmoids) of its logits in float64.

        Parameters
        ----------
        classes : list of int
            T of them.

        Returns
        -------
        ndarray of float64, shape (T,)
        """
        if self.given is not None:
            return self.given[classes]
        return self.from_logits(classes)

    def from_logits(self, classes: list[int]) -> FloatArray:
        """Probabilities that the logits stand for; see `probabilities`."""
        return np.asarray(np.exp(self.class_kind.log_probabilities(self.logits[None], classes).log_p[0]))

    def log_odds_bits(self, classes: list[int]) -> FloatArray:
        """Log2 odds of some classes, from the logits.

        Parameters
        ----------
        classes : list of int
            T of them.

        Returns
        -------
        ndarray of float64, shape (T,)
        """
        return np.asarray(self.class_kind.log_probabilities(self.logits[None], classes).log_odds[0] / LN2)

    @cached_property
    def ranked(self) -> list[int]:
        """All classes from the most to the least probable; of equal probabilities the larger logit goes first."""
        said = self.logits if self.given is None else self.given
        return [int(number) for number in np.lexsort((-self.logits, -said))]


class Answers:
    """Asks the deployed file.

    Probabilities are those of the file's output, run untouched. Logits are its output, where that holds them. Where it
    holds probabilities or their logarithms, logits are the tensor of the file that its softmax or sigmoid reads, made
    an output of a second session: of p = 1 in float32, or of any p in half precision, too few digits are left. Both are
    held against each other for every picture. Where the file has no such tensor of its own (it lies inside a local
    function), the canonical graph's is taken; where there is none at all, the logarithms of the probabilities.

    Parameters
    ----------
    model : Model
        The file with its canonical graph.
    device : Device or None
        Where to run; None where no file has this model, and its canonical graph answers for it.
    canonical : callable
        The canonical graph: from pictures (N, channels, H, W) to logits (N, K).

    Raises
    ------
    ModelError, DeviceError
        If ONNX Runtime cannot run the file, or not on the device.
    """

    def __init__(self, model: Model, device: Device | None, canonical: Callable[[Features], FloatArray]) -> None:
        self._model, self._canonical = model, canonical
        self._output = self._asked(model.output_name, device)
        self._beside = model.output_kind != "logits" and model.source_name != model.output_name
        self._source = self._asked(model.source_name, device) if self._beside else self._output

    def _asked(self, tensor: str, device: Device | None) -> DeployedFile | None:
        """None where the file has no such tensor."""
        model = self._model
        if device is None or tensor not in model.own:
            return None
        return DeployedFile(model.path, model.data, model.entry, tensor, device, rows=model.rows, outputs=model.outputs)

    def of(self, inputs: Features) -> Answer:
        """What the file says of one picture, run alone.

        Parameters
        ----------
        inputs : ndarray of float32, shape (channels, H, W)
            The preprocessed picture.

        Returns
        -------
        Answer

        Raises
        ------
        ModelError
            If the scores are no finite numbers, or no scores of classes, or probabilities and logits disagree.
        """
        raw = None if self._output is None else self._output.run(inputs[None])
        answer = Answer(self._logits(inputs[None], raw)[0], self._model.class_kind, self._given(raw))
        self._check(answer)
        return answer

    def logits(self, inputs: Features) -> FloatArray:
        """Logits of many pictures, as many at once as the file takes; see `of`.

        Parameters
        ----------
        inputs : ndarray of float32, shape (N, channels, H, W)
            Preprocessed pictures.

        Returns
        -------
        ndarray of float64, shape (N, K)

        Raises
        ------
        ModelError
            As `of`.
        """
        return self._logits(inputs, None)

    @cached_property
    def classes(self) -> int:
        """K, the number of classes, found by running the model once on zeros.

        Raises
        ------
        ModelError
            If the output is no vector of at least two class scores.
        """
        model = self._model
        zeros = np.zeros((1, *model.input_shape), np.float32)
        result = self._canonical(zeros) if self._source is None else self._source.run(zeros)
        if result.size == 1 and model.columns is not None:
            return len(model.columns)
        if result.size == 1 and model.output_kind == "logits":
            raise ModelError(f"{model.path}: {regression(model.output_name)}")
        if result.size < 2 or max(result.shape[1:]) != result.size:
            shape = " x ".join(str(side) for side in result.shape)
            raise ModelError(
                f"{model.path}: output {model.output_name!r} has shape {shape}; a classifier gives one vector of at "
                "least two class scores"
            )
        return int(result.size)

    def _logits(self, inputs: Features, raw: AnyArray | None) -> FloatArray:
        if self._source is None:
            found = self._canonical(inputs)
        else:
            found = self._read(self._source.run(inputs) if self._beside or raw is None else raw)
        check_rows(self._model, found)
        return found

    def _read(self, raw: AnyArray) -> FloatArray:
        """Logits, as the canonical graph makes them of the same tensor."""
        found, model = finite_logits(raw), self._model
        if model.output_kind == "probabilities" and not self._beside:
            logarithm = np.log(np.clip(found, LEAST, 1.0))
            alone = model.binary or model.class_kind.name == "independent"
            found = logarithm - np.log(np.clip(1.0 - found, LEAST, 1.0)) if alone else logarithm
        return found if model.columns is None else found * np.array([model.columns])

    def _given(self, raw: AnyArray | None) -> FloatArray | None:
        """Probabilities (K,) as the file gives them."""
        if raw is None or self._model.output_kind == "logits":
            return None
        found = raw.reshape(-1).astype(np.float64)
        if self._model.output_kind == "log-probabilities":
            found = np.exp(found)
        # A sum of rounded numbers may exceed 1.
        found = np.clip(found, 0.0, 1.0)
        return np.array([1.0 - found[0], found[0]]) if found.size == 1 else found

    def _check(self, answer: Answer) -> None:
        """Refuse probabilities that are not those of the logits."""
        if answer.given is None:
            return
        classes = answer.ranked[:_COMPARED]
        apart = np.abs(answer.from_logits(classes) - answer.given[classes])
        worst, most = int(apart.argmax()), self._model.arithmetic.tolerance
        if not apart[worst] <= most:
            raise ModelError(
                f"{self._model.path}: output {self._model.output_name!r} gives class {classes[worst]} p = "
                f"{answer.given[classes[worst]]:.4f}, and its logits {self._model.source_name!r} stand for one that is "
                f"{apart[worst]:.1g} off (at most {most:g}): export the model with its logits"
            )

    @cached_property
    def scale(self) -> float:
        """The largest logit, in magnitude, of two pictures of noise: what rounding is measured by at least."""
        entry = self._model.entry
        for pictures in trials(entry.ranges, entry.shape[1:], 2):
            with suppress(ModelError):  # no score of these is a number
                return float(np.abs(self.logits(pictures)).max())
        return 0.0
