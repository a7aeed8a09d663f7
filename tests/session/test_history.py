"""An earlier conversation in the form in which a model can be given it again."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crew_plugin.models.records import TranscriptEntry
from crew_plugin.session.history import NO_RESULT, PastCall, Said, said_before


def entry(role: str, content: str, **data: Any) -> TranscriptEntry:
    return TranscriptEntry(seq=0, role=role, content=content, data=data)


def call(name: str) -> dict[str, str]:
    return {"id": name, "name": "look", "arguments": "{}"}


def past(name: str, result: str) -> PastCall:
    return PastCall(id=name, name="look", arguments="{}", result=result)


def test_a_conversation_comes_back_as_it_was() -> None:
    said = said_before(
        [
            entry("user", "go"),
            entry("assistant", "I look", tool_calls=[call("a"), call("b")]),
            entry("tool", "second", call_id="b", name="look"),
            entry("tool", "first", call_id="a", name="look"),
            entry("assistant", "done"),
        ]
    )
    assert said == (
        Said(role="user", text="go"),
        Said(role="assistant", text="I look", calls=(past("a", "first"), past("b", "second"))),
        Said(role="assistant", text="done"),
    )


def test_a_steer_between_a_call_and_its_result_comes_after_the_result() -> None:
    said = said_before(
        [
            entry("assistant", "", tool_calls=[call("a")]),
            entry("user", "hurry", steer=True),
            entry("tool", "seen", call_id="a", name="look"),
        ]
    )
    assert said == (
        Said(role="assistant", text="", calls=(past("a", "seen"),)),
        Said(role="user", text="hurry"),
    )


def test_a_call_that_was_cut_off_gets_a_result_that_says_so() -> None:
    said = said_before([entry("assistant", "", tool_calls=[call("a")]), entry("note", "The session ended")])
    assert said == (Said(role="assistant", text="", calls=(past("a", NO_RESULT),)),)


@pytest.mark.parametrize(("given", "ids"), [("c", ("c", "c_1")), ("", ("call_1", "call_2"))])
def test_calls_with_the_same_id_or_none_have_each_its_own_result(given: str, ids: tuple[str, str]) -> None:
    said = said_before(
        [
            entry("assistant", "", tool_calls=[call(given), call(given)]),
            entry("tool", "first", call_id=given, name="look"),
            entry("tool", "second", call_id=given, name="look"),
        ]
    )
    (answer,) = said
    assert [(one.id, one.result) for one in answer.calls] == [(ids[0], "first"), (ids[1], "second")]


def test_of_calls_with_the_same_id_each_has_the_result_of_its_own_tool() -> None:
    calls = [{"id": "c", "name": name, "arguments": "{}"} for name in ("slow", "quick", "never")]
    said = said_before(
        [
            entry("assistant", "", tool_calls=calls),
            entry("tool", "of quick", call_id="c", name="quick"),
            entry("tool", "of slow", call_id="c", name="slow"),
        ]
    )
    assert [one.result for one in said[0].calls] == ["of slow", "of quick", NO_RESULT]


def test_an_id_that_comes_again_in_a_later_answer_becomes_another_and_none_that_is_taken() -> None:
    def step(*ids: str) -> list[TranscriptEntry]:
        results = [entry("tool", f"of {one}", call_id=one, name="look") for one in ids]
        return [entry("assistant", "", tool_calls=[call(one) for one in ids]), *results]

    transcript = [*step("call_0", "call_1"), *step("call_0"), *step("call_0_1"), *step("")]
    said = said_before(transcript)
    assert [(one.id, one.result) for each in said for one in each.calls] == [
        ("call_0", "of call_0"),
        ("call_1", "of call_1"),
        ("call_0_2", "of call_0"),
        ("call_0_1", "of call_0_1"),
        ("call_2", "of "),
    ]
    assert said_before(transcript) == said


def test_an_empty_answer_and_what_was_not_said_is_left_out() -> None:
    assert (
        said_before([entry("system", "You."), entry("assistant", " "), entry("tool", "?", call_id="x")]) == ()
    )


roles = st.sampled_from(["system", "user", "assistant", "tool", "note"])
names = st.sampled_from(["a", "b", "a_1", ""])
entries = st.lists(
    st.builds(
        lambda role, text, ids: entry(
            role,
            text,
            **({"tool_calls": [call(name) for name in ids]} if role == "assistant" and ids else {}),
            **({"call_id": ids[0], "name": "look"} if role == "tool" and ids else {}),
        ),
        roles,
        st.text(max_size=3),
        st.lists(names, max_size=3),
    ),
    max_size=12,
)


@given(entries)
def test_no_user_text_is_lost_and_no_call_is_without_its_result(
    transcript: list[TranscriptEntry],
) -> None:
    said = said_before(transcript)
    users = [one.content for one in transcript if one.role == "user" and one.content.strip()]
    assert [one.text for one in said if one.role == "user"] == users
    made = [c["id"] for one in transcript for c in one.data.get("tool_calls", ())]
    ids = [c.id for one in said for c in one.calls]
    assert all(ids)
    assert len(ids) == len(set(ids)) == len(made)
    assert {one for one in made if one} <= set(ids)
