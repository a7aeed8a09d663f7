"""What the engine needs of others: something that executes one attempt."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from crew_plugin.models.causes import Cause
from crew_plugin.models.mail import MessageRecord, Receipt
from crew_plugin.models.records import ArtifactRef, AttemptRecord, Lease, RunRecord, TaskRecord
from crew_plugin.models.states import AttemptState, SessionKind

if TYPE_CHECKING:
    # pydantic, which light commands do without.
    from crew_plugin.models.spec import RunSpec, StepSpec

__all__ = ["AttemptContext", "Outcome", "TaskRunner"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptContext:
    """One attempt, with all that is known about it."""

    lease: Lease
    run: RunRecord
    spec: "RunSpec"
    task: TaskRecord
    step: "StepSpec"
    attempt: AttemptRecord
    put_off: "Callable[[float], None] | None" = None
    """Moves the limit that is kept outside the session by so many seconds, while it waits for an
    answer."""
    goes_on: bool = False
    """The attempt was begun by a process that is gone: go on with its own conversation."""
    again: "Callable[[Outcome], bool] | None" = None
    """Whether another attempt would follow by itself if this one ended so."""
    wake: "Callable[[str], str | None] | None" = None
    """Has the ended session of the task with this key opened again to read its mail
    (`TaskRunner.follow_up`, in the scope of the run). Returns why not, None if it will be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How an attempt ended. `COMPLETED` is believed only if an accepted result is in the store."""

    state: AttemptState
    cause: Cause | None = None
    last_text: ArtifactRef | None = None
    retryable: bool = False
    """A new attempt may succeed where this one failed."""
    acted: bool = False
    """It might, but the session did something that cannot be repeated without thought."""


class TaskRunner(Protocol):
    """Executes attempts: as live sessions, child processes or dry runs, under one contract."""

    @property
    def kind(self) -> SessionKind:
        """How it executes them."""
        ...

    @property
    def engine(self) -> str:
        """The name of the engine behind it."""
        ...

    async def run(self, context: AttemptContext) -> Outcome:
        """Execute one attempt to its end.

        Writes session, transcript, results and events of the attempt itself. Never raises but
        for cancellation of the calling scope and `Fenced`; any other failure is an `Outcome`.
        """
        ...

    async def abort(self, attempt_id: str, cause: Cause) -> None:
        """Make `run` of this attempt return soon, quiet within a second. A result that was
        accepted before stays accepted. Unknown attempts are no error."""
        ...

    async def deliver(self, context: AttemptContext, message_id: str) -> Receipt:
        """Hand a message that was written down to the newest attempt of its recipient: a running
        session sees it, an ended one is woken, one yet to begin finds it. Never waits for it."""
        ...

    async def interrupt(self, attempt_id: str, cause: Cause, message: MessageRecord | None = None) -> bool:
        """Stop the turn that is under way (model call and tools) and go on with the same
        conversation, told of it and given the message, which its caller took for it. False if there
        is no turn; the message is the caller's then."""
        ...

    async def follow_up(self, context: AttemptContext) -> None:
        """Hold one further conversation of an ended attempt: it reads the mail that waits for its
        task, and answers by mail. Changes neither task nor result. Never raises but for
        cancellation of the calling scope and `Fenced`."""
        ...
