"""Checking data against schemas that are made to go wrong: within a limit, and never by an exception."""

import time
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from crew_plugin.errors import InvalidPlan
from crew_plugin.session.contract import Accepted, Rejected, ResultContract, Submission
from crew_plugin.session.schema import SchemaChecker

ENDLESS = "^(a|aa)+$"
MANY = [{"line": number, "problem": f"number {number}"} for number in range(6_000)]


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "string", "pattern": ENDLESS}, "a" * 60 + "!"),
        ({"patternProperties": {ENDLESS: {"type": "integer"}}}, {"a" * 60 + "!": 1}),
        ({"additionalProperties": False, "patternProperties": {ENDLESS: True}}, {"a" * 60 + "!": 1}),
    ],
)
def test_a_pattern_that_takes_for_ever_is_given_up_and_told(schema: dict[str, Any], value: Any) -> None:
    found = SchemaChecker(schema).mismatch(value)
    assert found is not None
    assert "takes too long to match" in found.text


def test_thousands_of_elements_are_told_apart_without_comparing_each_with_each() -> None:
    checker = SchemaChecker({"type": "array", "uniqueItems": True})
    begun = time.process_time()
    assert checker.mismatch(MANY) is None
    assert time.process_time() - begun < 20, "each with each takes a minute"
    assert checker.mismatch([*MANY, MANY[17]]) is not None


@pytest.mark.parametrize(
    ("items", "unique"),
    [
        ([1, 1.0], False),
        ([1, True], True),
        ([0, False], True),
        ([{"a": 1, "b": 2}, {"b": 2, "a": 1.0}], False),
        ([[1, 2], [2, 1]], True),
        (["1", 1], True),
        ([None, None], False),
        ([], True),
    ],
)
def test_what_is_equal_is_what_json_schema_calls_so(items: list[Any], unique: bool) -> None:
    schema = {"uniqueItems": True}
    assert Draft202012Validator(schema).is_valid(items) is unique
    assert (SchemaChecker(schema).mismatch(items) is None) is unique


@pytest.mark.parametrize(
    "schema",
    [
        {"pattern": "^b.d$"},
        {"patternProperties": {"^n": {"type": "integer"}, "e$": {"type": "string"}}},
        {"properties": {"a": True}, "patternProperties": {"^n": True}, "additionalProperties": False},
        {"properties": {"a": True}, "additionalProperties": {"type": "integer"}},
        {"additionalProperties": True},
    ],
)
@pytest.mark.parametrize(
    "value",
    ["bad", "bead", 3, None, [], {}, {"a": 1}, {"n": 1}, {"n": "x"}, {"name": "x"}, {"z": 1}, {"z": ""}],
)
def test_within_its_limit_a_keyword_means_what_it_always_does(schema: dict[str, Any], value: Any) -> None:
    assert (SchemaChecker(schema).mismatch(value) is None) is Draft202012Validator(schema).is_valid(value)


def test_a_keyword_that_stumbles_is_a_misfit_and_climbs_the_ladder() -> None:
    contract = ResultContract({"properties": {"n": {"multipleOf": 10**400}}})
    submission = Submission(summary="done", data={"n": 1.5})
    for _ in range(3):
        assert isinstance(contract.accept(submission), Rejected)
    verdict = contract.accept(submission)
    assert isinstance(verdict, Accepted)
    assert verdict.result.flags == ("overridden",)


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"default": {"$ref": "#/$defs/nowhere"}}},
        {"$defs": {"enum": {"$ref": "#/$defs/nowhere"}}},
        {"properties": {"a": {"$dynamicRef": "#nowhere"}}},
        {"properties": {"a": {"pattern": "("}}},
        {"patternProperties": {"[": True}},
        {"patternProperties": {"a": True}, "unevaluatedProperties": False},
        {"$schema": 5},
        {"$id": "http://[::1"},
        {"properties": {"a": {"$ref": "#/title"}}, "title": "no schema"},
        {
            "properties": {"a": {"$id": "inner", "$ref": "#/$defs/of_the_whole"}},
            "$defs": {"of_the_whole": True},
        },
    ],
)
def test_a_schema_that_could_never_be_checked_is_refused_at_once(schema: dict[str, Any]) -> None:
    with pytest.raises(InvalidPlan):
        SchemaChecker(schema)


def test_a_property_may_be_called_like_a_keyword() -> None:
    checker = SchemaChecker(
        {"properties": {"pattern": {"type": "string"}, "default": {"const": {"$ref": "x"}}}}
    )
    assert checker.mismatch({"pattern": "(", "default": {"$ref": "x"}}) is None


DRAFT_7 = "http://json-schema.org/draft-07/schema#"
DRAFT_2019 = "https://json-schema.org/draft/2019-09/schema"
DRAFT_2020 = "https://json-schema.org/draft/2020-12/schema"


@pytest.mark.parametrize(
    "inner",
    [
        {"$id": "inner", "$ref": "#/$defs/many", "$defs": {"many": {"type": "array"}}},
        {
            "$id": "http://example.com/inner",
            "$ref": "#many",
            "$defs": {"m": {"$anchor": "many", "type": "array"}},
        },
        {"$id": "a/b", "$ref": "c", "$defs": {"many": {"$id": "c", "type": "array"}}},
        {"$ref": "elsewhere/many"},
    ],
)
def test_a_reference_is_followed_from_the_id_that_holds_where_it_stands(inner: dict[str, Any]) -> None:
    others = {"x": {"$id": "elsewhere/x", "$defs": {"y": {"$id": "many", "type": "array"}}}}
    checker = SchemaChecker({"properties": {"a": inner}, "$defs": others})
    assert checker.mismatch({"a": []}) is None
    assert checker.mismatch({"a": "text"}) is not None
    assert checker.is_list("a")


