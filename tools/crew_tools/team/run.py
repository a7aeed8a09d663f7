"""`run`: a team's workflow, or one agent, on a goal."""

from typing import TYPE_CHECKING, Literal

from pydantic import AliasChoices, Field

from crew_plugin.errors import CallerError
from crew_plugin.host import ToolContext, ToolOutput
from crew_plugin.models.spec import RuntimeMode
from crew_tools.params import Skills
from crew_tools.team.launch import folder_inside, launch, planned_by, runtime_asked
from crew_tools.team.runparams import OfResult

if TYPE_CHECKING:
    from crew_plugin.crew import Crew
    from crew_plugin.models.spec import RunSpec

__all__ = ["PARAMETERS", "RunParams", "act", "planned"]


class RunParams(OfResult):
    """What to run, and how."""

    goal: str | None = Field(
        default=None,
        description="What is to be achieved: target, change, how to tell that it is done. Workers know "
        "nothing of this conversation; give large material by path.",
    )
    task: str | None = Field(default=None, description="The same as goal.")
    team: str | None = Field(default=None, description="A team's name; fast-fix when nothing is named.")
    workflow: str | None = Field(default=None, description="Another workflow than the team's own.")
    agent: str | None = Field(default=None, description="One agent alone instead of a team.")
    role: str | None = Field(default=None, description="One role of the team alone.")
    model: str | None = Field(default=None, description="The model of every session of the run.")
    skill: Skills = Field(
        default=None, description="Skills for every session, with commas between; false for none at all."
    )
    cwd: str | None = Field(default=None, description="The folder to work in, inside the project.")
    width: int | None = Field(default=None, ge=1, le=1024, description="How many sessions at once.")
    background: bool = Field(
        default=False,
        validation_alias=AliasChoices("async", "background", "run_in_background"),
        description="Return at once; the result comes by itself when it is there.",
    )
    dry_run: bool = Field(
        default=False, description="Write the prompts that workers would get, ask no model."
    )
    runtime: RuntimeMode | None = Field(
        default=None,
        description="How sessions are executed; normally left out. scaffold is a dry run.",
    )
    on_failure: Literal["keep-going", "fail-fast"] | None = Field(
        default=None,
        description="What a failed task does to the others: they go on, or they are cancelled.",
    )


PARAMETERS = RunParams


async def act(crew: "Crew", params: RunParams, context: ToolContext) -> ToolOutput:
    """Plan it, write it down, execute it."""
    goal = params.goal or params.task
    if not goal:
        raise CallerError("goal is needed: say what is to be achieved")
    if params.team is None and params.agent is None:
        await _not_a_name(crew, goal)
    spec = await planned(crew, params)
    return await launch(crew, spec, context, background=params.background, width=params.width)


async def _not_a_name(crew: "Crew", goal: str) -> None:
    """Raise where the whole goal is the name of a team or an agent: its goal was forgotten."""
    catalog = await crew.catalog()
    kinds = {"team": catalog.teams, "agent": catalog.agents}
    for kind, named in kinds.items():
        if goal.strip() in named:
            raise CallerError(
                f"goal is needed: {goal.strip()!r} is the name of {'an' if kind == 'agent' else 'a'} {kind}; "
                f"give it as {kind}, and say what is to be achieved"
            )


async def planned(crew: "Crew", params: RunParams) -> "RunSpec":
    """The run as it would be written down. Raises before anything is written."""
    catalog = await crew.catalog()
    cwd = await folder_inside(crew, params.cwd)

    def plan() -> "RunSpec":
        from crew_plugin.engine.plan import plan_run

        return plan_run(
            catalog,
            crew.settings,
            goal=params.goal or params.task or "(no goal given yet)",
            cwd=cwd,
            team=params.team,
            workflow=params.workflow,
            agent=params.agent,
            role=params.role,
            model=params.model,
            skills=params.skill,
            width=params.width,
            result=params.wanted(),
            runtime=runtime_asked(params.runtime, dry_run=params.dry_run),
            on_failure=params.on_failure,
        )

    return await planned_by(plan)
