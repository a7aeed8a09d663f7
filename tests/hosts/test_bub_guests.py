"""Other plugins of Bub inside sessions of ours: whatever goes wrong in one is told, and never their end."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from bub.builtin.context import default_tape_context
from bub.builtin.environment import LocalEnvironment
from bub.hooks import hookimpl
from bub.hooks.interception import LlmCallRequest, ToolCall, ToolCallDecision, ToolCallResult
from bub.tape import TapeContext

from crew_plugin.engine.ports import Outcome
from crew_plugin.host import PluginActed, Session, SessionEvent, SessionSpec, ToolEnded, TurnEnded
from crew_plugin.models.causes import Cause, CauseCode
from crew_plugin.models.mail import MessageKind
from crew_plugin.models.states import AttemptState
from crew_plugin.session.runner import SessionRunner
from crew_plugin.testing.conversation import Conversation, Fault, Reply, ToolUse
from tests.hosts.bub_engine import Host, Play, tool, turn
from tests.session.conftest import limits, make_stage

__all__ = ["limits", "make_stage"]

pytestmark = [pytest.mark.anyio, pytest.mark.bub]

Hosted = Callable[..., AbstractAsyncContextManager[Host]]
SpecOf = Callable[..., SessionSpec]
LOOK = Reply(calls=(ToolUse(name="look", arguments={"text": "here"}),))
SYNC = ("system_prompt", "build_tape_context")
ASYNC = (
    "load_state",
    "provide_environment",
    "continue_prompt",
    "before_llm_call",
    "after_llm_call",
    "before_tool_call",
    "after_tool_call",
    "save_state",
)
SEEN_LIVE = {*SYNC, *ASYNC} - {"save_state"}
"""What a session tells among its events: its state is saved when those are over."""


class Panic(BaseException):
    """What extension modules raise where their own code fails: no `Exception`."""


RAISED = [ZeroDivisionError("bad"), SystemExit(3), asyncio.CancelledError(), Panic("bad")]


def misbehaving(names: tuple[str, ...], act: Callable[[str], Any]) -> object:
    """A plugin that implements these hooks, each by this act."""

    def make(name: str) -> Callable[[], Any]:
        if name in SYNC:
            return lambda: act(name)

        async def hook() -> Any:
            return await act(name) if asyncio.iscoroutinefunction(act) else act(name)

        return hook

    return type("Bad", (), {name: staticmethod(hookimpl(make(name))) for name in names})()


def acted(events: list[SessionEvent]) -> list[PluginActed]:
    return [event for event in events if isinstance(event, PluginActed)]


async def look_once(session: Session) -> list[SessionEvent]:
    async with asyncio.timeout(10):
        return await turn(session, "go")


@pytest.mark.parametrize("error", RAISED)
async def test_a_plugin_whose_every_hook_raises_ends_no_session_and_is_told_of(
    hosted: Hosted, spec_of: SpecOf, log: list[str], error: BaseException
) -> None:
    def raises(name: str) -> None:
        raise error

    bad = misbehaving((*SYNC, *ASYNC), raises)
    async with (
        hosted(Play(LOOK, Reply(text="ok")), bad) as host,
        host.engine.open(spec_of(host, tools=(tool("look"),))) as session,
    ):
        events = await look_once(session)
    assert events[-1] == TurnEnded(text="ok")
    assert [event.text for event in events if isinstance(event, ToolEnded)] == ["done"]
    assert {event.hook for event in acted(events)} == SEEN_LIVE
    assert {event.outcome for event in acted(events)} == {"failed"}
    assert [(event.hook, event.outcome) for event in session.afterwards()] == [("save_state", "failed")]
    assert any("save_state" in line for line in log)


async def test_a_plugin_that_hangs_costs_one_deadline_for_each_hook_and_ends_no_session(
    hosted: Hosted, spec_of: SpecOf
) -> None:
    async def hangs(name: str) -> None:
        await asyncio.Event().wait()

    play = Play(*[LOOK] * 10, Reply(text="ok"))
    async with (
        hosted(play, misbehaving(ASYNC, hangs), hook_seconds=0.05) as host,
        host.engine.open(spec_of(host, tools=(tool("look"),))) as session,
    ):
        events = await look_once(session)
    assert events[-1] == TurnEnded(text="ok")
    told = acted(events)
    assert sorted(event.hook for event in told) == sorted(SEEN_LIVE - {*SYNC})  # once, over eleven steps
    assert {event.outcome for event in told} == {"timed_out"}
    assert [(event.hook, event.outcome) for event in session.afterwards()] == [("save_state", "timed_out")]


async def test_a_plugin_whose_saving_fails_or_takes_too_long_stands_in_the_runs_events(
    make_stage: Any, hosted: Hosted
) -> None:
    class Full:
        @hookimpl
        async def save_state(self, session_id: str) -> None:
            raise OSError("the disk is full")

    class Slow:
        @hookimpl
        async def save_state(self, session_id: str) -> None:
            await asyncio.Event().wait()

    def submits(conversation: Conversation) -> Reply:
        return Reply(calls=(ToolUse(name="submit_result", arguments={"summary": "done"}),))

    stage = await make_stage()
    async with hosted(submits, Full(), Slow()) as host:
        with anyio.fail_after(20):
            outcome = await stage.execute(submits, engine=host.engine)
    assert outcome.state is AttemptState.COMPLETED
    told = {event.data["outcome"]: event.data for event in await stage.events("session.plugin_acted")}
    assert {data["hook"] for data in told.values()} == {"save_state"}
    assert "the disk is full" in told["failed"]["text"]
    assert "took longer" in told["timed_out"]["text"]


async def test_what_a_plugin_does_in_a_woken_session_stands_in_the_runs_events_too(
    make_stage: Any, hosted: Hosted
) -> None:
    class Failing:
        @hookimpl
        def system_prompt(self, prompt: str) -> str:
            raise ValueError("no prompt today")

        @hookimpl
        async def save_state(self, session_id: str) -> None:
            raise OSError("the disk is full")

    def script(conversation: Conversation) -> Reply:
        if conversation.find("You are woken"):
            return Reply(text="I am awake")
        return Reply(calls=(ToolUse(name="submit_result", arguments={"summary": "done"}),))

    stage = await make_stage()
    async with hosted(script, Failing()) as host:
        runner = stage.runner(host.engine)
        context = await stage.attempt()
        with anyio.fail_after(30):
            await stage.settle(context, await runner.run(context))
            before = len(await stage.events("session.plugin_acted"))
            await stage.writer.run(
                lambda store: store.send_message(
                    stage.run.id, sender="operator", recipient="work", kind=MessageKind.STEER, body="hello?"
                )
            )
            await runner.follow_up(context)
    told = (await stage.events("session.plugin_acted"))[before:]
    assert [event.data["hook"] for event in told] == ["system_prompt", "save_state"]


async def test_a_plugin_that_ignores_its_cancellation_costs_one_deadline_too(
    hosted: Hosted, spec_of: SpecOf
) -> None:
    enough = asyncio.Event()

    async def ignores(name: str) -> None:
        while not enough.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await enough.wait()

    play = Play(*[LOOK] * 3, Reply(text="ok"))
    async with (
        hosted(play, misbehaving(ASYNC, ignores), hook_seconds=0.05) as host,
        host.engine.open(spec_of(host, tools=(tool("look"),))) as session,
    ):
        try:
            events = await look_once(session)
        finally:
            enough.set()
    assert events[-1] == TurnEnded(text="ok")
    assert {event.outcome for event in acted(events)} == {"timed_out"}


class Selects:
    """Brings a selector of the history."""

    def __init__(self, select: Callable[[Any, TapeContext], Any]) -> None:
        self._select = select

    @hookimpl
    def build_tape_context(self) -> TapeContext:
        return TapeContext(select=self._select)


def raising(error: BaseException) -> Callable[[Any, TapeContext], Any]:
    def select(entries: object, context: TapeContext) -> Any:
        raise error

    return select


def circular() -> dict[str, Any]:
    found: dict[str, Any] = {"role": "user"}
    found["content"] = found
    return found


@pytest.mark.parametrize(
    "select",
    [
        *map(raising, RAISED),
        lambda entries, context: None,
        lambda entries, context: [1, 2],
        lambda entries, context: [{"content": "whose?"}],
        lambda entries, context: [circular()],
    ],
    ids=["raises", "exits", "cancels", "panics", "nothing", "numbers", "no role", "circular"],
)
async def test_a_selector_of_the_history_that_fails_is_replaced_by_bubs(
    hosted: Hosted, spec_of: SpecOf, select: Callable[[Any, TapeContext], Any]
) -> None:
    async with (
        hosted(Play(LOOK, Reply(text="ok")), Selects(select)) as host,
        host.engine.open(spec_of(host, tools=(tool("look"),))) as session,
    ):
        events = await look_once(session)
    assert events[-1] == TurnEnded(text="ok")
    assert [message["role"] for message in host.model.requests[1].conversation.messages][-1] == "tool"
    assert [(event.hook, event.outcome) for event in acted(events)] == [("build_tape_context", "failed")]


@pytest.mark.parametrize("hangs", [True, False])
async def test_a_selector_that_misses_its_deadline_is_left_out_of_all_further_steps(
    hosted: Hosted, spec_of: SpecOf, hangs: bool
) -> None:
    asked: list[int] = []
    plain = default_tape_context().select
    assert plain is not None

    def select(entries: Any, context: TapeContext) -> Any:
        asked.append(1)
        if hangs:
            return asyncio.Event().wait()
        time.sleep(0.1)
        return plain(entries, context)

    play = Play(*[LOOK] * 5, Reply(text="ok"))
    async with (
        hosted(play, Selects(select), hook_seconds=0.05) as host,
        host.engine.open(spec_of(host, tools=(tool("look"),))) as session,
    ):
        events = await look_once(session)
    assert events[-1] == TurnEnded(text="ok")
    assert [(event.hook, event.outcome) for event in acted(events)] == [("build_tape_context", "timed_out")]
    assert asked == [1]


async def test_an_answer_that_bub_cannot_use_counts_as_none(hosted: Hosted, spec_of: SpecOf) -> None:
    class Odd:
        @hookimpl
        def before_llm_call(self, request: LlmCallRequest) -> LlmCallRequest:
            return replace(request, messages=[1])  # type: ignore[list-item]  # as a plugin may

        @hookimpl
        def before_tool_call(self, call: ToolCall) -> ToolCallDecision:
            return ToolCallDecision.proceed(5)  # type: ignore[arg-type]  # as a plugin may

        @hookimpl
        def after_tool_call(self, result: ToolCallResult) -> None:
            result.result = circular()

    async with (
        hosted(Play(LOOK, Reply(text="ok")), Odd()) as host,
        host.engine.open(spec_of(host, tools=(tool("look"),))) as session,
    ):
        events = await look_once(session)
    assert events[-1] == TurnEnded(text="ok")
    assert [event.text for event in events if isinstance(event, ToolEnded)] == [str(circular())]
    assert {event.hook for event in acted(events) if event.outcome == "failed"} == {
        "before_llm_call",
        "before_tool_call",
        "after_tool_call",
    }


async def test_an_environment_whose_closing_ignores_its_cancellation_holds_up_no_end(
    hosted: Hosted, spec_of: SpecOf, log: list[str]
) -> None:
    enough = asyncio.Event()
    left: list[Session] = []

    class Stubborn(LocalEnvironment):
        async def close(self) -> None:
            while not enough.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await enough.wait()

    class Provides:
        @hookimpl
        def provide_environment(self, session_id: str, workspace: Path) -> LocalEnvironment:
            return Stubborn(str(workspace))

    async with hosted(lambda _: Reply(text="ok"), Provides()) as host:

        async def converse() -> None:
            async with host.engine.open(spec_of(host)) as session:
                await look_once(session)
            left.append(session)

        talk = asyncio.create_task(converse())
        await asyncio.wait({talk}, timeout=20)
        ended = talk.done()
        enough.set()
        await talk
    assert ended
    assert any("closing" in line for line in log)
    [note] = left[0].afterwards()
    assert (note.hook, note.outcome) == ("provide_environment", "timed_out")


@pytest.mark.parametrize(("name", "value"), [("BUB_MAX_STEPS", "2"), ("BUB_MODEL_TIMEOUT_SECONDS", "1")])
async def test_what_limits_a_turn_of_the_chat_limits_no_session(
    hosted: Hosted, spec_of: SpecOf, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    refused = Reply(fault=Fault.RATE_LIMIT, retry_after=1.5)  # longer than a call of the chat may take
    async with (
        hosted(Play(LOOK, LOOK, refused, Reply(text="ok"))) as host,
        host.engine.open(spec_of(host, tools=(tool("look"),))) as session,
    ):
        events = await look_once(session)
    assert events[-1] == TurnEnded(text="ok")


class Redacts:
    """Takes a password out of whatever a tool says, and tells when one is going to wait."""

    def __init__(self) -> None:
        self.waits = asyncio.Event()

    @hookimpl
    def before_tool_call(self, call: ToolCall) -> None:
        if "sleep" in str(call.arguments):
            self.waits.set()

    @hookimpl
    async def after_tool_call(self, call: ToolCall, result: ToolCallResult) -> None:
        await asyncio.sleep(0)
        result.result = str(result.result).replace("hunter2", "[redacted]")


async def test_what_a_plugin_takes_out_of_a_result_stays_out_of_a_conversation_that_goes_on(
    make_stage: Any, hosted: Hosted
) -> None:
    stage = await make_stage(agent={"tools": ("bash",)})
    (stage.folder / "secret.txt").write_text("the password is hunter2")

    def bash(command: str) -> Reply:
        return Reply(calls=(ToolUse(name="bash", arguments={"command": command}),))

    def script(conversation: Conversation) -> Reply:
        if any("hand in now" in text for text in conversation.user_texts):
            return Reply(calls=(ToolUse(name="submit_result", arguments={"summary": "done"}),))
        return bash("sleep 60" if conversation.tool_results else "cat secret.txt")

    context = await stage.attempt()
    outcomes: list[Outcome] = []
    redacts = Redacts()
    async with hosted(script, redacts) as host:
        runner = SessionRunner(engine=host.engine, writer=stage.writer, toolbox=stage.toolbox)

        async def run() -> None:
            outcomes.append(await runner.run(context))

        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                group.start_soon(run)
                await redacts.waits.wait()
                cause = Cause(code=CauseCode.LEADER_INTERRUPTED, message="stop")
                assert await runner.interrupt(context.attempt.id, cause, await stage.said("hand in now"))
    assert outcomes[0].state is AttemptState.COMPLETED
    assert len(await stage.events("session.reopened")) == 1
    sent = [str(request.conversation.messages) for request in host.model.requests]
    assert "the password is [redacted]" in sent[-1]
    assert not any("hunter2" in each for each in [*sent, str(await stage.transcript())])
