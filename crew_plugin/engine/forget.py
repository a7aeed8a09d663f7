"""Which ended runs may be deleted: one of them, or those that are too old."""

import time
from collections.abc import Sequence

from crew_plugin.engine.cancel import is_foreign, whose
from crew_plugin.errors import NotAllowed
from crew_plugin.models.records import DeliveryState, Owner, ParentRef, RunRecord
from crew_plugin.models.states import RUN_TERMINAL
from crew_plugin.store.port import RunStore

__all__ = ["deed_of", "may_forget", "overdue"]

_DAY = 86_400.0
_OWED = (DeliveryState.PENDING, DeliveryState.SENT)


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
    """The ended runs beyond the newest `keep`, and those that ended, or were imported, more than `days`
    ago, oldest first. Those that owe results are left out."""
    owing = {delivery.run_id for delivery in store.list_deliveries(states=_OWED)}
    ended = store.list_runs(states=sorted(RUN_TERMINAL), limit=1_000_000)
    before = time.time() - days * _DAY
    return [
        run
        for place, run in enumerate(ended)
        if run.id not in owing and (place >= keep or _here_since(run) < before)
    ][::-1]


def _here_since(run: RunRecord) -> float:
    """Since when there is nothing left of it but to be read here."""
    return run.imported.imported_at if run.imported else run.ended_at or run.created_at
