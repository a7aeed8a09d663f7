"""A task runner without sessions: a script for each task says how its attempts go.

It keeps the contract of `crew_plugin.engine.ports.TaskRunner` against a real store, so what runs
are made of (states, results, events) is real, and only the work is pretended.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import anyio

from crew_plugin.engine.ports import AttemptContext, Outcome
from crew_plugin.models.causes import Cause, CauseCode
from crew_plugin.models.mail import MessageRecord, MessageState, Receipt, ReceiptOutcome
from crew_plugin.models.records import NewResult
from crew_plugin.models.states import AttemptState, SessionKind
from crew_plugin.store.port import RunStore
from crew_plugin.store.writer import StoreWriter

__all__ = [
    "FakeAttempt",
    "FakeRunner",
    "TaskScript",
    "claims",
    "fails",
    "gate",
    "hangs",
    "in_turn",
    "leaves",
    "submits",
]


@dataclass(slots=True, eq=False)
class FakeAttempt:
    """One attempt under way, as its script sees it."""

    context: AttemptContext
    writer: StoreWriter
    aborted: anyio.Event = field(default_factory=anyio.Event)
    cause: Cause | None = None
    steers: list[str] = field(default_factory=list[str])
    """What it was told on the way: mail, and what came with an interruption."""
    interrupts: list[Cause] = field(default_factory=list[Cause])

    async def submit(self, summary: str, *, error: str | None = None) -> None:
        """Hand in a result, as a session does."""
        lease, attempt = self.context.lease, self.context.attempt
        result = NewResult(summary=summary, error=error, flags=("unchecked",))
        await self.writer.run(
            lambda store: store.accept_result(lease, attempt.id, result, actor=self.context.task.key)
        )

    async def leave_text(self, text: str) -> Outcome:
        """End without a result, with a last text."""
        task = self.context.task
        ref = await self.writer.run(
            lambda store: store.put_artifact(task.run_id, "last.txt", text.encode(), task_id=task.id)
        )
        cause = Cause(code=CauseCode.NO_RESULT, message="it never called submit_result")
        return Outcome(state=AttemptState.NEEDS_ATTENTION, cause=cause, last_text=ref)


TaskScript = Callable[[FakeAttempt], Awaitable[Outcome]]
"""How one attempt goes."""


def submits(summary: str = "done", *, error: str | None = None) -> TaskScript:
    """Hands in a result at once."""

    async def script(attempt: FakeAttempt) -> Outcome:
        await attempt.submit(summary, error=error)
        return Outcome(state=AttemptState.COMPLETED)

    return script


def claims() -> TaskScript:
    """Says that it is done without a result in the store."""

    async def script(attempt: FakeAttempt) -> Outcome:
        return Outcome(state=AttemptState.COMPLETED)

    return script


def fails(
    message: str = "the provider answered 500",
    *,
    code: CauseCode = CauseCode.MODEL_ERROR,
    retryable: bool = False,
) -> TaskScript:
    """Fails at once."""

    async def script(attempt: FakeAttempt) -> Outcome:
        cause = Cause(code=code, message=message)
        return Outcome(state=AttemptState.FAILED, cause=cause, retryable=retryable)

    return script


def leaves(text: str) -> TaskScript:
    """Ends with a text and no result."""

    async def script(attempt: FakeAttempt) -> Outcome:
        return await attempt.leave_text(text)

    return script


def hangs(*, stubborn: bool = False) -> TaskScript:
    """Goes on until it is told to stop; a stubborn one until its scope is cancelled."""

    async def script(attempt: FakeAttempt) -> Outcome:
        if stubborn:
            await anyio.sleep_forever()
        await attempt.aborted.wait()
        return Outcome(state=AttemptState.CANCELLED, cause=attempt.cause)

    return script


def gate(opened: anyio.Event, then: TaskScript) -> TaskScript:
    """Waits for `opened` or for being told to stop, whichever comes first."""

    async def script(attempt: FakeAttempt) -> Outcome:
        async with anyio.create_task_group() as group:

            async def until(event: anyio.Event) -> None:
                await event.wait()
                group.cancel_scope.cancel()

            group.start_soon(until, opened)
            group.start_soon(until, attempt.aborted)
        if attempt.aborted.is_set():
            return Outcome(state=AttemptState.CANCELLED, cause=attempt.cause)
        return await then(attempt)

    return script


def in_turn(*scripts: TaskScript) -> TaskScript:
    """The first attempt goes like the first script, the next like the next."""

    async def script(attempt: FakeAttempt) -> Outcome:
        return await scripts[min(attempt.context.attempt.number, len(scripts)) - 1](attempt)

    return script


@dataclass(slots=True, kw_only=True)
class FakeRunner:
    """Plays scripts. `order` is what began, `most` how many attempts were open at once."""

    writer: StoreWriter
    scripts: Mapping[str, TaskScript] = field(default_factory=dict[str, TaskScript])
    """By the task's key."""
    default: TaskScript = field(default_factory=submits)
    kind: SessionKind = SessionKind.LIVE
    engine: str = "fake"
    order: list[str] = field(default_factory=list[str])
    open: dict[str, FakeAttempt] = field(default_factory=dict[str, FakeAttempt])
    aborts: list[str] = field(default_factory=list[str])
    most: int = 0
    woken: list[str] = field(default_factory=list[str])
    """What ended tasks were told, as `key: text`."""
    awake: TaskScript | None = None
    """How a further conversation goes after it read its mail; None if it ends at once."""

    async def run(self, context: AttemptContext) -> Outcome:
        """Play the task's script to its end."""
        attempt = FakeAttempt(context=context, writer=self.writer)
        self.order.append(context.task.key)
        self.open[context.attempt.id] = attempt
        self.most = max(self.most, len(self.open))
        try:
            return await self.scripts.get(context.task.key, self.default)(attempt)
        finally:
            del self.open[context.attempt.id]

    async def abort(self, attempt_id: str, cause: Cause) -> None:
        """Tell the script to stop."""
        attempt = self.open.get(attempt_id)
        if attempt is not None:
            self.aborts.append(attempt.context.task.key)
            attempt.cause = cause
            attempt.aborted.set()

    async def deliver(self, context: AttemptContext, message_id: str) -> Receipt:
        """Give an open attempt its mail; have an ended one woken."""
        key = context.task.key
        attempt = self.open.get(context.attempt.id)
        if attempt is not None:
            attempt.steers.extend(await self._take(context))
            return Receipt(to=key, outcome=ReceiptOutcome.INJECTED)
        why_not = "it cannot be woken" if context.wake is None else context.wake(key)
        if why_not is not None:
            return Receipt(to=key, outcome=ReceiptOutcome.FAILED, reason=why_not)
        return Receipt(to=key, outcome=ReceiptOutcome.WOKEN)

    async def interrupt(self, attempt_id: str, cause: Cause, message: MessageRecord | None = None) -> bool:
        """Keep the cause and the text with the attempt."""
        attempt = self.open.get(attempt_id)
        if attempt is None:
            return False
        attempt.interrupts.append(cause)
        if message is not None:
            attempt.steers.append(message.body)
        return True

    async def follow_up(self, context: AttemptContext) -> None:
        """Read the mail that waits, and go on like `awake`."""
        texts = await self._take(context)
        self.woken.extend(f"{context.task.key}: {text}" for text in texts)
        if self.awake is not None:
            await self.awake(FakeAttempt(context=context, writer=self.writer))

    async def _take(self, context: AttemptContext) -> list[str]:
        def take(store: RunStore) -> list[str]:
            taken = store.take_messages(context.run.id, context.task.key)
            for message in taken:
                store.settle_message(message.id, MessageState.READ)
            return [message.body for message in taken]

        return await self.writer.run(take)
