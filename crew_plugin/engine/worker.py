"""One task in flight: from the hook that may refuse it to the attempt's recorded end."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import anyio
import anyio.lowlevel

from crew_plugin.engine.ports import AttemptContext, Outcome, TaskRunner
from crew_plugin.engine.returns import bury_mail
from crew_plugin.engine.runhooks import RunHooks
from crew_plugin.engine.settle import Settled, Stop, settle_attempt
from crew_plugin.engine.snapshot import LastAttempt, Sequel
from crew_plugin.errors import Fenced, IllegalTransition
from crew_plugin.hookspecs import TaskResult, TaskStarting
from crew_plugin.models.causes import Cause, CauseCode
from crew_plugin.models.mail import MessageRecord
from crew_plugin.models.records import (
    AttemptRecord,
    GaveUp,
    Lease,
    NewEvent,
    ResultRecord,
    RunRecord,
    TaskRecord,
)
from crew_plugin.models.spec import RunSpec, StepSpec
from crew_plugin.models.states import TASK_TERMINAL, AttemptState, TaskState
from crew_plugin.store.port import RunStore
from crew_plugin.store.writer import StoreWriter

__all__ = ["WALL_MARGIN", "RunContext", "Work"]

QUIET_SECONDS = 1.0
"""How long an aborted attempt may take to return by itself."""
WALL_MARGIN = 30.0
"""How much later than the session's own wall-clock limit the engine's one comes."""

logger = logging.getLogger(__name__)


class _Books(Protocol):
    """Who wants to know what became of a task: the run's driver."""

    def note(self, settled: Settled) -> None: ...

    def returns(self, task: TaskRecord, messages: list[MessageRecord]) -> None: ...

    def sequel(self, task: TaskRecord, last: LastAttempt) -> Sequel: ...

    async def changed(self, work: "Work") -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RunContext:
    """What all tasks in flight of one run share."""

    lease: Lease
    run: RunRecord
    spec: RunSpec
    writer: StoreWriter
    runner: TaskRunner
    hooks: RunHooks
    pace: anyio.Lock
    """Lets one session at a time begin its preparations, so that many starts do not add up to
    one long turn of the loop."""
    wake: Callable[[str], str | None]
    """Has the session of a task that has ended opened again. Returns why not."""

    def of_attempt(
        self, task: TaskRecord, step: StepSpec, attempt: AttemptRecord, *, goes_on: bool = False
    ) -> AttemptContext:
        """What its runner is told of one attempt."""
        return AttemptContext(
            lease=self.lease,
            run=self.run,
            spec=self.spec,
            task=task,
            step=step,
            attempt=attempt,
            goes_on=goes_on,
            wake=self.wake,
        )


