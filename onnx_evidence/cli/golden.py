"""The golden check: of known pictures the model says what it is known to say, before any map misleads anyone.

Preprocessing that is wrong makes maps of pictures that the model was never meant to see. It shows in the answers.
"""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from onnx_evidence.deployed import DeployedModel
from onnx_evidence.errors import DataError, SettingError, one_line
from onnx_evidence.files import parse_json, read_text
from onnx_evidence.intake import Answer
from onnx_evidence.pictures import Photograph, read_photograph
from onnx_evidence.preprocessing import PRESETS, Wanted, check_levels, preset, to_input

# How far a probability may be from what was expected.
WITHIN = 0.02
# Suffixes of files of expectations: lines ``picture,label[,probability]``, or in JSON a list of objects of those names;
# pictures are relative to the file. Anything else is a class, ``label`` or ``label:probability``.
_FILES = (".csv", ".txt", ".json")
_FIELDS = ("picture", "label", "probability")
# Probability from which an independent label is said to be there.
_THERE = 0.5


@dataclass(frozen=True)
class Expectation:
    """What is known of a picture: its class, by name or number, which without a probability must be the answer."""

    picture: Path
    label: str
    probability: float | None = None


@dataclass(frozen=True)
class Said:
    """What the model says of a class."""

    number: int
    label: str
    probability: float
    log_odds_bits: float


@dataclass(frozen=True)
class Checked:
    """An expectation, and what the model gave; field by field what ``inspect --json`` has under ``golden``.

    Attributes
    ----------
    picture, label, expected : str, str, float or None
        What was expected.
    given : Said or None
        What the model says of that class; None where it has no preprocessing to look at the picture with.
    top : tuple of Said
        The three classes that it gives first.
    right : bool
        Whether the expectation holds.
    presets : dict of str to Said
        Where it does not: presets of preprocessing with which it would hold, the nearest first.
    """

    picture: str
    label: str
    expected: float | None
    given: Said | None
    top: tuple[Said, ...]
    right: bool
    presets: dict[str, Said]


def top_classes(deployed: DeployedModel, picture: Path, count: int = 5) -> tuple[Said, ...]:
    """The classes that the model gives first, from the most to the least probable."""
    answer = deployed.answer(deployed.prepare(picture)[1])
    return _say(deployed, answer, answer.ranked[:count])


def expectations(given: Sequence[str], pictures: Sequence[Path]) -> list[Expectation]:
    """Read what is expected: classes of the one picture, or one of each picture in turn, and files of expectations.

    DataError where a file cannot be read; SettingError where it is not clear which class is expected of which picture,
    or a probability is none.
    """
    files = [Path(each) for each in given if Path(each).suffix.lower() in _FILES]
    classes = [each for each in given if Path(each).suffix.lower() not in _FILES]
    found = [each for path in files for each in _read(path)]
    if classes and len(pictures) not in (1, len(classes)):
        raise SettingError(
            f"{len(classes)} classes are expected of {len(pictures)} pictures: give one --image, or one for each "
            "--expect, or a file of lines 'picture,label,probability'"
        )
    about = [*pictures] * len(classes) if len(pictures) == 1 else pictures
    return found + [_parse(text, picture) for text, picture in zip(classes, about, strict=False)]


def _parse(text: str, picture: Path) -> Expectation:
    label, colon, number = text.rpartition(":")
    return Expectation(picture, label, _probability(number, text)) if colon else Expectation(picture, text)


