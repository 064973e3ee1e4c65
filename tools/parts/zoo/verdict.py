"""What a row of ``check_real_models.py`` amounts to."""

from dataclasses import dataclass
from typing import Any

from parts.zoo.location import misplaced, moved

# Largest differences from the file, as a share of the largest value. In fewer bits other kernels round elsewhere.
TOLERANCE = 1e-3
REDUCED_TOLERANCE = 0.1
# Of a split: in float32, and in fewer bits, whose cost is in the receipt.
CERTIFICATE_TOLERANCE, REDUCED_CERTIFICATE = 1e-4, 5e-2
# Work behind the deepest cut. Half of it is what 'auto' aims at in plain transformers, to the nearest block.
MOST_LEFT = 0.6


@dataclass(frozen=True)
class Verdict:
    """How the check of one model ended.

    Attributes
    ----------
    kind : str
        'explained', 'refused', or a defect in capitals.
    words : str
        The kind, and why.
    """

    kind: str
    words: str

    @property
    def defect(self) -> bool:
        """Whether this must not be."""
        return self.kind.isupper()


def judge(row: dict[str, Any], *, refusal_expected: bool) -> Verdict:
    """Judge one row.

    Parameters
    ----------
    row : dict
        As ``row.make_row`` makes it, with ``end``.
    refusal_expected : bool
        Whether the model is no image classifier.

    Returns
    -------
    Verdict
    """
    if row["end"] in ("traceback", "timeout", "died"):
        last = str(row["reason"]).strip().splitlines()[-1]
        return Verdict("FAILURE", f"FAILURE: {row['end']}: {last}")
    if row["end"] == "refused":
        reason = str(row["reason"])
        if "\n" in reason:
            return Verdict("REFUSED IN SEVERAL LINES", f"REFUSED IN SEVERAL LINES: {reason.splitlines()[0]}")
        kind = "refused" if refusal_expected else "REFUSED THOUGH IT IS A CLASSIFIER"
        return Verdict(kind, f"{kind}: {reason}")
    return _judge_explained(row, refusal_expected)


def _judge_explained(row: dict[str, Any], refusal_expected: bool) -> Verdict:
    if refusal_expected:
        return Verdict("EXPLAINED THOUGH IT IS NO CLASSIFIER", "EXPLAINED THOUGH IT IS NO CLASSIFIER")
    limit = REDUCED_TOLERANCE if row["reduced"] else TOLERANCE
    split = REDUCED_CERTIFICATE if row["reduced"] else CERTIFICATE_TOLERANCE
    # Negated, so that a NaN is caught too.
    wrong = [
        f"{name} {row[name]:.1e}"
        for name, most in (("certificate", split), ("file", limit), ("batch", limit))
        if not row[name] <= most
    ]
    if row["map"] != "fine":
        wrong.append(f"the map is {row['map']}")
    if wrong:
        return Verdict("WRONG", f"WRONG: {', '.join(wrong)}")
    if where := wrong_places(row):
        if why := _why_elsewhere(row):
            return Verdict("explained", f"explained; {why}")
        return Verdict("WRONG PLACE", f"WRONG PLACE: {', '.join(where)}")
    if row["left"] > MOST_LEFT and not row["shallow"]:
        words = f"SHALLOW: {row['left']:.0%} of the work is behind the deepest cut, and nothing says so"
        return Verdict("SHALLOW", words)
    return Verdict("explained", f"explained; {row['instead']}" if row.get("instead") else "explained")


def wrong_places(row: dict[str, Any]) -> list[str]:
    """What of the location test is not as it must be.

    Parameters
    ----------
    row : dict
        With ``places``, as `location.locate` makes them, and ``used``, the names of the cuts.

    Returns
    -------
    list of str
        In words: the map, or what the patch changes in the cells of one cut.
    """
    return [
        words for number, place in enumerate(row["places"], start=1) for words in _wrong(number, place, row["used"])
    ]


def _wrong(number: int, place: dict[str, Any], used: list[str]) -> list[str]:
    if "map" not in place:
        return []
    wrong = [f"patch {number}: the map has {_in_words(place['map'])}"] if misplaced(place["map"]) else []
    cuts = zip(used, place["cuts"], strict=True)
    return wrong + [f"patch {number}: {name} has {_in_words(found)}" for name, found in cuts if moved(found)]


def _why_elsewhere(row: dict[str, Any]) -> str:
    """Why evidence is rightly not at the patch; empty where that is not shown.

    For every patch the model's own cells, exchanged at one of the cuts, must hold more elsewhere; and nothing may be
    wrong any more where statistics over the whole picture are held.
    """
    held = row.get("held", [])
    if not held or not all("map" in place for place in held) or wrong_places({**row, "places": held}):
        return ""
    words = []
    for number, place in enumerate(row["places"], start=1):
        if not _wrong(number, place, row["used"]):
            continue
        name, own = max(zip(row["used"], place["own"], strict=True), key=lambda cut: cut[1]["elsewhere"] - cut[1]["at"])
        if not own["elsewhere"] > own["at"]:
            return ""
        shown = ", ".join(f"{own[where]:.1f} {where}" for where in ("at", "elsewhere", "beside") if own[where])
        words.append(f"{shown} of {place['bits']:.1f} bits at {name}")
    shares = " and ".join(f"{place['map']['share']:.0%}" for place in held)
    return (
        f"its own evidence is elsewhere, for norms over the whole picture (cells exchanged: {'; '.join(words)}); "
        f"with their statistics held {shares} of the map is within {held[0]['map']['chance']:.0%} of the area"
    )


def _in_words(place: dict[str, float] | None) -> str:
    if place is None:
        return "nothing but zeros"
    return (
        f"{place['share']:.0%} within {place['chance']:.0%} of the area, {place['elsewhere']:.0%} at an image of it, "
        f"the centre {place['distance']:.2f} from it and {place['other']:.2f} from an image"
    )
