"""Runs and their leases."""

import sqlite3
import time
from collections.abc import Collection, Mapping, Sequence

from crew_plugin.errors import IllegalTransition, InvalidPlan, InvalidValue, LeaseHeld, UnknownName
from crew_plugin.models.causes import Cause
from crew_plugin.models.ids import new_id
from crew_plugin.models.mail import OUTSIDE, MessageState
from crew_plugin.models.records import TURN, Lease, NewRun, NewTask, Owner, ParentRef, RunRecord
from crew_plugin.models.states import (
    RUN_TERMINAL,
    RUN_TRANSITIONS,
    TASK_TERMINAL,
    RunState,
    SessionKind,
    TaskState,
)
from crew_plugin.store.connection import Value
from crew_plugin.store.liveness import owner_alive
from crew_plugin.store.outbox import Outbox
from crew_plugin.store.rows import cause_of, dump, dump_cause, import_of, load, owner_of, parent_of, text

__all__ = ["Runs"]

_SHORTEST_ABBREVIATION = 4

_ENDS = {
    RunState.COMPLETED: "run.completed",
    RunState.FAILED: "run.failed",
    RunState.CANCELLED: "run.cancelled",
}


class Runs(Outbox):
    """Creating, finding, owning and moving runs."""

    def create_run(self, run: NewRun, tasks: Sequence[NewTask], *, actor: str) -> RunRecord:
        """Write down a run and its tasks, all `queued`, with `run.created`."""
        run_id = new_id("run")
        parent = run.parent
        with self._change():
            _check_tasks(f"{run.workflow!r} of {run.team!r}", tasks)
            self._execute(
                "INSERT INTO run (id, state, team, workflow, cwd, background, parent_host,"
                " parent_session, parent_route, created_at, wall_seconds, runtime, runtime_note, goal, spec)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    run_id,
                    RunState.QUEUED,
                    run.team,
                    run.workflow,
                    run.cwd,
                    run.background,
                    parent.host if parent else None,
                    parent.session if parent else None,
                    dump(dict(parent.route)) if parent else None,
                    time.time(),
                    run.wall_seconds,
                    run.runtime,
                    run.runtime_note,
                    text(run.goal),
                    text(run.spec),
                ),
            )
            self._insert_tasks(run_id, tasks)
            self._append(
                run_id,
                0,
                "run.created",
                actor,
                data={
                    "team": run.team,
                    "workflow": run.workflow,
                    "tasks": [task.key for task in tasks],
                },
            )
            return self.load_run(run_id)

    def load_run(self, run_id: str) -> RunRecord:
        """One run, by its id, a unique beginning or end of it, or `last` for the newest one."""
        row = self._first("SELECT * FROM run WHERE id = ?", (run_id,)) or self._abbreviated(run_id)
        return _record(row, self._task_counts([row["id"]]).get(row["id"], {}))

    def list_runs(
        self, *, states: Sequence[RunState] = (), limit: int = 50, parent: ParentRef | None = None
    ) -> list[RunRecord]:
        """Runs, newest first; only those in `states` and of this parent session where given."""
        where, of_whom = "", tuple[Value, ...]()
        if parent is not None:
            where, of_whom = "parent_host = ? AND parent_session = ?", (parent.host, parent.session)
        rows = self._newest("run", where, of_whom, states, limit)
        counts = self._task_counts([row["id"] for row in rows])
        return [_record(row, counts.get(row["id"], {})) for row in rows]

    def list_started(self, run_id: str) -> list[RunRecord]:
        """The runs that sessions of this run asked for, oldest first."""
        rows = self._all(
            "SELECT * FROM run WHERE id != ? AND parent_session IN"
            " (SELECT host_session FROM session WHERE run_id = ? AND host_session != '') ORDER BY n",
            (run_id, run_id),
        )
        counts = self._task_counts([row["id"] for row in rows])
        return [_record(row, counts.get(row["id"], {})) for row in rows]

    def list_group(self, run_id: str) -> list[RunRecord]:
        """This run and the background runs that were asked for in the same turn of the same parent,
        oldest first."""
        run = self.load_run(run_id)
        turn = run.parent.route.get(TURN) if run.parent is not None else None
        if run.parent is None or turn is None:
            return [run]
        rows = self._all(
            "SELECT * FROM run WHERE parent_host = ? AND parent_session = ? AND instr(parent_route, ?) > 0"
            " AND (background = 1 OR id = ?) ORDER BY n",
            (run.parent.host, run.parent.session, f'"{TURN}":{dump(turn)}', run.id),
        )
        counts = self._task_counts([row["id"] for row in rows])
        return [_record(row, counts.get(row["id"], {})) for row in rows]

    def transition_run(
        self, lease: Lease, to: RunState, *, actor: str, cause: Cause | None = None
    ) -> RunRecord:
        """Move the run. A terminal state releases the lease and adds the run's end to the outbox."""
        run_id = lease.run_id
        with self._change():
            row = self._fence(lease)
            current = RunState(row["state"])
            if to == current:
                return self.load_run(run_id)
            if to not in RUN_TRANSITIONS[current]:
                raise IllegalTransition("run", run_id, current, to)
            now = time.time()
            if to in RUN_TERMINAL:
                self._end_run(row, run_id, current, to, cause, actor)
            elif to == RunState.BLOCKED:
                self._update_run(
                    "UPDATE run SET state = ?, cause = ? WHERE id = ?", (to, dump_cause(cause), run_id)
                )
                self._append(run_id, lease.epoch, "run.blocked", actor, cause=cause)
            elif current == RunState.BLOCKED:
                self._update_run("UPDATE run SET state = ?, cause = NULL WHERE id = ?", (to, run_id))
                self._append(run_id, lease.epoch, "run.unblocked", actor)
            else:
                self._update_run("UPDATE run SET state = ?, started_at = ? WHERE id = ?", (to, now, run_id))
                self._append(run_id, lease.epoch, "run.started", actor, data=self._how_it_runs(run_id))
            return self.load_run(run_id)

    def claim(self, run_id: str, owner: Owner, *, force: bool = False, still: int | None = None) -> Lease:
        """Take the run under a new epoch, with `run.claimed`. The lease of a dead process is free, and
        so is one that still shows the count of renewals at which the caller has seen it stand."""
        with self._change():
            row = self._first(
                "SELECT state, epoch, renewals, owner_pid, owner_started, owner_boot FROM run WHERE id = ?",
                (run_id,),
            )
            if row is None:
                raise self._unknown("run", run_id)
            if RunState(row["state"]) in RUN_TERMINAL:
                raise IllegalTransition("run", run_id, row["state"], "claimed")
            before = owner_of(row)
            expired = still is not None and row["renewals"] == still
            if before is not None and not force and not expired and owner_alive(before):
                raise LeaseHeld(run_id, before.pid)
            epoch = int(row["epoch"]) + 1
            self._update_run(
                "UPDATE run SET epoch = ?, renewals = renewals + 1, owner_pid = ?, owner_started = ?,"
                " owner_boot = ? WHERE id = ?",
                (epoch, owner.pid, owner.started, owner.boot_id, run_id),
            )
            self._append(
                run_id,
                epoch,
                "run.claimed",
                "supervisor",
                data={"pid": owner.pid, "epoch": epoch, "takeover": before is not None},
            )
            return Lease(run_id=run_id, epoch=epoch, owner=owner)

    def renew(self, lease: Lease, *, worked: float = 0.0) -> int:
        """Show that the supervisor lives and has driven the run for so many seconds more. Returns
        the new count of renewals."""
        with self._change():
            renewals = int(self._fence(lease)["renewals"]) + 1
            self._update_run(
                "UPDATE run SET renewals = ?, worked = worked + ? WHERE id = ?",
                (renewals, worked, lease.run_id),
            )
            return renewals

    def note_lost(self, run_id: str, epoch: int, *, how: str, actor: str) -> bool:
        """Note, once for each epoch, that the supervisor of a run is gone. False if that is known, or
        not so any more."""
        with self._change():
            row = self._first("SELECT state, epoch, owner_pid, lost_epoch FROM run WHERE id = ?", (run_id,))
            if row is None:
                raise self._unknown("run", run_id)
            known = row["lost_epoch"] >= epoch or row["epoch"] != epoch or row["owner_pid"] is None
            if known or RunState(row["state"]) in RUN_TERMINAL:
                return False
            self._update_run("UPDATE run SET lost_epoch = ? WHERE id = ?", (epoch, run_id))
            data = {"pid": row["owner_pid"], "how": how}
            self._append(run_id, epoch, "run.supervisor_lost", actor, data=data)
            return True

    def release(self, lease: Lease) -> None:
        """Give the run up without ending it. Nothing is left to give up once it has ended."""
        with self._change():
            if RunState(self._fence(lease)["state"]) in RUN_TERMINAL:
                return
            self._disown(lease.run_id)
            self._append(lease.run_id, lease.epoch, "run.released", "supervisor")

    def _disown(self, run_id: str) -> None:
        self._update_run(
            "UPDATE run SET owner_pid = NULL, owner_started = NULL, owner_boot = NULL WHERE id = ?", (run_id,)
        )

    def _end_run(
        self,
        row: sqlite3.Row,
        run_id: str,
        current: RunState,
        to: RunState,
        cause: Cause | None,
        actor: str,
    ) -> None:
        counts = self._task_counts([run_id]).get(run_id, {})
        if to == RunState.COMPLETED and (missing := self._without_result(run_id)):
            raise IllegalTransition("run", run_id, f"{current} with {missing}", to)
        self._update_run(
            "UPDATE run SET state = ?, cause = ?, ended_at = ? WHERE id = ?",
            (to, dump_cause(cause), time.time(), run_id),
        )
        self._disown(run_id)
        self._owe(row, run_id)
        self._append(run_id, row["epoch"], _ENDS[to], actor, cause=cause, data={"tasks": dict(counts)})
        self._bury_mail(run_id, row["epoch"], "the run has ended")

    def _without_result(self, run_id: str) -> str:
        """What keeps a run from being completed: a task that has not ended, or one that is needed
        and has no accepted result. Empty if nothing does."""
        ended = ", ".join("?" * len(TASK_TERMINAL))
        row = self._first(
            f"SELECT key, state FROM task WHERE run_id = ? AND state != ?"
            f" AND (NOT optional OR state NOT IN ({ended})) ORDER BY position LIMIT 1",
            (run_id, TaskState.COMPLETED, *sorted(TASK_TERMINAL)),
        )
        return "" if row is None else f"task {row['key']!r} {row['state']}"

    def _bury_mail(self, run_id: str, epoch: int, reason: str, recipient: str | None = None) -> None:
        """Mail to sessions that will never read it (of this task, or of the whole run) is dead;
        who is outside the run still can read."""
        outside = ", ".join("?" * len(OUTSIDE))
        rows = self._all(
            f"SELECT id FROM message WHERE run_id = ? AND state = ? AND recipient NOT IN ({outside})"
            " AND recipient = coalesce(?, recipient)",
            (run_id, MessageState.ACCEPTED, *OUTSIDE, recipient),
        )
        for row in rows:
            self._kill_message(run_id, epoch, row["id"], reason)

    def _return_mail(self, lease: Lease, recipient: str, kept: Collection[str] = ()) -> None:
        rows = self._all(
            "SELECT id FROM message WHERE run_id = ? AND recipient = ? AND state = ? ORDER BY n",
            (lease.run_id, recipient, MessageState.DELIVERED),
        )
        for row in rows:
            if row["id"] in kept:
                continue
            self._execute(
                "UPDATE message SET state = ?, delivered_at = NULL WHERE id = ?",
                (MessageState.ACCEPTED, row["id"]),
            )
            data = {"message_id": row["id"]}
            self._append(lease.run_id, lease.epoch, "message.returned", recipient, data=data)

    def _kill_message(self, run_id: str, epoch: int, message_id: str, reason: str) -> None:
        self._execute(
            "UPDATE message SET state = ?, reason = ? WHERE id = ?", (MessageState.DEAD, reason, message_id)
        )
        self._append(
            run_id,
            epoch,
            "message.failed",
            "supervisor",
            data={"message_id": message_id, "reason": reason},
        )

    def _how_it_runs(self, run_id: str) -> dict[str, object]:
        spec = load(self._one("SELECT spec FROM run WHERE id = ?", (run_id,))["spec"])
        return {key: spec[key] for key in ("runtime", "width") if key in spec}

    def _insert_tasks(self, run_id: str, tasks: Sequence[NewTask]) -> list[str]:
        """Add tasks behind those that are there. Returns their ids."""
        before = self._one("SELECT count(*) FROM task WHERE run_id = ?", (run_id,))[0]
        ids = [new_id("task") for _ in tasks]
        for position, (task_id, task) in enumerate(zip(ids, tasks, strict=True), start=before):
            self._execute(
                "INSERT INTO task (id, run_id, key, position, title, role, agent, state, depends_on,"
                " optional, attention_pass, max_dispatches, spec)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    task_id,
                    run_id,
                    task.key,
                    position,
                    text(task.title),
                    task.role,
                    task.agent,
                    TaskState.QUEUED,
                    dump(task.depends_on),
                    task.optional,
                    task.attention_pass,
                    task.max_dispatches,
                    text(task.spec),
                ),
            )
        return ids

    def _task_counts(self, run_ids: Sequence[str]) -> dict[str, dict[TaskState, int]]:
        counts: dict[str, dict[TaskState, int]] = {}
        # In pieces: SQLite takes only so many parameters.
        for start in range(0, len(run_ids), 500):
            piece = tuple(run_ids[start : start + 500])
            for row in self._all(
                "SELECT run_id, state, count(*) FROM task"
                f" WHERE run_id IN ({', '.join('?' * len(piece))}) GROUP BY run_id, state",
                piece,
            ):
                counts.setdefault(row[0], {})[TaskState(row[1])] = row[2]
        return counts

    def _abbreviated(self, part: str) -> sqlite3.Row:
        if part == "last":
            rows = self._all("SELECT * FROM run ORDER BY n DESC LIMIT 1")
            if rows:
                return rows[0]
            raise UnknownName("run", part, ())
        size = len(part)
        if size >= _SHORTEST_ABBREVIATION:
            rows = self._all(
                "SELECT id FROM run WHERE substr(id, 1, ?) = ? OR substr(id, ?) = ? LIMIT 6",
                (size, part, -size, part),
            )
            if len(rows) == 1:
                return self._one("SELECT * FROM run WHERE id = ?", (rows[0]["id"],))
            if rows:
                fits = ", ".join(row["id"] for row in rows)
                raise InvalidValue("run", part, f"longer: it fits {fits}")
        raise self._unknown("run", part)


