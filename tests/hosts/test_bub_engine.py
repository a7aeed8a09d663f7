"""Sessions of the crew as private agents in a real Bub, against a scripted model."""

import asyncio
import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import anyio
import pytest
from bub.hooks import hookimpl
from bub.tools import tool_call_reporter

from crew_plugin.host import (
    ModelAnswered,
    SessionSpec,
    SteersTaken,
    ToolEnded,
    ToolStarted,
    TurnEnded,
)
from crew_plugin.models.causes import Cause, CauseCode
from crew_plugin.models.records import Usage
from crew_plugin.testing.conversation import Conversation, Fault, Reply, ToolUse
from tests.hosts.bub_engine import Host, Play, rest, tool, turn, until

pytestmark = [pytest.mark.anyio, pytest.mark.bub, pytest.mark.both_engines]

Hosted = Callable[..., AbstractAsyncContextManager[Host]]
SpecOf = Callable[..., SessionSpec]
CANCELLED = Cause(code=CauseCode.CALLER_CANCELLED, message="enough")


async def test_a_session_answers_and_tells_what_it_used(hosted: Hosted, spec_of: SpecOf) -> None:
    reply = Reply(text="hello", usage=Usage(input=12, output=3, cached=4))
    async with hosted(lambda _: reply) as host, host.engine.open(spec_of(host)) as session:
        events = await turn(session, "hi")
    assert events == [
        SteersTaken(count=1),
        ModelAnswered(
            text="hello", tool_calls=(), usage=Usage(input=12, output=3, cached=4, calls=1), model="scripted"
        ),
        TurnEnded(text="hello"),
    ]


async def test_a_session_has_its_own_prompt_and_not_the_hosts(hosted: Hosted, spec_of: SpecOf) -> None:
    async with hosted(lambda _: Reply(text="ok")) as host:
        async with host.engine.open(spec_of(host)) as session:
            await turn(session, "hi")
        async with host.engine.open(spec_of(host, append_prompt=True)) as session:
            await turn(session, "hi")
    own, appended = (request.conversation.system for request in host.model.requests)
    assert own == "You explore."
    assert appended.endswith("You explore.")
    assert len(appended) > len("You explore.") + 100


async def test_two_sessions_at_once_have_their_own_tools_and_folders(
    hosted: Hosted, spec_of: SpecOf, tmp_path: Path
) -> None:
    def script(conversation: Conversation) -> Reply:
        results = conversation.tool_results
        if results:
            return Reply(text=results[-1].text)
        name = "bash" if conversation.offered("bash") else "look"
        return Reply(calls=(ToolUse(name=name, arguments={"command": "pwd"} if name == "bash" else {}),))

    other = tmp_path / "other"
    other.mkdir()
    async with hosted(script) as host:
        with_shell = spec_of(host, cwd=str(other), host_tools=("bash",))
        with_look = spec_of(host, tools=(tool("look", "seen"),))
        async with host.engine.open(with_shell) as first, host.engine.open(with_look) as second:
            events = await asyncio.gather(turn(first, "go"), turn(second, "go"))
    assert [seen[-1] for seen in events] == [TurnEnded(text=str(other)), TurnEnded(text="seen")]
    offered = {frozenset(request.conversation.tools) for request in host.model.requests}
    assert offered == {frozenset({"bash", "bash_output", "bash_kill"}), frozenset({"look"})}


async def test_a_tool_call_is_told_before_and_after_it_is_made(hosted: Hosted, spec_of: SpecOf) -> None:
    play = Play(
        Reply(text="I look", calls=(ToolUse(name="look", arguments={"path": "a.py"}),)), Reply(text="ok")
    )
    async with (
        hosted(play) as host,
        host.engine.open(spec_of(host, tools=(tool("look", "seen"),))) as session,
    ):
        events = await turn(session, "go")
    answered, started, ended = events[1:4]
    assert isinstance(answered, ModelAnswered)
    assert json.loads(answered.tool_calls[0].arguments) == {"path": "a.py"}
    assert started == ToolStarted(call_id=answered.tool_calls[0].id, name="look", target="a.py")
    assert isinstance(ended, ToolEnded)
    assert (ended.call_id, ended.text, ended.ok) == (answered.tool_calls[0].id, "seen", True)


