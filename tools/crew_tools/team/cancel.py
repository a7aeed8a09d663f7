"""`cancel`: a run, or one task of it."""

from typing import TYPE_CHECKING

from pydantic import AliasChoices, Field

from crew_plugin.engine.cancel import Wish
from crew_plugin.errors import NotAllowed
from crew_plugin.host import ToolContext, ToolOutput
from crew_plugin.models.causes import Cause, CauseCode
from crew_plugin.ui.text import one_line, shorten, status_text
from crew_plugin.ui.views import run_view
from crew_tools.team.answer import LIMIT
from crew_tools.team.confirm import Destructive, need_confirmed_force
from crew_tools.team.launch import actor_of

if TYPE_CHECKING:
    from crew_plugin.crew import Crew

__all__ = ["PARAMETERS", "CancelParams", "act"]


class CancelParams(Destructive):
    """What to stop, and why."""

    run_id: str = Field(description='The run: its id, at least four characters of it, or "last".')
    task_id: str | None = Field(
        default=None,
        validation_alias=AliasChoices("task_id", "task"),
        description="One task of the run, by its key.",
    )
    reason: str | None = Field(default=None, description="cancel: why.")
    force: bool = Field(
        default=False, description="cancel: also a run that somebody else started; needs confirm."
    )


PARAMETERS = CancelParams


async def act(crew: "Crew", params: CancelParams, context: ToolContext) -> ToolOutput:
    """Stop it, and say what was stopped and what is kept."""
    wish = Wish(
        run_id=params.run_id,
        cause=Cause(
            code=CauseCode.CALLER_CANCELLED, message=one_line(params.reason or "no reason given", 500)
        ),
        actor=actor_of(context),
        force=params.force,
        task=params.task_id,
        caller=context.parent,
    )
    cause = await need_confirmed_force(crew, wish, params)
    report = await crew.supervisor.cancel(
        wish.run_id,
        cause=cause,
        actor=wish.actor,
        force=wish.force,
        task=wish.task,
        caller=wish.caller,
    )
    if report.outcome == "refused":
        raise NotAllowed(f"run {report.run_id} is not stopped: {report.message} (force=true, confirm=true)")
    view = await crew.writer.read(lambda store: run_view(store, report.run_id))
    outcome = str(report.outcome).replace("_", " ")
    return ToolOutput(
        text=f"{outcome}: {report.message}\n{shorten(status_text(view), LIMIT)}",
        details={"run_id": view.id, "state": view.shown_state, "outcome": str(report.outcome)},
    )
