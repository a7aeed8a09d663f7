"""`forget`, `prune` and `cleanup`: delete ended runs, and what nothing owns any more."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from typing import Any, Final

from crew_plugin.cli.confirm import need_confirmation
from crew_plugin.cli.hooked import Leave
from crew_plugin.cli.invoke import Exit, print_json
from crew_plugin.cli.place import Place
from crew_plugin.config import load_settings
from crew_plugin.consent import Consent
from crew_plugin.engine import cleanup as leftovers
from crew_plugin.engine import forget as runs
from crew_plugin.errors import InvalidValue, NotAllowed
from crew_plugin.hookspecs import Removing
from crew_plugin.models.records import RunRecord
from crew_plugin.models.removal import Removal, Thinned
from crew_plugin.store.liveness import current_owner
from crew_plugin.store.port import RunStore
from crew_plugin.ui.text import one_line, pruned_text

__all__ = ["cleanup", "forget", "prune"]

ACTOR: Final = "operator"


def forget(*, place: Place, json: bool, run: str, force: bool, yes: bool, intent: str | None) -> int:
    """Delete one ended run."""
    from crew_plugin.store.sqlite import SqliteStore

    with place.reading_run(run) as (store, run_id):
        record = runs.may_forget(store, run_id, None, current_owner(), force=force)
        deed = runs.deed_of(store, [record])
    why = need_confirmation(place, deed, Consent(confirmed=yes, intent=intent))
    project = place.find()
    with closing(SqliteStore.open(project)) as own:
        event = Removing(run_id=record.id, actor=ACTOR, reason=why)
        Leave(place).need("before_forget", event, own)
        removed, freed = runs.forget(own, project, record, actor=ACTOR, why=why, force=force)
    if json:
        print_json({"forgotten": _json(removed), "freed_bytes": freed})
    else:
        print(f"run {record.id} is forgotten; {freed / 1e6:,.1f} MB of bodies were freed")
    return Exit.OK


def prune(
    *,
    place: Place,
    json: bool,
    days: int | None,
    keep: int | None,
    details: int | None,
    dry_run: bool,
    yes: bool,
    intent: str | None,
) -> int:
    """Delete ended runs that are too old or too many."""
    from crew_plugin.store.sqlite import SqliteStore

    for name, number in (("--days", days), ("--keep", keep), ("--details", details)):
        if number is not None and number < 0:
            raise InvalidValue(name, number, "0 or more")
    project = place.find()
    settings = load_settings(project.root)
    with place.reading() as store:
        old = runs.overdue(
            store,
            days=settings.keep.days if days is None else days,
            keep=settings.keep.runs if keep is None else keep,
        )
        thin = runs.thinnings(
            store,
            days=settings.keep.details_days if details is None else details,
            megabytes=settings.keep.details_mb,
            beside={run.id for run in old},
        )
        deed = runs.deed_of(store, old, thin)
    removed: list[Removal] = []
    thinned: list[Thinned] = []
    kept: list[str] = []
    freed = 0
    if deed and not dry_run:
        why = need_confirmation(place, deed, Consent(confirmed=yes, intent=intent))
        with closing(SqliteStore.open(project)) as own:
            old, kept = _allowed(place, own, old, why)
            removed, thinned, freed = runs.prune(own, project, old, thin, actor=ACTOR, why=why)
    if json:
        print_json(
            {
                "forgotten": [_json(each) for each in removed],
                "would_forget": [run.id for run in old] if dry_run else [],
                "kept_by_hooks": kept,
                "thinned": [_json(each) for each in thinned],
                "would_thin": [each.run.id for each in thin] if dry_run else [],
                "freed_bytes": freed,
            }
        )
    elif not deed:
        print("no ended run is older or further back than what is kept")
    elif dry_run:
        lines = [f"{run.id}  {run.state}  {one_line(run.goal, 60)}" for run in old]
        lines += [f"{each.run.id}  details only: {each.because}" for each in thin]
        print("\n".join([*lines, f"this would {deed}"]))
    else:
        print("\n".join([pruned_text(removed, thinned, freed), *kept]))
    return Exit.OK


def cleanup(
    *, place: Place, json: bool, run: str | None, force: bool, dry_run: bool, yes: bool, intent: str | None
) -> int:
    """Remove what nothing owns any more, of one run or of the whole project."""
    from crew_plugin.store.sqlite import SqliteStore

    project = place.find()
    with place.reading() as store:
        run_id = None if run is None else leftovers.run_to_clean(store, run, None, force=force)
        found = leftovers.find_leftovers(store, project, run_id)
    done = leftovers.Leftovers()
    if found and not dry_run:
        why = need_confirmation(place, str(found), Consent(confirmed=yes, intent=intent))
        Leave(place).need("before_cleanup", Removing(run_id=run_id, actor=ACTOR, reason=why))
        with closing(SqliteStore.open(project)) as own:
            done = leftovers.clean_up(own, project, run_id, actor=ACTOR, why=why)
    if json:
        print_json({"removed": done.as_json(), "would_remove": found.as_json() if dry_run else None})
    elif not found:
        print(leftovers.NOTHING)
    else:
        print("\n".join((found if dry_run else done).lines()))
        print(f"this would {found}" if dry_run else f"done: {done}")
    return Exit.OK


def _allowed(
    place: Place, store: RunStore, old: Sequence[RunRecord], why: str
) -> tuple[list[RunRecord], list[str]]:
    """Those that no hook wants to keep, and what to say about the others."""
    allowed: list[RunRecord] = []
    kept: list[str] = []
    leave = Leave(place)
    for run in old:
        try:
            leave.need("before_forget", Removing(run_id=run.id, actor=ACTOR, reason=why), store)
        except NotAllowed as error:
            kept.append(f"run {run.id} stays: {error}")
        else:
            allowed.append(run)
    return allowed, kept


def _json(removed: Removal | Thinned) -> dict[str, Any]:
    document = asdict(removed)
    del document["bodies"]
    return document
