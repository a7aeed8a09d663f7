"""`crew_agent_steer`: tell a subagent something while it works, or stop it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from crew_plugin.host import ToolContext, ToolOutput
from crew_tools.params import parse
from crew_tools.team.steer import SteerParams, act

if TYPE_CHECKING:
    from crew_plugin.crew import Crew

__all__ = ["DESCRIPTION", "NAME", "PARAMETERS", "call"]

NAME = "crew_agent_steer"
DESCRIPTION = """\
Tell one subagent, or one task of a run, something while it works: a correction, a new fact, a smaller \
goal. It sees it at its next step, or with follow_up=true when its turn has ended. One that has not begun \
finds it in its first prompt; one that has ended is woken while its run goes on. The receipt says what \
became of it. With stop it is stopped instead. To go on with an agent whose run is over, call crew_agent \
with resume."""

PARAMETERS = SteerParams


async def call(crew: "Crew", arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput:
    """Do it and give the receipt."""
    parsed = parse(SteerParams, arguments)
    output = await act(crew, parsed.params, context)
    return ToolOutput(text=output.text, details={**output.details, **parsed.details()})
