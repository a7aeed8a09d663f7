"""`plan`: the steps that a run would take."""

from typing import TYPE_CHECKING

from crew_plugin.host import ToolContext, ToolOutput
from crew_plugin.ui.text import one_line
from crew_tools.team.run import RunParams, planned

if TYPE_CHECKING:
    from collections.abc import Iterator

    from crew_plugin.crew import Crew
    from crew_plugin.models.spec import RunSpec, StepSpec

__all__ = ["PARAMETERS", "act"]

PARAMETERS = RunParams


async def act(crew: "Crew", params: RunParams, context: ToolContext) -> ToolOutput:
    """Plan it and say what came of it."""
    spec = await planned(crew, params)
    return ToolOutput(
        text="\n".join(_lines(spec)),
        details={"status": "planned", "steps": [step.id for step in spec.steps]},
    )


def _lines(spec: "RunSpec") -> "Iterator[str]":
    yield (
        f"{spec.team}/{spec.workflow}: {len(spec.steps)} steps, at most {spec.width} at once, in {spec.cwd}. "
        "Nothing was started."
    )
    for number, step in enumerate(spec.steps, start=1):
        yield f"{number}. {step.id}: {step.role} ({_who(spec, step)})" + _after(step)
        yield f"   {one_line(step.title or step.task, 200)}"
    yield "At once, and on failure:"
    yield from (f"- {note}" for note in spec.limit_notes)
    yield 'Next: the same call with action="run" and a goal starts it.'


def _who(spec: "RunSpec", step: "StepSpec") -> str:
    agent = spec.agents[step.agent]
    tools = ", ".join(agent.tools) or "no tools"
    return f"agent {agent.name}; {tools}" + (f"; model {step.model}" if step.model else "")


def _after(step: "StepSpec") -> str:
    facts: list[str] = []
    if step.depends_on:
        facts.append("after " + ", ".join(step.depends_on))
    if step.resources:
        facts.append("alone with " + ", ".join(step.resources))
    if step.optional:
        facts.append("optional")
    return "; " + "; ".join(facts) if facts else ""
