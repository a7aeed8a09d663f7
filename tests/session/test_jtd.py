"""JSON Type Definition: every form, what is malformed, and how it is told apart from JSON Schema."""

from typing import Any

import pytest

from crew_plugin.errors import InvalidPlan
from crew_plugin.session.jtd import is_timestamp
from crew_plugin.session.schema import SchemaChecker, check_schema, form_of

SHAPE = {
    "discriminator": "kind",
    "mapping": {
        "circle": {"properties": {"radius": {"type": "float64"}}},
        "square": {"properties": {"side": {"type": "uint8"}}, "additionalProperties": True},
    },
}
TREE = {
    "definitions": {"node/~1": {"properties": {"next": {"ref": "node/~1", "nullable": True}}}},
    "ref": "node/~1",
}


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({}, [None, 1, "x", [], {}], []),
        ({"nullable": True}, [None, 1], []),
        ({"type": "boolean"}, [True, False], [None, 0, "true"]),
        ({"type": "boolean", "nullable": True}, [None, True], [0]),
        ({"type": "string"}, ["", "x"], [None, 1]),
        ({"type": "float32"}, [1, 1.5, -3], ["1", None, True]),
        ({"type": "int8"}, [-128, 127, 5.0], [-129, 128, 1.5, "1", True]),
        ({"type": "uint16"}, [0, 65_535], [-1, 65_536]),
        ({"type": "int32"}, [-(2**31), 2**31 - 1], [2**31]),
        ({"type": "uint32"}, [0, 2**32 - 1], [-1, 2**32]),
        ({"type": "timestamp"}, ["1985-04-12T23:20:50.52Z"], ["1985-04-12", 3, None]),
        ({"enum": ["a", "b"]}, ["a", "b"], ["c", None, 0]),
        ({"enum": ["a"], "nullable": True}, ["a", None], ["b"]),
        ({"elements": {"type": "uint8"}}, [[], [1, 2]], [{}, [1, "x"], None]),
        ({"elements": {"type": "uint8"}, "nullable": True}, [None, []], [[None]]),
        ({"values": {"type": "string"}}, [{}, {"a": "b"}], [[], {"a": 1}]),
        ({"properties": {"a": {}}}, [{"a": None}], [{}, {"a": 1, "b": 2}, []]),
        ({"optionalProperties": {"a": {"type": "string"}}}, [{}, {"a": "x"}], [{"a": 1}, {"b": 1}]),
        ({"properties": {"a": {}}, "additionalProperties": True}, [{"a": 1, "b": 2}], [{"b": 1}]),
        (
            SHAPE,
            [{"kind": "circle", "radius": 1}, {"kind": "square", "side": 2, "x": 1}],
            [
                {},
                {"kind": "star"},
                {"kind": 1},
                {"kind": "circle"},
                {"kind": "circle", "radius": 1, "x": 1},
                [],
            ],
        ),
        ({**SHAPE, "nullable": True}, [None, {"kind": "circle", "radius": 1}], [{}]),
        (TREE, [{"next": None}, {"next": {"next": None}}], [{}, {"next": 1}]),
        ({"definitions": {"a": {"type": "string"}}, "ref": "a", "nullable": True}, [None, "x"], [1]),
        ({"properties": {"metadata": {}}, "metadata": {"description": "x"}}, [{"metadata": 1}], [{}]),
    ],
)
def test_a_definition_takes_what_the_rfc_says_and_nothing_else(
    schema: dict[str, Any], good: list[Any], bad: list[Any]
) -> None:
    checker = SchemaChecker(schema, "jtd")
    assert [value for value in good if checker.mismatch(value) is not None] == []
    assert [value for value in bad if checker.mismatch(value) is None] == []


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        ({"foo": 1}, "$: 'foo'"),
        ({"nullable": 1}, "$.nullable"),
        ({"definitions": 1}, "$.definitions"),
        ({"definitions": {"a": 1}}, "$.definitions.a"),
        ({"definitions": {"a": {"definitions": {}}}}, "$.definitions.a: 'definitions'"),
        ({"ref": 1}, "$.ref"),
        ({"elements": {"ref": "a"}}, "$.elements.ref"),
        ({"type": "integer"}, "$.type"),
        ({"type": ["string"]}, "$.type"),
        ({"enum": []}, "$.enum"),
        ({"enum": ["a", 1]}, "$.enum"),
        ({"enum": ["a", "a"]}, "$.enum"),
        ({"elements": 1}, "$.elements"),
        ({"properties": {"a b": {"type": "x"}}}, "$.properties['a b'].type"),
        ({"optionalProperties": 1}, "$.optionalProperties"),
        ({"properties": {}, "additionalProperties": 1}, "$.additionalProperties"),
        ({"properties": {"a": {}}, "optionalProperties": {"a": {}}}, "$.optionalProperties.a"),
        ({"values": []}, "$.values"),
        ({"discriminator": 1, "mapping": {}}, "$.discriminator"),
        ({"discriminator": "t"}, "needs a mapping"),
        ({"mapping": {}}, "needs a discriminator"),
        ({"discriminator": "t", "mapping": {"x": {}}}, "$.mapping.x"),
        ({"discriminator": "t", "mapping": {"x": {"properties": {}, "nullable": True}}}, "$.mapping.x"),
        ({"discriminator": "t", "mapping": {"x": {"properties": {"t": {}}}}}, "$.mapping.x"),
        ({"type": "string", "enum": ["a"]}, "exclude each other"),
        ({"additionalProperties": True}, "needs properties"),
        ({"definitions": {"a": {"ref": "a"}}, "ref": "a"}, "without end"),
        (
            {
                "definitions": {"a": {"ref": "b", "nullable": True}, "b": {"ref": "a"}},
                "elements": {"ref": "a"},
            },
            "$.definitions.a: it refers to itself without end (a -> b -> a)",
        ),
    ],
)
def test_a_malformed_definition_is_refused_with_its_place(schema: dict[str, Any], place: str) -> None:
    with pytest.raises(InvalidPlan) as caught:
        check_schema(schema, form="jtd", what="the schema that was given")
    assert place in str(caught.value)


