"""`crew_agent_result`: how a subagent stands, and what it handed in."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import AliasChoices, Field

from crew_plugin.errors import NotAllowed
from crew_plugin.host import ToolContext, ToolOutput
from crew_plugin.ui.text import status_text
from crew_plugin.ui.views import run_view
from crew_tools.params import Params, parse
from crew_tools.progress import progress
from crew_tools.team.answer import read_answer
from crew_tools.team.collect import collect
from crew_tools.team.events import newest_events

if TYPE_CHECKING:
    from crew_plugin.crew import Crew
    from crew_plugin.store.port import RunStore

__all__ = ["DESCRIPTION", "NAME", "PARAMETERS", "call"]

NAME = "crew_agent_result"
DESCRIPTION = """\
Show how a subagent stands and what it handed in, by the id that crew_agent gave; also after a \
restart. With wait=true it waits up to five minutes. Results of background agents come by themselves: \
call this only when you need one now."""

_WAIT_SECONDS = 300.0
_MOST_EVENTS = 200


class ResultParams(Params):
    """Which agent."""

    agent_id: str = Field(
        validation_alias=AliasChoices("agent_id", "run_id", "id"),
        description="The id that crew_agent gave.",
    )
    wait: bool = Field(default=False, description="Wait until it is over, at most five minutes.")
    verbose: bool = Field(default=False, description="Also show what happened on the way.")


PARAMETERS = ResultParams


async def call(crew: "Crew", arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput:
    """Look, or wait and look."""
    parsed = parse(ResultParams, arguments)
    params = parsed.params
    view = await crew.writer.read(lambda store: run_view(store, params.agent_id))
    if view.row.imported is not None:
        raise NotAllowed(
            f'run {view.id} was imported and is no agent of yours; team with action="get" reads it'
        )
    if params.wait and not view.row.over:
        async with progress(crew, view.id, context):
            await crew.supervisor.wait(view.id, _WAIT_SECONDS)
        view = await crew.writer.read(lambda store: run_view(store, view.id))
    details = {"agent_id": view.id, **parsed.details()}
    if params.verbose:
        text = await crew.writer.read(lambda store: _verbose(store, view.id))
        return ToolOutput(text=text, details={**details, "state": view.shown_state})
    if not view.row.over:
        text = (
            f"{status_text(view)}\nStill under way; its result comes by itself if it runs in the background."
        )
        return ToolOutput(text=text, details={**details, "state": view.shown_state})
    output = await collect(crew, view.id, context)
    return ToolOutput(text=output.text, details={**output.details, **details})


def _verbose(store: "RunStore", run_id: str) -> str:
    answer = read_answer(store, run_id)
    _, events = newest_events(store, run_id, _MOST_EVENTS)
    return f"{answer.text}\n\nevents:\n{events}"
