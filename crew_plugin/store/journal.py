"""What sessions did: the journal of their tool calls, and their transcripts."""

import sqlite3
import time
from collections.abc import Sequence

from crew_plugin.models.ids import new_id
from crew_plugin.models.records import Effect, Lease, ToolCallRecord, ToolCallState, TranscriptEntry
from crew_plugin.store.artifacts import INLINE_BYTES, Artifacts
from crew_plugin.store.attempts import Attempts
from crew_plugin.store.connection import Value
from crew_plugin.store.rows import dump, load, text

__all__ = ["Journal"]

_ARGUMENTS_CHARACTERS = 4096


class Journal(Artifacts, Attempts):
    """Written by the wrappers around tools and models, as things happen."""

    def begin_tool_call(
        self, lease: Lease, attempt_id: str, tool: str, effect: Effect, arguments: str
    ) -> str:
        """Journal a call before it is made. Returns its id."""
        call_id = new_id("call")
        with self._change():
            self._fence(lease)
            added = self._execute(
                "INSERT INTO tool_call (id, attempt_id, tool, effect, state, arguments, started_at)"
                " SELECT ?, id, ?, ?, ?, ?, ? FROM attempt WHERE id = ? AND run_id = ?",
                (
                    call_id,
                    text(tool),
                    effect,
                    ToolCallState.STARTED,
                    # Cut afterwards, too: half a secret has no shape.
                    self._redactor.text(text(arguments[: 2 * _ARGUMENTS_CHARACTERS]))[:_ARGUMENTS_CHARACTERS],
                    time.time(),
                    attempt_id,
                    lease.run_id,
                ),
            )
            if not added.rowcount:
                raise self._unknown("attempt", attempt_id)
        return call_id

    def end_tool_call(self, call_id: str, *, error: str | None, cancelled: bool) -> None:
        """Journal how it ended. The first ending stays."""
        if cancelled:
            state = ToolCallState.CANCELLED
        else:
            state = ToolCallState.DONE if error is None else ToolCallState.FAILED
        with self._change():
            changed = self._execute(
                "UPDATE tool_call SET state = ?, error = ?, ended_at = ? WHERE id = ? AND ended_at IS NULL",
                (state, None if error is None else self._redactor.text(text(error)), time.time(), call_id),
            )
            if (
                not changed.rowcount
                and self._first("SELECT 1 FROM tool_call WHERE id = ?", (call_id,)) is None
            ):
                raise self._unknown("tool call", call_id, table="tool_call")

    def list_tool_calls(self, attempt_id: str) -> list[ToolCallRecord]:
        """The journalled calls of an attempt, oldest first."""
        return [
            ToolCallRecord(
                id=row["id"],
                attempt_id=row["attempt_id"],
                tool=row["tool"],
                effect=Effect(row["effect"]),
                state=ToolCallState(row["state"]),
                arguments=row["arguments"],
                error=row["error"],
                started_at=row["started_at"],
                ended_at=row["ended_at"],
            )
            for row in self._all("SELECT * FROM tool_call WHERE attempt_id = ? ORDER BY n", (attempt_id,))
        ]

    def append_transcript(self, lease: Lease, session_id: str, entries: Sequence[TranscriptEntry]) -> None:
        """Append to a session's transcript, without the secrets in it. `seq` and `at` of the entries are
        set here."""
        with self._change():
            self._fence(lease)
            session = self._first(
                "SELECT (SELECT max(seq) FROM transcript WHERE session_id = session.id) AS last"
                " FROM session WHERE id = ? AND run_id = ?",
                (session_id, lease.run_id),
            )
            if session is None:
                raise self._unknown("session", session_id)
            at = time.time()
            rows: list[tuple[Value, ...]] = []
            for seq, entry in enumerate(entries, start=(session["last"] or 0) + 1):
                content = self._redactor.text(text(entry.content))
                data, body = self._redactor.text(dump(dict(entry.data))), None
                if len(content) + len(data) > INLINE_BYTES:
                    body = self._keep(f"[{dump(content)},{data}]".encode("ascii"))
                inline = (None, None) if body else (content, data)
                rows.append((session_id, seq, entry.role, at, *inline, body))
            self._insert("transcript (session_id, seq, role, at, content, data, body)", rows)

    def read_transcript(self, session_id: str, *, after_seq: int = 0) -> list[TranscriptEntry]:
        """A session's transcript from an entry on, bodies whole."""
        rows = self._all(
            "SELECT * FROM transcript WHERE session_id = ? AND seq > ? ORDER BY seq", (session_id, after_seq)
        )
        return [self._entry(row) for row in rows]

    def _entry(self, row: sqlite3.Row) -> TranscriptEntry:
        if row["body"] is None:
            content, data = row["content"], load(row["data"])
        else:
            content, data = load(self._body(row["body"]))
        return TranscriptEntry(seq=row["seq"], role=row["role"], content=content, data=data, at=row["at"])
