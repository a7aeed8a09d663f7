"""A session whose conversation outgrows its model goes on, and loses nothing that binds it."""

from typing import Any

import anyio
import anyio.lowlevel
import pytest

from crew_plugin.host import EngineCapability, ToolOutput, ToolSpec
from crew_plugin.models.causes import Cause, CauseCode
from crew_plugin.models.facts import ModelFacts, ModelTable
from crew_plugin.models.mail import MessageKind
from crew_plugin.models.records import Effect, Usage
from crew_plugin.models.states import AttemptState
from crew_plugin.testing.conversation import Conversation, Fault, Reply, Script, ToolUse
from crew_plugin.testing.fake_engine import FakeEngine

pytestmark = pytest.mark.anyio

SMALL = ModelTable(facts={"scripted": ModelFacts(window=10_000)}, window=10_000)
SCHEMA = {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}}
HANDED_IN = Reply(calls=(ToolUse(name="submit_result", arguments={"summary": "done", "data": {"n": 1}}),))


def _look(arguments: Any) -> ToolOutput:
    return ToolOutput(text=f"SEEN {arguments['n']}\n" + "line of text\n" * 500)


async def _edit(arguments: Any) -> str:
    return "edited"


def _tool() -> ToolSpec:
    async def execute(arguments: Any, context: Any) -> Any:
        return _look(arguments)

    return ToolSpec(
        name="look", description="looks", parameters={"type": "object"}, execute=execute, effect=Effect.PURE
    )


def _works(steps: int, *, context: int = 0, edits: int = -1) -> Script:
    """Looks so many times, each answer saying how long the conversation is, then hands in."""
    count = 0

    def script(conversation: Conversation) -> Reply:
        nonlocal count
        count += 1
        usage = Usage(input=context if len(conversation.messages) > 8 else 1_000, output=10, calls=1)
        if count > steps:
            return HANDED_IN
        name = "edit" if count == edits else "look"
        return Reply(
            calls=(ToolUse(name=name, arguments={"n": count, "path": f"src/{count}.py"}),), usage=usage
        )

    return script


async def _stage(make_stage: Any) -> Any:
    stage = await make_stage(agent={"tools": ("edit",)}, step={"result_schema": SCHEMA})
    stage.extra_tools = (_tool(),)
    return stage


async def test_at_three_quarters_of_its_window_a_conversation_is_shortened_between_two_steps(
    make_stage: Any,
) -> None:
    stage = await _stage(make_stage)
    engine = FakeEngine(script=_works(9, context=7_600, edits=1), host_tools={"edit": _edit})
    outcome = await stage.execute(engine.script, engine=engine, table=SMALL)

    assert outcome.state is AttemptState.COMPLETED
    (event, *_) = await stage.events("session.compacted")
    assert event.data["because"] == "window"
    assert event.cause.code is CauseCode.CONTEXT_FULL
    assert event.data["after"] < event.data["before"]
    first, second = engine.sessions[:2]
    assert second.spec.system_prompt == first.spec.system_prompt
    history = second.spec.history
    assert history[0].content.count("Result schema") == 1, "task and schema stay word for word"
    assert "SEEN 1" not in "".join(entry.content for entry in history)
    assert second.spec.tools == first.spec.tools


async def test_the_session_is_told_what_is_left_out_where_it_is_and_which_files_it_changed(
    make_stage: Any,
) -> None:
    stage = await _stage(make_stage)
    engine = FakeEngine(script=_works(9, context=7_600, edits=1), host_tools={"edit": _edit})
    await stage.execute(engine.script, engine=engine, table=SMALL)

    (event, *_) = await stage.events("session.compacted")
    transcript = await stage.transcript()
    (told,) = [entry.content for entry in transcript if event.data["artifact"][:16] in entry.content]
    assert f"{event.data['left_out']} of your earlier messages" in told
    assert "src/1.py" in told
    whole = await stage.writer.read(lambda store: store.read_artifact(event.data["artifact"]))
    assert b"SEEN 2" in whole


async def test_an_overflow_is_answered_by_keeping_less_and_the_work_goes_on(make_stage: Any) -> None:
    stage = await _stage(make_stage)
    works = _works(6)

    def script(conversation: Conversation) -> Reply:
        size = sum(len(str(message)) for message in conversation.messages)
        return Reply(fault=Fault.CONTEXT_OVERFLOW) if size > 24_000 else works(conversation)

    engine = FakeEngine(script=script)
    outcome = await stage.execute(script, engine=engine)

    assert outcome.state is AttemptState.COMPLETED
    compacted = await stage.events("session.compacted")
    assert compacted
    assert {event.data["because"] for event in compacted} == {"overflow"}
    attempt = await stage.writer.read(lambda store: store.load_attempt(compacted[0].attempt_id))
    assert attempt.counts.compactions == len(compacted)


