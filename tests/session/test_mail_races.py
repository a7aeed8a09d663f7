"""Mail that comes just as something else happens to its session: no word of it is lost, and each receipt
is true."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from crew_plugin.engine.takeover import TakeOver, take_stock
from crew_plugin.host import Session, SessionSpec, ToolOutput, ToolSpec
from crew_plugin.models.causes import Cause, CauseCode
from crew_plugin.models.facts import ModelFacts, ModelTable
from crew_plugin.models.mail import MessageKind, MessageState
from crew_plugin.models.records import Usage
from crew_plugin.store.liveness import current_owner
from crew_plugin.testing.conversation import Conversation, Fault, Reply, ToolUse
from crew_plugin.testing.fake_engine import FakeEngine
from tests.session.test_attempts import BROKEN, DONE, LOOK, STEPS, Play
from tests.session.test_wakes import Woken

pytestmark = pytest.mark.anyio

STOP = Cause(code=CauseCode.CALLER_CANCELLED, message="somebody stopped the turn")
WORK = Reply(calls=(ToolUse(name="work"),))


class Work:
    """A tool that says when it is called, and returns when it may."""

    def __init__(self) -> None:
        self.begun = anyio.Event()
        self.may_end = anyio.Event()

    @property
    def tool(self) -> ToolSpec:
        async def execute(arguments: Any, context: Any) -> ToolOutput:
            self.begun.set()
            await self.may_end.wait()
            return ToolOutput(text="line\n" * 500)

        return ToolSpec(name="work", description="", parameters={"type": "object"}, execute=execute)


class Lingering(FakeEngine):
    """Takes its time to leave a session, as one does that has shells to end."""

    leaving: anyio.Event
    may_leave: anyio.Event

    @asynccontextmanager
    async def open(self, spec: SessionSpec) -> AsyncGenerator[Session]:
        async with super().open(spec) as session:
            yield session
            self.leaving.set()
            with anyio.CancelScope(shield=True):
                await self.may_leave.wait()


def lingering(script: Callable[[Conversation], Reply]) -> Lingering:
    engine = Lingering(script=script)
    engine.leaving, engine.may_leave = anyio.Event(), anyio.Event()
    return engine


def meanwhile(stage: Any, monkeypatch: pytest.MonkeyPatch, what: Callable[[], Any]) -> None:
    """Do this, once, when mail was taken for a session and before it is given it."""
    run, todo = stage.writer.run, [what]

    async def slow(work: Any, **options: Any) -> Any:
        value = await run(work, **options)
        if "_collect" in getattr(work, "__qualname__", "") and todo:
            await todo.pop()()
        return value

    monkeypatch.setattr(stage.writer, "run", slow)


async def test_a_question_to_a_task_between_two_attempts_does_not_run_out(make_stage: Any) -> None:
    play = Play(await make_stage(STEPS))
    await play.attempt(BROKEN, BROKEN, again=True)
    await play.follow()
    alice = play.runner._room.box(play.stage.run.id, "alice")
    [receipt] = await alice.send(("bob",), "which port?", reply_within=0.001)
    assert receipt.outcome == "queued"
    [message] = await play.stage.writer.read(lambda store: store.list_messages(play.stage.run.id))
    assert message.expires_at is None
    await play.attempt(DONE)
    assert "which port?" in play.prompts[-1]
    play.runner._room.forget(alice, "the test is over")


@pytest.mark.parametrize(("sender", "outcome"), [("operator", "missed"), ("alice", "missed")])
async def test_a_session_that_is_being_left_for_good_is_not_said_to_see_it(
    make_stage: Any, sender: str, outcome: str
) -> None:
    stage = await make_stage(STEPS)
    play = Play(stage)
    engine = lingering(play._answer)
    play.runner = stage.runner(engine)
    async with anyio.create_task_group() as group:
        group.start_soon(play.attempt, DONE)
        await engine.leaving.wait()
        await play.say(sender, "use tabs", MessageKind.STEER if sender == "operator" else MessageKind.MESSAGE)
        engine.may_leave.set()
    assert play.receipts[-1].outcome == outcome
    assert (await play.states())[0] is MessageState.DEAD


@pytest.mark.parametrize("sender", ["operator", "alice"])
async def test_what_was_taken_for_a_turn_that_is_just_stopped_is_given_to_the_next_one(
    make_stage: Any, monkeypatch: pytest.MonkeyPatch, sender: str
) -> None:
    stage = await make_stage(STEPS)
    work = Work()
    play = Play(stage)
    stage.extra_tools = (work.tool,)
    engine = lingering(lambda said: DONE if said.find("Your turn was stopped") else WORK)
    play.runner = stage.runner(engine)
    play.context = await stage.attempt("bob")
    attempt_id = play.context.attempt.id

    async def stop() -> None:
        group.start_soon(play.runner.interrupt, attempt_id, STOP)
        await engine.leaving.wait()

    meanwhile(stage, monkeypatch, stop)
    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            group.start_soon(play.runner.run, play.context)
            await work.begun.wait()
            await play.say(sender, "use tabs")
            engine.may_leave.set()
    assert play.receipts[-1].outcome == "injected"
    assert await play.states() == [MessageState.READ]


async def test_a_sender_whose_turn_is_stopped_takes_nobodys_mail_with_it(
    make_stage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = await make_stage(STEPS)
    room = stage.runner(FakeEngine(script=lambda _: DONE))._room
    alice, bob = room.box(stage.run.id, "alice"), room.box(stage.run.id, "bob")
    given: list[str] = []

    async def take_it(text: str, message_id: str) -> bool:
        given.append(text)
        return True

    await bob.open(take_it)
    await stage.writer.run(
        lambda store: store.send_message(
            stage.run.id, sender="operator", recipient="bob", kind=MessageKind.STEER, body="use tabs"
        )
    )
    scope = anyio.CancelScope()

    async def stop_alice() -> None:
        scope.cancel()

    meanwhile(stage, monkeypatch, stop_alice)
    with scope:
        await alice.send(("bob",), "I own b.py")
    with anyio.fail_after(20):
        while len(given) < 2:
            await anyio.lowlevel.checkpoint()
    assert ["use tabs" in given[0], "I own b.py" in given[1]] == [True, True]
    for box in (alice, bob):
        room.forget(box, "the test is over")


@pytest.mark.parametrize("answered", [False, True])
async def test_what_was_said_with_the_stop_of_a_turn_is_told_to_the_next_attempt(
    make_stage: Any, answered: bool
) -> None:
    stage = await make_stage(STEPS)
    work = Work()
    play = Play(stage)
    stage.extra_tools = (*stage.extra_tools, work.tool)
    replies = [WORK, *([LOOK] if answered else []), BROKEN, BROKEN]
    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:

            async def first() -> None:
                await play.attempt(*replies, again=True)

            group.start_soon(first)
            await work.begun.wait()
            assert play.context is not None
            told = await stage.said("use tabs", to="bob")
            assert await play.runner.interrupt(play.context.attempt.id, STOP, told)
    await play.follow()
    await play.attempt(DONE)
    assert "use tabs" in play.prompts[-1]
    assert await play.states() == [MessageState.READ]


async def test_what_was_said_with_a_stop_survives_a_compaction_at_the_same_moment(
    make_stage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = ModelTable(facts={"scripted": ModelFacts(window=10_000)}, window=10_000)
    stage = await make_stage(STEPS)
    work = Work()
    stage.extra_tools = (work.tool,)
    full = replace(WORK, usage=Usage(input=9_000, output=10, calls=1))
    replies, prompts = [full, DONE], list[str]()

    def script(said: Conversation) -> Reply:
        prompts.append(said.last_user)
        return replies.pop(0)

    runner = stage.runner(FakeEngine(script=script), table=table)
    context = await stage.attempt("bob")
    told = await stage.said("use tabs", to="bob")
    from crew_plugin.session.course import Course

    about_to_stop = Course.about_to_stop

    async def and_the_tool_ends(course: Course, *arguments: Any) -> None:
        work.may_end.set()
        while course.reopening is None or not course.reopening.compacts:
            await anyio.lowlevel.checkpoint()
        await about_to_stop(course, *arguments)

    monkeypatch.setattr(Course, "about_to_stop", and_the_tool_ends)
    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            group.start_soon(runner.run, context)
            await work.begun.wait()
            assert await runner.interrupt(context.attempt.id, STOP, told)
    assert len(await stage.events("session.compacted")) == 1
    assert "use tabs" in prompts[-1]


async def test_a_follow_up_in_a_request_that_failed_wakes_its_session_once(make_stage: Any) -> None:
    stage = await make_stage(STEPS)
    asked = anyio.Event()

    def script(said: Conversation) -> Reply:
        asked.set()
        if said.find("You are woken"):
            return Reply(text="I have seen it")
        if said.find("also the tests"):
            return Reply(fault=Fault.UNAUTHORIZED)
        return Reply(text="I am done", delay=0.3)

    runner = stage.runner(FakeEngine(script=script))
    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            wake = Woken(stage, runner, group)
            context = await wake.attempt("bob")

            async def bob() -> None:
                await stage.settle(context, await runner.run(context))

            group.start_soon(bob)
            await asked.wait()
            sent = await stage.writer.run(
                lambda store: store.send_message(
                    stage.run.id,
                    sender="operator",
                    recipient="bob",
                    kind=MessageKind.FOLLOW_UP,
                    body="also the tests",
                )
            )
            await runner.deliver(context, sent.id)
    assert len(await stage.events("session.woken")) == 1
    message = await stage.writer.read(lambda store: store.load_message(sent.id))
    assert message.state is MessageState.READ


async def test_an_answer_that_a_call_returned_is_not_given_again_after_a_crash(make_stage: Any) -> None:
    stage = await make_stage(STEPS)
    asked = anyio.Event()
    question = {"op": "send", "to": "bob", "message": "which port?", "await_reply": True, "seconds": 9}

    def script(said: Conversation) -> Reply:
        if not said.tool_results:
            return Reply(calls=(ToolUse(name="irc", arguments=question),))
        asked.set()
        return Reply(held=True)

    runner = stage.runner(FakeEngine(script=script))
    bob = runner._room.box(stage.run.id, "bob")
    await stage.attempt("bob")
    waits = anyio.Event()

    async def answer(text: str, message_id: str) -> bool:
        waits.set()
        return True

    await bob.open(answer)
    context = await stage.attempt("alice")

    def take(store: Any) -> Any:
        lease = store.claim(stage.run.id, current_owner(), force=True)
        take_stock(store, lease, TakeOver())
        attempt = store.resume_attempt(lease, context.attempt.id, actor="supervisor")
        task = store.load_task(stage.run.id, "alice")
        return replace(context, lease=lease, attempt=attempt, task=task, goes_on=True)

    shown: list[str] = []

    def after(said: Conversation) -> Reply:
        shown.append("\n".join(str(message.get("content")) for message in said.messages))
        return DONE if len(shown) > 1 else Reply(calls=(ToolUse(name="irc", arguments={"op": "list"}),))

    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            group.start_soon(runner.run, context)
            await waits.wait()
            await bob.send(("alice",), "port 8080")
            await asked.wait()
            while not [entry for entry in await stage.transcript("alice") if entry.role == "tool"]:
                await anyio.lowlevel.checkpoint()
            again = await stage.writer.run(take)
            group.cancel_scope.cancel()
        await stage.runner(FakeEngine(script=after)).run(again)
    assert shown[-1].count("port 8080") == 1
    runner._room.forget(bob, "the test is over")


async def test_what_somebody_settled_is_told_to_no_attempt(make_stage: Any) -> None:
    play = Play(await make_stage(STEPS))
    await play.attempt(BROKEN, BROKEN, again=True)
    await play.say("operator", "delete the old branch")
    await play.follow()
    [message] = await play.stage.writer.read(lambda store: store.list_messages(play.stage.run.id))
    await play.stage.writer.run(lambda store: store.acknowledge_message(message.id, actor="operator"))
    await play.attempt(DONE)
    assert "delete the old branch" not in play.prompts[-1]
