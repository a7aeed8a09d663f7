"""What the scheduler sees, and what it may answer: plain facts without a clock, a disk or a loop."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from crew_plugin.models.causes import TRANSIENT, Cause, CauseCode
from crew_plugin.models.records import GaveUp
from crew_plugin.models.states import AttemptState, RunState, TaskState

__all__ = [
    "AGAIN",
    "OVER",
    "RESOURCE",
    "Action",
    "Block",
    "Cancel",
    "Finish",
    "LastAttempt",
    "Retry",
    "RetryPolicy",
    "Sequel",
    "Skip",
    "Snapshot",
    "Start",
    "TaskView",
]


RESOURCE = "resource:"
"""What the tag of a resource begins with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """After which failures, and after what pause, an attempt is followed by another one without
    anybody asking for it. How many there may be is the task's own."""

    base: float = 2.0
    """Seconds before the second attempt."""
    factor: float = 2.0
    """What each further pause is longer by."""
    cap: float = 60.0
    """Seconds that a pause is at most."""
    jitter: float = 0.3
    """The part of a pause that is left to chance, so that many do not come back at once."""
    causes: frozenset[CauseCode] = TRANSIENT
    """Failures that may pass."""

    def pause(self, attempts: int, draw: float) -> float:
        """Seconds to wait after this many attempts. `draw`, from 0 to 1, is the chance in it: the same
        numbers always give the same pause."""
        whole = min(self.cap, self.base * self.factor ** min(max(0, attempts - 1), 32))
        return whole * (1.0 - self.jitter * draw)


@dataclass(frozen=True, slots=True, kw_only=True)
class LastAttempt:
    """How the newest attempt of a task ended."""

    state: AttemptState
    cause: Cause | None = None
    retryable: bool = False
    """A new attempt may succeed where it failed, and nothing is against one."""
    acted: bool = False
    """A new attempt may succeed, but its session did what cannot be repeated without thought."""


@dataclass(frozen=True, slots=True)
class Sequel:
    """What follows an attempt that brought no result."""

    again: bool = False
    """Another one."""
    gave_up: GaveUp | None = None
    """Nothing by itself, although the failure may pass: the task becomes a dead letter, for this."""


OVER = Sequel()
"""Nothing follows, and nothing was given up."""
AGAIN = Sequel(again=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskView:
    """One task as the scheduler sees it."""

    key: str
    state: TaskState = TaskState.QUEUED
    cause: Cause | None = None
    depends_on: tuple[str, ...] = ()
    optional: bool = False
    attention_pass: bool = False
    dispatches: int = 0
    max_dispatches: int = 3
    attempts: int = 0
    most_attempts: int = 2
    """How many there may be by themselves."""
    draw: float = 0.0
    """The chance in its next pause, from 0 to 1."""
    busy: bool = False
    """An attempt is open, or about to be opened."""
    stopping: bool = False
    """That attempt was told to stop and has not ended yet."""
    last: LastAttempt | None = None
    retry_at: float | None = None
    hold: str | None = None
    """Why it may not start until somebody decides."""
    resumes: bool = False
    """Its attempt is open without anybody working on it, and can go on where it was."""
    tags: frozenset[str] = frozenset()
    """`role:reviewer`, `agent:explorer`, `team:review`, `provider:openai`, `resource:db`: what limits
    by tag count."""
    ticket: int | None = None
    """Its place among all tasks of the process that wait for a resource; None if it does not."""
    ended_at: float | None = None
    stop: Cause | None = None
    """Somebody asked to stop this one task."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One run at one moment. `tasks` is read again each time, so it may have grown."""

    state: RunState
    tasks: tuple[TaskView, ...]
    width: int
    """Sessions of this run that may be open at once."""
    free_slots: int
    """Sessions that the process may open beyond those it has."""
    tag_limits: Mapping[str, int] = field(default_factory=dict[str, int])
    """How many sessions with a tag may be open at once. Resources that are not in it have room for
    one; other tags that are not in it have no limit."""
    used: Mapping[str, int] = field(default_factory=dict[str, int])
    """How many sessions of other runs of the process have a tag that is counted over all of them."""
    ahead: Mapping[str, int] = field(default_factory=dict[str, int])
    """For each resource, the lowest ticket of those in other runs that wait for it."""
    stop: Cause | None = None
    """Somebody asked to stop the run."""
    hold: str | None = None
    """Why nothing of the run may start until somebody decides."""
    fail_fast: bool = False
    deadline: float | None = None
    retry: RetryPolicy = RetryPolicy()


@dataclass(frozen=True, slots=True)
class Start:
    """Open an attempt of this task."""

    key: str


@dataclass(frozen=True, slots=True)
class Retry:
    """Note that the next attempt of this task is due at `at`."""

    key: str
    at: float


@dataclass(frozen=True, slots=True)
class Cancel:
    """End this task: its open attempt is told to stop, a task without one ends as `to`."""

    key: str
    cause: Cause
    to: TaskState = TaskState.CANCELLED
    gave_up: GaveUp | None = None
    """It becomes a dead letter, for this."""


@dataclass(frozen=True, slots=True)
class Skip:
    """This task has nothing to work with and never starts."""

    key: str
    cause: Cause


@dataclass(frozen=True, slots=True)
class Block:
    """Nothing can go on until somebody decides."""

    cause: Cause


@dataclass(frozen=True, slots=True)
class Finish:
    """Every task has ended: the run ends like this."""

    state: RunState
    cause: Cause | None = None


Action = Start | Retry | Cancel | Skip | Block | Finish
