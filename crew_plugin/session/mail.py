"""Mail between the tasks of a run, and from and to people: written down first, then handed over.

A send never waits for its recipient. A running session sees a message at its next model call; one
that has ended is woken, within limits; what cannot be delivered is dead, with the reason, and
the sender is told. Two sessions that only answer each other are stopped by a hop count, two that
write all the time by a rate limit.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Final

import anyio

from crew_plugin.engine.returns import return_mail
from crew_plugin.errors import NotAllowed, UnknownName
from crew_plugin.models.clock import steady_time
from crew_plugin.models.mail import (
    OUTSIDE,
    UNREAD,
    MessageKind,
    MessageRecord,
    MessageState,
    Receipt,
    ReceiptOutcome,
)
from crew_plugin.models.records import TaskRecord
from crew_plugin.models.states import TASK_TERMINAL, TaskState
from crew_plugin.session.material import peers_of
from crew_plugin.session.prompt import Peer, letter
from crew_plugin.session.traffic import RATE_MESSAGES, RATE_SECONDS, Traffic
from crew_plugin.session.waits import Wait, Waited, Waits
from crew_plugin.store.port import RunStore
from crew_plugin.store.writer import StoreWriter

__all__ = ["EVERYBODY", "PARENT", "MailPolicy", "MailRoom", "Mailbox", "Wake"]

EVERYBODY: Final = "all"
PARENT: Final = "parent"
MAX_HOPS: Final = 6
"""So many answers to answers, without other work in between, and the next one is refused."""
MESSAGE_BYTES: Final = 64_000

_ENDING: Final = "its session is just ending"
_NEXT: Final = "the task's next session finds this in its prompt"

logger = logging.getLogger(__name__)

Deliver = Callable[[str, str], Awaitable[bool]]
"""Gives a text and the id of its message to an open session; False if it takes nothing more."""
Wake = Callable[[str], str | None]
"""Has the ended session of a task opened again. Returns why not, None if it will be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MailPolicy:
    """How long answers are waited for, and what a message to an ended session may set going."""

    ask_seconds: float = 3600.0
    """How long the answer to a question of `ask` is waited for where no time is given."""
    ask_max_seconds: float = 86_400.0
    reply_seconds: float = 60.0
    """How long an answer is waited for where no time is given."""
    reply_max_seconds: float = 600.0
    keep_seconds: float = 420.0
    """So long an ended session is called idle; after that it is parked."""
    wakes_session: int = 3
    wakes_run: int = 30
    follow_up_steps: int = 12
    follow_up_seconds: float = 300.0


