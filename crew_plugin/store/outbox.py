"""What is owed to the sessions that asked for runs, until it stands on their saved record."""

import sqlite3
import time
from collections.abc import Mapping, Sequence
from typing import Any

from crew_plugin.errors import CrewError
from crew_plugin.models.ids import new_id
from crew_plugin.models.records import DeliveryRecord, DeliveryState, ParentRef
from crew_plugin.store.connection import Value
from crew_plugin.store.log import EventLog
from crew_plugin.store.rows import load, parent_of

__all__ = ["Outbox"]


class Outbox(EventLog):
    """Rows are added in the transaction of the result or the run's end that they announce."""

    def list_deliveries(
        self,
        *,
        parent: ParentRef | None = None,
        run_id: str | None = None,
        states: Sequence[DeliveryState] = (),
        newest: int | None = None,
    ) -> list[DeliveryRecord]:
        """Outbox rows, oldest first; with `newest`, which goes with `states` alone, so many of the newest."""
        if newest is not None:
            return [_record(row) for row in self._newest("outbox", "", (), states, newest)[::-1]]
        where: list[str] = []
        values: list[Value] = []
        if parent is not None:
            where.append("parent_host = ? AND parent_session = ?")
            values += [parent.host, parent.session]
        if run_id is not None:
            where.append("run_id = ?")
            values.append(run_id)
        if states:
            where.append(f"state IN ({', '.join('?' * len(states))})")
            values += states
        condition = f"WHERE {' AND '.join(where)} " if where else ""
        rows = self._all(f"SELECT * FROM outbox {condition}ORDER BY n", tuple(values))
        return [_record(row) for row in rows]

    def mark_sent(self, delivery_ids: Sequence[str], *, actor: str, parcel: str | None = None) -> None:
        """Note that these were handed over (again), as one message that names `parcel`, else the last
        of them. What was acknowledged stays so."""
        with self._change():
            for row in self._open_deliveries(delivery_ids):
                named = parcel or delivery_ids[-1]
                self._execute(
                    "UPDATE outbox SET state = ?, sends = sends + 1, sent_at = ?, parcel = ? WHERE id = ?",
                    (DeliveryState.SENT, time.time(), named, row["id"]),
                )
                results = [row["result_id"]] if row["result_id"] else []
                data = {"delivery_id": row["id"], "results": results, "parcel": named}
                self._tell(row, "delivery.sent", actor, data)

    def acknowledge(self, delivery_ids: Sequence[str], *, actor: str) -> None:
        """Note that these stand on the parent's saved record."""
        with self._change():
            for row in self._open_deliveries(delivery_ids):
                self._execute(
                    "UPDATE outbox SET state = ?, acknowledged_at = ? WHERE id = ?",
                    (DeliveryState.ACKNOWLEDGED, time.time(), row["id"]),
                )
                self._tell(row, "delivery.acknowledged", actor, {"delivery_id": row["id"]})

    def expire_deliveries(self, delivery_ids: Sequence[str], *, actor: str) -> None:
        """Note that these were given up because they are too old. Acknowledged ones stay so."""
        with self._change():
            for row in self._open_deliveries(delivery_ids):
                if row["state"] != DeliveryState.EXPIRED:
                    self._execute(
                        "UPDATE outbox SET state = ? WHERE id = ?", (DeliveryState.EXPIRED, row["id"])
                    )
                    self._tell(row, "delivery.expired", actor, {"delivery_id": row["id"]})

    def claim_notice(self, run_id: str, about: str, *, how: str, actor: str) -> bool:
        """Note, once, that whoever asks is going to tell a person of this. False if somebody did."""
        with self._change():
            epoch = self._run_row(run_id)["epoch"]
            given = self._all("SELECT data FROM event WHERE run_id = ? AND type = 'notice.given'", (run_id,))
            if any(load(row["data"])["about"] == about for row in given):
                return False
            self._append(run_id, epoch, "notice.given", actor, data={"about": about, "how": how})
            return True

    def _owe(
        self, run: sqlite3.Row, run_id: str, *, task_id: str | None = None, result_id: str | None = None
    ) -> None:
        """Add a row for a background run with a parent. A result that replaces one of the same
        task which was not handed over yet takes its row."""
        if not run["background"] or run["parent_host"] is None:
            return
        if task_id is not None:
            replaced = self._execute(
                "UPDATE outbox SET result_id = ? WHERE run_id = ? AND task_id = ? AND state = ?",
                (result_id, run_id, task_id, DeliveryState.PENDING),
            )
            if replaced.rowcount:
                return
        self._execute(
            "INSERT INTO outbox (id, run_id, task_id, result_id, parent_host, parent_session,"
            " parent_route, state, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                new_id("delivery"),
                run_id,
                task_id,
                result_id,
                run["parent_host"],
                run["parent_session"],
                run["parent_route"],
                DeliveryState.PENDING,
                time.time(),
            ),
        )

    def _open_deliveries(self, delivery_ids: Sequence[str]) -> list[sqlite3.Row]:
        """The rows of these that were not acknowledged."""
        rows: list[sqlite3.Row] = []
        for delivery_id in delivery_ids:
            row = self._first("SELECT * FROM outbox WHERE id = ?", (delivery_id,))
            if row is None:
                raise self._unknown("delivery", delivery_id, table="outbox")
            if row["state"] != DeliveryState.ACKNOWLEDGED:
                rows.append(row)
        return rows

    def _tell(self, row: sqlite3.Row, kind: str, actor: str, data: Mapping[str, Any]) -> None:
        epoch = self._run_row(row["run_id"])["epoch"]
        self._append(row["run_id"], epoch, kind, actor, task_id=row["task_id"], data=data)


def _record(row: sqlite3.Row) -> DeliveryRecord:
    parent = parent_of(row)
    if parent is None:
        raise CrewError(f"delivery {row['id']} has no parent")
    return DeliveryRecord(
        id=row["id"],
        run_id=row["run_id"],
        task_id=row["task_id"],
        result_id=row["result_id"],
        parent=parent,
        state=DeliveryState(row["state"]),
        sends=row["sends"],
        created_at=row["created_at"],
        sent_at=row["sent_at"],
        acknowledged_at=row["acknowledged_at"],
        parcel=row["parcel"],
    )
