"""JSON Type Definition (RFC 8927): told apart from JSON Schema, checked, and translated into it.

One library then checks both, and says what is wrong in the same words. Pure.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, Final, cast

__all__ = ["TIMESTAMP", "BadDefinition", "is_timestamp", "looks_like_jtd", "to_json_schema"]

TIMESTAMP: Final = "rfc3339-timestamp"
"""The `format` that stands for the type timestamp; `is_timestamp` checks it."""
_INTEGERS: Final = {
    "int8": (-(2**7), 2**7 - 1),
    "uint8": (0, 2**8 - 1),
    "int16": (-(2**15), 2**15 - 1),
    "uint16": (0, 2**16 - 1),
    "int32": (-(2**31), 2**31 - 1),
    "uint32": (0, 2**32 - 1),
}
_TYPES: Final[Mapping[str, Mapping[str, Any]]] = {
    "boolean": {"type": "boolean"},
    "string": {"type": "string"},
    "timestamp": {"type": "string", "format": TIMESTAMP},
    "float32": {"type": "number"},
    "float64": {"type": "number"},
    **{name: {"type": "integer", "minimum": low, "maximum": high} for name, (low, high) in _INTEGERS.items()},
}
_FORMS: Final[Mapping[str, frozenset[str]]] = {
    "ref": frozenset({"ref"}),
    "type": frozenset({"type"}),
    "enum": frozenset({"enum"}),
    "elements": frozenset({"elements"}),
    "properties": frozenset({"properties", "optionalProperties", "additionalProperties"}),
    "values": frozenset({"values"}),
    "discriminator": frozenset({"discriminator", "mapping"}),
}
_SHARED: Final = frozenset({"nullable", "metadata"})
_ONLY_JTD: Final = frozenset(
    {"ref", "elements", "optionalProperties", "values", "discriminator", "mapping", "nullable"}
)
_BOTH: Final = _SHARED | frozenset[str]().union(*_FORMS.values()) | {"definitions"}
_TYPES_OF_BOTH: Final = frozenset({"boolean", "string"})
_STAMP: Final = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt](\d\d):(\d\d):(\d\d)(?:\.\d+)?(?:[Zz]|([+-])(\d\d):(\d\d))", re.ASCII
)


class BadDefinition(ValueError):
    """A definition that RFC 8927 does not allow; the message begins with the place in it."""


def looks_like_jtd(schema: Mapping[str, Any]) -> bool:
    """Whether a schema can only be meant as JTD: it uses a word or type that JSON Schema does not
    have, and none that JTD does not have."""
    typical = False
    for node in _nodes(schema):
        kind = node.get("type")
        if node.keys() - _BOTH or (kind is not None and (not isinstance(kind, str) or kind not in _TYPES)):
            return False
        typical = typical or bool(node.keys() & _ONLY_JTD) or kind not in (None, *_TYPES_OF_BOTH)
    return typical


def to_json_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON Schema that accepts the same values. Raises `BadDefinition`."""
    return _Translation(schema).whole()


def is_timestamp(value: object) -> bool:
    """Whether a text is a moment as RFC 3339 writes it, leap seconds included."""
    if not isinstance(value, str):
        return True  # the type is checked beside it
    match = _STAMP.fullmatch(value)
    if match is None:
        return False
    day, hour, minute, second, sign, off_hour, off_minute = match.groups()
    if int(hour) > 23 or int(minute) > 59 or int(second) > 60 or int(off_hour or 0) > 23:
        return False
    if int(off_minute or 0) > 59:
        return False
    try:
        datetime.fromisoformat(day)
    except ValueError:
        return False
    if int(second) < 60:
        return True
    offset = (int(off_hour or 0) * 60 + int(off_minute or 0)) * (-1 if sign == "-" else 1)
    return (int(hour) * 60 + int(minute) - offset) % 1440 == 1439


