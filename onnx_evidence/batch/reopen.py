"""The explainer that a manifest line tells of, opened again: the model, the preprocessing and the settings."""

import hashlib
import re
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from onnx_evidence.batch import places
from onnx_evidence.counting import MAX_WORK
from onnx_evidence.cuts import AUTO
from onnx_evidence.deployed import DeployedModel
from onnx_evidence.errors import DataError, EvidenceError, StoreError
from onnx_evidence.explainer import Explainer
from onnx_evidence.files import json_line
from onnx_evidence.intake import name_both, read_file, read_labels
from onnx_evidence.methods import OPTIONS, Settings, settings_of_receipt
from onnx_evidence.preprocessing import PREPROCESSED, PRESETS, make_preprocess

# What of a line decides what is opened.
_OPENING = ("model", "settings", "method_reason", "preprocess_source", "output", "classes")
# How reasons begin where the method was not left to choose.
_BY_HAND = ("asked for", "settled by")
# A preprocessing that a file gave, which is recorded itself.
_GIVEN = object()


class RefusedError(StoreError):
    """What is there now is not what results were made from, which says nothing against the results."""


class Origin(NamedTuple):
    """Where what the lines are made from is now; None for where it was, or as recorded.

    Attributes
    ----------
    folder : Path
        Of the results.
    model, labels : Path or None
        The .onnx file, and a text file of class names.
    device : {'auto', 'cpu', 'cuda'}
        Where to run.
    providers : tuple of str
        Or by which execution providers.
    batch_size : int or None
        Rows per run of the model.
    max_work : int
        As in `deployed.DeployedModel`.
    """

    folder: Path
    model: Path | None = None
    labels: Path | None = None
    device: str = "auto"
    providers: tuple[str, ...] = ()
    batch_size: int | None = None
    max_work: int = MAX_WORK


def opening(entry: dict[str, Any]) -> str:
    """What decides which explainer a line tells of: those of one configuration may differ in what was to be chosen."""
    there = {key: value for key, value in (entry.get("places") or {}).items() if key != "image"}
    hashes = [entry["hashes"][key] for key in ("model", "labels", "background")]
    return json_line([there, hashes, *(entry[key] for key in _OPENING)])


def reopen(entry: dict[str, Any], origin: Origin) -> Explainer:
    """The explainer that a manifest line tells of, with a model that is for the caller to close.

    RefusedError where the model, its class names or the background is none, or another one than the receipts tell of;
    another EvidenceError where settings cannot be used with them.
    """
    layers, settings = _settings(entry)
    settings["batch_size"] = origin.batch_size or settings["batch_size"]
    if not entry["method_reason"].startswith(_BY_HAND):
        settings["method"] = AUTO
    if entry["hashes"]["background"] is not None:
        settings["background"] = str(places.find(origin.folder, entry, "background", settings["background"]))
    with ExitStack() as stack:
        explainer = Explainer(stack.enter_context(_reopen_model(entry, origin)), layer=layers, **settings)
        if origin.labels is not None and explainer.record["hashes"]["labels"] != entry["hashes"]["labels"]:
            raise RefusedError(f"{origin.labels}: other class names: their SHA-256 is not that of the receipts")
        if explainer.record["hashes"]["background"] != entry["hashes"]["background"]:
            other = settings["background"]
            raise RefusedError(f"{other}: is another background: its SHA-256 is not that of the receipts")
        stack.pop_all()
    return explainer


def _reopen_model(entry: dict[str, Any], origin: Origin) -> DeployedModel:
    path = origin.model or places.find(origin.folder, entry, "model", entry["model"])
    try:
        deployed = _open(path, entry, origin)
    except EvidenceError:
        # Another model need not have that output, nor take those pictures: what it is goes before what it cannot do.
        _refuse_other(path, _sha256(path, origin.max_work), entry)
        raise
    _refuse_other(path, deployed.model.sha256, entry)
    return deployed


def _open(path: Path, entry: dict[str, Any], origin: Origin) -> DeployedModel:
    recorded = make_preprocess(json_line(entry["settings"]["preprocess"]), "the receipt")
    opened = partial(
        DeployedModel,
        path,
        device=origin.device,
        providers=origin.providers,
        output=entry["output"],
        classes=entry["classes"],
        labels=origin.labels or _labels(entry, origin.folder),
        max_work=origin.max_work,
        cache=False,  # what is verified is measured again, too
    )
    source = _source(entry["preprocess_source"])
    if source is not _GIVEN:
        try:
            deployed = opened(preprocess=source)
        except DataError:  # nothing is recorded: then the line says so wrongly, which is found
            pass
        else:
            if deployed.model.preprocess == recorded:
                return deployed
    return opened(preprocess=recorded)


def _labels(entry: dict[str, Any], folder: Path) -> Path | None:
    """The file of class names, where it is still there and still holds them."""
    if not entry.get("labels"):
        return None
    path = places.find(folder, entry, "labels", entry["labels"])
    try:
        names = read_labels(path)
    except DataError:
        return None
    digests = {hashlib.sha256("\n".join(each or ()).encode()).hexdigest() for each in (names, name_both(names))}
    return path if entry["hashes"]["labels"] in digests else None


def _sha256(path: Path, max_work: int) -> str:
    try:
        return read_file(path, max_work=max_work).sha256
    except EvidenceError as error:
        raise RefusedError(f"{error}; pass --model FILE") from error


def _refuse_other(path: Path, digest: str, entry: dict[str, Any]) -> None:
    if digest != entry["hashes"]["model"]:
        raise RefusedError(
            f"{path}: is another model: its SHA-256 is {digest}, the receipts say {entry['hashes']['model']}; pass "
            "--model FILE"
        )


def _source(said: str | None) -> Any:
    """What to open a model with, so that its preprocessing is from where a line says; `_GIVEN` where that is a file."""
    if said is None or said.startswith(("the file's metadata", "preset 'none': nothing")):
        return None
    if said == "the input itself is given":
        return PREPROCESSED
    named = re.fullmatch("preset '([a-z]+)'", said)
    return named[1] if named and named[1] in PRESETS else _GIVEN


def _settings(entry: dict[str, Any]) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The layers of a manifest line, and its other settings, as `Explainer` takes them."""
    given = {name: value for name, value in entry["settings"].items() if name != "preprocess"}
    given = settings_of_receipt(given["method"], given)
    try:
        if unknown := set(given) - set(OPTIONS):
            raise ValueError(f"{min(unknown)} is none of them")
        settings = asdict(TypeAdapter(Settings).validate_python(given))
    except ValueError as error:
        wrong = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise StoreError(f"the settings of a receipt are none of this version: {wrong}") from error
    return settings.pop("layers"), settings