class MailRoom:
    """The mailboxes of all sessions of one process, found by run and task."""

    def __init__(
        self,
        writer: StoreWriter,
        *,
        policy: MailPolicy | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.policy = policy or MailPolicy()
        self.waits = Waits()
        self._writer = writer
        self._boxes: dict[tuple[str, str], Mailbox] = {}
        self._traffic = Traffic(clock)

    def box(
        self,
        run_id: str,
        key: str,
        *,
        attempt_id: str | None = None,
        wake: Wake | None = None,
        woken: bool = False,
    ) -> "Mailbox":
        """The mailbox of a task whose session begins, or is woken. It must be closed."""
        box = Mailbox(
            room=self,
            writer=self._writer,
            run_id=run_id,
            key=key,
            attempt_id=attempt_id,
            wake=wake,
            woken=woken,
        )
        self._boxes[run_id, key] = box
        self._traffic.opened(run_id, key)
        return box

    def waking(self, run_id: str, key: str) -> bool:
        """Whether the session of this task is going to be opened again."""
        return self._traffic.waking(run_id, key)

    def speaks(self, run_id: str, key: str) -> bool:
        """Whether this task has a session here, or is going to have one again."""
        return (run_id, key) in self._boxes or self.waking(run_id, key)

    def forget(self, box: "Mailbox", reason: str, *, again: bool = False) -> bool:
        """The session of this mailbox is over; with `again` its task is tried again. False if another
        one has the task's mail."""
        if self._boxes.get((box.run_id, box.key)) is not box:
            return False
        del self._boxes[box.run_id, box.key]
        self._traffic.closed(box.run_id, box.key, box.attempt_id, reason, again=again)
        self.waits.ended(box.run_id, box.key, reason)
        return True

    def admits(self, run_id: str, sender: str, recipient: str) -> bool:
        """Count a message of this pair; False if there were too many lately."""
        return self._traffic.admits(run_id, sender, recipient)

    async def hand_over(self, message: MessageRecord, *, wake: Wake | None = None) -> Receipt:
        """Hand a message that was written down to its recipient, or wake it. Never waits for it."""
        key = message.recipient
        if message.state is not MessageState.ACCEPTED:
            return _known(message)
        if key in OUTSIDE:
            return Receipt(to=key, outcome=ReceiptOutcome.QUEUED, reason="it is shown with the run's results")
        box = self._boxes.get((message.run_id, key))
        if box is None or box.leaving:
            return await self._hand_to_ended(message, wake)
        if box.deliver is None and box.over():
            return await box.too_late(message)
        if box.deliver is None:
            # Its session is just being opened, or opened again: that is done with this in hand.
            box.knock()
            outcome = ReceiptOutcome.WOKEN if box.woken else ReceiptOutcome.INJECTED
            return Receipt(to=key, outcome=outcome)
        if message.kind is MessageKind.FOLLOW_UP:
            return Receipt(to=key, outcome=ReceiptOutcome.QUEUED, reason="it sees it when its turn ends")
        if await box.collect() or not box.missed(message):
            return Receipt(to=key, outcome=ReceiptOutcome.INJECTED)
        return await box.too_late(message)

    async def bury(self, message_ids: Iterable[str], reason: str) -> None:
        """Note that these reach nobody."""
        ids = tuple(message_ids)

        def write(store: RunStore) -> None:
            for message_id in ids:
                if store.load_message(message_id).state in UNREAD:
                    store.settle_message(message_id, MessageState.DEAD, reason=reason)

        await self._writer.run(write)

    async def _hand_to_ended(self, message: MessageRecord, wake: Wake | None) -> Receipt:
        """To a task without a session: one yet to begin finds it, an ended one is woken."""
        run_id, key = message.run_id, message.recipient
        task = await self._writer.read(lambda store: store.load_task(run_id, key))
        over = self._traffic.over(run_id, key, task.attempt_id)
        if task.state is TaskState.QUEUED or (task.state not in TASK_TERMINAL and over is None):
            reason = _NEXT if task.attempts else ""
            return Receipt(to=key, outcome=ReceiptOutcome.QUEUED, reason=reason)
        if task.state not in TASK_TERMINAL:
            await self.bury([message.id], f"{_ENDING}: {over}")
            return Receipt(to=key, outcome=ReceiptOutcome.MISSED, reason=_ENDING)
        ended = f"{key} has ended ({task.state})"
        if message.kind is MessageKind.RELAY:
            refused: str | None = f"{ended}, and a relay wakes nobody"
        elif not task.attempts:
            refused = f"{ended} without ever starting"
        elif wake is None:
            refused = over or f"{ended}; nobody reads its mail any more"
        else:
            refused = self.wake(run_id, key, wake)
        if refused is None:
            return Receipt(to=key, outcome=ReceiptOutcome.WOKEN)
        await self.bury([message.id], refused)
        return Receipt(to=key, outcome=ReceiptOutcome.FAILED, reason=refused)

    def wake(self, run_id: str, key: str, wake: Wake) -> str | None:
        """Have an ended session opened again, once for all who want it, within the limits. Returns
        why not."""
        if self.waking(run_id, key):
            return wake(key)
        of_task, of_run = self._traffic.wakes(run_id, key)
        if of_task >= self.policy.wakes_session:
            return f"{key} has ended and was woken {self.policy.wakes_session} times, which is the limit"
        if of_run >= self.policy.wakes_run:
            return f"{key} has ended, and {self.policy.wakes_run} wakes in one run are the limit"
        refused = wake(key)
        if refused is None:
            self._traffic.woken(run_id, key)
        return refused


@dataclass(slots=True, kw_only=True, eq=False)
class Mailbox:
    """The mail of one session."""

    room: MailRoom
    writer: StoreWriter
    run_id: str
    key: str
    attempt_id: str | None = None
    wake: Wake | None = None
    woken: bool = False
    """It is the further conversation of a session that had ended."""
    leaving: bool = False
    """That conversation is over: what comes now is for the next one."""
    deliver: Deliver | None = None
    """Set while the session is open."""
    pause: Callable[[float], None] | None = None
    """Told for how long the session is going to wait, which is no sign that it hangs."""
    over: Callable[[], bool] = field(default=lambda: False)
    """Whether the session takes nothing more, and will not be opened again."""
    retried: Callable[[], bool] = field(default=lambda: False)
    """Whether the session has come to an end that another attempt at its task follows."""
    spoken_to: Callable[[str], None] | None = None
    """Told of whoever outside of the run wrote to the open session."""
    answered: set[str] = field(default_factory=set[str])
    """Whom this session has written to."""
    heard_of: dict[str, int] = field(default_factory=dict[str, int])
    """Sender -> hop count of the latest message of all that this session was given."""
    _returned: list[MessageRecord] = field(default_factory=list[MessageRecord])
    """What its senders are to be told of mail that it never read."""
    _late: bool = False
    """People's words are left that it is to be woken for."""
    _knocked: bool = False
    """Mail came while the session was about to open."""
    _heard: dict[str, int] = field(default_factory=dict[str, int])
    """Sender -> hop count of its latest message, since this session last did something else."""
    _unseen: set[str] = field(default_factory=set[str])
    """Messages that the session has and no model call has seen."""
    _wait: Wait | None = None
    _missed: list[MessageRecord] = field(default_factory=list[MessageRecord])
    """Answers that were taken for a wait which was cut off."""
    _answers: list[MessageRecord] = field(default_factory=list[MessageRecord])
    """Answers that a call is about to return."""
    _collecting: set[asyncio.Task[bool]] = field(default_factory=set[asyncio.Task[bool]])

    # --- what the session's tools do ---

    async def send(
        self, to: tuple[str, ...], text: str, *, reply_within: float | None = None
    ) -> tuple[Receipt, ...]:
        """Send to these tasks. Raises `UnknownName` and `NotAllowed` before anything is sent.

        With `reply_within`, whoever has not read it after so many seconds is not given it any more.
        """
        tasks = await self._tasks()
        if len(text.encode("utf-8", "replace")) > MESSAGE_BYTES:
            raise NotAllowed(
                f"a message may have {MESSAGE_BYTES} bytes; send the essence and say where the rest is"
            )
        recipients = self._recipients(to, tasks)
        return tuple([await self._send_one(key, tasks.get(key), text, reply_within) for key in recipients])

    async def await_reply(self, peers: tuple[str, ...], seconds: float) -> Waited:
        """Wait for the first message of any of these tasks. Raises `NotAllowed` where they wait
        for this session."""
        self._recipients(peers, await self._tasks())
        if self._unseen:
            return Waited(
                reason="there is a message for you that you have not seen yet; it comes with your next step"
            )
        waiting = self.room.waits.circle(self.run_id, self.key, peers)
        if waiting:
            raise NotAllowed(
                f"{', '.join(waiting)} already waits for an answer of yours; give it instead of waiting"
            )
        wait = self._wait = Wait(run_id=self.run_id, key=self.key, peers=set(peers))
        self.room.waits.begin(wait)
        if self.pause is not None:
            self.pause(seconds)
        try:
            try:
                with anyio.move_on_after(seconds):
                    for peer, ended in await self._ended(peers):
                        wait.gone(peer, ended)
                    await wait.over.wait()
                wait.end(f"no answer came within {seconds:g} s")
            finally:
                self._wait = None
                self.room.waits.done(wait)
            await self._settle_wait(wait)
        except BaseException:
            # The turn was stopped just as the answer came. The session is given it if it goes on.
            self._missed += wait.answers
            raise
        self._answers += wait.answers
        return Waited(answers=tuple(wait.answers), reason=wait.reason)

    async def _ended(self, peers: tuple[str, ...]) -> list[tuple[str, str]]:
        """Those of these tasks that have ended, and how, but for those whose session is open again or
        going to be. Looked at when the wait has begun: what ends later ends the wait."""
        tasks = await self._tasks()
        return [
            (peer, f"{peer} has ended ({tasks[peer].state})")
            for peer in peers
            if peer in tasks
            and tasks[peer].state in TASK_TERMINAL
            and not self.room.speaks(self.run_id, peer)
        ]

    async def peers(self) -> tuple[Peer, ...]:
        """The other tasks of the run."""
        peers, _ = await self.writer.read(lambda store: store.list_peers(self.run_id, self.key, limit=None))
        return peers_of(peers, keep_seconds=self.room.policy.keep_seconds)

    @property
    def policy(self) -> MailPolicy:
        """The times and limits that hold for mail."""
        return self.room.policy

    # --- what the session does ---

    def heard(self, messages: Iterable[MessageRecord]) -> None:
        """These were taken and are going to be seen by the session."""
        for message in messages:
            self._heard[message.sender] = message.hops
            if message.kind is not MessageKind.RELAY:
                self.heard_of[message.sender] = message.hops

    async def open(self, deliver: Deliver) -> None:
        """The session takes texts now, beginning with what came since its first prompt was made."""
        self.deliver = deliver
        missed, self._missed = [*self._missed, *self.returned()], []
        for message in missed:
            if await deliver(letter(message), message.id):
                self._unseen.add(message.id)
        if self._knocked:
            await self.collect()

    def knock(self) -> None:
        """There is mail which the session cannot be given yet."""
        self._knocked = True

    async def collect(self) -> bool:
        """Deliver what waits to the open session, an answer to whoever waits for it. False if the
        session took not all of it, because it is over."""
        # In a task of its own: a sender whose turn is stopped must not take others' mail with it.
        task = asyncio.create_task(self._collect(), name=f"crew mail {self.key}")
        self._collecting.add(task)
        task.add_done_callback(self._collected)
        return await asyncio.shield(task)

    def _collected(self, task: asyncio.Task[bool]) -> None:
        self._collecting.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.debug("mail of %s could not be collected", self.key, exc_info=task.exception())

    def missed(self, message: MessageRecord) -> bool:
        """Whether the session could not be given it."""
        return self.deliver is None or any(each.id == message.id for each in self._missed)

    async def too_late(self, message: MessageRecord) -> Receipt:
        """What becomes of a message that came when the session was over."""
        if self.retried():
            return Receipt(to=self.key, outcome=ReceiptOutcome.QUEUED, reason=_NEXT)
        await self.room.bury([message.id], _ENDING)
        return Receipt(to=self.key, outcome=ReceiptOutcome.MISSED, reason=_ENDING)

    async def _collect(self) -> bool:
        if self.deliver is None:
            self.knock()
            return not self.over()
        messages = await self.writer.run(
            lambda store: store.take_messages(self.run_id, self.key, without=[MessageKind.FOLLOW_UP])
        )
        self.heard(messages)
        for place, message in enumerate(messages):
            if self._wait is not None and self._wait.takes(message):
                continue
            if self.deliver is None or not await self.deliver(letter(message), message.id):
                # For the engine session that is opened next. Of one that is over, what it was given
                # and has not read goes to the next attempt, or back to its senders.
                self._missed += messages[place:]
                return not self.over()
            self._unseen.add(message.id)
            if self.spoken_to is not None and message.sender in OUTSIDE:
                self.spoken_to(message.sender)
            if self._wait is not None:
                self._wait.end(f"a message from {message.sender} came; you see it at this step")
        return True

    async def after_turn(self) -> list[MessageRecord]:
        """What was to wait until the session's turn has ended."""
        messages = await self.writer.run(lambda store: store.take_messages(self.run_id, self.key))
        self.heard(messages)
        return messages

    def seen(self, message_id: str) -> None:
        """A message became part of a model call."""
        self._unseen.discard(message_id)

    def returned(self) -> list[MessageRecord]:
        """The answers that calls returned since this was last asked."""
        answers, self._answers = self._answers, []
        return answers

    def worked(self) -> None:
        """The session did something other than writing messages: no echo."""
        self._heard.clear()

    def close(
        self, reason: str, *, told: Collection[str] = frozenset[str](), again: bool = False
    ) -> Callable[[RunStore], None]:
        """The session is over. Returns what writes down that its unread mail is dead; what people
        wanted said after its turn is left. Then `tell_senders`, but for those who were `told`. With
        `again` the task gets another attempt, which is for the mail: what is returned need not be
        written."""
        self.deliver = None
        mine = self.room.forget(self, reason, again=again)

        def write(store: RunStore) -> None:
            # May be done twice: what it finds counts as it was found last.
            dead: list[MessageRecord] = []
            late = False
            for message in store.list_messages(self.run_id, unread_by=self.key) if mine else ():
                if message.state is MessageState.ACCEPTED and self.room.waking(self.run_id, self.key):
                    continue
                if message.kind is MessageKind.FOLLOW_UP and self.wake is not None:
                    store.replay_message(message.id, actor=self.key)
                    late = True
                    continue
                store.settle_message(message.id, MessageState.DEAD, reason=reason)
                if message.sender not in told:
                    dead.append(message)
            self._late, self._returned = late, return_mail(store, dead, reason)

        return write

    async def tell_senders(self) -> None:
        """Say what became of the mail that was left when the session ended."""
        for message in self._returned:
            await self.room.hand_over(message)
        if not self._late or self.wake is None:
            return
        refused = self.room.wake(self.run_id, self.key, self.wake)
        if refused is not None:
            left = await self.writer.read(lambda store: store.list_messages(self.run_id, unread_by=self.key))
            await self.room.bury([message.id for message in left], refused)

    async def _settle_wait(self, wait: Wait) -> None:
        """A question that nobody took in time is asked no longer."""
        if wait.answers:
            return
        peers = frozenset(wait.peers)

        def write(store: RunStore) -> None:
            for message in store.list_messages(self.run_id):
                mine = message.sender == self.key and message.recipient in peers
                due = message.expires_at is not None and message.state is MessageState.ACCEPTED
                if mine and due:
                    store.settle_message(message.id, MessageState.EXPIRED, reason=wait.reason)

        await self.writer.run(write)

    async def _tasks(self) -> dict[str, TaskRecord]:
        records = await self.writer.read(lambda store: store.load_tasks(self.run_id))
        return {task.key: task for task in records}

    def _recipients(self, to: tuple[str, ...], tasks: dict[str, TaskRecord]) -> tuple[str, ...]:
        others = [key for key in tasks if key != self.key]
        for key in to:
            if key == self.key:
                raise NotAllowed(f"you are {self.key!r}; a message to yourself goes nowhere")
            if key not in (EVERYBODY, PARENT) and key not in tasks:
                raise UnknownName("task in this run", key, [*others, EVERYBODY, PARENT])
        if EVERYBODY not in to:
            return tuple(dict.fromkeys(to))
        live = [key for key in others if tasks[key].state not in TASK_TERMINAL]
        named = [key for key in to if key != EVERYBODY]
        if not live and not named:
            raise NotAllowed("no other task of this run is running or yet to start")
        return tuple(dict.fromkeys([*live, *named]))

    async def _send_one(
        self, key: str, task: TaskRecord | None, text: str, reply_within: float | None
    ) -> Receipt:
        hops = self._heard.get(key, -1) + 1
        if key in self.answered and key not in OUTSIDE:
            # Of whomever it heard: a ring of sessions is an echo as much as a pair.
            hops = max(self._heard.values(), default=-1) + 1
        refused = self._refusal(key, hops)
        # It may not be read in time by a session that is yet to be.
        starts_later = (
            task is not None and task.state not in TASK_TERMINAL and not self.room.speaks(self.run_id, key)
        )
        lasts = reply_within is not None and not starts_later

        def write(store: RunStore) -> MessageRecord:
            message = store.send_message(
                self.run_id,
                sender=self.key,
                recipient=key,
                kind=MessageKind.MESSAGE,
                body=text,
                hops=hops,
                expires_at=steady_time() + (reply_within or 0) if lasts else None,
            )
            if refused:
                store.settle_message(message.id, MessageState.DEAD, reason=refused)
            return message

        message = await self.writer.run(write)
        if refused:
            return Receipt(to=key, outcome=ReceiptOutcome.FAILED, reason=refused)
        self.answered.add(key)
        return await self.room.hand_over(message, wake=self.wake)

    def _refusal(self, key: str, hops: int) -> str:
        if hops > MAX_HOPS:
            return (
                f"{MAX_HOPS} answers went back and forth with {key} without other work in between; "
                "go on with your task"
            )
        if not self.room.admits(self.run_id, self.key, key):
            return (
                f"{RATE_MESSAGES} messages to {key} in {RATE_SECONDS:.0f} s are the limit; "
                "go on with your task and write once, later"
            )
        return ""


def _known(message: MessageRecord) -> Receipt:
    """What became of a message that was handed over before."""
    if message.state in (MessageState.DELIVERED, MessageState.READ):
        return Receipt(to=message.recipient, outcome=ReceiptOutcome.INJECTED)
    return Receipt(
        to=message.recipient, outcome=ReceiptOutcome.FAILED, reason=message.reason or message.state
    )
