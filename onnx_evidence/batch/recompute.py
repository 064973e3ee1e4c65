"""Maps computed again from what their receipts say, and held against those that were written."""

import hashlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, fields
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import TypeAdapter, ValidationError

from onnx_evidence.batch import places
from onnx_evidence.batch.summary import load_map
from onnx_evidence.batch.verify import Checked
from onnx_evidence.counting.tally import MAX_WORK
from onnx_evidence.deployed import DeployedModel
from onnx_evidence.errors import DataError, EvidenceError, StoreError
from onnx_evidence.explanation import Explanation
from onnx_evidence.files.arrays import unpack_arrays
from onnx_evidence.images import list_images
from onnx_evidence.pipeline import Explainer
from onnx_evidence.preprocessing.contract import make_preprocess
from onnx_evidence.settings import Settings
from onnx_evidence.store import json_line
from onnx_evidence.types import FloatArray

IDENTICAL, WITHIN, DIFFERENT, FAILED = "identical", "within tolerance", "different", "not recomputed"
# Bits, of a cell or of a patch as people are shown: far below what is printed, far above rounding.
TOLERANCE = 0.01


class Verdict(NamedTuple):
    """What became of a map when it was computed again.

    Attributes
    ----------
    image, map : str
        As in the manifest.
    verdict : str
        `IDENTICAL`, bit for bit; `WITHIN` the tolerance; `DIFFERENT`; or `FAILED`.
    deviation : float or None
        Largest difference in bits: of a cell of a cut, of a patch in pixels, or of the log-odds; infinite where shapes
        differ.
    note : str
        What else there is to say.
    """

    image: str
    map: str
    verdict: str
    deviation: float | None
    note: str = ""


def reopen(
    entry: dict[str, Any],
    folder: Path,
    model: Path | None,
    device: str,
    batch_size: int | None,
    max_work: int = MAX_WORK,
) -> Explainer:
    """The explainer that a manifest line tells of.

    Parameters
    ----------
    entry : dict
        A manifest line.
    folder : Path
        Of the results.
    model : Path or None
        Where the model is now; None for where it was.
    device : {'auto', 'cpu', 'cuda'}
        Where to run.
    batch_size : int or None
        None for the recorded one.
    max_work : int
        As in `deployed.DeployedModel`.

    Returns
    -------
    Explainer

    Raises
    ------
    EvidenceError
        If model or background cannot be used, or are not those of the receipt.
    """
    layers, settings = _settings(entry)
    settings["batch_size"] = batch_size or settings["batch_size"]
    preprocess = make_preprocess(json_line(entry["settings"]["preprocess"]), "the receipt")
    path = model or places.find(folder, entry, "model", entry["model"])
    if entry["hashes"]["background"] is not None:
        settings["background"] = str(places.find(folder, entry, "background", settings["background"]))
    deployed = DeployedModel(
        path,
        preprocess=preprocess,
        device=device,
        output=entry["output"],
        classes=entry["classes"],
        max_work=max_work,
    )
    if deployed.model.sha256 != entry["hashes"]["model"]:
        raise StoreError(
            f"{path}: is another model: its SHA-256 is {deployed.model.sha256[:12]}..., the receipts say "
            f"{entry['hashes']['model'][:12]}...; pass --model FILE"
        )
    explainer = Explainer(deployed, layer=layers, **settings)
    if explainer.record["hashes"]["background"] != entry["hashes"]["background"]:
        raise StoreError(f"{settings['background']}: is another background: its SHA-256 is not that of the receipts")
    return explainer


