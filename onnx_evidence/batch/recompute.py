"""Maps computed again from what their receipts say; they, their lines and figures held against those written."""

import hashlib
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from onnx_evidence.batch import fingerprint, places, work
from onnx_evidence.batch.compare import Allowed, Difference, apart, differences
from onnx_evidence.batch.redraw import Redrawn, redraw
from onnx_evidence.batch.reopen import Origin, RefusedError, opening, reopen
from onnx_evidence.batch.sound import Sample
from onnx_evidence.batch.summary import load_map
from onnx_evidence.batch.verify import Checked, Problem
from onnx_evidence.errors import (
    DataError,
    DeviceError,
    EvidenceError,
    ModelError,
    StoreError,
    one_line,
    short_of_handles,
)
from onnx_evidence.evidence import Budget
from onnx_evidence.explainer import Explainer
from onnx_evidence.files import open_regular, sha256_of, unpack_arrays
from onnx_evidence.pictures import Photograph, list_images
from onnx_evidence.results import Explanation, Named
from onnx_evidence.types import Features, FloatArray

IDENTICAL, WITHIN, DIFFERENT = "identical", "within tolerance", "different"
PARTLY, FAILED = "partly compared", "not recomputed"
# Bits, of a cell or of a patch as people are shown: far below what is printed, far above rounding.
TOLERANCE = 0.01


class Verdict(NamedTuple):
    """What became of a map when it was computed again; picture and map are called as in the manifest."""

    image: str
    map: str
    verdict: str  # `IDENTICAL` (map, line and figure, bit for bit), `WITHIN`, `DIFFERENT`, `PARTLY` or `FAILED`
    # Largest difference in bits: of a cell of a cut, of a patch in pixels, or of the log-odds; infinite where shapes
    # differ.
    deviation: float | None
    note: str = ""
    differences: tuple[Difference, ...] = ()  # keys of the line, and sums of the map, off by more than the tolerance


def recompute(
    entries: Iterable[dict[str, Any]],
    origin: Origin,
    picture: Callable[[dict[str, Any]], Path],
    tolerance: float = TOLERANCE,
) -> Iterator[Verdict]:
    """Compute the maps of manifest lines again, each with its whole line and its figure; verdicts as they are known.

    ``picture`` gives a line's picture file; ``tolerance`` bits may be between a map and the one computed again.
    RefusedError is as of `reopen`.
    """
    key, held = "", ExitStack()
    with held:
        for entry in entries:
            wanted = opening(entry)
            try:
                if wanted != key:
                    key = ""
                    held.close()
                    explainer = reopen(entry, origin)
                    held.callback(explainer.deployed.close)
                    key = wanted
            except (RefusedError, DeviceError, ModelError):  # which say nothing against the line
                raise
            except EvidenceError as error:
                if short_of_handles(error):
                    raise
                what = f"nothing can be computed with what the line says: {error}"
                yield Verdict(entry["image"], entry["map"], DIFFERENT, None, what)
                continue
            try:
                photograph = replace(explainer.deployed.read(picture(entry)), name=entry["image"])
                yield _Held(explainer, entry, origin.folder, tolerance).against(photograph)
            except DeviceError:  # which says nothing against the line, nor against the next ones
                raise
            except EvidenceError as error:
                if short_of_handles(error):
                    raise
                yield Verdict(entry["image"], entry["map"], FAILED, None, str(error))


