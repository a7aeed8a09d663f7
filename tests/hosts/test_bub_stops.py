"""Sessions of the crew in a real Bub that are stopped, interrupted, or go nowhere."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import anyio
import psutil
import pytest

from crew_plugin.engine.ports import AttemptContext, Outcome
from crew_plugin.host import SessionSpec, ToolContext, ToolOutput, ToolSpec
from crew_plugin.models.causes import Cause, CauseCode
from crew_plugin.models.records import Effect, ToolCallState
from crew_plugin.models.spec import LimitsSpec
from crew_plugin.models.states import AttemptState
from crew_plugin.session.runner import SessionRunner
from crew_plugin.testing.conversation import Conversation, Fault, Reply, Script, ToolUse
from tests.hosts.bub_engine import Host
from tests.session.conftest import limits, make_stage

__all__ = ["limits", "make_stage"]

pytestmark = [pytest.mark.anyio, pytest.mark.bub]

Hosted = Callable[..., AbstractAsyncContextManager[Host]]
CANCEL = Cause(code=CauseCode.CALLER_CANCELLED, message="the caller cancelled it")
STUBBORN = "trap '' TERM; sleep 300 & setsid sleep 300 & touch busy; sleep 300; :"
"""A shell that ignores the polite signal, with a child and one that leaves the shell's group."""


def submit(**arguments: Any) -> Reply:
    return Reply(calls=(ToolUse(name="submit_result", arguments=arguments),))


def call(name: str, **arguments: Any) -> Reply:
    return Reply(text=f"I call {name}.", calls=(ToolUse(name=name, arguments=arguments),))


def runner_of(stage: Any, host: Host) -> SessionRunner:
    return SessionRunner(engine=host.engine, writer=stage.writer, toolbox=stage.toolbox)


