"""Whether an exported model gives what it gave where it was made, and is the model that it is said to be of."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnx_evidence.deployed import DeployedModel
from onnx_evidence.errors import ModelError, one_line
from onnx_evidence.explainer import Explainer
from onnx_evidence.export import selftest
from onnx_evidence.export.build import CELLS, Asked
from onnx_evidence.export.proof import ROUNDING, Proof, noise, prove
from onnx_evidence.graphs import Net
from onnx_evidence.intake import export_record
from onnx_evidence.methods import OPTIONS, Keywords
from onnx_evidence.preprocessing import make_preprocess
from onnx_evidence.sessions import Device, Session, settle_device
from onnx_evidence.types import FloatArray, ProviderLike

_PICTURES = 3


@dataclass(frozen=True)
class Checked:
    """What came of it.

    Attributes
    ----------
    device : str
        Where it was run.
    apart_bits : float
        Largest difference of the self-test: of the evidence of a patch, of the budget, or of the model's own scores.
    proof : Proof or None
        Beside the model that it is of, where that was given.
    passed : bool
        Whether all of it is within `selftest.TOLERANCE`, and the model's own outputs are the same.
    """

    device: str
    apart_bits: float
    proof: Proof | None
    passed: bool

    def report(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)


def check_exported(
    path: Path,
    source: Path | None = None,
    *,
    device: str = "auto",
    providers: tuple[ProviderLike, ...] = (),
    done: Callable[[int], object] = lambda count: None,
) -> Checked:
    """Run the self-test of an exported model, and hold it against the model that it is of.

    Parameters
    ----------
    path : Path
        The exported .onnx file.
    source : Path, optional
        The model that it is of.
    device : {'auto', 'cpu', 'cuda'}
        Where to run it.
    providers : tuple of str or (str, dict)
        In place of a device, as of `DeployedModel`.
    done : callable
        Called with the number of pictures since the last call.

    Returns
    -------
    Checked

    Raises
    ------
    ModelError
        If it is no exported model, or not of that one.
    EvidenceError
        One of its leaves, if the model that it is of cannot be explained.
    """
    model = _read(path)
    record = export_record({each.key: each.value for each in model.metadata_props}, path)
    if record is None:
        raise ModelError(f"{path}: is no model of 'export': nothing of the kind is recorded in it")
    where = settle_device(device, providers)
    added = [value.name for value in model.graph.output][-len(record["outputs"]) :]
    if added != list(record["outputs"].values()):
        raise ModelError(
            f"{path}: its last outputs are {', '.join(added)}, and those that 'export' recorded are "
            f"{', '.join(record['outputs'].values())}: it was changed; export the model again"
        )
    try:
        apart = _self_test(model, record, where)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ModelError(
            f"{path}: the self-test that 'export' recorded in it is damaged ({one_line(error)}): export the model again"
        ) from error
    proof = None if source is None else _proof(model, record, source, where, done)
    close = apart <= selftest.TOLERANCE
    right = proof is None or (proof.outputs_apart <= ROUNDING and proof.apart_bits <= selftest.TOLERANCE)
    return Checked(where.name, apart, proof, close and right)


def _read(path: Path) -> onnx.ModelProto:
    try:
        return onnx.load_model(path)
    except Exception as error:
        raise ModelError(f"{path}: cannot read the model: {error}") from error


def _self_test(model: onnx.ModelProto, record: Mapping[str, Any], device: Device) -> float:
    test = record["self_test"]
    rows = Net(model).inputs[0].type.tensor_type.shape.dim[0].dim_value
    session = Session(model.SerializeToString(), device, batch=rows if rows > 0 else None)
    found = selftest.answers(model, session, test, {**record["outputs"], "scores": record["scores"]["name"]})
    return max(_apart(values, np.array(test[kind], np.float64)) for kind, values in found.items())


def _apart(one: FloatArray, other: FloatArray) -> float:
    return float(np.abs(one - other).max()) if np.isfinite(one).all() else float("inf")


def _proof(
    model: onnx.ModelProto, record: Mapping[str, Any], source: Path, device: Device, done: Callable[[int], object]
) -> Proof:
    settings = dict(record["settings"])
    preprocess, layers = make_preprocess(settings.pop("preprocess"), str(source)), settings.pop("layers")
    # What a quality stands for is among the settings.
    chosen: Keywords = {name: settings[name] for name in OPTIONS if name in settings and name != "quality"}  # type: ignore[assignment] # by name
    how = {"output": record["scores"]["name"], "classes": record["classes"]}
    with DeployedModel(source, preprocess=preprocess, device="cpu" if device.plain else "auto", **how) as deployed:
        if deployed.model.sha256 != record["model_sha256"]:
            raise ModelError(
                f"{source}: has SHA-256 {deployed.model.sha256}, and what was exported is of a model with "
                f"{record['model_sha256']}: give that one"
            )
        with Explainer(deployed, layer=layers, **chosen) as explainer:
            asked = Asked(
                record["targets"],
                record["versus"],
                record["at_once"],
                record["apart"],
                decoded=record["picture"] is not None,
                cells=record["unit"] == CELLS,
            )
            pictures = noise(explainer, _PICTURES, decoded=asked.decoded)
            return prove(model, explainer, asked, pictures, done)