class _Held:
    """A map, its line and its figure, held against what a run would write now."""

    def __init__(self, explainer: Explainer, entry: dict[str, Any], folder: Path, tolerance: float) -> None:
        self.explainer, self.entry, self.folder, self.tolerance = explainer, entry, folder, tolerance
        self.notes: list[str] = []

    def against(self, photograph: Photograph) -> Verdict:
        """What becomes of the map of a picture."""
        entry = self.entry
        again = self._named(self.explainer.explain(photograph, target=entry["target"], versus=entry["versus"]))
        packed = again.packed()
        try:
            there, now = load_map(self.folder, entry["map"]), unpack_arrays(BytesIO(packed))
        except StoreError as error:  # a run writes no such file, whatever its line says
            if short_of_handles(error):
                raise
            return Verdict(entry["image"], entry["map"], DIFFERENT, None, str(error))
        far = apart(there, now, _areas(again), self.tolerance)
        same_map = far.bits == 0 and all(there[name].tobytes() == now[name].tobytes() for name in now)
        allowed = self._allowed(again, same_map)
        written = again if same_map or far.bits == math.inf else self._as_written(again, there)
        line = self._line(written, hashlib.sha256(packed).hexdigest())
        found = [*far.sums, *differences(entry, line, allowed)]
        drawn = self._figure(written, allowed)
        if drawn.wrong and not drawn.unknown:
            found.append(Difference("the figure", drawn.wrong, None))
        deviation = max(far.bits, abs(entry["log_odds_bits"] - again.log_odds_bits))
        if deviation > self.tolerance or found:
            verdict = DIFFERENT
        elif drawn.unknown or self._names_unknown:
            verdict = PARTLY
        else:
            verdict = IDENTICAL if same_map and drawn.same and self._exact(line) else WITHIN
        notes = ["the preprocessed picture differs"] * (line["hashes"]["input"] != entry["hashes"]["input"])
        notes += [f"the figure {drawn.wrong}"] * drawn.unknown
        notes += ["class names are not compared: pass --labels FILE"] * self._names_unknown
        return Verdict(entry["image"], entry["map"], verdict, deviation, "; ".join(notes), tuple(found))

    @property
    def _names_unknown(self) -> bool:
        """Whether class names were given in a file that is not at hand."""
        there, now = (line["hashes"]["labels"] for line in (self.entry, self.explainer.record))
        return bool(there != now)

    def _named(self, again: Explanation) -> Explanation:
        """The map with the line's names, where others are not known."""
        if not self._names_unknown:
            return again
        entry, record = self.entry, again.record
        names = {each["class"]: each["label"] for each in entry["top"]}
        top = [{**each, "label": names.get(each["class"], each["label"])} for each in record["top"]]
        return replace(
            again,
            target=Named(again.target.number, entry["label"]),
            versus=again.versus and Named(again.versus.number, entry["versus_label"] or ""),
            record={**record, "top": top, "hashes": {**record["hashes"], "labels": entry["hashes"]["labels"]}},
        )

    def _allowed(self, again: Explanation, same_map: bool) -> Allowed:
        entry, now = self.entry, again.record
        same_code = entry["versions"] == now["versions"] and entry["machine"]["cpu"] == now["machine"]["cpu"]
        same_batch = entry["settings"]["batch_size"] == now["settings"]["batch_size"]
        same_place = entry["machine"] == now["machine"] and entry["device"] == now["device"] == "cpu"
        as_here = same_code and same_place and same_batch
        return Allowed(
            self.tolerance,
            same_input=same_code,
            same_counts=same_map or as_here,
            nothing=same_map and as_here,
            earlier="matplotlib" not in entry["versions"],
        )

    def _as_written(self, again: Explanation, there: dict[str, FloatArray]) -> Explanation:
        """The map that is there, with all that a run says of it: what follows from it is exact on every machine."""
        arrays = {name: each.astype(np.float32, copy=False) for name, each in there.items()}
        grids = tuple(arrays[f"cut{number}"] for number in range(len(again.grids)))
        budgets = tuple(_of_cells(budget, grid) for budget, grid in zip(again.budgets, grids, strict=False))
        return replace(again, values=arrays["input_pixels"], stderr=arrays["stderr"], grids=grids, budgets=budgets)

    def _line(self, written: Explanation, map_sha256: str) -> dict[str, Any]:
        entry = self.entry
        base = f"{entry['map'].partition('/')[0]}/{work.slug(written.target, written.versus)}"
        hashes = {f"{base}.npz": map_sha256}
        if entry["figure"] is not None:
            hashes[f"{base}.png"] = entry["hashes"]["figure"]
        configuration = fingerprint.digest(fingerprint.of_explainer(self.explainer))
        if self._names_unknown:
            configuration = entry["configuration"]
        line = work.line_of(entry["image"], written, base, hashes, configuration)
        if entry["hashes"]["background"] is not None:  # it may be elsewhere now
            there, now = (str(Path(each["settings"]["background"])) for each in (entry, line))
            line["background"] = line["background"].replace(now, there)
        return line

    def _exact(self, line: dict[str, Any]) -> bool:
        """Whether every number of the line is the same; files are packed otherwise by other versions."""
        strictly = Allowed(self.tolerance, same_input=True, same_counts=True, nothing=True, earlier=True)
        return {each.key for each in differences(self.entry, line, strictly)} <= {"hashes.map"}

    def _figure(self, written: Explanation, allowed: Allowed) -> Redrawn:
        """The figure drawn again, of the map that is there, with the line's numbers: these are held by themselves."""
        entry = self.entry
        if entry["figure"] is None:
            return Redrawn(same=True)
        said = tuple(_as_said(cut["budget"]) for cut in entry["cuts"] if cut.get("budget"))
        if len(said) == len(written.budgets):
            written = replace(written, budgets=said)
        drawn = redraw(self.folder, entry, replace(written, probability=entry["probability"]))
        if allowed.nothing and not drawn.same and not drawn.wrong:
            return Redrawn(same=False, wrong="has the pixels of the one that a run draws, but other bytes")
        return drawn


