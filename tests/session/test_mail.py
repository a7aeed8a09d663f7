"""Mail between the tasks of a run: receipts, delivery, and what stops an echo."""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from crew_plugin.errors import NotAllowed, UnknownName
from crew_plugin.models.mail import MessageKind, MessageState
from crew_plugin.models.records import TranscriptEntry
from crew_plugin.models.spec import StepSpec
from crew_plugin.models.states import AttemptState, TaskState
from crew_plugin.session.mail import MAX_HOPS, MailRoom
from crew_plugin.session.traffic import RATE_MESSAGES, RATE_SECONDS
from crew_plugin.testing.conversation import Conversation, Reply, ToolUse
from crew_plugin.testing.fake_engine import FakeEngine
from crew_tools.irc import irc_tool

pytestmark = pytest.mark.anyio


def steps(*keys: str) -> tuple[StepSpec, ...]:
    return tuple(StepSpec(id=key, role=key, agent="worker", task=f"Do {key}.") for key in keys)


def use(name: str, **arguments: Any) -> Reply:
    return Reply(calls=(ToolUse(name=name, arguments=arguments),))


async def states(stage: Any) -> list[tuple[str, str, MessageState]]:
    messages = await stage.writer.read(lambda store: store.list_messages(stage.run.id))
    return [(message.sender, message.recipient, message.state) for message in messages]


async def test_two_running_sessions_talk_and_the_mail_is_read(make_stage: Any) -> None:
    stage = await make_stage(steps("alice", "bob"))
    both_open = anyio.Event()
    asked: set[str] = set()

    def script(conversation: Conversation) -> Reply:
        key = "alice" if "task `alice`" in conversation.system else "bob"
        asked.add(key)
        if len(asked) == 2:
            both_open.set()
        if key == "alice":
            if not conversation.tool_results:
                return use("wait_for_both")
            if len(conversation.tool_results) == 1:
                return use("irc", op="send", to="bob", message="the key is 🗝 42")
            return use("submit_result", summary="told bob: " + conversation.tool_results[-1].text)
        if conversation.find("the key is 🗝 42"):
            return use("submit_result", summary="heard")
        return use("irc", op="list")

    stage.extra_tools = (waiting_tool(both_open),)
    runner = stage.runner(FakeEngine(script=script))
    contexts = [await stage.attempt(key) for key in ("alice", "bob")]
    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            for context in contexts:
                group.start_soon(runner.run, context)
    summaries = [
        result.summary for result in await stage.writer.read(lambda store: store.list_results(stage.run.id))
    ]
    assert summaries == ["told bob: bob: will see it at its next step.", "heard"]
    assert await states(stage) == [("alice", "bob", MessageState.READ)]
    heard = [entry for entry in await stage.transcript("bob") if entry.data.get("steer")]
    assert "Message from the task `alice`" in heard[0].content
    assert "<data-" in heard[0].content


def waiting_tool(event: anyio.Event) -> Any:
    from crew_plugin.host import ToolOutput, ToolSpec

    async def execute(arguments: Any, context: Any) -> ToolOutput:
        await event.wait()
        return ToolOutput(text="both are here")

    return ToolSpec(name="wait_for_both", description="", parameters={"type": "object"}, execute=execute)


async def test_a_peer_that_has_not_started_finds_the_message_in_its_first_prompt(make_stage: Any) -> None:
    stage = await make_stage(steps("alice", "bob"))
    sends = [use("irc", op="send", to="bob", message="mind the gap"), use("submit_result", summary="ok")]
    await stage.execute(lambda _: sends.pop(0), key="alice")
    assert await states(stage) == [("alice", "bob", MessageState.ACCEPTED)]
    engine = FakeEngine(script=lambda _: use("submit_result", summary="ok"))
    await stage.execute(engine.script, key="bob", engine=engine)
    assert "mind the gap" in engine.sessions[0].messages[1]["content"]
    assert await states(stage) == [("alice", "bob", MessageState.READ)]


async def test_mail_that_a_killed_session_had_in_its_conversation_is_read_when_it_goes_on(
    make_stage: Any,
) -> None:
    stage = await make_stage(steps("alice", "bob"))
    context = await stage.attempt("bob")
    box = MailRoom(stage.writer).box(stage.run.id, "alice")
    await box.send(("bob",), "mind the gap")

    def killed(store: Any) -> None:
        """Given the message, and gone before its next model call."""
        [message] = store.take_messages(stage.run.id, "bob")
        prompt = store.put_artifact(stage.run.id, "bob/prompt-1.md", b"You are bob.")
        store.open_session(stage.lease, context.attempt.id, host_session="fake", prompt=prompt)
        told = TranscriptEntry(
            seq=0, role="user", content="mind the gap", data={"steer": True, "messages": [message.id]}
        )
        store.append_transcript(stage.lease, context.attempt.session_id, [told])

    await stage.writer.run(killed)
    assert await states(stage) == [("alice", "bob", MessageState.DELIVERED)]
    engine = FakeEngine(script=lambda _: use("submit_result", summary="ok"))
    with anyio.fail_after(20):
        outcome = await stage.runner(engine).run(replace(context, goes_on=True))
    assert outcome.state is AttemptState.COMPLETED
    assert "mind the gap" in engine.sessions[0].messages[1]["content"]
    assert await states(stage) == [("alice", "bob", MessageState.READ)]


