"""`forget` and `prune`: delete ended runs."""

from contextlib import closing, suppress
from dataclasses import asdict
from typing import Any, Final

from crew_plugin.cli.confirm import need_confirmation
from crew_plugin.cli.invoke import Exit, print_json
from crew_plugin.cli.place import Place
from crew_plugin.config import load_settings
from crew_plugin.consent import Consent
from crew_plugin.detached.start import log_of
from crew_plugin.engine.forget import Thinning, deed_of, may_forget, overdue, thinnings
from crew_plugin.errors import Forgotten, InvalidValue, NotAllowed
from crew_plugin.models.records import Removal, RunRecord, Thinned
from crew_plugin.project import Project
from crew_plugin.store.liveness import current_owner
from crew_plugin.ui.text import one_line

__all__ = ["forget", "prune"]

ACTOR: Final = "operator"


def forget(*, place: Place, json: bool, run: str, force: bool, yes: bool, intent: str | None) -> int:
    """Delete one ended run."""
    with place.reading_run(run) as (store, run_id):
        record = may_forget(store, run_id, None, current_owner(), force=force)
        deed = deed_of(store, [record])
    why = need_confirmation(place, deed, Consent(confirmed=yes, intent=intent))
    removed, freed = _forgotten(place, record, why, force=force)
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
    for name, number in (("--days", days), ("--keep", keep), ("--details", details)):
        if number is not None and number < 0:
            raise InvalidValue(name, number, "0 or more")
    settings = load_settings(place.find().root)
    with place.reading() as store:
        old = overdue(
            store,
            days=settings.keep.days if days is None else days,
            keep=settings.keep.runs if keep is None else keep,
        )
        thin = thinnings(
            store,
            days=settings.keep.details_days if details is None else details,
            megabytes=settings.keep.details_mb,
            beside={run.id for run in old},
        )
        deeds = [deed_of(store, old)] if old else []
    if thin:
        size = sum(each.size for each in thin) / 1e6
        which = f"run {thin[0].run.id}" if len(thin) == 1 else f"{len(thin):,} ended runs"
        deeds.append(f"delete the details of {which} ({size:,.1f} MB); results stay")
    removed: list[Removal] = []
    thinned: list[Thinned] = []
    freed = 0
    if deeds and not dry_run:
        why = need_confirmation(place, ", and ".join(deeds), Consent(confirmed=yes, intent=intent))
        removed, thinned, freed = _pruned(place, old, thin, why)
    if json:
        print_json(
            {
                "forgotten": [_json(each) for each in removed],
                "would_forget": [run.id for run in old] if dry_run else [],
                "thinned": [_json(each) for each in thinned],
                "would_thin": [each.run.id for each in thin] if dry_run else [],
                "freed_bytes": freed,
            }
        )
    elif not deeds:
        print("no ended run is older or further back than what is kept")
    elif dry_run:
        lines = [f"{run.id}  {run.state}  {one_line(run.goal, 60)}" for run in old]
        lines += [f"{each.run.id}  details only: {each.because}" for each in thin]
        print("\n".join([*lines, f"this would {', and '.join(deeds)}"]))
    else:
        print(
            f"{len(removed):,} runs are forgotten, {len(thinned):,} have lost their details; "
            f"{freed / 1e6:,.1f} MB of bodies were freed"
        )
    return Exit.OK


def _forgotten(place: Place, run: RunRecord, why: str, *, force: bool) -> tuple[Removal, int]:
    """One run is deleted. Returns the freed bytes, too."""
    from crew_plugin.store.sqlite import SqliteStore

    project = place.find()
    with closing(SqliteStore.open(project)) as store:
        removed = store.forget_run(run.id, actor=ACTOR, reason=why, undelivered=force)
        _remove_log(project, run.id)
        return removed, store.sweep_bodies(removed.bodies)[1]


def _pruned(
    place: Place, runs: list[RunRecord], thin: list[Thinning], why: str
) -> tuple[list[Removal], list[Thinned], int]:
    """They are deleted one by one, and then all bodies that nothing refers to."""
    from crew_plugin.store.sqlite import SqliteStore

    project = place.find()
    said = f": {why}" if why else ""
    removed: list[Removal] = []
    thinned: list[Thinned] = []
    with closing(SqliteStore.open(project)) as store:
        for run in runs:
            # Meanwhile it may have been opened again, or deleted by somebody else.
            with suppress(NotAllowed, Forgotten):
                removed.append(store.forget_run(run.id, actor=ACTOR, reason=f"pruned{said}"))
                _remove_log(project, run.id)
        for each in thin:
            with suppress(NotAllowed, Forgotten):
                because = f"{each.because}{said}"
                thinned.append(store.thin_run(each.run.id, actor=ACTOR, because=because, events=each.events))
        return removed, thinned, store.sweep_bodies()[1]


def _remove_log(project: Project, run_id: str) -> None:
    """What the detached supervisor of a run wrote goes with it."""
    with suppress(OSError):
        log_of(project, run_id).unlink()


def _json(removed: Removal | Thinned) -> dict[str, Any]:
    document = asdict(removed)
    del document["bodies"]
    return document
