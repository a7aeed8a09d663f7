"""Checking of submitted data against its schema, and of the schema itself.

A schema is a JSON Schema or a JSON Type Definition; the second is translated into the first.
`jsonschema` is imported when the first schema is seen: most sessions have none.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

from crew_plugin.errors import InvalidPlan
from crew_plugin.session.jtd import TIMESTAMP, BadDefinition, is_timestamp, looks_like_jtd, to_json_schema

if TYPE_CHECKING:
    from jsonschema import ValidationError
    from jsonschema.protocols import Validator

    from crew_plugin.models.spec import SchemaForm

__all__ = ["Mismatch", "SchemaChecker", "canonical", "check_schema", "form_of"]

_SHOWN_MISMATCHES: Final = 5
_MESSAGE_LIMIT: Final = 300
_LITERALS: Final = frozenset({"const", "default", "enum", "examples"})
"""Keywords whose values are data, not schemas."""
_NAMED: Final = frozenset(
    {"properties", "patternProperties", "dependentSchemas", "dependencies", "$defs", "definitions"}
)
"""Keywords that hold schemas by names, which may be those of keywords."""
_UNBOUNDED: Final = "unevaluatedProperties"
"""jsonschema matches the patterns beside it with Python's own `re`, which nothing can stop."""
_REFERENCES: Final = ("$ref", "$dynamicRef", "$recursiveRef")
_BESIDE: Final = ("allOf", "anyOf", "oneOf", "not", "if", "then", "else", "extends")
"""Keywords whose schemas check the very value that the schema around them checks."""
_BESIDE_NAMED: Final = ("dependentSchemas", "dependencies")
"""The same for schemas by the name of a property."""
_NOTHING: Final[Mapping[str, Any]] = {}
_PROBES: Final[tuple[Any, ...]] = (None, {}, [], "", 0)


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
        self._validator, self._root = _compiled(self.json_schema)

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
        return self._root.followed().inner(self._properties.get(label)).is_list()

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
        return self._root.followed().node

    @property
    def _properties(self) -> Mapping[str, Any]:
        found = self._top.get("properties")
        return cast("Mapping[str, Any]", found) if isinstance(found, Mapping) else {}


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


def _compiled(schema: Mapping[str, Any]) -> "tuple[Validator, _Place]":
    from jsonschema import Draft202012Validator, FormatChecker, SchemaError
    from jsonschema.validators import validator_for
    from referencing import Registry

    from crew_plugin.session.keywords import bounded

    try:
        kind = validator_for(schema, default=Draft202012Validator)
        kind.check_schema(dict(schema))
        root = _checked(schema, frozenset(kind.VALIDATORS))
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
        told = "its references are nested too deeply, or lead round without end"
        raise InvalidPlan("a result schema", [told]) from error
    return validator, root


@dataclass(frozen=True, slots=True, eq=False)
class _Place:
    """A schema within the whole, and how what it refers to is found."""

    node: Mapping[str, Any]
    path: str
    resolver: Any
    """Without types; it knows the `$id` that holds here, and fetches nothing."""
    specification: Any

    def inner(self, node: object, path: str = "") -> "_Place":
        """A schema in this one. What is none says nothing."""
        known = cast("Mapping[str, Any]", node) if isinstance(node, Mapping) else _NOTHING
        resolver = self.resolver
        if isinstance(known.get("$id", known.get("id", "")), str):
            resolver = resolver.in_subresource(self.specification.create_resource(known))
        return _Place(known, self.path + path, resolver, self.specification)

    def led(self, reference: str) -> "_Place":
        """Where a reference in it leads. Raises `Unresolvable`, and `InvalidPlan` if no schema is there."""
        found = self.resolver.lookup(reference)
        node = _NOTHING if isinstance(found.contents, bool) else found.contents
        if not isinstance(node, Mapping):
            raise InvalidPlan("a result schema", [f"{self.path}: {reference!r} leads to no schema"])
        return _Place(cast("Mapping[str, Any]", node), reference, found.resolver, self.specification)

    def followed(self) -> "_Place":
        """The same, or what it refers to in the end: `_checked` has made sure that there is one."""
        place = self
        while isinstance(reference := place.node.get("$ref"), str):
            place = place.led(reference)
        return place

    def is_list(self) -> bool:
        """Whether it means a list, or a list or nothing at all."""
        place = self.followed()
        kind = place.node.get("type")
        if kind is not None:
            return kind == "array" or (isinstance(kind, list) and "array" in kind)
        choices = [place.inner(one) for key in ("anyOf", "oneOf") for one in place.node.get(key, ())]
        real = [one for one in choices if one.node.get("type") != "null"]
        return bool(real) and all(one.is_list() for one in real)

    def within(self) -> "Iterator[_Place]":
        """This schema and each that stands in it."""
        yield self
        for key, value in self.node.items():
            if key in _NAMED and isinstance(value, Mapping):
                held = [(one, f".{key}.{name}") for name, one in cast("Mapping[str, Any]", value).items()]
            else:
                held = [] if key in _LITERALS else [(value, f".{key}")]
            for one, path in held:
                for place in self._each(one, path):
                    yield from place.within()

    def beside(self, known: frozenset[str]) -> "Iterator[_Place]":
        """The schemas that it has check the same value, among the keywords that are known."""
        for key in _REFERENCES:
            if key in known and isinstance(reference := self.node.get(key), str):
                yield self.led(reference)
        for key in _BESIDE:
            # `then` and `else` are part of `if`, and nothing without it.
            if key in known or (key in ("then", "else") and "if" in self.node):
                yield from self._each(self.node.get(key), f".{key}")
        for key in _BESIDE_NAMED:
            value = self.node.get(key)
            if key in known and isinstance(value, Mapping):
                for name, one in cast("Mapping[str, Any]", value).items():
                    yield from self._each(one, f".{key}.{name}")

    def _each(self, value: object, path: str) -> "Iterator[_Place]":
        if isinstance(value, list):
            for number, item in enumerate(cast("list[object]", value)):
                yield from self._each(item, f"{path}[{number}]")
        elif isinstance(value, Mapping):
            yield self.inner(cast("object", value), path)


