"""Looking after the mail of a run from outside: one task's boxes, acknowledging, giving again, repair.

Needs a store and nothing else. Everything that changes something is one transaction of the caller.
"""

import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from crew_plugin.engine.cancel import is_foreign, whose
from crew_plugin.errors import InvalidValue, NotAllowed, UnknownName
from crew_plugin.models.mail import OUTSIDE, MailFinding, MessageRecord, MessageState
from crew_plugin.models.records import NewEvent, Owner, ParentRef, RunRecord, TaskRecord
from crew_plugin.models.states import RUN_TERMINAL, TASK_TERMINAL
from crew_plugin.store.liveness import owner_alive
from crew_plugin.store.port import RunStore

__all__ = [
    "ALL",
    "BOXES",
    "MailOrder",
    "carry_out",
    "in_box",
    "may_mend",
    "mend",
    "what_is_wrong",
]

ALL: Final = "all"
"""In place of the id of a message: all of the box."""
BOXES: Final = ("inbox", "outbox")
_OPEN: Final = (MessageState.ACCEPTED, MessageState.DELIVERED)


@dataclass(frozen=True, slots=True, kw_only=True)
class MailOrder:
    """What somebody wants done with mail of a run."""

    run_id: str
    actor: str
    key: str | None = None
    """A task's key, `parent` or `operator`: whose box."""
    box: str | None = None
    ack: str | None = None
    replay: str | None = None


def in_box(store: RunStore, run_id: str, key: str | None, box: str | None) -> list[MessageRecord]:
    """The mail of a run, or what is for one task (`inbox`), from it (`outbox`), or both, oldest first.
    Raises `UnknownName` for a box that the run does not have."""
    if box is not None and box not in BOXES:
        raise InvalidValue("box", box, " or ".join(BOXES))
    if key is not None:
        known = [task.key for task in store.load_tasks(run_id)]
        if key not in (*known, *OUTSIDE):
            raise UnknownName("mailbox", key, [*known, *OUTSIDE])
    elif box is not None:
        raise InvalidValue("box", box, "used with the task whose box it is")
    return [
        message
        for message in store.list_messages(run_id)
        if key is None
        or (box != "outbox" and message.recipient == key)
        or (box != "inbox" and message.sender == key)
    ]


def may_mend(run: RunRecord, caller: ParentRef | None, me: Owner, *, force: bool) -> None:
    """Raise `NotAllowed` where the run is somebody else's and that is not meant."""
    foreign = is_foreign(run, caller, me) or (caller is None and run.parent is not None)
    if foreign and not force:
        raise NotAllowed(f"the mail of run {run.id} is not changed: {whose(run, 'change its mail')}")


def carry_out(store: RunStore, order: MailOrder) -> list[MessageRecord]:
    """Acknowledge or give again; returns the messages that this was about, as they stand now.

    Raises:
        UnknownName: there is no such message in this run.
        NotAllowed: a session is at work with it, has it in its conversation, or is over.
    """
    if order.ack is not None:
        return [
            store.acknowledge_message(message.id, actor=order.actor)
            for message in _meant(store, order, order.ack, _OPEN)
        ]
    wanted = order.replay or ALL
    given: list[MessageRecord] = []
    run = store.load_run(order.run_id)
    for message in _meant(store, order, wanted, (MessageState.DELIVERED,)):
        reason = _why_not_again(store, run, message)
        if reason is None:
            given.append(store.replay_message(message.id, actor=order.actor))
        elif wanted != ALL:
            raise NotAllowed(f"message {message.id} is not given again: {reason}")
    return given


def what_is_wrong(store: RunStore, run_id: str) -> list[MailFinding]:
    """The mail of a run that cannot move any more by itself, and what becomes of it by `mend`."""
    run = store.load_run(run_id)
    tasks = {task.key: task for task in store.load_tasks(run.id)}
    found: list[MailFinding] = []
    for message in store.list_messages(run.id):
        if message.state in _OPEN:
            finding = _look(store, run, tasks.get(message.recipient), message)
            if finding is not None:
                found.append(finding)
    return found