async def test_a_prompt_goes_on_where_the_last_turn_ended(hosted: Hosted, spec_of: SpecOf) -> None:
    async with (
        hosted(lambda c: Reply(text=f"heard {len(c.user_texts)}")) as host,
        host.engine.open(spec_of(host)) as session,
    ):
        for number in (1, 2, 3):
            events = await turn(session, f"message {number}")
            assert events[-1] == TurnEnded(text=f"heard {number}")
    roles = [message["role"] for message in host.model.requests[-1].body["messages"]]
    assert roles == ["system", "user", "assistant", "user", "assistant", "user"]


async def test_a_steer_is_seen_by_the_next_model_call(hosted: Hosted, spec_of: SpecOf) -> None:
    play = Play(Reply(calls=(ToolUse(name="look"),), held=True), Reply(text="ok"))
    async with hosted(play) as host, host.engine.open(spec_of(host, tools=(tool("look"),))) as session:
        await session.prompt("go")
        await host.model.arrived(1)
        await session.steer("look at b.py too")
        host.model.release()
        seen, _ = await until(session, TurnEnded)
    assert host.model.requests[1].conversation.user_texts == ("go", "look at b.py too")
    assert [event for event in seen if isinstance(event, SteersTaken)] == [SteersTaken(count=1)] * 2


@pytest.mark.live_only  # a worker hears of it a moment later, which may be after its turn
async def test_a_steer_that_comes_while_the_last_answer_is_made_is_not_lost(
    hosted: Hosted, spec_of: SpecOf
) -> None:
    play = Play(Reply(text="done", held=True), Reply(text="really done"))
    async with hosted(play) as host, host.engine.open(spec_of(host)) as session:
        await session.prompt("go")
        await host.model.arrived(1)
        await session.steer("one more thing")
        host.model.release()
        _, ended = await until(session, TurnEnded)
    assert ended.text == "really done"


async def test_a_text_that_looks_like_a_command_is_taken_literally(hosted: Hosted, spec_of: SpecOf) -> None:
    async with hosted(lambda _: Reply(text="ok")) as host, host.engine.open(spec_of(host)) as session:
        await turn(session, ",bash rm -rf {goal} 🦀 ---")
        await turn(session, ",quit")
    assert host.model.requests[-1].conversation.user_texts == (",bash rm -rf {goal} 🦀 ---", ",quit")


async def test_restricting_narrows_what_is_offered_and_forces_the_call(
    hosted: Hosted, spec_of: SpecOf
) -> None:
    tools = (tool("look"), tool("submit_result"))
    async with (
        hosted(lambda _: Reply(text="ok")) as host,
        host.engine.open(spec_of(host, tools=tools)) as session,
    ):
        await turn(session, "go")
        session.restrict(frozenset({"submit_result"}), force="submit_result")
        await turn(session, "submit now")
    free, narrowed = (request.conversation for request in host.model.requests)
    assert (set(free.tools), free.forced) == ({"look", "submit_result"}, None)
    assert (set(narrowed.tools), narrowed.forced) == ({"submit_result"}, "submit_result")


async def test_a_provider_that_refuses_a_forced_call_is_asked_without(
    hosted: Hosted, spec_of: SpecOf
) -> None:
    script = lambda c: Reply(fault=Fault.BAD_REQUEST) if c.forced else Reply(text="ok")  # noqa: E731
    async with (
        hosted(script) as host,
        host.engine.open(spec_of(host, tools=(tool("submit_result"),))) as session,
    ):
        session.restrict(frozenset({"submit_result"}), force="submit_result")
        events = await turn(session, "submit now")
    assert events[-1] == TurnEnded(text="ok")


async def test_a_tool_that_ends_the_session_lets_no_model_call_follow(
    hosted: Hosted, spec_of: SpecOf
) -> None:
    submit = tool("submit_result", "accepted", ends=True)
    async with (
        hosted(lambda _: Reply(calls=(ToolUse(name="submit_result"),))) as host,
        host.engine.open(spec_of(host, tools=(submit,))) as session,
    ):
        await session.prompt("go")
        _, ended = await until(session, ToolEnded)
        assert ended.ends_session
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await host.model.arrived(2)