def _checked(schema: Mapping[str, Any], known: frozenset[str]) -> _Place:
    """The schema with what it refers to. Raises `InvalidPlan` if a reference leads nowhere or round in a
    ring, or if a pattern cannot be used."""
    import regex
    from jsonschema_specifications import REGISTRY  # type: ignore[import-untyped]  # has no types
    from referencing import Resource
    from referencing.exceptions import CannotDetermineSpecification, Unresolvable
    from referencing.jsonschema import DRAFT202012, specification_with

    try:
        resource = Resource.from_contents(schema, default_specification=DRAFT202012)
        base = resource.id() or ""
        resolver = REGISTRY.with_resource(base, resource).crawl().resolver(base)
        specification = specification_with(str(schema.get("$schema", "")), default=DRAFT202012)
        root = _Place(schema, "$", resolver, specification)
        places = list(root.within())
        _check_texts(places, known)
        _check_rings(places, known)
    except (Unresolvable, CannotDetermineSpecification) as error:
        told = f"{_shortened(str(error))}; a schema must be complete in itself"
        raise InvalidPlan("a result schema", [told]) from error
    except regex.error as error:
        raise InvalidPlan(
            "a result schema", [f"a pattern in it is none: {_shortened(str(error))}"]
        ) from error
    return root


def _check_texts(places: list[_Place], known: frozenset[str]) -> None:
    """Return if every reference leads to a schema and every pattern can be used."""
    from crew_plugin.session.keywords import compiled

    for place in places:
        for key in _REFERENCES:
            if key in known and isinstance(reference := place.node.get(key), str):
                place.led(reference)
        if isinstance(pattern := place.node.get("pattern"), str):
            compiled(pattern)
        patterns = place.node.get("patternProperties")
        for name in cast("Mapping[str, Any]", patterns) if isinstance(patterns, Mapping) else ():
            compiled(name)
    keys = {key for place in places for key in place.node}
    if {_UNBOUNDED, "patternProperties"} <= keys:
        told = f"{_UNBOUNDED} beside patternProperties cannot be checked in bounded time"
        raise InvalidPlan("a result schema", [told])


def _check_rings(places: list[_Place], known: frozenset[str]) -> None:
    """Return if no schema has itself check the same value again, which would never end. A schema that
    checks what is in its value, as that of a tree does, comes to an end with the value."""
    paths = {id(place.node): place.path for place in places}
    above: dict[int, None] = {}
    done: set[int] = set()

    def look(place: _Place) -> None:
        node = id(place.node)
        if node in above:
            ring = [paths.get(each, "another") for each in above]
            ring = [*ring[list(above).index(node) :], paths.get(node, "another")]
            told = (
                f"{ring[0]}: it refers to itself without end ({_shortened(' -> '.join(ring))}); a schema may "
                "refer to itself only for what is in its value, from `properties` or `items` for instance"
            )
            raise InvalidPlan("a result schema", [told])
        if node in done:
            return
        above[node] = None
        for each in place.beside(known):
            look(each)
        del above[node]
        done.add(node)

    for place in places:
        look(place)


def canonical(value: object) -> str:
    """A text that is the same for what JSON calls equal: 1 and 1.0, whatever the order of names; never
    for 1 and true."""
    return json.dumps(_plain(value), sort_keys=True)


def _plain(value: object) -> object:
    """The same with one form for equal numbers."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in cast("dict[str, object]", value).items()}
    if isinstance(value, list):
        return [_plain(each) for each in cast("list[object]", value)]
    return value


def _path(json_path: str) -> str:
    return "data" + json_path.removeprefix("$")


def _shortened(message: str) -> str:
    return message if len(message) <= _MESSAGE_LIMIT else message[: _MESSAGE_LIMIT - 3] + "..."
