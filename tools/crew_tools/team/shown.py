"""A resource in full, as it is told to a model."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from crew_plugin.resources.catalog import Catalog
from crew_plugin.resources.models import AgentFile, Kind, Resource, SkillFile, TeamFile, WorkflowFile
from crew_plugin.ui.text import one_line
from crew_tools.team.answer import quoted

__all__ = ["Shown", "resource_text"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A resource as text, and where it came from."""

    text: str
    path: Path
    source: str


def resource_text(catalog: Catalog, kind: str, name: str) -> Shown:
    """One resource. Raises the catalog's error when there is none that can be used."""
    resource = catalog.of(Kind(kind)).get(name)
    if resource is None:
        raise catalog.missing(Kind(kind), name)
    trust = "" if resource.trusted else ", not trusted"
    lines = [f"{kind} {resource.name} ({resource.source}{trust}): {resource.path}"]
    if resource.description:
        lines.append(one_line(resource.description, 400))
    lines.extend(_body(resource))
    return Shown(text="\n".join(lines), path=resource.path, source=str(resource.source))


def _body(resource: Resource) -> Iterator[str]:
    match resource:
        case AgentFile():
            yield from _agent(resource)
        case TeamFile():
            yield from _team(resource)
        case WorkflowFile():
            yield from _workflow(resource)
        case SkillFile():
            yield quoted(resource.body)
        case _:
            raise TypeError(f"no text for {resource!r}")


def _agent(agent: AgentFile) -> Iterator[str]:
    yield "tools: " + (", ".join(agent.tools) or "none")
    if agent.model:
        yield f"model: {agent.model}"
    if agent.skills:
        yield "skills: " + ", ".join(agent.skills)
    if agent.schema is not None:
        yield f"result schema: {json.dumps(dict(agent.schema.body), ensure_ascii=False)}"
    yield "prompt:"
    yield quoted(agent.prompt)


def _team(team: TeamFile) -> Iterator[str]:
    yield f"workflow: {team.default_workflow or 'none of its own'}"
    for role in team.roles.values():
        yield f"role {role.name}: agent {role.agent}" + _text(role.description)
    if team.notes:
        yield quoted(team.notes)


def _workflow(workflow: WorkflowFile) -> Iterator[str]:
    for number, step in enumerate(workflow.steps, start=1):
        after = f", after {', '.join(step.depends_on)}" if step.depends_on else ""
        optional = ", optional" if step.optional else ""
        yield f"{number}. {step.id}: role {step.role}{after}{optional}"
        if step.task:
            yield quoted(step.task)
    if workflow.notes:
        yield quoted(workflow.notes)


def _text(description: str) -> str:
    return f"; {one_line(description, 160)}" if description else ""