def _check_tasks(what: str, tasks: Sequence[NewTask]) -> None:
    """Raises `InvalidPlan` unless keys are unique and dependencies exist."""
    keys: set[str] = set()
    problems: list[str] = []
    for task in tasks:
        if task.key in keys:
            problems.append(f"two tasks have the key {task.key!r}")
        keys.add(task.key)
    problems += [
        f"task {task.key!r} depends on {name!r}, which does not exist"
        for task in tasks
        for name in task.depends_on
        if name not in keys
    ]
    if problems:
        raise InvalidPlan(what, problems)


def _record(row: sqlite3.Row, counts: Mapping[TaskState, int]) -> RunRecord:
    return RunRecord(
        id=row["id"],
        goal=row["goal"],
        team=row["team"],
        workflow=row["workflow"],
        cwd=row["cwd"],
        state=RunState(row["state"]),
        cause=cause_of(row["cause"]),
        spec=row["spec"],
        background=bool(row["background"]),
        parent=parent_of(row),
        epoch=row["epoch"],
        owner=owner_of(row),
        renewals=row["renewals"],
        created_at=row["created_at"],
        started_at=row["started_at"],
        ended_at=row["ended_at"],
        wall_seconds=row["wall_seconds"],
        task_counts=counts,
        runtime=SessionKind(row["runtime"]),
        runtime_note=row["runtime_note"],
        worked=row["worked"],
        imported=import_of(row["imported"]),
    )
