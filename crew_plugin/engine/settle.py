"""Writing down how attempts and runs end. What the store holds counts, never what a session says.

These functions run on the writing thread, each inside one transaction.
"""

import json
import zlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from crew_plugin.engine.decide import run_end, stopped_state
from crew_plugin.engine.ports import Outcome
from crew_plugin.engine.snapshot import OVER, LastAttempt, Sequel, TaskView
from crew_plugin.models.causes import Cause, CauseCode
from crew_plugin.models.mail import OUTSIDE, MessageState, ReceiptOutcome
from crew_plugin.models.records import (
    ArtifactRef,
    AttemptRecord,
    ControlRecord,
    Lease,
    ResultRecord,
    RunRecord,
    TaskRecord,
)
from crew_plugin.models.states import ATTEMPT_TERMINAL, TASK_TERMINAL, AttemptState, RunState, TaskState
from crew_plugin.store.port import RunStore

__all__ = ["Settled", "Stop", "close_run", "finish_run", "settle_attempt", "view_of"]

_TASK_ENDS = {
    AttemptState.COMPLETED: TaskState.COMPLETED,
    AttemptState.NEEDS_ATTENTION: TaskState.NEEDS_ATTENTION,
    AttemptState.FAILED: TaskState.FAILED,
    AttemptState.LOST: TaskState.FAILED,
    AttemptState.CANCELLED: TaskState.CANCELLED,
}
_SAID_LESS = {AttemptState.COMPLETED, AttemptState.CANCELLED, AttemptState.LOST}
"""Outcomes that say less than a result in which the agent reports an error."""
_ARRIVED = {MessageState.DELIVERED, MessageState.READ}
_DONE_TO_IT = {AttemptState.CANCELLED, AttemptState.LOST}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """A wish to stop a run or a task: why, and whose it is."""

    cause: Cause
    actor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """What an attempt's end made of its task."""

    task: TaskRecord
    last: LastAttempt
    summary: str = ""
    result: ResultRecord | None = None


def view_of(
    task: TaskRecord,
    *,
    busy: bool = False,
    stopping: bool = False,
    last: LastAttempt | None = None,
    retry_at: float | None = None,
    stop: Cause | None = None,
    tags: Collection[str] = (),
    ticket: int | None = None,
    resumes: bool = False,
    most_attempts: int = 1,
) -> TaskView:
    """A task's row as the scheduler sees it, with what only its supervisor knows."""
    return TaskView(
        key=task.key,
        state=task.state,
        cause=task.cause,
        depends_on=task.depends_on,
        optional=task.optional,
        attention_pass=task.attention_pass,
        dispatches=task.dispatches,
        max_dispatches=task.max_dispatches,
        attempts=task.attempts,
        most_attempts=most_attempts,
        # Different for each task and attempt, and always the same for one.
        draw=zlib.crc32(f"{task.id} {task.attempts}".encode()) / 0xFFFFFFFF,
        busy=busy,
        stopping=stopping,
        last=last,
        retry_at=retry_at,
        tags=frozenset((f"role:{task.role}", f"agent:{task.agent}", *tags)),
        ticket=ticket,
        hold=task.hold if task.state not in TASK_TERMINAL else None,
        resumes=resumes,
        ended_at=task.ended_at,
        stop=stop,
    )


def settle_attempt(
    store: RunStore,
    lease: Lease,
    attempt_id: str,
    outcome: Outcome,
    *,
    stop: Stop | None,
    sequel: Callable[[TaskRecord, LastAttempt], Sequel] = lambda _task, _last: OVER,
) -> Settled:
    """End an attempt as the store's facts allow. One that has ended already is left as it is.

    `sequel` says what follows by itself for a task with this last attempt; without it, nothing.
    """
    attempt = store.load_attempt(attempt_id)
    task = store.load_task(lease.run_id, attempt.task_id)
    if attempt.state in ATTEMPT_TERMINAL:
        return Settled(task=task, last=LastAttempt(state=attempt.state, cause=attempt.cause))
    result = store.load_result(attempt.result_id) if attempt.result_id is not None else None
    judged = _judge(outcome, result, stop)
    if result is None and judged.last_text is None:
        judged = replace(judged, last_text=_last_words(store, attempt, task))
    last = LastAttempt(
        state=judged.state,
        cause=judged.cause,
        retryable=judged.retryable and stop is None,
        acted=judged.acted and stop is None,
    )
    follows = sequel(task, last)
    task = store.end_attempt(
        lease,
        attempt_id,
        judged.state,
        task_state=None if follows.again else _TASK_ENDS[judged.state],
        gave_up=follows.gave_up,
        actor=stop.actor if stop is not None and judged.state in _DONE_TO_IT else "supervisor",
        cause=judged.cause,
        last_text=judged.last_text,
    )
    return Settled(task=task, last=last, summary=result.summary if result is not None else "", result=result)


