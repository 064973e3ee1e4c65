"""Exported models as files: made, proved, and told from others by what is recorded in them."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, BinaryIO

import onnx
from google.protobuf.message import DecodeError

from onnx_evidence.errors import ModelError
from onnx_evidence.evidence import EXCLUSIVE
from onnx_evidence.explainer import Explainer
from onnx_evidence.export import selftest
from onnx_evidence.export.build import CELLS, INPUT, Asked, explained
from onnx_evidence.export.proof import ROUNDING, Proof, noise, prove
from onnx_evidence.graphs import Net
from onnx_evidence.intake import LABELS_KEY, RECORD, SCHEMA
from onnx_evidence.preprocessing import METADATA_KEY
from onnx_evidence.sessions import Session

# Where protobuf ends.
_LARGEST = 2**31 - 1
# Bits that the evidence of a patch may be from the explainer's: more is no rounding.
_MOST_APART = 0.05
# Levels that what is made of a decoded picture may be off: the least step there is, where libraries round otherwise.
_MOST_LEVELS = 1.0


@dataclass(frozen=True)
class Exported:
    """A model that explains itself.

    Attributes
    ----------
    data : bytes
        The .onnx file.
    info : dict
        What is recorded in it, see docs/export.md.
    growth : float
        How much larger it is than the file that it is of, as a share.
    """

    data: bytes
    info: dict[str, Any]
    growth: float


def export_model(
    explainer: Explainer, asked: Asked, *, pictures: int = 3, done: Callable[[int], object] = lambda count: None
) -> Exported:
    """Compile an explainer into its model, and prove it.

    What the file computes anyway is used, where its own outputs stay the same to the bit; else it is computed again.

    Parameters
    ----------
    explainer : Explainer
        As `explained` takes it.
    asked : Asked
        Which classes, and how much at once.
    pictures : int
        Of noise, that it is proved on.
    done : callable
        Called with the number of pictures since the last call.

    Returns
    -------
    Exported

    Raises
    ------
    SettingError, GradientError
        As `explained`.
    ModelError
        If the result is not what it should be, or larger than an ONNX file may be.
    """
    tried = noise(explainer, pictures, decoded=asked.decoded)
    model = explained(explainer, asked)
    proof = prove(model, explainer, asked, tried, done)
    if not proof.identical:
        once_more = replace(asked, apart=True)
        other = explained(explainer, once_more)
        if (found := prove(other, explainer, once_more, tried, done)).outputs_apart < proof.outputs_apart:
            model, asked, proof = other, once_more, found
    path = explainer.deployed.model.path
    if proof.outputs_apart > ROUNDING:
        raise ModelError(
            f"{path}: with evidence in the same graph its own outputs are {proof.outputs_apart:.1g} of the largest "
            f"off, more than rounding is ({ROUNDING:g}): it cannot be exported"
        )
    if not proof.apart_bits <= _MOST_APART:
        raise ModelError(
            f"{path}: exported, evidence is {proof.apart_bits:.2g} bits from what 'explain' gives, more than "
            f"{_MOST_APART:g}: take another --background or --layer"
        )
    if proof.levels_apart > _MOST_LEVELS * (1 + ROUNDING):
        raise ModelError(
            f"{path}: preprocessed inside, what goes into the model is {proof.levels_apart:.3g} of 255 levels "
            f"off, more than {_MOST_LEVELS:g}: export it without 'inside'"
        )
    info = _info(model, explainer, asked, proof)
    for key, value in {**_for_pictures(explainer), RECORD: json.dumps(info, allow_nan=False)}.items():
        _record(model, key, value)
    if (size := model.ByteSize()) > _LARGEST:
        raise ModelError(f"{path}: exported it has {size} bytes, an ONNX file at most {_LARGEST}")
    data = model.SerializeToString()
    before = len(explainer.deployed.model.data) + sum(each.state[2] for each in explainer.deployed.model.beside)
    return Exported(data, info, len(data) / before - 1)


def _for_pictures(explainer: Explainer) -> dict[str, str]:
    """What is done to pictures, and what classes are called, wherever that was found."""
    deployed = explainer.deployed
    found = {METADATA_KEY: deployed.preprocess.model_dump_json()}
    if deployed.labels is not None and not deployed.model.binary:
        found[LABELS_KEY] = json.dumps(deployed.labels)
    return found


def _record(model: onnx.ModelProto, key: str, value: str) -> None:
    kept = [each for each in model.metadata_props if each.key != key]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    model.metadata_props.add(key=key, value=value)


def _info(model: onnx.ModelProto, explainer: Explainer, asked: Asked, proof: Proof) -> dict[str, Any]:
    deployed, record = explainer.deployed, explainer.record

    def named(which: int | str) -> str:
        return which if isinstance(which, str) else deployed.label(which)

    added = [value.name for value in model.graph.output[-3 if asked.decoded else -2 :]]
    inputs = [value.name for value in Net(model).inputs]
    outputs = dict(zip(("evidence", "budget", "evidence_in_picture"), added, strict=False))
    picture = {
        "input": inputs[0],
        "stands_for": deployed.model.entry.name,
        "evidence": added[-1],
    }
    return {
        "schema": SCHEMA,
        "version": record["versions"]["onnx-evidence"],
        "model_sha256": deployed.model.sha256,
        "outputs": outputs,
        "scores": {"name": deployed.model.output_name, "kind": deployed.model.output_kind},
        "picture": picture if asked.decoded else None,
        "input": inputs[-1] if INPUT in asked.targets else None,
        "targets": list(asked.targets),
        "target_labels": [named(target) for target in asked.targets],
        "versus": asked.versus,
        "versus_label": None if asked.versus is None else named(asked.versus),
        "unit": CELLS if asked.cells else explainer.method.unit,
        "settings": record["settings"],
        "background": record["background"],
        "background_sha256": record["hashes"]["background"],
        "cuts": [engine.cut.name for engine in explainer.engines],
        "classes": "exclusive" if deployed.class_kind is EXCLUSIVE else "independent",
        "at_once": asked.at_once,
        "apart": asked.apart,
        "proof": asdict(proof),
        "self_test": _self_test(model, explainer, asked, outputs),
    }


def _self_test(
    model: onnx.ModelProto, explainer: Explainer, asked: Asked, outputs: Mapping[str, str]
) -> dict[str, Any]:
    """See `export.selftest`."""
    deployed = explainer.deployed
    entry = deployed.model.entry
    if asked.decoded:
        entry = selftest.decoded(deployed.preprocess.size, as_it_is=deployed.preprocess.resize == "none")
    low, high = selftest.ends(entry)
    test = {
        "blocks": selftest.BLOCKS,
        "layout": entry.layout,
        "size": list(entry.shape[1:]),
        "low": low.tolist(),
        "high": high.tolist(),
        "levels": selftest.levels_of(entry.shape[0]).tolist(),
        "target": 0 if INPUT in asked.targets else None,
    }
    session = Session(model.SerializeToString(), deployed.device, batch=deployed.model.rows)
    found = selftest.answers(model, session, test, {**outputs, "scores": deployed.model.output_name})
    return {**test, **{kind: values.astype(float).tolist() for kind, values in found.items()}}


def is_exported(stream: BinaryIO) -> bool:
    """Whether a file is an exported model.

    Parameters
    ----------
    stream : file object
        Binary.

    Returns
    -------
    bool
    """
    try:
        model = onnx.load_model_from_string(stream.read())
    except DecodeError:
        return False
    return any(each.key == RECORD for each in model.metadata_props)
