"""`forget`: delete an ended run with all that is written down of it."""

from typing import TYPE_CHECKING

from pydantic import Field

from crew_plugin.engine.forget import deed_of, forget, may_forget
from crew_plugin.hookspecs import Removing
from crew_plugin.host import ToolContext, ToolOutput
from crew_plugin.store.liveness import current_owner
from crew_tools.team.confirm import Destructive, need_confirmation
from crew_tools.team.launch import actor_of

if TYPE_CHECKING:
    from crew_plugin.crew import Crew
    from crew_plugin.models.records import RunRecord
    from crew_plugin.store.port import RunStore

__all__ = ["PARAMETERS", "ForgetParams", "act"]


class ForgetParams(Destructive):
    """Which run."""

    run_id: str = Field(description='The run: its id, at least four characters of it, or "last".')
    force: bool = Field(
        default=False,
        description="forget: also a run of another session, and one whose results were not delivered.",
    )


PARAMETERS = ForgetParams


async def act(crew: "Crew", params: ForgetParams, context: ToolContext) -> ToolOutput:
    """Delete it; what stays says who did so, when and why."""

    def look(store: "RunStore") -> "tuple[RunRecord, str]":
        run = may_forget(store, params.run_id, context.parent, current_owner(), force=params.force)
        return run, deed_of(store, [run])

    run, deed = await crew.writer.read(look)
    why = need_confirmation(crew, deed, params)
    event = Removing(run_id=run.id, actor=actor_of(context), reason=why)
    await crew.supervisor.allow("before_forget", event)
    removed, freed = await crew.writer.apart(
        lambda store: forget(store, crew.project, run, actor=actor_of(context), why=why, force=params.force)
    )
    return ToolOutput(
        text=f"run {run.id} is forgotten; {freed / 1e6:,.1f} MB of bodies were freed",
        details={"run_id": run.id, "counts": dict(removed.counts), "freed_bytes": freed},
    )
