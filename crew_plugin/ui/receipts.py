"""What became of something that was said to an agent, in words."""

from collections.abc import Mapping, Sequence
from typing import Final

from crew_plugin.models.mail import (
    OUTSIDE,
    MailFinding,
    MessageKind,
    MessageRecord,
    MessageState,
    Receipt,
    ReceiptOutcome,
)
from crew_plugin.ui.text import printable

__all__ = ["findings_text", "letters", "mail_text", "receipt_text"]

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
    MessageState.DEAD: "given up",
}


def receipt_text(receipt: Receipt) -> str:
    """One line: to whom, what became of it, and why."""
    reason = f": {printable(receipt.reason)}" if receipt.reason else ""
    return f"{receipt.to}: {_SAID[receipt.outcome]}{reason}"


def mail_text(messages: Sequence[MessageRecord]) -> str:
    """The mail of a run, oldest first, each with where it stands."""
    lines: list[str] = []
    for message in messages:
        kind = "" if message.kind is MessageKind.MESSAGE else f" ({message.kind})"
        lines.append(
            f"{message.id} {message.sender} -> {message.recipient}{kind}: {printable(_stands(message))}"
        )
        lines.extend(f"    {line}" for line in printable(message.body).splitlines())
    return "\n".join(lines) or "no mail"


def findings_text(findings: Sequence[MailFinding], *, done: bool) -> str:
    """What is wrong with mail, one line each, and what became or becomes of it."""
    if not findings:
        return "nothing is wrong with the mail of this run"
    becomes = "is now" if done else "would be"
    lines = [
        f"{each.message.id} {each.message.sender} -> {each.message.recipient}: {printable(each.wrong)}; "
        f"it was {_STATES[each.message.state]} and {becomes} {_STATES[each.becomes]}"
        for each in findings
    ]
    return "\n".join(lines)


def letters(messages: Sequence[MessageRecord]) -> list[str]:
    """What agents have written to whoever started their run, whole."""
    return [f"## {message.sender} wrote to you\n{printable(message.body)}" for message in messages]


def _stands(message: MessageRecord) -> str:
    if message.recipient in OUTSIDE and message.state is MessageState.ACCEPTED:
        return "shown with the results"
    return _STATES[message.state] + (f": {message.reason}" if message.reason else "")