@pytest.mark.parametrize(
    ("schema", "form"),
    [
        ({"elements": {"type": "string"}}, "jtd"),
        ({"properties": {"n": {"type": "uint8"}}}, "jtd"),
        ({"properties": {"n": {}}, "optionalProperties": {}}, "jtd"),
        ({"type": "string", "nullable": True}, "jtd"),
        ({"type": "string"}, "json-schema"),
        ({"properties": {"n": {"type": "string"}}}, "json-schema"),
        ({"properties": {"elements": {"type": "string"}}}, "json-schema"),
        ({"properties": {"n": {"type": "integer", "nullable": True}}}, "json-schema"),
        ({"type": "object", "properties": {"values": {"type": "array"}}}, "json-schema"),
        ({"elements": {}, "$schema": "x"}, "json-schema"),
    ],
)
def test_a_schema_is_jtd_only_where_it_can_be_nothing_else(schema: dict[str, Any], form: str) -> None:
    assert form_of(schema) == form
    assert form_of(schema, "jtd") == "jtd"


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("1990-12-31T23:59:60Z", True),
        ("1990-12-31T15:59:60-08:00", True),
        ("1990-12-31T22:59:60Z", False),
        ("1937-01-01t12:00:27.87+00:20", True),
        ("2023-02-29T00:00:00Z", False),
        ("2024-02-29T00:00:00Z", True),
        ("2024-01-01T24:00:00Z", False),
        ("2024-01-01T00:00:00+25:00", False),
        ("2024-01-01T00:00:00", False),
        ("2024-01-01T00:00:00٠Z", False),
    ],
)
def test_a_timestamp_is_what_rfc_3339_says(text: str, good: bool) -> None:
    assert is_timestamp(text) is good
