"""What the command line writes and prints: files per image, manifest lines, tables."""

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from onnx_evidence.background_file import Header
from onnx_evidence.explanation import Explanation, Extreme, Named, write_figure
from onnx_evidence.images import printable
from onnx_evidence.links import Links
from onnx_evidence.path import Budget
from onnx_evidence.pipeline import Explainer
from onnx_evidence.store import MANIFEST, Manifest, write_atomic

SCHEMA = 2


def as_json(value: Any) -> str:
    """Indented JSON.

    Parameters
    ----------
    value : object
        Plain values, all numbers finite.

    Returns
    -------
    str
    """
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)


class Writer:
    """Writes the maps and figures of each image, then its manifest lines.

    Parameters
    ----------
    folder : Path
        The output folder.
    manifest : Manifest
        Its list of maps.
    images : list of Path
        All images of the run: those that share a stem get folders of their own.
    """

    def __init__(self, folder: Path, manifest: Manifest, images: list[Path]) -> None:
        self.folder, self.manifest = folder, manifest
        self._pictures = Counter(image.stem for image in images)
        # Which picture (by hash) each folder of earlier runs is about.
        self._owners = {entry["map"].split("/")[0]: entry["hashes"]["image"] for entry in manifest.entries()}

    def write(self, image: Path, explanations: list[Explanation], seconds: float) -> list[dict[str, Any]]:
        """Write all files of one image.

        Figures of one image share one scale, so that its classes can be compared.

        Parameters
        ----------
        image : Path
            The file that was explained.
        explanations : list of Explanation
            Of its classes; at least one.
        seconds : float
            Time that they took.

        Returns
        -------
        list of dict
            The manifest lines.

        Raises
        ------
        StoreError
            If a file cannot be written.
        """
        limit = max(float(np.abs(explanation.shown).max()) for explanation in explanations)
        entries = []
        for explanation in explanations:
            base = f"{self._name(image, explanation.photograph.sha256)}/{_slug(explanation)}"
            explanation.save(self.folder / f"{base}.npz")
            write_atomic(self.folder / f"{base}.png", partial(write_figure, explanation.figure(limit)))
            entries.append(self._entry(image, explanation, base, seconds))
        self.manifest.add(entries)
        return entries

    def _name(self, image: Path, sha256: str) -> str:
        """The picture's folder: its stem, with a hash of its path where that would not be the picture's alone."""
        name = printable(image.stem)
        alone = self._pictures[image.stem] < 2 and self._owners.get(name, sha256) == sha256
        if alone and name == image.stem and name != MANIFEST:
            return name
        return f"{name}-{hashlib.sha256(os.fsencode(image)).hexdigest()[:8]}"

    def _entry(self, image: Path, explanation: Explanation, base: str, seconds: float) -> dict[str, Any]:
        record = explanation.record
        map_hash = hashlib.sha256((self.folder / f"{base}.npz").read_bytes()).hexdigest()
        return {
            "schema": SCHEMA,
            "image": printable(image),
            "target": explanation.target.number,
            "label": explanation.target.label,
            "versus": explanation.versus and explanation.versus.number,
            "versus_label": explanation.versus and explanation.versus.label,
            "probability": explanation.probability,
            "log_odds_bits": explanation.log_odds_bits,
            "unit": explanation.unit,
            "budget": explanation.budget and _budget(explanation.budget),
            "patch": list(explanation.patch),
            "map": f"{base}.npz",
            "figure": f"{base}.png",
            "strongest_for": _extreme(explanation.strongest(1)),
            "strongest_against": _extreme(explanation.strongest(-1)),
            **record,
            "cuts": [
                cut if budget is None else {**cut, "budget": _budget(budget)}
                for cut, budget in zip_longest(record["cuts"], explanation.budgets)
            ],
            "hashes": {**record["hashes"], "map": map_hash},
            "seconds": round(seconds, 3),
        }


