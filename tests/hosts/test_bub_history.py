"""Sessions in a real Bub that go on with an earlier conversation."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from crew_plugin.engine.provider_gate import Place, ProviderGate, Urgency
from crew_plugin.host import SessionSpec, ToolEnded, TurnEnded
from crew_plugin.models.records import TranscriptEntry
from crew_plugin.models.spec import LimitsSpec
from crew_plugin.session.history import NO_RESULT
from crew_plugin.testing.conversation import Reply, ToolUse
from tests.hosts.bub_engine import Host, Play, tool, turn

pytestmark = [pytest.mark.anyio, pytest.mark.bub, pytest.mark.both_engines]

Hosted = Callable[..., AbstractAsyncContextManager[Host]]
SpecOf = Callable[..., SessionSpec]


def entry(role: str, content: str, **data: Any) -> TranscriptEntry:
    return TranscriptEntry(seq=0, role=role, content=content, data=data)


def call(name: str, arguments: str = '{"path": "a"}') -> dict[str, str]:
    return {"id": name, "name": "look", "arguments": arguments}


PAST = (
    entry("user", "find it"),
    entry("user", "quickly"),
    entry("assistant", "I look", tool_calls=[call("c1"), call("c2", "no json")]),
    entry("user", "in b too"),
    entry("tool", "seen", call_id="c1", name="look"),
    entry("assistant", "it is in a"),
    entry("note", "The session ended"),
)


async def test_a_session_with_history_shows_the_model_exactly_that_conversation(
    hosted: Hosted, spec_of: SpecOf
) -> None:
    async with (
        hosted(lambda _: Reply(text="still in a")) as host,
        host.engine.open(spec_of(host, history=PAST)) as session,
    ):
        events = await turn(session, "sure?")
    assert events[-1] == TurnEnded(text="still in a")
    messages = host.model.requests[0].body["messages"]
    shown = [(one["role"], one["content"], one.get("tool_call_id")) for one in messages[1:]]
    assert shown == [
        ("user", "find it", None),
        ("user", "quickly", None),
        ("assistant", "I look", None),
        ("tool", "seen", "c1"),
        ("tool", NO_RESULT, "c2"),
        ("user", "in b too", None),
        ("assistant", "it is in a", None),
        ("user", "sure?", None),
    ]
    made = [
        (one["id"], one["function"]["name"], one["function"]["arguments"])
        for one in messages[3]["tool_calls"]
    ]
    assert made == [("c1", "look", '{"path": "a"}'), ("c2", "look", '{"__not_json__": "no json"}')]


async def test_calls_that_had_the_same_id_are_given_back_each_with_its_own_result(
    hosted: Hosted, spec_of: SpecOf
) -> None:
    past = (
        entry("user", "find it"),
        entry("assistant", "", tool_calls=[call("call_0"), call("call_0"), call("")]),
        entry("tool", "first", call_id="call_0", name="look"),
        entry("tool", "second", call_id="call_0", name="look"),
        entry("tool", "third", call_id="", name="look"),
        entry("assistant", "", tool_calls=[call("call_0")]),
        entry("tool", "fourth", call_id="call_0", name="look"),
    )
    async with (
        hosted(lambda _: Reply(text="still in a")) as host,
        host.engine.open(spec_of(host, history=past)) as session,
    ):
        await turn(session, "sure?")
    messages = host.model.requests[0].body["messages"]
    asked = [one["id"] for message in messages for one in message.get("tool_calls") or ()]
    answered = [(one["tool_call_id"], one["content"]) for one in messages if one["role"] == "tool"]
    assert len(set(asked)) == 4
    assert answered == list(zip(asked, ("first", "second", "third", "fourth"), strict=True))


async def test_a_session_is_opened_again_under_its_own_id(hosted: Hosted, spec_of: SpecOf) -> None:
    play = Play(
        Reply(calls=(ToolUse(name="look"),)),
        Reply(text="one"),
        Reply(calls=(ToolUse(name="look"),)),
        Reply(text="two"),
    )
    async with hosted(play) as host:
        spec = spec_of(host, tools=(tool("look", "seen"),))
        async with host.engine.open(spec) as session:
            first = await turn(session, "go")
        past = (entry("user", "go"), entry("assistant", "one"))
        again = spec_of(host, tools=(tool("look", "seen"),), session_id=spec.session_id, history=past)
        async with host.engine.open(again) as session:
            second = await turn(session, "once more")
    for seen in (first, second):
        assert [event.text for event in seen if isinstance(event, ToolEnded)] == ["seen"]
    roles = [one["role"] for one in host.model.requests[-1].body["messages"]]
    assert roles == ["system", "user", "assistant", "user", "assistant", "tool"]


async def test_a_session_that_goes_on_near_its_end_is_as_urgent_as_it_was(
    hosted: Hosted, spec_of: SpecOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: set[Urgency] = set()
    place = ProviderGate.place

    def noted(gate: ProviderGate, urgency: Urgency = Urgency.ORDINARY) -> Place:
        asked.add(urgency)
        return place(gate, urgency)

    monkeypatch.setattr(ProviderGate, "place", noted)
    past = (entry("user", "go"), *(entry("assistant", f"{n}") for n in range(3)))
    async with hosted(lambda _: Reply(text="ok")) as host:
        for history, urgency in (((), Urgency.ORDINARY), (past, Urgency.LATE)):
            asked.clear()
            spec = spec_of(host, history=history, limits=LimitsSpec(steps=6))
            async with host.engine.open(spec) as session:
                await turn(session, "go on")
            assert asked == {urgency}
