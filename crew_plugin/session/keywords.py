"""Keywords of JSON Schema that jsonschema checks without a limit, checked within one.

Python's own `re` can take longer than the universe for thirty characters, and holds up every thread
meanwhile; comparing each element with each other takes minutes for a few thousand. `regex` lets the other
threads go on and gives up in time; what is equal has the same text.
"""

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, cast

import regex
from jsonschema import ValidationError, validators

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

__all__ = ["MATCH_SECONDS", "bounded", "compiled"]

_extend: Final = cast("Any", validators).extend  # without types
MATCH_SECONDS: Final = 1.0
"""How long one text may be matched against one pattern."""


def bounded(kind: "type[Validator]") -> "type[Validator]":
    """The validator with our own patterns and `uniqueItems`. Raises `TimeoutError` while it checks."""
    ours = {
        "pattern": _pattern,
        "patternProperties": _pattern_properties,
        "additionalProperties": _additional_properties,
        "uniqueItems": _unique_items,
    }
    known = {key: check for key, check in ours.items() if key in kind.VALIDATORS}
    return cast("type[Validator]", _extend(kind, known))


def compiled(pattern: str) -> "regex.Pattern[str]":
    """A pattern of a schema. Raises `regex.error`."""
    return regex.compile(pattern)


def _found(pattern: str, text: str) -> bool:
    return compiled(pattern).search(text, concurrent=True, timeout=MATCH_SECONDS) is not None


def _pattern(
    validator: "Validator", pattern: str, instance: object, _: Mapping[str, Any]
) -> Iterator[ValidationError]:
    if isinstance(instance, str) and not _found(pattern, instance):
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


def _pattern_properties(
    validator: Any, patterns: Mapping[str, Any], instance: object, _: Mapping[str, Any]
) -> Iterator[ValidationError]:
    if not isinstance(instance, dict):
        return
    for pattern, schema in patterns.items():
        for name, value in cast("dict[str, object]", instance).items():
            if _found(pattern, name):
                yield from validator.descend(value, schema, path=name, schema_path=pattern)


def _additional_properties(
    validator: Any, more: object, instance: object, schema: Mapping[str, Any]
) -> Iterator[ValidationError]:
    if not isinstance(instance, dict):
        return
    values = cast("dict[str, object]", instance)
    named, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    others = [name for name in values if name not in named and not any(_found(one, name) for one in patterns)]
    if isinstance(more, Mapping):
        for name in others:
            yield from validator.descend(values[name], more, path=name)
    elif more is False and others:
        told = ", ".join(repr(name) for name in others)
        yield ValidationError(f"Additional properties are not allowed ({told} unexpected)")


def _unique_items(
    validator: "Validator", unique: object, instance: object, _: Mapping[str, Any]
) -> Iterator[ValidationError]:
    if not unique or not isinstance(instance, list):
        return
    seen: set[str] = set()
    for place, item in enumerate(cast("list[object]", instance)):
        text = json.dumps(_plain(item), sort_keys=True)
        if text in seen:
            yield ValidationError(f"has non-unique elements: number {place} is there already")
            return
        seen.add(text)


def _plain(value: object) -> object:
    """The same with one form for numbers that JSON Schema calls equal: 1 and 1.0."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in cast("dict[str, object]", value).items()}
    if isinstance(value, list):
        return [_plain(each) for each in cast("list[object]", value)]
    return value
