"""The results of a finished run, for whoever asked to wait for them.

A background run hands its results to the conversation that started it, once, as a message of its
own. If that conversation also waits for the run, repeating them here would double them: then this
answer only says how the run ended, and returns once the message is on its way.
"""

import time
from typing import TYPE_CHECKING

import anyio

from crew_plugin.host import ToolContext, ToolOutput
from crew_plugin.models.records import DeliveryState, EventRecord
from crew_plugin.observe.owed import OWED, group_of, join_policy
from crew_plugin.store.port import RunStore
from crew_plugin.ui.text import clock_text
from crew_plugin.ui.views import run_view
from crew_tools.team.answer import head, read_answer

if TYPE_CHECKING:
    from crew_plugin.crew import Crew

__all__ = ["collect"]

_HAND_OVER_SECONDS = 2.0


async def collect(crew: "Crew", run_id: str, context: ToolContext) -> ToolOutput:
    """What to say about a run that is over."""
    sent = anyio.Event()

    def saw(event: EventRecord) -> None:
        if event.run_id == run_id and event.type == "delivery.sent":
            sent.set()

    unsubscribe = crew.writer.subscribe(saw)
    try:
        owed = await crew.writer.read(lambda store: _owed(store, run_id, context))
        held = await crew.writer.read(lambda store: _held(store, run_id, crew))
        if owed is DeliveryState.PENDING and not held:
            with anyio.move_on_after(_HAND_OVER_SECONDS):
                await sent.wait()
    finally:
        unsubscribe()
    if owed is None:
        answer = await crew.writer.read(lambda store: read_answer(store, run_id))
        return ToolOutput(text=answer.text, details={"run_id": run_id, "state": answer.view.shown_state})
    view = await crew.writer.read(lambda store: run_view(store, run_id))
    when = held or "right after this one"
    return ToolOutput(
        text=(
            f"{head(view)}\nIts results come to this conversation as a message of their own, {when}; "
            f'they are not repeated here. action="summary", run_id="{run_id}" shows them now.'
        ),
        details={"run_id": run_id, "state": view.shown_state, "delivered_separately": True},
    )


def _held(store: RunStore, run_id: str, crew: "Crew") -> str:
    """For what its results wait, and until when; empty if for nothing."""
    group = group_of(store, run_id, join_policy(crew.settings), now=time.time())
    if group is None or group.until is None:
        return ""
    others = ", ".join(run.id for run in group.open)
    return f"with those of {others}, at {clock_text(group.until)} at the latest"


def _owed(store: RunStore, run_id: str, context: ToolContext) -> DeliveryState | None:
    """How far the hand-over to this conversation is; None when there is nothing to come."""
    if context.parent is None or not context.can_deliver_later:
        return None
    rows = store.list_deliveries(parent=context.parent, run_id=run_id, states=OWED)
    return rows[-1].state if rows else None