def _nodes(schema: object) -> Iterator[Mapping[str, Any]]:
    """Every place of a JTD schema where a schema stands."""
    if not isinstance(schema, Mapping):
        return
    node = cast("Mapping[str, Any]", schema)
    yield node
    for key in ("elements", "values"):
        yield from _nodes(node.get(key))
    for key in ("properties", "optionalProperties", "mapping", "definitions"):
        inner = node.get(key)
        if isinstance(inner, Mapping):
            for one in cast("Mapping[str, object]", inner).values():
                yield from _nodes(one)


class _Translation:
    """One schema on its way into JSON Schema."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._schema = schema
        # Numbered: a name may hold anything, and a reference would have to escape it.
        given = _mapping(schema.get("definitions", {}), "$.definitions")
        self._places = {name: f"d{number}" for number, name in enumerate(given)}
        self._definitions = given

    def whole(self) -> dict[str, Any]:
        rest = {key: value for key, value in self._schema.items() if key != "definitions"}
        made = self._node(rest, "$")
        if self._definitions:
            made["$defs"] = {
                self._places[name]: self._node(one, _at("$.definitions", name))
                for name, one in self._definitions.items()
            }
            self._check_rings()
        return made

    def _check_rings(self) -> None:
        """Return if no definition is but another name for itself."""
        ends: set[str] = set()
        for first in self._definitions:
            chain: dict[str, None] = {}
            name: str | None = first
            while name is not None and name not in ends:
                if name in chain:
                    ring = " -> ".join([*list(chain)[list(chain).index(name) :], name])
                    raise BadDefinition(
                        f"{_at('$.definitions', name)}: it refers to itself without end ({ring})"
                    )
                chain[name] = None
                name = self._definitions[name].get("ref")
            ends |= chain.keys()

    def _node(self, schema: object, path: str, tag: str | None = None) -> dict[str, Any]:
        """One schema. `tag` is the discriminator of the mapping that it stands in."""
        node = _mapping(schema, path)
        form = _form_of(node, path)
        nullable = node.get("nullable", False)
        if not isinstance(nullable, bool):
            raise BadDefinition(f"{path}.nullable: must be true or false")
        _mapping(node.get("metadata", {}), f"{path}.metadata")
        if tag is not None and (form != "properties" or nullable):
            raise BadDefinition(f"{path}: what a mapping leads to must have properties and not be nullable")
        if form is None:
            return {}
        make = self._makers()[form]
        made = make(node, path) if tag is None else self._properties(node, path, tag)
        return _or_null(made) if nullable else made

    def _makers(self) -> Mapping[str, Callable[[Mapping[str, Any], str], dict[str, Any]]]:
        return {
            "ref": self._ref,
            "type": self._type,
            "enum": self._enum,
            "properties": lambda node, path: self._properties(node, path, None),
            "elements": lambda node, path: {
                "type": "array",
                "items": self._node(node["elements"], f"{path}.elements"),
            },
            "values": lambda node, path: {
                "type": "object",
                "additionalProperties": self._node(node["values"], f"{path}.values"),
            },
            "discriminator": self._discriminator,
        }

    def _ref(self, node: Mapping[str, Any], path: str) -> dict[str, Any]:
        name = node["ref"]
        if not isinstance(name, str) or name not in self._places:
            raise BadDefinition(f"{path}.ref: there is no definition {name!r}")
        return {"$ref": f"#/$defs/{self._places[name]}"}

    def _type(self, node: Mapping[str, Any], path: str) -> dict[str, Any]:
        kind = node["type"]
        if not isinstance(kind, str) or kind not in _TYPES:
            raise BadDefinition(f"{path}.type: {kind!r} is none of {', '.join(sorted(_TYPES))}")
        return dict(_TYPES[kind])

    def _enum(self, node: Mapping[str, Any], path: str) -> dict[str, Any]:
        values = node["enum"]
        if not isinstance(values, list) or not values:
            raise BadDefinition(f"{path}.enum: must be a list with at least one text")
        texts = cast("list[object]", values)
        if not all(isinstance(text, str) for text in texts) or len(set(texts)) < len(texts):
            raise BadDefinition(f"{path}.enum: must be texts, each once")
        return {"enum": list(texts)}

    def _properties(self, node: Mapping[str, Any], path: str, tag: str | None) -> dict[str, Any]:
        needed = _mapping(node.get("properties", {}), f"{path}.properties")
        others = _mapping(node.get("optionalProperties", {}), f"{path}.optionalProperties")
        for name in needed.keys() & others.keys():
            raise BadDefinition(f"{_at(f'{path}.optionalProperties', name)}: is in properties as well")
        if tag is not None and (tag in needed or tag in others):
            raise BadDefinition(f"{path}: must not define {tag!r}, which is the discriminator")
        more = node.get("additionalProperties", False)
        if not isinstance(more, bool):
            raise BadDefinition(f"{path}.additionalProperties: must be true or false")
        made: dict[str, Any] = {"type": "object"}
        made["properties"] = {
            name: self._node(one, _at(f"{path}.{part}", name))
            for part, given in (("properties", needed), ("optionalProperties", others))
            for name, one in given.items()
        }
        if tag is not None:
            made["properties"][tag] = {}
        if needed:
            made["required"] = list(needed)
        if not more:
            made["additionalProperties"] = False
        return made

    def _discriminator(self, node: Mapping[str, Any], path: str) -> dict[str, Any]:
        tag = node.get("discriminator")
        if not isinstance(tag, str):
            raise BadDefinition(f"{path}.discriminator: must be the name of a property")
        if "mapping" not in node:
            raise BadDefinition(f"{path}: a discriminator needs a mapping")
        mapping = _mapping(node["mapping"], f"{path}.mapping")
        cases = [
            {
                "if": {"type": "object", "properties": {tag: {"const": name}}, "required": [tag]},
                "then": self._node(one, _at(f"{path}.mapping", name), tag),
            }
            for name, one in mapping.items()
        ]
        made: dict[str, Any] = {
            "type": "object",
            "required": [tag],
            "properties": {tag: {"enum": list(mapping)}},
        }
        return {**made, "allOf": cases} if cases else made


def _or_null(made: dict[str, Any]) -> dict[str, Any]:
    """The same or null, without an `anyOf` where that can be: its errors say nothing."""
    if "enum" in made:
        return {**made, "enum": [*made["enum"], None]}
    if "type" in made:
        return {**made, "type": [made["type"], "null"]}
    return {"anyOf": [{"type": "null"}, made]}


def _form_of(node: Mapping[str, Any], path: str) -> str | None:
    """Which of the forms a schema has; None for the empty one."""
    forms = [form for form, words in _FORMS.items() if words & node.keys()]
    if len(forms) > 1:
        raise BadDefinition(f"{path}: {forms[0]!r} and {forms[1]!r} exclude each other")
    words = _FORMS[forms[0]] if forms else frozenset[str]()
    for key in node:
        if key not in words and key not in _SHARED:
            where = " anywhere but at the top" if key == "definitions" else ""
            raise BadDefinition(f"{path}: {key!r} is not allowed here{where}")
    if forms == ["properties"] and not {"properties", "optionalProperties"} & node.keys():
        raise BadDefinition(f"{path}: additionalProperties needs properties or optionalProperties")
    if forms == ["discriminator"] and "discriminator" not in node:
        raise BadDefinition(f"{path}: a mapping needs a discriminator")
    return forms[0] if forms else None


def _mapping(value: object, path: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise BadDefinition(f"{path}: must be an object")
    return cast("Mapping[str, Any]", value)


def _at(path: str, name: str) -> str:
    return f"{path}.{name}" if name.isidentifier() else f"{path}[{name!r}]"
