"""The states of a run, a task and an attempt, and the only transitions between them.

Tests, documentation and diagrams are made from the tables in this module.
"""

from enum import StrEnum
from types import MappingProxyType
from typing import Final

__all__ = [
    "ATTEMPT_TERMINAL",
    "RUN_RETRYABLE",
    "RUN_TERMINAL",
    "RUN_TRANSITIONS",
    "TASK_RETRYABLE",
    "TASK_TERMINAL",
    "TASK_TRANSITIONS",
    "AttemptState",
    "RunState",
    "SessionKind",
    "TaskState",
]


class RunState(StrEnum):
    """Where a run stands."""

    QUEUED = "queued"
    """Written down; no supervisor has begun to work on it."""
    RUNNING = "running"
    """A supervisor holds its lease and works on it."""
    BLOCKED = "blocked"
    """Held by a decision that nobody has taken yet."""
    COMPLETED = "completed"
    """Every task that is not optional handed in an accepted result."""
    FAILED = "failed"
    """A task that is not optional failed or needs attention, or the run itself could not go on."""
    CANCELLED = "cancelled"
    """Somebody stopped it."""


RUN_TERMINAL: Final = frozenset({RunState.COMPLETED, RunState.FAILED, RunState.CANCELLED})

RUN_TRANSITIONS: Final = MappingProxyType(
    {
        RunState.QUEUED: frozenset({RunState.RUNNING, *RUN_TERMINAL}),
        RunState.RUNNING: frozenset({RunState.BLOCKED, *RUN_TERMINAL}),
        RunState.BLOCKED: frozenset({RunState.RUNNING, *RUN_TERMINAL}),
        RunState.COMPLETED: frozenset[RunState](),
        RunState.FAILED: frozenset[RunState](),
        RunState.CANCELLED: frozenset[RunState](),
    }
)


RUN_RETRYABLE: Final = frozenset({RunState.FAILED, RunState.CANCELLED})
"""Terminal states that an explicit retry may leave: the run is `queued` again under a new epoch."""


class TaskState(StrEnum):
    """Where one task of a run stands."""

    QUEUED = "queued"
    """Waiting for its dependencies or for a free slot."""
    RUNNING = "running"
    """An attempt is under way, or one ended and the next is due."""
    WAITING = "waiting"
    """Its session asked a question and keeps its place until the answer comes."""
    COMPLETED = "completed"
    """An accepted result record exists."""
    NEEDS_ATTENTION = "needs_attention"
    """Ended without an accepted result, with something worth a look: not a success."""
    FAILED = "failed"
    """Ended with a cause and without a result."""
    CANCELLED = "cancelled"
    """Stopped before it ended."""
    SKIPPED = "skipped"
    """Never started, because something it depends on gave it nothing to work with."""


TASK_TERMINAL: Final = frozenset(
    {
        TaskState.COMPLETED,
        TaskState.NEEDS_ATTENTION,
        TaskState.FAILED,
        TaskState.CANCELLED,
        TaskState.SKIPPED,
    }
)

TASK_TRANSITIONS: Final = MappingProxyType(
    {
        TaskState.QUEUED: frozenset({TaskState.RUNNING, TaskState.CANCELLED, TaskState.SKIPPED}),
        TaskState.RUNNING: frozenset(
            {
                TaskState.WAITING,
                TaskState.COMPLETED,
                TaskState.NEEDS_ATTENTION,
                TaskState.FAILED,
                TaskState.CANCELLED,
            }
        ),
        TaskState.WAITING: frozenset({TaskState.RUNNING, TaskState.FAILED, TaskState.CANCELLED}),
        TaskState.COMPLETED: frozenset[TaskState](),
        TaskState.NEEDS_ATTENTION: frozenset[TaskState](),
        TaskState.FAILED: frozenset[TaskState](),
        TaskState.CANCELLED: frozenset[TaskState](),
        TaskState.SKIPPED: frozenset[TaskState](),
    }
)

TASK_RETRYABLE: Final = frozenset({TaskState.FAILED, TaskState.NEEDS_ATTENTION, TaskState.CANCELLED})
"""Terminal states that an explicit retry may leave (it makes a new attempt)."""


class AttemptState(StrEnum):
    """Where one attempt of a task stands."""

    RUNNING = "running"
    """Its session is open."""
    WAITING = "waiting"
    """Its session asked a question."""
    COMPLETED = "completed"
    """Its result was accepted."""
    NEEDS_ATTENTION = "needs_attention"
    """It ended without an accepted result and left a last text."""
    FAILED = "failed"
    """It ended with a cause."""
    CANCELLED = "cancelled"
    """It was stopped."""
    LOST = "lost"
    """The process that worked on it died."""


ATTEMPT_TERMINAL: Final = frozenset(set(AttemptState) - {AttemptState.RUNNING, AttemptState.WAITING})


class SessionKind(StrEnum):
    """How a session is executed."""

    LIVE = "live"
    """Inside the host's process."""
    CHILD = "child"
    """In a process of its own."""
    SCAFFOLD = "scaffold"
    """Dry run: prompts are written, no model is asked."""
