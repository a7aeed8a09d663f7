"""Mail between the agents of a run, and with whoever started it."""

from dataclasses import dataclass
from enum import StrEnum

__all__ = [
    "OUTSIDE",
    "UNREAD",
    "MailFinding",
    "MessageKind",
    "MessageRecord",
    "MessageState",
    "Receipt",
    "ReceiptOutcome",
]


OUTSIDE = ("parent", "operator")
"""Whoever is no task of a run but sends and gets mail: they do not end with the run."""


class MessageKind(StrEnum):
    """What a message is for."""

    MESSAGE = "message"
    """Said by one to another."""
    STEER = "steer"
    """To be seen at the next model call."""
    FOLLOW_UP = "follow_up"
    """To be seen when the turn that is under way has ended."""
    RESPONSE = "response"
    """Answers a question of a waiting task."""
    RELAY = "relay"
    """What became of a woken session; wakes nobody."""


class ReceiptOutcome(StrEnum):
    """What became of a message to one recipient."""

    INJECTED = "injected"
    """A running session: its next model call sees it."""
    QUEUED = "queued"
    """It will be found: in the first prompt of a task that has not begun, or at the next turn."""
    WOKEN = "woken"
    """A session that had ended was opened again to read it."""
    MISSED = "missed"
    """It came too late: the session was ending."""
    FAILED = "failed"
    """It cannot be delivered; the reason says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What became of a message to one recipient."""

    to: str
    outcome: ReceiptOutcome
    reason: str = ""


class MessageState(StrEnum):
    """Where a message stands."""

    ACCEPTED = "accepted"
    """Written down."""
    DELIVERED = "delivered"
    """Handed to the session."""
    READ = "read"
    """Part of a model call."""
    EXPIRED = "expired"
    """Its deadline passed."""
    DEAD = "dead"
    """Cannot be delivered any more."""


UNREAD = (MessageState.ACCEPTED, MessageState.DELIVERED)
"""What somebody may still read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageRecord:
    """One piece of mail. `sender` and `recipient` are task keys, `parent` or `operator`."""

    id: str
    run_id: str
    sender: str
    recipient: str
    kind: MessageKind
    body: str
    state: MessageState
    hops: int
    reply_to: str | None
    reason: str | None
    created_at: float
    delivered_at: float | None
    expires_at: float | None = None
    """After this it is of no use to its recipient any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MailFinding:
    """A message that stands where it cannot move any more."""

    message: MessageRecord
    wrong: str
    becomes: MessageState
