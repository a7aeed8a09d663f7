"""What background runs owe their parent, and what of it is due.

The background runs that were asked for in one turn of a parent are a group, a run alone too. How the
results of a group are joined is a setting: each at once (`off`), all together (`group`), or what is there
after a while and then the rest (`smart`). Nothing waits longer than `longest_seconds` for a straggler.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from crew_plugin.models.records import DeliveryRecord, DeliveryState, ParentRef, RunRecord
from crew_plugin.models.states import RUN_TERMINAL, TASK_TERMINAL
from crew_plugin.store.liveness import owner_alive
from crew_plugin.store.port import RunStore

if TYPE_CHECKING:
    from crew_plugin.config.settings import Settings

__all__ = ["OWED", "Group", "JoinPolicy", "group_of", "join_policy"]

OWED: Final = (DeliveryState.PENDING, DeliveryState.SENT)
"""Where a delivery stands that its parent has not got yet, as far as is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinPolicy:
    """How results of a group reach their parent."""

    how: Literal["off", "group", "smart"]
    first_seconds: float
    """How long the first results wait for the others (`smart`)."""
    longest_seconds: float
    """How long any result waits for others."""


def join_policy(settings: "Settings") -> JoinPolicy:
    """What the settings say."""
    return JoinPolicy(
        how=settings.delivery.join,
        first_seconds=settings.delivery.first_seconds,
        longest_seconds=settings.delivery.longest_seconds,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The background runs of one turn that owe something, or go on."""

    parent: ParentRef
    runs: tuple[RunRecord, ...]
    """All runs of the group, oldest first."""
    due: tuple[DeliveryRecord, ...]
    """What is to be handed over now, as one message."""
    held: tuple[DeliveryRecord, ...]
    """What waits for others."""
    until: float | None
    """When the first of what waits is handed over at the latest, in seconds of the epoch; None where
    nothing does, or what does is not complete itself."""

    @property
    def open(self) -> tuple[RunRecord, ...]:
        """The runs that have not ended."""
        return tuple(run for run in self.runs if run.state not in RUN_TERMINAL)

    @property
    def sent(self) -> frozenset[str]:
        """The parcels of messages whose fate is not known yet."""
        return frozenset(row.parcel or row.id for row in self.due if row.state is DeliveryState.SENT)


def group_of(store: RunStore, run_id: str, policy: JoinPolicy, *, now: float) -> Group | None:
    """What the group of this run owes at this time (seconds of the epoch); None where it owes nothing."""
    runs = tuple(store.list_group(run_id))
    rows = {run.id: store.list_deliveries(run_id=run.id) for run in runs}
    owed = [row for of_run in rows.values() for row in of_run if row.state in OWED]
    if not owed:
        return None
    ended = {run.id: _ended(store, run, rows[run.id]) for run in runs}
    whole = [each.row for run in runs for each in ended[run.id]]
    over = all(run.state in RUN_TERMINAL for run in runs)
    # What was handed over before and got lost has waited already.
    again = any(row.state is DeliveryState.SENT for row in whole)
    first = all(row.state is DeliveryState.PENDING for of_run in rows.values() for row in of_run)
    waits = [(whole, policy.longest_seconds)]
    if policy.how == "smart" and first:
        # What others of a run build on is no news to the parent before they are done.
        fresh = [each.row for run in runs for each in ended[run.id] if not each.used]
        waits.append((fresh, policy.first_seconds))
    ends = [(min(row.created_at for row in some) + wait, some) for some, wait in waits if some]
    due = whole if over or again or policy.how == "off" else []
    for until, some in ends:
        due = due or (some if until <= now else [])
    named = {row.id for row in due}
    return Group(
        parent=owed[0].parent,
        runs=runs,
        due=tuple(due),
        held=tuple(row for row in owed if row.id not in named),
        until=None if due or not ends else min(until for until, _ in ends),
    )


@dataclass(frozen=True, slots=True)
class _Ended:
    """What is owed and would not change any more."""

    row: DeliveryRecord
    used: bool
    """Whether tasks of its run that go on build on it."""


def _ended(store: RunStore, run: RunRecord, rows: Sequence[DeliveryRecord]) -> list[_Ended]:
    owed = [row for row in rows if row.state in OWED]
    if run.state in RUN_TERMINAL or not owed:
        return [_Ended(row, used=False) for row in owed]
    tasks = store.load_tasks(run.id)
    active = [task for task in tasks if task.state not in TASK_TERMINAL]
    if not active and run.owner is not None and owner_alive(run.owner):
        return []  # the run itself is just about to end
    over = {task.id: task.key for task in tasks if task.state in TASK_TERMINAL}
    used = {key for task in active for key in task.depends_on}
    return [_Ended(row, used=over[row.task_id] in used) for row in owed if row.task_id in over]