def _of_cells(budget: Budget, cells: Features) -> Budget:
    """A budget whose sums are those of cells as they are written."""
    exact = cells.astype(np.float64)
    return replace(budget, supporting=float(exact[exact > 0].sum()), opposing=float(exact[exact < 0].sum()))


def _as_said(budget: dict[str, Any]) -> Budget:
    return Budget(
        with_features=budget["with_bits"],
        without=budget["without_bits"],
        supporting=budget["for_bits"],
        opposing=budget["against_bits"],
        steps=budget["steps"],
        carried=budget["pixels_bits"],
    )


def _areas(again: Explanation) -> dict[str, float]:
    """Pixels that a number shown to people stands for, by array: a pixel's bits are few where they add up."""
    area = float(np.prod(again.patch))
    in_photograph = max(1.0, area / float(np.prod(again.placement.scale))) if again.adds_up else 1.0
    return {"input_pixels": area, "stderr": area, "margin": area, "pixels": in_photograph}


def recompute_all(
    checked: Checked,
    entries: Sample,
    origin: Origin,
    picture: Callable[[dict[str, Any]], Path],
    tolerance: float = TOLERANCE,
    progress: Callable[[int], object] = lambda maps: None,
) -> tuple[list[Verdict], str | None]:
    """Compute maps again; none where the model or the seal is not what was expected.

    Parameters
    ----------
    checked : Checked
        From `verify.check_hashes`.
    entries : Sample
        Lines of it; where there are none, that the model is theirs is tried all the same.
    origin, picture, tolerance
        As in `recompute`.
    progress : callable
        Called with the number of maps done since the last call.

    Returns
    -------
    verdicts : list of Verdict
    refused : str or None
        Why it ended, where that says nothing against the folder.
    """
    verdicts: list[Verdict] = []
    if checked.unexpected:
        return verdicts, None
    try:
        for verdict in recompute(entries, origin, picture, tolerance):
            verdicts.append(verdict)
            progress(1)
        if not len(entries):
            for first in Sample(checked.entries, [0][: len(checked.entries)]):
                reopen(first, origin).deployed.close()
    except DeviceError:
        raise
    except EvidenceError as error:
        if short_of_handles(error):
            raise
        return verdicts, str(error)
    return verdicts, None


