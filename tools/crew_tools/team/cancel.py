"""`cancel`: a run, or one task of it."""

from typing import TYPE_CHECKING

from pydantic import AliasChoices, Field

from crew_plugin.errors import NotAllowed
from crew_plugin.host import ToolContext, ToolOutput
from crew_plugin.models.causes import Cause, CauseCode
from crew_plugin.models.records import RunRecord
from crew_plugin.ui.text import one_line, status_text
from crew_plugin.ui.views import run_view
from crew_tools.params import Params
from crew_tools.team.launch import actor_of

if TYPE_CHECKING:
    from crew_plugin.crew import Crew

__all__ = ["PARAMETERS", "CancelParams", "act"]


class CancelParams(Params):
    """What to stop, and why."""

    run_id: str = Field(description='The run: its id, at least four characters of it, or "last".')
    task_id: str | None = Field(
        default=None,
        validation_alias=AliasChoices("task_id", "task"),
        description="One task of the run, by its key.",
    )
    reason: str | None = Field(default=None, description="cancel: why.")
    force: bool = Field(default=False, description="cancel: also a run that somebody else started.")


PARAMETERS = CancelParams


async def act(crew: "Crew", params: CancelParams, context: ToolContext) -> ToolOutput:
    """Stop it, and say what was stopped and what is kept."""
    run = await crew.writer.read(lambda store: store.load_run(params.run_id))
    if params.task_id is not None:
        await crew.writer.read(lambda store: store.load_task(run.id, str(params.task_id)))
    if not params.force and _is_foreign(run, context):
        raise NotAllowed(
            f"run {run.id} was not started from this conversation; if it really is to be stopped, "
            "call again with force=true"
        )
    reason = one_line(params.reason or "no reason given", 500)
    report = await crew.supervisor.cancel(
        run.id,
        cause=Cause(code=CauseCode.CALLER_CANCELLED, message=reason),
        actor=actor_of(context),
        force=params.force,
        task=params.task_id,
    )
    view = await crew.writer.read(lambda store: run_view(store, run.id))
    return ToolOutput(
        text=f"{report}\n{status_text(view)}\nWhat was finished is kept.",
        details={"run_id": run.id, "state": view.shown_state},
    )


def _is_foreign(run: RunRecord, context: ToolContext) -> bool:
    if run.parent is None or context.parent is None:
        return run.parent is not context.parent
    return (run.parent.host, run.parent.session) != (context.parent.host, context.parent.session)
