"""Tasks: where each stands, and moving those that have no open attempt."""

import sqlite3
import time
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from crew_plugin.errors import IllegalTransition, UnknownName
from crew_plugin.models.causes import Cause
from crew_plugin.models.records import AttemptRecord, GaveUp, Lease, PeerRecord, TaskRecord
from crew_plugin.models.states import TASK_TRANSITIONS, AttemptState, TaskState
from crew_plugin.store.deadletters import DeadLetters
from crew_plugin.store.rows import cause_of, dump_cause, load, text

__all__ = ["Tasks"]

_ENDS = {
    TaskState.COMPLETED: "task.completed",
    TaskState.NEEDS_ATTENTION: "task.needs_attention",
    TaskState.FAILED: "task.failed",
    TaskState.CANCELLED: "task.cancelled",
    TaskState.SKIPPED: "task.skipped",
}


_RANKS = ("= 'running'", "= 'waiting'", "= 'queued'", "NOT IN ('running', 'waiting', 'queued')")
_PEERS = " UNION ALL ".join(
    "SELECT key, role, title, state, ended_at, attempts FROM task"
    f" WHERE run_id = ? AND key != ? AND state {rank}"
    for rank in _RANKS
)
"""One state after the other by its index: a bounded list looks at as many rows as it has."""


