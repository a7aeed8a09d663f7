"""`run --detach`: hand a run to a supervisor of its own and come back at once."""

from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING, Final

from crew_plugin.cli.invoke import print_json
from crew_plugin.cli.place import Place, program
from crew_plugin.detached.start import can_detach, start_detached
from crew_plugin.engine.submit import new_run_of, new_tasks_of
from crew_plugin.errors import HostUnsupported
from crew_plugin.hosting import load_checkup, need_model
from crew_plugin.models.states import SessionKind
from crew_plugin.resources import Catalog, discover
from crew_plugin.store.sqlite import SqliteStore

if TYPE_CHECKING:
    from crew_plugin.config import Settings
    from crew_plugin.models.spec import RunSpec
    from crew_plugin.project import Project

__all__ = ["start_and_leave"]

ACTOR: Final = "operator"


def start_and_leave(
    place: Place,
    project: "Project",
    settings: "Settings",
    plan: "Callable[[Catalog], RunSpec]",
    *,
    asks_model: bool,
    json: bool,
) -> int:
    """Write the run down, start its supervisor, say how to follow it. What would keep it from working is
    told before anything is written."""
    if not can_detach():
        raise HostUnsupported("this system has no processes without a terminal; leave --detach out")
    if asks_model:
        need_model(load_checkup().report())
    spec = plan(discover(project.root, settings))
    if not asks_model:
        spec = spec.model_copy(update={"runtime": SessionKind.SCAFFOLD})
    with closing(SqliteStore.open(project)) as store:
        new = new_run_of(spec, parent=None, background=True)
        tasks = new_tasks_of(spec, max_dispatches=settings.limits.max_dispatches)
        run = store.create_run(new, tasks, actor=ACTOR)
    detached = start_detached(project, run.id)
    owner = detached.run.owner
    if json:
        print_json({"run_id": run.id, "pid": owner.pid if owner else None, "log": str(detached.log)})
        return 0
    crew, where = program(), place.options()
    print(
        f"run {run.id} goes on in the background{f' (process {owner.pid})' if owner else ''}\n"
        f"log: {detached.log}\nnext:\n  {crew} events {run.id} --follow{where}\n"
        f"  {crew} status {run.id}{where}\n  {crew} cancel {run.id}{where}"
    )
    return 0
