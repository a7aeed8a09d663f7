"""`ask`: a session waits for an answer, and every wait ends."""

from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from crew_plugin.engine.ports import Outcome
from crew_plugin.errors import InvalidValue, NotAllowed
from crew_plugin.models.causes import Cause, CauseCode
from crew_plugin.models.mail import MessageKind
from crew_plugin.models.questions import QuestionRecord, QuestionState
from crew_plugin.models.spec import LimitsSpec
from crew_plugin.models.states import AttemptState, TaskState
from crew_plugin.session.limits import Deadlines
from crew_plugin.testing.conversation import Conversation, Reply, ToolUse
from crew_plugin.testing.fake_engine import FakeEngine
from tests.session.conftest import Stage

pytestmark = pytest.mark.anyio

ENOUGH = Cause(code=CauseCode.CALLER_CANCELLED, message="enough")


def use(name: str, **arguments: Any) -> Reply:
    return Reply(calls=(ToolUse(name=name, arguments=arguments),))


def asks(**question: Any) -> Callable[[Conversation], Reply]:
    """Asks once, and hands in what it was told."""

    def script(conversation: Conversation) -> Reply:
        if not conversation.tool_results:
            return use("ask", question="Which port?", **question)
        return use("submit_result", summary=conversation.tool_results[-1].text)

    return script


async def asked(stage: Stage) -> QuestionRecord:
    """The question, once it stands in the store."""
    while not (found := await stage.writer.read(lambda store: store.list_questions(stage.run.id))):
        await anyio.lowlevel.checkpoint()
    return found[-1]


async def during(
    stage: Stage, script: Callable[[Conversation], Reply], then: Callable[[QuestionRecord, Any], Any]
) -> Outcome:
    """One attempt; `then` is done while it waits."""
    context = await stage.attempt()
    runner = stage.runner(FakeEngine(script=script))
    outcomes: list[Outcome] = []

    async def run() -> None:
        outcomes.append(await runner.run(context))

    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            group.start_soon(run)
            question = await asked(stage)
            assert await task_state(stage) is TaskState.WAITING
            await then(question, (runner, context))
    await stage.settle(context, outcomes[0])
    return outcomes[0]


async def task_state(stage: Stage) -> TaskState:
    return (await stage.writer.read(lambda store: store.load_task(stage.run.id, "work"))).state


async def summary(stage: Stage) -> str:
    (result,) = await stage.writer.read(lambda store: store.list_results(stage.run.id))
    return result.summary


async def test_an_answer_is_what_the_call_returns_and_the_task_waits_until_then(make_stage: Any) -> None:
    stage = await make_stage()

    async def answer(question: QuestionRecord, _: Any) -> None:
        await stage.writer.run(lambda store: store.answer_question(question.id, " 8080 ", by="operator"))

    outcome = await during(stage, asks(), answer)
    assert outcome.state is AttemptState.COMPLETED
    assert await summary(stage) == "The answer (operator): 8080"
    told = await stage.events("task.waiting", "question.answered", "task.resumed")
    assert [event.type for event in told] == ["task.waiting", "question.answered", "task.resumed"]
    assert told[0].data["question"] == "Which port?"
    assert told[2].data["outcome"] == "answered"
    assert await task_state(stage) is TaskState.COMPLETED
    stage.nothing_is_open()


async def test_an_answer_that_is_none_of_the_choices_is_refused_with_them_and_leaves_it_open(
    make_stage: Any,
) -> None:
    stage = await make_stage()

    async def answer(question: QuestionRecord, _: Any) -> None:
        with pytest.raises(InvalidValue, match="one of: 8080, 9090; got '1234'"):
            await stage.writer.run(lambda store: store.answer_question(question.id, "1234", by="operator"))
        assert (await asked(stage)).state is QuestionState.OPEN
        await stage.writer.run(lambda store: store.answer_question(question.id, "9090", by="operator"))
        with pytest.raises(NotAllowed, match="answered already, by operator: '9090'"):
            await stage.writer.run(lambda store: store.answer_question(question.id, "8080", by="operator"))

    await during(stage, asks(choices="8080, 9090"), answer)
    assert await summary(stage) == "The answer (operator): 9090"


