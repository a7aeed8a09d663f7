"""`cancel`: asks the process that supervises a run; closes the run where that process is dead."""

import time
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from crew_plugin.cli.invoke import Exit, print_json
from crew_plugin.cli.place import Place
from crew_plugin.errors import NotAllowed
from crew_plugin.models.causes import Cause, CauseCode
from crew_plugin.models.records import ControlVerb, RunRecord, TaskRecord
from crew_plugin.models.states import RUN_TERMINAL, TASK_TERMINAL, RunState, TaskState
from crew_plugin.store.liveness import current_owner, owner_alive
from crew_plugin.store.port import RunStore
from crew_plugin.ui.text import status_text
from crew_plugin.ui.views import run_view

__all__ = ["cancel"]

ACTOR: Final = "operator"
_ANSWER_SECONDS: Final = 10.0
_LOOK_SECONDS: Final = 0.03


class Outcome(StrEnum):
    """What became of the wish."""

    CANCELLED = "cancelled"
    CLOSED_AS_LOST = "closed_as_lost"
    ALREADY_OVER = "already_over"
    REFUSED = "refused"
    NOT_ANSWERED = "not_answered"
    """Written down; the supervisor lives but has not answered yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wish:
    """What the person wants."""

    run: RunRecord
    task: TaskRecord | None
    cause: Cause
    force: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    outcome: Outcome
    text: str


def cancel(*, place: Place, json: bool, run: str, task: str | None, reason: str | None, force: bool) -> int:
    """Cancel a run or one of its tasks."""
    from crew_plugin.store.sqlite import SqliteStore

    with place.reading_run(run) as (_, run_id):
        pass
    store = SqliteStore.open(place.find())
    try:
        record = store.load_run(run_id)
        message = f"cancelled from the command line{f': {reason}' if reason else ''}"
        wish = _Wish(
            run=record,
            task=store.load_task(run_id, task) if task is not None else None,
            cause=Cause(code=CauseCode.CALLER_CANCELLED, message=message),
            force=force,
        )
        answer = _carry_out(store, wish)
        view = run_view(store, run_id)
    finally:
        store.close()
    if json:
        print_json({"outcome": str(answer.outcome), "detail": answer.text, "run": view.as_json()})
    else:
        print(answer.text)
        print(status_text(view))
        if answer.outcome in (Outcome.CANCELLED, Outcome.CLOSED_AS_LOST):
            print(f"what was finished: crew show {run_id}{place.options()}")
    failed = answer.outcome in (Outcome.REFUSED, Outcome.NOT_ANSWERED)
    return Exit.FAILED if failed else Exit.OK


def _carry_out(store: RunStore, wish: _Wish) -> _Answer:
    run, task = wish.run, wish.task
    if run.state in RUN_TERMINAL:
        return _Answer(outcome=Outcome.ALREADY_OVER, text=f"run {run.id} was over already: {run.state}")
    if task is not None and task.state in TASK_TERMINAL:
        return _Answer(outcome=Outcome.ALREADY_OVER, text=f"task {task.key} was over already: {task.state}")
    if run.parent is not None and not wish.force:
        raise NotAllowed(
            f"run {run.id} belongs to the {run.parent.host} session {run.parent.session}; "
            "cancel it there, or add --force"
        )
    if run.owner is not None and owner_alive(run.owner):
        return _ask(store, wish)
    if task is not None:
        raise NotAllowed(
            f"nobody works on run {run.id} any more, so a single task of it cannot be cancelled; "
            f"close the whole run: crew cancel {run.id}"
        )
    return _never_begun(store, wish) if run.state is RunState.QUEUED else _close_lost(store, wish)


def _ask(store: RunStore, wish: _Wish) -> _Answer:
    """Write the wish down for the supervisor and wait for its answer, within bounds."""
    run, task = wish.run, wish.task
    payload = {"code": str(wish.cause.code), "message": wish.cause.message, "force": wish.force}
    control = store.request_control(
        run.id, ControlVerb.CANCEL, actor=ACTOR, task_id=task.id if task else None, payload=payload
    )
    deadline = time.monotonic() + _ANSWER_SECONDS
    while any(pending.id == control.id for pending in store.pending_controls(run.id)):
        if run.owner is not None and not owner_alive(run.owner):
            return _close_lost(store, wish)
        if time.monotonic() > deadline:
            text = f"asked process {run.owner.pid if run.owner else '?'}, which has not answered yet"
            return _Answer(outcome=Outcome.NOT_ANSWERED, text=text)
        time.sleep(_LOOK_SECONDS)
    return _read_answer(store, wish)


def _read_answer(store: RunStore, wish: _Wish) -> _Answer:
    what = f"task {wish.task.key} of run {wish.run.id}" if wish.task else f"run {wish.run.id}"
    if wish.task is not None:
        state = str(store.load_task(wish.run.id, wish.task.id).state)
    else:
        state = str(store.load_run(wish.run.id).state)
    if state == TaskState.CANCELLED:
        return _Answer(outcome=Outcome.CANCELLED, text=f"{what} is cancelled")
    return _Answer(outcome=Outcome.REFUSED, text=f"{what} was not cancelled; it is {state}")


def _never_begun(store: RunStore, wish: _Wish) -> _Answer:
    """A run that was written down and never started has nobody to ask."""
    run_id = wish.run.id
    with store.transaction():
        lease = store.claim(run_id, current_owner())
        for task in store.load_tasks(run_id):
            store.transition_task(lease, task.id, TaskState.CANCELLED, actor=ACTOR, cause=wish.cause)
        store.transition_run(lease, RunState.CANCELLED, actor=ACTOR, cause=wish.cause)
    return _Answer(outcome=Outcome.CANCELLED, text=f"run {run_id} is cancelled; it had not begun")


def _close_lost(store: RunStore, wish: _Wish) -> _Answer:
    from crew_plugin.engine.settle import close_run

    run = wish.run
    pid = f"process {run.owner.pid}" if run.owner else "its process"
    cause = Cause(
        code=CauseCode.SUPERVISOR_LOST, message=f"{pid}, which supervised the run, died; closed by {ACTOR}"
    )
    with store.transaction():
        lease = store.claim(run.id, current_owner())
        closed = close_run(store, lease, cause, actor=ACTOR)
    return _Answer(
        outcome=Outcome.CLOSED_AS_LOST,
        text=f"{pid}, which supervised run {run.id}, is dead; the run is closed as {closed.state}",
    )
