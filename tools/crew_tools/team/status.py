"""`status`: where a run stands."""

from typing import TYPE_CHECKING

from crew_plugin.host import ToolContext, ToolOutput
from crew_plugin.ui.questions import questions_text
from crew_plugin.ui.text import shorten, status_text
from crew_plugin.ui.views import run_view
from crew_tools.team.answer import LIMIT
from crew_tools.team.respond import how_to_answer
from crew_tools.team.runparams import OfRun

if TYPE_CHECKING:
    from crew_plugin.crew import Crew

__all__ = ["PARAMETERS", "act"]

PARAMETERS = OfRun


async def act(crew: "Crew", params: OfRun, context: ToolContext) -> ToolOutput:
    """Look, and say what there is."""
    view = await crew.writer.read(lambda store: run_view(store, params.run_id))
    text = status_text(view)
    if view.questions:
        text += "\n" + questions_text(view.questions, how_to_answer)
    if not view.row.over and view.row.background and not context.by_hand:
        text += "\nIts results come by themselves when it is over; there is no need to ask again."
    return ToolOutput(
        text=shorten(text, LIMIT, f'action="get", run_id="{view.id}", task_id=KEY for one task'),
        details={"run_id": view.id, "state": view.shown_state},
    )
