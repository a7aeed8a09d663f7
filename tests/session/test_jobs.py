"""Jobs in the background: a result waits for them, and is made anew after their output."""

from typing import Any

import anyio
import pytest

from crew_plugin.host import ToolError
from crew_plugin.models.causes import Cause, CauseCode
from crew_plugin.models.mail import MessageKind
from crew_plugin.models.spec import LimitsSpec
from crew_plugin.models.states import AttemptState
from crew_plugin.session.scope import ResultRules
from crew_plugin.testing.conversation import Conversation, Fault, Reply, ToolUse
from crew_plugin.testing.fake_engine import FakeEngine

pytestmark = pytest.mark.anyio

START = ToolUse(name="bash", arguments={"command": "make all", "background": True})


def submit(summary: str) -> Reply:
    return Reply(calls=(ToolUse(name="submit_result", arguments={"summary": summary}),))


class Build:
    """A job that ends when it is told to."""

    def __init__(self) -> None:
        self.may_end = anyio.Event()
        self.fails = False

    async def __call__(self, arguments: Any) -> str:
        if not arguments.get("background"):
            return "looked"
        await self.may_end.wait()
        if self.fails:
            raise ToolError("2 tests failed")
        return "all built"


async def play(stage: Any, build: Build, script: Any, **rules: Any) -> tuple[Any, FakeEngine]:
    engine = FakeEngine(script=script, host_tools={"bash": build})
    with anyio.fail_after(15):
        outcome = await stage.execute(script, engine=engine, rules=ResultRules(**rules))
    return outcome, engine


@pytest.fixture
async def stage(make_stage: Any) -> Any:
    return await make_stage(agent={"tools": ("bash",)})


async def summaries(stage: Any) -> list[tuple[str, tuple[str, ...]]]:
    results = await stage.writer.read(lambda store: store.list_results(stage.run.id))
    return [(result.summary, result.flags) for result in results]


async def test_a_result_is_held_while_a_job_runs_and_made_anew_after_its_output(stage: Any) -> None:
    build = Build()

    def script(said: Conversation) -> Reply:
        if not said.tool_results:
            return Reply(calls=(START,))
        if len(said.tool_results) == 1:
            return submit("before the build")
        if "all built" in said.last_user:
            return submit("after the build")
        build.may_end.set()
        return Reply(text="I stand by.")

    outcome, engine = await play(stage, build, script)
    assert outcome.state is AttemptState.COMPLETED
    assert await summaries(stage) == [("after the build", ("unchecked",))]
    [held] = await stage.events("result.held")
    assert held.data == {"reason": "running", "jobs": ["job-1"]}
    told = [message["content"] for message in engine.sessions[0].messages if message["role"] == "tool"]
    assert "job-1: make all" in told[1]
    assert [event.data["ok"] for event in await stage.events("session.job_ended")] == [True]
    [waiting] = await stage.events("session.waiting")
    assert waiting.data["for"] == ["job-1 make all"]
    assert await stage.events("session.reminded") == []


async def test_a_held_result_is_taken_once_the_session_has_ended_its_jobs(stage: Any) -> None:
    kill = Reply(calls=(ToolUse(name="bash_kill", arguments={"shell_id": "job-1"}),))
    replies = [Reply(calls=(START,)), submit("done"), kill, Reply(text="Nothing more to do.")]
    outcome, _ = await play(stage, Build(), lambda _: replies.pop(0))
    assert outcome.state is AttemptState.COMPLETED
    assert await summaries(stage) == [("done", ("unchecked",))]


async def test_handing_in_again_gives_the_jobs_up(stage: Any) -> None:
    replies = [Reply(calls=(START,)), submit("first"), submit("second")]
    outcome, engine = await play(stage, Build(), lambda _: replies.pop(0))
    assert outcome.state is AttemptState.COMPLETED
    assert await summaries(stage) == [("second", ("unchecked", "jobs_ended"))]
    assert engine.sessions[0].jobs() == ()
    assert [event.data["reason"] for event in await stage.events("result.held")] == ["running", "given_up"]


async def test_a_held_result_whose_jobs_take_too_long_is_taken_with_a_flag(stage: Any) -> None:
    replies = [Reply(calls=(START,)), submit("done"), Reply(text="I stand by.")]
    outcome, _ = await play(stage, Build(), lambda _: replies.pop(0), jobs_seconds=0.05)
    assert outcome.state is AttemptState.COMPLETED
    assert await summaries(stage) == [("done", ("unchecked", "jobs_ended"))]
    [reached] = await stage.events("session.limit_reached")
    assert reached.data == {"limit": "jobs_seconds", "value": 0.05}


