"""Waiting for an answer: what ends it, and what it never does."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from crew_plugin.errors import NotAllowed
from crew_plugin.models.mail import MessageKind, MessageState
from crew_plugin.models.spec import StepSpec
from crew_plugin.models.states import TaskState
from crew_plugin.session.mail import Mailbox, MailRoom
from crew_plugin.session.waits import Waited

pytestmark = pytest.mark.anyio


class Room:
    """Open mailboxes of three tasks, and what each session was given."""

    def __init__(self, stage: Any) -> None:
        self.stage = stage
        self.room = MailRoom(stage.writer)
        self.given: dict[str, list[str]] = {}
        self.boxes: dict[str, Mailbox] = {}

    async def open(self, *keys: str) -> None:
        for key in keys:
            self.given[key] = []
            self.boxes[key] = self.room.box(self.stage.run.id, key)
            await self.stage.attempt(key)
            await self.boxes[key].open(self.taker(key))

    def taker(self, key: str) -> Any:
        async def take(text: str, message_id: str) -> bool:
            self.given[key].append(text)
            return True

        return take

    async def say(self, sender: str, to: str, kind: MessageKind = MessageKind.MESSAGE) -> None:
        message = await self.stage.writer.run(
            lambda store: store.send_message(
                self.stage.run.id, sender=sender, recipient=to, kind=kind, body=f"from {sender}"
            )
        )
        await self.room.hand_over(message)


@pytest.fixture
async def room(make_stage: Any) -> Room:
    steps = [
        StepSpec(id=key, role=key, agent="worker", task="Do it.") for key in ("alice", "bob", "carol", "dave")
    ]
    made = Room(await make_stage(tuple(steps)))
    await made.open("alice", "bob", "carol")
    return made


@asynccontextmanager
async def waiting(
    room: Room, key: str, *peers: str, seconds: float = 20, cancel: bool = False
) -> AsyncIterator[list[Waited]]:
    """Waits beside the block and, on leaving it, until the wait is over."""
    found: list[Waited] = []

    async def wait() -> None:
        found.append(await room.boxes[key].await_reply(peers, seconds))

    begun = anyio.Event()
    room.boxes[key].pause = lambda _: begun.set()
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await begun.wait()
            yield found
            if cancel:
                group.cancel_scope.cancel()


async def test_an_answer_ends_the_wait_and_is_read_with_the_result_of_its_call(room: Room) -> None:
    async with waiting(room, "alice", "bob") as found:
        await room.say("bob", "alice")
    assert [message.body for message in found[0].answers] == ["from bob"]
    assert room.given["alice"] == []
    [message] = await room.stage.writer.read(lambda store: store.list_messages(room.stage.run.id))
    # A session that is killed before the result stands in its conversation is given it again.
    assert message.state is MessageState.DELIVERED
    assert room.boxes["alice"].returned() == [message]
    assert room.boxes["alice"].returned() == []


async def test_a_steer_ends_the_wait_and_is_seen_at_the_next_step(room: Room) -> None:
    async with waiting(room, "alice", "bob") as found:
        await room.say("operator", "alice", MessageKind.STEER)
    assert found[0].answers == ()
    assert "a message from operator came" in found[0].reason
    assert len(room.given["alice"]) == 1


async def test_a_deadline_ends_the_wait_and_the_question(room: Room) -> None:
    room.boxes["bob"].deliver = None  # its session is about to open and reads nothing yet
    await room.boxes["alice"].send(("bob",), "where?", reply_within=0.05)
    async with waiting(room, "alice", "bob", seconds=0.05) as found:
        pass
    assert found[0].reason == "no answer came within 0.05 s"
    [message] = await room.stage.writer.read(lambda store: store.list_messages(room.stage.run.id))
    assert message.state is MessageState.EXPIRED


async def test_the_end_of_the_peer_ends_the_wait_with_the_reason(room: Room) -> None:
    async with waiting(room, "alice", "bob") as found:
        await room.stage.writer.run(room.boxes["bob"].close("bob has handed in its result"))
    assert found[0].reason == "bob will not answer: bob has handed in its result"


async def test_an_answer_that_met_the_end_of_the_turn_is_given_when_the_session_goes_on(room: Room) -> None:
    alice = room.boxes["alice"]
    async with waiting(room, "alice", "bob", cancel=True):
        await room.say("bob", "alice")
    assert room.given["alice"] == []
    await alice.open(room.taker("alice"))
    assert ["from bob" in text for text in room.given["alice"]] == [True]
    await alice.open(room.taker("alice"))
    assert len(room.given["alice"]) == 1


async def test_one_of_several_peers_may_end(room: Room) -> None:
    async with waiting(room, "alice", "bob", "carol") as found:
        await room.stage.writer.run(room.boxes["bob"].close("it ended"))
        await room.say("carol", "alice")
    assert [message.sender for message in found[0].answers] == ["carol"]


async def test_two_that_would_wait_for_each_other_are_told(room: Room) -> None:
    async with waiting(room, "alice", "bob", cancel=True):
        with pytest.raises(NotAllowed, match="alice already waits for an answer of yours"):
            await room.boxes["bob"].await_reply(("alice",), 20)


async def test_a_circle_of_three_is_seen(room: Room) -> None:
    async with waiting(room, "alice", "bob", cancel=True), waiting(room, "bob", "carol", cancel=True):
        with pytest.raises(NotAllowed, match="instead of waiting"):
            await room.boxes["carol"].await_reply(("alice",), 20)


async def test_nobody_waits_while_there_is_mail_to_be_seen(room: Room) -> None:
    await room.say("bob", "alice")
    waited = await room.boxes["alice"].await_reply(("bob",), 20)
    assert "have not seen yet" in waited.reason


async def test_waiting_is_a_sign_of_life_for_as_long_as_it_may_take(room: Room) -> None:
    told: list[float] = []
    room.boxes["alice"].pause = told.append
    await room.boxes["alice"].await_reply(("bob",), 0.01)
    assert told == [0.01]


async def test_who_has_ended_already_is_not_waited_for(room: Room) -> None:
    dave = await room.stage.writer.read(lambda store: store.load_task(room.stage.run.id, "dave"))
    await room.stage.writer.run(
        lambda store: store.transition_task(room.stage.lease, dave.id, TaskState.CANCELLED, actor="operator")
    )
    async with waiting(room, "alice", "dave", seconds=600) as found:
        pass
    assert found[0].reason == "dave will not answer: dave has ended (cancelled)"
    async with waiting(room, "alice", "dave", "carol") as found:
        await room.say("carol", "alice")
    assert [message.sender for message in found[0].answers] == ["carol"]
