"""`agents`, `teams`, `workflows` and `init`: what a project has to choose from, and how to add to it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crew_plugin.cli.invoke import print_json
from crew_plugin.cli.place import Place, program, terminal_width
from crew_plugin.resources import (
    AgentFile,
    Catalog,
    Kind,
    Problem,
    Resource,
    TeamFile,
    WorkflowFile,
    discover,
)
from crew_plugin.resources.check import catalog_problems
from crew_plugin.ui.text import columns, one_line, printable

__all__ = ["agents", "init", "teams", "workflows"]


def agents(*, place: Place, json: bool, name: str | None) -> int:
    """List agents, or show one."""
    return _list_or_show(Kind.AGENT, place, name, as_json=json)


def teams(*, place: Place, json: bool, name: str | None) -> int:
    """List teams, or show one."""
    return _list_or_show(Kind.TEAM, place, name, as_json=json)


def workflows(*, place: Place, json: bool, name: str | None) -> int:
    """List workflows, or show one."""
    return _list_or_show(Kind.WORKFLOW, place, name, as_json=json)


def init(*, place: Place, json: bool, dry_run: bool, overwrite: bool) -> int:
    """Make the project's own folder."""
    from crew_plugin.config import init_project

    report = init_project(place.find().root, dry_run=dry_run, overwrite=overwrite)
    if json:
        print_json(
            {
                "root": str(report.root),
                "dry_run": dry_run,
                "items": [{"path": str(item.path), "state": str(item.state)} for item in report.items],
            }
        )
        return 0
    rows = [(str(item.state), str(item.path.relative_to(report.root))) for item in report.items]
    print("\n".join([f"project {report.root}", *columns(rows)]))
    if not dry_run:
        print(f"next: look at .crew/config.toml, then {program()} doctor{place.options()}")
    return 0


def _list_or_show(kind: Kind, place: Place, name: str | None, *, as_json: bool) -> int:
    from crew_plugin.config import load_settings

    root = place.find().root
    catalog = discover(root, load_settings(root))
    if name is None:
        _print_list(kind, catalog, as_json=as_json)
        return 0
    found = catalog.of(kind).get(name)
    if found is None:
        raise catalog.missing(kind, name)
    if as_json:
        print_json(_full(found))
    else:
        print(_full_text(found))
    return 0


def _print_list(kind: Kind, catalog: Catalog, *, as_json: bool) -> None:
    found = sorted(catalog.of(kind).values(), key=lambda item: item.name)
    problems = _about(kind, [*catalog.problems, *catalog_problems(catalog)])
    notices = _about(kind, catalog.notices)
    hidden = [item for item in catalog.hidden if item.kind is kind]
    if as_json:
        print_json(
            {
                kind.folder: [_brief(item) for item in found],
                "hidden": [
                    {
                        "name": item.name,
                        "source": str(item.source),
                        "path": str(item.path),
                        "reason": item.reason,
                    }
                    for item in hidden
                ],
                "problems": [_problem(item) for item in problems],
                "notices": [_problem(item) for item in notices],
            }
        )
        return
    rows = [(item.name, _source(item), _extra(item), one_line(item.description, 120)) for item in found]
    lines = columns(rows, width=terminal_width()) or [f"no {kind.folder}"]
    lines.extend(f"not used: {item.name} ({item.path}): {item.reason}" for item in hidden)
    lines.extend(f"problem: {item}" for item in problems)
    lines.extend(f"notice: {item}" for item in notices)
    print(printable("\n".join(lines)))


def _about(kind: Kind, problems: Sequence[Problem]) -> list[Problem]:
    def folder(path: Path) -> tuple[str, str]:
        return path.parent.name, path.parent.parent.name

    return [item for item in problems if kind.folder in (item.path.name, *folder(item.path))]


def _source(item: Resource) -> str:
    return str(item.source) if item.trusted else f"{item.source}, not trusted"


def _extra(item: Resource) -> str:
    if isinstance(item, AgentFile):
        return ", ".join(item.tools) or "no tools"
    if isinstance(item, TeamFile):
        return ", ".join(f"{role.name}={role.agent}" for role in item.roles.values())
    if isinstance(item, WorkflowFile):
        return ", ".join(step.id for step in item.steps)
    return ""


def _problem(item: Problem) -> dict[str, Any]:
    return {"path": str(item.path), "line": item.line, "message": item.message}


def _brief(item: Resource) -> dict[str, Any]:
    return {
        "name": item.name,
        "description": item.description,
        "source": str(item.source),
        "trusted": item.trusted,
        "path": str(item.path),
    }


def _full(item: Resource) -> dict[str, Any]:
    facts = _brief(item)
    if isinstance(item, AgentFile):
        facts["agent"] = item.to_spec().model_dump(mode="json")
    elif isinstance(item, TeamFile):
        facts["default_workflow"] = item.default_workflow
        facts["max_concurrency"] = item.max_concurrency
        facts["roles"] = [
            {"name": role.name, "agent": role.agent, "model": role.model, "description": role.description}
            for role in item.roles.values()
        ]
    elif isinstance(item, WorkflowFile):
        facts["max_concurrency"] = item.max_concurrency
        facts["steps"] = [
            {
                "id": step.id,
                "role": step.role,
                "task": step.task,
                "depends_on": list(step.depends_on),
                "reads": list(step.reads),
                "output": step.output,
                "optional": step.optional,
            }
            for step in item.steps
        ]
    return facts


def _full_text(item: Resource) -> str:
    lines = [f"{item.name}: {item.description}", f"{_source(item)}  {item.path}"]
    if isinstance(item, AgentFile):
        lines += [
            f"tools: {', '.join(item.tools) or 'none'} (submit_result and irc always)",
            f"model: {item.model or "the run's, else the host's"}",
            f"skills: {', '.join(item.skills) or 'none'}",
            "",
            item.prompt,
        ]
    elif isinstance(item, TeamFile):
        lines.append(f"workflow: {item.default_workflow or item.name}")
        lines += [
            f"  {line}"
            for line in columns([(role.name, role.agent, role.description) for role in item.roles.values()])
        ]
        lines += ["", item.notes] if item.notes else []
    elif isinstance(item, WorkflowFile):
        for step in item.steps:
            after = f", after {', '.join(step.depends_on)}" if step.depends_on else ""
            lines += ["", f"## {step.id} (role {step.role}{after})", step.task]
    return printable("\n".join(lines))