async def test_a_result_that_is_never_made_anew_is_kept_and_completes_nothing(stage: Any) -> None:
    build = Build()

    def script(said: Conversation) -> Reply:
        if not said.tool_results:
            return Reply(calls=(START,))
        if len(said.tool_results) == 1:
            return submit("before the build")
        build.may_end.set()
        return Reply(text="I think I am done.")

    outcome, _ = await play(stage, build, script)
    assert (outcome.state, outcome.cause.code) == (AttemptState.NEEDS_ATTENTION, CauseCode.NO_RESULT)
    assert "before the build" in await stage.text_of(outcome)
    assert await summaries(stage) == []


async def test_output_that_came_before_the_result_and_was_not_seen_sends_it_back_once(stage: Any) -> None:
    build = Build()
    build.fails = True
    ended = anyio.Event()

    async def look(arguments: Any) -> str:
        if arguments.get("background"):
            try:
                return await build(arguments)
            finally:
                ended.set()
        build.may_end.set()
        await ended.wait()
        return "looked"

    other = Reply(calls=(ToolUse(name="bash", arguments={"command": "ls"}),))
    replies = [Reply(calls=(START,)), other, submit("all is well"), submit("2 tests fail")]
    outcome, engine = await play(stage, look, lambda _: replies.pop(0))  # type: ignore[arg-type]
    assert outcome.state is AttemptState.COMPLETED
    assert await summaries(stage) == [("2 tests fail", ("unchecked",))]
    assert any("2 tests failed" in str(message["content"]) for message in engine.sessions[0].messages)


async def test_a_job_that_the_session_looked_at_after_its_end_is_no_news(stage: Any) -> None:
    build = Build()
    ended = anyio.Event()

    async def look(arguments: Any) -> str:
        if arguments.get("background"):
            try:
                return await build(arguments)
            finally:
                ended.set()
        build.may_end.set()
        await ended.wait()
        return "looked"

    wait = Reply(calls=(ToolUse(name="bash", arguments={"command": "ls"}),))
    peek = Reply(calls=(ToolUse(name="bash", arguments={"command": "cat job-1"}),))
    replies = [Reply(calls=(START,)), wait, peek, submit("done")]
    outcome, _ = await play(stage, look, lambda _: replies.pop(0))  # type: ignore[arg-type]
    assert outcome.state is AttemptState.COMPLETED
    assert await stage.events("result.held") == []


async def test_a_turn_that_ends_while_a_job_runs_waits_for_it_and_is_not_reminded(stage: Any) -> None:
    build = Build()

    def script(said: Conversation) -> Reply:
        if not said.tool_results:
            return Reply(calls=(START,))
        if "all built" in said.last_user:
            return submit("built")
        build.may_end.set()
        return Reply(text="I wait for the build.")

    outcome, _ = await play(stage, build, script)
    assert outcome.state is AttemptState.COMPLETED
    assert await stage.events("session.reminded") == []


async def test_a_wait_without_a_result_that_takes_too_long_is_reminded(stage: Any) -> None:
    replies = [Reply(calls=(START,)), Reply(text="I wait."), submit("not built")]
    outcome, _ = await play(
        stage, Build(), lambda _: replies.pop(0) if len(replies) > 1 else replies[0], jobs_seconds=0.05
    )
    assert outcome.state is AttemptState.COMPLETED
    assert len(await stage.events("session.reminded")) == 1


async def test_a_message_wakes_a_session_that_stands_by(stage: Any) -> None:
    heard = anyio.Event()

    def script(said: Conversation) -> Reply:
        if not said.tool_results:
            return Reply(calls=(START,))
        if "look at auth.py" in said.last_user:
            heard.set()
            return Reply(calls=(ToolUse(name="bash_kill", arguments={"shell_id": "job-1"}),))
        return submit("done") if heard.is_set() else Reply(text="I wait.")

    engine = FakeEngine(script=script, host_tools={"bash": Build()})
    context = await stage.attempt()
    runner = stage.runner(engine)
    waits = anyio.Event()
    unsubscribe = stage.writer.subscribe(
        lambda event: waits.set() if event.type == "session.waiting" else None
    )
    outcomes: list[Any] = []

    async def run() -> None:
        outcomes.append(await runner.run(context))

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(run)
            await waits.wait()
            message = await stage.writer.run(
                lambda store: store.send_message(
                    stage.run.id,
                    sender="parent",
                    recipient="work",
                    kind=MessageKind.STEER,
                    body="look at auth.py",
                )
            )
            await runner.deliver(context, message.id)
            await heard.wait()
            group.cancel_scope.cancel()
    unsubscribe()


