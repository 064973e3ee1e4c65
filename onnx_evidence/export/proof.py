"""Whether an exported model says what the deployed file says, and explains it as `Explainer` does: both are run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx

from onnx_evidence.errors import ModelError
from onnx_evidence.evidence import generator, natural_noise
from onnx_evidence.explainer import Explainer
from onnx_evidence.export.build import INPUT, RUNNER_UP, WINNER, Asked
from onnx_evidence.intake import as_file_takes_it
from onnx_evidence.pictures import Photograph
from onnx_evidence.preprocessing import MARGIN
from onnx_evidence.results import Explanation
from onnx_evidence.sessions import Session
from onnx_evidence.types import AnyArray

# Shares of the largest output that are no more than the runtime's own rounding.
ROUNDING = 1e-5
# Of pictures that are tried: deep black and white among them.
_CONTRASTS = (1.0, 3.0, 0.3)


@dataclass(frozen=True)
class Proof:
    """What came of running both on some pictures.

    Attributes
    ----------
    pictures : int
        How many.
    identical : bool
        Whether the file's own outputs are the same, bit for bit.
    outputs_apart : float
        Largest difference between them, as a share of the largest value; half precision is computed otherwise where
        weights are read by more.
    apart_bits : float
        Largest difference of the evidence of a patch, bits (`Explanation.patch`).
    gap_share : float
        Largest share of the bits that the exported model leaves unaccounted.
    """

    pictures: int
    identical: bool
    outputs_apart: float
    apart_bits: float
    gap_share: float


def noise(explainer: Explainer, count: int) -> list[Photograph]:
    """Photographs of the input's size to try a model on."""
    deployed = explainer.deployed
    size = deployed.model.input_shape[1:]
    if deployed.preprocess.color == "INPUT":
        inputs = deployed.model.entry.ranges[0]
        return [deployed.read(inputs.noise(size, number, margin=MARGIN)) for number in range(count)]
    found = []
    for number in range(count):
        waves = _CONTRASTS[number % len(_CONTRASTS)] * natural_noise((3, *size), generator(0, number))
        shares = np.clip(0.5 + 0.5 * waves, 0, 1).transpose(1, 2, 0)
        found.append(deployed.read(np.asarray(255 * shares, np.uint8)))
    return found


def prove(
    exported: onnx.ModelProto,
    explainer: Explainer,
    asked: Asked,
    pictures: Sequence[Photograph],
    done: Callable[[int], object] = lambda count: None,
) -> Proof:
    """Run the exported model, the deployed file and the explainer on some pictures, one after the other."""
    deployed = explainer.deployed
    model, device = deployed.model, deployed.device
    file = Session(model.data, device, batch=model.rows, folder=model.path.parent)
    data = exported.SerializeToString()
    session = Session(data, device, batch=model.rows)
    identical, outputs, apart, gaps = True, 0.0, 0.0, 0.0
    for picture in pictures:
        inputs = as_file_takes_it(deployed.prepare(picture)[1][None], model.entry)
        said = file.run_all(inputs)
        found = _explanations(explainer, asked, picture)
        rows = [np.array([each.target.number]) for each in found[:1] if INPUT in asked.targets]
        given = session.run_all(inputs, *rows)
        evidence, budget = given[-2][0], given[-1][0]
        identical &= all(map(_same, said, given[:-2]))
        outputs = max(outputs, *map(_off, said, given[:-2]))
        apart = max(apart, *map(_apart, found, evidence))
        gaps = max(gaps, *(float(gap / max(abs(first - last), 1.0)) for first, last, _, _, gap in budget))
        done(1)
    return Proof(len(pictures), identical, outputs, apart, gaps)


def _explanations(explainer: Explainer, asked: Asked, picture: Photograph) -> list[Explanation]:
    """One for each target, in their order."""
    found = []
    for target in asked.targets:
        wanted = "top1" if target in (WINNER, INPUT) else target
        rival = asked.versus
        if rival == RUNNER_UP:
            alone = explainer.deployed.answer(explainer.deployed.prepare(picture)[1]).ranked
            first = explainer.deployed.find_class(wanted) if wanted != "top1" else alone[0]
            rival = next(number for number in alone if number != first)
        found.append(explainer.explain(picture, target=wanted, versus=rival))
    return found


def _apart(found: Explanation, evidence: AnyArray) -> float:
    other = replace(found, values=evidence.astype(np.float32))
    if not np.isfinite(evidence).all():
        raise ModelError("the exported model gives evidence that is not a finite number: take another --background")
    return float(np.abs(found.shown - other.shown).max())


def _off(one: AnyArray, other: AnyArray) -> float:
    if _same(one, other):
        return 0.0
    first, second = one.astype(np.float64), other.astype(np.float64)
    found = float(np.abs(first - second).max() / max(float(np.abs(first).max()), np.finfo(np.float32).tiny))
    return found if np.isfinite(found) else np.inf


def _same(one: AnyArray, other: AnyArray) -> bool:
    return one.dtype == other.dtype and bool(np.array_equal(one, other, equal_nan=one.dtype.kind == "f"))
