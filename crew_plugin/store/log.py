"""The event log and the fence: what every change of a run goes through."""

import os
import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from crew_plugin.errors import Fenced, Forgotten, UnknownName
from crew_plugin.models.causes import Cause
from crew_plugin.models.events import CHATTY, EVENT_TYPES
from crew_plugin.models.records import EventRecord, Lease, NewEvent
from crew_plugin.models.states import RUN_TERMINAL, RunState
from crew_plugin.redact import Redactor
from crew_plugin.store.connection import Connection, Value
from crew_plugin.store.rows import cause_of, dump, dump_cause, load, text

__all__ = ["CHATTY_EVENTS", "EventLog"]

CHATTY_EVENTS: Final = 20_000
"""So many events of the kinds that say how things go are kept of one run where nothing else is set."""

_COLUMNS = "event (seq, run_id, at, epoch, type, actor, task_id, attempt_id, cause, data)"
_HEAD = "state, epoch, owner_pid, background, parent_host, parent_session, parent_route, renewals, imported"


_RUNS_KNOWN: Final = 1000
"""Of so many runs it is known how many chatty events they have, before they are counted again."""
_GAP_EVENTS: Final = 1000
"""A gap that grows is closed after so many events, so that a cursor behind it stays behind it."""


@dataclass(slots=True)
class _Gap:
    """Events of one run that the open transaction left out."""

    first: int
    last: int
    events: int
    epoch: int


