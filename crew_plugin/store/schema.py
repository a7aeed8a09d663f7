"""The tables, and how a store of an older version becomes one of this version.

`PRAGMA user_version` holds the version. A migration is one list of statements; all that are due
run in one transaction, so a store is never between two versions.
"""

import sqlite3

from crew_plugin.errors import StateDamaged, StoreTooNew

__all__ = ["MIGRATIONS", "VERSION", "migrate", "refuse_foreign", "version_of"]

_FIRST = """
CREATE TABLE run (
    n INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL,
    cause TEXT,
    team TEXT NOT NULL,
    workflow TEXT NOT NULL,
    cwd TEXT NOT NULL,
    background INTEGER NOT NULL,
    parent_host TEXT,
    parent_session TEXT,
    parent_route TEXT,
    epoch INTEGER NOT NULL DEFAULT 0,
    owner_pid INTEGER,
    owner_started REAL,
    owner_boot TEXT,
    renewals INTEGER NOT NULL DEFAULT 0,
    created_at REAL NOT NULL,
    started_at REAL,
    ended_at REAL,
    wall_seconds REAL,
    runtime TEXT NOT NULL,
    runtime_note TEXT NOT NULL,
    goal TEXT NOT NULL,
    spec TEXT NOT NULL
);
CREATE INDEX run_by_state ON run (state, n);
CREATE INDEX run_by_parent ON run (parent_host, parent_session, n);

CREATE TABLE task (
    n INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    run_id TEXT NOT NULL REFERENCES run (id),
    key TEXT NOT NULL,
    position INTEGER NOT NULL,
    title TEXT NOT NULL,
    role TEXT NOT NULL,
    agent TEXT NOT NULL,
    state TEXT NOT NULL,
    cause TEXT,
    depends_on TEXT NOT NULL,
    optional INTEGER NOT NULL,
    attention_pass INTEGER NOT NULL,
    dispatches INTEGER NOT NULL DEFAULT 0,
    max_dispatches INTEGER NOT NULL,
    attempt_id TEXT,
    attempts INTEGER NOT NULL DEFAULT 0,
    retry_at REAL,
    started_at REAL,
    ended_at REAL,
    spec TEXT NOT NULL,
    UNIQUE (run_id, key),
    UNIQUE (run_id, position)
);
CREATE INDEX task_by_state ON task (run_id, state);

CREATE TABLE attempt (
    n INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    run_id TEXT NOT NULL REFERENCES run (id),
    task_id TEXT NOT NULL REFERENCES task (id),
    number INTEGER NOT NULL,
    state TEXT NOT NULL,
    cause TEXT,
    epoch INTEGER NOT NULL,
    engine TEXT NOT NULL,
    kind TEXT NOT NULL,
    session_id TEXT NOT NULL,
    model_asked TEXT,
    model_used TEXT,
    usage_input INTEGER NOT NULL DEFAULT 0,
    usage_output INTEGER NOT NULL DEFAULT 0,
    usage_cached INTEGER NOT NULL DEFAULT 0,
    usage_calls INTEGER NOT NULL DEFAULT 0,
    usage_cost REAL,
    steps INTEGER NOT NULL DEFAULT 0,
    counts TEXT NOT NULL DEFAULT '{}',
    result_id TEXT,
    last_text TEXT,
    started_at REAL NOT NULL,
    ended_at REAL,
    last_activity_at REAL NOT NULL,
    UNIQUE (task_id, number)
);
CREATE UNIQUE INDEX attempt_open ON attempt (task_id) WHERE ended_at IS NULL;
CREATE INDEX attempt_open_of_run ON attempt (run_id) WHERE ended_at IS NULL;

CREATE TABLE session (
    n INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    attempt_id TEXT NOT NULL REFERENCES attempt (id),
    run_id TEXT NOT NULL REFERENCES run (id),
    kind TEXT NOT NULL,
    host_session TEXT NOT NULL DEFAULT '',
    cwd TEXT NOT NULL,
    prompt TEXT
);
CREATE INDEX session_by_host ON session (host_session);
CREATE INDEX session_by_run ON session (run_id);

CREATE TABLE result (
    n INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    run_id TEXT NOT NULL REFERENCES run (id),
    task_id TEXT NOT NULL REFERENCES task (id),
    attempt_id TEXT NOT NULL REFERENCES attempt (id),
    error TEXT,
    flags TEXT NOT NULL,
    artifacts TEXT NOT NULL,
    body TEXT NOT NULL,
    created_at REAL NOT NULL
);
CREATE INDEX result_by_run ON result (run_id, task_id, n);

CREATE TABLE section (
    n INTEGER PRIMARY KEY,
    attempt_id TEXT NOT NULL REFERENCES attempt (id),
    label TEXT NOT NULL,
    adds INTEGER NOT NULL,
    body TEXT NOT NULL,
    created_at REAL NOT NULL
);
CREATE INDEX section_by_attempt ON section (attempt_id, n);

CREATE TABLE outbox (
    n INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    run_id TEXT NOT NULL REFERENCES run (id),
    task_id TEXT REFERENCES task (id),
    result_id TEXT REFERENCES result (id),
    parent_host TEXT NOT NULL,
    parent_session TEXT NOT NULL,
    parent_route TEXT NOT NULL,
    state TEXT NOT NULL,
    sends INTEGER NOT NULL DEFAULT 0,
    created_at REAL NOT NULL,
    sent_at REAL,
    acknowledged_at REAL
);
CREATE INDEX outbox_by_run ON outbox (run_id);
CREATE INDEX outbox_by_parent ON outbox (parent_host, parent_session, state);
CREATE INDEX outbox_by_state ON outbox (state);

CREATE TABLE message (
    n INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    run_id TEXT NOT NULL REFERENCES run (id),
    sender TEXT NOT NULL,
    recipient TEXT NOT NULL,
    kind TEXT NOT NULL,
    body TEXT NOT NULL,
    state TEXT NOT NULL,
    hops INTEGER NOT NULL,
    reply_to TEXT,
    reason TEXT,
    created_at REAL NOT NULL,
    delivered_at REAL,
    expires_at REAL
);
CREATE INDEX message_by_recipient ON message (run_id, recipient, state);

CREATE TABLE control (
    n INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    run_id TEXT NOT NULL REFERENCES run (id),
    task_id TEXT,
    verb TEXT NOT NULL,
    payload TEXT NOT NULL,
    message_id TEXT,
    actor TEXT NOT NULL,
    state TEXT NOT NULL,
    outcome TEXT,
    answer TEXT,
    created_at REAL NOT NULL,
    answered_at REAL
);
CREATE INDEX control_by_state ON control (run_id, state);

CREATE TABLE tool_call (
    n INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    attempt_id TEXT NOT NULL REFERENCES attempt (id),
    tool TEXT NOT NULL,
    effect TEXT NOT NULL,
    state TEXT NOT NULL,
    arguments TEXT NOT NULL,
    error TEXT,
    started_at REAL NOT NULL,
    ended_at REAL
);
CREATE INDEX tool_call_by_attempt ON tool_call (attempt_id);

CREATE TABLE transcript (
    session_id TEXT NOT NULL REFERENCES session (id),
    seq INTEGER NOT NULL,
    role TEXT NOT NULL,
    at REAL NOT NULL,
    content TEXT,
    data TEXT,
    body TEXT,
    PRIMARY KEY (session_id, seq)
);

CREATE TABLE event (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    run_id TEXT NOT NULL REFERENCES run (id),
    at REAL NOT NULL,
    epoch INTEGER NOT NULL,
    type TEXT NOT NULL,
    actor TEXT NOT NULL,
    task_id TEXT,
    attempt_id TEXT,
    cause TEXT,
    data TEXT NOT NULL
);
CREATE INDEX event_by_run ON event (run_id, seq);

CREATE TABLE body (
    sha256 TEXT PRIMARY KEY,
    content BLOB NOT NULL
);

CREATE TABLE artifact (
    n INTEGER PRIMARY KEY,
    run_id TEXT NOT NULL REFERENCES run (id),
    task_id TEXT REFERENCES task (id),
    sha256 TEXT NOT NULL,
    size INTEGER NOT NULL,
    name TEXT NOT NULL,
    media_type TEXT NOT NULL,
    created_at REAL NOT NULL,
    removed_at REAL,
    removed_because TEXT
);
CREATE INDEX artifact_by_run ON artifact (run_id);
CREATE INDEX artifact_by_body ON artifact (sha256);
"""

