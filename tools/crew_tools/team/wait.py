"""`wait`: until a run is over."""

from typing import TYPE_CHECKING

from pydantic import Field

from crew_plugin.host import ToolContext, ToolOutput
from crew_plugin.ui.text import status_text
from crew_plugin.ui.views import run_view
from crew_tools.progress import progress
from crew_tools.team.collect import collect
from crew_tools.team.runparams import OfRun

if TYPE_CHECKING:
    from crew_plugin.crew import Crew

__all__ = ["PARAMETERS", "WaitParams", "act"]


class WaitParams(OfRun):
    """Which run, and how long."""

    timeout: int = Field(default=300, ge=1, le=3600, description="wait: seconds.")


PARAMETERS = WaitParams


async def act(crew: "Crew", params: WaitParams, context: ToolContext) -> ToolOutput:
    """Wait, then answer with the results, or say that it is still under way."""
    view = await crew.writer.read(lambda store: run_view(store, params.run_id))
    if not view.row.over:
        async with progress(crew, view.id, context):
            await crew.supervisor.wait(view.id, float(params.timeout))
        view = await crew.writer.read(lambda store: run_view(store, view.id))
    if view.row.over:
        return await collect(crew, view.id, context)
    text = status_text(view) + (
        f"\nStill under way after {params.timeout} s. Its work goes on whether anybody waits or not."
    )
    return ToolOutput(text=text, details={"run_id": view.id, "state": view.shown_state, "timed_out": True})
