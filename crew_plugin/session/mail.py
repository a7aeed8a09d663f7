"""Mail between the tasks of a run: written down first, delivered at the next model call.

A send never waits for its recipient. What cannot be delivered is dead, with the reason, and the
sender is told. Two sessions that only answer each other are stopped by a hop count, two that
write all the time by a rate limit.
"""

import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from crew_plugin.errors import NotAllowed, UnknownName
from crew_plugin.models.records import (
    MessageKind,
    MessageRecord,
    MessageState,
    Receipt,
    ReceiptOutcome,
    TaskRecord,
)
from crew_plugin.models.states import TASK_TERMINAL
from crew_plugin.session.material import peers_of
from crew_plugin.session.prompt import Peer, letter
from crew_plugin.store.port import RunStore
from crew_plugin.store.writer import StoreWriter

__all__ = ["EVERYBODY", "MailRoom", "Mailbox"]

EVERYBODY: Final = "all"
MAX_HOPS: Final = 6
"""So many answers to answers, without other work in between, and the next one is refused."""
RATE_MESSAGES: Final = 10
RATE_SECONDS: Final = 60.0
"""At most so many messages from one task to another in so many seconds."""
MESSAGE_BYTES: Final = 64_000

_ENDING: Final = "its session is just ending"

Deliver = Callable[[str, str], Awaitable[bool]]
"""Gives a text and the id of its message to an open session; False if it takes nothing more."""