def _settings(entry: dict[str, Any]) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The layers of a manifest line, and its other settings, as `Explainer` takes them."""
    given = {name: value for name, value in entry["settings"].items() if name != "preprocess"}
    try:
        if unknown := set(given) - {field.name for field in fields(Settings)}:
            raise ValueError(f"{min(unknown)} is none of them")
        settings = asdict(TypeAdapter(Settings).validate_python(given))
    except ValueError as error:
        wrong = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise StoreError(f"the settings of a receipt are none of this version: {wrong}") from error
    return settings.pop("layers"), settings


def recompute(
    explainer: Explainer,
    entries: Sequence[dict[str, Any]],
    folder: Path,
    picture: Callable[[dict[str, Any]], Path],
    tolerance: float = TOLERANCE,
) -> Iterator[Verdict]:
    """Compute maps again.

    Parameters
    ----------
    explainer : Explainer
        From `reopen`.
    entries : sequence of dict
        Manifest lines.
    folder : Path
        Where their maps are.
    picture : callable
        From a line to the picture's file.
    tolerance : float
        Bits that may be between a map and the one computed again.

    Returns
    -------
    iterator of Verdict
        As they are known.
    """
    for entry in entries:
        image, path = entry["image"], entry["map"]
        try:
            photograph = explainer.deployed.read(picture(entry))
            again = explainer.explain(photograph, target=entry["target"], versus=entry["versus"])
            deviation, same = _deviation(load_map(folder, path), entry, again)
        except EvidenceError as error:
            yield Verdict(image, path, FAILED, None, str(error))
            continue
        verdict = IDENTICAL if same else WITHIN if deviation <= tolerance else DIFFERENT
        moved = again.record["hashes"]["input"] != entry["hashes"]["input"]
        yield Verdict(image, path, verdict, deviation, "the preprocessed picture differs" if moved else "")


def _deviation(there: dict[str, FloatArray], entry: dict[str, Any], again: Explanation) -> tuple[float, bool]:
    """The largest difference in bits, and whether there is none at all."""
    now = unpack_arrays(BytesIO(again.packed()))
    if {name: each.shape for name, each in now.items()} != {name: each.shape for name, each in there.items()}:
        return float("inf"), False
    # A pixel's bits are few where they add up: as many pixels as a number shown to people stands for.
    area = float(np.prod(again.patch))
    largest = abs(entry["log_odds_bits"] - again.log_odds_bits)
    same = largest == 0
    for name, values in now.items():
        same &= values.tobytes() == there[name].tobytes()
        apart = np.abs(values.astype(np.float64) - there[name])
        unknown = np.isnan(values) & np.isnan(there[name])
        worst = float(np.where(unknown, 0.0, np.nan_to_num(apart, nan=np.inf)).max(initial=0.0))
        largest = max(largest, worst if name.startswith("cut") else worst * area)
    return largest, same


def finder(folder: Path, given: Sequence[Path]) -> Callable[[dict[str, Any]], Path]:
    """Where pictures are: those of some folders by their content, others where they were.

    Parameters
    ----------
    folder : Path
        Of the results.
    given : sequence of Path
        Files and folders.

    Returns
    -------
    callable
        From a manifest line to the picture's file.

    Raises
    ------
    DataError
        If one does not exist, or a folder holds no picture.
    """
    found = {}
    if missing := [path for path in given if not path.exists()]:
        raise DataError(f"{missing[0]}: there is no such file or folder: name one that holds the pictures")
    for path in list_images(list(given)):
        if path.is_file():
            found[hashlib.sha256(path.read_bytes()).hexdigest()] = path
    return lambda entry: found.get(entry["hashes"]["image"]) or places.find(folder, entry, "image", entry["image"])


def verification(checked: Checked, verdicts: Sequence[Verdict], tolerance: float) -> dict[str, Any]:
    """Everything that `verify` found, as plain values.

    Parameters
    ----------
    checked : Checked
        What the hashes say.
    verdicts : sequence of Verdict
        What the maps say.
    tolerance : float
        In bits.

    Returns
    -------
    dict
        ``verdict`` ('damaged', 'different', 'incomplete', 'within tolerance', 'identical', or 'unchanged' where no map
        was computed again), ``exit_code``, ``head``, ``files``, ``problems``, ``absent``, ``pictures``,
        ``tolerance_bits`` and ``largest_deviation_bits``.
    """
    found = {each.verdict for each in verdicts}
    deviations = [each.deviation for each in verdicts if each.deviation is not None]
    if checked.problems:
        verdict, code = "damaged", 1
    elif DIFFERENT in found:
        verdict, code = DIFFERENT, 1
    elif FAILED in found or checked.absent:
        verdict, code = "incomplete", 3
    else:
        verdict, code = WITHIN if WITHIN in found else IDENTICAL if found else "unchanged", 0
    return {
        "verdict": verdict,
        "exit_code": code,
        "head": checked.head,
        "files": checked.files,
        "problems": [each._asdict() for each in checked.problems],
        "absent": checked.absent,
        "pictures": [_plain(each) for each in verdicts],
        "tolerance_bits": tolerance,
        "largest_deviation_bits": min(max(deviations), sys.float_info.max) if deviations else None,
    }


def _plain(verdict: Verdict) -> dict[str, Any]:
    # JSON has no infinity.
    deviation = None if verdict.deviation is None else min(verdict.deviation, sys.float_info.max)
    return {**verdict._asdict(), "deviation": deviation}
