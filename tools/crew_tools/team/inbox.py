"""`inbox`: what background runs owe to this conversation, and what they have handed over."""

from typing import TYPE_CHECKING

from pydantic import AliasChoices, Field

from crew_plugin.host import ToolContext, ToolOutput
from crew_plugin.observe.owed import join_policy
from crew_plugin.ui.inbox import inbox_json, inbox_text
from crew_tools.params import Params

if TYPE_CHECKING:
    from crew_plugin.crew import Crew

__all__ = ["PARAMETERS", "InboxParams", "act"]

_SCREEN = 76
"""A chat in a terminal of 80 columns has room for so many."""


class InboxParams(Params):
    """How much of it."""

    limit: int = Field(default=20, ge=1, le=200, description="How many runs or events.")
    everything: bool = Field(
        default=False,
        validation_alias=AliasChoices("all", "everything"),
        description="inbox: also what was delivered.",
    )


PARAMETERS = InboxParams


async def act(crew: "Crew", params: InboxParams, context: ToolContext) -> ToolOutput:
    """List it, newest first. Changes nothing: what is owed still comes by itself."""
    rows = await crew.writer.read(
        lambda store: inbox_json(
            store,
            lambda: join_policy(crew.settings),
            limit=params.limit,
            everything=params.everything,
            parent=context.parent,
        )
    )
    text = inbox_text(rows, everything=params.everything, width=_SCREEN if context.by_hand else None)
    if rows:
        text += '\nNext: action="get", run_id="RUN", task_id="TASK" reads one; what waits comes by itself.'
    return ToolOutput(text=text, details={"deliveries": rows})
