"""`resize`: how many sessions of a run may be open at once, from now on."""

from typing import TYPE_CHECKING

from pydantic import AliasChoices, Field

from crew_plugin.engine.address import find_run
from crew_plugin.engine.steer import Order, Say
from crew_plugin.errors import CallerError, NotAllowed
from crew_plugin.host import ToolContext, ToolOutput
from crew_tools.params import Params
from crew_tools.team.launch import actor_of

if TYPE_CHECKING:
    from crew_plugin.crew import Crew

__all__ = ["PARAMETERS", "ResizeParams", "act"]


class ResizeParams(Params):
    """Which run, and how wide."""

    run_id: str | None = Field(default=None, description="The run; left out for the only one that is active.")
    width: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        validation_alias=AliasChoices("width", "concurrency"),
        description="How many sessions at once.",
    )
    force: bool = Field(default=False, description="Also a run that somebody else started.")


PARAMETERS = ResizeParams


async def act(crew: "Crew", params: ResizeParams, context: ToolContext) -> ToolOutput:
    """Do it and give the receipt."""
    name, width = params.run_id, params.width
    if width is None and name and name.isdecimal():
        # One word in a chat: the number, for the only run there is.
        width, name = int(name), None
    if width is None:
        raise CallerError("width is needed: how many sessions at once, from 1 to 1024")
    run = await crew.writer.read(lambda store: find_run(store, name))
    report = await crew.supervisor.order(
        Order(
            run_id=run.id,
            say=Say.RESIZE,
            actor=actor_of(context),
            width=width,
            force=params.force,
            caller=context.parent,
        )
    )
    if not report.reached:
        raise NotAllowed(f"run {run.id} is not resized: {report.receipt.reason}")
    return ToolOutput(text=f"run {report.run_id}: done; {report.receipt.reason}", details=report.as_json())
