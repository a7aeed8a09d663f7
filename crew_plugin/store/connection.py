"""One SQLite connection: opening it rightly, transactions, and errors in words."""

import os
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path

from crew_plugin.errors import CrewError, StateDamaged, StateUnwritable
from crew_plugin.models.records import EventRecord
from crew_plugin.store import schema

__all__ = ["Connection", "Value"]

Value = str | int | float | bytes | None

BUSY_SECONDS = 30.0
_ROWS_AT_ONCE = 16
_NAP = (0.0002, 0.003)
"""Between two tries for a lock, in seconds."""

_REASONS = {
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_READONLY: "it is read-only",
    sqlite3.SQLITE_PERM: "permission denied",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened",
    sqlite3.SQLITE_BUSY: f"another process kept it locked for {BUSY_SECONDS:.0f} seconds",
    sqlite3.SQLITE_LOCKED: "another process keeps it locked",
    sqlite3.SQLITE_PROTOCOL: "its file system cannot lock files",
    sqlite3.SQLITE_IOERR: "the disk reported an error",
    sqlite3.SQLITE_NOMEM: "out of memory",
}
"""What the operator can do something about. Any other SQLite error is a defect of ours."""
_DAMAGE = {
    sqlite3.SQLITE_CORRUPT: "it is damaged",
    sqlite3.SQLITE_NOTADB: "it is not a store",
}
"""What neither space nor permissions help against."""


