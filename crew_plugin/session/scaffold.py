"""Dry runs: every prompt is built and kept, no model is asked."""

from typing import Final

from crew_plugin.engine.ports import AttemptContext, Outcome
from crew_plugin.errors import Fenced
from crew_plugin.models.causes import Cause, CauseCode
from crew_plugin.models.mail import MessageRecord, MessageState, Receipt, ReceiptOutcome
from crew_plugin.models.records import NewEvent
from crew_plugin.models.states import AttemptState, SessionKind
from crew_plugin.session.ending import ending_of
from crew_plugin.session.fence import reference
from crew_plugin.session.mail import MailRoom
from crew_plugin.session.prepare import Prepared, contract_of, prepare
from crew_plugin.store.port import RunStore
from crew_plugin.store.writer import StoreWriter

__all__ = ["ScaffoldRunner"]

_ALWAYS: Final = ("submit_result", "irc", "ask")


class ScaffoldRunner:
    """Implements `TaskRunner` without an engine. Each attempt needs attention in the end: there is
    a prompt to look at, and no result."""

    def __init__(self, *, writer: StoreWriter) -> None:
        self._writer = writer
        self._room = MailRoom(writer)

    @property
    def kind(self) -> SessionKind:
        """Scaffold."""
        return SessionKind.SCAFFOLD

    @property
    def engine(self) -> str:
        """None of those that ask a model."""
        return "scaffold"

    async def run(self, context: AttemptContext) -> Outcome:
        """Build the prompt of one attempt and keep it."""
        box = self._room.box(context.run.id, context.task.key, attempt_id=context.attempt.id)
        tools = dict.fromkeys([*_ALWAYS, *context.spec.agents[context.step.agent].tools])
        try:
            await contract_of(context)
            prepared = await prepare(context, self._writer, box, list(tools))
            return await self._writer.run(lambda store: _write(store, context, prepared))
        except Fenced:
            raise
        except Exception as error:  # noqa: BLE001 - becomes the attempt's outcome
            return Outcome(state=AttemptState.FAILED, cause=ending_of(error).cause)
        finally:
            self._room.forget(box, "it was a dry run")

    async def abort(self, attempt_id: str, cause: Cause) -> None:
        """Nothing to do: an attempt takes no longer than its prompt."""

    async def deliver(self, context: AttemptContext, message_id: str) -> Receipt:
        """Nobody is there to read it: what comes before the prompt is written stands in it."""
        reason = "it was a dry run: its prompt is written and no model reads it"
        await self._writer.run(
            lambda store: store.settle_message(message_id, MessageState.DEAD, reason=reason)
        )
        return Receipt(to=context.task.key, outcome=ReceiptOutcome.FAILED, reason=reason)

    async def interrupt(self, attempt_id: str, cause: Cause, message: MessageRecord | None = None) -> bool:
        """There is no turn to stop."""
        return False

    async def follow_up(self, context: AttemptContext) -> None:
        """There is no conversation to go on with; `deliver` never asks for one."""


def _write(store: RunStore, context: AttemptContext, prepared: Prepared) -> Outcome:
    lease, attempt = context.lease, context.attempt
    store.open_session(lease, attempt.id, host_session="", prompt=prepared.artifact)
    opened = NewEvent(
        type="session.opened",
        actor=context.task.key,
        task_id=context.task.id,
        attempt_id=attempt.id,
        data={"kind": SessionKind.SCAFFOLD, "agent": context.step.agent, "model": None, "tools": []},
    )
    store.append_events(lease, context.run.id, [opened])
    text = f"Dry run: no model was asked. The prompt of {context.task.key} is {reference(prepared.artifact)}."
    last_text = store.put_artifact(
        context.run.id, f"{context.task.key}/dry-run.md", text.encode(), task_id=context.task.id
    )
    return Outcome(
        state=AttemptState.NEEDS_ATTENTION,
        cause=Cause(code=CauseCode.DRY_RUN, message="a dry run writes prompts and asks no model"),
        last_text=last_text,
    )
