"""Mail between parent, operator and tasks, and what other processes ask of a supervisor."""

import sqlite3
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from crew_plugin.errors import IllegalTransition
from crew_plugin.models.clock import steady_time
from crew_plugin.models.ids import new_id
from crew_plugin.models.mail import OUTSIDE, MessageKind, MessageRecord, MessageState, ReceiptOutcome
from crew_plugin.models.records import ControlRecord, ControlState, ControlVerb, Lease
from crew_plugin.models.states import RUN_TERMINAL, RunState
from crew_plugin.store.rows import dump, load, text
from crew_plugin.store.runs import Runs

__all__ = ["Mail"]

_SETTLED = frozenset({MessageState.READ, MessageState.EXPIRED, MessageState.DEAD})


class Mail(Runs):
    """Messages and control requests. Their writers hold no lease."""

    def send_message(
        self,
        run_id: str,
        *,
        sender: str,
        recipient: str,
        kind: MessageKind,
        body: str,
        hops: int = 0,
        reply_to: str | None = None,
        expires_at: float | None = None,
    ) -> MessageRecord:
        """Accept a message for delivery. One to a session of a run that has ended is dead at once."""
        message_id = new_id("msg")
        with self._change():
            run = self._run_row(run_id)
            self._execute(
                "INSERT INTO message (id, run_id, sender, recipient, kind, body, state, hops, reply_to,"
                " created_at, expires_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    message_id,
                    run_id,
                    sender,
                    recipient,
                    kind,
                    text(body),
                    MessageState.ACCEPTED,
                    hops,
                    reply_to,
                    time.time(),
                    expires_at,
                ),
            )
            dead = RunState(run["state"]) in RUN_TERMINAL and recipient not in OUTSIDE
            self._append(
                run_id,
                run["epoch"],
                "message.sent",
                sender,
                data={
                    "message_id": message_id,
                    "to": recipient,
                    "kind": kind,
                    "outcome": "failed" if dead else "accepted",
                },
            )
            if dead:
                self._kill_message(run_id, run["epoch"], message_id, f"the run is {run['state']}")
            return _message(self._message_row(message_id))

    def take_messages(
        self,
        run_id: str,
        recipient: str,
        *,
        without: Sequence[MessageKind] = (),
        only: str | None = None,
    ) -> list[MessageRecord]:
        """The messages for this recipient that are still `accepted`, oldest first; they become
        `delivered`, and those whose time has passed `expired`. Kinds in `without` are left, and with
        `only` every other message."""
        with self._change():
            self._expire(run_id, recipient)
            left = ", ".join("?" * len(without))
            rows = self._all(
                "SELECT id FROM message WHERE run_id = ? AND recipient = ? AND state = ?"
                f" AND kind NOT IN ({left}) AND id = coalesce(?, id) ORDER BY n",
                (run_id, recipient, MessageState.ACCEPTED, *without, only),
            )
            if not rows:
                return []
            epoch = self._run_row(run_id)["epoch"]
            taken: list[MessageRecord] = []
            for row in rows:
                self._execute(
                    "UPDATE message SET state = ?, delivered_at = ? WHERE id = ?",
                    (MessageState.DELIVERED, time.time(), row["id"]),
                )
                self._append(run_id, epoch, "message.delivered", recipient, data={"message_id": row["id"]})
                taken.append(_message(self._message_row(row["id"])))
            return taken

    def return_messages(self, lease: Lease, recipient: str, *, kept: Collection[str] = ()) -> None:
        """Mail that a lost session was given and that is not among those it `kept` was not delivered
        after all: whoever comes next takes it."""
        with self._change():
            self._fence(lease)
            self._return_mail(lease, recipient, kept)

    def replay_message(self, message_id: str, *, actor: str) -> MessageRecord:
        """A message that was delivered and never read is `accepted` again."""
        with self._change():
            row = self._message_row(message_id)
            current = MessageState(row["state"])
            if current in _SETTLED:
                raise IllegalTransition("message", row["id"], current, "given again")
            if current is MessageState.DELIVERED:
                self._execute(
                    "UPDATE message SET state = ?, delivered_at = NULL WHERE id = ?",
                    (MessageState.ACCEPTED, row["id"]),
                )
                epoch = self._run_row(row["run_id"])["epoch"]
                self._append(row["run_id"], epoch, "message.returned", actor, data={"message_id": row["id"]})
            return _message(self._message_row(row["id"]))

    def acknowledge_message(self, message_id: str, *, actor: str) -> MessageRecord:
        """Somebody says that a message is settled: it is `read`, and nobody is given it."""
        with self._change():
            row = self._message_row(message_id)
            current = MessageState(row["state"])
            if current in (MessageState.EXPIRED, MessageState.DEAD):
                raise IllegalTransition("message", row["id"], current, "acknowledged")
            if current is not MessageState.READ:
                self._execute("UPDATE message SET state = ? WHERE id = ?", (MessageState.READ, row["id"]))
                epoch = self._run_row(row["run_id"])["epoch"]
                data = {"message_id": row["id"]}
                self._append(row["run_id"], epoch, "message.acknowledged", actor, data=data)
            return _message(self._message_row(row["id"]))

    def _expire(self, run_id: str, recipient: str) -> None:
        """Mail that nobody took in its time is not given to anybody any more."""
        rows = self._all(
            "SELECT id FROM message WHERE run_id = ? AND recipient = ? AND state = ? AND expires_at <= ?",
            (run_id, recipient, MessageState.ACCEPTED, steady_time()),
        )
        for row in rows:
            self.settle_message(row["id"], MessageState.EXPIRED, reason="nobody read it in its time")

    def settle_message(self, message_id: str, state: MessageState, *, reason: str | None = None) -> None:
        """Note that a message was read, expired or is dead."""
        with self._change():
            row = self._message_row(message_id)
            current = MessageState(row["state"])
            if current == state:
                return
            if current in _SETTLED or state not in _SETTLED:
                raise IllegalTransition("message", message_id, current, state)
            self._execute(
                "UPDATE message SET state = ?, reason = ? WHERE id = ?", (state, reason, message_id)
            )
            run_id, recipient = row["run_id"], row["recipient"]
            epoch = self._run_row(run_id)["epoch"]
            if state != MessageState.READ:
                failed = {"message_id": message_id, "reason": reason or state}
                self._append(run_id, epoch, "message.failed", recipient, data=failed)
            elif current == MessageState.ACCEPTED:
                # Read without having been taken first: then it was delivered just now.
                self._append(run_id, epoch, "message.delivered", recipient, data={"message_id": message_id})

    def load_message(self, message_id: str) -> MessageRecord:
        """One message as it stands."""
        return _message(self._message_row(message_id))

    def list_messages(self, run_id: str, *, unread_by: str | None = None) -> list[MessageRecord]:
        """All mail of a run, or what this recipient has not read of it, oldest first."""
        if unread_by is None:
            rows = self._all("SELECT * FROM message WHERE run_id = ? ORDER BY n", (run_id,))
        else:
            rows = self._all(
                "SELECT * FROM message WHERE run_id = ? AND recipient = ? AND state IN (?, ?) ORDER BY n",
                (run_id, unread_by, MessageState.ACCEPTED, MessageState.DELIVERED),
            )
        return [_message(row) for row in rows]

    def request_control(
        self,
        run_id: str,
        verb: ControlVerb,
        *,
        actor: str,
        task_id: str | None = None,
        payload: Mapping[str, Any] | None = None,
        message_id: str | None = None,
    ) -> ControlRecord:
        """Ask the run's supervisor for something. A run that has ended raises `IllegalTransition`."""
        control_id = new_id("ctl")
        with self._change():
            run = self._run_row(run_id)
            if RunState(run["state"]) in RUN_TERMINAL:
                raise IllegalTransition("run", run_id, run["state"], f"asked to {verb}")
            self._execute(
                "INSERT INTO control (id, run_id, task_id, verb, payload, message_id, actor, state,"
                " created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    control_id,
                    run_id,
                    task_id,
                    verb,
                    dump(dict(payload or {})),
                    message_id,
                    text(actor),
                    ControlState.PENDING,
                    time.time(),
                ),
            )
            self._append(
                run_id,
                run["epoch"],
                "control.requested",
                actor,
                task_id=task_id,
                data={
                    "verb": verb,
                    "control_id": control_id,
                    "force": bool(payload and payload.get("force")),
                    **_of_message(message_id),
                },
            )
            return _control(self._control_row(control_id))

    def pending_controls(self, run_id: str) -> list[ControlRecord]:
        """Requests not answered yet, oldest first."""
        rows = self._all(
            "SELECT * FROM control WHERE run_id = ? AND state = ? ORDER BY n", (run_id, ControlState.PENDING)
        )
        return [_control(row) for row in rows]

    def load_control(self, control_id: str) -> ControlRecord:
        """One request as it stands."""
        return _control(self._control_row(control_id))

    def answer_control(
        self,
        lease: Lease,
        control_id: str,
        *,
        refused: str | None,
        actor: str,
        outcome: ReceiptOutcome | None = None,
        note: str | None = None,
    ) -> None:
        """Note that a request was carried out, or refused with the reason."""
        state = ControlState.APPLIED if refused is None else ControlState.REFUSED
        answer = note if refused is None else refused
        with self._change():
            self._fence(lease)
            row = self._control_row(control_id)
            if row["state"] == state:
                return
            if row["run_id"] != lease.run_id or row["state"] != ControlState.PENDING:
                raise IllegalTransition("control request", control_id, row["state"], state)
            self._execute(
                "UPDATE control SET state = ?, outcome = ?, answer = ?, answered_at = ? WHERE id = ?",
                (state, outcome, None if answer is None else text(answer), time.time(), control_id),
            )
            data = {"verb": row["verb"], "control_id": control_id, **_of_message(row["message_id"])}
            if outcome is not None:
                data["outcome"] = outcome
            if answer is not None:
                data["reason"] = answer
            self._append(
                lease.run_id,
                lease.epoch,
                "control.applied" if refused is None else "control.refused",
                actor,
                task_id=row["task_id"],
                data=data,
            )

    def _message_row(self, message_id: str) -> sqlite3.Row:
        row = self._first("SELECT * FROM message WHERE id = ?", (message_id,))
        if row is None:
            raise self._unknown("message", message_id)
        return row

    def _control_row(self, control_id: str) -> sqlite3.Row:
        row = self._first("SELECT * FROM control WHERE id = ?", (control_id,))
        if row is None:
            raise self._unknown("control request", control_id, table="control")
        return row


def _message(row: sqlite3.Row) -> MessageRecord:
    return MessageRecord(
        id=row["id"],
        run_id=row["run_id"],
        sender=row["sender"],
        recipient=row["recipient"],
        kind=MessageKind(row["kind"]),
        body=row["body"],
        state=MessageState(row["state"]),
        hops=row["hops"],
        reply_to=row["reply_to"],
        reason=row["reason"],
        created_at=row["created_at"],
        delivered_at=row["delivered_at"],
        expires_at=row["expires_at"],
    )


def _of_message(message_id: str | None) -> dict[str, Any]:
    return {} if message_id is None else {"message_id": message_id}


def _control(row: sqlite3.Row) -> ControlRecord:
    return ControlRecord(
        id=row["id"],
        run_id=row["run_id"],
        task_id=row["task_id"],
        verb=ControlVerb(row["verb"]),
        payload=load(row["payload"]),
        actor=row["actor"],
        state=ControlState(row["state"]),
        answer=row["answer"],
        message_id=row["message_id"],
        outcome=None if row["outcome"] is None else ReceiptOutcome(row["outcome"]),
        created_at=row["created_at"],
        answered_at=row["answered_at"],
    )
