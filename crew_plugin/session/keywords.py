"""Keywords of JSON Schema that jsonschema checks without a limit, or not exactly, checked here.

Python's own `re` can take longer than the universe for thirty characters, and holds up every thread
meanwhile; comparing each element with each other takes minutes for a few thousand. `regex` lets the other
threads go on and gives up in time; what is equal has the same text. Floats cannot be divided exactly: they
stand for the decimals that were written.
"""

from collections.abc import Iterator, Mapping
from decimal import Decimal
from fractions import Fraction
from functools import cache
from typing import TYPE_CHECKING, Any, Final, cast

import attrs
import regex
from jsonschema import ValidationError, validators

from crew_plugin.session.schema import canonical

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

__all__ = ["MATCH_SECONDS", "bounded", "compiled"]

_extend: Final = cast("Any", validators).extend  # without types
_validator_for: Final = cast("Any", validators).validator_for
MATCH_SECONDS: Final = 1.0
"""How long one text may be matched against one pattern."""


@cache
def bounded(kind: "type[Validator]") -> "type[Validator]":
    """The validator with our own keywords. Raises `TimeoutError` while it checks."""
    ours = {
        "pattern": _pattern,
        "patternProperties": _pattern_properties,
        "additionalProperties": _additional_properties,
        "uniqueItems": _unique_items,
        "multipleOf": _multiple_of,
        "divisibleBy": _multiple_of,
    }
    known = {key: check for key, check in ours.items() if key in kind.VALIDATORS}
    made = _extend(kind, known)
    fields = [(field.alias, field.name) for field in attrs.fields(made) if field.init]

    def evolve(self: Any, **changes: Any) -> Any:
        # jsonschema's own takes its plain validator wherever a `$schema` stands, such as at the top of a
        # schema that refers to itself.
        changes.setdefault("schema", self.schema)
        found = _validator_for(changes["schema"], default=made)
        for alias, name in fields:
            if alias not in changes:
                changes[alias] = getattr(self, name)
        return (made if found is made else bounded(found))(**changes)

    made.evolve = evolve
    return cast("type[Validator]", made)


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
        text = canonical(item)
        if text in seen:
            yield ValidationError(f"has non-unique elements: number {place} is there already")
            return
        seen.add(text)


def _multiple_of(
    validator: "Validator", step: float, instance: Any, _: Mapping[str, Any]
) -> Iterator[ValidationError]:
    if validator.is_type(instance, "number") and not _is_multiple(instance, step):
        yield ValidationError(f"{instance!r} is not a multiple of {step!r}")


def _is_multiple(number: float, step: float) -> bool:
    """Whether the decimal that is written for a number is one of the other's: 19.99 is one of 0.01."""
    try:
        # Not the remainder of decimals: they have 28 digits, and fractions have all.
        exact, of = (
            Fraction(Decimal(repr(one)) if isinstance(one, float) else one) for one in (number, step)
        )
    except (OverflowError, ValueError):
        return False  # infinite, or none
    return exact % of == 0
