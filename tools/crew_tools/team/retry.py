"""`retry`: try the tasks of a run again that failed, need attention, or were cancelled."""

from typing import TYPE_CHECKING, Annotated

from pydantic import AliasChoices, Field

from crew_plugin.engine.retry import Again
from crew_plugin.host import ToolContext, ToolOutput
from crew_tools.params import LooseList, Params
from crew_tools.team.launch import actor_of, go_on

if TYPE_CHECKING:
    from crew_plugin.crew import Crew

__all__ = ["PARAMETERS", "RetryParams", "act", "try_again"]


class RetryParams(Params):
    """Which tasks, and what is different this time."""

    run_id: str = Field(description='The run: its id, at least four characters of it, or "last".')
    keys: Annotated[tuple[str, ...], LooseList] = Field(
        default=(),
        validation_alias=AliasChoices("keys", "task_id", "task"),
        description="retry: the keys of the tasks; left out, all that can be retried.",
    )
    model: str | None = Field(default=None, description="Another model than before.")
    text: str = Field(
        default="",
        validation_alias=AliasChoices("text", "message"),
        description="retry: what is added to their task, because of what went wrong.",
    )
    background: bool = Field(
        default=False,
        validation_alias=AliasChoices("async", "background", "run_in_background"),
        description="Return at once; the results come by themselves when they are there.",
    )
    force: bool = Field(default=False, description="Also tasks of a run that somebody else started.")


PARAMETERS = RetryParams


async def act(crew: "Crew", params: RetryParams, context: ToolContext) -> ToolOutput:
    """Try them again: finished tasks stay, dependants that were skipped come after them."""
    again = Again(
        run=params.run_id,
        actor=actor_of(context),
        tasks=params.keys,
        model=params.model,
        text=params.text,
        force=params.force,
        caller=context.parent,
    )
    return await try_again(crew, again, context, background=params.background)


async def try_again(crew: "Crew", again: Again, context: ToolContext, *, background: bool) -> ToolOutput:
    """Have tasks of one run tried again: here, or by whoever drives the run."""
    retried = await crew.supervisor.retry(again)
    names = ", ".join(retried.tasks)
    if retried.in_place:
        return ToolOutput(
            text=f"run {retried.run_id} goes on and tries again: {names}",
            details={"run_id": retried.run_id, "retried": list(retried.tasks), "background": True},
        )
    run = await crew.writer.read(lambda store: store.load_run(retried.run_id))
    # Only a run that was written down for the background owes its results to a conversation.
    output = await go_on(crew, run, context, background=background and run.background)
    return ToolOutput(
        text=f"tried again: {names}\n{output.text}",
        details={**output.details, "retried": list(retried.tasks)},
    )