def marked(session_id: str) -> list[psutil.Process]:
    """The processes that a session started."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get("CREW_SESSION") == session_id:
                found.append(process)
    return found


def shown(host: Host) -> str:
    """What the model was sent last. Bub may have asked once more before it was stopped."""
    return str(host.model.requests[-1].conversation.messages)


async def under_way(
    stage: Any, host: Host, context: AttemptContext, act: Callable[[SessionRunner], Any]
) -> Outcome:
    """Run the attempt, and act once its shell is busy."""
    runner = runner_of(stage, host)
    outcomes: list[Outcome] = []

    async def run() -> None:
        outcomes.append(await runner.run(context))

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        while not (stage.folder / "busy").exists():  # noqa: ASYNC110 - shells tell by files
            await anyio.sleep(0.02)
        await act(runner)
    return outcomes[0]


@pytest.mark.both_engines
async def test_an_interrupted_turn_ends_its_shells_and_the_conversation_goes_on(
    make_stage: Any, hosted: Hosted
) -> None:
    stage = await make_stage(agent={"tools": ("bash",)})

    def script(conversation: Conversation) -> Reply:
        told = any("look at app.py instead" in text for text in conversation.user_texts)
        return submit(summary="looked") if told else call("bash", command=STUBBORN, timeout_seconds=200)

    context = await stage.attempt()
    quiet: list[float] = []

    async def interrupt(runner: SessionRunner) -> None:
        begun = time.monotonic()
        cause = Cause(code=CauseCode.LEADER_INTERRUPTED, message="the operator said stop")
        assert await runner.interrupt(context.attempt.id, cause, await stage.said("look at app.py instead"))
        quiet.append(time.monotonic() - begun)

    async with hosted(script) as host:
        with anyio.fail_after(30):
            outcome = await under_way(stage, host, context, interrupt)
        assert await asyncio.to_thread(marked, context.attempt.session_id) == []
        assert "the operator said stop" in shown(host)
        assert "Cut off" in shown(host)
    assert outcome.state is AttemptState.COMPLETED
    assert quiet[0] < 1.5  # 1 s, and room for a busy machine
    [reopened] = await stage.events("session.reopened")
    [stopping] = await stage.events("session.stopping")
    assert stopping.seq < reopened.seq
    task = await stage.writer.read(lambda store: store.load_task(stage.run.id, "work"))
    calls = await stage.writer.read(lambda store: store.list_tool_calls(task.attempt_id))
    assert [(each.tool, each.state) for each in calls] == [
        ("bash", ToolCallState.CANCELLED),
        ("submit_result", ToolCallState.DONE),
    ]


async def test_an_interrupt_ends_the_jobs_of_a_held_result_and_says_so(
    make_stage: Any, hosted: Hosted
) -> None:
    stage = await make_stage(agent={"tools": ("bash",)})
    context = await stage.attempt()
    waits = anyio.Event()
    unsubscribe = stage.writer.subscribe(
        lambda event: waits.set() if event.type == "session.waiting" else None
    )

    def script(conversation: Conversation) -> Reply:
        if "leave the build" in conversation.last_user:
            return submit(summary=conversation.last_user)
        if not conversation.tool_results:
            return call("bash", command="sleep 300", background=True)
        return submit(summary="held") if len(conversation.tool_results) == 1 else Reply(text="I stand by.")

    outcomes: list[Outcome] = []
    async with hosted(script) as host:
        runner = runner_of(stage, host)

        async def run() -> None:
            outcomes.append(await runner.run(context))

        with anyio.fail_after(20):
            async with anyio.create_task_group() as group:
                group.start_soon(run)
                await waits.wait()
                assert await runner.interrupt(context.attempt.id, CANCEL, await stage.said("leave the build"))
        assert await asyncio.to_thread(marked, context.attempt.session_id) == []
    unsubscribe()
    assert outcomes[0].state is AttemptState.COMPLETED
    [result] = await stage.writer.read(lambda store: store.list_results(stage.run.id))
    assert ": sleep 300" in result.summary
    assert "hand in again" in result.summary


async def test_a_stop_keeps_the_last_text_and_ends_the_shells(make_stage: Any, hosted: Hosted) -> None:
    stage = await make_stage(agent={"tools": ("bash",)})
    context = await stage.attempt()

    async def stop(runner: SessionRunner) -> None:
        await runner.abort(context.attempt.id, CANCEL)

    async with hosted(lambda _: call("bash", command=STUBBORN, timeout_seconds=200)) as host:
        with anyio.fail_after(20):
            outcome = await under_way(stage, host, context, stop)
        assert await asyncio.to_thread(marked, context.attempt.session_id) == []
    assert (outcome.state, outcome.cause) == (AttemptState.CANCELLED, CANCEL)
    assert await stage.text_of(outcome) == "I call bash."
    assert "Cut off" in (await stage.transcript())[-2].content


async def warm(host: Host, spec_of: Callable[..., SessionSpec]) -> None:
    """Open a session and leave it, so that the next one is there at once wherever it is held."""
    async with host.engine.open(spec_of(host)):
        pass


@pytest.mark.both_engines
@pytest.mark.parametrize("fault", [Fault.STALLED_STREAM, Fault.BROKEN_STREAM])
async def test_what_had_come_of_an_answer_that_broke_off_is_kept(
    make_stage: Any, hosted: Hosted, spec_of: Callable[..., SessionSpec], fault: Fault
) -> None:
    stage = await make_stage(step={"limits": LimitsSpec(idle_seconds=2, model_retries=0)})
    script: Script = lambda _: Reply(text="The login is open. " * 300, fault=fault)  # noqa: E731 - one line
    async with hosted(script) as host:
        await warm(host, spec_of)
        with anyio.fail_after(20):
            outcome = await stage.execute(script, engine=host.engine)
    assert outcome.state is AttemptState.FAILED
    kept = await stage.text_of(outcome)
    assert "broke off" in kept
    assert "The login is open." in kept


@pytest.mark.both_engines
async def test_what_had_come_of_an_answer_is_kept_when_somebody_stops_the_session(
    make_stage: Any, hosted: Hosted, spec_of: Callable[..., SessionSpec]
) -> None:
    stage = await make_stage(step={"limits": LimitsSpec(idle_seconds=3)})
    context = await stage.attempt()
    silent = anyio.Event()
    unsubscribe = stage.writer.subscribe(
        lambda event: silent.set() if event.type == "session.stalled" else None
    )
    outcomes: list[Outcome] = []
    async with hosted(lambda _: Reply(text="The login is open. " * 300, fault=Fault.STALLED_STREAM)) as host:
        await warm(host, spec_of)
        runner = runner_of(stage, host)

        async def run() -> None:
            outcomes.append(await runner.run(context))

        with anyio.fail_after(20):
            async with anyio.create_task_group() as group:
                group.start_soon(run)
                await silent.wait()
                await runner.abort(context.attempt.id, CANCEL)
    unsubscribe()
    assert (outcomes[0].state, outcomes[0].cause) == (AttemptState.CANCELLED, CANCEL)
    assert "The login is open." in await stage.text_of(outcomes[0])


async def test_what_came_of_a_call_that_was_made_again_is_forgotten_when_it_succeeds(
    make_stage: Any, hosted: Hosted
) -> None:
    stage = await make_stage(step={"limits": LimitsSpec(steps=1)})
    given = [Reply(text="half " * 300, fault=Fault.BROKEN_STREAM), Reply(text="whole")]
    script: Script = lambda _: given.pop(0) if len(given) > 1 else given[0]  # noqa: E731 - one line
    async with hosted(script) as host:
        with anyio.fail_after(20):
            outcome = await stage.execute(script, engine=host.engine)
    assert await stage.text_of(outcome) == "whole"


async def test_a_command_that_takes_longer_than_a_tool_may_is_ended_and_the_session_goes_on(
    make_stage: Any, hosted: Hosted
) -> None:
    stage = await make_stage(step={"limits": LimitsSpec(tool_seconds=0.5)}, agent={"tools": ("bash",)})

    def script(conversation: Conversation) -> Reply:
        if conversation.tool_results:
            return submit(summary="without it")
        return call("bash", command="sleep 300", timeout_seconds=200)

    context = await stage.attempt()
    async with hosted(script) as host:
        with anyio.fail_after(20):
            outcome = await runner_of(stage, host).run(context)
        assert await asyncio.to_thread(marked, context.attempt.session_id) == []
        assert "bash was stopped after 0.5 s" in shown(host)
    assert outcome.state is AttemptState.COMPLETED


async def test_a_tool_that_ignores_its_cancellation_ends_the_session_and_is_named(
    make_stage: Any, hosted: Hosted
) -> None:
    stage = await make_stage(step={"limits": LimitsSpec(tool_seconds=0.3)}, agent={"tools": ("stubborn",)})
    released, ended = asyncio.Event(), asyncio.Event()

    async def stubborn(arguments: Any, context: ToolContext) -> ToolOutput:
        while not released.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await released.wait()
        ended.set()
        return ToolOutput(text="at last")

    stage.extra_tools = (
        ToolSpec(
            name="stubborn",
            description="It stays.",
            parameters={"type": "object"},
            execute=stubborn,
            effect=Effect.EXTERNAL,
        ),
    )
    context = await stage.attempt()
    async with hosted(lambda _: call("stubborn")) as host:
        with anyio.fail_after(20):
            outcome = await runner_of(stage, host).run(context)
        assert not ended.is_set()
        released.set()
        with anyio.fail_after(5):
            await ended.wait()
    assert outcome.cause is not None
    assert (outcome.state, outcome.cause.code) == (AttemptState.FAILED, CauseCode.TOOL_TIMEOUT)
    assert outcome.cause.message.endswith("still running: the tool stubborn")
    assert not outcome.retryable
    assert await stage.text_of(outcome) == "I call stubborn."
    [left] = await stage.events("session.left_running")
    assert left.data == {"what": ["the tool stubborn"]}
    task = await stage.writer.read(lambda store: store.load_task(stage.run.id, "work"))
    [journalled] = await stage.writer.read(lambda store: store.list_tool_calls(task.attempt_id))
    assert journalled.state is ToolCallState.CANCELLED
    assert not [event for event in await stage.events("session.tool_ended") if event.data["ok"]]


@pytest.mark.parametrize(
    ("reply", "at_most"),
    [
        (Reply(text="so far", calls=(ToolUse(name="bash", arguments={"command": "true"}),)), 14),
        (Reply(text="so far", calls=(ToolUse(name="no_such_tool", arguments={}),)), 8),
        (
            Reply(
                text="so far",
                calls=(ToolUse(name="bash", arguments={"command": "true"}),),
                fault=Fault.HALF_TOOL_CALL,
            ),
            8,
        ),
    ],
    ids=["one tool again and again", "a tool that is not there", "half a tool call"],
)
async def test_a_model_that_gets_nowhere_is_ended_early_with_what_it_said(
    make_stage: Any, hosted: Hosted, reply: Reply, at_most: int
) -> None:
    stage = await make_stage(
        step={"limits": LimitsSpec(steps=60, model_retries=1)}, agent={"tools": ("bash",)}
    )
    async with hosted(lambda _: reply) as host:
        with anyio.fail_after(20):
            outcome = await stage.execute(lambda _: reply, engine=host.engine)
        assert len(host.model.requests) <= at_most
        assert "brought nothing new" in shown(host)
    assert (outcome.state, outcome.cause.code) == (AttemptState.NEEDS_ATTENTION, CauseCode.NO_PROGRESS)
    assert await stage.text_of(outcome) == "so far"


async def test_a_model_that_ignores_every_reminder_needs_attention(make_stage: Any, hosted: Hosted) -> None:
    stage = await make_stage()
    script: Script = lambda _: Reply(text="I am done, really.")  # noqa: E731 - one line
    async with hosted(script) as host:
        with anyio.fail_after(20):
            outcome = await stage.execute(script, engine=host.engine)
    assert (outcome.state, outcome.cause.code) == (AttemptState.NEEDS_ATTENTION, CauseCode.NO_RESULT)
    assert [event.data["n"] for event in await stage.events("session.reminded")] == [1, 2, 3]


@pytest.mark.both_engines
async def test_a_provider_that_stalls_in_the_middle_is_asked_again(
    make_stage: Any, hosted: Hosted, spec_of: Callable[..., SessionSpec]
) -> None:
    stage = await make_stage(step={"limits": LimitsSpec(idle_seconds=2)})
    given = [Reply(text="half " * 300, fault=Fault.STALLED_STREAM), submit(summary="whole")]
    script: Script = lambda _: given.pop(0) if len(given) > 1 else given[0]  # noqa: E731 - one line
    async with hosted(script) as host:
        await warm(host, spec_of)
        with anyio.fail_after(20):
            outcome = await stage.execute(script, engine=host.engine)
    assert outcome.state is AttemptState.COMPLETED
    assert (await stage.events("session.stalled"))[0].data["rung"] == "warned"


async def test_a_provider_that_always_stalls_in_the_middle_of_a_call_ends_the_session_and_runs_no_tool(
    make_stage: Any, hosted: Hosted
) -> None:
    stage = await make_stage(
        step={"limits": LimitsSpec(idle_seconds=0.6, model_retries=1)}, agent={"tools": ("bash",)}
    )
    first = Reply(text="I began.", calls=(ToolUse(name="bash", arguments={"command": "true"}),))
    half = ToolUse(name="bash", arguments={"command": "touch made; " + "true; " * 300})
    script: Script = lambda said: (  # noqa: E731 - one line
        Reply(calls=(half,), fault=Fault.STALLED_STREAM) if said.tool_results else first
    )
    async with hosted(script) as host:
        with anyio.fail_after(20):
            outcome = await stage.execute(script, engine=host.engine)
        gate = host.gates.gate("openai", host.model.base_url, "test")
        assert gate.flow.held == 0
    assert outcome.cause is not None
    assert (outcome.state, outcome.cause.code) == (AttemptState.FAILED, CauseCode.PROVIDER_TIMEOUT)
    assert await stage.text_of(outcome) == "I began."
    assert not (stage.folder / "made").exists()
