"""Taking a run over from a supervisor that is gone: what of it is finished, what goes on, what must
be decided. Needs a store and a lease; everything happens in the transaction of the claim.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from crew_plugin.engine.dormant import go_on, seconds_left
from crew_plugin.engine.ports import Outcome
from crew_plugin.engine.settle import settle_attempt
from crew_plugin.engine.snapshot import AGAIN, LastAttempt
from crew_plugin.engine.triage import Triage, Verdict, triage
from crew_plugin.errors import CallerError, UnknownName
from crew_plugin.models.causes import Cause, CauseCode
from crew_plugin.models.mail import MessageKind
from crew_plugin.models.records import (
    AttemptRecord,
    Lease,
    NewEvent,
    TaskRecord,
    ToolCallState,
    TranscriptEntry,
)
from crew_plugin.models.states import TASK_TERMINAL, AttemptState, SessionKind, TaskState
from crew_plugin.store.port import RunStore

__all__ = ["Decision", "Decisions", "TakeOver", "TakenOver", "held_tasks", "take_stock"]

_ACTOR = "supervisor"
_LOST = Cause(code=CauseCode.SUPERVISOR_LOST, message="the process that worked on it died")
_AGAIN = LastAttempt(state=AttemptState.LOST, cause=_LOST, retryable=True)


class Decision(StrEnum):
    """What a person can decide about a held task."""

    CONTINUE = "continue"
    """It goes on with its conversation, told that a call was cut off."""
    RESTART = "restart"
    """A new attempt begins from nothing."""
    FAIL = "fail"
    """The task ends as failed."""


Decisions = Mapping[str, Decision]
"""By the keys of tasks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeOver:
    """How a run that somebody else drove is to be claimed."""

    still: int | None = None
    """The count of renewals at which it was seen to stand for the time of a lease."""
    lease: Lease | None = None
    """The lease that this process holds already, where it claimed the run before it could drive it."""
    decisions: Decisions = field(default_factory=dict[str, Decision])
    actor: str = _ACTOR


@dataclass(slots=True, kw_only=True)
class TakenOver:
    """What the new supervisor goes on with."""

    resumes: set[str] = field(default_factory=set[str])
    """Tasks whose open attempt goes on."""
    waits: dict[str, float] = field(default_factory=dict[str, float])
    """Tasks whose session goes on when its question is answered, or after so many seconds."""
    wakes: set[str] = field(default_factory=set[str])
    """Tasks that have ended and whose mail nobody has read."""
    last: dict[str, LastAttempt] = field(default_factory=dict[str, LastAttempt])
    """Running tasks between two attempts, the next of which is due now."""


def held_tasks(store: RunStore, run_id: str) -> list[TaskRecord]:
    """The tasks of a run that wait for somebody's decision."""
    return [task for task in store.load_tasks(run_id) if task.hold is not None]


def take_stock(store: RunStore, lease: Lease, how: TakeOver) -> TakenOver:
    """Look at every open attempt of a run that was just claimed, and write down what becomes of it.

    Raises:
        CallerError: something was decided about a task that waits for no decision.
    """
    taken = TakenOver()
    tasks = {task.id: task for task in store.load_tasks(lease.run_id)}
    open_attempts = {attempt.task_id: attempt for attempt in store.open_attempts(lease.run_id)}
    for task_id, attempt in open_attempts.items():
        if tasks[task_id].hold is None:
            _sort(store, lease, tasks[task_id], attempt, taken)
    for task in tasks.values():
        if task.state is TaskState.RUNNING and task.id not in open_attempts:
            taken.last[task.key] = _last_of(store, task)
    for key, decision in how.decisions.items():
        _decide(store, lease, key, decision, how.actor, taken)
    for task in store.load_tasks(lease.run_id):
        if task.state in TASK_TERMINAL and task.attempts and _has_mail(store, lease, task):
            taken.wakes.add(task.key)
    store.owe_results(lease)
    return taken


def _has_mail(store: RunStore, lease: Lease, task: TaskRecord) -> bool:
    """Whether a task that has ended is to be woken: its session, or the conversation that it was woken
    for, died before it had read all."""
    store.return_messages(lease, task.key)
    unread = store.list_messages(lease.run_id, unread_by=task.key)
    return any(message.kind is not MessageKind.RELAY for message in unread)


