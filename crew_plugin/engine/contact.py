"""Reaching the sessions of a run: handing over messages, stopping turns, waking who has ended."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace

import anyio

from crew_plugin.engine.ports import AttemptContext
from crew_plugin.engine.worker import WALL_MARGIN, RunContext, Work
from crew_plugin.errors import CrewError, Fenced, UnknownName
from crew_plugin.models.causes import Cause
from crew_plugin.models.mail import OUTSIDE, MessageRecord, MessageState, Receipt, ReceiptOutcome
from crew_plugin.models.records import AttemptRecord, TaskRecord
from crew_plugin.models.spec import StepSpec
from crew_plugin.models.states import TASK_TERMINAL
from crew_plugin.store.port import RunStore

__all__ = ["Contact"]

_SETTLED: Mapping[MessageState, ReceiptOutcome] = {
    MessageState.DELIVERED: ReceiptOutcome.INJECTED,
    MessageState.READ: ReceiptOutcome.INJECTED,
    MessageState.EXPIRED: ReceiptOutcome.FAILED,
    MessageState.DEAD: ReceiptOutcome.FAILED,
}
"""What to say of a message that somebody dealt with before."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contact:
    """The way to the sessions of one run that is driven here."""

    context: RunContext
    tasks: Mapping[str, TaskRecord]
    """The tasks as they stand, by key; the driver's own."""
    steps: Mapping[str, StepSpec]
    work: Mapping[str, Work]
    """The tasks that have a slot."""

    async def hand_over(self, key: str, message_id: str) -> Receipt:
        """Bring a message that was written down to its task, at most once. Never raises but `Fenced`."""
        work = self.work.get(key)
        if work is not None and work.settled:
            # What becomes of the task is just being written down.
            await work.over()
        try:
            message = await self.context.writer.read(lambda store: store.load_message(message_id))
        except UnknownName as error:
            return Receipt(to=key, outcome=ReceiptOutcome.FAILED, reason=str(error))
        if message.state is not MessageState.ACCEPTED:
            return Receipt(to=key, outcome=_SETTLED[message.state], reason=message.reason or "")
        attempt = await self._newest(key)
        ended = self.tasks[key].state in TASK_TERMINAL
        if attempt is None and ended:
            return await self._bury(message, f"the task was never begun: {self.tasks[key].state}")
        if attempt is None:
            return _queued(key, "the task has not begun; it finds this in its first prompt")
        if not ended and not self._open(key):
            return _queued(key, "no session of it is open now; the next one finds this in its prompt")
        try:
            return await self.context.runner.deliver(self._context_of(key, attempt), message_id)
        except Fenced:
            raise
        except Exception as error:
            logger.warning("message %s could not be handed over", message_id, exc_info=True)
            return await self._bury(message, f"handing it over failed: {type(error).__name__}: {error}")

    async def interrupt(self, key: str, cause: Cause, message_id: str | None) -> Receipt:
        """Stop the turn that a task's session is in; it goes on, told of it and of the message. Where
        there is no turn, the message is handed over all the same."""
        work = self.work.get(key)
        if work is None or work.attempt is None or self.tasks[key].state in TASK_TERMINAL:
            reason = f"there is no turn to stop: the task is {self.tasks[key].state}"
            if message_id is None:
                return Receipt(to=key, outcome=ReceiptOutcome.FAILED, reason=reason)
            receipt = await self.hand_over(key, message_id)
            return replace(receipt, reason=f"{reason}; {receipt.reason}".rstrip("; "))
        message = None if message_id is None else await self._take(key, message_id)
        if await self.context.runner.interrupt(work.attempt.id, cause, message):
            return Receipt(to=key, outcome=ReceiptOutcome.INJECTED, reason="its turn was stopped")
        if message is None:
            return Receipt(to=key, outcome=ReceiptOutcome.MISSED, reason="its session is just ending")
        await self.context.writer.run(lambda store: _put_back(store, message.id))
        return await self.hand_over(key, message.id)

    async def _take(self, key: str, message_id: str) -> MessageRecord | None:
        """The message, as one that is delivered; None if somebody else has it."""
        run_id = self.context.run.id
        taken = await self.context.writer.run(lambda store: store.take_messages(run_id, key, only=message_id))
        return taken[0] if taken else None

    def ended(self, key: str) -> bool:
        """Whether nobody works on this task, nor is going to by himself."""
        return key not in self.work and self.tasks[key].state in TASK_TERMINAL

    async def asleep(self, key: str) -> bool:
        """Wait until the end of this task's attempt is written down. False if it gets another one,
        which finds the mail in its prompt."""
        work = self.work.get(key)
        if work is not None:
            await work.over()
        return self.tasks[key].state in TASK_TERMINAL

    async def owed(self, key: str) -> bool:
        """Whether words of a person, or of whoever asked for the run, wait for this task."""
        run_id = self.context.run.id
        unread = await self.context.writer.read(lambda store: store.list_messages(run_id, unread_by=key))
        return any(message.sender in OUTSIDE for message in unread)

    async def converse(self, key: str) -> None:
        """Hold one further conversation of a task that has ended. A defect of it ends it alone."""
        attempt = await self._newest(key)
        if attempt is None:
            return
        seconds = self.steps[key].limits.wall_seconds + WALL_MARGIN
        try:
            with anyio.move_on_after(seconds):
                await self.context.runner.follow_up(self._context_of(key, attempt))
        except Fenced:
            raise
        except Exception:
            logger.warning("the further conversation of task %s broke", key, exc_info=True)

    def _open(self, key: str) -> bool:
        work = self.work.get(key)
        return work is not None and work.attempt is not None and not work.settled

    async def _newest(self, key: str) -> AttemptRecord | None:
        work = self.work.get(key)
        if work is not None and work.attempt is not None:
            return work.attempt
        attempt_id = self.tasks[key].attempt_id
        if attempt_id is None:
            return None
        return await self.context.writer.read(lambda store: store.load_attempt(attempt_id))

    def _context_of(self, key: str, attempt: AttemptRecord) -> AttemptContext:
        return self.context.of_attempt(self.tasks[key], self.steps[key], attempt)

    async def _bury(self, message: MessageRecord, reason: str) -> Receipt:
        def bury(store: RunStore) -> None:
            if store.load_message(message.id).state is MessageState.ACCEPTED:
                store.settle_message(message.id, MessageState.DEAD, reason=reason)

        try:
            await self.context.writer.run(bury)
        except CrewError:
            logger.exception("message %s could not be declared dead", message.id)
        return Receipt(to=message.recipient, outcome=ReceiptOutcome.FAILED, reason=reason)


def _put_back(store: RunStore, message_id: str) -> None:
    """A message that was taken for a turn that was not there is as it was, unless the session's end has
    settled it meanwhile."""
    if store.load_message(message_id).state is MessageState.DELIVERED:
        store.replay_message(message_id, actor="supervisor")


def _queued(key: str, reason: str) -> Receipt:
    return Receipt(to=key, outcome=ReceiptOutcome.QUEUED, reason=reason)
