"""What a session asks whoever started it, or a person, and what became of that."""

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["NewQuestion", "QuestionRecord", "QuestionState", "told_to_session"]


class QuestionState(StrEnum):
    """Where a question stands."""

    OPEN = "open"
    """Its session waits for the answer."""
    ANSWERED = "answered"
    """Somebody answered."""
    EXPIRED = "expired"
    """Nobody answered in time."""
    WITHDRAWN = "withdrawn"
    """Its session does not wait any more: it was told something else, or ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewQuestion:
    """A question to be written down."""

    text: str
    choices: tuple[str, ...] = ()
    """The only answers there are; empty if any text will do."""
    default: str | None = None
    """What the session goes on with if nobody answers."""
    expires_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionRecord:
    """A question and what became of it."""

    id: str
    run_id: str
    task_id: str
    key: str
    """The key of its task."""
    attempt_id: str
    text: str
    choices: tuple[str, ...]
    default: str | None
    state: QuestionState
    answer: str | None
    by: str | None
    """Who answered."""
    reason: str | None
    """Why it was withdrawn."""
    asked_at: float
    expires_at: float
    closed_at: float | None


def told_to_session(question: QuestionRecord) -> str:
    """What the call that asked returns."""
    if question.state is QuestionState.ANSWERED:
        return f"The answer ({question.by}): {question.answer}"
    if question.state is QuestionState.WITHDRAWN:
        return (
            f"No answer: {question.reason}. You see it at this step; if you still need the answer after it, "
            "ask again."
        )
    going_on = (
        f"Go on with your default: {question.default}"
        if question.default is not None
        else "Take the most plausible reading, go on, and name the assumption in your summary."
    )
    return f"No answer: {question.reason}. {going_on}"