class Connection:
    """Transactions on one file, used by the thread that made it."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path
        self.read_only = read_only
        self.missing = read_only and not path.exists()
        """Whether there was no store to read and this is an empty stand-in for it."""
        self._depth = 0
        self._spoiled = False
        self._put_off = 0
        """Rows that changes left to the end of their transaction, so far."""
        self._fresh: list[EventRecord] = []
        self._heads: dict[str, sqlite3.Row] = {}
        """What was read of runs in this transaction: while it lasts, only it can change them."""
        self._rows: dict[tuple[str, str], sqlite3.Row] = {}
        """Rows that were read since the transaction's last change, by table and id."""
        try:
            self._db = _open_to_read(path) if read_only else _open_to_write(path)
        except sqlite3.Error as error:
            raise self._in_words(error) from error

    def close(self) -> None:
        """Release the file. Closing twice is no error."""
        self._db.close()

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open. SQLite itself ends one after some disk errors."""
        return self._db.in_transaction

    @property
    def spoiled(self) -> bool:
        """Whether half of a change stands in the open transaction, which can only be undone."""
        return self._spoiled

    @property
    def total_changes(self) -> int:
        """A number that grows with what is changed, and stands still while nothing is."""
        return self._db.total_changes + self._put_off

    @contextmanager
    def transaction(self) -> Generator[None]:
        """Make all calls inside one transaction. Nested use makes a savepoint."""
        depth = self._depth
        mark = len(self._fresh)
        if depth:
            self._write_behind()  # so that what is put off from here on is undone with the savepoint
            self._execute(f"SAVEPOINT s{depth}")
        else:
            self._execute("BEGIN" if self.read_only else "BEGIN IMMEDIATE")
        self._depth += 1
        try:
            yield
            if self._spoiled:
                raise CrewError("half of a change failed inside a transaction, so all of it was undone")
            if not depth:
                self._write_behind()
            self._execute(f"RELEASE s{depth}" if depth else "COMMIT")
        except BaseException:
            del self._fresh[mark:]
            self._forget_behind()
            self._heads.clear()
            self._spoiled = False
            if self._db.in_transaction:
                self._execute(f"ROLLBACK TO s{depth}" if depth else "ROLLBACK")
                if depth:
                    self._execute(f"RELEASE s{depth}")
            raise
        finally:
            self._depth = depth
            if not depth:
                self._heads.clear()
                self._rows.clear()

    @contextmanager
    def _change(self) -> Generator[None]:
        """One change, whole or not at all. Inside a transaction it spares itself a savepoint: a
        change that fails after it wrote something spoils the transaction around it instead."""
        if not self._depth:
            with self.transaction():
                yield
            return
        before = self.total_changes
        try:
            yield
        except BaseException:
            self._spoiled = self._spoiled or self.total_changes != before
            raise

    def _write_behind(self) -> None:
        """Write what changes put off: before a savepoint, and before the commit."""

    def _forget_behind(self) -> None:
        """Drop what was put off since the last savepoint, or in the whole transaction."""

    def take_fresh_events(self) -> list[EventRecord]:
        """The events committed since the last call, in order."""
        fresh, self._fresh = self._fresh, []
        return fresh

    def data_version(self) -> int:
        """A number that changes when another process or connection changed the store."""
        return int(self._one("PRAGMA data_version")[0])

    def _execute(self, sql: str, parameters: tuple[Value, ...] = ()) -> sqlite3.Cursor:
        if self._depth and not self._db.in_transaction:
            # SQLite gave the whole transaction up; what follows must not be committed on its own.
            raise StateUnwritable(self.path, "an earlier error ended the transaction")
        if not sql.startswith("SELECT"):
            self._rows.clear()
        try:
            return self._db.execute(sql, parameters)
        except sqlite3.Error as error:
            if not _is_busy(error):
                raise self._in_words(error) from error
        try:
            return _patiently(lambda: self._db.execute(sql, parameters))
        except sqlite3.Error as error:
            raise self._in_words(error) from error

    def _insert(self, into: str, rows: Sequence[tuple[Value, ...]]) -> None:
        """Insert rows, many with one statement: each gives the interpreter to other threads."""
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            some = rows[start : start + _ROWS_AT_ONCE]
            places = f"({', '.join('?' * len(some[0]))})"
            values = ", ".join([places] * len(some))
            self._execute(f"INSERT INTO {into} VALUES {values}", tuple(chain.from_iterable(some)))

    def _all(self, sql: str, parameters: tuple[Value, ...] = ()) -> list[sqlite3.Row]:
        cursor = self._execute(sql, parameters)
        try:
            return cursor.fetchall()
        except sqlite3.Error as error:
            raise self._in_words(error) from error

    def _first(self, sql: str, parameters: tuple[Value, ...] = ()) -> sqlite3.Row | None:
        rows = self._all(sql, parameters)
        return rows[0] if rows else None

    def _row_of(self, table: str, ident: str) -> sqlite3.Row | None:
        """The row with this id, read once as long as the transaction changes nothing."""
        row = self._rows.get((table, ident))
        if row is None:
            row = self._first(f"SELECT * FROM {table} WHERE id = ?", (ident,))
            if row is not None:
                self._note_row(table, row)
        return row

    def _note_row(self, table: str, row: sqlite3.Row) -> None:
        """A row was read whole."""
        if self._depth:
            self._rows[table, row["id"]] = row

    def _newest(
        self, table: str, where: str, values: tuple[Value, ...], states: Sequence[str], limit: int
    ) -> list[sqlite3.Row]:
        """The newest rows, newest first. State by state: SQLite would read all rows of several states, and
        sort them, to find a few."""
        choices: list[tuple[Value, ...]] = [(state,) for state in states] or [()]
        conditions = [*(["state = ?"] if states else []), *([where] if where else [])]
        asked = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        part = f"SELECT * FROM (SELECT * FROM {table}{asked} ORDER BY n DESC LIMIT ?)"
        given = [value for choice in choices for value in (*choice, *values, limit)]
        parts = " UNION ALL ".join([part] * len(choices))
        return self._all(f"{parts} ORDER BY n DESC LIMIT ?", (*given, limit))

    def _one(self, sql: str, parameters: tuple[Value, ...] = ()) -> sqlite3.Row:
        return self._all(sql, parameters)[0]

    def _in_words(self, error: sqlite3.Error) -> Exception:
        code = _code(error) & 0xFF
        if code in _DAMAGE:
            return StateDamaged(self.path, f"{_DAMAGE[code]} ({error})")
        if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR) and self.path.is_dir():
            return StateDamaged(self.path, "it is a folder")
        reason = _REASONS.get(code)
        return error if reason is None else StateUnwritable(self.path, f"{reason} ({error})")


def _code(error: sqlite3.Error) -> int:
    """SQLite's extended code; 0 for errors that Python's module found itself."""
    code = getattr(error, "sqlite_errorcode", 0)
    return code if isinstance(code, int) else 0


def _is_busy(error: sqlite3.Error) -> bool:
    return _code(error) & 0xFF == sqlite3.SQLITE_BUSY


def _connect(path: Path, query: str) -> sqlite3.Connection:
    db = sqlite3.connect(
        f"{path.absolute().as_uri()}?{query}",
        uri=True,
        timeout=0,
        isolation_level=None,
        cached_statements=256,
    )
    db.row_factory = sqlite3.Row
    return db


def _open_to_write(path: Path) -> sqlite3.Connection:
    db = _connect(path, "mode=rwc")

    def prepare() -> None:
        if schema.version_of(db) == 0:
            schema.refuse_foreign(db, path)
            if _wal_works(path.parent):
                db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA foreign_keys = ON")
        schema.migrate(db, path)

    try:
        _patiently(prepare)
    except BaseException:
        db.close()
        raise
    return db


def _open_to_read(path: Path) -> sqlite3.Connection:
    """A connection that cannot write. A store that does not exist yet reads as an empty one."""
    if not path.exists():
        db = sqlite3.connect(":memory:", isolation_level=None)
        db.row_factory = sqlite3.Row
        schema.migrate(db, path)
        return db
    db = _connect(path, "mode=ro")
    try:
        version = _patiently(lambda: schema.version_of(db))
        if version >= schema.VERSION:
            _patiently(lambda: schema.migrate(db, path))  # refuses a newer one
            return db
    except sqlite3.OperationalError:
        db.close()
        # In a folder that cannot be written, a store without a log beside it cannot change either.
        log = path.with_name(path.name + "-wal")
        if os.access(path.parent, os.W_OK) or (log.exists() and log.stat().st_size):
            raise
        return _open_unchanging(path)
    except BaseException:
        db.close()
        raise
    db.close()
    _open_to_write(path).close()
    return _open_to_read(path)


def _open_unchanging(path: Path) -> sqlite3.Connection:
    db = _connect(path, "mode=ro&immutable=1")
    try:
        if schema.version_of(db) > schema.VERSION:
            schema.migrate(db, path)
    except BaseException:
        db.close()
        raise
    return db


def _wal_works(folder: Path) -> bool:
    """Whether a write-ahead log works on this file system, tried on a file that nobody shares."""
    probe = folder / f".probe-{os.getpid()}-{threading.get_ident()}.db"
    try:
        db = _connect(probe, "mode=rwc")
        try:
            db.execute("PRAGMA synchronous = OFF")
            (mode,) = db.execute("PRAGMA journal_mode = WAL").fetchone()
            db.execute("CREATE TABLE probe (x)")
            return str(mode) == "wal"
        except sqlite3.OperationalError as error:
            if _code(error) & 0xFF == sqlite3.SQLITE_FULL:
                raise
            return False
        finally:
            db.close()
    finally:
        for suffix in ("", "-wal", "-shm", "-journal"):
            with suppress(OSError):
                probe.with_name(probe.name + suffix).unlink()


def _patiently[T](step: Callable[[], T]) -> T:
    """Do something for which another process may hold the lock. SQLite's own waiting naps so long
    that a process which writes without pause keeps all others out for seconds."""
    deadline = 0.0
    while True:
        try:
            return step()
        except sqlite3.OperationalError as error:
            if not _is_busy(error):
                raise
            now = time.monotonic()
            deadline = deadline or now + BUSY_SECONDS
            if now > deadline:
                raise
        time.sleep(random.uniform(*_NAP))
