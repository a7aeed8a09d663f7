"""What became of something that was said to an agent, in words."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from crew_plugin.models.records import MessageKind, MessageRecord, MessageState, Receipt, ReceiptOutcome
from crew_plugin.ui.text import one_line, printable

__all__ = ["mail_json", "mail_text", "receipt_text"]

_SAID: Final[Mapping[ReceiptOutcome, str]] = {
    ReceiptOutcome.INJECTED: "injected; it sees this at its next step",
    ReceiptOutcome.QUEUED: "queued",
    ReceiptOutcome.WOKEN: "woken; its session had ended and is opened again to read this",
    ReceiptOutcome.MISSED: "missed; its session was just ending",
    ReceiptOutcome.FAILED: "failed",
}
_STATES: Final[Mapping[MessageState, str]] = {
    MessageState.ACCEPTED: "waiting",
    MessageState.DELIVERED: "delivered",
    MessageState.READ: "read",
    MessageState.EXPIRED: "expired",
    MessageState.DEAD: "not delivered",
}
_SHOWN: Final = 500


def receipt_text(receipt: Receipt) -> str:
    """One line: to whom, what became of it, and why."""
    reason = f": {printable(receipt.reason)}" if receipt.reason else ""
    return f"{receipt.to}: {_SAID[receipt.outcome]}{reason}"


def mail_text(messages: Sequence[MessageRecord]) -> str:
    """The mail of a run, oldest first, each with where it stands."""
    lines: list[str] = []
    for message in messages:
        kind = "" if message.kind is MessageKind.MESSAGE else f" ({message.kind})"
        state = _STATES[message.state] + (f": {message.reason}" if message.reason else "")
        lines.append(f"{message.id} {message.sender} -> {message.recipient}{kind}: {printable(state)}")
        lines.append(f"    {one_line(message.body, _SHOWN)}")
    return "\n".join(lines) or "no mail was sent in this run"


def mail_json(message: MessageRecord) -> dict[str, Any]:
    """One message as a JSON object."""
    return {
        "id": message.id,
        "from": message.sender,
        "to": message.recipient,
        "kind": str(message.kind),
        "state": str(message.state),
        "reason": message.reason,
        "text": message.body,
        "reply_to": message.reply_to,
        "created_at": message.created_at,
        "delivered_at": message.delivered_at,
    }