def finder(folder: Path, given: Sequence[Path]) -> Callable[[dict[str, Any]], Path]:
    """Where pictures are: those of some folders by their content, others where they were.

    Parameters
    ----------
    folder : Path
        Of the results.
    given : sequence of Path
        Pictures, and folders of them.

    Returns
    -------
    callable
        From a manifest line to the picture's file.

    Raises
    ------
    DataError
        If one does not exist or cannot be read, or a folder holds no picture.
    """
    found = {}
    if missing := [path for path in given if not path.exists()]:
        raise DataError(f"{missing[0]}: there is no such file or folder: name one that holds the pictures")
    for path in list_images(list(given)):
        if path.is_file():
            try:
                with open_regular(path) as stream:
                    found[sha256_of(stream)] = path
            except OSError as error:
                raise DataError(f"{path}: cannot read the picture: {error.strerror or one_line(error)}") from error
    return lambda entry: found.get(entry["hashes"]["image"]) or places.find(folder, entry, "image", entry["image"])


def verification(
    checked: Checked, verdicts: Sequence[Verdict], tolerance: float, refused: str | None = None
) -> dict[str, Any]:
    """Everything that `verify` found, as plain values.

    Parameters
    ----------
    checked : Checked
        From `verify.check_hashes`.
    verdicts : sequence of Verdict
        From `recompute_all`, as is ``refused``.
    tolerance : float
        In bits.
    refused : str, optional
        Why no map could be computed again, where that says nothing against the folder.

    Returns
    -------
    dict
        ``verdict`` ('damaged', 'different', 'unexpected' where the seal or the model is another than was expected,
        'refused', 'incomplete', 'within tolerance', 'identical', or 'unchanged' where no map was computed again),
        ``exit_code``, ``model``, ``head``, ``files``, ``problems``, ``absent`` and ``unchecked`` (the first 1000 of
        each), how many there are (``problems_count``, ...), ``failures``, ``pictures``, ``tolerance_bits`` and
        ``largest_deviation_bits``.
    """
    found = {each.verdict for each in verdicts}
    deviations = [each.deviation for each in verdicts if each.deviation is not None]
    if checked.problems:
        verdict, code = "damaged", 1
    elif DIFFERENT in found:
        verdict, code = DIFFERENT, 1
    elif checked.unexpected:
        verdict, code = "unexpected", 1
    elif refused:
        verdict, code = "refused", 1
    elif {PARTLY, FAILED} & found or checked.absent or not checked.lines:
        verdict, code = "incomplete", 3
    else:
        verdict, code = WITHIN if WITHIN in found else IDENTICAL if found else "unchanged", 0
    others = [*checked.unexpected, *([Problem("model", refused)] if refused else [])]
    return {
        "verdict": verdict,
        "exit_code": code,
        "model": checked.model,
        "head": checked.head,
        "files": checked.files,
        "problems": [each._asdict() for each in [*checked.problems, *others]],
        "problems_count": len(checked.problems) + len(others),
        "absent": list(checked.absent),
        "absent_count": len(checked.absent),
        "unchecked": [each._asdict() for each in checked.unchecked],
        "unchecked_count": len(checked.unchecked),
        "failures": checked.failures,
        "pictures": [_plain(each) for each in verdicts],
        "tolerance_bits": tolerance,
        "largest_deviation_bits": min(max(deviations), sys.float_info.max) if deviations else None,
    }


def _plain(verdict: Verdict) -> dict[str, Any]:
    # JSON has numbers that are finite, and a forged map need not.
    deviation = None if verdict.deviation is None else min(verdict.deviation, sys.float_info.max)
    differences = [
        {key: str(value) if isinstance(value, float) and not math.isfinite(value) else value for key, value in each}
        for each in (one._asdict().items() for one in verdict.differences)
    ]
    return {**verdict._asdict(), "deviation": deviation, "differences": differences}