def mend(store: RunStore, run_id: str, *, actor: str) -> list[MailFinding]:
    """Settle what is wrong. Returns what was; a second time finds nothing."""
    found = what_is_wrong(store, run_id)
    for finding in found:
        ident = finding.message.id
        if finding.becomes is MessageState.ACCEPTED:
            store.replay_message(ident, actor=actor)
        else:
            store.settle_message(ident, finding.becomes, reason=finding.wrong)
    if found:
        told = [
            {"message_id": each.message.id, "becomes": each.becomes, "wrong": each.wrong} for each in found
        ]
        store.append_events(
            None,
            found[0].message.run_id,
            [NewEvent(type="mail.repaired", actor=actor, data={"findings": told})],
        )
    return found


def _look(
    store: RunStore, run: RunRecord, task: TaskRecord | None, message: MessageRecord
) -> MailFinding | None:
    def found(wrong: str, becomes: MessageState) -> MailFinding:
        return MailFinding(message=message, wrong=wrong, becomes=becomes)

    late = message.expires_at is not None and message.expires_at <= time.time()
    if message.state is MessageState.ACCEPTED and late:
        return found("nobody read it in its time", MessageState.EXPIRED)
    if message.recipient in OUTSIDE:
        return None
    if task is None:
        return found(f"the run has no task {message.recipient!r}", MessageState.DEAD)
    if _driven(run) and (task.attempt_id is None or _at_work(store, task)):
        return None
    if message.state is MessageState.DELIVERED and message.id in _kept(store, task):
        return found("its session had it in its conversation", MessageState.READ)
    if run.state in RUN_TERMINAL:
        return found(f"the run is {run.state}", MessageState.DEAD)
    if task.state in TASK_TERMINAL:
        # A run that is driven may be about to wake the task.
        return None if _driven(run) else found(f"its task is {task.state}", MessageState.DEAD)
    if message.state is MessageState.DELIVERED:
        return found("the session that it was given to is gone", MessageState.ACCEPTED)
    return None


def _why_not_again(store: RunStore, run: RunRecord, message: MessageRecord) -> str | None:
    if message.recipient in OUTSIDE:
        return f"{message.recipient} is no session"
    task = store.load_task(run.id, message.recipient)
    if run.state in RUN_TERMINAL or task.state in TASK_TERMINAL:
        return f"{task.key} is {task.state} and reads no mail; go on with it by resume or steer"
    if _driven(run) and _at_work(store, task):
        return f"the session of {task.key} is at work and was given it"
    if message.id in _kept(store, task):
        return f"the session of {task.key} has it in its conversation"
    return None


def _meant(
    store: RunStore, order: MailOrder, wanted: str, states: Collection[MessageState]
) -> list[MessageRecord]:
    mail = in_box(store, order.run_id, order.key, order.box or (None if order.key is None else "inbox"))
    if wanted == ALL:
        return [message for message in mail if message.state in states]
    meant = [message for message in mail if message.id == wanted]
    if not meant:
        raise UnknownName("message", wanted, [message.id for message in mail])
    if order.replay is not None and meant[0].state not in states:
        raise NotAllowed(
            f"message {wanted} is {meant[0].state}; only one that was delivered and not read is given again"
        )
    return meant


def _driven(run: RunRecord) -> bool:
    return run.owner is not None and owner_alive(run.owner)


def _at_work(store: RunStore, task: TaskRecord) -> bool:
    return any(attempt.task_id == task.id for attempt in store.open_attempts(task.run_id))


def _kept(store: RunStore, task: TaskRecord) -> set[str]:
    """The messages that stand in the conversation of the task's newest attempt."""
    if task.attempt_id is None:
        return set()
    transcript = store.read_transcript(store.load_attempt(task.attempt_id).session_id)
    return {message for entry in transcript for message in entry.data.get("messages", ())}
