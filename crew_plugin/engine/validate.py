"""What is wrong with a workflow and the team that is to do it, each problem with its place."""

from collections import Counter
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter

from crew_plugin.errors import UnknownName
from crew_plugin.resources.models import Role, Step, TeamFile, WorkflowFile

__all__ = ["step_problems"]


def step_problems(workflow: WorkflowFile, team: TeamFile | None, roles: Mapping[str, Role]) -> list[str]:
    """Everything that keeps these steps from being run, in the order of the file."""
    if not workflow.steps:
        return [f"{workflow.path}: it has no steps"]
    found = [*_duplicates(workflow.steps), *_cycles(workflow.steps)]
    for step in workflow.steps:
        found += [(step.line, problem) for problem in _problems(step, workflow, team, roles)]
    return [f"{workflow.path}:{line}: {problem}" for line, problem in sorted(found)]


def _problems(
    step: Step, workflow: WorkflowFile, team: TeamFile | None, roles: Mapping[str, Role]
) -> Iterator[str]:
    ids = {each.id for each in workflow.steps}
    if step.role not in roles:
        kind = f"role in team {team.name!r}" if team else "role"
        yield f"step {step.id!r}: {UnknownName(kind, step.role, roles)}"
    for name in step.depends_on:
        if name not in ids:
            yield f"step {step.id!r} depends on a step that is not there: {UnknownName('step', name, ids)}"
    upstream = _upstream(step, workflow.steps)
    makers = {each.output: each.id for each in workflow.steps if each.output}
    for name in step.reads:
        if name not in makers:
            yield f"step {step.id!r} reads what no step puts out: {UnknownName('output', name, makers)}"
        elif makers[name] not in upstream:
            yield (
                f"step {step.id!r} reads {name!r} of step {makers[name]!r} but does not depend on it, "
                "so it may not be there yet; add it to depends_on"
            )


def _duplicates(steps: tuple[Step, ...]) -> list[tuple[int, str]]:
    counts = Counter(step.id for step in steps)
    first = {step.id: step.line for step in reversed(steps)}
    return [
        (step.line, f"step {step.id!r} is there {counts[step.id]} times, first in line {first[step.id]}")
        for step in steps
        if counts[step.id] > 1 and step.line != first[step.id]
    ]


def _cycles(steps: tuple[Step, ...]) -> list[tuple[int, str]]:
    lines = {step.id: step.line for step in steps}
    graph = {step.id: [dep for dep in step.depends_on if dep in lines] for step in steps}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        circle: list[str] = error.args[1]
        return [(lines[circle[0]], "steps wait for each other in a circle: " + " -> ".join(circle))]
    return []


def _upstream(step: Step, steps: tuple[Step, ...]) -> set[str]:
    """Every step that has ended when this one starts."""
    by_id = {each.id: each for each in steps}
    found: set[str] = set()
    work = list(step.depends_on)
    while work:
        name = work.pop()
        if name not in found and name in by_id:
            found.add(name)
            work += by_id[name].depends_on
    return found
