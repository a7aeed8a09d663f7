"""Checking of submitted data against a JSON Schema, and of the schema itself.

`jsonschema` is imported when the first schema is seen: most sessions have none.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

from crew_plugin.errors import InvalidPlan

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

__all__ = ["Mismatch", "SchemaChecker", "check_schema"]

_SHOWN_MISMATCHES: Final = 5
_MESSAGE_LIMIT: Final = 300
_LITERALS: Final = frozenset({"const", "default", "enum", "examples"})
"""Keywords whose values are data, not schemas."""
_PROBES: Final[tuple[Any, ...]] = (None, {}, [], "", 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mismatch:
    """Why a value does not fit: the path of the worst error, and up to five errors in words."""

    path: str
    text: str


class SchemaChecker:
    """Checks values against one schema. Raises `InvalidPlan` if the schema cannot be used."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._validator = _compiled(schema)

    def mismatch(self, value: Any) -> Mismatch | None:
        """None if the value fits."""
        try:
            errors = sorted(self._validator.iter_errors(value), key=lambda error: len(error.absolute_path))
        except RecursionError:
            return Mismatch(path="data", text="data: nested too deeply to be checked")
        if not errors:
            return None
        if value is None:
            return Mismatch(path="data", text="data: it is missing, and the schema requires it")
        lines = [
            f"{_path(error.json_path)}: {_shortened(error.message)}" for error in errors[:_SHOWN_MISMATCHES]
        ]
        if len(errors) > _SHOWN_MISMATCHES:
            lines.append(f"and {len(errors) - _SHOWN_MISMATCHES} more")
        return Mismatch(path=_path(errors[0].json_path), text="\n".join(lines))


def check_schema(schema: Mapping[str, Any], *, what: str = "a result schema") -> None:
    """Return if results can be checked against the schema. Raises `InvalidPlan` with the place
    in the schema that is wrong."""
    try:
        SchemaChecker(schema)
    except InvalidPlan as error:
        raise InvalidPlan(what, error.problems) from error


def _compiled(schema: Mapping[str, Any]) -> "Validator":
    from jsonschema import Draft202012Validator, SchemaError
    from jsonschema.validators import validator_for
    from referencing import Registry, Resource
    from referencing.exceptions import CannotDetermineSpecification, Unresolvable
    from referencing.jsonschema import DRAFT202012

    kind = validator_for(schema, default=Draft202012Validator)
    try:
        kind.check_schema(dict(schema))
    except SchemaError as error:
        raise InvalidPlan("a result schema", [f"{error.json_path}: {_shortened(error.message)}"]) from error
    except RecursionError as error:
        raise InvalidPlan("a result schema", ["it is nested too deeply"]) from error
    # An explicit registry: nothing is ever fetched to resolve a reference.
    registry: Registry[Any] = Registry()
    try:
        resource = Resource.from_contents(schema, default_specification=DRAFT202012)
        resolver = resource.id() or ""
        known = registry.with_resource(resolver, resource).crawl()
        for reference in _references(schema):
            known.resolver(resolver).lookup(reference)
    except (Unresolvable, CannotDetermineSpecification) as error:
        raise InvalidPlan(
            "a result schema", [f"{_shortened(str(error))}; a schema must be complete in itself"]
        ) from error
    validator = kind(dict(schema), registry=registry)
    try:
        for probe in _PROBES:
            validator.is_valid(probe)
    except RecursionError as error:
        raise InvalidPlan("a result schema", ["it refers to itself without end"]) from error
    return validator


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, Mapping):
        for key, value in cast("Mapping[str, Any]", node).items():
            if key == "$ref" and isinstance(value, str):
                yield value
            elif key not in _LITERALS:
                yield from _references(value)
    elif isinstance(node, list):
        for item in cast("list[object]", node):
            yield from _references(item)


def _path(json_path: str) -> str:
    return "data" + json_path.removeprefix("$")


def _shortened(message: str) -> str:
    return message if len(message) <= _MESSAGE_LIMIT else message[: _MESSAGE_LIMIT - 3] + "..."
