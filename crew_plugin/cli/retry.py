"""`retry`: tries tasks of a run again, in this process or in the one that drives the run."""

import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from crew_plugin.cli.invoke import Exit, print_json
from crew_plugin.cli.place import Place
from crew_plugin.cli.supervise import Errand, supervise
from crew_plugin.config import load_settings
from crew_plugin.engine.retry import Again, Retried, reopen_or_ask, retried_in_place
from crew_plugin.errors import NotAllowed
from crew_plugin.models.records import RunRecord
from crew_plugin.models.states import RUN_TERMINAL
from crew_plugin.resources import Catalog
from crew_plugin.store.liveness import current_owner

if TYPE_CHECKING:
    from crew_plugin.crew import Crew
    from crew_plugin.models.spec import RunSpec

__all__ = ["asked_to_retry", "retry"]

ACTOR: Final = "operator"
_ANSWER_SECONDS: Final = 10.0
_LOOK_SECONDS: Final = 0.03


def retry(
    *,
    place: Place,
    json: bool,
    run: str,
    tasks: list[str] | None,
    model: str | None,
    text: str | None,
    force: bool,
    quiet: bool,
) -> int:
    """Try tasks of a run again."""
    with place.reading_run(run) as (store, run_id):
        record = store.load_run(run_id)
    again = Again(
        run=run_id,
        actor=ACTOR,
        tasks=tuple(tasks or ()),
        model=model,
        text=text or "",
        # What no chat asked for was started by an operator, and is an operator's to retry.
        force=force or record.parent is None,
    )
    if record.state in RUN_TERMINAL:
        return _here(place, record, lambda crew: _retried(crew, again), as_json=json, quiet=quiet)
    retried = asked_to_retry(place, again)
    if not retried.in_place:
        # It ended just then, and is open again: nobody else drives it.
        return _here(place, record, lambda crew: _adopted(crew, run_id), as_json=json, quiet=quiet)
    if json:
        print_json({"run_id": retried.run_id, "retried": list(retried.tasks), "in_place": True})
    else:
        print(f"run {retried.run_id} goes on and tries again: {', '.join(retried.tasks)}")
    return Exit.OK


async def _retried(crew: "Crew", again: Again) -> str:
    return (await crew.supervisor.retry(again)).run_id


async def _adopted(crew: "Crew", run_id: str) -> str:
    return (await crew.supervisor.adopt(run_id)).id


def _here(
    place: Place,
    run: RunRecord,
    begin: "Callable[[Crew], Awaitable[str]]",
    *,
    as_json: bool,
    quiet: bool,
) -> int:
    from crew_plugin.models.spec import RunSpec

    def plan(catalog: Catalog) -> "RunSpec":
        return RunSpec.model_validate_json(run.spec)

    project = place.find()
    return supervise(
        Errand(
            place=place,
            project=project,
            settings=load_settings(project.root),
            plan=plan,
            asks_model=True,
            json=as_json,
            quiet=quiet,
            begin=begin,
        )
    )


def asked_to_retry(place: Place, again: Again) -> Retried:
    """Ask the process that drives the run, and wait for its answer, within bounds. A run that has ended
    is open again then, for whoever asks to drive."""
    from crew_plugin.store.sqlite import SqliteStore

    store = SqliteStore.open(place.find())
    try:
        asked = reopen_or_ask(store, again, current_owner())
        deadline = time.monotonic() + _ANSWER_SECONDS
        while not isinstance(asked, Retried):
            found = retried_in_place(store, asked)
            if found is not None:
                return found
            if time.monotonic() > deadline:
                raise NotAllowed("its supervisor was asked to retry and has not answered yet")
            time.sleep(_LOOK_SECONDS)
    finally:
        store.close()
    return asked
