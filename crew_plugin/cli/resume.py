"""`resume`: go on with a run whose process is gone, or with an agent of an earlier run, in this process."""

from typing import TYPE_CHECKING

from crew_plugin.cli.place import Place
from crew_plugin.cli.supervise import Errand, supervise
from crew_plugin.config import load_settings
from crew_plugin.engine.resume import decisions_of, find_interrupted, plan_resume
from crew_plugin.engine.takeover import TakeOver
from crew_plugin.errors import InvalidValue, LeaseHeld
from crew_plugin.models.records import RunRecord
from crew_plugin.models.states import SessionKind
from crew_plugin.resources import Catalog
from crew_plugin.store.liveness import owner_alive

if TYPE_CHECKING:
    from crew_plugin.models.spec import RunSpec

__all__ = ["resume"]

ACTOR = "operator"
_LOOK_SECONDS = 0.5


def resume(*, place: Place, json: bool, run: str, words: list[str], decide: str | None, quiet: bool) -> int:
    """Go on with a run, or with an agent of one."""
    if not any(word.strip() for word in words):
        return _take_over(place, json=json, run=run, decide=decide, quiet=quiet)
    if decide is not None:
        raise InvalidValue("--decide", decide, "left out where TEXT is given: it is about the run itself")
    task, text = (words[0], " ".join(words[1:])) if len(words) > 1 else (None, words[0])
    project = place.find()
    with place.reading() as store:
        planned = plan_resume(store, run=run, task=task, text=text)

    def plan(catalog: Catalog) -> "RunSpec":
        return planned

    return supervise(
        Errand(
            place=place,
            project=project,
            settings=load_settings(project.root),
            plan=plan,
            asks_model=True,
            json=json,
            quiet=quiet,
        )
    )


def _take_over(place: Place, *, json: bool, run: str, decide: str | None, quiet: bool) -> int:
    decisions = decisions_of(decide or "")
    project = place.find()
    settings = load_settings(project.root)
    with place.reading_run(run) as (store, run_id):
        record = find_interrupted(store, run_id)
    still = _stands_still(place, record, settings.recovery.lease_seconds)
    return supervise(
        Errand(
            place=place,
            project=project,
            settings=settings,
            adopts=(record.id, TakeOver(still=still, decisions=decisions, actor=ACTOR)),
            asks_model=record.runtime is not SessionKind.SCAFFOLD,
            json=json,
            quiet=quiet,
        )
    )


def _stands_still(place: Place, record: RunRecord, seconds: float) -> int | None:
    """The count at which the lease of a living process stands; None where the process is gone. Raises
    `LeaseHeld` as soon as it renews: then it works."""
    import time

    if record.owner is None or not owner_alive(record.owner):
        return None
    begun = time.monotonic()
    while time.monotonic() - begun < seconds:
        time.sleep(_LOOK_SECONDS)
        with place.reading_run(record.id) as (store, run_id):
            now = store.load_run(run_id)
        if now.owner is None or not owner_alive(now.owner):
            return None
        if (now.epoch, now.renewals) != (record.epoch, record.renewals):
            raise LeaseHeld(record.id, now.owner.pid)
    return record.renewals
