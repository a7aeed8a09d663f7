"""`parallel`: independent tasks side by side, one run with a step for each."""

from typing import TYPE_CHECKING, Annotated, Literal, cast

from pydantic import AliasChoices, BeforeValidator, Field

from crew_plugin.host import ToolContext, ToolOutput
from crew_plugin.models.spec import RuntimeMode
from crew_plugin.resources.keys import RESOURCE_NAME
from crew_tools.params import LooseList, Params, Skills
from crew_tools.team.launch import folder_inside, launch, planned_by
from crew_tools.team.runparams import OfResult

if TYPE_CHECKING:
    from crew_plugin.crew import Crew
    from crew_plugin.models.spec import RunSpec

__all__ = ["PARAMETERS", "ParallelParams", "TaskParams", "act"]

_MOST = 1000


def _as_resources(value: object) -> object:
    """A list of names, also as one text with commas."""
    parts = value.strip().strip("[]").split(",") if isinstance(value, str) else value
    if not isinstance(parts, list):
        raise ValueError("a list of names")
    names = [str(part).strip().strip("\"'") for part in cast("list[object]", parts)]
    for name in names:
        if not RESOURCE_NAME.fullmatch(name):
            raise ValueError("names of letters, digits, and any of . : / - _, at most 80 of them")
    return names


class TaskParams(Params):
    """One of the tasks."""

    goal: str = Field(
        validation_alias=AliasChoices("goal", "task", "prompt"),
        description="Target, change, how to tell that it is done.",
    )
    agent: str | None = Field(default=None, description="Who does it; executor when left out.")
    cwd: str | None = Field(default=None, description="Its folder, inside the project.")
    resources: Annotated[list[str], BeforeValidator(_as_resources)] = Field(
        default_factory=list[str],
        description="What only one session may use at a time, such as db or port:8080.",
    )


class ParallelParams(OfResult):
    """The tasks and how many of them at once."""

    tasks: Annotated[list[TaskParams], LooseList] = Field(
        min_length=1,
        max_length=_MOST,
        description="parallel: the tasks. They know nothing of each other; one owner for each file.",
    )
    concurrency: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        validation_alias=AliasChoices("concurrency", "width"),
        description="How many of the tasks at once.",
    )
    model: str | None = Field(default=None, description="The model of every session of the run.")
    skill: Skills = Field(default=None, description="Skills for every session, with commas between.")
    cwd: str | None = Field(default=None, description="The folder to work in, inside the project.")
    background: bool = Field(
        default=False,
        validation_alias=AliasChoices("async", "background", "run_in_background"),
        description="Return at once; the result comes by itself when it is there.",
    )
    runtime: RuntimeMode | None = Field(
        default=None,
        description="How sessions are executed; normally left out. scaffold is a dry run.",
    )
    on_failure: Literal["keep-going", "fail-fast"] | None = Field(
        default=None,
        description="What a failed task does to the others: they go on, or they are cancelled.",
    )


PARAMETERS = ParallelParams


async def act(crew: "Crew", params: ParallelParams, context: ToolContext) -> ToolOutput:
    """Plan one step for each task, write it down, execute it."""
    catalog = await crew.catalog()
    cwd = await folder_inside(crew, params.cwd)
    # Many tasks, few folders.
    folders = {wish: await folder_inside(crew, wish) for wish in {task.cwd for task in params.tasks} if wish}

    def plan() -> "RunSpec":
        from crew_plugin.engine.plan import ParallelTask, plan_parallel

        return plan_parallel(
            catalog,
            crew.settings,
            tasks=[
                ParallelTask(
                    goal=task.goal,
                    agent=task.agent,
                    cwd=folders[task.cwd] if task.cwd else None,
                    resources=tuple(dict.fromkeys(task.resources)),
                )
                for task in params.tasks
            ],
            cwd=cwd,
            width=params.concurrency,
            model=params.model,
            skills=params.skill,
            result=params.wanted(),
            runtime=params.runtime,
            on_failure=params.on_failure,
        )

    spec = await planned_by(plan)
    return await launch(crew, spec, context, background=params.background, width=params.concurrency)