def _sort(store: RunStore, lease: Lease, task: TaskRecord, attempt: AttemptRecord, taken: TakenOver) -> None:
    if attempt.result_id is not None:
        # Its result stands: only the end of the attempt was not written down.
        outcome = Outcome(state=AttemptState.LOST, cause=_LOST)
        settle_attempt(store, lease, attempt.id, outcome, stop=None)
        return
    if attempt.state is AttemptState.WAITING:
        left = seconds_left(store, task)
        if left:
            taken.waits[task.key] = left
            return
        task = go_on(store, lease, task)
    transcript = store.read_transcript(attempt.session_id)
    found = triage(store.list_tool_calls(attempt.id), transcript)
    if attempt.kind is SessionKind.SCAFFOLD:
        found = Triage(verdict=Verdict.REPLAYABLE, entries=found.entries)
    store.append_events(lease, lease.run_id, [_told(task, attempt, found)])
    if found.verdict is Verdict.NEEDS_DECISION:
        store.hold_task(lease, task.id, found.question, actor=_ACTOR)
    elif found.verdict is Verdict.REPLAYABLE:
        _start_again(store, lease, task, attempt, taken)
    else:
        _go_on(store, lease, task, transcript, taken)


def _go_on(
    store: RunStore, lease: Lease, task: TaskRecord, transcript: list[TranscriptEntry], taken: TakenOver
) -> None:
    _cut_off(store, task)
    kept = {message for entry in transcript for message in entry.data.get("messages", ())}
    store.return_messages(lease, task.key, kept=kept)
    taken.resumes.add(task.key)


def _start_again(
    store: RunStore, lease: Lease, task: TaskRecord, attempt: AttemptRecord, taken: TakenOver
) -> None:
    _cut_off(store, task)
    outcome = Outcome(state=AttemptState.LOST, cause=_LOST, retryable=True)
    settle_attempt(store, lease, attempt.id, outcome, stop=None, sequel=lambda _task, _last: AGAIN)
    taken.last[task.key] = _AGAIN


def _decide(
    store: RunStore, lease: Lease, key: str, decision: Decision, actor: str, taken: TakenOver
) -> None:
    task = store.load_task(lease.run_id, key)
    if task.hold is None:
        held = [each.key for each in held_tasks(store, lease.run_id)]
        if held:
            raise UnknownName("task that waits for a decision", key, held)
        raise CallerError(f"no task of run {lease.run_id} waits for a decision")
    store.free_task(lease, task.id, decision, actor=actor)
    attempt = store.load_attempt(task.attempt_id or "")
    if decision is Decision.CONTINUE:
        _go_on(store, lease, task, store.read_transcript(attempt.session_id), taken)
    elif decision is Decision.RESTART:
        _start_again(store, lease, task, attempt, taken)
    else:
        cause = Cause(code=CauseCode.SUPERVISOR_LOST, message=f"{task.hold}; {actor} decided to end it")
        outcome = Outcome(state=AttemptState.FAILED, cause=cause)
        settle_attempt(store, lease, attempt.id, outcome, stop=None)


def _cut_off(store: RunStore, task: TaskRecord) -> None:
    """What became of calls that were under way is told or decided now: none of them is open any more."""
    for call in store.list_tool_calls(task.attempt_id or ""):
        if call.state is ToolCallState.STARTED:
            store.end_tool_call(call.id, error="cut off: its process died", cancelled=True)


def _last_of(store: RunStore, task: TaskRecord) -> LastAttempt:
    attempts = store.list_attempts(task.id)
    return (
        LastAttempt(state=attempts[-1].state, cause=attempts[-1].cause, retryable=True)
        if attempts
        else _AGAIN
    )


def _told(task: TaskRecord, attempt: AttemptRecord, found: Triage) -> NewEvent:
    call = found.call
    data: dict[str, object] = {"verdict": found.verdict, "entries": found.entries}
    if call is not None:
        data |= {"tool": call.tool, "arguments": call.arguments[:400]}
    return NewEvent(type="attempt.triaged", actor=_ACTOR, task_id=task.id, attempt_id=attempt.id, data=data)
