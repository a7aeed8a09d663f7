"""Deleting ended runs: which of them may be deleted, one or those that are too old, and doing it.

Needs a store of its own and no event loop: a run goes in one transaction, its bodies in a later one.
"""

import time
from collections.abc import Sequence
from contextlib import suppress

from crew_plugin.engine.cancel import is_foreign, whose
from crew_plugin.errors import Forgotten, NotAllowed
from crew_plugin.models.records import Owner, ParentRef, Removal, RunRecord
from crew_plugin.models.states import RUN_TERMINAL
from crew_plugin.observe.owed import OWED
from crew_plugin.project import Project
from crew_plugin.store.port import RunStore

__all__ = ["deed_of", "forget", "may_forget", "of_another", "overdue", "prune"]

_DAY = 86_400.0


def may_forget(
    store: RunStore, run_id: str, caller: ParentRef | None, me: Owner, *, force: bool
) -> RunRecord:
    """The run that is to be deleted. Raises `NotAllowed` where it has not ended, and where it belongs
    to somebody else; only the last can be forced."""
    run = store.load_run(run_id)
    if run.state not in RUN_TERMINAL:
        raise NotAllowed(f"run {run.id} is {run.state}: only an ended run can be forgotten; cancel it first")
    if force:
        return run
    if is_foreign(run, caller, me) or (caller is None and run.parent is not None):
        raise NotAllowed(f"run {run.id} is not forgotten: {whose(run, 'delete it')}")
    return run


def deed_of(store: RunStore, runs: Sequence[RunRecord]) -> str:
    """What would be done, to be confirmed."""
    refs = [ref for run in runs for ref in store.list_artifacts(run.id)]
    size = sum({ref.sha256: ref.size for ref in refs}.values())
    what = f"run {runs[0].id}" if len(runs) == 1 else f"{len(runs):,} ended runs"
    return f"delete {what} for good, with {len(refs):,} artifacts ({size / 1e6:,.1f} MB)"


def overdue(
    store: RunStore, *, days: float, keep: int, caller: ParentRef | None = None, force: bool = True
) -> list[RunRecord]:
    """The ended runs beyond the newest `keep`, and those that ended, or were imported, more than `days`
    ago, oldest first. Those that owe results are left out, and without `force` those that another
    session than `caller` asked for."""
    owing = {delivery.run_id for delivery in store.list_deliveries(states=OWED)}
    ended = store.list_runs(states=sorted(RUN_TERMINAL), limit=1_000_000)
    before = time.time() - days * _DAY
    return [
        run
        for place, run in enumerate(ended)
        if run.id not in owing
        and (place >= keep or _here_since(run) < before)
        and (force or caller is None or not of_another(run, caller))
    ][::-1]


def forget(
    store: RunStore, project: Project, run: RunRecord, *, actor: str, why: str, force: bool
) -> tuple[Removal, int]:
    """Delete one run. Returns what is left of it, and how many bytes of bodies were freed. Raises
    `NotAllowed` where it owes results, unless `force`."""
    removed = store.forget_run(run.id, actor=actor, reason=why, undelivered=force)
    _remove_log(project, run.id)
    return removed, store.sweep_bodies(removed.bodies)[1]


def prune(
    store: RunStore, project: Project, runs: Sequence[RunRecord], *, actor: str, why: str
) -> tuple[list[Removal], int]:
    """Delete them one by one, and then all bodies that nothing refers to. Returns what is left of
    each, and how many bytes were freed."""
    removed: list[Removal] = []
    reason = f"pruned{f': {why}' if why else ''}"
    for run in runs:
        # Meanwhile it may have been opened again, or deleted by somebody else.
        with suppress(NotAllowed, Forgotten):
            removed.append(store.forget_run(run.id, actor=actor, reason=reason))
            _remove_log(project, run.id)
    return removed, store.sweep_bodies()[1]


def of_another(run: RunRecord, caller: ParentRef) -> bool:
    """Whether another session than this one asked for the run."""
    return run.parent is not None and (run.parent.host, run.parent.session) != (caller.host, caller.session)


def _remove_log(project: Project, run_id: str) -> None:
    """What the detached supervisor of a run wrote goes with it."""
    with suppress(OSError):
        project.log_of(run_id).unlink()


def _here_since(run: RunRecord) -> float:
    """Since when there is nothing left of it but to be read here."""
    return run.imported.imported_at if run.imported else run.ended_at or run.created_at