async def test_an_unknown_tool_is_answered_and_told(hosted: Hosted, spec_of: SpecOf) -> None:
    play = Play(Reply(calls=(ToolUse(name="loook"),)), Reply(text="ok"))
    async with hosted(play) as host, host.engine.open(spec_of(host, tools=(tool("look"),))) as session:
        events = await turn(session, "go")
    (ended,) = (event for event in events if isinstance(event, ToolEnded))
    assert not ended.ok
    assert "look" in ended.text
    assert host.model.requests[1].conversation.tool_results[0].text == ended.text


async def test_a_failing_tool_is_a_result_that_the_model_sees(hosted: Hosted, spec_of: SpecOf) -> None:
    def fail(_: object) -> str:
        raise KeyError("no such thing")

    play = Play(Reply(calls=(ToolUse(name="look"),)), Reply(text="ok"))
    async with hosted(play) as host, host.engine.open(spec_of(host, tools=(tool("look", fail),))) as session:
        events = await turn(session, "go")
    assert events[-1] == TurnEnded(text="ok")
    assert "no such thing" in host.model.requests[1].conversation.tool_results[0].text


async def test_a_tool_that_was_cancelled_inside_does_not_end_the_session(
    hosted: Hosted, spec_of: SpecOf
) -> None:
    def cancelled(_: object) -> str:
        raise asyncio.CancelledError

    play = Play(Reply(calls=(ToolUse(name="look"),)), Reply(text="ok"))
    async with (
        hosted(play) as host,
        host.engine.open(spec_of(host, tools=(tool("look", cancelled),))) as session,
    ):
        events = await turn(session, "go")
    assert events[-1] == TurnEnded(text="ok")


async def test_half_a_tool_call_is_answered_with_what_is_wrong(hosted: Hosted, spec_of: SpecOf) -> None:
    use = ToolUse(name="look", arguments={"text": "a rather long argument"})
    play = Play(Reply(calls=(use,), fault=Fault.HALF_TOOL_CALL), Reply(text="ok"))
    async with hosted(play) as host, host.engine.open(spec_of(host, tools=(tool("look"),))) as session:
        events = await turn(session, "go")
    assert events[-1] == TurnEnded(text="ok")
    assert "not a JSON object" in host.model.requests[1].conversation.tool_results[0].text


class Faulty:
    """Another plugin, whose hooks fail."""

    @hookimpl
    def system_prompt(self, prompt: object, state: dict[str, Any]) -> str:
        raise ZeroDivisionError("system_prompt")

    @hookimpl
    async def load_state(self, message: object, session_id: str) -> dict[str, Any]:
        raise ZeroDivisionError("load_state")

    @hookimpl
    def provide_environment(self, session_id: str, workspace: Path) -> None:
        raise ZeroDivisionError("provide_environment")


class Polite:
    """Another plugin: adds a block and looks at the state."""

    def __init__(self, _: object) -> None:
        self.states: list[dict[str, Any]] = []

    @hookimpl
    def system_prompt(self, prompt: object, state: dict[str, Any]) -> str:
        self.states.append(state)
        return f"The block of {state['crew']['role']}."


@pytest.mark.live_only
async def test_the_faults_of_another_plugin_do_not_end_a_session(
    hosted: Hosted, spec_of: SpecOf, log: list[str]
) -> None:
    async with (
        hosted(lambda _: Reply(text="ok"), Faulty()) as host,
        host.engine.open(spec_of(host)) as session,
    ):
        events = await turn(session, "hi")
    assert events[-1] == TurnEnded(text="ok")
    assert {
        hook for hook in ("system_prompt", "load_state", "provide_environment") if hook in "".join(log)
    } == {
        "system_prompt",
        "load_state",
        "provide_environment",
    }


