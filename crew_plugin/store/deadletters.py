"""Dead letters: tasks that were given up although their failure may pass, until somebody decides.

They are rows beside the tasks. Mail that cannot be delivered is something else (`store.mail`).
"""

import sqlite3
import time
from collections.abc import Sequence

from crew_plugin.errors import InvalidValue, NotAllowed, UnknownName
from crew_plugin.models.causes import Cause
from crew_plugin.models.ids import new_id
from crew_plugin.models.records import DeadLetter, DeadLetterState, GaveUp, Lease, TaskRecord
from crew_plugin.store.connection import Value
from crew_plugin.store.rows import cause_of, dump_cause, text
from crew_plugin.store.runs import Runs

__all__ = ["DeadLetters"]

_SELECT = "SELECT dead_letter.*, task.key FROM dead_letter JOIN task ON task.id = dead_letter.task_id"
_SHORTEST_END = 4


class DeadLetters(Runs):
    """Written in the transaction in which a task ends, closed in the one in which it is queued again."""

    def list_dead_letters(
        self, run_id: str | None = None, *, states: Sequence[DeadLetterState] = ()
    ) -> list[DeadLetter]:
        """The dead letters of a run or of all runs, oldest first; only those in `states` where given."""
        where: list[str] = []
        values: list[Value] = []
        if run_id is not None:
            where.append("dead_letter.run_id = ?")
            values.append(run_id)
        if states:
            where.append(f"dead_letter.state IN ({', '.join('?' * len(states))})")
            values += states
        condition = f" WHERE {' AND '.join(where)}" if where else ""
        return [
            _dead_letter(row) for row in self._all(f"{_SELECT}{condition} ORDER BY dead_letter.n", (*values,))
        ]

    def load_dead_letter(self, letter_id: str) -> DeadLetter:
        """One dead letter, by its id or the end of it. Raises `UnknownName`."""
        size = len(letter_id)
        rows = self._all(
            f"{_SELECT} WHERE dead_letter.id = ? OR (? AND substr(dead_letter.id, ?) = ?) LIMIT 6",
            (letter_id, size >= _SHORTEST_END, -size, letter_id),
        )
        exact = [row for row in rows if row["id"] == letter_id] or rows
        if len(exact) > 1:
            fits = ", ".join(row["id"] for row in exact)
            raise InvalidValue("dead letter", letter_id, f"longer: it fits {fits}")
        if not exact:
            known = self._all("SELECT id FROM dead_letter ORDER BY n DESC LIMIT 200")
            raise UnknownName("dead letter", letter_id, [row["id"] for row in known])
        return _dead_letter(exact[0])

    def drop_dead_letter(self, letter_id: str, *, actor: str, reason: str) -> DeadLetter:
        """Let an open dead letter go, with `dead_letter.dropped`. Its task stays as it ended. One that
        was dropped stays so; raises `NotAllowed` for one whose task was queued again."""
        with self._change():
            letter = self.load_dead_letter(letter_id)
            if letter.state is DeadLetterState.DROPPED:
                return letter
            if letter.state is not DeadLetterState.OPEN:
                raise NotAllowed(f"dead letter {letter.id} is {letter.state}: there is nothing to drop")
            self._close_dead_letter(letter.id, DeadLetterState.DROPPED, actor, reason)
            self._append(
                letter.run_id,
                self._run_row(letter.run_id)["epoch"],
                "dead_letter.dropped",
                actor,
                task_id=letter.task_id,
                data={"key": letter.key, "dead_letter_id": letter.id, "reason": text(reason)},
            )
            return self.load_dead_letter(letter.id)

    def _give_up(
        self,
        lease: Lease,
        task: TaskRecord,
        attempt_id: str | None,
        why: GaveUp,
        cause: Cause | None,
        actor: str,
    ) -> None:
        """Write down that a task that ends just now failed for something that may pass."""
        letter_id = new_id("dead")
        self._execute(
            "INSERT INTO dead_letter (id, run_id, task_id, attempt_id, attempts, reason, cause, state,"
            " created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                letter_id,
                lease.run_id,
                task.id,
                attempt_id,
                task.attempts,
                why,
                dump_cause(cause),
                DeadLetterState.OPEN,
                time.time(),
            ),
        )
        self._append(
            lease.run_id,
            lease.epoch,
            "task.given_up",
            actor,
            task_id=task.id,
            attempt_id=attempt_id,
            cause=cause,
            data={
                "key": task.key,
                "dead_letter_id": letter_id,
                "reason": str(why),
                "attempts": task.attempts,
            },
        )

    def _requeue_dead_letter(self, task_id: str, actor: str) -> str | None:
        """Close the open dead letter of a task that is queued again. Returns its id."""
        row = self._first(
            "SELECT id FROM dead_letter WHERE task_id = ? AND state = ?", (task_id, DeadLetterState.OPEN)
        )
        if row is None:
            return None
        self._close_dead_letter(row["id"], DeadLetterState.REQUEUED, actor, None)
        return str(row["id"])

    def _close_dead_letter(
        self, letter_id: str, state: DeadLetterState, actor: str, note: str | None
    ) -> None:
        self._execute(
            "UPDATE dead_letter SET state = ?, closed_at = ?, closed_by = ?, note = ? WHERE id = ?",
            (state, time.time(), text(actor), None if note is None else text(note), letter_id),
        )


def _dead_letter(row: sqlite3.Row) -> DeadLetter:
    return DeadLetter(
        id=row["id"],
        run_id=row["run_id"],
        task_id=row["task_id"],
        key=row["key"],
        attempt_id=row["attempt_id"],
        attempts=row["attempts"],
        reason=GaveUp(row["reason"]),
        cause=cause_of(row["cause"]),
        state=DeadLetterState(row["state"]),
        created_at=row["created_at"],
        closed_at=row["closed_at"],
        closed_by=row["closed_by"],
        note=row["note"],
    )