def _last_words(store: RunStore, attempt: AttemptRecord, task: TaskRecord) -> ArtifactRef | None:
    """What a session said last that could not tell so itself, as it was stopped for good, or lost; with
    the parts of a result that it had handed in."""
    parts = store.list_sections(attempt.id)
    if parts:
        values = [{part.label: json.loads(store.read_artifact(part.body.sha256))} for part in parts]
        told = "Parts of a result, handed in before the end; the whole was never handed in:"
        whole = f"{told}\n\n{json.dumps(values, ensure_ascii=False, indent=1)}".encode("utf-8", "replace")
        return store.put_artifact(task.run_id, f"{task.key}/partial.md", whole, task_id=task.id)
    said = (entry.content for entry in store.read_transcript(attempt.session_id) if entry.role == "assistant")
    text = next((text for text in reversed(list(said)) if text.strip()), None)
    if text is None:
        return None
    body = text.encode("utf-8", "replace")
    return store.put_artifact(task.run_id, f"{task.key}/last-text.md", body, task_id=task.id)


def _judge(outcome: Outcome, result: ResultRecord | None, stop: Stop | None) -> Outcome:
    if result is not None and result.error is None and not _refused_after_all(outcome):
        return Outcome(state=AttemptState.COMPLETED)
    if result is not None and result.error is not None and outcome.state in _SAID_LESS:
        cause = Cause(code=CauseCode.AGENT_ERROR, message=f"the agent reported: {result.error}")
        return replace(outcome, state=AttemptState.FAILED, cause=cause, retryable=False, acted=False)
    if outcome.state is AttemptState.COMPLETED:
        cause = Cause(code=CauseCode.NO_RESULT, message="the session said it was done, but no result exists")
        state = AttemptState.FAILED if outcome.last_text is None else AttemptState.NEEDS_ATTENTION
        return replace(outcome, state=state, cause=cause, retryable=False, acted=False)
    if outcome.state not in ATTEMPT_TERMINAL:
        cause = Cause(code=CauseCode.INTERNAL_ERROR, message=f"the session ended as {outcome.state}")
        return replace(outcome, state=AttemptState.FAILED, cause=cause, retryable=False, acted=False)
    if stop is not None and outcome.state is AttemptState.CANCELLED:
        return replace(outcome, cause=stop.cause)
    return outcome


def _refused_after_all(outcome: Outcome) -> bool:
    """A strict schema fails the attempt and keeps what was submitted."""
    return outcome.cause is not None and outcome.cause.code is CauseCode.RESULT_REJECTED


def finish_run(
    store: RunStore,
    lease: Lease,
    state: RunState,
    cause: Cause | None,
    *,
    actor: str,
    answers: Sequence[tuple[ControlRecord, str | None]] = (),
    under_way: Collection[str] = (),
) -> RunRecord:
    """End a run whose tasks have all ended, answering first what it was still asked. Requests that
    are `under_way` are answered by whoever carries them out."""
    for control, refused in answers:
        _answer_at_last(store, lease, control, refused)
    too_late = f"the run had already ended: {state}"
    for control in store.pending_controls(lease.run_id):
        if control.id not in under_way:
            _answer_at_last(store, lease, control, too_late)
    run = store.transition_run(lease, state, actor=actor, cause=cause)
    _bury_half_read(store, run.id)
    return run


def _answer_at_last(store: RunStore, lease: Lease, control: ControlRecord, refused: str | None) -> None:
    """Answer a request at the end of its run. A message that was handed over stays handed over, even
    if whoever did it died before it could say so."""
    outcome = None
    if control.message_id is not None:
        arrived = store.load_message(control.message_id).state in _ARRIVED
        outcome = ReceiptOutcome.INJECTED if arrived else ReceiptOutcome.FAILED
        refused = None if arrived else refused
    store.answer_control(lease, control.id, refused=refused, actor="supervisor", outcome=outcome)


def close_run(store: RunStore, lease: Lease, cause: Cause, *, actor: str) -> RunRecord:
    """End everything of a run that nobody works on any more. Accepted results stay accepted."""
    state = stopped_state(cause)
    cancelled = state is RunState.CANCELLED
    lost = cause.code is CauseCode.SUPERVISOR_LOST
    given_up = Outcome(
        state=AttemptState.LOST if lost else AttemptState.CANCELLED if cancelled else AttemptState.FAILED,
        cause=cause,
    )
    stop = Stop(cause=cause, actor=actor)
    for attempt in store.open_attempts(lease.run_id):
        settle_attempt(store, lease, attempt.id, given_up, stop=stop)
    for task in store.load_tasks(lease.run_id):
        if task.state not in TASK_TERMINAL:
            queued = task.state is TaskState.QUEUED
            to = TaskState.CANCELLED if queued or cancelled else TaskState.FAILED
            store.transition_task(lease, task.id, to, actor=actor, cause=cause)
    answers = [(control, cause.message) for control in store.pending_controls(lease.run_id)]
    if run_end(view_of(task) for task in store.load_tasks(lease.run_id)).state is RunState.COMPLETED:
        run = finish_run(store, lease, RunState.COMPLETED, None, actor=actor, answers=answers)
    else:
        run = finish_run(store, lease, state, cause, actor=actor, answers=answers)
    return run


def _bury_half_read(store: RunStore, run_id: str) -> None:
    """Nobody can tell any more whether what a lost session was given became part of a model call."""
    for message in store.list_messages(run_id):
        if message.state is MessageState.DELIVERED and message.recipient not in OUTSIDE:
            reason = "its session was lost; whether a model saw it is not known"
            store.settle_message(message.id, MessageState.DEAD, reason=reason)
