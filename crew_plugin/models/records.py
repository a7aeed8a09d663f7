"""What the store hands out: frozen views of its rows.

Times are seconds since the epoch (UTC, float) and only for people: no decision compares the
clocks of two processes. Nothing here needs pydantic, so that light commands stay light.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from crew_plugin.models.causes import Cause
from crew_plugin.models.mail import ReceiptOutcome
from crew_plugin.models.states import AttemptState, RunState, SessionKind, TaskState

__all__ = [
    "TURN",
    "ArtifactRef",
    "AttemptRecord",
    "ControlRecord",
    "ControlState",
    "ControlVerb",
    "Counts",
    "DeadLetter",
    "DeadLetterState",
    "DeliveryRecord",
    "DeliveryState",
    "Effect",
    "EventRecord",
    "GaveUp",
    "ImportRecord",
    "Lease",
    "NewEvent",
    "NewResult",
    "NewRun",
    "NewTask",
    "Owner",
    "ParentRef",
    "PeerRecord",
    "ResultRecord",
    "RunRecord",
    "SectionRecord",
    "SessionRecord",
    "TaskRecord",
    "ToolCallRecord",
    "ToolCallState",
    "TranscriptEntry",
    "Usage",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens and model calls. `cost` is in US dollars, None where no price is known."""

    input: int = 0
    output: int = 0
    cached: int = 0
    calls: int = 0
    cost: float | None = None

    def __add__(self, other: "Usage") -> "Usage":
        parts = [part for part in (self, other) if part.calls or part.cost is not None]
        costs = [part.cost for part in parts if part.cost is not None]
        return Usage(
            input=self.input + other.input,
            output=self.output + other.output,
            cached=self.cached + other.cached,
            calls=self.calls + other.calls,
            # The price of a part is no price of the whole.
            cost=sum(costs) if costs and len(costs) == len(parts) else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What a session did and what went wrong in it, so far."""

    turns: int = 0
    """How often its model came to a stop."""
    tool_calls: int = 0
    tool_errors: int = 0
    retries: int = 0
    """Model calls that were made again after a failure."""
    model_errors: int = 0
    """Requests to its model that failed, whether they were made again or not."""
    recent: int = 0
    """How many of the last ten things that could fail, tool calls and model calls, are counted."""
    recent_errors: int = 0
    """How many of those failed."""
    compactions: int = 0
    context: int = 0
    """Tokens of the conversation at its last model call."""
    window: int = 0
    """Tokens that its model holds; 0 where nothing is known yet."""

    def __add__(self, later: "Counts") -> "Counts":
        """Both together; what tells how it stands now is the later one's."""
        return replace(
            later,
            turns=self.turns + later.turns,
            tool_calls=self.tool_calls + later.tool_calls,
            tool_errors=self.tool_errors + later.tool_errors,
            retries=self.retries + later.retries,
            model_errors=self.model_errors + later.model_errors,
            compactions=self.compactions + later.compactions,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactRef:
    """A stored body, addressed by the SHA-256 of its bytes."""

    sha256: str
    size: int
    name: str
    media_type: str = "text/plain"
    run_id: str | None = None
    task_id: str | None = None
    removed: str | None = None
    """Where the body is not kept any more: when and why it was deleted. Only listings say it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """A process, known by more than its pid."""

    pid: int
    started: float
    """When the process started, as the operating system tells it."""
    boot_id: str
    """Which boot of the machine this was; empty where the system has no such id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right to change one run. Every change is checked against `epoch` in its transaction."""

    run_id: str
    epoch: int
    owner: Owner


TURN = "turn"
"""Under this key of a parent's route stands the turn in which it asked. What is asked for in one turn
belongs together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentRef:
    """The host session that asked for a run, and where its result is to be delivered."""

    host: str
    session: str
    route: Mapping[str, str] = field(default_factory=dict[str, str])
    """What the host needs to reach that session again (Bub: channel, chat id, output channel)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTask:
    """One task as it is first written down."""

    key: str
    """The step's id; unique in its run. Dependencies name keys."""
    title: str
    role: str
    agent: str
    depends_on: tuple[str, ...] = ()
    optional: bool = False
    attention_pass: bool = False
    max_dispatches: int = 3
    spec: str = "{}"
    """The step as JSON (`models.spec.StepSpec`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRun:
    """One run as it is first written down."""

    goal: str
    team: str
    workflow: str
    cwd: str
    spec: str
    """The whole run as JSON (`models.spec.RunSpec`)."""
    background: bool = False
    parent: ParentRef | None = None
    wall_seconds: float | None = None
    runtime: SessionKind = SessionKind.LIVE
    runtime_note: str = ""
    """Why it is executed in another way than it was asked for; empty where it is not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """One run."""

    id: str
    goal: str
    team: str
    workflow: str
    cwd: str
    state: RunState
    cause: Cause | None
    spec: str
    background: bool
    parent: ParentRef | None
    epoch: int
    owner: Owner | None
    renewals: int
    """Counts up while its supervisor lives; a lease is expired when this stands still."""
    created_at: float
    started_at: float | None
    ended_at: float | None
    wall_seconds: float | None
    task_counts: Mapping[TaskState, int]
    runtime: SessionKind
    runtime_note: str
    """Why it is executed in another way than it was asked for; empty where it is not."""
    worked: float = 0.0
    """Seconds for which supervisors have driven it, by their own clocks."""
    imported: "ImportRecord | None" = None
    """Where it came from, if from another project: it can only be read then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportRecord:
    """Where a run came from that was no run of this project."""

    source: str
    """The name of the file."""
    digest: str
    """The SHA-256 of its rows, by which the same content is known again."""
    original_id: str
    """Its id where it came from."""
    state: RunState
    """Where it stood when it was exported."""
    made_by: str
    """The version of crew-plugin that exported it, as it says itself."""
    exported_at: float
    imported_at: float
    imported_by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerRecord:
    """As much of a task as the others of its run are told."""

    key: str
    role: str
    title: str
    state: TaskState
    ended_at: float | None = None
    attempts: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRecord:
    """One task."""

    id: str
    run_id: str
    key: str
    position: int
    title: str
    role: str
    agent: str
    state: TaskState
    cause: Cause | None
    depends_on: tuple[str, ...]
    optional: bool
    attention_pass: bool
    dispatches: int
    max_dispatches: int
    spec: str
    attempt_id: str | None
    """The newest attempt."""
    attempts: int
    retry_at: float | None
    started_at: float | None
    ended_at: float | None
    hold: str | None = None
    """What must be decided before it goes on; None if nothing is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRecord:
    """One try of a task."""

    id: str
    run_id: str
    task_id: str
    number: int
    state: AttemptState
    cause: Cause | None
    epoch: int
    engine: str
    kind: SessionKind
    session_id: str
    model_asked: str | None
    model_used: str | None
    usage: Usage
    steps: int
    counts: Counts
    result_id: str | None
    last_text: ArtifactRef | None
    """The last thing the model said, kept when no result was submitted."""
    started_at: float
    ended_at: float | None
    last_activity_at: float


class GaveUp(StrEnum):
    """Why a task whose failure may pass is not tried again by itself."""

    ATTEMPTS = "attempts"
    """It was tried as often as `limits.attempts` allows."""
    DISPATCHES = "dispatches"
    """It was started as often as `limits.max_dispatches` allows."""
    EFFECTS = "effects"
    """Its session had done something that cannot be repeated without thought."""


class DeadLetterState(StrEnum):
    """Where a task that was given up stands. Nothing to do with mail: see `MessageState.DEAD`."""

    OPEN = "open"
    """Nobody has decided about it."""
    REQUEUED = "requeued"
    """Its task was queued again."""
    DROPPED = "dropped"
    """Somebody let it go; the task, its attempts and results stay as they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A task that failed for something that may pass, and is not tried again by itself."""

    id: str
    run_id: str
    task_id: str
    key: str
    """The key of its task."""
    attempt_id: str | None
    """The last attempt; None if it never had one."""
    attempts: int
    """How many there had been."""
    reason: GaveUp
    cause: Cause | None
    """Why the last attempt failed."""
    state: DeadLetterState
    created_at: float
    closed_at: float | None
    closed_by: str | None
    note: str | None
    """What whoever dropped it said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRecord:
    """One session, as it is found again: by its own id or by the host's."""

    id: str
    attempt_id: str
    run_id: str
    kind: SessionKind
    host_session: str
    cwd: str
    prompt: ArtifactRef | None
    """The system prompt and the first user message, as they were sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewResult:
    """What a session submitted."""

    summary: str
    data: Any = None
    """JSON; None where nothing was submitted."""
    artifacts: Mapping[str, str] = field(default_factory=dict[str, str])
    """Name to text."""
    error: str | None = None
    flags: tuple[str, ...] = ()
    """`overridden`: accepted although it does not fit the schema. `unchecked`: no schema. `partial`,
    `merged`, `replaced`: what became of parts. `jobs_ended`: work in the background was given up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultRecord:
    """A result that was accepted."""

    id: str
    run_id: str
    task_id: str
    attempt_id: str
    summary: str
    data: Any
    artifacts: Mapping[str, ArtifactRef]
    error: str | None
    flags: tuple[str, ...]
    body: ArtifactRef
    """The whole result as JSON, as it was submitted."""
    created_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SectionRecord:
    """A part of a result that an attempt handed in on the way. It is no result."""

    attempt_id: str
    label: str
    adds: bool
    """It goes on with the list of this name; otherwise it takes the place of what had the name."""
    body: ArtifactRef
    """Its value as JSON."""
    created_at: float


class DeliveryState(StrEnum):
    """Where a finished run's hand-over to its parent stands."""

    PENDING = "pending"
    """Not handed over yet."""
    SENT = "sent"
    """Handed over; not yet seen on the parent's saved record."""
    ACKNOWLEDGED = "acknowledged"
    """Its id stands on the parent's saved record."""
    EXPIRED = "expired"
    """Given up after its time; still readable with the run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryRecord:
    """One row of the outbox: a task's result, or a run's end, that is owed to a parent."""

    id: str
    run_id: str
    task_id: str | None
    """None for the end of the run itself."""
    result_id: str | None
    parent: ParentRef
    state: DeliveryState
    sends: int
    created_at: float
    sent_at: float | None
    acknowledged_at: float | None
    parcel: str | None = None
    """The delivery that the message names with which it was handed over last."""


class ControlVerb(StrEnum):
    """What another process may ask of a run's supervisor."""

    CANCEL = "cancel"
    """Stop the run, or one task of it."""
    STEER = "steer"
    """Hand over a message that was written down."""
    INTERRUPT = "interrupt"
    """Stop the turn that a session is in; the session goes on."""
    RESIZE = "resize"
    """Have another number of sessions open at once."""
    RETRY = "retry"
    """Try tasks again that have failed, need attention, or were cancelled."""


class ControlState(StrEnum):
    """Where such a request stands."""

    PENDING = "pending"
    APPLIED = "applied"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlRecord:
    """One request to a supervisor."""

    id: str
    run_id: str
    task_id: str | None
    verb: ControlVerb
    payload: Mapping[str, Any]
    actor: str
    state: ControlState
    answer: str | None
    """Why it was refused, or what there is to say about how it was carried out."""
    created_at: float
    answered_at: float | None
    message_id: str | None = None
    """The message to be handed over, where one is."""
    outcome: ReceiptOutcome | None = None
    """What became of the message, or of the words that came with an interruption."""


class Effect(StrEnum):
    """What a tool call does to the world."""

    PURE = "pure"
    """Reads only."""
    IDEMPOTENT = "idempotent"
    """Doing it twice is the same as doing it once."""
    EXTERNAL = "external"
    """Cannot be taken back or repeated without thought."""


class ToolCallState(StrEnum):
    """Where a journalled tool call stands."""

    STARTED = "started"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCallRecord:
    """One tool call of a session, written before it runs."""

    id: str
    attempt_id: str
    tool: str
    effect: Effect
    state: ToolCallState
    arguments: str
    """JSON, at most 4 KB of it."""
    error: str | None
    started_at: float
    ended_at: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TranscriptEntry:
    """One entry of a session's transcript.

    `role` is system, user, assistant, tool or note. `content` is the text; an assistant entry may
    carry `tool_calls` (`id`, `name`, `arguments`), a tool entry `call_id` and `name`.
    """

    seq: int
    role: str
    content: str
    data: Mapping[str, Any] = field(default_factory=dict[str, Any])
    at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEvent:
    """An event as its writer gives it; the store adds sequence, time and epoch."""

    type: str
    actor: str
    task_id: str | None = None
    attempt_id: str | None = None
    cause: Cause | None = None
    data: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRecord:
    """One appended event. `seq` grows over all runs of a store and never repeats."""

    seq: int
    run_id: str
    at: float
    epoch: int
    type: str
    actor: str
    task_id: str | None
    attempt_id: str | None
    cause: Cause | None
    data: Mapping[str, Any]
