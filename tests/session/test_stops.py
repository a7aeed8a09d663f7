"""How a session is warned, narrowed, interrupted and stopped, and what is kept of it."""

from dataclasses import replace
from typing import Any

import anyio
import pytest

from crew_plugin.engine.ports import Outcome
from crew_plugin.host import EngineCapability, ToolContext, ToolOutput, ToolSpec
from crew_plugin.models.causes import Cause, CauseCode
from crew_plugin.models.records import Effect, EventRecord, ToolCallState
from crew_plugin.models.spec import LimitsSpec
from crew_plugin.models.states import AttemptState
from crew_plugin.testing.conversation import Conversation, Fault, Reply, Script, ToolUse
from crew_plugin.testing.fake_engine import FakeEngine

pytestmark = pytest.mark.anyio

CANCEL = Cause(code=CauseCode.CALLER_CANCELLED, message="the caller cancelled it")
INTERRUPT = Cause(code=CauseCode.LEADER_INTERRUPTED, message="somebody pressed the key")


def submit(**arguments: Any) -> Reply:
    return Reply(calls=(ToolUse(name="submit_result", arguments=arguments),))


def call(name: str, **arguments: Any) -> Reply:
    return Reply(text=f"I call {name}.", calls=(ToolUse(name=name, arguments=arguments),))


def replies(*given: Reply) -> Script:
    """These, in order; the last one again and again."""
    rest = list(given)
    return lambda _: rest.pop(0) if len(rest) > 1 else rest[0]


async def answer_42(arguments: Any) -> str:
    return "42"


def tool(name: str, execute: Any, effect: Effect = Effect.PURE) -> ToolSpec:
    return ToolSpec(
        name=name, description="a tool", parameters={"type": "object"}, execute=execute, effect=effect
    )


async def rungs(stage: Any) -> list[str]:
    return [event.data["rung"] for event in await stage.events("session.stalled")]


def _slowly(script: Script) -> Script:
    """The same answers, each after a moment."""
    return lambda said: replace(script(said), delay=0.05)


def unanswered(messages: list[dict[str, Any]]) -> list[str]:
    """The calls in a conversation that have no result."""
    made = [made["id"] for message in messages for made in message.get("tool_calls", ())]
    ended = [message["tool_call_id"] for message in messages if message["role"] == "tool"]
    return [each for each in made if made.count(each) != ended.count(each)]


# --- an interrupted turn ---


async def test_an_interrupted_turn_is_stopped_and_the_conversation_goes_on_told_of_it(
    make_stage: Any,
) -> None:
    stage = await make_stage(agent={"tools": ("hang",)})
    hanging = anyio.Event()

    async def hang(arguments: Any, context: ToolContext) -> ToolOutput:
        hanging.set()
        await anyio.sleep_forever()
        raise AssertionError

    def script(conversation: Conversation) -> Reply:
        told = any("look at the tests instead" in text for text in conversation.user_texts)
        return submit(summary="looked at the tests") if told else call("hang")

    stage.extra_tools = (tool("hang", hang, Effect.EXTERNAL),)
    context = await stage.attempt()
    engine = FakeEngine(script=script)
    runner = stage.runner(engine)
    outcomes: list[Outcome] = []

    async def run() -> None:
        outcomes.append(await runner.run(context))

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(run)
            await hanging.wait()
            assert await runner.interrupt(
                context.attempt.id, INTERRUPT, await stage.said("look at the tests instead")
            )
    assert outcomes[0].state is AttemptState.COMPLETED
    first, second = engine.sessions
    assert (first.aborted, first.left) == (INTERRUPT, True)
    assert unanswered(second.messages) == []
    assert "somebody pressed the key" in str(second.messages)
    [stopping] = await stage.events("session.stopping")
    assert (stopping.data, stopping.cause) == ({"scope": "turn"}, INTERRUPT)
    task = await stage.writer.read(lambda store: store.load_task(stage.run.id, "work"))
    calls = await stage.writer.read(lambda store: store.list_tool_calls(task.attempt_id))
    assert [(each.tool, each.state) for each in calls] == [
        ("hang", ToolCallState.CANCELLED),
        ("submit_result", ToolCallState.DONE),
    ]
    assert [event.data["steps"] for event in await stage.events("session.closed")] == [2]