_SECOND = """
ALTER TABLE run ADD COLUMN worked REAL NOT NULL DEFAULT 0;
ALTER TABLE run ADD COLUMN lost_epoch INTEGER NOT NULL DEFAULT 0;
ALTER TABLE task ADD COLUMN hold TEXT;
ALTER TABLE attempt ADD COLUMN resumed_steps INTEGER;
CREATE TABLE question (
    n INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    run_id TEXT NOT NULL REFERENCES run (id),
    task_id TEXT NOT NULL REFERENCES task (id),
    attempt_id TEXT NOT NULL REFERENCES attempt (id),
    text TEXT NOT NULL,
    choices TEXT NOT NULL,
    fallback TEXT,
    state TEXT NOT NULL,
    answer TEXT,
    answered_by TEXT,
    reason TEXT,
    asked_at REAL NOT NULL,
    expires_at REAL NOT NULL,
    told_at REAL,
    closed_at REAL
);
CREATE INDEX question_by_run ON question (run_id, state);
CREATE INDEX question_by_state ON question (state);
CREATE UNIQUE INDEX question_open ON question (attempt_id) WHERE state = 'open';
CREATE TABLE forgotten (
    n INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL,
    removed_at REAL NOT NULL,
    removed_by TEXT NOT NULL,
    reason TEXT NOT NULL,
    counts TEXT NOT NULL
);
CREATE INDEX transcript_by_body ON transcript (body) WHERE body IS NOT NULL;
"""

