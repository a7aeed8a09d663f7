"""`cleanup`: remove what nothing owns any more."""

from typing import TYPE_CHECKING

from pydantic import Field

from crew_plugin.engine.cleanup import NOTHING, Leftovers, clean_up, find_leftovers, run_to_clean
from crew_plugin.hookspecs import Removing
from crew_plugin.host import ToolContext, ToolOutput
from crew_tools.team.confirm import Destructive, need_confirmation
from crew_tools.team.launch import actor_of

if TYPE_CHECKING:
    from crew_plugin.crew import Crew
    from crew_plugin.store.port import RunStore

__all__ = ["PARAMETERS", "CleanupParams", "act"]


class CleanupParams(Destructive):
    """After what is cleaned up."""

    run_id: str | None = Field(
        default=None, description="cleanup: only what is left of this run; left out, of the whole project."
    )
    force: bool = Field(default=False, description="cleanup: also what is left of runs of other sessions.")
    dry_run: bool = Field(default=False, description="prune, cleanup: only list what would be removed.")


PARAMETERS = CleanupParams


async def act(crew: "Crew", params: CleanupParams, context: ToolContext) -> ToolOutput:
    """Remove it, and write down who did so and why."""
    caller = None if params.force else context.parent

    def look(store: "RunStore") -> tuple[str | None, Leftovers]:
        run_id = None
        if params.run_id:
            run_id = run_to_clean(store, params.run_id, context.parent, force=params.force)
        return run_id, find_leftovers(store, crew.project, run_id, caller=caller)

    run_id, found = await crew.writer.apart(look)
    if not found:
        return ToolOutput(text=NOTHING)
    if params.dry_run:
        text = "\n".join([f"this would {found}:", *found.lines()])
        return ToolOutput(text=text, details={"would_remove": found.as_json()})
    why = need_confirmation(crew, str(found), params)
    event = Removing(run_id=run_id, actor=actor_of(context), reason=why)
    await crew.supervisor.allow("before_cleanup", event)
    done = await crew.writer.apart(
        lambda store: clean_up(store, crew.project, run_id, actor=actor_of(context), why=why, caller=caller)
    )
    return ToolOutput(text="\n".join([f"done: {done}", *done.lines()]), details={"removed": done.as_json()})
