"""Whole runs out of a store and into one, row by row, without what only their own project can use.

What is owed to chats and what was asked of supervisors stays behind, and so do owners and the host's
names of sessions: nothing of a run that came from elsewhere may be taken for something that goes on.
"""

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from crew_plugin.errors import CallerError
from crew_plugin.models.records import ImportRecord
from crew_plugin.models.states import RUN_TERMINAL, RunState
from crew_plugin.store.artifacts import Artifacts
from crew_plugin.store.connection import Value
from crew_plugin.store.rows import dump, text
from crew_plugin.store.runs import Runs

__all__ = ["Transfers"]

_OF_RUN = "run_id = ?"
_OF_ATTEMPTS = "attempt_id IN (SELECT id FROM attempt WHERE run_id = ?)"
_OF_SESSIONS = "session_id IN (SELECT id FROM session WHERE run_id = ?)"
_TABLES: Mapping[str, tuple[str, str]] = {
    "run": ("id = ?", "n"),
    "task": (_OF_RUN, "n"),
    "attempt": (_OF_RUN, "n"),
    "session": (_OF_RUN, "n"),
    "result": (_OF_RUN, "n"),
    "section": (_OF_ATTEMPTS, "n"),
    "tool_call": (_OF_ATTEMPTS, "n"),
    "transcript": (_OF_SESSIONS, "session_id, seq"),
    "message": (_OF_RUN, "n"),
    "question": (_OF_RUN, "n"),
    "dead_letter": (_OF_RUN, "n"),
    "artifact": (_OF_RUN, "n"),
    "event": (_OF_RUN, "seq"),
}
"""What goes along, in an order in which nothing refers to what comes after it: which rows, and sorted
by what."""
_STAYS: Mapping[str, frozenset[str]] = {
    "run": frozenset(
        {
            *("n", "owner_pid", "owner_started", "owner_boot", "renewals", "lost_epoch", "imported"),
            *("parent_host", "parent_session", "parent_route"),
        }
    ),
    "session": frozenset({"n", "host_session"}),
    "event": frozenset({"seq"}),
    "transcript": frozenset[str](),
}
"""Columns that mean something in their own store only; elsewhere it is the number of the row."""
_NUMBER = frozenset({"n"})
_ALL = -1
"""As a limit: none."""


class Transfers(Artifacts, Runs):
    """Reading a run out in one transaction, and writing it down in another store."""

    def __init__(self, path: Path, artifacts: Path, *, read_only: bool = False) -> None:
        super().__init__(path, artifacts, read_only=read_only)
        self._known_columns: dict[str, tuple[str, ...]] = {}

    def dump_run(self, run_id: str) -> Iterator[tuple[str, Mapping[str, Value]]]:
        """Every row that goes along with a run, with its table. To be read inside one transaction."""
        self._write_behind()
        for table, (which, order) in _TABLES.items():
            columns = self._columns_of(table)
            if table == "event":
                yield from (("event", row) for row in self._events(run_id, columns))
                continue
            for row in self._all(
                f"SELECT {', '.join(columns)} FROM {table} WHERE {which} ORDER BY {order}", (run_id,)
            ):
                yield table, dict(zip(columns, row, strict=True))

    def _events(self, run_id: str, columns: tuple[str, ...]) -> Iterator[Mapping[str, Value]]:
        """Rows of events. Where some are not kept, what `tail` says instead is one of them."""
        left_out = [
            (
                gap.seq,
                {
                    **dict.fromkeys(columns),
                    "run_id": run_id,
                    "at": gap.at,
                    "epoch": gap.epoch,
                    "type": gap.type,
                    "actor": gap.actor,
                    "data": dump(dict(gap.data)),
                },
            )
            for gap in self._gaps(run_id, 0, _ALL)
        ]
        rows = self._all(f"SELECT seq, {', '.join(columns)} FROM event WHERE run_id = ?", (run_id,))
        kept = [(int(row["seq"]), dict(zip(columns, tuple(row)[1:], strict=True))) for row in rows]
        yield from (row for _, row in sorted([*kept, *left_out], key=lambda each: each[0]))

    def restore_run(
        self,
        rows: Sequence[tuple[str, Mapping[str, Value]]],
        bodies: Sequence[str],
        read: Callable[[str], bytes],
    ) -> None:
        """Write down a run that `dump_run` gave, with its bodies. Events are numbered anew.

        Raises:
            CallerError: the rows contradict each other or what is here; nothing is written.
        """
        with self._change():
            self._write_behind()
            try:
                for sha256 in bodies:
                    if self._keep(read(sha256)) != sha256:
                        raise CallerError(f"the body {sha256[:12]} is not what its name says")
                for table, row in rows:
                    self._insert_row(table, row)
            except sqlite3.IntegrityError as error:
                raise CallerError(f"its rows contradict each other: {error}") from error
            self._heads.clear()
            self._last_seq = None

    def mark_imported(self, run_id: str, about: ImportRecord, *, actor: str) -> None:
        """Note where an ended run came from, with `run.imported`. It is only read from now on."""
        with self._change():
            row = self._run_row(run_id)
            if RunState(row["state"]) not in RUN_TERMINAL:
                raise CallerError(f"run {run_id} is {row['state']}: only what has ended comes from elsewhere")
            content = asdict(about)
            self._update_run("UPDATE run SET imported = ? WHERE id = ?", (text(dump(content)), run_id))
            self._append(run_id, row["epoch"], "run.imported", actor, data=content)

    def _insert_row(self, table: str, row: Mapping[str, Value]) -> None:
        columns = self._columns_of(table)
        if set(row) != set(columns):
            raise CallerError(f"a row of {table} has other columns than here: {', '.join(sorted(row))}")
        names, values = [*columns], [row[column] for column in columns]
        if table == "event":
            names, values = ["seq", *names], [self._next_seq(), *values]
        elif table == "run":
            names, values = [*names, "renewals"], [*values, 0]
        self._execute(
            f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})", (*values,)
        )

    def _next_seq(self) -> int:
        row = self._first("SELECT seq FROM sqlite_sequence WHERE name = 'event'")
        return 1 + (0 if row is None else int(row["seq"]))

    def _columns_of(self, table: str) -> tuple[str, ...]:
        """The columns that go along. They are the same as long as the store is open."""
        if table in self._known_columns:
            return self._known_columns[table]
        if table not in _TABLES:
            raise CallerError(f"no table {table!r} goes along with a run")
        rows = self._all("SELECT name FROM pragma_table_info(?)", (table,))
        stays = _STAYS.get(table, _NUMBER)
        columns = tuple(row["name"] for row in rows if row["name"] not in stays)
        self._known_columns[table] = columns
        return columns
