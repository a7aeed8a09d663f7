"""Attempts of tasks, and their sessions."""

import sqlite3
import time
from dataclasses import asdict

from crew_plugin.errors import IllegalTransition
from crew_plugin.models.causes import Cause
from crew_plugin.models.ids import new_id
from crew_plugin.models.records import (
    ArtifactRef,
    AttemptRecord,
    Counts,
    GaveUp,
    Lease,
    SessionRecord,
    TaskRecord,
    Usage,
)
from crew_plugin.models.states import (
    ATTEMPT_TERMINAL,
    RUN_TERMINAL,
    TASK_TERMINAL,
    TASK_TRANSITIONS,
    AttemptState,
    RunState,
    SessionKind,
    TaskState,
)
from crew_plugin.store.questions import Questions
from crew_plugin.store.retries import Retries
from crew_plugin.store.rows import cause_of, dump, dump_cause, dump_ref, load, load_ref

__all__ = ["Attempts"]


class Attempts(Questions, Retries):
    """Starting, following and ending attempts. At most one of a task is open."""

    def start_attempt(
        self,
        lease: Lease,
        task_id: str,
        *,
        kind: SessionKind,
        engine: str,
        model: str | None,
        cwd: str,
        actor: str,
    ) -> AttemptRecord:
        """`queued` (or `running` between two attempts) -> `running`: counts the dispatch, makes
        the attempt and its session."""
        with self._change():
            run_state = RunState(self._fence(lease)["state"])
            task = self._task_of(lease, task_id)
            self._check_start(run_state, task)
            attempt_id, session_id, number, now = new_id("att"), new_id("ses"), task.attempts + 1, time.time()
            row = self._one(
                "INSERT INTO attempt (id, run_id, task_id, number, state, epoch, engine, kind, session_id,"
                " model_asked, started_at, last_activity_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
                " RETURNING *",
                (
                    attempt_id,
                    lease.run_id,
                    task_id,
                    number,
                    AttemptState.RUNNING,
                    lease.epoch,
                    engine,
                    kind,
                    session_id,
                    model,
                    now,
                    now,
                ),
            )
            self._execute(
                "INSERT INTO session (id, attempt_id, run_id, kind, cwd) VALUES (?, ?, ?, ?, ?)",
                (session_id, attempt_id, lease.run_id, kind, cwd),
            )
            self._execute(
                "UPDATE task SET state = ?, dispatches = dispatches + 1, attempts = ?, attempt_id = ?,"
                " retry_at = NULL, started_at = coalesce(started_at, ?) WHERE id = ?",
                (TaskState.RUNNING, number, attempt_id, now, task_id),
            )
            self._append(
                lease.run_id,
                lease.epoch,
                "task.started",
                actor,
                task_id=task_id,
                attempt_id=attempt_id,
                data={"key": task.key, "number": number},
            )
            return _attempt(row)

    def resume_attempt(self, lease: Lease, attempt_id: str, *, actor: str) -> AttemptRecord:
        """An open attempt goes on under this lease, with `attempt.resumed`. Counts as a dispatch if
        no model has answered since it was resumed last."""
        with self._change():
            self._fence(lease)
            attempt = self._attempt_of(lease, attempt_id)
            task = self._task_of(lease, attempt.task_id)
            if attempt.state in ATTEMPT_TERMINAL:
                raise IllegalTransition("attempt", attempt_id, attempt.state, "resumed")
            before = self._one("SELECT resumed_steps FROM attempt WHERE id = ?", (attempt_id,))[0]
            stands = before is not None and attempt.steps <= before
            if stands and task.dispatches >= task.max_dispatches:
                current = f"{task.state} after {task.dispatches} of {task.max_dispatches} dispatches"
                raise IllegalTransition("task", task.id, current, "resumed")
            self._execute(
                "UPDATE attempt SET epoch = ?, state = ?, resumed_steps = ?, last_activity_at = ?"
                " WHERE id = ?",
                (lease.epoch, AttemptState.RUNNING, attempt.steps, time.time(), attempt_id),
            )
            self._execute(
                "UPDATE task SET state = ?, cause = NULL, dispatches = dispatches + ? WHERE id = ?",
                (TaskState.RUNNING, int(stands), task.id),
            )
            self._append(
                lease.run_id,
                lease.epoch,
                "attempt.resumed",
                actor,
                task_id=task.id,
                attempt_id=attempt_id,
                data={"key": task.key, "number": attempt.number, "steps": attempt.steps},
            )
            return self._attempt_of(lease, attempt_id)

    def open_session(
        self, lease: Lease, attempt_id: str, *, host_session: str, prompt: ArtifactRef | None
    ) -> None:
        """Note the host's id of the session and the prompt it got."""
        with self._change():
            self._fence(lease)
            changed = self._execute(
                "UPDATE session SET host_session = ?, prompt = ?"
                " WHERE id = (SELECT session_id FROM attempt WHERE id = ? AND run_id = ?)",
                (host_session, dump_ref(prompt), attempt_id, lease.run_id),
            )
            if not changed.rowcount:
                raise self._unknown("attempt", attempt_id)

    def touch_attempt(
        self,
        lease: Lease,
        attempt_id: str,
        *,
        usage: Usage,
        steps: int,
        model_used: str | None,
        counts: Counts | None = None,
    ) -> None:
        """Note progress: usage so far, model calls so far, activity now, and the counts where given.
        An ended attempt stays as it is."""
        with self._change():
            self._fence(lease)
            changed = self._execute(
                "UPDATE attempt SET usage_input = ?, usage_output = ?, usage_cached = ?, usage_calls = ?,"
                " usage_cost = ?, steps = ?, model_used = coalesce(?, model_used),"
                " counts = coalesce(?, counts), last_activity_at = ?"
                " WHERE id = ? AND run_id = ? AND ended_at IS NULL",
                (
                    usage.input,
                    usage.output,
                    usage.cached,
                    usage.calls,
                    usage.cost,
                    steps,
                    model_used,
                    None if counts is None else dump(asdict(counts)),
                    time.time(),
                    attempt_id,
                    lease.run_id,
                ),
            )
            if not changed.rowcount:
                self._attempt_of(lease, attempt_id)

    def add_usage(self, lease: Lease, attempt_id: str, *, usage: Usage, steps: int) -> None:
        """Count what a further conversation of an ended attempt used."""
        with self._change():
            self._fence(lease)
            total = self._attempt_of(lease, attempt_id).usage + usage
            self._execute(
                "UPDATE attempt SET usage_input = ?, usage_output = ?, usage_cached = ?, usage_calls = ?,"
                " usage_cost = ?, steps = steps + ?, last_activity_at = ? WHERE id = ?",
                (
                    total.input,
                    total.output,
                    total.cached,
                    total.calls,
                    total.cost,
                    steps,
                    time.time(),
                    attempt_id,
                ),
            )

    def end_attempt(
        self,
        lease: Lease,
        attempt_id: str,
        state: AttemptState,
        *,
        task_state: TaskState | None,
        actor: str,
        cause: Cause | None = None,
        last_text: ArtifactRef | None = None,
        gave_up: GaveUp | None = None,
    ) -> TaskRecord:
        """End an attempt and, unless `task_state` is None (another attempt is due), its task,
        with the matching event. `COMPLETED` needs an accepted result without error. A task that
        fails becomes a dead letter if it was given up. Mail that an attempt has not read is for the
        next one."""
        with self._change():
            self._fence(lease)
            attempt = self._attempt_of(lease, attempt_id)
            if attempt.state == state and state in ATTEMPT_TERMINAL:
                return self._task_of(lease, attempt.task_id)
            task = self._task_of(lease, attempt.task_id)
            self._check_end(attempt, state, task, task_state)
            self._withdraw_questions(lease, attempt_id, actor=actor)
            self._execute(
                "UPDATE attempt SET state = ?, cause = ?, last_text = ?, ended_at = ? WHERE id = ?",
                (state, dump_cause(cause), dump_ref(last_text), time.time(), attempt_id),
            )
            if state == AttemptState.LOST:
                self._append(
                    lease.run_id,
                    lease.epoch,
                    "attempt.lost",
                    actor,
                    task_id=task.id,
                    attempt_id=attempt_id,
                    cause=cause,
                )
            elif task_state is None or task_state.value != state.value:
                self._append(
                    lease.run_id,
                    lease.epoch,
                    "attempt.ended",
                    actor,
                    task_id=task.id,
                    attempt_id=attempt_id,
                    cause=cause,
                    data={"state": state},
                )
            if task_state is not None:
                return self._end_task(lease, task, task_state, actor, cause, attempt=attempt, gave_up=gave_up)
            self._return_mail(lease, task.key)
            if task.state == TaskState.WAITING:
                # Its session is gone and with it the question: another attempt is due.
                self._execute("UPDATE task SET state = ? WHERE id = ?", (TaskState.RUNNING, task.id))
            return self._task_of(lease, task.id)

    def load_attempt(self, attempt_id: str) -> AttemptRecord:
        """One attempt. Raises `UnknownName`."""
        row = self._row_of("attempt", attempt_id)
        if row is None:
            raise self._unknown("attempt", attempt_id)
        return _attempt(row)

    def list_attempts(self, task_id: str) -> list[AttemptRecord]:
        """The attempts of a task, oldest first."""
        rows = self._all("SELECT * FROM attempt WHERE task_id = ? ORDER BY number", (task_id,))
        return [_attempt(row) for row in rows]

    def open_attempts(self, run_id: str) -> list[AttemptRecord]:
        """The attempts of a run that have not ended."""
        rows = self._all("SELECT * FROM attempt WHERE run_id = ? AND ended_at IS NULL ORDER BY n", (run_id,))
        return [_attempt(row) for row in rows]

    def load_session(self, session_id: str) -> SessionRecord:
        """One session, by our id or the host's. Raises `UnknownName`."""
        row = self._first("SELECT * FROM session WHERE id = ?", (session_id,)) or self._first(
            "SELECT * FROM session WHERE host_session = ? AND host_session != '' ORDER BY n DESC LIMIT 1",
            (session_id,),
        )
        if row is None:
            raise self._unknown("session", session_id)
        return SessionRecord(
            id=row["id"],
            attempt_id=row["attempt_id"],
            run_id=row["run_id"],
            kind=SessionKind(row["kind"]),
            host_session=row["host_session"],
            cwd=row["cwd"],
            prompt=load_ref(row["prompt"]),
        )

    def _attempt_of(self, lease: Lease, attempt_id: str) -> AttemptRecord:
        row = self._row_of("attempt", attempt_id)
        if row is None or row["run_id"] != lease.run_id:
            raise self._unknown("attempt", attempt_id)
        return _attempt(row)

    def _check_start(self, run_state: RunState, task: TaskRecord) -> None:
        current: str | None = None
        if run_state in RUN_TERMINAL:
            current = f"part of a run that is {run_state}"
        elif task.state not in (TaskState.QUEUED, TaskState.RUNNING):
            current = task.state
        elif self._open_attempt(task.id):
            current = "running with an open attempt"
        elif task.dispatches >= task.max_dispatches:
            current = f"{task.state} after {task.dispatches} of {task.max_dispatches} dispatches"
        if current is not None:
            raise IllegalTransition("task", task.id, current, "started")

    def _check_end(
        self, attempt: AttemptRecord, state: AttemptState, task: TaskRecord, task_state: TaskState | None
    ) -> None:
        if attempt.state in ATTEMPT_TERMINAL or state not in ATTEMPT_TERMINAL:
            raise IllegalTransition("attempt", attempt.id, attempt.state, state)
        if state == AttemptState.COMPLETED and not self._has_evidence(attempt):
            raise IllegalTransition(
                "attempt", attempt.id, f"{attempt.state} without an accepted result", state
            )
        if task_state is None:
            return
        without_evidence = task_state == TaskState.COMPLETED and state != AttemptState.COMPLETED
        if (
            without_evidence
            or task_state not in TASK_TERMINAL
            or task_state not in TASK_TRANSITIONS[task.state]
        ):
            raise IllegalTransition(
                "task", task.id, f"{task.state} with an attempt that is {state}", task_state
            )

    def _has_evidence(self, attempt: AttemptRecord) -> bool:
        if attempt.result_id is None:
            return False
        result = self._row_of("result", attempt.result_id)
        return result is not None and result["error"] is None


def _attempt(row: sqlite3.Row) -> AttemptRecord:
    return AttemptRecord(
        id=row["id"],
        run_id=row["run_id"],
        task_id=row["task_id"],
        number=row["number"],
        state=AttemptState(row["state"]),
        cause=cause_of(row["cause"]),
        epoch=row["epoch"],
        engine=row["engine"],
        kind=SessionKind(row["kind"]),
        session_id=row["session_id"],
        model_asked=row["model_asked"],
        model_used=row["model_used"],
        usage=Usage(
            input=row["usage_input"],
            output=row["usage_output"],
            cached=row["usage_cached"],
            calls=row["usage_calls"],
            cost=row["usage_cost"],
        ),
        steps=row["steps"],
        counts=Counts(**load(row["counts"])),
        result_id=row["result_id"],
        last_text=load_ref(row["last_text"]),
        started_at=row["started_at"],
        ended_at=row["ended_at"],
        last_activity_at=row["last_activity_at"],
    )
