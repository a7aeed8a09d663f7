"""The results of a finished run, for whoever asked to wait for them.

A background run hands its results to the conversation that started it, once, as a message of its
own. If that conversation also waits for the run, repeating them here would double them: then this
answer only says how the run ended, and returns once the message is on its way.
"""

from typing import TYPE_CHECKING

import anyio

from crew_plugin.host import ToolContext, ToolOutput
from crew_plugin.models.records import DeliveryState, EventRecord
from crew_plugin.store.port import RunStore
from crew_plugin.ui.views import run_view
from crew_tools.team.answer import head, read_answer

if TYPE_CHECKING:
    from crew_plugin.crew import Crew

__all__ = ["collect"]

_HAND_OVER_SECONDS = 2.0
_OWED = (DeliveryState.PENDING, DeliveryState.SENT)


async def collect(crew: "Crew", run_id: str, context: ToolContext) -> ToolOutput:
    """What to say about a run that is over."""
    sent = anyio.Event()

    def saw(event: EventRecord) -> None:
        if event.run_id == run_id and event.type == "delivery.sent":
            sent.set()

    unsubscribe = crew.writer.subscribe(saw)
    try:
        owed = await crew.writer.read(lambda store: _owed(store, run_id, context))
        if owed is DeliveryState.PENDING:
            with anyio.move_on_after(_HAND_OVER_SECONDS):
                await sent.wait()
    finally:
        unsubscribe()
    if owed is None:
        answer = await crew.writer.read(lambda store: read_answer(store, run_id))
        return ToolOutput(text=answer.text, details={"run_id": run_id, "state": answer.view.shown_state})
    view = await crew.writer.read(lambda store: run_view(store, run_id))
    return ToolOutput(
        text=(
            f"{head(view)}\nIts results come to this conversation as a message of their own, right after "
            f'this one; they are not repeated here. action="summary", run_id="{run_id}" shows them again.'
        ),
        details={"run_id": run_id, "state": view.shown_state, "delivered_separately": True},
    )


def _owed(store: RunStore, run_id: str, context: ToolContext) -> DeliveryState | None:
    """How far the hand-over to this conversation is; None when there is nothing to come."""
    if context.parent is None or not context.can_deliver_later:
        return None
    rows = store.list_deliveries(parent=context.parent, run_id=run_id, states=_OWED)
    return rows[-1].state if rows else None
