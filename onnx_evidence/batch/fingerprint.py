"""What finished work is known by: the content of everything that decides a map, never a file's name or date.

Device, batch size and threads are left out: they change no more than the last digits, and a run may go on on another
machine. They are in every receipt.
"""

import hashlib
import json
from functools import lru_cache
from typing import Any

from onnx_evidence.explainer import Explainer
from onnx_evidence.files import json_line
from onnx_evidence.methods import OPTIONS, known_by

# Of manifest lines; another one whenever their keys or their meaning change.
SCHEMA = 3


def of_explainer(explainer: Explainer) -> dict[str, Any]:
    """A run's configuration, all that decides a map besides picture and class, in plain values as JSON has them."""
    plain: dict[str, Any] = json.loads(
        _text(SCHEMA, explainer.record, [engine.cut.name for engine in explainer.engines])
    )
    return plain


def of_entry(entry: dict[str, Any]) -> dict[str, Any]:
    """The configuration that a manifest line tells of; see `of_explainer`.

    KeyError, TypeError or ModelError where it is no line of this version.
    """
    plain: dict[str, Any] = json.loads(_text_of(entry))
    return plain


def digest_of_entry(entry: dict[str, Any]) -> str:
    """The fingerprint of the configuration that a manifest line tells of, with the errors of `of_entry`."""
    return _digest_of(_text_of(entry))


@lru_cache(maxsize=4)
def _digest_of(text: str) -> str:
    # All lines of a folder should give the same text.
    return digest(json.loads(text))


def _text_of(entry: dict[str, Any]) -> str:
    return _text(entry["schema"], entry, [cut["name"] for cut in entry["cuts"]])


def _text(schema: int, record: dict[str, Any], cuts: list[str]) -> str:
    """A configuration as JSON."""
    settings, hashes = record["settings"], record["hashes"]
    configuration = {
        "schema": schema,
        "model": hashes["model"],
        "labels": hashes["labels"],
        "output": record["output"],
        "classes": record["classes"],
        "preprocess": settings["preprocess"],
        "cuts": cuts,
        "background": hashes["background"] or settings["background"],
        **known_by(settings["method"], {name: value for name, value in settings.items() if name != "preprocess"}),
    }
    return json_line(configuration)


def digest(value: Any) -> str:
    """The SHA-256 (hexadecimal) of plain values, all numbers finite: of their JSON with sorted keys and no spaces."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def of_work(configuration: str, picture: str, target: int, versus: int | None) -> str:
    """The fingerprint of a map: of its configuration's `digest`, the SHA-256 of the picture's file, and the classes."""
    return digest([configuration, picture, target, versus])


def differences(there: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs between what an output folder holds and what was asked for, such as 'seed is 0 there and 5 now'."""
    one, other = _told(_flat(there)), _told(_flat(now))
    names = list(dict.fromkeys([*one, *other]))
    return [
        f"{name} is {_short(one.get(name))} there and {_short(other.get(name))} now"
        for name in names
        if one.get(name) != other.get(name)
    ]


def _told(values: dict[str, Any]) -> dict[str, Any]:
    """With the settings that are left out where they are as before there was a choice."""
    return {**{name: option.before for name, option in OPTIONS.items() if option.before}, **values}


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def _short(value: Any) -> str:
    text = "not set" if value is None else ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    is_hash = len(text) == 64 and set(text) <= set("0123456789abcdef")
    return f"{text[:12]}..." if is_hash else text
