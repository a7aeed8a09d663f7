"""Every rung of the ladder that a submitted result climbs."""

from typing import Any

import pytest

from crew_plugin.errors import InvalidPlan
from crew_plugin.models.causes import CauseCode
from crew_plugin.session.contract import Accepted, Ended, Kept, Rejected, ResultContract, Submission
from crew_plugin.session.schema import check_schema

SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["findings"],
    "additionalProperties": False,
    "properties": {
        "findings": {
            "type": "array",
            "items": {"type": "object", "required": ["line"], "properties": {"line": {"type": "integer"}}},
        }
    },
}
GOOD = {"findings": [{"line": 3}]}
BAD = {"findings": [{"line": "three"}]}


def test_a_summary_is_enough_without_a_schema_and_the_result_says_it_was_not_checked() -> None:
    verdict = ResultContract().accept(Submission(summary="done", data={"any": 1}))
    assert isinstance(verdict, Accepted)
    assert verdict.result.flags == ("unchecked",)
    assert verdict.result.data == {"any": 1}


def test_data_that_fits_is_accepted_without_a_flag() -> None:
    verdict = ResultContract(SCHEMA).accept(Submission(summary="done", data=GOOD))
    assert isinstance(verdict, Accepted)
    assert verdict.result.flags == ()


def test_data_that_does_not_fit_comes_back_with_the_failing_path() -> None:
    verdict = ResultContract(SCHEMA).accept(Submission(summary="done", data=BAD))
    assert isinstance(verdict, Rejected)
    assert verdict.path == "data.findings[0].line"
    assert "data.findings[0].line" in verdict.text
    assert "'three' is not of type 'integer'" in verdict.text


def test_missing_data_does_not_fit_a_schema() -> None:
    verdict = ResultContract(SCHEMA).accept(Submission(summary="done"))
    assert isinstance(verdict, Rejected)
    assert verdict.path == "data"


def test_the_fourth_misfit_is_accepted_and_flagged_when_permissive() -> None:
    contract = ResultContract(SCHEMA)
    for _ in range(3):
        assert isinstance(contract.accept(Submission(summary="done", data=BAD)), Rejected)
    verdict = contract.accept(Submission(summary="done", data=BAD))
    assert isinstance(verdict, Accepted)
    assert verdict.result.flags == ("overridden",)
    assert verdict.result.data == BAD


def test_the_fourth_misfit_ends_the_attempt_and_keeps_the_data_when_strict() -> None:
    contract = ResultContract(SCHEMA, "strict")
    for _ in range(3):
        assert isinstance(contract.accept(Submission(summary="done", data=BAD)), Rejected)
    verdict = contract.accept(Submission(summary="done", data=BAD))
    assert isinstance(verdict, Ended)
    assert verdict.cause.code is CauseCode.RESULT_REJECTED
    assert verdict.kept == Submission(summary="done", data=BAD)


def test_a_corrected_submit_is_accepted_after_two_rejections() -> None:
    contract = ResultContract(SCHEMA, "strict")
    contract.accept(Submission(summary="done", data=BAD))
    contract.accept(Submission(summary="done", data=BAD))
    assert isinstance(contract.accept(Submission(summary="done", data=GOOD)), Accepted)


def test_three_empty_submits_come_back_and_the_fourth_ends_the_attempt() -> None:
    contract = ResultContract()
    for n in (1, 2, 3):
        verdict = contract.accept(Submission())
        assert isinstance(verdict, Rejected)
        assert f"{n} of 3" in verdict.text
    verdict = contract.accept(Submission())
    assert isinstance(verdict, Ended)
    assert verdict.cause.code is CauseCode.EMPTY_SUBMITS


def test_six_failing_calls_end_the_attempt_whatever_was_wrong_with_each() -> None:
    contract = ResultContract(SCHEMA)
    for _ in range(2):
        assert isinstance(contract.accept(Submission()), Rejected)
        assert isinstance(contract.accept(Submission(summary="x", data=BAD)), Rejected)
    assert isinstance(contract.refuse("`artifacts` must map names to texts"), Rejected)
    verdict = contract.refuse("`artifacts` must map names to texts")
    assert isinstance(verdict, Ended)
    assert verdict.cause.code is CauseCode.SUBMIT_FAILURES
    assert verdict.kept == Submission(summary="x", data=BAD)


def test_json_text_is_taken_for_what_it_means_if_only_that_fits() -> None:
    verdict = ResultContract(SCHEMA).accept(Submission(summary="x", data='{"findings": [{"line": 3}]}'))
    assert isinstance(verdict, Accepted)
    assert verdict.result.data == GOOD


def test_json_text_stays_text_where_the_schema_wants_text() -> None:
    verdict = ResultContract({"type": "string"}).accept(Submission(summary="x", data="[1]"))
    assert isinstance(verdict, Accepted)
    assert verdict.result.data == "[1]"


def test_text_that_means_null_is_not_adopted() -> None:
    assert isinstance(ResultContract({"type": "null"}).accept(Submission(summary="x", data="null")), Rejected)


def test_error_and_data_exclude_each_other() -> None:
    verdict = ResultContract().accept(Submission(summary="x", data={}, error="blocked"))
    assert isinstance(verdict, Rejected)
    assert "exclude" in verdict.text


def test_an_error_needs_no_data_even_with_a_schema() -> None:
    verdict = ResultContract(SCHEMA, "strict").accept(Submission(error="no access to the database"))
    assert isinstance(verdict, Accepted)
    assert verdict.result.error == "no access to the database"
    assert verdict.result.summary == "no access to the database"


def test_data_without_a_summary_is_accepted_and_says_so() -> None:
    verdict = ResultContract(SCHEMA).accept(Submission(data=GOOD))
    assert isinstance(verdict, Accepted)
    assert verdict.result.summary.startswith("No summary was given")


@pytest.mark.parametrize(
    ("schema", "word"),
    [
        ({"type": "nothing"}, "type"),
        ({"$ref": "https://example.invalid/schema.json"}, "complete in itself"),
        ({"properties": {"a": {"$ref": "#/$defs/missing"}}}, "complete in itself"),
        ({"$ref": "#"}, "without end"),
        ({"properties": {"a": {"pattern": "("}}}, "pattern"),
    ],
)
def test_a_schema_that_cannot_be_used_is_refused_with_the_place(schema: dict[str, Any], word: str) -> None:
    with pytest.raises(InvalidPlan, match="step review") as caught:
        check_schema(schema, what="step review")
    assert word in str(caught.value)


def test_a_schema_may_refer_to_its_own_parts() -> None:
    check_schema({"$defs": {"n": {"type": "integer"}}, "properties": {"a": {"$ref": "#/$defs/n"}}})
    check_schema({"properties": {"children": {"items": {"$ref": "#"}}}})


def test_data_nested_without_end_is_sent_back_and_not_a_crash() -> None:
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    contract = ResultContract({"items": {"$ref": "#"}})
    verdict = contract.accept(Submission(summary="x", data=nested))
    assert isinstance(verdict, Rejected)
    while nested:  # unwound by hand: freeing it recursively is slow
        nested = nested[0]


def test_parts_that_were_handed_in_before_an_error_are_not_lost_with_it() -> None:
    contract = ResultContract(SCHEMA)
    part = Submission(summary=None, data=[{"line": 3}], labels=("findings",))
    assert isinstance(contract.accept(part), Kept)
    verdict = contract.accept(Submission(summary="half of it", error="the disk is gone"))
    assert isinstance(verdict, Accepted)
    assert verdict.result.error == "the disk is gone"
    assert verdict.result.data == GOOD
    assert verdict.result.flags == ("partial",)