async def test_mail_to_a_task_that_ended_fails_with_the_reason(make_stage: Any) -> None:
    stage = await make_stage(steps("alice", "bob"))
    await stage.execute(lambda _: use("submit_result", summary="ok"), key="bob")
    box = MailRoom(stage.writer).box(stage.run.id, "alice")
    [receipt] = await box.send(("bob",), "are you there?")
    assert (receipt.outcome, "ended (completed)" in receipt.reason) == ("failed", True)
    assert await states(stage) == [("alice", "bob", MessageState.DEAD)]


async def test_mail_that_was_never_read_is_dead_when_its_session_ends(make_stage: Any) -> None:
    stage = await make_stage(steps("alice", "bob"))
    room = MailRoom(stage.writer)
    alice, bob = room.box(stage.run.id, "alice"), room.box(stage.run.id, "bob")
    await stage.attempt("bob")
    [receipt] = await alice.send(("bob",), "too early")
    assert receipt.outcome == "injected"
    await stage.writer.run(bob.close("the session of bob ended: it was aborted"))
    message, relay = await stage.writer.read(lambda store: store.list_messages(stage.run.id))
    assert message.state is MessageState.DEAD
    assert "it was aborted" in message.reason
    assert (relay.recipient, relay.kind, relay.reply_to) == ("alice", MessageKind.RELAY, message.id)
    assert "did not read your message any more: the session of bob ended" in relay.body
    [receipt] = await alice.send(("bob",), "too late")
    assert receipt.outcome == "missed"
    failed, _ = await stage.events("message.failed")
    assert "it was aborted" in failed.data["reason"]


async def test_a_message_to_a_session_that_is_just_ending_fails(make_stage: Any) -> None:
    stage = await make_stage(steps("alice", "bob"))
    room = MailRoom(stage.writer)
    alice, bob = room.box(stage.run.id, "alice"), room.box(stage.run.id, "bob")

    async def takes_nothing(text: str, message_id: str) -> bool:
        return False

    bob.deliver, bob.over = takes_nothing, lambda: True
    [receipt] = await alice.send(("bob",), "hello")
    assert (receipt.outcome, receipt.reason) == ("missed", "its session is just ending")
    assert await states(stage) == [("alice", "bob", MessageState.DEAD)]
    bob.retried = lambda: True
    [receipt] = await alice.send(("bob",), "hello again")
    assert (receipt.outcome, "next session" in receipt.reason) == ("queued", True)
    assert (await states(stage))[1:] == [("alice", "bob", MessageState.DELIVERED)]
    given: list[str] = []

    async def takes_it(text: str, message_id: str) -> bool:
        given.append(text)
        return True

    # Its engine session was only left for another one.
    bob.over = lambda: False
    [receipt] = await alice.send(("bob",), "and now?")
    assert receipt.outcome == "injected"
    await bob.open(takes_it)
    assert "and now?" in given[-1]


async def test_a_message_to_who_has_just_ended_is_missed_also_if_nobody_else_works(make_stage: Any) -> None:
    stage = await make_stage(steps("bob"))
    runner = stage.runner(FakeEngine(script=lambda _: use("submit_result", summary="ok")))
    context = await stage.attempt("bob")
    with anyio.fail_after(20):
        await runner.run(context)
    # Its session is gone, and the end of its attempt is not written down yet.
    message = await stage.writer.run(
        lambda store: store.send_message(
            stage.run.id, sender="operator", recipient="bob", kind=MessageKind.STEER, body="?"
        )
    )
    receipt = await runner.deliver(context, message.id)
    assert (receipt.outcome, receipt.reason) == ("missed", "its session is just ending")
    assert await states(stage) == [("operator", "bob", MessageState.DEAD)]


async def test_an_answer_of_a_peer_whose_session_is_just_opened_again_is_waited_for(make_stage: Any) -> None:
    stage = await make_stage(steps("alice", "bob"))
    room = MailRoom(stage.writer)
    alice, bob = room.box(stage.run.id, "alice"), room.box(stage.run.id, "bob")
    for key in ("alice", "bob"):
        await stage.attempt(key)

    async def take_it(text: str, message_id: str) -> bool:
        return True

    await alice.open(take_it)
    answers: list[Any] = []
    tool = irc_tool(SimpleNamespace(mail=alice))  # type: ignore[arg-type]

    async def ask() -> None:
        arguments = {"op": "send", "to": "bob", "message": "which port?", "await_reply": True}
        answers.append(await tool.execute(arguments, None))  # type: ignore[arg-type]

    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            while not await states(stage):
                await anyio.lowlevel.checkpoint()
            await bob.open(take_it)
            await bob.send(("alice",), "port 8080")
    assert "port 8080" in answers[0].text


