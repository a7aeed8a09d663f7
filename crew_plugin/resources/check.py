"""Whether resources fit together. Used before a run is written down, and by `list` and `doctor`."""

import graphlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from crew_plugin.errors import InvalidPlan
from crew_plugin.resources.catalog import Catalog
from crew_plugin.resources.models import (
    AgentFile,
    Kind,
    Problem,
    Resource,
    ResultSchema,
    Role,
    Step,
    TeamFile,
    WorkflowFile,
)

__all__ = ["TOOL_NAMES", "agent_problems", "catalog_problems", "team_problems", "workflow_problems"]

TOOL_NAMES: Final = frozenset({"read", "grep", "find", "ls", "bash", "edit", "write", "submit_result", "irc"})
"""Tools that an agent can name, beside `mcp__server__tool`."""
_MCP_TOOL: Final = re.compile(r"mcp__[A-Za-z0-9_.-]+__[A-Za-z0-9_.-]*\*?|mcp__[A-Za-z0-9_.-]*\*")


def _at(resource: Resource, line: int, message: str) -> Problem:
    return Problem(path=resource.path, line=line, message=message)


def workflow_problems(workflow: WorkflowFile) -> list[Problem]:
    """Why this workflow cannot be run, whoever runs it."""
    by_id: dict[str, Step] = {}
    problems: list[Problem] = []
    for step in workflow.steps:
        if first := by_id.get(step.id):
            message = f"the step {step.id!r} is already there, on line {first.line}"
            problems.append(_at(workflow, step.line, message))
        by_id.setdefault(step.id, step)
    for step in workflow.steps:
        problems += [
            _at(workflow, step.line, f"step {step.id!r} depends on {name!r}, which is no step")
            for name in step.depends_on
            if name not in by_id
        ]
    before = _ancestors(workflow, by_id, problems)
    problems += _output_problems(workflow, before)
    for step in workflow.steps:
        problems += _schema_problems(workflow, step.line, step.schema, f"step {step.id!r}")
    return problems


def _ancestors(
    workflow: WorkflowFile, by_id: Mapping[str, Step], problems: list[Problem]
) -> dict[str, frozenset[str]] | None:
    """Every step that ends before a step begins; None, and a problem, if they go in a circle."""
    graph = {step.id: [name for name in step.depends_on if name in by_id] for step in by_id.values()}
    try:
        order = [*graphlib.TopologicalSorter(graph).static_order()]
    except graphlib.CycleError as error:
        # The sorter names each step before those it depends on.
        circle = list(reversed(error.args[1]))
        message = "steps depend on each other in a circle: " + " -> ".join(circle)
        problems.append(_at(workflow, by_id[circle[0]].line, message))
        return None
    before: dict[str, frozenset[str]] = {}
    for ident in order:
        before[ident] = frozenset(graph[ident]).union(*(before[name] for name in graph[ident]))
    return before


def _output_problems(workflow: WorkflowFile, before: dict[str, frozenset[str]] | None) -> Iterator[Problem]:
    outputs: dict[str, str] = {}
    for step in workflow.steps:
        if step.output is not None and step.output in outputs:
            message = f"steps {outputs[step.output]!r} and {step.id!r} have the same output {step.output!r}"
            yield _at(workflow, step.line, message)
        elif step.output is not None:
            outputs[step.output] = step.id
    # A step that shares no output of its own name can be read by its id.
    writers = {step.id: step.id for step in workflow.steps} | outputs
    for step in workflow.steps:
        for name in step.reads:
            if name not in writers:
                message = f"step {step.id!r} reads {name!r}, which is the output of no step"
                yield _at(workflow, step.line, message)
            elif before is not None and writers[name] not in before[step.id]:
                message = f"step {step.id!r} reads {name!r} but does not depend on {writers[name]!r}"
                yield _at(workflow, step.line, message)


def _schema_problems(
    resource: Resource, line: int, schema: ResultSchema | None, what: str
) -> Iterator[Problem]:
    if schema is None:
        return
    from crew_plugin.session.schema import check_schema

    try:
        check_schema(schema.body, what=f"the schema of {what}")
    except InvalidPlan as error:
        yield _at(resource, line, str(error))


def team_problems(team: TeamFile, workflow: WorkflowFile, catalog: Catalog) -> list[Problem]:
    """Why this team cannot run this workflow."""
    problems: list[Problem] = []
    used: dict[str, Role] = {}
    for step in workflow.steps:
        role = team.roles.get(step.role)
        if role is None:
            message = f"step {step.id!r} needs the role {step.role!r}; team {team.name!r} has " + ", ".join(
                team.roles
            )
            problems.append(_at(workflow, step.line, message))
        else:
            used[role.name] = role
    problems += [_at(team, role.line, text) for role in used.values() for text in _no_agent(role, catalog)]
    return problems


def _no_agent(role: Role, catalog: Catalog) -> list[str]:
    if role.agent in catalog.agents:
        return []
    return [f"role {role.name!r}: {catalog.missing(Kind.AGENT, role.agent)}"]


def agent_problems(agent: AgentFile, catalog: Catalog) -> list[Problem]:
    """What an agent names that is not there."""
    known = ", ".join(sorted(TOOL_NAMES))
    problems = [
        _at(agent, 0, f"there is no tool {name!r}; there are {known}, mcp__server__tool")
        for name in agent.tools
        if name not in TOOL_NAMES and not _MCP_TOOL.fullmatch(name)
    ]
    problems += _missing_skills(agent, 0, agent.skills, catalog)
    problems += _schema_problems(agent, 0, agent.schema, f"agent {agent.name!r}")
    return problems


def _missing_skills(
    resource: Resource, line: int, names: Iterable[str], catalog: Catalog
) -> Iterator[Problem]:
    for name in names:
        if name not in catalog.skills:
            yield _at(resource, line, f"there is no skill {name!r}")


def catalog_problems(catalog: Catalog) -> list[Problem]:
    """Everything that does not fit together."""
    problems: list[Problem] = []
    for agent in catalog.agents.values():
        problems += agent_problems(agent, catalog)
    for workflow in catalog.workflows.values():
        problems += workflow_problems(workflow)
        for step in workflow.steps:
            problems += _missing_skills(workflow, step.line, step.skills or (), catalog)
    for team in catalog.teams.values():
        problems += _whole_team(team, catalog)
    return problems


def _whole_team(team: TeamFile, catalog: Catalog) -> Iterator[Problem]:
    for role in team.roles.values():
        yield from (_at(team, role.line, text) for text in _no_agent(role, catalog))
        yield from _missing_skills(team, role.line, role.skills or (), catalog)
    workflow = catalog.workflows.get(team.workflow)
    if workflow is None:
        yield _at(team, 0, f"its workflow cannot be run: {catalog.missing(Kind.WORKFLOW, team.workflow)}")
    else:
        yield from (item for item in team_problems(team, workflow, catalog) if item.path != team.path)