async def test_a_session_that_is_over_or_unknown_cannot_be_interrupted(stage: Any) -> None:
    context = await stage.attempt()
    runner = stage.runner(FakeEngine(script=replies(submit(summary="done"))))
    assert not await runner.interrupt(context.attempt.id, INTERRUPT)
    await runner.run(context)
    assert not await runner.interrupt(context.attempt.id, INTERRUPT)


async def test_an_engine_that_ignores_an_interrupt_is_left(stage: Any) -> None:
    context = await stage.attempt()
    asked = anyio.Event()

    def script(conversation: Conversation) -> Reply:
        asked.set()
        told = any("go on" in text for text in conversation.user_texts)
        return submit(summary="went on") if told else Reply(fault=Fault.STALL)

    engine = FakeEngine(script=script, ignores_abort=True)
    runner = stage.runner(engine)
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(runner.run, context)
            await asked.wait()
            assert await runner.interrupt(context.attempt.id, INTERRUPT, await stage.said("go on"))
    assert [session.left for session in engine.sessions] == [True, True]


# --- without progress ---


async def test_a_silent_provider_is_asked_again_in_the_same_conversation(make_stage: Any) -> None:
    stage = await make_stage(step={"limits": LimitsSpec(idle_seconds=0.5, wall_seconds=30)})
    engine = FakeEngine(script=replies(Reply(fault=Fault.STALL), submit(summary="there it is")))
    with anyio.fail_after(10):
        outcome = await stage.execute(engine.script, engine=engine)
    assert outcome.state is AttemptState.COMPLETED
    assert await rungs(stage) == ["warned", "nudged"]
    assert engine.sessions[0].messages[:2] == engine.sessions[1].messages[:2]


async def test_a_provider_that_stays_silent_ends_the_session_on_the_last_rung(make_stage: Any) -> None:
    stage = await make_stage(step={"limits": LimitsSpec(idle_seconds=0.5, wall_seconds=30)})
    engine = FakeEngine(script=replies(Reply(fault=Fault.STALL)))
    with anyio.fail_after(10):
        outcome = await stage.execute(engine.script, engine=engine)
    assert (outcome.cause.code, outcome.retryable) == (CauseCode.WORKER_TIMEOUT, True)
    assert await rungs(stage) == ["warned", "nudged", "narrowed"]
    assert engine.sessions[-1].offered == {"submit_result"}


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (call("bash", command="ls"), "bash with the same arguments"),
        (call("baash", command="ls"), "'baash', which is no tool"),
    ],
)
async def test_a_session_that_goes_round_in_circles_is_told_narrowed_and_ended_early(
    make_stage: Any, reply: Reply, says: str
) -> None:
    stage = await make_stage(agent={"tools": ("bash",)})
    engine = FakeEngine(script=replies(reply), host_tools={"bash": answer_42})
    outcome = await stage.execute(engine.script, engine=engine)
    assert (outcome.state, outcome.cause.code) == (AttemptState.NEEDS_ATTENTION, CauseCode.NO_PROGRESS)
    assert says in outcome.cause.message
    assert await rungs(stage) == ["warned", "nudged", "narrowed"]
    assert len(await stage.events("session.model_answered")) <= 13
    assert "brought nothing new" in str(engine.sessions[0].messages)


async def test_a_session_that_is_told_it_goes_round_in_circles_can_still_do_better(make_stage: Any) -> None:
    stage = await make_stage(agent={"tools": ("bash",)})

    def script(conversation: Conversation) -> Reply:
        told = any("brought nothing new" in text for text in conversation.user_texts)
        return submit(summary="better") if told else call("bash", command="ls")

    outcome = await stage.execute(script, engine=FakeEngine(script=script, host_tools={"bash": answer_42}))
    assert outcome.state is AttemptState.COMPLETED