def _slug(explanation: Explanation) -> str:
    name = _file_name(explanation.target)
    return f"{name}-versus-{_file_name(explanation.versus)}" if explanation.versus else name


def _file_name(named: Named) -> str:
    words = re.sub(r"[^a-z0-9]+", "-", named.label.casefold()).strip("-")[:40]
    return f"{named.number}-{words}" if words else str(named.number)


def _budget(budget: Budget) -> dict[str, Any]:
    return {
        "with_bits": budget.with_features,
        "without_bits": budget.without,
        "for_bits": budget.supporting,
        "against_bits": budget.opposing,
        "gap_bits": budget.gap,
        "gap_share": budget.gap_share,
        "pixels_bits": budget.carried,
        "steps": budget.steps,
    }


def _extreme(extreme: Extreme) -> dict[str, Any]:
    error = None if np.isnan(extreme.stderr) else extreme.stderr
    return {"bits": extreme.bits, "stderr": error, "row": extreme.row, "col": extreme.col}


def explain_header(explainer: Explainer) -> str:
    """Device, cuts and background in use, then the table's head.

    Parameters
    ----------
    explainer : Explainer
        What is used.

    Returns
    -------
    str
        Several lines.
    """
    device, settings = explainer.deployed.device, explainer.settings
    cuts = ", ".join(f"{each.cut.name} ({_times(each.cut.grid)}, {each.summary()})" for each in explainer.engines)
    return (
        f"device: {device.name} ({device.reason})\n"
        f"method: {settings.method} ({explainer.reason})\n"
        f"cuts: {cuts}\n"
        f"removed features are replaced by {explainer.background}\n"
        f"{'image':24} {'class':24} {'p':>8} {'log-odds':>9}  {'strongest for':>26}  {'strongest against':>26}"
        f"{'   for / against / missed' if settings.preset.engine == 'path' else ''}"
    )


def explain_row(entry: dict[str, Any]) -> str:
    """One line of the table: bits with their place as (row, column) of the photograph.

    Parameters
    ----------
    entry : dict
        A manifest line, parsed.

    Returns
    -------
    str
    """
    label = entry["label"] if entry["versus"] is None else f"{entry['label']} / {entry['versus_label']}"
    return (
        f"{_fit(Path(entry['image']).name)} {_fit(label)} {entry['probability']:8.4f} {entry['log_odds_bits']:+9.2f}"
        f"  {_place(entry['strongest_for']):>26}  {_place(entry['strongest_against']):>26}{_account(entry['budget'])}"
    )


def _account(budget: dict[str, Any] | None) -> str:
    if budget is None:
        return ""
    return f"   {budget['for_bits']:+.1f} / {budget['against_bits']:+.1f} / {budget['gap_share']:.1%}"


def _fit(text: str, width: int = 24) -> str:
    return f"{text if len(text) <= width else text[: width - 1] + '…':{width}}"


def _place(extreme: dict[str, Any]) -> str:
    error = "" if extreme["stderr"] is None else f"±{extreme['stderr']:.2f}"
    return f"{extreme['bits']:+.2f}{error} at ({extreme['row']}, {extreme['col']})"


