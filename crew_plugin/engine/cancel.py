"""Stopping a run or a task from wherever one is: its own process, another one, or none any more.

Needs a store and nothing else, so that a command without an event loop can use it too.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from crew_plugin.engine.settle import close_run
from crew_plugin.models.causes import Cause, CauseCode
from crew_plugin.models.records import ControlRecord, ControlState, ControlVerb, Owner, ParentRef, RunRecord
from crew_plugin.models.states import RUN_TERMINAL, TASK_TERMINAL, RunState, TaskState
from crew_plugin.store.liveness import owner_alive
from crew_plugin.store.port import RunStore

__all__ = [
    "CancelOutcome",
    "CancelReport",
    "Wish",
    "cancel_or_ask",
    "cause_of_request",
    "is_foreign",
    "report_answer",
    "report_silence",
    "stops_foreign",
    "whose",
]


class CancelOutcome(StrEnum):
    """What came of the wish to stop something."""

    CANCELLED = "cancelled"
    """It is over because of this."""
    ALREADY_ENDED = "already_ended"
    """It had ended before; nothing changed."""
    REQUESTED = "requested"
    """Its supervisor was asked and has not answered yet."""
    MARKED_LOST = "marked_lost"
    """Its supervisor is dead: it was closed, and what was finished is kept."""
    REFUSED = "refused"
    """It belongs to somebody else, and `force` was not given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelReport:
    """What came of it, in a code and in a sentence."""

    run_id: str
    outcome: CancelOutcome
    message: str
    task: str | None = None
    """The key of the task, where one task was meant."""
    state: RunState | TaskState
    """Where the run, or that task, stands now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """Who wants what stopped, and why."""

    run_id: str
    cause: Cause
    actor: str
    force: bool = False
    task: str | None = None
    caller: ParentRef | None = None
    """The host session that asks, where it is one."""

    def payload(self) -> Mapping[str, Any]:
        """What is written down of it, so that the cause outlives whoever asked."""
        return {"code": self.cause.code, "message": self.cause.message, "force": self.force}


def cause_of_request(control: ControlRecord) -> Cause:
    """Why a cancellation was asked for. One without words is the caller's own wish."""
    code, message = control.payload.get("code"), control.payload.get("message")
    return Cause(
        code=CauseCode(code) if code in set(CauseCode) else CauseCode.CALLER_CANCELLED,
        message=message if isinstance(message, str) else f"cancelled by {control.actor}",
    )


def cancel_or_ask(store: RunStore, wish: Wish, me: Owner) -> CancelReport | ControlRecord:
    """In one transaction: what came of it, or the request that the run's supervisor must answer."""
    with store.transaction():
        run = store.load_run(wish.run_id)
        ended = _ended(store, run, wish)
        if ended is not None:
            return ended
        if is_foreign(run, wish.caller, me) and not wish.force:
            return _report(run, wish, CancelOutcome.REFUSED, whose(run, "stop it"))
        if run.owner is not None and owner_alive(run.owner):
            task_id = None if wish.task is None else store.load_task(run.id, wish.task).id
            return store.request_control(
                run.id, ControlVerb.CANCEL, actor=wish.actor, task_id=task_id, payload=wish.payload()
            )
        return _close(store, run, wish, me)


def report_answer(store: RunStore, wish: Wish, control: ControlRecord) -> CancelReport | None:
    """What became of a request to stop something; None while nothing has."""
    run = store.load_run(control.run_id)
    now = store.load_control(control.id)
    pending = now.state is ControlState.PENDING
    if pending and run.state not in RUN_TERMINAL:
        return None
    if pending or now.state is ControlState.REFUSED:
        message = f"the run had already ended: {run.state}" if pending else now.answer or ""
        report = _report(run, wish, CancelOutcome.ALREADY_ENDED, message, store)
        # What goes on although it was to be stopped was kept going by a hook.
        goes_on = report.state not in (*RUN_TERMINAL, *TASK_TERMINAL)
        return replace(report, outcome=CancelOutcome.REFUSED) if goes_on else report
    return _report(run, wish, CancelOutcome.CANCELLED, "it was cancelled; finished results are kept", store)


