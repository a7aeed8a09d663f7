"""Results handed in by parts: names, lists that grow, and what the whole is in the end."""

from typing import Any

import pytest

from crew_plugin.models.causes import CauseCode
from crew_plugin.session.contract import Accepted, Ended, Kept, Rejected, ResultContract, Submission

SCHEMA = {
    "type": "object",
    "required": ["found", "score"],
    "additionalProperties": False,
    "properties": {
        "found": {"type": "array", "minItems": 2, "items": {"type": "string"}},
        "score": {"type": "integer"},
        "note": {"$ref": "#/$defs/note"},
    },
    "$defs": {"note": {"type": "object", "required": ["by"]}},
}


def part(label: str, data: Any) -> Submission:
    return Submission(labels=(label,), data=data)


def data_of(verdict: object) -> Any:
    assert isinstance(verdict, Accepted), verdict
    return verdict.result.data


def test_lists_grow_other_values_are_replaced_and_the_whole_is_checked_at_the_end() -> None:
    contract = ResultContract(SCHEMA)
    for one in (part("found", ["a"]), part("score", 1), part("found", "b"), part("score", 2)):
        assert isinstance(contract.accept(one), Kept)
    verdict = contract.accept(Submission(summary="all"))
    assert data_of(verdict) == {"found": ["a", "b"], "score": 2}


def test_a_whole_that_lacks_a_part_is_sent_back_with_the_names_of_those_there_are() -> None:
    contract = ResultContract(SCHEMA)
    contract.accept(part("score", 1))
    verdict = contract.accept(Submission(summary="all"))
    assert isinstance(verdict, Rejected)
    assert "'found' is a required property" in verdict.text
    assert "(score)" in verdict.text
    assert data_of(contract.accept(Submission(data={"found": ["a", "b"]}))) == {
        "score": 1,
        "found": ["a", "b"],
    }


@pytest.mark.parametrize(
    ("one", "path"),
    [
        (part("colour", "red"), "type"),
        (part("score", "many"), "data.score"),
        (part("found", [1]), "data.found[0]"),
        (part("note", {}), "data.note"),
        (Submission(labels=("score", "note"), data={"score": 1}), "data"),
        (Submission(labels=("score",), error="no"), "type"),
    ],
)
def test_a_part_that_cannot_belong_to_the_whole_is_sent_back(one: Submission, path: str) -> None:
    verdict = ResultContract(SCHEMA).accept(one)
    assert isinstance(verdict, Rejected)
    assert verdict.path == path


def test_a_schema_that_is_open_takes_any_name() -> None:
    contract = ResultContract({"type": "object", "properties": {"a": {"type": "integer"}}})
    assert isinstance(contract.accept(part("b", "x")), Kept)
    assert data_of(contract.accept(Submission(labels=(), data={"a": 1}))) == {"b": "x", "a": 1}


def test_a_result_of_one_value_has_no_parts() -> None:
    verdict = ResultContract({"type": "integer"}).accept(part("n", 1))
    assert isinstance(verdict, Rejected)
    assert "has no parts" in verdict.text


def test_elements_of_a_list_are_handed_in_under_any_name() -> None:
    contract = ResultContract({"type": "array", "items": {"type": "integer"}})
    assert isinstance(contract.accept(part("x", "7")), Kept)
    assert isinstance(contract.accept(part("x", ["no"])), Rejected)
    contract.accept(part("y", [8, 9]))
    assert data_of(contract.accept(Submission(summary="all"))) == [7, 8, 9]


def test_json_text_is_read_where_only_its_meaning_fits_and_never_the_reverse() -> None:
    contract = ResultContract(SCHEMA)
    contract.accept(part("score", "5"))
    contract.accept(part("found", '["a"]'))
    contract.accept(part("found", "b"))
    assert data_of(contract.accept(Submission(summary="s"))) == {"score": 5, "found": ['["a"]', "b"]}
    text = ResultContract({"type": "string"})
    assert data_of(text.accept(Submission(data="5"))) == "5"
    assert isinstance(ResultContract({"type": "string"}).accept(Submission(data=5)), Rejected)


def test_prose_where_json_is_wanted_is_no_data() -> None:
    verdict = ResultContract(SCHEMA).accept(Submission(data="I found two things"))
    assert isinstance(verdict, Rejected)
    assert verdict.path == "data"


def test_a_plain_name_ends_with_the_last_part() -> None:
    contract = ResultContract(SCHEMA)
    contract.accept(part("found", ["a", "b"]))
    assert data_of(contract.accept(Submission(label="score", data=3))) == {"found": ["a", "b"], "score": 3}


def test_a_plain_name_beside_a_whole_changes_nothing() -> None:
    whole = {"found": ["a", "b"], "score": 3}
    assert data_of(ResultContract(SCHEMA).accept(Submission(label="result", data=whole))) == whole


def test_a_plain_name_without_anything_takes_the_text_of_the_turn() -> None:
    verdict = ResultContract().accept(Submission(label="report"), prose="It is in auth.py:7.")
    assert isinstance(verdict, Accepted)
    assert verdict.result.summary == "It is in auth.py:7."


def test_a_plain_name_without_anything_and_without_a_text_is_empty() -> None:
    contract = ResultContract()
    for _ in range(3):
        assert isinstance(contract.accept(Submission(label="report"), prose=" "), Rejected)
    ended = contract.accept(Submission(label="report"))
    assert isinstance(ended, Ended)
    assert ended.cause.code is CauseCode.EMPTY_SUBMITS


def test_text_alone_is_no_result_under_a_schema() -> None:
    verdict = ResultContract(SCHEMA).accept(Submission(label="report"), prose="It is in auth.py:7.")
    assert isinstance(verdict, Rejected)
    assert "text alone" in verdict.text


def test_a_kept_part_takes_back_the_failures_before_it() -> None:
    contract = ResultContract(SCHEMA)
    for _ in range(4):
        for _ in range(2):
            assert isinstance(contract.accept(part("score", "many")), Rejected)
        assert isinstance(contract.accept(part("score", 1)), Kept)


def test_when_nothing_else_is_left_a_part_is_the_end() -> None:
    contract = ResultContract(SCHEMA)
    contract.accept(part("found", ["a", "b"]))
    assert data_of(contract.accept(part("score", 1), last=True)) == {"found": ["a", "b"], "score": 1}


def test_after_its_end_a_contract_takes_nothing() -> None:
    contract = ResultContract()
    for _ in range(4):
        ended = contract.accept(Submission())
    assert isinstance(ended, Ended)
    assert contract.accept(Submission(summary="late")) is ended
    assert contract.refuse("late") is ended


def test_without_a_schema_any_name_is_kept() -> None:
    contract = ResultContract()
    for one in (part("log", ["a"]), part("log", ["b"]), part("n", 1), part("n", 2)):
        contract.accept(one)
    verdict = contract.accept(Submission(summary="all"))
    assert data_of(verdict) == {"log": ["a", "b"], "n": 2}