def _probability(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 <= value <= 1:
        raise SettingError(f"expectation {where!r}: {text!r} is no probability from 0 to 1")
    return value


def _read(path: Path) -> Iterator[Expectation]:
    try:
        text = read_text(path)
        rows = _json_rows(text) if path.suffix.lower() == ".json" else _csv_rows(text)
        found = [row for row in rows if row != list(_FIELDS)[: len(row)]]
    except (OSError, UnicodeDecodeError, ValueError, csv.Error) as error:
        raise DataError(f"{path}: cannot read the expectations: {one_line(error)}") from error
    if not found:
        raise DataError(f"{path}: no expectations: lines 'picture,label[,probability]' are expected")
    for picture, label, *probability in found:
        sure = _probability(probability[0], f"{path}: {picture}") if any(probability) else None
        yield Expectation(path.parent / picture, label, sure)


def _csv_rows(text: str) -> list[list[str]]:
    rows = [[cell.strip() for cell in row] for row in csv.reader(text.split("\n"), skipinitialspace=True) if row]
    if wrong := next((row for row in rows if not 2 <= len(row) <= len(_FIELDS) or not all(row[:2])), None):
        raise ValueError(f"line {','.join(wrong)!r} is not 'picture,label[,probability]'")
    return rows


def _json_rows(text: str) -> list[list[str]]:
    rows = parse_json(text)
    objects = rows if isinstance(rows, list) and all(isinstance(row, dict) for row in rows) else [{}]
    # A null is as good as nothing, but where something must be said.
    if any(row.keys() - {*_FIELDS} or None in (row.get("picture"), row.get("label")) for row in objects):
        raise ValueError("a list of objects with 'picture', 'label' and perhaps 'probability' is expected")
    return [[str(row[name]) for name in _FIELDS if row.get(name) is not None] for row in objects]


def check(deployed: DeployedModel, expected: Sequence[Expectation], within: float = WITHIN) -> list[Checked]:
    """Ask the model about known pictures.

    Without a probability the class must be the model's answer: its most probable class, or, of independent labels,
    one of at least 0.5; with one, the model's may be ``within`` of it.
    """
    return [_check(deployed, each, within) for each in expected]


def _check(deployed: DeployedModel, expectation: Expectation, within: float) -> Checked:
    number = deployed.find_class(expectation.label)
    asked = str(expectation.picture), expectation.label, expectation.probability
    if deployed.model.preprocess is None:
        photograph = read_photograph(expectation.picture)
        return Checked(*asked, None, (), False, _presets(deployed, photograph, number, expectation, within))
    photograph, inputs, _ = deployed.prepare(expectation.picture)
    answer = deployed.answer(inputs)
    (given,) = _say(deployed, answer, [number])
    right = _holds(deployed, answer, given, expectation, within)
    hints = {} if right else _presets(deployed, photograph, number, expectation, within)
    return Checked(*asked, given, _say(deployed, answer, answer.ranked[:3]), right, hints)


def _holds(deployed: DeployedModel, answer: Answer, given: Said, expectation: Expectation, within: float) -> bool:
    if expectation.probability is not None:
        # As many digits as people write.
        return abs(given.probability - expectation.probability) <= within + 1e-9
    if deployed.class_kind.name == "independent":
        return given.probability >= _THERE
    return given.number == answer.ranked[0]


def _presets(
    deployed: DeployedModel, photograph: Photograph, number: int, expectation: Expectation, within: float
) -> dict[str, Said]:
    """Presets with which the expectation would hold, the nearest first."""
    found = {}
    for name in PRESETS:
        try:
            settings = preset(name, Wanted(*deployed.model.input_shape), str(deployed.model.path))
            check_levels(settings, deployed.model.entry.levels, name)
            inputs, _ = to_input(photograph, settings)
        except DataError:
            continue
        answer = deployed.answer(inputs)
        (said,) = _say(deployed, answer, [number])
        if _holds(deployed, answer, said, expectation, within):
            found[name] = said
    wanted = 1.0 if expectation.probability is None else expectation.probability
    return dict(sorted(found.items(), key=lambda each: abs(each[1].probability - wanted)))


def _say(deployed: DeployedModel, answer: Answer, classes: list[int]) -> tuple[Said, ...]:
    said = zip(classes, answer.probabilities(classes), answer.log_odds_bits(classes), strict=True)
    return tuple(Said(number, deployed.label(number), float(p), float(odds)) for number, p, odds in said)


def golden_report(
    deployed: DeployedModel, pictures: Sequence[Path], expected: Sequence[Expectation], within: float = WITHIN
) -> dict[str, Any]:
    """What the model says of some pictures, and whether it should, as plain values, ready for JSON.

    ``pictures`` are those that nothing is expected of, each with the five classes that the model gives first.
    """
    known = {each.picture for each in expected}
    return {
        "pictures": [
            {"picture": str(each), "top": [asdict(said) for said in top_classes(deployed, each)]}
            for each in pictures
            if each not in known
        ],
        "golden": [asdict(answer) for answer in check(deployed, expected, within)],
    }