_THIRD = """
ALTER TABLE outbox ADD COLUMN parcel TEXT;
UPDATE outbox SET parcel = coalesce((SELECT id FROM outbox AS ended WHERE ended.run_id = outbox.run_id
    AND ended.task_id IS NULL AND ended.state = 'sent' ORDER BY n DESC LIMIT 1), id) WHERE state = 'sent';
CREATE TABLE upkeep (
    n INTEGER PRIMARY KEY,
    at REAL NOT NULL,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    done TEXT NOT NULL
);
ALTER TABLE run ADD COLUMN imported TEXT;
CREATE TABLE dead_letter (
    n INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    run_id TEXT NOT NULL REFERENCES run (id),
    task_id TEXT NOT NULL REFERENCES task (id),
    attempt_id TEXT REFERENCES attempt (id),
    attempts INTEGER NOT NULL,
    reason TEXT NOT NULL,
    cause TEXT,
    state TEXT NOT NULL,
    created_at REAL NOT NULL,
    closed_at REAL,
    closed_by TEXT,
    note TEXT
);
CREATE INDEX dead_letter_by_run ON dead_letter (run_id, state);
CREATE INDEX dead_letter_by_state ON dead_letter (state);
CREATE UNIQUE INDEX dead_letter_open ON dead_letter (task_id) WHERE state = 'open';
CREATE INDEX run_by_session ON run (parent_session, parent_host, state);
CREATE TABLE gap (
    n INTEGER PRIMARY KEY,
    run_id TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    first_seq INTEGER NOT NULL,
    last_seq INTEGER NOT NULL,
    events INTEGER NOT NULL,
    actor TEXT NOT NULL,
    because TEXT NOT NULL,
    at REAL NOT NULL
);
CREATE INDEX gap_by_run ON gap (run_id, last_seq);
CREATE INDEX gap_by_end ON gap (last_seq);
"""

MIGRATIONS = (_FIRST, _SECOND, _THIRD)
"""The n-th makes version n out of version n - 1. Append only: released ones never change."""

VERSION = len(MIGRATIONS)


def version_of(connection: sqlite3.Connection) -> int:
    """The version of a store; 0 if its file is still empty."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return int(version)


def migrate(connection: sqlite3.Connection, path: object, migrations: tuple[str, ...] = MIGRATIONS) -> None:
    """Bring a store to the newest version. Raises `StoreTooNew` and
    `StateDamaged`, having written nothing."""
    _refuse_newer(connection, path, len(migrations))
    if version_of(connection) == len(migrations):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Another process may have been first while this one waited for the lock.
        _refuse_newer(connection, path, len(migrations))
        refuse_foreign(connection, path)
        for migration in migrations[version_of(connection) :]:
            for statement in migration.split(";\n"):
                if statement.strip():
                    connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {len(migrations)}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def refuse_foreign(connection: sqlite3.Connection, path: object) -> None:
    """Raise `StateDamaged` for a database of something else. A store gets its version together with
    its first tables."""
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if tables and version_of(connection) == 0:
        raise StateDamaged(path, "it is a database of something else")


def _refuse_newer(connection: sqlite3.Connection, path: object, supported: int) -> None:
    found = version_of(connection)
    if found > supported:
        raise StoreTooNew(path, found, supported)
