"""Deleting ended runs: which of them may be deleted, one or those that are too old, and doing it.

Needs a store of its own and no event loop: a run goes in one transaction, its bodies in a later one.
"""

import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass

from crew_plugin.engine.cancel import is_foreign, whose
from crew_plugin.errors import Forgotten, NotAllowed
from crew_plugin.models.records import Owner, ParentRef, RunRecord
from crew_plugin.models.removal import Details, Removal, Thinned
from crew_plugin.models.states import RUN_TERMINAL
from crew_plugin.observe.owed import OWED
from crew_plugin.project import Project
from crew_plugin.store.port import RunStore

__all__ = ["Thinning", "deed_of", "forget", "may_forget", "of_another", "overdue", "prune", "thinnings"]

_DAY = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Thinning:
    """Of an ended run that stays, what its results do not need is to go."""

    run: RunRecord
    details: Details
    because: str
    events: bool
    """With the events that say how things went."""

    @property
    def size(self) -> int:
        """Bytes of its bodies that go."""
        return sum(ref.size for ref in self.details.artifacts)


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


def deed_of(store: RunStore, runs: Sequence[RunRecord], thin: Sequence[Thinning] = ()) -> str:
    """What would be done, to be confirmed; empty where there is nothing to do."""
    deeds: list[str] = []
    if runs:
        refs = [ref for run in runs for ref in store.list_artifacts(run.id) if ref.removed is None]
        size = sum({ref.sha256: ref.size for ref in refs}.values())
        what = f"run {runs[0].id}" if len(runs) == 1 else f"{len(runs):,} ended runs"
        deeds.append(f"delete {what} for good, with {len(refs):,} artifacts ({size / 1e6:,.1f} MB)")
    if thin:
        size = sum(each.size for each in thin)
        which = f"run {thin[0].run.id}" if len(thin) == 1 else f"{len(thin):,} ended runs"
        deeds.append(f"delete the details of {which} ({size / 1e6:,.1f} MB); results stay")
    return ", and ".join(deeds)


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


def thinnings(
    store: RunStore,
    *,
    days: float,
    megabytes: float,
    beside: Collection[str],
    caller: ParentRef | None = None,
    force: bool = True,
) -> list[Thinning]:
    """What goes of the ended runs that stay, oldest first: details of those that ended more than `days`
    ago, and bodies of the oldest where all of them have more than so many `megabytes`. Runs in `beside`
    are left out, and without `force` those that another session than `caller` asked for."""
    before = time.time() - days * _DAY
    found: list[Thinning] = []
    left = megabytes * 1e6
    for run in store.list_runs(states=sorted(RUN_TERMINAL), limit=1_000_000):
        if run.id in beside:
            continue
        details = store.details(run.id)
        left -= sum(ref.size for ref in details.artifacts)
        if not force and caller is not None and of_another(run, caller):
            continue
        old = _here_since(run) < before
        if old and (details.events or details.artifacts):
            because = f"details are kept for {days:g} days after the end of a run"
            found.append(Thinning(run=run, details=details, because=because, events=True))
        elif left < 0 and details.artifacts:
            because = f"{megabytes:g} MB of details are kept of all ended runs"
            found.append(Thinning(run=run, details=details, because=because, events=False))
    return found[::-1]


def forget(
    store: RunStore, project: Project, run: RunRecord, *, actor: str, why: str, force: bool
) -> tuple[Removal, int]:
    """Delete one run. Returns what is left of it, and how many bytes of bodies were freed. Raises
    `NotAllowed` where it owes results, unless `force`."""
    removed = store.forget_run(run.id, actor=actor, reason=why, undelivered=force)
    _remove_log(project, run.id)
    return removed, store.sweep_bodies(removed.bodies)[1]


def prune(
    store: RunStore,
    project: Project,
    runs: Sequence[RunRecord],
    thin: Sequence[Thinning],
    *,
    actor: str,
    why: str,
) -> tuple[list[Removal], list[Thinned], int]:
    """Delete `runs` one by one, the details of others, and then all bodies that nothing refers to.
    Returns what is left of each, what went of the others, and how many bytes were freed."""
    removed: list[Removal] = []
    thinned: list[Thinned] = []
    said = f": {why}" if why else ""
    for run in runs:
        # Meanwhile it may have been opened again, or deleted by somebody else.
        with suppress(NotAllowed, Forgotten):
            removed.append(store.forget_run(run.id, actor=actor, reason=f"pruned{said}"))
            _remove_log(project, run.id)
    for each in thin:
        with suppress(NotAllowed, Forgotten):
            because = f"{each.because}{said}"
            thinned.append(store.thin_run(each.run.id, actor=actor, because=because, events=each.events))
    return removed, thinned, store.sweep_bodies()[1]


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
