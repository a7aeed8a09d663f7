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