class EventLog(Connection):
    """Appends events and checks leases, inside the transaction of the change they go with.

    The events of a transaction are numbered as they come and written together at its end.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        super().__init__(path, read_only=read_only)
        self._behind: list[tuple[Value, ...]] = []
        self._last_seq: int | None = None
        """The number of the last event. While a transaction lasts, only it can add one."""
        self._chatty: dict[str, int] = {}
        """Run -> how many chatty events of it are kept, as far as this connection had to know."""
        self._left_out: dict[str, _Gap] = {}
        self.chatty_events = CHATTY_EVENTS
        """How many chatty events of one run are kept; what comes after leaves its number and a count."""

    @cached_property
    def _redactor(self) -> Redactor:
        return Redactor(os.environ)

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
        """Events of a run (or of all runs) after a sequence number, oldest first. In the place of events
        that are not kept stands one `events.left_out`, numbered like the last of them."""
        self._write_behind()
        gaps = self._gaps(run_id, after_seq, limit)
        if run_id is None:
            rows = self._all("SELECT * FROM event WHERE seq > ? ORDER BY seq LIMIT ?", (after_seq, limit))
        else:
            rows = self._all(
                "SELECT * FROM event WHERE run_id = ? AND seq > ? ORDER BY seq LIMIT ?",
                (run_id, after_seq, limit),
            )
        events = [
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
        return sorted([*events, *gaps], key=lambda event: event.seq)[:limit] if gaps else events

    def _gaps(self, run_id: str | None, after_seq: int, limit: int) -> list[EventRecord]:
        """What stands for events that are not kept."""
        of_run = "" if run_id is None else " AND run_id = ?"
        rows = self._all(
            f"SELECT * FROM gap WHERE last_seq > ?{of_run} ORDER BY last_seq LIMIT ?",
            (after_seq, limit) if run_id is None else (after_seq, run_id, limit),
        )
        return [
            EventRecord(
                seq=row["last_seq"],
                run_id=row["run_id"],
                at=row["at"],
                epoch=row["epoch"],
                type="events.left_out",
                actor=row["actor"],
                task_id=None,
                attempt_id=None,
                cause=None,
                data={
                    "events": row["events"],
                    "first_seq": row["first_seq"],
                    "last_seq": row["last_seq"],
                    "because": row["because"],
                },
            )
            for row in rows
        ]

    def last_seq(self) -> int:
        """The number of the newest event; 0 before the first."""
        return int(self._one("SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'event'")[0])

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
        for seq, event in enumerate(events, start=last + 1):
            if event.type not in EVENT_TYPES:
                raise ValueError(f"there is no event type {event.type!r}; the vocabulary is in models.events")
            actor = text(event.actor)
            content = self._redactor.text(dump(dict(event.data))) if event.data else "{}"
            ids = (event.task_id, event.attempt_id)
            cause = dump_cause(event.cause)
            if cause is not None:
                cause = self._redactor.text(cause)
            record = EventRecord(
                seq=seq,
                run_id=run_id,
                at=at,
                epoch=epoch,
                type=event.type,
                actor=actor,
                task_id=event.task_id,
                attempt_id=event.attempt_id,
                cause=cause_of(cause),
                data=load(content) if event.data else {},
            )
            appended.append(record)
            if event.type in CHATTY and not self._room_for(run_id):
                self._leave_out(run_id, seq, epoch)
                continue
            self._fresh.append(record)
            self._behind.append((seq, run_id, at, epoch, event.type, actor, *ids, cause, content))
        self._put_off += len(appended)
        self._last_seq = last + len(appended)
        return appended

    def _room_for(self, run_id: str) -> bool:
        """Count one more chatty event of a run; False if it has too many."""
        kept = self._chatty.get(run_id)
        if kept is None:
            if len(self._chatty) >= _RUNS_KNOWN:
                self._chatty.clear()  # a process that lives for long drives many runs
            kinds = ", ".join("?" * len(CHATTY))
            kept = int(
                self._one(
                    f"SELECT count(*) FROM event WHERE run_id = ? AND type IN ({kinds})", (run_id, *CHATTY)
                )[0]
            ) + sum(1 for row in self._behind if row[1] == run_id and row[4] in CHATTY)
        room = kept < self.chatty_events
        self._chatty[run_id] = kept + room
        return room

    def _leave_out(self, run_id: str, seq: int, epoch: int) -> None:
        gap = self._left_out.setdefault(run_id, _Gap(first=seq, last=seq, events=0, epoch=epoch))
        gap.last, gap.events = seq, gap.events + 1

    def _last(self) -> int:
        if self._last_seq is None:
            row = self._first("SELECT seq FROM sqlite_sequence WHERE name = 'event'")
            self._last_seq = 0 if row is None else int(row["seq"])
        return self._last_seq

    def _write_behind(self) -> None:
        behind, self._behind, self._last_seq = self._behind, [], None
        self._insert(_COLUMNS, behind)
        left_out, self._left_out = self._left_out, {}
        for run_id, gap in left_out.items():
            self._grow_gap(run_id, gap)

    def _grow_gap(self, run_id: str, gap: _Gap) -> None:
        """Write down what was left out, and that its numbers are used."""
        because = f"a run keeps {self.chatty_events:,} of the events that say how things go"
        grown = self._execute(
            "UPDATE gap SET last_seq = ?, events = events + ?, at = ? WHERE n ="
            " (SELECT max(n) FROM gap WHERE run_id = ?) AND because = ? AND epoch = ? AND events < ?",
            (gap.last, gap.events, time.time(), run_id, because, gap.epoch, _GAP_EVENTS),
        )
        if not grown.rowcount:
            self._put_gap(run_id, gap, actor="supervisor", because=because)
        self._execute("UPDATE sqlite_sequence SET seq = max(seq, ?) WHERE name = 'event'", (gap.last,))

    def _put_gap(self, run_id: str, gap: _Gap, *, actor: str, because: str) -> None:
        self._execute(
            "INSERT INTO gap (run_id, epoch, first_seq, last_seq, events, actor, because, at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (run_id, gap.epoch, gap.first, gap.last, gap.events, text(actor), text(because), time.time()),
        )

    def _delete_events(self, run_id: str, *, types: Sequence[str], actor: str, because: str) -> int:
        """Delete the events of a run that are of these types (of all, if none are named), leaving a gap
        that says so. Returns how many there were."""
        kinds = f" AND type IN ({', '.join('?' * len(types))})" if types else ""
        row = self._one(
            "SELECT count(*), coalesce(min(seq), 0), coalesce(max(seq), 0), coalesce(max(epoch), 0)"
            f" FROM event WHERE run_id = ?{kinds}",
            (run_id, *types),
        )
        gap = _Gap(events=row[0], first=row[1], last=row[2], epoch=row[3])
        if gap.events:
            self._execute(f"DELETE FROM event WHERE run_id = ?{kinds}", (run_id, *types))
            self._put_gap(run_id, gap, actor=actor, because=because)
        self._chatty.pop(run_id, None)
        return gap.events

    def _forget_behind(self) -> None:
        self._behind, self._last_seq = [], None
        self._left_out.clear()
        self._chatty.clear()

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
