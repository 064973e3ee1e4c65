"""What the command line writes: files per image, manifest lines, reports for programs."""

import hashlib
import json
import os
import re
from collections import Counter
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from onnx_evidence.explanation import Explanation, Extreme, Named, write_figure
from onnx_evidence.images import printable
from onnx_evidence.links import Links
from onnx_evidence.path import Budget
from onnx_evidence.placement import padding_bits
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
            "padding_bits": padding_bits(explanation.values, explanation.placement) if explanation.adds_up else None,
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
    interval = None if extreme.interval is None else list(extreme.interval)
    return {"bits": extreme.bits, "stderr": error, "interval": interval, "row": extreme.row, "col": extreme.col}


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
