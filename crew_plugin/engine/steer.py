"""Telling one agent something from wherever one is, stopping its turn, and resizing a run.

What is said is written down as mail before anything else, together with the request to hand it
over. Needs a store and nothing else, so that a command without an event loop can use it too.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from crew_plugin.engine.cancel import is_foreign, whose
from crew_plugin.errors import InvalidValue
from crew_plugin.models.causes import CauseCode
from crew_plugin.models.mail import MessageKind, Receipt, ReceiptOutcome
from crew_plugin.models.records import ControlRecord, ControlState, ControlVerb, Owner, ParentRef, RunRecord
from crew_plugin.models.states import RUN_TERMINAL, RunState
from crew_plugin.store.liveness import owner_alive
from crew_plugin.store.port import RunStore

__all__ = [
    "MESSAGE_BYTES",
    "Order",
    "Say",
    "SteerReport",
    "ask",
    "receipt_of",
    "sender_of",
    "silence",
]

MESSAGE_BYTES = 64_000
"""Longer texts are refused: the essence, and where the rest is, does more."""
MAX_WIDTH = 1024


class Say(StrEnum):
    """How one agent is to be told something, or its run changed."""

    STEER = "steer"
    """At its next model call."""
    FOLLOW_UP = "follow_up"
    """When the turn that it is in has ended."""
    INTERRUPT = "interrupt"
    """At once: the turn that it is in is stopped, and it goes on with this."""
    RESIZE = "resize"
    """The run has another number of sessions open at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Who wants what of whom."""

    run_id: str
    say: Say
    actor: str
    task: str | None = None
    """The task's key; None where the run is meant."""
    text: str = ""
    width: int | None = None
    force: bool = False
    caller: ParentRef | None = None
    """The host session that asks, where it is one."""

    def payload(self) -> Mapping[str, Any]:
        """What is written down of it beside the message."""
        if self.say is Say.RESIZE:
            return {"width": self.width, "force": self.force}
        if self.say is Say.INTERRUPT:
            code, message = CauseCode.CALLER_CANCELLED, f"{sender_of(self.actor)} stopped the turn"
            return {"code": code, "message": message, "text": self.text, "force": self.force}
        return {"force": self.force}


@dataclass(frozen=True, slots=True, kw_only=True)
class SteerReport:
    """What came of it, as a receipt, and under which ids it is found again."""

    run_id: str
    receipt: Receipt
    control_id: str | None = None
    message_id: str | None = None
    refused: bool = False
    """It was not carried out because of who asked, or because there was nothing to carry out."""

    @property
    def reached(self) -> bool:
        """Whether it was carried out, or is going to be."""
        failed = {ReceiptOutcome.FAILED, ReceiptOutcome.MISSED}
        return not self.refused and self.receipt.outcome not in failed

    def as_json(self) -> dict[str, Any]:
        """The report as a JSON object."""
        return {
            "run_id": self.run_id,
            "to": self.receipt.to,
            "outcome": str(self.receipt.outcome),
            "reason": self.receipt.reason,
            "message_id": self.message_id,
            "control_id": self.control_id,
        }


def sender_of(actor: str) -> str:
    """How the mail of this actor is signed: a person, or the session that asked for the run."""
    return "parent" if actor.startswith("session:") else "operator"


def ask(store: RunStore, order: Order, me: Owner) -> SteerReport | ControlRecord:
    """In one transaction: why it cannot be done, or the request that the run's supervisor answers."""
    _check(order)
    with store.transaction():
        run = store.load_run(order.run_id)
        task = None if order.task is None else store.load_task(run.id, order.task)
        refused = _refusal(run, order, me)
        if refused is not None:
            to = run.id if task is None else task.key
            return SteerReport(run_id=run.id, receipt=_failed(to, refused), refused=True)
        message_id = None
        if task is not None and order.say in _KINDS and order.text.strip():
            kind = _KINDS[order.say]
            message_id = store.send_message(
                run.id, sender=sender_of(order.actor), recipient=task.key, kind=kind, body=order.text
            ).id
        return store.request_control(
            run.id,
            _VERBS[order.say],
            actor=order.actor,
            task_id=None if task is None else task.id,
            payload=order.payload(),
            message_id=message_id,
        )


