"""A small checker of JSON Schemas: knows the keywords that ours uses, and refuses others."""

import re
from typing import Any

_SAYS_NOTHING = {"$defs", "$schema", "title", "description", "default"}
_KINDS = {
    "object": dict,
    "array": list,
    "string": str,
    "number": (int, float),
    "integer": int,
    "null": type(None),
    "boolean": bool,
}


def breaks(value: Any, rule: dict[str, Any], root: dict[str, Any], place: str = "") -> list[str]:
    """What of a value breaks a schema, in words."""
    if "$ref" in rule:
        return breaks(value, root["$defs"][rule["$ref"].rsplit("/", 1)[-1]], root, place)
    if "anyOf" in rule:
        found = [breaks(value, each, root, place) for each in rule["anyOf"]]
        return [] if [] in found else found[0]
    kind = rule.get("type")
    if kind is not None and (not isinstance(value, _KINDS[kind]) or isinstance(value, bool) != (kind == "boolean")):
        return [f"{place} is no {kind}"]
    if isinstance(value, dict):
        return _object(value, rule, root, place)
    if isinstance(value, list):
        return _list(value, rule, root, place)
    return _plain(value, rule, place)


def _known(rule: dict[str, Any], *names: str) -> None:
    unknown = rule.keys() - _SAYS_NOTHING - {"type", *names}
    assert not unknown, unknown


def _plain(value: Any, rule: dict[str, Any], place: str) -> list[str]:
    _known(rule, "const", "enum", "pattern", "minimum", "maximum")
    wrong = (
        ("const" in rule and value != rule["const"])
        or ("enum" in rule and value not in rule["enum"])
        or ("pattern" in rule and not re.search(rule["pattern"], value))
        or ("minimum" in rule and value < rule["minimum"])
        or ("maximum" in rule and value > rule["maximum"])
    )
    return [f"{place} is {value!r}: {rule}"] if wrong else []


def _list(value: list[Any], rule: dict[str, Any], root: dict[str, Any], place: str) -> list[str]:
    _known(rule, "items", "prefixItems", "minItems", "maxItems")
    if not rule.get("minItems", 0) <= len(value) <= rule.get("maxItems", len(value)):
        return [f"{place} has {len(value)} items"]
    rules = rule.get("prefixItems") or [rule.get("items", {})] * len(value)
    pairs = enumerate(zip(value, rules, strict=False))
    return [line for number, (each, part) in pairs for line in breaks(each, part, root, f"{place}[{number}]")]


def _object(value: dict[str, Any], rule: dict[str, Any], root: dict[str, Any], place: str) -> list[str]:
    _known(rule, "properties", "required", "additionalProperties")
    found = [f"{place}.{name} is missing" for name in rule.get("required", []) if name not in value]
    others = rule.get("additionalProperties", True)
    for name, each in value.items():
        if name in rule.get("properties", {}):
            found += breaks(each, rule["properties"][name], root, f"{place}.{name}")
        elif isinstance(others, dict):
            found += breaks(each, others, root, f"{place}.{name}")
        elif not others:
            found.append(f"{place}.{name} is unknown")
    return found