async def test_an_overflow_that_nothing_helps_against_ends_the_attempt_after_three_tries(
    make_stage: Any,
) -> None:
    stage = await _stage(make_stage)
    engine = FakeEngine(script=lambda _: Reply(fault=Fault.CONTEXT_OVERFLOW))
    outcome = await stage.execute(engine.script, engine=engine)

    assert outcome.state is AttemptState.FAILED
    assert outcome.cause.code is CauseCode.MODEL_ERROR
    assert outcome.cause.detail == "context_overflow"
    assert len(await stage.events("session.compacted")) == 3


async def test_an_engine_that_cannot_go_on_with_a_conversation_ends_at_an_overflow(make_stage: Any) -> None:
    stage = await _stage(make_stage)
    engine = FakeEngine(
        script=lambda _: Reply(fault=Fault.CONTEXT_OVERFLOW),
        capabilities=frozenset(EngineCapability) - {EngineCapability.HISTORY},
    )
    outcome = await stage.execute(engine.script, engine=engine)
    assert outcome.state is AttemptState.FAILED
    assert await stage.events("session.compacted") == []


async def test_a_message_that_no_model_has_seen_survives_the_compaction_word_for_word(
    make_stage: Any,
) -> None:
    stage = await _stage(make_stage)
    works = _works(3)
    seen: list[str] = []
    overflowed = False

    def script(conversation: Conversation) -> Reply:
        nonlocal overflowed
        seen[:] = conversation.user_texts
        if len(conversation.tool_results) == 3 and not overflowed:
            overflowed = True
            return Reply(fault=Fault.CONTEXT_OVERFLOW)
        return works(conversation)

    engine = FakeEngine(script=script)

    async def steers(arguments: Any, context: Any) -> Any:
        if arguments["n"] == 3:
            send = MessageKind.STEER
            message = await stage.writer.run(
                lambda store: store.send_message(
                    stage.run.id, sender="operator", recipient="work", kind=send, body="MIND THE GAP"
                )
            )
            await runner.deliver(attempt, message.id)
        return _look(arguments)

    stage.extra_tools = (
        ToolSpec(name="look", description="", parameters={"type": "object"}, execute=steers),
    )
    runner = stage.runner(engine)
    attempt = await stage.attempt()
    outcome = await runner.run(attempt)

    assert outcome.state is AttemptState.COMPLETED
    assert overflowed
    assert any("MIND THE GAP" in text for text in seen)


async def test_what_no_model_has_read_is_kept_also_if_the_turn_was_stopped_before(make_stage: Any) -> None:
    """Steered during a call, then the turn is stopped, then the next request is too long."""
    stage = await make_stage()
    works, seen = anyio.Event(), list[Conversation]()

    async def work(arguments: Any, context: Any) -> ToolOutput:
        works.set()
        await anyio.sleep_forever()
        raise AssertionError

    stage.extra_tools = (
        _tool(),
        ToolSpec(name="work", description="", parameters={"type": "object"}, execute=work),
    )
    looks = Reply(calls=(ToolUse(name="look", arguments={"n": 1}),))
    then = Reply(calls=(ToolUse(name="look", arguments={"n": 2}), ToolUse(name="work")), delay=0.3)
    replies = [looks, then, Reply(fault=Fault.CONTEXT_OVERFLOW), HANDED_IN]

    def script(conversation: Conversation) -> Reply:
        seen.append(conversation)
        return replies[len(seen) - 1]

    runner = stage.runner(FakeEngine(script=script))
    context = await stage.attempt()
    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            group.start_soon(runner.run, context)
            while len(seen) < 2:
                await anyio.lowlevel.checkpoint()
            assert await runner._live[context.attempt.id].steer("use version one")
            await works.wait()
            cause = Cause(code=CauseCode.LEADER_INTERRUPTED, message="stop")
            assert await runner.interrupt(context.attempt.id, cause)
    assert len(await stage.events("session.compacted")) == 1
    assert "use version one" not in str(seen[1].messages)
    assert "use version one" in str(seen[-1].messages)