def test_a_schema_of_schemas_may_be_referred_to_and_nothing_is_fetched_for_it() -> None:
    checker = SchemaChecker({"properties": {"schema": {"$ref": DRAFT_7}}})
    assert checker.mismatch({"schema": {"type": "integer"}}) is None
    assert checker.mismatch({"schema": {"type": "number or so"}}) is not None


@pytest.mark.parametrize(
    ("step", "multiples", "others"),
    [
        (0.01, [19.99, 0.07, 1.1, 4.35, 0, 3, 1e308, -0.29, 10**400], [19.999, 0.001, 5e-324]),
        (1e-07, [1e-06, 3, 0.1234567], [0.12345678]),
        (3, [9, 9.0, -3, 0.0], [10, 9.5]),
        (2.5, [5, 7.5], [6]),
        (10**400, [0], [1.5, 7]),
    ],
)
def test_a_multiple_is_one_of_the_decimals_that_were_written(
    step: float, multiples: list[float], others: list[float]
) -> None:
    checker = SchemaChecker({"items": {"multipleOf": step}})
    assert checker.mismatch([*multiples, True, "19.999"]) is None
    found = [checker.mismatch([one]) for one in others]
    assert all(one is not None and "is not a multiple of" in one.text for one in found)


def test_a_step_that_is_no_number_is_a_misfit_and_no_crash() -> None:
    assert SchemaChecker({"multipleOf": float("inf")}).mismatch(1) is not None


def test_what_a_schema_with_its_dialect_has_checked_by_itself_is_checked_in_the_same_way() -> None:
    tree = {
        "$schema": DRAFT_2020,
        "properties": {
            "price": {"multipleOf": 0.01},
            "name": {"pattern": ENDLESS},
            "under": {"items": {"$ref": "#"}},
        },
    }
    checker = SchemaChecker(tree)
    assert checker.mismatch({"under": [{"under": [{"price": 19.99}]}]}) is None
    found = checker.mismatch({"under": [{"under": [{"name": "a" * 60 + "!"}]}]})
    assert found is not None
    assert "takes too long to match" in found.text


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        ({"properties": {"a": {"$ref": "#/properties/a"}}}, "$.properties.a: it refers"),
        ({"items": {"allOf": [{"$ref": "#/items"}]}}, "$.items -> $.items.allOf[0] -> $.items"),
        (
            {
                "properties": {"a": {"$ref": "#/$defs/b"}},
                "$defs": {
                    "b": {"anyOf": [{"type": "string"}, {"$ref": "#/$defs/c"}]},
                    "c": {"$ref": "#/$defs/b"},
                },
            },
            "$.$defs.b -> $.$defs.b.anyOf[1] -> $.$defs.c -> $.$defs.b",
        ),
        ({"items": {"if": {"type": "object"}, "then": {"$ref": "#/items"}}}, "$.items.then"),
        (
            {"properties": {"a": {"dependentSchemas": {"b": {"$ref": "#/properties/a"}}}}},
            "dependentSchemas.b",
        ),
        ({"properties": {"a": {"$id": "inner", "not": {"$ref": "#"}}}}, "$.properties.a.not"),
        ({"properties": {"a": {"$dynamicAnchor": "a", "oneOf": [{"$dynamicRef": "#a"}]}}}, "oneOf[0]"),
        ({"$schema": DRAFT_2019, "allOf": [{"$recursiveRef": "#"}]}, "$ -> $.allOf[0] -> $"),
        ({"$schema": DRAFT_7, "items": {"$id": "#one", "anyOf": [{"$ref": "#one"}]}}, "$.items.anyOf[0]"),
    ],
)
def test_a_schema_that_would_be_checked_without_end_is_refused_with_the_way_round(
    schema: dict[str, Any], place: str
) -> None:
    with pytest.raises(InvalidPlan) as caught:
        SchemaChecker(schema)
    assert place in str(caught.value)
    assert "without end" in str(caught.value)


NODE = {"type": "object", "required": ["v"]}


@pytest.mark.parametrize(
    "schema",
    [
        {**NODE, "properties": {"v": True, "under": {"type": "array", "items": {"$ref": "#"}}}},
        {
            "$ref": "#/$defs/n",
            "$defs": {"n": {**NODE, "properties": {"under": {"items": {"$ref": "#/$defs/n"}}}}},
        },
        {"anyOf": [{"type": "null"}, {**NODE, "properties": {"under": {"prefixItems": [{"$ref": "#"}]}}}]},
        {
            "allOf": [{"$ref": "#/$defs/n"}],
            "$defs": {"n": {**NODE, "patternProperties": {"^u": {"items": {"$ref": "#"}}}}},
        },
        {**NODE, "if": True, "then": {"properties": {"under": {"contains": {"$ref": "#"}}}}},
        {**NODE, "$dynamicAnchor": "n", "properties": {"under": {"items": {"$dynamicRef": "#n"}}}},
        {**NODE, "$schema": DRAFT_2019, "properties": {"under": {"items": {"$recursiveRef": "#"}}}},
        {**NODE, "then": {"$ref": "#"}, "properties": {"under": {"items": {"$ref": "#"}}}},
    ],
)
def test_a_schema_may_refer_to_itself_for_what_is_in_its_value(schema: dict[str, Any]) -> None:
    checker = SchemaChecker(schema)
    assert checker.mismatch({"v": 1, "under": [{"v": 2, "under": [{"v": 3}]}]}) is None
    assert checker.mismatch({"v": 1, "under": [{"v": 2, "under": [{}]}]}) is not None
