"""Accepted results: each with its body on the disk and, where one is owed, its delivery."""

import json
import sqlite3
import time
from collections.abc import Mapping
from typing import Any

from crew_plugin.errors import IllegalTransition
from crew_plugin.models.ids import new_id
from crew_plugin.models.records import Lease, NewResult, ResultRecord, SectionRecord
from crew_plugin.models.states import ATTEMPT_TERMINAL
from crew_plugin.store.artifacts import Artifacts
from crew_plugin.store.attempts import Attempts
from crew_plugin.store.rows import artifact_ref, dump, load, ref_values, text

__all__ = ["Results"]


class Results(Artifacts, Attempts):
    """Accepting and reading results."""

    def owe_results(self, lease: Lease) -> None:
        """Whoever asked for the run does not wait for it any more: from now on its results are owed
        to the parent, those that are there already too. A run without a parent owes nothing."""
        with self._change():
            run = self._fence(lease)
            if run["background"] or run["parent_host"] is None:
                return
            self._update_run("UPDATE run SET background = 1 WHERE id = ?", (lease.run_id,))
            run = self._fence(lease)
            for result in self.list_results(lease.run_id):
                self._owe(run, lease.run_id, task_id=result.task_id, result_id=result.id)

    def accept_result(self, lease: Lease, attempt_id: str, result: NewResult, *, actor: str) -> ResultRecord:
        """Write an accepted result and, for a background run with a parent, its outbox row."""
        run_id = lease.run_id
        with self._change():
            run = self._fence(lease)
            attempt = self._attempt_of(lease, attempt_id)
            if attempt.state in ATTEMPT_TERMINAL:
                raise IllegalTransition("attempt", attempt_id, attempt.state, "given a result")
            body = _body(result)
            task = self._task_of(lease, attempt.task_id)
            stored = self.put_artifact(
                run_id, f"{task.key}/result.json", body, task_id=task.id, media_type="application/json"
            )
            if attempt.result_id is not None:
                before = self.load_result(attempt.result_id)
                if before.body == stored:
                    return before
            parts = {
                name: self.put_artifact(
                    run_id, f"{task.key}/{name}", content.encode("utf-8", "replace"), task_id=task.id
                )
                for name, content in result.artifacts.items()
            }
            result_id = new_id("res")
            row = self._one(
                "INSERT INTO result (id, run_id, task_id, attempt_id, error, flags, artifacts, body,"
                " created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING *",
                (
                    result_id,
                    run_id,
                    task.id,
                    attempt_id,
                    None if result.error is None else text(result.error),
                    dump(result.flags),
                    dump({name: ref_values(ref) for name, ref in parts.items()}),
                    dump(ref_values(stored)),
                    time.time(),
                ),
            )
            self._execute(
                "UPDATE attempt SET result_id = ?, last_activity_at = ? WHERE id = ?",
                (result_id, time.time(), attempt_id),
            )
            self._append(
                run_id,
                lease.epoch,
                "result.accepted",
                actor,
                task_id=task.id,
                attempt_id=attempt_id,
                data={"result_id": result_id, "flags": list(result.flags)},
            )
            self._owe(run, run_id, task_id=task.id, result_id=result_id)
            return _result(row, body)

    def add_section(
        self, lease: Lease, attempt_id: str, label: str, value: Any, *, adds: bool, actor: str
    ) -> SectionRecord:
        """Keep a part of a result that is not handed in yet."""
        with self._change():
            self._fence(lease)
            attempt = self._attempt_of(lease, attempt_id)
            if attempt.state in ATTEMPT_TERMINAL:
                raise IllegalTransition("attempt", attempt_id, attempt.state, "given a part of a result")
            task = self._task_of(lease, attempt.task_id)
            stored = self.put_artifact(
                lease.run_id,
                f"{task.key}/section-{label}.json",
                _json(value),
                task_id=task.id,
                media_type="application/json",
            )
            row = self._one(
                "INSERT INTO section (attempt_id, label, adds, body, created_at) VALUES (?, ?, ?, ?, ?)"
                " RETURNING *",
                (attempt_id, text(label), adds, dump(ref_values(stored)), time.time()),
            )
            self._append(
                lease.run_id,
                lease.epoch,
                "result.section",
                actor,
                task_id=task.id,
                attempt_id=attempt_id,
                data={"label": text(label), "artifact": stored.sha256, "size": stored.size},
            )
            return self._section(row)

    def list_sections(self, attempt_id: str) -> list[SectionRecord]:
        """The parts that an attempt handed in, in their order."""
        rows = self._all("SELECT * FROM section WHERE attempt_id = ? ORDER BY n", (attempt_id,))
        return [self._section(row) for row in rows]

    def load_result(self, result_id: str) -> ResultRecord:
        """One result. Raises `UnknownName`."""
        row = self._row_of("result", result_id)
        if row is None:
            raise self._unknown("result", result_id)
        return self._read(row)

    def list_results(self, run_id: str) -> list[ResultRecord]:
        """The results of a run in the order of its tasks; only the newest of each task."""
        rows = self._all(
            "SELECT result.* FROM result JOIN task ON task.id = result.task_id WHERE result.n IN"
            " (SELECT max(n) FROM result WHERE run_id = ? GROUP BY task_id) ORDER BY task.position",
            (run_id,),
        )
        return [self._read(row) for row in rows]

    def _section(self, row: sqlite3.Row) -> SectionRecord:
        return SectionRecord(
            attempt_id=row["attempt_id"],
            label=row["label"],
            adds=bool(row["adds"]),
            body=artifact_ref(load(row["body"])),
            created_at=row["created_at"],
        )

    def _read(self, row: sqlite3.Row) -> ResultRecord:
        return _result(row, self._body(artifact_ref(load(row["body"])).sha256))


def _result(row: sqlite3.Row, body: bytes) -> ResultRecord:
    content: Mapping[str, Any] = load(body)
    parts: Mapping[str, list[Any]] = load(row["artifacts"])
    return ResultRecord(
        id=row["id"],
        run_id=row["run_id"],
        task_id=row["task_id"],
        attempt_id=row["attempt_id"],
        summary=content["summary"],
        data=content["data"],
        artifacts={name: artifact_ref(values) for name, values in parts.items()},
        error=row["error"],
        flags=tuple(load(row["flags"])),
        body=artifact_ref(load(row["body"])),
        created_at=row["created_at"],
    )


def _body(result: NewResult) -> bytes:
    """The whole result as JSON, for people to read."""
    whole = {
        "summary": result.summary,
        "data": result.data,
        "artifacts": dict(result.artifacts),
        "error": result.error,
        "flags": list(result.flags),
    }
    return _json(whole)


def _json(value: Any) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False, indent=2).encode("utf-8")
    except UnicodeEncodeError:
        # Half a surrogate pair: escaped, it is kept as it was submitted.
        return json.dumps(value, indent=2).encode("ascii")
