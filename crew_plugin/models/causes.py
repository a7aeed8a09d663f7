"""Why something ended: a closed set of codes, each with a sentence for people."""

import traceback
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal, Self, get_args

__all__ = ["TRANSIENT", "Cause", "CauseCode", "TransientCause"]

TransientCause = Literal["model_error", "provider_timeout", "worker_timeout", "worker_lost"]
"""Failures that may pass: what failed once may succeed when it is tried again."""


class CauseCode(StrEnum):
    """Why a run, task or attempt ended, or why one waits."""

    CALLER_CANCELLED = "caller_cancelled"
    """The caller, a person or a model, cancelled it."""
    LEADER_INTERRUPTED = "leader_interrupted"
    """The turn that owned it was interrupted."""
    SHUTDOWN = "shutdown"
    """The process that owned it was asked to end."""
    SUPERVISOR_LOST = "supervisor_lost"
    """The process that owned it died."""
    WORKER_LOST = "worker_lost"
    """The process that the session lived in died."""
    PROVIDER_TIMEOUT = "provider_timeout"
    """The model provider did not answer in time."""
    WORKER_TIMEOUT = "worker_timeout"
    """The session did nothing for longer than its idle limit."""
    TOOL_TIMEOUT = "tool_timeout"
    """One tool call took longer than it may."""
    WALL_LIMIT = "wall_limit"
    """It reached its wall-clock limit."""
    TURN_LIMIT = "turn_limit"
    """The session worked longer without a pause than it may."""
    STEP_LIMIT = "step_limit"
    """The session reached its limit of model calls."""
    REQUEST_LIMIT = "request_limit"
    """The session used up its budget of requests to the model provider."""
    NO_PROGRESS = "no_progress"
    """The session went on without bringing anything new."""
    MODEL_ERROR = "model_error"
    """The model provider failed and trying again did not help."""
    CONTEXT_FULL = "context_full"
    """The conversation was too long for the model's context."""
    NO_RESULT = "no_result"
    """The session ended without calling submit_result, reminders notwithstanding."""
    RESULT_REJECTED = "result_rejected"
    """What the session submitted did not fit its schema (strict mode)."""
    EMPTY_SUBMITS = "empty_submits"
    """The session called submit_result with nothing in it, again and again."""
    SUBMIT_FAILURES = "submit_failures"
    """Six calls of submit_result in a row failed."""
    AGENT_ERROR = "agent_error"
    """The agent itself reported, through submit_result, that it could not do the task."""
    DEPENDENCY = "dependency"
    """A task it depends on left it nothing to work with."""
    TASK_FAILED = "task_failed"
    """A task of the run that is not optional failed or needs attention."""
    FAIL_FAST = "fail_fast"
    """Another task failed and the run stops at the first failure."""
    DISPATCH_CAP = "dispatch_cap"
    """It was started as often as it may be."""
    HOOK_BLOCKED = "hook_blocked"
    """A hook refused it."""
    IMPORTED = "imported"
    """It had not ended when its run was exported, and a run that was imported does not go on."""
    HELD = "held"
    """It waits for a decision."""
    DRY_RUN = "dry_run"
    """Prompts were written; no model was asked."""
    INTERNAL_ERROR = "internal_error"
    """A defect in the crew or in a plugin of it."""
    UNKNOWN = "unknown"
    """Nothing is known about it."""


_MOST_TRACEBACK: Final = 8000
"""Characters; the last calls tell the most."""

TRANSIENT: Final = frozenset(CauseCode(code) for code in get_args(TransientCause))
"""The same, as codes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """A code, one sentence, and where useful a longer detail (an error text, a traceback)."""

    code: CauseCode
    message: str
    detail: str | None = None

    @classmethod
    def of_defect(cls, what: str, error: BaseException) -> Self:
        """The cause of what ended by an error that nobody foresaw, with the end of its traceback."""
        return cls(
            code=CauseCode.INTERNAL_ERROR,
            message=f"{what}: {type(error).__name__}: {error}",
            detail="".join(traceback.format_exception(error))[-_MOST_TRACEBACK:],
        )

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"
