"""Where a session's result is judged and, once accepted, written down."""

from collections.abc import Callable

import anyio

from crew_plugin.engine.ports import AttemptContext
from crew_plugin.errors import CrewError
from crew_plugin.host import ToolError
from crew_plugin.models.records import NewResult
from crew_plugin.session.contract import Accepted, Ended, Rejected, ResultContract, Submission, Verdict
from crew_plugin.session.record import Record

__all__ = ["Gate"]


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
    ) -> None:
        self._context = context
        self._contract = contract
        self._record = record
        self._ended = ended
        self._failed = failed
        self._one_at_a_time = anyio.Lock()  # a model may submit twice in one answer
        self.accepted: Accepted | None = None
        """Set once the accepted result is on the disk."""

    async def submit(self, submission: Submission) -> Verdict:
        """Judge a submission. An accepted one is on the disk when this returns."""
        async with self._one_at_a_time:
            if self.accepted is not None:
                return self.accepted
            verdict = await self._judge(submission)
            if isinstance(verdict, Accepted):
                await self._write(verdict.result)
                self.accepted = verdict
            else:
                self._note(verdict)
            return verdict

    async def refuse(self, problem: str) -> Verdict:
        """Count a call whose arguments could not be read."""
        verdict = self._contract.refuse(problem)
        self._note(verdict)
        return verdict

    async def _judge(self, submission: Submission) -> Verdict:
        if self._contract.schema is None:
            return self._contract.accept(submission)
        # Checking megabytes takes seconds; the loop is needed for others.
        return await anyio.to_thread.run_sync(self._contract.accept, submission)

    async def _write(self, result: NewResult) -> None:
        context = self._context
        try:
            await self._record.write(
                lambda store: store.accept_result(
                    context.lease, context.attempt.id, result, actor=context.task.key
                )
            )
        except CrewError as error:
            self._failed(error)
            raise ToolError(f"the result could not be written down: {error}") from error

    def _note(self, verdict: Rejected | Ended) -> None:
        if isinstance(verdict, Ended):
            self._ended(verdict)
            return
        self._record.event("result.rejected", {"path": verdict.path, "error": verdict.text, "n": verdict.n})
