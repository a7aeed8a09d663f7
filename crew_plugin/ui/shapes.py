"""The stable shapes in which records stand in JSON."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from crew_plugin.models.causes import Cause
from crew_plugin.models.mail import MailFinding, MessageRecord
from crew_plugin.models.questions import QuestionRecord
from crew_plugin.models.records import (
    ArtifactRef,
    AttemptRecord,
    DeadLetter,
    EventRecord,
    ImportRecord,
    Usage,
)

__all__ = [
    "TaskName",
    "artifact_json",
    "attempt_json",
    "cause_json",
    "dead_letter_json",
    "event_json",
    "finding_json",
    "import_json",
    "mail_json",
    "question_json",
    "usage_json",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskName:
    """What people call a task."""

    key: str
    agent: str


def question_json(question: QuestionRecord) -> dict[str, Any]:
    """A question to people, and what became of it."""
    return {
        "id": question.id,
        "run_id": question.run_id,
        "task": question.key,
        "question": question.text,
        "choices": list(question.choices),
        "default": question.default,
        "state": str(question.state),
        "answer": question.answer,
        "by": question.by,
        "reason": question.reason,
        "asked_at": question.asked_at,
        "expires_at": question.expires_at,
        "closed_at": question.closed_at,
    }


def dead_letter_json(letter: DeadLetter) -> dict[str, Any]:
    """A task that was given up, and what became of that."""
    return {
        "id": letter.id,
        "run_id": letter.run_id,
        "task": letter.key,
        "attempt_id": letter.attempt_id,
        "attempts": letter.attempts,
        "reason": str(letter.reason),
        "cause": cause_json(letter.cause),
        "state": str(letter.state),
        "created_at": letter.created_at,
        "closed_at": letter.closed_at,
        "by": letter.closed_by,
        "note": letter.note,
    }


def import_json(about: ImportRecord) -> dict[str, Any]:
    """Where an imported run comes from."""
    return {**asdict(about), "state": str(about.state)}


def attempt_json(attempt: AttemptRecord) -> dict[str, Any]:
    """One attempt of a task."""
    return {
        "id": attempt.id,
        "number": attempt.number,
        "state": str(attempt.state),
        "cause": cause_json(attempt.cause),
        "kind": str(attempt.kind),
        "model_asked": attempt.model_asked,
        "model_used": attempt.model_used,
        "usage": usage_json(attempt.usage),
        "started_at": attempt.started_at,
        "ended_at": attempt.ended_at,
    }


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
        "expires_at": message.expires_at,
    }


def finding_json(finding: MailFinding) -> dict[str, Any]:
    """A message that could not move any more, and what becomes of it, as a JSON object."""
    message = finding.message
    return {
        "message_id": message.id,
        "from": message.sender,
        "to": message.recipient,
        "was": str(message.state),
        "becomes": str(finding.becomes),
        "wrong": finding.wrong,
    }


def usage_json(usage: Usage) -> dict[str, Any]:
    """Tokens and model calls."""
    return {
        "input": usage.input,
        "output": usage.output,
        "cached": usage.cached,
        "calls": usage.calls,
        "cost": usage.cost,
    }


def artifact_json(ref: ArtifactRef) -> dict[str, Any]:
    """Where a body is."""
    return {
        "name": ref.name,
        "sha256": ref.sha256,
        "size": ref.size,
        "media_type": ref.media_type,
        "removed": ref.removed,
    }


def event_json(event: EventRecord, names: Mapping[str, TaskName]) -> dict[str, Any]:
    """One event; `task` is the task's key."""
    name = names.get(event.task_id) if event.task_id else None
    return {
        "seq": event.seq,
        "run_id": event.run_id,
        "at": event.at,
        "epoch": event.epoch,
        "type": event.type,
        "actor": event.actor,
        "task_id": event.task_id,
        "task": name.key if name else None,
        "attempt_id": event.attempt_id,
        "cause": cause_json(event.cause),
        "data": dict(event.data),
    }


def cause_json(cause: Cause | None) -> dict[str, Any] | None:
    """Why something ended; None where nothing is said."""
    if cause is None:
        return None
    return {"code": str(cause.code), "message": cause.message, "detail": cause.detail}
