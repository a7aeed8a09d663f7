"""Results handed in by parts: names, lists that grow, and what the whole is in the end."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crew_plugin.models.causes import CauseCode
from crew_plugin.session.contract import Accepted, Ended, Kept, Rejected, ResultContract, Submission
from crew_plugin.session.schema import SchemaChecker

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


def flags_of(verdict: object) -> tuple[str, ...]:
    assert isinstance(verdict, Accepted), verdict
    return verdict.result.flags


def after(*parts: Submission, schema: Any = SCHEMA) -> ResultContract:
    """A contract to which these parts were handed in."""
    contract = ResultContract(schema)
    for one in parts:
        assert isinstance(contract.accept(one), Kept)
    return contract


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


# --- a last call that says something else than the parts ---


@pytest.mark.parametrize(
    ("last", "found", "flags"),
    [
        (["c", "d"], ["a", "b", "c", "d"], ("merged",)),
        (["b", "c"], ["a", "b", "c"], ("merged",)),
        ([], ["a", "b"], ("merged",)),
        (["a", "b"], ["a", "b"], ()),
        (["c", "b", "a"], ["c", "b", "a"], ()),
    ],
)
def test_lists_grow_with_the_last_call_too_but_for_one_that_has_it_all(
    last: list[str], found: list[str], flags: tuple[str, ...]
) -> None:
    contract = after(part("found", ["a"]), part("found", "b"))
    verdict = contract.accept(Submission(data={"found": last, "score": 3}))
    assert data_of(verdict) == {"found": found, "score": 3}
    assert flags_of(verdict) == flags


def test_a_last_call_that_comes_as_json_text_adds_to_lists_as_well() -> None:
    verdict = after(part("found", ["a"])).accept(Submission(data='{"found": ["b"], "score": 3}'))
    assert data_of(verdict) == {"found": ["a", "b"], "score": 3}
    assert flags_of(verdict) == ("merged",)


def test_a_whole_beside_a_plain_name_adds_to_lists_as_well() -> None:
    last = Submission(label="score", data={"found": ["b"], "score": 3})
    verdict = after(part("found", ["a"])).accept(last)
    assert data_of(verdict) == {"found": ["a", "b"], "score": 3}
    assert flags_of(verdict) == ("merged",)


@pytest.mark.parametrize(
    ("last", "flags"), [({"score": 4}, ("replaced",)), ({"score": 3}, ()), ({"score": 3.0}, ()), ({}, ())]
)
def test_a_value_that_takes_the_place_of_another_is_flagged(
    last: dict[str, Any], flags: tuple[str, ...]
) -> None:
    contract = after(part("found", ["a", "b"]), part("score", 3))
    verdict = contract.accept(Submission(summary="all", data=last))
    assert data_of(verdict) == {"found": ["a", "b"], "score": 3, **last}
    assert flags_of(verdict) == flags


def test_what_the_parts_themselves_replace_is_not_flagged() -> None:
    contract = after(part("found", ["a", "b"]), part("score", 1), part("score", 2))
    verdict = contract.accept(Submission(label="score", data=3))
    assert data_of(verdict) == {"found": ["a", "b"], "score": 3}
    assert flags_of(verdict) == ()


def test_equal_is_what_json_calls_so() -> None:
    contract = after(part("log", [1, {"a": 1, "b": [2]}, True, "1"]), part("n", 0), schema=None)
    verdict = contract.accept(Submission(data={"log": [1.0, {"b": [2.0], "a": 1}], "n": False}))
    assert str(data_of(verdict)["log"]) == str([True, "1", 1.0, {"b": [2.0], "a": 1}])
    assert flags_of(verdict) == ("unchecked", "merged", "replaced")


def test_a_result_that_is_a_list_grows_with_the_last_call_too() -> None:
    contract = after(part("x", [1, 2]), schema={"type": "array", "items": {"type": "integer"}})
    verdict = contract.accept(Submission(data=[2, 3]))
    assert data_of(verdict) == [1, 2, 3]
    assert flags_of(verdict) == ("merged",)


@pytest.mark.parametrize("last", ["the end", 3, ["b"]])
def test_a_last_call_of_another_kind_takes_the_place_of_the_parts_and_is_flagged(last: Any) -> None:
    verdict = after(part("log", ["a"]), schema=None).accept(Submission(data=last))
    assert data_of(verdict) == last
    assert flags_of(verdict) == ("unchecked", "replaced")


def test_a_last_call_with_which_the_parts_do_not_fit_counts_without_them_and_is_flagged() -> None:
    schema = {"properties": {"top": {"type": "array", "maxItems": 2}}, "additionalProperties": False}
    verdict = after(part("top", ["a", "b"]), schema=schema).accept(Submission(data={"top": ["c"]}))
    assert data_of(verdict) == {"top": ["c"]}
    assert flags_of(verdict) == ("replaced",)


def test_a_result_that_never_fitted_says_as_well_that_it_was_joined() -> None:
    contract = after(part("found", ["a"]))
    for _ in range(3):
        assert isinstance(contract.accept(Submission(data={"found": ["b"]})), Rejected)
    verdict = contract.accept(Submission(data={"found": ["b"]}))
    assert data_of(verdict) == {"found": ["a", "b"]}
    assert flags_of(verdict) == ("overridden", "merged")


def test_items_nested_too_deeply_to_be_compared_are_kept() -> None:
    deep: Any = []
    for _ in range(5_000):
        deep = [deep]
    verdict = after(part("log", [deep, "a"]), schema=None).accept(
        Submission(summary="all", data={"log": ["a"]})
    )
    assert data_of(verdict)["log"][0] is deep
    assert flags_of(verdict) == ("unchecked", "merged")


def test_thousands_of_items_are_told_apart_without_comparing_each_with_each() -> None:
    class Counted(str):
        __slots__ = ()
        compared = 0

        def __eq__(self, other: object) -> bool:
            Counted.compared += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    kept, last = ([Counted(f"{name}{number}") for number in range(5_000)] for name in ("kept", "last"))
    verdict = after(part("log", kept), schema=None).accept(Submission(data={"log": last}))
    assert len(data_of(verdict)["log"]) == 10_000
    assert Counted.compared < 100_000


items = st.lists(st.one_of(st.none(), st.booleans(), st.integers(0, 2), st.floats(0, 2), st.text(max_size=1)))


def told_apart(values: list[Any]) -> set[tuple[bool, Any]]:
    return {(isinstance(value, bool), value) for value in values}


@given(st.lists(items, min_size=1, max_size=3), items)
def test_nothing_that_was_handed_in_is_lost(parts: list[list[Any]], last: list[Any]) -> None:
    contract = after(*(part("log", one) for one in parts), schema=None)
    verdict = contract.accept(Submission(summary="all", data={"log": last}))
    told = data_of(verdict)["log"]
    kept = [item for one in parts for item in one]
    assert told_apart(told) == told_apart(kept) | told_apart(last)
    assert told[len(told) - len(last) :] == last
    assert ("merged" in flags_of(verdict)) is (len(told) > len(last))


@pytest.mark.parametrize(
    "kind",
    [
        {"anyOf": [{"type": "array"}, {"type": "null"}]},
        {"oneOf": [{"type": "null"}, {"$ref": "#/$defs/names"}]},
        {"type": ["array", "null"]},
    ],
)
def test_a_list_that_may_be_missing_is_a_list(kind: dict[str, Any]) -> None:
    schema = {"properties": {"names": kind}, "$defs": {"names": {"type": "array"}}}
    assert SchemaChecker(schema).is_list("names")


def test_what_may_be_something_else_than_a_list_is_none() -> None:
    either = {"anyOf": [{"type": "array"}, {"type": "string"}]}
    assert not SchemaChecker({"properties": {"names": either}}).is_list("names")


@pytest.mark.parametrize("mode", ["strict", "permissive"])
def test_a_part_that_is_to_be_the_end_and_does_not_fit_is_kept_once(mode: Any) -> None:
    contract = ResultContract(SCHEMA, mode)
    part = Submission(labels=("found",), data=["a"])
    *rejected, verdict = (contract.accept(part, last=True) for _ in range(4))
    assert all(isinstance(each, Rejected) for each in rejected)
    if mode == "strict":
        assert isinstance(verdict, Ended)
        assert verdict.kept == part
    else:
        assert isinstance(verdict, Accepted)
        assert verdict.result.data == {"found": ["a"]}


def test_a_part_that_was_sent_back_is_not_there_when_the_whole_comes() -> None:
    contract = ResultContract(SCHEMA)
    assert isinstance(contract.accept(Submission(labels=("found",), data=["a", "b"]), last=True), Rejected)
    whole = Submission(labels=("found", "score"), data={"found": ["a", "b"], "score": 1})
    verdict = contract.accept(whole, last=True)
    assert isinstance(verdict, Accepted)
    assert (verdict.result.data, verdict.result.flags) == ({"found": ["a", "b"], "score": 1}, ())
