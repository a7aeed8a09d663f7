"""`summary`: what every task of a run handed in."""

from typing import TYPE_CHECKING

from crew_plugin.host import ToolContext, ToolOutput
from crew_tools.team.answer import read_answer
from crew_tools.team.runparams import OfRun

if TYPE_CHECKING:
    from crew_plugin.crew import Crew

__all__ = ["PARAMETERS", "act"]

PARAMETERS = OfRun


async def act(crew: "Crew", params: OfRun, context: ToolContext) -> ToolOutput:
    """The answer of the run, as far as it has come."""
    answer = await crew.writer.read(lambda store: read_answer(store, params.run_id))
    return ToolOutput(text=answer.text, details={"run_id": answer.view.id, "state": answer.view.shown_state})
