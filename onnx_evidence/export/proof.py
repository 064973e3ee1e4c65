"""Whether an exported model says what the deployed file says, and explains it as `Explainer` does: both are run.

Where decoded pictures go in, what is made of them is held against `preprocessing.to_input`, and the file is
run on that.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx

from onnx_evidence.errors import ModelError
from onnx_evidence.evidence import generator, natural_noise
from onnx_evidence.explainer import Explainer
from onnx_evidence.export.build import INPUT, RUNNER_UP, WINNER, Asked
from onnx_evidence.export.selftest import pooled
from onnx_evidence.graphs import Net
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
# Height and width of decoded pictures that are tried, as shares of the input's.
_SHARES = ((1.25, 1.5), (2.6, 1.7), (0.7, 0.55))


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
        Largest difference of the evidence of a patch (`Explanation.patch`), or of a cell, bits.
    gap_share : float
        Largest share of the bits that the exported model leaves unaccounted.
    levels_apart : float
        Largest difference of what goes into the model, in levels of 0 to 255, where decoded pictures are made that.
    """

    pictures: int
    identical: bool
    outputs_apart: float
    apart_bits: float
    gap_share: float
    levels_apart: float = 0.0


def noise(explainer: Explainer, count: int, *, decoded: bool = False) -> list[Photograph]:
    """Photographs of the input's size to try a model on; ``decoded`` of other sizes too."""
    deployed = explainer.deployed
    size = deployed.model.input_shape[1:]
    one_size = not decoded or deployed.preprocess.resize == "none"
    if deployed.preprocess.color == "INPUT":
        inputs = deployed.model.entry.ranges[0]
        return [deployed.read(inputs.noise(size, number, margin=MARGIN)) for number in range(count)]
    found = []
    for number in range(count):
        scale = (1.0, 1.0) if one_size else _SHARES[number % len(_SHARES)]
        height, width = (max(round(side * share), 1) for side, share in zip(size, scale, strict=True))
        waves = _CONTRASTS[number % len(_CONTRASTS)] * natural_noise((3, height, width), generator(0, number))
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
    session = Session(exported.SerializeToString(), device, batch=model.rows)
    front = None
    if asked.decoded:
        front = Session(front_of(exported, model.entry.name).SerializeToString(), device, batch=model.rows)
    proof = Proof(len(pictures), True, 0.0, 0.0, 0.0)
    for picture in pictures:
        prepared = deployed.prepare(picture)[1]
        inputs = as_file_takes_it(prepared[None], model.entry)
        taken = inputs if front is None else front.run_all(picture.raw[None])[0]
        said = file.run_all(taken)
        questions = _questions(deployed.answer(prepared).ranked, asked)
        rows = [np.array([number]) for (number, _), each in zip(questions, asked.targets, strict=True) if each == INPUT]
        given = session.run_all(inputs if front is None else picture.raw[None], *rows[:1])
        if len(given) != len(said) + 2 + asked.decoded:
            raise ModelError(f"the exported model has {len(given)} outputs, and the file that it is of {len(said)}")
        own, (evidence, budget, *more) = given[: len(said)], given[len(said) :]
        apart = [0.0]
        for number, question in enumerate(questions):
            if (found := _explained(explainer, picture, *question)) is not None:
                apart.append((_apart_by_cells if asked.cells else _apart)(found, evidence[0, number]))
                apart += [_carried(found, each[0, number]) for each in more]
        proof = Proof(
            len(pictures),
            proof.identical and all(map(_same, said, own)),
            max(proof.outputs_apart, *map(_off, said, own)),
            max(proof.apart_bits, *apart),
            max(proof.gap_share, *(float(gap / max(abs(one - two), 1.0)) for one, two, _, _, gap in budget[0])),
            max(proof.levels_apart, _levels(taken, inputs, explainer)),
        )
        done(1)
    return proof


def front_of(exported: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """What makes the model's input, of that name, of decoded pictures."""
    net = Net(exported)
    inside = next(value for value in exported.graph.value_info if value.name == name)
    return net.model_of(net.needed(inside.name), net.inputs[:1], [inside], "front")


def _levels(taken: AnyArray, inputs: AnyArray, explainer: Explainer) -> float:
    """Largest difference of what goes into the model, in levels."""
    deployed = explainer.deployed
    axis = 1 if deployed.model.entry.layout == "NCHW" else 3
    off = np.abs(taken.astype(np.float64) - inputs.astype(np.float64)).max(axis=tuple({0, 1, 2, 3} - {axis}))
    return float((off * np.array(deployed.preprocess.std) / deployed.preprocess.scale).max())


def _carried(found: Explanation, in_picture: AnyArray) -> float:
    """Largest difference in the picture's own pixels, summed over patches, bits."""
    return float(np.abs(pooled(in_picture) - pooled(found.pixels)).max())


def _questions(ranked: Sequence[int], asked: Asked) -> list[tuple[int, int | None]]:
    """Target and rival of each answer, in their order, of a picture whose classes are ranked."""
    found = []
    for target in asked.targets:
        # A class that is given is another than the rival.
        first = next(number for number in ranked if target == WINNER or number != asked.versus)
        chosen = first if isinstance(target, str) else target
        rival = next(number for number in ranked if number != chosen) if asked.versus == RUNNER_UP else asked.versus
        found.append((chosen, None if rival is None else int(rival)))
    return found


def _explained(explainer: Explainer, picture: Photograph, target: int, rival: int | None) -> Explanation | None:
    """What `Explainer` says; None where the winner is the rival, of which there is nothing to say."""
    return None if target == rival else explainer.explain(picture, target=target, versus=rival)


def _apart_by_cells(found: Explanation, evidence: AnyArray) -> float:
    _check_finite(evidence)
    return float(np.abs(found.grids[0] - evidence).max())


def _check_finite(evidence: AnyArray) -> None:
    if not np.isfinite(evidence).all():
        raise ModelError("the exported model gives evidence that is not a finite number: take another --background")


def _apart(found: Explanation, evidence: AnyArray) -> float:
    _check_finite(evidence)
    other = replace(found, values=evidence.astype(np.float32))
    return float(np.abs(found.shown - other.shown).max())


def _off(one: AnyArray, other: AnyArray) -> float:
    if _same(one, other):
        return 0.0
    first, second = one.astype(np.float64), other.astype(np.float64)
    found = float(np.abs(first - second).max() / max(float(np.abs(first).max()), np.finfo(np.float32).tiny))
    return found if np.isfinite(found) else np.inf


def _same(one: AnyArray, other: AnyArray) -> bool:
    return one.dtype == other.dtype and bool(np.array_equal(one, other, equal_nan=one.dtype.kind == "f"))
