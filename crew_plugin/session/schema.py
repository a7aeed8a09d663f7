"""Checking of submitted data against its schema, and of the schema itself.

A schema is a JSON Schema or a JSON Type Definition; the second is translated into the first.
`jsonschema` is imported when the first schema is seen: most sessions have none.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

from crew_plugin.errors import InvalidPlan
from crew_plugin.session.jtd import TIMESTAMP, BadDefinition, is_timestamp, looks_like_jtd, to_json_schema

if TYPE_CHECKING:
    from jsonschema import ValidationError
    from jsonschema.protocols import Validator

    from crew_plugin.models.spec import SchemaForm

__all__ = ["Mismatch", "SchemaChecker", "check_schema", "form_of"]

_SHOWN_MISMATCHES: Final = 5
_MESSAGE_LIMIT: Final = 300
_LITERALS: Final = frozenset({"const", "default", "enum", "examples"})
"""Keywords whose values are data, not schemas."""
_NAMED: Final = frozenset({"properties", "patternProperties", "dependentSchemas", "$defs", "definitions"})
"""Keywords that hold schemas by names, which may be those of keywords."""
_PATTERNS: Final = frozenset({"pattern", "patternProperties"})
_UNBOUNDED: Final = "unevaluatedProperties"
"""jsonschema matches the patterns beside it with Python's own `re`, which nothing can stop."""
_REFERENCES: Final = frozenset({"$ref", "$dynamicRef"})
_PROBES: Final[tuple[Any, ...]] = (None, {}, [], "", 0)
_LONGEST_CHAIN: Final = 16
"""So many references are followed from one to the next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mismatch:
    """Why a value does not fit: the path of the worst error, and up to five errors in words."""

    path: str
    text: str


def form_of(schema: Mapping[str, Any], form: "SchemaForm" = "auto") -> "SchemaForm":
    """`json-schema` or `jtd`: what was said, else what the schema shows."""
    if form != "auto":
        return form
    return "jtd" if looks_like_jtd(schema) else "json-schema"


class SchemaChecker:
    """Checks values against one schema. Raises `InvalidPlan` if the schema cannot be used."""

    def __init__(self, schema: Mapping[str, Any], form: "SchemaForm" = "auto") -> None:
        self.json_schema: Mapping[str, Any] = _as_json_schema(schema, form)
        self._validator = _compiled(self.json_schema)

    @property
    def kind(self) -> str | None:
        """The one JSON type that a value must have; None if there are several or any will do."""
        kind = self._top.get("type")
        if kind is None and "properties" in self._top:
            return "object"
        return kind if isinstance(kind, str) else None

    @property
    def labels(self) -> tuple[str, ...]:
        """The properties that the schema names, at its top."""
        return tuple(self._properties)

    @property
    def closed(self) -> bool:
        """Whether other properties than those it names are refused."""
        more = self._top.get("additionalProperties", self._top.get("unevaluatedProperties"))
        return more is False and "patternProperties" not in self._top

    def is_list(self, label: str) -> bool:
        """Whether the property of this name is a list."""
        part = self._followed(self._properties.get(label, {}))
        kind = part.get("type")
        return kind == "array" or (isinstance(kind, list) and "array" in kind)

    def mismatch(self, value: Any) -> Mismatch | None:
        """None if the value fits."""
        errors = self._errors(value)
        if isinstance(errors, Mismatch):
            return errors
        if not errors:
            return None
        if value is None:
            return Mismatch(path="data", text="data: it is missing, and the schema requires it")
        return _told(errors)

    def misfit_of_part(self, whole: Any, label: str | int) -> Mismatch | None:
        """What is wrong with one property, or element, of an unfinished whole; that others are
        missing, and that a list is still too short, is not."""
        errors = self._errors(whole)
        if isinstance(errors, Mismatch):
            return errors
        least = 2 if isinstance(label, str) and self.is_list(label) else 1
        mine = [
            error for error in errors if len(error.absolute_path) >= least and error.absolute_path[0] == label
        ]
        return _told(mine) if mine else None

    def _errors(self, value: Any) -> "list[ValidationError] | Mismatch":
        try:
            return sorted(self._validator.iter_errors(value), key=lambda error: len(error.absolute_path))
        except RecursionError:
            return Mismatch(path="data", text="data: nested too deeply to be checked")
        except TimeoutError:
            return Mismatch(
                path="data", text="data: a text in it takes too long to match a pattern of the schema"
            )
        except Exception as error:  # noqa: BLE001 - whatever a keyword stumbles over is a submit that misfits
            return Mismatch(
                path="data", text=f"data: it cannot be checked: {_shortened(str(error) or repr(error))}"
            )

    @property
    def _top(self) -> Mapping[str, Any]:
        return self._followed(self.json_schema)

    @property
    def _properties(self) -> Mapping[str, Any]:
        found = self._top.get("properties")
        return cast("Mapping[str, Any]", found) if isinstance(found, Mapping) else {}

    def _followed(self, schema: object) -> Mapping[str, Any]:
        """A schema, or what it refers to within this document."""
        for _ in range(_LONGEST_CHAIN):
            if not isinstance(schema, Mapping):
                return {}
            node = cast("Mapping[str, Any]", schema)
            reference = node.get("$ref")
            if not isinstance(reference, str) or not reference.startswith("#/"):
                return node
            inner: Any = self.json_schema
            for part in reference[2:].split("/"):
                name = part.replace("~1", "/").replace("~0", "~")
                inner = cast("Mapping[str, Any]", inner).get(name) if isinstance(inner, Mapping) else None
            schema = inner
        return {}


def check_schema(
    schema: Mapping[str, Any], *, form: "SchemaForm" = "auto", what: str = "a result schema"
) -> None:
    """Return if results can be checked against the schema. Raises `InvalidPlan` with the place
    in the schema that is wrong."""
    try:
        SchemaChecker(schema, form)
    except InvalidPlan as error:
        raise InvalidPlan(what, error.problems) from error


def _told(errors: "list[ValidationError]") -> Mismatch:
    lines = [f"{_path(error.json_path)}: {_shortened(error.message)}" for error in errors[:_SHOWN_MISMATCHES]]
    if len(errors) > _SHOWN_MISMATCHES:
        lines.append(f"and {len(errors) - _SHOWN_MISMATCHES} more")
    return Mismatch(path=_path(errors[0].json_path), text="\n".join(lines))


def _as_json_schema(schema: Mapping[str, Any], form: "SchemaForm") -> Mapping[str, Any]:
    try:
        return to_json_schema(schema) if form_of(schema, form) == "jtd" else schema
    except BadDefinition as error:
        raise InvalidPlan("a result schema", [f"{_shortened(str(error))} (JSON Type Definition)"]) from error
    except RecursionError as error:
        raise InvalidPlan("a result schema", ["it is nested too deeply"]) from error


def _compiled(schema: Mapping[str, Any]) -> "Validator":
    from jsonschema import Draft202012Validator, FormatChecker, SchemaError
    from jsonschema.validators import validator_for
    from referencing import Registry

    from crew_plugin.session.keywords import bounded

    try:
        kind = validator_for(schema, default=Draft202012Validator)
        kind.check_schema(dict(schema))
        _check_texts(schema)
    except SchemaError as error:
        raise InvalidPlan("a result schema", [f"{error.json_path}: {_shortened(error.message)}"]) from error
    except RecursionError as error:
        raise InvalidPlan("a result schema", ["it is nested too deeply"]) from error
    except (TypeError, ValueError, AttributeError) as error:
        # Such as a `$schema` that is a number: nothing that says of itself what is wrong.
        raise InvalidPlan("a result schema", [f"it is none: {_shortened(str(error))}"]) from error
    # Only our own format is checked: in a JSON Schema `format` is a remark.
    formats = FormatChecker(formats=())
    formats.checks(TIMESTAMP)(is_timestamp)
    # An explicit registry: nothing is ever fetched to resolve a reference.
    validator = bounded(kind)(dict(schema), registry=Registry(), format_checker=formats)
    try:
        for probe in _PROBES:
            validator.is_valid(probe)
    except RecursionError as error:
        raise InvalidPlan("a result schema", ["it refers to itself without end"]) from error
    return validator


def _check_texts(schema: Mapping[str, Any]) -> None:
    """Return if every reference leads somewhere and every pattern can be used. Raises `InvalidPlan`."""
    import regex
    from referencing import Registry, Resource
    from referencing.exceptions import CannotDetermineSpecification, Unresolvable
    from referencing.jsonschema import DRAFT202012

    from crew_plugin.session.keywords import compiled

    registry: Registry[Any] = Registry()
    found = list(_texts(schema))
    try:
        resource = Resource.from_contents(schema, default_specification=DRAFT202012)
        base = resource.id() or ""
        resolver = registry.with_resource(base, resource).crawl().resolver(base)
        for keyword, value in found:
            if keyword in _REFERENCES:
                resolver.lookup(value)
            elif keyword in _PATTERNS:
                compiled(value)
    except (Unresolvable, CannotDetermineSpecification) as error:
        told = f"{_shortened(str(error))}; a schema must be complete in itself"
        raise InvalidPlan("a result schema", [told]) from error
    except regex.error as error:
        raise InvalidPlan(
            "a result schema", [f"a pattern in it is none: {_shortened(str(error))}"]
        ) from error
    if {_UNBOUNDED, "patternProperties"} <= {keyword for keyword, _ in found}:
        told = f"{_UNBOUNDED} beside patternProperties cannot be checked in bounded time"
        raise InvalidPlan("a result schema", [told])


def _texts(node: Any) -> Iterator[tuple[str, str]]:
    """Each reference and each pattern of a schema, and what cannot be bounded, with its keyword."""
    if isinstance(node, list):
        for item in cast("list[object]", node):
            yield from _texts(item)
    if not isinstance(node, Mapping):
        return
    for key, value in cast("Mapping[str, Any]", node).items():
        if isinstance(value, str) and (key in _REFERENCES or key == "pattern"):
            yield key, value
        elif key in _NAMED and isinstance(value, Mapping):
            schemas = cast("Mapping[str, Any]", value)
            yield from ((key, name) for name in schemas if key == "patternProperties")
            yield from _texts(list(schemas.values()))
        elif key not in _LITERALS:
            if key == _UNBOUNDED:
                yield key, ""
            yield from _texts(value)


def _path(json_path: str) -> str:
    return "data" + json_path.removeprefix("$")


def _shortened(message: str) -> str:
    return message if len(message) <= _MESSAGE_LIMIT else message[: _MESSAGE_LIMIT - 3] + "..."