def receipt_of(store: RunStore, order: Order, asked: ControlRecord) -> SteerReport | None:
    """What became of a request; None while nothing has."""
    control = store.load_control(asked.id)
    run = store.load_run(control.run_id)
    if control.state is ControlState.PENDING:
        if run.state in RUN_TERMINAL:
            return _report(order, control, _failed(_to(order), _over(run)))
        if run.owner is None and run.state is RunState.QUEUED:
            reason = "the run has not begun; it is done when it does"
            return _report(order, control, _queued(_to(order), reason))
        return None
    refused = control.state is ControlState.REFUSED
    outcome = control.outcome or (ReceiptOutcome.FAILED if refused else ReceiptOutcome.INJECTED)
    return _report(order, control, Receipt(to=_to(order), outcome=outcome, reason=control.answer or ""))


def silence(store: RunStore, order: Order, asked: ControlRecord) -> SteerReport:
    """What to say when the supervisor has not answered in time: it is written down and will be done."""
    run = store.load_run(asked.run_id)
    if run.owner is not None and not owner_alive(run.owner):
        return _report(order, asked, _failed(_to(order), _dead(run)))
    reason = "its supervisor has not answered yet; it is written down and done when it does"
    return _report(order, asked, _queued(_to(order), reason))


_KINDS: Mapping[Say, MessageKind] = {
    Say.STEER: MessageKind.STEER,
    Say.FOLLOW_UP: MessageKind.FOLLOW_UP,
    Say.INTERRUPT: MessageKind.STEER,
}
"""As what the words of each are mail."""
_VERBS: Mapping[Say, ControlVerb] = {
    Say.STEER: ControlVerb.STEER,
    Say.FOLLOW_UP: ControlVerb.STEER,
    Say.INTERRUPT: ControlVerb.INTERRUPT,
    Say.RESIZE: ControlVerb.RESIZE,
}


def _check(order: Order) -> None:
    if order.say is Say.RESIZE:
        if order.width is None or not 1 <= order.width <= MAX_WIDTH:
            raise InvalidValue("width", order.width, f"a whole number from 1 to {MAX_WIDTH}")
        return
    if order.say is not Say.INTERRUPT and not order.text.strip():
        raise InvalidValue("message", order.text, "some text that says what the agent is to know or do")
    size = len(order.text.encode("utf-8", "replace"))
    if size > MESSAGE_BYTES:
        raise InvalidValue(
            "message",
            f"{size} bytes",
            f"at most {MESSAGE_BYTES} bytes; send the essence and say where the rest is",
        )


def _refusal(run: RunRecord, order: Order, me: Owner) -> str | None:
    if run.state in RUN_TERMINAL:
        return _over(run)
    if run.owner is not None and not owner_alive(run.owner):
        return _dead(run)
    if is_foreign(run, order.caller, me) and not order.force:
        return whose(run, "reach it")
    return None


def _over(run: RunRecord) -> str:
    return f"the run has ended ({run.state}); {_continue(run)}"


def _dead(run: RunRecord) -> str:
    pid = f" (process {run.owner.pid})" if run.owner else ""
    return f"its supervisor{pid} is gone; {_continue(run)}"


def _continue(run: RunRecord) -> str:
    return (
        f'to go on with one of its agents: crew_agent with resume="{run.id}"; by hand '
        f"`,crew resume {run.id}` in the chat or `crew resume {run.id}` in a terminal, with what it is to do"
    )


def _to(order: Order) -> str:
    return order.task or order.run_id


def _report(order: Order, control: ControlRecord, receipt: Receipt) -> SteerReport:
    return SteerReport(
        run_id=control.run_id, receipt=receipt, control_id=control.id, message_id=control.message_id
    )


def _failed(to: str, reason: str) -> Receipt:
    return Receipt(to=to, outcome=ReceiptOutcome.FAILED, reason=reason)


def _queued(to: str, reason: str) -> Receipt:
    return Receipt(to=to, outcome=ReceiptOutcome.QUEUED, reason=reason)
