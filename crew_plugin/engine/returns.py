"""Telling the tasks of a run that what they wrote is read by nobody any more."""

from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any

import anyio.abc

from crew_plugin.models.mail import OUTSIDE, MessageKind, MessageRecord, MessageState
from crew_plugin.models.records import TaskRecord
from crew_plugin.store.port import RunStore

__all__ = ["Returns", "bury_mail", "return_mail"]


def return_mail(store: RunStore, dead: Iterable[MessageRecord], reason: str) -> list[MessageRecord]:
    """Write to the senders of these messages that they were not read. Returns what is to be handed
    over to them. Who is outside the run sees what became of a message where it asked for it."""
    return [
        store.send_message(
            message.run_id,
            sender=message.recipient,
            recipient=message.sender,
            kind=MessageKind.RELAY,
            body=f"It did not read your message any more: {reason}.",
            hops=message.hops + 1,
            reply_to=message.id,
        )
        for message in dead
        if message.kind is MessageKind.MESSAGE and message.sender not in OUTSIDE
    ]


def bury_mail(store: RunStore, task: TaskRecord, reason: str) -> list[MessageRecord]:
    """Nobody is going to read the mail of this task any more. Returns what is to be handed over to its
    senders."""
    dead = store.list_messages(task.run_id, unread_by=task.key)
    for message in dead:
        store.settle_message(message.id, MessageState.DEAD, reason=reason)
    return return_mail(store, dead, reason)


@dataclass(slots=True)
class Returns:
    """What the senders of one run are still to be told."""

    _waiting: dict[str, list[MessageRecord]] = field(default_factory=dict[str, list[MessageRecord]])
    """By the task whose mail it was: what is written may be written twice, and counts once."""

    def add(self, task: TaskRecord, messages: list[MessageRecord]) -> None:
        """These were written to the senders of mail for this task."""
        self._waiting[task.key] = messages

    def before[T](
        self, end: Callable[[RunStore], T], task: TaskRecord, reason: str
    ) -> Callable[[RunStore], T]:
        """What writes down this end of a task, and before it that its mail is read by nobody."""

        def write(store: RunStore) -> T:
            self.add(task, bury_mail(store, task, reason))
            return end(store)

        return write

    def hand_over(
        self, group: anyio.abc.TaskGroup, bring: Callable[[str, str], Coroutine[Any, Any, object]]
    ) -> None:
        """Have what was written brought to the tasks that it is for: `bring` gets key and message."""
        waiting, self._waiting = self._waiting, {}
        for messages in waiting.values():
            for message in messages:
                group.start_soon(bring, message.recipient, message.id)