class MailRoom:
    """The mailboxes of all sessions of one process, found by run and task."""

    def __init__(self, writer: StoreWriter, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._writer = writer
        self._clock = clock
        self._boxes: dict[tuple[str, str], Mailbox] = {}
        self._over: dict[tuple[str, str], str] = {}
        self._sent: dict[tuple[str, str, str], deque[float]] = {}

    def box(self, run_id: str, key: str) -> "Mailbox":
        """The mailbox of a task whose session begins. It must be closed."""
        box = Mailbox(room=self, writer=self._writer, run_id=run_id, key=key)
        self._boxes[run_id, key] = box
        self._over.pop((run_id, key), None)
        return box

    def find(self, run_id: str, key: str) -> "Mailbox | None":
        """The mailbox of a task that has a session now."""
        return self._boxes.get((run_id, key))

    def over(self, run_id: str, key: str) -> str | None:
        """Why the session of a task reads nothing any more; None if it may still begin."""
        return self._over.get((run_id, key))

    def forget(self, box: "Mailbox", reason: str) -> None:
        """The session of this mailbox is over."""
        if self._boxes.get((box.run_id, box.key)) is not box:
            return
        del self._boxes[box.run_id, box.key]
        self._over[box.run_id, box.key] = reason
        if all(run_id != box.run_id for run_id, _ in self._boxes):
            # Nobody is left who could send; whoever comes later finds the tasks' states in the store.
            self._over = {place: why for place, why in self._over.items() if place[0] != box.run_id}
            self._sent = {pair: times for pair, times in self._sent.items() if pair[0] != box.run_id}

    def admits(self, run_id: str, sender: str, recipient: str) -> bool:
        """Count a message of this pair; False if there were too many lately."""
        now = self._clock()
        times = self._sent.setdefault((run_id, sender, recipient), deque())
        while times and times[0] <= now - RATE_SECONDS:
            times.popleft()
        if len(times) >= RATE_MESSAGES:
            return False
        times.append(now)
        return True


@dataclass(slots=True, kw_only=True, eq=False)
class Mailbox:
    """The mail of one session."""

    room: MailRoom
    writer: StoreWriter
    run_id: str
    key: str
    deliver: Deliver | None = None
    """Set while the session is open."""
    _knocked: bool = False
    """Mail came while the session was about to open."""
    _heard: dict[str, int] = field(default_factory=dict[str, int])
    """Sender -> hop count of its latest message, since this session last did something else."""

    async def send(self, to: tuple[str, ...], text: str) -> tuple[Receipt, ...]:
        """Send to these tasks. Raises `UnknownName` and `NotAllowed` before anything is sent."""
        tasks = await self._tasks()
        if len(text.encode("utf-8", "replace")) > MESSAGE_BYTES:
            raise NotAllowed(
                f"a message may have {MESSAGE_BYTES} bytes; send the essence and say where the rest is"
            )
        recipients = self._recipients(to, tasks)
        return tuple([await self._send_one(tasks[key], text) for key in recipients])

    async def peers(self) -> tuple[Peer, ...]:
        """The other tasks of the run."""
        peers, _ = await self.writer.read(lambda store: store.list_peers(self.run_id, self.key, limit=None))
        return peers_of(peers)

    def heard(self, messages: Iterable[MessageRecord]) -> None:
        """These were taken and are going to be seen by the session."""
        for message in messages:
            self._heard[message.sender] = message.hops

    async def open(self, deliver: Deliver) -> None:
        """The session takes texts now, beginning with what came since its first prompt was made."""
        self.deliver = deliver
        if self._knocked:
            await self.collect()

    def knock(self) -> None:
        """There is mail which the session cannot be given yet."""
        self._knocked = True

    async def collect(self) -> bool:
        """Deliver what waits to the open session. False if the session took not all of it; what it
        did not take is dead then."""
        messages = await self.writer.run(lambda store: store.take_messages(self.run_id, self.key))
        self.heard(messages)
        for place, message in enumerate(messages):
            if self.deliver is None or not await self.deliver(letter(message), message.id):
                await self._bury([left.id for left in messages[place:]], _ENDING)
                return False
        return True

    def worked(self) -> None:
        """The session did something other than writing messages: no echo."""
        self._heard.clear()

    def close(self, reason: str) -> Callable[[RunStore], None]:
        """The session is over. Returns what writes down that its unread mail is dead."""
        self.deliver = None
        self.room.forget(self, reason)

        def write(store: RunStore) -> None:
            for message in store.list_messages(self.run_id, unread_by=self.key):
                store.settle_message(message.id, MessageState.DEAD, reason=reason)

        return write

    async def _tasks(self) -> dict[str, TaskRecord]:
        records = await self.writer.read(lambda store: store.load_tasks(self.run_id))
        return {task.key: task for task in records}

    def _recipients(self, to: tuple[str, ...], tasks: dict[str, TaskRecord]) -> tuple[str, ...]:
        others = [key for key in tasks if key != self.key]
        for key in to:
            if key == self.key:
                raise NotAllowed(f"you are {self.key!r}; a message to yourself goes nowhere")
            if key != EVERYBODY and key not in tasks:
                raise UnknownName("task in this run", key, [*others, EVERYBODY])
        if EVERYBODY not in to:
            return tuple(dict.fromkeys(to))
        live = tuple(key for key in others if tasks[key].state not in TASK_TERMINAL)
        if not live:
            raise NotAllowed("no other task of this run is running or yet to start")
        return live

    async def _send_one(self, task: TaskRecord, text: str) -> Receipt:
        hops = self._heard[task.key] + 1 if task.key in self._heard else 0
        refused = self._refusal(task, hops)

        def write(store: RunStore) -> MessageRecord:
            message = store.send_message(
                self.run_id,
                sender=self.key,
                recipient=task.key,
                kind=MessageKind.MESSAGE,
                body=text,
                hops=hops,
            )
            if refused:
                store.settle_message(message.id, MessageState.DEAD, reason=refused)
            return message

        message = await self.writer.run(write)
        if refused:
            return Receipt(to=task.key, outcome=ReceiptOutcome.FAILED, reason=refused)
        return await self._hand_over(task.key, message.id)

    def _refusal(self, task: TaskRecord, hops: int) -> str:
        if task.state in TASK_TERMINAL:
            return f"{task.key} has ended ({task.state}); nobody reads its mail any more"
        if hops > MAX_HOPS:
            return (
                f"{MAX_HOPS} answers went back and forth with {task.key} without other work in between; "
                "go on with your task"
            )
        if not self.room.admits(self.run_id, self.key, task.key):
            return (
                f"{RATE_MESSAGES} messages to {task.key} in {RATE_SECONDS:.0f} s are the limit; "
                "go on with your task and write once, later"
            )
        return ""

    async def _hand_over(self, recipient: str, message_id: str) -> Receipt:
        box = self.room.find(self.run_id, recipient)
        if box is not None and box.deliver is not None:
            if await box.collect():
                return Receipt(to=recipient, outcome=ReceiptOutcome.INJECTED)
            return Receipt(to=recipient, outcome=ReceiptOutcome.FAILED, reason=_ENDING)
        if box is not None:
            box.knock()
        over = self.room.over(self.run_id, recipient)
        if over is None:
            return Receipt(to=recipient, outcome=ReceiptOutcome.QUEUED)
        await self._bury([message_id], over)
        return Receipt(to=recipient, outcome=ReceiptOutcome.FAILED, reason=over)

    async def _bury(self, message_ids: list[str], reason: str) -> None:
        def write(store: RunStore) -> None:
            for message_id in message_ids:
                store.settle_message(message_id, MessageState.DEAD, reason=reason)

        await self.writer.run(write)