async def test_a_tool_that_used_up_its_time_twice_is_taken_away(make_stage: Any) -> None:
    limits = LimitsSpec(tool_seconds=0.1, wall_seconds=30)
    stage = await make_stage(step={"limits": limits}, agent={"tools": ("bash",)})

    async def hang(arguments: Any) -> str:
        await anyio.sleep_forever()
        raise AssertionError

    def script(conversation: Conversation) -> Reply:
        refused = any("there is no tool 'bash'" in each.text for each in conversation.tool_results)
        return submit(summary="x") if refused else call("bash", command=str(len(conversation.tool_results)))

    engine = FakeEngine(script=script, host_tools={"bash": hang})
    with anyio.fail_after(10):
        outcome = await stage.execute(engine.script, engine=engine)
    assert outcome.state is AttemptState.COMPLETED
    assert "bash" not in engine.sessions[0].offered
    assert str(engine.sessions[0].messages).count("'name': 'bash'") <= 4  # the third may be under way already
    assert (await rungs(stage)).count("narrowed") == 1


# --- budgets of requests and of turns ---


async def test_a_session_is_told_of_its_budget_and_made_to_hand_in_when_it_is_half_over(
    make_stage: Any,
) -> None:
    stage = await make_stage(step={"limits": LimitsSpec(requests=4)}, agent={"tools": ("count",)})
    count = iter(range(100))

    async def counting(arguments: Any, context: ToolContext) -> ToolOutput:
        return ToolOutput(text=str(next(count)))

    def script(conversation: Conversation) -> Reply:
        return submit(summary="forced") if conversation.forced == "submit_result" else call("count")

    stage.extra_tools = (tool("count", counting),)
    engine = FakeEngine(script=script)
    outcome = await stage.execute(script, engine=engine)
    assert outcome.state is AttemptState.COMPLETED
    first, second = engine.sessions
    assert "has cost 4 requests" in str(first.messages)
    assert second.offered == {"submit_result"}
    assert unanswered(second.messages) == []
    [hit] = await stage.events("session.limit_reached")
    assert hit.data == {"limit": "requests", "value": 4}
    # Why a turn is stopped is written down before it is.
    stopping, reopened = await stage.events("session.stopping", "session.reopened")
    assert (stopping.type, stopping.cause.code) == ("session.stopping", CauseCode.REQUEST_LIMIT)
    assert reopened.seq > stopping.seq


async def test_a_budget_that_is_ignored_ends_the_session_five_requests_later(make_stage: Any) -> None:
    stage = await make_stage(step={"limits": LimitsSpec(requests=4)}, agent={"tools": ("bash",)})
    engine = FakeEngine(
        script=lambda said: call("bash", command=str(said.number)), host_tools={"bash": answer_42}
    )
    outcome = await stage.execute(engine.script, engine=engine)
    assert (outcome.state, outcome.cause.code) == (AttemptState.NEEDS_ATTENTION, CauseCode.REQUEST_LIMIT)
    assert len(await stage.events("session.model_answered")) == 6 + 5


async def test_requests_that_failed_count_for_the_budget(make_stage: Any) -> None:
    limits = LimitsSpec(requests=2, model_retries=5)
    stage = await make_stage(step={"limits": limits})
    broken = Reply(fault=Fault.SERVER_ERROR)
    engine = FakeEngine(script=replies(broken, broken, broken, submit(summary="at last")))
    outcome = await stage.execute(engine.script, engine=engine)
    assert outcome.state is AttemptState.COMPLETED
    assert engine.sessions[-1].offered == {"submit_result"}


async def test_a_result_in_the_answer_that_used_up_the_budget_is_judged_first(make_stage: Any) -> None:
    stage = await make_stage(step={"limits": LimitsSpec(requests=2)}, agent={"tools": ("bash",)})
    engine = FakeEngine(
        script=replies(call("bash", command="1"), call("bash", command="2"), submit(summary="in time")),
        host_tools={"bash": answer_42},
    )
    outcome = await stage.execute(engine.script, engine=engine)
    assert outcome.state is AttemptState.COMPLETED
    assert len(engine.sessions) == 1