@dataclass(slots=True, eq=False)
class Work:
    """A task that holds a slot. Made when `decide` starts it, gone when its session is gone."""

    context: RunContext
    books: _Books
    task: TaskRecord
    step: StepSpec
    attempt: AttemptRecord | None = None
    tags: frozenset[str] | None = None
    """By what its slot is counted; None while it has none."""
    stop: Stop | None = None
    settled: bool = False
    goes_on: bool = False
    """The task's open attempt is taken up again instead of beginning one."""
    _kept_mail: bool = False
    """Its session left its unread mail to another attempt."""
    _scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    _over: anyio.Event = field(default_factory=anyio.Event)

    async def run(self) -> None:
        """Work on the task until its end is written down. Raises `Fenced`, and what the store
        raises when it cannot be written."""
        try:
            with self._scope:
                await self._attempt()
            if self.attempt is not None:
                await self._settle(Outcome(state=AttemptState.CANCELLED))
        finally:
            self._over.set()

    async def over(self) -> None:
        """Wait until its end is written down."""
        await self._over.wait()

    async def abort(self) -> None:
        """Make it end: asked first, made to after a second. A submitted result is kept."""
        if self.attempt is not None:
            with anyio.move_on_after(QUIET_SECONDS):
                await self._ask_to_end(self.attempt)
                await self._over.wait()
            await self._settle(Outcome(state=AttemptState.CANCELLED))
        self._scope.cancel()

    async def _ask_to_end(self, attempt: AttemptRecord) -> None:
        cause = self.stop.cause if self.stop else Cause(code=CauseCode.UNKNOWN, message="it was stopped")
        try:
            await self.context.runner.abort(attempt.id, cause)
        except Exception:
            logger.exception("aborting attempt %s failed; its scope is cancelled instead", attempt.id)

    async def _attempt(self) -> None:
        if not self.goes_on and await self._refused():
            return
        started = await self._write(self._resume if self.goes_on else self._start, patient=True)
        if isinstance(started, Settled):
            self.books.note(started)
            return
        attempt, self.task = started
        self.attempt = attempt
        if self.stop is not None:
            return
        async with self.context.pace:
            await anyio.lowlevel.checkpoint()
        await self._settle(await self._outcome(attempt))

    def _start(self, store: RunStore) -> tuple[AttemptRecord, TaskRecord]:
        context = self.context
        attempt = store.start_attempt(
            context.lease,
            self.task.id,
            kind=context.runner.kind,
            engine=context.runner.engine,
            model=self.step.model,
            cwd=self.step.cwd or context.spec.cwd,
            actor="supervisor",
        )
        return attempt, store.load_task(context.lease.run_id, self.task.id)

    def _resume(self, store: RunStore) -> tuple[AttemptRecord, TaskRecord] | Settled:
        """Take the open attempt up, or end it if it was started as often as it may be."""
        lease, attempt_id = self.context.lease, self.task.attempt_id or ""
        try:
            attempt = store.resume_attempt(lease, attempt_id, actor="supervisor")
        except IllegalTransition as error:
            cause = Cause(code=CauseCode.DISPATCH_CAP, message=str(error))
            outcome = Outcome(state=AttemptState.FAILED, cause=cause)
            given_up = Sequel(gave_up=GaveUp.DISPATCHES if self.stop is None else None)
            return settle_attempt(
                store, lease, attempt_id, outcome, stop=self.stop, sequel=lambda _task, _last: given_up
            )
        return attempt, store.load_task(lease.run_id, self.task.id)

    async def _outcome(self, attempt: AttemptRecord) -> Outcome:
        """How the attempt ended. The limit here is kept outside the session that it guards."""
        context = self.context.of_attempt(self.task, self.step, attempt, goes_on=self.goes_on)
        seconds = self.step.limits.wall_seconds + WALL_MARGIN
        try:
            with anyio.move_on_after(seconds) as limit:

                def put_off(by: float) -> None:
                    limit.deadline += by

                return await self.context.runner.run(replace(context, put_off=put_off, again=self._followed))
        except Fenced:
            raise
        except Exception as error:
            logger.warning("attempt %s ended by a defect", attempt.id, exc_info=True)
            return Outcome(
                state=AttemptState.FAILED, cause=Cause.of_defect("a defect ended the session", error)
            )
        assert limit.cancelled_caught
        message = f"the session did not end within {seconds:g} s, its own limit notwithstanding"
        return Outcome(state=AttemptState.FAILED, cause=Cause(code=CauseCode.WALL_LIMIT, message=message))

    def _followed(self, outcome: Outcome) -> bool:
        """Whether another attempt would follow by itself if this one ended so."""
        last = LastAttempt(
            state=outcome.state, cause=outcome.cause, retryable=outcome.retryable, acted=outcome.acted
        )
        self._kept_mail = self.stop is None and self.books.sequel(self.task, last).again
        return self._kept_mail

    async def _settle(self, outcome: Outcome) -> None:
        if self.settled or self.attempt is None:
            return
        self.settled = True
        attempt_id = self.attempt.id

        def settle(store: RunStore) -> Settled:
            settled = settle_attempt(
                store, self.context.lease, attempt_id, outcome, stop=self.stop, sequel=self.books.sequel
            )
            if self._kept_mail and settled.task.state in TASK_TERMINAL:
                # It was stopped just now, and there is no other attempt.
                reason = f"{settled.task.key} was not tried again"
                self.books.returns(settled.task, bury_mail(store, settled.task, reason))
            return settled

        settled = await self._write(settle)
        if settled.result is not None:
            self.context.hooks.tell("task_result", _of_result(settled.result, settled.task))
        self.books.note(settled)

    async def _write[T](self, change: Callable[[RunStore], T], *, patient: bool = False) -> T:
        """Write even if the task is stopped just now: what was written down must be known here."""
        with anyio.CancelScope(shield=True):
            return await self.context.writer.run(change, patient=patient)
        raise AssertionError("a shielded scope ends by what it holds")

    async def _refused(self) -> bool:
        """Whether a hook refuses the task; it is over then. What hooks change counts from here on."""
        event = TaskStarting(
            run_id=self.task.run_id,
            task_id=self.task.id,
            key=self.task.key,
            role=self.task.role,
            agent=self.task.agent,
            attempt=self.task.attempts + 1,
            task=self.step.task,
            model=self.step.model,
            skills=self.step.skills or (),
        )
        if not self.context.hooks.decides("before_task_start"):
            self.context.hooks.tell("before_task_start", event)
            return False
        answer = await self.context.hooks.ask("before_task_start", event)
        if answer.changes:
            self.step = self.step.model_copy(update=dict(answer.changes))
            await self.books.changed(self)
        record = await self._write(self._note_answer(answer.events, answer.refusal))
        if record is None:
            return False
        self.books.note(Settled(task=record, last=LastAttempt(state=AttemptState.FAILED, cause=record.cause)))
        return True

    def _note_answer(
        self, events: Sequence[NewEvent], refusal: Cause | None
    ) -> Callable[[RunStore], TaskRecord | None]:
        def note(store: RunStore) -> TaskRecord | None:
            lease = self.context.lease
            store.append_events(lease, lease.run_id, events)
            if refusal is None or self.stop is not None:
                return None
            to = TaskState.SKIPPED if self.task.state is TaskState.QUEUED else TaskState.FAILED
            return store.transition_task(lease, self.task.id, to, actor="supervisor", cause=refusal)

        return note


def _of_result(result: ResultRecord, task: TaskRecord) -> TaskResult:
    return TaskResult(
        run_id=task.run_id,
        task_id=task.id,
        key=task.key,
        result_id=result.id,
        summary=result.summary,
        data=result.data,
        error=result.error,
        flags=result.flags,
    )
