"""`crew_agent`: give one task to one agent."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import AliasChoices, Field

from crew_plugin.errors import CallerError
from crew_plugin.host import ToolContext, ToolOutput
from crew_plugin.models.spec import RuntimeMode
from crew_tools.params import Parsed, Skills, parse
from crew_tools.team.launch import folder_inside, launch, planned_by
from crew_tools.team.resume import resumed
from crew_tools.team.runparams import OfResult

if TYPE_CHECKING:
    from crew_plugin.crew import Crew
    from crew_plugin.models.spec import RunSpec

__all__ = ["DESCRIPTION", "NAME", "PARAMETERS", "call"]

_CHANGING = frozenset({"model", "skill", "max_turns", "runtime", "result_schema", "schema_mode"})
"""What makes an agent another one than it was."""

NAME = "crew_agent"
DESCRIPTION = """\
Give one task to one subagent and get its result. It starts blank and knows nothing of this \
conversation: name the target, what is to change or be found, and how to tell that it is done; give \
large material by path. Choose the most specific subagent_type; one agent may both investigate and \
edit. With run_in_background=true the call returns an id at once, and the result comes to you by \
itself, once: do not poll. `completed` means that a result was handed in; its claims are unchecked. \
For several tasks, or steps that build on each other, use team."""


class StartParams(OfResult):
    """What to do, and who does it."""

    prompt: str = Field(
        validation_alias=AliasChoices("prompt", "goal", "task"),
        description="The whole task, complete in itself.",
    )
    description: str | None = Field(default=None, description="Three to five words for the person watching.")
    resume: str | None = Field(
        default=None,
        validation_alias=AliasChoices("resume", "resume_id"),
        description="Go on with an ended agent: its agent_id, or RUN/TASK of a team's run. It remembers its "
        "conversation; prompt is its new task. Everything else of it stays as it was.",
    )
    subagent_type: str = Field(
        default="executor",
        validation_alias=AliasChoices("subagent_type", "agent"),
        description="An agent's name; team action=list shows them.",
    )
    model: str | None = Field(default=None, description="Another model than the agent's own.")
    skill: Skills = Field(
        default=None, description="Skills for its prompt, with commas between; false for none at all."
    )
    max_turns: int | None = Field(default=None, ge=1, le=10_000, description="At most so many model calls.")
    run_in_background: bool = Field(
        default=False,
        validation_alias=AliasChoices("run_in_background", "async", "background"),
        description="Return at once; the result comes by itself when it is there.",
    )
    runtime: RuntimeMode | None = Field(
        default=None,
        description="How sessions are executed; normally left out. scaffold is a dry run.",
    )


PARAMETERS = StartParams


async def call(crew: "Crew", arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput:
    """Plan a run with one step and launch it."""
    parsed = parse(StartParams, arguments)
    params = parsed.params
    if params.resume is not None:
        spec = await resumed(crew, params.resume, None, params.prompt)
        _refuse_others(params, spec)
        return await _launched(crew, spec, context, parsed)
    catalog = await crew.catalog()
    cwd = await folder_inside(crew, None)

    def plan() -> "RunSpec":
        from crew_plugin.engine.plan import plan_run

        return plan_run(
            catalog,
            crew.settings,
            goal=params.prompt,
            cwd=cwd,
            agent=params.subagent_type,
            title=params.description,
            model=params.model,
            skills=params.skill,
            max_turns=params.max_turns,
            result=params.wanted(),
            runtime=params.runtime,
        )

    return await _launched(crew, await planned_by(plan), context, parsed)


def _refuse_others(params: StartParams, spec: "RunSpec") -> None:
    """Whoever goes on with an agent goes on with it as it was: what would change it must not seem to."""
    wanted = {name for name in params.model_fields_set & _CHANGING if getattr(params, name) is not None}
    if "subagent_type" in params.model_fields_set and params.subagent_type != spec.steps[0].agent:
        wanted.add("subagent_type")
    if wanted:
        names = ", ".join(sorted("schema" if name == "result_schema" else name for name in wanted))
        raise CallerError(
            f"resume goes on with the agent {spec.steps[0].agent!r} as it was; leave out {names}, or start a "
            "new agent without resume"
        )


async def _launched(
    crew: "Crew", spec: "RunSpec", context: ToolContext, parsed: Parsed[StartParams]
) -> ToolOutput:
    output = await launch(crew, spec, context, background=parsed.params.run_in_background)
    agent_id = output.details["run_id"]
    return ToolOutput(
        text=f"agent_id: {agent_id}\n{output.text}",
        details={**output.details, "agent_id": agent_id, **parsed.details()},
    )