def report_silence(store: RunStore, wish: Wish) -> CancelReport:
    """What to say when the supervisor has not answered in time."""
    message = "its supervisor was asked to stop it and has not answered yet"
    return _report(store.load_run(wish.run_id), wish, CancelOutcome.REQUESTED, message, store)


def _ended(store: RunStore, run: RunRecord, wish: Wish) -> CancelReport | None:
    if run.state in RUN_TERMINAL:
        message = f"the run had already ended: {run.state}"
        return _report(run, wish, CancelOutcome.ALREADY_ENDED, message, store)
    if wish.task is not None:
        state = store.load_task(run.id, wish.task).state
        if state in TASK_TERMINAL:
            message = f"the task had already ended: {state}"
            return _report(run, wish, CancelOutcome.ALREADY_ENDED, message, store)
    return None


def stops_foreign(store: RunStore, wish: Wish, me: Owner) -> str | None:
    """What of somebody else's a forced wish would stop, as a deed to be confirmed. None where it
    stops nothing, or only what is the caller's own."""
    run = store.load_run(wish.run_id)
    if not wish.force or _ended(store, run, wish) is not None or not is_foreign(run, wish.caller, me):
        return None
    what = "" if wish.task is None else f"task {wish.task} of "
    return f"stop {what}run {run.id}, which belongs to {_owner_in_words(run)}"


def is_foreign(run: RunRecord, caller: ParentRef | None, me: Owner) -> bool:
    """Whether it is another session's run, or one that another living process drives for nobody here."""
    if run.owner is not None and not owner_alive(run.owner):
        return False
    if caller is not None and run.parent is not None:
        return (caller.host, caller.session) != (run.parent.host, run.parent.session)
    return run.owner is not None and run.owner != me


def whose(run: RunRecord, wish: str) -> str:
    """Whose run it is, said to somebody else who wants something of it."""
    return f"the run belongs to {_owner_in_words(run)}; say force to {wish} all the same"


def _owner_in_words(run: RunRecord) -> str:
    name = f"the session {run.parent.session}" if run.parent else "another process"
    return f"{name} (process {run.owner.pid})" if run.owner else name


def _close(store: RunStore, run: RunRecord, wish: Wish, me: Owner) -> CancelReport:
    """Nobody drives the run: end it here, under a lease of our own."""
    never_begun = run.owner is None and run.state is RunState.QUEUED
    held = run.owner is None and run.state is RunState.BLOCKED
    cause = wish.cause if never_begun or held else _lost(run, wish)
    closed = close_run(store, store.claim(run.id, me), cause, actor=wish.actor)
    if never_begun:
        return _report(closed, wish, CancelOutcome.CANCELLED, "it was cancelled before it began", store)
    if held:
        message = "it was cancelled while it waited for a decision; finished results are kept"
        return _report(closed, wish, CancelOutcome.CANCELLED, message, store)
    return _report(closed, wish, CancelOutcome.MARKED_LOST, cause.message, store)


def _lost(run: RunRecord, wish: Wish) -> Cause:
    pid = f" (process {run.owner.pid})" if run.owner else ""
    return Cause(
        code=CauseCode.SUPERVISOR_LOST,
        message=f"its supervisor{pid} is gone; {wish.actor} closed it, finished results are kept",
    )


def _report(
    run: RunRecord, wish: Wish, outcome: CancelOutcome, message: str, store: RunStore | None = None
) -> CancelReport:
    task = None if store is None or wish.task is None else store.load_task(run.id, wish.task)
    return CancelReport(
        run_id=run.id,
        outcome=outcome,
        message=message,
        task=wish.task if task is None else task.key,
        state=run.state if task is None else task.state,
    )