async def test_everybody_means_those_who_can_still_read(make_stage: Any) -> None:
    stage = await make_stage(steps("alice", "bob", "carol"))
    await stage.writer.run(
        lambda store: store.transition_task(
            stage.lease, store.load_task(stage.run.id, "carol").id, TaskState.CANCELLED, actor="operator"
        )
    )
    box = MailRoom(stage.writer).box(stage.run.id, "alice")
    assert [receipt.to for receipt in await box.send(("all",), "hello")] == ["bob"]
    assert [receipt.to for receipt in await box.send(("all", "parent"), "hello")] == ["bob", "parent"]


async def test_unknown_peers_and_oneself_are_refused_before_anything_is_sent(make_stage: Any) -> None:
    stage = await make_stage(steps("alice", "reviewer"))
    box = MailRoom(stage.writer).box(stage.run.id, "alice")
    with pytest.raises(UnknownName, match="did you mean 'reviewer'"):
        await box.send(("reviewer", "reviwer"), "hello")
    with pytest.raises(NotAllowed, match="to yourself"):
        await box.send(("alice",), "hello")
    with pytest.raises(NotAllowed, match="bytes"):
        await box.send(("reviewer",), "x" * 100_000)
    assert await states(stage) == []


async def test_an_echo_between_two_sessions_is_stopped(make_stage: Any) -> None:
    stage = await make_stage(steps("alice", "bob"))
    room = MailRoom(stage.writer)
    boxes = {key: room.box(stage.run.id, key) for key in ("alice", "bob")}

    async def take_it(text: str, message_id: str) -> bool:
        return True

    for box in boxes.values():
        box.deliver = take_it
    outcomes: list[str] = []
    sender, other = "alice", "bob"
    while "failed" not in outcomes:
        [receipt] = await boxes[sender].send((other,), "thank you!")
        outcomes.append(receipt.outcome)
        sender, other = other, sender
    assert len(outcomes) == MAX_HOPS + 2
    assert "without other work in between" in receipt.reason
    boxes[other].worked()
    assert [each.outcome for each in await boxes[other].send((sender,), "found a bug")] == ["injected"]


async def test_an_echo_around_a_ring_of_sessions_is_stopped(make_stage: Any) -> None:
    names = ("alice", "bob", "carol")
    stage = await make_stage(steps(*names))
    room = MailRoom(stage.writer)
    boxes = {key: room.box(stage.run.id, key) for key in names}

    async def take_it(text: str, message_id: str) -> bool:
        return True

    for box in boxes.values():
        box.deliver = take_it
    outcomes: list[str] = []
    for place in range(MAX_HOPS + 5):  # in the first round each writes to somebody for the first time
        [receipt] = await boxes[names[place % 3]].send((names[(place + 1) % 3],), "pass it on")
        outcomes.append(receipt.outcome)
    assert set(outcomes[: MAX_HOPS + 1]) == {"injected"}
    assert "failed" in outcomes
    [receipt] = await boxes["alice"].send(("parent",), "we go round in circles")
    assert receipt.outcome == "queued"


async def test_too_many_messages_to_one_task_are_refused_for_a_while(make_stage: Any) -> None:
    stage = await make_stage(steps("alice", "bob"))
    now = [1000.0]
    clock: Callable[[], float] = lambda: now[0]  # noqa: E731 - a clock that the test winds
    box = MailRoom(stage.writer, clock=clock).box(stage.run.id, "alice")
    outcomes = [(await box.send(("bob",), f"{n}"))[0].outcome for n in range(RATE_MESSAGES + 1)]
    assert outcomes == ["queued"] * RATE_MESSAGES + ["failed"]
    now[0] += RATE_SECONDS
    assert (await box.send(("bob",), "later"))[0].outcome == "queued"


async def test_what_an_operator_says_is_said_plainly_and_not_as_data(make_stage: Any) -> None:
    stage = await make_stage(steps("alice"))
    await stage.writer.run(
        lambda store: store.send_message(
            stage.run.id, sender="operator", recipient="alice", kind=MessageKind.STEER, body="be brief"
        )
    )
    engine = FakeEngine(script=lambda _: use("submit_result", summary="ok"))
    await stage.execute(engine.script, key="alice", engine=engine)
    assert "Message from the operator" in engine.sessions[0].messages[1]["content"]
