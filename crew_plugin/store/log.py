"""The event log and the fence: what every change of a run goes through."""

import sqlite3
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from crew_plugin.errors import Fenced, Forgotten, UnknownName
from crew_plugin.models.causes import Cause
from crew_plugin.models.events import EVENT_TYPES
from crew_plugin.models.records import EventRecord, Lease, NewEvent
from crew_plugin.models.states import RUN_TERMINAL, RunState
from crew_plugin.store.connection import Connection, Value
from crew_plugin.store.rows import cause_of, dump, dump_cause, load, text

__all__ = ["EventLog"]

_COLUMNS = "event (seq, run_id, at, epoch, type, actor, task_id, attempt_id, cause, data)"
_HEAD = "state, epoch, owner_pid, background, parent_host, parent_session, parent_route, renewals, imported"


class EventLog(Connection):
    """Appends events and checks leases, inside the transaction of the change they go with.

    The events of a transaction are numbered as they come and written together at its end.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        super().__init__(path, read_only=read_only)
        self._behind: list[tuple[Value, ...]] = []
        self._last_seq: int | None = None
        """The number of the last event. While a transaction lasts, only it can add one."""

    def append_events(
        self, lease: Lease | None, run_id: str, events: Sequence[NewEvent]
    ) -> list[EventRecord]:
        """Append events that go with no other change. An unknown type raises `ValueError`."""
        with self._change():
            if lease is not None and lease.run_id != run_id:
                raise ValueError(f"a lease of {lease.run_id} is no right to write to {run_id}")
            epoch = self._fence(lease)["epoch"] if lease else self._run_row(run_id)["epoch"]
            return self._append_all(run_id, epoch, events)

    def tail(self, run_id: str | None, *, after_seq: int = 0, limit: int = 1000) -> list[EventRecord]:
        """Events of a run (or of all runs) after a sequence number, oldest first."""
        self._write_behind()
        if run_id is None:
            rows = self._all("SELECT * FROM event WHERE seq > ? ORDER BY seq LIMIT ?", (after_seq, limit))
        else:
            rows = self._all(
                "SELECT * FROM event WHERE run_id = ? AND seq > ? ORDER BY seq LIMIT ?",
                (run_id, after_seq, limit),
            )
        return [
            EventRecord(
                seq=row["seq"],
                run_id=row["run_id"],
                at=row["at"],
                epoch=row["epoch"],
                type=row["type"],
                actor=row["actor"],
                task_id=row["task_id"],
                attempt_id=row["attempt_id"],
                cause=cause_of(row["cause"]),
                data=load(row["data"]),
            )
            for row in rows
        ]

    def last_seq(self) -> int:
        """The number of the newest event; 0 before the first."""
        return int(self._one("SELECT coalesce(max(seq), 0) FROM event")[0])

    def _append(
        self,
        run_id: str,
        epoch: int,
        type: str,  # noqa: A002 - the event's own word
        actor: str,
        *,
        task_id: str | None = None,
        attempt_id: str | None = None,
        cause: Cause | None = None,
        data: Mapping[str, Any] | None = None,
    ) -> EventRecord:
        event = NewEvent(
            type=type, actor=actor, task_id=task_id, attempt_id=attempt_id, cause=cause, data=data or {}
        )
        return self._append_all(run_id, epoch, (event,))[0]

    def _append_all(self, run_id: str, epoch: int, events: Sequence[NewEvent]) -> list[EventRecord]:
        """Append events, numbered one after the other."""
        if not events:
            return []
        at, last = time.time(), self._last()
        appended: list[EventRecord] = []
        rows: list[tuple[Value, ...]] = []
        for seq, event in enumerate(events, start=last + 1):
            if event.type not in EVENT_TYPES:
                raise ValueError(f"there is no event type {event.type!r}; the vocabulary is in models.events")
            actor = text(event.actor)
            content = dump(dict(event.data)) if event.data else "{}"
            ids = (event.task_id, event.attempt_id)
            cause = dump_cause(event.cause)
            rows.append((seq, run_id, at, epoch, event.type, actor, *ids, cause, content))
            appended.append(
                EventRecord(
                    seq=seq,
                    run_id=run_id,
                    at=at,
                    epoch=epoch,
                    type=event.type,
                    actor=actor,
                    task_id=event.task_id,
                    attempt_id=event.attempt_id,
                    cause=event.cause,
                    data=load(content) if event.data else {},
                )
            )
        self._behind += rows
        self._put_off += len(rows)
        self._last_seq = last + len(rows)
        self._fresh += appended
        return appended

    def _last(self) -> int:
        if self._last_seq is None:
            row = self._first("SELECT seq FROM sqlite_sequence WHERE name = 'event'")
            self._last_seq = 0 if row is None else int(row["seq"])
        return self._last_seq

    def _write_behind(self) -> None:
        behind, self._behind, self._last_seq = self._behind, [], None
        self._insert(_COLUMNS, behind)

    def _forget_behind(self) -> None:
        self._behind, self._last_seq = [], None

    def _run_row(self, run_id: str) -> sqlite3.Row:
        """What changes look at; the goal and the specification may be long and stay where they are."""
        row = self._heads.get(run_id)
        if row is None:
            row = self._first(f"SELECT {_HEAD} FROM run WHERE id = ?", (run_id,))
            if row is None:
                raise self._unknown("run", run_id)
            if self._depth:
                self._heads[run_id] = row
        return row

    def _update_run(self, sql: str, parameters: tuple[Value, ...]) -> None:
        """Every change of a run's row goes this way, so that what was read of it is read again."""
        self._execute(sql, parameters)
        self._heads.clear()

    def _fence(self, lease: Lease) -> sqlite3.Row:
        """The run's row. Raises `Fenced` unless the lease is still good: an ended run's stays good
        for what is left to be said about it, a released one's does not."""
        row = self._run_row(lease.run_id)
        released = row["owner_pid"] is None and RunState(row["state"]) not in RUN_TERMINAL
        if row["epoch"] != lease.epoch or released:
            raise Fenced(lease.run_id, lease.epoch, row["epoch"])
        return row

    def _unknown(self, kind: str, ident: str, *, table: str | None = None) -> UnknownName:
        """The error for an id that no row has: what became of it, or the newest ids to choose from."""
        if kind == "run" and (gone := self._forgotten(ident)) is not None:
            return gone
        rows = self._all(f"SELECT id FROM {table or kind} ORDER BY n DESC LIMIT 200")
        return UnknownName(kind, ident, [row["id"] for row in rows])

    def _forgotten(self, ident: str) -> Forgotten | None:
        row = self._first("SELECT * FROM forgotten WHERE id = ?", (ident,))
        if row is None:
            return None
        day = time.strftime("%Y-%m-%d %H:%M", time.localtime(row["removed_at"]))
        counts = load(row["counts"])
        why = f" ({row['reason']})" if row["reason"] else ""
        return Forgotten(
            ident,
            f"ended {row['state']} and was forgotten on {day} by {row['removed_by']}{why}: "
            f"{counts['task']} tasks, {counts['result']} results and {counts['event']} events were deleted",
        )
