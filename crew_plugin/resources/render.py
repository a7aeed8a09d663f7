"""A resource as the text of a file: our own spelling, every key that is set, nothing lost."""

from crew_plugin.resources.agentfile import render_agent, render_skill
from crew_plugin.resources.models import AgentFile, Resource, SkillFile, TeamFile, WorkflowFile
from crew_plugin.resources.teamfile import render_team
from crew_plugin.resources.workflowfile import render_workflow

__all__ = ["render"]


def render(resource: Resource) -> str:
    """The text that reads back as the same resource."""
    match resource:
        case AgentFile():
            return render_agent(resource)
        case TeamFile():
            return render_team(resource)
        case WorkflowFile():
            return render_workflow(resource)
        case SkillFile():
            return render_skill(resource)
        case _:
            raise TypeError(f"{type(resource).__name__} is not written to files")
