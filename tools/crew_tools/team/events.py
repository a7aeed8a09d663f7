"""`events`: what happened in a run."""

from typing import TYPE_CHECKING

from pydantic import Field

from crew_plugin.host import ToolContext, ToolOutput
from crew_plugin.models.records import EventRecord
from crew_plugin.store.port import RunStore
from crew_plugin.ui.events import events_text
from crew_plugin.ui.views import task_names
from crew_tools.team.runparams import OfRun

if TYPE_CHECKING:
    from crew_plugin.crew import Crew

__all__ = ["PARAMETERS", "EventsParams", "act", "newest_events"]

_PAGE = 1000


class EventsParams(OfRun):
    """Which events."""

    limit: int = Field(default=50, ge=1, le=200, description="events: how many.")
    after_seq: int | None = Field(
        default=None, ge=0, description="events: those after this number, instead of the newest."
    )


PARAMETERS = EventsParams


async def act(crew: "Crew", params: EventsParams, context: ToolContext) -> ToolOutput:
    """List them, oldest first, and say how many there are besides."""
    run_id, events, text = await crew.writer.read(lambda store: _read(store, params))
    return ToolOutput(
        text=f"run {run_id}\n{text}",
        details={"run_id": run_id, "next_seq": events[-1].seq if events else 0},
    )


def _read(store: RunStore, params: EventsParams) -> tuple[str, list[EventRecord], str]:
    run_id = store.load_run(params.run_id).id
    if params.after_seq is None:
        events, text = newest_events(store, run_id, params.limit)
        return run_id, events, text
    page = store.tail(run_id, after_seq=params.after_seq, limit=params.limit + 1)
    events = page[: params.limit]
    text = events_text(events, task_names(store, run_id))
    if len(page) > params.limit:
        text += f"\n... more follow; go on with after_seq={events[-1].seq}"
    return run_id, events, text


def newest_events(store: RunStore, run_id: str, limit: int) -> tuple[list[EventRecord], str]:
    """The newest events of a run, and the same as text that says how many came before them."""
    newest: list[EventRecord] = []
    seen, last = 0, 0
    while page := store.tail(run_id, after_seq=last, limit=_PAGE):
        seen, last = seen + len(page), page[-1].seq
        newest = [*newest, *page][-limit:]
    text = events_text(newest, task_names(store, run_id))
    before = seen - len(newest)
    return newest, f"... {before:,} earlier; after_seq=0 begins with them\n{text}" if before else text
