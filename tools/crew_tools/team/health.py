"""`health`: how the sessions of a run are doing."""

from typing import TYPE_CHECKING

from crew_plugin.host import ToolContext, ToolOutput
from crew_plugin.ui.health import health_text, health_view
from crew_plugin.ui.text import shorten
from crew_tools.team.answer import LIMIT
from crew_tools.team.runparams import OfRun

if TYPE_CHECKING:
    from crew_plugin.crew import Crew

__all__ = ["PARAMETERS", "act"]

PARAMETERS = OfRun


async def act(crew: "Crew", params: OfRun, context: ToolContext) -> ToolOutput:
    """Look, and say how each session is, what it does and what it used."""
    view = await crew.writer.read(lambda store: health_view(store, params.run_id))
    return ToolOutput(
        text=shorten(health_text(view), LIMIT, f"crew health {view.row.id}"),
        details={"run_id": view.row.id, "state": view.shown_state, "rating": str(view.rating)},
    )