def inspection_table(report: dict[str, Any]) -> str:
    """The report of ``inspect`` for people.

    Parameters
    ----------
    report : dict
        From `inspection.inspect_model`.

    Returns
    -------
    str
        Several lines.
    """
    shape = " x ".join(str(side or "N") for side in report["input"]["shape"])
    logits = report["output"]["logits"]
    kind = report["output"]["kind"]
    found = f"; logits at {logits!r}" if kind == "probabilities" else ""
    lines = [
        f"model        {report['model']} (opset {report['opset']}, {report['multiply_adds'] / 1e6:.0f} million "
        "multiply-adds)",
        f"input        {report['input']['name']}: {shape}, {report['input']['dtype']}, {report['input']['layout']}",
        f"output       {report['output']['name']}: {report['classes']} classes, {kind}{found}",
        f"labels       {'recorded' if report['labels'] else 'missing: pass --labels FILE to name classes'}",
        f"preprocess   {_preprocess(report['preprocess'])}",
        f"backward     {_backward(report['without_rule'])}",
        f"device       {report['device']} ({report['device_reason']})",
        "",
        f"  {'cut':32} {'operator':18} {'shape':>16} {'tail':>6} {'stride':>8} {'field':>10}  for --layer auto",
    ]
    for cut in report["cuts"]:
        mark = "*" if cut["auto"] else " "
        lines.append(
            f"{mark} {_fit(cut['name'], 32)} {cut['op_type']:18} {_times(cut['shape']):>16} {cut['tail_share']:6.1%} "
            f"{_times(cut['stride']):>8} {_times(cut['receptive_field']):>10}  {cut['auto'] or cut['left']}"
        )
    lines += ["", "* taken by --layer auto" if report["auto"] else f"--layer auto: {report['auto_refusal']}"]
    return "\n".join(lines)


def _backward(missing: Sequence[str]) -> str:
    return f"no rule for {', '.join(missing)}" if missing else "every operator has a rule"


def _times(sides: Sequence[int] | None) -> str:
    return " x ".join(str(side) for side in sides) if sides else "?"


def _preprocess(settings: dict[str, Any] | None) -> str:
    if settings is None:
        return "missing: pass --preprocess FILE.toml (README, 'Preprocessing')"
    resize = f"short side to {settings['resize_to']}, centre crop" if settings["resize"] == "short" else "stretch"
    return (
        f"{resize} to {_times(settings['size'])}, {settings['interpolation']}, {settings['color']}, "
        f"(pixel * {settings['scale']:g} - {settings['mean']}) / {settings['std']}"
    )


def background_table(header: Header, path: Path) -> str:
    """What was fitted, how well it predicts, and how much had to be clipped.

    Parameters
    ----------
    header : Header
        Of the file that was written.
    path : Path
        The file.

    Returns
    -------
    str
        Several lines.
    """
    lines = [f"{path}: fitted from {header.pictures} pictures"]
    lines += [
        f"  {cut.name}: window {cut.window}, patch {cut.patch}, held-out R2 {cut.r2:.3f}, "
        f"{cut.clipped:.2%} of drawn values clipped"
        for cut in header.cuts
    ]
    if header.pictures < 100:
        lines.append("  fewer than 100 pictures: the fit is rough; 100 to 500 are good")
    return "\n".join(lines)


def links_report(links: Links, cut: str, question: str) -> dict[str, Any]:
    """The walk of ``links`` as plain values.

    Parameters
    ----------
    links : Links
        From `links.walk`.
    cut, question : str
        Where, and what was asked.

    Returns
    -------
    dict
        Plain values, ready for JSON. ``steps`` have ``name``, ``change``, ``correlation`` (null for the first).
    """
    steps = [
        {
            "name": link.name,
            "change": link.change,
            "correlation": None if np.isnan(link.correlation) else round(link.correlation, 4),
        }
        for link in links.steps
    ]
    return {"question": question, "cut": cut, "proof_bits": links.proof, "steps": steps}


def links_table(report: dict[str, Any]) -> str:
    """The report of ``links`` for people.

    Parameters
    ----------
    report : dict
        From `links_report`.

    Returns
    -------
    str
        Several lines.
    """
    lines = [f"{report['question']}, cut {report['cut']}", f"  {'map':24} {'simplified':44} rank correlation"]
    for number, step in enumerate(report["steps"], start=1):
        correlation = "" if step["correlation"] is None else f"{step['correlation']:+.2f} with {number - 1}"
        lines.append(f"{number} {step['name']:24} {step['change']:44} {correlation}")
    lines.append(f"one window's path and its exact removal differ by at most {report['proof_bits']:.2g} bits")
    return "\n".join(lines)
