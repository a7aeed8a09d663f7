"""`get`: one resource in full, or all there is of one task."""

from typing import TYPE_CHECKING, Literal

from pydantic import AliasChoices, Field

from crew_plugin.errors import CallerError
from crew_plugin.host import ToolContext, ToolOutput
from crew_plugin.store.port import RunStore
from crew_plugin.ui.text import shorten
from crew_tools.params import Params
from crew_tools.team.answer import LIMIT, task_answer
from crew_tools.team.shown import resource_text

if TYPE_CHECKING:
    from crew_plugin.crew import Crew

__all__ = ["PARAMETERS", "GetParams", "act"]


class GetParams(Params):
    """What to show."""

    resource: Literal["agent", "team", "workflow", "skill"] | None = Field(
        default=None, description="list, get: the kind of resource."
    )
    name: str | None = Field(default=None, description="get: the name of the resource.")
    agent: str | None = Field(default=None, description="One agent alone instead of a team.")
    team: str | None = Field(default=None, description="A team's name; fast-fix when nothing is named.")
    workflow: str | None = Field(default=None, description="Another workflow than the team's own.")
    run_id: str | None = Field(
        default=None,
        description='The run: its id, at least four characters of its beginning or end, or "last".',
    )
    task_id: str | None = Field(
        default=None,
        validation_alias=AliasChoices("task_id", "task"),
        description="One task of the run, by its key.",
    )


PARAMETERS = GetParams


async def act(crew: "Crew", params: GetParams, context: ToolContext) -> ToolOutput:
    """Show it."""
    if params.run_id is not None or params.task_id is not None:
        run_id = params.run_id or "last"
        return await crew.writer.read(lambda store: _task(store, run_id, params.task_id))
    kind, name = _wanted(params)
    shown = resource_text(await crew.catalog(), kind, name)
    return ToolOutput(
        text=shorten(shown.text, LIMIT, str(shown.path)),
        details={"resource": kind, "name": name, "path": str(shown.path), "source": shown.source},
    )


def _wanted(params: GetParams) -> tuple[str, str]:
    if params.resource is not None and params.name is not None:
        return params.resource, params.name
    for kind, name in (("agent", params.agent), ("team", params.team), ("workflow", params.workflow)):
        if name is not None:
            return kind, name
    if params.name is not None:
        raise CallerError("resource is needed with name: one of agent, team, workflow, skill")
    raise CallerError("name what to show: agent, team or workflow; resource and name; or run_id and task_id")


def _task(store: RunStore, wanted: str, key: str | None) -> ToolOutput:
    run_id = store.load_run(wanted).id
    if key is None:
        tasks = store.load_tasks(run_id)
        if len(tasks) != 1:
            keys = ", ".join(task.key for task in tasks[:30])
            raise CallerError(f"task_id is needed: run {run_id} has the tasks {keys}")
        key = tasks[0].key
    record = store.load_task(run_id, key)
    return ToolOutput(
        text=task_answer(store, run_id, record.key),
        details={"run_id": run_id, "task": record.key, "state": str(record.state)},
    )
