"""Which ended runs may be deleted: one of them, or those that are too old."""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from crew_plugin.engine.cancel import is_foreign, whose
from crew_plugin.errors import NotAllowed
from crew_plugin.models.records import DeliveryState, Details, Owner, ParentRef, RunRecord
from crew_plugin.models.states import RUN_TERMINAL
from crew_plugin.store.port import RunStore

__all__ = ["Thinning", "deed_of", "may_forget", "overdue", "thinnings"]

_DAY = 86_400.0
_OWED = (DeliveryState.PENDING, DeliveryState.SENT)


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
    """The run that is to be deleted. Raises `NotAllowed` where it has not ended, where it belongs to
    somebody else, or where results of it are owed; only the last two can be forced."""
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


def overdue(store: RunStore, *, days: float, keep: int) -> list[RunRecord]:
    """The ended runs beyond the newest `keep`, and those that ended more than `days` ago, oldest
    first. Those that owe results are left out."""
    owing = {delivery.run_id for delivery in store.list_deliveries(states=_OWED)}
    ended = store.list_runs(states=sorted(RUN_TERMINAL), limit=1_000_000)
    before = time.time() - days * _DAY
    return [
        run
        for place, run in enumerate(ended)
        if run.id not in owing and (place >= keep or (run.ended_at or run.created_at) < before)
    ][::-1]


def thinnings(store: RunStore, *, days: float, megabytes: float, beside: Collection[str]) -> list[Thinning]:
    """What goes of the ended runs that stay, oldest first: details of those that ended more than `days`
    ago, and bodies of the oldest where all of them have more than so many `megabytes`. Runs in `beside`
    are left out."""
    before = time.time() - days * _DAY
    found: list[Thinning] = []
    left = megabytes * 1e6
    for run in store.list_runs(states=sorted(RUN_TERMINAL), limit=1_000_000):
        if run.id in beside:
            continue
        details = store.details(run.id)
        left -= sum(ref.size for ref in details.artifacts)
        old = (run.ended_at or run.created_at) < before
        if old and (details.events or details.artifacts):
            because = f"details are kept for {days:g} days after the end of a run"
            found.append(Thinning(run=run, details=details, because=because, events=True))
        elif left < 0 and details.artifacts:
            because = f"{megabytes:g} MB of details are kept of all ended runs"
            found.append(Thinning(run=run, details=details, because=because, events=False))
    return found[::-1]
