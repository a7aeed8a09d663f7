"""Whether resources fit together. Used before a run is written down, and by `list` and `doctor`."""

import graphlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from crew_plugin.errors import InvalidPlan, UnknownName
from crew_plugin.mcp.names import matches
from crew_plugin.resources.catalog import Catalog
from crew_plugin.resources.models import (
    AgentFile,
    Kind,
    Problem,
    Resource,
    ResultSchema,
    Role,
    SchemaForm,
    Step,
    TeamFile,
    WorkflowFile,
)

__all__ = ["TOOL_NAMES", "catalog_problems", "step_problems"]

TOOL_NAMES: Final = frozenset({"read", "grep", "find", "ls", "bash", "edit", "write", "submit_result", "irc"})
"""Tools that an agent can name, beside `mcp__server__tool`."""
_MCP_TOOL: Final = re.compile(
    r"mcp__[A-Za-z0-9_.*-]+__[A-Za-z0-9_.*-]+|mcp__[A-Za-z0-9_.-]*\*[A-Za-z0-9_.*-]*"
)


def _at(resource: Resource, line: int, message: str) -> Problem:
    return Problem(path=resource.path, line=line, message=message)


def step_problems(workflow: WorkflowFile, team: TeamFile | None, roles: Mapping[str, Role]) -> list[Problem]:
    """Everything that keeps these steps from being run with these roles, in the order of the file."""
    found = [*_workflow_problems(workflow)]
    kind = f"role in team {team.name!r}" if team else "role"
    found += [
        _at(workflow, step.line, f"step {step.id!r}: {UnknownName(kind, step.role, roles)}")
        for step in workflow.steps
        if step.role not in roles
    ]
    return sorted(found, key=lambda problem: problem.line)


def _workflow_problems(workflow: WorkflowFile) -> Iterator[Problem]:
    """What is wrong with a workflow whoever runs it."""
    by_id: dict[str, Step] = {}
    for step in workflow.steps:
        if first := by_id.get(step.id):
            message = f"the step {step.id!r} is already there, on line {first.line}"
            yield _at(workflow, step.line, message)
        by_id.setdefault(step.id, step)
    for step in workflow.steps:
        for name in step.depends_on:
            if name not in by_id:
                message = f"step {step.id!r} depends on a step that is not there: "
                yield _at(workflow, step.line, message + str(UnknownName("step", name, by_id)))
        yield from _schema_problems(workflow, step.line, step.schema, step.schema_form, f"step {step.id!r}")
    before = _ancestors(by_id)
    if not isinstance(before, graphlib.CycleError):
        yield from _output_problems(workflow, before)
        return
    # The sorter names each step before those that depend on it.
    circle = [*reversed(before.args[1])]
    message = "steps depend on each other in a circle: " + " -> ".join(circle)
    yield _at(workflow, by_id[circle[0]].line, message)


def _ancestors(by_id: Mapping[str, Step]) -> dict[str, frozenset[str]] | graphlib.CycleError:
    """Every step that has ended when a step begins; the circle, if they go in one."""
    graph = {step.id: [name for name in step.depends_on if name in by_id] for step in by_id.values()}
    try:
        order = [*graphlib.TopologicalSorter(graph).static_order()]
    except graphlib.CycleError as error:
        return error
    before: dict[str, frozenset[str]] = {}
    for ident in order:
        before[ident] = frozenset(graph[ident]).union(*(before[name] for name in graph[ident]))
    return before


def _output_problems(workflow: WorkflowFile, before: dict[str, frozenset[str]]) -> Iterator[Problem]:
    makers: dict[str, str] = {}
    for step in workflow.steps:
        if step.output is not None and step.output in makers:
            message = f"steps {makers[step.output]!r} and {step.id!r} have the same output {step.output!r}"
            yield _at(workflow, step.line, message)
        elif step.output is not None:
            makers[step.output] = step.id
    for step in workflow.steps:
        for name in step.reads:
            if name not in makers:
                message = f"step {step.id!r} reads what no step puts out: "
                yield _at(workflow, step.line, message + str(UnknownName("output", name, makers)))
            elif makers[name] not in before[step.id]:
                message = (
                    f"step {step.id!r} reads {name!r} but does not depend on {makers[name]!r}, which puts "
                    "it out; add it to depends_on"
                )
                yield _at(workflow, step.line, message)


def _schema_problems(
    resource: Resource, line: int, schema: ResultSchema | None, form: SchemaForm, what: str
) -> Iterator[Problem]:
    if schema is None:
        return
    from crew_plugin.session.schema import check_schema

    try:
        check_schema(schema.body, form=form, what=f"the schema of {what}")
    except InvalidPlan as error:
        yield _at(resource, line, str(error))


def _agent_problems(agent: AgentFile, catalog: Catalog) -> list[Problem]:
    """What an agent names that is not there."""
    known = ", ".join(sorted(TOOL_NAMES))
    problems = [
        _at(agent, 0, f"there is no tool {name!r}; there are {known}, mcp__server__tool")
        for name in agent.tools
        if name not in TOOL_NAMES and not _MCP_TOOL.fullmatch(name)
    ]
    problems += [
        _at(agent, 0, f"deny_tools: there is no tool {name!r}; there are {known}, mcp__server__tool")
        for name in agent.deny_tools
        if not _MCP_TOOL.fullmatch(name) and not any(matches(name, tool) for tool in TOOL_NAMES)
    ]
    problems += _missing_skills(agent, 0, agent.skills, catalog)
    problems += _schema_problems(agent, 0, agent.schema, agent.schema_form, f"agent {agent.name!r}")
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
        problems += _agent_problems(agent, catalog)
    for workflow in catalog.workflows.values():
        problems += _workflow_problems(workflow)
        for step in workflow.steps:
            problems += _missing_skills(workflow, step.line, step.skills or (), catalog)
    for team in catalog.teams.values():
        problems += _team_problems(team, catalog)
    return problems


def _team_problems(team: TeamFile, catalog: Catalog) -> Iterator[Problem]:
    for role in team.roles.values():
        if role.agent not in catalog.agents:
            message = f"role {role.name!r}: {catalog.missing(Kind.AGENT, role.agent)}"
            yield _at(team, role.line, message)
        yield from _missing_skills(team, role.line, role.skills or (), catalog)
    if team.default_workflow is None:
        return
    workflow = catalog.workflows.get(team.default_workflow)
    if workflow is None:
        message = f"its workflow cannot be run: {catalog.missing(Kind.WORKFLOW, team.default_workflow)}"
        yield _at(team, 0, message)
        return
    for step in workflow.steps:
        if step.role not in team.roles:
            unknown = UnknownName("role", step.role, team.roles)
            yield _at(team, 0, f"its workflow {workflow.name!r} cannot be run: step {step.id!r}: {unknown}")
