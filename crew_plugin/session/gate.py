"""Where a session's result is judged and, once accepted, written down."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import anyio

from crew_plugin.engine.ports import AttemptContext
from crew_plugin.errors import CrewError
from crew_plugin.host import ToolError
from crew_plugin.models.records import NewResult
from crew_plugin.session.contract import (
    Accepted,
    Ended,
    Held,
    Kept,
    Rejected,
    ResultContract,
    Submission,
    Verdict,
)
from crew_plugin.session.record import Entry, Record
from crew_plugin.session.sections import Section
from crew_plugin.store.port import RunStore

__all__ = ["Gate", "Turn"]


@dataclass(slots=True)
class Turn:
    """What a submit is judged by, beside itself."""

    prose: str = ""
    """The text of the turn in which it is made."""
    last: bool = False
    """No other way is left to the session."""


class Gate:
    """Implements `ResultGate` over a contract and the store."""

    def __init__(
        self,
        *,
        context: AttemptContext,
        contract: ResultContract,
        record: Record,
        ended: Callable[[Ended], None],
        failed: Callable[[Exception], None],
        holds: Callable[[Accepted, Submission], Awaitable[Accepted | Held]],
        over: Callable[[], Ended | None],
    ) -> None:
        """`holds` may hold an accepted result back; `over` says whether the session was ended."""
        self._context = context
        self._contract = contract
        self._record = record
        self._ended = ended
        self._failed = failed
        self._holds = holds
        self._over = over
        self.turn = Turn()
        self._one_at_a_time = anyio.Lock()  # a model may submit twice in one answer
        self.accepted: Accepted | None = None
        """Set once the accepted result is on the disk."""

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of the parts of the result that were handed in."""
        return tuple(self._contract.labels)

    async def submit(self, submission: Submission) -> Verdict:
        """Judge a submission. An accepted one is on the disk when this returns."""
        async with self._one_at_a_time:
            settled = self.accepted or self._over()
            if settled is not None:
                return settled
            verdict = await self._judge(submission)
            if isinstance(verdict, Accepted):
                verdict = await self._holds(verdict, submission)
            await self._follow(verdict)
            return verdict

    async def settle(self, accepted: Accepted) -> None:
        """Take a result that was held."""
        async with self._one_at_a_time:
            if self.accepted is None:
                await self._follow(accepted)

    async def judged(self) -> None:
        """Return when no submission is being judged."""
        async with self._one_at_a_time:
            return

    async def refuse(self, problem: str, written: str = "") -> Verdict:
        """Count a call whose arguments could not be read; what was `written` is kept."""
        settled = self.accepted or self._over()
        if settled is not None:
            return settled
        verdict = self._contract.refuse(problem, written=written)
        await self._follow(verdict)
        return verdict

    async def _judge(self, submission: Submission) -> Verdict:
        prose, last = self.turn.prose, self.turn.last
        if self._contract.schema is None:
            return self._contract.accept(submission, prose=prose, last=last)
        # Checking megabytes takes seconds; the loop is needed for others.
        return await anyio.to_thread.run_sync(
            lambda: self._contract.accept(submission, prose=prose, last=last)
        )

    async def _follow(self, verdict: Verdict) -> None:
        match verdict:
            case Accepted(result=result):
                await self._write(self._result(result))
                self.accepted = verdict
            case Kept(sections=sections):
                await self._write(self._parts(sections))
            case Ended():
                self._ended(verdict)
            case Rejected():
                self._record.event(
                    "result.rejected", {"path": verdict.path, "error": verdict.text, "n": verdict.n}
                )
            case Held():
                pass  # whoever holds it back has said so

    def _result(self, result: NewResult) -> Entry:
        context = self._context
        return lambda store: store.accept_result(
            context.lease, context.attempt.id, result, actor=context.task.key
        )

    def _parts(self, sections: tuple[Section, ...]) -> Entry:
        context = self._context

        def write(store: RunStore) -> None:
            for part in sections:
                store.add_section(
                    context.lease,
                    context.attempt.id,
                    part.label,
                    part.value,
                    adds=part.adds,
                    actor=context.task.key,
                )

        return write

    async def _write(self, entry: Entry) -> None:
        try:
            await self._record.write(entry)
        except CrewError as error:
            self._failed(error)
            raise ToolError(f"the result could not be written down: {error}") from error