class Tasks(DeadLetters):
    """Reading, adding, settling and pausing tasks."""

    def load_tasks(self, run_id: str) -> list[TaskRecord]:
        """The run's tasks by position."""
        return [
            _task(row)
            for row in self._all("SELECT * FROM task WHERE run_id = ? ORDER BY position", (run_id,))
        ]

    def load_task(self, run_id: str, key_or_id: str) -> TaskRecord:
        """One task, by its key or its id. Raises `UnknownName`."""
        row = self._first(
            "SELECT * FROM task WHERE run_id = ? AND (key = ? OR id = ?) ORDER BY key = ? DESC",
            (run_id, key_or_id, key_or_id, key_or_id),
        )
        if row is None:
            keys = self._all("SELECT key FROM task WHERE run_id = ?", (run_id,))
            raise UnknownName("task", key_or_id, [key["key"] for key in keys])
        self._note_row("task", row)
        return _task(row)

    def list_peers(self, run_id: str, key: str, *, limit: int | None) -> tuple[list[PeerRecord], int]:
        """At most `limit` of the tasks other than this one, those that can be talked to first;
        and how many others there are."""
        peers = [
            _peer(*row)
            for row in self._all(
                f"{_PEERS} LIMIT ?", (*(run_id, key) * len(_RANKS), -1 if limit is None else limit)
            )
        ]
        if len(peers) != limit:
            return peers, len(peers)
        count = self._one("SELECT count(*) FROM task WHERE run_id = ? AND key != ?", (run_id, key))
        return peers, int(count[0])

    def transition_task(
        self,
        lease: Lease,
        task_id: str,
        to: TaskState,
        *,
        actor: str,
        cause: Cause | None = None,
        gave_up: GaveUp | None = None,
    ) -> TaskRecord:
        """Move a task that has no open attempt (skip, cancel, fail), or `running <-> waiting`. One that
        fails becomes a dead letter if it was given up."""
        with self._change():
            self._fence(lease)
            task = self._task_of(lease, task_id)
            if task.state == to:
                return task
            open_attempt = self._open_attempt(task_id)
            pausing = {task.state, to} == {TaskState.RUNNING, TaskState.WAITING}
            reserved = to == TaskState.COMPLETED or (to == TaskState.RUNNING and not pausing)
            if reserved or to not in TASK_TRANSITIONS[task.state] or pausing != (open_attempt is not None):
                current = f"{task.state} with an open attempt" if open_attempt else task.state
                raise IllegalTransition("task", task_id, current, to)
            if open_attempt is None:
                return self._end_task(lease, task, to, actor, cause, gave_up=gave_up)
            self._pause(lease, task_id, open_attempt, to, actor, cause)
            return self._task_of(lease, task_id)

    def schedule_retry(self, lease: Lease, task_id: str, at: float, *, actor: str) -> TaskRecord:
        """Note when the next attempt of a running task without an open attempt is due."""
        with self._change():
            self._fence(lease)
            task = self._task_of(lease, task_id)
            if task.retry_at == at:
                return task
            if task.state != TaskState.RUNNING or self._open_attempt(task_id):
                raise IllegalTransition("task", task_id, task.state, "due for another attempt")
            self._execute("UPDATE task SET retry_at = ? WHERE id = ?", (at, task_id))
            self._append(
                lease.run_id,
                lease.epoch,
                "task.retry_due",
                actor,
                task_id=task_id,
                data={"at": at, "number": task.attempts + 1},
            )
            return self._task_of(lease, task_id)

    def _task_of(self, lease: Lease, task_id: str) -> TaskRecord:
        row = self._row_of("task", task_id)
        if row is None or row["run_id"] != lease.run_id:
            raise self._unknown("task", task_id)
        return _task(row)

    def _open_attempt(self, task_id: str) -> str | None:
        row = self._first("SELECT id FROM attempt WHERE task_id = ? AND ended_at IS NULL", (task_id,))
        return None if row is None else str(row["id"])

    def _end_task(
        self,
        lease: Lease,
        task: TaskRecord,
        to: TaskState,
        actor: str,
        cause: Cause | None,
        *,
        attempt: AttemptRecord | None = None,
        gave_up: GaveUp | None = None,
    ) -> TaskRecord:
        now = time.time()
        row = self._one(
            "UPDATE task SET state = ?, cause = ?, retry_at = NULL, ended_at = ? WHERE id = ? RETURNING *",
            (to, dump_cause(cause), now, task.id),
        )
        data: dict[str, Any] = {"key": task.key}
        if attempt is not None:
            data["seconds"] = round(now - attempt.started_at, 3)
            data["tokens"] = {"input": attempt.usage.input, "output": attempt.usage.output}
            if to == TaskState.COMPLETED and attempt.result_id is not None:
                data["result_id"] = attempt.result_id
        self._append(
            lease.run_id,
            lease.epoch,
            _ENDS[to],
            actor,
            task_id=task.id,
            attempt_id=attempt.id if attempt is not None else None,
            cause=cause,
            data=data,
        )
        if gave_up is not None and to is TaskState.FAILED:
            self._give_up(lease, task, task.attempt_id, gave_up, cause, actor)
        if attempt is None:
            never = "was not tried again" if task.attempts else "never started"
            self._bury_mail(lease.run_id, lease.epoch, f"{task.key} {never} ({to})", task.key)
        return _task(row)

    def hold_task(self, lease: Lease, task_id: str, reason: str, *, actor: str) -> TaskRecord:
        """Nothing of the task goes on until somebody decides, with `task.held`."""
        with self._change():
            self._fence(lease)
            task = self._task_of(lease, task_id)
            self._execute("UPDATE task SET hold = ? WHERE id = ?", (text(reason), task_id))
            data = {"key": task.key, "reason": text(reason)}
            self._append(lease.run_id, lease.epoch, "task.held", actor, task_id=task_id, data=data)
            return self._task_of(lease, task_id)

    def free_task(self, lease: Lease, task_id: str, decision: str, *, actor: str) -> TaskRecord:
        """It was decided what becomes of a held task, with `task.decided`."""
        with self._change():
            self._fence(lease)
            task = self._task_of(lease, task_id)
            self._execute("UPDATE task SET hold = NULL WHERE id = ?", (task_id,))
            data = {"key": task.key, "decision": decision}
            self._append(lease.run_id, lease.epoch, "task.decided", actor, task_id=task_id, data=data)
            return self._task_of(lease, task_id)

    def _pause(
        self,
        lease: Lease,
        task_id: str,
        attempt_id: str,
        to: TaskState,
        actor: str,
        cause: Cause | None,
        data: Mapping[str, Any] | None = None,
    ) -> None:
        """Between `running` and `waiting`, the task and its open attempt together."""
        self._execute("UPDATE task SET state = ?, cause = ? WHERE id = ?", (to, dump_cause(cause), task_id))
        self._execute("UPDATE attempt SET state = ? WHERE id = ?", (AttemptState(to.value), attempt_id))
        waiting = to == TaskState.WAITING
        self._append(
            lease.run_id,
            lease.epoch,
            "task.waiting" if waiting else "task.resumed",
            actor,
            task_id=task_id,
            attempt_id=attempt_id,
            cause=cause,
            data=data or ({"question": text(cause.message)} if waiting and cause else None),
        )


@lru_cache(maxsize=1024)
def _peer(key: str, role: str, title: str, state: str, ended_at: float | None, attempts: int) -> PeerRecord:
    """Every session of a run asks for the others, of which few have changed since the last one."""
    return PeerRecord(
        key=key, role=role, title=title, state=TaskState(state), ended_at=ended_at, attempts=attempts
    )


def _task(row: sqlite3.Row) -> TaskRecord:
    return TaskRecord(
        id=row["id"],
        run_id=row["run_id"],
        key=row["key"],
        position=row["position"],
        title=row["title"],
        role=row["role"],
        agent=row["agent"],
        state=TaskState(row["state"]),
        cause=cause_of(row["cause"]),
        depends_on=tuple(load(row["depends_on"])),
        optional=bool(row["optional"]),
        attention_pass=bool(row["attention_pass"]),
        dispatches=row["dispatches"],
        max_dispatches=row["max_dispatches"],
        spec=row["spec"],
        attempt_id=row["attempt_id"],
        attempts=row["attempts"],
        retry_at=row["retry_at"],
        hold=row["hold"],
        started_at=row["started_at"],
        ended_at=row["ended_at"],
    )
