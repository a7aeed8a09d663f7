"""`list`: what there is to choose from, what is wrong with it, and the newest runs."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from crew_plugin.host import ToolContext, ToolOutput
from crew_plugin.resources.catalog import Catalog
from crew_plugin.resources.models import Kind, Resource, TeamFile, WorkflowFile
from crew_plugin.ui.text import one_line, runs_text, shorten
from crew_plugin.ui.views import run_rows
from crew_tools.params import Params
from crew_tools.team.answer import LIMIT, quoted

if TYPE_CHECKING:
    from crew_plugin.crew import Crew

__all__ = ["PARAMETERS", "ListParams", "act"]

_KINDS = (Kind.TEAM, Kind.WORKFLOW, Kind.AGENT, Kind.SKILL)
_MOST_PROBLEMS = 20
_SCREEN = 76
"""A chat in a terminal of 80 columns has room for so many."""


class ListParams(Params):
    """What to list; everything when left out."""

    resource: Literal["agent", "team", "workflow", "skill", "run"] | None = Field(
        default=None, description="list, get: the kind of resource."
    )
    limit: int = Field(default=10, ge=1, le=200, description="How many runs or events.")


PARAMETERS = ListParams


async def act(crew: "Crew", params: ListParams, context: ToolContext) -> ToolOutput:
    """List it."""
    lines: list[str] = []
    if params.resource != "run":
        catalog = await crew.catalog()
        for kind in _KINDS:
            if params.resource in (None, kind.value):
                lines.extend(_kind(catalog, kind))
        lines.extend(_problems(catalog))
    if params.resource in (None, "run"):
        rows = await crew.writer.read(lambda store: run_rows(store, limit=params.limit))
        text = runs_text(rows, width=_SCREEN if context.by_hand else None)
        # What was imported may have been written by anybody.
        lines.extend(["newest runs:", quoted(text) if any(row.imported for row in rows) else text])
    text = "\n".join(lines)
    return ToolOutput(
        text=shorten(text, LIMIT, 'action="list" with resource="agent", "team", "workflow", "skill" or "run"')
    )


def _kind(catalog: Catalog, kind: Kind) -> Iterator[str]:
    resources = catalog.of(kind)
    yield f"{kind.folder}:" if resources else f"{kind.folder}: none"
    for name in sorted(resources):
        resource = resources[name]
        trust = "" if resource.trusted else ", not trusted"
        yield f"  {name} ({resource.source}{trust}): {one_line(_about(resource), 200)}"


def _about(resource: Resource) -> str:
    parts = [resource.description] if resource.description else []
    if isinstance(resource, TeamFile):
        roles = ", ".join(f"{role.name}={role.agent}" for role in resource.roles.values())
        parts.append(f"roles {roles}; workflow {resource.default_workflow or 'to be named'}")
    if isinstance(resource, WorkflowFile):
        parts.append("steps " + " > ".join(step.id for step in resource.steps))
    return "; ".join(part.rstrip(".") for part in parts)


def _problems(catalog: Catalog) -> Iterator[str]:
    told = [str(problem) for problem in catalog.problems]
    told += [f"{item.path}: {item.kind} {item.name} is not used: {item.reason}" for item in catalog.hidden]
    if told:
        yield "problems:"
        yield from (f"  {one_line(problem, 300)}" for problem in told[:_MOST_PROBLEMS])
    if len(told) > _MOST_PROBLEMS:
        yield f"  ... {len(told) - _MOST_PROBLEMS} more; crew doctor lists them"