async def test_the_wall_limit_comes_before_the_end_of_a_wait(make_stage: Any) -> None:
    limits = LimitsSpec(steps=20, idle_seconds=0.1, wall_seconds=0.6)
    stage = await make_stage(agent={"tools": ("bash",)}, step={"limits": limits})
    replies = [Reply(calls=(START,)), submit("done"), Reply(text="I stand by.")]
    outcome, _ = await play(stage, Build(), lambda _: replies.pop(0), jobs_seconds=600)
    assert outcome.state is AttemptState.COMPLETED
    assert await summaries(stage) == [("done", ("unchecked", "jobs_ended"))]


async def test_a_session_that_is_stopped_while_it_stands_by_keeps_the_held_result(stage: Any) -> None:
    replies = [Reply(calls=(START,)), submit("held words"), Reply(text="I stand by.")]
    engine = FakeEngine(script=lambda _: replies.pop(0), host_tools={"bash": Build()})
    context = await stage.attempt()
    runner = stage.runner(engine)
    waits = anyio.Event()
    unsubscribe = stage.writer.subscribe(
        lambda event: waits.set() if event.type == "session.waiting" else None
    )
    outcomes: list[Any] = []

    async def run() -> None:
        outcomes.append(await runner.run(context))

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(run)
            await waits.wait()
            await runner.abort(context.attempt.id, Cause(code=CauseCode.CALLER_CANCELLED, message="enough"))
    unsubscribe()
    assert outcomes[0].state is AttemptState.CANCELLED
    assert "held words" in await stage.text_of(outcomes[0])


@pytest.mark.parametrize("again", [True, False])
async def test_an_interrupt_that_ends_the_jobs_of_a_held_result_is_told_with_them(
    stage: Any, again: bool
) -> None:
    told: list[str] = []

    def script(said: Conversation) -> Reply:
        if not said.tool_results:
            return Reply(calls=(START,))
        if len(said.tool_results) == 1:
            return submit("before the build")
        if "look at auth.py" in said.last_user:
            told.append(said.last_user)
            if again:
                return submit("without the build")
        return Reply(text="I stand by.")

    engine = FakeEngine(script=script, host_tools={"bash": Build()})
    context = await stage.attempt()
    runner = stage.runner(engine)
    waits = anyio.Event()
    unsubscribe = stage.writer.subscribe(
        lambda event: waits.set() if event.type == "session.waiting" else None
    )
    outcomes: list[Any] = []

    async def run() -> None:
        outcomes.append(await runner.run(context))

    cause = Cause(code=CauseCode.LEADER_INTERRUPTED, message="somebody pressed the key")
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(run)
            await waits.wait()
            assert await runner.interrupt(context.attempt.id, cause, await stage.said("look at auth.py"))
    unsubscribe()
    assert "make all" in told[0]
    assert "hand in again" in told[0]
    if again:
        assert outcomes[0].state is AttemptState.COMPLETED
        assert await summaries(stage) == [("without the build", ("unchecked",))]
    else:
        assert outcomes[0].state is AttemptState.NEEDS_ATTENTION
        assert "before the build" in await stage.text_of(outcomes[0])


async def test_a_conversation_that_overflows_while_a_result_is_held_goes_on_and_loses_nothing(
    stage: Any,
) -> None:
    build = Build()
    overflowed: list[int] = []

    def script(said: Conversation) -> Reply:
        if "make all" in said.last_user:
            return submit("after the overflow")
        if not said.tool_results:
            return Reply(calls=(START,))
        if len(said.tool_results) == 1:
            return submit("before the build")
        overflowed.append(1)
        return Reply(fault=Fault.CONTEXT_OVERFLOW)

    outcome, _ = await play(stage, build, script)
    assert overflowed == [1]
    assert outcome.state is AttemptState.COMPLETED
    assert await summaries(stage) == [("after the overflow", ("unchecked",))]
