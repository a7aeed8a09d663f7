"""An earlier conversation in the form in which a model can be given it again."""

from typing import Any

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


def test_an_empty_answer_and_what_was_not_said_is_left_out() -> None:
    assert (
        said_before([entry("system", "You."), entry("assistant", " "), entry("tool", "?", call_id="x")]) == ()
    )


roles = st.sampled_from(["system", "user", "assistant", "tool", "note"])
names = st.sampled_from(["a", "b", "c"])
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
        st.lists(names, unique=True, max_size=3),
    ),
    max_size=12,
)


@given(entries)
def test_no_user_text_is_lost_and_no_call_is_without_its_result(transcript: list[TranscriptEntry]) -> None:
    said = said_before(transcript)
    users = [one.content for one in transcript if one.role == "user" and one.content.strip()]
    assert [one.text for one in said if one.role == "user"] == users
    made = [c["id"] for one in transcript for c in one.data.get("tool_calls", ())]
    assert [c.id for one in said for c in one.calls] == made