async def test_a_turn_that_lasts_too_long_is_stopped_and_made_to_hand_in(make_stage: Any) -> None:
    stage = await make_stage(step={"limits": LimitsSpec(turn_seconds=0.2, wall_seconds=30)})
    engine = FakeEngine(script=replies(Reply(fault=Fault.STALL), submit(summary="what I have")))
    with anyio.fail_after(10):
        outcome = await stage.execute(engine.script, engine=engine)
    assert outcome.state is AttemptState.COMPLETED
    assert engine.sessions[1].offered == {"submit_result"}


async def test_an_engine_that_cannot_go_on_with_a_conversation_is_narrowed_within_it(
    make_stage: Any,
) -> None:
    stage = await make_stage(step={"limits": LimitsSpec(turn_seconds=0.2, wall_seconds=30)})
    engine = FakeEngine(
        script=lambda said: submit(summary="x") if said.forced else call("irc", op="list"),
        capabilities=frozenset(EngineCapability) - {EngineCapability.HISTORY},
    )
    engine.script = _slowly(engine.script)
    with anyio.fail_after(10):
        outcome = await stage.execute(engine.script, engine=engine)
    assert outcome.state is AttemptState.COMPLETED
    assert len(engine.sessions) == 1


async def test_a_second_turn_that_lasts_too_long_ends_the_session(make_stage: Any) -> None:
    stage = await make_stage(step={"limits": LimitsSpec(turn_seconds=0.2, wall_seconds=30)})
    engine = FakeEngine(script=replies(Reply(fault=Fault.STALL)))
    with anyio.fail_after(10):
        outcome = await stage.execute(engine.script, engine=engine)
    assert outcome.cause.code is CauseCode.TURN_LIMIT


# --- a stop and what it meets ---


async def test_why_it_is_stopped_is_on_the_disk_before_it_is(stage: Any) -> None:
    context = await stage.attempt()
    engine = FakeEngine(script=replies(Reply(fault=Fault.STALL)))
    runner = stage.runner(engine)
    seen: list[tuple[Cause | None, Cause | None]] = []

    def look(event: EventRecord) -> None:
        if event.type == "session.stopping":
            seen.append((event.cause, engine.sessions[0].aborted))

    unsubscribe = stage.writer.subscribe(look)
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(runner.run, context)
            while not engine.sessions or not await stage.events("session.opened"):
                await anyio.lowlevel.checkpoint()
            await runner.abort(context.attempt.id, CANCEL)
    unsubscribe()
    assert seen == [(CANCEL, None)]


MOMENTS = (
    "session.opened",
    "session.model_answered",
    "session.tool_started",
    "result.accepted",
    "session.tool_ended",
    "session.closed",
)


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("how", ["abort", "interrupt"])
@pytest.mark.parametrize("schema", [None, {"type": "object"}])
async def test_a_stop_that_meets_a_submit_loses_no_accepted_result(
    make_stage: Any, moment: str, how: str, schema: Any
) -> None:
    stage = await make_stage(step={"result_schema": schema})
    context = await stage.attempt()
    runner = stage.runner(FakeEngine(script=replies(submit(summary="just in time", data={}))))
    now = anyio.Event()
    unsubscribe = stage.writer.subscribe(lambda event: now.set() if event.type == moment else None)
    outcomes: list[Outcome] = []

    async def run() -> None:
        outcomes.append(await runner.run(context))

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(run)
            await now.wait()
            await getattr(runner, how)(context.attempt.id, CANCEL)
    unsubscribe()
    results = await stage.writer.read(lambda store: store.list_results(stage.run.id))
    completed = outcomes[0].state is AttemptState.COMPLETED
    assert completed == bool(results)
    assert completed or (how == "abort" and moment in MOMENTS[:3])
    assert len(results) <= 1