async def test_without_an_answer_in_time_it_goes_on_with_its_default(make_stage: Any) -> None:
    stage = await make_stage()

    async def nothing(question: QuestionRecord, _: Any) -> None:
        while (await asked(stage)).state is QuestionState.OPEN:
            await anyio.lowlevel.checkpoint()
        with pytest.raises(NotAllowed, match="expired, nobody answered"):
            await stage.writer.run(lambda store: store.answer_question(question.id, "x", by="operator"))

    outcome = await during(stage, asks(deadline=0.3, default="8080"), nothing)
    assert outcome.state is AttemptState.COMPLETED
    said = "No answer: nobody answered within 0.3 s. Go on with your default: 8080"
    assert await summary(stage) == said


async def test_a_waiting_session_is_cancelled_like_any_other_and_its_question_is_withdrawn(
    make_stage: Any,
) -> None:
    stage = await make_stage()

    async def cancel(question: QuestionRecord, running: Any) -> None:
        runner, context = running
        await runner.abort(context.attempt.id, ENOUGH)

    outcome = await during(stage, asks(), cancel)
    assert outcome.state is AttemptState.CANCELLED
    assert (await asked(stage)).state is QuestionState.WITHDRAWN
    assert await task_state(stage) is TaskState.CANCELLED
    stage.nothing_is_open()


async def test_an_interrupted_wait_ends_and_the_session_goes_on(make_stage: Any) -> None:
    stage = await make_stage()

    def script(conversation: Conversation) -> Reply:
        if conversation.find("use 7070"):
            return use("submit_result", summary="7070 then")
        return use("ask", question="Which port?")

    async def interrupt(question: QuestionRecord, running: Any) -> None:
        runner, context = running
        assert await runner.interrupt(context.attempt.id, ENOUGH, await stage.said("use 7070"))

    outcome = await during(stage, script, interrupt)
    assert outcome.state is AttemptState.COMPLETED
    assert (await asked(stage)).reason == "its turn was stopped"


async def test_a_word_of_whoever_started_it_ends_the_wait_and_a_peer_does_not(make_stage: Any) -> None:
    stage = await make_stage()

    def script(conversation: Conversation) -> Reply:
        if not conversation.tool_results:
            return use("ask", question="Which port?")
        assert conversation.find("forget the port")
        return use("submit_result", summary=conversation.tool_results[0].text)

    async def say(question: QuestionRecord, running: Any) -> None:
        runner, context = running
        for sender, text in (("peer", "hello"), ("operator", "forget the port")):
            message = await stage.writer.run(
                lambda store, sender=sender, text=text: store.send_message(
                    stage.run.id, sender=sender, recipient="work", kind=MessageKind.MESSAGE, body=text
                )
            )
            await runner.deliver(context, message.id)
            if sender == "peer":
                assert (await asked(stage)).state is QuestionState.OPEN

    await during(stage, script, say)
    assert (await summary(stage)).startswith("No answer: operator wrote to its session instead.")


def test_the_clocks_of_a_session_stand_still_while_it_waits() -> None:
    limits = LimitsSpec(idle_seconds=10, turn_seconds=20, wall_seconds=40)
    clocks = Deadlines(limits, 0.0)
    clocks.turn_began(0.0)
    clocks.tool_started("c", "ask", 1.0)
    clocks.put_off(100.0)
    assert clocks.due(99.0) is None
    # The answer came at 61: 40 of the 100 seconds are taken back.
    clocks.put_off(-40.0)
    clocks.tool_ended("c", 61.0)
    assert clocks.due(70.0) is not None  # half of the idle limit: a first rung, no end
    assert clocks.look_again(70.0) <= 80.0