@pytest.mark.live_only
async def test_other_plugins_add_their_block_and_see_who_the_session_is(
    hosted: Hosted, spec_of: SpecOf
) -> None:
    async with (
        hosted(lambda _: Reply(text="ok"), Polite) as host,
        host.engine.open(spec_of(host, identity={"role": "explorer", "run": "run_1"})) as session,
    ):
        await turn(session, "hi")
    assert host.model.requests[0].conversation.system == "You explore.\n\nThe block of explorer."


async def test_sessions_work_without_a_running_framework(hosted: Hosted, spec_of: SpecOf) -> None:
    async with (
        hosted(lambda c: Reply(text=c.last_user), running=False) as host,
        host.engine.open(spec_of(host)) as session,
    ):
        await turn(session, "one")
        assert (await turn(session, "two"))[-1] == TurnEnded(text="two")


async def test_aborting_a_hanging_model_call_is_quiet_within_a_second(
    hosted: Hosted, spec_of: SpecOf
) -> None:
    async with (
        hosted(lambda _: Reply(fault=Fault.STALL)) as host,
        host.engine.open(spec_of(host)) as session,
    ):
        await session.prompt("go")
        await host.model.arrived(1)
        async with asyncio.timeout(1):
            await session.abort(CANCELLED)
            assert await rest(session) == [SteersTaken(count=1)]
    assert host.model.in_flight == 0


async def test_leaving_an_unprompted_session_ends_it(hosted: Hosted, spec_of: SpecOf) -> None:
    async with hosted(lambda _: Reply(text="ok")) as host, host.engine.open(spec_of(host)):
        pass
    assert host.model.requests == []


@pytest.mark.live_only
async def test_twenty_sessions_share_one_client(hosted: Hosted, spec_of: SpecOf) -> None:
    async with hosted(lambda _: Reply(text="ok")) as host:

        async def one() -> None:
            async with host.engine.open(spec_of(host)) as session:
                for _ in range(3):
                    await turn(session, "hi")

        await asyncio.gather(*(one() for _ in range(20)))
        assert len(host.home._pool) == 1
    assert len(host.model.requests) == 60
    assert host.model.connections <= 20


@pytest.mark.live_only
async def test_the_client_is_built_before_a_session_asks_for_it(hosted: Hosted) -> None:
    async with hosted(lambda _: Reply(text="never")) as host:
        (warming,) = (task for task in asyncio.all_tasks() if task.get_name() == "crew clients")
        async with asyncio.timeout(10):
            await warming
        assert len(host.home._pool) == 1
    assert host.model.requests == []


async def test_the_engine_says_which_tools_it_has(hosted: Hosted) -> None:
    async with hosted(lambda _: Reply(text="ok")) as host:
        available = await host.engine.available_tools(
            ("bash", "edit", "fly", "mcp__x__*", "write"), str(host.folder)
        )
    assert available == ("bash", "edit", "write")


async def test_a_cancelled_scope_of_anyio_ends_the_session_too(hosted: Hosted, spec_of: SpecOf) -> None:
    async with hosted(lambda _: Reply(fault=Fault.STALL)) as host:
        with anyio.CancelScope() as scope:
            async with host.engine.open(spec_of(host)) as session:
                await session.prompt("go")
                await host.model.arrived(1)
                scope.cancel()
                await rest(session)
        assert scope.cancelled_caught
    assert host.model.in_flight == 0


async def test_nothing_of_a_session_shows_in_the_chat_of_its_parent(hosted: Hosted, spec_of: SpecOf) -> None:
    shown: list[str] = []

    class Reporter:
        def start(self, name: str, args: object, kwargs: object) -> None:
            shown.append(name)

        def success(self, name: str, result: object, elapsed_ms: float) -> None:
            shown.append(name)

        def error(self, name: str, error: BaseException, elapsed_ms: float) -> None:
            shown.append(name)

    play = Play(Reply(calls=(ToolUse(name="bash", arguments={"command": "true"}),)), Reply(text="ok"))
    with tool_call_reporter(Reporter()):
        async with (
            hosted(play) as host,
            host.engine.open(spec_of(host, host_tools=("bash",))) as session,
        ):
            await turn(session, "go")
    assert len(host.model.requests) == 2
    assert shown == []
