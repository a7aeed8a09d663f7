"""Deleting ended runs, and the bodies that nobody refers to any more.

What is left of a run is a tombstone, in which stands who deleted it, when, why and how much.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from crew_plugin.errors import NotAllowed
from crew_plugin.models.events import CHATTY
from crew_plugin.models.records import ArtifactRef, DeliveryState
from crew_plugin.models.removal import Details, Removal, Thinned, UpkeepRecord
from crew_plugin.models.states import RUN_TERMINAL, RunState
from crew_plugin.store.artifacts import Artifacts
from crew_plugin.store.rows import artifact_ref, dump, load, text
from crew_plugin.store.runs import Runs

__all__ = ["Removals"]

_OF_ATTEMPTS = "attempt_id IN (SELECT id FROM attempt WHERE run_id = ?)"
_OF_SESSIONS = "session_id IN (SELECT id FROM session WHERE run_id = ?)"
_OF_RUN = "run_id = ?"
_TABLES = (
    ("control", _OF_RUN),
    ("message", _OF_RUN),
    ("question", _OF_RUN),
    ("dead_letter", _OF_RUN),
    ("outbox", _OF_RUN),
    ("section", _OF_ATTEMPTS),
    ("tool_call", _OF_ATTEMPTS),
    ("transcript", _OF_SESSIONS),
    ("session", _OF_RUN),
    ("result", _OF_RUN),
    ("attempt", _OF_RUN),
    ("artifact", _OF_RUN),
    ("task", _OF_RUN),
)
"""What belongs to a run, beside its events; nothing in a table refers to one before it."""
_STORED = "SELECT sha256, length(content) AS size FROM body"
_USED = (
    "SELECT sha256 FROM artifact WHERE removed_at IS NULL"
    " UNION SELECT body FROM transcript WHERE body IS NOT NULL"
)
_OWED = (DeliveryState.PENDING, DeliveryState.SENT)


class Removals(Artifacts, Runs):
    """Runs go in one transaction, bodies in a later one: a crash between leaves bodies too many,
    never a reference without its body."""

    def forget_run(self, run_id: str, *, actor: str, reason: str, undelivered: bool = False) -> Removal:
        """Delete an ended run with all that is written down of it. Raises `NotAllowed` for one that
        has not ended, and for one that owes results unless `undelivered`."""
        with self._change():
            self._write_behind()
            state = RunState(self._run_row(run_id)["state"])
            if state not in RUN_TERMINAL:
                raise NotAllowed(
                    f"run {run_id} is {state}: only an ended run can be forgotten; cancel it first"
                )
            owed = self._one(
                "SELECT count(*) FROM outbox WHERE run_id = ? AND state IN (?, ?)", (run_id, *_OWED)
            )[0]
            if owed and not undelivered:
                raise NotAllowed(
                    f"run {run_id} has {owed} results that the conversation which asked for it has not got; "
                    "say force to delete them all the same"
                )
            bodies = [
                row[0]
                for row in self._all(
                    "SELECT sha256 FROM artifact WHERE run_id = ? UNION SELECT body FROM transcript"
                    f" WHERE {_OF_SESSIONS} AND body IS NOT NULL",
                    (run_id, run_id),
                )
            ]
            because = f"run {run_id} was forgotten{f' ({reason})' if reason else ''}"
            counts = {"event": self._delete_events(run_id, types=(), actor=actor, because=because)}
            counts |= {
                table: self._execute(f"DELETE FROM {table} WHERE {which}", (run_id,)).rowcount
                for table, which in _TABLES
            }
            self._update_run("DELETE FROM run WHERE id = ?", (run_id,))
            at = time.time()
            self._execute(
                "INSERT INTO forgotten (id, state, removed_at, removed_by, reason, counts)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (run_id, state, at, text(actor), text(reason), dump(counts)),
            )
        return Removal(
            run_id=run_id,
            state=state,
            removed_at=at,
            removed_by=actor,
            reason=reason,
            counts=counts,
            bodies=tuple(bodies),
        )

    def details(self, run_id: str) -> Details:
        """What is kept of a run and no result needs."""
        kinds = ", ".join("?" * len(CHATTY))
        events = self._one(
            f"SELECT count(*) FROM event WHERE run_id = ? AND type IN ({kinds})", (run_id, *CHATTY)
        )[0]
        return Details(events=events, artifacts=tuple(self._removable(run_id)))

    def _removable(self, run_id: str) -> list[ArtifactRef]:
        kept: set[str] = set()
        for (bodies,) in self._all("SELECT body FROM result WHERE run_id = ?", (run_id,)):
            kept.add(load(bodies)[0])
        for (parts,) in self._all("SELECT artifacts FROM result WHERE run_id = ?", (run_id,)):
            kept.update(ref[0] for ref in load(parts).values())
        for (body,) in self._all(f"SELECT body FROM section WHERE {_OF_ATTEMPTS}", (run_id,)):
            kept.add(load(body)[0])
        last = "SELECT last_text FROM attempt WHERE run_id = ? AND last_text IS NOT NULL"
        for (ref,) in self._all(last, (run_id,)):
            kept.add(load(ref)[0])
        rows = self._all(
            "SELECT sha256, size, name, media_type, run_id, task_id FROM artifact"
            " WHERE run_id = ? AND removed_at IS NULL ORDER BY n",
            (run_id,),
        )
        return [artifact_ref(list(row)) for row in rows if row["sha256"] not in kept]

    def thin_run(self, run_id: str, *, actor: str, because: str, events: bool = True) -> Thinned:
        """Delete of an ended run what its results do not need: bodies of logs, prompts and the like and,
        with `events`, the events that say how things went. What was there, when it went and why stays
        known. Doing it twice changes nothing. Raises `NotAllowed` for a run that has not ended."""
        with self._change():
            self._write_behind()
            run = self._run_row(run_id)
            if RunState(run["state"]) not in RUN_TERMINAL:
                raise NotAllowed(f"run {run_id} is {run['state']}: nothing of it is deleted before its end")
            refs = self._removable(run_id)
            for ref in refs:
                self._execute(
                    "UPDATE artifact SET removed_at = ?, removed_because = ?"
                    " WHERE run_id = ? AND sha256 = ? AND removed_at IS NULL",
                    (time.time(), text(because), run_id, ref.sha256),
                )
                self._append(
                    run_id,
                    run["epoch"],
                    "artifact.removed",
                    actor,
                    task_id=ref.task_id,
                    data={"name": ref.name, "sha256": ref.sha256, "size": ref.size, "because": because},
                )
            gone = self._delete_events(run_id, types=CHATTY, actor=actor, because=because) if events else 0
        return Thinned(
            run_id=run_id,
            events=gone,
            artifacts=len(refs),
            bodies=tuple(dict.fromkeys(ref.sha256 for ref in refs)),
        )

    def sweep_bodies(self, among: Sequence[str] | None = None) -> tuple[int, int]:
        """Delete those of these bodies (or of all) that nothing refers to any more. Returns how many
        there were and their bytes. Bodies are written only inside transactions that write, so while
        this one lasts nobody comes to refer to what it deletes."""
        count = size = 0
        with self._change():
            self._write_behind()
            for sha256 in self._all_bodies() if among is None else among:
                used = self._first(
                    "SELECT 1 WHERE EXISTS (SELECT 1 FROM artifact WHERE sha256 = ? AND removed_at IS NULL)"
                    " OR EXISTS (SELECT 1 FROM transcript WHERE body = ?)",
                    (sha256, sha256),
                )
                if used is not None:
                    continue
                row = self._first("SELECT length(content) AS size FROM body WHERE sha256 = ?", (sha256,))
                if row is not None:
                    self._execute("DELETE FROM body WHERE sha256 = ?", (sha256,))
                freed = self._bodies.remove(sha256) if row is None else int(row["size"])
                if freed is not None:
                    count, size = count + 1, size + freed
            if among is None:
                halves, weight = self._bodies.remove_unfinished()
                count, size = count + halves, size + weight
        return count, size

    def unused_bodies(self) -> dict[str, int]:
        """Bytes by name of the bodies that nothing refers to, and of those that are half written. One
        that is being written at this moment may be among them."""
        sizes = {row["sha256"]: int(row["size"]) for row in self._all(_STORED)} | self._bodies.sizes()
        used = {row[0] for row in self._all(_USED)}
        return {name: size for name, size in sizes.items() if name not in used}

    def note_upkeep(self, *, actor: str, reason: str, done: Mapping[str, Any]) -> None:
        """Write down what was removed that belonged to no run any more, by whom and why."""
        with self._change():
            self._execute(
                "INSERT INTO upkeep (at, actor, reason, done) VALUES (?, ?, ?, ?)",
                (time.time(), text(actor), text(reason), dump(done)),
            )

    def list_upkeep(self, *, limit: int) -> list[UpkeepRecord]:
        """What was removed so, newest first."""
        rows = self._all("SELECT * FROM upkeep ORDER BY n DESC LIMIT ?", (limit,))
        return [
            UpkeepRecord(at=row["at"], actor=row["actor"], reason=row["reason"], done=load(row["done"]))
            for row in rows
        ]

    def _all_bodies(self) -> list[str]:
        return [*(row["sha256"] for row in self._all("SELECT sha256 FROM body")), *self._bodies.all()]
