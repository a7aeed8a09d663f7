"""`resume`: go on with a run whose process is gone, or with an agent that has ended, with all it knows."""

from typing import TYPE_CHECKING

from pydantic import AliasChoices, Field

from crew_plugin.host import ToolContext, ToolOutput
from crew_tools.params import Params
from crew_tools.team.launch import actor_of, go_on, launch

if TYPE_CHECKING:
    from crew_plugin.crew import Crew
    from crew_plugin.models.spec import RunSpec
    from crew_plugin.store.port import RunStore

__all__ = ["PARAMETERS", "ResumeParams", "act", "resumed"]


class ResumeParams(Params):
    """Which agent, and what it is to do now."""

    run_id: str = Field(description="A run that has ended, or RUN/TASK; `last` is the newest.")
    task_id: str | None = Field(default=None, description="The task, where the run had several.")
    goal: str | None = Field(
        default=None,
        validation_alias=AliasChoices("goal", "prompt", "message", "task"),
        description="For one agent: what it is to do now; it remembers its earlier conversation. Left out to "
        "go on with a whole run whose process is gone.",
    )
    decide: str | None = Field(
        default=None,
        description="What becomes of held tasks: TASK=continue, TASK=restart or TASK=fail, with commas "
        "between. Ask the user: a call that was cut off may have taken effect.",
    )
    background: bool = Field(
        default=False,
        validation_alias=AliasChoices("async", "background", "run_in_background"),
        description="Return at once; the result comes by itself when it is there.",
    )


PARAMETERS = ResumeParams


async def act(crew: "Crew", params: ResumeParams, context: ToolContext) -> ToolOutput:
    """Go on with the run, or plan one that goes on with the agent, and launch it."""
    if params.goal is None:
        return await _taken_over(crew, params, context)
    spec = await resumed(crew, params.run_id, params.task_id, params.goal)
    return await launch(crew, spec, context, background=params.background)


async def _taken_over(crew: "Crew", params: ResumeParams, context: ToolContext) -> ToolOutput:
    from crew_plugin.engine.resume import decisions_of, find_interrupted
    from crew_plugin.engine.takeover import TakeOver

    how = TakeOver(decisions=decisions_of(params.decide or ""), actor=actor_of(context))
    run = await crew.writer.read(lambda store: find_interrupted(store, params.run_id))
    run = await crew.supervisor.adopt(run.id, how)
    return await go_on(crew, run, context, background=params.background)


async def resumed(crew: "Crew", run: str, task: str | None, text: str) -> "RunSpec":
    """The run that goes on with an earlier agent. Raises where there is nothing to go on with."""

    def plan(store: "RunStore") -> "RunSpec":
        from crew_plugin.engine.resume import plan_resume

        return plan_resume(store, run=run, task=task, text=text)

    return await crew.writer.read(plan)
